//! The `Content-Range` of an upload's PATCH or PUT: digits, a dash, digits.

use oci::ChunkRange;

use super::latin1;

/// The input is the value of the header.
pub fn chunk_range(bytes: &[u8]) {
    let parsed = ChunkRange::parse(bytes).ok();
    if let Some(chunk) = parsed {
        assert!(chunk.first <= chunk.last && chunk.last < u64::MAX);
        assert_eq!(u128::from(chunk.len_bytes()), u128::from(chunk.last) - u128::from(chunk.first) + 1);
        assert_eq!(ChunkRange::parse(format!("{}-{}", chunk.first, chunk.last).as_bytes()), Ok(chunk));
    }
    assert_eq!(parsed, read_again(&latin1(bytes)));
}

fn read_again(value: &str) -> Option<ChunkRange> {
    let offset = |digits: &str| {
        let all = digits.bytes().all(|digit| digit.is_ascii_digit());
        digits.parse::<u64>().ok().filter(|offset| all && *offset < u64::MAX)
    };
    let (first, last) = value.trim_matches([' ', '\t']).split_once('-')?;
    let (first, last) = (offset(first)?, offset(last)?);
    (first <= last).then_some(ChunkRange { first, last })
}
