//! Shorthand: gossip as it stands on a link. A member costs a byte of a digest there, not 51.
//!
//! In:    messages in chitchat's format, at the moment of sending; frames from the peer
//! Out:   frames for the peer; messages in chitchat's format, for the filter
//! Never: takes a form that it would not write itself, keeps more than
//!        [`skein_protocol::limits::GOSSIP_DIGEST_MAX`] ids of a direction, grows a message beyond
//!        [`skein_protocol::limits::GOSSIP_MESSAGE_BYTES`]
//!
//! A link is reliable and in order, so both of its ends can keep the last digest that went one
//! way, and the next one says only what is new: members are named by their place in it, counters
//! by how far they rose. What is said of a member for the first time is its short id, generation
//! and counters; its address follows from the short id.
//!
//! ```text
//! frame    = u8 kind (0 syn, 1 syn-ack, 2 ack, 3 bad cluster) + 0x20 a cluster's name follows
//!            + 0x40 forget what was said before + 0x80 you lost me, begin anew; then the body
//! syn      = [number length, name] digest     syn-ack = digest, delta     ack = delta
//! digest   = number count, (number gap)...    places of the last digest that are gone
//!            step...                          until all that is left of it is told
//!            number count, (10 characters, number generation, heartbeat, version)... what is new
//! step     = 4n: n + 1 are unchanged | 2h + 1: heartbeat + h
//!          | 4h + 2: heartbeat + h, then number v: version + v
//! delta    = number count, nodes: number place in this digest + 1, or 0, 10 characters, number
//!            generation; number from version, number count, keys
//! key      = u8 which of the four, or 4 + length and the text; number length, value; number rise
//!            of the version
//! number   = seven bits a byte, low ones first, the top bit says that more follow
//! ```
//! What cannot be said in steps (a counter that fell) is said as gone and new. A frame is taken
//! only if writing its meaning gives the same bytes again.
//!
//! **Out of step.** No honest agent's frame fails here, so what fails is blamed. The reader then
//! forgets the direction and, with the next frame that this agent sends, asks the peer to begin
//! anew; until the peer does, its frames are skipped. The same happens when a peer is over its
//! budget: to count a frame costs less than to read it.

mod letters;
mod memory;
#[cfg(test)]
mod tests;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use skein_protocol::clock::Tick;

use self::memory::Memory;
use super::{
    Blame,
    filter::Budget,
    wire::{Message, Source},
};

const KIND: u8 = 0x03;
const CLUSTER: u8 = 0x20;
const ANEW: u8 = 0x40;
const LOST: u8 = 0x80;

/// The two ends of this agent at one new link: what it sends, what it receives.
pub fn link_ends() -> (Outgoing, Incoming) {
    let state = Arc::new(State::default());
    let outgoing = Outgoing { memory: Memory::default(), state: Arc::clone(&state) };
    let incoming = Incoming { memory: Memory::default(), budget: Budget::full(Tick(0)), state };
    (outgoing, incoming)
}

/// What the two directions of a link tell each other.
#[derive(Debug, Default)]
struct State {
    /// We cannot follow the peer.
    lost: AtomicBool,
    /// The peer cannot follow us.
    asked: AtomicBool,
}

/// What this agent says on a link.
#[derive(Debug)]
pub struct Outgoing {
    memory: Memory,
    state: Arc<State>,
}

impl Outgoing {
    /// The frame for a message of our own filter. Once written it must be sent: the next one
    /// builds on it.
    pub fn encode(&mut self, message: &[u8]) -> Result<Vec<u8>, Blame> {
        let message = Message::parse(message, Source::Peer)?;
        let mut flags = 0;
        if self.state.asked.swap(false, Ordering::Relaxed) {
            self.memory = Memory::default();
            flags |= ANEW;
        }
        if self.state.lost.load(Ordering::Relaxed) {
            flags |= LOST;
        }
        let frame = self.memory.write(&message, flags);
        if frame.is_err() {
            // Nothing is sent, so the peer must not be left with half of it.
            self.state.asked.store(true, Ordering::Relaxed);
        }
        frame
    }
}

/// What this agent hears on a link.
#[derive(Debug)]
pub struct Incoming {
    memory: Memory,
    budget: Budget,
    state: Arc<State>,
}

impl Incoming {
    /// The message of a frame, in chitchat's format, for the filter. None: it is skipped, since
    /// the peer is over its budget or was not followed before.
    pub fn decode(&mut self, now: Tick, frame: &[u8]) -> Result<Option<Bytes>, Blame> {
        let flags = *frame.first().ok_or(Blame::Malformed)?;
        if !self.budget.take(now) {
            self.lose();
            return Ok(None);
        }
        if flags & LOST != 0 {
            self.state.asked.store(true, Ordering::Relaxed);
        }
        if flags & ANEW != 0 {
            self.memory = Memory::default();
        } else if self.state.lost.load(Ordering::Relaxed) {
            return Ok(None);
        }
        match self.memory.read(frame) {
            Ok(message) => {
                self.state.lost.store(false, Ordering::Relaxed);
                Ok(Some(Bytes::from(message.encode())))
            }
            Err(blame) => {
                self.lose();
                Err(blame)
            }
        }
    }

    fn lose(&mut self) {
        self.memory = Memory::default();
        self.state.lost.store(true, Ordering::Relaxed);
    }
}
