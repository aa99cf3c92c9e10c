//! The meter: the time that engines take, by what they are given.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use skein_protocol::engine::{Input, Job};

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    /// How often, and how long altogether.
    pub spent: BTreeMap<&'static str, (u64, Duration)>,
}

/// The word for signature checks, which run on a thread of their own.
pub(super) const CHECKS: &str = "signature checks";

impl Meter {
    /// Does `work`, and counts what it takes as `word`.
    pub(super) fn time<T>(&mut self, word: &'static str, work: impl FnOnce() -> T) -> T {
        let start = Instant::now();
        let done = work();
        let entry = self.spent.entry(word).or_default();
        *entry = (entry.0 + 1, entry.1 + start.elapsed());
        done
    }
}

/// What an engine is given, in a word.
pub(super) fn word(input: &Input) -> &'static str {
    match input {
        Input::Tick => "tick",
        Input::Frame { bytes, .. } => frame(bytes.first().copied().unwrap_or_default()),
        Input::Verified(..) => "checked record or witness",
        Input::Persisted(_) | Input::PersistFailed(..) => "written",
        _ => "other",
    }
}

fn frame(kind: u8) -> &'static str {
    match kind {
        2 => "frame: probe",
        3 => "frame: answer",
        4 => "frame: record",
        5 | 6 | 12 => "frame: exchange",
        11 => "frame: stand",
        _ => "frame: other",
    }
}

/// The word for a job.
pub(super) fn job(job: &Job) -> &'static str {
    if job.record().is_some() { CHECKS } else { "signature checks of witnesses" }
}
