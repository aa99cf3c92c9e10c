//! The shapes of the agent's API: what stands in JSON on the socket and behind `-o json`.
//!
//! A contract: keys are only ever added, never renamed, retyped or removed. Names of states,
//! results and reasons are plain text, so that an older reader meets a new one without failing.
//! The tests hold the exact bytes of each.

use serde::{Deserialize, Serialize};

/// What `skein status` shows.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// The mesh's human name.
    pub mesh: String,
    /// `[region/]zone` of this agent.
    pub zone: String,
    /// This node.
    pub node: StatusNode,
    /// How many members are in which state.
    pub members: MemberCounts,
    /// The view that decides now.
    pub view: ViewStatus,
    /// How many members hold the same policy.
    pub policy: PolicyStatus,
    /// Live issuers.
    pub issuers: u32,
    /// The agent's version.
    pub version: String,
    /// All that is not as it should be.
    pub problems: Vec<Problem>,
}

impl Status {
    /// Whether something needs a person: `skein status` then exits 3.
    pub fn degraded(&self) -> bool {
        self.problems.iter().any(|p| p.severity != "warning")
    }
}

/// This node in [`Status`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StatusNode {
    /// The short id.
    pub id: String,
    /// The name in the grant.
    pub name: String,
    /// What it advertises, `ip:port`.
    pub address: String,
    /// `up`, `draining`, `maintenance`, `left`.
    pub state: String,
}

/// Members by state.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct MemberCounts {
    /// This agent among them.
    pub alive: u32,
    /// One witness or a missed probe.
    pub suspect: u32,
    /// Confirmed gone.
    pub dead: u32,
    /// Gone on purpose.
    pub left: u32,
}

/// The view in [`Status`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ViewStatus {
    /// Milliseconds since it was last known to be current.
    pub age_ms: u64,
    /// Services in it.
    pub services: u32,
    /// Endpoints in it, usable or not.
    pub endpoints: u32,
    /// The hash over all records, short: equal on agents that believe the same.
    pub root: String,
}

/// Agreement on policy in [`Status`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyStatus {
    /// The hash over policy heads, short.
    pub root: String,
    /// Live members known to be at this root, this agent among them.
    pub agreeing: u32,
    /// Live members.
    pub of: u32,
}

/// One thing that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Problem {
    /// A stable word for scripts: `one-issuer`, `bad-file`, `view-old`.
    pub kind: String,
    /// `warning` changes no exit code; `degraded` makes `status` exit 3.
    pub severity: String,
    /// What is wrong, where and why.
    pub text: String,
    /// What to do next; may be empty.
    pub fix: String,
}

/// One line of `skein members`.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Member {
    /// The short id.
    pub id: String,
    /// The name in its grant.
    pub name: String,
    /// Where its agent is dialled, `ip:port`.
    pub address: String,
    /// `[region/]zone`.
    pub zone: String,
    /// `alive`, `suspect`, `dead`, `left`.
    pub state: String,
    /// Round trip of the control link; none without one.
    pub rtt_ms: Option<f64>,
    /// Its agent's version.
    pub version: String,
    /// Its policy root as last heard, short; empty if never.
    pub policy_root: String,
    /// Milliseconds since anything signed by it arrived; none for this agent itself.
    pub last_heard_ms: Option<u64>,
    /// `self`, `direct` (a link of ours) or `indirect` (by what others say).
    pub reach: String,
}

/// A port of a service.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PortInfo {
    /// Its name.
    pub name: String,
    /// What the caller dials.
    pub port: u16,
    /// `http`, `http2`, `grpc`, `tcp` or `sniff`.
    pub protocol: String,
}

/// Endpoints by what their checks say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointCounts {
    /// Usable.
    pub passing: u32,
    /// Usable, with a complaint.
    pub warning: u32,
    /// Not used, for whatever reason.
    pub critical: u32,
}

/// One line of `skein services`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceSummary {
    /// The name within the namespace.
    pub name: String,
    /// The namespace.
    pub namespace: String,
    /// Its ports, sorted by number.
    pub ports: Vec<PortInfo>,
    /// Its endpoints by state.
    pub endpoints: EndpointCounts,
    /// All tags of its instances, sorted.
    pub tags: Vec<String>,
    /// `local`, `mesh` or `both`: whether an instance is on this host.
    pub source: String,
}

/// What `skein service NAME` shows.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceDetail {
    /// The name within the namespace.
    pub name: String,
    /// The namespace.
    pub namespace: String,
    /// Its address on this host; none where capture is off.
    pub virtual_address: Option<String>,
    /// Its endpoints.
    pub endpoints: Vec<EndpointInfo>,
    /// Its ports, sorted by number.
    pub ports: Vec<PortInfo>,
    /// Where this host listens for it.
    pub listeners: Vec<Listener>,
}

/// One endpoint of a service.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EndpointInfo {
    /// `node/document/endpoint`.
    pub id: String,
    /// The serving node's name.
    pub node: String,
    /// The serving node's `[region/]zone`.
    pub zone: String,
    /// Where the process listens on its host: an IP address or `unix:/path`.
    pub address: String,
    /// The process's port; 0 for a unix socket.
    pub port: u16,
    /// `passing`, `warning` or `critical`, as its node says.
    pub status: String,
    /// Relative share of calls.
    pub weight: u32,
    /// Its tags.
    pub tags: Vec<String>,
    /// Its version, if it says one.
    pub version: Option<String>,
    /// Why it is not used, or only as last choice; none when it is used.
    pub reason: Option<String>,
}

/// Where this host listens for a service.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Listener {
    /// `discovery`, `virtual`, `mesh`, `http` or `dns`.
    pub kind: String,
    /// `namespace/name`; empty for the agent's own.
    pub service: String,
    /// An IP address or `unix:/path`.
    pub address: String,
    /// The port here; 0 for a unix socket.
    pub port: u16,
    /// The service's port behind it; 0 for the agent's own.
    pub target_port: u16,
    /// `listening`, `unbound` (not asked for yet) or `failed`.
    pub state: String,
    /// Why it failed; none otherwise.
    pub reason: Option<String>,
    /// What to do about it: the ServiceDiscovery line that replaces it.
    pub fix: Option<String>,
}

/// One connection to another agent.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Link {
    /// The peer's short id.
    pub id: String,
    /// The peer's name.
    pub name: String,
    /// `control` or `data`.
    pub role: String,
    /// `out` (dialled here) or `in`.
    pub direction: String,
    /// `quic` or `tcp`.
    pub transport: String,
    /// The peer's address as seen here, `ip:port`.
    pub address: String,
    /// Smoothed round trip.
    pub rtt_ms: Option<f64>,
    /// Milliseconds since it came up.
    pub age_ms: u64,
    /// Streams open now.
    pub streams: u32,
    /// Bytes sent.
    pub bytes_sent: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// Packets held for lost.
    pub lost: u64,
    /// The largest datagram the path carries; 0 where that means nothing.
    pub mtu: u16,
    /// Points of blame that the peer has now.
    pub blame: u32,
}

/// One certificate that this agent uses or trusts.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Certificate {
    /// `root`, `issuer` or `node`.
    pub kind: String,
    /// Its name: the mesh, an issuer's host, a node.
    pub name: String,
    /// The short id of its key.
    pub id: String,
    /// Serial number in hexadecimal.
    pub serial: String,
    /// Start, RFC 3339.
    pub not_before: String,
    /// End, RFC 3339.
    pub not_after: String,
    /// Until the end; negative when past it.
    pub seconds_left: i64,
    /// The services that a node's grant names; empty for others.
    pub services: Vec<String>,
    /// The file it stands in; empty where it is held in the store.
    pub path: String,
    /// What is wrong with it; none otherwise.
    pub problem: Option<String>,
}

/// One document as the agent holds it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Document {
    /// `ServiceRegistry` and so on.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `file:/path` or `api`: who owns it.
    pub source: String,
    /// `applied`, `last-good` (its file is bad now) or `not-applied`.
    pub state: String,
    /// Why it is not simply applied; none otherwise.
    pub reason: Option<String>,
    /// The hash of its canonical text.
    pub hash: String,
    /// The document as YAML, secrets left out.
    pub yaml: String,
}

/// A document and what became of it: `skein describe`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DocumentDetail {
    /// The document.
    pub document: Document,
    /// Instances that it registered, with their checks.
    pub instances: Vec<InstanceStatus>,
    /// Listeners that it opened.
    pub listeners: Vec<Listener>,
    /// What happened lately, newest first.
    pub events: Vec<String>,
}

/// An instance on this host.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceStatus {
    /// `node/document/endpoint`.
    pub id: String,
    /// `passing`, `warning`, `critical`, `maintenance` or `draining`.
    pub status: String,
    /// Its checks.
    pub checks: Vec<CheckStatus>,
}

/// A check of an instance.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CheckStatus {
    /// `http`, `tcp`, `grpc`, `ttl`, `exec` or `unit`.
    pub kind: String,
    /// `passing`, `warning` or `critical`.
    pub status: String,
    /// What it said last.
    pub output: String,
    /// Milliseconds since then; none before the first result.
    pub age_ms: Option<u64>,
}

/// Names a document.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DocumentName {
    /// `ServiceRegistry` and so on, spelled as in files.
    pub kind: String,
    /// Its namespace; empty for the agent's own.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

/// YAML text to take, try or compare.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Documents {
    /// Files, in the order given.
    pub files: Vec<SourceFile>,
    /// How long to wait until live members show it; 0 for not at all.
    pub wait_ms: u64,
    /// Change nothing, say what would change.
    pub dry_run: bool,
}

/// One file as the caller read it.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SourceFile {
    /// Its name for messages; `-` for standard input.
    pub name: String,
    /// Its text.
    pub text: String,
}

/// Documents to delete.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DeleteRequest {
    /// Which ones.
    pub documents: Vec<DocumentName>,
    /// How long to wait until live members show it; 0 for not at all.
    pub wait_ms: u64,
    /// Change nothing, say what would change.
    pub dry_run: bool,
}

/// What came of `apply` or `delete`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ApplyReport {
    /// One per document.
    pub results: Vec<ApplyResult>,
    /// How far it got.
    pub visible: Visible,
}

/// What became of one document.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ApplyResult {
    /// Its kind.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `created`, `changed`, `unchanged`, `deleted`.
    pub result: String,
    /// The hash of its canonical text; of what was deleted.
    pub hash: String,
    /// Warnings that did not keep it from being applied.
    pub warnings: Vec<String>,
}

/// On how many live members a change shows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Visible {
    /// Members that show it.
    pub on: u32,
    /// Live members.
    pub of: u32,
    /// How long that took.
    pub ms: u64,
}

/// What `skein diff` shows.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DiffReport {
    /// One per document.
    pub results: Vec<DiffResult>,
}

impl DiffReport {
    /// Whether applying would change something: `skein diff` then exits 4.
    pub fn changes(&self) -> bool {
        self.results.iter().any(|r| r.result != "unchanged")
    }
}

/// One document compared with what the agent holds.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DiffResult {
    /// Its kind.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// `created`, `changed`, `unchanged`: what applying would do.
    pub result: String,
    /// The change as unified text; empty when unchanged.
    pub diff: String,
}

/// What `skein validate` found.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ValidateReport {
    /// Documents read.
    pub documents: Vec<DocumentName>,
    /// All faults.
    pub faults: Vec<Fault>,
}

impl ValidateReport {
    /// Whether all of it may be applied. Warnings do not count.
    pub fn valid(&self) -> bool {
        self.faults.iter().all(|f| f.severity == "warning")
    }
}

/// One fault in a file.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Fault {
    /// `error` or `warning`.
    pub severity: String,
    /// The file's name as the caller gave it.
    pub file: String,
    /// From 1; 0 where no line is to blame.
    pub line: u32,
    /// From 1; 0 where no column is to blame.
    pub column: u32,
    /// The key's path, `spec.ports[0].port`; may be empty.
    pub key: String,
    /// What is wrong and why.
    pub text: String,
    /// The whole as people read it, with the line and a caret.
    pub rendered: String,
}

/// What came of binding a service's virtual address.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BindReport {
    /// `namespace/name`.
    pub service: String,
    /// The address.
    pub virtual_address: String,
    /// One per port, with the reason where it could not be bound.
    pub listeners: Vec<Listener>,
}

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
}

/// What came of a drain.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DrainReport {
    /// Services that take no new calls here.
    pub services: Vec<String>,
    /// Connections that are still live.
    pub connections: u64,
    /// How far the news got.
    pub visible: Visible,
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
    /// Services set aside here now.
    pub services: Vec<String>,
    /// How far the news got.
    pub visible: Visible,
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
}

/// What a new join token allows.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TokenRequest {
    /// Services that the joining nodes may serve; empty: they may only call.
    pub services: Vec<String>,
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
