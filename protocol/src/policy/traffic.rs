//! Traffic rules: from all TrafficManagement documents to what holds for one service's port.
//!
//! In:    [`Heads`], and the document that meshConfig.trafficPolicy names.
//! Out:   [`ServiceRules`]: for each type the policies in the order in which they are asked.
//! Never: draws, counts or waits; that is `route`'s and the proxy's.
//!
//! Levels: service and port, service, namespace, mesh, the host's own document. Within a level
//! the better match, then the document's name, then the position in it. Mirror, RateLimit and
//! Fault hold all that match; of the other types the first that matches holds, whole.

use std::{cmp::Reverse, fmt};

use super::{Content, Heads};
use crate::{
    manifest::{
        DocumentId,
        kinds::Destination,
        traffic::{
            Action, Balance, CircuitBreak, Fault, Hedge, Locality, Match, Mirror, RateLimit,
            Request, Retry, Route, Specificity, Split, Timeout, TrafficPolicy, TypeName,
        },
    },
    name::{Label, ServiceName},
    record::node::Protocol,
    route::{Eject, Tuning},
};

/// How near a policy is to what is called; the least wins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// It names the service and the port.
    Port,
    /// It names the service.
    Service,
    /// `*`.
    Namespace,
    /// `*/*`.
    Mesh,
    /// The host's meshConfig.trafficPolicy.
    Host,
}

impl Level {
    /// The word of the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Port => "service and port",
            Self::Service => "service",
            Self::Namespace => "namespace",
            Self::Mesh => "mesh",
            Self::Host => "this host's meshConfig.trafficPolicy",
        }
    }
}

/// Which policy of which document.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RuleName {
    /// The document's namespace.
    pub namespace: Label,
    /// Its name.
    pub document: Label,
    /// The policy's name in it.
    pub policy: Label,
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}#{}", self.namespace, self.document, self.policy)
    }
}

/// What a policy does, with its name and what it is about.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule<T> {
    /// Its name, for people.
    pub name: RuleName,
    /// How near it is.
    pub level: Level,
    /// Which requests it is about.
    pub matches: Match,
    /// What it does.
    pub does: T,
}

impl<T> Rule<T> {
    fn is_about(&self, request: Option<&Request<'_>>) -> bool {
        match request {
            Some(request) => self.matches.covers(request),
            None => self.matches.is_all(),
        }
    }
}

/// Rules of one type, in the order in which they are asked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ordered<T>(Vec<Rule<T>>);

impl<T> Default for Ordered<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T> Ordered<T> {
    /// The one that holds for a request; for bytes, where there is none.
    pub fn first(&self, request: Option<&Request<'_>>) -> Option<&Rule<T>> {
        self.0.iter().find(|rule| rule.is_about(request))
    }

    /// All that match.
    pub fn all<'a>(
        &'a self,
        request: Option<&'a Request<'a>>,
    ) -> impl Iterator<Item = &'a Rule<T>> {
        self.0.iter().filter(move |rule| rule.is_about(request))
    }

    /// All there are.
    pub fn iter(&self) -> impl Iterator<Item = &Rule<T>> {
        self.0.iter()
    }
}

/// A rule in words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// Its type.
    pub kind: TypeName,
    /// Which one.
    pub name: RuleName,
    /// How near it is.
    pub level: Level,
    /// Which requests it is about.
    pub matches: String,
    /// What it does.
    pub does: String,
    /// Whether it holds for what was asked.
    pub holds: bool,
}

/// How the connections to a port are carried.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Reads {
    /// As bytes, whatever they are.
    Bytes,
    /// As requests.
    Requests,
    /// As requests if the first bytes are one's, else as bytes.
    Sniffed,
}

impl Reads {
    /// The words of the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Bytes => "bytes",
            Self::Requests => "requests",
            Self::Sniffed => "requests, where the first bytes are HTTP",
        }
    }
}

/// All that holds for one port of one service.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ServiceRules {
    /// Where requests go.
    pub routes: Ordered<Route>,
    /// Shares.
    pub splits: Ordered<Split>,
    /// How endpoints share the calls.
    pub balances: Ordered<Balance>,
    /// Tiers.
    pub localities: Ordered<Locality>,
    /// Retries.
    pub retries: Ordered<Retry>,
    /// Timeouts.
    pub timeouts: Ordered<Timeout>,
    /// Bounds.
    pub circuit_breaks: Ordered<CircuitBreak>,
    /// Outliers.
    pub ejects: Ordered<Eject>,
    /// Rates; all that match hold.
    pub rate_limits: Ordered<RateLimit>,
    /// Copies; all that match hold.
    pub mirrors: Ordered<Mirror>,
    /// Faults on purpose; all that match hold.
    pub faults: Ordered<Fault>,
    /// Hedges.
    pub hedges: Ordered<Hedge>,
    needs_http: bool,
    any: bool,
}

impl ServiceRules {
    /// Whether requests must be read for these rules to hold. Where not, a service is carried as
    /// bytes and never parsed.
    pub fn need_http(&self) -> bool {
        self.needs_http
    }

    /// How connections to a port that declares so much are carried. `asked` says whether something
    /// else wants to see requests: an AccessPolicy, a gateway.
    pub fn reads(&self, protocol: Protocol, asked: bool) -> Reads {
        match protocol {
            Protocol::Tcp => Reads::Bytes,
            // A rule that bytes could keep too is kept for each request where there are some.
            Protocol::Http | Protocol::Http2 | Protocol::Grpc => match self.any || asked {
                true => Reads::Requests,
                false => Reads::Bytes,
            },
            Protocol::Sniff => match self.needs_http || asked {
                true => Reads::Sniffed,
                false => Reads::Bytes,
            },
        }
    }

    /// What keeps calls together for ring-hash: what a rule's key says of that request, else who
    /// calls.
    pub fn affinity(&self, request: Option<&Request<'_>>, source: u64) -> u64 {
        let key = self.balances.first(request).and_then(|rule| rule.does.key.as_ref());
        key.and_then(|key| key.affinity(request, source)).unwrap_or(source)
    }

    /// What the rules say about choosing an endpoint, for that request or for bytes.
    pub fn tuning(&self, request: Option<&Request<'_>>) -> Tuning {
        let usual = Tuning::default();
        let locality = self.localities.first(request);
        Tuning {
            algorithm: self
                .balances
                .first(request)
                .map_or(usual.algorithm, |rule| rule.does.algorithm),
            tiers: locality.map_or(usual.tiers, |rule| rule.does.prefer.clone()),
            spill: locality.map_or(usual.spill, |rule| rule.does.spill),
            eject: self.ejects.first(request).map_or(usual.eject, |rule| rule.does),
        }
    }

    /// Every rule in words, type by type, in the order in which each type is asked; and which of
    /// them hold for that request, or for bytes.
    pub fn listed(&self, request: Option<&Request<'_>>) -> Vec<Listed> {
        let mut all = Vec::new();
        macro_rules! list {
            ($rules:ident, $kind:ident, $every:expr) => {
                let mut found = false;
                for rule in self.$rules.iter() {
                    let holds = rule.is_about(request) && ($every || !found);
                    found |= holds;
                    all.push(Listed {
                        kind: TypeName::$kind,
                        name: rule.name.clone(),
                        level: rule.level,
                        matches: rule.matches.to_string(),
                        does: rule.does.to_string(),
                        holds,
                    });
                }
            };
        }
        list!(faults, Fault, true);
        list!(routes, Route, false);
        list!(splits, Split, false);
        list!(mirrors, Mirror, true);
        list!(timeouts, Timeout, false);
        list!(retries, Retry, false);
        list!(hedges, Hedge, false);
        list!(localities, Locality, false);
        list!(balances, Balance, false);
        list!(ejects, Eject, false);
        list!(circuit_breaks, CircuitBreak, false);
        list!(rate_limits, RateLimit, true);
        all
    }

    fn add(&mut self, name: &RuleName, level: Level, policy: &TrafficPolicy) {
        self.any = true;
        self.needs_http |= policy.needs_http();
        macro_rules! push {
            ($list:ident, $does:expr) => {
                self.$list.0.push(Rule {
                    name: name.clone(),
                    level,
                    matches: policy.matches.clone(),
                    does: $does.clone(),
                })
            };
        }
        match &policy.action {
            Action::Route(does) => push!(routes, does),
            Action::Split(does) => push!(splits, does),
            Action::Balance(does) => push!(balances, does),
            Action::Locality(does) => push!(localities, does),
            Action::Retry(does) => push!(retries, does),
            Action::Timeout(does) => push!(timeouts, does),
            Action::CircuitBreak(does) => push!(circuit_breaks, does),
            Action::Eject(does) => push!(ejects, does),
            Action::RateLimit(does) => push!(rate_limits, does),
            Action::Mirror(does) => push!(mirrors, does),
            Action::Fault(does) => push!(faults, does),
            Action::Hedge(does) => push!(hedges, does),
        }
    }
}

/// Where a policy stands among those of one destination: namespace, document, position.
type Place = (Label, Label, usize);

/// In which order policies are asked: least first.
type Rank = (Level, Reverse<Specificity>, Place);

#[derive(Clone, PartialEq, Eq, Debug)]
struct Entry {
    document: DocumentId,
    position: usize,
    policy: TrafficPolicy,
}

impl Entry {
    fn place(&self) -> Place {
        (self.document.namespace.clone(), self.document.name.clone(), self.position)
    }
}

/// All traffic policies of the mesh, as this host applies them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TrafficRules {
    entries: Vec<Entry>,
    host: Option<DocumentId>,
}

impl TrafficRules {
    /// The rules of these documents. Of several heads of one the last is in force. `host` is the
    /// document whose `*` and `*/*` policies hold on this host after all others.
    pub fn new(heads: &Heads, host: Option<DocumentId>) -> Self {
        let mut entries = Vec::new();
        for (document, heads) in heads {
            let Some(Content::Traffic(traffic)) = heads.last().map(|head| &head.content) else {
                continue;
            };
            for (position, policy) in traffic.policies.iter().enumerate() {
                let (document, policy) = (document.clone(), policy.clone());
                entries.push(Entry { document, position, policy });
            }
        }
        Self { entries, host }
    }

    /// Whether nothing is said about anything.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What holds for calls to that port of that service.
    pub fn of(&self, service: &ServiceName, port: u16) -> ServiceRules {
        let mut meant: Vec<(Rank, &Entry)> = Vec::new();
        for entry in &self.entries {
            let policy = &entry.policy;
            if policy.port.is_some_and(|wanted| wanted != port) {
                continue;
            }
            if let Some(level) = self.level(entry, service) {
                let fit = Reverse(policy.matches.specificity());
                meant.push(((level, fit, entry.place()), entry));
            }
        }
        meant.sort_by(|one, other| one.0.cmp(&other.0));
        let mut rules = ServiceRules::default();
        for ((level, _, _), Entry { document, policy, .. }) in meant {
            let name = RuleName {
                namespace: document.namespace.clone(),
                document: document.name.clone(),
                policy: policy.name.clone(),
            };
            rules.add(&name, level, policy);
        }
        rules
    }

    /// Another document's policy that is about just the same as one of `policies`: only one of
    /// two can be applied.
    pub fn clash<'a>(
        &'a self,
        document: &DocumentId,
        policies: &'a [TrafficPolicy],
    ) -> Option<(&'a TrafficPolicy, RuleName)> {
        policies.iter().find_map(|policy| {
            let other = self
                .entries
                .iter()
                .find(|entry| entry.document != *document && entry.policy.clashes(policy))?;
            let name = RuleName {
                namespace: other.document.namespace.clone(),
                document: other.document.name.clone(),
                policy: other.policy.name.clone(),
            };
            Some((policy, name))
        })
    }

    fn level(&self, entry: &Entry, service: &ServiceName) -> Option<Level> {
        match &entry.policy.destination {
            Destination::Service(name) if name == service => match entry.policy.port {
                Some(_) => Some(Level::Port),
                None => Some(Level::Service),
            },
            Destination::Service(_) => None,
            _ if self.host.as_ref() == Some(&entry.document) => Some(Level::Host),
            Destination::Namespace(name) => {
                (name == service.namespace()).then_some(Level::Namespace)
            }
            Destination::Mesh => Some(Level::Mesh),
        }
    }
}

/// Documents by the manifest language, for tests here and beside.
#[cfg(test)]
pub(crate) fn heads_of(documents: &[(&str, &str)]) -> Heads {
    let mut heads = Heads::new();
    for (name, policies) in documents {
        let text = format!(
            "apiVersion: skein/v1\nkind: TrafficManagement\n\
             metadata: {{name: {name}, namespace: shop}}\nspec: {{trafficPolicies: [{policies}]}}"
        );
        let parsed = crate::manifest::parse("t", &text, &crate::manifest::Inputs::default());
        let document = parsed.unwrap_or_else(|faults| panic!("{faults}")).remove(0);
        let crate::manifest::Body::Traffic(traffic) = document.body else { panic!() };
        let head = super::Head {
            generation: 1,
            version: crate::name::Hash([0; 32]),
            content: Content::Traffic(std::sync::Arc::new(traffic)),
        };
        heads.insert(document.id, vec![head]);
    }
    heads
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::route::Algorithm;

    fn web() -> ServiceName {
        "shop/web".parse().unwrap()
    }

    #[test]
    fn requests_are_read_where_a_rule_or_a_policy_is_about_them_and_nowhere_else() {
        let rules = |policy: &str| {
            let policies = format!("{{name: p, trafficPolicy: {{destination: web, {policy}}}}}");
            TrafficRules::new(&heads_of(&[("t", &policies)]), None).of(&web(), 80)
        };
        let (none, plain) = (ServiceRules::default(), rules("type: Timeout, connect: 1s"));
        let needs = rules("type: Timeout, request: 1s");
        for (rules, asked, http, sniffed) in [
            (&none, false, Reads::Bytes, Reads::Bytes),
            (&none, true, Reads::Requests, Reads::Sniffed),
            (&plain, false, Reads::Requests, Reads::Bytes),
            (&needs, false, Reads::Requests, Reads::Sniffed),
        ] {
            assert_eq!(rules.reads(Protocol::Tcp, asked), Reads::Bytes);
            assert_eq!(rules.reads(Protocol::Grpc, asked), http);
            assert_eq!(rules.reads(Protocol::Sniff, asked), sniffed);
        }
    }

    fn named(rule: Option<&Rule<impl Sized>>) -> Option<String> {
        rule.map(|rule| rule.name.to_string())
    }

    #[test]
    fn the_nearest_level_holds_whole() {
        let heads = heads_of(&[
            (
                "mesh",
                "{name: p, trafficPolicy: {destination: '*/*', type: Timeout, request: 9s, connect: 9s}}",
            ),
            ("space", "{name: p, trafficPolicy: {destination: '*', type: Timeout, request: 8s}}"),
            ("svc", "{name: p, trafficPolicy: {destination: web, type: Timeout, idle: 7s}}"),
            (
                "port",
                "{name: p, trafficPolicy: {destination: web, destinationPort: 80, type: Timeout, connect: 6s}}",
            ),
        ]);
        let rules = TrafficRules::new(&heads, None);
        let held = |service: &str, port| {
            let rules = rules.of(&service.parse().unwrap(), port);
            named(rules.timeouts.first(None)).unwrap()
        };
        assert_eq!(held("shop/web", 80), "shop/port#p");
        assert_eq!(held("shop/web", 81), "shop/svc#p");
        assert_eq!(held("shop/db", 80), "shop/space#p");
        assert_eq!(held("ops/db", 80), "shop/mesh#p");
        let nearest = rules.of(&web(), 80);
        let rule = nearest.timeouts.first(None).unwrap();
        assert_eq!((rule.does.request, rule.does.idle), (None, None), "never field by field");
    }

    #[test]
    fn the_hosts_own_document_holds_last() {
        let policy = |algorithm| {
            format!(
                "{{name: p, trafficPolicy: {{destination: '*', type: Balance, algorithm: {algorithm}}}}}"
            )
        };
        let (mine, others) = (policy("random"), policy("round-robin"));
        let both = heads_of(&[("a-host", &mine), ("z", &others)]);
        let host = || heads_of(&[("a-host", &mine)]).into_keys().next();
        let algorithm =
            |heads: &Heads| TrafficRules::new(heads, host()).of(&web(), 80).tuning(None).algorithm;
        assert_eq!(algorithm(&both), Algorithm::RoundRobin);
        assert_eq!(algorithm(&heads_of(&[("a-host", &mine)])), Algorithm::Random);
        assert_eq!(algorithm(&Heads::new()), Algorithm::PeakEwma);
    }

    #[test]
    fn within_a_level_the_better_match_then_the_name_then_the_position() {
        let route = |name: &str, rest: &str| {
            format!(
                "{{name: {name}, trafficPolicy: {{destination: web, type: Route, target: x{rest}}}}}"
            )
        };
        let heads = heads_of(&[
            ("b", &route("all", "")),
            (
                "c",
                &format!(
                    "{}, {}",
                    route("long", ", match: {prefix: /v1/a}"),
                    route("short", ", match: {prefix: /v1}")
                ),
            ),
            ("d", &route("exact", ", match: {path: /v1/a}")),
            ("a", &route("header", ", match: {headers: {x-user: eve}}")),
        ]);
        let rules = TrafficRules::new(&heads, None).of(&web(), 80);
        let held = |path, headers| {
            let request = Request { method: "GET", path, query: "", headers };
            named(rules.routes.first(Some(&request))).unwrap()
        };
        assert_eq!(held("/v1/a", &[]), "shop/d#exact");
        assert_eq!(held("/v1/a/b", &[]), "shop/c#long");
        assert_eq!(held("/v1/b", &[("x-user", "eve")]), "shop/c#short");
        assert_eq!(held("/", &[("x-user", "eve")]), "shop/a#header");
        assert_eq!(held("/", &[]), "shop/b#all");
        assert_eq!(named(rules.routes.first(None)).unwrap(), "shop/b#all", "bytes match nothing");
        assert!(rules.need_http());
    }

    #[test]
    fn mirrors_limits_and_faults_all_hold() {
        let limit = |what: &str| {
            format!(
                "{{name: {what}, trafficPolicy: {{destination: {what}, type: RateLimit, rate: 9/s}}}}"
            )
        };
        let heads = heads_of(&[
            ("one", &limit("web")),
            ("two", &limit("'*'").replace("name: '*'", "name: wide")),
        ]);
        let rules = TrafficRules::new(&heads, None).of(&web(), 80);
        assert_eq!(rules.rate_limits.all(None).count(), 2);
        assert!(!rules.need_http(), "a rate can be held for bytes");
    }

    #[test]
    fn a_policy_about_the_same_in_another_document_is_found() {
        let heads = heads_of(&[
            ("one", "{name: p, trafficPolicy: {destination: web, type: Retry, attempts: 1}}"),
            ("two", "{name: q, trafficPolicy: {destination: web, type: Retry, attempts: 2}}"),
        ]);
        let [(one, _), (two, head)] = heads.iter().collect::<Vec<_>>()[..] else { panic!() };
        let Content::Traffic(traffic) = &head[0].content else { panic!() };
        let rules = TrafficRules::new(&heads, None);
        let (policy, first) = rules.clash(two, &traffic.policies).unwrap();
        assert_eq!((policy.name.as_str(), first.to_string().as_str()), ("q", "shop/one#p"));
        let only: Heads = [(one.clone(), heads[one].clone())].into();
        let itself = &TrafficRules::new(&only, None);
        assert!(
            itself.clash(one, &traffic.policies).is_none(),
            "an edit does not clash with itself"
        );
    }
}
