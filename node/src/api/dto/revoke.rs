//! Revocation: what it would do, and how far it got.

use serde::{Deserialize, Serialize};

use super::document::Visible;

/// Whose key is to end.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RevokePlanRequest {
    /// `node`, `operator` or `root`.
    pub kind: String,
    /// A node's name, short id or key; an operator's key.
    pub target: String,
}

/// What the end of a key would do.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RevokePlan {
    /// The mesh, 64 hexadecimal digits.
    pub mesh: String,
    /// `node` or `operator`.
    pub kind: String,
    /// The key, 64 hexadecimal digits.
    pub key: String,
    /// Its name, where it is known.
    pub name: String,
    /// It has ended already.
    pub already: bool,
    /// Services that only this node serves.
    pub sole: Vec<String>,
    /// Whether its host holds an issuer, which admits nobody new from then on.
    pub issuer: bool,
    /// Join tokens that it counts the uses of.
    pub tokens: u32,
    /// Members whose certificates end with a root.
    pub users: Vec<String>,
    /// Works of an operator or a root that are held here: documents in force and revocations.
    pub works: Vec<WorkInfo>,
}

/// Something that an operator or a root signed.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct WorkInfo {
    /// What names it, 64 hexadecimal digits.
    pub id: String,
    /// `document`, `revocation`, `operator` or `root`.
    pub kind: String,
    /// The document, the node whose key it ended, the operator's name, the next root's key.
    pub about: String,
}

/// A key's end, signed.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RevokeRequest {
    /// The statement as bytes in hexadecimal.
    pub statement: String,
    /// How long to follow it.
    pub wait_ms: u64,
}

/// A further root.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RootsRequest {
    /// All roots as PEM, from the first to the new one; empty: only say who knows those of now.
    pub roots: String,
    /// How long to follow it.
    pub wait_ms: u64,
}

/// Who trusts the newest root.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RootsReport {
    /// How many roots there are.
    pub roots: usize,
    /// How many live members trust all of them.
    pub visible: Visible,
    /// Who does not, or could not be asked.
    pub unheard: Vec<String>,
}

/// How far a key's end got.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct RevokeReport {
    /// The key.
    pub key: String,
    /// On how many live members it is in force.
    pub visible: Visible,
    /// Who has not heard.
    pub unheard: Vec<String>,
    /// That it is not on this host's disk, if so.
    pub warning: String,
}
