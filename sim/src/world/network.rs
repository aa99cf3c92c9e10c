//! Links between nodes: in order, delayed, now and then late; cut and mended.

use std::collections::{BTreeMap, BTreeSet};

use rand::{RngExt, rngs::StdRng};
use skein_protocol::engine::LinkId;

#[derive(Debug)]
struct End {
    node: usize,
    far: LinkId,
    far_node: usize,
    /// When the last frame sent from here arrives: none overtakes it.
    last: u64,
}

/// A frame that waits for its path: receiving node, its link, bytes.
pub(super) type Held = (usize, LinkId, Vec<u8>);

/// See the module.
#[derive(Debug)]
pub struct Network {
    delay: (u64, u64),
    loss: f64,
    ends: BTreeMap<LinkId, End>,
    cut: BTreeSet<(usize, usize)>,
    held: Vec<Held>,
    counter: u64,
}

/// After this a lost packet is sent again, doubled each time.
const RETRANSMIT: u64 = 200;

impl Network {
    pub(super) fn new(delay: (u64, u64), loss: f64) -> Self {
        Self {
            delay,
            loss,
            ends: BTreeMap::new(),
            cut: BTreeSet::new(),
            held: Vec::new(),
            counter: 0,
        }
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

    /// Cuts or mends the path from one node to another, one way.
    pub fn cut(&mut self, from: usize, to: usize, cut: bool) {
        if cut {
            self.cut.insert((from, to));
        } else {
            self.cut.remove(&(from, to));
        }
    }

    pub(super) fn is_cut(&self, a: usize, b: usize) -> bool {
        self.cut.contains(&(a, b)) || self.cut.contains(&(b, a))
    }

    pub(super) fn open(&mut self, from: usize, to: usize) -> (LinkId, LinkId) {
        let here = LinkId(self.counter + 1);
        let far = LinkId(self.counter + 2);
        self.counter += 2;
        let end = |node, far, far_node| End { node, far, far_node, last: 0 };
        self.ends.insert(here, end(from, far, to));
        self.ends.insert(far, end(to, here, from));
        (here, far)
    }

    pub(super) fn is_open(&self, node: usize, link: LinkId) -> bool {
        self.ends.get(&link).is_some_and(|end| end.node == node)
    }

    pub(super) fn far_end(&self, node: usize, link: LinkId) -> Option<(usize, LinkId)> {
        let end = self.ends.get(&link).filter(|end| end.node == node)?;
        Some((end.far_node, end.far))
    }

    pub(super) fn close(&mut self, node: usize, link: LinkId) -> bool {
        match self.ends.get(&link) {
            Some(end) if end.node == node => self.ends.remove(&link).is_some(),
            _ => false,
        }
    }

    /// The far ends of all links of a node: (link there, node there).
    pub(super) fn ends_of(&self, node: usize) -> Vec<(LinkId, usize)> {
        let mine = self.ends.values().filter(|end| end.node == node);
        mine.map(|end| (end.far, end.far_node)).collect()
    }

    pub(super) fn forget(&mut self, node: usize) {
        self.ends.retain(|_, end| end.node != node);
    }

    pub(super) fn send(
        &mut self,
        now: u64,
        from: usize,
        link: LinkId,
        bytes: Vec<u8>,
        rng: &mut StdRng,
    ) -> Option<(usize, LinkId, u64, Vec<u8>)> {
        let delay = self.delay(rng);
        let end = self.ends.get_mut(&link).filter(|end| end.node == from)?;
        let (to, far) = (end.far_node, end.far);
        if self.cut.contains(&(from, to)) {
            self.held.push((to, far, bytes));
            return None;
        }
        let at = (now + delay).max(end.last);
        end.last = at;
        Some((to, far, at, bytes))
    }

    pub(super) fn partition(
        &mut self,
        count: usize,
        group: impl Fn(usize) -> usize,
    ) -> Vec<(LinkId, usize)> {
        for a in 0..count {
            for b in 0..count {
                self.cut(a, b, group(a) != group(b));
            }
        }
        let torn = self.ends.iter().filter(|(_, end)| group(end.node) != group(end.far_node));
        torn.map(|(link, end)| (*link, end.node)).collect()
    }

    /// Whether a link leads nowhere: its path is cut or its far end is gone.
    pub(super) fn is_torn(&self, node: usize, link: LinkId) -> bool {
        self.ends.get(&link).filter(|end| end.node == node).is_some_and(|end| {
            self.is_cut(end.node, end.far_node) || !self.ends.contains_key(&end.far)
        })
    }

    /// Mends all paths. What was held arrives at `at`, in order, and nothing overtakes it.
    pub(super) fn heal(&mut self, at: u64) -> Vec<Held> {
        self.cut.clear();
        for end in self.ends.values_mut() {
            end.last = end.last.max(at);
        }
        std::mem::take(&mut self.held)
    }
}
