//! Composition while the agent runs: whenever documents, checks, the view or the agent's own
//! phase change, what depends on them is made anew and handed on.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{Ipv4Addr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};

use skein_protocol::{
    engine::Input,
    manifest::{DocumentId, plan::Usage},
    name::{NodeKey, ServiceName},
    view::View,
};
use tokio::sync::watch;

use super::{
    capture::Mode,
    gateway,
    local::{self, Base, Phase, Users},
    show::Agent,
};
use crate::{
    caller,
    disk::{Disk, StateError},
    gossip::{Directory, Hints},
    proxy::{
        Bind, Captured, ListenerSpec, Listeners, LocalServices, PeerIdentity,
        virtual_address::{AddressBook, NoAddress, Occupied, plan, stands, wildcard_ports},
    },
    workload::Snapshot,
};

/// The subject of what documents ask for and this version does not do.
pub(super) const NOT_DONE: &str = "not in this version";

/// What a host in probation waits for.
const PROBATION: &str = "this host takes no calls yet, since its disk does not show that it ever \
    held the policy of the mesh: it waits until it holds what the issuer listed when it joined, \
    or the same as two agents that have it; see that it reaches others (`skein links`)";

/// See the module.
pub(super) struct Composer {
    pub(super) agent: Arc<Agent>,
    pub(super) base: Base,
    pub(super) identity: PeerIdentity,
    pub(super) boot: u64,
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) serves: watch::Sender<Arc<LocalServices>>,
    pub(super) traffic_policy: watch::Sender<Option<DocumentId>>,
    pub(super) listeners: watch::Sender<Arc<Listeners>>,
    pub(super) captured: watch::Sender<Arc<Captured>>,
    pub(super) directory: watch::Sender<Arc<Directory>>,
    pub(super) peers: watch::Sender<Arc<BTreeSet<NodeKey>>>,
    pub(super) hints: watch::Sender<Hints>,
    /// The users that documents name, as this host knew them when they were last read.
    pub(super) users: Users,
}

impl Composer {
    pub(super) async fn run(mut self, mut stopped: watch::Receiver<bool>) {
        let mut snapshot = self.agent.workload.snapshot.clone();
        let mut view = self.agent.view.clone();
        let mut links = self.agent.links.clone();
        let mut bound = self.agent.bound.subscribe();
        let mut probation = self.agent.probation.clone();
        self.probation(*probation.borrow_and_update());
        let first = Arc::clone(&snapshot.borrow_and_update());
        self.look_up(&first).await;
        self.said(&first).await;
        self.signed(&first).await;
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
                Ok(()) = probation.changed() => {
                    self.probation(*probation.borrow_and_update());
                    let now = Arc::clone(&snapshot.borrow());
                    self.said(&now).await;
                }
                Ok(()) = snapshot.changed() => {
                    let now = Arc::clone(&snapshot.borrow_and_update());
                    self.traffic_policy.send_replace(local::traffic_policy(&now.plan));
                    self.look_up(&now).await;
                    self.said(&now).await;
                    self.listen().await;
                    self.signed(&now).await;
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

    /// Says whether this host takes no calls yet. Once its disk shows what it held, what stood there
    /// for the first time is of no more use.
    fn probation(&self, on: bool) {
        if !on {
            self.agent.files.forget_policy();
        }
        self.agent.problems.set("probation", on.then(|| PROBATION.to_owned()));
    }

    /// Looks up the users that documents name. A directory on another host may be slow.
    async fn look_up(&mut self, snapshot: &Snapshot) {
        let named = local::users(&snapshot.plan);
        if named.is_empty() {
            return self.users.clear();
        }
        let look = move || named.into_iter().filter_map(|user| Some((caller::uid(&user)?, user)));
        let found = tokio::task::spawn_blocking(move || look().collect::<Vec<_>>()).await;
        self.users = found.unwrap_or_default().into_iter().map(|(uid, user)| (user, uid)).collect();
    }

    /// What this host says and serves.
    async fn said(&self, snapshot: &Snapshot) {
        let phase = self.phase.borrow().clone();
        let probation = *self.agent.probation.borrow();
        let state = (&phase, probation);
        let serves = local::serve(&self.identity, self.boot, state, (snapshot, &self.users));
        self.agent.problems.set_all("workload", local::nobody(&serves.workloads));
        self.serves.send_replace(Arc::new(serves));
        let said = local::say(&self.base, &phase, snapshot);
        self.agent.driver.input(Input::Local(Box::new(said))).await;
        self.agent.said.send_replace((snapshot.number, phase));
    }

    /// What files hold with an operator's signature holds for the whole mesh.
    async fn signed(&self, snapshot: &Snapshot) {
        let problems = self.agent.take_files(&snapshot.plan.signed).await;
        self.agent.problems.set_all("signed documents", problems);
    }

    /// What gossip and metrics need of a view.
    fn seen(&self, view: &View) {
        self.directory.send_replace(Arc::new(Directory::of(view)));
        let hints = Hints::of(view, self.phase.borrow().state);
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
        let documents = (&*snapshot, &self.users);
        let (mut wanted, waiting) = local::listeners(documents, &view, bind, &self.identity.grant);
        self.agent.problems.set_all("discovery", waiting);
        let closed = match &snapshot.plan.mesh.gateway {
            Some(gateway) => {
                let open = Arc::clone(&self.listeners.borrow());
                let gateway = (gateway, &self.identity.grant);
                gateway::doors(gateway, &view, bind, (&open, &mut wanted))
            }
            None => Vec::new(),
        };
        self.agent.problems.set_all("gateway", closed);
        self.agent.problems.set_all(NOT_DONE, local::not_done(&snapshot));
        let refused = match self.agent.capture.mode {
            Mode::Redirect => self.stand(&snapshot, &view).await,
            Mode::Listen => self.listen_asked(&snapshot, &view, &mut wanted).await,
            Mode::Off => Vec::new(),
        };
        self.agent.problems.set_all("virtual address", refused);
        self.listeners.send_if_modified(|held| {
            let changed = **held != wanted;
            if changed {
                *held = Arc::new(wanted);
            }
            changed
        });
    }

    /// With a redirect every service has its address, and answers there on all of its ports.
    async fn stand(&self, snapshot: &Snapshot, view: &View) -> Vec<String> {
        let mut addresses = self.agent.virtual_addresses.lock().await;
        let mut given = addresses.give_all(view.services.keys());
        let known = |service: &ServiceName| view.services.contains_key(service);
        if matches!(given, Err(NoAddress::Full(_)))
            && addresses.make_room(known).is_ok_and(|made| made)
        {
            given = addresses.give_all(view.services.keys());
        }
        let mut all: BTreeMap<SocketAddrV4, Arc<ListenerSpec>> = BTreeMap::new();
        for (name, service) in &view.services {
            if let Some(address) = addresses.of(name) {
                let terms = local::terms(usage_of(snapshot, name), &self.users);
                all.extend(stands(service, address, &terms));
            }
        }
        self.captured.send_if_modified(|held| {
            let changed = held.0 != all;
            if changed {
                *held = Arc::new(Captured(all));
            }
            changed
        });
        given.err().map(|error| error.to_string()).into_iter().collect()
    }

    /// Without one, those that were asked for are bound, each port by itself.
    async fn listen_asked(
        &self,
        snapshot: &Snapshot,
        view: &View,
        wanted: &mut Listeners,
    ) -> Vec<String> {
        let mut refused = Vec::new();
        let asked = self.agent.bound.borrow().clone();
        let occupied = if asked.is_empty() { Occupied::default() } else { occupied(snapshot) };
        for service in &asked {
            match self.virtual_listeners(service, (snapshot, view), &occupied).await {
                Ok((listeners, problems)) => {
                    wanted.0.extend(listeners);
                    refused.extend(problems);
                }
                Err(why) => refused.push(why),
            }
        }
        refused
    }

    async fn virtual_listeners(
        &self,
        service: &ServiceName,
        (snapshot, view): (&Snapshot, &View),
        occupied: &Occupied,
    ) -> Result<(BTreeMap<Bind, Arc<ListenerSpec>>, Vec<String>), String> {
        let known = view
            .services
            .get(service)
            .ok_or_else(|| format!("{service} is no longer known: its address is not bound"))?;
        let mut addresses = self.agent.virtual_addresses.lock().await;
        let address = addresses.give(service).map_err(|error| error.to_string())?;
        let terms = local::terms(usage_of(snapshot, service), &self.users);
        let (listeners, problems) = plan(known, address, &terms, occupied);
        Ok((listeners, problems.into_iter().map(|problem| problem.what).collect()))
    }
}

/// What this host's documents say of calls to a service.
fn usage_of<'s>(snapshot: &'s Snapshot, service: &ServiceName) -> Option<&'s Usage> {
    snapshot.plan.usage_of(service).map(|usage| &**usage)
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

/// What waits for the book waits no longer than this: composition must not hang with a disk.
const BOOK_PATIENCE: Duration = Duration::from_millis(250);

impl VirtualBook {
    /// Writes, unless the disk cannot be written or does not answer in time. What comes on disk after
    /// all does no harm: an address that nobody was told.
    fn write(
        &self,
        work: impl FnOnce(&Disk) -> Result<(), StateError> + Send + 'static,
    ) -> io::Result<()> {
        if let Some(why) = self.0.trouble() {
            return Err(io::Error::other(why));
        }
        let (done, written) = std::sync::mpsc::sync_channel(1);
        let disk = Arc::clone(&self.0);
        std::thread::Builder::new().name("skein-book".to_owned()).spawn(move || {
            let _ = done.send(work(&disk));
        })?;
        let written = written.recv_timeout(BOOK_PATIENCE);
        let late = |_| io::Error::other("the disk does not answer");
        written.map_err(late)?.map_err(io::Error::other)
    }
}

impl AddressBook for VirtualBook {
    fn load(&self) -> io::Result<BTreeMap<ServiceName, Ipv4Addr>> {
        let kept = self.0.virtual_addresses().map_err(io::Error::other)?;
        let entries = kept.into_iter().filter_map(|(service, address)| {
            Some((service.parse().ok()?, Ipv4Addr::from(address)))
        });
        Ok(entries.collect())
    }

    fn save(&mut self, given: &[(ServiceName, Ipv4Addr)]) -> io::Result<()> {
        let texts: Vec<(String, u32)> =
            given.iter().map(|(service, at)| (service.to_string(), (*at).into())).collect();
        self.write(move |disk| {
            let entries = texts.iter().map(|(service, at)| (service.as_str(), *at));
            disk.keep_virtual_addresses(entries)
        })
    }

    fn forget(&mut self, services: &[ServiceName]) -> io::Result<()> {
        let texts: Vec<String> = services.iter().map(ToString::to_string).collect();
        self.write(move |disk| disk.forget_virtual_addresses(texts.iter().map(String::as_str)))
    }
}
