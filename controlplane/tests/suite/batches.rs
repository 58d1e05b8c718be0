//! What waits becomes one transaction; a member that is refused takes nothing with it.

use std::sync::Arc;

use control::PushedBlob;
use controlplane::limits::CHANGES_A_BATCH;
use oci::Problem;

use crate::harness::{Directory, Plane, image, name, sha256};

#[tokio::test]
async fn a_keepers_batch_is_one_commit() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let batch: Vec<PushedBlob> = (0..64)
        .map(|number| PushedBlob {
            repository: name(&format!("a/r{}", number % 5)),
            digest: sha256(&format!("blob {number}")),
            size_bytes: number,
        })
        .collect();
    let results = plane.commit(batch.clone()).await.unwrap();
    assert_eq!(results.len(), 64);
    assert!(results.iter().all(Result::is_ok));
    let counts = plane.counts();
    assert_eq!((counts.batches, counts.commits, counts.members), (1, 1, 64));
    for pushed in batch {
        assert_eq!(plane.link(pushed.repository.as_str(), pushed.digest).await, Some(pushed.size_bytes));
    }
}

#[tokio::test]
async fn a_batch_of_nothing_is_answered() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    assert_eq!(plane.commit(Vec::new()).await.unwrap().len(), 0);
    assert_eq!(plane.counts().commits, 0);
}

/// Everything is asked before anything is answered, so that members of both kinds share transactions.
#[tokio::test]
async fn refused_members_leave_the_others_of_their_batch() {
    let directory = Directory::new();
    let plane = Arc::new(Plane::open(&directory));
    let config = plane.push("a/one", "config").await;
    let before = plane.counts();
    // Somebody holds the file, so that what is asked has to wait, and waits together.
    let held = directory.tables();
    held.execute_batch("BEGIN IMMEDIATE").unwrap();
    let mut asked = Vec::new();
    for number in 0..60 {
        let layer = if number % 3 == 0 { sha256("missing") } else { config };
        let mut body = image(config, &[layer]);
        body["annotations"] = serde_json::json!({ "number": number.to_string() });
        let plane = Arc::clone(&plane);
        asked.push(tokio::spawn(async move { plane.put("a/one", &format!("t{number:02}"), &body).await }));
    }
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    held.execute_batch("ROLLBACK").unwrap();
    let mut stored = Vec::new();
    for (number, asked) in asked.into_iter().enumerate() {
        match asked.await.unwrap() {
            Ok(_) => stored.push(format!("t{number:02}")),
            Err(problem) => {
                assert_eq!(number % 3, 0, "{number} was refused");
                assert!(matches!(problem, Problem::ManifestBlobUnknown(_)));
            }
        }
    }
    assert_eq!(stored.len(), 40);
    assert_eq!(plane.list("/v2/a/one/tags/list").await.names("tags"), stored);
    let counts = plane.counts();
    assert_eq!(counts.members - before.members, 60);
    assert_eq!(counts.members_refused, 20);
    let commits = counts.commits - before.commits;
    assert!(commits < 10, "{commits} commits for 40 manifests: nothing was batched");
}

#[tokio::test]
async fn a_member_that_breaks_halfway_leaves_nothing() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let pushed = |repository: &str, size_bytes: u64| PushedBlob {
        repository: name(repository),
        digest: sha256(repository),
        size_bytes,
    };
    // No column holds the size: SQLite is told after the repository was made.
    let batch = vec![pushed("a/one", 1), pushed("b/broken", u64::MAX), pushed("c/three", 3)];
    let results = plane.commit(batch).await.unwrap();
    assert!(matches!(results[..], [Ok(()), Err(Problem::Internal), Ok(())]), "{results:?}");
    assert_eq!(plane.list("/v2/_catalog").await.names("repositories"), ["a/one", "c/three"]);
    assert_eq!(plane.link("a/one", sha256("a/one")).await, Some(1));
    assert_eq!(plane.writes.refused(), None);
}

#[tokio::test]
async fn a_batch_with_a_refused_member_alone_writes_nothing() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    plane.push("a/one", "hello").await;
    let commits = plane.counts().commits;
    assert!(plane.delete_blob("a/one", sha256("nothing")).await.is_err());
    assert!(plane.delete("a/one", "nothing").await.is_err());
    assert_eq!(plane.counts().commits, commits);
}

/// Everything waits while somebody holds the file: what the writer then finds is more than two batches take.
#[tokio::test]
async fn a_batch_takes_so_many_changes_and_no_more() {
    let directory = Directory::new();
    let plane = Arc::new(Plane::open(&directory));
    plane.push("a/one", "config").await;
    let before = plane.counts();
    let held = directory.tables();
    held.execute_batch("BEGIN IMMEDIATE").unwrap();
    let ask = |number: usize| {
        let plane = Arc::clone(&plane);
        tokio::spawn(async move { plane.delete("a/one", &format!("t{number}")).await })
    };
    let mut asked: Vec<_> = (0..CHANGES_A_BATCH).map(ask).collect();
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    asked.extend((CHANGES_A_BATCH..=2 * CHANGES_A_BATCH).map(ask));
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    held.execute_batch("ROLLBACK").unwrap();
    for one in asked {
        assert!(matches!(one.await.unwrap(), Err(Problem::ManifestUnknown(_))));
    }
    let counts = plane.counts();
    assert_eq!(counts.members - before.members, 2 * CHANGES_A_BATCH as u64 + 1);
    assert!(counts.batches - before.batches >= 3, "{counts:?}");
}
