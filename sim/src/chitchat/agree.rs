//! Agree: one plan of the campaign in both modes, with every check on, and what the two ended in.
//!
//! Frames travel at other times in the two, so traces differ, and so may what each believes of
//! who went down in the middle of saying something. What must be the same is all that converges:
//! who is there, who is gone, whose keys have ended, and what everybody who is there serves.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use skein_protocol::{name::Hash, record::node::Instance, view::Liveness};

use super::Gossips;
use crate::{
    checks::{Check, Violation},
    plan::{Action, Plan, STAYS_DOWN},
    run::Run,
};

/// How long gossip may take to hold for live who its engine holds for alive: its own suspicion
/// of who is gone is slow.
const PATIENCE: u64 = 900_000;

/// What a run ended in.
#[derive(Debug)]
pub struct Ended {
    /// What did not hold, if anything.
    pub violation: Option<Violation>,
    /// What each node of the core believes of each honest node, and of those whose keys have ended,
    /// in words.
    pub views: BTreeMap<(usize, usize), String>,
    /// Bytes of gossip that were sent.
    pub gossiped: u64,
    /// The hash over all frames.
    pub trace: Hash,
}

/// Runs a plan in both modes. What each ended in, and where they differ. `other` is what runs with
/// chitchat: the same plan, but to see that a difference is told.
pub fn compare(plan: &Plan, other: &Plan) -> Result<(Ended, Ended, Vec<String>)> {
    let (world, chitchat) = (end(plan, false)?, end(other, true)?);
    let differences = differences(&world, &chitchat);
    Ok((world, chitchat, differences))
}

/// That plan, and then a key that ends, an instance more and a crash for good: of the last three
/// hosts that do what they should.
pub fn unlike(plan: &Plan) -> Plan {
    let mut plan = plan.clone();
    let bad = |n: &usize| plan.adversaries.contains(n) || plan.silent.contains(n);
    let honest: Vec<usize> = (3..plan.options.nodes).rev().filter(|n| !bad(n)).collect();
    let crashed = honest.iter().find(|n| n.is_multiple_of(STAYS_DOWN)).copied();
    let mut others = honest.iter().filter(|n| Some(**n) != crashed);
    let more = [
        others.next().map(|of| Action::Revoke(0, *of)),
        others.next().map(|of| Action::Register(*of, 7)),
        crashed.map(Action::Crash),
    ];
    let at = plan.chaos;
    plan.schedule.extend(more.into_iter().flatten().map(|action| (at, action)));
    plan
}

fn differences(world: &Ended, chitchat: &Ended) -> Vec<String> {
    let pairs: BTreeSet<_> = world.views.keys().chain(chitchat.views.keys()).collect();
    let differ = pairs.into_iter().filter(|pair| world.views.get(pair) != chitchat.views.get(pair));
    let word = |(at, of): &(usize, usize)| {
        let seen = |ended: &Ended| ended.views.get(&(*at, *of)).cloned().unwrap_or_default();
        format!("node {at} of {of}: world '{}', chitchat '{}'", seen(world), seen(chitchat))
    };
    differ.map(word).collect()
}

fn end(plan: &Plan, gossip: bool) -> Result<Ended> {
    let mut run = Run::new(plan)?;
    if gossip {
        run.world.gossip = Some(Box::new(Gossips::new(&run.world.mesh)?));
    }
    run.act(plan)?;
    run.end(plan);
    // Before gossip is waited for: what takes that long to be right is not.
    let views = views(&run);
    if gossip && run.world.violation().is_none() {
        agreed(&mut run);
    }
    Ok(Ended {
        violation: run.world.violation().cloned(),
        views,
        gossiped: run.world.gossiped(),
        trace: run.world.trace_hash(),
    })
}

/// In the end every gossip of the core holds for live whom its engine holds for alive.
fn agreed(run: &mut Run) {
    let core = run.core();
    let apart = |run: &Run| run.world.disagreeing(&core);
    let until = run.world.now + PATIENCE;
    while run.world.now < until && !apart(run).is_empty() && run.world.violation().is_none() {
        run.pass(run.world.now + 1000);
    }
    if let Some((at, ..)) = apart(run).first() {
        let what = format!("gossip holds others for live than its engine: {:?}", apart(run));
        run.world.check(|checks, world| checks.fail(world, Check::L1, *at, what));
    }
    let fallen = run.world.fallen.first().cloned();
    if let Some((at, node, why)) = fallen {
        let what = format!("its gossip ended at {at} ms: {why}");
        run.world.check(|checks, world| checks.fail(world, Check::S8, node, what));
    }
}

fn views(run: &Run) -> BTreeMap<(usize, usize), String> {
    let world = &run.world;
    let (core, honest) = (run.core(), run.honest());
    let mut views = BTreeMap::new();
    for at in core {
        for of in 0..world.nodes.len() {
            let key = world.key(of);
            let ended = world.nodes.get(at).and_then(|node| node.ended.as_ref());
            let revoked = ended.is_some_and(|ended| ended.is_revoked(&key));
            let seen = world.liveness(at, of);
            let there = matches!(seen, Some(Liveness::Alive | Liveness::Suspect));
            let said = if revoked {
                "revoked".to_owned()
            } else if !honest.contains(&of) {
                // What it says goes by whom it says it to.
                continue;
            } else if !there {
                // Whether it left, died or is forgotten by now goes by what reached whom.
                "gone".to_owned()
            } else {
                let engine = world.nodes.get(at).and_then(|node| node.engine.as_ref());
                let body = engine.and_then(|engine| engine.store().body(&key));
                let content = body.and_then(|record| record.content());
                let host = content.map(|content| content.host.state);
                let serves = content.map(|content| content.instances.0.iter().map(word));
                format!("{host:?} {:?}", serves.map(Iterator::collect::<Vec<_>>))
            };
            views.insert((at, of), said);
        }
    }
    views
}

fn word(instance: &Instance) -> String {
    format!("{} {} {:?} {}", instance.service, instance.id, instance.health, instance.weight)
}
