//! Links: the control connections of this agent, from their Hello on.

use std::{collections::BTreeMap, ops::Bound, sync::Arc, time::Duration};

use rand::RngExt;

use super::{
    Blame, Engine, Event, LinkId, Output,
    exchange::Exchange,
    trip::{LOST_AFTER, Trips},
};
use crate::{
    clock::{Now, Tick},
    limits,
    name::{Hash, NodeKey},
    record::Bundle,
    trust::{CloseCode, VerifiedChain},
    view::Liveness,
    wire::frame::{self, Frame, Hello, LinkRole, Speaks, Stand},
};

#[derive(Debug)]
pub(super) struct Link {
    pub(super) peer: NodeKey,
    /// What the handshake proved; keys may end while the link stands.
    chain: Arc<VerifiedChain>,
    dialled: bool,
    opened: Tick,
    /// The revocation root that our Hello told: by it and the peer's both ends decide alike.
    told: Hash,
    /// The peer's boot, once its Hello came.
    boot: Option<u64>,
    /// Since when neither end has the other as a neighbour.
    idle_since: Option<Tick>,
    pub(super) exchange: Exchange,
    /// How long it takes to answer.
    trips: Trips,
    /// Where the peer last said it stands.
    pub(super) stand: Option<Stand>,
    /// What is still to be heard of keys that have ended before anything else is.
    pub(super) awaits: Option<Awaits>,
}

/// A link whose ends do not agree yet on which keys have ended.
#[derive(Debug, Default)]
pub(super) struct Awaits {
    /// The peer has told all that it knows.
    pub(super) whole: bool,
    /// Statements of it that are being checked or written.
    pub(super) open: usize,
    /// What it said meanwhile, in order.
    pub(super) early: Vec<Frame>,
}

#[derive(Debug, Default)]
struct Peer {
    /// When it may be dialled next.
    dial_at: Tick,
    dialling: bool,
    blame: u32,
    forgiven: Tick,
    banned_until: Tick,
}

/// The table of links.
#[derive(Debug, Default)]
pub(super) struct Links {
    links: BTreeMap<LinkId, Link>,
    ready: BTreeMap<NodeKey, LinkId>,
    peers: BTreeMap<NodeKey, Peer>,
    /// While no link is ready: whom this agent tried last beside its neighbours, and when it goes on.
    tried: Option<NodeKey>,
    try_at: Tick,
}

/// A peer of which no record is believed counts as needed for so long.
const RECORD_TIMEOUT: Duration = Duration::from_secs(5);
/// A Hello must come within this.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);
/// Dials of both sides at once are those younger than this.
const SIMULTANEOUS: Duration = Duration::from_secs(5);
/// Links that are few: twice the neighbours over those that live and over those that are known.
const FEW: usize = 2 * 4 * limits::RINGS;
/// A link that neither end needs is closed after this.
const IDLE_CLOSE: Duration = Duration::from_secs(30);
/// Or after this, when its place is wanted: what its ends had to tell each other is told by then.
const IDLE_ENOUGH: Duration = Duration::from_secs(2);

impl Links {
    pub(super) fn peer(&self, link: LinkId) -> Option<NodeKey> {
        self.links.get(&link).map(|link| link.peer)
    }

    pub(super) fn len(&self) -> usize {
        self.links.len()
    }

    /// The most frames that one link keeps until its revocations are reconciled.
    pub(super) fn early(&self) -> usize {
        let kept = |link: &Link| link.awaits.as_ref().map_or(0, |awaits| awaits.early.len());
        self.links.values().map(kept).max().unwrap_or_default()
    }

    pub(super) fn is_ready(&self, link: LinkId) -> bool {
        self.links.get(&link).is_some_and(|known| {
            known.awaits.is_none() && self.ready.get(&known.peer) == Some(&link)
        })
    }

    pub(super) fn of(&self, peer: &NodeKey) -> Option<LinkId> {
        self.ready.get(peer).copied().filter(|link| self.is_ready(*link))
    }

    pub(super) fn ready(&self) -> impl Iterator<Item = (LinkId, NodeKey)> + '_ {
        let all = self.ready.iter().map(|(peer, link)| (*link, *peer));
        all.filter(|(link, _)| self.is_ready(*link))
    }

    /// Ready links that a flood goes over: all while they are few, else those that an end needs. A
    /// peer on the others has neighbours of its own, and whoever it meets next tells it what it
    /// missed. While a large mesh starts, each agent has many times more links of a moment than it
    /// has neighbours; in a small one a further link may be the only one that a cut leaves.
    pub(super) fn flooded(&self) -> impl Iterator<Item = LinkId> + '_ {
        let few = self.ready.len() <= FEW;
        let idle = |link: &LinkId| self.links.get(link).is_some_and(|one| one.idle_since.is_some());
        self.ready().map(|(link, _)| link).filter(move |link| few || !idle(link))
    }

    /// All links, ready or not, whose peer's chain is one of those.
    pub(super) fn whose(&self, chain: impl Fn(&VerifiedChain) -> bool) -> Vec<LinkId> {
        self.links.iter().filter(|(_, link)| chain(&link.chain)).map(|(id, _)| *id).collect()
    }

    pub(super) fn awaits(&mut self, link: LinkId) -> Option<&mut Option<Awaits>> {
        self.links.get_mut(&link).map(|link| &mut link.awaits)
    }

    pub(super) fn told(&mut self, link: LinkId, stand: Stand) {
        if let Some(link) = self.links.get_mut(&link) {
            link.stand = Some(stand);
        }
    }

    /// Where the peers of ready links last said they stand.
    pub(super) fn stands(&self) -> impl Iterator<Item = Stand> + '_ {
        self.ready.values().filter_map(|link| self.links.get(link)?.stand)
    }

    /// Whether the peers of all ready links have said where they stand.
    pub(super) fn all_stand(&self) -> bool {
        self.ready.values().filter_map(|link| self.links.get(link)).all(|link| link.stand.is_some())
    }

    pub(super) fn trips(&mut self, link: LinkId) -> Option<&mut Trips> {
        self.links.get_mut(&link).map(|link| &mut link.trips)
    }

    /// How long an answer over that link may take.
    pub(super) fn patience(&self, link: Option<LinkId>) -> Duration {
        let link = link.and_then(|link| self.links.get(&link));
        link.map_or(LOST_AFTER, |link| link.trips.patience())
    }

    pub(super) fn exchange(&mut self, link: LinkId) -> Option<&mut Exchange> {
        self.links.get_mut(&link).map(|link| &mut link.exchange)
    }

    pub(super) fn dial_failed(&mut self, node: NodeKey) {
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.dialling = false;
        }
    }

    /// Counts a point of blame. True when the peer is to be cut off.
    pub(super) fn blame(&mut self, now: Tick, node: NodeKey) -> bool {
        let peer = self.peers.entry(node).or_default();
        let forgiven = now.since(peer.forgiven).as_secs() / limits::BLAME_FORGIVE.as_secs();
        peer.blame = peer.blame.saturating_sub(u32::try_from(forgiven).unwrap_or(u32::MAX));
        peer.forgiven = if forgiven > 0 { now } else { peer.forgiven };
        peer.blame = peer.blame.saturating_add(1);
        let cut = peer.blame >= limits::BLAME_CUT && now >= peer.banned_until;
        if cut {
            peer.blame = 0;
            peer.banned_until = now.after(limits::BLAME_BAN);
        }
        cut
    }

    fn banned(&self, node: &NodeKey, now: Tick) -> bool {
        self.peers.get(node).is_some_and(|peer| peer.banned_until > now)
    }

    fn remove(&mut self, link: LinkId) -> Option<Link> {
        let gone = self.links.remove(&link)?;
        if self.ready.get(&gone.peer) == Some(&link) {
            self.ready.remove(&gone.peer);
        }
        Some(gone)
    }
}

impl Engine {
    pub(super) fn connected(
        &mut self,
        now: Now,
        link: LinkId,
        chain: &Arc<VerifiedChain>,
        dialled: bool,
    ) {
        let peer = chain.key;
        self.links.dial_failed(peer);
        let entry = Link {
            peer,
            chain: Arc::clone(chain),
            dialled,
            opened: now.tick,
            told: self.ended_root(),
            boot: None,
            idle_since: None,
            exchange: Exchange::default(),
            trips: Trips::default(),
            stand: None,
            awaits: None,
        };
        let known = self.is_known(&peer);
        let refuse = if peer == self.me {
            Some(CloseCode::Duplicate)
        } else if self.revocations.judge(chain, known).is_err() {
            Some(CloseCode::Revoked)
        } else if self.links.banned(&peer, now.tick) {
            Some(CloseCode::Blame)
        } else if self.links.links.len() >= limits::CONTROL_PEERS_MAX && !self.make_room(now) {
            Some(CloseCode::Full)
        } else {
            None
        };
        if let Some(reason) = refuse {
            self.outbox.push_back(Output::Close(link, reason));
            return;
        }
        self.links.links.insert(link, entry);
        let hello = self.own_hello(now);
        self.send(link, &Frame::Hello(Box::new(hello)));
    }

    fn own_hello(&mut self, now: Now) -> Hello {
        let own: Option<Bundle> =
            self.store.body(&self.me).map(|record| Bundle::clone(record.bundle()));
        Hello {
            versions: vec![frame::VERSION],
            role: LinkRole::Control,
            mesh: self.mesh,
            key: self.me,
            boot: self.own.boot,
            revocation_root: self.ended_root(),
            issuer_root: self.issuer_root(),
            records_root: self.store.root(),
            wall: now.wall,
            speaks: Speaks::Bundle(own),
        }
    }

    pub(super) fn hello(&mut self, now: Now, link: LinkId, peer: NodeKey, hello: Hello) {
        if self.links.links.get(&link).is_none_or(|link| link.boot.is_some()) {
            return self.blame(now, peer, Blame::OutOfTurn);
        }
        let right = hello.versions.contains(&frame::VERSION)
            && hello.role == LinkRole::Control
            && hello.mesh == self.mesh
            && hello.key == peer;
        if !right {
            return self.close(now, link, CloseCode::WrongProtocol);
        }
        self.note_skew(now, peer, hello.wall);
        if !self.keeps(now, link, peer, hello.boot) {
            return self.close(now, link, CloseCode::Duplicate);
        }
        if let Some(other) = self.links.ready.insert(peer, link) {
            self.close(now, other, CloseCode::Duplicate);
        }
        if let Some(entry) = self.links.links.get_mut(&link) {
            entry.boot = Some(hello.boot);
            // Both Hellos set out when the link stood: a first measure.
            entry.trips.took(now.tick.since(entry.opened));
        }
        let told = self.links.links.get(&link).map(|entry| entry.told);
        let agreed = told == Some(hello.revocation_root);
        if !agreed || told != Some(self.ended_root()) {
            self.tell_revocations(link);
        }
        if agreed {
            return self.welcome(now, link, peer, hello);
        }
        if let Some(awaits) = self.links.awaits(link) {
            let early = vec![Frame::Hello(Box::new(hello))];
            *awaits = Some(Awaits { early, ..Awaits::default() });
        }
    }

    /// Both ends agree on which keys have ended: now the peer is heard.
    pub(super) fn welcome(&mut self, now: Now, link: LinkId, peer: NodeKey, hello: Hello) {
        self.contact(now, peer);
        if let Speaks::Bundle(Some(bundle)) = hello.speaks {
            self.record_came(now, Some(link), Arc::new(bundle));
        }
        self.tell_doubts(link);
        // Not by the first probe that differs: who is new shall not serve without it for a moment
        // longer than it must.
        self.tell_policy(link);
        let dialled = self.links.links.get(&link).is_some_and(|link| link.dialled);
        self.compare_at_first(now, link, hello.records_root, dialled);
        // The peer's record may be known already: then nothing else would show that it lives.
        self.changed(now);
    }

    /// The hash over the issuers that believed records hold.
    fn issuer_root(&self) -> Hash {
        let read = self.store.bodies().filter_map(|(_, record)| record.content());
        let held = read.filter_map(|content| content.issuer.0.as_ref());
        let mut hashes: Vec<Hash> = held.map(|der| Hash::of(&[der])).collect();
        hashes.sort();
        hashes.dedup();
        let bytes: Vec<u8> = hashes.iter().flat_map(|hash| hash.0).collect();
        Hash::of(&[b"skein/issuers/v1\0", &bytes])
    }

    fn note_skew(&mut self, now: Now, peer: NodeKey, theirs: crate::clock::Wall) {
        let apart = now.wall.since(theirs).max(theirs.since(now.wall));
        let apart = (apart > limits::CLOCK_SKEW).then_some(apart);
        self.event(Event::ClockSkew(peer, apart));
    }

    /// Whether the link that just said Hello is kept, if another to the same peer is ready.
    fn keeps(&self, now: Now, link: LinkId, peer: NodeKey, boot: u64) -> bool {
        let (Some(new), Some(old)) = (
            self.links.links.get(&link),
            self.links.of(&peer).and_then(|old| self.links.links.get(&old)),
        ) else {
            return true;
        };
        let old_boot = old.boot.unwrap_or_default();
        if boot != old_boot {
            return boot > old_boot;
        }
        let silent = self.members.get(&peer).is_some_and(|member| {
            now.tick.since(member.heard) > limits::PROBE_EVERY.saturating_mul(limits::PROBES_MISSED)
        });
        if silent {
            return true;
        }
        if now.tick.since(old.opened) > SIMULTANEOUS {
            return false;
        }
        let lower_dials = self.me < peer;
        new.dialled == lower_dials && old.dialled != lower_dials
    }

    pub(super) fn disconnected(&mut self, now: Now, link: LinkId) {
        if let Some(gone) = self.links.remove(link) {
            let delay = self.rng.random_range(50..500);
            let peer = self.links.peers.entry(gone.peer).or_default();
            // At once after a long life; never sooner than two dials may follow each other.
            peer.dial_at = peer.dial_at.max(now.tick.after(Duration::from_millis(delay)));
            self.changed(now);
        }
    }

    pub(super) fn close(&mut self, now: Now, link: LinkId, reason: CloseCode) {
        self.outbox.push_back(Output::Close(link, reason));
        self.disconnected(now, link);
    }

    /// Closes links that said no Hello in time or that neither end needs any longer.
    pub(super) fn links_in_time(&mut self, now: Now) {
        let mut close = Vec::new();
        for (id, link) in &mut self.links.links {
            // One that says nothing of itself is given the time to.
            let new = now.tick.since(link.opened) <= RECORD_TIMEOUT;
            let unknown = new && !self.members.contains_key(&link.peer);
            let needed = unknown || self.wanted.contains(&link.peer);
            link.idle_since = if needed { None } else { link.idle_since.or(Some(now.tick)) };
            if link.boot.is_none() && now.tick.since(link.opened) > HELLO_TIMEOUT {
                close.push((*id, CloseCode::Timeout));
            } else if link.idle_since.is_some_and(|since| now.tick.since(since) > IDLE_CLOSE) {
                close.push((*id, CloseCode::Done));
            }
        }
        for (link, reason) in close {
            self.close(now, link, reason);
        }
    }

    /// Closes the link that neither end has needed for longest, if one has had its time: a seed
    /// whose places are all taken by hosts that it has let in would let nobody in for half a minute.
    fn make_room(&mut self, now: Now) -> bool {
        let idle = self.links.links.iter().filter_map(|(id, link)| Some((link.idle_since?, *id)));
        let longest = idle.min().filter(|(since, _)| now.tick.since(*since) > IDLE_ENOUGH);
        if let Some((_, link)) = longest {
            self.close(now, link, CloseCode::Done);
        }
        longest.is_some()
    }

    /// Dials neighbours that no link leads to, the dead among them too. Who has no link at all tries
    /// all others that it knows as well, some at a time: those within its reach may be none of its
    /// neighbours.
    pub(super) fn dial(&mut self, now: Now) {
        let mut wanted: Vec<NodeKey> = self.wanted.iter().copied().collect();
        if self.links.ready.is_empty() && now.tick >= self.links.try_at {
            self.links.try_at = now.tick.after(limits::REDIAL_EVERY);
            let last = self.links.tried.unwrap_or(self.me);
            let after = self.members.range((Bound::Excluded(last), Bound::Unbounded));
            let around = after.chain(self.members.range(..=last));
            let stays = around.filter(|(_, member)| member.liveness != Liveness::Left);
            wanted.extend(stays.map(|(node, _)| *node).take(limits::RINGS));
            self.links.tried = wanted.last().copied();
        }
        for node in wanted {
            self.dial_if_due(now, node);
        }
    }

    pub(super) fn dial_if_due(&mut self, now: Now, node: NodeKey) {
        if self.links.of(&node).is_some() || self.links.banned(&node, now.tick) {
            return;
        }
        let Some(addresses) = self.body(&node).map(|record| record.addresses.0.clone()) else {
            return;
        };
        let jitter = self.rng.random_range(0..500);
        let peer = self.links.peers.entry(node).or_default();
        if peer.dialling || now.tick < peer.dial_at {
            return;
        }
        peer.dialling = true;
        peer.dial_at = now.tick.after(limits::REDIAL_EVERY + Duration::from_millis(jitter));
        self.outbox.push_back(Output::Dial(node, addresses));
    }
}
