//! The pure core of skein: what agents say to each other, what they believe, what they decide.
//!
//! The same inputs give the same outputs. Nothing here reads a clock, opens a socket, makes
//! entropy, holds a lock or awaits. The shell in `node/` and the simulator in `sim/` drive the
//! same [`engine::Engine`].
//!
//! Data moves left to right, and a module names only what stands to its left:
//!
//! ```text
//! name limits clock -> wire -> trust -> record -> membership -> store -> view -> route -> engine
//! manifest stands beside them: files that people write, to what this host says and does; caller
//! behind it: which local processes are which service
//! ```
#![forbid(unsafe_code)]
#![deny(clippy::as_conversions)]

pub mod caller;
pub mod clock;
pub mod engine;
pub mod http;
pub mod limits;
pub mod manifest;
pub mod membership;
pub mod name;
pub mod planted;
pub mod policy;
pub mod record;
pub mod route;
pub mod store;
pub mod trust;
pub mod view;
pub mod wire;
pub mod words;
