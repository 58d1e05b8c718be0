//! The cache's index as it lies on a disk, which may have lied, torn a write, or lost its end.

use std::collections::BTreeMap;

use dataplane::{
    limits::CACHE_FRAME_BYTES_MAX,
    testing::{Index, IndexRecord, Kind, Loaded, Mark, Place, Unwritten, read_frames},
};
use oci::Digest;

use super::{cuts, record::checksum};

const MAX_BYTES: u64 = 1 << 30;
const HEADER_BYTES: usize = 8 + 26;

/// Records of the first have no upstream.
const VERSIONS: [u8; 2] = [1, 2];

/// The input is a snapshot and a journal; and once more the payload of a frame of each version, to which head and checksum
/// are added.
pub fn cache_index(bytes: &[u8]) {
    for kind in [Kind::Snapshot, Kind::Journal] {
        check_whole(bytes, kind);
    }
    let (index, loaded) = Index::read(Some(bytes), Some(bytes), MAX_BYTES);
    // One file can't be both.
    assert!(
        loaded == Loaded::Rebuild && index.policy().is_empty()
            || loaded == Loaded::Cut { lost_bytes: bytes.len() as u64 }
    );

    for version in VERSIONS {
        check_payload(&bytes[..bytes.len().min(CACHE_FRAME_BYTES_MAX)], version);
    }
}

fn check_payload(payload: &[u8], version: u8) {
    let is_old = version == VERSIONS[0];
    let generation = payload.len() as u64;
    let mut journal = header(Kind::Journal, generation, version);
    let before = journal.len();
    push_frame(&mut journal, generation, payload);
    let mut model: BTreeMap<Digest, (u64, Place, Option<Mark>)> = BTreeMap::new();
    let read = read_frames(&journal, Kind::Journal, &mut |record| {
        match record {
            IndexRecord::Put(item) => {
                _ = model.insert(item.digest, (item.size_bytes % MAX_BYTES, item.place, item.upstream))
            }
            IndexRecord::Gone(digest) => _ = model.remove(&digest),
        }
        true
    });
    assert_eq!((read.is_damaged, read.is_old), (read.whole_bytes < journal.len(), is_old));
    assert!([before, journal.len()].contains(&read.whole_bytes), "one frame is whole, or is not");
    for cut in cuts(journal.len()) {
        let read = read_frames(&journal[..cut], Kind::Journal, &mut |_| panic!("the one frame is cut"));
        assert_eq!(read.whole_bytes, if cut < before { 0 } else { before });
    }

    let empty = header(Kind::Snapshot, generation, version);
    let (mut index, loaded) = Index::read(Some(&empty), Some(&journal), MAX_BYTES);
    assert!(loaded == Loaded::Whole || read.is_damaged || sums_overflow(&journal));
    if loaded == Loaded::Whole {
        assert_eq!(index.policy().len(), model.len());
        for (digest, told) in &model {
            let item = index.get(digest).expect("it was put in");
            assert_eq!((item.size_bytes % MAX_BYTES, item.place, item.upstream), *told);
            assert!(item.upstream.is_none() || !is_old);
        }
        assert_eq!(index.wants_snapshot(), is_old);
    }
    // What was read is written and read again.
    let places = [Place::Small, Place::Main, Place::Kept];
    let items = |index: &Index| places.map(|place| index.policy().items(place).collect::<Vec<_>>());
    let Unwritten::Snapshot { generation, bytes } = index.snapshot() else { panic!("a snapshot is one") };
    let journal = header(Kind::Journal, generation, VERSIONS[1]);
    let (again, loaded) = Index::read(Some(&bytes), Some(&journal), MAX_BYTES);
    assert!(loaded == Loaded::Whole && !again.wants_snapshot());
    assert_eq!(items(&again), items(&index));
}

/// Whether the lengths of what is put in are too much for any disk, so that some of it is refused.
fn sums_overflow(journal: &[u8]) -> bool {
    let mut sum = Some(0_u64);
    read_frames(journal, Kind::Journal, &mut |record| {
        if let IndexRecord::Put(item) = record {
            sum = sum.and_then(|sum| sum.checked_add(item.size_bytes));
        }
        true
    });
    sum.is_none()
}

/// What is called whole is whole frames, each with its checksum.
fn check_whole(bytes: &[u8], kind: Kind) {
    let mut records = 0_u64;
    let read = read_frames(bytes, kind, &mut |_| {
        records += 1;
        true
    });
    let Some(header) = read.header else {
        assert_eq!((read.whole_bytes, records, read.is_damaged), (0, 0, true));
        return;
    };
    assert_eq!(header.kind, kind);
    let (mut at, mut generation) = (0, 0);
    while at < read.whole_bytes {
        let len = u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize;
        let payload = &bytes[at + 8..at + 8 + len];
        assert_eq!(bytes[at + 4..at + 8], frame_checksum(generation, payload));
        at += 8 + len;
        generation = header.generation;
    }
    assert_eq!(at, read.whole_bytes);
    if !read.is_damaged {
        assert_eq!(at, bytes.len());
        assert!(kind == Kind::Journal || records == header.records);
    }
}

fn header(kind: Kind, generation: u64, version: u8) -> Vec<u8> {
    let mut payload = b"gantry-c".to_vec();
    payload.extend_from_slice(&[version, u8::from(kind == Kind::Journal)]);
    payload.extend_from_slice(&generation.to_le_bytes());
    payload.extend_from_slice(&[0; 8]);
    let mut file = Vec::new();
    push_frame(&mut file, 0, &payload);
    assert_eq!(file.len(), HEADER_BYTES);
    file
}

fn push_frame(file: &mut Vec<u8>, generation: u64, payload: &[u8]) {
    file.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    file.extend_from_slice(&frame_checksum(generation, payload));
    file.extend_from_slice(payload);
}

fn frame_checksum(generation: u64, payload: &[u8]) -> [u8; 4] {
    let len = (payload.len() as u32).to_le_bytes();
    checksum(&[&generation.to_le_bytes(), &len[..], payload].concat())
}
