//! The store: every node record that is believed, and a floor under each origin.
//!
//! In:    `Verified` records.       Out: heads, bodies, the records root, proofs of forks.
//! Never: holds what was not verified, goes below a floor, holds more than
//!        `limits::NODES_MAX` origins.

pub mod heads;

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

pub use heads::{Head, Standing};

use crate::{
    clock::Wall,
    limits,
    name::{Hash, NodeKey},
    planted::{Planted, planted},
    record::{Bundle, Verified},
};

/// What became of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stored {
    /// It is the newest of its origin now.
    New,
    /// Another content at the sequence of the one held; both are kept as proof.
    Fork {
        /// Whether it is the newest now.
        wins: bool,
    },
    /// It was known, or is below the floor.
    Known,
    /// A further origin would be over [`limits::NODES_MAX`].
    Full,
}

/// Two contents of one origin at one sequence: it signed both.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ForkProof {
    /// The sequence.
    pub sequence: u64,
    /// The boot in which it happened, where it can be read; a later boot heals.
    pub boot: Option<u64>,
    /// Both records, and what names them.
    pub bundles: [(Hash, Arc<Bundle>); 2],
}

#[derive(Clone, Debug)]
struct Entry {
    head: Head,
    body: Option<Verified>,
    /// Until when the head stays as a floor when its body is gone.
    floor_until: Wall,
    fork: Option<Box<ForkProof>>,
    /// Its key has ended: it is kept for people and as a floor, and told to nobody.
    ended: bool,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Store {
    entries: BTreeMap<NodeKey, Entry>,
    roots: heads::Roots,
}

impl Store {
    /// The head held of an origin.
    pub fn head(&self, origin: &NodeKey) -> Option<Head> {
        self.entries.get(origin).map(|entry| entry.head)
    }

    /// The body held of an origin.
    pub fn body(&self, origin: &NodeKey) -> Option<&Verified> {
        self.entries.get(origin)?.body.as_ref()
    }

    /// The proof that an origin signed two contents at one sequence of its present boot.
    pub fn fork(&self, origin: &NodeKey) -> Option<&ForkProof> {
        let entry = self.entries.get(origin)?;
        let boot = boot(entry.body.as_ref()?);
        entry.fork.as_deref().filter(|proof| proof.boot == boot)
    }

    /// Whether that content of an origin is one of a proof that is held.
    pub fn proven(&self, origin: &NodeKey, head: Head) -> bool {
        let proof = self.entries.get(origin).and_then(|entry| entry.fork.as_ref());
        proof.is_some_and(|proof| {
            proof.sequence == head.sequence && proof.bundles.iter().any(|(h, _)| *h == head.hash)
        })
    }

    /// All bodies, by origin.
    pub fn bodies(&self) -> impl Iterator<Item = (&NodeKey, &Verified)> {
        self.entries.iter().filter_map(|(key, entry)| Some((key, entry.body.as_ref()?)))
    }

    /// Heads from `from` on, by origin, at most `count`.
    pub fn heads_from(&self, from: NodeKey, count: usize) -> Vec<(NodeKey, Head)> {
        let range = (Bound::Included(from), Bound::Unbounded);
        let told = self.entries.range(range).filter(|(_, entry)| !entry.ended);
        told.take(count).map(|(key, entry)| (*key, entry.head)).collect()
    }

    /// Judges every origin again: what has ended is in no root and told to nobody, so that nodes
    /// that agree on which keys have ended agree on the rest.
    pub fn end(&mut self, has_ended: impl Fn(&Verified) -> bool) {
        if planted(Planted::CountEnded) {
            return;
        }
        for entry in self.entries.values_mut() {
            if let Some(body) = &entry.body {
                entry.ended = has_ended(body);
            }
        }
        self.roots.all_changed();
    }

    /// What is held of an origin and may be told to others.
    pub fn told(&self, origin: &NodeKey) -> Option<&Verified> {
        let entry = self.entries.get(origin).filter(|entry| !entry.ended)?;
        entry.body.as_ref()
    }

    /// Heads within a range of origins, both ends included.
    pub fn heads_between(
        &self,
        from: NodeKey,
        to: NodeKey,
    ) -> impl Iterator<Item = (NodeKey, Head)> + '_ {
        between(&self.entries, from, to)
    }

    /// How many origins are held, floors counted.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The hash over all heads whose keys have not ended.
    pub fn root(&mut self) -> Hash {
        let entries = &self.entries;
        self.roots.root(|from, to| between(entries, from, to))
    }

    /// The hash over the heads of each part of the keys' range, of which the root is made.
    pub fn parts(&mut self) -> [Hash; heads::PARTS] {
        let entries = &self.entries;
        self.roots.parts(|from, to| between(entries, from, to))
    }

    /// Takes a verified record.
    pub fn insert(&mut self, record: Verified) -> Stored {
        let origin = record.header().origin;
        let head = Head { sequence: record.header().sequence, hash: record.hash() };
        match head.against(self.head(&origin)) {
            Standing::Same => self.restore_body(origin, record),
            Standing::Older if planted(Planted::SkipFloor) => self.put(origin, head, record),
            Standing::Fork { .. } if planted(Planted::LastWins) => self.put(origin, head, record),
            Standing::Older => Stored::Known,
            Standing::Newer => self.put(origin, head, record),
            Standing::Fork { wins } => self.fork_with(origin, head, record, wins),
        }
    }

    /// Drops the body of an origin; its head stays as a floor.
    pub fn drop_body(&mut self, origin: &NodeKey) {
        if let Some(entry) = self.entries.get_mut(origin) {
            entry.body = None;
        }
    }

    /// Drops floors whose time is over. Roots of agents differ until all have: floors are kept
    /// so long that this is long after anyone could offer the record again.
    pub fn drop_floors(&mut self, now: Wall) {
        let before = self.entries.len();
        self.entries.retain(|_, entry| entry.body.is_some() || entry.floor_until > now);
        if self.entries.len() != before {
            self.roots.all_changed();
        }
    }

    fn put(&mut self, origin: NodeKey, head: Head, record: Verified) -> Stored {
        if !self.entries.contains_key(&origin) && self.entries.len() >= limits::NODES_MAX {
            return Stored::Full;
        }
        let floor_until = record.chain().not_after.after(limits::FLOOR_KEEP);
        let fork = self.entries.remove(&origin).and_then(|entry| entry.fork);
        let entry = Entry { head, body: Some(record), floor_until, fork, ended: false };
        self.entries.insert(origin, entry);
        self.roots.changed(&origin);
        Stored::New
    }

    fn restore_body(&mut self, origin: NodeKey, record: Verified) -> Stored {
        if let Some(entry) = self.entries.get_mut(&origin)
            && entry.body.is_none()
        {
            entry.body = Some(record);
            return Stored::New;
        }
        Stored::Known
    }

    fn fork_with(&mut self, origin: NodeKey, head: Head, record: Verified, wins: bool) -> Stored {
        if self.proven(&origin, head) {
            return Stored::Known;
        }
        let Some(entry) = self.entries.get_mut(&origin) else { return Stored::Known };
        let Some(held) = &entry.body else {
            // The body of the other is gone, so nothing can be proven: the lower hash stays.
            return if wins { self.put(origin, head, record) } else { Stored::Known };
        };
        if entry.fork.as_ref().is_none_or(|proof| proof.sequence < head.sequence) {
            entry.fork = Some(Box::new(ForkProof {
                sequence: head.sequence,
                boot: boot(held),
                bundles: [
                    (held.hash(), Arc::clone(held.bundle())),
                    (record.hash(), Arc::clone(record.bundle())),
                ],
            }));
        } else if !wins {
            // It has been proven already, and this third content changes nothing.
            return Stored::Known;
        }
        if wins {
            entry.head = head;
            entry.body = Some(record);
            self.roots.changed(&origin);
        }
        Stored::Fork { wins }
    }
}

/// Heads within a range of origins whose keys have not ended.
fn between(
    entries: &BTreeMap<NodeKey, Entry>,
    from: NodeKey,
    to: NodeKey,
) -> impl Iterator<Item = (NodeKey, Head)> + '_ {
    let known = from <= to;
    let range = if known { (from, to) } else { (to, to) };
    entries
        .range((Bound::Included(range.0), Bound::Included(range.1)))
        .filter(move |(_, entry)| known && !entry.ended)
        .map(|(key, entry)| (*key, entry.head))
}

fn boot(record: &Verified) -> Option<u64> {
    record.content().map(|content| content.host.boot)
}
