//! The questions of the data plane, and what it is told.
//!
//! Spec ids in brackets name the end-points of the OCI distribution-spec that a question serves.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use oci::{Digest, Endpoint, MediaType, Method, Problem, Reference, RepositoryName, Tag};
use tokio::sync::{mpsc, oneshot};

use crate::Memory;

/// Who asks. Accounts do not exist yet: everybody who may connect is nobody in particular.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Principal {
    /// A caller without credentials.
    Anonymous,
}

/// Where an answer goes. Dropping it unanswered tells the asker [`Problem::Internal`].
pub type Answer<T> = oneshot::Sender<Result<T, Problem>>;

/// One question. `Ok(None)` always means "not there", never "could not look".
pub enum Ask {
    /// May `repository` serve this blob? (end-2, end-10, end-11)
    Link {
        /// The repository that would serve it.
        repository: RepositoryName,
        /// The blob.
        digest: Digest,
        /// Who wants it.
        principal: Principal,
        /// `None`: this repository has no link to it, whatever lies on disk.
        answer: Answer<Option<Link>>,
    },
    /// The same link, with the length that the upstream itself tells: asked by who wants no bytes where the link has none.
    /// (end-2, HEAD)
    Measure {
        /// As in the link.
        origin: Origin,
        /// The blob.
        digest: Digest,
        /// `None`: the origin does not have it.
        answer: Answer<Option<Link>>,
    },
    /// The bytes of a blob, or a part of them, from where a miss is filled. The asker had a [`Link::Upstream`].
    Fetch {
        /// As in the link.
        origin: Origin,
        /// The blob.
        digest: Digest,
        /// The first byte that is wanted.
        from: u64,
        /// Exclusive; `None`: to the end.
        to: Option<u64>,
        /// What came counts here until it is dropped; where there is no room for it, it waits.
        memory: Memory,
        /// `None`: the origin does not have it.
        answer: Answer<Option<Fetched>>,
    },
    /// The manifest that a tag or digest names in `repository`. (end-3)
    Manifest {
        /// The repository.
        repository: RepositoryName,
        /// Tag or digest.
        reference: Reference,
        /// What the client takes. An upstream is told; what is kept here does not depend on it.
        accept: Vec<MediaType>,
        /// Who wants it.
        principal: Principal,
        /// `None`: nothing of that name is here.
        answer: Answer<Option<Document>>,
    },
    /// As [`Ask::Manifest`], by who wants its head alone: that costs an upstream less. (end-3, HEAD)
    Describe {
        /// The repository.
        repository: RepositoryName,
        /// Tag or digest.
        reference: Reference,
        /// As in [`Ask::Manifest`].
        accept: Vec<MediaType>,
        /// Who wants it.
        principal: Principal,
        /// `None`: nothing of that name is here.
        answer: Answer<Option<Description>>,
    },
    /// May an upload be opened in `repository`? A yes makes the name local. (end-4)
    OpenUpload {
        /// The repository that is pushed to.
        repository: RepositoryName,
        /// Who pushes.
        principal: Principal,
        /// An error is the answer for the client.
        answer: Answer<()>,
    },
    /// May `repository` get a link to a blob that another repository already has? (end-11)
    Mountable {
        /// The repository that would get the link.
        repository: RepositoryName,
        /// The blob.
        digest: Digest,
        /// Where from; `None` lets the registry find any repository that `principal` may read.
        from: Option<RepositoryName>,
        /// Who would mount.
        principal: Principal,
        /// `None`: open an upload instead, whatever lies on disk.
        answer: Answer<Option<Link>>,
    },
    /// Link a blob that was found to be mountable. The caller has seen the file, whole. (end-11)
    Mount {
        /// The repository that gets the link.
        repository: RepositoryName,
        /// The blob.
        digest: Digest,
        /// Where from; `None` lets the registry find any repository that `principal` may read.
        from: Option<RepositoryName>,
        /// Who mounts.
        principal: Principal,
        /// `true`: linked, and durable. `false`: open an upload instead.
        answer: Answer<bool>,
    },
    /// Which of these blobs have a committed row, and of what size in bytes. Asked by the keeper and the scrub.
    Home {
        /// The blobs.
        digests: Vec<Digest>,
        /// One entry a digest, in order.
        answer: Answer<Vec<Option<u64>>>,
    },
    /// The next blobs that have a committed row, in an order that never changes. Asked by the scrub only.
    HomeAfter {
        /// Exclusive; need not have a row. `None`: from the first.
        after: Option<Digest>,
        /// The most entries of the answer, ≥ 1.
        most: u32,
        /// With their sizes in bytes; none: there are no more.
        answer: Answer<Vec<(Digest, u64)>>,
    },
    /// Record pushed blobs and their links: one transaction for all, one savepoint for each.
    /// Their bytes and names are durable when this is asked. Asked by the keeper only. (end-4b, end-6)
    Commit {
        /// The members of the batch.
        batch: Vec<PushedBlob>,
        /// One result a member, in order; the outer error means that nothing of the batch may be acknowledged.
        answer: oneshot::Sender<Result<Vec<Result<(), Problem>>, CommitFailed>>,
    },
    /// Store a manifest with its tags, links and references: one transaction. (end-7)
    PutManifest {
        /// What to store; boxed, because it is much larger than the other questions.
        manifest: Box<Manifest>,
        /// Who pushes.
        principal: Principal,
        /// What was stored, once it is durable.
        answer: Answer<StoredManifest>,
    },
    /// Delete a tag, or a manifest with all its tags. (end-9)
    DeleteManifest {
        /// The repository.
        repository: RepositoryName,
        /// A tag is deleted alone; a digest takes its tags with it.
        reference: Reference,
        /// Conditions on the current state, checked in the same transaction.
        preconditions: Preconditions,
        /// Who deletes.
        principal: Principal,
        /// Errors: unknown, referenced by a live index, precondition.
        answer: Answer<()>,
    },
    /// Take away `repository`'s link to a blob. (end-10)
    DeleteBlob {
        /// The repository.
        repository: RepositoryName,
        /// The blob.
        digest: Digest,
        /// Who deletes.
        principal: Principal,
        /// Errors: unknown, named by a live manifest of the repository.
        answer: Answer<()>,
    },
}

/// Why a repository may serve a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// It was pushed here.
    Here {
        /// Length of the blob in bytes.
        size_bytes: u64,
    },
    /// An upstream has it for this repository; what is not on disk is filled from there.
    Upstream {
        /// Where from.
        origin: Origin,
        /// Length of the blob in bytes, if anybody has told it: a manifest that names it, or the upstream.
        size_bytes: Option<u64>,
    },
}

/// Where a miss is filled from: a repository of an upstream. Its number is of this process alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// Which upstream, in the order of the configuration.
    pub upstream: u16,
    /// The repository, by the name that it has there.
    pub repository: RepositoryName,
}

/// Bytes on their way from an origin.
#[derive(Debug)]
pub struct Fetched {
    /// Where in the blob they begin: where it was asked, or at 0 if the origin knows no ranges.
    pub start: u64,
    /// Whether it answered with the whole, also if a part was asked for.
    pub is_whole: bool,
    /// Length of the whole blob in bytes, if the origin told it.
    pub size_bytes: Option<u64>,
    /// Not verified. Bounded: who does not take them slows the origin. It ends after what was asked for, and never
    /// before that without an error. Dropping it ends the transfer.
    pub bytes: mpsc::Receiver<Result<Bytes, Problem>>,
}

/// Where a document came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// It was pushed here.
    Pushed,
    /// An upstream's; it was here, and fresh enough.
    Hit,
    /// From an upstream, just now.
    Fill,
    /// A part of a blob, from an upstream, just now or a while ago; the rest is not here.
    Partial,
    /// From an upstream, just now, and not kept: there is no room.
    Passed,
    /// An upstream's; it was here, and could not be compared with what the upstream has now.
    Stale,
}

/// A stored manifest, to be sent byte for byte.
#[derive(Clone, Debug)]
pub struct Document {
    /// In the algorithm under which it was stored.
    pub digest: Digest,
    /// What its pusher said it is.
    pub media_type: MediaType,
    /// Exactly the bytes that were pushed; at most 4 MiB.
    pub bytes: Bytes,
    /// Where from.
    pub came: Came,
    /// For how long it may be given again without asking; `None`: until it is revoked.
    pub fresh: Option<Duration>,
}

/// What is known of a manifest whose bytes nobody asked for.
#[derive(Clone, Debug)]
pub enum Description {
    /// It is here.
    Whole(Document),
    /// It is an upstream's, which has told this much of it.
    Outline(Outline),
}

/// The head of a manifest that is not here. The upstream's word, not verified.
#[derive(Clone, Debug)]
pub struct Outline {
    /// Of its bytes.
    pub digest: Digest,
    /// What it is served as.
    pub media_type: MediaType,
    /// Its length in bytes.
    pub size_bytes: u64,
    /// Where from: just now, or not long ago.
    pub came: Came,
}

/// A blob whose bytes and name are durable and whose row is not.
#[derive(Clone, Debug)]
pub struct PushedBlob {
    /// The repository that was pushed to.
    pub repository: RepositoryName,
    /// What the bytes hash to.
    pub digest: Digest,
    /// Their number.
    pub size_bytes: u64,
}

/// A manifest on its way in. (end-7)
#[derive(Debug)]
pub struct Manifest {
    /// The repository that is pushed to.
    pub repository: RepositoryName,
    /// The tag to set, or the digest that the body must have.
    pub reference: Reference,
    /// Further tags (`?tag=`), set in the same transaction.
    pub tags: Vec<Tag>,
    /// The request's `Content-Type`, as sent.
    pub content_type: Option<String>,
    /// Conditions on the current state, checked in the same transaction.
    pub preconditions: Preconditions,
    /// The body; at most 4 MiB.
    pub body: Bytes,
}

/// `If-Match` and `If-None-Match` of a write, as sent; several header lines are joined by commas.
#[derive(Clone, Debug, Default)]
pub struct Preconditions {
    /// RFC 9110 §13.1.1.
    pub if_match: Option<String>,
    /// RFC 9110 §13.1.2.
    pub if_none_match: Option<String>,
}

/// What a manifest PUT stored. (end-7)
#[derive(Clone, Debug)]
pub struct StoredManifest {
    /// Of the body, in the algorithm that was asked for.
    pub digest: Digest,
    /// For `OCI-Subject`.
    pub subject: Option<Digest>,
    /// The `?tag=` tags that now point to it, in request order, for `OCI-Tag`.
    pub tags: Vec<Tag>,
}

/// No member of the batch may be acknowledged, and whether the transaction happened is unknown:
/// nothing may be unlinked, and writes stay refused until the process was restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitFailed;

/// A request that the control plane answers whole: lists, and the fixed paths outside `/v2/`.
pub struct Forward {
    /// What was asked for; [`Endpoint::Fixed`] goes by `target`.
    pub endpoint: Endpoint,
    /// GET, HEAD or whatever a fixed path takes. The body of a HEAD's reply is dropped by the core.
    pub method: Method,
    /// The request target as sent (path and query), for `Link` headers and fixed paths.
    pub target: String,
    /// At most 4 MiB.
    pub body: Bytes,
    /// Who asks.
    pub principal: Principal,
    /// Who that is to the network. `None` where that plays no part: everywhere but below `/api/`.
    pub caller: Option<Caller>,
    /// The reply; an error is rendered by the core.
    pub answer: Answer<Reply>,
}

/// How a request came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// The other end of the socket, whatever the request says of itself.
    pub peer: SocketAddr,
    /// The fields of its head, in order; names and values as they were sent.
    pub fields: Vec<(String, String)>,
}

/// A whole answer of the control plane. The core adds `Date`, `Content-Length` and its own headers.
#[derive(Debug)]
pub struct Reply {
    /// HTTP status.
    pub status: u16,
    /// Names are lower-case constants; values hold no CR or LF (the core drops those that do).
    pub headers: Vec<(&'static str, String)>,
    /// What follows the head.
    pub body: Bytes,
}

impl Reply {
    /// A reply that is all here.
    pub fn whole(status: u16, content_type: &str, body: impl Into<Bytes>) -> Reply {
        Reply { status, headers: vec![("content-type", content_type.to_owned())], body: body.into() }
    }
}

impl Document {
    /// The same, given again by who keeps it.
    pub fn came_before(&self) -> Document {
        let came = if self.came == Came::Fill { Came::Hit } else { self.came };
        Document { came, ..self.clone() }
    }

    /// A document that was pushed here, from its stored parts.
    pub fn new(digest: Digest, media_type: impl Into<Arc<str>>, bytes: Bytes) -> Document {
        let media_type = MediaType::from_stored(media_type.into());
        Document { digest, media_type, bytes, came: Came::Pushed, fresh: None }
    }
}
