//! The header of a record: fixed layout, written by hand, the same for every kind for ever.
//!
//! ```text
//! version u8 | kind u16 | mesh 32 | origin 32 | sequence u64 | not-after u64 | payload length u32
//! ```
//!
//! All integers little-endian. Behind it stand the payload and 64 bytes of signature. What is
//! signed is [`SIGNATURE_DOMAIN`], header, payload; what names a record is the hash of
//! [`HASH_DOMAIN`], header, payload, never the signature.

use crate::{
    clock::Wall,
    name::{Hash, MeshId, NodeKey},
};

/// Put in front of what is signed, so that a signature means a record and nothing else.
pub const SIGNATURE_DOMAIN: &[u8] = b"skein/record/v1\0";
/// Put in front of what is hashed.
pub const HASH_DOMAIN: &[u8] = b"skein/record-hash/v1\0";
/// Bytes of a header.
pub const HEADER_BYTES: usize = 1 + 2 + 32 + 32 + 8 + 8 + 4;
/// Bytes of a signature.
pub const SIGNATURE_BYTES: usize = 64;

const VERSION: u8 = 1;

/// What a record is. Unknown kinds are carried, never read.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RecordKind(pub u16);

impl RecordKind {
    /// All that a host says of itself: one per origin.
    pub const NODE: Self = Self(1);
    /// A mesh-wide document signed by an operator.
    pub const POLICY: Self = Self(2);
}

/// Who says what, and in which order.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// What it is.
    pub kind: RecordKind,
    /// The mesh that it belongs to.
    pub mesh: MeshId,
    /// Who signed it.
    pub origin: NodeKey,
    /// Its place in the order of its origin. Only the origin can raise it.
    pub sequence: u64,
    /// From when on it is stale.
    pub not_after: Wall,
}

/// Why bytes are not a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HeaderError {
    /// Too short, or the length in it is not the payload's.
    #[error("wrong length")]
    Length,
    /// A version that this agent does not know.
    #[error("version {0} is not known")]
    Version(u8),
}

/// A record taken apart, nothing of it checked but the layout.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// The header.
    pub header: Header,
    /// Header and payload, as they were signed.
    pub signed: &'a [u8],
    /// The payload.
    pub payload: &'a [u8],
    /// The signature.
    pub signature: [u8; SIGNATURE_BYTES],
}

impl Header {
    /// Header and payload as one run of bytes: what is signed and hashed.
    pub fn with_payload(&self, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES.saturating_add(payload.len()));
        bytes.push(VERSION);
        bytes.extend_from_slice(&self.kind.0.to_le_bytes());
        bytes.extend_from_slice(&self.mesh.0.0);
        bytes.extend_from_slice(&self.origin.0);
        bytes.extend_from_slice(&self.sequence.to_le_bytes());
        bytes.extend_from_slice(&self.not_after.0.to_le_bytes());
        let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(payload);
        bytes
    }

    /// Takes a record apart.
    pub fn split(bytes: &[u8]) -> Result<Parts<'_>, HeaderError> {
        let (version, rest) = bytes.split_first().ok_or(HeaderError::Length)?;
        if *version != VERSION {
            return Err(HeaderError::Version(*version));
        }
        let (kind, rest) = take::<2>(rest)?;
        let (mesh, rest) = take::<32>(rest)?;
        let (origin, rest) = take::<32>(rest)?;
        let (sequence, rest) = take::<8>(rest)?;
        let (not_after, rest) = take::<8>(rest)?;
        let (length, rest) = take::<4>(rest)?;
        let (payload, signature) =
            rest.split_last_chunk::<SIGNATURE_BYTES>().ok_or(HeaderError::Length)?;
        if usize::try_from(u32::from_le_bytes(length)) != Ok(payload.len()) {
            return Err(HeaderError::Length);
        }
        let signed =
            bytes.get(..HEADER_BYTES.saturating_add(payload.len())).ok_or(HeaderError::Length)?;
        let header = Self {
            kind: RecordKind(u16::from_le_bytes(kind)),
            mesh: MeshId(Hash(mesh)),
            origin: NodeKey(origin),
            sequence: u64::from_le_bytes(sequence),
            not_after: Wall(u64::from_le_bytes(not_after)),
        };
        Ok(Parts { header, signed, payload, signature: *signature })
    }
}

fn take<const N: usize>(bytes: &[u8]) -> Result<([u8; N], &[u8]), HeaderError> {
    bytes.split_first_chunk::<N>().map(|(head, rest)| (*head, rest)).ok_or(HeaderError::Length)
}
