//! Fifty skein agents: admitted by a token, started, asked over their sockets.

use std::{
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use hyper::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{process::Command, task::JoinSet, time::timeout};

use crate::{
    http::Http,
    member::{Counts, Errand, Fact, Member, Observer, Side, State},
    process,
};

/// All members of this side: 127.0.77.N. Below 128 each N has virtual addresses of its own.
pub(crate) const NET: [u8; 3] = [127, 0, 77];
/// The mesh port.
pub(crate) const PORT: u16 = 7400;

/// How long a command of the CLI may take.
const COMMAND: Duration = Duration::from_secs(30);

/// The mesh.
pub(crate) struct Skein {
    binary: PathBuf,
    folder: PathBuf,
    token: String,
    prepared: u8,
    members: Vec<Member<Agent>>,
    errands: JoinSet<Result<()>>,
}

/// The way to one agent.
#[derive(Debug)]
pub(crate) struct Agent {
    pub(crate) http: Http,
    manifests: PathBuf,
}

impl Skein {
    /// Makes the mesh with its first agent. `hosts` may join it.
    pub(crate) async fn new(binary: PathBuf, folder: &Path, hosts: usize) -> Result<Self> {
        let folder = folder.join("skein");
        std::fs::create_dir(&folder)?;
        let mut skein = Self {
            binary,
            folder,
            token: String::new(),
            prepared: 1,
            members: Vec::new(),
            errands: JoinSet::new(),
        };
        let first = name(1);
        let key = skein.folder.join("operator.key");
        let arguments =
            ["init", "--mesh", "bench", "--service", "*/*", "--name", &first, "--operator-key"];
        let mut init = skein.command(&first, &arguments)?;
        init.arg(key);
        said(init).await?;
        let member = skein.launch(&first)?;
        skein.members.push(member);
        process::answers(&mut skein.members, 1).await?;
        let uses = hosts.to_string();
        let arguments =
            ["token", "create", "--name", "*", "--service", "*/*", "--uses", &uses, "-o", "json"];
        let output = said(skein.command(&first, &arguments)?).await?;
        skein.token = serde_json::from_str::<Created>(&output)?.token;
        Ok(skein)
    }

    /// Control links of each agent.
    pub(crate) async fn links(&mut self) -> Result<Vec<usize>> {
        let mut counts = Vec::new();
        for member in &mut self.members {
            let answer = member.observer.http.ask(Method::GET, "/v1/links", Value::Null).await?;
            let links: Vec<Link> = answer.read("/v1/links")?;
            counts.push(links.iter().filter(|link| link.role == "control").count());
        }
        Ok(counts)
    }

    /// A document appears in the folder that a member watches.
    pub(crate) fn drop_file(&self, member: usize, value: &str) -> Result<()> {
        let folder = &self.members.get(member).context("no such member")?.observer.manifests;
        let hidden = folder.join(format!(".{value}.yaml"));
        std::fs::write(&hidden, document(value))?;
        std::fs::rename(hidden, folder.join(format!("{value}.yaml")))?;
        Ok(())
    }

    fn command(&self, name: &str, arguments: &[&str]) -> Result<Command> {
        let dir = self.folder.join(name);
        std::fs::create_dir_all(manifests(&dir))?;
        let mut command = Command::new(&self.binary);
        command.args(arguments).env("SKEIN_DIR", &dir).env("NO_COLOR", "1");
        command.env_remove("SKEIN_TOKEN").env_remove("SKEIN_LOG");
        Ok(command)
    }
}

impl Side for Skein {
    type Observer = Agent;

    fn members(&mut self) -> &mut Vec<Member<Agent>> {
        &mut self.members
    }

    async fn prepare(&mut self) -> Result<String> {
        self.prepared += 1;
        let name = name(self.prepared);
        let first = format!("{}:{PORT}", ip(1));
        let mut join = self.command(&name, &["join", &first, "--name", &name])?;
        join.env("SKEIN_TOKEN", &self.token);
        said(join).await?;
        Ok(name)
    }

    fn launch(&mut self, name: &str) -> Result<Member<Agent>> {
        let dir = self.folder.join(name);
        let number = name.trim_start_matches(PREFIX).parse()?;
        let mut command = self.command(name, &["agent", "--bind", &ip(number).to_string()])?;
        command.arg("-f").arg(manifests(&dir));
        let process = process::spawn(command, &dir.with_extension("log"))?;
        let http = Http::new(dir.join("agent.sock"));
        let observer = Agent { http, manifests: manifests(&dir) };
        Ok(Member { name: name.to_owned(), process, observer })
    }

    fn tell(&mut self, member: usize, errand: &Errand) -> Result<()> {
        let member = self.members.get(member).context("no such member")?;
        let (path, body) = match errand {
            Errand::Change(value) => {
                ("/v1/apply", json!({"files": [{"name": "-", "text": document(value)}]}))
            }
            Errand::Leave => ("/v1/leave", json!({"purge": false})),
        };
        // Both answer only when neighbours have it: nobody waits for that here.
        let mut http = member.observer.http.again();
        self.errands.spawn(async move {
            let answer = http.ask(Method::POST, path, body).await?;
            answer.read::<Value>(path).map(drop)
        });
        Ok(())
    }

    async fn answered(&mut self) -> Result<()> {
        while let Some(answer) = self.errands.join_next().await {
            answer??;
        }
        Ok(())
    }
}

impl Observer for Agent {
    async fn shows(&mut self, fact: &Fact) -> Result<bool> {
        match fact {
            Fact::Member { name, state } => {
                let named = |shown: &&Shown| shown.name == *name;
                let members = self.shown().await?;
                Ok(members.iter().find(named).is_some_and(|shown| shown.state == word(*state)))
            }
            Fact::Change { value, .. } => {
                let path = format!("/v1/services/{NAMESPACE}/{value}");
                let answer = self.http.ask(Method::GET, &path, Value::Null).await?;
                Ok(answer.status == 200 && !answer.read::<Service>(&path)?.endpoints.is_empty())
            }
        }
    }

    async fn counts(&mut self) -> Result<Counts> {
        let members = self.shown().await?;
        let count = |state| members.iter().filter(|shown| shown.state == word(state)).count();
        let (alive, dead, left) = (count(State::Alive), count(State::Dead), count(State::Left));
        Ok(Counts { alive, dead, left })
    }
}

impl Agent {
    /// What it shows of all members. Not `status`, which makes the agent probe all its neighbours.
    async fn shown(&mut self) -> Result<Vec<Shown>> {
        let answer = self.http.ask(Method::GET, "/v1/members", Value::Null).await?;
        answer.read("/v1/members")
    }
}

/// Of a line of `members` what is of interest here.
#[derive(Debug, Deserialize)]
struct Shown {
    name: String,
    state: String,
}

/// Of `service` what is of interest here.
#[derive(Debug, Deserialize)]
struct Service {
    endpoints: Vec<Value>,
}

/// Of `token create` what is of interest here.
#[derive(Deserialize)]
struct Created {
    token: String,
}

/// Of a line of `links` what is of interest here.
#[derive(Debug, Deserialize)]
struct Link {
    role: String,
}

fn word(state: State) -> &'static str {
    match state {
        State::Alive => "alive",
        State::Dead => "dead",
        State::Left => "left",
    }
}

/// Runs a command to its end and gives what it said.
async fn said(mut command: Command) -> Result<String> {
    command.kill_on_drop(true);
    let output = timeout(COMMAND, command.output()).await;
    let Output { status, stdout, stderr } = output.context("a command of skein hangs")??;
    if !status.success() {
        // Without its environment, which holds the token.
        let arguments: Vec<_> = command.as_std().get_args().collect();
        bail!("skein {arguments:?} ended with {status}: {}", String::from_utf8_lossy(&stderr));
    }
    Ok(String::from_utf8(stdout)?)
}

/// A service without checks: it passes at once, so that only its way is measured.
fn document(name: &str) -> String {
    format!(
        "apiVersion: skein/v1
kind: ServiceRegistry
metadata: {{name: {name}, namespace: {NAMESPACE}}}
spec:
  ports: [{{name: tcp, port: 8080}}]
  checks: []
"
    )
}

fn name(number: u8) -> String {
    format!("{PREFIX}{number}")
}

fn ip(number: u8) -> Ipv4Addr {
    let [a, b, c] = NET;
    Ipv4Addr::new(a, b, c, number)
}

fn manifests(dir: &Path) -> PathBuf {
    dir.join("manifests")
}

const PREFIX: &str = "skein-";
const NAMESPACE: &str = "bench";
