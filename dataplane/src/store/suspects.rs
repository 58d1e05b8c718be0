//! Blobs whose bytes could not be read, or whose file has another length: nobody is told that they are here until a push has replaced them.
//!
//! Invariants: bounded. A suspicion that finds no place, or that a restart forgot, comes back with the next read.

use std::{
    collections::HashSet,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use oci::Digest;

use crate::limits::SUSPECTS_MAX;

/// The suspects of a process.
#[derive(Default)]
pub(super) struct Suspects {
    /// So that a hot read of a healthy store takes no lock.
    count: AtomicUsize,
    // A mutex, because any core adds and the keeper takes away; held for one look-up.
    digests: Mutex<HashSet<Digest>>,
}

impl Suspects {
    /// `still`: its name has the bytes that are suspected. It is asked between two clearings, so that a file that
    /// was just put in their place is not blamed for them.
    pub(super) fn add(&self, digest: &Digest, still: impl FnOnce() -> bool) {
        let mut digests = self.digests();
        if digests.len() < SUSPECTS_MAX && still() {
            digests.insert(*digest);
            self.count.store(digests.len(), Ordering::Release);
        }
    }

    pub(super) fn has(&self, digest: &Digest) -> bool {
        self.count.load(Ordering::Acquire) > 0 && self.digests().contains(digest)
    }

    /// Its name has other bytes now. Always takes the lock: somebody may be about to add it.
    pub(super) fn clear(&self, digest: &Digest) {
        let mut digests = self.digests();
        digests.remove(digest);
        self.count.store(digests.len(), Ordering::Release);
    }

    fn digests(&self) -> MutexGuard<'_, HashSet<Digest>> {
        self.digests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use oci::Algorithm;

    use super::*;

    #[test]
    fn suspects_are_bounded_and_a_place_is_given_again() {
        let digest = |number: usize| Digest::of(Algorithm::Sha256, &number.to_le_bytes());
        let suspects = Suspects::default();
        (0..=SUSPECTS_MAX).for_each(|number| suspects.add(&digest(number), || true));
        assert!((0..SUSPECTS_MAX).all(|number| suspects.has(&digest(number))));
        assert!(!suspects.has(&digest(SUSPECTS_MAX)));
        suspects.clear(&digest(7));
        suspects.add(&digest(SUSPECTS_MAX), || true);
        assert!(suspects.has(&digest(SUSPECTS_MAX)) && !suspects.has(&digest(7)));
        (0..=SUSPECTS_MAX).for_each(|number| suspects.clear(&digest(number)));
        assert!(!suspects.has(&digest(SUSPECTS_MAX)));
        suspects.add(&digest(7), || false);
        assert!(!suspects.has(&digest(7)), "its name has other bytes by now");
    }
}
