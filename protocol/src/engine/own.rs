//! This host's own record: when it is signed, with which sequence, and when no longer.

use std::{collections::BTreeSet, time::Duration};

use rand::RngExt;

use super::{Engine, Event, Write};
use crate::{
    clock::{Now, Tick},
    limits,
    name::NodeKey,
    planted::{Planted, planted},
    record::{
        OwnChain, Signed, Verified,
        node::{Addresses, HeldIssuer, Host, Instances, NodeRecord, NodeState, TokenUses},
    },
};

/// What this host wants to say. Boot, name and locality stand in `host`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Local {
    /// Who and in what state. Its boot is put in by the engine.
    pub host: Host,
    /// Where it is reached.
    pub addresses: Addresses,
    /// What it serves. What the grant does not name is left out, and said.
    pub instances: Instances,
    /// Uses of join tokens.
    pub tokens: TokenUses,
    /// The issuer that it holds.
    pub issuer: HeldIssuer,
}

/// The state of this host's record.
pub(super) struct Own {
    pub(super) chain: OwnChain,
    pub(super) local: Local,
    pub(super) boot: u64,
    /// The sequence of the last record signed in this boot.
    pub(super) published: Option<u64>,
    /// The next sequence to use.
    next: u64,
    /// Below this a sequence may be used.
    limit: u64,
    dirty: bool,
    not_before: Tick,
    resign_at: Tick,
    leapt: bool,
    pub(super) fenced: bool,
    /// Records that may be signed at once.
    pace: Pace,
    /// When this host refuted last, and how long it waits before it does again.
    refuted: Option<(Tick, Duration)>,
    /// Refutations of what would have others hold it for dead.
    urgent: Pace,
    /// One of them is on its way.
    urged: bool,
    /// Who doubts it in its present sequence.
    doubters: BTreeSet<NodeKey>,
    /// When it is to sign again because it is doubted.
    refute_at: Option<Tick>,
}

/// A token bucket over records of one origin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pace {
    burst: u32,
    left: u32,
    at: Tick,
}

impl Default for Pace {
    fn default() -> Self {
        Self::full(limits::RECORD_BURST)
    }
}

impl Pace {
    fn full(burst: u32) -> Self {
        Self { burst, left: burst, at: Tick(0) }
    }

    /// Takes one, if one is left at `now`. One comes back every `every`.
    pub(super) fn take(&mut self, now: Tick, every: Duration) -> bool {
        self.refill(now, every);
        let taken = self.left > 0;
        self.left = self.left.saturating_sub(1);
        taken
    }

    /// Takes one, now or, if none is left, the next that comes back. When that is.
    fn reserve(&mut self, now: Tick, every: Duration) -> Tick {
        if self.take(now, every) {
            return now;
        }
        self.at = self.at.after(every);
        self.at
    }

    fn refill(&mut self, now: Tick, every: Duration) {
        let back = now.since(self.at).as_millis() / every.as_millis().max(1);
        let back = u32::try_from(back).unwrap_or(u32::MAX);
        self.left = self.left.saturating_add(back).min(self.burst);
        self.at = match self.left == self.burst {
            true => self.at.max(now),
            false => self.at.after(every.saturating_mul(back)),
        };
    }
}

/// Own records are signed at most this often; changes in between go together.
const PUBLISH_EVERY: Duration = Duration::from_millis(100);

impl Own {
    pub(super) fn new(chain: OwnChain, local: Local, boot: u64, reserved: u64) -> Self {
        Self {
            chain,
            local,
            boot,
            published: None,
            next: reserved.max(1),
            limit: reserved.max(1),
            dirty: true,
            not_before: Tick(0),
            resign_at: Tick(0),
            leapt: false,
            fenced: false,
            pace: Pace::default(),
            refuted: None,
            urgent: Pace::full(limits::REFUTE_BURST),
            urged: false,
            doubters: BTreeSet::new(),
            refute_at: None,
        }
    }

    pub(super) fn reserved(&mut self, upto: u64) {
        self.limit = self.limit.max(upto);
    }

    /// Below this a sequence may be used: it is on disk.
    pub(super) fn limit(&self) -> u64 {
        self.limit
    }

    pub(super) fn retry_at(&mut self, at: Tick) {
        self.not_before = at;
    }
}

impl Engine {
    pub(super) fn own_changed(&mut self, now: Now, local: Local) {
        if self.own.local != local {
            self.own.local = local;
            self.own.dirty = true;
            self.publish_if_due(now);
        }
    }

    pub(super) fn own_renewed(&mut self, now: Now, chain: OwnChain) {
        self.own.chain = chain;
        self.own.dirty = true;
        self.publish_if_due(now);
    }

    /// The disk of this host cannot be written, or can again: its record says so.
    pub(super) fn own_disk_changed(&mut self, now: Now) {
        self.own.dirty = true;
        self.publish_if_due(now);
    }

    /// Whether nothing waits to be signed.
    pub(super) fn own_settled(&self) -> bool {
        !self.own.dirty && self.reserving.is_none()
    }

    /// Somebody doubts this host: what is signed anew refutes it, at once or when it is time.
    ///
    /// One word is that of a liar as likely as not, and holds nobody for dead: it is answered
    /// more and more slowly. Two are what others go by, and may come with every mend of a path
    /// from hosts that truly did not hear of this one, to those beside it that always did.
    pub(super) fn doubted_by(&mut self, now: Now, watcher: NodeKey) {
        if planted(Planted::NoRefute) {
            return;
        }
        // Who has left or whose key has ended is no watcher. Who is held for dead may be one: it
        // is heard again over others before its own link stands.
        if self.known.contains(&watcher) && self.own.doubters.len() < limits::WITNESSES_PER_SUBJECT
        {
            self.own.doubters.insert(watcher);
        }
        if self.own.refute_at.is_none() {
            self.refute_later(now);
        }
        if !self.own.urged && self.own.doubters.len() >= self.words_that_count(&self.me) {
            let at = self.own.urgent.reserve(now.tick, limits::REFUTE_MAX);
            self.own.urged = true;
            self.own.refute_at = self.own.refute_at.map(|later| later.min(at));
        }
        self.publish_if_due(now);
    }

    fn refute_later(&mut self, now: Now) {
        let (at, wait) = match self.own.refuted {
            Some((at, wait)) if now.tick.since(at) < limits::REFUTE_CALM => {
                (at, wait.saturating_mul(2).min(limits::REFUTE_MAX))
            }
            _ => (Tick(0), limits::REFUTE_MIN),
        };
        let due = at.after(wait).max(now.tick);
        self.own.refuted = Some((due, wait));
        self.own.refute_at = Some(due);
    }

    pub(super) fn publish_if_due(&mut self, now: Now) {
        let refutes = self.own.refute_at.is_some_and(|at| now.tick >= at);
        let due = self.own.dirty || refutes || now.tick >= self.own.resign_at;
        if !due || now.tick < self.own.not_before || self.reserving.is_some() {
            return;
        }
        if self.own.fenced && self.own.published.is_some() && !self.own.dirty && !refutes {
            return;
        }
        if self.own.next >= self.own.limit && !planted(Planted::SkipReserve) {
            let upto = self.own.next.saturating_add(limits::SEQUENCE_BLOCK);
            let id = self.persist(vec![Write::Reserve(upto)]);
            self.reserving = Some((id, upto));
            return;
        }
        if !self.own.pace.take(now.tick, limits::RECORD_OWN_EVERY) {
            self.own.not_before = now.tick.after(PUBLISH_EVERY);
            return;
        }
        self.publish(now);
    }

    fn publish(&mut self, now: Now) {
        let sequence = self.own.next;
        // Whatever made it due, all is said with it, or will never be.
        self.own.refute_at = None;
        self.own.urged = false;
        self.own.refuted = self.own.refuted.map(|(at, wait)| (at.min(now.tick), wait));
        if sequence >= limits::SEQUENCE_MAX {
            self.own.dirty = false;
            self.own.resign_at = Tick(u64::MAX);
            let why = "the sequences of this key are used up: somebody signed one near the end \
                       with it; revoke the key and join this host again";
            return self.event(Event::NotPublished(why.to_owned()));
        }
        let (content, whole) = self.own_content();
        let not_after = now.wall.after(limits::RECORD_LIFE);
        let signer = std::sync::Arc::clone(&self.signer);
        let signed =
            Verified::sign(content, self.mesh, sequence, not_after, &self.own.chain, &*signer);
        self.own.dirty = false;
        self.own.not_before = now.tick.after(PUBLISH_EVERY);
        let jitter = self.rng.random_range(0..limits::RECORD_RESIGN.as_secs() / 4);
        let resign = limits::RECORD_RESIGN.saturating_sub(Duration::from_secs(jitter));
        self.own.resign_at = now.tick.after(resign);
        match signed {
            Ok(record) => {
                self.own.next = sequence.saturating_add(1);
                self.own.published = Some(sequence);
                self.own.doubters.clear();
                self.persist(vec![Write::Peer(self.me, std::sync::Arc::clone(record.bundle()))]);
                self.flood_record(record.bundle(), None);
                self.store.insert(record);
                self.touched(now, self.me);
                if whole {
                    self.event(Event::Published);
                }
            }
            Err(error) => self.event(Event::NotPublished(error.to_string())),
        }
    }

    /// What this host says, and whether that is all that it wants to say.
    fn own_content(&mut self) -> (NodeRecord, bool) {
        let local = &self.own.local;
        let grant = &self.own.chain.verified.grant;
        let (mut instances, strangers): (Vec<_>, Vec<_>) =
            local.instances.0.iter().cloned().partition(|i| grant.covers(&i.service));
        let mut host = local.host.clone();
        if self.own.fenced {
            instances.clear();
            host.state = NodeState::Fenced;
        }
        instances.sort_by(|a, b| a.id.cmp(&b.id));
        host.boot = self.own.boot;
        host.unwritten = self.disk.in_trouble();
        let content = NodeRecord {
            host,
            addresses: local.addresses.clone(),
            instances: Instances(instances),
            tokens: local.tokens.clone(),
            issuer: local.issuer.clone(),
        };
        let whole = strangers.is_empty();
        for instance in strangers {
            self.event(Event::NotPublished(format!(
                "instance {} not registered: this node's certificate does not name {}; an \
                 operator admits it with `skein admit {} --service {}`",
                instance.id, instance.service, self.me, instance.service
            )));
        }
        (content, whole)
    }

    /// A peer holds a record in this host's name that this host does not. It never overwrites
    /// us; it can only show that our disk went back, or that our key is in use twice.
    pub(super) fn own_from_outside(&mut self, now: Now, record: &Verified) {
        let sequence = record.header().sequence;
        let content = record.content();
        let held = self.store.head(&self.me);
        let echo = held.is_some_and(|head| head.hash == record.hash());
        // Once this host has leapt over it, whoever else tells of it tells nothing new.
        let last = self.own.next == sequence.saturating_add(1);
        let fork = !echo && last && self.own.published == Some(sequence);
        // Below the next sequence stands only what this host may have said itself.
        let ours = !fork && sequence < self.own.next;
        if echo || ours || self.own.fenced || planted(Planted::NoLeap) {
            return;
        }
        let twin = content.is_some_and(|content| {
            content.host.boot >= self.own.boot || content.host.state == NodeState::Fenced
        });
        if twin || self.own.leapt {
            let address = content.and_then(|content| content.addresses.0.first());
            let address = address.map(|address| address.socket());
            self.own.fenced = true;
            self.event(Event::Cloned { address });
        } else {
            self.event(Event::RolledBack { had: self.own.next, seen: sequence });
            self.own.leapt = true;
            self.put_on_probation(now);
        }
        self.own.next = self.own.next.max(sequence.saturating_add(limits::SEQUENCE_LEAP));
        self.own.limit = self.own.limit.min(self.own.next);
        self.own.dirty = true;
        self.publish_if_due(now);
    }

    /// A record in this host's name came, not verified yet: whether it is worth a check.
    pub(super) fn own_worth_checking(&self, signed: &Signed) -> bool {
        let held = self.store.head(&self.me);
        held.is_none_or(|head| {
            signed.header().sequence >= head.sequence && signed.hash() != head.hash
        })
    }
}
