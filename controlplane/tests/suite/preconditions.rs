//! `If-Match` and `If-None-Match` of writes are checked in the transaction that writes (RFC 9110 §13).

use std::sync::Arc;

use control::Preconditions;
use oci::{Algorithm, Digest, Problem};

use crate::harness::{Directory, Plane, if_match, if_none_match, sha256};

fn failed<T>(result: Result<T, Problem>) -> bool {
    matches!(result, Err(Problem::PreconditionFailed))
}

#[tokio::test]
async fn a_put_looks_at_what_its_url_names() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let old = plane.image_of("a/one", "old").await;
    let new = plane.image_of("a/one", "new").await;
    assert!(failed(plane.put_if("a/one", "v1", &old, if_match("*")).await));
    plane.put_if("a/one", "v1", &old, if_none_match("*")).await.unwrap();
    assert!(failed(plane.put_if("a/one", "v1", &new, if_none_match("*")).await));
    let digest = plane.get("a/one", "v1").await.unwrap().digest;

    let other = format!("\"{}\"", sha256("other"));
    let weak = format!("W/\"{digest}\"");
    for unmet in [&other, &weak, "", "\"", "nonsense"] {
        assert!(failed(plane.put_if("a/one", "v1", &new, if_match(unmet)).await), "{unmet}");
    }
    for met in [format!("{other}, \"{digest}\""), format!("{digest}"), "*".to_owned()] {
        plane.put_if("a/one", "v1", &new, if_match(&met)).await.unwrap();
        plane.put("a/one", "v1", &old).await.unwrap();
    }
    for unmet in [format!("\"{digest}\""), weak] {
        assert!(failed(plane.put_if("a/one", "v1", &new, if_none_match(&unmet)).await), "{unmet}");
    }
    plane.put_if("a/one", "v1", &new, if_none_match(&other)).await.unwrap();
    assert_ne!(plane.get("a/one", "v1").await.unwrap().digest, digest);
}

#[tokio::test]
async fn a_put_by_digest_looks_at_that_manifest() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let body = plane.image_of("a/one", "x").await;
    let digest = Digest::of(Algorithm::Sha512, body.to_string().as_bytes()).to_string();
    plane.put_if("a/one", &digest, &body, if_none_match("*")).await.unwrap();
    assert!(failed(plane.put_if("a/one", &digest, &body, if_none_match("*")).await));
    plane.put_if("a/one", &digest, &body, if_match("*")).await.unwrap();
}

#[tokio::test]
async fn a_delete_looks_at_what_it_would_delete() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let digest = plane.push_image("a/one", "v1", "x").await;
    let other = format!("\"{}\"", sha256("other"));
    assert!(failed(plane.delete_if("a/one", "v1", if_match(&other)).await));
    assert!(failed(plane.delete_if("a/one", "v1", if_none_match("*")).await));
    assert!(failed(plane.delete_if("a/one", &digest.to_string(), if_match(&other)).await));
    assert!(plane.get("a/one", "v1").await.is_some());
    plane.delete_if("a/one", "v1", if_match(&format!("\"{digest}\""))).await.unwrap();
    plane.delete_if("a/one", &digest.to_string(), if_match("*")).await.unwrap();
    assert!(plane.get("a/one", &digest.to_string()).await.is_none());
}

#[tokio::test]
async fn what_would_fail_anyhow_fails_with_its_own_reason() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let body = plane.image_of("a/one", "x").await;
    let nothing = plane.delete_if("a/one", "v1", if_match("*")).await;
    assert!(matches!(nothing, Err(Problem::ManifestUnknown(_))));
    let elsewhere = plane.put_if("a/two", "v1", &body, if_match("*")).await;
    assert!(matches!(elsewhere, Err(Problem::ManifestBlobUnknown(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_create_one_tag_one_wins() {
    let directory = Directory::new();
    let plane = Arc::new(Plane::open(&directory));
    let mut pushing = Vec::new();
    for number in 0..16 {
        let body = plane.image_of("a/one", &number.to_string()).await;
        let plane = Arc::clone(&plane);
        let create = Preconditions { if_match: None, if_none_match: Some("*".to_owned()) };
        pushing.push(tokio::spawn(async move { plane.put_if("a/one", "v1", &body, create).await }));
    }
    let mut winner = None;
    for push in pushing {
        match push.await.unwrap() {
            Ok(stored) => assert!(winner.replace(stored.digest).is_none(), "two winners"),
            Err(problem) => assert!(matches!(problem, Problem::PreconditionFailed)),
        }
    }
    assert_eq!(plane.get("a/one", "v1").await.map(|document| document.digest), winner);
}
