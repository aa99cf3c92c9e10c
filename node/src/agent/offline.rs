//! What the command line needs of the agent's parts without a running agent.

use std::net::SocketAddr;

pub(crate) use super::{
    addresses::outward,
    api::{
        admitted, created, revoke_token, token_id, token_id_of, token_infos, token_scope, validate,
    },
    seeds::resolve,
    settings::{MESH_PORT, seed},
};
pub(crate) use crate::clock::rfc3339;

/// The address by which this host most likely is reached, for the next host's line.
pub(crate) fn outward_address() -> String {
    SocketAddr::new(outward(), MESH_PORT).to_string()
}
