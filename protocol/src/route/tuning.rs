//! Tuning: what traffic policies say about choosing among a service's endpoints.

use std::time::Duration;

use super::{balance::Algorithm, locality::Tier};
use crate::limits;

/// How a service's endpoints are chosen and left out. The default is what holds without a policy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tuning {
    /// How endpoints of one tier share the calls.
    pub algorithm: Algorithm,
    /// Which tiers are used, nearest first, each at most once.
    pub tiers: Vec<Tier>,
    /// When calls leave a tier for the next.
    pub spill: Spill,
    /// When an endpoint is an outlier.
    pub eject: Eject,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            algorithm: Algorithm::default(),
            tiers: Tier::ALL.to_vec(),
            spill: Spill::default(),
            eject: Eject::default(),
        }
    }
}

impl Tuning {
    /// As which tier an endpoint counts that is so near: the first that it is part of, and each
    /// nearer one is part of the next. `None`: calls may not go there at all.
    pub fn tier(&self, nearest: Tier) -> Option<Tier> {
        let mut tiers = match self.spill {
            Spill::Proportional | Spill::Empty => self.tiers.iter(),
            Spill::Never => self.tiers.get(..1).unwrap_or_default().iter(),
        };
        tiers.find(|tier| **tier >= nearest).copied()
    }
}

/// When calls leave a tier for the next.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Spill {
    /// As much as the tier lacks.
    #[default]
    Proportional,
    /// Only when the tier has nobody left.
    Empty,
    /// Never: the first tier or nothing.
    Never,
}

/// When an endpoint is an outlier, and for how long it is out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Eject {
    /// After so many failures in a row.
    pub consecutive: u32,
    /// Below this share of successes, in hundredths of a percent.
    pub success: u32,
    /// Counted over this time, in [`limits::EJECT_BUCKETS`] parts.
    pub window: Duration,
    /// Out for so long at first; doubled with each time up to [`limits::EJECT_MAX`].
    pub base: Duration,
    /// At most this share of a service's endpoints, in hundredths of a percent; never the last.
    pub most: u32,
}

impl Default for Eject {
    fn default() -> Self {
        Self {
            consecutive: limits::EJECT_CONSECUTIVE,
            success: limits::EJECT_SUCCESS,
            window: limits::EJECT_WINDOW,
            base: limits::EJECT_BASE,
            most: limits::EJECT_SHARE,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tier_holds_all_that_is_nearer_and_not_in_a_tier_of_its_own() {
        let tier = |tiers: &[Tier], spill, nearest| {
            Tuning { tiers: tiers.to_vec(), spill, ..Tuning::default() }.tier(nearest)
        };
        let by_default = |nearest| Tuning::default().tier(nearest);
        assert!(Tier::ALL.into_iter().all(|one| by_default(one) == Some(one)));
        let any = |nearest| tier(&[Tier::Any], Spill::Proportional, nearest);
        assert!(Tier::ALL.into_iter().all(|one| any(one) == Some(Tier::Any)));
        let zone = |nearest| tier(&[Tier::Zone, Tier::Any], Spill::Never, nearest);
        assert_eq!(zone(Tier::Node), Some(Tier::Zone));
        assert_eq!(zone(Tier::Region), None);
        let both = |nearest| tier(&[Tier::Zone, Tier::Any], Spill::Empty, nearest);
        assert_eq!(both(Tier::Region), Some(Tier::Any));
    }
}
