//! An answer before it is sent, and what faults make of it.

use std::sync::{Arc, Mutex, PoisonError};

use oci::{Algorithm, Digest};
use serde_json::json;

use crate::{
    Shared,
    request::Request,
    script::{Fault, To},
    seen::Place,
};

pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Arc<[u8]>,
    /// What of the body is sent.
    pub(crate) span: (u64, u64),
    pub(crate) framing: Framing,
    pub(crate) end: End,
    pub(crate) bytes_per_s: Option<u64>,
}

/// How the client learns how long the body is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(u64),
    Chunked,
    Close,
}

/// How the answer ends.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// With the last byte; the connection stays.
    Whole,
    /// Before the head.
    ResetBeforeHead,
    StallBeforeHead,
    /// After so many bytes of the body.
    Reset(u64),
    Stall(u64),
    Close(u64),
}

/// At least so many of them. Kept: an answer of 64 MiB must not be late because they had to be made.
pub(crate) fn spaces(bytes: usize) -> Arc<[u8]> {
    static SPACES: Mutex<Option<Arc<[u8]>>> = Mutex::new(None);
    let mut kept = SPACES.lock().unwrap_or_else(PoisonError::into_inner);
    match kept.as_ref().filter(|spaces| spaces.len() >= bytes) {
        Some(spaces) => Arc::clone(spaces),
        None => Arc::clone(kept.insert(vec![b' '; bytes].into())),
    }
}

impl Answer {
    pub(crate) fn new(status: u16, headers: Vec<(String, String)>, body: Arc<[u8]>) -> Answer {
        let length = body.len() as u64;
        Answer {
            status,
            headers,
            body,
            span: (0, length),
            framing: Framing::Length(length),
            end: End::Whole,
            bytes_per_s: None,
        }
    }

    pub(crate) fn document(media_type: &str, body: impl Into<String>) -> Answer {
        let headers = vec![("Content-Type".to_owned(), media_type.to_owned())];
        Answer::new(200, headers, body.into().into_bytes().into())
    }

    pub(crate) fn error(status: u16, code: &str) -> Answer {
        let document = json!({ "errors": [{ "code": code, "message": "so it is", "detail": null }] });
        Answer { status, ..Answer::document("application/json", document.to_string()) }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Answer {
        self.headers.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// The part of a blob that was asked for.
    pub(crate) fn ranged(mut self, request: &Request, faults: &[Fault]) -> Answer {
        let Some((first, last)) = request.range() else { return self };
        let size = self.body.len() as u64;
        let (mut start, mut end, mut total) =
            (first, last.map_or(size, |last| size.min(last + 1)), size.to_string());
        for fault in faults {
            match fault {
                Fault::RangeIgnored => return self,
                Fault::RangeShifted { by } => start += by,
                Fault::RangeShortened { by } => end -= by,
                Fault::AnotherTotal { by } => total = (size + by).to_string(),
                Fault::TotalUnknown => total = "*".to_owned(),
                _ => {}
            }
        }
        if start >= end {
            return Answer::error(416, "UNSUPPORTED").with("Content-Range", format!("bytes */{size}"));
        }
        self.status = 206;
        self.span = (start, end);
        self.framing = Framing::Length(end - start);
        self.with("Content-Range", format!("bytes {start}-{}/{total}", end - 1))
    }

    /// What becomes of it.
    pub(crate) fn spoilt(self, fault: &Fault, shared: &Shared, request: &Request, place: Place) -> Answer {
        match fault {
            Fault::ResetBeforeHead => Answer { end: End::ResetBeforeHead, ..self },
            Fault::StallBeforeHead => Answer { end: End::StallBeforeHead, ..self },
            Fault::Reset { at } => Answer { end: End::Reset(*at), ..self },
            Fault::Stall { at } => Answer { end: End::Stall(*at), ..self },
            Fault::Truncated { at } => Answer { end: End::Close(*at), ..self },
            Fault::TruncatedAsAnnounced { at } => {
                let (start, end) = self.span;
                let end = end.min(start + at);
                Answer { span: (start, end), framing: Framing::Length(end - start), ..self }
            }
            Fault::Slow { bytes_per_s } => Answer { bytes_per_s: Some((*bytes_per_s).max(1)), ..self },
            Fault::Chunked => Answer { framing: Framing::Chunked, ..self },
            Fault::CloseDelimited => Answer { framing: Framing::Close, ..self },
            Fault::WrongBytes => {
                let body: Vec<u8> = self.body.iter().map(|byte| !byte).collect();
                Answer { body: body.into(), ..self }
            }
            Fault::ExtraBytes { bytes } => {
                let (start, end) = self.span;
                let mut body = self.body[..end as usize].to_vec();
                body.resize(body.len() + bytes, b'x');
                let end = body.len() as u64;
                let framing = match self.framing {
                    Framing::Length(_) => Framing::Length(end - start),
                    other => other,
                };
                Answer { body: body.into(), span: (start, end), framing, ..self }
            }
            Fault::Huge { bytes } => {
                let end = *bytes as u64;
                Answer { body: spaces(*bytes), span: (0, end), framing: Framing::Length(end), ..self }
            }
            Fault::WrongDigestHeader => {
                let other = Digest::of(Algorithm::Sha256, b"something else").to_string();
                self.with("Docker-Content-Digest", other)
            }
            Fault::Gzip => {
                let body: Vec<u8> = [0x1f, 0x8b, 8, 0].into_iter().chain(self.body.iter().copied()).collect();
                let coded = Answer::new(self.status, self.headers, body.into());
                coded.with("Content-Encoding", "gzip")
            }
            Fault::Status(status) => Answer::error(*status, "UNKNOWN"),
            Fault::Header(name, value) => self.with(name, value.clone()),
            Fault::WithoutHeader(name) => {
                let mut headers = self.headers;
                headers.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
                Answer { headers, ..self }
            }
            Fault::Redirect(to) => {
                let target = &request.target;
                let location = match to {
                    To::Foreign => format!("{}{target}", shared.url(Place::Foreign)),
                    To::PlainForeign => {
                        format!("{}{target}", shared.url(Place::Foreign).replace("https:", "http:"))
                    }
                    To::Itself => format!("{}{target}", shared.url(place)),
                    To::Url(url) => url.clone(),
                };
                Answer::document("text/html", "<a href=\"there\">there</a>").moved(location)
            }
            // Those that `ranged` has looked at.
            Fault::RangeIgnored
            | Fault::RangeShifted { .. }
            | Fault::RangeShortened { .. }
            | Fault::AnotherTotal { .. }
            | Fault::TotalUnknown => self,
        }
    }

    fn moved(self, location: String) -> Answer {
        Answer { status: 307, ..self }.with("Location", location)
    }
}
