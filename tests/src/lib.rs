//! What whole-agent tests share: hosts that run the real binary, a mesh of them, servers, load,
//! a lossy relay, network namespaces.
//!
//! Rules of the house: no sleep stands for a condition ([`wait::until`] has a deadline and says
//! what it waited for), no test is tried again, every process dies with its test, and what needs
//! root is marked `#[ignore]` and named `root_...`, so that leaving it out is never a pass.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test that cannot be set up must stop, with its reason"
)]

pub mod address;
pub mod binary;
pub mod echo;
pub mod figure;
pub mod host;
pub mod load;
pub mod manifest;
pub mod mesh;
pub mod namespace;
pub mod process;
pub mod relay;
pub mod server;
pub mod wait;
pub mod web;
