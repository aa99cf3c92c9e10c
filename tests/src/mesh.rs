//! A mesh of hosts on this machine, from nothing to all of them knowing each other.

use std::{
    ops::{Index, IndexMut},
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{host::Host, namespace::Lab, wait::until};

/// Hosts and the folder that holds all of theirs. The folder goes with the mesh, unless
/// `SKEIN_TEST_KEEP` is set.
#[derive(Debug)]
pub struct Mesh {
    /// The hosts; the first has the root and the operator's key.
    pub hosts: Vec<Host>,
    /// The join token that `init` printed.
    pub token: String,
    folder: Folder,
}

impl Mesh {
    /// `count` hosts on loopback addresses, none of them started: `a`, `b`, `c` and so on.
    pub fn of_hosts(count: usize) -> Self {
        let folder = Folder::new();
        let hosts = (0..count).map(|n| Host::on_loopback(&host_name(n), folder.path())).collect();
        Self { hosts, token: String::new(), folder }
    }

    /// One host in each namespace of `lab`, none of them started.
    pub fn in_lab(lab: &Lab) -> Self {
        let folder = Folder::new();
        let place = |(n, room): (usize, &crate::namespace::Room)| {
            Host::in_namespace(&host_name(n), folder.path(), room.ip, &room.name)
        };
        Self {
            hosts: lab.rooms.iter().enumerate().map(place).collect(),
            token: String::new(),
            folder,
        }
    }

    /// A mesh of `count` agents on loopback that all know each other.
    pub async fn start(count: usize) -> Self {
        let mut mesh = Self::of_hosts(count);
        mesh.form().await;
        mesh
    }

    /// Makes the mesh on the first host, joins the others one after the other, starts all.
    pub async fn form(&mut self) {
        self.form_with(&[]).await;
    }

    /// The same with further arguments of `init`.
    pub async fn form_with(&mut self, arguments: &[&str]) {
        let init =
            [&["init", "--mesh", "test", "--service", "*/*", "--name", "a"], arguments].concat();
        self.init(&init).await;
        let seed = self.mesh_address(0);
        for host in &mut self.hosts[1..] {
            let token = [("SKEIN_TOKEN", self.token.as_str())];
            let said = host.run_with(&["join", &seed, "--name", &host.name], &token).await;
            assert!(said.status.success(), "{} joins: {said:?}", host.name);
            host.start(&[]).await;
        }
        self.all_alive(self.hosts.len(), Duration::from_secs(20)).await;
    }

    /// Makes the mesh on the first host and starts its agent, nothing more.
    pub async fn form_first(&mut self) {
        self.init(&["init", "--mesh", "test", "--service", "*/*", "--name", "a"]).await;
    }

    async fn init(&mut self, init: &[&str]) {
        let said = self.hosts[0].cli(init).await;
        self.token = token_in(&said.out).expect("`skein init` prints a join token");
        self.hosts[0].start(&[]).await;
    }

    /// `IP:port` at which the agent of host `n` is dialled.
    pub fn mesh_address(&self, n: usize) -> String {
        format!("{}:{}", self.hosts[n].ip, crate::address::PORTS[0])
    }

    /// Waits until every running agent counts `alive` live members. Gives how long it took.
    pub async fn all_alive(&self, alive: usize, limit: Duration) -> Duration {
        let all: Vec<usize> = (0..self.hosts.len()).collect();
        self.all_alive_of(&all, alive, limit).await
    }

    /// The same of the agents of these hosts.
    pub async fn all_alive_of(&self, hosts: &[usize], alive: usize, limit: Duration) -> Duration {
        let what = format!("every agent counts {alive} live members");
        let ((), took) = until(limit, &what, async || {
            for host in hosts.iter().map(|n| &self.hosts[*n]) {
                let status = host.try_json(&["status"]).await?;
                let counted = status["members"]["alive"].as_u64();
                if counted != u64::try_from(alive).ok() {
                    return Err(format!("{}: {}", host.name, status["members"]));
                }
            }
            Ok(())
        })
        .await;
        took
    }

    /// Waits until all agents hold the same view, told by its root. Gives how long it took.
    pub async fn same_view(&self, limit: Duration) -> Duration {
        let ((), took) = until(limit, "all agents hold the same view", async || {
            let mut roots: Vec<Value> = Vec::new();
            for host in &self.hosts {
                roots.push(host.try_json(&["status"]).await?["view"]["root"].clone());
            }
            let same = roots.windows(2).all(|pair| pair[0] == pair[1]);
            same.then_some(()).ok_or_else(|| format!("{roots:?}"))
        })
        .await;
        took
    }

    /// The folder that holds all hosts' folders.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Index<usize> for Mesh {
    type Output = Host;
    fn index(&self, n: usize) -> &Host {
        &self.hosts[n]
    }
}

impl IndexMut<usize> for Mesh {
    fn index_mut(&mut self, n: usize) -> &mut Host {
        &mut self.hosts[n]
    }
}

fn host_name(n: usize) -> String {
    match u8::try_from(n) {
        Ok(n @ 0..26) => char::from(b'a' + n).to_string(),
        _ => format!("host-{n}"),
    }
}

/// The join token in what a command printed.
pub fn token_in(text: &str) -> Option<String> {
    let word = |c: char| c.is_whitespace() || "'\"`=".contains(c);
    let token = text.split(word).find(|word| word.starts_with("skein1."))?;
    Some(token.to_owned())
}

#[derive(Debug)]
enum Folder {
    Temporary(TempDir),
    Kept(PathBuf),
}

impl Folder {
    fn new() -> Self {
        let folder = TempDir::with_prefix("skein-test-").expect("a temporary folder");
        if std::env::var_os("SKEIN_TEST_KEEP").is_some() {
            let path = folder.keep();
            eprintln!("kept: {}", path.display());
            Self::Kept(path)
        } else {
            Self::Temporary(folder)
        }
    }

    fn path(&self) -> &Path {
        match self {
            Self::Temporary(folder) => folder.path(),
            Self::Kept(path) => path,
        }
    }
}
