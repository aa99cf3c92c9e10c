//! The agent: a thin shell of sockets, clocks, disks and tasks around the pure core.
#![forbid(unsafe_code)]

pub mod agent;
pub mod api;
pub mod caller;
pub mod capture;
pub mod cli;
pub mod clock;
pub mod disk;
pub mod driver;
pub mod gossip;
pub mod identity;
pub mod keys;
pub mod link;
pub mod proxy;
mod shares;
pub mod stop;
pub mod telemetry;
pub mod workload;
