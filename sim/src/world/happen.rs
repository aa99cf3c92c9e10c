//! What happens: the entries of the queue, and what each does to the node that it is about.

use std::{
    collections::{BTreeMap, VecDeque},
    panic::{AssertUnwindSafe, catch_unwind},
};

use bytes::Bytes;
use sha2::Digest;
use skein_protocol::{
    engine::{Checked, Event, Input, Job, JobId, LinkId, Output, PersistId, Write},
    name::NodeKey,
    wire::frame,
};

use super::{Node, Word, World, meter};

pub(super) enum Happening {
    Wake(u64, u64),
    Seeds(u64),
    Connected(LinkId, NodeKey, bool),
    DialFailed(NodeKey),
    Disconnected(LinkId),
    TimedOut(LinkId),
    Frame(LinkId, Bytes),
    Verified(u64, JobId, Box<Checked>),
    Persisted(u64, PersistId, Vec<Write>),
    Word(u64, Word),
}

/// What is to happen: by millisecond, and within one in the order in which it was put in.
#[derive(Default)]
pub(super) struct Queue {
    times: BTreeMap<u64, VecDeque<(usize, Happening)>>,
    len: usize,
}

impl Queue {
    pub(super) fn push(&mut self, at: u64, node: usize, what: Happening) {
        self.len += 1;
        self.times.entry(at).or_default().push_back((node, what));
    }

    /// When the next thing happens.
    pub(super) fn next_at(&self) -> Option<u64> {
        self.times.first_key_value().map(|(at, _)| *at)
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    fn pop(&mut self) -> Option<(u64, usize, Happening)> {
        let mut first = self.times.first_entry()?;
        let at = *first.key();
        let next = first.get_mut().pop_front();
        if first.get().is_empty() {
            first.remove();
        }
        let (node, what) = next?;
        self.len -= 1;
        Some((at, node, what))
    }
}

impl World {
    pub(super) fn step(&mut self) {
        let Some((at, number, what)) = self.queue.pop() else {
            return;
        };
        self.now = self.now.max(at);
        let paused = self.nodes.get(number).map_or(0, |node| node.paused_until);
        if paused > self.now {
            // In the order in which it came, once the node runs again.
            return self.push(paused - self.now, number, what);
        }
        let Some(input) = self.input(number, what) else {
            return;
        };
        if let Input::Frame { link, bytes } = &input
            && self.nodes.get(number).is_some_and(|node| node.shields)
            && let Some(said) = crate::adversary::shields(bytes)
            && let Ok(said) = said.encode()
        {
            // In the place of what its engine would answer.
            return self.send(number, *link, said.into());
        }
        let now = self.clock(number);
        let engine = self.nodes.get_mut(number).and_then(|node| node.engine.as_mut());
        if let Some(engine) = engine {
            let work = || match &mut self.meter {
                Some(meter) => meter.time(meter::word(&input), || engine.handle(now, input)),
                None => engine.handle(now, input),
            };
            let handled = catch_unwind(AssertUnwindSafe(work));
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
                (ended && self.close(number, link)).then_some(Input::Disconnected(link))
            }
            Happening::Disconnected(link) => {
                self.close(number, link).then_some(Input::Disconnected(link))
            }
            Happening::Frame(link, bytes) => {
                if !self.network.is_open(number, link) {
                    return None;
                }
                self.trace.update(self.now.to_le_bytes());
                self.trace.update(number.to_le_bytes());
                self.trace.update(&bytes);
                match &*bytes {
                    [frame::GOSSIP, message @ ..] if self.gossip.is_some() => {
                        self.gossip_came(number, link, message);
                        None
                    }
                    _ => Some(Input::Frame { link, bytes }),
                }
            }
            Happening::Word(of, word) => {
                if of == epoch {
                    self.heed(number, word)
                } else {
                    None
                }
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

    /// Does a signature check. What every node checks for itself is the same record: the world
    /// keeps one copy of it, and checks it once for a moment of its certificate's life.
    fn checked(&mut self, job: &Job) -> Checked {
        if let Some(meter) = &mut self.meter {
            return meter.time(meter::job(job), || job.run(self.mesh.signatures.crypto()));
        }
        let Some(name) = job.record() else {
            return job.run(self.mesh.signatures.crypto());
        };
        let checked = match self.known.get(&name) {
            Some(before) => job.run_beside(Some(before), self.mesh.signatures.crypto()),
            None => job.run(self.mesh.signatures.crypto()),
        };
        if let Some(record) = checked.record() {
            self.known.entry(name).or_insert_with(|| record.clone());
        }
        checked
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
            Output::Dial(key, addresses) => {
                if let Some(to) = self.at_address(&key, &addresses) {
                    self.dial(number, to, key);
                }
            }
            Output::Close(link, _) => {
                if let Some((other, far)) = self.network.far_end(number, link) {
                    let delay = self.network.delay(number, other, &mut self.rng);
                    self.push(delay, other, Happening::Disconnected(far));
                }
                self.close(number, link);
            }
            Output::Verify(id, job) => {
                let breaks = node.breaks_on.is_some() && node.breaks_on == job.record();
                let checked = if breaks { job.broke() } else { self.checked(&job) };
                let checked = Box::new(checked);
                self.push(1, number, Happening::Verified(epoch, id, checked));
            }
            Output::Persist(id, writes) => {
                self.check(|checks, world| checks.persisting(world, number, &writes));
                self.push(2, number, Happening::Persisted(epoch, id, writes));
            }
            Output::View(view) => node.view = Some(view),
            Output::Revoked(revocations) => node.ended = Some(revocations),
            Output::Policy(policy) => node.policy = Some(policy),
            Output::Probation(on) => node.probation = on,
            // The world's root stays.
            Output::Roots(_) => {}
            Output::Event(event) => {
                self.check(|checks, world| checks.told(world, number, &event));
                if !self.deaths_only || matches!(event, Event::Dead(_)) {
                    self.events.push((self.now, number, event));
                }
            }
        }
    }
}
