//! How far the fetching of an image is: what it has, what is here, what was not to be had.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use control::FillEnd;

use crate::limits;

/// One image's. Who fetches writes, whoever asks reads.
#[derive(Debug, Default)]
pub(super) struct Tally {
    // A mutex, because blobs end on any thread; it is held for a few numbers.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    told: Progress,
    /// Of blobs that are on their way, how much is here.
    running: Vec<Arc<AtomicU64>>,
}

/// The numbers at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    pub manifests: u64,
    /// Of what is known of so far.
    pub blobs: u64,
    pub blobs_done: u64,
    /// Those of them that were not here before.
    pub blobs_fetched: u64,
    pub bytes: u64,
    pub bytes_done: u64,
    /// What was not to be had, and why: the first of it.
    pub problems: Vec<(String, String)>,
    /// How much more there was of that.
    pub problems_more: u64,
}

impl Tally {
    pub(super) fn read(&self) -> Progress {
        let state = self.state();
        let running: u64 = state.running.iter().map(|done| done.load(Ordering::Relaxed)).sum();
        let bytes_done = (state.told.bytes_done + running).min(state.told.bytes);
        Progress { bytes_done, ..state.told.clone() }
    }

    pub(super) fn manifest(&self) {
        self.state().told.manifests += 1;
    }

    pub(super) fn blobs(&self, blobs: u64, bytes: u64) {
        let told = &mut self.state().told;
        told.blobs += blobs;
        told.bytes = told.bytes.saturating_add(bytes);
    }

    /// A blob is on its way; what is written there is how much of it is here.
    pub(super) fn begin(&self) -> Arc<AtomicU64> {
        let done = Arc::<AtomicU64>::default();
        self.state().running.push(Arc::clone(&done));
        done
    }

    /// It is over.
    pub(super) fn end(&self, done: &Arc<AtomicU64>, size_bytes: u64, end: Option<FillEnd>) {
        let mut state = self.state();
        state.running.retain(|other| !Arc::ptr_eq(other, done));
        match end {
            Some(FillEnd::Here | FillEnd::Fetched) => {
                state.told.blobs_done += 1;
                state.told.blobs_fetched += u64::from(end == Some(FillEnd::Fetched));
                state.told.bytes_done += size_bytes;
            }
            Some(FillEnd::NoRoom) | None => {}
        }
    }

    /// Something is not to be had.
    pub(super) fn problem(&self, what: impl ToString, why: impl ToString) {
        let told = &mut self.state().told;
        if told.problems.len() < limits::WARM_PROBLEMS {
            told.problems.push((what.to_string(), why.to_string()));
        } else {
            told.problems_more += 1;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_those_of_blobs_that_are_here_and_of_those_that_come() {
        let tally = Tally::default();
        tally.blobs(3, 600);
        let (one, two, three) = (tally.begin(), tally.begin(), tally.begin());
        one.store(70, Ordering::Relaxed);
        two.store(30, Ordering::Relaxed);
        assert_eq!(tally.read().bytes_done, 100);
        tally.end(&one, 300, Some(FillEnd::Fetched));
        tally.end(&two, 200, Some(FillEnd::Here));
        tally.end(&three, 100, Some(FillEnd::NoRoom));
        let read = tally.read();
        assert_eq!((read.bytes_done, read.blobs_done, read.blobs_fetched), (500, 2, 1));
    }

    #[test]
    fn only_the_first_problems_are_told_and_all_are_counted() {
        let tally = Tally::default();
        (0..limits::WARM_PROBLEMS + 3).for_each(|number| tally.problem(number, "gone"));
        let read = tally.read();
        assert_eq!((read.problems.len(), read.problems_more), (limits::WARM_PROBLEMS, 3));
    }
}
