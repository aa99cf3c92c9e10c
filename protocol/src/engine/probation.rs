//! Probation: a host that cannot show that it holds the mesh's policy takes no calls until it
//! does.
//!
//! A disk that was just made, or was set back, would decide by no policy or by an old one. So a
//! disk is marked once it has been anchored: when it held all that an issuer's signed answer
//! listed, or the same as other agents that are anchored themselves. What runs on the host calls
//! others meanwhile, as ever: they decide.

use std::time::Duration;

use super::{Engine, Event, Output, Write};
use crate::{
    clock::{Now, Tick},
    limits,
    trust::join::PolicyHead,
};

/// What a disk shows of the policy that it once held.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Anchor {
    /// It held the mesh's policy: what it holds now is no older.
    Held,
    /// It never did, as far as it shows.
    #[default]
    Lacks,
    /// The same, and an issuer has signed what the policy was when it let this host in.
    Listed(Vec<PolicyHead>),
}

/// A host that takes no calls yet.
#[derive(Debug)]
pub(super) struct Probation {
    since: Tick,
    /// Since when there is a link: other peers are known soon after.
    met: Option<Tick>,
    listed: Option<Vec<PolicyHead>>,
}

/// The first peer says who else there is: only then is it clear how many should agree.
const SETTLE: Duration = Duration::from_secs(2);
/// So many of those that live have to agree, if there are as many.
const AGREEING: usize = 2;

impl Probation {
    pub(super) fn begin(anchor: Anchor, now: Now) -> Option<Self> {
        let listed = match anchor {
            Anchor::Held => return None,
            Anchor::Lacks => None,
            Anchor::Listed(heads) => Some(heads),
        };
        Some(Self { since: now.tick, met: None, listed })
    }
}

impl Engine {
    /// Whether this host takes no calls since it may not know the mesh's policy.
    pub fn on_probation(&self) -> bool {
        self.probation.is_some()
    }

    /// The disk turned out to be older than what this host has said: so may its policy be.
    pub(super) fn put_on_probation(&mut self, now: Now) {
        if self.probation.is_none() {
            self.probation = Probation::begin(Anchor::Lacks, now);
            self.outbox.push_back(Output::Probation(true));
        }
        self.persist(vec![Write::Anchored(false)]);
    }

    /// Ends the probation when its time has come.
    pub(super) fn look_at_probation(&mut self, now: Now) {
        let Some(probation) = &mut self.probation else { return };
        if self.links.ready().next().is_some() {
            probation.met.get_or_insert(now.tick);
        } else {
            probation.met = None;
        }
        let settled = probation.met.is_some_and(|met| now.tick.since(met) >= SETTLE);
        let patience = now.tick.since(probation.since) >= limits::PROBATION;
        let holds = |head: &PolicyHead| self.policy.documents.covers(head);
        if probation.listed.as_ref().is_some_and(|listed| listed.iter().all(holds)) {
            return self.anchored(true);
        }
        let root = self.policy.documents.root();
        let stands = || self.links.stands().filter(|stand| !stand.probation);
        let (anchored, agree) =
            (stands().count(), stands().filter(|stand| stand.policy == root).count());
        // Who was told of something that it lacks does not believe a single peer that it is not so.
        let others = match probation.listed {
            Some(_) => AGREEING,
            None => self.live.len().saturating_sub(1).max(1),
        };
        if settled && agree >= AGREEING.min(others) {
            return self.anchored(true);
        }
        // Nobody else comes: all that are there have to do, be it none.
        let all = agree >= AGREEING.min(anchored) && self.links.all_stand();
        if patience && all && probation.listed.is_none() {
            self.anchored(anchored > 0);
        }
    }

    fn anchored(&mut self, surely: bool) {
        self.probation = None;
        self.persist(vec![Write::Anchored(true)]);
        self.outbox.push_back(Output::Probation(false));
        self.event(Event::Anchored { surely });
    }
}
