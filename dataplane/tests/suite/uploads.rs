//! Upload sessions in a running process: who may write, what is kept of a broken request, what room is
//! promised. Storage rules: "Upload sessions".

use std::{
    fs,
    io::Write as _,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use control::Principal;
use dataplane::testing::{Call, StoreSettings};
use oci::{Algorithm, Digest, Problem, RepositoryName, UploadId};

use crate::rig::{Place, Rig, Shared, begin, finish, legs, repository, sha256};

const ENOSPC: i32 = 28;

#[test]
fn one_request_at_a_time_and_one_repository() {
    for leg in legs() {
        let rig = Rig::new();
        rig.on_core(leg, |io, store, _faults| async move {
            let id = begin(&io, &store, Algorithm::Sha256, b"abc").await.unwrap();
            let other = RepositoryName::parse("library/other").unwrap();
            assert_eq!(store.take(&other, &id).map(drop), Err(Problem::BlobUploadUnknown));
            assert_eq!(store.offset(&other, &id), Err(Problem::BlobUploadUnknown));
            assert_eq!(store.cancel(&io, &other, &id).await, Err(Problem::BlobUploadUnknown));
            let taken = store.take(&repository(), &id).unwrap();
            assert_eq!(store.take(&repository(), &id).map(drop), Err(Problem::UploadBusy));
            assert_eq!(store.cancel(&io, &repository(), &id).await, Err(Problem::UploadBusy));
            assert_eq!(store.offset(&repository(), &id), Ok(3));
            assert_eq!(store.offset(&other, &id), Err(Problem::BlobUploadUnknown));
            assert_eq!((taken.id(), taken.offset()), (id, 3));
            taken.put_back();
            store.cancel(&io, &repository(), &id).await.unwrap();
            assert_eq!(store.offset(&repository(), &id), Err(Problem::BlobUploadUnknown));
            let unknown = UploadId::from_bytes([7; 16]);
            assert_eq!(store.take(&repository(), &unknown).map(drop), Err(Problem::BlobUploadUnknown));
        });
        assert_eq!(fs::read_dir(rig.place.path("uploads")).unwrap().count(), 0);
        rig.end();
    }
}

#[test]
fn a_dropped_request_keeps_what_was_written() {
    for leg in legs() {
        let rig = Rig::new();
        rig.on_core(leg, |io, store, faults| async move {
            let id =
                store.open_upload(&io, repository(), Principal::Anonymous, Algorithm::Sha256).await.unwrap();
            let mut upload = store.take(&repository(), &id).unwrap();
            for piece in [&b"one "[..], b"two ", b"three"] {
                upload.push(&io, Bytes::from_static(piece)).await.unwrap();
            }
            assert_eq!(upload.offset(), 13);
            // With the last write still in flight.
            drop(upload);
            while store.take(&repository(), &id).map(drop) == Err(Problem::UploadBusy) {
                io.pause().await;
            }
            assert_eq!(store.offset(&repository(), &id), Ok(13));
            finish(&io, &store, &faults, &id, sha256(b"one two three")).await.unwrap();
        });
        assert_eq!(fs::read(rig.place.blob(&sha256(b"one two three"))).unwrap(), b"one two three");
        rig.end();
    }
}

#[test]
fn a_failed_write_resets_hash_and_offset_to_the_one_before() {
    for leg in legs() {
        let rig = Rig::new();
        rig.on_core(leg, |io, store, faults| async move {
            let id = begin(&io, &store, Algorithm::Sha256, b"good ").await.unwrap();
            let mut upload = store.take(&repository(), &id).unwrap();
            faults.fail(Call::Write, 0, ENOSPC);
            upload.push(&io, Bytes::from_static(b"bad")).await.unwrap();
            assert_eq!(upload.settle(&io).await, Err(Problem::DiskFull));
            assert_eq!(upload.offset(), 5);
            faults.heal();
            upload.push(&io, Bytes::from_static(b"again")).await.unwrap();
            upload.settle(&io).await.unwrap();
            upload.put_back();
            finish(&io, &store, &faults, &id, sha256(b"good again")).await.unwrap();
        });
        assert_eq!(fs::read(rig.place.blob(&sha256(b"good again"))).unwrap(), b"good again");
        rig.end();
    }
}

/// A directory, two files and a record: whichever finds no room, nothing is left of the session.
#[test]
fn a_session_that_finds_no_room_to_be_made_leaves_nothing() {
    for leg in legs() {
        for (call, skip) in [(Call::Create, 0), (Call::Create, 1), (Call::Create, 2), (Call::Write, 0)] {
            let rig = Rig::new();
            let place = rig.place.clone();
            rig.on_core(leg, move |io, store, faults| async move {
                let open = || store.open_upload(&io, repository(), Principal::Anonymous, Algorithm::Sha256);
                faults.fail(call, skip, ENOSPC);
                assert_eq!(open().await, Err(Problem::DiskFull), "{call:?} {skip}");
                assert_eq!(fs::read_dir(place.path("uploads")).unwrap().count(), 0, "{call:?} {skip}");
                assert_eq!(store.counters().sessions_open.load(Ordering::Relaxed), 0);
                faults.heal();
                open().await.unwrap();
            });
            assert_eq!(rig.writes.refused(), None);
            rig.end();
        }
    }
}

/// The record of progress and the closing one: the bytes are there, so the client may go on when there is room.
#[test]
fn a_record_that_finds_no_room_keeps_the_session() {
    for leg in legs() {
        let rig = Rig::new();
        rig.on_core(leg, |io, store, faults| async move {
            let id = begin(&io, &store, Algorithm::Sha256, b"one ").await.unwrap();
            let mut upload = store.take(&repository(), &id).unwrap();
            upload.push(&io, Bytes::from_static(b"two")).await.unwrap();
            faults.fail(Call::Write, 0, ENOSPC);
            assert_eq!(upload.settle(&io).await, Err(Problem::DiskFull));
            upload.put_back();
            faults.heal();
            assert_eq!(store.offset(&repository(), &id), Ok(7));
            faults.take();
            faults.fail(Call::Write, 0, ENOSPC);
            let digest = sha256(b"one two");
            assert_eq!(finish(&io, &store, &faults, &id, digest).await, Err(Problem::DiskFull));
            let seen = faults.take();
            assert_eq!(seen, [(Call::Write, format!("uploads/{id}/state"))], "and nothing came after it");
            faults.heal();
            assert_eq!(store.offset(&repository(), &id), Ok(7));
            finish(&io, &store, &faults, &id, digest).await.unwrap();
        });
        assert_eq!(rig.writes.refused(), None);
        assert_eq!(fs::read(rig.place.blob(&sha256(b"one two"))).unwrap(), b"one two");
        rig.end();
    }
}

#[test]
fn a_wrong_digest_leaves_the_session_as_it_was() {
    for leg in legs() {
        let rig = Rig::new();
        rig.on_core(leg, |io, store, faults| async move {
            let id = begin(&io, &store, Algorithm::Sha256, b"abc").await.unwrap();
            let wrong = sha256(b"abd");
            let told = finish(&io, &store, &faults, &id, wrong).await;
            assert_eq!(told, Err(Problem::DigestMismatch { expected: wrong, computed: sha256(b"abc") }));
            assert_eq!(store.offset(&repository(), &id), Ok(3));
            assert!(store.open_blob(&io, &wrong).await.unwrap().is_none());
            finish(&io, &store, &faults, &id, sha256(b"abc")).await.unwrap();
            let (_file, len) = store.open_blob(&io, &sha256(b"abc")).await.unwrap().unwrap();
            assert_eq!(len, 3);
        });
        assert_eq!(rig.store.counters().rehashes.load(Ordering::Relaxed), 0);
        rig.end();
    }
}

#[test]
fn another_algorithm_at_the_end_reads_the_file_once_more() {
    for leg in legs() {
        let rig = Rig::new();
        let content = b"0123456789abcdef".repeat(40_000);
        let digest = Digest::of(Algorithm::Sha512, &content);
        let sent = content.clone();
        rig.on_core(leg, move |io, store, faults| async move {
            let id = begin(&io, &store, Algorithm::Sha256, &sent).await.unwrap();
            finish(&io, &store, &faults, &id, digest).await.unwrap();
        });
        assert_eq!(fs::read(rig.place.blob(&digest)).unwrap(), content);
        assert_eq!(rig.store.counters().rehashes.load(Ordering::Relaxed), 1);
        rig.end();
    }
}

#[test]
fn an_empty_blob_is_a_blob() {
    let rig = Rig::new();
    rig.on_core(legs()[0], |io, store, faults| async move {
        let id = begin(&io, &store, Algorithm::Blake3, b"").await.unwrap();
        finish(&io, &store, &faults, &id, Digest::of(Algorithm::Blake3, b"")).await.unwrap();
    });
    assert_eq!(fs::read(rig.place.blob(&Digest::of(Algorithm::Blake3, b""))).unwrap(), b"");
    rig.end();
}

#[test]
fn room_is_promised_once_and_given_back() {
    const MIB: u64 = 1024 * 1024;
    for leg in legs() {
        let rig = Rig::new();
        rig.on_core(leg, |io, store, faults| async move {
            let too_large = Err(Problem::BlobTooLarge { limit_bytes: 64 * MIB });
            assert_eq!(store.may_be_as_long(64 * MIB + 1), too_large);
            store.may_be_as_long(64 * MIB).unwrap();
            let id = begin(&io, &store, Algorithm::Sha256, b"x").await.unwrap();
            let mut upload = store.take(&repository(), &id).unwrap();
            assert_eq!(upload.declare(64 * MIB), too_large);
            upload.declare(16 * MIB).unwrap();
            faults.fail(Call::Allocate, 0, ENOSPC);
            assert_eq!(upload.push(&io, Bytes::from_static(b"y")).await, Err(Problem::DiskFull));
            assert_eq!(upload.offset(), 1);
            faults.heal();
            upload.put_back();
            let mut upload = store.take(&repository(), &id).unwrap();
            upload.declare(16 * MIB).unwrap();
            upload.push(&io, Bytes::from_static(b"y")).await.unwrap();
            upload.settle(&io).await.unwrap();
            upload.put_back();
            // What was allocated ahead of a body that did not come is not kept.
            finish(&io, &store, &faults, &id, sha256(b"xy")).await.unwrap();
        });
        use std::os::unix::fs::MetadataExt as _;
        let blob = fs::metadata(rig.place.blob(&sha256(b"xy"))).unwrap();
        assert_eq!(blob.len(), 2);
        assert!(blob.blocks() * 512 <= 64 * 1024, "{} blocks", blob.blocks());
        rig.end();
    }
}

#[test]
fn what_is_promised_to_one_is_not_promised_to_another() {
    let settings = StoreSettings {
        reserve_bytes_min: 1,
        upload_expiry: Duration::from_secs(3600),
        blob_bytes_max: u64::MAX / 4,
        filled_wait: Duration::from_secs(5),
        cache: dataplane::CacheSize::NONE,
        namespaces: Arc::default(),
    };
    let rig = Rig::set(Arc::new(Place::new()), Shared::default(), settings);
    let disk = rig.store.disk();
    let most = (disk.free_bytes - disk.reserve_bytes) / 4 * 3;
    rig.on_core(legs()[0], move |io, store, _faults| async move {
        let begun = begin(&io, &store, Algorithm::Sha256, b"one").await.unwrap();
        let mut one = store.take(&repository(), &begun).unwrap();
        let begun = begin(&io, &store, Algorithm::Sha256, b"two").await.unwrap();
        let mut two = store.take(&repository(), &begun).unwrap();
        assert_eq!(one.declare(2 * disk.free_bytes), Err(Problem::DiskFull));
        two.declare(most).unwrap();
        assert_eq!(one.declare(most), Err(Problem::DiskFull));
        assert_eq!(store.room_for(most), Err(Problem::DiskFull));
        two.put_back();
        one.declare(most).unwrap();
        one.discard(&io).await;
        store.room_for(most).unwrap();
    });
    rig.end();
}

#[test]
fn a_blob_ends_where_its_upload_does() {
    for leg in legs() {
        let rig = Rig::new();
        let place = rig.place.clone();
        rig.on_core(leg, move |io, store, faults| async move {
            let id = begin(&io, &store, Algorithm::Sha256, b"exact").await.unwrap();
            // As a write leaves it that failed half-way.
            let data = place.upload(&id).join("data");
            fs::OpenOptions::new().append(true).open(data).unwrap().write_all(b"rest").unwrap();
            finish(&io, &store, &faults, &id, sha256(b"exact")).await.unwrap();
        });
        assert_eq!(fs::read(rig.place.blob(&sha256(b"exact"))).unwrap(), b"exact");
        rig.end();
    }
}

#[test]
fn a_discarded_or_expired_session_leaves_nothing() {
    for leg in legs() {
        let rig = Rig::new();
        let (place, metadata) = rig.end();
        let rig = Rig::over(place.clone(), metadata, Duration::from_millis(200));
        rig.on_core(leg, |io, store, _faults| async move {
            let discarded = begin(&io, &store, Algorithm::Sha256, b"abc").await.unwrap();
            let mut upload = store.take(&repository(), &discarded).unwrap();
            upload.push(&io, Bytes::from_static(b"def")).await.unwrap();
            upload.discard(&io).await;
            assert_eq!(store.offset(&repository(), &discarded), Err(Problem::BlobUploadUnknown));
            let busy = begin(&io, &store, Algorithm::Sha256, b"abc").await.unwrap();
            let held = store.take(&repository(), &busy).unwrap();
            let expired = begin(&io, &store, Algorithm::Sha256, b"abc").await.unwrap();
            io.sleep_until(io.now() + Duration::from_millis(250)).await;
            let fresh = begin(&io, &store, Algorithm::Sha256, b"abc").await.unwrap();
            store.expire(&io).await;
            assert_eq!(store.offset(&repository(), &expired), Err(Problem::BlobUploadUnknown));
            assert_eq!(store.offset(&repository(), &busy), Ok(3));
            assert_eq!(store.offset(&repository(), &fresh), Ok(3));
            held.put_back();
        });
        assert_eq!(fs::read_dir(place.path("uploads")).unwrap().count(), 2);
        assert_eq!(rig.store.counters().sessions_open.load(Ordering::Relaxed), 2);
        rig.end();
    }
}
