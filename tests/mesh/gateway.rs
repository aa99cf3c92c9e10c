//! Gateways: ports of `type: LoadBalancer` open to those outside, by host, with TLS that follows
//! its files, and what clashes said.

use std::{net::SocketAddr, path::Path, time::Duration};

use skein_tests::{
    manifest::agent,
    mesh::Mesh,
    wait::until,
    web::{Client, Web, raw},
};
use tokio::process::Command;

const SOON: Duration = Duration::from_secs(15);

/// A service of that name whose port is open to the outside.
fn exposed(name: &str, port: &str, hosts: &str, process: SocketAddr) -> String {
    let (address, target) = (process.ip(), process.port());
    format!(
        "apiVersion: skein/v1
kind: ServiceRegistry
metadata: {{name: {name}, namespace: shop}}
spec:
  ports: [{{name: {port}, port: 8088, targetPort: {target}, type: LoadBalancer{hosts}}}]
  endpoints: [{{name: a, address: {address}, port: {target}}}]
  checks: []
"
    )
}

/// The first host is the gateway; each other one serves a service of its own.
async fn stand(services: &[(&str, &str)], settings: &str) -> (Mesh, SocketAddr, Vec<Web>) {
    let mut mesh = Mesh::of_hosts(services.len() + 1);
    mesh[0].manifest("agent.yaml", &agent(&[settings]));
    mesh.form().await;
    let mut webs = Vec::new();
    for (host, (name, hosts)) in mesh.hosts[1..].iter().zip(services) {
        let web = Web::start(host.ip, name).await;
        host.manifest("web.yaml", &exposed(name, "http", hosts, web.address));
        webs.push(web);
    }
    let door = SocketAddr::new(mesh[0].ip, 8088);
    (mesh, door, webs)
}

async fn ask(door: SocketAddr, host: &str) -> Result<(u16, String, String), String> {
    let request = hyper::Request::get("/x")
        .header("host", host)
        .header("x-forwarded-for", "192.0.2.1")
        .body(http_body_util::Full::default())
        .expect("a request");
    let got = Client::to(door).await?.send(request).await?;
    Ok((got.status, got.body.clone(), got.reason().to_owned()))
}

async fn leads(door: SocketAddr, host: &str, wanted: &str) {
    until(SOON, &format!("{host} leads to {wanted}"), async || {
        let got = ask(door, host).await?;
        (got.0 == 200 && got.1 == wanted).then_some(()).ok_or_else(|| format!("{got:?}"))
    })
    .await;
}

#[tokio::test]
async fn one_port_leads_to_services_by_host_and_says_who_called() {
    let services = [("one", ", hosts: [one.example.com, \"*.one.example.com\"]"), ("two", "")];
    let (mesh, door, webs) = stand(&services, "gateway: {services: [\"*/*\"]}").await;
    leads(door, "one.example.com", "one").await;
    leads(door, "x.one.example.com:8088", "one").await;
    leads(door, "anything.else", "two").await;
    let seen = webs[0].seen();
    let one = &seen[0];
    let client = mesh[0].ip.to_string();
    assert!(one.header("x-forwarded-for").starts_with("192.0.2.1, 127."), "{one:?} {client}");
    assert_eq!(one.header("x-forwarded-host"), "one.example.com");
    assert_eq!(one.header("x-forwarded-proto"), "http");
    assert_eq!(one.header("x-skein-source"), format!("node {} from outside", mesh[0].name));
    // Not a port of the mesh's own: nothing listens at it elsewhere.
    assert!(Client::to(SocketAddr::new(mesh[1].ip, 8088)).await.is_err());
    // Strict here too.
    let answer = raw(door, b"GET //x HTTP/1.1\r\nhost: one.example.com\r\n\r\n").await;
    assert!(answer.expect("an end").starts_with("HTTP/1.1 400"));
}

#[tokio::test]
async fn two_services_that_want_one_port_are_named_and_the_first_keeps_it() {
    let (mesh, door, _webs) =
        stand(&[("alpha", ""), ("beta", "")], "gateway: {services: [\"*/*\"]}").await;
    let status = until(SOON, "the clash is said", async || {
        let status = mesh[0].try_json(&["status"]).await?;
        let problems = status["problems"].to_string();
        problems.contains("both want gateway port 8088").then_some(problems.clone()).ok_or(problems)
    })
    .await
    .0;
    assert!(status.contains("shop/alpha") && status.contains("shop/beta"), "{status}");
    leads(door, "a", "alpha").await;
    let host = "gateway: {ports: [8088], services: [shop/beta]}";
    mesh[0].manifest("agent.yaml", &agent(&[host]));
    leads(door, "a", "beta").await;
    mesh[0].manifest("agent.yaml", &agent(&["gateway: false"]));
    until(SOON, "the port is closed", async || match Client::to(door).await {
        Ok(_) => Err("open".to_owned()),
        Err(_) => Ok(()),
    })
    .await;
}

/// `outside` in a policy means what came in by a gateway.
#[tokio::test]
async fn a_policy_tells_those_outside_from_the_others() {
    let (mesh, door, webs) = stand(&[("one", "")], "gateway: {services: [\"*/*\"]}").await;
    leads(door, "a", "one").await;
    let file = mesh.folder().join("policy.yaml");
    let text = "apiVersion: skein/v1
kind: AccessPolicy
metadata: {name: outsiders, namespace: shop}
spec: {destination: one, action: deny, from: [{outside: true}], to: [{paths: [\"/x*\"]}]}
";
    std::fs::write(&file, text).expect("a document");
    mesh[0].cli(&["apply", "--wait", "--cut", "-f", &file.display().to_string()]).await;
    let before = webs[0].count();
    let (status, body, reason) = ask(door, "a").await.expect("an answer");
    assert_eq!((status, &*reason), (403, "denied"), "{body}");
    assert_eq!(body, "denied\n", "strangers learn no more");
    let log = mesh[0].log();
    assert!(log.contains("AccessPolicy shop/outsiders"), "{log}");
    assert_eq!(webs[0].count(), before);
}

/// A certificate for a name, signed by itself, as `openssl` makes it.
async fn certificate(folder: &Path, file: &str, name: &str) {
    let (key, chain) = (folder.join(format!("{file}.key")), folder.join(format!("{file}.new")));
    let made = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"])
        .args(["-days", "2", "-subj", "/CN=test", "-addext"])
        .arg(format!("subjectAltName=DNS:{name}"))
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&chain)
        .output()
        .await
        .expect("openssl");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    std::fs::rename(chain, folder.join(format!("{file}.crt"))).expect("a certificate");
}

async fn curl(
    door: SocketAddr,
    host: &str,
    trusted: &Path,
    more: &[&str],
) -> Result<String, String> {
    let run = Command::new("curl")
        .args(["-sS", "--max-time", "5", "--cacert"])
        .arg(trusted)
        .arg("--connect-to")
        .arg(format!("{host}:443:{door}"))
        .args(more)
        .arg(format!("https://{host}/x"))
        .output()
        .await
        .map_err(|error| error.to_string())?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if run.status.success() { Ok(text(&run.stdout)) } else { Err(text(&run.stderr)) }
}

#[tokio::test]
#[ignore = "needs curl and openssl"]
async fn tls_ends_at_the_gateway_by_name_and_follows_its_files() {
    let services = [("one", ", hosts: [one.test]"), ("two", ", hosts: [two.test]")];
    let (mesh, door, webs) =
        stand(&services, "gateway: {services: [shop/*], certificates: tls.d}").await;
    // Relative to the document's file.
    let folder = mesh[0].manifests.join("tls.d");
    std::fs::create_dir_all(&folder).expect("a folder");
    certificate(&folder, "one", "one.test").await;
    certificate(&folder, "two", "two.test").await;
    for name in ["one", "two"] {
        let trusted = folder.join(format!("{name}.crt"));
        until(SOON, "TLS by name", async || {
            let got = curl(door, &format!("{name}.test"), &trusted, &[]).await?;
            (got == name).then_some(()).ok_or(got)
        })
        .await;
    }
    assert_eq!(webs[0].seen()[0].header("x-forwarded-proto"), "https");
    let version = ["--http2", "-o", "/dev/null", "-w", "%{http_version}"];
    let trusted = folder.join("one.crt");
    assert_eq!(curl(door, "one.test", &trusted, &version).await.as_deref(), Ok("2"));
    // The other's certificate is not this one's.
    assert!(curl(door, "one.test", &folder.join("two.crt"), &[]).await.is_err());

    // A new file is used for new connections; a bad one is said, and what worked stays.
    let old = std::fs::read(&trusted).expect("the old certificate");
    let kept = mesh.folder().join("old.crt");
    std::fs::write(&kept, old).expect("a copy");
    certificate(&folder, "one", "one.test").await;
    until(SOON, "the new certificate is shown", async || {
        curl(door, "one.test", &trusted, &[]).await.map(drop)
    })
    .await;
    assert!(curl(door, "one.test", &kept, &[]).await.is_err(), "the old one is still shown");
    std::fs::write(folder.join("three.crt"), "no certificate").expect("a bad file");
    until(SOON, "the bad file is said", async || {
        let status = mesh[0].try_json(&["status"]).await?.to_string();
        status.contains("three.crt").then_some(()).ok_or(status)
    })
    .await;
    assert_eq!(curl(door, "one.test", &trusted, &[]).await.as_deref(), Ok("one"));
    // `skein certs` has them with their ends.
    let shown = mesh[0].json(&["certs"]).await;
    let of = |name: &str| {
        let mut all = shown.as_array().expect("a list").iter();
        all.find(|one| one["kind"] == "gateway" && one["path"].to_string().contains(name)).cloned()
    };
    let one = of("one.crt").expect("it is listed");
    assert_eq!(one["name"], "one.test");
    assert!(one["seconds_left"].as_i64().expect("a number") > 86_400, "{one}");
    assert!(of("three.crt").expect("it is listed")["problem"].is_string());
}

/// A header of the PROXY protocol, version 2, for that client (haproxy's proxy-protocol.txt 2.2).
fn proxy_header(client: SocketAddr) -> Vec<u8> {
    let SocketAddr::V4(client) = client else { panic!("an IPv4 client") };
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    bytes.extend(client.ip().octets());
    bytes.extend([127, 0, 0, 1]);
    bytes.extend(client.port().to_be_bytes());
    bytes.extend(80u16.to_be_bytes());
    bytes
}

/// The PROXY protocol both ways: a balancer's word about the client is taken from a balancer only,
/// and a process that asks for it is told.
#[tokio::test]
async fn the_proxy_protocol_is_read_of_balancers_and_written_to_processes() {
    let (mesh, door, webs) =
        stand(&[("one", "")], "gateway: {services: [shop/*], proxyProtocol: [127.0.0.0/8]}").await;
    let client: SocketAddr = "192.0.2.44:4444".parse().expect("an address");
    let request = b"GET /p HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let bytes = [proxy_header(client), request.to_vec()].concat();
    until(SOON, "a balancer's client is answered", async || {
        let answer = raw(door, &bytes).await?;
        answer.starts_with("HTTP/1.1 200").then_some(()).ok_or(answer)
    })
    .await;
    let seen = webs[0].seen();
    let one = seen.iter().find(|one| one.path == "/p").expect("it came through");
    assert_eq!(one.header("x-forwarded-for"), "192.0.2.44");
    // Without the header a balancer's connection is not taken, and the log says why.
    let answer = raw(door, request).await.expect("an end");
    assert_eq!(answer, "");
    until(SOON, "it is logged", async || {
        let log = mesh[0].log();
        log.contains("the PROXY header of a balancer").then_some(()).ok_or(log)
    })
    .await;
    // From anybody else such a header is no request.
    mesh[0].manifest(
        "agent.yaml",
        &agent(&["gateway: {services: [shop/*], proxyProtocol: [192.0.2.1]}"]),
    );
    until(SOON, "the header is refused", async || {
        let answer = raw(door, &bytes).await?;
        answer.starts_with("HTTP/1.1 400").then_some(()).ok_or(answer)
    })
    .await;

    // To a process: of bytes here.
    let listener = tokio::net::TcpListener::bind((mesh[1].ip, 0)).await.expect("a port");
    let process = listener.local_addr().expect("a bound socket");
    let text = exposed("told", "tcp", "", process).replace("port: 8088", "port: 8099");
    let text = text.replace("type: LoadBalancer", "type: LoadBalancer, proxyProtocol: true");
    mesh[1].manifest("told.yaml", &text);
    let door = SocketAddr::new(mesh[0].ip, 8099);
    let (mut outside, _) = until(SOON, "the door is open", async || {
        tokio::net::TcpStream::connect(door).await.map_err(|error| error.to_string())
    })
    .await;
    let (mut inside, _) = tokio::time::timeout(SOON, listener.accept())
        .await
        .expect("a connection in time")
        .expect("a connection");
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    outside.write_all(b"hello").await.expect("sent");
    let mut got = vec![0; 28 + 5];
    inside.read_exact(&mut got).await.expect("the header and the bytes");
    let me = outside.local_addr().expect("an address");
    let mut wanted = proxy_header(me);
    wanted[20..24].copy_from_slice(&match process.ip() {
        std::net::IpAddr::V4(ip) => ip.octets(),
        std::net::IpAddr::V6(_) => panic!("an IPv4 process"),
    });
    wanted[26..28].copy_from_slice(&process.port().to_be_bytes());
    wanted.extend(b"hello");
    assert_eq!(got, wanted);
}

/// A connection from that address.
async fn from(address: [u8; 4], door: SocketAddr) -> std::io::Result<tokio::net::TcpStream> {
    let socket = tokio::net::TcpSocket::new_v4()?;
    socket.bind((address, 0).into())?;
    socket.connect(door).await
}

/// Eleven connections of HTTP/2 with a hundred requests each that never end; gives how many were
/// answered with 429, and what holds the others.
async fn flood(door: SocketAddr) -> (usize, tokio::task::JoinSet<()>) {
    use hyper_util::rt::{TokioExecutor, TokioIo};
    let (answered, mut told) = tokio::sync::mpsc::channel(2048);
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..11 {
        let stream = from([127, 0, 0, 250], door).await.expect("a connection");
        let io = TokioIo::new(stream);
        let (sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.expect("HTTP/2");
        running.spawn(async move { drop(connection.await) });
        for _ in 0..100 {
            let (mut sender, answered) = (sender.clone(), answered.clone());
            running.spawn(async move {
                let request = hyper::Request::get("http://one.example.com/never")
                    .body(http_body_util::Full::<hyper::body::Bytes>::default())
                    .expect("a request");
                if let Ok(response) = sender.send_request(request).await {
                    let _ = answered.try_send(response.status().as_u16());
                }
            });
        }
    }
    let mut count = 0;
    while count < 11 * 100 - 256 {
        let next = tokio::time::timeout(SOON, told.recv()).await;
        let status = next.expect("those beyond the share are answered").expect("a status");
        assert_eq!(status, 429);
        count += 1;
    }
    (count, running)
}

/// One address costs its share: of what a service's host takes of this gateway something is left for
/// the others, and what has switched to another protocol is counted as long as it lives.
#[tokio::test]
async fn one_address_does_not_take_a_gateway_from_the_others() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut mesh = Mesh::of_hosts(2);
    mesh[0].manifest("agent.yaml", &agent(&["gateway: {services: [shop/*]}"]));
    mesh.form().await;
    let door = SocketAddr::new(mesh[0].ip, 8088);
    let held = Web::start(mesh[1].ip, "one").await;
    held.answers(skein_tests::web::Answer::Never);
    let other = Web::start(mesh[1].ip, "two").await;
    let hosts = ", hosts: [one.example.com]";
    mesh[1].manifest("one.yaml", &exposed("one", "http", hosts, held.address));
    mesh[1].manifest("two.yaml", &exposed("two", "http", "", other.address));
    leads(door, "two", "two").await;
    let (_, _flood) = flood(door).await;
    // From another address: handshakes of WebSockets, which the service keeps waiting.
    let mut sockets = Vec::new();
    for _ in 0..200 {
        let mut socket = from([127, 0, 0, 251], door).await.expect("a connection");
        let asked = b"GET /ws HTTP/1.1\r\nhost: one.example.com\r\nconnection: upgrade\r\n\
            upgrade: websocket\r\nsec-websocket-version: 13\r\n\
            sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        socket.write_all(asked).await.expect("sent");
        sockets.push(socket);
    }
    let (answered, mut told) = tokio::sync::mpsc::channel(2048);
    let mut reading = tokio::task::JoinSet::new();
    for mut socket in sockets {
        let answered = answered.clone();
        reading.spawn(async move {
            let mut first = [0; 12];
            if socket.read_exact(&mut first).await.is_ok() {
                let _ = answered.try_send(first);
            }
            // Held open as long as the task is.
            std::future::pending::<()>().await;
        });
    }
    for _ in 0..200 - 128 {
        let next = tokio::time::timeout(SOON, told.recv()).await;
        let first = next.expect("those beyond the share are answered").expect("a status");
        assert_eq!(&first, b"HTTP/1.1 429");
    }
    for _ in 0..50 {
        let (status, body, reason) = ask(door, "two").await.expect("an answer");
        assert_eq!((status, &*body), (200, "two"), "{reason}");
    }
    assert!(told.is_empty(), "the others of its share wait");
}

/// An open connection does not keep what the gateway no longer opens: it ends between two requests.
#[tokio::test]
async fn a_connection_that_is_open_does_not_outlive_its_door() {
    let open = "gateway: {services: [shop/*]}";
    let (mesh, door, _webs) =
        stand(&[("one", ""), ("two", ", hosts: [two.example.com]")], open).await;
    leads(door, "a", "one").await;
    leads(door, "two.example.com", "two").await;
    let mut one = Client::to(door).await.expect("a connection");
    let get = || {
        let request = hyper::Request::get("/x").header("host", "a");
        request.body(http_body_util::Full::default()).expect("a request")
    };
    assert_eq!(one.send(get()).await.expect("an answer").status, 200);
    // Only the other one is open now, at the same port.
    mesh[0].manifest("agent.yaml", &agent(&["gateway: {services: [shop/two]}"]));
    let ends = async |mut client: Client, why: &str| {
        until(SOON, why, async || match client.send(get()).await {
            Ok(got) => Err(format!("{}", got.status)),
            Err(_) => Ok(()),
        })
        .await;
    };
    ends(one, "the connection to what is closed ends").await;
    let other = Client::to(door).await.expect("the port is open");
    mesh[0].manifest("agent.yaml", &agent(&["gateway: false"]));
    ends(other, "the connection to a port that is gone ends").await;
}
