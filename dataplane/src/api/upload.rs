//! Uploads: end-4, end-5, end-6, end-11, end-13, end-14.

use control::{Link, Principal};
use oci::{Algorithm, ChunkRange, Digest, Mount, OpenUpload, Problem, RepositoryName, UploadId};

use super::Unanswered;
use crate::{
    core::{Connection, Core, Request, Response},
    limits::ROOM_TRIES_MAX,
    store::Upload,
};

/// By which every answer names its session.
pub const UUID: &str = "Docker-Upload-UUID";

/// The session whose path a target is, whatever was asked of it.
pub fn named_by(target: &[u8]) -> Option<UploadId> {
    let path = target.split(|byte| *byte == b'?').next()?;
    let (front, id) = std::str::from_utf8(path).ok()?.rsplit_once('/')?;
    UploadId::parse(id).filter(|_| front.ends_with("/blobs/uploads"))
}

/// end-4a, end-4b, end-4c and end-11: one POST, four meanings.
pub async fn open(
    core: &Core,
    conn: &mut Connection,
    open: &OpenUpload,
    request: &Request,
) -> Result<Response, Unanswered> {
    if let Some(mount) = &open.mount
        && self::mount(core, &open.repository, mount).await?
    {
        return Ok(created(core, &open.repository, &mount.digest));
    }
    let declared_bytes = conn.declared().unwrap_or(0);
    core.store.may_be_as_long(declared_bytes)?;
    core.make_room(declared_bytes).await?;
    core.control.open_upload(open.repository, Principal::Anonymous).await?;
    let named = open.digest.as_ref().map(Digest::algorithm).or(open.algorithm);
    let algorithm = named.unwrap_or(Algorithm::Sha256);
    let id = core.store.open_upload(&core.io, open.repository, Principal::Anonymous, algorithm).await?;
    let Some(digest) = open.digest.filter(|digest| has_whole_blob(conn, request, digest)) else {
        let mut response = accepted(core, 202, &open.repository, &id, 0);
        response.add_field(UUID, &id.to_string());
        return Ok(response);
    };
    let mut upload = core.store.take(&open.repository, &id)?;
    if let Err(end) = receive(core, conn, &mut upload, None).await {
        upload.discard(&core.io).await;
        return Err(end);
    }
    match upload.commit(&core.io, digest).await {
        Ok(()) => Ok(created(core, &open.repository, &digest)),
        Err(problem) => {
            // Nobody was told of this session, so nobody could go on with it. It is gone if it was busy.
            let _ = core.store.cancel(&core.io, &open.repository, &id).await;
            Err(problem.into())
        }
    }
}

/// end-5.
pub async fn patch(
    core: &Core,
    conn: &mut Connection,
    repository: &RepositoryName,
    id: &UploadId,
    request: &Request,
) -> Result<Response, Unanswered> {
    let mut upload = core.store.take(repository, id)?;
    let end = chunk_end(conn, repository, &upload, request)?;
    let received = receive(core, conn, &mut upload, end).await;
    // A body that was cut keeps what came of it.
    let settled = upload.settle(&core.io).await;
    received?;
    settled?;
    let offset = upload.offset();
    upload.put_back();
    Ok(accepted(core, 202, repository, id, offset))
}

/// end-6. The body, if there is one, is the last chunk.
pub async fn close(
    core: &Core,
    conn: &mut Connection,
    repository: &RepositoryName,
    id: &UploadId,
    digest: &Digest,
    request: &Request,
) -> Result<Response, Unanswered> {
    let mut upload = core.store.take(repository, id)?;
    let end = chunk_end(conn, repository, &upload, request)?;
    let received = receive(core, conn, &mut upload, end).await;
    if let Err(end) = received {
        upload.settle(&core.io).await?;
        return Err(end);
    }
    upload.commit(&core.io, *digest).await?;
    Ok(created(core, repository, digest))
}

/// end-13.
pub fn status(core: &Core, repository: &RepositoryName, id: &UploadId) -> Result<Response, Unanswered> {
    let offset = core.store.offset(repository, id)?;
    Ok(accepted(core, 204, repository, id, offset))
}

/// end-14.
pub async fn cancel(core: &Core, repository: &RepositoryName, id: &UploadId) -> Result<Response, Unanswered> {
    core.store.cancel(&core.io, repository, id).await?;
    Ok(Response::empty(204, core.lines(204)))
}

/// end-11. A blob that is not wholly here is not mounted: the client uploads instead. The metadata is asked
/// first, so that the time of an answer tells nobody what lies on the disk.
async fn mount(core: &Core, repository: &RepositoryName, mount: &Mount) -> Result<bool, Problem> {
    let Mount { digest, from } = *mount;
    let mountable = core.control.mountable(*repository, digest, from, Principal::Anonymous).await?;
    let Some(Link::Here { size_bytes }) = mountable else { return Ok(false) };
    if !core.store.has_whole(&core.io, &digest, size_bytes).await? {
        tracing::error!(%digest, "a blob is recorded and not wholly here; push it again");
        return Ok(false);
    }
    core.control.mount(*repository, digest, from, Principal::Anonymous).await
}

/// A POST with `?digest=` and no body wants a session, unless the digest is that of nothing.
fn has_whole_blob(conn: &Connection, request: &Request, digest: &Digest) -> bool {
    conn.declared() != Some(0)
        || request.body != crate::http::BodyLength::None && *digest == Digest::of(digest.algorithm(), b"")
}

/// end-5 and end-6: a chunk that says where it starts must start where the session is. Gives the offset at which
/// it says that it ends.
fn chunk_end(
    conn: &Connection,
    repository: &RepositoryName,
    upload: &Upload,
    request: &Request,
) -> Result<Option<u64>, Problem> {
    let Some(value) = &request.content_range else { return Ok(None) };
    let chunk = ChunkRange::parse(value)?;
    if chunk.first != upload.offset() {
        return Err(Problem::ChunkOutOfOrder {
            location: location(repository, &upload.id()),
            offset: upload.offset(),
        });
    }
    match conn.declared() {
        Some(declared) if declared != chunk.len_bytes() => Err(Problem::SizeInvalid),
        // A length that only the end of the body tells is compared then.
        _ => Ok(Some(chunk.first.saturating_add(chunk.len_bytes()))),
    }
}

/// The body goes into the session: hashed and written from the buffer that the socket filled. Bytes behind `end`
/// are refused unwritten; of a body that ends before it, as of one that was cut, what came is kept.
async fn receive(
    core: &Core,
    conn: &mut Connection,
    upload: &mut Upload,
    end: Option<u64>,
) -> Result<(), Unanswered> {
    let declared_bytes = conn.declared().unwrap_or(0);
    let mut tries = 0;
    while may_try_again(core, upload.declare(declared_bytes), declared_bytes, &mut tries).await? {}
    while conn.body_ready(core).await? {
        let mut buf = core.io.buf().await;
        let taken = conn.take_body(core, &mut buf);
        if buf.filled().is_empty() {
            drop(buf);
            core.io.pause().await;
        } else if end.is_some_and(|end| upload.offset() + buf.filled().len() as u64 > end) {
            return Err(Problem::SizeInvalid.into());
        } else {
            let bytes = buf.freeze();
            upload.written().await?;
            // One of unknown length finds out as it grows.
            let (len, mut tries) = (bytes.len() as u64, 0);
            while may_try_again(core, upload.admit(&core.io, len).await, len, &mut tries).await? {}
            upload.push(&core.io, bytes).await?;
        }
        taken?;
    }
    match end {
        Some(end) if upload.offset() != end => Err(Problem::SizeInvalid.into()),
        _ => Ok(()),
    }
}

/// Whether what found no room for `bytes` may find some now: others have gone for it.
async fn may_try_again(
    core: &Core,
    result: Result<(), Problem>,
    bytes: u64,
    tries: &mut u32,
) -> Result<bool, Problem> {
    match result {
        // A volume may say that it has room, and yet give none.
        Err(Problem::DiskFull) if *tries < ROOM_TRIES_MAX => {
            *tries += 1;
            core.make_room(bytes).await?;
            Ok(true)
        }
        result => result.map(|()| false),
    }
}

fn created(core: &Core, repository: &RepositoryName, digest: &Digest) -> Response {
    let mut lines = core.digest_lines(201, digest);
    lines.field("Location", format!("/v2/{repository}/blobs/{digest}").as_bytes());
    Response::empty(201, lines)
}

/// Where a session is: `Range` is inclusive, and `0-0` for an empty one by Docker's convention.
fn accepted(core: &Core, status: u16, repository: &RepositoryName, id: &UploadId, offset: u64) -> Response {
    let mut lines = core.lines(status);
    lines.field("Location", location(repository, id).as_bytes());
    lines.field("Range", format!("0-{}", offset.saturating_sub(1)).as_bytes());
    Response::empty(status, lines)
}

fn location(repository: &RepositoryName, id: &UploadId) -> String {
    format!("/v2/{repository}/blobs/uploads/{id}")
}
