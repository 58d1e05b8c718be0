//! The chunked coding of a request body, taken off in place. RFC 9112 §7.1.
//!
//! Invariants: every line ends with CR LF; sizes have at most 15 hex digits; extensions and trailers are
//! skipped and bounded. What differs is an error, and the connection ends with it.

use oci::Problem;

use crate::limits::{CHUNK_EXTENSION_BYTES_MAX, CHUNK_SIZE_DIGITS_MAX, TRAILER_BYTES_MAX};

/// Where in the coding the next byte is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chunked {
    state: State,
    skipped: u32,
}

/// What one call did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// The first so many bytes are payload now.
    pub payload: usize,
    /// So many bytes were of this body; what follows them belongs to the next request.
    pub consumed: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size { value: u64, digits: u8 },
    Extension { size: u64 },
    SizeLf { size: u64 },
    Data { left: u64 },
    DataCr,
    DataLf,
    Trailer { part: Part },
    TrailerLf { last: bool },
    Done,
}

/// Where in a trailer line the next byte is. RFC 9112 §7.1.2: they are fields, name and all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Start,
    Name,
    Value,
}

const MALFORMED: Problem = Problem::RequestMalformed { why: "the chunked body is malformed" };

impl Default for Chunked {
    /// At the start of a body.
    fn default() -> Chunked {
        Chunked { state: State::Size { value: 0, digits: 0 }, skipped: 0 }
    }
}

impl Chunked {
    /// Whether the last chunk and its trailers are through.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Takes the coding off `bytes`, moving the payload to its front.
    pub fn decode(&mut self, bytes: &mut [u8]) -> Result<Decoded, Problem> {
        let mut payload = 0;
        let mut at = 0;
        while at < bytes.len() && !self.is_done() {
            if let State::Data { left } = self.state {
                let here = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - at);
                bytes.copy_within(at..at + here, payload);
                payload += here;
                at += here;
                let left = left - here as u64;
                self.state = if left == 0 { State::DataCr } else { State::Data { left } };
            } else {
                self.state = self.framing(bytes[at])?;
                at += 1;
            }
        }
        Ok(Decoded { payload, consumed: at })
    }

    fn framing(&mut self, byte: u8) -> Result<State, Problem> {
        Ok(match (self.state, byte) {
            (State::Size { value, digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F')
                if digits < CHUNK_SIZE_DIGITS_MAX =>
            {
                let digit = (byte as char).to_digit(16).ok_or(MALFORMED)?;
                State::Size { value: value << 4 | u64::from(digit), digits: digits + 1 }
            }
            (State::Size { value, digits: 1.. }, b'\r') => State::SizeLf { size: value },
            (State::Size { value, digits: 1.. }, b';') => {
                self.skipped = 0;
                State::Extension { size: value }
            }
            (State::Extension { size }, b'\r') => State::SizeLf { size },
            (State::Extension { size }, b'\t' | b' '..=b'~' | 0x80..) => {
                self.skip(CHUNK_EXTENSION_BYTES_MAX)?;
                State::Extension { size }
            }
            (State::SizeLf { size: 0 }, b'\n') => {
                self.skipped = 0;
                State::Trailer { part: Part::Start }
            }
            (State::SizeLf { size }, b'\n') => State::Data { left: size },
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size { value: 0, digits: 0 },
            (State::Trailer { part: Part::Start }, b'\r') => State::TrailerLf { last: true },
            (State::Trailer { part: Part::Value }, b'\r') => State::TrailerLf { last: false },
            (State::Trailer { part: Part::Name }, b':') => State::Trailer { part: Part::Value },
            (State::Trailer { part: Part::Start | Part::Name }, byte) if is_token(byte) => {
                self.skip(TRAILER_BYTES_MAX)?;
                State::Trailer { part: Part::Name }
            }
            (State::Trailer { part: Part::Value }, b'\t' | b' '..=b'~' | 0x80..) => {
                self.skip(TRAILER_BYTES_MAX)?;
                State::Trailer { part: Part::Value }
            }
            (State::TrailerLf { last: true }, b'\n') => State::Done,
            (State::TrailerLf { last: false }, b'\n') => State::Trailer { part: Part::Start },
            _ => return Err(MALFORMED),
        })
    }

    fn skip(&mut self, max: u32) -> Result<(), Problem> {
        self.skipped += 1;
        if self.skipped > max { Err(MALFORMED) } else { Ok(()) }
    }
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(text: &[u8], cut: usize) -> Result<(Vec<u8>, usize, bool), Problem> {
        let mut decoder = Chunked::default();
        let mut out = Vec::new();
        let mut consumed = 0;
        for part in text.chunks(cut.max(1)) {
            let mut part = part.to_vec();
            let decoded = decoder.decode(&mut part)?;
            out.extend_from_slice(&part[..decoded.payload]);
            consumed += decoded.consumed;
            if decoder.is_done() {
                break;
            }
        }
        Ok((out, consumed, decoder.is_done()))
    }

    #[test]
    fn whatever_way_it_is_cut_the_payload_is_the_same() {
        let text = b"4\r\nWiki\r\n5;a=b\r\npedia\r\n0\r\nX-Trailer: y\r\n\r\nGET /";
        for cut in 1..text.len() {
            let (payload, consumed, done) = decode(text, cut).unwrap();
            assert_eq!((payload.as_slice(), done), (&b"Wikipedia"[..], true), "{cut}");
            assert_eq!(consumed, text.len() - 5);
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        let bad: &[&[u8]] = &[
            b"4\nWiki\r\n",
            b" 4\r\nWiki\r\n",
            b"4 \r\nWiki\r\n",
            b"0x4\r\nWiki\r\n",
            b"-4\r\n",
            b"\r\nWiki",
            b"4\r\nWikix\r\n",
            b"4\r\nWiki\n0\r\n\r\n",
            b"ffffffffffffffff\r\n",
            b"4\rX",
            b"0\r\n folded\r\n\r\n",
            b"4;\0\r\nWiki",
            b"0\r\nGET / HTTP/1.1\r\n\r\n",
            b"0\r\nno-colon\r\n\r\n",
            b"0\r\n: no-name\r\n\r\n",
        ];
        for text in bad {
            assert!(decode(text, 3).is_err(), "{:?}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn what_is_skipped_is_bounded() {
        let digits = |count: u8| format!("{:0>1$}\r\nab\r\n0\r\n\r\n", 2, usize::from(count));
        let extension = |bytes: u32| format!("2;{}\r\nab\r\n0\r\n\r\n", "e".repeat(bytes as usize));
        let trailer = |bytes: u32| format!("2\r\nab\r\n0\r\nt:{}\r\n\r\n", "v".repeat(bytes as usize - 1));
        for (fits, over) in [
            (digits(CHUNK_SIZE_DIGITS_MAX), digits(CHUNK_SIZE_DIGITS_MAX + 1)),
            (extension(CHUNK_EXTENSION_BYTES_MAX), extension(CHUNK_EXTENSION_BYTES_MAX + 1)),
            (trailer(TRAILER_BYTES_MAX), trailer(TRAILER_BYTES_MAX + 1)),
        ] {
            assert_eq!(decode(fits.as_bytes(), 1000), Ok((b"ab".to_vec(), fits.len(), true)));
            assert_eq!(decode(over.as_bytes(), 1000), Err(MALFORMED));
        }
        // The bound is of all trailers together, and of each extension alone.
        let line = format!("t:{}\r\n", "v".repeat(999));
        let lines = |count: usize| format!("0\r\n{}\r\n", line.repeat(count));
        let most = TRAILER_BYTES_MAX as usize / 1000;
        assert!(
            decode(lines(most).as_bytes(), 1000).is_ok() && decode(lines(most + 1).as_bytes(), 1000).is_err()
        );
        let chunk = extension(CHUNK_EXTENSION_BYTES_MAX).replace("0\r\n\r\n", "");
        assert!(decode(format!("{}0\r\n\r\n", chunk.repeat(3)).as_bytes(), 1000).is_ok());
    }

    proptest! {
        #[test]
        fn arbitrary_chunks_come_back(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..8), cut in 1usize..64) {
            let mut text = Vec::new();
            for chunk in &chunks {
                text.extend_from_slice(format!("{:X}\r\n", chunk.len()).as_bytes());
                text.extend_from_slice(chunk);
                text.extend_from_slice(b"\r\n");
            }
            text.extend_from_slice(b"0\r\n\r\n");
            let (payload, consumed, done) = decode(&text, cut).unwrap();
            prop_assert_eq!(payload, chunks.concat());
            prop_assert!(done && consumed == text.len());
        }
    }
}
