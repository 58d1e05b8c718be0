//! A few connections that only read, lent to one question at a time.
//!
//! Invariants: no more than [`limits::READERS`] reads run at once; each is one short transaction, which ends
//! itself after [`limits::READ_TIME`], so that the writer's checkpoints are never held up for long.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use oci::Problem;
use rusqlite::Connection;
use rusqlite::ffi::ErrorCode;
use tokio::sync::Semaphore;

use crate::limits;

/// The pool.
pub(super) struct Readers {
    // A mutex, because connections come back on whatever thread read; it is held for one push or pop.
    idle: Mutex<Vec<Connection>>,
    free: Arc<Semaphore>,
    read_time: Duration,
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
        let free = Arc::new(Semaphore::new(connections.len()));
        Readers { free, idle: Mutex::new(connections), read_time: limits::READ_TIME }
    }

    /// Runs `read` on a thread that may block. What it could not look up is logged here, and so is a read that
    /// took too long, which is [`Problem::Overloaded`].
    pub(super) async fn read<T: Send + 'static>(
        self: &Arc<Self>,
        read: impl FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, Problem> {
        let permit = Arc::clone(&self.free).acquire_owned().await.map_err(|_closed| Problem::Internal)?;
        let readers = Arc::clone(self);
        let done = tokio::task::spawn_blocking(move || {
            let connection = readers.idle().pop();
            let mut lent = Lent { readers, connection };
            let found = match &mut lent.connection {
                Some(connection) => within(connection, lent.readers.read_time, read),
                None => Err(Problem::Internal),
            };
            drop(lent);
            drop(permit);
            found
        });
        done.await.unwrap_or(Err(Problem::Internal))
    }

    /// Runs `read` here and now, on the calling thread, alone, before any other read, for as long as it takes.
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

/// Runs `read` and ends it after `read_time`.
fn within<T>(
    connection: &mut Connection,
    read_time: Duration,
    read: impl FnOnce(&Connection) -> rusqlite::Result<T>,
) -> Result<T, Problem> {
    let until = Instant::now() + read_time;
    connection
        .progress_handler(limits::READ_STEPS, Some(move || Instant::now() >= until))
        .and_then(|()| read(connection))
        .map_err(|error| broken(&error))
}

fn broken(error: &rusqlite::Error) -> Problem {
    if error.sqlite_error_code() == Some(ErrorCode::OperationInterrupted) {
        tracing::warn!("a read of the metadata took too long and was ended");
        return Problem::Overloaded { retry_after_s: 1 };
    }
    tracing::error!(%error, "metadata could not be read");
    Problem::Internal
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(connection: &Connection, to: i64) -> rusqlite::Result<i64> {
        let numbers = "WITH RECURSIVE n(x) AS (VALUES (1) UNION ALL SELECT x + 1 FROM n WHERE x < ?1)
                       SELECT count(*) FROM n";
        connection.unchecked_transaction()?.query_row(numbers, [to], |row| row.get(0))
    }

    #[tokio::test]
    async fn a_read_ends_in_time_and_its_connection_goes_on() {
        let readers = Readers::new(vec![Connection::open_in_memory().unwrap()]);
        let readers = Arc::new(Readers { read_time: Duration::from_millis(50), ..readers });
        let began = Instant::now();
        let endless = readers.read(|connection| count(connection, i64::MAX)).await;
        assert_eq!(endless, Err(Problem::Overloaded { retry_after_s: 1 }));
        assert!(began.elapsed() < limits::READ_TIME, "{:?}", began.elapsed());
        // Each read has its own time, and no transaction was left open.
        tokio::time::sleep(Duration::from_millis(60)).await;
        assert_eq!(readers.read(|connection| count(connection, 10_000)).await, Ok(10_000));
        assert_eq!(readers.read(|connection| Ok(connection.is_autocommit())).await, Ok(true));
    }
}
