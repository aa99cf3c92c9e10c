//! Reasons: the closed set of words for how a connection ended, and why a call found no endpoint.

use std::{collections::BTreeMap, fmt};

use crate::{name::ServiceName, view::Reason, wire::stream::Refusal, words};

/// How a connection ended: the closed set of the access log and the metrics.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum CloseReason {
    /// Both sides ended in order.
    Done,
    /// The caller reset it.
    ClientReset,
    /// The service reset it.
    EndpointReset,
    /// The link between the agents was lost, or a socket failed.
    LinkLost,
    /// Nothing moved for as long as the idle timeout says.
    IdleTimeout,
    /// Cut when the time to drain was over.
    DrainDeadline,
    /// The peer's key was revoked, or its link was closed for cause.
    Cut,
    /// A service or a port that nobody has.
    NoSuchService,
    /// No endpoint of the service may be used.
    NoEndpoints,
    /// No agent with an endpoint could be reached.
    Unreachable,
    /// No agent answered in time.
    NoReply,
    /// Denied by the serving agent.
    Denied,
    /// The serving agent does not have it.
    NoService,
    /// The serving agent has no room.
    Overload,
    /// The serving agent drains.
    PeerDraining,
    /// The application did not take the connection.
    ConnectFailed,
    /// This agent has as many connections as it may.
    TooMany,
    /// The caller is not one of the processes that the listener allows.
    NotAllowed,
    /// The peer's stream head was late, cut short or malformed.
    BadHead,
    /// More calls than a RateLimit allows at the serving instance.
    RateLimited,
    /// More at once than a CircuitBreak allows this agent.
    CircuitOpen,
    /// A Fault ended it on purpose.
    Fault,
    /// The client sent what is no HTTP, or what two readers could read in two ways.
    BadRequest,
    /// The service sent what is no HTTP.
    BadAnswer,
    /// No answer within the time that a Timeout allows a request.
    Timeout,
}

impl CloseReason {
    /// Every reason, for tables and metrics that show them all.
    pub const ALL: [Self; 25] = [
        Self::Done,
        Self::ClientReset,
        Self::EndpointReset,
        Self::LinkLost,
        Self::IdleTimeout,
        Self::DrainDeadline,
        Self::Cut,
        Self::NoSuchService,
        Self::NoEndpoints,
        Self::Unreachable,
        Self::NoReply,
        Self::Denied,
        Self::NoService,
        Self::Overload,
        Self::PeerDraining,
        Self::ConnectFailed,
        Self::TooMany,
        Self::NotAllowed,
        Self::BadHead,
        Self::RateLimited,
        Self::CircuitOpen,
        Self::Fault,
        Self::BadRequest,
        Self::BadAnswer,
        Self::Timeout,
    ];

    /// The word of the log and the metrics. Words are a contract: none changes its meaning.
    pub fn word(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::ClientReset => "client_reset",
            Self::EndpointReset => "endpoint_reset",
            Self::LinkLost => "link_lost",
            Self::IdleTimeout => "idle_timeout",
            Self::DrainDeadline => "drain_deadline",
            Self::Cut => "cut",
            Self::NoSuchService => "no_such_service",
            Self::NoEndpoints => "no_endpoints",
            Self::Unreachable => "unreachable",
            Self::NoReply => "no_reply",
            Self::Denied => "denied",
            Self::NoService => "no_service",
            Self::Overload => "overload",
            Self::PeerDraining => "peer_draining",
            Self::ConnectFailed => "connect_failed",
            Self::TooMany => "too_many_connections",
            Self::NotAllowed => "not_allowed",
            Self::BadHead => "bad_head",
            Self::RateLimited => "rate_limited",
            Self::CircuitOpen => "circuit_open",
            Self::Fault => "fault",
            Self::BadRequest => "bad_request",
            Self::BadAnswer => "bad_answer",
            Self::Timeout => "timeout",
        }
    }
}

impl CloseReason {
    /// The status with which a request that ended so is answered (RFC 9110 15).
    pub fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::Denied | Self::NotAllowed => 403,
            Self::RateLimited => 429,
            Self::EndpointReset | Self::LinkLost | Self::BadAnswer | Self::BadHead => 502,
            Self::NoReply | Self::IdleTimeout | Self::Timeout => 504,
            Self::Done
            | Self::ClientReset
            | Self::DrainDeadline
            | Self::Cut
            | Self::NoSuchService
            | Self::NoEndpoints
            | Self::Unreachable
            | Self::NoService
            | Self::Overload
            | Self::PeerDraining
            | Self::ConnectFailed
            | Self::TooMany
            | Self::CircuitOpen
            | Self::Fault => 503,
        }
    }

    /// The same for gRPC.
    pub fn grpc_status(self) -> u8 {
        match self.status() {
            400 => 3,
            403 => 7,
            429 => 8,
            504 => 4,
            _ => 14,
        }
    }
}

impl From<Refusal> for CloseReason {
    fn from(code: Refusal) -> Self {
        match code {
            Refusal::Denied => Self::Denied,
            Refusal::NoService => Self::NoService,
            Refusal::Overload => Self::Overload,
            Refusal::Draining => Self::PeerDraining,
            Refusal::ConnectFailed => Self::ConnectFailed,
            Refusal::RateLimited => Self::RateLimited,
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Why a call has no endpoint to go to. The text says what to do.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoRoute {
    /// Nobody has registered it.
    #[error("no service `{0}` in the mesh: see `skein services`")]
    NoService(ServiceName),
    /// The service has no such port.
    #[error("`{service}` has no port {port}, only {}: see `skein service {service}`", list(.has))]
    NoPort {
        /// The service.
        service: ServiceName,
        /// What was asked for.
        port: String,
        /// What there is.
        has: Vec<u16>,
    },
    /// No instance is in the subset.
    #[error(
        "no route to `{service}`: none of {of} endpoints has {subset}: see `skein service {service}`"
    )]
    NoMatch {
        /// The service.
        service: ServiceName,
        /// What was asked for.
        subset: String,
        /// How many endpoints there are.
        of: usize,
    },
    /// All that would do are out of use.
    #[error("no route to `{service}`: 0 of {of} endpoints usable ({}): see `skein service {service}`", counts(.reasons))]
    NoneUsable {
        /// The service.
        service: ServiceName,
        /// How many would do.
        of: usize,
        /// Why not, and how many each.
        reasons: BTreeMap<Reason, usize>,
    },
    /// A Locality policy keeps calls away from all that there are.
    #[error(
        "no route to `{service}`: its {} in tiers that its Locality policy rules \
         out: see `skein service {service}`",
        words::count(*.far, "endpoint is", "endpoints are")
    )]
    TooFar {
        /// The service.
        service: ServiceName,
        /// How many there are.
        far: usize,
    },
    /// This call has tried all that may be used.
    #[error(
        "no route to `{service}`: {} tried, no other is usable: see `skein service {service}`",
        words::count(*.tried, "endpoint", "endpoints")
    )]
    AllTried {
        /// The service.
        service: ServiceName,
        /// How many that were.
        tried: usize,
    },
}

impl NoRoute {
    /// The word for the log.
    pub fn reason(&self) -> CloseReason {
        match self {
            Self::NoService(_) | Self::NoPort { .. } => CloseReason::NoSuchService,
            Self::NoMatch { .. }
            | Self::NoneUsable { .. }
            | Self::TooFar { .. }
            | Self::AllTried { .. } => CloseReason::NoEndpoints,
        }
    }
}

fn list(ports: &[u16]) -> String {
    let ports: Vec<String> = ports.iter().map(u16::to_string).collect();
    ports.join(", ")
}

fn counts(reasons: &BTreeMap<Reason, usize>) -> String {
    let parts: Vec<String> =
        reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
    if parts.is_empty() { "none registered".to_owned() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_reason_has_a_word_of_its_own() {
        let words: BTreeSet<&str> = CloseReason::ALL.iter().map(|one| one.word()).collect();
        assert_eq!(words.len(), CloseReason::ALL.len());
    }

    #[test]
    fn a_missing_route_says_why_and_what_to_do() {
        let error = NoRoute::NoneUsable {
            service: "shop/db".parse().unwrap(),
            of: 3,
            reasons: [(Reason::Dead, 2), (Reason::Critical, 1)].into(),
        };
        assert_eq!(
            error.to_string(),
            "no route to `shop/db`: 0 of 3 endpoints usable (1 critical, 2 dead): \
             see `skein service shop/db`"
        );
    }
}
