//! When the upstream is away: the old answer for as long as an operator wants, and never after its own *no*.

use std::time::Duration;

use control::Came;
use controlplane::upstream::{AllowPrivate, Credentials, Network, Offline, Policy, Secret, UpstreamSettings};
use faults::Auth;

use super::registry::{Fault, Registry};
use super::rig::{Rig, always_look, mirror_of, patient, status, upstream};

#[tokio::test]
async fn an_outage_is_answered_with_what_is_here() {
    let registry = Registry::start();
    let image = registry.push_image("library/app", "1", "x");
    let rig = Rig::hub(&registry, always_look());
    rig.pull("app", "1").await;
    registry.push_image("library/app", "1", "new");
    for fault in [Fault::Cut, Fault::Stall, Fault::Status(500), Fault::Status(502), Fault::Status(429)] {
        registry.fail("manifests", fault.clone());
        let document = rig.manifest("app", "1").await.unwrap().unwrap();
        assert_eq!((document.digest, document.came), (image.manifest, Came::Stale), "{fault:?}");
        assert_eq!(document.fresh, Some(Duration::ZERO), "the next one asks again");
        registry.heal();
    }
}

#[tokio::test]
async fn a_body_that_costs_too_much_is_answered_with_what_is_here() {
    let registry = Registry::start();
    let image = registry.push_image("library/app", "1", "x");
    let rig = Rig::hub(&registry, always_look());
    rig.pull("app", "1").await;
    registry.push_image("library/app", "1", "new");
    // The HEAD is free and says that the tag has moved; the GET is what a budget is for.
    registry.fail("GET /v2/library/app/manifests", Fault::Status(429));
    assert_eq!(rig.pull("app", "1").await, (image.manifest, Came::Stale));
}

#[tokio::test]
async fn it_is_not_answered_for_ever() {
    let registry = Registry::start();
    registry.push_image("library/app", "1", "x");
    let rig = Rig::hub(&registry, Policy { stale_max: Duration::ZERO, ..always_look() });
    rig.pull("app", "1").await;
    registry.fail("", Fault::Cut);
    assert_eq!(status(rig.manifest("app", "1").await), 503);
    // Unless an operator says so.
    let auto = Policy { stale_max: Duration::ZERO, offline: Offline::Auto, ..always_look() };
    let rig = rig.restart_with(mirror_of(vec![upstream("docker.io", &registry, auto)])).await;
    assert_eq!(rig.pull("app", "1").await.1, Came::Stale);
}

#[tokio::test]
async fn it_is_not_answered_after_the_upstreams_own_no() {
    for refusal in [404, 401, 403] {
        let registry = Registry::start();
        registry.push_image("library/app", "1", "x");
        let rig = Rig::hub(&registry, always_look());
        rig.pull("app", "1").await;
        registry.fail("manifests", Fault::Status(refusal));
        let answer = rig.manifest("app", "1").await;
        let is_no = answer.as_ref().map_or_else(|problem| problem.wire().status == 404, Option::is_none);
        assert!(is_no, "{refusal}: {answer:?}");
        registry.heal();
        registry.fail("manifests", Fault::Cut);
        let answer = rig.manifest("app", "1").await;
        assert!(!matches!(answer, Ok(Some(_))), "{refusal}: {answer:?}");
    }
}

/// A name server that gives no address which may be connected to gives none: nobody was asked, and nobody said no.
#[tokio::test]
async fn an_address_that_is_refused_is_an_outage() {
    let registry = Registry::start();
    let image = registry.push_image("library/app", "1", "x");
    let allowed = patient("docker.io", &registry.url, always_look());
    let rig = Rig::new(mirror_of(vec![allowed.clone()]));
    rig.pull("app", "1").await;
    registry.seen();
    let elsewhere = AllowPrivate::Networks(vec![Network::parse("10.0.0.0/8").unwrap()]);
    let refused = UpstreamSettings { allow_private_addresses: elsewhere, ..allowed };
    let rig = rig.restart_with(mirror_of(vec![refused])).await;
    assert_eq!(rig.pull("app", "1").await, (image.manifest, Came::Stale));
    assert_eq!(status(rig.manifest("app", "2").await), 503);
    assert!(registry.seen().is_empty());
}

/// Nobody was asked: whose certificate can't be verified has said nothing.
#[tokio::test]
async fn a_handshake_that_fails_is_an_outage() {
    let registry = faults::Registry::start_tls();
    let image = registry.push_image("library/app", "1", &[100]);
    let settings = UpstreamSettings {
        ca_pem: Some(registry.ca_pem()),
        ..patient("docker.io", &registry.url(), always_look())
    };
    let rig = Rig::new(mirror_of(vec![settings.clone()]));
    assert_eq!(rig.pull("app", "1").await, (image.index, Came::Fill));
    registry.forget();
    let rig = rig.restart_with(mirror_of(vec![UpstreamSettings { ca_pem: None, ..settings }])).await;
    assert_eq!(rig.pull("app", "1").await, (image.index, Came::Stale));
    assert_eq!(status(rig.manifest("app", "2").await), 503);
    assert_eq!(status(rig.fetch("library/app", image.layers[0][0], (0, None)).await), 503);
    assert!(registry.seen().is_empty());
}

/// Our password is not right any more: that is the upstream's own *no*, though not one about a repository.
#[tokio::test]
async fn rejected_credentials_are_no_outage() {
    let of_user = |password: &str| {
        vec![Credentials::User { username: "u".to_owned(), password: Secret::from(password) }]
    };
    for offline in [Offline::Never, Offline::Auto] {
        let registry = faults::Registry::start();
        registry.require(Auth::bearer_for("u", "first"));
        let image = registry.push_image("library/app", "1", &[100]);
        let policy = Policy { offline, ..always_look() };
        let settings = UpstreamSettings {
            credentials: of_user("first"),
            ..patient("docker.io", &registry.url(), policy)
        };
        let rig = Rig::new(mirror_of(vec![settings.clone()]));
        assert_eq!(rig.pull("app", "1").await, (image.index, Came::Fill));
        assert_eq!(rig.list("/v2/app/tags/list").await.unwrap().names("tags"), ["1"]);
        registry.require(Auth::bearer_for("u", "second"));
        registry.revoke_tokens();
        for _ in 0..2 {
            assert_eq!(status(rig.manifest("app", "1").await), 503, "{offline:?}");
        }
        // Not even the tags that were asked for by somebody are told.
        assert_eq!(status(rig.list("/v2/app/tags/list?n=1").await), 503, "{offline:?}");
        assert_eq!(status(rig.list(&format!("/v2/app/referrers/{}", image.index)).await), 503);
        assert_eq!(rig.pull("app", &image.index.to_string()).await.1, Came::Hit, "its digest names it still");
        // It was not remembered: with the right password all is well.
        let right = UpstreamSettings { credentials: of_user("second"), ..settings };
        let rig = rig.restart_with(mirror_of(vec![right])).await;
        assert_eq!(rig.pull("app", "1").await, (image.index, Came::Hit), "{offline:?}");
    }
}

#[tokio::test]
async fn what_can_not_be_right_is_no_outage() {
    let registry = Registry::start();
    registry.push_image("library/app", "1", "x");
    let rig = Rig::hub(&registry, always_look());
    rig.pull("app", "1").await;
    registry.push_image("library/app", "1", "new");
    registry.fail("GET /v2/library/app/manifests", Fault::Body(b"<html>".to_vec()));
    assert_eq!(status(rig.manifest("app", "1").await), 502);
}

#[tokio::test]
async fn an_upstream_that_is_to_be_left_alone_is_never_asked() {
    let registry = Registry::start();
    let image = registry.push_image("library/app", "1", "x");
    let rig = Rig::hub(&registry, always_look());
    rig.pull("app", "1").await;
    registry.seen();
    let offline = Policy { offline: Offline::Always, stale_max: Duration::ZERO, ..always_look() };
    let rig = rig.restart_with(mirror_of(vec![upstream("docker.io", &registry, offline)])).await;
    assert_eq!(rig.pull("app", "1").await, (image.manifest, Came::Stale));
    assert_eq!(rig.pull("app", &image.manifest.to_string()).await, (image.manifest, Came::Hit));
    assert_eq!(rig.size("app", image.layer).await, Some("layer of x".len() as u64));
    assert_eq!(status(rig.manifest("app", "2").await), 503, "nobody could look");
    assert_eq!(status(rig.describe("app", "2").await), 503);
    assert_eq!(status(rig.link("app", crate::harness::sha256("other")).await), 503);
    assert_eq!(status(rig.fetch("library/app", image.layer, (0, None)).await), 503);
    assert_eq!(rig.list("/v2/app/tags/list").await.unwrap().names("tags"), ["1"]);
    assert!(registry.seen().is_empty());
}
