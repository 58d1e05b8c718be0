//! What is kept of upstreams: manifests, the tags that named them, and what they name.
//!
//! Invariants: it is never mixed with what was pushed. `repository` is always the one name that an upstream's
//! repository has here, `<prefix>/<name>`. Times are milliseconds of the mirror's clock.

use bytes::Bytes;
use control::{Document, Link};
use oci::{Digest, Problem, RepositoryName, Tag};

use super::{EdgeKind, Listed, Page};

/// The part of the metadata that a mirror keeps. All of it may be lost: it is there to save questions.
pub(crate) trait Mirrored: Send + Sync + 'static {
    /// Whether this name, which has no upstream's prefix, was ever written here, or an upload was opened for it.
    fn is_local(&self, name: RepositoryName) -> impl Future<Output = Result<bool, Problem>> + Send;

    /// Makes the name local for good.
    fn claim(&self, name: RepositoryName) -> impl Future<Output = Result<(), Problem>> + Send;

    /// Whether any manifest of the repository is kept.
    fn is_mirrored(&self, repository: RepositoryName) -> impl Future<Output = Result<bool, Problem>> + Send;

    /// The manifest of that digest.
    fn mirrored_manifest(
        &self,
        repository: RepositoryName,
        digest: Digest,
    ) -> impl Future<Output = Result<Option<Kept>, Problem>> + Send;

    /// The manifest that the tag named when it was last looked at.
    fn mirrored_tag(
        &self,
        repository: RepositoryName,
        tag: Tag,
    ) -> impl Future<Output = Result<Option<KeptTag>, Problem>> + Send;

    /// What serving the blob through the repository rests on, in one read. `bare` is the name that it was asked for by,
    /// where that has no prefix: what was pushed as that comes first, and counts as touched.
    fn standing(
        &self,
        bare: Option<RepositoryName>,
        repository: RepositoryName,
        digest: Digest,
    ) -> impl Future<Output = Result<Standing, Problem>> + Send;

    /// At most `page.limit` known tags after `page.after`, bytewise ascending. `None`: nothing is kept of it.
    fn mirrored_tags(
        &self,
        repository: RepositoryName,
        page: Page,
    ) -> impl Future<Output = Result<Option<Listed>, Problem>> + Send;

    /// At most `page.limit` repositories of which something is kept, after `page.after`, bytewise ascending.
    fn mirrored_repositories(&self, page: Page) -> impl Future<Output = Result<Listed, Problem>> + Send;

    /// At most `most` of what kept manifests of the repository name, after `after`, in an order that never changes.
    fn mirrored_targets(
        &self,
        repository: RepositoryName,
        after: Option<Digest>,
        most: u32,
    ) -> impl Future<Output = Result<Vec<Digest>, Problem>> + Send;

    /// For each of these, in order, at most `most` repositories with a kept manifest that names it.
    fn named_by(
        &self,
        digests: Vec<Digest>,
        most: u32,
    ) -> impl Future<Output = Result<Vec<Vec<String>>, Problem>> + Send;

    /// Forgets some manifests of the repository, with their tags, and takes what cores remember of it away. Gives what
    /// they named and no other kept manifest names. `None`: nothing was kept of it.
    fn forget(
        &self,
        repository: RepositoryName,
    ) -> impl Future<Output = Result<Option<Vec<Digest>>, Problem>> + Send;

    /// The patterns that were pinned here, in the order of their text. For the start; blocks.
    fn pins_blocking(&self) -> Result<Vec<String>, Problem>;

    /// Keeps something. A tag that moves or goes takes what cores remember of the repository away. `false`: what the
    /// change is about is not kept (any more).
    fn keep(&self, keep: Box<Keep>) -> impl Future<Output = Result<bool, Problem>> + Send;
}

/// What a prefix means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    pub prefix: String,
    pub ns: String,
    pub url: String,
}

/// What is known of a blob of a repository that may be an upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It was pushed by that name.
    Pushed(Link),
    /// The name is local, and the blob is not there.
    Local,
    /// No manifest of the repository is kept.
    Unopened,
    /// Manifests are kept, and none has the blob as its own.
    Unnamed,
    /// One has it as its own. `None`: its size is not known, since two manifests say different ones.
    Named(Option<u64>),
}

/// A kept manifest.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub document: Document,
    /// When it was last known to be of use; written rarely.
    pub used_at: i64,
}

/// A kept tag, with its manifest.
#[derive(Clone, Debug)]
pub(crate) struct KeptTag {
    pub manifest: Kept,
    /// When the upstream last said so.
    pub checked_at: i64,
}

/// What is to be kept.
#[derive(Debug)]
pub(crate) enum Keep {
    Manifest(NewMirrored),
    /// The tag names this manifest, which is kept already.
    Tag {
        repository: RepositoryName,
        tag: Tag,
        digest: Digest,
        at: i64,
    },
    /// The upstream has no such tag any more.
    NoTag {
        repository: RepositoryName,
        tag: Tag,
    },
    /// Blobs of repositories that match stay, until that is taken back.
    Pin {
        pattern: String,
    },
    /// They don't, for this pattern's sake.
    Unpin {
        pattern: String,
    },
    /// It was asked for.
    Used {
        repository: RepositoryName,
        digest: Digest,
        at: i64,
    },
}

/// A verified manifest of an upstream.
#[derive(Debug)]
pub(crate) struct NewMirrored {
    pub repository: RepositoryName,
    pub digest: Digest,
    pub media_type: String,
    pub bytes: Bytes,
    /// The tag that named it, if it was asked for by one.
    pub tag: Option<Tag>,
    /// Everything that it names, each once a kind.
    pub edges: Vec<MirroredEdge>,
    pub at: i64,
    /// All kept manifests together; those that were not asked for the longest go first.
    pub bytes_max: u64,
}

/// One thing that a kept manifest names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MirroredEdge {
    pub target: Digest,
    pub kind: EdgeKind,
    pub size_bytes: u64,
}
