//! Outbox: what waits for a link, a few messages a peer, the newest.
//!
//! Peers take turns, so that one slow link does not hold back the others' messages.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use skein_protocol::{limits, name::NodeKey};

/// Bounded by [`limits::CONTROL_PEERS_MAX`] links of [`limits::GOSSIP_PEER_QUEUE`] messages.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    waiting: BTreeMap<NodeKey, VecDeque<Bytes>>,
    last: Option<NodeKey>,
}

impl Outbox {
    /// Queues a message. The peer's oldest goes when it has too many.
    pub(super) fn push(&mut self, to: NodeKey, message: Bytes) {
        let queue = self.waiting.entry(to).or_default();
        if queue.len() >= limits::GOSSIP_PEER_QUEUE {
            queue.pop_front();
        }
        queue.push_back(message);
    }

    /// The next message, of the next peer in turn.
    pub(super) fn pop(&mut self) -> Option<(NodeKey, Bytes)> {
        let after = self.last.and_then(|last| {
            let later = (std::ops::Bound::Excluded(last), std::ops::Bound::Unbounded);
            self.waiting.range(later).next().map(|(peer, _)| *peer)
        });
        let peer = after.or_else(|| self.waiting.keys().next().copied())?;
        let queue = self.waiting.get_mut(&peer)?;
        let message = queue.pop_front();
        if queue.is_empty() {
            self.waiting.remove(&peer);
        }
        self.last = Some(peer);
        message.map(|message| (peer, message))
    }

    /// Forgets what waits for peers whose link is down.
    pub(super) fn retain(&mut self, up: impl Fn(&NodeKey) -> bool) {
        self.waiting.retain(|peer, _| up(peer));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> NodeKey {
        NodeKey([n; 32])
    }

    #[test]
    fn the_latest_messages_of_a_peer_win() {
        let mut outbox = Outbox::default();
        for n in 0..10_u8 {
            outbox.push(key(1), Bytes::copy_from_slice(&[n]));
        }
        let left: Vec<u8> = std::iter::from_fn(|| outbox.pop()).map(|(_, m)| m[0]).collect();
        assert_eq!(left, [6, 7, 8, 9]);
        assert!(outbox.is_empty());
    }

    #[test]
    fn peers_take_turns() {
        let mut outbox = Outbox::default();
        for _ in 0..2 {
            for n in 1..=3 {
                outbox.push(key(n), Bytes::new());
            }
        }
        let order: Vec<NodeKey> = std::iter::from_fn(|| outbox.pop()).map(|(to, _)| to).collect();
        assert_eq!(order, [1, 2, 3, 1, 2, 3].map(key));
    }

    #[test]
    fn a_link_that_is_down_takes_its_messages_along() {
        let mut outbox = Outbox::default();
        outbox.push(key(1), Bytes::new());
        outbox.push(key(2), Bytes::new());
        outbox.retain(|peer| *peer == key(2));
        assert_eq!(outbox.pop().map(|(to, _)| to), Some(key(2)));
        assert_eq!(outbox.pop(), None);
    }
}
