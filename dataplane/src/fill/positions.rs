//! How far the answers of a fill's readers are, so that the slowest can be told.
//!
//! Invariants: a reader that has not begun, or does not go in order, has no position; one that is gone has none either.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError, Weak,
    atomic::{AtomicU64, Ordering},
};

const NONE: u64 = u64::MAX;

/// Those of one fill. A mutex, because readers come on all cores; held to add one, and for the metrics.
#[derive(Default)]
pub(super) struct Positions {
    all: Mutex<Vec<(u16, Weak<AtomicU64>)>>,
}

/// A reader's own.
pub(super) struct Position(Arc<AtomicU64>);

impl Positions {
    /// One more reader, of a blob that it has of this upstream.
    pub(super) fn begin(&self, upstream: u16) -> Position {
        let position = Position(Arc::new(AtomicU64::new(NONE)));
        let mut all = self.lock();
        if all.len() == all.capacity() {
            all.retain(|(_, at)| at.strong_count() > 0);
        }
        all.push((upstream, Arc::downgrade(&position.0)));
        position
    }

    /// Where the readers are that have begun.
    pub(super) fn all(&self) -> Vec<(u16, u64)> {
        let at = |(upstream, at): &(u16, Weak<AtomicU64>)| {
            Some((*upstream, at.upgrade()?.load(Ordering::Relaxed)))
        };
        self.lock().iter().filter_map(at).filter(|(_, at)| *at != NONE).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<(u16, Weak<AtomicU64>)>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Position {
    /// Its next byte.
    pub(super) fn is(&self, at: u64) {
        self.0.store(at, Ordering::Relaxed);
    }

    /// It does not go in order, for now.
    pub(super) fn is_nowhere(&self) {
        self.0.store(NONE, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_who_are_gone_are_forgotten() {
        let positions = Positions::default();
        let (first, idle) = (positions.begin(1), positions.begin(2));
        first.is(7);
        assert_eq!(positions.all(), [(1, 7)], "the other has not begun");
        first.is_nowhere();
        assert_eq!(positions.all(), [], "nor does it go in order");
        first.is(7);
        drop(idle);
        for number in 0..1000 {
            positions.begin(3).is(number);
        }
        assert_eq!(positions.all(), [(1, 7)]);
        assert!(positions.lock().capacity() < 64);
    }
}
