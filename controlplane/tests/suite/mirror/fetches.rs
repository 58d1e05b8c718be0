//! The bytes of a blob from its upstream, whole or a part, and what is told where there are none.

use controlplane::upstream::Policy;
use oci::Problem;

use super::registry::{Fault, Registry};
use super::rig::{Rig, status};
use crate::harness::{name, sha256};

async fn bytes(rig: &Rig, text: &str, span: (u64, Option<u64>)) -> (u64, Option<u64>, String) {
    let mut fetched = rig.fetch("org/app", sha256(text), span).await.unwrap().unwrap();
    let mut all = Vec::new();
    while let Some(piece) = fetched.bytes.recv().await {
        all.extend_from_slice(&piece.unwrap());
    }
    (fetched.start, fetched.size_bytes, String::from_utf8(all).unwrap())
}

#[tokio::test]
async fn a_blob_comes_whole_or_in_part() {
    let registry = Registry::start();
    registry.push_blob("org/app", "hello world");
    let rig = Rig::hub(&registry, Policy::default());
    assert_eq!(bytes(&rig, "hello world", (0, None)).await, (0, Some(11), "hello world".to_owned()));
    assert_eq!(bytes(&rig, "hello world", (6, None)).await, (6, Some(11), "world".to_owned()));
    assert_eq!(bytes(&rig, "hello world", (2, Some(5))).await, (2, Some(11), "llo".to_owned()));
}

#[tokio::test]
async fn what_the_upstream_does_not_have_is_none_and_is_not_asked_for_again() {
    let registry = Registry::start();
    let image = registry.push_image("org/app", "1", "x");
    let rig = Rig::hub(&registry, Policy::default());
    rig.pull("docker.io/org/app", "1").await;
    registry.remove(&format!("/v2/org/app/blobs/{}", image.layer));
    registry.seen();
    for _ in 0..3 {
        assert!(rig.fetch("org/app", image.layer, (0, None)).await.unwrap().is_none());
    }
    assert_eq!(registry.seen().len(), 1);
    registry.fail("blobs", Fault::Status(403));
    let denied = rig.fetch("org/app", image.config, (0, None)).await.unwrap_err();
    assert_eq!(denied, Problem::NameUnknown(name("docker.io/org/app")));
}

#[tokio::test]
async fn an_outage_is_never_told_as_none() {
    let registry = Registry::start();
    let blob = registry.push_blob("org/app", "hello");
    let rig = Rig::hub(&registry, Policy::default());
    for (fault, expect) in [(Fault::Cut, 503), (Fault::Stall, 504), (Fault::Status(500), 502)] {
        registry.fail("blobs", fault.clone());
        assert_eq!(status(rig.fetch("org/app", blob, (0, None)).await), expect, "{fault:?}");
        registry.heal();
    }
    assert_eq!(bytes(&rig, "hello", (0, None)).await.2, "hello", "healthy again right after");
}
