//! Processes that die with their test, and whose output is kept.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

/// A running process. Dropped, it is killed.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; its standard output and error are added to `log`.
    pub fn start(mut command: Command, log: &Path) -> Self {
        let file = || {
            let options = File::options().create(true).append(true).open(log);
            Stdio::from(options.expect("a log file"))
        };
        command.stdin(Stdio::null()).stdout(file()).stderr(file());
        command.kill_on_drop(true);
        let child = command.spawn().unwrap_or_else(|error| {
            panic!("cannot start {:?}: {error}", command.as_std().get_program())
        });
        Self { child, log: log.to_owned() }
    }

    /// Its number, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// All that it has said so far.
    pub fn output(&self) -> String {
        read(&self.log)
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("the state of a child")
    }

    /// Sends a signal, if it still runs.
    pub fn signal(&self, signal: Signal) {
        let id = self.id().and_then(|id| i32::try_from(id).ok());
        if let Some(pid) = id.and_then(Pid::from_raw) {
            // It may have ended in between.
            let _ = kill_process(pid, signal);
        }
    }

    /// `kill -9`, and waits until it is gone.
    pub async fn kill(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait().await;
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Waits for its end. Panics after `limit` with what it has said.
    pub async fn wait(&mut self, limit: Duration) -> ExitStatus {
        match tokio::time::timeout(limit, self.child.wait()).await {
            Ok(status) => status.expect("the state of a child"),
            Err(_) => panic!("did not end within {limit:?}\n{}", tail(&self.output(), 50)),
        }
    }
}

/// A figure of a process's memory in KiB: `VmRSS` (now) or `VmHWM` (at most so far).
pub fn memory_kib(id: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("a live process");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("the field");
    let number = line.trim_start_matches(':').trim().trim_end_matches(" kB");
    number.parse().expect("a number")
}

/// What is in a log file; a file that is not there is empty.
pub fn read(log: &Path) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The last lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
