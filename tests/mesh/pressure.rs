//! Under load by `wrk`: sick endpoints, canaries, and a restart of every agent, with no request
//! lost that need not be.

use std::{net::SocketAddr, process::Stdio, time::Duration};

use skein_tests::{
    figure::{count, figure},
    manifest::agent,
    mesh::Mesh,
    process::Process,
    wait::until,
    web::{Answer, Web},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::Command,
};

use crate::{
    foreign::{python, script},
    http::Stand,
};

const SOON: Duration = Duration::from_secs(20);

/// What wrk saw.
#[derive(Debug)]
struct Seen {
    requests: u64,
    /// Statuses other than 2xx and 3xx, and errors of sockets.
    failed: u64,
    p99: Duration,
    text: String,
}

/// Load of a few connections for so many seconds, with a script for the headers.
async fn wrk(target: SocketAddr, seconds: u32, path: &str) -> Seen {
    let run = Command::new("wrk")
        .args(["-t1", "-c8", "--latency", "--timeout", "5s", &format!("-d{seconds}s")])
        .arg(format!("http://{target}{path}"))
        .kill_on_drop(true)
        .output()
        .await
        .expect("wrk");
    let text = String::from_utf8_lossy(&run.stdout).into_owned();
    parse(text)
}

fn parse(text: String) -> Seen {
    let field = |start: &str| text.lines().find_map(|line| line.trim().strip_prefix(start));
    let statuses = field("Non-2xx or 3xx responses: ").map_or(0, |n| n.parse().expect("a count"));
    let sockets: u64 = field("Socket errors: ").map_or(0, |line| {
        let numbers = line.split([' ', ',']).filter_map(|word| word.parse::<u64>().ok());
        numbers.sum()
    });
    let total = text.lines().find(|line| line.contains(" requests in ")).expect("a total");
    let requests = total.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a count");
    let p99 = field("99%").map(str::trim).map(duration).unwrap_or_default();
    Seen { requests, failed: statuses + sockets, p99, text }
}

fn duration(text: &str) -> Duration {
    let end = text.find(|c: char| c.is_alphabetic()).expect("a unit");
    let number: f64 = text[..end].parse().expect("a number");
    Duration::from_secs_f64(match &text[end..] {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        _ => number,
    })
}

#[tokio::test]
#[ignore = "needs wrk"]
async fn one_of_three_answers_500_and_another_hangs_and_nobody_sees_it_for_long() {
    let stand = Stand::new(3, "http").await;
    stand
        .apply(&[
            "type: Retry, attempts: 2, on: [5xx, timeout, reset], perTryTimeout: 250ms",
            "type: Eject, consecutive: 3, maxPercent: 67, baseTime: 1s",
        ])
        .await;
    let healthy = wrk(stand.here, 4, "/healthy").await;
    assert_eq!(healthy.failed, 0, "{}", healthy.text);
    stand.webs[0].answers(Answer::Status(500));
    stand.webs[1].answers(Answer::Never);
    let first = wrk(stand.here, 5, "/first").await;
    stand.forget();
    let then = wrk(stand.here, 5, "/then").await;
    println!("healthy {healthy:?}\nthe first 5 s {first:?}\nthen {then:?}");
    count(
        "one 500, one hangs: failed of 100,000, first 5 s",
        first.failed * 100_000 / first.requests.max(1),
    );
    count(
        "one 500, one hangs: failed of 100,000, then",
        then.failed * 100_000 / then.requests.max(1),
    );
    figure("three healthy: p99", healthy.p99);
    figure("one 500, one hangs: p99 after 5 s", then.p99);
    assert!(then.failed * 1_000 < then.requests, "{}", then.text);
    let counts = stand.counts();
    assert!(counts[0] + counts[1] > 0, "the sick ones are probed: {counts:?}");
    assert!((counts[0] + counts[1]) * 20 < counts[2], "and no more than that: {counts:?}");
    stand.webs.iter().for_each(|web| web.answers(Answer::Name));
    until(Duration::from_secs(30), "both are back", async || {
        stand.forget();
        wrk(stand.here, 1, "/back").await;
        let counts = stand.counts();
        counts.iter().all(|one| *one > 10).then_some(()).ok_or_else(|| format!("{counts:?}"))
    })
    .await;
}

#[tokio::test]
#[ignore = "needs wrk"]
async fn a_canary_goes_to_all_under_load_with_no_failed_request() {
    let stand = Stand::new(2, "http").await;
    let split = |new: u32| {
        format!(
            "type: Split, sticky: source, target: [{{subset: \"1\", weight: {}}}, \
             {{subset: \"2\", weight: {new}}}]",
            100 - new
        )
    };
    stand.apply(&[&split(0)]).await;
    let load = wrk(stand.here, 8, "/canary");
    let steps = async {
        for share in [1, 10, 50, 100] {
            tokio::time::sleep(Duration::from_secs(1)).await;
            stand.apply_text(&crate::http::policies(&[&split(share)])).await;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
        let at_all = stand.webs[0].count();
        tokio::time::sleep(Duration::from_secs(1)).await;
        (at_all, stand.webs[0].count())
    };
    let (seen, (at_all, later)) = tokio::join!(load, steps);
    assert_eq!(seen.failed, 0, "{}", seen.text);
    assert_eq!(at_all, later, "at 100 % nothing goes to the old version");
    assert!(stand.webs[1].count() > 0 && stand.webs[0].count() > 0);
    println!("{} requests, {} failed", seen.requests, seen.failed);
}

fn exposed(name: &str, port: u16, process: SocketAddr) -> String {
    let (address, target) = (process.ip(), process.port());
    format!(
        "apiVersion: skein/v1
kind: ServiceRegistry
metadata: {{name: {name}, namespace: shop}}
spec:
  ports: [{{name: http, port: {port}, targetPort: {target}, type: LoadBalancer}}]
  endpoints: [{{name: a, address: {address}, port: {target}}}]
  checks: []
"
    )
}

/// Every agent of three, one after the other, the gateway among them, whose socket systemd's
/// stand-in keeps: while wrk asks from outside, and a WebSocket is held that ends by itself.
#[tokio::test]
#[ignore = "needs wrk and the Python packages that .ci/test installs"]
async fn all_agents_restart_under_load_from_outside_and_no_request_fails() {
    const DOOR: u16 = 8090;
    let mut mesh = Mesh::of_hosts(3);
    for host in &mesh.hosts {
        let gateway = if host.name == "a" {
            "gateway: {ports: [8090, 8091], services: [shop/*]}"
        } else {
            "gateway: false"
        };
        host.manifest("agent.yaml", &agent(&[gateway, "drain: 12s"]));
    }
    mesh.form().await;
    let mut webs = Vec::new();
    for host in &mesh.hosts[1..] {
        let web = Web::start(host.ip, &host.name).await;
        host.manifest("web.yaml", &exposed("web", DOOR, web.address));
        webs.push(web);
    }
    // A WebSocket server on the second host only.
    let mut command = python();
    command.arg(script("ws_server.py")).arg(mesh[1].ip.to_string());
    let server = Process::start(command, &mesh.folder().join("server.log"));
    let (number, _) = until(SOON, "the server is ready", async || {
        let said = server.output();
        let number = said.lines().find_map(|line| line.strip_prefix("ready ")?.parse().ok());
        number.ok_or(said)
    })
    .await;
    let at = SocketAddr::new(mesh[1].ip, number);
    mesh[1].manifest("ws.yaml", &exposed("ws", 8091, at));
    // The gateway under one who keeps its socket.
    let ip = mesh[0].ip;
    mesh[0].stop(SOON).await;
    let holder = ["python3".to_owned(), script("hold_socket.py").display().to_string()];
    let watcher = [&holder[..], &[ip.to_string(), DOOR.to_string()]].concat();
    mesh[0].launch_under(&watcher);
    mesh[0].answers().await;
    let door = SocketAddr::new(ip, DOOR);
    until(SOON, "both instances answer at the door", async || {
        webs.iter().for_each(Web::forget);
        wrk(door, 1, "/begin").await;
        let counts: Vec<usize> = webs.iter().map(Web::count).collect();
        counts.iter().all(|one| *one > 0).then_some(()).ok_or_else(|| format!("{counts:?}"))
    })
    .await;

    let url = format!("ws://{ip}:8091/socket");
    let mut socket = python()
        .arg(script("ws_client.py"))
        .args(["hold", &url])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("a client");
    let mut said = BufReader::new(socket.stdout.take().expect("its output")).lines();
    assert_eq!(said.next_line().await.expect("a line").as_deref(), Some("open"));

    let mut load = Command::new("wrk")
        .args(["-t1", "-c8", "--latency", "--timeout", "5s", "-d120s", &format!("http://{door}/x")])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("wrk");
    let out = load.stdout.take().expect("its output");
    // The second host: its WebSocket is not cut while it drains, and ends by itself.
    mesh[1].agent().terminate();
    until(SOON, "it drains", async || {
        let log = mesh[1].log();
        log.contains("draining").then_some(()).ok_or(log)
    })
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut end = socket.stdin.take().expect("its input");
    end.write_all(b"\n").await.expect("told to end");
    let held = said.next_line().await.expect("a line").unwrap_or_default();
    assert!(held.starts_with("held ") && held.ends_with("closed 1000"), "{held:?}");
    mesh[1].agent().wait(SOON).await;
    mesh[1].start(&[]).await;
    mesh.all_alive(3, SOON).await;
    // The third.
    mesh[2].stop(SOON).await;
    mesh[2].start(&[]).await;
    mesh.all_alive(3, SOON).await;
    // The gateway.
    mesh[0].agent().terminate();
    until(SOON, "the gateway has started anew", async || {
        let log = mesh[0].log();
        (log.matches("holder: started").count() == 2).then_some(()).ok_or(log)
    })
    .await;
    mesh[0].answers().await;
    mesh.all_alive(3, SOON).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    // SIGINT: wrk tells what it saw so far.
    let id = load.id().and_then(|id| i32::try_from(id).ok()).expect("wrk runs");
    let pid = rustix::process::Pid::from_raw(id).expect("a process");
    rustix::process::kill_process(pid, rustix::process::Signal::INT).expect("told");
    let mut lines = BufReader::new(out).lines();
    let mut text = String::new();
    while let Some(line) = lines.next_line().await.expect("its output") {
        text += &line;
        text.push('\n');
    }
    let seen = parse(text);
    println!("{held}; {} requests, {} failed\n{}", seen.requests, seen.failed, seen.text);
    assert_eq!(seen.failed, 0, "{}", seen.text);
    assert!(seen.requests > 1_000, "{}", seen.text);
}
