//! The one thread that changes names under `blobs/`: it turns uploads into blobs, a batch at a time.
//!
//! Owns: the queue of commits, the order of syncs, names and COMMIT, and what an error of each means.
//!
//! Invariants: nobody is told yes before the bytes, the name and the row are durable. After any error of a
//! sync or of COMMIT nobody of the batch is told yes, nothing is unlinked and nothing is tried again. A
//! session whose file has got its second name is never written to again. Only what is cached loses a name under `blobs/`.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    io,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    thread,
    time::Duration,
};

use control::{Control, PushedBlob, Refusal};
use oci::{Algorithm, Digest, Problem};
use tokio::sync::oneshot;

use super::{
    Evicted, Shared, blob_directory, blob_path,
    operator::Purge,
    problem_of,
    scrub::Strays,
    sessions::{Files, Open, remove_upload},
    upload_data,
};
use crate::{
    cache::{Lease, Log, Unwritten},
    fill::FillFiles,
    io::{File, Instant, unix_time},
    limits::{
        BATCH_MEMBERS_MAX, COMMITS_WAITING_MAX, EVICTIONS_WAITING_MAX, PURGES_WAITING_MAX,
        SYNCFS_AVERAGE_MAX, SYNCFS_MEMBERS_MIN, SYNCFS_REST, SYNCS_AT_ONCE,
    },
    mark::Mark,
};

/// An upload whose digest was found right and whose last write has ended.
pub(super) struct Member {
    pub(super) open: Box<Open>,
    pub(super) files: Files,
    pub(super) digest: Digest,
    pub(super) answer: oneshot::Sender<Result<(), Problem>>,
}

/// A blob that was filled and verified, and whose bytes are synced.
pub struct Filled {
    /// What its bytes hash to.
    pub digest: Digest,
    /// Their number.
    pub size_bytes: u64,
    /// Whose answer brought the last of them.
    pub upstream: Option<Mark>,
    /// Where they are.
    pub files: FillFiles,
    /// What they take, exactly.
    pub lease: Arc<Lease>,
    /// It is kept whatever room is lacking.
    pub is_pinned: bool,
}

/// One that waits for its name, and who waits for that.
struct Unnamed {
    filled: Filled,
    since: Instant,
    answer: oneshot::Sender<Result<(), Problem>>,
}

/// What a member needs to have its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    /// There is none: sync, link, sync the directory.
    New,
    /// A member before it in the batch gets the name; its bytes are as good.
    Twin,
    /// There is one, with a row: nothing to do.
    Recorded,
    /// There is one without a row: its directory is synced.
    Unrecorded,
    /// The file of that name is damaged, or could not be read: ours takes its place.
    Replace,
}

impl Name {
    /// Whether it is our file that gets the name.
    fn takes_our_file(self) -> bool {
        match self {
            Name::New | Name::Replace => true,
            Name::Twin | Name::Recorded | Name::Unrecorded => false,
        }
    }
}

type Named = (Member, Name);

/// Nobody of the batch may be told yes: a sync or COMMIT failed.
struct Lost(Refusal);

/// The keeper's own state.
pub(super) struct Keeper {
    shared: Arc<Shared>,
    control: Control,
    syncfs: Option<Syncfs>,
    /// Of the cache's index. `None`: the store had none to give.
    log: Option<Log>,
}

impl Keeper {
    pub(super) fn new(shared: Arc<Shared>, control: Control, log: Option<Log>) -> Keeper {
        let knows = super::syncs_whole(shared.filesystem);
        // Whatever was acknowledged before this process was good, or there would be a mark.
        shared.writes.known_good(unix_time());
        Keeper { shared, control, syncfs: knows.then(Syncfs::default), log }
    }

    /// Commits what waits, in batches, until the queue is closed and empty.
    pub(super) fn run(mut self) {
        // Maybe the budget is smaller than that of the process before.
        self.shared.keep_to_budget(&self.control);
        while let Some(work) = self.shared.queue.next(self.shared.settings.filled_wait) {
            let Work { members: waiting, unnamed, evictions, purges, strays } = work;
            // First, because only what has a name can go.
            let named = self.name_filled(unnamed);
            for Eviction { wanted_bytes, answer } in evictions {
                // Who asked and is gone finds the room when it comes back.
                let _ = answer.send(self.shared.evict(&self.control, wanted_bytes));
            }
            let takes_room = !waiting.is_empty();
            let mut batch = self.look_up(waiting);
            let directories = named.iter().map(|(unnamed, _)| unnamed.filled.digest.algorithm()).collect();
            match self.make_durable(&mut batch, directories) {
                Ok(results) => {
                    self.answer(batch, results);
                    // Who waited and is gone had it read already.
                    named.into_iter().for_each(|(unnamed, result)| drop(unnamed.answer.send(result)));
                }
                Err(lost) => self.give_up(batch, lost),
            }
            if takes_room {
                self.shared.measure();
            }
            self.shared.keep_to_budget(&self.control);
            for Purge { digests, answer } in purges {
                // Who asked and is gone finds it done.
                let _ = answer.send(self.shared.purge(&self.control, &digests));
            }
            if let Some(Strays { digests, answer }) = strays {
                // No commit is half way here, so what has no row is of none.
                let _ = answer.send(self.shared.take_in(&self.control, &digests));
            }
            let unwritten = self.log.as_ref().map(|log| self.shared.cached.unwritten(log));
            self.write_index(unwritten);
        }
        let last = self.shared.cached.last_words();
        self.write_index(Some(last));
    }

    /// What the index has lost is found again by the scrub, so no error of it is anybody's.
    fn write_index(&mut self, unwritten: Option<Unwritten>) {
        // After an error of the disk nothing is written that somebody would trust.
        if let (Some(log), Some(unwritten)) = (&mut self.log, unwritten)
            && self.shared.allowed().is_ok()
            && let Err(error) = log.write(unwritten)
        {
            tracing::warn!(%error, "the cache's index was not written; it is tried again");
        }
    }

    /// Links what was filled. Its names need no row: they are durable with the next sync of their directory, and
    /// one that is lost before that is a miss.
    fn name_filled(&self, unnamed: Vec<Unnamed>) -> Vec<(Unnamed, Result<(), Problem>)> {
        let name = |unnamed: Unnamed| {
            let result = self
                .shared
                .allowed()
                .and_then(|()| self.name_one(&unnamed.filled).map_err(|error| problem_of(&error)));
            (unnamed, result)
        };
        unnamed.into_iter().map(name).collect()
    }

    fn name_one(&self, filled: &Filled) -> io::Result<()> {
        let (fs, suspects) = (&self.shared.fs, &self.shared.suspects);
        let (ours, path) = (filled.files.id.data(), blob_path(&filled.digest));
        if self.shared.giving(&filled.digest, || fs.link(&ours, &path))? {
            self.shared.cached.named(filled);
        } else if suspects.has(&filled.digest) {
            self.shared.replacing(&filled.digest, || fs.rename(&ours, &path))?;
            self.shared.cached.renamed(filled);
        }
        Ok(())
    }

    /// All that a 201 means, in order. Members that fail alone are answered and taken out of the batch.
    fn make_durable(
        &mut self,
        batch: &mut Vec<Named>,
        mut directories: BTreeSet<Algorithm>,
    ) -> Result<Vec<Result<(), Problem>>, Lost> {
        self.close_files(batch);
        self.sync_data(batch)?;
        self.give_names(batch, &mut directories);
        self.sync_directories(&directories)?;
        self.commit(batch)
    }

    /// What each member's name needs. Existing names are looked up in the metadata, all at once.
    fn look_up(&self, waiting: Vec<Member>) -> Vec<Named> {
        let mut lengths = HashMap::new();
        let mut batch = Vec::with_capacity(waiting.len());
        for member in waiting {
            let found = self.shared.allowed().and_then(|()| {
                self.shared.fs.stat(&blob_path(&member.digest)).map_err(|error| problem_of(&error))
            });
            match found {
                Ok(stat) => {
                    lengths.extend(stat.map(|stat| (member.digest, stat.len)));
                    batch.push(member);
                }
                Err(problem) => self.put_back(member, problem),
            }
        }
        let existing: Vec<Digest> = lengths.keys().copied().collect();
        let rows = match existing.is_empty() {
            true => Ok(Vec::new()),
            false => self.control.home_blocking(existing.clone()),
        };
        let rows: HashMap<Digest, Option<u64>> = match rows {
            Ok(rows) => existing.into_iter().zip(rows).collect(),
            Err(problem) => {
                batch.into_iter().for_each(|member| self.put_back(member, problem.clone()));
                return Vec::new();
            }
        };
        let mut taking = HashSet::new();
        let named = |member: Member| {
            let size = member.open.offset;
            let name = match (lengths.get(&member.digest), rows.get(&member.digest).copied().flatten()) {
                (None, _) => Name::New,
                (Some(_), _) if self.shared.suspects.has(&member.digest) => Name::Replace,
                (Some(length), Some(row)) if *length == size && row == size => Name::Recorded,
                (Some(length), None) if *length == size => Name::Unrecorded,
                (Some(_), _) => Name::Replace,
            };
            let twin = name.takes_our_file() && !taking.insert(member.digest);
            (member, if twin { Name::Twin } else { name })
        };
        batch.into_iter().map(named).collect()
    }

    /// Files get their exact length, and the record by which a restart knows what they were linked to.
    fn close_files(&self, batch: &mut Vec<Named>) {
        self.keep(batch, |(member, name)| {
            if !name.takes_our_file() {
                return Ok(());
            }
            let (fs, open, data) = (&self.shared.fs, &mut member.open, &member.files.data);
            let len = data.stat()?.len;
            if len < open.offset {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            if len > open.offset || open.allocated > open.offset {
                fs.trim(data, open.offset)?;
            }
            open.allocated = 0;
            let (at, record) = open.next_record(&self.shared.boot, Some(member.digest));
            fs.write_all_at(&member.files.state, at, &record)
        });
    }

    /// The bytes of all members that give their file. Few files one by one, many with the whole volume; and
    /// with the volume a file that was closed since it was written to: memory may have forgotten the file, and
    /// with it a write that failed, of which the descriptor of the data directory still tells.
    fn sync_data(&mut self, batch: &[Named]) -> Result<(), Lost> {
        let ours = || batch.iter().filter(|(_, name)| name.takes_our_file()).map(|(member, _)| member);
        let files: Vec<File> = ours().map(|member| member.files.data.clone()).collect();
        let reopened = ours().any(|member| member.open.reopened);
        let counters = &self.shared.counters;
        let synced = match &mut self.syncfs {
            Some(syncfs) if reopened || (files.len() >= SYNCFS_MEMBERS_MIN && syncfs.is_quick()) => {
                counters.volume_syncs.fetch_add(1, Ordering::Relaxed);
                self.shared.fs.write_out(&files);
                let started = Instant::now();
                let synced = self.shared.fs.sync_volume();
                syncfs.took(Instant::now().since(started));
                synced
            }
            _ => {
                counters.data_syncs.fetch_add(files.len() as u64, Ordering::Relaxed);
                self.sync_each(&files)
            }
        };
        synced.map_err(|error| lost(&error))
    }

    fn sync_each(&self, files: &[File]) -> io::Result<()> {
        let fs = &self.shared.fs;
        let lane = |lane: usize| {
            files.iter().skip(lane).step_by(SYNCS_AT_ONCE).try_for_each(|file| fs.sync_data(file))
        };
        thread::scope(|scope| {
            let lane = &lane;
            let started = |index| {
                let name = format!("keeper-sync-{index}");
                (index, thread::Builder::new().name(name).spawn_scoped(scope, move || lane(index)))
            };
            let others: Vec<_> = (1..files.len().min(SYNCS_AT_ONCE)).map(started).collect();
            let died = |_| Err(io::Error::other("a sync died"));
            others.into_iter().fold(lane(0), |synced, (index, other)| {
                synced.and(match other {
                    Ok(other) => other.join().unwrap_or_else(died),
                    // No thread is to be had: its files are synced here.
                    Err(_) => lane(index),
                })
            })
        })
    }

    /// Links. Adds the directories whose names have to be made durable.
    fn give_names(&self, batch: &mut Vec<Named>, directories: &mut BTreeSet<Algorithm>) {
        self.keep(batch, |(member, name)| {
            let (fs, ours) = (&self.shared.fs, upload_data(&member.open.id));
            let (digest, path) = (member.digest, blob_path(&member.digest));
            match name {
                Name::Recorded => return Ok(()),
                Name::Unrecorded => {}
                Name::New if self.shared.giving(&digest, || fs.link(&ours, &path))? => {}
                Name::New => return Err(io::Error::other("a name appeared that the keeper did not make")),
                Name::Twin if fs.stat(&path)?.is_some_and(|stat| stat.len == member.open.offset) => {}
                // The member that should have given the name has failed, most likely for lack of room.
                Name::Twin => return Err(io::ErrorKind::StorageFull.into()),
                Name::Replace => self.shared.replacing(&digest, || fs.rename(&ours, &path))?,
            }
            directories.insert(digest.algorithm());
            Ok(())
        });
    }

    fn sync_directories(&mut self, directories: &BTreeSet<Algorithm>) -> Result<(), Lost> {
        for algorithm in directories {
            self.shared.counters.directory_syncs.fetch_add(1, Ordering::Relaxed);
            let started = Instant::now();
            self.shared.fs.sync_directory(blob_directory(*algorithm)).map_err(|error| lost(&error))?;
            if let Some(syncfs) = &mut self.syncfs {
                syncfs.a_directory_took(Instant::now().since(started));
            }
        }
        Ok(())
    }

    /// The rows: one transaction. One result a member.
    fn commit(&self, batch: &[Named]) -> Result<Vec<Result<(), Problem>>, Lost> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let pushed = |(member, _): &Named| PushedBlob {
            repository: member.open.repository,
            digest: member.digest,
            size_bytes: member.open.offset,
        };
        match self.control.commit_blocking(batch.iter().map(pushed).collect()) {
            Ok(results) if results.len() == batch.len() => Ok(results),
            Ok(_) | Err(_) => {
                tracing::error!("a metadata commit failed; writes are refused until a restart");
                Err(Lost(Refusal::CommitFailed))
            }
        }
    }

    /// Tells everybody, then takes the uploads' own names away.
    fn answer(&mut self, batch: Vec<Named>, results: Vec<Result<(), Problem>>) {
        if batch.is_empty() {
            return;
        }
        self.shared.writes.known_good(unix_time());
        let counters = &self.shared.counters;
        counters.batches.fetch_add(1, Ordering::Relaxed);
        let mut ended = Vec::with_capacity(batch.len());
        for ((member, name), result) in batch.into_iter().zip(results) {
            match result {
                Err(problem) if !name.takes_our_file() => self.put_back(member, problem),
                // Its file may be a blob now, so it can't go on as a session.
                Ok(()) | Err(_) => {
                    if result.is_ok() {
                        self.shared.cached.became_home(&member.digest);
                        counters.members.fetch_add(1, Ordering::Relaxed);
                        self.shared.fs.acknowledging(&member.digest);
                    }
                    let id = member.open.id;
                    self.shared.sessions.forget(&id);
                    reply(member, result);
                    ended.push(id);
                }
            }
        }
        for id in ended {
            if let Err(error) = remove_upload(&self.shared.fs, &id) {
                tracing::warn!(%id, %error, "the names of a committed upload are left for the next start");
            }
        }
    }

    /// Refuses all writes from now on. The sessions are unknown from here; their files stay for the next start.
    fn give_up(&self, batch: Vec<Named>, Lost(why): Lost) {
        self.shared.writes.refuse(why);
        for (member, _) in batch {
            self.shared.sessions.forget(&member.open.id);
            reply(member, Err(Problem::WritesRefused { why: why.why() }));
        }
    }

    /// Keeps the members for which `step` succeeds; the others fail alone and may try again.
    fn keep(&self, batch: &mut Vec<Named>, mut step: impl FnMut(&mut Named) -> io::Result<()>) {
        for mut named in std::mem::take(batch) {
            match step(&mut named) {
                Ok(()) => batch.push(named),
                Err(error) => self.put_back(named.0, problem_of(&error)),
            }
        }
    }

    /// The session goes on as if its commit had not been asked for.
    fn put_back(&self, member: Member, problem: Problem) {
        let Member { open, answer, .. } = member;
        self.shared.sessions.insert(open);
        // A client that is gone is told nothing.
        let _ = answer.send(Err(problem));
    }
}

fn reply(member: Member, result: Result<(), Problem>) {
    // A client that is gone is told nothing, and finds the blob when it comes back.
    let _ = member.answer.send(result);
}

fn lost(error: &io::Error) -> Lost {
    tracing::error!(%error, "a sync failed; writes are refused until a restart");
    Lost(Refusal::SyncFailed)
}

/// How long syncfs takes here.
#[derive(Default)]
struct Syncfs {
    average: Duration,
    /// Of a directory's sync, which is a commit of the journal and nothing else: how slow the device is.
    directory_average: Duration,
    rests_until: Option<Instant>,
}

impl Syncfs {
    fn is_quick(&self) -> bool {
        self.rests_until.is_none_or(|until| Instant::now() >= until)
    }

    /// A slow one starts a rest, after which one call decides.
    fn took(&mut self, time: Duration) {
        self.average = match self.rests_until.take() {
            Some(_) => time,
            None => moving(self.average, time),
        };
        // On a slow device every sync takes long, and many of them longer than this one.
        if self.average > SYNCFS_AVERAGE_MAX.max(self.directory_average * 4) {
            self.rests_until = Some(Instant::now() + SYNCFS_REST);
        }
    }

    fn a_directory_took(&mut self, time: Duration) {
        self.directory_average = moving(self.directory_average, time);
    }
}

/// A moving average over about eight.
fn moving(average: Duration, next: Duration) -> Duration {
    (average * 7 + next) / 8
}

/// Somebody lacks so many bytes.
struct Eviction {
    wanted_bytes: u64,
    answer: oneshot::Sender<Evicted>,
}

/// All there is to do.
struct Work {
    members: Vec<Member>,
    unnamed: Vec<Unnamed>,
    evictions: Vec<Eviction>,
    /// After what was filled has its name.
    purges: Vec<Purge>,
    strays: Option<Strays>,
}

/// Commits that wait. A mutex and a condition, because the keeper is a thread that blocks.
#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    work: Condvar,
}

#[derive(Default)]
struct Waiting {
    members: VecDeque<Member>,
    unnamed: VecDeque<Unnamed>,
    evictions: Vec<Eviction>,
    purges: Vec<Purge>,
    /// There is one scrub, and it waits for its answer.
    strays: Option<Strays>,
    /// How many want that what was filled gets its name at once.
    hurries: usize,
    closed: bool,
}

impl Waiting {
    /// What was filled can wait a little longer.
    fn is_idle(&self) -> bool {
        self.members.is_empty()
            && self.evictions.is_empty()
            && self.purges.is_empty()
            && self.strays.is_none()
    }
}

impl Queue {
    /// Enqueues, or hands the member back: the queue is full or closed.
    pub(super) fn push(&self, member: Member) -> Result<(), Member> {
        let mut waiting = self.waiting();
        if waiting.closed || waiting.members.len() == COMMITS_WAITING_MAX {
            return Err(member);
        }
        waiting.members.push_back(member);
        drop(waiting);
        self.work.notify_one();
        Ok(())
    }

    /// Enqueues. It waits for members to share a sync with, but not for long. There are never more than there are
    /// fills.
    ///
    /// Errors: [`Problem::Overloaded`]: the queue is closed.
    pub(super) fn push_filled(
        &self,
        filled: Filled,
        answer: oneshot::Sender<Result<(), Problem>>,
    ) -> Result<(), Problem> {
        let mut waiting = self.waiting();
        if waiting.closed {
            return Err(super::OVERLOADED);
        }
        waiting.unnamed.push_back(Unnamed { filled, since: Instant::now(), answer });
        drop(waiting);
        self.work.notify_one();
        Ok(())
    }

    /// Enqueues a wish for room.
    ///
    /// Errors: [`Problem::Overloaded`]: the queue is full or closed.
    pub(super) fn push_eviction(
        &self,
        wanted_bytes: u64,
        answer: oneshot::Sender<Evicted>,
    ) -> Result<(), Problem> {
        let mut waiting = self.waiting();
        if waiting.closed || waiting.evictions.len() == EVICTIONS_WAITING_MAX {
            return Err(super::OVERLOADED);
        }
        waiting.evictions.push(Eviction { wanted_bytes, answer });
        drop(waiting);
        self.work.notify_one();
        Ok(())
    }

    /// Enqueues what is to go.
    ///
    /// Errors: [`Problem::Overloaded`]: the queue is full or closed.
    pub(super) fn push_purge(&self, purge: Purge) -> Result<(), Problem> {
        let mut waiting = self.waiting();
        if waiting.closed || waiting.purges.len() == PURGES_WAITING_MAX {
            return Err(super::OVERLOADED);
        }
        waiting.purges.push(purge);
        drop(waiting);
        self.work.notify_one();
        Ok(())
    }

    /// Enqueues files that seem to be nobody's.
    ///
    /// Errors: [`Problem::Overloaded`]: others wait, or the queue is closed.
    pub(super) fn push_strays(&self, strays: Strays) -> Result<(), Problem> {
        let mut waiting = self.waiting();
        if waiting.closed || waiting.strays.is_some() {
            return Err(super::OVERLOADED);
        }
        waiting.strays = Some(strays);
        drop(waiting);
        self.work.notify_one();
        Ok(())
    }

    /// One more who is in a hurry, or one less.
    pub(super) fn hurry(&self, more: bool) {
        let mut waiting = self.waiting();
        waiting.hurries = if more { waiting.hurries + 1 } else { waiting.hurries.saturating_sub(1) };
        drop(waiting);
        self.work.notify_one();
    }

    pub(super) fn close(&self) {
        self.waiting().closed = true;
        self.work.notify_all();
    }

    /// What waits, up to a batch, and with it all that was filled; waits for something. `None`: closed and empty.
    fn next(&self, filled_wait: Duration) -> Option<Work> {
        let mut waiting = self.waiting();
        while waiting.is_idle() {
            let oldest = waiting.unnamed.front().map(|unnamed| Instant::now().since(unnamed.since));
            waiting = match oldest {
                Some(age) if waiting.closed || waiting.hurries > 0 || age >= filled_wait => break,
                Some(age) => self
                    .work
                    .wait_timeout(waiting, filled_wait - age)
                    .map_or_else(|poisoned| poisoned.into_inner().0, |(waiting, _)| waiting),
                None if waiting.closed => return None,
                None => self.work.wait(waiting).unwrap_or_else(PoisonError::into_inner),
            };
        }
        let count = waiting.members.len().min(BATCH_MEMBERS_MAX);
        Some(Work {
            members: waiting.members.drain(..count).collect(),
            unnamed: waiting.unnamed.drain(..).collect(),
            evictions: std::mem::take(&mut waiting.evictions),
            purges: std::mem::take(&mut waiting.purges),
            strays: waiting.strays.take(),
        })
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_for_room_are_bounded() {
        let queue = Queue::default();
        let wish = || queue.push_eviction(1, oneshot::channel().0);
        assert!((0..EVICTIONS_WAITING_MAX).all(|_| wish().is_ok()));
        assert_eq!(wish(), Err(crate::store::OVERLOADED));
        assert_eq!(queue.next(Duration::ZERO).map(|work| work.evictions.len()), Some(EVICTIONS_WAITING_MAX));
        assert!(wish().is_ok());
    }

    #[test]
    fn purges_that_wait_are_bounded() {
        let queue = Queue::default();
        let purge = || queue.push_purge(Purge { digests: Vec::new(), answer: oneshot::channel().0 });
        assert!((0..PURGES_WAITING_MAX).all(|_| purge().is_ok()));
        assert_eq!(purge(), Err(crate::store::OVERLOADED));
        assert_eq!(queue.next(Duration::ZERO).map(|work| work.purges.len()), Some(PURGES_WAITING_MAX));
        assert!(purge().is_ok());
        queue.next(Duration::ZERO);
        queue.close();
        assert_eq!(purge(), Err(crate::store::OVERLOADED), "nobody would answer");
    }

    #[test]
    fn strays_come_one_page_after_the_other() {
        let queue = Queue::default();
        let strays = || queue.push_strays(Strays { digests: Vec::new(), answer: oneshot::channel().0 });
        assert_eq!([strays(), strays()], [Ok(()), Err(crate::store::OVERLOADED)]);
        assert!(queue.next(Duration::ZERO).is_some_and(|work| work.strays.is_some()));
        assert_eq!(strays(), Ok(()));
        queue.close();
        assert!(
            queue.next(Duration::ZERO).is_some_and(|work| work.strays.is_some()),
            "what was taken is answered"
        );
        assert!(queue.next(Duration::ZERO).is_none());
        assert_eq!(strays(), Err(crate::store::OVERLOADED), "nobody would answer");
    }

    #[test]
    fn syncfs_rests_when_it_is_slow_on_average_and_one_quick_call_brings_it_back() {
        let mut syncfs = Syncfs::default();
        (0..50).for_each(|_| syncfs.took(SYNCFS_AVERAGE_MAX * 3 / 4));
        assert!(syncfs.is_quick());
        syncfs.took(SYNCFS_AVERAGE_MAX * 3 / 2);
        assert!(syncfs.is_quick(), "one that took longer is no average");
        syncfs.took(Duration::from_millis(2800));
        assert!(!syncfs.is_quick());
        syncfs.rests_until = Some(Instant::now());
        assert!(syncfs.is_quick(), "the rest is over");
        syncfs.took(Duration::from_millis(5));
        assert!(syncfs.is_quick());
    }

    #[test]
    fn on_a_slow_device_syncfs_may_take_longer() {
        let mut syncfs = Syncfs::default();
        (0..50).for_each(|_| syncfs.a_directory_took(Duration::from_millis(15)));
        (0..50).for_each(|_| syncfs.took(Duration::from_millis(50)));
        assert!(syncfs.is_quick(), "a commit of the journal alone takes 15 ms");
        (0..50).for_each(|_| syncfs.took(Duration::from_millis(70)));
        assert!(!syncfs.is_quick());
    }
}
