//! A room of its own: this program runs once more in fresh namespaces for network, processes and
//! mounts, which end with it. So no process, address or rule is left, whatever ends it: when the
//! first process of the room dies the kernel kills all others in it. The folder in the temporary
//! directory is removed here; only `kill -9` of this very process leaves it.

use std::{
    ffi::OsString,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use tokio::{
    process::Command,
    signal::unix::{SignalKind, signal},
    time::sleep,
};

/// How long the killed may take to let go of their files.
const LAST_BREATH: Duration = Duration::from_secs(10);

/// Runs this program in a room, with `--inside FOLDER` behind its arguments. The folder goes with
/// the room, unless it is to be kept.
pub(crate) async fn run_inside(keep: bool) -> Result<ExitCode> {
    let folder = TempDir::with_prefix("skein-compare-")?;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "unshare", "--net", "--pid", "--mount", "--mount-proc"]);
    command.args(["--fork", "--kill-child"]);
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.arg(std::env::current_exe()?).args(std::env::args_os().skip(1));
    command.arg("--inside").arg(folder.path()).kill_on_drop(true);
    let mut child = command.spawn().context("no `setpriv`: apt-get install util-linux")?;
    let (mut interrupt, mut terminate) =
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let status = tokio::select! {
        biased;
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
        status = child.wait() => Some(status?),
    };
    if status.is_none() {
        eprintln!("interrupted: everything is taken down");
        child.kill().await?;
    }
    if keep {
        eprintln!("kept: {}", folder.keep().display());
    } else {
        remove(folder).await?;
    }
    let code = status.and_then(|status| status.code()).and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(INTERRUPTED)))
}

/// What the room needs before anything runs in it.
pub(crate) async fn furnish() -> Result<()> {
    let arguments = ["link", "set", "lo", "up"];
    let up = Command::new("ip").args(arguments).output().await;
    let up = up.context("no `ip`: apt-get install iproute2")?;
    if !up.status.success() {
        bail!("`ip {}`: {}", arguments.join(" "), String::from_utf8_lossy(&up.stderr));
    }
    Ok(())
}

/// Removes the folder; who was just killed may still be on its way out.
async fn remove(folder: TempDir) -> Result<()> {
    let start = Instant::now();
    let path = folder.keep();
    loop {
        match std::fs::remove_dir_all(&path) {
            Err(error) if path.exists() && start.elapsed() > LAST_BREATH => {
                let at = OsString::from(&path);
                return Err(error).with_context(|| format!("{} is left", at.display()));
            }
            Err(_) if path.exists() => sleep(Duration::from_millis(100)).await,
            _ => return Ok(()),
        }
    }
}

/// As a shell says it of a program that Ctrl-C ended.
const INTERRUPTED: u8 = 130;
