//! Asking: a question to one peer and its answer, on a stream of their own.
//!
//! ```text
//! asker: kind u8 | length u16 LE | question        asked: length u32 LE | answer
//! ```
//!
//! For what is asked now and then and is not worth gossiping: whether a peer holds the same policy,
//! how new a record it has, and who calls what there. Any member may ask; an answer decides nothing.

use serde::{Deserialize, Serialize};

use super::{
    codec::{self, CodecError},
    frame::Stand,
    kind::StreamKind,
};
use crate::{
    clock::Wall,
    limits,
    name::{NodeKey, NodeName, ServiceName},
};

/// A question.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Ask {
    /// Where do you stand?
    Stand,
    /// Who called what at your host?
    Edges,
    /// Which record of that node do you go by?
    Record(NodeKey),
    /// For how long are all calls at your host known?
    CallsKnown,
    /// May a host join by a token that your issuer made? It takes a use. Only of issuing hosts.
    TokenUse(TokenUseAsk),
}

/// A use of a join token.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TokenUseAsk {
    /// The token.
    pub id: [u8; 16],
    /// How often it may be used.
    pub at_most: u32,
    /// Until when it is good.
    pub until: Wall,
}

/// An answer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// The hashes over what is held.
    Stand(Stand),
    /// Calls at this host, at most [`limits::EDGES_MAX`].
    Edges(Vec<Edge>),
    /// The record's sequence; 0 for none.
    Record(u64),
    /// For so many seconds; `None`: for as long as the host is in the mesh.
    CallsKnown(Option<u32>),
    /// It was used so often before; or why it may not be used, by the number of a refusal.
    TokenUse(Result<u32, u16>),
}

/// Somebody called something at the answering host.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct Edge {
    /// The service that the caller was proven to be.
    pub source: Option<ServiceName>,
    /// The calling node.
    pub node: NodeName,
    /// Whether it came in by a gateway.
    pub outside: bool,
    /// The service called.
    pub destination: ServiceName,
    /// Its port.
    pub port: u16,
    /// Seconds since the last call; 0 while one is open.
    pub age_s: u32,
    /// Calls that were carried.
    pub calls: u64,
    /// Calls that were refused by policy.
    pub denied: u64,
}

impl Ask {
    /// The bytes with which the stream begins, the kind byte first.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        let body = codec::encode::<{ limits::ASK_BYTES }, _>(self)?;
        let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
        Ok([&[StreamKind::Ask.byte()][..], &length.to_le_bytes(), &body].concat())
    }

    /// The question of these bytes, which follow the length.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode::<{ limits::ASK_BYTES }, _>(bytes)
    }
}

impl Answer {
    /// Length and body.
    pub fn encode(&self) -> Result<Vec<u8>, CodecError> {
        let body = codec::encode::<{ limits::ANSWER_BYTES }, _>(self)?;
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
        Ok([&length.to_le_bytes()[..], &body].concat())
    }

    /// The answer of these bytes, which follow the length.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode::<{ limits::ANSWER_BYTES }, _>(bytes)
    }
}
