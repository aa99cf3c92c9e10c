//! The agent: a thin shell of sockets, clocks, disks and tasks around the pure core.
#![forbid(unsafe_code)]

pub mod api;
pub mod clock;
pub mod disk;
pub mod driver;
pub mod gossip;
pub mod keys;
pub mod cli;
pub mod identity;
pub mod keys;
pub mod link;
pub mod telemetry;
pub mod workload;
pub mod proxy;
