//! Edges: who called what at this host, for people who are about to write a rule.
//!
//! Bounded: of more edges than [`limits::EDGES_MAX`] the one that was quiet longest is forgotten.
//! On disk a moment later, so that a restart knows what was called before it; and with it since
//! when calls are known here, for who goes by them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use skein_protocol::{
    clock::{Tick, Wall},
    limits,
    name::{NodeName, ServiceName},
    wire::{
        ask::Edge,
        codec,
        stream::{Source, StreamHead},
    },
};

use crate::{
    clock::{Clock, wall},
    disk::{Disk, KeptEdge, StateError},
};

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
struct Key {
    source: Option<ServiceName>,
    node: NodeName,
    outside: bool,
    destination: ServiceName,
    port: u16,
}

#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    last: Tick,
    /// How long before `last` it was: for what was there when this agent started.
    before: Duration,
    open: u32,
    calls: u64,
    denied: u64,
}

impl Seen {
    fn age(&self, now: Tick) -> Duration {
        match self.open {
            0 => now.since(self.last).saturating_add(self.before),
            _ => Duration::ZERO,
        }
    }
}

/// What is kept, and what of it the disk does not know.
#[derive(Debug, Default)]
struct Book {
    seen: BTreeMap<Key, Seen>,
    /// New since the last write.
    fresh: BTreeSet<Key>,
    /// Called again since the last write.
    changed: BTreeSet<Key>,
    forgotten: BTreeSet<Key>,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Edges {
    clock: Clock,
    book: Mutex<Book>,
    /// Since when all calls are known; `None`: since this host is in the mesh.
    since: Option<Wall>,
}

/// A call that is open: its edge is live for as long.
#[derive(Debug)]
pub(crate) struct Open {
    edges: Arc<Edges>,
    key: Key,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.edges.change(&self.key, |seen| seen.open = seen.open.saturating_sub(1));
    }
}

impl Edges {
    /// What the disk knows, and since when it knows all.
    pub(crate) fn new(clock: Clock, kept: &[KeptEdge], since: Option<Wall>) -> Self {
        let now = clock.now();
        let mut book = Book::default();
        for edge in kept.iter().take(limits::EDGES_MAX) {
            // What an older agent wrote otherwise is called again soon, or was of no matter.
            let Ok(key) = codec::decode::<{ limits::EDGE_BYTES }, Key>(&edge.key) else { continue };
            let before = now.wall.since(edge.last);
            let seen =
                Seen { last: now.tick, before, open: 0, calls: edge.calls, denied: edge.denied };
            book.seen.insert(key, seen);
        }
        Self { clock, book: Mutex::new(book), since }
    }

    /// For how long all calls are known here; `None`: for as long as this host is in the mesh.
    pub(super) fn known_for(&self) -> Option<Duration> {
        self.since.map(|since| wall().since(since))
    }

    /// Somebody called, and was carried or refused.
    pub(super) fn saw(&self, node: &NodeName, head: &StreamHead, allowed: bool) {
        self.change(&key(node, head), |seen| {
            seen.calls = seen.calls.saturating_add(u64::from(allowed));
            seen.denied = seen.denied.saturating_add(u64::from(!allowed));
        });
    }

    /// Counts a call as open until what comes back is dropped.
    pub(super) fn open(self: &Arc<Self>, node: &NodeName, head: &StreamHead) -> Open {
        let key = key(node, head);
        self.change(&key, |seen| seen.open = seen.open.saturating_add(1));
        Open { edges: Arc::clone(self), key }
    }

    fn change(&self, key: &Key, change: impl FnOnce(&mut Seen)) {
        let now = self.clock.now().tick;
        // What a panicking holder left is a count: good enough.
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let book = &mut *book;
        if !book.seen.contains_key(key) {
            if book.seen.len() >= limits::EDGES_MAX {
                let quiet = book
                    .seen
                    .iter()
                    .min_by_key(|(_, seen)| (seen.open, std::cmp::Reverse(seen.age(now))));
                if let Some(quiet) = quiet.map(|(key, _)| key.clone()) {
                    book.seen.remove(&quiet);
                    book.fresh.remove(&quiet);
                    book.changed.remove(&quiet);
                    book.forgotten.insert(quiet);
                }
            }
            book.fresh.insert(key.clone());
            book.forgotten.remove(key);
        } else if !book.changed.contains(key) {
            book.changed.insert(key.clone());
        }
        let seen = book.seen.entry(key.clone()).or_default();
        (seen.last, seen.before) = (now, Duration::ZERO);
        change(seen);
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<Edge> {
        let now = self.clock.now().tick;
        let book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        let edge = |(key, seen): (&Key, &Seen)| Edge {
            source: key.source.clone(),
            node: key.node.clone(),
            outside: key.outside,
            destination: key.destination.clone(),
            port: key.port,
            age_s: u32::try_from(seen.age(now).as_secs()).unwrap_or(u32::MAX),
            calls: seen.calls,
            denied: seen.denied,
        };
        book.seen.iter().map(edge).collect()
    }

    /// Writes what the disk does not know: edges that are new, and with `all` those that were
    /// called again.
    pub(crate) fn keep(&self, disk: &Disk, all: bool) -> Result<(), StateError> {
        let now = self.clock.now();
        let (rows, gone) = {
            let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
            let mut due = std::mem::take(&mut book.fresh);
            if all {
                due.append(&mut book.changed);
            }
            let gone = std::mem::take(&mut book.forgotten);
            let rows: Vec<(Key, Seen)> = due
                .into_iter()
                .filter_map(|key| Some((key.clone(), *book.seen.get(&key)?)))
                .collect();
            (rows, gone)
        };
        if rows.is_empty() && gone.is_empty() {
            return Ok(());
        }
        let bytes = |key: &Key| codec::encode::<{ limits::EDGE_BYTES }, _>(key).ok();
        let kept = rows.iter().filter_map(|(key, seen)| {
            let last = now.wall.before(seen.age(now.tick));
            Some(KeptEdge { key: bytes(key)?, last, calls: seen.calls, denied: seen.denied })
        });
        let kept: Vec<KeptEdge> = kept.collect();
        let forgotten: Vec<Vec<u8>> = gone.iter().filter_map(bytes).collect();
        disk.keep_edges(&kept, &forgotten).inspect_err(|_| {
            let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
            book.fresh.extend(rows.into_iter().map(|(key, _)| key));
            let gone = gone.into_iter().filter(|key| !book.seen.contains_key(key));
            let gone: Vec<Key> = gone.collect();
            book.forgotten.extend(gone.into_iter().take(limits::EDGES_MAX));
        })
    }
}

fn key(node: &NodeName, head: &StreamHead) -> Key {
    Key {
        source: match &head.source {
            Source::Service(service) => Some(service.clone()),
            Source::Node => None,
        },
        node: node.clone(),
        outside: head.outside(),
        destination: head.destination.clone(),
        port: head.port,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn called(edges: &Edges, source: &str) {
        let key = Key {
            source: Some(source.parse().unwrap()),
            node: "a".parse().unwrap(),
            outside: false,
            destination: "shop/api".parse().unwrap(),
            port: 80,
        };
        edges.change(&key, |seen| seen.calls += 1);
    }

    fn sources(edges: &Edges) -> Vec<(String, u64)> {
        let all = edges.all();
        all.iter().map(|edge| (edge.source.as_ref().unwrap().to_string(), edge.calls)).collect()
    }

    #[test]
    fn who_called_before_a_restart_is_known_after_it() {
        let directory = tempfile::tempdir().unwrap();
        let (disk, remembered) = Disk::open(directory.path(), Wall(1000)).unwrap();
        assert_eq!((remembered.edges.len(), remembered.calls_known_since), (0, None));
        let edges = Edges::new(Clock::start(), &[], None);
        assert_eq!(edges.known_for(), None);
        called(&edges, "shop/web");
        edges.keep(&disk, false).unwrap();
        called(&edges, "shop/web");
        called(&edges, "shop/lab");
        edges.keep(&disk, true).unwrap();
        disk.know_calls_since(Wall(7)).unwrap();
        drop(disk);
        let (disk, remembered) = Disk::open(directory.path(), Wall(1000)).unwrap();
        assert_eq!(remembered.calls_known_since, Some(Wall(7)));
        let again = Edges::new(Clock::start(), &remembered.edges, Some(Wall(7)));
        let told = [("shop/lab".to_owned(), 1), ("shop/web".to_owned(), 2)];
        assert_eq!(sources(&again), told);
        assert!(again.all().iter().all(|edge| edge.age_s < 60));
        assert!(again.known_for().unwrap() > Duration::from_secs(86_400));
        // It goes on from there, and its age is that of the last call.
        let mut old = remembered.edges;
        old.iter_mut().for_each(|edge| edge.last = wall().before(Duration::from_secs(5000)));
        let older = Edges::new(Clock::start(), &old, None);
        assert!(older.all().iter().all(|edge| (5000..5060).contains(&edge.age_s)));
        called(&older, "shop/web");
        let ages: Vec<bool> = older.all().iter().map(|edge| edge.age_s < 60).collect();
        assert_eq!(ages, [false, true]);
        drop(disk);
    }

    #[test]
    fn what_is_forgotten_is_forgotten_on_disk_too() {
        let directory = tempfile::tempdir().unwrap();
        let (disk, _) = Disk::open(directory.path(), Wall(1000)).unwrap();
        let edges = Edges::new(Clock::start(), &[], None);
        for number in 0..limits::EDGES_MAX + 3 {
            called(&edges, &format!("shop/s{number}"));
            if number % 1000 == 0 {
                edges.keep(&disk, false).unwrap();
            }
        }
        edges.keep(&disk, false).unwrap();
        assert_eq!(disk.edges().unwrap().len(), limits::EDGES_MAX);
        assert_eq!(edges.all().len(), limits::EDGES_MAX);
    }
}
