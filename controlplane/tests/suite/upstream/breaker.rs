//! What is no failure keeps the breaker closed; when it opens, and for how long, is told in `defaults.rs`.

use std::time::Duration;

use controlplane::upstream::Failure;
use faults::{Fault, On, Place, Registry, To};

use super::rig::*;

#[tokio::test]
async fn answers_of_any_kind_keep_it_closed() {
    let registry = Registry::start();
    let upstream = client_with(&registry, |all| all.breaker_failures = 2);
    for _ in 0..3 {
        for fault in [Fault::Status(404), Fault::Status(403), Fault::Status(400), Fault::Status(503)] {
            registry.script(On::any("/v2/").times(1), fault);
            let pulled = pull(&upstream, "latest").await;
            assert!(!matches!(pulled, Err(Failure::Breaker { .. })), "{pulled:?}");
        }
    }
}

#[tokio::test]
async fn a_question_that_asked_nobody_says_nothing() {
    let registry = Registry::start();
    registry.push_image(NAME, "latest", &[100]);
    let (digest, _) = blob(&registry, 1000);
    let upstream = client_with(&registry, |all| {
        all.breaker_failures = 2;
        all.timeouts.breaker = Duration::from_millis(1);
    });
    let on = On::get("/manifests/").times(1);
    registry.script(on.clone(), Fault::Status(429));
    registry.script(on, Fault::Header("Retry-After", "3600".into()));
    let spent = |failure: Failure| matches!(failure, Failure::BudgetSpent { .. });
    assert!(spent(pull(&upstream, "latest").await.unwrap_err()));
    registry.refuse();
    for _ in 0..2 {
        assert!(is_unreachable(&refused(&upstream, &digest, 0, None).await));
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert!(spent(pull(&upstream, "latest").await.unwrap_err()), "it may not be asked");
    // Were it closed by that, it would take two failures to open it again.
    assert!(is_unreachable(&refused(&upstream, &digest, 0, None).await));
    assert_eq!(upstream.metrics().read().breaker_openings, 2, "by the first two, and by one probe");
}

#[tokio::test]
async fn another_host_that_fails_leaves_it_closed() {
    for fault in [Fault::Status(503), Fault::ResetBeforeHead] {
        let registry = Registry::start();
        registry.push_image(NAME, "latest", &[100]);
        let (digest, _) = blob(&registry, 1000);
        let upstream = client_with(&registry, |all| all.breaker_failures = 2);
        registry.script(On::get("/blobs/").at(Place::Own), Fault::Redirect(To::Foreign));
        registry.script(On::get("/blobs/").at(Place::Foreign), fault.clone());
        for _ in 0..3 {
            let failure = refused(&upstream, &digest, 0, None).await;
            assert!(
                failure.is_outage() && !matches!(failure, Failure::Breaker { .. }),
                "{fault:?}: {failure}"
            );
        }
        assert!(pull(&upstream, "latest").await.unwrap().is_some(), "{fault:?}");
    }
}
