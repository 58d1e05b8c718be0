//! A fill on disk: a sparse file, and a journal of which chunks of it are there.
//!
//! ```text
//! <data>/fills/<id>/data      the bytes, each at its place
//! <data>/fills/<id>/present   a header, then a record for each chunk that was written
//! ```
//!
//! Nothing here is synced, so after a power cut a record may speak of bytes that never came to the disk: its checksum
//! is over the chunk's data, and a restored chunk is read and compared before it is used for anything.
//!
//! Invariants: a record follows the write of its chunk. What is read back was written, whole, by this fill; bytes that
//! were cut or changed are a chunk that is not there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt, io,
};

use oci::{Algorithm, Digest};

use super::room::Units;
use crate::{
    io::{File, Fs},
    limits::{FILL_CHUNK_BYTES, FILL_JOURNAL_BYTES_MAX, FILL_ROOM_BYTES},
};

/// Where fills are, in the data directory.
pub const FILLS: &str = "fills";

/// The name of one fill: random, so that nothing of an earlier one is ever taken for its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FillId(u128);

impl FillId {
    pub(super) fn from_bytes(bytes: [u8; 16]) -> FillId {
        FillId(u128::from_le_bytes(bytes))
    }

    fn parse(text: &str) -> Option<FillId> {
        let id = FillId(u128::from_str_radix(text, 16).ok()?);
        (id.to_string() == text).then_some(id)
    }

    fn directory(self) -> String {
        format!("{FILLS}/{self}")
    }

    /// Of the bytes.
    pub fn data(self) -> String {
        format!("{FILLS}/{self}/data")
    }

    fn present(self) -> String {
        format!("{FILLS}/{self}/present")
    }
}

impl fmt::Display for FillId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

/// The open files of a fill.
#[derive(Clone)]
pub struct FillFiles {
    pub id: FillId,
    pub data: File,
    present: File,
}

/// A fill that an earlier process left.
pub struct Left {
    pub files: FillFiles,
    pub journal: Journal,
    /// When its bytes were last written, seconds since 1970.
    pub written_unix: u64,
}

/// What a journal says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Journal {
    /// Of the blob.
    pub digest: Digest,
    /// Its length in bytes.
    pub size_bytes: u64,
    /// The checksum of each chunk that is there.
    pub chunks: BTreeMap<u64, u32>,
    /// The marks of those who gave them.
    pub givers: BTreeSet<u32>,
    /// How many records there are, whatever is in them.
    pub records: u64,
}

const VERSION: u8 = 2;
const HEADER_BYTES: usize = 1 + 16 + 1 + 64 + 8 + 4;
/// In the place of a length that nobody has told.
const UNKNOWN_SIZE: u64 = u64::MAX;
const RECORD_BYTES: usize = 16 + 8 + 4 + 4 + 4;

impl Left {
    /// The units of room that its chunks lie in.
    pub(super) fn units(&self) -> Units {
        Units::of(
            self.journal.chunks.keys().map(|chunk| chunk * FILL_CHUNK_BYTES / FILL_ROOM_BYTES).collect(),
        )
    }
}

impl FillFiles {
    /// Makes the files of a new fill.
    pub fn create(fs: &Fs, id: FillId, digest: &Digest, size_bytes: Option<u64>) -> io::Result<FillFiles> {
        fs.make_directory(&id.directory())?;
        let files = FillFiles { id, data: fs.create(&id.data())?, present: fs.create(&id.present())? };
        fs.write_all_at(&files.present, 0, &header(id, digest, size_bytes.unwrap_or(UNKNOWN_SIZE)))?;
        Ok(files)
    }

    /// Says that a chunk is there, and whose: record number `records`, from 0.
    pub fn record(&self, fs: &Fs, records: u64, chunk: u64, crc: u32, giver: u32) -> io::Result<()> {
        let at = HEADER_BYTES as u64 + records * RECORD_BYTES as u64;
        fs.write_all_at(&self.present, at, &record(self.id, chunk, crc, giver))
    }

    /// Nothing of it is found any more, also if its names stay.
    pub fn disown(&self, fs: &Fs) -> io::Result<()> {
        fs.trim(&self.present, 0)
    }

    /// Takes the names away; the bytes go when the last descriptor does.
    pub fn remove(fs: &Fs, id: FillId) -> io::Result<()> {
        fs.unlink(&id.data())?;
        fs.unlink(&id.present())?;
        fs.remove_directory(&id.directory())
    }
}

/// Everything that earlier processes left. What can't be gone on with is removed: a fill whose file has got its name
/// under `blobs/`, one without a header, one of a digest that another has already.
pub fn left(fs: &Fs) -> io::Result<Vec<Left>> {
    let mut all: Vec<Left> = Vec::new();
    for name in fs.list(FILLS)? {
        let Some(id) = FillId::parse(&name) else {
            tracing::warn!(name, "not a fill; left alone");
            continue;
        };
        match read(fs, id)? {
            Some(left) if all.iter().all(|other| other.journal.digest != left.journal.digest) => {
                all.push(left)
            }
            Some(_) | None => FillFiles::remove(fs, id)?,
        }
    }
    Ok(all)
}

fn read(fs: &Fs, id: FillId) -> io::Result<Option<Left>> {
    let Some(stat) = fs.stat(&id.data())?.filter(|stat| stat.links == 1) else { return Ok(None) };
    let (Some(data), Some(present)) = (fs.open_writable(&id.data())?, fs.open_writable(&id.present())?)
    else {
        return Ok(None);
    };
    let len = present.stat()?.len;
    if len > FILL_JOURNAL_BYTES_MAX {
        tracing::warn!(id = %id, len, "a fill's journal is too long to be one");
        return Ok(None);
    }
    let mut bytes = vec![0; len as usize];
    let read = fs.read_at(&present, 0, &mut bytes)?;
    let Some(mut journal) = parse(id, &bytes[..read]) else { return Ok(None) };
    journal.chunks.retain(|chunk, _| end_of(*chunk, journal.size_bytes) <= stat.len);
    if journal.chunks.is_empty() {
        // Nothing of it is there.
        return Ok(None);
    }
    Ok(Some(Left { files: FillFiles { id, data, present }, journal, written_unix: stat.written_unix }))
}

/// Where a chunk ends, exclusive.
pub fn end_of(chunk: u64, size_bytes: u64) -> u64 {
    chunk.saturating_add(1).saturating_mul(FILL_CHUNK_BYTES).min(size_bytes)
}

fn header(id: FillId, digest: &Digest, size_bytes: u64) -> [u8; HEADER_BYTES] {
    let mut bytes = [0; HEADER_BYTES];
    bytes[0] = VERSION;
    bytes[1..17].copy_from_slice(&id.0.to_le_bytes());
    bytes[17] = match digest.algorithm() {
        Algorithm::Sha256 => 0,
        Algorithm::Sha512 => 1,
        Algorithm::Blake3 => 2,
    };
    let raw = digest.bytes();
    bytes[18..18 + raw.len()].copy_from_slice(raw);
    bytes[82..90].copy_from_slice(&size_bytes.to_le_bytes());
    seal(&mut bytes);
    bytes
}

fn record(id: FillId, chunk: u64, crc: u32, giver: u32) -> [u8; RECORD_BYTES] {
    let mut bytes = [0; RECORD_BYTES];
    bytes[..16].copy_from_slice(&id.0.to_le_bytes());
    bytes[16..24].copy_from_slice(&chunk.to_le_bytes());
    bytes[24..28].copy_from_slice(&crc.to_le_bytes());
    bytes[28..32].copy_from_slice(&giver.to_le_bytes());
    seal(&mut bytes);
    bytes
}

/// The last four bytes are the checksum of those before.
fn seal(bytes: &mut [u8]) {
    let (body, crc) = bytes.split_at_mut(bytes.len() - 4);
    crc.copy_from_slice(&crc32fast::hash(body).to_le_bytes());
}

fn is_sealed(bytes: &[u8]) -> bool {
    let (body, crc) = bytes.split_at(bytes.len() - 4);
    crc == crc32fast::hash(body).to_le_bytes()
}

/// [`parse`] of the journal of the fill with this id.
pub fn read_journal(id: [u8; 16], journal: &[u8]) -> Option<Journal> {
    parse(FillId::from_bytes(id), journal)
}

/// What a journal says. A record that is not whole is skipped: it is a chunk that has to be fetched again.
fn parse(id: FillId, journal: &[u8]) -> Option<Journal> {
    let (header, records) = journal.split_at_checked(HEADER_BYTES)?;
    let number = |bytes: &[u8]| bytes.try_into().map(u64::from_le_bytes).ok();
    if !is_sealed(header) || header[0] != VERSION || header[1..17] != id.0.to_le_bytes() {
        return None;
    }
    let algorithm = match header[17] {
        0 => Algorithm::Sha256,
        1 => Algorithm::Sha512,
        2 => Algorithm::Blake3,
        _ => return None,
    };
    let digest = Digest::from_bytes(algorithm, &header[18..18 + algorithm.digest_len()])?;
    // One whose length nobody told can't be gone on with: nobody would know where it ends.
    let size_bytes = number(&header[82..90]).filter(|size_bytes| *size_bytes != UNKNOWN_SIZE)?;
    let count = records.len().div_ceil(RECORD_BYTES) as u64;
    let mut journal =
        Journal { digest, size_bytes, chunks: BTreeMap::new(), givers: BTreeSet::new(), records: count };
    for record in records.chunks_exact(RECORD_BYTES) {
        let ours = is_sealed(record) && record[..16] == id.0.to_le_bytes();
        let (Some(chunk), Ok(crc), Ok(giver)) =
            (number(&record[16..24]), record[24..28].try_into(), record[28..32].try_into())
        else {
            continue;
        };
        if ours && chunk.saturating_mul(FILL_CHUNK_BYTES) < size_bytes {
            journal.chunks.insert(chunk, u32::from_le_bytes(crc));
            journal.givers.insert(u32::from_le_bytes(giver));
        }
    }
    Some(journal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal() -> (FillId, Digest, Vec<u8>) {
        let (id, digest) = (FillId(7), Digest::of(Algorithm::Sha256, b"x"));
        let mut journal = header(id, &digest, 10 * FILL_CHUNK_BYTES).to_vec();
        for chunk in [0, 1, 7] {
            journal.extend_from_slice(&record(id, chunk, 40 + chunk as u32, chunk as u32 % 2));
        }
        (id, digest, journal)
    }

    #[test]
    fn a_journal_says_what_was_recorded_and_no_more_when_it_was_cut_or_changed() {
        let (id, digest, whole) = journal();
        let all = BTreeMap::from([(0, 40), (1, 41), (7, 47)]);
        let size_bytes = 10 * FILL_CHUNK_BYTES;
        let expect =
            Journal { digest, size_bytes, chunks: all.clone(), givers: BTreeSet::from([0, 1]), records: 3 };
        assert_eq!(parse(id, &whole), Some(expect));
        for end in 0..whole.len() {
            match parse(id, &whole[..end]) {
                None => assert!(end < HEADER_BYTES),
                Some(journal) => {
                    assert_eq!(journal.digest, digest);
                    assert_eq!(journal.chunks.len(), (end - HEADER_BYTES) / RECORD_BYTES);
                    // The next record goes behind whatever is there.
                    assert!(HEADER_BYTES + journal.records as usize * RECORD_BYTES >= end);
                }
            }
        }
        for at in 0..whole.len() {
            let mut changed = whole.clone();
            changed[at] ^= 0x10;
            let Some(Journal { digest: of, chunks, .. }) = parse(id, &changed) else { continue };
            assert_eq!(of, digest, "{at}");
            assert_eq!(chunks.len(), 2, "{at}");
            assert!(chunks.iter().all(|(chunk, crc)| all.get(chunk) == Some(crc)), "{at}");
        }
    }

    #[test]
    fn records_of_another_fill_and_chunks_behind_the_end_are_nobodys() {
        let (id, _, mut whole) = journal();
        whole.extend_from_slice(&record(FillId(8), 3, 1, 0));
        whole.extend_from_slice(&record(id, 10, 1, 0));
        whole.extend_from_slice(&record(id, u64::MAX, 1, 0));
        assert_eq!(parse(id, &whole).unwrap().chunks.len(), 3);
        assert_eq!(parse(FillId(8), &whole), None);
    }

    #[test]
    fn an_id_is_its_directory() {
        let id = FillId::from_bytes([0xab; 16]);
        assert_eq!(FillId::parse(&id.to_string()), Some(id));
        for other in ["", "ab", "+b", &"AB".repeat(16), &"0".repeat(33)] {
            assert_eq!(FillId::parse(other), None, "{other}");
        }
    }

    #[test]
    fn the_last_chunk_ends_with_the_blob() {
        assert_eq!(end_of(0, 5), 5);
        assert_eq!(end_of(0, FILL_CHUNK_BYTES), FILL_CHUNK_BYTES);
        assert_eq!(end_of(1, FILL_CHUNK_BYTES + 1), FILL_CHUNK_BYTES + 1);
        assert_eq!(end_of(u64::MAX, 7), 7);
    }
}
