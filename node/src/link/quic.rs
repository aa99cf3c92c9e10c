//! A QUIC connection as a `Mux`.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use quinn::{Connection, ConnectionError, ReadError, RecvStream, SendStream, VarInt, WriteError};
use skein_protocol::{
    limits,
    trust::{
        admit::CloseCode,
        join::{EXPORTER_LABEL, Exporter},
    },
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::timeout,
};

use super::{
    mux::{BoxFuture, Mux, MuxError, MuxStats, RecvHalf, Reset, SendHalf, StreamPair},
    transport::Role,
};

/// The code with which a stream is reset whose sending half was dropped before its end.
pub const ABANDONED: u32 = 2;

/// One QUIC connection.
#[derive(Clone, Debug)]
pub struct QuicMux {
    connection: Connection,
}

impl QuicMux {
    pub(super) fn new(connection: Connection) -> Self {
        Self { connection }
    }

    /// Lets the peer use what the role allows. Connections are accepted as control.
    pub fn set_role(&self, role: Role) {
        self.connection.set_receive_window(role.window());
        self.connection.set_send_window(role.send_window());
        self.connection.set_max_concurrent_bi_streams(role.streams());
    }

    /// Closes with a numbered reason and its text.
    pub fn close_with(&self, code: CloseCode) {
        self.close(code.number(), code.text());
    }

    /// What binds a message to this connection (RFC 8446 7.5): the same on both sides, and on no
    /// other connection.
    pub fn exporter(&self) -> Option<Exporter> {
        let mut exporter = [0; 32];
        let exported = self.connection.export_keying_material(&mut exporter, EXPORTER_LABEL, b"");
        exported.ok().map(|()| exporter)
    }
}

impl Mux for QuicMux {
    fn closed_by_peer(&self) -> Option<CloseCode> {
        close_code(&self.connection.close_reason()?)
    }

    fn open(&self) -> BoxFuture<'_, Result<StreamPair, MuxError>> {
        Box::pin(async {
            match timeout(limits::OPEN_TIMEOUT, self.connection.open_bi()).await {
                Ok(Ok(halves)) => Ok(pair(halves)),
                Ok(Err(error)) => Err(ended(&error)),
                Err(_) => Err(MuxError::Full),
            }
        })
    }

    fn accept(&self) -> BoxFuture<'_, Result<StreamPair, MuxError>> {
        Box::pin(async {
            let halves = self.connection.accept_bi().await;
            halves.map(pair).map_err(|error| ended(&error))
        })
    }

    fn close(&self, code: u32, reason: &str) {
        self.connection.close(VarInt::from_u32(code), reason.as_bytes());
    }

    fn closed(&self) -> BoxFuture<'_, MuxError> {
        Box::pin(async { ended(&self.connection.closed().await) })
    }

    fn stats(&self) -> MuxStats {
        let stats = self.connection.stats();
        MuxStats {
            transport: "quic",
            rtt: stats.path.rtt,
            bytes_sent: stats.udp_tx.bytes,
            bytes_received: stats.udp_rx.bytes,
            lost: stats.path.lost_packets,
            mtu: stats.path.current_mtu,
        }
    }
}

/// The numbered reason in a connection's end, where the peer gave one.
pub(super) fn close_code(error: &ConnectionError) -> Option<CloseCode> {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            CloseCode::from_number(close.error_code.into_inner())
        }
        _ => None,
    }
}

fn ended(error: &ConnectionError) -> MuxError {
    MuxError::Closed(match close_code(error) {
        Some(code) => format!("the peer closed it: {} ({})", code.text(), code.word()),
        None => error.to_string(),
    })
}

fn pair((send, recv): (SendStream, RecvStream)) -> StreamPair {
    (Box::new(Send { stream: send, ended: false }), Box::new(Recv(recv)))
}

/// The sending half. Dropped before its end it is reset: a peer must not take a part for the
/// whole.
struct Send {
    stream: SendStream,
    ended: bool,
}

impl SendHalf for Send {
    fn reset(&mut self, code: u32) {
        self.ended = true;
        // Already ended or stopped: then there is nothing to abandon.
        let _ = self.stream.reset(VarInt::from_u32(code));
    }

    fn stopped(&self) -> BoxFuture<'static, ()> {
        let stopped = self.stream.stopped();
        Box::pin(async move {
            match stopped.await {
                Ok(Some(_)) | Err(_) => {}
                // Its end arrived: nothing to stop.
                Ok(None) => std::future::pending().await,
            }
        })
    }
}

impl Drop for Send {
    fn drop(&mut self) {
        if !self.ended {
            self.reset(ABANDONED);
        }
    }
}

impl AsyncWrite for Send {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.stream), context, bytes).map_err(said)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.stream), context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ended = true;
        AsyncWrite::poll_shutdown(Pin::new(&mut self.stream), context)
    }
}

/// What the peer says by the code of its reset, or of its stop, in a form that does not name this
/// transport.
fn said(error: io::Error) -> io::Error {
    let inner = error.get_ref();
    let reset = match inner.and_then(|inner| inner.downcast_ref::<ReadError>()) {
        Some(ReadError::Reset(code)) => Some(*code),
        _ => None,
    };
    let stopped = match inner.and_then(|inner| inner.downcast_ref::<WriteError>()) {
        Some(WriteError::Stopped(code)) => Some(*code),
        _ => None,
    };
    match reset.or(stopped) {
        Some(code) => {
            let code = u32::try_from(code.into_inner()).unwrap_or(u32::MAX);
            io::Error::new(error.kind(), Reset(code))
        }
        None => error,
    }
}

struct Recv(RecvStream);

impl RecvHalf for Recv {
    fn stop(&mut self, code: u32) {
        // Already ended: then there is nothing to stop.
        let _ = self.0.stop(VarInt::from_u32(code));
    }
}

impl AsyncRead for Recv {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        AsyncRead::poll_read(Pin::new(&mut self.0), context, buffer).map_err(said)
    }
}
