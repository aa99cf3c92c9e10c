//! What one engine does to another, on the bench.

use super::{
    Blame, Event, Input, LinkId, PersistId, Write,
    bench::{Bench, LINK, local},
};
use crate::{
    clock::millis,
    limits,
    membership::Witness,
    name::NodeKey,
    record::{
        Bundle,
        header::{Header, SIGNATURE_DOMAIN},
        node::NodeState,
    },
    trust::{
        Signer,
        revocation::{By, Revocation, Statement, Subject},
        testing::Mesh,
    },
    view::{Liveness, Reason, Use},
    wire::{frame::Frame, section::Sections},
};

fn sees(bench: &Bench, side: usize, service: &str) -> Option<Use> {
    let view = bench.sides[side].view.as_ref()?;
    let service = view.services.get(&service.parse().unwrap())?;
    service.endpoints.first().map(|endpoint| endpoint.usable)
}

fn liveness(bench: &Bench, side: usize) -> Option<Liveness> {
    let other = bench.key(1 - side);
    Some(bench.sides[side].view.as_ref()?.nodes.get(&other)?.liveness)
}

#[test]
fn nothing_is_said_before_its_sequence_is_on_disk() {
    let bench = {
        let mut bench = Bench::new();
        bench.run(200);
        bench
    };
    let writes = &bench.sides[0].writes;
    let reserved = writes.iter().position(|write| matches!(write, Write::Reserve(_)));
    let said = writes.iter().position(|write| matches!(write, Write::Peer(..)));
    assert!(reserved.unwrap() < said.unwrap());
}

#[test]
fn a_disk_that_hangs_holds_back_what_is_new_and_nothing_else() {
    let mut bench = Bench::new();
    bench.connect();
    bench.run(500);
    bench.disk_hangs = true;
    for weight in 0..(limits::SEQUENCE_BLOCK + 10) {
        let mut said = local(1, "shop/svc-1");
        said.instances.0[0].weight = u32::try_from(weight).unwrap();
        bench.put(0, Input::Local(Box::new(said)));
        bench.run(101);
    }
    let head = |bench: &Bench, at: usize| {
        bench.sides[at].engine.store().head(&bench.key(0)).unwrap().sequence
    };
    let stuck = head(&bench, 1);
    assert!(stuck < limits::SEQUENCE_BLOCK + 1, "a sequence above what was reserved was sent");
    assert_eq!(liveness(&bench, 1), Some(Liveness::Alive));
    bench.disk_goes_on();
    bench.run(500);
    assert!(head(&bench, 1) > stuck);
}

#[test]
fn two_that_meet_know_each_other_within_a_few_round_trips() {
    let mut bench = Bench::new();
    bench.run(100);
    bench.connect();
    bench.run(100);
    assert_eq!(sees(&bench, 0, "shop/svc-2"), Some(Use::Yes));
    assert_eq!(sees(&bench, 1, "shop/svc-1"), Some(Use::Yes));
    let roots: Vec<_> = bench.sides.iter().map(|s| s.view.clone().unwrap().records_root).collect();
    assert_eq!(roots[0], roots[1]);
}

#[test]
fn silence_is_suspected_then_held_for_dead_and_one_word_heals_it() {
    let mut bench = Bench::new();
    bench.connect();
    bench.run(1000);
    bench.lost = true;
    let becomes = |bench: &mut Bench, wanted: Liveness| {
        let from = bench.now;
        while liveness(bench, 0) != Some(wanted) && bench.now < from + 4000 {
            bench.run(1);
        }
        bench.now - from
    };
    let suspected = becomes(&mut bench, Liveness::Suspect);
    assert!((1000..3000).contains(&suspected), "suspected after {suspected} ms");
    assert_eq!(sees(&bench, 0, "shop/svc-2"), Some(Use::LastChoice(Reason::Suspect)));
    let dead = becomes(&mut bench, Liveness::Dead);
    assert!(dead < 1000, "dead {dead} ms after it was suspected");
    assert_eq!(sees(&bench, 0, "shop/svc-2"), Some(Use::No(Reason::Dead)));
    bench.lost = false;
    bench.run(1500);
    assert_eq!(liveness(&bench, 0), Some(Liveness::Alive));
    assert_eq!(sees(&bench, 0, "shop/svc-2"), Some(Use::Yes));
}

/// Side 0 says that it has left, and its link ends.
fn leaves(bench: &mut Bench) {
    let mut said = local(1, "shop/svc-1");
    said.host.state = NodeState::Left;
    bench.put(0, Input::Local(Box::new(said)));
    bench.run(200);
    bench.put(1, Input::Disconnected(LINK));
}

#[test]
fn who_left_is_neither_missed_nor_dialled() {
    let mut bench = Bench::new();
    bench.connect();
    bench.run(500);
    leaves(&mut bench);
    bench.lost = true;
    assert_eq!(liveness(&bench, 1), Some(Liveness::Left));
    bench.sides[1].dials.clear();
    bench.run(10_000);
    assert_eq!(liveness(&bench, 1), Some(Liveness::Left));
    assert_eq!(bench.sides[1].dials, []);
    let missed = |event: &Event| matches!(event, Event::Suspect(_) | Event::Dead(_));
    assert!(!bench.sides[1].events.iter().any(missed), "{:?}", bench.sides[1].events);
}

#[test]
fn who_starts_dials_those_that_left_before_and_one_record_brings_them_back() {
    let mut bench = Bench::new();
    bench.connect();
    bench.run(500);
    leaves(&mut bench);
    bench.restart(1);
    bench.lost = true;
    bench.run(10_000);
    assert_eq!(liveness(&bench, 1), Some(Liveness::Left), "it is not missed");
    let other = bench.key(0);
    assert!(bench.sides[1].dials.contains(&other), "it is dialled");
    // A dial of a node that is out comes to nothing, and is tried again.
    let dials = bench.sides[1].dials.len();
    bench.put(1, Input::DialFailed(other));
    bench.run(5_000);
    assert!(bench.sides[1].dials.len() > dials);
    bench.lost = false;
    bench.restart(0);
    bench.run(200);
    bench.connect();
    bench.run(200);
    assert_eq!(liveness(&bench, 1), Some(Liveness::Alive));
    assert_eq!(sees(&bench, 1, "shop/svc-1"), Some(Use::Yes));
    assert_eq!(liveness(&bench, 0), Some(Liveness::Alive));
}

#[test]
fn an_agent_that_was_late_itself_accuses_nobody() {
    let mut bench = Bench::new();
    bench.connect();
    bench.run(1000);
    bench.now += 10_000;
    bench.run(900);
    let late = |event: &Event| matches!(event, Event::Late(_));
    assert!(bench.sides[0].events.iter().any(late));
    let accused = |event: &Event| matches!(event, Event::Suspect(_) | Event::Dead(_));
    assert!(!bench.sides.iter().flat_map(|side| &side.events).any(accused));
}

/// How long after a watcher's word each of so many records follows that refutes it, in ms.
fn refutes(bench: &mut Bench, count: usize) -> Vec<u64> {
    let mesh = Mesh::new(7);
    let (subject, watcher) = (bench.key(0), bench.key(1));
    let said = |bench: &Bench| bench.sides[0].engine.store().head(&subject).unwrap().sequence;
    let mut waits = Vec::new();
    for _ in 0..count {
        let (sequence, from) = (said(bench), bench.now);
        let witness = Witness { mesh: mesh.mesh, subject, sequence, boot: 0, watcher };
        let frame = Frame::Witness(witness.sign(&mesh.node_signer(2)));
        bench.put(0, Input::Frame { link: LINK, bytes: frame.encode().unwrap().into() });
        while said(bench) == sequence && bench.now < from + 60_000 {
            bench.run(1);
        }
        waits.push(bench.now - from);
    }
    waits
}

#[test]
fn what_would_be_its_death_a_host_refutes_at_once_in_a_burst_and_then_in_bounded_time() {
    let mut bench = Bench::new();
    bench.connect();
    bench.run(1000);
    // Of two agents each has one watcher, whose word is enough. The slow way's tenths, and each
    // of a burst that refills while it is used.
    let waits = refutes(&mut bench, 24);
    let (burst, later) = waits.split_at(usize::try_from(limits::REFUTE_BURST).unwrap());
    assert!(burst.iter().all(|ms| *ms <= 200), "{waits:?}");
    let longest = millis(limits::REFUTE_MAX);
    assert!(later.iter().all(|ms| *ms <= longest), "{waits:?}");
    let all: u64 = waits.iter().sum();
    assert!(all > 8 * longest / 2, "the burst has an end: {waits:?}");
    bench.run(2 * longest);
    assert!(refutes(&mut bench, 2).iter().all(|ms| *ms <= 200), "tokens came back");
}

#[test]
fn whom_gossip_lacks_is_probed_over_a_link_and_not_dialled_for_it() {
    let mut bench = Bench::new();
    bench.connect();
    bench.run(500);
    let other = bench.key(1);
    let probes = |bench: &Bench| bench.sides[0].sent.iter().filter(|f| f[0] == 2).count();
    let before = probes(&bench);
    bench.put(0, Input::GossipLive([other].into()));
    assert_eq!(probes(&bench), before);
    bench.put(0, Input::GossipLive([].into()));
    assert_eq!(probes(&bench), before + 1);
    // Who left is not watched, so that nothing but the doubt would dial it.
    leaves(&mut bench);
    bench.sides[1].dials.clear();
    bench.put(1, Input::GossipLive([].into()));
    bench.run(5_000);
    assert_eq!(bench.sides[1].dials, []);
}

#[test]
fn a_frame_before_the_hello_is_blamed() {
    let mut bench = Bench::new();
    bench.lost = true;
    bench.connect();
    let pull = Frame::Pull(Vec::new()).encode().unwrap();
    bench.put(0, Input::Frame { link: LINK, bytes: pull.into() });
    let other = bench.key(1);
    assert!(bench.sides[0].events.contains(&Event::Blamed(other, Blame::OutOfTurn)));
}

#[test]
fn too_much_blame_cuts_a_peer_off() {
    let mut bench = Bench::new();
    bench.connect();
    bench.run(200);
    for _ in 0..limits::BLAME_CUT {
        bench.put(0, Input::Frame { link: LINK, bytes: vec![3].into() });
    }
    let other = bench.key(1);
    assert!(bench.sides[0].events.contains(&Event::CutOff(other)));
    assert_eq!(bench.sides[0].engine.ready_links().count(), 0);
}

#[test]
fn a_write_that_fails_is_told_and_tried_again() {
    let mut bench = Bench::new();
    bench.disk_hangs = true;
    bench.put(0, Input::PersistFailed(PersistId(1), "no space".to_owned()));
    assert!(bench.sides[0].events.contains(&Event::DiskFailed("no space".to_owned())));
    bench.run(50);
    bench.disk_goes_on();
    bench.run(3000);
    assert!(bench.sides[0].engine.store().head(&bench.key(0)).is_some());
}

#[test]
fn an_instance_that_the_grant_does_not_name_is_said_and_the_rest_is_published() {
    let mut bench = Bench::new();
    bench.run(200);
    let mut said = local(1, "shop/svc-1");
    let mut stranger = super::bench::instance("bank/vault");
    stranger.id.endpoint = "b".parse().unwrap();
    said.instances.0.push(stranger);
    bench.put(0, Input::Local(Box::new(said)));
    bench.run(200);
    let told =
        |event: &Event| matches!(event, Event::NotPublished(why) if why.contains("skein admit"));
    assert!(bench.sides[0].events.iter().any(told));
    assert_eq!(sees(&bench, 0, "shop/svc-1"), Some(Use::Yes));
    assert_eq!(sees(&bench, 0, "bank/vault"), None);
}

/// The record of side 0, and the same as a newer agent would say it, two sequences on.
fn of_a_newer_agent(bench: &Bench) -> Bundle {
    let held = bench.sides[0].engine.store().body(&bench.key(0)).unwrap();
    let header = Header { sequence: held.header().sequence + 2, ..*held.header() };
    let parts = Header::split(&held.bundle().record).unwrap();
    let mut sections = Sections::decode(parts.payload).unwrap();
    sections.put(6, vec![1, 2, 3]);
    let mut record = header.with_payload(&sections.encode());
    let signature = Mesh::new(7).node_signer(1).sign(&[SIGNATURE_DOMAIN, &record].concat());
    record.extend_from_slice(&signature.0);
    Bundle { chain: held.bundle().chain.clone(), record }
}

#[test]
fn a_record_of_a_newer_agent_is_carried_and_not_read() {
    let mut bench = Bench::new();
    bench.connect();
    bench.run(500);
    let other = bench.key(0);
    let newer = of_a_newer_agent(&bench);
    let frame = Frame::Record(Box::new(newer.clone())).encode().unwrap();
    bench.put(1, Input::Frame { link: LINK, bytes: frame.into() });
    bench.run(50);
    let held = bench.sides[1].engine.store().body(&other).unwrap();
    assert_eq!((&**held.bundle(), held.content()), (&newer, None));
    assert_eq!(sees(&bench, 1, "shop/svc-1"), None, "nothing of it is shown");
    assert_eq!(liveness(&bench, 1), None);
    let blamed = |event: &Event| matches!(event, Event::Blamed(..));
    assert!(!bench.sides[1].events.iter().any(blamed), "{:?}", bench.sides[1].events);
    assert!(bench.sides[1].events.contains(&Event::Unread(other, true)));
    let kept =
        |write: &Write| matches!(write, Write::Peer(key, b) if *key == other && **b == newer);
    assert!(bench.sides[1].writes.iter().any(kept), "it is on disk for who can read it later");

    // Who asks gets it, byte for byte.
    bench.lost = true;
    let pull = Frame::Pull(vec![other]).encode().unwrap();
    bench.sides[1].sent.clear();
    bench.put(1, Input::Frame { link: LINK, bytes: pull.into() });
    let wanted = Frame::Record(Box::new(newer)).encode().unwrap();
    assert!(bench.sides[1].sent.contains(&wanted));

    // What can be read again is.
    bench.lost = false;
    bench.run(3_000);
    assert_eq!(liveness(&bench, 1), Some(Liveness::Alive));
    assert_eq!(sees(&bench, 1, "shop/svc-1"), Some(Use::Yes));
    assert!(bench.sides[1].events.contains(&Event::Unread(other, false)));
}

fn statement(subject: Subject, key: crate::trust::PublicKey, by_root: bool) -> Statement {
    let mesh = Mesh::new(7);
    let by = match by_root {
        true => By::Root(mesh.root_key().public_key()),
        false => By::Operator(mesh.operator.clone()),
    };
    let (reason, works) = ("stolen".to_owned(), Vec::new());
    let said = Revocation { mesh: mesh.mesh, subject, key, by, reason, works };
    match by_root {
        true => said.sign(&mesh.root_key()).unwrap(),
        false => said.sign(&mesh.operator_key()).unwrap(),
    }
}

#[test]
fn an_operators_revocations_beyond_its_share_leave_nothing_on_disk_and_the_root_ends_it() {
    let mesh = Mesh::new(7);
    let mut bench = Bench::new();
    bench.connect();
    bench.run(500);
    let revoke = |bench: &mut Bench, statement: Statement| {
        bench.put(0, Input::Revoke(Box::new(statement)));
    };
    let share = u64::try_from(limits::REVOCATIONS_PER_OPERATOR).unwrap();
    for n in 0..share + 3 {
        let stranger = mesh.node_key(10_000 + n).0;
        revoke(&mut bench, statement(Subject::Node, stranger, false));
    }
    let written = |bench: &Bench, side: usize| {
        let all = bench.sides[side].writes.iter();
        all.filter(|write| matches!(write, Write::Revocation(..))).count()
    };
    assert_eq!(written(&bench, 0), limits::REVOCATIONS_PER_OPERATOR);
    bench.run(100);
    assert_eq!(written(&bench, 1), limits::REVOCATIONS_PER_OPERATOR);
    let operator = mesh.operator_key().public_key();
    revoke(&mut bench, statement(Subject::Operator, operator, true));
    bench.run(100);
    for side in [0, 1] {
        let ended = &bench.sides[side].engine.revocations;
        assert!(ended.ended(Subject::Operator, &operator), "side {side}");
    }
    assert_eq!(bench.sides[0].engine.ready_links().count(), 1, "nobody lost a link over it");
}

#[test]
fn a_host_that_restarts_still_knows_the_nodes_of_an_issuer_whose_host_was_revoked() {
    let mesh = Mesh::new(7);
    let mut bench = Bench::new();
    bench.connect();
    bench.run(500);
    // Node 0 holds the issuer of both.
    let host = statement(Subject::Node, mesh.node_key(0).0, false);
    bench.put(0, Input::Revoke(Box::new(host)));
    bench.run(100);
    bench.restart(0);
    bench.run(10);
    let view = bench.sides[0].view.clone().unwrap();
    assert!(view.nodes.contains_key(&bench.key(1)), "its record on disk is believed");
    bench.connect();
    bench.run(500);
    assert_eq!(bench.sides[0].engine.ready_links().count(), 1);
}

/// Bytes of the frames that a side sent since `from`, by their kind.
fn sent_since(bench: &Bench, side: usize, from: usize, kind: u8) -> usize {
    let sent = bench.sides[side].sent.iter().skip(from);
    sent.filter(|frame| frame.first() == Some(&kind)).map(Vec::len).sum()
}

const RECORD_KIND: u8 = 4;

#[test]
fn that_others_hear_of_a_node_counts_only_for_the_question_that_was_asked() {
    let mut bench = Bench::new();
    bench.connect();
    bench.run(500);
    let subject = bench.key(1);
    let shield = |bench: &mut Bench, id: u64| {
        let probe = crate::wire::frame::ProbeFor { id, subject };
        bench.sides[0].engine.heard_by(LinkId(77), probe);
        bench.sides[0].engine.heard_by(LINK, probe);
    };
    bench.lost = true;
    for n in 0..10_000 {
        bench.run(1);
        shield(&mut bench, n);
    }
    assert_eq!(liveness(&bench, 0), Some(Liveness::Dead), "nobody shields a host that is gone");
    shield(&mut bench, 1);
    assert_eq!(liveness(&bench, 0), Some(Liveness::Dead));
}

#[test]
fn one_record_that_is_asked_for_over_and_over_is_told_within_a_budget() {
    let mut bench = Bench::new();
    bench.connect();
    bench.run(500);
    let from = bench.sides[0].sent.len();
    let own = bench.key(0);
    for _ in 0..1_000 {
        let pull = Frame::Pull(vec![own; limits::PULLS_PER_FRAME]).encode().unwrap();
        bench.put(0, Input::Frame { link: LINK, bytes: pull.into() });
    }
    let told = sent_since(&bench, 0, from, RECORD_KIND);
    let one = bench.sides[0].sent.iter().filter(|f| f.first() == Some(&RECORD_KIND)).map(Vec::len);
    let one = one.max().unwrap();
    assert!(told <= 1_000 * one, "once in each frame: {told}");
    assert!(told <= limits::ANSWERED_BURST + one, "{told}");
}

#[test]
fn heads_that_a_peer_invents_keep_nobody_from_being_asked() {
    use super::exchange::{PULLS_MAX, Pulls};
    use crate::clock::Tick;
    let key = |n: usize| NodeKey(crate::name::Hash::of(&[&n.to_le_bytes()]).0);
    let mut pulls = Pulls::default();
    for liar in 1..=3 {
        for n in 0..PULLS_MAX {
            pulls.ask(
                Tick(0),
                LinkId(liar),
                key(n + 1_000_000 * usize::try_from(liar).unwrap()),
                1,
            );
        }
    }
    assert!(pulls.len() <= PULLS_MAX);
    let honest = (0..limits::NODES_MAX).filter(|n| pulls.ask(Tick(0), LinkId(9), key(*n), 5));
    assert!(honest.count() >= limits::NODES_MAX / 8);
    // A higher claim of a liar does not keep what another has from being asked for.
    let origin = key(77_777_777);
    let mut pulls = Pulls::default();
    assert!(pulls.ask(Tick(0), LinkId(1), origin, 1 << 40));
    assert!(!pulls.ask(Tick(0), LinkId(1), origin, 7), "it is asked for already");
    assert!(pulls.ask(Tick(0), LinkId(2), origin, 7));
    assert!(!pulls.ask(Tick(0), LinkId(3), origin, 7) && pulls.is_asked(&origin, 7));
    pulls.remove(&origin);
    assert_eq!(pulls.len(), 0);
}
