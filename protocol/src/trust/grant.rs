//! The grant: what a node certificate allows its holder.

use serde::{Deserialize, Serialize};

use crate::name::{Locality, NodeName, ServiceName, ServicePattern};

/// A part that a node may play besides serving and calling.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Role {
    /// Carries between gossip clusters.
    Relay,
    /// Opens services to callers outside of the mesh.
    Gateway,
}

/// What an issuer certified of a node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Grant {
    /// Its name, unique among live keys.
    pub name: NodeName,
    /// The services that it may speak for, sorted.
    pub services: Vec<ServicePattern>,
    /// Its further parts, sorted.
    pub roles: Vec<Role>,
    /// Where it must say it is; `None` is anywhere (`*`).
    pub zone: Option<Locality>,
}

impl Grant {
    /// Whether the node may speak for `service`.
    pub fn covers(&self, service: &ServiceName) -> bool {
        self.services.iter().any(|pattern| pattern.covers(service))
    }
}
