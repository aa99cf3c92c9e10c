//! The agent: a thin shell of sockets, clocks, disks and tasks around the pure core.
#![forbid(unsafe_code)]

pub mod identity;
pub mod keys;
pub mod link;
