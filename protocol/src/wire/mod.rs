//! The wire: what agents exchange, in canonical form.

pub mod ask;
pub mod codec;
pub mod exchange;
pub mod frame;
pub mod kind;
pub mod section;
pub mod stream;
