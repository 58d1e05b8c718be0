//! The vectors, and what each may lead to.

use std::fmt;

use crate::harness::sha256;

/// What a vector may lead to.
#[derive(Clone, Debug)]
pub enum Expect {
    /// One answer with one of these statuses, then the end; 0 stands for the end without an answer.
    Refused(&'static [u16]),
    /// Answers with these statuses, and nothing else.
    Served(Vec<u16>),
    /// Either of both: strict parsers refuse it, and it has one meaning only.
    Safe(Vec<u16>),
    /// One answer with one of these statuses, and nothing else; 0 stands for none, and for waiting.
    Told(&'static [u16]),
    /// These answers, then a refusal with one of these statuses and the end.
    ThenRefused(Vec<u16>, &'static [u16]),
}

impl Expect {
    /// How many answers have to come before silence means anything.
    pub fn answers_at_least(&self) -> usize {
        match self {
            Expect::Refused(_) | Expect::Safe(_) | Expect::Told(_) => 1,
            Expect::Served(statuses) => statuses.len(),
            Expect::ThenRefused(first, _) => first.len() + 1,
        }
    }

    /// Whether the server has to end the connection.
    pub fn ends(&self) -> bool {
        matches!(self, Expect::Refused(_) | Expect::ThenRefused(..))
    }
}

/// Bytes to send and what they may lead to.
pub struct Vector {
    pub name: String,
    pub bytes: Vec<u8>,
    pub expect: Expect,
}

impl fmt::Debug for Vector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.name, self.bytes.len())
    }
}

const BAD: &[u16] = &[400];
const HELLO: &str = "hello";
/// What an attacker would like to see answered.
const HIDDEN: &str = "GET /v2/_catalog HTTP/1.1\r\nHost: r\r\n\r\n";

/// The request methods in `bytes`, as far as a reader of the replies has to know them.
pub fn methods(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let lines = text.split("\r\n").filter(|line| line.ends_with(" HTTP/1.1") || line.ends_with(" HTTP/1.0"));
    lines.filter_map(|line| Some(line.split(' ').next()?.to_owned())).collect()
}

/// `POST` of a whole blob whose digest is that of `body`: 201 proves that exactly these bytes were the body.
fn push(fields: &str, body_as_sent: &str, body: &str) -> Vec<u8> {
    let target = format!("/v2/smuggle/blobs/uploads/?digest={}", sha256(body.as_bytes()));
    format!("POST {target} HTTP/1.1\r\nHost: r\r\n{fields}\r\n{body_as_sent}").into_bytes()
}

fn get(fields: &str) -> Vec<u8> {
    format!("GET /v2/ HTTP/1.1\r\n{fields}\r\n").into_bytes()
}

fn chunked(body: &str) -> Vec<u8> {
    push("Transfer-Encoding: chunked\r\n", body, HELLO)
}

/// All of them.
pub fn vectors() -> Vec<Vector> {
    let mut all = Table::default();
    framing(&mut all);
    lengths(&mut all);
    lines(&mut all);
    request_lines(&mut all);
    hosts(&mut all);
    sizes(&mut all);
    chunks(&mut all);
    connections(&mut all);
    all.0
}

#[derive(Default)]
struct Table(Vec<Vector>);

impl Table {
    fn add(&mut self, name: impl Into<String>, bytes: impl Into<Vec<u8>>, expect: Expect) {
        self.0.push(Vector { name: name.into(), bytes: bytes.into(), expect });
    }

    fn refused(&mut self, name: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.add(name, bytes, Expect::Refused(BAD));
    }

    fn served(&mut self, name: impl Into<String>, bytes: impl Into<Vec<u8>>, statuses: &[u16]) {
        self.add(name, bytes, Expect::Served(statuses.to_vec()));
    }

    fn safe(&mut self, name: impl Into<String>, bytes: impl Into<Vec<u8>>, statuses: &[u16]) {
        self.add(name, bytes, Expect::Safe(statuses.to_vec()));
    }
}

/// `Transfer-Encoding` in every disguise, alone and beside `Content-Length`.
fn framing(all: &mut Table) {
    let hidden = format!("0\r\n\r\n{HIDDEN}");
    all.refused("CL and TE", push("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", &hidden, ""));
    all.refused("TE and CL", push("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", &hidden, ""));
    all.refused("CL 0 and TE", push("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", &hidden, ""));
    all.refused(
        "CL and TE identity",
        push("Content-Length: 5\r\nTransfer-Encoding: identity\r\n", HELLO, HELLO),
    );
    all.refused(
        "CL and a broken TE",
        push("Content-Length: 5\r\nTransfer-Encoding: xchunked\r\n", HELLO, HELLO),
    );
    for value in [
        "xchunked",
        "chunkedx",
        "chunked, chunked",
        "chunked, identity",
        "identity, chunked",
        "identity",
        "gzip, chunked",
        "chunked, gzip",
        "gzip",
        "deflate",
        "",
        "chunked;q=1",
        "\"chunked\"",
        "chun ked",
        "chunked\u{b}",
        "\u{b}chunked",
        "\u{c}chunked",
        "chunked\0",
        "x: chunked",
        "chunked\r",
        "cow",
    ] {
        let bytes = push(&format!("Transfer-Encoding: {value}\r\n"), &hidden, "");
        all.add(format!("TE {value:?}"), bytes, Expect::Refused(&[400, 501]));
    }
    all.refused(
        "TE twice",
        push("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", &hidden, ""),
    );
    all.refused(
        "TE chunked, then identity",
        push("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", &hidden, ""),
    );
    all.refused(
        "TE identity, then chunked",
        push("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", &hidden, ""),
    );
    all.refused("TE and a space before the colon", push("Transfer-Encoding : chunked\r\n", &hidden, ""));
    all.refused("TE and a tab before the colon", push("Transfer-Encoding\t: chunked\r\n", &hidden, ""));
    all.refused(
        "TE and a space before the name",
        push("X: y\r\n Transfer-Encoding: chunked\r\n", &hidden, ""),
    );
    all.refused("TE with a NUL in the name", push("Transfer-Encoding\0: chunked\r\n", &hidden, ""));
    all.refused("TE folded", push("Transfer-Encoding:\r\n chunked\r\n", &hidden, ""));
    all.refused("TE folded further", push("Transfer-Encoding: chunked\r\n , identity\r\n", &hidden, ""));
    all.refused(
        "TE after a bare LF",
        push("Content-Length: 5\r\nX: y\nTransfer-Encoding: chunked\r\n", HELLO, HELLO),
    );
    all.refused(
        "TE after a bare CR",
        push("Content-Length: 5\r\nX: y\rTransfer-Encoding: chunked\r\n", HELLO, HELLO),
    );
    let old = push("Transfer-Encoding: chunked\r\n", &hidden, "");
    all.refused(
        "TE on HTTP/1.0",
        String::from_utf8(old).unwrap().replace("HTTP/1.1\r\nHost: r\r\nTr", "HTTP/1.0\r\nHost: r\r\nTr"),
    );
    all.refused(
        "TE on a GET, beside CL",
        get("Host: r\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n"),
    );
    let hello = "5\r\nhello\r\n0\r\n\r\n";
    all.safe("TE CHUNKED", push("Transfer-Encoding: CHUNKED\r\n", hello, HELLO), &[201]);
    all.safe("TE after a tab", push("Transfer-Encoding:\tchunked\r\n", hello, HELLO), &[201]);
    all.safe("TE with spaces around", push("Transfer-Encoding:   chunked  \r\n", hello, HELLO), &[201]);
    all.safe("TE with an empty list element", push("Transfer-Encoding: , chunked\r\n", hello, HELLO), &[201]);
    all.served("a name in other letters", push("tRANSFER-eNCODING: chunked\r\n", hello, HELLO), &[201]);
    all.served(
        "an underscore is another field",
        push("Content-Length: 5\r\nTransfer_Encoding: chunked\r\n", HELLO, HELLO),
        &[201],
    );
    all.served(
        "a field that begins the same",
        push("Content-Length: 5\r\nTransfer-EncodingX: chunked\r\n", HELLO, HELLO),
        &[201],
    );
}

/// `Content-Length` in every disguise.
fn lengths(all: &mut Table) {
    for value in [
        "+5",
        "-5",
        "5 5",
        "0x5",
        "5abc",
        "",
        "5.0",
        "5;",
        "5,",
        ",5",
        "5, 5",
        "5, 6",
        "\"5\"",
        "٥",
        "5\0",
        "5\r",
        "18446744073709551616",
        "99999999999999999999999999",
        "5e0",
        "five",
        "0b101",
        "5_0",
        "\u{b}5",
    ] {
        all.refused(format!("CL {value:?}"), push(&format!("Content-Length: {value}\r\n"), HELLO, HELLO));
    }
    all.refused("CL twice, the same", push("Content-Length: 5\r\nContent-Length: 5\r\n", HELLO, HELLO));
    all.refused("CL twice, other", push("Content-Length: 5\r\nContent-Length: 0\r\n", HELLO, HELLO));
    all.refused(
        "CL twice in other letters",
        push("Content-Length: 5\r\ncontent-length: 6\r\n", HELLO, HELLO),
    );
    all.refused("CL and a space before the colon", push("Content-Length : 5\r\n", HELLO, HELLO));
    all.refused("CL folded", push("Content-Length:\r\n 5\r\n", HELLO, HELLO));
    let most = push(&format!("Content-Length: {}\r\n", u64::MAX), HELLO, HELLO);
    all.add("CL as large as can be", most, Expect::Refused(&[400, 413]));
    all.safe("CL with zeros before", push("Content-Length: 0005\r\n", HELLO, HELLO), &[201]);
    all.served("CL with spaces around", push("Content-Length:  5 \r\n", HELLO, HELLO), &[201]);
    let hidden = format!("{HELLO}{HIDDEN}");
    all.served("CL, then the next request", push("Content-Length: 5\r\n", &hidden, HELLO), &[201, 200]);
    let garbage = push("Content-Length: 5\r\n", &format!("{HELLO}garbage\r\n\r\n"), HELLO);
    all.add("CL, then garbage", garbage, Expect::ThenRefused(vec![201], BAD));
    all.served(
        "a GET with a body",
        [get("Host: r\r\nContent-Length: 5\r\n"), b"hello".to_vec(), get("Host: r\r\n")].concat(),
        &[200, 200],
    );
    let body = b"5\r\nhello\r\n0\r\n\r\n".to_vec();
    all.served(
        "a GET with chunks",
        [get("Host: r\r\nTransfer-Encoding: chunked\r\n"), body, get("Host: r\r\n")].concat(),
        &[200, 200],
    );
}

/// Field lines and line ends.
fn lines(all: &mut Table) {
    all.refused("LF everywhere", "GET /v2/ HTTP/1.1\nHost: r\n\n");
    all.refused("LF after the request line", "GET /v2/ HTTP/1.1\nHost: r\r\n\r\n");
    all.refused("LF after a field", "GET /v2/ HTTP/1.1\r\nHost: r\nX: y\r\n\r\n");
    all.refused("LF at the end of the head", "GET /v2/ HTTP/1.1\r\nHost: r\r\n\n");
    all.refused("CR alone after a field", "GET /v2/ HTTP/1.1\r\nHost: r\rX: y\r\n\r\n");
    all.refused("CR CR LF", "GET /v2/ HTTP/1.1\r\nHost: r\r\r\n\r\n");
    all.refused("CR in a value", get("Host: r\r\nX: a\rb\r\n"));
    for (name, value) in
        [("NUL", "\0"), ("SOH", "\u{1}"), ("ESC", "\u{1b}"), ("DEL", "\u{7f}"), ("VT", "\u{b}")]
    {
        all.refused(format!("{name} in a value"), get(&format!("Host: r\r\nX: a{value}b\r\n")));
        all.refused(format!("{name} in a name"), get(&format!("Host: r\r\nX{value}Y: z\r\n")));
    }
    all.refused("no colon", get("Host: r\r\nno colon here\r\n"));
    all.refused("no name", get("Host: r\r\n: value\r\n"));
    all.refused("a space in a name", get("Host: r\r\nX Y: z\r\n"));
    all.refused("a space before the colon", get("Host: r\r\nX : z\r\n"));
    all.refused("a parenthesis in a name", get("Host: r\r\nX(Y): z\r\n"));
    all.refused("a letter beyond ASCII in a name", get("Host: r\r\nXä: z\r\n"));
    all.refused("a folded value", get("Host: r\r\nX: y\r\n z\r\n"));
    all.refused("a value folded by a tab", get("Host: r\r\nX: y\r\n\tz\r\n"));
    all.refused("the first field line is folded", get(" Host: r\r\nX: y\r\n"));
    all.safe("bytes beyond ASCII in a value", get("Host: r\r\nX: \u{fc}\r\n"), &[200]);
    all.served("an empty value", get("Host: r\r\nX:\r\n"), &[200]);
    all.served("a tab in a value", get("Host: r\r\nX: a\tb\r\n"), &[200]);
}

/// Method, target, version.
fn request_lines(all: &mut Table) {
    for (name, line) in [
        ("two spaces", "GET  /v2/ HTTP/1.1"),
        ("two spaces before the version", "GET /v2/  HTTP/1.1"),
        ("a space at the start", " GET /v2/ HTTP/1.1"),
        ("a space at the end", "GET /v2/ HTTP/1.1 "),
        ("tabs", "GET\t/v2/\tHTTP/1.1"),
        ("a space in the target", "GET /v2/ x HTTP/1.1"),
        ("no target", "GET HTTP/1.1"),
        ("an empty target", "GET  HTTP/1.1"),
        ("no version", "GET /v2/"),
        ("a relative target", "GET v2/ HTTP/1.1"),
        ("HTTP/11", "GET /v2/ HTTP/11"),
        ("http/1.1", "GET /v2/ http/1.1"),
        ("HTTP/1.1x", "GET /v2/ HTTP/1.1x"),
        ("HTTP/1.", "GET /v2/ HTTP/1."),
        ("HTTPS/1.1", "GET /v2/ HTTPS/1.1"),
        ("NUL in the target", "GET /v2/\0 HTTP/1.1"),
        ("ESC in the target", "GET /v2/\u{1b} HTTP/1.1"),
        ("a method of brackets", "G{}T /v2/ HTTP/1.1"),
        ("no method", "/v2/ HTTP/1.1"),
        ("CR in the line", "GET /v2/\rX HTTP/1.1"),
    ] {
        all.refused(name, format!("{line}\r\nHost: r\r\n\r\n"));
    }
    for version in ["HTTP/2.0", "HTTP/3.0", "HTTP/0.9", "HTTP/1.9", "HTTP/9.9"] {
        let bytes = format!("GET /v2/ {version}\r\nHost: r\r\n\r\n");
        all.add(version, bytes, Expect::Refused(&[400, 505]));
    }
    all.add("the preface of HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Expect::Refused(&[400, 505]));
    all.safe("an empty line before", "\r\nGET /v2/ HTTP/1.1\r\nHost: r\r\n\r\n", &[200]);
    all.safe("an absolute target", "GET http://r/v2/ HTTP/1.1\r\nHost: r\r\n\r\n", &[200]);
    let mut told = |name: &str, line: &str, statuses: &'static [u16]| {
        all.add(name, format!("{line} HTTP/1.1\r\nHost: r\r\n\r\n"), Expect::Told(statuses));
    };
    told("a fragment", "GET /v2/#x", &[400, 404]);
    told("a method in small letters", "get /v2/", &[400, 405, 501]);
    told("the asterisk", "OPTIONS *", &[400, 404, 405]);
    told("bytes beyond ASCII in the target", "GET /v2/ü/tags/list", &[400]);
    told("TRACE", "TRACE /v2/", &[405]);
    told("CONNECT", "CONNECT r:443", &[405]);
    told("CONNECT with a path", "CONNECT /v2/", &[405]);
    all.served("HTTP/1.0", "GET /v2/ HTTP/1.0\r\n\r\n", &[200]);
}

fn hosts(all: &mut Table) {
    all.refused("no Host", get(""));
    all.refused("two Hosts", get("Host: a\r\nHost: b\r\n"));
    all.refused("two Hosts, the same", get("Host: r\r\nHost: r\r\n"));
    all.refused("two Hosts in other letters", get("Host: r\r\nhOST: r\r\n"));
    all.safe("a Host with a space", get("Host: a b\r\n"), &[200]);
    all.safe("a Host with a path", get("Host: a/b\r\n"), &[200]);
    all.safe("an empty Host", get("Host:\r\n"), &[200]);
}

/// Oversize everything.
fn sizes(all: &mut Table) {
    let long = "x".repeat(40_000);
    all.add("one field of 40 KB", get(&format!("Host: r\r\nX: {long}\r\n")), Expect::Refused(&[431]));
    all.add("a name of 40 KB", get(&format!("Host: r\r\n{long}: y\r\n")), Expect::Refused(&[431]));
    let fields = |count: usize| (0..count).map(|number| format!("X{number}: y\r\n")).collect::<String>();
    all.served("100 fields", get(&format!("Host: r\r\n{}", fields(99))), &[200]);
    all.add("101 fields", get(&format!("Host: r\r\n{}", fields(100))), Expect::Refused(&[431]));
    all.add("5,000 fields", get(&format!("Host: r\r\n{}", fields(5000))), Expect::Refused(&[431]));
    let target = format!("GET /v2/{} HTTP/1.1\r\nHost: r\r\n\r\n", "a".repeat(8200));
    all.add("a target of 8 KiB", target, Expect::Refused(&[414]));
    let target = format!("GET /v2/{} HTTP/1.1\r\nHost: r\r\n\r\n", "a".repeat(60_000));
    all.add("a target of 60 KB", target, Expect::Refused(&[414, 431]));
    let method = format!("{} /v2/ HTTP/1.1\r\nHost: r\r\n\r\n", "M".repeat(60_000));
    all.add("a method of 60 KB", method, Expect::Refused(&[400, 405, 414, 431, 501]));
    all.add(
        "a head without end",
        get(&format!("Host: r\r\nX: {}", "x".repeat(1 << 20))),
        Expect::Refused(&[431]),
    );
    all.add("a request line without end", vec![b'G'; 1 << 20], Expect::Refused(&[400, 405, 414, 431, 501]));
    let empty = format!("{}GET /v2/ HTTP/1.1\r\nHost: r\r\n\r\n", "\r\n".repeat(100_000));
    all.add("200 KB of empty lines", empty, Expect::Refused(&[400, 408, 414, 431]));
}

/// Chunked bodies.
fn chunks(all: &mut Table) {
    let rest = "\r\nhello\r\n0\r\n\r\n";
    for size in ["xyz", "-5", "+5", "0x5", " 5", "", "5g", "5,5", "5h", "\t5", "5\0", "٥", "5.", "_5"] {
        all.refused(format!("chunk size {size:?}"), chunked(&format!("{size}{rest}")));
    }
    for size in ["10000000000000005", "fffffffffffffffff", "100000000000000000000000000000005"] {
        all.refused(format!("chunk size {size}"), chunked(&format!("{size}{rest}")));
    }
    let huge = chunked(&format!("7fffffffffffffff{rest}"));
    all.add("a chunk of 8 EiB", huge, Expect::Told(&[0, 400, 413]));
    all.refused("a chunk longer than its size", chunked("4\r\nhello\r\n0\r\n\r\n"));
    all.refused("a chunk shorter than its size", chunked("6\r\nhello\r\n0\r\n\r\n"));
    all.refused("LF after the size", chunked("5\nhello\r\n0\r\n\r\n"));
    all.refused("CR after the size", chunked("5\rhello\r\n0\r\n\r\n"));
    all.refused("LF after the chunk", chunked("5\r\nhello\n0\r\n\r\n"));
    all.refused("no line end after the chunk", chunked("5\r\nhello0\r\n\r\n"));
    all.refused("LF at the end", chunked("5\r\nhello\r\n0\n\n"));
    all.refused("the last line end is LF", chunked("5\r\nhello\r\n0\r\n\n"));
    all.refused("LF in an extension", chunked("5;a\nb\r\nhello\r\n0\r\n\r\n"));
    all.refused("CR in an extension", chunked("5;a\rb\r\nhello\r\n0\r\n\r\n"));
    all.refused("LF ends an extension", chunked("5;\nhello\r\n0\r\n\r\n"));
    all.refused("NUL in an extension", chunked("5;a\0b\r\nhello\r\n0\r\n\r\n"));
    let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(200_000));
    all.add("an extension of 200 KB", chunked(&long), Expect::Refused(&[400, 413, 431]));
    all.safe("an extension", chunked("5;a=b;c=\"d\"\r\nhello\r\n0\r\n\r\n"), &[201]);
    all.safe("a space after the size", chunked("5 \r\nhello\r\n0\r\n\r\n"), &[201]);
    all.safe("zeros before the size", chunked("0005\r\nhello\r\n000\r\n\r\n"), &[201]);
    all.safe("a trailer", chunked("5\r\nhello\r\n0\r\nX: y\r\n\r\n"), &[201]);
    all.safe(
        "a length in the trailer",
        chunked(&format!("5\r\nhello\r\n0\r\nContent-Length: 99\r\n\r\n{HIDDEN}")),
        &[201, 200],
    );
    all.safe(
        "an encoding in the trailer",
        chunked(&format!("5\r\nhello\r\n0\r\nTransfer-Encoding: x\r\n\r\n{HIDDEN}")),
        &[201, 200],
    );
    all.refused("a request in place of the trailer", chunked(&format!("5\r\nhello\r\n0\r\n{HIDDEN}")));
    all.refused("LF in the trailer", chunked("5\r\nhello\r\n0\r\nX: y\n\r\n"));
    all.refused("a folded trailer", chunked("5\r\nhello\r\n0\r\nX: y\r\n z\r\n\r\n"));
    all.refused("a trailer without a colon", chunked("5\r\nhello\r\n0\r\nno colon\r\n\r\n"));
    let long = format!("5\r\nhello\r\n0\r\n{}\r\n", "X: yyyyyyyyyyyyyyyyyyyy\r\n".repeat(10_000));
    all.add("trailers of 240 KB", chunked(&long), Expect::Refused(&[400, 413, 431]));
    all.served(
        "one byte a chunk",
        chunked("1\r\nh\r\n1\r\ne\r\n1\r\nl\r\n1\r\nl\r\n1\r\no\r\n0\r\n\r\n"),
        &[201],
    );
    all.served(
        "sizes in both letters",
        push(
            "Transfer-Encoding: chunked\r\n",
            &format!("A\r\n{0}\r\na\r\n{0}\r\n0\r\n\r\n", "y".repeat(10)),
            &"y".repeat(20),
        ),
        &[201],
    );
    all.served(
        "chunks, then the next request",
        chunked(&format!("5\r\nhello\r\n0\r\n\r\n{HIDDEN}")),
        &[201, 200],
    );
}

/// Pipelines, upgrades and other protocols.
fn connections(all: &mut Table) {
    let good = get("Host: r\r\n");
    let bad = b"GET /v2/ HTTP/1.1\r\nHost: r\r\nX : y\r\n\r\n".to_vec();
    all.served("three in a row", [good.clone(), good.clone(), good.clone()].concat(), &[200, 200, 200]);
    let mixed = [good.clone(), bad.clone(), good.clone()].concat();
    all.add("good, bad, good", mixed, Expect::ThenRefused(vec![200], BAD));
    all.refused("bad, good", [bad, good.clone()].concat());
    all.served(
        "close, and then another",
        [get("Host: r\r\nConnection: close\r\n"), good.clone()].concat(),
        &[200],
    );
    all.served(
        "HEAD, then GET",
        [b"HEAD /v2/ HTTP/1.1\r\nHost: r\r\n\r\n".to_vec(), good].concat(),
        &[200, 200],
    );
    for upgrade in ["h2c", "websocket", "TLS/1.0", "x\"y"] {
        let fields = format!(
            "Host: r\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: {upgrade}\r\nHTTP2-Settings: AAMAAABk\r\n"
        );
        all.served(format!("Upgrade: {upgrade}"), get(&fields), &[200]);
    }
    all.served(
        "Connection names the length",
        push("Connection: content-length\r\nContent-Length: 5\r\n", HELLO, HELLO),
        &[201],
    );
    let hello: Vec<u8> = [&[0x16, 3, 1, 0x02, 0x00, 1, 0, 0x01, 0xfc, 3, 3][..], &[0x5a; 506]].concat();
    all.refused("a TLS hello", hello);
    all.refused("a TLS record of an alert", vec![0x15, 3, 1, 0, 2, 2, 40]);
    all.refused("the start of a TLS hello", vec![0x16, 3, 1]);
    all.refused("an SSH banner", "SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n\r\n");
    all.refused("bytes of nothing", [vec![0xff; 100], b"\r\n\r\n".to_vec()].concat());
}
