//! The driver: owns the engine. One task, one queue in, outputs out.
//!
//! In:    [`Command`]: links that come and go, frames, what this host says.
//! Out:   frames to links, dials, writes, views, events.
//! Never: waits. A peer that does not read loses its link, a full disk refuses, signature checks
//!        run on a thread of their own.

mod control;
mod queue;
mod verify;

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use skein_protocol::{
    clock::Tick,
    engine::{Agreeing, Blame, Checked, Engine, Event, Input, JobId, LinkId, Output, Start},
    limits,
    name::{Label, NodeKey},
    policy::Policy,
    record::node::Address,
    trust::{CloseCode, Crypto, Revocations, RootChain, VerifiedChain, admit::Alpn},
    view::View,
    wire::frame::Hello,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};

pub use self::control::{ControlLink, first_hello};
use self::{queue::Outbox, verify::Verifier};
use crate::{
    clock::Clock,
    disk::{Disk, Writer, Written},
    keys::Expect,
    link::{Dial, Endpoint, Link, Role, mux::Mux},
};

/// What others tell the driver.
#[derive(Debug)]
pub enum Command {
    /// Something for the engine.
    Input(Box<Input>),
    /// A control connection stands; its first Hello was read where the peer dialled.
    Link(Box<Link>, Option<Box<(ControlLink, Hello)>>),
    /// A frame came on a control link.
    Frame(LinkId, Vec<u8>),
    /// A control link has ended; with which code the peer closed it, if it did.
    Ended(LinkId, Option<CloseCode>),
    /// A peer did what no honest agent does, as another part saw.
    Blame(NodeKey, Blame),
    /// How many agents are known to hold the same records?
    Agreeing(oneshot::Sender<Agreeing>),
    /// Dial an address whose node is not known: a seed.
    Seed(SocketAddr),
}

/// How others reach the driver.
#[derive(Clone, Debug)]
pub struct DriverHandle {
    commands: mpsc::Sender<Command>,
}

impl DriverHandle {
    /// Hands something in; waits while the queue is full. False when the driver has ended.
    pub async fn tell(&self, command: Command) -> bool {
        self.commands.send(command).await.is_ok()
    }

    /// How many agents, this one among them, hold the same records, as far as is known here.
    pub async fn agreeing(&self) -> Agreeing {
        let (reply, answer) = oneshot::channel();
        self.tell(Command::Agreeing(reply)).await;
        answer.await.unwrap_or_default()
    }

    /// Hands something to the engine.
    pub async fn input(&self, input: Input) -> bool {
        self.tell(Command::Input(Box::new(input))).await
    }
}

/// A control link as people see it.
#[derive(Clone, Debug)]
pub struct LinkView {
    /// The peer.
    pub peer: NodeKey,
    /// Where it is.
    pub remote: SocketAddr,
    /// Whether this agent dialled.
    pub dialled: bool,
    /// The connection.
    pub mux: Arc<dyn Mux>,
    /// What the peer proved.
    pub chain: Arc<VerifiedChain>,
    /// When it came up.
    pub opened: Tick,
    heard: Arc<AtomicU64>,
}

impl LinkView {
    /// When the peer's last frame came.
    pub fn heard(&self) -> Tick {
        Tick(self.heard.load(Ordering::Relaxed))
    }
}

/// What the driver shows to the rest of the agent.
#[derive(Debug)]
pub struct Shown {
    /// The newest view.
    pub view: watch::Receiver<Arc<View>>,
    /// The control links.
    pub links: watch::Receiver<Arc<BTreeMap<NodeKey, LinkView>>>,
    /// The keys that have ended.
    pub revocations: watch::Receiver<Arc<Revocations>>,
    /// The mesh-wide documents in force, and what they decide.
    pub policy: watch::Receiver<Arc<Policy>>,
    /// Whether no call is taken, since this host may not know the mesh's policy.
    pub probation: watch::Receiver<bool>,
    /// Further roots that peers told: to be written, and handed in.
    pub told_roots: watch::Receiver<Option<Arc<RootChain>>>,
    /// The peer that last said that this node's key was revoked.
    pub put_out: watch::Receiver<Option<NodeKey>>,
    /// Lines for people. When nobody reads, the newest are lost.
    pub events: mpsc::Receiver<Event>,
    /// chitchat's messages from peers.
    pub gossip: mpsc::Receiver<(NodeKey, Bytes)>,
    /// Seeds that were reached, with the node that answered.
    pub met: mpsc::Receiver<(SocketAddr, Result<NodeKey, String>)>,
}

/// What a driver needs.
pub struct DriverConfig {
    /// How the engine starts.
    pub start: Start,
    /// The clocks.
    pub clock: Clock,
    /// Checks signatures.
    pub crypto: Arc<dyn Crypto>,
    /// The state on disk.
    pub disk: Arc<Disk>,
    /// Dials.
    pub endpoint: Endpoint,
    /// Addresses of this network are dialled first.
    pub network: Label,
    /// chitchat's messages for peers.
    pub gossip: mpsc::Receiver<(NodeKey, Bytes)>,
    /// True, or the end of its sender: stop.
    pub shutdown: watch::Receiver<bool>,
}

/// The driver, before it runs.
pub struct Driver {
    engine: Engine,
    clock: Clock,
    endpoint: Endpoint,
    network: Label,
    writer: Writer,
    verifier: Verifier,
    commands: mpsc::Receiver<Command>,
    handle: DriverHandle,
    checked: mpsc::Receiver<(JobId, Box<Checked>)>,
    written: mpsc::Receiver<Written>,
    gossip_out: mpsc::Receiver<(NodeKey, Bytes)>,
    gossip_in: mpsc::Sender<(NodeKey, Bytes)>,
    links: BTreeMap<LinkId, Attached>,
    numbers: AtomicU64,
    tasks: JoinSet<()>,
    view: watch::Sender<Arc<View>>,
    shown_links: watch::Sender<Arc<BTreeMap<NodeKey, LinkView>>>,
    revocations: watch::Sender<Arc<Revocations>>,
    policy: watch::Sender<Arc<Policy>>,
    probation: watch::Sender<bool>,
    put_out: watch::Sender<Option<NodeKey>>,
    told_roots: watch::Sender<Option<Arc<RootChain>>>,
    events: mpsc::Sender<Event>,
    met: mpsc::Sender<(SocketAddr, Result<NodeKey, String>)>,
    shutdown: watch::Receiver<bool>,
}

/// A control link and the way to its writer.
struct Attached {
    view: LinkView,
    frames: Outbox,
}

/// Lines for people that wait to be written.
const EVENTS_WAITING: usize = 1024;

impl Driver {
    /// A driver, the way to it, and what it shows.
    pub fn new(config: DriverConfig) -> anyhow::Result<(Self, DriverHandle, Shown)> {
        let (commands_in, commands) = mpsc::channel(limits::DRIVER_QUEUE);
        let (checked_in, checked) = mpsc::channel(limits::VERIFY_IN_FLIGHT);
        let (written_in, written) = mpsc::channel(limits::PERSIST_WAITING);
        let (gossip_in, gossip) = mpsc::channel(limits::GOSSIP_WAITING);
        let (events_in, events) = mpsc::channel(EVENTS_WAITING);
        let (met_in, met) = mpsc::channel(limits::JOIN_PEERS);
        let writer = Writer::start(config.disk, move |done| {
            // The driver has ended when nobody takes it.
            let _ = written_in.blocking_send(done);
        })?;
        let verifier = Verifier::start(config.crypto, checked_in)?;
        let revocations = Arc::new(config.start.revocations.clone());
        let now = config.clock.now();
        let mut engine = Engine::new(config.start, now);
        let first = Arc::new(engine.view(now));
        let (view, view_out) = watch::channel(first);
        let (shown_links, links_out) = watch::channel(Arc::default());
        let (revoked, revocations_out) = watch::channel(revocations);
        let (policy, policy_out) = watch::channel(Arc::clone(engine.policy()));
        let (probation, probation_out) = watch::channel(engine.on_probation());
        let (put_out, put_out_out) = watch::channel(None);
        let (told_roots, told_roots_out) = watch::channel(None);
        let handle = DriverHandle { commands: commands_in };
        let driver = Self {
            engine,
            clock: config.clock,
            endpoint: config.endpoint,
            network: config.network,
            writer,
            verifier,
            commands,
            handle: handle.clone(),
            checked,
            written,
            gossip_out: config.gossip,
            gossip_in,
            links: BTreeMap::new(),
            numbers: AtomicU64::new(0),
            tasks: JoinSet::new(),
            view,
            shown_links,
            revocations: revoked,
            policy,
            probation,
            put_out,
            told_roots,
            events: events_in,
            met: met_in,
            shutdown: config.shutdown,
        };
        let shown = Shown {
            view: view_out,
            links: links_out,
            revocations: revocations_out,
            policy: policy_out,
            probation: probation_out,
            put_out: put_out_out,
            told_roots: told_roots_out,
            events,
            gossip,
            met,
        };
        Ok((driver, handle, shown))
    }

    /// Runs until the shutdown.
    pub async fn run(mut self) {
        self.drain();
        let mut shutdown = self.shutdown.clone();
        loop {
            let wakeup =
                tokio::time::Instant::from_std(self.clock.instant(self.engine.next_wakeup()));
            tokio::select! {
                biased;
                () = crate::stop::stopped(&mut shutdown) => break,
                Some((id, checked)) = self.checked.recv() => {
                    self.handle(Input::Verified(id, checked));
                }
                Some((id, result)) = self.written.recv() => self.handle(match result {
                    Ok(()) => Input::Persisted(id),
                    Err(why) => Input::PersistFailed(id, why),
                }),
                () = tokio::time::sleep_until(wakeup) => self.handle(Input::Tick),
                Some(command) = self.commands.recv() => self.take(command),
                Some((to, message)) = self.gossip_out.recv() => self.gossip(to, &message),
                Some(_) = self.tasks.join_next() => {}
            }
            self.drain();
        }
        for link in self.links.values() {
            link.view.mux.close(CloseCode::Shutdown.number(), CloseCode::Shutdown.text());
        }
    }

    fn handle(&mut self, input: Input) {
        self.engine.handle(self.clock.now(), input);
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Input(input) => self.handle(*input),
            Command::Link(link, begun) => self.attach(*link, begun),
            Command::Frame(link, bytes) => {
                if let Some(attached) = self.links.get(&link) {
                    attached.view.heard.store(self.clock.now().tick.0, Ordering::Relaxed);
                }
                self.handle(Input::Frame { link, bytes: bytes.into() });
            }
            Command::Ended(link, code) => {
                if let Some(attached) = self.links.remove(&link) {
                    if code == Some(CloseCode::Revoked) {
                        self.put_out.send_replace(Some(attached.view.peer));
                    }
                    self.handle(Input::Disconnected(link));
                    self.show_links();
                }
            }
            Command::Blame(node, blame) => self.engine.blame(self.clock.now(), node, blame),
            Command::Agreeing(reply) => {
                // Who asked may have given up.
                let _ = reply.send(self.engine.agreeing(self.clock.now()));
            }
            Command::Seed(address) => self.dial_seed(address),
        }
    }

    fn attach(&mut self, link: Link, begun: Option<Box<(ControlLink, Hello)>>) {
        let Some((verified, _)) = &link.identity.chain else {
            link.mux.close_with(CloseCode::NotAdmitted);
            return;
        };
        let chain = Arc::new(verified.clone());
        let number = LinkId(self.numbers.fetch_add(1, Ordering::Relaxed));
        let (frames, queue) = queue::queue();
        let mux: Arc<dyn Mux> = link.mux.clone();
        let view = LinkView {
            peer: chain.key,
            remote: link.remote,
            dialled: link.dialled,
            mux: Arc::clone(&mux),
            chain: Arc::clone(&chain),
            opened: self.clock.now().tick,
            heard: Arc::new(AtomicU64::new(self.clock.now().tick.0)),
        };
        self.links.insert(number, Attached { view, frames });
        self.handle(Input::Connected { link: number, chain, dialled: link.dialled });
        let (control, hello) = begun.map(|begun| *begun).unzip();
        if let Some(hello) = hello {
            let frame = skein_protocol::wire::frame::Frame::Hello(Box::new(hello));
            if let Ok(bytes) = frame.encode() {
                self.handle(Input::Frame { link: number, bytes: bytes.into() });
            }
        }
        let run = control::Run {
            number,
            peer: view_peer(&self.links, number),
            mux,
            commands: self.handle.clone(),
            gossip: self.gossip_in.clone(),
        };
        self.tasks.spawn(run.run(control, queue));
        self.show_links();
    }

    fn gossip(&mut self, to: NodeKey, message: &[u8]) {
        let Some(link) = self.links.values().find(|link| link.view.peer == to) else { return };
        let mut frame = Vec::with_capacity(message.len() + 1);
        frame.push(skein_protocol::wire::frame::GOSSIP);
        frame.extend_from_slice(message);
        // Hints: a full queue loses them.
        let _ = link.frames.put(frame.into());
    }

    fn drain(&mut self) {
        while let Some(output) = self.engine.poll_output() {
            self.effect(output);
        }
    }

    fn effect(&mut self, output: Output) {
        match output {
            Output::Send(link, bytes) => self.send(link, bytes),
            Output::Dial(node, addresses) => self.dial(node, &addresses),
            Output::Close(link, code) => self.close(link, code),
            Output::Verify(id, job) => self.verifier.check(id, job),
            Output::Persist(id, writes) => {
                if let Err(why) = self.writer.write(id, writes) {
                    self.handle(Input::PersistFailed(id, why));
                }
            }
            Output::View(view) => {
                self.view.send_replace(view);
            }
            Output::Revoked(revocations) => {
                self.revocations.send_replace(revocations);
            }
            Output::Roots(chain) => {
                self.told_roots.send_replace(Some(chain));
            }
            Output::Policy(policy) => {
                self.policy.send_replace(policy);
            }
            Output::Probation(on) => {
                self.probation.send_replace(on);
            }
            Output::Event(event) => {
                // Lines for people must not hold up the mesh.
                let _ = self.events.try_send(event);
            }
        }
    }

    fn send(&mut self, link: LinkId, bytes: Bytes) {
        let Some(attached) = self.links.get(&link) else { return };
        if attached.frames.put(bytes).is_err() {
            // It does not read: better no link than one that is far behind.
            self.close(link, CloseCode::Timeout);
            self.handle(Input::Disconnected(link));
        }
    }

    fn close(&mut self, link: LinkId, code: CloseCode) {
        if let Some(attached) = self.links.remove(&link) {
            attached.view.mux.close(code.number(), code.text());
            self.show_links();
        }
    }

    fn show_links(&self) {
        let links = self.links.values().map(|link| (link.view.peer, link.view.clone()));
        self.shown_links.send_replace(Arc::new(links.collect()));
    }

    fn dial(&mut self, node: NodeKey, addresses: &[Address]) {
        let dial = Dial {
            addresses: order(addresses, &self.network),
            expect: Expect::Node(node),
            alpn: Alpn::Mesh,
            role: Role::Control,
        };
        let (endpoint, handle) = (self.endpoint.clone(), self.handle.clone());
        self.tasks.spawn(async move {
            let command = match endpoint.dial(dial).await {
                Ok(link) => Command::Link(Box::new(link), None),
                Err(error) => {
                    tracing::debug!(node = %node.short(), %error, "dial failed");
                    Command::Input(Box::new(Input::DialFailed(node)))
                }
            };
            handle.tell(command).await;
        });
    }

    fn dial_seed(&mut self, address: SocketAddr) {
        let dial = Dial {
            addresses: vec![address],
            expect: Expect::Member,
            alpn: Alpn::Mesh,
            role: Role::Control,
        };
        let (endpoint, handle, met) =
            (self.endpoint.clone(), self.handle.clone(), self.met.clone());
        self.tasks.spawn(async move {
            match endpoint.dial(dial).await {
                Ok(link) => {
                    let _ = met.send((address, Ok(link.identity.key))).await;
                    handle.tell(Command::Link(Box::new(link), None)).await;
                }
                Err(error) => {
                    let _ = met.send((address, Err(error.to_string()))).await;
                }
            }
        });
    }
}

fn view_peer(links: &BTreeMap<LinkId, Attached>, number: LinkId) -> Option<NodeKey> {
    links.get(&number).map(|link| link.view.peer)
}

/// The addresses of a node, those of our network first.
pub fn order(addresses: &[Address], network: &Label) -> Vec<SocketAddr> {
    let (near, far): (Vec<_>, Vec<_>) = addresses.iter().partition(|a| a.network == *network);
    near.into_iter().chain(far).map(Address::socket).collect()
}
