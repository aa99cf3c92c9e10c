//! The frames that wait for one link's writer, bounded in number and in bytes.
//!
//! Records, versions of documents and heads are told again by the next exchange, so beyond
//! [`limits::LINK_QUEUE_BULK`] they are dropped. Beyond [`limits::LINK_QUEUE_BYTES`] nothing is
//! taken: a peer that reads so little loses the link.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use skein_protocol::{limits, wire::frame};
use tokio::sync::mpsc;

/// The end that the driver puts frames into.
#[derive(Debug)]
pub(super) struct Outbox {
    frames: mpsc::Sender<Bytes>,
    waiting: Arc<AtomicUsize>,
}

/// The end that the writer takes them from.
#[derive(Debug)]
pub(super) struct Inbox {
    frames: mpsc::Receiver<Bytes>,
    waiting: Arc<AtomicUsize>,
    /// Bytes of the frame that is being written: they wait until it is.
    writing: usize,
}

/// The peer does not read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

/// A queue of frames.
pub(super) fn queue() -> (Outbox, Inbox) {
    let (sender, receiver) = mpsc::channel(limits::LINK_QUEUE);
    let waiting = Arc::new(AtomicUsize::new(0));
    let outbox = Outbox { frames: sender, waiting: Arc::clone(&waiting) };
    (outbox, Inbox { frames: receiver, waiting, writing: 0 })
}

impl Outbox {
    /// Puts a frame last, or drops it if it will be told again anyway.
    pub(super) fn put(&self, bytes: Bytes) -> Result<(), Full> {
        let length = bytes.len();
        let waiting = self.waiting.load(Ordering::Relaxed).saturating_add(length);
        if waiting > limits::LINK_QUEUE_BULK && frame::is_told_again(&bytes) {
            return Ok(());
        }
        if waiting > limits::LINK_QUEUE_BYTES {
            return Err(Full);
        }
        self.waiting.fetch_add(length, Ordering::Relaxed);
        let put = self.frames.try_send(bytes);
        if put.is_err() {
            self.waiting.fetch_sub(length, Ordering::Relaxed);
        }
        put.map_err(|_| Full)
    }
}

impl Inbox {
    /// The next frame. The one before is written.
    pub(super) async fn next(&mut self) -> Option<Bytes> {
        self.waiting.fetch_sub(std::mem::take(&mut self.writing), Ordering::Relaxed);
        let frame = self.frames.recv().await?;
        self.writing = frame.len();
        Some(frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECORD: u8 = 4;
    const PROBE: u8 = 2;

    fn of(kind: u8, length: usize) -> Bytes {
        let mut bytes = vec![0; length];
        bytes[0] = kind;
        bytes.into()
    }

    #[test]
    fn what_is_told_again_is_dropped_long_before_the_link_is_lost() {
        let (outbox, inbox) = queue();
        for _ in 0..1_000 {
            assert_eq!(outbox.put(of(RECORD, 64 * 1024)), Ok(()));
        }
        assert!(inbox.waiting.load(Ordering::Relaxed) <= limits::LINK_QUEUE_BULK);
        assert_eq!(outbox.put(of(PROBE, 100)), Ok(()), "a probe still passes");
        let most = limits::LINK_QUEUE_BYTES / (64 * 1024);
        let taken = (0..2 * most).take_while(|_| outbox.put(of(PROBE, 64 * 1024)).is_ok()).count();
        assert!(taken < most, "{taken}: who reads nothing is given up");
    }

    #[tokio::test]
    async fn what_is_written_makes_room() {
        let (outbox, mut inbox) = queue();
        for _ in 0..100 {
            while inbox.waiting.load(Ordering::Relaxed) + 64 * 1024 <= limits::LINK_QUEUE_BULK {
                outbox.put(of(RECORD, 64 * 1024)).unwrap();
            }
            assert_eq!(inbox.next().await.map(|frame| frame.len()), Some(64 * 1024));
        }
        drop(outbox);
        while inbox.next().await.is_some() {}
        assert_eq!(inbox.waiting.load(Ordering::Relaxed), 0);
    }
}
