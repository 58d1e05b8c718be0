//! Referrers of an upstream's manifests: by its API, else by the fallback tag; an outage is never an empty list.

use controlplane::limits;
use controlplane::upstream::Policy;
use oci::Digest;
use serde_json::{Value, json};

use super::registry::{Fault, Registry};
use super::rig::{Rig, status};
use crate::harness::{IMAGE, INDEX, sha256};

fn entry(text: &str, artifact_type: &str) -> Value {
    json!({ "mediaType": IMAGE, "digest": sha256(text).to_string(), "size": 7, "artifactType": artifact_type,
            "annotations": { "of": text } })
}

fn listed(entries: &[Value]) -> Value {
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries })
}

fn target(subject: Digest) -> String {
    format!("/v2/docker.io/library/app/referrers/{subject}")
}

fn path(subject: Digest) -> String {
    format!("/v2/library/app/referrers/{subject}")
}

fn fallback(subject: Digest) -> String {
    subject.to_string().replace(':', "-")
}

#[tokio::test]
async fn they_come_from_the_upstream_and_are_filtered_here() {
    let registry = Registry::start();
    let subject = sha256("subject");
    let entries = [entry("a", "application/vnd.a"), entry("b", "application/vnd.b+json")];
    registry.put_json(&path(subject), INDEX, &listed(&entries));
    let rig = Rig::hub(&registry, Policy::default());
    let all = rig.list(&target(subject)).await.unwrap();
    assert_eq!((all.status, all.header("content-type"), all.json()), (200, Some(INDEX), listed(&entries)));
    assert_eq!(all.header("oci-filters-applied"), None);
    let some = rig.list(&format!("{}?artifactType=application/vnd.b%2Bjson", target(subject))).await.unwrap();
    assert_eq!(some.json(), listed(&entries[1..]));
    assert_eq!(some.header("oci-filters-applied"), Some("artifactType"));
    assert_eq!(registry.seen().len(), 1, "one page serves all types");
}

/// A list of so many pages, each with these entries and as many bytes of nothing.
fn pages(registry: &Registry, subject: Digest, count: usize, padding: usize) -> Vec<Value> {
    let mut all = Vec::new();
    for number in 0..count {
        let mut one = entry(&number.to_string(), if number % 2 == 0 { "t/even" } else { "t/odd" });
        one["annotations"]["padding"] = "x".repeat(padding).into();
        let target = |number: usize| match number {
            0 => path(subject),
            number => format!("{}?cursor=x%2F{number}", path(subject)),
        };
        let mut headers = vec![("Content-Type", INDEX.to_owned())];
        if number + 1 < count {
            headers.push(("Link", format!("<{}>; rel=\"next\"", target(number + 1))));
        }
        registry.put(&target(number), &headers, listed(std::slice::from_ref(&one)).to_string().as_bytes());
        all.push(one);
    }
    all
}

#[tokio::test]
async fn the_upstreams_pages_are_one_of_ours_since_many_clients_read_no_other() {
    let registry = Registry::start();
    let subject = sha256("subject");
    let all = pages(&registry, subject, 5, 0);
    let rig = Rig::hub(&registry, Policy::default());
    let found = rig.list(&target(subject)).await.unwrap();
    assert_eq!((found.json(), found.next()), (listed(&all), None));
    let odd = rig.list(&format!("{}?artifactType=t/odd", target(subject))).await.unwrap();
    assert_eq!((odd.json(), odd.next()), (listed(&[all[1].clone(), all[3].clone()]), None));
    assert_eq!(registry.seen().len(), 5, "each page serves all types");
}

#[tokio::test]
async fn what_does_not_fit_in_a_page_is_linked_to() {
    for (count, padding, first) in [
        (limits::REFERRERS_PAGES + 2, 0, limits::REFERRERS_PAGES),
        (5, limits::REFERRERS_BYTES / 3, 2),
        (2, limits::REFERRERS_BYTES - 1000, 1),
    ] {
        let registry = Registry::start();
        let subject = sha256("subject");
        let all = pages(&registry, subject, count, padding);
        let rig = Rig::hub(&registry, Policy::default());
        let mut answer = rig.list(&target(subject)).await.unwrap();
        let mut entries = answer.json()["manifests"].as_array().unwrap().clone();
        assert_eq!(entries.len(), first);
        while let Some(next) = answer.next() {
            answer = rig.list(&next).await.unwrap();
            entries.extend(answer.json()["manifests"].as_array().unwrap().clone());
        }
        assert!(entries == all, "{count} pages of {padding} bytes: {} entries", entries.len());
    }
}

#[tokio::test]
async fn a_list_that_breaks_off_is_no_shorter_list() {
    for (fault, expect) in
        [(Fault::Cut, 503), (Fault::Status(404), 502), (Fault::Body(b"<html>".to_vec()), 502)]
    {
        let registry = Registry::start();
        let subject = sha256("subject");
        pages(&registry, subject, 3, 0);
        let rig = Rig::hub(&registry, Policy::default());
        registry.fail("cursor=x%2F2", fault.clone());
        assert_eq!(status(rig.list(&target(subject)).await), expect, "{fault:?}");
    }
}

#[tokio::test]
async fn without_the_api_the_fallback_tag_is_read() {
    let subject = sha256("subject");
    let entries = [entry("a", "application/vnd.a")];
    for what in ["404", "a page", "another type"] {
        let registry = Registry::start();
        match what {
            "404" => {}
            "a page" => registry.put(&path(subject), &[("Content-Type", "text/html".to_owned())], b"<html>"),
            _ => registry.put_json(&path(subject), "application/json", &listed(&[])),
        }
        registry.push_manifest("library/app", Some(&fallback(subject)), &listed(&entries));
        let rig = Rig::hub(&registry, Policy::default());
        for _ in 0..2 {
            let found = rig.list(&target(subject)).await.unwrap();
            assert_eq!(
                (found.status, found.header("content-type"), found.json()),
                (200, Some(INDEX), listed(&entries)),
                "{what}"
            );
        }
        assert_eq!(registry.seen().len(), 2, "{what}: each was asked once");
        let none = rig.list(&format!("{}?artifactType=other/type", target(subject))).await.unwrap();
        assert_eq!(none.json(), listed(&[]));
    }
}

#[tokio::test]
async fn without_either_the_list_is_empty_and_that_is_remembered() {
    let registry = Registry::start();
    let subject = sha256("subject");
    let rig = Rig::hub(&registry, Policy::default());
    for _ in 0..2 {
        let none = rig.list(&target(subject)).await.unwrap();
        assert_eq!((none.status, none.json(), none.header("warning")), (200, listed(&[]), None));
    }
    assert_eq!(
        registry.seen(),
        [format!("GET {}", path(subject)), format!("GET /v2/library/app/manifests/{}", fallback(subject))]
    );
}

#[tokio::test]
async fn an_outage_is_never_an_empty_list() {
    let registry = Registry::start();
    let subject = sha256("subject");
    let rig = Rig::hub(&registry, Policy::default());
    for (fault, expect) in [(Fault::Cut, 503), (Fault::Stall, 504), (Fault::Status(500), 502)] {
        for part in ["referrers", "manifests"] {
            registry.fail(part, fault.clone());
            let subject = sha256(&format!("{fault:?} {part}"));
            assert_eq!(status(rig.list(&target(subject)).await), expect, "{fault:?} of {part}");
            registry.heal();
        }
    }
    assert_eq!(rig.list(&target(subject)).await.unwrap().status, 200);
}

#[tokio::test]
async fn an_old_fallback_tag_stands_in_and_says_so() {
    let registry = Registry::start();
    let subject = sha256("subject");
    registry.push_manifest("library/app", Some(&fallback(subject)), &listed(&[entry("a", "t/a")]));
    let rig = Rig::hub(&registry, super::rig::always_look());
    rig.list(&target(subject)).await.unwrap();
    registry.fail("manifests", Fault::Cut);
    let old = rig.list(&target(subject)).await.unwrap();
    assert_eq!(old.json(), listed(&[entry("a", "t/a")]));
    assert!(old.header("warning").unwrap().starts_with("299 - \"gantry: "));
}

#[tokio::test]
async fn what_a_client_makes_up_as_last_says_nothing_of_what_is_signed() {
    let registry = Registry::start();
    let subject = sha256("subject");
    registry.put_json(&path(subject), INDEX, &listed(&[entry("a", "t/a")]));
    registry.fail("junk", Fault::Status(404));
    let rig = Rig::hub(&registry, Policy::default());
    assert_eq!(status(rig.list(&format!("{}?last=%3Fjunk", target(subject))).await), 400);
    assert_eq!(rig.list(&target(subject)).await.unwrap().json(), listed(&[entry("a", "t/a")]));
}

#[tokio::test]
async fn who_lets_nobody_see_the_list_has_not_said_that_it_is_empty() {
    let registry = Registry::start();
    let rig = Rig::hub(&registry, Policy::default());
    let (with, without) = (sha256("with a tag"), sha256("without"));
    registry.push_manifest("library/app", Some(&fallback(with)), &listed(&[entry("a", "t/a")]));
    registry.fail("referrers", Fault::Status(403));
    for _ in 0..2 {
        assert_eq!(rig.list(&target(with)).await.unwrap().json(), listed(&[entry("a", "t/a")]));
        assert_eq!(status(rig.list(&target(without)).await), 404);
    }
    registry.fail("manifests", Fault::Status(403));
    assert_eq!(status(rig.list(&target(sha256("neither"))).await), 404);
}

#[tokio::test]
async fn an_old_fallback_tag_without_entries_is_no_answer() {
    let registry = Registry::start();
    let subject = sha256("subject");
    registry.push_manifest("library/app", Some(&fallback(subject)), &listed(&[]));
    let rig = Rig::hub(&registry, super::rig::always_look());
    assert_eq!(rig.list(&target(subject)).await.unwrap().json(), listed(&[]));
    registry.fail("manifests", Fault::Cut);
    assert_eq!(status(rig.list(&target(subject)).await), 503, "it may be signed now");
}

#[tokio::test]
async fn a_list_of_more_entries_than_any_has_is_refused() {
    let registry = Registry::start();
    let subject = sha256("subject");
    let entries = vec!["{}"; controlplane::limits::REFERRERS_ENTRIES + 1].join(",");
    let body = format!("{{\"manifests\":[{entries}]}}");
    registry.put(&path(subject), &[("Content-Type", INDEX.to_owned())], body.as_bytes());
    let rig = Rig::hub(&registry, Policy::default());
    assert_eq!(status(rig.list(&target(subject)).await), 502);
}
