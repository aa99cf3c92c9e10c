//! QUIC's settings: every limit is said here, none is a default.

use std::{io, net::SocketAddr, sync::Arc};

use quinn::{
    AckFrequencyConfig, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, ServerConfig,
    TransportConfig, ValidationTokenConfig, VarInt, congestion::CubicConfig,
    crypto::rustls::QuicServerConfig,
};
use skein_protocol::limits;
use socket2::{Domain, Protocol, Socket, Type};

/// What a connection is used for: its windows differ.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    /// Gossip, probes, records: small windows.
    Control,
    /// The applications' bytes.
    Data,
}

impl Role {
    /// What the peer may send on the whole connection before it is read.
    pub fn window(self) -> VarInt {
        match self {
            Self::Control => VarInt::from_u32(limits::CONTROL_WINDOW),
            Self::Data => VarInt::from_u32(limits::DATA_WINDOW),
        }
    }

    /// Streams that the peer may have open.
    pub fn streams(self) -> VarInt {
        match self {
            Self::Control => VarInt::from_u32(limits::CONTROL_STREAMS),
            Self::Data => VarInt::from_u32(limits::DATA_STREAMS),
        }
    }

    /// Bytes of ours that may wait for an acknowledgement.
    pub fn send_window(self) -> u64 {
        self.window().into_inner()
    }
}

/// The settings of a connection. The accepting side does not know its role yet: it begins as
/// control, with a stream window that fits both, and grows with `QuicMux::set_role`.
pub(super) fn transport(role: Role) -> TransportConfig {
    let mut config = TransportConfig::default();
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(limits::MTU_MAX);
    let mut acknowledgements = AckFrequencyConfig::default();
    acknowledgements.ack_eliciting_threshold(ACK_AFTER);
    config
        .max_concurrent_bidi_streams(role.streams())
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .stream_receive_window(VarInt::from_u32(limits::STREAM_WINDOW))
        .receive_window(role.window())
        .send_window(role.send_window())
        .send_fairness(true)
        .max_idle_timeout(IdleTimeout::try_from(limits::LINK_IDLE_TIMEOUT).ok())
        .keep_alive_interval(Some(limits::KEEP_ALIVE))
        .initial_rtt(limits::INITIAL_RTT)
        .initial_mtu(limits::MTU_MIN)
        .min_mtu(limits::MTU_MIN)
        .mtu_discovery_config(Some(discovery))
        .ack_frequency_config(Some(acknowledgements))
        .crypto_buffer_size(limits::CRYPTO_BUFFER)
        .allow_spin(false)
        .datagram_receive_buffer_size(None)
        .datagram_send_buffer_size(0)
        .congestion_controller_factory(Arc::new(CubicConfig::default()));
    config
}

pub(super) fn server(crypto: QuicServerConfig) -> ServerConfig {
    let mut tokens = ValidationTokenConfig::default();
    tokens.sent(0);
    let mut config = ServerConfig::with_crypto(Arc::new(crypto));
    config
        .transport_config(Arc::new(transport(Role::Control)))
        .validation_token_config(tokens)
        .retry_token_lifetime(limits::HANDSHAKE_TIMEOUT)
        .migration(false)
        .max_incoming(limits::INCOMING_MAX)
        .incoming_buffer_size(limits::INCOMING_BUFFER)
        .incoming_buffer_size_total(limits::INCOMING_BUFFERS);
    config
}

pub(super) fn endpoint() -> EndpointConfig {
    let mut config = EndpointConfig::default();
    config.grease_quic_bit(false);
    config
}

/// A peer acknowledges at once what exceeds so many packets, and fewer within 25 ms, mostly with
/// what it answers. RFC 9000's two make a packet of its own out of the acknowledgement of each
/// gossip message, which has two or three.
const ACK_AFTER: VarInt = VarInt::from_u32(8);

/// Why the mesh port could not be had.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody has it.
    #[error("UDP port {} of {} is in use, maybe by another agent: see by whom with `ss -ulpn 'sport = :{}'`, \
             stop it, or choose another `port` for `mesh` in the ServiceMesh document", .0.port(), .0.ip(), .0.port())]
    InUse(SocketAddr),
    /// It is not ours.
    #[error("{} is no address of this host: give one of `ip addr`, or none for all interfaces", .0.ip())]
    NotHere(SocketAddr),
    /// A port below 1024 without the right to it.
    #[error("UDP port {} needs CAP_NET_BIND_SERVICE: choose one above 1023", .0.port())]
    NotAllowed(SocketAddr),
    /// Something else.
    #[error("UDP {address}: {error}")]
    Io {
        /// Where.
        address: SocketAddr,
        /// What the operating system says.
        error: io::Error,
    },
    /// The TLS configuration.
    #[error("TLS: {0}")]
    Tls(String),
}

/// The socket, with buffers as large as the kernel allows.
pub(super) fn socket(address: SocketAddr) -> Result<std::net::UdpSocket, BindError> {
    bound(address).map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => BindError::InUse(address),
        io::ErrorKind::AddrNotAvailable => BindError::NotHere(address),
        io::ErrorKind::PermissionDenied => BindError::NotAllowed(address),
        _ => BindError::Io { address, error },
    })
}

fn bound(address: SocketAddr) -> io::Result<std::net::UdpSocket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    // The kernel cuts both to its own bound, net.core.rmem_max and wmem_max.
    socket.set_recv_buffer_size(limits::SOCKET_BUFFER)?;
    socket.set_send_buffer_size(limits::SOCKET_BUFFER)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}
