//! Frames of an exchange on a stream's halves: read, written, and as a body.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};
use skein_protocol::{
    http::header::goes_on,
    limits,
    wire::exchange::{self, FRAME_PREFIX, FrameKind, Header},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::oneshot,
    time::{Instant, Sleep},
};

use super::head;
use crate::{
    link::mux::{RecvHalf, SendHalf},
    proxy::socket,
};

/// Reads frames.
pub(super) struct Reader {
    recv: Box<dyn RecvHalf>,
    buffer: BytesMut,
}

fn bad(error: &dyn std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error.to_string())
}

/// What a stream that ends in the middle means.
fn cut_short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the exchange was cut short")
}

impl Reader {
    pub(super) fn new(recv: Box<dyn RecvHalf>) -> Self {
        Self { recv, buffer: BytesMut::new() }
    }

    /// The next frame; an error when the stream ends.
    pub(super) async fn frame(&mut self) -> io::Result<(FrameKind, Bytes)> {
        poll_fn(|cx| self.poll_frame(cx)).await
    }

    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(FrameKind, Bytes)>> {
        loop {
            let mut wanted = FRAME_PREFIX;
            if let Some(prefix) = self.buffer.first_chunk::<FRAME_PREFIX>() {
                let (kind, length) =
                    exchange::parse_prefix(*prefix).map_err(|error| bad(&error))?;
                wanted += length;
                if self.buffer.len() >= wanted {
                    self.buffer.advance(FRAME_PREFIX);
                    return Poll::Ready(Ok((kind, self.buffer.split_to(length).freeze())));
                }
            }
            self.buffer.reserve(wanted.saturating_sub(self.buffer.len()).max(READ));
            if ready!(pin!(self.recv.read_buf(&mut self.buffer)).poll(cx))? == 0 {
                return Poll::Ready(Err(cut_short()));
            }
        }
    }

    /// Waits until the peer resets or ends its half, and drops what it sends: the exchange needs
    /// nothing more of it.
    pub(super) async fn gone(&mut self) {
        loop {
            self.buffer.clear();
            self.buffer.reserve(64);
            match self.recv.read_buf(&mut self.buffer).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    }

    /// The stream itself, with what was read of it and not used: for an exchange that has become
    /// bytes.
    pub(super) fn into_bytes(self) -> Box<dyn RecvHalf> {
        socket::behind(self.buffer.freeze(), self.recv)
    }
}

const READ: usize = 8 * 1024;

/// Writes a head, trailers or an end.
pub(super) async fn write(
    send: &mut dyn SendHalf,
    kind: FrameKind,
    content: &impl serde::Serialize,
) -> io::Result<()> {
    let bytes = exchange::encode(kind, content).map_err(|error| bad(&error))?;
    send.write_all(&bytes).await?;
    send.flush().await
}

/// Writes a frame without content.
pub(super) async fn write_empty(send: &mut dyn SendHalf, kind: FrameKind) -> io::Result<()> {
    let prefix = exchange::prefix(kind, 0).map_err(|error| bad(&error))?;
    send.write_all(&prefix).await?;
    send.flush().await
}

/// Writes a piece of a body, in as many frames as it takes.
pub(super) async fn write_data(send: &mut dyn SendHalf, data: &Bytes) -> io::Result<()> {
    for piece in data.chunks(limits::EXCHANGE_DATA_BYTES) {
        let prefix = exchange::prefix(FrameKind::Data, piece.len()).map_err(|error| bad(&error))?;
        send.write_all(&prefix).await?;
        send.write_all(piece).await?;
    }
    send.flush().await
}

/// Writes what is left of a body, and its end. An error says whether reading it failed.
pub(super) async fn write_body<B>(
    body: &mut B,
    send: &mut dyn SendHalf,
    moved: &AtomicU64,
) -> Result<(), Broken>
where
    B: HttpBody<Data = Bytes> + Unpin + ?Sized,
    B::Error: std::fmt::Display,
{
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
        let frame = frame.map_err(|error| Broken::Read(error.to_string()))?;
        match frame.into_data() {
            Ok(data) => {
                write_data(send, &data).await.map_err(|_| Broken::Write)?;
                moved.fetch_add(u64::try_from(data.len()).unwrap_or(0), Ordering::Relaxed);
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    let headers = head::trailers(&trailers);
                    write(send, FrameKind::Trailers, &headers).await.map_err(|_| Broken::Write)?;
                }
            }
        }
    }
    // Who has all of it may be gone before it is told so.
    let _ = write_empty(send, FrameKind::End).await;
    Ok(())
}

/// Why a body did not reach its end.
#[derive(Debug)]
pub(super) enum Broken {
    /// Where it comes from.
    Read(String),
    /// Where it goes.
    Write,
}

/// What came of a body that was read.
pub(super) struct Incoming {
    reader: Option<Reader>,
    /// Gets the reader when the body is whole.
    whole: Option<oneshot::Sender<Reader>>,
    moved: Arc<AtomicU64>,
    /// Both directions together, as they were when the timer was set.
    seen: u64,
    other: Arc<AtomicU64>,
    idle: Duration,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Incoming {
    /// A body of those frames, given up when neither it nor `other` moves for `idle`.
    pub(super) fn new(
        reader: Reader,
        moved: Arc<AtomicU64>,
        other: Arc<AtomicU64>,
        idle: Duration,
    ) -> (Self, oneshot::Receiver<Reader>) {
        let (whole, reader_back) = oneshot::channel();
        let (reader, whole, timer) = (Some(reader), Some(whole), None);
        (Self { reader, whole, moved, seen: 0, other, idle, timer }, reader_back)
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let now = self.moved.load(Ordering::Relaxed) + self.other.load(Ordering::Relaxed);
            let idle = self.idle;
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(idle)));
            if now != self.seen {
                self.seen = now;
                timer.as_mut().reset(Instant::now() + idle);
            }
            ready!(timer.as_mut().poll(cx));
            let now = self.moved.load(Ordering::Relaxed) + self.other.load(Ordering::Relaxed);
            if now == self.seen {
                return Poll::Ready(());
            }
        }
    }
}

impl HttpBody for Incoming {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = &mut *self;
        let Some(reader) = &mut this.reader else { return Poll::Ready(None) };
        let frame = match reader.poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                ready!(this.poll_idle(cx));
                Err(io::Error::new(io::ErrorKind::TimedOut, "nothing moved in the exchange"))
            }
        };
        let frame = frame.and_then(|(kind, content)| match kind {
            FrameKind::Data => {
                let count = u64::try_from(content.len()).unwrap_or(0);
                this.moved.fetch_add(count, Ordering::Relaxed);
                Ok(Some(Frame::data(content)))
            }
            FrameKind::Trailers => {
                let mut headers: Vec<Header> =
                    exchange::trailers(&content).map_err(|error| bad(&error))?;
                // A peer's trailers are believed no more than its heads.
                headers.retain(|(name, value)| goes_on(name, value, &[]));
                Ok(Some(Frame::trailers(head::map(&headers)?)))
            }
            FrameKind::End => Ok(None),
            FrameKind::Failed => {
                let failed = exchange::failed(&content).map_err(|error| bad(&error))?;
                Err(io::Error::new(io::ErrorKind::ConnectionReset, failed.detail))
            }
            FrameKind::Request | FrameKind::Response | FrameKind::Go => {
                Err(bad(&"a frame that has no place in a body"))
            }
        });
        match frame {
            Ok(Some(frame)) => Poll::Ready(Some(Ok(frame))),
            Ok(None) => {
                if let (Some(whole), Some(reader)) = (this.whole.take(), this.reader.take()) {
                    let _ = whole.send(reader);
                }
                Poll::Ready(None)
            }
            Err(error) => {
                this.reader = None;
                Poll::Ready(Some(Err(error)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.reader.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
