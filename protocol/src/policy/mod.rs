//! Policy: what mesh-wide documents say, compiled into what decides.
//!
//! In:    versions of documents, signed by operators ([`version`], [`documents`]); from them those
//!        that are in force ([`Heads`]).
//! Out:   immutable snapshots that answer a question, with the name of the rule that did.
//! Never: knows how a document came here, or asks a clock which came later.

pub mod access;
pub mod documents;
pub mod legs;
pub mod scope;
#[cfg(test)]
mod scope_tests;
#[cfg(test)]
mod tests;
pub mod traffic;
pub mod version;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

pub use self::{
    access::AccessRules,
    documents::{Documents, Taken},
    version::{
        Draft, Lineage, PolicyBundle, PolicyKey, SignedVersion, VerifiedVersion, VersionError,
    },
};
use crate::{
    manifest::{
        Access, DocumentId, Traffic,
        kinds::{AccessEffect, Destination},
    },
    name::Hash,
};

/// What one version of a document says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    /// Who may call what.
    Access(Arc<Access>),
    /// How traffic behaves.
    Traffic(Arc<Traffic>),
    /// It was deleted by this version.
    Deleted,
    /// A newer agent wrote it: only what stands in its frozen section is known. An AccessPolicy
    /// closes what it covers.
    Unread {
        /// What it is about.
        destination: Destination,
        /// What it does there, for an AccessPolicy.
        effect: Option<AccessEffect>,
        /// Whether it decides.
        enforced: bool,
    },
}

/// One version of a document that nothing known supersedes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Head {
    /// 1 + the highest of its parents'.
    pub generation: u64,
    /// What names this version: the hash of header and payload.
    pub version: Hash,
    /// What it says.
    pub content: Content,
}

/// The versions in force of every document, each list sorted by (generation, version), highest
/// last. More than one: they did not know of each other, and the conflict waits for an edit.
pub type Heads = BTreeMap<DocumentId, Vec<Head>>;

/// All mesh-wide documents as this agent holds them, and what they decide.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// The documents with all their heads.
    pub documents: Documents,
    /// Who may call what.
    pub access: AccessRules,
    /// Versions that wait for the disk: what they close is closed, and no more of them is in force.
    pub waiting: BTreeSet<Hash>,
}

impl Policy {
    /// What these documents decide.
    pub fn of(documents: Documents) -> Self {
        let access = AccessRules::compile(&documents.in_force());
        Self { documents, access, waiting: BTreeSet::new() }
    }

    /// What these documents decide, but for calls that would be denied if those versions were among
    /// them: what they close is closed, what they open is not.
    pub fn closed_by(
        documents: Documents,
        ahead: impl IntoIterator<Item = Arc<VerifiedVersion>>,
    ) -> Self {
        let mut policy = Self::of(documents);
        let mut then = policy.documents.clone();
        for version in ahead {
            let id = version.version();
            if matches!(then.insert(version), Taken::New { .. }) {
                policy.waiting.insert(id);
            }
        }
        if !policy.waiting.is_empty() {
            policy.access = policy.access.and(AccessRules::compile(&then.in_force()));
        }
        policy
    }

    /// Documents of which several versions did not know of each other.
    pub fn conflicts(&self) -> impl Iterator<Item = (&PolicyKey, &[Arc<VerifiedVersion>])> {
        self.documents.iter().filter(|(_, heads)| heads.len() > 1)
    }
}
