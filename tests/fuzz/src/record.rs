//! The state of an upload as it lies on a disk, which may have lied, torn a write, or lost its end.

use control::Principal;
use dataplane::{
    limits::STATE_RECORD_BYTES_MAX,
    testing::{Record, Step, Told, read_records},
};
use oci::{Algorithm, Digest, Hasher, RepositoryName, SavedHasher};

const CRC_BYTES: usize = 4;

/// The input is a state file; and once more the body of a record, to which the checksum is added.
pub fn record(bytes: &[u8]) {
    let mut told = Told::default();
    for slot in bytes.chunks_exact(STATE_RECORD_BYTES_MAX) {
        if let Some(record) = Record::decode(slot) {
            assert_eq!(slot[..CRC_BYTES], checksum(&slot[CRC_BYTES..]));
            match record.step {
                Step::Progress(_) => told.progress = Some(record),
                Step::Closing(digest) => told.closing = Some(digest),
            }
        }
    }
    assert_eq!(read_records(bytes), told, "the last of each kind");

    let mut slot = [0; STATE_RECORD_BYTES_MAX];
    let len = bytes.len().min(STATE_RECORD_BYTES_MAX - CRC_BYTES);
    slot[CRC_BYTES..CRC_BYTES + len].copy_from_slice(&bytes[..len]);
    let crc = checksum(&slot[CRC_BYTES..]);
    slot[..CRC_BYTES].copy_from_slice(&crc);
    if let Some(record) = Record::decode(&slot) {
        check(&record);
    }
    check(&saying(bytes));
}

/// A record that says `bytes`, as far as they fit.
fn saying(bytes: &[u8]) -> Record {
    let saved = &bytes[..bytes.len().min(SavedHasher::LEN_MAX - 1)];
    let algorithm = Algorithm::ALL[bytes.len() % Algorithm::ALL.len()];
    Record {
        boot: *Digest::of(Algorithm::Sha256, bytes).bytes().first_chunk().expect("32 bytes"),
        repository: RepositoryName::parse("library/thing").expect("a name"),
        principal: Principal::Anonymous,
        created_unix: 1_700_000_000,
        algorithm,
        offset: bytes.len() as u64,
        step: match bytes.len() % 2 {
            0 => Step::Progress(saved.to_vec()),
            _ => Step::Closing(Digest::of(algorithm, bytes)),
        },
    }
}

fn check(record: &Record) {
    let slot = record.encode();
    assert_eq!(Record::decode(&slot).as_ref(), Some(record));
    assert_eq!(slot[..CRC_BYTES], checksum(&slot[CRC_BYTES..]));

    // Prime to the length, so that in time every bit has its turn with some record.
    let bits = STATE_RECORD_BYTES_MAX * 8;
    let first = record.offset as usize % 97;
    for bit in (first..bits).step_by(97) {
        let mut flipped = slot;
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(Record::decode(&flipped), None, "bit {bit}");
    }

    let told = read_records(&slot);
    assert_eq!(told.progress.is_some(), told.closing.is_none());
    for cut in (0..STATE_RECORD_BYTES_MAX).step_by(31) {
        assert_eq!(read_records(&slot[..cut]), Told::default(), "cut at {cut}");
        let torn = [&slot[..], &slot[..cut]].concat();
        assert_eq!(read_records(&torn), told, "a torn record hides nothing");
    }
    assert_eq!(read_records(&[[0; STATE_RECORD_BYTES_MAX], slot].concat()), told);

    if let Step::Progress(saved) = &record.step
        && let Some(mut hasher) = Hasher::restore(record.algorithm, saved, record.offset)
    {
        let saved_again = hasher.save().expect("what was restored can be saved");
        assert_eq!(saved_again.as_bytes(), saved);
        hasher.update(&slot);
        assert_eq!(hasher.finish().algorithm(), record.algorithm);
    }
}

/// CRC-32 as in IEEE 802.3, a bit at a time; little-endian.
pub(super) fn checksum(bytes: &[u8]) -> [u8; CRC_BYTES] {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    (!crc).to_le_bytes()
}
