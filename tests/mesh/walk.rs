//! The walk-through of the README: init, token, join, a file dropped on one host, a call on another.

use std::{net::SocketAddr, time::Duration};

use skein_tests::{
    figure::figure,
    host::Host,
    manifest::{discovery, registry},
    mesh::{Mesh, token_in},
    server::{Conduct, Server},
    wait::until,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Where the service is dialled on hosts that use it: each host has an address of its own.
const HERE: u16 = 9080;
const PORT: u16 = 8080;
/// Five times the two seconds that issue 2 promises.
const SOON: Duration = Duration::from_secs(10);

/// The name that the server at the end of a path says, and that it sends back what it gets.
async fn ask(target: SocketAddr) -> Result<String, String> {
    let call = async {
        let mut stream = TcpStream::connect(target).await?;
        stream.write_all(b"is it you?").await?;
        stream.shutdown().await?;
        let mut all = String::new();
        stream.read_to_string(&mut all).await?;
        std::io::Result::Ok(all)
    };
    let all = tokio::time::timeout(Duration::from_secs(2), call).await;
    let all = all.map_err(|_| "no answer in 2 s".to_owned())?.map_err(|e| e.to_string())?;
    all.strip_suffix("\nis it you?").map(str::to_owned).ok_or(all)
}

async fn join_with(host: &mut Host, seed: &str, token: &str) {
    let variables = [("SKEIN_TOKEN", token)];
    let said = host.run_with(&["join", seed, "--name", &host.name], &variables).await;
    assert!(said.status.success(), "{} joins: {said:?}", host.name);
    host.start(&[]).await;
}

#[tokio::test]
async fn a_file_dropped_on_one_host_is_a_service_on_another_within_seconds() {
    let mut mesh = Mesh::of_hosts(3);
    let said = mesh[0].cli(&["init", "--mesh", "test", "--service", "*/*", "--name", "a"]).await;
    let first = token_in(&said.out).expect("init prints a token");
    mesh[0].start(&[]).await;
    let seed = mesh.mesh_address(0);
    join_with(&mut mesh[1], &seed, &first).await;
    let said = mesh[0]
        .cli(&["token", "create", "--name", "*", "--service", "shop/*", "--uses", "1"])
        .await;
    let second = token_in(&said.out).expect("token create prints a token");
    join_with(&mut mesh[2], &seed, &second).await;
    let met = mesh.all_alive(3, Duration::from_secs(20)).await;

    let server = Server::start(mesh[2].ip, Conduct::Named("c-1".into())).await;
    mesh[1].manifest("use.yaml", &discovery("checkout", HERE, PORT));
    mesh[2].manifest("checkout.yaml", &registry("checkout", PORT, server.address));
    let here = SocketAddr::new(mesh[1].ip, HERE);
    let (name, reached) =
        until(SOON, "the service answers on another host", async || ask(here).await).await;
    assert_eq!(name, "c-1");

    mesh[0].cli(&["service", "shop/checkout", "--bind"]).await;
    let detail = mesh[0].json(&["service", "shop/checkout"]).await;
    let address = detail["virtual_address"].as_str().expect("a virtual address").parse().unwrap();
    let (name, by_name) = until(SOON, "the virtual address answers", async || {
        ask(SocketAddr::new(address, PORT)).await
    })
    .await;
    assert_eq!(name, "c-1");

    mesh[2].remove_manifest("checkout.yaml");
    let (_, gone) = until(SOON, "a removed file is no service", async || match ask(here).await {
        Err(_) => Ok(()),
        Ok(name) => Err(format!("{name} still answers")),
    })
    .await;
    figure("three agents know each other after the last start", met);
    figure("a dropped file is reached on another host", reached);
    figure("a bound virtual address answers", by_name);
    figure("a removed file is reached no more", gone);
}

#[tokio::test]
async fn members_services_and_status_say_what_is_there() {
    let mesh = Mesh::start(2).await;
    let server = Server::start(mesh[1].ip, Conduct::Echo).await;
    mesh[1].manifest("checkout.yaml", &registry("checkout", PORT, server.address));
    until(SOON, "the first host sees a passing endpoint", async || {
        let detail = mesh[0].try_json(&["service", "shop/checkout"]).await?;
        let status = &detail["endpoints"][0]["status"];
        (status == "passing").then_some(()).ok_or_else(|| detail.to_string())
    })
    .await;
    let detail = mesh[0].json(&["service", "shop/checkout"]).await;
    let endpoint = &detail["endpoints"][0];
    assert_eq!(endpoint["node"], "b", "{endpoint}");
    assert_eq!(endpoint["id"], "b/checkout/a", "{endpoint}");
    let members = mesh[0].json(&["members"]).await;
    let names: Vec<&str> =
        members.as_array().unwrap().iter().filter_map(|member| member["name"].as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    let status = mesh[0].run(&["status", "-o", "json"]).await;
    assert_eq!(status.code(), 0, "two issuers live, nothing is wrong: {}", status.out);
    let services = mesh[0].json(&["services"]).await;
    assert_eq!(services[0]["endpoints"]["passing"], 1, "{services}");
    assert_eq!(mesh[0].run(&["service", "shop/nowhere"]).await.code(), 1);
}

/// Links lead to a few neighbours; what a command says of the mesh is of all of it.
#[tokio::test]
async fn a_change_is_followed_to_agents_that_no_link_leads_to() {
    let mesh = Mesh::start(11).await;
    mesh.all_alive(11, Duration::from_secs(60)).await;
    until(Duration::from_secs(90), "links that nobody needs are closed", async || {
        let links = mesh[0].try_json(&["links"]).await?;
        let count = links.as_array().map_or(0, Vec::len);
        (count < 10).then_some(()).ok_or_else(|| format!("{count} links"))
    })
    .await;
    let server = Server::start(mesh[0].ip, Conduct::Named("one".into())).await;
    let file = mesh[0].dir.join("far.yaml");
    std::fs::write(&file, registry("far", PORT, server.address)).expect("a file");
    let said = mesh[0].cli(&["apply", "--wait", "-f", &file.display().to_string()]).await;
    assert!(said.out.contains("visible on 11/11 nodes"), "{said:?}");
}
