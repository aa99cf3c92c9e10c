//! Exchange: how agents whose roots differ find out in what, and mend it.
//!
//! One tells a mark of each part of the keys' range; the other answers with its heads in those
//! parts in which it differs; then each asks for what it lacks. A few bytes for each part, and
//! heads of what differs, in the place of all heads.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use rand::RngExt;

use super::{Engine, LinkId};
use crate::{
    clock::{Now, Tick, millis},
    limits,
    name::{Hash, NodeKey},
    planted::{Planted, planted},
    record::Bundle,
    store::{Head, Standing, heads},
    wire::frame::{Frame, HeadRange, Parts},
};

/// Where a link stands in comparing records.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    /// Since when the roots differ.
    differs_since: Option<Tick>,
    /// The roots of the last exchange, and when it was.
    last: Option<(Hash, Hash, Tick)>,
    /// Parts of which the peer was asked for its heads, one bit each: what it lacks of them is
    /// told in return, once.
    asked: u64,
    /// When the peer's marks were answered last.
    answered: Option<Tick>,
    /// When the peer, which has pulled records, is told whom this agent doubts: a witness counts
    /// only beside the record that it is about.
    doubts_at: Option<Tick>,
    /// Since when the revocation roots differ, or until when nothing is told again.
    pub(super) revocations: Option<Tick>,
    /// The same of the policy roots.
    pub(super) policy: Option<Tick>,
    answers: Answers,
}

/// Bytes that a peer may still be answered with. What is over is left to the next exchange.
#[derive(Debug)]
struct Answers {
    left: usize,
    at: Tick,
}

impl Default for Answers {
    fn default() -> Self {
        Self { left: limits::ANSWERED_BURST, at: Tick(0) }
    }
}

impl Answers {
    fn take(&mut self, now: Tick, bytes: usize) -> bool {
        let passed = usize::try_from(millis(now.since(self.at))).unwrap_or(usize::MAX);
        let back = passed.saturating_mul(limits::ANSWERED_BURST / 1000);
        self.left = self.left.saturating_add(back).min(limits::ANSWERED_BURST);
        self.at = now;
        let taken = self.left.checked_sub(bytes);
        self.left = taken.unwrap_or(self.left);
        taken.is_some()
    }
}

/// Something that was asked for may be asked for again, of another, after this.
const PULL_AGAIN: Duration = Duration::from_secs(2);
/// The same pair of roots is exchanged again after this, in case the answer was lost.
const SAME_PAIR_AGAIN: Duration = Duration::from_secs(20);
/// Marks of one peer are answered at most this often: an answer may be all heads.
const ANSWER_EVERY: Duration = Duration::from_millis(250);
/// Records that were pulled are checked and believed by then.
const DOUBTS_AFTER: Duration = Duration::from_millis(500);
/// Who pulled many records tells so after this: by then most of them have come.
pub(super) const TELL_AFTER: Duration = Duration::from_millis(500);
/// Bytes of records that one pull is answered with; the rest follows by the next exchange.
const PULL_BYTES: usize = 1024 * 1024;

impl Exchange {
    /// Whether heads of that range are an answer to our marks. The next of the same are not.
    fn answers(&mut self, range: &HeadRange) -> bool {
        let parts = heads::part_of(&range.from)..=heads::part_of(&range.to);
        let bits = parts.fold(0u64, |bits, part| bits | 1 << part);
        let answers = self.asked & bits != 0;
        self.asked &= !bits;
        answers
    }
}

impl Engine {
    /// Whether a peer may be answered with so many bytes more.
    pub(super) fn may_answer(&mut self, now: Now, link: LinkId, bytes: usize) -> bool {
        let exchange = self.links.exchange(link);
        exchange.is_some_and(|exchange| exchange.answers.take(now.tick, bytes))
    }

    /// A peer said where it stands.
    pub(super) fn compare(&mut self, now: Now, link: LinkId, theirs: Hash) {
        let ours = self.store.root();
        let Some(exchange) = self.links.exchange(link) else {
            return;
        };
        if ours == theirs || planted(Planted::NoExchange) {
            exchange.differs_since = None;
            return;
        }
        let since = *exchange.differs_since.get_or_insert(now.tick);
        let patient = now.tick.since(since) >= limits::ROOT_PATIENCE;
        let again = exchange.last.is_none_or(|(our, their, at)| {
            let same = our == ours && their == theirs;
            let pause = if same { SAME_PAIR_AGAIN } else { PULL_AGAIN };
            now.tick.since(at) >= pause
        });
        if patient && again {
            exchange.last = Some((ours, theirs, now.tick));
            self.tell_parts(link);
        }
    }

    /// A link is ready, and the roots of its ends differ. One end asks: it is mended both ways.
    pub(super) fn compare_at_first(&mut self, now: Now, link: LinkId, theirs: Hash, asks: bool) {
        let ours = self.store.root();
        if ours == theirs {
            return;
        }
        if let Some(exchange) = self.links.exchange(link) {
            exchange.last = Some((ours, theirs, now.tick));
        }
        if asks {
            self.tell_parts(link);
        }
    }

    /// Tells a peer the marks of all parts: it answers with what differs.
    fn tell_parts(&mut self, link: LinkId) {
        if let Some(exchange) = self.links.exchange(link) {
            exchange.asked = u64::MAX;
        }
        let parts = Parts::new(self.rng.random(), &self.store.parts());
        self.send(link, &Frame::Parts(parts));
    }

    /// Tells all peers what this agent holds, after many records were pulled.
    pub(super) fn tell_parts_if_due(&mut self, now: Now) {
        if self.spread.tell_parts_at.is_none_or(|at| now.tick < at) {
            return;
        }
        self.spread.tell_parts_at = None;
        let links: Vec<LinkId> = self.links.flooded().collect();
        for link in links {
            self.tell_parts(link);
        }
    }

    /// A peer told its marks.
    pub(super) fn parts_came(&mut self, now: Now, link: LinkId, theirs: &Parts) {
        let Some(exchange) = self.links.exchange(link) else {
            return;
        };
        let soon = |at: Tick| now.tick.since(at) < ANSWER_EVERY;
        if exchange.answered.is_some_and(soon) || planted(Planted::NoExchange) {
            return;
        }
        exchange.answered = Some(now.tick);
        let ours = Parts::new(theirs.id, &self.store.parts());
        let pairs = (0u8..).zip(ours.marks.iter().zip(&theirs.marks));
        let differ: Vec<u8> = pairs.filter(|(_, (a, b))| a != b).map(|(part, _)| part).collect();
        for run in differ.chunk_by(|a, b| a.saturating_add(1) == *b) {
            if let (Some(first), Some(last)) = (run.first(), run.last()) {
                self.tell_heads(link, heads::range_of(*first).0, heads::range_of(*last).1);
            }
        }
    }

    /// Tells a peer the heads of a range, in frames that together hold every key of it.
    fn tell_heads(&mut self, link: LinkId, first: NodeKey, last: NodeKey) {
        let mut from = first;
        loop {
            let mut heads: Vec<(NodeKey, Head)> = self.store.heads_between(from, last).collect();
            let whole = heads.len() <= limits::HEADS_PER_FRAME;
            heads.truncate(limits::HEADS_PER_FRAME);
            let end = heads.last().map(|(key, _)| *key);
            let to = end.filter(|_| !whole).unwrap_or(last);
            self.send(link, &Frame::Heads(HeadRange { from, to, heads }));
            match next_key(to).filter(|_| !whole) {
                Some(next) => from = next,
                None => return,
            }
        }
    }

    pub(super) fn heads_came(&mut self, now: Now, link: LinkId, range: &HeadRange) {
        let mut lacking = Vec::new();
        let mut surplus = Vec::new();
        let theirs: BTreeMap<NodeKey, Head> = range.heads.iter().copied().collect();
        for (origin, head) in &theirs {
            match head.against(self.store.head(origin)) {
                Standing::Newer => lacking.push((*origin, head.sequence)),
                Standing::Fork { wins } => {
                    if !self.store.proven(origin, *head) {
                        lacking.push((*origin, head.sequence));
                    }
                    if !wins {
                        surplus.push(*origin);
                    }
                }
                Standing::Older => surplus.push(*origin),
                Standing::Same => {}
            }
        }
        let ours = self.store.heads_between(range.from, range.to);
        surplus.extend(ours.map(|(key, _)| key).filter(|key| !theirs.contains_key(key)));
        self.pull(now, link, lacking);
        if self.links.exchange(link).is_some_and(|exchange| exchange.answers(range)) {
            self.offer(now, link, range, &surplus);
        }
    }

    /// A peer that was asked lacks that: a few records are sent at once, of many the heads, so
    /// that it asks for each of them once and not every neighbour sends it all.
    fn offer(&mut self, now: Now, link: LinkId, range: &HeadRange, surplus: &[NodeKey]) {
        if surplus.len() <= limits::PULL_ANSWERS {
            self.answer_pull(now, link, surplus);
        } else {
            self.tell_heads(link, range.from, range.to);
        }
    }

    pub(super) fn pull(&mut self, now: Now, link: LinkId, lacking: Vec<(NodeKey, u64)>) {
        let pulls = &mut self.spread.pulls;
        pulls.forget(now.tick);
        let mut ask = Vec::new();
        for (origin, sequence) in lacking {
            if pulls.ask(now.tick, link, origin, sequence) {
                ask.push(origin);
            }
        }
        for origins in ask.chunks(limits::PULLS_PER_FRAME) {
            self.send(link, &Frame::Pull(origins.to_vec()));
        }
    }

    /// Each record once, however often it is asked for.
    pub(super) fn answer_pull(&mut self, now: Now, link: LinkId, origins: &[NodeKey]) {
        let mut bytes = 0usize;
        let mut frames = Vec::new();
        let origins: BTreeSet<&NodeKey> = origins.iter().collect();
        for origin in origins {
            let told = match planted(Planted::PassEnded) {
                true => self.store.body(origin),
                false => self.store.told(origin),
            };
            let Some(record) = told else {
                continue;
            };
            let bundle = Arc::clone(record.bundle());
            bytes = bytes.saturating_add(bundle.bytes());
            if bytes > PULL_BYTES || !self.may_answer(now, link, bundle.bytes()) {
                break;
            }
            frames.push(Frame::Record(Box::new(Bundle::clone(&bundle))));
        }
        if let Some(exchange) = self.links.exchange(link)
            && !frames.is_empty()
        {
            exchange.doubts_at = Some(now.tick.after(DOUBTS_AFTER));
        }
        for frame in frames {
            self.send(link, &frame);
        }
    }

    /// Tells those that have pulled records whom this agent doubts.
    pub(super) fn tell_doubts_if_due(&mut self, now: Now) {
        let links: Vec<LinkId> = self.links.ready().map(|(link, _)| link).collect();
        for link in links {
            let due = self
                .links
                .exchange(link)
                .and_then(|exchange| exchange.doubts_at.take_if(|at| now.tick >= *at));
            if due.is_some() {
                self.tell_doubts(link);
            }
        }
    }
}

/// What was asked for: of each origin at which sequence, of whom, when.
#[derive(Debug, Default)]
pub(super) struct Pulls {
    of: BTreeMap<NodeKey, Pull>,
    by_link: BTreeMap<LinkId, usize>,
}

#[derive(Clone, Copy, Debug)]
struct Pull {
    sequence: u64,
    at: Tick,
    link: LinkId,
}

impl Pulls {
    pub(super) fn len(&self) -> usize {
        self.of.len()
    }

    /// Whether that was asked for.
    pub(super) fn is_asked(&self, origin: &NodeKey, sequence: u64) -> bool {
        self.of.get(origin).is_some_and(|pull| pull.sequence <= sequence)
    }

    /// Whether it is to be asked for now, and notes so. A peer holds no more of the places than
    /// are free, so that those who invent heads leave room for one that does not; and who claims a
    /// higher sequence than another keeps nobody from asking that one.
    pub(super) fn ask(&mut self, now: Tick, link: LinkId, origin: NodeKey, sequence: u64) -> bool {
        let before = self.of.get(&origin).copied();
        if before.is_some_and(|pull| {
            pull.sequence == sequence || pull.link == link && pull.sequence > sequence
        }) {
            return false;
        }
        let held = self.by_link.get(&link).copied().unwrap_or_default();
        let free = PULLS_MAX.saturating_sub(self.of.len());
        if before.is_none() && held >= free.min(PULLS_PER_LINK) {
            return false;
        }
        self.remove(&origin);
        self.of.insert(origin, Pull { sequence, at: now, link });
        let held = self.by_link.entry(link).or_default();
        *held = held.saturating_add(1);
        true
    }

    /// It came, or need not come any more.
    pub(super) fn remove(&mut self, origin: &NodeKey) {
        let Some(pull) = self.of.remove(origin) else { return };
        if let Some(held) = self.by_link.get_mut(&pull.link) {
            *held = held.saturating_sub(1);
            if *held == 0 {
                self.by_link.remove(&pull.link);
            }
        }
    }

    /// What did not come in time may be asked of another.
    fn forget(&mut self, now: Tick) {
        let late = |pull: &Pull| now.since(pull.at) >= PULL_AGAIN;
        let gone: Vec<NodeKey> =
            self.of.iter().filter(|(_, pull)| late(pull)).map(|(origin, _)| *origin).collect();
        for origin in gone {
            self.remove(&origin);
        }
    }
}

/// With one peer all nodes can be under way; with three that invent heads a fourth gets a third as
/// many.
/// What one peer tells of is asked for within this, or its lies would fill this host's own line: at
/// 32 bytes 32 KiB in two seconds.
const PULLS_PER_LINK: usize = limits::NODES_MAX / 4;
/// With one peer a quarter of all nodes can be under way, with eight all of them twice.
pub(super) const PULLS_MAX: usize = 2 * limits::NODES_MAX;

pub(super) fn next_key(key: NodeKey) -> Option<NodeKey> {
    let mut bytes = key.0;
    for byte in bytes.iter_mut().rev() {
        let (next, over) = byte.overflowing_add(1);
        *byte = next;
        if !over {
            return Some(NodeKey(bytes));
        }
    }
    None
}
