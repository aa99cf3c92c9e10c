//! Doors: which service of the mesh is behind which port and host of a gateway.
//!
//! A host name, or a port without one, belongs to nobody by itself, and what a host registers is its
//! own word. So only services that the gateway's document lists are led to; what services of two
//! namespaces claim is opened for neither until `gateway.hosts` says whose it is; and within one
//! namespace what is open stays as it is.

use std::{collections::BTreeMap, sync::Arc};

use skein_protocol::{
    manifest::kinds::Gateway,
    name::{Label, ServiceName},
    record::node::{Protocol, ServicePort},
    route::PortRef,
};

use crate::proxy::{Door, ListenerSpec, Terms};

/// A service, and the port of it that is to be opened.
type Claim<'a> = (&'a ServiceName, &'a ServicePort);

/// What is open now, by port and host; `None` is the port itself.
pub(super) type Held<'a> = dyn Fn(u16, Option<&str>) -> Option<ServiceName> + 'a;

/// Decides what a gateway opens, and says what it does not.
pub(super) fn settle<'a>(
    gateway: &Gateway,
    services: impl Iterator<Item = (&'a ServiceName, &'a [ServicePort])>,
    held: &Held<'_>,
) -> (BTreeMap<u16, Door>, Vec<String>) {
    let mut problems = Vec::new();
    if gateway.services.is_empty() {
        problems.push(OPENS_NOTHING.to_owned());
        return (BTreeMap::new(), problems);
    }
    let mut ports: BTreeMap<u16, Vec<Claim<'a>>> = BTreeMap::new();
    for (name, served) in services {
        if !gateway.services.iter().any(|pattern| pattern.covers(name)) {
            continue;
        }
        let listed = |port: &ServicePort| {
            port.exposed && (gateway.ports.is_empty() || gateway.ports.contains(&port.port))
        };
        for port in served.iter().filter(|port| listed(port)) {
            match gateway.certificates.is_some() && is_tls_by_name(port) {
                true => problems.push(format!(
                    "gateway port {} is not opened: {name} calls it `{}`, which is bytes, and its TLS \
                     would go to the process: name it `http` (TLS ends here at ports of HTTP), or \
                     `tcp` if the process speaks TLS itself",
                    port.port, port.name
                )),
                false => ports.entry(port.port).or_default().push((name, port)),
            }
        }
    }
    for port in gateway.ports.iter().filter(|port| !ports.contains_key(port)) {
        problems.push(format!(
            "gateway port {port} is not opened: none of its `services` has that port with `type: \
             LoadBalancer`"
        ));
    }
    let mut doors = BTreeMap::new();
    for (number, claims) in ports {
        let mut settling = Settling { gateway, number, held, problems: &mut problems };
        let door = settling.door(claims);
        if door.other.is_some() || !door.by_host.is_empty() {
            doors.insert(number, door);
        }
    }
    problems.truncate(PROBLEMS);
    (doors, problems)
}

const OPENS_NOTHING: &str = "this gateway opens nothing: say whose ports it opens, for example \
                             `gateway: {services: [shop/*]}`";

/// Clashes that are told; others may make as many as they like.
const PROBLEMS: usize = 64;

/// Whether a port's name says that TLS is spoken there, and not by whom.
fn is_tls_by_name(port: &ServicePort) -> bool {
    let name = port.name.as_str();
    port.protocol == Protocol::Tcp && (name == "https" || name.starts_with("https-"))
}

fn is_requests(port: &ServicePort) -> bool {
    matches!(port.protocol, Protocol::Http | Protocol::Http2 | Protocol::Grpc)
}

/// A port that is being settled.
struct Settling<'s> {
    gateway: &'s Gateway,
    number: u16,
    held: &'s Held<'s>,
    problems: &'s mut Vec<String>,
}

impl Settling<'_> {
    fn door(&mut self, mut claims: Vec<Claim<'_>>) -> Door {
        let mut door = Door { proxies: self.gateway.proxies.clone(), ..Door::default() };
        if !claims.iter().all(|(_, port)| is_requests(port)) {
            claims = self.whole(claims);
        }
        let Some((_, first)) = claims.first() else { return door };
        door.protocol = Some(first.protocol);
        if !is_requests(first) {
            door.other = self.winner(None, claims).map(|service| self.spec(service));
            return door;
        }
        let mut by_host: BTreeMap<String, Vec<Claim<'_>>> = BTreeMap::new();
        let mut others = Vec::new();
        for claim in claims {
            match claim.1.hosts.is_empty() {
                true => others.push(claim),
                false => claim.1.hosts.iter().for_each(|host| {
                    by_host.entry(host.to_ascii_lowercase()).or_default().push(claim);
                }),
            }
        }
        door.other = self.winner(None, others).map(|service| self.spec(service));
        // The wide ones first: what is narrower must be theirs, or be given.
        let (wide, narrow): (Vec<_>, Vec<_>) =
            by_host.into_iter().partition(|(host, _)| host.starts_with("*."));
        for (host, claims) in wide.into_iter().chain(narrow) {
            let claims = self.below(&door, &host, claims);
            if let Some(service) = self.winner(Some(&host), claims) {
                door.by_host.insert(host, self.spec(service));
            }
        }
        door
    }

    /// Bytes name no host: those who may share a port at which some speak bytes.
    fn whole<'a>(&mut self, claims: Vec<Claim<'a>>) -> Vec<Claim<'a>> {
        let claims = self.assigned(None, claims);
        let held = (self.held)(self.number, None);
        let first = claims.iter().find(|(name, _)| Some(*name) == held.as_ref());
        let Some(first) = first.or_else(|| claims.first()).copied() else { return claims };
        let shares = |claim: &Claim<'_>| match is_requests(first.1) {
            true => is_requests(claim.1),
            false => claim.0 == first.0,
        };
        let (stay, go): (Vec<_>, Vec<_>) = claims.into_iter().partition(shares);
        for (name, _) in go {
            self.clash(first.0, name, ", and not both speak HTTP");
        }
        stay
    }

    /// Leaves out who claims a host within what another namespace has open.
    fn below<'a>(&mut self, door: &Door, host: &str, claims: Vec<Claim<'a>>) -> Vec<Claim<'a>> {
        if self.gateway.hosts.contains_key(host) {
            return claims;
        }
        let Some(wider) = door.at(host).map(|spec| spec.service.clone()) else { return claims };
        let same = |(name, _): &Claim<'_>| name.namespace() == wider.namespace();
        let (stay, go): (Vec<_>, Vec<_>) = claims.into_iter().partition(same);
        for (name, _) in go {
            let number = self.number;
            self.problems.push(format!(
                "{name} wants {host} of gateway port {number}, where {wider} has all such hosts: it \
                 goes there until the gateway says `hosts: {{\"{host}\": {}}}`",
                name.namespace()
            ));
        }
        stay
    }

    /// Those whom the gateway's document gives a host to; all, where that is not needed.
    fn assigned<'a>(&mut self, host: Option<&str>, claims: Vec<Claim<'a>>) -> Vec<Claim<'a>> {
        let key = host.map_or_else(|| self.number.to_string(), str::to_owned);
        if let Some(owner) = self.gateway.hosts.get(&key) {
            return claims.into_iter().filter(|(name, _)| owner.covers(name)).collect();
        }
        let namespace = |(name, _): &Claim<'a>| -> &'a Label { name.namespace() };
        let first = claims.first().map(namespace);
        if claims.iter().all(|claim| Some(namespace(claim)) == first) {
            return claims;
        }
        let names: Vec<String> = claims.iter().take(4).map(|(name, _)| name.to_string()).collect();
        self.problems.push(format!(
            "{} of gateway port {} is opened for nobody: {} claim it: say whose it is, `hosts: \
             {{\"{key}\": NAMESPACE}}` in the gateway's settings",
            host.unwrap_or("what names no other host"),
            self.number,
            names.join(" and ")
        ));
        Vec::new()
    }

    /// Who has a host, or the port.
    fn winner<'a>(
        &mut self,
        host: Option<&str>,
        claims: Vec<Claim<'a>>,
    ) -> Option<&'a ServiceName> {
        let claims = self.assigned(host, claims);
        let held = (self.held)(self.number, host);
        let open = claims.iter().find(|(name, _)| Some(*name) == held.as_ref());
        let (winner, _) = *open.or_else(|| claims.first())?;
        let why = host.map_or_else(|| " for all hosts".to_owned(), |host| format!(" for {host}"));
        for (name, _) in claims.iter().filter(|(name, _)| *name != winner) {
            self.clash(winner, name, &why);
        }
        Some(winner)
    }

    fn clash(&mut self, has: &ServiceName, wants: &ServiceName, why: &str) {
        let number = self.number;
        self.problems.push(format!(
            "{has} and {wants} both want gateway port {number}{why}: {has} has it; give them different \
             `hosts` or ports, or say `hosts` in the gateway's settings"
        ));
    }

    fn spec(&self, service: &ServiceName) -> Arc<ListenerSpec> {
        Arc::new(ListenerSpec {
            name: format!("gateway port {}", self.number),
            service: service.clone(),
            port: PortRef::Number(self.number),
            terms: Terms::default(),
            outside: true,
            door: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use skein_protocol::name::ServicePattern;

    use super::*;

    fn owner(text: &str) -> ServicePattern {
        text.parse().unwrap()
    }

    fn gateway(services: &[&str], hosts: &[(&str, &str)]) -> Gateway {
        Gateway {
            ports: Vec::new(),
            services: services.iter().map(|text| owner(text)).collect(),
            hosts: hosts.iter().map(|(host, of)| ((*host).to_owned(), owner(of))).collect(),
            certificates: None,
            proxies: Vec::new(),
        }
    }

    fn port(name: &str, number: u16, protocol: Protocol, hosts: &[&str]) -> ServicePort {
        ServicePort {
            name: name.parse().unwrap(),
            port: number,
            protocol,
            exposed: true,
            hosts: hosts.iter().map(|host| (*host).to_owned()).collect(),
        }
    }

    fn http(hosts: &[&str]) -> ServicePort {
        port("http", 80, Protocol::Http, hosts)
    }

    type All<'a> = &'a [(&'a str, ServicePort)];

    /// Where each host of port 80 leads, and the problems.
    fn leads(gateway: &Gateway, all: All<'_>, held: &Held<'_>, host: &str) -> (String, String) {
        let named: Vec<(ServiceName, Vec<ServicePort>)> =
            all.iter().map(|(name, port)| (name.parse().unwrap(), vec![port.clone()])).collect();
        let services = named.iter().map(|(name, ports)| (name, ports.as_slice()));
        let (doors, problems) = settle(gateway, services, held);
        let at = doors.get(&80).and_then(|door| door.at(host));
        (at.map(|spec| spec.service.to_string()).unwrap_or_default(), problems.join("\n"))
    }

    fn nothing(_: u16, _: Option<&str>) -> Option<ServiceName> {
        None
    }

    #[test]
    fn what_is_not_listed_is_not_opened() {
        let all = [("shop/web", http(&[]))];
        let (none, said) = leads(&gateway(&[], &[]), &all, &nothing, "a");
        assert!(none.is_empty() && said.contains("opens nothing"), "{none} {said}");
        assert_eq!(leads(&gateway(&["lab/*"], &[]), &all, &nothing, "a").0, "");
        assert_eq!(leads(&gateway(&["shop/*"], &[]), &all, &nothing, "a").0, "shop/web");
        let one = Gateway { ports: vec![443], ..gateway(&["shop/*"], &[]) };
        let (none, said) = leads(&one, &all, &nothing, "a");
        assert!(none.is_empty() && said.contains("gateway port 443 is not opened"), "{said}");
    }

    #[test]
    fn what_two_namespaces_claim_is_nobodys_until_it_is_given() {
        for hosts in [&["bank.example.com"][..], &[]] {
            let all = [("lab/a", http(hosts)), ("shop/web", http(hosts))];
            let (none, said) = leads(&gateway(&["*/*"], &[]), &all, &nothing, "bank.example.com");
            assert_eq!(none, "");
            assert!(said.contains("lab/a and shop/web claim it"), "{said}");
            // Not by being there first.
            let held = |_: u16, _: Option<&str>| Some("lab/a".parse().unwrap());
            assert_eq!(leads(&gateway(&["*/*"], &[]), &all, &held, "bank.example.com").0, "");
            let key = hosts.first().copied().unwrap_or("80");
            for (owner, wanted) in [("shop/*", "shop/web"), ("lab/a", "lab/a")] {
                let given = gateway(&["*/*"], &[(key, owner)]);
                let (got, said) = leads(&given, &all, &held, "bank.example.com");
                assert_eq!((got.as_str(), said.as_str()), (wanted, ""));
            }
        }
    }

    #[test]
    fn a_host_within_anothers_is_led_there_until_it_is_given() {
        let wide: [&[&str]; 2] = [&["*.example.com"], &[]];
        for hosts in wide {
            let all = [("lab/a", http(&["bank.example.com"])), ("shop/web", http(hosts))];
            let (got, said) = leads(&gateway(&["*/*"], &[]), &all, &nothing, "bank.example.com");
            assert_eq!(got, "shop/web");
            assert!(said.contains("lab/a wants bank.example.com"), "{said}");
            let given = gateway(&["*/*"], &[("bank.example.com", "lab/*")]);
            assert_eq!(leads(&given, &all, &nothing, "bank.example.com").0, "lab/a");
        }
    }

    #[test]
    fn within_a_namespace_what_is_open_stays() {
        let all = [("shop/alpha", http(&[])), ("shop/beta", http(&[]))];
        let one = gateway(&["shop/*"], &[]);
        assert_eq!(leads(&one, &all, &nothing, "a").0, "shop/alpha");
        let held = |_: u16, _: Option<&str>| Some("shop/beta".parse().unwrap());
        let (got, said) = leads(&one, &all, &held, "a");
        assert_eq!(got, "shop/beta");
        assert!(said.contains("both want gateway port 80"), "{said}");
        // Nor does one that speaks something else take the port from it.
        let all = [("shop/alpha", port("tcp", 80, Protocol::Tcp, &[])), ("shop/beta", http(&[]))];
        assert_eq!(leads(&one, &all, &held, "a").0, "shop/beta");
        assert_eq!(leads(&one, &all, &nothing, "a").0, "shop/alpha");
    }

    #[test]
    fn tls_is_never_passed_to_a_process_where_certificates_say_that_it_ends() {
        let all = [("shop/web", port("https", 80, Protocol::Tcp, &[]))];
        let one = gateway(&["shop/*"], &[]);
        assert_eq!(leads(&one, &all, &nothing, "a").0, "shop/web");
        let ends = Gateway { certificates: Some("tls.d".to_owned()), ..one };
        let (none, said) = leads(&ends, &all, &nothing, "a");
        assert!(none.is_empty() && said.contains("name it `http`"), "{said}");
    }
}
