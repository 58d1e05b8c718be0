//! Referrers: every manifest that names the subject, each once, in pages of at most 4 MiB (end-12).

use controlplane::limits::REFERRERS_BYTES;
use oci::{Algorithm, Digest};
use serde_json::{Value, json};

use crate::harness::{Answered, Directory, INDEX, Plane, descriptor, index, name, sha256, with_subject};

fn entries(answer: &Answered) -> Vec<Value> {
    assert_eq!((answer.status, answer.header("content-type")), (200, Some(INDEX)));
    let body = answer.json();
    assert_eq!((&body["schemaVersion"], &body["mediaType"]), (&json!(2), &json!(INDEX)));
    body["manifests"].as_array().unwrap().clone()
}

fn digests(answer: &Answered) -> Vec<String> {
    let mut digests: Vec<String> =
        entries(answer).iter().map(|entry| entry["digest"].as_str().unwrap().to_owned()).collect();
    digests.sort();
    digests
}

fn sorted(digests: &[Digest]) -> Vec<String> {
    let mut texts: Vec<String> = digests.iter().map(Digest::to_string).collect();
    texts.sort();
    texts
}

/// Pushes an artifact that names `subject`.
async fn attach(plane: &Plane, subject: Digest, artifact_type: &str, text: &str) -> Digest {
    let mut body = with_subject(plane.image_of("a/one", text).await, subject);
    body["artifactType"] = json!(artifact_type);
    body["annotations"] = json!({ "text": text });
    let stored = plane.put("a/one", &text.replace(' ', "-"), &body).await.unwrap();
    assert_eq!(stored.subject, Some(subject));
    stored.digest
}

#[tokio::test]
async fn an_unknown_subject_or_repository_has_none() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let target = format!("/v2/a/one/referrers/{}", sha256("nothing"));
    assert_eq!(entries(&plane.list(&target).await), Vec::<Value>::new());
    plane.push("a/one", "hello").await;
    let answer = plane.list(&target).await;
    assert_eq!(entries(&answer), Vec::<Value>::new());
    assert_eq!(answer.header("oci-filters-applied"), None);
}

#[tokio::test]
async fn entries_say_what_the_manifest_says() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let subject = plane.push_image("a/one", "v1", "x").await;
    let signature = attach(&plane, subject, "application/vnd.example.sig", "sig").await;
    let answer = plane.list(&format!("/v2/a/one/referrers/{subject}")).await;
    let size = plane.get("a/one", &signature.to_string()).await.unwrap().bytes.len();
    let expected = json!({
        "mediaType": crate::harness::IMAGE, "digest": signature.to_string(), "size": size,
        "artifactType": "application/vnd.example.sig", "annotations": { "text": "sig" },
    });
    assert_eq!(entries(&answer), [expected]);
    // Only in its own repository.
    assert_eq!(digests(&plane.list(&format!("/v2/a/two/referrers/{subject}")).await), Vec::<String>::new());
}

#[tokio::test]
async fn subjects_of_every_algorithm_have_referrers() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    for algorithm in Algorithm::ALL {
        let subject = Digest::of(algorithm, b"not even here");
        let attached = attach(&plane, subject, "application/vnd.example.sig", algorithm.name()).await;
        let answer = plane.list(&format!("/v2/a/one/referrers/{subject}")).await;
        assert_eq!(digests(&answer), sorted(&[attached]));
    }
}

#[tokio::test]
async fn a_filter_takes_the_artifact_type_or_an_images_config_type() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let subject = plane.push_image("a/one", "v1", "x").await;
    let signature = attach(&plane, subject, "application/vnd.example.sig+json", "sig").await;
    attach(&plane, subject, "application/vnd.example.sbom", "sbom").await;
    let plain = with_subject(plane.image_of("a/one", "plain").await, subject);
    let plain = plane.put("a/one", "plain", &plain).await.unwrap().digest;
    plane.put("a/one", "index", &with_subject(index(&[]), subject)).await.unwrap();

    let target = |filter: &str| format!("/v2/a/one/referrers/{subject}?artifactType={filter}");
    for filter in ["application/vnd.example.sig%2Bjson", "application/vnd.example.sig+json"] {
        let answer = plane.list(&target(filter)).await;
        assert_eq!(digests(&answer), sorted(&[signature]));
        assert_eq!(answer.header("oci-filters-applied"), Some("artifactType"));
    }
    let by_config = plane.list(&target(crate::harness::CONFIG)).await;
    assert_eq!(digests(&by_config), sorted(&[plain]));
    let none = plane.list(&target("application/vnd.example.none")).await;
    assert_eq!(digests(&none), Vec::<String>::new());
    assert_eq!(none.header("oci-filters-applied"), Some("artifactType"));
    assert_eq!(entries(&plane.list(&format!("/v2/a/one/referrers/{subject}")).await).len(), 4);
}

#[tokio::test]
async fn pages_are_cut_by_bytes_and_lose_nothing() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let subject = sha256("subject");
    let mut attached = Vec::new();
    for number in 0..11 {
        let mut body = with_subject(plane.image_of("a/one", &number.to_string()).await, subject);
        body["annotations"] = json!({ "much": "x".repeat(1 << 20) });
        body["artifactType"] = json!("application/vnd.example.large");
        attached.push(plane.put("a/one", &format!("t{number}"), &body).await.unwrap().digest);
    }
    let mut target = format!("/v2/a/one/referrers/{subject}?artifactType=application%2Fvnd.example.large");
    let (mut found, mut pages) = (Vec::new(), 0);
    loop {
        let answer = plane.list(&target).await;
        assert!(answer.body.len() <= REFERRERS_BYTES, "a page of {} bytes", answer.body.len());
        found.extend(digests(&answer));
        pages += 1;
        let Some(next) = answer.next() else { break };
        assert!(next.starts_with("/v2/a/one/referrers/") && next.contains("artifactType="), "{next}");
        target = next;
    }
    found.sort();
    assert_eq!(found, sorted(&attached));
    assert_eq!(pages, 4, "three entries fit a page");
}

#[tokio::test]
async fn a_deleted_referrer_is_gone_and_one_that_is_pushed_twice_is_there_once() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let subject = plane.push_image("a/one", "v1", "x").await;
    let target = format!("/v2/a/one/referrers/{subject}");
    let signature = attach(&plane, subject, "application/vnd.example.sig", "sig").await;
    assert_eq!(attach(&plane, subject, "application/vnd.example.sig", "sig").await, signature);
    assert_eq!(digests(&plane.list(&target).await), sorted(&[signature]));
    plane.delete("a/one", &signature.to_string()).await.unwrap();
    assert_eq!(digests(&plane.list(&target).await), Vec::<String>::new());
}

/// A client that keeps the fallback index pushes it after the manifests that it lists.
#[tokio::test]
async fn of_the_fallback_tag_only_what_is_here_and_names_the_subject_counts_once() {
    let directory = Directory::new();
    let plane = Plane::open_with(&directory, controlplane::MissingReferences::Any);
    let subject = plane.push_image("a/one", "v1", "x").await;
    let signature = attach(&plane, subject, "application/vnd.example.sig", "sig").await;
    let stranger = plane.push_image("a/one", "stranger", "y").await;
    let listed = [signature, stranger, sha256("not here"), signature];
    let fallback = format!("sha256-{}", subject.to_string().trim_start_matches("sha256:"));
    let mut body = index(&[]);
    body["manifests"] = listed.iter().map(|one| descriptor(crate::harness::IMAGE, *one)).collect();
    plane.put("a/one", &fallback, &body).await.unwrap();
    assert_eq!(digests(&plane.list(&format!("/v2/a/one/referrers/{subject}")).await), sorted(&[signature]));
    assert!(
        plane
            .control
            .manifest(name("a/one"), crate::harness::refer(&fallback), crate::harness::NOBODY)
            .await
            .unwrap()
            .is_some()
    );
}
