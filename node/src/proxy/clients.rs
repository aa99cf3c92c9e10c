//! Clients: what each address outside of the mesh may hold at a gateway.
//!
//! An address costs its share and no more, whatever it opens: what it holds is counted for as long as
//! it lives, connections that have switched protocols too. Networks of IPv6 are one address each, as
//! their owners have them whole.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use skein_protocol::{limits, name::NodeKey};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What one address may hold still.
#[derive(Debug)]
pub(super) struct Client {
    connections: Arc<Semaphore>,
    requests: Arc<Semaphore>,
    switched: Arc<Semaphore>,
}

impl Client {
    fn new() -> Self {
        let of = |count| Arc::new(Semaphore::new(count));
        Self {
            connections: of(limits::CLIENT_CONNECTIONS),
            requests: of(limits::CLIENT_REQUESTS),
            switched: of(limits::CLIENT_SWITCHED),
        }
    }

    /// Room for a connection; the address is remembered while it lives.
    pub(super) fn connection(self: &Arc<Self>) -> Option<Connected> {
        let permit = Arc::clone(&self.connections).try_acquire_owned().ok()?;
        Some(Connected { client: Arc::clone(self), _permit: permit })
    }

    /// Room for a request, to the end of its answer.
    pub(super) fn request(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.requests).try_acquire_owned().ok()
    }

    /// Room for a request that becomes another protocol.
    pub(super) fn switch(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.switched).try_acquire_owned().ok()
    }

    /// Whether it holds few connections: those may send much before it is read.
    fn is_light(&self) -> bool {
        let held = limits::CLIENT_CONNECTIONS.saturating_sub(self.connections.available_permits());
        held <= limits::CLIENT_WIDE
    }
}

/// A connection of an address.
#[derive(Debug)]
pub(super) struct Connected {
    client: Arc<Client>,
    _permit: OwnedSemaphorePermit,
}

impl Connected {
    /// Whose it is.
    pub(super) fn client(&self) -> &Arc<Client> {
        &self.client
    }

    /// What it may send of HTTP/2 before it is read.
    pub(super) fn window(&self) -> u32 {
        if self.client.is_light() { limits::H2_WINDOW_BYTES } else { limits::H2_WINDOW_LEAST }
    }
}

/// All addresses that hold something, and what all of them hold at each host of the mesh.
#[derive(Debug, Default)]
pub(super) struct Clients {
    addresses: Mutex<Table<IpAddr, Client>>,
    hosts: Mutex<Table<NodeKey, Semaphore>>,
}

/// What is held by somebody, found by its key.
#[derive(Debug)]
struct Table<K, V> {
    held: BTreeMap<K, Weak<V>>,
    /// When it is looked for those that nobody holds any more.
    sweep_at: usize,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { held: BTreeMap::new(), sweep_at: SWEEP }
    }
}

/// So many are kept in any case.
const SWEEP: usize = 64;

impl<K: Ord, V> Table<K, V> {
    fn get(&mut self, key: K, fresh: impl FnOnce() -> V) -> Arc<V> {
        if let Some(held) = self.held.get(&key).and_then(Weak::upgrade) {
            return held;
        }
        if self.held.len() >= self.sweep_at {
            self.held.retain(|_, one| one.strong_count() > 0);
            self.sweep_at = self.held.len().saturating_mul(2).max(SWEEP);
        }
        let held = Arc::new(fresh());
        self.held.insert(key, Arc::downgrade(&held));
        held
    }
}

impl Clients {
    /// The client at that address.
    pub(super) fn at(&self, address: IpAddr) -> Arc<Client> {
        let mut all = self.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(network(address), Client::new)
    }

    /// Room for a call from outside to a host of the mesh: not all that it takes of this one.
    pub(super) fn to_host(&self, host: NodeKey) -> Option<OwnedSemaphorePermit> {
        let mut all = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let share = all.get(host, || Semaphore::new(limits::OUTSIDE_PER_HOST));
        share.try_acquire_owned().ok()
    }
}

/// What counts as one address: of IPv6 the network that one household or host has.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn an_address_has_its_share_while_it_holds_something_and_takes_none_of_anothers() {
        let clients = Clients::default();
        let take = |at: &str| clients.at(ip(at)).connection();
        let held: Vec<_> = (0..limits::CLIENT_CONNECTIONS).map(|_| take("192.0.2.1")).collect();
        assert!(held.iter().all(Option::is_some));
        assert!(take("192.0.2.1").is_none() && take("::ffff:192.0.2.1").is_none());
        assert!(take("192.0.2.2").is_some());
        assert_eq!(held[0].as_ref().unwrap().window(), limits::H2_WINDOW_LEAST);
        drop(held);
        let one = take("192.0.2.1").unwrap();
        assert_eq!(one.window(), limits::H2_WINDOW_BYTES);
        let requests: Vec<_> =
            (0..limits::CLIENT_REQUESTS).map(|_| one.client().request()).collect();
        assert!(requests.iter().all(Option::is_some) && one.client().request().is_none());
        let switched: Vec<_> =
            (0..limits::CLIENT_SWITCHED).map(|_| one.client().switch()).collect();
        assert!(switched.iter().all(Option::is_some) && one.client().switch().is_none());
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let clients = Clients::default();
        let one = clients.at(ip("2001:db8:1:2::1"));
        assert!(Arc::ptr_eq(&one, &clients.at(ip("2001:db8:1:2:ffff::9"))));
        assert!(!Arc::ptr_eq(&one, &clients.at(ip("2001:db8:1:3::1"))));
    }

    #[test]
    fn those_outside_have_half_of_what_a_host_takes() {
        let clients = Clients::default();
        let host = NodeKey([1; 32]);
        let held: Vec<_> = (0..limits::OUTSIDE_PER_HOST).map(|_| clients.to_host(host)).collect();
        assert!(held.iter().all(Option::is_some) && clients.to_host(host).is_none());
        assert!(clients.to_host(NodeKey([2; 32])).is_some());
        drop(held);
        assert!(clients.to_host(host).is_some());
    }

    #[test]
    fn addresses_that_hold_nothing_are_forgotten() {
        let clients = Clients::default();
        for host in 0..=u8::MAX {
            for net in 0..8 {
                let _ = clients.at(IpAddr::from([192, 0, net, host]));
            }
        }
        assert!(clients.addresses.lock().unwrap().held.len() <= SWEEP);
    }
}
