//! Blobs of upstreams: which of them are here, what they may take of the volume, and which goes for another.
//!
//! A digest is in one of five states, of which two parts of the store know: *home* is a row of the metadata; *filling* is
//! an entry of the table of fills; *cached* and *evicting* are places in the index here; *absent* is none of these. One
//! thread changes the names under `blobs/`, so a commit never meets an eviction half way: it finds the name, and the blob
//! becomes home with its row, or it does not, and links its own file.
//!
//! Invariants: only what is cached is evicted, and only after the metadata has said that it is not home. Bytes count until
//! the file has neither a name nor an open descriptor.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use control::Control;
use oci::{Digest, Problem};

use super::{Filled, Shared, blob_path};
use crate::{
    cache::{Budget, Found, Index, Item, Lease, Leases, Loaded, Log, NoRoom, Place, Refused, Unwritten},
    io::{Fs, unix_time},
};

/// What the blobs of upstreams may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CacheSize {
    /// So many bytes.
    Bytes(u64),
    /// So much of the volume in percent, as far as it is for us to use, less what is on it that is no such blob.
    Percent(u8),
}

impl CacheSize {
    /// Nothing is cached: there are no upstreams.
    pub const NONE: CacheSize = CacheSize::Bytes(0);
}

/// What went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evicted {
    /// Bytes that came back at once.
    pub freed_bytes: u64,
    /// Bytes that come back when who has them open closes them: a core that only kept the file does so now, a reader
    /// when it is done.
    pub busy_bytes: u64,
}

/// Told of a digest whose open file is to be closed.
type Forget = Box<dyn Fn(&Digest) + Send + Sync>;

/// The books of the cache. A mutex, because every core opens cached blobs; it is held for a look-up, and never for a hit
/// on a file that a core has open.
pub(super) struct Cached {
    books: Mutex<Books>,
    budget: Arc<Budget>,
    size: CacheSize,
    forget: OnceLock<Forget>,
    /// The index was damaged: what it has lost lies under `blobs/`, and nobody counts it yet.
    is_lossy: AtomicBool,
}

struct Books {
    index: Index,
    leases: Leases,
    /// A registry that caches nothing, and never did, writes no index.
    is_used: bool,
}

impl Cached {
    /// Reads the index. Blocks; for the start.
    pub(super) fn open(fs: &Fs, size: CacheSize) -> io::Result<(Cached, Log)> {
        let opened = Log::open(fs, 0)?;
        let budget = Budget::new(0);
        budget.charge(opened.index.policy().cached_bytes());
        let is_used = size != CacheSize::NONE || opened.loaded != Loaded::Fresh;
        let is_lossy = matches!(opened.loaded, Loaded::Cut { .. } | Loaded::Rebuild);
        if is_lossy {
            tracing::warn!(
                loaded = ?opened.loaded,
                "the cache's index is damaged: it is made again of what lies under blobs/, and what is asked for until then \
                 is passed through"
            );
        }
        let books = Books { index: opened.index, leases: Leases::new(budget.clone()), is_used };
        let (books, is_lossy) = (Mutex::new(books), AtomicBool::new(is_lossy));
        let cached = Cached { books, budget, size, forget: OnceLock::new(), is_lossy };
        cached.measure(fs)?;
        Ok((cached, opened.log))
    }

    /// Whether there may be cached blobs that nobody counts.
    pub(super) fn is_lossy(&self) -> bool {
        self.is_lossy.load(Ordering::Acquire)
    }

    /// All that lies under `blobs/` was looked at since the start, and what nobody knew was adopted, but for what may be of a
    /// commit.
    pub(super) fn rebuilt(&self, fs: &Fs) {
        let blobs = {
            let mut books = self.books();
            books.index.rebuilt();
            books.index.policy().len()
        };
        // The budget is right before anything is kept by it.
        if let Err(error) = self.measure_as(fs, false) {
            tracing::warn!(%error, "the volume can't be measured; the cache's budget stays");
        }
        self.is_lossy.store(false, Ordering::Release);
        tracing::info!(blobs, "the cache's index is whole again");
    }

    /// Brings the budget up to what the volume has now.
    pub(super) fn measure(&self, fs: &Fs) -> io::Result<()> {
        self.measure_as(fs, self.is_lossy())
    }

    /// While not all that is cached is known, nothing of the volume is taken for somebody else's.
    fn measure_as(&self, fs: &Fs, is_lossy: bool) -> io::Result<()> {
        let max_bytes = match self.size {
            CacheSize::Bytes(bytes) => bytes,
            CacheSize::Percent(percent) => {
                let space = fs.space()?;
                let others = space.used_bytes.saturating_sub(self.budget.used_bytes());
                let ours_to_use = space.used_bytes + space.free_bytes;
                (ours_to_use / 100 * u64::from(percent)).saturating_sub(if is_lossy { 0 } else { others })
            }
        };
        self.budget.set_max_bytes(max_bytes);
        self.books().index.set_max_bytes(max_bytes);
        Ok(())
    }

    /// What cached blobs have more than the budget. What runs or is read beside them makes room for itself, or gives it
    /// back. Nothing goes before it is known what is here.
    pub(super) fn over_bytes(&self) -> u64 {
        if self.is_lossy() {
            return 0;
        }
        self.books().index.policy().cached_bytes().saturating_sub(self.budget.max_bytes())
    }

    pub(super) fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// Who is to be told of a digest that loses its name.
    pub(super) fn on_forget(&self, forget: Forget) {
        // There is one, from the start on.
        let _ = self.forget.set(forget);
    }

    /// A cached blob is about to be opened: what keeps its bytes counted while it is, and how long it is. `None`: it is not
    /// cached, so nobody counts it.
    pub(super) fn lease(&self, digest: &Digest) -> Option<(Arc<Lease>, u64)> {
        let mut books = self.books();
        let item = books.index.get(digest).filter(|item| item.place != Place::Filling)?;
        books.index.touch(digest);
        Some((books.leases.open(digest, item.size_bytes), item.size_bytes))
    }

    /// These were of use to somebody, each once.
    pub(super) fn touch(&self, digests: &[Digest]) {
        let mut books = self.books();
        for digest in digests {
            // One that is not here any more is of no use.
            let _ = books.index.touch(digest);
        }
    }

    /// What was filled has its name now.
    pub(super) fn named(&self, filled: &Filled) {
        let Filled { digest, size_bytes, upstream, lease, is_pinned, .. } = filled;
        let mut books = self.books();
        let now_unix = u32::try_from(unix_time()).unwrap_or(u32::MAX);
        if books.index.insert(digest, *size_bytes, now_unix, *upstream).is_ok() {
            books.leases.linked(digest, lease);
            if *is_pinned {
                books.index.keep(digest, true);
            }
        }
    }

    /// What was filled has taken the place of a file that could not be read. If that was none of the cache's, this is
    /// neither: what is home stays home.
    pub(super) fn renamed(&self, filled: &Filled) {
        let was_cached = {
            let mut books = self.books();
            let item = books.index.get(&filled.digest).filter(|item| item.place != Place::Filling);
            if let Some(item) = &item {
                books.index.remove(&filled.digest);
                books.leases.unlinked(&filled.digest, item.size_bytes);
            }
            item.is_some()
        };
        if was_cached {
            self.named(filled);
        }
    }

    /// A file that is no row's and of no commit: a cached blob, which the index may have lost. `false`: nothing is cached here,
    /// or there is no place for it.
    pub(super) fn adopt(&self, digest: Digest, size_bytes: u64, changed_unix: u64) -> bool {
        let mut books = self.books();
        if !books.is_used {
            return false;
        }
        // A time in the future is that of a clock that was set back.
        let came_unix = u32::try_from(changed_unix.min(unix_time())).unwrap_or(u32::MAX);
        match books.index.adopt(&Found { digest, size_bytes, came_unix }) {
            Ok(()) => self.budget.charge(size_bytes),
            Err(refused) => return refused == Refused::Known,
        }
        drop(books);
        // Whoever has it open without a lease opens it anew.
        if let Some(forget) = self.forget.get() {
            forget(&digest);
        }
        true
    }

    /// A fill takes part in what goes first, or does no longer.
    pub(super) fn filling(&self, digest: &Digest, size_bytes: Option<u64>) {
        let mut books = self.books();
        match size_bytes {
            // One that is here already, or has no place, takes no part.
            Some(size_bytes) => drop(books.index.fill(digest, size_bytes)),
            None if books.index.get(digest).is_some_and(|item| item.place == Place::Filling) => {
                books.index.remove(digest);
            }
            None => {}
        }
    }

    /// It was pushed: its bytes are not the cache's any more.
    pub(super) fn became_home(&self, digest: &Digest) {
        let mut books = self.books();
        if books.index.get(digest).is_some_and(|item| item.place != Place::Filling)
            && let Some(item) = books.index.remove(digest)
        {
            books.leases.became_home(digest, item.size_bytes);
        }
    }

    /// Its name is gone.
    fn gone(&self, digest: &Digest) -> Option<Item> {
        let mut books = self.books();
        let item = books.index.remove(digest)?;
        books.leases.unlinked(digest, item.size_bytes);
        Some(item)
    }

    /// The name that this lease was given for was not found. If the keeper has not taken it away, and given it to another
    /// file since, the index is wrong about it.
    pub(super) fn missing(&self, digest: &Digest, lease: &Arc<Lease>) {
        let mut books = self.books();
        let is_here = |item: &Item| matches!(item.place, Place::Small | Place::Main | Place::Kept);
        if books.leases.is_of(digest, lease)
            && books.index.get(digest).as_ref().is_some_and(is_here)
            && let Some(item) = books.index.remove(digest)
        {
            books.leases.unlinked(digest, item.size_bytes);
        }
    }

    /// Whether the index has it, in whatever place.
    pub(super) fn knows(&self, digest: &Digest) -> bool {
        self.books().index.get(digest).is_some()
    }

    /// What the index has of it.
    pub(super) fn item(&self, digest: &Digest) -> Option<Item> {
        self.books().index.get(digest)
    }

    /// See [`crate::cache::Policy::page`].
    pub(super) fn page(&self, after: u64, most: usize) -> (Vec<Item>, Option<u64>) {
        self.books().index.policy().page(after, most)
    }

    /// Number and bytes of what is here whole, of what is pinned of it, and of fills.
    pub(super) fn sums(&self) -> [(u64, u64); 3] {
        let books = self.books();
        let policy = books.index.policy();
        let [kept, filling] = [Place::Kept, Place::Filling].map(|place| policy.sum(place));
        [(policy.len() as u64 - filling.0, policy.cached_bytes()), kept, filling]
    }

    /// Has these stay, or no longer. Gives how many of them are here whole.
    pub(super) fn keep(&self, digests: &[Digest], keep: bool) -> u64 {
        let mut books = self.books();
        digests.iter().filter(|digest| books.index.keep(digest, keep)).count() as u64
    }

    /// A lease of nothing yet.
    pub(super) fn new_lease(&self) -> Result<Arc<Lease>, NoRoom> {
        self.budget.reserve(0).map(Arc::new)
    }

    /// What `log` does not have yet. A damaged index is what says that it has to be made again, so it stays until it was.
    pub(super) fn unwritten(&self, log: &Log) -> Unwritten {
        let mut books = self.books();
        if books.is_used && !self.is_lossy() { books.index.unwritten(log) } else { Unwritten::Nothing }
    }

    /// All there is, with the order and the uses, which no journal has.
    pub(super) fn last_words(&self) -> Unwritten {
        let mut books = self.books();
        if books.is_used && !self.is_lossy() { books.index.snapshot() } else { Unwritten::Nothing }
    }

    /// Entries and their bytes, for the metrics.
    pub(super) fn entries(&self) -> (u64, u64) {
        let books = self.books();
        (books.index.policy().len() as u64, books.index.policy().cached_bytes())
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    /// Brings the cache's budget up to what the volume has now: what was pushed is taken off it. One call of the system.
    pub(super) fn measure(&self) {
        if let Err(error) = self.cached.measure(&self.fs) {
            tracing::warn!(%error, "the volume can't be measured; the cache's budget stays");
        }
    }

    /// Has cached blobs go that the budget has no room for any more. By the keeper alone.
    pub(super) fn keep_to_budget(&self, control: &Control) {
        let over_bytes = self.cached.over_bytes();
        if over_bytes > 0 && self.allowed().is_ok() {
            self.evict(control, over_bytes);
        }
    }

    /// Takes names away until so many bytes will have come back, or nothing is left that may go. By the keeper alone.
    pub(super) fn evict(&self, control: &Control, wanted_bytes: u64) -> Evicted {
        let Evicted { mut freed_bytes, mut busy_bytes } = Evicted::default();
        while freed_bytes + busy_bytes < wanted_bytes {
            let chosen = {
                let Books { index, leases, .. } = &mut *self.cached.books();
                let victim = index.victim(&mut |digest| leases.is_read(digest));
                victim.map(|victim| (victim, leases.is_open(&victim.digest)))
            };
            let Some((victim, is_open)) = chosen else { break };
            match self.evict_one(control, &victim.digest) {
                Ok(true) if is_open => busy_bytes += victim.size_bytes,
                Ok(true) => freed_bytes += victim.size_bytes,
                Ok(false) => {}
                Err(problem) => {
                    tracing::warn!(digest = %victim.digest, why = problem.message(), "a blob was not evicted");
                    self.cached.books().index.spare(&victim.digest);
                    break;
                }
            }
        }
        Evicted { freed_bytes, busy_bytes }
    }

    /// `false`: it is home, and stays.
    fn evict_one(&self, control: &Control, digest: &Digest) -> Result<bool, Problem> {
        let Some(item) = self.unname(control, digest)? else { return Ok(false) };
        let age_s = unix_time().saturating_sub(u64::from(item.came_unix));
        self.counters.evictions.note(item.upstream, age_s);
        Ok(true)
    }

    /// `false`: it is home, and stays. By the keeper alone.
    pub(super) fn purge_one(&self, control: &Control, digest: &Digest) -> Result<bool, Problem> {
        self.unname(control, digest).map(|item| item.is_some())
    }

    /// Takes the name of a cached blob away. `None`: it is home, or was not cached any more.
    fn unname(&self, control: &Control, digest: &Digest) -> Result<Option<Item>, Problem> {
        if control.home_blocking(vec![*digest])?.first().copied().flatten().is_some() {
            self.cached.became_home(digest);
            return Ok(None);
        }
        let unlinked = self
            .names
            .revoking(&mut vec![self.names.of_digest(digest)], || self.fs.unlink(&blob_path(digest)));
        unlinked.map_err(|error| super::problem_of(&error))?;
        let item = self.cached.gone(digest);
        if let Some(forget) = self.cached.forget.get() {
            forget(digest);
        }
        Ok(item)
    }
}
