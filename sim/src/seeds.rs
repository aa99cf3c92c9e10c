//! Seeds: whom a host without a mesh tries, one after another.

use std::collections::BTreeSet;

use rand::{RngExt, rngs::StdRng};

/// A host tries a seed that it has not met this often, in milliseconds, and up to half a second
/// later.
const EVERY: u64 = 2000;

/// The first `count` hosts are seeds. Which one `me` dials next, if any; `met` are those that it
/// had a link to. Who met one seed only may be on an island with it: each is met once, and again
/// when `alone`.
pub fn next(
    met: &mut BTreeSet<usize>,
    alone: bool,
    count: usize,
    me: usize,
    rng: &mut StdRng,
) -> Option<usize> {
    if alone {
        met.clear();
    }
    let unmet: Vec<usize> = (0..count).filter(|seed| *seed != me && !met.contains(seed)).collect();
    (!unmet.is_empty()).then(|| unmet.get(rng.random_range(0..unmet.len())).copied()).flatten()
}

/// When the next one is tried.
pub fn pause(rng: &mut StdRng) -> u64 {
    EVERY + rng.random_range(0..500)
}
