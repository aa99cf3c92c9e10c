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

/// The status and the reason of checkout's only endpoint, as a host sees it.
async fn endpoint(host: &Host) -> Result<(String, String), String> {
    let service = host.try_json(&["service", "shop/checkout"]).await?;
    let one = &service["endpoints"][0];
    let text = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
    Ok((text("status"), text("note")))
}

#[tokio::test(flavor = "multi_thread")]
async fn maintenance_and_its_reason_last_over_a_restart_and_are_seen_everywhere() {
    let (mut mesh, _server) = stand().await;
    let on = ["maintenance", "on", "shop/checkout", "--reason", "kernel update"];
    let said = mesh[0].cli(&on).await;
    assert!(said.out.contains("set aside here (kernel update): shop/checkout"), "{said:?}");
    restart(&mut mesh[0]).await;
    let wanted = ("maintenance".to_owned(), "kernel update".to_owned());
    for host in [0, 1] {
        until(SOON, "the reason is seen", async || match endpoint(&mesh[host]).await? {
            found if found == wanted => Ok(()),
            found => Err(format!("{found:?}")),
        })
        .await;
    }
    let table = mesh[1].cli(&["service", "shop/checkout"]).await.out;
    assert!(table.contains("maintenance: kernel update"), "{table}");
    let status = mesh[0].json(&["status"]).await["problems"].to_string();
    assert!(status.contains("shop/checkout is in maintenance (kernel update)"), "{status}");
    let registry = ["describe", "ServiceRegistry", "shop/checkout"];
    let described = mesh[0].cli(&registry).await.out;
    assert!(described.contains("maintenance: kernel update"), "{described}");
    let said = mesh[0].cli(&["maintenance", "off", "shop/checkout"]).await;
    assert!(said.out.contains("in use again here"), "{said:?}");
    carried(&mut mesh[1]).await;
    // A drain of the whole host as well.
    mesh[0].cli(&["drain", "--wait", "0s", "--reason", "to be replaced"]).await;
    restart(&mut mesh[0]).await;
    let status = mesh[0].json(&["status"]).await;
    assert_eq!(status["node"]["state"], "draining", "{status}");
    assert!(status["problems"].to_string().contains("to be replaced"), "{status}");
    let said = mesh[0].cli(&["drain", "--undo"]).await;
    assert!(said.out.contains("takes calls again"), "{said:?}");
    carried(&mut mesh[1]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_left_comes_back_only_when_it_is_told_to() {
    let mut mesh = Mesh::start(2).await;
    mesh[1].cli(&["leave"]).await;
    mesh[1].agent().wait(SOON).await;
    // What a supervisor does: start it again.
    mesh[1].launch(&[]);
    let ended = mesh[1].agent().wait(SOON).await;
    assert_eq!(ended.code(), Some(5), "{}", mesh[1].log());
    assert!(mesh[1].log().contains("has left its mesh"), "{}", mesh[1].log());
    let unit = include_str!("../../configs/systemd/skein.service");
    assert!(unit.contains("RestartPreventExitStatus=5"), "the unit keeps to it");
    let seed = mesh.mesh_address(0);
    let said = mesh[1].cli(&["join", &seed]).await;
    assert!(said.out.contains("is back"), "{said:?}");
    mesh[1].start(&[]).await;
    mesh.all_alive(2, SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_the_next_start_needs_and_that_are_gone_are_told_at_once() {
    let mesh = Mesh::start(1).await;
    let files = async || {
        let status = mesh[0].try_json(&["status"]).await?;
        let problems = status["problems"].as_array().cloned().unwrap_or_default();
        let of = problems.iter().filter(|one| one["kind"] == "files");
        Ok::<_, String>(of.map(|one| one["text"].to_string()).collect::<Vec<_>>().join("\n"))
    };
    assert_eq!(files().await, Ok(String::new()));
    let chain = mesh[0].dir.join("node.pem");
    let whole = std::fs::read(&chain).expect("the certificate");
    std::fs::remove_file(&chain).expect("the certificate to lose");
    std::fs::remove_file(mesh[0].dir.join("node.key")).expect("the key to lose");
    until(SOON, "both are told", async || {
        let told = files().await?;
        let both = told.contains("node.pem is gone") && told.contains("node.key is gone");
        both.then_some(()).ok_or(told)
    })
    .await;
    std::fs::write(&chain, whole).expect("the certificate back");
    until(SOON, "the certificate is back", async || {
        let told = files().await?;
        (!told.contains("node.pem")).then_some(()).ok_or(told)
    })
    .await;
}

/// A damaged page of the state file ends no agent: it is put aside and told, the host waits for the
/// mesh's policy and serves again.
#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_state_file_is_put_aside_and_the_host_is_back() {
    let (mut mesh, _server) = stand().await;
    for (round, noise) in [0u8, 0xa5, 0xff].into_iter().enumerate() {
        mesh[0].stop(Duration::from_secs(20)).await;
        let state = mesh[0].dir.join("state.redb");
        let mut bytes = std::fs::read(&state).expect("the state");
        let used = bytes.iter().rposition(|byte| *byte != 0).expect("a state that is not empty");
        let (from, to) = (used / 3 / 4096 * 4096, used);
        bytes[from..to].iter_mut().for_each(|byte| *byte ^= noise | 1);
        std::fs::write(&state, bytes).expect("a damaged state");
        mesh[0].start(&[]).await;
        let told = mesh[0].json(&["status"]).await["problems"].to_string();
        assert!(told.contains("was put aside as"), "round {round}: {told}");
        carried(&mut mesh[1]).await;
    }
    assert!(!mesh[0].log().contains("panicked"), "{}", mesh[0].log());
}
