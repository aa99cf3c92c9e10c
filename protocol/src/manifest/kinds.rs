//! The kinds: what documents mean, as types that only hold what is allowed.
//!
//! What meshConfig may fill in (a registry's ports) is still open here; [`super::plan`] closes it.

use std::{collections::BTreeMap, fmt, net::IpAddr, time::Duration};

use serde::{Deserialize, Serialize};

pub use super::settings::{Advertised, Capture, Gateway, Mesh, MeshPort, Proxies, Seed, Transport};
use super::value::{HostAddress, Image, InvalidValue, TargetAddress, invalid};
use crate::{
    name::{Label, NamePattern, NodeName, ServiceName, ServicePattern, Tag, VersionText},
    record::node::Protocol,
    route::{PortRef, Subset},
};

/// The kinds of documents.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// This host serves this.
    ServiceRegistry,
    /// This host uses that.
    ServiceDiscovery,
    /// The agent and its mesh.
    ServiceMesh,
    /// How traffic to a service behaves. Mesh-wide.
    TrafficManagement,
    /// Who may call what. Mesh-wide.
    AccessPolicy,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::ServiceRegistry,
        Self::ServiceDiscovery,
        Self::ServiceMesh,
        Self::TrafficManagement,
        Self::AccessPolicy,
    ];

    /// As written in `kind:`.
    pub fn word(self) -> &'static str {
        match self {
            Self::ServiceRegistry => "ServiceRegistry",
            Self::ServiceDiscovery => "ServiceDiscovery",
            Self::ServiceMesh => "ServiceMesh",
            Self::TrafficManagement => "TrafficManagement",
            Self::AccessPolicy => "AccessPolicy",
        }
    }

    /// The kind of that word, in any case: `serviceregistry` too.
    pub fn from_word(word: &str) -> Option<Self> {
        let same = |kind: &Self| kind.word().eq_ignore_ascii_case(word);
        Self::ALL.into_iter().find(same)
    }

    /// Whether it holds for the whole mesh and needs an operator's signature.
    pub fn is_mesh_wide(self) -> bool {
        matches!(self, Self::TrafficManagement | Self::AccessPolicy)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What tells documents apart: kind, namespace and name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct DocumentId {
    /// Its kind.
    pub kind: Kind,
    /// Its namespace.
    pub namespace: Label,
    /// Its name.
    pub name: Label,
}

impl fmt::Display for DocumentId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind, self.namespace, self.name)
    }
}

/// A ServiceRegistry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Registry {
    /// The service it registers instances of.
    pub service: ServiceName,
    /// What runs there.
    pub image: Option<Image>,
    /// Said outright; else the image's tag.
    pub version: Option<VersionText>,
    /// Its ports; empty: one by meshConfig.
    pub ports: Vec<RegistryPort>,
    /// Its instances; empty: one at 127.0.0.1.
    pub endpoints: Vec<RegistryEndpoint>,
    /// Relative share of calls.
    pub weight: u32,
    /// Tags of all its instances.
    pub tags: Vec<Tag>,
    /// Free text.
    pub meta: BTreeMap<String, String>,
    /// Whether what it registers runs elsewhere.
    pub external: bool,
    /// The local processes that are this service.
    pub workload: Option<Process>,
    /// Checks of each endpoint.
    pub checks: Vec<Check>,
    /// What starts it. Not carried out by this version.
    pub run: Option<Run>,
    /// The name that the certificate behind must have, if the agent speaks TLS to it.
    pub tls: Option<String>,
}

/// A port of a ServiceRegistry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RegistryPort {
    /// Its name.
    pub name: Label,
    /// What callers dial; `None`: meshConfig.servicePort.
    pub port: Option<u16>,
    /// What the process listens on.
    pub target: Option<u16>,
    /// What it speaks.
    pub protocol: Protocol,
    /// Whether gateways open it (`type: LoadBalancer`).
    pub exposed: bool,
    /// Host names, for gateways that share a port.
    pub hosts: Vec<String>,
    /// Whether the process is told the client by the PROXY protocol, version 2.
    pub proxy_protocol: bool,
}

/// An endpoint of a ServiceRegistry.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RegistryEndpoint {
    /// Its name, the last part of the instance's id.
    pub name: Label,
    /// Where it listens.
    pub address: HostAddress,
    /// The process's port behind the first port.
    pub port: Option<u16>,
    /// The process's ports by port name.
    pub ports: BTreeMap<Label, u16>,
    /// Its version, where it differs from the document's.
    pub version: Option<VersionText>,
    /// Its weight, where it differs.
    pub weight: Option<u32>,
    /// Tags besides the document's.
    pub tags: Vec<Tag>,
}

/// Local processes: those of a systemd unit, or of a user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Process {
    /// The last part of the cgroup's path that ends in `.service` or `.scope`.
    Unit(String),
    /// The user's name or number.
    User(String),
}

/// What starts a service.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Run {
    /// A systemd unit.
    Unit(String),
    /// The agent's own child.
    Command(Vec<String>),
}

/// A check of an endpoint.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Check {
    /// Its name, unique in the document: what `ttl` reports name.
    pub name: Label,
    /// What it does.
    pub kind: CheckKind,
    /// From the start of one run to the start of the next.
    pub interval: Duration,
    /// A run that takes longer has failed. At most the interval.
    pub timeout: Duration,
    /// Failures in a row until the instance is critical.
    pub failures_before_critical: u32,
    /// Successes in a row until it passes again.
    pub successes_before_passing: u32,
    /// Which port it asks; `None`: the first.
    pub port: Option<PortRef>,
}

/// What a check does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CheckKind {
    /// Connects.
    Tcp,
    /// GETs a path: 2xx passes, 429 warns, all else fails.
    Http {
        /// The path with its query.
        path: String,
        /// The Host header; the address where left out.
        host: Option<String>,
    },
    /// Waits for reports; critical when none came for this long.
    Ttl(Duration),
    /// Runs a command: 0 passes, 1 warns, all else fails.
    Exec(Vec<String>),
    /// Asks systemd whether a unit is active.
    Unit(String),
}

impl CheckKind {
    /// As written in `type:`.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http { .. } => "http",
            Self::Ttl(_) => "ttl",
            Self::Exec(_) => "exec",
            Self::Unit(_) => "unit",
        }
    }
}

/// A ServiceDiscovery.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Discovery {
    /// The service, if said.
    pub service: Option<ServiceName>,
    /// Only instances of this image and version.
    pub image: Option<Image>,
    /// As which service callers here count.
    pub source: Option<ServiceName>,
    /// Who may connect here.
    pub allow: Option<Process>,
    /// What to listen on.
    pub ports: Vec<DiscoveryPort>,
    /// Static fallback while no live instance is known.
    pub fallback: Vec<Fallback>,
    /// Which instances.
    pub subset: Subset,
}

/// A port of a ServiceDiscovery.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiscoveryPort {
    /// Its name.
    pub name: Label,
    /// Where it listens.
    pub listen: Listen,
    /// The service's port.
    pub target: PortRef,
    /// Whether who comes in here counts as outside.
    pub exposed: bool,
    /// What it speaks, if said or named.
    pub protocol: Protocol,
}

/// Where a listener is bound.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Listen {
    /// On loopback: 127.0.0.1, or the agent's own loopback address.
    Loopback(u16),
    /// On all interfaces; on the agent's own address when that is a loopback address.
    All(u16),
    /// As the document says.
    Address(IpAddr, u16),
    /// On a unix socket.
    Unix(String),
}

impl Listen {
    /// The address to bind, `bind` being the agent's `--bind`; `None` for a unix socket.
    pub fn socket(&self, bind: Option<IpAddr>) -> Option<std::net::SocketAddr> {
        let own = bind.filter(IpAddr::is_loopback);
        let (ip, port) = match self {
            Self::Loopback(port) => (own.unwrap_or_else(|| [127, 0, 0, 1].into()), *port),
            Self::All(port) => (own.unwrap_or_else(|| [0, 0, 0, 0].into()), *port),
            Self::Address(ip, port) => (*ip, *port),
            Self::Unix(_) => return None,
        };
        Some((ip, port).into())
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{path}"),
            Self::Loopback(_) | Self::All(_) | Self::Address(..) => match self.socket(None) {
                Some(address) => address.fmt(f),
                None => Ok(()),
            },
        }
    }
}

/// A static endpoint of a ServiceDiscovery.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fallback {
    /// Its name.
    pub name: Label,
    /// Where it is.
    pub target: TargetAddress,
}

/// What a mesh-wide policy is about.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Destination {
    /// One service.
    Service(ServiceName),
    /// All of a namespace.
    Namespace(Label),
    /// The mesh.
    Mesh,
}

impl Destination {
    /// Whether it takes in that service.
    pub fn covers(&self, service: &ServiceName) -> bool {
        match self {
            Self::Service(name) => name == service,
            Self::Namespace(namespace) => namespace == service.namespace(),
            Self::Mesh => true,
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(name) => name.fmt(f),
            Self::Namespace(namespace) => write!(f, "{namespace}/*"),
            Self::Mesh => f.write_str("*/*"),
        }
    }
}

/// An AccessPolicy: validated, in force only once an operator signed it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Access {
    /// What it is about.
    pub destination: Destination,
    /// What it does there.
    pub effect: AccessEffect,
    /// Whether it decides, or only tells what it would have done.
    pub enforced: bool,
    /// Who calls: one of these; `None` is anybody.
    pub from: Option<Vec<Caller>>,
    /// What is called: one of these; `None` is anything.
    pub to: Option<Vec<Called>>,
}

/// A caller that an AccessPolicy is about: all that is said must hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Caller {
    /// The service that it was proven to be.
    pub service: Option<ServicePattern>,
    /// The name in its node's grant.
    pub node: Option<NodePattern>,
    /// Whether it came in by a gateway.
    pub outside: Option<bool>,
}

/// What an AccessPolicy is about at its destination: all that is said must hold.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Called {
    /// The service's port.
    pub port: Option<u16>,
    /// HTTP methods; empty is any.
    pub methods: Vec<String>,
    /// Paths, exact or ending in `*`; empty is any.
    pub paths: Vec<String>,
}

impl Called {
    /// Whether a request must be read to know.
    pub fn needs_http(&self) -> bool {
        !self.methods.is_empty() || !self.paths.is_empty()
    }
}

/// Node names, `*` standing for any run of characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct NodePattern(NamePattern);

impl NodePattern {
    /// The pattern of that text: what a node's name may hold, and `*`.
    pub fn new(text: &str) -> Result<Self, InvalidValue> {
        text.parse().map(Self).map_err(|_| {
            invalid(
                format!("`{text}` is no pattern of node names"),
                "write a node's name as `skein members` shows it; `*` stands for any characters",
            )
        })
    }

    /// Whether that name is meant.
    pub fn covers(&self, name: &NodeName) -> bool {
        self.0.covers(name)
    }
}

impl fmt::Display for NodePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.service.iter().map(ToString::to_string));
        parts.extend(self.node.iter().map(|node| format!("node {node}")));
        parts.extend(self.outside.map(|outside| if outside { "outside" } else { "inside" }.into()));
        f.write_str(if parts.is_empty() { "anybody" } else { "" })?;
        f.write_str(&parts.join(" on "))
    }
}

/// What an access policy does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum AccessEffect {
    /// Allows what matches.
    Allow,
    /// Denies what matches.
    Deny,
    /// What nothing matches is allowed.
    DefaultAllow,
    /// What nothing matches is denied.
    DefaultDeny,
}
