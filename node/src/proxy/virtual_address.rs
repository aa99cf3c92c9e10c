//! Virtual addresses: one loopback address for each service, kept for ever.
//!
//! In:    services, and in `listen` mode what local services and other programs listen at.
//! Out:   what stands at each address and port; what cannot be bound, with the line that replaces it.
//! Never: gives a service another address than the one it had while there is room, takes a port
//!        that an application of this host uses or that a wildcard listener holds: an application
//!        on 0.0.0.0:P and an agent on 127.128.0.5:P exclude each other.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
    net::{Ipv4Addr, SocketAddrV4},
    str::FromStr,
    sync::Arc,
};

use skein_protocol::{
    limits,
    name::{Hash, ServiceName},
    route::PortRef,
    view::ServiceView,
};

use super::{Bind, ListenProblem, ListenerSpec, Terms};

/// Where the addresses given out are kept over restarts.
pub trait AddressBook: Send {
    /// All that were given out; empty on the first start.
    fn load(&self) -> io::Result<BTreeMap<ServiceName, Ipv4Addr>>;
    /// Keeps more, before they are used.
    fn save(&mut self, given: &[(ServiceName, Ipv4Addr)]) -> io::Result<()>;
    /// Keeps those of these services no longer.
    fn forget(&mut self, services: &[ServiceName]) -> io::Result<()>;
}

/// A range of loopback addresses: `127.128.0.0/9`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VirtualRange {
    base: u32,
    bits: u32,
}

/// Why a text is no range of virtual addresses.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is no range for virtual addresses: write 127.x.0.0/9 to /16 within 127.0.0.0/8")]
pub struct BadRange(String);

impl fmt::Display for VirtualRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.base), self.bits)
    }
}

impl VirtualRange {
    /// The range when nothing is said, and for `--bind 127.0.0.N`: 127.(128 + N mod 128).0.0/16.
    pub fn for_bind(bind: Option<Ipv4Addr>) -> Self {
        match bind.filter(Ipv4Addr::is_loopback) {
            None => Self { base: u32::from(Ipv4Addr::new(127, 128, 0, 0)), bits: 9 },
            Some(address) => {
                let [.., last] = address.octets();
                Self { base: u32::from(Ipv4Addr::new(127, 128 + last % 128, 0, 0)), bits: 16 }
            }
        }
    }

    /// Whether `address` may be given out: the range's own ends and those of each /24 are left
    /// out, since some programs refuse .0 and .255.
    pub fn may_give(&self, address: Ipv4Addr) -> bool {
        let [.., last] = address.octets();
        u32::from(address) & self.mask() == self.base && last != 0 && last != 255
    }

    fn mask(&self) -> u32 {
        u32::MAX << (32 - self.bits)
    }

    fn at(&self, place: u64) -> Ipv4Addr {
        let inner = u64::from(!self.mask());
        let offset = u32::try_from(place & inner).unwrap_or(0);
        Ipv4Addr::from(self.base | offset)
    }
}

impl FromStr for VirtualRange {
    type Err = BadRange;

    fn from_str(text: &str) -> Result<Self, BadRange> {
        let bad = || BadRange(text.to_owned());
        let (base, bits) = text.split_once('/').ok_or_else(bad)?;
        let base: Ipv4Addr = base.parse().map_err(|_| bad())?;
        let bits: u32 = bits.parse().map_err(|_| bad())?;
        let range = Self { base: u32::from(base), bits };
        let fits = (9..=16).contains(&bits) && base.is_loopback();
        if fits && range.base & !range.mask() == 0 { Ok(range) } else { Err(bad()) }
    }
}

/// Why a service has no virtual address.
#[derive(Debug, thiserror::Error)]
pub enum NoAddress {
    /// As many as there may be were given out.
    #[error(
        "{0} services have a virtual address on this host, as many as may: use a ServiceDiscovery document"
    )]
    Full(usize),
    /// It could not be kept, so it was not given out.
    #[error("the address of `{service}` could not be kept: {error}: check the agent's directory")]
    NotKept {
        /// Of which, or of the first of several.
        service: ServiceName,
        /// Why.
        error: io::Error,
    },
}

/// The addresses that this host has given to services.
pub struct VirtualAddresses {
    range: VirtualRange,
    given: BTreeMap<ServiceName, Ipv4Addr>,
    used: BTreeSet<Ipv4Addr>,
    book: Box<dyn AddressBook>,
}

impl VirtualAddresses {
    /// What the book holds. An address outside of the range is not used: the range was changed.
    pub fn open(range: VirtualRange, book: Box<dyn AddressBook>) -> io::Result<Self> {
        let mut given = book.load()?;
        given.retain(|_, address| range.may_give(*address));
        let used = given.values().copied().collect();
        Ok(Self { range, given, used, book })
    }

    /// The address of a service, if it has one.
    pub fn of(&self, service: &ServiceName) -> Option<Ipv4Addr> {
        self.given.get(service).copied()
    }

    /// Every address given out.
    pub fn all(&self) -> &BTreeMap<ServiceName, Ipv4Addr> {
        &self.given
    }

    /// The address of a service; a new one is kept before it is returned.
    pub fn give(&mut self, service: &ServiceName) -> Result<Ipv4Addr, NoAddress> {
        self.give_all([service])?;
        self.of(service).ok_or(NoAddress::Full(self.given.len()))
    }

    /// An address for each of these services that has none, all kept by one write before any is
    /// given out. With the last free one given, the rest has none.
    pub fn give_all<'s>(
        &mut self,
        services: impl IntoIterator<Item = &'s ServiceName>,
    ) -> Result<(), NoAddress> {
        let mut fresh: Vec<(ServiceName, Ipv4Addr)> = Vec::new();
        let mut full = false;
        for service in services {
            if self.given.contains_key(service) {
                continue;
            }
            let room = self.given.len() + fresh.len() < limits::VIRTUAL_ADDRESSES_MAX;
            match room.then(|| self.free(service)).flatten() {
                Some(address) => {
                    self.used.insert(address);
                    fresh.push((service.clone(), address));
                }
                None => full = true,
            }
        }
        if let Some((first, _)) = fresh.first()
            && let Err(error) = self.book.save(&fresh)
        {
            let service = first.clone();
            for (_, address) in &fresh {
                self.used.remove(address);
            }
            return Err(NoAddress::NotKept { service, error });
        }
        self.given.extend(fresh);
        if full { Err(NoAddress::Full(self.given.len())) } else { Ok(()) }
    }

    /// Takes back the addresses of services that are not `known`, where no other is left: whoever
    /// may register services could otherwise use them all up with names that come and go. One that
    /// comes back gets the same as a rule, since each name has a place of its own. False if there
    /// are none.
    pub fn make_room(&mut self, known: impl Fn(&ServiceName) -> bool) -> io::Result<bool> {
        let gone: Vec<ServiceName> =
            self.given.keys().filter(|service| !known(service)).cloned().collect();
        self.book.forget(&gone)?;
        for service in &gone {
            if let Some(address) = self.given.remove(service) {
                self.used.remove(&address);
            }
        }
        Ok(!gone.is_empty())
    }

    /// The first free one from the name's own place on, so that hosts tend to agree.
    fn free(&self, service: &ServiceName) -> Option<Ipv4Addr> {
        let start = Hash::of(&[b"skein/virtual-address", service.to_string().as_bytes()]).prefix();
        (0..PLACES_TRIED)
            .map(|step| self.range.at(start.wrapping_add(step)))
            .find(|address| self.range.may_give(*address) && !self.used.contains(address))
    }
}

/// What holds ports on this host.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Occupied {
    /// Ports of local services' applications, and who.
    pub local: BTreeMap<u16, String>,
    /// Ports that some program holds on all addresses.
    pub wildcard: BTreeSet<u16>,
}

/// What stands at one service's virtual address, by port.
pub fn stands(
    service: &ServiceView,
    address: Ipv4Addr,
    terms: &Terms,
) -> BTreeMap<SocketAddrV4, Arc<ListenerSpec>> {
    let spec = |port: u16| ListenerSpec {
        name: format!("virtual address of {}", service.name),
        service: service.name.clone(),
        port: PortRef::Number(port),
        terms: terms.clone(),
        outside: false,
        door: None,
    };
    let ports = service.ports.iter().map(|port| port.port);
    ports.map(|port| (SocketAddrV4::new(address, port), Arc::new(spec(port)))).collect()
}

/// Listeners for one service's virtual address: what can be bound, and what cannot.
pub fn plan(
    service: &ServiceView,
    address: Ipv4Addr,
    terms: &Terms,
    occupied: &Occupied,
) -> (BTreeMap<Bind, Arc<ListenerSpec>>, Vec<ListenProblem>) {
    let mut listeners = BTreeMap::new();
    let mut problems = Vec::new();
    for (at, spec) in stands(service, address, terms) {
        let bind = Bind::Tcp(at.into());
        match occupied.holder(at.port()) {
            Some(holder) => {
                let what = conflict(service, address, at.port(), &holder);
                problems.push(ListenProblem { bind, listener: spec.name.clone(), what });
            }
            None => {
                listeners.insert(bind, spec);
            }
        }
    }
    (listeners, problems)
}

impl Occupied {
    fn holder(&self, port: u16) -> Option<String> {
        let local = self.local.get(&port);
        let local = local.map(|who| format!("{who} on this host uses port {port}"));
        let wildcard = || format!("a program listens on all addresses of port {port}");
        local.or_else(|| self.wildcard.contains(&port).then(wildcard))
    }
}

/// Says who is in the way, and the document that gives the service another port here.
fn conflict(service: &ServiceView, address: Ipv4Addr, port: u16, holder: &str) -> String {
    let (namespace, name) = (service.name.namespace(), service.name.name());
    let other = port.checked_add(10_000).unwrap_or_else(|| port - 10_000);
    format!(
        "{address}:{port} for `{}` is not bound: {holder}. Instead: `{{apiVersion: skein/v1, \
         kind: ServiceDiscovery, metadata: {{name: {name}, namespace: {namespace}}}, spec: \
         {{ports: [{{port: {other}, targetPort: {port}}}]}}}}`",
        service.name
    )
}

/// The ports that some program holds on all addresses: from the text of /proc/net/tcp and
/// /proc/net/tcp6. Lines of another shape are passed over.
pub fn wildcard_ports(table: &str) -> BTreeSet<u16> {
    let listens = |line: &str| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let (address, port) = fields.next()?.split_once(':')?;
        let state = fields.nth(1)?;
        let wildcard = !address.is_empty() && address.bytes().all(|digit| digit == b'0');
        (wildcard && state == LISTEN).then(|| u16::from_str_radix(port, 16).ok())?
    };
    table.lines().filter_map(listens).collect()
}

/// TCP_LISTEN in the kernel's tables (tcp_states.h).
const LISTEN: &str = "0A";
/// Places tried for a free address: at the worst all given out stand in one row.
const PLACES_TRIED: u64 = 65_536;

#[cfg(test)]
mod tests {
    use skein_protocol::record::node::{Protocol, ServicePort};

    use super::*;

    #[derive(Clone, Default)]
    struct Book {
        kept: BTreeMap<ServiceName, Ipv4Addr>,
        broken: bool,
    }

    impl AddressBook for Book {
        fn load(&self) -> io::Result<BTreeMap<ServiceName, Ipv4Addr>> {
            Ok(self.kept.clone())
        }

        fn save(&mut self, given: &[(ServiceName, Ipv4Addr)]) -> io::Result<()> {
            if self.broken {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.kept.extend(given.iter().cloned());
            Ok(())
        }

        fn forget(&mut self, services: &[ServiceName]) -> io::Result<()> {
            self.kept.retain(|service, _| !services.contains(service));
            Ok(())
        }
    }

    fn addresses(range: &str, book: Book) -> VirtualAddresses {
        VirtualAddresses::open(range.parse().unwrap(), Box::new(book)).unwrap()
    }

    fn service(ports: &[u16]) -> ServiceView {
        let port = |port: &u16| ServicePort {
            name: format!("p{port}").parse().unwrap(),
            port: *port,
            protocol: Protocol::Tcp,
            exposed: false,
            hosts: Vec::new(),
        };
        ServiceView {
            name: "shop/checkout".parse().unwrap(),
            ports: ports.iter().map(port).collect(),
            endpoints: Vec::new(),
        }
    }

    #[test]
    fn a_range_lies_within_loopback() {
        for good in ["127.128.0.0/9", "127.139.0.0/16"] {
            assert!(good.parse::<VirtualRange>().is_ok(), "{good}");
        }
        for bad in ["10.0.0.0/9", "127.0.0.0/8", "127.128.0.1/9", "127.128.0.0", "x/9"] {
            assert!(bad.parse::<VirtualRange>().is_err(), "{bad}");
        }
        let bound = VirtualRange::for_bind(Some(Ipv4Addr::new(127, 0, 0, 11)));
        assert_eq!(Ok(bound), "127.139.0.0/16".parse());
        assert_eq!(Ok(VirtualRange::for_bind(None)), "127.128.0.0/9".parse());
    }

    #[test]
    fn an_address_is_kept_before_it_is_given() {
        let name: ServiceName = "shop/db".parse().unwrap();
        let mut broken = addresses("127.128.0.0/9", Book { broken: true, ..Book::default() });
        assert!(matches!(broken.give(&name), Err(NoAddress::NotKept { .. })));
        assert_eq!(broken.of(&name), None);
        assert!(broken.used.is_empty(), "what was not kept is free");
    }

    #[test]
    fn an_address_survives_a_restart_and_leaves_its_place_to_nobody() {
        let name: ServiceName = "shop/db".parse().unwrap();
        let kept = Ipv4Addr::new(127, 139, 7, 7);
        let book = Book { kept: [(name.clone(), kept)].into(), broken: false };
        assert_eq!(addresses("127.139.0.0/16", book.clone()).give(&name).unwrap(), kept);
        let moved = addresses("127.140.0.0/16", book).give(&name).unwrap();
        assert_eq!(moved.octets()[1], 140);
    }

    #[test]
    fn names_that_come_and_go_do_not_use_up_all_addresses() {
        let mut addresses = addresses("127.139.0.0/16", Book::default());
        let own: ServiceName = "shop/own".parse().unwrap();
        let at = addresses.give(&own).unwrap();
        let names: Vec<ServiceName> = (0..limits::VIRTUAL_ADDRESSES_MAX)
            .map(|number| format!("evil/s{number}").parse().unwrap())
            .collect();
        assert!(matches!(addresses.give_all(&names), Err(NoAddress::Full(_))));
        let late: ServiceName = "shop/late".parse().unwrap();
        assert!(addresses.give(&late).is_err());
        assert!(addresses.make_room(|service| *service == own).unwrap());
        assert_eq!(addresses.of(&own), Some(at), "what is known keeps its own");
        assert!(addresses.give(&late).is_ok());
        assert!(!addresses.make_room(|_| true).unwrap());
    }

    #[test]
    fn a_port_in_use_is_not_bound_and_the_document_that_replaces_it_is_shown() {
        let occupied =
            Occupied { local: [(80, "shop/web/a".to_owned())].into(), wildcard: [443].into() };
        let at = Ipv4Addr::new(127, 128, 0, 5);
        let (bound, problems) = plan(&service(&[80, 443, 9000]), at, &Terms::default(), &occupied);
        let ports: Vec<&Bind> = bound.keys().collect();
        assert_eq!(ports, [&Bind::Tcp("127.128.0.5:9000".parse().unwrap())]);
        let [web, tls] = &problems[..] else { panic!("{problems:?}") };
        assert!(web.what.contains("shop/web/a on this host uses port 80"));
        assert!(web.what.contains("ports: [{port: 10080, targetPort: 80}]"), "{}", web.what);
        assert!(tls.what.contains("all addresses of port 443"));
    }

    #[test]
    fn wildcard_listeners_are_read_from_the_kernels_tables() {
        let table = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid
   0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000
   1: 0100007F:1F91 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000
   2: 00000000:1F92 00000000:0000 01 00000000:00000000 00:00000000 00000000  1000
   3: 00000000000000000000000000000000:0050 00000000000000000000000000000000:0000 0A 0";
        assert_eq!(wildcard_ports(table), [0x1f90, 0x50].into());
        assert!(wildcard_ports("\u{0}garbage 00:zz 0A\n:").is_empty());
    }

    #[test]
    fn no_two_services_share_an_address() {
        let mut addresses = addresses("127.139.0.0/16", Book::default());
        let mut seen = BTreeSet::new();
        for number in 0..3_000 {
            let name = format!("shop/s{number}").parse().unwrap();
            let address = addresses.give(&name).unwrap();
            assert!(addresses.range.may_give(address));
            assert!(seen.insert(address));
            assert_eq!(addresses.give(&name).unwrap(), address);
        }
    }
}
