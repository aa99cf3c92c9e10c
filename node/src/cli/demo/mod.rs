//! `skein demo`: a whole mesh on this machine, as an ordinary user, and a tour of what it does.
//!
//! Agents are processes of this same program on loopback addresses, with generated files that one
//! can look at. Nothing is left behind: every process is in a group that is killed at the end of
//! the demo, whatever ends it (see [`process`]), and the directory is deleted.

mod load;
pub(crate) mod process;
pub(crate) mod service;
mod stage;
mod tour;

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use self::{
    stage::{Stage, WEB_HERE},
    tour::{Report, Step},
};
use super::{
    Console, Exit,
    exit::CliError,
    output::{Show, clean, millis},
};

/// `skein demo`.
#[derive(Args, Debug)]
pub(super) struct DemoArgs {
    /// How many agents: the last one calls, the others serve
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=9))]
    agents: u8,
    /// Take the tour, print a report, end: exit 0 only if every step held
    #[arg(long)]
    once: bool,
    /// Leave the directory with files and logs there
    #[arg(long)]
    keep: bool,
    /// The program to start agents with, instead of this one
    #[arg(long, hide = true, value_name = "FILE")]
    program: Option<PathBuf>,
}

/// Runs the demo.
pub(super) fn demo(args: &DemoArgs, console: &mut Console<'_>) -> Result<Exit, CliError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| CliError::failed(format!("cannot start: {e}")))?;
    Ok(runtime.block_on(play(args, console))?)
}

async fn play(args: &DemoArgs, console: &mut Console<'_>) -> Result<Exit> {
    let mut dir = tempfile::Builder::new().prefix(PREFIX).tempdir()?;
    dir.disable_cleanup(args.keep);
    let program = match &args.program {
        Some(program) => program.clone(),
        None => std::env::current_exe().context("cannot find this program's own file")?,
    };
    let mut stage = Stage::new(args.agents, program, dir.path())?;
    let people = console.format.is_for_people();
    if people {
        opening(args, &stage, console)?;
    }
    let mut tell = |step: &Step| {
        if people {
            let _ = console.print(&row(step));
        }
    };
    let mut signals = Signals::new()?;
    let report = tokio::select! {
        biased;
        () = signals.any() => {
            console.say("skein: stopped; everything is cleaned up");
            return Ok(Exit::Failed);
        }
        report = tour::tour(&mut stage, &mut tell) => report,
    };
    if !report.ok {
        console.say(&format!("what the agents said last:\n{}", stage.log_tails()));
    }
    closing(&report, console)?;
    if report.ok && !args.once {
        if people {
            console.print(&next(&stage))?;
        }
        let live = live(&stage, console);
        tokio::select! {
            biased;
            () = signals.any() => {}
            result = live => result?,
        }
    }
    Ok(if report.ok { Exit::Done } else { Exit::Failed })
}

fn opening(args: &DemoArgs, stage: &Stage, console: &mut Console<'_>) -> Result<()> {
    let first = stage.node(0)?.ip;
    let last = stage.calling()?;
    let text = format!(
        "{} agents on {first} to {}, files in {}\n\n    {:<14} {:>8}  WHAT HAPPENED",
        args.agents,
        last.ip,
        stage.dir.display(),
        "STEP",
        "TOOK"
    );
    Ok(console.print(&text)?)
}

fn row(step: &Step) -> String {
    let mark = if step.ok { "ok" } else { "!!" };
    let took = millis(step.took_ms);
    format!("{mark}  {:<14} {took:>8}  {}", step.name, clean(&step.detail))
}

/// A report for scripts; for people its last line.
fn closing(report: &Report, console: &mut Console<'_>) -> Result<()> {
    if !console.format.is_for_people() {
        return Ok(console.show(report)?);
    }
    let r = &report.requests;
    let text = format!(
        "\n{} calls through the mesh, {} failed; half within {} us, 99 % within {} us",
        r.sent, r.failed, r.p50_us, r.p99_us
    );
    Ok(console.print(&text)?)
}

/// What one can do while it runs.
fn next(stage: &Stage) -> String {
    let last = stage.nodes.last();
    let dir = last.map_or_else(String::new, stage::Node::state_text);
    let ip = last.map_or_else(String::new, |node| node.ip.to_string());
    format!(
        "\nIt keeps running until Ctrl-C. In another terminal:\n  \
         export SKEIN_DIR={dir}\n  \
         skein members\n  \
         skein service demo/web\n  \
         curl http://{ip}:{WEB_HERE}/\n  \
         ls {}\n",
        stage.dir.display()
    )
}

/// Live traffic and a line about it each second, in place on a terminal.
async fn live(stage: &Stage, console: &mut Console<'_>) -> Result<()> {
    let entry = stage.entry(WEB_HERE)?;
    let shown = console.colour && console.format.is_for_people();
    loop {
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let second = async {
            tokio::time::sleep(SECOND).await;
            let _ = stop.send(true);
        };
        let ((), tally) = tokio::join!(second, load::steady(entry, stopped));
        if shown {
            let _ = write!(
                console.out,
                "\r\x1b[K{} calls/s, {} failed, p99 {} us: {}",
                tally.sent,
                tally.failed,
                tally.percentile(99),
                tally.instances()
            );
            let _ = console.out.flush();
        }
    }
}

struct Signals {
    all: [tokio::signal::unix::Signal; 3],
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        let all = [
            signal(SignalKind::interrupt())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::hangup())?,
        ];
        Ok(Self { all })
    }

    async fn any(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.all;
        tokio::select! {
            biased;
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

impl Show for Report {
    fn text(&self, _: bool) -> String {
        self.steps.iter().map(|step| row(step) + "\n").collect()
    }

    fn names(&self) -> Vec<String> {
        self.steps.iter().map(|step| step.name.clone()).collect()
    }
}

/// How the demo's directory begins.
const PREFIX: &str = "skein-demo-";
/// A condition of the tour must hold within this.
const DEADLINE: Duration = Duration::from_secs(20);
/// An agent must answer within this.
const ANSWER: Duration = Duration::from_secs(5);
const SECOND: Duration = Duration::from_secs(1);
