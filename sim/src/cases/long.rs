//! Cases of time and size: slow paths, weeks of drift, restarts without end, a cold start, a record
//! that breaks the agents of one version, an address of somebody else.

use rand::{SeedableRng, rngs::StdRng};
use skein_protocol::{
    engine::Event,
    limits,
    route::{Ask, Balancer, Subset, Tried, Tuning},
    view::{Endpoint, Liveness, Reason, Use},
};

use super::{blamed, head, weather, world};
use crate::world::{Options, World};

const HOUR: u64 = 3_600_000;
const MINUTE: u64 = 60_000;

fn endpoints(world: &World, at: usize, of: usize) -> Vec<Endpoint> {
    let key = world.key(of);
    let view = world.view(at).unwrap();
    let all = view.services.values().flat_map(|service| &service.endpoints);
    all.filter(|endpoint| endpoint.node.key == key).cloned().collect()
}

#[test]
fn case_7_half_a_second_of_delay_kills_nobody_and_calls_stay_in_their_zone() {
    let options =
        Options { seed: 21, nodes: 40, weather: weather(0.0, (200, 800)), ..Options::default() };
    let mut world = World::new(options).unwrap();
    world.start_all();
    assert!(world.run_until(60_000, World::full_and_equal).is_some(), "no common view");
    world.run_to(world.now + 20_000);
    let seen = world.events.len();
    world.run_to(world.now + 300_000);
    let flaps = world.events.iter().skip(seen);
    let flaps = flaps.filter(|(_, _, e)| matches!(e, Event::Suspect(_) | Event::Dead(_))).count();
    assert_eq!(flaps, 0, "flaps in five minutes");
    // Node 4 lives in the zone of nodes 0 and 20, that serve svc-0; 10 and 30 live elsewhere.
    let view = world.view(4).unwrap();
    let service = &view.services[&"shop/svc-0".parse().unwrap()];
    let (mut balancer, mut rng) = (Balancer::default(), StdRng::seed_from_u64(1));
    for _ in 0..100 {
        let (tried, subset, tuning) = (Tried::default(), Subset::default(), Tuning::default());
        let ask = Ask {
            service,
            port: 80,
            subset: &subset,
            me: view.me,
            here: &view.locality,
            tried: &tried,
            tuning: &tuning,
            affinity: 0,
        };
        let choice = balancer.choose(world.clock(4), &ask, &mut rng).unwrap();
        balancer.release(&service.name, &choice.endpoint.key());
        assert_eq!(choice.endpoint.node.locality, view.locality, "{}", choice.endpoint.id());
    }
}

#[test]
fn case_12_clocks_that_drift_for_thirty_days_end_nothing_before_its_time() {
    let mut world = world(6, 22);
    for (number, node) in world.nodes.iter_mut().enumerate() {
        node.drift = if number % 2 == 0 { 200 } else { -200 };
    }
    let first = head(&world, 0, 5);
    let mut renewals = 0;
    // Two hours pass in a moment, of which the last minute is lived.
    for step in 0..30 * 12 {
        world.leap(2 * HOUR - MINUTE);
        // Who issues has a clock of its own, and another node issues each time.
        renewals += world.renew_due(step % 6).unwrap();
        world.run_to(world.now + MINUTE);
        for at in 0..6 {
            for of in 0..6 {
                let used = endpoints(&world, at, of);
                assert!(!used.is_empty(), "day {}: {at} lost {of}", step / 12);
                let well = used.iter().all(|e| e.usable == Use::Yes);
                assert!(well, "day {}: {at} of {of}: {used:?}", step / 12);
                // By which connections that were opened before a renewal are judged.
                let ends = used.iter().map(|e| e.node.not_after).min().unwrap();
                let lasts = ends.after(limits::CLOCK_SKEW) > world.clock(at).wall;
                assert!(lasts, "day {}: {at} knows no renewal of {of}", step / 12);
            }
        }
    }
    assert!(world.converged());
    let apart = world.clock(0).wall.since(world.clock(1).wall);
    assert!(apart > limits::CLOCK_SKEW, "the clocks are {apart:?} apart");
    assert!((30..=60).contains(&renewals), "{renewals} renewals of six certificates");
    assert!(head(&world, 0, 5) >= first + 85, "signed again less than every eight hours");
    assert!(!(0..6).any(|node| blamed(&world, node)));
}

#[test]
fn case_20_a_host_that_restarts_for_an_hour_is_last_choice_and_costs_little() {
    let mut world = world(8, 23);
    world.run_to(world.now + 60_000);
    let sent = |world: &World| world.sent.1;
    let (before, from) = (sent(&world), world.now);
    let mut used = 0;
    for turn in 0..720 {
        world.crash(7);
        world.run_to(world.now + 500);
        world.start(7);
        world.run_to(world.now + 4_500);
        let usable = |at: usize| endpoints(&world, at, 7).iter().any(|e| e.usable == Use::Yes);
        if turn > 4 {
            used += usize::from((0..7).any(usable));
        }
    }
    assert_eq!(used, 0, "a host in a restart loop is in use");
    let bytes = (sent(&world) - before) * 1000 / (world.now - from) / 8;
    assert!(bytes < 4_000, "{bytes} bytes a second and node");
    // As long without a restart, and all is well.
    world.run_to(world.now + 40_000);
    for at in 0..7 {
        assert_eq!(endpoints(&world, at, 7)[0].usable, Use::Yes, "at {at}");
    }
}

#[test]
fn case_21_a_cold_start_with_the_seeds_last_spares_the_seeds() {
    // 1,000 nodes: `skein-sim measure --nodes 1000`.
    let options =
        Options { seed: 24, nodes: 300, weather: weather(0.01, (1, 20)), ..Options::default() };
    let mut world = World::new(options).unwrap();
    world.count_handshakes();
    for node in 3..300 {
        world.start(node);
    }
    world.run_to(5_000);
    for seed in 0..3 {
        world.start(seed);
    }
    let took = world.run_until(30_000, World::full_and_equal);
    assert!(took.is_some(), "no common view");
    let most = world.most_handshakes();
    assert!(most <= 150, "{most} handshakes within a second at one node");
}

#[test]
fn case_23_a_record_that_breaks_one_version_is_set_aside_and_its_last_good_one_serves() {
    let mut world = world(8, 25);
    // The nodes 1 and 2 run a version that cannot bear what node 7 is about to say.
    world.run_to(world.now + 5_000);
    let good = head(&world, 1, 7);
    world.crash(7);
    world.start(7);
    world.say(7, |local| local.instances.0[0].weight = 66);
    world.run_to(world.now + 1);
    while head(&world, 7, 7) <= good {
        world.run_to(world.now + 1);
    }
    let poison = {
        let engine = world.nodes[7].engine.as_ref().unwrap();
        engine.store().head(&world.key(7)).unwrap().hash
    };
    for old in [1, 2] {
        world.nodes[old].breaks_on = Some(poison);
    }
    world.run_to(world.now + 30_000);
    let aside = |event: &Event| matches!(event, Event::SetAside(_));
    let broke = world.events.iter().filter(|(_, at, e)| [1, 2].contains(at) && aside(e)).count();
    assert_eq!(broke, 2, "each old version breaks once");
    for at in [1, 2] {
        assert_eq!(head(&world, at, 7), good, "the last good record stays");
        assert_eq!(endpoints(&world, at, 7)[0].usable, Use::Yes);
    }
    assert!([0, 3, 4, 5, 6].iter().all(|at| head(&world, *at, 7) > good));
    assert!(!(0..8).any(|node| blamed(&world, node)), "nobody is blamed for it");
    // What it says next is borne by all.
    let before = head(&world, 7, 7);
    world.say(7, |local| local.instances.0[0].weight = 67);
    assert!(world.run_until(3_000, |world| world.told_everywhere(7, before)).is_some());
}

#[test]
fn case_44_an_address_of_somebody_else_costs_him_few_dials_and_its_host_is_not_lost() {
    let mut world = world(40, 26);
    world.run_to(world.now + 40_000);
    world.count_handshakes();
    // Node 9 says that it lives where node 3 does, and loses its links.
    let there = world.nodes[3].local.addresses.clone();
    world.say(9, |local| local.addresses = there);
    world.run_to(world.now + 2_000);
    world.crash(9);
    let before = world.handshakes_of(3);
    world.run_to(world.now + 60_000);
    let dials = world.handshakes_of(3) - before;
    // Eight neighbours among all that are known, eight among those that live, every second.
    let most = 2 * 2 * limits::RINGS as u64 * 60 / limits::REDIAL_EVERY.as_secs();
    assert!(dials <= most, "{dials} dials in a minute, of {most}");
    assert!(dials > 0, "nobody was misled");
    assert_eq!(world.liveness(0, 3), Some(Liveness::Alive), "who lives there is well");
    assert!(!blamed(&world, 3));
    let dead = endpoints(&world, 0, 9);
    assert!(dead.iter().all(|e| e.usable == Use::No(Reason::Dead)), "{dead:?}");
}
