//! A request as it comes in: no more of HTTP than a client of registries sends.

use std::io::{self, Read};

/// The longest head, and the longest body.
const BYTES_MAX: usize = 256 * 1024;

#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Request {
    /// The next one; `None`: the client has closed.
    pub(crate) fn read(stream: &mut impl Read, ahead: &mut Vec<u8>) -> io::Result<Option<Request>> {
        let malformed = || io::Error::from(io::ErrorKind::InvalidData);
        let mut fill = |ahead: &mut Vec<u8>| -> io::Result<bool> {
            if ahead.len() > BYTES_MAX {
                return Err(malformed());
            }
            let mut piece = [0; 4096];
            let length = stream.read(&mut piece)?;
            ahead.extend_from_slice(&piece[..length]);
            Ok(length > 0)
        };
        let end = loop {
            if let Some(at) = ahead.windows(4).position(|four| four == b"\r\n\r\n") {
                break at;
            }
            if !fill(ahead)? {
                return Ok(None);
            }
        };
        let head = String::from_utf8(ahead[..end].to_vec()).map_err(|_not_text| malformed())?;
        ahead.drain(..end + 4);
        let mut lines = head.split("\r\n");
        let mut words = lines.next().unwrap_or_default().split(' ');
        let (Some(method), Some(target)) = (words.next(), words.next()) else { return Err(malformed()) };
        let header = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        };
        let headers: Vec<(String, String)> = lines.filter_map(header).collect();
        let mut request =
            Request { method: method.to_owned(), target: target.to_owned(), headers, body: String::new() };
        let length = request.header("content-length").map_or(Ok(0), str::parse).map_err(|_| malformed())?;
        while ahead.len() < length {
            if !fill(ahead)? {
                return Ok(None);
            }
        }
        request.body = String::from_utf8_lossy(&ahead[..length]).into_owned();
        ahead.drain(..length);
        Ok(Some(request))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// A value of the query, or of a form in the body, decoded.
    pub(crate) fn parameter(&self, name: &str) -> Option<String> {
        let query = self.target.split_once('?').map_or("", |(_, query)| query);
        let pairs = query.split('&').chain(self.body.split('&'));
        let (_, value) = pairs.filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name)?;
        Some(decoded(value))
    }

    /// First and last byte (inclusive) of `Range: bytes=N-M`; the last may be missing.
    pub(crate) fn range(&self) -> Option<(u64, Option<u64>)> {
        let (first, last) = self.header("range")?.strip_prefix("bytes=")?.split_once('-')?;
        let last = if last.is_empty() { None } else { Some(last.parse().ok()?) };
        Some((first.parse().ok()?, last))
    }
}

fn decoded(text: &str) -> String {
    let mut out = Vec::new();
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let hex = |byte: Option<u8>| char::from(byte?).to_digit(16);
        match byte {
            b'%' => match (hex(bytes.next()), hex(bytes.next())) {
                (Some(high), Some(low)) => out.push((high * 16 + low) as u8),
                _ => out.push(b'%'),
            },
            b'+' => out.push(b' '),
            byte => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
