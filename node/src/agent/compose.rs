//! Composition while the agent runs: whenever documents, checks, the view or the agent's own
//! phase change, what depends on them is made anew and handed on.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::Ipv4Addr,
    sync::Arc,
};

use skein_protocol::{
    engine::Input,
    name::{NodeKey, ServiceName},
    view::{Liveness, View},
    wire::stream::Source,
};
use tokio::sync::watch;

use super::{
    local::{self, Base, Phase},
    show::Agent,
};
use crate::{
    disk::Disk,
    gossip::{Directory, Head, Hints},
    proxy::{
        Bind, ListenerSpec, Listeners, LocalServices, PeerIdentity,
        virtual_address::{AddressBook, Occupied, plan, wildcard_ports},
    },
    workload::Snapshot,
};

/// The subject of what documents ask for and this version does not do.
pub(super) const NOT_DONE: &str = "not in this version";

/// See the module.
pub(super) struct Composer {
    pub(super) agent: Arc<Agent>,
    pub(super) base: Base,
    pub(super) identity: PeerIdentity,
    pub(super) boot: u64,
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) serves: watch::Sender<Arc<LocalServices>>,
    pub(super) listeners: watch::Sender<Arc<Listeners>>,
    pub(super) directory: watch::Sender<Arc<Directory>>,
    pub(super) peers: watch::Sender<Arc<BTreeSet<NodeKey>>>,
    pub(super) hints: watch::Sender<Hints>,
}

impl Composer {
    pub(super) async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        let mut snapshot = self.agent.workload.snapshot.clone();
        let mut view = self.agent.view.clone();
        let mut links = self.agent.links.clone();
        let mut bound = self.agent.bound.subscribe();
        let first = Arc::clone(&snapshot.borrow_and_update());
        self.said(&first).await;
        let first = Arc::clone(&view.borrow_and_update());
        self.seen(&first);
        self.listen().await;
        loop {
            tokio::select! {
                biased;
                () = crate::stop::stopped(&mut stopped) => return,
                Ok(()) = self.phase.changed() => {
                    self.phase.mark_unchanged();
                    let now = Arc::clone(&snapshot.borrow());
                    self.said(&now).await;
                }
                Ok(()) = snapshot.changed() => {
                    let now = Arc::clone(&snapshot.borrow_and_update());
                    self.said(&now).await;
                    self.listen().await;
                }
                Ok(()) = bound.changed() => self.listen().await,
                Ok(()) = links.changed() => {
                    let peers = links.borrow_and_update().keys().copied().collect();
                    self.peers.send_replace(Arc::new(peers));
                }
                Ok(()) = view.changed() => {
                    let now = Arc::clone(&view.borrow_and_update());
                    self.seen(&now);
                    self.agent.proxy.retain(&now);
                    self.listen().await;
                }
            }
        }
    }

    /// What this host says and serves.
    async fn said(&self, snapshot: &Snapshot) {
        let phase = self.phase.borrow().clone();
        let serves = local::serve(&self.identity, self.boot, &phase, snapshot);
        self.serves.send_replace(Arc::new(serves));
        let said = local::say(&self.base, &phase, snapshot);
        self.agent.driver.input(Input::Local(Box::new(said))).await;
        self.agent.said.send_replace((snapshot.number, phase));
    }

    /// What gossip and metrics need of a view.
    fn seen(&self, view: &View) {
        let directory: Directory = view
            .nodes
            .values()
            .filter(|node| node.liveness != Liveness::Left)
            .map(|node| (node.key, node.gossip_generation))
            .collect();
        self.directory.send_replace(Arc::new(directory));
        let own = view.nodes.get(&view.me);
        let hints = Hints {
            head: own.map(|node| Head { sequence: node.sequence, hash: node.hash }),
            policy: Some(view.policy_root),
            state: Some(self.phase.borrow().state),
            load: None,
        };
        self.hints.send_if_modified(|held| {
            let changed = *held != hints;
            *held = hints;
            changed
        });
        self.agent.metrics.set_services(view.services.keys());
    }

    /// The listeners of documents and of virtual addresses.
    async fn listen(&self) {
        let snapshot = Arc::clone(&self.agent.workload.snapshot.borrow());
        let view = Arc::clone(&self.agent.view.borrow());
        let bind = self.agent.settings.bind;
        let (mut wanted, waiting) = local::listeners(&snapshot, &view, bind, &self.identity.grant);
        self.agent.problems.set_all("discovery", waiting);
        self.agent.problems.set_all(NOT_DONE, local::not_done(&snapshot));
        let mut refused = Vec::new();
        let asked = self.agent.bound.borrow().clone();
        let occupied = if asked.is_empty() { Occupied::default() } else { occupied(&snapshot) };
        for service in &asked {
            match self.virtual_listeners(service, &view, &occupied).await {
                Ok((listeners, problems)) => {
                    wanted.0.extend(listeners);
                    refused.extend(problems);
                }
                Err(why) => refused.push(why),
            }
        }
        self.agent.problems.set_all("virtual address", refused);
        self.listeners.send_if_modified(|held| {
            let changed = **held != wanted;
            if changed {
                *held = Arc::new(wanted);
            }
            changed
        });
    }

    async fn virtual_listeners(
        &self,
        service: &ServiceName,
        view: &View,
        occupied: &Occupied,
    ) -> Result<(BTreeMap<Bind, Arc<ListenerSpec>>, Vec<String>), String> {
        let known = view
            .services
            .get(service)
            .ok_or_else(|| format!("{service} is no longer known: its address is not bound"))?;
        let mut addresses = self.agent.virtual_addresses.lock().await;
        let address = addresses.give(service).map_err(|error| error.to_string())?;
        let (listeners, problems) = plan(known, address, &Source::Node, occupied);
        Ok((listeners, problems.into_iter().map(|problem| problem.what).collect()))
    }
}

/// What holds ports on this host, besides this agent's own listeners.
fn occupied(snapshot: &Snapshot) -> Occupied {
    let mut occupied = Occupied::default();
    for (_, planned) in snapshot.plan.instances() {
        for target in planned.targets.values() {
            if let skein_protocol::manifest::value::TargetAddress::Ip(address) = target
                && (address.ip().is_loopback() || address.ip().is_unspecified())
            {
                occupied.local.insert(address.port(), planned.id.to_string());
            }
        }
    }
    for table in ["/proc/net/tcp", "/proc/net/tcp6"] {
        // Without /proc nothing is known of others; binding itself then says it.
        let text = std::fs::read_to_string(table).unwrap_or_default();
        occupied.wildcard.extend(wildcard_ports(&text));
    }
    occupied
}

/// The book of virtual addresses, on disk.
pub(super) struct VirtualBook(pub(super) Arc<Disk>);

impl AddressBook for VirtualBook {
    fn load(&self) -> io::Result<BTreeMap<ServiceName, Ipv4Addr>> {
        let kept = self.0.virtual_addresses().map_err(io::Error::other)?;
        let entries = kept.into_iter().filter_map(|(service, address)| {
            Some((service.parse().ok()?, Ipv4Addr::from(address)))
        });
        Ok(entries.collect())
    }

    fn save(&mut self, service: &ServiceName, address: Ipv4Addr) -> io::Result<()> {
        self.0.keep_virtual_address(&service.to_string(), address.into()).map_err(io::Error::other)
    }
}
