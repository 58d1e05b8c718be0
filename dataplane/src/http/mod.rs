//! HTTP/1.1 as bytes: heads in, heads out, chunks. No socket, no clock, no waiting.
//!
//! Spec: RFC 9110, RFC 9112. What two parsers could read in two ways is refused, never guessed.

mod chunked;
mod date;
mod head;
mod response;

pub use chunked::Chunked;
pub use date::HttpDate;
pub use head::{BodyLength, Head, Parsed, parse};
pub use response::Lines;
