//! The breaker: an upstream that fails again and again is left alone for a while.
//!
//! Invariants: while it is open nobody asks; then one question at a time probes, and what it finds decides. A probe that
//! was given up leaves room for the next.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{failure::Failure, metrics::Metrics, whole_seconds};
use crate::limits;

/// Of one upstream.
pub(super) struct Breaker {
    state: Mutex<State>,
    failures_max: u32,
    pause: Duration,
}

enum State {
    Closed { failures: u32 },
    Open { until: Instant, openings: u32 },
    Probing { openings: u32 },
}

/// What a question has shown of the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// It answers.
    There,
    /// It can't be reached, or says that it has failed.
    Failed,
    /// It was not asked.
    Nothing,
}

/// The right to ask once. What it showed has to be told; dropped untold it was nothing.
pub(super) struct Passage<'b> {
    breaker: &'b Breaker,
    is_probe: bool,
    told: bool,
}

impl Breaker {
    /// Opens after `failures_max` failures in a row, for `pause`.
    pub(super) fn new(failures_max: u32, pause: Duration) -> Breaker {
        Breaker { state: Mutex::new(State::Closed { failures: 0 }), failures_max, pause }
    }

    /// Whether there is any sense in waiting for a turn.
    pub(super) fn check(&self) -> Result<(), Failure> {
        self.state().check()
    }

    /// May the upstream be asked?
    pub(super) fn pass(&self) -> Result<Passage<'_>, Failure> {
        let mut state = self.state();
        state.check()?;
        let is_probe = match *state {
            State::Closed { .. } | State::Probing { .. } => false,
            State::Open { openings, .. } => {
                *state = State::Probing { openings };
                true
            }
        };
        Ok(Passage { breaker: self, is_probe, told: false })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn check(&self) -> Result<(), Failure> {
        let now = Instant::now();
        match *self {
            State::Open { until, .. } if now < until => {
                Err(Failure::Breaker { retry_after_s: whole_seconds(until - now) })
            }
            State::Probing { .. } => Err(Failure::Breaker { retry_after_s: 1 }),
            State::Closed { .. } | State::Open { .. } => Ok(()),
        }
    }
}

impl Passage<'_> {
    /// What it showed.
    pub(super) fn tell(mut self, shown: Shown, metrics: &Metrics) {
        if shown == Shown::Nothing {
            return;
        }
        self.told = true;
        let mut state = self.breaker.state();
        let openings = match *state {
            _ if shown == Shown::There => {
                // Of those that were asked before it opened, a late answer is as good as a probe's.
                *state = State::Closed { failures: 0 };
                return;
            }
            State::Closed { failures } if failures + 1 < self.breaker.failures_max => {
                *state = State::Closed { failures: failures + 1 };
                return;
            }
            State::Closed { .. } => 1,
            State::Probing { openings } if self.is_probe => openings.saturating_add(1),
            State::Probing { .. } | State::Open { .. } => return,
        };
        let pause = self.breaker.pause * (1 << (openings - 1).min(limits::BREAKER_DOUBLINGS));
        *state = State::Open { until: Instant::now() + pause, openings };
        metrics.breaker_opened();
    }
}

impl Drop for Passage<'_> {
    fn drop(&mut self) {
        if self.told || !self.is_probe {
            return;
        }
        let mut state = self.breaker.state();
        if let State::Probing { openings } = *state {
            *state = State::Open { until: Instant::now(), openings };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_secs(10);

    fn fail(breaker: &Breaker) {
        breaker.pass().unwrap().tell(Shown::Failed, &Metrics::default());
    }

    fn succeed(breaker: &Breaker) {
        breaker.pass().unwrap().tell(Shown::There, &Metrics::default());
    }

    fn waits_s(breaker: &Breaker) -> Option<u32> {
        match breaker.pass() {
            Err(Failure::Breaker { retry_after_s }) => Some(retry_after_s),
            Err(other) => panic!("{other}"),
            Ok(_) => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_opens_after_failures_in_a_row_and_closes_by_a_probe() {
        let breaker = Breaker::new(3, PAUSE);
        fail(&breaker);
        fail(&breaker);
        succeed(&breaker);
        fail(&breaker);
        fail(&breaker);
        assert_eq!(waits_s(&breaker), None);
        fail(&breaker);
        assert_eq!(waits_s(&breaker), Some(10));
        tokio::time::advance(PAUSE).await;
        let probe = breaker.pass().unwrap();
        assert_eq!(waits_s(&breaker), Some(1), "one probe at a time");
        probe.tell(Shown::There, &Metrics::default());
        assert_eq!(waits_s(&breaker), None);
    }

    #[tokio::test(start_paused = true)]
    async fn each_failed_probe_doubles_the_pause_up_to_a_bound() {
        let breaker = Breaker::new(1, PAUSE);
        fail(&breaker);
        for doublings in [0, 1, 2, 3, 3, 3] {
            assert!(doublings <= limits::BREAKER_DOUBLINGS);
            assert_eq!(waits_s(&breaker), Some(10 << doublings));
            tokio::time::advance(PAUSE * (1 << doublings)).await;
            fail(&breaker);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_was_given_up_leaves_room() {
        let breaker = Breaker::new(1, PAUSE);
        fail(&breaker);
        tokio::time::advance(PAUSE).await;
        drop(breaker.pass().unwrap());
        assert!(breaker.pass().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_asked_nobody_leaves_it_open() {
        let breaker = Breaker::new(2, PAUSE);
        fail(&breaker);
        fail(&breaker);
        tokio::time::advance(PAUSE).await;
        breaker.pass().unwrap().tell(Shown::Nothing, &Metrics::default());
        let probe = breaker.pass().unwrap();
        assert_eq!(waits_s(&breaker), Some(1), "the next is a probe again");
        probe.tell(Shown::Failed, &Metrics::default());
        assert_eq!(waits_s(&breaker), Some(20));
    }
}
