//! Heads: hyper's, and those between agents.
//!
//! From a client only what may go on is taken, and what agents say themselves is added. What
//! comes from a peer was checked when it was decoded.

use std::io;

use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header, request::Parts,
};
use rand::Rng;
use serde_bytes::ByteBuf;
use skein_protocol::{
    http::{
        canonical,
        header::{ATTEMPT, REQUEST_ID, TRACE_PARENT, goes_on, is_trace_parent, listed},
        path, strict,
    },
    limits,
    manifest::traffic::Edits,
    wire::exchange::{self, Header, RequestHead, ResponseHead},
};

/// Why a request is not taken, and with which status it is answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Bad {
    pub(super) status: u16,
    pub(super) why: String,
}

fn bad<T>(status: u16, why: impl Into<String>) -> Result<T, Bad> {
    Err(Bad { status, why: why.into() })
}

/// Leaves one spelling of a header: many services take `_` for `-`.
pub(super) fn remove_alike(headers: &mut Vec<Header>, name: &str) {
    headers.retain(|(key, _)| key == name || key.replace('_', "-") != name);
}

/// What a client asks for.
pub(super) struct Asked {
    pub(super) head: RequestHead,
    /// Which try of another agent's this is: 0 for none.
    pub(super) attempt: u8,
}

/// The head of a client's request, of which nothing of its hop is left.
pub(super) fn request(parts: &Parts, ended: bool) -> Result<Asked, Bad> {
    if parts.method == Method::CONNECT {
        return bad(405, "CONNECT is not carried");
    }
    let path = match parts.uri.path() {
        "" => "/",
        path => path,
    };
    let path = canonical(path).map_err(|fault| Bad { status: 400, why: fault.to_string() })?;
    if path == "*" && parts.method != Method::OPTIONS {
        return bad(400, "only OPTIONS asks for `*`");
    }
    let query = parts.uri.query().map(str::to_owned);
    if query.as_deref().is_some_and(|query| path::check_query(query).is_err()) {
        return bad(400, path::PathFault::Byte.to_string());
    }
    let host = parts.headers.get(header::HOST).map(HeaderValue::as_bytes);
    let authority = match (parts.uri.authority(), host) {
        (Some(authority), Some(host))
            if !host.eq_ignore_ascii_case(authority.as_str().as_bytes()) =>
        {
            return bad(400, "the host is another one than the request's target says");
        }
        (Some(authority), _) => authority.as_str().to_owned(),
        (None, Some(host)) => String::from_utf8_lossy(host).into_owned(),
        (None, None) => String::new(),
    };
    let is_host = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:[]%!$&'()*+,;=".contains(&byte);
    let parses = authority.is_empty() || authority.parse::<http::uri::Authority>().is_ok();
    if authority.len() > limits::AUTHORITY_BYTES || !parses || !authority.bytes().all(is_host) {
        return bad(400, "the host is not one");
    }
    let mut lengths = parts.headers.get_all(header::CONTENT_LENGTH).iter();
    if lengths.next().is_some() && lengths.next().is_some() {
        return bad(400, strict::Fault::Length.to_string());
    }
    let attempt = parts.headers.get(ATTEMPT).and_then(|value| value.to_str().ok()?.parse().ok());
    let upgrade = parts.version == Version::HTTP_11
        && parts
            .headers
            .get(header::UPGRADE)
            .is_some_and(|value| strict::is_websocket(value.as_bytes()));
    let mut headers = going(&parts.headers)?;
    // RFC 9113 8.2.3: a client of HTTP/2 may send cookies one by one.
    if parts.version == Version::HTTP_2 {
        join_cookies(&mut headers);
    }
    let head = RequestHead {
        method: parts.method.as_str().to_owned(),
        authority,
        path: path.into_owned(),
        query,
        headers,
        upgrade,
        two: parts.version == Version::HTTP_2,
        waits: !skein_protocol::http::header::is_idempotent(parts.method.as_str()),
        ended,
    };
    // What another agent would not take is the client's fault, not an endpoint's.
    exchange::check_request(&head).map_err(|error| Bad { status: 400, why: error.to_string() })?;
    Ok(Asked { head, attempt: attempt.unwrap_or(0) })
}

/// Names this request, and starts a trace, where the client did not.
pub(super) fn name(head: &mut RequestHead, rng: &mut impl Rng) {
    if !has(&head.headers, REQUEST_ID) {
        let id = data_encoding::HEXLOWER.encode(&random::<16>(rng));
        head.headers.push(header_of(REQUEST_ID, id));
    }
    let trace = head.headers.iter().position(|(name, _)| name == TRACE_PARENT);
    let valid =
        trace.and_then(|at| head.headers.get(at)).is_some_and(|(_, value)| is_trace_parent(value));
    if !valid {
        head.headers.retain(|(name, _)| name != TRACE_PARENT && name != "tracestate");
        let (trace, span) = (random::<16>(rng), random::<8>(rng));
        let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
        let value = format!("00-{}-{}-01", hex(&trace), hex(&span));
        head.headers.push(header_of(TRACE_PARENT, value));
    }
}

fn random<const N: usize>(rng: &mut impl Rng) -> [u8; N] {
    let mut bytes = [0; N];
    rng.fill_bytes(&mut bytes);
    bytes
}

/// A header of that name and value.
pub(super) fn header_of(name: &str, value: impl Into<String>) -> Header {
    (name.to_owned(), ByteBuf::from(value.into().into_bytes()))
}

/// Whether such a header is there.
pub(super) fn has(headers: &[Header], name: &str) -> bool {
    headers.iter().any(|(key, _)| key == name)
}

/// The value of the first header of that name, where it is text.
pub(super) fn text<'a>(headers: &'a [Header], name: &str) -> Option<&'a str> {
    let (_, value) = headers.iter().find(|(key, _)| key == name)?;
    std::str::from_utf8(value).ok()
}

/// Replaces every header of that name.
pub(super) fn set(headers: &mut Vec<Header>, name: &str, value: impl Into<String>) {
    headers.retain(|(key, _)| key != name);
    headers.push(header_of(name, value));
}

fn join_cookies(headers: &mut Vec<Header>) {
    let cookies: Vec<&[u8]> =
        headers.iter().filter(|(name, _)| name == "cookie").map(|(_, value)| &***value).collect();
    if cookies.len() > 1 {
        let joined = cookies.join(&b"; "[..]);
        headers.retain(|(name, _)| name != "cookie");
        headers.push(("cookie".to_owned(), ByteBuf::from(joined)));
    }
}

/// The headers that go on.
fn going(map: &HeaderMap) -> Result<Vec<Header>, Bad> {
    if map.len() > limits::HTTP_HEADERS {
        return bad(431, format!("more than {} headers", limits::HTTP_HEADERS));
    }
    let bytes: usize = map.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    if bytes > limits::HTTP_HEAD_BYTES {
        return bad(431, format!("headers of more than {} bytes", limits::HTTP_HEAD_BYTES));
    }
    let named: Vec<String> =
        map.get_all(header::CONNECTION).iter().flat_map(|value| listed(value.as_bytes())).collect();
    Ok(map
        .iter()
        .filter(|(name, value)| {
            **name != header::HOST && goes_on(name.as_str(), value.as_bytes(), &named)
        })
        .map(|(name, value)| (name.as_str().to_owned(), ByteBuf::from(value.as_bytes().to_vec())))
        .collect())
}

/// The head of a service's response, of which nothing of its hop is left.
pub(super) fn response(parts: &http::response::Parts, ended: bool) -> Result<ResponseHead, String> {
    let mut lengths = parts.headers.get_all(header::CONTENT_LENGTH).iter();
    if lengths.next().is_some() && lengths.next().is_some() {
        return Err("more than one content-length".to_owned());
    }
    if parts.headers.contains_key(header::CONTENT_LENGTH)
        && parts.headers.contains_key(header::TRANSFER_ENCODING)
    {
        return Err(strict::Fault::Both.to_string());
    }
    let headers = going(&parts.headers).map_err(|bad| bad.why)?;
    Ok(ResponseHead { status: parts.status.as_u16(), headers, ended })
}

/// Headers as hyper has them.
pub(super) fn map(headers: &[Header]) -> io::Result<HeaderMap> {
    let mut map = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers {
        let wrong = |error: &dyn std::fmt::Display| {
            io::Error::new(io::ErrorKind::InvalidData, error.to_string())
        };
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|error| wrong(&error))?;
        let value = HeaderValue::from_bytes(value).map_err(|error| wrong(&error))?;
        map.append(name, value);
    }
    Ok(map)
}

/// Trailers as they go on.
pub(super) fn trailers(map: &HeaderMap) -> Vec<Header> {
    map.iter()
        .filter(|(name, value)| {
            goes_on(name.as_str(), value.as_bytes(), &[])
                && !limits::FRAMING_HEADERS.contains(&name.as_str())
        })
        .take(limits::HTTP_HEADERS)
        .map(|(name, value)| (name.as_str().to_owned(), ByteBuf::from(value.as_bytes().to_vec())))
        .collect()
}

/// The request as it goes to the local service.
pub(super) fn to_service<B>(
    head: &RequestHead,
    two: bool,
    fallback: &str,
    body: B,
) -> io::Result<Request<B>> {
    let wrong = |error: http::Error| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
    let authority = if head.authority.is_empty() { fallback } else { &head.authority };
    let mut target = head.path.clone();
    if let Some(query) = &head.query {
        target.push('?');
        target.push_str(query);
    }
    let uri = match two {
        true => {
            let target = if target == "*" { "/" } else { &target };
            Uri::builder().scheme("http").authority(authority).path_and_query(target).build()
        }
        false => Uri::builder().path_and_query(target).build(),
    };
    let mut request = Request::builder()
        .method(head.method.as_str())
        .uri(uri.map_err(wrong)?)
        .body(body)
        .map_err(wrong)?;
    *request.headers_mut() = map(&head.headers)?;
    let headers = request.headers_mut();
    if two {
        *request.version_mut() = Version::HTTP_2;
    } else {
        let host = HeaderValue::from_str(authority)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        headers.insert(header::HOST, host);
        // Said outright: of a GET hyper would send no body whose length it does not know.
        if !head.ended && !headers.contains_key(header::CONTENT_LENGTH) {
            headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        if head.upgrade {
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        }
    }
    Ok(request)
}

/// The response as it goes to the client.
pub(super) fn to_client<B>(head: &ResponseHead, body: B) -> io::Result<Response<B>> {
    let mut response = Response::new(body);
    *response.status_mut() = StatusCode::from_u16(head.status)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    *response.headers_mut() = map(&head.headers)?;
    if head.status == 101 {
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    }
    Ok(response)
}

/// Changes headers as a document says.
pub(super) fn edit(headers: &mut Vec<Header>, edits: &Edits) {
    headers.retain(|(name, _)| !edits.remove.contains(name));
    for (name, value) in &edits.set {
        set(headers, name, value.as_str());
    }
    headers.extend(edits.add.iter().map(|(name, value)| header_of(name, value.as_str())));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(request: http::request::Builder) -> Result<Asked, Bad> {
        super::request(&request.body(()).unwrap().into_parts().0, true)
    }

    fn names(headers: &[Header]) -> Vec<&str> {
        headers.iter().map(|(name, _)| name.as_str()).collect()
    }

    #[test]
    fn what_a_client_says_of_itself_or_its_hop_does_not_go_on() {
        let request = Request::get("/%61?x=1")
            .header("host", "web.shop")
            .header("connection", "keep-alive, x-private")
            .header("x-private", "1")
            .header("x-skein-source", "shop/admin")
            .header("x-skein-attempt", "2")
            .header("te", "trailers")
            .header("accept", "*/*");
        let asked = asked(request).unwrap();
        assert_eq!(names(&asked.head.headers), ["te", "accept"]);
        assert_eq!((&*asked.head.path, asked.head.query.as_deref()), ("/a", Some("x=1")));
        assert_eq!((&*asked.head.authority, asked.attempt), ("web.shop", 2));
    }

    #[test]
    fn a_request_without_a_trace_gets_one_and_one_with_it_keeps_it() {
        let mut fresh = asked(Request::get("/")).unwrap().head;
        name(&mut fresh, &mut rand::rng());
        assert!(is_trace_parent(text(&fresh.headers, TRACE_PARENT).unwrap().as_bytes()));
        let named = fresh.headers.clone();
        name(&mut fresh, &mut rand::rng());
        assert_eq!(fresh.headers, named);
    }

    #[test]
    fn cookies_of_http2_are_joined_and_two_hosts_are_refused() {
        let two = Request::get("http://web.shop/").version(Version::HTTP_2);
        let request = two.header("cookie", "a=1").header("cookie", "b=2");
        let asked = super::request(&request.body(()).unwrap().into_parts().0, true).unwrap();
        assert_eq!(text(&asked.head.headers, "cookie"), Some("a=1; b=2"));
        let two = Request::get("http://web.shop/").header("host", "other");
        let refused = super::request(&two.body(()).unwrap().into_parts().0, true);
        assert_eq!(refused.err().map(|bad| bad.status), Some(400));
    }

    #[test]
    fn edits_remove_then_set_then_add() {
        let mut headers = vec![header_of("a", "1"), header_of("b", "1")];
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let edits = Edits {
            remove: vec!["a".to_owned()],
            set: vec![pair("b", "2")],
            add: vec![pair("b", "3"), pair("c", "4")],
        };
        edit(&mut headers, &edits);
        assert_eq!(headers, [header_of("b", "2"), header_of("b", "3"), header_of("c", "4")]);
    }
}
