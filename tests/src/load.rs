//! Load: new connections at a constant rate, each a question and its answer, and what came of it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    task::JoinSet,
    time::{MissedTickBehavior, interval, timeout},
};

/// How far a call came before it failed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stage {
    /// No connection.
    Connect,
    /// A connection that ended before its first byte came back.
    First,
    /// A connection that ended, or changed its bytes, after the first byte.
    Later,
}

/// A call that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// When it began, since the load's start.
    pub began: Duration,
    /// When it failed, since the load's start.
    pub ended: Duration,
    /// How far it came.
    pub stage: Stage,
    /// Why.
    pub reason: String,
}

/// What came of all calls.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// How long each call took that held, in the order of their ends.
    pub took: Vec<Duration>,
    /// Each that failed.
    pub failures: Vec<Failure>,
}

impl Report {
    /// The time within which `part` of all good calls ended: 0.5 for the median.
    pub fn percentile(&self, part: f64) -> Duration {
        let mut took = self.took.clone();
        took.sort();
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss
        )]
        let place = (part * took.len().saturating_sub(1) as f64).round() as usize;
        took.get(place).copied().unwrap_or_default()
    }
}

/// A load that runs until [`Load::stop`].
#[derive(Debug)]
pub struct Load {
    stop: watch::Sender<bool>,
    begun: Arc<AtomicU64>,
    tasks: JoinSet<Report>,
}

/// What every call of a load does.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Whom it calls: something that sends back what it gets.
    pub target: SocketAddr,
    /// Time between two beginnings.
    pub every: Duration,
    /// How long one call may take.
    pub limit: Duration,
    /// How long a call holds its connection between question and answer.
    pub hold: Duration,
}

impl Plan {
    /// 100 calls a second, each within two seconds.
    pub fn new(target: SocketAddr) -> Self {
        Self {
            target,
            every: Duration::from_millis(10),
            limit: Duration::from_secs(2),
            hold: Duration::ZERO,
        }
    }
}

impl Load {
    /// Starts it.
    pub fn start(plan: Plan) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let begun = Arc::<AtomicU64>::default();
        tasks.spawn(run(plan, Arc::clone(&begun), stopped));
        Self { stop, begun, tasks }
    }

    /// How many calls have begun so far.
    pub fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    /// Begins no further call, waits for those that run, and gives the sum.
    pub async fn stop(mut self) -> Report {
        let _ = self.stop.send(true);
        let report = self.tasks.join_next().await.expect("one task");
        report.expect("the load's own task")
    }
}

async fn run(plan: Plan, begun: Arc<AtomicU64>, mut stopped: watch::Receiver<bool>) -> Report {
    let start = Instant::now();
    let mut report = Report::default();
    let mut calls = JoinSet::new();
    let mut ticks = interval(plan.every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            biased;
            _ = stopped.wait_for(|stop| *stop) => break,
            Some(call) = calls.join_next() => report.add(call.expect("a call's own task")),
            _ = ticks.tick() => {
                begun.fetch_add(1, Ordering::Relaxed);
                calls.spawn(call(plan, start));
            }
        }
    }
    while let Some(call) = calls.join_next().await {
        report.add(call.expect("a call's own task"));
    }
    report
}

impl Report {
    fn add(&mut self, call: Result<Duration, Failure>) {
        match call {
            Ok(took) => self.took.push(took),
            Err(failure) => self.failures.push(failure),
        }
    }
}

async fn call(plan: Plan, start: Instant) -> Result<Duration, Failure> {
    let began = start.elapsed();
    let mut stage = Stage::Connect;
    let answer = match timeout(plan.limit, ask(plan, &mut stage)).await {
        Ok(Ok(())) => return Ok(start.elapsed() - began),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {:?}", plan.limit),
    };
    Err(Failure { began, ended: start.elapsed(), stage, reason: answer })
}

async fn ask(plan: Plan, stage: &mut Stage) -> std::io::Result<()> {
    let question = *b"what goes out comes back";
    let mut stream = TcpStream::connect(plan.target).await?;
    *stage = Stage::First;
    let (first, rest) = question.split_at(1);
    stream.write_all(first).await?;
    let mut answer = question.map(|_| 0);
    let (answered_first, answered_rest) = answer.split_at_mut(1);
    stream.read_exact(answered_first).await?;
    *stage = Stage::Later;
    tokio::time::sleep(plan.hold).await;
    stream.write_all(rest).await?;
    stream.read_exact(answered_rest).await?;
    if answer != question {
        return Err(std::io::Error::other("other bytes came back"));
    }
    Ok(())
}
