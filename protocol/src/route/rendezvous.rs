//! Rendezvous hashing with weights: who of several gets what belongs together.
//!
//! Each candidate scores `-weight / ln(u)`, u drawn by hash; the highest wins (Schindelhauer and
//! Schomaker, "Weighted distributed hash tables", SPAA 2005). When a weight rises, calls move to
//! that candidate only, and none that it had moves away.

use crate::name::Hash;

/// The score of a candidate for what `affinity` stands for.
pub fn score(affinity: u64, candidate: &[&[u8]], weight: u32) -> f64 {
    let affinity = affinity.to_be_bytes();
    let mut parts: Vec<&[u8]> = vec![b"skein rendezvous 1", &affinity];
    parts.extend(candidate);
    let hash = Hash::of(&parts);
    let drawn = hash.0.first_chunk().map_or(0, |head| u32::from_be_bytes(*head));
    // Strictly between 0 and 1, so that its logarithm is finite and below 0.
    let uniform = (f64::from(drawn) + 0.5) / (f64::from(u32::MAX) + 1.0);
    -f64::from(weight) / uniform.ln()
}

/// What stands for a text: equal texts belong together.
pub fn affinity(text: &[u8]) -> u64 {
    let hash = Hash::of(&[b"skein affinity 1", text]);
    hash.0.first_chunk().map_or(0, |head| u64::from_be_bytes(*head))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn winner(affinity: u64, weights: &[u32]) -> usize {
        let scores = weights.iter().enumerate();
        let scores =
            scores.map(|(i, weight)| (i, score(affinity, &[&[u8::try_from(i).unwrap()]], *weight)));
        scores.max_by(|a, b| a.1.total_cmp(&b.1)).unwrap().0
    }

    #[test]
    fn shares_follow_the_weights() {
        let hits = (0..10_000).filter(|call| winner(*call, &[90, 10]) == 1).count();
        // Six standard deviations of a binomial of 10,000 and 0.1 are 180.
        assert!((820..=1_180).contains(&hits), "{hits}");
    }

    proptest! {
        #[test]
        fn what_grows_keeps_what_it_has(call: u64, small in 1u32..50, more in 0u32..50, third in 0u32..100) {
            if winner(call, &[100, small, third]) == 1 {
                prop_assert_eq!(winner(call, &[100 - more, small + more, third]), 1);
            }
        }

        #[test]
        fn weight_zero_wins_only_against_itself(call: u64) {
            prop_assert_eq!(winner(call, &[0, 1]), 1);
        }
    }
}
