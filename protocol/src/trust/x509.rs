//! One certificate, taken apart: what all four kinds of ours have in common.
//!
//! Only Ed25519, version 3, the extensions that we issue, each once. Whatever else a certificate
//! says, critical or not, is refused: there is nobody but us who issues them.

use std::collections::BTreeSet;

use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension},
    oid_registry::{Oid, asn1_rs::oid},
    prelude::FromDer,
    x509::{AlgorithmIdentifier, X509Version},
};

use super::{
    certificate::ChainError,
    crypto::{Crypto, PublicKey, Signature},
};
use crate::{clock::Wall, limits, name::Hash};

/// A certificate that parsed and has no foreign parts. Nothing in it is verified yet.
pub(crate) struct Parsed<'a> {
    cert: X509Certificate<'a>,
    der: &'a [u8],
    /// Whose key it certifies.
    pub(crate) key: PublicKey,
    /// From when it holds.
    pub(crate) not_before: Wall,
    /// Until when it holds.
    pub(crate) not_after: Wall,
}

/// How a certificate may be used, by its extensions.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Uses {
    pub(crate) server: bool,
    pub(crate) client: bool,
    pub(crate) other: bool,
}

impl<'a> Parsed<'a> {
    pub(crate) fn new(der: &'a [u8]) -> Result<Self, ChainError> {
        if der.len() > limits::CERTIFICATE_BYTES {
            return malformed("larger than any of ours");
        }
        let (rest, cert) = X509Certificate::from_der(der)
            .map_err(|error| ChainError::Malformed(error.to_string()))?;
        if !rest.is_empty() {
            return malformed("bytes left over");
        }
        let tbs = &cert.tbs_certificate;
        let algorithms = [&tbs.signature, &cert.signature_algorithm, &tbs.subject_pki.algorithm];
        if tbs.version != X509Version::V3 || !algorithms.into_iter().all(is_ed25519) {
            return malformed("not an X.509 v3 certificate with Ed25519 only");
        }
        let key = &tbs.subject_pki.subject_public_key;
        let Ok(key) = PublicKey::try_from(key.data.as_ref()) else {
            return malformed("the key is not of 32 bytes");
        };
        known_extensions(&cert)?;
        let (not_before, not_after) =
            (wall(tbs.validity.not_before.timestamp()), wall(tbs.validity.not_after.timestamp()));
        if not_before > not_after {
            return malformed("ends before it begins");
        }
        Ok(Self { cert, der, key, not_before, not_after })
    }

    /// Whether `signer`, a certificate or the root itself, stands behind this one: by name and
    /// by signature.
    pub(crate) fn signed_by(&self, signer: &Self, crypto: &dyn Crypto) -> bool {
        self.issuer_is(signer) && self.signature_holds(&signer.key, crypto)
    }

    /// Whether `signer` is named as the one that signed.
    pub(crate) fn issuer_is(&self, signer: &Self) -> bool {
        self.cert.issuer().as_raw() == signer.cert.subject().as_raw()
    }

    fn signature_holds(&self, key: &PublicKey, crypto: &dyn Crypto) -> bool {
        let bits = &self.cert.signature_value;
        <[u8; 64]>::try_from(bits.data.as_ref()).is_ok_and(|signature| {
            bits.unused_bits == 0
                && crypto.verify(key, self.cert.tbs_certificate.as_ref(), &Signature(signature))
        })
    }

    /// Its serial number, as it stands in the DER.
    pub(crate) fn serial(&self) -> &[u8] {
        self.cert.raw_serial()
    }

    /// Its one common name.
    pub(crate) fn common_name(&self) -> Result<&str, ChainError> {
        let mut names = self.cert.subject().iter_common_name();
        match (names.next().map(|name| name.as_str()), names.next()) {
            (Some(Ok(name)), None) => Ok(name),
            _ => malformed("not exactly one common name"),
        }
    }

    /// Its one subject alternative name, which is a URI.
    pub(crate) fn uri(&self) -> Result<&str, ChainError> {
        let found = self.parsed().find_map(|extension| match extension {
            ParsedExtension::SubjectAlternativeName(san) => Some(san.general_names.as_slice()),
            _ => None,
        });
        match found {
            Some([GeneralName::URI(uri)]) => Ok(uri),
            _ => Err(ChainError::Names),
        }
    }

    /// The bytes of our own extension of that OID.
    pub(crate) fn private(&self, arcs: &[u64]) -> Option<&'a [u8]> {
        let oid = Oid::from(arcs).ok()?;
        let extension = self.cert.extensions().iter().find(|extension| extension.oid == oid)?;
        (!extension.critical).then_some(extension.value)
    }

    /// `None` is no CA; a CA says how many further CAs may stand below it.
    pub(crate) fn authority(&self) -> Option<Option<u32>> {
        self.parsed().find_map(|extension| match extension {
            ParsedExtension::BasicConstraints(basic) if basic.ca => Some(basic.path_len_constraint),
            _ => None,
        })
    }

    /// Whether it may sign certificates (`keyCertSign`) or messages (`digitalSignature`).
    pub(crate) fn may_sign(&self, certificates: bool) -> bool {
        self.parsed().any(|extension| match extension {
            ParsedExtension::KeyUsage(usage) if certificates => usage.key_cert_sign(),
            ParsedExtension::KeyUsage(usage) => usage.digital_signature(),
            _ => false,
        })
    }

    /// Its extended uses.
    pub(crate) fn uses(&self) -> Uses {
        let none = Uses { server: false, client: false, other: false };
        self.parsed().fold(none, |uses, extension| match extension {
            ParsedExtension::ExtendedKeyUsage(eku) => Uses {
                server: eku.server_auth,
                client: eku.client_auth,
                other: eku.any
                    || eku.code_signing
                    || eku.email_protection
                    || eku.time_stamping
                    || eku.ocsp_signing
                    || !eku.other.is_empty(),
            },
            _ => uses,
        })
    }

    /// Whether it lies within the validity of `outer`.
    pub(crate) fn within(&self, outer: &Self) -> bool {
        outer.not_before <= self.not_before && self.not_after <= outer.not_after
    }

    /// SHA-256 of the whole.
    pub(crate) fn hash(&self) -> Hash {
        Hash::of(&[self.der])
    }

    fn parsed(&self) -> impl Iterator<Item = &ParsedExtension<'a>> {
        self.cert.extensions().iter().map(|extension| extension.parsed_extension())
    }
}

/// The DER of the public key info (RFC 8410 4) of an Ed25519 key.
pub fn key_info(key: &PublicKey) -> Vec<u8> {
    let mut der = vec![0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
    der.extend_from_slice(key);
    der
}

fn malformed<T>(what: &str) -> Result<T, ChainError> {
    Err(ChainError::Malformed(what.to_owned()))
}

fn is_ed25519(algorithm: &AlgorithmIdentifier<'_>) -> bool {
    algorithm.algorithm == oid!(1.3.101.112) && algorithm.parameters.is_none()
}

/// Seconds since 1970 as milliseconds; what lies before 1970 is 1970.
fn wall(seconds: i64) -> Wall {
    Wall(u64::try_from(seconds).unwrap_or(0).saturating_mul(1000))
}

/// Every extension is one that we issue, parses, and stands there once.
fn known_extensions(cert: &X509Certificate<'_>) -> Result<(), ChainError> {
    let mut seen = BTreeSet::new();
    for extension in cert.extensions() {
        if !seen.insert(extension.oid.as_bytes()) {
            return Err(ChainError::Twice(extension.oid.to_id_string()));
        }
        let known = match extension.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(_)
            | ParsedExtension::SubjectKeyIdentifier(_)
            | ParsedExtension::KeyUsage(_)
            | ParsedExtension::ExtendedKeyUsage(_)
            | ParsedExtension::BasicConstraints(_)
            | ParsedExtension::SubjectAlternativeName(_) => true,
            ParsedExtension::UnsupportedExtension { oid } => !extension.critical && is_ours(oid),
            _ => false,
        };
        if !known {
            return malformed("an extension that none of ours has");
        }
    }
    Ok(())
}

fn is_ours(oid: &Oid<'_>) -> bool {
    Oid::from(&super::grant::SKEIN_ARC).is_ok_and(|arc| oid.starts_with(&arc))
}
