//! An agent that dies under load, one that ends in order, and a mesh of which all agents die.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde_json::Value;
use skein_tests::{
    figure::figure,
    host::Host,
    load::{Load, Plan, Report, Stage},
    manifest::{agent, discovery, registry},
    mesh::Mesh,
    server::{Conduct, Server},
    wait::until,
};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    task::JoinSet,
    time::timeout,
};

const HERE: u16 = 9080;
const PORT: u16 = 8080;
const SOON: Duration = Duration::from_secs(10);

/// Three hosts: the first calls, the other two serve.
struct Stand {
    mesh: Mesh,
    here: SocketAddr,
    servers: Vec<Server>,
}

impl Stand {
    async fn new() -> Self {
        Self::of(|_| Conduct::Echo).await
    }

    /// Two instances that conduct themselves as is said by the name of their host.
    async fn of(conduct: impl Fn(&str) -> Conduct) -> Self {
        let mut mesh = Mesh::of_hosts(3);
        for host in &mesh.hosts {
            host.manifest("agent.yaml", &agent(&["drain: 5s"]));
        }
        mesh.form().await;
        mesh[0].manifest("use.yaml", &discovery("echo", HERE, PORT));
        let mut servers = Vec::new();
        for host in &mesh.hosts[1..] {
            let server = Server::start(host.ip, conduct(&host.name)).await;
            host.manifest("echo.yaml", &registry("echo", PORT, server.address));
            servers.push(server);
        }
        let stand = Self { here: SocketAddr::new(mesh[0].ip, HERE), mesh, servers };
        stand.both_serve().await;
        stand
    }

    async fn both_serve(&self) -> Duration {
        let ((), took) = until(SOON, "the caller sees two usable endpoints", async || {
            let detail = self.mesh[0].try_json(&["service", "shop/echo"]).await?;
            let none = Vec::new();
            let endpoints = detail["endpoints"].as_array().unwrap_or(&none);
            let usable = |e: &&Value| e["status"] == "passing" && e["reason"].is_null();
            let count = endpoints.iter().filter(usable).count();
            (count == 2).then_some(()).ok_or_else(|| detail.to_string())
        })
        .await;
        took
    }

    /// Waits until `calls` more have come to an end after this moment.
    async fn more(&self, load: &Load, calls: u64) {
        let target = load.begun() + calls;
        until(SOON, "the load goes on", async || {
            let begun = load.begun();
            (begun >= target).then_some(()).ok_or_else(|| begun.to_string())
        })
        .await;
    }

    /// Removes what `join` wrote: it is not what agents find each other by after a restart.
    fn forget_seeds(&self) {
        for host in &self.mesh.hosts {
            let _ = std::fs::remove_file(host.dir.join("peers"));
        }
    }

    /// Starts all agents in an order, and waits until the mesh is whole: how long after the last
    /// start all were alive, how long then until both instances serve, then until one view holds.
    async fn forms_again(&mut self, order: [usize; 3]) -> [Duration; 3] {
        for n in order {
            self.mesh[n].start(&[]).await;
        }
        let formed = self.mesh.all_alive(3, Duration::from_secs(20)).await;
        [formed, self.both_serve().await, self.mesh.same_view(SOON).await]
    }

    /// How long until every other agent shows the state of host `n`.
    async fn seen(&self, n: usize, state: &str, limit: Duration) -> Duration {
        let name = &self.mesh[n].name;
        let what = format!("all others see {name} {state}");
        let ((), took) = until(limit, &what, async || {
            for (_, host) in self.mesh.hosts.iter().enumerate().filter(|(place, _)| *place != n) {
                let members = host.try_json(&["members"]).await?;
                let all = members.as_array().cloned().unwrap_or_default();
                let found = all.iter().find(|member| member["name"] == name.as_str());
                if found.is_none_or(|member| member["state"] != state) {
                    return Err(format!("{}: {found:?}", host.name));
                }
            }
            Ok(())
        })
        .await;
        took
    }
}

/// How long each call was without an `ok` that had to go on to a second endpoint, as the caller's
/// access log tells it.
async fn switched(host: &Host) -> Vec<Duration> {
    let (found, _) = until(SOON, "a call went on to the other instance", async || {
        let log = host.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let second = |line: &Value| line["tries"] == 2 && line["end"] == "done";
        let waited: Vec<Duration> = lines
            .filter(second)
            .filter_map(|line| line["connect_us"].as_u64().map(Duration::from_micros))
            .collect();
        if waited.is_empty() { Err("none".to_owned()) } else { Ok(waited) }
    })
    .await;
    found
}

/// What a host's agent counts as open calls of its own programs.
async fn open_calls(host: &Host) -> Result<u64, String> {
    let http = SocketAddr::new(host.ip, skein_tests::address::PORTS[1]);
    let get = async {
        let mut stream = TcpStream::connect(http).await?;
        let request = format!("GET /metrics HTTP/1.1\r\nHost: {http}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        std::io::Result::Ok(text)
    };
    let text = get.await.map_err(|error| error.to_string())?;
    let series = "skein_connections_open{side=\"outbound\",service=\"shop/echo\"} ";
    let count = text.lines().find_map(|line| line.strip_prefix(series)?.trim().parse().ok());
    count.ok_or(text)
}

/// Open files of a process.
fn open_files(id: u32) -> usize {
    std::fs::read_dir(format!("/proc/{id}/fd")).expect("its files").count()
}

#[tokio::test]
async fn a_thousand_tunnels_end_with_the_agent_that_held_them_and_leave_nothing_behind() {
    let mut stand = Stand::of(|name| Conduct::Named(name.to_owned())).await;
    let doomed = stand.mesh[2].name.clone();
    let caller = stand.mesh[0].agent().id().expect("it runs");
    let before = open_files(caller);
    let mut open = JoinSet::new();
    let mut all = 0;
    for _ in 0..1_000 {
        let mut stream = BufReader::new(TcpStream::connect(stand.here).await.expect("a listener"));
        let mut name = String::new();
        timeout(SOON, stream.read_line(&mut name)).await.expect("in time").expect("its name");
        all += usize::from(name.trim() == doomed);
        open.spawn(async move {
            // Whole until the agent behind it dies: then an end or a reset.
            let _ = stream.read(&mut [0; 1]).await;
            Instant::now()
        });
    }
    assert!((100..=900).contains(&all), "the calls were shared: {all}");
    assert_eq!(open_calls(&stand.mesh[0]).await, Ok(1_000));
    let killed = Instant::now();
    stand.mesh[2].kill().await;
    let mut ended = Vec::new();
    while ended.len() < all {
        let next = timeout(Duration::from_secs(20), open.join_next()).await;
        let at = next.unwrap_or_else(|_| panic!("{} of {all} ended", ended.len()));
        ended.push(at.expect("a connection").expect("its own task") - killed);
    }
    figure("the last tunnel to a killed agent has ended", ended.into_iter().max().unwrap());
    assert!(open.try_join_next().is_none(), "a tunnel to the other agent ended");
    // Half of the tunnels stay, each with a socket; those of the dead are given back.
    let left = open.len();
    until(SOON, "the sockets of the ended tunnels are given back", async || {
        let now = open_files(caller);
        (now <= before + left + 50).then_some(()).ok_or_else(|| format!("{now} files open"))
    })
    .await;
    stand.mesh[2].start(&[]).await;
    stand.both_serve().await;
    open.abort_all();
    until(SOON, "nothing is left open", async || {
        let now = open_files(caller);
        (now <= before + 50).then_some(()).ok_or_else(|| format!("{now} files, {before} before"))
    })
    .await;
    until(SOON, "nothing is counted as open", async || {
        let open = open_calls(&stand.mesh[0]).await?;
        (open == 0).then_some(()).ok_or_else(|| open.to_string())
    })
    .await;
}

fn summary(report: &Report) -> String {
    let (half, most) = (report.percentile(0.5), report.percentile(1.0));
    format!("{} held ({half:?}, worst {most:?})", report.took.len())
}

#[tokio::test]
async fn of_a_killed_agent_only_what_it_had_accepted_fails() {
    let mut stand = Stand::new().await;
    // Each call holds its connection for a while, so that the killed agent has some.
    let hold = Duration::from_millis(100);
    let load = Load::start(Plan { hold, ..Plan::new(stand.here) });
    let start = Instant::now();
    stand.more(&load, 50).await;
    let killed = start.elapsed();
    stand.mesh[2].kill().await;
    // Five times the four seconds of issue 2.
    let dead = stand.seen(2, "dead", Duration::from_secs(20)).await;
    let status = stand.mesh[0].run(&["status"]).await;
    assert_eq!(status.code(), 3, "a member is missed: {}", status.out);
    assert!(status.out.contains("c is dead"), "{}", status.out);
    stand.more(&load, 100).await;
    let report = load.stop().await;

    for failure in &report.failures {
        // Of a call that begins as the agent dies the `ok` may have come and no byte behind it.
        let moment = Duration::from_millis(50);
        let as_it_died = failure.began + moment > killed && failure.stage == Stage::First;
        let accepted = failure.stage == Stage::Later || as_it_died;
        assert!(accepted, "it had been accepted: {failure:?}");
        assert!(failure.began < killed + moment, "{failure:?}");
    }
    // At 100 a second that last 100 ms, half of them there: about five.
    assert!(report.failures.len() <= 25, "{:?}", report.failures);
    figure("a killed agent is dead on all others", dead);
    println!("{} failed, {}", report.failures.len(), summary(&report));
    let switched = switched(&stand.mesh[0]).await;
    let worst = switched.iter().max().copied().unwrap_or_default();
    figure("a call without an ok goes to the other instance", worst);
    // Five times the 500 ms that a call waits for an `ok` before it goes elsewhere.
    assert!(worst < Duration::from_millis(2_500), "{switched:?}");

    stand.mesh[2].start(&[]).await;
    let alive = stand.seen(2, "alive", Duration::from_secs(20)).await;
    stand.both_serve().await;
    figure("a restarted agent is alive on all others, without a seed", alive);
}

#[tokio::test]
async fn of_an_agent_that_ends_in_order_no_call_fails() {
    let mut stand = Stand::new().await;
    let hold = Duration::from_millis(100);
    let load = Load::start(Plan { hold, ..Plan::new(stand.here) });
    stand.more(&load, 50).await;
    let start = Instant::now();
    let status = stand.mesh[2].stop(Duration::from_secs(15)).await;
    let ended = start.elapsed();
    // It said so itself: nobody has to miss it first. Five times the second of a last word.
    let seen = stand.seen(2, "left", Duration::from_secs(5)).await;
    let said = stand.mesh[0].run(&["status"]).await;
    assert_eq!(said.code(), 0, "who left is not missed: {}", said.out);
    let before = stand.servers[1].accepted();
    stand.more(&load, 100).await;
    let report = load.stop().await;
    assert_eq!(status.code(), Some(0));
    assert!(report.failures.is_empty(), "{:?}", report.failures);
    assert!(stand.servers[1].accepted() == before, "no call goes to an agent that is out");
    figure("an agent told to end has drained and ended", ended);
    figure("it has left on all others after that", seen);
    println!("{}", summary(&report));
    let never = |host: &Host| !host.log().contains("dead: its watchers agree");
    assert!(stand.mesh.hosts.iter().all(never), "it was missed");

    stand.mesh[2].start(&[]).await;
    let alive = stand.seen(2, "alive", Duration::from_secs(20)).await;
    stand.both_serve().await;
    figure("an agent that had left is alive on all others after its start", alive);
}

#[tokio::test]
async fn a_restarted_agent_takes_the_same_ports_at_once() {
    let mut stand = Stand::new().await;
    let load = Load::start(Plan { hold: Duration::from_secs(1), ..Plan::new(stand.here) });
    stand.more(&load, 100).await;
    stand.mesh[0].kill().await;
    stand.mesh[0].start(&[]).await;
    stand.both_serve().await;
    let held = load.stop().await;
    assert!(!held.failures.is_empty(), "the killed agent held connections");
    let again = Load::start(Plan::new(stand.here));
    stand.more(&again, 50).await;
    let report = again.stop().await;
    assert!(report.failures.is_empty(), "{:?}", report.failures);
}

#[tokio::test]
async fn a_mesh_of_which_all_agents_died_forms_again_without_seeds() {
    let mut stand = Stand::new().await;
    stand.forget_seeds();
    for host in &mut stand.mesh.hosts {
        host.kill().await;
    }
    let [formed, back, same] = stand.forms_again([2, 0, 1]).await;
    figure("a mesh of which all died has formed after the last start", formed);
    figure("its registrations are back after that", back);
    figure("it holds one view after that", same);
    let load = Load::start(Plan::new(stand.here));
    stand.more(&load, 50).await;
    let report = load.stop().await;
    assert!(report.failures.is_empty(), "{:?}", report.failures);
}

#[tokio::test]
async fn a_mesh_of_which_all_agents_ended_in_order_forms_again_without_seeds() {
    let mut stand = Stand::new().await;
    stand.forget_seeds();
    // All at once, so that each knows the others for left.
    for host in &mut stand.mesh.hosts {
        host.agent().terminate();
    }
    for host in &mut stand.mesh.hosts {
        let status = host.agent().wait(Duration::from_secs(15)).await;
        assert_eq!(status.code(), Some(0));
    }
    let [formed, back, _] = stand.forms_again([1, 2, 0]).await;
    figure("a mesh of which all ended in order has formed after the last start", formed);
    figure("its registrations are back after that", back);

    // One after the other, so that the last has nobody else.
    for n in [0, 1, 2] {
        stand.mesh[n].stop(Duration::from_secs(15)).await;
    }
    stand.forms_again([2, 0, 1]).await;
}
