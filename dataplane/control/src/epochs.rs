//! What keeps a cached *yes* true: a number that moves before and after everything that could revoke it.
//!
//! A core reads the epoch of a slot, then asks, then keeps the answer with the epoch. A hit counts only
//! while the slot's epoch is even and still the same. Whoever revokes makes the slot odd before its commit
//! and even after it, before it replies. So an answer that was asked for before the commit can't be
//! used after the reply, and no message has to reach anybody.
//!
//! Invariants: one thread moves the slots of one `Epochs`. A change that only turns no into yes moves none. In one that keeps
//! a *no* it is the other way round: its slots move when something comes to be.

use std::sync::atomic::{AtomicU64, Ordering};

use oci::{Digest, RepositoryName};

/// A fixed table of epochs. Names share slots; a collision costs a question, never a wrong answer.
pub struct Epochs {
    slots: Box<[AtomicU64]>,
}

/// A place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u32);

/// The value of a slot at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Epoch(u64);

impl Epochs {
    /// A table of `slots` (≥ 1) slots, all even.
    pub fn new(slots: u32) -> Epochs {
        Epochs { slots: (0..slots.max(1)).map(|_| AtomicU64::new(0)).collect() }
    }

    /// The slot of a repository.
    pub fn of_repository(&self, name: &RepositoryName) -> Slot {
        // FNV-1a: any spread will do, and every thread must find the same slot.
        let hash = name.as_str().bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
        });
        self.slot(hash ^ (hash >> 32))
    }

    /// The slot of a digest.
    pub fn of_digest(&self, digest: &Digest) -> Slot {
        let mut head = [0; 8];
        head.copy_from_slice(&digest.bytes()[..8]);
        self.slot(u64::from_le_bytes(head))
    }

    /// The epoch now. `None`: something is being revoked, so nothing may be kept or used.
    pub fn read(&self, slot: Slot) -> Option<Epoch> {
        let epoch = self.slots[slot.0 as usize].load(Ordering::Acquire);
        epoch.is_multiple_of(2).then_some(Epoch(epoch))
    }

    /// Whether what was asked for at `epoch` may still be used.
    pub fn holds(&self, slot: Slot, epoch: Epoch) -> bool {
        self.slots[slot.0 as usize].load(Ordering::Acquire) == epoch.0
    }

    /// Runs `commit` with the slots odd. Duplicates in `slots` are fine. Only the owning thread calls this.
    pub fn revoking<T>(&self, slots: &mut Vec<Slot>, commit: impl FnOnce() -> T) -> T {
        slots.sort_unstable();
        slots.dedup();
        for slot in slots.iter() {
            self.slots[slot.0 as usize].fetch_add(1, Ordering::SeqCst);
        }
        let done = commit();
        for slot in slots.iter() {
            self.slots[slot.0 as usize].fetch_add(1, Ordering::SeqCst);
        }
        done
    }

    fn slot(&self, hash: u64) -> Slot {
        let index = hash % self.slots.len() as u64;
        Slot(u32::try_from(index).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_yes_that_was_asked_for_before_a_revocation_is_void_during_and_after_it() {
        let epochs = Epochs::new(16);
        let slot = epochs.of_repository(&RepositoryName::parse("a/b").unwrap());
        let before = epochs.read(slot).unwrap();
        assert!(epochs.holds(slot, before));
        epochs.revoking(&mut vec![slot, slot], || {
            assert!(!epochs.holds(slot, before));
            assert_eq!(epochs.read(slot), None);
        });
        assert!(!epochs.holds(slot, before));
        let after = epochs.read(slot).unwrap();
        assert!(epochs.holds(slot, after));
    }
}
