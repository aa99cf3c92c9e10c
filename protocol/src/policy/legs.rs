//! Legs: where a call goes by the Route and Split rules, in the order to be tried.
//!
//! Route comes first. The service that it leads to is then split by that service's own rules,
//! unless the route named a subset; its Routes are not asked, so no route leads in a circle.
//!
//! In: rules, what was asked for, a seeded rng. Never: knows endpoints.

use rand::{Rng, RngExt};

use super::traffic::{Rule, RuleName, ServiceRules, TrafficRules};
use crate::{
    limits,
    manifest::traffic::{Mirror, OnEmpty, Request, Sticky, Target, Targets},
    name::ServiceName,
    route::{PortRef, Subset, rendezvous},
};

/// One place to go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Leg {
    /// The service.
    pub service: ServiceName,
    /// Its port.
    pub port: PortRef,
    /// Which of its instances.
    pub subset: Subset,
    /// The rule that led here last; `None`: nobody said anything.
    pub by: Option<RuleName>,
}

/// What a call asks for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The service.
    pub service: &'a ServiceName,
    /// The port's number.
    pub port: u16,
    /// Which instances the caller wants.
    pub subset: &'a Subset,
    /// The request; of bytes there is none.
    pub request: Option<&'a Request<'a>>,
    /// What the caller is, for `sticky: source`.
    pub source: u64,
}

impl Asked<'_> {
    /// Where a copy of it goes.
    pub fn mirrored(&self, rule: &Rule<Mirror>) -> Leg {
        to(&self.leg(), &rule.does.to, &rule.name)
    }

    /// Where a call goes that no rule is about.
    fn leg(&self) -> Leg {
        Leg {
            service: self.service.clone(),
            port: PortRef::Number(self.port),
            subset: self.subset.clone(),
            by: None,
        }
    }
}

impl Sticky {
    /// What calls that belong together have in common; `None` where one lacks the header.
    pub(super) fn affinity(&self, request: Option<&Request<'_>>, source: u64) -> Option<u64> {
        match self {
            Self::Source => Some(source),
            Self::Header(name) => {
                let (_, value) = request?.headers.iter().find(|(key, _)| key == name)?;
                Some(rendezvous::affinity(value.as_bytes()))
            }
        }
    }
}

impl TrafficRules {
    /// Where that call goes: at least one leg; the others are tried only while a leg before them
    /// has no endpoint that may be called.
    pub fn legs<R: Rng + ?Sized>(&self, asked: &Asked<'_>, rng: &mut R) -> Vec<Leg> {
        let here = asked.leg();
        let rules = self.of(asked.service, asked.port);
        let routed = match rules.routes.first(asked.request) {
            Some(Rule { does, name, .. }) => match &does.to {
                Some(targets) => lead(&here, targets, None, name, rng),
                None => vec![here],
            },
            None => vec![here],
        };
        let mut legs = Vec::new();
        for leg in routed {
            self.split(leg, asked, &mut legs, rng);
        }
        legs.truncate(limits::TARGETS_MAX);
        legs
    }

    /// What holds where a leg leads. A rule for one port is found by its number only.
    fn of_leg(&self, leg: &Leg, asked: &Asked<'_>) -> ServiceRules {
        let port = match &leg.port {
            PortRef::Number(number) => *number,
            PortRef::Name(_) => asked.port,
        };
        self.of(&leg.service, port)
    }

    /// Every leg that such a call may be drawn to first, with its share in hundredths of a percent.
    pub fn shares(&self, asked: &Asked<'_>) -> Vec<(Leg, u64)> {
        let here = asked.leg();
        let rules = self.of(asked.service, asked.port);
        let routed = match rules.routes.first(asked.request) {
            Some(Rule { does, name, .. }) => spread(&here, does.to.as_ref(), name),
            None => vec![(here, ALL)],
        };
        let mut shares = Vec::new();
        for (leg, share) in routed {
            let rules = self.of_leg(&leg, asked);
            let split = rules.splits.first(asked.request).filter(|_| leg.subset.is_all());
            match split {
                Some(Rule { does, name, .. }) => {
                    let parts = spread(&leg, Some(&does.to), name);
                    shares.extend(parts.into_iter().map(|(leg, of)| (leg, share * of / ALL)));
                }
                None => shares.push((leg, share)),
            }
        }
        shares
    }

    fn split<R: Rng + ?Sized>(
        &self,
        leg: Leg,
        asked: &Asked<'_>,
        legs: &mut Vec<Leg>,
        rng: &mut R,
    ) {
        // What a route or the caller asked for outright is not drawn again.
        if !leg.subset.is_all() {
            return legs.push(leg);
        }
        let rules = self.of_leg(&leg, asked);
        match rules.splits.first(asked.request) {
            Some(Rule { does, name, .. }) => {
                let affinity = does
                    .sticky
                    .as_ref()
                    .and_then(|sticky| sticky.affinity(asked.request, asked.source));
                legs.extend(lead(&leg, &does.to, affinity, name, rng));
            }
            None => legs.push(leg),
        }
    }
}

/// All of a hundred percent, in hundredths of one.
const ALL: u64 = 10_000;

/// Every target of a rule with its share.
fn spread(from: &Leg, targets: Option<&Targets>, by: &RuleName) -> Vec<(Leg, u64)> {
    match targets {
        None => vec![(from.clone(), ALL)],
        Some(targets) => {
            targets.shares().map(|(target, share)| (to(from, target, by), share)).collect()
        }
    }
}

/// From a leg to the targets of a rule: the drawn one first, the others behind it if they take
/// over what is empty.
fn lead<R: Rng + ?Sized>(
    from: &Leg,
    targets: &Targets,
    affinity: Option<u64>,
    by: &RuleName,
    rng: &mut R,
) -> Vec<Leg> {
    let drawn = match affinity {
        Some(affinity) => belonging(targets, affinity),
        None => targets.at(rng.random_range(0..targets.weight())),
    };
    let others = targets.list().iter().filter(|target| {
        targets.on_empty == OnEmpty::Spill
            && target.weight > 0
            && drawn.is_none_or(|drawn| !std::ptr::eq(*target, drawn))
    });
    let leg = |target: &Target| to(from, target, by);
    drawn.into_iter().chain(others).map(leg).collect()
}

fn to(from: &Leg, target: &Target, by: &RuleName) -> Leg {
    let elsewhere = target.service.as_ref().filter(|service| **service != from.service);
    Leg {
        service: elsewhere.unwrap_or(&from.service).clone(),
        port: target.port.clone().unwrap_or_else(|| from.port.clone()),
        subset: match elsewhere {
            Some(_) => target.subset.clone(),
            None => from.subset.clone().narrowed(&target.subset),
        },
        by: Some(by.clone()),
    }
}

/// The target that a caller keeps while weights move: the one with the highest score.
fn belonging(targets: &Targets, affinity: u64) -> Option<&Target> {
    let scored = targets.list().iter().filter(|target| target.weight > 0).map(|target| {
        // By what it is, not where it stands: the list may be sorted anew.
        let score = rendezvous::score(affinity, &[target.to_string().as_bytes()], target.weight);
        (score, target)
    });
    scored.max_by(|one, other| one.0.total_cmp(&other.0)).map(|(_, target)| target)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;
    use crate::policy::traffic::heads_of;

    fn rules(policies: &[&str]) -> TrafficRules {
        let policies: Vec<String> = policies
            .iter()
            .enumerate()
            .map(|(n, policy)| format!("{{name: p{n}, trafficPolicy: {{{policy}}}}}"))
            .collect();
        TrafficRules::new(&heads_of(&[("t", &policies.join(", "))]), None)
    }

    fn go(rules: &TrafficRules, seed: u64, source: u64, subset: &Subset) -> Vec<String> {
        let service = "shop/web".parse().unwrap();
        let asked = Asked { service: &service, port: 80, subset, request: None, source };
        let legs = rules.legs(&asked, &mut StdRng::seed_from_u64(seed));
        legs.iter().map(|leg| format!("{}:{} {}", leg.service, leg.port, leg.subset)).collect()
    }

    const ANY: &Subset =
        &Subset { version: None, tags: Vec::new(), zone: None, image: None, endpoint: None };

    fn canary(new: u32) -> TrafficRules {
        let old = 100 - new;
        rules(&[&format!(
            "destination: web, type: Split, sticky: source, onEmpty: fail, \
             target: [{{subset: \"1\", weight: {old}}}, {{subset: \"2\", weight: {new}}}]"
        )])
    }

    #[test]
    fn without_a_rule_a_call_goes_where_it_was_sent() {
        assert_eq!(go(&rules(&[]), 1, 0, ANY), ["shop/web:80 "]);
    }

    #[test]
    fn a_route_leads_on_and_its_service_is_split_by_its_own_rules_but_not_routed_again() {
        let rules = rules(&[
            "destination: web, type: Route, target: {service: shop/api, port: 8080}",
            "destination: api, type: Route, target: web",
            "destination: api, type: Split, target: [{subset: \"7\", weight: 1}]",
        ]);
        assert_eq!(go(&rules, 1, 0, ANY), ["shop/api:8080 version 7"]);
    }

    #[test]
    fn what_the_caller_or_the_route_asked_for_is_not_split() {
        let split = "destination: web, type: Split, target: [{subset: \"2\", weight: 1}]";
        let route = "destination: web, type: Route, target: {subset: \"1\"}";
        assert_eq!(go(&rules(&[split, route]), 1, 0, ANY), ["shop/web:80 version 1"]);
        let wanted = Subset { tags: vec!["blue".parse().unwrap()], ..Subset::default() };
        assert_eq!(go(&rules(&[split]), 1, 0, &wanted), ["shop/web:80 tag blue"]);
    }

    #[test]
    fn an_empty_target_spills_to_the_others_unless_it_is_to_fail() {
        let split = |on_empty: &str| {
            rules(&[&format!(
                "destination: web, type: Split{on_empty}, target: [{{subset: \"1\", weight: 9}}, \
                 {{subset: \"2\", weight: 1}}, {{subset: \"3\", weight: 0}}]"
            )])
        };
        let mut spilled = go(&split(""), 1, 0, ANY);
        spilled.sort();
        assert_eq!(spilled, ["shop/web:80 version 1", "shop/web:80 version 2"]);
        assert_eq!(go(&split(", onEmpty: fail"), 1, 0, ANY).len(), 1);
    }

    #[test]
    fn ninety_to_ten_is_within_binomial_bounds() {
        let split = "destination: web, type: Split, onEmpty: fail, \
                     target: [{subset: \"1\", weight: 90}, {subset: \"2\", weight: 10}]";
        let rules = rules(&[split]);
        let mut counted: BTreeMap<String, u32> = BTreeMap::new();
        for seed in 0..10_000 {
            *counted.entry(go(&rules, seed, 0, ANY).remove(0)).or_default() += 1;
        }
        // Six standard deviations of a binomial of 10,000 and 0.1: sqrt(900) * 6.
        let new = counted["shop/web:80 version 2"];
        assert!((820..=1_180).contains(&new), "{counted:?}");
    }

    proptest! {
        #[test]
        fn who_got_the_new_version_keeps_it_while_it_grows(source: u64, few in 1u32..50, more in 0u32..50) {
            let new = ["shop/web:80 version 2".to_owned()];
            if go(&canary(few), 1, source, ANY) == new {
                prop_assert_eq!(go(&canary(few + more), 2, source, ANY), new);
            }
        }
    }
}
