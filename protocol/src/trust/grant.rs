//! The grant: what a node certificate allows its holder.
//!
//! In a certificate it is one private, non-critical extension, [`GRANT_OID`]:
//!
//! ```text
//! Grant ::= SEQUENCE { version INTEGER (1), name UTF8String, services SEQUENCE OF UTF8String,
//!                      roles SEQUENCE OF INTEGER, zone UTF8String }
//! ```
//!
//! `zone` is `*` for anywhere. Services and roles are sorted and unique. Only what encodes again
//! to the same bytes is a grant.

use serde::{Deserialize, Serialize};

use super::der;
use crate::{
    limits,
    name::{Locality, NodeName, ServiceName, ServicePattern},
};

/// The arc of skein's extensions. The number under the arc of private enterprises spells `skei`
/// in ASCII: it lies far above what IANA has handed out, and is not registered.
pub const SKEIN_ARC: [u64; 7] = [1, 3, 6, 1, 4, 1, 0x736b_6569];
/// The extension that holds a grant.
pub const GRANT_OID: [u64; 8] = [1, 3, 6, 1, 4, 1, 0x736b_6569, 1];
const VERSION: u8 = 1;

/// A part that a node may play besides serving and calling.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Role {
    /// Opens services to callers outside of the mesh.
    Gateway,
}

impl Role {
    pub(super) fn number(self) -> u8 {
        match self {
            Self::Gateway => 2,
        }
    }

    pub(super) fn of_number(number: u8) -> Option<Self> {
        match number {
            2 => Some(Self::Gateway),
            _ => None,
        }
    }

    /// The word of the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
        }
    }
}

/// What an issuer certified of a node.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Grant {
    /// Its name, unique among live keys.
    pub name: NodeName,
    /// The services that it may speak for, sorted.
    pub services: Vec<ServicePattern>,
    /// Its further parts, sorted.
    pub roles: Vec<Role>,
    /// Where it must say it is; `None` is anywhere (`*`).
    pub zone: Option<Locality>,
}

/// Why something is no grant.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum GrantError {
    /// Larger than an extension may be.
    #[error("a grant of {bytes} bytes, at most {limit}: name fewer services, or a namespace", limit = limits::GRANT_BYTES)]
    Oversize {
        /// Its size.
        bytes: usize,
    },
    /// More services than a grant may name.
    #[error("a grant of {count} services, at most {limit}: use `namespace/*`", limit = limits::GRANT_SERVICES)]
    TooMany {
        /// How many.
        count: usize,
    },
    /// From a newer skein.
    #[error("a grant of version {0}, which this skein does not know: upgrade it")]
    Version(u8),
    /// Not the DER of a grant.
    #[error("malformed grant: {0}")]
    Malformed(&'static str),
    /// Another form of a grant than the one that it encodes to.
    #[error("grant not in canonical form")]
    NotCanonical,
}

impl Grant {
    /// A grant with its lists sorted and without doubles, if it is within its bounds.
    pub fn new(
        name: NodeName,
        mut services: Vec<ServicePattern>,
        mut roles: Vec<Role>,
        zone: Option<Locality>,
    ) -> Result<Self, GrantError> {
        services.sort();
        services.dedup();
        roles.sort();
        roles.dedup();
        let grant = Self { name, services, roles, zone };
        grant.encode()?;
        Ok(grant)
    }

    /// Whether the node may speak for `service`.
    pub fn covers(&self, service: &ServiceName) -> bool {
        self.services.iter().any(|pattern| pattern.covers(service))
    }

    /// The DER of the extension's value. Fails above the bounds.
    pub fn encode(&self) -> Result<Vec<u8>, GrantError> {
        if self.services.len() > limits::GRANT_SERVICES {
            return Err(GrantError::TooMany { count: self.services.len() });
        }
        let oversize = GrantError::Oversize { bytes: usize::from(u16::MAX) };
        let der = self.write().ok_or(oversize)?;
        if der.len() > limits::GRANT_BYTES {
            return Err(GrantError::Oversize { bytes: der.len() });
        }
        Ok(der)
    }

    fn write(&self) -> Option<Vec<u8>> {
        let mut services = Vec::new();
        for pattern in &self.services {
            services.extend(der::element(der::UTF8, pattern.to_string().as_bytes())?);
        }
        let mut roles = Vec::new();
        for role in &self.roles {
            roles.extend(der::element(der::INTEGER, &[role.number()])?);
        }
        let zone = self.zone.as_ref().map_or_else(|| "*".to_owned(), Locality::to_string);
        let mut fields = der::element(der::INTEGER, &[VERSION])?;
        fields.extend(der::element(der::UTF8, self.name.as_str().as_bytes())?);
        fields.extend(der::element(der::SEQUENCE, &services)?);
        fields.extend(der::element(der::SEQUENCE, &roles)?);
        fields.extend(der::element(der::UTF8, zone.as_bytes())?);
        der::element(der::SEQUENCE, &fields)
    }

    /// The grant of these bytes, if they are what it encodes to.
    pub fn decode(bytes: &[u8]) -> Result<Self, GrantError> {
        if bytes.len() > limits::GRANT_BYTES {
            return Err(GrantError::Oversize { bytes: bytes.len() });
        }
        let mut rest = bytes;
        let mut fields =
            der::take(&mut rest, der::SEQUENCE).ok_or(GrantError::Malformed("no sequence"))?;
        let version = der::take_small(&mut fields).ok_or(GrantError::Malformed("no version"))?;
        if version != VERSION {
            return Err(GrantError::Version(version));
        }
        let grant = Self::read(&mut fields)?;
        let sorted = Self::new(grant.name, grant.services, grant.roles, grant.zone)?;
        if sorted.encode()? == bytes { Ok(sorted) } else { Err(GrantError::NotCanonical) }
    }

    fn read(fields: &mut &[u8]) -> Result<Self, GrantError> {
        let name = der::take_text(fields)
            .and_then(|text| NodeName::new(text).ok())
            .ok_or(GrantError::Malformed("no node name"))?;
        let mut list = der::take(fields, der::SEQUENCE).ok_or(GrantError::Malformed("services"))?;
        let mut services = Vec::new();
        while !list.is_empty() {
            let pattern = der::take_text(&mut list).and_then(|text| text.parse().ok());
            services.push(pattern.ok_or(GrantError::Malformed("a service pattern"))?);
        }
        let mut list = der::take(fields, der::SEQUENCE).ok_or(GrantError::Malformed("roles"))?;
        let mut roles = Vec::new();
        while !list.is_empty() {
            let role = der::take_small(&mut list).and_then(Role::of_number);
            roles.push(role.ok_or(GrantError::Malformed("an unknown role"))?);
        }
        let zone = match der::take_text(fields) {
            Some("*") => None,
            Some(text) => Some(text.parse().map_err(|_| GrantError::Malformed("zone"))?),
            None => return Err(GrantError::Malformed("zone")),
        };
        Ok(Self { name, services, roles, zone })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn grant() -> Grant {
        Grant::new(
            "web-1".parse().unwrap(),
            vec!["shop/web".parse().unwrap(), "ops/*".parse().unwrap()],
            vec![Role::Gateway],
            Some("eu/eu-1a".parse().unwrap()),
        )
        .unwrap()
    }

    #[test]
    fn a_grant_reads_as_it_was_written() {
        let grant = grant();
        assert_eq!(Grant::decode(&grant.encode().unwrap()), Ok(grant.clone()));
        let anywhere = Grant { zone: None, ..grant };
        assert_eq!(Grant::decode(&anywhere.encode().unwrap()), Ok(anywhere));
    }

    #[test]
    fn golden_bytes_of_a_grant() {
        let hex = data_encoding::HEXLOWER.encode(&grant().encode().unwrap());
        let golden = concat!(
            "302c",
            "020101",
            "0c057765622d31",
            "30110c056f70732f2a0c0873686f702f776562",
            "3003020102",
            "0c0865752f65752d3161"
        );
        assert_eq!(hex, golden);
    }

    #[test]
    fn an_unknown_version_is_refused() {
        let mut der = grant().encode().unwrap();
        der[4] = 2;
        assert_eq!(Grant::decode(&der), Err(GrantError::Version(2)));
    }

    #[test]
    fn another_form_of_a_grant_is_refused() {
        let der = grant().encode().unwrap();
        let mut long = vec![0x30, 0x81];
        long.extend_from_slice(&der[1..]);
        assert_eq!(Grant::decode(&long), Err(GrantError::NotCanonical));
        let mut trailing = der.clone();
        trailing.push(0);
        assert_eq!(Grant::decode(&trailing), Err(GrantError::NotCanonical));
        let unsorted = Grant { roles: vec![Role::Gateway, Role::Gateway], ..grant() };
        assert_eq!(Grant::decode(&unsorted.encode().unwrap()), Err(GrantError::NotCanonical));
    }

    #[test]
    fn an_oversize_grant_is_neither_written_nor_read() {
        let long = |n: usize| format!("{}/{n}", "x".repeat(60)).parse().unwrap();
        let services: Vec<ServicePattern> = (0..9).map(long).collect();
        let name: NodeName = "a".parse().unwrap();
        let error = Grant::new(name.clone(), services.clone(), vec![], None).unwrap_err();
        assert!(matches!(error, GrantError::Oversize { .. }), "{error}");
        let grant = Grant { name, services, roles: vec![], zone: None };
        let der = grant.write().unwrap();
        assert!(matches!(Grant::decode(&der), Err(GrantError::Oversize { .. })));
    }

    proptest! {
        #[test]
        fn what_decodes_encodes_to_the_same_bytes(
            at in 0usize..46, to in any::<u8>(), cut in 0usize..47
        ) {
            let mut der = grant().encode().unwrap();
            der[at] = to;
            der.truncate(cut);
            if let Ok(grant) = Grant::decode(&der) {
                prop_assert_eq!(grant.encode().unwrap(), der);
            }
        }

        #[test]
        fn no_bytes_make_the_decoder_panic(der in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Grant::decode(&der);
        }
    }
}
