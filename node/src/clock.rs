//! The clocks of this host: the one place that reads them for the core.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use skein_protocol::clock::{Now, Tick, Wall, millis};

/// Reads both clocks. Copies count from the same start.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// A clock whose ticks start now.
    #[allow(clippy::disallowed_methods)]
    pub fn start() -> Self {
        Self { start: Instant::now() }
    }

    /// Both clocks at this moment.
    pub fn now(&self) -> Now {
        Now { tick: Tick(millis(self.start.elapsed())), wall: wall() }
    }

    /// The moment of a tick, for timers.
    pub fn instant(&self, tick: Tick) -> Instant {
        // A tick that never comes is a day away: who waits looks again then.
        let ahead = tick.0.min(millis(self.start.elapsed()).saturating_add(86_400_000));
        self.start + std::time::Duration::from_millis(ahead)
    }
}

/// This host's wall clock. Before 1970 it is 1970.
pub fn wall() -> Wall {
    Wall(SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis))
}

/// A moment as RFC 3339, for people.
pub fn rfc3339(at: Wall) -> String {
    let seconds = i64::try_from(at.seconds()).unwrap_or(i64::MAX);
    time::OffsetDateTime::from_unix_timestamp(seconds)
        .ok()
        .and_then(|at| at.format(&time::format_description::well_known::Rfc3339).ok())
        .unwrap_or_default()
}
