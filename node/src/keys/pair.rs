//! Ed25519 (RFC 8032) through aws-lc-rs, as the core's `Crypto` and `Signer`.

use std::fmt;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use skein_protocol::{
    name::NodeKey,
    trust::{Crypto, PublicKey, Signature, Signer},
};

/// Checks Ed25519 signatures.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ed25519;

impl Crypto for Ed25519 {
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
        UnparsedPublicKey::new(&ED25519, key).verify(message, &signature.0).is_ok()
    }
}

/// The operating system gave no entropy, or the bytes are no key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PairError {
    /// No entropy.
    #[error("the operating system gave no entropy")]
    Entropy,
    /// Not the PKCS#8 form of an Ed25519 key.
    #[error("not an Ed25519 key in PKCS#8 form")]
    NotAKey,
}

/// A private key with its public half.
pub struct KeyPair {
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl fmt::Debug for KeyPair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyPair({:?})", NodeKey(self.public))
    }
}

impl KeyPair {
    /// A new key.
    pub fn generate() -> Result<Self, PairError> {
        Self::from_seed(&random()?)
    }

    /// The key of a seed (RFC 8032 5.1.5).
    pub fn from_seed(seed: &[u8; 32]) -> Result<Self, PairError> {
        Self::new(Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| PairError::NotAKey)?)
    }

    /// The key of a PKCS#8 document (RFC 8410), of version 1 or 2.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, PairError> {
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der);
        Self::new(pair.map_err(|_| PairError::NotAKey)?)
    }

    fn new(pair: Ed25519KeyPair) -> Result<Self, PairError> {
        let public = pair.public_key().as_ref().try_into().map_err(|_| PairError::NotAKey)?;
        Ok(Self { pair, public })
    }

    /// PKCS#8 of version 1, which every tool reads.
    pub fn to_pkcs8(&self) -> Result<Vec<u8>, PairError> {
        let document = self.pair.to_pkcs8v1().map_err(|_| PairError::NotAKey)?;
        Ok(document.as_ref().to_vec())
    }

    /// The public half, as a node's identity.
    pub fn node_key(&self) -> NodeKey {
        NodeKey(self.public)
    }
}

impl Signer for KeyPair {
    fn public_key(&self) -> PublicKey {
        self.public
    }

    fn sign(&self, message: &[u8]) -> Signature {
        let mut bytes = [0; 64];
        // Always 64 bytes; a shorter one would be a signature that does not hold.
        for (to, from) in bytes.iter_mut().zip(self.pair.sign(message).as_ref()) {
            *to = *from;
        }
        Signature(bytes)
    }
}

/// Bytes of the operating system's entropy.
pub fn random<const N: usize>() -> Result<[u8; N], PairError> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| PairError::Entropy)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_comes_back_from_its_pkcs8() {
        let pair = KeyPair::generate().unwrap();
        let again = KeyPair::from_pkcs8(&pair.to_pkcs8().unwrap()).unwrap();
        assert_eq!(again.node_key(), pair.node_key());
        assert_eq!(again.sign(b"x"), pair.sign(b"x"));
    }

    #[test]
    fn a_signature_holds_for_its_key_and_message_only() {
        let (pair, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let signature = pair.sign(b"x");
        assert!(Ed25519.verify(&pair.public_key(), b"x", &signature));
        assert!(!Ed25519.verify(&pair.public_key(), b"y", &signature));
        assert!(!Ed25519.verify(&other.public_key(), b"x", &signature));
    }

    /// RFC 8032 7.1, test 1.
    #[test]
    fn the_first_test_vector_of_the_rfc() {
        let hex = |text: &str| data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap();
        let seed = hex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60");
        let pair = KeyPair::from_seed(&seed.try_into().unwrap()).unwrap();
        let public = hex("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
        assert_eq!(pair.public_key().to_vec(), public);
        let head = hex("e5564300c360ac729086e2cc806e828a");
        assert_eq!(pair.sign(b"").0[..16], head);
    }
}
