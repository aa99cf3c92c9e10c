//! Links: the sockets between agents.
//!
//! [`endpoint`] is the one UDP socket on which an agent is dialled and dials, [`quic`] a
//! connection on it as a [`mux::Mux`], [`transport`] every limit of QUIC, said explicitly.
//! A [`Link`] is a connection whose peer was classified and admitted; nothing was read from it
//! yet.

pub mod endpoint;
pub mod mux;
pub mod quic;
pub mod transport;

#[cfg(test)]
mod tests;

use std::{net::SocketAddr, sync::Arc};

use skein_protocol::{clock::Wall, limits, trust::admit::Alpn};

use crate::keys::Identity;
pub use endpoint::{Acceptor, Dial, DialError, Endpoint, Runtimes};
pub use quic::QuicMux;
pub use transport::Role;

/// A connection to a peer that may speak what it negotiated.
#[derive(Clone, Debug)]
pub struct Link {
    /// The connection.
    pub mux: Arc<QuicMux>,
    /// Who the peer is.
    pub identity: Identity,
    /// What is spoken on it.
    pub alpn: Alpn,
    /// The peer's address as this side sees it.
    pub remote: SocketAddr,
    /// Whether this side dialled.
    pub dialled: bool,
    /// Whether it was dialled as control, and is driven so: it may carry no data.
    pub control: bool,
}

impl Link {
    /// When the authority of this connection ends, if its peer does not show a newer chain. A
    /// bare peer's ends with the handshake's own timeout.
    pub fn ends(&self) -> Option<Wall> {
        let (verified, _) = self.identity.chain.as_ref()?;
        Some(verified.not_after.after(limits::CLOCK_SKEW))
    }
}
