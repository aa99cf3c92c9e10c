//! `skein-compare`: as many skein agents and Serf members side by side on this machine, measured
//! in the same runs, and one table of what came of it. `.ci/compare` builds and runs it.
//!
//! Both meshes run at the same time, in a network of their own, each member on its own loopback
//! address. Every member is asked over one open connection every 20 ms while something is timed,
//! and not at all while it idles. A step that does not come to its end is a failure of the whole.

mod http;
mod member;
mod process;
mod report;
mod room;
mod rpc;
mod serf;
mod skein;
mod wire;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::{Parser, ValueEnum};
use serde_json::json;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{sleep, timeout},
};

use crate::{
    member::{Errand, Fact, Observer, Side, State, all_show},
    report::{Of, Report},
    serf::Serf,
    skein::Skein,
};

/// Compares skein agents with Serf members on this machine: join, change, crash, leave, and what
/// both cost while nothing happens.
#[derive(Parser, Debug)]
#[command(name = "skein-compare")]
struct Args {
    /// Members on each side before each run
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u8).range(3..=100))]
    members: u8,
    /// How often everything is measured
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u8).range(1..=13))]
    runs: u8,
    /// Seconds of idling that are measured in each run
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u16).range(5..=600))]
    idle: u16,
    /// What is printed at the end
    #[arg(short, long, value_enum, default_value_t = Format::Table)]
    output: Format,
    /// The skein to measure [default: the one beside this program]
    #[arg(long, env = "SKEIN_BIN", value_name = "FILE")]
    skein: Option<PathBuf>,
    /// The Serf to measure
    #[arg(long, env = "SERF_BIN", value_name = "FILE", default_value = "serf")]
    serf: PathBuf,
    /// Leave the folder with keys, documents and logs there
    #[arg(long)]
    keep: bool,
    /// Said by this program to itself
    #[arg(long, hide = true, value_name = "FOLDER")]
    inside: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
enum Format {
    Table,
    Json,
}

/// Members that a run uses up on each side: one leaves, one crashes.
const PER_RUN: u8 = 2;
/// Loopback addresses that a side has.
const ADDRESSES: u8 = 127;
/// From the last start to the first idle figure: links of the first seconds that are no longer
/// wanted are closed by then.
const SETTLE: Duration = Duration::from_secs(60);
/// Between two steps: what the last one stirred up is over.
const PAUSE: Duration = Duration::from_secs(3);

const _: () = assert!(100 + 13 * PER_RUN <= ADDRESSES);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode> {
    let args = Args::parse();
    let Some(folder) = args.inside.clone() else {
        return room::run_inside(args.keep).await;
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        biased;
        _ = terminate.recv() => bail!("interrupted"),
        _ = interrupt.recv() => bail!("interrupted"),
        result = compare(&args, &folder) => result?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn compare(args: &Args, folder: &Path) -> Result<()> {
    room::furnish().await?;
    wire::begin().await?;
    let (before, began) = (load()?, Instant::now());
    let mut bench = Bench::open(args, folder, began).await?;
    if let Err(error) = bench.measure(args).await {
        let title = "What was measured before a step failed; it is no result.";
        eprintln!("{}", bench.report.table(title));
        return Err(error);
    }
    let took = began.elapsed().as_secs();
    let (members, runs, after) = (args.members, args.runs, load()?);
    match args.output {
        Format::Table => {
            let title = format!(
                "{members} members each, {runs} runs, both meshes at the same time, in {took} s.\n\
                 Load of the machine by the minute, before and after: {before}, {after}.\n\
                 While something is timed each member is asked every {} ms: that, and one answer, \
                 is what\na time may be too long by. Bytes are those of IP packets, counted where \
                 they are sent.",
                member::EVERY.as_millis()
            );
            print!("{}", bench.report.table(&title));
        }
        Format::Json => println!(
            "{}",
            json!({
                "members": members,
                "runs": runs,
                "seconds": took,
                "load_before": before,
                "load_after": after,
                "asked_every_ms": member::EVERY.as_millis(),
                "rows": bench.report.json(),
            })
        ),
    }
    Ok(())
}

/// Both meshes, and what was measured so far.
struct Bench {
    skein: Skein,
    serf: Serf,
    members: usize,
    report: Report,
    began: Instant,
}

impl Bench {
    async fn open(args: &Args, folder: &Path, began: Instant) -> Result<Self> {
        let binary = match &args.skein {
            Some(binary) => binary.clone(),
            None => std::env::current_exe()?.with_file_name("skein"),
        };
        if !binary.is_file() {
            bail!(
                "no {}: `cargo build --release` makes it, or name one with --skein",
                binary.display()
            );
        }
        let hosts = args.members + args.runs * PER_RUN;
        let skein = Skein::new(binary, folder, hosts.into()).await?;
        let serf = Serf::new(args.serf.clone(), folder).await?;
        let (members, report) = (args.members.into(), Report::default());
        let mut bench = Self { skein, serf, members, report, began };
        bench.say(&format!("{members} skein agents are admitted and start"));
        form(&mut bench.skein, members).await?;
        bench.say(&format!("{members} Serf members start"));
        form(&mut bench.serf, members).await?;
        bench.say(&format!("both meshes are whole; {} s of rest", SETTLE.as_secs()));
        sleep(SETTLE).await;
        Ok(bench)
    }

    async fn measure(&mut self, args: &Args) -> Result<()> {
        for run in 1..=args.runs {
            self.say(&format!("idle, {run} of {}: {} s", args.runs, args.idle));
            self.idle(Duration::from_secs(args.idle.into())).await?;
        }
        self.standing().await?;
        for run in 1..=args.runs {
            self.say(&format!("steps, {run} of {}", args.runs));
            self.run(run).await?;
        }
        Ok(())
    }

    fn say(&self, what: &str) {
        eprintln!("{:6.1} s  {what}", self.began.elapsed().as_secs_f64());
    }

    /// What a member costs while nobody asks it anything.
    async fn idle(&mut self, window: Duration) -> Result<()> {
        let (cpu, sent, start) = (self.cpu()?, wire::sent().await?, Instant::now());
        sleep(window).await;
        let (cpu_after, sent_after) = (self.cpu()?, wire::sent().await?);
        let each = self.share(start.elapsed());
        for (of, before, after) in [(Of::Skein, cpu.0, cpu_after.0), (Of::Serf, cpu.1, cpu_after.1)]
        {
            let used = after.saturating_sub(before).as_secs_f64() * 1_000.0;
            self.report.add("idle: CPU, a member and second", "ms", of, used / each);
        }
        for (of, before, after) in
            [(Of::Skein, sent.skein, sent_after.skein), (Of::Serf, sent.serf, sent_after.serf)]
        {
            let packets = count(after.packets - before.packets) / each;
            let bytes = count(after.bytes - before.bytes) / each;
            self.report.add("idle: sent, a member and second", "bytes", of, bytes);
            self.report.add("idle: sent, a member and second", "packets", of, packets);
        }
        // Kept-alive connections of ours to Serf's RPC, 8 a second of 50 members, and no more: what
        // exceeds that went past both counters, and both lines above tell too little.
        let other = count(sent_after.other.packets - sent.other.packets);
        let seconds = start.elapsed().as_secs_f64();
        self.report.add(
            "idle: sent by neither mesh, a second",
            "packets",
            Of::Skein,
            other / seconds,
        );
        Ok(())
    }

    /// Members times seconds.
    fn share(&self, window: Duration) -> f64 {
        window.as_secs_f64() * count(self.members)
    }

    fn cpu(&mut self) -> Result<(Duration, Duration)> {
        Ok((cpu(&mut self.skein)?, cpu(&mut self.serf)?))
    }

    /// What a member holds: memory and links.
    async fn standing(&mut self) -> Result<()> {
        let memory = [(Of::Skein, memory(&mut self.skein)?), (Of::Serf, memory(&mut self.serf)?)];
        for (of, members) in memory {
            for (resident, share) in members {
                self.report.add("memory of a member: resident", "MiB", of, resident / 1_024.0);
                self.report.add("memory of a member: share (PSS)", "MiB", of, share / 1_024.0);
            }
        }
        for links in self.skein.links().await? {
            self.report.add("control links of an agent", "", Of::Skein, count(links));
        }
        Ok(())
    }

    /// Every step once on both sides; who is first changes with the runs.
    async fn run(&mut self, number: u8) -> Result<()> {
        for step in [Step::Join, Step::Change, Step::Leave, Step::Join, Step::Crash] {
            let (members, report) = (self.members, &mut self.report);
            let mut round = Round { number: number.into(), members, report };
            if number % 2 == 1 {
                round.take(step, &mut self.skein, Of::Skein).await.context("skein")?;
                round.take(step, &mut self.serf, Of::Serf).await.context("Serf")?;
            } else {
                round.take(step, &mut self.serf, Of::Serf).await.context("Serf")?;
                round.take(step, &mut self.skein, Of::Skein).await.context("skein")?;
            }
            if step == Step::Change {
                round.file(&mut self.skein).await?;
            }
            sleep(PAUSE).await;
        }
        Ok(())
    }
}

/// What is timed, each from its cause to the moment when the last other member shows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Join,
    Change,
    Leave,
    Crash,
}

/// One run over all steps.
struct Round<'a> {
    number: usize,
    members: usize,
    report: &'a mut Report,
}

impl Round<'_> {
    async fn take<S: Side>(&mut self, step: Step, side: &mut S, of: Of) -> Result<()> {
        match step {
            Step::Join => self.join(side, of).await,
            Step::Change => self.change(side, of).await,
            Step::Leave => self.leave(side, of).await,
            Step::Crash => self.crash(side, of).await,
        }
        .with_context(|| format!("{step:?}"))
    }

    fn add(&mut self, name: &'static str, of: Of, took: Duration) {
        self.report.add(name, "ms", of, took.as_secs_f64() * 1_000.0);
    }

    async fn join<S: Side>(&mut self, side: &mut S, of: Of) -> Result<()> {
        let asked = Instant::now();
        let name = side.prepare().await?;
        let started = Instant::now();
        let member = side.launch(&name)?;
        let fact = Fact::Member { name, state: State::Alive };
        let took = all_show(side.members(), &fact, started).await?;
        self.add("join: start of process to all others", of, took);
        if of == Of::Skein {
            let all = took + started.duration_since(asked);
            self.add("join: its admission and that", of, all);
        }
        side.members().push(member);
        process::answers(side.members(), self.members + 1).await
    }

    async fn change<S: Side>(&mut self, side: &mut S, of: Of) -> Result<()> {
        let place = self.number * 7 % self.members;
        let value = format!("change-{}", self.number);
        let fact = Fact::Change { member: name_of(side, place)?, value: value.clone() };
        let start = Instant::now();
        side.tell(place, &Errand::Change(value))?;
        let took = all_show(side.members(), &fact, start).await?;
        self.add("change: told to a member to all", of, took);
        side.answered().await
    }

    async fn file(&mut self, skein: &mut Skein) -> Result<()> {
        let place = self.number * 11 % self.members;
        let value = format!("file-{}", self.number);
        let fact = Fact::Change { member: name_of(skein, place)?, value: value.clone() };
        let start = Instant::now();
        skein.drop_file(place, &value)?;
        let took = all_show(skein.members(), &fact, start).await.context("skein, a file")?;
        self.add("change: a file dropped to all", Of::Skein, took);
        Ok(())
    }

    async fn leave<S: Side>(&mut self, side: &mut S, of: Of) -> Result<()> {
        let last = side.members().len() - 1;
        let fact = Fact::Member { name: name_of(side, last)?, state: State::Left };
        let start = Instant::now();
        side.tell(last, &Errand::Leave)?;
        let gone = side.members().pop();
        let took = all_show(side.members(), &fact, start).await?;
        self.add("leave: told to go to all others", of, took);
        side.answered().await?;
        if let Some(mut gone) = gone {
            let ended = timeout(member::LIMIT, gone.process.wait()).await;
            ended.with_context(|| format!("{} does not end", gone.name))??;
        }
        self.others_live(side, of).await
    }

    async fn crash<S: Side>(&mut self, side: &mut S, of: Of) -> Result<()> {
        let mut gone = side.members().pop().context("no member")?;
        let name = gone.name.clone();
        let fact = Fact::Member { name, state: State::Dead };
        let start = Instant::now();
        gone.process.kill().await?;
        let took = all_show(side.members(), &fact, start).await?;
        self.add("crash: kill -9 to all others", of, took);
        self.others_live(side, of).await
    }

    /// Counts verdicts that are wrong: a member that runs and is not shown as alive.
    async fn others_live<S: Side>(&mut self, side: &mut S, of: Of) -> Result<()> {
        let mut wrong = 0;
        for member in side.members() {
            let counts = member.observer.counts().await?;
            wrong += self.members.saturating_sub(counts.alive);
        }
        self.report.add("wrong verdicts, after a step", "", of, count(wrong));
        process::answers(side.members(), self.members).await
    }
}

/// Starts members until there are so many, and waits until all know all.
async fn form<S: Side>(side: &mut S, members: usize) -> Result<()> {
    let mut names = Vec::new();
    for _ in side.members().len()..members {
        names.push(side.prepare().await?);
    }
    for name in names {
        let member = side.launch(&name)?;
        side.members().push(member);
        sleep(member::EVERY).await;
    }
    process::answers(side.members(), members).await
}

fn name_of<S: Side>(side: &mut S, place: usize) -> Result<String> {
    Ok(side.members().get(place).context("no such member")?.name.clone())
}

/// CPU time of all members of a side so far.
fn cpu<S: Side>(side: &mut S) -> Result<Duration> {
    side.members().iter().map(|member| process::cpu(process::id(member)?)).sum()
}

/// Memory of each member, in KiB: resident, and its share.
fn memory<S: Side>(side: &mut S) -> Result<Vec<(f64, f64)>> {
    side.members().iter().map(|member| process::memory(process::id(member)?)).collect()
}

/// How many processes wanted a core in the last minute: what else ran on this machine shows here.
fn load() -> Result<String> {
    let all = std::fs::read_to_string("/proc/loadavg")?;
    Ok(all.split_ascii_whitespace().next().unwrap_or_default().to_owned())
}

/// A count as a figure; exact up to 2^32.
fn count(count: impl TryInto<u32>) -> f64 {
    count.try_into().map_or(f64::MAX, f64::from)
}
