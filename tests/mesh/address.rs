//! Where a host is reached: found by itself, said anew when it changes, and its seeds by all their
//! addresses.

use std::time::Duration;

use skein_tests::{figure::figure, mesh::Mesh, namespace::Lab, wait::until};

const SOON: Duration = Duration::from_secs(20);

/// Two rooms, each with a default route, and on the second a bridge of containers whose address is
/// the numerically smallest.
fn lab(count: u8) -> Lab {
    let lab = Lab::new(count);
    for n in 0..usize::from(count) {
        lab.ip(n, &["route", "add", "default", "dev", "eth0"]);
    }
    lab
}

async fn shows(mesh: &Mesh, at: usize, name: &str, address: &str) -> Duration {
    let what = format!("{} shows {name} alive at {address}", mesh[at].name);
    let ((), took) = until(SOON, &what, async || {
        let members = mesh[at].try_json(&["members"]).await?;
        let all = members.as_array().cloned().unwrap_or_default();
        let is = |m: &serde_json::Value| {
            m["name"] == name && m["address"] == address && m["state"] == "alive"
        };
        all.iter().any(is).then_some(()).ok_or_else(|| members.to_string())
    })
    .await;
    took
}

#[tokio::test]
#[ignore = "needs root, iproute2 and nftables"]
async fn root_a_host_is_reached_by_its_default_route_and_never_by_a_bridge_of_containers() {
    let lab = lab(2);
    lab.ip(1, &["link", "add", "docker0", "type", "bridge"]);
    lab.ip(1, &["addr", "add", "10.0.0.1/16", "dev", "docker0"]);
    lab.ip(1, &["link", "set", "docker0", "up"]);
    let mut mesh = Mesh::in_lab(&lab);
    mesh.hosts.iter_mut().for_each(|host| host.finds_address = true);
    mesh.form().await;
    shows(&mesh, 0, "b", "10.77.0.2:7400").await;
    shows(&mesh, 1, "a", "10.77.0.1:7400").await;
}

#[tokio::test]
#[ignore = "needs root, iproute2 and nftables"]
async fn root_a_host_that_starts_before_its_network_or_gets_another_lease_says_its_new_address() {
    let lab = lab(2);
    let mut mesh = Mesh::in_lab(&lab);
    mesh.hosts.iter_mut().for_each(|host| host.finds_address = true);
    mesh.form().await;
    assert!(mesh[1].stop(SOON).await.success());
    lab.ip(1, &["addr", "flush", "dev", "eth0"]);
    mesh[1].start(&[]).await;
    until(SOON, "it says that nobody can reach it", async || {
        let status = mesh[1].try_json(&["status"]).await?.to_string();
        status.contains("which no other host can reach").then_some(()).ok_or(status)
    })
    .await;
    lab.ip(1, &["addr", "add", "10.77.0.2/24", "dev", "eth0"]);
    lab.ip(1, &["route", "add", "default", "dev", "eth0"]);
    figure(
        "a network that comes late, to the peer's view",
        shows(&mesh, 0, "b", "10.77.0.2:7400").await,
    );

    // Another lease.
    lab.ip(1, &["addr", "del", "10.77.0.2/24", "dev", "eth0"]);
    lab.ip(1, &["addr", "add", "10.77.0.33/24", "dev", "eth0"]);
    lab.ip(1, &["route", "replace", "default", "dev", "eth0"]);
    figure("another lease, to the peer's view", shows(&mesh, 0, "b", "10.77.0.33:7400").await);
    let status = mesh[1].json(&["status"]).await.to_string();
    assert!(!status.contains("which no other host can reach"), "{status}");
}

#[tokio::test]
#[ignore = "needs root, iproute2 and nftables"]
async fn root_a_seed_whose_last_address_lives_is_joined_by_and_one_that_does_not_resolve_is_said() {
    let lab = lab(2);
    let mut mesh = Mesh::in_lab(&lab);
    mesh.form_first().await;
    // What `ip netns exec` shows as /etc there.
    let etc = std::path::Path::new("/etc/netns").join(&lab.rooms[1].name);
    std::fs::create_dir_all(&etc).expect("a folder for the room");
    let hosts: String = ["10.77.0.101", "10.77.0.102", "10.77.0.103", "10.77.0.104", "10.77.0.1"]
        .map(|ip| format!("{ip} seed.test\n"))
        .concat();
    std::fs::write(etc.join("hosts"), hosts).expect("a hosts file");
    let token = [("SKEIN_TOKEN", mesh.token.as_str())];
    let said = mesh[1].run_with(&["join", "seed.test", "--name", "b"], &token).await;
    assert!(said.status.success(), "{said:?}");
    mesh[1].start(&["--join", "seed.test", "--join", "nowhere.invalid"]).await;
    mesh.all_alive(2, SOON).await;
    until(SOON, "the name that does not resolve is said", async || {
        let status = mesh[1].try_json(&["status"]).await?.to_string();
        status.contains("seed nowhere.invalid:7400 does not resolve").then_some(()).ok_or(status)
    })
    .await;
    let log = mesh[1].log();
    assert!(log.contains("seed nowhere.invalid:7400 does not resolve"), "{log}");
    let _ = std::fs::remove_dir_all(etc);
}
