//! What those cost that have proved little: who wants to join, and peers before they say what
//! they want.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use skein_protocol::{
    clock::Tick,
    limits,
    name::NodeKey,
    route::limit::{Limiter, Rule},
};

use crate::shares::{Share, Shares};

/// A network of addresses that one person may well have: /24, or /56 of IPv6.
type Prefix = u64;

/// See the module.
#[derive(Debug)]
pub(crate) struct Strangers {
    joins: Shares<Prefix>,
    pace: Mutex<Limiter>,
    relays: Shares<()>,
    relayed: Shares<NodeKey>,
    greeting: Shares<NodeKey>,
}

impl Default for Strangers {
    fn default() -> Self {
        Self {
            joins: Shares::new(limits::JOINS_PER_PREFIX, limits::JOINS_AT_ONCE),
            pace: Mutex::default(),
            relays: Shares::new(limits::RELAYS_AT_ONCE, limits::RELAYS_AT_ONCE),
            relayed: Shares::new(limits::RELAYS_PER_PEER, limits::RELAYS_AT_ONCE),
            greeting: Shares::new(limits::GREETING_PER_PEER, limits::GREETING_AT_ONCE),
        }
    }
}

impl Strangers {
    /// Room for a connection that wants to join or renew.
    pub(crate) fn join(&self, from: SocketAddr, now: Tick) -> Option<Share<u64>> {
        let prefix = prefix(from.ip());
        let in_pace = {
            let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
            pace.take(now, &JOIN_PACE, prefix).is_ok()
        };
        in_pace.then(|| self.joins.take(prefix)).flatten()
    }

    /// Room for a join or renewal that this agent copies to an issuer.
    pub(crate) fn relay(&self) -> Option<Share<()>> {
        self.relays.take(())
    }

    /// Room for one that a peer copies to the issuer here.
    pub(crate) fn relayed(&self, by: NodeKey) -> Option<Share<NodeKey>> {
        self.relayed.take(by)
    }

    /// Room for a connection of a member that has not sent its Hello yet.
    pub(crate) fn greeting(&self, peer: NodeKey) -> Option<Share<NodeKey>> {
        self.greeting.take(peer)
    }
}

/// A rack of new hosts at once, and then four a second.
const JOIN_PACE: Rule = Rule { count: 4, per: Duration::from_secs(1), burst: limits::JOIN_BURST };

fn prefix(ip: IpAddr) -> Prefix {
    match ip.to_canonical() {
        IpAddr::V4(ip) => u64::from(u32::from(ip) >> 8),
        // Apart from those of IPv4, which need 24 bits.
        IpAddr::V6(ip) => u64::try_from(u128::from(ip) >> 72).unwrap_or(u64::MAX) | 1 << 63,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(text: &str) -> SocketAddr {
        SocketAddr::new(text.parse().unwrap(), 9)
    }

    #[test]
    fn one_network_takes_neither_all_joins_at_once_nor_more_than_its_pace() {
        let strangers = Strangers::default();
        let hold = |n: usize| strangers.join(from(&format!("10.0.0.{n}")), Tick(0));
        let held: Vec<_> = (1..100).filter_map(hold).collect();
        assert_eq!(held.len(), limits::JOINS_PER_PREFIX);
        assert!(strangers.join(from("10.0.1.1"), Tick(0)).is_some(), "another network is let in");
        drop(held);
        let burst = usize::try_from(limits::JOIN_BURST).unwrap();
        let passed = (0..burst * 2).filter(|_| strangers.join(from("10.9.0.1"), Tick(0)).is_some());
        assert_eq!(passed.count(), burst);
        assert!(strangers.join(from("10.9.0.1"), Tick(1_000)).is_some(), "later it is again");
    }

    #[test]
    fn addresses_of_one_network_count_together() {
        assert_eq!(prefix("192.0.2.1".parse().unwrap()), prefix("192.0.2.250".parse().unwrap()));
        assert_eq!(
            prefix("::ffff:192.0.2.1".parse().unwrap()),
            prefix("192.0.2.9".parse().unwrap())
        );
        assert_ne!(prefix("192.0.2.1".parse().unwrap()), prefix("192.0.3.1".parse().unwrap()));
        assert_eq!(
            prefix("2001:db8::1".parse().unwrap()),
            prefix("2001:db8:0:ff::9".parse().unwrap())
        );
        assert_ne!(prefix("2001:db8::1".parse().unwrap()), prefix("2001:db9::1".parse().unwrap()));
    }
}
