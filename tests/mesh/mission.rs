//! The four kinds as the mission shapes them, on real agents: accepted as they stand, and what
//! each field does.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use serde_json::Value;
use skein_tests::{
    host::Host,
    manifest::agent,
    mesh::{Mesh, token_in},
    namespace::Lab,
    server::{Conduct, Server},
    wait::until,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const SOON: Duration = Duration::from_secs(20);
const MISSION: &str = include_str!("../golden/mission-manifests.yaml");

/// The document of that kind alone.
fn document(kind: &str) -> String {
    let of_kind = |text: &&str| text.contains(&format!("kind: {kind}\n"));
    MISSION.split("\n---\n").find(of_kind).expect("the mission has one").to_owned()
}

/// A host of a name at an address of the lab's one room.
fn host(mesh: &Mesh, lab: &Lab, name: &str, ip: &str) -> Host {
    let ip: IpAddr = ip.parse().expect("an address");
    Host::in_namespace(name, mesh.folder(), ip, &lab.rooms[0].name)
}

#[tokio::test]
#[ignore = "needs root and iproute2"]
async fn root_the_missions_documents_are_accepted_as_they_stand_and_have_their_effects() {
    let lab = Lab::new(1);
    let mesh = Mesh::in_lab(&lab);
    // The seed that the documents name is 127.0.0.1:7400.
    let mut first = host(&mesh, &lab, "first", "127.0.0.1");
    let init =
        ["init", "--mesh", "prod", "--service", "*/*", "--name", "first", "--zone", "eu-west-1a"];
    let said = first.cli(&init).await;
    let token = token_in(&said.out).expect("a token");
    first.start(&[]).await;

    // serviceMesh, the seed, meshPassword from the environment, meshCA and the like beside it.
    let mut second = host(&mesh, &lab, "second", "127.0.0.2");
    second.manifest("mission.yaml", MISSION);
    let validated = second.run(&["validate", second.manifests.to_str().expect("a path")]).await;
    assert_eq!(validated.code(), 0, "{validated:?}");
    let mut server = second.program("python3");
    server.args(["-m", "http.server", "8080", "--bind", "127.0.0.1", "--directory"]);
    let www = mesh.folder().join("www");
    std::fs::create_dir(&www).expect("a folder");
    std::fs::write(www.join("index.html"), "the catalog").expect("a page");
    server.arg(&www).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let _server = server.spawn().expect("python3");
    second.launch_with(&[], &[("SKEIN_TOKEN", token.as_str())]);
    second.answers().await;
    until(SOON, "both are in one mesh", async || {
        let status = first.try_json(&["status"]).await?;
        (status["members"]["alive"] == 2).then_some(()).ok_or_else(|| status.to_string())
    })
    .await;
    for file in ["ca.pem", "node.pem", "node.key"] {
        assert!(second.manifests.join(file).exists(), "{file} lies beside the document");
    }

    let status = second.json(&["status"]).await;
    // serviceMesh and serviceCluster.
    assert_eq!(status["mesh"], "prod", "{status}");
    assert_eq!(status["zone"], "eu-west-1a", "{status}");
    let problems = status["problems"].to_string();
    // What this version does not do is said; `image: skein:1` is what it was written for.
    assert!(problems.contains("needs an operator"), "{problems}");
    assert!(!problems.contains("no effect"), "{problems}");
    // debug.
    let level = second.json(&["log-level"]).await;
    assert_eq!(level["filter"], "debug", "{level}");

    // ServiceRegistry: image and its version, ports, the endpoint's name and address.
    let detail = until(SOON, "the catalog passes", async || {
        let detail = first.try_json(&["service", "shop/service-registry"]).await?;
        let passing = detail["endpoints"][0]["status"] == "passing";
        passing.then_some(detail.clone()).ok_or_else(|| detail.to_string())
    })
    .await
    .0;
    let endpoint = &detail["endpoints"][0];
    assert_eq!(endpoint["version"], "1.4.2", "{detail}");
    assert_ne!(endpoint["node"], "first", "{detail}");
    assert!(endpoint["id"].as_str().is_some_and(|id| id.ends_with("/catalog-a")), "{detail}");
    let ports: Vec<&Value> = detail["ports"].as_array().expect("ports").iter().collect();
    assert_eq!((&ports[0]["port"], &ports[1]["port"]), (&80.into(), &8081.into()), "{detail}");

    // ServiceDiscovery: the service that runs this image, at the listener's port.
    until(SOON, "the listener answers", async || {
        let mut curl = second.program("curl");
        curl.args(["-sS", "--max-time", "3", "http://127.0.0.2:9080/"]);
        let output = curl.output().await.map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (text == "the catalog").then_some(()).ok_or(text)
    })
    .await;
    // enableLogs.
    until(SOON, "an access log", async || {
        let log = second.log();
        log.contains("\"side\":\"outbound\"").then_some(()).ok_or(log)
    })
    .await;

    // TrafficManagement: signed, stored, shown everywhere.
    let file = mesh.folder().join("traffic.yaml");
    let traffic = format!("apiVersion: apps/v1\n{}", document("TrafficManagement"));
    let traffic = traffic.replacen("apiVersion: apps/v1\napiVersion", "apiVersion", 1);
    std::fs::write(&file, traffic).expect("a file");
    let file = file.display().to_string();
    let said = first.cli(&["apply", "--wait", "-f", &file]).await;
    assert!(said.out.contains("TrafficManagement shop/traffic-management created"), "{said:?}");
    let shown = second.json(&["get", "traffic"]).await;
    let in_force = shown.as_array().expect("documents").iter();
    let in_force: Vec<&Value> = in_force.filter(|one| one["state"] == "in force").collect();
    assert_eq!(in_force.len(), 1, "{shown}");
    assert!(in_force[0]["yaml"].to_string().contains("catalog-a"), "{shown}");
    let described = second.run(&["describe", "traffic", "shop/traffic-management"]).await;
    assert!(described.out.contains("operator:operator"), "{described:?}");

    // Another instance of the same service, on a host that is a gateway: what is LoadBalancer is
    // open there, and the Route leads to catalog-a alone, as long as it is there.
    first.cli(&["delete", "TrafficManagement", "shop/traffic-management", "--wait"]).await;
    let mut third = host(&mesh, &lab, "third", "127.0.0.3");
    let other = document("ServiceRegistry")
        .replace("name: service-registry", "name: other")
        .replace("spec:\n", "spec:\n  service: service-registry\n")
        .replace(
            "catalog-a, address: 127.0.0.1, port: 8080",
            "catalog-b, address: 127.0.0.3, port: 8080",
        );
    third.manifest("other.yaml", &other);
    third.manifest(
        "agent.yaml",
        &agent(&["gateway: {services: [\"*/*\"]}"])
            .replace("serviceMesh: test", "serviceMesh: prod"),
    );
    let mut server = third.program("python3");
    server.args(["-m", "http.server", "8080", "--bind", "127.0.0.3", "--directory"]);
    let www = mesh.folder().join("other");
    std::fs::create_dir(&www).expect("a folder");
    std::fs::write(www.join("index.html"), "the other catalog").expect("a page");
    server.arg(&www).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null());
    let _other = server.kill_on_drop(true).spawn().expect("python3");
    let join = ["join", "127.0.0.1:7400", "--name", "third"];
    let roles = ["token", "create", "--name", "*", "--service", "*/*", "--role", "gateway"];
    let token = first.cli(&roles).await.out.trim().to_owned();
    let joined = third.run_with(&join, &[("SKEIN_TOKEN", token.as_str())]).await;
    assert!(joined.status.success(), "{joined:?}");
    third.start(&[]).await;
    let fetch = async |url: &str| {
        let mut curl = second.program("curl");
        curl.args(["-sS", "--max-time", "3", url]);
        let output = curl.output().await.map_err(|error| error.to_string())?;
        Ok::<_, String>(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    // Without it the instance on the gateway's own host is the nearest.
    let door = "http://127.0.0.3:80/";
    until(SOON, "the nearest instance answers", async || {
        let got = fetch(door).await?;
        (got == "the other catalog").then_some(()).ok_or(got)
    })
    .await;
    first.cli(&["apply", "--wait", "-f", &file]).await;
    for url in [door, "http://127.0.0.2:9080/"] {
        for _ in 0..20 {
            assert_eq!(fetch(url).await.as_deref(), Ok("the catalog"), "{url}");
        }
    }
    assert!(third.log().contains("\"status\":200"), "requests are read where a rule is");
}

/// A call to a service's virtual address carries what is sent and brings it back.
async fn echoes(address: SocketAddr) -> Result<(), String> {
    let call = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"ping").await?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await
    };
    let done = timeout(Duration::from_secs(3), call).await.map_err(|_| "no echo".to_owned())?;
    done.map(drop).map_err(|error| error.to_string())
}

/// `servicePort`, `serviceTargetPort` and `serviceDiscovery`: what they say holds for documents
/// that leave it out, and for services without a document of their own.
#[tokio::test]
async fn the_defaults_of_mesh_config_hold_where_documents_leave_them_out() {
    let mut mesh = Mesh::of_hosts(2);
    let server = Server::start(mesh[1].ip, Conduct::Echo).await;
    let target = format!("serviceTargetPort: {}", server.address.port());
    mesh[1].manifest("agent.yaml", &agent(&["servicePort: 8085", &target]));
    let text = format!(
        "apiVersion: skein/v1
kind: ServiceRegistry
metadata: {{name: plain, namespace: shop}}
spec:
  ports: [{{name: tcp}}]
  endpoints: [{{name: a, address: {}}}]
",
        mesh[1].ip
    );
    mesh[1].manifest("plain.yaml", &text);
    mesh.form().await;
    // Both ports come from meshConfig: what is dialled, and what lies behind it.
    until(SOON, "it passes at the default ports", async || {
        let detail = mesh[0].try_json(&["service", "shop/plain"]).await?;
        let passing = detail["endpoints"][0]["status"] == "passing";
        let port = detail["ports"][0]["port"] == 8085;
        (passing && port).then_some(()).ok_or_else(|| detail.to_string())
    })
    .await;

    // Only shop/web may call it. Who comes by its virtual address counts as what the default
    // document says, and as its node where nothing is said.
    let rule = "apiVersion: skein/v1
kind: AccessPolicy
metadata: {name: callers, namespace: shop}
spec: {destination: plain, action: allow, from: [{service: shop/web}]}
";
    let file = mesh.folder().join("rule.yaml");
    std::fs::write(&file, rule).expect("a file");
    mesh[0].cli(&["apply", "--wait", "-f", file.to_str().expect("a path")]).await;
    let bound = mesh[0].json(&["service", "shop/plain", "--bind"]).await;
    let address = bound["virtual_address"].as_str().expect("an address");
    let address = SocketAddr::new(address.parse().expect("an address"), 8085);
    until(SOON, "the address is bound, and nobody is let in", async || {
        match echoes(address).await {
            Ok(()) => Err("it was carried".to_owned()),
            Err(why) if why.contains("refused") => Err(why),
            Err(_) => Ok(()),
        }
    })
    .await;
    let defaults = "apiVersion: skein/v1
kind: ServiceDiscovery
metadata: {name: defaults, namespace: shop}
spec: {service: shop/none, source: shop/web, ports: [{name: tcp, port: 9099, targetPort: 8085}]}
";
    mesh[0].manifest("defaults.yaml", defaults);
    mesh[0].manifest("agent.yaml", &agent(&["serviceDiscovery: defaults"]));
    until(SOON, "calls count as shop/web", async || echoes(address).await).await;
}

/// `meshPassword`: while there is no certificate, the join token, from a file beside the document;
/// of a key that is encrypted, its passphrase.
#[tokio::test]
#[ignore = "needs openssl"]
async fn mesh_password_is_the_join_token_and_then_the_passphrase_of_the_key() {
    let mesh = Mesh::of_hosts(1);
    let mut first = mesh.hosts.into_iter().next().expect("a host");
    let said = first.cli(&["init", "--mesh", "test", "--service", "*/*", "--name", "a"]).await;
    let token = token_in(&said.out).expect("a token");
    first.start(&[]).await;

    let mut second = Host::on_loopback("b", first.dir.parent().expect("a folder"));
    std::fs::write(second.manifests.join("token"), format!("{token}\n")).expect("a token");
    second.manifest("agent.yaml", &agent(&["meshPassword: {file: token}"]));
    let seed = format!("{}:7400", first.ip);
    second.start(&["--join", &seed]).await;
    until(SOON, "it is in the mesh", async || {
        let status = first.try_json(&["status"]).await?;
        (status["members"]["alive"] == 2).then_some(()).ok_or_else(|| status.to_string())
    })
    .await;

    // Its key is sealed. Without the passphrase it does not start, and says what lacks.
    second.kill().await;
    let key = second.dir.join("node.key");
    let mut seal = second.program("openssl");
    seal.args(["pkcs8", "-topk8", "-passout", "pass:correct-horse", "-in"]).arg(&key);
    let sealed = seal.output().await.expect("openssl");
    assert!(sealed.status.success(), "{sealed:?}");
    std::fs::write(&key, &sealed.stdout).expect("a key");
    second.manifest("agent.yaml", &agent(&[]));
    second.launch(&["--join", &seed]);
    let ended = second.agent().wait(SOON).await;
    assert!(!ended.success() && second.log().contains("meshConfig.meshPassword"), "{ended}");
    std::fs::write(second.manifests.join("token"), "battery-staple\n").expect("a passphrase");
    second.manifest("agent.yaml", &agent(&["meshPassword: {file: token}"]));
    second.launch(&["--join", &seed]);
    second.agent().wait(SOON).await;
    assert!(second.log().contains("does not open it"), "{}", second.log());
    std::fs::write(second.manifests.join("token"), "correct-horse\n").expect("a passphrase");
    second.start(&["--join", &seed]).await;
    until(SOON, "it is back", async || {
        let status = first.try_json(&["status"]).await?;
        (status["members"]["alive"] == 2).then_some(()).ok_or_else(|| status.to_string())
    })
    .await;
}
