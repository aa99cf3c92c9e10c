//! Virtual addresses by redirect: they answer without being asked for, and nothing stays behind.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use skein_tests::{
    echo::{curl, serve},
    figure::figure,
    host::Host,
    manifest::agent,
    mesh::Mesh,
    namespace::Lab,
    wait::until,
};

const SOON: Duration = Duration::from_secs(10);
/// The process of the serving host, behind both ports of the service.
const PROCESS: u16 = 18_080;
/// A table of other hands, and a rule of theirs where ours are.
const FOREIGN: &str = "table inet guard {
  chain out { type filter hook output priority 0; ip daddr 192.0.2.1 drop; }
}";

/// shop/db with two ports, both its process's.
fn two_ports(process: SocketAddr) -> String {
    let (ip, port) = (process.ip(), process.port());
    format!(
        "apiVersion: skein/v1
kind: ServiceRegistry
metadata: {{name: db, namespace: shop}}
spec:
  ports:
  - {{name: http, port: 80, targetPort: {port}}}
  - {{name: http-admin, port: 8081, targetPort: {port}}}
  endpoints: [{{name: a, address: {ip}}}]
  checks: [{{type: tcp, interval: 500ms, timeout: 300ms, failuresBeforeCritical: 2}}]
"
    )
}

async fn call(host: &Host, at: &str, port: u16) -> Result<String, String> {
    let url = format!("http://{at}:{port}/");
    curl(host, &url).await
}

async fn address(host: &Host) -> String {
    let (address, _) = until(SOON, "the service has its address unasked", async || {
        let detail = host.try_json(&["service", "shop/db"]).await?;
        let address = detail["virtual_address"].as_str().map(str::to_owned);
        address.ok_or_else(|| detail.to_string())
    })
    .await;
    address
}

async fn mode(host: &Host) -> String {
    host.json(&["status"]).await["capture"]["mode"].as_str().unwrap_or_default().to_owned()
}

async fn reached(host: &Host, at: &str) {
    for port in [80, 8081] {
        until(SOON, "it answers on every port", async || call(host, at, port).await).await;
    }
}

#[tokio::test]
#[ignore = "needs root, iproute2, nftables and curl"]
async fn root_a_redirect_answers_unasked_outlives_a_crash_and_leaves_no_rule_behind() {
    let lab = Lab::new(2);
    lab.nft(0, FOREIGN);
    let before = lab.rules(0);
    let mut mesh = Mesh::in_lab(&lab);
    mesh.form().await;
    let _service = serve(&mesh[1], PROCESS, mesh.folder());
    mesh[1].manifest("db.yaml", &two_ports(SocketAddr::new(mesh[1].ip, PROCESS)));

    assert_eq!(mode(&mesh[0]).await, "redirect");
    let at = address(&mesh[0]).await;
    reached(&mesh[0], &at).await;
    call(&mesh[0], &at, 81).await.expect_err("a port that the service has not");
    let listeners = mesh[0].json(&["listeners"]).await;
    let virtual_ones = listeners.as_array().expect("a list").len();
    assert_eq!(virtual_ones, 2, "{listeners}");
    assert_eq!(listeners[0]["state"], "redirected", "{listeners}");
    until(SOON, "the access log says why", async || {
        let log = mesh[0].log();
        log.contains("no service of the mesh is at").then_some(()).ok_or(log)
    })
    .await;

    mesh[0].kill().await;
    assert!(lab.rules(0).contains("redirect"), "killed, it left its chain");
    mesh[0].manifest("agent.yaml", &agent(&["capture: listen"]));
    mesh[0].start(&[]).await;
    assert_eq!(mode(&mesh[0]).await, "listen");
    assert_eq!(lab.rules(0), before, "a chain would be in the way of listeners");
    mesh[0].remove_manifest("agent.yaml");
    mesh[0].stop(SOON).await;
    mesh[0].start(&[]).await;
    mesh[0].kill().await;
    mesh[0].start(&[]).await;
    assert_eq!(lab.rules(0).matches("redirect to").count(), 1, "{}", lab.rules(0));
    assert_eq!(address(&mesh[0]).await, at, "an address is kept");
    reached(&mesh[0], &at).await;

    mesh[0].stop(SOON).await;
    assert_eq!(lab.rules(0), before, "only what was there before");
    assert!(call(&mesh[0], &at, 80).await.is_err());
}

#[tokio::test]
#[ignore = "needs root, iproute2, nftables and curl"]
async fn root_a_flushed_firewall_gets_its_redirect_back() {
    let lab = Lab::new(1);
    let mut mesh = Mesh::in_lab(&lab);
    mesh.form().await;
    assert!(lab.rules(0).contains("redirect to"));
    // As a firewall does that is loaded anew. The agent looks every 30 s.
    lab.nft(0, "flush ruleset");
    let (_, took) = until(Duration::from_secs(45), "the redirect is back", async || {
        lab.rules(0).contains("redirect to").then_some(()).ok_or_else(|| lab.rules(0))
    })
    .await;
    figure("a flushed redirect is put in again", took);
    mesh[0].stop(SOON).await;
    assert_eq!(lab.rules(0), "");
}

#[tokio::test]
#[ignore = "needs root, iproute2, nftables and curl"]
async fn root_agents_of_one_network_have_a_chain_each_and_the_last_takes_the_table() {
    let lab = Lab::new(2);
    let mut mesh = Mesh::in_lab(&lab);
    for (n, host) in mesh.hosts.iter_mut().enumerate() {
        let last = u8::try_from(n + 1).expect("two");
        host.ip = IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
        host.namespace = Some(lab.rooms[0].name.clone());
    }
    mesh.form().await;
    let rules = lab.rules(0);
    assert_eq!(rules.matches("redirect to").count(), 2, "{rules}");
    for range in ["127.129.0.0/16", "127.130.0.0/16"] {
        assert!(rules.contains(&format!("ip daddr {range}")), "{rules}");
    }
    let _service = serve(&mesh[1], PROCESS, mesh.folder());
    mesh[1].manifest("db.yaml", &two_ports(SocketAddr::new(mesh[1].ip, PROCESS)));
    let (first, second) = (address(&mesh[0]).await, address(&mesh[1]).await);
    reached(&mesh[0], &first).await;
    reached(&mesh[0], &second).await;

    mesh[0].stop(SOON).await;
    let rules = lab.rules(0);
    assert_eq!(rules.matches("redirect to").count(), 1, "{rules}");
    reached(&mesh[1], &second).await;
    // What somebody else put into the table keeps it.
    lab.nft(0, "add chain inet skein theirs");
    mesh[1].stop(SOON).await;
    let rules = lab.rules(0);
    assert!(rules.contains("chain theirs") && !rules.contains("redirect"), "{rules}");
}

#[tokio::test]
#[ignore = "needs root, iproute2 and nftables"]
async fn root_an_agent_does_not_take_the_range_of_another_that_runs() {
    let lab = Lab::new(2);
    let mut mesh = Mesh::in_lab(&lab);
    // Addresses whose last part is the same have the same range.
    for (host, third) in mesh.hosts.iter_mut().zip([0, 1]) {
        host.ip = IpAddr::V4(Ipv4Addr::new(127, 0, third, 1));
        host.namespace = Some(lab.rooms[0].name.clone());
    }
    mesh.form().await;
    let rules = lab.rules(0);
    assert_eq!(rules.matches("redirect to").count(), 1, "{rules}");
    assert_eq!((mode(&mesh[0]).await, mode(&mesh[1]).await), ("redirect".into(), "listen".into()));
    let said = mesh[1].run(&["status"]).await;
    println!("{}", said.out);
    let told = "127.129.0.0/16 is redirected for the agent";
    assert!(said.code() == 3 && said.out.contains(told), "{}", said.out);
    assert!(said.out.contains("meshConfig.virtualAddresses"), "{}", said.out);
    mesh[1].stop(SOON).await;
    assert_eq!(lab.rules(0), rules, "the other's chain stands");
    mesh[0].stop(SOON).await;
    assert_eq!(lab.rules(0), "");
}

#[tokio::test]
async fn without_the_capability_redirect_says_so_and_listens_and_off_binds_nothing() {
    let mut mesh = Mesh::of_hosts(1);
    mesh[0].cli(&["init", "--mesh", "test", "--service", "*/*", "--name", "a"]).await;
    mesh[0].manifest("agent.yaml", &agent(&["capture: redirect"]));
    let process = std::net::TcpListener::bind((mesh[0].ip, 0)).expect("a port");
    mesh[0].manifest("db.yaml", &two_ports(process.local_addr().expect("bound")));
    mesh[0].start(&[]).await;
    assert_eq!(mode(&mesh[0]).await, "listen");
    let said = mesh[0].run(&["status"]).await;
    println!("{}", said.out);
    assert_eq!(said.code(), 3, "{said:?}");
    assert!(said.out.contains("CAP_NET_ADMIN") && said.out.contains("nftables"), "{}", said.out);
    let bound = async || {
        let said = mesh[0].run(&["service", "shop/db", "--bind"]).await;
        (said.code() == 0).then_some(said.out.clone()).ok_or_else(|| format!("{said:?}"))
    };
    let (said, _) = until(SOON, "it is bound as asked for", bound).await;
    assert!(said.contains("8081"), "{said}");
    mesh[0].stop(SOON).await;

    mesh[0].manifest("agent.yaml", &agent(&["capture: off"]));
    mesh[0].start(&[]).await;
    assert_eq!(mode(&mesh[0]).await, "off");
    let detail = mesh[0].json(&["service", "shop/db"]).await;
    assert!(detail["virtual_address"].is_null(), "{detail}");
    let said = mesh[0].run(&["service", "shop/db", "--bind"]).await;
    assert_eq!(said.code(), 1, "{said:?}");
    assert!(said.err.contains("capture is off") && said.err.contains("ServiceDiscovery"));
}
