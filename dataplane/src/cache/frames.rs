//! The snapshot and the journal of the cache's index as bytes: frames with a checksum each.
//!
//! ```text
//! frame     length of the payload: u32 · crc32 of (generation, length, payload): u32 · payload
//! header    the first frame, of generation 0: "gantry-c" · version · kind · generation: u64 · records: u64
//! others    records: what · size: u64 · came: u32 · upstream: u32 · digest    (a digest that is gone: what · digest)
//! ```
//!
//! In version 1 a record has no upstream. All numbers are little-endian. A snapshot has many records a frame and says how many in all, a journal has one a
//! frame.
//!
//! Invariants: what comes out was put in, whole; nothing is read behind the first damage. A frame of one generation is
//! damage in another.

use oci::{Algorithm, Digest};

use super::{Item, Place};
use crate::{
    limits::{CACHE_FRAME_BYTES_MAX, CACHE_USES_MAX},
    mark::Mark,
};

const MAGIC: &[u8; 8] = b"gantry-c";
/// Length and checksum.
const FRAME_HEAD_BYTES: usize = 8;
const HEADER_BYTES: usize = MAGIC.len() + 2 + 16;
/// The longest: of a digest of 64 bytes.
const RECORD_BYTES_MAX: usize = 1 + 8 + 4 + 4 + 64;
/// In bits 2 and 3 of what a record is, where others say the list.
const GONE: u8 = 3;

/// Which of the two files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// All entries.
    Snapshot,
    /// What happened since.
    Journal,
}

/// What a file begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Which of the two it is.
    pub kind: Kind,
    /// A journal goes with the snapshot of the same generation.
    pub generation: u64,
    /// Records of a snapshot; 0 in a journal.
    pub records: u64,
}

/// How records are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    /// Only read: the next snapshot has the other.
    WithoutUpstream,
    WithUpstream,
}

/// One thing that is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// An entry is there, in [`Place::Small`], [`Place::Main`] or [`Place::Kept`], as the newest of its list.
    Put(Item),
    /// It no longer is.
    Gone(Digest),
}

/// How far a file could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    /// `None`: not even its first frame.
    pub header: Option<Header>,
    /// Bytes that are whole frames.
    pub whole_bytes: usize,
    /// There is more, or less, than that: the file was cut or changed.
    pub is_damaged: bool,
    /// It is of a version that is read and not written.
    pub is_old: bool,
}

/// Reads a file of one kind, and gives each record to `take`, which says whether it makes sense.
pub fn read_frames(bytes: &[u8], kind: Kind, take: &mut dyn FnMut(Record) -> bool) -> Read {
    let mut read = Read { header: None, whole_bytes: 0, is_damaged: true, is_old: false };
    let mut rest = bytes;
    let begun = frame(&mut rest, 0).and_then(header).filter(|(header, _)| header.kind == kind);
    let Some((header, version)) = begun else { return read };
    (read.header, read.is_old) = (Some(header), version == Version::WithoutUpstream);
    read.whole_bytes = bytes.len() - rest.len();
    let mut records = 0;
    while let Some(mut payload) = frame(&mut rest, header.generation) {
        while !payload.is_empty() {
            match Record::decode(&mut payload, version) {
                Some(record) if take(record) => records += 1,
                _ => return read,
            }
        }
        read.whole_bytes = bytes.len() - rest.len();
    }
    let complete = kind == Kind::Journal || records == header.records;
    read.is_damaged = !rest.is_empty() || !complete;
    read
}

/// The first frame of a file.
pub(super) fn push_header(into: &mut Vec<u8>, header: &Header) {
    let start = begin(into);
    into.extend_from_slice(MAGIC);
    into.push(version_code(Version::WithUpstream));
    into.push(match header.kind {
        Kind::Snapshot => 0,
        Kind::Journal => 1,
    });
    into.extend_from_slice(&header.generation.to_le_bytes());
    into.extend_from_slice(&header.records.to_le_bytes());
    end(into, start, 0);
}

/// Records in as few frames as they fit.
pub(super) fn push_frames(into: &mut Vec<u8>, generation: u64, records: impl Iterator<Item = Record>) {
    let mut open = None;
    for record in records {
        let start = *open.get_or_insert_with(|| begin(into));
        record.encode(into);
        if into.len() - start > CACHE_FRAME_BYTES_MAX - RECORD_BYTES_MAX {
            end(into, start, generation);
            open = None;
        }
    }
    if let Some(start) = open {
        end(into, start, generation);
    }
}

/// Makes room for a frame's head; gives where its payload starts.
fn begin(into: &mut Vec<u8>) -> usize {
    into.extend_from_slice(&[0; FRAME_HEAD_BYTES]);
    into.len()
}

fn end(into: &mut [u8], start: usize, generation: u64) {
    let (head, payload) = into.split_at_mut(start);
    let len = (payload.len() as u32).to_le_bytes();
    let crc = checksum(generation, len, payload).to_le_bytes();
    let head = &mut head[start - FRAME_HEAD_BYTES..];
    head[..4].copy_from_slice(&len);
    head[4..].copy_from_slice(&crc);
}

/// The payload of the first frame; `rest` is what comes behind. `None`: it is not whole, and `rest` as it was.
fn frame<'a>(rest: &mut &'a [u8], generation: u64) -> Option<&'a [u8]> {
    let (len, behind) = rest.split_first_chunk::<4>()?;
    let (crc, behind) = behind.split_first_chunk::<4>()?;
    let payload_bytes = u32::from_le_bytes(*len) as usize;
    if payload_bytes == 0 || payload_bytes > CACHE_FRAME_BYTES_MAX {
        return None;
    }
    let (payload, behind) = behind.split_at_checked(payload_bytes)?;
    if checksum(generation, *len, payload) != u32::from_le_bytes(*crc) {
        return None;
    }
    *rest = behind;
    Some(payload)
}

fn checksum(generation: u64, len: [u8; 4], payload: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(&generation.to_le_bytes());
    crc.update(&len);
    crc.update(payload);
    crc.finalize()
}

fn header(payload: &[u8]) -> Option<(Header, Version)> {
    if payload.len() != HEADER_BYTES {
        return None;
    }
    let rest = &mut payload.strip_prefix(MAGIC)?;
    let [version] = chunk(rest)?;
    let version = [Version::WithoutUpstream, Version::WithUpstream]
        .into_iter()
        .find(|known| version_code(*known) == version)?;
    let kind = match chunk(rest)? {
        [0] => Kind::Snapshot,
        [1] => Kind::Journal,
        _ => return None,
    };
    let generation = u64::from_le_bytes(chunk(rest)?);
    let records = u64::from_le_bytes(chunk(rest)?);
    Some((Header { kind, generation, records }, version))
}

impl Record {
    fn encode(&self, into: &mut Vec<u8>) {
        match self {
            Record::Put(item) => {
                let place = place_code(item.place);
                into.push(algorithm_code(item.digest.algorithm()) | place << 2 | item.uses << 4);
                into.extend_from_slice(&item.size_bytes.to_le_bytes());
                into.extend_from_slice(&item.came_unix.to_le_bytes());
                into.extend_from_slice(&item.upstream.map_or(0, Mark::number).to_le_bytes());
                into.extend_from_slice(item.digest.bytes());
            }
            Record::Gone(digest) => {
                into.push(algorithm_code(digest.algorithm()) | GONE << 2);
                into.extend_from_slice(digest.bytes());
            }
        }
    }

    fn decode(rest: &mut &[u8], version: Version) -> Option<Record> {
        let [what] = chunk(rest)?;
        let algorithm =
            Algorithm::ALL.into_iter().find(|algorithm| algorithm_code(*algorithm) == what & 3)?;
        let (place, uses) = (what >> 2 & 3, what >> 4);
        if uses > CACHE_USES_MAX {
            return None;
        }
        if place == GONE {
            return (uses == 0).then_some(Record::Gone(digest(rest, algorithm)?));
        }
        Some(Record::Put(Item {
            place: match place {
                0 => Place::Small,
                1 => Place::Main,
                _ => Place::Kept,
            },
            uses,
            size_bytes: u64::from_le_bytes(chunk(rest)?),
            came_unix: u32::from_le_bytes(chunk(rest)?),
            upstream: match version {
                Version::WithoutUpstream => None,
                Version::WithUpstream => Mark::read(u32::from_le_bytes(chunk(rest)?)),
            },
            digest: digest(rest, algorithm)?,
        }))
    }
}

fn place_code(place: Place) -> u8 {
    match place {
        // What is about to go may be there yet after a restart, and then goes soon.
        Place::Small | Place::Filling | Place::Evicting => 0,
        Place::Main => 1,
        Place::Kept => 2,
    }
}

fn version_code(version: Version) -> u8 {
    match version {
        Version::WithoutUpstream => 1,
        Version::WithUpstream => 2,
    }
}

fn algorithm_code(algorithm: Algorithm) -> u8 {
    match algorithm {
        Algorithm::Sha256 => 0,
        Algorithm::Sha512 => 1,
        Algorithm::Blake3 => 2,
    }
}

fn digest(rest: &mut &[u8], algorithm: Algorithm) -> Option<Digest> {
    let (bytes, behind) = rest.split_at_checked(algorithm.digest_len())?;
    *rest = behind;
    Digest::from_bytes(algorithm, bytes)
}

fn chunk<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (chunk, behind) = rest.split_first_chunk::<N>()?;
    *rest = behind;
    Some(*chunk)
}

const _: () = assert!(CACHE_USES_MAX < 16);

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    fn item(number: u32) -> Item {
        Item {
            digest: Digest::of(Algorithm::ALL[number as usize % 3], &number.to_le_bytes()),
            size_bytes: u64::from(number) << 7,
            came_unix: 1_700_000_000 + number,
            upstream: (!number.is_multiple_of(7)).then(|| Mark::of(&format!("{}.test", number % 7))),
            place: [Place::Small, Place::Main, Place::Kept][number as usize / 3 % 3],
            uses: (number % 4) as u8,
        }
    }

    fn record(number: u32) -> Record {
        if number % 5 == 4 { Record::Gone(item(number).digest) } else { Record::Put(item(number)) }
    }

    fn read(bytes: &[u8], kind: Kind) -> (Read, Vec<Record>) {
        let mut records = Vec::new();
        let read = read_frames(bytes, kind, &mut |record| {
            records.push(record);
            true
        });
        (read, records)
    }

    fn file(kind: Kind, generation: u64, numbers: u32) -> Vec<u8> {
        let records = if kind == Kind::Snapshot { numbers.into() } else { 0 };
        let mut bytes = Vec::new();
        push_header(&mut bytes, &Header { kind, generation, records });
        push_frames(&mut bytes, generation, (0..numbers).map(record));
        bytes
    }

    /// A file as it was written before records had an upstream: each record in a frame of its own.
    pub(in crate::cache) fn old_file(header: &Header, records: &[Record]) -> Vec<u8> {
        const UPSTREAM: std::ops::Range<usize> = 1 + 8 + 4..1 + 8 + 4 + 4;
        let mut bytes = Vec::new();
        push_header(&mut bytes, header);
        bytes[FRAME_HEAD_BYTES + MAGIC.len()] = version_code(Version::WithoutUpstream);
        end(&mut bytes, FRAME_HEAD_BYTES, 0);
        for record in records {
            let start = begin(&mut bytes);
            record.encode(&mut bytes);
            if let Record::Put(_) = record {
                bytes.drain(start + UPSTREAM.start..start + UPSTREAM.end);
            }
            end(&mut bytes, start, header.generation);
        }
        bytes
    }

    #[test]
    fn a_file_of_the_version_before_tells_all_but_upstreams() {
        let written: Vec<Record> = (0..50).map(record).collect();
        let without = |record: &Record| match record {
            Record::Put(item) => Record::Put(Item { upstream: None, ..*item }),
            Record::Gone(digest) => Record::Gone(*digest),
        };
        for (kind, records) in [(Kind::Snapshot, 50), (Kind::Journal, 0)] {
            let header = Header { kind, generation: 9, records };
            let bytes = old_file(&header, &written);
            let (read, told) = read(&bytes, kind);
            let header = Some(header);
            assert_eq!(read, Read { header, whole_bytes: bytes.len(), is_damaged: false, is_old: true });
            assert!(told.into_iter().eq(written.iter().map(without)), "{kind:?}");
        }
        // As the first version wrote it: one blob of 1001 bytes, in the small queue.
        let digest = Digest::Sha256([7; 32]);
        let item =
            Item { digest, size_bytes: 1001, came_unix: 5, upstream: None, place: Place::Small, uses: 0 };
        let header = Header { kind: Kind::Journal, generation: 3, records: 0 };
        let mut bytes = old_file(&header, &[]);
        let start = begin(&mut bytes);
        bytes.extend_from_slice(b"\x00\xe9\x03\0\0\0\0\0\0\x05\0\0\0");
        bytes.extend_from_slice(&[7; 32]);
        end(&mut bytes, start, 3);
        assert_eq!(read(&bytes, Kind::Journal).1, [Record::Put(item)]);
        assert_eq!(old_file(&header, &[Record::Put(item)]), bytes);
    }

    #[test]
    fn many_records_go_round_in_frames_that_are_bounded() {
        let bytes = file(Kind::Snapshot, 7, 5000);
        let (read, records) = read(&bytes, Kind::Snapshot);
        let header = Some(Header { kind: Kind::Snapshot, generation: 7, records: 5000 });
        assert_eq!(read, Read { header, whole_bytes: bytes.len(), is_damaged: false, is_old: false });
        assert!(records.into_iter().eq((0..5000).map(record)));
        let mut rest = bytes.as_slice();
        frame(&mut rest, 0).unwrap();
        let mut frames = 0;
        while let Some(payload) = frame(&mut rest, 7) {
            assert!(payload.len() <= CACHE_FRAME_BYTES_MAX);
            frames += 1;
        }
        assert!(frames > 2, "{frames}");
    }

    #[test]
    fn a_frame_that_says_it_is_longer_than_any_is_damage() {
        let mut bytes = file(Kind::Journal, 1, 0);
        let whole_bytes = bytes.len();
        for (len, good) in [(CACHE_FRAME_BYTES_MAX, true), (CACHE_FRAME_BYTES_MAX + 1, false)] {
            let start = begin(&mut bytes);
            // Records of digests that are gone, 33 bytes each, and an end that is none.
            bytes.resize(start + len, GONE << 2);
            end(&mut bytes, start, 1);
            let mut rest = &bytes[whole_bytes..];
            assert_eq!(frame(&mut rest, 1).is_some(), good);
            assert_eq!(read(&bytes, Kind::Journal).0.whole_bytes, whole_bytes);
            bytes.truncate(whole_bytes);
        }
    }

    #[test]
    fn another_kind_generation_count_or_version_is_damage() {
        let journal = file(Kind::Journal, 3, 9);
        assert_eq!(read(&journal, Kind::Snapshot).0.header, None);
        let mut mixed = file(Kind::Journal, 4, 0);
        let own = mixed.len();
        mixed.extend_from_slice(&journal[own..]);
        assert_eq!(read(&mixed, Kind::Journal).0.whole_bytes, own);
        let mut short = Vec::new();
        push_header(&mut short, &Header { kind: Kind::Snapshot, generation: 1, records: 2 });
        push_frames(&mut short, 1, [record(0)].into_iter());
        assert!(read(&short, Kind::Snapshot).0.is_damaged);
        let mut future = file(Kind::Journal, 3, 0);
        future[FRAME_HEAD_BYTES + MAGIC.len()] = version_code(Version::WithUpstream) + 1;
        end(&mut future, FRAME_HEAD_BYTES, 0);
        assert_eq!(read(&future, Kind::Journal).0.header, None);
    }

    proptest! {
        #[test]
        fn what_is_cut_or_changed_yields_a_beginning(
            numbers in 0_u32..60,
            cut in any::<prop::sample::Index>(),
            changes in proptest::collection::vec((any::<prop::sample::Index>(), 1..=u8::MAX), 0..3),
        ) {
            let mut bytes = Vec::new();
            push_header(&mut bytes, &Header { kind: Kind::Journal, generation: 5, records: 0 });
            (0..numbers).for_each(|number| push_frames(&mut bytes, 5, [record(number)].into_iter()));
            let whole = bytes.clone();
            for (at, by) in changes {
                let at = at.index(bytes.len());
                bytes[at] ^= by;
            }
            bytes.truncate(cut.index(bytes.len() + 1));
            let (read, records) = read(&bytes, Kind::Journal);
            prop_assert!(records.into_iter().enumerate().all(|(at, told)| told == record(at as u32)));
            prop_assert!(read.whole_bytes <= bytes.len());
            prop_assert_eq!(&bytes[..read.whole_bytes], &whole[..read.whole_bytes]);
            prop_assert_eq!(read.is_damaged, read.header.is_none() || read.whole_bytes < bytes.len());
        }
    }
}
