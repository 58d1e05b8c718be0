//! The metadata: which repositories, links, manifests, tags and referrers there are.
//!
//! Owns: the seam behind which they are kept. SQLite is behind it now; when several machines share one
//! registry, PostgreSQL will be.
//!
//! Invariants: a read that returns was true at some moment between question and answer, and sees every
//! change that was answered before it was asked. A change that returns `Ok` is durable. `Ok(None)` means
//! absent; whatever could not be looked up is [`Problem::Internal`], logged where it happened.

mod mirrored;
mod preconditions;
pub(crate) mod sqlite;

use bytes::Bytes;
use control::{CommitFailed, Document, Link, Preconditions, PushedBlob};
use oci::{Digest, Problem, Reference, RepositoryName, Tag};

pub(crate) use mirrored::{Keep, Kept, KeptTag, Mirrored, MirroredEdge, NewMirrored, Source, Standing};

/// Where metadata is kept. Every change checks [`control::Writes`] first and is
/// [`Problem::WritesRefused`] when writes are; it checks its conditions inside its own transaction.
pub(crate) trait Metadata: Mirrored {
    /// The link of `repository` to `digest`; a touch of it if it is there.
    fn link(
        &self,
        repository: RepositoryName,
        digest: Digest,
    ) -> impl Future<Output = Result<Option<Link>, Problem>> + Send;

    /// The manifest of that tag or digest.
    fn manifest(
        &self,
        repository: RepositoryName,
        reference: Reference,
    ) -> impl Future<Output = Result<Option<Document>, Problem>> + Send;

    /// The sizes in bytes of those blobs that have a committed row, in order.
    fn home(&self, digests: Vec<Digest>) -> impl Future<Output = Result<Vec<Option<u64>>, Problem>> + Send;

    /// At most `most` blobs that have a committed row, after `after`, with their sizes in bytes; by algorithm, then
    /// by value.
    fn home_after(
        &self,
        after: Option<Digest>,
        most: u32,
    ) -> impl Future<Output = Result<Vec<(Digest, u64)>, Problem>> + Send;

    /// At most `page.limit` tags after `page.after`, bytewise ascending. `None`: no such repository.
    fn tags(
        &self,
        repository: RepositoryName,
        page: Page,
    ) -> impl Future<Output = Result<Option<Listed>, Problem>> + Send;

    /// At most `page.limit` repositories after `page.after`, bytewise ascending.
    fn repositories(&self, page: Page) -> impl Future<Output = Result<Listed, Problem>> + Send;

    /// Descriptors of manifests in `repository` that name `subject`, by digest ascending.
    fn referrers(&self, query: ReferrersQuery) -> impl Future<Output = Result<Referrers, Problem>> + Send;

    /// See [`control::Ask::Commit`].
    fn commit(
        &self,
        batch: Vec<PushedBlob>,
    ) -> impl Future<Output = Result<Vec<Result<(), Problem>>, CommitFailed>> + Send;

    /// See [`control::Ask::Mountable`].
    fn mountable(&self, mount: Mount) -> impl Future<Output = Result<Option<Link>, Problem>> + Send;

    /// See [`control::Ask::Mount`].
    fn mount(&self, mount: Mount) -> impl Future<Output = Result<bool, Problem>> + Send;

    /// See [`control::Ask::PutManifest`].
    fn put_manifest(&self, manifest: Box<NewManifest>) -> impl Future<Output = Result<(), Problem>> + Send;

    /// See [`control::Ask::DeleteManifest`].
    fn delete_manifest(
        &self,
        delete: Box<DeleteManifest>,
    ) -> impl Future<Output = Result<(), Problem>> + Send;

    /// See [`control::Ask::DeleteBlob`].
    fn delete_blob(
        &self,
        repository: RepositoryName,
        digest: Digest,
    ) -> impl Future<Output = Result<(), Problem>> + Send;
}

/// Which part of a sorted list is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    /// Exclusive; need not be in the list, nor be a legal entry. Empty: from the start.
    pub after: String,
    /// The most entries of the answer.
    pub limit: u32,
}

/// Part of a sorted list.
#[derive(Clone, Debug)]
pub(crate) struct Listed {
    /// In order.
    pub names: Vec<String>,
    /// Whether the list goes on after the last of `names`.
    pub more: bool,
}

/// What is asked of the referrers of a manifest. (end-12)
#[derive(Clone, Debug)]
pub(crate) struct ReferrersQuery {
    pub repository: RepositoryName,
    pub subject: Digest,
    /// Only those of exactly this type.
    pub artifact_type: Option<String>,
    /// Exclusive; the digest of the last entry of the page before.
    pub after: Option<Digest>,
    /// The most bytes of all entries with a comma each. One entry is given even if it is larger.
    pub limit_bytes: usize,
}

/// A page of referrers.
#[derive(Clone, Debug)]
pub(crate) struct Referrers {
    /// Descriptors as JSON text, in order.
    pub entries: Vec<String>,
    /// The digest of the last entry, if there are more after it.
    pub more_after: Option<Digest>,
}

/// A link to be made from another.
#[derive(Clone, Debug)]
pub(crate) struct Mount {
    pub repository: RepositoryName,
    pub digest: Digest,
    pub from: Option<RepositoryName>,
}

/// A manifest that was parsed and found to be legal.
#[derive(Debug)]
pub(crate) struct NewManifest {
    pub repository: RepositoryName,
    pub digest: Digest,
    pub media_type: String,
    pub bytes: Bytes,
    /// What the request's URL named: the resource that `preconditions` speak of.
    pub reference: Reference,
    /// All tags to set.
    pub tags: Vec<Tag>,
    pub preconditions: Preconditions,
    /// Everything that it names, each once, but not its subject.
    pub edges: Vec<Edge>,
    pub referrer: Option<NewReferrer>,
}

/// One thing that a manifest names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Edge {
    pub target: Digest,
    pub kind: EdgeKind,
    /// Whether the repository must have it before the manifest may be stored.
    pub required: bool,
}

/// What a manifest takes the named thing for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum EdgeKind {
    /// Config or layer: a link satisfies it.
    Blob,
    /// An entry of `manifests`: a manifest or a link satisfies it.
    Child,
}

/// How a manifest shows up among the referrers of its subject.
#[derive(Debug)]
pub(crate) struct NewReferrer {
    pub subject: Digest,
    pub artifact_type: Option<String>,
    /// Its descriptor, as JSON text.
    pub entry: String,
}

/// A manifest or tag to be deleted.
#[derive(Debug)]
pub(crate) struct DeleteManifest {
    pub repository: RepositoryName,
    pub reference: Reference,
    pub preconditions: Preconditions,
}
