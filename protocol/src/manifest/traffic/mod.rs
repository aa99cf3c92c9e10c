//! TrafficManagement: how traffic to a service behaves, as types that hold only what is allowed.
//!
//! In:    `spec` of a document.     Out: [`Traffic`], or all its faults.
//! Never: decides anything; [`crate::policy::traffic`] does, for documents that an operator signed.

mod action;
mod matching;
mod read;
mod target;
#[cfg(test)]
mod tests;
mod words;

pub(crate) use self::read::{destination, traffic};
pub use self::{
    action::{
        Abort, Action, Balance, CircuitBreak, Count, Edits, Fault, Hedge, HedgeAfter, Locality,
        Mirror, PerWhat, RateLimit, Redirect, Retry, RetryOn, Rewrite, Route, Split, Sticky,
        Timeout, TypeName,
    },
    matching::{HeaderMatch, Match, PathMatch, Request, Specificity},
    target::{OnEmpty, Target, Targets},
    words::percent,
};

use super::kinds::Destination;
use crate::{name::Label, record::node::Protocol};

/// A TrafficManagement: validated, in force only once an operator signed it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Traffic {
    /// Its policies, in order.
    pub policies: Vec<TrafficPolicy>,
}

/// One traffic policy.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TrafficPolicy {
    /// Its name.
    pub name: Label,
    /// What it is about.
    pub destination: Destination,
    /// The port it is about; `None`: all.
    pub port: Option<u16>,
    /// What the destination is said to speak; `None`: not said.
    pub protocol: Option<Protocol>,
    /// Which requests it is about; of bytes, nothing can be matched.
    pub matches: Match,
    /// What it does.
    pub action: Action,
}

impl TrafficPolicy {
    /// Whether it can only hold for HTTP: it looks at requests, or makes answers.
    pub fn needs_http(&self) -> bool {
        !self.matches.is_all() || self.action.needs_http()
    }
}
