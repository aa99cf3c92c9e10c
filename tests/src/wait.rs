//! Waiting for a condition, with a deadline and a reason.

use std::time::{Duration, Instant};

/// How often a condition is looked at.
const EVERY: Duration = Duration::from_millis(20);

/// Asks until the answer is `Ok`, and gives it and how long it took. Panics after `limit` with
/// `what` and the last `Err`, which should say what was seen instead.
#[track_caller]
pub fn until<T>(
    limit: Duration,
    what: &str,
    ask: impl AsyncFnMut() -> Result<T, String>,
) -> impl Future<Output = (T, Duration)> {
    let caller = std::panic::Location::caller();
    wait(limit, what.to_owned(), caller, ask)
}

async fn wait<T>(
    limit: Duration,
    what: String,
    caller: &'static std::panic::Location<'static>,
    mut ask: impl AsyncFnMut() -> Result<T, String>,
) -> (T, Duration) {
    let start = Instant::now();
    let mut seen = "nothing: the first look did not end".to_owned();
    while start.elapsed() < limit {
        let left = limit.saturating_sub(start.elapsed());
        match tokio::time::timeout(left, ask()).await {
            Ok(Ok(answer)) => return (answer, start.elapsed()),
            Ok(Err(instead)) => seen = instead,
            Err(_) => break,
        }
        tokio::time::sleep(EVERY.min(left)).await;
    }
    panic!("{caller}: not within {limit:?}: {what}. Seen last: {seen}");
}
