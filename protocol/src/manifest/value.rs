//! Values with a unit or a grammar of their own: durations, sizes, rates, versions, addresses.
//!
//! Every parser here takes text and says why not. Never: reads a file or the environment.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use crate::{
    limits,
    name::{Label, VersionText},
    route::ImagePattern,
};

/// Why a text is no such value: what it should look like.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{why}")]
pub struct InvalidValue {
    /// What is wrong.
    pub why: String,
    /// How to write it.
    pub fix: String,
}

pub(crate) fn invalid(why: impl Into<String>, fix: impl Into<String>) -> InvalidValue {
    InvalidValue { why: why.into(), fix: fix.into() }
}

/// A label that stands in our own text.
#[allow(clippy::expect_used, reason = "every caller passes a literal; a test reaches each")]
pub(crate) fn word(text: &'static str) -> Label {
    Label::new(text).expect("a literal is a good label")
}

/// Splits `250ms` into 250 and `ms`.
fn number_and_unit(text: &str) -> Option<(u64, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    Some((number.parse().ok()?, unit.trim()))
}

/// Reads `250ms`, `5s`, `2m`, `1h`, `1d`.
pub(crate) fn duration(text: &str) -> Result<Duration, InvalidValue> {
    let how = "write a whole number and a unit: `250ms`, `5s`, `2m`, `1h` or `1d`";
    let bad = || invalid(format!("`{text}` is not a duration"), how);
    let (number, unit) = number_and_unit(text).ok_or_else(bad)?;
    let seconds = |factor: u64| number.checked_mul(factor).map(Duration::from_secs);
    let duration = match unit {
        "ms" => Some(Duration::from_millis(number)),
        "s" => seconds(1),
        "m" => seconds(60),
        "h" => seconds(3600),
        "d" => seconds(24 * 3600),
        "" => return Err(invalid(format!("the duration `{text}` has no unit"), how)),
        _ => return Err(bad()),
    };
    duration
        .filter(|duration| *duration <= limits::MANIFEST_DURATION_MAX)
        .ok_or_else(|| invalid(format!("`{text}` is longer than a year"), how))
}

/// Reads `64KiB`, `10MB`, `512B` as bytes.
pub fn size(text: &str) -> Result<u64, InvalidValue> {
    let how = "write a whole number and a unit: `512B`, `64KiB`, `16MiB`, `1GiB`, `10MB`";
    let bad = || invalid(format!("`{text}` is not a size"), how);
    let (number, unit) = number_and_unit(text).ok_or_else(bad)?;
    let factor: u64 = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "" => return Err(invalid(format!("the size `{text}` has no unit"), how)),
        _ => return Err(bad()),
    };
    number.checked_mul(factor).ok_or_else(bad)
}

/// Reads `5` or `5%`, 0 to 100. Returns hundredths of a percent.
pub(crate) fn percent(text: &str) -> Result<u32, InvalidValue> {
    let bad = || {
        invalid(
            format!("`{text}` is not a percentage"),
            "write a number from 0 to 100: `5` or `5%`",
        )
    };
    let number = text.strip_suffix('%').unwrap_or(text).trim();
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || part.len() > 2 || !digits(whole) || !digits(part) {
        return Err(bad());
    }
    let whole: u32 = whole.parse().map_err(|_| bad())?;
    let part: u32 = format!("{part:0<2}").parse().map_err(|_| bad())?;
    let hundredths = whole.checked_mul(100).and_then(|sum| sum.checked_add(part));
    hundredths.filter(|sum| *sum <= 10_000).ok_or_else(bad)
}

/// So many in so long: `100/s`, `6000/m`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rate {
    /// How many.
    pub count: u64,
    /// In how long.
    pub per: Duration,
}

impl FromStr for Rate {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let bad = || {
            invalid(
                format!("`{text}` is not a rate"),
                "write how many in which time: `100/s`, `6000/m` or `1000/h`",
            )
        };
        let (count, unit) = text.split_once('/').ok_or_else(bad)?;
        let per = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return Err(bad()),
        };
        Ok(Self { count: count.trim().parse().map_err(|_| bad())?, per: Duration::from_secs(per) })
    }
}

/// An image: `registry.example/catalog:1.4.2`. Its tag is a version.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Image {
    /// All before the tag.
    pub repository: String,
    /// The tag, where there is one. A digest is none.
    pub tag: Option<VersionText>,
    /// As written.
    pub text: String,
}

impl Image {
    /// The instances that it means.
    pub fn pattern(&self) -> ImagePattern {
        ImagePattern(self.text.clone())
    }
}

impl FromStr for Image {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let bad = || {
            invalid(
                format!("`{text}` is not an image"),
                "write `repository:tag`, for example `registry.example/checkout:2.3.1`",
            )
        };
        let graphic = text.bytes().all(|byte| byte.is_ascii_graphic());
        if text.is_empty() || text.len() > limits::MANIFEST_TEXT_BYTES || !graphic {
            return Err(bad());
        }
        let tagged = text.split_once('@').map_or(text, |(name, _)| name);
        let last = tagged.rfind('/').map_or(0, |slash| slash + 1);
        // A colon before the last slash is a registry's port.
        let colon = tagged.rfind(':').filter(|colon| *colon >= last);
        let (repository, tag) = match colon.and_then(|colon| tagged.split_at_checked(colon)) {
            Some((repository, tag)) => (repository, tag.strip_prefix(':')),
            None => (tagged, None),
        };
        if repository.is_empty() || tag == Some("") {
            return Err(bad());
        }
        Ok(Self {
            repository: repository.to_owned(),
            tag: tag.map(VersionText::new).transpose().map_err(|_| bad())?,
            text: text.to_owned(),
        })
    }
}

/// A secret: said outright, or where it is. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// The content.
    Inline(String),
    /// The file that holds it; relative to the document's file.
    File(String),
    /// The environment variable that holds it.
    Env(String),
}

impl Secret {
    /// The content, by the shell's means: `file` and `env` look up what is named.
    ///
    /// # Errors
    /// What `file` or `env` say, or that the content is empty.
    pub fn read(
        &self,
        file: impl FnOnce(&str) -> Result<String, String>,
        env: impl FnOnce(&str) -> Option<String>,
    ) -> Result<String, String> {
        let (content, from) = match self {
            Self::Inline(content) => (content.clone(), "the document".to_owned()),
            Self::File(path) => (file(path)?, format!("the file {path}")),
            Self::Env(name) => {
                let unset = || {
                    format!(
                        "the environment variable {name} is not set; set it for the agent, or \
                         write {{file: ...}}"
                    )
                };
                (env(name).ok_or_else(unset)?, format!("the environment variable {name}"))
            }
        };
        let content = content.trim_end_matches(['\r', '\n']).to_owned();
        if content.is_empty() {
            return Err(format!("{from} holds an empty secret; put the secret there"));
        }
        Ok(content)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline(_) => f.write_str("Secret(***)"),
            Self::File(path) => write!(f, "Secret(file {path})"),
            Self::Env(name) => write!(f, "Secret(env {name})"),
        }
    }
}

/// Where a connection ends, with its port.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum TargetAddress {
    /// An IP address and port.
    Ip(SocketAddr),
    /// A unix socket's path.
    Unix(String),
    /// A host name, resolved again by its TTL, and a port.
    Name(String, u16),
}

impl fmt::Display for TargetAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{path}"),
            Self::Name(host, port) => write!(f, "{host}:{port}"),
        }
    }
}

/// Where something is, without a port.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum HostAddress {
    /// An IP address.
    Ip(IpAddr),
    /// A unix socket's path.
    Unix(String),
    /// A host name.
    Name(String),
}

impl HostAddress {
    /// This with a port; a unix socket has none.
    pub fn with_port(&self, port: u16) -> TargetAddress {
        match self {
            Self::Ip(ip) => TargetAddress::Ip(SocketAddr::new(*ip, port)),
            Self::Unix(path) => TargetAddress::Unix(path.clone()),
            Self::Name(host) => TargetAddress::Name(host.clone(), port),
        }
    }
}

impl FromStr for HostAddress {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        if let Some(path) = text.strip_prefix("unix:") {
            return unix_path(path).map(Self::Unix);
        }
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        if let Ok(ip) = bare.unwrap_or(text).parse::<IpAddr>() {
            return Ok(Self::Ip(ip.to_canonical()));
        }
        if text == "localhost" {
            return Ok(Self::Ip(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        }
        let how = "write an IP address, a host name or `unix:/path`, the port in `port:`";
        let digits = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.' || byte == b':');
        if digits || !is_host(text) {
            return Err(invalid(format!("`{text}` is not an address"), how));
        }
        Ok(Self::Name(text.to_ascii_lowercase()))
    }
}

impl fmt::Display for HostAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Unix(path) => write!(f, "unix:{path}"),
            Self::Name(host) => f.write_str(host),
        }
    }
}

/// A host name's spelling (RFC 1123, and `_` as people use it).
pub(crate) fn is_host(text: &str) -> bool {
    let text = text.strip_suffix('.').unwrap_or(text);
    let label = |label: &str| {
        let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        !label.is_empty()
            && label.len() <= limits::LABEL_BYTES
            && label.bytes().all(good)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    !text.is_empty() && text.len() <= 253 && text.split('.').all(label)
}

/// An absolute path that fits into a socket address (unix(7): 108 bytes with its end).
fn unix_path(path: &str) -> Result<String, InvalidValue> {
    let clean = path.bytes().all(|byte| byte >= b' ' && byte != 0x7f);
    if path.starts_with('/') && path.len() < 108 && clean {
        Ok(path.to_owned())
    } else {
        Err(invalid(
            format!("`unix:{path}` is not a socket's path"),
            "write `unix:` and an absolute path of at most 107 bytes: `unix:/run/app.sock`",
        ))
    }
}

/// Why no endpoint may have this address, if so: what it would reach is not a service.
pub(crate) fn forbidden(address: &HostAddress) -> Option<&'static str> {
    match address {
        HostAddress::Unix(_) => None,
        HostAddress::Name(host) => {
            let host = host.trim_end_matches('.');
            let metadata = ["metadata", "metadata.google.internal", "instance-data"];
            (metadata.contains(&host) || host.ends_with(".metadata.google.internal"))
                .then_some("it is a cloud's metadata service, which hands out this host's keys")
        }
        HostAddress::Ip(ip) => forbidden_ip(*ip),
    }
}

/// 100.100.100.200 is Alibaba's, 168.63.129.16 Azure's, 192.0.0.192 Oracle's, fd00:ec2::254
/// AWS's, fd20:ce::254 Google's; the others' lie in the link-local ranges.
fn forbidden_ip(ip: IpAddr) -> Option<&'static str> {
    let metadata =
        ["100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"];
    let is_metadata =
        metadata.iter().any(|text| text.parse::<IpAddr>().is_ok_and(|known| known == ip));
    let link_local = match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    if is_metadata {
        Some("it is a cloud's metadata service, which hands out this host's keys")
    } else if link_local {
        Some("it is link-local (169.254.0.0/16, fe80::/10): clouds serve this host's keys there")
    } else if ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
        Some("nobody can connect to a multicast or broadcast address")
    } else if ip.is_unspecified() {
        Some("it is where a process listens, not where it is reached")
    } else {
        None
    }
}

/// A range of IPv4 addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ipv4Range {
    /// The first address.
    pub base: Ipv4Addr,
    /// Bits of the prefix, 8 to 30.
    pub prefix: u8,
}

impl Ipv4Range {
    /// Whether `ip` lies in it.
    pub fn contains(&self, ip: Ipv4Addr) -> bool {
        (ip.to_bits() ^ self.base.to_bits()) >> (32 - u32::from(self.prefix)) == 0
    }
}

impl FromStr for Ipv4Range {
    type Err = InvalidValue;

    fn from_str(text: &str) -> Result<Self, InvalidValue> {
        let bad = |why: &str| {
            invalid(
                format!("`{text}` {why}"),
                "write a first address and a prefix of 8 to 30 bits: `127.128.0.0/9`",
            )
        };
        let (base, prefix) = text.split_once('/').ok_or_else(|| bad("is not a range"))?;
        let base: Ipv4Addr = base.parse().map_err(|_| bad("is not a range"))?;
        let prefix: u8 = prefix.parse().map_err(|_| bad("is not a range"))?;
        if !(8..=30).contains(&prefix) {
            return Err(bad("is too wide or too narrow"));
        }
        if base.to_bits() << prefix != 0 {
            return Err(bad("does not begin where its prefix ends"));
        }
        Ok(Self { base, prefix })
    }
}

impl fmt::Display for Ipv4Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.base, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_duration_needs_a_unit() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("1h"), Ok(Duration::from_secs(3600)));
        assert_eq!(duration("5").unwrap_err().why, "the duration `5` has no unit");
        for bad in ["", "s", "-5s", "1.5s", "5 weeks", "99999999999999999999s", "400d"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_size_needs_a_unit() {
        assert_eq!(size("64KiB"), Ok(65_536));
        assert!(size("64").is_err() && size("64K").is_err());
        assert!(size("18446744073709551615GiB").is_err());
    }

    #[test]
    fn a_percentage_is_from_0_to_100() {
        assert_eq!(percent("5"), Ok(500));
        assert_eq!(percent("5%"), Ok(500));
        assert_eq!(percent("0.05"), Ok(5));
        assert_eq!(percent("100%"), Ok(10_000));
        for bad in ["101", "-1", "", "%", "5%%", "1.234", "x"] {
            assert!(percent(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_images_tag_is_its_version() {
        let image: Image = "registry.example:5000/shop/catalog:1.4.2".parse().unwrap();
        assert_eq!(image.repository, "registry.example:5000/shop/catalog");
        assert_eq!(image.tag.unwrap().as_str(), "1.4.2");
        let untagged: Image = "registry.example:5000/catalog".parse().unwrap();
        assert_eq!(untagged.tag, None);
        let digest: Image = "catalog@sha256:abc".parse().unwrap();
        assert_eq!((digest.repository.as_str(), digest.tag), ("catalog", None));
        assert!("catalog:".parse::<Image>().is_err() && ":1".parse::<Image>().is_err());
    }

    #[test]
    fn a_secret_never_shows() {
        let secret = Secret::Inline("hunter2".into());
        assert!(!format!("{secret:?}").contains("hunter2"));
        assert_eq!(secret.read(|_| Err(String::new()), |_| None).unwrap(), "hunter2");
        let unset = Secret::Env("SKEIN_TOKEN".into());
        let error = unset.read(|_| Err(String::new()), |_| None).unwrap_err();
        assert!(error.contains("SKEIN_TOKEN is not set"), "{error}");
    }

    #[test]
    fn metadata_and_link_local_addresses_are_forbidden() {
        for bad in [
            "169.254.169.254",
            "fe80::1",
            "::ffff:169.254.169.254",
            "fd00:ec2::254",
            "metadata.google.internal",
            "0.0.0.0",
            "224.0.0.1",
        ] {
            assert!(forbidden(&bad.parse().unwrap()).is_some(), "{bad}");
        }
        for good in ["10.0.0.1", "127.0.0.1", "unix:/run/a.sock", "db.example.com", "::1"] {
            assert!(forbidden(&good.parse().unwrap()).is_none(), "{good}");
        }
    }

    #[test]
    fn an_address_has_no_port_in_it() {
        for bad in ["10.0.0.1:80", "10.0.0", "", "a b", "unix:relative", "unix:", "-a.b"] {
            assert!(bad.parse::<HostAddress>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_range_begins_where_its_prefix_ends() {
        let range: Ipv4Range = "127.128.0.0/9".parse().unwrap();
        assert!(range.contains("127.200.1.2".parse().unwrap()));
        assert!(!range.contains("127.0.0.1".parse().unwrap()));
        assert!("127.128.0.1/9".parse::<Ipv4Range>().is_err());
        assert!("127.128.0.0/33".parse::<Ipv4Range>().is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics_a_parser(text in ".{0,80}") {
            let _ = (duration(&text), size(&text), percent(&text), text.parse::<Rate>());
            let _ = (text.parse::<Image>(), text.parse::<HostAddress>(), text.parse::<Ipv4Range>());
        }
    }
}
