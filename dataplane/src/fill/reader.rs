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
    Fill, FillFiles, Pass, Progress, Runner, State,
    ahead::Want,
    extent,
    files::end_of,
    positions::Position,
    run::{misbehaved, read_chunk},
};
use crate::cache::Lease;
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
    party: Party,
    at: Position,
    /// Whether its answer is the whole blob.
    is_whole: bool,
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
    /// There is no room for it: see [`Reader::pass_from_start`].
    Full,
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
            party,
            at,
            is_whole: false,
            was_verified: state == State::Verified,
        }
    }

    /// Its length in bytes, if anybody has told it.
    pub fn size_bytes(&self) -> Option<u64> {
        self.fill.size_bytes.get().copied().or(self.runner.size_bytes)
    }

    /// Its answer is the whole blob, in order.
    pub fn take_whole(&mut self) {
        self.is_whole = true;
    }

    /// Goes ahead for `span` of a blob, if that is worth it. A part of a few bytes always does: who probes does not
    /// want the whole.
    pub fn go_ahead(&mut self, span: Span) {
        self.is_whole = span.start == 0 && self.size_bytes() == Some(span.end);
        let near = self.progress.borrow().frontier + FILL_NEAR_CHUNKS * FILL_CHUNK_BYTES;
        if !self.is_whole && !span.is_empty() && (span.len() < PROBE_BYTES || span.start >= near) {
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
        self.fill.go_on(self.runner.clone());
        loop {
            let Progress { state, failures, .. } = *self.progress.borrow_and_update();
            let is_long =
                || self.fill.size_bytes.get().is_some_and(|size_bytes| *size_bytes > HELD_BACK_BYTES);
            match state {
                State::Verified => return Ok(Ready::Begun),
                State::Here => return Ok(Ready::Here),
                State::Again => return Ok(Ready::Again),
                State::Full => return Ok(Ready::Full),
                State::Lost => return Err(self.failure()),
                State::Waiting | State::Running if failures != self.failures => return Err(self.failure()),
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
                State::Lost => return Err(self.failure()),
                State::Waiting | State::Running => {}
            }
            if self.end(span).is_none_or(|end| end > span.start) && self.file().is_some() {
                return Ok(Ready::Begun);
            }
            self.step_ahead(span, 0).await?;
        }
    }

    /// Its files and its length in bytes, once it is [`Ready::Begun`].
    pub fn file(&self) -> Option<(&FillFiles, u64)> {
        Some((self.fill.files.get()?, *self.fill.size_bytes.get()?))
    }

    /// What its bytes are counted by, to be kept as long as its file.
    pub fn lease(&self) -> Option<Arc<Lease>> {
        self.fill.lease.get().cloned()
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
            (State::Waiting | State::Running, Way::InOrder) if failures != self.failures => {
                Err(self.failure())
            }
            (State::Waiting | State::Running, Way::InOrder) => self.changed().await,
            (State::Waiting | State::Running, Way::Ahead) => self.step_ahead(span, FILL_RESUMES_MAX).await,
        };
        waited.map(|()| Advance::Look)
    }

    /// An answer with `span`, from its start, of a blob for which there is no room.
    ///
    /// Errors: [`Problem::Overloaded`]: there are too many; [`Problem::DiskFull`]: nobody has told its length.
    pub fn pass_from_start(&self, span: Span) -> Result<Pass, Problem> {
        let size_bytes = self.size_bytes().ok_or(Problem::DiskFull)?;
        let is_whole = span.start == 0 && span.end == size_bytes;
        let hasher = is_whole.then(|| Hasher::new(self.fill.digest.algorithm()));
        Pass::new(self.runner.clone(), self.fill.digest, size_bytes, span, hasher)
    }

    /// What is left of the answer, once there is no room for the blob.
    async fn pass(&self, span: Span) -> Result<Pass, Problem> {
        let size_bytes = self.size_bytes().ok_or(Problem::DiskFull)?;
        let (runner, digest) = (self.runner.clone(), self.fill.digest);
        if !self.is_whole {
            return Pass::new(runner, digest, size_bytes, span, None);
        }
        // What is in the file was hashed by the run.
        let run = self.fill.idle().as_ref().map(|ingest| (ingest.hasher.clone(), ingest.tail.offset));
        let Some((hasher, frontier)) = run.filter(|(_, frontier)| *frontier >= span.start) else {
            return Err(Problem::DiskFull);
        };
        let rest = Span { start: frontier, end: span.end };
        let mut pass = Pass::new(runner, digest, size_bytes, rest, Some(hasher))?;
        if frontier > span.start {
            let (files, _) = self.file().ok_or(Problem::Internal)?;
            let len = (frontier - span.start) as usize;
            let read = read_chunk(&self.runner, files, span.start, len).await;
            let buf = read.ok().flatten().ok_or(Problem::Internal)?;
            pass.precede(Bytes::copy_from_slice(buf.filled()));
        }
        Ok(pass)
    }

    /// One step towards the start of `span`. An extent that does not bring it is begun again so many times.
    async fn step_ahead(&mut self, span: Span, retries: u32) -> Result<(), Problem> {
        let chunk = span.start / FILL_CHUNK_BYTES;
        let mut begun = 0;
        loop {
            self.progress.mark_unchanged();
            let want = self.fill.ahead().want(chunk, span.end.div_ceil(FILL_CHUNK_BYTES));
            match want {
                Want::There(_) => return Ok(()),
                Want::Prove(crc) => return self.prove(chunk, crc).await,
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
                    self.fill.go_on(self.runner.clone());
                    return self.in_order(span).await;
                }
                Want::Wait => {}
            }
            self.changed().await?;
            if !matches!(self.progress.borrow().state, State::Waiting | State::Running) {
                return Ok(());
            }
            if begun > retries && self.fill.ahead().is_missing(chunk) {
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
            _ => Err(self.failure()),
        }
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

    fn failure(&self) -> Problem {
        self.fill.failure().clone().unwrap_or(misbehaved("the fill was ended"))
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let (Some(counters), Party::Client) = (self.runner.fills.of(&self.runner.origin), self.party) {
            counters.clients.fetch_sub(1, Ordering::Relaxed);
        }
        self.fill.readers.fetch_sub(1, Ordering::SeqCst);
    }
}
