//! Traffic rules at work: compiled for the ports that are called, and what they count.
//!
//! In:    the mesh's TrafficManagement documents, as this host applies them; calls.
//! Out:   what holds for a call, where it goes, whether there is room for it.
//! Never: held over an await; every hold is arithmetic.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::StdRng};
use skein_protocol::{
    clock::{Tick, millis},
    limits as bounds,
    manifest::traffic::{CircuitBreak, RateLimit},
    name::ServiceName,
    policy::{
        legs::{Asked, Leg},
        traffic::{Rule, RuleName, ServiceRules, TrafficRules},
    },
    route::{
        limit::{self, Limiter},
        retry::{Backoff, Budget, Spent},
    },
    view::View,
};
use tokio::time::Instant;

/// The traffic rules of the mesh, as this host applies them.
#[derive(Debug, Default)]
pub struct Traffic {
    rules: TrafficRules,
    of: Mutex<BTreeMap<ServiceName, BTreeMap<u16, Arc<ServiceRules>>>>,
}

impl Traffic {
    /// These rules, to be compiled as they are asked for.
    pub fn new(rules: TrafficRules) -> Self {
        Self { rules, of: Mutex::default() }
    }

    /// What holds for calls to that port of that service. Only ask for what is served here, or
    /// called from here: the answers are kept.
    pub(super) fn of(&self, service: &ServiceName, port: u16) -> Arc<ServiceRules> {
        let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(rules) = of.get(service).and_then(|ports| ports.get(&port)) {
            return Arc::clone(rules);
        }
        let rules = Arc::new(self.rules.of(service, port));
        of.entry(service.clone()).or_default().insert(port, Arc::clone(&rules));
        rules
    }

    /// Whether nothing is said about anything.
    pub(super) fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }
}

/// What is counted for a circuit breaker.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Counted {
    /// Connections, from their begin to their end.
    Connections,
    /// Calls that no endpoint has taken yet.
    Pending,
    /// Requests, from their begin to the end of their answers.
    Requests,
}

impl Counted {
    fn bound(self, rule: &CircuitBreak) -> Option<u32> {
        match self {
            Self::Connections => rule.connections,
            Self::Pending => rule.pending,
            Self::Requests => rule.requests,
        }
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Pending => "calls that wait for an endpoint",
            Self::Requests => "requests",
        }
    }
}

/// What this agent counts of its calls, by service and by rule.
pub(super) struct Meters {
    inner: Mutex<Inner>,
    start: Instant,
}

struct Inner {
    rng: StdRng,
    open: BTreeMap<ServiceName, Open>,
    retries: BTreeMap<ServiceName, Spent>,
    hedges: BTreeMap<ServiceName, Hedges>,
    limits: BTreeMap<RuleName, Limiter>,
}

#[derive(Clone, Copy, Default)]
struct Open {
    connections: u32,
    pending: u32,
    requests: u32,
}

/// What is known for the hedges of a service.
#[derive(Default)]
struct Hedges {
    spent: Spent,
    /// How long the last answers took; the oldest is replaced.
    took: Vec<Duration>,
    next: usize,
}

impl Open {
    fn of(&mut self, what: Counted) -> &mut u32 {
        match what {
            Counted::Connections => &mut self.connections,
            Counted::Pending => &mut self.pending,
            Counted::Requests => &mut self.requests,
        }
    }
}

/// Something that is counted for as long as the value lives.
pub(super) struct Entered {
    meters: Arc<Meters>,
    service: ServiceName,
    what: Counted,
}

impl Drop for Entered {
    fn drop(&mut self) {
        let mut inner = self.meters.lock();
        if let Some(open) = inner.open.get_mut(&self.service) {
            let count = open.of(self.what);
            *count = count.saturating_sub(1);
        }
    }
}

impl Meters {
    pub(super) fn new(seed: u64) -> Self {
        let inner = Inner {
            rng: StdRng::seed_from_u64(!seed),
            open: BTreeMap::new(),
            retries: BTreeMap::new(),
            hedges: BTreeMap::new(),
            limits: BTreeMap::new(),
        };
        Self { inner: Mutex::new(inner), start: Instant::now() }
    }

    /// Where a call goes, in the order to be tried.
    pub(super) fn legs(&self, traffic: &Traffic, asked: &Asked<'_>) -> Vec<Leg> {
        traffic.rules.legs(asked, &mut self.lock().rng)
    }

    /// Counts something, unless that would be more than a rule allows: then how many it does.
    /// Without a rule it is counted too: one may come while it lives.
    pub(super) fn enter(
        self: &Arc<Self>,
        service: &ServiceName,
        what: Counted,
        rule: &CircuitBreak,
    ) -> Result<Entered, u32> {
        let mut inner = self.lock();
        let count = inner.open.entry(service.clone()).or_default().of(what);
        if let Some(bound) = what.bound(rule).filter(|bound| *count >= *bound) {
            return Err(bound);
        }
        *count = count.saturating_add(1);
        Ok(Entered { meters: Arc::clone(self), service: service.clone(), what })
    }

    /// A call to a service begins: what retries may add is a share of those.
    pub(super) fn call(&self, service: &ServiceName) {
        let now = self.now();
        self.lock().retries.entry(service.clone()).or_default().call(now);
    }

    /// Whether the budget allows one more try. If so it is spent.
    pub(super) fn retry(&self, service: &ServiceName, budget: Budget) -> bool {
        let now = self.now();
        self.lock().retries.entry(service.clone()).or_default().retry(now, budget)
    }

    /// A call begins that may be hedged: what hedges may add is a share of those.
    pub(super) fn may_hedge(&self, service: &ServiceName) {
        let now = self.now();
        self.lock().hedges.entry(service.clone()).or_default().spent.call(now);
    }

    /// An answer took so long.
    pub(super) fn answered(&self, service: &ServiceName, took: Duration) {
        let mut inner = self.lock();
        // Kept only for services that are hedged.
        let Some(hedges) = inner.hedges.get_mut(service) else { return };
        if hedges.took.len() < bounds::HEDGE_SAMPLES {
            hedges.took.push(took);
        } else if let Some(place) = hedges.took.get_mut(hedges.next) {
            *place = took;
        }
        hedges.next = (hedges.next + 1) % bounds::HEDGE_SAMPLES;
    }

    /// After which time so many of a hundred of the last answers were there; `None` while there
    /// are too few to tell.
    pub(super) fn percentile(&self, service: &ServiceName, share: u8) -> Option<Duration> {
        let mut inner = self.lock();
        let mut took = inner.hedges.entry(service.clone()).or_default().took.clone();
        if took.len() < bounds::HEDGE_SAMPLES / 8 {
            return None;
        }
        let place = took.len().saturating_mul(usize::from(share)) / 100;
        let place = place.min(took.len() - 1);
        Some(*took.select_nth_unstable(place).1)
    }

    /// Whether the budget allows a hedge. If so it is spent.
    pub(super) fn hedge(&self, service: &ServiceName, budget: Budget) -> bool {
        let now = self.now();
        self.lock().hedges.entry(service.clone()).or_default().spent.retry(now, budget)
    }

    /// How long to wait before that retry, from 0 on.
    pub(super) fn wait(&self, backoff: &Backoff, retry: u32) -> Duration {
        backoff.wait(retry, &mut self.lock().rng)
    }

    /// Counts a call against a rate, or says how long until one would pass.
    pub(super) fn limit(&self, rule: &Rule<RateLimit>, who: u64) -> Result<(), Duration> {
        let now = self.now();
        let RateLimit { rate, burst, .. } = &rule.does;
        let cells = limit::Rule { count: rate.count, per: rate.per, burst: *burst };
        self.lock().limits.entry(rule.name.clone()).or_default().take(now, &cells, who)
    }

    /// Draws: true for so many hundredths of a percent of all calls.
    pub(super) fn draws(&self, percent: u32) -> bool {
        self.lock().rng.random_range(0..10_000) < percent
    }

    /// Forgets services that are no more.
    pub(super) fn retain(&self, view: &View) {
        let mut inner = self.lock();
        let known = |service: &ServiceName| view.services.contains_key(service);
        inner.open.retain(|name, open| {
            known(name) || open.connections > 0 || open.pending > 0 || open.requests > 0
        });
        inner.retries.retain(|name, _| known(name));
        inner.hedges.retain(|name, _| known(name));
    }

    fn now(&self) -> Tick {
        Tick(millis(self.start.elapsed()))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic under the lock leaves at worst a counter off: better than no call at all.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
