//! Digests: the name of a content, as raw bytes.
//!
//! Owns: the algorithms that this registry speaks and the one textual form of a digest.
//!
//! Spec: image-spec, descriptor.md, "Digests". Hex is lower-case only.

use std::fmt;

use crate::hasher::Hasher;

/// A digest algorithm that this registry can compute.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Algorithm {
    /// The default of the spec.
    Sha256,
    /// Registered in the image-spec.
    Sha512,
    /// Registered in the image-spec; 256 bits of output.
    Blake3,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Algorithm; 3] = [Algorithm::Sha256, Algorithm::Sha512, Algorithm::Blake3];

    /// The name in front of the colon.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Sha256 => "sha256",
            Algorithm::Sha512 => "sha512",
            Algorithm::Blake3 => "blake3",
        }
    }

    /// `None`: not one of ours.
    pub fn parse(name: &str) -> Option<Algorithm> {
        Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    /// Length of a digest in bytes: 32 or 64. Its hex is twice as long.
    pub fn digest_len(self) -> usize {
        match self {
            Algorithm::Sha256 | Algorithm::Blake3 => 32,
            Algorithm::Sha512 => 64,
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The digest of a blob or manifest. `Display` and `Debug` give `sha256:<hex>`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Digest {
    /// 256 bits of SHA-2.
    Sha256([u8; 32]),
    /// 512 bits of SHA-2.
    Sha512([u8; 64]),
    /// 256 bits of BLAKE3.
    Blake3([u8; 32]),
}

/// Why a text is not a [`Digest`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DigestError {
    /// Not `algorithm:encoded`, or the wrong length, or not lower-case hex.
    Malformed,
    /// Well formed, of an algorithm that is not in [`Algorithm::ALL`].
    UnknownAlgorithm,
}

impl DigestError {
    /// One sentence for the client.
    pub fn why(self) -> &'static str {
        match self {
            DigestError::Malformed => "a digest is algorithm:hex, the hex in lower case and of full length",
            DigestError::UnknownAlgorithm => "the digest algorithms here are sha256, sha512 and blake3",
        }
    }
}

impl fmt::Display for DigestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.why())
    }
}

impl std::error::Error for DigestError {}

impl Digest {
    /// Parses `sha256:<64 hex>`, `sha512:<128 hex>` or `blake3:<64 hex>`.
    pub fn parse(text: &str) -> Result<Digest, DigestError> {
        let (name, encoded) = text.split_once(':').ok_or(DigestError::Malformed)?;
        match Algorithm::parse(name) {
            Some(Algorithm::Sha256) => from_hex(encoded).map(Digest::Sha256),
            Some(Algorithm::Sha512) => from_hex(encoded).map(Digest::Sha512),
            Some(Algorithm::Blake3) => from_hex(encoded).map(Digest::Blake3),
            None if foreign_but_well_formed(name, encoded) => return Err(DigestError::UnknownAlgorithm),
            None => None,
        }
        .ok_or(DigestError::Malformed)
    }

    /// The algorithm.
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Digest::Sha256(_) => Algorithm::Sha256,
            Digest::Sha512(_) => Algorithm::Sha512,
            Digest::Blake3(_) => Algorithm::Blake3,
        }
    }

    /// The raw bytes: [`Algorithm::digest_len`] of them.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Digest::Sha256(bytes) | Digest::Blake3(bytes) => bytes,
            Digest::Sha512(bytes) => bytes,
        }
    }

    /// `None`: the length is not the algorithm's.
    pub fn from_bytes(algorithm: Algorithm, bytes: &[u8]) -> Option<Digest> {
        Some(match algorithm {
            Algorithm::Sha256 => Digest::Sha256(bytes.try_into().ok()?),
            Algorithm::Sha512 => Digest::Sha512(bytes.try_into().ok()?),
            Algorithm::Blake3 => Digest::Blake3(bytes.try_into().ok()?),
        })
    }

    /// The hex without the algorithm, written into `out`. Allocates nothing.
    pub fn hex<'a>(&self, out: &'a mut [u8; 128]) -> &'a str {
        let bytes = self.bytes();
        let len = bytes.len() * 2;
        write_hex(bytes, &mut out[..len]);
        ascii(&out[..len])
    }

    /// `algorithm:hex` on the stack. Allocates nothing.
    pub fn text(&self) -> DigestText {
        let mut text = DigestText { len: 0, bytes: [0; DigestText::LEN_MAX] };
        let (name, raw) = (self.algorithm().name().as_bytes(), self.bytes());
        let at = name.len() + 1;
        let end = at + raw.len() * 2;
        text.bytes[..name.len()].copy_from_slice(name);
        text.bytes[name.len()] = b':';
        write_hex(raw, &mut text.bytes[at..end]);
        text.len = end as u8;
        text
    }

    /// The digest of `content`.
    pub fn of(algorithm: Algorithm, content: &[u8]) -> Digest {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(content);
        hasher.finish()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.text().as_str())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `algorithm:hex` of one digest, inline.
#[derive(Clone, Copy)]
pub struct DigestText {
    len: u8,
    bytes: [u8; DigestText::LEN_MAX],
}

impl DigestText {
    /// The longest: `sha512:` and 128 hex digits.
    pub const LEN_MAX: usize = 7 + 128;

    /// The text.
    pub fn as_str(&self) -> &str {
        ascii(&self.bytes[..usize::from(self.len)])
    }
}

fn ascii(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("hex and algorithm names are ASCII")
}

pub(crate) fn write_hex(bytes: &[u8], out: &mut [u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (byte, pair) in bytes.iter().zip(out.chunks_exact_mut(2)) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

/// `None`: another length than `2 * N`, or a character that is not lower-case hex.
pub(crate) fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(out)
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// The grammar of a digest, for algorithms that are not ours.
fn foreign_but_well_formed(name: &str, encoded: &str) -> bool {
    let component = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
    };
    name.split(['+', '.', '_', '-']).all(component)
        && !encoded.is_empty()
        && encoded.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"=_-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EMPTY_SHA256: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const EMPTY_BLAKE3: &str = "blake3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262";
    const EMPTY_SHA512: &str = "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce\
                                47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e";

    #[test]
    fn the_digest_of_nothing_is_the_published_one() {
        for (algorithm, expect) in Algorithm::ALL.into_iter().zip([EMPTY_SHA256, EMPTY_SHA512, EMPTY_BLAKE3])
        {
            assert_eq!(Digest::of(algorithm, b"").to_string(), expect);
            assert_eq!(Digest::parse(expect), Ok(Digest::of(algorithm, b"")));
        }
    }

    #[test]
    fn what_is_not_a_digest_is_told_apart() {
        fn check(text: &str, expect: DigestError) {
            assert_eq!(Digest::parse(text), Err(expect), "{text:?}");
        }
        use DigestError::{Malformed, UnknownAlgorithm};
        check("", Malformed);
        check(":", Malformed);
        check("latest", Malformed);
        check("sha256", Malformed);
        check("sha256:", Malformed);
        check("sha256:baddigeststring", Malformed);
        check(&EMPTY_SHA256.to_uppercase(), Malformed);
        check(&EMPTY_SHA256.replace("e3b0", "E3B0"), Malformed);
        check(&EMPTY_SHA256[..EMPTY_SHA256.len() - 1], Malformed);
        check(&format!("{EMPTY_SHA256}0"), Malformed);
        check(&EMPTY_SHA256.replace("sha256", "sha512"), Malformed);
        check(&EMPTY_SHA256.replace("sha256", "SHA256"), Malformed);
        check(&format!(" {EMPTY_SHA256}"), Malformed);
        check("sha256:../../../../etc/passwd", Malformed);
        check("md5:d41d8cd98f00b204e9800998ecf8427e", UnknownAlgorithm);
        check("sha384:00", UnknownAlgorithm);
        check("multihash+base58:QmRZxt2b1FVZPNqd8hsiykDL3TdBDeTSPX9Kv46HmX4Gx8", UnknownAlgorithm);
        check("sha256+b64u:LCa0a2j_xo_5m0U8HTBBNBNCLXBkg7-g-YpeiGJm564", UnknownAlgorithm);
        check("md5:", Malformed);
        check("md5:a/b", Malformed);
        check("a++b:00", Malformed);
    }

    #[test]
    fn from_bytes_wants_the_exact_length() {
        assert_eq!(Digest::from_bytes(Algorithm::Sha256, &[0; 31]), None);
        assert_eq!(Digest::from_bytes(Algorithm::Sha512, &[0; 32]), None);
        assert_eq!(Digest::from_bytes(Algorithm::Blake3, &[7; 32]), Some(Digest::Blake3([7; 32])));
    }

    #[test]
    fn algorithms_parse_by_their_exact_name() {
        for algorithm in Algorithm::ALL {
            assert_eq!(Algorithm::parse(algorithm.name()), Some(algorithm));
            assert_eq!(Algorithm::parse(&algorithm.name().to_uppercase()), None);
        }
        assert_eq!(Algorithm::parse("sha1"), None);
    }

    proptest! {
        #[test]
        fn text_and_bytes_go_round(raw in proptest::collection::vec(any::<u8>(), 64)) {
            for algorithm in Algorithm::ALL {
                let digest = Digest::from_bytes(algorithm, &raw[..algorithm.digest_len()]).unwrap();
                let text = digest.to_string();
                prop_assert_eq!(Digest::parse(&text), Ok(digest));
                let inline = digest.text();
                prop_assert_eq!(inline.as_str(), &text);
                let mut hex = [0; 128];
                prop_assert_eq!(format!("{}:{}", algorithm, digest.hex(&mut hex)), text);
                prop_assert_eq!(digest.bytes(), &raw[..algorithm.digest_len()]);
            }
        }

        #[test]
        fn what_parses_prints_the_same(text in "(sha256|sha512|blake3|md5):[0-9a-fA-F]{60,66}") {
            if let Ok(digest) = Digest::parse(&text) {
                prop_assert_eq!(digest.to_string(), text);
            }
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _parsed = Digest::parse(&text);
        }
    }
}
