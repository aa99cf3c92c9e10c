//! The agent: a thin shell of sockets, clocks, disks and tasks around the pure core.
#![forbid(unsafe_code)]

pub mod api;
pub mod cli;
pub mod link;
pub mod telemetry;
