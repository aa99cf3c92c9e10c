//! Processes of members: started with a log, waited for, and what the kernel says they use.

use std::{
    fs::File,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tokio::{
    process::{Child, Command},
    time::sleep,
};

use crate::member::{EVERY, Member, Observer};

/// How long a member may take to answer, and a mesh to know itself.
const START: Duration = Duration::from_secs(60);

/// Starts a process that is killed when it is dropped. What it says goes to `log`.
pub(crate) fn spawn(mut command: Command, log: &Path) -> Result<Child> {
    let file = || File::options().create(true).append(true).open(log);
    command.stdin(Stdio::null()).stdout(file()?).stderr(file()?).kill_on_drop(true);
    let program = command.as_std().get_program().to_owned();
    command.spawn().with_context(|| format!("{} does not start", program.display()))
}

/// Waits until every one of these answers and counts so many alive.
pub(crate) async fn answers<O: Observer>(members: &mut [Member<O>], alive: usize) -> Result<()> {
    for member in members {
        let start = Instant::now();
        loop {
            let counts = member.observer.counts().await;
            if counts.as_ref().is_ok_and(|counts| counts.alive == alive) {
                break;
            }
            if let Some(status) = member.process.try_wait()? {
                bail!("{} ended with {status}: its log is in the folder (`--keep`)", member.name);
            }
            if start.elapsed() > START {
                bail!("{} does not count {alive} alive: {counts:?}", member.name);
            }
            sleep(EVERY).await;
        }
    }
    Ok(())
}

/// The process's number.
pub(crate) fn id<O>(member: &Member<O>) -> Result<u32> {
    member.process.id().with_context(|| format!("{} has ended", member.name))
}

/// CPU time that a process has used so far, in user and kernel. The kernel tells it in hundredths
/// of a second (`USER_HZ`).
pub(crate) fn cpu(id: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
    // The name stands in parentheses and may have blanks; utime and stime are fields 14 and 15.
    let after = stat.rsplit_once(')').context("no name in /proc/ID/stat")?.1;
    let mut fields = after.split_ascii_whitespace().skip(11);
    let mut ticks = || -> Result<u64> { Ok(fields.next().context("too few fields")?.parse()?) };
    Ok(Duration::from_millis((ticks()? + ticks()?) * 10))
}

/// Memory of a process in KiB: resident, and its proportional share.
pub(crate) fn memory(id: u32) -> Result<(f64, f64)> {
    let rollup = std::fs::read_to_string(format!("/proc/{id}/smaps_rollup"))?;
    let value = |key: &str| -> Result<f64> {
        let line = rollup.lines().find_map(|line| line.strip_prefix(key));
        let number = line.and_then(|line| line.split_ascii_whitespace().next());
        Ok(number.with_context(|| format!("no {key} in smaps_rollup"))?.parse()?)
    };
    Ok((value("Rss:")?, value("Pss:")?))
}
