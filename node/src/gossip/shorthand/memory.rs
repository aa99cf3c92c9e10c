//! Memory: what was last said in one direction of a link, and messages as what is new to it.

use skein_protocol::{limits, name::Hash};

use super::{
    ANEW, CLUSTER, KIND, LOST,
    letters::{Name, Out},
};
use crate::gossip::{
    Blame,
    address::address_of,
    wire::{Entry, Id, Message, NodeDelta, Reader, cluster_text},
};

/// What was last said in one direction.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    digest: Vec<Known>,
    cluster: String,
}

/// One id of a digest.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Known {
    name: Name,
    heartbeat: u64,
    version: u64,
}

impl Memory {
    pub(super) fn write(&mut self, message: &Message, flags: u8) -> Result<Vec<u8>, Blame> {
        let mut out = Out(vec![flags]);
        let kind = match message {
            Message::Syn { digest, cluster } => {
                let named = self.name_cluster(&mut out, cluster);
                self.write_digest(&mut out, digest)?;
                named
            }
            Message::SynAck { digest, delta } => {
                self.write_digest(&mut out, digest)?;
                self.write_delta(&mut out, delta)?;
                1
            }
            Message::Ack { delta } => {
                self.write_delta(&mut out, delta)?;
                2
            }
            Message::BadCluster => 3,
        };
        if let Some(first) = out.0.first_mut() {
            *first |= kind;
        }
        Ok(out.0)
    }

    /// A frame that means what it says, and is written as we would write it.
    pub(super) fn read(&mut self, frame: &[u8]) -> Result<Message, Blame> {
        let mut again = self.clone();
        let mut reader = Reader(frame);
        let flags = reader.u8()?;
        let message = match flags & KIND {
            0 => {
                if flags & CLUSTER != 0 {
                    let length = size(reader.number()?, limits::GOSSIP_CLUSTER_BYTES)?;
                    self.cluster = cluster_text(reader.take(length)?)?;
                }
                let digest = self.read_digest(&mut reader)?;
                Message::Syn { digest, cluster: self.cluster.clone() }
            }
            1 => Message::SynAck {
                digest: self.read_digest(&mut reader)?,
                delta: self.read_delta(&mut reader)?,
            },
            2 => Message::Ack { delta: self.read_delta(&mut reader)? },
            _ => Message::BadCluster,
        };
        reader.end()?;
        let written = again.write(&message, flags & (ANEW | LOST))?;
        if written == frame { Ok(message) } else { Err(Blame::Malformed) }
    }

    fn name_cluster(&mut self, out: &mut Out, cluster: &str) -> u8 {
        if self.cluster == cluster {
            return 0;
        }
        cluster.clone_into(&mut self.cluster);
        out.text(cluster);
        CLUSTER
    }

    fn write_digest(&mut self, out: &mut Out, digest: &[Entry]) -> Result<(), Blame> {
        let entries = digest.iter().take(limits::GOSSIP_DIGEST_MAX);
        let next = entries.map(Known::of).collect::<Result<Vec<_>, _>>()?;
        let change = Change::between(&self.digest, &next);
        out.number(change.gone.len() as u64);
        let mut from = 0;
        for place in change.gone {
            out.number((place - from) as u64);
            from = place + 1;
        }
        out.steps(&change.risen);
        out.number(change.new.len() as u64);
        for known in change.new {
            out.name(&known.name);
            out.number(known.heartbeat);
            out.number(known.version);
        }
        out.0.extend_from_slice(&check(&next));
        self.digest = next;
        Ok(())
    }

    fn read_digest(&mut self, reader: &mut Reader<'_>) -> Result<Vec<Entry>, Blame> {
        let gone = place(reader.number()?, self.digest.len())?;
        let mut left = Vec::new();
        let mut old = std::mem::take(&mut self.digest).into_iter();
        for _ in 0..gone {
            let stay = place(reader.number()?, old.len())?;
            left.extend(old.by_ref().take(stay));
            old.next().ok_or(Blame::OutOfStep)?;
        }
        left.extend(old);
        let mut waiting = left.iter_mut();
        while let Some(known) = waiting.next() {
            let step = reader.number()?;
            let (heartbeat, version) = match step & 3 {
                0 => {
                    let more = place(step >> 2, waiting.len())?;
                    waiting.by_ref().take(more).for_each(drop);
                    continue;
                }
                2 => (step >> 2, reader.number()?),
                _ => (step >> 1, 0),
            };
            known.heartbeat = known.heartbeat.checked_add(heartbeat).ok_or(Blame::Malformed)?;
            known.version = known.version.checked_add(version).ok_or(Blame::Malformed)?;
        }
        let room = limits::GOSSIP_DIGEST_MAX.saturating_sub(left.len());
        for _ in 0..size(reader.number()?, room)? {
            let name = reader.name()?;
            left.push(Known { name, heartbeat: reader.number()?, version: reader.number()? });
        }
        left.sort_by_key(|known| known.name);
        if left.windows(2).any(|pair| matches!(pair, [a, b] if a.name == b.name)) {
            return Err(Blame::Duplicate);
        }
        if reader.array()? != check(&left) {
            return Err(Blame::OutOfStep);
        }
        self.digest = left;
        Ok(self.digest.iter().map(Known::entry).collect())
    }

    fn write_delta(&self, out: &mut Out, delta: &[NodeDelta]) -> Result<(), Blame> {
        let delta = delta.get(..limits::GOSSIP_DIGEST_MAX).unwrap_or(delta);
        out.number(delta.len() as u64);
        for node in delta {
            let name = name_of(&node.id)?;
            match self.digest.binary_search_by_key(&name, |known| known.name) {
                Ok(place) => out.number(place as u64 + 1),
                Err(_) => {
                    out.number(0);
                    out.name(&name);
                }
            }
            out.number(node.from_version);
            out.number(node.keys.len() as u64);
            let mut before = node.from_version;
            for pair in &node.keys {
                let rise = pair.version.checked_sub(before).ok_or(Blame::VersionOrder)?;
                out.pair(pair, rise)?;
                before = pair.version;
            }
        }
        Ok(())
    }

    fn read_delta(&self, reader: &mut Reader<'_>) -> Result<Vec<NodeDelta>, Blame> {
        let count = size(reader.number()?, limits::GOSSIP_DIGEST_MAX)?;
        let mut delta = Vec::new();
        for _ in 0..count {
            let place = reader.number()?;
            let name = match place.checked_sub(1) {
                None => reader.name()?,
                Some(place) => {
                    let known = usize::try_from(place).ok().and_then(|n| self.digest.get(n));
                    known.ok_or(Blame::OutOfStep)?.name
                }
            };
            let from_version = reader.number()?;
            let mut node = NodeDelta { id: id_of(&name), from_version, keys: Vec::new() };
            let keys = reader.number()?;
            let keys = size(keys, limits::GOSSIP_KEYS).map_err(|_| Blame::TooManyKeys)?;
            let mut before = from_version;
            for _ in 0..keys {
                let pair = reader.pair(before)?;
                if node.keys.iter().any(|known| known.key == pair.key) {
                    return Err(Blame::Duplicate);
                }
                before = pair.version;
                node.keys.push(pair);
            }
            delta.push(node);
        }
        Ok(delta)
    }
}

/// How one digest becomes the next.
#[derive(Default)]
struct Change<'a> {
    /// Places in the old one that are gone.
    gone: Vec<usize>,
    /// By how much heartbeat and version of those that stay rose.
    risen: Vec<(u64, u64)>,
    new: Vec<&'a Known>,
}

impl<'a> Change<'a> {
    /// Both are in order.
    fn between(old: &[Known], next: &'a [Known]) -> Self {
        let mut change = Self::default();
        let mut places = old.iter().enumerate().peekable();
        for known in next {
            while let Some((place, _)) = places.next_if(|(_, old)| old.name < known.name) {
                change.gone.push(place);
            }
            let Some((place, old)) = places.next_if(|(_, old)| old.name == known.name) else {
                change.new.push(known);
                continue;
            };
            match known.risen_from(old) {
                Some(risen) => change.risen.push(risen),
                None => {
                    change.gone.push(place);
                    change.new.push(known);
                }
            }
        }
        change.gone.extend(places.map(|(place, _)| place));
        change
    }
}

impl Known {
    fn of(entry: &Entry) -> Result<Self, Blame> {
        let name = name_of(&entry.id)?;
        Ok(Self { name, heartbeat: entry.heartbeat, version: entry.max_version })
    }

    fn entry(&self) -> Entry {
        Entry { id: id_of(&self.name), heartbeat: self.heartbeat, max_version: self.version }
    }

    fn risen_from(&self, old: &Self) -> Option<(u64, u64)> {
        let heartbeat = self.heartbeat.checked_sub(old.heartbeat)?;
        let version = self.version.checked_sub(old.version)?;
        (heartbeat < STEP_MAX).then_some((heartbeat, version))
    }
}

fn name_of(id: &Id) -> Result<Name, Blame> {
    let short = id.short.as_bytes().try_into().map_err(|_| Blame::BadId)?;
    if id.address == address_of(id.short.as_bytes()) {
        Ok((short, id.generation))
    } else {
        Err(Blame::BadId)
    }
}

fn id_of((short, generation): &Name) -> Id {
    Id {
        short: short.iter().copied().map(char::from).collect(),
        generation: *generation,
        address: address_of(short),
    }
}

/// Two bytes of the hash over all that a digest says.
fn check(digest: &[Known]) -> [u8; 2] {
    let mut said = Vec::with_capacity(digest.len() * KNOWN_BYTES);
    for known in digest {
        said.extend_from_slice(&known.name.0);
        for number in [known.name.1, known.heartbeat, known.version] {
            said.extend_from_slice(&number.to_le_bytes());
        }
    }
    let [a, b, ..] = Hash::of(&[b"skein gossip digest", &said]).0;
    [a, b]
}

/// A place in, or a part of, a digest of `length`.
fn place(number: u64, length: usize) -> Result<usize, Blame> {
    size(number, length).map_err(|_| Blame::OutOfStep)
}

pub(super) fn size(number: u64, limit: usize) -> Result<usize, Blame> {
    let number = usize::try_from(number).map_err(|_| Blame::Malformed)?;
    if number <= limit { Ok(number) } else { Err(Blame::Malformed) }
}

/// Above this a counter is told as new, so that a step with its flags fits a number.
const STEP_MAX: u64 = 1 << 60;
/// Name and counters of an id.
const KNOWN_BYTES: usize = limits::SHORT_ID_CHARS + 3 * 8;
