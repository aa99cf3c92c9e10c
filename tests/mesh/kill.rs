//! An agent that is killed whenever it makes its disk keep something: what it said and what it
//! acted upon never goes back.

use std::{collections::BTreeSet, time::Duration};

use rustix::process::Signal;
use skein_tests::{
    binary,
    host::Host,
    manifest::registry,
    mesh::Mesh,
    process::Process,
    server::{Conduct, Server},
    wait::until,
};

const SOON: Duration = Duration::from_secs(20);
/// More moments than a life of the test has.
const MANY: usize = 80;

/// A rule that tells by whom it allows in which round it was made.
fn rule(round: usize) -> String {
    format!(
        "apiVersion: skein/v1
kind: AccessPolicy
metadata: {{name: callers, namespace: shop}}
spec: {{destination: echo, action: allow, from: [{{service: shop/round-{round}}}]}}
"
    )
}

/// The round of the rule that is in force on a host. 0: none is.
async fn in_force(host: &Host) -> Result<usize, String> {
    let said = host.run(&["get", "AccessPolicy", "-o", "yaml"]).await;
    if said.code() != 0 {
        return Err(format!("{said:?}"));
    }
    let rounds = said.out.split("round-").skip(1);
    let number = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>();
    let rounds: BTreeSet<usize> = rounds.filter_map(|text| number(text).parse().ok()).collect();
    Ok(rounds.last().copied().unwrap_or_default())
}

/// Kills what runs under a program that watches over it.
fn kill_child(watcher: &Process) {
    let id = watcher.id().expect("it runs");
    let children = std::fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
    for child in children.unwrap_or_default().split_whitespace() {
        let pid = child.parse().ok().and_then(rustix::process::Pid::from_raw);
        rustix::process::kill_process(pid.expect("a number"), Signal::KILL).expect("it dies");
    }
}

/// When an agent is killed: at which sync of one thread, of a life that is watched from its begin,
/// or from when it answers (of the thread that writes from then on).
#[derive(Clone, Copy, Debug)]
enum Moment {
    OfStart(usize),
    OfLife(usize),
}

/// What `strace` is told: kill at that sync.
fn strace(when: usize) -> Vec<String> {
    let inject = format!("--inject=fdatasync,fsync:signal=SIGKILL:when={when}");
    let words = ["strace", "-f", "-o", "/dev/null", "--trace=fdatasync,fsync"];
    words.into_iter().map(str::to_owned).chain([inject]).collect()
}

/// Two hosts: the first has the operator's key, the second is killed.
struct Bench {
    mesh: Mesh,
    server: Server,
    operator: String,
    /// Rules are numbered by rounds.
    round: usize,
    /// The newest rule that the second host has acted upon, as far as its log shows.
    floor: usize,
    /// The rule that it held at the end of its last life.
    held: usize,
}

impl Bench {
    async fn new() -> Self {
        let mut mesh = Mesh::of_hosts(2);
        mesh.form().await;
        let server = Server::start(mesh[1].ip, Conduct::Echo).await;
        let operator = mesh[0].dir.join("person/skein/operator.key").display().to_string();
        mesh[1].kill().await;
        Self { mesh, server, operator, round: 0, floor: 0, held: 0 }
    }

    /// A life that ends at that moment, if it has one, and what is left of it in the next. Whether
    /// it was killed.
    async fn life(&mut self, moment: Moment) -> bool {
        self.round += 1;
        let before = self.mesh[1].log().len();
        let watcher = self.watched(moment).await;
        self.work().await;
        let (round, mesh) = (self.round, &mut self.mesh);
        until(SOON, &format!("killed at {moment:?}, or done"), async || {
            if mesh.hosts[1].agent().ended().is_some() {
                return Ok(());
            }
            let held = in_force(&mesh.hosts[1]).await?;
            let detail = mesh.hosts[0].try_json(&["service", "shop/echo"]).await?.to_string();
            let seen = detail.contains(&format!("\"weight\":{round},"));
            (held == round && seen).then_some(()).ok_or_else(|| format!("{held} {detail}"))
        })
        .await;
        let killed = mesh[1].agent().ended().is_some();
        if !killed && watcher.is_none() {
            kill_child(mesh[1].agent());
            mesh[1].agent().wait(SOON).await;
        }
        mesh[1].kill().await;
        drop(watcher);
        // A host that lacked the rule before this one may have acted upon that only.
        let log = self.mesh[1].log();
        let acted = log[before..].matches("a document of the mesh is in force").count();
        self.floor = match acted {
            0 => self.floor,
            1 if self.held + 1 < round => round - 1,
            _ => round,
        };
        self.knows_by_itself(moment).await;
        killed
    }

    /// Starts the second agent so that it is killed then. The watcher, where it came later.
    async fn watched(&mut self, moment: Moment) -> Option<Process> {
        match moment {
            Moment::OfStart(when) => {
                self.mesh[1].launch_under(&strace(when));
                None
            }
            Moment::OfLife(when) => {
                self.mesh[1].start(&[]).await;
                let id = self.mesh[1].agent().id().expect("it runs").to_string();
                let words = strace(when);
                let mut command = self.mesh[1].program(&words[0]);
                command.args(&words[1..]).args(["-p", &id]);
                let log = self.mesh.folder().join(format!("strace-{}", self.round));
                let watcher = Process::start(command, &log);
                until(SOON, "it is watched", async || {
                    let said = watcher.output();
                    said.contains("attached").then_some(()).ok_or(said)
                })
                .await;
                Some(watcher)
            }
        }
    }

    /// Something to say and something to take: both are written.
    async fn work(&mut self) {
        let round = self.round;
        let text = registry("echo", 8080, self.server.address);
        self.mesh[1].manifest("echo.yaml", &format!("{text}  weight: {round}\n"));
        let file = self.mesh.folder().join("rule.yaml").display().to_string();
        std::fs::write(&file, rule(round)).expect("a document");
        let mut apply = self.mesh[0].program(binary::skein());
        apply.args(["apply", "-f", &file, "--as", &self.operator]);
        // How far it gets on others is not waited for: only that it is in force on the first.
        let _apply = Process::start(apply, &self.mesh.folder().join("apply.log"));
        until(SOON, "the rule is in force on the first host", async || {
            let held = in_force(&self.mesh[0]).await?;
            (held == round).then_some(()).ok_or_else(|| held.to_string())
        })
        .await;
    }

    /// What it acted upon it knows in its next life by itself, while its peer stands still.
    async fn knows_by_itself(&mut self, moment: Moment) {
        self.mesh[0].agent().signal(Signal::STOP);
        self.mesh[1].start(&[]).await;
        let held = in_force(&self.mesh[1]).await;
        self.mesh[1].kill().await;
        self.mesh[0].agent().signal(Signal::CONT);
        let known = held.clone().is_ok_and(|held| held >= self.floor);
        assert!(known, "{held:?} after {moment:?}, it had acted upon {}", self.floor);
        self.held = held.unwrap_or_default();
    }
}

#[tokio::test]
#[ignore = "needs Debian's strace"]
async fn killed_at_each_moment_that_it_writes_an_agent_takes_nothing_back() {
    let mut bench = Bench::new().await;
    for moments in [Moment::OfStart as fn(usize) -> Moment, Moment::OfLife] {
        let mut killed = 0;
        // At the first sync, at the second, and so on, until a life has no more of them.
        while bench.life(moments(killed + 1)).await {
            killed += 1;
            assert!(killed < MANY, "no end of it");
        }
        println!("killed at each of {killed} moments, the last before {:?}", moments(killed + 1));
        assert!(killed >= 2, "killed {killed} times");
    }
    // Its peer never saw one sequence twice, nor did it ever hear of one that it had not kept.
    let logs = bench.mesh[0].log() + &bench.mesh[1].log();
    for wrong in ["two records with one sequence", "state went back", "another host uses"] {
        assert!(!logs.contains(wrong), "{wrong}:\n{logs}");
    }
}
