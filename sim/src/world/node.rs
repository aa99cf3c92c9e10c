//! A node: an engine while it is up, and what it keeps while it is not.

use std::{collections::BTreeSet, sync::Arc};

use skein_protocol::{
    clock::Now,
    engine::{Engine, Local, Start},
    name::{MeshId, NodeKey},
    record::OwnChain,
    trust::{Revocations, Roots, Signer, VerifiedChain, revocation::Statement},
    view::View,
};

use super::Disk;
use crate::crypto::{KeyedHash, SimKey};

/// See the module.
pub struct Node {
    /// Its identity.
    pub key: NodeKey,
    /// The engine, while the node is up.
    pub engine: Option<Engine>,
    /// What it says of itself.
    pub local: Local,
    /// What survives a crash.
    pub disk: Disk,
    /// The last view that it showed.
    pub view: Option<Arc<View>>,
    /// By how many milliseconds its clock is ahead.
    pub skew: i64,
    /// Seeds that it had a link to in this run.
    pub(super) met: BTreeSet<usize>,
    pub(super) epoch: u64,
    pub(super) wake: u64,
    signer: SimKey,
    own: OwnChain,
}

impl Node {
    pub(super) fn new(signer: SimKey, own: OwnChain, local: Local) -> Self {
        Self {
            key: NodeKey(signer.public_key()),
            engine: None,
            local,
            disk: Disk::default(),
            view: None,
            skew: 0,
            met: BTreeSet::new(),
            epoch: 0,
            wake: u64::MAX,
            signer,
            own,
        }
    }

    /// A host with the same key, certificate and disk.
    pub(super) fn twin(&self) -> Self {
        let mut twin = Self::new(self.signer, self.own.clone(), self.local.clone());
        twin.disk = self.disk.clone();
        twin
    }

    pub(super) fn chain(&self) -> Arc<VerifiedChain> {
        Arc::new(self.own.verified.clone())
    }

    /// Gives the node another certificate, for its next start.
    pub fn certify(&mut self, own: OwnChain) {
        self.own = own;
    }

    /// Its chain in both forms.
    pub fn own(&self) -> &OwnChain {
        &self.own
    }

    /// Its key.
    pub fn signer(&self) -> SimKey {
        self.signer
    }

    pub(super) fn start(&mut self, mesh: (MeshId, Arc<Roots>), now: Now, seed: u64) -> u64 {
        self.epoch += 1;
        self.met.clear();
        self.wake = u64::MAX;
        self.disk.boot = (self.disk.boot + 1).max(now.wall.0);
        let start = Start {
            mesh: mesh.0,
            roots: Arc::clone(&mesh.1),
            own: self.own.clone(),
            signer: Arc::new(self.signer),
            local: self.local.clone(),
            boot: self.disk.boot,
            reserved: self.disk.reserved,
            peers: self.disk.peers.values().cloned().collect(),
            revocations: self.revocations(&mesh.1),
            seed,
        };
        self.engine = Some(Engine::new(start, now));
        self.epoch
    }

    fn revocations(&self, roots: &Roots) -> Revocations {
        let mut revocations = Revocations::default();
        let statements = self.disk.revocations.values().filter_map(|b| Statement::decode(b).ok());
        for verified in statements.filter_map(|s| s.verify(roots, &KeyedHash).ok()) {
            // It was taken once, so there is room for it.
            let _ = revocations.insert(verified, roots);
        }
        revocations
    }

    pub(super) fn crash(&mut self) {
        self.engine = None;
        self.view = None;
        self.epoch += 1;
    }
}
