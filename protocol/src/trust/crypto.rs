//! Cryptography as a trait: the agent brings Ed25519, the simulator a keyed hash.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An Ed25519 public key (RFC 8032) of a root, an issuer, an operator or a node.
pub type PublicKey = [u8; 32];

/// An Ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Signature(pub [u8; 64]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(self.0.get(..6).unwrap_or_default()))
    }
}

impl Signature {
    /// R and S (RFC 8032 5.1.6), since serde knows arrays of up to 32 only.
    fn halves(&self) -> ([u8; 32], [u8; 32]) {
        let (mut r, mut s) = ([0; 32], [0; 32]);
        let (low, high) = self.0.split_at(32);
        r.copy_from_slice(low);
        s.copy_from_slice(high);
        (r, s)
    }
}

impl Serialize for Signature {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.halves().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (low, high) = <([u8; 32], [u8; 32])>::deserialize(deserializer)?;
        let mut bytes = [0; 64];
        let (into_low, into_high) = bytes.split_at_mut(32);
        into_low.copy_from_slice(&low);
        into_high.copy_from_slice(&high);
        Ok(Self(bytes))
    }
}

/// Checks signatures.
pub trait Crypto: Send + Sync + fmt::Debug {
    /// Whether `signature` over `message` is by `key`.
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> bool;
}

/// Makes signatures with one key.
pub trait Signer: Send + Sync {
    /// The public half.
    fn public_key(&self) -> PublicKey;
    /// A signature over `message`.
    fn sign(&self, message: &[u8]) -> Signature;
}
