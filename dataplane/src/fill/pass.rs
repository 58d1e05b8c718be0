//! An answer that goes through without being kept, because there is no room for its blob: its own request to the
//! origin, a little memory, and verified like any other.
//!
//! Invariants: at most [`PASSES_MAX`] at a time. What is held in memory is what is held back, and one piece more. An
//! answer with all of a blob does not become whole before the blob was verified.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use oci::{Digest, Hasher, Problem, Span};
use tokio::sync::mpsc;

use super::{Fills, Runner, run::misbehaved};
use crate::limits::{FILL_RESUME_PAUSE, FILL_RESUMES_MAX, HELD_BACK_BYTES, PASSES_MAX};

/// What is left to send of such an answer.
pub struct Pass {
    runner: Runner,
    digest: Digest,
    /// Of the whole blob, in bytes.
    size_bytes: u64,
    /// What came and was not sent.
    pieces: VecDeque<Bytes>,
    pieces_bytes: u64,
    /// What is still to come.
    rest: Span,
    source: Option<mpsc::Receiver<Result<Bytes, Problem>>>,
    /// Of the blob's bytes so far, if it is all of the blob that is sent; gone when they were found right.
    hasher: Option<Hasher>,
    has_begun: bool,
    resumes: u32,
    _place: Place,
}

/// One of the places for such answers.
struct Place(Arc<Fills>);

impl Place {
    fn take(fills: &Arc<Fills>) -> Result<Place, Problem> {
        if fills.passing.fetch_add(1, Ordering::Relaxed) >= PASSES_MAX {
            fills.passing.fetch_sub(1, Ordering::Relaxed);
            return Err(Problem::Overloaded { retry_after_s: 1 });
        }
        Ok(Place(fills.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.passing.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How many there are.
pub(super) type Passing = AtomicUsize;

impl Pass {
    /// An answer with `span` of a blob; `hasher` has the bytes before it, if with them the answer is the whole blob.
    ///
    /// Errors: [`Problem::Overloaded`]: there are too many.
    pub(super) fn new(
        runner: Runner,
        digest: Digest,
        size_bytes: u64,
        span: Span,
        hasher: Option<Hasher>,
    ) -> Result<Pass, Problem> {
        let place = Place::take(&runner.fills)?;
        if let Some(counters) = runner.fills.of(&runner.origin) {
            counters.passes.fetch_add(1, Ordering::Relaxed);
        }
        Ok(Pass {
            runner,
            digest,
            size_bytes,
            pieces: VecDeque::new(),
            pieces_bytes: 0,
            rest: span,
            source: None,
            hasher,
            has_begun: false,
            resumes: 0,
            _place: place,
        })
    }

    /// Puts bytes before the others that are already hashed: they lie just before the span.
    pub(super) fn precede(&mut self, bytes: Bytes) {
        self.has_begun = true;
        self.pieces_bytes += bytes.len() as u64;
        self.pieces.push_front(bytes);
    }

    /// Waits until something may be sent, or all was. A whole blob that could be held back whole is verified by then.
    ///
    /// Errors: why it can't be had.
    pub async fn begin(&mut self) -> Result<(), Problem> {
        while !self.is_over() && self.sendable().is_none() {
            self.more().await?;
        }
        Ok(())
    }

    /// Nothing is left of it.
    pub fn is_over(&self) -> bool {
        self.rest.is_empty() && self.pieces.is_empty() && self.hasher.is_none()
    }

    /// What may be sent next. `None`: wait for more.
    pub fn sendable(&self) -> Option<Bytes> {
        let held = if self.hasher.is_some() { HELD_BACK_BYTES.min(self.size_bytes) } else { 0 };
        // What is still to come counts: only the end of the blob is held back.
        let free = (self.pieces_bytes + self.rest.len()).saturating_sub(held);
        let piece = self.pieces.front()?;
        let len = usize::try_from(free).unwrap_or(usize::MAX).min(piece.len());
        (len > 0).then(|| piece.slice(..len))
    }

    /// `count` bytes of it are sent.
    pub fn advance(&mut self, count: usize) {
        self.pieces_bytes -= count as u64;
        let mut left = count;
        while left > 0 {
            let Some(piece) = self.pieces.front_mut() else { return };
            let part = piece.split_to(left.min(piece.len()));
            left -= part.len();
            if piece.is_empty() {
                self.pieces.pop_front();
            }
        }
    }

    /// Waits for one piece more, or for the verdict.
    ///
    /// Errors: the answer has to be cut.
    pub async fn more(&mut self) -> Result<(), Problem> {
        if self.rest.is_empty() {
            if self.hasher.take().is_none_or(|hasher| hasher.finish() == self.digest) {
                return Ok(());
            }
            tracing::error!(digest = %self.digest, "an upstream gave other bytes");
            return Err(misbehaved("the upstream's blob is not what its digest says"));
        }
        let next = match &mut self.source {
            Some(source) => source.recv().await,
            None => match self.open().await {
                Ok(()) => return Ok(()),
                // The first answer decides at once what the client is told.
                Err(problem) if !self.has_begun => return Err(problem),
                Err(problem) => Some(Err(problem)),
            },
        };
        let bytes = match next {
            Some(Ok(bytes)) => bytes,
            broken => {
                let why = broken.map_or(misbehaved("the upstream's answer ended early"), |broken| {
                    broken.err().unwrap_or(Problem::Internal)
                });
                if self.resumes == FILL_RESUMES_MAX {
                    return Err(why);
                }
                self.resumes += 1;
                self.source = None;
                let until = self.runner.io.now() + FILL_RESUME_PAUSE * self.resumes;
                self.runner.io.sleep_until(until).await;
                return Ok(());
            }
        };
        self.take(bytes);
        Ok(())
    }

    fn take(&mut self, mut bytes: Bytes) {
        bytes.truncate(usize::try_from(self.rest.len()).unwrap_or(usize::MAX));
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&bytes);
        }
        self.has_begun = true;
        self.rest.start += bytes.len() as u64;
        self.pieces_bytes += bytes.len() as u64;
        if !bytes.is_empty() {
            self.pieces.push_back(bytes);
        }
    }

    async fn open(&mut self) -> Result<(), Problem> {
        let to = (self.rest.end < self.size_bytes).then_some(self.rest.end);
        let span = (self.rest.start, to);
        let fetched = self.runner.control.fetch(self.runner.origin, self.digest, span).await?;
        let mut fetched = fetched.ok_or(Problem::BlobUnknown(self.digest))?;
        if fetched.size_bytes.is_some_and(|told| told != self.size_bytes) {
            return Err(misbehaved("the upstream tells another length than before"));
        }
        let Some(mut skip) = self.rest.start.checked_sub(fetched.start) else {
            return Err(misbehaved("the upstream answered with another range"));
        };
        // An origin without ranges begins at 0 again.
        while skip > 0 {
            let Some(bytes) = fetched.bytes.recv().await else { break };
            let mut bytes = bytes?;
            let dropped = skip.min(bytes.len() as u64);
            skip -= dropped;
            let _ = bytes.split_to(dropped as usize);
            self.take(bytes);
        }
        self.source = Some(fetched.bytes);
        Ok(())
    }
}
