//! What is done behind an answer, and nobody waits for.
//!
//! Invariants: bounded, since whoever could not be helped now asks again. All of it ends when the control plane does.

use std::sync::{Mutex, PoisonError};

use tokio::task::JoinSet;

use crate::limits;

/// The tasks; none any more once they are closed.
#[derive(Debug)]
pub(super) struct Behind {
    most: usize,
    // A mutex, because answers are given on any thread; it is held to add one or to take all.
    tasks: Mutex<Option<JoinSet<()>>>,
}

impl Default for Behind {
    fn default() -> Behind {
        Behind::of(limits::BEHIND_AT_ONCE)
    }
}

impl Behind {
    /// So many at most.
    pub(super) fn of(most: usize) -> Behind {
        Behind { most, tasks: Mutex::new(Some(JoinSet::new())) }
    }

    /// Begins `task`, unless too much is being done already. Whether it was begun.
    pub(super) fn start(&self, task: impl Future<Output = ()> + Send + 'static) -> bool {
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(tasks) = &mut *tasks else { return false };
        while tasks.try_join_next().is_some() {}
        let has_room = tasks.len() < self.most;
        if has_room {
            tasks.spawn(task);
        }
        has_room
    }

    /// Ends all, and takes nothing more.
    pub(super) async fn close(&self) {
        let tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut tasks) = tasks {
            tasks.shutdown().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn no_more_than_so_many_and_none_after_the_end() {
        let behind = Behind::default();
        let held = Arc::new(());
        for _ in 0..limits::BEHIND_AT_ONCE {
            let held = Arc::clone(&held);
            assert!(behind.start(async move {
                let _held = held;
                std::future::pending().await
            }));
        }
        assert!(!behind.start(async {}));
        behind.close().await;
        assert_eq!(Arc::strong_count(&held), 1, "every one of them is gone");
        assert!(!behind.start(async {}));
    }

    #[tokio::test]
    async fn one_that_is_done_makes_room() {
        let behind = Behind::default();
        for _ in 0..3 * limits::BEHIND_AT_ONCE {
            while !behind.start(async {}) {
                tokio::task::yield_now().await;
            }
        }
    }
}
