//! Checks of a ServiceRegistry: from tree to type.

use std::time::Duration;

use super::{
    kinds::{Check, CheckKind, RegistryPort},
    reader::{Fields, Item, Sink},
    registry::{command, port_ref, unit},
    value,
};
use crate::route::PortRef;
use crate::{limits, name::Label};

/// The checks of a document, names told apart.
pub(crate) fn checks(item: &Item<'_>, ports: &[RegistryPort], sink: &mut Sink<'_>) -> Vec<Check> {
    let items = item.list(limits::CHECKS_MAX, sink).unwrap_or_default();
    let mut checks: Vec<Check> = Vec::new();
    for item in &items {
        let Some((mut check, said)) = check(item, ports, sink) else {
            continue;
        };
        let taken = |name: &Label| checks.iter().any(|other| other.name == *name);
        if said && taken(&check.name) {
            let why = format!("two checks have the name {}", check.name);
            item.fault(sink, why, "give this one another name");
        }
        // Checks that nobody named are told apart by a number behind their type.
        let numbered = (2..=limits::CHECKS_MAX)
            .filter_map(|number| Label::new(format!("{}-{number}", check.name)).ok())
            .find(|name| !taken(name));
        if let (true, Some(name)) = (taken(&check.name), numbered) {
            check.name = name;
        }
        checks.push(check);
    }
    checks
}

/// A check, and whether its name was said.
fn check(item: &Item<'_>, ports: &[RegistryPort], sink: &mut Sink<'_>) -> Option<(Check, bool)> {
    let mut fields = item.fields(sink)?;
    let fix = "say what it does: `type: http`, `tcp`, `ttl`, `exec` or `unit`";
    let word = fields.need("type", fix, sink)?;
    let words = ["http", "tcp", "ttl", "exec", "unit", "grpc"].map(|word| (word, word));
    let kind_word = word.one_of(&words, sink)?;
    let name = fields.take("name").and_then(|item| item.parsed(sink));
    let kind = check_kind(kind_word, &word, &mut fields, sink);
    let said = name.is_some();
    let name = name.or_else(|| Label::new(kind_word).ok());
    let check = timing(&mut fields, (name?, kind), ports, sink);
    fields.finish(sink);
    check.map(|check| (check, said))
}

fn check_kind(
    kind: &str,
    word: &Item<'_>,
    fields: &mut Fields<'_>,
    sink: &mut Sink<'_>,
) -> Option<CheckKind> {
    match kind {
        "http" => http(fields, sink),
        "ttl" => {
            let item = fields.need("ttl", "say for how long a report holds: `ttl: 30s`", sink)?;
            item.duration(sink).map(CheckKind::Ttl)
        }
        "exec" => {
            let fix = "say what to run: `command: [/usr/bin/check, -q]`";
            let item = fields.need("command", fix, sink)?;
            command(&item, sink).map(CheckKind::Exec)
        }
        "unit" => {
            let item = fields.need("unit", "say which: `unit: checkout.service`", sink)?;
            unit(&item, sink).map(CheckKind::Unit)
        }
        "grpc" => {
            fields.take("service");
            word.fault(
                sink,
                "grpc checks are not supported in this version",
                "use `type: tcp`, or `type: http` on a port that answers HTTP/1.1",
            );
            None
        }
        _ => Some(CheckKind::Tcp),
    }
}

fn http(fields: &mut Fields<'_>, sink: &mut Sink<'_>) -> Option<CheckKind> {
    let path = match fields.take("path") {
        None => Some("/".to_owned()),
        Some(item) => {
            let text = item.shown(sink);
            let good = |text: &String| {
                text.starts_with('/') && text.bytes().all(|byte| byte.is_ascii_graphic())
            };
            let path = text.clone().filter(good);
            if text.is_some() && path.is_none() {
                let why = "the path does not begin with `/`, or has spaces";
                item.fault(sink, why, "write it as in a URL: `/healthz`");
            }
            path
        }
    };
    let host = fields.take("host").and_then(|item| item.shown(sink));
    path.map(|path| CheckKind::Http { path, host })
}

fn timing(
    fields: &mut Fields<'_>,
    (name, kind): (Label, Option<CheckKind>),
    ports: &[RegistryPort],
    sink: &mut Sink<'_>,
) -> Option<Check> {
    let interval_item = fields.take("interval");
    let interval = interval_item.as_ref().and_then(|item| item.duration(sink));
    if let (Some(item), Some(short)) = (&interval_item, interval)
        && short < limits::CHECK_INTERVAL_MIN
    {
        item.fault(sink, "checks run at most ten times a second", "write 100ms or more");
    }
    let interval = interval.unwrap_or(CHECK_INTERVAL);
    let timeout_item = fields.take("timeout");
    let timeout = timeout_item.as_ref().and_then(|item| item.duration(sink));
    if let (Some(item), Some(long)) = (&timeout_item, timeout)
        && (long > interval || long.is_zero())
    {
        let why = "the timeout is 0 or longer than the interval";
        item.fault(sink, why, "write a timeout of at most the interval");
    }
    let count = |item: Item<'_>, sink: &mut Sink<'_>| item.whole(1, 100, sink);
    let failures = fields.take("failuresBeforeCritical").and_then(|item| count(item, sink));
    let successes = fields.take("successesBeforePassing").and_then(|item| count(item, sink));
    let port = fields.take("port").and_then(|item| check_port(&item, ports, sink));
    Some(Check {
        name,
        kind: kind?,
        interval,
        timeout: timeout.unwrap_or_else(|| CHECK_TIMEOUT.min(interval)),
        failures_before_critical: failures.unwrap_or(CHECK_FAILURES),
        successes_before_passing: successes.unwrap_or(1),
        port,
    })
}

fn check_port(item: &Item<'_>, ports: &[RegistryPort], sink: &mut Sink<'_>) -> Option<PortRef> {
    let port = port_ref(item, sink)?;
    if let PortRef::Name(name) = &port
        && !ports.iter().any(|known| known.name == *name)
    {
        let known: Vec<&str> = ports.iter().map(|port| port.name.as_str()).collect();
        let why = format!("the service has no port of the name `{name}`");
        item.fault(sink, why, format!("its ports are: {}", known.join(", ")));
        return None;
    }
    Some(port)
}

/// Checks do not speak TLS in this version.
pub(crate) fn plain_only(checks: &[Check], spec: &Item<'_>, sink: &mut Sink<'_>) {
    let http = |check: &Check| matches!(check.kind, CheckKind::Http { .. });
    if checks.iter().any(http) {
        let why = "an http check does not speak TLS in this version, and the service has `tls`";
        spec.fault(sink, why, "use `type: tcp` in its checks");
    }
}

/// What a document without `checks` gets: one connection every 5 s.
pub(crate) fn default_check() -> Check {
    Check {
        name: value::word("tcp"),
        kind: CheckKind::Tcp,
        interval: CHECK_INTERVAL,
        timeout: CHECK_TIMEOUT,
        failures_before_critical: CHECK_FAILURES,
        successes_before_passing: 1,
        port: None,
    }
}

const CHECK_INTERVAL: Duration = Duration::from_secs(5);
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);
const CHECK_FAILURES: u32 = 2;
