//! Roots: from the first, which the mesh is named after, to the newest, each signed by the one
//! before.
//!
//! A new root is a self-signed certificate like the first. What makes it one of this mesh is a
//! signature by the root before over its DER ([`NextRoot`]), so that whoever trusts the first
//! can follow to the newest without asking anybody.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    certificate::{ChainError, Roots, verify_root},
    crypto::{Crypto, PublicKey, Signature, Signer},
    signed,
    x509::key_info,
};
use crate::{
    limits,
    name::{Hash, MeshId},
    wire::codec::CodecError,
};

const DOMAIN: &str = "skein/root/v1";

/// A root that follows on another.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NextRoot {
    /// Its certificate, as DER.
    pub certificate: Vec<u8>,
    /// By the root before it, over mesh, that root's key and this certificate.
    pub signature: Signature,
}

/// All roots of a mesh, from the first to the newest.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RootChain {
    /// The root that the mesh is named after, as DER.
    pub first: Vec<u8>,
    /// Those that followed.
    pub next: Vec<NextRoot>,
}

impl RootChain {
    /// The chain of a mesh with one root.
    pub fn new(first: Vec<u8>) -> Self {
        Self { first, next: Vec::new() }
    }

    /// Verifies every step. Whether this is the mesh one means, [`Roots::mesh`] tells.
    pub fn verify(&self, crypto: &dyn Crypto) -> Result<Roots, ChainError> {
        if self.next.len() >= limits::ROOTS_MAX {
            return Err(ChainError::Depth(self.next.len().saturating_add(1)));
        }
        let mut roots = Roots::first(&self.first, crypto)?;
        for next in &self.next {
            let before = roots.newest().ok_or(ChainError::UnknownRoot)?;
            let statement = (roots.mesh, before, &next.certificate);
            if !signed::holds::<BYTES, _>(DOMAIN, &statement, &before, &next.signature, crypto) {
                return Err(ChainError::BadSignature);
            }
            let key = verify_root(&next.certificate, crypto)?;
            if roots.roots.insert(key, next.certificate.clone()).is_some() {
                return Err(ChainError::Malformed("a root follows on itself".to_owned()));
            }
            roots.order.push(key);
        }
        Ok(roots)
    }

    /// Whether this is `other` with further roots behind it.
    pub fn extends(&self, other: &Self) -> bool {
        self.first == other.first
            && self.next.len() > other.next.len()
            && self.next.starts_with(&other.next)
    }

    /// Adds a root, signed by the newest so far.
    pub fn extend(
        &mut self,
        mesh: MeshId,
        certificate: Vec<u8>,
        newest: &dyn Signer,
    ) -> Result<(), CodecError> {
        let statement = (mesh, newest.public_key(), &certificate);
        let signature = signed::sign::<BYTES, _>(DOMAIN, &statement, newest)?;
        self.next.push(NextRoot { certificate, signature });
        Ok(())
    }
}

impl Roots {
    /// The key of the newest root.
    pub fn newest(&self) -> Option<PublicKey> {
        self.order.last().copied()
    }

    /// The hash of a root's public key info: what a join token pins, and of the first root the
    /// mesh's id.
    pub fn hash_of(key: &PublicKey) -> Hash {
        Hash::of(&[&key_info(key)])
    }

    /// The roots without those that were revoked.
    pub fn without(&self, revoked: impl Fn(&PublicKey) -> bool) -> Self {
        let roots: BTreeMap<_, _> = self
            .roots
            .iter()
            .filter(|(key, _)| !revoked(key))
            .map(|(k, v)| (*k, v.clone()))
            .collect();
        Self { mesh: self.mesh, roots, order: self.order.clone() }
    }
}

/// A certificate and two keys beside it.
const BYTES: usize = limits::CERTIFICATE_BYTES + 256;
