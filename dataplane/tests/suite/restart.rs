//! What a start makes of what an earlier process left: sessions that go on, commits that were under way, and
//! the mark of a disk error. Storage rules: "Upload sessions", "Start".

use std::{
    fs,
    io::Write as _,
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use control::Refusal;
use dataplane::testing::{Call, Driver, clear_disk_error, disk_error_marked, mark_disk_error};
use oci::{Algorithm, Digest, Problem, UploadId};

use crate::rig::{Place, Rig, Shared, begin, finish, legs, push, repository, sha256};

/// A start, which reads the names of uploads and never those of blobs, however many there are.
fn again(place: &Arc<Place>, metadata: &Shared) -> Rig {
    again_with(place, metadata, Duration::from_secs(3600))
}

fn again_with(place: &Arc<Place>, metadata: &Shared, upload_expiry: Duration) -> Rig {
    let rig = Rig::over(place.clone(), metadata.clone(), upload_expiry);
    let listed = rig.at_start.iter().filter(|(call, _)| *call == Call::List);
    assert_eq!(listed.map(|(_, path)| path.as_str()).collect::<Vec<_>>(), ["uploads"]);
    rig
}

/// A process that opened a session with `content` and was killed.
fn left_open(leg: Driver, algorithm: Algorithm, content: &'static [u8]) -> (Arc<Place>, Shared, UploadId) {
    let rig = Rig::new();
    let id = rig.on_core(leg, move |io, store, _faults| async move {
        begin(&io, &store, algorithm, content).await.unwrap()
    });
    let (place, metadata) = rig.end();
    (place, metadata, id)
}

#[test]
fn a_session_goes_on_after_a_restart_and_only_blake3_is_read_again() {
    for leg in legs() {
        for algorithm in Algorithm::ALL {
            let (place, metadata, id) = left_open(leg, algorithm, b"before, ");
            // Bytes behind the last record were promised to nobody.
            let data = place.upload(&id).join("data");
            fs::OpenOptions::new().append(true).open(&data).unwrap().write_all(b"torn").unwrap();
            let rig = again(&place, &metadata);
            assert_eq!(fs::metadata(&data).unwrap().len(), 8);
            let digest = Digest::of(algorithm, b"before, after");
            rig.on_core(leg, move |io, store, faults| async move {
                let mut upload = store.take(&repository(), &id).unwrap();
                assert_eq!((upload.offset(), upload.algorithm()), (8, algorithm));
                upload.push(&io, Bytes::from_static(b"after")).await.unwrap();
                upload.settle(&io).await.unwrap();
                upload.put_back();
                finish(&io, &store, &faults, &id, digest).await.unwrap();
            });
            assert_eq!(fs::read(place.blob(&digest)).unwrap(), b"before, after");
            let rehashes = rig.store.counters().rehashes.load(Ordering::Relaxed);
            assert_eq!(rehashes, u64::from(algorithm == Algorithm::Blake3), "{algorithm}");
            rig.end();
        }
    }
}

/// A client that left in the middle does not get a whole day more for each restart.
#[test]
fn a_session_that_was_idle_before_a_restart_has_only_the_rest_of_its_time() {
    for leg in legs() {
        // Less than the machine has been up: a session is never older than its boot.
        let expiry = Duration::from_secs(60);
        for (idle_s, there) in [(30, [true, true]), (59, [true, false]), (70, [false, false])] {
            let (place, metadata, id) = left_open(leg, Algorithm::Sha256, b"before");
            let state = fs::OpenOptions::new().write(true).open(place.upload(&id).join("state")).unwrap();
            state.set_modified(SystemTime::now() - Duration::from_secs(idle_s)).unwrap();
            let rig = again_with(&place, &metadata, expiry);
            let is_there = |rig: &Rig| rig.store.offset(&repository(), &id).is_ok();
            let at_start = is_there(&rig);
            rig.on_core(leg, |io, store, _faults| async move {
                io.sleep_until(io.now() + Duration::from_millis(1100)).await;
                store.expire(&io).await;
            });
            assert_eq!([at_start, is_there(&rig)], there, "idle for {idle_s} of 60 s");
            rig.end();
        }
    }
}

#[test]
fn a_session_that_can_not_be_trusted_is_gone() {
    type Breakage = fn(&Place, &UploadId);
    let breakages: [(&str, Breakage); 4] = [
        ("the file is shorter than its record", |place, id| {
            fs::OpenOptions::new()
                .write(true)
                .open(place.upload(id).join("data"))
                .unwrap()
                .set_len(2)
                .unwrap();
        }),
        ("no record is whole", |place, id| {
            let state = place.upload(id).join("state");
            let mut bytes = fs::read(&state).unwrap();
            bytes.iter_mut().for_each(|byte| *byte ^= 1);
            fs::write(state, bytes).unwrap();
        }),
        ("no record", |place, id| fs::remove_file(place.upload(id).join("state")).unwrap()),
        ("no data", |place, id| fs::remove_file(place.upload(id).join("data")).unwrap()),
    ];
    for (what, breakage) in breakages {
        let (place, metadata, id) = left_open(legs()[0], Algorithm::Sha256, b"abcdef");
        breakage(&place, &id);
        let rig = again(&place, &metadata);
        assert_eq!(rig.store.offset(&repository(), &id), Err(Problem::BlobUploadUnknown), "{what}");
        assert!(!place.upload(&id).exists(), "{what}");
        rig.end();
    }
}

#[test]
fn a_torn_last_record_leaves_the_one_before() {
    let (place, metadata, id) = left_open(legs()[0], Algorithm::Sha256, b"abcdef");
    let state = place.upload(&id).join("state");
    let bytes = fs::read(&state).unwrap();
    assert_eq!(bytes.len(), 1024, "one record of the POST, one of the PATCH");
    fs::write(&state, &bytes[..700]).unwrap();
    let rig = again(&place, &metadata);
    assert_eq!(rig.store.offset(&repository(), &id), Ok(0));
    assert_eq!(fs::metadata(place.upload(&id).join("data")).unwrap().len(), 0);
    rig.on_core(legs()[0], move |io, store, faults| async move {
        let mut upload = store.take(&repository(), &id).unwrap();
        upload.push(&io, Bytes::from_static(b"anew")).await.unwrap();
        upload.settle(&io).await.unwrap();
        upload.put_back();
        finish(&io, &store, &faults, &id, sha256(b"anew")).await.unwrap();
    });
    assert_eq!(fs::read(place.blob(&sha256(b"anew"))).unwrap(), b"anew");
    rig.end();
}

#[test]
fn a_commit_under_way_is_kept_exactly_if_its_row_is_there() {
    for (call, recorded) in [(Call::SyncDirectory, false), (Call::Commit, true)] {
        for with_record in [true, false] {
            let rig = Rig::new();
            let id = rig.on_core(legs()[0], move |io, store, faults| async move {
                let id = begin(&io, &store, Algorithm::Sha512, b"in doubt").await.unwrap();
                faults.fail(call, 0, 5);
                let digest = Digest::of(Algorithm::Sha512, b"in doubt");
                finish(&io, &store, &faults, &id, digest).await.unwrap_err();
                id
            });
            let digest = Digest::of(Algorithm::Sha512, b"in doubt");
            // A COMMIT that returned an error may be there all the same.
            assert_eq!(rig.row(&digest).is_some(), recorded);
            let (place, metadata) = rig.end();
            if !with_record {
                fs::remove_file(place.upload(&id).join("state")).unwrap();
            }
            let rig = again(&place, &metadata);
            assert_eq!(rig.writes.refused(), Some(Refusal::MarkFound));
            // Without its record nobody knows which name it got; its bytes are right.
            let left = recorded || !with_record;
            assert_eq!(place.blob(&digest).exists(), left, "{call:?}, record: {with_record}");
            assert!(!place.upload(&id).exists());
            assert_eq!(rig.store.offset(&repository(), &id), Err(Problem::BlobUploadUnknown));
            rig.end();
            fs::remove_file(place.path("disk-error")).unwrap();
            let rig = again(&place, &metadata);
            rig.on_core(legs()[0], move |io, store, faults| async move {
                let id = begin(&io, &store, Algorithm::Sha512, b"in doubt").await.unwrap();
                finish(&io, &store, &faults, &id, digest).await.unwrap();
            });
            assert_eq!(fs::read(place.blob(&digest)).unwrap(), b"in doubt");
            assert_eq!(rig.row(&digest), Some(8));
            rig.end();
        }
    }
}

#[test]
fn the_doctor_reads_what_was_linked_and_takes_damaged_blobs_away() {
    let rig = Rig::new();
    rig.on_core(legs()[0], |io, store, faults| async move {
        for content in [&b"sound"[..], b"damaged"] {
            push(&io, &store, &faults, content).await.unwrap();
        }
    });
    let (place, metadata) = rig.end();
    fs::write(place.blob(&sha256(b"damaged")), b"dam\0ged").unwrap();
    let rig = again(&place, &metadata);
    mark_disk_error(&rig.fs, 0);
    assert!(disk_error_marked(&rig.fs).unwrap());
    rig.faults.fail(Call::SyncDirectory, 0, 5);
    assert!(clear_disk_error(&rig.fs).is_err());
    assert!(disk_error_marked(&rig.fs).unwrap(), "the mark stays if the doctor could not do its work");
    rig.faults.heal();
    fs::write(place.blob(&sha256(b"damaged")), b"dam\0ged").unwrap();
    let cleared = clear_disk_error(&rig.fs).unwrap();
    assert_eq!((cleared.hashed, cleared.damaged), (2, vec![sha256(b"damaged")]));
    assert!(!disk_error_marked(&rig.fs).unwrap());
    assert!(place.blob(&sha256(b"sound")).exists() && !place.blob(&sha256(b"damaged")).exists());
    // What the metadata still has a row for comes back with a push.
    rig.on_core(legs()[0], |io, store, faults| async move {
        push(&io, &store, &faults, b"damaged").await.unwrap();
    });
    assert_eq!(fs::read(place.blob(&sha256(b"damaged"))).unwrap(), b"damaged");
    rig.end();
}

#[test]
fn without_a_disk_error_the_doctor_reads_nothing() {
    let rig = Rig::new();
    assert_eq!(clear_disk_error(&rig.fs).unwrap().hashed, 0);
    rig.end();
}
