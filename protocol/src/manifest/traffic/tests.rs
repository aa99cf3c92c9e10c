//! Traffic policies: what is read, what is refused and in which words, which match is better.

use proptest::prelude::*;

use super::*;
use crate::manifest::{Body, Inputs, parse};

fn read(policies: &str) -> Result<Traffic, String> {
    let text = format!(
        "apiVersion: skein/v1\nkind: TrafficManagement\nmetadata: {{name: t, namespace: shop}}\n\
         spec:\n  endpoints: [{{name: a, address: 127.0.0.1}}]\n  trafficPolicies:\n{policies}\n"
    );
    let documents =
        parse("t.yaml", &text, &Inputs::default()).map_err(|faults| faults.to_string())?;
    match &documents.first().unwrap().body {
        Body::Traffic(traffic) => Ok(traffic.clone()),
        other => panic!("{other:?}"),
    }
}

fn one(policy: &str) -> TrafficPolicy {
    let traffic = read(&format!("  - {{name: p, trafficPolicy: {{destination: web, {policy}}}}}"));
    traffic.unwrap_or_else(|faults| panic!("{policy}: {faults}")).policies.remove(0)
}

fn refused(policy: &str, words: &str) {
    let text = format!("  - {{name: p, trafficPolicy: {{destination: web, {policy}}}}}");
    let faults = read(&text).expect_err(policy);
    assert!(faults.contains(words), "{policy}: wanted {words:?} in\n{faults}");
}

#[test]
fn every_type_is_read_with_its_defaults() {
    let action = |policy: &str| one(policy).action;
    let Action::Retry(retry) = action("type: Retry") else { panic!() };
    assert_eq!(retry, Retry::default());
    let Action::Retry(retry) =
        action("type: Retry, attempts: 4, on: [connect, 503], budget: {percent: 10, min: 60/m}")
    else {
        panic!()
    };
    assert_eq!((retry.attempts, retry.on.len()), (4, 2));
    assert_eq!((retry.budget.percent, retry.budget.min_milli_per_second), (1_000, 1_000));
    let Action::RateLimit(limit) = action("type: RateLimit, rate: 6000/m, per: {header: X-User}")
    else {
        panic!()
    };
    assert_eq!((limit.burst, limit.per), (100, PerWhat::Header("x-user".to_owned())));
    let Action::Eject(eject) = action("type: Eject, consecutive: 3, maxPercent: 20%") else {
        panic!()
    };
    assert_eq!((eject.consecutive, eject.most, eject.success), (3, 2_000, 5_000));
    let Action::Hedge(hedge) = action("type: Hedge") else { panic!() };
    assert_eq!(hedge.after, HedgeAfter::Percentile(95));
    let Action::Fault(fault) = action("type: Fault, delay: 2s, abort: 503, percent: 5") else {
        panic!()
    };
    assert_eq!((fault.abort, fault.percent), (Some(Abort::Status(503)), 500));
    let Action::Locality(locality) = action("type: Locality, prefer: [zone, any], spill: empty")
    else {
        panic!()
    };
    assert_eq!((locality.prefer.len(), locality.spill), (2, crate::route::Spill::Empty));
}

#[test]
fn a_bare_target_is_an_endpoint_of_the_document_or_a_service() {
    let Action::Route(route) = one("type: Route, target: a").action else { panic!() };
    let endpoint = &route.to.as_ref().unwrap().list()[0];
    assert_eq!(endpoint.subset.endpoint.as_ref().unwrap().as_str(), "a");
    assert_eq!(route.to.unwrap().on_empty, OnEmpty::Fail);
    let Action::Split(split) =
        one("type: Split, target: [{subset: \"1\", weight: 90}, {service: ops/b, weight: 10}]")
            .action
    else {
        panic!()
    };
    let shares: Vec<u64> = split.to.shares().map(|(_, share)| share).collect();
    assert_eq!((shares, split.to.on_empty), (vec![9_000, 1_000], OnEmpty::Spill));
    assert_eq!(split.to.at(89).unwrap().weight, 90);
    assert_eq!(split.to.at(90).unwrap().weight, 10);
    assert_eq!(split.to.at(100), None);
}

#[test]
fn what_cannot_be_meant_is_refused_with_what_to_do() {
    refused("type: Route, target: b, redirect: {path: /x}", "keep either `target` or `redirect`");
    refused("type: Route, redirect: {status: 302}", "to the same address again");
    refused("type: Route, rewrite: {prefix: /v2}", "none is matched");
    refused("type: Route, match: {path: /a, prefix: /b}", "keep one of path, prefix and regex");
    refused("type: Route, match: {regex: '(/a'}", "is not taken");
    refused("type: Route, match: {path: v1}", "write it from the root");
    refused("type: Route, match: {method: get}", "write it in capitals");
    refused("type: Route, headers: {request: {set: {host: x}}}", "belongs to the agents");
    refused("type: Split, target: web", "a list belongs here");
    refused("type: Balance, algorithm: random, key: source", "only ring-hash has a key");
    refused("type: Balance, match: {method: GET}", "holds for a whole service or port");
    refused("type: Locality, prefer: [any, node]", "from near to far");
    refused("type: Hedge, after: p20", "write `p50` to `p99`");
    refused("type: Timeout, request: 0s", "no time at all");
    refused("type: Fault", "`abort: reset`");
    refused("type: RateLimit, rate: 0/s", "lets nothing through");
    refused("type: Mirror, target: b, protocol: tcp", "bytes have none");
    refused("type: Retry, attempts: 99", "0 to 10");
}

#[test]
fn two_about_the_same_are_refused_and_two_with_other_matches_are_not() {
    let pair = |first: &str, second: &str| {
        read(&format!(
            "  - {{name: p, trafficPolicy: {{destination: web, type: Route, target: b{first}}}}}\n  \
             - {{name: q, trafficPolicy: {{destination: web, type: Route, target: c{second}}}}}"
        ))
    };
    let same = pair("", "").unwrap_err();
    assert!(same.contains("`q` and `p` have the same destination, port, type and match"), "{same}");
    let regex = ", match: {regex: /a.*}";
    assert!(pair(regex, regex).is_err());
    pair(", match: {path: /a}", ", match: {prefix: /a}").unwrap();
}

fn matching(text: &str) -> Match {
    one(&format!("type: Route, target: b, match: {text}")).matches
}

#[test]
fn a_match_holds_when_all_it_says_holds() {
    let request = Request {
        method: "GET",
        path: "/v1/orders",
        query: "a=1&b",
        headers: &[("x-user", "eve"), ("x-user", "mallory")],
    };
    for good in [
        "{path: /v1/orders}",
        "{prefix: /v1}",
        "{prefix: /v1/}",
        "{prefix: /}",
        "{regex: '/v[0-9]+/.*'}",
        "{methods: [POST, GET]}",
        "{headers: {X-User: mallory}}",
        "{headers: {x-user: {present: true}, x-none: {present: false}}}",
        "{query: {a: \"1\"}}",
    ] {
        assert!(matching(good).covers(&request), "{good}");
    }
    for bad in [
        "{path: /v1}",
        "{prefix: /v1/ord}",
        "{regex: '/v[0-9]+'}",
        "{method: POST}",
        "{headers: {x-user: bob}}",
        "{headers: {x-user: {present: false}}}",
        "{query: {a: \"2\"}}",
        "{prefix: /v1, method: POST}",
    ] {
        assert!(!matching(bad).covers(&request), "{bad}");
    }
}

#[test]
fn the_better_match_comes_first() {
    let order = [
        "{path: /v1/a}",
        "{regex: '/v1/.*'}",
        "{prefix: /v1/a}",
        "{prefix: /v1, method: GET}",
        "{prefix: /v1, headers: {a: x, b: y}}",
        "{prefix: /v1, headers: {a: x}}",
        "{prefix: /v1, query: {a: x}}",
        "{prefix: /v1}",
        "{method: GET}",
    ];
    for pair in order.windows(2) {
        let [better, worse] = pair else { unreachable!() };
        assert!(matching(better).best_first(&matching(worse)).is_lt(), "{better} before {worse}");
    }
}

proptest! {
    #[test]
    fn no_path_panics_a_match(path in ".{0,80}", query in ".{0,40}") {
        let request = Request { method: "GET", path: &path, query: &query, headers: &[] };
        for text in ["{regex: '/(a|b)*c'}", "{prefix: /v1, query: {a: x}}"] {
            let _ = matching(text).covers(&request);
        }
    }
}
