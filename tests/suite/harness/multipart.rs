//! Takes a 206 apart: one part, or `multipart/byteranges` (RFC 9110 §14.6).

use super::response::Response;

/// A piece of a blob, as the reply says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// First byte.
    pub first: usize,
    /// Last byte, inclusive.
    pub last: usize,
    /// Length of the whole blob in bytes.
    pub size_bytes: usize,
    /// What came.
    pub bytes: Vec<u8>,
}

/// The parts of a 206, in the order sent. Fails on any malformed one.
#[track_caller]
pub fn parts(response: &Response) -> Vec<Part> {
    assert_eq!(response.status, 206, "{}", response.text());
    let media_type = response.header("content-type");
    let Some(boundary) = media_type.strip_prefix("multipart/byteranges; boundary=") else {
        let only = part(response.header("content-range"), response.body.clone());
        assert_eq!(only.bytes.len(), only.length(), "the body is what Content-Range says");
        return vec![only];
    };
    assert_eq!(response.get("content-range"), None, "Content-Range belongs into the parts");
    let boundary = boundary.trim_matches('"');
    assert!(!boundary.is_empty() && boundary.len() <= 70, "boundary {boundary:?}");
    let delimiter = format!("--{boundary}");
    let mut rest = response.body.as_slice();
    if let Some(after) = rest.strip_prefix(b"\r\n") {
        rest = after;
    }
    let mut parts = Vec::new();
    loop {
        rest = rest.strip_prefix(delimiter.as_bytes()).expect("a part opens with the boundary");
        if let Some(end) = rest.strip_prefix(b"--") {
            assert!(end.is_empty() || end == b"\r\n", "bytes after the last boundary: {end:?}");
            return parts;
        }
        rest = rest.strip_prefix(b"\r\n").expect("the boundary's line ends");
        let end = rest.windows(4).position(|window| window == b"\r\n\r\n").expect("a part has a head");
        let head = std::str::from_utf8(&rest[..end]).expect("a part's head is ASCII");
        let field = |name: &str| {
            head.split("\r\n").find_map(|line| {
                let (have, value) = line.split_once(':')?;
                have.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
            })
        };
        assert!(field("content-type").is_some(), "a part names its type: {head:?}");
        let range = field("content-range").expect("a part names its range");
        let length = part(&range, Vec::new()).length();
        rest = &rest[end + 4..];
        parts.push(part(&range, rest[..length].to_vec()));
        rest = rest[length..].strip_prefix(b"\r\n").expect("CRLF ahead of the boundary");
    }
}

impl Part {
    fn length(&self) -> usize {
        self.last + 1 - self.first
    }
}

#[track_caller]
fn part(content_range: &str, bytes: Vec<u8>) -> Part {
    let parsed = content_range.strip_prefix("bytes ").and_then(|rest| {
        let (span, size) = rest.split_once('/')?;
        let (first, last) = span.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?, size.parse().ok()?))
    });
    let (first, last, size_bytes) = parsed.unwrap_or_else(|| panic!("Content-Range: {content_range}"));
    assert!(first <= last && last < size_bytes, "Content-Range: {content_range}");
    let part = Part { first, last, size_bytes, bytes };
    assert!(part.bytes.is_empty() || part.bytes.len() == part.length(), "length of {content_range}");
    part
}
