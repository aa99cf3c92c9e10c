//! The head and the reply of a data stream.
//!
//! ```text
//! caller:  kind u8 | version u8 | length u16 LE | body, canonical        then, after `ok`, bytes
//! callee:  code u8, and unless it is `ok`: length u16 LE | reason, UTF-8 then, after `ok`, bytes
//! ```
//!
//! The kind byte is [`StreamKind`]'s, so whoever accepts streams tells kinds apart before this
//! file is asked. The body's layout is frozen: new things are new sections.
//!
//! Never: reads more than [`limits::STREAM_HEAD_BYTES`] or [`limits::REASON_BYTES`], believes a
//! source's name (the receiver checks it against the peer's grant).

use std::{fmt, net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    codec::{self, CodecError},
    kind::StreamKind,
};
use crate::{clock::millis, limits, name::ServiceName, record::node::InstanceId};

/// The version of the layout below.
pub const STREAM_VERSION: u8 = 1;
/// Version and length: what stands between the kind byte and the body.
pub const PREFIX_BYTES: usize = 3;
/// Sections with a tag from here on may be skipped when unknown.
pub const SKIPPABLE: u16 = 0x8000;

/// A data stream is reset with this: the application reset its connection.
pub const RESET_BY_APPLICATION: u32 = 16;
/// A data stream is reset with this: nothing moved for too long.
pub const RESET_IDLE: u32 = 17;
/// A data stream is reset with this: the agent's time to drain is over.
pub const RESET_DRAINED: u32 = 18;
/// A data stream is reset with this: the caller goes to another endpoint.
pub const RESET_GAVE_UP: u32 = 19;
/// A data stream is reset with this: its head was late, cut short or malformed.
pub const RESET_BAD_HEAD: u32 = 20;
/// A data stream is reset with this: policy no longer allows the call.
pub const RESET_DENIED: u32 = 22;
/// Reading is stopped with this behind a refusal.
pub const STOP_REFUSED: u32 = 21;

/// Who calls.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub enum Source {
    /// The calling node itself: nothing proved a service.
    Node,
    /// A service of the calling node. Its grant must cover it.
    Service(ServiceName),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node => f.write_str("node"),
            Self::Service(name) => name.fmt(f),
        }
    }
}

/// The section that says that the call came in by a gateway. It has no content.
pub const OUTSIDE: u16 = 1;
const KNOWN: [u16; 1] = [OUTSIDE];

/// Something said of a call besides the fixed fields.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Section {
    /// What it is: [`OUTSIDE`].
    pub tag: u16,
    /// Its content.
    pub bytes: Vec<u8>,
}

/// What a stream asks for: the body of the head.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct StreamHead {
    /// The service called.
    pub destination: ServiceName,
    /// The instance that the caller chose; `None` leaves it to the serving node.
    pub instance: Option<InstanceId>,
    /// The port called, as the service's callers see it.
    pub port: u16,
    /// Who calls.
    pub source: Source,
    /// The application's address where it is known, for logs.
    pub client: Option<SocketAddr>,
    /// For how many more milliseconds the caller waits for the reply; 0 says nothing.
    pub deadline_ms: u32,
    /// Agents that passed the call on before this one.
    pub hops: u8,
    /// The serving node's boot as the caller knows it: another one is another life.
    pub boot: Option<u64>,
    /// Sorted by tag, each tag once.
    pub sections: Vec<Section>,
}

/// Why a head is not one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum HeadError {
    /// Of a version that this agent does not speak.
    #[error("stream head of version {0}, this agent speaks {STREAM_VERSION}")]
    Version(u8),
    /// Longer than a head may be.
    #[error("a stream head of {0} bytes, at most {max}", max = limits::STREAM_HEAD_BYTES)]
    Oversize(usize),
    /// Not a body in canonical form.
    #[error("stream head: {0}")]
    Body(#[from] CodecError),
    /// Sections not sorted, or a tag twice.
    #[error("stream head: sections out of order")]
    Unsorted,
    /// A section that must be understood and is not.
    #[error("stream head: section {0} is unknown to this agent")]
    Unknown(u16),
}

impl StreamHead {
    /// A head with the fields that every call has; the others say nothing.
    pub fn new(destination: ServiceName, port: u16, source: Source) -> Self {
        Self {
            destination,
            instance: None,
            port,
            source,
            client: None,
            deadline_ms: 0,
            hops: 0,
            boot: None,
            sections: Vec::new(),
        }
    }

    /// All bytes with which the stream begins, the kind byte first.
    pub fn encode(&self) -> Result<Vec<u8>, HeadError> {
        self.encode_as(StreamKind::Tcp)
    }

    /// The same for a stream of that kind: bytes, or an HTTP exchange.
    pub fn encode_as(&self, kind: StreamKind) -> Result<Vec<u8>, HeadError> {
        self.check_order()?;
        let body = codec::encode::<{ limits::STREAM_HEAD_BYTES }, _>(self)?;
        let length = u16::try_from(body.len()).map_err(|_| HeadError::Oversize(body.len()))?;
        let mut bytes = Vec::with_capacity(1 + PREFIX_BYTES + body.len());
        bytes.push(kind.byte());
        bytes.push(STREAM_VERSION);
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&body);
        Ok(bytes)
    }

    /// How long the body is that follows these bytes, which follow the kind byte.
    pub fn body_length(prefix: [u8; PREFIX_BYTES]) -> Result<usize, HeadError> {
        let [version, low, high] = prefix;
        if version != STREAM_VERSION {
            return Err(HeadError::Version(version));
        }
        let length = usize::from(u16::from_le_bytes([low, high]));
        if length > limits::STREAM_HEAD_BYTES {
            return Err(HeadError::Oversize(length));
        }
        Ok(length)
    }

    /// The head of that body.
    pub fn decode(body: &[u8]) -> Result<Self, HeadError> {
        let head: Self = codec::decode::<{ limits::STREAM_HEAD_BYTES }, _>(body)?;
        head.check_order()?;
        let unknown = |one: &&Section| one.tag < SKIPPABLE && !KNOWN.contains(&one.tag);
        match head.sections.iter().find(unknown) {
            Some(unknown) => Err(HeadError::Unknown(unknown.tag)),
            None => Ok(head),
        }
    }

    /// Whether the call came in by a gateway.
    pub fn outside(&self) -> bool {
        self.sections.iter().any(|section| section.tag == OUTSIDE)
    }

    /// The same head of a call that came in by a gateway, or not.
    #[must_use]
    pub fn from_outside(mut self, outside: bool) -> Self {
        self.sections.retain(|section| section.tag != OUTSIDE);
        if outside {
            self.sections.insert(0, Section { tag: OUTSIDE, bytes: Vec::new() });
        }
        self
    }

    /// For how long the caller still waits, where it says so.
    pub fn deadline(&self) -> Option<Duration> {
        (self.deadline_ms > 0).then(|| Duration::from_millis(u64::from(self.deadline_ms)))
    }

    /// The same head with that deadline, at least one millisecond.
    pub fn with_deadline(mut self, left: Duration) -> Self {
        self.deadline_ms = u32::try_from(millis(left)).unwrap_or(u32::MAX).max(1);
        self
    }

    fn check_order(&self) -> Result<(), HeadError> {
        let tags = self.sections.iter().map(|section| section.tag);
        if tags.clone().zip(tags.skip(1)).all(|(tag, next)| tag < next) {
            Ok(())
        } else {
            Err(HeadError::Unsorted)
        }
    }
}

/// Why the serving agent does not carry a call. Nothing of it reached an application.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Refusal {
    /// Policy, or a source that the peer's grant does not cover. No other endpoint is tried.
    Denied,
    /// Not served here.
    NoService,
    /// A bound on streams is reached.
    Overload,
    /// It finishes what it has.
    Draining,
    /// The application behind it did not take the connection.
    ConnectFailed,
    /// A RateLimit of the instance is reached. No other endpoint is tried: the caller is too fast.
    RateLimited,
}

impl Refusal {
    /// Every refusal.
    pub const ALL: [Self; 6] = [
        Self::Denied,
        Self::NoService,
        Self::Overload,
        Self::Draining,
        Self::ConnectFailed,
        Self::RateLimited,
    ];

    /// The word of the command line, the log and the metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::NoService => "no_service",
            Self::Overload => "overload",
            Self::Draining => "draining",
            Self::ConnectFailed => "connect_failed",
            Self::RateLimited => "rate_limited",
        }
    }

    /// Whether another endpoint may be tried.
    pub fn elsewhere(self) -> bool {
        !matches!(self, Self::Denied | Self::RateLimited)
    }

    fn byte(self) -> u8 {
        match self {
            Self::Denied => 1,
            Self::NoService => 2,
            Self::Overload => 3,
            Self::Draining => 4,
            Self::ConnectFailed => 5,
            Self::RateLimited => 6,
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.byte() == byte)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What the serving agent answers before any byte of the application.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Reply {
    /// The application took the connection: bytes follow.
    Ok,
    /// It is not carried.
    Refused {
        /// What kind of refusal.
        code: Refusal,
        /// For people: what happened and what to do.
        reason: String,
    },
}

/// Why bytes are no reply.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReplyError {
    /// A code that this agent does not know.
    #[error("unknown reply code {0}")]
    Code(u8),
    /// A reason longer than one may be.
    #[error("a reason of {0} bytes, at most {max}", max = limits::REASON_BYTES)]
    Oversize(usize),
    /// A reason that is no text, or has control characters.
    #[error("a reason that is not text")]
    Text,
}

/// What the first byte of a reply says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReplyStart {
    /// The reply is whole.
    Ok,
    /// Two bytes of length (little-endian) and a reason follow.
    Refused(Refusal),
}

impl Reply {
    /// A refusal. What the reason has over its bound is cut, control characters become spaces.
    pub fn refused(code: Refusal, reason: &str) -> Self {
        let mut text = String::new();
        for c in reason.chars() {
            let c = if c.is_control() { ' ' } else { c };
            if text.len() + c.len_utf8() > limits::REASON_BYTES {
                break;
            }
            text.push(c);
        }
        Self::Refused { code, reason: text }
    }

    /// Its bytes. A reason over its bound is cut as [`Self::refused`] cuts it.
    pub fn encode(&self) -> Vec<u8> {
        let (code, reason) = match self {
            Self::Ok => return vec![OK],
            Self::Refused { code, reason } => (*code, reason),
        };
        let Self::Refused { reason, .. } = Self::refused(code, reason) else {
            return vec![OK];
        };
        let length = u16::try_from(reason.len()).unwrap_or(u16::MAX);
        let mut bytes = vec![code.byte()];
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(reason.as_bytes());
        bytes
    }

    /// What the first byte says.
    pub fn start(byte: u8) -> Result<ReplyStart, ReplyError> {
        if byte == OK {
            return Ok(ReplyStart::Ok);
        }
        let code = Refusal::from_byte(byte).ok_or(ReplyError::Code(byte))?;
        Ok(ReplyStart::Refused(code))
    }

    /// How long the reason is that follows these two bytes.
    pub fn reason_length(bytes: [u8; 2]) -> Result<usize, ReplyError> {
        let length = usize::from(u16::from_le_bytes(bytes));
        if length > limits::REASON_BYTES {
            return Err(ReplyError::Oversize(length));
        }
        Ok(length)
    }

    /// The refusal of that code and reason.
    pub fn decode_refused(code: Refusal, reason: &[u8]) -> Result<Self, ReplyError> {
        if reason.len() > limits::REASON_BYTES {
            return Err(ReplyError::Oversize(reason.len()));
        }
        let text = std::str::from_utf8(reason).map_err(|_| ReplyError::Text)?;
        if text.chars().any(char::is_control) {
            return Err(ReplyError::Text);
        }
        Ok(Self::Refused { code, reason: text.to_owned() })
    }
}

const OK: u8 = 0;
const _: () = assert!(limits::STREAM_HEAD_BYTES <= 0xffff && limits::REASON_BYTES <= 0xffff);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head() -> StreamHead {
        StreamHead {
            destination: "shop/db".parse().unwrap(),
            instance: Some(InstanceId {
                document: "db".parse().unwrap(),
                endpoint: "a".parse().unwrap(),
            }),
            port: 3306,
            source: Source::Service("shop/web".parse().unwrap()),
            client: Some("127.0.0.1:999".parse().unwrap()),
            deadline_ms: 500,
            hops: 1,
            boot: Some(7),
            sections: vec![Section { tag: SKIPPABLE, bytes: vec![9] }],
        }
    }

    /// Reads a whole stream start the way an agent does, kind byte first.
    fn read(bytes: &[u8]) -> Result<StreamHead, HeadError> {
        assert_eq!(bytes[0], StreamKind::Tcp.byte());
        let length = StreamHead::body_length([bytes[1], bytes[2], bytes[3]])?;
        assert_eq!(bytes.len(), 4 + length);
        StreamHead::decode(&bytes[4..])
    }

    #[test]
    fn the_bytes_of_a_head_never_change() {
        let golden = "03016500\
            070000000000000073686f702f6462\
            01020000000000000064620100000000000000\
            61ea0c\
            01000000080000000000000073686f702f776562\
            01000000007f000001e703\
            f4010000\
            01\
            010700000000000000\
            01000000000000000080010000000000000009";
        let bytes = head().encode().unwrap();
        assert_eq!(data_encoding::HEXLOWER.encode(&bytes), golden);
        assert_eq!(read(&bytes), Ok(head()));
    }

    #[test]
    fn the_bytes_of_a_reply_never_change() {
        assert_eq!(Reply::Ok.encode(), [0]);
        let refused = Reply::refused(Refusal::Draining, "later");
        assert_eq!(refused.encode(), b"\x04\x05\x00later");
        let codes: Vec<u8> = Refusal::ALL.iter().map(|code| code.byte()).collect();
        assert_eq!(codes, [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn a_reason_is_cut_at_a_character_and_has_no_control_characters() {
        let Reply::Refused { reason, .. } = Reply::refused(Refusal::Denied, &"ä\n".repeat(300))
        else {
            panic!("a refusal");
        };
        assert!(reason.len() <= limits::REASON_BYTES && reason.len() > limits::REASON_BYTES - 3);
        assert!(!reason.contains('\n'));
    }

    #[test]
    fn another_version_an_oversize_length_and_an_unknown_section_are_refused() {
        assert_eq!(StreamHead::body_length([2, 0, 0]), Err(HeadError::Version(2)));
        assert_eq!(StreamHead::body_length([1, 0xff, 0xff]), Err(HeadError::Oversize(0xffff)));
        let must = StreamHead { sections: vec![Section { tag: 3, bytes: Vec::new() }], ..head() };
        assert_eq!(read(&must.encode().unwrap()), Err(HeadError::Unknown(3)));
        let twice = StreamHead { sections: [head().sections, head().sections].concat(), ..head() };
        assert_eq!(twice.encode(), Err(HeadError::Unsorted));
        let body = codec::encode::<{ limits::STREAM_HEAD_BYTES }, _>(&twice).unwrap();
        assert_eq!(StreamHead::decode(&body), Err(HeadError::Unsorted));
    }

    #[test]
    fn bytes_left_over_and_other_forms_are_refused() {
        let mut bytes = head().encode().unwrap();
        bytes.push(0);
        assert!(StreamHead::decode(&bytes[4..]).is_err());
    }

    fn any_head() -> impl Strategy<Value = StreamHead> {
        let name = || "[a-z][a-z0-9]{0,62}/[a-z][a-z0-9]{0,20}";
        let label = || "[a-z][a-z0-9]{0,10}";
        let client = proptest::option::of((any::<[u8; 4]>(), any::<u16>()));
        let tags = proptest::collection::btree_map(SKIPPABLE.., any::<Vec<u8>>(), 0..4);
        (
            (name(), proptest::option::of(name()), any::<u16>(), client),
            (any::<u32>(), any::<u8>(), any::<Option<u64>>(), tags),
            proptest::option::of((label(), label())),
        )
            .prop_map(
                |((to, source, port, client), (deadline_ms, hops, boot, tags), at)| StreamHead {
                    destination: to.parse().unwrap(),
                    instance: at.map(|(document, endpoint)| InstanceId {
                        document: document.parse().unwrap(),
                        endpoint: endpoint.parse().unwrap(),
                    }),
                    port,
                    source: source.map_or(Source::Node, |n| Source::Service(n.parse().unwrap())),
                    client: client.map(SocketAddr::from),
                    deadline_ms,
                    hops,
                    boot,
                    sections: tags.into_iter().map(|(tag, bytes)| Section { tag, bytes }).collect(),
                },
            )
    }

    proptest! {
        #[test]
        fn decoding_undoes_encoding(head in any_head()) {
            let bytes = head.encode().unwrap();
            prop_assert_eq!(read(&bytes), Ok(head));
        }

        #[test]
        fn a_damaged_head_never_panics_and_is_canonical_if_taken(
            head in any_head(), at in any::<proptest::sample::Index>(), bit in 0u8..8
        ) {
            let mut bytes = head.encode().unwrap();
            let place = 4 + at.index(bytes.len() - 4);
            bytes[place] ^= 1 << bit;
            if let Ok(other) = StreamHead::decode(&bytes[4..]) {
                prop_assert_eq!(&other.encode().unwrap()[4..], &bytes[4..]);
            }
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..5000)) {
            if let Ok(head) = StreamHead::decode(&bytes) {
                prop_assert_eq!(&head.encode().unwrap()[4..], &bytes[..]);
            }
        }

        #[test]
        fn a_reply_reads_back_as_it_was(code in 0usize..5, reason in "\\PC{0,400}") {
            let reply = Reply::refused(Refusal::ALL[code], &reason);
            let bytes = reply.encode();
            let Ok(ReplyStart::Refused(code)) = Reply::start(bytes[0]) else {
                panic!("a refusal");
            };
            let length = Reply::reason_length([bytes[1], bytes[2]]).unwrap();
            prop_assert_eq!(bytes.len(), 3 + length);
            prop_assert_eq!(Reply::decode_refused(code, &bytes[3..]), Ok(reply));
        }
    }
}
