//! Operators: who signs policy and revokes nodes, and in which namespaces they may write.
//!
//! The scope stands in one private, non-critical extension, [`OPERATOR_OID`]:
//! `SEQUENCE { version INTEGER (1), namespaces SEQUENCE OF UTF8String }`; `*` is every namespace.

use std::fmt;

use super::{
    certificate::{ChainError, Roots},
    crypto::{Crypto, PublicKey},
    der,
    grant::Grant,
    issue,
    x509::Parsed,
};
use crate::{
    limits,
    name::{Label, ServicePattern},
};

/// The extension that holds an operator's scope.
pub const OPERATOR_OID: [u64; 8] = [1, 3, 6, 1, 4, 1, 0x736b_6569, 2];
const VERSION: u8 = 1;

/// The namespaces that an operator may write.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Scope {
    /// Every one, and what belongs to none.
    All,
    /// These, sorted.
    Namespaces(Vec<Label>),
}

impl Scope {
    /// Whether documents of `namespace` may be signed.
    pub fn covers(&self, namespace: &Label) -> bool {
        match self {
            Self::All => true,
            Self::Namespaces(list) => list.contains(namespace),
        }
    }

    /// Whether all that a grant allows lies within. A grant to call only, or with a role, is of
    /// the whole mesh.
    pub fn covers_grant(&self, grant: &Grant) -> bool {
        let within = |pattern: &ServicePattern| match pattern {
            ServicePattern::All => false,
            ServicePattern::Namespace(namespace) => self.covers(namespace),
            ServicePattern::One(service) => self.covers(service.namespace()),
        };
        let services = &grant.services;
        *self == Self::All
            || !services.is_empty() && grant.roles.is_empty() && services.iter().all(within)
    }

    pub(crate) fn encode(&self) -> Option<Vec<u8>> {
        let mut names = Vec::new();
        match self {
            Self::All => names = der::element(der::UTF8, b"*")?,
            Self::Namespaces(list) => {
                for label in list {
                    names.extend(der::element(der::UTF8, label.as_str().as_bytes())?);
                }
            }
        }
        let mut fields = der::element(der::INTEGER, &[VERSION])?;
        fields.extend(der::element(der::SEQUENCE, &names)?);
        der::element(der::SEQUENCE, &fields).filter(|der| der.len() <= limits::GRANT_BYTES)
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut rest = bytes;
        let mut fields = der::take(&mut rest, der::SEQUENCE)?;
        if der::take_small(&mut fields)? != VERSION {
            return None;
        }
        let mut names = der::take(&mut fields, der::SEQUENCE)?;
        let mut list = Vec::new();
        let mut all = false;
        while !names.is_empty() {
            match der::take_text(&mut names)? {
                "*" => all = true,
                text => list.push(Label::new(text).ok()?),
            }
        }
        list.sort();
        list.dedup();
        let scope = if all { Self::All } else { Self::Namespaces(list) };
        (scope.encode().as_deref() == Some(bytes)).then_some(scope)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("every namespace"),
            Self::Namespaces(list) => {
                let names: Vec<&str> = list.iter().map(Label::as_str).collect();
                write!(f, "namespace {}", names.join(", "))
            }
        }
    }
}

/// An operator whose certificate was verified.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VerifiedOperator {
    /// Its key.
    pub key: PublicKey,
    /// Its name, for people.
    pub name: String,
    /// What it may write.
    pub scope: Scope,
    /// The root that certified it.
    pub root: PublicKey,
}

/// Verifies an operator's certificate. Operators have no end; revocation is the caller's to
/// check.
pub fn verify_operator(
    certificate: &[u8],
    roots: &Roots,
    crypto: &dyn Crypto,
) -> Result<VerifiedOperator, ChainError> {
    let parsed = Parsed::new(certificate)?;
    if parsed.uri()? != issue::operator_uri(&roots.mesh, &parsed.key) {
        return Err(ChainError::UnknownRoot);
    }
    let uses = parsed.uses();
    if parsed.authority().is_some() || uses.server || uses.client || uses.other {
        return Err(ChainError::WrongUse("not an operator's certificate"));
    }
    let scope = parsed
        .private(&OPERATOR_OID)
        .and_then(Scope::decode)
        .ok_or_else(|| ChainError::Malformed("no operator scope".to_owned()))?;
    let root = roots.behind(&parsed, crypto)?;
    Ok(VerifiedOperator { key: parsed.key, name: parsed.common_name()?.to_owned(), scope, root })
}
