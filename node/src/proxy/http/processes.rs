//! Processes: connections to local services, kept while they are likely to be kept there too.
//!
//! Of HTTP/1 idle ones, the newest first, for less time than servers keep theirs. Of HTTP/2 one
//! for all requests. A request that a kept connection did not take is sent once more on a new
//! one, if it was never written or may be repeated.

use std::{
    collections::BTreeMap,
    io,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll},
    time::Duration,
};

use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use skein_protocol::limits;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    runtime::Handle,
    time::{Instant, timeout},
};

use super::Body;
use crate::proxy::{Socket, Target};

/// What a request went over.
pub(super) enum Process {
    /// One request at a time.
    One {
        /// Where to.
        sender: http1::SendRequest<Body>,
        /// Whether others used it before.
        reused: bool,
        /// Whether it is for this one only.
        alone: bool,
    },
    /// Many.
    Two { sender: http2::SendRequest<Body>, reused: bool },
}

impl Process {
    /// Whether others used it before.
    pub(super) fn is_reused(&self) -> bool {
        match self {
            Self::One { reused, .. } | Self::Two { reused, .. } => *reused,
        }
    }

    /// Sends a request. The error says whether nothing of it was written.
    pub(super) async fn send(
        &mut self,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, Unsent> {
        let sent = match self {
            Self::One { sender, .. } => sender.try_send_request(request).await,
            Self::Two { sender, .. } => sender.try_send_request(request).await,
        };
        sent.map_err(|mut error| {
            let unwritten = error.take_message().map(Box::new);
            Unsent { unwritten, error: error.into_error() }
        })
    }
}

/// A request that got no answer.
pub(super) struct Unsent {
    /// The request, if nothing of it was written.
    pub(super) unwritten: Option<Box<Request<Body>>>,
    pub(super) error: hyper::Error,
}

/// The connections of this agent.
pub(in crate::proxy) struct ProcessPool {
    kept: Mutex<Kept>,
    runtime: Handle,
}

#[derive(Default)]
struct Kept {
    one: BTreeMap<Target, Vec<(http1::SendRequest<Body>, Instant)>>,
    two: BTreeMap<Target, http2::SendRequest<Body>>,
    /// Whether a task looks after those that idle.
    looked_after: bool,
}

impl ProcessPool {
    /// A pool with nothing in it, whose connections run there.
    pub(in crate::proxy) fn new(runtime: Handle) -> Self {
        Self { kept: Mutex::default(), runtime }
    }

    /// A connection to that process: one that is there, or a new one within `patience`.
    pub(super) async fn get(
        &self,
        target: &Target,
        two: bool,
        patience: Duration,
    ) -> Result<Process, String> {
        match self.kept(target, two) {
            Some(process) => Ok(process),
            None => self.fresh(target, two, patience).await,
        }
    }

    fn kept(&self, target: &Target, two: bool) -> Option<Process> {
        let mut kept = self.lock();
        if two {
            let sender = kept.two.get(target).filter(|sender| !sender.is_closed())?.clone();
            return Some(Process::Two { sender, reused: true });
        }
        let idle = kept.one.get_mut(target)?;
        while let Some((sender, since)) = idle.pop() {
            if sender.is_ready() && since.elapsed() < limits::PROCESS_IDLE {
                return Some(Process::One { sender, reused: true, alone: false });
            }
        }
        None
    }

    /// A new connection.
    pub(super) async fn fresh(
        &self,
        target: &Target,
        two: bool,
        patience: Duration,
    ) -> Result<Process, String> {
        let process = self.open(target, two, patience, &[]).await?;
        if let Process::Two { sender, .. } = &process {
            self.lock().two.insert(target.clone(), sender.clone());
        }
        Ok(process)
    }

    /// A new connection for one exchange, which begins with these bytes.
    pub(super) async fn alone(
        &self,
        target: &Target,
        two: bool,
        patience: Duration,
        first: &[u8],
    ) -> Result<Process, String> {
        let process = self.open(target, two, patience, first).await?;
        Ok(match process {
            Process::One { sender, reused, .. } => Process::One { sender, reused, alone: true },
            two @ Process::Two { .. } => two,
        })
    }

    async fn open(
        &self,
        target: &Target,
        two: bool,
        patience: Duration,
        first: &[u8],
    ) -> Result<Process, String> {
        let mut socket = Socket::connect(target, patience).await?;
        socket.tune();
        socket.write_all(first).await.map_err(|error| error.to_string())?;
        let broken = |error: hyper::Error| error.to_string();
        let io = TokioIo::new(socket);
        if two {
            let handshake = http2::Builder::new(TokioExecutor::new())
                .initial_stream_window_size(limits::H2_STREAM_WINDOW)
                .initial_connection_window_size(limits::H2_SHARED_WINDOW)
                .max_header_list_size(head_bytes())
                .max_send_buf_size(limits::EXCHANGE_DATA_BYTES)
                .handshake(io);
            let handshake = timeout(patience, handshake).await;
            let (sender, connection) =
                handshake.map_err(|_| "no answer to the preface".to_owned())?.map_err(broken)?;
            self.runtime.spawn(connection);
            return Ok(Process::Two { sender, reused: false });
        }
        let (sender, connection) = http1::Builder::new()
            .max_headers(limits::HTTP_HEADERS)
            .max_buf_size(limits::EXCHANGE_DATA_BYTES)
            .handshake(io)
            .await
            .map_err(broken)?;
        self.runtime.spawn(connection.with_upgrades());
        Ok(Process::One { sender, reused: false, alone: false })
    }

    /// Keeps a connection whose exchange is over, if it can have another.
    pub(super) async fn put(self: &Arc<Self>, target: &Target, process: Process) {
        let Process::One { mut sender, alone: false, .. } = process else { return };
        // Ready when both the request and the response are whole.
        if !matches!(timeout(SETTLE, sender.ready()).await, Ok(Ok(()))) {
            return;
        }
        let mut kept = self.lock();
        let idle = kept.one.entry(target.clone()).or_default();
        if idle.len() < limits::PROCESS_IDLE_MAX {
            idle.push((sender, Instant::now()));
        }
        if !std::mem::replace(&mut kept.looked_after, true) {
            self.runtime.spawn(look_after(Arc::downgrade(self)));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        // A panic under the lock leaves at worst a connection too few.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes what idles for too long, until nothing idles.
async fn look_after(processes: Weak<ProcessPool>) {
    loop {
        tokio::time::sleep(LOOK).await;
        let Some(processes) = processes.upgrade() else { return };
        let mut kept = processes.lock();
        kept.one.retain(|_, idle| {
            idle.retain(|(sender, since)| {
                sender.is_ready() && since.elapsed() < limits::PROCESS_IDLE
            });
            !idle.is_empty()
        });
        kept.two.retain(|_, sender| !sender.is_closed());
        if kept.one.is_empty() && kept.two.is_empty() {
            kept.looked_after = false;
            return;
        }
    }
}

fn head_bytes() -> u32 {
    u32::try_from(limits::HTTP_HEAD_BYTES).unwrap_or(u32::MAX)
}

/// For so long a connection is waited for whose response was read to its end.
const SETTLE: Duration = Duration::from_millis(100);
const LOOK: Duration = Duration::from_secs(1);

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
        }
    }
}
