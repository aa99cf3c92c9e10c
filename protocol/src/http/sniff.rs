//! Sniffing: what the first bytes of a connection say of its protocol.

/// With which every connection of HTTP/2 begins (RFC 9113 3.4).
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What the first bytes are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sniffed {
    /// HTTP/1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Something else.
    Bytes,
    /// Too few to tell.
    More,
}

/// What these first bytes of a connection are.
pub fn sniff(bytes: &[u8]) -> Sniffed {
    if bytes.is_empty() {
        return Sniffed::More;
    }
    if bytes.starts_with(PREFACE) {
        return Sniffed::Http2;
    }
    if PREFACE.starts_with(bytes) {
        return Sniffed::More;
    }
    // A method, a space, something, a space, a version: the whole of a first line.
    let method = bytes.iter().take_while(|byte| is_method(**byte)).count();
    if method == 0 || method > LONGEST_METHOD {
        return Sniffed::Bytes;
    }
    match bytes.get(method) {
        None => return Sniffed::More,
        Some(b' ') => {}
        Some(_) => return Sniffed::Bytes,
    }
    let line = bytes.get(method + 1..).unwrap_or_default();
    let Some(end) = line.iter().position(|byte| *byte == b'\n') else {
        let text = line.iter().all(|byte| (b' '..=b'~').contains(byte) || *byte == b'\r');
        return if text { Sniffed::More } else { Sniffed::Bytes };
    };
    let line = line.get(..end).unwrap_or_default();
    let version = line.strip_suffix(b"\r").unwrap_or(line);
    match version.ends_with(b" HTTP/1.1") || version.ends_with(b" HTTP/1.0") {
        true => Sniffed::Http1,
        false => Sniffed::Bytes,
    }
}

fn is_method(byte: u8) -> bool {
    byte.is_ascii_uppercase() || byte == b'-'
}

const LONGEST_METHOD: usize = crate::limits::METHOD_BYTES;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn first_bytes_tell() {
        for (bytes, wanted) in [
            (&b""[..], Sniffed::More),
            (b"GET", Sniffed::More),
            (b"GET /a", Sniffed::More),
            (b"GET / HTTP/1.1\r\n", Sniffed::Http1),
            (b"POST /x HTTP/1.0\n", Sniffed::Http1),
            (b"GET / FTP/1.1\r\n", Sniffed::Bytes),
            (b"PRI * HT", Sniffed::More),
            (PREFACE, Sniffed::Http2),
            (b"\x16\x03\x01", Sniffed::Bytes),
            (b"EHLO mail\r\n", Sniffed::Bytes),
            (b"*1\r\n$4\r\nPING\r\n", Sniffed::Bytes),
        ] {
            assert_eq!(sniff(bytes), wanted, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = sniff(&bytes);
        }

        #[test]
        fn more_bytes_never_change_what_was_told(
            text in "(GET|POST|PRI|\\PC{0,4}) ?[/a-z *]{0,8} ?(HTTP/1.1|HTTP/2.0)?\r?\n?\\PC{0,4}"
        ) {
            let bytes = text.as_bytes();
            let mut told = Sniffed::More;
            for length in 0..=bytes.len() {
                let now = sniff(&bytes[..length]);
                if told == Sniffed::More {
                    told = now;
                } else {
                    prop_assert_eq!(now, told);
                }
            }
        }
    }
}
