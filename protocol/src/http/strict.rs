//! The strict reader: stands before the HTTP/1 parser and lets through only what it cannot
//! misread.
//!
//! ```text
//! bytes -> Head -> Body | Chunks -> Head ...      a whole head goes on at once, or not at all
//!                  Switching -> Raw               after an upgrade that was answered with 101
//! ```
//!
//! It knows where each message ends (RFC 9112 6), so that nothing hides behind one: of two
//! lengths, an odd transfer coding, a bare CR or LF, a folded line, a space before a colon, a
//! control character or two hosts each is a fault. Nothing comes after a fault.

use crate::limits;

/// Why a message is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Fault {
    /// A line that ends in LF alone, or a CR within one.
    #[error("a CR or LF that is not a line's end")]
    Newline,
    /// Not METHOD, space, target, space, HTTP/1.1 or HTTP/1.0.
    #[error("a request line that is not `METHOD target HTTP/1.1`")]
    RequestLine,
    /// No colon, or a name with characters that none may have, a space before the colon included.
    #[error("a header whose name is not one")]
    Name,
    /// A control character in a value.
    #[error("a control character in a header's value")]
    Value,
    /// A line that continues the one before it.
    #[error("a folded header line")]
    Folded,
    /// Longer than it may be.
    #[error("a head of more than {} bytes", limits::HTTP_HEAD_BYTES)]
    Large,
    /// More than there may be.
    #[error("more than {} headers", limits::HTTP_HEADERS)]
    Many,
    /// A content length that is no number, or more than one.
    #[error("a content-length that is not one number")]
    Length,
    /// A transfer coding other than `chunked`, once, of HTTP/1.1.
    #[error("a transfer-encoding that is not just `chunked`")]
    Coding,
    /// Both a content length and a transfer coding.
    #[error("both a content-length and a transfer-encoding")]
    Both,
    /// No host, or more than one, or another than the target's.
    #[error("not exactly one host")]
    Host,
    /// A chunk's size or end that is not one.
    #[error("a chunk that is not one")]
    Chunk,
    /// A trailer that frames a message.
    #[error("a trailer that frames a message")]
    Trailer,
    /// Bytes behind a request to switch protocols, before its answer; or a body in it.
    #[error("bytes behind an upgrade that is not answered yet")]
    Early,
}

impl Fault {
    /// The status of the answer (RFC 9110 15.5, RFC 6585 5).
    pub fn status(self) -> u16 {
        match self {
            Self::Large | Self::Many => 431,
            _ => 400,
        }
    }
}

/// Follows what a client sends on one connection of HTTP/1.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Strict {
    state: State,
    /// A head, a chunk's size or trailers, as far as they are there.
    held: Vec<u8>,
    /// Where its last line begins.
    line: usize,
    head: Head,
    broke_body: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Head,
    Body(u64),
    ChunkSize,
    ChunkData(u64),
    /// Of the CRLF behind a chunk, so many bytes are there.
    ChunkEnd(u8),
    Trailers,
    Switching,
    Raw,
    Faulty,
}

/// What the lines of a head said so far.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Head {
    lines: usize,
    old: bool,
    target: Option<Vec<u8>>,
    host: Option<Vec<u8>>,
    length: Option<u64>,
    chunked: bool,
    upgrades: bool,
}

impl Default for Strict {
    fn default() -> Self {
        Self {
            state: State::Head,
            held: Vec::new(),
            line: 0,
            head: Head::default(),
            broke_body: false,
        }
    }
}

impl Strict {
    /// Whether the client is in the middle of a head: it must not take long.
    pub fn within_head(&self) -> bool {
        self.state == State::Head && !self.held.is_empty()
    }

    /// Whether nothing of a next message is there yet.
    pub fn between(&self) -> bool {
        self.state == State::Head && self.held.is_empty()
    }

    /// Whether a body is to come.
    pub fn within_body(&self) -> bool {
        matches!(
            self.state,
            State::Body(_)
                | State::ChunkSize
                | State::ChunkData(_)
                | State::ChunkEnd(_)
                | State::Trailers
        )
    }

    /// Whether the fault lies behind a head that has gone on already: there is a request to end,
    /// rather than one to answer.
    pub fn broke_body(&self) -> bool {
        self.broke_body
    }

    /// Whether the protocol was switched.
    pub fn switched(&self) -> bool {
        self.state == State::Raw
    }

    /// The request to switch protocols was answered: with 101, or in another way.
    pub fn answered(&mut self, switched: bool) {
        if self.state == State::Switching {
            self.state = if switched { State::Raw } else { State::Head };
        }
    }

    /// Looks at the next bytes that came; what may go on is put behind `out`.
    pub fn take(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        let done = self.advance(bytes, out);
        if done.is_err() {
            self.broke_body = self.within_body() || self.state == State::Switching;
            self.state = State::Faulty;
        }
        done
    }

    fn advance(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Fault> {
        while !bytes.is_empty() {
            bytes = match self.state {
                State::Raw => {
                    out.extend_from_slice(bytes);
                    &[]
                }
                State::Switching => return Err(Fault::Early),
                State::Faulty => &[],
                State::Body(left) => {
                    let (taken, left, rest) = pass(bytes, left, out);
                    self.state = if left == 0 { State::Head } else { State::Body(left) };
                    debug_assert!(taken > 0);
                    rest
                }
                State::ChunkData(left) => {
                    let (_, left, rest) = pass(bytes, left, out);
                    self.state =
                        if left == 0 { State::ChunkEnd(0) } else { State::ChunkData(left) };
                    rest
                }
                State::ChunkEnd(have) => {
                    let (byte, rest) = bytes.split_first().ok_or(Fault::Chunk)?;
                    let wanted = if have == 0 { b'\r' } else { b'\n' };
                    if *byte != wanted {
                        return Err(Fault::Chunk);
                    }
                    out.push(*byte);
                    self.state = if have == 0 { State::ChunkEnd(1) } else { State::ChunkSize };
                    rest
                }
                State::Head | State::ChunkSize | State::Trailers => self.lines(bytes, out)?,
            };
        }
        Ok(())
    }

    /// Takes bytes up to the end of a line, and the line if it is whole.
    fn lines<'a>(&mut self, bytes: &'a [u8], out: &mut Vec<u8>) -> Result<&'a [u8], Fault> {
        let end = bytes.iter().position(|byte| *byte == b'\n');
        let (piece, rest) = bytes.split_at(end.map_or(bytes.len(), |end| end + 1));
        let (limit, fault) = match self.state {
            State::ChunkSize => (limits::HTTP_CHUNK_LINE_BYTES, Fault::Chunk),
            _ => (limits::HTTP_HEAD_BYTES, Fault::Large),
        };
        if self.held.len().saturating_add(piece.len()) > limit {
            return Err(fault);
        }
        self.held.extend_from_slice(piece);
        if end.is_none() {
            return Ok(rest);
        }
        let held = std::mem::take(&mut self.held);
        let line = held.get(self.line..).unwrap_or_default();
        let line = line.strip_suffix(b"\r\n").ok_or(Fault::Newline)?;
        if line.contains(&b'\r') {
            return Err(Fault::Newline);
        }
        match self.state {
            State::ChunkSize => {
                let size = chunk_size(line)?;
                self.state = if size == 0 { State::Trailers } else { State::ChunkData(size) };
                out.extend_from_slice(&held);
                self.line = 0;
                self.head.lines = 0;
            }
            _ if line.is_empty() => {
                if self.state == State::Head {
                    let then = self.head.then()?;
                    if then == State::Switching && !rest.is_empty() {
                        return Err(Fault::Early);
                    }
                    self.state = then;
                } else {
                    self.state = State::Head;
                }
                out.extend_from_slice(&held);
                (self.line, self.head) = (0, Head::default());
            }
            _ => {
                let trailers = self.state == State::Trailers;
                if self.head.lines > limits::HTTP_HEADERS {
                    return Err(Fault::Many);
                }
                if self.head.lines == 0 && !trailers {
                    self.head.request_line(line)?;
                } else {
                    self.head.header(line, trailers)?;
                }
                self.head.lines += 1;
                self.line = held.len();
                self.held = held;
            }
        }
        Ok(rest)
    }
}

/// Passes on at most `left` bytes: how many, what is left of them, what comes behind.
fn pass<'a>(bytes: &'a [u8], left: u64, out: &mut Vec<u8>) -> (usize, u64, &'a [u8]) {
    let taken = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
    let (piece, rest) = bytes.split_at(taken);
    out.extend_from_slice(piece);
    (taken, left.saturating_sub(u64::try_from(taken).unwrap_or(u64::MAX)), rest)
}

impl Head {
    fn request_line(&mut self, line: &[u8]) -> Result<(), Fault> {
        let mut parts = line.split(|byte| *byte == b' ');
        let (method, target, version) = (parts.next(), parts.next(), parts.next());
        let (Some(method), Some(target), Some(version), None) =
            (method, target, version, parts.next())
        else {
            return Err(Fault::RequestLine);
        };
        self.old = match version {
            b"HTTP/1.1" => false,
            b"HTTP/1.0" => true,
            _ => return Err(Fault::RequestLine),
        };
        let is_method = (1..=limits::METHOD_BYTES).contains(&method.len())
            && method.iter().all(|byte| is_token(*byte));
        let is_target =
            !target.is_empty() && target.iter().all(|byte| (b'!'..=b'~').contains(byte));
        if !is_method || !is_target {
            return Err(Fault::RequestLine);
        }
        let authority = |text: &[u8]| {
            let end = text.iter().position(|byte| b"/?#".contains(byte));
            text.get(..end.unwrap_or(text.len())).unwrap_or_default().to_ascii_lowercase()
        };
        self.target = [&b"http://"[..], b"https://"]
            .into_iter()
            .find(|scheme| {
                target.get(..scheme.len()).is_some_and(|text| text.eq_ignore_ascii_case(scheme))
            })
            .map(|scheme| authority(target.get(scheme.len()..).unwrap_or_default()));
        Ok(())
    }

    fn header(&mut self, line: &[u8], trailer: bool) -> Result<(), Fault> {
        if matches!(line.first(), Some(b' ' | b'\t')) {
            return Err(Fault::Folded);
        }
        let colon = line.iter().position(|byte| *byte == b':').ok_or(Fault::Name)?;
        let (name, value) = line.split_at(colon);
        if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
            return Err(Fault::Name);
        }
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        if !value.iter().all(|byte| *byte == b'\t' || (*byte >= b' ' && *byte != 0x7f)) {
            return Err(Fault::Value);
        }
        let name = name.to_ascii_lowercase();
        if trailer {
            let frames = name == b"host"
                || std::str::from_utf8(&name)
                    .is_ok_and(|name| limits::FRAMING_HEADERS.contains(&name));
            return if frames { Err(Fault::Trailer) } else { Ok(()) };
        }
        match &*name {
            b"content-length" => {
                let length = number(value, 10).ok_or(Fault::Length)?;
                if self.length.replace(length).is_some() {
                    return Err(Fault::Length);
                }
            }
            b"transfer-encoding" => {
                if self.chunked || self.old || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Fault::Coding);
                }
                self.chunked = true;
            }
            b"host" if self.host.is_some() => return Err(Fault::Host),
            b"host" => self.host = Some(value.to_ascii_lowercase()),
            b"upgrade" => self.upgrades |= is_websocket(value),
            _ => {}
        }
        Ok(())
    }

    /// What comes behind this head.
    fn then(&self) -> Result<State, Fault> {
        if self.lines == 0 {
            return Err(Fault::RequestLine);
        }
        match (&self.host, &self.target) {
            (None, _) if !self.old => return Err(Fault::Host),
            (Some(host), Some(target)) if host != target => return Err(Fault::Host),
            _ => {}
        }
        match (self.length, self.chunked) {
            (Some(_), true) => Err(Fault::Both),
            (length, chunked) if self.upgrades => match chunked || length.unwrap_or(0) > 0 {
                true => Err(Fault::Early),
                false => Ok(State::Switching),
            },
            (None, true) => Ok(State::ChunkSize),
            (Some(0) | None, false) => Ok(State::Head),
            (Some(length), false) => Ok(State::Body(length)),
        }
    }
}

/// Whether an `upgrade` header asks for the one protocol that is switched to.
pub fn is_websocket(value: &[u8]) -> bool {
    value.trim_ascii().eq_ignore_ascii_case(b"websocket")
}

fn chunk_size(line: &[u8]) -> Result<u64, Fault> {
    let end = line.iter().position(|byte| *byte == b';').unwrap_or(line.len());
    let (size, extension) = line.split_at(end);
    if !extension.iter().all(|byte| *byte == b'\t' || (b' '..=b'~').contains(byte)) {
        return Err(Fault::Chunk);
    }
    number(size, 16).ok_or(Fault::Chunk)
}

/// Digits and nothing else, at most 15 of them, so that no reader's number overflows.
fn number(text: &[u8], base: u32) -> Option<u64> {
    if !(1..=15).contains(&text.len()) {
        return None;
    }
    text.iter().try_fold(0u64, |number, byte| {
        let digit = char::from(*byte).to_digit(base)?;
        number.checked_mul(u64::from(base))?.checked_add(u64::from(digit))
    })
}

/// RFC 9110 5.6.2.
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(bytes: &[u8]) -> Result<Vec<u8>, Fault> {
        let mut out = Vec::new();
        Strict::default().take(bytes, &mut out).map(|()| out)
    }

    const GOOD: [&[u8]; 8] = [
        b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"POST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\nabc",
        b"POST /x HTTP/1.0\r\ncontent-length: 1\r\n\r\na",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nx-sum: 1\r\n\r\n",
        b"GET http://A/x HTTP/1.1\r\nhost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nx: caf\xc3\xa9\r\nempty:\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n",
    ];

    #[test]
    fn what_is_right_goes_on_as_it_is_one_behind_the_other() {
        for good in GOOD {
            assert_eq!(all(good).as_deref(), Ok(good), "{}", String::from_utf8_lossy(good));
        }
        let many = GOOD.concat();
        assert_eq!(all(&many), Ok(many));
    }

    #[test]
    fn each_way_to_hide_a_request_is_a_fault_and_its_head_never_goes_on() {
        use Fault::*;
        let request = |headers: &str| format!("POST / HTTP/1.1\r\nhost: a\r\n{headers}\r\n\r\n");
        for (headers, fault) in [
            ("content-length: 3\r\ntransfer-encoding: chunked", Both),
            ("transfer-encoding: chunked\r\ncontent-length: 3", Both),
            ("content-length: 3\r\ncontent-length: 4", Length),
            ("content-length: 3\r\ncontent-length: 3", Length),
            ("content-length: 3, 3", Length),
            ("content-length: +3", Length),
            ("content-length: 0x3", Length),
            ("content-length: -1", Length),
            ("content-length: 1 2", Length),
            ("content-length: 9999999999999999999", Length),
            ("content-length:", Length),
            ("transfer-encoding: gzip, chunked", Coding),
            ("transfer-encoding: chunked, chunked", Coding),
            ("transfer-encoding: chunked\r\ntransfer-encoding: chunked", Coding),
            ("transfer-encoding: xchunked", Coding),
            ("transfer-encoding: identity", Coding),
            ("transfer-encoding:\x0bchunked", Value),
            ("transfer-encoding : chunked", Name),
            (" transfer-encoding: chunked", Folded),
            ("x: 1\r\n chunked", Folded),
            ("x: 1\n", Newline),
            ("x: 1\nTransfer-Encoding: chunked", Newline),
            ("x: 1\rTransfer-Encoding: chunked", Newline),
            ("x: a\0b", Value),
            ("x\0: a", Name),
            (": a", Name),
            ("x", Name),
            ("host: b", Host),
            ("upgrade: websocket\r\ncontent-length: 3", Early),
        ] {
            assert_eq!(all(request(headers).as_bytes()), Err(fault), "{headers:?}");
        }
        for (text, fault) in [
            ("GET / HTTP/1.1\r\n\r\n", Host),
            ("GET http://b/ HTTP/1.1\r\nhost: a\r\n\r\n", Host),
            ("GET  / HTTP/1.1\r\nhost: a\r\n\r\n", RequestLine),
            ("GET / HTTP/1.1 \r\nhost: a\r\n\r\n", RequestLine),
            ("GET /\0 HTTP/1.1\r\nhost: a\r\n\r\n", RequestLine),
            ("GET / HTTP/0.9\r\nhost: a\r\n\r\n", RequestLine),
            ("GET /\r\n\r\n", RequestLine),
            ("\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n", RequestLine),
            ("GET /\tHTTP/1.1\r\nhost: a\r\n\r\n", RequestLine),
            ("POST / HTTP/1.0\r\ntransfer-encoding: chunked\r\n\r\n", Coding),
            ("GET / HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\n\r\nGET", Early),
        ] {
            assert_eq!(all(text.as_bytes()), Err(fault), "{text:?}");
        }
        let mut out = Vec::new();
        let first = b"GET /1 HTTP/1.1\r\nhost: a\r\n\r\n";
        let both = [&first[..], b"GET /2 HTTP/1.1\r\nhost: a\nhost: b\r\n\r\n"].concat();
        assert_eq!(Strict::default().take(&both, &mut out), Err(Newline));
        assert_eq!(out, first);
    }

    #[test]
    fn chunks_that_two_readers_end_in_two_places_are_faults() {
        let head = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
        for (body, fault) in [
            ("3\nabc\r\n", Fault::Newline),
            ("3 \r\nabc\r\n", Fault::Chunk),
            ("0x3\r\nabc\r\n", Fault::Chunk),
            ("-1\r\n", Fault::Chunk),
            ("\r\n", Fault::Chunk),
            ("3\r\nabcd\r\n", Fault::Chunk),
            ("3\r\nabc\n", Fault::Chunk),
            ("3;a\x01\r\nabc\r\n", Fault::Chunk),
            ("fffffffffffffffff\r\n", Fault::Chunk),
            ("0\r\ncontent-length: 5\r\n\r\n", Fault::Trailer),
            ("0\r\n x: 5\r\n\r\n", Fault::Folded),
        ] {
            assert_eq!(all(format!("{head}{body}").as_bytes()), Err(fault), "{body:?}");
        }
        let long = format!("{head}1;{}\r\n", "a".repeat(limits::HTTP_CHUNK_LINE_BYTES));
        assert_eq!(all(long.as_bytes()), Err(Fault::Chunk));
    }

    #[test]
    fn a_head_is_bounded_by_bytes_and_by_lines() {
        let head = |headers: String| format!("GET / HTTP/1.1\r\nhost: a\r\n{headers}\r\n");
        let lines = |count: usize| head("a: b\r\n".repeat(count));
        assert!(all(lines(limits::HTTP_HEADERS - 1).as_bytes()).is_ok());
        assert_eq!(all(lines(limits::HTTP_HEADERS).as_bytes()), Err(Fault::Many));
        let long = head(format!("a: {}\r\n", "b".repeat(limits::HTTP_HEAD_BYTES)));
        assert_eq!(all(long.as_bytes()), Err(Fault::Large));
        assert_eq!((Fault::Large.status(), Fault::Both.status()), (431, 400));
    }

    #[test]
    fn after_an_upgrade_bytes_go_on_only_when_it_was_answered() {
        let ask = b"GET / HTTP/1.1\r\nhost: a\r\nupgrade: WebSocket\r\nconnection: upgrade\r\n\r\n";
        let asked = || {
            let (mut strict, mut out) = (Strict::default(), Vec::new());
            strict.take(ask, &mut out).unwrap();
            (strict, out)
        };
        let (mut strict, mut out) = asked();
        assert_eq!(strict.take(b"x", &mut out), Err(Fault::Early));
        let (mut strict, mut out) = asked();
        strict.answered(true);
        strict.take(b"\x81\0\r\n", &mut out).unwrap();
        assert!(out.ends_with(b"\x81\0\r\n"));
        let (mut strict, mut out) = asked();
        strict.answered(false);
        strict.take(GOOD[0], &mut out).unwrap();
        assert!(out.ends_with(GOOD[0]) && strict.between());
    }

    proptest! {
        #[test]
        fn it_does_not_matter_how_bytes_are_cut(
            picks in proptest::collection::vec(0usize..GOOD.len(), 1..5),
            damage in proptest::option::of((any::<proptest::sample::Index>(), any::<u8>())),
            cuts in proptest::collection::vec(1usize..20, 1..40),
        ) {
            let mut bytes: Vec<u8> = picks.iter().flat_map(|pick| GOOD[*pick]).copied().collect();
            if let Some((at, byte)) = damage {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
            let (mut whole, mut cut) = (Strict::default(), Strict::default());
            let (mut out, mut pieces) = (Vec::new(), Vec::new());
            let at_once = whole.take(&bytes, &mut out);
            let (mut rest, mut cuts) = (&bytes[..], cuts.iter().cycle());
            let mut piecewise = Ok(());
            while !rest.is_empty() && piecewise.is_ok() {
                let (piece, more) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                piecewise = cut.take(piece, &mut pieces);
                rest = more;
            }
            prop_assert_eq!(at_once, piecewise);
            prop_assert_eq!(out, pieces);
        }
    }
}
