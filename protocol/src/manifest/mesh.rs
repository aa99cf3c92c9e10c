//! ServiceMesh: from tree to type, every default of the agent in one place.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use super::{
    kinds::{Advertised, Capture, Gateway, Mesh, MeshPort, Seed, Transport},
    reader::{Fields, Inputs, Item, Sink},
    registry::exposed,
    value::{self, HostAddress, Image, Ipv4Range, is_host, word},
};
use crate::{
    limits,
    name::{Label, ServicePattern},
};

impl Default for Mesh {
    /// What holds without a document, in the namespace `default`.
    fn default() -> Self {
        let port = |port| MeshPort {
            port,
            target: port,
            exposed: false,
            address: None,
            advertise: Vec::new(),
        };
        Self {
            namespace: word("default"),
            mesh_port: port(MESH_PORT),
            http_port: port(HTTP_PORT),
            dns_port: port(DNS_PORT),
            seeds: Vec::new(),
            service_mesh: None,
            service_cluster: None,
            network: word("default"),
            gossip_cluster: word("main"),
            ca: None,
            certificate: None,
            key: None,
            password: None,
            service_port: None,
            service_target_port: None,
            service_discovery: None,
            traffic_policy: None,
            enable_logs: true,
            debug: false,
            disable_auto_restart: false,
            gateway: None,
            transport: Transport::Auto,
            capture: Capture::Auto,
            virtual_addresses: Ipv4Range { base: Ipv4Addr::new(127, 128, 0, 0), prefix: 9 },
            drain: DRAIN,
            dns_forward: BTreeMap::new(),
        }
    }
}

/// Reads `spec` of a ServiceMesh.
pub(crate) fn mesh(spec: &Item<'_>, namespace: &Label, sink: &mut Sink<'_>) -> Option<Mesh> {
    let mut fields = spec.fields(sink)?;
    let mut mesh = Mesh { namespace: namespace.clone(), ..Mesh::default() };
    if let Some(item) = fields.take("image") {
        image(&item, sink);
    }
    if let Some(item) = fields.take("ports") {
        ports(&item, &mut mesh, sink);
    }
    if let Some(item) = fields.take("endpoints") {
        let items = item.list(limits::ENDPOINTS_MAX, sink).unwrap_or_default();
        mesh.seeds = items.iter().filter_map(|item| seed(item, sink)).collect();
    }
    if let Some(mut config) = fields.take("meshConfig").and_then(|item| item.fields(sink)) {
        identity(&mut config, &mut mesh, sink);
        defaults(&mut config, &mut mesh, sink);
        behaviour(&mut config, &mut mesh, sink);
        config.finish(sink);
    }
    fields.finish(sink);
    Some(mesh)
}

/// Puts what `read` found in `field` into `place`, if it found something.
fn set<T>(
    fields: &mut Fields<'_>,
    field: &'static str,
    place: &mut T,
    read: impl FnOnce(&Item<'_>) -> Option<T>,
) {
    if let Some(value) = fields.take(field).and_then(|item| read(&item)) {
        *place = value;
    }
}

fn identity(fields: &mut Fields<'_>, mesh: &mut Mesh, sink: &mut Sink<'_>) {
    set(fields, "serviceMesh", &mut mesh.service_mesh, |item| Some(item.parsed(sink)));
    set(fields, "serviceCluster", &mut mesh.service_cluster, |item| Some(item.parsed(sink)));
    set(fields, "network", &mut mesh.network, |item| item.parsed(sink));
    set(fields, "gossipCluster", &mut mesh.gossip_cluster, |item| item.parsed(sink));
    set(fields, "meshCA", &mut mesh.ca, |item| Some(item.shown(sink)));
    set(fields, "meshCertificate", &mut mesh.certificate, |item| Some(item.shown(sink)));
    set(fields, "meshKey", &mut mesh.key, |item| Some(item.shown(sink)));
    set(fields, "meshPassword", &mut mesh.password, |item| Some(item.secret(sink)));
}

fn defaults(fields: &mut Fields<'_>, mesh: &mut Mesh, sink: &mut Sink<'_>) {
    set(fields, "servicePort", &mut mesh.service_port, |item| Some(item.port(sink)));
    let target = &mut mesh.service_target_port;
    set(fields, "serviceTargetPort", target, |item| Some(item.port(sink)));
    let discovery = &mut mesh.service_discovery;
    set(fields, "serviceDiscovery", discovery, |item| Some(item.parsed(sink)));
    set(fields, "trafficPolicy", &mut mesh.traffic_policy, |item| Some(item.parsed(sink)));
}

fn behaviour(fields: &mut Fields<'_>, mesh: &mut Mesh, sink: &mut Sink<'_>) {
    set(fields, "enableLogs", &mut mesh.enable_logs, |item| item.truth(sink));
    set(fields, "debug", &mut mesh.debug, |item| item.truth(sink));
    let restart = &mut mesh.disable_auto_restart;
    set(fields, "disableAutoRestart", restart, |item| item.truth(sink));
    set(fields, "gateway", &mut mesh.gateway, |item| gateway(item, sink));
    set(fields, "transport", &mut mesh.transport, |item| {
        let words = [("auto", Transport::Auto), ("quic", Transport::Quic), ("tcp", Transport::Tcp)];
        item.one_of(&words, sink)
    });
    set(fields, "capture", &mut mesh.capture, |item| {
        let words = [
            ("auto", Capture::Auto),
            ("redirect", Capture::Redirect),
            ("listen", Capture::Listen),
            ("off", Capture::Off),
        ];
        item.one_of(&words, sink)
    });
    let range = &mut mesh.virtual_addresses;
    set(fields, "virtualAddresses", range, |item| virtual_range(item, sink));
    set(fields, "drain", &mut mesh.drain, |item| item.duration(sink));
    set(fields, "dnsForward", &mut mesh.dns_forward, |item| Some(forwards(item, sink)));
}

/// The agent version that the document was written for: another one warns.
fn image(item: &Item<'_>, sink: &mut Sink<'_>) {
    let image: Option<Image> = item.parsed(sink);
    let (Some(tag), Inputs { agent_version: Some(version), .. }) =
        (image.and_then(|image| image.tag), sink.inputs)
    else {
        return;
    };
    // Before version 1 the documents of `skein:1` are what the agent reads.
    let same = version.starts_with("0.") && tag.as_str() == "1";
    let covered = crate::route::subset::version_covers(tag.as_str(), version);
    if !same && !covered {
        item.warn(
            sink,
            format!("written for skein {tag}, this agent is {version}"),
            "check the CHANGELOG between the two, then write this version here",
        );
    }
}

fn ports(item: &Item<'_>, mesh: &mut Mesh, sink: &mut Sink<'_>) {
    let mut seen: Vec<&str> = Vec::new();
    for item in item.list(limits::PORTS_MAX, sink).unwrap_or_default() {
        let Some(mut fields) = item.fields(sink) else {
            continue;
        };
        let fix = "say which: `mesh`, `http` or `dns`";
        let words = [("mesh", "mesh"), ("grpc", "mesh"), ("http", "http"), ("dns", "dns")];
        let name = fields.need("name", fix, sink);
        let Some(role) = name.and_then(|item| item.one_of(&words, sink)) else {
            continue;
        };
        if seen.contains(&role) {
            let why = format!("the port {role} stands twice");
            item.fault(sink, why, "leave one out (grpc is the old name of mesh)");
        }
        seen.push(role);
        let place = match role {
            "mesh" => &mut mesh.mesh_port,
            "http" => &mut mesh.http_port,
            _ => &mut mesh.dns_port,
        };
        port(&mut fields, role == "mesh", place, sink);
        fields.finish(sink);
    }
    // mesh and dns both take UDP and TCP on their number; http takes TCP.
    let [mesh_port, http, dns] = [&mesh.mesh_port, &mesh.http_port, &mesh.dns_port];
    if mesh_port.target == http.target
        || http.target == dns.target
        || mesh_port.target == dns.target
    {
        let why = "two of the agent's ports have one number (left out: 7400, 7401, 7402)";
        item.fault(sink, why, "give mesh, http and dns a number each");
    }
}

fn port(fields: &mut Fields<'_>, is_mesh: bool, place: &mut MeshPort, sink: &mut Sink<'_>) {
    let port = fields.take("port").and_then(|item| item.port(sink));
    let target = fields.take("targetPort").and_then(|item| item.port(sink));
    place.port = port.or(target).unwrap_or(place.port);
    place.target = target.unwrap_or(place.port);
    place.exposed = exposed(fields, sink);
    place.address = fields.take("address").and_then(|item| ip(&item, sink));
    if let (true, Some(item)) = (is_mesh || fields.has("advertise"), fields.take("advertise")) {
        if !is_mesh {
            item.fault(sink, "only the mesh port is advertised", "move it to `name: mesh`");
        }
        place.advertise = advertised(&item, sink);
    }
}

fn ip(item: &Item<'_>, sink: &mut Sink<'_>) -> Option<IpAddr> {
    let text = item.text(sink)?;
    let parsed = text.parse::<IpAddr>().ok();
    if parsed.is_none() {
        let why = format!("`{text}` is not an IP address");
        item.fault(sink, why, "write one, for example 203.0.113.7");
    }
    parsed
}

fn advertised(item: &Item<'_>, sink: &mut Sink<'_>) -> Vec<Advertised> {
    if item.is_text() {
        let ip = reachable(item, sink);
        let one = |ip| Advertised { network: None, ip, port: None };
        return ip.map(one).into_iter().collect();
    }
    let items = item.list(limits::ADDRESSES_MAX, sink).unwrap_or_default();
    let one = |item: &Item<'_>| {
        let mut fields = item.fields(sink)?;
        let network = fields.take("network").and_then(|item| item.parsed(sink));
        let fix = "write the IP address that others dial";
        let address = fields.need("address", fix, sink);
        let address = address.and_then(|item| reachable(&item, sink));
        let port = fields.take("port").and_then(|item| item.port(sink));
        fields.finish(sink);
        Some(Advertised { network, ip: address?, port })
    };
    items.iter().filter_map(one).collect()
}

fn reachable(item: &Item<'_>, sink: &mut Sink<'_>) -> Option<IpAddr> {
    let ip = ip(item, sink)?;
    if let Some(why) = value::forbidden(&HostAddress::Ip(ip)) {
        let why = format!("{ip} cannot be advertised: {why}");
        item.fault(sink, why, "write an address at which other agents reach this host");
        return None;
    }
    Some(ip)
}

fn seed(item: &Item<'_>, sink: &mut Sink<'_>) -> Option<Seed> {
    let mut fields = item.fields(sink)?;
    let name = fields.need("name", "name it", sink);
    let name = name.and_then(|item| item.parsed(sink));
    let fix = "write the IP address or host name of another agent";
    let address_item = fields.need("address", fix, sink);
    let address = address_item.and_then(|item| {
        let address = super::registry::address(&item, None, sink)?;
        if let HostAddress::Unix(_) = address {
            item.fault(sink, "an agent is not joined by a unix socket", fix);
            return None;
        }
        Some(address)
    });
    let port = fields.take("port").and_then(|item| item.port(sink));
    fields.finish(sink);
    Some(Seed { name: name?, target: address?.with_port(port.unwrap_or(MESH_PORT)) })
}

fn gateway(item: &Item<'_>, sink: &mut Sink<'_>) -> Option<Option<Gateway>> {
    if item.is_truth() {
        let open = item.truth(sink)?;
        let all = Gateway {
            ports: Vec::new(),
            services: Vec::new(),
            hosts: BTreeMap::new(),
            certificates: None,
            proxies: Vec::new(),
        };
        return Some(open.then_some(all));
    }
    let mut fields = item.fields(sink)?;
    let ports = fields.take("ports").map(|item| {
        let items = item.list(limits::PORTS_MAX, sink).unwrap_or_default();
        items.iter().filter_map(|item| item.port(sink)).collect()
    });
    let services = fields.take("services").map(|item| item.list_of(limits::GRANT_SERVICES, sink));
    let hosts = fields.take("hosts").map(|item| owners(&item, sink));
    let certificates = fields.take("certificates").and_then(|item| item.shown(sink));
    let proxies = fields.take("proxyProtocol").map(|item| item.list_of(limits::PORTS_MAX, sink));
    fields.finish(sink);
    Some(Some(Gateway {
        ports: ports.unwrap_or_default(),
        services: services.unwrap_or_default(),
        hosts: hosts.unwrap_or_default(),
        certificates,
        proxies: proxies.unwrap_or_default(),
    }))
}

/// Whose host names and ports are: a namespace, or a service.
fn owners(item: &Item<'_>, sink: &mut Sink<'_>) -> BTreeMap<String, ServicePattern> {
    let mut found = BTreeMap::new();
    for (host, item) in item.entries(limits::GATEWAY_HOSTS, sink) {
        let Some(text) = item.text(sink) else {
            continue;
        };
        let owner = match text.contains('/') {
            true => text.parse().ok(),
            false => Label::new(text).ok().map(ServicePattern::Namespace),
        };
        let named = host.strip_prefix("*.").unwrap_or(host);
        match owner.filter(|owner| *owner != ServicePattern::All) {
            Some(owner) if is_host(named) || host.parse::<u16>().is_ok_and(|port| port > 0) => {
                found.insert(host.to_ascii_lowercase(), owner);
            }
            _ => item.fault(
                sink,
                format!("`{host}: {text}` does not say whose a host is"),
                "write a host name or a port, and a namespace or a service: `shop.example.com: shop`",
            ),
        }
    }
    found
}

fn virtual_range(item: &Item<'_>, sink: &mut Sink<'_>) -> Option<Ipv4Range> {
    let range: Ipv4Range = item.parsed(sink)?;
    let own = range.contains(Ipv4Addr::LOCALHOST);
    if !range.base.is_loopback() || own {
        item.fault(
            sink,
            format!("{range} is not within 127.0.0.0/8, or holds 127.0.0.1"),
            "write a part of the loopback range that nothing else uses: `127.128.0.0/9`",
        );
        return None;
    }
    Some(range)
}

fn forwards(item: &Item<'_>, sink: &mut Sink<'_>) -> BTreeMap<String, SocketAddr> {
    let mut found = BTreeMap::new();
    for (zone, item) in item.entries(limits::PORTS_MAX, sink) {
        let Some(text) = item.text(sink) else {
            continue;
        };
        match text.parse::<SocketAddr>() {
            Ok(address) if is_host(zone) => {
                found.insert(zone.trim_end_matches('.').to_ascii_lowercase(), address);
            }
            _ => item.fault(
                sink,
                format!("`{zone}: {text}` is not a zone and its resolver"),
                "write a zone and an address with a port: `consul: \"127.0.0.1:8600\"`",
            ),
        }
    }
    found
}

const MESH_PORT: u16 = 7400;
const HTTP_PORT: u16 = 7401;
const DNS_PORT: u16 = 7402;
const DRAIN: Duration = Duration::from_secs(30);
