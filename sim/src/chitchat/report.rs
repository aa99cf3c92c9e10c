//! Report: what a quiet day with gossip shows, line by line.

use anyhow::{Context, Result, ensure};
use skein_protocol::view::Liveness;

use super::Gossips;
use crate::world::{Options, World};

/// How long a condition may take.
const PATIENCE: u64 = 600_000;
/// How long idle traffic is counted.
const IDLE: u64 = 120_000;
/// How long agents have to settle before it: until each link has carried its first digest.
const SETTLE: u64 = 90_000;

/// Runs one mesh and prints what happens. With `attack` an admitted node attacks the gossip of all
/// others.
pub fn run(options: Options, attack: bool) -> Result<()> {
    let nodes = options.nodes;
    ensure!(nodes >= 3, "the chitchat mode needs three nodes");
    println!("chitchat mode, {options:?}");
    let attacker = attack.then_some(nodes - 2);
    let mut world = World::new(options)?;
    world.gossip = Some(Box::new(Gossips::new(&world.mesh)?));
    world.count_handshakes();
    world.start_all();
    reached("one view", world.run_until(PATIENCE, World::full_and_equal))?;
    let all: Vec<usize> = (0..nodes).collect();
    let agree = world.run_until(PATIENCE, |world| world.disagreeing(&all).is_empty());
    reached("chitchat's live set is the engine's, everywhere", agree)?;
    if let Some(attacker) = attacker {
        let sent = world.attack_gossip(attacker);
        world.run_to(world.now + 5_000);
        let blames: u64 = world.blamed.values().sum();
        let [short, plain, past] = sent;
        println!(
            "attack: {short} messages in the links' own form, {plain} in chitchat's, {past} past \
             the links; blamed on node {attacker} {blames} times"
        );
    }
    world.run_to(world.now + SETTLE);
    let handshakes: u64 = (0..nodes).map(|node| world.handshakes_of(node)).sum();
    println!(
        "handshakes until then: {:.1} an agent, at most {} within a second of one",
        handshakes as f64 / nodes as f64,
        world.most_handshakes()
    );
    idle(&mut world);
    let before = world.said(nodes / 2);
    world.say(nodes / 2, |local| {
        local.instances.0.iter_mut().for_each(|instance| instance.weight = 77);
    });
    let told = world.run_until(PATIENCE, |world| world.told_everywhere(nodes / 2, before));
    reached("an update everywhere", told)?;
    world.crash(nodes - 1);
    let dead = world.run_until(PATIENCE, |world| world.dead_everywhere(nodes - 1));
    reached("a crash known everywhere", dead)?;
    let honest: Vec<usize> = all.into_iter().filter(|n| Some(*n) != attacker).collect();
    let agree = world.run_until(PATIENCE, |world| world.disagreeing(&honest).is_empty());
    reached("chitchat agrees everywhere that it is gone", agree)?;
    let up: Vec<usize> = honest.into_iter().filter(|n| world.is_up(*n)).collect();
    let alive = |at: usize, of: usize| at == of || world.liveness(at, of) == Some(Liveness::Alive);
    let all_alive = up.iter().all(|at| up.iter().all(|of| alive(*at, *of)));
    ensure!(all_alive, "an agent that is up is not alive in every view");
    ensure!(world.fallen.is_empty(), "gossip ended: {:?}", world.fallen);
    let wrongly = world.blamed.iter().find(|((_, peer), _)| Some(*peer) != attacker);
    ensure!(wrongly.is_none(), "an honest agent was blamed: {wrongly:?}");
    println!("gossip ended nowhere, nobody honest was blamed, all who are up are alive");
    println!("trace {}", world.trace_hash());
    Ok(())
}

fn idle(world: &mut World) {
    let (frames, bytes) = world.sent;
    let before = world.gossiped();
    world.run_to(world.now + IDLE);
    let nodes = world.nodes.len();
    let rate = |sum: u64| sum as f64 / (nodes as f64 * IDLE as f64 / 1000.0);
    let gossip = world.gossiped() - before;
    println!(
        "idle, a second and agent: engine {:.0} bytes, gossip {:.0} bytes, in {:.2} frames",
        rate(world.sent.1 - bytes - gossip),
        rate(gossip),
        rate(world.sent.0 - frames),
    );
    let links: Vec<usize> = (0..nodes).map(|node| world.links(node)).collect();
    println!(
        "control links of an agent: {:.1} on average, {} at most",
        links.iter().sum::<usize>() as f64 / nodes as f64,
        links.iter().max().unwrap_or(&0)
    );
}

fn reached(what: &str, took: Option<u64>) -> Result<()> {
    let ms = took.with_context(|| format!("{what}: not within {PATIENCE} ms"))?;
    println!("{what}: {ms} ms");
    Ok(())
}
