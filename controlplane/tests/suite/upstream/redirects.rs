//! Redirects: followed a few times, without credentials, never from https to http, and never remembered.

use controlplane::{limits, upstream::Failure};
use faults::{Auth, Fault, On, Place, Registry, To};

use super::rig::*;

fn credentials_at(registry: &Registry, place: Place) -> usize {
    let secret = |seen: &&faults::Seen| {
        seen.place == place && ["authorization", "cookie"].iter().any(|name| seen.header(name).is_some())
    };
    registry.seen().iter().filter(secret).count()
}

#[tokio::test]
async fn blobs_and_documents_are_fetched_from_where_they_are_without_credentials() {
    let registry = Registry::start();
    let image = registry.push_image(NAME, "latest", &[5000]);
    registry.require(Auth::bearer_for("u", "p"));
    registry.script(On::get("/v2/").at(Place::Own), Fault::Redirect(To::Foreign));
    // A redirect needs no token at a registry that asks for none; here it comes after the challenge.
    registry.script(On::any("/v2/").at(Place::Own), Fault::Header("X-Seen", "yes".into()));
    let upstream = client_with(&registry, |all| all.credentials = vec![user("u", "p")]);
    assert!(pull(&upstream, "latest").await.unwrap().is_some());
    let layer = image.layers[0][0];
    assert_eq!(fetch(&upstream, &layer, 0, None).await.bytes.len(), 5000);
    assert_eq!(fetch(&upstream, &layer, 100, Some(200)).await.bytes.len(), 100);
    assert!(registry.seen().iter().any(|seen| seen.place == Place::Foreign));
    assert_eq!(credentials_at(&registry, Place::Foreign), 0);
}

#[tokio::test]
async fn a_token_is_sent_to_the_registry_and_not_along() {
    let registry = Registry::start();
    let image = registry.push_image(NAME, "latest", &[5000]);
    registry.require(Auth::bearer_for("u", "p"));
    let upstream = client_with(&registry, |all| all.credentials = vec![user("u", "p")]);
    // The token is had first, so that it is there to be given away.
    assert!(pull(&upstream, "latest").await.unwrap().is_some());
    assert!(credentials_at(&registry, Place::Own) > 0);
    registry.script(On::get("/blobs/").at(Place::Own), Fault::Redirect(To::Foreign));
    for _ in 0..3 {
        assert_eq!(fetch(&upstream, &image.layers[0][0], 0, None).await.bytes.len(), 5000);
    }
    let at = |place| {
        registry.seen().iter().filter(|seen| seen.place == place && seen.target.contains("/blobs/")).count()
    };
    assert_eq!((at(Place::Own), at(Place::Foreign)), (3, 3), "each request begins at the registry");
    assert_eq!(credentials_at(&registry, Place::Foreign), 0);
}

#[tokio::test]
async fn a_redirect_without_end_is_left() {
    let registry = Registry::start();
    let (digest, _) = blob(&registry, 1000);
    let upstream = client(&registry);
    for to in [To::Itself, To::Foreign] {
        registry.forget();
        registry.script(On::get("/blobs/"), Fault::Redirect(to));
        let failure = refused(&upstream, &digest, 0, None).await;
        assert!(matches!(failure, Failure::RedirectRefused { .. }), "{failure}");
        assert_eq!(registry.count("GET", "/blobs/"), limits::REDIRECTS + 1);
        registry.heal();
    }
    // As many as are allowed.
    registry.script(On::get("/blobs/").times(limits::REDIRECTS as u32), Fault::Redirect(To::Itself));
    assert!(fetch(&upstream, &digest, 0, None).await.broken.is_none());
}

#[tokio::test]
async fn https_is_not_left() {
    let registry = Registry::start_tls();
    let (digest, _) = blob(&registry, 1000);
    let upstream = client_with(&registry, |all| all.ca_pem = Some(registry.ca_pem()));
    registry.script(On::get("/blobs/").at(Place::Own), Fault::Redirect(To::PlainForeign));
    let failure = refused(&upstream, &digest, 0, None).await;
    assert!(matches!(failure, Failure::RedirectRefused { .. }), "{failure}");
    registry.heal();
    registry.script(On::get("/blobs/").at(Place::Own), Fault::Redirect(To::Foreign));
    assert!(fetch(&upstream, &digest, 0, None).await.broken.is_none());
}

#[tokio::test]
async fn a_target_that_refuses_is_resolved_once_more() {
    let registry = Registry::start();
    let (digest, bytes) = blob(&registry, 1000);
    registry.require(Auth::bearer());
    registry.script(On::get("/token"), Fault::Header("X-Seen", "yes".into()));
    let upstream = client(&registry);
    fetch(&upstream, &digest, 0, None).await;
    for status in [401, 403] {
        registry.forget();
        registry.script(On::get("/blobs/").at(Place::Own), Fault::Redirect(To::Foreign));
        registry.script(On::get("/blobs/").at(Place::Foreign).times(1), Fault::Status(status));
        assert!(fetch(&upstream, &digest, 0, None).await.bytes == bytes, "{status}");
        assert_eq!(registry.count("GET", "/blobs/"), 4, "two resolves, two targets");
        assert_eq!(registry.count("GET", "/token"), 1, "with a fresh token");
        registry.forget();
        registry.script(On::get("/blobs/").at(Place::Foreign), Fault::Status(status));
        assert!(misbehaved(&refused(&upstream, &digest, 0, None).await));
        assert_eq!(registry.count("GET", "/blobs/"), 4, "and not again");
        registry.heal();
    }
}

#[tokio::test]
async fn a_location_that_leads_nowhere_is_refused() {
    let registry = Registry::start();
    let (digest, _) = blob(&registry, 1000);
    let upstream = client(&registry);
    let long = format!("/{}", "a".repeat(limits::URL_BYTES));
    for location in ["ftp://127.0.0.1/", "http://u:p@127.0.0.1/", "javascript:1", "http://", long.as_str()] {
        registry.script(On::get("/blobs/"), Fault::Redirect(To::Url(location.into())));
        let failure = refused(&upstream, &digest, 0, None).await;
        assert!(matches!(failure, Failure::RedirectRefused { .. }), "{failure}");
        registry.heal();
    }
    registry.script(On::get("/blobs/"), Fault::Redirect(To::Itself));
    registry.script(On::get("/blobs/"), Fault::WithoutHeader("location"));
    assert!(matches!(refused(&upstream, &digest, 0, None).await, Failure::RedirectRefused { .. }));
}

/// DISCARD_BYTES: the body of a redirect is not read to its end.
#[tokio::test]
async fn the_body_of_a_redirect_is_not_waited_for() {
    let registry = Registry::start();
    let (digest, bytes) = blob(&registry, 1000);
    let upstream = client(&registry);
    for fault in [Fault::Huge { bytes: 64 << 20 }, Fault::Stall { at: 10 }] {
        registry.script(On::get("/blobs/").at(Place::Own), Fault::Redirect(To::Foreign));
        registry.script(On::get("/blobs/").at(Place::Own), fault);
        assert!(fetch(&upstream, &digest, 0, None).await.bytes == bytes);
        registry.heal();
    }
    let sent: Vec<u64> = registry.seen().iter().map(faults::Seen::sent_bytes).collect();
    assert!(sent[0] >= limits::DISCARD_BYTES as u64 && sent[0] < 32 << 20, "{sent:?}");
}
