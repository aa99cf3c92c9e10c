//! Open files: the limit of this process against what the agent may hold open.
//!
//! Most systems start a process with 1,024; an agent that carries more connections than that
//! would fail to accept with nothing wrong but a number.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use skein_protocol::limits;

/// What an agent at its bounds has open: a socket for each connection of local callers and for
/// each stream of peers, and some for itself.
const WANTED: usize = limits::CONNECTIONS_MAX + limits::STREAMS_MAX + limits::OPEN_FILES_OWN;

/// Raises the soft limit as far as is wanted and allowed. `Some`: it stays below, and what to do.
pub(super) fn raise() -> Option<String> {
    let wanted = u64::try_from(WANTED).unwrap_or(u64::MAX);
    let now = getrlimit(Resource::Nofile);
    let soft = plan(now, wanted)?;
    let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(soft), maximum: now.maximum });
    let held = if raised.is_ok() { soft } else { now.current.unwrap_or(wanted) };
    (held < wanted).then(|| {
        format!(
            "this process may open {held} files, and an agent at its bounds {wanted}: connections \
             beyond them will be refused; set LimitNOFILE={wanted} in its unit, or `ulimit -n`"
        )
    })
}

/// The soft limit to set; `None` when it is high enough.
fn plan(now: Rlimit, wanted: u64) -> Option<u64> {
    let high_enough = now.current.is_none_or(|soft| soft >= wanted);
    let most = now.maximum.unwrap_or(u64::MAX);
    (!high_enough).then(|| wanted.min(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_rises_as_far_as_the_hard_one_and_never_falls() {
        let limit = |current, maximum| Rlimit { current, maximum };
        assert_eq!(plan(limit(Some(1_024), Some(524_288)), 16_640), Some(16_640));
        assert_eq!(plan(limit(Some(1_024), Some(4_096)), 16_640), Some(4_096));
        assert_eq!(plan(limit(Some(1_024), None), 16_640), Some(16_640));
        assert_eq!(plan(limit(Some(100_000), Some(524_288)), 16_640), None);
        assert_eq!(plan(limit(None, None), 16_640), None);
    }
}
