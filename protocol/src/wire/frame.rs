//! Frames: what two agents say on the first stream of their control connection.
//!
//! A frame is a kind byte and a body; the link puts a length of four bytes (little-endian, at
//! most [`limits::FRAME_BYTES`]) in front of each. A kind that is not known is skipped without
//! blame: it is what a newer agent says.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::codec::{self, CodecError};
use crate::{
    clock::Wall,
    limits,
    membership::SignedWitness,
    name::{Hash, MeshId, NodeKey},
    policy::PolicyBundle,
    record::Bundle,
    store::{Head, heads},
    trust::{RootChain, revocation::Statement},
};

/// The version of this protocol that an agent of this build speaks.
pub const VERSION: u16 = 1;

/// What a connection is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum LinkRole {
    /// Gossip, probes, records.
    Control,
    /// Streams of applications.
    Data,
}

/// What a Hello says of its sender's record.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Speaks {
    /// All of it, on control connections; none while it has not signed one.
    Bundle(Option<Bundle>),
    /// Its head, on data connections.
    Head(Option<Head>),
}

/// The first frame of the first stream of every connection, both ways.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Hello {
    /// The protocol versions it speaks, best first.
    pub versions: Vec<u16>,
    /// What the connection is for.
    pub role: LinkRole,
    /// The mesh.
    pub mesh: MeshId,
    /// Who speaks: must be the key of the handshake.
    pub key: NodeKey,
    /// Its boot.
    pub boot: u64,
    /// Its revocation root.
    pub revocation_root: Hash,
    /// The hash over the issuers that it knows.
    pub issuer_root: Hash,
    /// The hash over its heads.
    pub records_root: Hash,
    /// Its clock.
    pub wall: Wall,
    /// Its own record.
    pub speaks: Speaks,
}

/// Where an agent stands: told when a [`Brief`] shows that the peer stands elsewhere.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Stand {
    /// The hash over its heads.
    pub records: Hash,
    /// The hash over its revocations.
    pub revocations: Hash,
    /// The hash over its policy heads.
    pub policy: Hash,
    /// Whether it takes no calls since it may not know the mesh's policy: then that it holds the
    /// same is no proof.
    pub probation: bool,
}

/// What probes and their answers carry: enough to see whether both ends stand at one place. A
/// second's probe is 17 bytes instead of 109.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Brief {
    /// Drawn by the prober, so that nobody prepares two stands that look alike.
    pub id: u32,
    /// The head of a hash over the id and the [`Stand`].
    pub mark: u64,
}

const BRIEF_DOMAIN: &[u8] = b"skein/stand/v2\0";

impl Stand {
    /// It in brief, for that id.
    pub fn brief(&self, id: u32) -> Brief {
        let roots = [&self.records.0[..], &self.revocations.0[..], &self.policy.0[..]];
        let [records, revocations, policy] = roots;
        let id_bytes = id.to_le_bytes();
        let probation = [u8::from(self.probation)];
        let hash = Hash::of(&[BRIEF_DOMAIN, &id_bytes, records, revocations, policy, &probation]);
        Brief { id, mark: hash.prefix() }
    }
}

/// Heads of a range of origins, both ends included: whom the range has and the list has not,
/// the sender does not know.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HeadRange {
    /// From this origin.
    pub from: NodeKey,
    /// To this origin.
    pub to: NodeKey,
    /// Sorted by origin, at most [`limits::HEADS_PER_FRAME`].
    pub heads: Vec<(NodeKey, Head)>,
}

/// Versions of mesh-wide documents within a range, both ends included: what lies in it and is
/// not listed, the sender does not hold.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PolicyRange {
    /// From this version.
    pub from: Hash,
    /// To this version.
    pub to: Hash,
    /// Sorted, at most [`limits::POLICIES_PER_FRAME`].
    pub versions: Vec<Hash>,
}

/// What the sender holds of each part of the keys' range, in brief: 524 bytes for heads of any
/// number. Who holds something else in a part answers with its heads there.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Parts {
    /// Drawn by the sender, so that nobody prepares two sets that look alike.
    pub id: u32,
    /// The head of a hash over the id and the part's hash, for each of [`heads::PARTS`].
    pub marks: Vec<u64>,
}

const PARTS_DOMAIN: &[u8] = b"skein/parts/v1\0";

impl Parts {
    /// The marks of those parts, for that id.
    pub fn new(id: u32, parts: &[Hash; heads::PARTS]) -> Self {
        let mark = |part: &Hash| Hash::of(&[PARTS_DOMAIN, &id.to_le_bytes(), &part.0]).prefix();
        Self { id, marks: parts.iter().map(mark).collect() }
    }
}

/// A request to probe a node on behalf of another.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ProbeFor {
    /// Tells an answer from another.
    pub id: u64,
    /// Whom to probe.
    pub subject: NodeKey,
}

/// Some of the statements about keys that have ended.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RevocationRun {
    /// At most [`limits::HELLO_REVOCATIONS`].
    pub statements: Vec<Statement>,
    /// Whether the sender has told all that it knows.
    pub whole: bool,
}

/// The kind byte of a chitchat message, which the shell takes out before the engine sees it.
pub const GOSSIP: u8 = 64;

/// One frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Frame {
    /// Who I am.
    Hello(Box<Hello>),
    /// Are you there? In brief, I stand here.
    Probe(Brief),
    /// I am; in brief, I stand here.
    Answer(Brief),
    /// A record, asked for or new.
    Record(Box<Bundle>),
    /// What I know.
    Heads(HeadRange),
    /// Send me these.
    Pull(Vec<NodeKey>),
    /// A watcher's word.
    Witness(SignedWitness),
    /// Probe this node for me.
    ProbeFor(ProbeFor),
    /// I heard of it just now.
    Heard(ProbeFor),
    /// Keys that have ended.
    Revocations(RevocationRun),
    /// Where I stand, since you stand elsewhere.
    Stand(Stand),
    /// A version of a mesh-wide document, new or lacking.
    Policy(Box<PolicyBundle>),
    /// Which versions I hold.
    Policies(PolicyRange),
    /// The roots that I trust, from the first to the newest.
    Roots(Box<RootChain>),
    /// What I hold, in brief: tell me where you hold something else.
    Parts(Parts),
    /// A kind of a newer agent: skipped.
    Unknown(u8),
}

/// Whether an encoded frame tells something that the next exchange tells again where it is
/// lacking: a record, a version of a document, heads.
pub fn is_told_again(frame: &[u8]) -> bool {
    matches!(frame.first(), Some(&(RECORD | HEADS | POLICY)))
}

const HELLO: u8 = 1;
const PROBE: u8 = 2;
const ANSWER: u8 = 3;
const RECORD: u8 = 4;
const HEADS: u8 = 5;
const PULL: u8 = 6;
const WITNESS: u8 = 7;
const PROBE_FOR: u8 = 8;
const HEARD: u8 = 9;
const REVOCATIONS: u8 = 10;
const STAND: u8 = 11;
const POLICY: u8 = 12;
const POLICIES: u8 = 13;
const ROOTS: u8 = 14;
const PARTS: u8 = 15;

impl Frame {
    /// The bytes of it.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        match self {
            Self::Hello(hello) => write(HELLO, hello),
            Self::Probe(brief) => write(PROBE, brief),
            Self::Answer(brief) => write(ANSWER, brief),
            Self::Record(bundle) => write(RECORD, bundle),
            Self::Heads(range) => write(HEADS, range),
            Self::Pull(origins) => write(PULL, origins),
            Self::Witness(witness) => write(WITNESS, witness),
            Self::ProbeFor(probe) => write(PROBE_FOR, probe),
            Self::Heard(probe) => write(HEARD, probe),
            Self::Revocations(run) => write(REVOCATIONS, run),
            Self::Stand(stand) => write(STAND, stand),
            Self::Policy(bundle) => write(POLICY, bundle),
            Self::Policies(range) => write(POLICIES, range),
            Self::Roots(chain) => write(ROOTS, chain),
            Self::Parts(parts) => write(PARTS, parts),
            Self::Unknown(kind) => Ok(vec![*kind]),
        }
    }

    /// Reads one frame.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        let (kind, body) =
            bytes.split_first().ok_or_else(|| CodecError::Malformed("empty".to_owned()))?;
        match *kind {
            HELLO => read(body).map(Self::Hello),
            PROBE => fixed(body).map(Self::Probe),
            ANSWER => fixed(body).map(Self::Answer),
            RECORD => read(body).map(Self::Record),
            HEADS => bounded_heads(read(body)?).map(Self::Heads),
            PULL => bounded_pull(read(body)?).map(Self::Pull),
            WITNESS => fixed(body).map(Self::Witness),
            PROBE_FOR => read(body).map(Self::ProbeFor),
            HEARD => read(body).map(Self::Heard),
            REVOCATIONS => bounded_run(read(body)?).map(Self::Revocations),
            STAND => read(body).map(Self::Stand),
            POLICY => read(body).map(Self::Policy),
            POLICIES => bounded_policies(read(body)?).map(Self::Policies),
            ROOTS => read(body).map(Self::Roots),
            PARTS => whole_parts(read(body)?).map(Self::Parts),
            unknown => Ok(Self::Unknown(unknown)),
        }
    }
}

/// The record within a frame that carries one, where it stands.
pub fn record_in(frame: &[u8]) -> Option<&[u8]> {
    /// A [`Bundle`], borrowed.
    #[derive(Deserialize)]
    struct Lent<'a> {
        #[serde(borrow)]
        _chain: LentChain<'a>,
        #[serde(borrow, with = "serde_bytes")]
        record: &'a [u8],
    }
    #[derive(Deserialize)]
    struct LentChain<'a> {
        #[serde(borrow, with = "serde_bytes")]
        _leaf: &'a [u8],
        #[serde(borrow, with = "serde_bytes")]
        _issuer: &'a [u8],
    }
    let (_, body) = frame.split_first().filter(|(kind, _)| **kind == RECORD)?;
    codec::borrow::<{ limits::FRAME_BYTES }, Lent<'_>>(body).ok().map(|lent| lent.record)
}

fn write<T: Serialize>(kind: u8, body: &T) -> Result<Vec<u8>, CodecError> {
    let body = codec::encode::<{ limits::FRAME_BYTES }, _>(body)?;
    let mut bytes = Vec::with_capacity(body.len().saturating_add(1));
    bytes.push(kind);
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

fn read<T: Serialize + DeserializeOwned>(body: &[u8]) -> Result<T, CodecError> {
    codec::decode::<{ limits::FRAME_BYTES }, T>(body)
}

/// A body of fixed length, numbers and hashes only: it has one form, and need not be written again
/// to see that.
fn fixed<T: DeserializeOwned>(body: &[u8]) -> Result<T, CodecError> {
    codec::borrow::<{ limits::FRAME_BYTES }, T>(body)
}

fn bounded_heads(range: HeadRange) -> Result<HeadRange, CodecError> {
    let count = range.heads.len();
    if count > limits::HEADS_PER_FRAME {
        return Err(CodecError::Oversize { bytes: count, limit: limits::HEADS_PER_FRAME });
    }
    let sorted = range.heads.iter().zip(range.heads.iter().skip(1)).all(|(a, b)| a.0 < b.0);
    let within = range.heads.iter().all(|(key, _)| *key >= range.from && *key <= range.to);
    if sorted && within { Ok(range) } else { Err(CodecError::NotCanonical) }
}

fn bounded_policies(range: PolicyRange) -> Result<PolicyRange, CodecError> {
    let count = range.versions.len();
    if count > limits::POLICIES_PER_FRAME {
        return Err(CodecError::Oversize { bytes: count, limit: limits::POLICIES_PER_FRAME });
    }
    let within = range.versions.iter().all(|one| *one >= range.from && *one <= range.to);
    let sorted = range.versions.is_sorted_by(|a, b| a < b);
    if sorted && within { Ok(range) } else { Err(CodecError::NotCanonical) }
}

fn whole_parts(parts: Parts) -> Result<Parts, CodecError> {
    if parts.marks.len() == heads::PARTS { Ok(parts) } else { Err(CodecError::NotCanonical) }
}

fn bounded_run(run: RevocationRun) -> Result<RevocationRun, CodecError> {
    let (bytes, limit) = (run.statements.len(), limits::HELLO_REVOCATIONS);
    if bytes > limit { Err(CodecError::Oversize { bytes, limit }) } else { Ok(run) }
}

fn bounded_pull(origins: Vec<NodeKey>) -> Result<Vec<NodeKey>, CodecError> {
    if origins.len() > limits::PULLS_PER_FRAME {
        return Err(CodecError::Oversize { bytes: origins.len(), limit: limits::PULLS_PER_FRAME });
    }
    Ok(origins)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::trust::Chain;

    fn stand() -> Stand {
        Stand {
            records: Hash([1; 32]),
            revocations: Hash([2; 32]),
            policy: Hash([3; 32]),
            probation: false,
        }
    }

    #[test]
    fn the_golden_bytes_of_a_probe_and_a_stand_stay_what_they_are() {
        let bytes = Frame::Stand(stand()).encode().unwrap();
        let golden = [vec![11], vec![1; 32], vec![2; 32], vec![3; 32], vec![0]];
        assert_eq!(bytes, golden.concat());
        let bytes = Frame::Probe(stand().brief(7)).encode().unwrap();
        // The first eight bytes of the hash as a number, little-endian.
        let golden = [2, 7, 0, 0, 0, 0xd1, 0x2b, 0xef, 0x0a, 0x9c, 0xc3, 0x0d, 0xfe];
        assert_eq!(bytes, golden);
    }

    #[test]
    fn a_brief_tells_any_root_from_any_other_and_one_id_from_another() {
        let other = |change: fn(&mut Stand)| {
            let mut stand = stand();
            change(&mut stand);
            stand.brief(7).mark
        };
        let marks = [
            stand().brief(7).mark,
            stand().brief(8).mark,
            other(|stand| stand.records = Hash([9; 32])),
            other(|stand| stand.revocations = Hash([9; 32])),
            other(|stand| stand.policy = Hash([9; 32])),
            other(|stand| stand.probation = true),
        ];
        let distinct: std::collections::BTreeSet<u64> = marks.into_iter().collect();
        assert_eq!(distinct.len(), marks.len());
    }

    #[test]
    fn marks_are_of_every_part_and_of_one_id() {
        let mut parts = [Hash([4; 32]); heads::PARTS];
        let one = Parts::new(7, &parts);
        assert_eq!(one.marks.len(), heads::PARTS);
        assert_ne!(one.marks, Parts::new(8, &parts).marks);
        parts[9] = Hash([5; 32]);
        let other = Parts::new(7, &parts);
        let differ = one.marks.iter().zip(&other.marks).filter(|(a, b)| a != b).count();
        assert_eq!(differ, 1);
        let bytes = Frame::Parts(one).encode().unwrap();
        assert_eq!(bytes.len(), 1 + 4 + 8 + 8 * heads::PARTS);
        let few = Frame::Parts(Parts { id: 7, marks: vec![1] }).encode().unwrap();
        assert_eq!(Frame::decode(&few), Err(CodecError::NotCanonical));
    }

    #[test]
    fn the_record_in_a_frame_is_found_where_it_stands() {
        let chain = Chain { leaf: vec![1; 5], issuer: vec![2; 7] };
        let bundle = Bundle { chain, record: vec![3, 4, 5] };
        let bytes = Frame::Record(Box::new(bundle)).encode().unwrap();
        assert_eq!(record_in(&bytes), Some(&[3, 4, 5][..]));
        assert_eq!(record_in(bytes.get(..bytes.len() - 1).unwrap()), None);
        assert_eq!(record_in(&Frame::Stand(stand()).encode().unwrap()), None);
    }

    #[test]
    fn a_kind_of_a_newer_agent_is_skipped() {
        assert_eq!(Frame::decode(&[200, 1, 2, 3]).unwrap(), Frame::Unknown(200));
    }

    #[test]
    fn heads_out_of_order_or_out_of_range_are_refused() {
        let head = Head { sequence: 1, hash: Hash([0; 32]) };
        let key = |byte| NodeKey([byte; 32]);
        let mut range =
            HeadRange { from: key(1), to: key(9), heads: vec![(key(3), head), (key(2), head)] };
        let bytes = Frame::Heads(range.clone()).encode().unwrap();
        assert_eq!(Frame::decode(&bytes), Err(CodecError::NotCanonical));
        range.heads = vec![(key(10), head)];
        let bytes = Frame::Heads(range).encode().unwrap();
        assert_eq!(Frame::decode(&bytes), Err(CodecError::NotCanonical));
    }

    proptest! {
        #[test]
        fn decoding_never_panics_and_is_the_inverse_of_encoding(
            kind in 0u8..16, body in proptest::collection::vec(any::<u8>(), 0..300)
        ) {
            let bytes = [vec![kind], body].concat();
            match Frame::decode(&bytes) {
                Ok(Frame::Unknown(_)) | Err(_) => {}
                Ok(frame) => prop_assert_eq!(frame.encode().unwrap(), bytes),
            }
        }
    }
}
