//! Reading: from the tree of a TrafficManagement to [`Traffic`], every fault noted on the way.

use std::collections::BTreeSet;

use super::{
    Traffic, TrafficPolicy,
    action::{
        Abort, Action, Balance, CircuitBreak, Edits, Fault, HEDGE_BUDGET, Hedge, HedgeAfter,
        Locality, Mirror, PerWhat, RateLimit, Redirect, Retry, RetryOn, Rewrite, Route, Split,
        Sticky, Timeout, TypeName,
    },
    matching::{self, PathMatch},
    target::{self, Known, OnEmpty, Targets},
};
use crate::{
    limits,
    manifest::{
        kinds::Destination,
        reader::{Fields, Item, Sink},
        registry::{address, exposed, port_name, port_ref, protocol},
        value::{Image, InvalidValue, Rate, invalid},
    },
    name::{Label, ServiceName},
    record::node::Protocol,
    route::{
        Algorithm, Eject, Spill, Tier,
        retry::{Backoff, Budget},
    },
};

/// Reads `spec` of a TrafficManagement.
pub(crate) fn traffic(spec: &Item<'_>, namespace: &Label, sink: &mut Sink<'_>) -> Option<Traffic> {
    let mut fields = spec.fields(sink)?;
    if let Some(item) = fields.take("image") {
        item.parsed::<Image>(sink);
    }
    if let Some(item) = fields.take("ports") {
        named_ports(&item, sink);
    }
    let endpoints = fields.take("endpoints").map(|item| endpoints(&item, sink));
    let fix = "write a list of `{name, trafficPolicy}`";
    let list = fields.need("trafficPolicies", fix, sink);
    fields.finish(sink);
    let items = list?.list(limits::MANIFEST_DOCUMENTS, sink)?;
    let known = Known { namespace, endpoints: &endpoints.unwrap_or_default() };
    let mut policies: Vec<TrafficPolicy> = Vec::new();
    for item in &items {
        let Some(policy) = policy(item, &known, sink) else {
            continue;
        };
        if let Some(first) = policies.iter().find(|other| other.clashes(&policy)) {
            let why = format!(
                "`{}` and `{}` have the same destination, port, type and match",
                policy.name, first.name
            );
            item.fault(sink, why, format!("leave one out; `{}` came first", first.name));
        }
        policies.push(policy);
    }
    Some(Traffic { policies })
}

impl TrafficPolicy {
    /// Whether both are about the same, so that only one can hold.
    pub fn clashes(&self, other: &Self) -> bool {
        (self.action.name(), &self.destination, self.port, &self.matches)
            == (other.action.name(), &other.destination, other.port, &other.matches)
    }
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

/// The names of endpoints that targets may mean.
fn endpoints(item: &Item<'_>, sink: &mut Sink<'_>) -> Vec<Label> {
    let mut names = Vec::new();
    for item in item.list(limits::ENDPOINTS_MAX, sink).unwrap_or_default() {
        let Some(mut fields) = item.fields(sink) else {
            continue;
        };
        let name = fields.need("name", "name it", sink);
        names.extend(name.and_then(|item| item.parsed::<Label>(sink)));
        let place = fields.take("address");
        place.and_then(|item| address(&item, None, sink));
        fields.take("port").and_then(|item| item.port(sink));
        fields.finish(sink);
    }
    names
}

/// A destination: `service`, `namespace/service`, `*`, `namespace/*` or `*/*`.
pub(crate) fn destination(
    item: &Item<'_>,
    namespace: &Label,
    sink: &mut Sink<'_>,
) -> Option<Destination> {
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

fn policy(item: &Item<'_>, known: &Known<'_>, sink: &mut Sink<'_>) -> Option<TrafficPolicy> {
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
    let about = about.and_then(|item| destination(&item, known.namespace, sink));
    let port = fields.take("destinationPort").and_then(|item| item.port(sink));
    let spoken = fields.has("protocol").then(|| protocol(&mut fields, None, sink));
    let match_item = fields.take("match");
    let matches = match_item.as_ref().map(|item| matching::matches(item, sink));
    let matches = or(matches, super::Match::default());
    let fix = "say what it does: `type: Route`, `Split`, `Retry` and so on";
    let kind = fields.need("type", fix, sink)?.one_of(&TypeName::ALL, sink)?;
    if !kind.has_target()
        && let Some(item) = fields.take("target")
    {
        item.fault(sink, format!("{kind} has no target"), "leave it out");
    }
    let action = action(kind, &mut fields, known, sink);
    // What the type has no use for was not asked for, and is unknown.
    fields.finish(sink);
    let policy = TrafficPolicy {
        name: name?,
        destination: about?,
        port,
        protocol: spoken,
        matches: matches?,
        action: action?,
    };
    judge(&policy, &inner, match_item.as_ref(), sink);
    Some(policy)
}

/// What only the whole tells.
fn judge(
    policy: &TrafficPolicy,
    item: &Item<'_>,
    match_item: Option<&Item<'_>>,
    sink: &mut Sink<'_>,
) {
    if let Some(spoken) = policy.protocol
        && spoken == Protocol::Tcp
        && policy.needs_http()
    {
        item.fault(
            sink,
            format!("{} here looks at requests, and bytes have none", policy.action.name()),
            "declare `protocol: http` (also in the ServiceRegistry), or leave out what needs HTTP",
        );
    }
    let takes_match = !matches!(
        policy.action,
        Action::Balance(_) | Action::Locality(_) | Action::CircuitBreak(_) | Action::Eject(_)
    );
    if let (Some(item), false) = (match_item, takes_match) {
        let why = format!("{} holds for a whole service or port", policy.action.name());
        item.fault(sink, why, "leave the match out");
    }
    if let Action::Route(Route { rewrite: Rewrite { prefix: Some(_), .. }, .. }) = &policy.action
        && !matches!(policy.matches.path, Some(PathMatch::Prefix(_)))
    {
        let why = "a prefix is rewritten, and none is matched";
        item.fault(sink, why, "add `match: {prefix: /...}`, or rewrite the whole `path`");
    }
}

fn action(
    kind: TypeName,
    fields: &mut Fields<'_>,
    known: &Known<'_>,
    sink: &mut Sink<'_>,
) -> Option<Action> {
    match kind {
        TypeName::Route => route(fields, known, sink).map(Action::Route),
        TypeName::Split => split(fields, known, sink).map(Action::Split),
        TypeName::Balance => balance(fields, sink).map(Action::Balance),
        TypeName::Locality => locality(fields, sink).map(Action::Locality),
        TypeName::Retry => retry(fields, sink).map(Action::Retry),
        TypeName::Timeout => Some(Action::Timeout(timeout(fields, sink))),
        TypeName::CircuitBreak => Some(Action::CircuitBreak(circuit_break(fields, sink))),
        TypeName::Eject => eject(fields, sink).map(Action::Eject),
        TypeName::RateLimit => rate_limit(fields, sink).map(Action::RateLimit),
        TypeName::Mirror => mirror(fields, known, sink).map(Action::Mirror),
        TypeName::Fault => fault(fields, sink).map(Action::Fault),
        TypeName::Hedge => hedge(fields, sink).map(Action::Hedge),
    }
}

/// A field's value if it stands there and is good, `default` if it is left out, nothing if it is
/// faulty: the fault is noted.
fn or<T>(read: Option<Option<T>>, default: T) -> Option<T> {
    read.unwrap_or(Some(default))
}

fn on_empty(fields: &mut Fields<'_>, sink: &mut Sink<'_>) -> Option<OnEmpty> {
    let words = [("fail", OnEmpty::Fail), ("spill", OnEmpty::Spill)];
    fields.take("onEmpty").and_then(|item| item.one_of(&words, sink))
}

fn route(fields: &mut Fields<'_>, known: &Known<'_>, sink: &mut Sink<'_>) -> Option<Route> {
    let on_empty = on_empty(fields, sink);
    let target_item = fields.take("target");
    let to = target_item.as_ref().map(|item| target::targets(item, on_empty, known, sink));
    let rewrite = fields.take("rewrite").map(|item| rewrite(&item, sink));
    let redirect_item = fields.take("redirect");
    let to_elsewhere = redirect_item.as_ref().map(|item| redirect(item, sink));
    if let (Some(_), Some(item)) = (&target_item, &redirect_item) {
        let why = "a redirected request goes nowhere else";
        item.fault(sink, why, "keep either `target` or `redirect`");
    }
    let headers = fields.take("headers").map(|item| header_edits(&item, sink));
    let (request, response) = or(headers, (Edits::default(), Edits::default()))?;
    Some(Route {
        to: or(to.map(|read| read.map(Some)), None)?,
        rewrite: or(rewrite, Rewrite::default())?,
        redirect: or(to_elsewhere.map(|read| read.map(Some)), None)?,
        request,
        response,
    })
}

fn rewrite(item: &Item<'_>, sink: &mut Sink<'_>) -> Option<Rewrite> {
    let mut fields = item.fields(sink)?;
    let path = fields.take("path").and_then(|item| matching::absolute(&item, sink));
    let prefix = fields.take("prefix").and_then(|item| matching::absolute(&item, sink));
    let host = fields.take("host").and_then(|item| host(&item, sink));
    fields.finish(sink);
    if path.is_some() && prefix.is_some() {
        item.fault(sink, "the path is rewritten twice", "keep `path` or `prefix`");
    }
    Some(Rewrite { path, prefix, host })
}

/// A host, perhaps with a port.
fn host(item: &Item<'_>, sink: &mut Sink<'_>) -> Option<String> {
    let text = item.shown(sink)?;
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:[]".contains(&byte);
    if text.len() <= limits::AUTHORITY_BYTES && text.bytes().all(good) {
        return Some(text);
    }
    item.fault(sink, format!("`{text}` is not a host"), "write `shop.example.com` or with `:port`");
    None
}

fn redirect(item: &Item<'_>, sink: &mut Sink<'_>) -> Option<Redirect> {
    let mut fields = item.fields(sink)?;
    let status = fields.take("status").map(|item| {
        let code = item.whole(300, 399, sink)?;
        let fits = [301, 302, 303, 307, 308].contains(&code);
        if !fits {
            item.fault(sink, format!("{code} redirects nobody"), "write 301, 302, 303, 307 or 308");
        }
        fits.then_some(code)
    });
    let words = [("http", "http"), ("https", "https")];
    let scheme = fields.take("scheme").and_then(|item| item.one_of(&words, sink));
    let host = fields.take("host").and_then(|item| host(&item, sink));
    let path = fields.take("path").and_then(|item| matching::absolute(&item, sink));
    fields.finish(sink);
    if scheme.is_none() && host.is_none() && path.is_none() {
        let fix = "say at least one of scheme, host and path";
        item.fault(sink, "it would lead the caller to the same address again", fix);
    }
    Some(Redirect { status: or(status, 302)?, scheme, host, path })
}

fn header_edits(item: &Item<'_>, sink: &mut Sink<'_>) -> Option<(Edits, Edits)> {
    let mut fields = item.fields(sink)?;
    let request = fields.take("request").map(|item| edits(&item, sink));
    let response = fields.take("response").map(|item| edits(&item, sink));
    fields.finish(sink);
    Some((or(request, Edits::default())?, or(response, Edits::default())?))
}

fn edits(item: &Item<'_>, sink: &mut Sink<'_>) -> Option<Edits> {
    let mut fields = item.fields(sink)?;
    let remove = fields.take("remove").map(|item| {
        let items = item.list(limits::PORTS_MAX, sink).unwrap_or_default();
        items.iter().filter_map(|item| header_name(item.text(sink)?, item, sink)).collect()
    });
    let mut pairs = |name| -> Vec<(String, String)> {
        let Some(item) = fields.take(name) else {
            return Vec::new();
        };
        let entries = item.entries(limits::PORTS_MAX, sink);
        let pair = |(name, item): &(&str, Item<'_>)| {
            Some((header_name(name, item, sink)?, item.shown(sink)?))
        };
        entries.iter().filter_map(pair).collect()
    };
    let (set, add) = (pairs("set"), pairs("add"));
    fields.finish(sink);
    Some(Edits { remove: remove.unwrap_or_default(), set, add })
}

/// A header that a document may change: not one that frames the message or names the caller.
fn header_name(text: &str, item: &Item<'_>, sink: &mut Sink<'_>) -> Option<String> {
    let Some(name) = matching::header_name(text) else {
        item.fault(sink, format!("`{text}` is not a header's name"), "letters, digits and `-`");
        return None;
    };
    let ours = name.starts_with("x-skein-") || limits::FRAMING_HEADERS.contains(&name.as_str());
    if ours {
        let why = format!("`{name}` belongs to the agents: they set it themselves");
        item.fault(sink, why, "leave it out; a host is changed by `rewrite: {host}`");
        return None;
    }
    Some(name)
}

fn split(fields: &mut Fields<'_>, known: &Known<'_>, sink: &mut Sink<'_>) -> Option<Split> {
    let on_empty = on_empty(fields, sink);
    let to = listed(fields, on_empty, known, sink);
    let sticky = fields.take("sticky").map(|item| sticky(&item, sink));
    Some(Split { to: to?, sticky: or(sticky.map(|read| read.map(Some)), None)? })
}

fn listed(
    fields: &mut Fields<'_>,
    on_empty: Option<OnEmpty>,
    known: &Known<'_>,
    sink: &mut Sink<'_>,
) -> Option<Targets> {
    let item = fields.need("target", "say where to: `[{service, weight}, ...]`", sink)?;
    if !item.is_list() {
        item.fault(sink, "a list belongs here", "write `[{service, weight}, ...]`");
        return None;
    }
    target::targets(&item, on_empty, known, sink)
}

/// `source`, or `{header: name}`.
fn sticky(item: &Item<'_>, sink: &mut Sink<'_>) -> Option<Sticky> {
    if !item.is_map() {
        return item.one_of(&[("source", ())], sink).map(|()| Sticky::Source);
    }
    let mut fields = item.fields(sink)?;
    let fix = "write `source` or `{header: x-user}`";
    let name = fields.need("header", fix, sink);
    fields.finish(sink);
    let name = name?;
    let text = name.text(sink)?;
    let bad = || invalid(format!("`{text}` is not a header's name"), "letters, digits and `-`");
    name.kept(matching::header_name(text).ok_or_else(bad), sink).map(Sticky::Header)
}

fn balance(fields: &mut Fields<'_>, sink: &mut Sink<'_>) -> Option<Balance> {
    let algorithm = fields.take("algorithm").map(|item| item.one_of(&Algorithm::WORDS, sink));
    let algorithm = or(algorithm, Algorithm::default())?;
    let key_item = fields.take("key");
    let key = key_item.as_ref().map(|item| sticky(item, sink));
    if let (Some(item), true) = (&key_item, algorithm != Algorithm::RingHash) {
        item.fault(sink, "only ring-hash has a key", "leave it out, or `algorithm: ring-hash`");
    }
    Some(Balance { algorithm, key: or(key.map(|read| read.map(Some)), None)? })
}

fn locality(fields: &mut Fields<'_>, sink: &mut Sink<'_>) -> Option<Locality> {
    let prefer = fields.take("prefer").map(|item| {
        let items = item.list(Tier::ALL.len(), sink)?;
        let words = Tier::ALL.map(|tier| (tier.word(), tier));
        let tiers: Vec<Tier> = items.iter().filter_map(|item| item.one_of(&words, sink)).collect();
        let rising = tiers.windows(2).all(|pair| matches!(pair, [near, far] if near < far));
        if tiers.is_empty() || !rising {
            let fix = "name at least one of node, zone, region, any, in this order";
            item.fault(sink, "tiers go from near to far", fix);
        }
        Some(tiers)
    });
    let words =
        [("proportional", Spill::Proportional), ("empty", Spill::Empty), ("never", Spill::Never)];
    let spill = fields.take("spill").map(|item| item.one_of(&words, sink));
    Some(Locality { prefer: or(prefer, Tier::ALL.to_vec())?, spill: or(spill, Spill::default())? })
}

fn retry(fields: &mut Fields<'_>, sink: &mut Sink<'_>) -> Option<Retry> {
    let usual = Retry::default();
    let attempts = fields.take("attempts");
    let attempts = attempts.map(|item| item.whole(0, limits::RETRY_ATTEMPTS_MAX, sink));
    let on = fields.take("on").map(|item| {
        let items = item.list(limits::PORTS_MAX, sink)?;
        let read: BTreeSet<RetryOn> =
            items.iter().filter_map(|item| retry_on(item, sink)).collect();
        (read.len() <= items.len()).then_some(read)
    });
    let per_try = fields.take("perTryTimeout").map(|item| item.duration(sink).map(Some));
    let budget = fields.take("budget").map(|item| budget(&item, usual.budget, sink));
    let backoff = fields.take("backoff").map(|item| backoff(&item, sink));
    Some(Retry {
        attempts: or(attempts, usual.attempts)?,
        on: or(on, usual.on)?,
        per_try: or(per_try, None)?,
        budget: or(budget, usual.budget)?,
        backoff: or(backoff, usual.backoff)?,
    })
}

/// A word, or a status as a number.
fn retry_on(item: &Item<'_>, sink: &mut Sink<'_>) -> Option<RetryOn> {
    if item.is_number() {
        return item.whole(400, 599, sink).map(RetryOn::Status);
    }
    item.one_of(&RetryOn::WORDS, sink)
}

/// `{percent: 20, min: 10/s}`.
fn budget(item: &Item<'_>, usual: Budget, sink: &mut Sink<'_>) -> Option<Budget> {
    let mut fields = item.fields(sink)?;
    let percent = fields.take("percent").map(|item| item.percent(sink));
    let min = fields.take("min").map(|item| item.parsed::<Rate>(sink));
    fields.finish(sink);
    let least = or(min.map(|read| read.map(milli_per_second)), usual.min_milli_per_second)?;
    Some(Budget { percent: or(percent, usual.percent)?, min_milli_per_second: least })
}

fn milli_per_second(rate: Rate) -> u64 {
    rate.count.saturating_mul(1_000) / rate.per.as_secs().max(1)
}

/// `{base: 25ms, max: 250ms}`, or only the base.
fn backoff(item: &Item<'_>, sink: &mut Sink<'_>) -> Option<Backoff> {
    let usual = Backoff::default();
    if !item.is_map() {
        let base = item.duration(sink)?;
        return Some(Backoff { base, max: usual.max.max(base) });
    }
    let mut fields = item.fields(sink)?;
    let base = fields.take("base").map(|item| item.duration(sink));
    let max = fields.take("max").map(|item| item.duration(sink));
    fields.finish(sink);
    let base = or(base, usual.base)?;
    let max = or(max, usual.max.max(base))?;
    if max < base {
        item.fault(sink, "`max` is less than `base`", "write the longer one as `max`");
    }
    Some(Backoff { base, max })
}

fn timeout(fields: &mut Fields<'_>, sink: &mut Sink<'_>) -> Timeout {
    let mut field = |name| {
        let item: Item<'_> = fields.take(name)?;
        let time = item.duration(sink)?;
        if time.is_zero() {
            item.fault(sink, "no time at all", "leave it out for the default");
        }
        Some(time)
    };
    Timeout { request: field("request"), connect: field("connect"), idle: field("idle") }
}

fn circuit_break(fields: &mut Fields<'_>, sink: &mut Sink<'_>) -> CircuitBreak {
    let mut field =
        |name| fields.take(name).and_then(|item: Item<'_>| item.whole(0, u32::MAX, sink));
    CircuitBreak {
        connections: field("maxConnections"),
        pending: field("maxPending"),
        requests: field("maxRequests"),
    }
}

fn eject(fields: &mut Fields<'_>, sink: &mut Sink<'_>) -> Option<Eject> {
    let usual = Eject::default();
    let consecutive = fields.take("consecutive");
    let consecutive = consecutive.map(|item| item.whole(1, limits::EJECT_FAILURES_MAX, sink));
    let success = fields.take("successRate").map(|item| item.percent(sink));
    let window = fields.take("window").map(|item| item.duration(sink));
    let base = fields.take("baseTime").map(|item| item.duration(sink));
    let most = fields.take("maxPercent").map(|item| item.percent(sink));
    Some(Eject {
        consecutive: or(consecutive, usual.consecutive)?,
        success: or(success, usual.success)?,
        window: or(window, usual.window)?,
        base: or(base, usual.base)?,
        most: or(most, usual.most)?,
    })
}

fn rate_limit(fields: &mut Fields<'_>, sink: &mut Sink<'_>) -> Option<RateLimit> {
    let rate_item = fields.need("rate", "say how many in which time: `100/s`", sink)?;
    let rate: Option<Rate> = rate_item.parsed(sink);
    if rate.is_some_and(|rate| rate.count == 0) {
        let fix = "to let nobody in write an AccessPolicy";
        rate_item.fault(sink, "a rate of 0 lets nothing through", fix);
    }
    let burst = fields.take("burst").map(|item| item.whole(1, u32::MAX, sink));
    let per = fields.take("per").map(|item| per(&item, sink));
    let rate = rate?;
    // A second's worth, at least one.
    let second = rate.count / rate.per.as_secs().max(1);
    let usual = u32::try_from(second).unwrap_or(u32::MAX).max(1);
    Some(RateLimit { rate, burst: or(burst, usual)?, per: or(per, PerWhat::All)? })
}

fn per(item: &Item<'_>, sink: &mut Sink<'_>) -> Option<PerWhat> {
    if !item.is_map() {
        return item
            .one_of(&[("source", true), ("all", false)], sink)
            .map(|source| if source { PerWhat::Source } else { PerWhat::All });
    }
    match sticky(item, sink)? {
        Sticky::Header(name) => Some(PerWhat::Header(name)),
        Sticky::Source => Some(PerWhat::Source),
    }
}

fn mirror(fields: &mut Fields<'_>, known: &Known<'_>, sink: &mut Sink<'_>) -> Option<Mirror> {
    let percent = fields.take("percent").map(|item| item.percent(sink));
    let item = fields.need("target", "say where the copy goes: a service", sink)?;
    if item.is_list() {
        item.fault(sink, "one target belongs here", "write one, not a list");
        return None;
    }
    Some(Mirror { to: target::target(&item, known, sink)?, percent: or(percent, 10_000)? })
}

fn fault(fields: &mut Fields<'_>, sink: &mut Sink<'_>) -> Option<Fault> {
    let delay = fields.take("delay").map(|item| item.duration(sink).map(Some));
    let abort_item = fields.take("abort");
    let abort = abort_item.map(|item| {
        if item.is_number() {
            return item.whole(200, 599, sink).map(|status| Some(Abort::Status(status)));
        }
        item.one_of(&[("reset", Some(Abort::Reset))], sink)
    });
    let percent = fields.take("percent").map(|item| item.percent(sink));
    if delay.is_none() && abort.is_none() {
        fields.need("abort", "say `delay: 2s`, `abort: 503`, `abort: reset`, or two of them", sink);
    }
    let (delay, abort) = (or(delay, None)?, or(abort, None)?);
    Some(Fault { delay, abort, percent: or(percent, 10_000)? })
}

fn hedge(fields: &mut Fields<'_>, sink: &mut Sink<'_>) -> Option<Hedge> {
    let after = fields.take("after").map(|item| {
        let text = item.text(sink)?;
        item.kept(hedge_after(text), sink)
    });
    let budget = fields.take("budget").map(|item| {
        if item.is_map() {
            return budget(&item, HEDGE_BUDGET, sink);
        }
        item.percent(sink).map(|percent| Budget { percent, ..HEDGE_BUDGET })
    });
    Some(Hedge { after: or(after, HedgeAfter::Percentile(95))?, budget: or(budget, HEDGE_BUDGET)? })
}

fn hedge_after(text: &str) -> Result<HedgeAfter, InvalidValue> {
    if let Some(Ok(percentile)) = text.strip_prefix('p').map(str::parse) {
        let fits = (50..=99).contains(&percentile);
        let bad = || invalid(format!("`{text}` is not used"), "write `p50` to `p99`, or a time");
        return fits.then_some(HedgeAfter::Percentile(percentile)).ok_or_else(bad);
    }
    crate::manifest::value::duration(text).map(HedgeAfter::Time)
}
