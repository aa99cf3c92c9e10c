//! Clients and servers of others through whole agents: gRPC, WebSocket, curl, MariaDB.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use skein_tests::{manifest::discovery, mesh::Mesh, process::Process, wait::until};
use tokio::process::Command;

const HERE: u16 = 9080;
const PORT: u16 = 8080;
const SOON: Duration = Duration::from_secs(20);

/// The Python that `.ci/test` makes, with the packages of `tests/foreign/packages.txt`.
fn python() -> Command {
    let path = std::env::var_os("SKEIN_TEST_PYTHON").map(PathBuf::from);
    let path = path.expect("SKEIN_TEST_PYTHON: `.ci/test` makes it and says where it is");
    Command::new(path)
}

fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("foreign").join(name)
}

fn registry(port: &str, process: SocketAddr) -> String {
    let (address, target) = (process.ip(), process.port());
    format!(
        "apiVersion: skein/v1
kind: ServiceRegistry
metadata: {{name: echo, namespace: shop}}
spec:
  ports: [{{name: {port}, port: {PORT}, targetPort: {target}}}]
  endpoints: [{{name: a, address: {address}, port: {target}}}]
  checks: []
"
    )
}

/// Two hosts: the first calls what a process on the second serves.
struct Stand {
    mesh: Mesh,
    here: SocketAddr,
    server: Process,
}

impl Stand {
    /// The server is a script that says `ready PORT`.
    async fn new(name: &str, port: &str) -> Self {
        let mut mesh = Mesh::of_hosts(2);
        mesh.form().await;
        let mut command = python();
        command.arg(script(name)).arg(mesh[1].ip.to_string());
        let server = Process::start(command, &mesh.folder().join("server.log"));
        let (number, _) = until(SOON, "the server is ready", async || {
            let said = server.output();
            let number = said.lines().find_map(|line| line.strip_prefix("ready ")?.parse().ok());
            number.ok_or(said)
        })
        .await;
        Self::with(mesh, server, port, number).await
    }

    async fn with(mesh: Mesh, server: Process, port: &str, number: u16) -> Self {
        mesh[0].manifest("use.yaml", &discovery("echo", HERE, PORT));
        mesh[1].manifest("echo.yaml", &registry(port, SocketAddr::new(mesh[1].ip, number)));
        let here = SocketAddr::new(mesh[0].ip, HERE);
        let stand = Self { here, mesh, server };
        until(SOON, "it is served", async || {
            let detail = stand.mesh[0].try_json(&["service", "shop/echo"]).await?;
            let passing = detail["endpoints"][0]["status"] == "passing";
            passing.then_some(()).ok_or_else(|| detail.to_string())
        })
        .await;
        until(SOON, "its listener is open", async || {
            tokio::net::TcpStream::connect(here).await.map(drop).map_err(|error| error.to_string())
        })
        .await;
        stand
    }

    /// A rule, so that requests are read.
    async fn rule(&self) {
        let text = "apiVersion: skein/v1
kind: TrafficManagement
metadata: {name: echo, namespace: shop}
spec:
  trafficPolicies:
  - name: p
    trafficPolicy: {destination: echo, type: Timeout, connect: 3s}
";
        let file = self.mesh.folder().join("policy.yaml");
        std::fs::write(&file, text).expect("a document");
        self.mesh[0].cli(&["apply", "--wait", "-f", &file.display().to_string()]).await;
    }

    async fn client(&self, mut command: Command) -> String {
        let run = tokio::time::timeout(Duration::from_secs(120), command.output()).await;
        let run = run.expect("an end in time").expect("a client");
        let said = String::from_utf8_lossy(&run.stdout).into_owned();
        let wrong = String::from_utf8_lossy(&run.stderr).into_owned();
        assert!(run.status.success(), "{said}\n{wrong}\nserver: {}", self.server.output());
        said
    }

    async fn python(&self, name: &str, arguments: &[&str]) -> String {
        let mut command = python();
        command.arg(script(name)).args(arguments);
        self.client(command).await
    }

    fn parsed(&self) -> bool {
        self.mesh[0].log().contains("\"method\":")
    }
}

#[tokio::test]
#[ignore = "needs the Python packages that .ci/test installs"]
async fn grpc_works_over_bytes_and_over_requests() {
    let stand = Stand::new("grpc_server.py", "grpc").await;
    let here = stand.here.to_string();
    let plain = stand.python("grpc_client.py", &[&here]).await;
    assert!(plain.ends_with("all right\n") && !stand.parsed(), "{plain}");
    stand.rule().await;
    let ruled = stand.python("grpc_client.py", &[&here]).await;
    assert!(ruled.ends_with("all right\n"), "{ruled}");
    assert!(ruled.contains(&format!("source node {}", stand.mesh[0].name)), "{ruled}");
    until(SOON, "requests are logged", async || {
        stand.parsed().then_some(()).ok_or_else(|| "none".to_owned())
    })
    .await;
    println!("{ruled}");
}

#[tokio::test]
#[ignore = "needs the Python packages that .ci/test installs"]
async fn a_websocket_works_over_bytes_and_over_requests() {
    let stand = Stand::new("ws_server.py", "http").await;
    let url = format!("ws://{}/socket", stand.here);
    let plain = stand.python("ws_client.py", &["once", &url]).await;
    assert_eq!(plain, "closed 1000\n");
    stand.rule().await;
    let ruled = stand.python("ws_client.py", &["once", &url]).await;
    assert_eq!(ruled, "closed 1000\n");
    until(SOON, "it is logged as a switch of protocols", async || {
        let log = stand.mesh[0].log();
        log.contains("\"status\":101").then_some(()).ok_or(log)
    })
    .await;
}
