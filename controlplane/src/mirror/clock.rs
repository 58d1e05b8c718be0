//! The mirror's clock: how old an answer of an upstream is, also after a restart.
//!
//! Invariants: it runs as fast as time does, whatever the machine's clock is set to meanwhile, and never goes back: it
//! starts where the metadata's ended, or at the time of day if that is later.

use std::time::Duration;

use tokio::time::Instant;

/// Milliseconds since 1970, as far as the machine knew when it was made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    began: Instant,
    at_begin: i64,
}

impl Clock {
    pub(super) fn starting_at(at_begin: i64) -> Clock {
        Clock { began: Instant::now(), at_begin }
    }

    pub(super) fn now(&self) -> i64 {
        let since = i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.at_begin.saturating_add(since)
    }

    /// How long ago `at` was; what is still to come was now.
    pub(super) fn since(&self, at: i64) -> Duration {
        Duration::from_millis(u64::try_from(self.now().saturating_sub(at)).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_goes_on_from_where_it_was() {
        let clock = Clock::starting_at(1_000);
        assert_eq!(clock.now(), 1_000);
        tokio::time::advance(Duration::from_millis(250)).await;
        assert_eq!((clock.now(), clock.since(1_050)), (1_250, Duration::from_millis(200)));
        assert_eq!(clock.since(9_999), Duration::ZERO);
    }
}
