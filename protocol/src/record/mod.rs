//! Records: what is said, by whom, and the type that proves that it may be believed.

pub mod node;
