//! The chitchat mode: the real chitchat behind its real filter beside each engine of the world,
//! on a clock that stands still until none of them has anything left to do.
//!
//! One thread, one process a seed. chitchat draws from the C library's `getrandom`, which the
//! binary `skein-sim` answers from the seed; without that a run is right, but not repeatable.

mod agree;
mod attack;
mod gossips;
mod report;

pub use self::{
    agree::{compare, unlike},
    gossips::Gossips,
    report::run,
};
