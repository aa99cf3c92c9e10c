//! Wire: the bytes of chitchat 0.11.2, read and written by ourselves.
//!
//! In:    bytes from a peer (plain blocks only) or from our own chitchat (packed blocks too)
//! Out:   a [`Message`] of bounded parts, and bytes in one canonical plain form
//! Never: trusts a length, unpacks what a peer sent, keeps text that is not ASCII
//!
//! ```text
//! message  = u16 45139, u8 0, u8 kind (0 syn, 1 syn-ack, 2 ack, 3 bad cluster), body
//! syn      = digest, text cluster        syn-ack = digest, delta        ack = delta
//! digest   = u16 count, (id, u64 heartbeat, u64 last gc version, u64 max version)...
//! id       = text node, u64 generation, u8 4, 4 bytes, u16 port         text = u16 length, bytes
//! delta    = (u8 1 packed | 2 plain, u16 length, bytes)..., u8 0: together they are operations
//! operation= 0, id, u64 last gc version, u64 from version | 1, text key, text value, u64
//!            version, u8 status | 2, u64 max version
//! ```
//! All numbers are little-endian.

use std::net::{Ipv4Addr, SocketAddrV4};

use skein_protocol::limits;

use super::Blame;

const MAGIC: u16 = 45_139;
const VERSION: u8 = 0;
/// What chitchat's own writer puts into one block.
const BLOCK_BYTES: usize = 16_384;

/// A chitchat id: what it takes to be one node in its world.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct Id {
    pub(super) short: String,
    pub(super) generation: u64,
    pub(super) address: SocketAddrV4,
}

/// What the sender knows of one node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub(super) id: Id,
    pub(super) heartbeat: u64,
    pub(super) max_version: u64,
}

/// One key of a node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct KeyValue {
    pub(super) key: String,
    pub(super) value: String,
    pub(super) version: u64,
}

/// News of one node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct NodeDelta {
    pub(super) id: Id,
    pub(super) from_version: u64,
    pub(super) keys: Vec<KeyValue>,
}

/// A whole message. Tombstones and maxima without a key are not among what it can say: our
/// agents never delete a key, so none of them ever sends one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Message {
    Syn { digest: Vec<Entry>, cluster: String },
    SynAck { digest: Vec<Entry>, delta: Vec<NodeDelta> },
    Ack { delta: Vec<NodeDelta> },
    BadCluster,
}

/// Whose bytes are read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Source {
    /// A peer's: plain blocks only.
    Peer,
    /// Our own chitchat's, which packs every block that shrinks by it.
    Own,
}

impl Message {
    /// Reads `bytes` to their end.
    pub(super) fn parse(bytes: &[u8], source: Source) -> Result<Self, Blame> {
        let limit = match source {
            Source::Peer => limits::GOSSIP_MESSAGE_BYTES,
            Source::Own => limits::GOSSIP_OWN_BYTES,
        };
        if bytes.len() > limit {
            return Err(Blame::Oversize);
        }
        let mut reader = Reader(bytes);
        if reader.u16()? != MAGIC || reader.u8()? != VERSION {
            return Err(Blame::Malformed);
        }
        let message = match reader.u8()? {
            0 => Self::Syn { digest: reader.digest()?, cluster: reader.cluster()? },
            1 => Self::SynAck { digest: reader.digest()?, delta: reader.delta(source)? },
            2 => Self::Ack { delta: reader.delta(source)? },
            3 => Self::BadCluster,
            _ => return Err(Blame::Malformed),
        };
        reader.end()?;
        Ok(message)
    }

    /// Writes it in plain blocks. Nodes of the delta that go over the limit of a message are
    /// left out whole: the next round offers them again.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer(Vec::new());
        writer.u16(MAGIC);
        writer.u8(VERSION);
        match self {
            Self::Syn { digest, cluster } => {
                writer.u8(0);
                writer.digest(digest);
                writer.text(cluster);
            }
            Self::SynAck { digest, delta } => {
                writer.u8(1);
                writer.digest(digest);
                writer.delta(delta);
            }
            Self::Ack { delta } => {
                writer.u8(2);
                writer.delta(delta);
            }
            Self::BadCluster => writer.u8(3),
        }
        writer.0
    }
}

/// What is left to read.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], Blame> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Blame::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Blame> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(Blame::Malformed)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn u8(&mut self) -> Result<u8, Blame> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    fn u16(&mut self) -> Result<u16, Blame> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, Blame> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn text(&mut self) -> Result<&'a [u8], Blame> {
        let length = self.u16()?;
        self.take(usize::from(length))
    }

    pub(super) fn end(&self) -> Result<(), Blame> {
        if self.0.is_empty() { Ok(()) } else { Err(Blame::Malformed) }
    }

    fn cluster(&mut self) -> Result<String, Blame> {
        cluster_text(self.text()?)
    }

    fn id(&mut self) -> Result<Id, Blame> {
        let text = self.text()?;
        if text.len() != limits::SHORT_ID_CHARS {
            return Err(Blame::BadId);
        }
        let short = printable(text).ok_or(Blame::BadId)?;
        let generation = self.u64()?;
        if self.u8()? != 4 {
            return Err(Blame::BadId);
        }
        let [a, b, c, d] = self.array()?;
        let address = SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), self.u16()?);
        Ok(Id { short, generation, address })
    }

    /// Sorted by id and without a pair, as chitchat writes it.
    fn digest(&mut self) -> Result<Vec<Entry>, Blame> {
        let count = self.u16()?;
        let mut entries: Vec<Entry> = Vec::new();
        for _ in 0..count {
            let entry = self.entry()?;
            if entries.last().is_some_and(|last| last.id >= entry.id) {
                return Err(Blame::Duplicate);
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    fn entry(&mut self) -> Result<Entry, Blame> {
        let id = self.id()?;
        let heartbeat = self.u64()?;
        if self.u64()? != 0 {
            return Err(Blame::Tombstone);
        }
        let max_version = self.u64()?;
        Ok(Entry { id, heartbeat, max_version })
    }

    fn delta(&mut self, source: Source) -> Result<Vec<NodeDelta>, Blame> {
        let operations = self.blocks(source)?;
        let mut reader = Reader(&operations);
        let mut nodes: Vec<NodeDelta> = Vec::new();
        while !reader.0.is_empty() {
            match reader.u8()? {
                0 => nodes.push(reader.node()?),
                1 => {
                    let node = nodes.last_mut().ok_or(Blame::Malformed)?;
                    reader.key_value(node)?;
                }
                2 => return Err(Blame::SetMaxVersion),
                _ => return Err(Blame::Malformed),
            }
        }
        Ok(nodes)
    }

    fn node(&mut self) -> Result<NodeDelta, Blame> {
        let id = self.id()?;
        if self.u64()? != 0 {
            return Err(Blame::Tombstone);
        }
        Ok(NodeDelta { id, from_version: self.u64()?, keys: Vec::new() })
    }

    fn key_value(&mut self, node: &mut NodeDelta) -> Result<(), Blame> {
        let key = key_text(self.text()?)?;
        let value = value_text(self.text()?)?;
        let version = self.u64()?;
        if self.u8()? != 0 {
            return Err(Blame::Tombstone);
        }
        if node.keys.len() >= limits::GOSSIP_KEYS {
            return Err(Blame::TooManyKeys);
        }
        if node.keys.iter().any(|known| known.key == key) {
            return Err(Blame::Duplicate);
        }
        let before = node.keys.last().map_or(node.from_version, |known| known.version);
        if version <= before {
            return Err(Blame::VersionOrder);
        }
        node.keys.push(KeyValue { key, value, version });
        Ok(())
    }

    fn blocks(&mut self, source: Source) -> Result<Vec<u8>, Blame> {
        let mut operations = Vec::new();
        loop {
            match (self.u8()?, source) {
                (0, _) => return Ok(operations),
                (1, Source::Peer) => return Err(Blame::Compressed),
                (1, Source::Own) => {
                    let packed = self.text()?;
                    let plain = zstd::bulk::decompress(packed, BLOCK_BYTES)
                        .map_err(|_| Blame::Malformed)?;
                    operations.extend_from_slice(&plain);
                }
                (2, _) => operations.extend_from_slice(self.text()?),
                _ => return Err(Blame::Malformed),
            }
            if operations.len() > limits::GOSSIP_OWN_BYTES {
                return Err(Blame::Oversize);
            }
        }
    }
}

fn printable(text: &[u8]) -> Option<String> {
    if !text.iter().all(|byte| (0x20..0x7f).contains(byte)) {
        return None;
    }
    std::str::from_utf8(text).ok().map(str::to_owned)
}

pub(super) fn cluster_text(text: &[u8]) -> Result<String, Blame> {
    if text.len() > limits::GOSSIP_CLUSTER_BYTES {
        return Err(Blame::WrongCluster);
    }
    printable(text).ok_or(Blame::WrongCluster)
}

pub(super) fn key_text(text: &[u8]) -> Result<String, Blame> {
    let inner = |byte: &u8| byte.is_ascii_lowercase() || *byte == b'-';
    if text.is_empty() || text.len() > limits::GOSSIP_KEY_BYTES || !text.iter().all(inner) {
        return Err(Blame::BadKey);
    }
    printable(text).ok_or(Blame::BadKey)
}

pub(super) fn value_text(text: &[u8]) -> Result<String, Blame> {
    if text.len() > limits::GOSSIP_VALUE_BYTES {
        return Err(Blame::OversizeValue);
    }
    printable(text).ok_or(Blame::BadValue)
}

/// What is written so far.
struct Writer(Vec<u8>);

impl Writer {
    fn u8(&mut self, number: u8) {
        self.0.push(number);
    }

    fn u16(&mut self, number: u16) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    fn u64(&mut self, number: u64) {
        self.0.extend_from_slice(&number.to_le_bytes());
    }

    /// Bytes after their count. The count saturates: all that is written here is bounded far
    /// below it.
    fn text(&mut self, text: &str) {
        self.counted(text.as_bytes());
    }

    fn counted(&mut self, bytes: &[u8]) {
        self.u16(u16::try_from(bytes.len()).unwrap_or(u16::MAX));
        self.0.extend_from_slice(bytes);
    }

    fn id(&mut self, id: &Id) {
        self.text(&id.short);
        self.u64(id.generation);
        self.u8(4);
        self.0.extend_from_slice(&id.address.ip().octets());
        self.u16(id.address.port());
    }

    fn digest(&mut self, digest: &[Entry]) {
        self.u16(u16::try_from(digest.len()).unwrap_or(u16::MAX));
        for entry in digest {
            self.id(&entry.id);
            self.u64(entry.heartbeat);
            self.u64(0);
            self.u64(entry.max_version);
        }
    }

    fn delta(&mut self, delta: &[NodeDelta]) {
        let mut operations = Self(Vec::new());
        for node in delta {
            let before = operations.0.len();
            operations.node(node);
            let blocks = operations.0.len().div_ceil(BLOCK_BYTES);
            let whole = self.0.len() + operations.0.len() + 3 * blocks + 1;
            if whole > limits::GOSSIP_MESSAGE_BYTES {
                operations.0.truncate(before);
                break;
            }
        }
        for block in operations.0.chunks(BLOCK_BYTES) {
            self.u8(2);
            self.counted(block);
        }
        self.u8(0);
    }

    fn node(&mut self, node: &NodeDelta) {
        self.u8(0);
        self.id(&node.id);
        self.u64(0);
        self.u64(node.from_version);
        for pair in &node.keys {
            self.u8(1);
            self.text(&pair.key);
            self.text(&pair.value);
            self.u64(pair.version);
            self.u8(0);
        }
    }
}
