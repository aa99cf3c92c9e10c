//! ServiceDiscovery: from tree to type.

use std::net::IpAddr;

use super::{
    kinds::{Discovery, DiscoveryPort, Fallback, Listen},
    reader::{Item, Sink},
    registry::{address, exposed, port_name, port_ref, process, protocol, service_in, tags},
    value::HostAddress,
};
use crate::{
    limits,
    name::Label,
    route::{PortRef, Subset, ZonePattern},
};

/// Reads `spec` of a ServiceDiscovery.
pub(crate) fn discovery(
    spec: &Item<'_>,
    namespace: &Label,
    sink: &mut Sink<'_>,
) -> Option<Discovery> {
    let mut fields = spec.fields(sink)?;
    let service = fields.take("service").and_then(|item| service_in(&item, namespace, sink));
    let image = fields.take("image").and_then(|item| item.parsed(sink));
    let source = fields.take("source").and_then(|item| service_in(&item, namespace, sink));
    let allow = fields.take("allow").and_then(|item| process(&item, sink));
    let ports = fields.take("ports").map(|item| ports(&item, sink));
    let ports = ports.unwrap_or_default();
    let fallback = fields.take("endpoints").map(|item| fallbacks(&item, &ports, sink));
    let subset = fields.take("subset").and_then(|item| subset(&item, sink));
    fields.finish(sink);
    Some(Discovery {
        service,
        image,
        source,
        allow,
        ports,
        fallback: fallback.unwrap_or_default(),
        subset: subset.unwrap_or_default(),
    })
}

fn ports(item: &Item<'_>, sink: &mut Sink<'_>) -> Vec<DiscoveryPort> {
    let items = item.list(limits::PORTS_MAX, sink).unwrap_or_default();
    let alone = items.len() == 1;
    let mut ports: Vec<DiscoveryPort> = Vec::new();
    for item in &items {
        let Some(port) = port(item, alone, sink) else {
            continue;
        };
        if ports.iter().any(|other| other.name == port.name) {
            let why = format!("two ports have the name {}", port.name);
            item.fault(sink, why, "give this one another name");
        }
        if ports.iter().any(|other| other.listen == port.listen) {
            let why = format!("two ports listen on {}", port.listen);
            item.fault(sink, why, "change one `port`");
        }
        ports.push(port);
    }
    ports
}

fn port(item: &Item<'_>, alone: bool, sink: &mut Sink<'_>) -> Option<DiscoveryPort> {
    let mut fields = item.fields(sink)?;
    let name = port_name(&mut fields, alone, sink);
    let own = fields.take("address");
    let own = own.and_then(|item| item.parsed::<HostAddress>(sink).map(|own| (item, own)));
    let number = fields.take("port").and_then(|item| item.port(sink));
    let target = fields.take("targetPort").and_then(|item| port_ref(&item, sink));
    let exposed = exposed(&mut fields, sink);
    let protocol = protocol(&mut fields, name.as_ref(), sink);
    let listen = match own {
        None if number.is_none() => {
            let fix = "say on which port of this host to listen: `port: 9080`";
            if !fields.has("port") {
                fields.need("port", fix, sink);
            }
            None
        }
        None => number.map(|port| match exposed {
            true => Listen::All(port),
            false => Listen::Loopback(port),
        }),
        Some((item, own)) => listen_on(&item, own, number, exposed, sink),
    };
    let target = target.or_else(|| number.map(PortRef::Number));
    if target.is_none() && !fields.has("targetPort") && !fields.has("port") && listen.is_some() {
        let fix = "say which port of the service: `targetPort: 80`";
        fields.need("targetPort", fix, sink);
    }
    fields.finish(sink);
    Some(DiscoveryPort { name: name?, listen: listen?, target: target?, exposed, protocol })
}

fn listen_on(
    item: &Item<'_>,
    own: HostAddress,
    number: Option<u16>,
    exposed: bool,
    sink: &mut Sink<'_>,
) -> Option<Listen> {
    match own {
        HostAddress::Unix(path) => Some(Listen::Unix(path)),
        HostAddress::Name(name) => {
            let why = format!("`{name}` is a name; one listens on an address");
            item.fault(sink, why, "write an IP address of this host or `unix:/path`");
            None
        }
        HostAddress::Ip(ip) => {
            let open = !ip.is_loopback() && !exposed;
            if open {
                let why = format!("{ip} can be dialled from other hosts");
                item.fault(
                    sink,
                    why,
                    "say `type: LoadBalancer` if callers from outside are meant (they count as \
                     outside), else use a loopback address",
                );
                return None;
            }
            let here = sink.inputs.addresses.as_ref();
            let here = here.is_none_or(|here| here.contains(&ip));
            if !ip.is_loopback() && !ip.is_unspecified() && !here {
                let why = format!("`{ip}` is not an address of this host");
                item.fault(sink, why, "one listens on an address of this host only");
                return None;
            }
            listen_ip(item, ip, number, sink)
        }
    }
}

fn listen_ip(
    item: &Item<'_>,
    ip: IpAddr,
    number: Option<u16>,
    sink: &mut Sink<'_>,
) -> Option<Listen> {
    if number.is_none() {
        item.fault(sink, "an address without a port", "add `port:` beside it");
    }
    number.map(|port| Listen::Address(ip, port))
}

fn fallbacks(item: &Item<'_>, ports: &[DiscoveryPort], sink: &mut Sink<'_>) -> Vec<Fallback> {
    let items = item.list(limits::ENDPOINTS_MAX, sink).unwrap_or_default();
    items.iter().filter_map(|item| fallback(item, ports, sink)).collect()
}

fn fallback(item: &Item<'_>, ports: &[DiscoveryPort], sink: &mut Sink<'_>) -> Option<Fallback> {
    let mut fields = item.fields(sink)?;
    let name = fields.need("name", "name it", sink);
    let name = name.and_then(|item| item.parsed(sink));
    let fix = "write an IP address, a host name or `unix:/path`";
    let place = fields.need("address", fix, sink);
    let place = place.and_then(|item| address(&item, None, sink));
    let number = fields.take("port").and_then(|item| item.port(sink));
    // The one listener's target tells the port where there is nothing to confuse it with.
    let only = match ports {
        [port] => match port.target {
            PortRef::Number(number) => Some(number),
            PortRef::Name(_) => None,
        },
        _ => None,
    };
    let number = number.or(only);
    let unix = matches!(place, Some(HostAddress::Unix(_)));
    if number.is_none() && !unix && !fields.has("port") {
        fields.need("port", "say the port to dial there", sink);
    }
    fields.finish(sink);
    let number = if unix { Some(0) } else { number };
    Some(Fallback { name: name?, target: place?.with_port(number?) })
}

/// A subset: a map, or a version as plain text.
pub(crate) fn subset(item: &Item<'_>, sink: &mut Sink<'_>) -> Option<Subset> {
    if !item.is_map() {
        return Some(Subset { version: Some(item.parsed(sink)?), ..Subset::default() });
    }
    let mut fields = item.fields(sink)?;
    let version = fields.take("version").and_then(|item| item.parsed(sink));
    let tags = tags(&mut fields, sink);
    let zone = fields.take("zone").and_then(|item| {
        (item.text(sink)? != "any").then(|| item.parsed::<ZonePattern>(sink)).flatten()
    });
    fields.finish(sink);
    Some(Subset { version, tags, zone, ..Subset::default() })
}
