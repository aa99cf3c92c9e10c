//! DER: the few shapes of X.690 that our own extensions use, written and read by hand.
//!
//! Reading is strict about tags and lengths; who decodes compares what it got with what it would
//! write, so that one meaning has one form.

/// INTEGER.
pub(crate) const INTEGER: u8 = 0x02;
/// UTF8String.
pub(crate) const UTF8: u8 = 0x0c;
/// SEQUENCE, constructed.
pub(crate) const SEQUENCE: u8 = 0x30;

/// One element: tag, length in the shortest form, content. `None` above 65,535 bytes.
pub(crate) fn element(tag: u8, content: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(content.len()).ok()?;
    let [high, low] = length.to_be_bytes();
    let mut out = vec![tag];
    match (high, low) {
        (0, 0..=0x7f) => out.push(low),
        (0, 0x80..) => out.extend([0x81, low]),
        (1.., _) => out.extend([0x82, high, low]),
    }
    out.extend_from_slice(content);
    Some(out)
}

/// Takes one element of that tag off the front of `input`, and gives its content.
pub(crate) fn take<'a>(input: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let (first, rest) = input.split_first()?;
    if *first != tag {
        return None;
    }
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match *first {
        short @ 0..=0x7f => (usize::from(short), rest),
        0x81 => {
            let (low, rest) = rest.split_first()?;
            (usize::from(*low), rest)
        }
        0x82 => {
            let (length, rest) = rest.split_first_chunk::<2>()?;
            (usize::from(u16::from_be_bytes(*length)), rest)
        }
        _ => return None,
    };
    let (content, rest) = rest.split_at_checked(length)?;
    *input = rest;
    Some(content)
}

/// Takes one text off the front of `input`.
pub(crate) fn take_text<'a>(input: &mut &'a [u8]) -> Option<&'a str> {
    std::str::from_utf8(take(input, UTF8)?).ok()
}

/// Takes one INTEGER from 0 to 127 off the front of `input`.
pub(crate) fn take_small(input: &mut &[u8]) -> Option<u8> {
    match take(input, INTEGER)? {
        [small @ 0..=0x7f] => Some(*small),
        _ => None,
    }
}
