//! Membership: who is near, who lives. Nothing that one peer says decides either alone.

pub mod neighbours;
pub mod witness;

pub use neighbours::Rings;
pub use witness::{SignedWitness, Witness};
