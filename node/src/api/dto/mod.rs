//! The shapes of the agent's API: what stands in JSON on the socket and behind `-o json`.
//!
//! A contract: keys are only ever added, never renamed, retyped or removed. Names of states,
//! results and reasons are plain text, so that an older reader meets a new one without failing.
//! The tests hold the exact bytes of each.

mod document;
mod host;
mod mesh;
mod policy;
mod revoke;
mod routes;

pub use document::*;
pub use host::*;
pub use mesh::*;
pub use policy::*;
pub use revoke::*;
pub use routes::*;
