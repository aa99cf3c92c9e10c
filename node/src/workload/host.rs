//! This host's addresses, as the kernel lists them under /proc.
//!
//! The routing tables name every local address, and reading them needs no rights and no
//! `unsafe`. Where they cannot be read the answer is "not known", and nothing is refused for it.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
};

use nix::ifaddrs::getifaddrs;

/// Bridges and pairs of containers and virtual machines: their addresses lead nowhere from other
/// hosts, and are the same on many.
const INNER: [&str; 8] = ["docker", "br-", "veth", "cni", "virbr", "lxc", "lxd", "podman"];

/// The address from which this host reaches what lies beyond its networks. Asking the kernel sends
/// nothing (RFC 5737 keeps that address for documents).
pub(crate) fn default_source() -> Option<IpAddr> {
    let beyond = SocketAddr::from(([192, 0, 2, 1], 9));
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(beyond).ok()?;
    let source = socket.local_addr().ok()?.ip();
    let inner = |(name, ip): &(String, IpAddr)| *ip == source && is_inner(name);
    (fits(&source) && !interfaces().iter().any(inner)).then_some(source)
}

/// The addresses of all interfaces that are up, with their names.
pub(crate) fn interfaces() -> Vec<(String, IpAddr)> {
    let found = getifaddrs().into_iter().flatten();
    let address = |one: nix::ifaddrs::InterfaceAddress| {
        let ip = one.address?.as_sockaddr_in()?.ip();
        Some((one.interface_name, IpAddr::V4(ip)))
    };
    found.filter_map(address).collect()
}

/// Of several addresses the first in the interfaces' order that other hosts may reach.
pub(crate) fn pick(interfaces: &[(String, IpAddr)]) -> IpAddr {
    let fit = |(name, ip): &&(String, IpAddr)| fits(ip) && !is_inner(name);
    interfaces.iter().find(fit).map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |(_, ip)| *ip)
}

fn is_inner(interface: &str) -> bool {
    INNER.iter().any(|prefix| interface.starts_with(prefix))
}

fn fits(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local() && !v4.is_unspecified(),
        IpAddr::V6(_) => false,
    }
}

/// All addresses of this host; `None` where the kernel does not say.
pub fn addresses() -> Option<BTreeSet<IpAddr>> {
    let v4 = fs::read_to_string("/proc/net/fib_trie").ok()?;
    let v6 = fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let mut found = local_v4(&v4);
    found.extend(local_v6(&v6));
    Some(found)
}

/// In fib_trie a leaf `|-- 10.0.0.5` is followed by `/32 host LOCAL` if the address is ours.
fn local_v4(text: &str) -> BTreeSet<IpAddr> {
    let mut leaf = None;
    let mut found = BTreeSet::new();
    for line in text.lines().map(str::trim) {
        if let Some(address) = line.strip_prefix("|-- ") {
            leaf = address.parse::<Ipv4Addr>().ok();
        } else if line.starts_with("/32 host LOCAL") {
            found.extend(leaf.map(IpAddr::V4));
        }
    }
    found
}

/// In if_inet6 each line begins with 32 hexadecimal digits.
fn local_v6(text: &str) -> BTreeSet<IpAddr> {
    let address = |line: &str| {
        let digits = line.split_whitespace().next()?;
        let bits = u128::from_str_radix(digits, 16).ok()?;
        (digits.len() == 32).then(|| IpAddr::V6(Ipv6Addr::from_bits(bits)))
    };
    text.lines().filter_map(address).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_an_address_of_every_host() {
        let found = addresses().unwrap();
        assert!(found.contains(&IpAddr::V4(Ipv4Addr::LOCALHOST)), "{found:?}");
    }

    #[test]
    fn bridges_of_containers_are_never_where_a_host_is_reached() {
        let of = |all: &[(&str, &str)]| {
            let all: Vec<_> =
                all.iter().map(|(name, ip)| ((*name).to_owned(), ip.parse().unwrap())).collect();
            pick(&all).to_string()
        };
        let bridges = [("lo", "127.0.0.1"), ("docker0", "172.17.0.1"), ("br-5f", "172.18.0.1")];
        assert_eq!(of(&bridges), "127.0.0.1");
        let all = [&bridges[..], &[("veth1", "10.1.1.1"), ("ens5", "172.31.5.9")]].concat();
        assert_eq!(of(&all), "172.31.5.9");
        assert_eq!(of(&[("eth0", "169.254.1.1"), ("eth1", "192.168.1.2")]), "192.168.1.2");
    }

    #[test]
    fn only_local_leaves_count() {
        let text = "Local:\n  +-- 10.0.0.0/24 2 0 2\n     |-- 10.0.0.0\n        /24 link UNICAST\n     |-- 10.0.0.5\n        /32 host LOCAL\n     |-- 10.0.0.255\n        /32 link BROADCAST\n";
        assert_eq!(local_v4(text), BTreeSet::from(["10.0.0.5".parse().unwrap()]));
        let text = "fd000000000000000000000000000001 02 40 00 80 eth0\nx\n";
        assert_eq!(local_v6(text), BTreeSet::from(["fd00::1".parse().unwrap()]));
    }
}
