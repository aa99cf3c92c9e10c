//! The chitchat mode: the real chitchat behind its real filter, beside the real engine, with
//! links in memory and a clock that stands still until nobody has anything to do.
//!
//! One thread, one process a seed. chitchat draws from the C library's `getrandom`, which the
//! binary `skein-sim` answers from the seed; without that a run is right, but not repeatable.

mod agent;
mod attack;
mod lines;
mod report;
mod stage;

pub use self::{
    report::{Figures, run},
    stage::Stage,
};

/// What a run is made of. All of it is printed with the seed.
#[derive(Clone, Debug)]
pub struct Options {
    /// Everything random comes from it.
    pub seed: u64,
    /// Agents of the mesh.
    pub nodes: usize,
    /// Share of packets lost, 0 to 1: QUIC brings them later, in order.
    pub loss: f64,
    /// One-way delay of a link, in milliseconds: from, to.
    pub delay: (u64, u64),
    /// Agents that all others join by.
    pub seeds: usize,
    /// Whether an admitted agent attacks every other with gossip that no agent sends.
    pub attack: bool,
}
