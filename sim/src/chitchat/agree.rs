//! Agree: one plan of the campaign in both modes, with every check on, and what the two ended in.
//!
//! Frames travel at other times in the two, so traces differ, and so may what each believes of
//! who went down in the middle of saying something. What must be the same is all that converges:
//! who is there, who is gone, whose keys have ended, and what everybody who is there serves.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use skein_protocol::{name::Hash, record::node::Instance, view::Liveness, wire::frame};

use super::Gossips;
use crate::{
    checks::{Check, Violation},
    plan::Plan,
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
    /// What each node of the core believes of each honest node, in words.
    pub views: BTreeMap<(usize, usize), String>,
    /// Bytes of gossip that were sent.
    pub gossiped: u64,
    /// The hash over all frames.
    pub trace: Hash,
}

/// Runs a plan in both modes. What each ended in, and where they differ.
pub fn compare(plan: &Plan) -> Result<(Ended, Ended, Vec<String>)> {
    let (world, chitchat) = (end(plan, false)?, end(plan, true)?);
    let differences = differences(&world, &chitchat);
    Ok((world, chitchat, differences))
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
    if gossip && run.world.violation().is_none() {
        agreed(&mut run);
    }
    let sent = run.world.nodes.iter().filter_map(|node| node.sent.get(&frame::GOSSIP));
    let gossiped = sent.sum();
    Ok(Ended {
        violation: run.world.violation().cloned(),
        views: views(&run),
        gossiped,
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
        for of in &honest {
            let key = world.key(*of);
            let ended = world.nodes.get(at).and_then(|node| node.ended.as_ref());
            let revoked = ended.is_some_and(|ended| ended.is_revoked(&key));
            let seen = world.liveness(at, *of);
            let there = matches!(seen, Some(Liveness::Alive | Liveness::Suspect));
            let said = if revoked {
                "revoked".to_owned()
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
            views.insert((at, *of), said);
        }
    }
    views
}

fn word(instance: &Instance) -> String {
    format!("{} {} {:?} {}", instance.service, instance.id, instance.health, instance.weight)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Action;

    #[test]
    fn runs_that_end_otherwise_are_told_apart_and_gossip_runs_in_one_of_them() {
        let mut plan = Plan::of(12);
        let (world, chitchat, same) = compare(&plan).unwrap();
        assert_eq!((world.violation, &chitchat.violation), (None, &None));
        assert_eq!((same, world.gossiped, chitchat.gossiped > 0), (Vec::new(), 0, true));
        assert!(world.views.len() > 10, "{} beliefs", world.views.len());
        // Not the first of the core: it is the one that tells something of its own in the end.
        let (node, _) = *world.views.keys().last().unwrap();
        plan.schedule.push((plan.chaos, Action::Register(node, 7)));
        let other = end(&plan, true).unwrap();
        let all = differences(&chitchat, &other);
        let (of, new) = (format!(" of {node}: "), "shop/svc-7 ");
        assert!(
            !all.is_empty() && all.iter().all(|d| d.contains(&of) && d.contains(new)),
            "{all:?}"
        );
    }
}
