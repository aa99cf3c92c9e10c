//! Retries: how many there may be in all, and how long to wait before one.
//!
//! A budget bounds what retries add to the load of a service that is in trouble: a share of the
//! calls of the last ten seconds, and a few in any case (Finagle's retry budget).

use std::time::Duration;

use rand::{Rng, RngExt};

use crate::{
    clock::{Tick, millis},
    limits,
};

/// How many tries more there may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    /// In hundredths of a percent of the calls.
    pub percent: u32,
    /// In any case, in thousandths of a try each second.
    pub min_milli_per_second: u64,
}

/// How long to wait before a try: a random time, at most `base` doubled with each try, at most
/// `max`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backoff {
    /// Before the first retry, at most.
    pub base: Duration,
    /// Before any, at most.
    pub max: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { base: limits::RETRY_BACKOFF, max: limits::RETRY_BACKOFF_MAX }
    }
}

impl Backoff {
    /// The wait before retry number `retry`, from 0 on.
    pub fn wait<R: Rng + ?Sized>(&self, retry: u32, rng: &mut R) -> Duration {
        let factor = 1u32.checked_shl(retry).unwrap_or(u32::MAX);
        let most = self.base.saturating_mul(factor).min(self.max);
        Duration::from_millis(rng.random_range(0..=millis(most)))
    }
}

/// What one agent spent of its budget for one service.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Spent {
    seconds: [Second; SECONDS],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Second {
    number: u64,
    calls: u64,
    retries: u64,
}

impl Spent {
    /// A call began.
    pub fn call(&mut self, now: Tick) {
        if let Some(second) = self.second(now) {
            second.calls = second.calls.saturating_add(1);
        }
    }

    /// Whether one more try is within the budget. If so it is spent.
    pub fn retry(&mut self, now: Tick, budget: Budget) -> bool {
        let newest = now.0 / 1_000;
        let oldest = newest.saturating_sub(WINDOW_SECONDS - 1);
        let counted = self.seconds.iter().filter(|second| second.number >= oldest);
        let (calls, retries) = counted.fold((0u64, 0u64), |(calls, retries), second| {
            (calls.saturating_add(second.calls), retries.saturating_add(second.retries))
        });
        // All in hundredths of a percent of a try.
        let share = calls.saturating_mul(u64::from(budget.percent));
        let least = budget.min_milli_per_second.saturating_mul(WINDOW_SECONDS).saturating_mul(10);
        let wanted = retries.saturating_add(1).saturating_mul(10_000);
        let fits = wanted <= share.saturating_add(least);
        if fits && let Some(second) = self.second(now) {
            second.retries = second.retries.saturating_add(1);
        }
        fits
    }

    fn second(&mut self, now: Tick) -> Option<&mut Second> {
        let number = now.0 / 1_000;
        let place = usize::try_from(number % WINDOW_SECONDS).ok()?;
        let second = self.seconds.get_mut(place)?;
        if second.number != number {
            *second = Second { number, ..Second::default() };
        }
        Some(second)
    }
}

const SECONDS: usize = 10;
const WINDOW_SECONDS: u64 = 10;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    const FIFTH: Budget = Budget { percent: 2_000, min_milli_per_second: 0 };

    #[test]
    fn a_fifth_of_the_calls_may_be_tried_again_and_no_more() {
        let mut spent = Spent::default();
        for _ in 0..100 {
            spent.call(Tick(5_000));
        }
        let granted = (0..100).filter(|_| spent.retry(Tick(6_000), FIFTH)).count();
        assert_eq!(granted, 20);
        assert!(!spent.retry(Tick(14_999), FIFTH), "the calls still count, and so do the retries");
        assert!(!spent.retry(Tick(15_000), FIFTH), "no calls, no retries");
    }

    #[test]
    fn a_few_are_granted_without_calls() {
        let ten = Budget { percent: 0, min_milli_per_second: 10_000 };
        let mut spent = Spent::default();
        assert_eq!((0..500).filter(|_| spent.retry(Tick(1), ten)).count(), 100);
    }

    proptest! {
        #[test]
        fn retries_never_exceed_the_budget(steps in proptest::collection::vec((0u64..3_000, any::<bool>()), 1..300)) {
            let mut spent = Spent::default();
            let mut now = 0u64;
            let mut all: Vec<(u64, bool)> = Vec::new();
            for (wait, call) in steps {
                now += wait;
                if call {
                    spent.call(Tick(now));
                    all.push((now, true));
                } else if spent.retry(Tick(now), FIFTH) {
                    all.push((now, false));
                    let oldest = (now / 1_000).saturating_sub(9);
                    let within = |wanted: bool| {
                        all.iter().filter(|(at, call)| at / 1_000 >= oldest && *call == wanted).count()
                    };
                    prop_assert!(within(false) * 5 <= within(true));
                }
            }
        }

        #[test]
        fn a_wait_is_never_longer_than_it_may_be(seed: u64, retry in 0u32..100) {
            let backoff = Backoff::default();
            let wait = backoff.wait(retry, &mut StdRng::seed_from_u64(seed));
            prop_assert!(wait <= backoff.max);
            prop_assert!(retry > 0 || wait <= backoff.base);
        }
    }
}
