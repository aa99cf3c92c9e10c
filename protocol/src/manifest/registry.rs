//! ServiceRegistry: from tree to type.

use std::{collections::BTreeMap, net::IpAddr};

use super::{
    check::{checks, default_check, plain_only},
    kinds::{Process, Registry, RegistryEndpoint, RegistryPort, Run},
    reader::{Fields, Item, Sink},
    value::{self, HostAddress},
};
use crate::route::PortRef;
use crate::{
    limits,
    name::{Label, ServiceName},
    record::node::Protocol,
};

/// Reads `spec` of a ServiceRegistry of that name.
pub(crate) fn registry(
    spec: &Item<'_>,
    namespace: &Label,
    name: &Label,
    sink: &mut Sink<'_>,
) -> Option<Registry> {
    let mut fields = spec.fields(sink)?;
    let service = match fields.take("service") {
        Some(item) => service_in(&item, namespace, sink),
        None => Some(ServiceName::new(namespace.clone(), name.clone())),
    };
    let image = fields.take("image").and_then(|item| item.parsed(sink));
    let version = fields.take("version").and_then(|item| item.parsed(sink));
    let external = fields.take("external").and_then(|item| item.truth(sink));
    let external = external.unwrap_or(false);
    let ports = fields.take("ports").map(|item| ports(&item, sink));
    let ports = ports.unwrap_or_default();
    let endpoints = match fields.take("endpoints") {
        Some(item) => endpoints(&item, external, &ports, sink),
        None if external => {
            let fix = "say where it is: `endpoints: [{name: a, address: db.example.com}]`";
            fields.need("endpoints", fix, sink);
            Vec::new()
        }
        None => Vec::new(),
    };
    let weight = weight(&mut fields, sink).unwrap_or(DEFAULT_WEIGHT);
    let tags = tags(&mut fields, sink);
    let meta = fields.take("meta").map(|item| item.texts(sink));
    let workload = fields.take("workload").and_then(|item| process(&item, sink));
    let checks = match fields.take("checks") {
        Some(item) => checks(&item, &ports, sink),
        None => vec![default_check()],
    };
    let run = fields.take("run").and_then(|item| run(&item, sink));
    let tls = fields.take("tls").and_then(|item| tls(&item, external, sink));
    if tls.is_some() {
        plain_only(&checks, spec, sink);
    }
    fields.finish(sink);
    Some(Registry {
        service: service?,
        image,
        version,
        ports,
        endpoints,
        weight,
        tags,
        meta: meta.unwrap_or_default(),
        external,
        workload,
        checks,
        run,
        tls,
    })
}

/// A service: `name` of this namespace, or `namespace/name`.
pub(crate) fn service_in(
    item: &Item<'_>,
    namespace: &Label,
    sink: &mut Sink<'_>,
) -> Option<ServiceName> {
    let text = item.text(sink)?;
    let parsed = ServiceName::parse_in(text, namespace).map_err(Into::into);
    item.kept(parsed, sink)
}

fn weight(fields: &mut Fields<'_>, sink: &mut Sink<'_>) -> Option<u32> {
    fields.take("weight").and_then(|item| item.whole(0, limits::WEIGHT_MAX, sink))
}

pub(crate) fn tags(fields: &mut Fields<'_>, sink: &mut Sink<'_>) -> Vec<crate::name::Tag> {
    let tags = fields.take("tags");
    let mut tags: Vec<crate::name::Tag> =
        tags.map(|item| item.list_of(limits::PORTS_MAX, sink)).unwrap_or_default();
    tags.sort_unstable();
    tags.dedup();
    tags
}

/// Whether `type` says that gateways, or all interfaces, open the port.
pub(crate) fn exposed(fields: &mut Fields<'_>, sink: &mut Sink<'_>) -> bool {
    let words = [("Mesh", false), ("LoadBalancer", true)];
    let kind = fields.take("type");
    kind.and_then(|item| item.one_of(&words, sink)).unwrap_or(false)
}

/// The protocol: said outright, else by the name up to its first "-".
pub(crate) fn protocol(
    fields: &mut Fields<'_>,
    name: Option<&Label>,
    sink: &mut Sink<'_>,
) -> Protocol {
    if let Some(item) = fields.take("protocol") {
        let Some(word) = item.text(sink) else {
            return Protocol::Sniff;
        };
        if word.eq_ignore_ascii_case("udp") {
            item.fault(
                sink,
                "UDP is not carried; discovery only",
                "leave the port out; the service's name and addresses are found all the same",
            );
            return Protocol::Sniff;
        }
        let lower = word.to_ascii_lowercase();
        return protocol_of(&lower).unwrap_or_else(|| {
            let words: Vec<(&str, ())> = PROTOCOLS.iter().map(|(word, _)| (*word, ())).collect();
            item.one_of(&words, sink);
            Protocol::Sniff
        });
    }
    let prefix = name.map_or("", |name| name.as_str());
    let prefix = prefix.split('-').next().unwrap_or_default();
    protocol_of(prefix).unwrap_or(Protocol::Sniff)
}

fn protocol_of(word: &str) -> Option<Protocol> {
    let known = PROTOCOLS.iter().find(|(known, _)| *known == word);
    known.map(|(_, protocol)| *protocol)
}

const PROTOCOLS: [(&str, Protocol); 13] = [
    ("http", Protocol::Http),
    ("http2", Protocol::Http2),
    ("grpc", Protocol::Grpc),
    ("https", Protocol::Tcp),
    ("tls", Protocol::Tcp),
    ("mysql", Protocol::Tcp),
    ("postgres", Protocol::Tcp),
    ("redis", Protocol::Tcp),
    ("smtp", Protocol::Tcp),
    ("mongo", Protocol::Tcp),
    ("amqp", Protocol::Tcp),
    ("kafka", Protocol::Tcp),
    ("tcp", Protocol::Tcp),
];

/// A port's name; a single port may do without.
pub(crate) fn port_name(
    fields: &mut Fields<'_>,
    alone: bool,
    sink: &mut Sink<'_>,
) -> Option<Label> {
    if !alone || fields.has("name") {
        let fix = "name each port, for example `http` or `grpc-admin`";
        let name = fields.need("name", fix, sink)?;
        let parsed = name.parsed::<Label>(sink)?;
        if matches!(parsed.as_str().split('-').next(), Some("udp")) {
            name.fault(
                sink,
                "UDP is not carried; discovery only",
                "leave the port out; the service's name and addresses are found all the same",
            );
        }
        return Some(parsed);
    }
    fields.take("name");
    Some(value::word("default"))
}

fn ports(item: &Item<'_>, sink: &mut Sink<'_>) -> Vec<RegistryPort> {
    let items = item.list(limits::PORTS_MAX, sink).unwrap_or_default();
    let alone = items.len() == 1;
    let mut ports: Vec<RegistryPort> = Vec::new();
    for item in &items {
        let Some(port) = port(item, alone, sink) else {
            continue;
        };
        if let Some(twin) = ports.iter().find(|other| other.name == port.name) {
            let why = format!("two ports have the name {}", twin.name);
            item.fault(sink, why, "give this one another name");
        } else if port.port.is_some() && ports.iter().any(|other| other.port == port.port) {
            let number = port.port.unwrap_or_default();
            let why = format!("two ports of the service have the number {number}");
            item.fault(sink, why, "callers tell ports apart by number: change one `port`");
        }
        ports.push(port);
    }
    ports
}

fn port(item: &Item<'_>, alone: bool, sink: &mut Sink<'_>) -> Option<RegistryPort> {
    let mut fields = item.fields(sink)?;
    let name = port_name(&mut fields, alone, sink);
    let port = fields.take("port").and_then(|item| item.port(sink));
    let target = fields.take("targetPort").and_then(|item| item.port(sink));
    let protocol = protocol(&mut fields, name.as_ref(), sink);
    let exposed = exposed(&mut fields, sink);
    let hosts = fields.take("hosts").map(|item| hosts(&item, sink));
    let proxy_protocol = fields.take("proxyProtocol").and_then(|item| item.truth(sink));
    fields.finish(sink);
    Some(RegistryPort {
        name: name?,
        port,
        target,
        protocol,
        exposed,
        hosts: hosts.unwrap_or_default(),
        proxy_protocol: proxy_protocol.unwrap_or_default(),
    })
}

fn hosts(item: &Item<'_>, sink: &mut Sink<'_>) -> Vec<String> {
    let items = item.list(limits::PORTS_MAX, sink).unwrap_or_default();
    let host = |item: &Item<'_>| {
        let text = item.text(sink)?;
        let bare = text.strip_prefix("*.").unwrap_or(text);
        if value::is_host(bare) {
            return Some(text.to_ascii_lowercase());
        }
        let why = format!("`{text}` is not a host name");
        item.fault(sink, why, "write a name such as `shop.example.com` or `*.example.com`");
        None
    };
    items.iter().filter_map(host).collect()
}

fn endpoints(
    item: &Item<'_>,
    external: bool,
    ports: &[RegistryPort],
    sink: &mut Sink<'_>,
) -> Vec<RegistryEndpoint> {
    let items = item.list(limits::ENDPOINTS_MAX, sink).unwrap_or_default();
    if items.is_empty() && external {
        item.fault(sink, "an external service needs endpoints", "say where it is");
    }
    let mut endpoints: Vec<RegistryEndpoint> = Vec::new();
    for item in &items {
        let Some(endpoint) = endpoint(item, external, ports, sink) else {
            continue;
        };
        if endpoints.iter().any(|other| other.name == endpoint.name) {
            let why = format!("two endpoints have the name {}", endpoint.name);
            item.fault(sink, why, "give this one another name: it is part of the instance's id");
        }
        endpoints.push(endpoint);
    }
    endpoints
}

fn endpoint(
    item: &Item<'_>,
    external: bool,
    service_ports: &[RegistryPort],
    sink: &mut Sink<'_>,
) -> Option<RegistryEndpoint> {
    let mut fields = item.fields(sink)?;
    let fix = "name it: it is the last part of the instance's id";
    let name = fields.need("name", fix, sink).and_then(|item| item.parsed(sink));
    let fix = "write an IP address of this host, `unix:/path`, or a name with `external: true`";
    let address_item = fields.need("address", fix, sink);
    let address = address_item.and_then(|item| address(&item, Some(external), sink));
    let port_item = fields.take("port");
    let port = port_item.as_ref().and_then(|item| item.port(sink));
    let ports = fields.take("ports").map(|item| named_ports(&item, service_ports, sink));
    if let Some(HostAddress::Unix(_)) = &address {
        if let Some(item) = &port_item {
            item.fault(sink, "a unix socket has no port", "leave `port` out");
        }
        if service_ports.len() > 1 {
            let why = "a unix socket is one port, and the service has several";
            item.fault(sink, why, "write a document of its own for the other ports");
        }
    }
    let version = fields.take("version").and_then(|item| item.parsed(sink));
    let weight = weight(&mut fields, sink);
    let tags = tags(&mut fields, sink);
    fields.finish(sink);
    Some(RegistryEndpoint {
        name: name?,
        address: address?,
        port,
        ports: ports.unwrap_or_default(),
        version,
        weight,
        tags,
    })
}

fn named_ports(
    item: &Item<'_>,
    ports: &[RegistryPort],
    sink: &mut Sink<'_>,
) -> BTreeMap<Label, u16> {
    let mut found = BTreeMap::new();
    for (name, item) in item.entries(limits::PORTS_MAX, sink) {
        let Some(port) = ports.iter().find(|port| port.name.as_str() == name) else {
            let known: Vec<&str> = ports.iter().map(|port| port.name.as_str()).collect();
            let why = format!("the service has no port of the name `{name}`");
            item.fault(sink, why, format!("its ports are: {}", known.join(", ")));
            continue;
        };
        if let Some(number) = item.port(sink) {
            found.insert(port.name.clone(), number);
        }
    }
    found
}

/// An endpoint's address. `external` is `None` where it is no matter on which host it is.
pub(crate) fn address(
    item: &Item<'_>,
    external: Option<bool>,
    sink: &mut Sink<'_>,
) -> Option<HostAddress> {
    let address: HostAddress = item.parsed(sink)?;
    if let Some(why) = value::forbidden(&address) {
        let why = format!("`{address}` cannot be an endpoint: {why}");
        item.fault(sink, why, "write the address of the service itself");
        return None;
    }
    let elsewhere = match &address {
        HostAddress::Unix(_) => false,
        HostAddress::Name(_) => true,
        HostAddress::Ip(ip) => !is_here(*ip, sink),
    };
    if external == Some(false) && elsewhere {
        item.fault(
            sink,
            format!("`{address}` is not an address of this host"),
            "register it on the host where it runs, or say `external: true` under spec if no \
             agent runs there",
        );
        return None;
    }
    Some(address)
}

fn is_here(ip: IpAddr, sink: &Sink<'_>) -> bool {
    let known = sink.inputs.addresses.as_ref();
    ip.is_loopback() || known.is_none_or(|addresses| addresses.contains(&ip))
}

/// `{unit: x.service}` or `{user: name}`.
pub(crate) fn process(item: &Item<'_>, sink: &mut Sink<'_>) -> Option<Process> {
    let mut fields = item.fields(sink)?;
    let unit = fields.take("unit").and_then(|item| unit(&item, sink));
    let user = fields.take("user").and_then(|item| {
        let text = item.plain(sink)?;
        let good = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.$".contains(&byte);
        let fits = !text.is_empty() && text.len() <= limits::LABEL_BYTES && text.bytes().all(good);
        if !fits {
            let why = format!("`{text}` is not a user");
            item.fault(sink, why, "write a user's name or number");
        }
        fits.then(|| text.to_owned())
    });
    fields.finish(sink);
    match (unit, user) {
        (Some(unit), None) => Some(Process::Unit(unit)),
        (None, Some(user)) => Some(Process::User(user)),
        _ => {
            let fix = "write `{unit: checkout.service}` or `{user: shop}`";
            item.fault(sink, "it must say a unit or a user, and one of them", fix);
            None
        }
    }
}

pub(crate) fn unit(item: &Item<'_>, sink: &mut Sink<'_>) -> Option<String> {
    let text = item.shown(sink)?;
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b":-_.\\@".contains(&byte);
    let ends = text.ends_with(".service") || text.ends_with(".scope");
    if ends && text.bytes().all(good) {
        return Some(text);
    }
    let why = format!("`{text}` is not a systemd unit that has processes");
    item.fault(sink, why, "write a name that ends in `.service` or `.scope`");
    None
}

fn run(item: &Item<'_>, sink: &mut Sink<'_>) -> Option<Run> {
    let mut fields = item.fields(sink)?;
    let unit = fields.take("unit").and_then(|item| unit(&item, sink));
    let command = fields.take("command").and_then(|item| command(&item, sink));
    fields.finish(sink);
    item.warn(
        sink,
        "this version does not start or restart services",
        "start it through systemd (`systemctl enable --now`); the rest of the document holds",
    );
    match (unit, command) {
        (Some(unit), None) => Some(Run::Unit(unit)),
        (None, Some(command)) => Some(Run::Command(command)),
        _ => {
            let fix = "write `{unit: checkout.service}` or `{command: [...]}`";
            item.fault(sink, "it must say a unit or a command, and one of them", fix);
            None
        }
    }
}

/// A command: only from a file that nobody else can write.
pub(crate) fn command(item: &Item<'_>, sink: &mut Sink<'_>) -> Option<Vec<String>> {
    if !sink.inputs.may_run_commands {
        item.fault(
            sink,
            "commands are run only from files that root or the agent's user owns and nobody else \
             can write, never from what came by the API",
            "put the document into such a file under the agent's -f directory (chown root, chmod 644)",
        );
        return None;
    }
    let items = item.list(limits::PORTS_MAX, sink)?;
    let words: Vec<String> = items.iter().filter_map(|item| item.shown(sink)).collect();
    if !words.first().is_some_and(|word| word.starts_with('/')) {
        let fix = "write a list, its first item an absolute path: `[/usr/bin/check, -q]`";
        item.fault(sink, "the command does not begin with an absolute path", fix);
        return None;
    }
    Some(words)
}

fn tls(item: &Item<'_>, external: bool, sink: &mut Sink<'_>) -> Option<String> {
    let mut fields = item.fields(sink)?;
    let fix = "write the name in its certificate: `serverName: orders.db.example.com`";
    let name = fields.need("serverName", fix, sink);
    let name = name.and_then(|item| {
        let text = item.shown(sink)?;
        if value::is_host(&text) {
            return Some(text);
        }
        item.fault(sink, format!("`{text}` is not a host name"), fix);
        None
    });
    fields.finish(sink);
    if !external {
        let why = "TLS is spoken to external services only";
        item.fault(sink, why, "leave `tls` out, or say `external: true`");
    }
    name
}

/// A port by number or name.
pub(crate) fn port_ref(item: &Item<'_>, sink: &mut Sink<'_>) -> Option<PortRef> {
    if item.is_number() {
        return item.port(sink).map(PortRef::Number);
    }
    item.parsed(sink).map(PortRef::Name)
}

const DEFAULT_WEIGHT: u32 = 10;
