//! AccessPolicy: validated as far as its grammar goes.
//!
//! It is not in force on an agent's word: it needs an operator's signature.

use super::{
    kinds::{Access, AccessEffect, Called, Caller, Destination, NodePattern},
    reader::{Fields, Item, Sink},
    traffic::destination,
    value::{InvalidValue, invalid},
};
use crate::{
    limits,
    name::{Label, ServiceName, ServicePattern},
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
    let callers = from.as_ref().map(|item| callers(item, namespace, sink));
    let to = fields.take("to");
    let called = to.as_ref().map(|item| requests(item, sink));
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
        from: callers,
        to: called,
    })
}

fn callers(item: &Item<'_>, namespace: &Label, sink: &mut Sink<'_>) -> Vec<Caller> {
    let mut callers = Vec::new();
    let items = item.list(limits::PORTS_MAX, sink).unwrap_or_default();
    if items.is_empty() {
        item.warn(
            sink,
            "nobody is on this list, so it never matches",
            "leave `from` out for anybody",
        );
    }
    for item in items {
        let Some(mut fields) = item.fields(sink) else {
            continue;
        };
        let service = fields.take("service").and_then(|item| {
            let text = item.text(sink)?;
            item.kept(pattern(text, namespace), sink)
        });
        let node = fields.take("node").and_then(|item| {
            let text = item.text(sink)?;
            item.kept(NodePattern::new(text), sink)
        });
        let outside = fields.take("outside").and_then(|item| item.truth(sink));
        fields.finish(sink);
        callers.push(Caller { service, node, outside });
    }
    callers
}

/// `web` and `*` are of the document's own namespace.
fn pattern(text: &str, namespace: &Label) -> Result<ServicePattern, InvalidValue> {
    let parsed = match text {
        "*" => Ok(ServicePattern::Namespace(namespace.clone())),
        text if text.contains('/') => text.parse(),
        text => ServiceName::parse_in(text, namespace).map(ServicePattern::One),
    };
    parsed.map_err(InvalidValue::from)
}

fn requests(item: &Item<'_>, sink: &mut Sink<'_>) -> Vec<Called> {
    let mut called = Vec::new();
    let items = item.list(limits::PORTS_MAX, sink).unwrap_or_default();
    if items.is_empty() {
        item.warn(
            sink,
            "nothing is on this list, so it never matches",
            "leave `to` out for anything",
        );
    }
    for item in items {
        let Some(mut fields) = item.fields(sink) else {
            continue;
        };
        let port = fields.take("port").and_then(|item| item.port(sink));
        let methods = texts(&mut fields, "methods", method, sink);
        let paths = texts(&mut fields, "paths", path, sink);
        fields.finish(sink);
        called.push(Called { port, methods, paths });
    }
    called
}

fn texts(
    fields: &mut Fields<'_>,
    name: &'static str,
    read: fn(&str) -> Result<String, InvalidValue>,
    sink: &mut Sink<'_>,
) -> Vec<String> {
    let Some(item) = fields.take(name) else { return Vec::new() };
    let items = item.list(limits::PORTS_MAX, sink).unwrap_or_default();
    let text = |item: Item<'_>| {
        let text = item.text(sink)?;
        item.kept(read(text), sink)
    };
    items.into_iter().filter_map(text).collect()
}

fn method(text: &str) -> Result<String, InvalidValue> {
    let fits = !text.is_empty()
        && text.len() <= limits::METHOD_BYTES
        && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'-');
    let bad = || invalid(format!("`{text}` is no HTTP method"), "write GET, POST and so on");
    fits.then(|| text.to_owned()).ok_or_else(bad)
}

fn path(text: &str) -> Result<String, InvalidValue> {
    let stars = text.matches('*').count();
    let fits = text.starts_with('/') && (stars == 0 || stars == 1 && text.ends_with('*'));
    let bad = || {
        let fix = "write an exact path, `/v1/items`, or what it begins with, `/v1/*`";
        invalid(format!("`{text}` is no path"), fix)
    };
    fits.then_some(()).ok_or_else(bad)?;
    canonical(text, text.strip_suffix('*').unwrap_or(text))?;
    Ok(text.to_owned())
}

/// A pattern in another form than that in which paths are compared would never match.
pub(super) fn canonical(text: &str, path: &str) -> Result<(), InvalidValue> {
    match crate::http::canonical(path) {
        Ok(form) if form == path => Ok(()),
        Ok(form) => Err(invalid(
            format!("`{text}` never matches: paths are compared in their canonical form"),
            format!("write `{form}`"),
        )),
        Err(fault) => Err(invalid(
            format!("`{text}` never matches: {fault}, and such requests are refused"),
            "write the path as clients send it, escaped where it must be",
        )),
    }
}
