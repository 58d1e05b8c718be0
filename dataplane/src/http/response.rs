//! The head of an answer, written straight into the buffer that is sent.

use oci::Digest;

/// Lines of a response head. The buffer is reused from answer to answer, so a warm core allocates nothing.
#[derive(Default)]
pub struct Lines(Vec<u8>);

impl Lines {
    /// A head with this status, in a buffer whose old content is dropped.
    pub fn new(mut buffer: Vec<u8>, status: u16) -> Lines {
        buffer.clear();
        let mut lines = Lines(buffer);
        if status == 200 {
            lines.fixed("HTTP/1.1 200 OK\r\n");
            return lines;
        }
        lines.fixed("HTTP/1.1 ").number(u64::from(status));
        lines.fixed(" ").fixed(reason(status)).fixed("\r\n");
        lines
    }

    /// One field. A value with a control character in it is left out: it can't have come from us.
    pub fn field(&mut self, name: &str, value: &[u8]) -> &mut Lines {
        if !value.iter().any(|byte| byte.is_ascii_control()) {
            self.named(name);
            self.0.extend_from_slice(value);
            self.0.extend_from_slice(b"\r\n");
        }
        self
    }

    /// Text of our own: lines with their ends, or parts of one.
    pub fn fixed(&mut self, text: &str) -> &mut Lines {
        self.0.extend_from_slice(text.as_bytes());
        self
    }

    /// Lines that were rendered before.
    pub fn rendered(&mut self, lines: &[u8]) -> &mut Lines {
        self.0.extend_from_slice(lines);
        self
    }

    /// A field with a number.
    pub fn number_field(&mut self, name: &str, number: u64) -> &mut Lines {
        self.named(name);
        self.number(number);
        self.0.extend_from_slice(b"\r\n");
        self
    }

    /// A field with a digest; in quotes it is an entity tag.
    pub fn digest_field(&mut self, name: &str, digest: &Digest, quoted: bool) -> &mut Lines {
        let mut hex = [0; 128];
        let hex = digest.hex(&mut hex);
        self.named(name);
        if quoted {
            self.0.push(b'"');
        }
        self.0.extend_from_slice(digest.algorithm().name().as_bytes());
        self.0.push(b':');
        self.0.extend_from_slice(hex.as_bytes());
        if quoted {
            self.0.push(b'"');
        }
        self.0.extend_from_slice(b"\r\n");
        self
    }

    /// `Content-Range: bytes FIRST-LAST/SIZE`; `end` is exclusive.
    pub fn content_range(&mut self, start: u64, end: u64, size_bytes: u64) -> &mut Lines {
        self.named("Content-Range");
        self.0.extend_from_slice(b"bytes ");
        self.number(start);
        self.0.push(b'-');
        self.number(end - 1);
        self.0.push(b'/');
        self.number(size_bytes);
        self.0.extend_from_slice(b"\r\n");
        self
    }

    /// The lines as they are, without an end of the head.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Ends the head and gives its bytes.
    pub fn finish(mut self) -> Vec<u8> {
        self.0.extend_from_slice(b"\r\n");
        self.0
    }

    fn named(&mut self, name: &str) {
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b": ");
    }

    fn number(&mut self, mut number: u64) {
        let mut digits = [0; 20];
        let mut at = digits.len();
        loop {
            at -= 1;
            digits[at] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        self.0.extend_from_slice(&digits[at..]);
    }
}

/// The reason phrase of a status that we send.
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        304 => "Not Modified",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        507 => "Insufficient Storage",
        _ => "",
    }
}
