//! The proxy: carries TCP between applications on this host and services of the mesh.
//!
//! ```text
//! application -> listener -> who -> route (pool) -> stream head -> peer's agent   outbound
//! peer's agent -> head -> admit -> application                                    inbound
//! ```
//!
//! In:    views, what this host serves, which listeners it wants, streams that peers open.
//! Out:   bytes, one [`Connection`] for each that ended, problems of listeners.
//! Traffic rules say where a call goes, how often it is tried, and how many there may be. Where
//! they are about requests, `http` reads these; else bytes are carried as they are.
//! Never: of bytes, sends one of the caller before `ok`, tries another endpoint after it, or keeps
//!        more than two buffers.
//!
//! A destination on this host skips the wire, not the checks.

mod client_address;
mod clients;
mod copy;
mod door;
mod guard;
mod http;
mod inbound;
mod listener;
mod look;
mod outbound;
mod pool;
mod redirect;
mod socket;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod traffic;
pub mod virtual_address;
mod who;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use skein_protocol::{
    caller::{Processes, Workloads},
    limits,
    name::{NodeKey, ServiceName},
    record::node::{InstanceId, Protocol},
    route::{CloseReason, EndpointState, PortRef, Subset},
    trust::Grant,
    view::{ServiceView, View},
    wire::stream::{Source, StreamHead},
};
use tokio::{
    runtime::Handle,
    sync::{Semaphore, watch},
};

pub use door::Door;
pub use guard::{Drained, Live, Peer};
pub use listener::{Inherited, ListenProblem, Listening};
pub use redirect::{Captured, Capturing};
pub use socket::Socket;
pub use traffic::Traffic;
pub use who::{Arrival, Identify, Nobody};

use crate::link::mux::{BoxFuture, Mux};
use guard::Guard;
use http::ProcessPool;
use look::Spoken;
use pool::Pool;
use traffic::Meters;

/// Why a peer could not be reached, for people.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct DialError(pub String);

/// Gives the data connection to a peer.
pub trait Dialer: Send + Sync {
    /// The live data connection to `node`, dialled if there is none. All who ask share one dial,
    /// and it goes on when the future is dropped: a caller that cannot wait tries another
    /// endpoint, and the next one finds the link there.
    fn data(&self, node: NodeKey) -> BoxFuture<'_, Result<Arc<dyn Mux>, DialError>>;
}

/// Who a node is: what its verified chain says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerIdentity {
    /// Its key.
    pub key: NodeKey,
    /// What it may do.
    pub grant: Grant,
}

/// Decides whether a call is allowed, after the source's name was checked against the grant.
pub trait Authorise: Send + Sync {
    /// The error is shown to people on both sides: it says which rule, and what to do.
    fn authorise(
        &self,
        caller: &PeerIdentity,
        head: &StreamHead,
        request: Option<Requested<'_>>,
    ) -> Result<(), String>;

    /// Waits until a call that was allowed no longer is, and says why. Dropped with the call.
    fn forbidden<'a>(
        &'a self,
        _: &'a PeerIdentity,
        _: &'a StreamHead,
        _: Option<Requested<'a>>,
    ) -> BoxFuture<'a, String> {
        Box::pin(std::future::pending())
    }

    /// Whether it decides by what requests to that service say.
    fn reads_requests(&self, _: &ServiceName) -> bool {
        false
    }
}

/// What a policy sees of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Requested<'a> {
    /// The method.
    pub method: &'a str,
    /// The path in its canonical form.
    pub path: &'a str,
}

/// Allows every call.
#[derive(Clone, Copy, Debug, Default)]
pub struct AllowAll;

impl Authorise for AllowAll {
    fn authorise(
        &self,
        _: &PeerIdentity,
        _: &StreamHead,
        _: Option<Requested<'_>>,
    ) -> Result<(), String> {
        Ok(())
    }
}

/// Says how traffic behaves.
pub trait Behave: Send + Sync {
    /// The rules of this moment. Asked once for each call, which keeps to them.
    fn now(&self) -> Arc<Traffic>;
}

/// Is told of each connection that was taken and of each that ended. Must not block.
pub trait Observer: Send + Sync {
    /// The serving side took a connection. It is open for as long as what comes back lives.
    fn opened(&self, _: Direction, _: &ServiceName) -> Option<Box<dyn Send + Sync>> {
        None
    }

    /// `connection` has ended, or was refused.
    fn finished(&self, connection: &Connection);
}

/// Which way a connection went.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Direction {
    /// From an application on this host.
    Outbound,
    /// From a peer's agent to an application on this host.
    Inbound,
}

/// What the access log says of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RequestLine {
    /// The method.
    pub method: String,
    /// The path, without the query: that may hold secrets.
    pub path: String,
    /// The status of the answer; 0 where there is none.
    pub status: u16,
}

/// A connection or a request that has ended: a line of the access log.
#[derive(Clone, PartialEq, Debug)]
pub struct Connection {
    /// Which way.
    pub direction: Direction,
    /// The listener it came in by; empty for inbound.
    pub listener: String,
    /// The service called, where it is known.
    pub service: Option<ServiceName>,
    /// The port called, as the service's callers see it; 0 where it is unknown.
    pub port: u16,
    /// Who called.
    pub source: Source,
    /// The application's address, where it is known.
    pub client: Option<SocketAddr>,
    /// The other agent; `None` when the call stayed on this host or went nowhere.
    pub peer: Option<NodeKey>,
    /// The endpoint it went to last: `node/document/endpoint`, or an address.
    pub endpoint: Option<String>,
    /// The request; `None` where bytes were carried.
    pub request: Option<RequestLine>,
    /// How it ended.
    pub reason: CloseReason,
    /// More about the reason, for people; may be empty.
    pub detail: String,
    /// Bytes from the caller to the service.
    pub up: u64,
    /// Bytes from the service to the caller.
    pub down: u64,
    /// From accept until the serving side said `ok`; zero where it did not.
    pub connected: Duration,
    /// From accept to end.
    pub duration: Duration,
    /// Endpoints tried.
    pub tries: u32,
}

/// Where an application is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Target {
    /// A TCP port.
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
    /// A host outside of the mesh, by name; resolved at each connect.
    Host {
        /// Its name.
        host: String,
        /// Its port.
        port: u16,
    },
}

/// An instance that this host serves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalInstance {
    /// `document/endpoint`.
    pub id: InstanceId,
    /// Whether it takes new calls: false while it drains or is in maintenance.
    pub takes: bool,
    /// Where the application is.
    pub target: Target,
    /// What it speaks there.
    pub protocol: Protocol,
    /// Whether it is told the client by the PROXY protocol, version 2.
    pub proxy_protocol: bool,
}

/// What this host is and serves, as one snapshot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LocalServices {
    /// This node.
    pub me: PeerIdentity,
    /// This agent's boot.
    pub boot: u64,
    /// Whether the whole node drains.
    pub draining: bool,
    /// Whether this node may not know the mesh's policy, and so takes no calls yet.
    pub probation: bool,
    /// Instances by service and the port that callers dial.
    pub instances: BTreeMap<(ServiceName, u16), Vec<LocalInstance>>,
    /// Which local processes are which service.
    pub workloads: Workloads,
}

/// Where a listener is bound. TCP before unix, by address.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Bind {
    /// A TCP port; port 0 lets the system choose (see [`Listening::bound`]).
    Tcp(SocketAddr),
    /// A unix socket.
    Unix(PathBuf),
}

/// What comes in at a listener goes there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListenerSpec {
    /// Who asks for it, for logs and problems: `ServiceDiscovery shop/checkout`.
    pub name: String,
    /// The service.
    pub service: ServiceName,
    /// Its port.
    pub port: PortRef,
    /// By whom, as whom, to which instances.
    pub terms: Terms,
    /// Whether they come from outside the mesh.
    pub outside: bool,
    /// Where a port of a gateway leads; `None`: to this service.
    pub door: Option<Box<Door>>,
}

/// What a ServiceDiscovery says of the calls to a service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Terms {
    /// Which one, for people: `ServiceDiscovery shop/checkout`.
    pub document: Option<String>,
    /// Which instances; an image pattern is part of it.
    pub subset: Subset,
    /// What the calls count as; `Node`: as what each caller is proven to be.
    pub source: Source,
    /// The only processes that may call; `None`: all.
    pub allow: Option<Processes>,
    /// Tried in order while no live instance is known.
    pub fallback: Vec<Target>,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            document: None,
            subset: Subset::default(),
            source: Source::Node,
            allow: None,
            fallback: Vec::new(),
        }
    }
}

/// Every listener that this host wants.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Listeners(pub BTreeMap<Bind, Arc<ListenerSpec>>);

/// What the proxy stands on.
pub struct Parts {
    /// The mesh.
    pub view: watch::Receiver<Arc<View>>,
    /// This host.
    pub local: watch::Receiver<Arc<LocalServices>>,
    /// Links to peers.
    pub dialer: Arc<dyn Dialer>,
    /// How traffic behaves.
    pub traffic: Arc<dyn Behave>,
    /// Policy.
    pub authorise: Arc<dyn Authorise>,
    /// Who local callers are.
    pub identify: Arc<dyn Identify>,
    /// With which certificates TLS of those outside ends here; `None`: with none.
    pub certificates: watch::Receiver<Option<Arc<rustls::ServerConfig>>>,
    /// Sockets of listeners that somebody else keeps.
    pub inherited: Inherited,
    /// The access log and the metrics.
    pub observer: Arc<dyn Observer>,
    /// Where connections run.
    pub runtime: Handle,
    /// The seed of the balancer's choices.
    pub seed: u64,
    /// How long things may take.
    pub timeouts: Timeouts,
}

/// How long things may take. The defaults are those of [`limits`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Timeouts {
    /// A peer's stream head: [`limits::HEAD_TIMEOUT`].
    pub head: Duration,
    /// Connecting to an application: [`limits::CONNECT_TIMEOUT`].
    pub connect: Duration,
    /// The reply of one endpoint while there are others: [`limits::REPLY_TIMEOUT`].
    pub reply: Duration,
    /// A connection on which nothing moves: [`limits::IDLE_TIMEOUT`].
    pub idle: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            head: limits::HEAD_TIMEOUT,
            connect: limits::CONNECT_TIMEOUT,
            reply: limits::REPLY_TIMEOUT,
            idle: limits::IDLE_TIMEOUT,
        }
    }
}

/// The data plane of this agent.
pub struct Proxy {
    parts: Parts,
    pool: Arc<Pool>,
    meters: Arc<Meters>,
    guard: Guard,
    clients: clients::Clients,
    processes: Arc<ProcessPool>,
    spoken: Spoken,
    /// Copies that may be on their way.
    mirrors: Arc<Semaphore>,
}

impl Proxy {
    /// A proxy with nothing open.
    pub fn new(parts: Parts) -> Arc<Self> {
        let pool = Arc::new(Pool::new(parts.seed));
        let meters = Arc::new(Meters::new(parts.seed));
        let guard = Guard::new(limits::CONNECTIONS_MAX, limits::STREAMS_MAX);
        let mirrors = Arc::new(Semaphore::new(limits::MIRRORS_MAX));
        let processes = Arc::new(ProcessPool::new(parts.runtime.clone()));
        let spoken = Spoken::default();
        let clients = clients::Clients::default();
        Arc::new(Self { parts, pool, meters, guard, clients, processes, spoken, mirrors })
    }

    /// What this agent's own calls say of a service's endpoints, in the view's order.
    pub fn states(&self, service: &ServiceView) -> Vec<EndpointState> {
        self.pool.states(service)
    }

    /// Connections that are open now.
    pub fn live(&self) -> Live {
        self.guard.live()
    }

    /// Forgets what is no longer in the view. To be called when the view changes.
    pub fn retain(&self, view: &View) {
        self.pool.retain(view);
        self.meters.retain(view);
        self.spoken.retain(view);
    }

    /// Takes no further stream of a peer, waits at most `patience` for connections to end, then
    /// cuts the rest. This host's own applications may call until then.
    pub async fn drain(&self, patience: Duration) -> Drained {
        self.guard.drain(patience).await
    }

    /// A peer whose link has come up. Its streams are counted against it, those of all its links
    /// together, while the value, or a stream of it, lives.
    pub fn peer(&self, identity: PeerIdentity) -> Peer {
        self.guard.peer(identity)
    }
}
