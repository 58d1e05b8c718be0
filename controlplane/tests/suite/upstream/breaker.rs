//! What is no failure keeps the breaker closed; when it opens, and for how long, is told in `defaults.rs`.

use controlplane::upstream::Failure;
use faults::{Fault, On, Registry};

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
