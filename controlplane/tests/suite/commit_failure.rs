//! COMMIT returned an error: nobody is acknowledged, writes are refused, nothing is tried again, reads go on,
//! and a new process finds out what happened (storage.md §1).

use control::{CommitFailed, PushedBlob, Refusal};
use controlplane::{CommitFault, Faults, MissingReferences};
use oci::Problem;

use crate::harness::{Directory, NOBODY, Plane, health, name, refer, sha256};

fn refused<T>(result: Result<T, Problem>) -> bool {
    matches!(result, Err(Problem::WritesRefused { .. }))
}

async fn a_commit_that_fails(fault: CommitFault, there_after_restart: bool) {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let image = plane.push_image("a/one", "v1", "x").await;
    let blob = plane.push("a/one", "loose").await;
    let commits = plane.counts().commits;

    plane.faults.fail_next_commit(fault);
    let lost = sha256("lost");
    let pushed = PushedBlob { repository: name("a/one"), digest: lost, size_bytes: 4 };
    assert_eq!(plane.commit(vec![pushed.clone()]).await.err(), Some(CommitFailed));
    assert_eq!(plane.writes.refused(), Some(Refusal::CommitFailed));
    assert_eq!(*plane.refusals.lock().unwrap(), [Refusal::CommitFailed]);

    // Changes of every kind are refused, the same one included.
    let again = plane.commit(vec![pushed]).await.unwrap();
    assert!(matches!(again[..], [Err(Problem::WritesRefused { .. })]));
    let body = crate::harness::image(sha256("config of x"), &[]);
    assert!(refused(plane.put("a/one", "v2", &body).await));
    assert!(refused(plane.delete("a/one", "v1").await));
    assert!(refused(plane.delete_blob("a/one", blob).await));
    assert!(refused(plane.control.mount(name("a/two"), blob, None, NOBODY).await));
    assert!(refused(plane.control.open_upload(name("a/one"), NOBODY).await));
    assert_eq!((plane.counts().commits, plane.counts().commit_failures), (commits, 1));

    // Reads go on.
    assert_eq!(plane.link("a/one", blob).await, Some(5));
    assert_eq!(plane.get("a/one", "v1").await.unwrap().digest, image);
    assert_eq!(plane.list("/v2/a/one/tags/list").await.names("tags"), ["v1"]);
    assert_eq!(plane.list("/healthz").await.status, 503);
    assert!(!health(&plane.writes).writes.allowed);
    plane.close().await;
    let log = std::fs::metadata(directory.path().join("control.db-wal")).unwrap();
    assert!(log.len() > 0, "the log was touched by the process that must not write");

    let plane = Plane::open(&directory);
    assert_eq!(plane.home(vec![blob, lost]).await.unwrap(), [Some(5), there_after_restart.then_some(4)]);
    assert_eq!(plane.link("a/one", lost).await, there_after_restart.then_some(4));
    plane.push("a/one", "lost").await;
    assert_eq!(plane.link("a/one", lost).await, Some(4));
}

#[tokio::test]
async fn and_nothing_of_it_is_there_afterwards() {
    a_commit_that_fails(CommitFault::Lost, false).await;
}

#[tokio::test]
async fn and_all_of_it_is_there_afterwards() {
    a_commit_that_fails(CommitFault::Landed, true).await;
}

#[tokio::test]
async fn every_member_of_the_batch_is_told() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let body = plane.image_of("a/one", "x").await;
    let blob = plane.push("a/one", "loose").await;
    let slot = plane.epochs.of_repository(&name("a/one"));
    plane.faults.fail_next_commit(CommitFault::Lost);
    let (mounted, put, deleted) = tokio::join!(
        plane.control.mount(name("a/two"), blob, None, NOBODY),
        plane.put("a/one", "v1", &body),
        plane.delete_blob("a/one", blob),
    );
    assert!(refused(mounted));
    assert!(refused(put));
    assert!(refused(deleted));
    assert!(plane.epochs.read(slot).is_some(), "an epoch was left odd");
    assert_eq!(plane.link("a/one", blob).await, Some(5));
    let manifest = plane.control.manifest(name("a/one"), refer("v1"), NOBODY).await;
    assert!(matches!(manifest, Ok(None)));
}

#[tokio::test]
async fn writes_that_are_refused_for_another_reason_are_refused_here() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let body = plane.image_of("a/one", "x").await;
    let commits = plane.counts().commits;
    plane.writes.refuse(Refusal::SyncFailed);
    let problem = plane.put("a/one", "v1", &body).await.unwrap_err();
    assert_eq!(problem.wire().status, 503);
    assert!(matches!(problem, Problem::WritesRefused { why } if why == Refusal::SyncFailed.why()));
    assert_eq!(plane.counts().commits, commits);
    plane.close().await;
}

/// Room for the log is made outside of COMMITs; a sync that fails there may have lost what they wrote.
#[tokio::test]
async fn a_failed_sync_of_the_log_refuses_writes() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let blob = plane.push("a/one", "durable").await;
    plane.close().await;
    let faults = Faults::default();
    faults.fail_next_log_sync();
    let plane = Plane::open_with_faults(&directory, MissingReferences::Reject, faults).unwrap();
    let pushed = PushedBlob { repository: name("a/one"), digest: sha256("late"), size_bytes: 4 };
    let told = plane.commit(vec![pushed]).await;
    assert!(matches!(told.as_deref(), Ok([Err(Problem::WritesRefused { .. })])), "{told:?}");
    assert_eq!(*plane.refusals.lock().unwrap(), [Refusal::SyncFailed]);
    assert_eq!(plane.link("a/one", blob).await, Some(7), "reads go on");
    assert_eq!(plane.counts().batches, 0);
    plane.close().await;
}
