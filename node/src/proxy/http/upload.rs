//! Upload: a request's body on its way to one endpoint after another.
//!
//! What was sent is kept up to its bound, so that another endpoint can have it too; what is more
//! goes on, and the request is not tried again. A mirror that does not keep up is given up.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body as _, Frame};
use hyper::body::Incoming;
use skein_protocol::{
    limits,
    wire::{
        exchange::{FrameKind, Header},
        stream::RESET_GAVE_UP,
    },
};
use tokio::{
    runtime::Handle,
    sync::{OwnedMutexGuard, mpsc},
    task::AbortHandle,
    time::{Instant, timeout},
};

use super::{frames, head};
use crate::link::mux::SendHalf;

/// A piece of a body.
#[derive(Clone, Debug)]
pub(super) enum Piece {
    Data(Bytes),
    Trailers(Vec<Header>),
    End,
}

/// The half of a stream on which a request goes: reset when it is dropped, since the caller needs
/// nothing more of the exchange then.
pub(super) struct Upward(Option<Box<dyn SendHalf>>);

impl Upward {
    pub(super) fn new(send: Box<dyn SendHalf>) -> Self {
        Self(Some(send))
    }

    pub(super) fn half(&mut self) -> io::Result<&mut dyn SendHalf> {
        match &mut self.0 {
            Some(send) => Ok(&mut **send),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    /// The half itself, for an exchange that has become bytes.
    pub(super) fn into_half(mut self) -> Option<Box<dyn SendHalf>> {
        self.0.take()
    }

    async fn piece(&mut self, piece: &Piece) -> io::Result<()> {
        let send = self.half()?;
        match piece {
            Piece::Data(data) => frames::write_data(send, data).await,
            Piece::Trailers(headers) => frames::write(send, FrameKind::Trailers, headers).await,
            Piece::End => frames::write_empty(send, FrameKind::End).await,
        }
    }
}

impl Drop for Upward {
    fn drop(&mut self) {
        if let Some(send) = &mut self.0 {
            send.reset(RESET_GAVE_UP);
        }
    }
}

/// How far a request is on its way up.
pub(super) enum Up {
    /// All of it is sent.
    Whole(Upward),
    /// Its body still goes.
    Going {
        /// Which is over when the answer is.
        _task: Going,
    },
}

/// Ends the task when it is dropped.
pub(super) struct Going {
    task: AbortHandle,
}

impl Drop for Going {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A request's body.
pub(super) struct Upload {
    body: Incoming,
    kept: Vec<Piece>,
    bytes: usize,
    /// Whether all that was read is kept.
    whole: bool,
    ended: bool,
    mirrors: Vec<mpsc::Sender<Piece>>,
    moved: Arc<AtomicU64>,
    /// How long its client was waited for in all, where that is bounded.
    waited: Option<Duration>,
}

/// Why a body does not go on.
pub(super) enum Stuck {
    /// The client ended it early.
    Client(String),
    /// The endpoint takes no more.
    Endpoint,
}

impl Upload {
    pub(super) fn new(body: Incoming, moved: Arc<AtomicU64>) -> Self {
        let (kept, mirrors) = (Vec::new(), Vec::new());
        Self { body, kept, bytes: 0, whole: true, ended: false, mirrors, moved, waited: None }
    }

    /// Ends the body when its client sends it slower than it may.
    pub(super) fn at_least_rate(&mut self) {
        self.waited = Some(Duration::ZERO);
    }

    /// The next frame of it. Only the time that the client takes counts, not that of the endpoint.
    async fn frame(&mut self) -> Result<Option<Frame<Bytes>>, Stuck> {
        let next = poll_fn(|cx| Pin::new(&mut self.body).poll_frame(cx));
        let next = match &mut self.waited {
            None => next.await,
            Some(waited) => {
                let begun = Instant::now();
                let come = u64::try_from(self.bytes).unwrap_or(u64::MAX) / limits::BODY_LEAST_RATE;
                let left = limits::BODY_PATIENCE.saturating_add(Duration::from_secs(come));
                let next = timeout(left.saturating_sub(*waited), next).await;
                *waited = waited.saturating_add(begun.elapsed());
                next.map_err(|_| Stuck::Client("its body came too slowly".to_owned()))?
            }
        };
        next.transpose().map_err(|error| Stuck::Client(error.to_string()))
    }

    /// Sends a copy of what comes there.
    pub(super) fn mirror(&mut self, mirror: mpsc::Sender<Piece>) {
        self.mirrors.push(mirror);
    }

    /// Whether another endpoint can have all of it.
    pub(super) fn again(&self) -> bool {
        self.whole
    }

    /// The next piece, kept before it is given.
    async fn next(&mut self) -> Result<Piece, Stuck> {
        loop {
            let piece = match self.frame().await? {
                None => {
                    self.ended = true;
                    Piece::End
                }
                Some(frame) => match frame.into_data() {
                    Ok(data) if data.is_empty() => continue,
                    Ok(data) => {
                        let count = u64::try_from(data.len()).unwrap_or(0);
                        self.moved.fetch_add(count, Ordering::Relaxed);
                        Piece::Data(data)
                    }
                    Err(frame) => match frame.into_trailers() {
                        Ok(trailers) => Piece::Trailers(head::trailers(&trailers)),
                        Err(_) => continue,
                    },
                },
            };
            if let Piece::Data(data) = &piece {
                self.bytes = self.bytes.saturating_add(data.len());
            }
            self.whole &= self.bytes <= limits::REPLAY_BYTES;
            match self.whole {
                true => self.kept.push(piece.clone()),
                false => self.kept.clear(),
            }
            // One that is behind by a whole queue is no longer fed: its copy ends broken.
            self.mirrors.retain(|mirror| mirror.try_send(piece.clone()).is_ok());
            return Ok(piece);
        }
    }
}

/// Sends a body, from its begin as far as that is kept, to its end. Dropped in between, what was
/// not sent is still there for another try.
pub(super) async fn send(
    mut upload: OwnedMutexGuard<Upload>,
    up: &mut Upward,
) -> Result<(), Stuck> {
    let mut at = 0;
    while let Some(piece) = upload.kept.get(at).cloned() {
        at += 1;
        up.piece(&piece).await.map_err(|_| Stuck::Endpoint)?;
    }
    while !upload.ended {
        let piece = upload.next().await?;
        up.piece(&piece).await.map_err(|_| Stuck::Endpoint)?;
    }
    Ok(())
}

/// Sends a copy of a body as it comes.
pub(super) async fn send_copy(
    mut pieces: mpsc::Receiver<Piece>,
    up: &mut Upward,
) -> io::Result<()> {
    loop {
        let Some(piece) = pieces.recv().await else {
            return Err(io::Error::other("the copy was too slow"));
        };
        up.piece(&piece).await?;
        if matches!(piece, Piece::End) {
            return Ok(());
        }
    }
}

/// A body on its way, which gives back the half on which it went.
pub(super) type Sending = Pin<Box<dyn Future<Output = (Upward, Result<(), Stuck>)> + Send>>;

/// Lets the rest of a body go on by itself.
pub(super) fn go_on(rest: Sending, runtime: &Handle) -> Up {
    let task = runtime.spawn(async move {
        let (up, _done) = rest.await;
        // The half stays open until the response is whole; then this task is ended.
        std::future::pending::<()>().await;
        drop(up);
    });
    Up::Going { _task: Going { task: task.abort_handle() } }
}
