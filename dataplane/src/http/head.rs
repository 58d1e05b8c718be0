//! A request head: found, parsed, and checked for everything that a proxy before us might read otherwise.

use std::{borrow::Cow, mem::MaybeUninit};

use memchr::memchr;
use oci::{MediaType, Method, Problem};

use crate::limits::{ACCEPT_TYPES_MAX, HEAD_BYTES_MAX, HEADER_FIELDS_MAX, TARGET_BYTES_MAX};

/// Room for the longest target, a method and the version. The line may come in any number of pieces, so it is
/// refused by its length and not by what of it has arrived.
const REQUEST_LINE_BYTES_MAX: usize = TARGET_BYTES_MAX + 64;

/// What the bytes so far are.
pub enum Parsed<'b> {
    /// Not a whole head yet, and nothing wrong with it.
    Incomplete,
    /// A head; what follows it starts at `Head::len`.
    Head(Head<'b>),
    /// No head that we take. Where the next one would start is unknown: answer and close.
    Bad(Problem),
}

/// A request head, borrowed from the bytes it came in.
#[derive(Debug, PartialEq, Eq)]
pub struct Head<'b> {
    /// Bytes of the head, the empty line included.
    pub len: usize,
    /// The method.
    pub method: Method,
    /// The target in origin form: path and query, as sent.
    pub target: &'b [u8],
    /// Whether another request may follow on this connection.
    pub keep_alive: bool,
    /// How the body is delimited.
    pub body: BodyLength,
    /// The client waits for a 100 before it sends the body.
    pub expects_continue: bool,
    /// `Range`.
    pub range: Option<&'b [u8]>,
    /// `If-Range`.
    pub if_range: Option<&'b [u8]>,
    /// `If-Match`, several lines joined.
    pub if_match: Option<Cow<'b, [u8]>>,
    /// `If-None-Match`, several lines joined.
    pub if_none_match: Option<Cow<'b, [u8]>>,
    /// `Content-Type`.
    pub content_type: Option<&'b [u8]>,
    /// `Content-Range`.
    pub content_range: Option<&'b [u8]>,
    /// `User-Agent`.
    pub user_agent: Option<&'b [u8]>,
    /// All of it from the request line on, for what is seldom asked for.
    bytes: &'b [u8],
}

/// RFC 9112 §6.3, without the ambiguous cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyLength {
    /// Neither header: no body.
    None,
    /// `Content-Length`, in bytes.
    Known(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
}

impl Head<'_> {
    /// Its fields, in order, for the few requests that are judged by more of them than others.
    pub fn fields(&self) -> Vec<(String, String)> {
        let mut fields = [httparse::EMPTY_HEADER; HEADER_FIELDS_MAX];
        let mut request = httparse::Request::new(&mut fields);
        // It was parsed before.
        let _whole = request.parse(self.bytes);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        request.headers.iter().map(|field| (field.name.to_owned(), text(trim(field.value)))).collect()
    }

    /// The types in `Accept`, of all its lines and in their order, without what stands for many. At most
    /// [`ACCEPT_TYPES_MAX`]; what else is there is passed over. Allocates: only for who asks somebody else.
    pub fn accept(&self) -> Vec<MediaType> {
        let lines = self.bytes.split(|byte| *byte == b'\n').skip(1);
        let values = lines.filter_map(|line| {
            let colon = memchr(b':', line)?;
            line[..colon].eq_ignore_ascii_case(b"accept").then(|| &line[colon + 1..])
        });
        let texts = values.flat_map(|value| value.split(|byte| *byte == b',')).map(trim);
        let types = texts.filter_map(|text| MediaType::parse(std::str::from_utf8(text).ok()?).ok());
        types.filter(|one| !one.as_str().contains('*')).take(ACCEPT_TYPES_MAX).collect()
    }
}

const fn malformed(why: &'static str) -> Problem {
    Problem::RequestMalformed { why }
}

/// Parses the head at the start of `bytes`. Allocates only for a repeated conditional header.
pub fn parse(bytes: &[u8]) -> Parsed<'_> {
    let end = match find_end(bytes) {
        Ok(Some(end)) => end,
        Ok(None) => return Parsed::Incomplete,
        Err(problem) => return Parsed::Bad(problem),
    };
    match parse_whole(&bytes[..end]) {
        Ok(head) => Parsed::Head(head),
        Err(problem) => Parsed::Bad(problem),
    }
}

/// The length of the head, once its empty line is there. Every line must end with CR LF.
fn find_end(bytes: &[u8]) -> Result<Option<usize>, Problem> {
    match bytes.strip_prefix(b"\r\n").unwrap_or(bytes).first() {
        None => return Ok(None),
        Some(0x16) => return Err(malformed("this port speaks plain HTTP, not TLS")),
        Some(first) if !first.is_ascii_uppercase() && *first != b'\r' => {
            return Err(malformed("this is not an HTTP request"));
        }
        Some(_) => {}
    }
    let mut line = 0;
    let mut seen_request_line = false;
    while let Some(offset) = memchr(b'\n', &bytes[line..]) {
        let end = line + offset;
        if end == line || bytes[end - 1] != b'\r' {
            return Err(malformed("a line does not end with CR LF"));
        }
        let empty = end - 1 == line;
        if empty && seen_request_line {
            let len = end + 1;
            return if len > HEAD_BYTES_MAX { Err(Problem::HeadersTooLarge) } else { Ok(Some(len)) };
        }
        if empty && line > 0 {
            // RFC 9112 §2.2 has us ignore one empty line before a request, not a stream of them.
            return Err(malformed("empty lines before the request"));
        }
        if !empty && !seen_request_line && end > REQUEST_LINE_BYTES_MAX {
            return Err(Problem::UriTooLong);
        }
        seen_request_line |= !empty;
        line = end + 1;
    }
    if !seen_request_line && bytes.len() > REQUEST_LINE_BYTES_MAX {
        return Err(Problem::UriTooLong);
    }
    if bytes.len() >= HEAD_BYTES_MAX { Err(Problem::HeadersTooLarge) } else { Ok(None) }
}

fn parse_whole(bytes: &[u8]) -> Result<Head<'_>, Problem> {
    let mut fields = [const { MaybeUninit::uninit() }; HEADER_FIELDS_MAX];
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(bytes, &mut fields) {
        Ok(httparse::Status::Complete(len)) if len == bytes.len() => {}
        Ok(_) => return Err(malformed("the request head is malformed")),
        Err(httparse::Error::TooManyHeaders) => return Err(Problem::HeadersTooLarge),
        Err(httparse::Error::Version) => return Err(version_problem(bytes)),
        Err(_) => return Err(malformed("the request head is malformed")),
    }
    let (Some(method), Some(target), Some(version)) = (request.method, request.path, request.version) else {
        return Err(malformed("the request line is malformed"));
    };
    if target.len() > TARGET_BYTES_MAX {
        return Err(Problem::UriTooLong);
    }
    let target = origin_form(target.as_bytes());
    // CONNECT and OPTIONS have forms of their own; both are answered 405 whatever they name.
    if !target.starts_with(b"/") && !matches!(method, "CONNECT" | "OPTIONS") {
        return Err(malformed("the target is no absolute path"));
    }
    let mut head = Head {
        len: bytes.len(),
        method: Method::parse(method),
        target,
        keep_alive: version == 1,
        body: BodyLength::None,
        expects_continue: false,
        range: None,
        if_range: None,
        if_match: None,
        if_none_match: None,
        content_type: None,
        content_range: None,
        user_agent: None,
        bytes: bytes.strip_prefix(b"\r\n").unwrap_or(bytes),
    };
    let mut hosts = 0;
    let mut lengths = 0;
    let mut codings = 0;
    for field in request.headers.iter() {
        let value = trim(field.value);
        match Name::of(field.name.as_bytes()) {
            Name::Host => hosts += 1,
            Name::ContentLength => {
                lengths += 1;
                head.body = BodyLength::Known(parse_length(value)?);
            }
            Name::TransferEncoding => {
                codings += 1;
                if version == 0 {
                    return Err(malformed("Transfer-Encoding in HTTP/1.0"));
                }
                if !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(malformed("the only Transfer-Encoding is chunked"));
                }
            }
            Name::Connection => {
                for token in value.split(|byte| *byte == b',').map(trim) {
                    if token.eq_ignore_ascii_case(b"close") {
                        head.keep_alive = false;
                    }
                }
            }
            Name::Expect => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(Problem::ExpectationFailed);
                }
                head.expects_continue = version == 1;
            }
            Name::Range => once(&mut head.range, value)?,
            Name::IfRange => once(&mut head.if_range, value)?,
            Name::ContentType => once(&mut head.content_type, value)?,
            Name::ContentRange => once(&mut head.content_range, value)?,
            Name::IfMatch => join(&mut head.if_match, value),
            Name::IfNoneMatch => join(&mut head.if_none_match, value),
            Name::UserAgent => head.user_agent = Some(value),
            Name::Other => {}
        }
    }
    if hosts > 1 || (hosts == 0 && version == 1) {
        return Err(malformed("exactly one Host is required"));
    }
    if lengths > 1 || codings > 1 || (lengths > 0 && codings > 0) {
        return Err(malformed("the length of the body is ambiguous"));
    }
    if codings == 1 {
        head.body = BodyLength::Chunked;
    }
    Ok(head)
}

enum Name {
    Host,
    ContentLength,
    TransferEncoding,
    Connection,
    Expect,
    Range,
    IfRange,
    ContentType,
    ContentRange,
    IfMatch,
    IfNoneMatch,
    UserAgent,
    Other,
}

impl Name {
    fn of(name: &[u8]) -> Name {
        let is = |known: &str| name.eq_ignore_ascii_case(known.as_bytes());
        match name.len() {
            4 if is("host") => Name::Host,
            5 if is("range") => Name::Range,
            6 if is("expect") => Name::Expect,
            8 if is("if-range") => Name::IfRange,
            8 if is("if-match") => Name::IfMatch,
            10 if is("connection") => Name::Connection,
            10 if is("user-agent") => Name::UserAgent,
            12 if is("content-type") => Name::ContentType,
            13 if is("if-none-match") => Name::IfNoneMatch,
            13 if is("content-range") => Name::ContentRange,
            14 if is("content-length") => Name::ContentLength,
            17 if is("transfer-encoding") => Name::TransferEncoding,
            _ => Name::Other,
        }
    }
}

fn once<'b>(place: &mut Option<&'b [u8]>, value: &'b [u8]) -> Result<(), Problem> {
    match place.replace(value) {
        None => Ok(()),
        Some(_) => Err(malformed("a header that may come once came twice")),
    }
}

fn join<'b>(place: &mut Option<Cow<'b, [u8]>>, value: &'b [u8]) {
    *place = Some(match place.take() {
        None => Cow::Borrowed(value),
        Some(before) => Cow::Owned([&before, b", ".as_slice(), value].concat()),
    });
}

/// RFC 9112 §6.2: digits and nothing else; a sign, a list or a number beyond all blobs is refused.
fn parse_length(value: &[u8]) -> Result<u64, Problem> {
    if value.is_empty() || value.len() > 19 || !value.iter().all(u8::is_ascii_digit) {
        return Err(malformed("Content-Length is malformed"));
    }
    Ok(value.iter().fold(0, |length, digit| length * 10 + u64::from(digit - b'0')))
}

/// RFC 9112 §3.2.2: a server takes the absolute form too. The authority is not looked at: we never build
/// an answer from it.
fn origin_form(target: &[u8]) -> &[u8] {
    let Some(after) = [b"http://".as_slice(), b"https://"]
        .iter()
        .find(|scheme| target.len() > scheme.len() && target[..scheme.len()].eq_ignore_ascii_case(scheme))
        .map(|scheme| &target[scheme.len()..])
    else {
        return target;
    };
    memchr(b'/', after).map_or(b"/", |path| &after[path..])
}

fn version_problem(bytes: &[u8]) -> Problem {
    let line = &bytes[..memchr(b'\r', bytes).unwrap_or(bytes.len())];
    let mut words = line.split(|byte| *byte == b' ');
    match (words.next(), words.next(), words.next(), words.next()) {
        (Some(_), Some(_), Some([b'H', b'T', b'T', b'P', b'/', major, b'.', minor]), None)
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Problem::VersionUnsupported
        }
        _ => malformed("the request line is malformed"),
    }
}

fn trim(value: &[u8]) -> &[u8] {
    value.trim_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Head<'_>, Option<Problem>> {
        match parse(text.as_bytes()) {
            Parsed::Head(head) => Ok(head),
            Parsed::Incomplete => Err(None),
            Parsed::Bad(problem) => Err(Some(problem)),
        }
    }

    #[test]
    fn what_a_client_takes_is_one_list_of_a_bounded_length() {
        let accepts = |lines: &str| {
            let text = format!("GET /v2/a:b HTTP/1.1\r\nHost: h\r\n{lines}\r\n");
            let all = parsed(&text).unwrap().accept();
            all.iter().map(|one| one.as_str().to_owned()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(accepts(""), "");
        assert_eq!(accepts("Accept: a/b , c/d;q=0.5\r\nX: y/z\r\nACCEPT:e/f\r\n"), "a/b c/d e/f");
        assert_eq!(accepts("Accept: */*, a/*, text, a b/c, , é/x, a/b\r\nAccept-Encoding: c/d\r\n"), "a/b");
        let many: Vec<String> = (0..2 * ACCEPT_TYPES_MAX).map(|number| format!("a/{number}")).collect();
        assert_eq!(accepts(&format!("Accept: {}\r\n", many.join(","))), many[..ACCEPT_TYPES_MAX].join(" "));
    }

    #[test]
    fn a_head_is_incomplete_until_its_last_byte() {
        let whole = "GET /v2/ HTTP/1.1\r\nHost: h\r\nRange: bytes=0-1\r\n\r\n";
        for end in 0..whole.len() {
            assert!(matches!(parsed(&whole[..end]), Err(None)), "{end}");
        }
        let head = parsed(whole).unwrap();
        assert_eq!((head.len, head.target, head.keep_alive), (whole.len(), &b"/v2/"[..], true));
        assert_eq!(head.range, Some(&b"bytes=0-1"[..]));
    }

    #[test]
    fn all_fields_can_be_had() {
        let head = parsed("\r\nGET /api/ HTTP/1.1\r\nHost: h\r\nX-A:  b \r\nx-a:\r\n\r\n").unwrap();
        let told = head.fields();
        let told: Vec<(&str, &str)> =
            told.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        assert_eq!(told, [("Host", "h"), ("X-A", "b"), ("x-a", "")]);
    }

    #[test]
    fn bodies_are_delimited_in_one_way_or_refused() {
        let with = |fields: &str| format!("PUT /v2/ HTTP/1.1\r\nHost: h\r\n{fields}\r\n");
        let cases = [
            ("", Some(BodyLength::None)),
            ("Content-Length: 12\r\n", Some(BodyLength::Known(12))),
            ("Transfer-Encoding: chunked\r\n", Some(BodyLength::Chunked)),
            ("Content-Length: 12\r\nContent-Length: 12\r\n", None),
            ("Content-Length: +12\r\n", None),
            ("Content-Length: 1 2\r\n", None),
            ("Content-Length: 12, 12\r\n", None),
            ("Content-Length: 99999999999999999999\r\n", None),
            ("Content-Length:\r\n", None),
            ("Content-Length: 12\r\nTransfer-Encoding: chunked\r\n", None),
            ("Transfer-Encoding: gzip, chunked\r\n", None),
            ("Transfer-Encoding: xchunked\r\n", None),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", None),
            ("Transfer-Encoding : chunked\r\n", None),
            ("X: a\r\n Transfer-Encoding: chunked\r\n", None),
            ("X: a\nTransfer-Encoding: chunked\r\n", None),
        ];
        for (fields, expected) in cases {
            let text = with(fields);
            match (parsed(&text), expected) {
                (Ok(head), Some(body)) => assert_eq!(head.body, body, "{fields:?}"),
                (Err(Some(_)), None) => {}
                (got, _) => panic!("{fields:?} gave {got:?}"),
            }
        }
    }

    #[test]
    fn a_long_request_line_is_refused_whole_or_in_pieces() {
        let of = |method: usize| {
            let (method, target) = ("M".repeat(method), "t".repeat(TARGET_BYTES_MAX - 1));
            format!("{method} /{target} HTTP/1.1\r\nHost: h\r\n\r\n")
        };
        let longest = of(REQUEST_LINE_BYTES_MAX - TARGET_BYTES_MAX - " / HTTP/1.1\r".len() + 1);
        let line = longest.find('\n').unwrap();
        assert_eq!(line, REQUEST_LINE_BYTES_MAX);
        assert!(matches!(parsed(&longest[..line]), Err(None)));
        assert!(parsed(&longest).is_ok());
        let longer = format!("M{longest}");
        assert!(matches!(parsed(&longer[..=line]), Err(Some(Problem::UriTooLong))));
        assert!(matches!(parsed(&longer), Err(Some(Problem::UriTooLong))));
    }

    #[test]
    fn the_absolute_form_is_taken_for_its_path() {
        let head = parsed("GET http://elsewhere:5/v2/x?n=1 HTTP/1.1\r\nHost: h\r\n\r\n").unwrap();
        assert_eq!(head.target, b"/v2/x?n=1");
    }

    #[test]
    fn tls_and_other_protocols_are_told_at_their_first_byte() {
        assert!(matches!(parsed("\u{16}\u{3}\u{1}"), Err(Some(Problem::RequestMalformed { .. }))));
        assert!(matches!(parsed("\0"), Err(Some(Problem::RequestMalformed { .. }))));
        assert!(matches!(
            parsed("GET / HTTP/2.0\r\nHost: h\r\n\r\n"),
            Err(Some(Problem::VersionUnsupported))
        ));
    }
}
