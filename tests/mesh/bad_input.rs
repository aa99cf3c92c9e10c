//! What people get wrong: each message says what, where, why and what to do, and the exit code.

use std::{fs, time::Duration};

use skein_tests::{
    host::{Host, Said},
    manifest::registry,
    mesh::{Mesh, token_in},
    wait::until,
};

const SOON: Duration = Duration::from_secs(10);
const PORT: u16 = 8080;

async fn join(host: &Host, seed: &str, token: &str) -> Said {
    // No two hosts of a test have one address, so no two have one of these names.
    let name = host.ip.to_string().replace('.', "-");
    host.run_with(&["join", seed, "--name", &format!("at-{name}")], &[("SKEIN_TOKEN", token)]).await
}

/// It failed with this code, and its message holds all of these words.
#[track_caller]
fn failed(said: &Said, code: i32, words: &[&str]) {
    println!("exit {}: {}{}", said.code(), said.out, said.err);
    assert_eq!(said.code(), code, "{said:?}");
    assert!(!said.err.contains("panicked"), "{said:?}");
    for word in words {
        let all = format!("{}{}", said.out, said.err);
        assert!(all.contains(word), "`{word}` is not in: {all}");
    }
}

/// `skein agent` that is to end by itself at once.
async fn agent(host: &Host, arguments: &[&str]) -> Said {
    let ip = host.ip.to_string();
    let mut all = vec!["agent", "--bind", &ip];
    all.extend(arguments);
    host.run(&all).await
}

/// Waits until `status` exits 3 and shows all of these words.
async fn shown(host: &Host, words: &[&str]) {
    until(SOON, "status shows it and exits 3", async || {
        let said = host.run(&["status"]).await;
        let all = words.iter().all(|word| said.out.contains(word)) && said.code() == 3;
        all.then(|| println!("{}", said.out)).ok_or_else(|| format!("{said:?}"))
    })
    .await;
}

async fn one_agent_and_a_stranger() -> Mesh {
    let mut mesh = Mesh::of_hosts(2);
    let said = mesh[0].cli(&["init", "--mesh", "test", "--service", "*/*", "--name", "a"]).await;
    mesh.token = token_in(&said.out).expect("a token");
    mesh[0].start(&[]).await;
    mesh
}

#[tokio::test]
async fn tokens_that_are_wrong_of_another_mesh_or_used_up_let_nobody_in() {
    let mesh = one_agent_and_a_stranger().await;
    let seed = mesh.mesh_address(0);
    let stranger = &mesh[1];
    failed(&join(stranger, &seed, "skein1.nonsense").await, 1, &["token"]);
    failed(&join(stranger, &seed, "").await, 1, &["SKEIN_TOKEN"]);

    let other = Mesh::of_hosts(1);
    let said = other[0].cli(&["init", "--mesh", "other", "--service", "*/*", "--name", "x"]).await;
    let foreign = token_in(&said.out).expect("a token");
    failed(&join(stranger, &seed, &foreign).await, 1, &[&seed, "another mesh"]);

    let said = mesh[0].cli(&["token", "create", "--name", "*", "--uses", "1"]).await;
    let once = token_in(&said.out).expect("a token");
    let third = Mesh::of_hosts(1);
    let said = join(&third[0], &seed, &once).await;
    assert_eq!(said.code(), 0, "{said:?}");
    failed(&join(stranger, &seed, &once).await, 1, &["used"]);

    let token = [("SKEIN_TOKEN", mesh.token.as_str())];
    let said = stranger.run_with(&["join", &seed, "--name", "a"], &token).await;
    failed(&said, 1, &["the name a is held", "--name"]);
    assert_eq!(said.err.matches("is held").count(), 1, "said once: {}", said.err);

    let said =
        mesh[0].cli(&["token", "create", "--name", "*", "--ttl", "1s", "--uses", "100"]).await;
    let short = token_in(&said.out).expect("a token");
    until(SOON, "a token past its end is refused", async || {
        let host = Mesh::of_hosts(1);
        let said = join(&host[0], &seed, &short).await;
        if said.code() == 0 {
            return Err("it still lets in".to_owned());
        }
        failed(&said, 1, &["the token ended", "skein token create"]);
        Ok(())
    })
    .await;
    let nobody = format!("{}:7400", stranger.ip);
    failed(&join(stranger, &nobody, &mesh.token).await, 1, &[&nobody]);
}

#[tokio::test]
async fn an_agent_that_cannot_start_says_why_and_what_to_do() {
    let mut mesh = one_agent_and_a_stranger().await;
    let seed = mesh.mesh_address(0);
    failed(&agent(&mesh[1], &[]).await, 1, &["skein join"]);
    let token = mesh.token.clone();
    assert_eq!(join(&mesh[1], &seed, &token).await.code(), 0);

    let held = std::net::UdpSocket::bind((mesh[1].ip, 7400)).expect("the mesh port");
    failed(&agent(&mesh[1], &[]).await, 1, &["7400", "in use"]);
    drop(held);
    let held = std::net::TcpListener::bind((mesh[1].ip, 7401)).expect("the http port");
    failed(&agent(&mesh[1], &[]).await, 1, &["7401", "in use"]);
    drop(held);

    let key = mesh[1].dir.join("node.key");
    let good = fs::read(&key).expect("a key");
    fs::write(&key, "no key at all").expect("a file");
    failed(&agent(&mesh[1], &[]).await, 1, &["node.key"]);
    fs::write(&key, good).expect("a file");

    let other = Mesh::of_hosts(1);
    other[0].cli(&["init", "--mesh", "other", "--service", "*/*", "--name", "x"]).await;
    let leaf = mesh[1].dir.join("node.pem");
    let good = fs::read(&leaf).expect("a certificate");
    fs::copy(other[0].dir.join("node.pem"), &leaf).expect("a copy");
    failed(&agent(&mesh[1], &[]).await, 1, &["node.pem", "skein join"]);
    fs::write(&leaf, good).expect("a file");

    // Root may write anywhere: a directory that cannot be is the same to all.
    let file = mesh.folder().join("file");
    fs::write(&file, "").expect("a file");
    let dir = file.join("below").display().to_string();
    failed(&mesh[1].run(&["init", "--dir", &dir]).await, 1, &[&dir]);
    // With all of that mended it runs.
    mesh[1].start(&[]).await;
}

#[tokio::test]
async fn documents_with_faults_are_refused_where_they_stand() {
    let mesh = Mesh::start(2).await;
    let host = &mesh[0];
    let process = std::net::SocketAddr::new(host.ip, 9);
    let file = |name: &str, text: &str| {
        let path = mesh.folder().join(name);
        fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let good = registry("web", PORT, process);
    let unknown = file("unknown.yaml", &good.replace("endpoints:", "endpoitns:"));
    failed(
        &host.run(&["validate", "-f", &unknown]).await,
        1,
        &["unknown.yaml:6", "endpoitns", "endpoints", "^"],
    );
    failed(&host.run(&["apply", "-f", &unknown]).await, 1, &["unknown.yaml:6", "endpoitns"]);

    let away = file("away.yaml", &good.replace(&host.ip.to_string(), "192.0.2.77"));
    failed(&host.run(&["apply", "-f", &away]).await, 1, &["192.0.2.77", "external"]);

    let second =
        good.replace("name: web,", "name: web-2,").replace("spec:", "spec:\n  service: web");
    let second = second.replace("port: 8080, targetPort", "port: 8181, targetPort");
    let both = file("both.yaml", &format!("{good}---\n{second}"));
    failed(&host.run(&["apply", "-f", &both]).await, 1, &["web", "8181", "8080"]);
    let none = host.json(&["services"]).await;
    assert_eq!(none.as_array().map(Vec::len), Some(0), "all or nothing: {none}");

    // Nothing listens at port 9: the service is there, its endpoint critical, and a file with a
    // fault shows in `status`.
    host.manifest("web.yaml", &good);
    until(SOON, "an endpoint that refuses is critical", async || {
        let detail = host.try_json(&["service", "shop/web"]).await?;
        let critical = detail["endpoints"][0]["status"] == "critical";
        critical.then_some(()).ok_or_else(|| detail.to_string())
    })
    .await;
    let endpoint = host.json(&["service", "shop/web"]).await["endpoints"][0].clone();
    println!("{endpoint}");
    shown(host, &["web/a is critical by its check", "skein describe ServiceRegistry"]).await;
    assert!(endpoint["reason"].as_str().is_some_and(|why| why.contains("critical")), "{endpoint}");
    host.manifest("bad.yaml", &good.replace("endpoints:", "endpoitns:"));
    shown(host, &["bad.yaml", "endpoitns"]).await;
    host.remove_manifest("bad.yaml");
}

#[tokio::test]
async fn a_wrong_command_line_exits_2_and_an_agent_that_is_not_there_is_named() {
    let mesh = Mesh::of_hosts(1);
    failed(&mesh[0].run(&["statsu"]).await, 2, &["status"]);
    let socket = mesh[0].dir.join("agent.sock").display().to_string();
    failed(&mesh[0].run(&["status"]).await, 1, &[&socket, "skein agent"]);
}
