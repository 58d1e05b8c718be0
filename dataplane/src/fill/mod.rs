//! Fills: blobs that are not here yet, on their way from an origin to a file and to everybody who waits for them.
//!
//! ```text
//! reader ──join──► Fills: digest → Fill ◄──publishes── run: fetch → hash and write → verify → keeper
//!    └── sends the file up to the frontier, and the end of its answer once all was verified
//! ```
//!
//! What has no room goes the same way with a window of memory in the file's place, and is kept by nobody: see `stream`.
//!
//! Owns: the table of fills, their files under `fills/`, and what their readers may send.
//!
//! Invariants: one fill per digest in the process, which belongs to nobody: no reader's leaving or slowness reaches
//! it. Who has taken a fill's [`Ingest`] out is the only one to write to it. No answer is complete before its bytes were
//! verified; one that was not is cut. A digest gets its name under `blobs/` only after the sync of its bytes.

mod ahead;
mod asked;
mod busy;
mod counters;
mod extent;
mod files;
mod givers;
mod memory;
mod pass;
mod positions;
mod reader;
mod room;
mod run;
mod source;
mod stream;
mod window;
mod writer;

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use control::{Control, Origin, UpstreamStat};
use oci::{Digest, Hasher, Namespaces, Problem};
use tokio::sync::{OnceCell, watch};

pub use counters::FillCounters;
pub use files::{FILLS, FillFiles, FillId, Journal, read_journal};
pub use pass::Pass;
pub use reader::{ANOTHER_LENGTH, Advance, Reader, Ready};

use positions::Positions;
use reader::Party;

use ahead::Ahead;
use files::Left;
use givers::Givers;
use memory::{Begun, Sums};
use pass::Passing;
use room::{Units, Waiting};
use run::{End, Ingest};
use stream::{Following, Stream};

use crate::{
    cache::Lease,
    io::{Fs, Io, unix_time},
    limits::{FILLS_MAX, PUSH_ROOM_BYTES},
    mark::Mark,
    running::Pinned,
    store::{Absence, Store},
};

/// All fills of the process, by digest. A mutex, because any core may be asked for any blob; it is held for a look-up,
/// once for each miss.
pub struct Fills {
    table: Mutex<Table>,
    counters: Box<[FillCounters]>,
    /// For each upstream, how many percent of a blob have to be here for it to be completed without a reader.
    complete_percent: Box<[Option<u8>]>,
    passing: Passing,
    /// What all of them have in memory.
    memory: Sums,
    pinned: Pinned,
}

#[derive(Default)]
struct Table {
    fills: HashMap<Digest, Arc<Fill>>,
    /// What had no room, while somebody follows it.
    streams: HashMap<Digest, Arc<Stream>>,
}

/// One fill. What is in it is seen by all who wait for it.
pub struct Fill {
    digest: Digest,
    progress: watch::Sender<Progress>,
    readers: AtomicUsize,
    /// How far the answers of its readers are.
    positions: Positions,
    /// When the last of them left.
    wanted_unix: AtomicU64,
    /// Nobody runs it while this is here.
    idle: Mutex<Option<Box<Ingest>>>,
    /// What is there ahead of the frontier. A mutex, because readers on all cores look and claim; held for a look-up.
    ahead: Mutex<Ahead>,
    /// Whose bytes those are that are here.
    givers: Givers,
    memory: Sums,
    files: OnceCell<FillFiles>,
    /// What it holds of the cache's budget. `None`: it has no files yet.
    lease: OnceLock<Arc<Lease>>,
    /// What it holds of the volume. A mutex, because extents on all cores hold more; for a look-up.
    units: Mutex<Units>,
    size_bytes: OnceLock<u64>,
    /// Records in its journal.
    records: AtomicU64,
    /// What goes on in its place, once there is no room for more of it.
    full: OnceLock<Full>,
    /// Why it was last given up, in whole or in part.
    failure: Mutex<Option<Failure>>,
}

/// Why a fill was given up, and whose answer that was: what one repository denies, another may give, and its words are
/// for those alone who asked it.
#[derive(Clone)]
struct Failure {
    origin: Origin,
    problem: Problem,
}

/// What a fill that has no room leaves to its readers.
struct Full {
    /// The bytes before are in its file, and hash to this.
    start: u64,
    hasher: Hasher,
    /// Brings the others, if that is possible.
    stream: Option<Following>,
}

/// How far a fill is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Progress {
    /// Bytes from the start that are hashed and in the file.
    frontier: u64,
    state: State,
    /// How often its run was given up: who waited for that is told, who comes after it may try again.
    failures: u32,
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
    /// There is no room for more of it: it passes through.
    Full,
    /// It can't be had, and nothing of it is kept.
    Lost,
}

/// What a fill is run with: what the core that began it has.
#[derive(Clone)]
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
    /// When the blob's name was looked for and not found.
    pub absence: Absence,
    /// A blob may be this long, in bytes.
    pub blob_bytes_max: u64,
}

impl Fills {
    /// What earlier processes left in `fs`, and whatever will come. `complete_percent` is for each upstream, in the order
    /// of `namespaces`. Blocks; for the start.
    pub fn open(
        fs: &Fs,
        store: &Store,
        namespaces: &Namespaces,
        complete_percent: Vec<Option<u8>>,
        pinned: Pinned,
    ) -> io::Result<Fills> {
        let mut fills = HashMap::new();
        let memory = Sums::of_all();
        for left in files::left(fs)? {
            let units = left.units();
            let lease = store.new_lease().filter(|_| fills.len() < FILLS_MAX);
            match lease.filter(|lease| lease.grow(units.bytes()).is_ok()) {
                Some(lease) => {
                    let Journal { digest, size_bytes, ref givers, .. } = left.journal;
                    let givers = Givers::marked(givers.iter().copied(), namespaces);
                    store.filling(&digest, Some(size_bytes));
                    fills.insert(
                        digest,
                        Arc::new(Fill::restored(left, units, lease, givers, memory.of_one())),
                    );
                }
                None => FillFiles::remove(fs, left.files.id)?,
            }
        }
        let counters = |ns: &str| FillCounters { ns: ns.into(), ..FillCounters::default() };
        let counters = namespaces.iter().map(|namespace| counters(&namespace.ns)).collect();
        Ok(Fills {
            table: Mutex::new(Table { fills, streams: HashMap::new() }),
            counters,
            complete_percent: complete_percent.into(),
            passing: Passing::default(),
            memory,
            pinned,
        })
    }

    /// What was done, as OpenMetrics text.
    pub fn render_metrics(&self, out: &mut String) {
        let passing = self.passing.memory.held_bytes();
        counters::render(&self.counters, &self.lags(), [self.memory.held_bytes(), passing], out);
    }

    /// What each upstream gave, in the order of the configuration.
    pub fn stat(&self) -> Vec<UpstreamStat> {
        self.counters.iter().map(FillCounters::stat).collect()
    }

    /// For each upstream, how far the slowest answer of a running fill is behind its frontier, in bytes.
    fn lags(&self) -> Vec<u64> {
        let mut lags = vec![0; self.counters.len()];
        for fill in self.table().fills.values() {
            let frontier = fill.progress.borrow().frontier;
            for (upstream, at) in fill.positions.all() {
                if let Some(lag) = lags.get_mut(usize::from(upstream)) {
                    *lag = frontier.saturating_sub(at).max(*lag);
                }
            }
        }
        lags
    }

    /// Whether all bytes of a blob are here, and it has no name yet.
    pub fn is_unnamed(&self, digest: &Digest) -> bool {
        let table = self.table();
        table.fills.get(digest).is_some_and(|fill| fill.progress.borrow().state == State::Verified)
    }

    /// Forgets what is here of a blob that nobody waits for. `false`: there is nothing, or somebody does.
    pub fn forget_idle(&self, digest: &Digest, io: &Io, store: &Store) -> bool {
        let idle = {
            let mut table = self.table();
            let is_idle = table.fills.get(digest).is_some_and(|fill| fill.is_unwanted());
            is_idle.then(|| table.fills.remove(digest)).flatten()
        };
        // What is not removed now is found by the next start.
        idle.inspect(|fill| drop(fill.forget(io, store))).is_some()
    }

    /// The counters of one upstream. `None`: there is no such, which nobody who has a link can meet.
    pub fn of(&self, origin: &Origin) -> Option<&FillCounters> {
        self.counters.get(usize::from(origin.upstream))
    }

    /// What stands for the origin's upstream in files.
    fn mark_of(&self, origin: &Origin) -> Option<Mark> {
        self.of(origin).map(|counters| Mark::of(&counters.ns))
    }

    /// A blob of this origin was asked for and had its name.
    pub fn hit(&self, origin: &Origin) {
        if let Some(counters) = self.of(origin) {
            counters.hits.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A client's reader of the fill of `digest`. Nothing is fetched before it says what it wants.
    ///
    /// Errors: [`Problem::Overloaded`]: too many fills.
    pub fn join(&self, digest: &Digest, runner: Runner) -> Result<Reader, Problem> {
        self.join_as(Party::Client, digest, runner)
    }

    /// A reader for whom no client waits. Errors: as [`Fills::join`].
    pub fn join_behind(&self, digest: &Digest, runner: Runner) -> Result<Reader, Problem> {
        self.join_as(Party::Nobody, digest, runner)
    }

    /// Whether a client waits for bytes of this upstream.
    pub fn has_clients(&self, origin: &Origin) -> bool {
        self.of(origin).is_some_and(|counters| counters.clients.load(Ordering::Relaxed) > 0)
    }

    /// So many bytes of blobs of an upstream were sent to a client.
    pub fn served(&self, upstream: u16, bytes: u64) {
        if let Some(counters) = self.counters.get(usize::from(upstream)) {
            counters.served_bytes.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn join_as(&self, party: Party, digest: &Digest, runner: Runner) -> Result<Reader, Problem> {
        let counters = self.of(&runner.origin);
        let mut table = self.table();
        if let Some(stream) = table.streams.get(digest) {
            count(counters, party, false, true);
            let full = Full {
                start: 0,
                hasher: Hasher::new(digest.algorithm()),
                stream: Some(Following::of(stream)),
            };
            return Ok(Reader::of(
                &Arc::new(Fill::passing(*digest, full, self.memory.of_one())),
                runner,
                party,
            ));
        }
        let is_new = !table.fills.contains_key(digest);
        if is_new {
            if table.fills.len() >= FILLS_MAX {
                let idle = table.take_unwanted().ok_or(Problem::Overloaded { retry_after_s: 1 })?;
                drop(idle.forget(&runner.io, &runner.store));
            }
            table.fills.insert(*digest, Arc::new(Fill::new(*digest, self.memory.of_one())));
        }
        let fill = table.fills.get(digest).ok_or(Problem::Internal)?;
        let reader = Reader::of(fill, runner, party);
        count(counters, party, reader.is_verified(), is_new);
        Ok(reader)
    }

    /// Has a push of `more_bytes` get room on the volume: fills that nobody wants go for it, then what is cached.
    ///
    /// Errors: [`Problem::DiskFull`]: nothing is left that may go; [`Problem::WritesRefused`].
    pub async fn make_room(&self, io: &Io, store: &Store, more_bytes: u64) -> Result<(), Problem> {
        let mut waiting = Waiting::default();
        loop {
            match store.room_for(more_bytes) {
                Err(Problem::DiskFull) => {}
                room => return room,
            }
            let step = more_bytes.max(PUSH_ROOM_BYTES);
            waiting.for_room(self, io, store, step).await.map_err(|_full| Problem::DiskFull)?;
        }
    }

    /// Forgets the fill that nobody has wanted for longest, for its room. Whether there was one.
    async fn forget_unwanted(&self, io: &Io, store: &Store) -> bool {
        let Some(fill) = self.table().take_unwanted() else { return false };
        let removed = fill.forget(io, store);
        drop(fill);
        // What is not removed now is found by the next start.
        let _ = removed.await;
        true
    }

    /// Forgets what nobody has wanted for as long as `age`. To be called now and then, by one core.
    pub async fn expire(&self, io: &Io, store: &Store, age: Duration) {
        let before_unix = unix_time().saturating_sub(age.as_secs());
        loop {
            let Some(fill) = self.table().take_expired(before_unix) else { return };
            tracing::info!(digest = %fill.digest, "a part of a blob that nobody came back for is removed");
            let removed = fill.forget(io, store);
            drop(fill);
            let _ = removed.await;
        }
    }

    /// Whether a blob from there is kept whatever room is lacking.
    fn is_pinned(&self, origin: &Origin) -> bool {
        (self.pinned)(origin)
    }

    /// Takes a fill out of the table, unless another has its place.
    fn remove(&self, fill: &Arc<Fill>) {
        self.table().remove(fill);
    }

    /// A fill passes through from now on: who comes later finds the stream in its place.
    fn turn_into(&self, fill: &Arc<Fill>, stream: &Arc<Stream>) {
        let mut table = self.table();
        table.remove(fill);
        table.streams.insert(fill.digest, stream.clone());
    }

    /// Forgets a stream that nobody follows. `false`: somebody does.
    fn ends(&self, stream: &Arc<Stream>) -> bool {
        let mut table = self.table();
        // Who follows it from now on has looked into the table before.
        if stream.is_followed() {
            return false;
        }
        table.remove_stream(stream);
        true
    }

    fn forget_stream(&self, stream: &Arc<Stream>) {
        self.table().remove_stream(stream);
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A client's request for a blob without a name. One that only waits for its name is here.
fn count(counters: Option<&FillCounters>, party: Party, is_here: bool, is_new: bool) {
    if let (Some(counters), Party::Client) = (counters, party) {
        let counted = if is_here { &counters.hits } else { &counters.misses };
        counted.fetch_add(1, Ordering::Relaxed);
        counters.coalesced.fetch_add(u64::from(!is_new && !is_here), Ordering::Relaxed);
    }
}

impl Table {
    /// The one that nobody has wanted for longest.
    fn take_unwanted(&mut self) -> Option<Arc<Fill>> {
        self.take_expired(u64::MAX)
    }

    /// The same, if nobody has wanted it since then.
    fn take_expired(&mut self, before_unix: u64) -> Option<Arc<Fill>> {
        let unwanted = self.fills.values().filter(|fill| fill.is_unwanted());
        let digest = unwanted.min_by_key(|fill| fill.wanted_unix())?.digest;
        let is_old = self.fills.get(&digest).is_some_and(|fill| fill.wanted_unix() <= before_unix);
        if is_old { self.fills.remove(&digest) } else { None }
    }

    fn remove(&mut self, fill: &Arc<Fill>) {
        if self.fills.get(&fill.digest).is_some_and(|known| Arc::ptr_eq(known, fill)) {
            self.fills.remove(&fill.digest);
        }
    }

    fn remove_stream(&mut self, stream: &Arc<Stream>) {
        if self.streams.get(stream.digest()).is_some_and(|known| Arc::ptr_eq(known, stream)) {
            self.streams.remove(stream.digest());
        }
    }
}

impl Fill {
    fn new(digest: Digest, memory: Sums) -> Fill {
        Fill {
            digest,
            progress: watch::Sender::new(Progress { frontier: 0, state: State::Waiting, failures: 0 }),
            readers: AtomicUsize::new(0),
            positions: Positions::default(),
            wanted_unix: AtomicU64::new(unix_time()),
            idle: Mutex::new(Some(Box::new(Ingest::new(digest.algorithm())))),
            ahead: Mutex::default(),
            givers: Givers::default(),
            memory,
            files: OnceCell::new(),
            lease: OnceLock::new(),
            units: Mutex::default(),
            size_bytes: OnceLock::new(),
            records: AtomicU64::new(0),
            full: OnceLock::new(),
            failure: Mutex::default(),
        }
    }

    /// What a reader gets who comes when a stream is under way.
    fn passing(digest: Digest, full: Full, memory: Sums) -> Fill {
        let fill = Fill { full: OnceLock::from(full), idle: Mutex::default(), ..Fill::new(digest, memory) };
        fill.publish(State::Full, 0);
        fill
    }

    fn restored(left: Left, units: Units, lease: Arc<Lease>, givers: Givers, memory: Sums) -> Fill {
        let Journal { digest, size_bytes, chunks, records, .. } = left.journal;
        left.files.data.keep(lease.clone());
        Fill {
            units: Mutex::new(units),
            lease: OnceLock::from(lease),
            givers,
            ahead: Mutex::new(Ahead::left(chunks)),
            files: OnceCell::new_with(Some(left.files)),
            size_bytes: OnceLock::from(size_bytes),
            records: AtomicU64::new(records),
            wanted_unix: AtomicU64::new(left.written_unix),
            ..Fill::new(digest, memory)
        }
    }

    /// Runs it on this core, if nobody does.
    fn go_on(self: &Arc<Fill>, runner: Runner) {
        self.go_on_with(runner, None);
    }

    /// The same, with an answer that has begun: from the blob's start, whatever was asked. If somebody runs it, that goes.
    fn go_on_with(self: &Arc<Fill>, runner: Runner, answer: Option<Begun>) {
        let ingest = {
            let mut idle = self.idle();
            let state = self.progress.borrow().state;
            if state == State::Waiting { idle.take() } else { None }
        };
        if let Some(mut ingest) = ingest {
            ingest.answer = answer;
            runner.io.clone().spawn(run::run(runner, self.clone(), ingest));
        }
    }

    /// The run ends, unless somebody has come who wants it: then it goes on.
    fn stop(&self, ingest: Box<Ingest>) -> Option<Box<Ingest>> {
        // Who comes later looks behind this lock.
        let mut idle = self.idle();
        if self.readers() > 0 {
            return Some(ingest);
        }
        self.stand(&mut idle, ingest);
        None
    }

    /// The run ends without success. Who waits for it is told why; what is there is kept for who comes next.
    fn fail(&self, runner: &Runner, problem: Problem, ingest: Box<Ingest>) {
        let mut idle = self.idle();
        self.failed(runner, problem);
        self.progress.send_modify(|progress| progress.failures += 1);
        self.stand(&mut idle, ingest);
    }

    /// Nobody runs it any more.
    fn stand(&self, idle: &mut Option<Box<Ingest>>, mut ingest: Box<Ingest>) {
        // An answer that nobody takes would keep its place at the upstream.
        ingest.answer = None;
        self.ahead().run_stops(ingest.tail.offset);
        self.publish(State::Waiting, ingest.tail.offset);
        *idle = Some(ingest);
    }

    /// There is no room for more.
    fn is_full(&self, full: Full) {
        let frontier = full.start;
        // Nobody else says that: whoever does has the ingest.
        let _ = self.full.set(full);
        self.publish(State::Full, frontier);
    }

    /// It is over, and nothing is kept.
    fn give_up(&self, runner: &Runner, problem: Problem) {
        self.failed(runner, problem);
        self.publish(State::Lost, 0);
    }

    /// An extent found no room. If the fill is run, that sees for itself; if not, it passes through from now on.
    fn has_no_room_ahead(self: &Arc<Fill>, runner: &Runner) {
        let idle = self.idle().take();
        match idle {
            Some(ingest) => {
                runner.fills.remove(self);
                drop(self.forget(&runner.io, &runner.store));
                let Ingest { hasher, tail, .. } = *ingest;
                self.is_full(Full { start: tail.offset, hasher, stream: None });
            }
            None => self.ahead().forgo_room(),
        }
    }

    /// A run or an extent of `runner` ended early.
    fn failed(&self, runner: &Runner, problem: Problem) {
        *self.failure() = Some(Failure { origin: runner.origin, problem });
    }

    /// An extent was told that what is there is no good. If the fill is run, that sees for itself.
    async fn is_spoilt_ahead(self: &Arc<Fill>, runner: &Runner) {
        let ingest = self.idle().take();
        if ingest.is_some() {
            runner.fills.remove(self);
            self.disown(runner).await;
            drop(self.forget(&runner.io, &runner.store));
            self.publish(State::Again, 0);
        }
    }

    /// Whether so much is there that it is completed without a reader.
    fn is_to_be_completed(&self, runner: &Runner, there_bytes: u64) -> bool {
        let percent = runner.fills.complete_percent.get(usize::from(runner.origin.upstream));
        let (Some(Some(percent)), Some(size_bytes)) = (percent, self.size_bytes.get()) else { return false };
        u128::from(there_bytes) * 100 >= u128::from(*size_bytes) * u128::from(*percent)
    }

    /// Its files, which are made when its first bytes come, and counted before: whoever has them open shares the lease.
    async fn open_files(&self, runner: &Runner) -> Result<FillFiles, End> {
        let lease = self.lease(runner)?;
        let files = self.files.get_or_try_init(|| async {
            let id = FillId::from_bytes(runner.io.unguessable()?);
            let (digest, size_bytes) = (self.digest, self.size_bytes.get().copied());
            let create = || runner.io.fs(move |fs| FillFiles::create(fs, id, &digest, size_bytes));
            let files = busy::patiently(runner, create).await?;
            files.data.keep(lease);
            Ok(files)
        });
        match files.await {
            Ok(files) => Ok(files.clone()),
            Err(error) if room::is_none(&error) => Err(End::Full),
            Err(error) => Err(error.into()),
        }
    }

    /// Has no later process take its bytes for good, even if its names can't be taken away.
    async fn disown(&self, runner: &Runner) {
        let Some(files) = self.files.get() else { return };
        let disown = || {
            let files = files.clone();
            runner.io.fs(move |fs| files.disown(fs))
        };
        if let Err(error) = busy::patiently(runner, disown).await {
            tracing::warn!(%error, "what was spoilt of a fill may be found again, and will be fetched again then");
        }
    }

    /// Takes its files away, also if nobody waits for it. Whoever has them open reads on.
    fn forget(&self, io: &Io, store: &Store) -> impl Future<Output = io::Result<()>> + 'static + use<> {
        store.filling(&self.digest, None);
        let id = self.files.get().map(|files| files.id);
        let lease = self.lease.get().cloned();
        io.fs(move |fs| {
            let removed = id.map_or(Ok(()), |id| FillFiles::remove(fs, id));
            // Its bytes count until they have no name.
            drop(lease);
            removed
        })
    }

    fn wanted_unix(&self) -> u64 {
        self.wanted_unix.load(Ordering::Relaxed)
    }

    fn readers(&self) -> usize {
        self.readers.load(Ordering::SeqCst)
    }

    /// Whether nobody runs it, and it may be run.
    fn stands(&self) -> bool {
        self.idle().is_some()
    }

    fn is_unwanted(&self) -> bool {
        // What an extent still brings would be counted by nobody.
        self.readers() == 0 && self.idle().is_some() && !self.ahead().is_flying()
    }

    fn publish(&self, state: State, frontier: u64) {
        self.progress.send_modify(|progress| *progress = Progress { frontier, state, ..*progress });
    }

    /// Something is there, or free, that was not.
    fn wake(&self) {
        self.progress.send_modify(|_| {});
    }

    fn ahead(&self) -> MutexGuard<'_, Ahead> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn units(&self) -> MutexGuard<'_, Units> {
        self.units.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn idle(&self) -> MutexGuard<'_, Option<Box<Ingest>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failure(&self) -> MutexGuard<'_, Option<Failure>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use oci::Algorithm;

    use super::*;

    #[test]
    fn the_longest_unwanted_goes_first_and_none_that_is_read() {
        let (sums, mut table) = (Sums::of_all(), Table::default());
        for (name, wanted_unix) in [(b"b", 30), (b"c", 10), (b"d", 20), (b"e", 5)] {
            let digest = Digest::of(Algorithm::Sha256, name);
            let fill = Fill::new(digest, sums.of_one());
            fill.wanted_unix.store(wanted_unix, Ordering::Relaxed);
            // It is read, whenever that began.
            fill.readers.store(usize::from(wanted_unix == 5), Ordering::SeqCst);
            table.fills.insert(digest, Arc::new(fill));
        }
        assert!(table.take_expired(9).is_none());
        let order = std::iter::from_fn(|| table.take_unwanted()).map(|fill| fill.wanted_unix());
        assert_eq!(order.collect::<Vec<_>>(), [10, 20, 30]);
        assert_eq!(table.fills.len(), 1);
    }
}
