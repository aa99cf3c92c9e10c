//! The access log: one JSON line per finished connection or request, on standard output.
//!
//! Never: blocks who writes, holds more than `ACCESS_LOG_QUEUE` lines, writes more than
//!        `ACCESS_LOG_PER_SECOND`. What is dropped is counted, and the count is itself a line.

use std::{
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use prometheus_client::metrics::counter::Counter;
use serde::Serialize;
use skein_protocol::{limits, route::CloseReason};

/// Which side of the mesh this agent was for a connection.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Side {
    /// The caller's.
    Outbound,
    /// The service's.
    Inbound,
}

impl Side {
    /// The word in log lines and labels.
    pub fn word(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

/// What is told of a request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The path, without its query: that may hold secrets.
    pub path: String,
    /// The status of the answer; 0 where there is none.
    pub status: u16,
}

/// One finished connection or request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Access {
    /// When it ended: unix milliseconds by this host's clock.
    pub at_ms: u64,
    /// This agent's side.
    pub side: Side,
    /// `namespace/name`; what was asked for when it is not known.
    pub service: String,
    /// The service's port.
    pub port: u16,
    /// Who called: a service or a node.
    pub source: String,
    /// The endpoint that answered: `node/document/endpoint`; empty for none.
    pub endpoint: String,
    /// The request; left out where bytes were carried.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub request: Option<Request>,
    /// How it ended.
    #[serde(serialize_with = "word")]
    pub end: CloseReason,
    /// The rest of the reason, for people; may be empty.
    pub detail: String,
    /// Bytes from the caller.
    pub bytes_in: u64,
    /// Bytes to the caller.
    pub bytes_out: u64,
    /// Until the serving side said `ok`, in microseconds.
    pub connect_us: u64,
    /// From accept to end, in milliseconds.
    pub took_ms: u64,
    /// Endpoints tried.
    pub tries: u8,
}

fn word<S: serde::Serializer>(end: &CloseReason, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(end.word())
}

/// Where finished connections are told. Cheap to clone; `default()` is off.
#[derive(Clone, Debug, Default)]
pub struct AccessLog {
    queue: Option<SyncSender<Access>>,
    dropped: Arc<AtomicU64>,
}

impl AccessLog {
    /// Starts the thread that writes; `total` counts what it had to drop
    /// ([`super::metrics::Metrics::access_log_dropped`]). It ends when the last clone is gone.
    pub fn start(out: impl Write + Send + 'static, total: Counter) -> (Self, JoinHandle<()>) {
        let (queue, lines) = sync_channel(limits::ACCESS_LOG_QUEUE);
        let dropped = Arc::new(AtomicU64::new(0));
        let writer = Writer {
            out: Box::new(out),
            dropped: dropped.clone(),
            total,
            second: Instant::now(),
            written: 0,
        };
        let thread = std::thread::spawn(move || writer.run(&lines));
        let log = Self { queue: Some(queue), dropped };
        (log, thread)
    }

    /// Tells of a finished connection. Never waits.
    pub fn tell(&self, access: Access) {
        let Some(queue) = &self.queue else { return };
        if let Err(TrySendError::Full(_)) = queue.try_send(access) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

struct Writer {
    out: Box<dyn Write + Send>,
    dropped: Arc<AtomicU64>,
    total: Counter,
    second: Instant,
    written: u64,
}

impl Writer {
    fn run(mut self, lines: &Receiver<Access>) {
        loop {
            match lines.recv_timeout(SECOND) {
                Ok(access) => self.take(&access),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.second.elapsed() >= SECOND {
                self.tell_dropped();
            }
        }
        self.tell_dropped();
    }

    fn take(&mut self, access: &Access) {
        if self.second.elapsed() >= SECOND {
            self.tell_dropped();
        }
        if self.written >= limits::ACCESS_LOG_PER_SECOND {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        self.written += 1;
        self.line(access);
    }

    /// Starts a new second, and says what the last one dropped.
    fn tell_dropped(&mut self) {
        self.second = Instant::now();
        self.written = 0;
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            self.total.inc_by(dropped);
            self.line(&Dropped { dropped });
        }
    }

    /// A log that cannot be written must not end the agent.
    fn line(&mut self, what: &impl Serialize) {
        if let Ok(mut text) = serde_json::to_vec(what) {
            text.push(b'\n');
            let _ = self.out.write_all(&text).and_then(|()| self.out.flush());
        }
    }
}

#[derive(Serialize)]
struct Dropped {
    dropped: u64,
}

const SECOND: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    struct Tap(Sender<Vec<u8>>);

    impl Write for Tap {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(std::io::Error::other)?;
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn access() -> Access {
        Access {
            at_ms: 1,
            side: Side::Outbound,
            service: "shop/checkout".into(),
            port: 80,
            source: "node web-1".into(),
            endpoint: "web-2/checkout/a".into(),
            request: None,
            end: CloseReason::Done,
            detail: String::new(),
            bytes_in: 10,
            bytes_out: 20,
            connect_us: 300,
            took_ms: 4,
            tries: 1,
        }
    }

    #[test]
    fn a_connection_is_one_line_of_json() {
        let (tap, lines) = channel();
        let (log, thread) = AccessLog::start(Tap(tap), Counter::default());
        log.tell(access());
        drop(log);
        thread.join().unwrap();
        let text = String::from_utf8(lines.recv().unwrap()).unwrap();
        assert_eq!(
            text,
            "{\"at_ms\":1,\"side\":\"outbound\",\"service\":\"shop/checkout\",\"port\":80,\
             \"source\":\"node web-1\",\"endpoint\":\"web-2/checkout/a\",\"end\":\"done\",\
             \"detail\":\"\",\"bytes_in\":10,\"bytes_out\":20,\"connect_us\":300,\
             \"took_ms\":4,\"tries\":1}\n"
        );
    }

    #[test]
    fn what_exceeds_the_rate_is_counted_not_written() {
        let (tap, lines) = channel();
        let told = limits::ACCESS_LOG_PER_SECOND * 2;
        let total = Counter::default();
        let (log, thread) = AccessLog::start(Tap(tap), total.clone());
        (0..told).for_each(|_| log.tell(access()));
        drop(log);
        thread.join().unwrap();
        let lines: Vec<String> =
            lines.iter().map(|line| String::from_utf8(line).unwrap()).collect();
        let of_connections = lines.iter().filter(|l| l.contains("at_ms")).count() as u64;
        let dropped: u64 = lines
            .iter()
            .filter(|l| l.contains("dropped"))
            .map(|l| {
                serde_json::from_str::<serde_json::Value>(l).unwrap()["dropped"].as_u64().unwrap()
            })
            .sum();
        assert_eq!(of_connections + dropped, told);
        assert_eq!(total.get(), dropped);
        assert!(of_connections >= limits::ACCESS_LOG_PER_SECOND);
    }

    #[test]
    fn a_log_that_is_off_takes_everything_and_says_nothing() {
        AccessLog::default().tell(access());
    }
}
