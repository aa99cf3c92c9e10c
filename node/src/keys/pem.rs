//! PEM (RFC 7468): base64 between two lines, for certificates and keys on disk.

use data_encoding::BASE64;

/// A block of a PEM file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Block {
    /// What stands behind BEGIN.
    pub label: String,
    /// What the base64 holds.
    pub bytes: Vec<u8>,
}

/// A certificate.
pub const CERTIFICATE: &str = "CERTIFICATE";
/// A private key in PKCS#8, encrypted with a passphrase.
pub const ENCRYPTED_KEY: &str = "ENCRYPTED PRIVATE KEY";
/// A private key in PKCS#8.
pub const PRIVATE_KEY: &str = "PRIVATE KEY";
/// The signature by which a root follows on the one before it.
pub const ROOT_SIGNATURE: &str = "SKEIN ROOT SIGNATURE";

/// The text of blocks.
pub fn encode<'a>(blocks: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> String {
    let mut text = String::new();
    for (label, bytes) in blocks {
        text.push_str(&format!("-----BEGIN {label}-----\n"));
        for (at, character) in BASE64.encode(bytes).chars().enumerate() {
            if at > 0 && at % 64 == 0 {
                text.push('\n');
            }
            text.push(character);
        }
        text.push_str(&format!("\n-----END {label}-----\n"));
    }
    text
}

/// The blocks of a text; what stands between them is passed over. `None` when a block does not
/// end as it began, or its base64 does not read.
pub fn decode(text: &str) -> Option<Vec<Block>> {
    let mut blocks = Vec::new();
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        let Some(label) = line.strip_prefix("-----BEGIN ").and_then(|l| l.strip_suffix("-----"))
        else {
            continue;
        };
        let end = format!("-----END {label}-----");
        let mut base64 = String::new();
        loop {
            match lines.next()? {
                line if line == end => break,
                line => base64.push_str(line),
            }
        }
        let bytes = BASE64.decode(base64.as_bytes()).ok()?;
        blocks.push(Block { label: label.to_owned(), bytes });
    }
    Some(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_read_as_they_were_written() {
        let long = [7; 100];
        let text = encode([("A B", &long[..]), ("C", &[][..])]);
        assert!(text.lines().all(|line| line.len() <= 64));
        let blocks = decode(&format!("a comment\n{text}")).unwrap();
        assert_eq!((blocks[0].label.as_str(), blocks[0].bytes.as_slice()), ("A B", &long[..]));
        assert_eq!((blocks[1].label.as_str(), blocks[1].bytes.as_slice()), ("C", &[][..]));
    }

    #[test]
    fn a_block_without_its_end_is_no_block() {
        assert_eq!(decode("-----BEGIN A-----\nAAAA\n-----END B-----\n"), None);
        assert_eq!(decode("-----BEGIN A-----\n*\n-----END A-----\n"), None);
        assert_eq!(decode("nothing"), Some(vec![]));
    }
}
