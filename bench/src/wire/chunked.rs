//! The chunked coding of an answer's body (RFC 9112 §7.1), undone piece by piece.

/// Where a chunked body is at.
#[derive(Debug, Default)]
pub struct Chunks {
    at: At,
}

#[derive(Debug, Default)]
enum At {
    /// In the line with a chunk's size, so much of which was read.
    #[default]
    Start,
    Size(u64),
    /// Behind the size, in an extension or before the LF.
    SizeEnd(u64),
    Data(u64),
    /// The CR LF behind a chunk's data.
    DataEnd,
    /// In the trailer: whether the line so far is empty.
    Trailer(bool),
    Done,
}

impl Chunks {
    /// Whether the last chunk and its trailer were seen.
    pub fn is_done(&self) -> bool {
        matches!(self.at, At::Done)
    }

    /// Takes what arrived and hands the payload on. Gives how many bytes belong to the body.
    ///
    /// Errors: a sentence; this is no chunked body.
    pub fn take(&mut self, bytes: &[u8], mut payload: impl FnMut(&[u8])) -> Result<usize, String> {
        let mut taken = 0;
        while taken < bytes.len() && !self.is_done() {
            if let At::Data(left) = self.at {
                let count = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len() - taken);
                payload(&bytes[taken..taken + count]);
                taken += count;
                self.at = if left == count as u64 { At::DataEnd } else { At::Data(left - count as u64) };
                continue;
            }
            let byte = bytes[taken];
            taken += 1;
            self.at = match (&self.at, byte) {
                (At::Start, _) => At::Size(hex(byte)?),
                (At::Size(size), b'\r' | b';' | b' ') => At::SizeEnd(*size),
                (At::Size(size), _) if *size < 1 << 56 => At::Size(size * 16 + hex(byte)?),
                (At::Size(_), _) => return Err("a chunk is too large".to_owned()),
                (At::SizeEnd(0), b'\n') => At::Trailer(true),
                (At::SizeEnd(size), b'\n') => At::Data(*size),
                (At::SizeEnd(size), _) => At::SizeEnd(*size),
                (At::DataEnd, b'\r') => At::DataEnd,
                (At::DataEnd, b'\n') => At::Start,
                (At::DataEnd, _) => return Err("a chunk is longer than it says".to_owned()),
                (At::Trailer(true), b'\n') => At::Done,
                (At::Trailer(_), b'\n') => At::Trailer(true),
                (At::Trailer(empty), b'\r') => At::Trailer(*empty),
                (At::Trailer(_), _) => At::Trailer(false),
                (At::Data(_) | At::Done, _) => return Err("read on behind the last chunk".to_owned()),
            };
        }
        Ok(taken)
    }
}

fn hex(byte: u8) -> Result<u64, String> {
    let digit = char::from(byte).to_digit(16).map(u64::from);
    digit.ok_or_else(|| format!("a chunk's size has the byte {byte:#04x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn however_it_is_cut() {
        let body = b"4;x=1\r\nabcd\r\n1\r\ne\r\n0\r\nTrailer: t\r\n\r\nNEXT";
        for cut in 0..body.len() {
            let mut chunks = Chunks::default();
            let mut payload = Vec::new();
            let mut taken = 0;
            for part in [&body[..cut], &body[cut..]] {
                taken += chunks.take(part, |bytes| payload.extend_from_slice(bytes)).unwrap();
            }
            assert_eq!((payload.as_slice(), chunks.is_done()), (&b"abcde"[..], true), "{cut}");
            assert!(cut > body.len() - 4 || &body[taken..] == b"NEXT", "{cut}");
        }
        assert!(Chunks::default().take(b"x\r\n", |_| {}).is_err());
        assert!(Chunks::default().take(b"1\r\nab", |_| {}).is_err());
    }
}
