//! Mux: many streams over one authenticated connection to a peer, whatever carries them.
//!
//! quinn is one implementation; TLS over TCP will be the second. Nothing to the right of this
//! file names either.

use std::{fmt, pin::Pin, time::Duration};

use skein_protocol::trust::CloseCode;
use tokio::io::{AsyncRead, AsyncWrite};

/// A boxed future, so that the trait can be an object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The sending half of a stream. `shutdown` ends it in order (the peer reads end of file).
pub trait SendHalf: AsyncWrite + Send + Unpin {
    /// Abandons it: the peer's read fails with this code. Bytes not yet sent are dropped.
    fn reset(&mut self, code: u32);

    /// Waits until the peer wants no more of it; for ever where that cannot be told.
    fn stopped(&self) -> BoxFuture<'static, ()> {
        Box::pin(std::future::pending())
    }
}

/// The receiving half of a stream. A peer's reset is an error of kind `ConnectionReset`.
pub trait RecvHalf: AsyncRead + Send + Unpin {
    /// Wants no more: the peer's write fails with this code.
    fn stop(&mut self, code: u32);
}

/// The code of a peer's reset, inside of the error that reading gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the peer reset the stream with code {0}")]
pub struct Reset(pub u32);

/// Both halves of a stream.
pub type StreamPair = (Box<dyn SendHalf>, Box<dyn RecvHalf>);

/// Why no stream came of it.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MuxError {
    /// The connection has ended.
    #[error("connection ended: {0}")]
    Closed(String),
    /// The peer allows no further stream for now.
    #[error("the peer takes no further stream")]
    Full,
}

/// What a connection knows of itself.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct MuxStats {
    /// `quic` or `tcp`.
    pub transport: &'static str,
    /// Smoothed round trip.
    pub rtt: Duration,
    /// Bytes sent, with all overhead that the transport counts.
    pub bytes_sent: u64,
    /// Bytes received, likewise.
    pub bytes_received: u64,
    /// Packets held for lost.
    pub lost: u64,
    /// The largest datagram the path carries; 0 where that means nothing.
    pub mtu: u16,
}

/// One connection to one peer, with many streams.
pub trait Mux: Send + Sync + fmt::Debug + 'static {
    /// Opens a stream of both directions. Bounded in time by the implementation.
    fn open(&self) -> BoxFuture<'_, Result<StreamPair, MuxError>>;
    /// The next stream that the peer opens.
    fn accept(&self) -> BoxFuture<'_, Result<StreamPair, MuxError>>;
    /// Closes at once. The peer is told the code and the text.
    fn close(&self, code: u32, reason: &str);
    /// Waits until the connection has ended, and says why.
    fn closed(&self) -> BoxFuture<'_, MuxError>;
    /// With which code the peer closed, if it did and the code is one of ours.
    fn closed_by_peer(&self) -> Option<CloseCode> {
        None
    }
    /// Figures of now.
    fn stats(&self) -> MuxStats;
}
