//! Hashing at the speed of the processor, also of one without instructions for SHA-256.

use oci::Hasher;

/// Takes the next bytes into a running hash.
pub fn hash(hasher: &mut Hasher, bytes: &[u8]) {
    hasher.update_by(bytes, compress);
}

fn compress(words: &mut [u32; 8], blocks: &[[u8; 64]]) {
    // SAFETY: it reads so many times 64 bytes, and reads and writes eight words.
    unsafe { aws_lc_sys::SHA256_TransformBlocks(words.as_mut_ptr(), blocks.as_ptr().cast(), blocks.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci::Algorithm;

    #[test]
    fn however_it_is_cut_it_is_the_same_hash() {
        let bytes: Vec<u8> = (0..5000_u32).map(|at| ((at * 31) >> 3) as u8).collect();
        for algorithm in Algorithm::ALL {
            for step in [1, 3, 63, 64, 65, 127, 128, 129, 1000, 4096] {
                let (mut quick, mut plain) = (Hasher::new(algorithm), Hasher::new(algorithm));
                for piece in bytes.chunks(step) {
                    hash(&mut quick, piece);
                    plain.update(piece);
                    assert_eq!(
                        quick.save().map(|saved| saved.as_bytes().to_vec()),
                        plain.save().map(|saved| saved.as_bytes().to_vec())
                    );
                }
                assert_eq!(quick.finish(), plain.finish(), "{algorithm} by {step}");
            }
        }
    }
}
