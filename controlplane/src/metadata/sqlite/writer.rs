//! The one thread that changes metadata: it takes what waits, and makes it one transaction.
//!
//! Invariants: replies come after COMMIT. A COMMIT or checkpoint that returns an error is never tried
//! again (but a checkpoint that found no room: it takes nothing from the log): what is on disk is unknown, so writes are refused from then on, the connection is closed, and
//! only a new process, which recovers the file, may write again. Slots of [`Epochs`] are moved by this
//! thread alone.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{SystemTime, UNIX_EPOCH};

use control::{Epochs, Refusal, Writes};
use oci::Problem;
use rusqlite::Connection;
use rusqlite::ffi::ErrorCode;
use rusqlite::wal::CheckpointMode;

use super::batch::{Batch, Decided, Wish, broken, execute};
use super::faults::Faults;
use super::touches::Touches;
use super::wal;
use crate::limits;
use crate::metrics::Metrics;
use crate::mirror::Names;

/// The thread's own state.
pub(super) struct Writer {
    pub connection: Connection,
    pub inbox: Receiver<Wish>,
    pub touches: Arc<Touches>,
    pub epochs: Arc<Epochs>,
    pub names: Arc<Names>,
    pub writes: Arc<Writes>,
    pub metrics: Arc<Metrics>,
    pub faults: Faults,
    /// The write-ahead log.
    pub wal_path: PathBuf,
    /// Pages in the write-ahead log, set by SQLite's hook after each COMMIT.
    pub wal_pages: Arc<AtomicU64>,
    pub page_bytes: u64,
    /// The clock's last reading, in milliseconds.
    pub now: i64,
    /// WAL size at which the next checkpoint is due.
    pub checkpoint_at_bytes: u64,
}

/// The connection is not to be used any more.
struct Closed;

/// Returns when nobody can ask any more; the touches are written then, and the WAL is emptied.
pub(super) fn run(mut writer: Writer) {
    let mut open = writer.reserve_wal();
    loop {
        if let Err(Closed) = open {
            let Writer { connection, inbox, writes, .. } = writer;
            drop(connection);
            inbox.into_iter().for_each(|wish| wish.fail(refused(&writes)));
            return;
        }
        open = match writer.inbox.recv_timeout(limits::IDLE) {
            Ok(first) => writer.batch(first),
            Err(RecvTimeoutError::Timeout) => writer.idle(),
            Err(RecvTimeoutError::Disconnected) => {
                let _closed_either_way = writer.end();
                return;
            }
        };
    }
}

/// What a change is told while writes are refused.
pub(super) fn refused(writes: &Writes) -> Problem {
    let why = writes.refused().unwrap_or(Refusal::CommitFailed);
    Problem::WritesRefused { why: why.why() }
}

impl Writer {
    fn batch(&mut self, first: Wish) -> Result<(), Closed> {
        let mut size_bytes = first.size_bytes();
        let mut wishes = vec![first];
        while wishes.len() < limits::CHANGES_A_BATCH && size_bytes < limits::BATCH_BYTES {
            let Ok(next) = self.inbox.try_recv() else { break };
            size_bytes += next.size_bytes();
            wishes.push(next);
        }
        if self.writes.refused().is_some() {
            wishes.into_iter().for_each(|wish| wish.fail(refused(&self.writes)));
            return Ok(());
        }
        self.transaction(wishes)?;
        self.checkpoint_if_due()
    }

    fn transaction(&mut self, wishes: Vec<Wish>) -> Result<(), Closed> {
        if let Err(error) = execute(&self.connection, "BEGIN IMMEDIATE") {
            let problem = broken(&error);
            wishes.into_iter().for_each(|wish| wish.fail(problem.clone()));
            return Ok(());
        }
        self.metrics.batch();
        self.now = self.now.max(wall_clock_ms());
        let mut batch = Batch::begun(&self.connection, &self.epochs, &self.names, &self.metrics, self.now);
        let for_touches = wishes.iter().any(|wish| matches!(wish, Wish::Touches));
        wishes.into_iter().for_each(|wish| batch.decide(wish));
        if batch.gone.is_none() && (for_touches || batch.wrote()) {
            batch.touch(&self.touches);
        }
        let wrote = batch.wrote();
        let Batch { mut revoked, decided, gone, .. } = batch;
        if let Some(problem) = gone {
            decided.into_iter().for_each(|one| one.fail(problem.clone()));
            return self.roll_back();
        }
        match self.epochs.revoking(&mut revoked.slots, || self.commit()) {
            Ok(()) => {
                if wrote {
                    self.metrics.commit();
                }
                decided.into_iter().for_each(Decided::tell);
                Ok(())
            }
            Err(error) => {
                tracing::error!(%error, "COMMIT returned an error: writes are refused from now on");
                self.metrics.commit_failure();
                self.writes.refuse(Refusal::CommitFailed);
                decided.into_iter().for_each(|one| one.commit_failed(refused(&self.writes)));
                Err(Closed)
            }
        }
    }

    fn commit(&self) -> rusqlite::Result<()> {
        self.faults.commit(|| execute(&self.connection, "COMMIT"), || execute(&self.connection, "ROLLBACK"))
    }

    /// SQLite gave up before COMMIT: makes sure that the transaction is over.
    fn roll_back(&self) -> Result<(), Closed> {
        if self.connection.is_autocommit() {
            return Ok(());
        }
        execute(&self.connection, "ROLLBACK").map_err(|error| {
            tracing::error!(%error, "ROLLBACK returned an error: writes are refused from now on");
            self.writes.refuse(Refusal::CommitFailed);
            Closed
        })
    }

    /// Writes the touches that wait, and has a log of some size start over.
    fn idle(&mut self) -> Result<(), Closed> {
        self.write_touches()?;
        if self.writes.refused().is_some() || self.wal_bytes() <= limits::WAL_KEEP_BYTES {
            return Ok(());
        }
        if self.wal_bytes() <= limits::WAL_RESERVED_BYTES {
            return self.checkpoint(CheckpointMode::RESTART);
        }
        self.checkpoint(CheckpointMode::TRUNCATE)?;
        self.reserve_wal()
    }

    /// Writes the touches that wait, and empties the log.
    fn end(&mut self) -> Result<(), Closed> {
        self.write_touches()?;
        if self.writes.refused().is_some() {
            return Ok(());
        }
        self.checkpoint(CheckpointMode::TRUNCATE)
    }

    fn write_touches(&mut self) -> Result<(), Closed> {
        for _at_most in 0..=limits::TOUCHES / limits::TOUCHES_A_BATCH {
            if self.writes.refused().is_none() && self.touches.waiting() {
                self.transaction(vec![Wish::Touches])?;
            }
        }
        Ok(())
    }

    fn reserve_wal(&self) -> Result<(), Closed> {
        match wal::extend(&self.wal_path) {
            Ok(log) => self.faults.sync_log(|| log.sync_data()).map_err(|error| {
                tracing::error!(%error, "a sync of the write-ahead log failed: writes are refused from now on");
                self.writes.refuse(Refusal::SyncFailed);
                Closed
            }),
            Err(error) => {
                // Nothing is wrong but the price of a COMMIT; a volume without room says so elsewhere.
                tracing::debug!(%error, "no room is kept for the write-ahead log");
                Ok(())
            }
        }
    }

    fn wal_bytes(&self) -> u64 {
        self.wal_pages.load(Ordering::Relaxed) * self.page_bytes
    }

    fn checkpoint_if_due(&mut self) -> Result<(), Closed> {
        let wal_bytes = self.wal_bytes();
        self.metrics.wal(wal_bytes);
        if wal_bytes < limits::WAL_CHECKPOINT_BYTES {
            self.checkpoint_at_bytes = limits::WAL_CHECKPOINT_BYTES;
        }
        if wal_bytes < self.checkpoint_at_bytes {
            return Ok(());
        }
        if wal_bytes > limits::WAL_ALARM_BYTES {
            tracing::error!(wal_bytes, "the write-ahead log only grows: a reader holds it");
        }
        // A reader may keep the log from starting over; then the next attempt waits for as much again.
        self.checkpoint_at_bytes = wal_bytes + limits::WAL_CHECKPOINT_BYTES;
        self.checkpoint(CheckpointMode::PASSIVE)
    }

    fn checkpoint(&mut self, mode: CheckpointMode) -> Result<(), Closed> {
        let starts_over = matches!(mode, CheckpointMode::TRUNCATE | CheckpointMode::RESTART);
        match self.connection.wal_checkpoint_v2(None::<&str>, mode) {
            Ok(_frames) => {
                self.metrics.checkpoint();
                if starts_over {
                    self.wal_pages.store(0, Ordering::Relaxed);
                    self.metrics.wal(0);
                }
                Ok(())
            }
            // A reader was in the way: the next attempt will do.
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) => Ok(()),
            // No room to copy the log into the file: the log is whole and synced, and stays.
            Err(error) if error.sqlite_error_code() == Some(ErrorCode::DiskFull) => {
                tracing::warn!(%error, "the disk is too full for a checkpoint; it is tried again later");
                Ok(())
            }
            Err(error) => {
                tracing::error!(%error, "a checkpoint returned an error: writes are refused from now on");
                self.writes.refuse(Refusal::SyncFailed);
                Err(Closed)
            }
        }
    }
}

/// Before 1970, or beyond what fits, the machine's clock is wrong and ours stands still.
pub(super) fn wall_clock_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_millis()).ok())
        .unwrap_or(0)
}
