//! The thread that writes: all batches that wait go into one transaction, so that there is one
//! fsync for all of them. While the disk cannot be written it is tried again and again.

use std::{
    sync::{Arc, mpsc},
    thread::JoinHandle,
};

use skein_protocol::{
    engine::{PersistId, Write},
    limits,
};

use super::Disk;

/// What became of a write.
pub type Written = (PersistId, Result<(), String>);

/// Writes on a thread of its own.
#[derive(Debug)]
pub struct Writer {
    queue: mpsc::SyncSender<(PersistId, Vec<Write>)>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread. `written` is called on it, once for each batch, in order.
    pub fn start(
        disk: Arc<Disk>,
        written: impl Fn(Written) + Send + 'static,
    ) -> std::io::Result<Self> {
        let (queue, batches) =
            mpsc::sync_channel::<(PersistId, Vec<Write>)>(limits::PERSIST_WAITING);
        let thread =
            std::thread::Builder::new().name("skein-disk".to_owned()).spawn(move || {
                loop {
                    let first = match batches.recv_timeout(limits::DISK_AGAIN) {
                        Ok(first) => first,
                        Err(mpsc::RecvTimeoutError::Timeout) => {
                            disk.try_again();
                            continue;
                        }
                        Err(mpsc::RecvTimeoutError::Disconnected) => return,
                    };
                    let mut all = vec![first];
                    all.extend(batches.try_iter().take(limits::PERSIST_WAITING));
                    let result = disk.write(&all).map_err(|error| error.to_string());
                    for (id, _) in all {
                        written((id, result.clone()));
                    }
                }
            })?;
        Ok(Self { queue, thread: Some(thread) })
    }

    /// Queues a batch. A full queue refuses: the disk is far behind.
    pub fn write(&self, id: PersistId, writes: Vec<Write>) -> Result<(), String> {
        self.queue
            .try_send((id, writes))
            .map_err(|_| "the disk is too slow: too many writes wait for it".to_owned())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // What was queued is written before the thread ends: closing the queue ends its loop.
        let (closed, _) = mpsc::sync_channel(1);
        self.queue = closed;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
