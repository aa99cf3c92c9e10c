//! Who calls: a process is the service that the kernel proves it to be, or only its node.

use std::{
    fs,
    io::{Read, Write},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use serde_json::Value;
use skein_tests::{
    echo::serve,
    host::Host,
    mesh::Mesh,
    namespace::{self, Lab},
    process::Process,
    server::{Conduct, Server},
    wait::until,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    process::Command,
};

const SOON: Duration = Duration::from_secs(10);
const PORT: u16 = 8080;
const HERE: u16 = 9080;
const PROCESS: u16 = 18_080;
/// Users that no host has: by number they are as good as any.
const BATCH: u32 = 61_001;
const STRANGER: u32 = 61_002;

/// Cgroups made by hand, as a service manager would. They go with the test.
struct Cgroups(Vec<PathBuf>);

impl Cgroups {
    fn new() -> Self {
        Self(Vec::new())
    }

    /// A cgroup of this path below the unified hierarchy, each part of it new.
    fn make(&mut self, path: &str) -> PathBuf {
        let mounts = fs::read_to_string("/proc/mounts").expect("the mounts");
        let root = mounts.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            (fields[2] == "cgroup2").then(|| PathBuf::from(fields[1]))
        });
        let mut at = root.expect("a unified hierarchy of cgroups");
        for part in path.split('/') {
            at.push(part);
            if !at.exists() {
                fs::create_dir(&at).expect("a cgroup");
                self.0.push(at.clone());
            }
        }
        at
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for path in self.0.iter().rev() {
            let _ = fs::remove_dir(path);
        }
    }
}

fn db(process: SocketAddr) -> String {
    skein_tests::manifest::registry("db", PORT, process)
}

/// A service of which nothing is served: only its processes are named.
fn workload(name: &str, port: u16, process: &str) -> String {
    format!(
        "apiVersion: skein/v1
kind: ServiceRegistry
metadata: {{name: {name}, namespace: shop}}
spec:
  ports: [{{name: tcp, port: {port}}}]
  workload: {process}
  checks: []
"
    )
}

/// Somebody who calls: in a cgroup, or as a user.
enum Who<'a> {
    In(&'a Path),
    As(u32),
}

/// One call of `who` on this host.
async fn call(host: &Host, who: &Who<'_>, to: SocketAddr) -> Result<String, String> {
    let url = format!("http://{to}/");
    let curl = ["curl", "-sS", "--max-time", "3", &url];
    let mut command = match who {
        Who::In(cgroup) => {
            // Before it enters the host's namespace, where the cgroups may not be mounted.
            let mut command = Command::new("sh");
            command.args(["-c", "echo $$ >\"$0\" && exec \"$@\""]);
            command.arg(cgroup.join("cgroup.procs"));
            if let Some(namespace) = &host.namespace {
                command.args(["ip", "netns", "exec", namespace]);
            }
            command.args(curl);
            command
        }
        Who::As(uid) => {
            let mut command = host.program("setpriv");
            let (user, group) = (format!("--reuid={uid}"), format!("--regid={uid}"));
            command.args([&user, &group, "--clear-groups"]).args(curl);
            command
        }
    };
    let output = command.stdin(Stdio::null()).output().await.expect("curl");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// The lines of a host's access log about shop/db on one side.
fn lines(host: &Host, side: &str) -> Vec<Value> {
    let log = host.log();
    let all = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    all.filter(|line| line["side"] == side && line["service"] == "shop/db").collect()
}

/// The next line of that side, `seen` being the number of those before it.
async fn line(host: &Host, side: &str, seen: usize) -> Value {
    let (line, _) = until(SOON, "the access log has the line", async || {
        let all = lines(host, side);
        all.get(seen).cloned().ok_or_else(|| format!("{all:?}"))
    })
    .await;
    line
}

struct Stage {
    mesh: Mesh,
    cgroups: Cgroups,
    web: PathBuf,
    tag: String,
    _service: Process,
}

/// Host a calls, host b serves shop/db. On a, shop/web is a unit and shop/batch a user.
async fn stage(mut mesh: Mesh, tag: &str) -> Stage {
    let mut cgroups = Cgroups::new();
    let unit = format!("skein-{tag}-web.service");
    let web = cgroups.make(&unit);
    mesh.form().await;
    let service = serve(&mesh[1], PROCESS, mesh.folder());
    mesh[1].manifest("db.yaml", &db(SocketAddr::new(mesh[1].ip, PROCESS)));
    mesh[0].manifest("web.yaml", &workload("web", 81, &format!("{{unit: {unit}}}")));
    mesh[0].manifest("batch.yaml", &workload("batch", 82, &format!("{{user: \"{BATCH}\"}}")));
    until(SOON, "all three services are known", async || {
        let services = mesh[0].try_json(&["services"]).await?;
        let all = services.as_array().map_or(0, Vec::len);
        let detail = mesh[0].try_json(&["service", "shop/db"]).await?;
        let passing = detail["endpoints"][0]["status"] == "passing";
        (all == 3 && passing).then_some(()).ok_or_else(|| format!("{services} {detail}"))
    })
    .await;
    Stage { mesh, cgroups, web, tag: tag.to_owned(), _service: service }
}

/// Show 10 of issue 4, and what goes wrong with it.
async fn all_are_known_as_what_they_are(mut stage: Stage, mode: &str) {
    let forged = format!("skein-{0}-user.service/skein-{0}-web.service", stage.tag);
    let forged = stage.cgroups.make(&forged);
    let Stage { mesh, web, .. } = &stage;
    let (here, there) = (&mesh[0], &mesh[1]);
    let status = here.json(&["status"]).await;
    assert_eq!(status["capture"]["mode"], mode, "{status}");
    here.cli(&["service", "shop/db", "--bind"]).await;
    let detail = here.json(&["service", "shop/db"]).await;
    let at: IpAddr = detail["virtual_address"].as_str().expect("one").parse().expect("an IP");
    let to = SocketAddr::new(at, PORT);
    let callers = [
        (Who::In(web), "shop/web"),
        (Who::As(BATCH), "shop/batch"),
        (Who::As(STRANGER), "node"),
        (Who::In(&forged), "node"),
    ];
    for (who, source) in &callers {
        let (seen, sent) = (lines(there, "inbound").len(), lines(here, "outbound").len());
        call(here, who, to).await.expect("a call");
        let (served, called) =
            (line(there, "inbound", seen).await, line(here, "outbound", sent).await);
        println!("{served}\n{called}");
        assert_eq!(served["source"], *source, "{served}");
        assert_eq!(called["source"], *source, "{called}");
        let detail = called["detail"].as_str().expect("text");
        let only = detail.contains("caller proved only node a") && detail.contains("`workload:`");
        assert_eq!(only, *source == "node", "{called}");
    }
}

/// `allow` closes both ways to the service, by port and by virtual address, to all others.
async fn a_stranger_may_not_connect_where_allow_says_who_may(stage: &Stage) {
    let Stage { mesh, web, tag, .. } = stage;
    let host = &mesh[0];
    host.manifest(
        "use.yaml",
        &format!(
            "apiVersion: skein/v1
kind: ServiceDiscovery
metadata: {{name: use-db, namespace: shop}}
spec:
  service: shop/db
  source: shop/batch
  allow: {{unit: skein-{tag}-web.service}}
  ports: [{{name: tcp, port: {HERE}, targetPort: {PORT}}}]
"
        ),
    );
    let own = if host.ip.is_loopback() { host.ip } else { [127, 0, 0, 1].into() };
    let to = SocketAddr::new(own, HERE);
    let web = Who::In(web);
    let seen = lines(&mesh[1], "inbound").len();
    until(SOON, "who is allowed is served", async || call(host, &web, to).await).await;
    let served = line(&mesh[1], "inbound", seen).await;
    assert_eq!(served["source"], "shop/batch", "`source` holds for its port: {served}");
    let detail = host.json(&["service", "shop/db"]).await;
    let at = detail["virtual_address"].as_str().expect("one").parse().expect("an IP");
    for to in [to, SocketAddr::new(at, PORT)] {
        let sent = lines(host, "outbound").len();
        call(host, &Who::As(STRANGER), to).await.expect_err("it is refused");
        let refused = line(host, "outbound", sent).await;
        println!("{refused}");
        assert_eq!(refused["end"], "not_allowed", "{refused}");
        let detail = refused["detail"].as_str().expect("text");
        let unit = format!("skein-{tag}-web.service");
        for word in [&format!("uid {STRANGER}"), "`allow` of ServiceDiscovery shop/use-db", &unit] {
            assert!(detail.contains(word), "`{word}` is not in {detail}");
        }
    }
}

/// Takes the document of [`a_stranger_may_not_connect_where_allow_says_who_may`] back.
async fn open_again(stage: &Stage) {
    let host = &stage.mesh[0];
    host.remove_manifest("use.yaml");
    until(SOON, "the listener of the document is gone", async || {
        let listeners = host.try_json(&["listeners"]).await?;
        let all = listeners.as_array().into_iter().flatten();
        let gone = all.clone().all(|one| one["port"] != HERE);
        gone.then_some(()).ok_or_else(|| listeners.to_string())
    })
    .await;
}

#[tokio::test]
#[ignore = "needs root, iproute2, nftables, curl and cgroups"]
async fn root_two_services_and_a_stranger_behind_a_redirect_are_known_as_what_they_are() {
    let lab = Lab::new(2);
    let stage = stage(Mesh::in_lab(&lab), &format!("r{}", std::process::id())).await;
    a_stranger_may_not_connect_where_allow_says_who_may(&stage).await;
    open_again(&stage).await;
    all_are_known_as_what_they_are(stage, "redirect").await;
}

/// What the server at the end says first; nothing where the connection is not served.
async fn greeting(stream: impl AsyncRead + AsyncWrite + Unpin) -> String {
    let mut stream = stream;
    let mut all = String::new();
    // A refusal is a reset or an end, as the kind of socket has it.
    let _ = stream.shutdown().await;
    let _ = tokio::time::timeout(SOON, stream.read_to_string(&mut all)).await;
    all.trim().to_owned()
}

#[tokio::test]
async fn listeners_of_both_kinds_let_in_whom_allow_names_and_nobody_else() {
    let mut mesh = Mesh::of_hosts(1);
    mesh[0].cli(&["init", "--mesh", "test", "--service", "*/*", "--name", "a"]).await;
    mesh[0].start(&[]).await;
    let server = Server::start(mesh[0].ip, Conduct::Named("db".to_owned())).await;
    mesh[0].manifest("db.yaml", &db(server.address));
    let socket = mesh.folder().join("db.sock");
    let (path, tcp) = (socket.display().to_string(), SocketAddr::new(mesh[0].ip, HERE));
    let own = rustix::process::geteuid().as_raw();
    for (user, said) in [(own, "db"), (STRANGER, "")] {
        let document = format!(
            "apiVersion: skein/v1
kind: ServiceDiscovery
metadata: {{name: use-db, namespace: shop}}
spec:
  service: shop/db
  allow: {{user: \"{user}\"}}
  ports:
  - {{name: tcp-a, port: {HERE}, targetPort: {PORT}}}
  - {{name: tcp-b, address: \"unix:{path}\", targetPort: {PORT}}}
"
        );
        mesh[0].manifest("use.yaml", &document);
        until(SOON, "both listeners do as the document says", async || {
            let one = TcpStream::connect(tcp).await.map_err(|error| error.to_string())?;
            let other = UnixStream::connect(&socket).await.map_err(|error| error.to_string())?;
            let both = (greeting(one).await, greeting(other).await);
            (both == (said.into(), said.into())).then_some(()).ok_or_else(|| format!("{both:?}"))
        })
        .await;
    }
    until(SOON, "the access log says whom it refused, by either", async || {
        let refused = lines(&mesh[0], "outbound");
        let refused = refused.iter().filter(|line| line["end"] == "not_allowed");
        let uid = format!("a process of uid {own} may not connect here");
        let told = refused.filter(|line| line["detail"].as_str().is_some_and(|d| d.contains(&uid)));
        let count = told.count();
        (count >= 2).then_some(()).ok_or_else(|| count.to_string())
    })
    .await;
}

/// Connects from `port` of 127.0.0.1, which other connections may have as well, in that network
/// namespace, and waits until it is served.
fn connect_from(namespace: String, port: u16, to: SocketAddr) -> std::net::TcpStream {
    use rustix::{
        net::{AddressFamily, SocketType, bind, connect, socket, sockopt::set_socket_reuseaddr},
        thread::{LinkNameSpaceType, move_into_link_name_space},
    };
    // The thread ends with this, and so does its being elsewhere.
    let elsewhere = std::thread::spawn(move || {
        let room = fs::File::open(format!("/run/netns/{namespace}")).expect("a namespace");
        let network = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(std::os::fd::AsFd::as_fd(&room), network).expect("to enter it");
        let made = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        set_socket_reuseaddr(&made, true).expect("to share the port");
        bind(&made, &SocketAddr::from(([127, 0, 0, 1], port))).expect("the port");
        connect(&made, &to).expect("a connection");
        let mut stream = std::net::TcpStream::from(made);
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").expect("to ask");
        stream.set_read_timeout(Some(SOON)).expect("a limit");
        assert!(stream.read(&mut [0; 64]).expect("an answer") > 0);
        stream
    });
    elsewhere.join().expect("a thread")
}

#[tokio::test]
#[ignore = "needs root, iproute2, nftables, curl and cgroups"]
async fn root_a_caller_whose_port_the_redirect_mapped_is_known_all_the_same() {
    let lab = Lab::new(2);
    let stage = stage(Mesh::in_lab(&lab), &format!("m{}", std::process::id())).await;
    let Stage { mesh, .. } = &stage;
    mesh[0].manifest("batch.yaml", &workload("batch", 82, "{user: root}"));
    let process = SocketAddr::new(mesh[1].ip, PROCESS);
    mesh[1].manifest("other.yaml", &skein_tests::manifest::registry("other", PORT, process));
    let at = async |service: &str| {
        let (at, _) = until(SOON, "the service passes", async || {
            let detail = mesh[0].try_json(&["service", service]).await?;
            let at = detail["virtual_address"]
                .as_str()
                .filter(|_| detail["endpoints"][0]["status"] == "passing");
            at.map(str::to_owned).ok_or_else(|| detail.to_string())
        })
        .await;
        SocketAddr::new(at.parse::<IpAddr>().expect("an IP"), PORT)
    };
    // Both are sent to one listener; with one port at both the second gets another on the way.
    let (first, second) = (at("shop/other").await, at("shop/db").await);
    let name = &lab.rooms[0].name;
    until(SOON, "this process is shop/batch", async || {
        let seen = lines(&mesh[1], "inbound").len();
        drop(connect_from(name.clone(), 50_000, second));
        let served = line(&mesh[1], "inbound", seen).await;
        (served["source"] == "shop/batch").then_some(()).ok_or_else(|| served.to_string())
    })
    .await;
    let seen = lines(&mesh[1], "inbound").len();
    let held = connect_from(name.clone(), 50_001, first);
    drop(connect_from(name.clone(), 50_001, second));
    let served = line(&mesh[1], "inbound", seen).await;
    assert_eq!(served["source"], "shop/batch", "{served}");
    drop(held);
}

#[tokio::test]
#[ignore = "needs root, curl and cgroups"]
async fn root_two_services_and_a_stranger_at_a_bound_address_are_known_as_what_they_are() {
    namespace::require();
    let stage = stage(Mesh::of_hosts(2), &format!("l{}", std::process::id())).await;
    stage.mesh[0].cli(&["service", "shop/db", "--bind"]).await;
    a_stranger_may_not_connect_where_allow_says_who_may(&stage).await;
    open_again(&stage).await;
    all_are_known_as_what_they_are(stage, "listen").await;
}
