//! An answer that goes through without being kept, because there is no room for its blob. Those that have the whole blob
//! and are about equally far follow one [`stream`](super::stream); any other has a request of its own to the origin. Of
//! several parts each has one, unless they begin and end as the blob does: those are cut out of one answer with all of it.
//!
//! Invariants: at most [`PASSES_MAX`] requests of their own at a time. What such an answer holds in memory is what is held
//! back, and one piece more. An answer that begins and ends as the blob does is not complete before the blob was verified.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use control::Memory;
use oci::{Digest, Hasher, Problem, Span};

use super::{
    Fills, Runner,
    run::{add, misbehaved},
    source::Source,
    stream::{Fallen, Following, Shared},
};
use crate::io::hash;
use crate::limits::{HELD_BACK_BYTES, PASSES_MAX};

/// What is left to send of such an answer.
pub struct Pass {
    runner: Runner,
    digest: Digest,
    /// Of the whole blob, in bytes.
    size_bytes: u64,
    /// What its way brings, from the next byte on.
    brings: Span,
    /// What is left to send of that, before it turns to another part.
    part: Span,
    way: Way,
}

enum Way {
    Shared(Box<Shared>),
    Own(Box<Own>),
}

/// Where bytes for such an answer are in memory, or come from.
pub(super) struct Passing {
    /// Requests of their own.
    requests: AtomicUsize,
    /// Windows of streams.
    pub(super) windows: AtomicUsize,
    /// What both have: no more than [`PASS_WINDOWS_MAX`](crate::limits::PASS_WINDOWS_MAX) windows, for each request what is
    /// held back and what is on its way, and for each answer what was held back of a file. It is beside what fills have, since
    /// a slow client can hold it for long.
    pub(super) memory: Memory,
}

impl Default for Passing {
    fn default() -> Passing {
        Passing {
            requests: AtomicUsize::default(),
            windows: AtomicUsize::default(),
            memory: Memory::counted(),
        }
    }
}

/// A request of its own.
struct Own {
    /// What came and was not sent.
    pieces: VecDeque<Bytes>,
    pieces_bytes: u64,
    /// Still to come.
    rest_bytes: u64,
    source: Source,
    /// Of the blob's bytes so far, if the answer ends with them; gone when they were found right.
    hasher: Option<Hasher>,
    _place: Place,
}

/// One of the places for such requests.
struct Place(Arc<Fills>);

impl Place {
    fn take(fills: &Arc<Fills>) -> Result<Place, Problem> {
        if fills.passing.requests.fetch_add(1, Ordering::Relaxed) >= PASSES_MAX {
            fills.passing.requests.fetch_sub(1, Ordering::Relaxed);
            return Err(Problem::Overloaded { retry_after_s: 1 });
        }
        Ok(Place(fills.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.passing.requests.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Pass {
    /// All that is left of the blob, in step with others: `first`, which lies before the stream's start, then the stream.
    pub(super) fn shared(
        runner: Runner,
        digest: Digest,
        size_bytes: u64,
        following: Following,
        first: Bytes,
    ) -> Pass {
        let brings = Span { start: following.start() - first.len() as u64, end: size_bytes };
        let way = Way::Shared(Box::new(Shared::new(following, runner.origin, size_bytes, first)));
        Pass { runner, digest, size_bytes, brings, part: brings, way }.counted()
    }

    /// An answer with `span` of a blob, by itself; `hasher` has the bytes before it, if its end waits for all to be verified.
    /// `first` lies before the span and is already hashed; `None`: nobody was told anything yet.
    ///
    /// Errors: [`Problem::Overloaded`]: there are too many.
    pub(super) fn alone(
        runner: Runner,
        digest: Digest,
        size_bytes: u64,
        span: Span,
        hasher: Option<Hasher>,
        first: Option<Bytes>,
    ) -> Result<Pass, Problem> {
        let first_len = first.as_ref().map_or(0, |first| first.len() as u64);
        let brings = Span { start: span.start - first_len, end: span.end };
        let own = Own::new(&runner, digest, size_bytes, span, hasher, first)?;
        let way = Way::Own(Box::new(own));
        Ok(Pass { runner, digest, size_bytes, brings, part: brings, way }.counted())
    }

    /// Goes on with another part, if it brings that: what lies before is dropped. Whether it does.
    #[must_use]
    pub fn turns_to(&mut self, part: Span) -> bool {
        let does = self.brings.start <= part.start && part.end <= self.brings.end;
        if does {
            self.part = part;
        }
        does
    }

    fn counted(self) -> Pass {
        add(self.runner.fills.of(&self.runner.origin), |counters| &counters.passes, 1);
        self
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

    /// Nothing is left of its part; and if that is the last that it brings, what it has to verify is right.
    pub fn is_over(&self) -> bool {
        let is_last = self.part.end == self.brings.end;
        match &self.way {
            _ if !is_last => self.part.is_empty(),
            Way::Shared(shared) => shared.is_over(),
            Way::Own(own) => own.is_over(),
        }
    }

    /// Whether what comes next is dropped, so that no send tells whether anybody is there.
    pub fn is_in_gap(&self) -> bool {
        self.brings.start < self.part.start
    }

    /// What may be sent next. `None`: wait for more.
    pub fn sendable(&mut self) -> Option<Bytes> {
        loop {
            let bytes = match &mut self.way {
                Way::Shared(shared) => shared.sendable(),
                Way::Own(own) => own.sendable(self.size_bytes),
            }?;
            let at_most = |bytes_max: u64| usize::try_from(bytes_max).unwrap_or(usize::MAX).min(bytes.len());
            let dropped = at_most(self.part.start - self.brings.start);
            if dropped == 0 {
                let len = at_most(self.part.len());
                return (len > 0).then(|| bytes.slice(..len));
            }
            self.pass_over(dropped);
        }
    }

    /// `count` bytes of it are sent.
    pub fn advance(&mut self, count: usize) {
        self.part.start += count as u64;
        self.pass_over(count);
    }

    fn pass_over(&mut self, count: usize) {
        self.brings.start += count as u64;
        match &mut self.way {
            Way::Shared(shared) => shared.advance(count),
            Way::Own(own) => own.advance(count),
        }
    }

    /// Waits for one piece more, or for the verdict.
    ///
    /// Errors: the answer has to be cut.
    pub async fn more(&mut self) -> Result<(), Problem> {
        let shared = match &mut self.way {
            Way::Shared(shared) => shared,
            Way::Own(own) => return own.more(&self.digest).await,
        };
        if let Some(Fallen { at, hasher, first }) = shared.more().await? {
            let rest = Span { start: at, end: self.size_bytes };
            let first = (at > 0).then_some(first);
            let own = Own::new(&self.runner, self.digest, self.size_bytes, rest, Some(hasher), first)?;
            self.way = Way::Own(Box::new(own));
        }
        Ok(())
    }
}

impl Own {
    fn new(
        runner: &Runner,
        digest: Digest,
        size_bytes: u64,
        span: Span,
        hasher: Option<Hasher>,
        first: Option<Bytes>,
    ) -> Result<Own, Problem> {
        let place = Place::take(&runner.fills)?;
        add(runner.fills.of(&runner.origin), |counters| &counters.pass_requests, 1);
        let has_begun = first.is_some();
        let pieces: VecDeque<Bytes> = first.into_iter().filter(|first| !first.is_empty()).collect();
        Ok(Own {
            pieces_bytes: pieces.iter().map(|piece| piece.len() as u64).sum(),
            pieces,
            rest_bytes: span.len(),
            source: Source::of(runner.clone(), digest, size_bytes, span, has_begun),
            hasher,
            _place: place,
        })
    }

    fn is_over(&self) -> bool {
        self.rest_bytes == 0 && self.pieces.is_empty() && self.hasher.is_none()
    }

    fn sendable(&self, size_bytes: u64) -> Option<Bytes> {
        let held = if self.hasher.is_some() { HELD_BACK_BYTES.min(size_bytes) } else { 0 };
        // What is still to come counts: only the end of the blob is held back.
        let free = (self.pieces_bytes + self.rest_bytes).saturating_sub(held);
        let piece = self.pieces.front()?;
        let len = usize::try_from(free).unwrap_or(usize::MAX).min(piece.len());
        (len > 0).then(|| piece.slice(..len))
    }

    fn advance(&mut self, count: usize) {
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

    async fn more(&mut self, digest: &Digest) -> Result<(), Problem> {
        if let Some(bytes) = self.source.next().await? {
            if let Some(hasher) = &mut self.hasher {
                hash(hasher, &bytes);
            }
            self.rest_bytes -= bytes.len() as u64;
            self.pieces_bytes += bytes.len() as u64;
            self.pieces.push_back(bytes);
            return Ok(());
        }
        if self.hasher.take().is_none_or(|hasher| hasher.finish() == *digest) {
            return Ok(());
        }
        tracing::error!(%digest, "an upstream gave other bytes");
        Err(misbehaved("the upstream's blob is not what its digest says"))
    }
}
