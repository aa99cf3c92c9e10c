//! The filter against every message of FAULTS.md 5.1, and real chitchats over channels under a
//! clock that stands still.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use ::chitchat::{ChitchatMessage, Deserializable};
use bytes::Bytes;
use proptest::prelude::*;
use skein_protocol::{
    clock::Tick,
    limits,
    name::{Hash, NodeKey},
    record::node::NodeState,
};
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
    time::timeout,
};

use super::{
    Blame, Directory, Dropped, Filter, Gossip, GossipConfig, GossipEvent, GossipPorts, Head, Hints,
    Passed,
    chitchat::{Identity, Instance},
    task::{Task, round_of},
    virtual_address,
    wire::{Entry, Id, KeyValue, Message, NodeDelta, Source},
};

const CLUSTER: &str = "mesh/default";
const GENERATION: u64 = 7;

fn key(n: u8) -> NodeKey {
    NodeKey([n; 32])
}

fn id(n: u8) -> Id {
    Id {
        short: key(n).short().as_str().to_owned(),
        generation: GENERATION,
        address: virtual_address(&key(n)),
    }
}

fn members(count: u8) -> Directory {
    (1..=count).map(|n| (key(n), GENERATION)).collect()
}

fn entry(n: u8, heartbeat: u64, max_version: u64) -> Entry {
    Entry { id: id(n), heartbeat, max_version }
}

fn pair(key: &str, value: &str, version: u64) -> KeyValue {
    KeyValue { key: key.to_owned(), value: value.to_owned(), version }
}

fn news(n: u8, keys: Vec<KeyValue>) -> NodeDelta {
    NodeDelta { id: id(n), from_version: 0, keys }
}

fn syn(mut digest: Vec<Entry>) -> Vec<u8> {
    digest.sort_by(|a, b| a.id.cmp(&b.id));
    let cluster = CLUSTER.to_owned();
    Message::Syn { digest, cluster }.encode()
}

fn ack(delta: Vec<NodeDelta>) -> Vec<u8> {
    Message::Ack { delta }.encode()
}

/// An ack whose operations are written by hand.
fn raw_ack(operations: &[&[u8]]) -> Vec<u8> {
    let operations = operations.concat();
    let mut bytes = vec![0x53, 0xb0, 0, 2, 2];
    bytes.extend(u16::try_from(operations.len()).unwrap().to_le_bytes());
    bytes.extend(operations);
    bytes.push(0);
    bytes
}

fn node_operation(n: u8, gc: u64, from: u64) -> Vec<u8> {
    let id = id(n);
    let mut bytes = vec![0, 10, 0];
    bytes.extend(id.short.as_bytes());
    bytes.extend(id.generation.to_le_bytes());
    bytes.push(4);
    bytes.extend(id.address.ip().octets());
    bytes.extend(id.address.port().to_le_bytes());
    bytes.extend(gc.to_le_bytes());
    bytes.extend(from.to_le_bytes());
    bytes
}

fn key_operation(key: &[u8], value: &[u8], version: u64, status: u8) -> Vec<u8> {
    let mut bytes = vec![1];
    for text in [key, value] {
        bytes.extend(u16::try_from(text.len()).unwrap().to_le_bytes());
        bytes.extend(text);
    }
    bytes.extend(version.to_le_bytes());
    bytes.push(status);
    bytes
}

fn maximum_operation(version: u64) -> Vec<u8> {
    let mut bytes = vec![2];
    bytes.extend(version.to_le_bytes());
    bytes
}

/// C2: ends chitchat's task, once chitchat knows agent 2.
pub(super) fn killer() -> Vec<u8> {
    raw_ack(&[
        &node_operation(2, 0, 0),
        &key_operation(b"head", b"1", 100, 0),
        &maximum_operation(1),
    ])
}

/// Agent 1 hears agent 2 of a mesh of four.
struct Bench {
    filter: Filter,
    directory: Directory,
    now: Tick,
}

impl Bench {
    fn new() -> Self {
        Self {
            filter: Filter::new(key(1), CLUSTER, GENERATION),
            directory: members(4),
            now: Tick(1_000_000),
        }
    }

    fn hear(&mut self, bytes: &[u8]) -> Result<Passed, Blame> {
        self.hear_from(2, bytes)
    }

    fn hear_from(&mut self, sender: u8, bytes: &[u8]) -> Result<Passed, Blame> {
        let passed = self.filter.inbound(self.now, key(sender), bytes, &self.directory)?;
        let mut filtered = passed.bytes.as_slice();
        ChitchatMessage::deserialize(&mut filtered).expect("chitchat reads what the filter passed");
        assert!(filtered.is_empty());
        Ok(passed)
    }

    fn refusal(&mut self, bytes: &[u8]) -> Blame {
        self.hear(bytes).expect_err("must be refused")
    }
}

fn digest_of(passed: &Passed) -> Vec<Entry> {
    match Message::parse(passed.bytes.as_slice(), Source::Peer).unwrap() {
        Message::Syn { digest, .. } | Message::SynAck { digest, .. } => digest,
        other => panic!("no digest in {other:?}"),
    }
}

fn delta_of(passed: &Passed) -> Vec<NodeDelta> {
    match Message::parse(passed.bytes.as_slice(), Source::Peer).unwrap() {
        Message::Ack { delta } | Message::SynAck { delta, .. } => delta,
        other => panic!("no delta in {other:?}"),
    }
}

#[test]
fn an_honest_message_passes_unchanged() {
    let mut bench = Bench::new();
    let hello = syn(vec![entry(1, 5, 4), entry(2, 90, 4), entry(3, 17, 2)]);
    assert_eq!(bench.hear(&hello).unwrap().bytes.as_slice(), hello);
    let told = ack(vec![
        news(2, vec![pair("state", "up", 1), pair("head", "4.ab", 3)]),
        news(3, vec![pair("load", "9", 2)]),
    ]);
    assert_eq!(bench.hear(&told).unwrap().bytes.as_slice(), told);
}

#[test]
fn c2_a_maximum_set_below_a_key_is_refused() {
    assert_eq!(Bench::new().refusal(&killer()), Blame::SetMaxVersion);
}

#[test]
fn c3_news_about_ourselves_is_refused() {
    let bytes = ack(vec![news(1, vec![pair("head", "1", 3)])]);
    assert_eq!(Bench::new().refusal(&bytes), Blame::AboutUs);
    let mut bench = Bench::new();
    let mut of_old_boot = news(1, vec![pair("head", "1", 3)]);
    of_old_boot.id.generation = 1;
    assert_eq!(bench.refusal(&ack(vec![of_old_boot])), Blame::AboutUs);
}

#[test]
fn c3_a_version_without_end_is_refused() {
    for version in [limits::GOSSIP_VERSION_MAX, u64::MAX] {
        let bytes = ack(vec![news(3, vec![pair("head", "1", version)])]);
        assert_eq!(Bench::new().refusal(&bytes), Blame::VersionJump);
        let bytes = syn(vec![entry(3, 1, version)]);
        assert_eq!(Bench::new().refusal(&bytes), Blame::VersionJump);
    }
    let bytes = raw_ack(&[&node_operation(3, 0, 0), &maximum_operation(u64::MAX)]);
    assert_eq!(Bench::new().refusal(&bytes), Blame::SetMaxVersion);
}

#[test]
fn c3_garbage_collected_versions_and_tombstones_are_refused() {
    let wiped = raw_ack(&[&node_operation(3, 9, 0), &key_operation(b"head", b"", 10, 0)]);
    assert_eq!(Bench::new().refusal(&wiped), Blame::Tombstone);
    for status in [1, 2, 9] {
        let bytes = raw_ack(&[&node_operation(3, 0, 0), &key_operation(b"head", b"", 1, status)]);
        assert_eq!(Bench::new().refusal(&bytes), Blame::Tombstone);
    }
}

#[test]
fn c3_a_version_beyond_its_rate_is_left_out_and_blamed_on_its_subject_only() {
    let mut bench = Bench::new();
    let told = |version| ack(vec![news(3, vec![pair("head", "1", version)])]);
    bench.hear(&told(5)).unwrap();
    let far = 6 + limits::GOSSIP_VERSION_BURST;
    let passed = bench.hear(&told(far)).unwrap();
    assert_eq!(passed.dropped, [(key(3), Dropped::VersionJump)]);
    assert!(delta_of(&passed).is_empty());
    assert_eq!(bench.hear_from(3, &told(far)), Err(Blame::VersionJump));
    bench.now = bench.now.after(Duration::from_secs(1));
    assert_eq!(delta_of(&bench.hear(&told(far)).unwrap()).len(), 1);
}

#[test]
fn c4_a_heartbeat_without_end_is_refused() {
    for heartbeat in [limits::GOSSIP_HEARTBEAT_MAX, u64::MAX] {
        let bytes = syn(vec![entry(3, heartbeat, 1)]);
        assert_eq!(Bench::new().refusal(&bytes), Blame::HeartbeatJump);
    }
}

#[test]
fn c4_a_heartbeat_beyond_its_rate_is_left_out_and_blamed_on_its_subject_only() {
    let mut bench = Bench::new();
    let seen = |heartbeat| syn(vec![entry(2, 1, 1), entry(3, heartbeat, 1)]);
    bench.hear(&seen(1_000)).unwrap();
    let far = 1_001 + limits::GOSSIP_HEARTBEAT_BURST;
    let passed = bench.hear(&seen(far)).unwrap();
    assert_eq!(passed.dropped, [(key(3), Dropped::HeartbeatJump)]);
    assert_eq!(digest_of(&passed), [entry(2, 1, 1)]);
    assert_eq!(bench.hear_from(3, &seen(far)), Err(Blame::HeartbeatJump));
    bench.now = bench.now.after(Duration::from_secs(1));
    assert_eq!(digest_of(&bench.hear(&seen(far)).unwrap()).len(), 2);
}

#[test]
fn c5_invented_ids_never_reach_chitchat_and_are_reported_within_bounds() {
    let mut bench = Bench::new();
    let digest: Vec<Entry> = (5..=255).map(|n| entry(n, 1, 1)).chain([entry(2, 1, 1)]).collect();
    let passed = bench.hear(&syn(digest)).unwrap();
    assert_eq!(digest_of(&passed), [entry(2, 1, 1)]);
    assert_eq!(passed.unknown.len(), limits::GOSSIP_UNKNOWN_PER_MESSAGE);
    let passed = bench.hear(&ack(vec![news(9, vec![pair("head", "1", 1)])])).unwrap();
    assert!(delta_of(&passed).is_empty());
    assert_eq!(passed.unknown, [key(9).short()]);
}

#[test]
fn an_id_with_another_generation_is_left_out_and_a_newer_one_reported() {
    let mut bench = Bench::new();
    let mut older = entry(3, 1, 1);
    older.id.generation = GENERATION - 1;
    let passed = bench.hear(&syn(vec![older])).unwrap();
    assert!(digest_of(&passed).is_empty() && passed.unknown.is_empty());
    let mut newer = entry(3, 1, 1);
    newer.id.generation = GENERATION + 1;
    let passed = bench.hear(&syn(vec![newer])).unwrap();
    assert!(digest_of(&passed).is_empty());
    assert_eq!(passed.unknown, [key(3).short()]);
}

#[test]
fn an_id_with_the_address_of_another_key_is_blamed() {
    let mut moved = entry(3, 1, 1);
    moved.id.address = virtual_address(&key(4));
    assert_eq!(Bench::new().refusal(&syn(vec![moved])), Blame::BadId);
    let mut odd = entry(3, 1, 1);
    odd.id.short = "UPPERCASE!".to_owned();
    assert_eq!(Bench::new().refusal(&syn(vec![odd])), Blame::BadId);
}

#[test]
fn a_node_that_starts_again_and_again_takes_two_places() {
    let mut bench = Bench::new();
    for generation in 0..10 {
        bench.directory.insert(key(3), generation);
        let mut again = entry(3, 1, 1);
        again.id.generation = generation;
        let passed = bench.hear(&syn(vec![again])).unwrap();
        let kept = digest_of(&passed).len();
        assert_eq!(kept, usize::from(generation < 2), "generation {generation}");
    }
    bench.now = bench.now.after(limits::GOSSIP_SEEN_KEEP);
    let mut again = entry(3, 1, 1);
    again.id.generation = 9;
    assert_eq!(digest_of(&bench.hear(&syn(vec![again])).unwrap()).len(), 1);
}

#[test]
fn c6_a_compressed_block_is_refused_unread() {
    let bomb = zstd::bulk::compress(&[0; 65_535], 1).unwrap();
    let mut bytes = vec![0x53, 0xb0, 0, 2, 1];
    bytes.extend(u16::try_from(bomb.len()).unwrap().to_le_bytes());
    bytes.extend(bomb);
    bytes.push(0);
    assert_eq!(Bench::new().refusal(&bytes), Blame::Compressed);
}

#[test]
fn keys_and_values_that_no_agent_writes_are_refused() {
    let told = |keys: &[Vec<u8>]| {
        let mut operations = vec![node_operation(3, 0, 0)];
        operations.extend_from_slice(keys);
        raw_ack(&operations.iter().map(Vec::as_slice).collect::<Vec<_>>())
    };
    let long = vec![b'x'; limits::GOSSIP_VALUE_BYTES + 1];
    let cases: [(&[Vec<u8>], Blame); 8] = [
        (&[key_operation("clé".as_bytes(), b"1", 1, 0)], Blame::BadKey),
        (&[key_operation(b"", b"1", 1, 0)], Blame::BadKey),
        (&[key_operation(&[b'k'; 17], b"1", 1, 0)], Blame::BadKey),
        (&[key_operation(b"head", &long, 1, 0)], Blame::OversizeValue),
        (&[key_operation(b"head", b"\xff", 1, 0)], Blame::BadValue),
        (&[key_operation(b"head", "é".as_bytes(), 1, 0)], Blame::BadValue),
        (
            &[key_operation(b"head", b"", 2, 0), key_operation(b"load", b"", 2, 0)],
            Blame::VersionOrder,
        ),
        (&[key_operation(b"head", b"", 1, 0), key_operation(b"head", b"", 2, 0)], Blame::Duplicate),
    ];
    for (keys, reason) in cases {
        assert_eq!(Bench::new().refusal(&told(keys)), reason);
    }
    let five: Vec<Vec<u8>> = ["a", "b", "c", "d", "e"]
        .iter()
        .zip(1..)
        .map(|(key, version)| key_operation(key.as_bytes(), b"", version, 0))
        .collect();
    assert_eq!(Bench::new().refusal(&told(&five)), Blame::TooManyKeys);
}

#[test]
fn a_key_of_a_newer_agent_is_left_out_without_blame() {
    let told = ack(vec![news(3, vec![pair("head", "1", 1), pair("colour", "red", 2)])]);
    let passed = Bench::new().hear(&told).unwrap();
    assert_eq!(delta_of(&passed), [news(3, vec![pair("head", "1", 1)])]);
}

#[test]
fn another_cluster_repetition_and_bytes_after_the_end_are_refused() {
    let mut bench = Bench::new();
    let cluster = "other".to_owned();
    let foreign = Message::Syn { digest: Vec::new(), cluster };
    assert_eq!(bench.refusal(&foreign.encode()), Blame::WrongCluster);
    assert_eq!(bench.refusal(&Message::BadCluster.encode()), Blame::WrongCluster);
    let twice = syn(vec![entry(2, 1, 1), entry(2, 1, 1)]);
    assert_eq!(bench.refusal(&twice), Blame::Duplicate);
    let twice = ack(vec![news(2, Vec::new()), news(2, Vec::new())]);
    assert_eq!(bench.refusal(&twice), Blame::Duplicate);
    let mut longer = syn(vec![entry(2, 1, 1)]);
    longer.push(0);
    assert_eq!(bench.refusal(&longer), Blame::Malformed);
    let huge = vec![0; limits::GOSSIP_MESSAGE_BYTES + 1];
    assert_eq!(bench.refusal(&huge), Blame::Oversize);
}

#[test]
fn a_message_cut_short_anywhere_is_refused() {
    let digest = vec![entry(2, 1, 1), entry(3, 1, 1)];
    let delta = vec![news(2, vec![pair("head", "1", 1)]), news(3, vec![pair("load", "1", 1)])];
    let whole = Message::SynAck { digest, delta }.encode();
    for end in 0..whole.len() {
        Bench::new().refusal(&whole[..end]);
    }
}

#[test]
fn a_peer_has_a_budget_that_fills_again() {
    let mut filter = Filter::new(key(1), CLUSTER, GENERATION);
    let mut now = Tick(5_000);
    let spent =
        |filter: &mut Filter, now| (0..1_000).filter(|_| filter.within_budget(now, key(2))).count();
    assert_eq!(spent(&mut filter, now), 64);
    assert!(filter.within_budget(now, key(3)), "the budget of another peer");
    now = now.after(Duration::from_secs(1));
    assert_eq!(spent(&mut filter, now), 16);
}

#[test]
fn a_delta_over_the_limit_of_a_message_loses_whole_nodes() {
    let value = "v".repeat(limits::GOSSIP_VALUE_BYTES);
    let told = |n: u8| {
        let keys = ["head", "policy", "state", "load"];
        news(n, keys.iter().zip(1..).map(|(key, version)| pair(key, &value, version)).collect())
    };
    let delta: Vec<NodeDelta> = (1..=255).map(told).collect();
    let bytes = ack(delta.clone());
    assert!(bytes.len() <= limits::GOSSIP_MESSAGE_BYTES);
    let Message::Ack { delta: sent } = Message::parse(&bytes, Source::Peer).unwrap() else {
        panic!("an ack");
    };
    assert!(sent.len() > 200 && delta.starts_with(&sent));
}

proptest! {
    #[test]
    fn no_bytes_make_the_filter_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut bench = Bench::new();
        let _ = bench.hear(&bytes);
        let _ = bench.filter.outbound(&key(2), &bytes, &bench.directory);
        let mut framed = vec![0x53, 0xb0, 0];
        framed.extend(bytes);
        let _ = bench.hear(&framed);
        let _ = bench.filter.outbound(&key(2), &framed, &bench.directory);
    }

    #[test]
    fn no_change_of_an_honest_message_makes_the_filter_panic_or_pass_what_chitchat_refuses(
        kind in 0..3_u8,
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let digest = vec![entry(2, 1, 1)];
        let delta = vec![
            news(2, vec![pair("head", "1.ab", 1), pair("state", "up", 2)]),
            news(3, vec![pair("load", "1", 1)]),
        ];
        let message = match kind {
            0 => Message::Syn { digest, cluster: CLUSTER.to_owned() },
            1 => Message::SynAck { digest, delta },
            _ => Message::Ack { delta },
        };
        let mut bytes = message.encode();
        for (place, value) in changes {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        let mut bench = Bench::new();
        if let Ok(passed) = bench.hear(&bytes) {
            for entry in Message::parse(passed.bytes.as_slice(), Source::Peer).map(ids).unwrap() {
                prop_assert!(bench.directory.find(&entry.short).is_some());
            }
        }
        let _ = bench.filter.outbound(&key(2), &bytes, &bench.directory);
    }

    #[test]
    fn what_is_written_is_read_as_the_same(
        heartbeats in proptest::collection::vec((1..200_u8, any::<u64>(), any::<u64>()), 0..40),
        values in proptest::collection::vec("[ -~]{0,96}", 0..4),
    ) {
        let mut digest: Vec<Entry> =
            heartbeats.iter().map(|(n, beat, version)| entry(*n, *beat, *version)).collect();
        digest.sort_by(|a, b| a.id.cmp(&b.id));
        digest.dedup_by(|a, b| a.id == b.id);
        let keys = ["head", "policy", "state", "load"].iter().zip(&values).zip(1..);
        let delta = vec![news(3, keys.map(|((key, value), n)| pair(key, value, n)).collect())];
        let message = Message::SynAck { digest, delta };
        prop_assert_eq!(Message::parse(&message.encode(), Source::Peer), Ok(message));
    }
}

fn ids(message: Message) -> Vec<Id> {
    let (digest, delta) = match message {
        Message::Syn { digest, .. } => (digest, Vec::new()),
        Message::SynAck { digest, delta } => (digest, delta),
        Message::Ack { delta } => (Vec::new(), delta),
        Message::BadCluster => (Vec::new(), Vec::new()),
    };
    digest.into_iter().map(|entry| entry.id).chain(delta.into_iter().map(|node| node.id)).collect()
}

#[test]
fn a_round_grows_with_the_mesh_within_its_bounds() {
    assert_eq!(round_of(0), Duration::from_secs(5));
    assert_eq!(round_of(50), Duration::from_secs(5));
    assert_eq!(round_of(100), Duration::from_secs(10));
    assert_eq!(round_of(100_000), Duration::from_secs(10));
}

/// One agent's gossip, seen from outside.
struct Agent {
    key: NodeKey,
    directory: watch::Sender<Arc<Directory>>,
    links: watch::Sender<Arc<BTreeSet<NodeKey>>>,
    own: watch::Sender<Hints>,
    inbound: mpsc::Sender<(NodeKey, Bytes)>,
    events: mpsc::Receiver<GossipEvent>,
    shutdown: watch::Sender<bool>,
}

fn hints(n: u8) -> Hints {
    Hints {
        head: Some(Head { sequence: u64::from(n), hash: Hash([n; 32]) }),
        policy: Some(Hash([9; 32])),
        state: Some(NodeState::Up),
        load: Some(0),
    }
}

type Sent = mpsc::Receiver<(NodeKey, Bytes)>;

fn agent(n: u8, directory: &Directory) -> (Agent, GossipConfig, GossipPorts, Sent) {
    let (directory_in, directory) = watch::channel(Arc::new(directory.clone()));
    let (links_in, links) = watch::channel(Arc::default());
    let (own_in, own) = watch::channel(hints(n));
    let (inbound_in, inbound) = mpsc::channel(16);
    let (outbound, sent) = mpsc::channel(16);
    let (events, events_out) = mpsc::channel(256);
    let (shutdown_in, shutdown) = watch::channel(false);
    let agent = Agent {
        key: key(n),
        directory: directory_in,
        links: links_in,
        own: own_in,
        inbound: inbound_in,
        events: events_out,
        shutdown: shutdown_in,
    };
    let config = GossipConfig {
        me: key(n),
        generation: GENERATION,
        cluster_id: CLUSTER.to_owned(),
        restart: true,
    };
    let ports = GossipPorts { directory, links, outbound, inbound, own, events, shutdown };
    (agent, config, ports, sent)
}

/// Starts agents 1 to `count` and carries their messages over the links that they have.
fn mesh(count: u8) -> BTreeMap<NodeKey, Agent> {
    let directory = members(count);
    let runtime = Handle::current();
    let mut agents = BTreeMap::new();
    let mut sent = Vec::new();
    for n in 1..=count {
        let (agent, config, ports, outbound) = agent(n, &directory);
        Gossip::start(config, ports, &runtime);
        sent.push((key(n), outbound));
        agents.insert(agent.key, agent);
    }
    let doors: BTreeMap<NodeKey, _> =
        agents.iter().map(|(key, agent)| (*key, agent.inbound.clone())).collect();
    for (from, mut outbound) in sent {
        let doors = doors.clone();
        runtime.spawn(async move {
            while let Some((to, bytes)) = outbound.recv().await {
                let _ = doors[&to].send((from, bytes)).await;
            }
        });
    }
    agents
}

fn link(agents: &BTreeMap<NodeKey, Agent>, pairs: &[(u8, u8)]) {
    for (n, agent) in agents {
        let peers = pairs.iter().flat_map(|(a, b)| [(key(*a), key(*b)), (key(*b), key(*a))]);
        let peers = peers.filter(|(from, _)| from == n).map(|(_, to)| to).collect();
        agent.links.send(Arc::new(peers)).unwrap();
    }
}

impl Agent {
    /// Reads events until `done` holds of what they told, within four minutes of the still clock.
    async fn until(&mut self, mut done: impl FnMut(&BTreeMap<NodeKey, Hints>, usize) -> bool) {
        let mut told = BTreeMap::new();
        let mut live = 0;
        let waiting = async {
            while !done(&told, live) {
                match self.events.recv().await.expect("gossip runs") {
                    GossipEvent::Hint { node, hints } => {
                        told.insert(node, hints);
                    }
                    GossipEvent::LiveSet(set) => live = set.len(),
                    GossipEvent::Blame { peer, reason } => panic!("{peer:?} blamed: {reason}"),
                    GossipEvent::Restarting { reason, .. } | GossipEvent::StaysDown { reason } => {
                        panic!("ended: {reason}")
                    }
                    GossipEvent::Dropped { peer, reason } => panic!("{peer:?} dropped: {reason}"),
                    GossipEvent::Unknown { .. } => {}
                }
            }
        };
        let found = timeout(Duration::from_secs(240), waiting).await;
        found.unwrap_or_else(|_| panic!("{:?} knows only {told:?}, {live} live", self.key));
    }
}

#[tokio::test(start_paused = true)]
async fn two_agents_find_each_other_over_a_link_without_seeds() {
    let mut agents = mesh(2);
    link(&agents, &[(1, 2)]);
    for (me, other) in [(1, 2), (2, 1)] {
        let agent = agents.get_mut(&key(me)).unwrap();
        let expected = BTreeMap::from([(key(other), hints(other))]);
        agent.until(|told, live| *told == expected && live == 1).await;
    }
}

#[tokio::test(start_paused = true)]
async fn five_agents_in_a_line_hear_of_each_other_and_of_every_change() {
    let mut agents = mesh(5);
    link(&agents, &[(1, 2), (2, 3), (3, 4), (4, 5)]);
    for n in 1..=5 {
        let expected: BTreeMap<_, _> =
            (1..=5).filter(|m| *m != n).map(|m| (key(m), hints(m))).collect();
        let agent = agents.get_mut(&key(n)).unwrap();
        agent.until(|told, live| *told == expected && live == 4).await;
    }
    let changed = Hints { state: Some(NodeState::Draining), ..hints(5) };
    agents[&key(5)].own.send(changed.clone()).unwrap();
    let first = agents.get_mut(&key(1)).unwrap();
    first.until(|told, _| told.get(&key(5)) == Some(&changed)).await;
}

#[tokio::test(start_paused = true)]
async fn thirty_agents_with_a_few_links_each_all_find_each_other_within_every_rate() {
    let mut agents = mesh(30);
    let pairs: Vec<(u8, u8)> =
        (0..30).flat_map(|n| [1, 2, 7, 11].map(|step| (n + 1, (n + step) % 30 + 1))).collect();
    link(&agents, &pairs);
    for agent in agents.values_mut() {
        agent.until(|told, live| told.len() == 29 && live == 29).await;
    }
    // Two minutes more: nobody flaps, and no honest word goes beyond a rate.
    tokio::time::sleep(Duration::from_secs(120)).await;
    for agent in agents.values_mut() {
        while let Ok(event) = agent.events.try_recv() {
            assert!(matches!(event, GossipEvent::Hint { .. }), "{event:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_goes_silent_leaves_the_live_set() {
    let mut agents = mesh(3);
    link(&agents, &[(1, 2), (2, 3), (1, 3)]);
    let first = agents.get_mut(&key(1)).unwrap();
    first.until(|_, live| live == 2).await;
    agents[&key(3)].shutdown.send(true).unwrap();
    let first = agents.get_mut(&key(1)).unwrap();
    first.until(|_, live| live == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_member_without_record_is_asked_for_and_then_found() {
    let mut agents = mesh(2);
    let first = agents.get_mut(&key(1)).unwrap();
    first.directory.send(Arc::new(members(1))).unwrap();
    link(&agents, &[(1, 2)]);
    let first = agents.get_mut(&key(1)).unwrap();
    let unknown = GossipEvent::Unknown { node: key(2).short(), from: key(2) };
    let asked = async { while first.events.recv().await.unwrap() != unknown {} };
    timeout(Duration::from_secs(30), asked).await.expect("the bundle is asked for");
    first.directory.send(Arc::new(members(2))).unwrap();
    first.until(|told, live| told.len() == 1 && live == 1).await;
}

#[tokio::test(start_paused = true)]
async fn hostile_messages_are_blamed_and_change_nothing() {
    let mut agents = mesh(3);
    link(&agents, &[(1, 2), (1, 3), (2, 3)]);
    let first = agents.get_mut(&key(1)).unwrap();
    first.until(|told, live| told.len() == 2 && live == 2).await;
    let attacks = [
        (
            raw_ack(&[
                &node_operation(2, 0, 0),
                &key_operation(b"head", b"1", 100, 0),
                &maximum_operation(1),
            ]),
            Blame::SetMaxVersion,
        ),
        (ack(vec![news(1, vec![pair("head", "1", 9)])]), Blame::AboutUs),
        (syn(vec![entry(2, u64::MAX, 1)]), Blame::HeartbeatJump),
    ];
    for (bytes, reason) in attacks {
        first.inbound.send((key(3), Bytes::from(bytes))).await.unwrap();
        let blame = GossipEvent::Blame { peer: key(3), reason };
        let blamed = async { while first.events.recv().await.unwrap() != blame {} };
        timeout(Duration::from_secs(5), blamed).await.expect("blamed");
    }
    let changed = Hints { load: Some(77), ..hints(2) };
    agents[&key(2)].own.send(changed.clone()).unwrap();
    let first = agents.get_mut(&key(1)).unwrap();
    first.until(|told, _| told.get(&key(2)) == Some(&changed)).await;
}

/// Starts gossip whose chitchat has just been given what makes it panic.
async fn panicking(config: GossipConfig, ports: GossipPorts) {
    let identity = Identity {
        me: config.me,
        generation: config.generation,
        cluster: config.cluster_id.clone(),
    };
    let mut task = Task::new(config, ports);
    let instance = Instance::start(identity, &hints(1)).await.unwrap();
    // The message that the filter is there to refuse, past the filter.
    assert!(instance.deliver_raw(&key(2), &syn(vec![entry(2, 1, 0)])));
    assert!(instance.deliver_raw(&key(2), &killer()));
    task.instance = Some(instance);
    Handle::current().spawn(task.run());
}

#[tokio::test(start_paused = true)]
async fn chitchat_that_panics_comes_back_under_an_announced_generation() {
    let directory = members(2);
    let (mut agent, config, ports, mut sent) = agent(1, &directory);
    panicking(config, ports).await;
    let restarting = async {
        loop {
            if let GossipEvent::Restarting { generation, reason } =
                agent.events.recv().await.unwrap()
            {
                return (generation, reason);
            }
        }
    };
    let (generation, reason) = timeout(Duration::from_secs(10), restarting).await.unwrap();
    assert_eq!(generation, GENERATION + 1);
    assert!(reason.contains("panicked"), "{reason}");

    agent.links.send(Arc::new([key(2)].into())).unwrap();
    let early = timeout(Duration::from_secs(5), sent.recv()).await;
    assert!(early.is_err(), "it speaks before its generation is announced");
    let mut announced = members(2);
    announced.insert(key(1), generation);
    agent.directory.send(Arc::new(announced)).unwrap();
    let (to, bytes) = timeout(Duration::from_secs(10), sent.recv()).await.unwrap().unwrap();
    assert_eq!(to, key(2));
    let Message::Syn { digest, .. } = Message::parse(&bytes, Source::Peer).unwrap() else {
        panic!("a SYN");
    };
    assert_eq!(digest.first().unwrap().id.generation, generation);
}

#[tokio::test(start_paused = true)]
async fn where_nothing_is_to_be_started_again_chitchat_that_panics_stays_down_and_says_so() {
    let directory = members(2);
    let (mut agent, config, ports, mut sent) = agent(1, &directory);
    let config = GossipConfig { restart: false, ..config };
    panicking(config, ports).await;
    let down = async {
        loop {
            match agent.events.recv().await.unwrap() {
                GossipEvent::StaysDown { reason } => return reason,
                GossipEvent::Restarting { .. } => panic!("it is started again"),
                _ => {}
            }
        }
    };
    let reason = timeout(Duration::from_secs(10), down).await.unwrap();
    assert!(reason.contains("panicked"), "{reason}");
    // Whatever happens around it, it speaks no more.
    agent.links.send(Arc::new([key(2)].into())).unwrap();
    agent.directory.send(Arc::new(members(2))).unwrap();
    assert!(timeout(Duration::from_secs(300), sent.recv()).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn the_last_view_stands_while_chitchat_starts_again() {
    let (mut agent, config, ports, _sent) = agent(1, &members(2));
    let identity = Identity {
        me: config.me,
        generation: config.generation,
        cluster: config.cluster_id.clone(),
    };
    let mut task = Task::new(config, ports);
    let instance = Instance::start(identity, &hints(1)).await.unwrap();
    let door = agent.inbound.clone();
    task.instance = Some(instance);
    let kill = task.instance.as_ref().unwrap().killer();
    Handle::current().spawn(task.run());
    // Agent 2, in the flesh of two heartbeats and a head.
    for heartbeat in 1..=4 {
        let message = syn(vec![entry(2, heartbeat, 1)]);
        door.send((key(2), Bytes::from(message))).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    agent.until(|_, live| live == 1).await;
    kill(&key(2));
    let restarting = async {
        while !matches!(agent.events.recv().await.unwrap(), GossipEvent::Restarting { .. }) {}
    };
    timeout(Duration::from_secs(10), restarting).await.unwrap();
    let mut announced = members(2);
    announced.insert(key(1), GENERATION + 1);
    agent.directory.send(Arc::new(announced)).unwrap();
    // Ten seconds of the new chitchat, which knows nobody: nothing is taken back.
    let said = timeout(Duration::from_secs(12), agent.events.recv()).await;
    assert!(said.is_err(), "{said:?}");
    // In the end what nobody confirms goes.
    agent.until(|_, live| live == 0).await;
}

#[tokio::test(start_paused = true)]
async fn what_chitchat_packs_leaves_plain_and_says_nothing_of_the_addressee() {
    let identity = Identity { me: key(1), generation: GENERATION, cluster: CLUSTER.to_owned() };
    let mut instance = Instance::start(identity, &hints(1)).await.unwrap();
    // It learns of 2 and 3, then 2 asks for all that it has.
    assert!(instance.deliver_raw(&key(2), &syn(vec![entry(2, 1, 0), entry(3, 1, 0)])));
    let told = |n| news(n, vec![pair("head", &"7".repeat(90), 1), pair("state", "up", 2)]);
    assert!(instance.deliver_raw(&key(2), &ack(vec![told(2), told(3)])));
    assert!(instance.deliver_raw(&key(2), &syn(Vec::new())));
    let mut packed = None;
    while packed.is_none() {
        if let super::chitchat::Event::Send(_, bytes) = instance.next().await {
            let known = ids(Message::parse(&bytes, Source::Own).unwrap());
            // The answer to the last SYN: a digest of three and a delta of three.
            packed = (known.len() == 6).then_some(bytes);
        }
    }
    let packed = packed.unwrap();
    assert_eq!(Message::parse(&packed, Source::Peer), Err(Blame::Compressed));
    let filter = Filter::new(key(1), CLUSTER, GENERATION);
    let plain = filter.outbound(&key(2), &packed, &members(3)).unwrap().expect("it has news");
    let silent = filter.outbound(&key(2), &ack(Vec::new()), &members(3));
    assert_eq!(silent, Ok(None), "an ACK without news");
    let Message::SynAck { delta, .. } = Message::parse(&plain, Source::Peer).unwrap() else {
        panic!("a SYN-ACK");
    };
    let about: BTreeSet<_> = delta.iter().map(|node| node.id.short.clone()).collect();
    assert_eq!(about, [id(1).short, id(3).short].into());
}
