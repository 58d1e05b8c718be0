//! Windows of blobs that were read past the page cache, for whoever wants one again: it is worth a place there then.
//!
//! As a ghost of S3-FIFO, by fingerprints and in a table that forgets by being overwritten. It remembers about as much as
//! the machine's memory could hold: who comes back later would not have found it there either.

use std::sync::atomic::{AtomicU64, Ordering};

use oci::Digest;

use crate::{
    io::memory_bytes,
    limits::{BUF_BYTES, GHOSTS_MAX},
};

/// The table. Cores share it, or each would read for itself first. Relaxed: whatever is lost costs a read.
pub struct Ghosts(Box<[AtomicU64]>);

impl Ghosts {
    /// An empty one, for this machine.
    pub fn of_this_machine() -> Ghosts {
        let windows = usize::try_from(memory_bytes() / BUF_BYTES as u64).unwrap_or(GHOSTS_MAX);
        Ghosts::new(windows.clamp(1, GHOSTS_MAX))
    }

    fn new(windows: usize) -> Ghosts {
        Ghosts((0..windows).map(|_| AtomicU64::new(0)).collect())
    }

    /// Whether a window around `at` was read past the page cache lately. It is remembered if not, and forgotten if so: when
    /// memory loses it once more, it does not hold what is wanted.
    pub fn is_wanted_again(&self, digest: &Digest, at: u64) -> bool {
        let window = fingerprint(digest, at / BUF_BYTES as u64);
        let slot = &self.0[(window % self.0.len() as u64) as usize];
        let is_it = slot.load(Ordering::Relaxed) == window;
        slot.store(if is_it { 0 } else { window }, Ordering::Relaxed);
        is_it
    }
}

/// Never 0, so that no empty slot is a window.
fn fingerprint(digest: &Digest, window: u64) -> u64 {
    let start = digest.bytes().iter().take(8).fold(0, |start, byte| start << 8 | u64::from(*byte));
    (start ^ window.wrapping_mul(0x9e37_79b9_7f4a_7c15)) | 1 << 63
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci::Algorithm;

    #[test]
    fn a_window_is_wanted_again_once() {
        let ghosts = Ghosts::new(1 << 16);
        let (one, other) = (Digest::of(Algorithm::Sha256, b"one"), Digest::of(Algorithm::Sha256, b"other"));
        let window = BUF_BYTES as u64;
        for digest in [one, other] {
            for at in (0..1000).map(|number| number * window) {
                assert!(!ghosts.is_wanted_again(&digest, at));
            }
        }
        let again =
            |digest| (0..1000).filter(|number| ghosts.is_wanted_again(digest, number * window + 7)).count();
        // A few lost their slot to others.
        assert!(again(&one) > 950 && again(&other) > 950);
        assert_eq!(again(&one), 0, "they are with the page cache now");
    }

    #[test]
    fn what_is_more_than_it_holds_is_forgotten() {
        let ghosts = Ghosts::new(100);
        let digest = Digest::of(Algorithm::Sha256, b"large");
        let wanted =
            (0..3000).filter(|number| ghosts.is_wanted_again(&digest, number % 1000 * BUF_BYTES as u64));
        assert!(wanted.count() < 100);
        assert!(Ghosts::new(1).0.len() == 1 && !Ghosts::of_this_machine().0.is_empty());
    }
}
