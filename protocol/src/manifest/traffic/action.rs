//! What a traffic policy does: one type for each `type:`, with the defaults of the manifest
//! language.

use std::{collections::BTreeSet, fmt, time::Duration};

use super::target::{Target, Targets};
use crate::{
    manifest::value::Rate,
    route::{
        Algorithm, Eject, Spill, Tier,
        retry::{Backoff, Budget},
    },
};

/// What a policy does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Action {
    /// Where matching requests go.
    Route(Route),
    /// Shares of the calls, by weight.
    Split(Split),
    /// How endpoints of one tier share the calls.
    Balance(Balance),
    /// Which tiers, in which order.
    Locality(Locality),
    /// When a failed try is followed by another.
    Retry(Retry),
    /// How long things may last.
    Timeout(Timeout),
    /// How much may be open at once.
    CircuitBreak(CircuitBreak),
    /// When an endpoint is an outlier.
    Eject(Eject),
    /// How many calls in which time.
    RateLimit(RateLimit),
    /// A copy goes elsewhere.
    Mirror(Mirror),
    /// Faults on purpose, for drills.
    Fault(Fault),
    /// A second try before the first has failed.
    Hedge(Hedge),
}

/// The word in `type:`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum TypeName {
    /// See [`Action::Route`].
    Route,
    /// See [`Action::Split`].
    Split,
    /// See [`Action::Balance`].
    Balance,
    /// See [`Action::Locality`].
    Locality,
    /// See [`Action::Retry`].
    Retry,
    /// See [`Action::Timeout`].
    Timeout,
    /// See [`Action::CircuitBreak`].
    CircuitBreak,
    /// See [`Action::Eject`].
    Eject,
    /// See [`Action::RateLimit`].
    RateLimit,
    /// See [`Action::Mirror`].
    Mirror,
    /// See [`Action::Fault`].
    Fault,
    /// See [`Action::Hedge`].
    Hedge,
}

impl TypeName {
    /// All of them, in the order of MANIFESTS' table.
    pub const ALL: [(&'static str, Self); 12] = [
        ("Route", Self::Route),
        ("Split", Self::Split),
        ("Balance", Self::Balance),
        ("Locality", Self::Locality),
        ("Retry", Self::Retry),
        ("Timeout", Self::Timeout),
        ("CircuitBreak", Self::CircuitBreak),
        ("Eject", Self::Eject),
        ("RateLimit", Self::RateLimit),
        ("Mirror", Self::Mirror),
        ("Fault", Self::Fault),
        ("Hedge", Self::Hedge),
    ];
}

impl TypeName {
    /// Whether it says where calls go.
    pub fn has_target(self) -> bool {
        matches!(self, Self::Route | Self::Split | Self::Mirror)
    }
}

impl fmt::Display for TypeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = Self::ALL.iter().find(|(_, name)| name == self).map_or("", |(word, _)| word);
        f.write_str(word)
    }
}

impl Action {
    /// The word in `type:`.
    pub fn name(&self) -> TypeName {
        match self {
            Self::Route(_) => TypeName::Route,
            Self::Split(_) => TypeName::Split,
            Self::Balance(_) => TypeName::Balance,
            Self::Locality(_) => TypeName::Locality,
            Self::Retry(_) => TypeName::Retry,
            Self::Timeout(_) => TypeName::Timeout,
            Self::CircuitBreak(_) => TypeName::CircuitBreak,
            Self::Eject(_) => TypeName::Eject,
            Self::RateLimit(_) => TypeName::RateLimit,
            Self::Mirror(_) => TypeName::Mirror,
            Self::Fault(_) => TypeName::Fault,
            Self::Hedge(_) => TypeName::Hedge,
        }
    }

    /// Whether it reads or makes requests, and so cannot hold for bytes.
    pub fn needs_http(&self) -> bool {
        match self {
            Self::Route(route) => {
                route.redirect.is_some()
                    || route.rewrite != Rewrite::default()
                    || route.request != Edits::default()
                    || route.response != Edits::default()
            }
            Self::Split(split) => matches!(split.sticky, Some(Sticky::Header(_))),
            Self::Balance(balance) => matches!(balance.key, Some(Sticky::Header(_))),
            Self::RateLimit(limit) => matches!(limit.per, PerWhat::Header(_)),
            Self::Retry(retry) => retry.on.iter().any(|on| on.needs_http()),
            Self::Timeout(timeout) => timeout.request.is_some(),
            Self::Fault(fault) => matches!(fault.abort, Some(Abort::Status(_))),
            Self::Mirror(_) | Self::Hedge(_) => true,
            Self::Locality(_) | Self::CircuitBreak(_) | Self::Eject(_) => false,
        }
    }
}

/// Where matching requests go.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Route {
    /// Where to; `None`: the destination itself.
    pub to: Option<Targets>,
    /// What of the request is written anew.
    pub rewrite: Rewrite,
    /// Answered here with another address, instead of going anywhere.
    pub redirect: Option<Redirect>,
    /// Headers of the request, on their way to the service.
    pub request: Edits,
    /// Headers of the answer, on their way back.
    pub response: Edits,
}

/// What of a request is written anew.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rewrite {
    /// The whole path.
    pub path: Option<String>,
    /// What stands in place of the matched prefix.
    pub prefix: Option<String>,
    /// The authority.
    pub host: Option<String>,
}

/// An answer that names another address.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// `http` or `https`; `None`: as it came.
    pub scheme: Option<&'static str>,
    /// The host; `None`: as it came.
    pub host: Option<String>,
    /// The path; `None`: as it came.
    pub path: Option<String>,
}

/// Changes of headers: first removed, then set, then added. Names are in lower case.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Edits {
    /// Taken out.
    pub remove: Vec<String>,
    /// In place of what stands there.
    pub set: Vec<(String, String)>,
    /// Beside what stands there.
    pub add: Vec<(String, String)>,
}

/// Shares of the calls, by weight.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Split {
    /// The shares.
    pub to: Targets,
    /// What keeps a caller at its share while weights move; `None`: each call is drawn.
    pub sticky: Option<Sticky>,
}

/// What tells callers apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Sticky {
    /// A header's value; its name in lower case.
    Header(String),
    /// The calling service, or node, and the address behind it.
    Source,
}

/// How endpoints of one tier share the calls.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Balance {
    /// How.
    pub algorithm: Algorithm,
    /// What ring-hash hashes; `Source` where it is left out.
    pub key: Option<Sticky>,
}

/// Which tiers, in which order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Locality {
    /// Tried in this order; what is not named is not used.
    pub prefer: Vec<Tier>,
    /// When calls leave a tier for the next.
    pub spill: Spill,
}

/// When a failed try is followed by another.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Retry {
    /// After the first.
    pub attempts: u32,
    /// After which failures.
    pub on: BTreeSet<RetryOn>,
    /// How long one try may take; `None`: as long as the whole.
    pub per_try: Option<Duration>,
    /// How many tries more there may be in all.
    pub budget: Budget,
    /// How long to wait before a try.
    pub backoff: Backoff,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 2,
            on: BTreeSet::from([
                RetryOn::Connect,
                RetryOn::Refused,
                RetryOn::Draining,
                RetryOn::Idempotent,
            ]),
            per_try: None,
            budget: RETRY_BUDGET,
            backoff: Backoff::default(),
        }
    }
}

/// Of retries: a fifth of the calls, and ten a second.
pub(super) const RETRY_BUDGET: Budget = Budget { percent: 2_000, min_milli_per_second: 10_000 };
/// Of hedges: a twentieth of the calls.
pub(super) const HEDGE_BUDGET: Budget = Budget { percent: 500, min_milli_per_second: 0 };

/// A failure that is worth another try.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum RetryOn {
    /// No connection.
    Connect,
    /// The serving agent refused, before the service saw anything.
    Refused,
    /// It drains.
    Draining,
    /// 502, 503, 504, or a reset before an answer, when the method may be repeated.
    Idempotent,
    /// A reset before an answer, whatever the method.
    Reset,
    /// No answer within `perTryTimeout`, whatever the method.
    Timeout,
    /// 502, 503 and 504, whatever the method.
    Gateway,
    /// Every 5xx, whatever the method.
    ServerError,
    /// gRPC's UNAVAILABLE.
    Unavailable,
    /// This status, whatever the method.
    Status(u16),
}

impl RetryOn {
    /// The words for those that have one.
    pub const WORDS: [(&'static str, Self); 9] = [
        ("connect", Self::Connect),
        ("refused", Self::Refused),
        ("draining", Self::Draining),
        ("idempotent", Self::Idempotent),
        ("reset", Self::Reset),
        ("timeout", Self::Timeout),
        ("gateway", Self::Gateway),
        ("5xx", Self::ServerError),
        ("unavailable", Self::Unavailable),
    ];

    /// Whether bytes cannot fail so. `Idempotent` is part of the default and holds where it can.
    pub fn needs_http(self) -> bool {
        matches!(
            self,
            Self::Reset
                | Self::Timeout
                | Self::Gateway
                | Self::ServerError
                | Self::Unavailable
                | Self::Status(_)
        )
    }
}

/// How long things may last.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Timeout {
    /// A request with all its tries; `None`: as long as it takes.
    pub request: Option<Duration>,
    /// Until an endpoint has taken the call.
    pub connect: Option<Duration>,
    /// Without a byte either way.
    pub idle: Option<Duration>,
}

/// How much may be open at once, for each calling agent and service.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CircuitBreak {
    /// Connections.
    pub connections: Option<Count>,
    /// Calls that wait for an endpoint.
    pub pending: Option<Count>,
    /// Requests.
    pub requests: Option<Count>,
}

/// A number of things that are open at once.
pub type Count = u32;

/// How many calls in which time, at each serving instance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RateLimit {
    /// The rate that holds in the long run.
    pub rate: Rate,
    /// How many at once.
    pub burst: u32,
    /// Counted apart for each what.
    pub per: PerWhat,
}

/// What a rate is counted for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PerWhat {
    /// Each calling service or node.
    Source,
    /// Each value of a header; its name in lower case.
    Header(String),
    /// All together.
    All,
}

/// A copy of requests goes elsewhere; its answer is dropped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mirror {
    /// Where to.
    pub to: Target,
    /// Of how many, in hundredths of a percent.
    pub percent: u32,
}

/// Faults on purpose.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// A wait before the call goes on.
    pub delay: Option<Duration>,
    /// An end instead.
    pub abort: Option<Abort>,
    /// Of how many calls, in hundredths of a percent.
    pub percent: u32,
}

/// How a fault ends a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Abort {
    /// With this status.
    Status(u16),
    /// The connection is reset.
    Reset,
}

/// A second try before the first has failed; for requests that may be repeated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hedge {
    /// When.
    pub after: HedgeAfter,
    /// How many there may be.
    pub budget: Budget,
}

/// When a hedge starts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HedgeAfter {
    /// When so many of a hundred answers would have been there.
    Percentile(u8),
    /// After this time.
    Time(Duration),
}
