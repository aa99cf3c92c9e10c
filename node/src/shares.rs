//! Shares of something that is bounded: so many in all, and so many of one.
//!
//! In:    who asks for one.     Out: a [`Share`], held until it is dropped, or nothing.
//! Never: lets anyone wait. Who comes when there is none left is refused by the caller.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// What is shared out. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Shares<K: Ord + Copy> {
    held: Arc<Mutex<Held<K>>>,
    each: usize,
    all: usize,
}

#[derive(Debug)]
struct Held<K> {
    of: BTreeMap<K, usize>,
    all: usize,
}

/// One share, given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Share<K: Ord + Copy> {
    of: K,
    shares: Shares<K>,
}

impl<K: Ord + Copy> Shares<K> {
    /// At most `each` of one, and `all` together.
    pub(crate) fn new(each: usize, all: usize) -> Self {
        let held = Held { of: BTreeMap::new(), all: 0 };
        Self { held: Arc::new(Mutex::new(held)), each, all }
    }

    /// A share of `of`, if it has one left and all together do.
    pub(crate) fn take(&self, of: K) -> Option<Share<K>> {
        let mut held = self.lock();
        if held.all >= self.all || held.of.get(&of).is_some_and(|count| *count >= self.each) {
            return None;
        }
        held.all += 1;
        *held.of.entry(of).or_default() += 1;
        Some(Share { of, shares: self.clone() })
    }

    fn lock(&self) -> MutexGuard<'_, Held<K>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Ord + Copy> Drop for Share<K> {
    fn drop(&mut self) {
        let mut held = self.shares.lock();
        held.all = held.all.saturating_sub(1);
        let left = held.of.get_mut(&self.of).map(|count| {
            *count = count.saturating_sub(1);
            *count
        });
        if left == Some(0) {
            held.of.remove(&self.of);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_takes_at_most_its_own_and_all_together_the_total() {
        let shares = Shares::new(2, 3);
        let held = [shares.take(1), shares.take(1)];
        assert!(held.iter().all(Option::is_some) && shares.take(1).is_none());
        let third = shares.take(2);
        assert!(third.is_some() && shares.take(2).is_none(), "all three are out");
        drop(held);
        assert!(shares.take(1).is_some());
    }

    #[test]
    fn nothing_is_kept_of_who_holds_none() {
        let shares = Shares::new(1, 8);
        for of in 0..1_000 {
            drop(shares.take(of));
        }
        assert!(shares.lock().of.is_empty() && shares.lock().all == 0);
    }
}
