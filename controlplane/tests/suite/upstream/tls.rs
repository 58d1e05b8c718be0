//! TLS: to whom the certificate belongs, and who signed it.

use controlplane::upstream::{ClientCertificate, Failure, Secret};
use faults::{Auth, Fault, On, Place, Registry, To};

use super::rig::*;

#[tokio::test]
async fn the_operator_s_authority_is_trusted() {
    let registry = Registry::start_tls();
    registry.push_image(NAME, "latest", &[10]);
    registry.require(Auth::bearer_for("u", "p"));
    let upstream = client_with(&registry, |all| {
        all.ca_pem = Some(registry.ca_pem());
        all.credentials = vec![user("u", "p")];
    });
    assert!(pull(&upstream, "latest").await.unwrap().is_some());
}

#[tokio::test]
async fn others_are_not() {
    let (registry, other) = (Registry::start_tls(), Registry::start_tls());
    for ca in [None, Some(other.ca_pem())] {
        let upstream = client_with(&registry, |all| all.ca_pem = ca);
        let failure = pull(&upstream, "latest").await.unwrap_err();
        let Failure::Unreachable { why } = &failure else { panic!("{failure}") };
        assert!(why.contains("certificate"), "{why}");
    }
    assert_eq!(registry.seen().len(), 0);
}

#[tokio::test]
async fn a_name_that_is_not_in_the_certificate_is_refused() {
    let registry = Registry::start_tls();
    let upstream = client_with(&registry, |all| {
        all.ca_pem = Some(registry.ca_pem());
        all.url = all.url.replace("127.0.0.1", "127.0.0.2");
    });
    assert!(is_unreachable(&pull(&upstream, "latest").await.unwrap_err()));
    assert_eq!(registry.seen().len(), 0);
}

#[tokio::test]
async fn plain_http_where_tls_is_spoken_and_the_other_way_round() {
    let registry = Registry::start_tls();
    let plain = client_with(&registry, |all| all.url = all.url.replace("https:", "http:"));
    let failure = pull(&plain, "latest").await.unwrap_err();
    assert!(is_unreachable(&failure) || misbehaved(&failure), "{failure}");
    let registry = Registry::start();
    let secured = client_with(&registry, |all| {
        all.url = all.url.replace("http:", "https:");
        all.timeouts.connect = std::time::Duration::from_millis(500);
    });
    // It waits for the end of a head that never comes.
    assert_eq!(pull(&secured, "latest").await, Err(Failure::TimedOut));
    assert_eq!(registry.seen().len(), 0);
}

#[tokio::test]
async fn a_client_certificate_is_shown_to_the_registry_and_to_no_other_host() {
    let registry = Registry::start_tls();
    let (digest, bytes) = blob(&registry, 1000);
    registry.script(On::get("/blobs/").at(Place::Own), Fault::Redirect(To::Foreign));
    let [chain, key] = registry.client_pem();
    let upstream = client_with(&registry, |all| {
        all.ca_pem = Some(registry.ca_pem());
        all.client_certificate =
            Some(ClientCertificate { chain_pem: chain.into_bytes(), key_pem: Secret::new(key) });
    });
    assert!(fetch(&upstream, &digest, 0, None).await.bytes == bytes);
    let shown: Vec<(Place, bool)> =
        registry.seen().iter().map(|seen| (seen.place, seen.showed_certificate)).collect();
    assert_eq!(shown, [(Place::Own, true), (Place::Foreign, false)]);
}
