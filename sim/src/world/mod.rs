//! The world: a queue of what happens when, and what hangs on it.

mod ask;
mod beside;
mod disk;
mod happen;
mod meter;
mod network;
mod node;

use std::collections::BTreeMap;

use anyhow::Result;
use bytes::Bytes;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use sha2::{Digest, Sha256};
use skein_protocol::{
    clock::{Now, Wall},
    engine::{Engine, Event, Input, LinkId, Local},
    limits,
    name::{Hash, NodeKey},
    record::{Verified, node::Address},
    trust::revocation::Statement,
    wire::frame::Frame,
};

use self::happen::{Happening, Queue};
pub use self::{
    beside::{Beside, Word},
    disk::Disk,
    meter::Meter,
    network::{Network, REGIONS, Weather},
    node::Node,
};
use crate::{
    checks::{Checks, Violation},
    crypto::Signatures,
    mesh::{self, Mesh},
    seeds,
};

/// What a world is made of. All of it is printed with the seed.
#[derive(Clone, Debug, PartialEq)]
pub struct Options {
    /// Everything random comes from it.
    pub seed: u64,
    /// Nodes of the mesh.
    pub nodes: usize,
    /// Nodes that all others join by.
    pub seeds: usize,
    /// What the paths are like at first.
    pub weather: Weather,
    /// What is signed with.
    pub signatures: Signatures,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            seed: 1,
            nodes: 10,
            seeds: 3,
            weather: Weather::default(),
            signatures: Signatures::KeyedHash,
        }
    }
}

/// See the module.
pub struct World {
    /// What the run is made of.
    pub options: Options,
    /// The authorities.
    pub mesh: Mesh,
    /// Every node, by number.
    pub nodes: Vec<Node>,
    /// Links and their faults.
    pub network: Network,
    /// Everything that people were told: time, node, what.
    pub events: Vec<(u64, usize, Event)>,
    /// Whether of all that only deaths are kept: of a large mesh the rest is a million lines.
    pub deaths_only: bool,
    /// Milliseconds since the start.
    pub now: u64,
    /// Frames and bytes sent.
    pub sent: (u64, u64),
    /// Handshakes at each node within the running second, and the most of any.
    handshakes: Option<Handshakes>,
    /// What engines spend their time on, if it is looked at.
    pub meter: Option<Meter>,
    /// What must hold after every event, if it is watched.
    pub checks: Option<Box<Checks>>,
    /// Gossip beside the engines, if a run has it.
    pub gossip: Option<Box<dyn Beside>>,
    /// Gossip that ended: time, node, why.
    pub fallen: Vec<(u64, usize, String)>,
    /// Who blamed whom for gossip, how often.
    pub blamed: BTreeMap<(usize, usize), u64>,
    numbers: BTreeMap<NodeKey, usize>,
    /// Records that hold, by what names them.
    known: BTreeMap<Hash, Verified>,
    queue: Queue,
    rng: StdRng,
    trace: Sha256,
}

/// Dials that reached each node within one second.
#[derive(Default)]
struct Handshakes {
    /// Of each node: which second, how many in it, and how many altogether.
    of: BTreeMap<usize, (u64, u64, u64)>,
    most: u64,
}

/// How often a condition is looked at.
const LOOK_EVERY: u64 = 10;
/// A dial that leads nowhere is given up after this.
const DIAL_TIMEOUT: u64 = 2000;
/// A link over which nothing comes ends after this.
pub const IDLE_TIMEOUT: u64 = 10_000;

/// What the link puts in front of each frame.
const LENGTH_BYTES: u64 = 4;

impl World {
    /// A world at time zero with all nodes down.
    pub fn new(options: Options) -> Result<Self> {
        let mesh = Mesh::new(1, options.signatures)?;
        let rng = StdRng::seed_from_u64(options.seed);
        let mut world = Self {
            network: Network::new(options.weather),
            mesh,
            nodes: Vec::new(),
            events: Vec::new(),
            deaths_only: false,
            now: 0,
            sent: (0, 0),
            handshakes: None,
            meter: None,
            checks: None,
            gossip: None,
            fallen: Vec::new(),
            blamed: BTreeMap::new(),
            numbers: BTreeMap::new(),
            known: BTreeMap::new(),
            queue: Queue::default(),
            rng,
            trace: Sha256::new(),
            options,
        };
        for _ in 0..world.options.nodes {
            world.add()?;
        }
        Ok(world)
    }

    /// A further host, down at first. Its number.
    pub fn add(&mut self) -> Result<usize> {
        let number = self.nodes.len();
        let chain = self.mesh.chain(number, "shop/*")?;
        self.numbers.insert(self.mesh.key(number)?, number);
        self.nodes.push(Node::new(self.mesh.signer(number)?, chain, mesh::local(number)?));
        Ok(number)
    }

    /// Makes `copy` a host with the key and the disk of `original`, as a cloned machine is.
    pub fn clone_identity(&mut self, original: usize, copy: usize) {
        let Some(twin) = self.nodes.get(original).map(Node::twin) else {
            return;
        };
        if let Some(place) = self.nodes.get_mut(copy) {
            // What is under way for who was there is told from what is for its next.
            let epoch = place.epoch;
            *place = twin;
            place.epoch = epoch;
        }
    }

    /// Starts every node within the first second.
    pub fn start_all(&mut self) {
        for node in 0..self.nodes.len() {
            self.start(node);
        }
    }

    /// Starts a node from its disk.
    pub fn start(&mut self, number: usize) {
        let seed = self.rng.random();
        let Some(node) = self.nodes.get_mut(number) else {
            return;
        };
        if node.engine.is_some() {
            return;
        }
        let epoch = node.start(&self.mesh, self.now, seed);
        if let Some(gossip) = &mut self.gossip {
            gossip.start(number, epoch, node.key, node.local.host.gossip_generation);
        }
        let delay = self.rng.random_range(0..1000);
        self.push(delay, number, Happening::Seeds(epoch));
        self.drain(number);
        self.check(|checks, world| checks.started(world, number));
    }

    /// Ends a node at once. What was not on disk is gone; its links hang until their timeout.
    pub fn crash(&mut self, number: usize) {
        if let Some(node) = self.nodes.get_mut(number) {
            node.crash();
        }
        for (link, other) in self.network.ends_of(number) {
            self.push(IDLE_TIMEOUT, other, Happening::TimedOut(link));
        }
        self.network.forget(number);
        if let Some(gossip) = &mut self.gossip {
            gossip.end(number);
        }
    }

    /// Lets a node run nothing for a while. With `stall` its monotonic clock stands still too,
    /// as that of a virtual machine that is frozen.
    pub fn pause(&mut self, number: usize, ms: u64, stall: bool) {
        let now = self.now;
        let Some(node) = self.nodes.get_mut(number).filter(|node| node.engine.is_some()) else {
            return;
        };
        if node.paused_until > now {
            return;
        }
        node.paused_until = now + ms;
        if stall {
            node.stalled += ms;
        }
        if ms > IDLE_TIMEOUT {
            let ends = self.network.ends_of(number);
            for (link, other) in ends {
                self.push(IDLE_TIMEOUT, other, Happening::TimedOut(link));
                if let Some((_, own)) = self.network.far_end(other, link) {
                    self.push(ms, number, Happening::TimedOut(own));
                }
            }
        }
    }

    /// Changes what a node says of itself.
    pub fn say(&mut self, number: usize, change: impl FnOnce(&mut Local)) {
        let now = self.clock(number);
        let Some(node) = self.nodes.get_mut(number) else {
            return;
        };
        change(&mut node.local);
        node.changed = self.now;
        let local = Box::new(node.local.clone());
        if let Some(engine) = &mut node.engine {
            engine.handle(now, Input::Local(local));
        }
        self.drain(number);
    }

    /// Hands a node a new certificate with the same grant.
    pub fn renew(&mut self, number: usize) -> Result<()> {
        self.renew_at(number, self.clock(number).wall)
    }

    fn renew_at(&mut self, number: usize, at: Wall) -> Result<()> {
        let now = self.clock(number);
        let own = self.mesh.chain_from(number, "shop/*", at)?;
        if let Some(node) = self.nodes.get_mut(number) {
            node.certify(own.clone());
            if let Some(engine) = &mut node.engine {
                engine.handle(now, Input::Renewed(Box::new(own)));
            }
        }
        self.drain(number);
        Ok(())
    }

    /// Gives every node whose certificate has lived a third of its life another, by the clock of
    /// the issuing host, as agents do. How many.
    pub fn renew_due(&mut self, issuer: usize) -> Result<usize> {
        let at = self.clock(issuer).wall;
        let life = limits::LEAF_LIFE / 3;
        let due: Vec<usize> = self
            .up()
            .filter(|(number, node)| {
                let since = node.own().verified.not_before;
                self.clock(*number).wall.since(since) > life
            })
            .map(|(number, _)| number)
            .collect();
        for number in &due {
            self.renew_at(*number, at)?;
        }
        Ok(due.len())
    }

    /// Lets so much time pass in which nothing is done: what was due is done late.
    pub fn leap(&mut self, ms: u64) {
        self.now += ms;
    }

    /// Tells a node that a key has ended.
    pub fn revoke(&mut self, at: usize, statement: Statement) {
        self.hand(at, Input::Revoke(Box::new(statement)));
    }

    /// Hands something to a node's engine, if it is up.
    pub fn hand(&mut self, at: usize, input: Input) {
        let now = self.clock(at);
        if let Some(engine) = self.nodes.get_mut(at).and_then(|node| node.engine.as_mut()) {
            engine.handle(now, input);
        }
        self.drain(at);
    }

    /// Lets a node send a frame of our making to another: what an adversary does.
    pub fn inject(&mut self, from: usize, to: usize, frame: &Frame) -> bool {
        frame.encode().is_ok_and(|bytes| self.inject_bytes(from, to, bytes))
    }

    /// As [`Self::inject`], with any bytes.
    pub fn inject_bytes(&mut self, from: usize, to: usize, bytes: Vec<u8>) -> bool {
        let Some(link) = self.link_between(from, to) else {
            return false;
        };
        self.send(from, link, bytes.into());
        true
    }

    /// From now on handshakes are counted.
    pub fn count_handshakes(&mut self) {
        self.handshakes = Some(Default::default());
    }

    /// The most handshakes within a second that one node had to do.
    pub fn most_handshakes(&self) -> u64 {
        self.handshakes.as_ref().map_or(0, |handshakes| handshakes.most)
    }

    /// How many handshakes a node had to do so far.
    pub fn handshakes_of(&self, node: usize) -> u64 {
        let all = self.handshakes.as_ref().and_then(|handshakes| handshakes.of.get(&node));
        all.map_or(0, |(_, _, all)| *all)
    }

    fn count_handshake(&mut self, node: usize) {
        let second = self.now / 1000;
        let Some(all) = &mut self.handshakes else { return };
        let count = all.of.entry(node).or_insert((second, 0, 0));
        if count.0 != second {
            (count.0, count.1) = (second, 0);
        }
        count.1 += 1;
        count.2 += 1;
        all.most = all.most.max(count.1);
    }

    /// Opens a link between two nodes, as if one had dialled.
    pub fn connect(&mut self, from: usize, to: usize) {
        self.dial(from, to, self.key(to));
    }

    /// Cuts every path between nodes of different groups.
    pub fn partition(&mut self, group: impl Fn(usize) -> usize) {
        self.cut_where(|a, b| group(a) != group(b));
    }

    /// Cuts the paths that `apart` names, one way each, and mends the others.
    pub fn cut_where(&mut self, apart: impl Fn(usize, usize) -> bool) {
        for a in 0..self.nodes.len() {
            for b in 0..self.nodes.len() {
                self.network.cut(a, b, a != b && apart(a, b));
            }
        }
        // What waited on a path that is whole again goes on.
        let delay = self.network.weather.delay.1;
        let arrivals = self.network.release(self.now + delay);
        self.deliver(arrivals);
        self.time_out_torn();
    }

    /// Links over a path that is cut end when nothing came for long.
    pub fn time_out_torn(&mut self) {
        for (link, at) in self.network.cut_links() {
            self.push(IDLE_TIMEOUT, at, Happening::TimedOut(link));
        }
    }

    /// Mends all paths.
    pub fn heal(&mut self) {
        let delay = self.network.weather.delay.1;
        let arrivals = self.network.heal(self.now + delay);
        self.deliver(arrivals);
    }

    /// Opens a path on which everything waited.
    pub fn unclog(&mut self, from: usize, to: usize) {
        let delay = self.network.weather.delay.1;
        let arrivals = self.network.unclog(from, to, self.now + delay);
        self.deliver(arrivals);
    }

    fn deliver(&mut self, arrivals: Vec<network::Arrival>) {
        for (to, link, at, bytes) in arrivals {
            self.push(at.saturating_sub(self.now), to, Happening::Frame(link, bytes));
        }
    }

    /// Runs until `until` milliseconds, or until something does not hold.
    pub fn run_to(&mut self, until: u64) {
        while self.violation().is_none() {
            let due = self.queue.next_at().filter(|at| *at <= until);
            if self.listen(due.unwrap_or(until)) {
                continue;
            }
            if due.is_none() {
                break;
            }
            self.step();
        }
        self.now = self.now.max(until);
    }

    /// Runs until `holds`, looking every ten milliseconds; `None` when it does not within
    /// `limit` ms.
    pub fn run_until(&mut self, limit: u64, holds: impl Fn(&Self) -> bool) -> Option<u64> {
        let start = self.now;
        while self.now - start <= limit && self.violation().is_none() {
            if holds(self) {
                return Some(self.now - start);
            }
            self.run_to(self.now + LOOK_EVERY);
        }
        None
    }

    /// What was found not to hold.
    pub fn violation(&self) -> Option<&Violation> {
        self.checks.as_ref()?.violation.as_ref()
    }

    pub(crate) fn check(&mut self, look: impl FnOnce(&mut Checks, &Self)) {
        if let Some(mut checks) = self.checks.take() {
            look(&mut checks, self);
            self.checks = Some(checks);
        }
    }

    /// The hash over all that happened so far.
    pub fn trace_hash(&self) -> Hash {
        Hash(self.trace.clone().finalize().into())
    }

    pub(crate) fn clock(&self, number: usize) -> Now {
        self.nodes.get(number).map(|node| node.clock(self.now)).unwrap_or_default()
    }

    fn push(&mut self, delay: u64, node: usize, what: Happening) {
        self.queue.push(self.now.saturating_add(delay), node, what);
    }

    fn try_seeds(&mut self, number: usize) {
        let count = self.options.seeds.min(self.nodes.len());
        let Some(node) = self.nodes.get_mut(number) else {
            return;
        };
        let epoch = node.epoch;
        let alone = node.engine.as_ref().is_some_and(|e| e.ready_links().next().is_none());
        if let Some(seed) = seeds::next(&mut node.met, alone, count, number, &mut self.rng) {
            self.dial(number, seed, self.key(seed));
        }
        let pause = seeds::pause(&mut self.rng);
        self.push(pause, number, Happening::Seeds(epoch));
    }

    fn dial(&mut self, from: usize, to: usize, key: NodeKey) {
        let up = self.nodes.get(to).is_some_and(|node| node.engine.is_some());
        let blocked = self.network.is_cut(from, to) || self.network.is_clogged(from, to);
        if !up || blocked || from == to {
            return self.push(DIAL_TIMEOUT, from, Happening::DialFailed(key));
        }
        let there = self.network.delay(from, to, &mut self.rng);
        let back = self.network.delay(to, from, &mut self.rng);
        if self.key(to) != key {
            // Its handshake proves another key than the one that was dialled.
            self.count_handshake(to);
            return self.push(there + back, from, Happening::DialFailed(key));
        }
        let (here, far) = self.network.open(from, to);
        if let Some(me) = self.nodes.get(from).map(|node| node.key) {
            self.count_handshake(to);
            self.push(there + back, to, Happening::Connected(far, me, false));
            self.push(there + back, from, Happening::Connected(here, key, true));
        }
    }

    /// Who answers at the addresses that a record gives: whoever lives there, if nobody else.
    fn at_address(&self, key: &NodeKey, addresses: &[Address]) -> Option<usize> {
        let owner = self.number(key);
        let there = addresses.first().and_then(mesh::number_at);
        // A copy of a host says the address of the original.
        there.filter(|there| *there < self.nodes.len()).or(owner)
    }

    fn send(&mut self, from: usize, link: LinkId, bytes: Bytes) {
        let size = bytes.len() as u64 + LENGTH_BYTES;
        self.sent = (self.sent.0 + 1, self.sent.1 + size);
        let kind = bytes.first().copied().unwrap_or_default();
        if let Some(node) = self.nodes.get_mut(from) {
            *node.sent.entry(kind).or_default() += size;
        }
        let arrivals = self.network.send(self.now, from, link, bytes, &mut self.rng);
        self.deliver(arrivals);
    }

    fn drain(&mut self, number: usize) {
        let mut steps = 0usize;
        loop {
            let engine = self.nodes.get_mut(number).and_then(|node| node.engine.as_mut());
            let Some(output) = engine.and_then(Engine::poll_output) else {
                break;
            };
            steps += 1;
            self.effect(number, output);
        }
        self.check(|checks, world| checks.after(world, number, steps));
        self.show_gossip(number);
        let now = self.clock(number);
        let Some(node) = self.nodes.get_mut(number) else {
            return;
        };
        let epoch = node.epoch;
        let Some(engine) = &node.engine else { return };
        let delay = engine.next_wakeup().0.saturating_sub(now.tick.0).min(3_600_000);
        let wake = self.now + delay;
        if wake < node.wake || node.wake < self.now {
            node.wake = wake;
            self.push(delay, number, Happening::Wake(epoch, wake));
        }
    }
}
