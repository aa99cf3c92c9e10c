//! Address: the place of a node in chitchat's world, and the directory of those that have one.
//!
//! chitchat names peers by socket address. Ours are made up, from the short id (50 bits of the
//! key's hash), in 240.0.0.0/4 (RFC 1112 section 4: reserved, never routed), so that an id
//! survives NAT and a move of its host, and need not say its address. The link layer knows the
//! way; nothing ever dials such an address.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddrV4},
};

use skein_protocol::{
    name::{Hash, NodeKey, ShortId},
    view::{Liveness, View},
};

/// The address that stands for `key` in chitchat's ids: 28 bits of address and a port that is
/// not 0, so that among 800 nodes two collide with odds of 1 in 50 million.
pub fn virtual_address(key: &NodeKey) -> SocketAddrV4 {
    address_of(key.short().as_str().as_bytes())
}

/// The address that belongs to a short id.
pub(super) fn address_of(short: &[u8]) -> SocketAddrV4 {
    let place = Hash::of(&[b"skein gossip address", short]).prefix();
    let [a, b, c, d, e, f, ..] = place.to_be_bytes();
    let port = u16::from_be_bytes([e, f]).max(1);
    SocketAddrV4::new(Ipv4Addr::new(0xf0 | a, b, c, d), port)
}

/// What a verified node record says of a node's place in chitchat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Member {
    /// Whose record it is.
    pub key: NodeKey,
    /// The generation that the record names.
    pub generation: u64,
    /// Where chitchat believes it to be.
    pub address: SocketAddrV4,
}

/// The members by the verified node records that this host holds, ourselves among them. Only an
/// id that stands here reaches chitchat.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Directory {
    members: BTreeMap<String, Member>,
}

impl Directory {
    /// The members of a view.
    pub fn of(view: &View) -> Self {
        let members = view.nodes.values().filter(|node| node.liveness != Liveness::Left);
        members.map(|node| (node.key, node.gossip_generation)).collect()
    }

    /// Adds a node, or replaces its generation.
    pub fn insert(&mut self, key: NodeKey, generation: u64) {
        let member = Member { key, generation, address: virtual_address(&key) };
        self.members.insert(key.short().as_str().to_owned(), member);
    }

    /// Takes a node out, when its record goes.
    pub fn remove(&mut self, key: &NodeKey) {
        self.members.remove(key.short().as_str());
    }

    /// The node of this short id.
    pub fn get(&self, short: &ShortId) -> Option<&Member> {
        self.find(short.as_str())
    }

    pub(super) fn find(&self, short: &str) -> Option<&Member> {
        self.members.get(short)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// All of them, by short id.
    pub fn iter(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }
}

impl FromIterator<(NodeKey, u64)> for Directory {
    fn from_iter<I: IntoIterator<Item = (NodeKey, u64)>>(members: I) -> Self {
        let mut directory = Self::default();
        for (key, generation) in members {
            directory.insert(key, generation);
        }
        directory
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_virtual_address_is_reserved_stable_and_of_one_key() {
        let addresses: BTreeSet<_> =
            (0..=255).map(|n| virtual_address(&NodeKey([n; 32]))).collect();
        assert_eq!(addresses.len(), 256);
        for address in addresses {
            assert!(address.ip().octets()[0] >= 240, "{address}");
            assert_ne!(address.port(), 0);
        }
        assert_eq!(virtual_address(&NodeKey([7; 32])), virtual_address(&NodeKey([7; 32])));
    }

    #[test]
    fn a_node_stands_once_with_its_newest_generation() {
        let key = NodeKey([1; 32]);
        let directory: Directory = [(key, 1), (key, 2)].into_iter().collect();
        assert_eq!(directory.len(), 1);
        assert_eq!(directory.get(&key.short()).unwrap().generation, 2);
    }
}
