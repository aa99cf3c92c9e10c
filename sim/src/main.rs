//! `skein-sim`: runs one seed and says what happened, with the hash by which to compare.

mod entropy;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use skein_sim::{
    chitchat,
    world::{Options, World},
};

#[derive(Clone, Copy, ValueEnum, Debug)]
enum Mode {
    /// Discrete events, the engine alone: any size.
    World,
    /// The engine and the real chitchat on a clock that stands still: up to 100 nodes.
    Chitchat,
}

/// The skein engine in a world of discrete events: one seed, one trace.
#[derive(Parser, Debug)]
struct Arguments {
    /// Everything random comes from it.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Nodes of the mesh.
    #[arg(long, default_value_t = 100)]
    nodes: usize,
    /// Share of packets lost, in percent.
    #[arg(long, default_value_t = 5.0)]
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

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Mode::Chitchat = arguments.mode {
        return chitchat_mode(&arguments);
    }
    let options = Options {
        seed: arguments.seed,
        nodes: arguments.nodes,
        loss: arguments.loss / 100.0,
        delay: (arguments.delay_from, arguments.delay_to.max(arguments.delay_from)),
        seeds: 3,
    };
    println!("{options:?}");
    let nodes = options.nodes;
    let mut world = World::new(options)?;
    world.start_all();
    report("one view", world.run_until(120_000, |w| w.full_and_equal()));
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
    report("an update everywhere", everywhere);
    world.crash(nodes - 1);
    report("a crash known everywhere", world.run_until(60_000, |w| w.dead_everywhere(nodes - 1)));
    println!("trace {}", world.trace_hash());
    Ok(())
}

fn chitchat_mode(arguments: &Arguments) -> Result<()> {
    entropy::seed(arguments.seed);
    chitchat::run(chitchat::Options {
        seed: arguments.seed,
        nodes: arguments.nodes,
        loss: arguments.loss / 100.0,
        delay: (arguments.delay_from, arguments.delay_to.max(arguments.delay_from)),
        seeds: 3,
        attack: arguments.attack,
    })?;
    println!("entropy drawn from the seed {} times", entropy::asked());
    Ok(())
}

fn report(what: &str, took: Option<u64>) {
    match took {
        Some(ms) => println!("{what}: {ms} ms"),
        None => println!("{what}: not within the time"),
    }
}
