//! The tags of an upstream's repository come from there, with its paging rewritten to us.

use controlplane::limits;
use controlplane::upstream::Policy;
use oci::Problem;
use serde_json::{Value, json};

use super::registry::{Fault, Registry};
use super::rig::{Rig, status};
use crate::held_clock::{HeldClock, TICK};

fn tags(names: &[&str]) -> Value {
    json!({ "name": "library/app", "tags": names })
}

const JSON: &str = "application/json";

#[tokio::test]
async fn pages_follow_the_upstreams_own_and_keep_the_form_of_the_request() {
    let registry = Registry::start();
    let page = |path: &str, next: Option<&str>, names: &[&str]| {
        let next = next.map(|next| ("Link", format!("<{next}>; rel=\"next\"")));
        let headers: Vec<_> = [("Content-Type", JSON.to_owned())].into_iter().chain(next).collect();
        registry.put(path, &headers, tags(names).to_string().as_bytes());
    };
    page("/v2/library/app/tags/list?n=2", Some("/v2/library/app/tags/list?n=2&last=b"), &["a", "b"]);
    page("/v2/library/app/tags/list?n=2&last=b", None, &["c"]);
    let rig = Rig::hub(&registry, Policy::default());
    for (target, next) in [
        ("/v2/docker.io/library/app/tags/list?n=2", "/v2/docker.io/library/app/tags/list?n=2&last=b"),
        ("/v2/library/app/tags/list?ns=docker.io&n=2", "/v2/library/app/tags/list?ns=docker.io&n=2&last=b"),
        ("/docker.io/v2/app/tags/list?n=2", "/docker.io/v2/app/tags/list?n=2&last=b"),
    ] {
        let first = rig.list(target).await.unwrap();
        assert_eq!((first.status, first.header("content-type")), (200, Some(JSON)));
        assert_eq!(
            (first.names("tags"), first.next().as_deref()),
            (vec!["a".to_owned(), "b".to_owned()], Some(next))
        );
        let second = rig.list(next).await.unwrap();
        assert_eq!((second.names("tags"), second.next()), (vec!["c".to_owned()], None));
        assert_eq!(second.header("warning"), None);
    }
    assert_eq!(registry.seen().len(), 2, "each page was asked for once");
}

#[tokio::test]
async fn a_page_that_goes_on_in_another_way_can_be_followed() {
    let registry = Registry::start();
    let next = ("Link", "</v2/library/app/tags/list?next_page=gAA%3D&n=2>; rel=\"next\"".to_owned());
    registry.put("/v2/library/app/tags/list?n=2", &[next], tags(&["b", "a"]).to_string().as_bytes());
    registry.put("/v2/library/app/tags/list?next_page=gAA%3D&n=2", &[], tags(&["c"]).to_string().as_bytes());
    let rig = Rig::hub(&registry, Policy::default());
    let first = rig.list("/v2/docker.io/app/tags/list?n=2").await.unwrap();
    assert_eq!(first.names("tags"), ["b", "a"]);
    let second = rig.list(&first.next().unwrap()).await.unwrap();
    assert_eq!((second.names("tags"), second.next()), (vec!["c".to_owned()], None));
}

#[tokio::test]
async fn a_list_that_knows_no_pages_is_cut_here() {
    let registry = Registry::start();
    registry.put_json("/v2/library/app/tags/list", JSON, &tags(&["c", "a", "b"]));
    let rig = Rig::hub(&registry, Policy::default());
    let first = rig.list("/v2/docker.io/app/tags/list?n=2").await.unwrap();
    assert_eq!(first.names("tags"), ["a", "b"]);
    let second = rig.list(&first.next().unwrap()).await.unwrap();
    assert_eq!((second.names("tags"), second.next()), (vec!["c".to_owned()], None));
    let none = rig.list("/v2/docker.io/app/tags/list?n=0").await.unwrap();
    assert_eq!((none.json()["tags"].clone(), none.next()), (json!([]), None));
}

#[tokio::test]
async fn an_upstream_that_is_away_is_answered_with_what_is_known() {
    let registry = Registry::start();
    registry.push_image("library/app", "1", "x");
    registry.push_image("library/app", "2", "y");
    let rig = Rig::hub(&registry, Policy::default());
    registry.fail("", Fault::Cut);
    assert_eq!(status(rig.list("/v2/docker.io/app/tags/list").await), 503, "nothing is known");
    registry.heal();
    rig.pull("app", "2").await;
    rig.pull("app", "1").await;
    registry.fail("", Fault::Cut);
    let known = rig.list("/v2/docker.io/app/tags/list?n=1").await.unwrap();
    assert_eq!((known.status, known.names("tags")), (200, vec!["1".to_owned()]));
    assert!(known.header("warning").unwrap().starts_with("299 - \"gantry: "), "{known:?}");
    let rest = rig.list(&known.next().unwrap()).await.unwrap();
    assert_eq!((rest.names("tags"), rest.next()), (vec!["2".to_owned()], None));
}

#[tokio::test]
async fn what_is_not_there_or_lets_nobody_in_is_an_unknown_name() {
    let registry = Registry::start();
    let rig = Rig::hub(&registry, Policy::default());
    for _ in 0..2 {
        let problem = rig.list("/v2/docker.io/app/tags/list").await.unwrap_err();
        assert!(matches!(problem, Problem::NameUnknown(_)), "{problem:?}");
    }
    assert_eq!(registry.seen().len(), 1);
    registry.fail("", Fault::Status(403));
    assert_eq!(status(rig.list("/v2/docker.io/other/tags/list").await), 404);
    registry.heal();
    registry.put_json("/v2/library/third/tags/list", JSON, &json!({ "errors": [] }));
    assert_eq!(status(rig.list("/v2/docker.io/third/tags/list").await), 502);
}

#[tokio::test]
async fn the_catalog_is_of_what_was_pushed_here() {
    let registry = Registry::start();
    registry.push_image("library/app", "1", "x");
    let rig = Rig::hub(&registry, Policy::default());
    rig.pull("app", "1").await;
    rig.plane.push("acme/app", "mine").await;
    assert_eq!(rig.list("/v2/_catalog").await.unwrap().names("repositories"), ["acme/app"]);
}

#[tokio::test]
async fn a_list_that_knows_no_pages_of_ours_but_its_own_has_no_end_that_is_lost() {
    let registry = Registry::start();
    let next = ("Link", "</v2/library/app/tags/list?page=2>; rel=\"next\"".to_owned());
    registry.put("/v2/library/app/tags/list", &[next], tags(&["c", "a", "b"]).to_string().as_bytes());
    registry.put_json("/v2/library/app/tags/list?page=2", JSON, &tags(&["f", "d", "e"]));
    let rig = Rig::hub(&registry, Policy::default());
    let (mut found, mut target) = (Vec::new(), Some("/v2/docker.io/app/tags/list?n=2".to_owned()));
    for _ in 0..5 {
        let Some(asked) = target.take() else { break };
        let page = rig.list(&asked).await.unwrap();
        found.extend(page.names("tags"));
        target = page.next();
    }
    assert_eq!((found.join(""), target), ("abcfde".to_owned(), None));
}

#[tokio::test]
async fn what_a_client_makes_up_as_last_says_nothing_of_the_list() {
    for fault in [Fault::Status(404), Fault::Status(403)] {
        let registry = Registry::start();
        registry.put_json("/v2/library/app/tags/list", JSON, &tags(&["a"]));
        registry.fail("junk", fault);
        let rig = Rig::hub(&registry, Policy::default());
        assert_eq!(status(rig.list("/v2/docker.io/app/tags/list?last=%3Fjunk").await), 404);
        assert_eq!(rig.list("/v2/docker.io/app/tags/list").await.unwrap().names("tags"), ["a"]);
        registry.fail("", Fault::Cut);
        assert_eq!(rig.list("/v2/docker.io/app/tags/list").await.unwrap().names("tags"), ["a"]);
    }
}

#[tokio::test]
async fn after_the_upstreams_own_no_no_page_of_the_list_is_given_again() {
    for fault in [Fault::Status(404), Fault::Status(403)] {
        let clock = HeldClock::new();
        let registry = Registry::start();
        registry.put_json("/v2/library/app/tags/list", JSON, &tags(&["a"]));
        registry.put_json("/v2/library/other/tags/list", JSON, &tags(&["b"]));
        let policy = Policy::default();
        let negative_ttl = policy.negative_ttl;
        let rig = Rig::hub(&registry, policy);
        let pages = ["/v2/docker.io/app/tags/list", "/v2/docker.io/app/tags/list?n=2&last=0"];
        for page in pages {
            assert_eq!(rig.list(page).await.unwrap().names("tags"), ["a"]);
        }
        assert_eq!(rig.list("/v2/docker.io/other/tags/list").await.unwrap().names("tags"), ["b"]);
        clock.pass(limits::LIST_FRESH + TICK).await;
        registry.fail("/app/", fault);
        assert_eq!(status(rig.list(pages[0]).await), 404);
        registry.heal();
        clock.pass(negative_ttl + TICK).await;
        registry.fail("", Fault::Cut);
        for page in pages {
            assert_eq!(status(rig.list(page).await), 503, "{page} was there once");
        }
        let other = rig.list("/v2/docker.io/other/tags/list").await.unwrap();
        assert_eq!((other.names("tags"), other.header("warning").is_some()), (vec!["b".to_owned()], true));
    }
}
