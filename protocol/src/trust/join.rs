//! Joining and renewing: the messages by which a host gets its certificates.
//!
//! Each travels whole, in one frame of its length (four bytes, little endian) and its bytes, on
//! a stream of its own behind the kind byte.
//!
//! ```text
//! skein-join/1    JoinRequest   -> Reply
//! skein-renew/1   RenewRequest  -> Reply
//! ```

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::{
    certificate::{ChainError, Roots, VerifiedIssuer, verify_issuer},
    crypto::{Crypto, PublicKey, Signature, Signer},
    root::RootChain,
    signed,
    token::TokenProof,
};
use crate::{
    limits,
    name::{Hash, NodeKey, NodeName},
    wire::codec::{self, CodecError},
};

const REQUEST: &str = "skein/join-request/v1";
const ANSWER: &str = "skein/join-answer/v1";

/// The label and length of the TLS exporter (RFC 8446 7.5) that binds a request to its
/// connection.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-skein-join-1";
/// Bytes of it.
pub type Exporter = [u8; 32];
/// What the asker picks at random, so that an answer is known to be to it.
pub type Nonce = [u8; 32];

/// A host asks to be let in.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct JoinRequest {
    /// Its key, which is the key of its side of the connection too.
    pub node: NodeKey,
    /// The key of an issuer on it, where the token's scope asks for one.
    pub issuer: Option<PublicKey>,
    /// The name that it wants.
    pub name: NodeName,
    /// What lets it in.
    pub token: TokenProof,
    /// Comes back in the answer.
    pub nonce: Nonce,
    /// By the token's seed, over all above but the token, and the exporter.
    pub signature: Signature,
}

impl JoinRequest {
    /// Signs it with the key of the token's seed.
    pub fn sign(
        node: NodeKey,
        issuer: Option<PublicKey>,
        name: NodeName,
        token: TokenProof,
        nonce: Nonce,
        exporter: &Exporter,
        seed: &dyn Signer,
    ) -> Result<Self, CodecError> {
        let statement = (node, issuer, &name, nonce, exporter);
        let signature = signed::sign::<JOIN, _>(REQUEST, &statement, seed)?;
        Ok(Self { node, issuer, name, token, nonce, signature })
    }

    /// Whether it was signed with the token's seed, on the connection of that exporter.
    pub fn holds(&self, exporter: &Exporter, crypto: &dyn Crypto) -> bool {
        let statement = (self.node, self.issuer, &self.name, self.nonce, exporter);
        let seed = &self.token.body.seed_key;
        signed::holds::<JOIN, _>(REQUEST, &statement, seed, &self.signature, crypto)
    }
}

/// A node asks for its certificate anew, unchanged. Its side of the connection proves its key
/// and shows the old chain.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RenewRequest {
    /// Comes back in the answer.
    pub nonce: Nonce,
}

/// The head of a policy document as the answering host has it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub struct PolicyHead {
    /// The hash of the document's kind and name.
    pub document: Hash,
    /// The version's generation.
    pub generation: u64,
    /// The hash of the version.
    pub version: Hash,
}

/// Where another agent is dialled.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PeerAddress {
    /// Whom to expect there.
    pub node: NodeKey,
    /// Where.
    pub address: SocketAddr,
}

/// What a host that is let in gets, and a node that renews.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Admission {
    /// Whom it is for.
    pub node: NodeKey,
    /// The asker's.
    pub nonce: Nonce,
    /// Its certificate, as DER.
    pub leaf: Vec<u8>,
    /// The certificate of the issuer that signed it, as DER.
    pub issuer: Vec<u8>,
    /// The certificate of the issuer on the asking host, where it asked for one and got it.
    pub own_issuer: Option<Vec<u8>>,
    /// From the first root to the newest.
    pub roots: RootChain,
    /// What policy is in force there: a node without an anchored disk waits until it has these.
    /// None where there are more than [`limits::JOIN_POLICY_HEADS`]: it waits for its peers then.
    pub policy: Option<Vec<PolicyHead>>,
    /// Whom to dial.
    pub peers: Vec<PeerAddress>,
}

/// Why an admission that came is not taken.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AdmissionError {
    /// Not the root that the token pins.
    #[error("the mesh that answered is not the token's: check the address")]
    OtherMesh,
    /// For another node, or to another request.
    #[error("the answer is to another request")]
    OtherRequest,
    /// Its signature.
    #[error("the answer's signature does not hold")]
    BadSignature,
    /// A certificate in it.
    #[error("a certificate of the answer: {0}")]
    Certificate(#[from] ChainError),
    /// More of something than its bound.
    #[error("the answer has too many {0}")]
    TooMany(&'static str),
}

/// An admission whose issuer signed it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SignedAdmission {
    /// What was signed.
    pub admission: Admission,
    /// By the issuer in it.
    pub signature: Signature,
}

impl Admission {
    /// Signs it with the key of its issuer.
    pub fn sign(self, issuer: &dyn Signer) -> Result<SignedAdmission, CodecError> {
        let signature = signed::sign::<JOIN, _>(ANSWER, &self, issuer)?;
        Ok(SignedAdmission { admission: self, signature })
    }
}

impl SignedAdmission {
    /// Verifies all but the leaf itself (which `verify_chain` does with the roots that come
    /// back): roots, issuer, signature, whom it is for. `trusted` says whether the roots are of
    /// the mesh that is meant.
    pub fn verify(
        &self,
        node: &NodeKey,
        nonce: &Nonce,
        trusted: impl Fn(&Roots) -> bool,
        crypto: &dyn Crypto,
    ) -> Result<(Roots, VerifiedIssuer), AdmissionError> {
        let admission = &self.admission;
        if admission.peers.len() > limits::JOIN_PEERS {
            return Err(AdmissionError::TooMany("peers"));
        }
        let heads = admission.policy.as_ref().map_or(0, Vec::len);
        if heads > limits::JOIN_POLICY_HEADS {
            return Err(AdmissionError::TooMany("policy heads"));
        }
        let roots = admission.roots.verify(crypto)?;
        if !trusted(&roots) {
            return Err(AdmissionError::OtherMesh);
        }
        let issuer = verify_issuer(&admission.issuer, &roots, crypto)?;
        if !signed::holds::<JOIN, _>(ANSWER, admission, &issuer.key, &self.signature, crypto) {
            return Err(AdmissionError::BadSignature);
        }
        if admission.node != *node || admission.nonce != *nonce {
            return Err(AdmissionError::OtherRequest);
        }
        Ok((roots, issuer))
    }
}

/// Why a host is not let in. The numbers are for scripts and never change.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum RefusalCode {
    /// The token or its signature is wrong.
    WrongToken,
    /// The token is of another mesh.
    OtherMesh,
    /// The token's end has come.
    Expired,
    /// The token was used as often as it may be.
    UsedUp,
    /// The token was revoked.
    TokenRevoked,
    /// Another live key has the name.
    NameTaken,
    /// Another key has the same short id.
    ShortIdTaken,
    /// The clocks are too far apart.
    Clock,
    /// The key or the issuer was revoked.
    Revoked,
    /// The answering host holds no issuer and reaches none.
    NoIssuer,
    /// The request does not read, or its grant is out of bounds.
    Malformed,
    /// The answering host has a trouble of its own.
    Trouble,
    /// The token does not give that name.
    NameNotGiven,
}

impl RefusalCode {
    /// Its number.
    pub fn number(self) -> u16 {
        match self {
            Self::WrongToken => 1,
            Self::OtherMesh => 2,
            Self::Expired => 3,
            Self::UsedUp => 4,
            Self::TokenRevoked => 5,
            Self::NameTaken => 6,
            Self::ShortIdTaken => 7,
            Self::Clock => 8,
            Self::Revoked => 9,
            Self::NoIssuer => 10,
            Self::Malformed => 11,
            Self::Trouble => 12,
            Self::NameNotGiven => 13,
        }
    }
}

/// A refusal, in words for the person who joins.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("{text} (refusal {})", .code.number())]
pub struct Refusal {
    /// Its kind.
    pub code: RefusalCode,
    /// What is wrong and what to do, at most [`limits::REFUSAL_BYTES`].
    pub text: String,
}

impl Refusal {
    /// A refusal with its text cut to its bound.
    pub fn new(code: RefusalCode, text: impl Into<String>) -> Self {
        let mut text = text.into();
        while text.len() > limits::REFUSAL_BYTES {
            text.pop();
        }
        Self { code, text }
    }

    /// The text without control characters, for a terminal.
    pub fn shown(&self) -> String {
        self.text.chars().filter(|c| !c.is_control()).take(limits::REFUSAL_BYTES).collect()
    }
}

/// What comes back.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Reply {
    /// Let in.
    Admitted(Box<SignedAdmission>),
    /// Not.
    Refused(Refusal),
}

/// A message of this file, in one frame of at most [`limits::JOIN_BYTES`].
pub trait Message: Serialize + serde::de::DeserializeOwned {
    /// Its bytes.
    fn encode(&self) -> Result<Vec<u8>, CodecError> {
        codec::encode::<JOIN, _>(self)
    }

    /// The message of these bytes.
    fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        codec::decode::<JOIN, _>(bytes)
    }
}

impl Message for JoinRequest {}
impl Message for RenewRequest {}
impl Message for Reply {}

const JOIN: usize = limits::JOIN_BYTES;
