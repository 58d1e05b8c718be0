//! Fills: blobs that are not here yet, on their way from an origin to a file and to everybody who waits for them.
//!
//! ```text
//! reader ──join──► Fills: digest → Fill ◄──publishes── run: fetch → hash and write → verify → keeper
//!    └── sends the file up to the frontier, and the end of its answer once all was verified
//! ```
//!
//! Owns: the table of fills, their files under `fills/`, and what their readers may send.
//!
//! Invariants: one fill per digest in the process, which belongs to nobody: no reader's leaving or slowness reaches
//! it. Who has taken a fill's [`Ingest`] out is the only one to write to it. No answer is complete before its bytes were
//! verified; one that was not is cut. A digest gets its name under `blobs/` only after the sync of its bytes.

mod counters;
mod files;
mod reader;
mod run;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use control::{Control, Origin};
use oci::{Digest, Namespaces, Problem};
use tokio::sync::watch;

pub use counters::FillCounters;
pub use files::{FILLS, FillFiles, FillId};
pub use reader::{Reader, Ready};

use files::Left;
use run::Ingest;

use crate::{
    io::{Fs, Io},
    limits::FILLS_MAX,
    store::Store,
};

/// All fills of the process, by digest. A mutex, because any core may be asked for any blob; it is held for a look-up,
/// once for each miss.
pub struct Fills {
    table: Mutex<HashMap<Digest, Arc<Fill>>>,
    counters: Box<[FillCounters]>,
}

/// One fill. What is in it is seen by all who wait for it.
pub struct Fill {
    digest: Digest,
    progress: watch::Sender<Progress>,
    readers: AtomicUsize,
    /// Nobody runs it while this is here.
    idle: Mutex<Option<Box<Ingest>>>,
    files: OnceLock<FillFiles>,
    size_bytes: OnceLock<u64>,
    failure: OnceLock<Problem>,
}

/// How far a fill is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Progress {
    /// Bytes from the start that are hashed and in the file.
    frontier: u64,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// The origin has not answered yet, or nobody wants it any more.
    Waiting,
    /// Bytes arrive.
    Running,
    /// All are there, and are those of the digest.
    Verified,
    /// The blob had come before this was begun: it has its name.
    Here,
    /// Its bytes can't be used. Another fill of the same digest may be.
    Again,
    /// It can't be had; see `failure`.
    Failed,
}

/// What a fill is run with: what the core that began it has.
pub struct Runner {
    /// Its world.
    pub io: Io,
    /// Whom it asks for the bytes.
    pub control: Control,
    /// Who takes the blob in the end.
    pub store: Arc<Store>,
    /// Where it is known.
    pub fills: Arc<Fills>,
    /// Where its bytes come from.
    pub origin: Origin,
    /// What was told of its length, in bytes.
    pub size_bytes: Option<u64>,
    /// A blob may be this long, in bytes.
    pub blob_bytes_max: u64,
}

impl Fills {
    /// What earlier processes left in `fs`, and whatever will come. Blocks; for the start.
    pub fn open(fs: &Fs, namespaces: &Namespaces) -> std::io::Result<Fills> {
        let mut table = HashMap::new();
        for left in files::left(fs)? {
            if table.len() == FILLS_MAX {
                FillFiles::remove(fs, left.files.id)?;
            } else {
                table.insert(left.digest, Arc::new(Fill::restored(left)));
            }
        }
        let counters = |ns: &str| FillCounters { ns: ns.into(), ..FillCounters::default() };
        let counters = namespaces.iter().map(|namespace| counters(&namespace.ns)).collect();
        Ok(Fills { table: Mutex::new(table), counters })
    }

    /// What was done, as OpenMetrics text.
    pub fn render_metrics(&self, out: &mut String) {
        counters::render(&self.counters, out);
    }

    /// The counters of one upstream. `None`: there is no such, which nobody who has a link can meet.
    pub fn of(&self, origin: &Origin) -> Option<&FillCounters> {
        self.counters.get(usize::from(origin.upstream))
    }

    /// A blob of this origin was asked for and had its name.
    pub fn hit(&self, origin: &Origin) {
        if let Some(counters) = self.of(origin) {
            counters.hits.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A reader of the fill of `digest`, which is begun or gone on with if nobody runs it.
    ///
    /// Errors: [`Problem::Overloaded`]: too many fills.
    pub fn join(&self, digest: &Digest, runner: Runner) -> Result<Reader, Problem> {
        let counters = self.of(&runner.origin);
        if let Some(counters) = counters {
            counters.misses.fetch_add(1, Ordering::Relaxed);
        }
        let mut table = self.table();
        if !table.contains_key(digest) {
            if table.len() >= FILLS_MAX {
                let idle = table.iter().find(|(_, fill)| fill.is_unwanted()).map(|(digest, _)| *digest);
                let idle = idle.and_then(|digest| table.remove(&digest));
                let Some(idle) = idle else { return Err(Problem::Overloaded { retry_after_s: 1 }) };
                idle.forget(&runner.io);
            }
            table.insert(*digest, Arc::new(Fill::new(*digest)));
        } else if let Some(counters) = counters {
            counters.coalesced.fetch_add(1, Ordering::Relaxed);
        }
        let reader = table.get(digest).map(Reader::of).ok_or(Problem::Internal)?;
        drop(table);
        reader.fill().clone().go_on(runner);
        Ok(reader)
    }

    /// Takes a fill out of the table.
    fn remove(&self, fill: &Arc<Fill>) {
        self.replace(fill, None);
    }

    /// Puts another fill of the same digest in the place of one, unless that has lost it already. Whether it did.
    fn replace(&self, fill: &Arc<Fill>, next: Option<Arc<Fill>>) -> bool {
        let mut table = self.table();
        if !table.get(&fill.digest).is_some_and(|known| Arc::ptr_eq(known, fill)) {
            return false;
        }
        let has_next = next.is_some();
        match next {
            Some(next) => table.insert(fill.digest, next),
            None => table.remove(&fill.digest),
        };
        has_next
    }

    fn table(&self) -> MutexGuard<'_, HashMap<Digest, Arc<Fill>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fill {
    fn new(digest: Digest) -> Fill {
        Fill::idle(digest, Ingest::new(digest.algorithm()))
    }

    fn restored(left: Left) -> Fill {
        let fill =
            Fill::idle(left.digest, Ingest::restored(left.digest.algorithm(), left.chunks, left.records));
        // Both are empty until here.
        let _ = fill.size_bytes.set(left.size_bytes);
        let _ = fill.files.set(left.files);
        fill
    }

    fn idle(digest: Digest, ingest: Ingest) -> Fill {
        Fill {
            digest,
            progress: watch::Sender::new(Progress { frontier: 0, state: State::Waiting }),
            readers: AtomicUsize::new(0),
            idle: Mutex::new(Some(Box::new(ingest))),
            files: OnceLock::new(),
            size_bytes: OnceLock::new(),
            failure: OnceLock::new(),
        }
    }

    /// Runs it on this core, if nobody does.
    fn go_on(self: Arc<Fill>, runner: Runner) {
        let ingest = self.take();
        if let Some(ingest) = ingest {
            runner.io.clone().spawn(run::run(runner, self, ingest));
        }
    }

    fn take(&self) -> Option<Box<Ingest>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put_back(&self, ingest: Box<Ingest>) {
        *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = Some(ingest);
    }

    fn readers(&self) -> usize {
        self.readers.load(Ordering::SeqCst)
    }

    fn is_unwanted(&self) -> bool {
        self.readers() == 0 && self.idle.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn publish(&self, state: State, frontier: u64) {
        self.progress.send_replace(Progress { frontier, state });
    }

    /// Takes its files away. Whoever has them open reads on.
    fn forget(&self, io: &Io) {
        let Some(id) = self.files.get().map(|files| files.id) else { return };
        // What is not removed now is found by the next start.
        drop(io.fs(move |fs| FillFiles::remove(fs, id)));
    }
}
