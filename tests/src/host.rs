//! A host: a folder, an address, perhaps a network namespace, and the agent that runs there.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use serde_json::Value;
use tokio::process::Command;

use crate::{
    address::Address,
    binary,
    process::{self, Process},
    wait::until,
};

/// The longest that a command of the CLI may take here.
const COMMAND: Duration = Duration::from_secs(30);
/// The longest that an agent may take to answer `status` after its start.
const START: Duration = Duration::from_secs(10);

/// What a command said.
#[derive(Clone, Debug)]
pub struct Said {
    /// How it ended.
    pub status: ExitStatus,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl Said {
    /// The exit code; -1 for a signal.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }
}

/// One host of a test.
#[derive(Debug)]
pub struct Host {
    /// Its name in the mesh.
    pub name: String,
    /// Where its agent listens.
    pub ip: IpAddr,
    /// The agent's folder (`--dir`).
    pub dir: PathBuf,
    /// Its manifests: given to the agent as `-f`.
    pub manifests: PathBuf,
    /// The network namespace that all its processes run in.
    pub namespace: Option<String>,
    /// Whether its agent is started without `--bind`, so that it finds its address itself.
    pub finds_address: bool,
    /// By how many days its clock is ahead: all its processes run with Debian's libfaketime.
    pub days_ahead: u32,
    agent: Option<Process>,
    address_lock: Option<Address>,
}

impl Host {
    /// A host on a loopback address of its own, its folders under `root`.
    pub fn on_loopback(name: &str, root: &Path) -> Self {
        let address = Address::take();
        let ip = IpAddr::V4(address.ip);
        let mut host = Self::new(name, root, ip, None);
        host.address_lock = Some(address);
        host
    }

    /// A host in a network namespace, reached at `ip`.
    pub fn in_namespace(name: &str, root: &Path, ip: IpAddr, namespace: &str) -> Self {
        Self::new(name, root, ip, Some(namespace.to_owned()))
    }

    fn new(name: &str, root: &Path, ip: IpAddr, namespace: Option<String>) -> Self {
        let dir = root.join(name);
        let manifests = root.join(format!("{name}.manifests"));
        std::fs::create_dir_all(&dir).expect("the agent's folder");
        std::fs::create_dir_all(&manifests).expect("the manifests' folder");
        // A person's keys lie outside of the agent's folder; tests find them by this link.
        let person = root.join(format!("{name}.person"));
        std::fs::create_dir_all(&person).expect("the person's folder");
        let _ = std::os::unix::fs::symlink(&person, dir.join("person"));
        Self {
            name: name.to_owned(),
            ip,
            dir,
            manifests,
            namespace,
            days_ahead: 0,
            finds_address: false,
            agent: None,
            address_lock: None,
        }
    }

    /// Any program on this host.
    pub fn program(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = match &self.namespace {
            None => Command::new(program),
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace]).arg(program);
                command
            }
        };
        command.env("SKEIN_DIR", &self.dir).env("NO_COLOR", "1");
        command.env_remove("SKEIN_TOKEN").kill_on_drop(true);
        command.env("XDG_CONFIG_HOME", self.dir.with_extension("person"));
        if self.days_ahead > 0 {
            // Expiry goes by the wall clock; timers are left alone.
            command.env("LD_PRELOAD", libfaketime()).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
            command.env("FAKETIME", format!("+{}d", self.days_ahead));
        }
        command
    }

    /// The binary under test. A host on the machine's own network may not change that network's
    /// rules: what is redirected is tested in namespaces.
    fn skein(&self) -> Command {
        if self.namespace.is_some() || !rustix::process::geteuid().is_root() {
            return self.program(binary::skein());
        }
        let mut command = self.program("setpriv");
        command.args(["--bounding-set=-net_admin", "--inh-caps=-net_admin", "--"]);
        command.arg(binary::skein());
        command
    }

    /// A command of the CLI, whatever comes of it.
    pub async fn run(&self, arguments: &[&str]) -> Said {
        self.run_with(arguments, &[]).await
    }

    /// The same with environment variables.
    pub async fn run_with(&self, arguments: &[&str], variables: &[(&str, &str)]) -> Said {
        let mut command = self.skein();
        command.args(arguments).envs(variables.iter().copied());
        let output = tokio::time::timeout(COMMAND, command.output()).await;
        let output = output
            .unwrap_or_else(|_| panic!("{}: `skein {}` hangs", self.name, arguments.join(" ")));
        let output = output.expect("the binary runs");
        Said {
            status: output.status,
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// A command that must end with 0.
    pub async fn cli(&self, arguments: &[&str]) -> Said {
        let said = self.run(arguments).await;
        assert!(
            said.status.success(),
            "{}: `skein {}` ended with {}\n{}{}",
            self.name,
            arguments.join(" "),
            said.code(),
            said.out,
            said.err
        );
        said
    }

    /// A read command with `-o json`. An `Err` says what came instead: for [`until`].
    pub async fn try_json(&self, arguments: &[&str]) -> Result<Value, String> {
        let mut all = arguments.to_vec();
        all.extend(["-o", "json"]);
        let said = self.run(&all).await;
        // 3 is degraded or partly done, and has an answer all the same.
        if ![0, 3].contains(&said.code()) {
            return Err(format!("exit {}: {}{}", said.code(), said.out, said.err));
        }
        serde_json::from_str(&said.out).map_err(|error| format!("{error}: {}", said.out))
    }

    /// A read command with `-o json` that must answer.
    pub async fn json(&self, arguments: &[&str]) -> Value {
        match self.try_json(arguments).await {
            Ok(value) => value,
            Err(instead) => panic!("{}: `skein {}`: {instead}", self.name, arguments.join(" ")),
        }
    }

    /// Starts the agent with these further arguments and waits until it answers.
    pub async fn start(&mut self, arguments: &[&str]) {
        self.launch(arguments);
        self.answers().await;
    }

    /// Starts the agent and waits for nothing.
    pub fn launch(&mut self, arguments: &[&str]) {
        self.launch_with(arguments, &[]);
    }

    /// The same with environment variables.
    pub fn launch_with(&mut self, arguments: &[&str], variables: &[(&str, &str)]) {
        let mut command = self.skein();
        let ip = self.ip.to_string();
        command.arg("agent");
        if !self.finds_address {
            command.args(["--bind", &ip]);
        }
        command.arg("-f").arg(&self.manifests);
        command.args(arguments).env("RUST_BACKTRACE", "1").envs(variables.iter().copied());
        self.agent = Some(Process::start(command, &self.log_path()));
    }

    /// Starts the agent under a program that watches over it, and waits for nothing.
    pub fn launch_under(&mut self, watcher: &[String]) {
        let (program, rest) = watcher.split_first().expect("a program");
        let (mut command, agent) = (self.program(program), self.skein());
        let agent = agent.as_std();
        command.args(rest).arg(agent.get_program()).args(agent.get_args());
        command
            .args(["agent", "--bind", &self.ip.to_string(), "-f"])
            .arg(&self.manifests)
            .env("RUST_BACKTRACE", "1");
        self.agent = Some(Process::start(command, &self.log_path()));
    }

    /// Waits until the agent answers `status`.
    pub async fn answers(&mut self) {
        let what = format!("the agent of {} answers", self.name);
        until(START, &what, async || {
            if let Some(status) = self.agent.as_mut().and_then(Process::ended) {
                panic!("the agent of {} ended ({status})\n{}", self.name, self.log());
            }
            self.try_json(&["status"]).await.map(drop)
        })
        .await;
    }

    /// The running agent.
    pub fn agent(&mut self) -> &mut Process {
        self.agent.as_mut().expect("no agent was started here")
    }

    /// `kill -9` of the agent.
    pub async fn kill(&mut self) {
        self.agent().kill().await;
        self.agent = None;
    }

    /// SIGTERM, and waits for its end in order.
    pub async fn stop(&mut self, limit: Duration) -> ExitStatus {
        self.agent().terminate();
        let status = self.agent().wait(limit).await;
        self.agent = None;
        status
    }

    /// Writes (or replaces) a manifest that the agent watches.
    pub fn manifest(&self, file: &str, text: &str) {
        let hidden = self.manifests.join(format!(".{file}"));
        std::fs::write(&hidden, text).expect("a manifest");
        std::fs::rename(hidden, self.manifests.join(file)).expect("a manifest in its place");
    }

    /// Removes a manifest.
    pub fn remove_manifest(&self, file: &str) {
        std::fs::remove_file(self.manifests.join(file)).expect("a manifest to remove");
    }

    /// All that this host's agents have said.
    pub fn log(&self) -> String {
        process::read(&self.log_path())
    }

    fn log_path(&self) -> PathBuf {
        self.dir.with_extension("log")
    }
}

/// Where Debian puts the library that shows another time.
fn libfaketime() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").expect("/usr/lib").filter_map(Result::ok);
    let mut found = folders.map(|folder| folder.path().join("faketime/libfaketime.so.1"));
    found.find(|path| path.exists()).expect("no libfaketime: apt-get install faketime")
}

impl Drop for Host {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of {} ({})", self.name, self.ip);
            eprintln!("{}", process::tail(&self.log(), 100));
        }
    }
}
