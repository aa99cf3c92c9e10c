//! What a host did last is known after a restart of its agent.

use std::{net::SocketAddr, time::Duration};

use skein_tests::{
    host::{Host, Said},
    manifest::registry,
    mesh::Mesh,
    server::{Conduct, Server},
    wait::until,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const PORT: u16 = 8080;
const WEB: u16 = 9080;
const SOON: Duration = Duration::from_secs(10);

const USE: &str = "apiVersion: skein/v1
kind: ServiceDiscovery
metadata: {name: checkout-as-web, namespace: shop}
spec:
  service: shop/checkout
  source: shop/web
  ports: [{name: tcp, port: 9080, targetPort: 8080}]
";

const CLOSED: &str = "apiVersion: skein/v1
kind: AccessPolicy
metadata: {name: callers, namespace: shop}
spec:
  destination: checkout
  action: allow
  from: [{service: shop/other}]
";

/// Two hosts: the first serves checkout, the second calls it as web.
async fn stand() -> (Mesh, Server) {
    let mut mesh = Mesh::start(2).await;
    let server = Server::start(mesh[0].ip, Conduct::Echo).await;
    mesh[0].manifest("checkout.yaml", &registry("checkout", PORT, server.address));
    mesh[1].manifest("web.yaml", USE);
    carried(&mut mesh[1]).await;
    (mesh, server)
}

async fn echo(target: SocketAddr) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(target).await?;
    let mut answer = [0; 4];
    stream.write_all(b"ping").await?;
    match timeout(Duration::from_secs(3), stream.read_exact(&mut answer)).await {
        Ok(read) => read.map(drop),
        Err(_) => Err(std::io::Error::other("no echo within 3 s")),
    }
}

async fn carried(host: &mut Host) {
    let what = format!("a call of {} is carried", host.name);
    let at = SocketAddr::new(host.ip, WEB);
    until(SOON, &what, async || echo(at).await.map_err(|error| error.to_string())).await;
}

/// Applies what closes checkout to web, without a word about cuts.
async fn close(host: &Host) -> Said {
    apply(host, CLOSED).await
}

async fn apply(host: &Host, text: &str) -> Said {
    let file = host.manifests.with_extension("policy.yaml");
    std::fs::write(&file, text).expect("a document");
    let key = host.dir.join("person/skein/operator.key").display().to_string();
    host.run(&["apply", "--as", &key, "-f", &file.display().to_string()]).await
}

async fn restart(host: &mut Host) {
    host.stop(Duration::from_secs(20)).await;
    host.start(&[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_guard_of_apply_knows_after_a_restart_who_called_before_it() {
    let (mut mesh, _server) = stand().await;
    restart(&mut mesh[0]).await;
    let said = close(&mesh[0]).await;
    assert_eq!(said.code(), 1, "{said:?}");
    assert!(said.err.contains("this would cut 1 edge"), "{said:?}");
    // Killed, what was called a moment before is on disk as well.
    let edges = mesh[0].json(&["policy", "edges"]).await;
    assert!(edges["edges"].to_string().contains("shop/checkout"), "{edges}");
    mesh[0].kill().await;
    mesh[0].start(&[]).await;
    let said = close(&mesh[0]).await;
    assert!(said.code() == 1 && said.err.contains("this would cut 1 edge"), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_forgot_who_called_it_keeps_a_rule_from_closing_what_it_may_cut() {
    let (mut mesh, _server) = stand().await;
    mesh[0].stop(Duration::from_secs(20)).await;
    std::fs::remove_file(mesh[0].dir.join("state.redb")).expect("the state to lose");
    mesh[0].start(&[]).await;
    mesh.all_alive(2, SOON).await;
    let said = close(&mesh[0]).await;
    assert_eq!(said.code(), 1, "{said:?}");
    assert!(said.err.contains("a knows calls only since"), "{said:?}");
    assert!(said.err.contains("nothing was changed") && said.err.contains("--cut"), "{said:?}");
    // What closes nothing goes through.
    let open = CLOSED.replace("action: allow", "mode: audit\n  action: allow");
    let said = apply(&mesh[0], &open).await;
    assert_eq!(said.code(), 0, "{said:?}");
}
