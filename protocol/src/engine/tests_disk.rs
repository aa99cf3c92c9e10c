//! What holds on a disk that cannot be written, and what happens when it can again.

use super::{
    Event, Input, Write,
    bench::{Bench, LINK, local},
};
use crate::{
    limits,
    manifest::{self, Inputs},
    name::NodeName,
    policy::{
        Draft, Lineage, PolicyBundle,
        access::{What, Who},
    },
    trust::{
        revocation::{By, Revocation, Statement, Subject},
        testing::Mesh,
    },
    wire::frame::Frame,
};

fn mesh() -> Mesh {
    Mesh::new(7)
}

fn end_of(number: u64) -> Statement {
    let mesh = mesh();
    let (by, key) = (By::Operator(mesh.operator.clone()), mesh.node_key(number).0);
    let (subject, reason) = (Subject::Node, "stolen".to_owned());
    let revocation = Revocation { mesh: mesh.mesh, subject, key, by, reason, works: vec![] };
    revocation.sign(&mesh.operator_key()).unwrap()
}

fn document(name: &str, spec: &str) -> PolicyBundle {
    let text = format!(
        "apiVersion: skein/v1\nkind: AccessPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{{spec}}}\n"
    );
    let document = manifest::parse("test", &text, &Inputs::default()).unwrap().remove(0);
    let draft = Draft::of(&document, Lineage::first()).unwrap();
    draft.sign(mesh().mesh, &mesh().operator, &mesh().operator_key()).unwrap()
}

/// Whether a service may call another, by side 0.
fn may(bench: &Bench, source: &str, destination: &str) -> bool {
    let node: NodeName = "node-2".parse().unwrap();
    let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
    let who = Who {
        service: Some(&source),
        node: Some(&node),
        outside: false,
        twice: false,
        could_be: &[],
    };
    let what = What { service: &destination, port: 80, request: None };
    bench.sides[0].engine.policy().access.decide(&who, &what).allowed
}

fn told(bench: &Bench, side: usize, what: &Event) -> bool {
    bench.sides[side].events.contains(what)
}

/// What the other side believes of the disk of side 0.
fn is_seen_unwritten(bench: &Bench) -> bool {
    let view = bench.sides[1].view.as_ref().unwrap();
    view.nodes[&bench.key(0)].unwritten
}

fn met() -> Bench {
    let mut bench = Bench::new();
    bench.connect();
    bench.run(500);
    bench
}

#[test]
fn a_key_ends_at_once_though_the_disk_is_full_and_is_written_when_there_is_room() {
    let mut bench = met();
    bench.full[0] = true;
    let statement = end_of(2);
    bench.put(0, Input::Revoke(Box::new(statement.clone())));
    assert_eq!(bench.sides[0].engine.ready_links().count(), 0, "its link is cut");
    let gone = Event::Revoked(bench.key(1), "stolen".to_owned());
    assert!(told(&bench, 0, &gone) && told(&bench, 0, &Event::DiskFailed("no space".to_owned())));
    let is_it = |write: &Write| matches!(write, Write::Revocation(id, _) if *id == statement.id());
    assert!(!bench.sides[0].written.iter().any(is_it));
    bench.full[0] = false;
    bench.run(1_000);
    assert_eq!(bench.sides[0].written.iter().filter(|write| is_it(write)).count(), 1);
    assert!(told(&bench, 0, &Event::DiskWell));
}

#[test]
fn a_full_disk_is_told_to_the_mesh_and_that_it_is_well_again() {
    let mut bench = met();
    assert!(!is_seen_unwritten(&bench));
    bench.full[0] = true;
    // What nobody waits for shows it as well.
    let mut said = local(1, "shop/svc-1");
    said.instances.0[0].weight = 11;
    bench.put(0, Input::Local(Box::new(said)));
    bench.run(1_000);
    assert!(is_seen_unwritten(&bench));
    bench.full[0] = false;
    bench.run(2_000);
    assert!(!is_seen_unwritten(&bench));
    let own = bench.sides[0].engine.store().body(&bench.key(0)).unwrap().bundle().clone();
    let is_it = |write: &Write| matches!(write, Write::Peer(_, bundle) if *bundle == own);
    assert!(bench.sides[0].written.iter().any(is_it), "what waited is written");
}

#[test]
fn what_a_document_closes_is_closed_at_once_and_what_it_opens_waits_for_the_disk() {
    let mut bench = met();
    let closed = document("all", "destination: \"*\", default: deny");
    bench.put(0, Input::Policy(Box::new(closed)));
    bench.run(100);
    assert!(!may(&bench, "shop/web", "shop/api"));
    bench.full[0] = true;
    let allow = document("api", "destination: api, action: allow, from: [{service: web}]");
    bench.put(0, Input::Policy(Box::new(allow)));
    bench.run(300);
    assert!(!may(&bench, "shop/web", "shop/api"), "it opens only when it is on disk");
    bench.full[0] = false;
    bench.run(1_500);
    assert!(may(&bench, "shop/web", "shop/api") && !may(&bench, "shop/lab", "shop/api"));
}

#[test]
fn a_deny_holds_at_once_on_a_full_disk_and_others_hear_of_it() {
    let mut bench = met();
    bench.full[0] = true;
    let deny = document("api", "destination: api, action: deny, from: [{service: lab}]");
    bench.put(0, Input::Policy(Box::new(deny)));
    assert!(!may(&bench, "shop/lab", "shop/api") && may(&bench, "shop/web", "shop/api"));
    let policy = bench.sides[0].engine.policy();
    assert_eq!((policy.documents.len(), policy.waiting.len()), (0, 1), "it is not in force");
    bench.run(500);
    assert_eq!(bench.sides[1].engine.policy().documents.len(), 1, "the other has a disk");
    // An allow that is new closes the service to others, and lets in whom nothing denied.
    let allow = document("web", "destination: web, action: allow, from: [{service: api}]");
    bench.put(0, Input::Policy(Box::new(allow)));
    assert!(!may(&bench, "shop/lab", "shop/web") && may(&bench, "shop/api", "shop/web"));
    bench.full[0] = false;
    bench.run(1_500);
    let policy = bench.sides[0].engine.policy();
    assert_eq!((policy.documents.len(), policy.waiting.len()), (2, 0));
    let other = bench.sides[1].engine.policy();
    assert_eq!(policy.documents.root(), other.documents.root());
    assert!(!may(&bench, "shop/lab", "shop/api"));
}

#[test]
fn what_restricts_does_not_wait_for_a_disk_that_hangs() {
    let mut bench = met();
    bench.disk_hangs = true;
    let deny = document("api", "destination: api, action: deny");
    bench.put(0, Input::Policy(Box::new(deny)));
    bench.run(50);
    assert!(may(&bench, "shop/web", "shop/api"), "a disk that is well is waited for");
    bench.run(250);
    assert!(!may(&bench, "shop/web", "shop/api"));
    bench.put(0, Input::Revoke(Box::new(end_of(9))));
    bench.run(250);
    assert!(told(&bench, 0, &Event::Revoked(mesh().node_key(9), "stolen".to_owned())));
    bench.run(2_500);
    assert!(is_seen_unwritten(&bench), "a write that does not come back is told");
    bench.disk_goes_on();
    bench.run(500);
    assert!(told(&bench, 0, &Event::DiskWell) && !is_seen_unwritten(&bench));
    assert_eq!(bench.sides[0].engine.policy().documents.len(), 1);
    assert!(!may(&bench, "shop/web", "shop/api"));
}

/// What failed while something newer about the same thing was out must not come over it.
#[test]
fn of_two_writes_of_one_thing_the_newer_stays() {
    let mut bench = met();
    bench.full[0] = true;
    for weight in 1..5 {
        let mut said = local(1, "shop/svc-1");
        said.instances.0[0].weight = weight;
        bench.put(0, Input::Local(Box::new(said)));
        bench.run(1_200);
    }
    bench.full[0] = false;
    bench.run(1_500);
    let own = bench.key(0);
    let newest = bench.sides[0].engine.store().body(&own).unwrap().bundle().clone();
    let last = bench.sides[0].written.iter().rev().find_map(|write| match write {
        Write::Peer(key, bundle) if *key == own => Some(bundle.clone()),
        _ => None,
    });
    assert_eq!(last, Some(newest));
}

#[test]
fn who_floods_a_full_disk_with_versions_costs_no_more_than_the_bound() {
    let mut bench = met();
    bench.full[0] = true;
    for number in 0..200 {
        let deny = document(&format!("d{number}"), "destination: api, action: deny");
        let frame = Frame::Policy(Box::new(deny)).encode().unwrap();
        bench.put(0, Input::Frame { link: LINK, bytes: frame.into() });
    }
    let held = bench.sides[0].engine.held();
    assert_eq!((held.ruling, held.over()), (200, None));
    assert!(held.owed <= limits::OWED_MAX);
    bench.full[0] = false;
    bench.run(2_000);
    assert_eq!(bench.sides[0].engine.policy().documents.len(), 200);
    assert_eq!(bench.sides[0].engine.held().ruling, 0);
}
