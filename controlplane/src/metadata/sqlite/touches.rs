//! Links that were asked for since the last batch, so that a sweep can tell what is in use.
//!
//! Invariants: bounded. A touch that is lost costs nothing but age: a sweep deletes nothing until one
//! whole grace period after start has passed.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use oci::Digest;

use crate::limits;

/// Written by every reader, emptied by the writer.
#[derive(Default)]
pub(super) struct Touches {
    // A mutex, because readers come from any thread; it is held for one insertion or one take.
    links: Mutex<HashSet<Touch>>,
}

/// A link, by the row of its repository.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Touch {
    pub repository: i64,
    pub digest: Digest,
}

/// What the reader should do after a touch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Noted {
    /// Nothing.
    Kept,
    /// Wake the writer, which has not had a batch for long.
    WakeWriter,
}

impl Touches {
    /// Keeps the touch until the next batch; drops it when full.
    pub(super) fn note(&self, touch: Touch) -> Noted {
        let mut links = self.lock();
        if links.len() >= limits::TOUCHES || !links.insert(touch) {
            return Noted::Kept;
        }
        if links.len() == limits::TOUCHES_WAKE { Noted::WakeWriter } else { Noted::Kept }
    }

    /// At most `limit` of them, which are then the caller's to write.
    pub(super) fn take(&self, limit: usize) -> Vec<Touch> {
        let mut links = self.lock();
        if links.len() <= limit {
            return links.drain().collect();
        }
        let taken: Vec<Touch> = links.iter().take(limit).copied().collect();
        for touch in &taken {
            links.remove(touch);
        }
        taken
    }

    /// Whether there are any to write.
    pub(super) fn waiting(&self) -> bool {
        !self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<Touch>> {
        // A set of plain values is whole after any panic.
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use oci::Algorithm;

    use super::*;
    use crate::limits::{TOUCHES, TOUCHES_A_BATCH, TOUCHES_WAKE};

    #[test]
    fn touches_are_bounded_wake_the_writer_once_and_go_in_parts() {
        let digest = Digest::of(Algorithm::Sha256, b"touched");
        let touch = |repository: usize| Touch { repository: repository as i64, digest };
        let touches = Touches::default();
        let woken = (0..TOUCHES + 10).filter(|number| touches.note(touch(*number)) == Noted::WakeWriter);
        assert!(woken.eq([TOUCHES_WAKE - 1]));
        assert_eq!(touches.note(touch(0)), Noted::Kept, "one that is there already");
        let mut taken = HashSet::new();
        while touches.waiting() {
            let part = touches.take(TOUCHES_A_BATCH);
            assert!(part.len() <= TOUCHES_A_BATCH);
            taken.extend(part);
        }
        assert!(taken == (0..TOUCHES).map(touch).collect(), "those that came when it was full are lost");
    }
}
