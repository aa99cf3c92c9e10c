//! Trips: how long a link takes to answer, and so when a probe on it is held for lost.
//!
//! As TCP waits (RFC 6298 2): the mean of what was seen, and its deviation. A link that is slow, or
//! now and then slow, is given the time that it takes; who answers late is not dead. Twice the
//! deviation and not four times, since one lost probe proves nothing yet: three of them do.

use std::{collections::VecDeque, time::Duration};

use crate::clock::{Tick, millis};

/// What is known of one link's round trips.
#[derive(Debug, Default)]
pub(super) struct Trips {
    /// Probes that were sent last: their ids, and when.
    sent: VecDeque<(u32, Tick)>,
    /// Mean and mean deviation, in milliseconds.
    seen: Option<(u64, u64)>,
}

/// A probe is held for lost after this, on a link that answers within it.
pub(super) const LOST_AFTER: Duration = Duration::from_millis(600);
/// And after this on any.
const LOST_AFTER_MAX: Duration = Duration::from_secs(4);
/// Probes whose answers may still come.
const SENT: usize = 8;

impl Trips {
    /// A probe was sent.
    pub(super) fn sent(&mut self, now: Tick, id: u32) {
        if self.sent.len() >= SENT {
            self.sent.pop_front();
        }
        self.sent.push_back((id, now));
    }

    /// An answer came.
    pub(super) fn answered(&mut self, now: Tick, id: u32) {
        let found = self.sent.iter().find(|(sent, _)| *sent == id);
        if let Some((_, at)) = found.copied() {
            self.sent.retain(|(_, sent)| *sent > at);
            self.took(now.since(at));
        }
    }

    /// A round trip took so long.
    pub(super) fn took(&mut self, trip: Duration) {
        let trip = millis(trip);
        self.seen = Some(match self.seen {
            None => (trip, trip / 2),
            Some((mean, deviation)) => {
                let off = trip.abs_diff(mean);
                let deviation = deviation.saturating_mul(3).saturating_add(off) / 4;
                (mean.saturating_mul(7).saturating_add(trip) / 8, deviation)
            }
        });
    }

    /// How long an answer may take.
    pub(super) fn patience(&self) -> Duration {
        let (mean, deviation) = self.seen.unwrap_or_default();
        let usual = mean.saturating_add(deviation.saturating_mul(2));
        Duration::from_millis(usual).clamp(LOST_AFTER, LOST_AFTER_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_is_given_the_time_that_it_takes() {
        let mut trips = Trips::default();
        assert_eq!(trips.patience(), LOST_AFTER);
        for second in 1..20u32 {
            let at = Tick(u64::from(second) * 1000);
            trips.sent(at, second);
            trips.answered(at.after(Duration::from_millis(20)), second);
        }
        assert_eq!(trips.patience(), LOST_AFTER);
        for second in 20..60u32 {
            let at = Tick(u64::from(second) * 1000);
            trips.sent(at, second);
            let slow = if second % 2 == 0 { 500 } else { 1500 };
            trips.answered(at.after(Duration::from_millis(slow)), second);
        }
        assert!(trips.patience() > Duration::from_millis(1400), "{:?}", trips.patience());
        trips.took(Duration::from_secs(60));
        assert_eq!(trips.patience(), LOST_AFTER_MAX);
    }

    #[test]
    fn an_answer_to_a_probe_before_the_last_counts_and_one_to_none_does_not() {
        let mut trips = Trips::default();
        trips.sent(Tick(0), 1);
        trips.sent(Tick(600), 2);
        trips.answered(Tick(900), 7);
        assert_eq!(trips.seen, None);
        trips.answered(Tick(900), 1);
        assert_eq!(trips.seen, Some((900, 450)));
    }
}
