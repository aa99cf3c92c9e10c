//! Sockets of applications, in the shape of a stream's two halves.
//!
//! A sending half that is dropped before its orderly end is reset, so that an application never
//! takes what was cut short for all there is. A unix socket knows no reset; it is closed.

use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    os::fd::AsFd,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use rustix::net::RecvFlags;
use skein_protocol::limits;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::{TcpStream, UnixStream, tcp},
    time::timeout,
};
use tokio_rustls::server::TlsStream;

use super::{Arrival, Target};
use crate::link::mux::{RecvHalf, SendHalf, StreamPair};

/// A connection of an application.
#[derive(Debug)]
pub enum Socket {
    /// TCP.
    Tcp(TcpStream),
    /// A unix socket.
    Unix(UnixStream),
    /// TLS of a client outside of the mesh, which ends here.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Socket {
    /// Connects to an application within `patience`. The error says where and why.
    pub(super) async fn connect(target: &Target, patience: Duration) -> Result<Self, String> {
        let connected = match timeout(patience, open(target)).await {
            Ok(connected) => connected.map_err(|error| error.to_string()),
            Err(_) => Err(format!("no answer within {} ms", patience.as_millis())),
        };
        connected.map_err(|error| format!("connecting to {}: {error}", text(target)))
    }

    /// Sets it up for carrying.
    pub(super) fn tune(&self) {
        match self {
            Self::Tcp(stream) => tune(stream),
            Self::Tls(stream) => tune(stream.get_ref().0),
            Self::Unix(_) => {}
        }
    }

    /// The first bytes that came, which stay where they are: once there are more than `seen` of
    /// them, or an end.
    pub(super) async fn peek(&self, buffer: &mut [u8], seen: usize) -> io::Result<usize> {
        loop {
            let count = match self {
                Self::Tcp(stream) => {
                    stream.async_io(Interest::READABLE, || peek(stream, buffer)).await?
                }
                Self::Unix(stream) => {
                    stream.async_io(Interest::READABLE, || peek(stream, buffer)).await?
                }
                Self::Tls(_) => return Err(io::ErrorKind::Unsupported.into()),
            };
            if count > seen || count == 0 {
                return Ok(count);
            }
            // Readiness tells of bytes that are there, not of more.
            tokio::time::sleep(PEEK_AGAIN).await;
        }
    }

    /// Its two halves, set up for carrying.
    pub(super) fn into_pair(self) -> StreamPair {
        match self {
            Self::Tcp(stream) => {
                tune(&stream);
                let (recv, send) = stream.into_split();
                let send = TcpSend { half: Some(send), finished: false };
                (Box::new(send), Box::new(TcpRecv(recv)))
            }
            Self::Unix(stream) => {
                let (recv, send) = stream.into_split();
                (Box::new(Half(send)), Box::new(Half(recv)))
            }
            Self::Tls(stream) => {
                tune(stream.get_ref().0);
                halves(stream)
            }
        }
    }

    /// How it came here from `client`.
    pub(super) fn arrival(&self, client: Option<SocketAddr>, redirected: bool) -> Option<Arrival> {
        match self {
            Self::Tcp(stream) => {
                let caller = client.or_else(|| stream.peer_addr().ok())?;
                let own = stream.local_addr().ok()?;
                Some(match redirected {
                    false => Arrival::Tcp { caller, called: own },
                    true => Arrival::Redirected { seen: caller, own },
                })
            }
            Self::Unix(stream) => {
                let peer = stream.peer_cred().ok()?;
                let socket = rustix::fs::fstat(stream).ok()?.st_ino;
                Some(Arrival::Unix { uid: peer.uid(), process: peer.pid(), socket })
            }
            Self::Tls(_) => None,
        }
    }

    /// Ends it so that the application sees a failure, not an end.
    pub(super) fn refuse(self) {
        let (mut send, _recv) = self.into_pair();
        send.reset(0);
    }
}

/// A target as people write it.
pub(super) fn text(target: &Target) -> String {
    match target {
        Target::Tcp(address) => address.to_string(),
        Target::Unix(path) => format!("unix:{}", path.display()),
        Target::Host { host, port } => format!("{host}:{port}"),
    }
}

async fn open(target: &Target) -> io::Result<Socket> {
    match target {
        Target::Tcp(address) => TcpStream::connect(address).await.map(Socket::Tcp),
        Target::Unix(path) => UnixStream::connect(path).await.map(Socket::Unix),
        Target::Host { host, port } => open_host(host, *port).await,
    }
}

async fn open_host(host: &str, port: u16) -> io::Result<Socket> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in tokio::net::lookup_host((host, port)).await? {
        if !may_dial(host, address) {
            let text = format!("{address} is no address outside of this host: refused");
            last = io::Error::new(io::ErrorKind::PermissionDenied, text);
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(Socket::Tcp(stream)),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// A name from outside must not lead to this host or to the cloud's metadata (DNS rebinding).
fn may_dial(host: &str, address: SocketAddr) -> bool {
    let ip = address.ip().to_canonical();
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip == METADATA_V6,
    };
    let loopback = ip.is_loopback() && host != "localhost" && host.parse::<IpAddr>().is_err();
    !(link_local || loopback || ip.is_unspecified() || ip.is_multicast())
}

/// The metadata service of a large cloud over IPv6.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);

fn peek(stream: impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::net::recv(stream, buffer, RecvFlags::PEEK)?.0)
}

const PEEK_AGAIN: Duration = Duration::from_millis(5);

/// Any connection as the halves of a stream. It knows no reset: it is closed.
pub(super) fn halves<S: AsyncRead + AsyncWrite + Send + 'static>(stream: S) -> StreamPair {
    let (recv, send) = tokio::io::split(stream);
    (Box::new(Half(send)), Box::new(Half(recv)))
}

/// Two ends of a stream within this agent.
pub(super) fn local_stream() -> (StreamPair, StreamPair) {
    let (one, other) = tokio::io::duplex(limits::EXCHANGE_DATA_BYTES);
    (halves(one), halves(other))
}

/// One half of a connection that knows no reset.
struct Half<S>(S);

impl<S: AsyncRead + Unpin> AsyncRead for Half<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Half<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl<S: AsyncRead + Send + Unpin> RecvHalf for Half<S> {
    fn stop(&mut self, _code: u32) {}
}

impl<S: AsyncWrite + Send + Unpin> SendHalf for Half<S> {
    fn reset(&mut self, _code: u32) {}
}

/// Bytes that were read already, and then the rest of a stream.
pub(super) fn behind(first: Bytes, rest: Box<dyn RecvHalf>) -> Box<dyn RecvHalf> {
    Box::new(Behind { first, rest })
}

struct Behind {
    first: Bytes,
    rest: Box<dyn RecvHalf>,
}

impl AsyncRead for Behind {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.first.is_empty() {
            let count = self.first.len().min(buffer.remaining());
            buffer.put_slice(&self.first.split_to(count));
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.rest).poll_read(cx, buffer)
    }
}

impl RecvHalf for Behind {
    fn stop(&mut self, code: u32) {
        self.rest.stop(code);
    }
}

/// A stream that has ended.
pub(super) struct Nothing;

impl AsyncRead for Nothing {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl RecvHalf for Nothing {
    fn stop(&mut self, _code: u32) {}
}

/// No delay, and keep-alive. A socket that takes neither is dead, and its first use says so.
fn tune(stream: &TcpStream) {
    let keepalive = TcpKeepalive::new()
        .with_time(limits::KEEPALIVE_TIME)
        .with_interval(limits::KEEPALIVE_INTERVAL)
        .with_retries(limits::KEEPALIVE_RETRIES);
    let socket = SockRef::from(stream);
    let _ = socket.set_tcp_nodelay(true);
    let _ = socket.set_tcp_keepalive(&keepalive);
}

struct TcpSend {
    half: Option<tcp::OwnedWriteHalf>,
    finished: bool,
}

impl TcpSend {
    fn open(&mut self) -> io::Result<Pin<&mut tcp::OwnedWriteHalf>> {
        let gone = || io::Error::from(io::ErrorKind::BrokenPipe);
        self.half.as_mut().map(Pin::new).ok_or_else(gone)
    }
}

impl AsyncWrite for TcpSend {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.open()?.poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.open()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = self.open()?.poll_shutdown(cx);
        self.finished |= matches!(done, Poll::Ready(Ok(())));
        done
    }
}

impl SendHalf for TcpSend {
    fn reset(&mut self, _code: u32) {
        if let Some(half) = self.half.take() {
            // Closing with a linger of zero sends RST (tcp(7)). A FIN must not go before it, so
            // the half is forgotten: its drop would send one.
            let _ = SockRef::from(half.as_ref()).set_linger(Some(Duration::ZERO));
            half.forget();
        }
    }
}

impl Drop for TcpSend {
    fn drop(&mut self) {
        if !self.finished {
            self.reset(0);
        }
    }
}

struct TcpRecv(tcp::OwnedReadHalf);

impl AsyncRead for TcpRecv {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl RecvHalf for TcpRecv {
    /// TCP has no word for this; what is sent after the close is answered with RST.
    fn stop(&mut self, _code: u32) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_never_leads_to_this_host_or_to_metadata() {
        let may = |host, address: &str| may_dial(host, address.parse().unwrap());
        assert!(may("db.example.com", "203.0.113.7:1") && may("db.example.com", "10.0.0.7:1"));
        for bad in [
            "169.254.169.254:80",
            "127.0.0.1:80",
            "0.0.0.0:80",
            "[::1]:80",
            "[::ffff:127.0.0.1]:80",
            "[fe80::1]:80",
            "[fd00:ec2::254]:80",
            "224.0.0.1:80",
        ] {
            assert!(!may("db.example.com", bad), "{bad}");
        }
        assert!(may("localhost", "127.0.0.1:80"));
    }
}
