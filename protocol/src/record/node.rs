//! What a host says of itself: the contents of its node record.
//!
//! Each struct that derives the wire traits is the frozen layout of one section: new things are
//! new sections. Text that is only shown is bounded where the record is built and where it is
//! read.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::{
    clock::Wall,
    limits,
    name::{Label, Locality, NodeName, ServiceName, Tag, VersionText},
};

/// What a node says of its own state.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum NodeState {
    /// Serves and calls.
    Up,
    /// Finishes what it has, takes nothing new.
    Draining,
    /// Has left, or ended in order and may come back. Its endpoints are gone.
    Left,
    /// Has found its key in use on another host, and serves nothing until a person decides.
    Fenced,
}

/// Section 1: who speaks.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Host {
    /// Rises with every start of the agent: max(persisted + 1, unix ms).
    pub boot: u64,
    /// The generation of its chitchat id: rises within a boot when that task is started again.
    pub gossip_generation: u64,
    /// The name, equal to the grant's.
    pub name: NodeName,
    /// Where it is.
    pub locality: Locality,
    /// What it is about to do.
    pub state: NodeState,
    /// The agent's version.
    pub version: VersionText,
    /// Its disk cannot be written: over a restart it may forget what it was told since.
    pub unwritten: bool,
}

/// An address at which the mesh port of a node is dialled.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Address {
    /// Agents of one network dial each other's addresses of that network first.
    pub network: Label,
    /// IP address.
    pub ip: IpAddr,
    /// UDP port, and TCP on the same number.
    pub port: u16,
}

impl Address {
    /// As a socket address.
    pub fn socket(&self) -> SocketAddr {
        SocketAddr::new(self.ip, self.port)
    }
}

/// Section 2: where it is reached.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Addresses(pub Vec<Address>);

/// What a port speaks.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Protocol {
    /// Not said: the first bytes decide.
    Sniff,
    /// Bytes, never parsed.
    Tcp,
    /// HTTP/1.1.
    Http,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// gRPC over HTTP/2.
    Grpc,
}

/// A port of a service as callers see it. What lies behind it is the serving host's own matter.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct ServicePort {
    /// Its name.
    pub name: Label,
    /// What the caller dials.
    pub port: u16,
    /// What it speaks.
    pub protocol: Protocol,
    /// Whether gateways open it to callers outside of the mesh.
    pub exposed: bool,
    /// Host names by which gateways tell services on one port apart.
    pub hosts: Vec<String>,
}

/// What the checks of an instance found.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Health {
    /// All well.
    Passing,
    /// Works, with a complaint.
    Warning,
    /// Must not get calls.
    Critical,
    /// Set aside by a person.
    Maintenance,
    /// Finishes what it has, takes nothing new.
    Draining,
}

impl Health {
    /// The word of the command line and of other registries.
    pub fn word(self) -> &'static str {
        match self {
            Self::Passing => "passing",
            Self::Warning => "warning",
            Self::Critical => "critical",
            Self::Maintenance => "maintenance",
            Self::Draining => "draining",
        }
    }
}

/// One instance of a service on a host.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Instance {
    /// `document/endpoint`: unique on the host.
    pub id: InstanceId,
    /// The service it is an instance of.
    pub service: ServiceName,
    /// The ports it serves.
    pub ports: Vec<ServicePort>,
    /// What its checks found.
    pub health: Health,
    /// Relative share of calls; 0 takes none.
    pub weight: u32,
    /// Its version.
    pub version: Option<VersionText>,
    /// The image that runs there.
    pub image: Option<String>,
    /// Tags, by which subsets pick.
    pub tags: Vec<Tag>,
    /// Free text for people and for clients of other registries.
    pub meta: Vec<(String, String)>,
    /// Where the process listens on its host, for people: `127.0.0.1:8080`, `unix:/run/x.sock`.
    pub target: String,
    /// Why a person set it aside, if one did and said so.
    pub set_aside: Option<String>,
}

/// `document/endpoint` of the host that serves it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct InstanceId {
    /// The name of the document that registered it.
    pub document: Label,
    /// The endpoint's name in the document.
    pub endpoint: Label,
}

impl std::fmt::Display for InstanceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.document, self.endpoint)
    }
}

/// Section 3: what it serves.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Instances(pub Vec<Instance>);

/// Section 4: the uses of join tokens at an issuing host. It counts for the whole mesh: what all
/// live issuers say together decides.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct TokenUses {
    /// Tokens that were used, sorted by id.
    pub used: Vec<TokenUse>,
    /// Tokens that the host revoked, sorted, each with the time from which on it is over anyway.
    pub revoked: Vec<([u8; 16], Wall)>,
}

/// A token that was used at the host.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct TokenUse {
    /// Its id.
    pub id: [u8; 16],
    /// How often.
    pub uses: u32,
    /// Until when it is good: after that it is forgotten.
    pub until: Wall,
}

impl TokenUses {
    /// How often that token was used here.
    pub fn uses_of(&self, id: &[u8; 16]) -> u32 {
        self.used.iter().find(|one| one.id == *id).map_or(0, |one| one.uses)
    }

    /// Whether that token was revoked here.
    pub fn is_revoked(&self, id: &[u8; 16]) -> bool {
        self.revoked.iter().any(|(revoked, _)| revoked == id)
    }

    /// Forgets what is over by `now`.
    pub fn forget(&mut self, now: Wall) {
        let holds = |until: &Wall| until.after(limits::CLOCK_SKEW) >= now;
        self.used.retain(|one| holds(&one.until));
        self.revoked.retain(|(_, until)| holds(until));
    }
}

/// Section 5: the issuer certificate that the host holds, as DER.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct HeldIssuer(pub Option<Vec<u8>>);

/// All that a node record says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeRecord {
    /// Section 1.
    pub host: Host,
    /// Section 2.
    pub addresses: Addresses,
    /// Section 3.
    pub instances: Instances,
    /// Section 4.
    pub tokens: TokenUses,
    /// Section 5.
    pub issuer: HeldIssuer,
}

/// What is wrong with the contents of a node record that is signed as it must be.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unfit {
    /// More of something than its bound.
    #[error("{what}: {count}, at most {limit}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
    /// Two instances with one id.
    #[error("instance {0} stands twice")]
    Twice(InstanceId),
    /// Not sorted as it must be, so that one meaning has one form.
    #[error("{0} out of order")]
    Unsorted(&'static str),
    /// A text over its bound or with control characters.
    #[error("{0} is too long or has control characters")]
    Text(&'static str),
}

fn at_most(what: &'static str, count: usize, limit: usize) -> Result<(), Unfit> {
    if count > limit { Err(Unfit::TooMany { what, count, limit }) } else { Ok(()) }
}

fn shown(what: &'static str, text: &str, limit: usize) -> Result<(), Unfit> {
    if text.len() > limit || text.chars().any(char::is_control) {
        Err(Unfit::Text(what))
    } else {
        Ok(())
    }
}

/// A text that is only shown.
pub const SHOWN_BYTES: usize = 256;

impl NodeRecord {
    /// Checks what a signature cannot prove: counts, order and the length of texts.
    pub fn check(&self) -> Result<(), Unfit> {
        at_most("addresses", self.addresses.0.len(), limits::ADDRESSES_MAX)?;
        at_most("instances", self.instances.0.len(), limits::INSTANCES_MAX)?;
        let ids = self.instances.0.iter().map(|instance| &instance.id);
        for (id, next) in ids.clone().zip(ids.skip(1)) {
            if id == next {
                return Err(Unfit::Twice(id.clone()));
            }
            if id > next {
                return Err(Unfit::Unsorted("instances"));
            }
        }
        self.instances.0.iter().try_for_each(Instance::check)
    }
}

impl Instance {
    fn check(&self) -> Result<(), Unfit> {
        at_most("ports", self.ports.len(), limits::PORTS_MAX)?;
        at_most("tags", self.tags.len(), limits::PORTS_MAX)?;
        at_most("meta", self.meta.len(), limits::PORTS_MAX)?;
        shown("target", &self.target, SHOWN_BYTES)?;
        shown("set_aside", self.set_aside.as_deref().unwrap_or_default(), SHOWN_BYTES)?;
        shown("image", self.image.as_deref().unwrap_or_default(), SHOWN_BYTES)?;
        for port in &self.ports {
            at_most("hosts", port.hosts.len(), limits::PORTS_MAX)?;
            port.hosts.iter().try_for_each(|host| shown("host", host, SHOWN_BYTES))?;
        }
        self.meta.iter().try_for_each(|(key, value)| {
            shown("meta", key, SHOWN_BYTES).and_then(|()| shown("meta", value, SHOWN_BYTES))
        })
    }
}
