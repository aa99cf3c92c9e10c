//! One HTTP exchange between two agents, as frames on a stream of its own.
//!
//! ```text
//! caller:  stream head (kind Http) | Request | Go? | Data* | Trailers? | End
//! callee:  reply (as for bytes)    | Response | Data* | Trailers? | End
//!                                  | Failed, in place of any of these
//! frame:   kind u8 | length u32 LE | content
//! ```
//!
//! A head is structure, never HTTP's text, so nothing can be smuggled from one agent to the next.
//! A request that must not be done twice waits for `Go` after the callee's `ok`: until then its
//! caller may still go elsewhere. A stream that ends without End was cut short. A caller keeps its
//! half open until it has the whole response: its reset cancels the request. Behind a Response of
//! 101 both directions are bytes.
//!
//! Never: a frame longer than its kind may be; a head that the receiver does not check again.

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use super::codec::{self, CodecError};
use crate::{http::strict::is_token, limits, manifest::traffic::Request};

/// A header: its name in lower case, and its value.
pub type Header = (String, ByteBuf);

/// A request's head.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RequestHead {
    /// The method.
    pub method: String,
    /// The host that the client asked for; empty where it said none.
    pub authority: String,
    /// The path in its canonical form.
    pub path: String,
    /// What follows `?`; `None`: there is no `?`.
    pub query: Option<String>,
    /// The headers in their order.
    pub headers: Vec<Header>,
    /// Whether the client wants to switch to the WebSocket protocol.
    pub upgrade: bool,
    /// Whether the client speaks HTTP/2: so does the service, if its port declares nothing.
    pub two: bool,
    /// Whether the service must not see it before `Go`.
    pub waits: bool,
    /// Whether no body follows.
    pub ended: bool,
}

impl RequestHead {
    /// The headers that are text, the host among them: what rules look at.
    pub fn texts(&self) -> Vec<(&str, &str)> {
        self.headers
            .iter()
            .filter_map(|(name, value)| Some((name.as_str(), std::str::from_utf8(value).ok()?)))
            .chain([("host", self.authority.as_str())])
            .collect()
    }

    /// What rules see of it, with [`Self::texts`].
    pub fn seen<'a>(&'a self, headers: &'a [(&'a str, &'a str)]) -> Request<'a> {
        Request {
            method: &self.method,
            path: &self.path,
            query: self.query.as_deref().unwrap_or_default(),
            headers,
        }
    }
}

/// A response's head.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ResponseHead {
    /// The status.
    pub status: u16,
    /// The headers in their order.
    pub headers: Vec<Header>,
    /// Whether no body follows: of gRPC that makes its headers the trailers.
    pub ended: bool,
}

/// Why a service that took a request did not answer it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Failure {
    /// Its connection ended before an answer.
    Reset,
    /// What it sent is no answer.
    Garbage,
}

/// A failure, with what is known of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Failed {
    /// What kind.
    pub failure: Failure,
    /// For people.
    pub detail: String,
}

/// What a frame carries.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameKind {
    /// A [`RequestHead`].
    Request,
    /// A [`ResponseHead`].
    Response,
    /// The service may have the request.
    Go,
    /// A piece of the body.
    Data,
    /// Headers behind the body.
    Trailers,
    /// A [`Failed`], in place of a response.
    Failed,
    /// The message is whole.
    End,
}

impl FrameKind {
    const ALL: [(u8, Self); 7] = [
        (1, Self::Request),
        (2, Self::Response),
        (3, Self::Go),
        (4, Self::Data),
        (5, Self::Trailers),
        (6, Self::Failed),
        (7, Self::End),
    ];

    /// How long its content may be.
    fn limit(self) -> usize {
        match self {
            Self::Request | Self::Response | Self::Trailers => limits::EXCHANGE_HEAD_BYTES,
            Self::Data => limits::EXCHANGE_DATA_BYTES,
            Self::Go | Self::End => 0,
            Self::Failed => limits::REASON_BYTES + 64,
        }
    }
}

/// Bytes before a frame's content.
pub const FRAME_PREFIX: usize = 5;

/// Why bytes are no frame.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FrameError {
    /// A kind that this agent does not know.
    #[error("a frame of unknown kind {0}")]
    Kind(u8),
    /// Longer than one of its kind may be.
    #[error("a frame of {0} bytes, at most {1}")]
    Oversize(usize, usize),
    /// Not what its kind says.
    #[error("a frame's content: {0}")]
    Content(#[from] CodecError),
    /// A head with a name, a path or a value that HTTP does not know.
    #[error("a frame's content is no HTTP: {0}")]
    Http(&'static str),
}

/// The bytes before a frame's content.
pub fn prefix(kind: FrameKind, length: usize) -> Result<[u8; FRAME_PREFIX], FrameError> {
    if length > kind.limit() {
        return Err(FrameError::Oversize(length, kind.limit()));
    }
    let byte = FrameKind::ALL.iter().find(|(_, one)| *one == kind).map_or(0, |(byte, _)| *byte);
    let length = u32::try_from(length).map_err(|_| FrameError::Oversize(length, kind.limit()))?;
    let [a, b, c, d] = length.to_le_bytes();
    Ok([byte, a, b, c, d])
}

/// The kind and the length that such bytes say.
pub fn parse_prefix(bytes: [u8; FRAME_PREFIX]) -> Result<(FrameKind, usize), FrameError> {
    let [byte, a, b, c, d] = bytes;
    let kind = FrameKind::ALL.iter().find(|(number, _)| *number == byte);
    let (_, kind) = kind.ok_or(FrameError::Kind(byte))?;
    let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
    if length > kind.limit() {
        return Err(FrameError::Oversize(length, kind.limit()));
    }
    Ok((*kind, length))
}

/// A whole frame around that content.
pub fn encode<T: Serialize>(kind: FrameKind, content: &T) -> Result<Vec<u8>, FrameError> {
    let content = codec::encode::<{ limits::EXCHANGE_HEAD_BYTES }, T>(content)?;
    let mut bytes = prefix(kind, content.len())?.to_vec();
    bytes.extend_from_slice(&content);
    Ok(bytes)
}

/// The request head of that content, checked.
pub fn request(content: &[u8]) -> Result<RequestHead, FrameError> {
    let head: RequestHead = codec::decode::<{ limits::EXCHANGE_HEAD_BYTES }, _>(content)?;
    check_request(&head)?;
    Ok(head)
}

/// Whether that is a head that another agent takes: to be asked before it is sent, too.
pub fn check_request(head: &RequestHead) -> Result<(), FrameError> {
    check_headers(&head.headers)?;
    // What says that a body comes where none does would eat the next request of its connection.
    let promised = head
        .headers
        .iter()
        .any(|(name, value)| name == "content-length" && value.iter().any(|digit| *digit != b'0'));
    if head.ended && promised {
        return Err(FrameError::Http("a content-length without a body"));
    }
    let is_method = (1..=limits::METHOD_BYTES).contains(&head.method.len())
        && head.method.bytes().all(is_token)
        && head.method != "CONNECT";
    if !is_method {
        return Err(FrameError::Http("the method"));
    }
    if crate::http::canonical(&head.path).ok().as_deref() != Some(&*head.path) {
        return Err(FrameError::Http("the path"));
    }
    if head.query.as_deref().is_some_and(|query| crate::http::path::check_query(query).is_err()) {
        return Err(FrameError::Http("the query"));
    }
    if head.authority.len() > limits::AUTHORITY_BYTES
        || !head.authority.bytes().all(|byte| byte.is_ascii_graphic())
    {
        return Err(FrameError::Http("the authority"));
    }
    Ok(())
}

/// The response head of that content, checked.
pub fn response(content: &[u8]) -> Result<ResponseHead, FrameError> {
    let head: ResponseHead = codec::decode::<{ limits::EXCHANGE_HEAD_BYTES }, _>(content)?;
    check_headers(&head.headers)?;
    let right = head.status == 101 || (200..=999).contains(&head.status);
    right.then_some(head).ok_or(FrameError::Http("the status"))
}

/// The trailers of that content, checked.
pub fn trailers(content: &[u8]) -> Result<Vec<Header>, FrameError> {
    let headers: Vec<Header> = codec::decode::<{ limits::EXCHANGE_HEAD_BYTES }, _>(content)?;
    check_headers(&headers)?;
    Ok(headers)
}

/// The failure of that content.
pub fn failed(content: &[u8]) -> Result<Failed, FrameError> {
    let failed: Failed = codec::decode::<{ limits::EXCHANGE_HEAD_BYTES }, _>(content)?;
    let text = !failed.detail.chars().any(char::is_control);
    text.then_some(failed).ok_or(FrameError::Http("the failure's text"))
}

fn check_headers(headers: &[Header]) -> Result<(), FrameError> {
    let mut lengths = headers.iter().filter(|(name, _)| name == "content-length");
    if let Some((_, length)) = lengths.next() {
        let number = (1..=15).contains(&length.len()) && length.iter().all(u8::is_ascii_digit);
        if !number || lengths.next().is_some() {
            return Err(FrameError::Http("the content-length"));
        }
    }
    if headers.len() > limits::EXCHANGE_HEADERS {
        return Err(FrameError::Http("too many headers"));
    }
    for (name, value) in headers {
        let good = !name.is_empty()
            && name.bytes().all(|byte| is_token(byte) && !byte.is_ascii_uppercase())
            && value.iter().all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f))
            && !matches!(&**name, "connection" | "transfer-encoding" | "upgrade" | "host");
        if !good {
            return Err(FrameError::Http("a header"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head() -> RequestHead {
        RequestHead {
            method: "GET".into(),
            authority: "web.shop".into(),
            path: "/a".into(),
            query: Some("q=1".into()),
            headers: vec![("accept".into(), ByteBuf::from(b"*/*".to_vec()))],
            upgrade: false,
            two: false,
            waits: false,
            ended: true,
        }
    }

    fn content(frame: &[u8], wanted: FrameKind) -> &[u8] {
        let (prefix, content) = frame.split_at(FRAME_PREFIX);
        let (kind, length) = parse_prefix(prefix.try_into().unwrap()).unwrap();
        assert_eq!((kind, length), (wanted, content.len()));
        content
    }

    #[test]
    fn the_bytes_of_a_request_never_change() {
        let frame = encode(FrameKind::Request, &head()).unwrap();
        let golden = "0156000000\
            0300000000000000474554\
            08000000000000007765622e73686f70\
            02000000000000002f61\
            010300000000000000713d31\
            010000000000000006000000000000006163636570740300000000000000\
            2a2f2a00000001";
        assert_eq!(data_encoding::HEXLOWER.encode(&frame), golden);
        assert_eq!(request(content(&frame, FrameKind::Request)), Ok(head()));
    }

    #[test]
    fn a_head_that_is_no_http_is_refused_whoever_sends_it() {
        let refused = |change: &dyn Fn(&mut RequestHead)| {
            let mut head = head();
            change(&mut head);
            let frame = encode(FrameKind::Request, &head).unwrap();
            request(content(&frame, FrameKind::Request)).is_err()
        };
        assert!(!refused(&|_| ()));
        assert!(refused(&|head| head.method = "GET /".into()));
        assert!(refused(&|head| head.method = "CONNECT".into()));
        assert!(refused(&|head| head.path = "/a/../b".into()));
        assert!(refused(&|head| head.path = "/%61".into()));
        assert!(refused(&|head| head.query = Some("a b".into())));
        assert!(refused(&|head| head.authority = "a\r\nx: y".into()));
        for (name, value) in
            [("a\r\nb", "c"), ("A", "c"), ("a", "b\r\nc: d"), ("a", "\0"), ("", "a")]
        {
            let header = (name.to_owned(), ByteBuf::from(value.as_bytes().to_vec()));
            assert!(refused(&move |head| head.headers.push(header.clone())), "{name:?} {value:?}");
        }
        let length =
            |text: &str| ("content-length".to_owned(), ByteBuf::from(text.as_bytes().to_vec()));
        assert!(!refused(&|head| head.headers.push(length("0"))));
        assert!(!refused(&|head| {
            head.headers.push(length("3"));
            head.ended = false;
        }));
        assert!(refused(&|head| {
            head.headers.push(length("3"));
            head.ended = true;
        }));
        assert!(refused(&|head| head.headers.extend([length("3"), length("3")])));
        assert!(refused(&|head| head.headers.push(length("+3"))));
        assert!(refused(&|head| head.headers.push(("transfer-encoding".into(), ByteBuf::new()))));
        assert!(refused(&|head| head.headers = vec![("a".into(), ByteBuf::new()); 200]));
    }

    #[test]
    fn frames_are_bounded_by_their_kind() {
        assert!(prefix(FrameKind::Data, limits::EXCHANGE_DATA_BYTES).is_ok());
        assert!(prefix(FrameKind::Data, limits::EXCHANGE_DATA_BYTES + 1).is_err());
        assert_eq!(parse_prefix([4, 255, 255, 255, 255]).ok(), None);
        assert_eq!(parse_prefix([3, 1, 0, 0, 0]).ok(), None);
        assert_eq!(parse_prefix([9, 0, 0, 0, 0]), Err(FrameError::Kind(9)));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = (request(&bytes), response(&bytes), trailers(&bytes), failed(&bytes));
        }
    }
}
