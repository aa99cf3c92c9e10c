//! The cases of the world: each a fault, and what must hold all the same.

mod long;
mod policy;

use std::collections::BTreeMap;

use skein_protocol::{
    engine::{Event, Input},
    limits,
    membership::Witness,
    name::NodeKey,
    record::{Bundle, OwnChain, node::NodeRecord},
    view::{Liveness, Reason, Use},
    wire::frame::{Frame, HeadRange},
};

use crate::{
    adversary, mesh,
    plan::Plan,
    world::{Options, Weather, World},
};

fn world(nodes: usize, seed: u64) -> World {
    let mut world = World::new(Options { seed, nodes, ..Options::default() }).unwrap();
    world.start_all();
    assert!(world.run_until(20_000, World::full_and_equal).is_some(), "no common view");
    world
}

fn weather(loss: f64, delay: (u64, u64)) -> Weather {
    Weather { loss, delay, ..Weather::default() }
}

fn head(world: &World, at: usize, of: usize) -> u64 {
    let engine = world.nodes[at].engine.as_ref().unwrap();
    engine.store().head(&world.key(of)).map_or(0, |head| head.sequence)
}

/// The record that `node` has published.
fn said(world: &World, node: usize) -> Bundle {
    adversary::said(world, node, node).unwrap()
}

/// A record in the name of `node`, signed with its key.
fn forged(
    world: &World,
    node: usize,
    sequence: u64,
    change: impl FnOnce(&mut NodeRecord),
) -> Bundle {
    let own = world.nodes[node].own();
    forged_with(world, own, sequence, change)
}

fn forged_with(
    world: &World,
    own: &OwnChain,
    sequence: u64,
    change: impl FnOnce(&mut NodeRecord),
) -> Bundle {
    let node = world.number(&own.verified.key).unwrap();
    adversary::forge(world, node, own, sequence, change).unwrap()
}

fn inject_everywhere(world: &mut World, from: usize, frame: &Frame) {
    let to = adversary::peers(world, from);
    assert!(!to.is_empty());
    for to in to {
        assert!(world.inject(from, to, frame));
    }
}

fn blamed(world: &World, who: usize) -> bool {
    let key = world.key(who);
    world.events.iter().any(|(_, _, event)| matches!(event, Event::Blamed(peer, _) if *peer == key))
}

#[test]
fn a_hundred_engines_reach_one_view_and_an_update_is_everywhere() {
    let options =
        Options { seed: 7, nodes: 100, weather: weather(0.05, (1, 20)), ..Options::default() };
    let mut world = World::new(options).unwrap();
    world.start_all();
    assert!(world.run_until(20_000, World::full_and_equal).is_some());
    world.run_to(world.now + 2000);
    let before = world.said(50);
    world.say(50, |local| local.instances.0[0].weight = 77);
    let told = world.run_until(5_000, |w| w.told_everywhere(50, before));
    assert!(told.is_some_and(|ms| ms > 0), "{told:?}");
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_seed_another() {
    let run = |seed| {
        let options =
            Options { seed, nodes: 30, weather: weather(0.05, (1, 30)), ..Options::default() };
        let mut world = World::new(options).unwrap();
        world.start_all();
        world.run_to(5_000);
        world.crash(3);
        world.run_to(12_000);
        world.trace_hash()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}

#[test]
fn case_1_loss_up_to_two_fifths_converges_and_a_little_kills_nobody() {
    for (loss, seconds) in [(0.05, 120), (0.2, 20), (0.4, 20)] {
        let options =
            Options { seed: 3, nodes: 20, weather: weather(loss, (1, 20)), ..Options::default() };
        let mut world = World::new(options).unwrap();
        world.start_all();
        assert!(world.run_until(60_000, World::full_and_equal).is_some(), "loss {loss}");
        world.run_to(world.now + seconds * 1000);
        let dead = world.events.iter().filter(|(_, _, e)| matches!(e, Event::Dead(_))).count();
        assert!(loss > 0.05 || dead == 0, "{dead} false deaths at {loss}");
    }
}

#[test]
fn case_2_every_frame_twice_changes_nothing() {
    let mut world = world(8, 5);
    let bundles: Vec<Bundle> = (0..8).map(|n| said(&world, n)).collect();
    let roots: Vec<_> = world.nodes.iter().map(|n| n.view.clone().unwrap().records_root).collect();
    for _ in 0..3 {
        for (n, bundle) in bundles.iter().enumerate().rev() {
            let by = if n == 0 { 1 } else { 0 };
            inject_everywhere(&mut world, by, &Frame::Record(Box::new(bundle.clone())));
        }
    }
    world.run_to(world.now + 2000);
    let after: Vec<_> = world.nodes.iter().map(|n| n.view.clone().unwrap().records_root).collect();
    assert_eq!(roots, after);
    assert!(!(0..8).any(|n| blamed(&world, n)));
}

#[test]
fn case_14_a_crash_at_any_moment_never_reuses_a_sequence() {
    for moment in 0..60 {
        let mut world =
            World::new(Options { seed: moment, nodes: 3, ..Options::default() }).unwrap();
        world.start_all();
        world.run_to(3_000);
        let mut seen = head(&world, 1, 0);
        world.say(0, |local| local.instances.0[0].weight = 11);
        world.run_to(world.now + moment);
        world.crash(0);
        world.run_to(world.now + 300);
        seen = seen.max(head(&world, 1, 0)).max(head(&world, 2, 0));
        world.start(0);
        world.say(0, |local| local.instances.0[0].weight = 12);
        world.run_to(world.now + 5_000);
        assert!(head(&world, 0, 0) > seen, "moment {moment}");
        assert_eq!(head(&world, 1, 0), head(&world, 0, 0));
        assert!(world.events.iter().all(|(_, _, e)| !matches!(e, Event::Forked(_))));
    }
}

#[test]
fn case_15_an_empty_disk_is_told_and_records_are_learned_again() {
    let mut world = world(5, 2);
    for _ in 0..3 {
        world.say(4, |local| local.instances.0[0].weight += 1);
        world.run_to(world.now + 300);
    }
    world.crash(4);
    world.run_to(world.now + 1000);
    world.nodes[4].disk = Default::default();
    let before = head(&world, 0, 4);
    world.start(4);
    assert!(world.nodes[4].probation, "nothing shows what the policy is");
    assert!(world.run_until(20_000, World::full_and_equal).is_some());
    assert!(head(&world, 0, 4) > before);
    let alarm = |e: &Event| matches!(e, Event::RolledBack { .. });
    assert!(world.events.iter().any(|(_, n, e)| *n == 4 && alarm(e)));
    assert_eq!(world.view(4).unwrap().nodes.len(), 5);
    assert!(world.run_until(5_000, |w| !w.nodes[4].probation).is_some());
    assert!(world.nodes[4].disk.anchored);
}

#[test]
fn case_16_a_disk_that_went_back_leaps_over_what_peers_have_seen() {
    let mut world = world(4, 3);
    let old = world.nodes[2].disk.clone();
    for _ in 0..(limits::SEQUENCE_BLOCK + 5) {
        world.say(2, |local| local.instances.0[0].weight += 1);
        world.run_to(world.now + 520);
    }
    world.crash(2);
    world.nodes[2].disk = old;
    world.run_to(world.now + 500);
    let before = head(&world, 0, 2);
    world.start(2);
    assert!(!world.nodes[2].probation, "its disk says that it knows");
    assert!(world.run_until(5_000, |w| w.nodes[2].probation).is_some(), "its peers know better");
    let caught_up = world.run_until(20_000, |w| w.full_and_equal() && head(w, 0, 2) > before);
    assert!(caught_up.is_some());
    assert!(head(&world, 0, 2) >= before + limits::SEQUENCE_LEAP);
    assert!(!world.events.iter().any(|(_, _, e)| matches!(e, Event::Forked(_))));
    assert!(!world.events.iter().any(|(_, _, e)| matches!(e, Event::Cloned { .. })));
    assert!(world.run_until(5_000, |w| !w.nodes[2].probation).is_some());
}

#[test]
fn case_18_two_hosts_with_one_key_fence_both_and_say_so() {
    let mut world = World::new(Options { seed: 4, nodes: 5, ..Options::default() }).unwrap();
    // Node 4 is a copy of node 3: the same key, the same disk, another address.
    world.clone_identity(3, 4);
    for node in 0..5 {
        world.start(node);
        world.run_to(world.now + 400);
    }
    world.run_to(15_000);
    let fenced = |n: usize| {
        world.events.iter().any(|(_, at, e)| *at == n && matches!(e, Event::Cloned { .. }))
    };
    assert!(fenced(3) && fenced(4), "{:?}", world.events);
    let view = world.view(0).unwrap();
    let twin = world.key(3);
    let used = view
        .services
        .values()
        .flat_map(|s| &s.endpoints)
        .any(|endpoint| endpoint.node.key == twin && endpoint.usable == Use::Yes);
    assert!(!used, "a fenced host still gets calls");
}

#[test]
fn case_27_a_record_signed_by_another_key_is_dropped_and_blamed() {
    let mut world = world(5, 6);
    let mut bundle = forged(&world, 2, 50, |content| content.instances.0[0].weight = 99);
    let last = bundle.record.len() - 1;
    bundle.record[last] ^= 1;
    inject_everywhere(&mut world, 1, &Frame::Record(Box::new(bundle)));
    world.run_to(world.now + 1000);
    assert!(blamed(&world, 1) && !blamed(&world, 2));
    assert!((0..5).all(|at| head(&world, at, 2) < 50));
}

#[test]
fn case_28_a_service_that_the_grant_does_not_name_is_not_believed() {
    let mut world = world(5, 6);
    let wide = world.mesh.chain(1, "*/*").unwrap();
    let narrow = world.nodes[1].own().clone();
    // Signed with a chain that would allow it, shown with the one that does not.
    let mut bundle = forged_with(&world, &wide, 60, |content| {
        content.instances.0[0].service = "bank/vault".parse().unwrap();
    });
    bundle.chain = narrow.chain;
    inject_everywhere(&mut world, 1, &Frame::Record(Box::new(bundle)));
    world.run_to(world.now + 1000);
    assert!(blamed(&world, 1));
    let vault = "bank/vault".parse().unwrap();
    assert!((0..5).all(|at| !world.view(at).unwrap().services.contains_key(&vault)));
}

#[test]
fn case_29_an_old_record_replayed_changes_nothing_and_blames_nobody() {
    let mut world = world(5, 6);
    let old = said(&world, 2);
    world.say(2, |local| local.instances.0[0].weight = 44);
    world.run_to(world.now + 2000);
    let roots: Vec<_> = (0..5).map(|n| world.view(n).unwrap().records_root).collect();
    inject_everywhere(&mut world, 1, &Frame::Record(Box::new(old)));
    world.run_to(world.now + 2000);
    let after: Vec<_> = (0..5).map(|n| world.view(n).unwrap().records_root).collect();
    assert_eq!(roots, after);
    assert!(!blamed(&world, 1));
}

#[test]
fn case_30_two_contents_at_one_sequence_converge_on_one_and_eject_the_origin() {
    let mut world = world(6, 8);
    let one = forged(&world, 2, 70, |content| content.instances.0[0].weight = 1);
    let two = forged(&world, 2, 70, |content| content.instances.0[0].weight = 2);
    let near: Vec<usize> = (0..6).filter(|to| world.link_between(2, *to).is_some()).collect();
    for (n, to) in near.iter().enumerate() {
        let bundle = if n % 2 == 0 { &one } else { &two };
        world.inject(2, *to, &Frame::Record(Box::new(bundle.clone())));
    }
    world.run_to(world.now + 6000);
    let key = world.key(2);
    let honest = [0, 1, 3, 4, 5];
    let heads: BTreeMap<_, _> = honest
        .iter()
        .map(|at| (world.nodes[*at].engine.as_ref().unwrap().store().head(&key).unwrap().hash, ()))
        .collect();
    assert_eq!(heads.len(), 1, "honest nodes differ");
    for at in honest {
        let engine = world.nodes[at].engine.as_ref().unwrap();
        assert!(engine.store().fork(&key).is_some(), "node {at} holds no proof");
        let view = world.view(at).unwrap();
        let reasons = view.services.values().flat_map(|s| &s.endpoints);
        assert!(
            reasons.filter(|e| e.node.key == key).all(|e| e.usable == Use::No(Reason::Cloned)),
            "node {at} still uses the origin"
        );
    }
}

#[test]
fn case_31_a_sequence_beyond_the_limit_is_refused() {
    let mut world = world(4, 9);
    let bundle = forged(&world, 1, u64::MAX, |_| ());
    inject_everywhere(&mut world, 1, &Frame::Record(Box::new(bundle)));
    world.run_to(world.now + 1000);
    assert!(blamed(&world, 1));
    assert!((0..4).all(|at| head(&world, at, 1) < 1000));
    let before = world.said(1);
    world.say(1, |local| local.instances.0[0].weight = 5);
    world.run_to(world.now + 1000);
    assert!(world.told_everywhere(1, before));
}

#[test]
fn case_32_a_peer_cannot_overwrite_what_a_node_says_of_itself() {
    let mut world = world(4, 9);
    let before = head(&world, 2, 2);
    let old = forged(&world, 2, before - 1 + u64::from(before == 0), |content| {
        content.instances.0.clear();
    });
    inject_everywhere(&mut world, 1, &Frame::Record(Box::new(old)));
    let nothing = HeadRange { from: NodeKey([0; 32]), to: NodeKey([0xff; 32]), heads: Vec::new() };
    inject_everywhere(&mut world, 1, &Frame::Heads(nothing));
    world.run_to(world.now + 2000);
    let own = world.nodes[2].engine.as_ref().unwrap().store().body(&world.key(2)).unwrap();
    assert_eq!(own.content().unwrap().instances.0.len(), 1);
    assert!(head(&world, 2, 2) >= before);
}

#[test]
fn a_crash_is_known_everywhere_and_a_restart_heals_it() {
    let mut world = world(20, 11);
    world.crash(5);
    assert!(world.run_until(6_000, |w| w.dead_everywhere(5)).is_some());
    world.start(5);
    let back = world.run_until(20_000, |w| {
        (0..20).all(|at| w.liveness(at, 5) == Some(Liveness::Alive)) && w.full_and_equal()
    });
    assert!(back.is_some());
}

#[test]
fn one_liar_alone_kills_nobody() {
    let mut world = world(12, 12);
    for subject in 0..12 {
        if subject == 3 {
            continue;
        }
        let witness = Witness {
            mesh: world.mesh.id,
            subject: world.key(subject),
            sequence: head(&world, 0, subject),
            boot: 0,
            watcher: world.key(3),
        };
        let signed = witness.sign(world.nodes[3].signer());
        inject_everywhere(&mut world, 3, &Frame::Witness(signed));
    }
    world.run_to(world.now + 10_000);
    assert!(!world.events.iter().any(|(_, _, e)| matches!(e, Event::Dead(_))));
}

#[test]
fn halves_go_on_alone_and_are_one_again_soon_after_the_cut_is_mended() {
    let mut world = world(12, 13);
    world.partition(|n| n % 2);
    world.run_to(world.now + 30_000);
    for at in 0..12 {
        for of in 0..12 {
            let expected = if at % 2 == of % 2 { Liveness::Alive } else { Liveness::Dead };
            assert_eq!(world.liveness(at, of), Some(expected), "{at} of {of}");
        }
    }
    world.heal();
    let healed = world.run_until(20_000, |w| {
        w.full_and_equal()
            && (0..12).all(|at| (0..12).all(|of| w.liveness(at, of) == Some(Liveness::Alive)))
    });
    assert!(healed.is_some_and(|ms| ms < 8_000), "{healed:?}");
}

/// For how long at a time somebody held one of its own side for dead, at most.
fn worst_loss(world: &mut World, lasts: u64, since: &mut BTreeMap<(usize, usize), u64>) -> u64 {
    let (mut worst, until) = (0, world.now + lasts);
    while world.now < until {
        world.run_to(world.now + 50);
        let count = world.nodes.len();
        let pairs = (0..count).flat_map(|a| (a % 2..count).step_by(2).map(move |b| (a, b)));
        for (at, of) in pairs {
            if at != of && world.liveness(at, of) == Some(Liveness::Dead) {
                let from = *since.entry((at, of)).or_insert(world.now);
                worst = worst.max(world.now - from);
            } else {
                since.remove(&(at, of));
            }
        }
    }
    worst
}

#[test]
fn a_path_that_flaps_costs_no_host_its_own_side() {
    let mut world = world(40, 31);
    let (mut since, mut worst) = (BTreeMap::new(), 0);
    for _ in 0..10 {
        // Long enough for each half to hold the other for dead, and to say so with each mend.
        world.partition(|n| n % 2);
        worst = worst.max(worst_loss(&mut world, 4_500, &mut since));
        world.heal();
        worst = worst.max(worst_loss(&mut world, 2_500, &mut since));
    }
    let dead = world.events.iter().filter(|(_, _, e)| matches!(e, Event::Dead(_))).count();
    assert!(dead > 5_000, "the halves held each other for dead {dead} times");
    // Who refutes ever more slowly is lost to its own for two seconds by the tenth.
    assert!(worst < 500, "{worst} ms");
}

#[test]
fn one_liar_does_not_keep_a_host_signing_nor_from_answering() {
    let mut world = world(12, 32);
    let lies = |world: &mut World| {
        let witness = Witness {
            mesh: world.mesh.id,
            subject: world.key(5),
            sequence: head(world, 5, 5),
            boot: 0,
            watcher: world.key(3),
        };
        let signed = witness.sign(world.nodes[3].signer());
        inject_everywhere(world, 3, &Frame::Witness(signed));
        world.run_to(world.now + 100);
    };
    let before = head(&world, 0, 5);
    (0..600).for_each(|_| lies(&mut world));
    let signed = head(&world, 0, 5) - before;
    // 0.1, 0.2, ... 6.4 s, and then every 8 s of the minute.
    assert!((6..=16).contains(&signed), "{signed} records in a minute");
    // Of a host that has something to say each second no answer is due: what it says is one.
    for weight in 1..60 {
        world.say(5, |local| local.instances.0[0].weight = weight);
        (0..10).for_each(|_| lies(&mut world));
    }
    let (said, from) = (head(&world, 0, 5), world.now);
    while head(&world, 0, 5) == said && world.now < from + 60_000 {
        lies(&mut world);
    }
    assert!(world.now - from < 8_500, "{} ms without an answer", world.now - from);
}

#[test]
fn all_restart_without_seeds_and_the_mesh_is_back() {
    let mut world = world(10, 14);
    for node in 0..10 {
        world.crash(node);
    }
    world.run_to(world.now + 500);
    world.options.seeds = 0;
    for node in [7, 3, 9, 1, 0, 2, 8, 6, 5, 4] {
        world.start(node);
        world.run_to(world.now + 700);
    }
    let back = world.run_until(30_000, |w| {
        w.full_and_equal()
            && (0..10).all(|at| (0..10).all(|of| w.liveness(at, of) == Some(Liveness::Alive)))
    });
    assert!(back.is_some());
}

#[test]
fn a_full_disk_refuses_what_is_new_and_keeps_what_is() {
    let mut world = world(4, 15);
    world.nodes[1].disk.full = true;
    for _ in 0..(limits::SEQUENCE_BLOCK + 2) {
        world.say(1, |local| local.instances.0[0].weight += 1);
        world.run_to(world.now + 520);
    }
    let stuck = head(&world, 1, 1);
    assert!(world.events.iter().any(|(_, at, e)| *at == 1 && matches!(e, Event::DiskFailed(_))));
    assert!(
        world.view(0).unwrap().nodes.len() == 4 && world.liveness(0, 1) == Some(Liveness::Alive)
    );
    world.nodes[1].disk.full = false;
    assert!(world.run_until(10_000, |w| head(w, 0, 1) > stuck).is_some());
}

#[test]
fn a_frame_that_does_not_decode_is_blamed_and_harms_nobody() {
    let mut world = world(3, 16);
    let link = world.link_between(0, 1).unwrap();
    let at = world.link_between(1, 0).unwrap();
    assert_ne!(link, at);
    let now = skein_protocol::clock::Now::default();
    let engine = world.nodes[1].engine.as_mut().unwrap();
    for byte in 0..=255u8 {
        engine.handle(now, Input::Frame { link: at, bytes: vec![byte; 40].into() });
    }
    world.run_to(world.now + 5_000);
    assert!(blamed(&world, 0));
    let _ = mesh::local(0).unwrap();
}

#[test]
fn a_revoked_node_is_out_everywhere_and_stays_out() {
    let mut world = world(10, 17);
    let statement = world.mesh.revocation(4).unwrap();
    world.revoke(0, statement);
    let cut = world.run_until(5_000, |w| {
        (0..10).filter(|n| *n != 4).all(|n| w.link_between(n, 4).is_none())
            && (0..10).filter(|n| *n != 4).all(|n| {
                let view = w.view(n).unwrap();
                let key = w.key(4);
                let mut of = view.services.values().flat_map(|s| &s.endpoints);
                of.all(|e| e.node.key != key || e.usable == Use::No(Reason::Revoked))
            })
    });
    assert!(cut.is_some_and(|ms| ms < 2_000), "{cut:?}");
    // It stays out over a restart of those who know and of itself.
    for node in [2, 4] {
        world.crash(node);
        world.run_to(world.now + 500);
        world.start(node);
    }
    world.run_to(world.now + 15_000);
    assert!((0..10).filter(|n| *n != 4).all(|n| world.link_between(n, 4).is_none()));
    // A node that was away hears of it before anything else.
    world.crash(7);
    world.nodes[7].disk = Default::default();
    world.start(7);
    world.run_to(world.now + 10_000);
    assert!(world.link_between(7, 4).is_none());
}

#[test]
fn seeds_that_once_broke_something_hold() {
    let seeds = include_str!("../../../tests/seeds.txt");
    let lines = seeds.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let (mut count, mut broken) = (0, Vec::new());
    for line in lines {
        let (seed, what) = line.split_once(' ').expect("a seed, and what it broke");
        let outcomes = crate::run::run(&Plan::of(seed.parse().unwrap())).unwrap();
        broken.extend(outcomes.violation.map(|now| format!("seed {seed}, once: {what}; {now}")));
        count += 1;
    }
    assert!(broken.is_empty(), "{broken:#?}");
    assert!(count >= 10, "only {count} seeds were run");
}

#[test]
fn a_plan_run_twice_leaves_one_trace() {
    let plan = Plan::of(12);
    let once = crate::run::run(&plan).unwrap();
    let again = crate::run::run(&plan).unwrap();
    assert_eq!(once.trace, again.trace);
    assert!(once.faults > 5 && once.checks > 10_000, "{once:?}");
}

#[test]
fn shrinking_keeps_what_breaks_and_drops_the_rest() {
    // A check that nothing meets: the plan shrinks to nothing done at all.
    let mut plan = Plan::of(3);
    plan.options.nodes = 3;
    plan.options.seeds = 0;
    let (short, runs) = crate::shrink::shrink(&plan, crate::checks::Check::L1).unwrap();
    assert!(short.schedule.is_empty() && runs > 0, "{short}");
}
