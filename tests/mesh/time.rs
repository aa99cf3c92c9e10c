//! Certificates over weeks: the hosts' clocks are moved by Debian's libfaketime.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;
use skein_tests::{
    host::Host,
    load::{Load, Plan},
    manifest::{discovery, registry},
    mesh::Mesh,
    server::{Conduct, Server},
    wait::until,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const SOON: Duration = Duration::from_secs(30);
const HERE: u16 = 9080;
const PORT: u16 = 8080;

async fn echo(host: &Host) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(SocketAddr::new(host.ip, HERE)).await?;
    let mut answer = [0; 4];
    stream.write_all(b"ping").await?;
    stream.read_exact(&mut answer).await.map(drop)
}

async fn carried(host: &Host) {
    until(SOON, "a call is carried", async || echo(host).await.map_err(|e| e.to_string())).await;
}

async fn days_left(host: &Host, kind: &str) -> Result<i64, String> {
    let certs = host.try_json(&["certs"]).await?;
    let all = certs.as_array().cloned().unwrap_or_default();
    let found = all.iter().find(|one| one["kind"] == kind).cloned().unwrap_or_default();
    found["seconds_left"].as_i64().map(|s| s / 86_400).ok_or_else(|| certs.to_string())
}

/// Three hosts, of which only the first is an issuer; the third serves what the second calls.
async fn stand() -> (Mesh, Server) {
    let mut mesh = Mesh::of_hosts(3);
    mesh.form_with(&["--issuers", "1"]).await;
    let server = Server::start(mesh[2].ip, Conduct::Echo).await;
    mesh[2].manifest("echo.yaml", &registry("echo", PORT, server.address));
    mesh[1].manifest("use.yaml", &discovery("echo", HERE, PORT));
    carried(&mesh[1]).await;
    // Where the others are is written down within a minute and a half; `join` wrote the first.
    (mesh, server)
}

async fn all_end(mesh: &mut Mesh) {
    for host in &mut mesh.hosts {
        host.kill().await;
    }
}

#[tokio::test]
#[ignore = "needs Debian's faketime"]
async fn an_agent_that_slept_for_20_days_renews_by_itself_and_serves() {
    let (mut mesh, _server) = stand().await;
    all_end(&mut mesh).await;
    for host in &mut mesh.hosts {
        host.days_ahead = 20;
    }
    // The sleeper comes first, and waits for who can renew it.
    mesh[2].launch(&[]);
    until(SOON, "the sleeper says that it waits", async || {
        let log = mesh[2].log();
        log.contains("has ended and was not renewed").then_some(()).ok_or(log)
    })
    .await;
    mesh[0].start(&[]).await;
    mesh[2].answers().await;
    mesh[1].start(&[]).await;
    mesh.all_alive(3, SOON).await;
    carried(&mesh[1]).await;
    for host in &mesh.hosts {
        assert_eq!(days_left(host, "node").await, Ok(13), "{}", host.name);
    }
}

#[tokio::test]
#[ignore = "needs Debian's faketime"]
async fn without_an_issuer_all_serve_and_warn_and_recover_when_one_returns() {
    let (mut mesh, _server) = stand().await;
    all_end(&mut mesh).await;
    for host in &mut mesh.hosts {
        host.days_ahead = 12;
    }
    mesh[1].start(&[]).await;
    mesh[2].start(&[]).await;
    carried(&mesh[1]).await;
    for host in &mesh.hosts[1..] {
        let certs = host.run(&["certs"]).await;
        assert_eq!(certs.code(), 3, "{certs:?}");
        assert!(certs.out.contains("renews itself once an issuer is reached"), "{certs:?}");
        let status = host.run(&["status"]).await;
        assert_eq!(status.code(), 3, "{status:?}");
        assert!(status.out.contains("was not renewed"), "{status:?}");
    }
    mesh[0].start(&[]).await;
    for host in &mesh.hosts {
        until(SOON, "it has renewed", async || match days_left(host, "node").await? {
            13 => Ok(()),
            days => Err(format!("{}: {days} days", host.name)),
        })
        .await;
    }
    carried(&mesh[1]).await;
    let problems: Value = mesh[1].json(&["status"]).await["problems"].clone();
    assert!(!problems.to_string().contains("was not renewed"), "{problems}");
}

#[tokio::test]
#[ignore = "needs Debian's faketime"]
async fn the_first_host_lost_for_good_is_missed_by_nobody() {
    let mut mesh = Mesh::of_hosts(4);
    let newcomer = mesh.hosts.pop().expect("four hosts");
    mesh.form().await;
    let server = Server::start(mesh[2].ip, Conduct::Echo).await;
    mesh[2].manifest("echo.yaml", &registry("echo", PORT, server.address));
    mesh[1].manifest("use.yaml", &discovery("echo", HERE, PORT));
    carried(&mesh[1]).await;
    all_end(&mut mesh).await;
    mesh.hosts.remove(0);
    for host in &mut mesh.hosts {
        host.days_ahead = 10;
        host.start(&[]).await;
    }
    carried(&mesh[0]).await;
    for host in &mesh.hosts {
        until(SOON, "it has renewed", async || match days_left(host, "node").await? {
            13 => Ok(()),
            days => Err(format!("{}: {days} days", host.name)),
        })
        .await;
    }
    let token =
        mesh[1].json(&["token", "create", "--name", "*", "--service", "*/*"]).await["token"]
            .clone();
    let mut newcomer = newcomer;
    newcomer.days_ahead = 10;
    let token = [("SKEIN_TOKEN", token.as_str().expect("a token"))];
    let seed = mesh.mesh_address(0);
    let said = newcomer.run_with(&["join", &seed, "--name", "d"], &token).await;
    assert_eq!(said.code(), 0, "{said:?}");
    newcomer.start(&[]).await;
    mesh.hosts.push(newcomer);
    mesh.all_alive(3, SOON).await;
}

#[tokio::test]
async fn a_root_follows_on_another_and_no_connection_fails() {
    let mut mesh = Mesh::of_hosts(5);
    mesh.form_with(&["--issuers", "2"]).await;
    let server = Server::start(mesh[2].ip, Conduct::Echo).await;
    mesh[2].manifest("echo.yaml", &registry("echo", PORT, server.address));
    mesh[4].manifest("use.yaml", &discovery("echo", HERE, PORT));
    carried(&mesh[4]).await;
    let load = Load::start(Plan::new(SocketAddr::new(mesh[4].ip, HERE)));
    let root_of = async |host: &Host, kind: &str| -> Result<String, String> {
        let certs = host.try_json(&["certs"]).await?;
        let all = certs.as_array().cloned().unwrap_or_default();
        let found = all.iter().find(|one| one["kind"] == kind).cloned().unwrap_or_default();
        Ok(found["root"].as_str().unwrap_or_default().to_owned())
    };
    let before = root_of(&mesh[0], "node").await.expect("a root");

    // With one away nothing uses the new root.
    mesh[3].kill().await;
    until(SOON, "it is missed", async || {
        let status = mesh[0].try_json(&["status"]).await?;
        (status["members"]["dead"] == 1).then_some(()).ok_or_else(|| status.to_string())
    })
    .await;
    let partly = mesh[0].run(&["root", "rotate", "--wait", "2s"]).await;
    assert_eq!(partly.code(), 3, "{partly:?}");
    assert!(partly.out.contains("trusted on 4/4 nodes, not on d"), "{partly:?}");
    assert_eq!(root_of(&mesh[0], "issuer").await, Ok(before.clone()));
    mesh[3].start(&[]).await;
    mesh.all_alive(5, SOON).await;
    let said = mesh[0].cli(&["root", "rotate"]).await;
    assert!(said.out.contains("trusted on 5/5 nodes"), "{said:?}");
    let key = mesh[0].dir.join("root.key").display().to_string();
    until(SOON, "the first issuer is under the new root, and its host too", async || {
        let (issuer, node) = (root_of(&mesh[0], "issuer").await?, root_of(&mesh[0], "node").await?);
        let done = issuer != before && node == issuer;
        done.then_some(()).ok_or_else(|| format!("{before} {issuer} {node}"))
    })
    .await;
    // While one is under the first root, that is not dropped.
    let too_soon = mesh[0].run(&["root", "drop"]).await;
    let said = too_soon.err.contains("still use the old root");
    assert!(too_soon.code() == 1 && said, "{too_soon:?}");
    mesh[1].cli(&["issuer", "renew", "--root", &key]).await;
    let newest = root_of(&mesh[0], "node").await.expect("a root");
    until(SOON, "the second too", async || {
        let node = root_of(&mesh[1], "node").await?;
        (node == newest).then_some(()).ok_or(node)
    })
    .await;
    // Who is certified by the one root and who by the other still meet.
    for n in [1, 3] {
        mesh[n].kill().await;
        mesh[n].start(&[]).await;
    }
    mesh.all_alive(5, SOON).await;
    // Who issues nothing follows by itself; then the first root is dropped, and all go on.
    for n in [2, 3, 4] {
        until(SOON, "certified under the newest root", async || {
            let node = root_of(&mesh[n], "node").await?;
            (node == newest).then_some(()).ok_or(node)
        })
        .await;
    }
    until(SOON, "and all know that of all", async || {
        let said = mesh[0].run(&["root", "drop", "--dry-run"]).await;
        let still = said.err.contains("out of the mesh without it");
        (said.code() == 4 && !still).then_some(()).ok_or_else(|| format!("{said:?}"))
    })
    .await;
    let old = mesh[0].dir.join("root.key.old-1").display().to_string();
    let by_itself = mesh[0].run(&["root", "drop", "--root", &old]).await;
    assert_eq!(by_itself.code(), 1, "an old root cannot end a root: {by_itself:?}");
    let said = mesh[0].cli(&["root", "drop"]).await;
    assert!(said.out.contains("in force on 5/5 nodes"), "{said:?}");
    assert_eq!(mesh[0].run(&["root", "drop"]).await.code(), 1, "there is none left to drop");
    for n in [1, 3] {
        mesh[n].kill().await;
        mesh[n].start(&[]).await;
    }
    mesh.all_alive(5, SOON).await;
    let report = load.stop().await;
    assert!(report.failures.is_empty(), "{:?}", report.failures.first());
    assert!(report.took.len() > 100);
}

#[tokio::test]
async fn a_host_becomes_an_issuer_with_the_root_at_hand() {
    let mut mesh = Mesh::of_hosts(2);
    mesh.form_with(&["--issuers", "1"]).await;
    let status = mesh[1].json(&["status"]).await;
    assert_eq!(status["issuers"], 1, "{status}");
    assert!(status["problems"].to_string().contains("skein issuer add"), "{status}");
    let without = mesh[1].run(&["issuer", "add"]).await;
    assert!(without.code() == 1 && without.err.contains("root's key"), "{without:?}");
    let twice = mesh[0].run(&["issuer", "add"]).await;
    assert!(twice.code() == 1 && twice.err.contains("skein issuer renew"), "{twice:?}");
    let root = mesh[0].dir.join("root.key").display().to_string();
    mesh[1].cli(&["issuer", "add", "--root", &root]).await;
    for host in &mesh.hosts {
        until(SOON, "everybody knows of two issuers", async || {
            let status = host.try_json(&["status"]).await?;
            (status["issuers"] == 2).then_some(()).ok_or_else(|| status.to_string())
        })
        .await;
    }
    // It issues: a token of its own lets a third host in.
    mesh[1].cli(&["token", "create", "--name", "*"]).await;
    mesh[0].cli(&["issuer", "renew"]).await;
}
