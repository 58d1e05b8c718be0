//! For how long answers of an upstream are good where an operator says nothing about it, each to the millisecond.

use std::time::Duration;

use control::Came;
use controlplane::limits;
use controlplane::upstream::{AllowPrivate, UpstreamSettings};

use super::registry::{Fault, Registry};
use super::rig::{Rig, mirror_of, status};
use crate::harness::sha256;
use crate::held_clock::{HeldClock, TICK};

const MINUTE: Duration = Duration::from_secs(60);
const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
const APP: &str = "docker.io/library/app";

/// With the settings that are those of nobody's.
fn hub(registry: &Registry) -> Rig {
    let settings = UpstreamSettings::new("docker.io", &registry.url);
    Rig::new(mirror_of(vec![UpstreamSettings { allow_private_addresses: AllowPrivate::All, ..settings }]))
}

#[tokio::test]
async fn a_tag_is_fresh_for_10_minutes_given_at_once_for_an_hour_more_and_stands_in_for_a_week() {
    let registry = Registry::start();
    let image = registry.push_image("library/app", "1", "x");
    let clock = HeldClock::new();
    let rig = hub(&registry);
    assert_eq!(rig.pull(APP, "1").await, (image.manifest, Came::Fill));
    registry.seen();
    registry.fail("", Fault::Cut);
    clock.pass(10 * MINUTE - TICK).await;
    assert_eq!(rig.pull(APP, "1").await, (image.manifest, Came::Hit));
    assert!(registry.seen().is_empty(), "nobody was asked");

    for later in [2 * TICK, 60 * MINUTE - 3 * TICK] {
        clock.pass(later).await;
        registry.seen();
        assert_eq!(rig.pull(APP, "1").await, (image.manifest, Came::Hit));
        let head = "HEAD /v2/library/app/manifests/1";
        clock.wait_for("it is compared behind the answer", || registry.seen() == [head]).await;
    }
    for later in [2 * TICK, WEEK - 60 * MINUTE - 2 * TICK] {
        clock.pass(later).await;
        assert_eq!(rig.pull(APP, "1").await, (image.manifest, Came::Stale));
    }
    clock.pass(2 * TICK).await;
    assert_eq!(status(rig.manifest(APP, "1").await), 503);
    // By its digest it is what it is.
    assert_eq!(rig.pull(APP, &image.manifest.to_string()).await, (image.manifest, Came::Hit));
}

#[tokio::test]
async fn what_is_not_there_is_asked_for_again_after_a_minute() {
    let registry = Registry::start();
    let clock = HeldClock::new();
    let rig = hub(&registry);
    let blob = sha256("hello");
    let tags = format!("/v2/{APP}/tags/list");
    for (later, questions) in [(Duration::ZERO, 3), (MINUTE - TICK, 0), (2 * TICK, 3)] {
        clock.pass(later).await;
        assert!(rig.manifest(APP, "1").await.unwrap().is_none());
        assert_eq!(rig.link(APP, blob).await, Ok(None));
        assert_eq!(status(rig.list(&tags).await), 404);
        assert_eq!(registry.seen().len(), questions, "{later:?} later");
    }
    registry.push_image("library/app", "1", "x");
    registry.push_blob("library/app", "hello");
    clock.pass(MINUTE - TICK).await;
    assert!(rig.manifest(APP, "1").await.unwrap().is_none());
    clock.pass(2 * TICK).await;
    assert!(rig.manifest(APP, "1").await.unwrap().is_some());
    assert_eq!(rig.size(APP, blob).await, Some(5));
}

#[tokio::test]
async fn a_permission_that_no_manifest_gives_is_asked_for_again_after_10_minutes() {
    let registry = Registry::start();
    let blob = registry.push_blob("library/app", "hello");
    let clock = HeldClock::new();
    let rig = hub(&registry);
    for (later, questions) in [(Duration::ZERO, 1), (limits::GRANT_AGE_MAX - TICK, 0), (2 * TICK, 1)] {
        clock.pass(later).await;
        assert_eq!(rig.size(APP, blob).await, Some(5));
        assert_eq!(registry.seen().len(), questions, "{later:?} later");
    }
}

#[tokio::test]
async fn the_head_of_a_tag_is_good_for_as_long_as_the_tag() {
    let registry = Registry::start();
    registry.push_image("library/app", "1", "x");
    let clock = HeldClock::new();
    let rig = hub(&registry);
    for (later, questions) in [(Duration::ZERO, 1), (10 * MINUTE - TICK, 0), (2 * TICK, 1)] {
        clock.pass(later).await;
        rig.describe(APP, "1").await.unwrap().unwrap();
        assert_eq!(registry.seen().len(), questions, "{later:?} later");
    }
}

#[tokio::test]
async fn a_list_is_good_for_10_s_and_stands_in_for_a_day() {
    let registry = Registry::start();
    let body = serde_json::json!({ "name": "library/app", "tags": ["1", "2"] });
    registry.put_json("/v2/library/app/tags/list", "application/json", &body);
    let clock = HeldClock::new();
    let rig = hub(&registry);
    let target = format!("/v2/{APP}/tags/list");
    for (later, questions) in [(Duration::ZERO, 1), (limits::LIST_FRESH - TICK, 0), (2 * TICK, 1)] {
        clock.pass(later).await;
        let list = rig.list(&target).await.unwrap();
        assert_eq!((list.names("tags").len(), list.header("warning")), (2, None), "{later:?} later");
        assert_eq!(registry.seen().len(), questions, "{later:?} later");
    }
    registry.fail("", Fault::Cut);
    clock.pass(limits::LIST_KEPT - TICK).await;
    let old = rig.list(&target).await.unwrap();
    assert!(old.names("tags").len() == 2 && old.header("warning").is_some());
    clock.pass(2 * TICK).await;
    assert_eq!(status(rig.list(&target).await), 503);
}
