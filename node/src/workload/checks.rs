//! Checks: a task for each check of each instance, and what they found.
//!
//! Only transitions leave a task: an instance that stays as it is costs nobody anything. A plan
//! that changes leaves alone the tasks whose check and target are the same.

use std::{collections::BTreeMap, time::Duration};

use skein_protocol::{
    manifest::{
        Plan,
        kinds::{Check, CheckKind},
        value::TargetAddress,
    },
    name::Label,
    record::node::{Health, InstanceId},
};
use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinError, JoinSet},
    time::{Instant, sleep_until},
};

use super::{
    probe::probe,
    status::{CheckState, InstanceHealth},
};

/// Which check of which instance.
type CheckKey = (InstanceId, Label);

/// A transition of a check.
#[derive(Debug)]
pub(crate) struct Report {
    key: CheckKey,
    state: CheckState,
}

/// What comes from the tasks.
#[derive(Debug)]
pub(crate) enum Event {
    /// A transition.
    Report(Report),
    /// A task ended: aborted, or by a panic.
    Ended(Result<(), JoinError>),
}

/// Transitions that wait for the workload's task. A task whose report finds no place waits.
const REPORTS: usize = 256;
/// Reports by `ttl` that wait for their task; more are refused.
const TTL_REPORTS: usize = 8;

struct Running {
    check: Check,
    target: Option<TargetAddress>,
    task: AbortHandle,
    ttl: Option<mpsc::Sender<CheckState>>,
}

/// All checks of this host.
pub(crate) struct Checks {
    tasks: JoinSet<()>,
    running: BTreeMap<CheckKey, Running>,
    states: BTreeMap<CheckKey, CheckState>,
    reports_in: mpsc::Sender<Report>,
    reports: mpsc::Receiver<Report>,
}

impl Checks {
    pub(crate) fn new() -> Self {
        let (reports_in, reports) = mpsc::channel(REPORTS);
        Self {
            tasks: JoinSet::new(),
            running: BTreeMap::new(),
            states: BTreeMap::new(),
            reports_in,
            reports,
        }
    }

    /// Starts and ends tasks so that exactly the checks of `plan` run.
    pub(crate) fn update(&mut self, plan: &Plan) {
        let mut old = std::mem::take(&mut self.running);
        for (_, instance) in plan.instances() {
            for check in &instance.checks {
                let key = (instance.id.clone(), check.name.clone());
                let target = instance.check_target(check).cloned();
                let running = match old.remove(&key) {
                    Some(running)
                        if running.check == *check
                            && running.target == target
                            && !running.task.is_finished() =>
                    {
                        running
                    }
                    other => {
                        if let Some(other) = other {
                            other.task.abort();
                        }
                        self.start(key.clone(), check.clone(), target)
                    }
                };
                self.running.insert(key, running);
            }
        }
        old.values().for_each(|gone| gone.task.abort());
        let running = &self.running;
        self.states.retain(|key, _| running.contains_key(key));
    }

    fn start(&mut self, key: CheckKey, check: Check, target: Option<TargetAddress>) -> Running {
        let reports = self.reports_in.clone();
        let (ttl, task) = match check.kind {
            CheckKind::Ttl(_) => {
                let (sender, heard) = mpsc::channel(TTL_REPORTS);
                let task = self.tasks.spawn(listen(key, check.clone(), heard, reports));
                (Some(sender), task)
            }
            CheckKind::Tcp | CheckKind::Http { .. } | CheckKind::Exec(_) | CheckKind::Unit(_) => {
                let run = repeat(key, check.clone(), target.clone(), reports);
                (None, self.tasks.spawn(run))
            }
        };
        Running { check, target, task, ttl }
    }

    /// The next event. Cancel safe.
    pub(crate) async fn next(&mut self) -> Event {
        tokio::select! {
            biased;
            Some(report) = self.reports.recv() => Event::Report(report),
            Some(ended) = self.tasks.join_next() => Event::Ended(ended),
            // No task runs. This value holds a sender, so the reports never end.
            else => std::future::pending().await,
        }
    }

    /// Takes a transition in. False when it changes nothing.
    pub(crate) fn record(&mut self, report: Report) -> bool {
        if !self.running.contains_key(&report.key) {
            return false;
        }
        let before = self.states.insert(report.key, report.state.clone());
        before.as_ref() != Some(&report.state)
    }

    /// Tells a ttl check what its service says. Without `check`: the only one of the instance.
    ///
    /// # Errors
    /// There is no such check, or its reports come faster than they are heard.
    pub(crate) fn tell(
        &self,
        instance: &InstanceId,
        check: Option<&Label>,
        state: CheckState,
    ) -> Result<(), String> {
        let mut found = self
            .running
            .iter()
            .filter(|((id, name), running)| {
                id == instance && running.ttl.is_some() && check.is_none_or(|check| check == name)
            })
            .filter_map(|(_, running)| running.ttl.as_ref());
        let none = || format!("{instance} has no such ttl check; see `skein service`");
        let sender = found.next().ok_or_else(none)?;
        if found.next().is_some() {
            return Err(format!("{instance} has several ttl checks; say which by its name"));
        }
        sender
            .try_send(state)
            .map_err(|_| format!("reports for {instance} come too fast; report less often"))
    }

    /// The health of every instance of `plan`: the worst of its checks.
    pub(crate) fn health(&self, plan: &Plan) -> BTreeMap<InstanceId, InstanceHealth> {
        let of = |id: &InstanceId, checks: &[Check]| {
            let checks: BTreeMap<Label, CheckState> = checks
                .iter()
                .map(|check| {
                    let key = (id.clone(), check.name.clone());
                    let state = self.states.get(&key).cloned();
                    (check.name.clone(), state.unwrap_or_else(CheckState::unchecked))
                })
                .collect();
            let worst = checks.values().map(|state| state.health).max();
            InstanceHealth { health: worst.unwrap_or(Health::Passing), checks, set_aside: None }
        };
        plan.instances()
            .map(|(_, instance)| (instance.id.clone(), of(&instance.id, &instance.checks)))
            .collect()
    }
}

/// Turns runs into transitions.
#[derive(Debug)]
pub(crate) struct Debounce {
    failures_before_critical: u32,
    successes_before_passing: u32,
    failures: u32,
    successes: u32,
    /// Whether it passed once: only then does a failure want more than one success after it.
    passed: bool,
    health: Option<Health>,
}

impl Debounce {
    pub(crate) fn new(check: &Check) -> Self {
        Self {
            failures_before_critical: check.failures_before_critical,
            successes_before_passing: check.successes_before_passing,
            failures: 0,
            successes: 0,
            passed: false,
            health: None,
        }
    }

    /// Takes one run's result; returns the new health if it is another one. The first run
    /// counts at once, for better or worse.
    pub(crate) fn observe(&mut self, found: Health) -> Option<Health> {
        if found == Health::Critical {
            self.failures = self.failures.saturating_add(1);
            self.successes = 0;
        } else {
            self.successes = self.successes.saturating_add(1);
            self.failures = 0;
        }
        let settled = match (self.health, found) {
            (None, _) => true,
            (Some(_), Health::Critical) => self.failures >= self.failures_before_critical,
            (Some(Health::Critical), _) => {
                !self.passed || self.successes >= self.successes_before_passing
            }
            (Some(_), _) => true,
        };
        self.passed |= found != Health::Critical;
        if !settled || self.health == Some(found) {
            return None;
        }
        self.health = Some(found);
        self.health
    }
}

async fn repeat(
    key: CheckKey,
    check: Check,
    target: Option<TargetAddress>,
    reports: mpsc::Sender<Report>,
) {
    let mut debounce = Debounce::new(&check);
    let mut early = Early::new(check.interval);
    loop {
        let began = Instant::now();
        let (found, output) = probe(&check.kind, target.as_ref(), check.timeout).await;
        let next = began.checked_add(early.after(found)).unwrap_or(began);
        if let Some(health) = debounce.observe(found) {
            let report = Report { key: key.clone(), state: CheckState { health, output } };
            if reports.send(report).await.is_err() {
                return;
            }
        }
        sleep_until(next).await;
    }
}

/// When a check is run again: one that never passed sooner than its interval, so that a process
/// which starts beside its registration is in use at once.
#[derive(Debug)]
struct Early {
    interval: Duration,
    next: Duration,
}

impl Early {
    fn new(interval: Duration) -> Self {
        Self { interval, next: FIRST_AGAIN }
    }

    /// From the start of a run that found that, to the start of the next.
    fn after(&mut self, found: Health) -> Duration {
        if found != Health::Critical {
            self.next = self.interval;
        }
        let after = self.next.min(self.interval);
        self.next = self.next.saturating_mul(2);
        after
    }
}

/// After this a check that has just failed for the first time is run again.
const FIRST_AGAIN: Duration = Duration::from_millis(250);

/// A ttl check: what was reported holds until its time is over.
async fn listen(
    key: CheckKey,
    check: Check,
    mut heard: mpsc::Receiver<CheckState>,
    reports: mpsc::Sender<Report>,
) {
    let CheckKind::Ttl(ttl) = check.kind else {
        return;
    };
    let mut deadline: Option<Instant> = None;
    loop {
        let expiry = async {
            match deadline {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let state = tokio::select! {
            biased;
            told = heard.recv() => match told {
                Some(state) => {
                    deadline = Instant::now().checked_add(ttl);
                    state
                }
                None => return,
            },
            () = expiry => {
                deadline = None;
                CheckState {
                    health: Health::Critical,
                    output: format!("no report for {ttl:?}"),
                }
            }
        };
        let report = Report { key: key.clone(), state };
        if reports.send(report).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(failures: u32, successes: u32) -> Check {
        Check {
            name: "tcp".parse().unwrap(),
            kind: CheckKind::Ttl(Duration::from_secs(30)),
            interval: Duration::from_secs(5),
            timeout: Duration::from_secs(1),
            failures_before_critical: failures,
            successes_before_passing: successes,
            port: None,
        }
    }

    #[test]
    fn a_check_that_never_passed_is_run_again_soon_and_its_first_success_counts() {
        let second = Duration::from_secs(1);
        let mut early = Early::new(second * 5);
        let waits: Vec<u128> = (0..7).map(|_| early.after(Health::Critical).as_millis()).collect();
        assert_eq!(waits, [250, 500, 1000, 2000, 4000, 5000, 5000]);
        assert_eq!(early.after(Health::Passing), second * 5);
        assert_eq!(early.after(Health::Critical), second * 5, "it has passed");
        let mut quick = Early::new(Duration::from_millis(100));
        assert_eq!(quick.after(Health::Critical), Duration::from_millis(100));

        let mut debounce = Debounce::new(&check(3, 3));
        assert_eq!(debounce.observe(Health::Critical), Some(Health::Critical));
        assert_eq!(debounce.observe(Health::Critical), None);
        assert_eq!(debounce.observe(Health::Passing), Some(Health::Passing));
    }

    #[test]
    fn only_transitions_are_reported() {
        use Health::{Critical, Passing, Warning};
        let mut debounce = Debounce::new(&check(2, 2));
        let runs = [
            (Passing, Some(Passing)),
            (Passing, None),
            (Critical, None),
            (Passing, None),
            (Critical, None),
            (Critical, Some(Critical)),
            (Critical, None),
            (Passing, None),
            (Passing, Some(Passing)),
            (Warning, Some(Warning)),
            (Passing, Some(Passing)),
        ];
        for (step, (found, reported)) in runs.into_iter().enumerate() {
            assert_eq!(debounce.observe(found), reported, "step {step}");
        }
    }

    #[test]
    fn the_first_run_counts_at_once() {
        let mut debounce = Debounce::new(&check(3, 1));
        assert_eq!(debounce.observe(Health::Critical), Some(Health::Critical));
    }

    #[tokio::test(start_paused = true)]
    async fn a_ttl_report_holds_for_its_time() {
        let (sender, heard) = mpsc::channel(1);
        let (reports_in, mut reports) = mpsc::channel(1);
        let key: CheckKey = (
            InstanceId { document: "a".parse().unwrap(), endpoint: "b".parse().unwrap() },
            "ttl".parse().unwrap(),
        );
        let mut tasks = JoinSet::new();
        tasks.spawn(listen(key, check(1, 1), heard, reports_in));
        let passing = CheckState { health: Health::Passing, output: "fine".into() };
        let began = Instant::now();
        sender.send(passing.clone()).await.unwrap();
        assert_eq!(reports.recv().await.unwrap().state, passing);
        let expired = reports.recv().await.unwrap().state;
        assert_eq!(expired.health, Health::Critical);
        assert_eq!(expired.output, "no report for 30s");
        assert_eq!(began.elapsed().as_secs(), 30);
    }
}
