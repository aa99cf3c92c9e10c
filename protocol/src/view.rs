//! The view: what this agent believes of the mesh, as one immutable snapshot.
//!
//! A request holds one view for its whole decision. What is left out of use stays in it with
//! the reason, so that every "why not" has an answer.

use std::{collections::BTreeMap, fmt, sync::Arc};

use crate::{
    clock::Wall,
    name::{Hash, Locality, NodeKey, NodeName, ServiceName, ShortId},
    policy::Policy,
    record::node::{Address, Instance, InstanceId, ServicePort, TokenUses},
    trust::{Grant, PublicKey},
};

/// Whether a node lives, as far as this agent knows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Liveness {
    /// Answers, or nothing speaks against it.
    Alive,
    /// One witness, or a missed probe of our own.
    Suspect,
    /// Two witnesses, or our own probe and one.
    Dead,
    /// Left on purpose.
    Left,
}

impl Liveness {
    /// The word of the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Dead => "dead",
            Self::Left => "left",
        }
    }
}

/// Why an endpoint is not used, or only as last choice.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Reason {
    /// Its checks say critical.
    Critical,
    /// A person set it aside.
    Maintenance,
    /// It finishes what it has.
    Draining,
    /// Its weight is 0.
    NoWeight,
    /// Its node is suspect: last choice.
    Suspect,
    /// Its node is dead.
    Dead,
    /// Its node was lost together with many others: last choice until half of the rest confirm.
    MassLoss,
    /// Its node left.
    Left,
    /// Its node's key was revoked.
    Revoked,
    /// Its record has expired, or this host's clock is far ahead: last choice.
    Stale,
    /// Its agent started again and again of late: last choice until it is stable.
    Restarting,
    /// Its node's key is in use twice.
    Cloned,
    /// Its ports do not agree with the service's other instances.
    PortsDiffer,
    /// This agent ejected it after failures of its own calls.
    Ejected,
}

impl Reason {
    /// The word of the command line, the log and the metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Maintenance => "maintenance",
            Self::Draining => "draining",
            Self::NoWeight => "weight_0",
            Self::Suspect => "suspect",
            Self::Dead => "dead",
            Self::MassLoss => "mass_loss",
            Self::Left => "left",
            Self::Revoked => "revoked",
            Self::Stale => "stale",
            Self::Restarting => "restarting",
            Self::Cloned => "cloned",
            Self::PortsDiffer => "ports_differ",
            Self::Ejected => "ejected",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Whether the balancer may pick an endpoint.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Use {
    /// Yes.
    Yes,
    /// Only when nothing better is left.
    LastChoice(Reason),
    /// No.
    No(Reason),
}

impl Use {
    /// The reason, where there is one.
    pub fn reason(self) -> Option<Reason> {
        match self {
            Self::Yes => None,
            Self::LastChoice(reason) | Self::No(reason) => Some(reason),
        }
    }
}

/// A node as this agent sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeView {
    /// Its identity.
    pub key: NodeKey,
    /// The head of its id.
    pub short: ShortId,
    /// The name in its grant.
    pub name: NodeName,
    /// What its newest certificate allows.
    pub grant: Arc<Grant>,
    /// Where it is.
    pub locality: Locality,
    /// Where its agent is dialled.
    pub addresses: Vec<Address>,
    /// Whether it lives.
    pub liveness: Liveness,
    /// Its boot.
    pub boot: u64,
    /// The generation of its chitchat id.
    pub gossip_generation: u64,
    /// The sequence of its newest record.
    pub sequence: u64,
    /// What names that record.
    pub hash: Hash,
    /// The version of its agent.
    pub version: String,
    /// Whether it holds an issuer.
    pub issuer: bool,
    /// The certificate of that issuer, as it says.
    pub held_issuer: Option<Arc<Vec<u8>>>,
    /// What it says of join tokens. It counts only from who holds an issuer.
    pub tokens: Arc<TokenUses>,
    /// The root that its certificate leads to.
    pub root: PublicKey,
    /// Whether nothing that it stands on has ended: its key, its issuer, its root.
    pub certified: bool,
    /// Whether it says that its disk cannot be written.
    pub unwritten: bool,
    /// Until when the newest certificate that it has shown holds.
    pub not_after: Wall,
}

/// An instance of a service somewhere in the mesh.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Endpoint {
    /// The node that serves it.
    pub node: Arc<NodeView>,
    /// What the node says of it.
    pub instance: Arc<Instance>,
    /// Whether it may be picked.
    pub usable: Use,
}

/// What tells endpoints apart: the node's key and the instance's id on it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EndpointKey {
    /// The serving node.
    pub node: NodeKey,
    /// The instance there.
    pub instance: InstanceId,
}

impl Endpoint {
    /// What tells it apart from others.
    pub fn key(&self) -> EndpointKey {
        EndpointKey { node: self.node.key, instance: self.instance.id.clone() }
    }

    /// `node/document/endpoint`, as the command line names it.
    pub fn id(&self) -> String {
        format!("{}/{}", self.node.name, self.instance.id)
    }
}

/// A service: the ports that its instances agree on, and every instance with its usability.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServiceView {
    /// Its name.
    pub name: ServiceName,
    /// Its ports, sorted by number.
    pub ports: Vec<ServicePort>,
    /// Its endpoints, sorted by [`EndpointKey`].
    pub endpoints: Vec<Endpoint>,
}

impl ServiceView {
    /// The port of that number.
    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.port == number)
    }
}

/// The mesh as this agent believes it to be.
#[derive(Clone, Debug)]
pub struct View {
    /// Rises with every new view of this agent.
    pub number: u64,
    /// This agent's own key.
    pub me: NodeKey,
    /// Where this agent is.
    pub locality: Locality,
    /// The hash over all heads: equal on agents that believe the same records.
    pub records_root: Hash,
    /// The hash over revocations, voids, issuers and roots.
    pub revocation_root: Hash,
    /// The hash over policy heads.
    pub policy_root: Hash,
    /// The mesh-wide documents, and what they decide.
    pub policy: Arc<Policy>,
    /// Every node known, this one too.
    pub nodes: BTreeMap<NodeKey, Arc<NodeView>>,
    /// Every service known.
    pub services: BTreeMap<ServiceName, Arc<ServiceView>>,
}
