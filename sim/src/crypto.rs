//! Signatures of the simulated mesh: a fast keyed hash in the place of Ed25519, or Ed25519 itself.
//!
//! The keyed hash is deterministic and forgeable by nobody who does not call `sign` with
//! another's key. A share of the seeds runs with the agent's own Ed25519.

use std::sync::Arc;

use anyhow::{Result, anyhow};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use skein_protocol::{
    name::Hash,
    trust::{Crypto, PublicKey, Signature, Signer},
};

/// Checks marks.
#[derive(Debug, Clone, Copy)]
pub struct KeyedHash;

/// The key of that number.
#[derive(Debug, Clone, Copy)]
pub struct SimKey(pub u64);

/// Checks Ed25519 signatures (RFC 8032), with what the agent checks them with.
#[derive(Debug, Clone, Copy)]
pub struct Ed25519;

struct RealKey {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

/// What a mesh signs with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signatures {
    /// [`KeyedHash`].
    KeyedHash,
    /// The agent's own.
    Ed25519,
}

impl Signatures {
    /// What checks them.
    pub fn crypto(self) -> &'static dyn Crypto {
        match self {
            Self::KeyedHash => &KeyedHash,
            Self::Ed25519 => &Ed25519,
        }
    }

    /// The key of that number.
    pub fn key(self, number: u64) -> Result<Arc<dyn Signer>> {
        Ok(match self {
            Self::KeyedHash => Arc::new(SimKey(number)),
            Self::Ed25519 => {
                let seed = Hash::of(&[b"sim/seed", &number.to_be_bytes()]).0;
                let pair = Ed25519KeyPair::from_seed_unchecked(&seed);
                let pair = pair.map_err(|_| anyhow!("not a seed of an Ed25519 key"))?;
                let public = pair.public_key().as_ref().try_into()?;
                Arc::new(RealKey { pair, public })
            }
        })
    }
}

fn mark(key: &PublicKey, message: &[u8]) -> Signature {
    let r = Hash::of(&[b"sim/r", key, message]).0;
    let s = Hash::of(&[b"sim/s", &r]).0;
    let mut bytes = [0; 64];
    let (low, high) = bytes.split_at_mut(32);
    low.copy_from_slice(&r);
    high.copy_from_slice(&s);
    Signature(bytes)
}

impl Crypto for KeyedHash {
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
        mark(key, message) == *signature
    }
}

impl Crypto for Ed25519 {
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
        UnparsedPublicKey::new(&ED25519, key).verify(message, &signature.0).is_ok()
    }
}

impl Signer for RealKey {
    fn public_key(&self) -> PublicKey {
        self.public
    }

    fn sign(&self, message: &[u8]) -> Signature {
        let mut bytes = [0; 64];
        bytes.copy_from_slice(self.pair.sign(message).as_ref());
        Signature(bytes)
    }
}

impl Signer for SimKey {
    fn public_key(&self) -> PublicKey {
        Hash::of(&[b"sim/key", &self.0.to_be_bytes()]).0
    }

    fn sign(&self, message: &[u8]) -> Signature {
        mark(&self.public_key(), message)
    }
}
