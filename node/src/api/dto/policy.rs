//! Policy: what is signed, who holds it, who calls whom.

use serde::{Deserialize, Serialize};

use super::document::{DocumentName, SourceFile};

/// What an operator is about to change.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PrepareRequest {
    /// Files with documents; those that belong to this host are passed over.
    pub files: Vec<SourceFile>,
    /// Documents to delete.
    pub delete: Vec<DocumentName>,
    /// The certificate of the operator who is to sign, as DER in hexadecimal; empty where that is
    /// not known yet.
    pub operator: String,
}

/// What is to be signed.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Prepared {
    /// The mesh, 64 hexadecimal digits.
    pub mesh: String,
    /// One per mesh-wide document.
    pub drafts: Vec<PreparedDraft>,
    /// Live edges that would be cut.
    pub cuts: Vec<EdgeInfo>,
    /// How many documents of this host stand in the files.
    pub local: u32,
    /// Peers that did not say who calls them.
    pub silent: Vec<String>,
    /// Where calls that would be cut may be served and are not known, and why.
    pub unknown: Vec<String>,
}

/// One document to be signed.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PreparedDraft {
    /// Which.
    pub document: DocumentName,
    /// `created`, `changed`, `unchanged`, `deleted`, `resolved` (of several versions one).
    pub result: String,
    /// The version in force, 64 hexadecimal digits; empty where there is none.
    pub hash: String,
    /// What it is made from, as bytes in hexadecimal.
    pub lineage: String,
    /// The change, a line each with its sign.
    pub diff: String,
    /// What looks wrong.
    pub warnings: Vec<String>,
}

/// Who calls what.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EdgeInfo {
    /// `namespace/name` of the caller; none where it proved only its node.
    pub source: Option<String>,
    /// The calling node.
    pub node: String,
    /// Whether it came in by a gateway.
    pub outside: bool,
    /// The service called.
    pub destination: String,
    /// Its port.
    pub port: u16,
    /// The node that serves it.
    pub at: String,
    /// Seconds since the last call; 0 while one is open.
    pub age_s: u32,
    /// Calls that were carried.
    pub calls: u64,
    /// Calls that were refused by policy.
    pub denied: u64,
    /// Whether the documents in force allow it.
    pub allowed: bool,
    /// Whether it would be allowed if documents in audit mode were enforced, or the change made.
    pub would: bool,
    /// What says so.
    pub rule: String,
}

/// Who calls whom, mesh-wide.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct EdgesReport {
    /// Sorted by destination.
    pub edges: Vec<EdgeInfo>,
    /// Peers that did not answer, and why.
    pub silent: Vec<String>,
}

/// Which nodes hold which policy.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct PolicyReport {
    /// The root at this node.
    pub root: String,
    /// Nodes that said the same.
    pub agreeing: u32,
    /// Nodes that did not leave.
    pub of: u32,
    /// How many documents are in force.
    pub documents: u32,
    /// Documents with several versions that did not know of each other.
    pub conflicts: Vec<ConflictInfo>,
    /// Every node.
    pub nodes: Vec<NodePolicy>,
    /// How long the asking took.
    pub ms: u64,
}

/// One node's policy.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NodePolicy {
    /// Its name.
    pub node: String,
    /// `agrees`, `lags`, `silent`.
    pub state: String,
    /// The root that it said last; empty where it never did.
    pub root: String,
    /// How long ago it said so, in milliseconds.
    pub age_ms: u64,
    /// Why it is silent.
    pub reason: String,
}

/// A document with several versions in force.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ConflictInfo {
    /// Its kind.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The versions, with who signed each.
    pub versions: Vec<String>,
    /// The command that resolves it.
    pub fix: String,
}

/// What of the mesh a backup holds, as bytes in hexadecimal.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BackupReport {
    /// Signed versions of documents.
    pub documents: Vec<String>,
    /// Signed statements about keys that have ended.
    pub revocations: Vec<String>,
}

/// A question to `skein why`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct WhyRequest {
    /// `namespace/name`, or a short name in the host's namespace.
    pub service: String,
    /// A port's number or name; empty: the first.
    pub port: String,
    /// The calling service; empty: this node.
    pub from: String,
}

/// How a call would go, step by step.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct WhyReport {
    /// Whether it works.
    pub works: bool,
    /// The steps, to the first that fails.
    pub steps: Vec<WhyStep>,
}

/// One step.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct WhyStep {
    /// `name`, `listener`, `route`, `policy`, `link`, `endpoint`.
    pub step: String,
    /// Whether it holds.
    pub ok: bool,
    /// What was found.
    pub detail: String,
    /// What to do, where it does not hold.
    pub fix: String,
}
