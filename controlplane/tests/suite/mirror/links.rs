//! Permission: a kept manifest that names the blob, or the upstream's 200 for that repository; no body is fetched.

use std::time::Duration;

use controlplane::upstream::Policy;
use oci::Problem;

use super::registry::{Fault, Registry};
use super::rig::{Rig, eventually, status};
use crate::harness::{NOBODY, name, sha256};

const APP: &str = "docker.io/org/app";
const OTHER: &str = "docker.io/org/other";

#[tokio::test]
async fn a_kept_manifest_permits_what_it_names_in_its_repository_alone() {
    let registry = Registry::start();
    let image = registry.push_image("org/app", "1", "x");
    let rig = Rig::hub(&registry, Policy::default());
    rig.pull(APP, "1").await;
    registry.seen();
    assert_eq!(rig.size(APP, image.layer).await, Some("layer of x".len() as u64));
    assert_eq!(rig.size(APP, image.config).await, Some("config of x".len() as u64));
    assert!(registry.seen().is_empty());
    assert_eq!(rig.link(OTHER, image.layer).await, Ok(None), "the other one does not have it");
    assert_eq!(registry.seen(), [format!("HEAD /v2/org/other/blobs/{}", image.layer)]);
}

#[tokio::test]
async fn a_head_permits_for_its_repository_alone() {
    let registry = Registry::start();
    let blob = registry.push_blob("org/app", "hello");
    let rig = Rig::hub(&registry, Policy::default());
    for _ in 0..3 {
        assert_eq!(rig.size(APP, blob).await, Some(5));
    }
    assert_eq!(rig.link(OTHER, blob).await, Ok(None));
    let line = |repository: &str| format!("HEAD /v2/{repository}/blobs/{blob}");
    assert_eq!(registry.seen(), [line("org/app"), line("org/other")], "once each, and no body");
}

#[tokio::test]
async fn where_a_head_is_refused_one_byte_is_asked_for() {
    let registry = Registry::start();
    let blob = registry.push_blob("org/app", "hello");
    let rig = Rig::hub(&registry, Policy::default());
    registry.fail("HEAD", Fault::Status(405));
    assert_eq!(rig.size(APP, blob).await, Some(5));
}

#[tokio::test]
async fn a_blob_that_is_not_there_is_asked_for_once_in_a_while() {
    let registry = Registry::start();
    let rig = Rig::hub(&registry, Policy { negative_ttl: Duration::from_secs(3600), ..Policy::default() });
    for _ in 0..3 {
        assert_eq!(rig.link(APP, sha256("hello")).await, Ok(None));
    }
    assert_eq!(registry.seen().len(), 1);
    let rig = Rig::hub(&registry, Policy { negative_ttl: Duration::from_millis(20), ..Policy::default() });
    assert_eq!(rig.link(APP, sha256("hello")).await, Ok(None));
    let blob = registry.push_blob("org/app", "hello");
    eventually("it is asked for again", async || rig.link(APP, blob).await.unwrap().is_some()).await;
}

#[tokio::test]
async fn a_no_does_not_outlive_a_push_of_that_name() {
    let registry = Registry::start();
    registry.push_image("org/app", "1", "x");
    let rig = Rig::hub(&registry, Policy { negative_ttl: Duration::from_secs(3600), ..Policy::default() });
    rig.pull("org/app", "1").await;
    let blob = sha256("mine");
    assert_eq!(rig.link("org/app", blob).await, Ok(None));
    assert!(rig.manifest("org/app", "mine").await.unwrap().is_none());
    rig.plane.control.open_upload(name("org/app"), NOBODY).await.unwrap();
    rig.plane.push("org/app", "mine").await;
    assert_eq!(rig.plane.link("org/app", blob).await, Some(4));
    rig.plane.put("org/app", "mine", &crate::harness::index(&[])).await.unwrap();
    assert!(rig.manifest("org/app", "mine").await.unwrap().is_some());
}

#[tokio::test]
async fn who_lets_nobody_in_says_that_the_name_is_unknown() {
    let registry = Registry::start();
    let blob = registry.push_blob("org/app", "hello");
    let rig = Rig::hub(&registry, Policy::default());
    registry.fail("blobs", Fault::Status(403));
    for _ in 0..2 {
        assert_eq!(rig.link(APP, blob).await, Err(Problem::NameUnknown(name(APP))));
    }
}

#[tokio::test]
async fn an_outage_is_never_told_as_unknown() {
    let registry = Registry::start();
    let image = registry.push_image("org/app", "1", "x");
    let rig = Rig::hub(&registry, Policy::default());
    for (fault, expect) in [(Fault::Cut, 503), (Fault::Stall, 504), (Fault::Status(500), 502)] {
        registry.fail("blobs", fault.clone());
        assert_eq!(status(rig.link(APP, image.layer).await), expect, "{fault:?}");
        registry.heal();
    }
    rig.pull(APP, "1").await;
    registry.fail("", Fault::Cut);
    assert_eq!(rig.size(APP, image.layer).await, Some("layer of x".len() as u64), "a manifest permits it");
}
