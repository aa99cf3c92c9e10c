//! What the agent knows of the mesh: status, members, services, links, certificates, listeners.

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
    /// How virtual addresses are bound here.
    pub capture: CaptureStatus,
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

/// How virtual addresses are bound, in [`Status`].
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CaptureStatus {
    /// `redirect`, `listen` or `off`.
    pub mode: String,
    /// Their range.
    pub range: String,
    /// Why not by redirect where one was wanted; empty otherwise.
    pub reason: String,
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
    /// What is wrong with it though it lives; empty if nothing is known.
    pub note: String,
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
    /// Why a person set it aside; empty if nobody did or said why.
    pub note: String,
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
    /// `bound`, `redirected` (by the kernel, to one listener) or `failed`.
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
    /// Bytes sent.
    pub bytes_sent: u64,
    /// Bytes received.
    pub bytes_received: u64,
    /// Packets held for lost.
    pub lost: u64,
    /// The largest datagram the path carries; 0 where that means nothing.
    pub mtu: u16,
}

/// One certificate that this agent uses or trusts.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Certificate {
    /// `root`, `issuer`, `node`, or `gateway`: shown to those outside of the mesh.
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
    /// The short id of the root that it stands under; empty for roots.
    pub root: String,
    /// The file it stands in; empty where it is held in the store.
    pub path: String,
    /// What is wrong with it; none otherwise.
    pub problem: Option<String>,
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
