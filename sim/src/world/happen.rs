//! What happens: the entries of the queue, and what each does to the node that it is about.

use std::{
    cmp::Ordering,
    panic::{AssertUnwindSafe, catch_unwind},
};

use sha2::Digest;
use skein_protocol::{
    engine::{Checked, Input, JobId, LinkId, Output, PersistId, Write},
    name::NodeKey,
};

use super::{Node, World};

pub(super) enum Happening {
    Wake(u64, u64),
    Seeds(u64),
    Connected(LinkId, NodeKey, bool),
    DialFailed(NodeKey),
    Disconnected(LinkId),
    TimedOut(LinkId),
    Frame(LinkId, Vec<u8>),
    Verified(u64, JobId, Box<Checked>),
    Persisted(u64, PersistId, Vec<Write>),
}

pub(super) struct Entry {
    pub(super) at: u64,
    pub(super) number: u64,
    pub(super) node: usize,
    pub(super) what: Happening,
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        (self.at, self.number) == (other.at, other.number)
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl World {
    pub(super) fn step(&mut self) {
        let Some(std::cmp::Reverse(entry)) = self.queue.pop() else {
            return;
        };
        self.now = self.now.max(entry.at);
        let number = entry.node;
        let paused = self.nodes.get(number).map_or(0, |node| node.paused_until);
        if paused > self.now {
            // In the order in which it came, once the node runs again.
            return self.push(paused - self.now, number, entry.what);
        }
        let Some(input) = self.input(number, entry.what) else {
            return;
        };
        let now = self.clock(number);
        let engine = self.nodes.get_mut(number).and_then(|node| node.engine.as_mut());
        if let Some(engine) = engine {
            let handled = catch_unwind(AssertUnwindSafe(|| engine.handle(now, input)));
            if handled.is_err() {
                self.check(|checks, world| checks.panicked(world, number));
                return self.crash(number);
            }
        }
        self.drain(number);
    }

    /// What the engine is told of it; none when it no longer concerns anybody.
    fn input(&mut self, number: usize, what: Happening) -> Option<Input> {
        let epoch = self.nodes.get(number)?.epoch;
        match what {
            Happening::Wake(of, at) => {
                let node = self.nodes.get_mut(number)?;
                if of != epoch || node.wake != at {
                    return None;
                }
                node.wake = u64::MAX;
                Some(Input::Tick)
            }
            Happening::Seeds(of) => {
                if of == epoch {
                    self.try_seeds(number);
                }
                None
            }
            Happening::Verified(of, job, checked) => {
                (of == epoch).then_some(Input::Verified(job, checked))
            }
            Happening::Persisted(of, id, writes) => {
                let node = self.nodes.get_mut(number)?;
                (of == epoch).then(|| node.disk.write(id, writes))
            }
            Happening::Connected(link, peer, dialled) => {
                self.connected(number, link, peer, dialled);
                None
            }
            Happening::DialFailed(peer) => Some(Input::DialFailed(peer)),
            Happening::TimedOut(link) => {
                let far = self.network.far_end(number, link).map(|(far, _)| far);
                let sleeps = far
                    .and_then(|far| self.nodes.get(far))
                    .is_some_and(|far| far.paused_until > self.now);
                let ended = sleeps || self.network.is_torn(number, link);
                (ended && self.network.close(number, link)).then_some(Input::Disconnected(link))
            }
            Happening::Disconnected(link) => {
                self.network.close(number, link).then_some(Input::Disconnected(link))
            }
            Happening::Frame(link, bytes) => {
                if !self.network.is_open(number, link) {
                    return None;
                }
                self.trace.update(self.now.to_le_bytes());
                self.trace.update(number.to_le_bytes());
                self.trace.update(&bytes);
                Some(Input::Frame { link, bytes })
            }
        }
    }

    fn connected(&mut self, number: usize, link: LinkId, peer: NodeKey, dialled: bool) {
        let now = self.clock(number);
        let met = self.number(&peer);
        let chain = met.and_then(|n| self.nodes.get(n)).map(Node::chain);
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

    pub(super) fn effect(&mut self, number: usize, output: Output) {
        let Some(node) = self.nodes.get_mut(number) else {
            return;
        };
        let epoch = node.epoch;
        match output {
            Output::Send(link, bytes) => {
                if node.silent && crate::adversary::keeps_back(&node.key, &bytes) {
                    return;
                }
                self.check(|checks, world| checks.sending(world, number, &bytes));
                self.send(number, link, bytes);
            }
            Output::Dial(key, _) => {
                if let Some(to) = self.number(&key) {
                    self.dial(number, to, key);
                }
            }
            Output::Close(link, _) => {
                if let Some((other, far)) = self.network.far_end(number, link) {
                    let delay = self.network.delay(number, other, &mut self.rng);
                    self.push(delay, other, Happening::Disconnected(far));
                }
                self.network.close(number, link);
            }
            Output::Verify(id, job) => {
                let checked = Box::new(job.run(self.mesh.signatures.crypto()));
                self.push(1, number, Happening::Verified(epoch, id, checked));
            }
            Output::Persist(id, writes) => {
                self.check(|checks, world| checks.persisting(world, number, &writes));
                self.push(2, number, Happening::Persisted(epoch, id, writes));
            }
            Output::View(view) => node.view = Some(view),
            Output::Revoked(revocations) => node.ended = Some(revocations),
            Output::Policy(policy) => node.policy = Some(policy),
            Output::Event(event) => {
                self.check(|checks, world| checks.told(world, number, &event));
                self.events.push((self.now, number, event));
            }
        }
    }
}
