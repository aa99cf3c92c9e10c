//! TrafficManagement and AccessPolicy: validated as far as their grammar goes.
//!
//! Neither is in force on an agent's word: they need an operator's signature. What only the
//! data plane can judge (matches, rewrites, headers) is taken as it stands.

use super::{
    kinds::{Access, AccessEffect, Destination, Traffic, TrafficPolicy},
    reader::{Fields, Item, Sink},
    registry::{address, exposed, port_name, port_ref, protocol},
    tree::Node,
    value::Rate,
};
use crate::{
    limits,
    name::{Label, ServiceName, ServicePattern},
};

/// Reads `spec` of a TrafficManagement.
pub(crate) fn traffic(spec: &Item<'_>, namespace: &Label, sink: &mut Sink<'_>) -> Option<Traffic> {
    let mut fields = spec.fields(sink)?;
    if let Some(item) = fields.take("image") {
        item.parsed::<super::value::Image>(sink);
    }
    if let Some(item) = fields.take("ports") {
        named_ports(&item, sink);
    }
    if let Some(item) = fields.take("endpoints") {
        endpoints(&item, sink);
    }
    let fix = "write a list of `{name, trafficPolicy}`";
    let list = fields.need("trafficPolicies", fix, sink);
    fields.finish(sink);
    let items = list?.list(limits::MANIFEST_DOCUMENTS, sink)?;
    let mut seen: Vec<(TrafficPolicy, Option<&Node>)> = Vec::new();
    for item in &items {
        let Some((policy, matches)) = traffic_policy(item, namespace, sink) else {
            continue;
        };
        let same = |(other, found): &&(TrafficPolicy, Option<&Node>)| {
            (other.kind, &other.destination, other.port)
                == (policy.kind, &policy.destination, policy.port)
                && *found == matches
        };
        if let Some((first, _)) = seen.iter().find(same) {
            let why = format!(
                "`{}` and `{}` have the same destination, port, type and match",
                policy.name, first.name
            );
            item.fault(sink, why, format!("leave one out; `{}` came first", first.name));
        }
        seen.push((policy, matches));
    }
    Some(Traffic { policies: seen.into_iter().map(|(policy, _)| policy).collect() })
}

fn named_ports(item: &Item<'_>, sink: &mut Sink<'_>) {
    let items = item.list(limits::PORTS_MAX, sink).unwrap_or_default();
    for item in &items {
        if let Some(mut fields) = item.fields(sink) {
            let name = port_name(&mut fields, items.len() == 1, sink);
            fields.take("port").and_then(|item| item.port(sink));
            fields.take("targetPort").and_then(|item| port_ref(&item, sink));
            exposed(&mut fields, sink);
            protocol(&mut fields, name.as_ref(), sink);
            fields.finish(sink);
        }
    }
}

fn endpoints(item: &Item<'_>, sink: &mut Sink<'_>) {
    for item in item.list(limits::ENDPOINTS_MAX, sink).unwrap_or_default() {
        let Some(mut fields) = item.fields(sink) else {
            continue;
        };
        let name = fields.need("name", "name it", sink);
        name.and_then(|item| item.parsed::<Label>(sink));
        let place = fields.take("address");
        place.and_then(|item| address(&item, None, sink));
        fields.take("port").and_then(|item| item.port(sink));
        fields.finish(sink);
    }
}

/// A destination: `service`, `namespace/service`, `*`, `namespace/*` or `*/*`.
fn destination(item: &Item<'_>, namespace: &Label, sink: &mut Sink<'_>) -> Option<Destination> {
    match item.text(sink)? {
        "*" => Some(Destination::Namespace(namespace.clone())),
        "*/*" => Some(Destination::Mesh),
        text => match text.strip_suffix("/*") {
            Some(namespace) => {
                let label = Label::new(namespace).map_err(Into::into);
                item.kept(label, sink).map(Destination::Namespace)
            }
            None => {
                let service = ServiceName::parse_in(text, namespace).map_err(Into::into);
                item.kept(service, sink).map(Destination::Service)
            }
        },
    }
}

fn traffic_policy<'t>(
    item: &Item<'t>,
    namespace: &Label,
    sink: &mut Sink<'_>,
) -> Option<(TrafficPolicy, Option<&'t Node>)> {
    let mut outer = item.fields(sink)?;
    let name = outer.need("name", "name it", sink);
    let name = name.and_then(|item| item.parsed(sink));
    let fix = "write `{destination, type, ...}`";
    let inner = outer.need("trafficPolicy", fix, sink);
    outer.finish(sink);
    let inner = inner?;
    let mut fields = inner.fields(sink)?;
    let fix = "say what it is about: a service, `*` or `*/*`";
    let about = fields.need("destination", fix, sink);
    let about = about.and_then(|item| destination(&item, namespace, sink));
    let port = fields.take("destinationPort").and_then(|item| item.port(sink));
    protocol(&mut fields, None, sink);
    let matches = fields.take("match").map(|item| item.node);
    let kinds: Vec<(&str, &TypeRules)> = TYPES.iter().map(|rules| (rules.word, rules)).collect();
    let fix = "say what it does: `type: Route`, `Split`, `Retry` and so on";
    let kind = fields.need("type", fix, sink)?;
    let rules = kind.one_of(&kinds, sink)?;
    let target_item = fields.take("target");
    match (&target_item, rules.targets) {
        (Some(item), Targets::None) => {
            let why = format!("{} has no target", rules.word);
            item.fault(sink, why, "leave it out");
        }
        (Some(item), wanted) => targets(item, wanted, namespace, sink),
        (None, Targets::List | Targets::One) => {
            fields.need("target", "say where to: a service or a list with weights", sink);
        }
        (None, Targets::Either | Targets::None) => {}
    }
    fields.take("onEmpty").and_then(|item| item.one_of(&[("fail", ()), ("spill", ())], sink));
    for (field, shape) in rules.fields {
        shape.read(&mut fields, field, sink);
    }
    fields.finish(sink);
    let policy = TrafficPolicy { name: name?, kind: rules.word, destination: about?, port };
    Some((policy, matches))
}

fn targets(item: &Item<'_>, wanted: Targets, namespace: &Label, sink: &mut Sink<'_>) {
    if !item.is_list() {
        if wanted == Targets::List {
            item.fault(sink, "a list belongs here", "write `[{service, weight}, ...]`");
        }
        target(item, namespace, sink);
        return;
    }
    if wanted == Targets::One {
        item.fault(sink, "one target belongs here", "write one, not a list");
    }
    let items = item.list(limits::PORTS_MAX, sink).unwrap_or_default();
    let weights: Vec<u32> =
        items.iter().map(|item| target(item, namespace, sink).unwrap_or(1)).collect();
    if weights.iter().all(|weight| *weight == 0) {
        let fix = "give at least one target a weight";
        item.fault(sink, "all weights are 0: nothing would be called", fix);
    }
}

/// Returns the target's weight, if it has one.
fn target(item: &Item<'_>, namespace: &Label, sink: &mut Sink<'_>) -> Option<u32> {
    if !item.is_map() {
        let text = item.text(sink)?;
        let service = ServiceName::parse_in(text, namespace).map_err(Into::into);
        item.kept(service, sink);
        return None;
    }
    let mut fields = item.fields(sink)?;
    let service = fields.take("service");
    service.and_then(|item| super::registry::service_in(&item, namespace, sink));
    fields.take("port").and_then(|item| port_ref(&item, sink));
    fields.take("subset").and_then(|item| super::discovery::subset(&item, sink));
    fields.take("endpoint").and_then(|item| item.parsed::<Label>(sink));
    let weight = fields.take("weight");
    let weight = weight.and_then(|item| item.whole(0, limits::WEIGHT_MAX, sink));
    fields.finish(sink);
    weight
}

/// How many targets a type has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Targets {
    None,
    One,
    List,
    Either,
}

/// What a field of a type holds.
#[derive(Clone, Copy)]
enum Shape {
    /// Judged where it is applied.
    Open,
    Duration,
    Whole,
    Percent,
    Rate,
    Algorithm,
}

impl Shape {
    fn read(self, fields: &mut Fields<'_>, field: &'static str, sink: &mut Sink<'_>) {
        let Some(item) = fields.take(field) else {
            return;
        };
        match self {
            Self::Open => {}
            Self::Duration => drop(item.duration(sink)),
            Self::Whole => drop(item.whole(0, u32::MAX, sink)),
            Self::Percent => drop(item.percent(sink)),
            Self::Rate => drop(item.parsed::<Rate>(sink)),
            Self::Algorithm => {
                let words = ["peak-ewma", "round-robin", "least-request", "random", "ring-hash"];
                item.one_of(&words.map(|word| (word, ())), sink);
            }
        }
    }
}

struct TypeRules {
    word: &'static str,
    targets: Targets,
    fields: &'static [(&'static str, Shape)],
}

const fn rules(
    word: &'static str,
    targets: Targets,
    fields: &'static [(&'static str, Shape)],
) -> TypeRules {
    TypeRules { word, targets, fields }
}

/// The table of MANIFESTS.md.
const TYPES: [TypeRules; 12] = [
    rules(
        "Route",
        Targets::Either,
        &[("rewrite", Shape::Open), ("redirect", Shape::Open), ("headers", Shape::Open)],
    ),
    rules("Split", Targets::List, &[("sticky", Shape::Open)]),
    rules("Balance", Targets::None, &[("algorithm", Shape::Algorithm), ("key", Shape::Open)]),
    rules("Locality", Targets::None, &[("prefer", Shape::Open), ("spill", Shape::Open)]),
    rules(
        "Retry",
        Targets::None,
        &[
            ("attempts", Shape::Whole),
            ("on", Shape::Open),
            ("perTryTimeout", Shape::Duration),
            ("budget", Shape::Open),
            ("backoff", Shape::Open),
        ],
    ),
    rules(
        "Timeout",
        Targets::None,
        &[("request", Shape::Duration), ("connect", Shape::Duration), ("idle", Shape::Duration)],
    ),
    rules(
        "CircuitBreak",
        Targets::None,
        &[
            ("maxConnections", Shape::Whole),
            ("maxPending", Shape::Whole),
            ("maxRequests", Shape::Whole),
        ],
    ),
    rules(
        "Eject",
        Targets::None,
        &[
            ("consecutive", Shape::Whole),
            ("successRate", Shape::Percent),
            ("window", Shape::Duration),
            ("baseTime", Shape::Duration),
            ("maxPercent", Shape::Percent),
        ],
    ),
    rules(
        "RateLimit",
        Targets::None,
        &[("rate", Shape::Rate), ("burst", Shape::Whole), ("per", Shape::Open)],
    ),
    rules("Mirror", Targets::One, &[("percent", Shape::Percent)]),
    rules(
        "Fault",
        Targets::None,
        &[("delay", Shape::Open), ("abort", Shape::Open), ("percent", Shape::Percent)],
    ),
    rules("Hedge", Targets::None, &[("after", Shape::Open), ("budget", Shape::Open)]),
];

/// Reads `spec` of an AccessPolicy.
pub(crate) fn access(spec: &Item<'_>, namespace: &Label, sink: &mut Sink<'_>) -> Option<Access> {
    let mut fields = spec.fields(sink)?;
    let fix = "say what it is about: a service, `*` (this namespace) or `*/*` (the mesh)";
    let about_item = fields.need("destination", fix, sink);
    let about = about_item.and_then(|item| destination(&item, namespace, sink));
    let allow_deny = |allow, deny| [("allow", allow), ("deny", deny)];
    let action_item = fields.take("action");
    let words = allow_deny(AccessEffect::Allow, AccessEffect::Deny);
    let action = action_item.as_ref().and_then(|item| item.one_of(&words, sink));
    let default_item = fields.take("default");
    let words = allow_deny(AccessEffect::DefaultAllow, AccessEffect::DefaultDeny);
    let default = default_item.as_ref().and_then(|item| item.one_of(&words, sink));
    let mode = fields.take("mode");
    let mode = mode.and_then(|item| item.one_of(&[("enforce", true), ("audit", false)], sink));
    let from = fields.take("from");
    if let Some(item) = &from {
        callers(item, sink);
    }
    let to = fields.take("to");
    if let Some(item) = &to {
        requests(item, sink);
    }
    if action_item.is_none() && default_item.is_none() {
        fields.need("action", "write `action: allow` or `deny`, or `default:`", sink);
    }
    if let (Some(item), Some(_)) =
        (&default_item, action_item.as_ref().or(from.as_ref()).or(to.as_ref()))
    {
        let why = "`default` stands instead of action, from and to";
        item.fault(sink, why, "write a document of its own for it");
    }
    let wide = matches!(about, Some(Destination::Mesh | Destination::Namespace(_)));
    if let (Some(item), Some(AccessEffect::Deny), None, true) = (&action_item, action, &from, wide)
    {
        item.fault(
            sink,
            "this denies everything to everybody, and no allow could open it again",
            "write `default: deny` instead of `action: deny`",
        );
    }
    fields.finish(sink);
    Some(Access {
        destination: about?,
        effect: action.or(default)?,
        enforced: mode.unwrap_or(true),
    })
}

fn callers(item: &Item<'_>, sink: &mut Sink<'_>) {
    for item in item.list(limits::PORTS_MAX, sink).unwrap_or_default() {
        let Some(mut fields) = item.fields(sink) else {
            continue;
        };
        if let Some(item) = fields.take("service") {
            item.parsed::<ServicePattern>(sink);
        }
        fields.take("node").and_then(|item| item.shown(sink));
        fields.take("outside").and_then(|item| item.truth(sink));
        fields.finish(sink);
    }
}

fn requests(item: &Item<'_>, sink: &mut Sink<'_>) {
    for item in item.list(limits::PORTS_MAX, sink).unwrap_or_default() {
        let Some(mut fields) = item.fields(sink) else {
            continue;
        };
        fields.take("port").and_then(|item| item.port(sink));
        for name in ["methods", "paths"] {
            if let Some(item) = fields.take(name) {
                item.list_of::<ShownText>(limits::PORTS_MAX, sink);
            }
        }
        fields.finish(sink);
    }
}

/// Any text, for lists that are only checked to hold texts.
struct ShownText;

impl std::str::FromStr for ShownText {
    type Err = super::value::InvalidValue;
    fn from_str(_text: &str) -> Result<Self, Self::Err> {
        Ok(Self)
    }
}
