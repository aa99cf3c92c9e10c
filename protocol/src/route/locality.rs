//! Locality tiers: calls stay near while enough of what is near is well.
//!
//! A tier carries its healthy share times 1.4 (Envoy's over-provisioning), at most all of what
//! nearer tiers left over; the rest spills to the next tier in proportion. When all tiers
//! together carry less than everything, what each carries is scaled up.

use crate::{
    limits,
    name::{Locality, NodeKey},
    view::NodeView,
};

/// How near an endpoint is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Tier {
    /// On this host.
    Node,
    /// In this zone of this region.
    Zone,
    /// In this region.
    Region,
    /// Elsewhere.
    Any,
}

impl Tier {
    /// Every tier, nearest first.
    pub const ALL: [Self; 4] = [Self::Node, Self::Zone, Self::Region, Self::Any];

    /// How near `node` is to the caller.
    pub fn of(node: &NodeView, me: NodeKey, here: &Locality) -> Self {
        let there = &node.locality;
        if node.key == me {
            Self::Node
        } else if there == here {
            Self::Zone
        } else if there.region() == here.region() {
            Self::Region
        } else {
            Self::Any
        }
    }

    /// The word of the command line and of documents.
    pub fn word(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Zone => "zone",
            Self::Region => "region",
            Self::Any => "any",
        }
    }
}

/// What a tier has: weights of its endpoints.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Capacity {
    /// Of those that may take calls.
    pub healthy: u64,
    /// Of all that should.
    pub total: u64,
}

/// The share of the calls that each tier gets, in parts of their sum; all 0 when none is healthy.
pub fn shares(tiers: [Capacity; 4]) -> [u32; 4] {
    let mut left = FULL;
    tiers.map(|tier| {
        let share = carries(tier).min(left);
        left -= share;
        share
    })
}

/// How much of all calls a tier may carry, of [`FULL`]. A healthy endpoint is worth at least 1.
fn carries(tier: Capacity) -> u32 {
    if tier.healthy == 0 || tier.total == 0 {
        return 0;
    }
    let full = u128::from(FULL) * u128::from(limits::OVERPROVISION_PERCENT) / 100;
    let share = full * u128::from(tier.healthy) / u128::from(tier.total);
    u32::try_from(share).unwrap_or(FULL).clamp(1, FULL)
}

const FULL: u32 = 10_000;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn capacity(healthy: u64, total: u64) -> Capacity {
        Capacity { healthy, total }
    }

    const NONE: Capacity = Capacity { healthy: 0, total: 0 };

    #[test]
    fn a_tier_keeps_all_calls_until_more_than_a_quarter_of_it_is_gone() {
        let far = capacity(10, 10);
        let near = |healthy| shares([NONE, capacity(healthy, 10), far, NONE]);
        assert_eq!(near(8), [0, 10_000, 0, 0]);
        assert_eq!(near(5), [0, 7_000, 3_000, 0]);
        assert_eq!(near(0), [0, 0, 10_000, 0]);
    }

    proptest! {
        #[test]
        fn no_tier_without_a_healthy_endpoint_gets_a_call_and_nothing_is_lost(
            tiers in proptest::array::uniform4((0u64..u64::from(u32::MAX), 0u64..1000))
        ) {
            let tiers = tiers.map(|(healthy, more)| capacity(healthy, healthy + more));
            let shares = shares(tiers);
            for (share, tier) in shares.iter().zip(tiers) {
                prop_assert!(tier.healthy > 0 || *share == 0);
            }
            prop_assert!(shares.iter().sum::<u32>() <= FULL);
            let any = tiers.iter().any(|tier| tier.healthy > 0);
            prop_assert_eq!(shares.iter().sum::<u32>() > 0, any);
        }
    }
}
