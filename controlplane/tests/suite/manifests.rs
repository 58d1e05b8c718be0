//! Manifests: stored byte for byte, with everything they name, or not at all (end-3, end-7, end-9).

use std::sync::Arc;

use bytes::Bytes;
use control::Manifest;
use controlplane::MissingReferences;
use oci::{Algorithm, Digest, Problem};
use serde_json::json;

use crate::harness::{
    Directory, IMAGE, INDEX, LAYER, NOBODY, Plane, descriptor, digest_of, image, index, manifest, name,
    refer, sha256, tag, with_subject,
};

#[tokio::test]
async fn what_is_put_is_got_byte_for_byte_by_tag_and_by_digest() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let body = plane.image_of("a/one", "x").await;
    let spaced = Bytes::from(serde_json::to_string_pretty(&body).unwrap());
    let sent = Manifest { body: spaced.clone(), ..manifest("a/one", "v1", &body) };
    let stored = plane.put_whole(sent).await.unwrap();
    assert_eq!(stored.digest, Digest::of(Algorithm::Sha256, &spaced));
    assert_eq!((stored.subject, stored.tags.len()), (None, 0));
    for reference in ["v1", &stored.digest.to_string()] {
        let document = plane.get("a/one", reference).await.unwrap();
        assert_eq!(document.bytes, spaced);
        assert_eq!(document.digest, stored.digest);
        assert_eq!(document.media_type.as_str(), IMAGE);
    }
    assert!(plane.get("a/one", "v2").await.is_none());
    assert!(plane.get("a/two", "v1").await.is_none());
    assert!(plane.get("a/two", &stored.digest.to_string()).await.is_none());
}

#[tokio::test]
async fn a_put_by_digest_takes_any_algorithm_and_sets_its_tags() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let body = plane.image_of("a/one", "x").await;
    for algorithm in Algorithm::ALL {
        let digest = Digest::of(algorithm, body.to_string().as_bytes());
        let tags = vec![tag("one"), tag("two"), tag("one")];
        let sent = Manifest { tags, ..manifest("a/one", &digest.to_string(), &body) };
        let stored = plane.put_whole(sent).await.unwrap();
        assert_eq!(stored.digest, digest);
        assert_eq!(stored.tags, [tag("one"), tag("two")]);
        for reference in ["one", "two", &digest.to_string()] {
            assert_eq!(plane.get("a/one", reference).await.unwrap().digest, digest);
        }
    }
}

#[tokio::test]
async fn a_body_that_is_not_what_its_digest_says_is_refused() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let body = plane.image_of("a/one", "x").await;
    for algorithm in Algorithm::ALL {
        let wrong = Digest::of(algorithm, b"something else");
        let refused = plane.put("a/one", &wrong.to_string(), &body).await;
        let Err(problem) = refused else { panic!("stored under {wrong}") };
        assert!(matches!(problem, Problem::DigestMismatch { expected, computed }
            if expected == wrong && computed == Digest::of(algorithm, body.to_string().as_bytes())));
        assert_eq!((problem.wire().status, problem.wire().code), (400, "DIGEST_INVALID"));
        assert!(plane.get("a/one", &wrong.to_string()).await.is_none());
    }
}

#[tokio::test]
async fn a_body_that_is_no_manifest_is_refused() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let sent = Manifest { body: Bytes::from_static(b"{"), ..manifest("a/one", "v1", &json!({})) };
    let refused = plane.put_whole(sent).await;
    assert!(matches!(refused, Err(Problem::ManifestInvalid { .. })));
    assert_eq!(plane.list("/v2/_catalog").await.names("repositories"), Vec::<String>::new());
}

#[tokio::test]
async fn everything_it_names_must_be_in_the_repository_and_each_digest_is_named() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let here = plane.push("a/one", "here").await;
    plane.push("a/two", "elsewhere").await;
    let elsewhere = sha256("elsewhere");
    let nowhere = sha256("nowhere");
    let refused = plane.put("a/one", "v1", &image(here, &[elsewhere, nowhere, nowhere])).await;
    let Err(Problem::ManifestBlobUnknown(mut missing)) = refused else { panic!("stored") };
    let mut expected = vec![elsewhere, nowhere];
    missing.sort_unstable();
    expected.sort_unstable();
    assert_eq!(missing, expected);
    assert!(plane.get("a/one", "v1").await.is_none());
    let refused = plane.put("never/heard-of", "v1", &image(here, &[])).await;
    assert!(matches!(refused, Err(Problem::ManifestBlobUnknown(missing)) if missing == [here]));
    assert_eq!(plane.list("/v2/_catalog").await.names("repositories"), ["a/one", "a/two"]);
}

#[tokio::test]
async fn a_child_may_be_a_manifest_or_a_blob() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let child = plane.push_image("a/one", "child", "x").await;
    let blob = plane.push("a/one", "a layer of a build cache").await;
    plane.put("a/one", "list", &index(&[child, blob])).await.unwrap();
    let missing = plane.put("a/one", "list", &index(&[child, sha256("gone")])).await;
    assert!(matches!(missing, Err(Problem::ManifestBlobUnknown(missing)) if missing == [sha256("gone")]));
    // A manifest is no blob.
    let wrong = plane.put("a/one", "wrong", &image(blob, &[child])).await;
    assert!(matches!(wrong, Err(Problem::ManifestBlobUnknown(missing)) if missing == [child]));
}

#[tokio::test]
async fn subjects_and_foreign_layers_are_never_required() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let mut body = with_subject(plane.image_of("a/one", "x").await, sha256("no such subject"));
    let foreign = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip";
    body["layers"].as_array_mut().unwrap().push(descriptor(foreign, sha256("at the vendor's")));
    let stored = plane.put("a/one", "v1", &body).await.unwrap();
    assert_eq!(stored.subject, Some(sha256("no such subject")));
}

#[tokio::test]
async fn missing_references_are_taken_as_far_as_the_setting_says() {
    let gone = sha256("gone");
    for (setting, child_taken, blob_taken) in [
        (MissingReferences::Reject, false, false),
        (MissingReferences::Children, true, false),
        (MissingReferences::Any, true, true),
    ] {
        let directory = Directory::new();
        let plane = Plane::open_with(&directory, setting);
        let config = plane.push("a/one", "config").await;
        let list = plane.put("a/one", "list", &index(&[gone])).await;
        assert_eq!(list.is_ok(), child_taken, "{setting:?}");
        let sparse = plane.put("a/one", "sparse", &image(config, &[gone])).await;
        assert_eq!(sparse.is_ok(), blob_taken, "{setting:?}");
    }
}

#[tokio::test]
async fn pushing_again_changes_nothing_and_costs_no_commit() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let body = plane.image_of("a/one", "x").await;
    let first = plane.put("a/one", "v1", &body).await.unwrap();
    let commits = plane.counts().commits;
    let again = plane.put("a/one", "v1", &body).await.unwrap();
    assert_eq!(again.digest, first.digest);
    assert_eq!(plane.counts().commits, commits);
    let mut rows = 0;
    for table in ["manifest", "tag"] {
        let sql = format!("SELECT count(*) FROM {table}");
        rows += directory.tables().query_row(&sql, [], |row| row.get::<_, i64>(0)).unwrap();
    }
    assert_eq!(rows, 2);
}

#[tokio::test]
async fn a_new_content_type_is_what_the_manifest_is_from_then_on() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let mut body = with_subject(plane.image_of("a/one", "x").await, sha256("subject"));
    body.as_object_mut().unwrap().remove("mediaType");
    let docker = "application/vnd.docker.distribution.manifest.v2+json";
    for media_type in [docker, IMAGE] {
        let sent = Manifest { content_type: Some(media_type.to_owned()), ..manifest("a/one", "v1", &body) };
        plane.put_whole(sent).await.unwrap();
        assert_eq!(plane.get("a/one", "v1").await.unwrap().media_type.as_str(), media_type);
        let listed = plane.list(&format!("/v2/a/one/referrers/{}", sha256("subject"))).await.json();
        assert_eq!(listed["manifests"].as_array().unwrap().len(), 1);
        assert_eq!(listed["manifests"][0]["mediaType"], media_type);
    }
}

#[tokio::test]
async fn deleting_a_tag_leaves_the_manifest_and_other_tags() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let body = plane.image_of("a/one", "x").await;
    plane.put("a/one", "v1", &body).await.unwrap();
    let digest = plane.put("a/one", "v2", &body).await.unwrap().digest;
    plane.delete("a/one", "v1").await.unwrap();
    assert!(plane.get("a/one", "v1").await.is_none());
    assert!(plane.get("a/one", "v2").await.is_some());
    assert!(plane.get("a/one", &digest.to_string()).await.is_some());
    assert!(matches!(plane.delete("a/one", "v1").await, Err(Problem::ManifestUnknown(_))));
}

#[tokio::test]
async fn deleting_by_digest_takes_its_tags_along_and_notes_the_time() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let body = plane.image_of("a/one", "x").await;
    plane.put("a/one", "v1", &body).await.unwrap();
    plane.put("a/one", "v2", &body).await.unwrap();
    let kept = plane.push_image("a/one", "kept", "y").await;
    let digest = digest_of(&body).to_string();
    plane.delete("a/one", &digest).await.unwrap();
    for reference in ["v1", "v2", &digest] {
        assert!(plane.get("a/one", reference).await.is_none());
    }
    assert_eq!(plane.get("a/one", "kept").await.unwrap().digest, kept);
    assert_eq!(plane.list("/v2/a/one/tags/list").await.names("tags"), ["kept"]);
    assert!(matches!(plane.delete("a/one", &digest).await, Err(Problem::ManifestUnknown(_))));
    assert!(matches!(plane.delete("never/heard-of", "v1").await, Err(Problem::NameUnknown(_))));

    let tables = directory.tables();
    let mut statement = tables.prepare("SELECT what, tag, at > 0 FROM deletion ORDER BY what, tag").unwrap();
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?))).unwrap();
    let rows: Vec<(i64, Option<String>, bool)> = rows.map(Result::unwrap).collect();
    let tag = |text: &str| Some(text.to_owned());
    assert_eq!(rows, [(1, None, true), (2, tag("v1"), true), (2, tag("v2"), true)]);
}

#[tokio::test]
async fn a_child_of_a_live_index_is_held_by_digest_and_not_by_tag() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let child = plane.push_image("a/one", "child", "x").await;
    let list = plane.put("a/one", "list", &index(&[child])).await.unwrap().digest;
    let refused = plane.delete("a/one", &child.to_string()).await;
    let Err(problem) = refused else { panic!("the child was let go") };
    assert!(matches!(problem, Problem::BlobReferenced { digest, by } if digest == child && by == list));
    assert_eq!((problem.wire().status, problem.wire().code), (405, "DENIED"));
    plane.delete("a/one", "child").await.unwrap();
    assert!(plane.get("a/one", &child.to_string()).await.is_some());
    plane.delete("a/one", "list").await.unwrap();
    assert!(plane.delete("a/one", &child.to_string()).await.is_err(), "an untagged index is alive");
    plane.delete("a/one", &list.to_string()).await.unwrap();
    plane.delete("a/one", &child.to_string()).await.unwrap();
}

#[tokio::test]
async fn a_blob_that_an_index_lists_is_held_too() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let blob = plane.push("a/one", "a layer of a build cache").await;
    let mut cache = index(&[]);
    cache["manifests"].as_array_mut().unwrap().push(descriptor(LAYER, blob));
    plane.put("a/one", "cache", &cache).await.unwrap();
    assert!(matches!(plane.delete_blob("a/one", blob).await, Err(Problem::BlobReferenced { .. })));
}

#[tokio::test]
async fn a_subject_is_held_by_nothing() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let subject = plane.push_image("a/one", "v1", "x").await;
    let signature = with_subject(plane.image_of("a/one", "signature").await, subject);
    plane.put("a/one", "sig", &signature).await.unwrap();
    plane.delete("a/one", &subject.to_string()).await.unwrap();
    assert!(plane.get("a/one", "sig").await.is_some());
}

#[tokio::test]
async fn an_empty_index_is_legal() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    plane.put("a/one", "v1", &index(&[])).await.unwrap();
    assert_eq!(plane.get("a/one", "v1").await.unwrap().media_type.as_str(), INDEX);
}

#[tokio::test]
async fn what_cannot_be_read_is_not_absent() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let digest = plane.push_image("a/one", "v1", "x").await;
    directory.tables().execute("UPDATE manifest SET media_type = x'ff'", []).unwrap();
    for reference in ["v1", &digest.to_string()] {
        let got = plane.control.manifest(name("a/one"), refer(reference), NOBODY).await;
        assert!(matches!(got, Err(Problem::Internal)), "{got:?}");
    }
    let absent = plane.control.manifest(name("a/one"), refer("v2"), NOBODY).await;
    assert!(matches!(absent, Ok(None)));
}

/// The re-check is in the transaction: a blob that goes while the manifest comes leaves one of the two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_and_the_deletion_of_what_it_names_never_both_happen() {
    let directory = Directory::new();
    let plane = Arc::new(Plane::open(&directory));
    for number in 0..40 {
        let text = number.to_string();
        let body = plane.image_of("a/one", &text).await;
        let layer = sha256(&format!("layer of {text}"));
        let deleting = Arc::clone(&plane);
        let deleted = tokio::spawn(async move { deleting.delete_blob("a/one", layer).await });
        let put = plane.put("a/one", &text, &body).await;
        let deleted = deleted.await.unwrap();
        assert_ne!(put.is_ok(), deleted.is_ok(), "{put:?} {deleted:?}");
        assert_eq!(plane.link("a/one", layer).await.is_some(), put.is_ok());
    }
}
