//! The pool: the balancer behind the one lock of the data plane.
//!
//! Every hold is short: one choice or one report, arithmetic only. Never held over an await.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::{SeedableRng, rngs::StdRng};
use skein_protocol::{
    clock::{Now, Tick, Wall, millis},
    name::ServiceName,
    route::{Ask, Balancer, Choice, Eject, EndpointState, NoRoute, Outcome},
    view::{EndpointKey, ServiceView, View},
};
use tokio::time::Instant;

pub(super) struct Pool {
    inner: Mutex<Inner>,
    start: Instant,
}

struct Inner {
    balancer: Balancer,
    rng: StdRng,
}

/// A call in flight to an endpoint, for as long as the value lives.
pub(super) struct InFlight {
    pool: Arc<Pool>,
    service: ServiceName,
    key: EndpointKey,
}

impl Pool {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            inner: Mutex::new(Inner {
                balancer: Balancer::default(),
                rng: StdRng::seed_from_u64(seed),
            }),
            start: Instant::now(),
        }
    }

    pub(super) fn choose(self: &Arc<Self>, ask: &Ask<'_>) -> Result<(Choice, InFlight), NoRoute> {
        let now = self.now();
        let choice = {
            let Inner { balancer, rng } = &mut *self.lock();
            balancer.choose(now, ask, rng)?
        };
        let in_flight = InFlight {
            pool: Arc::clone(self),
            service: ask.service.name.clone(),
            key: choice.endpoint.key(),
        };
        Ok((choice, in_flight))
    }

    /// True when the endpoint was ejected for it.
    pub(super) fn report(
        &self,
        service: &ServiceView,
        key: &EndpointKey,
        outcome: Outcome,
        rules: &Eject,
    ) -> bool {
        let now = self.now();
        let Inner { balancer, rng } = &mut *self.lock();
        balancer.report(now, service, key, outcome, rules, rng)
    }

    pub(super) fn states(&self, service: &ServiceView) -> Vec<EndpointState> {
        let now = self.now();
        self.lock().balancer.states(now, service)
    }

    pub(super) fn retain(&self, view: &View) {
        self.lock().balancer.retain(view);
    }

    /// The balancer uses the tick only.
    fn now(&self) -> Now {
        Now { tick: Tick(millis(self.start.elapsed())), wall: Wall(0) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic under the lock leaves at worst a counter off: better than no choice at all.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.pool.lock().balancer.release(&self.service, &self.key);
    }
}
