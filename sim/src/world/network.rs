//! Links between nodes: in order, delayed, now and then late, twice or out of turn; cut, clogged
//! and mended.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use rand::{RngExt, rngs::StdRng};
use skein_protocol::engine::LinkId;

#[derive(Debug)]
struct End {
    node: usize,
    far: LinkId,
    far_node: usize,
    /// When the last frame sent from here arrives: none overtakes it.
    last: u64,
    /// When the Hello sent from here arrives: nothing ever overtakes that.
    first: Option<u64>,
}

/// A frame that waits for its path: receiving node, its link, bytes.
type Held = (usize, LinkId, Bytes);

/// A frame on its way: receiving node, its link, when it arrives, bytes.
pub(super) type Arrival = (usize, LinkId, u64, Bytes);

/// What the paths are like.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Weather {
    /// One-way delay within a region, in milliseconds: from, to.
    pub delay: (u64, u64),
    /// Whether nodes live in [`REGIONS`], node `n` in region `n % 5`, with what lies between.
    pub wan: bool,
    /// Share of frames whose first transmission is lost, 0 to 1.
    pub loss: f64,
    /// Share of frames that arrive twice.
    pub duplicate: f64,
    /// Share of frames that others may overtake.
    pub reorder: f64,
}

impl Default for Weather {
    fn default() -> Self {
        Self { delay: (1, 10), wan: false, loss: 0.0, duplicate: 0.0, reorder: 0.0 }
    }
}

/// Whose distances [`ONE_WAY`] holds.
pub const REGIONS: [&str; 5] = ["eu-west", "us-east", "us-west", "ap-south", "ap-northeast"];

/// Milliseconds one way between [`REGIONS`]: half of the round trips that public clouds show.
const ONE_WAY: [[u64; 5]; 5] = [
    [0, 36, 66, 61, 105],
    [36, 0, 31, 97, 76],
    [66, 31, 0, 112, 51],
    [61, 97, 112, 0, 62],
    [105, 76, 51, 62, 0],
];

/// After this a lost packet is sent again, doubled each time.
const RETRANSMIT: u64 = 200;
/// Kinds of frames that may come twice or out of turn: those that a second path may bring as
/// well. What has an order on its link (Hello, revocations, stands) keeps it, as QUIC does.
const FREE: std::ops::RangeInclusive<u8> = 4..=9;

/// See the module.
#[derive(Debug)]
pub struct Network {
    /// What the paths are like now.
    pub weather: Weather,
    ends: BTreeMap<LinkId, End>,
    /// Paths that are cut, one way.
    cut: BTreeSet<(usize, usize)>,
    /// Paths on which everything waits.
    clogged: BTreeSet<(usize, usize)>,
    /// Bytes a millisecond that a node can send, and until when its line is busy.
    capacity: BTreeMap<usize, (u64, u64)>,
    held: Vec<Held>,
    counter: u64,
}

impl Network {
    pub(super) fn new(weather: Weather) -> Self {
        Self {
            weather,
            ends: BTreeMap::new(),
            cut: BTreeSet::new(),
            clogged: BTreeSet::new(),
            capacity: BTreeMap::new(),
            held: Vec::new(),
            counter: 0,
        }
    }

    /// One way, one packet, with what its losses cost.
    pub(super) fn delay(&self, from: usize, to: usize, rng: &mut StdRng) -> u64 {
        let mut delay = rng.random_range(self.weather.delay.0..=self.weather.delay.1);
        if self.weather.wan {
            let (a, b) = (from % REGIONS.len(), to % REGIONS.len());
            delay += ONE_WAY.get(a).and_then(|row| row.get(b)).copied().unwrap_or_default();
        }
        let mut again = RETRANSMIT.max(delay * 3);
        while self.weather.loss > 0.0 && rng.random_bool(self.weather.loss) {
            delay += again;
            again *= 2;
        }
        delay
    }

    /// Lets a node send no more than so many bytes a second; `None`: as many as it likes.
    pub fn throttle(&mut self, node: usize, bytes_per_second: Option<u64>) {
        match bytes_per_second {
            Some(rate) => {
                self.capacity.insert(node, ((rate / 1000).max(1), 0));
            }
            None => {
                self.capacity.remove(&node);
            }
        }
    }

    /// Cuts or mends the path from one node to another, one way.
    pub fn cut(&mut self, from: usize, to: usize, cut: bool) {
        if cut {
            self.cut.insert((from, to));
        } else {
            self.cut.remove(&(from, to));
        }
    }

    /// Whether nothing gets through between two nodes: a handshake needs both ways.
    pub fn is_cut(&self, a: usize, b: usize) -> bool {
        self.cut.contains(&(a, b)) || self.cut.contains(&(b, a))
    }

    /// Whether no path is cut, clogged or narrow.
    pub fn is_whole(&self) -> bool {
        self.cut.is_empty() && self.clogged.is_empty() && self.capacity.is_empty()
    }

    /// Lets everything on the path from one node to another wait.
    pub fn clog(&mut self, from: usize, to: usize) {
        self.clogged.insert((from, to));
    }

    /// Whether everything waits between two nodes.
    pub fn is_clogged(&self, from: usize, to: usize) -> bool {
        self.clogged.contains(&(from, to)) || self.clogged.contains(&(to, from))
    }

    pub(super) fn open(&mut self, from: usize, to: usize) -> (LinkId, LinkId) {
        let (here, there) = (LinkId(self.counter + 1), LinkId(self.counter + 2));
        self.counter += 2;
        let end = |node, far, far_node| End { node, far, far_node, last: 0, first: None };
        self.ends.insert(here, end(from, there, to));
        self.ends.insert(there, end(to, here, from));
        (here, there)
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
        bytes: Bytes,
        rng: &mut StdRng,
    ) -> Vec<Arrival> {
        let Some(end) = self.ends.get(&link).filter(|end| end.node == from) else {
            return Vec::new();
        };
        let (to, far) = (end.far_node, end.far);
        if self.cut.contains(&(from, to)) || self.clogged.contains(&(from, to)) {
            self.held.push((to, far, bytes));
            return Vec::new();
        }
        let sent = match self.capacity.get_mut(&from) {
            Some((rate, busy)) => {
                *busy = (*busy).max(now) + bytes.len() as u64 / *rate;
                *busy
            }
            None => now,
        };
        let delay = self.delay(from, to, rng);
        let free = bytes.first().is_some_and(|kind| FREE.contains(kind));
        let overtakes = free && self.draw(self.weather.reorder, rng);
        let twice = free && self.draw(self.weather.duplicate, rng);
        let Some(end) = self.ends.get_mut(&link) else {
            return Vec::new();
        };
        let floor = if overtakes { end.first.unwrap_or(end.last) } else { end.last };
        let at = (sent + delay).max(floor);
        end.first.get_or_insert(at);
        end.last = end.last.max(at);
        let mut arrivals = vec![(to, far, at, bytes)];
        if twice && let Some((_, _, _, bytes)) = arrivals.first() {
            let again = at + 1 + delay;
            arrivals.push((to, far, again, bytes.clone()));
        }
        arrivals
    }

    fn draw(&self, share: f64, rng: &mut StdRng) -> bool {
        share > 0.0 && rng.random_bool(share)
    }

    /// Links that stand over a path that is cut: (link, its node).
    pub(super) fn cut_links(&self) -> Vec<(LinkId, usize)> {
        let torn = self.ends.iter().filter(|(_, end)| self.is_cut(end.node, end.far_node));
        torn.map(|(link, end)| (*link, end.node)).collect()
    }

    /// Whether a link leads nowhere: its path is cut or its far end is gone.
    pub(super) fn is_torn(&self, node: usize, link: LinkId) -> bool {
        self.ends.get(&link).filter(|end| end.node == node).is_some_and(|end| {
            self.is_cut(end.node, end.far_node)
                || self.is_clogged(end.node, end.far_node)
                || !self.ends.contains_key(&end.far)
        })
    }

    /// Opens one clogged path. What waited on it arrives at `at`, in order.
    pub(super) fn unclog(&mut self, from: usize, to: usize, at: u64) -> Vec<Arrival> {
        self.clogged.remove(&(from, to));
        self.release(at)
    }

    /// Mends all paths. What was held arrives at `at`, in order, and nothing overtakes it.
    pub(super) fn heal(&mut self, at: u64) -> Vec<Arrival> {
        self.cut.clear();
        self.clogged.clear();
        self.release(at)
    }

    /// Lets go of what is held for paths that are open again.
    pub(super) fn release(&mut self, at: u64) -> Vec<Arrival> {
        let held = std::mem::take(&mut self.held);
        let (free, stuck): (Vec<_>, Vec<_>) = held.into_iter().partition(|(to, far, _)| {
            let from = self.ends.get(far).map(|end| end.far_node);
            from.is_none_or(|from| {
                !self.cut.contains(&(from, *to)) && !self.clogged.contains(&(from, *to))
            })
        });
        self.held = stuck;
        let mut arrivals = Vec::with_capacity(free.len());
        for (to, far, bytes) in free {
            let back = self.ends.get(&far).map(|end| end.far);
            let Some(end) = back.and_then(|back| self.ends.get_mut(&back)) else { continue };
            end.last = end.last.max(at);
            end.first.get_or_insert(end.last);
            arrivals.push((to, far, end.last, bytes));
        }
        arrivals
    }
}
