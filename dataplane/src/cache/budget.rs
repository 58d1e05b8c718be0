//! The hard budget of the cache's bytes, and leases of it.
//!
//! Invariants: what is reserved never exceeds the budget, whatever threads do at the same time. A lease that is dropped
//! gives back what it holds, unless its file has a name: then those bytes are the index's.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
};

use crate::limits::LEASE_UNIT_BYTES;

/// What cached and filling blobs may take on the volume. All threads share it.
#[derive(Debug)]
pub struct Budget {
    max_bytes: AtomicU64,
    used_bytes: AtomicU64,
}

/// So many bytes are not to be had: evict, or do without. Nothing was reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRoom {
    /// What would have to be given back first.
    pub lacking_bytes: u64,
}

impl Budget {
    /// A budget of which nothing is used.
    pub fn new(max_bytes: u64) -> Arc<Budget> {
        Arc::new(Budget { max_bytes: AtomicU64::new(max_bytes), used_bytes: AtomicU64::new(0) })
    }

    /// The whole of it.
    pub fn max_bytes(&self) -> u64 {
        self.max_bytes.load(Ordering::Acquire)
    }

    /// Makes it larger or smaller. If more than that is used, nothing is reserved until so much was given back.
    pub fn set_max_bytes(&self, max_bytes: u64) {
        self.max_bytes.store(max_bytes, Ordering::Release);
    }

    /// What is reserved, linked or still open.
    pub fn used_bytes(&self) -> u64 {
        self.used_bytes.load(Ordering::Acquire)
    }

    /// What has to be given back before `more_bytes` could be reserved; 0: nothing.
    pub fn lacking_bytes(&self, more_bytes: u64) -> u64 {
        self.used_bytes().saturating_add(more_bytes).saturating_sub(self.max_bytes())
    }

    /// Reserves at least `bytes`, in whole units of [`LEASE_UNIT_BYTES`].
    pub fn reserve(self: &Arc<Budget>, bytes: u64) -> Result<Lease, NoRoom> {
        let lease = self.lease(0, false);
        lease.grow(bytes)?;
        Ok(lease)
    }

    /// Counts bytes that are on the volume already, even if they are more than the budget: what a start finds.
    pub fn charge(&self, bytes: u64) {
        self.used_bytes.fetch_add(bytes, Ordering::AcqRel);
    }

    /// A lease of bytes that are counted already, of a file that has a name: a reader's.
    pub(super) fn lease_of_linked(self: &Arc<Budget>, bytes: u64) -> Lease {
        self.lease(bytes, true)
    }

    fn lease(self: &Arc<Budget>, bytes: u64, is_linked: bool) -> Lease {
        Lease {
            budget: self.clone(),
            held_bytes: AtomicU64::new(bytes),
            linked: AtomicBool::new(is_linked),
            readers: AtomicUsize::new(0),
        }
    }

    /// Takes back what was counted.
    pub(super) fn give_back(&self, bytes: u64) {
        let less = |used: u64| {
            debug_assert!(used >= bytes, "{bytes} bytes are given back, of {used}");
            Some(used.saturating_sub(bytes))
        };
        // It never says no.
        let _ = self.used_bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
    }

    fn take(&self, bytes: u64) -> Result<(), NoRoom> {
        let more = |used: u64| used.checked_add(bytes).filter(|sum| *sum <= self.max_bytes());
        match self.used_bytes.fetch_update(Ordering::AcqRel, Ordering::Acquire, more) {
            Ok(_) => Ok(()),
            // At least a byte: the answer may have been made room for by now.
            Err(_) => Err(NoRoom { lacking_bytes: self.lacking_bytes(bytes).max(1) }),
        }
    }
}

/// Bytes that are reserved for one file. Whoever has the file open shares it, so that they count until the last
/// descriptor is closed: keep it behind the file, to be dropped after it.
#[derive(Debug)]
pub struct Lease {
    budget: Arc<Budget>,
    held_bytes: AtomicU64,
    /// The file has a name, so its bytes stay when all descriptors are closed.
    linked: AtomicBool,
    /// Answers that are sent out of the file. Who only keeps it open is none.
    readers: AtomicUsize,
}

impl Lease {
    /// What it holds.
    pub fn held_bytes(&self) -> u64 {
        self.held_bytes.load(Ordering::Acquire)
    }

    /// Makes sure that it holds `to_bytes`, the length of the file after the next write; in whole units of
    /// [`LEASE_UNIT_BYTES`]. It never shrinks by that, and is unchanged after an error.
    pub fn grow(&self, to_bytes: u64) -> Result<(), NoRoom> {
        let wanted =
            to_bytes.checked_next_multiple_of(LEASE_UNIT_BYTES).ok_or(NoRoom { lacking_bytes: u64::MAX })?;
        let mut held = self.held_bytes();
        while held < wanted {
            self.budget.take(wanted - held)?;
            match self.held_bytes.compare_exchange(held, wanted, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Ok(()),
                Err(now) => {
                    self.budget.give_back(wanted - held);
                    held = now;
                }
            }
        }
        Ok(())
    }

    /// Gives back what it holds above `to_bytes`: the exact length, when the last byte was written and what was
    /// allocated behind it was trimmed.
    pub fn shrink(&self, to_bytes: u64) {
        let held = self.held_bytes.fetch_min(to_bytes, Ordering::AcqRel);
        self.budget.give_back(held.saturating_sub(to_bytes));
    }

    /// An answer is sent out of its file from now on.
    pub fn begin_read(&self) {
        self.readers.fetch_add(1, Ordering::Relaxed);
    }

    /// It no longer is.
    pub fn end_read(&self) {
        self.readers.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether any is. One that begins meanwhile may be missed.
    pub fn is_read(&self) -> bool {
        self.readers.load(Ordering::Relaxed) > 0
    }

    /// Its file has a name now: a drop gives nothing back.
    pub(super) fn link(&self) {
        self.linked.store(true, Ordering::Release);
    }

    /// Its file has lost its name: the last drop gives back.
    pub(super) fn unlink(&self) {
        self.linked.store(false, Ordering::Release);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if !*self.linked.get_mut() {
            self.budget.give_back(*self.held_bytes.get_mut());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    const UNIT: u64 = LEASE_UNIT_BYTES;

    #[test]
    fn a_lease_grows_in_units_and_ends_exact() {
        let budget = Budget::new(4 * UNIT);
        let lease = budget.reserve(1).unwrap();
        assert_eq!((lease.held_bytes(), budget.used_bytes()), (UNIT, UNIT));
        lease.grow(UNIT).unwrap();
        assert_eq!(lease.held_bytes(), UNIT);
        lease.grow(UNIT + 1).unwrap();
        assert_eq!(lease.held_bytes(), 2 * UNIT);
        lease.shrink(UNIT + 1);
        assert_eq!((lease.held_bytes(), budget.used_bytes()), (UNIT + 1, UNIT + 1));
        lease.shrink(3 * UNIT);
        assert_eq!(lease.held_bytes(), UNIT + 1, "it grows by growing only");
        let other = budget.reserve(2 * UNIT).unwrap();
        assert_eq!(lease.grow(3 * UNIT), Err(NoRoom { lacking_bytes: UNIT }));
        assert_eq!(lease.held_bytes(), UNIT + 1, "unchanged");
        drop(other);
        assert_eq!(budget.used_bytes(), UNIT + 1);
        drop(lease);
        assert_eq!(budget.used_bytes(), 0);
        assert_eq!(budget.reserve(u64::MAX).unwrap_err(), NoRoom { lacking_bytes: u64::MAX });
        assert!(budget.reserve(5 * UNIT).is_err() && budget.used_bytes() == 0);
    }

    #[test]
    fn a_smaller_budget_takes_nothing_until_enough_came_back() {
        let budget = Budget::new(4 * UNIT);
        let leases: Vec<Lease> = (0..4).map(|_| budget.reserve(UNIT).unwrap()).collect();
        budget.set_max_bytes(2 * UNIT);
        assert_eq!(budget.lacking_bytes(UNIT), 3 * UNIT);
        for (given, lease) in leases.into_iter().enumerate() {
            let lacking_bytes = 3 * UNIT - given as u64 * UNIT;
            assert_eq!(budget.reserve(UNIT).unwrap_err(), NoRoom { lacking_bytes });
            drop(lease);
            if lacking_bytes == UNIT {
                break;
            }
        }
        budget.reserve(UNIT).unwrap();
        budget.charge(8 * UNIT);
        assert_eq!(budget.lacking_bytes(0), 6 * UNIT, "what is there is there");
    }

    #[test]
    fn no_interleaving_exceeds_it() {
        const THREADS: u64 = 8;
        const ROUNDS: u64 = 20_000;
        let budget = Budget::new(THREADS * UNIT);
        // One lease is grown and shrunk by all of them, beside their own.
        let shared = budget.reserve(0).unwrap();
        let refused = AtomicU64::new(0);
        thread::scope(|scope| {
            for thread in 0..THREADS {
                let (budget, shared, refused) = (&budget, &shared, &refused);
                scope.spawn(move || {
                    let mut dice = thread + 1;
                    let mut own = Vec::new();
                    for _ in 0..ROUNDS {
                        dice ^= dice << 13;
                        dice ^= dice >> 7;
                        dice ^= dice << 17;
                        let bytes = dice >> 20 & (2 * UNIT - 1);
                        let mut result = Ok(());
                        match dice & 7 {
                            0..3 => result = budget.reserve(bytes).map(|lease| own.push(lease)),
                            3 => result = shared.grow(bytes),
                            4 => shared.shrink(bytes),
                            5 => result = own.last().map_or(Ok(()), |lease| lease.grow(bytes)),
                            _ => drop(own.pop()),
                        }
                        refused.fetch_add(u64::from(result.is_err()), Ordering::Relaxed);
                        assert!(budget.used_bytes() <= THREADS * UNIT);
                    }
                });
            }
        });
        assert!(refused.into_inner() > ROUNDS / 100, "it was full at times");
        assert_eq!(budget.used_bytes(), shared.held_bytes());
        drop(shared);
        assert_eq!(budget.used_bytes(), 0);
    }
}
