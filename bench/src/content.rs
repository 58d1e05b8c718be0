//! Bytes that anybody can make again: a blob is a seed and a length.

use std::io::{self, Read};

use oci::{Algorithm, Digest, Hasher};

/// A blob's bytes, made while they are read (splitmix64).
#[derive(Clone, Debug)]
pub struct Noise {
    state: u64,
    left: u64,
}

/// A blob that is known by its seed.
#[derive(Clone, Copy, Debug)]
pub struct Blob {
    /// What its bytes are made from.
    pub seed: u64,
    /// Its length in bytes.
    pub length: u64,
    /// Its digest.
    pub digest: Digest,
}

impl Noise {
    /// `length` bytes from `seed`.
    pub fn new(seed: u64, length: u64) -> Noise {
        Noise { state: seed.wrapping_mul(0x2545_f491_4f6c_dd1d) | 1, left: length }
    }

    /// All of them.
    pub fn bytes(mut self) -> Vec<u8> {
        let mut all = vec![0; usize::try_from(self.left).unwrap_or(0)];
        self.fill(&mut all);
        all
    }

    /// Fills `into`, as far as they go; only the last call may be for a length that 8 does not divide.
    fn fill(&mut self, into: &mut [u8]) -> usize {
        let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(into.len());
        for word in into[..count].chunks_mut(8) {
            self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            word.copy_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes()[..word.len()]);
        }
        self.left -= count as u64;
        count
    }
}

impl Read for Noise {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        // Whole words, so that the bytes don't depend on how they are read.
        let whole = into.len() / 8 * 8;
        let end = if self.left <= whole as u64 || whole == 0 { into.len() } else { whole };
        if whole == 0 && self.left > into.len() as u64 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        Ok(self.fill(&mut into[..end]))
    }
}

impl Blob {
    /// The blob of a seed. Hashes it, which takes a while for a large one.
    pub fn new(seed: u64, length: u64) -> Blob {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let mut noise = Noise::new(seed, length);
        let mut piece = vec![0; 256 * 1024];
        loop {
            match noise.fill(&mut piece) {
                0 => return Blob { seed, length, digest: hasher.finish() },
                count => hasher.update(&piece[..count]),
            }
        }
    }

    /// Its bytes.
    pub fn noise(&self) -> Noise {
        Noise::new(self.seed, self.length)
    }
}

/// Blobs of one length that differ in their last bytes: another one costs a copy, and its digest next to nothing.
#[derive(Clone)]
pub struct Series {
    start: Vec<u8>,
    hashed: Hasher,
    /// How many bytes differ, at most 8.
    end_bytes: usize,
}

impl Series {
    /// Blobs of `length` bytes.
    pub fn new(seed: u64, length: u64) -> Series {
        let mut start = Noise::new(seed, length).bytes();
        let end_bytes = start.len().min(8);
        start.truncate(start.len() - end_bytes);
        let mut hashed = Hasher::new(Algorithm::Sha256);
        hashed.update(&start);
        Series { start, hashed, end_bytes }
    }

    /// The blob of a number. Those shorter than 8 bytes come again.
    pub fn blob(&self, number: u64) -> (Vec<u8>, Digest) {
        let end = &number.to_le_bytes()[..self.end_bytes];
        let mut hasher = self.hashed.clone();
        hasher.update(end);
        let mut bytes = Vec::with_capacity(self.start.len() + end.len());
        bytes.extend_from_slice(&self.start);
        bytes.extend_from_slice(end);
        (bytes, hasher.finish())
    }
}

/// Numbers for choices, from a seed.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// The same seed gives the same numbers.
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `bound`, which is above 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        // xorshift64*
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) % bound.max(1)
    }

    /// A number from 0 to 1, both excluded.
    pub fn share(&mut self) -> f64 {
        (self.below(1 << 52) as f64 + 0.5) / (1_u64 << 52) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_do_not_depend_on_how_they_are_read() {
        for length in [0, 1, 7, 8, 9, 1000, 70_001] {
            let whole = Noise::new(5, length).bytes();
            let mut read = Vec::new();
            let mut noise = Noise::new(5, length);
            let mut piece = [0; 100];
            loop {
                match noise.read(&mut piece).unwrap() {
                    0 => break,
                    count => read.extend_from_slice(&piece[..count]),
                }
            }
            assert!(read == whole, "{length}");
            assert_eq!(Blob::new(5, length).digest, Digest::of(Algorithm::Sha256, &whole));
        }
        assert_ne!(Noise::new(5, 100).bytes(), Noise::new(6, 100).bytes());
    }

    #[test]
    fn a_series_of_blobs_has_their_digests() {
        for length in [0, 3, 8, 9, 1000] {
            let series = Series::new(7, length);
            for number in [0, 1, u64::MAX] {
                let (bytes, digest) = series.blob(number);
                assert_eq!((bytes.len() as u64, digest), (length, Digest::of(Algorithm::Sha256, &bytes)));
            }
        }
        assert_ne!(Series::new(7, 8).blob(1), Series::new(7, 8).blob(2));
    }
}
