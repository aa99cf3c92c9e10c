//! Shorthand on a bench of two agents and the link between them.

use proptest::{prelude::*, sample::Index};
use skein_protocol::{limits, name::NodeKey};

use super::*;
use crate::gossip::{
    address::address_of,
    wire::{Entry, Id, KeyValue, NodeDelta},
};

const MESH: &str = "mesh/default";

fn id(n: u16, generation: u64) -> Id {
    let mut key = [0; 32];
    key[..2].copy_from_slice(&n.to_le_bytes());
    let short = NodeKey(key).short().as_str().to_owned();
    let address = address_of(short.as_bytes());
    Id { short, generation, address }
}

fn entry(n: u16, heartbeat: u64, max_version: u64) -> Entry {
    Entry { id: id(n, 1_790_000_000_000 + u64::from(n)), heartbeat, max_version }
}

fn syn(mut digest: Vec<Entry>) -> Message {
    digest.sort_by(|a, b| a.id.cmp(&b.id));
    digest.dedup_by(|a, b| a.id == b.id);
    Message::Syn { digest, cluster: MESH.to_owned() }
}

fn members(count: u16, heartbeat: u64) -> Message {
    syn((0..count).map(|n| entry(n, heartbeat + u64::from(n % 13), 4)).collect())
}

/// Two agents and the link between them.
struct Bench {
    here: (Outgoing, Incoming),
    there: (Outgoing, Incoming),
    now: Tick,
}

impl Bench {
    fn new() -> Self {
        Self { here: link_ends(), there: link_ends(), now: Tick(0) }
    }

    fn encode(&mut self, message: &Message) -> Vec<u8> {
        self.here.0.encode(&message.encode()).unwrap()
    }

    fn hear(&mut self, frame: &[u8]) -> Result<Option<Bytes>, Blame> {
        self.now = Tick(self.now.0 + 1000);
        self.there.1.decode(self.now, frame)
    }

    /// From here to there; the frame's length.
    fn say(&mut self, message: &Message) -> usize {
        let frame = self.encode(message);
        let heard = self.hear(&frame).expect("it can be read").expect("it is followed");
        assert_eq!(heard, message.encode());
        frame.len()
    }

    /// From there to here.
    fn answer(&mut self) {
        let frame = self.there.0.encode(&members(2, 1).encode()).unwrap();
        self.here.1.decode(self.now, &frame).unwrap();
    }
}

#[test]
fn a_member_costs_a_byte_of_a_digest_once_it_is_known() {
    let mut bench = Bench::new();
    assert!(bench.say(&members(801, 100_000)) < 801 * 23);
    let later = bench.say(&members(801, 100_013));
    assert_eq!(later, 1 + 1 + 801 + 1 + 2);
    assert_eq!(bench.say(&members(801, 100_013)), 1 + 1 + 2 + 1 + 2, "nothing has changed");
}

#[test]
fn news_of_a_member_names_it_by_its_place() {
    let mut bench = Bench::new();
    bench.say(&members(100, 1));
    let pair = KeyValue { key: "state".to_owned(), value: "up".to_owned(), version: 5 };
    let news = NodeDelta { id: entry(7, 0, 0).id, from_version: 4, keys: vec![pair] };
    let length = bench.say(&Message::Ack { delta: vec![news] });
    assert_eq!(length, 1 + 1 + 1 + 1 + 1 + (1 + 1 + 2 + 1));
}

#[test]
fn ends_out_of_step_find_out_and_are_in_step_with_the_next_answer() {
    let mut bench = Bench::new();
    bench.say(&members(5, 1));
    let _lost = bench.encode(&members(5, 10));
    let next = bench.encode(&members(5, 20));
    assert_eq!(bench.hear(&next), Err(Blame::OutOfStep));
    let skipped = bench.encode(&members(5, 30));
    assert_eq!(bench.hear(&skipped), Ok(None));
    bench.answer();
    bench.say(&members(5, 40));
    bench.say(&members(6, 50));
}

#[test]
fn both_directions_lost_at_one_time_find_back() {
    let mut bench = Bench::new();
    assert!(bench.hear(&[0, 1]).is_err());
    assert!(bench.here.1.decode(bench.now, &[0, 1]).is_err());
    let frame = bench.encode(&members(3, 1));
    assert_eq!(bench.hear(&frame), Ok(None));
    bench.answer();
    bench.say(&members(3, 2));
    bench.answer();
    bench.say(&members(3, 3));
    let frame = bench.there.0.encode(&members(3, 3).encode()).unwrap();
    assert!(bench.here.1.decode(bench.now, &frame).unwrap().is_some());
}

#[test]
fn a_peer_over_its_budget_is_skipped_and_followed_again_later() {
    let mut bench = Bench::new();
    bench.say(&members(5, 1));
    let frame = bench.encode(&members(5, 1));
    let at = bench.now;
    let heard = (0..1000).filter(|_| bench.there.1.decode(at, &frame) != Ok(None)).count();
    assert!(heard <= 64, "{heard}");
    bench.answer();
    bench.say(&members(5, 2));
}

#[test]
fn chitchats_own_form_and_references_to_nowhere_are_refused() {
    let mut bench = Bench::new();
    assert_eq!(bench.hear(&members(3, 1).encode()), Err(Blame::Malformed));
    for (frame, reason) in [
        (&[][..], Blame::Malformed),
        (&[ANEW | 1, 1], Blame::OutOfStep),
        (&[ANEW | 2, 1, 1, 0, 0], Blame::OutOfStep),
        (&[ANEW | 2, 0, 0], Blame::Malformed),
        (&[ANEW | 2, 0x80, 0], Blame::Malformed),
        (&[ANEW | 2, 0x80, 0x80, 0x80], Blame::Malformed),
        (&[ANEW | 2, 0xa2, 0x06], Blame::Malformed),
        (&[ANEW | 2 | 0x10, 0], Blame::Malformed),
        (&[ANEW | CLUSTER | 2, 0], Blame::Malformed),
    ] {
        assert_eq!(bench.hear(frame), Err(reason), "{frame:?}");
    }
}

#[test]
fn a_digest_never_goes_over_its_limit() {
    let mut bench = Bench::new();
    let frame = bench.encode(&members(1000, 1));
    let heard = bench.hear(&frame).unwrap().unwrap();
    let Message::Syn { digest, .. } = Message::parse(&heard, Source::Peer).unwrap() else {
        panic!("a SYN");
    };
    assert_eq!(digest.len(), limits::GOSSIP_DIGEST_MAX);
}

/// Any message that our own filter may let out.
fn message() -> impl Strategy<Value = Message> {
    let counter = prop_oneof![0..200_u64, any::<u64>()];
    let entries = (0..24_u16, 0..3_u64, counter.clone(), counter);
    let digest = proptest::collection::vec(entries, 0..30).prop_map(|entries| {
        let entry = |(n, generation, heartbeat, max_version)| Entry {
            id: id(n, generation),
            heartbeat,
            max_version,
        };
        entries.into_iter().map(entry).collect::<Vec<_>>()
    });
    let keys = prop::sample::subsequence(vec!["head", "policy", "state", "load", "colour"], 0..=4)
        .prop_shuffle();
    let values = proptest::collection::vec(("[ -~]{0,96}", 1..1000_u64), 4);
    let node = (0..24_u16, 0..3_u64, 0..u64::MAX / 2, keys, values).prop_map(|node| {
        let (n, generation, from_version, keys, values) = node;
        let mut version = from_version;
        let pair = |(key, (value, rise)): (&str, (String, u64))| {
            version += rise;
            KeyValue { key: key.to_owned(), value, version }
        };
        let keys = keys.into_iter().zip(values).map(pair).collect();
        NodeDelta { id: id(n, generation), from_version, keys }
    });
    let delta = proptest::collection::vec(node, 0..8);
    (0..8_u8, digest, delta, "[ -~]{0,20}").prop_map(|(kind, digest, delta, cluster)| {
        let Message::Syn { digest, .. } = syn(digest) else {
            return Message::BadCluster;
        };
        match kind {
            0..3 => Message::Syn { digest, cluster: MESH.to_owned() },
            3 => Message::Syn { digest, cluster },
            4..6 => Message::SynAck { digest, delta },
            6 => Message::Ack { delta },
            _ => Message::BadCluster,
        }
    })
}

proptest! {
    #[test]
    fn any_messages_in_a_row_are_read_as_they_were(
        messages in proptest::collection::vec(message(), 1..12),
    ) {
        let mut bench = Bench::new();
        for message in &messages {
            bench.say(message);
        }
    }

    #[test]
    fn no_bytes_panic_and_what_follows_is_read_again(
        before in message(),
        hostile in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..80), 1..8),
        after in message(),
    ) {
        let mut bench = Bench::new();
        bench.say(&before);
        for frame in &hostile {
            let _ = bench.hear(frame);
        }
        // The hostile bytes may by chance have been taken: the honest end begins anew then too.
        bench.there.1.lose();
        bench.answer();
        bench.say(&after);
    }

    #[test]
    fn a_changed_frame_is_refused_or_means_what_it_says(
        before in message(),
        message in message(),
        changes in proptest::collection::vec((any::<Index>(), any::<u8>()), 1..3),
        cut in proptest::option::of(any::<Index>()),
    ) {
        let mut bench = Bench::new();
        bench.say(&before);
        let memory = bench.there.1.memory.clone();
        let mut frame = bench.encode(&message);
        for (place, byte) in changes {
            let place = place.index(frame.len());
            frame[place] = byte;
        }
        if let Some(cut) = cut {
            frame.truncate(cut.index(frame.len()));
        }
        if let Ok(Some(heard)) = bench.hear(&frame) {
            let mut memory = if frame[0] & ANEW == 0 { memory } else { Memory::default() };
            let heard = Message::parse(&heard, Source::Peer).unwrap();
            prop_assert_eq!(memory.write(&heard, frame[0] & (ANEW | LOST)).unwrap(), frame);
        }
    }
}
