//! The tour: what a mesh does, step by step, each shown by what really happened.
//!
//! Conditions are waited for with a deadline. A step that did not hold ends the tour.

use std::{
    net::SocketAddr,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::{
    load::{self, Tally},
    stage::{self, ECHO_HERE, Node, Stage, WEB_HERE},
};
use crate::{
    api::dto::{EndpointInfo, Member, ServiceDetail, Status, TokenCreated},
    cli::hooks::InitReport,
};

/// What `skein demo --once -o json` prints: a contract, keys are only ever added.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Report {
    /// Whether every step held.
    pub(super) ok: bool,
    /// How many agents.
    pub(super) agents: u8,
    /// The steps that were taken.
    pub(super) steps: Vec<Step>,
    /// All calls of the tour.
    pub(super) requests: Requests,
}

/// One step of the tour.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Step {
    /// Its name.
    pub(super) name: String,
    /// Whether it held.
    pub(super) ok: bool,
    /// How long it took.
    pub(super) took_ms: u64,
    /// What happened.
    pub(super) detail: String,
}

/// Calls through the mesh.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct Requests {
    /// Made.
    pub(super) sent: u64,
    /// Without a whole answer.
    pub(super) failed: u64,
    /// Half were done within this, in microseconds.
    pub(super) p50_us: u64,
    /// 99 of 100 were done within this, in microseconds.
    pub(super) p99_us: u64,
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Start,
    Join,
    Discover,
    Call,
    KillInstance,
    KillAgent,
    RestartAgent,
    Drain,
}

const ACTS: [(Act, &str); 8] = [
    (Act::Start, "start"),
    (Act::Join, "join"),
    (Act::Discover, "discover"),
    (Act::Call, "call"),
    (Act::KillInstance, "kill-instance"),
    (Act::KillAgent, "kill-agent"),
    (Act::RestartAgent, "restart-agent"),
    (Act::Drain, "drain"),
];

/// Takes the tour. `tell` hears of each step as it ends.
pub(super) async fn tour(stage: &mut Stage, tell: &mut dyn FnMut(&Step)) -> Report {
    let mut tour = Tour { stage, all: Tally::default(), first_token: None };
    let mut steps = Vec::new();
    let mut ok = true;
    for (act, name) in ACTS {
        let started = Instant::now();
        let result = tour.act(act).await;
        ok = result.is_ok();
        let step = Step {
            name: name.to_owned(),
            ok,
            took_ms: millis(started.elapsed()),
            detail: result.unwrap_or_else(|error| format!("{error:#}")),
        };
        tell(&step);
        steps.push(step);
        if !ok {
            break;
        }
    }
    Report {
        ok,
        agents: u8::try_from(tour.stage.nodes.len()).unwrap_or(u8::MAX),
        steps,
        requests: requests(&tour.all),
    }
}

fn requests(tally: &Tally) -> Requests {
    Requests {
        sent: tally.sent,
        failed: tally.failed,
        p50_us: tally.percentile(50),
        p99_us: tally.percentile(99),
    }
}

struct Tour<'a> {
    stage: &'a mut Stage,
    all: Tally,
    first_token: Option<String>,
}

/// Whose instance is killed, and who is drained.
const FIRST: usize = 0;
/// Whose agent is killed.
const SECOND: usize = 1;

impl Tour<'_> {
    async fn act(&mut self, act: Act) -> Result<String> {
        if let Some(fallen) = self.stage.fallen() {
            bail!(fallen);
        }
        match act {
            Act::Start => self.start().await,
            Act::Join => self.join().await,
            Act::Discover => self.discover().await,
            Act::Call => self.call().await,
            Act::KillInstance => self.kill_instance().await,
            Act::KillAgent => self.kill_agent().await,
            Act::RestartAgent => self.restart_agent().await,
            Act::Drain => self.drain().await,
        }
    }

    async fn start(&mut self) -> Result<String> {
        let operator = self.stage.dir.join("operator.key");
        let node = self.stage.node(FIRST)?;
        let line = [
            "init",
            "--mesh",
            "demo",
            "--name",
            &node.name,
            "--dir",
            &node.state_text(),
            "--operator-key",
            &text(&operator),
            "-o",
            "json",
        ]
        .map(str::to_owned);
        let made: InitReport = serde_json::from_str(&self.stage.starter.run(line.to_vec()).await?)?;
        self.first_token = made.token;
        self.stage.start_agent(FIRST, None)?;
        self.stage.start_services(FIRST)?;
        let node = self.stage.node(FIRST)?;
        let status: Status =
            until("the first agent answers", async || node.get("/v1/status").await).await?;
        Ok(format!("mesh {} with its first agent {} at {}", status.mesh, node.name, node.ip))
    }

    async fn join(&mut self) -> Result<String> {
        let file = self.make_token().await?;
        let seed = self.stage.node(FIRST)?.ip;
        for number in 1..self.stage.nodes.len() {
            let token = match (number, &self.first_token) {
                // The token of `init` also makes its user an issuer, so that two live.
                (1, Some(token)) => {
                    let path = self.stage.dir.join("init.token");
                    write_secret(&path, token)?;
                    format!("@{}", path.display())
                }
                _ => format!("@{file}"),
            };
            let node = self.stage.node(number)?;
            let line = [
                "join",
                &stage::mesh_address(seed),
                "--dir",
                &node.state_text(),
                "--token",
                &token,
                "--name",
                &node.name,
                "--advertise",
                &stage::mesh_address(node.ip),
            ]
            .map(str::to_owned);
            self.stage.starter.run(line.to_vec()).await?;
            self.stage.start_agent(number, Some(seed))?;
            if self.stage.serving().contains(&number) {
                self.stage.start_services(number)?;
            }
        }
        let took = self.all_see("all agents see all others alive", "alive", None).await?;
        let count = self.stage.nodes.len();
        Ok(format!("{count} agents, each sees all alive {} ms after the last start", millis(took)))
    }

    async fn make_token(&self) -> Result<String> {
        let node = self.stage.node(FIRST)?;
        let line = [
            "token",
            "create",
            "--dir",
            &node.state_text(),
            "--service",
            "demo/*",
            "--name",
            "*",
            "--uses",
            "20",
            "-o",
            "json",
        ]
        .map(str::to_owned);
        let created = self.stage.starter.run(line.to_vec()).await?;
        let created: TokenCreated = serde_json::from_str(&created)?;
        let path = self.stage.dir.join("join.token");
        write_secret(&path, &created.token)?;
        Ok(text(&path))
    }

    async fn discover(&mut self) -> Result<String> {
        let started = Instant::now();
        let count = self.stage.serving().len();
        for service in ["demo/web", "demo/echo"] {
            let what = format!("the calling agent sees {count} usable instances of {service}");
            until(&what, async || {
                let detail = self.service(service).await?;
                let usable = detail.endpoints.iter().filter(|e| is_usable(e)).count();
                ensure!(usable == count, "it sees {usable}");
                Ok(())
            })
            .await?;
        }
        let name = &self.stage.calling()?.name;
        let took = millis(started.elapsed());
        Ok(format!("{name} sees demo/web and demo/echo, {count} instances each, after {took} ms"))
    }

    async fn call(&mut self) -> Result<String> {
        let tally = load::some(self.stage.entry(WEB_HERE)?, CALLS).await;
        self.all.add(tally.clone());
        no_failure(&tally)?;
        let instances = tally.by_instance.len();
        ensure!(instances >= 2, "all calls went to {}", tally.instances());
        load::echo(self.stage.entry(ECHO_HERE)?).await.context("demo/echo")?;
        Ok(format!("{CALLS} HTTP calls: {}; 10 kB echoed over TCP", tally.instances()))
    }

    async fn kill_instance(&mut self) -> Result<String> {
        self.stage.kill_web(FIRST)?;
        let name = self.stage.node(FIRST)?.name.clone();
        let seen = self.endpoint("the instance is seen critical", &name, false);
        let (took, tally) = under_load(self.stage.entry(WEB_HERE)?, seen).await;
        self.all.add(tally.clone());
        let took = took?;
        few_failures(&tally)?;
        let after = self.calls_avoid(&name).await?;
        self.stage.start_services(FIRST)?;
        self.endpoint("the instance is back", &name, true).await?;
        Ok(format!(
            "instance of {name} seen gone after {} ms; {} calls meanwhile, {} failed; then {after}; \
             started again and back",
            millis(took),
            tally.sent,
            tally.failed
        ))
    }

    async fn kill_agent(&mut self) -> Result<String> {
        self.stage.kill_agent(SECOND)?;
        let name = self.stage.node(SECOND)?.name.clone();
        let seen = self.all_see("all others see the agent dead", "dead", Some(SECOND));
        let (took, tally) = under_load(self.stage.entry(WEB_HERE)?, seen).await;
        self.all.add(tally.clone());
        let took = took?;
        few_failures(&tally)?;
        let after = self.calls_avoid(&name).await?;
        Ok(format!(
            "{name} seen dead by all after {} ms; {} calls meanwhile, {} failed; then {after}",
            millis(took),
            tally.sent,
            tally.failed
        ))
    }

    async fn restart_agent(&mut self) -> Result<String> {
        self.stage.start_agent(SECOND, None)?;
        let name = self.stage.node(SECOND)?.name.clone();
        let back = async {
            let took = self.all_see("all see the agent alive again", "alive", None).await?;
            self.endpoint("its instance is usable again", &name, true).await?;
            Ok(took)
        };
        let (took, tally) = under_load(self.stage.entry(WEB_HERE)?, back).await;
        self.all.add(tally.clone());
        let took = took?;
        no_failure(&tally)?;
        let sent = tally.sent;
        Ok(format!(
            "{name} back without a seed after {} ms; {sent} calls meanwhile, none failed",
            millis(took)
        ))
    }

    async fn drain(&mut self) -> Result<String> {
        let node = self.stage.node(FIRST)?;
        let name = node.name.clone();
        let line = ["drain", "--wait", "5s", "--dir", &node.state_text()].map(str::to_owned);
        let drained = async {
            let started = Instant::now();
            self.stage.starter.run(line.to_vec()).await?;
            self.endpoint("the drained instance is left out", &name, false).await?;
            Ok(started.elapsed())
        };
        let (took, tally) = under_load(self.stage.entry(WEB_HERE)?, drained).await;
        self.all.add(tally.clone());
        let took = took?;
        no_failure(&tally)?;
        let after = self.calls_avoid(&name).await?;
        let sent = tally.sent;
        Ok(format!(
            "{name} drained in {} ms; {sent} calls meanwhile, none failed; then {after}",
            millis(took)
        ))
    }

    /// Some calls, of which none fails and none is answered by `name`.
    async fn calls_avoid(&mut self, name: &str) -> Result<String> {
        let tally = load::some(self.stage.entry(WEB_HERE)?, CALLS).await;
        self.all.add(tally.clone());
        no_failure(&tally)?;
        ensure!(!tally.by_instance.contains_key(name), "{name} still gets calls");
        Ok(format!("{CALLS} calls to {}", tally.instances()))
    }

    async fn service(&self, name: &str) -> Result<ServiceDetail> {
        self.stage.calling()?.get(&format!("/v1/services/{name}")).await
    }

    /// Waits until the calling agent uses, or no longer uses, the web instance of a node.
    async fn endpoint(&self, what: &str, node: &str, usable: bool) -> Result<Duration> {
        let started = Instant::now();
        until(what, async || {
            let detail = self.service("demo/web").await?;
            let found = detail.endpoints.iter().find(|e| e.node == node);
            let now = found.is_some_and(is_usable);
            let reason = found.and_then(|e| e.reason.as_deref()).unwrap_or("none");
            ensure!(now == usable, "usable {now}, reason {reason}");
            Ok(())
        })
        .await?;
        Ok(started.elapsed())
    }

    /// Waits until every agent, `but` that one, sees `state` of all, or of `but`.
    async fn all_see(&self, what: &str, state: &str, but: Option<usize>) -> Result<Duration> {
        let started = Instant::now();
        let subject = but.map(|number| self.stage.node(number)).transpose()?;
        let wanted = subject.map_or(self.stage.nodes.len(), |_| 1);
        let asked = self.stage.nodes.iter().enumerate();
        for (_, node) in asked.filter(|(number, _)| Some(*number) != but) {
            until(what, async || sees(node, subject, state, wanted).await).await?;
        }
        Ok(started.elapsed())
    }
}

async fn sees(node: &Node, subject: Option<&Node>, state: &str, wanted: usize) -> Result<()> {
    let members: Vec<Member> = node.get("/v1/members").await?;
    let meant = |m: &&Member| subject.is_none_or(|subject| m.name == subject.name);
    let count = members.iter().filter(meant).filter(|m| m.state == state).count();
    ensure!(count == wanted, "{} sees {count} of {wanted} {state}", node.name);
    Ok(())
}

fn is_usable(endpoint: &EndpointInfo) -> bool {
    endpoint.status != "critical" && endpoint.reason.is_none()
}

/// No call may fail.
fn no_failure(tally: &Tally) -> Result<()> {
    let why = tally.why.as_deref().unwrap_or_default();
    ensure!(tally.failed == 0, "{} of {} calls failed: {why}", tally.failed, tally.sent);
    ensure!(tally.sent > 0, "no call was made");
    Ok(())
}

/// Only calls may fail that what was killed had accepted: one for each caller.
fn few_failures(tally: &Tally) -> Result<()> {
    let why = tally.why.as_deref().unwrap_or_default();
    let few = tally.failed <= load::WORKERS;
    ensure!(few, "{} of {} calls failed: {why}", tally.failed, tally.sent);
    Ok(())
}

/// Calls at a steady pace while something happens.
async fn under_load<T>(
    entry: SocketAddr,
    happens: impl Future<Output = Result<T>>,
) -> (Result<T>, Tally) {
    let (stop, stopped) = watch::channel(false);
    let happens = async {
        let result = happens.await;
        let _ = stop.send(true);
        result
    };
    tokio::join!(happens, load::steady(entry, stopped))
}

/// Asks again and again until it holds, or the deadline is over.
async fn until<T>(what: &str, mut holds: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + super::DEADLINE;
    loop {
        match holds().await {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= deadline => {
                bail!("not within {:?}: {what}: {error:#}", super::DEADLINE)
            }
            Err(_) => tokio::time::sleep(ASK_AGAIN).await,
        }
    }
}

fn write_secret(path: &Path, secret: &str) -> Result<()> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let mut file =
        std::fs::File::options().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    Ok(file.write_all(secret.as_bytes())?)
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

const CALLS: usize = 100;
const ASK_AGAIN: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_json_of_the_report_is_the_contract() {
        let report = Report {
            ok: true,
            agents: 3,
            steps: vec![Step { name: "start".into(), ok: true, took_ms: 5, detail: "d".into() }],
            requests: Requests { sent: 2, failed: 0, p50_us: 3, p99_us: 4 },
        };
        assert_eq!(
            serde_json::to_string(&report).unwrap(),
            "{\"ok\":true,\"agents\":3,\"steps\":[{\"name\":\"start\",\"ok\":true,\"took_ms\":5,\
             \"detail\":\"d\"}],\"requests\":{\"sent\":2,\"failed\":0,\"p50_us\":3,\"p99_us\":4}}"
        );
    }

    #[tokio::test]
    async fn what_holds_at_last_is_waited_for() {
        let mut asked = 0;
        let value = until("three", async || {
            asked += 1;
            ensure!(asked >= 3, "only {asked}");
            Ok(asked)
        });
        assert_eq!(value.await.unwrap(), 3);
    }
}
