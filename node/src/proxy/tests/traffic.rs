//! What traffic rules do to connections of bytes.

use std::time::Duration;

use super::*;

/// Node 1 calls; nodes 2 and 3 serve versions 1 and 2.
async fn versions() -> (Agent, Agent, Agent) {
    let (one, two, three) = (Agent::new(1), Agent::new(2), Agent::new(3));
    two.serve(greeter("two").await);
    three.serve(greeter("three").await);
    let mut seen = View::clone(&view(&[(2, Use::Yes), (3, Use::Yes)]));
    for service in seen.services.values_mut() {
        for (endpoint, version) in Arc::make_mut(service).endpoints.iter_mut().zip(["1", "2"]) {
            Arc::make_mut(&mut endpoint.instance).version = Some(version.parse().unwrap());
        }
    }
    one.view.send_replace(Arc::new(seen));
    one.dial(&two);
    one.dial(&three);
    (one, two, three)
}

/// What that many calls were answered; their lines are read.
async fn answers(agent: &mut Agent, count: usize) -> Vec<String> {
    let mut all = Vec::new();
    for _ in 0..count {
        all.push(all_of(agent.call().await).await.unwrap());
        agent.line().await;
    }
    all
}

fn of<'a>(all: &'a [String], who: &'a str) -> usize {
    all.iter().filter(|one| *one == who).count()
}

#[tokio::test]
async fn a_split_shares_by_weight_and_without_it_both_get_their_part() {
    let (mut one, _two, _three) = versions().await;
    one.rules(&["destination: db, type: Balance, algorithm: round-robin"]);
    let even = answers(&mut one, 100).await;
    assert!((45..=55).contains(&of(&even, "three")), "{}", of(&even, "three"));
    one.rules(&["destination: db, type: Split, \
        target: [{subset: \"1\", weight: 95}, {subset: \"2\", weight: 5}]"]);
    let shared = answers(&mut one, 200).await;
    // Ten of 200; within five standard deviations.
    assert!((1..=26).contains(&of(&shared, "three")), "{}", of(&shared, "three"));
    one.rules(&["destination: db, type: Split, \
        target: [{subset: \"1\", weight: 0}, {subset: \"2\", weight: 1}]"]);
    assert_eq!(of(&answers(&mut one, 20).await, "three"), 20);
}

#[tokio::test]
async fn a_sticky_split_keeps_a_caller_at_its_share() {
    let (mut one, _two, _three) = versions().await;
    one.rules(&["destination: db, type: Split, sticky: source, \
        target: [{subset: \"1\", weight: 50}, {subset: \"2\", weight: 50}]"]);
    let all = answers(&mut one, 20).await;
    assert!(of(&all, "two") == 20 || of(&all, "three") == 20, "{all:?}");
}

#[tokio::test]
async fn a_route_names_the_instances_and_what_is_empty_fails_or_spills() {
    let (mut one, _two, _three) = versions().await;
    one.rules(&["destination: db, type: Route, target: {subset: \"2\"}"]);
    assert_eq!(of(&answers(&mut one, 20).await, "three"), 20);
    one.rules(&["destination: db, type: Route, target: {subset: \"9\"}"]);
    is_reset(all_of(one.call().await).await);
    let line = one.line().await;
    assert_eq!(line.reason, CloseReason::NoEndpoints);
    assert!(line.detail.contains("none of 2 endpoints"), "{}", line.detail);
    // A list takes over what is empty, unless it says otherwise.
    let list = "destination: db, type: Split, \
        target: [{subset: \"9\", weight: 99}, {subset: \"2\", weight: 1}]";
    one.rules(&[list]);
    assert_eq!(of(&answers(&mut one, 20).await, "three"), 20);
    one.rules(&[&format!("{list}, onEmpty: fail")]);
    let mut failed = 0;
    for _ in 0..20 {
        failed += usize::from(all_of(one.call().await).await.is_err());
        one.line().await;
    }
    assert!(failed > 10, "{failed}");
}

#[tokio::test]
async fn a_retry_rule_says_how_often_and_after_what() {
    let (mut one, _two, three) = versions().await;
    one.answering(2, Reply::refused(Refusal::Draining, "drains"));
    // Without a rule the other one takes it.
    assert_eq!(of(&answers(&mut one, 10).await, "three"), 10);
    one.rules(&[
        "destination: db, type: Retry, attempts: 0",
        "destination: db, type: Balance, algorithm: round-robin",
    ]);
    // What drained rests for a second, and is tried again after that.
    one.answering(3, Reply::refused(Refusal::ConnectFailed, "no"));
    is_reset(all_of(one.call().await).await);
    let line = one.line().await;
    assert_eq!((line.reason, line.tries), (CloseReason::ConnectFailed, 1), "{line:?}");
    one.rules(&["destination: db, type: Retry, attempts: 3, on: [draining]"]);
    is_reset(all_of(one.call().await).await);
    let line = one.line().await;
    assert_eq!(line.tries, 2, "nothing was sent: the other one is tried whatever `on` says");
    assert!(line.detail.contains("no other endpoint is left"), "{}", line.detail);
    drop(three);
}

#[tokio::test]
async fn what_could_not_be_sent_goes_elsewhere_whatever_a_retry_rule_is_on() {
    let (mut one, _two, _three) = versions().await;
    one.rules(&["destination: db, type: Retry, attempts: 1, on: [5xx, timeout]"]);
    one.link(2, Link::Down);
    assert_eq!(of(&answers(&mut one, 10).await, "three"), 10);
    for refusal in [Refusal::ConnectFailed, Refusal::Draining, Refusal::Overload] {
        one.answering(2, Reply::refused(refusal, "no"));
        assert_eq!(of(&answers(&mut one, 10).await, "three"), 10, "{refusal:?}");
    }
}

/// A subset of one instance has no second one: the other legs have.
#[tokio::test]
async fn a_split_whose_only_instance_is_out_is_tried_at_its_other_legs() {
    let (mut one, _two, _three) = versions().await;
    one.rules(&[
        "destination: db, type: Split, \
         target: [{subset: \"1\", weight: 90}, {subset: \"2\", weight: 10}]",
        "destination: db, type: Retry, attempts: 2, on: [5xx]",
    ]);
    one.link(2, Link::Down);
    assert_eq!(of(&answers(&mut one, 20).await, "three"), 20);
    one.link(3, Link::Down);
    is_reset(all_of(one.call().await).await);
    let line = one.line().await;
    assert_eq!((line.reason, line.tries), (CloseReason::Unreachable, 2), "{line:?}");
    assert!(line.detail.contains("no other endpoint is left"), "{}", line.detail);
}

#[tokio::test]
async fn an_idle_timeout_of_a_rule_holds() {
    let (mut one, two, app) = pair().await;
    one.rules(&["destination: db, type: Timeout, idle: 100ms"]);
    let client = one.call().await;
    let (_served, _) = soon(app.accept()).await.unwrap();
    is_reset(all_of(client).await);
    assert_eq!(one.line().await.reason, CloseReason::IdleTimeout);
    drop(two);
}

#[tokio::test]
async fn a_circuit_breaker_lets_so_many_through_at_once() {
    let (mut one, two, app) = pair().await;
    one.rules(&["destination: db, type: CircuitBreak, maxConnections: 2"]);
    let held = [one.call().await, one.call().await];
    let served = [soon(app.accept()).await.unwrap(), soon(app.accept()).await.unwrap()];
    is_reset(all_of(one.call().await).await);
    let line = one.line().await;
    assert_eq!(line.reason, CloseReason::CircuitOpen);
    assert!(line.detail.contains("2 connections"), "{}", line.detail);
    drop(held);
    drop(served);
    for _ in 0..2 {
        one.line().await;
    }
    let _again = one.call().await;
    soon(app.accept()).await.unwrap();
    drop(two);
}

#[tokio::test]
async fn a_rate_holds_at_the_serving_side_and_is_not_tried_elsewhere() {
    let (mut one, two, three) = versions().await;
    let rule = "destination: db, type: RateLimit, rate: 1/m, burst: 2, per: source";
    two.rules(&[rule]);
    three.rules(&[rule]);
    let mut carried = 0;
    let mut limited = 0;
    for _ in 0..10 {
        match all_of(one.call().await).await {
            Ok(_) => carried += 1,
            Err(_) => limited += 1,
        }
        let line = one.line().await;
        if line.reason == CloseReason::RateLimited {
            assert_eq!(line.tries, 1, "{line:?}");
            assert!(line.detail.contains("over the rate of shop/t#p0"), "{}", line.detail);
        }
    }
    // A burst of two at each of two instances.
    assert!(carried <= 4 && limited >= 6, "{carried} carried");
    two.rules(&[]);
    three.rules(&[]);
    assert_eq!(answers(&mut one, 10).await.len(), 10, "without the rule all are carried");
}

#[tokio::test]
async fn a_fault_delays_or_ends_its_share() {
    let (mut one, _two, _three) = versions().await;
    one.rules(&["destination: db, type: Fault, abort: reset, percent: 100"]);
    is_reset(all_of(one.call().await).await);
    let line = one.line().await;
    assert_eq!((line.reason, line.tries), (CloseReason::Fault, 0));
    assert!(line.detail.contains("shop/t#p0"), "{}", line.detail);
    one.rules(&["destination: db, type: Fault, delay: 150ms, percent: 100"]);
    all_of(one.call().await).await.unwrap();
    assert!(one.line().await.connected >= Duration::from_millis(150));
    one.rules(&["destination: db, type: Fault, abort: reset, percent: 0"]);
    assert_eq!(answers(&mut one, 20).await.len(), 20);
}

#[tokio::test]
async fn an_eject_rule_says_after_how_many_failures() {
    let (mut one, _two, _three) = versions().await;
    one.link(2, Link::Down);
    one.rules(&[
        "destination: db, type: Eject, consecutive: 1",
        "destination: db, type: Balance, algorithm: round-robin",
    ]);
    answers(&mut one, 4).await;
    let service = Arc::clone(&one.view.borrow().services[&SERVICE.parse().unwrap()]);
    assert_eq!(one.proxy.states(&service)[0].usable, Use::LastChoice(Reason::Ejected));
}

#[tokio::test]
async fn a_locality_rule_rules_out_what_is_not_near() {
    let (mut one, _two, _three) = versions().await;
    one.rules(&["destination: db, type: Locality, prefer: [node]"]);
    is_reset(all_of(one.call().await).await);
    let line = one.line().await;
    assert!(line.detail.contains("Locality policy"), "{}", line.detail);
    one.rules(&["destination: db, type: Locality, prefer: [node, zone]"]);
    assert_eq!(answers(&mut one, 5).await.len(), 5);
}
