//! Choosing: from all endpoints of a service to those that one call may go to, best first.
//!
//! Never: changes state. [`Balancer`](super::Balancer) owns that, and draws.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use super::{
    locality::{Capacity, Tier},
    reason::NoRoute,
    subset::Subset,
    tuning::Tuning,
};
use crate::{
    name::{Label, Locality, NodeKey},
    record::node::ServicePort,
    view::{Endpoint, EndpointKey, Reason, ServiceView, Use},
};

/// A service's port by number or by name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum PortRef {
    /// Its number.
    Number(u16),
    /// Its name.
    Name(Label),
}

impl PortRef {
    /// The port of that service.
    pub fn find<'a>(&self, service: &'a ServiceView) -> Result<&'a ServicePort, NoRoute> {
        let found = service.ports.iter().find(|port| match self {
            Self::Number(number) => port.port == *number,
            Self::Name(name) => port.name == *name,
        });
        found.ok_or_else(|| NoRoute::NoPort {
            service: service.name.clone(),
            port: self.to_string(),
            has: service.ports.iter().map(|port| port.port).collect(),
        })
    }
}

impl fmt::Display for PortRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Name(name) => name.fmt(f),
        }
    }
}

/// What one call has already tried.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tried {
    /// Never again for this call.
    pub endpoints: BTreeSet<EndpointKey>,
    /// Only when nothing better is left: their agents did not answer.
    pub nodes: BTreeSet<NodeKey>,
}

/// What a call asks for.
#[derive(Clone, Copy, Debug)]
pub struct Ask<'a> {
    /// The service, of the view that the whole decision holds.
    pub service: &'a ServiceView,
    /// The port's number.
    pub port: u16,
    /// Which instances are meant.
    pub subset: &'a Subset,
    /// The calling node.
    pub me: NodeKey,
    /// Where it is.
    pub here: &'a Locality,
    /// What the call has tried.
    pub tried: &'a Tried,
    /// What policies say about choosing.
    pub tuning: &'a Tuning,
    /// What ring-hash hashes: equal for calls that belong together.
    pub affinity: u64,
}

/// Where a call goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Choice {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// How near it is.
    pub tier: Tier,
    /// Whether the call is the probe of an ejected endpoint.
    pub probe: bool,
}

/// How good a candidate is; less is better.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Rank {
    Good,
    LastChoice,
    Ejected,
    /// On the calling host itself, which drains: as long as it runs it may as well answer.
    LastResort,
}

impl Rank {
    pub(super) const ALL: [Self; 4] =
        [Self::Good, Self::LastChoice, Self::Ejected, Self::LastResort];
}

/// An endpoint that the call may go to.
#[derive(Clone, Debug)]
pub(super) struct Candidate<'a> {
    pub(super) endpoint: &'a Endpoint,
    pub(super) key: EndpointKey,
    pub(super) weight: u32,
    pub(super) rank: Rank,
    pub(super) tier: Tier,
}

/// Candidates of a call, and what each tier has.
#[derive(Clone, Debug)]
pub(super) struct Field<'a> {
    pub(super) candidates: Vec<Candidate<'a>>,
    pub(super) capacity: [Capacity; 4],
}

/// Filters and ranks. `standing` says what this agent's own calls say of an endpoint.
pub(super) fn field<'a>(
    ask: &Ask<'a>,
    standing: impl Fn(&EndpointKey) -> Rank,
) -> Result<Field<'a>, NoRoute> {
    PortRef::Number(ask.port).find(ask.service)?;
    let mut meant = ask
        .service
        .endpoints
        .iter()
        .filter(|endpoint| {
            serves(endpoint, ask.port)
                && ask.subset.covers(&endpoint.instance, &endpoint.node.locality)
        })
        .peekable();
    if meant.peek().is_none() && !ask.subset.is_all() && !ask.service.endpoints.is_empty() {
        return Err(NoRoute::NoMatch {
            service: ask.service.name.clone(),
            subset: ask.subset.to_string(),
            of: ask.service.endpoints.len(),
        });
    }
    let mut field = Field { candidates: Vec::new(), capacity: [Capacity::default(); 4] };
    let mut sorted = Sorted::default();
    for endpoint in meant {
        field.add(ask, endpoint, &standing, &mut sorted);
    }
    if field.candidates.is_empty() {
        return Err(sorted.no_route(ask));
    }
    Ok(field)
}

impl<'a> Field<'a> {
    fn add(
        &mut self,
        ask: &Ask<'_>,
        endpoint: &'a Endpoint,
        standing: &impl Fn(&EndpointKey) -> Rank,
        sorted: &mut Sorted,
    ) {
        let weight = endpoint.instance.weight;
        let nearest = Tier::of(&endpoint.node, ask.me, ask.here);
        let Some(tier) = ask.tuning.tier(nearest) else {
            sorted.far += 1;
            return;
        };
        let rank = match endpoint.usable {
            Use::Yes if weight > 0 => Some(Rank::Good),
            Use::Yes => None,
            Use::LastChoice(_) => (weight > 0).then_some(Rank::LastChoice),
            Use::No(Reason::Draining) if endpoint.node.key == ask.me => {
                (weight > 0).then_some(Rank::LastResort)
            }
            Use::No(_) => None,
        };
        let key = endpoint.key();
        let rank = rank.map(|rank| rank.max(standing(&key)));
        sorted.of += 1;
        if let Some(capacity) = Tier::ALL
            .iter()
            .zip(&mut self.capacity)
            .find_map(|(one, capacity)| (*one == tier).then_some(capacity))
        {
            let counted = u64::from(weight);
            capacity.total += if is_capacity(endpoint.usable) { counted } else { 0 };
            capacity.healthy += if rank == Some(Rank::Good) { counted } else { 0 };
        }
        let Some(mut rank) = rank else {
            let reason = endpoint.usable.reason().unwrap_or(Reason::NoWeight);
            *sorted.reasons.entry(reason).or_default() += 1;
            return;
        };
        if ask.tried.endpoints.contains(&key) {
            sorted.tried += 1;
            return;
        }
        if ask.tried.nodes.contains(&key.node) {
            rank = rank.max(Rank::LastChoice);
        }
        self.candidates.push(Candidate { endpoint, key, weight, rank, tier });
    }
}

#[derive(Default)]
struct Sorted {
    of: usize,
    tried: usize,
    /// In tiers that policy rules out.
    far: usize,
    reasons: BTreeMap<Reason, usize>,
}

impl Sorted {
    fn no_route(self, ask: &Ask<'_>) -> NoRoute {
        let service = ask.service.name.clone();
        if self.tried > 0 {
            NoRoute::AllTried { service, tried: self.tried }
        } else if self.of == 0 && self.far > 0 {
            NoRoute::TooFar { service, far: self.far }
        } else {
            NoRoute::NoneUsable { service, of: self.of, reasons: self.reasons }
        }
    }
}

fn serves(endpoint: &Endpoint, port: u16) -> bool {
    endpoint.instance.ports.iter().any(|one| one.port == port)
}

/// Whether an endpoint is part of what its tier should have. What was taken away on purpose and
/// for good is not; what is ill or away for a while is.
fn is_capacity(usable: Use) -> bool {
    match usable.reason() {
        None => true,
        Some(
            Reason::Critical
            | Reason::Maintenance
            | Reason::Draining
            | Reason::Suspect
            | Reason::Dead
            | Reason::MassLoss
            | Reason::Stale
            | Reason::Restarting
            | Reason::Ejected,
        ) => true,
        Some(
            Reason::NoWeight
            | Reason::Left
            | Reason::Revoked
            | Reason::Cloned
            | Reason::PortsDiffer,
        ) => false,
    }
}
