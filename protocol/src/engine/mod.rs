//! The engine: one state machine that decides what an agent says, believes and shows.
//!
//! In:    [`Input`], each with [`Now`].     Out: [`Output`], drained by [`Engine::poll_output`].
//! Never: reads a clock, makes entropy, does I/O, checks a signature itself, acts on what had to
//!        be on disk first and is not.
//!
//! The shell calls [`Engine::handle`], drains [`Engine::poll_output`] to the end, and hands in
//! [`Input::Tick`] when [`Engine::next_wakeup`] has come. A signature check is
//! [`Output::Verify`], run on a pool, and comes back as [`Input::Verified`], to be held against
//! floors again. A write is [`Output::Persist`] and comes back as [`Input::Persisted`] or
//! [`Input::PersistFailed`]; what needs it on disk happens only then, but for what only restricts:
//! that does not wait for a disk that cannot be written.

#[cfg(test)]
mod bench;
mod disk;
mod exchange;
mod links;
mod liveness;
mod own;
mod policy;
mod probation;
mod project;
mod revoke;
mod spread;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_disk;
mod trip;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    fmt,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use rand::{RngExt, SeedableRng, rngs::StdRng};

use self::{
    disk::{Ruling, Writes},
    links::Links,
    liveness::Member,
    own::Own,
    probation::Probation,
    project::Picture,
    spread::Spread,
};
use crate::{
    clock::{Now, Tick, Wall},
    limits,
    membership::{Rings, SignedWitness},
    name::{Hash, MeshId, NodeKey},
    policy::{Documents, Policy, PolicyBundle, SignedVersion, VerifiedVersion, VersionError},
    record::{Bundle, OwnChain, RecordError, Signed, Verified, node::NodeRecord},
    store::Store,
    trust::{
        ChainError, CloseCode, Crypto, Revocations, RootChain, Roots, Signer, VerifiedChain,
        revocation::{RevocationError, Statement, VerifiedStatement},
    },
    view::View,
    wire::frame::Frame,
};

pub use self::{own::Local, probation::Anchor};

/// Tells one connection from another, also of the same peer. The shell counts them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LinkId(pub u64);

/// Tells one verify job from another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct JobId(pub u64);

/// Tells one write from another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PersistId(pub u64);

/// What happens to an agent.
#[derive(Debug)]
pub enum Input {
    /// Time has come.
    Tick,
    /// This host has something to say, or no longer has.
    Local(Box<Local>),
    /// This host's certificate was renewed.
    Renewed(Box<OwnChain>),
    /// A control connection stands; the handshake proved the peer's chain.
    Connected {
        /// The shell's number for it.
        link: LinkId,
        /// What the peer's chain proves.
        chain: Arc<VerifiedChain>,
        /// Whether we dialled.
        dialled: bool,
    },
    /// A control connection has ended.
    Disconnected(LinkId),
    /// A dial came to nothing.
    DialFailed(NodeKey),
    /// A frame came.
    Frame {
        /// On which connection.
        link: LinkId,
        /// Without the length in front.
        bytes: Bytes,
    },
    /// A verify job is done.
    Verified(JobId, Box<Checked>),
    /// A write is on disk.
    Persisted(PersistId),
    /// A write failed, and why.
    PersistFailed(PersistId, String),
    /// A key of this mesh has ended, somebody says here.
    Revoke(Box<Statement>),
    /// An operator signed a document, somebody says here.
    Policy(Box<PolicyBundle>),
    /// Further roots are on disk: as they travel, and verified.
    Roots(Box<RootChain>, Arc<Roots>),
    /// chitchat hints that a node has a newer record.
    Hint {
        /// The node.
        node: NodeKey,
        /// The sequence that it hints at.
        sequence: u64,
    },
    /// Whom chitchat holds for live. Whom it lacks is probed, over links that stand.
    GossipLive(BTreeSet<NodeKey>),
}

/// What the shell is to do.
#[derive(Debug)]
pub enum Output {
    /// Send a frame.
    Send(LinkId, Bytes),
    /// Open a control connection to a node.
    Dial(NodeKey, Vec<crate::record::node::Address>),
    /// Close a control connection.
    Close(LinkId, CloseCode),
    /// Check a signature on the pool.
    Verify(JobId, Box<Job>),
    /// Write, all of it or nothing.
    Persist(PersistId, Vec<Write>),
    /// Show this view to all who read views.
    View(Arc<View>),
    /// Keys have ended: judge every handshake by this, cut what is open to them.
    Revoked(Arc<Revocations>),
    /// Roots that follow on those that are trusted were told and verified: write them, and hand
    /// them in as [`Input::Roots`].
    Roots(Arc<RootChain>),
    /// Other documents are in force: judge every call by this, also those that are open.
    Policy(Arc<Policy>),
    /// From now on no call is taken, or calls are taken again: this host may not know the mesh's
    /// policy, or does.
    Probation(bool),
    /// Tell people.
    Event(Event),
}

/// How many agents are known to agree with this one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Agreeing {
    /// On all records.
    pub records: u32,
    /// On all policy.
    pub policy: u32,
    /// How many could agree: this one, and those linked to it.
    pub of: u32,
    /// Whether all that this host wants to say is in its record by now.
    pub settled: bool,
    /// The sequence of that record; 0 while there is none.
    pub sequence: u64,
}

/// How much an engine holds of everything that has a bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Held {
    /// Origins with a head: [`limits::NODES_MAX`].
    pub origins: usize,
    /// Members: [`limits::NODES_MAX`].
    pub members: usize,
    /// Control links: [`limits::CONTROL_PEERS_MAX`].
    pub links: usize,
    /// Frames of one link that wait for its revocations, at most: [`limits::EARLY_FRAMES`].
    pub early: usize,
    /// Checks of records and witnesses that are out: [`limits::VERIFY_IN_FLIGHT`]. Revocations
    /// have no budget but the number of them that is ever held.
    pub jobs: usize,
    /// Records that were asked for: [`limits::NODES_MAX`].
    pub pulling: usize,
    /// Probes on behalf of others: [`limits::PROBES_ASKED`].
    pub asked: usize,
    /// Deaths that are remembered: [`limits::NODES_MAX`].
    pub deaths: usize,
    /// Writes that wait for a disk that fails: [`limits::OWED_MAX`].
    pub owed: usize,
    /// Versions that are being written: [`limits::PERSIST_WAITING`].
    pub ruling: usize,
}

impl Held {
    /// What is over its bound, if anything is.
    pub fn over(&self) -> Option<&'static str> {
        let bounds = [
            ("origins", self.origins, limits::NODES_MAX),
            ("members", self.members, limits::NODES_MAX),
            ("links", self.links, limits::CONTROL_PEERS_MAX),
            ("early", self.early, limits::EARLY_FRAMES),
            ("jobs", self.jobs, limits::VERIFY_IN_FLIGHT + limits::REVOCATIONS_MAX),
            ("pulling", self.pulling, exchange::PULLS_MAX),
            ("asked", self.asked, limits::PROBES_ASKED),
            ("deaths", self.deaths, limits::NODES_MAX),
            ("owed", self.owed, limits::OWED_MAX),
            ("ruling", self.ruling, limits::PERSIST_WAITING),
        ];
        bounds.into_iter().find(|(_, held, bound)| held > bound).map(|(name, ..)| name)
    }
}

/// What is written to disk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Write {
    /// Sequences below this may have been used by this host.
    Reserve(u64),
    /// The record of a peer, so that a restart needs no seed.
    Peer(NodeKey, Arc<Bundle>),
    /// A peer is forgotten.
    Forget(NodeKey),
    /// A key has ended.
    Revocation(Hash, Vec<u8>),
    /// A version of a document, by its name, as it travels.
    Policy(Hash, Vec<u8>),
    /// A version was superseded, or its operator's key has ended.
    ForgetPolicy(Hash),
    /// Whether this disk has held the mesh's policy.
    Anchored(bool),
}

/// A signature check.
#[derive(Debug)]
pub struct Job {
    what: Subject,
    /// What is believed of the same origin already.
    before: Option<Verified>,
    roots: Arc<Roots>,
    wall: Wall,
}

#[derive(Debug)]
enum Subject {
    Record(Signed),
    Witness(SignedWitness),
    Revocation(Box<Statement>),
    Policy(Box<SignedVersion>),
    Roots(Box<RootChain>),
}

/// What a signature check found.
#[derive(Debug)]
pub struct Checked(Finding);

#[derive(Debug)]
enum Finding {
    Record(Box<Result<Verified, RecordError>>),
    Witness(SignedWitness, bool),
    Revocation(Box<Result<VerifiedStatement, RevocationError>>),
    Policy(Box<Result<VerifiedVersion, VersionError>>),
    Roots(Box<RootChain>, Box<Result<Roots, ChainError>>),
    /// The check itself broke, over the record of that name if it was one.
    Broke(Option<Hash>),
}

impl Job {
    /// Does the check. Takes tens of microseconds; run it on a pool.
    pub fn run(&self, crypto: &dyn Crypto) -> Checked {
        self.run_beside(self.before.as_ref(), crypto)
    }

    /// Does the check beside a record that was verified before by the same roots: what is the
    /// same in both is not checked again.
    pub fn run_beside(&self, before: Option<&Verified>, crypto: &dyn Crypto) -> Checked {
        Checked(match &self.what {
            Subject::Record(signed) => Finding::Record(Box::new(signed.verify_beside(
                before,
                &self.roots,
                self.wall,
                crypto,
            ))),
            Subject::Witness(witness) => Finding::Witness(*witness, witness.holds(crypto)),
            Subject::Revocation(statement) => Finding::Revocation(Box::new(
                Statement::clone(statement).verify(&self.roots, crypto),
            )),
            Subject::Roots(chain) => {
                let roots = chain.verify(crypto);
                Finding::Roots(chain.clone(), Box::new(roots))
            }
            Subject::Policy(signed) => {
                Finding::Policy(Box::new(signed.verify(&self.roots, crypto)))
            }
        })
    }
}

impl Job {
    /// What is told of a check in which this agent itself failed: the shell caught its panic. One
    /// record that an agent of this version cannot bear must not end it wherever it is told on.
    pub fn broke(&self) -> Checked {
        Checked(Finding::Broke(self.record()))
    }

    /// What names the record that is checked, if one is.
    pub fn record(&self) -> Option<Hash> {
        match &self.what {
            Subject::Record(signed) => Some(signed.hash()),
            Subject::Witness(_)
            | Subject::Revocation(_)
            | Subject::Policy(_)
            | Subject::Roots(_) => None,
        }
    }
}

impl Checked {
    /// The record that holds, if one was checked and does.
    pub fn record(&self) -> Option<&Verified> {
        match &self.0 {
            Finding::Record(found) => found.as_ref().as_ref().ok(),
            Finding::Witness(..)
            | Finding::Revocation(_)
            | Finding::Policy(_)
            | Finding::Roots(..)
            | Finding::Broke(_) => None,
        }
    }
}

/// What a peer did that it should not have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Blame {
    /// A frame that does not decode.
    Malformed(String),
    /// A frame before the Hello, or a second Hello.
    OutOfTurn,
    /// A record that does not hold.
    BadRecord(RecordError),
    /// A witness that does not hold.
    BadWitness,
    /// A revocation that does not hold.
    BadRevocation(String),
    /// A policy document that does not hold.
    BadPolicy(String),
    /// Two contents at one sequence.
    Fork,
    /// What the shell saw: gossip bytes, streams.
    Other(&'static str),
}

impl Blame {
    /// A word for metrics: a closed set.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::OutOfTurn => "out_of_turn",
            Self::BadRecord(_) => "bad_record",
            Self::BadWitness => "bad_witness",
            Self::BadRevocation(_) => "bad_revocation",
            Self::BadPolicy(_) => "bad_policy",
            Self::Fork => "fork",
            Self::Other(word) => word,
        }
    }
}

impl fmt::Display for Blame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Malformed(why) => write!(f, "sent a frame that does not decode: {why}"),
            Self::OutOfTurn => f.write_str("sent a frame out of turn"),
            Self::BadRecord(error) => write!(f, "sent a record that is not believed: {error}"),
            Self::BadWitness => f.write_str("sent a witness that its watcher did not sign"),
            Self::BadRevocation(why) => write!(f, "sent a revocation that does not hold: {why}"),
            Self::BadPolicy(why) => write!(f, "sent a policy document that does not hold: {why}"),
            Self::Fork => f.write_str("signed two records with one sequence"),
            Self::Other(word) => f.write_str(word),
        }
    }
}

/// What people are told, one line each.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Event {
    /// A node is known that was not.
    Joined(NodeKey),
    /// A node lives again.
    Alive(NodeKey),
    /// A node may be dead.
    Suspect(NodeKey),
    /// A node is held for dead.
    Dead(NodeKey),
    /// A node left on purpose.
    Left(NodeKey),
    /// A peer is blamed.
    Blamed(NodeKey, Blame),
    /// A peer was cut off for its blame.
    CutOff(NodeKey),
    /// This host's disk is older than its peers' memory: its sequence leaps.
    RolledBack {
        /// What the disk would have gone on with.
        had: u64,
        /// What peers have seen.
        seen: u64,
    },
    /// Another host uses this host's key: fenced.
    Cloned {
        /// Where the other one says it is.
        address: Option<std::net::SocketAddr>,
    },
    /// A key has ended, for this reason; its connections are cut.
    Revoked(NodeKey, String),
    /// Somebody's revocation is not taken, and why.
    RevocationRefused(String),
    /// A version of a document is in force: which, and whose.
    Policy(String, String),
    /// This host takes calls: it holds the mesh's policy. Not `surely`: nobody was there who
    /// could say so, and it goes on with what it and its peers hold.
    Anchored {
        /// Whether an issuer's answer or agents that are anchored say so.
        surely: bool,
    },
    /// A document that was handed in here is not taken, and why.
    PolicyRefused(String),
    /// A peer told a record that is older than the one held: a laggard, or a replay. Nothing
    /// came of it, and nobody is blamed.
    Outdated(NodeKey),
    /// A node signed two contents at one sequence.
    Forked(NodeKey),
    /// Whether a newer agent made the node's record, so that it is carried and not read.
    Unread(NodeKey, bool),
    /// A check broke over something that came by this peer: it is set aside, and a bug of ours.
    SetAside(Option<NodeKey>),
    /// This host's record cannot be published, and why.
    NotPublished(String),
    /// A write failed, or does not come back: what it would open waits, and is written when the
    /// disk takes it.
    DiskFailed(String),
    /// The disk takes writes again, and all that waited is on it.
    DiskWell,
    /// This agent was late itself, and accuses nobody for a while.
    Late(Duration),
    /// This host's record was signed and stored whole: nothing was left out.
    Published,
    /// A peer's clock and this host's, as its Hello told: how far apart, if too far.
    ClockSkew(NodeKey, Option<Duration>),
}

/// What an engine starts with.
#[derive(Clone)]
pub struct Start {
    /// The mesh.
    pub mesh: MeshId,
    /// The trusted roots.
    pub roots: Arc<Roots>,
    /// The same as they travel.
    pub chain: RootChain,
    /// This host's chain.
    pub own: OwnChain,
    /// This host's key.
    pub signer: Arc<dyn Signer>,
    /// What this host says at first.
    pub local: Local,
    /// This start: above every earlier one, and on disk.
    pub boot: u64,
    /// Sequences below this may have been used by this host before.
    pub reserved: u64,
    /// Records of peers from before, and this host's own.
    pub peers: Vec<Arc<Bundle>>,
    /// Keys that have ended, from disk, verified by the shell.
    pub revocations: Revocations,
    /// Mesh-wide documents from disk, verified by the shell.
    pub policies: Documents,
    /// What the disk shows of the policy that it held.
    pub anchor: Anchor,
    /// The seed of all random choice.
    pub seed: u64,
}

/// See the module.
pub struct Engine {
    mesh: MeshId,
    roots: Arc<Roots>,
    chain: RootChain,
    me: NodeKey,
    signer: Arc<dyn Signer>,
    rng: StdRng,
    own: Own,
    store: Store,
    revocations: Arc<Revocations>,
    /// Statements that are being written, and the link that each came by.
    ending: BTreeMap<Hash, (VerifiedStatement, Option<LinkId>)>,
    policy: Arc<Policy>,
    /// Set while this host takes no calls.
    probation: Option<Probation>,
    /// Versions that are being written.
    ruling: BTreeMap<Hash, Ruling>,
    disk: Writes,
    members: BTreeMap<NodeKey, Member>,
    /// Members that somebody speaks against, and some whom nobody does any longer.
    accused: BTreeSet<NodeKey>,
    /// Of them, whose watchers have changed.
    to_weigh: BTreeSet<NodeKey>,
    /// Whether all of them are to be weighed again with the next tick.
    weigh_all: bool,
    /// Members that live or are suspect, this node too.
    live: Rings,
    /// Members that did not leave, the dead too: they are dialled until they come back. Those
    /// that had left when this agent started are among them.
    known: Rings,
    /// Neighbours of this node over `live`.
    watched: BTreeSet<NodeKey>,
    /// Whom this node dials: neighbours over `live` and `known`.
    wanted: BTreeSet<NodeKey>,
    links: Links,
    spread: Spread,
    deaths: VecDeque<(Tick, NodeKey)>,
    quiet_until: Tick,
    /// When members were last looked at, all of them.
    swept: Tick,
    timer: Tick,
    view_number: u64,
    picture: Picture,
    view_due: Option<Tick>,
    view_shown: Tick,
    jobs: u64,
    reserving: Option<(PersistId, u64)>,
    outbox: VecDeque<Output>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine").field("me", &self.me).field("nodes", &self.store.len()).finish()
    }
}

/// Between two looks at timers.
const HEARTBEAT: Duration = Duration::from_millis(100);
/// Views are shown at most this often, so that a flood of records costs few of them.
const VIEW_EVERY: Duration = Duration::from_millis(20);
/// And less often in a large mesh: a view costs about a microsecond a member to make and to take
/// in, so that with a tenth of a millisecond for each of them views take at most a hundredth of
/// the time. What comes first after a pause is shown at once.
const VIEW_EVERY_MEMBER: Duration = Duration::from_micros(100);

impl Engine {
    /// An engine at its start. Drain it at once.
    pub fn new(start: Start, now: Now) -> Self {
        let me = NodeKey(start.signer.public_key());
        let mut rng = StdRng::seed_from_u64(start.seed);
        let phase = rng.random_range(0..100);
        let mut engine = Self {
            mesh: start.mesh,
            roots: start.roots,
            chain: start.chain,
            me,
            signer: start.signer,
            rng,
            own: Own::new(start.own, start.local, start.boot, start.reserved),
            store: Store::default(),
            revocations: Arc::new(start.revocations),
            ending: BTreeMap::new(),
            policy: Arc::new(Policy::of(start.policies)),
            probation: Probation::begin(start.anchor, now),
            ruling: BTreeMap::new(),
            disk: Writes::default(),
            members: BTreeMap::new(),
            accused: BTreeSet::new(),
            to_weigh: BTreeSet::new(),
            weigh_all: false,
            live: Rings::default(),
            known: Rings::default(),
            watched: BTreeSet::new(),
            wanted: BTreeSet::new(),
            links: Links::default(),
            spread: Spread::default(),
            deaths: VecDeque::new(),
            quiet_until: now.tick,
            swept: now.tick,
            timer: now.tick.after(Duration::from_millis(phase)),
            view_number: 0,
            picture: Picture::default(),
            view_due: Some(now.tick),
            view_shown: Tick(0),
            jobs: 0,
            reserving: None,
            outbox: VecDeque::new(),
        };
        engine.live.insert(me);
        engine.known.insert(me);
        engine.spread.restore(start.peers);
        engine.look_at_probation(now);
        engine.next_restored(now);
        engine.publish_if_due(now);
        engine
    }

    /// Takes one event. Its effects come out of [`Self::poll_output`].
    pub fn handle(&mut self, now: Now, input: Input) {
        self.disk.handed(now);
        match input {
            Input::Tick => self.tick(now),
            Input::Local(local) => self.own_changed(now, *local),
            Input::Renewed(chain) => self.own_renewed(now, *chain),
            Input::Connected { link, chain, dialled } => {
                self.connected(now, link, &chain, dialled);
            }
            Input::Disconnected(link) => self.disconnected(now, link),
            Input::DialFailed(node) => self.links.dial_failed(node),
            Input::Frame { link, bytes } => self.frame(now, link, &bytes),
            Input::Verified(job, checked) => self.verified(now, job, *checked),
            Input::Persisted(id) => self.persisted(now, id),
            Input::PersistFailed(id, why) => self.persist_failed(now, id, why),
            Input::Revoke(statement) => self.verify_statement(now, None, *statement),
            Input::Roots(chain, roots) => self.trust_roots(now, *chain, roots),
            Input::Policy(bundle) => self.policy_came(now, None, Arc::new(*bundle)),
            Input::Hint { node, sequence } => self.hinted(now, node, sequence),
            Input::GossipLive(live) => self.gossip_holds_live(now, &live),
        }
        self.act_ahead_of_disk(now);
        self.weigh_due(now);
    }

    /// The next effect. Drain to `None` after every [`Self::handle`].
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outbox.pop_front()
    }

    /// When [`Input::Tick`] is next wanted.
    pub fn next_wakeup(&self) -> Tick {
        self.view_due.unwrap_or(Tick::NEVER).min(self.timer)
    }

    /// The view of now, for who needs one before the first is shown.
    pub fn view(&mut self, now: Now) -> View {
        self.project(now)
    }

    /// This node's key.
    pub fn key(&self) -> NodeKey {
        self.me
    }

    /// The hash over all heads that are held.
    pub fn records_root(&mut self) -> Hash {
        self.store.root()
    }

    /// Control links that are ready, with their peers.
    pub fn ready_links(&self) -> impl Iterator<Item = (LinkId, NodeKey)> + '_ {
        self.links.ready()
    }

    /// How many agents, this one among them, are known to hold the very records and policy that
    /// this one holds: those linked to it say so with each probe. Asks them again.
    pub fn agreeing(&mut self, now: Now) -> Agreeing {
        let ours = self.stand();
        let (settled, sequence) = (self.own_settled(), self.own.published.unwrap_or(0));
        let mut count = Agreeing { records: 1, policy: 1, of: 1, settled, sequence };
        for stand in self.links.stands() {
            let one = |same: bool| u32::from(same);
            count.records = count.records.saturating_add(one(stand.records == ours.records));
            count.policy = count.policy.saturating_add(one(stand.policy == ours.policy));
        }
        let links: Vec<LinkId> = self.links.ready().map(|(link, _)| link).collect();
        for link in links {
            count.of = count.of.saturating_add(1);
            self.probe(now, link);
        }
        count
    }

    /// How much is held of everything that has a bound.
    pub fn held(&self) -> Held {
        Held {
            origins: self.store.len(),
            members: self.members.len(),
            links: self.links.len(),
            early: self.links.early(),
            jobs: self.spread.jobs(),
            pulling: self.spread.pulls.len(),
            asked: self.spread.asked.len(),
            deaths: self.deaths.len(),
            owed: self.disk.owed(),
            ruling: self.ruling.len(),
        }
    }

    /// The mesh-wide documents that are held, and what they decide.
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// Everything that is believed, for checks.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Counts misbehaviour that the shell saw, as the engine does its own.
    pub fn blame(&mut self, now: Now, node: NodeKey, blame: Blame) {
        self.event(Event::Blamed(node, blame));
        if self.links.blame(now.tick, node) {
            self.event(Event::CutOff(node));
            if let Some(link) = self.links.of(&node) {
                self.close(now, link, CloseCode::Blame);
            }
        }
    }

    fn tick(&mut self, now: Now) {
        if now.tick >= self.timer {
            let late = now.tick.since(self.timer);
            if late > limits::LATE_TICK {
                self.was_late(now, late);
            }
            self.timer = now.tick.after(HEARTBEAT);
            self.next_waiting(now);
            self.tell_parts_if_due(now);
            self.tell_doubts_if_due(now);
            self.watch(now);
            self.dial(now);
            self.links_in_time(now);
            self.look_at_disk(now);
            self.publish_if_due(now);
            self.look_at_probation(now);
            self.forget(now);
            self.forget_unread(now);
        }
        if self.view_due.is_some_and(|due| due <= now.tick) {
            self.show_view(now);
        }
    }

    fn frame(&mut self, now: Now, link: LinkId, bytes: &[u8]) {
        let Some(peer) = self.links.peer(link) else {
            return;
        };
        if self.links.is_ready(link) && self.is_held(bytes) {
            return self.contact(now, peer);
        }
        let frame = match Frame::decode(bytes) {
            Ok(frame) => frame,
            Err(error) => return self.blame(now, peer, Blame::Malformed(error.to_string())),
        };
        if let Frame::Hello(hello) = frame {
            return self.hello(now, link, peer, *hello);
        }
        if let Frame::Roots(chain) = frame {
            return self.roots_came(now, link, *chain);
        }
        if let Frame::Revocations(run) = frame {
            return self.revocations_came(now, link, peer, run);
        }
        if !self.links.is_ready(link) {
            return self.early(now, link, peer, frame);
        }
        self.contact(now, peer);
        self.spoken(now, link, frame);
    }

    /// A frame on a link that is ready.
    fn spoken(&mut self, now: Now, link: LinkId, frame: Frame) {
        match frame {
            Frame::Probe(brief) => self.probed(now, link, brief),
            Frame::Answer(brief) => self.answered(now, link, brief),
            Frame::Stand(stand) => self.compare_stand(now, link, stand),
            Frame::Record(bundle) => self.record_came(now, Some(link), Arc::new(*bundle)),
            Frame::Heads(range) => self.heads_came(now, link, &range),
            Frame::Parts(parts) => self.parts_came(now, link, &parts),
            Frame::Pull(origins) => self.answer_pull(now, link, &origins),
            Frame::Witness(witness) => self.witness_came(now, link, witness),
            Frame::ProbeFor(probe) => self.asked_to_probe(now, link, probe),
            Frame::Heard(probe) => self.heard_by(link, probe),
            Frame::Policy(bundle) => self.policy_came(now, Some(link), Arc::new(*bundle)),
            Frame::Policies(range) => self.policies_came(now, link, &range),
            Frame::Revocations(_) | Frame::Roots(_) | Frame::Unknown(_) | Frame::Hello(_) => {}
        }
    }

    fn verified(&mut self, now: Now, job: JobId, checked: Checked) {
        let Some((source, head)) = self.spread.finished(job) else {
            return;
        };
        match checked.0 {
            Finding::Record(found) => match *found {
                Ok(record) => self.believe(now, source, record),
                Err(error) => {
                    if source.is_none() {
                        self.spread.keep_floor(head, &error);
                    }
                    self.disbelieve(now, source, error);
                }
            },
            Finding::Witness(witness, true) => self.heard_witness(now, source, witness),
            Finding::Revocation(found) => self.statement_checked(now, source, *found),
            Finding::Roots(chain, found) => self.roots_checked(now, source, *chain, *found),
            Finding::Policy(found) => self.policy_checked(now, source, *found),
            Finding::Broke(record) => self.check_broke(now, source, record),
            Finding::Witness(_, false) => {
                if let Some(peer) = source.and_then(|link| self.links.peer(link)) {
                    self.blame(now, peer, Blame::BadWitness);
                }
            }
        }
        self.next_waiting(now);
    }

    fn persisted(&mut self, now: Now, id: PersistId) {
        if let Some((waiting, upto)) = self.reserving
            && waiting == id
        {
            self.reserving = None;
            self.own.reserved(upto);
            self.publish_if_due(now);
        }
        self.batch_written(now, id);
    }

    fn persist_failed(&mut self, now: Now, id: PersistId, why: String) {
        if self.reserving.is_some_and(|(waiting, _)| waiting == id) {
            self.reserving = None;
            self.own.retry_at(now.tick.after(limits::RESERVE_AGAIN));
        }
        self.batch_failed(now, id, why);
    }

    fn send(&mut self, link: LinkId, frame: &Frame) {
        // A frame that we build is within its bounds: lists are cut before they come here.
        if let Ok(bytes) = frame.encode() {
            self.outbox.push_back(Output::Send(link, bytes.into()));
        }
    }

    fn event(&mut self, event: Event) {
        self.outbox.push_back(Output::Event(event));
    }

    fn changed(&mut self, now: Now) {
        let members = u32::try_from(self.members.len()).unwrap_or(u32::MAX);
        let pause = VIEW_EVERY.saturating_add(VIEW_EVERY_MEMBER.saturating_mul(members));
        let due = self.view_shown.after(pause).max(now.tick);
        self.view_due.get_or_insert(due);
    }

    /// A node may have to be shown otherwise than it is.
    fn touched(&mut self, now: Now, node: NodeKey) {
        self.picture.touch(node);
        self.changed(now);
    }

    fn roots_of(&self) -> Arc<Roots> {
        Arc::clone(&self.roots)
    }

    fn body(&self, node: &NodeKey) -> Option<&Arc<NodeRecord>> {
        self.store.body(node).and_then(Verified::content)
    }
}
