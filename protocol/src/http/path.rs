//! Paths: the one form in which a path is matched, decided upon and sent on.
//!
//! What RFC 3986 6.2.2 holds for the same is made the same: an escaped unreserved character is
//! written out, the hex digits of other escapes are capitals. What servers are known to read
//! differently (an escaped slash, an empty or a dot segment, a backslash, a NUL) is refused.

use std::borrow::Cow;

/// Why a path is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PathFault {
    /// It does not begin with a slash.
    #[error("the path does not begin with `/`")]
    Relative,
    /// A `.` or `..` segment, escaped or not.
    #[error("the path has a `.` or `..` segment")]
    Dots,
    /// Two slashes in a row.
    #[error("the path has an empty segment (`//`)")]
    Empty,
    /// An escape that some servers read as a separator or an end.
    #[error("the path has an escaped `/`, `\\` or NUL")]
    Separator,
    /// `%` without two hex digits.
    #[error("the path has a `%` without two hex digits")]
    Escape,
    /// A byte that must be escaped.
    #[error("the path or the query has a byte that must be escaped")]
    Byte,
}

/// The canonical form of a path without its query. `*` stays: it is what OPTIONS asks about a
/// whole server.
pub fn canonical(path: &str) -> Result<Cow<'_, str>, PathFault> {
    if path == "*" {
        return Ok(Cow::Borrowed(path));
    }
    if !path.starts_with('/') {
        return Err(PathFault::Relative);
    }
    let mut other: Option<String> = None;
    let mut rest = path.bytes().enumerate();
    while let Some((at, byte)) = rest.next() {
        if byte != b'%' {
            if !is_path_byte(byte) {
                return Err(PathFault::Byte);
            }
            if let Some(other) = &mut other {
                other.push(char::from(byte));
            }
            continue;
        }
        let digits = (rest.next(), rest.next());
        let (Some((_, high)), Some((_, low))) = digits else { return Err(PathFault::Escape) };
        let (Some(upper), Some(lower)) = (hex(high), hex(low)) else {
            return Err(PathFault::Escape);
        };
        let meant = upper * 16 + lower;
        if matches!(meant, b'/' | b'\\' | 0) {
            return Err(PathFault::Separator);
        }
        let unreserved = is_unreserved(meant);
        let as_is = !unreserved && !high.is_ascii_lowercase() && !low.is_ascii_lowercase();
        if as_is && other.is_none() {
            continue;
        }
        let other = other.get_or_insert_with(|| path.get(..at).unwrap_or_default().to_owned());
        if unreserved {
            other.push(char::from(meant));
        } else {
            other.push('%');
            other.push(char::from(high.to_ascii_uppercase()));
            other.push(char::from(low.to_ascii_uppercase()));
        }
    }
    let canonical = other.map_or(Cow::Borrowed(path), Cow::Owned);
    let mut segments = canonical.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let bare = bare(segment);
        if matches!(bare, "." | "..") {
            return Err(PathFault::Dots);
        }
        if bare.is_empty() && (segments.peek().is_some() || !segment.is_empty()) {
            return Err(PathFault::Empty);
        }
    }
    Ok(canonical)
}

/// A segment without its parameters, as servlets read it (RFC 3986 3.3).
fn bare(segment: &str) -> &str {
    let end = [";", "%3B"].iter().filter_map(|mark| segment.find(mark)).min();
    segment.get(..end.unwrap_or(segment.len())).unwrap_or(segment)
}

/// A canonical path without the parameters of its segments: what some services take it for.
pub fn without_parameters(path: &str) -> Cow<'_, str> {
    if !path.contains(';') && !path.contains("%3B") {
        return Cow::Borrowed(path);
    }
    let segments: Vec<&str> = path.split('/').map(bare).collect();
    Cow::Owned(segments.join("/"))
}

/// Whether a query, without its `?`, may go on as it stands.
pub fn check_query(query: &str) -> Result<(), PathFault> {
    let good = |byte: u8| {
        is_path_byte(byte)
            || matches!(byte, b'?' | b'%' | b'[' | b']' | b'|' | b'{' | b'}' | b'^' | b'`' | b'"')
    };
    query.bytes().all(good).then_some(()).ok_or(PathFault::Byte)
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// RFC 3986 3.3: pchar and the slash, without escapes.
fn is_path_byte(byte: u8) -> bool {
    is_unreserved(byte) || b"/!$&'()*+,;=:@".contains(&byte)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_the_same_is_written_the_same() {
        for (given, wanted) in [
            ("/", "/"),
            ("/v1/orders", "/v1/orders"),
            ("/v1/", "/v1/"),
            ("/%61dmin", "/admin"),
            ("/a%2db", "/a-b"),
            ("/a%2Eb", "/a.b"),
            ("/caf%c3%a9", "/caf%C3%A9"),
            ("/a%20b", "/a%20b"),
            ("/a%2561", "/a%2561"),
            ("/a;b=1,c", "/a;b=1,c"),
            ("*", "*"),
        ] {
            assert_eq!(canonical(given).as_deref(), Ok(wanted), "{given}");
        }
    }

    #[test]
    fn parameters_of_segments_can_be_left_out() {
        assert_eq!(without_parameters("/admin;x=1/users;y"), "/admin/users");
        assert_eq!(without_parameters("/admin%3Bx/users"), "/admin/users");
        assert_eq!(without_parameters("/admin/users"), "/admin/users");
    }

    #[test]
    fn what_servers_read_in_two_ways_is_refused() {
        use PathFault::*;
        for (given, fault) in [
            ("", Relative),
            ("admin", Relative),
            ("//admin", Empty),
            ("/a//b", Empty),
            ("/a/../b", Dots),
            ("/a/..", Dots),
            ("/./a", Dots),
            ("/%2e%2e/a", Dots),
            ("/.%2E/a", Dots),
            ("/a%2fb", Separator),
            ("/a%5Cb", Separator),
            ("/a%00", Separator),
            ("/a\\b", Byte),
            ("/public/..;/admin", Dots),
            ("/public/..%3bx/admin", Dots),
            ("/;/admin", Empty),
            ("/a/;x", Empty),
            ("/a b", Byte),
            ("/a\u{e9}", Byte),
            ("/a%", Escape),
            ("/a%4", Escape),
            ("/a%zz", Escape),
            ("/a%+1", Escape),
        ] {
            assert_eq!(canonical(given), Err(fault), "{given}");
        }
    }

    proptest! {
        #[test]
        fn the_form_of_a_form_is_itself(path in "/[a-zA-Z0-9%./~ -]{0,20}") {
            if let Ok(once) = canonical(&path) {
                prop_assert_eq!(canonical(&once), Ok(once.clone()));
            }
        }

        #[test]
        fn no_text_panics(path in "\\PC{0,40}") {
            let _ = (canonical(&path), check_query(&path));
        }
    }
}
