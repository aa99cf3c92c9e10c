//! Heads: for each origin the newest sequence seen and the hash of what it named.
//!
//! A join-semilattice: the higher sequence wins, of two contents at one sequence the lower hash.
//! A head outlives its body as a floor, so that nothing older is ever taken again.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::name::{Hash, NodeKey};

/// What an origin's newest record is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Head {
    /// Its place in the origin's order.
    pub sequence: u64,
    /// What names it.
    pub hash: Hash,
}

/// How a head stands to the one that is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Standing {
    /// Above the one held, or none is held.
    Newer,
    /// The one held.
    Same,
    /// Below the one held.
    Older,
    /// Another content at the sequence of the one held; it wins if its hash is lower.
    Fork {
        /// Whether it wins.
        wins: bool,
    },
}

impl Head {
    /// The one of two that stays.
    pub fn join(self, other: Self) -> Self {
        let key = |head: &Self| (head.sequence, std::cmp::Reverse(head.hash));
        if key(&other) > key(&self) { other } else { self }
    }

    /// How `self` stands to the one held.
    pub fn against(self, held: Option<Self>) -> Standing {
        let Some(held) = held else {
            return Standing::Newer;
        };
        match self.sequence.cmp(&held.sequence) {
            std::cmp::Ordering::Greater => Standing::Newer,
            std::cmp::Ordering::Less => Standing::Older,
            std::cmp::Ordering::Equal if self.hash == held.hash => Standing::Same,
            std::cmp::Ordering::Equal => Standing::Fork { wins: self.hash < held.hash },
        }
    }
}

/// Over how many parts of the keys' range a root is made.
pub const PARTS: usize = 64;

/// The root over heads, as a tree of two levels: equal roots are equal sets.
///
/// The range of keys is cut into [`PARTS`] by the first six bits. A part's hash is SHA-256 over
/// its sorted (origin, sequence, hash), the root SHA-256 over all parts' hashes in order, each
/// with its own domain in front. Whoever finds two sets with one root has found two inputs with
/// one SHA-256. A new head costs the hash of one part and of 2 KiB, not of all heads: at 1,000 of
/// them 3 KiB instead of 72.
#[derive(Clone, Debug)]
pub struct Roots {
    /// None where heads have changed since.
    parts: [Option<Hash>; PARTS],
    root: Option<Hash>,
}

impl Default for Roots {
    fn default() -> Self {
        Self { parts: [None; PARTS], root: None }
    }
}

/// The part that an origin belongs to.
pub fn part_of(origin: &NodeKey) -> u8 {
    origin.0.first().copied().unwrap_or_default() >> 2
}

/// The first key and the last of a part.
pub fn range_of(part: u8) -> (NodeKey, NodeKey) {
    let (mut first, mut last) = ([0; 32], [0xff; 32]);
    if let (Some(low), Some(high)) = (first.first_mut(), last.first_mut()) {
        *low = part << 2;
        *high = part << 2 | 3;
    }
    (NodeKey(first), NodeKey(last))
}

impl Roots {
    /// The head of that origin is another one now, or is gone.
    pub fn changed(&mut self, origin: &NodeKey) {
        if let Some(part) = self.parts.get_mut(usize::from(part_of(origin))) {
            *part = None;
        }
        self.root = None;
    }

    /// Any head may be another one now.
    pub fn all_changed(&mut self) {
        *self = Self::default();
    }

    /// The hash of every part, in order. `heads` gives those of a range of keys, sorted.
    pub fn parts<H>(&mut self, heads: impl Fn(NodeKey, NodeKey) -> H) -> [Hash; PARTS]
    where
        H: Iterator<Item = (NodeKey, Head)>,
    {
        let mut all = [Hash([0; 32]); PARTS];
        for ((number, part), hash) in (0u8..).zip(&mut self.parts).zip(&mut all) {
            let (first, last) = range_of(number);
            *hash = *part.get_or_insert_with(|| hash_of(heads(first, last)));
        }
        all
    }

    /// The root.
    pub fn root<H>(&mut self, heads: impl Fn(NodeKey, NodeKey) -> H) -> Hash
    where
        H: Iterator<Item = (NodeKey, Head)>,
    {
        if let Some(root) = self.root {
            return root;
        }
        let bytes: Vec<u8> = self.parts(heads).iter().flat_map(|part| part.0).collect();
        *self.root.insert(Hash::of(&[b"skein/heads/v2\0", &bytes]))
    }
}

/// The hash of one part's heads.
fn hash_of(heads: impl Iterator<Item = (NodeKey, Head)>) -> Hash {
    let mut bytes = b"skein/heads-part/v1\0".to_vec();
    for (origin, head) in heads {
        bytes.extend_from_slice(&origin.0);
        bytes.extend_from_slice(&head.sequence.to_le_bytes());
        bytes.extend_from_slice(&head.hash.0);
    }
    Hash::of(&[&bytes])
}

/// The join of two sets of heads.
pub fn merge(into: &mut BTreeMap<NodeKey, Head>, other: &BTreeMap<NodeKey, Head>) {
    for (origin, head) in other {
        into.entry(*origin).and_modify(|held| *held = held.join(*head)).or_insert(*head);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn heads() -> impl Strategy<Value = BTreeMap<NodeKey, Head>> {
        let head = (0u64..4, 0u8..3)
            .prop_map(|(sequence, hash)| Head { sequence, hash: Hash([hash; 32]) });
        proptest::collection::btree_map((0u8..4).prop_map(|k| NodeKey([k; 32])), head, 0..4)
    }

    fn joined(a: &BTreeMap<NodeKey, Head>, b: &BTreeMap<NodeKey, Head>) -> BTreeMap<NodeKey, Head> {
        let mut both = a.clone();
        merge(&mut both, b);
        both
    }

    type Heads = BTreeMap<NodeKey, Head>;

    fn within(heads: &Heads) -> impl Fn(NodeKey, NodeKey) -> std::vec::IntoIter<(NodeKey, Head)> {
        |first, last| {
            let part = heads.range(first..=last).map(|(key, head)| (*key, *head));
            part.collect::<Vec<_>>().into_iter()
        }
    }

    fn root(heads: &Heads) -> Hash {
        Roots::default().root(within(heads))
    }

    fn spread_heads() -> impl Strategy<Value = Heads> {
        let head = (0u64..3, 0u8..3)
            .prop_map(|(sequence, hash)| Head { sequence, hash: Hash([hash; 32]) });
        proptest::collection::btree_map(any::<u8>().prop_map(|k| NodeKey([k; 32])), head, 0..9)
    }

    #[test]
    fn the_golden_root_of_one_head_stays_what_it_is() {
        let one =
            BTreeMap::from([(NodeKey([0x41; 32]), Head { sequence: 7, hash: Hash([9; 32]) })]);
        let part = |heads: &[&[u8]]| Hash::of(&[b"skein/heads-part/v1\0", &heads.concat()]);
        let mut parts = [part(&[]); PARTS];
        parts[0x41 >> 2] = part(&[&[0x41; 32], &7u64.to_le_bytes(), &[9; 32]]);
        let bytes: Vec<u8> = parts.iter().flat_map(|hash| hash.0).collect();
        assert_eq!(root(&one), Hash::of(&[b"skein/heads/v2\0", &bytes]));
    }

    #[test]
    fn parts_hold_every_key_once() {
        for part in 0..64 {
            let (first, last) = range_of(part);
            assert_eq!((part_of(&first), part_of(&last)), (part, part));
        }
        assert_eq!(range_of(0).0, NodeKey([0; 32]));
        assert_eq!(range_of(63).1, NodeKey([0xff; 32]));
    }

    proptest! {
        #[test]
        fn roots_are_equal_where_the_sets_are(a in spread_heads(), b in spread_heads()) {
            prop_assert_eq!(root(&a) == root(&b), a == b);
        }

        #[test]
        fn a_root_kept_up_is_the_root_made_anew(a in spread_heads(), b in spread_heads()) {
            let mut kept = Roots::default();
            kept.root(within(&a));
            let mut both = a.clone();
            merge(&mut both, &b);
            b.keys().for_each(|origin| kept.changed(origin));
            prop_assert_eq!(kept.root(within(&both)), root(&both));
        }

        #[test]
        fn merge_is_commutative(a in heads(), b in heads()) {
            prop_assert_eq!(joined(&a, &b), joined(&b, &a));
        }

        #[test]
        fn merge_is_associative(a in heads(), b in heads(), c in heads()) {
            prop_assert_eq!(joined(&joined(&a, &b), &c), joined(&a, &joined(&b, &c)));
        }

        #[test]
        fn merge_is_idempotent(a in heads(), b in heads()) {
            let both = joined(&a, &b);
            prop_assert_eq!(&joined(&both, &b), &both);
            prop_assert_eq!(&joined(&both, &both), &both);
        }

        #[test]
        fn a_floor_never_falls(a in heads(), b in heads()) {
            let both = joined(&a, &b);
            for (origin, head) in a.iter().chain(&b) {
                prop_assert!(both[origin].sequence >= head.sequence);
            }
        }

        #[test]
        fn a_head_stands_to_another_as_their_join_says(
            s in 0u64..3, t in 0u64..3, g in 0u8..3, h in 0u8..3
        ) {
            let new = Head { sequence: s, hash: Hash([g; 32]) };
            let held = Head { sequence: t, hash: Hash([h; 32]) };
            let wins = new.join(held) == new && new != held;
            let standing = new.against(Some(held));
            let told = matches!(standing, Standing::Newer | Standing::Fork { wins: true });
            prop_assert_eq!(wins, told);
        }
    }
}
