//! Spread: how records reach everybody. A new one floods over the links, and each is checked
//! within the budget of the link that it came by.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;

use super::{
    Blame, Engine, Event, Job, JobId, LinkId, Output, Subject, Write,
    exchange::{Pulls, TELL_AFTER},
    liveness::Asked,
    own::Pace,
};
use crate::{
    clock::{Now, Tick},
    limits,
    name::{Hash, NodeKey},
    planted::{Planted, planted},
    record::{Bundle, RecordError, Signed, Verified, header::Header},
    store::{Head, Standing, Stored},
    trust::ChainError,
    wire::frame::{self, Frame},
};

/// What is under way.
#[derive(Debug, Default)]
pub(super) struct Spread {
    /// Jobs out, with the link that each came by; none for what stood on disk.
    jobs: BTreeMap<JobId, Pending>,
    /// What those jobs would bring, and how many of them each link has: looked up for every
    /// record that comes.
    heads: BTreeSet<(NodeKey, u64, Hash)>,
    by_link: BTreeMap<LinkId, usize>,
    /// Records from before that wait for a free place among the jobs.
    restored: VecDeque<Arc<Bundle>>,
    /// Whose they are.
    remembered: BTreeSet<NodeKey>,
    /// What was asked for.
    pub(super) pulls: Pulls,
    /// Records that were asked for and came faster than they may be checked.
    waiting: VecDeque<(LinkId, Arc<Bundle>)>,
    waiting_bytes: usize,
    /// Records that were pulled and may be flooded on.
    pulled_on: Pace,
    /// More were pulled than that: when all links are to be told what this agent holds now.
    pub(super) tell_parts_at: Option<Tick>,
    /// Probes on behalf of others.
    pub(super) asked: Vec<Asked>,
    /// Sequences of records that stood on disk and were out of their time when this agent started.
    floors: BTreeMap<NodeKey, u64>,
    /// Records over which a check of this agent broke: they are not checked again.
    set_aside: VecDeque<Hash>,
    /// Origins whose newest record is carried and not read, and since when.
    unread: BTreeMap<NodeKey, Tick>,
}

/// By which link a job came, and the head that it would bring.
type Done = (Option<LinkId>, Option<(NodeKey, Head)>);

impl Spread {
    pub(super) fn restore(&mut self, peers: Vec<Arc<Bundle>>) {
        let origin = |bundle: &Arc<Bundle>| Some(Header::split(&bundle.record).ok()?.header.origin);
        self.remembered = peers.iter().filter_map(origin).collect();
        self.restored = peers.into();
    }

    fn begin(&mut self, job: JobId, pending: Pending) {
        if let Some((origin, head)) = pending.head {
            self.heads.insert((origin, head.sequence, head.hash));
        }
        if let Some(link) = pending.source {
            let count = self.by_link.entry(link).or_default();
            *count = count.saturating_add(1);
        }
        self.jobs.insert(job, pending);
    }

    /// The job is done. By which link it came, and what it would bring.
    pub(super) fn finished(&mut self, job: JobId) -> Option<Done> {
        let Pending { source, head } = self.jobs.remove(&job)?;
        if let Some((origin, head)) = &head {
            self.heads.remove(&(*origin, head.sequence, head.hash));
        }
        if let Some(link) = source
            && let Some(count) = self.by_link.get_mut(&link)
        {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.by_link.remove(&link);
            }
        }
        Some((source, head))
    }

    /// A record that stood on disk was believed once. If only this host's clock speaks against it
    /// now, it stays a floor: what is older is not taken while the clock is off, nor after.
    pub(super) fn keep_floor(&mut self, head: Option<(NodeKey, Head)>, error: &RecordError) {
        if let Some((origin, head)) = head
            && is_of_time(error)
            && self.floors.len() < limits::NODES_MAX
        {
            self.floors.insert(origin, head.sequence);
        }
    }

    /// Whether a sequence is below what stood on disk and could not be believed again.
    fn below_floor(&self, origin: &NodeKey, sequence: u64) -> bool {
        self.floors.get(origin).is_some_and(|floor| sequence < *floor)
    }

    pub(super) fn jobs(&self) -> usize {
        self.jobs.len()
    }

    /// Whether that was asked for.
    fn is_pulled(&self, origin: &NodeKey, sequence: u64) -> bool {
        self.pulls.is_asked(origin, sequence)
    }

    /// Keeps a record that was asked for until there is a budget to check it.
    fn wait(&mut self, link: LinkId, bundle: Arc<Bundle>) {
        let bytes = self.waiting_bytes.saturating_add(bundle.bytes());
        if bytes <= limits::PULL_WAITING {
            self.waiting_bytes = bytes;
            self.waiting.push_back((link, bundle));
        }
    }

    /// The next record that waits, if its link has a budget.
    fn next_waiting(&mut self) -> Option<(LinkId, Arc<Bundle>)> {
        let (link, _) = self.waiting.front()?;
        if !self.has_budget(Some(*link)) {
            return None;
        }
        let (link, bundle) = self.waiting.pop_front()?;
        self.waiting_bytes = self.waiting_bytes.saturating_sub(bundle.bytes());
        Some((link, bundle))
    }

    /// Whether a further job of that link may be out: it has no more of the places than are free,
    /// so that those who send much leave room for those who send little.
    fn has_budget(&self, link: Option<LinkId>) -> bool {
        let free = limits::VERIFY_IN_FLIGHT.saturating_sub(self.jobs.len());
        let held = self.of_link(link);
        free > 0 && held < limits::VERIFY_PER_PEER && held <= free
    }

    fn under_way(&self, origin: &NodeKey, head: Head) -> bool {
        self.heads.contains(&(*origin, head.sequence, head.hash))
    }

    /// How many jobs of that link are out. What stood on disk has a bound of its own.
    fn of_link(&self, link: Option<LinkId>) -> usize {
        link.and_then(|link| self.by_link.get(&link)).copied().unwrap_or_default()
    }
}

/// A job that is out: the link that it came by, and the head that it would bring.
#[derive(Clone, Copy, Debug)]
struct Pending {
    source: Option<LinkId>,
    head: Option<(NodeKey, Head)>,
}

/// Records that were pulled are flooded on like any other while they are few: about so many at
/// once, and one more this often. Who joins pulls the whole mesh, and its neighbours have it.
const PULLED_ON_EVERY: Duration = Duration::from_millis(50);

/// Whether nothing but the time speaks against a record.
fn is_of_time(error: &RecordError) -> bool {
    matches!(error, RecordError::Chain(ChainError::Expired { .. } | ChainError::NotYetValid { .. }))
}

impl Engine {
    /// Takes what waits for a place among the jobs: first what peers were asked for.
    pub(super) fn next_waiting(&mut self, now: Now) {
        while let Some((link, bundle)) = self.spread.next_waiting() {
            self.record_came(now, Some(link), bundle);
        }
        self.next_restored(now);
    }

    pub(super) fn next_restored(&mut self, now: Now) {
        while self.spread.jobs.len() < limits::VERIFY_IN_FLIGHT / 2 {
            let Some(bundle) = self.spread.restored.pop_front() else {
                return;
            };
            self.record_came(now, None, bundle);
        }
    }

    /// Whether a frame is a record that is held, byte for byte. Nearly all that a flood brings is:
    /// each record comes once over every link. So it is looked at before anything is copied.
    pub(super) fn is_held(&self, frame: &[u8]) -> bool {
        let Some(record) = frame::record_in(frame) else {
            return false;
        };
        let Ok(parts) = Header::split(record) else {
            return false;
        };
        let held = self.store.body(&parts.header.origin);
        held.is_some_and(|held| held.bundle().record == record) && !planted(Planted::ResendKnown)
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
        if standing == Standing::Older
            && let Some(peer) = source.and_then(|link| self.links.peer(link))
        {
            self.event(Event::Outdated(peer));
        }
        let stale = header.not_after.after(limits::CLOCK_SKEW) < now.wall;
        let aside = self.spread.set_aside.contains(&head.hash);
        let told = self.spread.under_way(&header.origin, head)
            || aside
            || self.spread.below_floor(&header.origin, header.sequence);
        if !worth || stale && source.is_some() || told {
            return;
        }
        if !self.spread.has_budget(source) {
            // Above the budget costs no blame. What was asked for waits, the rest is left to the
            // next exchange.
            if let Some(link) = source
                && self.spread.is_pulled(&header.origin, header.sequence)
            {
                let bundle = Arc::clone(signed.bundle());
                self.spread.wait(link, bundle);
            }
        } else if self.within_pace(now, &header.origin) {
            self.verify(now, source, Some((header.origin, head)), Subject::Record(signed));
        }
    }

    /// Whether that very content is being checked.
    pub(super) fn under_way(&self, origin: &NodeKey, head: Head) -> bool {
        self.spread.under_way(origin, head)
    }

    /// Whether another job that came by that link is within all budgets.
    pub(super) fn has_room(&self, source: Option<LinkId>) -> bool {
        self.spread.has_budget(source)
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
        self.spread.begin(id, Pending { source, head });
        let before = head.and_then(|(origin, _)| self.store.body(&origin)).cloned();
        let job = Job { what, before, roots: self.roots_of(), wall: now.wall };
        self.outbox.push_back(Output::Verify(id, Box::new(job)));
    }

    /// Whether a further job of this peer is within its budget.
    pub(super) fn may_verify(&self, source: LinkId) -> bool {
        self.spread.has_budget(Some(source))
    }

    /// A check of ours broke. Nobody is blamed: who passed it on can read it.
    pub(super) fn check_broke(&mut self, now: Now, source: Option<LinkId>, record: Option<Hash>) {
        let peer = source.and_then(|link| self.links.peer(link));
        self.event(Event::SetAside(peer));
        match record {
            Some(record) => {
                self.spread.set_aside.push_back(record);
                if self.spread.set_aside.len() > limits::SET_ASIDE {
                    self.spread.set_aside.pop_front();
                }
            }
            None => self.reconciled_one(now, source),
        }
    }

    pub(super) fn disbelieve(&mut self, now: Now, source: Option<LinkId>, error: RecordError) {
        let Some(peer) = source.and_then(|link| self.links.peer(link)) else {
            return;
        };
        // An honest laggard may offer what has expired.
        if !is_of_time(&error) {
            self.blame(now, peer, Blame::BadRecord(error));
        }
    }

    /// Whether this agent has believed that node before: now, or by what stood on its disk when it
    /// started. While its issuer is suspended, only such a node is let in.
    pub(super) fn is_known(&self, node: &NodeKey) -> bool {
        self.members.contains_key(node) || self.spread.remembered.contains(node)
    }

    /// A record holds. Floors may have risen while it was checked.
    pub(super) fn believe(&mut self, now: Now, source: Option<LinkId>, record: Verified) {
        let origin = record.header().origin;
        if origin == self.me {
            return self.own_from_outside(now, &record);
        }
        let known = self.is_known(&origin);
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
                self.pass_on(now, origin, &bundle, source);
                self.member_spoke(now, origin, sequence, source.is_none());
            }
            Stored::Fork { wins } => self.forked(now, origin, &bundle, source, wins),
            Stored::Known if planted(Planted::ResendKnown) => self.flood_record(&bundle, source),
            Stored::Known | Stored::Full => {}
        }
        if self.spread.is_pulled(&origin, sequence) {
            self.spread.pulls.remove(&origin);
        }
        self.touched(now, origin);
    }

    /// Floods what is new. Of what was pulled a few, as if it had just been said, so that a mesh
    /// that was parted heals at once; of many only that there is something to ask for.
    fn pass_on(&mut self, now: Now, origin: NodeKey, bundle: &Arc<Bundle>, source: Option<LinkId>) {
        let sequence = self.store.head(&origin).map_or(0, |head| head.sequence);
        let pulled = self.spread.is_pulled(&origin, sequence);
        if pulled && !self.spread.pulled_on.take(now.tick, PULLED_ON_EVERY) {
            self.spread.tell_parts_at.get_or_insert_with(|| now.tick.after(TELL_AFTER));
        } else {
            self.flood_record(bundle, source);
        }
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
            self.touched(now, node);
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
        // That a key has ended is told to everybody.
        let mut links: Vec<LinkId> = match frame {
            Frame::Revocations(_) => self.links.ready().map(|(link, _)| link).collect(),
            _ => self.links.flooded().collect(),
        };
        if planted(Planted::FloodToTwo) {
            links.truncate(2);
        }
        if planted(Planted::NoFlood) && matches!(frame, Frame::Record(_)) {
            return;
        }
        // Encoded once, and the links share the bytes. A frame that we build is within its bounds.
        let Ok(bytes) = frame.encode().map(Bytes::from) else { return };
        for link in links.into_iter().filter(|link| Some(*link) != except) {
            self.outbox.push_back(Output::Send(link, bytes.clone()));
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
