//! Issuing: root, issuer, operator and node certificates, made with rcgen.
//!
//! Serial numbers and dates are arguments. Names: every certificate has one common name, and
//! but for the root one URI (see [`issuer_uri`], [`operator_uri`], [`MeshId::node_uri`]).

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose, PKCS_ED25519,
    PublicKeyData, SanType, SerialNumber, SignatureAlgorithm, SigningKey,
};
use time::OffsetDateTime;

use super::{
    certificate::{self, ChainError},
    crypto::{PublicKey, Signer},
    grant::{GRANT_OID, Grant, GrantError},
    operator::{OPERATOR_OID, Scope},
    x509::{Parsed, key_info},
};
use crate::{
    clock::Wall,
    limits,
    name::{Hash, MeshId, NodeKey},
};

/// The last second that X.509 can say (RFC 5280 4.1.2.5): what has this end ends by revocation.
pub const NEVER_ENDS: Wall = Wall(253_402_300_799_000);

/// A random serial number.
pub type Serial = [u8; 16];

/// From when and until when a certificate holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Validity {
    /// From when.
    pub not_before: Wall,
    /// Until when.
    pub not_after: Wall,
}

impl Validity {
    /// From `now`, dated back, for `life`, but not beyond `end`.
    pub fn new(now: Wall, life: std::time::Duration, end: Wall) -> Self {
        Self {
            not_before: now.before(limits::BACK_DATE),
            not_after: now.after(life).min(end),
        }
    }

    /// From `now`, dated back, without end.
    pub fn endless(now: Wall) -> Self {
        Self {
            not_before: now.before(limits::BACK_DATE),
            not_after: NEVER_ENDS,
        }
    }

    /// Not beyond what `outer` holds.
    pub fn within(self, outer: Self) -> Self {
        Self {
            not_before: self.not_before.max(outer.not_before),
            not_after: self.not_after.min(outer.not_after),
        }
    }
}

/// Why a certificate was not made.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum IssueError {
    /// The grant is out of its bounds.
    #[error(transparent)]
    Grant(#[from] GrantError),
    /// The certificate that should stand behind it is not fit for it.
    #[error("the signing certificate: {0}")]
    Signer(#[from] ChainError),
    /// The key is another than the signing certificate's.
    #[error("the signing key is not the one of the signing certificate")]
    OtherKey,
    /// The leaf and its issuer would not fit into a handshake's first flight.
    #[error("leaf and issuer of {0} bytes, at most {limit}: shorten the grant", limit = limits::CHAIN_BYTES)]
    Oversize(usize),
    /// rcgen refused.
    #[error("could not encode the certificate: {0}")]
    Encode(String),
}

/// The URI of an issuer certificate: it names the NodeKey of its host, all of it.
pub fn issuer_uri(mesh: &MeshId, host: &NodeKey) -> String {
    format!(
        "spiffe://{}/issuer/{}",
        mesh.trust_domain(),
        certificate::base32(&host.0)
    )
}

/// The URI of an operator certificate: the hash of its key.
pub fn operator_uri(mesh: &MeshId, key: &PublicKey) -> String {
    format!(
        "spiffe://{}/operator/{}",
        mesh.trust_domain(),
        NodeKey(*key).id()
    )
}

/// A root: self-signed, without end. `name` is the name of the mesh for people.
pub fn root(
    signer: &dyn Signer,
    name: &str,
    now: Wall,
    serial: Serial,
) -> Result<Vec<u8>, IssueError> {
    let key = Key::new(signer);
    let mut params = common(name, Validity::endless(now), serial, &key.public);
    authority(&mut params, 1);
    params.self_signed(&key).map(der).map_err(encode)
}

/// An issuer's certificate, by a root. It names the node whose host holds the key.
pub fn issuer(
    by: &Authority<'_>,
    key: &PublicKey,
    host: &NodeKey,
    validity: Validity,
    serial: Serial,
) -> Result<Vec<u8>, IssueError> {
    let name = format!("issuer at {}", host.short());
    let mut params = common(&name, validity, serial, key);
    authority(&mut params, 0);
    params.subject_alt_names = vec![uri(&issuer_uri(by.mesh, host))?];
    by.sign(&params, key)
}

/// An operator's certificate, by a root: without end, and for the namespaces of `scope`.
pub fn operator(
    by: &Authority<'_>,
    key: &PublicKey,
    name: &str,
    scope: &Scope,
    now: Wall,
    serial: Serial,
) -> Result<Vec<u8>, IssueError> {
    let mut params = common(name, Validity::endless(now), serial, key);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.subject_alt_names = vec![uri(&operator_uri(by.mesh, key))?];
    let value = scope
        .encode()
        .ok_or(GrantError::Malformed("too many namespaces"))?;
    params.custom_extensions = vec![CustomExtension::from_oid_content(&OPERATOR_OID, value)];
    by.sign(&params, key)
}

/// A node's certificate, by an issuer.
pub fn node(
    by: &Authority<'_>,
    key: &NodeKey,
    grant: &Grant,
    validity: Validity,
    serial: Serial,
) -> Result<Vec<u8>, IssueError> {
    let mut params = common(grant.name.as_str(), validity, serial, &key.0);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.subject_alt_names = vec![uri(&by.mesh.node_uri(key))?];
    params.custom_extensions = vec![CustomExtension::from_oid_content(
        &GRANT_OID,
        grant.encode()?,
    )];
    let leaf = by.sign(&params, &key.0)?;
    let bytes = leaf.len().saturating_add(by.certificate.len());
    if bytes > limits::CHAIN_BYTES {
        return Err(IssueError::Oversize(bytes));
    }
    Ok(leaf)
}

/// A bare certificate: self-signed, it only proves that its key is there. For joining.
pub fn bare(signer: &dyn Signer, now: Wall, serial: Serial) -> Result<Vec<u8>, IssueError> {
    let key = Key::new(signer);
    let validity = Validity::new(now, limits::LEAF_LIFE, NEVER_ENDS);
    let mut params = common("joining", validity, serial, &key.public);
    params.use_authority_key_identifier_extension = false;
    params.self_signed(&key).map(der).map_err(encode)
}

/// A certificate that signs others, with its key.
#[derive(Clone, Copy)]
pub struct Authority<'a> {
    mesh: &'a MeshId,
    certificate: &'a [u8],
    signer: &'a dyn Signer,
}

impl<'a> Authority<'a> {
    /// A root's or an issuer's certificate and its key.
    pub fn new(
        mesh: &'a MeshId,
        certificate: &'a [u8],
        signer: &'a dyn Signer,
    ) -> Result<Self, IssueError> {
        let parsed = Parsed::new(certificate)?;
        if parsed.key != signer.public_key() {
            return Err(IssueError::OtherKey);
        }
        Ok(Self {
            mesh,
            certificate,
            signer,
        })
    }

    /// The mesh that it certifies for.
    pub fn mesh(&self) -> &'a MeshId {
        self.mesh
    }

    /// Its certificate.
    pub fn certificate(&self) -> &'a [u8] {
        self.certificate
    }

    /// Its key.
    pub fn signer(&self) -> &'a dyn Signer {
        self.signer
    }

    /// When it holds: what it signs must lie within.
    pub fn validity(&self) -> Result<Validity, IssueError> {
        let parsed = Parsed::new(self.certificate)?;
        Ok(Validity {
            not_before: parsed.not_before,
            not_after: parsed.not_after,
        })
    }

    /// Signs, with the validity cut to what this authority itself has: who verifies asks for it.
    fn sign(&self, params: &CertificateParams, key: &PublicKey) -> Result<Vec<u8>, IssueError> {
        let parsed = Parsed::new(self.certificate)?;
        let outer = self.validity()?;
        let mut params = params.clone();
        params.not_before = params.not_before.max(date(outer.not_before));
        params.not_after = params.not_after.min(date(outer.not_after));
        let own = common(parsed.common_name()?, outer, [0; 16], &parsed.key);
        let issuer = Issuer::new(own, Key::new(self.signer));
        params
            .signed_by(&Public(*key), &issuer)
            .map(der)
            .map_err(encode)
    }
}

fn common(name: &str, validity: Validity, serial: Serial, key: &PublicKey) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = date(validity.not_before);
    params.not_after = date(validity.not_after);
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    params.key_identifier_method = KeyIdMethod::PreSpecified(key_id(key));
    params
}

fn authority(params: &mut CertificateParams, below: u8) {
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(below));
    params.key_usages = vec![
        KeyUsagePurpose::KeyCertSign,
        KeyUsagePurpose::DigitalSignature,
    ];
}

/// RFC 7093 2, method 4, cut to 20 bytes.
fn key_id(key: &PublicKey) -> Vec<u8> {
    Hash::of(&[&key_info(key)])
        .0
        .iter()
        .take(20)
        .copied()
        .collect()
}

fn date(wall: Wall) -> OffsetDateTime {
    i64::try_from(wall.min(NEVER_ENDS).seconds())
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn uri(text: &str) -> Result<SanType, IssueError> {
    text.try_into().map(SanType::URI).map_err(encode)
}

fn der(certificate: rcgen::Certificate) -> Vec<u8> {
    certificate.der().to_vec()
}

fn encode(error: rcgen::Error) -> IssueError {
    IssueError::Encode(error.to_string())
}

/// A signer as rcgen wants it.
struct Key<'a> {
    public: PublicKey,
    signer: &'a dyn Signer,
}

impl<'a> Key<'a> {
    fn new(signer: &'a dyn Signer) -> Self {
        Self {
            public: signer.public_key(),
            signer,
        }
    }
}

impl PublicKeyData for Key<'_> {
    fn der_bytes(&self) -> &[u8] {
        &self.public
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ED25519
    }
}

impl SigningKey for Key<'_> {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(self.signer.sign(message).0.to_vec())
    }
}

/// A key that is certified.
struct Public(PublicKey);

impl PublicKeyData for Public {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ED25519
    }
}
