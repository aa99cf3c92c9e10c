//! A node: an engine while it is up, what it keeps while it is not, and what is wrong with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use skein_protocol::{
    clock::{Now, Tick, Wall},
    engine::{Anchor, Engine, Local, Start},
    name::{Hash, NodeKey},
    policy::{Documents, Policy, PolicyBundle, SignedVersion},
    record::OwnChain,
    trust::{Revocations, Signer, VerifiedChain, join::PolicyHead, revocation::Statement},
    view::View,
};

use super::Disk;
use crate::mesh::{EPOCH, Mesh};

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
    /// By how many milliseconds its wall clock is ahead.
    pub skew: i64,
    /// By how many millionths its clocks run fast.
    pub drift: i64,
    /// Milliseconds for which its monotonic clock stood still.
    pub stalled: u64,
    /// Until when it runs nothing; what comes meanwhile waits.
    pub paused_until: u64,
    /// Whether its engine keeps back what others said: what a silent relay does.
    pub silent: bool,
    /// Whether it says of everybody that it hears of them, whoever asks.
    pub shields: bool,
    /// The record over which its checks break: a bug of its version.
    pub breaks_on: Option<Hash>,
    /// Whether it lost what it had written, so that it may say something twice in two ways.
    pub forgot: bool,
    /// The keys that it knows to have ended.
    pub ended: Option<Arc<Revocations>>,
    /// The mesh-wide documents that are in force on it.
    pub policy: Option<Arc<Policy>>,
    /// What an issuer's answer listed when this host was let in again, after its disk was lost.
    pub listed: Option<Vec<PolicyHead>>,
    /// Whether it takes no calls, since it may not know the mesh's policy.
    pub probation: bool,
    /// Bytes that it sent, by kind of frame.
    pub sent: BTreeMap<u8, u64>,
    /// When its wall clock was set last.
    pub clock_set: u64,
    /// When what it says of itself changed last.
    pub changed: u64,
    /// Since when it is up.
    pub up_since: u64,
    /// Seeds that it had a link to in this run.
    pub(super) met: BTreeSet<usize>,
    pub(super) epoch: u64,
    /// When it is woken next, in the world's time.
    pub(super) wake: u64,
    signer: Arc<dyn Signer>,
    own: OwnChain,
}

impl Node {
    pub(super) fn new(signer: Arc<dyn Signer>, own: OwnChain, local: Local) -> Self {
        Self {
            key: NodeKey(signer.public_key()),
            engine: None,
            local,
            disk: Disk::joined(),
            view: None,
            skew: 0,
            drift: 0,
            stalled: 0,
            paused_until: 0,
            silent: false,
            shields: false,
            breaks_on: None,
            forgot: false,
            ended: None,
            policy: None,
            listed: None,
            probation: false,
            sent: BTreeMap::new(),
            clock_set: 0,
            changed: 0,
            up_since: 0,
            met: BTreeSet::new(),
            epoch: 0,
            wake: u64::MAX,
            signer,
            own,
        }
    }

    /// A host with the same key, certificate and disk.
    pub(super) fn twin(&self) -> Self {
        let mut twin = Self::new(Arc::clone(&self.signer), self.own.clone(), self.local.clone());
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
    pub fn signer(&self) -> &dyn Signer {
        &*self.signer
    }

    /// What its clocks show at `now` of the world.
    pub fn clock(&self, now: u64) -> Now {
        let scaled = |ms: u64| {
            let fast = i128::from(ms) * i128::from(self.drift) / 1_000_000;
            ms.saturating_add_signed(i64::try_from(fast).unwrap_or_default())
        };
        let wall = EPOCH.0.saturating_add(scaled(now)).saturating_add_signed(self.skew);
        let tick = scaled(now).saturating_sub(self.stalled);
        Now { tick: Tick(tick), wall: Wall(wall) }
    }

    pub(super) fn start(&mut self, mesh: &Mesh, at: u64, seed: u64) -> u64 {
        let now = self.clock(at);
        self.epoch += 1;
        self.met.clear();
        self.wake = u64::MAX;
        self.up_since = at;
        let boot = self.disk.next_boot(now.wall);
        self.local.host.gossip_generation = boot;
        let revocations = self.revocations(mesh);
        self.ended = Some(Arc::new(revocations.clone()));
        let start = Start {
            mesh: mesh.id,
            roots: Arc::clone(&mesh.roots),
            chain: mesh.chain.clone(),
            own: self.own.clone(),
            signer: Arc::clone(&self.signer),
            local: self.local.clone(),
            boot,
            reserved: self.disk.reserved,
            peers: self.disk.peers.values().cloned().collect(),
            policies: self.policies(mesh, &revocations),
            revocations,
            anchor: self.anchor(),
            seed,
        };
        self.policy = Some(Arc::new(Policy::of(start.policies.clone())));
        let engine = Engine::new(start, now);
        self.probation = engine.on_probation();
        self.engine = Some(engine);
        self.epoch
    }

    fn anchor(&self) -> Anchor {
        match &self.listed {
            _ if self.disk.anchored => Anchor::Held,
            Some(listed) => Anchor::Listed(listed.clone()),
            None => Anchor::Lacks,
        }
    }

    fn revocations(&self, mesh: &Mesh) -> Revocations {
        let mut revocations = Revocations::default();
        let crypto = mesh.signatures.crypto();
        let statements = self.disk.revocations.values().filter_map(|b| Statement::decode(b).ok());
        for verified in statements.filter_map(|s| s.verify(&mesh.roots, crypto).ok()) {
            // It was taken once, so there is room for it.
            let _ = revocations.insert(verified, &mesh.roots);
        }
        revocations
    }

    fn policies(&self, mesh: &Mesh, revocations: &Revocations) -> Documents {
        let mut documents = Documents::default();
        let bundles = self.disk.policies.values().filter_map(|b| PolicyBundle::decode(b).ok());
        let crypto = mesh.signatures.crypto();
        let signed = bundles.filter_map(|b| SignedVersion::parse(Arc::new(b), mesh.id).ok());
        for version in signed.filter_map(|s| s.verify(&mesh.roots, crypto).ok()) {
            if version.stands(revocations) {
                documents.insert(Arc::new(version));
            }
        }
        documents
    }

    pub(super) fn crash(&mut self) {
        self.engine = None;
        self.view = None;
        self.policy = None;
        self.epoch += 1;
        self.paused_until = 0;
        self.forgot |= self.disk.crash();
    }
}
