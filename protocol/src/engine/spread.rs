//! Spread: how records reach everybody. A new one floods over the links; roots that differ are
//! mended by telling heads and pulling what is missing.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use super::{Blame, Engine, Event, Job, JobId, LinkId, Output, Subject, Write, liveness::Asked};
use crate::{
    clock::{Now, Tick},
    limits,
    name::{Hash, NodeKey},
    planted::{Planted, planted},
    record::{Bundle, RecordError, Signed, Verified},
    store::{Head, Standing, Stored},
    trust::ChainError,
    wire::frame::{Frame, HeadRange},
};

/// What is under way.
#[derive(Debug, Default)]
pub(super) struct Spread {
    /// Jobs out, with the link that each came by; none for what stood on disk.
    jobs: BTreeMap<JobId, Pending>,
    /// Records from before that wait for a free place among the jobs.
    restored: VecDeque<Arc<Bundle>>,
    /// What was asked for, and when.
    pulling: BTreeMap<NodeKey, (u64, Tick)>,
    /// Probes on behalf of others.
    pub(super) asked: Vec<Asked>,
    /// Origins whose newest record is carried and not read, and since when.
    unread: BTreeMap<NodeKey, Tick>,
}

impl Spread {
    pub(super) fn restore(&mut self, peers: Vec<Arc<Bundle>>) {
        self.restored = peers.into();
    }

    pub(super) fn finished(&mut self, job: JobId) -> Option<Option<LinkId>> {
        self.jobs.remove(&job).map(|pending| pending.source)
    }

    pub(super) fn jobs(&self) -> usize {
        self.jobs.len()
    }

    pub(super) fn pulling(&self) -> usize {
        self.pulling.len()
    }

    fn under_way(&self, origin: &NodeKey, head: Head) -> bool {
        self.jobs.values().any(|pending| pending.head == Some((*origin, head)))
    }

    fn of_link(&self, link: Option<LinkId>) -> usize {
        self.jobs.values().filter(|pending| pending.source == link).count()
    }
}

/// A job that is out: the link that it came by, and the head that it would bring.
#[derive(Clone, Copy, Debug)]
struct Pending {
    source: Option<LinkId>,
    head: Option<(NodeKey, Head)>,
}

/// Something that was asked for may be asked for again, of another, after this.
const PULL_AGAIN: std::time::Duration = std::time::Duration::from_secs(2);
/// The same pair of roots is exchanged again after this, in case the answer was lost.
const SAME_PAIR_AGAIN: std::time::Duration = std::time::Duration::from_secs(20);
/// Bytes of records that one pull is answered with; the rest follows by the next exchange.
const PULL_BYTES: usize = 1024 * 1024;

impl Engine {
    pub(super) fn next_restored(&mut self, now: Now) {
        while self.spread.jobs.len() < limits::VERIFY_IN_FLIGHT / 2 {
            let Some(bundle) = self.spread.restored.pop_front() else {
                return;
            };
            self.record_came(now, None, bundle);
        }
    }

    /// A record, from a peer or from disk. Cheap checks first; then a job.
    pub(super) fn record_came(&mut self, now: Now, source: Option<LinkId>, bundle: Arc<Bundle>) {
        let signed = match Signed::parse(bundle, self.mesh) {
            Ok(signed) => signed,
            Err(error) => return self.disbelieve(now, source, error),
        };
        let header = *signed.header();
        let head = Head { sequence: header.sequence, hash: signed.hash() };
        let standing = head.against(self.store.head(&header.origin));
        let worth = if header.origin == self.me {
            self.own_worth_checking(&signed)
        } else {
            let lacks_body = self.store.body(&header.origin).is_none();
            match standing {
                Standing::Newer => true,
                Standing::Fork { .. } => !self.store.proven(&header.origin, head),
                Standing::Same => lacks_body || planted(Planted::ResendKnown),
                Standing::Older => planted(Planted::SkipFloor),
            }
        };
        if planted(Planted::BlameLaggards)
            && standing == Standing::Older
            && let Some(peer) = source.and_then(|link| self.links.peer(link))
        {
            self.blame(now, peer, Blame::OutOfTurn);
        }
        let stale = header.not_after.after(limits::CLOCK_SKEW) < now.wall;
        let full = !self.has_room(source);
        // What is known, stale or above the budget costs no blame: the next exchange mends it.
        if worth && !full && !(stale && source.is_some()) {
            if self.spread.under_way(&header.origin, head) || !self.within_pace(now, &header.origin)
            {
                return;
            }
            self.verify(now, source, Some((header.origin, head)), Subject::Record(signed));
        }
    }

    /// Whether that very content is being checked.
    pub(super) fn under_way(&self, origin: &NodeKey, head: Head) -> bool {
        self.spread.under_way(origin, head)
    }

    /// Whether another job that came by that link is within all budgets.
    pub(super) fn has_room(&self, source: Option<LinkId>) -> bool {
        self.spread.jobs.len() < limits::VERIFY_IN_FLIGHT
            && (source.is_none() || self.spread.of_link(source) < limits::VERIFY_PER_PEER)
    }

    /// Whether a further record of that origin is within what one host may say.
    fn within_pace(&mut self, now: Now, origin: &NodeKey) -> bool {
        let member = self.members.get_mut(origin);
        member.is_none_or(|member| member.pace.take(now.tick, limits::RECORD_EVERY))
    }

    pub(super) fn verify(
        &mut self,
        now: Now,
        source: Option<LinkId>,
        head: Option<(NodeKey, Head)>,
        what: Subject,
    ) {
        self.jobs = self.jobs.saturating_add(1);
        let id = JobId(self.jobs);
        self.spread.jobs.insert(id, Pending { source, head });
        let job = Job { what, roots: self.roots_of(), wall: now.wall };
        self.outbox.push_back(Output::Verify(id, Box::new(job)));
    }

    /// Whether a further job of this peer is within its budget.
    pub(super) fn may_verify(&self, source: LinkId) -> bool {
        self.spread.jobs.len() < limits::VERIFY_IN_FLIGHT
            && self.spread.of_link(Some(source)) < limits::VERIFY_PER_PEER
    }

    pub(super) fn disbelieve(&mut self, now: Now, source: Option<LinkId>, error: RecordError) {
        let Some(peer) = source.and_then(|link| self.links.peer(link)) else {
            return;
        };
        // An honest laggard may offer what has expired.
        let honest = matches!(
            error,
            RecordError::Chain(ChainError::Expired { .. } | ChainError::NotYetValid { .. })
        );
        if !honest {
            self.blame(now, peer, Blame::BadRecord(error));
        }
    }

    /// A record holds. Floors may have risen while it was checked.
    pub(super) fn believe(&mut self, now: Now, source: Option<LinkId>, record: Verified) {
        let origin = record.header().origin;
        if origin == self.me {
            return self.own_from_outside(now, &record);
        }
        let known = self.members.contains_key(&origin);
        let ended = self.revocations.judge(record.chain(), known).is_err();
        if ended && !planted(Planted::BelieveEnded) {
            // No blame: who offers it may not have heard.
            return;
        }
        let bundle = Arc::clone(record.bundle());
        let sequence = record.header().sequence;
        let read = record.content().is_some();
        match self.store.insert(record) {
            Stored::New => {
                self.note_unread(now, origin, read);
                if source.is_some() {
                    self.persist(vec![Write::Peer(origin, Arc::clone(&bundle))]);
                }
                self.flood_record(&bundle, source);
                self.member_spoke(now, origin, sequence, source.is_none());
            }
            Stored::Fork { wins } => self.forked(now, origin, &bundle, source, wins),
            Stored::Known if planted(Planted::ResendKnown) => self.flood_record(&bundle, source),
            Stored::Known | Stored::Full => {}
        }
        if self.spread.pulling.get(&origin).is_some_and(|(asked, _)| *asked <= sequence) {
            self.spread.pulling.remove(&origin);
        }
        self.changed(now);
    }

    /// Says of whom this agent is too old to read what it says, and when no longer.
    fn note_unread(&mut self, now: Now, origin: NodeKey, read: bool) {
        let was = self.spread.unread.remove(&origin).is_some();
        if !read {
            self.spread.unread.insert(origin, now.tick);
        }
        if was == read {
            self.event(Event::Unread(origin, !read));
        }
    }

    /// Forgets the records of newer agents that have not spoken for as long as a dead one is
    /// kept. The floor stays.
    pub(super) fn forget_unread(&mut self, now: Now) {
        let silent = |since: &Tick| now.tick.since(*since) > limits::DEAD_KEEP;
        let unread = &self.spread.unread;
        let gone: Vec<NodeKey> =
            unread.iter().filter(|(_, since)| silent(since)).map(|(node, _)| *node).collect();
        for node in gone {
            self.spread.unread.remove(&node);
            self.store.drop_body(&node);
            self.persist(vec![Write::Forget(node)]);
            self.event(Event::Unread(node, false));
        }
    }

    fn forked(
        &mut self,
        now: Now,
        origin: NodeKey,
        bundle: &Arc<Bundle>,
        source: Option<LinkId>,
        wins: bool,
    ) {
        self.event(Event::Forked(origin));
        self.blame(now, origin, Blame::Fork);
        // Both contents go on, so that everybody holds the proof.
        self.flood_record(bundle, source);
        if !wins && let Some(held) = self.store.body(&origin).map(|r| Arc::clone(r.bundle())) {
            self.flood_record(&held, None);
        }
    }

    pub(super) fn flood_record(&mut self, bundle: &Arc<Bundle>, except: Option<LinkId>) {
        let frame = Frame::Record(Box::new(Bundle::clone(bundle)));
        self.flood(&frame, except);
    }

    pub(super) fn flood(&mut self, frame: &Frame, except: Option<LinkId>) {
        let mut links: Vec<LinkId> = self.links.ready().map(|(link, _)| link).collect();
        if planted(Planted::FloodToTwo) {
            links.truncate(2);
        }
        if planted(Planted::NoFlood) && matches!(frame, Frame::Record(_)) {
            return;
        }
        // Encoded once. A frame that we build is within its bounds.
        let Ok(bytes) = frame.encode() else { return };
        for link in links.into_iter().filter(|link| Some(*link) != except) {
            self.outbox.push_back(Output::Send(link, bytes.clone()));
        }
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
            self.offer_heads(now, link, theirs);
        }
    }

    /// Tells a peer all heads, in ranges that together hold every key.
    pub(super) fn offer_heads(&mut self, now: Now, link: LinkId, theirs: Hash) {
        let ours = self.store.root();
        if let Some(exchange) = self.links.exchange(link) {
            exchange.last = Some((ours, theirs, now.tick));
        }
        let mut from = NodeKey([0; 32]);
        loop {
            let heads = self.store.heads_from(from, limits::HEADS_PER_FRAME);
            let whole = heads.len() < limits::HEADS_PER_FRAME;
            let last = heads.last().map(|(key, _)| *key);
            let to = last.filter(|_| !whole).unwrap_or(NodeKey([0xff; 32]));
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
        self.answer_pull(link, &surplus);
    }

    fn pull(&mut self, now: Now, link: LinkId, lacking: Vec<(NodeKey, u64)>) {
        self.spread.pulling.retain(|_, (_, at)| now.tick.since(*at) < PULL_AGAIN);
        let mut ask = Vec::new();
        for (origin, sequence) in lacking {
            let asked = self.spread.pulling.get(&origin).is_some_and(|(s, _)| *s >= sequence);
            if !asked && self.spread.pulling.len() < limits::NODES_MAX {
                self.spread.pulling.insert(origin, (sequence, now.tick));
                ask.push(origin);
            }
        }
        for origins in ask.chunks(limits::PULLS_PER_FRAME) {
            self.send(link, &Frame::Pull(origins.to_vec()));
        }
    }

    pub(super) fn pulled(&mut self, _now: Now, link: LinkId, origins: &[NodeKey]) {
        self.answer_pull(link, origins);
    }

    fn answer_pull(&mut self, link: LinkId, origins: &[NodeKey]) {
        let mut bytes = 0usize;
        let mut frames = Vec::new();
        for origin in origins {
            let told = match planted(Planted::PassEnded) {
                true => self.store.body(origin),
                false => self.store.told(origin),
            };
            let Some(record) = told else {
                continue;
            };
            bytes = bytes.saturating_add(record.bundle().record.len());
            if bytes > PULL_BYTES {
                break;
            }
            frames.push(Frame::Record(Box::new(Bundle::clone(record.bundle()))));
        }
        for frame in frames {
            self.send(link, &frame);
        }
    }

    /// chitchat says that a node has something newer: ask it, or whoever is linked.
    pub(super) fn hinted(&mut self, now: Now, node: NodeKey, sequence: u64) {
        let held = self.store.head(&node).map_or(0, |head| head.sequence);
        let any = self.links.of(&node).or_else(|| self.links.ready().next().map(|(l, _)| l));
        if sequence > held
            && node != self.me
            && let Some(link) = any
        {
            self.pull(now, link, vec![(node, sequence)]);
        }
    }
}

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
