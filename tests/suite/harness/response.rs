//! A reply as it was on the wire, read strictly: what RFC 9112 forbids a server to send fails the test.

use std::io;

/// How the end of a body was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none: HEAD, 1xx, 204, 304.
    None,
    /// `Content-Length`.
    Length,
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// Neither; the connection's end.
    Close,
}

/// A complete reply.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    /// In the order received; names as sent.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub framing: Framing,
}

impl Response {
    /// Every value of a field, in order.
    pub fn all(&self, name: &str) -> Vec<&str> {
        let same = |(have, _): &&(String, String)| have.eq_ignore_ascii_case(name);
        self.headers.iter().filter(same).map(|(_, value)| value.as_str()).collect()
    }

    /// The value of a field that is sent at most once.
    pub fn get(&self, name: &str) -> Option<&str> {
        let all = self.all(name);
        assert!(all.len() <= 1, "{name} is there {} times: {all:?}", all.len());
        all.first().copied()
    }

    /// The value of a field that has to be there.
    pub fn header(&self, name: &str) -> &str {
        self.get(name).unwrap_or_else(|| panic!("no {name} in {self:#?}"))
    }

    /// Fails unless the status is this one.
    #[track_caller]
    pub fn expect(self, status: u16) -> Response {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }

    /// Fails unless this is an error of that status and the spec's JSON has that code first.
    #[track_caller]
    pub fn refused(self, status: u16, code: &str) -> Response {
        assert_eq!((self.status, self.code().as_str()), (status, code), "{}", self.text());
        self
    }

    /// The first error code of the body; empty if there is none.
    pub fn code(&self) -> String {
        let Ok(body) = serde_json::from_slice::<serde_json::Value>(&self.body) else { return String::new() };
        body["errors"][0]["code"].as_str().unwrap_or_default().to_owned()
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {}", self.text()))
    }

    /// Head and body for a failure's message, cut to what one can read.
    pub fn text(&self) -> String {
        let shown = &self.body[..self.body.len().min(600)];
        format!("{} {:?}\n{}", self.status, self.headers, String::from_utf8_lossy(shown))
    }

    /// Whether the server said that it closes the connection after this.
    pub fn closes(&self) -> bool {
        self.framing == Framing::Close
            || self.all("connection").iter().any(|v| v.eq_ignore_ascii_case("close"))
    }
}

/// Reads one reply out of `pending`, filled by `more` (0 = end of stream).
/// `Ok(None)`: the stream ended before its first byte.
pub fn read(
    pending: &mut Vec<u8>,
    head_only: bool,
    mut more: impl FnMut(&mut Vec<u8>) -> io::Result<usize>,
) -> io::Result<Option<Response>> {
    let end = loop {
        if let Some(at) = pending.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        assert!(pending.len() <= 64 * 1024, "a response head without end");
        if more(pending)? == 0 {
            if pending.is_empty() {
                return Ok(None);
            }
            return Err(broken(format!("end of stream in a head: {:?}", String::from_utf8_lossy(pending))));
        }
    };
    let head = String::from_utf8(pending.drain(..end).collect()).expect("a head is ASCII");
    let (status, headers) = parse_head(&head);
    let mut response = Response { status, headers, body: Vec::new(), framing: Framing::None };
    let length = response.get("content-length").map(|value| {
        assert!(value.bytes().all(|byte| byte.is_ascii_digit()), "Content-Length: {value}");
        value.parse::<usize>().expect("a length that fits")
    });
    let chunked = response.get("transfer-encoding").is_some();
    assert!(!(chunked && length.is_some()), "both framings in {response:?}");
    if (100..200).contains(&status) || status == 204 {
        assert!(!chunked && length.unwrap_or(0) == 0, "a {status} with a body: {response:?}");
        return Ok(Some(response));
    }
    if head_only || status == 304 {
        return Ok(Some(response));
    }
    if chunked {
        assert_eq!(response.header("transfer-encoding"), "chunked");
        response.framing = Framing::Chunked;
        response.body = read_chunks(pending, &mut more)?;
    } else if let Some(length) = length {
        response.framing = Framing::Length;
        while pending.len() < length {
            if more(pending)? == 0 {
                return Err(broken(format!("{} of {length} bytes, then the end", pending.len())));
            }
        }
        response.body =
            if pending.len() == length { std::mem::take(pending) } else { pending.drain(..length).collect() };
    } else {
        response.framing = Framing::Close;
        while more(pending)? != 0 {}
        response.body = std::mem::take(pending);
    }
    Ok(Some(response))
}

fn parse_head(head: &str) -> (u16, Vec<(String, String)>) {
    let mut lines = head.strip_suffix("\r\n\r\n").expect("it ends so").split("\r\n");
    let line = lines.next().expect("split yields one");
    let rest = line.strip_prefix("HTTP/1.1 ").or(line.strip_prefix("HTTP/1.0 "));
    let rest = rest.unwrap_or_else(|| panic!("status line {line:?}"));
    assert!(rest.len() >= 4 && rest.as_bytes()[3] == b' ', "status line {line:?}");
    let status = rest[..3].parse().unwrap_or_else(|_| panic!("status line {line:?}"));
    let headers = lines.map(|line| {
        assert!(!line.contains(['\r', '\n', '\0']), "control in {line:?}");
        let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("field line {line:?}"));
        let token = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        assert!(!name.is_empty() && name.bytes().all(token), "field name in {line:?}");
        (name.to_owned(), value.trim_matches([' ', '\t']).to_owned())
    });
    (status, headers.collect())
}

fn read_chunks(
    pending: &mut Vec<u8>,
    more: &mut impl FnMut(&mut Vec<u8>) -> io::Result<usize>,
) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    let mut fill = |pending: &mut Vec<u8>| match more(pending)? {
        0 => Err(broken("the end within a chunked body".to_owned())),
        got => Ok(got),
    };
    loop {
        let line = loop {
            if let Some(at) = pending.windows(2).position(|window| window == b"\r\n") {
                break pending.drain(..at + 2).collect::<Vec<_>>();
            }
            fill(pending)?;
        };
        let text = std::str::from_utf8(&line[..line.len() - 2]).expect("a chunk size is ASCII");
        let size = usize::from_str_radix(text, 16).unwrap_or_else(|_| panic!("chunk size {text:?}"));
        while pending.len() < size + 2 {
            fill(pending)?;
        }
        body.extend(pending.drain(..size));
        let end: Vec<u8> = pending.drain(..2).collect();
        assert_eq!(end, b"\r\n", "a chunk (or the empty trailer) ends with CRLF");
        if size == 0 {
            return Ok(body);
        }
    }
}

fn broken(what: String) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, what)
}
