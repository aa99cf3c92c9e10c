//! Edges: who called what at this host, for people who are about to write a rule.
//!
//! Bounded: of more edges than [`limits::EDGES_MAX`] the one that was quiet longest is forgotten.
//! Kept in memory only: after a restart the next call is the first.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use skein_protocol::{
    clock::Tick,
    limits,
    name::{NodeName, ServiceName},
    wire::{
        ask::Edge,
        stream::{Source, StreamHead},
    },
};

use crate::clock::Clock;

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
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
    open: u32,
    calls: u64,
    denied: u64,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Edges {
    clock: Clock,
    seen: Mutex<BTreeMap<Key, Seen>>,
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
    pub(super) fn new(clock: Clock) -> Self {
        Self { clock, seen: Mutex::default() }
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
        let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if !all.contains_key(key) && all.len() >= limits::EDGES_MAX {
            let quiet = all.iter().min_by_key(|(_, seen)| (seen.open, seen.last));
            if let Some(quiet) = quiet.map(|(key, _)| key.clone()) {
                all.remove(&quiet);
            }
        }
        let seen = all.entry(key.clone()).or_default();
        seen.last = now;
        change(seen);
    }

    /// All of them.
    pub(super) fn all(&self) -> Vec<Edge> {
        let now = self.clock.now().tick;
        let all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let edge = |(key, seen): (&Key, &Seen)| Edge {
            source: key.source.clone(),
            node: key.node.clone(),
            outside: key.outside,
            destination: key.destination.clone(),
            port: key.port,
            age_s: match seen.open {
                0 => u32::try_from(now.since(seen.last).as_secs()).unwrap_or(u32::MAX),
                _ => 0,
            },
            calls: seen.calls,
            denied: seen.denied,
        };
        all.iter().map(edge).collect()
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
