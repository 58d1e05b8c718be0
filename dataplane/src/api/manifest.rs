//! Manifests: end-3, end-7, end-9.

use control::{Came, Description, Document, Manifest, Outline, Preconditions, Principal};
use oci::{Digest, MediaType, Method, Problem, PutManifest, Reference, RepositoryName};

use super::{Unanswered, cache_line, unchanged};
use crate::{
    core::{Body, Connection, Core, Request, Response},
    http::Lines,
    limits::MANIFEST_BYTES_MAX,
};

/// end-3. `Accept` neither refuses nor converts: these are the bytes.
pub async fn pull(
    core: &Core,
    repository: &RepositoryName,
    reference: &Reference,
    request: &Request,
) -> Result<Response, Unanswered> {
    let (if_match, if_none_match) = (request.if_match.as_deref(), request.if_none_match.as_deref());
    let document = match request.method {
        // Where there are upstreams, a head may cost less than its document.
        Method::Head if core.namespaces.iter().next().is_some() => {
            match core.describe(repository, reference, &request.accept).await? {
                Description::Whole(document) => document,
                Description::Outline(outline) => {
                    return Ok(self::outline(core, &outline, if_match, if_none_match)?);
                }
            }
        }
        _ => core.manifest(repository, reference, &request.accept).await?,
    };
    Ok(respond(core, document, if_match, if_none_match)?)
}

/// end-7.
pub async fn push(
    core: &Core,
    conn: &mut Connection,
    put: &PutManifest,
    request: &Request,
) -> Result<Response, Unanswered> {
    // The reserve is for what gives room back.
    core.make_room(conn.declared().unwrap_or(0).min(MANIFEST_BYTES_MAX as u64)).await?;
    let reserved = conn.reserve_body(core, Problem::ManifestTooLarge)?;
    let body = conn.collect(core, MANIFEST_BYTES_MAX, Problem::ManifestTooLarge).await;
    let stored = match body {
        Ok(body) => {
            let manifest = Box::new(Manifest {
                repository: put.repository,
                reference: put.reference,
                tags: put.tags.clone(),
                content_type: request.content_type.as_deref().map(text),
                preconditions: preconditions(request),
                body: body.into(),
            });
            core.control.put_manifest(manifest, Principal::Anonymous).await.map_err(Unanswered::from)
        }
        Err(end) => Err(end.into()),
    };
    core.release(reserved);
    let stored = stored?;
    let mut lines = core.digest_lines(201, &stored.digest);
    let location = format!("/v2/{}/manifests/{}", put.repository, stored.digest);
    lines.field("Location", location.as_bytes());
    if let Some(subject) = &stored.subject {
        lines.digest_field("OCI-Subject", subject, false);
    }
    for tag in &stored.tags {
        lines.field("OCI-Tag", tag.as_str().as_bytes());
    }
    Ok(Response::empty(201, lines))
}

/// end-9.
pub async fn delete(
    core: &Core,
    repository: &RepositoryName,
    reference: &Reference,
    request: &Request,
) -> Result<Response, Unanswered> {
    let preconditions = preconditions(request);
    core.control.delete_manifest(*repository, *reference, preconditions, Principal::Anonymous).await?;
    Ok(Response::empty(202, core.lines(202)))
}

/// The answer to a read of a manifest.
pub fn respond(
    core: &Core,
    document: Document,
    if_match: Option<&[u8]>,
    if_none_match: Option<&[u8]>,
) -> Result<Response, Problem> {
    let digest = &document.digest;
    if let Some(response) = unchanged(core, digest, if_match, if_none_match)? {
        return Ok(response);
    }
    let lines = lines(core, digest, &document.media_type, document.came);
    Ok(Response::bytes(200, lines, document.bytes))
}

/// The answer to a HEAD of a manifest of an upstream that is not here.
fn outline(
    core: &Core,
    outline: &Outline,
    if_match: Option<&[u8]>,
    if_none_match: Option<&[u8]>,
) -> Result<Response, Problem> {
    let Outline { digest, media_type, size_bytes, came } = outline;
    if let Some(response) = unchanged(core, digest, if_match, if_none_match)? {
        return Ok(response);
    }
    let mut lines = lines(core, digest, media_type, *came);
    lines.number_field("Content-Length", *size_bytes);
    Ok(Response::new(200, lines, Body::Empty))
}

fn lines(core: &Core, digest: &Digest, media_type: &MediaType, came: Came) -> Lines {
    let mut lines = core.digest_lines(200, digest);
    lines.digest_field("ETag", digest, true);
    lines.field("Content-Type", media_type.as_str().as_bytes());
    lines.field("X-Content-Type-Options", b"nosniff");
    lines.fixed(cache_line(came));
    lines
}

fn preconditions(request: &Request) -> Preconditions {
    Preconditions {
        if_match: request.if_match.as_deref().map(text),
        if_none_match: request.if_none_match.as_deref().map(text),
    }
}

fn text(value: &[u8]) -> String {
    String::from_utf8_lossy(value).into_owned()
}
