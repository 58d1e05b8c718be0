//! Digests: one text for each, and no other text that is taken for it.

use oci::{Algorithm, Digest, DigestError};

/// The input is the text of a digest.
pub fn digest(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match Digest::parse(text) {
        Ok(digest) => {
            assert_eq!(digest.to_string(), text);
            assert_eq!(digest.bytes().len(), digest.algorithm().digest_len());
            assert_eq!(Digest::from_bytes(digest.algorithm(), digest.bytes()), Some(digest));
            let mut room = [0; 128];
            assert_eq!(format!("{}:{}", digest.algorithm(), digest.hex(&mut room)), text);
            assert!(is_hex_of(digest.algorithm(), text));
        }
        Err(why) => {
            let ours = Algorithm::ALL.into_iter().find(|algorithm| is_hex_of(*algorithm, text));
            assert_eq!(ours, None, "refused as {why}");
            assert_eq!(why == DigestError::UnknownAlgorithm, is_foreign(text));
        }
    }
}

fn is_hex_of(algorithm: Algorithm, text: &str) -> bool {
    let hex = text.strip_prefix(algorithm.name()).and_then(|rest| rest.strip_prefix(':'));
    hex.is_some_and(|hex| {
        hex.len() == 2 * algorithm.digest_len() && hex.chars().all(|digit| "0123456789abcdef".contains(digit))
    })
}

/// image-spec, "Digests": the grammar, for an algorithm that is not ours.
fn is_foreign(text: &str) -> bool {
    let small = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    let Some((name, encoded)) = text.split_once(':') else { return false };
    let separated = name.starts_with(small)
        && name.ends_with(small)
        && name.split(small).all(|between| ["", "+", ".", "_", "-"].contains(&between));
    let letters = |letter: char| letter.is_ascii_alphanumeric() || "=_-".contains(letter);
    Algorithm::parse(name).is_none() && separated && !encoded.is_empty() && encoded.chars().all(letters)
}
