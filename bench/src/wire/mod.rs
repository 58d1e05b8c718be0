//! HTTP/1.1 as the hot loops need it, without a socket: requests as bytes, answers as a head and a framing.

mod chunked;

pub use chunked::Chunks;

/// Largest head of an answer that is taken.
pub const HEAD_BYTES_MAX: usize = 64 * 1024;

/// What every request to one server has in common.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The value of `Host`.
    pub host: String,
    /// The value of `Authorization`, if there is one.
    pub authorization: Option<String>,
}

impl Origin {
    /// A request. `fields` are further header lines, each with its CR LF; `body` is sent with its length unless
    /// there is none and the method needs none.
    pub fn request(&self, method: &str, target: &str, fields: &str, body: &[u8]) -> Vec<u8> {
        let mut bytes = self.head(method, target, fields, body.len() as u64).into_bytes();
        bytes.extend_from_slice(body);
        bytes
    }

    /// The head of a request whose body of `body_bytes` follows.
    pub fn head(&self, method: &str, target: &str, fields: &str, body_bytes: u64) -> String {
        let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {}\r\n", self.host);
        if let Some(authorization) = &self.authorization {
            head += &format!("Authorization: {authorization}\r\n");
        }
        if body_bytes > 0 || !matches!(method, "GET" | "HEAD" | "DELETE") {
            head += &format!("Content-Length: {body_bytes}\r\n");
        }
        head + fields + "\r\n"
    }
}

/// How the end of a body is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// By its length in bytes.
    Length(u64),
    /// By its last chunk.
    Chunked,
    /// By the end of the connection.
    UntilClose,
}

/// What is of interest in the head of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnswerHead {
    /// The status.
    pub status: u16,
    /// How the body ends.
    pub framing: Framing,
    /// Whether another request may follow on the connection.
    pub keeps_alive: bool,
    /// `Location`.
    pub location: Option<String>,
    /// `WWW-Authenticate`.
    pub authenticate: Option<String>,
}

/// Parses the head at the start of `bytes`, interim answers (1xx) skipped. Gives its length and what it says;
/// `None`: it is not whole. `to_head`: the request was a HEAD, so no body follows.
///
/// Errors: a sentence; the connection is of no use any more.
pub fn parse_head(bytes: &[u8], to_head: bool) -> Result<Option<(usize, AnswerHead)>, String> {
    let mut skipped = 0;
    loop {
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut parsed = httparse::Response::new(&mut fields);
        let length = match parsed.parse(&bytes[skipped..]) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_MAX => return Ok(None),
            Ok(httparse::Status::Partial) => return Err("the head of an answer has no end".to_owned()),
            Err(error) => return Err(format!("an answer is no HTTP: {error}")),
        };
        let status = parsed.code.unwrap_or(0);
        skipped += length;
        if (100..200).contains(&status) {
            continue;
        }
        let field = |name: &str| {
            let found = parsed.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
            found.map(|field| field.value)
        };
        let text = |name: &str| field(name).map(|value| String::from_utf8_lossy(value).into_owned());
        let framing = if to_head || matches!(status, 204 | 304) {
            Framing::Length(0)
        } else if field("transfer-encoding").is_some() {
            Framing::Chunked
        } else {
            match field("content-length") {
                Some(length) => {
                    let number = std::str::from_utf8(length).ok().and_then(|text| text.trim().parse().ok());
                    Framing::Length(number.ok_or("an answer's length is no number")?)
                }
                None => Framing::UntilClose,
            }
        };
        let closes = field("connection").is_some_and(|value| value.eq_ignore_ascii_case(b"close"));
        let keeps_alive = !closes && parsed.version == Some(1) && framing != Framing::UntilClose;
        let head = AnswerHead {
            status,
            framing,
            keeps_alive,
            location: text("location"),
            authenticate: text("www-authenticate"),
        };
        return Ok(Some((skipped, head)));
    }
}

/// The target of a `Location` on the same server: its path and query.
pub fn target_of(location: &str) -> &str {
    match location.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => location,
    }
}

/// A target with one more parameter in its query.
pub fn with_query(target: &str, pair: &str) -> String {
    let join = if target.contains('?') { '&' } else { '?' };
    format!("{target}{join}{pair}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads() {
        let whole = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 202 Accepted\r\nContent-Length: 12\r\nlocation: /v2/x\r\n\r\nbody";
        let (length, head) = parse_head(whole, false).unwrap().unwrap();
        assert_eq!(&whole[length..], b"body");
        assert_eq!((head.status, head.framing, head.keeps_alive), (202, Framing::Length(12), true));
        assert_eq!(head.location.as_deref(), Some("/v2/x"));
        for end in 0..length {
            assert_eq!(parse_head(&whole[..end], false), Ok(None), "{end}");
        }
        let (_, head) = parse_head(b"HTTP/1.1 200 OK\r\nConnection: Close\r\n\r\n", false).unwrap().unwrap();
        assert_eq!((head.framing, head.keeps_alive), (Framing::UntilClose, false));
        let (_, head) = parse_head(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", true).unwrap().unwrap();
        assert_eq!(head.framing, Framing::Length(0));
        assert!(parse_head(b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", false).is_err());
        assert!(parse_head(b"SSH-2.0\r\n", false).is_err());
    }

    #[test]
    fn locations() {
        assert_eq!(target_of("http://h:1/v2/a?b=c"), "/v2/a?b=c");
        assert_eq!(target_of("http://h:1"), "/");
        assert_eq!(target_of("/v2/a"), "/v2/a");
        assert_eq!(with_query("/v2/a", "digest=x"), "/v2/a?digest=x");
        assert_eq!(with_query("/v2/a?b=c", "digest=x"), "/v2/a?b=c&digest=x");
    }
}
