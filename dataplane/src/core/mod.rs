//! One core: what its thread owns, and what it remembers.
//!
//! Owns: its connections, its caches, its buffers. Nothing here is locked; nothing here leaves the thread.
//!
//! Invariants: caches hold only *yes*, each with the epoch that was read before the question was asked. No
//! borrow of a cell lives across an await.

mod body;
mod connection;
mod errands;
mod held;
mod response;
mod unread;

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
    sync::Arc,
};

use control::{Control, Description, Document, Epoch, Epochs, Link, Origin, Principal};
use oci::{Digest, MediaType, Namespaces, Problem, Reference, RepositoryName};

pub use body::BodyEnd;
pub use connection::{Connection, Request, connection};
pub use errands::errands;
pub use response::{Body, FilePart, OpenBlob, Response};

use connection::Exchange;
use held::Holders;

use crate::{
    access::AccessLog,
    cache::Generations,
    fill::{Fills, Reader, Runner},
    http::HttpDate,
    io::{Instant, Io, out_of_descriptors, unix_time},
    limits::{
        BODIES_BYTES_PER_CORE, GATHER_BYTES, HEAD_KEPT_BYTES_MAX, HEADS_KEPT_PER_CORE, LINK_AGE_MAX,
        LINKS_PER_CORE, Limits, MANIFEST_CACHE_BYTES_PER_CORE, OPEN_FILES_PER_CORE, RECV_BYTES,
        TOUCHES_A_BATCH,
    },
    metrics::CoreCounters,
    store::{Absence, Store},
};

/// A core's own state.
pub struct Core {
    /// Its world.
    pub io: Io,
    /// Whom it asks.
    pub control: Control,
    /// The blobs and upload sessions of the process.
    pub store: Arc<Store>,
    /// What an operator has set.
    pub limits: Limits,
    /// Its counters.
    pub counters: Arc<CoreCounters>,
    /// The upstreams by name.
    pub namespaces: Arc<Namespaces>,
    /// What is on its way from them.
    pub fills: Arc<Fills>,
    index: usize,
    epochs: Arc<Epochs>,
    links: RefCell<Generations<(RepositoryName, Digest), KnownLink>>,
    manifests: RefCell<Generations<(RepositoryName, Reference), KnownManifest>>,
    files: RefCell<Generations<Digest, Rc<OpenBlob>>>,
    touched: RefCell<Vec<Digest>>,
    holders: Holders<response::Windows>,
    access: RefCell<AccessLog>,
    recv: RefCell<Box<[u8]>>,
    gathered: RefCell<Box<[u8]>>,
    spare_heads: RefCell<Vec<Vec<u8>>>,
    #[expect(clippy::vec_box, reason = "the boxes are what is kept")]
    spare_exchanges: RefCell<Vec<Box<Exchange>>>,
    /// When the connection that has its turn got it: a clock that is free.
    turn_began: Cell<Instant>,
    /// When an answer was last sent whole, or given up.
    last_finish: Cell<Instant>,
    date: Cell<HttpDate>,
    collected_bytes: Cell<usize>,
    draining: Cell<bool>,
}

/// What became of the look for a blob of an upstream's.
pub enum Looked {
    /// It is here.
    Open(Rc<OpenBlob>),
    /// It is not, as far as was seen.
    Absent(Absence),
}

struct KnownLink {
    epoch: Epoch,
    asked_at: Instant,
    link: KeptLink,
}

/// A [`Link`] in few bytes: most are of blobs that were pushed here.
#[derive(Clone)]
enum KeptLink {
    Here { size_bytes: u64 },
    Upstream { origin: Rc<Origin>, size_bytes: Option<u64> },
}

impl KeptLink {
    fn of(link: Link) -> KeptLink {
        match link {
            Link::Here { size_bytes } => KeptLink::Here { size_bytes },
            Link::Upstream { origin, size_bytes } => {
                KeptLink::Upstream { origin: Rc::new(origin), size_bytes }
            }
        }
    }

    fn link(&self) -> Link {
        match self {
            KeptLink::Here { size_bytes } => Link::Here { size_bytes: *size_bytes },
            KeptLink::Upstream { origin, size_bytes } => {
                Link::Upstream { origin: **origin, size_bytes: *size_bytes }
            }
        }
    }
}

impl KnownLink {
    fn is_young(&self, now: Instant) -> bool {
        now.since(self.asked_at) < LINK_AGE_MAX
    }
}

struct KnownManifest {
    epoch: Epoch,
    /// `None`: until it is revoked.
    until: Option<Instant>,
    document: Document,
}

/// What a core is made from.
pub struct Parts {
    /// See [`Core`].
    pub control: Control,
    /// See [`Core`].
    pub store: Arc<Store>,
    /// See [`Core`].
    pub limits: Limits,
    /// See [`Core`].
    pub counters: Arc<CoreCounters>,
    /// Its number.
    pub index: usize,
    /// What keeps its links and manifests true.
    pub epochs: Arc<Epochs>,
    /// The upstreams by name.
    pub namespaces: Arc<Namespaces>,
    /// What is on its way from them.
    pub fills: Arc<Fills>,
    /// Where it says what it served.
    pub access: AccessLog,
}

impl Core {
    /// A core with nothing to do yet.
    pub fn new(io: Io, parts: Parts) -> Rc<Core> {
        Rc::new(Core {
            io,
            control: parts.control,
            store: parts.store,
            limits: parts.limits,
            counters: parts.counters,
            namespaces: parts.namespaces,
            fills: parts.fills,
            index: parts.index,
            epochs: parts.epochs,
            links: RefCell::new(Generations::new(LINKS_PER_CORE)),
            manifests: RefCell::new(Generations::new(MANIFEST_CACHE_BYTES_PER_CORE)),
            files: RefCell::new(Generations::new(OPEN_FILES_PER_CORE)),
            touched: RefCell::new(Vec::with_capacity(TOUCHES_A_BATCH)),
            holders: Holders::default(),
            access: RefCell::new(parts.access),
            recv: RefCell::new(vec![0; RECV_BYTES].into_boxed_slice()),
            gathered: RefCell::new(vec![0; GATHER_BYTES].into_boxed_slice()),
            spare_heads: RefCell::default(),
            spare_exchanges: RefCell::default(),
            turn_began: Cell::new(Instant::now()),
            last_finish: Cell::new(Instant::now()),
            date: Cell::new(HttpDate::at(unix_time())),
            collected_bytes: Cell::new(0),
            draining: Cell::new(false),
        })
    }

    /// Why `repository` may serve a blob, if this core knows that for certain.
    pub fn known_link(&self, repository: &RepositoryName, digest: &Digest) -> Option<Link> {
        let slot = self.epochs.of_repository(repository);
        let now = self.turn_began.get();
        let known = self.links.borrow_mut().get(&(*repository, *digest), |known| {
            let fresh = self.epochs.holds(slot, known.epoch) && known.is_young(now);
            fresh.then(|| known.link.link())
        });
        let known = known.flatten();
        if known.is_some() {
            self.counters.link_lookup(true);
        }
        known
    }

    /// Why `repository` may serve a blob. Presence on disk plays no part in it.
    pub async fn link(&self, repository: &RepositoryName, digest: &Digest) -> Result<Link, Problem> {
        if let Some(link) = self.known_link(repository, digest) {
            return Ok(link);
        }
        self.counters.link_lookup(false);
        let epoch = self.epochs.read(self.epochs.of_repository(repository));
        let asked_at = self.io.now();
        let link = self.control.link(*repository, *digest, Principal::Anonymous).await?;
        let link = link.ok_or(Problem::BlobUnknown(*digest))?;
        if let Some(epoch) = epoch {
            let known = KnownLink { epoch, asked_at, link: KeptLink::of(link) };
            self.links.borrow_mut().insert((*repository, *digest), known, 1);
        }
        Ok(link)
    }

    /// An open blob that this core remembers and that still has its name.
    pub fn known_file(&self, digest: &Digest) -> Option<Rc<OpenBlob>> {
        let known = self.files.borrow_mut().get(digest, |blob| {
            (self.has_its_name(blob) && !self.store.is_suspect(digest)).then(|| blob.clone())
        });
        known.flatten()
    }

    /// A read of this blob failed. If its file has the name still, a push puts another in its place, and until
    /// then nobody is told that it is here.
    pub fn suspect(&self, blob: &OpenBlob) {
        if let Some(epoch) = blob.epoch {
            self.store.suspect(&blob.digest, epoch);
        }
    }

    fn has_its_name(&self, blob: &OpenBlob) -> bool {
        let names = self.store.names();
        blob.epoch.is_some_and(|epoch| names.holds(names.of_digest(&blob.digest), epoch))
    }

    /// Opens a blob of `size_bytes`. One that is not there, not as long, or could not be read, is lost: 500 and
    /// an alarm.
    pub async fn file(&self, digest: &Digest, size_bytes: u64) -> Result<Rc<OpenBlob>, Problem> {
        if self.store.is_suspect(digest) {
            tracing::error!(%digest, "a blob could not be read; push it again");
            return Err(Problem::BlobLost(*digest));
        }
        match self.open(digest).await? {
            Some(blob) if blob.size_bytes == size_bytes => Ok(blob),
            Some(blob) => {
                let found_bytes = blob.size_bytes;
                tracing::error!(%digest, size_bytes, found_bytes, "a blob has the wrong length; push it again");
                Err(Problem::BlobLost(*digest))
            }
            None => {
                tracing::error!(%digest, "a blob is recorded and its file is gone; push it again");
                Err(Problem::BlobLost(*digest))
            }
        }
    }

    /// Opens a blob of an upstream's that may be here. If it is [`Looked::Absent`] it has to be filled; also if it could not
    /// be read, since what is filled takes its place.
    ///
    /// Errors: [`Problem::UpstreamMisbehaved`]: its length is not what was told of it.
    pub async fn upstream_file(&self, digest: &Digest, told_bytes: Option<u64>) -> Result<Looked, Problem> {
        let absence = self.store.before_looking(digest);
        if self.store.is_suspect(digest) {
            return Ok(Looked::Absent(absence));
        }
        let Some(blob) = self.open(digest).await? else { return Ok(Looked::Absent(absence)) };
        if told_bytes.is_some_and(|told_bytes| blob.size_bytes != told_bytes) {
            let why = "the upstream's blob has another length than its manifest says";
            return Err(Problem::UpstreamMisbehaved { why });
        }
        Ok(Looked::Open(blob))
    }

    /// A reader of the fill of a blob that was looked for.
    pub fn join_fill(
        &self,
        digest: &Digest,
        origin: Origin,
        size_bytes: Option<u64>,
        absence: Absence,
    ) -> Result<Reader, Problem> {
        self.tell_touched();
        self.fills.join(digest, self.runner(origin, size_bytes, absence))
    }

    /// A reader of the fill of a blob for whom no client waits.
    pub fn join_fill_behind(
        &self,
        digest: &Digest,
        origin: Origin,
        size_bytes: Option<u64>,
        absence: Absence,
    ) -> Result<Reader, Problem> {
        self.tell_touched();
        self.fills.join_behind(digest, self.runner(origin, size_bytes, absence))
    }

    /// Forgets what is here of a blob in part. `false`: nothing, or somebody waits for it.
    pub fn forget_fill(&self, digest: &Digest) -> bool {
        self.fills.forget_idle(digest, &self.io, &self.store)
    }

    fn runner(&self, origin: Origin, size_bytes: Option<u64>, absence: Absence) -> Runner {
        Runner {
            io: self.io.clone(),
            control: self.control.clone(),
            store: self.store.clone(),
            fills: self.fills.clone(),
            origin,
            size_bytes,
            absence,
            blob_bytes_max: self.limits.blob_bytes,
        }
    }

    /// Opens the file that has the digest's name. `None`: there is none.
    async fn open(&self, digest: &Digest) -> Result<Option<Rc<OpenBlob>>, Problem> {
        if let Some(blob) = self.known_file(digest) {
            return Ok(Some(blob));
        }
        let names = self.store.names();
        let epoch = names.read(names.of_digest(digest));
        match self.store.open_blob(&self.io, digest).await {
            Ok(Some((file, size_bytes))) => {
                let blob = Rc::new(OpenBlob::new(file, digest, size_bytes, epoch));
                // One that has lost its name meanwhile was to be forgotten before it was known.
                if self.has_its_name(&blob) {
                    self.files.borrow_mut().insert(*digest, blob.clone(), 1);
                }
                Ok(Some(blob))
            }
            Ok(None) => Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                Err(Problem::Overloaded { retry_after_s: 1 })
            }
            Err(error) if out_of_descriptors(&error) => {
                // Files that are kept only for speed make room for those that are asked for.
                self.files.borrow_mut().clear();
                tracing::warn!(
                    "out of descriptors: raise the limit of open files, or lower limits.connections"
                );
                Err(Problem::Overloaded { retry_after_s: 1 })
            }
            Err(error) => {
                tracing::error!(%digest, %error, "a blob can't be opened");
                Err(Problem::Internal)
            }
        }
    }

    /// A manifest that this core knows for certain.
    pub fn known_manifest(&self, repository: &RepositoryName, reference: &Reference) -> Option<Document> {
        let slot = self.epochs.of_repository(repository);
        let known = self.manifests.borrow_mut().get(&(*repository, *reference), |known| {
            let fresh = known.until.is_none_or(|until| self.turn_began.get() < until);
            (fresh && self.epochs.holds(slot, known.epoch)).then(|| known.document.clone())
        });
        known.flatten()
    }

    /// The file of this digest has lost its name: it is not kept open for who may come.
    pub fn forget(&self, digest: &Digest) {
        self.files.borrow_mut().remove(digest);
    }

    /// A blob of an upstream was of use, and this core has it open: the cache is told some at a time.
    pub fn touched(&self, digest: &Digest) {
        let is_full = {
            let mut touched = self.touched.borrow_mut();
            touched.push(*digest);
            touched.len() == touched.capacity()
        };
        if is_full {
            self.tell_touched();
        }
    }

    /// What comes now may have others go for it: of those that were of use here the cache knows by then.
    fn tell_touched(&self) {
        let mut touched = self.touched.borrow_mut();
        if !touched.is_empty() {
            self.store.touch(&touched);
            touched.clear();
        }
    }

    /// The manifest that a tag or digest names.
    pub async fn manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        accept: &[MediaType],
    ) -> Result<Document, Problem> {
        if let Some(document) = self.known_manifest(repository, reference) {
            return Ok(document);
        }
        let epoch = self.epochs.read(self.epochs.of_repository(repository));
        let asked_at = self.io.now();
        let document =
            self.control.manifest_as(*repository, *reference, accept.to_vec(), Principal::Anonymous).await?;
        let document = document.ok_or(Problem::ManifestUnknown(*reference))?;
        self.keep_manifest(repository, reference, &document, epoch, asked_at);
        Ok(document)
    }

    /// What a HEAD is told of the manifest that a tag or digest names.
    pub async fn describe(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        accept: &[MediaType],
    ) -> Result<Description, Problem> {
        if let Some(document) = self.known_manifest(repository, reference) {
            return Ok(Description::Whole(document));
        }
        let epoch = self.epochs.read(self.epochs.of_repository(repository));
        let asked_at = self.io.now();
        let description =
            self.control.describe_as(*repository, *reference, accept.to_vec(), Principal::Anonymous).await?;
        let description = description.ok_or(Problem::ManifestUnknown(*reference))?;
        if let Description::Whole(document) = &description {
            self.keep_manifest(repository, reference, document, epoch, asked_at);
        }
        Ok(description)
    }

    fn keep_manifest(
        &self,
        repository: &RepositoryName,
        reference: &Reference,
        document: &Document,
        epoch: Option<Epoch>,
        asked_at: Instant,
    ) {
        if let Some(epoch) = epoch {
            let weight = document.bytes.len() + size_of::<(RepositoryName, Reference, KnownManifest)>();
            let until = document.fresh.map(|fresh| asked_at + fresh);
            let known = KnownManifest { epoch, until, document: document.came_before() };
            self.manifests.borrow_mut().insert((*repository, *reference), known, weight);
        }
    }

    /// Makes room for a body that is collected whole. It is given back by [`Core::release`].
    pub fn reserve(&self, bytes: usize) -> Result<(), Problem> {
        let collected = self.collected_bytes.get() + bytes;
        if collected > BODIES_BYTES_PER_CORE {
            return Err(Problem::Overloaded { retry_after_s: 1 });
        }
        self.collected_bytes.set(collected);
        Ok(())
    }

    /// Has a push of `more_bytes` get room on the volume, or says that there is none.
    pub async fn make_room(&self, more_bytes: u64) -> Result<(), Problem> {
        self.fills.make_room(&self.io, &self.store, more_bytes).await
    }

    /// Gives room back.
    pub fn release(&self, bytes: usize) {
        self.collected_bytes.set(self.collected_bytes.get() - bytes);
    }

    /// Whether it is the one that does what has to be done once in a process.
    pub fn is_first(&self) -> bool {
        self.index == 0
    }

    /// How often old upload sessions and fills are looked for.
    pub fn sweep_interval(&self) -> std::time::Duration {
        (self.limits.upload_expiry.min(self.limits.fill_expiry) / 10).min(std::time::Duration::from_secs(60))
    }

    /// Whether connections end with the request they are at.
    pub fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Has every connection end with the request that it is at, and those without one at once.
    pub fn drain(&self) {
        self.draining.set(true);
        self.io.rouse();
    }

    fn date(&self) -> HttpDate {
        let now = unix_time();
        let mut date = self.date.get();
        if !date.is_of(now) {
            date = HttpDate::at(now);
            self.date.set(date);
        }
        date
    }

    fn keep_exchange(&self, exchange: Exchange) -> Box<Exchange> {
        match self.spare_exchanges.borrow_mut().pop() {
            Some(mut spare) => {
                *spare = exchange;
                spare
            }
            None => Box::new(exchange),
        }
    }

    fn spare_exchange(&self, exchange: Box<Exchange>) {
        let mut spare = self.spare_exchanges.borrow_mut();
        if spare.len() < HEADS_KEPT_PER_CORE {
            spare.push(exchange);
        }
    }

    fn spare_head(&self) -> Vec<u8> {
        self.spare_heads.borrow_mut().pop().unwrap_or_else(|| Vec::with_capacity(1024))
    }

    fn keep_head(&self, head: Vec<u8>) {
        let mut spare = self.spare_heads.borrow_mut();
        if spare.len() < HEADS_KEPT_PER_CORE && head.capacity() <= HEAD_KEPT_BYTES_MAX {
            spare.push(head);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_link_is_asked_for_again_when_it_is_old() {
        let epochs = Epochs::new(1);
        let epoch = epochs.read(epochs.of_repository(&RepositoryName::parse("a").unwrap())).unwrap();
        let asked_at = Instant::now();
        let known = KnownLink { epoch, asked_at, link: KeptLink::Here { size_bytes: 1 } };
        assert!(known.is_young(asked_at));
        assert!(known.is_young(asked_at + (LINK_AGE_MAX - Duration::from_nanos(1))));
        assert!(!known.is_young(asked_at + LINK_AGE_MAX));
    }
}
