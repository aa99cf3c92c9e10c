//! What traffic rules make of a call: the rules in their order, and where it goes.

use std::{borrow::Cow, sync::Arc};

use skein_protocol::{
    http::canonical,
    manifest::traffic::Request,
    name::ServiceName,
    policy::{
        legs::{Asked, Leg},
        traffic::TrafficRules,
    },
    record::node::Protocol,
    route::Subset,
    view::{Use, View},
};

use super::{
    super::{api::invalid, local, show::Agent},
    show::port_of,
};
use crate::api::{
    ApiError,
    dto::{ExplainedRequest, RouteLeg, RouteRule, RoutesReport, RoutesRequest},
};

impl Agent {
    /// What rules make of calls to a port of a service.
    pub(crate) fn routes_of(&self, asked: &RoutesRequest) -> Result<RoutesReport, ApiError> {
        let name = ServiceName::parse_in(&asked.service, &self.settings.namespace);
        let name = name.map_err(invalid)?;
        let view = self.view();
        let service = view.services.get(&name).ok_or_else(|| {
            ApiError::not_found(format!("no host registers {name}")).fix("skein services")
        })?;
        let port = port_of(service, &asked.port)?.ok_or_else(|| {
            let text = format!("{name} has no port {}", asked.port);
            ApiError::not_found(text).fix(format!("skein service {name}"))
        })?;
        let host = local::traffic_policy(&self.workload.snapshot.borrow().plan);
        let policy = Arc::clone(&self.policy.borrow());
        let rules = TrafficRules::new(&policy.documents.in_force(), host);
        let protocol = service.ports.iter().find(|one| one.port == port).map(|one| one.protocol);
        let reads = policy.access.need_http(&name);
        let reads = rules.of(&name, port).reads(protocol.unwrap_or(Protocol::Sniff), reads);
        let held = asked.request.as_ref().map(Held::new).transpose()?;
        let request = held.as_ref().map(Held::request);
        let call = Asked {
            service: &name,
            port,
            subset: &Subset::default(),
            request: request.as_ref(),
            source: 0,
        };
        let listed = rules.of(&name, port).listed(request.as_ref());
        Ok(RoutesReport {
            service: name.to_string(),
            port,
            carried: reads.word().to_owned(),
            rules: listed
                .into_iter()
                .map(|rule| RouteRule {
                    kind: rule.kind.to_string(),
                    name: rule.name.to_string(),
                    level: rule.level.word().to_owned(),
                    matches: rule.matches,
                    does: rule.does,
                    holds: rule.holds,
                })
                .collect(),
            legs: rules
                .shares(&call)
                .iter()
                .map(|(leg, share)| shown(&view, leg, *share))
                .collect(),
        })
    }
}

fn shown(view: &View, leg: &Leg, share: u64) -> RouteLeg {
    let service = view.services.get(&leg.service);
    let endpoints = service.map(|service| service.endpoints.as_slice()).unwrap_or_default();
    let meant =
        || endpoints.iter().filter(|one| leg.subset.covers(&one.instance, &one.node.locality));
    let usable = meant().filter(|one| !matches!(one.usable, Use::No(_))).count();
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    RouteLeg {
        service: leg.service.to_string(),
        port: leg.port.to_string(),
        subset: leg.subset.to_string(),
        share,
        usable: number(usable),
        of: number(meant().count()),
        by: leg.by.as_ref().map(ToString::to_string).unwrap_or_default(),
    }
}

/// A request that was asked about, in the form in which rules look at it.
struct Held<'a> {
    asked: &'a ExplainedRequest,
    path: Cow<'a, str>,
    query: &'a str,
    lent: Vec<(&'a str, &'a str)>,
}

impl<'a> Held<'a> {
    fn new(asked: &'a ExplainedRequest) -> Result<Self, ApiError> {
        let (path, query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
        let path = canonical(path).map_err(|fault| {
            invalid(format!("such a request is answered 400, bad_request: {fault}"))
        })?;
        let lent = asked.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        Ok(Self { asked, path, query, lent: lent.collect() })
    }

    fn request(&self) -> Request<'_> {
        let (method, query) = (&self.asked.method, self.query);
        Request { method, path: &self.path, query, headers: &self.lent }
    }
}
