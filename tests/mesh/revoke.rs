//! The end of keys on whole agents: out within seconds, and what a thief revoked is undone.

use std::time::{Duration, Instant};

use serde_json::Value;
use skein_tests::{
    figure::figure,
    manifest::registry,
    mesh::Mesh,
    server::{Conduct, Server},
    wait::until,
};

const SOON: Duration = Duration::from_secs(20);

fn names(list: &Value, key: &str) -> Vec<String> {
    let all = list.as_array().cloned().unwrap_or_default();
    all.iter().map(|one| one[key].as_str().unwrap_or_default().to_owned()).collect()
}

#[tokio::test]
async fn a_revoked_node_is_out_everywhere_and_what_a_thief_revoked_is_undone_by_the_root() {
    let mut mesh = Mesh::start(8).await;
    let server = Server::start(mesh[7].ip, Conduct::Echo).await;
    mesh[7].manifest("web.yaml", &registry("web", 8080, server.address));
    for host in &mesh.hosts {
        until(SOON, "everybody sees the service", async || {
            let services = host.try_json(&["services"]).await?;
            let found = services[0]["endpoints"]["passing"] == 1;
            found.then_some(()).ok_or_else(|| services.to_string())
        })
        .await;
    }

    let plan = mesh[0].run(&["revoke", "h", "--reason", "stolen", "--dry-run"]).await;
    assert_eq!(plan.code(), 4, "{plan:?}");
    assert!(plan.out.contains("only it serves shop/web"), "{plan:?}");
    let without = mesh[1].run(&["revoke", "h", "--reason", "stolen"]).await;
    assert!(without.code() == 1 && without.err.contains("operator's key"), "{without:?}");

    let began = Instant::now();
    let said = mesh[0].cli(&["revoke", "h", "--reason", "stolen"]).await;
    assert!(said.out.contains("in force on 7/7 nodes"), "{said:?}");
    for host in &mesh.hosts[..7] {
        until(SOON, "its links are closed and its services gone", async || {
            let links = host.try_json(&["links"]).await?;
            if names(&links, "peer").iter().any(|peer| peer == "h") {
                return Err(links.to_string());
            }
            let service = host.try_json(&["service", "shop/web"]).await?;
            let gone = service["endpoints"][0]["reason"] == "revoked";
            gone.then_some(()).ok_or_else(|| service.to_string())
        })
        .await;
    }
    figure("a revoked node is out on all others, from `skein revoke` on", began.elapsed());

    // It starts again, and nobody lets it in.
    mesh[7].kill().await;
    mesh[7].launch(&[]);
    until(SOON, "it is told that it is revoked", async || {
        let log = mesh[7].log();
        log.contains("revoked").then_some(()).ok_or(log)
    })
    .await;
    let seed = mesh.mesh_address(0);
    let token = [("SKEIN_TOKEN", mesh.token.as_str())];
    std::fs::remove_file(mesh[7].dir.join("node.pem")).expect("its certificate");
    let again = mesh[7].run_with(&["join", &seed, "--name", "h2"], &token).await;
    assert_eq!(again.code(), 1, "{again:?}");
    assert!(again.err.contains("revoked"), "{again:?}");
    for host in &mesh.hosts[..7] {
        let links = host.json(&["links"]).await;
        assert!(!names(&links, "peer").iter().any(|peer| peer == "h"), "{links}");
    }

    // A thief with an operator's key ends five nodes; the root takes it back.
    let thief = mesh[0].dir.join("person/thief.key").display().to_string();
    mesh[0].cli(&["operator", "create", "thief", "--out", &thief]).await;
    for name in ["c", "d", "e", "f", "g"] {
        let said = mesh[0].run(&["revoke", name, "--reason", "theft", "--as", &thief]).await;
        assert!([0, 3].contains(&said.code()), "{said:?}");
    }
    let certificate = thief.replace(".key", ".pem");
    let said = mesh[0]
        .run(&["operator", "revoke", &certificate, "--reason", "thief", "--undo", "all"])
        .await;
    assert!([0, 3].contains(&said.code()), "{said:?}");
    for host in &mesh.hosts[..2] {
        let what = "the five are back, and only the first is out";
        let ((), took) = until(Duration::from_secs(60), what, async || {
            let members = host.try_json(&["members"]).await?;
            let all = members.as_array().cloned().unwrap_or_default();
            let alive = all.iter().filter(|member| member["state"] == "alive").count();
            (alive == 7).then_some(()).ok_or_else(|| members.to_string())
        })
        .await;
        figure("what a thief revoked is back", took);
    }
    let late = mesh[0].run(&["revoke", "b", "--reason", "again", "--as", &thief]).await;
    let still = mesh[1].json(&["members"]).await;
    assert!(names(&still, "name").contains(&"b".to_owned()), "{late:?} {still}");
}
