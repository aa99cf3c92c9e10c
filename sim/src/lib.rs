//! The simulator: the very engine that ships, in a world of discrete events.
//!
//! One thread, one seed, one trace hash. The world is a queue of (time, number, event); links
//! delay and lose, disks keep, fail and go back, nodes crash and come again. Not modelled: the
//! kernel, QUIC's inside, TLS, real disks. Loss is what QUIC makes of it: a frame comes later,
//! in order, or its link ends.

pub mod adversary;
pub mod campaign;
pub mod checks;
#[cfg(feature = "chitchat")]
pub mod chitchat;
pub mod crypto;
pub mod measure;
pub mod mesh;
pub mod plan;
pub mod plot;
pub mod profile;
pub mod report;
pub mod rulings;
pub mod run;
pub mod seeds;
pub mod shrink;
pub mod story;
pub mod table;
pub mod world;

#[cfg(test)]
mod cases;
