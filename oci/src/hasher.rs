//! The running digest of bytes that arrive in pieces.
//!
//! Owns: the choice of implementation per algorithm, and the form in which a running hash is put away.

use sha2::digest::Digest as _;
use sha2::digest::common::hazmat::{SerializableState, SerializedState};

use crate::digest::{Algorithm, Digest};

/// Takes whole blocks into the words of a running SHA-256 (FIPS 180-4, 6.2.2).
pub type Compress = fn(&mut [u32; 8], &[[u8; SHA256_BLOCK_BYTES]]);

const SHA256_BLOCK_BYTES: usize = 64;
const SHA256_WORDS_BYTES: usize = 32;

/// A running hash.
#[derive(Clone)]
pub enum Hasher {
    /// SHA-256.
    Sha256(sha2::Sha256),
    /// SHA-512.
    Sha512(sha2::Sha512),
    /// BLAKE3; boxed for its 2 KiB tree.
    Blake3(Box<blake3::Hasher>),
}

impl Hasher {
    /// The hash of nothing yet.
    pub fn new(algorithm: Algorithm) -> Hasher {
        match algorithm {
            Algorithm::Sha256 => Hasher::Sha256(sha2::Sha256::new()),
            Algorithm::Sha512 => Hasher::Sha512(sha2::Sha512::new()),
            Algorithm::Blake3 => Hasher::Blake3(Box::new(blake3::Hasher::new())),
        }
    }

    /// The algorithm.
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Hasher::Sha256(_) => Algorithm::Sha256,
            Hasher::Sha512(_) => Algorithm::Sha512,
            Hasher::Blake3(_) => Algorithm::Blake3,
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(hash) => hash.update(bytes),
            Hasher::Sha512(hash) => hash.update(bytes),
            Hasher::Blake3(hash) => {
                hash.update(bytes);
            }
        }
    }

    /// The same as [`Hasher::update`], where somebody has a quicker way for the whole blocks of SHA-256. Other algorithms are
    /// not concerned.
    pub fn update_by(&mut self, bytes: &[u8], compress: Compress) {
        let Hasher::Sha256(hash) = self else { return self.update(bytes) };
        let fill = usize::from(hash.serialize()[SHA256_WORDS_BYTES + 8]);
        let to_block = (SHA256_BLOCK_BYTES - fill) % SHA256_BLOCK_BYTES;
        let Some((head, rest)) = bytes.split_at_checked(to_block) else { return hash.update(bytes) };
        let (blocks, tail) = rest.as_chunks::<SHA256_BLOCK_BYTES>();
        hash.update(head);
        if !blocks.is_empty() {
            let mut state = hash.serialize();
            let (words, counted) = state.split_at_mut(SHA256_WORDS_BYTES);
            let count = u64::from_le_bytes(*counted.first_chunk().unwrap_or(&[0; 8])) + blocks.len() as u64;
            counted[..8].copy_from_slice(&count.to_le_bytes());
            let words = words.as_chunks_mut().0;
            let mut running: [u32; 8] = std::array::from_fn(|word| u32::from_le_bytes(words[word]));
            compress(&mut running, blocks);
            words.iter_mut().zip(running).for_each(|(word, value)| *word = value.to_le_bytes());
            match sha2::Sha256::deserialize(&state) {
                Ok(taken) => *hash = taken,
                Err(_) => hash.update(blocks.as_flattened()),
            }
        }
        hash.update(tail);
    }

    /// The digest of all that was taken.
    pub fn finish(self) -> Digest {
        match self {
            Hasher::Sha256(hash) => Digest::Sha256(hash.finalize().into()),
            Hasher::Sha512(hash) => Digest::Sha512(hash.finalize().into()),
            Hasher::Blake3(hash) => Digest::Blake3(hash.finalize().into()),
        }
    }

    /// The state, to go on from with [`Hasher::restore`]. `None`: BLAKE3, whose state cannot be put away.
    ///
    /// The form is stable across the 0.11 releases of `sha2` only; keep it no longer than a boot.
    pub fn save(&self) -> Option<SavedHasher> {
        match self {
            Hasher::Sha256(hash) => Some(SavedHasher::new(&hash.serialize())),
            Hasher::Sha512(hash) => Some(SavedHasher::new(&hash.serialize())),
            Hasher::Blake3(_) => None,
        }
    }

    /// The hash that was saved when it had taken `taken_bytes`. `None`: not a state of this algorithm, or of
    /// another number of bytes, or BLAKE3.
    pub fn restore(algorithm: Algorithm, saved: &[u8], taken_bytes: u64) -> Option<Hasher> {
        if taken_bytes > TAKEN_BYTES_MAX {
            return None;
        }
        match algorithm {
            Algorithm::Sha256 => {
                let counted = counts(32, &(taken_bytes / 64).to_le_bytes(), taken_bytes % 64, saved);
                let state = SerializedState::<sha2::Sha256>::try_from(saved).ok().filter(|_| counted)?;
                sha2::Sha256::deserialize(&state).ok().map(Hasher::Sha256)
            }
            Algorithm::Sha512 => {
                let blocks = u128::from(taken_bytes / 128).to_le_bytes();
                let counted = counts(64, &blocks, taken_bytes % 128, saved);
                let state = SerializedState::<sha2::Sha512>::try_from(saved).ok().filter(|_| counted)?;
                sha2::Sha512::deserialize(&state).ok().map(Hasher::Sha512)
            }
            Algorithm::Blake3 => None,
        }
    }
}

/// SHA-256 counts bits in 64 of them, and a state with more cannot be finished. No file is that long.
const TAKEN_BYTES_MAX: u64 = 1 << 60;

/// Whether a state says so many whole blocks, and so many bytes of the next one. It is the words of the hash,
/// the number of blocks, and a block with its fill in front.
fn counts(words_len: usize, blocks: &[u8], fill: u64, saved: &[u8]) -> bool {
    let counters = saved.get(words_len..).and_then(|rest| rest.strip_prefix(blocks));
    counters.and_then(|rest| rest.first()).is_some_and(|said| u64::from(*said) == fill)
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Hasher({})", self.algorithm())
    }
}

/// The state of a [`Hasher`], inline.
#[derive(Clone, Copy)]
pub struct SavedHasher {
    len: u16,
    bytes: [u8; SavedHasher::LEN_MAX],
}

impl SavedHasher {
    /// Upper bound of [`SavedHasher::as_bytes`], in bytes.
    pub const LEN_MAX: usize = 256;

    fn new(state: &[u8]) -> SavedHasher {
        let mut bytes = [0; SavedHasher::LEN_MAX];
        bytes[..state.len()].copy_from_slice(state);
        SavedHasher { len: state.len() as u16, bytes }
    }

    /// What [`Hasher::restore`] takes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_foreign_state_is_refused() {
        let saved = Hasher::new(Algorithm::Sha256).save().unwrap();
        assert!(Hasher::restore(Algorithm::Sha512, saved.as_bytes(), 0).is_none());
        assert!(Hasher::restore(Algorithm::Blake3, saved.as_bytes(), 0).is_none());
        assert!(Hasher::restore(Algorithm::Sha256, &saved.as_bytes()[1..], 0).is_none());
        assert!(Hasher::restore(Algorithm::Sha256, &[], 0).is_none());
        // An impossible fill of the block buffer.
        assert!(Hasher::restore(Algorithm::Sha256, &[0xff; 105], u64::MAX).is_none());
    }

    #[test]
    fn a_state_of_another_length_is_refused() {
        for (algorithm, block) in [(Algorithm::Sha256, 64), (Algorithm::Sha512, 128)] {
            let mut hasher = Hasher::new(algorithm);
            hasher.update(&vec![7; 3 * block + 5]);
            let (saved, taken) = (hasher.save().unwrap(), 3 * block as u64 + 5);
            assert!(Hasher::restore(algorithm, saved.as_bytes(), taken).is_some());
            for other in [0, 5, taken - 1, taken + 1, taken - block as u64, taken + block as u64, u64::MAX] {
                assert!(Hasher::restore(algorithm, saved.as_bytes(), other).is_none(), "{other}");
            }
            let mut endless = saved.as_bytes().to_vec();
            let beyond = TAKEN_BYTES_MAX + taken;
            endless[block / 2..][..8].copy_from_slice(&(beyond / block as u64).to_le_bytes());
            assert!(Hasher::restore(algorithm, &endless, beyond).is_none(), "it could not be finished");
        }
    }

    #[test]
    fn a_saved_state_fits_however_full_its_block_is() {
        for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
            for bytes in 0..=128 {
                let mut hasher = Hasher::new(algorithm);
                hasher.update(&vec![7; bytes]);
                assert!(hasher.save().unwrap().as_bytes().len() <= SavedHasher::LEN_MAX);
            }
        }
    }

    #[test]
    fn blake3_has_no_state_to_save() {
        assert!(Hasher::new(Algorithm::Blake3).save().is_none());
    }

    proptest! {
        #[test]
        fn pieces_and_restarts_do_not_show(
            content in proptest::collection::vec(any::<u8>(), 0..700),
            cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..5),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(content.len() + 1)).collect();
            cuts.sort_unstable();
            for algorithm in Algorithm::ALL {
                let (mut hasher, mut from) = (Hasher::new(algorithm), 0);
                for &cut in &cuts {
                    hasher.update(&content[from..cut]);
                    from = cut;
                    if let Some(saved) = hasher.save() {
                        hasher = Hasher::restore(algorithm, saved.as_bytes(), cut as u64).unwrap();
                    }
                }
                hasher.update(&content[from..]);
                prop_assert_eq!(hasher.algorithm(), algorithm);
                prop_assert_eq!(hasher.finish(), Digest::of(algorithm, &content));
            }
        }
    }
}
