//! Where traffic goes: services, subsets and endpoints, with weights.

use std::fmt;

use super::super::reader::{Item, Sink};
use super::super::{discovery, registry};
use crate::{
    limits,
    name::{Label, ServiceName},
    route::{PortRef, Subset},
};

/// What happens when a target has no endpoint that may be called.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnEmpty {
    /// The call fails: what one target was asked for is given or nothing.
    #[default]
    Fail,
    /// The other targets of the list take its share.
    Spill,
}

/// One place to go.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Target {
    /// Another service; `None`: the destination itself.
    pub service: Option<ServiceName>,
    /// Its port; `None`: the one that was called.
    pub port: Option<PortRef>,
    /// Only these of its instances.
    pub subset: Subset,
    /// Its share, relative to the other targets' weights.
    pub weight: u32,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        parts.extend(self.service.iter().map(ToString::to_string));
        parts.extend(self.port.iter().map(|port| format!("port {port}")));
        if !self.subset.is_all() {
            parts.push(self.subset.to_string());
        }
        if parts.is_empty() { f.write_str("itself") } else { f.write_str(&parts.join(", ")) }
    }
}

/// Where to: at least one target, and one with a weight.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Targets {
    list: Vec<Target>,
    /// What happens when a drawn target is empty.
    pub on_empty: OnEmpty,
}

impl Targets {
    /// The places, in order.
    pub fn list(&self) -> &[Target] {
        &self.list
    }

    /// The sum of all weights: never 0.
    pub fn weight(&self) -> u64 {
        self.list.iter().map(|target| u64::from(target.weight)).sum::<u64>().max(1)
    }

    /// Each target's share of the calls, in hundredths of a percent, rounded down.
    pub fn shares(&self) -> impl Iterator<Item = (&Target, u64)> {
        let all = self.weight();
        self.list.iter().map(move |target| (target, u64::from(target.weight) * 10_000 / all))
    }

    /// The target that a number below [`Self::weight`] falls on.
    pub fn at(&self, number: u64) -> Option<&Target> {
        let mut passed = 0;
        self.list.iter().find(|target| {
            passed += u64::from(target.weight);
            number < passed
        })
    }
}

/// What a document's bare strings may mean: its endpoints' names.
pub(super) struct Known<'a> {
    pub(super) namespace: &'a Label,
    pub(super) endpoints: &'a [Label],
}

/// Reads one target, or a list of them.
pub(super) fn targets(
    item: &Item<'_>,
    on_empty: Option<OnEmpty>,
    known: &Known<'_>,
    sink: &mut Sink<'_>,
) -> Option<Targets> {
    if !item.is_list() {
        let mut one = target(item, known, sink)?;
        if one.weight == 0 {
            let why = "its only target has weight 0: nothing would be called";
            item.fault(sink, why, "leave the weight out");
        }
        one.weight = one.weight.max(1);
        return Some(Targets { list: vec![one], on_empty: on_empty.unwrap_or_default() });
    }
    let items = item.list(limits::TARGETS_MAX, sink)?;
    let list: Vec<Target> = items.iter().filter_map(|item| target(item, known, sink)).collect();
    if list.len() == items.len() && list.iter().all(|target| target.weight == 0) {
        let fix = "give at least one target a weight";
        item.fault(sink, "all weights are 0: nothing would be called", fix);
        return None;
    }
    Some(Targets { list, on_empty: on_empty.unwrap_or(OnEmpty::Spill) })
}

/// Reads one target: an endpoint of this document, a service, or a map of both and more.
pub(super) fn target(item: &Item<'_>, known: &Known<'_>, sink: &mut Sink<'_>) -> Option<Target> {
    if !item.is_map() {
        return bare(item, known, sink);
    }
    let mut fields = item.fields(sink)?;
    let service = fields.take("service");
    let service = service.and_then(|item| registry::service_in(&item, known.namespace, sink));
    let port = fields.take("port").and_then(|item| registry::port_ref(&item, sink));
    let subset = fields.take("subset").and_then(|item| discovery::subset(&item, sink));
    let endpoint = fields.take("endpoint").and_then(|item| item.parsed::<Label>(sink));
    let weight = fields.take("weight");
    let weight = weight.and_then(|item| item.whole(0, limits::WEIGHT_MAX, sink));
    fields.finish(sink);
    Some(Target {
        service,
        port,
        subset: Subset { endpoint, ..subset.unwrap_or_default() },
        weight: weight.unwrap_or(1),
    })
}

fn bare(item: &Item<'_>, known: &Known<'_>, sink: &mut Sink<'_>) -> Option<Target> {
    let text = item.text(sink)?;
    let endpoint = known.endpoints.iter().find(|name| name.as_str() == text);
    if let Some(endpoint) = endpoint {
        let subset = Subset { endpoint: Some(endpoint.clone()), ..Subset::default() };
        return Some(Target { subset, weight: 1, ..Target::default() });
    }
    let service = registry::service_in(item, known.namespace, sink)?;
    Some(Target { service: Some(service), weight: 1, ..Target::default() })
}
