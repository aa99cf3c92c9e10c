//! Letters: numbers, names, steps and keys as bytes.

use skein_protocol::{limits, name::ShortId};

use super::memory::size;
use crate::gossip::{
    Blame,
    filter::KEYS,
    wire::{KeyValue, Reader, key_text, value_text},
};

/// What tells one id from another, in chitchat's order: short id, generation.
pub(super) type Name = ([u8; limits::SHORT_ID_CHARS], u64);

/// What is written so far.
pub(super) struct Out(pub(super) Vec<u8>);

impl Out {
    pub(super) fn number(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.0.push(number.to_le_bytes()[0] | 0x80);
            number >>= 7;
        }
        self.0.push(number.to_le_bytes()[0]);
    }

    pub(super) fn text(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.0.extend_from_slice(text.as_bytes());
    }

    pub(super) fn name(&mut self, (short, generation): &Name) {
        self.0.extend_from_slice(short);
        self.number(*generation);
    }

    pub(super) fn steps(&mut self, risen: &[(u64, u64)]) {
        for run in risen.chunk_by(|a, b| (*a, *b) == ((0, 0), (0, 0))) {
            match run {
                [(0, 0), rest @ ..] => self.number((rest.len() as u64) << 2),
                [(heartbeat, 0), ..] => self.number(heartbeat << 1 | 1),
                [(heartbeat, version), ..] => {
                    self.number(heartbeat << 2 | 2);
                    self.number(*version);
                }
                [] => {}
            }
        }
    }

    pub(super) fn pair(&mut self, pair: &KeyValue, rise: u64) -> Result<(), Blame> {
        match KEYS.iter().position(|key| *key == pair.key) {
            Some(place) => self.number(place as u64),
            None => {
                let length = pair.key.len().checked_add(KEYS.len()).ok_or(Blame::BadKey)?;
                self.number(length as u64);
                self.0.extend_from_slice(pair.key.as_bytes());
            }
        }
        self.text(&pair.value);
        self.number(rise);
        Ok(())
    }
}

impl Reader<'_> {
    pub(super) fn number(&mut self) -> Result<u64, Blame> {
        let mut number = 0_u64;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                return Err(Blame::Malformed);
            }
            number |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(number);
            }
        }
        Err(Blame::Malformed)
    }

    pub(super) fn name(&mut self) -> Result<Name, Blame> {
        let short: [u8; limits::SHORT_ID_CHARS] = self.array()?;
        let text = std::str::from_utf8(&short).map_err(|_| Blame::BadId)?;
        text.parse::<ShortId>().map_err(|_| Blame::BadId)?;
        Ok((short, self.number()?))
    }

    pub(super) fn pair(&mut self, before: u64) -> Result<KeyValue, Blame> {
        let which = usize::try_from(self.number()?).map_err(|_| Blame::BadKey)?;
        let key = match KEYS.get(which) {
            Some(key) => (*key).to_owned(),
            None => {
                let length = which.saturating_sub(KEYS.len());
                if length > limits::GOSSIP_KEY_BYTES {
                    return Err(Blame::BadKey);
                }
                key_text(self.take(length)?)?
            }
        };
        let length = self.number()?;
        let length = size(length, limits::GOSSIP_VALUE_BYTES).map_err(|_| Blame::OversizeValue)?;
        let value = value_text(self.take(length)?)?;
        let rise = self.number()?;
        let version = before.checked_add(rise).filter(|version| *version > before);
        Ok(KeyValue { key, value, version: version.ok_or(Blame::VersionOrder)? })
    }
}
