//! A keyed hash in the place of Ed25519: fast, deterministic, and forgeable by nobody who does
//! not call `sign` with another's key.

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

impl Signer for SimKey {
    fn public_key(&self) -> PublicKey {
        Hash::of(&[b"sim/key", &self.0.to_be_bytes()]).0
    }

    fn sign(&self, message: &[u8]) -> Signature {
        mark(&self.public_key(), message)
    }
}
