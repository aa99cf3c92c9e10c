//! The stage: agents, the links between them, and a queue of (time, number, event). Between two
//! events the gossip tasks run until none of them has anything left to do; then time goes on.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use bytes::Bytes;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use sha2::{Digest, Sha256};
use skein_node::gossip::GossipEvent;
use skein_protocol::{
    clock::{Now, Tick, Wall, millis},
    engine::{Blame, Checked, Engine, Input, JobId, LinkId, Local, Output, PersistId, Write},
    name::{Hash, NodeKey},
    view::Liveness,
    wire::frame,
};
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{
    Options,
    agent::{Agent, Ear, Said, Up, cluster},
    lines::{Arrival, Lines, Sent},
};
use crate::{
    crypto::{KeyedHash, Signatures},
    mesh::{EPOCH, Mesh},
    seeds,
};

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
    agent: usize,
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
pub struct Stage {
    pub(super) mesh: Mesh,
    pub(super) agents: Vec<Agent>,
    options: Options,
    lines: Lines,
    numbers: BTreeMap<NodeKey, usize>,
    queue: BinaryHeap<Reverse<Entry>>,
    counter: u64,
    rng: StdRng,
    start: Instant,
    ear: Ear,
    said: mpsc::Receiver<(usize, Said)>,
    tasks: JoinSet<()>,
    trace: Sha256,
    /// Gossip that ended or was started again: time, agent, why.
    pub(super) fallen: Vec<(u64, usize, String)>,
    /// Who blamed whom for gossip, how often.
    pub(super) blamed: BTreeMap<(usize, usize), u64>,
}

/// How often a condition is looked at, in milliseconds.
const LOOK_EVERY: u64 = 20;
/// A dial that leads nowhere is given up after this.
const DIAL_TIMEOUT: u64 = 2000;
/// A link over which nothing comes ends after this.
const IDLE_TIMEOUT: u64 = 10_000;
/// Words of all gossip tasks that wait to be heard.
const SAID_WAITING: usize = 1024;

impl Stage {
    /// A stage with all agents down. Call it on a runtime whose clock is paused.
    pub fn new(options: Options) -> Result<Self> {
        let mesh = Mesh::new(1, Signatures::KeyedHash)?;
        let agents =
            (0..options.nodes).map(|n| Agent::new(n, &mesh)).collect::<Result<Vec<_>>>()?;
        let (ear, said) = mpsc::channel(SAID_WAITING);
        Ok(Self {
            numbers: agents.iter().map(|agent| (agent.key, agent.number)).collect(),
            mesh,
            agents,
            lines: Lines::new(options.delay, options.loss),
            rng: StdRng::seed_from_u64(options.seed),
            options,
            queue: BinaryHeap::new(),
            counter: 0,
            start: Instant::now(),
            ear,
            said,
            tasks: JoinSet::new(),
            trace: Sha256::new(),
            fallen: Vec::new(),
            blamed: BTreeMap::new(),
        })
    }

    /// Starts an agent from its disk.
    pub fn start(&mut self, number: usize) {
        let now = self.clock();
        let seed = self.rng.random();
        let delay = self.rng.random_range(0..1000);
        let Some(agent) = self.agents.get_mut(number) else {
            return;
        };
        agent.start(&self.mesh, now, seed, (&self.ear, &mut self.tasks));
        let epoch = agent.epoch;
        self.push(delay, number, Happening::Seeds(epoch));
        self.drain(number);
    }

    /// Ends an agent at once. Its links hang until their timeout.
    pub fn crash(&mut self, number: usize) {
        if let Some(agent) = self.agents.get_mut(number) {
            agent.crash();
        }
        for (other, link) in self.lines.forget(number) {
            self.push(IDLE_TIMEOUT, other, Happening::TimedOut(link));
        }
    }

    /// Changes what an agent says of itself.
    pub fn say(&mut self, number: usize, change: impl FnOnce(&mut Local)) {
        let Some(agent) = self.agents.get_mut(number) else {
            return;
        };
        change(&mut agent.local);
        let local = Box::new(agent.local.clone());
        self.handle(number, Input::Local(local));
    }

    /// Milliseconds since the start.
    pub fn now(&self) -> u64 {
        millis(self.start.elapsed())
    }

    /// What went over links so far.
    pub fn sent(&self) -> Sent {
        self.lines.sent
    }

    /// The hash over every frame that was delivered, with its time.
    pub fn trace_hash(&self) -> Hash {
        Hash(self.trace.clone().finalize().into())
    }

    /// Runs until `until` milliseconds.
    pub async fn run_to(&mut self, until: u64) {
        loop {
            let due = self.queue.peek().map_or(u64::MAX, |Reverse(entry)| entry.at);
            let wake = self.start + Duration::from_millis(due.min(until));
            tokio::select! {
                biased;
                Some((number, said)) = self.said.recv() => self.hear(number, said),
                () = sleep_until(wake) => {
                    if due > until {
                        return;
                    }
                    self.step();
                }
            }
        }
    }

    /// Runs until `holds`; `None` when it does not within `limit` ms.
    pub async fn run_until(&mut self, limit: u64, holds: impl Fn(&Self) -> bool) -> Option<u64> {
        let start = self.now();
        while self.now() - start <= limit {
            if holds(self) {
                return Some(self.now() - start);
            }
            self.run_to(self.now() + LOOK_EVERY).await;
        }
        None
    }

    /// Whether all agents that are up know every other, and show the same records.
    pub fn one_view(&self) -> bool {
        let count = self.up().count();
        let mut views = self.up().map(|(_, up)| up.view.as_ref());
        let Some(Some(first)) = views.next() else {
            return false;
        };
        first.nodes.len() >= count
            && views.all(|view| view.is_some_and(|view| view.records_root == first.records_root))
    }

    /// The identity of an agent.
    pub(super) fn key(&self, number: usize) -> NodeKey {
        self.agents.get(number).map_or(NodeKey([0; 32]), |agent| agent.key)
    }

    /// Whether every agent that is up holds `of` for dead.
    pub fn dead_everywhere(&self, of: usize) -> bool {
        let key = self.key(of);
        self.up().all(|(_, up)| {
            let node = up.view.as_ref().and_then(|view| view.nodes.get(&key));
            node.is_none_or(|node| node.liveness == Liveness::Dead)
        })
    }

    /// The sequence of an agent's newest record, as `at` holds it.
    pub fn sequence(&self, at: usize, of: usize) -> Option<u64> {
        let up = self.agents.get(at)?.up.as_ref()?;
        Some(up.engine.store().head(&self.key(of))?.sequence)
    }

    /// Whether every agent that is up holds what `of` says of itself, and it is above `above`.
    pub fn told_everywhere(&self, of: usize, above: u64) -> bool {
        let newest = self.sequence(of, of);
        newest.is_some_and(|newest| newest > above)
            && self.up().all(|(at, _)| self.sequence(at, of) == newest)
    }

    /// How many agents disagree with their own chitchat on who lives, without `aside`.
    pub fn disagreeing(&self, aside: Option<usize>) -> usize {
        let aside = aside.map(|number| self.key(number));
        self.up()
            .filter(|(_, up)| Some(up.engine.key()) != aside)
            .filter(|(_, up)| {
                let alive = up.alive();
                let mut apart = alive.symmetric_difference(&up.live);
                apart.any(|key| Some(*key) != aside)
            })
            .count()
    }

    /// Whether every agent that is up holds every other for alive, without `aside`.
    pub fn all_alive(&self, aside: Option<usize>) -> bool {
        let honest = || self.up().filter(|(number, _)| Some(*number) != aside);
        honest().all(|(at, up)| {
            let alive = up.alive();
            honest().all(|(of, other)| at == of || alive.contains(&other.engine.key()))
        })
    }

    /// The gossip cluster of this mesh, as agents spell it.
    pub(super) fn cluster(&self) -> String {
        cluster(&self.mesh)
    }

    /// Control links of an agent.
    pub fn links(&self, number: usize) -> usize {
        let up = self.agents.get(number).and_then(|agent| agent.up.as_ref());
        up.map_or(0, |up| up.engine.ready_links().count())
    }

    pub(super) fn up(&self) -> impl Iterator<Item = (usize, &Up)> {
        self.agents.iter().filter_map(|agent| Some((agent.number, agent.up.as_ref()?)))
    }

    /// The ready link of one agent to another.
    pub(super) fn link_between(&self, from: usize, to: usize) -> Option<LinkId> {
        let peer = self.key(to);
        let up = self.agents.get(from)?.up.as_ref()?;
        up.engine.ready_links().find(|(_, key)| *key == peer).map(|(link, _)| link)
    }

    /// Sends bytes as they are, as a frame.
    pub(super) fn send_raw(&mut self, from: usize, link: LinkId, frame: Vec<u8>) {
        let at = (self.now(), from);
        if let Some(arrival) = self.lines.send(at, link, frame, &mut self.rng) {
            let Arrival { to, link, at, frame } = arrival;
            self.push(at.saturating_sub(self.now()), to, Happening::Frame(link, frame));
        }
    }

    /// Sends a gossip message in the shorthand of its link. False: it cannot be said in it.
    pub(super) fn send_gossip(&mut self, from: usize, link: LinkId, message: &[u8]) -> bool {
        let Some(frame) = self.lines.gossip_frame(link, message) else {
            return false;
        };
        self.send_raw(from, link, frame);
        true
    }

    fn clock(&self) -> Now {
        let now = self.now();
        Now { tick: Tick(now), wall: Wall(EPOCH.0.saturating_add(now)) }
    }

    fn push(&mut self, delay: u64, agent: usize, what: Happening) {
        self.counter += 1;
        let entry =
            Entry { at: self.now().saturating_add(delay), number: self.counter, agent, what };
        self.queue.push(Reverse(entry));
    }

    fn handle(&mut self, number: usize, input: Input) {
        let now = self.clock();
        if let Some(up) = self.agents.get_mut(number).and_then(|agent| agent.up.as_mut()) {
            up.engine.handle(now, input);
        }
        self.drain(number);
    }

    fn step(&mut self) {
        let Some(Reverse(entry)) = self.queue.pop() else {
            return;
        };
        let number = entry.agent;
        let Some(agent) = self.agents.get_mut(number) else {
            return;
        };
        let epoch = agent.epoch;
        let input = match entry.what {
            Happening::Wake(of) if of == epoch => Input::Tick,
            Happening::Seeds(of) if of == epoch => return self.try_seeds(number),
            Happening::Verified(of, job, checked) if of == epoch => Input::Verified(job, checked),
            Happening::Persisted(of, id, writes) if of == epoch => agent.disk.write(id, writes),
            Happening::Wake(_)
            | Happening::Seeds(_)
            | Happening::Verified(..)
            | Happening::Persisted(..) => return,
            Happening::Connected(link, peer, dialled) => {
                return self.connected(number, link, peer, dialled);
            }
            Happening::DialFailed(peer) => Input::DialFailed(peer),
            Happening::TimedOut(link) if !self.lines.is_torn(number, link) => return,
            Happening::Disconnected(link) | Happening::TimedOut(link) => {
                if !self.lines.close(number, link) {
                    return;
                }
                Input::Disconnected(link)
            }
            Happening::Frame(link, bytes) => {
                if !self.lines.is_open(number, link) {
                    return;
                }
                let now = self.now();
                self.trace.update(now.to_le_bytes());
                self.trace.update(link.0.to_le_bytes());
                self.trace.update((bytes.len() as u64).to_le_bytes());
                self.trace.update(&bytes);
                if let [frame::GOSSIP, message @ ..] = &*bytes {
                    return self.gossip_came(number, link, message);
                }
                Input::Frame { link, bytes: bytes.into() }
            }
        };
        self.handle(number, input);
    }

    /// As the task of a control link does it.
    fn gossip_came(&mut self, number: usize, link: LinkId, frame: &[u8]) {
        let read = self.lines.gossip_message(Tick(self.now()), link, frame);
        let Some(peer) = self.lines.far_end(number, link).map(|(peer, _)| peer) else {
            return;
        };
        match read {
            Ok(Some(message)) => self.deliver(number, peer, message),
            Ok(None) => {}
            Err(_) => self.blame(number, peer),
        }
    }

    /// Puts a message before an agent's filter, as `peer`'s.
    pub(super) fn deliver(&mut self, number: usize, peer: usize, message: Bytes) {
        let peer = self.key(peer);
        if let Some(up) = self.agents.get(number).and_then(|agent| agent.up.as_ref()) {
            // Hints: a full queue loses them.
            let _ = up.inbound.try_send((peer, message));
        }
    }

    fn blame(&mut self, number: usize, peer: usize) {
        *self.blamed.entry((number, peer)).or_default() += 1;
        let (now, key) = (self.clock(), self.key(peer));
        if let Some(up) = self.agents.get_mut(number).and_then(|agent| agent.up.as_mut()) {
            up.engine.blame(now, key, Blame::Other("gossip"));
        }
        self.drain(number);
    }

    /// What an agent does with what its gossip says.
    fn hear(&mut self, number: usize, said: Said) {
        match said {
            Said::Message(peer, message) => {
                let to = self.numbers.get(&peer).copied();
                if let Some(link) = to.and_then(|to| self.link_between(number, to)) {
                    self.send_gossip(number, link, &message);
                }
            }
            Said::Event(event) => self.heed(number, event),
            Said::Ended(why) => {
                // A crash ends it without a reason.
                if !why.is_empty() {
                    self.fallen.push((self.now(), number, why));
                }
            }
        }
    }

    fn heed(&mut self, number: usize, event: GossipEvent) {
        match event {
            GossipEvent::Hint { node, hints } => {
                if let Some(head) = hints.head {
                    self.handle(number, Input::Hint { node, sequence: head.sequence });
                }
            }
            GossipEvent::Blame { peer, .. } => {
                if let Some(peer) = self.numbers.get(&peer).copied() {
                    self.blame(number, peer);
                }
            }
            GossipEvent::LiveSet(live) => {
                let Some(up) = self.agents.get_mut(number).and_then(|agent| agent.up.as_mut())
                else {
                    return;
                };
                up.live = live;
                for node in up.doubted() {
                    self.handle(number, Input::Doubt(node));
                }
            }
            GossipEvent::Restarting { generation, reason } => {
                self.fallen.push((self.now(), number, reason));
                self.say(number, |local| local.host.gossip_generation = generation);
            }
            GossipEvent::Unknown { .. }
            | GossipEvent::Dropped { .. }
            | GossipEvent::StaysDown { .. } => {}
        }
    }

    fn connected(&mut self, number: usize, link: LinkId, peer: NodeKey, dialled: bool) {
        let met = self.numbers.get(&peer).copied();
        let chain = met.and_then(|met| self.agents.get(met)).map(|agent| &agent.own.verified);
        let Some(chain) = chain.map(|chain| Arc::new(chain.clone())) else {
            return;
        };
        if !self.lines.is_open(number, link) {
            return;
        }
        if let Some(agent) = self.agents.get_mut(number) {
            agent.met.extend(met);
        }
        self.handle(number, Input::Connected { link, chain, dialled });
    }

    fn try_seeds(&mut self, number: usize) {
        let count = self.options.seeds.min(self.agents.len());
        let Some(agent) = self.agents.get_mut(number) else {
            return;
        };
        let epoch = agent.epoch;
        let alone = agent.up.as_ref().is_some_and(|up| up.engine.ready_links().next().is_none());
        if let Some(seed) = seeds::next(&mut agent.met, alone, count, number, &mut self.rng) {
            self.dial(number, seed, self.key(seed));
        }
        let pause = seeds::pause(&mut self.rng);
        self.push(pause, number, Happening::Seeds(epoch));
    }

    fn dial(&mut self, from: usize, to: usize, key: NodeKey) {
        let up = self.agents.get(to).is_some_and(|agent| agent.up.is_some());
        if !up || from == to {
            return self.push(DIAL_TIMEOUT, from, Happening::DialFailed(key));
        }
        let there = self.lines.delay(&mut self.rng);
        let back = self.lines.delay(&mut self.rng);
        let (here, far) = self.lines.open(from, to);
        let me = self.key(from);
        self.push(there + back, to, Happening::Connected(far, me, false));
        self.push(there + back, from, Happening::Connected(here, key, true));
    }

    fn drain(&mut self, number: usize) {
        loop {
            let up = self.agents.get_mut(number).and_then(|agent| agent.up.as_mut());
            let Some(output) = up.and_then(|up| Engine::poll_output(&mut up.engine)) else {
                break;
            };
            self.effect(number, output);
        }
        let Some(agent) = self.agents.get_mut(number) else {
            return;
        };
        let epoch = agent.epoch;
        let Some(up) = &mut agent.up else { return };
        up.show_links();
        let wake = up.engine.next_wakeup().0;
        if agent.wake != wake {
            agent.wake = wake;
            let delay = wake.saturating_sub(self.now());
            self.push(delay, number, Happening::Wake(epoch));
        }
    }

    fn effect(&mut self, number: usize, output: Output) {
        let epoch = self.agents.get(number).map_or(0, |agent| agent.epoch);
        match output {
            Output::Send(link, bytes) => self.send_raw(number, link, bytes.to_vec()),
            Output::Dial(key, _) => {
                if let Some(to) = self.numbers.get(&key).copied() {
                    self.dial(number, to, key);
                }
            }
            Output::Close(link, _) => {
                if let Some((other, far)) = self.lines.far_end(number, link) {
                    let delay = self.lines.delay(&mut self.rng);
                    self.push(delay, other, Happening::Disconnected(far));
                }
                self.lines.close(number, link);
            }
            Output::Verify(id, job) => {
                let checked = Box::new(job.run(&KeyedHash));
                self.push(1, number, Happening::Verified(epoch, id, checked));
            }
            Output::Persist(id, writes) => {
                self.push(2, number, Happening::Persisted(epoch, id, writes));
            }
            Output::View(view) => {
                if let Some(up) = self.agents.get_mut(number).and_then(|agent| agent.up.as_mut()) {
                    up.show(view);
                }
            }
            Output::Revoked(_)
            | Output::Policy(_)
            | Output::Roots(_)
            | Output::Probation(_)
            | Output::Event(_) => {}
        }
    }
}
