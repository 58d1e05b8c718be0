//! Credentials: to the realm and nowhere else, the next when the first are rejected, and rejected ones not again.

use std::time::Duration;

use controlplane::upstream::{Credentials, Failure};
use faults::{Auth, Fault, On, Registry};

use super::rig::*;

fn start(auth: Auth) -> Registry {
    let registry = Registry::start();
    registry.push_image(NAME, "latest", &[100]);
    registry.require(auth);
    registry
}

#[tokio::test]
async fn a_password_is_shown_to_the_realm_alone() {
    let registry = start(Auth::bearer_for("u", "p:ä"));
    let upstream = client_with(&registry, |all| all.credentials = vec![user("u", "p:ä")]);
    assert!(pull(&upstream, "latest").await.unwrap().is_some());
    for seen in registry.seen() {
        let basic = seen.header("authorization").is_some_and(|value| value.starts_with("Basic "));
        assert_eq!(basic, seen.target.starts_with("/token"), "{}", seen.target);
    }
}

#[tokio::test]
async fn a_registry_without_a_realm_takes_them_itself() {
    let login = ("u".to_owned(), "p".to_owned());
    let registry = start(Auth::Basic { login });
    let upstream = client_with(&registry, |all| all.credentials = vec![user("u", "p")]);
    for _ in 0..2 {
        assert!(pull(&upstream, "latest").await.unwrap().is_some());
    }
    assert_eq!(registry.count("GET", "/manifests/"), 3, "the challenge is remembered");
    let wrong = client_with(&registry, |all| all.credentials = vec![user("u", "other")]);
    assert_eq!(pull(&wrong, "latest").await, Err(Failure::CredentialRejected));
    assert_eq!(pull(&client(&registry), "latest").await, Err(Failure::Denied));
}

#[tokio::test]
async fn rejected_credentials_are_told_and_not_tried_again_at_once() {
    let registry = start(Auth::bearer_for("u", "p"));
    let upstream = client_with(&registry, |all| all.credentials = vec![user("u", "wrong")]);
    for _ in 0..3 {
        assert_eq!(pull(&upstream, "latest").await, Err(Failure::CredentialRejected));
    }
    assert_eq!(registry.count("GET", "/token"), 1, "nobody is locked out for our asking");
    assert_eq!(upstream.metrics().read().credentials_rejected, 1);
    let impatient = client_with(&registry, |all| {
        all.credentials = vec![user("u", "wrong")];
        all.timeouts.rejected = Duration::from_millis(1);
    });
    assert_eq!(pull(&impatient, "latest").await, Err(Failure::CredentialRejected));
    registry.require(Auth::bearer_for("u", "wrong"));
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert!(pull(&impatient, "latest").await.unwrap().is_some(), "and then they are");
}

#[tokio::test]
async fn the_next_credentials_take_over() {
    let registry = start(Auth::bearer_for("second", "p"));
    let upstream =
        client_with(&registry, |all| all.credentials = vec![user("first", "p"), user("second", "p")]);
    for _ in 0..2 {
        assert!(pull(&upstream, "latest").await.unwrap().is_some());
    }
    assert_eq!(registry.count("GET", "/token"), 2, "one try, one token");
}

#[tokio::test]
async fn a_realm_that_refuses_one_repository_does_not_reject_us() {
    let registry = start(Auth::bearer_for("u", "p"));
    registry.script(On::any("scope="), Fault::Status(403));
    let upstream = client_with(&registry, |all| all.credentials = vec![user("u", "p")]);
    assert_eq!(pull(&upstream, "latest").await, Err(Failure::Denied));
    registry.script(On::any("/token"), Fault::Status(403));
    assert_eq!(pull(&upstream, "latest").await, Err(Failure::CredentialRejected));
}

#[tokio::test]
async fn a_command_gives_credentials() {
    let registry = start(Auth::bearer_for("u", "p"));
    let argv = ["sh", "-c", r#"read host; echo "{\"Username\":\"u\",\"Secret\":\"p\"}""#].map(str::to_owned);
    let credentials = vec![Credentials::Command { argv: argv.to_vec() }];
    let upstream = client_with(&registry, |all| all.credentials = credentials);
    assert!(pull(&upstream, "latest").await.unwrap().is_some());
}
