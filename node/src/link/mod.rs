//! Links: the sockets between agents.

pub mod mux;
