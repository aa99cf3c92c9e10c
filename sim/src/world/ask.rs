//! Questions that a run asks of the whole world.

use std::sync::Arc;

use skein_protocol::{
    engine::LinkId,
    name::NodeKey,
    view::{Liveness, View},
};

use super::{Node, World};

impl World {
    /// Nodes that run, by number.
    pub fn up(&self) -> impl Iterator<Item = (usize, &Node)> {
        self.nodes.iter().enumerate().filter(|(_, node)| node.engine.is_some())
    }

    /// Whether all nodes that are up show the same records and nobody as dead among them.
    pub fn converged(&self) -> bool {
        let mut up = self.up().map(|(_, node)| node);
        let Some(first) = up.next().and_then(|node| node.view.as_ref()) else {
            return false;
        };
        up.all(|node| {
            node.view.as_ref().is_some_and(|view| view.records_root == first.records_root)
        })
    }

    /// Whether all nodes that are up know every other of them, and show the same records.
    pub fn full_and_equal(&self) -> bool {
        let count = self.up().count();
        self.converged()
            && self
                .up()
                .filter_map(|(_, node)| node.view.as_ref())
                .all(|view| view.nodes.len() >= count)
    }

    /// Whether every node that is up holds `of` for dead.
    pub fn dead_everywhere(&self, of: usize) -> bool {
        self.held_everywhere(of, Liveness::Dead)
    }

    /// Whether every node that is up and knows `of` holds it for that.
    pub fn held_everywhere(&self, of: usize, liveness: Liveness) -> bool {
        let key = self.key(of);
        self.up().filter(|(at, _)| *at != of).all(|(_, node)| {
            let seen = node.view.as_ref().and_then(|view| view.nodes.get(&key));
            seen.is_none_or(|seen| seen.liveness == liveness)
        })
    }

    /// The sequence of the newest record that a node has of itself; 0 when it is down.
    pub fn said(&self, of: usize) -> u64 {
        let engine = self.nodes.get(of).and_then(|node| node.engine.as_ref());
        let head = engine.and_then(|engine| engine.store().head(&self.key(of)));
        head.map_or(0, |head| head.sequence)
    }

    /// Whether every node that is up holds the newest record of `of`, and it is above `above`.
    pub fn told_everywhere(&self, of: usize, above: u64) -> bool {
        let key = self.key(of);
        let head = |node: &Node| node.engine.as_ref().and_then(|engine| engine.store().head(&key));
        let Some(newest) = self.nodes.get(of).and_then(head) else {
            return false;
        };
        newest.sequence > above && self.up().all(|(_, node)| head(node) == Some(newest))
    }

    /// How many things are under way: frames, checks, writes, timers.
    pub fn under_way(&self) -> usize {
        self.queue.len()
    }

    /// How many control links a node has.
    pub fn links(&self, number: usize) -> usize {
        let engine = self.nodes.get(number).and_then(|node| node.engine.as_ref());
        engine.map_or(0, |engine| engine.ready_links().count())
    }

    /// The ready link of one node to another.
    pub fn link_between(&self, from: usize, to: usize) -> Option<LinkId> {
        self.link_to(from, &self.key(to))
    }

    /// The ready link of a node to a key.
    pub(super) fn link_to(&self, from: usize, peer: &NodeKey) -> Option<LinkId> {
        let engine = self.nodes.get(from)?.engine.as_ref()?;
        engine.ready_links().find(|(_, key)| key == peer).map(|(link, _)| link)
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
        Some(self.view(at)?.nodes.get(&self.key(of))?.liveness)
    }

    /// The identity of a node.
    pub fn key(&self, number: usize) -> NodeKey {
        self.nodes.get(number).map_or(NodeKey([0; 32]), |node| node.key)
    }

    /// The number of a key's node.
    pub fn number(&self, key: &NodeKey) -> Option<usize> {
        self.numbers.get(key).copied()
    }
}
