//! Deliberate faults, by which the simulator shows that it finds such faults.
//!
//! Only with the feature `planted`, which nothing but `skein-sim planted` is built with; without
//! it [`planted`] is a constant `false` and every one of them is compiled away.

/// A fault.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Planted {
    /// Older records are taken.
    SkipFloor,
    /// Of two contents at one sequence the later comer wins, and nothing is kept as proof.
    LastWins,
    /// Sequences are used that are not reserved on disk.
    SkipReserve,
    /// A record may name services that its grant does not.
    SkipGrant,
    /// A record's signature is not looked at.
    SkipSignature,
    /// A witness's signature is not looked at.
    SkipWitness,
    /// Records of keys that have ended are believed.
    BelieveEnded,
    /// Links of keys that have ended stay open.
    KeepLinks,
    /// Records of keys that have ended are passed on.
    PassEnded,
    /// Keys that have ended count in the roots of those that hold them still.
    CountEnded,
    /// A revocation counts before it is on disk, and is never written.
    RevokeUnwritten,
    /// A document counts before it is on disk, and is never written.
    RuleUnwritten,
    /// Versions of documents that were replaced are taken again.
    RuleReturns,
    /// Other documents are in force, and what decides calls is not told.
    RuleUnshown,
    /// One witness is enough.
    OneWitness,
    /// A host that is doubted does not sign again.
    NoRefute,
    /// A suspicion that nobody joins is never forgotten.
    SuspectForever,
    /// A new record goes to two neighbours only.
    FloodToTwo,
    /// A new record goes to nobody; peers find it by comparing roots.
    NoFlood,
    /// Roots are not compared.
    NoExchange,
    /// What is known is passed on again.
    ResendKnown,
    /// Who offers what is known is blamed.
    BlameLaggards,
    /// A host whose disk went back does not leap over what peers have seen.
    NoLeap,
    /// Endpoints of dead hosts stay in use.
    DeadUsable,
    /// Endpoints of hosts that left stay in use.
    LeftUsable,
    /// Endpoints of suspects are not even last choice.
    SuspectUnusable,
}

impl Planted {
    /// All of them.
    pub const ALL: [Self; 26] = [
        Self::SkipFloor,
        Self::LastWins,
        Self::SkipReserve,
        Self::SkipGrant,
        Self::SkipSignature,
        Self::SkipWitness,
        Self::BelieveEnded,
        Self::KeepLinks,
        Self::PassEnded,
        Self::CountEnded,
        Self::RevokeUnwritten,
        Self::RuleUnwritten,
        Self::RuleReturns,
        Self::RuleUnshown,
        Self::OneWitness,
        Self::NoRefute,
        Self::SuspectForever,
        Self::FloodToTwo,
        Self::NoFlood,
        Self::NoExchange,
        Self::ResendKnown,
        Self::BlameLaggards,
        Self::NoLeap,
        Self::DeadUsable,
        Self::LeftUsable,
        Self::SuspectUnusable,
    ];
}

#[cfg(feature = "planted")]
mod switch {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::Planted;

    static ON: AtomicUsize = AtomicUsize::new(usize::MAX);

    /// Switches one fault on, or all off, for the whole process.
    pub fn plant(fault: Option<Planted>) {
        let index = fault.and_then(|fault| Planted::ALL.iter().position(|one| *one == fault));
        ON.store(index.unwrap_or(usize::MAX), Ordering::SeqCst);
    }

    /// Whether that fault is on.
    pub(crate) fn planted(fault: Planted) -> bool {
        Planted::ALL.get(ON.load(Ordering::Relaxed)) == Some(&fault)
    }
}

#[cfg(feature = "planted")]
pub use switch::plant;
#[cfg(feature = "planted")]
pub(crate) use switch::planted;

/// Whether that fault is on: never, without the feature.
#[cfg(not(feature = "planted"))]
pub(crate) const fn planted(_: Planted) -> bool {
    false
}
