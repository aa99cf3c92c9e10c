//! The codec: the one file that names bincode.
//!
//! Fixed-width little-endian integers, a limit on what a decoder may touch, no bytes left over,
//! and only what encodes again to the very same bytes. Two byte forms of one meaning would make
//! two hashes of it.

use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Why bytes are not what they should be.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CodecError {
    /// More bytes than the limit.
    #[error("{bytes} bytes, at most {limit}")]
    Oversize {
        /// How many there are.
        bytes: usize,
        /// How many there may be.
        limit: usize,
    },
    /// Not this shape.
    #[error("malformed: {0}")]
    Malformed(String),
    /// Bytes left over behind the value.
    #[error("{0} bytes left over")]
    Trailing(usize),
    /// Another form of a value than the one that it encodes to.
    #[error("not in canonical form")]
    NotCanonical,
}

type Config<const LIMIT: usize> = Configuration<LittleEndian, Fixint, Limit<LIMIT>>;

fn config<const LIMIT: usize>() -> Config<LIMIT> {
    bincode::config::standard().with_fixed_int_encoding().with_limit::<LIMIT>()
}

/// The bytes of `value`, at most `LIMIT` of them.
pub fn encode<const LIMIT: usize, T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    let bytes = bincode::serde::encode_to_vec(value, config::<LIMIT>())
        .map_err(|error| CodecError::Malformed(error.to_string()))?;
    within::<LIMIT>(&bytes)?;
    Ok(bytes)
}

/// The value of `bytes`, if they are at most `LIMIT` and exactly what it encodes to.
pub fn decode<const LIMIT: usize, T: Serialize + DeserializeOwned>(
    bytes: &[u8],
) -> Result<T, CodecError> {
    within::<LIMIT>(bytes)?;
    let (value, read) = bincode::serde::decode_from_slice::<T, _>(bytes, config::<LIMIT>())
        .map_err(|error| CodecError::Malformed(error.to_string()))?;
    if read != bytes.len() {
        return Err(CodecError::Trailing(bytes.len().saturating_sub(read)));
    }
    if encode::<LIMIT, T>(&value)? != bytes {
        return Err(CodecError::NotCanonical);
    }
    Ok(value)
}

/// The value of `bytes`, which are not written again to see whether they have another form, and of
/// which it may borrow. Only for what has one form: lengths, numbers and bytes.
pub fn borrow<'a, const LIMIT: usize, T: Deserialize<'a>>(
    bytes: &'a [u8],
) -> Result<T, CodecError> {
    within::<LIMIT>(bytes)?;
    let (value, read) = bincode::serde::borrow_decode_from_slice::<T, _>(bytes, config::<LIMIT>())
        .map_err(|error| CodecError::Malformed(error.to_string()))?;
    let over = bytes.len().saturating_sub(read);
    if over == 0 { Ok(value) } else { Err(CodecError::Trailing(over)) }
}

fn within<const LIMIT: usize>(bytes: &[u8]) -> Result<(), CodecError> {
    if bytes.len() > LIMIT {
        Err(CodecError::Oversize { bytes: bytes.len(), limit: LIMIT })
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::record::node::{Host, Instances};

    #[test]
    fn a_length_of_two_to_the_sixty_four_is_refused_before_allocation() {
        let bytes = [0xff; 16];
        assert!(decode::<1024, Vec<u64>>(&bytes).is_err());
        assert!(decode::<1024, String>(&bytes).is_err());
    }

    #[test]
    fn bytes_left_over_are_refused() {
        let mut bytes = encode::<64, _>(&7u32).unwrap();
        bytes.push(0);
        assert_eq!(decode::<64, u32>(&bytes), Err(CodecError::Trailing(1)));
    }

    #[test]
    fn a_value_over_the_limit_is_not_encoded() {
        assert!(encode::<8, _>(&vec![0u8; 64]).is_err());
    }

    proptest! {
        #[test]
        fn what_decodes_encodes_to_the_same_bytes(
            bytes in proptest::collection::vec(any::<u8>(), 0..256)
        ) {
            if let Ok(value) = decode::<4096, Instances>(&bytes) {
                prop_assert_eq!(encode::<4096, _>(&value).unwrap(), bytes.clone());
            }
            if let Ok(value) = decode::<4096, Host>(&bytes) {
                prop_assert_eq!(encode::<4096, _>(&value).unwrap(), bytes.clone());
            }
        }
    }
}
