//! Join tokens: short, counted once for the whole mesh, with names of their own.

use std::time::Duration;

use rustix::process::Signal;
use skein_tests::{
    host::{Host, Said},
    mesh::{Mesh, token_in},
    wait::until,
};

const SOON: Duration = Duration::from_secs(10);

async fn join(host: &Host, seed: &str, token: &str, name: &[&str]) -> Said {
    let arguments = [&["join", seed][..], name].concat();
    host.run_with(&arguments, &[("SKEIN_TOKEN", token)]).await
}

/// Two hosts that issue, and `further` that have not joined.
async fn two_issuers(further: usize) -> Mesh {
    let mut mesh = Mesh::of_hosts(2 + further);
    mesh.form_first().await;
    assert!(mesh.token.len() <= 300, "{} characters", mesh.token.len());
    let seed = mesh.mesh_address(0);
    let said = join(&mesh[1], &seed, &mesh.token, &["--name", "b"]).await;
    assert!(said.status.success() && said.out.contains("issuer"), "{said:?}");
    mesh[1].start(&[]).await;
    for n in [0, 1] {
        until(SOON, "both issuers are known", async || {
            let status = mesh[n].try_json(&["status"]).await?;
            (status["issuers"] == 2).then_some(()).ok_or_else(|| status.to_string())
        })
        .await;
    }
    mesh
}

#[tokio::test]
async fn a_token_of_one_use_joins_one_host_whichever_issuers_are_asked_at_once() {
    let mesh = two_issuers(4).await;
    let create = ["token", "create", "--name", "*", "--uses", "1"];
    let said = mesh[0].cli(&create).await;
    let token = token_in(&said.out).expect("a token");
    let seeds = [mesh.mesh_address(0), mesh.mesh_address(1)];
    let one = async |n: usize| {
        let name = ["--name", mesh[n].name.as_str()];
        join(&mesh[n], &seeds[n % 2], &token, &name).await
    };
    let all: [Said; 4] = tokio::join!(one(2), one(3), one(4), one(5)).into();
    let joined = all.iter().filter(|said| said.status.success()).count();
    assert_eq!(joined, 1, "{all:?}");
    for said in all.iter().filter(|said| !said.status.success()) {
        assert!(said.err.contains("used 1 time"), "{said:?}");
    }
}

#[tokio::test]
async fn a_token_that_was_revoked_joins_nobody_at_any_issuer() {
    let mesh = two_issuers(2).await;
    let create = ["token", "create", "--name", "*", "--uses", "5"];
    let made = mesh[0].json(&create).await;
    let (id, token) = (made["id"].as_str().expect("an id"), made["token"].as_str().expect("text"));
    let said = join(&mesh[2], &mesh.mesh_address(1), token, &["--name", "c"]).await;
    assert!(said.status.success(), "the other issuer takes it too: {said:?}");
    let by_name = mesh[0].run(&["token", "revoke", token]).await;
    assert!(!format!("{by_name:?}").contains(token), "the secret is not shown again");
    let said = mesh[0].run(&["token", "revoke", id]).await;
    assert_eq!(said.code(), 0, "{said:?}");
    assert!(said.out.contains("revoked on 2/2 issuers"), "{said:?}");
    for seed in [mesh.mesh_address(0), mesh.mesh_address(1)] {
        let said = join(&mesh[3], &seed, token, &["--name", "d"]).await;
        assert!(said.err.contains("the token was revoked"), "{said:?}");
    }
    assert!(mesh[0].log().contains("certificate refused"), "the issuer's log tells");
    assert!(mesh[1].log().contains("certificate refused") || mesh[0].log().matches(id).count() > 1);
}

#[tokio::test]
async fn a_token_gives_the_names_that_it_says_and_a_name_stays_its_keys() {
    let mut mesh = two_issuers(3).await;
    let seed = mesh.mesh_address(0);
    let plain = mesh[0].cli(&["token", "create", "--uses", "5"]).await;
    let plain = token_in(&plain.out).expect("a token");
    let said = join(&mesh[2], &seed, &plain, &["--name", "bastion-9"]).await;
    assert!(!said.status.success() && said.err.contains("gives no host the name"), "{said:?}");
    let said = join(&mesh[2], &seed, &plain, &[]).await;
    assert!(said.status.success() && said.out.contains("node-"), "{said:?}");
    let named = mesh[0].cli(&["token", "create", "--uses", "5", "--name", "web-*"]).await;
    let named = token_in(&named.out).expect("a token");
    let said = join(&mesh[3], &seed, &named, &["--name", "web-1"]).await;
    assert!(said.status.success(), "{said:?}");
    mesh[3].start(&[]).await;
    mesh.all_alive_of(&[0, 1, 3], 3, SOON).await;
    // While it restarts, and when it is gone without a word, its name is its own.
    assert!(mesh[3].stop(SOON).await.success());
    let said = join(&mesh[4], &seed, &named, &["--name", "web-1"]).await;
    assert!(!said.status.success() && said.err.contains("is held by the node"), "{said:?}");
    // Once it is revoked the name is free at once, on all issuers.
    let key = mesh[0].dir.join("person/skein/operator.key").display().to_string();
    let said = mesh[0].run(&["revoke", "web-1", "--reason", "rebuilt", "--as", &key]).await;
    assert!(matches!(said.code(), 0 | 3), "{said:?}");
    let other = mesh.mesh_address(1);
    let said = join(&mesh[4], &other, &named, &["--name", "web-1"]).await;
    assert!(said.status.success(), "{said:?}");
}

#[tokio::test]
async fn a_revocation_of_a_token_names_the_issuer_that_has_not_heard() {
    let mut mesh = two_issuers(0).await;
    let made = mesh[0].json(&["token", "create", "--name", "*"]).await;
    let id = made["id"].as_str().expect("an id");
    mesh[1].agent().signal(Signal::STOP);
    let said = mesh[0].run(&["token", "revoke", id]).await;
    mesh[1].agent().signal(Signal::CONT);
    assert_eq!(said.code(), 3, "{said:?}");
    assert!(said.out.contains("revoked on 1/2 issuers"), "{said:?}");
    assert!(said.out.contains("not heard yet: b"), "{said:?}");
}
