//! The demo's processes: each in a group of its own, none outlives the demo.
//!
//! A group is killed when its [`Child`] is dropped. Should the demo itself be killed, the
//! watchdog, which holds the other end of a pipe, kills what was left.

use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufRead, Write},
    path::{Path, PathBuf},
    process::{ChildStdin, Command, Stdio},
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::cli::{Exit, exit::CliError};

/// Starts processes of this program.
#[derive(Debug)]
pub(super) struct Starter {
    program: PathBuf,
    watchdog: std::process::Child,
    pipe: Option<ChildStdin>,
}

impl Starter {
    /// Starts the watchdog. `files` is what it deletes if the demo is killed.
    pub(super) fn new(program: PathBuf, files: &Path) -> Result<Self> {
        use std::os::unix::process::CommandExt;
        let mut watchdog = Command::new(&program)
            .arg("demo-watch")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let mut pipe = watchdog.stdin.take().context("the watchdog has no pipe")?;
        writeln!(pipe, "{}", files.display())?;
        Ok(Self { program, watchdog, pipe: Some(pipe) })
    }

    /// Starts a process that runs until it is killed; what it prints goes to `log`.
    pub(super) fn start(&mut self, arguments: &[String], log: &Path) -> Result<Child> {
        use std::os::unix::process::CommandExt;
        let out = File::options().create(true).append(true).open(log)?;
        let mut process = self
            .command(arguments)
            .stdin(Stdio::piped())
            .stdout(out.try_clone()?)
            .stderr(out)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let group = i32::try_from(process.id()).ok().and_then(Pid::from_raw);
        let group = group.context("a process without an id")?;
        if let Some(pipe) = &mut self.pipe {
            writeln!(pipe, "{}", process.id())?;
        }
        let stdin = process.stdin.take();
        Ok(Child { process, group, _stdin: stdin })
    }

    /// Kills a process and all that it started (SIGKILL), and waits for its end.
    pub(super) fn kill(&mut self, child: Child) {
        let id = child.process.id();
        drop(child);
        if let Some(pipe) = &mut self.pipe {
            let _ = writeln!(pipe, "-{id}");
        }
    }

    /// Runs a command to its end, within a deadline that the command itself keeps, and gives back
    /// what it prints.
    pub(super) async fn run(&self, arguments: Vec<String>) -> Result<String> {
        let mut command = tokio::process::Command::from(self.command(&arguments));
        let command = command.stdin(Stdio::null()).kill_on_drop(true);
        let output = tokio::time::timeout(super::DEADLINE, command.output()).await;
        let line = arguments.join(" ");
        let Ok(output) = output else {
            bail!("`skein {line}` did not end within {:?}", super::DEADLINE);
        };
        let output = output?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            bail!("`skein {line}`: {}", why.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn command(&self, arguments: &[String]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(arguments);
        // What this user has set for another mesh must not reach into the demo.
        for variable in ["SKEIN_DIR", "SKEIN_TOKEN", "SKEIN_OPERATOR_KEY", "SKEIN_LOG"] {
            command.env_remove(variable);
        }
        command
    }
}

impl Drop for Starter {
    fn drop(&mut self) {
        // All groups were killed by now: their numbers may soon belong to others.
        if let Some(mut pipe) = self.pipe.take() {
            let _ = writeln!(pipe, "{DONE}");
        }
        let _ = self.watchdog.wait();
    }
}

/// A running process and all that it starts.
#[derive(Debug)]
pub(super) struct Child {
    process: std::process::Child,
    group: Pid,
    _stdin: Option<ChildStdin>,
}

impl Child {
    /// How it ended, if it has.
    pub(super) fn ended(&mut self) -> Option<String> {
        let status = self.process.try_wait().ok().flatten()?;
        Some(status.to_string())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = kill_process_group(self.group, Signal::KILL);
        let _ = self.process.wait();
    }
}

/// `skein demo-watch`: reads the demo's directory and then process groups, one a line (`-` before
/// one that has ended). When the pipe ends without `done`, the demo was killed: kills the groups
/// and deletes the directory.
pub(crate) fn watch() -> Result<Exit, CliError> {
    let mut lines = std::io::stdin().lock().lines().map_while(Result::ok);
    let files = lines.next().map(PathBuf::from);
    let Some(groups) = left_over(lines) else {
        return Ok(Exit::Done);
    };
    for group in groups.into_iter().filter_map(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    if let Some(files) = files.filter(|files| is_ours(files)) {
        let _ = std::fs::remove_dir_all(files);
    }
    Ok(Exit::Done)
}

/// The groups that still run when the lines end; none when the demo says that it is done.
fn left_over(lines: impl Iterator<Item = String>) -> Option<BTreeSet<i32>> {
    let mut groups = BTreeSet::new();
    for line in lines {
        match line.parse::<i32>() {
            Ok(ended) if ended < 0 => groups.remove(&ended.saturating_neg()),
            Ok(group) => groups.insert(group),
            Err(_) if line == DONE => return None,
            Err(_) => continue,
        };
    }
    Some(groups)
}

/// Only what the demo made, by its name: the watchdog must not delete anything else.
fn is_ours(files: &Path) -> bool {
    let name = files.file_name().map(|name| name.to_string_lossy());
    files.is_absolute() && name.is_some_and(|name| name.starts_with(super::PREFIX))
}

const DONE: &str = "done";

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A program that stands for skein: its watchdog keeps what it is told, all else waits.
    fn program(dir: &Path) -> PathBuf {
        let path = dir.join("program");
        let told = dir.join("told");
        let text = format!(
            "#!/bin/sh\ncase $1 in\n demo-watch) cat > {};;\n \
             fails) echo it is broken >&2; exit 3;;\n says) echo $2;;\n \
             *) sleep 600 & echo $!; wait;;\nesac\n",
            told.display()
        );
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn lives(pid: &str) -> bool {
        // A killed process that nobody has waited for yet is a zombie, state Z.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.is_ok_and(|stat| !stat.contains(") Z "))
    }

    #[tokio::test]
    async fn a_process_dies_with_all_that_it_started_and_the_watchdog_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let mut starter = Starter::new(program(dir.path()), dir.path()).unwrap();
        let log = dir.path().join("log");
        let first = starter.start(&["agent".into()], &log).unwrap();
        let second = starter.start(&["agent".into()], &log).unwrap();
        let grandchildren = loop {
            let text = std::fs::read_to_string(&log).unwrap();
            if text.lines().count() == 2 {
                break text;
            }
            tokio::task::yield_now().await;
        };
        let ids = [first.process.id(), second.process.id()];
        assert!(grandchildren.lines().all(lives));
        starter.kill(first);
        drop(second);
        while grandchildren.lines().any(lives) {
            tokio::task::yield_now().await;
        }
        drop(starter);
        let told = std::fs::read_to_string(dir.path().join("told")).unwrap();
        let files = dir.path().display();
        assert_eq!(told, format!("{files}\n{0}\n{1}\n-{0}\ndone\n", ids[0], ids[1]));
    }

    #[tokio::test]
    async fn a_command_that_fails_is_told_with_its_own_words() {
        let dir = tempfile::tempdir().unwrap();
        let starter = Starter::new(program(dir.path()), dir.path()).unwrap();
        let said = starter.run(vec!["says".into(), "hello".into()]).await;
        assert_eq!(said.unwrap(), "hello\n");
        let failed = starter.run(vec!["fails".into()]).await.unwrap_err();
        assert_eq!(failed.to_string(), "`skein fails`: it is broken");
    }

    #[test]
    fn the_watchdog_kills_only_what_was_left() {
        let lines = |text: &str| text.lines().map(str::to_owned).collect::<Vec<_>>().into_iter();
        assert_eq!(left_over(lines("10\n20\n-10\n")), Some(BTreeSet::from([20])));
        assert_eq!(left_over(lines("10\n20\ndone\n")), None);
        assert_eq!(left_over(lines("")), Some(BTreeSet::new()));
    }

    #[test]
    fn the_watchdog_deletes_only_what_the_demo_made() {
        assert!(is_ours(Path::new("/tmp/skein-demo-x1")));
        for other in ["/", "/tmp", "skein-demo-x", "/tmp/skein-demo-x/..", "/home/ann"] {
            assert!(!is_ours(Path::new(other)), "{other}");
        }
    }
}
