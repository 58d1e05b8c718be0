//! The chunked coding: the same payload and the same end, wherever the bytes are cut.

use dataplane::testing::Chunked;

use super::{cuts, is_field_value, is_token, latin1};

/// Up to this length the bounds of extensions and trailers play no part.
const READ_AGAIN_BYTES_MAX: usize = 4096;

/// The input is a body and what follows it on the connection.
pub fn chunked(bytes: &[u8]) {
    let whole = decode([bytes]);
    for cut in cuts(bytes.len()) {
        assert_eq!(decode([&bytes[..cut], &bytes[cut..]]), whole, "cut at {cut}");
    }
    assert_eq!(decode(bytes.chunks(1)), whole, "byte by byte");
    if bytes.len() <= READ_AGAIN_BYTES_MAX {
        let complete = whole.filter(|body| body.done).map(|body| (body.payload, body.consumed));
        assert_eq!(complete, read_at_once(bytes));
    }
}

/// What the pieces of a body were taken for.
#[derive(Debug, PartialEq)]
struct Body {
    payload: Vec<u8>,
    consumed: usize,
    done: bool,
}

/// `None`: refused.
fn decode<'b>(pieces: impl IntoIterator<Item = &'b [u8]>) -> Option<Body> {
    let mut decoder = Chunked::default();
    let mut body = Body { payload: Vec::new(), consumed: 0, done: false };
    for piece in pieces {
        let mut bytes = piece.to_vec();
        let decoded = decoder.decode(&mut bytes).ok()?;
        assert!(decoded.payload <= decoded.consumed && decoded.consumed <= piece.len());
        assert_eq!(bytes[decoded.consumed..], piece[decoded.consumed..], "the next request is left alone");
        body.payload.extend_from_slice(&bytes[..decoded.payload]);
        body.consumed += decoded.consumed;
        body.done = decoder.is_done();
        if body.done {
            break;
        }
        assert_eq!(decoded.consumed, piece.len(), "a body without an end takes everything");
    }
    Some(body)
}

/// RFC 9112 §7.1 as a grammar over all the bytes: payload, and length of the body. `None`: not a whole body.
fn read_at_once(bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut payload = Vec::new();
    let mut rest = bytes;
    loop {
        let (line, after) = line(rest)?;
        let (size, extension) = line.split_once(';').unwrap_or((&line, ""));
        let digits = size.len() <= 15 && size.bytes().all(|digit| digit.is_ascii_hexdigit());
        if !digits || !is_field_value(extension) {
            return None;
        }
        rest = after;
        match usize::from_str_radix(size, 16).ok()? {
            0 => break,
            size => {
                let (data, after) = rest.split_at_checked(size)?;
                payload.extend_from_slice(data);
                rest = after.strip_prefix(b"\r\n")?;
            }
        }
    }
    loop {
        let (line, after) = line(rest)?;
        rest = after;
        if line.is_empty() {
            return Some((payload, bytes.len() - rest.len()));
        }
        let (name, value) = line.split_once(':')?;
        if !is_token(name) || !is_field_value(value) {
            return None;
        }
    }
}

fn line(bytes: &[u8]) -> Option<(String, &[u8])> {
    let end = bytes.windows(2).position(|pair| pair == b"\r\n")?;
    Some((latin1(&bytes[..end]), &bytes[end + 2..]))
}
