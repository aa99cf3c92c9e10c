//! Report: what a run shows, line by line, and the figures behind it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use skein_protocol::name::Hash;

use super::{Options, Stage, lines::Sent};

/// What a run found. Times are in milliseconds.
#[derive(Clone, Debug)]
pub struct Figures {
    /// Until all showed the same records.
    pub one_view: u64,
    /// Until every chitchat held for live who its engine held for alive.
    pub agree: u64,
    /// Bytes a second and agent of engine frames, of gossip, and what that was in chitchat's form.
    pub idle: (f64, f64, f64),
    /// Until an update was everywhere.
    pub update: u64,
    /// Until a crash was known everywhere.
    pub crash: u64,
    /// Until every chitchat had let the crashed one go too.
    pub crash_agree: u64,
    /// The hash over every frame, with its time.
    pub trace: Hash,
}

/// How long a condition may take.
const PATIENCE: u64 = 600_000;
/// How long idle traffic is counted.
const IDLE: u64 = 120_000;
/// How long agents have to settle before it: until each link has carried its first digest.
const SETTLE: u64 = 90_000;

/// Runs one seed and prints what happens.
pub fn run(options: Options) -> Result<Figures> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .context("a runtime")?;
    println!("chitchat mode, {options:?}");
    runtime.block_on(Box::pin(play(options)))
}

async fn play(options: Options) -> Result<Figures> {
    let nodes = options.nodes;
    ensure!(nodes >= 3, "the chitchat mode needs three nodes");
    let attacker = options.attack.then_some(nodes - 2);
    let mut stage = Stage::new(options)?;
    for number in 0..nodes {
        stage.start(number);
    }
    let one_view = reached("one view", stage.run_until(PATIENCE, Stage::one_view).await)?;
    let agree = stage.run_until(PATIENCE, |s| s.disagreeing(None) == 0).await;
    let agree = reached("chitchat's live set is the engine's, everywhere", agree)?;
    if let Some(attacker) = attacker {
        let sent = stage.attack(attacker);
        stage.run_to(stage.now() + 5_000).await;
        println!("attack: {sent} messages, blamed on node {attacker} {} times", blames(&stage));
    }
    stage.run_to(stage.now() + SETTLE).await;
    let idle = idle(&mut stage, nodes).await;
    let update = update(&mut stage, nodes / 2).await?;
    let gone = nodes - 1;
    stage.crash(gone);
    let crash = stage.run_until(PATIENCE, |s| s.dead_everywhere(gone)).await;
    let crash = reached("a crash known everywhere", crash)?;
    let crash_agree = stage.run_until(PATIENCE, |s| s.disagreeing(attacker) == 0).await;
    let crash_agree = reached("chitchat agrees everywhere that it is gone", crash_agree)?;
    ensure!(stage.all_alive(attacker), "an agent that is up is not alive in every view");
    ensure!(stage.fallen.is_empty(), "gossip ended: {:?}", stage.fallen);
    let honest = stage.blamed.iter().find(|((_, peer), _)| Some(*peer) != attacker);
    ensure!(honest.is_none(), "an honest agent was blamed: {honest:?}");
    println!("gossip ended nowhere, nobody honest was blamed, all who are up are alive");
    let trace = stage.trace_hash();
    println!("trace {trace}");
    Ok(Figures { one_view, agree, idle, update, crash, crash_agree, trace })
}

async fn update(stage: &mut Stage, by: usize) -> Result<u64> {
    let before = stage.sequence(by, by).context("it has said nothing")?;
    stage.say(by, |local| {
        local.instances.0.iter_mut().for_each(|instance| instance.weight = 77);
    });
    let everywhere = stage.run_until(PATIENCE, |s| s.told_everywhere(by, before)).await;
    reached("an update everywhere", everywhere)
}

async fn idle(stage: &mut Stage, nodes: usize) -> (f64, f64, f64) {
    let before = stage.sent();
    stage.run_to(stage.now() + IDLE).await;
    let after = stage.sent();
    let share = nodes as f64 * Duration::from_millis(IDLE).as_secs_f64();
    let rate = |of: fn(&Sent) -> u64| (of(&after) - of(&before)) as f64 / share;
    let engine = rate(|sent| sent.engine.1);
    let gossip = rate(|sent| sent.gossip.1);
    let plain = rate(|sent| sent.plain);
    println!(
        "idle, a second and agent: engine {engine:.0} bytes in {:.2} frames; gossip {gossip:.0} \
         bytes in {:.2} frames (in chitchat's own form {plain:.0} bytes)",
        rate(|sent| sent.engine.0),
        rate(|sent| sent.gossip.0),
    );
    let links: Vec<usize> = (0..nodes).map(|node| stage.links(node)).collect();
    println!(
        "control links of an agent: {:.1} on average, {} at most",
        links.iter().sum::<usize>() as f64 / nodes as f64,
        links.iter().max().unwrap_or(&0)
    );
    (engine, gossip, plain)
}

fn blames(stage: &Stage) -> u64 {
    stage.blamed.values().sum()
}

fn reached(what: &str, took: Option<u64>) -> Result<u64> {
    let ms = took.with_context(|| format!("{what}: not within {PATIENCE} ms"))?;
    println!("{what}: {ms} ms");
    Ok(ms)
}
