//! TrafficManagement on whole agents: applied on one host, it holds on all, and without it nothing
//! of it does.

use std::{net::SocketAddr, time::Duration};

use skein_tests::{
    host::Said,
    manifest::{agent, discovery},
    mesh::Mesh,
    server::{Conduct, Server},
    wait::until,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const HERE: u16 = 9080;
const PORT: u16 = 8080;
const SOON: Duration = Duration::from_secs(10);

/// A version of shop/echo on a host. Without checks: the server counts connections.
fn version(version: &str, process: SocketAddr) -> String {
    let (address, target) = (process.ip(), process.port());
    format!(
        "apiVersion: skein/v1
kind: ServiceRegistry
metadata: {{name: echo, namespace: shop}}
spec:
  version: \"{version}\"
  ports: [{{name: echo, port: {PORT}, targetPort: {target}}}]
  endpoints: [{{name: a, address: {address}, port: {target}}}]
  checks: []
"
    )
}

fn policy(does: &str) -> String {
    format!(
        "apiVersion: skein/v1
kind: TrafficManagement
metadata: {{name: echo, namespace: shop}}
spec:
  trafficPolicies:
  - name: p
    trafficPolicy: {{destination: echo, {does}}}
"
    )
}

/// Three hosts: the first calls and has the operator's key, the others serve versions 1 and 2.
struct Stand {
    mesh: Mesh,
    here: SocketAddr,
    servers: Vec<Server>,
}

impl Stand {
    async fn new() -> Self {
        let mut mesh = Mesh::of_hosts(3);
        mesh.form().await;
        mesh[0].manifest("use.yaml", &discovery("echo", HERE, PORT));
        let mut servers = Vec::new();
        for (host, number) in mesh.hosts[1..].iter().zip(["1", "2"]) {
            let server = Server::start(host.ip, Conduct::Echo).await;
            host.manifest("echo.yaml", &version(number, server.address));
            servers.push(server);
        }
        let stand = Self { here: SocketAddr::new(mesh[0].ip, HERE), mesh, servers };
        until(SOON, "both versions serve", async || {
            let detail = stand.mesh[0].try_json(&["service", "shop/echo"]).await?;
            let none = Vec::new();
            let passing = detail["endpoints"].as_array().unwrap_or(&none).iter();
            let passing = passing.filter(|one| one["status"] == "passing").count();
            (passing == 2).then_some(()).ok_or_else(|| detail.to_string())
        })
        .await;
        until(SOON, "a call is carried", async || stand.call().await).await;
        stand
    }

    /// A connection that is carried: what is sent comes back.
    async fn open(&self) -> Result<TcpStream, String> {
        let call = async {
            let mut stream = TcpStream::connect(self.here).await?;
            stream.write_all(b"ping").await?;
            let mut answer = [0; 4];
            stream.read_exact(&mut answer).await?;
            Ok::<_, std::io::Error>(stream)
        };
        let done = timeout(Duration::from_secs(3), call).await;
        done.map_err(|_| "no echo".to_owned())?.map_err(|error| error.to_string())
    }

    async fn call(&self) -> Result<(), String> {
        self.open().await.map(drop)
    }

    /// How many of so many calls failed, and how many reached each version.
    async fn calls(&self, count: usize) -> (usize, Vec<u64>) {
        let before: Vec<u64> = self.servers.iter().map(Server::accepted).collect();
        let mut failed = 0;
        for _ in 0..count {
            failed += usize::from(self.call().await.is_err());
        }
        let now = self.servers.iter().map(Server::accepted);
        (failed, now.zip(before).map(|(now, before)| now - before).collect())
    }

    async fn apply(&self, does: &str) -> Said {
        let file = self.mesh.folder().join("policy.yaml");
        std::fs::write(&file, policy(does)).expect("a document");
        // From another host than the one that calls: it has to travel.
        let key = self.mesh[0].dir.join("person/skein/operator.key").display().to_string();
        let file = file.display().to_string();
        let said = self.mesh[1].cli(&["apply", "--wait", "--as", &key, "-f", &file]).await;
        assert!(said.out.contains("TrafficManagement shop/echo"), "{said:?}");
        said
    }

    /// So many calls at least ended for that reason, as the caller's agent logs it.
    async fn logged(&self, word: &str, count: usize) {
        until(SOON, &format!("{count} calls have ended with {word}"), async || {
            let log = self.mesh[0].log();
            let found = log.matches(&format!("\"end\":\"{word}\"")).count();
            (found >= count).then_some(()).ok_or_else(|| found.to_string())
        })
        .await;
    }

    async fn delete(&self) {
        let key = self.mesh[0].dir.join("person/skein/operator.key").display().to_string();
        let document = ["delete", "TrafficManagement", "shop/echo", "--wait", "--as", &key];
        self.mesh[1].cli(&document).await;
    }
}

#[tokio::test]
async fn a_canary_goes_from_nothing_to_all_by_apply_and_back_by_delete() {
    let stand = Stand::new().await;
    let split = |new: u32| {
        format!(
            "type: Split, target: [{{subset: \"1\", weight: {}}}, {{subset: \"2\", weight: {new}}}]",
            100 - new
        )
    };
    stand.apply(&split(0)).await;
    assert_eq!(stand.calls(30).await, (0, vec![30, 0]));
    stand.apply(&split(30)).await;
    let (failed, of) = stand.calls(150).await;
    // What is said of it, on the third host.
    let shown = stand.mesh[2].json(&["routes", "shop/echo"]).await;
    let leg = |number: usize| shown["legs"][number].clone();
    assert_eq!((leg(0)["share"].as_u64(), leg(1)["share"].as_u64()), (Some(7000), Some(3000)));
    assert_eq!(leg(1)["by"], "shop/echo#p", "{shown}");
    assert_eq!((&leg(1)["usable"], &leg(1)["of"]), (&1.into(), &1.into()), "{shown}");
    assert!(shown["rules"][0]["holds"] == true && shown["rules"][0]["kind"] == "Split", "{shown}");
    // 45 of 150; within five standard deviations.
    assert!(failed == 0 && (17..=73).contains(&of[1]), "{failed} {of:?}");
    stand.apply(&split(100)).await;
    assert_eq!(stand.calls(30).await, (0, vec![0, 30]));
    stand.delete().await;
    let (failed, of) = stand.calls(60).await;
    assert!(failed == 0 && of[0] > 0, "{of:?}");
}

#[tokio::test]
async fn rates_breakers_and_faults_hold_by_apply_and_are_gone_by_delete() {
    let stand = Stand::new().await;
    stand.apply("type: RateLimit, rate: 1/h, burst: 3").await;
    let (failed, of) = stand.calls(20).await;
    assert!(of.iter().all(|one| *one <= 3), "a burst of three at each: {of:?}");
    assert!(failed >= 14, "{failed}");
    stand.logged("rate_limited", failed).await;

    stand.apply("type: CircuitBreak, maxConnections: 1").await;
    let held = stand.open().await.expect("one is carried");
    let second = stand.call().await;
    assert!(second.is_err(), "a second one was carried");
    stand.logged("circuit_open", 1).await;
    drop(held);
    until(SOON, "there is room again", async || stand.call().await).await;

    stand.apply("type: Fault, abort: reset, percent: 100").await;
    assert_eq!(stand.calls(10).await, (10, vec![0, 0]));
    stand.delete().await;
    assert_eq!(stand.calls(20).await.0, 0);
}

/// Three rules that compete, and what `--explain` says of a request.
#[tokio::test]
async fn of_rules_that_compete_the_best_match_holds_and_explain_says_so() {
    let stand = Stand::new().await;
    let file = stand.mesh.folder().join("routes.yaml");
    let text = "apiVersion: skein/v1
kind: TrafficManagement
metadata: {name: echo, namespace: shop}
spec:
  trafficPolicies:
  - name: all
    trafficPolicy: {destination: echo, type: Route, target: {subset: \"1\"}}
  - name: api
    trafficPolicy: {destination: echo, type: Route, match: {prefix: /v1}, target: {subset: \"2\"}}
  - name: beta
    trafficPolicy:
      {destination: echo, type: Route, match: {prefix: /v1, headers: {x-beta: \"1\"}}, target: {subset: \"9\"}}
";
    std::fs::write(&file, text).expect("a document");
    let file = file.display().to_string();
    stand.mesh[0].cli(&["apply", "--wait", "-f", &file]).await;
    let holds = async |more: &[&str]| {
        let mut all = vec!["routes", "shop/echo"];
        all.extend(more);
        let shown = stand.mesh[1].json(&all).await;
        let rules = shown["rules"].as_array().cloned().unwrap_or_default();
        let held: Vec<String> = rules
            .iter()
            .filter(|one| one["holds"] == true)
            .map(|one| one["name"].to_string())
            .collect();
        (held.join(","), shown["legs"][0]["subset"].as_str().unwrap_or_default().to_owned())
    };
    let expect = |name: &str| format!("\"shop/echo#{name}\"");
    let (rule, subset) = holds(&["--explain", "GET", "/v1/x?y=1", "-H", "X-Beta: 1"]).await;
    assert!(rule == expect("beta") && subset.contains('9'), "{rule} {subset}");
    let (rule, subset) = holds(&["--explain", "GET", "/v1/x"]).await;
    assert!(rule == expect("api") && subset.contains('2'), "{rule} {subset}");
    let (rule, _) = holds(&["--explain", "GET", "/v10"]).await;
    assert_eq!(rule, expect("all"));
    // And of a connection of bytes the one that looks at no request.
    let (rule, subset) = holds(&[]).await;
    assert!(rule == expect("all") && subset.contains('1'), "{rule} {subset}");
    println!(
        "{}",
        stand.mesh[1].cli(&["routes", "shop/echo", "--explain", "GET", "/v1/x"]).await.out
    );
    // On a port that declares bytes such rules are refused, with what to do.
    for (host, server) in stand.mesh.hosts[1..].iter().zip(&stand.servers) {
        let text = version("1", server.address).replace("name: echo, port", "name: tcp, port");
        host.manifest("echo.yaml", &text);
    }
    until(SOON, "the port declares bytes", async || {
        let detail = stand.mesh[0].try_json(&["service", "shop/echo"]).await?;
        let bytes = detail["ports"][0]["name"] == "tcp";
        bytes.then_some(()).ok_or_else(|| detail.to_string())
    })
    .await;
    let refused = stand.mesh[0].run(&["apply", "-f", &file]).await;
    assert!(refused.code() == 1 && refused.err.contains("is carried as bytes"), "{refused:?}");
}

/// `meshConfig.trafficPolicy`: on the host that names a document its policies come after all
/// others, and elsewhere they hold as they are.
#[tokio::test]
async fn a_document_that_mesh_config_names_holds_last_on_that_host() {
    let stand = Stand::new().await;
    let file = stand.mesh.folder().join("two.yaml");
    let document = |name: &str, destination: &str, version: u8| {
        format!(
            "apiVersion: skein/v1
kind: TrafficManagement
metadata: {{name: {name}, namespace: shop}}
spec:
  trafficPolicies:
  - name: p
    trafficPolicy: {{destination: \"{destination}\", type: Route, target: {{subset: \"{version}\"}}}}
"
        )
    };
    let text = [document("near", "*", 1), document("far", "*/*", 2)].join("---\n");
    std::fs::write(&file, text).expect("documents");
    stand.mesh[0].cli(&["apply", "--wait", "-f", &file.display().to_string()]).await;
    assert_eq!(stand.calls(20).await, (0, vec![20, 0]), "the namespace is nearer than the mesh");
    stand.mesh[0].manifest("agent.yaml", &agent(&["trafficPolicy: near"]));
    until(SOON, "what this host names comes last here", async || {
        let (failed, of) = stand.calls(5).await;
        (failed == 0 && of == [0, 5]).then_some(()).ok_or_else(|| format!("{of:?}"))
    })
    .await;
    let elsewhere = stand.mesh[1].json(&["routes", "shop/echo"]).await;
    assert_eq!(elsewhere["legs"][0]["by"], "shop/near#p", "{elsewhere}");
}
