//! Which cached blobs are open: one lease for each, shared by all its descriptors.
//!
//! A blob that nobody has open costs no lease: its bytes are counted because it has a name. So a file's bytes are counted
//! once, whether it has a name, or is open, or both.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use foldhash::fast::RandomState;
use oci::Digest;

use super::{Budget, Lease};

/// Below so many entries nobody looks for those that are closed.
const SWEEP_MIN: usize = 64;

/// The leases of the blobs that are open; not more than twice as many entries as there were open at the last sweep.
#[derive(Debug)]
pub struct Leases {
    budget: Arc<Budget>,
    open: HashMap<Digest, Weak<Lease>, RandomState>,
    sweep_at: usize,
}

impl Leases {
    /// None is open.
    pub fn new(budget: Arc<Budget>) -> Leases {
        Leases { budget, open: HashMap::default(), sweep_at: SWEEP_MIN }
    }

    /// The lease of a cached blob of `size_bytes` that has its name, to be kept as long as the file is open.
    pub fn open(&mut self, digest: &Digest, size_bytes: u64) -> Arc<Lease> {
        if let Some(lease) = self.held(digest) {
            return lease;
        }
        let lease = Arc::new(self.budget.lease_of_linked(size_bytes));
        self.remember(digest, &lease);
        lease
    }

    /// The file that `lease` is for has its name now; it holds its exact length.
    pub fn linked(&mut self, digest: &Digest, lease: &Arc<Lease>) {
        lease.link();
        self.remember(digest, lease);
    }

    /// A cached blob has lost its name: its bytes are given back now, or by whoever closes it last.
    pub fn unlinked(&mut self, digest: &Digest, size_bytes: u64) {
        match self.open.remove(digest).and_then(|lease| lease.upgrade()) {
            Some(lease) => lease.unlink(),
            None => self.budget.give_back(size_bytes),
        }
    }

    /// A cached blob was pushed: it keeps its name, and its bytes are no longer the cache's, open or not.
    pub fn became_home(&mut self, digest: &Digest, size_bytes: u64) {
        self.open.remove(digest);
        self.budget.give_back(size_bytes);
    }

    /// Whether anybody has it open.
    pub fn is_open(&self, digest: &Digest) -> bool {
        self.open.get(digest).is_some_and(|lease| lease.strong_count() > 0)
    }

    /// Whether an answer is sent out of it.
    pub fn is_read(&self, digest: &Digest) -> bool {
        self.held(digest).is_some_and(|lease| lease.is_read())
    }

    /// Whether this is the lease of the file that has the digest's name, and not of one that had it before.
    pub fn is_of(&self, digest: &Digest, lease: &Arc<Lease>) -> bool {
        self.held(digest).is_some_and(|held| Arc::ptr_eq(&held, lease))
    }

    fn held(&self, digest: &Digest) -> Option<Arc<Lease>> {
        self.open.get(digest)?.upgrade()
    }

    fn remember(&mut self, digest: &Digest, lease: &Arc<Lease>) {
        if self.open.len() >= self.sweep_at {
            self.open.retain(|_, lease| lease.strong_count() > 0);
            self.sweep_at = SWEEP_MIN.max(2 * self.open.len());
        }
        self.open.insert(*digest, Arc::downgrade(lease));
    }
}

#[cfg(test)]
mod tests {
    use oci::Algorithm;

    use super::*;
    use crate::limits::LEASE_UNIT_BYTES;

    fn digest(number: u64) -> Digest {
        Digest::of(Algorithm::Sha256, &number.to_le_bytes())
    }

    #[test]
    fn bytes_count_until_name_and_descriptors_are_gone() {
        let budget = Budget::new(LEASE_UNIT_BYTES);
        let mut leases = Leases::new(budget.clone());
        let fill = Arc::new(budget.reserve(700).unwrap());
        fill.shrink(700);
        let reader = fill.clone();
        leases.linked(&digest(1), &fill);
        drop(fill);
        assert!(leases.is_open(&digest(1)));
        let late = leases.open(&digest(1), 700);
        assert!(Arc::ptr_eq(&reader, &late) && !leases.is_read(&digest(1)));
        late.begin_read();
        assert!(leases.is_read(&digest(1)));
        late.end_read();
        assert!(leases.is_open(&digest(1)) && !leases.is_read(&digest(1)));
        drop((reader, late));
        assert!(!leases.is_open(&digest(1)));
        assert_eq!(budget.used_bytes(), 700, "it has a name");

        let reader = leases.open(&digest(1), 700);
        leases.unlinked(&digest(1), 700);
        assert_eq!(budget.used_bytes(), 700, "somebody reads it");
        assert!(!leases.is_open(&digest(1)), "what comes under that name now is another file");
        drop(reader);
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn what_nobody_has_open_is_given_back_at_once() {
        let budget = Budget::new(LEASE_UNIT_BYTES);
        let mut leases = Leases::new(budget.clone());
        budget.charge(900);
        drop(leases.open(&digest(1), 500));
        leases.unlinked(&digest(1), 500);
        assert_eq!(budget.used_bytes(), 400);
        let reader = leases.open(&digest(2), 400);
        leases.became_home(&digest(2), 400);
        assert_eq!(budget.used_bytes(), 0);
        drop(reader);
        assert_eq!(budget.used_bytes(), 0, "not twice");
    }

    #[test]
    fn those_that_are_closed_are_forgotten() {
        let budget = Budget::new(LEASE_UNIT_BYTES);
        budget.charge(10_000);
        let mut leases = Leases::new(budget);
        let kept: Vec<Arc<Lease>> = (0..100).map(|number| leases.open(&digest(number), 1)).collect();
        for number in 100..10_000 {
            drop(leases.open(&digest(number), 1));
            assert!(leases.open.len() <= 2 * kept.len() + SWEEP_MIN);
        }
        assert!((0..100).all(|number| leases.is_open(&digest(number))));
    }
}
