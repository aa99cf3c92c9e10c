//! The wire: what agents exchange, in canonical form.

pub mod codec;
pub mod kind;
pub mod stream;
