//! A mux in memory, and two agents on a table: the bench of the proxy's tests.
//!
//! Streams hold 64 KiB per direction, like a small window, so back-pressure is real.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::{Mutex as AsyncMutex, mpsc},
};

use crate::link::mux::{BoxFuture, Mux, MuxError, MuxStats, RecvHalf, SendHalf, StreamPair};

const WINDOW: usize = 64 * 1024;

#[derive(Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    finished: bool,
    reset: Option<u32>,
    stopped: Option<u32>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Pipe {
    fn wake(&mut self) {
        let wakers = [self.reader.take(), self.writer.take()];
        wakers.into_iter().flatten().for_each(Waker::wake);
    }
}

pub(super) struct MemSend(Arc<Mutex<Pipe>>);
pub(super) struct MemRecv(Arc<Mutex<Pipe>>);

/// Two ends of a stream.
pub(super) fn stream() -> (StreamPair, StreamPair) {
    let pipe = || {
        let pipe = Arc::new(Mutex::new(Pipe::default()));
        (MemSend(Arc::clone(&pipe)), MemRecv(pipe))
    };
    let ((a_send, b_recv), (b_send, a_recv)) = (pipe(), pipe());
    ((Box::new(a_send), Box::new(a_recv)), (Box::new(b_send), Box::new(b_recv)))
}

impl AsyncWrite for MemSend {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let mut pipe = self.0.lock().unwrap();
        if pipe.stopped.is_some() || pipe.reset.is_some() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let room = WINDOW - pipe.bytes.len();
        if room == 0 {
            pipe.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let count = room.min(bytes.len());
        pipe.bytes.extend(&bytes[..count]);
        pipe.wake();
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut pipe = self.0.lock().unwrap();
        pipe.finished = true;
        pipe.wake();
        Poll::Ready(Ok(()))
    }
}

impl SendHalf for MemSend {
    fn reset(&mut self, code: u32) {
        let mut pipe = self.0.lock().unwrap();
        pipe.reset.get_or_insert(code);
        pipe.bytes.clear();
        pipe.wake();
    }
}

impl Drop for MemSend {
    fn drop(&mut self) {
        let mut pipe = self.0.lock().unwrap();
        if !pipe.finished {
            pipe.reset.get_or_insert(0);
        }
        pipe.wake();
    }
}

impl AsyncRead for MemRecv {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut pipe = self.0.lock().unwrap();
        if pipe.reset.is_some() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if pipe.bytes.is_empty() && !pipe.finished {
            pipe.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let count = buffer.remaining().min(pipe.bytes.len());
        buffer.put_slice(&pipe.bytes.make_contiguous()[..count]);
        pipe.bytes.drain(..count);
        pipe.wake();
        Poll::Ready(Ok(()))
    }
}

impl RecvHalf for MemRecv {
    fn stop(&mut self, code: u32) {
        let mut pipe = self.0.lock().unwrap();
        pipe.stopped.get_or_insert(code);
        pipe.wake();
    }
}

impl Drop for MemRecv {
    fn drop(&mut self) {
        self.stop(0);
    }
}

/// One end of a connection.
#[derive(Debug)]
pub(super) struct MemMux {
    out: mpsc::Sender<StreamPair>,
    incoming: AsyncMutex<mpsc::Receiver<StreamPair>>,
}

/// Two ends of a connection.
pub(super) fn connection() -> (Arc<MemMux>, Arc<MemMux>) {
    let ((a_out, b_in), (b_out, a_in)) = (mpsc::channel(1024), mpsc::channel(1024));
    let mux = |out, incoming| Arc::new(MemMux { out, incoming: AsyncMutex::new(incoming) });
    (mux(a_out, a_in), mux(b_out, b_in))
}

impl Mux for MemMux {
    fn open(&self) -> BoxFuture<'_, Result<StreamPair, MuxError>> {
        Box::pin(async {
            let (mine, theirs) = stream();
            let sent = self.out.send(theirs).await;
            sent.map_err(|_| MuxError::Closed("gone".to_owned()))?;
            Ok(mine)
        })
    }

    fn accept(&self) -> BoxFuture<'_, Result<StreamPair, MuxError>> {
        Box::pin(async {
            let next = self.incoming.lock().await.recv().await;
            next.ok_or_else(|| MuxError::Closed("gone".to_owned()))
        })
    }

    fn close(&self, _: u32, _: &str) {}

    fn closed(&self) -> BoxFuture<'_, MuxError> {
        Box::pin(std::future::pending())
    }

    fn stats(&self) -> MuxStats {
        MuxStats::default()
    }
}
