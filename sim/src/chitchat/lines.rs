//! Lines: control links in memory, in order, delayed, each end with its gossip shorthand.

use std::collections::BTreeMap;

use bytes::Bytes;
use rand::{RngExt, rngs::StdRng};
use skein_node::gossip::{Blame, Incoming, Outgoing, link_ends};
use skein_protocol::{clock::Tick, engine::LinkId, wire::frame};

/// Bytes in front of a frame: its length.
const LENGTH_BYTES: usize = 4;
/// After this a lost packet is sent again, doubled each time.
const RETRANSMIT: u64 = 200;

struct End {
    agent: usize,
    far: LinkId,
    far_agent: usize,
    /// When the last frame sent from here arrives: none overtakes it.
    last: u64,
    outgoing: Outgoing,
    incoming: Incoming,
}

/// Frames and bytes that went out.
#[derive(Clone, Copy, Default, Debug)]
pub struct Sent {
    /// Frames of the engine.
    pub engine: (u64, u64),
    /// Frames of gossip.
    pub gossip: (u64, u64),
    /// Bytes that gossip would be in chitchat's own form.
    pub plain: u64,
}

/// A frame on its way: to whom, on which link, when it arrives.
pub(super) struct Arrival {
    pub(super) to: usize,
    pub(super) link: LinkId,
    pub(super) at: u64,
    pub(super) frame: Vec<u8>,
}

/// See the module.
pub(super) struct Lines {
    delay: (u64, u64),
    loss: f64,
    ends: BTreeMap<LinkId, End>,
    counter: u64,
    pub(super) sent: Sent,
}

impl Lines {
    pub(super) fn new(delay: (u64, u64), loss: f64) -> Self {
        Self { delay, loss, ends: BTreeMap::new(), counter: 0, sent: Sent::default() }
    }

    /// One way, one packet, with what its losses cost.
    pub(super) fn delay(&self, rng: &mut StdRng) -> u64 {
        let mut delay = rng.random_range(self.delay.0..=self.delay.1);
        let mut again = RETRANSMIT;
        while self.loss > 0.0 && rng.random_bool(self.loss) {
            delay += again;
            again *= 2;
        }
        delay
    }

    /// A new link: its end at `from`, its end at `to`.
    pub(super) fn open(&mut self, from: usize, to: usize) -> (LinkId, LinkId) {
        let (here, far) = (LinkId(self.counter + 1), LinkId(self.counter + 2));
        self.counter += 2;
        for (link, agent, far, far_agent) in [(here, from, far, to), (far, to, here, from)] {
            let (outgoing, incoming) = link_ends();
            let end = End { agent, far, far_agent, last: 0, outgoing, incoming };
            self.ends.insert(link, end);
        }
        (here, far)
    }

    pub(super) fn is_open(&self, agent: usize, link: LinkId) -> bool {
        self.ends.get(&link).is_some_and(|end| end.agent == agent)
    }

    /// Whether the far end of a link is gone.
    pub(super) fn is_torn(&self, agent: usize, link: LinkId) -> bool {
        let end = self.ends.get(&link).filter(|end| end.agent == agent);
        end.is_some_and(|end| !self.ends.contains_key(&end.far))
    }

    /// The other end of a link: agent and link.
    pub(super) fn far_end(&self, agent: usize, link: LinkId) -> Option<(usize, LinkId)> {
        let end = self.ends.get(&link).filter(|end| end.agent == agent)?;
        Some((end.far_agent, end.far))
    }

    pub(super) fn close(&mut self, agent: usize, link: LinkId) -> bool {
        self.is_open(agent, link) && self.ends.remove(&link).is_some()
    }

    /// Takes away all ends of an agent; the far ends, which hang.
    pub(super) fn forget(&mut self, agent: usize) -> Vec<(usize, LinkId)> {
        let mine = self.ends.values().filter(|end| end.agent == agent);
        let hanging = mine.map(|end| (end.far_agent, end.far)).collect();
        self.ends.retain(|_, end| end.agent != agent);
        hanging
    }

    /// Sends a frame of the engine, or bytes that claim to be any frame.
    pub(super) fn send(
        &mut self,
        (now, from): (u64, usize),
        link: LinkId,
        frame: Vec<u8>,
        rng: &mut StdRng,
    ) -> Option<Arrival> {
        let delay = self.delay(rng);
        let end = self.ends.get_mut(&link).filter(|end| end.agent == from)?;
        let count = if frame.first() == Some(&frame::GOSSIP) {
            &mut self.sent.gossip
        } else {
            &mut self.sent.engine
        };
        *count = (count.0 + 1, count.1 + (frame.len() + LENGTH_BYTES) as u64);
        let at = (now + delay).max(end.last);
        end.last = at;
        Some(Arrival { to: end.far_agent, link: end.far, at, frame })
    }

    /// The frame of a gossip message, in the shorthand of this end.
    pub(super) fn gossip_frame(&mut self, link: LinkId, message: &[u8]) -> Option<Vec<u8>> {
        let end = self.ends.get_mut(&link)?;
        let mut frame = end.outgoing.encode(message).ok()?;
        frame.insert(0, frame::GOSSIP);
        self.sent.plain += (message.len() + 1 + LENGTH_BYTES) as u64;
        Some(frame)
    }

    /// What a gossip frame means at this end of its link.
    pub(super) fn gossip_message(
        &mut self,
        now: Tick,
        link: LinkId,
        frame: &[u8],
    ) -> Result<Option<Bytes>, Blame> {
        match self.ends.get_mut(&link) {
            Some(end) => end.incoming.decode(now, frame),
            None => Ok(None),
        }
    }
}
