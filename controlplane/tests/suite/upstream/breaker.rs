//! An upstream that fails again and again is left alone for a while, and found again by one probe.

use std::time::{Duration, Instant};

use controlplane::upstream::Failure;
use faults::{Fault, On, Registry};

use super::rig::*;

#[tokio::test]
async fn it_opens_and_closes_again() {
    let registry = Registry::start();
    registry.push_image(NAME, "latest", &[100]);
    let upstream = client_with(&registry, |all| {
        all.breaker_failures = 3;
        all.timeouts.breaker = Duration::from_secs(1);
    });
    registry.script(On::any("/v2/"), Fault::Status(503));
    for _ in 0..3 {
        assert_eq!(pull(&upstream, "latest").await, Err(Failure::Server { status: 503 }));
    }
    assert_eq!(pull(&upstream, "latest").await, Err(Failure::Breaker { retry_after_s: 1 }));
    assert_eq!(registry.count("GET", ""), 3, "it is left alone");
    registry.heal();
    let begun = Instant::now();
    while pull(&upstream, "latest").await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(registry.count("GET", ""), 4, "one probe was enough");
    assert_eq!(upstream.metrics().read().breaker_openings, 1);
}

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
