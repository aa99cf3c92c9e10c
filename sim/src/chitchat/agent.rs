//! An agent: an engine and a gossip while it is up, and what it keeps while it is not.

use std::{collections::BTreeSet, sync::Arc};

use bytes::Bytes;
use skein_node::gossip::{Directory, Gossip, GossipConfig, GossipEvent, GossipPorts, Head, Hints};
use skein_protocol::{
    clock::Now,
    engine::{Anchor, Engine, Local, Start},
    limits,
    name::NodeKey,
    policy::Documents,
    record::{OwnChain, node::NodeState},
    trust::Revocations,
    view::{Liveness, View},
};
use tokio::{
    runtime::Handle,
    sync::{mpsc, watch},
    task::JoinSet,
};

use crate::{mesh::Mesh, world::Disk};

/// What gossip has for the stage.
pub(super) enum Said {
    /// A message for a peer's link.
    Message(NodeKey, Bytes),
    /// A word for the agent.
    Event(GossipEvent),
    /// Its task has ended.
    Ended(String),
}

/// Where all agents' gossip speaks.
pub(super) type Ear = mpsc::Sender<(usize, Said)>;

/// See the module.
pub(super) struct Agent {
    pub(super) number: usize,
    pub(super) key: NodeKey,
    pub(super) own: OwnChain,
    pub(super) local: Local,
    pub(super) up: Option<Up>,
    /// Counts starts and ends, so that what was meant for an earlier run is told apart.
    pub(super) epoch: u64,
    pub(super) wake: u64,
    /// Seeds that it had a link to in this run.
    pub(super) met: BTreeSet<usize>,
    /// What survives a crash.
    pub(super) disk: Disk,
    signer: Arc<dyn skein_protocol::trust::Signer>,
}

/// An agent that runs.
pub(super) struct Up {
    pub(super) engine: Engine,
    pub(super) view: Option<Arc<View>>,
    pub(super) inbound: mpsc::Sender<(NodeKey, Bytes)>,
    /// The peers that chitchat holds for live.
    pub(super) live: BTreeSet<NodeKey>,
    directory: watch::Sender<Arc<Directory>>,
    links: watch::Sender<Arc<BTreeSet<NodeKey>>>,
    hints: watch::Sender<Hints>,
    _shutdown: watch::Sender<bool>,
}

impl Agent {
    pub(super) fn new(number: usize, mesh: &Mesh) -> anyhow::Result<Self> {
        Ok(Self {
            number,
            key: mesh.key(number)?,
            own: mesh.chain(number, "shop/*")?,
            local: crate::mesh::local(number)?,
            up: None,
            epoch: 0,
            wake: u64::MAX,
            met: BTreeSet::new(),
            signer: mesh.signer(number)?,
            disk: Disk::default(),
        })
    }

    /// Starts it from its disk. Its gossip speaks into `ear`.
    pub(super) fn start(
        &mut self,
        mesh: &Mesh,
        now: Now,
        seed: u64,
        (ear, tasks): (&Ear, &mut JoinSet<()>),
    ) {
        self.epoch += 1;
        self.met.clear();
        self.wake = u64::MAX;
        let boot = self.disk.next_boot(now.wall);
        self.local.host.gossip_generation = boot;
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
            revocations: Revocations::default(),
            policies: Documents::default(),
            anchor: Anchor::Held,
            seed,
        };
        let (directory, directory_out) = watch::channel(Arc::default());
        let (links, links_out) = watch::channel(Arc::default());
        let (hints, hints_out) = watch::channel(Hints::default());
        let (inbound, inbound_out) = mpsc::channel(limits::GOSSIP_WAITING);
        let (outbound, messages) = mpsc::channel(limits::GOSSIP_WAITING);
        let (events, told) = mpsc::channel(limits::GOSSIP_WAITING);
        let (shutdown, stopped) = watch::channel(false);
        let ports = GossipPorts {
            directory: directory_out,
            links: links_out,
            outbound,
            inbound: inbound_out,
            own: hints_out,
            events,
            shutdown: stopped,
        };
        let cluster_id = cluster(mesh);
        let config = GossipConfig { me: self.key, generation: boot, cluster_id, restart: true };
        let gossip = Gossip::start(config, ports, &Handle::current());
        let number = self.number;
        tasks.spawn(carry(messages, number, ear.clone(), |(to, bytes)| Said::Message(to, bytes)));
        tasks.spawn(carry(told, number, ear.clone(), Said::Event));
        let ear = ear.clone();
        tasks.spawn(async move {
            let why =
                gossip.ended().await.map_or_else(|error| error.to_string(), |()| String::new());
            // Nobody listens any more when the stage is gone.
            let _ = ear.send((number, Said::Ended(why))).await;
        });
        self.up = Some(Up {
            engine: Engine::new(start, now),
            view: None,
            inbound,
            live: BTreeSet::new(),
            directory,
            links,
            hints,
            _shutdown: shutdown,
        });
    }

    /// Ends it at once.
    pub(super) fn crash(&mut self) {
        self.up = None;
        self.epoch += 1;
    }
}

impl Up {
    /// Shows gossip what the view says, as the agent's composer does.
    pub(super) fn show(&mut self, view: Arc<View>) {
        let members = view.nodes.values().filter(|node| node.liveness != Liveness::Left);
        let directory: Directory = members.map(|node| (node.key, node.gossip_generation)).collect();
        self.directory.send_replace(Arc::new(directory));
        let own = view.nodes.get(&view.me);
        let hints = Hints {
            head: own.map(|node| Head { sequence: node.sequence, hash: node.hash }),
            policy: Some(view.policy_root),
            state: Some(NodeState::Up),
            load: None,
        };
        self.hints.send_if_modified(|held| {
            let changed = *held != hints;
            *held = hints;
            changed
        });
        self.view = Some(view);
    }

    /// Shows gossip which links are ready.
    pub(super) fn show_links(&mut self) {
        let peers: BTreeSet<NodeKey> = self.engine.ready_links().map(|(_, peer)| peer).collect();
        self.links.send_if_modified(|held| {
            let changed = **held != peers;
            if changed {
                *held = Arc::new(peers);
            }
            changed
        });
    }

    /// The members that the engine holds for alive, without this agent.
    pub(super) fn alive(&self) -> BTreeSet<NodeKey> {
        let nodes = self.view.iter().flat_map(|view| view.nodes.values().map(|n| (view.me, n)));
        let alive = nodes.filter(|(me, n)| n.liveness == Liveness::Alive && n.key != *me);
        alive.map(|(_, node)| node.key).collect()
    }

    /// Alive members that chitchat does not hold for live: each is worth a probe.
    pub(super) fn doubted(&self) -> Vec<NodeKey> {
        self.alive().difference(&self.live).take(limits::JOIN_PEERS).copied().collect()
    }
}

/// The gossip cluster of a mesh.
pub(super) fn cluster(mesh: &Mesh) -> String {
    format!("skein/{}/main", mesh.id.trust_domain())
}

async fn carry<T>(mut from: mpsc::Receiver<T>, number: usize, ear: Ear, wrap: fn(T) -> Said) {
    while let Some(item) = from.recv().await {
        if ear.send((number, wrap(item))).await.is_err() {
            return;
        }
    }
}
