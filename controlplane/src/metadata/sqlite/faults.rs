//! A disk that fails at COMMIT or at a sync of the log, for tests: a process can't otherwise be made to see one.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

/// Handle to the faults of one writer. The default never fails.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    next: Arc<AtomicU8>,
    log_sync: Arc<AtomicBool>,
}

/// What the next COMMIT that is tried does. It returns an error in both cases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitFault {
    /// Nothing of the transaction is there afterwards.
    Lost,
    /// All of it is, as after an error of the sync that follows the write.
    Landed,
}

impl Faults {
    /// Makes the next COMMIT fail; the ones after it would work, if anybody tried.
    pub fn fail_next_commit(&self, fault: CommitFault) {
        let code = match fault {
            CommitFault::Lost => 1,
            CommitFault::Landed => 2,
        };
        self.next.store(code, Ordering::SeqCst);
    }

    /// Makes the next sync of the log that is not a COMMIT's fail.
    pub fn fail_next_log_sync(&self) {
        self.log_sync.store(true, Ordering::SeqCst);
    }

    pub(super) fn sync_log(&self, sync: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        if self.log_sync.swap(false, Ordering::SeqCst) {
            return Err(io::Error::other("told to fail"));
        }
        sync()
    }

    pub(super) fn commit(
        &self,
        commit: impl FnOnce() -> rusqlite::Result<()>,
        roll_back: impl FnOnce() -> rusqlite::Result<()>,
    ) -> rusqlite::Result<()> {
        let injected = || {
            let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_FSYNC);
            rusqlite::Error::SqliteFailure(code, None)
        };
        match self.next.swap(0, Ordering::SeqCst) {
            0 => commit(),
            1 => roll_back().and(Err(injected())),
            _ => commit().and(Err(injected())),
        }
    }
}
