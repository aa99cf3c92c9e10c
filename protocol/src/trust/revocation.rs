//! Revocation: the end of a key, for ever, and of what it signed but for a list.
//!
//! Revocations and voids are grow-only: their set is a join, so every order of hearing them ends
//! in the same set, and what is in effect is computed from the whole set, never from an order.
//!
//! Rules: an operator revokes nodes only, and one for some namespaces only those certificates of a
//! node whose whole grant lies in them. A root revokes nodes, issuers, operators, and roots
//! before it in the chain of roots, and only a root voids. No date decides anything here, since
//! a thief dates back. What a revoked operator or root signed counts only where the revocation
//! lists it.

use serde::{Deserialize, Serialize};

use super::{
    certificate::{ChainError, Roots},
    crypto::{Crypto, PublicKey, Signature, Signer},
    operator::{Scope, verify_operator},
    signed,
    x509::Parsed,
};
use crate::{
    limits,
    name::{Hash, MeshId},
    wire::codec::{self, CodecError},
};

const REVOKE: &str = "skein/revocation/v1";
const VOID: &str = "skein/void/v1";

/// What kind of key is revoked.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Subject {
    /// A node's.
    Node,
    /// An issuer's.
    Issuer,
    /// An operator's.
    Operator,
    /// A root's.
    Root,
}

/// Who revokes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum By {
    /// An operator, with its certificate, so that the revocation verifies alone.
    Operator(Vec<u8>),
    /// A root.
    Root(PublicKey),
}

/// The statement that a key has ended.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Revocation {
    /// Of which mesh.
    pub mesh: MeshId,
    /// What kind of key.
    pub subject: Subject,
    /// Which.
    pub key: PublicKey,
    /// Who says so.
    pub by: By,
    /// Why, for people; at most [`limits::REASON_BYTES`].
    pub reason: String,
    /// What stays valid of its works, sorted: hashes of leaves of an issuer, of policy versions
    /// and revocations of an operator, [`work_of_root`] of what a root certified or revoked.
    pub works: Vec<Hash>,
}

/// The statement that a revocation does not count.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Void {
    /// Of which mesh.
    pub mesh: MeshId,
    /// Which revocation, by [`Revocation::id`].
    pub revocation: Hash,
    /// The root that says so.
    pub by: PublicKey,
    /// Why, for people; at most [`limits::REASON_BYTES`].
    pub reason: String,
}

/// A revocation or a void, signed: what travels.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Statement {
    /// A key has ended.
    Revocation(Revocation, Signature),
    /// A revocation does not count.
    Void(Void, Signature),
}

/// A statement that was verified. Only such enter [`Revocations`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifiedStatement {
    pub(super) statement: Statement,
    pub(super) signer: PublicKey,
    /// How far the signer's word goes; a root's goes everywhere.
    pub(super) scope: Scope,
}

/// Why a statement is not believed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RevocationError {
    /// Of another mesh.
    #[error("a revocation of another mesh")]
    OtherMesh,
    /// Its signer's certificate.
    #[error("the operator's certificate: {0}")]
    Operator(#[from] ChainError),
    /// Signed by a root that is not known here.
    #[error("signed by an unknown root")]
    UnknownRoot,
    /// Its signer may not revoke this kind of key.
    #[error(
        "who signed it may not revoke this kind of key: operators revoke nodes only, a root \
             revokes issuers, operators and roots before it"
    )]
    NotAllowed,
    /// Its signature.
    #[error("the signature does not hold")]
    BadSignature,
    /// Out of its bounds.
    #[error("malformed: {0}")]
    Malformed(&'static str),
    /// Its signer has as many as one may have.
    #[error(
        "its signer has {limit} revocations already: the root revokes that operator, or signs this \
         one itself"
    )]
    SignerFull {
        /// How many one signer may have.
        limit: usize,
    },
    /// All operators together, or the roots, have as many as there may be.
    #[error("{limit} revocations are held already: the mesh needs a new root")]
    Full {
        /// How many there may be.
        limit: usize,
    },
}

impl Revocation {
    /// What tells it apart: the hash of its content.
    pub fn id(&self) -> Hash {
        id(REVOKE, self)
    }

    /// Signs it, with its works sorted.
    pub fn sign(mut self, signer: &dyn Signer) -> Result<Statement, CodecError> {
        self.works.sort();
        self.works.dedup();
        let signature = signed::sign::<BYTES, _>(REVOKE, &self, signer)?;
        Ok(Statement::Revocation(self, signature))
    }
}

impl Void {
    /// What tells it apart: the hash of its content.
    pub fn id(&self) -> Hash {
        id(VOID, self)
    }

    /// Signs it.
    pub fn sign(self, signer: &dyn Signer) -> Result<Statement, CodecError> {
        let signature = signed::sign::<BYTES, _>(VOID, &self, signer)?;
        Ok(Statement::Void(self, signature))
    }
}

/// How the works of a root are named: an issuer's or an operator's or the next root's key, or
/// the id of a revocation or void.
pub fn work_of_root(key: &PublicKey) -> Hash {
    Hash::of(&[b"skein/work/v1\0", key])
}

fn id<T: Serialize>(domain: &str, value: &T) -> Hash {
    let input = signed::input::<BYTES, T>(domain, value).unwrap_or_default();
    Hash::of(&[&input])
}

impl Statement {
    /// What tells it apart: the hash of its content, never of its signature.
    pub fn id(&self) -> Hash {
        match self {
            Self::Revocation(revocation, _) => revocation.id(),
            Self::Void(void, _) => void.id(),
        }
    }

    /// Its bytes as they travel and lie on disk.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode::<STATEMENT_BYTES, _>(self)
    }

    /// The statement of these bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode::<STATEMENT_BYTES, _>(bytes)
    }

    /// Who claims to have signed it, as far as that can be told without a check: a statement that
    /// there is no room for need not be verified.
    pub fn claimed_signer(&self) -> Option<(PublicKey, bool)> {
        match self {
            Self::Revocation(Revocation { by: By::Operator(certificate), .. }, _) => {
                Some((Parsed::new(certificate).ok()?.key, true))
            }
            Self::Revocation(Revocation { by: By::Root(root), .. }, _) => Some((*root, false)),
            Self::Void(void, _) => Some((void.by, false)),
        }
    }

    /// Verifies it alone: bounds, mesh, who may, signature. Whether it is in effect depends on
    /// all others, see [`Revocations`].
    pub fn verify(
        self,
        roots: &Roots,
        crypto: &dyn Crypto,
    ) -> Result<VerifiedStatement, RevocationError> {
        let (signer, scope) = match &self {
            Self::Revocation(revocation, signature) => {
                let (signer, scope) = revocation.check(roots, crypto)?;
                held(REVOKE, revocation, &signer, signature, crypto)?;
                (signer, scope)
            }
            Self::Void(void, signature) => {
                void.check(roots)?;
                held(VOID, void, &void.by, signature, crypto)?;
                (void.by, Scope::All)
            }
        };
        Ok(VerifiedStatement { statement: self, signer, scope })
    }
}

fn held<T: Serialize>(
    domain: &str,
    value: &T,
    signer: &PublicKey,
    signature: &Signature,
    crypto: &dyn Crypto,
) -> Result<(), RevocationError> {
    if signed::holds::<BYTES, _>(domain, value, signer, signature, crypto) {
        Ok(())
    } else {
        Err(RevocationError::BadSignature)
    }
}

fn check_text(reason: &str) -> Result<(), RevocationError> {
    if reason.len() > limits::REASON_BYTES || reason.chars().any(char::is_control) {
        Err(RevocationError::Malformed("the reason is too long or has control characters"))
    } else {
        Ok(())
    }
}

impl Revocation {
    fn check(
        &self,
        roots: &Roots,
        crypto: &dyn Crypto,
    ) -> Result<(PublicKey, Scope), RevocationError> {
        if self.mesh != roots.mesh {
            return Err(RevocationError::OtherMesh);
        }
        check_text(&self.reason)?;
        if self.works.len() > limits::REVOCATION_WORKS || !self.works.is_sorted_by(|a, b| a < b) {
            return Err(RevocationError::Malformed("works too many or out of order"));
        }
        match (&self.by, self.subject) {
            (By::Operator(certificate), Subject::Node) => {
                let operator = verify_operator(certificate, roots, crypto)?;
                Ok((operator.key, operator.scope))
            }
            (By::Operator(_), Subject::Issuer | Subject::Operator | Subject::Root) => {
                Err(RevocationError::NotAllowed)
            }
            (By::Root(root), subject) => {
                let signer = place(roots, root).ok_or(RevocationError::UnknownRoot)?;
                let earlier = place(roots, &self.key).is_some_and(|place| place < signer);
                if subject == Subject::Root && !earlier {
                    return Err(RevocationError::NotAllowed);
                }
                Ok((*root, Scope::All))
            }
        }
    }
}

impl Void {
    fn check(&self, roots: &Roots) -> Result<(), RevocationError> {
        if self.mesh != roots.mesh {
            return Err(RevocationError::OtherMesh);
        }
        check_text(&self.reason)?;
        place(roots, &self.by).map(|_| ()).ok_or(RevocationError::UnknownRoot)
    }
}

fn place(roots: &Roots, key: &PublicKey) -> Option<usize> {
    roots.order.iter().position(|root| root == key)
}

impl VerifiedStatement {
    /// What was verified.
    pub fn statement(&self) -> &Statement {
        &self.statement
    }

    /// How far its signer's word goes.
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Who signed it, and whether as an operator.
    pub fn signer(&self) -> (PublicKey, bool) {
        (self.signer, self.by_operator())
    }

    pub(super) fn by_operator(&self) -> bool {
        matches!(&self.statement, Statement::Revocation(Revocation { by: By::Operator(_), .. }, _))
    }
}

/// A revocation's content: its works, an operator's certificate, a reason.
const BYTES: usize =
    limits::REVOCATION_WORKS * 32 + limits::CERTIFICATE_BYTES + limits::REASON_BYTES + 256;
const STATEMENT_BYTES: usize = BYTES + 128;
