//! Every wait ends: no connection, no head, no token, no body; and the values that an operator has are those that were meant.

use std::time::{Duration, Instant};

use controlplane::upstream::{Failure, Timeouts};
use faults::{Auth, Fault, On, Registry};

use super::rig::*;

#[test]
fn the_values_are_those_that_were_agreed_on() {
    let seconds = |time: Duration| time.as_secs();
    let all = Timeouts::default();
    assert_eq!(
        [all.connect, all.first_byte, all.stall, all.token, all.budget_wait].map(seconds),
        [5, 30, 30, 10, 15]
    );
    assert_eq!(all.divided_by(100).connect, Duration::from_millis(50));
}

#[tokio::test]
async fn a_silent_upstream_is_not_waited_for() {
    let registry = Registry::start();
    registry.push_image(NAME, "latest", &[100]);
    let (digest, _) = blob(&registry, 1000);
    let upstream = client_with(&registry, |all| all.timeouts = all.timeouts.divided_by(100));
    registry.script(On::any("/v2/"), Fault::StallBeforeHead);
    let begun = Instant::now();
    assert_eq!(pull(&upstream, "latest").await, Err(Failure::TimedOut));
    assert_eq!(refused(&upstream, &digest, 0, None).await, Failure::TimedOut);
    assert_eq!(upstream.describe_blob(&repository(), &digest).await, Err(Failure::TimedOut));
    // Not what it would be with a timeout that was forgotten.
    assert!(begun.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn a_document_that_stalls_or_crawls_is_given_up() {
    let registry = Registry::start();
    registry.push_image(NAME, "latest", &[100]);
    for (fault, change) in [
        (Fault::Stall { at: 10 }, (|all| all.stall = Duration::from_millis(300)) as fn(&mut Timeouts)),
        (Fault::Slow { bytes_per_s: 20 }, |all| all.document = Duration::from_millis(300)),
    ] {
        let upstream = client_with(&registry, |all| change(&mut all.timeouts));
        registry.script(On::get("/manifests/"), fault.clone());
        assert_eq!(pull(&upstream, "latest").await, Err(Failure::TimedOut), "{fault:?}");
        registry.heal();
    }
}

#[tokio::test]
async fn a_silent_realm_is_not_waited_for() {
    let registry = Registry::start();
    registry.push_image(NAME, "latest", &[100]);
    registry.require(Auth::bearer());
    let upstream = client_with(&registry, |all| all.timeouts.token = Duration::from_millis(200));
    registry.script(On::any("/token"), Fault::StallBeforeHead);
    assert_eq!(pull(&upstream, "latest").await, Err(Failure::TimedOut));
    registry.heal();
    assert!(pull(&upstream, "latest").await.unwrap().is_some());
}

#[tokio::test]
async fn no_connection_and_a_reset_are_told_at_once() {
    let registry = Registry::start();
    registry.push_image(NAME, "latest", &[100]);
    let upstream = client(&registry);
    registry.refuse();
    assert!(is_unreachable(&pull(&upstream, "latest").await.unwrap_err()));
    registry.heal();
    registry.script(On::any("/v2/"), Fault::ResetBeforeHead);
    assert!(is_unreachable(&pull(&upstream, "latest").await.unwrap_err()));
    registry.heal();
    assert!(pull(&upstream, "latest").await.unwrap().is_some());
}

#[tokio::test]
async fn a_host_without_an_address_is_unreachable() {
    let registry = Registry::start();
    let upstream = client_with(&registry, |all| all.url = "http://nowhere.invalid:1".into());
    let described = describe(&upstream, "latest").await;
    assert!(is_unreachable(&described.unwrap_err()));
}
