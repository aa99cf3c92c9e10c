//! Witnesses: what a watcher signs when a node that it watches does not answer.

use serde::{Deserialize, Serialize};

use crate::{
    limits,
    name::{MeshId, NodeKey},
    planted::{Planted, planted},
    trust::{Crypto, Signature, Signer},
    wire::codec,
};

const DOMAIN: &[u8] = b"skein/witness/v1\0";

/// «I watch this node, and in this state of it, it does not answer.»
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Witness {
    /// The mesh.
    pub mesh: MeshId,
    /// Who does not answer.
    pub subject: NodeKey,
    /// The sequence of its newest record that the watcher knows: void above it.
    pub sequence: u64,
    /// Its boot.
    pub boot: u64,
    /// Who says so.
    pub watcher: NodeKey,
}

/// A witness with its watcher's signature.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SignedWitness {
    /// What is said.
    pub witness: Witness,
    /// By the watcher.
    pub signature: Signature,
}

impl Witness {
    fn message(&self) -> Vec<u8> {
        let body = codec::encode::<{ limits::STREAM_HEAD_BYTES }, _>(self).unwrap_or_default();
        [DOMAIN, &body].concat()
    }

    /// Signs it. The watcher must be the signer's key.
    pub fn sign(self, signer: &dyn Signer) -> SignedWitness {
        SignedWitness { witness: self, signature: signer.sign(&self.message()) }
    }
}

impl SignedWitness {
    /// Whether the watcher signed it.
    pub fn holds(&self, crypto: &dyn Crypto) -> bool {
        planted(Planted::SkipWitness)
            || crypto.verify(&self.witness.watcher.0, &self.witness.message(), &self.signature)
    }
}
