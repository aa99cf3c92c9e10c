//! Reports: what a campaign came to, in a table.

use std::{fmt::Write as _, time::Duration};

use crate::campaign::Tally;

/// The value below which `percent` of sorted values lie.
pub fn quantile(sorted: &[u64], percent: usize) -> u64 {
    let at = (sorted.len().saturating_sub(1) * percent).div_ceil(100);
    sorted.get(at).copied().unwrap_or_default()
}

/// A campaign in words.
pub fn tally(tally: &Tally, took: Duration) -> String {
    let mut text = String::new();
    let hours = tally.node_ms as f64 / 3.6e6;
    let _ = writeln!(
        text,
        "{} seeds in {} s: {:.1} simulated node-hours, {} checks, {} seeds run twice alike",
        tally.seeds,
        took.as_secs(),
        hours,
        tally.checks,
        tally.repeated
    );
    let _ = match tally.with_chitchat {
        true => writeln!(
            text,
            "{} seeds run with chitchat beside the engines too, and ended in the same",
            tally.agreed
        ),
        false => writeln!(text, "no seed run with chitchat: it is not built in"),
    };
    let _ = writeln!(
        text,
        "from the last fault to one view: median {} ms, p99 {} ms, worst {} ms",
        quantile(&tally.healed, 50),
        quantile(&tally.healed, 99),
        quantile(&tally.healed, 100)
    );
    let (calls, lost) = tally.calls;
    let _ = writeln!(text, "{calls} calls, {lost} found nobody while faults were done");
    let _ = writeln!(text, "\n{:<32} {:>8}", "done to the mesh", "times");
    for (kind, count) in &tally.done {
        let _ = writeln!(text, "{kind:<32} {count:>8}");
    }
    let _ = writeln!(text, "\n{:<32} {:>8}", "family", "seeds");
    for (family, count) in &tally.families {
        let _ = writeln!(text, "{:<32} {count:>8}", format!("{family:?}"));
    }
    for seed in &tally.differed {
        let _ = writeln!(text, "BROKEN seed {seed}: two runs of it differ");
    }
    for (seed, what) in &tally.disagreed {
        let _ = writeln!(text, "BROKEN seed {seed}, with chitchat beside it:\n{what}");
    }
    for (seed, violation) in &tally.broken {
        let _ = writeln!(text, "BROKEN seed {seed}: {violation}");
    }
    let _ = writeln!(text, "\n{NOT_MODELLED}");
    if tally.holds() {
        let _ = writeln!(text, "\nno check broke");
    } else {
        let _ = writeln!(text, "\nbroken by check: {:?}", tally.by_check());
        let _ = writeln!(text, "look closer with: skein-sim replay SEED, or agree SEED");
    }
    text
}

/// What no figure and no campaign of the world says anything about.
pub const NOT_MODELLED: &str = "\
not modelled: the kernel, QUIC's inside (a lost packet is a frame that comes later, in order), TLS, real
disks and their fsync, the proxy, processes and their checks; signatures are a keyed hash but on every
fiftieth seed of a campaign";

/// What others publish of theirs, with where. Other machines, other sizes, other methods: the
/// order of magnitude is what can be compared.
pub const PUBLISHED: &str = "\
published elsewhere
  Serf, its convergence simulator, 1,000 members: an update 2.2 s (serf.io, simulator page)
  memberlist, LAN profile, 1,000 members: a crash 12 s and more before it is confirmed, by its
    suspicion timeout of 4 log10(N) probe intervals (memberlist, config.go)
  Corrosion, about 800 servers, 40 regions: an update p99 about 1 s (QCon London 2025)
  Consul, 10,000 clients: an endpoint's removal reaches proxies in under 1 s, given that it is
    known (HashiCorp, consul global scale benchmark)
  chitchat alone, 100 members, rounds of 1 s: update 3.6 s, crash 6 to 12 s (measured in this
    project, paused clock)
";
