//! Signatures over our own messages: one domain per kind, so that none passes for another.

use serde::Serialize;

use super::crypto::{Crypto, PublicKey, Signature, Signer};
use crate::wire::codec::{self, CodecError};

/// What a signature of one kind of message is over: its domain, a zero byte, and its bytes.
pub(crate) fn input<const LIMIT: usize, T: Serialize>(
    domain: &str,
    value: &T,
) -> Result<Vec<u8>, CodecError> {
    let mut input = domain.as_bytes().to_vec();
    input.push(0);
    input.extend(codec::encode::<LIMIT, T>(value)?);
    Ok(input)
}

/// Signs a message.
pub(crate) fn sign<const LIMIT: usize, T: Serialize>(
    domain: &str,
    value: &T,
    signer: &dyn Signer,
) -> Result<Signature, CodecError> {
    Ok(signer.sign(&input::<LIMIT, T>(domain, value)?))
}

/// Whether `signature` over a message is by `key`.
pub(crate) fn holds<const LIMIT: usize, T: Serialize>(
    domain: &str,
    value: &T,
    key: &PublicKey,
    signature: &Signature,
    crypto: &dyn Crypto,
) -> bool {
    input::<LIMIT, T>(domain, value).is_ok_and(|input| crypto.verify(key, &input, signature))
}
