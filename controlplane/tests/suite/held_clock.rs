//! A clock that stands until a test moves it, while sockets and threads go on as ever: the times that an operator has,
//! without waiting for them.

use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

/// How long what has to happen in spite of a clock that stands may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a timer may be late: tokio's wheel turns by milliseconds, and rounds up.
pub const TICK: Duration = Duration::from_millis(2);

/// From when this is made on, time goes by only where it says so.
pub struct HeldClock {
    /// As long as a thread is busy, an idle runtime does not skip to its next timer.
    _busy: Sender<()>,
}

impl HeldClock {
    /// Wants a runtime of one thread.
    pub fn new() -> HeldClock {
        tokio::time::pause();
        let (busy, over) = channel();
        tokio::task::spawn_blocking(move || over.recv().is_err());
        HeldClock { _busy: busy }
    }

    /// So much later. What is due has been done.
    pub async fn pass(&self, time: Duration) {
        // What was begun has come to where it waits, and waits from now on.
        settle().await;
        tokio::time::advance(time).await;
        settle().await;
    }

    /// Until that is so, without any time going by.
    pub async fn wait_for(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        let begun = Instant::now();
        while !is_so() {
            assert!(begun.elapsed() < PATIENCE, "never: {what}");
            settle().await;
        }
    }

    /// The answer of `asked`, which has to come when so much time has gone by, and not before.
    pub async fn ends_after<T>(&self, time: Duration, asked: JoinHandle<T>) -> T {
        self.pass(time - TICK).await;
        assert!(!asked.is_finished(), "it ended before {time:?}");
        self.pass(2 * TICK).await;
        self.answer(asked).await
    }

    /// The answer of `asked`, without any time going by.
    pub async fn answer<T>(&self, asked: JoinHandle<T>) -> T {
        self.wait_for("an answer", || asked.is_finished()).await;
        asked.await.unwrap()
    }
}

/// Everybody who can go on does, and what lies at the sockets is looked at.
async fn settle() {
    for _ in 0..4 {
        std::thread::sleep(Duration::from_micros(500));
        for _ in 0..64 {
            tokio::task::yield_now().await;
        }
    }
}
