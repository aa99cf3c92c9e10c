//! The endpoint: one UDP socket on which an agent is dialled and from which it dials.
//!
//! Every connection that leaves this file was classified by its certificates, admitted by
//! `admit(alpn, class)` and judged against revocations. Nothing was read from it yet.
//!
//! A connection is driven by the runtime on which it is dialled or accepted. Which one accepts it
//! is decided before anything of it is known: by a mark that the dialler puts into the first
//! destination connection id of a control connection. The mark schedules and grants nothing: what
//! a connection is for stands in its Hello.
//!
//! Never: waits for one handshake before the next, holds more than
//! `limits::HANDSHAKES_MAX` of them, lets a dial last longer than `limits::DIAL_TIMEOUT`.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, OnceLock},
    time::Instant,
};

use futures_util::stream::{FuturesUnordered, StreamExt};
use quinn::{
    AsyncTimer, AsyncUdpSocket, ClientConfig, Connection, ConnectionError, ConnectionId, Incoming,
    Runtime, TokioRuntime, VarInt,
    crypto::rustls::{HandshakeData, QuicClientConfig, QuicServerConfig},
};
use rustls_pki_types::{CertificateDer, UnixTime};
use skein_protocol::{
    limits,
    trust::admit::{Alpn, CloseCode, admit},
};
use tokio::{runtime::Handle, sync::Semaphore, task::JoinSet, time::timeout};

use super::{
    Link,
    quic::{QuicMux, close_code},
    transport::{self, BindError, Role},
};
use crate::keys::{
    Credentials, Expect, Identity, Reject, tls,
    verify::{classify, classify_server, wall},
};

/// The socket and what this agent shows on it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    quinn: quinn::Endpoint,
    credentials: Arc<Credentials>,
    /// Accepts what is marked as control, and the rest.
    control: Handle,
    data: Handle,
}

/// The runtimes of an endpoint.
#[derive(Clone, Debug)]
pub struct Runtimes {
    /// Reads the socket, and hands each packet to its connection.
    pub socket: Handle,
    /// Drives accepted connections that are marked as control.
    pub control: Handle,
    /// Drives all others that are accepted.
    pub data: Handle,
}

impl From<&Handle> for Runtimes {
    fn from(handle: &Handle) -> Self {
        Self { socket: handle.clone(), control: handle.clone(), data: handle.clone() }
    }
}

/// Whom to dial, and for what.
#[derive(Clone, Debug)]
pub struct Dial {
    /// Tried all at once; the first that answers as expected is taken.
    pub addresses: Vec<SocketAddr>,
    /// Who must answer.
    pub expect: Expect,
    /// What to speak.
    pub alpn: Alpn,
    /// What for.
    pub role: Role,
}

/// Why a dial brought no link.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DialError {
    /// There was nothing to dial.
    #[error("no address to dial")]
    NoAddress,
    /// Nobody answered.
    #[error("{addresses} did not answer over UDP within {} s: is the agent up, and does a firewall let UDP through?", limits::DIAL_TIMEOUT.as_secs())]
    Silent {
        /// Which.
        addresses: String,
    },
    /// Who answered is not who was expected, or proves nothing.
    #[error("{address}: {reject}")]
    Refused {
        /// Where.
        address: SocketAddr,
        /// Why.
        reject: Reject,
    },
    /// The peer closed at once.
    #[error("{address} closed the connection: {}", .code.text())]
    Closed {
        /// Where.
        address: SocketAddr,
        /// With which code.
        code: CloseCode,
    },
    /// This agent itself answered.
    #[error("{0} is this agent itself")]
    Myself(SocketAddr),
    /// Something else.
    #[error("{address}: {error}")]
    Failed {
        /// Where.
        address: SocketAddr,
        /// What QUIC or TLS says.
        error: String,
    },
}

impl DialError {
    /// How much it tells: of several failed addresses the most telling is reported.
    fn weight(&self) -> u8 {
        match self {
            Self::NoAddress => 0,
            Self::Silent { .. } => 1,
            Self::Failed { .. } => 2,
            Self::Myself(_) => 3,
            Self::Closed { .. } => 4,
            Self::Refused { .. } => 5,
        }
    }
}

impl Endpoint {
    /// Binds the mesh port.
    pub fn bind(
        address: SocketAddr,
        credentials: &Arc<Credentials>,
        runtimes: impl Into<Runtimes>,
    ) -> Result<Self, BindError> {
        let tls = tls::server(credentials).map_err(|error| BindError::Tls(error.to_string()))?;
        let tls = QuicServerConfig::try_from(tls);
        let tls = tls.map_err(|error| BindError::Tls(error.to_string()))?;
        Self::open(address, Some(transport::server(tls)), credentials, runtimes.into())
    }

    /// An endpoint that only dials, on any port.
    pub fn dialler(
        address: SocketAddr,
        credentials: &Arc<Credentials>,
        handle: &Handle,
    ) -> Result<Self, BindError> {
        Self::open(address, None, credentials, handle.into())
    }

    fn open(
        address: SocketAddr,
        server: Option<quinn::ServerConfig>,
        credentials: &Arc<Credentials>,
        runtimes: Runtimes,
    ) -> Result<Self, BindError> {
        let socket = transport::socket(address)?;
        let runtime = Arc::new(OnCallers { else_on: runtimes.socket.clone() });
        let _on = runtimes.socket.enter();
        let quinn = quinn::Endpoint::new(transport::endpoint(), server, socket, runtime)
            .map_err(|error| BindError::Io { address, error })?;
        let Runtimes { control, data, .. } = runtimes;
        Ok(Self { quinn, credentials: Arc::clone(credentials), control, data })
    }

    /// Where it is bound.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.quinn.local_addr()
    }

    /// What this agent shows and trusts on it.
    pub fn credentials(&self) -> &Arc<Credentials> {
        &self.credentials
    }

    /// Closes every connection and takes no more.
    pub fn close(&self, code: CloseCode) {
        self.quinn.close(VarInt::from_u32(code.number()), code.text().as_bytes());
    }

    /// Waits until the last farewell is sent.
    pub async fn wait_idle(&self) {
        self.quinn.wait_idle().await;
    }

    /// Takes connections from here on.
    pub fn acceptor(&self) -> Acceptor {
        Acceptor {
            endpoint: self.clone(),
            shaking: JoinSet::new(),
            marked: Arc::new(Semaphore::new(limits::HANDSHAKES_CONTROL)),
        }
    }

    /// Dials all addresses at once and takes the first that answers as expected.
    pub async fn dial(&self, dial: Dial) -> Result<Link, DialError> {
        let addresses = dial.addresses.iter().take(limits::DIAL_ADDRESSES);
        let mut attempts: FuturesUnordered<_> =
            addresses.map(|address| self.attempt(*address, &dial)).collect();
        let mut worst = DialError::NoAddress;
        let race = async {
            while let Some(result) = attempts.next().await {
                match result {
                    Ok(link) => return Some(link),
                    Err(error) if error.weight() > worst.weight() => worst = error,
                    Err(_) => {}
                }
            }
            None
        };
        if let Ok(Some(link)) = timeout(limits::DIAL_TIMEOUT, race).await {
            return Ok(link);
        }
        // An address that said why tells more than others that are silent.
        Err(match worst {
            DialError::NoAddress if dial.addresses.is_empty() => DialError::NoAddress,
            DialError::NoAddress | DialError::Silent { .. } => silent(&dial.addresses),
            told => told,
        })
    }

    async fn attempt(&self, address: SocketAddr, dial: &Dial) -> Result<Link, DialError> {
        let why = Arc::new(OnceLock::new());
        let failed = |error: String| DialError::Failed { address, error };
        let config = self.client(dial, &why).map_err(failed)?;
        let connecting = self
            .quinn
            .connect_with(config, address, SERVER_NAME)
            .map_err(|error| failed(error.to_string()))?;
        let connection =
            connecting.await.map_err(|error| match (why.get(), close_code(&error)) {
                (Some(reject), _) => DialError::Refused { address, reject: reject.clone() },
                (None, Some(code)) => DialError::Closed { address, code },
                (None, None) if error == ConnectionError::TimedOut => silent(&[address]),
                (None, None) => failed(error.to_string()),
            })?;
        self.check_server(connection, address, dial)
    }

    fn client(&self, dial: &Dial, why: &Arc<OnceLock<Reject>>) -> Result<ClientConfig, String> {
        let tls = tls::client(&self.credentials, dial.alpn, dial.expect.clone(), why)
            .map_err(|error| error.to_string())?;
        let tls = QuicClientConfig::try_from(tls).map_err(|error| error.to_string())?;
        let mut config = ClientConfig::new(Arc::new(tls));
        config.transport_config(Arc::new(transport::transport(dial.role)));
        if dial.role == Role::Control {
            config.initial_dst_cid_provider(Arc::new(marked_id));
        }
        Ok(config)
    }

    /// What the verifier has seen it has not kept: the chain is read once more, and judged.
    fn check_server(
        &self,
        connection: Connection,
        address: SocketAddr,
        dial: &Dial,
    ) -> Result<Link, DialError> {
        let certificates = certificates(&connection);
        let trust = self.credentials.trust();
        let roots = trust.as_ref().map(|trust| &trust.roots);
        let mux = QuicMux::new(connection);
        let identity = classify_server(&certificates, &dial.expect, roots, wall(UnixTime::now()))
            .map_err(|reject| {
            mux.close_with(CloseCode::from(&reject));
            DialError::Refused { address, reject }
        })?;
        if identity.key == self.credentials.key() {
            mux.close_with(CloseCode::WrongPeer);
            return Err(DialError::Myself(address));
        }
        if let Err(code) = self.judge(&identity) {
            mux.close_with(code);
            return Err(DialError::Closed { address, code });
        }
        let mux = Arc::new(mux);
        let control = dial.role == Role::Control;
        Ok(Link { mux, identity, alpn: dial.alpn, remote: address, dialled: true, control })
    }

    fn judge(&self, identity: &Identity) -> Result<(), CloseCode> {
        let (Some(trust), Some((verified, _))) = (self.credentials.trust(), &identity.chain) else {
            return Ok(());
        };
        let judged = trust.judge(verified).map_err(CloseCode::from);
        judged.inspect_err(|code| self.credentials.refused().count(code.word()))
    }

    /// The server's side of one handshake, to its end.
    async fn shake(self, incoming: Incoming, control: bool) -> Option<Link> {
        let refused = self.credentials.refused();
        let connecting = incoming.accept().ok()?;
        let connection = match timeout(limits::HANDSHAKE_TIMEOUT, connecting).await {
            Ok(Ok(connection)) => connection,
            // The verifier counts why it refused.
            Ok(Err(ConnectionError::TransportError(_))) => return None,
            Ok(Err(_)) => {
                refused.count("handshake");
                return None;
            }
            Err(_) => {
                refused.count(CloseCode::Timeout.word());
                return None;
            }
        };
        let remote = connection.remote_address();
        let mux = QuicMux::new(connection.clone());
        match self.admit(&connection) {
            Ok((alpn, identity)) => {
                let mux = Arc::new(mux);
                Some(Link { mux, identity, alpn, remote, dialled: false, control })
            }
            Err(code) => {
                mux.close_with(code);
                None
            }
        }
    }

    fn admit(&self, connection: &Connection) -> Result<(Alpn, Identity), CloseCode> {
        let refused = self.credentials.refused();
        let counted = |code: CloseCode| {
            refused.count(code.word());
            code
        };
        let alpn = alpn(connection).ok_or_else(|| counted(CloseCode::WrongProtocol))?;
        let trust = self.credentials.trust();
        let roots = trust.as_ref().map(|trust| &trust.roots);
        let identity = classify(&certificates(connection), roots, wall(UnixTime::now()))
            .map_err(|_| counted(CloseCode::NotAdmitted))?;
        admit(alpn, identity.class).map_err(counted)?;
        self.judge(&identity)?;
        if identity.key == self.credentials.key() {
            return Err(counted(CloseCode::WrongPeer));
        }
        Ok((alpn, identity))
    }
}

/// Takes connections: many handshakes at one time, and as many as a bound.
#[derive(Debug)]
pub struct Acceptor {
    endpoint: Endpoint,
    shaking: JoinSet<Option<Link>>,
    /// Room for handshakes on the control runtime: anybody may mark one.
    marked: Arc<Semaphore>,
}

impl Acceptor {
    /// The next peer that was admitted; `None` when the endpoint was closed. May be dropped
    /// and called again at any point: no handshake is lost.
    pub async fn next(&mut self) -> Option<Link> {
        loop {
            let quinn = self.endpoint.quinn.clone();
            tokio::select! {
                biased;
                Some(done) = self.shaking.join_next() => {
                    if let Ok(Some(link)) = done {
                        return Some(link);
                    }
                }
                incoming = quinn.accept() => self.begin(incoming?),
            }
        }
    }

    fn begin(&mut self, incoming: Incoming) {
        let handshakes = self.shaking.len();
        if handshakes >= limits::HANDSHAKES_MAX {
            self.endpoint.credentials.refused().count(CloseCode::Full.word());
            incoming.refuse();
            return;
        }
        let crowded = handshakes >= limits::HANDSHAKES_UNVALIDATED;
        if crowded && !incoming.remote_address_validated() && incoming.may_retry() {
            // Sent without state: whoever spoofs an address never comes back.
            let _ = incoming.retry();
            return;
        }
        let marked = is_marked(&incoming.orig_dst_cid());
        let room = marked.then(|| Arc::clone(&self.marked).try_acquire_owned().ok()).flatten();
        let endpoint = self.endpoint.clone();
        let on = if room.is_some() { endpoint.control.clone() } else { endpoint.data.clone() };
        let shake = async move {
            let link = endpoint.shake(incoming, room.is_some()).await;
            drop(room);
            link
        };
        self.shaking.spawn_on(shake, &on);
    }
}

/// rustls asks for a name; nobody looks at it.
const SERVER_NAME: &str = "skein.invalid";

fn silent(addresses: &[SocketAddr]) -> DialError {
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    DialError::Silent { addresses: addresses.join(", ") }
}

fn certificates(connection: &Connection) -> Vec<CertificateDer<'static>> {
    let identity = connection.peer_identity();
    let identity = identity.and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
    identity.map_or_else(Vec::new, |certificates| *certificates)
}

fn alpn(connection: &Connection) -> Option<Alpn> {
    let data = connection.handshake_data()?.downcast::<HandshakeData>().ok()?;
    Alpn::from_name(&data.protocol?)
}

/// The mark of a control connection.
const CONTROL_MARK: [u8; 4] = *b"skc1";
/// Bytes of a first connection id. 16 of them cannot be foretold (RFC 9000 7.2 asks for 8).
const FIRST_ID_BYTES: usize = 20;

fn marked_id() -> ConnectionId {
    let mut bytes: [u8; FIRST_ID_BYTES] = rand::random();
    if let Some(head) = bytes.first_chunk_mut() {
        *head = CONTROL_MARK;
    }
    ConnectionId::new(&bytes)
}

fn is_marked(id: &ConnectionId) -> bool {
    id.len() == FIRST_ID_BYTES && id.starts_with(&CONTROL_MARK)
}

/// quinn's tasks on the runtime of whoever dials or accepts, their timers with them.
#[derive(Debug)]
struct OnCallers {
    /// For who calls from outside of any.
    else_on: Handle,
}

impl OnCallers {
    fn on<T>(&self, make: impl FnOnce() -> T) -> T {
        let _entered = Handle::try_current().is_err().then(|| self.else_on.enter());
        make()
    }
}

impl Runtime for OnCallers {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        self.on(|| TokioRuntime.new_timer(at))
    }

    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.on(|| TokioRuntime.spawn(future));
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        self.on(|| TokioRuntime.wrap_udp_socket(socket))
    }
}
