//! The agent: the composition root. Every part is made here and given its neighbours.
//!
//! ```text
//! keys, disk -> driver (engine) -> view -> { proxy | api }
//! workload (files, checks) -> driver, proxy          gossip <-> driver
//! ```

mod addresses;
mod api;
mod capture;
mod change;
mod compose;
mod data;
mod doors;
mod events;
mod gateway;
mod identity;
mod kept;
pub mod local;
pub(crate) mod offline;
mod open_files;
mod policy;
mod seeds;
mod settings;
mod show;
mod strangers;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use skein_protocol::{
    clock::Wall,
    engine::{Anchor, Start},
    limits,
    name::NodeKey,
    policy::{Documents, PolicyBundle, SignedVersion},
    record::node::NodeState,
    trust::{CloseCode, Revocations, Roots, admit::Alpn, revocation::Statement},
    wire::frame::LinkRole,
};
use tokio::{
    runtime::{Builder, Handle, Runtime},
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot, watch},
};

use self::{
    compose::{Composer, VirtualBook},
    data::DataLinks,
    events::Problems,
    identity::{Keys, Tokens},
    local::{Base, Phase},
    settings::Settings,
    show::Agent,
    strangers::Strangers,
};
use crate::{
    api::{
        guard::HttpToken,
        server::{ApiListener, serve},
        socket,
    },
    caller,
    cli::hooks::AgentOptions,
    clock::{Clock, wall},
    disk::{Disk, Remembered},
    driver::{self, Command, Driver, DriverConfig},
    gossip::{Gossip, GossipConfig, GossipPorts},
    identity::Files,
    keys::{Ed25519, Trust, file},
    link::{Endpoint, Link, Runtimes},
    proxy::{Inherited, Parts, PeerIdentity, Proxy, Timeouts, virtual_address::VirtualAddresses},
    shares::Share,
    telemetry::{access::AccessLog, log, metrics::Metrics},
    workload::{Hold, Workload, WorkloadConfig},
};

/// This agent's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How long the last words may take before the process ends.
const FAREWELL: Duration = Duration::from_secs(1);

/// How long the first checks may take before the agent speaks all the same.
const SETTLE: Duration = Duration::from_secs(1);

/// Runs the agent until it is told to stop. Blocks.
pub fn run(options: AgentOptions) -> Result<()> {
    let log = log::init(options.log_level.as_deref().unwrap_or("info"))?;
    file::make_agent_directory(&options.dir)?;
    let _lock = lock(&options.dir)?;
    let files = Files::new(options.dir.clone());
    if options.rejoin {
        files.come_back()?;
    } else if files.has_left() {
        return Err(HasLeft(options.dir).into());
    }
    if let Some(few) = open_files::raise() {
        tracing::warn!("{few}");
    }
    let runtime = Builder::new_multi_thread().thread_name("skein").enable_all().build()?;
    let stop = watch::channel(false);
    let control = SmallRuntime::start("skein-control")?;
    let socket = SmallRuntime::start("skein-socket")?;
    let handles = (&control.handle, &socket.handle);
    let result = runtime.block_on(async {
        // Before anything else: no signal during a start ends an agent that would handle it later.
        let mut signals = Signals::listen()?;
        let started = tokio::select! {
            biased;
            () = signals.stop() => None,
            started = Running::start(options, log, stop, handles) => Some(started?),
        };
        match started {
            Some(running) => running.until_told(signals).await,
            None => {
                tracing::info!("told to stop before it had started");
                Ok(())
            }
        }
    });
    runtime.shutdown_timeout(FAREWELL);
    control.end();
    socket.end();
    result
}

/// The signals that an agent listens to.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reload: Signal,
    /// Programs that rotate logs send these to everybody.
    user: [Signal; 2],
}

impl Signals {
    fn listen() -> Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reload: signal(SignalKind::hangup())?,
            user: [signal(SignalKind::user_defined1())?, signal(SignalKind::user_defined2())?],
        })
    }

    /// Waits until the agent is told to stop.
    async fn stop(&mut self) {
        tokio::select! {
            biased;
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Waits for what stops the agent (`true`) or lets it read its files again.
    async fn next(&mut self) -> bool {
        let [one, two] = &mut self.user;
        loop {
            tokio::select! {
                biased;
                _ = self.terminate.recv() => return true,
                _ = self.interrupt.recv() => return true,
                _ = self.reload.recv() => return false,
                _ = one.recv() => tracing::info!("SIGUSR1 does nothing here"),
                _ = two.recv() => tracing::info!("SIGUSR2 does nothing here"),
            }
        }
    }
}

/// This host has left its mesh: it does not come back by a restart.
#[derive(Debug, thiserror::Error)]
#[error(
    "this host has left its mesh, and its agent does not start again by itself: run `skein join \
     ADDRESS` to come back with the key that lies in {}, or start it with --rejoin", .0.display()
)]
pub struct HasLeft(PathBuf);

/// One agent for a directory: a second one must not write the same state.
fn lock(directory: &Path) -> Result<std::fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    let path = directory.join("lock");
    let mut options = std::fs::File::options();
    // Nothing of what may stand there is touched: a link is refused, and no byte is written.
    options.read(true).custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
    let opened = match options.open(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            options.write(true).create(true).mode(0o600).open(&path)
        }
        opened => opened,
    };
    let file = opened.and_then(|held| file::keep_owner(&held, directory).map(|()| held));
    let file = file
        .with_context(|| format!("{} cannot be written: choose another --dir", path.display()))?;
    file.try_lock().map_err(|_| {
        anyhow::anyhow!(
            "another agent runs in {}: stop it first, or choose another --dir",
            directory.display()
        )
    })?;
    Ok(file)
}

/// A runtime of one thread. The engine, gossip and control links have one of their own, and so has
/// the mesh port: a busy data plane delays no probe, and no view that is made delays a call.
struct SmallRuntime {
    handle: Handle,
    end: oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl SmallRuntime {
    fn start(name: &str) -> Result<Self> {
        let runtime: Runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            // It ends as well when nobody is left to tell it to.
            let _ = runtime.block_on(ended);
        })?;
        Ok(Self { handle, end, thread })
    }

    fn end(self) {
        let _ = self.end.send(());
        let _ = self.thread.join();
    }
}

/// An agent that runs.
struct Running {
    agent: Arc<Agent>,
    /// The mesh port, and what dials for control.
    endpoints: [Endpoint; 2],
    stop: watch::Sender<bool>,
    leave: mpsc::Receiver<()>,
    drain: Duration,
    /// The redirect of virtual addresses, where there is one.
    redirect: Option<capture::Running>,
}

type Stop = (watch::Sender<bool>, watch::Receiver<bool>);

impl Running {
    #[allow(clippy::too_many_lines)] // The one list of parts: read top-down it is the wiring.
    async fn start(
        options: AgentOptions,
        log: log::LogHandle,
        (stop, stopped): Stop,
        (control, socket): (&Handle, &Handle),
    ) -> Result<Self> {
        let main = Handle::current();
        let clock = Clock::start();
        let (workload, _task) = Workload::start(
            WorkloadConfig {
                files: options.files.clone(),
                dir: options.dir.clone(),
                version: VERSION.to_owned(),
            },
            &main,
            stopped.clone(),
        )?;
        workload.settled(SETTLE).await;
        let first = Arc::clone(&workload.snapshot.borrow());
        let settings = Settings::new(&options, &first)?;
        if first.plan.mesh.debug && options.log_level.is_none() {
            log.set("debug")?;
        }
        let mut keys = Keys::load(&settings, options.token.as_deref()).await?;
        let (disk, remembered) = Disk::open(&options.dir, wall())?;
        let disk = Arc::new(disk);
        let problems = Problems::default();
        problems.set("state", remembered.alarm.clone());
        let revocations = revocations(&remembered, &keys.roots, &problems);
        let policies = policies(&remembered, (&keys.roots, &revocations), &problems);
        let anchor = if remembered.anchored { Anchor::Held } else { keys.files.read_policy() };
        let calls_known_since = calls_known_since(&disk, &remembered, &anchor);
        keys.renew_if_expired(&settings, control, &revocations).await?;
        let on_disk = remembered.origins();
        let credentials = keys.credentials(revocations.clone(), on_disk.clone())?;
        let grant = keys.own.verified.grant.clone();
        let locality = settings.locality(&grant)?;
        let (socket, control_too) = (socket.clone(), control.clone());
        let runtimes = Runtimes { socket, control: control_too, data: main.clone() };
        let endpoint = Endpoint::bind(settings.mesh, &credentials, runtimes)?;
        // What this agent dials for control has a socket of its own.
        let from = std::net::SocketAddr::new(settings.mesh.ip(), 0);
        let dialler = Endpoint::dialler(from, &credentials, control)?;
        let mesh_address = endpoint.address()?;
        let base = Base { host: settings.host(&grant, locality.clone(), remembered.boot)? };
        let tokens = Tokens::open(Arc::clone(&disk))?;
        let phase = Phase {
            addresses: settings.addresses(mesh_address),
            state: match first.holds.get(&None) {
                Some(held) if held.hold == Hold::Draining => NodeState::Draining,
                _ => NodeState::Up,
            },
            gossip_generation: remembered.boot,
            tokens: tokens.all(),
            issuer: identity::held(keys.issuer.as_deref()),
        };
        let (gossip_out, gossip_messages) = mpsc::channel(limits::GOSSIP_WAITING);
        let me = credentials.key();
        let (driver, handle, shown) = Driver::new(DriverConfig {
            start: Start {
                mesh: keys.roots.mesh,
                roots: Arc::new(keys.roots.clone()),
                chain: keys.chain.clone(),
                own: keys.own.clone(),
                signer: credentials.pair().clone(),
                local: local::say(&base, &phase, &first),
                boot: remembered.boot,
                reserved: remembered.reserved,
                peers: remembered.peers,
                revocations,
                policies,
                anchor,
                seed: rand::random(),
            },
            clock,
            crypto: Arc::new(Ed25519),
            disk: Arc::clone(&disk),
            endpoint: dialler.clone(),
            network: settings.network.clone(),
            gossip: gossip_messages,
            shutdown: stopped.clone(),
        })?;
        control.spawn(driver.run());

        let metrics = Arc::new(Metrics::new());
        // Its thread ends with the last clone.
        let access = if first.plan.mesh.enable_logs {
            AccessLog::start(std::io::stdout(), metrics.access_log_dropped()).0
        } else {
            AccessLog::default()
        };
        let data = DataLinks::new(
            endpoint.clone(),
            settings.network.clone(),
            (keys.roots.mesh, remembered.boot),
            shown.view.clone(),
            (clock, main.clone()),
        );
        let identity = PeerIdentity { key: me, grant: grant.clone() };
        let users = local::Users::new();
        let on_probation = *shown.probation.borrow();
        let serves =
            local::serve(&identity, remembered.boot, (&phase, on_probation), (&first, &users));
        let (serves, served) = watch::channel(Arc::new(serves));
        let (policy, view) = (shown.policy.clone(), shown.view.clone());
        let edges = Arc::new(policy::Edges::new(clock, &remembered.edges, calls_known_since));
        let (all, of_rules) = (Arc::clone(&metrics), Arc::clone(&edges));
        let rules = Arc::new(policy::Rules::new(policy, view, all, of_rules));
        let (traffic_policy, host_rules) = watch::channel(local::traffic_policy(&first.plan));
        let behaviour = policy::Behaviour::new(shown.policy.clone(), host_rules);
        let (certificates, certificates_told) = watch::channel(None);
        let proxy = Proxy::new(Parts {
            view: shown.view.clone(),
            local: served,
            dialer: Arc::new(data.clone()),
            traffic: Arc::new(behaviour),
            authorise: rules,
            identify: Arc::new(caller::Kernel::default()),
            certificates: certificates_told,
            inherited: Inherited::from_env(),
            observer: Arc::new(events::Observe { access, metrics: Arc::clone(&metrics) }),
            runtime: main.clone(),
            seed: rand::random(),
            timeouts: Timeouts::default(),
        });
        let (listeners, wanted) = watch::channel(Arc::default());
        let listening = proxy.listen(wanted.clone());
        let range = settings.virtual_range()?;
        let book = Box::new(VirtualBook(Arc::clone(&disk)));
        let virtual_addresses = VirtualAddresses::open(range, book)?;
        let (captured, stands) = watch::channel(Arc::default());
        let (capture, redirect) =
            capture::start(&proxy, &settings, (me, range), &problems, (stands, &stopped)).await;
        let said = watch::channel((first.number, phase.clone())).0;
        let (phase, phase_changes) = watch::channel(phase);

        let (gossip_events, gossip_told) = mpsc::channel(limits::GOSSIP_WAITING);
        let (directory, directory_out) = watch::channel(Arc::default());
        let (peers, peers_out) = watch::channel(Arc::default());
        let (hints, hints_out) = watch::channel(crate::gossip::Hints::default());
        let ports = GossipPorts {
            directory: directory_out,
            links: peers_out,
            outbound: gossip_out,
            inbound: shown.gossip,
            own: hints_out,
            events: gossip_events,
            shutdown: stopped.clone(),
        };
        let config = GossipConfig {
            me,
            generation: remembered.boot,
            cluster_id: settings.cluster(&keys.roots.mesh),
            restart: !first.plan.mesh.disable_auto_restart,
        };
        let gossip = Gossip::start(config, ports, control);
        main.spawn(events::watch_gossip(gossip, problems.clone()));

        let (leave, leaves) = mpsc::channel(1);
        let agent = Arc::new(Agent {
            me,
            clock,
            settings,
            files: keys.files,
            roots: watch::channel(Arc::new(keys.roots)).0,
            issuer: watch::channel(keys.issuer).0,
            tokens,
            credentials: Arc::clone(&credentials),
            workload: workload.clone(),
            view: shown.view.clone(),
            links: shown.links.clone(),
            data: data.clone(),
            policy: shown.policy.clone(),
            probation: shown.probation.clone(),
            revocations: shown.revocations.clone(),
            edges,
            stands: std::sync::Mutex::default(),
            proxy: Arc::clone(&proxy),
            listening,
            wanted,
            virtual_addresses: tokio::sync::Mutex::new(virtual_addresses),
            capture,
            bound: watch::channel(Default::default()).0,
            phase,
            said,
            problems: problems.clone(),
            metrics: Arc::clone(&metrics),
            log,
            driver: handle.clone(),
            disk: Arc::clone(&disk),
            leave,
            mesh_address,
            strangers: Strangers::default(),
        });
        data.serve_with(&agent);
        agent.problems.set("mesh name", agent.other_mesh_name());
        let composer = Composer {
            agent: Arc::clone(&agent),
            base,
            identity,
            boot: remembered.boot,
            phase: phase_changes,
            serves,
            traffic_policy,
            listeners,
            captured,
            directory,
            peers,
            hints,
            users,
        };
        main.spawn(composer.run(stopped.clone()));
        control.spawn(events::mesh_events(Arc::clone(&agent), shown.events));
        control.spawn(events::gossip_events(Arc::clone(&agent), gossip_told));
        main.spawn(events::revoked(
            (Arc::clone(&credentials), on_disk),
            shown.revocations.clone(),
            data.clone(),
            shown.view.clone(),
        ));
        main.spawn(policy::roots::told(Arc::clone(&agent), shown.told_roots));
        main.spawn(events::put_out(Arc::clone(&agent), shown.put_out));
        main.spawn(gateway::follow(Arc::clone(&agent), certificates, Agent::gateway_folder));
        main.spawn(events::every_second(Arc::clone(&agent), stopped.clone()));
        main.spawn(events::keep_edges(Arc::clone(&agent), stopped.clone()));
        main.spawn(events::watch_files(Arc::clone(&agent), stopped.clone()));
        main.spawn(addresses::follow(Arc::clone(&agent), stopped.clone()));
        control.spawn(seeds::run(Arc::clone(&agent), shown.met, stopped.clone()));
        control.spawn(accept(Arc::clone(&agent), endpoint.clone(), control.clone(), main.clone()));
        main.spawn(identity::keep_fresh(Arc::clone(&agent), endpoint.clone(), stopped.clone()));
        agent.serve_api(&options.dir, &stopped).await?;
        let drain = agent.settings.drain;
        tracing::info!(
            node = %agent.settings.name(&agent.credentials),
            id = %me.short(),
            mesh = %mesh_address,
            http = %agent.settings.http,
            "agent runs"
        );
        // Not under systemd: nothing to tell.
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        let endpoints = [endpoint, dialler];
        Ok(Self { agent, endpoints, stop, leave: leaves, drain, redirect })
    }

    /// Waits for a signal or for `skein leave`, drains, and ends.
    async fn until_told(mut self, mut signals: Signals) -> Result<()> {
        loop {
            tokio::select! {
                biased;
                stop = signals.next() => match stop {
                    true => break,
                    false => self.agent.workload.reload().await,
                },
                Some(()) = self.leave.recv() => break,
            }
        }
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
        tracing::info!("draining: no new calls, live ones may finish; a second signal stops now");
        tokio::select! {
            biased;
            () = signals.stop() => tracing::warn!("told twice: stopping now"),
            () = self.agent.drain_all(self.drain) => {}
        }
        tokio::select! {
            biased;
            () = signals.stop() => {}
            () = self.agent.say_left() => {}
        }
        // A start whose state is lost finds the mesh by them: nobody dials who left in order.
        identity::keep_peers(&self.agent);
        self.stop.send_replace(true);
        let idle = async {
            for endpoint in &self.endpoints {
                endpoint.close(CloseCode::Shutdown);
                endpoint.wait_idle().await;
            }
        };
        // The last frames and closes leave, and who called last is kept.
        let kept = events::keep_edges_now(&self.agent, true);
        let _ = tokio::time::timeout(FAREWELL, async { tokio::join!(idle, kept) }).await;
        if let Some(redirect) = self.redirect.take() {
            redirect.ended().await;
        }
        tracing::info!("agent ends");
        Ok(())
    }
}

/// Since when all calls here are known, and kept from now on. `None`: since this host is in the mesh.
/// Who was just let in has served nothing yet; a disk that does not say so has lost what it knew.
fn calls_known_since(disk: &Disk, remembered: &Remembered, anchor: &Anchor) -> Option<Wall> {
    const FROM_THE_START: Wall = Wall(0);
    let since = remembered.calls_known_since.unwrap_or_else(|| match anchor {
        Anchor::Listed(_) => FROM_THE_START,
        Anchor::Held | Anchor::Lacks => wall(),
    });
    if remembered.calls_known_since.is_none()
        && let Err(error) = disk.know_calls_since(since)
    {
        tracing::warn!(%error, "since when calls are known is not kept");
    }
    (since != FROM_THE_START).then_some(since)
}

/// The revocations on disk. One that no longer verifies is said, and not taken.
fn revocations(remembered: &Remembered, roots: &Roots, problems: &Problems) -> Revocations {
    let mut revocations = Revocations::default();
    let (mut statements, mut errors) = (Vec::new(), Vec::new());
    for bytes in &remembered.revocations {
        let verified = Statement::decode(bytes)
            .map_err(|error| error.to_string())
            .and_then(|said| said.verify(roots, &Ed25519).map_err(|error| error.to_string()));
        match verified {
            Ok(statement) => statements.push(statement),
            Err(error) => errors.push(error),
        }
    }
    let refused = revocations.restore(statements, roots);
    errors.extend(refused.iter().map(ToString::to_string));
    if let Some(error) = errors.first() {
        let others = match errors.len() {
            1 => String::new(),
            all => format!(" ({} further ones neither)", all - 1),
        };
        let text = format!("a revocation on disk is not taken: {error}{others}");
        problems.set("revocation", Some(text));
    }
    revocations
}

/// The mesh-wide documents on disk. One that no longer verifies is said, and not taken.
fn policies(
    remembered: &Remembered,
    (roots, revocations): (&Roots, &Revocations),
    problems: &Problems,
) -> Documents {
    let mut documents = Documents::default();
    for bytes in &remembered.policies {
        let verified = PolicyBundle::decode(bytes)
            .map_err(|error| error.to_string())
            .and_then(|bundle| {
                SignedVersion::parse(Arc::new(bundle), roots.mesh).map_err(|e| e.to_string())
            })
            .and_then(|signed| signed.verify(roots, &Ed25519).map_err(|e| e.to_string()));
        match verified {
            Ok(version) if version.stands(revocations) => {
                documents.insert(Arc::new(version));
            }
            Ok(_) => {}
            Err(error) => {
                let text = format!("a document on disk is not taken: {error}; peers have it");
                problems.set("policy", Some(text));
            }
        }
    }
    documents
}

/// Takes connections of peers and gives each to the part that it is for.
async fn accept(agent: Arc<Agent>, endpoint: Endpoint, control: Handle, data: Handle) {
    let mut acceptor = endpoint.acceptor();
    while let Some(link) = acceptor.next().await {
        let of = Arc::clone(&agent);
        if link.alpn == Alpn::Mesh {
            match agent.strangers.greeting(link.identity.key) {
                Some(share) => drop(control.spawn(async move { welcome(&of, link, share).await })),
                None => link.mux.close_with(CloseCode::Full),
            }
            continue;
        }
        // Nothing that a stranger costs is done on the engine's thread.
        match agent.strangers.join(link.remote, agent.clock.now().tick) {
            Some(share) => drop(data.spawn(async move {
                identity::serve_stranger(&of, link).await;
                drop(share);
            })),
            None => {
                tracing::debug!(peer = %link.remote, "too many join at once: refused");
                link.mux.close_with(CloseCode::Full);
            }
        }
    }
}

/// `greeting` is given back when the peer has said who it is.
async fn welcome(agent: &Arc<Agent>, link: Link, greeting: Share<NodeKey>) {
    let hello = driver::first_hello(&*link.mux).await;
    drop(greeting);
    match hello {
        Ok((control, hello)) if hello.role == LinkRole::Control => {
            let begun = Some(Box::new((control, hello)));
            agent.driver.tell(Command::Link(Box::new(link), begun)).await;
        }
        Ok(_) if link.control => {
            tracing::debug!(peer = %link.remote, "data on a connection dialled as control");
            link.mux.close_with(CloseCode::WrongProtocol);
        }
        Ok((control, hello)) => agent.data.accepted(link, control, hello).await,
        Err(error) => {
            tracing::debug!(peer = %link.remote, %error, "connection without a Hello");
            link.mux.close_with(CloseCode::Timeout);
        }
    }
}

impl Agent {
    async fn serve_api(
        self: &Arc<Self>,
        dir: &Path,
        stopped: &watch::Receiver<bool>,
    ) -> Result<()> {
        let bound = socket::bind(dir).with_context(|| {
            format!("the agent's socket {} cannot be made", socket::path(dir).display())
        })?;
        let token = HttpToken::load_or_create(dir)
            .with_context(|| format!("{} cannot be written", dir.join("http.token").display()))?;
        let http = tokio::net::TcpListener::bind(self.settings.http).await.with_context(|| {
            format!(
                "the HTTP port {} cannot be bound: another program uses it, or the address is \
                 not of this host; say another port in ServiceMesh `ports: [{{name: http}}]`, or \
                 another --bind",
                self.settings.http
            )
        })?;
        let api: Arc<dyn crate::api::AgentApi> = Arc::clone(self) as _;
        let runtime = Handle::current();
        runtime.spawn(serve(ApiListener::Socket(bound), Arc::clone(&api), stopped.clone()));
        runtime.spawn(serve(ApiListener::Http(http, token), api, stopped.clone()));
        Ok(())
    }

    /// Says that nothing new is taken, waits for what runs, and cuts the rest.
    async fn drain_all(&self, patience: Duration) {
        self.phase.send_if_modified(|phase| {
            let up = phase.state == NodeState::Up;
            if up {
                phase.state = NodeState::Draining;
            }
            up
        });
        let drained = self.proxy.drain(patience).await;
        tracing::info!(open = drained.open, cut = drained.cut, "drained");
    }

    /// Says that this agent is gone, so that nobody waits for it to be missed, and gives those
    /// linked to it a moment to take that in.
    async fn say_left(&self) {
        self.phase.send_modify(|phase| phase.state = NodeState::Left);
        let taken = async {
            self.told().await;
            loop {
                let agreeing = self.driver.agreeing().await;
                if agreeing.settled && agreeing.records >= agreeing.of {
                    return;
                }
                tokio::time::sleep(api::LOOK_EVERY).await;
            }
        };
        // Who did not take it in by then finds out as if this agent had died.
        let _ = tokio::time::timeout(FAREWELL, taken).await;
    }
}

/// The trust of an agent whose view knows these nodes.
pub(crate) fn trust(
    roots: &Roots,
    revocations: &Revocations,
    known: impl Iterator<Item = NodeKey>,
) -> Trust {
    Trust { roots: roots.clone(), revocations: revocations.clone(), known: known.collect() }
}

/// Shows another chain from now on, everywhere: in handshakes and in this host's record.
pub(crate) async fn show_chain(
    agent: &Agent,
    chain: skein_protocol::trust::Chain,
) -> Result<(), crate::keys::credentials::CredentialsError> {
    agent.credentials.set_chain(chain.clone(), wall())?;
    if let Some(own) = agent.credentials.own() {
        let own = skein_protocol::record::OwnChain { chain, verified: own.verified.clone() };
        agent.driver.input(skein_protocol::engine::Input::Renewed(Box::new(own))).await;
    }
    Ok(())
}
