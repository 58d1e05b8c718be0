//! Bytes on their way in: a session in the hands of the one request that may write to it.
//!
//! Owns: [`Upload`], the hash that goes along with the bytes, the space that is promised to them.
//!
//! Invariants: at most one write is in flight, and it goes to the end of the file. Hash and offset advance
//! together, when it has succeeded. An upload that is dropped goes back to the table only after the write in
//! flight has ended, so that a late write never falls onto the bytes of a later request.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use oci::{Algorithm, Digest, Hasher, Problem, UploadId};
use tokio::sync::oneshot;

use super::{
    OVERLOADED, Shared,
    keeper::Member,
    problem_of,
    sessions::{Files, Open, open_files},
};
use crate::{
    io::{File, Fs, Instant, Io, hash},
    limits::{ALLOCATE_ABOVE_BYTES, ALLOCATE_BYTES, BUF_BYTES, REHASH_STEP_BYTES, WRITE_BACK_BYTES},
};

/// A session taken out of the table: the only one who may write. Dropping it puts it back at the end of
/// the last write that succeeded.
pub struct Upload {
    shared: Arc<Shared>,
    /// `None` only after a call that took the upload for good.
    open: Option<Box<Open>>,
    in_flight: Option<InFlight>,
    pledge: Pledge,
    /// Up to where space was allocated ahead for the body that was declared.
    ahead: u64,
    /// Where that body ends; 0 if it is small.
    ahead_until: u64,
    /// Up to where that space is held on the volume, and no longer promised.
    held: u64,
}

/// A write that was started, and the session's hash once it has succeeded.
struct InFlight {
    io: Io,
    // Boxed, because the type of the future has no name; once for up to 256 KiB.
    write: Pin<Box<dyn Future<Output = io::Result<()>>>>,
    running: Option<Hasher>,
    len: u64,
    /// Bytes of it that were promised until now.
    promised: u64,
}

/// Free bytes that are promised to one upload. They count until the volume counts them, or this is dropped.
pub(super) struct Pledge {
    shared: Arc<Shared>,
    bytes: u64,
}

impl Upload {
    pub(super) fn new(shared: Arc<Shared>, open: Box<Open>) -> Upload {
        let pledge = Pledge { shared: shared.clone(), bytes: 0 };
        Upload { shared, open: Some(open), in_flight: None, pledge, ahead: 0, ahead_until: 0, held: 0 }
    }

    /// The session's id.
    pub fn id(&self) -> UploadId {
        self.open().id
    }

    /// The next byte that is expected: behind all that was pushed and not refused.
    pub fn offset(&self) -> u64 {
        self.open().offset + self.in_flight.as_ref().map_or(0, |write| write.len)
    }

    /// What the bytes are hashed with as they arrive.
    pub fn algorithm(&self) -> Algorithm {
        self.open().algorithm
    }

    /// Announces a body of this length. Room for it is set aside until this upload is put back or committed.
    ///
    /// Errors: [`Problem::BlobTooLarge`], [`Problem::DiskFull`], [`Problem::WritesRefused`]; the session is
    /// unchanged.
    pub fn declare(&mut self, body_bytes: u64) -> Result<(), Problem> {
        let end = self.end_after(body_bytes)?;
        self.pledge.cover(body_bytes)?;
        if body_bytes > ALLOCATE_ABOVE_BYTES {
            self.ahead = self.offset();
            self.ahead_until = end;
        }
        Ok(())
    }

    /// Sees to it that the next `len` bytes have room. The write before has ended.
    ///
    /// Errors: [`Problem::DiskFull`], [`Problem::BlobTooLarge`], [`Problem::WritesRefused`], [`Problem::Internal`]; the
    /// session is unchanged.
    pub async fn admit(&mut self, io: &Io, len: u64) -> Result<(), Problem> {
        self.shared.allowed()?;
        let end = self.end_after(len)?;
        let files = self.files(io).await?;
        self.allocate_ahead(io, &files.data, end).await?;
        self.pledge.cover(self.unheld(end, len))
    }

    /// How many of the last `len` bytes before `end` are not held on the volume.
    fn unheld(&self, end: u64, len: u64) -> u64 {
        end - self.held.clamp(end - len, end)
    }

    /// Hashes `bytes` and writes the same bytes, after the write before has ended.
    ///
    /// Errors: [`Problem::DiskFull`] or [`Problem::Internal`] of this write or of the one before, which
    /// leave the session at the last write that succeeded; [`Problem::BlobTooLarge`],
    /// [`Problem::WritesRefused`], [`Problem::Overloaded`].
    pub async fn push(&mut self, io: &Io, bytes: Bytes) -> Result<(), Problem> {
        if bytes.is_empty() {
            return Ok(());
        }
        let len = bytes.len() as u64;
        self.written().await?;
        self.admit(io, len).await?;
        let promised = self.unheld(self.offset() + len, len);
        let files = self.files(io).await?;
        self.write_back(io, &files.data);
        let open = self.open();
        let write = Box::pin(io.write(&files.data, open.offset, bytes.clone()));
        // A copy, so that a write that fails leaves the hash of what is there.
        let mut running = open.running.clone();
        if let Some(hasher) = &mut running {
            hash(hasher, &bytes);
        }
        self.in_flight = Some(InFlight { io: io.clone(), write, running, len, promised });
        Ok(())
    }

    /// Waits for the last write and appends the record of the session's state: what a 202 promises.
    ///
    /// Errors: as [`Upload::push`].
    pub async fn settle(&mut self, io: &Io) -> Result<(), Problem> {
        self.written().await?;
        let files = self.files(io).await?;
        let boot = self.shared.boot;
        let (at, record) = self.open_mut().next_record(&boot, None);
        let written = io.fs(move |fs| fs.write_all_at(&files.state, at, &record)).await;
        written.map_err(|error| problem_of(&error))
    }

    /// Back into the table.
    pub fn put_back(self) {
        drop(self);
    }

    /// The session and its bytes go.
    pub async fn discard(mut self, io: &Io) {
        // The outcome of the last write does not matter, only that it has ended.
        let _ = self.written().await;
        if self.shared.allowed().is_err() {
            return;
        }
        let Some(open) = self.open.take() else { return };
        let id = open.id;
        if let Err(error) = self.shared.remove(io, vec![*open]).await {
            tracing::warn!(%id, %error, "an upload was not removed; it will expire");
        }
    }

    /// Makes the bytes the blob `digest`: Ok means that they, their name and their row are durable. (end-6)
    ///
    /// Once the digest was found right, dropping the future stops nothing.
    ///
    /// Errors: [`Problem::DigestMismatch`], which leaves the session as it was; of the last write, as
    /// [`Upload::push`]; [`Problem::Overloaded`]; [`Problem::DiskFull`]; [`Problem::WritesRefused`]; what the
    /// metadata says to this member.
    pub async fn commit(mut self, io: &Io, digest: Digest) -> Result<(), Problem> {
        self.written().await?;
        self.shared.allowed()?;
        let files = self.files(io).await?;
        let computed = self.digest(io, &files.data, digest.algorithm()).await?;
        if computed != digest {
            return Err(Problem::DigestMismatch { expected: digest, computed });
        }
        let (answer, reply) = oneshot::channel();
        let Some(open) = self.open.take() else { return Err(Problem::Internal) };
        if let Err(member) = self.shared.queue.push(Member { open, files, digest, answer }) {
            self.open = Some(member.open);
            return Err(OVERLOADED);
        }
        // What it was promised is written by now.
        drop(self);
        reply.await.unwrap_or(Err(Problem::Internal))
    }

    fn open(&self) -> &Open {
        self.open.as_deref().expect("only calls that consume the upload take the session out")
    }

    fn open_mut(&mut self) -> &mut Open {
        self.open.as_deref_mut().expect("only calls that consume the upload take the session out")
    }

    fn end_after(&self, more_bytes: u64) -> Result<u64, Problem> {
        let limit_bytes = self.shared.settings.blob_bytes_max;
        let end = self.offset().checked_add(more_bytes).filter(|end| *end <= limit_bytes);
        end.ok_or(Problem::BlobTooLarge { limit_bytes })
    }

    /// Waits for the write in flight, and takes over hash and offset if it succeeded.
    ///
    /// Errors: [`Problem::DiskFull`] or [`Problem::Internal`]: what was pushed last is not in the session.
    pub async fn written(&mut self) -> Result<(), Problem> {
        let Some(in_flight) = &mut self.in_flight else { return Ok(()) };
        // Left in place while it runs: this future may be dropped.
        let result = in_flight.write.as_mut().await;
        let Some(in_flight) = self.in_flight.take() else { return Err(Problem::Internal) };
        result.map_err(|error| problem_of(&error))?;
        self.pledge.spend(in_flight.promised);
        in_flight.advance(self.open_mut());
        Ok(())
    }

    async fn files(&mut self, io: &Io) -> Result<Files, Problem> {
        if let Some(files) = &self.open().files {
            return Ok(files.clone());
        }
        let id = self.id();
        let files = io.fs(move |fs| open_files(fs, &id)).await.map_err(|error| problem_of(&error))?;
        let open = self.open_mut();
        open.files = Some(files.clone());
        open.reopened |= open.offset > 0;
        Ok(files)
    }

    /// Sees to it that a large body which was declared has space up to `end` and some steps on.
    async fn allocate_ahead(&mut self, io: &Io, data: &File, end: u64) -> Result<(), Problem> {
        while self.ahead < end.min(self.ahead_until) {
            let (at, until) = (self.ahead, self.ahead_until.min(self.ahead + ALLOCATE_BYTES));
            let data = data.clone();
            // Counted before it happens: also of a failure, or when nobody waits any more, something may be
            // there to give back.
            let open = self.open_mut();
            open.allocated = open.allocated.max(until);
            let allocated = io.fs(move |fs| fs.allocate(&data, at, until - at)).await;
            if allocated.map_err(|error| problem_of(&error))? {
                self.held = until;
                self.pledge.spend(until - at);
            }
            self.ahead = until;
        }
        Ok(())
    }

    /// Starts the write-back of what came since the last time, so that a commit has little to wait for.
    fn write_back(&mut self, io: &Io, data: &File) {
        let open = self.open_mut();
        let (at, end) = (open.written_back, open.offset);
        if end - at < WRITE_BACK_BYTES {
            return;
        }
        open.written_back = end;
        let data = data.clone();
        // A hint: if it fails or is not taken, the sync does all the work, and tells of errors.
        drop(io.fs(move |fs| fs.write_back(&data, at, end - at)));
    }

    /// The digest of all bytes: from the running hash, else from the file, read once more.
    async fn digest(&self, io: &Io, data: &File, algorithm: Algorithm) -> Result<Digest, Problem> {
        let open = self.open();
        if let Some(hasher) = &open.running
            && hasher.algorithm() == algorithm
        {
            return Ok(hasher.clone().finish());
        }
        self.shared.counters.rehashes.fetch_add(1, Ordering::Relaxed);
        let mut hasher = Hasher::new(algorithm);
        let mut at = 0;
        while at < open.offset {
            let end = open.offset.min(at + REHASH_STEP_BYTES);
            let data = data.clone();
            let hashed = io.fs(move |fs| hash_part(fs, &data, hasher, at, end)).await;
            hasher = hashed.map_err(|error| problem_of(&error))?;
            at = end;
        }
        Ok(hasher.finish())
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        let Some(mut open) = self.open.take() else { return };
        let shared = self.shared.clone();
        match self.in_flight.take() {
            None => shared.sessions.insert(open),
            Some(mut in_flight) => in_flight.io.clone().spawn(async move {
                match in_flight.write.as_mut().await {
                    Ok(()) => in_flight.advance(&mut open),
                    Err(error) => {
                        tracing::debug!(id = %open.id, %error, "the last write of a dropped upload")
                    }
                }
                shared.sessions.insert(open);
            }),
        }
    }
}

impl InFlight {
    fn advance(self, open: &mut Open) {
        open.running = self.running;
        open.offset += self.len;
        open.progress = Instant::now();
    }
}

impl Pledge {
    /// Has at least `bytes` promised.
    fn cover(&mut self, bytes: u64) -> Result<(), Problem> {
        let more = bytes.saturating_sub(self.bytes);
        if more == 0 {
            return self.shared.allowed();
        }
        // Counted before it is looked at, so that two who look at the same time don't both get the last of it.
        let promised = self.shared.promised_bytes.fetch_add(more, Ordering::Relaxed);
        self.bytes += more;
        let room = self.shared.room_beside(more, promised);
        if room.is_err() {
            self.spend(more);
        }
        room
    }

    /// These bytes are on the volume, or are not wanted any more.
    fn spend(&mut self, bytes: u64) {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        self.shared.promised_bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Pledge {
    fn drop(&mut self) {
        self.spend(self.bytes);
    }
}

/// Hashes a part of a file. It is an error if the file ends before `end`.
pub(super) fn hash_part(fs: &Fs, file: &File, mut hasher: Hasher, at: u64, end: u64) -> io::Result<Hasher> {
    let mut piece = vec![0; BUF_BYTES];
    let mut at = at;
    while at < end {
        let len = usize::try_from(end - at).unwrap_or(usize::MAX).min(piece.len());
        if fs.read_at(file, at, &mut piece[..len])? < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        hash(&mut hasher, &piece[..len]);
        at += len as u64;
    }
    Ok(hasher)
}
