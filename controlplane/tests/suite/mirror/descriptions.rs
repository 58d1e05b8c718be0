//! The HEAD of a manifest that is not here: one HEAD upstream, and no pull.

use control::{Came, Description, Outline};
use controlplane::upstream::Policy;
use oci::MediaType;

use super::registry::{Fault, Registry};
use super::rig::{Rig, always_look, status};

async fn outline(rig: &Rig, reference: &str) -> Outline {
    match rig.describe("app", reference).await.unwrap().unwrap() {
        Description::Outline(outline) => outline,
        Description::Whole(document) => panic!("{document:?}"),
    }
}

#[tokio::test]
async fn a_head_is_answered_from_one_head() {
    let registry = Registry::start();
    let image = registry.push_image("library/app", "1", "x");
    let rig = Rig::hub(&registry, Policy::default());
    let first = outline(&rig, "1").await;
    assert_eq!(
        (first.digest, first.media_type, first.came),
        (image.manifest, MediaType::OCI_MANIFEST, Came::Fill)
    );
    let again = outline(&rig, "1").await;
    assert_eq!((again.digest, again.came), (image.manifest, Came::Hit));
    outline(&rig, &image.manifest.to_string()).await;
    let by_digest = format!("HEAD /v2/library/app/manifests/{}", image.manifest);
    assert_eq!(registry.seen(), ["HEAD /v2/library/app/manifests/1", &by_digest]);
    // What is here is better.
    let whole = rig.manifest("app", "1").await.unwrap().unwrap();
    assert_eq!(first.size_bytes, whole.bytes.len() as u64);
    let Some(Description::Whole(known)) = rig.describe("app", "1").await.unwrap() else { panic!("not here") };
    assert_eq!((known.digest, known.came), (image.manifest, Came::Hit));
}

#[tokio::test]
async fn a_head_that_tells_too_little_is_made_up_for_by_a_get() {
    let registry = Registry::start();
    let image = registry.push_image("library/app", "1", "x");
    let rig = Rig::hub(&registry, Policy::default());
    registry.fail("HEAD", Fault::NoDigest);
    let Some(Description::Whole(document)) = rig.describe("app", "1").await.unwrap() else {
        panic!("no GET")
    };
    assert_eq!(document.digest, image.manifest);
}

#[tokio::test]
async fn a_head_of_a_known_tag_compares_it() {
    let registry = Registry::start();
    registry.push_image("library/app", "1", "old");
    let rig = Rig::hub(&registry, always_look());
    rig.pull("app", "1").await;
    let new = registry.push_image("library/app", "1", "new");
    let Some(Description::Whole(document)) = rig.describe("app", "1").await.unwrap() else {
        panic!("not here")
    };
    assert_eq!(document.digest, new.manifest);
}

#[tokio::test]
async fn a_head_of_nothing_is_unknown_and_of_an_upstream_that_is_away_is_not() {
    let registry = Registry::start();
    let rig = Rig::hub(&registry, Policy::default());
    assert!(rig.describe("app", "1").await.unwrap().is_none());
    assert!(rig.manifest("app", "1").await.unwrap().is_none());
    assert_eq!(registry.seen().len(), 1, "one no is enough");
    registry.fail("", Fault::Cut);
    assert_eq!(status(rig.describe("app", "2").await), 503);
}

#[tokio::test]
async fn a_head_of_what_was_pushed_is_answered_from_here() {
    let registry = Registry::start();
    let rig = Rig::hub(&registry, Policy::default());
    let digest = rig.plane.push_image("acme/app", "1", "mine").await;
    let Some(Description::Whole(document)) = rig.describe("acme/app", "1").await.unwrap() else {
        panic!("not here")
    };
    assert_eq!((document.digest, document.came), (digest, Came::Pushed));
    assert!(registry.seen().is_empty());
}
