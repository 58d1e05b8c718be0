//! A target for each parser that reads what comes from outside: a plain function of bytes, which panics when the
//! parser breaks a promise.
//!
//! The suite includes this file and replays the seeds (`tests/suite/fuzz.rs`); cargo-fuzz runs the same functions
//! for as long as one likes (`fuzz_targets/`). A target that is forgotten in
//! one of these places fails a test.

mod cache_index;
mod challenge;
mod chunk_range;
mod chunked;
mod conditional;
mod content_range;
mod digest;
mod endpoint;
mod fill_journal;
mod head;
mod link;
mod location;
mod manifest;
mod media_type;
mod name;
mod page;
mod range;
mod rate_limit;
mod record;
mod token;

pub use cache_index::cache_index;
pub use challenge::challenge;
pub use chunk_range::chunk_range;
pub use chunked::chunked;
pub use conditional::conditional;
pub use content_range::content_range;
pub use digest::digest;
pub use endpoint::endpoint;
pub use fill_journal::fill_journal;
pub use head::head;
pub use link::link;
pub use location::location;
pub use manifest::manifest;
pub use media_type::media_type;
pub use name::name;
pub use page::page;
pub use range::range;
pub use rate_limit::rate_limit;
pub use record::record;
pub use token::token;

/// What stands before the first LF, and what stands behind it. Without an LF all of it is the first part.
fn first_line(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.iter().position(|byte| *byte == b'\n') {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (bytes, &[]),
    }
}

/// A character for each byte, so that a target can use the functions of `str` on bytes that are none.
fn latin1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

/// Every place where `len` bytes can be cut in two, or some 256 of them.
fn cuts(len: usize) -> impl Iterator<Item = usize> {
    (0..len).step_by(1 + len / 256)
}

/// RFC 9110 §5.6.2.
fn is_token(text: &str) -> bool {
    let special = |letter| "!#$%&'*+-.^_`|~".contains(letter);
    !text.is_empty() && text.chars().all(|letter| letter.is_ascii_alphanumeric() || special(letter))
}

/// RFC 9110 §5.5: what may stand in the value of a field.
fn is_field_value(text: &str) -> bool {
    text.chars().all(|letter| letter == '\t' || (letter >= ' ' && letter != '\u{7f}'))
}
