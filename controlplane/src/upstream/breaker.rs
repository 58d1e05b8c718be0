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

/// The right to ask once. What came of it has to be told; dropped untold it was no answer.
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

    /// May the upstream be asked?
    pub(super) fn pass(&self) -> Result<Passage<'_>, Failure> {
        let now = Instant::now();
        let mut state = self.state();
        let is_probe = match *state {
            State::Closed { .. } => false,
            State::Open { until, .. } if now < until => {
                return Err(Failure::Breaker { retry_after_s: whole_seconds(until - now) });
            }
            State::Open { openings, .. } => {
                *state = State::Probing { openings };
                true
            }
            State::Probing { .. } => return Err(Failure::Breaker { retry_after_s: 1 }),
        };
        Ok(Passage { breaker: self, is_probe, told: false })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Passage<'_> {
    /// What came of it. An answer of any kind shows that the upstream is there.
    pub(super) fn tell<T>(mut self, result: &Result<T, Failure>, metrics: &Metrics) {
        self.told = true;
        let failed = match result {
            Err(Failure::Unreachable { .. } | Failure::TimedOut | Failure::Server { .. }) => true,
            Ok(_)
            | Err(
                Failure::Misbehaved { .. }
                | Failure::BudgetSpent { .. }
                | Failure::Denied
                | Failure::CredentialRejected
                | Failure::AddressRefused
                | Failure::RedirectRefused { .. }
                | Failure::Breaker { .. },
            ) => false,
        };
        let mut state = self.breaker.state();
        let openings = match *state {
            _ if !failed => {
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
        breaker.pass().unwrap().tell::<()>(&Err(Failure::TimedOut), &Metrics::default());
    }

    fn succeed(breaker: &Breaker) {
        breaker.pass().unwrap().tell(&Ok(()), &Metrics::default());
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
        probe.tell(&Ok(()), &Metrics::default());
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
}
