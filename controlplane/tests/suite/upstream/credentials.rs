//! Credentials: to the realm and nowhere else, the next when the first are rejected, and rejected ones not again.

use std::{path::PathBuf, time::Duration};

use controlplane::upstream::{Credentials, Failure, Secret};
use faults::{Auth, Fault, On, Registry};
use oci::RepositoryName;

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
    let asked = registry.count("GET", "/token");
    assert_eq!(
        asked, 2,
        "for this repository and for nothing in particular: nobody is locked out for our asking"
    );
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
    assert_eq!(registry.count("GET", "/token"), 3, "two tries, one token");
}

#[tokio::test]
async fn of_two_credentials_those_that_were_shown_are_the_rejected_ones() {
    let registry = start(Auth::bearer_for("one", "p"));
    // The first has spent its budget, the second is wrong.
    let on = On::get("/manifests/").skip(1).times(1);
    registry.script(on.clone(), Fault::Status(429));
    registry.script(on, Fault::Header("Retry-After", "60".into()));
    let upstream = client_with(&registry, |all| {
        all.credentials = vec![user("one", "p"), user("two", "wrong")];
        all.spend_all_budgets = true;
    });
    assert!(matches!(pull(&upstream, "latest").await, Err(Failure::BudgetSpent { .. })));
    assert_eq!(upstream.metrics().read().credentials_rejected, 1);
    let described = describe(&upstream, "latest").await;
    assert!(described.unwrap().is_some(), "a HEAD costs the first nothing, and its password is right");
}

#[tokio::test]
async fn a_realm_that_refuses_one_repository_does_not_reject_us() {
    let basic = user("u", "p");
    let identity = Credentials::IdentityToken(Secret::from("refresh me"));
    for (credentials, status) in
        [(&basic, 401), (&basic, 403), (&identity, 400), (&identity, 401), (&identity, 403)]
    {
        let auth = match Auth::bearer_for("u", "p") {
            Auth::Bearer { realm, login, lives, expires_in, oauth2_name, .. } => {
                let identity = Some("refresh me".to_owned());
                Auth::Bearer { realm, login, identity, lives, expires_in, oauth2_name }
            }
            _ => unreachable!("it is a bearer"),
        };
        let registry = start(auth);
        let (form, scope) = match credentials {
            Credentials::IdentityToken(_) => (On::post("/token").times(1), On::post("/nowhere")),
            _ => (On::post("/nowhere"), On::any("scope=repository%3Alibrary%2Fsecret")),
        };
        registry.script(form, Fault::Status(status));
        registry.script(scope, Fault::Status(status));
        let upstream = client_with(&registry, |all| all.credentials = vec![credentials.clone()]);
        let secret = RepositoryName::parse("library/secret").unwrap();
        let described = describe_in(&upstream, &secret, "latest").await;
        assert_eq!(described, Err(Failure::Denied), "{status}");
        assert!(pull(&upstream, "latest").await.unwrap().is_some(), "another repository, {status}");
        registry.heal();
        registry.revoke_tokens();
        registry.script(On::any("/token"), Fault::Status(status));
        assert_eq!(pull(&upstream, "latest").await, Err(Failure::CredentialRejected), "{status}");
    }
}

#[tokio::test]
async fn a_command_gives_credentials() {
    let registry = start(Auth::bearer_for("u", "p"));
    let argv = ["sh", "-c", r#"read host; echo "{\"Username\":\"u\",\"Secret\":\"p\"}""#].map(str::to_owned);
    let credentials = vec![Credentials::Command { argv: argv.to_vec() }];
    let upstream = client_with(&registry, |all| all.credentials = credentials);
    assert!(pull(&upstream, "latest").await.unwrap().is_some());
}

/// A file of this process's own.
fn file(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("gantry-{name}-{}", std::process::id()))
}

#[tokio::test]
async fn what_a_command_prints_next_is_used_at_once() {
    let basic = |password: &str| Auth::Basic { login: ("u".to_owned(), password.to_owned()) };
    let bearer = |password: &str| Auth::bearer_for("u", password);
    let auths: [&dyn Fn(&str) -> Auth; 2] = [&basic, &bearer];
    let printed = file("printed");
    for auth in auths {
        std::fs::write(&printed, "u:first\n").unwrap();
        let registry = start(auth("first"));
        let argv = vec!["cat".to_owned(), printed.display().to_string()];
        let upstream = client_with(&registry, |all| all.credentials = vec![Credentials::Command { argv }]);
        for repository in ["library/busybox", "library/other"] {
            let repository = RepositoryName::parse(repository).unwrap();
            describe_in(&upstream, &repository, "latest").await.unwrap();
        }
        std::fs::write(&printed, "u:second\n").unwrap();
        registry.require(auth("second"));
        registry.revoke_tokens();
        for _ in 0..2 {
            assert!(pull(&upstream, "latest").await.unwrap().is_some());
        }
        assert_eq!(upstream.metrics().read().credentials_rejected, 1, "the old ones, once");
    }
    std::fs::remove_file(printed).unwrap();
}

#[tokio::test]
async fn a_command_that_hangs_runs_once_for_all_who_wait() {
    let registry = start(Auth::bearer_for("u", "p"));
    let runs = file("hanging-runs");
    let argv = ["sh", "-c", &format!("echo >> {}; exec sleep 600", runs.display())].map(str::to_owned);
    let upstream = client_with(&registry, |all| {
        all.credentials = vec![Credentials::Command { argv: argv.to_vec() }];
        all.timeouts.token = Duration::from_secs(5);
    });
    let all: Vec<_> = (0..12)
        .map(|n| {
            let upstream = upstream.clone();
            tokio::spawn(async move {
                let name = RepositoryName::parse(&format!("library/r{n}")).unwrap();
                describe_in(&upstream, &name, "latest").await
            })
        })
        .collect();
    for one in all {
        assert_eq!(one.await.unwrap(), Err(Failure::CredentialRejected));
    }
    assert_eq!(std::fs::read(&runs).unwrap().len(), 1);
    std::fs::remove_file(runs).unwrap();
}
