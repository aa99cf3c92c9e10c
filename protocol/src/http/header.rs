//! Headers: which belong to one hop, which are ours, which nobody may say for himself.

/// Headers that belong to one connection and never go on (RFC 9110 7.6.1), besides those that
/// `connection` names. `te` and `trailer` are not among them: see [`goes_on`].
const HOP: [&str; 8] = [
    "connection",
    "expect",
    "http2-settings",
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
];

/// Names that begin so are said by agents only; a client's are taken out.
pub const OURS: &str = "x-skein-";
/// Who calls, as the serving agent authenticated it: a service, or `node NAME`.
pub const SOURCE: &str = "x-skein-source";
/// Why an agent answered in place of the service: a word of the table in the README.
pub const REASON: &str = "x-skein-reason";
/// Which try this is, from 1 on, where it is not the first. Who got it and passes it on is not
/// tried again: retries on every hop would multiply.
pub const ATTEMPT: &str = "x-skein-attempt";
/// Names one request through all hops.
pub const REQUEST_ID: &str = "x-request-id";
/// W3C trace context.
pub const TRACE_PARENT: &str = "traceparent";

/// Whether a header goes on to the next hop. `named` holds what `connection` lists, in lower
/// case; `name` is in lower case.
pub fn goes_on(name: &str, value: &[u8], named: &[String]) -> bool {
    if name == "te" {
        // The only value that a hop may pass on; gRPC asks for it.
        return value.eq_ignore_ascii_case(b"trailers");
    }
    !HOP.contains(&name) && !is_ours(name) && !named.iter().any(|one| one == name)
}

/// Whether only agents may say that. `_` counts as `-`: to many services both are one (CGI).
pub fn is_ours(name: &str) -> bool {
    name.len() >= OURS.len()
        && name.bytes().zip(OURS.bytes()).all(|(byte, wanted)| {
            byte.to_ascii_lowercase() == wanted || (byte == b'_' && wanted == b'-')
        })
}

/// The names that a `connection` header lists, in lower case.
pub fn listed(value: &[u8]) -> impl Iterator<Item = String> {
    let text = String::from_utf8_lossy(value).to_ascii_lowercase();
    let names: Vec<String> = text
        .split(',')
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty() && name != "te" && name != "trailer")
        .collect();
    names.into_iter()
}

/// Whether that is a trace context of version 00 (W3C trace context 2.2): others are replaced.
pub fn is_trace_parent(value: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(value) else { return false };
    let mut parts = text.split('-');
    let part = |text: Option<&str>, length: usize| {
        text.is_some_and(|text| {
            text.len() == length
                && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        })
    };
    let version = parts.next();
    let (trace, span, flags) = (parts.next(), parts.next(), parts.next());
    let nothing = |text: Option<&str>| text.is_some_and(|text| text.bytes().all(|b| b == b'0'));
    part(version, 2)
        && version != Some("ff")
        && part(trace, 32)
        && part(span, 16)
        && part(flags, 2)
        && !nothing(trace)
        && !nothing(span)
        && (version != Some("00") || parts.next().is_none())
}

/// Whether repeating a request does no more than one does (RFC 9110 9.2.2).
pub fn is_idempotent(method: &str) -> bool {
    matches!(method, "GET" | "HEAD" | "OPTIONS" | "TRACE" | "PUT" | "DELETE")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_belongs_to_a_hop_stays_there() {
        let named: Vec<String> = listed(b"close, X-Private , TE").collect();
        let stays = |name: &str| !goes_on(name, b"x", &named);
        assert!(["connection", "x-private", "keep-alive", "upgrade", "te"].into_iter().all(stays));
        assert!(stays(SOURCE) && stays("x-skein-anything"));
        assert!(stays("x_skein_source") && stays("x-skein_source"));
        assert!(goes_on("x-skeins", b"a", &named) && goes_on("x-ske", b"a", &named));
        assert!(goes_on("te", b"Trailers", &named) && goes_on("trailer", b"a", &named));
        assert!(goes_on("x-public", b"a", &named) && goes_on(REQUEST_ID, b"a", &named));
    }

    #[test]
    fn a_trace_context_is_taken_only_if_it_is_one() {
        let good = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert!(is_trace_parent(good));
        for bad in [
            &b""[..],
            b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            b"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            b"00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            b"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-x",
            b"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert!(!is_trace_parent(bad), "{}", String::from_utf8_lossy(bad));
        }
    }
}
