//! A few connections that only read, lent to one question at a time.
//!
//! Invariants: no more than [`limits::READERS`] reads run at once; each is one short transaction, so that
//! the writer's checkpoints are never held up for long.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use oci::Problem;
use rusqlite::Connection;
use tokio::sync::Semaphore;

/// The pool.
pub(super) struct Readers {
    // A mutex, because connections come back on whatever thread read; it is held for one push or pop.
    idle: Mutex<Vec<Connection>>,
    free: Arc<Semaphore>,
}

/// A connection that goes home when dropped, also when the reader panicked.
struct Lent {
    readers: Arc<Readers>,
    connection: Option<Connection>,
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.readers.idle().push(connection);
        }
    }
}

impl Readers {
    pub(super) fn new(connections: Vec<Connection>) -> Readers {
        Readers { free: Arc::new(Semaphore::new(connections.len())), idle: Mutex::new(connections) }
    }

    /// Runs `read` on a thread that may block. What it could not look up is logged here.
    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Problem> {
        let permit = Arc::clone(&self.free).acquire_owned().await.map_err(|_closed| Problem::Internal)?;
        let readers = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || {
            let connection = readers.idle().pop();
            let lent = Lent { readers, connection };
            let found = match &lent.connection {
                Some(connection) => read(connection).map_err(|error| broken(&error)),
                None => Err(Problem::Internal),
            };
            drop(lent);
            drop(permit);
            found
        });
        done.await.unwrap_or(Err(Problem::Internal))
    }

    /// Runs `read` here and now, on the calling thread, alone.
    pub(super) fn read_blocking<T>(
        &self,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, Problem> {
        let idle = self.idle();
        let connection = idle.first().ok_or(Problem::Internal)?;
        read(connection).map_err(|error| broken(&error))
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn broken(error: &rusqlite::Error) -> Problem {
    tracing::error!(%error, "metadata could not be read");
    Problem::Internal
}
