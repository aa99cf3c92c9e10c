//! The demo's traffic: new connections through the mesh, at a steady pace, each counted.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    time::{MissedTickBehavior, interval, timeout},
};

/// What came of some calls.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Tally {
    /// Calls made.
    pub(super) sent: u64,
    /// Calls without a whole answer.
    pub(super) failed: u64,
    /// Answers by instance.
    pub(super) by_instance: BTreeMap<String, u64>,
    /// Microseconds of each whole call, the first [`TIMES_MAX`].
    times: Vec<u64>,
    /// Why the last one failed.
    pub(super) why: Option<String>,
}

impl Tally {
    fn count(&mut self, started: Instant, answer: Result<String>) {
        self.sent += 1;
        match answer {
            Ok(instance) => {
                *self.by_instance.entry(instance).or_default() += 1;
                if self.times.len() < TIMES_MAX {
                    let took = started.elapsed().as_micros();
                    self.times.push(u64::try_from(took).unwrap_or(u64::MAX));
                }
            }
            Err(error) => {
                self.failed += 1;
                self.why = Some(format!("{error:#}"));
            }
        }
    }

    /// Adds another tally.
    pub(super) fn add(&mut self, other: Self) {
        self.sent += other.sent;
        self.failed += other.failed;
        for (instance, count) in other.by_instance {
            *self.by_instance.entry(instance).or_default() += count;
        }
        let room = TIMES_MAX.saturating_sub(self.times.len());
        self.times.extend(other.times.into_iter().take(room));
        self.why = other.why.or_else(|| self.why.take());
    }

    /// The time within which so many of a hundred calls were done, in microseconds.
    pub(super) fn percentile(&self, percent: usize) -> u64 {
        let mut times = self.times.clone();
        times.sort_unstable();
        let last = times.len().saturating_sub(1);
        times.get(last * percent / 100).copied().unwrap_or(0)
    }

    /// `demo-1 52, demo-2 48`.
    pub(super) fn instances(&self) -> String {
        let one = |(name, count): (&String, &u64)| format!("{name} {count}");
        self.by_instance.iter().map(one).collect::<Vec<_>>().join(", ")
    }
}

/// Calls at a steady pace until `stop` turns true.
pub(super) async fn steady(entry: SocketAddr, stop: watch::Receiver<bool>) -> Tally {
    let workers = (0..WORKERS).map(|_| worker(entry, stop.clone()));
    let mut all = Tally::default();
    for tally in futures_util::future::join_all(workers).await {
        all.add(tally);
    }
    all
}

async fn worker(entry: SocketAddr, stop: watch::Receiver<bool>) -> Tally {
    let mut tally = Tally::default();
    let mut pace = interval(PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !*stop.borrow() {
        pace.tick().await;
        let started = Instant::now();
        tally.count(started, call(entry).await);
    }
    tally
}

/// So many calls, one after the other.
pub(super) async fn some(entry: SocketAddr, count: usize) -> Tally {
    let mut tally = Tally::default();
    for _ in 0..count {
        let started = Instant::now();
        tally.count(started, call(entry).await);
    }
    tally
}

/// One HTTP call on a connection of its own. Gives back the instance's name.
pub(super) async fn call(entry: SocketAddr) -> Result<String> {
    let Ok(answer) = timeout(CALL, exchange(entry)).await else {
        bail!("no answer within {CALL:?}");
    };
    answer
}

async fn exchange(entry: SocketAddr) -> Result<String> {
    let mut stream = TcpStream::connect(entry).await?;
    let request = format!("GET / HTTP/1.1\r\nHost: {entry}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    (&mut stream).take(ANSWER_BYTES).read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let whole = answer.strip_prefix("HTTP/1.1 200").and_then(|rest| rest.split_once("\r\n\r\n"));
    match whole {
        Some((_, body)) if body.ends_with('\n') => Ok(body.trim().to_owned()),
        _ if answer.is_empty() => bail!("closed without an answer"),
        _ => bail!("answered {:?}", answer.lines().next().unwrap_or_default()),
    }
}

/// Sends bytes to the echo and reads them back, with the half-close in between.
pub(super) async fn echo(entry: SocketAddr) -> Result<()> {
    let exchange = async {
        let mut stream = TcpStream::connect(entry).await?;
        let sent = b"skein".repeat(2000);
        let (mut from, mut to) = stream.split();
        let mut got = Vec::new();
        let send = async {
            to.write_all(&sent).await?;
            to.shutdown().await
        };
        let receive = from.read_to_end(&mut got);
        tokio::try_join!(send, receive)?;
        match got == sent {
            true => Ok(()),
            false => bail!("{} bytes came back of {}", got.len(), sent.len()),
        }
    };
    match timeout(CALL, exchange).await {
        Ok(result) => result,
        Err(_) => bail!("no echo within {CALL:?}"),
    }
}

/// Callers at one time: what an instance may lose when it is killed is at most this.
pub(super) const WORKERS: u64 = 4;
/// Between two calls of one caller: four make 200 calls a second.
const PACE: Duration = Duration::from_millis(20);
/// One call.
const CALL: Duration = Duration::from_secs(3);
const ANSWER_BYTES: u64 = 64 * 1024;
/// 200 calls a second for 8 minutes.
const TIMES_MAX: usize = 100_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_add_up_and_percentiles_are_of_all() {
        let mut a = Tally { sent: 3, failed: 1, times: vec![10, 30], ..Tally::default() };
        a.add(Tally { sent: 2, times: vec![20, 40], why: Some("x".into()), ..Tally::default() });
        assert_eq!((a.sent, a.failed), (5, 1));
        assert_eq!((a.percentile(0), a.percentile(50), a.percentile(100)), (10, 20, 40));
        assert_eq!(Tally::default().percentile(99), 0);
    }
}
