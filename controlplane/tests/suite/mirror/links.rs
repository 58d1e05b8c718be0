//! Permission: a kept manifest that names the blob, or the upstream's 200 for that repository; no body is fetched.

use std::time::Duration;

use control::Link;
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
async fn a_length_on_which_manifests_do_not_agree_is_the_upstream_s_to_tell() {
    let registry = Registry::start();
    let blob = registry.push_blob("org/app", "hello");
    let config = registry.push_blob("org/app", "config");
    for (tag, size) in [("1", 5), ("2", 6)] {
        let mut body = crate::harness::image(config, &[blob]);
        body["layers"][0]["size"] = size.into();
        registry.push_manifest("org/app", Some(tag), &body);
    }
    let rig = Rig::hub(&registry, Policy::default());
    rig.pull(APP, "1").await;
    assert_eq!(rig.size(APP, blob).await, Some(5));
    rig.pull(APP, "2").await;
    registry.seen();
    assert_eq!(rig.size(APP, blob).await, None);
    assert!(registry.seen().is_empty(), "permission needs no length");
    for _ in 0..2 {
        let link = rig.measure("org/app", blob).await.unwrap();
        assert!(matches!(link, Some(Link::Upstream { size_bytes: Some(5), .. })), "{link:?}");
    }
    assert_eq!(registry.seen(), [format!("HEAD /v2/org/app/blobs/{blob}")], "once");
    let rig = rig.restart().await;
    registry.fail("blobs", Fault::Cut);
    assert_eq!(status(rig.measure("org/app", blob).await), 503);
    registry.heal();
    registry.remove(&format!("/v2/org/app/blobs/{blob}"));
    let rig = rig.restart().await;
    assert_eq!(rig.measure("org/app", blob).await, Ok(None));
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

#[tokio::test]
async fn a_manifest_permits_nothing_that_may_lie_elsewhere() {
    let foreign = "application/vnd.oci.image.layer.nondistributable.v1.tar";
    let plain = "application/vnd.oci.image.layer.v1.tar";
    for (media_type, urls) in [(foreign, None), (plain, Some(["https://example.com/layer"]))] {
        let registry = Registry::start();
        let secret = sha256("a blob of a local repository");
        let config = registry.push_blob("org/app", "config");
        let mut body = crate::harness::image(config, &[secret]);
        body["layers"][0]["mediaType"] = media_type.into();
        if let Some(urls) = urls {
            body["layers"][0]["urls"] = urls.to_vec().into();
        }
        registry.push_manifest("org/app", Some("1"), &body);
        let rig = Rig::hub(&registry, Policy { negative_ttl: Duration::ZERO, ..Policy::default() });
        rig.pull(APP, "1").await;
        assert_eq!(rig.link(APP, secret).await, Ok(None), "anybody may push such a manifest");
        assert!(rig.link(APP, config).await.unwrap().is_some());
        registry.push_blob("org/app", "a blob of a local repository");
        assert_eq!(rig.size(APP, secret).await, Some(28), "the upstream has it there");
    }
}

#[tokio::test]
async fn an_index_permits_no_blob() {
    let registry = Registry::start();
    let secret = sha256("a blob of a local repository");
    registry.push_manifest("org/app", Some("1"), &crate::harness::index(&[secret]));
    let rig = Rig::hub(&registry, Policy::default());
    rig.pull(APP, "1").await;
    assert_eq!(rig.link(APP, secret).await, Ok(None), "not every registry looks for what an index names");
}

#[tokio::test]
async fn what_a_new_manifest_names_has_been_pushed_meanwhile() {
    let registry = Registry::start();
    let rig = Rig::hub(&registry, Policy { negative_ttl: Duration::from_secs(3600), ..Policy::default() });
    let layer = sha256("layer of x");
    assert_eq!(rig.link(APP, layer).await, Ok(None));
    let image = registry.push_image("org/app", "x", "x");
    let digest = image.manifest.to_string();
    registry.remove(&format!("/v2/org/app/manifests/{digest}"));
    assert!(rig.manifest(APP, &digest).await.unwrap().is_none());
    registry.push_image("org/app", "x", "x");
    registry.push_manifest("org/app", Some("1"), &crate::harness::index(&[image.manifest]));
    rig.pull(APP, "1").await;
    assert_eq!(rig.pull(APP, &digest).await.0, image.manifest);
    assert!(rig.link(APP, layer).await.unwrap().is_some());
    assert!(rig.fetch("org/app", layer, (0, None)).await.unwrap().is_some());
}
