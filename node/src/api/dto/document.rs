//! Documents: taken, compared, held, and what is wrong with them.

use serde::{Deserialize, Serialize};

use super::mesh::Listener;

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
}

/// An instance on this host.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceStatus {
    /// `node/document/endpoint`.
    pub id: String,
    /// `passing`, `warning`, `critical`, `maintenance` or `draining`.
    pub status: String,
    /// Why a person set it aside; empty if nobody did or said why.
    pub note: String,
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
    /// The mesh-wide ones among them, signed by an operator, as bytes in hexadecimal.
    pub signed: Vec<String>,
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
    /// The deletions of mesh-wide ones, signed by an operator, as bytes in hexadecimal.
    pub signed: Vec<String>,
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
