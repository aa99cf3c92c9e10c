//! How traffic to a service behaves, as `skein routes` asks and shows it.

use serde::{Deserialize, Serialize};

/// A question to `skein routes`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RoutesRequest {
    /// `namespace/name`, or a short name in the host's namespace.
    pub service: String,
    /// A port's number or name; empty: the first.
    pub port: String,
    /// The request to explain; none: a connection of bytes.
    pub request: Option<ExplainedRequest>,
}

/// A request, as far as rules look at it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ExplainedRequest {
    /// The method.
    pub method: String,
    /// The path, with its query.
    pub path: String,
    /// Names and values.
    pub headers: Vec<(String, String)>,
}

/// What rules make of calls to one port of a service.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RoutesReport {
    /// The service.
    pub service: String,
    /// The port.
    pub port: u16,
    /// How its connections are carried: `bytes`, `requests`, or as the first bytes tell.
    pub carried: String,
    /// All rules that are about the port, in the order in which they are asked.
    pub rules: Vec<RouteRule>,
    /// Where such a call goes, and how often.
    pub legs: Vec<RouteLeg>,
}

/// A rule.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RouteRule {
    /// Its type.
    pub kind: String,
    /// `namespace/document#policy`.
    pub name: String,
    /// How near it is.
    pub level: String,
    /// Which requests it is about.
    pub matches: String,
    /// What it does.
    pub does: String,
    /// Whether it holds for the call that was asked about.
    pub holds: bool,
}

/// Somewhere that a call may go.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RouteLeg {
    /// The service.
    pub service: String,
    /// Its port, number or name.
    pub port: String,
    /// Which of its instances; empty: all.
    pub subset: String,
    /// In hundredths of a percent.
    pub share: u64,
    /// Endpoints of these that may be called now.
    pub usable: u32,
    /// Endpoints of these.
    pub of: u32,
    /// The rule that leads there; empty: none does.
    pub by: String,
}
