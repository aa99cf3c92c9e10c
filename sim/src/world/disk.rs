//! A disk: keeps what was written, fails when it is full, loses what it said it had written, can
//! be set back or copied.

use std::{collections::BTreeMap, sync::Arc};

use skein_protocol::{
    clock::Wall,
    engine::{Input, PersistId, Write},
    name::{Hash, NodeKey},
    record::Bundle,
};

/// What survives a crash.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    /// The last boot.
    pub boot: u64,
    /// Sequences below this may have been used.
    pub reserved: u64,
    /// Records of peers and of this host.
    pub peers: BTreeMap<NodeKey, Arc<Bundle>>,
    /// Keys that have ended.
    pub revocations: BTreeMap<Hash, Vec<u8>>,
    /// Versions of mesh-wide documents.
    pub policies: BTreeMap<Hash, Vec<u8>>,
    /// Whether it has held the mesh's policy.
    pub anchored: bool,
    /// Whether writes fail.
    pub full: bool,
    /// What is really on it, while it lies about what it has written.
    safe: Option<Box<Self>>,
}

impl Disk {
    /// The disk of a host that has joined, and heard what the policy is.
    pub fn joined() -> Self {
        Self { anchored: true, ..Self::default() }
    }

    /// The boot of a start at `wall`, which is written before it is used.
    pub fn next_boot(&mut self, wall: Wall) -> u64 {
        self.boot = (self.boot + 1).max(wall.0);
        self.boot
    }

    /// Does a write, all of it or nothing, and says so.
    pub fn write(&mut self, id: PersistId, writes: Vec<Write>) -> Input {
        if self.full {
            return Input::PersistFailed(id, "no space left on device".to_owned());
        }
        for write in writes {
            match write {
                Write::Reserve(upto) => self.reserved = self.reserved.max(upto),
                Write::Peer(key, bundle) => {
                    self.peers.insert(key, bundle);
                }
                Write::Forget(key) => {
                    self.peers.remove(&key);
                }
                Write::Revocation(id, bytes) => {
                    self.revocations.insert(id, bytes);
                }
                Write::Policy(version, bytes) => {
                    self.policies.insert(version, bytes);
                }
                Write::ForgetPolicy(version) => {
                    self.policies.remove(&version);
                }
                Write::Anchored(held) => self.anchored = held,
            }
        }
        Input::Persisted(id)
    }

    /// From now on what is written is gone after a crash, though the disk says it is there.
    pub fn lose_writes(&mut self) {
        if self.safe.is_none() {
            self.safe = Some(Box::new(self.clone()));
        }
    }

    /// The machine ends. True when something that was called written is lost.
    pub(super) fn crash(&mut self) -> bool {
        match self.safe.take() {
            Some(safe) => {
                *self = *safe;
                true
            }
            None => false,
        }
    }
}
