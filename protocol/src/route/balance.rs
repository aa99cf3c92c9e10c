//! The balancer: draws an endpoint for a call, and learns from what became of it.
//!
//! Peak-EWMA, power of two choices: two endpoints are drawn by weight, the second takes the call
//! when it is clearly cheaper. Cost is `latency * (1 + calls in flight / relative weight)`, which
//! for equal weights is `latency * (in flight + 1)`. Among endpoints about as good as each other
//! the first draw stands, so that shares follow the weights exactly; dividing the whole cost by
//! the weight would give all calls of an idle service to its heaviest endpoint.
//!
//! State is kept for endpoints that were chosen and are in the view or have calls in flight.

use std::{collections::BTreeMap, time::Duration};

use rand::{Rng, RngExt};

use super::{
    choose::{Ask, Candidate, Choice, Rank, field},
    eject::{Breaker, Standing},
    ewma::PeakEwma,
    locality::{Capacity, Tier, shares},
    reason::NoRoute,
    rendezvous,
    tuning::{Eject, Spill},
};
use crate::{
    clock::{Now, Tick},
    limits,
    name::ServiceName,
    view::{Endpoint, EndpointKey, Reason, ServiceView, Use, View},
    wire::stream::Refusal,
};

/// How endpoints of one tier share the calls.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
pub enum Algorithm {
    /// The cheaper of two, by latency and calls in flight.
    #[default]
    PeakEwma,
    /// In turn, by weight (nginx's smooth form).
    RoundRobin,
    /// The one of two with fewer calls in flight, by weight.
    LeastRequest,
    /// By weight alone.
    Random,
    /// Calls that belong together go to one endpoint while it is there (rendezvous hashing with
    /// weights: what comes or goes moves no more calls than its own share).
    RingHash,
}

impl Algorithm {
    /// The words of documents.
    pub const WORDS: [(&'static str, Self); 5] = [
        ("peak-ewma", Self::PeakEwma),
        ("round-robin", Self::RoundRobin),
        ("least-request", Self::LeastRequest),
        ("random", Self::Random),
        ("ring-hash", Self::RingHash),
    ];
}

/// What became of a try.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It was taken after so long.
    Connected(Duration),
    /// It was refused.
    Refused(Refusal),
    /// No reply in time.
    NoReply,
    /// No link, or no stream on it.
    Unreachable,
    /// The service took it, and failed: an answer that says so, a reset, none in time.
    Failed,
    /// The service took it, and has too much to do (429, RESOURCE_EXHAUSTED). It counts for the
    /// rate of failures only.
    Throttled,
}

/// What this agent's own calls say of an endpoint.
#[derive(Clone, PartialEq, Debug)]
pub struct EndpointState {
    /// Which one.
    pub key: EndpointKey,
    /// The view's word, or that it is ejected.
    pub usable: Use,
    /// Calls in flight to it.
    pub in_flight: u32,
    /// What its latency is held for, where it is known.
    pub latency: Option<Duration>,
    /// Where it stands with ejection.
    pub standing: Standing,
}

/// Chooses endpoints. One for an agent.
#[derive(Clone, Debug, Default)]
pub struct Balancer {
    services: BTreeMap<ServiceName, Service>,
}

type Service = BTreeMap<EndpointKey, Learned>;

#[derive(Clone, Debug, Default)]
struct Learned {
    latency: Option<PeakEwma>,
    in_flight: u32,
    breaker: Breaker,
    rests_until: Tick,
    penalised_until: Tick,
    turn: i64,
    /// The life of the node in which all this was learned.
    boot: u64,
}

impl Balancer {
    /// Draws an endpoint and counts a call in flight to it, until [`Self::release`].
    pub fn choose<R: Rng + ?Sized>(
        &mut self,
        now: Now,
        ask: &Ask<'_>,
        rng: &mut R,
    ) -> Result<Choice, NoRoute> {
        let now = now.tick;
        self.hold_to_share(now, ask.service, &ask.tuning.eject);
        let learned = self.services.entry(ask.service.name.clone()).or_default();
        let field = field(ask, |key| learned.get(key).map_or(Rank::Good, |one| one.rank(now)))?;
        let probe = field.candidates.iter().find(|one| {
            ask.tried.endpoints.is_empty()
                && one.endpoint.usable == Use::Yes
                && learned.get(&one.key).is_some_and(|one| one.breaker.may_probe(now))
        });
        let drawn = match probe {
            Some(candidate) => Some(candidate),
            None => {
                let shares = match ask.tuning.spill {
                    Spill::Proportional => shares(field.capacity),
                    Spill::Empty | Spill::Never => first_of(field.capacity),
                };
                let pool = pool(&field.candidates, draw_tier(shares, rng));
                match ask.tuning.algorithm {
                    Algorithm::PeakEwma => cheaper_of_two(&pool, learned, now, rng),
                    Algorithm::RoundRobin => next_in_turn(&pool, learned),
                    Algorithm::LeastRequest => less_busy_of_two(&pool, learned, rng),
                    Algorithm::Random => draw(&pool, None, rng),
                    Algorithm::RingHash => belonging(&pool, ask.affinity),
                }
            }
        };
        let Some(candidate) = drawn else {
            return Err(NoRoute::NoService(ask.service.name.clone()));
        };
        let state = learned.entry(candidate.key.clone()).or_default();
        state.in_flight = state.in_flight.saturating_add(1);
        state.boot = candidate.endpoint.node.boot;
        if probe.is_some() {
            state.breaker.probe(now);
        }
        Ok(Choice {
            endpoint: candidate.endpoint.clone(),
            tier: candidate.tier,
            probe: probe.is_some(),
        })
    }

    /// Learns what became of a try. True when the endpoint was ejected for it.
    pub fn report<R: Rng + ?Sized>(
        &mut self,
        now: Now,
        service: &ServiceView,
        key: &EndpointKey,
        outcome: Outcome,
        rules: &Eject,
        rng: &mut R,
    ) -> bool {
        let now = now.tick;
        let others_out = self.out_of(service, Some(key));
        let state = self.services.entry(service.name.clone()).or_default();
        let Some(state) = state.get_mut(key) else {
            return false;
        };
        let wants_out = match outcome {
            Outcome::Connected(latency) => {
                state.succeeded(now, rules, latency);
                false
            }
            Outcome::Refused(Refusal::Denied | Refusal::RateLimited) => false,
            Outcome::Refused(Refusal::Draining | Refusal::NoService) => {
                state.rests_until = now.after(limits::REST);
                false
            }
            Outcome::Refused(Refusal::Overload) | Outcome::Throttled => {
                state.failed(now, rules, false)
            }
            Outcome::Refused(Refusal::ConnectFailed)
            | Outcome::NoReply
            | Outcome::Unreachable
            | Outcome::Failed => state.failed(now, rules, true),
        };
        let ejected = wants_out && others_out < share(service, rules);
        if ejected {
            state.breaker.eject(now, rules, rng);
        }
        ejected
    }

    /// A call ended, whether or not it was ever taken.
    pub fn release(&mut self, service: &ServiceName, key: &EndpointKey) {
        if let Some(state) = self.services.get_mut(service).and_then(|s| s.get_mut(key)) {
            state.in_flight = state.in_flight.saturating_sub(1);
        }
    }

    /// Forgets what the view no longer has and no call is in flight to, and what was learned of
    /// an endpoint that the view has out of use or in another boot: when it comes back, that is
    /// newer than our own failures.
    pub fn retain(&mut self, view: &View) {
        self.services.retain(|name, states| {
            let known = view.services.get(name);
            states.retain(|key, state| {
                let known = known.and_then(|known| find(known, key));
                let same = known.is_some_and(|one| {
                    !matches!(one.usable, Use::No(_)) && one.node.boot == state.boot
                });
                if !same {
                    *state = Learned {
                        in_flight: state.in_flight,
                        boot: known.map_or(state.boot, |one| one.node.boot),
                        ..Learned::default()
                    };
                }
                state.in_flight > 0 || known.is_some()
            });
            !states.is_empty()
        });
    }

    /// What is known of each endpoint of a service, in the view's order.
    pub fn states(&self, now: Now, service: &ServiceView) -> Vec<EndpointState> {
        let learned = self.services.get(&service.name);
        let fresh = Learned::default();
        service
            .endpoints
            .iter()
            .map(|endpoint| {
                let key = endpoint.key();
                let state = learned.and_then(|all| all.get(&key)).unwrap_or(&fresh);
                let out = state.breaker.is_out() && !matches!(endpoint.usable, Use::No(_));
                EndpointState {
                    usable: match out {
                        true => Use::LastChoice(Reason::Ejected),
                        false => endpoint.usable,
                    },
                    in_flight: state.in_flight,
                    latency: state.seconds(now.tick).map(Duration::from_secs_f64),
                    standing: state.breaker.standing(),
                    key,
                }
            })
            .collect()
    }

    /// How many usable endpoints are out, but for `except`.
    fn out_of(&self, service: &ServiceView, except: Option<&EndpointKey>) -> usize {
        let Some(learned) = self.services.get(&service.name) else {
            return 0;
        };
        learned
            .iter()
            .filter(|(key, state)| state.breaker.is_out() && Some(*key) != except)
            .filter(|(key, _)| is_usable(service, key))
            .count()
    }

    /// Brings endpoints back early, the next due first, when others went and too many are out.
    fn hold_to_share(&mut self, now: Tick, service: &ServiceView, rules: &Eject) {
        let mut over = self.out_of(service, None).saturating_sub(share(service, rules));
        while over > 0 {
            over -= 1;
            let Some(learned) = self.services.get_mut(&service.name) else {
                return;
            };
            let due = learned
                .iter_mut()
                .filter(|(key, state)| state.breaker.is_out() && is_usable(service, key))
                .min_by_key(|(_, state)| match state.breaker.standing() {
                    Standing::In => Tick::NEVER,
                    Standing::Out { until } => until,
                    Standing::Probed { since } => since,
                });
            if let Some((_, state)) = due {
                state.breaker.readmit(now);
            }
        }
    }
}

impl Learned {
    fn rank(&self, now: Tick) -> Rank {
        if self.breaker.is_out() {
            Rank::Ejected
        } else if now < self.rests_until {
            Rank::LastChoice
        } else {
            Rank::Good
        }
    }

    fn succeeded(&mut self, now: Tick, rules: &Eject, latency: Duration) {
        self.rests_until = Tick(0);
        self.penalised_until = Tick(0);
        match &mut self.latency {
            Some(known) => known.observe(now, latency),
            None => self.latency = Some(PeakEwma::new(now, latency)),
        }
        self.breaker.succeeded(now, rules);
    }

    fn failed(&mut self, now: Tick, rules: &Eject, in_a_row: bool) -> bool {
        self.penalised_until = now.after(limits::PENALTY_LASTS);
        self.breaker.failed(now, rules, in_a_row)
    }

    /// What its latency is held for, where anything is known of it.
    fn seconds(&self, now: Tick) -> Option<f64> {
        if now < self.penalised_until {
            return Some(limits::LATENCY_PENALTY.as_secs_f64());
        }
        self.latency.map(|latency| latency.seconds(now))
    }
}

/// How many of a service's usable endpoints may be out: the policy's share, never the last.
fn share(service: &ServiceView, rules: &Eject) -> usize {
    let usable = |usable: Use| !matches!(usable, Use::No(_));
    let count = service.endpoints.iter().filter(|one| usable(one.usable)).count();
    let most = usize::try_from(rules.most).unwrap_or(0).saturating_mul(count) / 10_000;
    most.min(count.saturating_sub(1))
}

fn is_usable(service: &ServiceView, key: &EndpointKey) -> bool {
    find(service, key).is_some_and(|one| !matches!(one.usable, Use::No(_)))
}

fn find<'a>(service: &'a ServiceView, key: &EndpointKey) -> Option<&'a Endpoint> {
    let wanted = (&key.node, &key.instance);
    let found =
        service.endpoints.binary_search_by(|one| (&one.node.key, &one.instance.id).cmp(&wanted));
    service.endpoints.get(found.ok()?)
}

/// All calls for the nearest tier that has a healthy endpoint.
fn first_of(capacity: [Capacity; 4]) -> [u32; 4] {
    let mut left = 1;
    capacity.map(|tier| if tier.healthy > 0 { std::mem::take(&mut left) } else { 0 })
}

/// A tier by its share; `None` when none has a healthy endpoint.
fn draw_tier<R: Rng + ?Sized>(shares: [u32; 4], rng: &mut R) -> Option<Tier> {
    let sum: u32 = shares.iter().sum();
    let mut left = (sum > 0).then(|| rng.random_range(0..sum))?;
    Tier::ALL.into_iter().zip(shares).find_map(|(tier, share)| {
        let hit = left < share;
        left = left.saturating_sub(share);
        hit.then_some(tier)
    })
}

/// The best candidates: by rank, then those of the drawn tier, then by nearness.
fn pool<'a, 'b>(candidates: &'b [Candidate<'a>], drawn: Option<Tier>) -> Vec<&'b Candidate<'a>> {
    for rank in Rank::ALL {
        for tier in drawn.into_iter().chain(Tier::ALL) {
            let pool: Vec<_> =
                candidates.iter().filter(|one| one.rank == rank && one.tier == tier).collect();
            if !pool.is_empty() {
                return pool;
            }
        }
    }
    Vec::new()
}

fn cheaper_of_two<'a, 'b, R: Rng + ?Sized>(
    pool: &[&'b Candidate<'a>],
    learned: &Service,
    now: Tick,
    rng: &mut R,
) -> Option<&'b Candidate<'a>> {
    let first = draw(pool, None, rng)?;
    let Some(second) = draw(pool, Some(first), rng) else {
        return Some(first);
    };
    let usual = usual_latency(pool, learned, now);
    let weight: u64 = pool.iter().map(|one| u64::from(one.weight)).sum();
    let weight = u32::try_from(weight).unwrap_or(u32::MAX);
    let mean = f64::from(weight) / f64::from(u32::try_from(pool.len()).unwrap_or(u32::MAX));
    let cost = |one: &Candidate<'_>| {
        let state = learned.get(&one.key);
        let latency = state.and_then(|state| state.seconds(now));
        let latency = latency.unwrap_or(usual);
        let in_flight = f64::from(state.map_or(0, |state| state.in_flight));
        latency * (1.0 + in_flight * mean / f64::from(one.weight.max(1)))
    };
    if cost(second) < cost(first) * CLEARLY_CHEAPER { Some(second) } else { Some(first) }
}

fn less_busy_of_two<'a, 'b, R: Rng + ?Sized>(
    pool: &[&'b Candidate<'a>],
    learned: &Service,
    rng: &mut R,
) -> Option<&'b Candidate<'a>> {
    let first = draw(pool, None, rng)?;
    let Some(second) = draw(pool, Some(first), rng) else {
        return Some(first);
    };
    // a / weight(a) < b / weight(b), without a division.
    let busy = |one: &Candidate<'_>, other: &Candidate<'_>| {
        let in_flight = learned.get(&one.key).map_or(0, |state| state.in_flight);
        (u64::from(in_flight) + 1) * u64::from(other.weight.max(1))
    };
    Some(if busy(second, first) < busy(first, second) { second } else { first })
}

/// The endpoint that what `affinity` stands for belongs to.
fn belonging<'a, 'b>(pool: &[&'b Candidate<'a>], affinity: u64) -> Option<&'b Candidate<'a>> {
    let score = |one: &Candidate<'_>| {
        let instance = one.key.instance.to_string();
        rendezvous::score(affinity, &[&one.key.node.0, instance.as_bytes()], one.weight)
    };
    pool.iter().copied().max_by(|one, other| score(one).total_cmp(&score(other)))
}

/// One by weight, other than `except`.
fn draw<'a, 'b, R: Rng + ?Sized>(
    pool: &[&'b Candidate<'a>],
    except: Option<&Candidate<'a>>,
    rng: &mut R,
) -> Option<&'b Candidate<'a>> {
    let open =
        || pool.iter().copied().filter(|one| except.is_none_or(|except| one.key != except.key));
    let sum: u64 = open().map(|one| u64::from(one.weight)).sum();
    let mut left = (sum > 0).then(|| rng.random_range(0..sum))?;
    open().find(|one| {
        let weight = u64::from(one.weight);
        let hit = left < weight;
        left = left.saturating_sub(weight);
        hit
    })
}

/// The median of what is known: what an endpoint is held for that was never called.
fn usual_latency(pool: &[&Candidate<'_>], learned: &Service, now: Tick) -> f64 {
    let mut known: Vec<f64> =
        pool.iter().filter_map(|one| learned.get(&one.key)?.seconds(now)).collect();
    known.sort_by(f64::total_cmp);
    let middle = known.get(known.len() / 2).copied();
    middle.unwrap_or_else(|| limits::LATENCY_FLOOR.as_secs_f64())
}

fn next_in_turn<'a, 'b>(
    pool: &[&'b Candidate<'a>],
    learned: &mut Service,
) -> Option<&'b Candidate<'a>> {
    let mut best: Option<(i64, &'b Candidate<'a>)> = None;
    let mut sum = 0i64;
    for one in pool {
        let state = learned.entry(one.key.clone()).or_default();
        let weight = i64::from(one.weight);
        state.boot = one.endpoint.node.boot;
        state.turn = state.turn.saturating_add(weight);
        sum = sum.saturating_add(weight);
        if best.is_none_or(|(turn, _)| state.turn > turn) {
            best = Some((state.turn, one));
        }
    }
    let (_, chosen) = best?;
    if let Some(state) = learned.get_mut(&chosen.key) {
        state.turn = state.turn.saturating_sub(sum);
    }
    Some(chosen)
}

/// The second of two takes the call when it costs less than this much of the first.
const CLEARLY_CHEAPER: f64 = 0.75;

#[cfg(test)]
mod tests;
