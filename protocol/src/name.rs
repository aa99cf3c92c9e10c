//! Names: every identifier of the mesh as a type that only holds valid values.
//!
//! Never: looks anything up. A name that exists says only that its spelling is right.

use std::{fmt, str::FromStr};

use data_encoding::{BASE32_NOPAD, Encoding, Specification};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::limits;

/// Why a text is not a name. The text says what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a {what}: {why}")]
pub struct InvalidName {
    what: &'static str,
    text: String,
    why: &'static str,
}

impl InvalidName {
    fn new(what: &'static str, text: &str, why: &'static str) -> Self {
        Self { what, text: text.chars().take(80).collect(), why }
    }
}

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// The digest of `parts`, one after the other. Callers put a domain and lengths in where
    /// two different lists could otherwise give the same bytes.
    pub fn of(parts: &[&[u8]]) -> Self {
        let mut sha = Sha256::new();
        for part in parts {
            sha.update(part);
        }
        Self(sha.finalize().into())
    }

    /// The first twelve hexadecimal digits, for people.
    pub fn short(&self) -> String {
        self.to_string().chars().take(12).collect()
    }

    /// The first eight bytes as a number: the place of something on a ring.
    pub fn prefix(&self) -> u64 {
        self.0.iter().take(8).fold(0, |sum, byte| (sum << 8) | u64::from(*byte))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.short())
    }
}

fn base32_lower() -> Encoding {
    // The alphabet of RFC 4648 in lower case, as SPIFFE ids must be.
    let mut specification = Specification::new();
    specification.symbols.push_str("abcdefghijklmnopqrstuvwxyz234567");
    specification.encoding().unwrap_or(BASE32_NOPAD)
}

/// A node's identity: its Ed25519 public key (RFC 8032). In headers, store keys, revocations.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeKey(pub [u8; 32]);

impl NodeKey {
    /// The 52 characters by which the SPIFFE id names this key.
    pub fn id(&self) -> String {
        base32_lower().encode(&Hash::of(&[&self.0]).0)
    }

    /// The first ten characters of [`Self::id`]: for chitchat and the command line only.
    pub fn short(&self) -> ShortId {
        ShortId(self.id().chars().take(limits::SHORT_ID_CHARS).collect())
    }
}

impl fmt::Display for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node:{}", self.short())
    }
}

impl FromStr for NodeKey {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let why = "a node key is 64 hexadecimal digits, as `skein key` prints it";
        let bytes = data_encoding::HEXLOWER_PERMISSIVE
            .decode(text.trim().as_bytes())
            .map_err(|_| InvalidName::new("node key", text, why))?;
        let key = bytes.try_into().map_err(|_| InvalidName::new("node key", text, why))?;
        Ok(Self(key))
    }
}

impl FromStr for Hash {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let NodeKey(bytes) = text
            .parse()
            .map_err(|_| InvalidName::new("hash", text, "a hash is 64 hexadecimal digits"))?;
        Ok(Self(bytes))
    }
}

/// Ten base32 characters of a key's hash. Issuers refuse a colliding one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ShortId(String);

impl ShortId {
    /// The characters.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ShortId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let base32 = |c: char| c.is_ascii_lowercase() || ('2'..='7').contains(&c);
        if text.len() == limits::SHORT_ID_CHARS && text.chars().all(base32) {
            Ok(Self(text.to_owned()))
        } else {
            let why = "ten characters of a-z and 2-7, as `skein members` prints it";
            Err(InvalidName::new("short id", text, why))
        }
    }
}

impl fmt::Display for ShortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ShortId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The mesh's identity: SHA-256 of the first root's public key info (RFC 5280 4.1).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct MeshId(pub Hash);

impl MeshId {
    /// The trust domain of the mesh's SPIFFE ids.
    pub fn trust_domain(&self) -> String {
        base32_lower().encode(&self.0.0)
    }

    /// `spiffe://<mesh>/node/<key's hash>`.
    pub fn node_uri(&self, key: &NodeKey) -> String {
        format!("spiffe://{}/node/{}", self.trust_domain(), key.id())
    }

    /// `spiffe://<mesh>/ns/<namespace>/svc/<service>`.
    pub fn service_uri(&self, service: &ServiceName) -> String {
        format!(
            "spiffe://{}/ns/{}/svc/{}",
            self.trust_domain(),
            service.namespace(),
            service.name()
        )
    }
}

impl fmt::Display for MeshId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

const LABEL_RULE: &str = "lower-case letters, digits and inner `-`, at most 63 characters";

fn is_label(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !text.is_empty()
        && text.len() <= limits::LABEL_BYTES
        && text.chars().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

macro_rules! text_name {
    ($type:ident, $what:literal, $rule:expr, $valid:expr, $doc:literal) => {
        #[doc = $doc]
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(String);

        impl $type {
            /// Takes `text` if it is spelled as it must be.
            pub fn new(text: impl Into<String>) -> Result<Self, InvalidName> {
                let text = text.into();
                let valid: fn(&str) -> bool = $valid;
                if valid(&text) {
                    Ok(Self(text))
                } else {
                    Err(InvalidName::new($what, &text, $rule))
                }
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $type {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> Self {
                name.0
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "`{}`", self.0)
            }
        }
    };
}

text_name!(
    Label,
    "name",
    LABEL_RULE,
    is_label,
    "One DNS label (RFC 1123): a document's name, a namespace, an endpoint's or a port's name."
);

text_name!(
    NodeName,
    "node name",
    "labels of lower-case letters, digits and inner `-`, joined by dots, at most 64 characters",
    |text| text.len() <= limits::NODE_NAME_BYTES && text.split('.').all(is_label),
    "A node's name as its grant holds it: unique among live keys."
);

text_name!(
    Tag,
    "tag",
    "printable ASCII without space or comma, at most 64 characters",
    |text| !text.is_empty()
        && text.len() <= limits::TAG_BYTES
        && text.bytes().all(|b| b.is_ascii_graphic() && b != b','),
    "A tag of an instance, by which a subset picks it."
);

text_name!(
    VersionText,
    "version",
    "printable ASCII without space, at most 64 characters",
    |text| !text.is_empty()
        && text.len() <= limits::TAG_BYTES
        && text.bytes().all(|b| b.is_ascii_graphic()),
    "What an instance says its version is."
);

/// `[region/]zone`: where a node is.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Locality {
    region: String,
    zone: String,
}

impl Locality {
    /// The region; the zone where none is said.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// The zone, without its region.
    pub fn zone(&self) -> &str {
        &self.zone
    }
}

impl FromStr for Locality {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let (region, zone) = text.split_once('/').unwrap_or((text, text));
        if is_label(region) && is_label(zone) {
            Ok(Self { region: region.to_owned(), zone: zone.to_owned() })
        } else {
            let why = "a locality is `zone` or `region/zone`, each a label of lower-case letters, \
                       digits and inner `-`";
            Err(InvalidName::new("locality", text, why))
        }
    }
}

impl TryFrom<String> for Locality {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<Locality> for String {
    fn from(locality: Locality) -> Self {
        locality.to_string()
    }
}

impl fmt::Display for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.region == self.zone {
            f.write_str(&self.zone)
        } else {
            write!(f, "{}/{}", self.region, self.zone)
        }
    }
}

/// `namespace/name` of a service.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceName {
    namespace: Label,
    name: Label,
}

impl ServiceName {
    /// A service of a namespace.
    pub fn new(namespace: Label, name: Label) -> Self {
        Self { namespace, name }
    }

    /// Reads `name` (in `namespace`) or `other/name`.
    pub fn parse_in(text: &str, namespace: &Label) -> Result<Self, InvalidName> {
        match text.split_once('/') {
            Some((namespace, name)) => Ok(Self::new(Label::new(namespace)?, Label::new(name)?)),
            None => Ok(Self::new(namespace.clone(), Label::new(text)?)),
        }
    }

    /// The namespace.
    pub fn namespace(&self) -> &Label {
        &self.namespace
    }

    /// The name within the namespace.
    pub fn name(&self) -> &Label {
        &self.name
    }
}

impl FromStr for ServiceName {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let (namespace, name) = text.split_once('/').ok_or_else(|| {
            InvalidName::new("service", text, "write `namespace/name`, for example `shop/checkout`")
        })?;
        Ok(Self::new(Label::new(namespace)?, Label::new(name)?))
    }
}

impl TryFrom<String> for ServiceName {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<ServiceName> for String {
    fn from(name: ServiceName) -> Self {
        name.to_string()
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl fmt::Debug for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{self}`")
    }
}

/// What a grant may name: one service, all of a namespace, or all.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ServicePattern {
    /// `*/*`.
    All,
    /// `namespace/*`.
    Namespace(Label),
    /// `namespace/name`.
    One(ServiceName),
}

impl ServicePattern {
    /// Whether `service` is meant.
    pub fn covers(&self, service: &ServiceName) -> bool {
        match self {
            Self::All => true,
            Self::Namespace(namespace) => service.namespace() == namespace,
            Self::One(name) => name == service,
        }
    }

    /// Whether all that `other` means is meant.
    pub fn contains(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::All, _) => true,
            (Self::Namespace(mine), Self::Namespace(theirs)) => mine == theirs,
            (_, Self::One(service)) => self.covers(service),
            (Self::Namespace(_) | Self::One(_), Self::All | Self::Namespace(_)) => false,
        }
    }
}

/// Names of nodes, `*` standing for any run of characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NamePattern(String);

impl NamePattern {
    /// Whether that name is meant.
    pub fn covers(&self, name: &NodeName) -> bool {
        let mut parts = self.0.split('*');
        let Some(rest) = parts.next().and_then(|head| name.as_str().strip_prefix(head)) else {
            return false;
        };
        let parts: Vec<&str> = parts.collect();
        let Some((tail, middle)) = parts.split_last() else { return rest.is_empty() };
        let mut rest = rest;
        for part in middle {
            let Some(at) = rest.find(part) else { return false };
            rest = rest.get(at.saturating_add(part.len())..).unwrap_or_default();
        }
        rest.ends_with(tail)
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NamePattern {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        // What is left of it with something in the place of each star is a name.
        NodeName::new(text.replace('*', "x")).map(|_| Self(text.to_owned()))
    }
}

impl TryFrom<String> for NamePattern {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<NamePattern> for String {
    fn from(pattern: NamePattern) -> Self {
        pattern.0
    }
}

impl fmt::Display for NamePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ServicePattern {
    type Err = InvalidName;
    fn from_str(text: &str) -> Result<Self, InvalidName> {
        match text.split_once('/') {
            Some(("*", "*")) => Ok(Self::All),
            Some((namespace, "*")) => Ok(Self::Namespace(Label::new(namespace)?)),
            _ => Ok(Self::One(text.parse()?)),
        }
    }
}

impl TryFrom<String> for ServicePattern {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<ServicePattern> for String {
    fn from(pattern: ServicePattern) -> Self {
        pattern.to_string()
    }
}

impl fmt::Display for ServicePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*/*"),
            Self::Namespace(namespace) => write!(f, "{namespace}/*"),
            Self::One(service) => service.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_is_what_dns_allows() {
        for good in ["a", "shop", "a-1", &"x".repeat(63)] {
            assert!(Label::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "ä", &"x".repeat(64)] {
            assert!(Label::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_pattern_covers_what_it_names() {
        let service: ServiceName = "shop/web".parse().unwrap();
        let covers = |pattern: &str| pattern.parse::<ServicePattern>().unwrap().covers(&service);
        assert!(covers("*/*") && covers("shop/*") && covers("shop/web"));
        assert!(!covers("ops/*") && !covers("shop/db"));
        assert!("web".parse::<ServicePattern>().is_err());
        assert!("*/web".parse::<ServicePattern>().is_err());
    }

    #[test]
    fn a_locality_without_region_is_its_own_region() {
        let locality: Locality = "eu-1a".parse().unwrap();
        assert_eq!((locality.region(), locality.zone()), ("eu-1a", "eu-1a"));
        assert_eq!("eu-1/eu-1a".parse::<Locality>().unwrap().to_string(), "eu-1/eu-1a");
    }

    #[test]
    fn a_short_id_is_the_head_of_the_long_one() {
        let key = NodeKey([7; 32]);
        assert_eq!(key.id().len(), 52);
        assert!(key.id().starts_with(key.short().as_str()));
        assert_eq!(key.to_string().parse::<NodeKey>().unwrap(), key);
    }
}
