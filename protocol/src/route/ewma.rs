//! Peak EWMA: what a latency is held for, fast to rise and slow to fall.
//!
//! A sample above the present value replaces it; one below pulls it down by the time that has
//! passed. Reading projects the decay to now and changes nothing (the shape of linkerd's).

use std::time::Duration;

use crate::{clock::Tick, limits};

/// A latency in seconds that decays with [`limits::LATENCY_DECAY`].
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct PeakEwma {
    value: f64,
    at: Tick,
}

impl PeakEwma {
    /// Starts with a sample.
    pub fn new(now: Tick, sample: Duration) -> Self {
        Self { value: sample.as_secs_f64(), at: now }
    }

    /// Takes a sample.
    pub fn observe(&mut self, now: Tick, sample: Duration) {
        let sample = sample.as_secs_f64();
        if sample > self.value {
            self.value = sample;
        } else {
            let kept = self.kept(now);
            self.value = self.value * kept + sample * (1.0 - kept);
        }
        self.at = self.at.max(now);
    }

    /// Seconds, decayed to `now`, never below [`limits::LATENCY_FLOOR`].
    pub fn seconds(&self, now: Tick) -> f64 {
        (self.value * self.kept(now)).max(limits::LATENCY_FLOOR.as_secs_f64())
    }

    fn kept(&self, now: Tick) -> f64 {
        let passed = now.since(self.at).as_secs_f64();
        (-passed / limits::LATENCY_DECAY.as_secs_f64()).exp()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_peak_counts_at_once_and_decays_by_e_in_ten_seconds() {
        let mut ewma = PeakEwma::new(Tick(0), Duration::from_millis(10));
        ewma.observe(Tick(100), Duration::from_secs(1));
        assert_eq!(ewma.seconds(Tick(100)), 1.0);
        let later = ewma.seconds(Tick(10_100));
        assert!((later - 1.0 / std::f64::consts::E).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn without_samples_it_only_falls(
            start in 0u64..10_000, a in 0u64..200_000, b in 0u64..200_000
        ) {
            let ewma = PeakEwma::new(Tick(0), Duration::from_millis(start));
            let (early, late) = (a.min(b), a.max(b));
            prop_assert!(ewma.seconds(Tick(early)) >= ewma.seconds(Tick(late)));
        }

        #[test]
        fn it_stays_between_its_samples(
            samples in proptest::collection::vec((0u64..5_000, 1u64..9_000), 1..40)
        ) {
            let mut now = 0;
            let (low, high) = samples.iter().fold((u64::MAX, 0), |(low, high), (_, ms)| {
                (low.min(*ms), high.max(*ms))
            });
            let mut ewma = PeakEwma::new(Tick(0), Duration::from_millis(samples[0].1));
            for (step, ms) in samples {
                now += step;
                ewma.observe(Tick(now), Duration::from_millis(ms));
                let seconds = ewma.seconds(Tick(now));
                prop_assert!(seconds <= Duration::from_millis(high).as_secs_f64() + 1e-9);
                prop_assert!(seconds >= Duration::from_millis(low).as_secs_f64() - 1e-9);
            }
        }
    }
}
