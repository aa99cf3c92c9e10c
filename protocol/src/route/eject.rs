//! Ejection: when an endpoint that fails is left out, and how it comes back.
//!
//! In: what became of each call. Out: whether the endpoint wants out, and whether it may be
//! probed. Whether one that wants out may go (at most half, never the last) is the balancer's to
//! decide, which sees them all.

use std::time::Duration;

use rand::{Rng, RngExt};

use crate::{
    clock::{Tick, millis},
    limits,
    route::Eject,
};

/// Where an endpoint stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// It gets calls.
    In,
    /// It gets none until then; afterwards one call is its probe.
    Out {
        /// Until when.
        until: Tick,
    },
    /// One call is out to it, since then, and decides.
    Probed {
        /// Since when.
        since: Tick,
    },
}

/// What the calls to one endpoint say of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Breaker {
    standing: Standing,
    failures: u32,
    trips: u32,
    back_since: Tick,
    window: [Bucket; limits::EJECT_BUCKETS],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Bucket {
    number: u64,
    calls: u32,
    failed: u32,
}

impl Default for Breaker {
    fn default() -> Self {
        Self {
            standing: Standing::In,
            failures: 0,
            trips: 0,
            back_since: Tick(0),
            window: [Bucket::default(); limits::EJECT_BUCKETS],
        }
    }
}

impl Breaker {
    /// Where it stands.
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// Whether it is out, probed or not.
    pub fn is_out(&self) -> bool {
        self.standing != Standing::In
    }

    /// Whether the next call may be its probe: its time is over and no probe is out.
    pub fn may_probe(&self, now: Tick) -> bool {
        match self.standing {
            Standing::In => false,
            Standing::Out { until } => now >= until,
            Standing::Probed { since } => now.since(since) > limits::EJECT_PROBE,
        }
    }

    /// A probe goes out.
    pub fn probe(&mut self, now: Tick) {
        self.standing = Standing::Probed { since: now };
    }

    /// A call went well. One that went out as a probe brings the endpoint back.
    pub fn succeeded(&mut self, now: Tick, rules: &Eject) {
        self.failures = 0;
        self.count(now, rules, 0);
        if self.is_out() {
            self.readmit(now);
        }
    }

    /// A call failed. `in_a_row` is false for failures that only count for the rate (overload).
    /// True when the endpoint wants out.
    pub fn failed(&mut self, now: Tick, rules: &Eject, in_a_row: bool) -> bool {
        if in_a_row {
            self.failures = self.failures.saturating_add(1);
        }
        self.count(now, rules, 1);
        match self.standing {
            Standing::Out { .. } => false,
            Standing::Probed { .. } => true,
            Standing::In => self.failures >= rules.consecutive || self.rate_is_low(now, rules),
        }
    }

    /// Puts it out: from the base on, twice as long each time, less a quarter of jitter.
    pub fn eject<R: Rng + ?Sized>(&mut self, now: Tick, rules: &Eject, rng: &mut R) {
        if now.since(self.back_since) >= limits::EJECT_MAX && !self.is_out() {
            self.trips = 0;
        }
        let length = rules
            .base
            .saturating_mul(1u32.checked_shl(self.trips).unwrap_or(u32::MAX))
            .min(limits::EJECT_MAX.max(rules.base));
        let jitter = rng.random_range(0..=millis(length) / 4);
        let length = length.saturating_sub(Duration::from_millis(jitter));
        self.trips = self.trips.saturating_add(1).min(31);
        self.failures = 0;
        self.standing = Standing::Out { until: now.after(length) };
    }

    /// Brings it back. How often it was out is remembered for a while.
    pub fn readmit(&mut self, now: Tick) {
        self.standing = Standing::In;
        self.failures = 0;
        self.back_since = now;
        self.window = [Bucket::default(); limits::EJECT_BUCKETS];
    }

    fn count(&mut self, now: Tick, rules: &Eject, failed: u32) {
        let number = bucket_number(now, rules);
        let place = usize::try_from(number).unwrap_or(0) % limits::EJECT_BUCKETS;
        let Some(bucket) = self.window.get_mut(place) else {
            return;
        };
        if bucket.number != number {
            *bucket = Bucket { number, ..Bucket::default() };
        }
        bucket.calls = bucket.calls.saturating_add(1);
        bucket.failed = bucket.failed.saturating_add(failed);
    }

    fn rate_is_low(&self, now: Tick, rules: &Eject) -> bool {
        let newest = bucket_number(now, rules);
        let oldest = newest.saturating_sub(EJECT_BUCKETS - 1);
        let counted = self.window.iter().filter(|one| one.number >= oldest);
        let (calls, failed) = counted.fold((0u32, 0u32), |(calls, failed), one| {
            (calls.saturating_add(one.calls), failed.saturating_add(one.failed))
        });
        let well = u64::from(calls.saturating_sub(failed)) * 10_000;
        calls >= limits::EJECT_CALLS && well < u64::from(calls) * u64::from(rules.success)
    }
}

fn bucket_number(now: Tick, rules: &Eject) -> u64 {
    now.0 / (millis(rules.window) / EJECT_BUCKETS).max(1)
}

const EJECT_BUCKETS: u64 = 10;
const _: () = assert!(limits::EJECT_BUCKETS == 10);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    const RULES: Eject = Eject {
        consecutive: 5,
        success: 5_000,
        window: Duration::from_secs(10),
        base: Duration::from_secs(1),
        most: 5_000,
    };

    fn until(breaker: &Breaker) -> Tick {
        match breaker.standing() {
            Standing::Out { until } => until,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn five_failures_in_a_row_want_out_and_one_success_starts_the_count_again() {
        let mut breaker = Breaker::default();
        assert!((0..4).all(|_| !breaker.failed(Tick(0), &RULES, true)));
        breaker.succeeded(Tick(0), &RULES);
        assert!((0..4).all(|_| !breaker.failed(Tick(0), &RULES, true)));
        assert!(breaker.failed(Tick(0), &RULES, true));
    }

    #[test]
    fn a_success_rate_under_half_wants_out_after_twenty_calls_within_ten_seconds() {
        let mut breaker = Breaker::default();
        for _ in 0..9 {
            breaker.succeeded(Tick(0), &RULES);
        }
        assert!((0..10).all(|_| !breaker.failed(Tick(5_000), &RULES, false)));
        assert!(breaker.failed(Tick(9_000), &RULES, false));
        let mut slow = Breaker::default();
        for _ in 0..9 {
            slow.succeeded(Tick(0), &RULES);
        }
        assert!((0..19).all(|_| !slow.failed(Tick(12_000), &RULES, false)));
    }

    #[test]
    fn one_probe_decides() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut breaker = Breaker::default();
        breaker.eject(Tick(0), &RULES, &mut rng);
        assert!(!breaker.may_probe(Tick(700)) && breaker.may_probe(Tick(1_000)));
        breaker.probe(Tick(1_000));
        assert!(!breaker.may_probe(Tick(2_000)), "one is out");
        assert!(breaker.may_probe(Tick(6_001)), "it is lost");
        assert!(breaker.failed(Tick(2_000), &RULES, false));
        breaker.eject(Tick(2_000), &RULES, &mut rng);
        let second = until(&breaker);
        assert!(second >= Tick(3_500) && second <= Tick(4_000), "{second:?}");
        breaker.probe(Tick(4_000));
        breaker.succeeded(Tick(4_001), &RULES);
        assert_eq!(breaker.standing(), Standing::In);
    }

    proptest! {
        #[test]
        fn ejections_double_up_to_a_minute(seed: u64, times in 1u32..40) {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut breaker = Breaker::default();
            let mut now = Tick(1_000_000);
            for trip in 0..times {
                breaker.eject(now, &RULES, &mut rng);
                let out = until(&breaker).since(now);
                let full = Duration::from_secs(60.min(1u64 << trip.min(10)));
                prop_assert!(out <= full && out >= full * 3 / 4, "{:?} of {:?}", out, full);
                now = until(&breaker);
                breaker.probe(now);
            }
        }

        #[test]
        fn it_never_panics(calls in proptest::collection::vec((0u8..5, any::<u64>()), 0..200)) {
            let mut rng = StdRng::seed_from_u64(7);
            let mut breaker = Breaker::default();
            for (what, at) in calls {
                let now = Tick(at);
                match what {
                    0 => breaker.succeeded(now, &RULES),
                    1 => { breaker.failed(now, &RULES, true); }
                    2 => { breaker.failed(now, &RULES, false); }
                    3 => breaker.eject(now, &RULES, &mut rng),
                    _ => breaker.probe(now),
                }
                breaker.may_probe(now);
            }
        }
    }
}
