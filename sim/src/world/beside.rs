//! What may run beside the engines: a gossip for each node, on the world's clock.
//!
//! The world knows no gossip by name. It carries its messages, hands the engines what it says, and
//! lets time pass only when no gossip has anything left to do.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use skein_protocol::{
    clock::Tick,
    engine::{Blame, Input, LinkId},
    name::NodeKey,
    record::node::NodeState,
    view::{Liveness, View},
    wire::frame,
};

use super::{Happening, World};

/// What a node's gossip says to its agent.
#[derive(Debug)]
pub enum Word {
    /// A message for a peer's link.
    Message(NodeKey, Bytes),
    /// A node has said something with this sequence.
    Hint(NodeKey, u64),
    /// The peers that it holds for live.
    Live(BTreeSet<NodeKey>),
    /// A peer sent what no honest agent sends.
    Blame(NodeKey),
    /// It ended, and starts again with this generation.
    Again(u64, String),
    /// It ended.
    Ended(String),
}

/// Gossip of every node.
pub trait Beside {
    /// A node has started: what it says from now on is of that run.
    fn start(&mut self, number: usize, run: u64, key: NodeKey, boot: u64);
    /// A node has ended.
    fn end(&mut self, number: usize);
    /// What a node's agent shows it: members, and the peers of ready links.
    fn show(&mut self, number: usize, view: &Arc<View>, links: BTreeSet<NodeKey>);
    /// A frame of gossip came on a link, from a peer. False: no honest agent sends that.
    fn came(&mut self, now: Tick, at: (usize, LinkId), peer: NodeKey, frame: &[u8]) -> bool;
    /// A message reaches a node past its link.
    fn deliver(&mut self, number: usize, peer: NodeKey, message: Bytes);
    /// The frame of a message, as it stands on that link of a node; none if it cannot.
    fn frame(&mut self, at: (usize, LinkId), message: &[u8]) -> Option<Vec<u8>>;
    /// A link has closed.
    fn closed(&mut self, at: (usize, LinkId));
    /// Lets all run until `until` ms of the world, or until one says something: when, which node,
    /// of which run, what.
    fn next(&mut self, until: u64) -> Option<(u64, usize, u64, Word)>;
    /// Messages that no agent sends, about a victim and another: each its key and generation.
    fn lies(&self, victim: (NodeKey, u64), other: (NodeKey, u64)) -> Vec<Vec<u8>>;
    /// The peers that a node's gossip holds for live.
    fn live(&self, number: usize) -> Option<&BTreeSet<NodeKey>>;
}

impl World {
    /// Lets gossip run until `until`, or until it says something. Whether it did.
    pub(super) fn listen(&mut self, until: u64) -> bool {
        let Some((at, number, run, word)) = self.gossip.as_mut().and_then(|g| g.next(until)) else {
            return false;
        };
        self.now = self.now.max(at);
        self.push(0, number, Happening::Word(run, word));
        true
    }

    /// What a node's agent does with what its gossip says, and what its engine is told.
    pub(super) fn heed(&mut self, number: usize, word: Word) -> Option<Input> {
        match word {
            Word::Message(peer, message) => {
                self.send_gossip(number, peer, &message);
                None
            }
            Word::Hint(node, sequence) => Some(Input::Hint { node, sequence }),
            Word::Live(live) => Some(Input::GossipLive(live)),
            Word::Blame(peer) => {
                self.blame_gossip(number, peer);
                None
            }
            Word::Again(generation, why) => {
                self.fallen.push((self.now, number, why));
                self.say(number, |local| local.host.gossip_generation = generation);
                None
            }
            Word::Ended(why) => {
                self.fallen.push((self.now, number, why));
                None
            }
        }
    }

    /// The members that a node holds for alive, without itself.
    fn held_alive(&self, number: usize) -> BTreeSet<NodeKey> {
        let nodes = self.view(number).into_iter().flat_map(|view| view.nodes.values());
        let alive = nodes.filter(|node| node.liveness == Liveness::Alive).map(|node| node.key);
        alive.filter(|key| *key != self.key(number)).collect()
    }

    /// As the task of a control link does it.
    pub(super) fn gossip_came(&mut self, number: usize, link: LinkId, frame: &[u8]) {
        let Some((peer, _)) = self.network.far_end(number, link) else { return };
        let (now, peer) = (self.clock(number).tick, self.key(peer));
        let gossip = self.gossip.as_mut();
        if gossip.is_some_and(|gossip| !gossip.came(now, (number, link), peer, frame)) {
            self.blame_gossip(number, peer);
        }
    }

    fn blame_gossip(&mut self, number: usize, peer: NodeKey) {
        let now = self.clock(number);
        let engine = self.nodes.get_mut(number).and_then(|node| node.engine.as_mut());
        if let Some(engine) = engine {
            engine.blame(now, peer, Blame::Other("gossip"));
            if let Some(peer) = self.number(&peer) {
                *self.blamed.entry((number, peer)).or_default() += 1;
            }
        }
        self.drain(number);
    }

    fn send_gossip(&mut self, from: usize, peer: NodeKey, message: &[u8]) -> bool {
        let Some(link) = self.link_to(from, &peer) else { return false };
        let frame = self.gossip.as_mut().and_then(|gossip| gossip.frame((from, link), message));
        let sent = frame.is_some();
        if let Some(frame) = frame {
            self.send(from, link, frame.into());
        }
        sent
    }

    /// Shows a node's gossip what its engine says now.
    pub(super) fn show_gossip(&mut self, number: usize) {
        let Some(gossip) = &mut self.gossip else { return };
        let Some(node) = self.nodes.get(number) else { return };
        if let (Some(engine), Some(view)) = (&node.engine, &node.view) {
            gossip.show(number, view, engine.ready_links().map(|(_, peer)| peer).collect());
        }
    }

    pub(super) fn close(&mut self, number: usize, link: LinkId) -> bool {
        if let Some(gossip) = &mut self.gossip {
            gossip.closed((number, link));
        }
        self.network.close(number, link)
    }

    /// Has a node send every other gossip that no agent sends. How many messages went in the link's
    /// own form, in gossip's on the link, and past the link: the first are over before the second
    /// cost the attacker the receiver's ear.
    pub fn attack_gossip(&mut self, attacker: usize) -> [usize; 3] {
        let count = self.nodes.len();
        let id = |world: &Self, n: usize| {
            let generation = world.nodes.get(n).map(|node| node.local.host.gossip_generation);
            (world.key(n), generation.unwrap_or_default())
        };
        let (mut sent, liar) = ([0; 3], self.key(attacker));
        let [short, plain, past] = &mut sent;
        for victim in (0..count).filter(|victim| *victim != attacker) {
            let (me, other) = (id(self, victim), id(self, (victim + 1) % count));
            let lies = self.gossip.as_ref().map(|gossip| gossip.lies(me, other));
            let lies = lies.unwrap_or_default();
            for lie in &lies {
                *short += usize::from(self.send_gossip(attacker, me.0, lie));
            }
            for lie in lies {
                let frame = [&[frame::GOSSIP], &*lie].concat();
                *plain += usize::from(self.inject_bytes(attacker, victim, frame));
                if let Some(gossip) = &mut self.gossip {
                    gossip.deliver(victim, liar, lie.into());
                    *past += 1;
                }
            }
        }
        sent
    }

    /// Bytes of gossip that all nodes have sent.
    pub fn gossiped(&self) -> u64 {
        self.nodes.iter().filter_map(|node| node.sent.get(&frame::GOSSIP)).sum()
    }

    /// Where these nodes disagree with their own gossip on which of these live: who, on whom, and
    /// whether its gossip holds that one for live. A node that has left is none of gossip's.
    pub fn disagreeing(&self, among: &[usize]) -> Vec<(usize, usize, bool)> {
        let Some(gossip) = &self.gossip else { return Vec::new() };
        let keys: BTreeSet<NodeKey> = among.iter().map(|number| self.key(*number)).collect();
        let nodes = among.iter().filter_map(|number| Some((*number, self.nodes.get(*number)?)));
        let stay =
            nodes.filter(|(_, n)| n.engine.is_some() && n.local.host.state != NodeState::Left);
        let nobody = BTreeSet::new();
        stay.flat_map(|(number, _)| {
            let (alive, live) = (self.held_alive(number), gossip.live(number).unwrap_or(&nobody));
            let apart: Vec<NodeKey> = alive.symmetric_difference(live).copied().collect();
            let apart = apart.into_iter().filter(|key| keys.contains(key));
            let of = |key| Some((number, self.number(&key)?, live.contains(&key)));
            apart.filter_map(of).collect::<Vec<_>>()
        })
        .collect()
    }
}
