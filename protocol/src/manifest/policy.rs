//! AccessPolicy: validated as far as its grammar goes.
//!
//! It is not in force on an agent's word: it needs an operator's signature.

use super::{
    kinds::{Access, AccessEffect, Destination},
    reader::{Item, Sink},
    traffic::destination,
};
use crate::{
    limits,
    name::{Label, ServicePattern},
};

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
