//! Policy at this host: who may call what runs here, decided by the documents of the mesh.
//!
//! In:    calls, as the proxy authenticated them; documents and views as they change.
//! Out:   yes or no with the rule's name; the edges that were seen; what peers say of theirs.
//! Never: asks a peer in order to decide.

pub(super) mod ask;
mod edges;
mod revoke;
pub(super) mod roots;
mod routes;
pub(super) mod show;
pub(super) mod sign;
mod unknown;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use skein_protocol::{
    manifest::DocumentId,
    name::{NodeName, ServiceName, ServicePattern},
    policy::{
        Policy,
        access::{Because, Decision, What, Who},
        traffic::TrafficRules,
    },
    trust::Role,
    view::{Liveness, View},
    wire::stream::{Source, StreamHead},
};
use tokio::sync::watch;

pub(crate) use self::edges::Edges;
use crate::{
    link::mux::BoxFuture,
    proxy::{Authorise, Behave, PeerIdentity, Requested, Traffic},
    telemetry::metrics::Metrics,
};

/// Decides calls.
pub(super) struct Rules {
    policy: watch::Receiver<Arc<Policy>>,
    view: watch::Receiver<Arc<View>>,
    edges: Arc<Edges>,
    metrics: Arc<Metrics>,
}

impl Rules {
    pub(super) fn new(
        policy: watch::Receiver<Arc<Policy>>,
        view: watch::Receiver<Arc<View>>,
        metrics: Arc<Metrics>,
        edges: Arc<Edges>,
    ) -> Self {
        Self { policy, view, edges, metrics }
    }

    fn decide(
        &self,
        caller: &PeerIdentity,
        head: &StreamHead,
        request: Option<Requested<'_>>,
    ) -> Decision {
        let policy = Arc::clone(&self.policy.borrow());
        if policy.access.is_empty() {
            // Who calls need not be known: looking for a twin of its name costs a look at every node.
            return Decision { allowed: true, because: Because::Open, audit: None };
        }
        let view = Arc::clone(&self.view.borrow());
        let who = who(caller, head, &view);
        policy.access.decide(&who, &what(head, request))
    }
}

/// How traffic behaves: the documents in force, and the one that holds on this host last. Compiled
/// when they have changed and a call asks, so that no call goes by what was replaced.
pub(super) struct Behaviour {
    policy: watch::Receiver<Arc<Policy>>,
    host: watch::Receiver<Option<DocumentId>>,
    held: Mutex<(Arc<Policy>, Option<DocumentId>, Arc<Traffic>)>,
}

impl Behaviour {
    pub(super) fn new(
        policy: watch::Receiver<Arc<Policy>>,
        host: watch::Receiver<Option<DocumentId>>,
    ) -> Self {
        let held = compiled(&policy.borrow(), &host.borrow());
        Self { policy, host, held: Mutex::new(held) }
    }
}

fn compiled(
    policy: &Arc<Policy>,
    host: &Option<DocumentId>,
) -> (Arc<Policy>, Option<DocumentId>, Arc<Traffic>) {
    let rules = TrafficRules::new(&policy.documents.in_force(), host.clone());
    (Arc::clone(policy), host.clone(), Arc::new(Traffic::new(rules)))
}

impl Behave for Behaviour {
    fn now(&self) -> Arc<Traffic> {
        let (policy, host) = (Arc::clone(&self.policy.borrow()), self.host.borrow());
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&held.0, &policy) || held.1 != *host {
            *held = compiled(&policy, &host);
        }
        Arc::clone(&held.2)
    }
}

/// Who calls, as far as it was proven: the proxy has held the source against the grant.
fn who<'a>(caller: &'a PeerIdentity, head: &'a StreamHead, view: &View) -> Who<'a> {
    let name = &caller.grant.name;
    let twice = view.nodes.values().any(|node| {
        let lives = matches!(node.liveness, Liveness::Alive | Liveness::Suspect);
        node.name == *name && node.key != caller.key && node.certified && lives
    });
    let service = match &head.source {
        Source::Service(service) => Some(service),
        Source::Node => None,
    };
    // Only a gateway carries for others, who are none of its own services.
    let carries = head.outside() && caller.grant.roles.contains(&Role::Gateway);
    let could_be: &[ServicePattern] =
        if service.is_some() || carries { &[] } else { &caller.grant.services };
    Who { service, node: Some(name), outside: head.outside(), twice, could_be }
}

fn what<'a>(head: &'a StreamHead, request: Option<Requested<'a>>) -> What<'a> {
    let request = request.map(|request| (request.method, request.path));
    What { service: &head.destination, port: head.port, request }
}

/// Why a call is denied, for the logs of both sides. It says what to do where the caller might
/// have been somebody.
pub(crate) fn denial(who: &Who<'_>, service: &ServiceName, decision: &Decision) -> String {
    let hint = match (who.service, who.node) {
        (None, Some(node)) => {
            format!(". The caller proved only node {node}: give its document `workload:`")
        }
        _ => String::new(),
    };
    format!("{who} may not call {service}: {}{hint}", decision.because)
}

impl Authorise for Rules {
    fn authorise(
        &self,
        caller: &PeerIdentity,
        head: &StreamHead,
        request: Option<Requested<'_>>,
    ) -> Result<(), String> {
        let decision = self.decide(caller, head, request);
        self.edges.saw(&caller.grant.name, head, decision.allowed);
        if let Some(document) = decision.because.document() {
            self.metrics.decided(&document.to_string(), word(decision.allowed));
        }
        if let Some(audit) = &decision.audit {
            let (who, rule) = (head.source.to_string(), audit.rule());
            let would = word(!decision.allowed);
            self.metrics.decided(
                &audit.document().map(ToString::to_string).unwrap_or_default(),
                match decision.allowed {
                    true => "would_deny",
                    false => "would_allow",
                },
            );
            tracing::info!(source = who, node = %caller.grant.name, destination = %head.destination, rule, would, "audit");
        }
        if decision.allowed {
            return Ok(());
        }
        let view = Arc::clone(&self.view.borrow());
        Err(denial(&who(caller, head, &view), &head.destination, &decision))
    }

    fn forbidden<'a>(
        &'a self,
        caller: &'a PeerIdentity,
        head: &'a StreamHead,
        request: Option<Requested<'a>>,
    ) -> BoxFuture<'a, String> {
        let mut policy = self.policy.clone();
        let _open = self.edges.open(&caller.grant.name, head);
        Box::pin(async move {
            let _open = _open;
            loop {
                if policy.changed().await.is_err() {
                    // The driver has ended, and so does this agent.
                    std::future::pending::<()>().await;
                }
                let decision = self.decide(caller, head, request);
                if !decision.allowed {
                    let view = Arc::clone(&self.view.borrow());
                    return denial(&who(caller, head, &view), &head.destination, &decision);
                }
            }
        })
    }

    fn reads_requests(&self, service: &ServiceName) -> bool {
        self.policy.borrow().access.need_http(service)
    }
}

fn word(allowed: bool) -> &'static str {
    if allowed { "allow" } else { "deny" }
}

/// An edge seen within this is live.
pub(crate) const LIVE: Duration = Duration::from_secs(86_400);

/// A caller of whom only this is known.
pub(crate) fn named<'a>(
    service: Option<&'a ServiceName>,
    node: Option<&'a NodeName>,
    outside: bool,
) -> Who<'a> {
    Who { service, node, outside, twice: false, could_be: &[] }
}
