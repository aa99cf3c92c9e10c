//! Guarded: a client's connection as hyper may read it.
//!
//! The strict reader, or the floodgate, sees every byte before hyper does. What it refuses never
//! gets there: in place of a head that is at fault hyper gets a harmless one, whose answer is the
//! refusal; in place of a flood it gets a frame that no connection may carry, whose answer is
//! GOAWAY. A head that is late, and a connection on which nothing moves, end.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use skein_protocol::{
    clock::{Tick, millis},
    http::{Floodgate, Strict, strict},
    limits,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Instant, Sleep},
};

/// Why a request that is answered here was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Refused {
    /// It is no HTTP that may go on.
    Fault(strict::Fault),
    /// Its head took too long.
    Late,
}

/// What the guard and those who answer tell each other.
#[derive(Debug, Default)]
pub(super) struct Signals {
    refused: Mutex<Option<Refused>>,
    flood: Mutex<Option<String>>,
    switch: AtomicU8,
}

const SWITCHED: u8 = 1;
const STAYED: u8 = 2;

impl Signals {
    /// Why the request at hand stands for one that was refused, if it does.
    pub(super) fn refused(&self) -> Option<Refused> {
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What flooded the connection, if something did.
    pub(super) fn flood(&self) -> Option<String> {
        self.flood.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A request to switch protocols was answered.
    pub(super) fn answered(&self, switched: bool) {
        self.switch.store(if switched { SWITCHED } else { STAYED }, Ordering::Release);
    }
}

/// Whose bytes they are.
enum Gate {
    Http1(Box<Strict>),
    Http2(Floodgate),
}

/// See the module.
pub(super) struct Guarded<S> {
    inner: S,
    gate: Gate,
    /// What hyper may read, from `at` on.
    ready: Vec<u8>,
    at: usize,
    signals: Arc<Signals>,
    started: Instant,
    /// When a byte last went either way.
    moved: Instant,
    /// When the head at hand began.
    head: Option<Instant>,
    idle: Duration,
    /// For how long once the protocol was switched.
    idle_raw: Duration,
    timer: Pin<Box<Sleep>>,
    over: bool,
    /// Nothing more is read: an answer says why.
    refused: bool,
    broken: bool,
}

/// What hyper reads in place of a head that is refused.
const SUBSTITUTE: &[u8] = b"GET / HTTP/1.1\r\nhost: refused\r\nconnection: close\r\n\r\n";
/// The head of a frame longer than any may be.
const OVERSIZE: [u8; 9] = [0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 0];

impl<S> Guarded<S> {
    /// Guards a connection of HTTP/1 or HTTP/2 whose first bytes were read already.
    pub(super) fn new(
        inner: S,
        first: &[u8],
        two: bool,
        (idle, idle_raw): (Duration, Duration),
        signals: Arc<Signals>,
    ) -> Self {
        let now = Instant::now();
        let gate = match two {
            true => Gate::Http2(Floodgate::default()),
            false => Gate::Http1(Box::default()),
        };
        let mut guarded = Self {
            inner,
            gate,
            ready: Vec::new(),
            at: 0,
            signals,
            started: now,
            moved: now,
            head: None,
            idle,
            idle_raw,
            timer: Box::pin(tokio::time::sleep(idle)),
            over: false,
            refused: false,
            broken: false,
        };
        match two {
            // The preface is no frame.
            true => {
                let (preface, rest) =
                    first.split_at(first.len().min(skein_protocol::http::sniff::PREFACE.len()));
                guarded.ready.extend_from_slice(preface);
                guarded.look(rest);
            }
            false => guarded.look(first),
        }
        guarded
    }

    fn look(&mut self, bytes: &[u8]) {
        match &mut self.gate {
            Gate::Http1(strict) => {
                if let Err(fault) = strict.take(bytes, &mut self.ready) {
                    if strict.broke_body() {
                        self.broken = true;
                    } else {
                        self.refuse(Refused::Fault(fault));
                    }
                } else if strict.within_head() {
                    self.head.get_or_insert_with(Instant::now);
                } else {
                    self.head = None;
                }
            }
            Gate::Http2(gate) => {
                let now = Tick(millis(self.started.elapsed()));
                match gate.take(now, bytes) {
                    Ok(()) => self.ready.extend_from_slice(bytes),
                    Err((flood, seen)) => {
                        self.ready.extend_from_slice(bytes.get(..seen).unwrap_or_default());
                        let owed = gate.owed().min(limits::HTTP_HEAD_BYTES);
                        self.ready.resize(self.ready.len().saturating_add(owed), 0);
                        self.ready.extend_from_slice(&OVERSIZE);
                        self.refused = true;
                        let text = flood.to_string();
                        *self.signals.flood.lock().unwrap_or_else(PoisonError::into_inner) =
                            Some(text);
                    }
                }
            }
        }
    }

    fn refuse(&mut self, why: Refused) {
        *self.signals.refused.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
        self.ready.extend_from_slice(SUBSTITUTE);
        self.refused = true;
    }

    /// Waits for the time at which the connection is given up; a deadline that moved is waited
    /// for anew.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<Late> {
        loop {
            let switched = matches!(&self.gate, Gate::Http1(strict) if strict.switched());
            let idle = self.moved + if switched { self.idle_raw } else { self.idle };
            let head = self.head.map(|since| since + limits::HTTP_HEAD_TIMEOUT);
            let due = head.map_or(idle, |head| head.min(idle));
            if Instant::now() >= due {
                return Poll::Ready(if head.is_some() { Late::Head } else { Late::Idle });
            }
            if self.timer.deadline() != due {
                self.timer.as_mut().reset(due);
            }
            ready!(self.timer.as_mut().poll(cx));
        }
    }
}

enum Late {
    Head,
    Idle,
}

impl<S: AsyncRead + Unpin> AsyncRead for Guarded<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            let left = this.ready.get(this.at..).unwrap_or_default();
            if !left.is_empty() {
                let count = left.len().min(buffer.remaining());
                buffer.put_slice(left.get(..count).unwrap_or_default());
                this.at += count;
                if this.at >= this.ready.len() {
                    this.ready.clear();
                    this.at = 0;
                    // What a large head or body left is not kept by an idle connection.
                    this.ready.shrink_to(PIECE);
                }
                return Poll::Ready(Ok(()));
            }
            if this.broken {
                let text = "the client's message is broken";
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, text)));
            }
            if this.over {
                return Poll::Ready(Ok(()));
            }
            if this.refused {
                // Not an end: hyper would take the client for gone, and keep its answer.
                return Poll::Pending;
            }
            if let Gate::Http1(strict) = &mut this.gate {
                match this.signals.switch.swap(0, Ordering::Acquire) {
                    SWITCHED => strict.answered(true),
                    STAYED => strict.answered(false),
                    _ => {}
                }
            }
            let mut piece = [0; PIECE];
            let mut read = ReadBuf::new(&mut piece);
            match Pin::new(&mut this.inner).poll_read(cx, &mut read) {
                Poll::Ready(done) => {
                    done?;
                    if read.filled().is_empty() {
                        this.over = true;
                        return Poll::Ready(Ok(()));
                    }
                    this.moved = Instant::now();
                    this.look(read.filled());
                }
                Poll::Pending => match ready!(this.poll_late(cx)) {
                    Late::Head => this.refuse(Refused::Late),
                    Late::Idle => {
                        let text = "nothing moved on the connection";
                        return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, text)));
                    }
                },
            }
        }
    }
}

const PIECE: usize = 8 * 1024;

impl<S: AsyncWrite + Unpin> AsyncWrite for Guarded<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = match Pin::new(&mut self.inner).poll_write(cx, bytes) {
            Poll::Ready(written) => written?,
            // A client that does not read its answer does not get to keep it waiting for ever.
            Poll::Pending => match ready!(self.poll_late(cx)) {
                Late::Head | Late::Idle => return Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            },
        };
        self.moved = Instant::now();
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = match Pin::new(&mut self.inner).poll_write_vectored(cx, pieces) {
            Poll::Ready(written) => written?,
            Poll::Pending => match ready!(self.poll_late(cx)) {
                Late::Head | Late::Idle => return Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            },
        };
        self.moved = Instant::now();
        Poll::Ready(Ok(written))
    }
}
