//! Neighbours: who is near whom in four hash permutations of the members.
//!
//! Each ring orders the members by a hash of their own. A node's neighbours are the next and the
//! one before on each ring: four that it chose and four that chose it. Rapid (USENIX ATC 2018)
//! watches along K such rings; Fireflies (EuroSys 2006) has the arithmetic of liars.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use crate::{
    limits,
    name::{Hash, NodeKey},
};

type Place = (u64, NodeKey);

/// The rings over a set of members.
#[derive(Clone, Debug, Default)]
pub struct Rings {
    rings: [BTreeSet<Place>; limits::RINGS],
    members: BTreeMap<NodeKey, [u64; limits::RINGS]>,
}

/// Eight bytes of one hash for each ring: as good as four hashes, and a quarter of their cost.
fn places(key: &NodeKey) -> [u64; limits::RINGS] {
    let hash = Hash::of(&[b"skein/ring/v2\0", &key.0]);
    let mut places = [0; limits::RINGS];
    for (bytes, place) in hash.0.chunks(8).zip(places.iter_mut()) {
        *place = bytes.iter().fold(0, |sum, byte| (sum << 8) | u64::from(*byte));
    }
    places
}

const _: () = assert!(limits::RINGS * 8 <= 32);

impl Rings {
    /// Puts a member in. Says whether it was not in before.
    pub fn insert(&mut self, key: NodeKey) -> bool {
        if self.members.contains_key(&key) {
            return false;
        }
        let places = places(&key);
        for (ring, place) in self.rings.iter_mut().zip(places) {
            ring.insert((place, key));
        }
        self.members.insert(key, places);
        true
    }

    /// Takes a member out. Says whether it was in.
    pub fn remove(&mut self, key: &NodeKey) -> bool {
        let Some(places) = self.members.remove(key) else {
            return false;
        };
        for (ring, place) in self.rings.iter_mut().zip(places) {
            ring.remove(&(place, *key));
        }
        true
    }

    /// Whether `key` is a member.
    pub fn contains(&self, key: &NodeKey) -> bool {
        self.members.contains_key(key)
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are no members.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The members.
    pub fn members(&self) -> impl Iterator<Item = &NodeKey> {
        self.members.keys()
    }

    /// The next member on each ring: those that `key` chooses. `key` need not be a member.
    pub fn chosen(&self, key: &NodeKey) -> BTreeSet<NodeKey> {
        self.on_each(key, |ring, place| {
            let after = ring.range((Bound::Excluded(place), Bound::Unbounded)).next();
            after.or_else(|| ring.first()).copied()
        })
    }

    /// The member before on each ring: those that choose `key`.
    pub fn choosers(&self, key: &NodeKey) -> BTreeSet<NodeKey> {
        self.on_each(key, |ring, place| {
            ring.range(..place).next_back().or_else(|| ring.last()).copied()
        })
    }

    /// All neighbours of `key`, in either direction: those that it watches and is watched by.
    pub fn neighbours(&self, key: &NodeKey) -> BTreeSet<NodeKey> {
        let mut all = self.chosen(key);
        all.extend(self.choosers(key));
        all
    }

    fn on_each(
        &self,
        key: &NodeKey,
        pick: impl Fn(&BTreeSet<Place>, Place) -> Option<Place>,
    ) -> BTreeSet<NodeKey> {
        let places = self.members.get(key).copied().unwrap_or_else(|| places(key));
        let rings = self.rings.iter().zip(places);
        let picked = rings.filter_map(|(ring, place)| pick(ring, (place, *key)));
        picked.map(|(_, node)| node).filter(|node| node != key).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rings(count: u8) -> Rings {
        let mut rings = Rings::default();
        for byte in 0..count {
            rings.insert(NodeKey([byte; 32]));
        }
        rings
    }

    #[test]
    fn to_choose_and_to_be_chosen_are_the_same_relation() {
        let rings = rings(50);
        for a in rings.members() {
            for b in rings.chosen(a) {
                assert!(rings.choosers(&b).contains(a));
            }
        }
    }

    #[test]
    fn nobody_has_more_than_eight_neighbours_or_itself() {
        let rings = rings(100);
        for key in rings.members() {
            let near = rings.neighbours(key);
            assert!(near.len() <= 8 && near.len() >= 4 && !near.contains(key));
        }
    }

    #[test]
    fn two_members_are_each_others_only_neighbour() {
        let rings = rings(2);
        assert_eq!(rings.neighbours(&NodeKey([0; 32])).len(), 1);
        assert!(Rings::default().neighbours(&NodeKey([0; 32])).is_empty());
    }

    #[test]
    fn a_member_taken_out_leaves_its_place_to_the_next() {
        let mut rings = rings(20);
        let key = NodeKey([3; 32]);
        let before = rings.chosen(&key);
        for gone in &before {
            rings.remove(gone);
        }
        assert!(rings.chosen(&key).is_disjoint(&before));
        assert_eq!(rings.len(), 20 - before.len());
    }
}
