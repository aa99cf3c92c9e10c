//! Certificates: the chain root, issuer, node, and the pure function that verifies it.

use std::{collections::BTreeMap, time::Duration};

use data_encoding::{Encoding, Specification};
use rustls_pki_types::{
    AlgorithmIdentifier, CertificateDer, InvalidSignature, SignatureVerificationAlgorithm,
    UnixTime, alg_id,
};
use serde::{Deserialize, Serialize};
use webpki::{EndEntityCert, Error, ExtendedKeyUsageValidator, KeyPurposeIdIter};

use super::{
    crypto::{Crypto, PublicKey, Signature},
    grant::{GRANT_OID, Grant, GrantError},
    x509::{Parsed, key_info},
};
use crate::{
    clock::Wall,
    limits,
    name::{Hash, MeshId, NodeKey},
    words,
};

/// A certificate chain as it stands in a handshake and in a bundle: leaf first, then issuer, as
/// DER. The root is not part of it (but follows in `skein-join/1` handshakes).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Chain {
    /// The node's certificate.
    #[serde(with = "serde_bytes")]
    pub leaf: Vec<u8>,
    /// The certificate of the issuer that signed it.
    #[serde(with = "serde_bytes")]
    pub issuer: Vec<u8>,
}

impl Chain {
    /// The chain of a handshake: exactly two certificates, leaf first.
    pub fn from_certificates(certificates: &[&[u8]]) -> Result<Self, ChainError> {
        match certificates {
            [leaf, issuer] => Ok(Self { leaf: leaf.to_vec(), issuer: issuer.to_vec() }),
            _ => Err(ChainError::Depth(certificates.len())),
        }
    }
}

/// The trusted roots, by public key, as DER.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Roots {
    /// The mesh: the hash of the first root's public key info.
    pub mesh: MeshId,
    /// Every root that is trusted now.
    pub roots: BTreeMap<PublicKey, Vec<u8>>,
    /// Their keys from the first root to the newest: a later root may revoke an earlier one.
    pub order: Vec<PublicKey>,
}

/// How fresh a chain is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum ChainClass {
    /// Valid now (5 minutes of clock skew forgiven).
    Live,
    /// Ended at most 90 days ago: may renew, and nothing else.
    Expired,
}

/// A chain that was verified: what it proves.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifiedChain {
    /// The node's key.
    pub key: NodeKey,
    /// What it may do.
    pub grant: Grant,
    /// The key of the issuer that signed it.
    pub issuer: PublicKey,
    /// The node whose host holds that issuer.
    pub issuer_host: NodeKey,
    /// The root that certified the issuer.
    pub root: PublicKey,
    /// From when the leaf holds.
    pub not_before: Wall,
    /// Until when the leaf holds.
    pub not_after: Wall,
    /// Live or expired at the moment of verification.
    pub class: ChainClass,
    /// SHA-256 of the leaf.
    pub leaf_hash: Hash,
}

impl VerifiedChain {
    /// The same chain at another time. What else was checked of it does not change.
    pub fn at(&self, now: Wall) -> Result<Self, ChainError> {
        let class = class_at(self.not_before, self.not_after, now)?;
        Ok(Self { class, ..self.clone() })
    }
}

/// An issuer whose certificate was verified.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifiedIssuer {
    /// Its key.
    pub key: PublicKey,
    /// The node whose host holds it.
    pub host: NodeKey,
    /// The root that certified it.
    pub root: PublicKey,
    /// From when it may issue.
    pub not_before: Wall,
    /// Until when it may issue. What it issued ends by then too.
    pub not_after: Wall,
}

/// Why a chain proves nothing. Each is counted on its own, by [`ChainError::word`].
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ChainError {
    /// Not a certificate, or not one of ours.
    #[error("malformed certificate: {0}")]
    Malformed(String),
    /// Not leaf and issuer.
    #[error("a chain of {0} certificates: it must be leaf and issuer")]
    Depth(usize),
    /// No trusted root stands behind it.
    #[error("certified by another mesh or by an unknown root: did the host join this mesh?")]
    UnknownRoot,
    /// A signature in it does not hold.
    #[error("a signature in the chain does not hold")]
    BadSignature,
    /// Its leaf's validity lies ahead by more than the clock skew.
    #[error("not valid before {} from now: check the clocks of both hosts", words::span(*.by))]
    NotYetValid {
        /// By how much.
        by: Duration,
    },
    /// Ended too long ago even to renew.
    #[error("expired {} ago; admit the node again", words::span(*.by))]
    Expired {
        /// How long ago.
        by: Duration,
    },
    /// Made for something else.
    #[error("wrong use: {0}")]
    WrongUse(&'static str),
    /// Made for one side of a connection only.
    #[error("for one side of a connection only: {0}")]
    OneSided(&'static str),
    /// Its names are not the one URI of its key.
    #[error("its names are not the one SPIFFE id of its key")]
    Names,
    /// An extension stands in it more than once.
    #[error("extension {0} stands there twice")]
    Twice(String),
    /// Its grant.
    #[error(transparent)]
    Grant(#[from] GrantError),
    /// Outside of the validity of the issuer that signed it.
    #[error("it outlives its issuer")]
    OutlivesIssuer,
}

impl ChainError {
    /// The label by which it is counted.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::Depth(_) => "depth",
            Self::UnknownRoot => "unknown_root",
            Self::BadSignature => "bad_signature",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::Expired { .. } => "too_old",
            Self::WrongUse(_) => "wrong_use",
            Self::OneSided(_) => "one_sided",
            Self::Names => "names",
            Self::Twice(_) => "twice",
            Self::Grant(_) => "grant",
            Self::OutlivesIssuer => "outlives_issuer",
        }
    }
}

impl Roots {
    /// The mesh of one root, its first.
    pub fn first(root: &[u8], crypto: &dyn Crypto) -> Result<Self, ChainError> {
        let key = verify_root(root, crypto)?;
        Ok(Self {
            mesh: MeshId(Hash::of(&[&key_info(&key)])),
            roots: BTreeMap::from([(key, root.to_vec())]),
            order: vec![key],
        })
    }

    /// The root that signed a certificate.
    pub(crate) fn behind(
        &self,
        certificate: &Parsed<'_>,
        crypto: &dyn Crypto,
    ) -> Result<PublicKey, ChainError> {
        let mut error = ChainError::UnknownRoot;
        for (key, der) in &self.roots {
            let root = Parsed::new(der)?;
            if certificate.signed_by(&root, crypto) {
                return Ok(*key);
            }
            if certificate.issuer_is(&root) {
                error = ChainError::BadSignature;
            }
        }
        Err(error)
    }
}

/// Verifies that `root` is a self-signed root certificate, and gives its key. That it is to be
/// trusted is for others to say.
pub fn verify_root(root: &[u8], crypto: &dyn Crypto) -> Result<PublicKey, ChainError> {
    let parsed = Parsed::new(root)?;
    if !parsed.may_sign(true) || parsed.authority() != Some(Some(1)) {
        return Err(ChainError::WrongUse("not a root certificate"));
    }
    if !parsed.signed_by(&parsed, crypto) {
        return Err(ChainError::BadSignature);
    }
    Ok(parsed.key)
}

/// The name of the mesh for people: the common name of a root.
pub fn mesh_name(root: &[u8]) -> Result<String, ChainError> {
    Parsed::new(root)?.common_name().map(str::to_owned)
}

/// What a certificate says of itself, for people. Nothing of it is verified.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Summary {
    /// Whose key it certifies.
    pub key: PublicKey,
    /// Its serial number.
    pub serial: Vec<u8>,
    /// From when it holds.
    pub not_before: Wall,
    /// Until when it holds.
    pub not_after: Wall,
}

/// Reads what a certificate says of itself.
pub fn summary(der: &[u8]) -> Result<Summary, ChainError> {
    let parsed = Parsed::new(der)?;
    Ok(Summary {
        key: parsed.key,
        serial: parsed.serial().to_vec(),
        not_before: parsed.not_before,
        not_after: parsed.not_after,
    })
}

/// Verifies an issuer's certificate. An ended one verifies too: the caller looks at its dates
/// before it lets it issue. Revocation is the caller's to check.
pub fn verify_issuer(
    issuer: &[u8],
    roots: &Roots,
    crypto: &dyn Crypto,
) -> Result<VerifiedIssuer, ChainError> {
    let parsed = Parsed::new(issuer)?;
    let host = issuer_contents(&parsed, &roots.mesh)?;
    let root = roots.behind(&parsed, crypto)?;
    Ok(VerifiedIssuer {
        key: parsed.key,
        host,
        root,
        not_before: parsed.not_before,
        not_after: parsed.not_after,
    })
}

/// Verifies a self-signed certificate that proves nothing but its key, for joining.
pub fn verify_bare(certificate: &[u8], crypto: &dyn Crypto) -> Result<NodeKey, ChainError> {
    let parsed = Parsed::new(certificate)?;
    if parsed.signed_by(&parsed, crypto) {
        Ok(NodeKey(parsed.key))
    } else {
        Err(ChainError::BadSignature)
    }
}

/// Verifies a chain against the trusted roots at `now`. Revocation is the caller's to check.
///
/// The path is checked at the moment within the leaf's validity that is nearest to `now`, and
/// the distance is judged after: so an expired leaf is told from a forged one.
pub fn verify_chain(
    chain: &Chain,
    roots: &Roots,
    now: Wall,
    crypto: &dyn Crypto,
) -> Result<VerifiedChain, ChainError> {
    let leaf = Parsed::new(&chain.leaf)?;
    let issuer = Parsed::new(&chain.issuer)?;
    let issuer_host = issuer_contents(&issuer, &roots.mesh)?;
    let root = roots.behind(&issuer, crypto)?;
    let at = now.clamp(leaf.not_before, leaf.not_after);
    verify_path(chain, roots, at, crypto)?;
    let grant = leaf_contents(&leaf, &roots.mesh)?;
    if !leaf.within(&issuer) {
        return Err(ChainError::OutlivesIssuer);
    }
    Ok(VerifiedChain {
        key: NodeKey(leaf.key),
        grant,
        issuer: issuer.key,
        issuer_host,
        root,
        not_before: leaf.not_before,
        not_after: leaf.not_after,
        class: class_at(leaf.not_before, leaf.not_after, now)?,
        leaf_hash: leaf.hash(),
    })
}

/// Judges the distance of `now` to a validity.
pub fn class_at(not_before: Wall, not_after: Wall, now: Wall) -> Result<ChainClass, ChainError> {
    let (early, late) = (not_before.since(now), now.since(not_after));
    if early > limits::CLOCK_SKEW {
        Err(ChainError::NotYetValid { by: early })
    } else if late > limits::EXPIRED_RENEWS {
        Err(ChainError::Expired { by: late })
    } else if late > limits::CLOCK_SKEW {
        Ok(ChainClass::Expired)
    } else {
        Ok(ChainClass::Live)
    }
}

/// 32 bytes in the alphabet of SPIFFE ids, 52 characters.
pub(crate) fn base32(bytes: &[u8; 32]) -> String {
    alphabet().map_or_else(String::new, |alphabet| alphabet.encode(bytes))
}

fn alphabet() -> Option<Encoding> {
    let mut specification = Specification::new();
    specification.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    specification.encoding().ok()
}

/// What must stand in an issuer's certificate; gives its host.
fn issuer_contents(issuer: &Parsed<'_>, mesh: &MeshId) -> Result<NodeKey, ChainError> {
    if !issuer.may_sign(true) || issuer.authority() != Some(Some(0)) {
        return Err(ChainError::WrongUse("not an issuer's certificate"));
    }
    let uri = issuer.uri()?;
    let head = format!("spiffe://{}/issuer/", mesh.trust_domain());
    let text = uri.strip_prefix(&head).ok_or(ChainError::UnknownRoot)?;
    alphabet()
        .and_then(|alphabet| alphabet.decode(text.as_bytes()).ok())
        .and_then(|bytes| bytes.try_into().ok())
        .map(NodeKey)
        .ok_or(ChainError::Names)
}

/// What must stand in a node's certificate; gives its grant.
fn leaf_contents(leaf: &Parsed<'_>, mesh: &MeshId) -> Result<Grant, ChainError> {
    let uses = leaf.uses();
    if leaf.authority().is_some() || uses.other || !leaf.may_sign(false) {
        return Err(ChainError::WrongUse("not a node's certificate"));
    }
    match (uses.server, uses.client) {
        (true, true) => {}
        (true, false) => return Err(ChainError::OneSided("it must be for clients too")),
        (false, true) => return Err(ChainError::OneSided("it must be for servers too")),
        (false, false) => return Err(ChainError::WrongUse("neither for servers nor for clients")),
    }
    if leaf.uri()? != mesh.node_uri(&NodeKey(leaf.key)) {
        return Err(ChainError::Names);
    }
    let grant = leaf.private(&GRANT_OID).ok_or(GrantError::Malformed("there is none"))?;
    Ok(Grant::decode(grant)?)
}

fn verify_path(
    chain: &Chain,
    roots: &Roots,
    at: Wall,
    crypto: &dyn Crypto,
) -> Result<(), ChainError> {
    let ders: Vec<_> =
        roots.roots.values().map(|der| CertificateDer::from(der.as_slice())).collect();
    let anchors = ders.iter().map(webpki::anchor_from_trusted_cert);
    let anchors = anchors.collect::<Result<Vec<_>, _>>().map_err(path_error)?;
    let leaf = CertificateDer::from(chain.leaf.as_slice());
    let issuer = [CertificateDer::from(chain.issuer.as_slice())];
    let leaf = EndEntityCert::try_from(&leaf).map_err(path_error)?;
    let path = leaf
        .verify_for_usage(
            &[&Ed25519(crypto)],
            &anchors,
            &issuer,
            UnixTime::since_unix_epoch(Duration::from_secs(at.seconds())),
            AnyUse,
            None,
            None,
        )
        .map_err(path_error)?;
    match path.intermediate_certificates().count() {
        1 => Ok(()),
        between => Err(ChainError::Depth(between.saturating_add(1))),
    }
}

fn path_error(error: Error) -> ChainError {
    match error {
        Error::UnknownIssuer => ChainError::UnknownRoot,
        Error::InvalidSignatureForPublicKey => ChainError::BadSignature,
        Error::CaUsedAsEndEntity => ChainError::WrongUse("a CA's certificate is no node's"),
        Error::EndEntityUsedAsCa | Error::PathLenConstraintViolated => {
            ChainError::WrongUse("not an issuer's certificate")
        }
        Error::CertExpired { .. } | Error::CertNotValidYet { .. } => ChainError::OutlivesIssuer,
        other => ChainError::Malformed(other.to_string()),
    }
}

/// The extended uses are checked with the contents, not by the path.
struct AnyUse;

impl ExtendedKeyUsageValidator for AnyUse {
    fn validate(&self, _: KeyPurposeIdIter<'_, '_>) -> Result<(), Error> {
        Ok(())
    }
}

/// Our [`Crypto`] as webpki wants it.
#[derive(Debug)]
struct Ed25519<'a>(&'a dyn Crypto);

impl SignatureVerificationAlgorithm for Ed25519<'_> {
    fn verify_signature(
        &self,
        public_key: &[u8],
        message: &[u8],
        signature: &[u8],
    ) -> Result<(), InvalidSignature> {
        let key = PublicKey::try_from(public_key).map_err(|_| InvalidSignature)?;
        let signature = signature.try_into().map(Signature).map_err(|_| InvalidSignature)?;
        if self.0.verify(&key, message, &signature) { Ok(()) } else { Err(InvalidSignature) }
    }

    fn public_key_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ED25519
    }

    fn signature_alg_id(&self) -> AlgorithmIdentifier {
        alg_id::ED25519
    }
}
