//! What waits for the writer, and one transaction of it.
//!
//! Invariants: every member has a savepoint of its own, so that a refused one takes nothing with it.
//! No result leaves before the transaction is over.

use control::{CommitFailed, Epochs, PushedBlob};
use oci::{Digest, Problem, RepositoryName};
use rusqlite::Connection;
use rusqlite::ffi::ErrorCode;
use tokio::sync::oneshot;

use super::changes::{Change, Refused, Revoked};
use super::touches::Touches;
use crate::limits;
use crate::metadata::{DeleteManifest, Keep, Mount, NewManifest};
use crate::metrics::Metrics;
use crate::mirror::Names;

/// Where a result goes. Dropped unanswered: the writer is gone.
pub(super) type Told<T> = oneshot::Sender<T>;

/// What is told of manifests that were forgotten: see [`crate::metadata::Mirrored::forget`].
pub(super) type Forgotten = Result<Option<Vec<Digest>>, Problem>;

/// What a keeper's batch is told.
pub(super) type Pushed = Result<Vec<Result<(), Problem>>, CommitFailed>;

/// What the writer is asked to do.
pub(super) enum Wish {
    Push(Vec<PushedBlob>, Told<Pushed>),
    Mount(Box<Mount>, Told<Result<bool, Problem>>),
    Put(Box<NewManifest>, Told<Result<(), Problem>>),
    DeleteManifest(Box<DeleteManifest>, Told<Result<(), Problem>>),
    DeleteBlob(Box<(RepositoryName, Digest)>, Told<Result<(), Problem>>),
    /// The name is local from now on.
    Claim(Box<RepositoryName>, Told<Result<(), Problem>>),
    /// Of an upstream's.
    Keep(Box<Keep>, Told<Result<bool, Problem>>),
    /// Some of what is kept of an upstream's repository goes.
    Forget(Box<RepositoryName>, Told<Forgotten>),
    /// Nothing but to write the touches that wait.
    Touches,
}

/// A wish with its result.
pub(super) enum Decided {
    Push(Vec<Result<(), Problem>>, Told<Pushed>),
    YesNo(Result<bool, Problem>, Told<Result<bool, Problem>>),
    Done(Result<(), Problem>, Told<Result<(), Problem>>),
    Forgot(Forgotten, Told<Forgotten>),
    Touches,
}

/// One transaction, between BEGIN and COMMIT.
pub(super) struct Batch<'a> {
    connection: &'a Connection,
    metrics: &'a Metrics,
    now: i64,
    changes_before: u64,
    pub revoked: Revoked<'a>,
    pub decided: Vec<Decided>,
    /// SQLite gave the transaction up: nothing of it happens, for nobody.
    pub gone: Option<Problem>,
}

impl<'a> Batch<'a> {
    /// `connection` is in a transaction; `now` is the clock's, in milliseconds.
    pub(super) fn begun(
        connection: &'a Connection,
        epochs: &'a Epochs,
        names: &'a Names,
        metrics: &'a Metrics,
        now: i64,
    ) -> Batch<'a> {
        Batch {
            connection,
            metrics,
            now,
            changes_before: connection.total_changes(),
            revoked: Revoked::new(epochs, names),
            decided: Vec::new(),
            gone: None,
        }
    }

    /// Does one wish, and keeps its result back.
    pub(super) fn decide(&mut self, wish: Wish) {
        let decided = match wish {
            Wish::Push(batch, told) => {
                let results = batch.iter().map(|pushed| self.member(|change| change.push(pushed))).collect();
                Decided::Push(results, told)
            }
            Wish::Mount(mount, told) => Decided::YesNo(self.member(|change| change.mount(&mount)), told),
            Wish::Put(new, told) => Decided::Done(self.member(|change| change.put_manifest(&new)), told),
            Wish::DeleteManifest(delete, told) => {
                Decided::Done(self.member(|change| change.delete_manifest(&delete)), told)
            }
            Wish::DeleteBlob(blob, told) => {
                let (repository, digest) = *blob;
                Decided::Done(self.member(|change| change.delete_blob(&repository, &digest)), told)
            }
            Wish::Claim(name, told) => Decided::Done(self.member(|change| change.claim(&name)), told),
            Wish::Keep(keep, told) => Decided::YesNo(self.member(|change| change.keep(&keep)), told),
            Wish::Forget(name, told) => Decided::Forgot(self.member(|change| change.forget(&name)), told),
            Wish::Touches => Decided::Touches,
        };
        self.decided.push(decided);
    }

    /// Whether COMMIT has anything to write.
    pub(super) fn wrote(&self) -> bool {
        self.connection.total_changes() != self.changes_before
    }

    /// Rides along with a batch that writes anyhow, or that was made for it.
    pub(super) fn touch(&mut self, touches: &Touches) {
        let links = touches.take(limits::TOUCHES_A_BATCH);
        let mut change = Change { connection: self.connection, now: self.now, revoked: &mut self.revoked };
        match change.touch(&links).and_then(|()| change.keep_time()) {
            Ok(()) => self.metrics.touched(links.len() as u64),
            Err(error) => self.gone = Some(broken(&error)),
        }
    }

    fn member<T>(
        &mut self,
        apply: impl FnOnce(&mut Change<'_, 'a>) -> Result<T, Refused>,
    ) -> Result<T, Problem> {
        if let Some(problem) = &self.gone {
            return Err(problem.clone());
        }
        let result = self.savepoint(apply).unwrap_or_else(|error| {
            let problem = broken(&error);
            self.gone = Some(problem.clone());
            Err(problem)
        });
        self.metrics.member(result.is_ok());
        result
    }

    /// The inner error is the member's own; the outer one is the end of the transaction.
    fn savepoint<T>(
        &mut self,
        apply: impl FnOnce(&mut Change<'_, 'a>) -> Result<T, Refused>,
    ) -> rusqlite::Result<Result<T, Problem>> {
        execute(self.connection, "SAVEPOINT member")?;
        let mut change = Change { connection: self.connection, now: self.now, revoked: &mut self.revoked };
        let result = match apply(&mut change) {
            Ok(done) => Ok(done),
            Err(Refused::Broken(error)) if self.connection.is_autocommit() => return Err(error),
            Err(refused) => {
                execute(self.connection, "ROLLBACK TO member")?;
                Err(match refused {
                    Refused::Problem(problem) => problem,
                    Refused::Broken(error) => broken(&error),
                })
            }
        };
        execute(self.connection, "RELEASE member")?;
        Ok(result)
    }
}

impl Wish {
    /// What it holds in memory, roughly: the bytes of a manifest.
    pub(super) fn size_bytes(&self) -> usize {
        match self {
            Wish::Put(new, _) => new.bytes.len(),
            Wish::Keep(keep, _) => match &**keep {
                Keep::Manifest(new) => new.bytes.len(),
                Keep::Tag { .. }
                | Keep::NoTag { .. }
                | Keep::Used { .. }
                | Keep::Pin { .. }
                | Keep::Unpin { .. } => 0,
            },
            Wish::Push(..)
            | Wish::Mount(..)
            | Wish::DeleteManifest(..)
            | Wish::DeleteBlob(..)
            | Wish::Claim(..)
            | Wish::Forget(..)
            | Wish::Touches => 0,
        }
    }

    /// It was not tried.
    pub(super) fn fail(self, problem: Problem) {
        match self {
            Wish::Push(batch, told) => Decided::Push(vec![Err(problem); batch.len()], told),
            Wish::Mount(_, told) | Wish::Keep(_, told) => Decided::YesNo(Err(problem), told),
            Wish::Put(_, told)
            | Wish::DeleteManifest(_, told)
            | Wish::DeleteBlob(_, told)
            | Wish::Claim(_, told) => Decided::Done(Err(problem), told),
            Wish::Forget(_, told) => Decided::Forgot(Err(problem), told),
            Wish::Touches => Decided::Touches,
        }
        .tell();
    }
}

impl Decided {
    /// Whoever asked may be gone; what was decided stands all the same.
    pub(super) fn tell(self) {
        let _heard = match self {
            Decided::Push(results, told) => told.send(Ok(results)).is_ok(),
            Decided::YesNo(result, told) => told.send(result).is_ok(),
            Decided::Done(result, told) => told.send(result).is_ok(),
            Decided::Forgot(result, told) => told.send(result).is_ok(),
            Decided::Touches => true,
        };
    }

    /// It was rolled back with everything else.
    pub(super) fn fail(self, problem: Problem) {
        match self {
            Decided::Push(results, told) => Decided::Push(vec![Err(problem); results.len()], told),
            Decided::YesNo(_, told) => Decided::YesNo(Err(problem), told),
            Decided::Done(_, told) => Decided::Done(Err(problem), told),
            Decided::Forgot(_, told) => Decided::Forgot(Err(problem), told),
            Decided::Touches => Decided::Touches,
        }
        .tell();
    }

    /// Whether it happened is unknown; `refused` is what clients are told.
    pub(super) fn commit_failed(self, refused: Problem) {
        match self {
            Decided::Push(_, told) => drop(told.send(Err(CommitFailed))),
            Decided::YesNo(..) | Decided::Done(..) | Decided::Forgot(..) | Decided::Touches => {
                self.fail(refused);
            }
        }
    }
}

/// Runs a statement without parameters or rows.
pub(super) fn execute(connection: &Connection, sql: &'static str) -> rusqlite::Result<()> {
    connection.prepare_cached(sql)?.execute([]).map(|_rows| ())
}

/// Logs what SQLite said, here where it is handled, and says what a client may know of it.
pub(super) fn broken(error: &rusqlite::Error) -> Problem {
    tracing::error!(%error, "metadata could not be changed");
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => Problem::DiskFull,
        Some(_) | None => Problem::Internal,
    }
}
