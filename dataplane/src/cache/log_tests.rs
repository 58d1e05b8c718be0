//! The files on a disk that fails when a test says so: their order, and that nothing goes missing by an error.

use std::{
    env, fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use oci::{Algorithm, Digest};

use super::*;
use crate::io::{Call, Faults};

const MAX_BYTES: u64 = 1 << 40;
const ENOSPC: i32 = 28;

/// A data directory that goes with the test.
struct Place(PathBuf);

impl Place {
    fn new() -> Place {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("gantry-cache-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let place = env::temp_dir().join(name);
        fs::create_dir(&place).unwrap();
        Place(place)
    }

    fn open(&self, faults: &Faults) -> Opened {
        Log::open(&Fs::open(&self.0, faults.clone()).unwrap(), MAX_BYTES).unwrap()
    }

    fn file(&self, name: &str) -> PathBuf {
        Path::new(&self.0).join(name)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

fn digest(number: u32) -> Digest {
    Digest::of(Algorithm::Sha256, &number.to_le_bytes())
}

fn flush(opened: &mut Opened) -> io::Result<()> {
    let unwritten = opened.index.unwritten(&opened.log);
    opened.log.write(unwritten)
}

#[test]
fn what_was_written_is_there_after_a_restart_and_is_gone_on_with() {
    let place = Place::new();
    let mut opened = place.open(&Faults::none());
    assert_eq!(opened.loaded, Loaded::Fresh);
    flush(&mut opened).unwrap();
    for round in 0..5 {
        for number in round * 10..round * 10 + 10 {
            opened.index.insert(&digest(number), 100, 1, None).unwrap();
        }
        opened.index.remove(&digest(round * 10)).unwrap();
        let unwritten = opened.index.unwritten(&opened.log);
        assert!(matches!(unwritten, Unwritten::Append(_)));
        opened.log.write(unwritten).unwrap();
        assert!(matches!(opened.index.unwritten(&opened.log), Unwritten::Nothing));
        drop(opened);
        opened = place.open(&Faults::none());
        assert_eq!(opened.loaded, Loaded::Whole);
        assert_eq!(opened.index.policy().len() as u32, (round + 1) * 9);
    }
    assert_eq!(opened.index.policy().cached_bytes(), 4500);
}

#[test]
fn a_snapshot_is_synced_before_it_has_its_name_and_that_before_the_journal_is_cut() {
    let (place, faults) = (Place::new(), Faults::recording());
    let mut opened = place.open(&faults);
    flush(&mut opened).unwrap();
    opened.index.insert(&digest(1), 1, 1, None).unwrap();
    flush(&mut opened).unwrap();
    faults.take();
    opened.index.want_snapshot();
    flush(&mut opened).unwrap();
    let calls: Vec<(Call, String)> = faults.take();
    let expect = [
        (Call::Unlink, SNAPSHOT_NEW),
        (Call::Create, SNAPSHOT_NEW),
        (Call::Write, SNAPSHOT_NEW),
        (Call::SyncData, SNAPSHOT_NEW),
        (Call::Rename, SNAPSHOT),
        (Call::SyncDirectory, DIRECTORY),
        (Call::Write, JOURNAL),
        (Call::Write, JOURNAL),
    ];
    assert_eq!(calls, expect.map(|(call, name)| (call, name.to_owned())));
    opened.index.insert(&digest(2), 1, 1, None).unwrap();
    flush(&mut opened).unwrap();
    assert_eq!(faults.take(), [(Call::Write, JOURNAL.to_owned())], "an append is no sync");
}

#[test]
fn after_any_error_nothing_is_missing() {
    let calls = [Call::Create, Call::Write, Call::SyncData, Call::Rename, Call::SyncDirectory, Call::Unlink];
    for call in calls {
        for skip in 0..3 {
            for snapshot in [false, true] {
                let (place, faults) = (Place::new(), Faults::recording());
                let mut opened = place.open(&faults);
                opened.index.insert(&digest(1), 1, 1, None).unwrap();
                flush(&mut opened).unwrap();
                opened.index.insert(&digest(2), 1, 1, None).unwrap();
                opened.index.remove(&digest(1)).unwrap();
                if snapshot {
                    opened.index.want_snapshot();
                }
                faults.fail(call, skip, ENOSPC);
                let failed = flush(&mut opened).is_err();
                faults.heal();
                assert_eq!(opened.log.wants_snapshot(), failed, "{call:?} {skip} {snapshot}");
                opened.index.insert(&digest(3), 1, 1, None).unwrap();
                // The process may end here: what it finds then is some moment before.
                let found = place.open(&Faults::none());
                let whole = matches!(found.loaded, Loaded::Whole | Loaded::Cut { lost_bytes: 0 });
                assert!(whole, "{call:?} {skip} {snapshot}: {:?}", found.loaded);
                let known = [1, 2].map(|number| found.index.get(&digest(number)).is_some());
                assert!(known == [false, true] || (failed && known == [true, false]), "{known:?}");
                flush(&mut opened).unwrap();
                drop(opened);
                let known = {
                    let found = place.open(&Faults::none());
                    assert_eq!(found.loaded, Loaded::Whole);
                    [1, 2, 3].map(|number| found.index.get(&digest(number)).is_some())
                };
                assert_eq!(known, [false, true, true], "{call:?} {skip} {snapshot}");
            }
        }
    }
}

#[test]
fn a_journal_that_is_long_enough_is_cut_by_a_snapshot() {
    let place = Place::new();
    let mut opened = place.open(&Faults::none());
    flush(&mut opened).unwrap();
    let blob = digest(1);
    while !opened.log.wants_snapshot() {
        for _ in 0..1000 {
            opened.index.insert(&blob, 1, 1, None).unwrap();
            opened.index.remove(&blob).unwrap();
        }
        flush(&mut opened).unwrap();
    }
    let longest = CACHE_JOURNAL_BYTES_MAX + CACHE_JOURNAL_BUFFER_BYTES_MAX as u64;
    let len = || fs::metadata(place.file(JOURNAL)).unwrap().len();
    assert!((CACHE_JOURNAL_BYTES_MAX..longest).contains(&len()), "{}", len());
    assert_eq!(place.open(&Faults::none()).loaded, Loaded::Whole);
    flush(&mut opened).unwrap();
    assert!(len() < 100 && !opened.log.wants_snapshot());
    assert_eq!(place.open(&Faults::none()).loaded, Loaded::Whole);
}

#[test]
fn damaged_files_are_found_out_and_replaced() {
    let place = Place::new();
    let mut opened = place.open(&Faults::none());
    opened.index.insert(&digest(1), 1, 1, None).unwrap();
    flush(&mut opened).unwrap();
    opened.index.insert(&digest(2), 1, 1, None).unwrap();
    flush(&mut opened).unwrap();
    drop(opened);
    // A power cut that left the length and took the bytes.
    let len = fs::metadata(place.file(JOURNAL)).unwrap().len();
    fs::OpenOptions::new().write(true).open(place.file(JOURNAL)).unwrap().set_len(len + 4096).unwrap();
    let mut opened = place.open(&Faults::none());
    assert_eq!(opened.loaded, Loaded::Cut { lost_bytes: 4096 });
    assert_eq!(opened.index.policy().len(), 2);
    flush(&mut opened).unwrap();
    drop(opened);
    assert_eq!(place.open(&Faults::none()).loaded, Loaded::Whole);

    fs::write(place.file(SNAPSHOT), b"damaged").unwrap();
    fs::write(place.file(SNAPSHOT_NEW), b"left over").unwrap();
    let mut opened = place.open(&Faults::none());
    assert_eq!(opened.loaded, Loaded::Rebuild);
    assert!(opened.index.policy().is_empty() && !place.file(SNAPSHOT_NEW).exists());
    flush(&mut opened).unwrap();
    assert_eq!(place.open(&Faults::none()).loaded, Loaded::Whole);

    // Longer than any can be: not read to its end.
    let file = fs::OpenOptions::new().write(true).open(place.file(SNAPSHOT)).unwrap();
    file.set_len(SNAPSHOT_BYTES_MAX + 4096).unwrap();
    assert_eq!(place.open(&Faults::none()).loaded, Loaded::Rebuild);
}
