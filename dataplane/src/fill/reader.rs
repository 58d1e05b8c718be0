//! Who waits for a fill, and how much of it an answer may have sent.
//!
//! A part of an answer goes one of two ways. *In order* it follows the frontier, and its end is held back until all was
//! verified. *Ahead* it starts long before the run comes there: it has extents of its own, and goes out at once, since it
//! can't be verified alone and who asks for it verifies it. What it has to wait for the run for, it has in order.

use std::{
    ops::Range,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use oci::{Hasher, Problem, Selected, Span};
use tokio::sync::watch;

use super::{
    Fill, FillFiles, Full, Pass, Progress, Runner, State,
    ahead::{Ticket, Want},
    asked::Asked,
    extent,
    files::end_of,
    memory::Chunk,
    positions::Position,
    run::misbehaved,
};
use crate::io::unix_time;
use crate::limits::{FILL_CHUNK_BYTES, FILL_RESUME_PAUSE, FILL_RESUMES_MAX, HELD_BACK_BYTES};

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
    /// `None`: nobody has told the blob's length yet.
    asked: Option<Asked>,
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
    /// It would take a run, which is not begun for a probe.
    Alone,
}

/// Who waits for others' extents to be over.
struct Queued<'a> {
    fill: &'a Fill,
    ticket: Ticket,
}

impl<'a> Queued<'a> {
    fn begin(fill: &'a Fill, wanted: &[Range<u64>]) -> Queued<'a> {
        Queued { fill, ticket: fill.ahead().queue(wanted) }
    }
}

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.fill.ahead().leave_queue(self.ticket);
    }
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
            asked: None,
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

    /// Whether that was said of it.
    pub fn has_left(&self) -> bool {
        !self.is_counted
    }

    /// Its length in bytes, if anybody has told it.
    pub fn size_bytes(&self) -> Option<u64> {
        self.fill.size_bytes.get().copied().or(self.runner.size_bytes)
    }

    /// What it is answered, of a blob of this length; given back in the order in which it goes out. An answer that begins and
    /// ends as the blob does, and is no probe, is not complete before the blob was verified, whatever becomes of the fill: its
    /// parts go out in the blob's order. Any other has no bytes that another upstream gave, as long as they are not
    /// verified: it passes through.
    #[must_use]
    pub fn answers(&mut self, mut selected: Selected, size_bytes: u64) -> Selected {
        let mut asked = Asked::of(&selected, size_bytes);
        if asked.is_held() && !self.was_verified {
            selected = selected.in_order();
            asked = Asked::of(&selected, size_bytes);
        }
        self.asked = Some(asked);
        selected
    }

    fn is_held(&self) -> bool {
        self.asked.as_ref().is_some_and(Asked::is_held)
    }

    fn is_probe(&self) -> bool {
        self.asked.as_ref().is_some_and(|asked| asked.is_probe)
    }

    fn is_anothers(&self) -> bool {
        self.asked.is_some() && !self.is_held() && !self.fill.givers.are_only(self.runner.origin.upstream)
    }

    /// Its next part. It goes ahead if that is worth it.
    pub fn turns_to(&mut self, part: Span) {
        let frontier = self.progress.borrow().frontier;
        if self.asked.as_ref().is_some_and(|asked| asked.goes_ahead(part.start, frontier)) {
            self.way = Way::Ahead;
            self.at.is_nowhere();
        } else {
            self.way = Way::InOrder;
        }
    }

    /// What it wanted ahead it has of the run, which has failed so many times; no more of them are its own.
    fn turns_in_order(&mut self, failures: u32) {
        self.way = Way::InOrder;
        self.failures = failures;
    }

    /// Whether all of the blob was here, and verified, when this came.
    pub fn is_verified(&self) -> bool {
        self.was_verified
    }

    /// Whether it went ahead.
    pub fn is_ahead(&self) -> bool {
        self.way == Way::Ahead
    }

    /// Waits until an answer can begin whose first part is `first`; `None`: nobody knows. In order, a blob that could be
    /// held back whole is verified by then.
    ///
    /// Errors: why it can't be had.
    pub async fn ready(&mut self, first: Option<Span>) -> Result<Ready, Problem> {
        first.into_iter().for_each(|first| self.turns_to(first));
        if self.way == Way::InOrder && !self.is_anothers() {
            self.go_on()?;
        }
        loop {
            let Progress { state, failures, .. } = *self.progress.borrow_and_update();
            let is_long =
                || self.fill.size_bytes.get().is_some_and(|size_bytes| *size_bytes > HELD_BACK_BYTES);
            match state {
                State::Verified => {
                    let ahead = first.filter(|_| self.way == Way::Ahead);
                    if ahead.is_some_and(|first| {
                        self.fill.ahead().there(first.start / FILL_CHUNK_BYTES).is_none()
                    }) {
                        // The run has brought it meanwhile.
                        self.turns_in_order(failures);
                    }
                    return Ok(Ready::Begun);
                }
                State::Here => return Ok(Ready::Here),
                State::Again => return Ok(Ready::Again),
                // The file has the start, and what comes in its place the rest.
                State::Full
                    if self.way == Way::InOrder
                        && !self.is_anothers()
                        && is_long()
                        && self.full().is_ok_and(|full| full.start > 0) =>
                {
                    return Ok(Ready::Begun);
                }
                State::Full => return Ok(Ready::Full),
                State::Lost if self.is_anothers_failure() => return Ok(Ready::Denied),
                State::Lost => return Err(self.failure()),
                State::Waiting | State::Running if self.is_anothers() => return Ok(Ready::Full),
                State::Waiting | State::Running => {}
            }
            if let (Way::Ahead, Some(first)) = (self.way, first) {
                // Its first attempt decides what the client is told.
                match self.ready_ahead(first).await? {
                    Some(ready) => return Ok(ready),
                    None => continue,
                }
            }
            if failures != self.failures {
                self.outlast_failure(failures)?;
            } else if state == State::Running && is_long() {
                return Ok(Ready::Begun);
            } else if !self.is_counted {
                // Nobody runs it for who has left.
                self.go_on()?;
            }
            self.changed().await?;
        }
    }

    /// `None`: not yet, or it goes in order now.
    async fn ready_ahead(&mut self, first: Span) -> Result<Option<Ready>, Problem> {
        let is_there = self.end(first).is_none_or(|end| end > first.start);
        if !self.is_ahead() {
            return Ok(None);
        }
        if is_there && self.file().is_some() {
            return Ok(Some(Ready::Begun));
        }
        Ok(match self.step_ahead(first, 0).await? {
            Step::Look => None,
            Step::NoRoom => Some(Ready::Full),
            Step::Alone if self.file().is_some() => Some(Ready::Begun),
            Step::Alone => Some(Ready::Full),
        })
    }

    /// Its files and its length in bytes, once it is [`Ready::Begun`].
    pub fn file(&self) -> Option<(&FillFiles, u64)> {
        Some((self.fill.files.get()?, *self.fill.size_bytes.get()?))
    }

    /// Up to where an answer that ends with `span` may be sent: in order, what is there without the end that is held
    /// back; where the room has ended, of several parts only the last has such an end. `None`: all of it, now and later.
    pub fn end(&mut self, span: Span) -> Option<u64> {
        let Progress { frontier, state, failures } = *self.progress.borrow_and_update();
        let there = match self.way {
            Way::InOrder => None,
            Way::Ahead => self.fill.ahead().there(span.start / FILL_CHUNK_BYTES),
        };
        // The run brought this, or brings it now.
        if there.is_none() && self.is_ahead() && state == State::Running && span.start < frontier {
            self.turns_in_order(failures);
        }
        if (self.way, self.party) == (Way::InOrder, Party::Client) {
            self.at.is(span.start);
        }
        match (state, self.way) {
            (State::Verified, _) => None,
            (State::Here | State::Again | State::Lost, _) => Some(0),
            (State::Waiting | State::Running | State::Full, _) if self.is_anothers() => Some(0),
            (State::Waiting | State::Running, Way::InOrder) if failures != self.failures => Some(0),
            // What is in the file goes out of it; where the answer ends is verified by what comes in its place.
            (State::Full, Way::InOrder)
                if self.is_held() && self.size_bytes().is_some_and(|size| span.end < size) =>
            {
                Some(frontier)
            }
            (State::Waiting | State::Running | State::Full, Way::InOrder) => {
                Some(frontier.min(span.end.saturating_sub(HELD_BACK_BYTES)))
            }
            (State::Waiting | State::Running | State::Full, Way::Ahead) => {
                // Whose run stands has it go on, and its end held back; no run goes on for a probe, or without room.
                let is_at_once = self.is_probe() || state == State::Full;
                let brought = if is_at_once { frontier } else { 0 };
                Some(there.map_or(brought, |end| end * FILL_CHUNK_BYTES))
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
            // Its room may have ended just now, and then more of the file may be sent than before.
            (State::Full, _) if self.end(span).is_none_or(|end| end > span.start) => Ok(()),
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
                    Step::NoRoom | Step::Alone => {
                        return self.pass(span).await.map(|pass| Advance::Pass(Box::new(pass)));
                    }
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

    /// What is left of the answer, once there is no room for the blob and all of the file is sent that may be.
    ///
    /// Errors: [`Problem::Overloaded`]: there are too many; [`Problem::Internal`]: the file can't be read.
    async fn pass(&self, span: Span) -> Result<Pass, Problem> {
        let size_bytes = self.size_bytes().ok_or(Problem::Internal)?;
        let (runner, digest) = (self.runner.clone(), self.fill.digest);
        if !self.is_held() {
            return Pass::alone(runner, digest, size_bytes, span, None, Some(Bytes::new()));
        }
        let Full { start, hasher, stream } = self.full()?;
        // What was held back of what is in the file.
        let first = if span.start < *start {
            let (files, _) = self.file().ok_or(Problem::Internal)?;
            let len = (start - span.start) as usize;
            let read = Chunk::read(&self.runner, &self.fill, files, span.start, len).await;
            let chunk = read.ok().flatten().ok_or(Problem::Internal)?;
            let held = runner.fills.passing.memory.hold(len as u64).await;
            held.with(Bytes::copy_from_slice(chunk.as_ref()))
        } else {
            Bytes::new()
        };
        // Who leaves something out would run ahead of all who follow a stream, and take it away from them.
        let mut pass = match stream.as_ref().filter(|_| self.asked.as_ref().is_some_and(Asked::is_one)) {
            Some(stream) => Pass::shared(runner, digest, size_bytes, stream.clone(), first),
            None => {
                let rest = Span { start: *start, end: size_bytes };
                Pass::alone(runner, digest, size_bytes, rest, Some(hasher.clone()), Some(first))?
            }
        };
        if pass.turns_to(span) { Ok(pass) } else { Err(Problem::Internal) }
    }

    fn full(&self) -> Result<&Full, Problem> {
        self.fill.full.get().ok_or(Problem::Internal)
    }

    /// One step towards the start of `span`. An extent that does not bring it is begun again so many times.
    async fn step_ahead(&mut self, span: Span, retries: u32) -> Result<Step, Problem> {
        let fill = self.fill.clone();
        let chunk = span.start / FILL_CHUNK_BYTES;
        let wanted = self.asked.as_ref().map(|asked| asked.chunks(span)).unwrap_or_default();
        let mut begun = 0;
        loop {
            self.progress.mark_unchanged();
            if self.is_anothers() {
                // Nothing is fetched for who may not have it.
                return Ok(Step::Look);
            }
            let want = fill.ahead().want(&wanted);
            let mut queued = None;
            match want {
                Want::There(_) => return Ok(Step::Look),
                Want::Pass => return Ok(Step::NoRoom),
                Want::Prove(crc) => return self.prove(chunk, crc).await.map(|()| Step::Look),
                Want::Fetch(_, _, claim) if !self.is_counted => {
                    fill.ahead().ended(claim);
                    fill.wake();
                    return Err(misbehaved("the client has left"));
                }
                Want::Fetch(first, end, claim) => {
                    let pause = FILL_RESUME_PAUSE * begun;
                    begun += 1;
                    let task = extent::run(self.runner.clone(), fill.clone(), first, end, claim);
                    let io = self.runner.io.clone();
                    self.runner.io.spawn(async move {
                        io.sleep_until(io.now() + pause).await;
                        task.await;
                    });
                }
                Want::OfRun if self.is_probe() && fill.stands() => return Ok(Step::Alone),
                Want::OfRun | Want::InOrder => {
                    let failures = self.progress.borrow().failures;
                    self.turns_in_order(failures);
                    return self.go_on().map(|()| Step::Look);
                }
                // Nothing is begun for who has left.
                Want::Queue if self.is_counted => queued = Some(Queued::begin(&fill, &wanted)),
                Want::Queue | Want::Wait => {}
            }
            self.changed().await?;
            drop(queued);
            if !matches!(self.progress.borrow().state, State::Waiting | State::Running) {
                return Ok(Step::Look);
            }
            if begun > retries && fill.ahead().was_not_had(chunk) {
                return Err(self.failure());
            }
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
        let read = Chunk::read(&self.runner, &self.fill, files, at, len).await;
        let found = match read {
            Ok(Some(chunk)) => Some(crc32fast::hash(chunk.as_ref())),
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
