//! The world: a queue of (time, number, event), and what hangs on it.

mod disk;
mod network;
mod node;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    sync::Arc,
};

use anyhow::Result;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use sha2::{Digest, Sha256};
use skein_protocol::{
    clock::{Now, Tick, Wall},
    engine::{Checked, Engine, Event, Input, JobId, LinkId, Local, Output, PersistId, Write},
    name::{Hash, NodeKey},
    trust::revocation::Statement,
    view::{Liveness, View},
    wire::frame::Frame,
};

pub use self::{disk::Disk, network::Network, node::Node};
use crate::mesh::{self, EPOCH, Mesh};

/// What a run is made of. All of it is printed with the seed.
#[derive(Clone, Debug)]
pub struct Options {
    /// Everything random comes from it.
    pub seed: u64,
    /// Nodes of the mesh.
    pub nodes: usize,
    /// Share of frames whose first transmission is lost, 0 to 1.
    pub loss: f64,
    /// One-way delay of a link, in milliseconds: from, to.
    pub delay: (u64, u64),
    /// Nodes that all others join by.
    pub seeds: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self { seed: 1, nodes: 10, loss: 0.0, delay: (1, 10), seeds: 3 }
    }
}

enum Happening {
    Wake(u64),
    Seeds(u64),
    Connected(LinkId, NodeKey, bool),
    DialFailed(NodeKey),
    Disconnected(LinkId),
    TimedOut(LinkId),
    Frame(LinkId, Vec<u8>),
    Verified(u64, JobId, Box<Checked>),
    Persisted(u64, PersistId, Vec<Write>),
}

struct Entry {
    at: u64,
    number: u64,
    node: usize,
    what: Happening,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
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
    /// Milliseconds since the start.
    pub now: u64,
    numbers: BTreeMap<NodeKey, usize>,
    queue: BinaryHeap<Reverse<Entry>>,
    counter: u64,
    rng: StdRng,
    trace: Sha256,
    /// Frames and bytes sent.
    pub sent: (u64, u64),
}

/// How often a condition is looked at.
const LOOK_EVERY: u64 = 10;
/// A dial that leads nowhere is given up after this.
const DIAL_TIMEOUT: u64 = 2000;
/// A node without links tries its seeds this often.
const SEED_EVERY: u64 = 2000;
/// A link over which nothing comes ends after this.
const IDLE_TIMEOUT: u64 = 10_000;

impl World {
    /// A world at time zero with all nodes down.
    pub fn new(options: Options) -> Result<Self> {
        let mesh = Mesh::new(1)?;
        let rng = StdRng::seed_from_u64(options.seed);
        let mut nodes = Vec::new();
        let mut numbers = BTreeMap::new();
        for number in 0..options.nodes {
            let chain = mesh.chain(number, "shop/*")?;
            numbers.insert(mesh.key(number), number);
            nodes.push(Node::new(mesh.signer(number), chain, mesh::local(number)?));
        }
        Ok(Self {
            network: Network::new(options.delay, options.loss),
            options,
            mesh,
            nodes,
            events: Vec::new(),
            now: 0,
            numbers,
            queue: BinaryHeap::new(),
            counter: 0,
            rng,
            trace: Sha256::new(),
            sent: (0, 0),
        })
    }

    /// Makes `copy` a host with the key and the disk of `original`, as a cloned machine is.
    pub fn clone_identity(&mut self, original: usize, copy: usize) {
        let Some(twin) = self.nodes.get(original).map(Node::twin) else {
            return;
        };
        if let Some(place) = self.nodes.get_mut(copy) {
            *place = twin;
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
        let now = self.clock(number);
        let seed = self.rng.random();
        let mesh = (self.mesh.id, Arc::clone(&self.mesh.roots));
        let Some(node) = self.nodes.get_mut(number) else {
            return;
        };
        let epoch = node.start(mesh, now, seed);
        let delay = self.rng.random_range(0..1000);
        self.push(delay, number, Happening::Seeds(epoch));
        self.drain(number);
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
    }

    /// Changes what a node says of itself.
    pub fn say(&mut self, number: usize, change: impl FnOnce(&mut Local)) {
        let now = self.clock(number);
        let Some(node) = self.nodes.get_mut(number) else {
            return;
        };
        change(&mut node.local);
        let local = Box::new(node.local.clone());
        if let Some(engine) = &mut node.engine {
            engine.handle(now, Input::Local(local));
        }
        self.drain(number);
    }

    /// Tells a node that a key has ended.
    pub fn revoke(&mut self, at: usize, statement: Statement) {
        let now = self.clock(at);
        if let Some(engine) = self.nodes.get_mut(at).and_then(|node| node.engine.as_mut()) {
            engine.handle(now, Input::Revoke(Box::new(statement)));
        }
        self.drain(at);
    }

    /// Lets a node send a frame of our making to another: what an adversary does.
    pub fn inject(&mut self, from: usize, to: usize, frame: &Frame) -> bool {
        let Some(link) = self.link_between(from, to) else {
            return false;
        };
        let Ok(bytes) = frame.encode() else {
            return false;
        };
        self.send(from, link, bytes);
        true
    }

    /// The ready link of one node to another.
    pub fn link_between(&self, from: usize, to: usize) -> Option<LinkId> {
        let peer = self.mesh.key(to);
        let engine = self.nodes.get(from)?.engine.as_ref()?;
        engine.ready_links().find(|(_, key)| *key == peer).map(|(link, _)| link)
    }

    /// Opens a link between two nodes, as if one had dialled.
    pub fn connect(&mut self, from: usize, to: usize) {
        self.dial(from, to, self.mesh.key(to));
    }

    /// Cuts every path between nodes of different groups.
    pub fn partition(&mut self, group: impl Fn(usize) -> usize) {
        let count = self.nodes.len();
        let cut = self.network.partition(count, group);
        for (link, at) in cut {
            self.push(IDLE_TIMEOUT, at, Happening::TimedOut(link));
        }
    }

    /// Mends all paths.
    pub fn heal(&mut self) {
        let delay = self.network.delay(&mut self.rng);
        for (to, link, bytes) in self.network.heal(self.now + delay) {
            self.push(delay, to, Happening::Frame(link, bytes));
        }
    }

    /// Runs until `until` milliseconds.
    pub fn run_to(&mut self, until: u64) {
        while let Some(Reverse(next)) = self.queue.peek() {
            if next.at > until {
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
        while self.now - start <= limit {
            if holds(self) {
                return Some(self.now - start);
            }
            self.run_to(self.now + LOOK_EVERY);
        }
        None
    }

    /// The hash over all that happened so far.
    pub fn trace_hash(&self) -> Hash {
        Hash(self.trace.clone().finalize().into())
    }

    /// Whether all nodes that are up show the same records and nobody as dead among them.
    pub fn converged(&self) -> bool {
        let mut up = self.nodes.iter().filter(|node| node.engine.is_some());
        let Some(first) = up.next().and_then(|node| node.view.as_ref()) else {
            return false;
        };
        up.all(|node| {
            node.view.as_ref().is_some_and(|view| view.records_root == first.records_root)
        })
    }

    /// Whether all nodes that are up know every other of them, and show the same records.
    pub fn full_and_equal(&self) -> bool {
        let up = self.nodes.iter().filter(|node| node.engine.is_some());
        let count = up.clone().count();
        self.converged()
            && up.filter_map(|node| node.view.as_ref()).all(|view| view.nodes.len() >= count)
    }

    /// Whether every node that is up holds `of` for dead.
    pub fn dead_everywhere(&self, of: usize) -> bool {
        let up = (0..self.nodes.len()).filter(|at| self.is_up(*at));
        up.map(|at| self.liveness(at, of)).all(|l| l.is_none() || l == Some(Liveness::Dead))
    }

    /// The sequence of the newest record that a node has of itself; 0 when it is down.
    pub fn said(&self, of: usize) -> u64 {
        let node = self.nodes.get(of);
        let engine = node.and_then(|node| node.engine.as_ref());
        let head = engine.and_then(|engine| engine.store().head(&self.mesh.key(of)));
        head.map_or(0, |head| head.sequence)
    }

    /// Whether every node that is up holds the newest record of `of`, and it is above `above`.
    pub fn told_everywhere(&self, of: usize, above: u64) -> bool {
        let key = self.mesh.key(of);
        let head = |node: &Node| node.engine.as_ref().and_then(|engine| engine.store().head(&key));
        let Some(newest) = self.nodes.get(of).and_then(head) else {
            return false;
        };
        let mut up = self.nodes.iter().filter(|node| node.engine.is_some());
        newest.sequence > above && up.all(|node| head(node) == Some(newest))
    }

    /// How many control links a node has.
    pub fn links(&self, number: usize) -> usize {
        let engine = self.nodes.get(number).and_then(|node| node.engine.as_ref());
        engine.map_or(0, |engine| engine.ready_links().count())
    }

    /// Whether a node runs.
    pub fn is_up(&self, number: usize) -> bool {
        self.nodes.get(number).is_some_and(|node| node.engine.is_some())
    }

    /// The view of a node.
    pub fn view(&self, number: usize) -> Option<&Arc<View>> {
        self.nodes.get(number)?.view.as_ref()
    }

    /// How node `at` sees node `of`.
    pub fn liveness(&self, at: usize, of: usize) -> Option<Liveness> {
        Some(self.view(at)?.nodes.get(&self.mesh.key(of))?.liveness)
    }

    /// The number of a key's node.
    pub fn number(&self, key: &NodeKey) -> Option<usize> {
        self.numbers.get(key).copied()
    }

    fn clock(&self, number: usize) -> Now {
        let skew = self.nodes.get(number).map_or(0, |node| node.skew);
        let wall = EPOCH.0.saturating_add(self.now).saturating_add_signed(skew);
        Now { tick: Tick(self.now), wall: Wall(wall) }
    }

    fn push(&mut self, delay: u64, node: usize, what: Happening) {
        self.counter += 1;
        let entry = Entry { at: self.now.saturating_add(delay), number: self.counter, node, what };
        self.queue.push(Reverse(entry));
    }

    fn step(&mut self) {
        let Some(Reverse(entry)) = self.queue.pop() else {
            return;
        };
        self.now = self.now.max(entry.at);
        let number = entry.node;
        let now = self.clock(number);
        let Some(node) = self.nodes.get_mut(number) else {
            return;
        };
        let epoch = node.epoch;
        let input = match entry.what {
            Happening::Wake(of) if of == epoch => Input::Tick,
            Happening::Seeds(of) if of == epoch => return self.try_seeds(number),
            Happening::Verified(of, job, checked) if of == epoch => Input::Verified(job, checked),
            Happening::Persisted(of, id, writes) if of == epoch => node.disk.write(id, writes),
            Happening::Wake(_)
            | Happening::Seeds(_)
            | Happening::Verified(..)
            | Happening::Persisted(..) => return,
            Happening::Connected(link, peer, dialled) => {
                return self.connected(number, link, peer, dialled);
            }
            Happening::DialFailed(peer) => Input::DialFailed(peer),
            Happening::TimedOut(link) if !self.network.is_torn(number, link) => return,
            Happening::Disconnected(link) | Happening::TimedOut(link) => {
                if !self.network.close(number, link) {
                    return;
                }
                Input::Disconnected(link)
            }
            Happening::Frame(link, bytes) => {
                if !self.network.is_open(number, link) {
                    return;
                }
                self.trace.update(self.now.to_le_bytes());
                self.trace.update(number.to_le_bytes());
                self.trace.update(&bytes);
                Input::Frame { link, bytes }
            }
        };
        if let Some(engine) = self.nodes.get_mut(number).and_then(|node| node.engine.as_mut()) {
            engine.handle(now, input);
        }
        self.drain(number);
    }

    fn connected(&mut self, number: usize, link: LinkId, peer: NodeKey, dialled: bool) {
        let now = self.clock(number);
        let met = self.number(&peer);
        let chain = self.number(&peer).and_then(|n| self.nodes.get(n)).map(Node::chain);
        let engine = self.nodes.get_mut(number).and_then(|node| node.engine.as_mut());
        if let (Some(chain), Some(engine)) = (chain, engine)
            && self.network.is_open(number, link)
        {
            engine.handle(now, Input::Connected { link, chain, dialled });
            if let (Some(met), Some(node)) = (met, self.nodes.get_mut(number)) {
                node.met.insert(met);
            }
        }
        self.drain(number);
    }

    fn try_seeds(&mut self, number: usize) {
        let seeds = self.options.seeds.min(self.nodes.len());
        let Some(node) = self.nodes.get_mut(number) else {
            return;
        };
        let epoch = node.epoch;
        // Who met one seed only may be on an island with it: each is met once.
        if node.engine.as_ref().is_some_and(|e| e.ready_links().next().is_none()) {
            node.met.clear();
        }
        let unmet: Vec<usize> =
            (0..seeds).filter(|seed| *seed != number && !node.met.contains(seed)).collect();
        if !unmet.is_empty() {
            let pick = self.rng.random_range(0..unmet.len());
            let seed = unmet.get(pick).copied().unwrap_or_default();
            self.dial(number, seed, self.mesh.key(seed));
        }
        let jitter = self.rng.random_range(0..500);
        self.push(SEED_EVERY + jitter, number, Happening::Seeds(epoch));
    }

    fn dial(&mut self, from: usize, to: usize, key: NodeKey) {
        let up = self.nodes.get(to).is_some_and(|node| node.engine.is_some());
        if !up || self.network.is_cut(from, to) || from == to {
            return self.push(DIAL_TIMEOUT, from, Happening::DialFailed(key));
        }
        let there = self.network.delay(&mut self.rng);
        let back = self.network.delay(&mut self.rng);
        let (here, far) = self.network.open(from, to);
        let me = self.nodes.get(from).map(|node| node.key);
        if let Some(me) = me {
            self.push(there + back, to, Happening::Connected(far, me, false));
            self.push(there + back, from, Happening::Connected(here, key, true));
        }
    }

    fn send(&mut self, from: usize, link: LinkId, bytes: Vec<u8>) {
        self.sent = (self.sent.0 + 1, self.sent.1 + bytes.len() as u64);
        if let Some((to, far, at, bytes)) =
            self.network.send(self.now, from, link, bytes, &mut self.rng)
        {
            self.push(at.saturating_sub(self.now), to, Happening::Frame(far, bytes));
        }
    }

    fn drain(&mut self, number: usize) {
        loop {
            let engine = self.nodes.get_mut(number).and_then(|node| node.engine.as_mut());
            let Some(output) = engine.and_then(Engine::poll_output) else {
                break;
            };
            self.effect(number, output);
        }
        let Some(node) = self.nodes.get_mut(number) else {
            return;
        };
        let epoch = node.epoch;
        let Some(engine) = &node.engine else { return };
        let wake = engine.next_wakeup().0;
        if node.wake != wake {
            node.wake = wake;
            let delay = wake.saturating_sub(self.now);
            self.push(delay, number, Happening::Wake(epoch));
        }
    }

    fn effect(&mut self, number: usize, output: Output) {
        let Some(node) = self.nodes.get_mut(number) else {
            return;
        };
        let epoch = node.epoch;
        match output {
            Output::Send(link, bytes) => self.send(number, link, bytes),
            Output::Dial(key, _) => {
                if let Some(to) = self.number(&key) {
                    self.dial(number, to, key);
                }
            }
            Output::Close(link, _) => {
                if let Some((other, far)) = self.network.far_end(number, link) {
                    let delay = self.network.delay(&mut self.rng);
                    self.push(delay, other, Happening::Disconnected(far));
                }
                self.network.close(number, link);
            }
            Output::Verify(id, job) => {
                let checked = Box::new(job.run(&crate::crypto::KeyedHash));
                self.push(1, number, Happening::Verified(epoch, id, checked));
            }
            Output::Persist(id, writes) => {
                self.push(2, number, Happening::Persisted(epoch, id, writes));
            }
            Output::View(view) => node.view = Some(view),
            Output::Revoked(_) => {}
            Output::Event(event) => self.events.push((self.now, number, event)),
        }
    }
}
