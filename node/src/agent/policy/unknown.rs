//! Before a rule closes something: whether this agent can know what it would cut.
//!
//! Calls are known where they were served. Who forgot them, or does not answer, may serve a call
//! that nobody else saw: then the rule is signed only by who says so.

use std::{collections::BTreeSet, time::Duration};

use skein_protocol::{
    name::{NodeName, ServiceName},
    policy::{AccessRules, access::What},
    view::View,
    wire::ask::{Answer, Ask},
    words,
};

use super::{super::show::Agent, LIVE, named};

/// Callers that are looked at for each service, at most: with more of them a document is held for
/// one that closes.
const CALLERS: usize = 128;

impl Agent {
    /// Who may serve calls that these rules would cut, and cannot say so: a line for each. None where
    /// they close nothing that is open now.
    pub(super) async fn unknown_calls(&self, next: &AccessRules) -> Vec<String> {
        let now = std::sync::Arc::clone(&self.policy.borrow());
        if !closes(&now.access, next, &self.view()) {
            return Vec::new();
        }
        let own = self.settings.name(&self.credentials);
        let mut lines: Vec<String> =
            self.edges.known_for().and_then(|of| ignorant(&own, of)).into_iter().collect();
        for (node, answer) in self.ask_all(Ask::CallsKnown).await {
            let name = self.name_of(&node);
            lines.extend(match answer {
                Ok(Answer::CallsKnown(seconds)) => {
                    seconds.and_then(|s| ignorant(&name, Duration::from_secs(s.into())))
                }
                Ok(_) => Some(format!("{name} does not say who calls it: another answer")),
                Err(why) => Some(format!("{name} does not say who calls it: {why}")),
            });
        }
        lines
    }
}

/// A host whose memory of calls is shorter than what counts.
fn ignorant(name: &str, known: Duration) -> Option<String> {
    (known < LIVE).then(|| format!("{name} knows calls only since {} ago", words::span(known)))
}

/// Whether some call that is let in now would not be: by the callers and services that are known
/// here, and by one that nobody knows.
pub(super) fn closes(now: &AccessRules, next: &AccessRules, view: &View) -> bool {
    if now == next {
        return false;
    }
    let stranger: Option<ServiceName> = "unknown/unknown".parse().ok();
    let services: BTreeSet<(&ServiceName, &NodeName)> = view
        .services
        .values()
        .flat_map(|one| one.endpoints.iter().map(|at| (&one.name, &at.node.name)))
        .collect();
    let nodes: BTreeSet<&NodeName> = view.nodes.values().map(|node| &node.name).collect();
    if services.len() > CALLERS || nodes.len() > CALLERS {
        return true;
    }
    view.services.values().any(|service| {
        let ports = service.ports.iter().map(|port| port.port);
        ports.into_iter().any(|port| {
            let what = What { service: &service.name, port, request: None };
            let cut = |source: Option<&ServiceName>, node: Option<&NodeName>, outside| {
                let who = named(source, node, outside);
                now.decide(&who, &what).allowed && !next.decide(&who, &what).allowed
            };
            services.iter().any(|(source, node)| cut(Some(source), Some(node), false))
                || nodes.iter().any(|node| cut(None, Some(node), false))
                || cut(stranger.as_ref(), None, false)
                || cut(None, None, true)
        })
    })
}
