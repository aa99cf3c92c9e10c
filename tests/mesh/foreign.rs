//! Clients and servers of others through whole agents: gRPC, WebSocket, curl, MariaDB.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use skein_tests::{
    manifest::discovery,
    mesh::Mesh,
    process::{Process, memory_kib},
    wait::until,
    web::{Answer, Web},
};
use tokio::process::Command;

const HERE: u16 = 9080;
const PORT: u16 = 8080;
const SOON: Duration = Duration::from_secs(20);

/// The Python that `.ci/test` makes, with the packages of `tests/foreign/packages.txt`.
pub(crate) fn python() -> Command {
    let path = std::env::var_os("SKEIN_TEST_PYTHON").map(PathBuf::from);
    let path = path.expect("SKEIN_TEST_PYTHON: `.ci/test` makes it and says where it is");
    Command::new(path)
}

pub(crate) fn script(name: &str) -> PathBuf {
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
    server: Option<Process>,
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
        Self::with(mesh, Some(server), port, number).await
    }

    async fn with(mesh: Mesh, server: Option<Process>, port: &str, number: u16) -> Self {
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

    /// A web server that sends back what it gets, with a rule.
    async fn echo() -> (Self, Web) {
        let mut mesh = Mesh::of_hosts(2);
        mesh.form().await;
        let web = Web::start(mesh[1].ip, "web").await;
        web.answers(Answer::Echo);
        let stand = Self::with(mesh, None, "http", web.address.port()).await;
        stand.rule().await;
        (stand, web)
    }

    async fn shell(&self, line: &str) -> String {
        let mut command = Command::new("bash");
        let url = format!("http://{}", self.here);
        command.args(["-c", &format!("set -euo pipefail; {line}")]).env("URL", url);
        command.current_dir(self.mesh.folder());
        self.client(command).await
    }

    /// A rule, so that requests are read.
    async fn rule(&self) {
        self.rule_of("type: Timeout, connect: 3s").await;
    }

    async fn rule_of(&self, does: &str) {
        let text = "apiVersion: skein/v1
kind: TrafficManagement
metadata: {name: echo, namespace: shop}
spec:
  trafficPolicies:
  - name: p
    trafficPolicy: {destination: echo, DOES}
";
        let text = text.replace("DOES", does);
        let file = self.mesh.folder().join("policy.yaml");
        std::fs::write(&file, text).expect("a document");
        self.mesh[0].cli(&["apply", "--wait", "-f", &file.display().to_string()]).await;
    }

    async fn client(&self, mut command: Command) -> String {
        let run = tokio::time::timeout(Duration::from_secs(120), command.output()).await;
        let run = run.expect("an end in time").expect("a client");
        let said = String::from_utf8_lossy(&run.stdout).into_owned();
        let wrong = String::from_utf8_lossy(&run.stderr).into_owned();
        let server = self.server.as_ref().map(Process::output).unwrap_or_default();
        assert!(run.status.success(), "{said}\n{wrong}\nserver: {server}");
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

#[tokio::test]
#[ignore = "needs curl"]
async fn curl_speaks_http2_expects_100_and_sends_chunks_and_trailers_come_through() {
    let (stand, web) = Stand::echo().await;
    let two = stand
        .shell("curl -sS --http2-prior-knowledge -d two -o out -w '%{http_version} %{http_code} ' $URL/two; cat out")
        .await;
    assert_eq!(two, "2 200 two");
    let expected = stand
        .shell("head -c 5000 /dev/zero | tr '\\0' x > body; curl -sSv -H 'Expect: 100-continue' --data-binary @body -o out $URL/e 2>&1 | grep -c '< HTTP/1.1 100'; cmp body out && echo same")
        .await;
    assert_eq!(expected, "1\nsame\n");
    let chunked = stand
        .shell("seq 1 100000 > body; cat body | curl -sS -X POST -T - -H 'Transfer-Encoding: chunked' -D head -o out $URL/c; cmp body out && grep -ci 'transfer-encoding: chunked' head")
        .await;
    assert_eq!(chunked, "1\n");
    let seen = web.seen();
    assert!(seen.iter().all(|one| one.header("expect").is_empty()), "{seen:?}");

    // Trailers both ways, word by word: curl sends none.
    let text = "POST /t HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: close, te\r\ntrailer: x-sum\r\n\
                transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-sum: 42\r\n\r\n";
    let answer = skein_tests::web::raw(stand.here, text.as_bytes()).await.expect("an answer");
    assert!(answer.contains("3\r\nabc\r\n0\r\nx-sum: 42\r\n\r\n"), "{answer:?}");
}

#[tokio::test]
#[ignore = "needs curl"]
async fn a_gibibyte_goes_up_and_down_with_equal_sums_and_flat_memory() {
    let (mut stand, _web) = Stand::echo().await;
    let mut before = Vec::new();
    for n in 0..2 {
        let id = stand.mesh[n].agent().id().expect("an agent");
        before.push((id, memory_kib(id, "VmRSS")));
    }
    let sums = stand
        .shell(
            "(openssl enc -aes-128-ctr -K 00 -iv 00 -in /dev/zero 2>/dev/null || true) | head -c 1073741824 \
             | tee >(sha256sum > up) | curl -sS -N -T - -H 'Expect:' $URL/large | tee >(wc -c > count) \
             | sha256sum > down; sleep 0.2; cat up down count",
        )
        .await;
    let lines: Vec<&str> = sums.lines().collect();
    assert!(lines.len() == 3 && lines[0] == lines[1] && lines[2] == "1073741824", "{sums}");
    for (id, at_rest) in before {
        let most = memory_kib(id, "VmHWM");
        println!("agent: {at_rest} KiB before, {most} KiB at most");
        assert!(most < at_rest + 64 * 1024, "{at_rest} KiB became {most} KiB");
    }
}

/// A server that speaks first, behind a port that declares nothing, with a rule about requests:
/// its first byte does not wait for what the client may say.
#[tokio::test]
#[ignore = "needs mariadb-server and mariadb-client"]
async fn mariadb_speaks_first_and_is_not_held_back() {
    let mut mesh = Mesh::of_hosts(2);
    mesh.form().await;
    let folder = mesh.folder().join("mariadb");
    let data = folder.display().to_string();
    let made = Command::new("mariadb-install-db")
        .args(["--no-defaults", "--auth-root-authentication-method=normal", "--user=root"])
        .args(["--skip-test-db", "--force", &format!("--datadir={data}")])
        .output()
        .await
        .expect("mariadb-install-db");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let free = std::net::TcpListener::bind((mesh[1].ip, 0)).expect("a port");
    let port = free.local_addr().expect("a bound socket").port();
    drop(free);
    let mut command = Command::new("mariadbd");
    command
        .args([
            "--no-defaults",
            "--user=root",
            "--skip-name-resolve",
            "--innodb-buffer-pool-size=16M",
        ])
        .arg(format!("--datadir={data}"))
        .arg(format!("--socket={data}/socket"))
        .arg(format!("--bind-address={}", mesh[1].ip))
        .arg(format!("--port={port}"));
    let server = Process::start(command, &mesh.folder().join("server.log"));
    let direct = SocketAddr::new(mesh[1].ip, port);
    until(Duration::from_secs(60), "MariaDB greets", async || {
        first_byte(direct).await.map(drop).map_err(|error| format!("{error}: {}", server.output()))
    })
    .await;
    let stand = Stand::with(mesh, Some(server), "db", port).await;
    stand.rule_of("type: Timeout, request: 60s").await;
    // Somebody who speaks HTTP to it, and somebody who says nothing, change nothing for others.
    let _ = skein_tests::web::raw(stand.here, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    drop(tokio::net::TcpStream::connect(stand.here).await);
    let mut times = Vec::new();
    for _ in 0..10 {
        times.push(first_byte(stand.here).await.expect("a greeting"));
    }
    times.sort_unstable();
    let mut plain = Vec::new();
    for _ in 0..10 {
        plain.push(first_byte(direct).await.expect("a greeting"));
    }
    plain.sort_unstable();
    println!(
        "first byte: median {:?}, worst {:?}; without the mesh {:?}, {:?}",
        times[5], times[9], plain[5], plain[9]
    );
    // Held back, none could come before the 200 ms for which first bytes are waited for.
    assert!(times[0] < Duration::from_millis(200), "{times:?}");
    let (ip, port) = (stand.here.ip(), stand.here.port());
    let mut client = Command::new("mariadb");
    client
        .args(["--no-defaults", "--skip-ssl", "-uroot", "-N", "-B", "-e", "select 6*7"])
        .arg(format!("-h{ip}"))
        .arg(format!("-P{port}"));
    // Whoever comes from another address than localhost is not known: an answer all the same.
    let said = client.output().await.expect("a client");
    let all = [said.stdout, said.stderr].concat();
    let all = String::from_utf8_lossy(&all).into_owned();
    assert!(all.contains("42") || all.contains("not allowed to connect"), "{all}");
    let parsed = stand.mesh[0].log().matches("\"method\":").count();
    assert!(parsed <= 1, "more than the one request was taken for HTTP");
}

async fn first_byte(address: SocketAddr) -> Result<Duration, String> {
    use tokio::io::AsyncReadExt;
    let begun = std::time::Instant::now();
    let greet = async {
        let mut stream = tokio::net::TcpStream::connect(address).await?;
        stream.read_u8().await
    };
    let greeted = tokio::time::timeout(Duration::from_secs(10), greet).await;
    greeted.map_err(|_| "nothing".to_owned())?.map_err(|error| error.to_string())?;
    Ok(begun.elapsed())
}
