//! The blobs on disk: who may write them, what a 201 means, and what a restart may go on from.
//!
//! ```text
//! <data>/
//!   blobs/<algorithm>/<hex>   a whole, verified blob; only the keeper makes, replaces or removes a name
//!   uploads/<id>/data         the bytes of an open session; gets its second name under blobs/
//!   uploads/<id>/state        records of the session, never synced; see `record`
//!   disk-error                the mark: a sync or COMMIT failed and nobody has looked yet
//! ```
//!
//! Owns: every location above, the table of upload sessions, the keeper, and what has been promised of the
//! volume's free space.
//!
//! Invariants: nothing outside this module derives a location from a digest. A name under `blobs/` never
//! precedes the sync of its bytes. Who has taken a session out of the table is the only one to write it.

mod ages;
mod cached;
mod doctor;
mod evictions;
mod ghosts;
mod keeper;
mod operator;
mod record;
mod scrub;
mod sessions;
mod start;
mod suspects;
#[cfg(test)]
mod tests;
mod upload;

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use control::{Control, DiskHealth, Epoch, Epochs, Principal, Writes};
use oci::{Algorithm, Digest, Hasher, Namespaces, Problem, RepositoryName, UploadId};
use tokio::sync::oneshot;

use crate::{
    cache::{Lease, Log},
    io::{File, Fs, Instant, Io, spawn_named, unix_time},
    limits::EXPIRED_A_JOB,
};

pub use ages::Ages;
pub use cached::{CacheSize, Evicted};
pub use doctor::{Cleared, clear_disk_error, disk_error_marked, mark_disk_error};
pub use evictions::Evictions;
pub use keeper::Filled;
pub use record::{Record, Step, Told, read as read_records};
pub use start::open;
pub use upload::Upload;

use cached::Cached;
use ghosts::Ghosts;
use keeper::{Keeper, Queue};
use sessions::{Files, Open, Sessions, remove_upload};
use suspects::Suspects;

/// What the store is opened with.
#[derive(Clone, Debug)]
pub struct StoreSettings {
    /// The larger of this and a hundredth of the volume is kept free for metadata and deletes; in bytes.
    pub reserve_bytes_min: u64,
    /// A session without progress is removed after this long.
    pub upload_expiry: Duration,
    /// Length of a blob in bytes; more is 413.
    pub blob_bytes_max: u64,
    /// What was filled gets its name with the next push, or after this long.
    pub filled_wait: Duration,
    /// What the blobs of upstreams may take.
    pub cache: CacheSize,
    /// The upstreams by name.
    pub namespaces: Arc<Namespaces>,
}

/// The blobs and the upload sessions of one data directory. All cores share it.
pub struct Store {
    shared: Arc<Shared>,
    /// The keeper's, once there is one.
    log: Mutex<Option<Log>>,
}

/// What the cores, the keeper and jobs on the pool share.
struct Shared {
    fs: Fs,
    settings: StoreSettings,
    writes: Arc<Writes>,
    filesystem: &'static str,
    boot: [u8; 16],
    sessions: Sessions,
    /// Bytes that running uploads were told there is room for, and that the volume still counts as free.
    promised_bytes: AtomicU64,
    /// Moved when a name gets another file or goes: what keeps a core's *yes* true.
    names: Epochs,
    /// Moved when a name is given: what keeps a *no* true for a while.
    given: Epochs,
    cached: Cached,
    suspects: Suspects,
    ghosts: Ghosts,
    queue: Queue,
    counters: StoreCounters,
}

/// A moment before a name was looked for and not found, by which is known whether another look may find it.
#[derive(Clone, Copy, Debug)]
pub struct Absence(Option<Epoch>);

/// What the store has done since it was opened. Relaxed: each number is right by itself.
#[derive(Debug, Default)]
pub struct StoreCounters {
    /// Batches that the keeper acknowledged.
    pub batches: AtomicU64,
    /// Blobs that were acknowledged with them.
    pub members: AtomicU64,
    /// fdatasync of a blob.
    pub data_syncs: AtomicU64,
    /// syncfs of the volume.
    pub volume_syncs: AtomicU64,
    /// fsync of a directory.
    pub directory_syncs: AtomicU64,
    /// Blobs of upstreams that went for others, and how long they had been here.
    pub evictions: Evictions,
    /// Blobs of upstreams that an operator had go.
    pub purges: AtomicU64,
    /// Blobs of upstreams that are here.
    pub cached_blobs: AtomicU64,
    /// Their bytes.
    pub cached_bytes: AtomicU64,
    /// Bytes of the cache's budget that are reserved, or still open.
    pub budget_used_bytes: AtomicU64,
    /// All of that budget, in bytes.
    pub budget_bytes: AtomicU64,
    /// Uploads whose file was read once more to hash it.
    pub rehashes: AtomicU64,
    /// Sessions that are open now.
    pub sessions_open: AtomicU64,
    /// Rows without their whole file, when they were last compared.
    pub lost_blobs: AtomicU64,
    /// Files without a row that were of no commit under way, when they were last compared.
    pub orphan_files: AtomicU64,
    /// When both were last compared to the end, seconds since 1970; 0: not yet.
    pub scrubbed_unix: AtomicU64,
}

impl Store {
    /// Starts the thread that commits uploads. It ends after [`Store::close`], when its queue is empty; it
    /// holds `alarm` as long as it lives.
    pub fn start_keeper(
        self: &Arc<Store>,
        control: Control,
        alarm: impl Send + 'static,
    ) -> io::Result<JoinHandle<()>> {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner).take();
        let keeper = Keeper::new(self.shared.clone(), control, log);
        spawn_named("keeper".to_owned(), move || {
            let _alarm = alarm;
            keeper.run();
        })
    }

    /// Takes no more commits: further ones are told [`Problem::Overloaded`].
    pub fn close(&self) {
        self.shared.queue.close();
    }

    /// Moves the slot of a digest when its name gets another file or goes: an open file that was kept for
    /// it is to be forgotten.
    pub fn names(&self) -> &Epochs {
        &self.shared.names
    }

    /// What was read past the page cache lately.
    pub fn ghosts(&self) -> &Ghosts {
        &self.shared.ghosts
    }

    /// To be had before a name is looked for that may not be there.
    pub fn before_looking(&self, digest: &Digest) -> Absence {
        Absence(self.shared.given.read(self.shared.given.of_digest(digest)))
    }

    /// Whether a name that was not found then is certainly not there now.
    pub fn is_absent_still(&self, digest: &Digest, absence: Absence) -> bool {
        let given = &self.shared.given;
        absence.0.is_some_and(|epoch| given.holds(given.of_digest(digest), epoch))
    }

    /// The bytes that had this name at `epoch` of [`Store::names`] could not be read, or ended early: if they have
    /// it still, the next push replaces them.
    pub fn suspect(&self, digest: &Digest, epoch: Epoch) {
        self.shared.suspect(digest, epoch);
    }

    /// Whether that was said, and no push has come since.
    pub fn is_suspect(&self, digest: &Digest) -> bool {
        self.shared.suspects.has(digest)
    }

    /// The blob's file, which keeps what its bytes are counted by if it is a cached one, and its length in bytes. `None`:
    /// no file of that name, or one that is not as long as a cached blob was when it got its name, which is a suspect from
    /// then on.
    pub async fn open_blob(&self, io: &Io, digest: &Digest) -> io::Result<Option<(File, u64)>> {
        let path = blob_path(digest);
        // Before the file: then its bytes count for as long as it is open.
        let (lease, size_bytes) = self.shared.cached.lease(digest).unzip();
        let epoch = self.shared.names.read(self.shared.names.of_digest(digest));
        let opened = io.fs(move |fs| match fs.open_file(&path)? {
            Some(file) => {
                let len = file.stat()?.len;
                Ok(Some((file, len)))
            }
            None => Ok(None),
        });
        match opened.await? {
            Some((_, len)) if size_bytes.is_some_and(|size_bytes| size_bytes != len) => {
                tracing::error!(%digest, len, "a cached blob has another length than it had; it is fetched again");
                if let Some(epoch) = epoch {
                    self.shared.suspect(digest, epoch);
                }
                Ok(None)
            }
            Some((file, len)) => {
                lease.into_iter().for_each(|lease| file.keep(lease));
                Ok(Some((file, len)))
            }
            None => {
                lease.iter().for_each(|lease| self.shared.cached.missing(digest, lease));
                Ok(None)
            }
        }
    }

    /// These blobs of upstreams were of use to somebody, each once.
    pub fn touch(&self, digests: &[Digest]) {
        self.shared.cached.touch(digests);
    }

    /// Whoever is told is to close the file of a digest that has lost its name. To be called once, at the start.
    pub fn on_forget(&self, forget: impl Fn(&Digest) + Send + Sync + 'static) {
        self.shared.cached.on_forget(Box::new(forget));
    }

    /// Whether nothing new may be kept, since what is kept is not known yet.
    pub fn is_rebuilding(&self) -> bool {
        self.shared.cached.is_lossy()
    }

    /// Room for a fill, of which nothing is reserved yet. `None`: the budget is exceeded.
    pub fn new_lease(&self) -> Option<Arc<Lease>> {
        self.shared.cached.new_lease().ok()
    }

    /// A fill of a blob of this length has begun (or what is known of it has changed); `None`: it is over.
    pub fn filling(&self, digest: &Digest, size_bytes: Option<u64>) {
        self.shared.cached.filling(digest, size_bytes);
    }

    /// Has blobs of upstreams go until so many bytes will have come back, or nothing may go any more.
    pub async fn evict(&self, wanted_bytes: u64) -> Evicted {
        let (answer, reply) = oneshot::channel();
        match self.shared.queue.push_eviction(wanted_bytes, answer) {
            Ok(()) => reply.await.unwrap_or_default(),
            Err(_full_or_closed) => Evicted::default(),
        }
    }

    /// The budget of the blobs of upstreams, in bytes.
    pub fn cache_bytes_max(&self) -> u64 {
        self.shared.cached.budget().max_bytes()
    }

    /// Whether there is a file of the blob's name, and nobody failed to read it.
    pub async fn has_name(&self, io: &Io, digest: &Digest) -> io::Result<bool> {
        let path = blob_path(digest);
        let has_name = io.fs(move |fs| Ok(fs.stat(&path)?.is_some())).await?;
        Ok(has_name && !self.is_suspect(digest))
    }

    /// Gives a filled and verified file its digest's name, for reads of the future. It may take some seconds: the
    /// name waits for a push to share a sync with. The fill's own name stays.
    ///
    /// Errors: [`Problem::WritesRefused`], [`Problem::Overloaded`], [`Problem::DiskFull`], [`Problem::Internal`]; the
    /// digest has no name then, or had one before.
    pub async fn keep(&self, io: &Io, filled: Filled) -> Result<(), Problem> {
        self.shared.allowed()?;
        let data = filled.files.data.clone();
        // Here, so that no push waits for it.
        let synced = io.fs(move |fs| Ok(fs.sync_data(&data)));
        if let Err(error) = synced.await.map_err(|error| problem_of(&error))? {
            tracing::error!(%error, "a sync failed; writes are refused until a restart");
            self.shared.writes.refuse(control::Refusal::SyncFailed);
            return Err(Problem::Internal);
        }
        let (answer, reply) = oneshot::channel();
        self.shared.queue.push_filled(filled, answer)?;
        reply.await.unwrap_or(Err(Problem::Internal))
    }

    /// Whether the blob's file is there with this length, and nobody failed to read it.
    ///
    /// Errors: [`Problem::Overloaded`]; [`Problem::Internal`], which was logged.
    pub async fn has_whole(&self, io: &Io, digest: &Digest, size_bytes: u64) -> Result<bool, Problem> {
        let path = blob_path(digest);
        let stat = io.fs(move |fs| fs.stat(&path)).await.map_err(|error| problem_of(&error))?;
        Ok(stat.is_some_and(|stat| stat.len == size_bytes) && !self.is_suspect(digest))
    }

    /// Whether `more_bytes` of whatever kind may be written now. Nothing is set aside for them.
    ///
    /// Errors: [`Problem::WritesRefused`], [`Problem::DiskFull`].
    pub fn room_for(&self, more_bytes: u64) -> Result<(), Problem> {
        self.shared.room_for(more_bytes)
    }

    /// Whether a blob may have this length.
    ///
    /// Errors: [`Problem::BlobTooLarge`], [`Problem::WritesRefused`].
    pub fn may_be_as_long(&self, size_bytes: u64) -> Result<(), Problem> {
        self.shared.allowed()?;
        let limit_bytes = self.shared.settings.blob_bytes_max;
        if size_bytes > limit_bytes { Err(Problem::BlobTooLarge { limit_bytes }) } else { Ok(()) }
    }

    /// The volume, for `/healthz`; all zeros if it can't be asked.
    pub fn disk(&self) -> DiskHealth {
        let (free_bytes, reserve_bytes) = self.shared.free_and_reserve().unwrap_or_default();
        DiskHealth { filesystem: self.shared.filesystem, free_bytes, reserve_bytes }
    }

    /// What was done so far. The number of open sessions is that of this call.
    pub fn counters(&self) -> &StoreCounters {
        let (counters, cached) = (&self.shared.counters, &self.shared.cached);
        let tell = |gauge: &AtomicU64, value: u64| gauge.store(value, Ordering::Relaxed);
        tell(&counters.sessions_open, self.shared.sessions.count() as u64);
        let (entries, bytes) = cached.entries();
        tell(&counters.cached_blobs, entries);
        tell(&counters.cached_bytes, bytes);
        tell(&counters.budget_used_bytes, cached.budget().used_bytes());
        tell(&counters.budget_bytes, cached.budget().max_bytes());
        counters
    }

    /// Opens a session; its bytes will be hashed with `algorithm` as they arrive. (end-4a)
    ///
    /// Errors: [`Problem::WritesRefused`], [`Problem::Overloaded`] (too many sessions), [`Problem::DiskFull`].
    pub async fn open_upload(
        &self,
        io: &Io,
        repository: RepositoryName,
        principal: Principal,
        algorithm: Algorithm,
    ) -> Result<UploadId, Problem> {
        self.shared.room_for(0)?;
        let id = UploadId::from_bytes(io.unguessable().map_err(|error| problem_of(&error))?);
        let shared = self.shared.clone();
        // The job puts the session into the table itself: one that nobody waits for any more expires there.
        let opened = io.fs(move |fs| {
            // Before anything is made, and for good: of two who look at the last place one gets it.
            if !shared.sessions.claim(id, &repository) {
                return Ok(Err(OVERLOADED));
            }
            let mut open = Box::new(Open {
                id,
                repository,
                principal,
                created_unix: unix_time(),
                running: Some(Hasher::new(algorithm)),
                algorithm,
                offset: 0,
                allocated: 0,
                written_back: 0,
                records: 0,
                progress: Instant::now(),
                files: None,
                reopened: false,
            });
            match make_session(fs, &mut open, &shared.boot) {
                Ok(files) => open.files = Some(files),
                Err(error) => {
                    shared.sessions.forget(&id);
                    remove_upload(fs, &id).unwrap_or_else(|error| tracing::warn!(%id, %error, "left behind"));
                    return Err(error);
                }
            }
            shared.sessions.insert(open);
            Ok(Ok(id))
        });
        opened.await.unwrap_or_else(|error| Err(problem_of(&error)))
    }

    /// Takes a session out of the table, to write to it.
    ///
    /// Errors: [`Problem::BlobUploadUnknown`], also for a session of another repository;
    /// [`Problem::UploadBusy`].
    pub fn take(&self, repository: &RepositoryName, id: &UploadId) -> Result<Upload, Problem> {
        let open = self.shared.sessions.take(repository, id)?;
        Ok(Upload::new(self.shared.clone(), open))
    }

    /// Where the next byte goes; of a busy session, where it did when it was taken. (end-13)
    ///
    /// Errors: [`Problem::BlobUploadUnknown`].
    pub fn offset(&self, repository: &RepositoryName, id: &UploadId) -> Result<u64, Problem> {
        self.shared.sessions.offset(repository, id)
    }

    /// Ends a session; its bytes go. (end-14)
    ///
    /// Errors: as [`Store::take`], and [`Problem::WritesRefused`].
    pub async fn cancel(&self, io: &Io, repository: &RepositoryName, id: &UploadId) -> Result<(), Problem> {
        self.shared.allowed()?;
        let open = self.shared.sessions.take(repository, id)?;
        self.shared.remove(io, vec![*open]).await.map_err(|error| problem_of(&error))
    }

    /// Removes sessions that made no progress for too long, and measures the volume. To be called once a minute, by one
    /// core.
    pub async fn expire(&self, io: &Io) {
        let shared = self.shared.clone();
        let measure = move |_: &Fs| {
            shared.measure();
            Ok(())
        };
        if let Err(error) = io.fs(measure).await {
            tracing::debug!(%error, "the volume is measured the next time");
        }
        if self.shared.allowed().is_err() {
            // After a disk error nothing is unlinked.
            return;
        }
        if self.shared.cached.over_bytes() > 0 {
            // The keeper keeps to the budget whenever it is woken.
            self.evict(0).await;
        }
        let expired = self.shared.sessions.take_expired(self.shared.settings.upload_expiry);
        for some in chunks(expired) {
            if let Err(error) = self.shared.remove(io, some).await {
                tracing::warn!(%error, "expired uploads were not removed; it is tried again");
            }
        }
    }
}

impl Shared {
    fn allowed(&self) -> Result<(), Problem> {
        match self.writes.refused() {
            None => Ok(()),
            Some(refusal) => Err(Problem::WritesRefused { why: refusal.why() }),
        }
    }

    fn suspect(&self, digest: &Digest, epoch: Epoch) {
        self.suspects.add(digest, || self.names.holds(self.names.of_digest(digest), epoch));
    }

    /// Has a file get the digest's name by `link`, which says whether it was free. By the keeper alone.
    fn giving(&self, digest: &Digest, link: impl FnOnce() -> io::Result<bool>) -> io::Result<bool> {
        self.given.revoking(&mut vec![self.given.of_digest(digest)], || {
            let is_ours = link()?;
            if is_ours {
                self.suspects.clear(digest);
            }
            Ok(is_ours)
        })
    }

    /// Has a file take the place of another one by `rename`. By the keeper alone.
    fn replacing(&self, digest: &Digest, rename: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        self.names.revoking(&mut vec![self.names.of_digest(digest)], || {
            self.giving(digest, || rename().map(|()| true)).map(drop)
        })
    }

    fn room_for(&self, more_bytes: u64) -> Result<(), Problem> {
        self.room_beside(more_bytes, self.promised_bytes.load(Ordering::Relaxed))
    }

    fn room_beside(&self, more_bytes: u64, promised_bytes: u64) -> Result<(), Problem> {
        self.allowed()?;
        let (free, reserve) = self.free_and_reserve().map_err(|error| problem_of(&error))?;
        // Not even one byte more is no room for anything, however short the upload will be.
        if free.saturating_sub(reserve).saturating_sub(promised_bytes) < more_bytes.max(1) {
            return Err(Problem::DiskFull);
        }
        Ok(())
    }

    fn free_and_reserve(&self) -> io::Result<(u64, u64)> {
        let space = self.fs.space()?;
        Ok((space.free_bytes, reserve_bytes(self.settings.reserve_bytes_min, space.total_bytes)))
    }

    /// Removes sessions that were taken out of the table. Goes on if the future is dropped. A pool that is full
    /// is [`io::ErrorKind::WouldBlock`], and nothing happened to them.
    async fn remove(self: &Arc<Shared>, io: &Io, sessions: Vec<Open>) -> io::Result<()> {
        let leaving = Leaving { shared: self.clone(), sessions };
        io.fs(move |fs| leaving.remove(fs)).await
    }
}

/// What of a volume is kept free for metadata and deletes, in bytes.
pub fn reserve_bytes(min_bytes: u64, total_bytes: u64) -> u64 {
    min_bytes.max(total_bytes / 100)
}

/// Whether a sync of the whole volume can be trusted, on this file system and this kernel.
pub fn syncs_whole(filesystem: &str) -> bool {
    matches!(filesystem, "ext4" | "xfs" | "btrfs") && Fs::sync_volume_reports()
}

/// Sessions on their way out. Those that nobody removes, because their job was not taken, go back to the table.
struct Leaving {
    shared: Arc<Shared>,
    sessions: Vec<Open>,
}

impl Leaving {
    fn remove(mut self, fs: &Fs) -> io::Result<()> {
        let mut result = Ok(());
        for open in std::mem::take(&mut self.sessions) {
            let id = open.id;
            drop(open);
            result = result.and(remove_upload(fs, &id));
            self.shared.sessions.forget(&id);
        }
        result
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        self.sessions.drain(..).for_each(|open| self.shared.sessions.insert(Box::new(open)));
    }
}

/// A session's directory and files, with its first record in them.
fn make_session(fs: &Fs, open: &mut Open, boot: &[u8; 16]) -> io::Result<Files> {
    fs.make_directory(&upload_directory(&open.id))?;
    let files =
        Files { data: fs.create(&upload_data(&open.id))?, state: fs.create(&upload_state(&open.id))? };
    let (at, record) = open.next_record(boot, None);
    fs.write_all_at(&files.state, at, &record)?;
    Ok(files)
}

fn chunks(mut all: Vec<Open>) -> impl Iterator<Item = Vec<Open>> {
    std::iter::from_fn(move || {
        let some = all.split_off(all.len().saturating_sub(EXPIRED_A_JOB));
        (!some.is_empty()).then_some(some)
    })
}

const OVERLOADED: Problem = Problem::Overloaded { retry_after_s: 1 };

/// What a client is told of a failed call that was no sync.
fn problem_of(error: &io::Error) -> Problem {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Problem::DiskFull,
        io::ErrorKind::WouldBlock => OVERLOADED,
        kind => {
            tracing::error!(%error, ?kind, "the store");
            Problem::Internal
        }
    }
}

const UPLOADS: &str = "uploads";

fn blob_directory(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::Sha256 => "blobs/sha256",
        Algorithm::Sha512 => "blobs/sha512",
        Algorithm::Blake3 => "blobs/blake3",
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("{}/{}", blob_directory(digest.algorithm()), digest.hex(&mut [0; 128]))
}

fn upload_directory(id: &UploadId) -> String {
    format!("{UPLOADS}/{id}")
}

fn upload_data(id: &UploadId) -> String {
    format!("{UPLOADS}/{id}/data")
}

fn upload_state(id: &UploadId) -> String {
    format!("{UPLOADS}/{id}/state")
}
