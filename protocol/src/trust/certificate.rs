//! Certificates: the chain root, issuer, node, and the pure function that verifies it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    crypto::{Crypto, PublicKey},
    grant::Grant,
};
use crate::{
    clock::Wall,
    name::{Hash, MeshId, NodeKey},
};

/// A certificate chain as it stands in a handshake and in a bundle: leaf first, then issuer, as
/// DER. The root is not part of it (but follows in `skein-join/1` handshakes).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Chain {
    /// The node's certificate.
    pub leaf: Vec<u8>,
    /// The certificate of the issuer that signed it.
    pub issuer: Vec<u8>,
}

/// The trusted roots, by public key, as DER.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Roots {
    /// The mesh: the hash of the first root's public key info.
    pub mesh: MeshId,
    /// Every root that is trusted now.
    pub roots: BTreeMap<PublicKey, Vec<u8>>,
}

/// How fresh a chain is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum ChainClass {
    /// Valid now (5 minutes of clock skew forgiven).
    Live,
    /// Ended at most 90 days ago: may renew, and nothing else.
    Expired,
}

/// A chain that was verified: what it proves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifiedChain {
    /// The node's key.
    pub key: NodeKey,
    /// What it may do.
    pub grant: Grant,
    /// The key of the issuer that signed it.
    pub issuer: PublicKey,
    /// The node whose host holds that issuer.
    pub issuer_host: NodeKey,
    /// The root that certified the issuer.
    pub root: PublicKey,
    /// From when the leaf holds.
    pub not_before: Wall,
    /// Until when the leaf holds.
    pub not_after: Wall,
    /// Live or expired at the moment of verification.
    pub class: ChainClass,
    /// SHA-256 of the leaf.
    pub leaf_hash: Hash,
}

/// Why a chain proves nothing. Each is counted on its own.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ChainError {
    /// Not a certificate, or not one of ours.
    #[error("malformed certificate: {0}")]
    Malformed(String),
    /// No trusted root stands behind it.
    #[error("certified by another mesh or by an unknown root")]
    UnknownRoot,
    /// A signature in it does not hold.
    #[error("a signature in the chain does not hold")]
    BadSignature,
    /// Its leaf's validity lies ahead by more than the clock skew.
    #[error("not valid before {} s from now: check the clocks of both hosts", .by.as_secs())]
    NotYetValid {
        /// By how much.
        by: std::time::Duration,
    },
    /// Ended too long ago even to renew.
    #[error("expired {} days ago; admit the node again", .by.as_secs() / 86_400)]
    Expired {
        /// How long ago.
        by: std::time::Duration,
    },
    /// Made for something else.
    #[error("wrong use: {0}")]
    WrongUse(&'static str),
}

/// Verifies a chain against the trusted roots at `now`. Revocation is the caller's to check.
pub fn verify_chain(
    chain: &Chain,
    roots: &Roots,
    now: Wall,
    crypto: &dyn Crypto,
) -> Result<VerifiedChain, ChainError> {
    let _ = (chain, roots, now, crypto);
    Err(ChainError::UnknownRoot)
}
