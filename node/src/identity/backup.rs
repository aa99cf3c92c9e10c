//! A backup: what a mesh cannot make again if every disk is lost. One file, for its owner only.
//!
//! It holds the roots, the root's key where it was on the host, the documents of the mesh with
//! their operators' signatures, and the keys that have ended. Nodes, records and services are not
//! in it: hosts join again and say what they serve.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use skein_protocol::{
    policy::{PolicyBundle, SignedVersion},
    trust::{RootChain, Roots, revocation::Statement},
};

use crate::keys::{
    Ed25519, KeyPair,
    file::{self, FileError},
};

/// The layout below.
const FORMAT: u32 = 1;
/// A backup is for its owner only: it may hold the root's key.
const SECRET: u32 = 0o600;

/// What stands in the file.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Backup {
    /// The layout.
    pub skein_backup: u32,
    /// When it was taken, RFC 3339.
    pub taken: String,
    /// The roots as PEM, from the first to the newest.
    pub roots: String,
    /// The newest root's key as PEM; empty where it was not on the host.
    pub root_key: String,
    /// Signed versions of documents, as bytes in hexadecimal.
    pub documents: Vec<String>,
    /// Signed statements about keys that have ended, as bytes in hexadecimal.
    pub revocations: Vec<String>,
}

impl std::fmt::Debug for Backup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Backup({})", self.taken)
    }
}

/// Why a file is no backup that can be used.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// It does not read.
    #[error("{} is no backup of skein: {why}", .path.display())]
    Content {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// A backup whose every part was verified.
#[derive(Debug)]
pub struct Verified {
    /// The roots.
    pub chain: RootChain,
    /// The same, verified.
    pub roots: Roots,
    /// The root's key, where it is in it.
    pub root: Option<KeyPair>,
    /// The documents.
    pub documents: Vec<PolicyBundle>,
    /// The keys that have ended.
    pub revocations: Vec<Statement>,
}

impl Backup {
    /// Writes it, whole or not at all.
    pub fn write(mut self, path: &Path) -> Result<(), BackupError> {
        self.skein_backup = FORMAT;
        let text = serde_json::to_string_pretty(&self)
            .map_err(|error| BackupError::Content { path: path.into(), why: error.to_string() })?;
        Ok(file::write(path, text.as_bytes(), SECRET)?)
    }

    /// Reads and verifies one.
    pub fn read(path: &Path) -> Result<(Self, Verified), BackupError> {
        let content = |why: String| BackupError::Content { path: path.to_owned(), why };
        let text = std::fs::read_to_string(path).map_err(|error| content(error.to_string()))?;
        let backup: Self = serde_json::from_str(&text).map_err(|e| content(e.to_string()))?;
        if backup.skein_backup != FORMAT {
            return Err(content(format!("its layout is {}, not {FORMAT}", backup.skein_backup)));
        }
        let verified = backup.verify().map_err(content)?;
        Ok((backup, verified))
    }

    fn verify(&self) -> Result<Verified, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let chain = file::roots_of(&self.roots).ok_or("its roots do not read")?;
        let roots = chain.verify(&Ed25519).map_err(|error| text(&error))?;
        let root = match self.root_key.as_str() {
            "" => None,
            pem => Some(file::key_of(pem).ok_or("its root key does not read")?),
        };
        let bytes = |hex: &String| {
            data_encoding::HEXLOWER.decode(hex.as_bytes()).map_err(|error| text(&error))
        };
        let mut documents = Vec::new();
        for hex in &self.documents {
            let bundle = PolicyBundle::decode(&bytes(hex)?).map_err(|error| text(&error))?;
            let signed = SignedVersion::parse(std::sync::Arc::new(bundle.clone()), roots.mesh);
            let signed = signed.map_err(|error| text(&error))?;
            signed.verify(&roots, &Ed25519).map_err(|error| text(&error))?;
            documents.push(bundle);
        }
        let mut revocations = Vec::new();
        for hex in &self.revocations {
            let statement = Statement::decode(&bytes(hex)?).map_err(|error| text(&error))?;
            statement.clone().verify(&roots, &Ed25519).map_err(|error| text(&error))?;
            revocations.push(statement);
        }
        Ok(Verified { chain, roots, root, documents, revocations })
    }
}
