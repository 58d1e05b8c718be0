//! The end-points of the distribution-spec, one function each: who, what, bytes, answer.

mod blob;
mod forward;
mod manifest;
mod upload;

use control::{Came, Link};
use oci::{Digest, Endpoint, Problem, conditional};

use crate::{
    core::{Connection, Core, Request, Response},
    http::Head,
};

/// Paths below this are an operator's: who asks is looked at.
pub const OPERATORS: &[u8] = b"/api/";

/// What an end-point says when it has no answer: a problem is one, a client that left needs none.
pub enum Unanswered {
    /// The answer is this problem.
    Problem(Problem),
    /// Nobody is there to be answered.
    Gone,
}

impl From<Problem> for Unanswered {
    fn from(problem: Problem) -> Unanswered {
        Unanswered::Problem(problem)
    }
}

impl From<crate::core::BodyEnd> for Unanswered {
    fn from(end: crate::core::BodyEnd) -> Unanswered {
        match end {
            crate::core::BodyEnd::Gone => Unanswered::Gone,
            crate::core::BodyEnd::Refused(problem) => Unanswered::Problem(problem),
        }
    }
}

/// Answers from what the core knows, without waiting. `None`: [`answer`] has to.
pub fn at_once(core: &Core, endpoint: &Endpoint, head: &Head<'_>) -> Option<Response> {
    let answer = match endpoint {
        Endpoint::Base => Ok(base(core)),
        Endpoint::GetBlob { repository, digest } => {
            let link = core.known_link(repository, digest)?;
            let blob = core.known_file(digest)?;
            if !blob.has_the_size_of(&link) {
                return None;
            }
            if let Link::Upstream { origin, .. } = &link {
                core.fills.hit(origin);
                core.touched(digest);
            }
            let conditions = blob::Conditions::of_head(head);
            let answer = blob::respond(core, digest, blob::Blob::known(blob, &link), &conditions);
            match link {
                Link::Upstream { origin, .. } => answer.map(|answer| answer.of_upstream(origin.upstream)),
                Link::Here { .. } => answer,
            }
        }
        Endpoint::GetManifest { repository, reference } => {
            let document = core.known_manifest(repository, reference)?;
            manifest::respond(core, document, head.if_match.as_deref(), head.if_none_match.as_deref())
        }
        _ => return None,
    };
    Some(answer.unwrap_or_else(|problem| self::problem(core, &problem)))
}

/// Answers any request. `None`: the client is gone.
pub async fn answer(core: &Core, conn: &mut Connection, request: Request) -> Option<Response> {
    let answer = match &request.endpoint {
        Endpoint::Base => Ok(base(core)),
        Endpoint::GetBlob { repository, digest } => {
            blob::pull(core, conn, repository, digest, &request).await
        }
        Endpoint::DeleteBlob { repository, digest } => blob::delete(core, repository, digest).await,
        Endpoint::GetManifest { repository, reference } => {
            manifest::pull(core, repository, reference, &request).await
        }
        Endpoint::PutManifest(put) => manifest::push(core, conn, put, &request).await,
        Endpoint::DeleteManifest { repository, reference } => {
            manifest::delete(core, repository, reference, &request).await
        }
        Endpoint::OpenUpload(open) => upload::open(core, conn, open, &request).await,
        Endpoint::PatchUpload { repository, id } => upload::patch(core, conn, repository, id, &request).await,
        Endpoint::CloseUpload { repository, id, digest } => {
            upload::close(core, conn, repository, id, digest, &request).await
        }
        Endpoint::UploadStatus { repository, id } => upload::status(core, repository, id),
        Endpoint::CancelUpload { repository, id } => upload::cancel(core, repository, id).await,
        Endpoint::Catalog(_) | Endpoint::Tags { .. } | Endpoint::Referrers(_) | Endpoint::Fixed => {
            forward::forward(core, conn, &request).await
        }
    };
    let mut response = match answer {
        Ok(response) => response,
        Err(Unanswered::Problem(problem)) => self::problem(core, &problem),
        Err(Unanswered::Gone) => return None,
    };
    if let Some(ns) = &request.ns {
        response.add_field("OCI-Namespace", ns);
    }
    if let Endpoint::PatchUpload { id, .. }
    | Endpoint::CloseUpload { id, .. }
    | Endpoint::UploadStatus { id, .. }
    | Endpoint::CancelUpload { id, .. } = &request.endpoint
    {
        response.add_field(upload::UUID, &id.to_string());
    }
    Some(response)
}

/// What the conditions of a read leave of its answer: a 304, or the answer itself (`None`). RFC 9110 §13.2.2.
///
/// Errors: [`Problem::PreconditionFailed`].
fn unchanged(
    core: &Core,
    digest: &Digest,
    if_match: Option<&[u8]>,
    if_none_match: Option<&[u8]>,
) -> Result<Option<Response>, Problem> {
    if if_match.is_some_and(|header| !conditional::matches_strongly(header, digest)) {
        return Err(Problem::PreconditionFailed);
    }
    if if_none_match.is_some_and(|header| conditional::matches(header, digest)) {
        let mut lines = core.digest_lines(304, digest);
        lines.digest_field("ETag", digest, true);
        return Ok(Some(Response::empty(304, lines)));
    }
    Ok(None)
}

/// The line that says of an upstream's content where it was found.
fn cache_line(came: Came) -> &'static str {
    match came {
        Came::Pushed => "",
        Came::Hit => "Gantry-Cache: hit\r\n",
        Came::Fill => "Gantry-Cache: fill\r\n",
        Came::Passed => "Gantry-Cache: pass\r\n",
        Came::Partial => "Gantry-Cache: partial\r\n",
        Came::Stale => {
            "Gantry-Cache: stale\r\nWarning: 299 - \"gantry: the upstream could not be asked\"\r\n"
        }
    }
}

/// end-1.
fn base(core: &Core) -> Response {
    let mut lines = core.lines(200);
    lines.field("Content-Type", b"application/json");
    Response::bytes(200, lines, bytes::Bytes::from_static(b"{}"))
}

/// The answer to a request that none of the end-points is for. Of an upload session it names the session, as every
/// other answer does.
pub fn not_understood(core: &Core, problem: &Problem, target: &[u8]) -> Response {
    let mut response = self::problem(core, problem);
    if let Some(id) = upload::named_by(target) {
        response.add_field(upload::UUID, &id.to_string());
    }
    response
}

/// A problem as the spec wants to see it.
pub fn problem(core: &Core, problem: &Problem) -> Response {
    let wire = problem.wire();
    let mut lines = core.lines(wire.status);
    for (name, value) in &wire.headers {
        lines.field(name, value.as_bytes());
    }
    lines.field("Content-Type", b"application/json");
    Response::bytes(wire.status, lines, problem.body().into())
}
