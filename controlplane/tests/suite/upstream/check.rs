//! What `gantry doctor` is told about an upstream.

use controlplane::upstream::{AllowPrivate, Failure, Network};
use faults::{Auth, Fault, On, Registry};

use super::rig::*;

#[tokio::test]
async fn each_step_says_what_it_found() {
    let registry = Registry::start();
    registry.require(Auth::bearer_for("u", "p"));
    let check = client_with(&registry, |all| all.credentials = vec![user("u", "p")]).check().await;
    assert_eq!(check.addresses, Ok("127.0.0.1".to_owned()));
    assert!(check.registry.is_ok() && check.token.is_ok(), "{check:?}");
    let check = client_with(&registry, |all| all.credentials = vec![user("u", "no")]).check().await;
    assert!(check.registry.is_ok());
    assert_eq!(check.token, Err(Failure::CredentialRejected));
    registry.script(On::any("/v2/"), Fault::Status(500));
    let check = client(&registry).check().await;
    assert_eq!(check.registry, Err(Failure::Server { status: 500 }));
    registry.refuse();
    assert!(is_unreachable(&client(&registry).check().await.registry.unwrap_err()));
}

#[tokio::test]
async fn a_url_that_leads_to_no_registry_is_told() {
    let registry = Registry::start();
    registry.require(Auth::bearer_for("u", "p"));
    for status in [404, 416] {
        registry.script(On::any("/v2/"), Fault::Status(status));
        let check = client_with(&registry, |all| all.credentials = vec![user("u", "p")]).check().await;
        assert!(misbehaved(&check.registry.unwrap_err()), "{status}");
        assert!(check.token.is_err());
        registry.heal();
    }
    // What comes before /v2/ is no registry here.
    let check = client_with(&registry, |all| all.url.push_str("/elsewhere")).check().await;
    assert!(check.registry.is_err());
}

#[tokio::test]
async fn an_address_that_is_refused_is_the_first_step() {
    let registry = Registry::start();
    let elsewhere = AllowPrivate::Networks(vec![Network::parse("10.0.0.0/8").unwrap()]);
    let check = client_with(&registry, |all| all.allow_private_addresses = elsewhere).check().await;
    assert_eq!(check.addresses, Err(Failure::AddressRefused));
    assert_eq!(check.registry, Err(Failure::AddressRefused));
    assert_eq!(registry.seen().len(), 0);
}
