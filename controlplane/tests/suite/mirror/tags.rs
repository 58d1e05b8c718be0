//! Tags of upstreams: fresh for a while, then compared by one HEAD; one that moves takes along what cores know.

use std::time::Duration;

use control::{Came, Epoch};
use controlplane::limits;
use controlplane::upstream::Policy;

use super::registry::{Fault, Registry};
use super::rig::{Rig, always_look, eventually, mirror_of, patient};
use crate::harness::{NOBODY, name, refer};

fn epochs(rig: &Rig) -> Vec<Option<Epoch>> {
    let names = ["docker.io/library/app", "library/app", "app"];
    names.iter().map(|text| rig.plane.epochs.read(rig.plane.epochs.of_repository(&name(text)))).collect()
}

#[tokio::test]
async fn a_fresh_tag_is_answered_without_asking_and_says_for_how_long() {
    let registry = Registry::start();
    let image = registry.push_image("library/app", "1", "x");
    let rig = Rig::hub(&registry, Policy::default());
    let ttl = Policy::default().tag_ttl;
    let first = rig.manifest("app", "1").await.unwrap().unwrap();
    assert_eq!((first.came, first.fresh), (Came::Fill, Some(ttl)));
    let again = rig.manifest("app", "1").await.unwrap().unwrap();
    assert!(again.fresh.unwrap() <= ttl && again.fresh.unwrap() > ttl / 2);
    assert_eq!((again.came, again.digest), (Came::Hit, image.manifest));
    assert_eq!(registry.seen().len(), 1);
    let rig = rig.restart().await;
    let later = rig.manifest("app", "1").await.unwrap().unwrap();
    assert!(later.fresh.unwrap() <= again.fresh.unwrap(), "it does not grow younger by a restart");
}

#[tokio::test]
async fn an_old_tag_is_compared_by_one_head() {
    let registry = Registry::start();
    let image = registry.push_image("library/app", "1", "x");
    let rig = Rig::hub(&registry, always_look());
    rig.pull("app", "1").await;
    registry.seen();
    let before = epochs(&rig);
    assert_eq!(rig.pull("app", "1").await, (image.manifest, Came::Hit));
    assert_eq!(registry.seen(), ["HEAD /v2/library/app/manifests/1"]);
    assert_eq!(epochs(&rig), before, "nothing was taken away");
}

#[tokio::test]
async fn a_tag_that_moved_takes_along_what_cores_know_under_each_name() {
    let registry = Registry::start();
    let old = registry.push_image("library/app", "1", "old");
    let rig = Rig::hub(&registry, always_look());
    assert_eq!(rig.pull("app", "1").await.0, old.manifest);
    let new = registry.push_image("library/app", "1", "new");
    registry.seen();
    let before = epochs(&rig);
    assert_eq!(rig.pull("app", "1").await, (new.manifest, Came::Fill));
    let after = epochs(&rig);
    assert!(before.iter().zip(&after).all(|(before, after)| before != after), "{before:?} {after:?}");
    let by_digest = format!("GET /v2/library/app/manifests/{}", new.manifest);
    assert_eq!(registry.seen(), ["HEAD /v2/library/app/manifests/1", &by_digest]);
    // Back to one that is here: nothing has to be fetched.
    registry.push_image("library/app", "1", "old");
    assert_eq!(rig.pull("app", "1").await.0, old.manifest);
    assert_eq!(registry.seen(), ["HEAD /v2/library/app/manifests/1"]);
    assert_ne!(epochs(&rig), after);
}

#[tokio::test]
async fn a_tag_that_is_gone_is_gone_here_too() {
    let registry = Registry::start();
    let image = registry.push_image("library/app", "1", "x");
    let rig = Rig::hub(&registry, always_look());
    rig.pull("app", "1").await;
    registry.remove("/v2/library/app/manifests/1");
    let before = epochs(&rig);
    assert!(rig.manifest("app", "1").await.unwrap().is_none());
    assert!(epochs(&rig).iter().zip(&before).all(|(now, before)| now != before));
    registry.fail("", Fault::Cut);
    assert!(rig.manifest("app", "1").await.unwrap().is_none(), "the upstream's own no, also when it is away");
    assert_eq!(rig.pull("app", &image.manifest.to_string()).await.1, Came::Hit, "its digest names it still");
}

#[tokio::test]
async fn where_a_head_does_not_tell_the_digest_a_conditional_get_does() {
    let registry = Registry::start();
    let old = registry.push_image("library/app", "1", "old");
    let rig = Rig::hub(&registry, always_look());
    rig.pull("app", "1").await;
    registry.fail("HEAD", Fault::NoDigest);
    registry.seen();
    assert_eq!(rig.pull("app", "1").await, (old.manifest, Came::Hit));
    assert_eq!(registry.seen(), ["HEAD /v2/library/app/manifests/1", "GET /v2/library/app/manifests/1"]);
    let new = registry.push_image("library/app", "1", "new");
    assert_eq!(rig.pull("app", "1").await, (new.manifest, Came::Fill));
    assert_eq!(registry.seen().len(), 2, "the GET brought it along");
}

#[tokio::test]
async fn an_upstream_that_compares_nothing_moves_no_tag() {
    let registry = Registry::start();
    let image = registry.push_image("library/app", "1", "x");
    let rig = Rig::hub(&registry, always_look());
    let first = rig.manifest("app", "1").await.unwrap().unwrap();
    // It tells no digest by which anything could be compared, and sends all of it each time.
    let media_type = [("Content-Type", first.media_type.as_str().to_owned())];
    registry.put("/v2/library/app/manifests/1", &media_type, &first.bytes);
    let before = epochs(&rig);
    assert_eq!(rig.pull("app", "1").await.0, image.manifest);
    assert_eq!(epochs(&rig), before, "nothing was taken away");
    let text = rig.plane.metrics();
    for (found, count) in [("same", 1), ("moved", 0)] {
        let line =
            format!("gantry_mirror_revalidations_total{{upstream=\"docker.io\",found=\"{found}\"}} {count}");
        assert!(text.lines().any(|have| have == line), "{line} is not in\n{text}");
    }
}

#[tokio::test]
async fn an_immutable_tag_is_never_compared() {
    let registry = Registry::start();
    let image = registry.push_image("library/app", "v1.2.3", "x");
    let policy = Policy { immutable_tags: vec!["v*.*.*".to_owned()], ..always_look() };
    let rig = Rig::hub(&registry, policy);
    rig.pull("app", "v1.2.3").await;
    registry.push_image("library/app", "v1.2.3", "moved");
    registry.seen();
    let document = rig.manifest("app", "v1.2.3").await.unwrap().unwrap();
    assert_eq!((document.digest, document.came), (image.manifest, Came::Hit));
    assert_eq!(document.fresh, Some(limits::USE_NOTED_EVERY));
    assert!(registry.seen().is_empty());
}

#[tokio::test]
async fn an_old_tag_is_answered_at_once_while_it_is_compared() {
    let registry = Registry::start();
    let old = registry.push_image("library/app", "1", "old");
    let policy =
        Policy { tag_ttl: Duration::ZERO, stale_while: Duration::from_secs(3600), ..Policy::default() };
    let rig = Rig::hub(&registry, policy);
    rig.pull("app", "1").await;
    let new = registry.push_image("library/app", "1", "new");
    registry.fail("", Fault::Stall);
    let answer = rig.manifest("app", "1").await.unwrap().unwrap();
    assert_eq!((answer.digest, answer.came, answer.fresh), (old.manifest, Came::Hit, Some(Duration::ZERO)));
    registry.heal();
    eventually("the new one is here", async || rig.pull("app", "1").await.0 == new.manifest).await;
}

#[tokio::test]
async fn an_old_tag_that_many_ask_for_is_compared_once() {
    const MANY: usize = 32;
    for moves in [false, true] {
        let registry = Registry::start();
        let old = registry.push_image("library/app", "1", "old");
        let rig = Rig::new(mirror_of(vec![patient("docker.io", &registry.url, always_look())]));
        rig.pull("app", "1").await;
        let expect = if moves { registry.push_image("library/app", "1", "new") } else { old };
        registry.seen();
        registry.fail("HEAD", Fault::Stall);
        let one = || {
            let control = rig.plane.control.clone();
            tokio::spawn(async move { control.manifest(name("app"), refer("1"), NOBODY).await })
        };
        let asking: Vec<_> = (0..MANY).map(|_| one()).collect();
        let mut seen = Vec::new();
        eventually("the first asks", async || {
            seen.extend(registry.seen());
            !seen.is_empty()
        })
        .await;
        // All of them have asked by then; one who has not would ask again.
        tokio::time::sleep(Duration::from_secs(3)).await;
        registry.heal();
        for asked in asking {
            assert_eq!(asked.await.unwrap().unwrap().unwrap().digest, expect.manifest);
        }
        seen.extend(registry.seen());
        let mut expected = vec!["HEAD /v2/library/app/manifests/1".to_owned()];
        expected.extend(moves.then(|| format!("GET /v2/library/app/manifests/{}", expect.manifest)));
        assert_eq!(seen, expected);
    }
}

#[tokio::test]
async fn a_core_asks_for_a_tag_as_often_as_its_use_is_noted() {
    let registry = Registry::start();
    registry.push_image("library/app", "1", "x");
    let policy = Policy { tag_ttl: 3 * limits::USE_NOTED_EVERY, ..Policy::default() };
    let rig = Rig::hub(&registry, policy);
    for _ in 0..2 {
        let document = rig.manifest("app", "1").await.unwrap().unwrap();
        assert_eq!(document.fresh, Some(limits::USE_NOTED_EVERY));
    }
    assert_eq!(registry.seen().len(), 1);
}
