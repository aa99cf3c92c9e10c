//! Rate limits: the generic cell rate algorithm (ITU-T I.371), one cell a call.
//!
//! In: a rate, a burst, `Tick`s. Out: yes, or how long until yes. State is one time for each that
//! is counted apart, bounded; what has all its burst back is forgotten first.

use std::{collections::BTreeMap, time::Duration};

use crate::{clock::Tick, limits};

/// A rate that holds in the long run, and how many may come at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rule {
    /// Calls...
    pub count: u64,
    /// ...in this time.
    pub per: Duration,
    /// At once; at least 1.
    pub burst: u32,
}

impl Rule {
    /// Nanoseconds between two calls at this rate.
    fn interval(&self) -> u128 {
        self.per.as_nanos() / u128::from(self.count.max(1))
    }
}

/// The calls of all that are counted apart by one limit.
#[derive(Clone, Debug, Default)]
pub struct Limiter {
    /// By affinity: the time, in nanoseconds of the tick's clock, at which all of the burst is
    /// there again.
    full_at: BTreeMap<u64, u128>,
}

impl Limiter {
    /// Counts a call, or says how long until one would pass.
    pub fn take(&mut self, now: Tick, rule: &Rule, who: u64) -> Result<(), Duration> {
        let now = u128::from(now.0) * NANOS_PER_TICK;
        let interval = rule.interval();
        let slack = interval.saturating_mul(u128::from(rule.burst.max(1)) - 1);
        let full_at = self.full_at.get(&who).copied().unwrap_or(0).max(now);
        if full_at - now > slack {
            let wait = full_at - now - slack;
            return Err(Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX)));
        }
        if !self.full_at.contains_key(&who) {
            self.make_room(now);
        }
        self.full_at.insert(who, full_at.saturating_add(interval));
        Ok(())
    }

    /// Keeps the number of those that are counted apart bounded. Whoever has all its burst back is
    /// as if never seen; else the one that has most of it back goes, and may call a burst early.
    fn make_room(&mut self, now: u128) {
        if self.full_at.len() < limits::RATE_SOURCES {
            return;
        }
        self.full_at.retain(|_, full_at| *full_at > now);
        if self.full_at.len() < limits::RATE_SOURCES {
            return;
        }
        let first = self.full_at.iter().min_by_key(|(_, full_at)| **full_at);
        if let Some(who) = first.map(|(who, _)| *who) {
            self.full_at.remove(&who);
        }
    }
}

const NANOS_PER_TICK: u128 = 1_000_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEN: Rule = Rule { count: 10, per: Duration::from_secs(1), burst: 5 };

    #[test]
    fn a_burst_then_the_rate() {
        let mut limiter = Limiter::default();
        let at_once = (0..20).filter(|_| limiter.take(Tick(0), &TEN, 1).is_ok()).count();
        assert_eq!(at_once, 5);
        assert_eq!(limiter.take(Tick(0), &TEN, 1), Err(Duration::from_millis(100)));
        assert!(limiter.take(Tick(99), &TEN, 1).is_err());
        assert_eq!(limiter.take(Tick(100), &TEN, 1), Ok(()));
        assert_eq!(limiter.take(Tick(100), &TEN, 2), Ok(()), "another one is counted apart");
    }

    #[test]
    fn more_than_a_thousand_a_second_are_counted_too() {
        let rule = Rule { count: 6_000, per: Duration::from_secs(1), burst: 6 };
        let mut limiter = Limiter::default();
        let passed: usize = (0..1_000)
            .map(|tick| (0..20).filter(|_| limiter.take(Tick(tick), &rule, 1).is_ok()).count())
            .sum();
        assert!((5_990..=6_006).contains(&passed), "{passed}");
    }

    #[test]
    fn those_that_are_counted_apart_are_bounded() {
        let mut limiter = Limiter::default();
        for who in 0..3 * u64::try_from(limits::RATE_SOURCES).unwrap() {
            let _ = limiter.take(Tick(who), &TEN, who);
        }
        assert!(limiter.full_at.len() <= limits::RATE_SOURCES);
    }

    proptest! {
        #[test]
        fn never_more_than_burst_and_rate(waits in proptest::collection::vec(0u64..300, 1..200)) {
            let mut limiter = Limiter::default();
            let mut now = 0;
            let mut passed: Vec<u64> = Vec::new();
            for wait in waits {
                now += wait;
                if limiter.take(Tick(now), &TEN, 7).is_ok() {
                    passed.push(now);
                }
            }
            for (i, from) in passed.iter().enumerate() {
                for (j, to) in passed.iter().enumerate().skip(i) {
                    let count = u64::try_from(j - i + 1).unwrap();
                    prop_assert!(count <= 5 + (to - from) / 100 + 1);
                }
            }
        }
    }
}
