//! Settings: what a ServiceMesh says of the agent, as types that only hold what is allowed.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    str::FromStr,
    time::Duration,
};

use super::value::{InvalidValue, Ipv4Range, Secret, TargetAddress};
use crate::name::{Label, Locality, ServicePattern};

/// A ServiceMesh: the agent's settings, defaults filled in.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mesh {
    /// The namespace that short names mean on this host.
    pub namespace: Label,
    /// The mesh port.
    pub mesh_port: MeshPort,
    /// The port of API, metrics and dashboard.
    pub http_port: MeshPort,
    /// The DNS port.
    pub dns_port: MeshPort,
    /// Agents to join by.
    pub seeds: Vec<Seed>,
    /// The mesh's name.
    pub service_mesh: Option<Label>,
    /// Locality.
    pub service_cluster: Option<Locality>,
    /// The network whose inner addresses this agent can dial.
    pub network: Label,
    /// Who gossips with whom.
    pub gossip_cluster: Label,
    /// The file of trusted roots, relative to the document's file; `None`: `<dir>/ca.pem`.
    pub ca: Option<String>,
    /// The file of this node's chain; `None`: `<dir>/node.pem`.
    pub certificate: Option<String>,
    /// The file of this node's key; `None`: `<dir>/node.key`.
    pub key: Option<String>,
    /// The key's passphrase, else the join token.
    pub password: Option<Secret>,
    /// For registry ports that leave theirs out.
    pub service_port: Option<u16>,
    /// For registry ports that leave both out.
    pub service_target_port: Option<u16>,
    /// The ServiceDiscovery of defaults.
    pub service_discovery: Option<Label>,
    /// The TrafficManagement of defaults.
    pub traffic_policy: Option<Label>,
    /// Whether there is an access log.
    pub enable_logs: bool,
    /// Whether the log is verbose.
    pub debug: bool,
    /// Whether parts that die stay down.
    pub disable_auto_restart: bool,
    /// Whether this host is a gateway.
    pub gateway: Option<Gateway>,
    /// How agents connect.
    pub transport: Transport,
    /// How virtual addresses are bound.
    pub capture: Capture,
    /// The range of virtual addresses.
    pub virtual_addresses: Ipv4Range,
    /// How long draining lasts at most.
    pub drain: Duration,
    /// Resolvers by zone.
    pub dns_forward: BTreeMap<String, std::net::SocketAddr>,
}

/// A port of the agent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MeshPort {
    /// What others dial.
    pub port: u16,
    /// What is bound.
    pub target: u16,
    /// Whether on all interfaces (`type: LoadBalancer`).
    pub exposed: bool,
    /// The address said for this port alone.
    pub address: Option<IpAddr>,
    /// Addresses told to others (the mesh port only).
    pub advertise: Vec<Advertised>,
}

/// An address told to others.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Advertised {
    /// Its network; `None`: meshConfig.network.
    pub network: Option<Label>,
    /// IP address.
    pub ip: IpAddr,
    /// Port; `None`: the mesh port's `port`.
    pub port: Option<u16>,
}

/// An agent to join by.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seed {
    /// Its name, for people.
    pub name: Label,
    /// Where it is, resolved again and again.
    pub target: TargetAddress,
}

/// A gateway's settings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gateway {
    /// Ports to open; empty: all that services expose.
    pub ports: Vec<u16>,
    /// Services to open; empty: none.
    pub services: Vec<ServicePattern>,
    /// Whose a host name is, or a port for what names no other host.
    pub hosts: BTreeMap<String, ServicePattern>,
    /// The directory of certificates, relative to the document's file.
    pub certificates: Option<String>,
    /// Balancers before this gateway: what comes from there begins with a header of the PROXY
    /// protocol, version 2, and its word about the client is taken. Nobody else's is.
    pub proxies: Vec<Proxies>,
}

/// Addresses of balancers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Proxies {
    /// One.
    One(Ipv4Addr),
    /// A range of them.
    Range(Ipv4Range),
}

impl Proxies {
    /// Whether that is one of them.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let IpAddr::V4(ip) = ip.to_canonical() else { return false };
        match self {
            Self::One(one) => *one == ip,
            Self::Range(range) => range.contains(ip),
        }
    }
}

impl FromStr for Proxies {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        text.parse().map(Self::One).or_else(|_| text.parse().map(Self::Range))
    }
}

/// How agents connect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Transport {
    /// QUIC where it works, else TCP.
    Auto,
    /// QUIC alone.
    Quic,
    /// TCP alone.
    Tcp,
}

/// How virtual addresses are bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Capture {
    /// Redirect where allowed, else listen.
    Auto,
    /// One listener and an nft redirect.
    Redirect,
    /// A listener per address.
    Listen,
    /// None.
    Off,
}
