//! What a policy does and is about, in words: as `skein routes` shows it.

use std::{fmt, time::Duration};

use super::{
    Abort, Balance, CircuitBreak, Fault, Hedge, HedgeAfter, Locality, Match, Mirror, PerWhat,
    RateLimit, Retry, RetryOn, Rewrite, Route, Split, Sticky, Targets, Timeout,
};
use crate::{
    route::{Algorithm, Eject, Spill, Tier},
    words,
};

/// Hundredths of a percent.
pub fn percent(hundredths: u64) -> String {
    let (whole, part) = (hundredths / 100, hundredths % 100);
    match part {
        0 => format!("{whole} %"),
        part => format!("{whole}.{part:02} %"),
    }
}

fn word<T: PartialEq>(all: &[(&'static str, T)], one: &T) -> &'static str {
    all.iter().find(|(_, known)| known == one).map_or("", |(word, _)| word)
}

/// `a, b and c` without the `and`: what is there of several things.
fn joined(f: &mut fmt::Formatter<'_>, parts: Vec<String>) -> fmt::Result {
    f.write_str(&parts.join(", "))
}

fn said(name: &str, time: Option<Duration>) -> Option<String> {
    time.map(|time| format!("{name} {}", words::span(time)))
}

impl fmt::Display for Targets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shares: Vec<_> = self.shares().collect();
        match shares.as_slice() {
            [(target, _)] => write!(f, "to {target}"),
            several => {
                let parts = several.iter().map(|(t, share)| format!("{} {t}", percent(*share)));
                joined(f, parts.collect())
            }
        }
    }
}

impl fmt::Display for Sticky {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "header {name}"),
            Self::Source => f.write_str("source"),
        }
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.to.iter().map(ToString::to_string));
        parts.extend(self.redirect.iter().map(|to| format!("redirect {}", to.status)));
        parts.extend((self.rewrite != Rewrite::default()).then(|| "rewrite".to_owned()));
        let edits =
            self.request != super::Edits::default() || self.response != super::Edits::default();
        parts.extend(edits.then(|| "headers".to_owned()));
        joined(f, parts)
    }
}

impl fmt::Display for Split {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to.fmt(f)?;
        match &self.sticky {
            Some(sticky) => write!(f, "; sticky by {sticky}"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(word(&Algorithm::WORDS, &self.algorithm))?;
        match (&self.key, self.algorithm) {
            (Some(key), Algorithm::RingHash) => write!(f, " by {key}"),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tiers: Vec<&str> = self.prefer.iter().map(|tier: &Tier| tier.word()).collect();
        let spill = match self.spill {
            Spill::Proportional => "in proportion",
            Spill::Empty => "when empty",
            Spill::Never => "never",
        };
        write!(f, "{}; spills {spill}", tiers.join(", "))
    }
}

impl fmt::Display for Retry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = self.on.iter().map(|on| match on {
            RetryOn::Status(status) => status.to_string(),
            other => word(&RetryOn::WORDS, other).to_owned(),
        });
        let on: Vec<String> = on.collect();
        write!(
            f,
            "{} more after {}; budget {} and {} a second",
            self.attempts,
            on.join(", "),
            percent(self.budget.percent.into()),
            self.budget.min_milli_per_second / 1_000
        )?;
        match self.per_try {
            Some(time) => write!(f, "; each at most {}", words::span(time)),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Timeout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [("request", self.request), ("connect", self.connect), ("idle", self.idle)];
        joined(f, all.into_iter().filter_map(|(name, time)| said(name, time)).collect())
    }
}

impl fmt::Display for CircuitBreak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            ("connections", self.connections),
            ("pending", self.pending),
            ("requests", self.requests),
        ];
        let parts = all.into_iter().filter_map(|(n, count)| Some(format!("{} {n}", count?)));
        write!(f, "at most ")?;
        joined(f, parts.collect())
    }
}

impl fmt::Display for Eject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "after {} in a row or below {} in {}; out {} at first, {} at most",
            words::count(self.consecutive, "failure", "failures"),
            percent(self.success.into()),
            words::span(self.window),
            words::span(self.base),
            percent(self.most.into())
        )
    }
}

impl fmt::Display for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let per = match &self.per {
            PerWhat::All => "all together".to_owned(),
            PerWhat::Source => "each source".to_owned(),
            PerWhat::Header(name) => format!("each value of {name}"),
        };
        let (count, span) = (self.rate.count, words::span(self.rate.per));
        write!(f, "{count} in {span}, burst {}, for {per}", self.burst)
    }
}

impl fmt::Display for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to {}", percent(self.percent.into()), self.to)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(said("delay", self.delay));
        parts.extend(self.abort.map(|abort| match abort {
            Abort::Status(status) => format!("abort {status}"),
            Abort::Reset => "abort by reset".to_owned(),
        }));
        write!(f, "{} of the calls: {}", percent(self.percent.into()), parts.join(", "))
    }
}

impl fmt::Display for Hedge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let budget = percent(self.budget.percent.into());
        match self.after {
            HedgeAfter::Percentile(n) => write!(f, "after p{n}; budget {budget}"),
            HedgeAfter::Time(time) => write!(f, "after {}; budget {budget}", words::span(time)),
        }
    }
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.path.iter().map(|path| {
            let (field, text) = path.words();
            format!("{field} {text}")
        }));
        parts.extend((!self.methods.is_empty()).then(|| self.methods.join(" or ")));
        parts.extend(self.headers.iter().map(|(name, wanted)| match wanted {
            super::HeaderMatch::Is(value) => format!("{name}: {value}"),
            super::HeaderMatch::Present => format!("with {name}"),
            super::HeaderMatch::Absent => format!("without {name}"),
        }));
        parts.extend(self.query.iter().map(|(key, value)| format!("?{key}={value}")));
        match parts.is_empty() {
            true => f.write_str("all"),
            false => joined(f, parts),
        }
    }
}
