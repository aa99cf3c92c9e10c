//! Versions, their join, and what access rules decide.

use std::sync::Arc;

use proptest::prelude::*;

use super::{
    AccessRules, Content, Documents, Draft, Lineage, PolicyKey, SignedVersion, Taken,
    VerifiedVersion, VersionError,
    access::{Because, What, Who},
};
use crate::{
    limits,
    manifest::{self, Document, Inputs},
    name::{NodeName, ServiceName},
    trust::{
        issue::{self, Authority},
        operator::Scope,
        testing::{Key, Keyed, Mesh, NOW},
    },
};

pub(super) fn document(text: &str) -> Document {
    manifest::parse("test", text, &Inputs::default()).unwrap().remove(0)
}

fn policy(name: &str, spec: &str) -> Document {
    document(&format!(
        "apiVersion: skein/v1\nkind: AccessPolicy\nmetadata: {{name: {name}, namespace: shop}}\n\
         spec: {{{spec}}}\n"
    ))
}

fn signed(mesh: &Mesh, draft: &Draft) -> Result<VerifiedVersion, VersionError> {
    let bundle = draft.sign(mesh.mesh, &mesh.operator, &mesh.operator_key()).unwrap();
    SignedVersion::parse(Arc::new(bundle), mesh.mesh)?.verify(&mesh.roots, &Keyed)
}

fn version(
    mesh: &Mesh,
    document: &Document,
    heads: &[Arc<VerifiedVersion>],
) -> Arc<VerifiedVersion> {
    let lineage = match heads {
        [] => Lineage::first(),
        heads => Lineage::after(heads).unwrap(),
    };
    Arc::new(signed(mesh, &Draft::of(document, lineage).unwrap()).unwrap())
}

fn weighted(weight: usize) -> Document {
    policy("callers", &format!("destination: s{weight}, action: allow"))
}

#[test]
fn a_version_that_was_signed_says_what_the_document_said() {
    let mesh = Mesh::new(1);
    let said = policy("callers", "destination: checkout, action: allow, from: [{service: web}]");
    let version = version(&mesh, &said, &[]);
    assert_eq!(version.document().unwrap().hash(), said.hash());
    assert!(matches!(version.content(), Content::Access(access) if access.from.is_some()));
    assert_eq!(version.lineage().generation, 1);
    assert_eq!(version.operator().name, "ann");
}

#[test]
fn what_is_not_as_it_was_signed_is_refused_with_the_reason() {
    let mesh = Mesh::new(1);
    let other = Mesh::new(2);
    let said = policy("callers", "destination: checkout, action: allow");
    let draft = Draft::of(&said, Lineage::first()).unwrap();
    let bundle = draft.sign(mesh.mesh, &mesh.operator, &mesh.operator_key()).unwrap();
    let parse = |bundle| SignedVersion::parse(Arc::new(bundle), mesh.mesh);
    let check = |bundle| parse(bundle).and_then(|signed| signed.verify(&mesh.roots, &Keyed));

    let mut bent = bundle.clone();
    let last = bent.record.len() - 1;
    bent.record[last] ^= 1;
    assert_eq!(check(bent), Err(VersionError::BadSignature));
    let mut short = bundle;
    short.record.truncate(90);
    assert!(matches!(check(short), Err(VersionError::Header(_))));
    let foreign = draft.sign(other.mesh, &other.operator, &other.operator_key()).unwrap();
    assert_eq!(check(foreign), Err(VersionError::OtherMesh));
    let stolen = draft.sign(mesh.mesh, &other.operator, &other.operator_key()).unwrap();
    assert!(matches!(check(stolen), Err(VersionError::Operator(_))));
    let borrowed = draft.sign(mesh.mesh, &mesh.operator, &Key(99)).unwrap();
    assert_eq!(check(borrowed), Err(VersionError::NotItsOperator));
}

#[test]
fn an_operator_writes_in_its_own_namespaces_only() {
    let mesh = Mesh::new(1);
    let key = mesh.root_key();
    let by = Authority::new(&mesh.mesh, &mesh.root, &key).unwrap();
    let scope = Scope::Namespaces(vec!["ops".parse().unwrap()]);
    let operator = Key(77);
    let public = crate::trust::Signer::public_key(&operator);
    let certificate = issue::operator(&by, &public, "bob", &scope, NOW, [9; 16]).unwrap();
    let said = policy("callers", "destination: checkout, action: allow");
    let draft = Draft::of(&said, Lineage::first()).unwrap();
    let bundle = draft.sign(mesh.mesh, &certificate, &operator).unwrap();
    let signed = SignedVersion::parse(Arc::new(bundle), mesh.mesh).unwrap();
    let error = signed.verify(&mesh.roots, &Keyed).unwrap_err();
    assert_eq!(
        error.to_string(),
        "operator bob may write for namespace ops only, and this reaches namespace shop"
    );
}

#[test]
fn a_history_that_cannot_be_is_refused() {
    let mesh = Mesh::new(1);
    let said = policy("callers", "destination: checkout, action: allow");
    let first = version(&mesh, &said, &[]);
    let good = Lineage::after(&[first]).unwrap();
    let check = |lineage: Lineage| signed(&mesh, &Draft::of(&said, lineage).unwrap());
    assert!(check(good.clone()).is_ok());
    let bent = [
        Lineage { generation: 3, ..good.clone() },
        Lineage { generation: u64::MAX, ..good.clone() },
        Lineage { complete_from: 2, ..good.clone() },
        Lineage { complete_from: 0, ..good.clone() },
        Lineage { ancestors: Vec::new(), ..good.clone() },
        Lineage {
            ancestors: [good.ancestors.clone(), good.ancestors.clone()].concat(),
            ..good.clone()
        },
        Lineage { parents: Vec::new(), ..good },
    ];
    for lineage in bent {
        assert!(matches!(check(lineage.clone()), Err(VersionError::Lineage(_))), "{lineage:?}");
    }
}

#[test]
fn an_edit_replaces_and_what_it_replaced_never_returns() {
    let mesh = Mesh::new(1);
    let first = version(&mesh, &weighted(1), &[]);
    let second = version(&mesh, &weighted(2), &[Arc::clone(&first)]);
    let key = first.key().clone();
    let gone = Arc::new(
        signed(
            &mesh,
            &Draft::deletion(key.clone(), Lineage::after(&[Arc::clone(&second)]).unwrap()),
        )
        .unwrap(),
    );
    let mut documents = Documents::default();
    assert_eq!(documents.insert(Arc::clone(&first)), Taken::New { gone: vec![] });
    assert_eq!(documents.insert(Arc::clone(&first)), Taken::Known);
    assert_eq!(documents.insert(Arc::clone(&gone)), Taken::New { gone: vec![first.version()] });
    // What lies between was never seen here.
    assert!(!documents.wants(&second));
    assert_eq!(documents.insert(second), Taken::Superseded);
    assert_eq!(documents.insert(first), Taken::Superseded);
    assert_eq!(documents.of(&key).len(), 1);
    assert_eq!(*documents.of(&key)[0].content(), Content::Deleted);
}

#[test]
fn a_long_history_stays_bounded_and_still_supersedes_its_beginning() {
    let mesh = Mesh::new(1);
    let first = version(&mesh, &weighted(0), &[]);
    let mut head = Arc::clone(&first);
    for edit in 1..300 {
        head = version(&mesh, &weighted(edit), &[head]);
        assert!(head.lineage().ancestors.len() <= limits::POLICY_ANCESTORS);
    }
    assert!(head.lineage().complete_from > 1);
    assert!(head.supersedes(&first));
}

#[test]
fn of_more_versions_than_may_be_the_newest_stay() {
    let mesh = Mesh::new(1);
    let mut documents = Documents::default();
    let mut all: Vec<_> = (0..12).map(|n| version(&mesh, &weighted(n), &[])).collect();
    for one in &all {
        documents.insert(Arc::clone(one));
    }
    let held = documents.of(all[0].key());
    assert_eq!(held.len(), limits::POLICY_HEADS);
    all.sort_by_key(|one| one.version());
    let newest: Vec<_> = all.iter().skip(4).map(|one| one.version()).collect();
    assert_eq!(held.iter().map(|one| one.version()).collect::<Vec<_>>(), newest);
}

/// Edits of one document: each is made from some of the versions before it.
fn edits() -> impl Strategy<Value = (Vec<u8>, Vec<usize>)> {
    (proptest::collection::vec(any::<u8>(), 1..10), Just(())).prop_flat_map(|(masks, ())| {
        let order: Vec<usize> = (0..masks.len()).collect();
        (Just(masks), Just(order).prop_shuffle())
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn in_whatever_order_versions_come_the_same_ones_stay((masks, order) in edits()) {
        let mesh = Mesh::new(1);
        let mut all: Vec<Arc<VerifiedVersion>> = Vec::new();
        for (number, mask) in masks.iter().enumerate() {
            let seen = all.iter().enumerate().filter(|(at, _)| mask >> (at % 8) & 1 == 1);
            let mut known = Documents::default();
            seen.for_each(|(_, one)| drop(known.insert(Arc::clone(one))));
            let heads = known.iter().next().map(|(_, heads)| heads.to_vec()).unwrap_or_default();
            all.push(version(&mesh, &weighted(number), &heads));
        }
        let (mut in_order, mut shuffled) = (Documents::default(), Documents::default());
        for one in &all {
            in_order.insert(Arc::clone(one));
        }
        for at in order {
            shuffled.insert(Arc::clone(&all[at]));
            // Twice is once.
            shuffled.insert(Arc::clone(&all[at]));
        }
        prop_assert_eq!(in_order.root(), shuffled.root());
        prop_assert!(!in_order.is_empty());
    }

    #[test]
    fn no_bytes_make_verification_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mesh = Mesh::new(1);
        let bundle = super::PolicyBundle { certificate: bytes.clone(), record: bytes };
        if let Ok(signed) = SignedVersion::parse(Arc::new(bundle), mesh.mesh) {
            prop_assert!(signed.verify(&mesh.roots, &Keyed).is_err());
        }
    }
}

/// The rules of these documents; names that stand twice are versions of one that conflict.
fn rules(documents: &[Document]) -> AccessRules {
    let mesh = Mesh::new(1);
    let mut held = Documents::default();
    for document in documents {
        held.insert(version(&mesh, document, &[]));
    }
    AccessRules::compile(&held.in_force())
}

fn ask(rules: &AccessRules, source: Option<&str>, destination: &str) -> super::access::Decision {
    let source: Option<ServiceName> = source.map(|text| text.parse().unwrap());
    let node: NodeName = "web-1".parse().unwrap();
    let destination: ServiceName = destination.parse().unwrap();
    let who = Who {
        service: source.as_ref(),
        node: Some(&node),
        outside: false,
        twice: false,
        could_be: &[],
    };
    rules.decide(&who, &What { service: &destination, port: 80, request: None })
}

#[test]
fn without_a_document_everything_is_allowed() {
    let decision = ask(&rules(&[]), None, "shop/checkout");
    assert!(decision.allowed && decision.because == Because::Open && decision.audit.is_none());
}

/// What a caller of that node gets at `shop/db`, where a document denies by node or by service.
fn from_node(rule: &str, node: &str, twice: bool, could_be: &[&str]) -> bool {
    let rules = rules(&[policy("db", rule)]);
    let node: NodeName = node.parse().unwrap();
    let destination: ServiceName = "shop/db".parse().unwrap();
    let could_be: Vec<crate::name::ServicePattern> =
        could_be.iter().map(|pattern| pattern.parse().unwrap()).collect();
    let who = Who { service: None, node: Some(&node), outside: false, twice, could_be: &could_be };
    rules.decide(&who, &What { service: &destination, port: 80, request: None }).allowed
}

#[test]
fn of_a_name_that_two_hold_denies_match_both_and_allows_neither() {
    let deny = "destination: db, action: deny, from: [{node: lab-3}]";
    let allow = "destination: db, action: allow, from: [{node: \"bastion-*\"}]";
    for twice in [false, true] {
        assert!(!from_node(deny, "lab-3", twice, &[]), "{twice}");
        assert!(from_node(deny, "lab-4", twice, &[]), "{twice}");
    }
    assert!(from_node(allow, "bastion-1", false, &[]));
    assert!(!from_node(allow, "bastion-1", true, &[]));
}

#[test]
fn a_deny_by_service_matches_a_node_that_may_be_that_service_and_says_nothing() {
    let deny = "destination: db, action: deny, from: [{service: web}]";
    for could_be in ["shop/web", "shop/*", "*/*"] {
        assert!(!from_node(deny, "h", false, &[could_be]), "{could_be}");
    }
    assert!(from_node(deny, "h", false, &["shop/api", "lab/*"]));
    assert!(from_node(deny, "h", false, &[]));
    // It is no proof: an allow of that service takes no notice.
    let allow = "destination: db, action: allow, from: [{service: web}]";
    assert!(!from_node(allow, "h", false, &["shop/web"]));
}

#[test]
fn an_allow_on_one_service_closes_it_to_others_and_nothing_else() {
    let rules =
        rules(&[policy("c", "destination: checkout, action: allow, from: [{service: web}]")]);
    assert!(ask(&rules, Some("shop/web"), "shop/checkout").allowed);
    let denied = ask(&rules, Some("shop/batch"), "shop/checkout");
    assert!(!denied.allowed);
    assert!(denied.because.to_string().contains("AccessPolicy shop/c closes the service"));
    assert!(!ask(&rules, None, "shop/checkout").allowed);
    assert!(ask(&rules, Some("shop/batch"), "shop/other").allowed);
}

#[test]
fn an_allow_on_a_namespace_closes_nothing() {
    let rules = rules(&[policy("c", "destination: \"*\", action: allow, from: [{service: web}]")]);
    assert!(ask(&rules, Some("shop/batch"), "shop/checkout").allowed);
}

#[test]
fn a_deny_wins_over_every_allow() {
    let rules = rules(&[
        policy("a", "destination: checkout, action: allow"),
        policy("b", "destination: \"*\", action: deny, from: [{service: \"ops/*\"}]"),
    ]);
    assert!(ask(&rules, Some("shop/web"), "shop/checkout").allowed);
    let denied = ask(&rules, Some("ops/scan"), "shop/checkout");
    assert_eq!((denied.allowed, denied.because.rule().as_str()), (false, "shop/b"));
}

#[test]
fn the_nearest_default_holds_and_a_default_on_the_service_lifts_what_an_allow_implies() {
    let deny = policy("d", "destination: \"*/*\", default: deny");
    let namespace = policy("n", "destination: \"*\", default: allow");
    let allow = policy("a", "destination: checkout, action: allow, from: [{service: web}]");
    let lift = policy("l", "destination: checkout, default: allow");
    let batch = |documents: &[Document]| {
        ask(&rules(documents), Some("shop/batch"), "shop/checkout").allowed
    };
    assert!(!batch(std::slice::from_ref(&deny)));
    assert!(batch(&[deny.clone(), namespace.clone()]));
    assert!(!batch(&[deny.clone(), namespace.clone(), allow.clone()]));
    assert!(batch(&[deny, namespace, allow, lift]));
}

#[test]
fn audit_decides_nothing_and_says_what_it_would() {
    let rules = rules(&[policy("d", "destination: \"*/*\", default: deny, mode: audit")]);
    let decision = ask(&rules, Some("shop/web"), "shop/checkout");
    assert!(decision.allowed);
    assert_eq!(decision.audit.map(|because| because.rule()), Some("shop/d".to_owned()));
}

#[test]
fn of_versions_in_conflict_any_denies_and_an_allow_needs_all() {
    let web = policy("c", "destination: checkout, action: allow, from: [{service: web}]");
    let both = policy(
        "c",
        "destination: checkout, action: allow, from: [{service: web}, {service: batch}]",
    );
    let deny = policy("c", "destination: checkout, action: deny, from: [{service: web}]");
    let conflict = rules(&[web.clone(), both]);
    assert!(ask(&conflict, Some("shop/web"), "shop/checkout").allowed);
    assert!(!ask(&conflict, Some("shop/batch"), "shop/checkout").allowed);
    assert!(!ask(&rules(&[web, deny]), Some("shop/web"), "shop/checkout").allowed);
}

#[test]
fn a_document_that_this_agent_cannot_read_closes_what_it_is_about() {
    let mesh = Mesh::new(1);
    // As a newer agent would write it: the frozen section is known, a further section is not.
    let said = policy("c", "destination: checkout, action: allow");
    let bundle = Draft::of(&said, Lineage::first())
        .unwrap()
        .sign_with(mesh.mesh, &mesh.operator, &mesh.operator_key(), Some((9, vec![1])))
        .unwrap();
    let signed = SignedVersion::parse(Arc::new(bundle), mesh.mesh).unwrap();
    let newer = signed.verify(&mesh.roots, &Keyed).unwrap();
    assert!(newer.unread().is_some());
    let mut held = Documents::default();
    held.insert(Arc::new(newer));
    let rules = AccessRules::compile(&held.in_force());
    let denied = ask(&rules, Some("shop/web"), "shop/checkout");
    assert!(!denied.allowed && matches!(denied.because, Because::Unread(_)));
    assert!(ask(&rules, Some("shop/web"), "shop/other").allowed);
}

#[test]
fn a_node_is_matched_by_the_name_in_its_grant_and_never_by_one_that_two_hold() {
    let rules =
        rules(&[policy("c", "destination: checkout, action: allow, from: [{node: \"web-*\"}]")]);
    assert!(ask(&rules, None, "shop/checkout").allowed);
    let destination: ServiceName = "shop/checkout".parse().unwrap();
    let who = Who { service: None, node: None, outside: false, twice: false, could_be: &[] };
    let what = What { service: &destination, port: 80, request: None };
    assert!(!rules.decide(&who, &what).allowed);
}

#[test]
fn a_rule_about_requests_opens_no_port_that_is_carried_as_bytes() {
    let allow =
        rules(&[policy("c", "destination: checkout, action: allow, to: [{methods: [GET]}]")]);
    assert!(!ask(&allow, Some("shop/web"), "shop/checkout").allowed);
    let deny =
        rules(&[policy("c", "destination: checkout, action: deny, to: [{paths: [\"/admin/*\"]}]")]);
    assert!(!ask(&deny, Some("shop/web"), "shop/checkout").allowed);
    let port = rules(&[policy("c", "destination: checkout, action: deny, to: [{port: 81}]")]);
    assert!(ask(&port, Some("shop/web"), "shop/checkout").allowed);
}

#[test]
fn a_pattern_of_node_names_matches_as_it_reads() {
    use crate::manifest::kinds::NodePattern;
    let covers = |pattern: &str, name: &str| {
        NodePattern::new(pattern).unwrap().covers(&name.parse().unwrap())
    };
    assert!(covers("web-1", "web-1") && covers("web-*", "web-1") && covers("*", "a.b"));
    assert!(covers("*-1.eu*", "web-1.eu-a") && covers("w*b-1", "web-1"));
    assert!(!covers("web-1", "web-11") && !covers("web-*", "aweb-1") && !covers("*x", "web-1"));
    assert!(NodePattern::new("Web*").is_err() && NodePattern::new("").is_err());
}

#[test]
fn local_kinds_have_no_policy_key() {
    let text = "apiVersion: skein/v1\nkind: ServiceRegistry\nmetadata: {name: a, namespace: shop}\nspec: {ports: [{name: http, port: 80}]}\n";
    assert!(PolicyKey::new(&document(text).id).is_none());
}
