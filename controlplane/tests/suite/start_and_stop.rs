//! What a start finds and refuses, and what a stop leaves behind.

use std::sync::Arc;

use control::{Cache, Epochs, Writes};
use controlplane::{MirrorSettings, MissingReferences, OpenError, Options, limits::WAL_CHECKPOINT_BYTES};

use crate::harness::{Directory, Plane, sha256};

fn options() -> Options {
    Options {
        missing_references: MissingReferences::Reject,
        writes: Arc::new(Writes::allowed(Box::new(|_why, _since| {}))),
        epochs: Arc::new(Epochs::new(64)),
        mirror: MirrorSettings::default(),
        // Whoever asks is told that nobody has the time.
        cache: Cache::lane(1).0,
    }
}

#[tokio::test]
async fn what_was_answered_is_there_after_a_restart() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let digest = plane.push_image("a/one", "v1", "x").await;
    plane.close().await;
    let plane = Plane::open(&directory);
    assert_eq!(plane.get("a/one", "v1").await.unwrap().digest, digest);
    assert_eq!(plane.link("a/one", sha256("layer of x")).await, Some(10));
}

#[tokio::test]
async fn what_was_answered_is_there_without_a_stop() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let digest = plane.push_image("a/one", "v1", "x").await;
    // As after kill -9: the files as they are now, read by somebody else.
    let copy = Directory::new();
    for file in ["control.db", "control.db-wal"] {
        std::fs::copy(directory.path().join(file), copy.path().join(file)).unwrap();
    }
    let recovered = Plane::open(&copy);
    assert_eq!(recovered.get("a/one", "v1").await.unwrap().digest, digest);
}

#[tokio::test]
async fn a_stop_writes_touches_and_empties_the_log() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let digest = plane.push("a/one", "hello").await;
    let touched = || {
        let sql = "SELECT last_touched_at - created_at FROM link";
        directory.tables().query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap()
    };
    assert_eq!(touched(), 0);
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    assert_eq!(plane.link("a/one", digest).await, Some(5));
    assert_eq!(touched(), 0, "a touch has no transaction of its own");
    let log = directory.path().join("control.db-wal");
    assert!(std::fs::metadata(&log).unwrap().len() > 0);
    plane.close().await;
    assert_eq!(std::fs::metadata(&log).map_or(0, |log| log.len()), 0);
    assert!(touched() > 0);
}

#[tokio::test]
async fn touches_ride_with_the_next_batch() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let digest = plane.push("a/one", "hello").await;
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    plane.link("a/one", digest).await;
    plane.link("a/one", digest).await;
    plane.push("b/two", "other").await;
    assert_eq!(plane.counts().touches, 1);
    let sql = "SELECT count(*) FROM link WHERE last_touched_at > created_at";
    assert_eq!(directory.tables().query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap(), 1);
}

#[tokio::test]
async fn home_is_known_before_the_lanes_run() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let digest = plane.push("a/one", "hello").await;
    plane.close().await;
    let plane = controlplane::open(directory.path(), options()).unwrap();
    assert_eq!(plane.home_blocking(&[sha256("other"), digest]).unwrap(), [None, Some(5)]);
}

#[test]
fn a_newer_file_is_refused_and_left_alone() {
    let directory = Directory::new();
    let tables = directory.tables();
    tables.pragma_update(None, "user_version", 4_000).unwrap();
    let refused = controlplane::open(directory.path(), options()).err().unwrap();
    assert!(matches!(refused, OpenError::TooNew { file: 4_000, binary } if binary >= 1));
    assert!(refused.to_string().contains("newer gantry"), "{refused}");
    let tables_made = "SELECT count(*) FROM sqlite_schema";
    assert_eq!(tables.query_row(tables_made, [], |row| row.get::<_, i64>(0)).unwrap(), 0);
}

#[test]
fn a_file_that_is_no_database_is_refused() {
    let directory = Directory::new();
    std::fs::write(directory.path().join("control.db"), "x".repeat(8192)).unwrap();
    assert!(matches!(controlplane::open(directory.path(), options()), Err(OpenError::Sqlite(_))));
}

#[tokio::test]
async fn the_clock_never_goes_back() {
    let directory = Directory::new();
    Plane::open(&directory).close().await;
    let future = 9_000_000_000_000_i64;
    directory.tables().execute("UPDATE clock SET at = ?1", [future]).unwrap();
    let plane = Plane::open(&directory);
    plane.push("a/one", "hello").await;
    let sql = "SELECT at, (SELECT created_at FROM link) FROM clock";
    let (clock, created): (i64, i64) =
        directory.tables().query_row(sql, [], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
    assert_eq!((clock, created), (future, future));
}

#[tokio::test]
async fn a_long_log_is_checkpointed_between_batches() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let mut body = plane.image_of("a/one", "x").await;
    for number in 0..12 {
        body["annotations"] = serde_json::json!({ "much": format!("{number}").repeat(1 << 20) });
        plane.put("a/one", "v1", &body).await.unwrap();
    }
    let counts = plane.counts();
    assert_eq!(counts.checkpoints, 1, "{counts:?}");
    assert!(std::fs::metadata(directory.path().join("control.db")).unwrap().len() > WAL_CHECKPOINT_BYTES);
    let log = std::fs::metadata(directory.path().join("control.db-wal")).unwrap().len();
    assert!(log < 2 * WAL_CHECKPOINT_BYTES, "the log has {log} bytes");
}
