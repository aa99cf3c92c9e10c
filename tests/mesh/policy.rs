//! Access policy on whole agents: signed, spread, decided where the service is, cut where it was
//! open, and told to people on both sides.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde_json::Value;
use skein_tests::{
    figure::figure,
    host::{Host, Said},
    load::{Load, Plan},
    manifest::registry,
    mesh::Mesh,
    namespace::Lab,
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
const BATCH: u16 = 9081;
const SOON: Duration = Duration::from_secs(10);

/// A way to shop/`service` on which callers count as shop/`source`.
fn discovery(service: &str, source: &str, here: u16) -> String {
    format!(
        "apiVersion: skein/v1
kind: ServiceDiscovery
metadata: {{name: {service}-as-{source}, namespace: shop}}
spec:
  service: shop/{service}
  source: shop/{source}
  ports: [{{name: tcp, port: {here}, targetPort: {PORT}}}]
"
    )
}

fn allow(name: &str, service: &str, sources: &[&str]) -> String {
    let from: String = sources.iter().map(|s| format!("  - {{service: shop/{s}}}\n")).collect();
    format!(
        "apiVersion: skein/v1
kind: AccessPolicy
metadata: {{name: {name}, namespace: shop}}
spec:
  destination: {service}
  action: allow
  from:
{from}"
    )
}

async fn ask(target: SocketAddr) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect(target).await?;
    echo(&mut stream).await?;
    Ok(stream)
}

async fn echo(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut answer = [0; 4];
    stream.write_all(b"ping").await?;
    match timeout(Duration::from_secs(3), stream.read_exact(&mut answer)).await {
        Ok(read) => read.map(drop),
        Err(_) => Err(std::io::Error::other("no echo within 3 s")),
    }
}

fn at(host: &Host, port: u16) -> SocketAddr {
    SocketAddr::new(host.ip, port)
}

async fn carried(host: &Host, port: u16) {
    let what = format!("a call on port {port} of {} is carried", host.name);
    until(SOON, &what, async || ask(at(host, port)).await.map(drop).map_err(|e| e.to_string()))
        .await;
}

async fn refused(host: &Host, port: u16, limit: Duration) -> Duration {
    let what = format!("a call on port {port} of {} is refused", host.name);
    let ((), took) = until(limit, &what, async || match ask(at(host, port)).await {
        Ok(_) => Err("it was carried".to_owned()),
        Err(_) => Ok(()),
    })
    .await;
    took
}

/// Three hosts; the first has the operator's key and serves checkout, the others call it as web
/// and as batch.
async fn stand() -> (Mesh, Server) {
    let mut mesh = Mesh::of_hosts(3);
    mesh.form().await;
    let server = Server::start(mesh[0].ip, Conduct::Echo).await;
    mesh[0].manifest("checkout.yaml", &registry("checkout", PORT, server.address));
    for n in [1, 2] {
        mesh[n].manifest("web.yaml", &discovery("checkout", "web", WEB));
        mesh[n].manifest("batch.yaml", &discovery("checkout", "batch", BATCH));
        carried(&mesh[n], WEB).await;
        carried(&mesh[n], BATCH).await;
    }
    (mesh, server)
}

fn key(mesh: &Mesh) -> String {
    mesh[0].dir.join("person/skein/operator.key").display().to_string()
}

/// `skein` with these arguments, and a document in a file.
async fn with_file(host: &Host, text: &str, arguments: &[&str]) -> Said {
    let file = host.dir.join("document.yaml");
    std::fs::write(&file, text).expect("a document");
    let file = file.display().to_string();
    let mut all = arguments.to_vec();
    all.extend(["-f", &file]);
    host.run(&all).await
}

/// Applies what cuts calls that were seen just now.
async fn cut(host: &Host, text: &str, key: &str) -> Said {
    let said = with_file(host, text, &["apply", "--cut", "--wait", "--as", key]).await;
    assert_eq!(said.code(), 0, "{}: {said:?}", host.name);
    said
}

async fn apply(host: &Host, text: &str, key: &str) -> Said {
    let said = with_file(host, text, &["apply", "--wait", "--as", key]).await;
    assert_eq!(said.code(), 0, "{}: {said:?}", host.name);
    said
}

async fn roots(mesh: &Mesh) -> Result<Vec<String>, String> {
    let mut roots = Vec::new();
    for host in &mesh.hosts {
        let status = host.try_json(&["status"]).await?;
        roots.push(status["policy"]["root"].to_string());
    }
    Ok(roots)
}

async fn one_policy(mesh: &Mesh, limit: Duration) -> Duration {
    let ((), took) = until(limit, "all agents hold one policy", async || {
        let roots = roots(mesh).await?;
        let same = roots.windows(2).all(|pair| pair[0] == pair[1]);
        same.then_some(()).ok_or_else(|| format!("{roots:?}"))
    })
    .await;
    took
}

#[tokio::test]
async fn who_is_not_allowed_is_refused_everywhere_and_cut_and_everybody_is_told_why() {
    let (mesh, _server) = stand().await;
    let key = key(&mesh);
    let mut open = ask(at(&mesh[1], BATCH)).await.expect("an open connection of batch");
    let mut kept = ask(at(&mesh[1], WEB)).await.expect("an open connection of web");

    // From a host that does not serve it, by whoever has the key there.
    let began = Instant::now();
    let said = cut(&mesh[2], &allow("callers", "checkout", &["web"]), &key).await;
    assert!(said.out.contains("AccessPolicy shop/callers created"), "{said:?}");
    assert!(said.out.contains("visible on 3/3 nodes"), "{said:?}");
    let applied = began.elapsed();
    let mut byte = [0];
    let ended = timeout(Duration::from_secs(5), open.read(&mut byte)).await.expect("it is cut");
    assert!(!matches!(ended, Ok(1)), "nothing was sent to it");
    figure("an open connection is cut, from `skein apply` on", began.elapsed());
    for n in [1, 2] {
        refused(&mesh[n], BATCH, Duration::from_secs(10)).await;
    }
    figure("a call is refused on all, from `skein apply` on", began.elapsed());
    figure("`skein apply --wait` of a policy on three agents", applied);
    echo(&mut kept).await.expect("web's connection goes on");
    carried(&mesh[1], WEB).await;

    let log = |n: usize| mesh[n].log();
    for (n, side) in [(1, "outbound"), (0, "inbound")] {
        until(SOON, "both sides log the document's name", async || {
            let found = log(n).lines().any(|line| {
                line.contains(side)
                    && line.contains("denied")
                    && line.contains("AccessPolicy shop/callers")
                    && line.contains("shop/batch")
            });
            found.then_some(()).ok_or_else(|| log(n))
        })
        .await;
    }
    let why = mesh[1].run(&["why", "--from", "shop/batch", "shop/checkout"]).await;
    assert_eq!(why.code(), 1, "{why:?}");
    assert!(why.out.contains("FAIL policy"), "{why:?}");
    assert!(why.out.contains("AccessPolicy shop/callers"), "{why:?}");
    let why = mesh[1].run(&["why", "--from", "shop/web", "shop/checkout"]).await;
    assert_eq!(why.code(), 0, "{why:?}");
    let status = mesh[1].json(&["policy", "status"]).await;
    assert_eq!((&status["agreeing"], &status["of"]), (&3.into(), &3.into()), "{status}");
}

#[tokio::test]
async fn policy_outlives_the_end_of_every_agent_and_a_deletion_lifts_it() {
    let (mut mesh, _server) = stand().await;
    let key = key(&mesh);
    cut(&mesh[0], &allow("callers", "checkout", &["web"]), &key).await;
    refused(&mesh[1], BATCH, SOON).await;
    let before = roots(&mesh).await.expect("roots");
    for n in 0..3 {
        mesh[n].kill().await;
    }
    for n in 0..3 {
        mesh[n].start(&[]).await;
    }
    mesh.all_alive(3, Duration::from_secs(20)).await;
    assert_eq!(roots(&mesh).await.expect("roots"), before);
    carried(&mesh[1], WEB).await;
    assert!(ask(at(&mesh[1], BATCH)).await.is_err(), "no moment without the policy");

    let shown = mesh[2].json(&["get", "access"]).await;
    assert_eq!(shown[0]["name"], "callers", "{shown}");
    assert_eq!(shown[0]["source"], "operator:operator", "{shown}");
    let again = with_file(&mesh[0], &allow("callers", "checkout", &["web"]), &["diff"]).await;
    assert_eq!(again.code(), 0, "the same is no change: {again:?}");
    let said = mesh[2].cli(&["delete", "access", "shop/callers", "--as", &key]).await;
    assert!(said.out.contains("deleted"), "{said:?}");
    carried(&mesh[1], BATCH).await;
}

#[tokio::test]
async fn default_deny_is_rolled_out_without_losing_a_call() {
    let (mesh, server) = stand().await;
    let key = key(&mesh);
    mesh[1].manifest(
        "db.yaml",
        &registry("db", PORT, server.address).replace("endpoints:", "external: true\n  endpoints:"),
    );
    mesh[2].manifest("use-db.yaml", &discovery("db", "checkout", 9082));
    carried(&mesh[2], 9082).await;
    let edges = [at(&mesh[1], WEB), at(&mesh[2], BATCH), at(&mesh[2], 9082)];
    let loads: Vec<Load> = edges
        .iter()
        .map(|target| Load::start(Plan { every: Duration::from_millis(20), ..Plan::new(*target) }))
        .collect();

    mesh[0].cli(&["policy", "default", "deny", "--audit", "--as", &key]).await;
    let would = until(SOON, "three edges would be cut", async || {
        let edges = mesh[1].try_json(&["policy", "edges", "--would-deny"]).await?;
        let names = edges["edges"].as_array().cloned().unwrap_or_default();
        let mut pairs: Vec<String> = names
            .iter()
            .map(|edge| {
                let text = |key: &str| edge[key].as_str().unwrap_or_default().to_owned();
                format!("{}>{}", text("source"), text("destination"))
            })
            .collect();
        pairs.sort();
        pairs.dedup();
        let all = ["shop/batch>shop/checkout", "shop/checkout>shop/db", "shop/web>shop/checkout"];
        (pairs == all).then_some(()).ok_or_else(|| format!("{pairs:?}"))
    });
    would.await;
    let allows = mesh[1].cli(&["policy", "edges", "--would-deny", "-o", "yaml"]).await.out;
    apply(&mesh[0], &allows, &key).await;
    let none = mesh[1].json(&["policy", "edges", "--would-deny"]).await;
    assert_eq!(none["edges"], Value::Array(Vec::new()), "{none}");
    mesh[0].cli(&["policy", "default", "deny", "--as", &key]).await;
    one_policy(&mesh, SOON).await;
    // Under the new rules for a while: 50 calls an edge.
    let target: Vec<u64> = loads.iter().map(|load| load.begun() + 50).collect();
    until(SOON, "the load goes on", async || {
        let done = loads.iter().zip(&target).all(|(load, target)| load.begun() >= *target);
        done.then_some(()).ok_or_else(String::new)
    })
    .await;

    // What would cut a live edge is listed, and changes nothing.
    let before = roots(&mesh).await.expect("roots");
    let narrow = allow("checkout-callers", "checkout", &["web"]);
    let said = with_file(&mesh[0], &narrow, &["apply", "--as", &key]).await;
    assert_eq!(said.code(), 1, "{said:?}");
    assert!(said.err.contains("shop/batch"), "{said:?}");
    assert!(said.err.contains("would cut") && said.err.contains("--cut"), "{said:?}");
    assert_eq!(roots(&mesh).await.expect("roots"), before);
    for load in loads {
        let report = load.stop().await;
        assert!(report.failures.is_empty(), "{:?}", report.failures.first());
        assert!(report.took.len() > 50);
    }
    let said = with_file(&mesh[0], &narrow, &["apply", "--cut", "--wait", "--as", &key]).await;
    assert_eq!(said.code(), 0, "{said:?}");
    refused(&mesh[2], BATCH, SOON).await;
}

#[tokio::test]
async fn a_mesh_of_which_every_disk_is_lost_comes_up_from_its_backup() {
    let (mut mesh, server) = stand().await;
    let folder = mesh.folder().to_owned();
    let path = |name: &str| folder.join(name).display().to_string();
    std::fs::copy(key(&mesh), path("operator.key")).expect("the operator's key");
    let certificate = key(&mesh).replace(".key", ".pem");
    std::fs::copy(certificate, path("operator.pem")).expect("its certificate");
    cut(&mesh[0], &allow("callers", "checkout", &["web"]), &path("operator.key")).await;
    mesh[0].cli(&["backup", &path("all.json")]).await;
    mesh[0].cli(&["backup", &path("bare.json"), "--without-root"]).await;
    let before = mesh[0].json(&["status"]).await;

    for host in &mut mesh.hosts {
        host.kill().await;
        std::fs::remove_dir_all(&host.dir).expect("its disk");
        std::fs::create_dir(&host.dir).expect("another disk");
    }
    let no_root = mesh[0].run(&["init", "--from", &path("bare.json"), "--name", "a"]).await;
    assert!(no_root.code() == 1 && no_root.err.contains("--root FILE"), "{no_root:?}");
    std::fs::write(folder.join("bad.json"), "{}").expect("a file");
    let bad = mesh[0].run(&["init", "--from", &path("bad.json"), "--name", "a"]).await;
    assert!(bad.code() == 1 && bad.err.contains("no backup"), "{bad:?}");
    // The documents come from the backup of their own, once the mesh stands.
    let text = std::fs::read_to_string(folder.join("all.json")).expect("the backup");
    let mut all: Value = serde_json::from_str(&text).expect("JSON");
    all["documents"] = Value::Array(Vec::new());
    std::fs::write(folder.join("none.json"), all.to_string()).expect("a file");
    for (from, adopt) in [("all.json", false), ("none.json", true)] {
        let said =
            mesh[0].cli(&["init", "--from", &path(from), "--name", "a", "--service", "*/*"]).await;
        let token = skein_tests::mesh::token_in(&said.out).expect("a token");
        mesh[0].start(&[]).await;
        let seed = mesh.mesh_address(0);
        for host in &mut mesh.hosts[1..] {
            let token = [("SKEIN_TOKEN", token.as_str())];
            let said = host.run_with(&["join", &seed, "--name", &host.name], &token).await;
            assert_eq!(said.code(), 0, "{said:?}");
            host.start(&[]).await;
        }
        mesh.all_alive(3, Duration::from_secs(20)).await;
        if adopt {
            carried(&mesh[1], BATCH).await;
            let said = mesh[2].cli(&["policy", "adopt", &path("all.json")]).await;
            assert!(said.out.contains("visible on 3/3 nodes"), "{said:?}");
        }
        refused(&mesh[1], BATCH, SOON).await;
        carried(&mesh[1], WEB).await;
        one_policy(&mesh, SOON).await;
        let after = mesh[1].json(&["status"]).await;
        assert_eq!(after["mesh"], before["mesh"]);
        assert_eq!(after["policy"]["root"], before["policy"]["root"], "the very same documents");
        for host in &mut mesh.hosts {
            host.kill().await;
            std::fs::remove_dir_all(&host.dir).expect("its disk");
            std::fs::create_dir(&host.dir).expect("another disk");
        }
    }
    drop(server);
}

#[tokio::test]
async fn what_may_not_be_signed_or_is_signed_wrongly_is_refused_and_changes_nothing() {
    let (mesh, _server) = stand().await;
    let (stranger, own) = (Mesh::start(1).await, key(&mesh));
    let document = allow("callers", "checkout", &["web"]);
    let before = roots(&mesh).await.expect("roots");

    let said = with_file(&mesh[1], &document, &["apply", "--cut"]).await;
    assert_eq!(said.code(), 1, "{said:?}");
    assert!(said.err.contains("operator's key") && said.err.contains("--as"), "{said:?}");
    let foreign = key(&stranger);
    let said = with_file(&mesh[1], &document, &["apply", "--cut", "--as", &foreign]).await;
    assert_eq!(said.code(), 1, "{said:?}");
    assert!(said.err.contains("not taken"), "{said:?}");
    let wide = "apiVersion: skein/v1\nkind: AccessPolicy\nmetadata: {name: no, namespace: shop}\n\
                spec: {destination: \"*\", action: deny}\n";
    let said = with_file(&mesh[0], wide, &["apply", "--as", &own]).await;
    assert!(said.code() == 1 && said.err.contains("default: deny"), "{said:?}");
    let http = document.replace("  from:", "  to: [{methods: [GET]}]\n  from:");
    let said = with_file(&mesh[0], &http, &["apply", "--as", &own]).await;
    assert!(said.code() == 1 && said.err.contains("carried as bytes"), "{said:?}");
    assert!(said.err.contains("document.yaml:3"), "the line is said: {said:?}");
    let said = with_file(&mesh[0], &document, &["apply", "--expect", "1234", "--as", &own]).await;
    assert!(said.code() == 1 && said.err.contains("--expect"), "{said:?}");
    assert_eq!(roots(&mesh).await.expect("roots"), before);

    // What looks wrong is said, and taken.
    let unknown = allow("later", "no-such-service", &["web"]);
    let said = with_file(&mesh[0], &unknown, &["apply", "--as", &own]).await;
    assert!(said.code() == 0 && said.err.contains("no service shop/no-such-service"), "{said:?}");
    let never = allow("never", "no-such-service", &[]).replace("from:\n", "from: []\n");
    let said = with_file(&mesh[0], &never, &["apply", "--as", &own]).await;
    assert!(said.code() == 0 && said.err.contains("never matches"), "{said:?}");
    let dry = with_file(&mesh[0], &document, &["apply", "--dry-run", "--cut"]).await;
    assert_eq!(dry.code(), 4, "{dry:?}");
    assert!(dry.out.contains("+  destination: checkout"), "{dry:?}");
}

#[tokio::test]
#[ignore = "needs root, iproute2 and nftables"]
async fn root_edits_on_both_sides_of_a_partition_are_both_kept_until_one_resolves_them() {
    let lab = Lab::new(4);
    let mut mesh = Mesh::in_lab(&lab);
    mesh.form().await;
    let key = key(&mesh);
    let service = "apiVersion: skein/v1\nkind: ServiceRegistry\nmetadata: {name: checkout, namespace: \
                   shop}\nspec: {ports: [{name: tcp, port: 8080}], checks: []}\n";
    mesh[1].manifest("checkout.yaml", service);
    apply(&mesh[0], &allow("callers", "checkout", &["web"]), &key).await;
    one_policy(&mesh, SOON).await;

    lab.part(&[0, 1]);
    for n in 0..4 {
        until(Duration::from_secs(30), "each side sees the other dead", async || {
            let status = mesh[n].try_json(&["status"]).await?;
            (status["members"]["dead"] == 2).then_some(()).ok_or_else(|| status.to_string())
        })
        .await;
    }
    let left = allow("callers", "checkout", &["web", "batch"]);
    let right = left.replace("action: allow", "action: deny").replace("shop/web", "shop/other");
    for (n, text) in [(0, &left), (2, &right)] {
        let said = with_file(&mesh[n], text, &["apply", "--as", &key, "--cut"]).await;
        assert_eq!(said.code(), 0, "{said:?}");
    }
    let status = mesh[0].json(&["policy", "status"]).await;
    assert_eq!((&status["agreeing"], &status["of"]), (&2.into(), &4.into()), "{status}");
    let silent = status["nodes"].as_array().expect("nodes").iter();
    let silent: Vec<&Value> = silent.filter(|node| node["state"] == "silent").collect();
    assert_eq!(silent.len(), 2, "{status}");
    assert!(silent.iter().all(|node| node["reason"] != ""), "{status}");

    lab.heal();
    let took = one_policy(&mesh, Duration::from_secs(30)).await;
    figure("one policy after a partition with edits on both sides", took);
    for host in &mesh.hosts {
        let status = host.json(&["policy", "status"]).await;
        assert_eq!(
            status["conflicts"][0]["versions"].as_array().map(Vec::len),
            Some(2),
            "{status}"
        );
        assert!(status["conflicts"][0]["fix"].to_string().contains("skein describe"), "{status}");
    }
    // Deny wins: batch is allowed by one of the two and denied by the other.
    for host in &mesh.hosts {
        let said = host.run(&["why", "--from", "shop/batch", "shop/checkout"]).await;
        assert_eq!(said.code(), 1, "{said:?}");
        assert!(said.out.contains("AccessPolicy shop/callers denies it"), "{said:?}");
    }
    apply(&mesh[3], &left, &key).await;
    one_policy(&mesh, SOON).await;
    let status = mesh[2].json(&["policy", "status"]).await;
    assert_eq!(status["conflicts"], Value::Array(Vec::new()), "{status}");
    assert_eq!((&status["agreeing"], &status["of"]), (&4.into(), &4.into()), "{status}");
    let said = mesh[0].run(&["why", "--from", "shop/batch", "shop/checkout"]).await;
    assert_eq!(said.code(), 0, "{said:?}");
}

/// A document that an operator signed for a file: whichever agent reads it puts it in force for the
/// mesh. Edited after that, or replaced since, it does nothing.
#[tokio::test]
async fn a_signed_document_in_a_file_is_put_in_force_by_the_agent_that_reads_it() {
    let (mesh, _server) = stand().await;
    let key = key(&mesh);
    let unsigned = allow("callers", "checkout", &["web"]);
    let signed = mesh.folder().join("signed.yaml").display().to_string();
    let said = with_file(&mesh[0], &unsigned, &["sign", "--as", &key, "--out", &signed]).await;
    assert_eq!(said.code(), 0, "{said:?}");
    carried(&mesh[1], BATCH).await;
    // The third host has no operator's key.
    let text = std::fs::read_to_string(&signed).expect("what was signed");
    mesh[2].manifest("callers.yaml", &text);
    refused(&mesh[1], BATCH, SOON).await;
    carried(&mesh[1], WEB).await;
    let shown = mesh[0].json(&["get", "access"]).await.to_string();
    assert!(shown.contains("operator:operator"), "{shown}");

    // Another edit replaces it; that the file is read again brings nothing back.
    cut(&mesh[0], &allow("callers", "checkout", &["batch"]), &key).await;
    carried(&mesh[1], BATCH).await;
    mesh[2].manifest("callers.yaml", &format!("# read again\n{text}"));
    mesh[2].manifest("more.yaml", &allow("other", "nothing", &["web"]));
    until(SOON, "both files were read", async || {
        let status = mesh[2].try_json(&["status"]).await?.to_string();
        status.contains("needs an operator").then_some(()).ok_or(status)
    })
    .await;
    carried(&mesh[1], BATCH).await;
    refused(&mesh[1], WEB, SOON).await;

    // What was changed after it was signed is no longer what was signed.
    mesh[2].manifest("callers.yaml", &text.replace("shop/web", "shop/thief"));
    until(SOON, "it is said", async || {
        let status = mesh[2].try_json(&["status"]).await?.to_string();
        status.contains("AccessPolicy shop/callers is not applied").then_some(()).ok_or(status)
    })
    .await;
}

/// The operator of one namespace commands nothing of another, wherever its documents are kept: the
/// agent refuses before anything is signed, and the operator for all writes the same.
#[tokio::test]
async fn an_operator_for_a_namespace_writes_for_nothing_else() {
    let mut mesh = Mesh::of_hosts(1);
    mesh.form().await;
    let own = key(&mesh);
    let shop = mesh.folder().join("shop.key").display().to_string();
    let made = ["operator", "create", "ci", "--namespace", "shop", "--out", &shop];
    let said = mesh[0].run(&made).await;
    assert_eq!(said.code(), 0, "{said:?}");
    let access = |destination: &str, rest: &str| {
        format!(
            "apiVersion: skein/v1\nkind: AccessPolicy\nmetadata: {{name: one, namespace: shop}}\n\
             spec: {{destination: \"{destination}\", {rest}}}\n"
        )
    };
    let traffic = |rest: &str| {
        format!(
            "apiVersion: skein/v1\nkind: TrafficManagement\nmetadata: {{name: two, namespace: \
             shop}}\nspec:\n  trafficPolicies:\n  - {{name: x, trafficPolicy: {{{rest}}}}}\n"
        )
    };
    let beyond = [
        (access("bank/vault", "action: allow"), "destination bank/vault"),
        (access("*/*", "default: deny"), "destination */*"),
        (access("web", "action: allow, from: [{service: bank/*}]"), "callers bank/*"),
        (traffic("destination: bank/vault, type: Route, target: web"), "destination bank/vault"),
        (traffic("destination: web, type: Mirror, target: bank/vault"), "target bank/vault"),
    ];
    for (document, what) in &beyond {
        let said = with_file(&mesh[0], document, &["apply", "--as", &shop]).await;
        assert_eq!(said.code(), 1, "{document}{said:?}");
        let why = format!("operator ci may write for namespace shop only, and this reaches {what}");
        assert!(said.err.contains(&why), "{document}{said:?}");
    }
    assert_eq!(mesh[0].json(&["policy", "status"]).await["documents"], 0);
    let inside = access("web", "action: allow, from: [{service: bank/teller}]");
    let said = with_file(&mesh[0], &inside, &["apply", "--as", &shop]).await;
    assert_eq!(said.code(), 0, "{said:?}");
    for (document, _) in &beyond {
        let said = with_file(&mesh[0], document, &["apply", "--as", &own]).await;
        assert_eq!(said.code(), 0, "{document}{said:?}");
        assert!(said.err.contains("operator for namespace shop may replace"), "{said:?}");
    }
}
