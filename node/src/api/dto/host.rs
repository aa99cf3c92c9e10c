//! This host's life and who is let in: drain, maintenance, leave, tokens, admission; refusals.

use serde::{Deserialize, Serialize};

use super::document::{Fault, Visible};

/// The state of an instance whose process reports by itself.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CheckUpdate {
    /// The instance: `document/endpoint` of this host.
    pub instance: String,
    /// `passing`, `warning` or `critical`.
    pub status: String,
    /// What it says; cut at [`skein_protocol::limits::CHECK_OUTPUT_BYTES`].
    pub output: String,
}

/// Stop taking new calls and let live ones finish.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DrainRequest {
    /// `namespace/name`; none for all of this host.
    pub service: Option<String>,
    /// How long to wait for live connections; 0 for not at all.
    pub wait_ms: u64,
    /// Take calls again instead.
    pub undo: bool,
    /// Why, for those who see it.
    pub reason: String,
}

/// What came of a drain.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DrainReport {
    /// Services that take no new calls here, or take them again.
    pub services: Vec<String>,
    /// Connections that are still live.
    pub connections: u64,
    /// How far the news got.
    pub visible: Visible,
    /// Whether they take calls again.
    pub undone: bool,
}

/// Set instances aside until told otherwise.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MaintenanceRequest {
    /// On or off.
    pub on: bool,
    /// `namespace/name`; none for all of this host.
    pub service: Option<String>,
    /// Why, for those who see it.
    pub reason: String,
}

/// What came of it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MaintenanceReport {
    /// Services set aside here now, or in use again.
    pub services: Vec<String>,
    /// How far the news got.
    pub visible: Visible,
    /// Whether they are set aside.
    pub on: bool,
    /// Why.
    pub reason: String,
}

/// Drain, then out of the mesh.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LeaveRequest {
    /// Also delete keys and state.
    pub purge: bool,
}

/// What came of it. The agent ends after it has answered.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LeaveReport {
    /// How far the news got.
    pub visible: Visible,
    /// Files that were deleted.
    pub purged: Vec<String>,
    /// That it does not last, if so.
    pub warning: String,
}

/// What a new join token allows.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TokenRequest {
    /// Services that the joining nodes may serve; empty: they may only call.
    pub services: Vec<String>,
    /// Names that it may give, `*` for any characters; empty: `node-ID` only.
    pub names: Vec<String>,
    /// `relay`, `gateway`.
    pub roles: Vec<String>,
    /// The zone they must be in; `*` for any.
    pub zone: String,
    /// Seconds until it ends.
    pub ttl_seconds: u64,
    /// How often it may be used at this issuer.
    pub uses: u32,
}

/// A new join token. Its text is a secret and shown once.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TokenCreated {
    /// By which `list` and `revoke` know it.
    pub id: String,
    /// The secret text.
    pub token: String,
    /// End, RFC 3339.
    pub not_after: String,
    /// What it allows.
    pub services: Vec<String>,
    /// How often it may be used.
    pub uses: u32,
}

impl std::fmt::Debug for TokenCreated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "TokenCreated({}, secret)", self.id)
    }
}

/// On how many issuers a token is revoked.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TokenRevoked {
    /// Which.
    pub id: String,
    /// Issuers that have heard, this one among them.
    pub on: u32,
    /// Issuers that live.
    pub of: u32,
    /// The hosts of those that have not heard.
    pub unheard: Vec<String>,
}

/// A token as its issuer remembers it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TokenInfo {
    /// Its id.
    pub id: String,
    /// What it allows.
    pub services: Vec<String>,
    /// End, RFC 3339.
    pub not_after: String,
    /// Used so often.
    pub used: u32,
    /// May be used so often.
    pub uses: u32,
    /// `live`, `used-up`, `expired` or `revoked`.
    pub state: String,
    /// The host whose issuer made it.
    pub issuer: String,
}

/// Let a key in without a token.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct AdmitRequest {
    /// The public key, as `skein key` prints it on the host to admit.
    pub key: String,
    /// Whether a host that is away gives up the name.
    pub replace: bool,
    /// The node's name.
    pub name: String,
    /// Services it may serve.
    pub services: Vec<String>,
    /// `relay`, `gateway`.
    pub roles: Vec<String>,
    /// Its `[region/]zone`; `*` for any.
    pub zone: String,
}

/// The certificate that came of it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Admitted {
    /// The short id of the node.
    pub id: String,
    /// The node's name.
    pub name: String,
    /// End of its certificate, RFC 3339.
    pub not_after: String,
    /// Chain in PEM, to be written as `node.pem` on that host.
    pub chain_pem: String,
    /// Roots in PEM, to be written as `ca.pem` on that host.
    pub roots_pem: String,
}

/// The log filter, as `tracing` spells it: `info`, `skein_node::proxy=debug`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LogLevel {
    /// The filter.
    pub filter: String,
}

/// A refusal, as it stands in an answer's body under `error`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ErrorBody {
    /// What kind, a stable word: see `ApiErrorKind::word`.
    pub kind: String,
    /// What, where, why.
    pub text: String,
    /// The next command; may be empty.
    pub fix: String,
    /// Faults in documents, all of them.
    pub faults: Vec<Fault>,
}

/// The envelope of [`ErrorBody`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ErrorEnvelope {
    /// The refusal.
    pub error: ErrorBody,
}
