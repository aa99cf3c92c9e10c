//! Sections: the payload of a record as sorted, unique `(tag u16, length u32, bytes)`.
//!
//! The structure of a section is frozen for ever; new things are new sections. A tag from
//! [`OPTIONAL_FROM`] on may be skipped by who does not know it; with an unknown lower tag a
//! record is carried, not read.

use std::collections::BTreeMap;

use crate::limits;

/// Tags from here on may be skipped when unknown.
pub const OPTIONAL_FROM: u16 = 0x8000;

/// Why a payload is not a list of sections.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SectionError {
    /// It ends within a section.
    #[error("payload ends within a section")]
    Short,
    /// Tags do not rise.
    #[error("section {0} out of order or twice")]
    Order(u16),
    /// Too many sections.
    #[error("more than {} sections", limits::SECTIONS_MAX)]
    TooMany,
}

/// The sections of a payload.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Sections(BTreeMap<u16, Vec<u8>>);

impl Sections {
    /// Puts a section in, in place of one of that tag.
    pub fn put(&mut self, tag: u16, bytes: Vec<u8>) {
        self.0.insert(tag, bytes);
    }

    /// The bytes of a section.
    pub fn find(&self, tag: u16) -> Option<&[u8]> {
        self.0.get(&tag).map(Vec::as_slice)
    }

    /// Whether a tag below [`OPTIONAL_FROM`] is not among `known`.
    pub fn has_unknown(&self, known: &[u16]) -> bool {
        self.0.keys().any(|tag| *tag < OPTIONAL_FROM && !known.contains(tag))
    }

    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (tag, body) in &self.0 {
            bytes.extend_from_slice(&tag.to_le_bytes());
            // A body is far below 4 GiB: records are bounded by limits::RECORD_BYTES.
            bytes.extend_from_slice(&u32::try_from(body.len()).unwrap_or(u32::MAX).to_le_bytes());
            bytes.extend_from_slice(body);
        }
        bytes
    }

    /// Reads what [`Self::encode`] writes, and nothing else.
    pub fn decode(mut bytes: &[u8]) -> Result<Self, SectionError> {
        let mut sections = BTreeMap::new();
        let mut last = None;
        while !bytes.is_empty() {
            let (tag, rest) = bytes.split_first_chunk::<2>().ok_or(SectionError::Short)?;
            let (length, rest) = rest.split_first_chunk::<4>().ok_or(SectionError::Short)?;
            let tag = u16::from_le_bytes(*tag);
            let length =
                usize::try_from(u32::from_le_bytes(*length)).map_err(|_| SectionError::Short)?;
            let (body, rest) = rest.split_at_checked(length).ok_or(SectionError::Short)?;
            if last.is_some_and(|last| last >= tag) {
                return Err(SectionError::Order(tag));
            }
            if sections.len() == limits::SECTIONS_MAX {
                return Err(SectionError::TooMany);
            }
            last = Some(tag);
            sections.insert(tag, body.to_vec());
            bytes = rest;
        }
        Ok(Self(sections))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_tag_twice_or_out_of_order_is_refused() {
        let mut sections = Sections::default();
        sections.put(2, vec![1]);
        let one = sections.encode();
        let twice = [one.clone(), one].concat();
        assert_eq!(Sections::decode(&twice), Err(SectionError::Order(2)));
    }

    #[test]
    fn a_length_beyond_the_payload_is_refused() {
        assert_eq!(Sections::decode(&[1, 0, 255, 255, 255, 255]), Err(SectionError::Short));
    }

    proptest! {
        #[test]
        fn what_decodes_encodes_to_the_same_bytes(
            bytes in proptest::collection::vec(any::<u8>(), 0..64)
        ) {
            if let Ok(sections) = Sections::decode(&bytes) {
                prop_assert_eq!(sections.encode(), bytes);
            }
        }
    }
}
