//! What a 201 means: the order of data sync, name, directory sync, COMMIT and reply, and what every failure
//! of one of them leads to. Storage rules: "Committing".

use std::{collections::HashMap, fs, future::Future, pin::Pin, sync::atomic::Ordering};

use control::Refusal;
use dataplane::testing::{Call, Faults, Io, Store, disk_error_marked};
use oci::{Algorithm, Digest, Problem, UploadId};

use crate::rig::{Rig, all_at_once, begin, finish, has_volume_sync, legs, push, release, repository, sha256};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// Walks a record and fails if anybody was told yes too early. Gives the number of replies.
fn check_order(seen: &[(Call, String)], uploads: &HashMap<Digest, UploadId>) -> usize {
    let mut replies = 0;
    let find = |call: Call, name: &str, before: usize| {
        seen[..before].iter().rposition(|(other, on)| *other == call && on == name)
    };
    for (at, (call, name)) in seen.iter().enumerate() {
        if *call != Call::Reply {
            continue;
        }
        replies += 1;
        let digest = Digest::parse(name).unwrap();
        let data = format!("uploads/{}/data", uploads[&digest]);
        let directory = format!("blobs/{}", digest.algorithm());
        let path = format!("{directory}/{}", digest.hex(&mut [0; 128]));
        let commit = find(Call::Commit, name, at).expect("COMMIT before the reply");
        let synced = find(Call::SyncDirectory, &directory, commit).expect("directory sync before COMMIT");
        let linked = find(Call::Link, &path, synced).expect("link before the directory sync");
        let durable = find(Call::SyncData, &data, linked).or_else(|| find(Call::SyncVolume, ".", linked));
        let written = find(Call::Write, &data, seen.len()).expect("it was written");
        assert!(
            written < durable.expect("data sync before the link"),
            "no write after the data sync: {seen:#?}"
        );
        let unlinked = find(Call::Unlink, &data, seen.len()).expect("its own name goes");
        assert!(at < unlinked, "the upload's name outlives COMMIT and reply: {seen:#?}");
    }
    replies
}

fn contents(count: usize) -> Vec<Vec<u8>> {
    (0..count).map(|number| format!("blob number {number}").repeat(100).into_bytes()).collect()
}

/// Sessions for all, then all commits while the first COMMIT is held: one batch of one, one of the others.
async fn one_then_others(
    io: &Io,
    store: &Store,
    faults: &Faults,
    sessions: &[(UploadId, Digest)],
    release: impl FnOnce(),
) -> Vec<Result<(), Problem>> {
    let commits: Vec<Pin<Box<dyn Future<Output = _>>>> = sessions
        .iter()
        .map(|(id, digest)| {
            Box::pin(finish(io, store, faults, id, *digest)) as Pin<Box<dyn Future<Output = _>>>
        })
        .collect();
    all_at_once(commits, release).await
}

#[test]
fn a_lone_push_is_durable_before_it_is_answered() {
    for leg in legs() {
        let rig = Rig::new();
        let content = b"a layer".repeat(50_000);
        let digest = sha256(&content);
        let pushed = content.clone();
        let id = rig.on_core(leg, move |io, store, faults| async move {
            push(&io, &store, &faults, &pushed).await.unwrap()
        });
        assert_eq!(fs::read(rig.place.blob(&digest)).unwrap(), content);
        assert_eq!(rig.row(&digest), Some(content.len() as u64));
        let (place, store) = (rig.place.clone(), rig.store.clone());
        let faults = rig.faults.clone();
        rig.end();
        assert!(!place.upload(&id).exists(), "the upload's own names are gone");
        let seen = faults.take();
        assert_eq!(check_order(&seen, &[(digest, id)].into()), 1);
        let count = |call| seen.iter().filter(|(other, _)| *other == call).count();
        assert_eq!(
            [Call::SyncData, Call::SyncVolume, Call::SyncDirectory, Call::Commit].map(count),
            [1, 0, 1, 1],
            "three durable steps, and nothing synced for POST and PATCH"
        );
        assert_eq!(store.counters().members.load(Ordering::Relaxed), 1);
        assert_eq!(store.counters().sessions_open.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn a_burst_shares_its_syncs() {
    const PUSHERS: usize = 64;
    for leg in legs() {
        let rig = Rig::new();
        rig.hold();
        let metadata = rig.metadata.clone();
        let uploads = rig.on_core(leg, move |io, store, faults| async move {
            let mut sessions = Vec::new();
            for (number, content) in contents(PUSHERS).iter().enumerate() {
                let algorithm = Algorithm::ALL[number % 3];
                let id = begin(&io, &store, algorithm, content).await.unwrap();
                sessions.push((id, Digest::of(algorithm, content)));
            }
            let told = one_then_others(&io, &store, &faults, &sessions, || release(&metadata)).await;
            assert!(told.iter().all(Result::is_ok), "{told:?}");
            sessions.into_iter().map(|(id, digest)| (digest, id)).collect::<HashMap<_, _>>()
        });
        let faults = rig.faults.clone();
        let whole_volume = has_volume_sync(&rig);
        rig.end();
        let seen = faults.take();
        assert_eq!(check_order(&seen, &uploads), PUSHERS);
        let syncs = seen
            .iter()
            .filter(|(call, _)| matches!(call, Call::SyncData | Call::SyncVolume | Call::SyncDirectory));
        // Two batches, each with one transaction; files are synced alone where there is no better way.
        let flushes = syncs.count() + 2;
        let bound = if whole_volume { PUSHERS * 4 / 10 } else { PUSHERS + 8 };
        assert!(flushes < bound, "{flushes} for {PUSHERS} pushes");
    }
}

#[test]
fn after_a_failed_sync_or_commit_nobody_is_told_yes_and_nothing_is_unlinked() {
    let steps = [
        (Call::SyncData, Refusal::SyncFailed),
        (Call::SyncDirectory, Refusal::SyncFailed),
        (Call::Commit, Refusal::CommitFailed),
    ];
    for leg in legs() {
        for (call, refusal) in steps {
            for errno in [EIO, ENOSPC] {
                let rig = Rig::new();
                let (id, told, next) = rig.on_core(leg, move |io, store, faults| async move {
                    let id = begin(&io, &store, Algorithm::Sha256, b"doubtful").await.unwrap();
                    faults.fail(call, 0, errno);
                    let told = finish(&io, &store, &faults, &id, sha256(b"doubtful")).await;
                    faults.heal();
                    let next = push(&io, &store, &faults, b"another").await;
                    store.expire(&io).await;
                    (id, told, next)
                });
                let refused = Err(Problem::WritesRefused { why: refusal.why() });
                assert_eq!(told, refused, "{call:?} {errno}");
                assert_eq!(next.map(drop), refused, "{call:?} {errno}");
                assert_eq!(rig.writes.refused(), Some(refusal));
                assert!(disk_error_marked(&rig.fs).unwrap());
                let mark = fs::read_to_string(rig.place.path("disk-error")).unwrap();
                assert!(mark.starts_with("{\"last_good_batch_unix\":1"), "{mark}");
                assert!(rig.place.upload(&id).join("data").exists(), "{call:?}: nothing is unlinked");
                let linked = rig.place.blob(&sha256(b"doubtful")).exists();
                assert_eq!(linked, call != Call::SyncData, "no name precedes the sync of its bytes");
                let seen = rig.faults.take();
                assert!(
                    seen.iter().all(|(other, _)| !matches!(other, Call::Reply | Call::Unlink)),
                    "{seen:?}"
                );
                rig.end();
            }
        }
    }
}

#[test]
fn a_failed_sync_of_the_volume_fails_the_whole_batch() {
    [EIO, ENOSPC].into_iter().for_each(a_sync_of_the_volume_fails);
}

fn a_sync_of_the_volume_fails(errno: i32) {
    let rig = Rig::new();
    if !has_volume_sync(&rig) {
        // Then the volume is never synced as a whole, which the test of the burst has seen.
        assert_eq!(rig.store.counters().volume_syncs.load(Ordering::Relaxed), 0);
        rig.end();
        return;
    }
    rig.hold();
    let metadata = rig.metadata.clone();
    let told = rig.on_core(legs()[0], move |io, store, faults| async move {
        let mut sessions = Vec::new();
        for content in contents(12) {
            let id = begin(&io, &store, Algorithm::Sha256, &content).await.unwrap();
            sessions.push((id, sha256(&content)));
        }
        let (first, others) = sessions.split_at(1);
        let commit = store.take(&repository(), &first[0].0).unwrap().commit(&io, first[0].1);
        let mut first = Box::pin(commit);
        std::future::poll_fn(|context| {
            assert!(first.as_mut().poll(context).is_pending());
            std::task::Poll::Ready(())
        })
        .await;
        // The first is alone in its batch once its bytes are synced.
        let mut patience = 0..1_000_000;
        while !faults.take().iter().any(|(call, _)| *call == Call::SyncDirectory) {
            patience.next().expect("the first batch comes to its directory");
            io.pause().await;
        }
        faults.fail(Call::SyncVolume, 0, errno);
        let mut told = one_then_others(&io, &store, &faults, others, || release(&metadata)).await;
        told.insert(0, first.await);
        told
    });
    assert_eq!(told[0], Ok(()));
    let refused = Err(Problem::WritesRefused { why: Refusal::SyncFailed.why() });
    assert!(told[1..].iter().all(|told| *told == refused), "{told:?}");
    for content in &contents(12)[1..] {
        assert!(!rig.place.blob(&sha256(content)).exists());
    }
    rig.end();
}

#[test]
fn a_failed_link_fails_one_member_whose_session_goes_on() {
    for leg in legs() {
        for (errno, problem) in [(ENOSPC, Problem::DiskFull), (EIO, Problem::Internal)] {
            let rig = Rig::new();
            rig.on_core(leg, move |io, store, faults| async move {
                let id = begin(&io, &store, Algorithm::Sha256, b"linked later").await.unwrap();
                faults.fail(Call::Link, 0, errno);
                let told = finish(&io, &store, &faults, &id, sha256(b"linked later")).await;
                assert_eq!(told, Err(problem));
                faults.heal();
                assert_eq!(store.offset(&repository(), &id), Ok(12));
                assert!(store.open_blob(&io, &sha256(b"linked later")).await.unwrap().is_none());
                finish(&io, &store, &faults, &id, sha256(b"linked later")).await.unwrap();
            });
            assert_eq!(rig.writes.refused(), None);
            assert_eq!(fs::read(rig.place.blob(&sha256(b"linked later"))).unwrap(), b"linked later");
            rig.end();
        }
    }
}

#[test]
fn a_member_that_the_metadata_refuses_fails_alone() {
    let rig = Rig::new();
    rig.hold();
    rig.metadata.0.lock().unwrap().denied.insert(sha256(&contents(3)[1]));
    let metadata = rig.metadata.clone();
    let ids = rig.on_core(legs()[0], move |io, store, faults| async move {
        let mut sessions = Vec::new();
        for content in contents(3) {
            let id = begin(&io, &store, Algorithm::Sha256, &content).await.unwrap();
            sessions.push((id, sha256(&content)));
        }
        let told = one_then_others(&io, &store, &faults, &sessions, || release(&metadata)).await;
        assert_eq!(told, [Ok(()), Err(Problem::Denied), Ok(())]);
        // Its file has the blob's name, so nobody may write to it any more.
        assert_eq!(store.offset(&repository(), &sessions[1].0), Err(Problem::BlobUploadUnknown));
        sessions
    });
    assert_eq!(rig.writes.refused(), None);
    let place = rig.end().0;
    assert!(ids.iter().all(|(id, digest)| !place.upload(id).exists() && place.blob(digest).exists()));
}

#[test]
fn the_same_blob_many_times_in_a_batch_is_linked_once() {
    let rig = Rig::new();
    rig.hold();
    let metadata = rig.metadata.clone();
    rig.on_core(legs()[0], move |io, store, faults| async move {
        let mut sessions = Vec::new();
        for content in [&b"first"[..], b"same", b"same", b"same"] {
            let id = begin(&io, &store, Algorithm::Sha256, content).await.unwrap();
            sessions.push((id, sha256(content)));
        }
        let told = one_then_others(&io, &store, &faults, &sessions, || release(&metadata)).await;
        assert!(told.iter().all(Result::is_ok), "{told:?}");
    });
    assert_eq!(fs::read(rig.place.blob(&sha256(b"same"))).unwrap(), b"same");
    let seen = rig.faults.clone();
    let place = rig.end().0;
    assert_eq!(seen.take().iter().filter(|(call, _)| *call == Call::Link).count(), 2);
    assert_eq!(fs::read_dir(place.path("uploads")).unwrap().count(), 0);
}

#[test]
fn a_name_that_exists_already_costs_what_it_lacks() {
    for leg in legs() {
        let rig = Rig::new();
        let digest = sha256(b"known");
        let push_known = |rig: &Rig| {
            rig.on_core(leg, |io, store, faults| async move {
                push(&io, &store, &faults, b"known").await.unwrap();
            });
            let seen = rig.faults.take();
            let durable = |(call, _): &(Call, String)| {
                matches!(
                    call,
                    Call::SyncData | Call::Link | Call::Rename | Call::SyncDirectory | Call::Commit
                )
            };
            seen.into_iter().filter(durable).map(|(call, _)| call).collect::<Vec<_>>()
        };
        let names = rig.store.names();
        let epoch = names.read(names.of_digest(&digest)).unwrap();

        // Linked, but its row never came.
        fs::write(rig.place.blob(&digest), b"known").unwrap();
        assert_eq!(push_known(&rig), [Call::SyncDirectory, Call::Commit]);
        // All there.
        assert_eq!(push_known(&rig), [Call::Commit]);
        assert!(names.holds(names.of_digest(&digest), epoch));
        // Cut short behind our back: the push repairs it, and open files of it are forgotten.
        fs::write(rig.place.blob(&digest), b"kn").unwrap();
        assert_eq!(push_known(&rig), [Call::SyncData, Call::Rename, Call::SyncDirectory, Call::Commit]);
        assert_eq!(fs::read(rig.place.blob(&digest)).unwrap(), b"known");
        assert!(!names.holds(names.of_digest(&digest), epoch));
        // Gone behind our back.
        fs::remove_file(rig.place.blob(&digest)).unwrap();
        assert_eq!(push_known(&rig), [Call::SyncData, Call::Link, Call::SyncDirectory, Call::Commit]);
        let place = rig.end().0;
        assert_eq!(fs::read_dir(place.path("uploads")).unwrap().count(), 0);
    }
}

#[test]
fn a_repair_that_fails_leaves_the_name_as_it_was() {
    let rig = Rig::new();
    fs::write(rig.place.blob(&sha256(b"whole")), b"half").unwrap();
    rig.on_core(legs()[0], |io, store, faults| async move {
        faults.fail(Call::Rename, 0, ENOSPC);
        assert_eq!(push(&io, &store, &faults, b"whole").await, Err(Problem::DiskFull));
    });
    assert_eq!(fs::read(rig.place.blob(&sha256(b"whole"))).unwrap(), b"half");
    assert_eq!(rig.writes.refused(), None);
    rig.end();
}

#[test]
fn names_that_can_not_be_taken_away_take_no_201_back() {
    let rig = Rig::new();
    rig.on_core(legs()[0], |io, store, faults| async move {
        let id = begin(&io, &store, Algorithm::Sha256, b"kept").await.unwrap();
        faults.fail(Call::Unlink, 0, EIO);
        let told = store.take(&repository(), &id).unwrap().commit(&io, sha256(b"kept")).await;
        assert_eq!(told, Ok(()));
        // The keeper is done with the batch when it has answered the next.
        let next = begin(&io, &store, Algorithm::Sha256, b"next").await.unwrap();
        store.take(&repository(), &next).unwrap().commit(&io, sha256(b"next")).await.unwrap();
        faults.heal();
        assert_eq!(store.offset(&repository(), &id), Err(Problem::BlobUploadUnknown));
    });
    let (place, metadata) = rig.end();
    assert!(fs::read_dir(place.path("uploads")).unwrap().count() > 0);
    let rig = Rig::over(place.clone(), metadata, std::time::Duration::from_secs(3600));
    assert_eq!(fs::read_dir(place.path("uploads")).unwrap().count(), 0, "the next start takes them away");
    assert_eq!(fs::read(place.blob(&sha256(b"kept"))).unwrap(), b"kept");
    rig.end();
}
