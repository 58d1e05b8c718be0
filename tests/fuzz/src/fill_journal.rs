//! What is said of a fill's chunks on a disk, which may have lied, torn a write, or lost its end.

use std::collections::{BTreeMap, BTreeSet};

use dataplane::{
    limits::FILL_CHUNK_BYTES,
    testing::{Journal, read_fill_journal as read},
};
use oci::{Algorithm, Digest};

use super::{cuts, record::checksum};

const ID: [u8; 16] = *b"the id of a fill";
const OTHER: [u8; 16] = *b"another fill's!!";
const HEADER_BYTES: usize = 94;
const RECORD_BYTES: usize = 36;
const CRC_BYTES: usize = 4;

/// The input is a journal; and once more the length of a blob and then records, to which identity and checksums are
/// added.
pub fn fill_journal(bytes: &[u8]) {
    check(bytes);
    let (size, rest) = bytes.split_at(bytes.len().min(8));
    let mut eight = [0; 8];
    eight[..size.len()].copy_from_slice(size);
    // One in 256 of them has a length that nobody told.
    let size = if bytes.last() == Some(&0xff) { u64::MAX } else { u64::from_le_bytes(eight) >> 1 };
    let algorithm = Algorithm::ALL[bytes.len() % Algorithm::ALL.len()];
    let digest = Digest::of(algorithm, bytes);
    let mut journal = header(&digest, size);
    for twelve in rest.chunks_exact(12) {
        let (chunk, crc) = twelve.split_at(8);
        let id = if crc[0] % 7 == 3 { OTHER } else { ID };
        let giver = [crc[1] % 3, 0, 0, 0];
        let mut record = [&id[..], chunk, crc, &giver].concat();
        record.extend_from_slice(&checksum(&record));
        journal.extend_from_slice(&record);
    }
    check(&journal);
    let whole = read(ID, &journal);
    assert_eq!(whole.is_some(), size != u64::MAX);
    assert_eq!(read(OTHER, &journal), None, "it is another's");
    let Some(whole) = whole else { return };
    assert_eq!((whole.digest, whole.size_bytes), (digest, size));
    for cut in cuts(journal.len()) {
        match read(ID, &journal[..cut]) {
            None => assert!(cut < HEADER_BYTES),
            Some(before) => {
                // A chunk that was recorded twice may have had another checksum.
                assert!(before.chunks.keys().all(|chunk| whole.chunks.contains_key(chunk)));
                assert!(before.givers.is_subset(&whole.givers));
                assert!(before.records <= whole.records);
            }
        }
    }
    for at in cuts(HEADER_BYTES) {
        let mut changed = journal.clone();
        changed[at] ^= 1 << (at % 8);
        assert_eq!(read(ID, &changed), None, "byte {at} of the header");
    }
}

/// What is read is what stands there, whole, and of this fill.
fn check(journal: &[u8]) {
    let Some(Journal { digest, size_bytes, chunks, givers, records }) = read(ID, journal) else { return };
    let (header, rest) = journal.split_at(HEADER_BYTES);
    assert_eq!(header[HEADER_BYTES - CRC_BYTES..], checksum(&header[..HEADER_BYTES - CRC_BYTES]));
    assert_eq!(header[18..18 + digest.bytes().len()], *digest.bytes());
    assert_eq!(records, rest.len().div_ceil(RECORD_BYTES) as u64);
    let (mut model, mut gave) = (BTreeMap::new(), BTreeSet::new());
    for record in rest.chunks_exact(RECORD_BYTES) {
        let (body, crc) = record.split_at(RECORD_BYTES - CRC_BYTES);
        let chunk = u64::from_le_bytes(body[16..24].try_into().expect("eight bytes"));
        let begins = chunk.checked_mul(FILL_CHUNK_BYTES);
        if *crc == checksum(body) && body[..16] == ID && begins.is_some_and(|begins| begins < size_bytes) {
            let number = |at: usize| u32::from_le_bytes(body[at..at + 4].try_into().expect("four bytes"));
            model.insert(chunk, number(24));
            gave.insert(number(28));
        }
    }
    assert_eq!((chunks, givers), (model, gave));
}

fn header(digest: &Digest, size: u64) -> Vec<u8> {
    let algorithm = match digest.algorithm() {
        Algorithm::Sha256 => 0,
        Algorithm::Sha512 => 1,
        Algorithm::Blake3 => 2,
    };
    let mut header = [&[2], &ID[..], &[algorithm]].concat();
    header.extend_from_slice(digest.bytes());
    header.resize(82, 0);
    header.extend_from_slice(&size.to_le_bytes());
    header.extend_from_slice(&checksum(&header));
    assert_eq!(header.len(), HEADER_BYTES);
    header
}
