//! The scope of an operator against all that a document can reach: a table made of every
//! combination, held against a rule that is written over its rows alone.

use std::sync::Arc;

use proptest::{prelude::*, sample::select};

use super::{
    Draft, Lineage, SignedVersion, VerifiedVersion, VersionError, tests::document as parsed,
};
use crate::{
    manifest::Document,
    trust::{
        Signer,
        issue::{self, Authority},
        operator::Scope,
        testing::{Key, Keyed, Mesh, NOW},
    },
};

/// Another namespace than any that a scope of the table holds is `bank`.
const SCOPES: [&[&str]; 5] = [&["*"], &["shop"], &["shop", "web"], &["web"], &["ops"]];
const NAMESPACES: [&str; 3] = ["shop", "web", "bank"];
/// A destination as written, and the namespace that it reaches; `None`: the mesh.
const DESTINATIONS: [(&str, Option<&str>); 8] = [
    ("checkout", Some("shop")),
    ("shop/checkout", Some("shop")),
    ("shop/*", Some("shop")),
    ("web/front", Some("web")),
    ("web/*", Some("web")),
    ("bank/vault", Some("bank")),
    ("bank/*", Some("bank")),
    ("*/*", None),
];
/// Callers as written, and the namespace that is needed to write them, if any is.
const CALLERS: [(&str, Need); 8] = [
    ("", Need::Nothing),
    (", from: [{service: shop/web}]", Need::Nothing),
    (", from: [{service: bank/teller}]", Need::Nothing),
    (", from: [{service: shop/*}]", Need::Namespace("shop")),
    (", from: [{service: shop/web}, {service: bank/*}]", Need::Namespace("bank")),
    (", from: [{service: \"*/*\"}]", Need::Everything),
    (", from: [{node: \"lab-*\"}]", Need::Nothing),
    (", from: [{outside: true}]", Need::Nothing),
];
/// Types of traffic policies with what else they say, and whether a target fits.
const TYPES: [(&str, bool); 12] = [
    ("type: Route, match: {prefix: /v1}", true),
    ("type: Split", true),
    ("type: Mirror, percent: 10", true),
    ("type: Balance, algorithm: round-robin", false),
    ("type: Locality, prefer: [any]", false),
    ("type: Retry, attempts: 2", false),
    ("type: Timeout, request: 2s", false),
    ("type: CircuitBreak, maxConnections: 5", false),
    ("type: Eject, consecutive: 3", false),
    ("type: RateLimit, rate: 5/s", false),
    ("type: Fault, percent: 10, abort: 503", false),
    ("type: Hedge, after: 100ms", false),
];
const TARGETS: [&str; 4] = ["shop/other", "web/front", "bank/vault", "itself"];

/// What the writer of a row must be allowed.
#[derive(Clone, Copy, Debug)]
enum Need {
    Nothing,
    Namespace(&'static str),
    Everything,
}

impl Need {
    fn of(namespace: Option<&'static str>) -> Self {
        namespace.map_or(Self::Everything, Self::Namespace)
    }

    fn met(self, scope: &[&str]) -> bool {
        let all = scope.contains(&"*");
        match self {
            Self::Nothing => true,
            Self::Namespace(name) => all || scope.contains(&name),
            Self::Everything => all,
        }
    }
}

/// Writes as an operator of that scope, and checks as every node does.
fn written(
    scope: &[&str],
    document: &Document,
    further: Option<(u16, Vec<u8>)>,
) -> Result<VerifiedVersion, VersionError> {
    let mesh = Mesh::new(1);
    let root = mesh.root_key();
    let by = Authority::new(&mesh.mesh, &mesh.root, &root).unwrap();
    let scope = match scope {
        ["*"] => Scope::All,
        names => Scope::Namespaces(names.iter().map(|name| name.parse().unwrap()).collect()),
    };
    let operator = Key(77);
    let certificate =
        issue::operator(&by, &operator.public_key(), "bob", &scope, NOW, [9; 16]).unwrap();
    let draft = Draft::of(document, Lineage::first()).unwrap();
    let bundle = draft.sign_with(mesh.mesh, &certificate, &operator, further).unwrap();
    SignedVersion::parse(Arc::new(bundle), mesh.mesh)?.verify(&mesh.roots, &Keyed)
}

fn access(namespace: &str, destination: &str, effect: &str, from: &str) -> Document {
    parsed(&format!(
        "apiVersion: skein/v1\nkind: AccessPolicy\nmetadata: {{name: one, namespace: \
         {namespace}}}\nspec: {{destination: \"{destination}\", {effect}{from}}}\n"
    ))
}

fn traffic(namespace: &str, destination: &str, kind: &str, target: Option<&str>) -> Document {
    let target = match target {
        None => String::new(),
        Some("itself") => ", target: [{subset: \"1\", weight: 1}]".to_owned(),
        Some(service) if kind.contains("Mirror") => format!(", target: {service}"),
        Some(service) => format!(", target: [{{subset: \"1\"}}, {{service: {service}}}]"),
    };
    parsed(&format!(
        "apiVersion: skein/v1\nkind: TrafficManagement\nmetadata: {{name: one, namespace: \
         {namespace}}}\nspec:\n  trafficPolicies:\n  - name: only\n    trafficPolicy: \
         {{destination: \"{destination}\", {kind}{target}}}\n"
    ))
}

fn agrees(scope: &[&str], document: &Document, needs: &[Need]) -> Result<(), TestCaseError> {
    let may = needs.iter().all(|need| need.met(scope));
    match written(scope, document, None) {
        Ok(_) => prop_assert!(may, "{scope:?} wrote {}", document.to_yaml()),
        Err(VersionError::Scope { .. }) => {
            prop_assert!(!may, "{scope:?} may not write {}", document.to_yaml());
        }
        Err(other) => prop_assert!(false, "{other}: {}", document.to_yaml()),
    }
    Ok(())
}

/// `checkout` alone is of the document's own namespace.
fn reached(
    namespace: &'static str,
    (text, reaches): (&str, Option<&'static str>),
) -> Option<&'static str> {
    if text == "checkout" { Some(namespace) } else { reaches }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn an_access_policy_binds_nobody_outside_of_its_operators_scope(
        scope in select(&SCOPES[..]),
        namespace in select(&NAMESPACES[..]),
        destination in select(&DESTINATIONS[..]),
        effect in select(&["action: allow", "action: deny", "default: deny", "default: allow"][..]),
        caller in select(&CALLERS[..]),
    ) {
        let wide = destination.0.ends_with('*');
        let (from, need) = if effect.starts_with("default") { CALLERS[0] } else { caller };
        // A deny of everything by everybody is no document.
        prop_assume!(!(wide && effect == "action: deny" && from.is_empty()));
        let document = access(namespace, destination.0, effect, from);
        let reaches = Need::of(reached(namespace, destination));
        agrees(scope, &document, &[Need::Namespace(namespace), reaches, need])?;
    }

    #[test]
    fn a_traffic_policy_moves_nothing_outside_of_its_operators_scope(
        scope in select(&SCOPES[..]),
        namespace in select(&NAMESPACES[..]),
        destination in select(&DESTINATIONS[..]),
        (kind, takes) in select(&TYPES[..]),
        target in select(&TARGETS[..]),
    ) {
        // A copy goes to another service, never to the one that was called.
        let target = takes.then_some(match (kind.contains("Mirror"), target) {
            (true, "itself") => "bank/vault",
            (_, target) => target,
        });
        let document = traffic(namespace, destination.0, kind, target);
        let goes = match target {
            None | Some("itself") => Need::Nothing,
            Some("bank/vault") => Need::Namespace("bank"),
            Some("web/front") => Need::Namespace("web"),
            Some(_) => Need::Namespace("shop"),
        };
        let reaches = Need::of(reached(namespace, destination));
        agrees(scope, &document, &[Need::Namespace(namespace), reaches, goes])?;
    }

    #[test]
    fn what_an_agent_cannot_read_is_bound_by_its_frozen_section(
        scope in select(&SCOPES[..]),
        destination in select(&DESTINATIONS[..]),
    ) {
        let document = access("shop", destination.0, "default: deny", "");
        let needs = [Need::Namespace("shop"), Need::of(reached("shop", destination))];
        let may = needs.iter().all(|need| need.met(scope));
        let version = written(scope, &document, Some((9, b"of a newer agent".to_vec())));
        prop_assert_eq!(version.is_ok(), may, "{:?} {}", scope, destination.0);
        if let Ok(version) = version {
            prop_assert!(version.unread().is_some());
        }
    }
}

#[test]
fn a_refusal_names_the_operator_its_scope_and_what_lies_outside() {
    let document = access("shop", "bank/vault", "action: allow", "");
    let error = written(&["shop"], &document, None).unwrap_err();
    assert_eq!(
        error.to_string(),
        "operator bob may write for namespace shop only, and this reaches destination bank/vault"
    );
    let document = traffic("shop", "checkout", "type: Mirror, percent: 5", Some("bank/vault"));
    let error = written(&["shop"], &document, None).unwrap_err();
    assert!(error.to_string().ends_with("target bank/vault of policy only"), "{error}");
}
