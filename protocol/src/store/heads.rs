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

/// The root over sorted heads: equal roots are equal sets.
pub fn root<'a>(heads: impl Iterator<Item = (&'a NodeKey, &'a Head)>) -> Hash {
    let mut bytes = b"skein/heads/v1\0".to_vec();
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

    proptest! {
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
