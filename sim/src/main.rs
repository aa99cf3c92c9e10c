//! `skein-sim`: the engine that ships, in a world of discrete events.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

#[cfg(feature = "chitchat")]
mod entropy;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};
#[cfg(feature = "chitchat")]
use skein_sim::chitchat;
use skein_sim::{
    campaign::{Agree, Campaign, Tally, each_seed},
    measure::{Figures, Measure},
    plan::Plan,
    plot,
    profile::Profile,
    report, run, shrink, story, table,
    world::{Options, Weather, World},
};

#[derive(Clone, Copy, ValueEnum, Debug)]
enum Mode {
    /// Discrete events, the engine alone: any size.
    World,
    /// The engine and the real chitchat on a clock that stands still: up to 100 nodes.
    #[cfg(feature = "chitchat")]
    Chitchat,
}

/// The skein engine in a world of discrete events: one seed, one trace.
#[derive(Parser, Debug)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    one: One,
}

/// One mesh on a quiet day: how long things take, and the hash of all frames.
#[derive(clap::Args, Debug)]
struct One {
    /// Everything random comes from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Nodes of the mesh.
    #[arg(long, default_value_t = 100, value_parser = size)]
    nodes: usize,
    /// Share of packets lost, in percent.
    #[arg(long, default_value_t = 5.0, value_parser = percent)]
    loss: f64,
    /// One-way delay, from, in milliseconds.
    #[arg(long, default_value_t = 1)]
    delay_from: u64,
    /// One-way delay, to, in milliseconds.
    #[arg(long, default_value_t = 20)]
    delay_to: u64,
    /// What runs.
    #[arg(long, value_enum, default_value_t = Mode::World)]
    mode: Mode,
    /// In the chitchat mode: an admitted node attacks all others' gossip.
    #[arg(long)]
    attack: bool,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Many seeds, each with its own faults, adversaries and work; every check after every event.
    Campaign {
        /// How many seeds.
        #[arg(long, default_value_t = 1000)]
        seeds: u64,
        /// The first of them.
        #[arg(long, default_value_t = 1)]
        first: u64,
        /// Begin no seed after so many seconds.
        #[arg(long)]
        seconds: Option<u64>,
        /// Threads; by default as many as cores.
        #[arg(long)]
        threads: Option<usize>,
    },
    /// How long things take at each size and loss: median, p99 and worst over several seeds.
    Measure {
        /// Nodes; several sizes with commas between.
        #[arg(long, default_values_t = [100], value_delimiter = ',', value_parser = size)]
        nodes: Vec<usize>,
        /// Seeds.
        #[arg(long, default_value_t = 5)]
        seeds: u64,
        /// Share of packets lost, in percent; several with commas between.
        #[arg(long, default_values_t = [1.0], value_delimiter = ',', value_parser = percent)]
        loss: Vec<f64>,
        /// Nodes live in five regions of three continents.
        #[arg(long)]
        wan: bool,
        /// Updates, crashes and leaves of each seed.
        #[arg(long, default_value_t = 10)]
        samples: usize,
        /// Seconds of rest with slow members.
        #[arg(long, default_value_t = 0)]
        calm: u64,
        /// Draw into this SVG file: of one size and loss how long things take, of more how each
        /// figure grows with them.
        #[arg(long)]
        svg: Option<PathBuf>,
        /// Print what others publish of theirs beside it.
        #[arg(long)]
        compare: bool,
    },
    /// The cases of the design, and what shows each: tests, and seeds of the campaign.
    Cases {
        /// Seeds that are run.
        #[arg(long, default_value_t = 200)]
        seeds: u64,
    },
    /// One seed of the campaign with chitchat beside the engines and without: both must hold, and
    /// agree on what converges.
    #[cfg(feature = "chitchat")]
    Agree {
        /// The seed.
        seed: u64,
        /// Let the run with chitchat end otherwise on purpose: to see that it is told.
        #[arg(long)]
        unlike: bool,
    },
    /// What one engine of a large mesh costs, at rest and with one change a second.
    Profile {
        /// Nodes.
        #[arg(long, default_value_t = 1000, value_parser = size)]
        nodes: usize,
        /// Everything random comes from it.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Seconds of the world, of each.
        #[arg(long, default_value_t = 20)]
        seconds: u64,
    },
    /// The engine with one deliberate fault at a time: which check finds it, after how many seeds.
    #[cfg(feature = "planted")]
    Planted {
        /// Seeds within which each has to be found.
        #[arg(long, default_value_t = 300)]
        within: u64,
    },
    /// One seed of the campaign: its plan, and if it breaks something the shortest such plan.
    Replay {
        /// The seed.
        seed: u64,
        /// Lines of the story that are printed.
        #[arg(long, default_value_t = 80)]
        lines: usize,
        /// Do not look for a shorter plan.
        #[arg(long)]
        whole: bool,
    },
}

/// Three nodes are seeds, which never crash or leave, and somebody has to see it of the others.
const SIZES: std::ops::RangeInclusive<usize> = 5..=10_000;
/// Beyond this hardly anything arrives, and at 100 nothing.
const MOST_LOST: f64 = 90.0;

fn size(text: &str) -> Result<usize, String> {
    let nodes = text.parse().map_err(|error| format!("{error}"))?;
    let (least, most) = (SIZES.start(), SIZES.end());
    SIZES
        .contains(&nodes)
        .then_some(nodes)
        .ok_or_else(|| format!("a mesh here has {least} to {most} nodes"))
}

fn percent(text: &str) -> Result<f64, String> {
    let percent = text.parse().map_err(|error| format!("{error}"))?;
    (0.0..=MOST_LOST)
        .contains(&percent)
        .then_some(percent)
        .ok_or_else(|| format!("the share of packets lost is 0 to {MOST_LOST} percent"))
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    match arguments.command {
        None => one(&arguments.one),
        Some(Command::Campaign { seeds, first, seconds, threads }) => {
            let threads = threads.unwrap_or_else(cores);
            let limit = seconds.map(Duration::from_secs);
            campaign(&Campaign { first, seeds, threads, limit, twice: 100, agree_every: 20 })
        }
        #[cfg(feature = "planted")]
        Some(Command::Planted { within }) => planted(within),
        Some(Command::Measure { mut nodes, seeds, loss, wan, samples, calm, svg, compare }) => {
            nodes.sort_unstable();
            let of = |loss, nodes| Measure { nodes, loss: loss / 100.0, wan, samples, calm };
            let each = |loss: &f64| nodes.iter().map(move |nodes| of(*loss, *nodes)).collect();
            let lines: Vec<Vec<Measure>> = loss.iter().map(each).collect();
            let code = measured(&lines, seeds, svg.as_deref())?;
            if compare {
                print!("{}", report::PUBLISHED);
            }
            Ok(code)
        }
        Some(Command::Cases { seeds }) => {
            let (text, holds) = table::table(seeds, cores())?;
            print!("{text}");
            Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        Some(Command::Profile { nodes, seed, seconds }) => {
            print!("{}", Profile { seed, nodes, seconds }.run()?);
            Ok(ExitCode::SUCCESS)
        }
        #[cfg(feature = "chitchat")]
        Some(Command::Agree { seed, unlike }) => agree(seed, unlike),
        Some(Command::Replay { seed, lines, whole }) => replay(seed, lines, whole),
    }
}

fn one(arguments: &One) -> Result<ExitCode> {
    let options = Options {
        seed: arguments.seed,
        nodes: arguments.nodes,
        weather: Weather {
            loss: arguments.loss / 100.0,
            delay: (arguments.delay_from, arguments.delay_to.max(arguments.delay_from)),
            ..Weather::default()
        },
        ..Options::default()
    };
    #[cfg(feature = "chitchat")]
    if let Mode::Chitchat = arguments.mode {
        entropy::seed(options.seed);
        chitchat::run(options, arguments.attack)?;
        println!("entropy drawn from the seed {} times", entropy::asked());
        return Ok(ExitCode::SUCCESS);
    }
    println!("{options:?}");
    let nodes = options.nodes;
    let mut world = World::new(options)?;
    world.start_all();
    tell("one view", world.run_until(120_000, |w| w.full_and_equal()));
    world.run_to(world.now + 10_000);
    let (frames, bytes) = world.sent;
    world.run_to(world.now + 30_000);
    let seconds = nodes as f64 * 30.0;
    println!(
        "idle: {:.1} frames and {:.0} bytes a second and node",
        (world.sent.0 - frames) as f64 / seconds,
        (world.sent.1 - bytes) as f64 / seconds
    );
    let links: Vec<usize> = (0..nodes).map(|node| world.links(node)).collect();
    println!(
        "control links of a node: {:.1} on average, {} at most",
        links.iter().sum::<usize>() as f64 / nodes as f64,
        links.iter().max().unwrap_or(&0)
    );
    let before = world.said(nodes / 2);
    world.say(nodes / 2, |local| {
        local.instances.0.iter_mut().for_each(|instance| instance.weight = 77);
    });
    let everywhere = world.run_until(60_000, |w| w.told_everywhere(nodes / 2, before));
    tell("an update everywhere", everywhere);
    world.crash(nodes - 1);
    tell("a crash known everywhere", world.run_until(60_000, |w| w.dead_everywhere(nodes - 1)));
    println!("trace {}", world.trace_hash());
    Ok(ExitCode::SUCCESS)
}

#[cfg(feature = "chitchat")]
const AGREE: Option<&Agree> = Some(&agree_apart);
#[cfg(not(feature = "chitchat"))]
const AGREE: Option<&Agree> = None;

/// [`agree`] in a process of its own: what answers for the C library's entropy belongs to the
/// process.
#[cfg(feature = "chitchat")]
fn agree_apart(seed: u64) -> Result<Option<String>> {
    // Not by its path, which may name another binary by now.
    let mut command = std::process::Command::new("/proc/self/exe");
    let output = command.arg("agree").arg(seed.to_string()).output()?;
    let said = [&*output.stdout, &*output.stderr].concat();
    let said = (!output.status.success()).then(|| String::from_utf8_lossy(&said).into_owned());
    Ok(said)
}

#[cfg(feature = "chitchat")]
fn agree(seed: u64, unlike: bool) -> Result<ExitCode> {
    entropy::seed(seed);
    let plan = Plan::of(seed);
    println!("{plan}");
    let other = if unlike { chitchat::unlike(&plan) } else { plan.clone() };
    let (world, chitchat, differences) = chitchat::compare(&plan, &other)?;
    for (mode, ended) in [("world", &world), ("chitchat", &chitchat)] {
        match &ended.violation {
            Some(violation) => println!("{mode}: {violation}"),
            None => println!("{mode}: holds, {} bytes of gossip", ended.gossiped),
        }
    }
    differences.iter().for_each(|difference| println!("{difference}"));
    println!("{} of {} beliefs differ", differences.len(), world.views.len());
    println!("traces {} and {}", world.trace, chitchat.trace);
    let holds = world.violation.is_none() && chitchat.violation.is_none();
    let agree = differences.is_empty() && !world.views.is_empty();
    Ok(if holds && agree { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn tell(what: &str, took: Option<u64>) {
    match took {
        Some(ms) => println!("{what}: {ms} ms"),
        None => println!("{what}: not within the time"),
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Measures line by line, each a loss, and in each size by size.
fn measured(lines: &[Vec<Measure>], seeds: u64, svg: Option<&Path>) -> Result<ExitCode> {
    let mut found = Vec::new();
    for measures in lines {
        let figures: Vec<Figures> =
            measures.iter().map(|measure| take(measure, seeds)).collect::<Result<_>>()?;
        found.push(figures);
    }
    println!("{}", report::NOT_MODELLED);
    if let Some(svg) = svg {
        let drawn = draw(lines, &found, seeds)?;
        std::fs::write(svg, drawn).with_context(|| svg.display().to_string())?;
        println!("drawn: {}", svg.display());
    }
    let missed = found.iter().flatten().any(|figures| figures.missed > 0);
    Ok(if missed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn take(measure: &Measure, seeds: u64) -> Result<Figures> {
    println!("{measure:?}, seeds 1 to {seeds}");
    let all = std::sync::Mutex::new(Figures::default());
    each_seed(1, seeds, cores(), None, |seed| {
        let figures = measure.run(seed)?;
        if let Ok(mut all) = all.lock() {
            all.add(figures);
            eprint!("with seed {seed}:\n{}", all.table());
        }
        Ok(())
    })?;
    let all = all.into_inner().ok().context("a thread panicked")?;
    println!("{}", all.table());
    Ok(all)
}

fn draw(lines: &[Vec<Measure>], found: &[Vec<Figures>], seeds: u64) -> Result<String> {
    if let ([measures], [figures]) = (lines, found)
        && let ([measure], [figures]) = (&**measures, &**figures)
    {
        let title = format!("{} nodes, {seeds} seeds, loss {}", measure.nodes, measure.loss);
        return plot::shares(&title, &figures.samples());
    }
    let lines = lines.iter().zip(found).map(|(measures, figures)| {
        let loss = measures.first().map_or(0.0, |measure| measure.loss * 100.0);
        let sizes = measures.iter().map(|measure| measure.nodes);
        plot::Line { name: format!("{loss} % lost"), places: sizes.zip(figures).collect() }
    });
    let title = format!("median, and a bar to the worst, over {seeds} seeds");
    plot::growth(&title, &lines.collect::<Vec<_>>())
}

fn campaign(campaign: &Campaign) -> Result<ExitCode> {
    println!("{campaign:?}");
    let start = std::time::Instant::now();
    let progress = |tally: &Tally| {
        if tally.seeds.is_multiple_of(50) {
            eprintln!(
                "{:>6} seeds, {:.0} node-hours, {} broken, {} s",
                tally.seeds,
                tally.node_ms as f64 / 3.6e6,
                tally.broken.len(),
                start.elapsed().as_secs()
            );
        }
    };
    let tally = campaign.run(AGREE, progress)?;
    print!("{}", report::tally(&tally, start.elapsed()));
    Ok(if tally.holds() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn replay(seed: u64, lines: usize, whole: bool) -> Result<ExitCode> {
    let mut plan = Plan::of(seed);
    println!("{plan}");
    let outcomes = run::run(&plan)?;
    let Some(violation) = outcomes.violation else {
        println!("holds: {outcomes:?}");
        return Ok(ExitCode::SUCCESS);
    };
    println!("{violation}");
    if !whole {
        let (shorter, runs) = shrink::shrink(&plan, violation.check)?;
        println!("shortest plan found in {runs} runs:\n{shorter}");
        plan = shorter;
    }
    print!("{}", story::schedule(&plan.schedule));
    let mut run = run::Run::new(&plan)?;
    run.act(&plan)?;
    run.end(&plan);
    println!("{}", story::tell(&run, lines));
    Ok(ExitCode::FAILURE)
}

#[cfg(feature = "planted")]
fn planted(within: u64) -> Result<ExitCode> {
    use skein_protocol::planted::{Planted, plant};
    let mut missed = 0;
    println!("{:<18} {:>6}  {:<6} what was seen", "fault", "seeds", "check");
    for fault in Planted::ALL {
        plant(Some(fault));
        let mut found = None;
        for seed in 1..=within {
            if let Some(violation) = run::run(&Plan::of(seed))?.violation {
                found = Some((seed, violation));
                break;
            }
        }
        let name = format!("{fault:?}");
        match found {
            Some((seed, violation)) => {
                let check = format!("{:?}", violation.check);
                println!("{name:<18} {seed:>6}  {check:<6} {}", violation.what);
            }
            None => {
                missed += 1;
                println!("{name:<18} {within:>6}  -      not found");
            }
        }
    }
    plant(None);
    println!("{} of {} found", Planted::ALL.len() - missed, Planted::ALL.len());
    Ok(if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_shares_that_no_world_ends_with_are_refused() {
        for refused in ["0", "4", "10001", "-1", "many"] {
            assert!(size(refused).is_err(), "{refused}");
        }
        for refused in ["-1", "91", "100", "NaN", "inf", "half"] {
            assert!(percent(refused).is_err(), "{refused}");
        }
        assert_eq!((size("5"), percent("12.5")), (Ok(5), Ok(12.5)));
    }
}
