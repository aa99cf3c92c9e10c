//! The cases about policy: documents and the ends of keys, in a world that is not whole.

use skein_protocol::{
    engine::Event,
    limits,
    name::Hash,
    policy::PolicyBundle,
    view::{Reason, Use},
    wire::frame::Frame,
};

use super::{blamed, world};
use crate::{rulings, world::World};

fn root(world: &World, at: usize) -> Hash {
    world.view(at).unwrap().policy_root
}

/// The operator edits a document at node 0, and all hold it.
fn ruled(world: &mut World, variant: u32) {
    let before = root(world, 0);
    rulings::edit(world, 0, 1, variant).unwrap();
    let all = world.run_until(5_000, |w| {
        let now = root(w, 0);
        now != before && (0..w.nodes.len()).all(|node| root(w, node) == now)
    });
    assert!(all.is_some());
}

fn bundles(world: &World, at: usize) -> Vec<PolicyBundle> {
    let policy = world.nodes[at].policy.clone().unwrap();
    let heads = policy.documents.iter().flat_map(|(_, heads)| heads);
    heads.map(|head| PolicyBundle::clone(head.bundle())).collect()
}

#[test]
fn case_38_a_revocation_in_a_minority_counts_there_at_once_and_everywhere_after() {
    let mut world = world(8, 38);
    world.partition(|node| usize::from(node < 2));
    let statement = world.mesh.revocation(6).unwrap();
    world.revoke(0, statement);
    let out = |world: &World, at: usize| {
        let view = world.view(at).unwrap();
        let mut of = view.services.values().flat_map(|service| &service.endpoints);
        let key = world.key(6);
        of.all(|one| one.node.key != key || one.usable == Use::No(Reason::Revoked))
    };
    assert!(world.run_until(2_000, |w| out(w, 0) && out(w, 1)).is_some());
    assert!(!out(&world, 3), "the others cannot know");
    world.heal();
    let all = world.run_until(20_000, |w| (0..8).filter(|n| *n != 6).all(|n| out(w, n)));
    assert!(all.is_some());
}

#[test]
fn case_39_documents_that_are_forged_cut_short_or_old_change_nothing() {
    let mut world = world(4, 39);
    ruled(&mut world, 1);
    let first = bundles(&world, 0).remove(0);
    ruled(&mut world, 2);
    let (held, second) = (root(&world, 1), bundles(&world, 0).remove(0));
    // Superseded, and told again: no change, and no blame.
    assert!(world.inject(3, 1, &Frame::Policy(Box::new(first))));
    world.run_to(world.now + 500);
    assert_eq!(root(&world, 1), held);
    assert!(!blamed(&world, 3));
    // Any byte of it changed, at its end (the signature), in its middle, and one cut off.
    let length = second.record.len();
    for place in [length - 1, length / 2] {
        let mut forged = second.clone();
        forged.record[place] ^= 1;
        assert!(world.inject(3, 1, &Frame::Policy(Box::new(forged))));
    }
    let mut short = second;
    short.record.truncate(length - 1);
    assert!(world.inject(3, 1, &Frame::Policy(Box::new(short))));
    world.run_to(world.now + 1_000);
    assert_eq!(root(&world, 1), held);
    assert!(blamed(&world, 3));
}

#[test]
fn case_43_what_an_operator_signs_after_its_end_is_nowhere_when_the_cut_is_mended() {
    let mut world = world(6, 43);
    ruled(&mut world, 1);
    let good = root(&world, 0);
    world.partition(|node| usize::from(node >= 3));
    // The root ends the key here, with what it did so far; there its thief signs another version.
    let works = world.nodes[0].policy.clone().unwrap();
    let works = works.documents.iter().flat_map(|(_, heads)| heads).map(|head| head.version());
    let statement = world.mesh.end_of_operator(works.collect()).unwrap();
    world.revoke(0, statement);
    rulings::edit(&mut world, 4, 1, 3).unwrap();
    let stolen = world.run_until(5_000, |w| (3..6).all(|n| root(w, n) != good));
    assert!(stolen.is_some());
    assert_eq!(root(&world, 1), good);
    world.heal();
    let back = world.run_until(30_000, |w| (0..6).all(|n| root(w, n) == good));
    assert!(back.is_some(), "{:?}", (0..6).map(|n| root(&world, n)).collect::<Vec<_>>());
    // And from now on nobody takes what it signs.
    rulings::edit(&mut world, 4, 1, 4).unwrap();
    world.run_to(world.now + 2_000);
    assert!((0..6).all(|n| root(&world, n) == good));
}

#[test]
fn case_40_a_fresh_host_serves_nobody_by_an_old_policy_that_one_peer_offers() {
    let mut world = world(6, 40);
    ruled(&mut world, 1);
    // Node 5 is cut off with what it knows, and the document changes.
    world.partition(|node| usize::from(node == 5));
    rulings::edit(&mut world, 0, 1, 2).unwrap();
    world.run_to(world.now + 15_000);
    assert_ne!(root(&world, 5), root(&world, 0));
    // A host whose disk is gone is let in again by an issuer that knows, and meets node 5 only.
    let issuer = world.nodes[0].policy.clone().unwrap();
    world.crash(4);
    world.nodes[4].disk = Default::default();
    world.nodes[4].listed = issuer.documents.listed(limits::JOIN_POLICY_HEADS);
    world.partition(|node| usize::from(node >= 4));
    world.start(4);
    world.connect(4, 5);
    world.run_to(world.now + 60_000);
    assert_eq!(root(&world, 4), root(&world, 5), "it took what it was offered");
    assert!(world.nodes[4].probation, "and lets nobody in by it");
    world.heal();
    assert!(world.run_until(15_000, |w| !w.nodes[4].probation).is_some());
    assert_eq!(root(&world, 4), root(&world, 0));
}

#[test]
fn hosts_that_all_lost_their_disks_go_on_with_what_they_have() {
    let mut world = world(4, 41);
    for node in 0..4 {
        world.crash(node);
        world.nodes[node].disk = Default::default();
    }
    for node in 0..4 {
        world.start(node);
    }
    world.run_to(world.now + 20_000);
    assert!((0..4).all(|node| world.nodes[node].probation));
    assert!(world.run_until(20_000, |w| (0..4).all(|node| !w.nodes[node].probation)).is_some());
    let unsure = |e: &Event| matches!(e, Event::Anchored { surely: false });
    assert!(world.events.iter().any(|(_, _, e)| unsure(e)));
}
