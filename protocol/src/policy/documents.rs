//! The documents of the mesh: of each the versions that nothing known supersedes.
//!
//! A join: in whatever order versions come, the same ones stay. What was superseded never
//! returns, since what superseded it lists it; a deletion is a version like any other.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    Head, Heads,
    version::{PolicyKey, VerifiedVersion},
};
use crate::{
    limits,
    name::Hash,
    planted::{Planted, planted},
    trust::join::PolicyHead,
};

/// What became of a version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Taken {
    /// It is a head now, in the place of these.
    New {
        /// Versions that it superseded, or that were one too many.
        gone: Vec<Hash>,
    },
    /// It was one already.
    Known,
    /// A head was made in its knowledge.
    Superseded,
    /// A further document would be over [`limits::POLICY_DOCUMENTS`].
    Full,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Documents {
    heads: BTreeMap<PolicyKey, Vec<Arc<VerifiedVersion>>>,
    versions: BTreeMap<Hash, PolicyKey>,
    root: Hash,
}

impl Default for Documents {
    fn default() -> Self {
        Self { heads: BTreeMap::new(), versions: BTreeMap::new(), root: root_of([].iter()) }
    }
}

fn root_of<'a>(versions: impl Iterator<Item = &'a Hash>) -> Hash {
    let mut bytes = b"skein/policies/v1\0".to_vec();
    versions.for_each(|version| bytes.extend_from_slice(&version.0));
    Hash::of(&[&bytes])
}

impl Documents {
    /// Whether a version would change anything.
    pub fn wants(&self, new: &VerifiedVersion) -> bool {
        !self.versions.contains_key(&new.version())
            && (planted(Planted::RuleReturns)
                || !self.of(new.key()).iter().any(|head| head.supersedes(new)))
    }

    /// Takes a verified version.
    pub fn insert(&mut self, new: Arc<VerifiedVersion>) -> Taken {
        if self.versions.contains_key(&new.version()) {
            return Taken::Known;
        }
        if !self.heads.contains_key(new.key()) && self.heads.len() >= limits::POLICY_DOCUMENTS {
            return Taken::Full;
        }
        let heads = self.heads.entry(new.key().clone()).or_default();
        if heads.iter().any(|head| head.supersedes(&new)) && planted(Planted::RuleReturns) {
            heads.clear();
        } else if heads.iter().any(|head| head.supersedes(&new)) {
            return Taken::Superseded;
        }
        let (version, key) = (new.version(), new.key().clone());
        let mut gone = Vec::new();
        heads.retain(|head| {
            let stays = !new.supersedes(head);
            if !stays {
                gone.push(head.version());
            }
            stays
        });
        heads.push(new);
        heads.sort_by_key(|head| (head.lineage().generation, head.version()));
        // Nine people that edit one document and none sees another: the newest eight stay.
        while heads.len() > limits::POLICY_HEADS {
            gone.push(heads.remove(0).version());
        }
        self.versions.insert(version, key);
        for version in &gone {
            self.versions.remove(version);
        }
        self.root = root_of(self.versions.keys());
        Taken::New { gone }
    }

    /// Takes out every version that is one of those; gives their names.
    pub fn end(&mut self, ended: impl Fn(&VerifiedVersion) -> bool) -> Vec<Hash> {
        let mut gone = Vec::new();
        for heads in self.heads.values_mut() {
            heads.retain(|head| {
                let ends = ended(head);
                if ends {
                    gone.push(head.version());
                }
                !ends
            });
        }
        self.heads.retain(|_, heads| !heads.is_empty());
        for version in &gone {
            self.versions.remove(version);
        }
        self.root = root_of(self.versions.keys());
        gone
    }

    /// The hash over all heads: equal where the same documents are held.
    pub fn root(&self) -> Hash {
        self.root
    }

    /// Whether that version is a head here.
    pub fn holds(&self, version: &Hash) -> bool {
        self.versions.contains_key(version)
    }

    /// Whether that version is a head here, or one that is supersedes it.
    pub fn covers(&self, head: &PolicyHead) -> bool {
        let over = |one: &Arc<VerifiedVersion>| one.covers(head.generation, head.version);
        let mut of = self.heads.iter().filter(|(key, _)| key.hash() == head.document);
        self.holds(&head.version) || of.any(|(_, heads)| heads.iter().any(over))
    }

    /// All heads, in brief, if there are at most `count`.
    pub fn listed(&self, count: usize) -> Option<Vec<PolicyHead>> {
        let heads = self.heads.iter().flat_map(|(key, heads)| {
            heads.iter().map(|head| PolicyHead {
                document: key.hash(),
                generation: head.lineage().generation,
                version: head.version(),
            })
        });
        (self.versions.len() <= count).then(|| heads.collect())
    }

    /// The heads of one document; more than one: they did not know of each other.
    pub fn of(&self, key: &PolicyKey) -> &[Arc<VerifiedVersion>] {
        self.heads.get(key).map_or(&[], Vec::as_slice)
    }

    /// Every document with its heads.
    pub fn iter(&self) -> impl Iterator<Item = (&PolicyKey, &[Arc<VerifiedVersion>])> {
        self.heads.iter().map(|(key, heads)| (key, heads.as_slice()))
    }

    /// How many documents there are, deleted ones among them.
    pub fn len(&self) -> usize {
        self.heads.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.heads.is_empty()
    }

    /// Versions from `from` on, sorted, at most `count`.
    pub fn versions_from(&self, from: Hash, count: usize) -> Vec<Hash> {
        self.versions.range(from..).take(count).map(|(version, _)| *version).collect()
    }

    /// Heads whose versions lie within a range, both ends included.
    pub fn between(&self, from: Hash, to: Hash) -> impl Iterator<Item = &Arc<VerifiedVersion>> {
        let within = self.versions.range(from..).take_while(move |(version, _)| **version <= to);
        within.filter_map(|(version, key)| {
            self.of(key).iter().find(|head| head.version() == *version)
        })
    }

    /// What decides: the heads of every document of a kind that this agent knows.
    pub fn in_force(&self) -> Heads {
        let head = |one: &Arc<VerifiedVersion>| Head {
            generation: one.lineage().generation,
            version: one.version(),
            content: one.content().clone(),
        };
        let known = self.heads.iter().filter_map(|(key, heads)| Some((key.document()?, heads)));
        known.map(|(id, heads)| (id, heads.iter().map(head).collect())).collect()
    }
}
