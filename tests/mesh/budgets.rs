//! What one admitted peer, and one that nobody admitted, may cost: links, streams, questions. And
//! what a peer keeps that was revoked while it held back its Hello.

use std::time::Duration;

use skein_node::link::{Role, mux::Mux};
use skein_protocol::{
    limits,
    trust::CloseCode,
    wire::{
        frame::{Frame, LinkRole},
        kind::StreamKind,
    },
};
use skein_tests::{
    figure::count,
    load::{Load, Plan},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use crate::hostile::{Held, SOON, Scene, resident_kib, write};

/// Why the victim closed that connection.
async fn closed(mux: &dyn Mux) -> Option<CloseCode> {
    timeout(SOON, mux.closed()).await.expect("it is closed");
    mux.closed_by_peer()
}

#[tokio::test]
async fn a_peer_that_was_revoked_before_its_hello_gets_no_link() {
    let stand = Scene::new(3).await;
    // The handshake is done, and the Hello held back.
    let late = stand.rogue.dial(stand.address(0), Role::Data).await;
    let mut stream = late.mux.open().await.expect("a stream");
    stream.0.write_all(&[StreamKind::Control.byte()]).await.expect("a byte");
    let name = stand.mesh[2].name.clone();
    let key = stand.mesh[0].dir.join("person/skein/operator.key").display().to_string();
    let revoke = ["revoke", &name, "--reason", "stolen", "--as", &key];
    let said = stand.mesh[0].run(&revoke).await;
    assert!(matches!(said.code(), 0 | 3), "{said:?}");
    let hello = Frame::Hello(Box::new(stand.rogue.hello(LinkRole::Data))).encode().unwrap();
    write(&mut stream, &hello).await.expect("a Hello");
    assert_eq!(closed(&*late.mux).await, Some(CloseCode::Revoked));
    let links = stand.mesh[0].json(&["links"]).await;
    let links = links.as_array().expect("links");
    assert!(links.iter().all(|link| link["name"] != name.as_str()), "{links:?}");
}

#[tokio::test]
async fn a_peer_that_dials_a_hundred_data_links_keeps_its_newest_two() {
    let mut stand = Scene::new(3).await;
    let load = Load::start(Plan::new(stand.here));
    let to = stand.address(1);
    let mut all: Vec<Held> = Vec::new();
    for _ in 0..100 {
        all.push(stand.rogue.meet(to, LinkRole::Data).await);
    }
    for one in &all[..all.len() - limits::DATA_LINKS_PER_PEER] {
        assert_eq!(closed(&*one.link.mux).await, Some(CloseCode::Duplicate));
    }
    let newest = &all[all.len() - 1];
    let (mut send, mut receive) = newest.link.mux.open().await.expect("a stream");
    send.write_all(&[StreamKind::Ping.byte()]).await.expect("a ping");
    assert_eq!(receive.read(&mut [0; 1]).await.expect("an answer"), 0);
    let report = load.stop().await;
    assert!(!report.took.is_empty() && report.failures.is_empty(), "{:?}", report.failures);
    stand.nobody_is_hurt().await;
}

/// Streams that say nothing, and questions whose answers nobody reads, beyond what one peer may.
#[tokio::test]
async fn silent_streams_and_unread_answers_of_one_peer_hurt_no_call() {
    let mut stand = Scene::new(3).await;
    let load = Load::start(Plan::new(stand.here));
    let to = stand.address(1);
    let held = stand.rogue.meet(to, LinkRole::Data).await;
    let before = resident_kib(&mut stand.mesh[1]);
    let mut refused = 0;
    let mut open = Vec::new();
    for n in 0..limits::STREAMS_OPENING * 3 {
        let Ok(pair) = held.link.mux.open().await else { break };
        open.push(pair);
        // Every third asks, and reads nothing.
        if n % 3 == 0
            && let Some((send, _)) = open.last_mut()
        {
            let question = skein_protocol::wire::ask::Ask::Edges.encode().unwrap();
            let _ = send.write_all(&question).await;
        } else if let Some((send, _)) = open.last_mut() {
            // A part of a stream that never says its kind.
            let _ = send.flush().await;
        }
    }
    for (_, receive) in &mut open {
        let read = timeout(Duration::from_secs(6), receive.read(&mut [0; 1])).await;
        refused += usize::from(matches!(read, Ok(Err(_))));
    }
    assert!(refused > 0, "some were refused");
    let after = resident_kib(&mut stand.mesh[1]);
    count("resident memory that streams of one peer cost, KiB", after.saturating_sub(before));
    let report = load.stop().await;
    assert!(!report.took.is_empty() && report.failures.is_empty(), "{:?}", report.failures);
    stand.nobody_is_hurt().await;
}
