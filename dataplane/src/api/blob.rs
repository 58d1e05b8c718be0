//! Blobs: end-2 and end-10.

use std::rc::Rc;

use oci::{Digest, Problem, RangeHeader, RepositoryName, Selected, Span, conditional};

use control::{Came, Link, Origin, Principal};

use super::{Unanswered, cache_line, unchanged};
use crate::{
    core::{Body, Connection, Core, FilePart, Looked, OpenBlob, Request, Response},
    fill::{ANOTHER_LENGTH, Reader, Ready},
    http::Head,
    limits::FILL_JOINS_MAX,
    store::Absence,
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

    fn selected(&self, digest: &Digest, size_bytes: u64) -> Result<Selected, Problem> {
        let apply = self.if_range.is_none_or(|header| conditional::if_range(header, digest));
        if apply { self.range.within(size_bytes) } else { Ok(Selected::Whole) }
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
    conn: &Connection,
    repository: &RepositoryName,
    digest: &Digest,
    request: &Request,
) -> Result<Response, Unanswered> {
    let conditions = Conditions::of_request(request);
    match core.link(repository, digest).await? {
        Link::Here { size_bytes } => {
            let blob = Blob::whole(core.file(digest, size_bytes).await?);
            Ok(respond(core, digest, blob, &conditions)?)
        }
        Link::Upstream { origin, size_bytes } => {
            let is_head = request.method == oci::Method::Head;
            let answer = pull_through(core, conn, digest, origin, size_bytes, &conditions, is_head).await?;
            Ok(answer.of_upstream(origin.upstream))
        }
    }
}

/// The answer with a blob of an upstream's.
async fn pull_through(
    core: &Core,
    conn: &Connection,
    digest: &Digest,
    origin: Origin,
    size_bytes: Option<u64>,
    conditions: &Conditions<'_>,
    is_head: bool,
) -> Result<Response, Problem> {
    let blob = match core.upstream_file(digest, size_bytes).await? {
        Looked::Open(open) => {
            core.fills.hit(&origin);
            Blob { came: Came::Hit, ..Blob::whole(open) }
        }
        Looked::Absent(absence) => {
            // Who has it already, or only asks about it, needs no fill to be told so.
            let (if_match, if_none_match) = (conditions.if_match, conditions.if_none_match);
            if let Some(response) = unchanged(core, digest, if_match, if_none_match)? {
                return Ok(response);
            }
            if is_head {
                return describe(core, digest, origin, size_bytes).await;
            }
            match fill(core, conn, digest, (origin, absence), size_bytes, conditions).await? {
                Filled::Blob(blob) => blob,
                Filled::Full(reader) => return pass(core, digest, &reader, conditions).await,
            }
        }
    };
    respond(core, digest, blob, conditions)
}

/// A blob that can be read, or will be.
pub struct Blob {
    /// Its file.
    open: Rc<OpenBlob>,
    /// The fill that the file belongs to, if not all of it is verified yet.
    reader: Option<Reader>,
    came: Came,
}

impl Blob {
    /// One that was pushed here.
    pub fn whole(open: Rc<OpenBlob>) -> Blob {
        Blob { open, reader: None, came: Came::Pushed }
    }

    /// One of which `link` tells where it came from.
    pub fn known(open: Rc<OpenBlob>, link: &Link) -> Blob {
        match link {
            Link::Here { .. } => Blob::whole(open),
            Link::Upstream { .. } => Blob { came: Came::Hit, ..Blob::whole(open) },
        }
    }
}

/// What became of a miss.
enum Filled {
    Blob(Blob),
    /// There is no room for it.
    Full(Reader),
}

/// Joins the fill of a blob that is not here. The answer can begin when this returns.
async fn fill(
    core: &Core,
    conn: &Connection,
    digest: &Digest,
    (origin, mut absence): (Origin, Absence),
    told_bytes: Option<u64>,
    conditions: &Conditions<'_>,
) -> Result<Filled, Problem> {
    let mut why = Problem::Internal;
    for _ in 0..FILL_JOINS_MAX {
        let mut reader = core.join_fill(digest, origin, told_bytes, absence)?;
        let selected = reader.size_bytes().map(|size_bytes| conditions.selected(digest, size_bytes));
        let selected = match (selected.transpose()?, reader.size_bytes()) {
            (Some(selected), Some(size_bytes)) => Some(reader.answers(selected, size_bytes)),
            _ => None,
        };
        let first = match &selected {
            Some(Selected::One(span)) => Some(*span),
            Some(Selected::Many(spans)) => spans.first().copied(),
            Some(Selected::Whole) | None => None,
        };
        let ready = match conn.unless_left(core, reader.ready(first)).await {
            Some(ready) => ready,
            None => {
                reader.leave();
                reader.ready(first).await
            }
        };
        match ready? {
            Ready::Begun => {
                let (files, size_bytes) = reader.file().ok_or(Problem::Internal)?;
                if told_bytes.is_some_and(|told_bytes| told_bytes != size_bytes) {
                    return Err(Problem::UpstreamMisbehaved { why: ANOTHER_LENGTH });
                }
                let open = Rc::new(OpenBlob::new(files.data.clone(), digest, size_bytes, None));
                let came = match (reader.is_verified(), reader.is_ahead()) {
                    (true, _) => Came::Hit,
                    (false, true) => Came::Partial,
                    (false, false) => Came::Fill,
                };
                return Ok(Filled::Blob(Blob { open, reader: Some(reader), came }));
            }
            Ready::Here => match core.upstream_file(digest, told_bytes).await? {
                Looked::Open(open) => {
                    return Ok(Filled::Blob(Blob { came: Came::Hit, ..Blob::whole(open) }));
                }
                Looked::Absent(since) => absence = since,
            },
            Ready::Full => return Ok(Filled::Full(reader)),
            Ready::Again => {
                why = Problem::UpstreamMisbehaved {
                    why: "the upstream gives a blob that is not what its digest says",
                };
            }
            Ready::Denied => why = Problem::Overloaded { retry_after_s: 1 },
        }
    }
    Err(why)
}

/// The answer to a read of a blob for which there is no room. Several ranges are answered by the whole.
async fn pass(
    core: &Core,
    digest: &Digest,
    reader: &Reader,
    conditions: &Conditions<'_>,
) -> Result<Response, Problem> {
    let size_bytes = reader.passing_bytes().await?;
    let whole = Span { start: 0, end: size_bytes };
    let (status, span) = match conditions.selected(digest, size_bytes)? {
        Selected::One(span) => (206, span),
        Selected::Whole | Selected::Many(_) => (200, whole),
    };
    let mut pass = reader.pass_from_start(size_bytes, span)?;
    pass.begin().await?;
    let mut lines = core.lines(status);
    lines.rendered(&OpenBlob::lines_of(digest)).fixed(cache_line(Came::Passed));
    if status == 206 {
        lines.content_range(span.start, span.end, size_bytes);
    }
    lines.fixed("Content-Type: application/octet-stream\r\n");
    lines.number_field("Content-Length", span.len());
    Ok(Response::new(status, lines, Body::Pass(Box::new(pass), None)))
}

/// What a HEAD is told of a blob that is not here: the upstream's word, of which nothing is kept. A length that nobody
/// tells is left out.
async fn describe(
    core: &Core,
    digest: &Digest,
    origin: Origin,
    told_bytes: Option<u64>,
) -> Result<Response, Problem> {
    let size_bytes = match told_bytes {
        Some(size_bytes) => Some(size_bytes),
        None => match core.control.measure(origin, *digest).await?.ok_or(Problem::BlobUnknown(*digest))? {
            Link::Here { size_bytes } => Some(size_bytes),
            Link::Upstream { size_bytes, .. } => size_bytes,
        },
    };
    let mut lines = core.lines(200);
    lines.rendered(&OpenBlob::lines_of(digest)).fixed(cache_line(Came::Passed));
    lines.fixed("Content-Type: application/octet-stream\r\n");
    if let Some(size_bytes) = size_bytes {
        lines.number_field("Content-Length", size_bytes);
    }
    Ok(Response::new(200, lines, Body::Empty))
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
    blob: Blob,
    conditions: &Conditions<'_>,
) -> Result<Response, Problem> {
    let Blob { open: blob, mut reader, came } = blob;
    if let Some(response) = unchanged(core, digest, conditions.if_match, conditions.if_none_match)? {
        return Ok(response);
    }
    let mut selected = conditions.selected(digest, blob.size_bytes)?;
    let status = if selected == Selected::Whole { 200 } else { 206 };
    let size_bytes = blob.size_bytes;
    let mut lines = core.lines(status);
    lines.rendered(&blob.lines);
    lines.fixed(cache_line(came));
    // Its length may have been told only now.
    if let Some(reader) = &mut reader {
        selected = reader.answers(selected, size_bytes);
    }
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
            return Ok(Response::new(206, lines, Body::File(part.of_fill(reader))));
        }
    };
    lines.fixed("Content-Type: application/octet-stream\r\n");
    lines.number_field("Content-Length", span.len());
    Ok(Response::new(status, lines, Body::File(FilePart::new(blob, span).of_fill(reader))))
}
