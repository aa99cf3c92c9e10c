//! This host's addresses, as the kernel lists them under /proc.
//!
//! The routing tables name every local address, and reading them needs no rights and no
//! `unsafe`. Where they cannot be read the answer is "not known", and nothing is refused for it.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

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
    fn only_local_leaves_count() {
        let text = "Local:\n  +-- 10.0.0.0/24 2 0 2\n     |-- 10.0.0.0\n        /24 link UNICAST\n     |-- 10.0.0.5\n        /32 host LOCAL\n     |-- 10.0.0.255\n        /32 link BROADCAST\n";
        assert_eq!(local_v4(text), BTreeSet::from(["10.0.0.5".parse().unwrap()]));
        let text = "fd000000000000000000000000000001 02 40 00 80 eth0\nx\n";
        assert_eq!(local_v6(text), BTreeSet::from(["fd00::1".parse().unwrap()]));
    }
}
