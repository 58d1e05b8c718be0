//! Who waits for a fill, and how much of it an answer may have sent.
//!
//! An answer goes one of two ways. *In order* it follows the frontier, and its end is held back until all was verified.
//! *Ahead* it is a part that starts long before the run comes there: it has extents of its own, and goes out at once,
//! since it can't be verified alone and who asks for it verifies it.

use std::sync::{Arc, atomic::Ordering};

use bytes::Bytes;
use oci::{Hasher, Problem, Span};
use tokio::sync::watch;

use super::{
    Fill, FillFiles, Full, Pass, Progress, Runner, State,
    ahead::Want,
    extent,
    files::end_of,
    positions::Position,
    run::{misbehaved, read_chunk},
};
use crate::io::unix_time;
use crate::limits::{
    FILL_CHUNK_BYTES, FILL_NEAR_CHUNKS, FILL_RESUME_PAUSE, FILL_RESUMES_MAX, HELD_BACK_BYTES, PROBE_BYTES,
};

/// One who waits for a fill. While there are any, it goes on.
pub struct Reader {
    fill: Arc<Fill>,
    progress: watch::Receiver<Progress>,
    /// Of the fill when this came: one more, and it is told why.
    failures: u32,
    runner: Runner,
    way: Way,
    /// Whether it is one for whom the fill goes on.
    is_counted: bool,
    party: Party,
    at: Position,
    /// Whether its answer is the whole blob. `None`: nobody knows yet.
    is_whole: Option<bool>,
    was_verified: bool,
}

/// For whom a reader waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Party {
    /// A client.
    Client,
    /// Whoever may come.
    Nobody,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    InOrder,
    Ahead,
}

/// What became of a fill that was joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ready {
    /// An answer can begin: it has files and a length.
    Begun,
    /// The blob has its name by now.
    Here,
    /// This fill is none any more; another has to be joined.
    Again,
    /// It was given up by who has another origin, and nothing of it is left; one's own has to be asked.
    Denied,
    /// There is no room for it, or what is here is another's: see [`Reader::pass_from_start`].
    Full,
}

/// What is told when two who should know contradict each other.
pub const ANOTHER_LENGTH: &str = "the upstream's blob has another length than its manifest says";

/// What a step towards an extent came to.
enum Step {
    /// More may be there.
    Look,
    /// It would have no room.
    NoRoom,
}

/// What an answer in the middle goes on with.
pub enum Advance {
    /// More may be there.
    Look,
    /// From here on by itself.
    Pass(Box<Pass>),
}

impl Reader {
    pub(super) fn of(fill: &Arc<Fill>, runner: Runner, party: Party) -> Reader {
        fill.readers.fetch_add(1, Ordering::SeqCst);
        if let (Some(counters), Party::Client) = (runner.fills.of(&runner.origin), party) {
            counters.clients.fetch_add(1, Ordering::Relaxed);
        }
        let at = fill.positions.begin(runner.origin.upstream);
        let progress = fill.progress.subscribe();
        let Progress { failures, state, .. } = *progress.borrow();
        Reader {
            fill: fill.clone(),
            progress,
            failures,
            runner,
            way: Way::InOrder,
            is_counted: true,
            party,
            at,
            is_whole: None,
            was_verified: state == State::Verified,
        }
    }

    /// Who it waits for has left, or looks like it: what others want it still gets, but nothing is begun for it, nor gone
    /// on with.
    pub fn leave(&mut self) {
        if std::mem::take(&mut self.is_counted) {
            // Before it counts as gone.
            self.fill.wanted_unix.store(unix_time(), Ordering::Relaxed);
            self.fill.readers.fetch_sub(1, Ordering::SeqCst);
        }
    }

    /// Its length in bytes, if anybody has told it.
    pub fn size_bytes(&self) -> Option<u64> {
        self.fill.size_bytes.get().copied().or(self.runner.size_bytes)
    }

    /// What it is answered, of a blob of this length; `None`: several parts. An answer that has all of the blob does not
    /// become whole before the blob was verified, whatever becomes of the fill. Any other has no bytes that another
    /// upstream gave, as long as they are not verified: it passes through.
    pub fn answers(&mut self, span: Option<Span>, size_bytes: u64) {
        self.is_whole = Some(span == Some(Span { start: 0, end: size_bytes }));
    }

    fn is_anothers(&self) -> bool {
        self.is_whole == Some(false) && !self.fill.givers.are_only(self.runner.origin.upstream)
    }

    /// Goes ahead for `span` of a blob, if that is worth it. A part of a few bytes always does: who probes does not
    /// want the whole.
    pub fn go_ahead(&mut self, span: Span) {
        let is_whole = span.start == 0 && self.size_bytes() == Some(span.end);
        let near = self.progress.borrow().frontier + FILL_NEAR_CHUNKS * FILL_CHUNK_BYTES;
        if !is_whole && !span.is_empty() && (span.len() < PROBE_BYTES || span.start >= near) {
            self.way = Way::Ahead;
        }
    }

    /// Whether all of the blob was here, and verified, when this came.
    pub fn is_verified(&self) -> bool {
        self.was_verified
    }

    /// Whether it went ahead.
    pub fn is_ahead(&self) -> bool {
        self.way == Way::Ahead
    }

    /// Waits until an answer with `span` can begin. In order, a blob that could be held back whole is verified by then.
    ///
    /// Errors: why it can't be had.
    pub async fn ready(&mut self, span: Option<Span>) -> Result<Ready, Problem> {
        if let (Way::Ahead, Some(span)) = (self.way, span) {
            return self.ready_ahead(span).await;
        }
        if !self.is_anothers() {
            self.go_on()?;
        }
        loop {
            let Progress { state, failures, .. } = *self.progress.borrow_and_update();
            let is_long =
                || self.fill.size_bytes.get().is_some_and(|size_bytes| *size_bytes > HELD_BACK_BYTES);
            match state {
                State::Verified => return Ok(Ready::Begun),
                State::Here => return Ok(Ready::Here),
                State::Again => return Ok(Ready::Again),
                // The file has the start, and what comes in its place the rest.
                State::Full if is_long() && self.full().is_ok_and(|full| full.start > 0) => {
                    return Ok(Ready::Begun);
                }
                State::Full => return Ok(Ready::Full),
                State::Lost if self.is_anothers_failure() => return Ok(Ready::Denied),
                State::Lost => return Err(self.failure()),
                State::Waiting | State::Running if self.is_anothers() => return Ok(Ready::Full),
                State::Waiting | State::Running if failures != self.failures => {
                    self.outlast_failure(failures)?
                }
                State::Running if is_long() => return Ok(Ready::Begun),
                State::Waiting | State::Running => {}
            }
            self.changed().await?;
        }
    }

    /// Its first attempt decides what the client is told.
    async fn ready_ahead(&mut self, span: Span) -> Result<Ready, Problem> {
        loop {
            match self.progress.borrow().state {
                State::Verified => return Ok(Ready::Begun),
                State::Here => return Ok(Ready::Here),
                State::Again => return Ok(Ready::Again),
                State::Full => return Ok(Ready::Full),
                State::Lost if self.is_anothers_failure() => return Ok(Ready::Denied),
                State::Lost => return Err(self.failure()),
                State::Waiting | State::Running if self.is_anothers() => return Ok(Ready::Full),
                State::Waiting | State::Running => {}
            }
            if self.end(span).is_none_or(|end| end > span.start) && self.file().is_some() {
                return Ok(Ready::Begun);
            }
            if let Step::NoRoom = self.step_ahead(span, 0).await? {
                return Ok(Ready::Full);
            }
        }
    }

    /// Its files and its length in bytes, once it is [`Ready::Begun`].
    pub fn file(&self) -> Option<(&FillFiles, u64)> {
        Some((self.fill.files.get()?, *self.fill.size_bytes.get()?))
    }

    /// Up to where an answer that ends with `span` may be sent: in order, what is there without the end that is held
    /// back. `None`: all of it, now and later.
    pub fn end(&mut self, span: Span) -> Option<u64> {
        if (self.way, self.party) == (Way::InOrder, Party::Client) {
            self.at.is(span.start);
        }
        let Progress { frontier, state, failures } = *self.progress.borrow_and_update();
        match (state, self.way) {
            (State::Verified, _) => None,
            (State::Here | State::Again | State::Lost, _) => Some(0),
            (State::Waiting | State::Running, _) if self.is_anothers() => Some(0),
            (State::Waiting | State::Running, Way::InOrder) if failures != self.failures => Some(0),
            (State::Waiting | State::Running | State::Full, Way::InOrder) => {
                Some(frontier.min(span.end.saturating_sub(HELD_BACK_BYTES)))
            }
            (_, Way::Ahead) if span.start < frontier => Some(frontier),
            (State::Waiting | State::Running | State::Full, Way::Ahead) => {
                let there = self.fill.ahead().there(span.start / FILL_CHUNK_BYTES);
                Some(there.map_or(0, |chunk| chunk * FILL_CHUNK_BYTES))
            }
        }
    }

    /// Waits until [`Reader::end`] of this span may be another than it was when it was last asked for.
    ///
    /// Errors: it never will; the answer has to be cut.
    pub async fn advance(&mut self, span: Span) -> Result<Advance, Problem> {
        let Progress { state, failures, .. } = *self.progress.borrow();
        let waited = match (state, self.way) {
            (State::Verified, _) => Ok(()),
            (State::Here | State::Again | State::Lost, _) => Err(self.failure()),
            (State::Full, _) => return self.pass(span).await.map(|pass| Advance::Pass(Box::new(pass))),
            (State::Waiting | State::Running, _) if self.is_anothers() => {
                return self.pass(span).await.map(|pass| Advance::Pass(Box::new(pass)));
            }
            (State::Waiting | State::Running, Way::InOrder) if failures != self.failures => {
                self.outlast_failure(failures)
            }
            (State::Waiting | State::Running, Way::InOrder) => {
                if !self.is_counted {
                    self.go_on()?;
                }
                self.changed().await
            }
            (State::Waiting | State::Running, Way::Ahead) => {
                match self.step_ahead(span, FILL_RESUMES_MAX).await? {
                    Step::Look => Ok(()),
                    Step::NoRoom => return self.pass(span).await.map(|pass| Advance::Pass(Box::new(pass))),
                }
            }
        };
        waited.map(|()| Advance::Look)
    }

    /// The length of a blob for which there is no room; one that nobody has told is known when all of it has come.
    ///
    /// Errors: it can't be had.
    pub async fn passing_bytes(&self) -> Result<u64, Problem> {
        match (self.fill.size_bytes.get(), self.runner.size_bytes) {
            (Some(found), Some(told)) if *found != told => return Err(misbehaved(ANOTHER_LENGTH)),
            (Some(size_bytes), _) => return Ok(*size_bytes),
            (None, Some(size_bytes)) => return Ok(size_bytes),
            (None, None) => {}
        }
        match &self.full()?.stream {
            Some(following) => following.size_bytes(&self.runner.origin).await,
            // Others may be done soon.
            None => Err(Problem::Overloaded { retry_after_s: 1 }),
        }
    }

    /// An answer with `span`, from its start, of a blob of `size_bytes` for which there is no room.
    ///
    /// Errors: [`Problem::Overloaded`]: there are too many.
    pub fn pass_from_start(&self, size_bytes: u64, span: Span) -> Result<Pass, Problem> {
        let (runner, digest) = (self.runner.clone(), self.fill.digest);
        let is_whole = span.start == 0 && span.end == size_bytes;
        let stream = self.fill.full.get().and_then(|full| full.stream.clone());
        match stream.filter(|stream| is_whole && stream.start() == 0) {
            Some(stream) => Ok(Pass::shared(runner, digest, size_bytes, stream, Bytes::new())),
            None => {
                let hasher = is_whole.then(|| Hasher::new(digest.algorithm()));
                Pass::alone(runner, digest, size_bytes, span, hasher, None)
            }
        }
    }

    /// What is left of the answer, once there is no room for the blob.
    async fn pass(&self, span: Span) -> Result<Pass, Problem> {
        let size_bytes = self.size_bytes().ok_or(Problem::Internal)?;
        let (runner, digest) = (self.runner.clone(), self.fill.digest);
        if self.is_whole != Some(true) {
            return Pass::alone(runner, digest, size_bytes, span, None, Some(Bytes::new()));
        }
        let Full { start, hasher, stream } = self.full()?;
        // What was held back of what is in the file.
        let len = start.checked_sub(span.start).ok_or(Problem::Internal)? as usize;
        let first = if len > 0 {
            let (files, _) = self.file().ok_or(Problem::Internal)?;
            let read = read_chunk(&self.runner, files, span.start, len).await;
            let buf = read.ok().flatten().ok_or(Problem::Internal)?;
            Bytes::copy_from_slice(buf.filled())
        } else {
            Bytes::new()
        };
        if let Some(stream) = stream {
            return Ok(Pass::shared(runner, digest, size_bytes, stream.clone(), first));
        }
        let rest = Span { start: *start, end: span.end };
        Pass::alone(runner, digest, size_bytes, rest, Some(hasher.clone()), Some(first))
    }

    fn full(&self) -> Result<&Full, Problem> {
        self.fill.full.get().ok_or(Problem::Internal)
    }

    /// One step towards the start of `span`. An extent that does not bring it is begun again so many times.
    async fn step_ahead(&mut self, span: Span, retries: u32) -> Result<Step, Problem> {
        let chunk = span.start / FILL_CHUNK_BYTES;
        let mut begun = 0;
        loop {
            self.progress.mark_unchanged();
            let want = self.fill.ahead().want(chunk, span.end.div_ceil(FILL_CHUNK_BYTES));
            match want {
                Want::There(_) => return Ok(Step::Look),
                Want::Pass => return Ok(Step::NoRoom),
                Want::Prove(crc) => return self.prove(chunk, crc).await.map(|()| Step::Look),
                Want::Fetch(_, end) if !self.is_counted => {
                    self.fill.ahead().ended(end);
                    self.fill.wake();
                    return Err(misbehaved("the client has left"));
                }
                Want::Fetch(first, end) => {
                    let pause = FILL_RESUME_PAUSE * begun;
                    begun += 1;
                    let task = extent::run(self.runner.clone(), self.fill.clone(), first, end);
                    let io = self.runner.io.clone();
                    self.runner.io.spawn(async move {
                        io.sleep_until(io.now() + pause).await;
                        task.await;
                    });
                }
                Want::InOrder => {
                    self.go_on()?;
                    return self.in_order(span).await.map(|()| Step::Look);
                }
                Want::Wait => {}
            }
            self.changed().await?;
            if !matches!(self.progress.borrow().state, State::Waiting | State::Running) {
                return Ok(Step::Look);
            }
            if begun > retries && self.fill.ahead().was_not_had(chunk) {
                return Err(self.failure());
            }
        }
    }

    /// Waits until the run has come to the start of `span`.
    async fn in_order(&mut self, span: Span) -> Result<(), Problem> {
        let Progress { frontier, state, failures } = *self.progress.borrow_and_update();
        match state {
            State::Verified | State::Full => Ok(()),
            State::Waiting | State::Running if frontier > span.start => Ok(()),
            State::Waiting | State::Running if failures == self.failures => self.changed().await,
            State::Waiting | State::Running => self.outlast_failure(failures),
            State::Here | State::Again | State::Lost => Err(self.failure()),
        }
    }

    /// Its run was given up, for the so-manieth time.
    ///
    /// Errors: that was the origin that this one has. Otherwise it is gone on with by this one's.
    fn outlast_failure(&mut self, failures: u32) -> Result<(), Problem> {
        if !self.is_anothers_failure() {
            return Err(self.failure());
        }
        self.failures = failures;
        self.go_on()
    }

    /// Has the fill run.
    ///
    /// Errors: it does not, and nothing is begun for who has left.
    fn go_on(&self) -> Result<(), Problem> {
        if self.is_counted {
            self.fill.go_on(self.runner.clone());
            return Ok(());
        }
        if self.fill.stands() { Err(misbehaved("the client has left")) } else { Ok(()) }
    }

    fn is_anothers_failure(&self) -> bool {
        self.fill.failure().as_ref().is_some_and(|failure| failure.origin != self.runner.origin)
    }

    /// Reads a chunk that an earlier process left.
    async fn prove(&self, chunk: u64, crc: u32) -> Result<(), Problem> {
        let (files, size_bytes) = self.file().ok_or(Problem::Internal)?;
        let at = chunk * FILL_CHUNK_BYTES;
        let len = (end_of(chunk, size_bytes) - at) as usize;
        let read = read_chunk(&self.runner, files, at, len).await;
        let found = match read {
            Ok(Some(buf)) => Some(crc32fast::hash(buf.filled())),
            Ok(None) => None,
            Err(error) => {
                tracing::warn!(%error, "a fill that was left can't be read");
                None
            }
        };
        self.fill.ahead().prove(chunk, found.unwrap_or(!crc));
        Ok(())
    }

    async fn changed(&mut self) -> Result<(), Problem> {
        // The sender is in the fill, which this holds.
        self.progress.changed().await.map_err(|_gone| Problem::Internal)
    }

    /// What a client is told. What another origin says is not for it.
    fn failure(&self) -> Problem {
        let failure = self.fill.failure().clone();
        let ours = failure.filter(|failure| failure.origin == self.runner.origin);
        ours.map_or(misbehaved("the fill was ended"), |failure| failure.problem)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let (Some(counters), Party::Client) = (self.runner.fills.of(&self.runner.origin), self.party) {
            counters.clients.fetch_sub(1, Ordering::Relaxed);
        }
        self.leave();
    }
}
