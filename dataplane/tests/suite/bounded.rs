//! What is kept is bounded, and more than that many are served as well: caches, buffers, descriptors, what is
//! read of unwanted bodies, space and records of an upload.

use std::{
    fs,
    future::Future,
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use control::{Ask, Document, Link};
use dataplane::{
    limits::{
        ALLOCATE_ABOVE_BYTES, ALLOCATE_BYTES, BUFS_PER_CORE, CLOCK_SET_BACK_MAX, DISCARD_BYTES_MAX,
        DISCARD_TIME, LINGER_BYTES_MAX, LINGER_TIME, LINKS_PER_CORE, MANIFEST_BYTES_MAX,
        MANIFEST_CACHE_BYTES_PER_CORE, OPEN_FILES_PER_CORE, STATE_RECORD_BYTES_MAX, STATE_RECORDS_READ_MAX,
        UPLOAD_FILES_KEPT_MAX, WRITE_BACK_BYTES,
    },
    testing::{Call, Faults, StoreSettings, clear_disk_error},
};
use oci::{Algorithm, Digest, Problem, UploadId};

use crate::{
    plane::{Plane, open_files},
    rig::{Place, Rig, Shared, begin, finish, legs, push, repository, sha256},
};

/// Every blob is linked everywhere, and three bytes long. Gives the number of questions so far.
fn link_everything(plane: &mut Plane) -> Arc<AtomicUsize> {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    plane.answer(move |ask| {
        count.fetch_add(1, Ordering::Relaxed);
        match ask {
            Ask::Link { answer, .. } => drop(answer.send(Ok(Some(Link::Here { size_bytes: 3 })))),
            _ => panic!("not asked here"),
        }
    });
    asked
}

#[test]
fn open_files_are_bounded() {
    for leg in legs() {
        let mut plane = Plane::start(leg);
        link_everything(&mut plane);
        let blobs: Vec<_> = (0..OPEN_FILES_PER_CORE + 300)
            .map(|number| {
                let content = [(number >> 8) as u8, number as u8, b'f'];
                fs::write(plane.place.blob(&sha256(&content)), content).unwrap();
                content
            })
            .collect();
        let mut client = plane.client();
        let mut most = 0;
        for some in blobs.chunks(OPEN_FILES_PER_CORE / 4) {
            for content in some {
                let answer = client.get(&format!("/v2/a/blobs/{}", sha256(content)));
                assert_eq!((answer.status, answer.body.as_slice()), (200, &content[..]));
            }
            most = most.max(open_files(&plane.place, "blobs"));
        }
        assert!(most > OPEN_FILES_PER_CORE / 2 && most <= OPEN_FILES_PER_CORE, "{most}");
        drop(client);
        plane.end();
    }
}

#[test]
fn links_are_bounded() {
    for leg in legs() {
        let mut plane = Plane::start(leg);
        let asked = link_everything(&mut plane);
        let digest = sha256(b"abc");
        fs::write(plane.place.blob(&digest), b"abc").unwrap();
        let mut client = plane.client();
        let mut questions_for = |repositories: std::ops::Range<usize>| {
            let before = asked.load(Ordering::Relaxed);
            for start in repositories.clone().step_by(200) {
                let some = start..repositories.end.min(start + 200);
                some.clone()
                    .for_each(|number| client.send("GET", &format!("/v2/a/{number}/blobs/{digest}"), b""));
                some.for_each(|_| assert_eq!(client.read().unwrap().body, b"abc"));
            }
            asked.load(Ordering::Relaxed) - before
        };
        let all = LINKS_PER_CORE + 1000;
        assert_eq!(questions_for(0..all), all);
        assert_eq!(questions_for(all - LINKS_PER_CORE / 2..all), 0, "what was asked last is remembered");
        assert_eq!(questions_for(0..1000), 1000, "what does not fit is not");
        drop(client);
        plane.end();
    }
}

#[test]
fn remembered_manifests_are_bounded() {
    const EACH: usize = MANIFEST_CACHE_BYTES_PER_CORE / 16;
    for leg in legs() {
        let mut plane = Plane::start(leg);
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let [usual, large] = [EACH, MANIFEST_BYTES_MAX].map(|size| Bytes::from(vec![b'm'; size]));
        let (same, largest) = (usual.clone(), large.clone());
        plane.answer(move |ask| {
            count.fetch_add(1, Ordering::Relaxed);
            let Ask::Manifest { reference, answer, .. } = ask else { panic!("not asked here") };
            let bytes = if reference.to_string() == "large" { &largest } else { &same };
            let document = Document::new(sha256(bytes), "application/json", bytes.clone());
            drop(answer.send(Ok(Some(document))));
        });
        let mut client = plane.client();
        let mut questions_for = |tags: std::ops::Range<usize>| {
            let before = asked.load(Ordering::Relaxed);
            for tag in tags {
                assert!(client.get(&format!("/v2/a/manifests/{tag}")).body == usual);
            }
            asked.load(Ordering::Relaxed) - before
        };
        assert_eq!(questions_for(0..32), 32);
        assert_eq!(questions_for(25..32), 0, "seven and their names are less than half of the room");
        assert_eq!(questions_for(0..16), 16);
        let before = asked.load(Ordering::Relaxed);
        for _ in 0..2 {
            assert!(client.get("/v2/a/manifests/large").body == large);
        }
        assert_eq!(asked.load(Ordering::Relaxed) - before, 2, "one that would push out all others");
        drop(client);
        plane.end();
    }
}

#[test]
fn who_finds_no_buffer_waits_for_one() {
    for leg in legs() {
        let rig = Rig::new();
        rig.on_core(leg, |io, _store, _faults| async move {
            let mut out = Vec::new();
            for _ in 0..BUFS_PER_CORE {
                out.push(io.buf().await);
            }
            let mut context = Context::from_waker(Waker::noop());
            let mut waiting: Vec<_> = (0..3).map(|_| Box::pin(io.buf())).collect();
            assert!(waiting.iter_mut().all(|one| one.as_mut().poll(&mut context).is_pending()));
            // Frozen, and let go by another thread, as a write is.
            let frozen = out.pop().unwrap().freeze();
            std::thread::spawn(move || drop(frozen)).join().unwrap();
            let Poll::Ready(first) = waiting.remove(0).as_mut().poll(&mut context) else {
                panic!("one is free");
            };
            assert!(waiting.iter_mut().all(|one| one.as_mut().poll(&mut context).is_pending()));
            drop((first, out));
            for one in waiting {
                assert_eq!(one.await.filled(), b"");
            }
        });
        rig.end();
    }
}

#[test]
fn idle_sessions_keep_a_bounded_number_of_files() {
    for leg in legs() {
        let rig = Rig::new();
        let place = rig.place.clone();
        rig.on_core(leg, move |io, store, faults| async move {
            let mut ids = Vec::new();
            for number in 0..UPLOAD_FILES_KEPT_MAX + 40 {
                ids.push(begin(&io, &store, Algorithm::Sha256, &number.to_le_bytes()).await.unwrap());
            }
            // The duplicate that the last write had may be closed a little after it was answered.
            let kept = 2 * UPLOAD_FILES_KEPT_MAX;
            for _ in 0..10_000 {
                if open_files(&place, "uploads") <= kept {
                    break;
                }
                io.pause().await;
            }
            assert_eq!(open_files(&place, "uploads"), kept);
            for number in [0, UPLOAD_FILES_KEPT_MAX - 1, UPLOAD_FILES_KEPT_MAX, UPLOAD_FILES_KEPT_MAX + 39] {
                let digest = sha256(&number.to_le_bytes());
                finish(&io, &store, &faults, &ids[number], digest).await.unwrap();
            }
        });
        rig.end();
    }
}

/// Calls of this kind so far; those of the pool are waited for, up to `expected`.
async fn met(io: &dataplane::testing::Io, faults: &Faults, call: Call, expected: usize) -> usize {
    let mut count = 0;
    for _ in 0..100_000 {
        count += faults.take().iter().filter(|(met, _)| *met == call).count();
        if count >= expected {
            break;
        }
        io.pause().await;
    }
    count
}

#[test]
fn space_is_allocated_in_steps_for_large_bodies_only() {
    let settings = StoreSettings {
        reserve_bytes_min: 1,
        upload_expiry: Duration::from_secs(3600),
        blob_bytes_max: 4 * ALLOCATE_BYTES,
        filled_wait: Duration::from_secs(5),
        cache: dataplane::CacheSize::NONE,
        namespaces: Arc::default(),
    };
    for leg in legs() {
        let rig = Rig::set(Arc::new(Place::new()), Shared::default(), settings.clone());
        rig.on_core(leg, |io, store, faults| async move {
            for (declared, pushes) in [
                (ALLOCATE_ABOVE_BYTES, vec![(1, 0)]),
                (ALLOCATE_ABOVE_BYTES + 1, vec![(1, 1), (ALLOCATE_ABOVE_BYTES, 0)]),
                (ALLOCATE_BYTES + 1, vec![(ALLOCATE_BYTES, 1), (1, 1)]),
            ] {
                let id = begin(&io, &store, Algorithm::Sha256, b"").await.unwrap();
                let mut upload = store.take(&repository(), &id).unwrap();
                upload.declare(declared).unwrap();
                for (bytes, allocations) in pushes {
                    faults.take();
                    upload.push(&io, Bytes::from(vec![0; bytes as usize])).await.unwrap();
                    upload.settle(&io).await.unwrap();
                    let count = met(&io, &faults, Call::Allocate, allocations).await;
                    assert_eq!(count, allocations, "{bytes} of {declared}");
                }
                upload.discard(&io).await;
            }
        });
        rig.end();
    }
}

#[test]
fn write_back_starts_when_enough_is_dirty() {
    for leg in legs() {
        let rig = Rig::new();
        rig.on_core(leg, |io, store, faults| async move {
            let id = begin(&io, &store, Algorithm::Sha256, b"").await.unwrap();
            let most = vec![0; WRITE_BACK_BYTES as usize - 1];
            // It is looked at when the next bytes come, in the same request or another.
            for (bytes, started) in [(most.clone(), 0), (vec![0], 0), (vec![0], 1), (most, 0), (vec![0], 1)] {
                let mut upload = store.take(&repository(), &id).unwrap();
                upload.push(&io, Bytes::from(bytes)).await.unwrap();
                upload.settle(&io).await.unwrap();
                upload.put_back();
                assert_eq!(met(&io, &faults, Call::WriteBack, started).await, started);
            }
        });
        rig.end();
    }
}

/// A session of one byte a record, and more records than a start looks at.
fn long_session() -> (Arc<Place>, Shared, UploadId) {
    let rig = Rig::new();
    let id = rig.on_core(legs()[0], |io, store, _faults| async move {
        let id = begin(&io, &store, Algorithm::Sha256, b"").await.unwrap();
        for _ in 0..STATE_RECORDS_READ_MAX + 8 {
            let mut upload = store.take(&repository(), &id).unwrap();
            upload.push(&io, Bytes::from_static(b"x")).await.unwrap();
            upload.settle(&io).await.unwrap();
            upload.put_back();
        }
        id
    });
    let (place, metadata) = rig.end();
    (place, metadata, id)
}

#[test]
fn a_start_looks_at_the_last_records_only() {
    let whole = STATE_RECORDS_READ_MAX + 8;
    let read = STATE_RECORDS_READ_MAX;
    let gone = Err(Problem::BlobUploadUnknown);
    for (torn, offset) in [(0, Ok(whole)), (read - 1, Ok(whole - read + 1)), (read, gone)] {
        let (place, metadata, id) = long_session();
        let state = place.upload(&id).join("state");
        let mut bytes = fs::read(&state).unwrap();
        let slots = bytes.chunks_exact_mut(STATE_RECORD_BYTES_MAX).rev();
        slots.take(torn as usize).for_each(|slot| slot[9] ^= 1);
        fs::write(state, bytes).unwrap();
        let rig = Rig::over(place, metadata, Duration::from_secs(3600));
        assert_eq!(rig.store.offset(&repository(), &id), offset, "{torn} torn");
        rig.end();
    }
}

#[test]
fn the_doctor_allows_for_a_clock_that_was_set_back() {
    let rig = Rig::new();
    rig.on_core(legs()[0], |io, store, faults| async move {
        push(&io, &store, &faults, b"linked").await.unwrap();
    });
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let back = CLOCK_SET_BACK_MAX.as_secs();
    for (last_good, hashed) in [(now + back - 120, 1), (now + back + 120, 0)] {
        let mark = format!("{{\"last_good_batch_unix\":{last_good}}}\n");
        fs::write(rig.place.path("disk-error"), mark).unwrap();
        assert_eq!(clear_disk_error(&rig.fs).unwrap().hashed, hashed);
    }
    rig.end();
}

fn unwanted(framing: &str) -> String {
    format!("PATCH /v2/a/blobs/uploads/{} HTTP/1.1\r\nHost: r\r\n{framing}\r\n\r\n", "0".repeat(32))
}

#[test]
fn an_unwanted_body_is_read_away_up_to_a_bound() {
    for leg in legs() {
        let plane = Plane::start(leg);
        for (bytes, goes_on) in [(DISCARD_BYTES_MAX, true), (DISCARD_BYTES_MAX + 1, false)] {
            let mut client = plane.client();
            client.stream.write_all(unwanted(&format!("Content-Length: {bytes}")).as_bytes()).unwrap();
            let answer = client.read().unwrap();
            assert_eq!(answer.status, 404);
            assert_eq!(answer.field("connection"), (!goes_on).then_some("close"), "{bytes}");
            client.stream.write_all(&vec![b'x'; bytes]).unwrap();
            if goes_on {
                assert_eq!(client.get("/v2/").status, 200);
            } else {
                assert!(client.read().is_err());
            }
        }
        // A chunk that ends with the bound, and one of which that much is only half.
        let chunk = |bytes: usize| format!("{bytes:x}\r\n{}\r\n0\r\n\r\n", "x".repeat(bytes));
        let coding = chunk(DISCARD_BYTES_MAX / 2).len() - DISCARD_BYTES_MAX / 2;
        for (bytes, goes_on) in [(DISCARD_BYTES_MAX - coding, true), (2 * DISCARD_BYTES_MAX, false)] {
            let mut client = plane.client();
            client.stream.write_all(unwanted("Transfer-Encoding: chunked").as_bytes()).unwrap();
            let answer = client.read().unwrap();
            assert_eq!((answer.status, answer.field("connection")), (404, None));
            client.stream.write_all(chunk(bytes).as_bytes()).unwrap();
            client.send("GET", "/v2/", b"");
            assert_eq!(client.read().is_ok_and(|answer| answer.status == 200), goes_on, "{bytes}");
        }
        plane.end();
    }
}

#[test]
fn an_unwanted_body_that_does_not_come_is_not_waited_for() {
    for leg in legs() {
        let plane = Plane::start(leg);
        let mut client = plane.client();
        client.stream.write_all(unwanted("Content-Length: 10").as_bytes()).unwrap();
        assert_eq!(client.read().unwrap().field("connection"), None);
        let since = Instant::now();
        assert!(client.read().is_err());
        let took = since.elapsed();
        assert!(took >= DISCARD_TIME / 2 && took < DISCARD_TIME * 8, "{took:?}");
        plane.end();
    }
}

#[test]
fn a_client_that_only_sends_is_listened_to_up_to_a_bound() {
    for leg in legs() {
        let plane = Plane::start(leg);
        let mut client = plane.client();
        client.stream.write_all(b"no request\r\n\r\n").unwrap();
        assert_eq!(client.read().unwrap().status, 400);
        let piece = vec![b'x'; 1 << 20];
        let mut sent = 0;
        while client.stream.write_all(&piece).is_ok() {
            sent += piece.len();
            // What lies in the two sockets' buffers was taken by nobody.
            assert!(sent < LINGER_BYTES_MAX + (32 << 20), "{sent}");
        }
        assert!(sent >= LINGER_BYTES_MAX - piece.len(), "{sent}");
        assert_eq!(plane.client().get("/v2/").status, 200);
        plane.end();
    }
}

#[test]
fn a_client_that_does_not_leave_is_left() {
    for leg in legs() {
        let plane = Plane::start(leg);
        let mut client = plane.client();
        client.stream.write_all(b"no request\r\n\r\n").unwrap();
        assert_eq!(client.read().unwrap().status, 400);
        let since = Instant::now();
        // A byte now and then is taken, until the connection is closed.
        while client.stream.write_all(b"x").is_ok() {
            std::thread::park_timeout(Duration::from_millis(50));
            assert!(since.elapsed() < LINGER_TIME * 4);
        }
        assert!(since.elapsed() >= LINGER_TIME / 2, "{:?}", since.elapsed());
        plane.end();
    }
}

/// A digest of another algorithm at the end: its file is read in steps, and none is left out.
#[test]
fn a_file_is_hashed_again_in_steps() {
    use dataplane::limits::REHASH_STEP_BYTES;
    let rig = Rig::new();
    let content = vec![7; REHASH_STEP_BYTES as usize * 2 + 1];
    let digest = Digest::of(Algorithm::Blake3, &content);
    rig.on_core(legs()[0], move |io, store, faults| async move {
        let id = begin(&io, &store, Algorithm::Sha256, &content).await.unwrap();
        finish(&io, &store, &faults, &id, digest).await.unwrap();
    });
    assert_eq!(rig.store.counters().rehashes.load(Ordering::Relaxed), 1);
    rig.end();
}
