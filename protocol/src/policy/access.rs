//! Access rules: from all AccessPolicy documents to who may call what, and why.
//!
//! In:    [`Heads`], and a call: who, what, which port, which request.
//! Out:   [`Decision`]: yes or no, and the document that said so.
//! Never: believes a name that nobody proved, or lets a document that it cannot read open
//!        anything.
//!
//! A matching deny denies; else a matching allow allows; else the `default` of the most specific
//! destination (service, namespace, mesh); else the call is allowed. An enforced allow that names
//! one service stands for `default: deny` on it, unless a `default` document names that service.
//! Of versions that did not know of each other any denies, and an allow needs all.

use std::fmt;

use super::{Content, Head, Heads};
use crate::{
    manifest::{
        DocumentId, Kind,
        kinds::{Access, AccessEffect, Called, Caller, Destination},
    },
    name::{NodeName, ServiceName, ServicePattern},
};

/// Who calls, as far as it was proven.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Who<'a> {
    /// The service, if the calling host proved it and its grant covers it.
    pub service: Option<&'a ServiceName>,
    /// The name in the calling node's grant.
    pub node: Option<&'a NodeName>,
    /// Whether another live key holds that name: denies match both then, allows neither.
    pub twice: bool,
    /// What a caller that proved no service could have been, by its node's grant. A deny of one
    /// of these matches it: else who is denied would leave out who it is.
    pub could_be: &'a [ServicePattern],
    /// Whether it came in by a gateway.
    pub outside: bool,
}

impl fmt::Display for Who<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.service, self.node) {
            (Some(service), _) => service.fmt(f)?,
            (None, Some(node)) => write!(f, "node {node}")?,
            (None, None) => f.write_str("a node")?,
        }
        if self.twice && self.service.is_none() {
            f.write_str(", whose name two keys hold,")?;
        }
        f.write_str(if self.outside { " from outside" } else { "" })
    }
}

/// What is called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct What<'a> {
    /// The service.
    pub service: &'a ServiceName,
    /// Its port.
    pub port: u16,
    /// Method and path; `None` where the call is carried as bytes.
    pub request: Option<(&'a str, &'a str)>,
}

/// What made a decision.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Because {
    /// A deny that matches.
    Deny(DocumentId),
    /// An allow that matches.
    Allow(DocumentId),
    /// Nothing matches, and this `default` holds.
    Default(DocumentId),
    /// Nothing matches, and this allow on the very service closes it to others.
    Closed(DocumentId),
    /// A newer agent wrote it, so this one closes what it is about.
    Unread(DocumentId),
    /// No document is about it.
    Open,
}

impl Because {
    /// The document, where there is one.
    pub fn document(&self) -> Option<&DocumentId> {
        match self {
            Self::Deny(id)
            | Self::Allow(id)
            | Self::Default(id)
            | Self::Closed(id)
            | Self::Unread(id) => Some(id),
            Self::Open => None,
        }
    }

    /// `namespace/name` of the document, for logs and metrics; `open` where there is none.
    pub fn rule(&self) -> String {
        self.document().map_or_else(
            || "open".to_owned(),
            |DocumentId { namespace, name, .. }| format!("{namespace}/{name}"),
        )
    }
}

impl fmt::Display for Because {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deny(id) => write!(f, "{id} denies it"),
            Self::Allow(id) => write!(f, "{id} allows it"),
            Self::Default(id) => write!(f, "nothing else matches, and {id} is the default"),
            Self::Closed(id) => {
                write!(f, "no allow matches, and {id} closes the service to others")
            }
            Self::Unread(id) => {
                write!(f, "{id} was written for a newer agent, so this one closes what it covers")
            }
            Self::Open => f.write_str("no AccessPolicy is about it"),
        }
    }
}

/// Whether a call may be, and why.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Decision {
    /// Whether it may.
    pub allowed: bool,
    /// What says so.
    pub because: Because,
    /// What would say otherwise if documents in audit mode were enforced.
    pub audit: Option<Because>,
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AccessRules {
    documents: Vec<(DocumentId, Vec<Rule>)>,
    /// Whether a document is in audit mode.
    audited: bool,
    /// Rules that have to allow a call as well.
    also: Option<Box<Self>>,
}

/// One head of a document.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Rule {
    Said(std::sync::Arc<Access>),
    Unread { destination: Destination, enforced: bool },
    Deleted,
}

impl AccessRules {
    /// The rules of all AccessPolicy documents.
    pub fn compile(heads: &Heads) -> Self {
        let rule = |head: &Head| match &head.content {
            Content::Access(access) => Rule::Said(access.clone()),
            Content::Unread { destination, enforced, .. } => {
                Rule::Unread { destination: destination.clone(), enforced: *enforced }
            }
            Content::Deleted | Content::Traffic(_) => Rule::Deleted,
        };
        let access = heads.iter().filter(|(id, _)| id.kind == Kind::AccessPolicy);
        let compiled = access.map(|(id, all)| (id.clone(), all.iter().map(rule).collect()));
        let documents = compiled.filter(|(_, rules): &(_, Vec<Rule>)| {
            rules.iter().any(|rule| !matches!(rule, Rule::Deleted))
        });
        let documents: Vec<_> = documents.collect();
        let mut rules = documents.iter().flat_map(|(_, rules): &(_, Vec<Rule>)| rules);
        let audited = rules.any(|rule| match rule {
            Rule::Said(access) => !access.enforced,
            Rule::Unread { enforced, .. } => !enforced,
            Rule::Deleted => false,
        });
        Self { documents, audited, also: None }
    }

    /// These rules, where the others allow a call as well.
    #[must_use]
    pub fn and(self, also: Self) -> Self {
        Self { also: Some(Box::new(also)), ..self }
    }

    /// Whether there is no rule at all.
    pub fn is_empty(&self) -> bool {
        self.documents.is_empty() && self.also.as_ref().is_none_or(|also| also.is_empty())
    }

    /// Whether requests to that service must be read for these rules to decide.
    pub fn need_http(&self, service: &ServiceName) -> bool {
        self.documents.iter().flat_map(|(_, rules)| rules).any(|rule| match rule {
            Rule::Said(access) => {
                let mut entries = access.to.iter().flatten();
                access.destination.covers(service) && entries.any(Called::needs_http)
            }
            Rule::Unread { .. } | Rule::Deleted => false,
        }) || self.also.as_ref().is_some_and(|also| also.need_http(service))
    }

    /// Decides a call.
    pub fn decide(&self, who: &Who<'_>, what: &What<'_>) -> Decision {
        let also = self.also.as_ref().map(|also| also.decide(who, what));
        if let Some(denied) = also.filter(|decision| !decision.allowed) {
            return denied;
        }
        let (allowed, because) = self.decide_with(who, what, false);
        let audit = self.audited.then(|| self.decide_with(who, what, true));
        let audit = audit.filter(|(would, _)| *would != allowed).map(|(_, audit)| audit);
        Decision { allowed, because, audit }
    }

    fn decide_with(&self, who: &Who<'_>, what: &What<'_>, audit: bool) -> (bool, Because) {
        let about = || {
            self.documents.iter().filter_map(move |(id, rules)| {
                let asked = Asked { rules, who, what, audit };
                asked.is_about().then_some((id, asked))
            })
        };
        if let Some((id, _)) = about().find(|(_, asked)| asked.closes()) {
            return (false, Because::Unread(id.clone()));
        }
        if let Some((id, _)) = about().find(|(_, asked)| asked.denies()) {
            return (false, Because::Deny(id.clone()));
        }
        if let Some((id, _)) = about().find(|(_, asked)| asked.allows()) {
            return (true, Because::Allow(id.clone()));
        }
        let mut defaults: Vec<(Near, bool, Because)> = Vec::new();
        for (id, asked) in about() {
            defaults.extend(asked.default(id));
        }
        // The nearest counts; of two as near, the one that denies.
        defaults.sort_by_key(|(near, allows, _)| (*near, *allows));
        match defaults.into_iter().next() {
            Some((_, allows, because)) => (allows, because),
            None => (true, Because::Open),
        }
    }
}

/// How near a default is to what is called; the least wins.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Near {
    /// A `default` document that names the service.
    Service,
    /// An allow that names the service.
    Implied,
    /// `*`.
    Namespace,
    /// `*/*`.
    Mesh,
}

/// A document asked about a call.
struct Asked<'a> {
    rules: &'a [Rule],
    who: &'a Who<'a>,
    what: &'a What<'a>,
    /// Whether documents in audit mode count.
    audit: bool,
}

impl Asked<'_> {
    fn counts(&self, rule: &Rule) -> bool {
        match rule {
            Rule::Said(access) => {
                (access.enforced || self.audit) && access.destination.covers(self.what.service)
            }
            Rule::Unread { destination, enforced } => {
                (*enforced || self.audit) && destination.covers(self.what.service)
            }
            Rule::Deleted => false,
        }
    }

    fn is_about(&self) -> bool {
        self.rules.iter().any(|rule| self.counts(rule))
    }

    fn closes(&self) -> bool {
        let unread = |rule: &&Rule| matches!(rule, Rule::Unread { .. });
        self.rules.iter().filter(unread).any(|rule| self.counts(rule))
    }

    fn said(&self, effect: AccessEffect) -> impl Iterator<Item = &Access> {
        self.rules.iter().filter(|rule| self.counts(rule)).filter_map(move |rule| match rule {
            Rule::Said(access) if access.effect == effect => Some(&**access),
            Rule::Said(_) | Rule::Unread { .. } | Rule::Deleted => None,
        })
    }

    /// Any head denies. One that needs a request to tell, and there is none, denies too.
    fn denies(&self) -> bool {
        self.said(AccessEffect::Deny)
            .any(|access| self.is_from(access, true) && self.is_to(access, true))
    }

    /// All heads allow. One that needs a request to tell, and there is none, does not.
    fn allows(&self) -> bool {
        let matching = |access: &&Access| self.is_from(access, false) && self.is_to(access, false);
        self.said(AccessEffect::Allow).filter(matching).count() == self.rules.len()
    }

    fn is_from(&self, access: &Access, deny: bool) -> bool {
        let from = access.from.as_ref();
        from.is_none_or(|list| list.iter().any(|caller| self.is_caller(caller, deny)))
    }

    /// What is not known of the caller counts for a deny and for no allow.
    fn is_caller(&self, caller: &Caller, deny: bool) -> bool {
        let could_be = |pattern: &ServicePattern| {
            let overlaps =
                |granted: &ServicePattern| granted.contains(pattern) || pattern.contains(granted);
            deny && self.who.could_be.iter().any(overlaps)
        };
        let service = |pattern: &ServicePattern| match self.who.service {
            Some(service) => pattern.covers(service),
            None => could_be(pattern),
        };
        let node = |pattern: &crate::manifest::kinds::NodePattern| {
            (deny || !self.who.twice) && self.who.node.is_some_and(|node| pattern.covers(node))
        };
        caller.service.as_ref().is_none_or(service)
            && caller.node.as_ref().is_none_or(node)
            && caller.outside.is_none_or(|outside| outside == self.who.outside)
    }

    /// Where no request can be read, an entry about requests counts for a deny and for no allow.
    fn is_to(&self, access: &Access, deny: bool) -> bool {
        let is_called = |called: &Called| {
            called.port.is_none_or(|port| port == self.what.port)
                && match self.what.request {
                    Some(request) => is_request(called, request, deny),
                    None => deny || !called.needs_http(),
                }
        };
        access.to.as_ref().is_none_or(|list| list.iter().any(is_called))
    }

    /// What the document says for calls that nothing matches.
    fn default(&self, id: &DocumentId) -> Option<(Near, bool, Because)> {
        let near = |access: &Access| match &access.destination {
            Destination::Service(_) => Near::Service,
            Destination::Namespace(_) => Near::Namespace,
            Destination::Mesh => Near::Mesh,
        };
        let denies = self.said(AccessEffect::DefaultDeny).map(near).min();
        if let Some(near) = denies {
            return Some((near, false, Because::Default(id.clone())));
        }
        let allows: Vec<Near> = self.said(AccessEffect::DefaultAllow).map(near).collect();
        if let Some(near) = allows.iter().min().filter(|_| allows.len() == self.rules.len()) {
            return Some((*near, true, Because::Default(id.clone())));
        }
        let exact = |access: &Access| matches!(access.destination, Destination::Service(_));
        let implied = self.said(AccessEffect::Allow).any(exact);
        implied.then(|| (Near::Implied, false, Because::Closed(id.clone())))
    }
}

/// Some services leave out the parameters of a path's segments. A deny counts for either reading,
/// an allow must hold for both.
fn is_request(called: &Called, (method, path): (&str, &str), deny: bool) -> bool {
    let bare = crate::http::path::without_parameters(path);
    let fits = |pattern: &str, path: &str| match pattern.strip_suffix('*') {
        Some(head) => path.starts_with(head),
        None => path == pattern,
    };
    let is_path = |pattern: &String| {
        let (as_is, without) = (fits(pattern, path), fits(pattern, &bare));
        if deny { as_is || without } else { as_is && without }
    };
    (called.methods.is_empty() || called.methods.iter().any(|one| one == method))
        && (called.paths.is_empty() || called.paths.iter().any(is_path))
}
