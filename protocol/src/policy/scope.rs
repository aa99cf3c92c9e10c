//! How far a document reaches, held against what its operator may write.
//!
//! In:    an operator's [`Scope`]; a document, or only its frozen section.
//! Out:   the first thing in it that lies outside of that scope.
//! Never: decides by the document's own namespace alone. A document takes effect where its
//!        destination and its targets are, wherever it is kept.

use super::Content;
use crate::{
    manifest::{
        Access, Traffic,
        kinds::{Caller, Destination},
        traffic::{Action, Target},
    },
    name::{Label, ServicePattern},
    trust::operator::Scope,
};

/// A part of a document that its operator may not write, in words for people.
pub type Beyond = String;

/// What a document reaches beyond the scope of its operator: its namespace, its destinations,
/// each target of Route, Split and Mirror, and in `from` each pattern over callers of another
/// namespace. A caller of another namespace that is named is no reach: it names who may call,
/// and commands nothing of it.
pub fn beyond(scope: &Scope, namespace: &Label, content: &Content) -> Option<Beyond> {
    if !scope.covers(namespace) {
        return Some(format!("namespace {namespace}"));
    }
    match content {
        Content::Access(access) => beyond_access(scope, access),
        Content::Traffic(traffic) => beyond_traffic(scope, traffic),
        Content::Deleted => None,
        Content::Unread { destination, .. } => beyond_destination(scope, destination),
    }
}

/// The same of a destination.
pub fn beyond_destination(scope: &Scope, destination: &Destination) -> Option<Beyond> {
    let within = match destination {
        Destination::Service(service) => scope.covers(service.namespace()),
        Destination::Namespace(namespace) => scope.covers(namespace),
        Destination::Mesh => *scope == Scope::All,
    };
    (!within).then(|| format!("destination {destination}"))
}

fn beyond_access(scope: &Scope, access: &Access) -> Option<Beyond> {
    let callers = access.from.iter().flatten();
    beyond_destination(scope, &access.destination)
        .or_else(|| callers.into_iter().find_map(|caller| beyond_caller(scope, caller)))
}

fn beyond_caller(scope: &Scope, caller: &Caller) -> Option<Beyond> {
    let within = match &caller.service {
        None | Some(ServicePattern::One(_)) => true,
        Some(ServicePattern::Namespace(namespace)) => scope.covers(namespace),
        Some(ServicePattern::All) => *scope == Scope::All,
    };
    (!within).then(|| format!("callers {caller}"))
}

fn beyond_traffic(scope: &Scope, traffic: &Traffic) -> Option<Beyond> {
    traffic.policies.iter().find_map(|policy| {
        beyond_destination(scope, &policy.destination)
            .or_else(|| targets(&policy.action).find_map(|target| beyond_target(scope, target)))
            .map(|what| format!("{what} of policy {}", policy.name))
    })
}

fn beyond_target(scope: &Scope, target: &Target) -> Option<Beyond> {
    let service = target.service.as_ref()?;
    (!scope.covers(service.namespace())).then(|| format!("target {service}"))
}

/// Where an action sends calls or copies of them.
fn targets(action: &Action) -> impl Iterator<Item = &Target> {
    let list = match action {
        Action::Route(route) => route.to.as_ref().map(|to| to.list()),
        Action::Split(split) => Some(split.to.list()),
        Action::Mirror(mirror) => Some(std::slice::from_ref(&mirror.to)),
        Action::Balance(_)
        | Action::Locality(_)
        | Action::Retry(_)
        | Action::Timeout(_)
        | Action::CircuitBreak(_)
        | Action::Eject(_)
        | Action::RateLimit(_)
        | Action::Fault(_)
        | Action::Hedge(_) => None,
    };
    list.unwrap_or_default().iter()
}
