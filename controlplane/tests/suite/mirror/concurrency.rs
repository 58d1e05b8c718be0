//! Questions that wait for an upstream hold up nobody else, and have a bound of their own.

use std::time::Duration;

use bytes::Bytes;
use control::Forward;
use controlplane::limits;
use controlplane::upstream::{Policy, UpstreamSettings};
use oci::{Digest, Endpoint, Method, Problem};
use tokio::task::JoinHandle;

use super::registry::{Fault, Registry};
use super::rig::{Rig, eventually, mirror_of, status, upstream};
use crate::harness::{NOBODY, name, sha256};

/// An upstream that never answers, with time to show it.
fn patient(ns: &str, registry: &Registry) -> UpstreamSettings {
    let settings = upstream(ns, registry, Policy::default());
    let timeouts = UpstreamSettings::new(ns, &registry.url).timeouts;
    UpstreamSettings { timeouts, ..settings }
}

type Asked = JoinHandle<Result<Option<control::Link>, Problem>>;

/// Asks for so many different blobs of `repository` at once.
fn ask(rig: &Rig, repository: &'static str, blobs: usize) -> Vec<Asked> {
    let one = |number: usize| {
        let control = rig.plane.control.clone();
        let digest: Digest = sha256(&number.to_string());
        tokio::spawn(async move {
            loop {
                // The lane is shorter than the bound; who finds it full comes again.
                match control.link(name(repository), digest, NOBODY).await {
                    Err(Problem::Overloaded { .. }) => tokio::time::sleep(Duration::from_millis(5)).await,
                    answer => return answer,
                }
            }
        })
    };
    (0..blobs).map(one).collect()
}

#[tokio::test]
async fn a_commit_does_not_wait_behind_a_slow_upstream() {
    let slow = Registry::start();
    let quick = Registry::start();
    let image = quick.push_image("org/app", "1", "x");
    let rig = Rig::new(mirror_of(vec![
        patient("docker.io", &slow),
        upstream("ghcr.io", &quick, Policy::default()),
    ]));
    slow.fail("", Fault::Stall);
    let waiting = ask(&rig, "docker.io/org/app", limits::WAITS_PER_UPSTREAM);
    // Now one more finds no room, for as long as they wait.
    eventually("the bound is reached", async || {
        let one = rig.plane.control.link(name("docker.io/org/app"), sha256("one more"), NOBODY);
        matches!(
            tokio::time::timeout(Duration::from_millis(50), one).await,
            Ok(Err(Problem::Overloaded { .. }))
        )
    })
    .await;
    rig.plane.push("acme/app", "mine").await;
    assert_eq!(rig.plane.link("acme/app", sha256("mine")).await, Some(4));
    rig.plane.push_image("acme/app", "1", "mine").await;
    assert_eq!(rig.plane.list("/v2/acme/app/tags/list").await.names("tags"), ["1"]);
    assert_eq!(rig.pull("ghcr.io/org/app", "1").await.0, image.manifest, "nor does another upstream");
    assert_eq!(
        status(rig.list("/v2/docker.io/org/app/tags/list").await),
        503,
        "one bound for all its questions"
    );
    assert!(waiting.iter().all(|one| !one.is_finished()));
    slow.heal();
    for one in waiting {
        assert_eq!(one.await.unwrap(), Ok(None));
    }
}

#[tokio::test]
async fn lists_of_a_slow_upstream_hold_up_no_other_list() {
    let registry = Registry::start();
    let rig = Rig::new(mirror_of(vec![patient("docker.io", &registry)]));
    registry.fail("", Fault::Stall);
    let list = |number: usize| {
        let control = rig.plane.control.clone();
        let target = format!("/v2/docker.io/org/app{number}/tags/list");
        let endpoint = Endpoint::parse(Method::Get, target.as_bytes()).unwrap();
        tokio::spawn(async move {
            let (method, body, principal, caller) = (Method::Get, Bytes::new(), NOBODY, None);
            let request = |answer| Forward { endpoint, method, target, body, principal, caller, answer };
            control.forward(request).await
        })
    };
    let waiting: Vec<_> = (0..2 * limits::FORWARDS_AT_ONCE).map(list).collect();
    eventually("they wait", async || !registry.seen().is_empty()).await;
    assert_eq!(rig.list("/v2/_catalog").await.unwrap().status, 200);
    assert!(waiting.iter().all(|one| !one.is_finished()));
    registry.heal();
    for one in waiting {
        assert_eq!(status(one.await.unwrap()), 404);
    }
}

#[tokio::test]
async fn a_stop_does_not_wait_for_an_upstream() {
    let registry = Registry::start();
    let rig = Rig::new(mirror_of(vec![patient("docker.io", &registry)]));
    registry.fail("", Fault::Stall);
    let waiting = ask(&rig, "docker.io/org/app", 1);
    eventually("it waits", async || !registry.seen().is_empty()).await;
    // Longer than this it would be the upstream's timeout.
    let closed = tokio::time::timeout(Duration::from_secs(20), async {
        rig.plane.control.close();
        rig.plane.close().await;
    });
    assert!(closed.await.is_ok());
    waiting.into_iter().for_each(|one| one.abort());
}

#[tokio::test]
async fn a_hot_old_tag_of_a_slow_upstream_holds_up_no_other_tag() {
    let slow = Registry::start();
    let quick = Registry::start();
    let policy = Policy { tag_ttl: Duration::ZERO, ..Policy::default() };
    let hangs = |ns, registry: &Registry| {
        let mut settings = upstream(ns, registry, policy.clone());
        settings.timeouts.first_byte = Duration::from_secs(3600);
        settings
    };
    let rig = Rig::new(mirror_of(vec![hangs("docker.io", &slow), hangs("ghcr.io", &quick)]));
    for (registry, repository) in [(&slow, "docker.io/org/app"), (&quick, "ghcr.io/org/app")] {
        registry.push_image("org/app", "hot", "x");
        registry.push_image("org/app", "other", "x");
        rig.pull(repository, "hot").await;
        rig.pull(repository, "other").await;
    }
    slow.seen();
    slow.fail("", Fault::Stall);
    for _ in 0..2 * limits::BEHIND_AT_ONCE {
        rig.pull("docker.io/org/app", "hot").await;
    }
    let new = quick.push_image("org/app", "other", "new").manifest;
    eventually("another upstream's is compared", async || {
        rig.pull("ghcr.io/org/app", "other").await.0 == new
    })
    .await;
    eventually("so is another one of the same upstream", async || {
        rig.pull("docker.io/org/app", "other").await;
        slow.seen().iter().any(|line| line.ends_with("/other"))
    })
    .await;
}
