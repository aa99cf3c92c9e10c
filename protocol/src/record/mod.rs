//! Records: what is said, by whom, and the type that proves that it may be believed.

pub mod header;
pub mod node;
pub mod signed;
#[cfg(test)]
mod tests;

pub use signed::{Bundle, OwnChain, RecordError, Signed, Verified};
