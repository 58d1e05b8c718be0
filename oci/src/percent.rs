//! Percent-encoding: decoded once, before routing; encoded when a URL of ours carries a client's text.
//!
//! Spec: RFC 3986 §2.1 to §2.3.

use std::borrow::Cow;
use std::fmt::Write as _;

/// A `%` that is not followed by two hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BadEscape;

/// Decodes every `%XX` once. Without a `%` the input is borrowed. `+` stays `+`.
pub(crate) fn decode(raw: &[u8]) -> Result<Cow<'_, [u8]>, BadEscape> {
    let Some(first) = raw.iter().position(|byte| *byte == b'%') else {
        return Ok(Cow::Borrowed(raw));
    };
    let mut decoded = Vec::with_capacity(raw.len());
    decoded.extend_from_slice(&raw[..first]);
    let mut rest = &raw[first..];
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        if *byte == b'%' {
            let [high, low, after @ ..] = rest else { return Err(BadEscape) };
            decoded.push(hex_digit(*high)? << 4 | hex_digit(*low)?);
            rest = after;
        } else {
            decoded.push(*byte);
        }
    }
    Ok(Cow::Owned(decoded))
}

fn hex_digit(digit: u8) -> Result<u8, BadEscape> {
    char::from(digit).to_digit(16).map(|value| value as u8).ok_or(BadEscape)
}

/// Appends `text` with everything but the unreserved characters encoded.
pub(crate) fn encode_into(out: &mut String, text: &str) {
    for byte in text.bytes() {
        push(out, byte, is_unreserved(byte));
    }
}

/// Appends a part of a URL that was sent to us: its escapes and delimiters stay, and whatever could end a
/// `Link` header's `<…>` or be taken for the next parameter is encoded.
pub(crate) fn copy_into(out: &mut String, sent: &[u8]) {
    for byte in sent {
        push(out, *byte, is_unreserved(*byte) || b"%/:@!$&'()*+=".contains(byte));
    }
}

fn push(out: &mut String, byte: u8, plain: bool) {
    if plain {
        out.push(char::from(byte));
    } else {
        write!(out, "%{byte:02X}").expect("a String takes all");
    }
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn decoding() {
        fn check(raw: &str, expect: Result<&[u8], BadEscape>) {
            assert_eq!(decode(raw.as_bytes()).as_deref(), expect.as_ref().map(|bytes| *bytes), "{raw:?}");
        }
        check("", Ok(b""));
        check("a+b", Ok(b"a+b"));
        check("sha256%3Aab", Ok(b"sha256:ab"));
        check("sha256%3aab", Ok(b"sha256:ab"));
        check("%2F%2f", Ok(b"//"));
        check("%00%ff", Ok(b"\0\xff"));
        check("%", Err(BadEscape));
        check("a%2", Err(BadEscape));
        check("%zz", Err(BadEscape));
        check("%+1", Err(BadEscape));
    }

    #[test]
    fn an_escape_is_decoded_once() {
        assert_eq!(decode(b"%253A").unwrap().as_ref(), b"%3A");
    }

    #[test]
    fn what_has_no_escape_is_borrowed() {
        assert!(matches!(decode(b"/v2/a/blobs/x"), Ok(Cow::Borrowed(_))));
    }

    proptest! {
        #[test]
        fn encoded_text_decodes_to_itself(text in ".*") {
            let mut encoded = String::new();
            encode_into(&mut encoded, &text);
            prop_assert!(encoded.bytes().all(|byte| is_unreserved(byte) || byte == b'%'));
            let decoded = decode(encoded.as_bytes()).unwrap();
            prop_assert_eq!(decoded.as_ref(), text.as_bytes());
        }

        #[test]
        fn no_bytes_panic_and_none_are_added(raw in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(decoded) = decode(&raw) {
                prop_assert!(decoded.len() <= raw.len());
            }
        }

        #[test]
        fn a_copied_url_means_the_same(raw in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut copied = String::new();
            copy_into(&mut copied, &raw);
            prop_assert!(copied.bytes().all(|byte| byte.is_ascii_graphic() && !b"<>\";,?#".contains(&byte)));
            prop_assert_eq!(decode(copied.as_bytes()).ok(), decode(&raw).ok());
        }
    }
}
