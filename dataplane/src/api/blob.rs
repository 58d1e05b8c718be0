//! Blobs: end-2 and end-10.

use std::rc::Rc;

use oci::{Digest, Problem, RangeHeader, RepositoryName, Selected, Span, conditional};

use control::{Link, Principal};

use super::{Unanswered, unchanged};
use crate::{
    core::{Body, Core, FilePart, OpenBlob, Request, Response},
    http::Head,
};

/// The conditional headers and ranges of a read.
pub struct Conditions<'a> {
    if_match: Option<&'a [u8]>,
    if_none_match: Option<&'a [u8]>,
    if_range: Option<&'a [u8]>,
    range: RangeHeader,
}

impl<'a> Conditions<'a> {
    /// Those of a head. RFC 9110 §14.2: only GET has ranges.
    pub fn of_head(head: &'a Head<'_>) -> Conditions<'a> {
        let range = head.range.filter(|_| head.method == oci::Method::Get);
        Conditions {
            if_match: head.if_match.as_deref(),
            if_none_match: head.if_none_match.as_deref(),
            if_range: head.if_range,
            range: range.map_or(RangeHeader::Whole, RangeHeader::parse),
        }
    }

    fn of_request(request: &'a Request) -> Conditions<'a> {
        let is_get = request.method == oci::Method::Get;
        Conditions {
            if_match: request.if_match.as_deref(),
            if_none_match: request.if_none_match.as_deref(),
            if_range: request.if_range.as_deref(),
            range: if is_get { request.range.clone() } else { RangeHeader::Whole },
        }
    }
}

/// end-2. The link is permission; the file is only bytes.
pub async fn pull(
    core: &Core,
    repository: &RepositoryName,
    digest: &Digest,
    request: &Request,
) -> Result<Response, Unanswered> {
    let blob = match core.link(repository, digest).await? {
        Link::Here { size_bytes } => core.file(digest, size_bytes).await?,
        // Nothing is filled yet, and nobody has such a link yet.
        Link::Upstream { .. } => return Err(Problem::BlobUnknown(*digest).into()),
    };
    Ok(respond(core, digest, blob, &Conditions::of_request(request))?)
}

/// end-10.
pub async fn delete(
    core: &Core,
    repository: &RepositoryName,
    digest: &Digest,
) -> Result<Response, Unanswered> {
    core.control.delete_blob(*repository, *digest, Principal::Anonymous).await?;
    Ok(Response::empty(202, core.lines(202)))
}

/// The answer to a read of an open blob.
pub fn respond(
    core: &Core,
    digest: &Digest,
    blob: Rc<OpenBlob>,
    conditions: &Conditions<'_>,
) -> Result<Response, Problem> {
    if let Some(response) = unchanged(core, digest, conditions.if_match, conditions.if_none_match)? {
        return Ok(response);
    }
    let ranges_apply = conditions.if_range.is_none_or(|header| conditional::if_range(header, digest));
    let selected = if ranges_apply { conditions.range.within(blob.size_bytes)? } else { Selected::Whole };
    let status = if selected == Selected::Whole { 200 } else { 206 };
    let size_bytes = blob.size_bytes;
    let mut lines = core.lines(status);
    lines.rendered(&blob.lines);
    let span = match selected {
        Selected::Whole => Span { start: 0, end: size_bytes },
        Selected::One(span) => {
            lines.content_range(span.start, span.end, size_bytes);
            span
        }
        Selected::Many(spans) => {
            let random = [core.io.random(), core.io.random()];
            let (part, length, boundary) = FilePart::several(blob, spans, random);
            let content_type = format!("multipart/byteranges; boundary={boundary}");
            lines.field("Content-Type", content_type.as_bytes());
            lines.number_field("Content-Length", length);
            return Ok(Response::new(206, lines, Body::File(part)));
        }
    };
    lines.fixed("Content-Type: application/octet-stream\r\n");
    lines.number_field("Content-Length", span.len());
    Ok(Response::new(status, lines, Body::File(FilePart::new(blob, span))))
}
