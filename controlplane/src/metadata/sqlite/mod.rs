//! Metadata in one SQLite file: a thread that writes, a few connections that read.
//!
//! Owns: `control.db` with its write-ahead log.
//! Invariants: write-ahead logging with a sync at every COMMIT; only the writer checkpoints, and closing a
//! connection never does. The file is opened by one process, which the lock of the data directory sees to.
//! Every connection is opened at start: none is opened after a COMMIT failed, when opening would recover
//! a log of which nobody knows the end.

mod batch;
mod changes;
mod columns;
mod faults;
mod inventory;
mod migrations;
mod mirrored;
mod readers;
mod reads;
mod sources;
mod touches;
mod wal;
mod writer;

use std::fmt;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use control::{CommitFailed, Document, Epochs, Link, PushedBlob, Refusal, Writes};
use oci::{Digest, Problem, Reference, RepositoryName, Tag};
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags};
use tokio::sync::oneshot;

use super::{
    DeleteManifest, Keep, Kept, KeptTag, Listed, Metadata, Mirrored, Mount, NewManifest, Page, Referrers,
    ReferrersQuery, Source, Standing,
};
use crate::limits;
use crate::metrics::Metrics;
use crate::mirror::{MirrorError, Names};
use batch::{Told, Wish};
pub use faults::{CommitFault, Faults};
use readers::Readers;
use touches::{Noted, Touch, Touches};
use writer::{Writer, refused};

/// Its name in the data directory.
pub(crate) const FILE: &str = "control.db";

/// The oldest SQLite whose write-ahead log may be trusted with a checkpoint beside a commit.
const SQLITE_AT_LEAST: i32 = 3_051_003;

/// Why the metadata could not be opened.
#[derive(Debug)]
pub enum OpenError {
    /// A newer Gantry has changed the tables: this one can't tell what they mean.
    TooNew {
        /// Migrations that the file has seen.
        file: usize,
        /// Migrations that this binary knows.
        binary: usize,
    },
    /// The file is no metadata of ours.
    NotOurs,
    /// The volume has no shared memory for a write-ahead log, as some network file systems.
    NoWriteAheadLog,
    /// The SQLite that is linked in is too old.
    SqliteTooOld,
    /// What was pushed here has a name that an upstream's repositories have now.
    PrefixTaken {
        /// The prefix of that upstream.
        prefix: String,
        /// One repository below it.
        repository: String,
    },
    /// There can't be such a mirror.
    Mirror(MirrorError),
    /// SQLite could not open, read or migrate the file.
    Sqlite(rusqlite::Error),
    /// The data directory could not be synced, or the writer's thread not be started.
    Io(std::io::Error),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::TooNew { file, binary } => write!(
                f,
                "{FILE} was written by a newer gantry (it has seen {file} migrations, this binary knows \
                 {binary}): run that version, or restore a backup made before the upgrade"
            ),
            OpenError::NotOurs => write!(f, "{FILE} is not a metadata file of gantry"),
            OpenError::NoWriteAheadLog => {
                write!(f, "{FILE} can't have a write-ahead log on this volume: use a local file system")
            }
            OpenError::SqliteTooOld => {
                write!(f, "the linked SQLite is {}, older than 3.51.3", rusqlite::version())
            }
            OpenError::PrefixTaken { prefix, repository } => write!(
                f,
                "`{repository}` was pushed here, and `{prefix}/…` is where an upstream's repositories are now: \
                 give that upstream another `prefix`, since a name can have one source only"
            ),
            OpenError::Mirror(error) => fmt::Display::fmt(error, f),
            OpenError::Sqlite(error) => write!(f, "{FILE} could not be opened: {error}"),
            OpenError::Io(error) => write!(f, "{FILE} could not be made durable: {error}"),
        }
    }
}

impl std::error::Error for OpenError {}

impl From<rusqlite::Error> for OpenError {
    fn from(error: rusqlite::Error) -> OpenError {
        OpenError::Sqlite(error)
    }
}

impl From<std::io::Error> for OpenError {
    fn from(error: std::io::Error) -> OpenError {
        OpenError::Io(error)
    }
}

/// The metadata of one data directory.
pub(crate) struct Sqlite {
    readers: Arc<Readers>,
    touches: Arc<Touches>,
    writes: Arc<Writes>,
    metrics: Arc<Metrics>,
    wishes: SyncSender<Wish>,
    opened_at: i64,
}

/// What ends when the writer has.
pub(crate) struct WriterThread(JoinHandle<()>);

impl WriterThread {
    /// Waits for the last batch and checkpoint; the [`Sqlite`] was dropped before.
    pub(crate) fn join(self) {
        if self.0.join().is_err() {
            tracing::error!("the metadata writer panicked");
        }
    }
}

impl Sqlite {
    /// Opens or makes the file in `dir`, which exists, and starts the writer.
    pub(crate) fn open(
        dir: &Path,
        writes: Arc<Writes>,
        epochs: Arc<Epochs>,
        names: Arc<Names>,
        sources: &[Source],
        metrics: Metrics,
        faults: Faults,
    ) -> Result<(Sqlite, WriterThread), OpenError> {
        if rusqlite::version_number() < SQLITE_AT_LEAST {
            return Err(OpenError::SqliteTooOld);
        }
        let path = dir.join(FILE);
        let mut connection =
            connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)?;
        let mode: String =
            connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
        if mode != "wal" {
            return Err(OpenError::NoWriteAheadLog);
        }
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update(None, "foreign_keys", true)?;
        migrations::run(&mut connection)?;
        for prefix in names.prefixes() {
            if let Some(repository) = mirrored::local_below(&connection, prefix)? {
                return Err(OpenError::PrefixTaken { prefix: prefix.to_owned(), repository });
            }
        }
        sources::settle(&mut connection, sources)?;
        let now = connection.query_row("SELECT at FROM clock WHERE id = 0", [], |row| row.get(0))?;
        let opened_at = writer::wall_clock_ms().max(now);
        let page_bytes = connection.query_row("PRAGMA page_size", [], |row| row.get(0))?;
        File::open(dir)?.sync_all()?;

        let wal_pages = Arc::new(AtomicU64::new(0));
        let hooked = Arc::clone(&wal_pages);
        connection.wal_hook(Some(move |_wal: &mut rusqlite::hooks::Wal, pages| {
            hooked.store(u64::try_from(pages).unwrap_or(0), Ordering::Relaxed);
            Ok(())
        }))?;
        let readers = (0..limits::READERS)
            .map(|_| {
                let reader = connect(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
                reader.pragma_update(None, "query_only", true)?;
                // Opens the file and the log now; a connection is lazy until it first reads.
                reader.query_row("SELECT at FROM clock", [], |row| row.get::<_, i64>(0))?;
                Ok(reader)
            })
            .collect::<Result<Vec<Connection>, OpenError>>()?;

        let (wishes, inbox) = sync_channel(limits::CHANGES_WAITING);
        let touches = Arc::new(Touches::default());
        let metrics = Arc::new(metrics);
        let writer = Writer {
            connection,
            inbox,
            touches: Arc::clone(&touches),
            epochs,
            names,
            writes: Arc::clone(&writes),
            metrics: Arc::clone(&metrics),
            faults,
            wal_path: dir.join(format!("{FILE}-wal")),
            wal_pages,
            page_bytes,
            now,
            checkpoint_at_bytes: limits::WAL_CHECKPOINT_BYTES,
        };
        let thread =
            std::thread::Builder::new().name("metadata".to_owned()).spawn(move || writer::run(writer))?;
        let readers = Arc::new(Readers::new(readers));
        let sqlite = Sqlite { readers, touches, writes, metrics, wishes, opened_at };
        Ok((sqlite, WriterThread(thread)))
    }

    /// The writer's counters.
    pub(crate) fn metrics(&self) -> Arc<Metrics> {
        Arc::clone(&self.metrics)
    }

    /// When it was opened, in milliseconds of the clock that never goes back.
    pub(crate) fn opened_at(&self) -> i64 {
        self.opened_at
    }

    /// [`Metadata::home`] on the calling thread, which may block.
    pub(crate) fn home_blocking(&self, digests: &[Digest]) -> Result<Vec<Option<u64>>, Problem> {
        self.readers.read_blocking(|connection| reads::home(connection, digests))
    }

    /// A link was asked for.
    fn touch(&self, touch: Touch) {
        if self.touches.note(touch) == Noted::WakeWriter {
            // A writer that can't be woken has a batch waiting, or nothing to write any more.
            let _taken_along = self.wish(Wish::Touches);
        }
    }

    fn wish(&self, wish: Wish) -> Result<(), Problem> {
        if self.writes.refused().is_some() {
            return Err(refused(&self.writes));
        }
        self.wishes.try_send(wish).map_err(|error| match error {
            TrySendError::Full(_) => Problem::Overloaded { retry_after_s: 1 },
            TrySendError::Disconnected(_) => self.writer_is_gone(),
        })
    }

    /// A thread that panicked left nobody who knows what was committed.
    fn writer_is_gone(&self) -> Problem {
        self.writes.refuse(Refusal::CommitFailed);
        refused(&self.writes)
    }

    async fn change<T>(&self, wish: impl FnOnce(Told<Result<T, Problem>>) -> Wish) -> Result<T, Problem> {
        let (told, result) = oneshot::channel();
        self.wish(wish(told))?;
        result.await.unwrap_or_else(|_dropped| Err(self.writer_is_gone()))
    }
}

fn connect(path: &Path, flags: OpenFlags) -> Result<Connection, OpenError> {
    let connection = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(limits::LOCK_WAIT)?;
    connection.set_prepared_statement_cache_capacity(64);
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
    connection.pragma_update(None, "wal_autocheckpoint", 0)?;
    connection.pragma_update(None, "cache_size", -limits::CACHE_KIB)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(connection)
}

impl Metadata for Sqlite {
    async fn link(&self, repository: RepositoryName, digest: Digest) -> Result<Option<Link>, Problem> {
        let found =
            self.readers.read(move |connection| reads::link(connection, &repository, &digest)).await?;
        let Some((touch, size_bytes)) = found else { return Ok(None) };
        self.touch(touch);
        Ok(Some(Link::Here { size_bytes }))
    }

    async fn manifest(
        &self,
        repository: RepositoryName,
        reference: Reference,
    ) -> Result<Option<Document>, Problem> {
        self.readers.read(move |connection| reads::manifest(connection, &repository, &reference)).await
    }

    async fn home(&self, digests: Vec<Digest>) -> Result<Vec<Option<u64>>, Problem> {
        self.readers.read(move |connection| reads::home(connection, &digests)).await
    }

    async fn home_after(&self, after: Option<Digest>, most: u32) -> Result<Vec<(Digest, u64)>, Problem> {
        self.readers.read(move |connection| reads::home_after(connection, after, most)).await
    }

    async fn tags(&self, repository: RepositoryName, page: Page) -> Result<Option<Listed>, Problem> {
        self.readers.read(move |connection| reads::tags(connection, &repository, &page)).await
    }

    async fn repositories(&self, page: Page) -> Result<Listed, Problem> {
        self.readers.read(move |connection| reads::repositories(connection, &page)).await
    }

    async fn referrers(&self, query: ReferrersQuery) -> Result<Referrers, Problem> {
        self.readers.read(move |connection| reads::referrers(connection, &query)).await
    }

    async fn commit(&self, batch: Vec<PushedBlob>) -> Result<Vec<Result<(), Problem>>, CommitFailed> {
        let members = batch.len();
        let (told, result) = oneshot::channel();
        match self.wish(Wish::Push(batch, told)) {
            Ok(()) => result.await.unwrap_or_else(|_dropped| {
                self.writer_is_gone();
                Err(CommitFailed)
            }),
            Err(problem) => Ok(vec![Err(problem); members]),
        }
    }

    async fn mountable(&self, mount: Mount) -> Result<Option<Link>, Problem> {
        let size_bytes = self.readers.read(move |connection| reads::mountable(connection, &mount)).await?;
        Ok(size_bytes.map(|size_bytes| Link::Here { size_bytes }))
    }

    async fn mount(&self, mount: Mount) -> Result<bool, Problem> {
        self.change(|told| Wish::Mount(Box::new(mount), told)).await
    }

    async fn put_manifest(&self, manifest: Box<NewManifest>) -> Result<(), Problem> {
        self.change(|told| Wish::Put(manifest, told)).await
    }

    async fn delete_manifest(&self, delete: Box<DeleteManifest>) -> Result<(), Problem> {
        self.change(|told| Wish::DeleteManifest(delete, told)).await
    }

    async fn delete_blob(&self, repository: RepositoryName, digest: Digest) -> Result<(), Problem> {
        self.change(|told| Wish::DeleteBlob(Box::new((repository, digest)), told)).await
    }
}

impl Mirrored for Sqlite {
    async fn is_local(&self, name: RepositoryName) -> Result<bool, Problem> {
        self.readers.read(move |connection| mirrored::is_local(connection, &name)).await
    }

    async fn claim(&self, name: RepositoryName) -> Result<(), Problem> {
        self.change(|told| Wish::Claim(Box::new(name), told)).await
    }

    async fn is_mirrored(&self, repository: RepositoryName) -> Result<bool, Problem> {
        self.readers.read(move |connection| mirrored::is_mirrored(connection, &repository)).await
    }

    async fn mirrored_manifest(
        &self,
        repository: RepositoryName,
        digest: Digest,
    ) -> Result<Option<Kept>, Problem> {
        self.readers.read(move |connection| mirrored::manifest(connection, &repository, &digest)).await
    }

    async fn mirrored_tag(&self, repository: RepositoryName, tag: Tag) -> Result<Option<KeptTag>, Problem> {
        self.readers.read(move |connection| mirrored::tag(connection, &repository, &tag)).await
    }

    async fn standing(
        &self,
        bare: Option<RepositoryName>,
        repository: RepositoryName,
        digest: Digest,
    ) -> Result<Standing, Problem> {
        let read = move |connection: &Connection| {
            mirrored::standing(connection, bare.as_ref(), &repository, &digest)
        };
        let (standing, touch) = self.readers.read(read).await?;
        touch.into_iter().for_each(|touch| self.touch(touch));
        Ok(standing)
    }

    async fn mirrored_tags(&self, repository: RepositoryName, page: Page) -> Result<Option<Listed>, Problem> {
        self.readers.read(move |connection| mirrored::tags(connection, &repository, &page)).await
    }

    async fn mirrored_repositories(&self, page: Page) -> Result<Listed, Problem> {
        self.readers.read(move |connection| inventory::repositories(connection, &page)).await
    }

    async fn mirrored_targets(
        &self,
        repository: RepositoryName,
        after: Option<Digest>,
        most: u32,
    ) -> Result<Vec<Digest>, Problem> {
        self.readers.read(move |connection| inventory::targets(connection, &repository, after, most)).await
    }

    async fn named_by(&self, digests: Vec<Digest>, most: u32) -> Result<Vec<Vec<String>>, Problem> {
        self.readers.read(move |connection| inventory::named_by(connection, &digests, most)).await
    }

    async fn forget(&self, repository: RepositoryName) -> Result<Option<Vec<Digest>>, Problem> {
        self.change(|told| Wish::Forget(Box::new(repository), told)).await
    }

    fn pins_blocking(&self) -> Result<Vec<String>, Problem> {
        self.readers.read_blocking(inventory::pins)
    }

    async fn keep(&self, keep: Box<Keep>) -> Result<bool, Problem> {
        self.change(|told| Wish::Keep(keep, told)).await
    }
}
