//! For tests: a keyed hash in the place of Ed25519, and a whole mesh in one call.

use crate::{
    clock::Wall,
    limits,
    name::{Hash, MeshId, NodeKey},
    trust::{
        Chain, Crypto, Grant, PublicKey, Roots, Signature, Signer,
        issue::{self, Authority, Validity},
        operator::Scope,
    },
};

/// A moment in 2026.
pub(crate) const NOW: Wall = Wall(1_790_000_000_000);

#[derive(Debug)]
pub(crate) struct Keyed;

#[derive(Clone, Copy)]
pub(crate) struct Key(pub(crate) u64);

fn mark(key: &PublicKey, message: &[u8]) -> Signature {
    let low = Hash::of(&[b"low", key, message]).0;
    let high = Hash::of(&[b"high", key, message]).0;
    let mut bytes = [0; 64];
    bytes[..32].copy_from_slice(&low);
    bytes[32..].copy_from_slice(&high);
    Signature(bytes)
}

impl Crypto for Keyed {
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
        *signature == mark(key, message)
    }
}

impl Signer for Key {
    fn public_key(&self) -> PublicKey {
        Hash::of(&[b"key", &self.0.to_be_bytes()]).0
    }

    fn sign(&self, message: &[u8]) -> Signature {
        mark(&self.public_key(), message)
    }
}

/// A root, an issuer at node 1, an operator.
pub(crate) struct Mesh {
    pub(crate) mesh: MeshId,
    pub(crate) roots: Roots,
    pub(crate) root: Vec<u8>,
    pub(crate) issuer: Vec<u8>,
    pub(crate) operator: Vec<u8>,
    seed: u64,
}

impl Mesh {
    pub(crate) fn new(seed: u64) -> Self {
        let base = seed * 1000;
        let root = issue::root(&Key(base), "prod", NOW, [1; 16]).unwrap();
        let roots = Roots::first(&root, &Keyed).unwrap();
        let mesh = roots.mesh;
        let key = Key(base);
        let by = Authority::new(&mesh, &root, &key).unwrap();
        let host = NodeKey(Key(base + 10).public_key());
        let validity = Validity::new(NOW, limits::ISSUER_LIFE, issue::NEVER_ENDS);
        let issuer =
            issue::issuer(&by, &Key(base + 1).public_key(), &host, validity, [2; 16]).unwrap();
        let operator = Key(base + 2).public_key();
        let operator = issue::operator(&by, &operator, "ann", &Scope::All, NOW, [3; 16]).unwrap();
        Self {
            mesh,
            roots,
            root,
            issuer,
            operator,
            seed,
        }
    }

    pub(crate) fn root_key(&self) -> Key {
        Key(self.seed * 1000)
    }

    pub(crate) fn issuer_key(&self) -> Key {
        Key(self.seed * 1000 + 1)
    }

    pub(crate) fn operator_key(&self) -> Key {
        Key(self.seed * 1000 + 2)
    }

    /// The key of node `n`; node 0 holds the issuer.
    pub(crate) fn node_key(&self, n: u64) -> NodeKey {
        NodeKey(self.node_signer(n).public_key())
    }

    pub(crate) fn node_signer(&self, n: u64) -> Key {
        Key(self.seed * 1000 + 10 + n)
    }

    pub(crate) fn grant(n: u64) -> Grant {
        let services = vec!["shop/*".parse().unwrap()];
        Grant::new(format!("node-{n}").parse().unwrap(), services, vec![], None).unwrap()
    }

    /// The chain of node `n`, made at `at`.
    pub(crate) fn chain(&self, n: u64, at: Wall) -> Chain {
        let key = self.issuer_key();
        let by = Authority::new(&self.mesh, &self.issuer, &key).unwrap();
        let validity = Validity::new(at, limits::LEAF_LIFE, issue::NEVER_ENDS);
        let leaf = issue::node(&by, &self.node_key(n), &Self::grant(n), validity, [4; 16]).unwrap();
        Chain {
            leaf,
            issuer: self.issuer.clone(),
        }
    }
}
