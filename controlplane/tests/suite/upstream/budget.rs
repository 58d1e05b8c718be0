//! The upstream's budget: read, waited for when that helps, and told when it does not.

use std::time::Duration;

use controlplane::upstream::Failure;
use faults::{Fault, On, Place, Registry, To};

use super::rig::*;

fn start() -> Registry {
    let registry = Registry::start();
    registry.push_image(NAME, "latest", &[100]);
    registry
}

fn refuse(registry: &Registry, on: On, retry_after: Option<&str>) {
    registry.script(on.clone(), Fault::Status(429));
    if let Some(value) = retry_after {
        registry.script(on, Fault::Header("Retry-After", value.to_owned()));
    }
}

#[tokio::test]
async fn what_the_upstream_says_is_read() {
    let registry = start();
    let upstream = client(&registry);
    pull(&upstream, "latest").await.unwrap();
    assert_eq!(upstream.budget().remaining, None, "unknown is not zero");
    registry.script(On::any("/manifests/"), Fault::Header("ratelimit-limit", "100;w=21600".into()));
    registry.script(On::any("/manifests/"), Fault::Header("ratelimit-remaining", "76;w=21600".into()));
    describe(&upstream, "latest").await.unwrap();
    let budget = upstream.budget();
    assert_eq!((budget.limit, budget.remaining, budget.window_s), (Some(100), Some(76), Some(21600)));
}

#[tokio::test]
async fn a_short_refusal_is_waited_out() {
    let registry = start();
    let upstream = client(&registry);
    for retry_after in [Some("1"), Some("0"), None] {
        refuse(&registry, On::get("/manifests/").times(1), retry_after);
        assert!(pull(&upstream, "latest").await.unwrap().is_some(), "{retry_after:?}");
    }
    assert_eq!(upstream.metrics().read().refusals, 3);
}

#[tokio::test]
async fn a_date_is_waited_for_by_the_upstream_s_own_clock() {
    let registry = start();
    let upstream = client(&registry);
    let on = On::get("/manifests/").times(1);
    registry.script(on.clone(), Fault::Status(429));
    registry.script(on.clone(), Fault::Header("Date", "Mon, 01 Jan 2001 00:00:00 GMT".into()));
    registry.script(on, Fault::Header("Retry-After", "Mon, 01 Jan 2001 01:00:00 GMT".into()));
    assert_eq!(pull(&upstream, "latest").await, Err(Failure::BudgetSpent { retry_after_s: 3600 }));
}

#[tokio::test]
async fn a_long_refusal_is_told_and_the_upstream_left_alone() {
    let registry = start();
    let (digest, _) = blob(&registry, 1000);
    let upstream = client(&registry);
    refuse(&registry, On::get("/manifests/"), Some("60"));
    let spent = |result: Result<_, Failure>| match result {
        Err(Failure::BudgetSpent { retry_after_s }) => retry_after_s,
        other => panic!("{other:?}"),
    };
    for _ in 0..3 {
        let seconds = spent(pull(&upstream, "latest").await);
        assert!((50..=60).contains(&seconds), "{seconds}");
    }
    assert_eq!(registry.count("GET", "/manifests/"), 1);
    assert!(upstream.budget().paused_s >= 50);
    // What costs no pull is still answered.
    let described = describe(&upstream, "latest").await;
    assert!(described.unwrap().is_some());
    assert!(fetch(&upstream, &digest, 0, None).await.broken.is_none());
}

#[tokio::test]
async fn a_second_budget_is_spent_only_if_the_operator_says_so() {
    for spend_all in [false, true] {
        let registry = start();
        registry.require(faults::Auth::bearer());
        refuse(&registry, On::get("/manifests/").skip(1).times(1), Some("60"));
        let upstream = client_with(&registry, |all| {
            all.credentials = vec![user("one", "p"), user("two", "p")];
            all.spend_all_budgets = spend_all;
        });
        let pulled = pull(&upstream, "latest").await;
        assert_eq!(pulled.is_ok(), spend_all, "{pulled:?}");
        let asked_as_two = registry.seen().iter().any(|seen| seen.target.contains("account=two"));
        assert_eq!(asked_as_two, spend_all);
    }
}

#[tokio::test]
async fn who_does_not_want_to_wait_asks_once() {
    for retry_after in [None, Some("0"), Some("60")] {
        let registry = start();
        let upstream = client_with(&registry, |all| all.timeouts.budget_wait = Duration::ZERO);
        refuse(&registry, On::get("/manifests/"), retry_after);
        let pulled = pull(&upstream, "latest").await;
        assert!(matches!(pulled, Err(Failure::BudgetSpent { .. })), "{retry_after:?}: {pulled:?}");
        assert_eq!(registry.count("GET", "/manifests/"), 1, "{retry_after:?}");
    }
}

#[tokio::test]
async fn a_head_costs_nothing_of_what_hub_counts() {
    let registry = start();
    registry.allow_pulls(1);
    let upstream = client(&registry);
    assert!(pull(&upstream, "latest").await.unwrap().is_some());
    for _ in 0..5 {
        let described = describe(&upstream, "latest").await;
        assert!(described.unwrap().is_some());
    }
    let budget = upstream.budget();
    assert_eq!((budget.limit, budget.remaining, budget.paused_s), (Some(1), Some(0), 0));
    // It is asked all the same: what was left then may have come back. Then it is believed.
    for _ in 0..3 {
        let spent = pull(&upstream, "latest").await;
        assert!(matches!(spent, Err(Failure::BudgetSpent { retry_after_s: 1..=60 })), "{spent:?}");
    }
    assert_eq!([registry.count("GET", "/manifests/"), registry.count("HEAD", "/manifests/")], [2, 5]);
}

#[tokio::test]
async fn who_does_not_wait_asks_once() {
    let registry = start();
    let upstream = client_with(&registry, |all| all.timeouts.budget_wait = Duration::ZERO);
    refuse(&registry, On::get("/manifests/"), None);
    assert!(matches!(pull(&upstream, "latest").await, Err(Failure::BudgetSpent { .. })));
    assert_eq!(registry.count("GET", "/manifests/"), 1);
}

#[tokio::test]
async fn what_another_host_refuses_costs_nothing_here() {
    let registry = start();
    let (digest, _) = blob(&registry, 1000);
    registry.script(On::get("/blobs/").at(Place::Own), Fault::Redirect(To::Foreign));
    refuse(&registry, On::get("/blobs/").at(Place::Foreign), Some("600"));
    let upstream = client(&registry);
    for _ in 0..3 {
        let failure = refused(&upstream, &digest, 0, None).await;
        assert_eq!(failure, Failure::BudgetSpent { retry_after_s: 600 });
    }
    assert_eq!(upstream.budget().paused_s, 0);
    assert!(pull(&upstream, "latest").await.unwrap().is_some());
}
