//! A blob without room on its way through: one stream from the origin for all who are about equally far.
//!
//! It is a fill with a window of memory in place of its file: one task fetches, hashes and tells, and readers follow it,
//! woken. What differs is that what is too old goes, and that the origin is read no faster than the fastest reader.
//!
//! Invariants: nobody but the fastest reader slows the stream. It ends when nobody follows it. No more than
//! [`PASS_WINDOWS_MAX`] at the same time, until the last who follows them has gone.

use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use control::Origin;
use oci::{Digest, Hasher, Problem};
use tokio::sync::{Notify, watch};

use super::{
    Fills, Runner,
    run::{add, misbehaved},
    source::Source,
    window::{Look, Piece, Window},
};
use crate::io::hash;
use crate::limits::{HELD_BACK_BYTES, PASS_PIECE_BYTES, PASS_WINDOWS_MAX};

pub(super) struct Stream {
    digest: Digest,
    /// Whose answer it is. Why it fails is told to nobody who has another: those ask their own.
    origin: Origin,
    /// Where it begins, and the hash of what lies before.
    start: u64,
    begun: Hasher,
    /// Once it is known; at the latest when all has come.
    size_bytes: OnceLock<u64>,
    /// A mutex, because readers on all cores look; held for a look-up, once for each piece.
    window: Mutex<Window>,
    /// Also told that more has come.
    verdict: watch::Sender<Verdict>,
    followers: AtomicUsize,
    /// Somebody has moved on, or left.
    moved: Notify,
    fills: Arc<Fills>,
}

#[derive(Clone, Debug)]
enum Verdict {
    /// More is to come.
    Open,
    /// All came, and is what the digest says.
    Right,
    /// It does not come, or is something else.
    Failed(Problem),
}

impl Stream {
    /// One that begins at `start`, where the bytes before hash to `begun`. `None`: there are as many as may be.
    pub(super) fn new(runner: &Runner, digest: Digest, start: u64, begun: Hasher) -> Option<Stream> {
        let fills = &runner.fills;
        if fills.passing.windows.fetch_add(1, Ordering::Relaxed) >= PASS_WINDOWS_MAX {
            fills.passing.windows.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Stream {
            digest,
            origin: runner.origin,
            start,
            begun,
            size_bytes: OnceLock::new(),
            window: Mutex::new(Window::at(start, fills.passing.memory.clone())),
            verdict: watch::Sender::new(Verdict::Open),
            followers: AtomicUsize::new(0),
            moved: Notify::new(),
            fills: fills.clone(),
        })
    }

    pub(super) fn digest(&self) -> &Digest {
        &self.digest
    }

    pub(super) fn is_followed(&self) -> bool {
        self.followers.load(Ordering::SeqCst) > 0
    }

    /// Waits until more is wanted. `false`: nobody is there any more.
    async fn is_wanted(self: &Arc<Stream>) -> bool {
        loop {
            if !self.is_followed() && self.fills.ends(self) {
                return false;
            }
            // Until its length is known nobody can be told anything, so nobody moves.
            if self.size_bytes.get().is_none() || self.window().wants_more() {
                return true;
            }
            self.moved.notified().await;
        }
    }

    fn window(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.fills.passing.windows.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Says that the stream has failed if its task is dropped, as it is when its core ends.
struct Running(Arc<Stream>);

impl Drop for Running {
    fn drop(&mut self) {
        let stream = &self.0;
        // The next who wants the blob begins anew, or finds room.
        stream.fills.forget_stream(stream);
        stream.verdict.send_if_modified(|verdict| {
            let is_open = matches!(verdict, Verdict::Open);
            if is_open {
                *verdict = Verdict::Failed(misbehaved("the upstream's answer was given up"));
            }
            is_open
        });
    }
}

/// Passes a blob on until it is over or nobody follows.
pub(super) async fn run(runner: Runner, stream: Arc<Stream>, mut source: Source) {
    let running = Running(stream.clone());
    let mut hasher = stream.begun.clone();
    while stream.is_wanted().await {
        if let Some(size_bytes) = source.size_bytes() {
            let _the_same_as_before = stream.size_bytes.set(size_bytes);
        }
        let verdict = match source.next().await {
            Ok(Some(bytes)) => {
                for part in bytes.chunks(PASS_PIECE_BYTES) {
                    let before = hasher.clone();
                    hash(&mut hasher, part);
                    stream.window().push(part, before);
                }
                Verdict::Open
            }
            Ok(None) if hasher.clone().finish() == stream.digest => Verdict::Right,
            Ok(None) => {
                tracing::error!(digest = %stream.digest, "an upstream gave other bytes");
                add(runner.fills.of(&runner.origin), |counters| &counters.mismatches, 1);
                Verdict::Failed(misbehaved("the upstream's blob is not what its digest says"))
            }
            Err(problem) => Verdict::Failed(problem),
        };
        if let Some(size_bytes) = source.size_bytes() {
            let _the_same_as_before = stream.size_bytes.set(size_bytes);
        }
        let is_over = !matches!(verdict, Verdict::Open);
        stream.verdict.send_replace(verdict);
        if is_over {
            break;
        }
    }
    drop(running);
}

/// One for whom a stream goes on.
pub(super) struct Following(Arc<Stream>);

impl Following {
    pub(super) fn of(stream: &Arc<Stream>) -> Following {
        stream.followers.fetch_add(1, Ordering::SeqCst);
        Following(stream.clone())
    }

    /// Where it begins.
    pub(super) fn start(&self) -> u64 {
        self.0.start
    }

    /// The length of its blob, which may not be known before all of it has come.
    ///
    /// Errors: it can't be had; [`Problem::Overloaded`]: not from there, and `origin` is another.
    pub(super) async fn size_bytes(&self, origin: &Origin) -> Result<u64, Problem> {
        let mut verdict = self.0.verdict.subscribe();
        loop {
            let seen = verdict.borrow_and_update().clone();
            match (seen, self.0.size_bytes.get()) {
                (Verdict::Failed(_), _) if self.0.origin != *origin => {
                    return Err(Problem::Overloaded { retry_after_s: 1 });
                }
                (Verdict::Failed(problem), _) => return Err(problem),
                (Verdict::Open | Verdict::Right, Some(size_bytes)) => return Ok(*size_bytes),
                (Verdict::Open | Verdict::Right, None) => {}
            }
            // The sender is in the stream, which this holds.
            verdict.changed().await.map_err(|_gone| Problem::Internal)?;
        }
    }
}

impl Clone for Following {
    fn clone(&self) -> Following {
        Following::of(&self.0)
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        if self.0.followers.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.moved.notify_one();
        }
    }
}

/// An answer with the whole blob, or with all that is left of it, that follows a stream.
pub(super) struct Shared {
    following: Following,
    /// Its own.
    origin: Origin,
    verdict: watch::Receiver<Verdict>,
    size_bytes: u64,
    /// The next byte that is sent.
    at: u64,
    /// What is in hand from there.
    bytes: Bytes,
    /// What those are of. `None`: they lie before the stream's start.
    piece: Option<Arc<Piece>>,
    is_right: bool,
}

/// One who has fallen out: what it goes on from, the hash of what lies before, and the end of that, which it still has to
/// send.
pub(super) struct Fallen {
    pub(super) at: u64,
    pub(super) hasher: Hasher,
    pub(super) first: Bytes,
}

impl Shared {
    /// An answer that goes on with `first`, which lies just before the stream's start.
    pub(super) fn new(following: Following, origin: Origin, size_bytes: u64, first: Bytes) -> Shared {
        let (at, verdict) = (following.start() - first.len() as u64, following.0.verdict.subscribe());
        Shared { following, origin, verdict, size_bytes, at, bytes: first, piece: None, is_right: false }
    }

    pub(super) fn is_over(&self) -> bool {
        self.is_right && self.at == self.size_bytes
    }

    pub(super) fn sendable(&mut self) -> Option<Bytes> {
        // Before the look: what comes after it is told.
        self.is_right |= matches!(*self.verdict.borrow_and_update(), Verdict::Right);
        if self.bytes.is_empty()
            && let Look::Piece(piece) = self.look()
        {
            self.bytes = piece.from(self.at);
            self.piece = Some(piece);
        }
        let held = if self.is_right { 0 } else { HELD_BACK_BYTES };
        let free = self.size_bytes.saturating_sub(held).saturating_sub(self.at);
        let len = usize::try_from(free).unwrap_or(usize::MAX).min(self.bytes.len());
        (len > 0).then(|| self.bytes.slice(..len))
    }

    pub(super) fn advance(&mut self, count: usize) {
        let _sent = self.bytes.split_to(count);
        self.at += count as u64;
    }

    /// Waits until something may be sent, or all was. Inside: it has fallen out, and what it wants is gone.
    ///
    /// Errors: the answer has to be cut.
    pub(super) async fn more(&mut self) -> Result<Option<Fallen>, Problem> {
        while !self.is_over() && self.sendable().is_none() {
            if self.bytes.is_empty() && matches!(self.look(), Look::Gone) {
                return Ok(Some(self.fallen()));
            }
            if let Verdict::Failed(problem) = &*self.verdict.borrow() {
                let is_ours = self.following.0.origin == self.origin;
                return if is_ours { Err(problem.clone()) } else { Ok(Some(self.fallen())) };
            }
            // The sender is in the stream, which this holds.
            self.verdict.changed().await.map_err(|_gone| Problem::Internal)?;
        }
        Ok(None)
    }

    fn fallen(&self) -> Fallen {
        let stream = &self.following.0;
        match &self.piece {
            Some(piece) => Fallen { at: self.at, hasher: piece.hash_at(self.at), first: Bytes::new() },
            None => Fallen { at: stream.start, hasher: stream.begun.clone(), first: self.bytes.clone() },
        }
    }

    fn look(&self) -> Look {
        let stream = &self.following.0;
        let mut window = stream.window();
        let look = window.look(self.at);
        if window.wants_more() {
            stream.moved.notify_one();
        }
        look
    }
}
