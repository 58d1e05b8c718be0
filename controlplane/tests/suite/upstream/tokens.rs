//! Tokens: from the right realm, one at a time, used until they end, and fetched once more when they end early.

use std::time::Duration;

use controlplane::{
    limits,
    upstream::{Credentials, Failure, Secret, Upstream},
};
use faults::{Auth, Fault, On, Place, RealmAt, Registry};
use oci::RepositoryName;

use super::rig::*;

fn start(auth: Auth) -> Registry {
    let registry = Registry::start();
    registry.push_image(NAME, "latest", &[100_000]);
    registry.require(auth);
    registry
}

async fn works(upstream: &Upstream) -> bool {
    pull(upstream, "latest").await.unwrap().is_some()
}

fn token_requests(registry: &Registry) -> usize {
    registry.count("GET", "/token") + registry.count("POST", "/token")
}

/// `Auth::Bearer` with these changes.
fn bearer(change: impl FnOnce(&mut RealmAt, &mut Duration, &mut Option<u64>, &mut bool)) -> Auth {
    let Auth::Bearer { mut realm, login, identity, mut lives, mut expires_in, mut oauth2_name } =
        Auth::bearer()
    else {
        panic!("it is a bearer")
    };
    change(&mut realm, &mut lives, &mut expires_in, &mut oauth2_name);
    Auth::Bearer { realm, login, identity, lives, expires_in, oauth2_name }
}

#[tokio::test]
async fn a_token_is_fetched_once_and_used_again() {
    let registry = start(Auth::bearer());
    let upstream = client(&registry);
    for _ in 0..3 {
        assert!(works(&upstream).await);
    }
    assert_eq!(token_requests(&registry), 1);
    let asked = &registry.seen()[1];
    assert!(asked.target.contains("service=faults"), "{}", asked.target);
    assert!(asked.target.contains("scope=repository%3Alibrary%2Fbusybox%3Apull"), "{}", asked.target);
    assert_eq!(asked.header("authorization"), None, "nobody in particular asks");
    // Another repository wants another.
    let other = RepositoryName::parse("library/other").unwrap();
    let described = describe_in(&upstream, &other, "latest").await;
    assert_eq!((described, token_requests(&registry)), (Ok(None), 2));
}

#[tokio::test]
async fn many_who_need_one_token_fetch_one() {
    let registry = start(Auth::bearer());
    registry.script(On::get("/token"), Fault::Slow { bytes_per_s: 200 });
    let upstream = client(&registry);
    let all: Vec<_> = (0..12)
        .map(|_| {
            let upstream = upstream.clone();
            tokio::spawn(async move { works(&upstream).await })
        })
        .collect();
    for one in all {
        assert!(one.await.unwrap());
    }
    assert_eq!(token_requests(&registry), 1);
}

#[tokio::test]
async fn many_who_wait_for_a_failing_realm_fail_with_it() {
    let registry = start(Auth::bearer());
    registry.script(On::get("/token"), Fault::StallBeforeHead);
    let upstream = client_with(&registry, |all| {
        all.timeouts.token = Duration::from_secs(1);
        all.breaker_failures = 100;
    });
    let all: Vec<_> = (0..12)
        .map(|_| {
            let upstream = upstream.clone();
            tokio::spawn(async move { pull(&upstream, "latest").await })
        })
        .collect();
    for one in all {
        assert_eq!(one.await.unwrap(), Err(Failure::TimedOut));
    }
    assert!(token_requests(&registry) <= 2, "{}", token_requests(&registry));
}

#[tokio::test]
async fn both_names_of_a_token_are_read() {
    let registry = start(bearer(|_, _, _, oauth2_name| *oauth2_name = true));
    assert!(works(&client(&registry)).await);
}

#[tokio::test]
async fn a_token_that_ends_early_is_renewed_once() {
    for says in [Some(1), None] {
        let registry = start(bearer(|_, lives, expires_in, _| {
            *lives = Duration::from_millis(500);
            *expires_in = says;
        }));
        let upstream = client(&registry);
        assert!(works(&upstream).await);
        assert!(works(&upstream).await);
        assert_eq!(token_requests(&registry), 1, "it counts as 60 s");
        tokio::time::sleep(Duration::from_millis(600)).await;
        assert!(works(&upstream).await);
        assert_eq!(token_requests(&registry), 2);
        assert_eq!(upstream.metrics().read().tokens_renewed, 1);
    }
}

#[tokio::test]
async fn a_token_that_is_revoked_between_two_parts_of_a_blob_is_renewed() {
    let registry = start(Auth::bearer());
    let (digest, bytes) = blob(&registry, 500_000);
    let upstream = client(&registry);
    registry.script(On::get("/blobs/").skip(1).times(1), Fault::Reset { at: 200_000 });
    let first = fetch(&upstream, &digest, 0, None).await;
    registry.revoke_tokens();
    let rest = fetch(&upstream, &digest, first.bytes.len() as u64, None).await;
    assert!([first.bytes, rest.bytes].concat() == bytes);
    assert_eq!(token_requests(&registry), 2);
}

#[tokio::test]
async fn refusals_without_end_are_left() {
    let registry = start(Auth::Loop);
    let upstream = client(&registry);
    assert_eq!(pull(&upstream, "latest").await, Err(Failure::Denied));
    assert_eq!((token_requests(&registry), registry.count("GET", "/manifests/")), (1, 2));
    registry.forget();
    // The token is kept; it is refused, and one more is tried.
    assert_eq!(pull(&upstream, "latest").await, Err(Failure::Denied));
    assert_eq!((token_requests(&registry), registry.count("GET", "/manifests/")), (1, 2));
    // 403 needs no further token to be understood.
    registry.require(Auth::None);
    registry.script(On::get("/manifests/"), Fault::Status(403));
    assert_eq!(pull(&upstream, "latest").await, Err(Failure::Denied));
}

#[tokio::test]
async fn a_realm_of_somebody_else_is_not_asked() {
    for realm in [RealmAt::Foreign, RealmAt::Url("http://auth.docker.io".into())] {
        let registry = start(bearer(|at, _, _, _| *at = realm));
        let upstream = client_with(&registry, |all| all.credentials = vec![user("u", "p")]);
        assert!(misbehaved(&pull(&upstream, "latest").await.unwrap_err()));
        assert!(registry.seen().iter().all(|seen| seen.place == Place::Own), "not even without credentials");
        assert!(registry.seen().iter().all(|seen| seen.header("authorization").is_none()));
    }
}

#[tokio::test]
async fn a_realm_that_the_operator_named_is_asked() {
    let registry = start(bearer(|at, _, _, _| *at = RealmAt::Foreign));
    let named = registry.foreign_url().trim_start_matches("http://").to_owned();
    assert!(works(&client_with(&registry, |all| all.realms = vec![named])).await);
    let of_port = |all: &mut controlplane::upstream::UpstreamSettings| all.realms = vec!["127.0.0.1".into()];
    assert!(pull(&client_with(&registry, of_port), "latest").await.is_err(), "the port belongs to it");
}

#[tokio::test]
async fn a_realm_does_not_redirect() {
    let registry = start(Auth::bearer_for("u", "p"));
    let upstream = client_with(&registry, |all| all.credentials = vec![user("u", "p")]);
    registry.script(On::any("/token").at(Place::Own), Fault::Redirect(faults::To::Foreign));
    assert!(misbehaved(&pull(&upstream, "latest").await.unwrap_err()));
    assert!(registry.seen().iter().all(|seen| seen.place == Place::Own));
}

fn identity(identity: Option<&str>, login: Option<(&str, &str)>) -> Auth {
    let Auth::Bearer { realm, lives, expires_in, oauth2_name, .. } = Auth::bearer() else {
        panic!("it is a bearer")
    };
    let login = login.map(|(username, password)| (username.to_owned(), password.to_owned()));
    Auth::Bearer { realm, login, identity: identity.map(str::to_owned), lives, expires_in, oauth2_name }
}

#[tokio::test]
async fn an_identity_token_is_posted() {
    let registry = start(identity(Some("refresh me"), Some(("nobody", "else"))));
    let credentials = vec![Credentials::IdentityToken(Secret::from("refresh me"))];
    let upstream = client_with(&registry, |all| all.credentials = credentials);
    assert!(works(&upstream).await);
    let seen = registry.seen();
    let posted = seen.iter().find(|seen| seen.method == "POST").unwrap();
    for part in
        ["grant_type=refresh_token", "client_id=gantry", "refresh_token=refresh%20me", "service=faults"]
    {
        assert!(posted.body.contains(part), "{}", posted.body);
    }
    assert!(!posted.target.contains("refresh"), "a token does not belong in a URL");
}

#[tokio::test]
async fn a_realm_without_oauth2_is_asked_by_get() {
    // It answers 405 to the POST, and takes what Docker sends in its place.
    let registry = start(identity(None, Some(("<token>", "refresh me"))));
    let credentials = vec![Credentials::IdentityToken(Secret::from("refresh me"))];
    let upstream = client_with(&registry, |all| all.credentials = credentials);
    assert!(works(&upstream).await);
    assert_eq!((registry.count("POST", "/token"), registry.count("GET", "/token")), (1, 1));
    registry.forget();
    registry.revoke_tokens();
    registry.script(On::post("/token"), Fault::Status(404));
    assert!(works(&upstream).await);
    assert_eq!((registry.count("POST", "/token"), registry.count("GET", "/token")), (1, 1));
}

/// TOKEN_BYTES, and what else a realm may answer.
#[tokio::test]
async fn what_is_no_token_is_not_used() {
    let registry = start(Auth::bearer());
    let upstream = client(&registry);
    for (fault, expect) in [
        (Fault::Huge { bytes: limits::TOKEN_BYTES + 1 }, None),
        (Fault::Huge { bytes: 10 }, None),
        (Fault::Gzip, None),
        (Fault::Status(404), None),
        (Fault::Status(418), None),
        (Fault::Status(500), Some(Failure::Server { status: 500 })),
        (Fault::Status(401), Some(Failure::Denied)),
        (Fault::Status(403), Some(Failure::Denied)),
    ] {
        registry.script(On::any("/token"), fault.clone());
        let failure = pull(&upstream, "latest").await.unwrap_err();
        match expect {
            Some(expect) => assert_eq!(failure, expect, "{fault:?}"),
            None => assert!(misbehaved(&failure), "{fault:?}: {failure}"),
        }
        registry.heal();
    }
    assert!(works(&upstream).await);
}

#[tokio::test]
async fn a_realm_that_refuses_is_left_alone() {
    let registry = start(Auth::bearer());
    registry.script(On::any("/token"), Fault::Status(429));
    registry.script(On::any("/token"), Fault::Header("Retry-After", "3600".into()));
    let upstream = client(&registry);
    let other = RepositoryName::parse("library/other").unwrap();
    for _ in 0..3 {
        let pulled = pull(&upstream, "latest").await;
        let described = describe_in(&upstream, &other, "latest").await;
        for failure in [pulled.unwrap_err(), described.unwrap_err()] {
            let Failure::BudgetSpent { retry_after_s } = failure else { panic!("{failure}") };
            assert!((3000..=3600).contains(&retry_after_s), "{retry_after_s}");
        }
    }
    assert_eq!(token_requests(&registry), 1);
}
