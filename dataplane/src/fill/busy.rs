//! A pool that is full is asked again: what has been fetched and hashed is not given up for a busy moment.

use std::{future::Future, io};

use super::Runner;
use crate::limits::{FILL_BUSY_TRIES_MAX, POOL_RETRY};

/// How often it was asked.
#[derive(Default)]
pub(super) struct Busy {
    tries: u32,
}

impl Busy {
    /// What an operation came to. `None`: the pool was full, and may have a place by now.
    pub(super) async fn outlast<T>(
        &mut self,
        runner: &Runner,
        result: io::Result<T>,
    ) -> Option<io::Result<T>> {
        match result {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && self.tries < FILL_BUSY_TRIES_MAX => {
                self.tries += 1;
                runner.io.sleep_until(runner.io.now() + POOL_RETRY * self.tries).await;
                None
            }
            result => Some(result),
        }
    }
}

/// Does what may find the pool full.
pub(super) async fn patiently<T, F: Future<Output = io::Result<T>>>(
    runner: &Runner,
    mut job: impl FnMut() -> F,
) -> io::Result<T> {
    let mut busy = Busy::default();
    loop {
        if let Some(result) = busy.outlast(runner, job().await).await {
            return result;
        }
    }
}
