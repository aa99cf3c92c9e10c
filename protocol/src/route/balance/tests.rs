//! Balancing: what is chosen over many choices, and what never is.

use std::sync::Arc;

use proptest::prelude::*;
use rand::{SeedableRng, rngs::StdRng};

use super::*;
use crate::{
    clock::Wall,
    name::{Hash, Locality, NodeKey},
    record::node::{Health, Instance, InstanceId, Protocol, ServicePort},
    route::{Subset, Tried, Tuning},
    trust::Grant,
    view::{Liveness, NodeView},
};

const ME: NodeKey = NodeKey([0; 32]);

fn endpoint(number: u8, weight: u32, zone: &str, usable: Use) -> Endpoint {
    let key = NodeKey([number; 32]);
    Endpoint {
        node: Arc::new(NodeView {
            key,
            short: key.short(),
            name: format!("n{number}").parse().unwrap(),
            grant: Arc::new(Grant::new("n".parse().unwrap(), vec![], vec![], None).unwrap()),
            locality: zone.parse().unwrap(),
            addresses: Vec::new(),
            liveness: Liveness::Alive,
            boot: 1,
            gossip_generation: 1,
            sequence: 1,
            hash: Hash([0; 32]),
            version: String::new(),
            issuer: false,
            held_issuer: None,
            tokens: Arc::default(),
            root: [0; 32],
            certified: true,
            unwritten: false,
            not_after: Wall(u64::MAX),
        }),
        instance: Arc::new(Instance {
            id: InstanceId { document: "web".parse().unwrap(), endpoint: "a".parse().unwrap() },
            service: "shop/web".parse().unwrap(),
            ports: vec![port()],
            health: Health::Passing,
            weight,
            version: None,
            image: None,
            tags: Vec::new(),
            meta: Vec::new(),
            target: String::new(),
            set_aside: None,
        }),
        usable,
    }
}

fn port() -> ServicePort {
    ServicePort {
        name: "http".parse().unwrap(),
        port: 80,
        protocol: Protocol::Tcp,
        exposed: false,
        hosts: Vec::new(),
    }
}

fn service(mut endpoints: Vec<Endpoint>) -> ServiceView {
    endpoints.sort_by_key(Endpoint::key);
    ServiceView { name: "shop/web".parse().unwrap(), ports: vec![port()], endpoints }
}

/// `count` endpoints of weight 10 in one zone, all usable.
fn even(count: u8) -> ServiceView {
    let all = (1..=count).map(|number| endpoint(number, 10, "r/z", Use::Yes));
    service(all.collect())
}

/// As long as an agent runs it answers its own callers, when nobody else does: a gateway that serves
/// its own service loses no request to its restart.
#[test]
fn a_draining_instance_is_the_last_resort_of_its_own_host() {
    let draining = |number| endpoint(number, 10, "r/z", Use::No(Reason::Draining));
    let mut bench = Bench::new(1);
    let alone = service(vec![draining(0), draining(1)]);
    assert_eq!(bench.call(&alone, Outcome::Failed).0, 0, "the other's own host refuses");
    let other = endpoint(2, 10, "r/z", Use::LastChoice(Reason::Suspect));
    let both = service(vec![draining(0), draining(1), other]);
    assert!((0..10).all(|_| bench.call(&both, Outcome::Failed).0 == 2));
}

struct Bench {
    balancer: Balancer,
    rng: StdRng,
    now: Now,
    here: Locality,
    subset: Subset,
    tuning: Tuning,
    affinity: u64,
}

impl Bench {
    fn new(seed: u64) -> Self {
        Self {
            balancer: Balancer::default(),
            rng: StdRng::seed_from_u64(seed),
            now: Now { tick: Tick(1_000_000), wall: Default::default() },
            here: "r/z".parse().unwrap(),
            subset: Subset::default(),
            tuning: Tuning::default(),
            affinity: 0,
        }
    }

    fn choose(&mut self, service: &ServiceView, tried: &Tried) -> Result<Choice, NoRoute> {
        let ask = Ask {
            service,
            port: 80,
            subset: &self.subset,
            me: ME,
            here: &self.here,
            tried,
            tuning: &self.tuning,
            affinity: self.affinity,
        };
        self.balancer.choose(self.now, &ask, &mut self.rng)
    }

    /// One call that ends at once with `outcome`.
    fn call(&mut self, service: &ServiceView, outcome: Outcome) -> (u8, bool) {
        let choice = self.choose(service, &Tried::default()).unwrap();
        let key = choice.endpoint.key();
        let ejected = self.balancer.report(
            self.now,
            service,
            &key,
            outcome,
            &self.tuning.eject,
            &mut self.rng,
        );
        self.balancer.release(&service.name, &key);
        (key.node.0[0], ejected)
    }

    fn report(&mut self, service: &ServiceView, number: u8, outcome: Outcome) -> bool {
        let key = service.endpoints[usize::from(number - 1)].key();
        let states = self.balancer.services.entry(service.name.clone());
        states.or_default().entry(key.clone()).or_default().boot = 1;
        self.balancer.report(self.now, service, &key, outcome, &self.tuning.eject, &mut self.rng)
    }

    fn out(&self, service: &ServiceView) -> usize {
        self.balancer.out_of(service, None)
    }
}

const WELL: Outcome = Outcome::Connected(Duration::from_micros(300));

fn counts(bench: &mut Bench, service: &ServiceView, calls: u32) -> BTreeMap<u8, u32> {
    let mut counts = BTreeMap::new();
    for _ in 0..calls {
        *counts.entry(bench.call(service, WELL).0).or_default() += 1;
    }
    counts
}

#[test]
fn shares_follow_the_weights_within_binomial_bounds() {
    let weights = [10u32, 10, 30, 50];
    let all = (1u8..).zip(weights);
    let service =
        service(all.map(|(number, weight)| endpoint(number, weight, "r/z", Use::Yes)).collect());
    for seed in 0..5 {
        let counts = counts(&mut Bench::new(seed), &service, 10_000);
        for (number, weight) in (1u8..).zip(weights) {
            let share = f64::from(weight) / 100.0;
            let sigma = (10_000.0 * share * (1.0 - share)).sqrt();
            let off = (f64::from(counts[&number]) - 10_000.0 * share).abs();
            assert!(off < 4.5 * sigma, "seed {seed}: {counts:?}");
        }
    }
}

#[test]
fn round_robin_takes_turns_by_weight() {
    let service = service(vec![endpoint(1, 1, "r/z", Use::Yes), endpoint(2, 2, "r/z", Use::Yes)]);
    let mut bench = Bench::new(1);
    bench.tuning.algorithm = Algorithm::RoundRobin;
    let turns: Vec<u8> = (0..6).map(|_| bench.call(&service, WELL).0).collect();
    assert_eq!(turns, [2, 1, 2, 2, 1, 2]);
}

#[test]
fn calls_in_flight_move_new_calls_to_the_idle_endpoint() {
    let service = even(2);
    let mut bench = Bench::new(1);
    let mut held = BTreeMap::<u8, u32>::new();
    for _ in 0..1_000 {
        let choice = bench.choose(&service, &Tried::default()).unwrap();
        *held.entry(choice.endpoint.node.key.0[0]).or_default() += 1;
    }
    assert!(held[&1].abs_diff(held[&2]) < 300, "{held:?}");
}

#[test]
fn a_slow_endpoint_gets_few_calls() {
    let service = even(3);
    let mut bench = Bench::new(1);
    bench.report(&service, 1, Outcome::Connected(Duration::from_millis(200)));
    bench.report(&service, 2, Outcome::Connected(Duration::from_millis(5)));
    bench.report(&service, 3, Outcome::Connected(Duration::from_millis(5)));
    let counts: u32 = (0..300)
        .map(|_| {
            let choice = bench.choose(&service, &Tried::default()).unwrap();
            let key = choice.endpoint.key();
            bench.balancer.release(&service.name, &key);
            u32::from(key.node.0[0] == 1)
        })
        .sum();
    assert_eq!(counts, 0, "two draws are never both the slow one");
}

#[test]
fn a_new_endpoint_is_held_for_the_median_and_not_stampeded() {
    let service = even(3);
    let mut bench = Bench::new(1);
    bench.report(&service, 1, Outcome::Connected(Duration::from_millis(50)));
    bench.report(&service, 2, Outcome::Connected(Duration::from_millis(55)));
    let mut new = 0;
    for _ in 0..900 {
        let choice = bench.choose(&service, &Tried::default()).unwrap();
        let key = choice.endpoint.key();
        bench.balancer.release(&service.name, &key);
        new += u32::from(key.node.0[0] == 3);
    }
    assert!((220..380).contains(&new), "{new} of 900");
}

#[test]
fn a_call_stays_on_its_host_then_in_its_zone_then_in_its_region() {
    let mut all = vec![
        endpoint(0, 10, "r/z", Use::Yes),
        endpoint(1, 10, "r/z", Use::Yes),
        endpoint(2, 10, "r/y", Use::Yes),
        endpoint(3, 10, "q/x", Use::Yes),
    ];
    let tiers = [Tier::Node, Tier::Zone, Tier::Region, Tier::Any];
    let mut bench = Bench::new(1);
    for (place, tier) in tiers.into_iter().enumerate() {
        let service = service(all.clone());
        let choice = bench.choose(&service, &Tried::default()).unwrap();
        assert_eq!(choice.tier, tier);
        all[place].usable = Use::No(Reason::Dead);
    }
    let service = service(all);
    let error = bench.choose(&service, &Tried::default()).unwrap_err();
    assert!(error.to_string().contains("0 of 4 endpoints usable (4 dead)"));
}

#[test]
fn half_of_a_zone_gone_spills_three_calls_in_ten() {
    let mut all: Vec<_> = (1..=4)
        .map(|number| {
            let usable = if number <= 2 { Use::Yes } else { Use::No(Reason::Critical) };
            endpoint(number, 10, "r/z", usable)
        })
        .collect();
    all.push(endpoint(9, 10, "r/y", Use::Yes));
    let counts = counts(&mut Bench::new(1), &service(all), 10_000);
    assert!((2_700..3_300).contains(&counts[&9]), "{counts:?}");
}

#[test]
fn last_choice_is_taken_only_when_nothing_better_is_left() {
    let service = service(vec![
        endpoint(1, 10, "r/z", Use::LastChoice(Reason::Suspect)),
        endpoint(2, 10, "q/x", Use::Yes),
    ]);
    let mut bench = Bench::new(1);
    let mut tried = Tried::default();
    let first = bench.choose(&service, &tried).unwrap().endpoint.key();
    assert_eq!(first.node.0[0], 2);
    tried.endpoints.insert(first);
    let second = bench.choose(&service, &tried).unwrap().endpoint.key();
    assert_eq!(second.node.0[0], 1);
    tried.endpoints.insert(second);
    assert!(matches!(bench.choose(&service, &tried), Err(NoRoute::AllTried { tried: 2, .. })));
}

#[test]
fn the_agent_that_did_not_answer_is_asked_last() {
    let service = even(2);
    let mut bench = Bench::new(1);
    let mut tried = Tried::default();
    tried.nodes.insert(NodeKey([1; 32]));
    for _ in 0..20 {
        let choice = bench.choose(&service, &tried).unwrap();
        assert_eq!(choice.endpoint.node.key, NodeKey([2; 32]));
    }
}

#[test]
fn what_drains_rests_a_second() {
    let service = even(2);
    let mut bench = Bench::new(1);
    bench.report(&service, 1, Outcome::Refused(Refusal::Draining));
    assert!((0..50).all(|_| bench.call(&service, WELL).0 == 2));
    bench.now.tick = bench.now.tick.after(limits::REST);
    assert!((0..50).any(|_| bench.call(&service, WELL).0 == 1));
}

#[test]
fn an_ejected_endpoint_comes_back_by_one_probe() {
    let service = even(2);
    let mut bench = Bench::new(1);
    let ejected: Vec<bool> = (0..5).map(|_| bench.report(&service, 1, Outcome::NoReply)).collect();
    assert_eq!(ejected, [false, false, false, false, true]);
    assert!((0..50).all(|_| bench.call(&service, WELL).0 == 2));
    let states = bench.balancer.states(bench.now, &service);
    assert_eq!(states[0].usable, Use::LastChoice(Reason::Ejected));
    bench.now.tick = bench.now.tick.after(limits::EJECT_BASE);
    let probe = bench.choose(&service, &Tried::default()).unwrap();
    assert!(probe.probe && probe.endpoint.node.key == NodeKey([1; 32]));
    assert!((0..50).all(|_| bench.call(&service, WELL).0 == 2), "one probe");
    bench.report(&service, 1, WELL);
    bench.balancer.release(&service.name, &probe.endpoint.key());
    assert!((0..50).any(|_| bench.call(&service, WELL).0 == 1));
}

#[test]
fn when_others_die_ejected_endpoints_come_back_early() {
    let mut service = even(4);
    let mut bench = Bench::new(1);
    for number in [1, 2] {
        for _ in 0..5 {
            bench.report(&service, number, Outcome::NoReply);
        }
    }
    assert_eq!(bench.out(&service), 2);
    service.endpoints[2].usable = Use::No(Reason::Dead);
    service.endpoints[3].usable = Use::No(Reason::Dead);
    bench.choose(&service, &Tried::default()).unwrap();
    assert_eq!(bench.out(&service), 1);
}

#[test]
fn one_failure_keeps_calls_away_for_five_seconds_or_until_a_success() {
    let service = even(2);
    let mut bench = Bench::new(1);
    bench.report(&service, 2, WELL);
    bench.report(&service, 1, Outcome::NoReply);
    assert!((0..50).all(|_| bench.call(&service, WELL).0 == 2));
    bench.now.tick = bench.now.tick.after(limits::PENALTY_LASTS);
    assert!((0..50).any(|_| bench.call(&service, WELL).0 == 1));
    bench.report(&service, 1, Outcome::NoReply);
    bench.report(&service, 1, WELL);
    assert!((0..50).any(|_| bench.call(&service, WELL).0 == 1));
}

#[test]
fn an_endpoint_in_another_boot_starts_afresh() {
    let mut service = even(2);
    let mut bench = Bench::new(1);
    for _ in 0..5 {
        bench.report(&service, 1, Outcome::Unreachable);
    }
    let view = |bench: &Bench, service: &ServiceView| View {
        services: [(service.name.clone(), Arc::new(service.clone()))].into(),
        ..empty(bench)
    };
    let same = view(&bench, &service);
    bench.balancer.retain(&same);
    assert_eq!(bench.out(&service), 1);
    let node = Arc::make_mut(&mut service.endpoints[0].node);
    node.boot = 2;
    let restarted = view(&bench, &service);
    bench.balancer.retain(&restarted);
    assert_eq!(bench.out(&service), 0);
    assert!((0..50).any(|_| bench.call(&service, WELL).0 == 1));
}

fn empty(bench: &Bench) -> View {
    View {
        number: 1,
        me: ME,
        locality: bench.here.clone(),
        records_root: Hash([0; 32]),
        revocation_root: Hash([0; 32]),
        policy_root: Hash([0; 32]),
        policy: Arc::default(),
        nodes: BTreeMap::new(),
        services: BTreeMap::new(),
    }
}

#[test]
fn what_left_the_view_is_forgotten_once_its_calls_end() {
    let service = even(2);
    let mut bench = Bench::new(1);
    let held = bench.choose(&service, &Tried::default()).unwrap();
    let empty = empty(&bench);
    bench.balancer.retain(&empty);
    assert_eq!(bench.balancer.services.len(), 1);
    bench.balancer.release(&service.name, &held.endpoint.key());
    bench.balancer.retain(&empty);
    assert!(bench.balancer.services.is_empty());
}

#[test]
fn a_port_that_the_service_lacks_and_a_subset_that_nothing_has_are_told_apart() {
    let service = even(2);
    let mut bench = Bench::new(1);
    bench.subset.version = Some("2".parse().unwrap());
    let error = bench.choose(&service, &Tried::default()).unwrap_err();
    assert!(error.to_string().contains("none of 2 endpoints has version 2"));
    let ask = Ask {
        service: &service,
        port: 81,
        subset: &Subset::default(),
        me: ME,
        here: &bench.here,
        tried: &Tried::default(),
        tuning: &bench.tuning,
        affinity: 0,
    };
    let error = bench.balancer.choose(bench.now, &ask, &mut bench.rng).unwrap_err();
    assert!(error.to_string().contains("has no port 81, only 80"));
}

fn any_use() -> impl Strategy<Value = Use> {
    prop_oneof![
        4 => Just(Use::Yes),
        1 => Just(Use::LastChoice(Reason::Suspect)),
        2 => Just(Use::No(Reason::Critical)),
        1 => Just(Use::No(Reason::Dead)),
    ]
}

fn any_outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        (0u64..2_000).prop_map(|ms| Outcome::Connected(Duration::from_millis(ms))),
        (0usize..5).prop_map(|code| Outcome::Refused(Refusal::ALL[code])),
        Just(Outcome::NoReply),
        Just(Outcome::Unreachable),
    ]
}

proptest! {
    /// Whatever becomes of the calls: a call goes on while an untried endpoint may be used, never
    /// to one that may not, never twice to one, and at most half of the usable are ever out.
    #[test]
    fn no_history_breaks_the_rules(
        seed: u64,
        round_robin: bool,
        uses in proptest::collection::vec((any_use(), 0u32..20, 0u8..3), 1..8),
        history in proptest::collection::vec((any_outcome(), 0u64..3_000), 0..120),
    ) {
        let zones = ["r/z", "r/y", "q/x"];
        let all = (1u8..).zip(uses).map(|(number, (usable, weight, zone))| {
            endpoint(number, weight, zones[usize::from(zone)], usable)
        });
        let service = service(all.collect());
        let usable = |one: &Endpoint| {
            !matches!(one.usable, Use::No(_)) && one.instance.weight > 0
        };
        let can_be_used = service.endpoints.iter().filter(|one| usable(one)).count();
        let in_use = service.endpoints.iter().filter(|one| !matches!(one.usable, Use::No(_)));
        let in_use = in_use.count();
        let mut bench = Bench::new(seed);
        if round_robin {
            bench.tuning.algorithm = Algorithm::RoundRobin;
        }
        let mut tried = Tried::default();
        for (outcome, passed) in history {
            bench.now.tick = Tick(bench.now.tick.0 + passed);
            let Ok(choice) = bench.choose(&service, &tried) else {
                prop_assert_eq!(tried.endpoints.len(), can_be_used);
                tried = Tried::default();
                continue;
            };
            let key = choice.endpoint.key();
            prop_assert!(usable(&choice.endpoint));
            prop_assert!(tried.endpoints.insert(key.clone()), "twice");
            bench.balancer.report(bench.now, &service, &key, outcome, &bench.tuning.eject, &mut bench.rng);
            bench.balancer.release(&service.name, &key);
            if matches!(outcome, Outcome::Connected(_)) {
                tried = Tried::default();
            }
            prop_assert!(bench.out(&service) * 2 <= in_use);
            prop_assert!(in_use == 0 || bench.out(&service) < in_use);
            let states = bench.balancer.states(bench.now, &service);
            prop_assert!(states.iter().all(|state| state.in_flight == 0));
        }
    }
}
