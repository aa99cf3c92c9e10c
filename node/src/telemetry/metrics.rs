//! Metrics: counters and gauges in the text format of OpenMetrics, with bounded labels.
//!
//! A service's name becomes a label only while the registry knows it
//! ([`Metrics::set_services`]), at most `METRIC_SERVICES` of them; every other name counts as
//! `other`, and the series of a service that is gone are dropped.

use std::{collections::BTreeSet, fmt, sync::Arc, sync::atomic::AtomicU64, time::Duration};

use arc_swap::ArcSwap;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};
use skein_protocol::{limits, name::ServiceName, route::CloseReason};

use super::access::{Access, Side};

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct OfService {
    side: &'static str,
    service: String,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct OfEnd {
    side: &'static str,
    service: String,
    end: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct OfWord {
    kind: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct OfRule {
    rule: String,
    decision: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct OfState {
    state: &'static str,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug, EncodeLabelSet)]
struct Build {
    version: &'static str,
}

type Seconds = Gauge<f64, AtomicU64>;

/// All numbers of an agent. Shared by `Arc`; every method is cheap and takes `&self`.
pub struct Metrics {
    registry: Registry,
    known: ArcSwap<BTreeSet<String>>,
    open: Family<OfService, Gauge>,
    ended: Family<OfEnd, Counter>,
    bytes_in: Family<OfService, Counter>,
    bytes_out: Family<OfService, Counter>,
    connect: Family<OfService, Histogram, fn() -> Histogram>,
    members: Family<OfState, Gauge>,
    links: Family<OfWord, Gauge>,
    blame: Family<OfWord, Counter>,
    decisions: Family<OfRule, Counter>,
    ignored: Family<OfWord, Counter>,
    log_dropped: Counter,
    view_age: Seconds,
    certificate_left: Seconds,
    problems: Gauge,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("skein"),
            known: ArcSwap::default(),
            open: Family::default(),
            ended: Family::default(),
            bytes_in: Family::default(),
            bytes_out: Family::default(),
            connect: Family::new_with_constructor(connect_buckets),
            members: Family::default(),
            links: Family::default(),
            blame: Family::default(),
            decisions: Family::default(),
            ignored: Family::default(),
            log_dropped: Counter::default(),
            view_age: Seconds::default(),
            certificate_left: Seconds::default(),
            problems: Gauge::default(),
        };
        metrics.register_traffic();
        metrics.register_mesh();
        metrics
    }

    fn register_traffic(&mut self) {
        let r = &mut self.registry;
        r.register("connections_open", "Connections open now", self.open.clone());
        r.register("connections", "Connections that ended, and how", self.ended.clone());
        let help = "Bytes from callers";
        r.register_with_unit("received", help, Unit::Bytes, self.bytes_in.clone());
        let help = "Bytes to callers";
        r.register_with_unit("sent", help, Unit::Bytes, self.bytes_out.clone());
        let help = "Until the serving side said ok";
        r.register_with_unit("connect", help, Unit::Seconds, self.connect.clone());
        let help = "Lines of the access log that were not written";
        r.register("access_log_dropped", help, self.log_dropped.clone());
    }

    fn register_mesh(&mut self) {
        let r = &mut self.registry;
        r.register("members", "Members by state", self.members.clone());
        r.register("links", "Links to other agents by role", self.links.clone());
        r.register("blame", "Faults of peers by kind", self.blame.clone());
        let help = "Records that changed nothing, though they were new to the link";
        r.register("records_ignored", help, self.ignored.clone());
        let help = "Calls that an AccessPolicy decided here";
        r.register("policy_decisions", help, self.decisions.clone());
        r.register("problems", "Problems that status shows", self.problems.clone());
        let help = "Since the view was last known to be current";
        r.register_with_unit("view_age", help, Unit::Seconds, self.view_age.clone());
        let help = "Until this node's certificate ends";
        let left = self.certificate_left.clone();
        r.register_with_unit("certificate_left", help, Unit::Seconds, left);
        let build = Family::<Build, Gauge>::default();
        let version = env!("CARGO_PKG_VERSION");
        build.get_or_create(&Build { version }).set(1);
        r.register("build", "The agent's version", build);
    }

    /// The services that the registry knows: the only names that become labels. Series of others
    /// are dropped.
    pub fn set_services<'a>(&self, services: impl IntoIterator<Item = &'a ServiceName>) {
        let known: BTreeSet<String> =
            services.into_iter().take(limits::METRIC_SERVICES).map(ToString::to_string).collect();
        let before = self.known.swap(Arc::new(known.clone()));
        for gone in before.difference(&known) {
            self.forget(gone);
        }
    }

    fn forget(&self, service: &str) {
        for side in [Side::Outbound, Side::Inbound] {
            let of = OfService { side: side.word(), service: service.to_owned() };
            self.bytes_in.remove(&of);
            self.bytes_out.remove(&of);
            self.connect.remove(&of);
            for end in CloseReason::ALL {
                self.ended.remove(&of.ended(end));
            }
            // A connection that is still open keeps its gauge, else it would go below zero.
            if self.open.get_or_create(&of).get() == 0 {
                self.open.remove(&of);
            }
        }
    }

    fn label(&self, side: Side, service: &str) -> OfService {
        let known = self.known.load().contains(service);
        OfService { side: side.word(), service: if known { service } else { OTHER }.to_owned() }
    }

    /// A connection opens. It counts as open until the guard is dropped.
    pub fn opened(&self, side: Side, service: &str) -> Open {
        let gauge = self.open.get_or_create(&self.label(side, service)).clone();
        gauge.inc();
        Open(gauge)
    }

    /// A connection ended.
    pub fn ended(&self, access: &Access) {
        let of = self.label(access.side, &access.service);
        self.ended.get_or_create(&of.ended(access.end)).inc();
        self.bytes_in.get_or_create(&of).inc_by(access.bytes_in);
        self.bytes_out.get_or_create(&of).inc_by(access.bytes_out);
        if access.connect_us > 0 {
            let seconds = Duration::from_micros(access.connect_us).as_secs_f64();
            self.connect.get_or_create(&of).observe(seconds);
        }
    }

    /// Members by state; `state` is a word of `Liveness`.
    pub fn set_members(&self, state: &'static str, count: usize) {
        set(&self.members.get_or_create_owned(&OfState { state }), count);
    }

    /// Links by role; `role` is `control` or `data`.
    pub fn set_links(&self, role: &'static str, count: usize) {
        set(&self.links.get_or_create_owned(&OfWord { kind: role }), count);
    }

    /// A record was not taken, and nobody is to blame.
    pub fn ignored(&self, kind: &'static str) {
        self.ignored.get_or_create(&OfWord { kind }).inc();
    }

    /// An AccessPolicy decided a call. Documents are signed by operators and bounded in number,
    /// so their names may be labels.
    pub fn decided(&self, rule: &str, decision: &'static str) {
        self.decisions.get_or_create(&OfRule { rule: rule.to_owned(), decision }).inc();
    }

    /// A peer did what it must not; `kind` is one of the closed set of faults.
    pub fn blamed(&self, kind: &'static str) {
        self.blame.get_or_create(&OfWord { kind }).inc();
    }

    /// How old the view is.
    pub fn set_view_age(&self, age: Duration) {
        self.view_age.set(age.as_secs_f64());
    }

    /// Until this node's certificate ends; negative when past it.
    pub fn set_certificate_left(&self, seconds: f64) {
        self.certificate_left.set(seconds);
    }

    /// How many problems `status` shows.
    pub fn set_problems(&self, count: usize) {
        set(&self.problems, count);
    }

    /// Counts lines of the access log that were not written: for [`super::access::AccessLog`].
    pub fn access_log_dropped(&self) -> Counter {
        self.log_dropped.clone()
    }

    /// The text that `/metrics` answers.
    pub fn text(&self) -> String {
        let mut text = String::new();
        match encode(&mut text, &self.registry) {
            Ok(()) => text,
            Err(fmt::Error) => String::from("# EOF\n"),
        }
    }
}

impl OfService {
    fn ended(&self, end: CloseReason) -> OfEnd {
        OfEnd { side: self.side, service: self.service.clone(), end: end.word() }
    }
}

/// A connection that counts as open while this lives.
#[derive(Debug)]
pub struct Open(Gauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

fn set(gauge: &Gauge, count: usize) {
    gauge.set(i64::try_from(count).unwrap_or(i64::MAX));
}

/// 12 buckets from a same-host call to the reply timeout and beyond.
fn connect_buckets() -> Histogram {
    Histogram::new([
        0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0,
    ])
}

/// The label of names that the registry does not know. No service can have it: it has no `/`.
const OTHER: &str = "other";

#[cfg(test)]
mod tests {
    use super::*;

    fn access(service: &str, end: CloseReason) -> Access {
        Access {
            at_ms: 1,
            side: Side::Inbound,
            service: service.into(),
            port: 80,
            source: "node web-1".into(),
            endpoint: String::new(),
            request: None,
            end,
            detail: String::new(),
            bytes_in: 10,
            bytes_out: 20,
            connect_us: 300,
            took_ms: 4,
            tries: 1,
        }
    }

    fn names(of: &[&str]) -> Vec<ServiceName> {
        of.iter().map(|n| n.parse().unwrap()).collect()
    }

    #[test]
    fn names_that_the_registry_does_not_know_are_one_label() {
        let metrics = Metrics::new();
        metrics.set_services(&names(&["shop/web"]));
        metrics.ended(&access("shop/web", CloseReason::Done));
        for i in 0..100 {
            metrics.ended(&access(&format!("evil/{i}"), CloseReason::NoService));
        }
        let text = metrics.text();
        assert!(!text.contains("evil"), "{text}");
        let line =
            "skein_connections_total{side=\"inbound\",service=\"other\",end=\"no_service\"} 100";
        assert!(text.contains(line), "{text}");
        let line = "skein_received_bytes_total{side=\"inbound\",service=\"shop/web\"} 10";
        assert!(text.contains(line), "{text}");
    }

    #[test]
    fn series_of_a_service_that_is_gone_are_dropped() {
        let metrics = Metrics::new();
        metrics.set_services(&names(&["shop/web", "shop/db"]));
        metrics.ended(&access("shop/web", CloseReason::Done));
        metrics.ended(&access("shop/db", CloseReason::Done));
        let open = metrics.opened(Side::Inbound, "shop/web");
        metrics.set_services(&names(&["shop/db"]));
        let text = metrics.text();
        assert!(!text.contains("end=\"done\"} 2") && text.contains("shop/db"));
        assert!(text.contains("skein_connections_open{side=\"inbound\",service=\"shop/web\"} 1"));
        drop(open);
        metrics.set_services(&names(&["shop/web"]));
        metrics.set_services(&names(&["shop/db"]));
        assert!(!metrics.text().contains("shop/web"), "{}", metrics.text());
    }

    #[test]
    fn an_open_connection_counts_until_it_is_dropped() {
        let metrics = Metrics::new();
        let open = metrics.opened(Side::Outbound, "a/b");
        assert!(metrics.text().contains("service=\"other\"} 1"));
        drop(open);
        assert!(metrics.text().contains("service=\"other\"} 0"));
        metrics.set_members("alive", 3);
        metrics.blamed("bad_signature");
        let text = metrics.text();
        assert!(text.contains("skein_members{state=\"alive\"} 3"));
        assert!(text.contains("skein_blame_total{kind=\"bad_signature\"} 1"));
        assert!(text.ends_with("# EOF\n"));
    }
}
