//! What a peer's certificates prove, as rustls asks for it.
//!
//! rustls' verifiers cannot see the protocol, so they only classify: live, expired or bare.
//! Who may speak what is decided after, by `admit`, before any frame is read. What does not
//! even classify fails the handshake. Each reason is counted on its own.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use skein_protocol::{
    clock::Wall,
    name::{Hash, MeshId, NodeKey},
    trust::{
        Chain, ChainError, Roots, VerifiedChain,
        admit::{CloseCode, PeerClass},
        certificate::{verify_bare, verify_root},
        verify_chain,
    },
};

use super::{credentials::Credentials, pair::Ed25519};

/// Who a peer is, by its certificates.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Its key.
    pub key: NodeKey,
    /// How far its certificates reach.
    pub class: PeerClass,
    /// What its chain proves, and the chain; a bare peer has none.
    pub chain: Option<(VerifiedChain, Chain)>,
}

/// Why certificates were refused in the handshake.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Reject {
    /// They do not verify.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The peer does not hold the key that its certificate is for.
    #[error("the peer does not hold the key of its certificate")]
    WrongKey,
    /// Another node than the one dialled.
    #[error("another node answered at this address: {} instead of {}", .found.short(), .expected.short())]
    WrongPeer {
        /// Who answered.
        found: NodeKey,
        /// Who was dialled.
        expected: NodeKey,
    },
    /// A peer without a live certificate answered.
    #[error("the agent that answered has no valid certificate: {0}")]
    NotLive(&'static str),
    /// Another mesh than the token's.
    #[error("the agent that answered is of another mesh than the token")]
    OtherRoot,
    /// This agent has no mesh to verify against.
    #[error("this agent is in no mesh yet: run `skein join`")]
    NoMesh,
}

impl Reject {
    /// The label by which it is counted.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Chain(error) => error.word(),
            Self::WrongKey => "wrong_key",
            Self::WrongPeer { .. } => "wrong_peer",
            Self::NotLive(word) => word,
            Self::OtherRoot => "other_root",
            Self::NoMesh => "no_mesh",
        }
    }
}

/// Whom a dial expects.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Expect {
    /// This node.
    Node(NodeKey),
    /// Any live node of this mesh: a seed known by its address only.
    Member,
    /// A live node of the mesh that a join token names.
    Token {
        /// The hash of the root's public key info.
        root: Hash,
        /// The mesh.
        mesh: MeshId,
    },
}

/// Classifies the certificates that a peer shows, against what this agent trusts.
pub fn classify(
    certificates: &[CertificateDer<'_>],
    roots: Option<&Roots>,
    now: Wall,
) -> Result<Identity, Reject> {
    if let [bare] = certificates {
        let key = verify_bare(bare, &Ed25519)?;
        return Ok(Identity { key, class: PeerClass::Bare, chain: None });
    }
    let ders: Vec<&[u8]> = certificates.iter().map(AsRef::as_ref).collect();
    let chain = Chain::from_certificates(&ders)?;
    let verified = verify_chain(&chain, roots.ok_or(Reject::NoMesh)?, now, &Ed25519)?;
    let (key, class) = (verified.key, verified.class.into());
    Ok(Identity { key, class, chain: Some((verified, chain)) })
}

/// Checks what a server shows against whom the dial expects.
pub fn classify_server(
    certificates: &[CertificateDer<'_>],
    expect: &Expect,
    roots: Option<&Roots>,
    now: Wall,
) -> Result<Identity, Reject> {
    let identity = match expect {
        Expect::Node(_) | Expect::Member => classify(certificates, roots, now)?,
        Expect::Token { root, mesh } => joining(certificates, root, *mesh, now)?,
    };
    if identity.class != PeerClass::Live {
        let word = if identity.class == PeerClass::Bare { "not_admitted" } else { "expired" };
        return Err(Reject::NotLive(word));
    }
    match expect {
        Expect::Node(key) if *key != identity.key => {
            Err(Reject::WrongPeer { found: identity.key, expected: *key })
        }
        Expect::Node(_) | Expect::Member | Expect::Token { .. } => Ok(identity),
    }
}

/// A joiner has no root yet: the chain ends with it, and the token holds its hash.
fn joining(
    certificates: &[CertificateDer<'_>],
    hash: &Hash,
    mesh: MeshId,
    now: Wall,
) -> Result<Identity, Reject> {
    let [chain @ .., root] = certificates else {
        return Err(ChainError::Depth(0).into());
    };
    let key = verify_root(root, &Ed25519)?;
    if Roots::hash_of(&key) != *hash {
        return Err(Reject::OtherRoot);
    }
    let roots = Roots { mesh, roots: [(key, root.to_vec())].into(), order: vec![key] };
    classify(chain, Some(&roots), now)
}

/// How often each reason to refuse a peer occurred.
#[derive(Debug, Default)]
pub struct Refused([AtomicU64; WORDS.len()]);

/// The closed set of reasons, for the metric's label.
const WORDS: [&str; 26] = [
    "malformed",
    "depth",
    "unknown_root",
    "bad_signature",
    "not_yet_valid",
    "too_old",
    "wrong_use",
    "one_sided",
    "names",
    "twice",
    "grant",
    "outlives_issuer",
    "wrong_key",
    "wrong_peer",
    "other_root",
    "no_mesh",
    "expired",
    "not_admitted",
    "revoked",
    "issuer_revoked",
    "wrong_protocol",
    "full",
    "timeout",
    "handshake",
    "garbage",
    "other",
];

impl Refused {
    /// Counts one. A word outside of the set counts as `other`.
    pub fn count(&self, word: &str) {
        let place = WORDS.iter().position(|known| *known == word);
        let last = self.0.len().saturating_sub(1);
        if let Some(counter) = self.0.get(place.unwrap_or(last)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// How often that word was counted.
    pub fn of(&self, word: &str) -> u64 {
        self.iter().find(|(known, _)| *known == word).map_or(0, |(_, count)| count)
    }

    /// Every word with its count.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        WORDS.iter().zip(&self.0).map(|(word, count)| (*word, count.load(Ordering::Relaxed)))
    }
}

impl From<&Reject> for CloseCode {
    fn from(reject: &Reject) -> Self {
        match reject {
            Reject::WrongPeer { .. } => Self::WrongPeer,
            Reject::Chain(_)
            | Reject::WrongKey
            | Reject::NotLive(_)
            | Reject::OtherRoot
            | Reject::NoMesh => Self::NotAdmitted,
        }
    }
}

/// The moment that rustls gives, as ours.
pub fn wall(now: UnixTime) -> Wall {
    Wall(now.as_secs().saturating_mul(1000))
}

fn refuse(credentials: &Credentials, reject: Reject) -> Error {
    credentials.refused().count(reject.word());
    let error = match &reject {
        Reject::Chain(ChainError::UnknownRoot) => CertificateError::UnknownIssuer,
        Reject::Chain(ChainError::BadSignature) | Reject::WrongKey => {
            CertificateError::BadSignature
        }
        _ => CertificateError::Other(OtherError(Arc::new(reject))),
    };
    Error::InvalidCertificate(error)
}

fn check_signature(
    credentials: &Credentials,
    message: &[u8],
    certificate: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    verify_tls13_signature(message, certificate, signature, credentials.algorithms())
        .map_err(|_| refuse(credentials, Reject::WrongKey))
}

fn no_tls12() -> Result<HandshakeSignatureValid, Error> {
    Err(Error::General("TLS 1.2 is not spoken here".to_owned()))
}

fn chain_of<'a>(
    leaf: &'a CertificateDer<'a>,
    rest: &'a [CertificateDer<'a>],
) -> Vec<CertificateDer<'a>> {
    std::iter::once(leaf).chain(rest).cloned().collect()
}

/// Classifies clients.
#[derive(Debug)]
pub(super) struct Clients(pub(super) Arc<Credentials>);

impl ClientCertVerifier for Clients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let trust = self.0.trust();
        let roots = trust.as_ref().map(|trust| &trust.roots);
        classify(&chain_of(leaf, rest), roots, wall(now))
            .map(|_| ClientCertVerified::assertion())
            .map_err(|reject| refuse(&self.0, reject))
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        check_signature(&self.0, message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// Checks the server of one dial.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) credentials: Arc<Credentials>,
    pub(super) expect: Expect,
    /// Why it was refused, for the error of the dial: TLS only tells an alert.
    pub(super) why: Arc<OnceLock<Reject>>,
}

impl Server {
    fn refuse(&self, reject: Reject) -> Error {
        let _ = self.why.set(reject.clone());
        refuse(&self.credentials, reject)
    }
}

impl ServerCertVerifier for Server {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        rest: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let trust = self.credentials.trust();
        let roots = trust.as_ref().map(|trust| &trust.roots);
        classify_server(&chain_of(leaf, rest), &self.expect, roots, wall(now))
            .map(|_| ServerCertVerified::assertion())
            .map_err(|reject| self.refuse(reject))
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms: &WebPkiSupportedAlgorithms = self.credentials.algorithms();
        verify_tls13_signature(message, certificate, signature, algorithms)
            .map_err(|_| self.refuse(Reject::WrongKey))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}
