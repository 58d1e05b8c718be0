//! An upstream that answers no HEAD: a tag is compared by a GET that says what is here, and what a GET brings is used.
//!
//! Each GET with a body is a pull, which some upstreams count; so they are counted here.

use std::time::Duration;

use control::{Came, Description};
use controlplane::upstream::Policy;
use faults::{Fault, On, Registry};

use super::rig::{Rig, always_look, mirror_of, patient, status};

const REPOSITORY: &str = "library/app";

/// What upstreams say to a HEAD that they don't answer.
const REFUSALS: [u16; 2] = [405, 403];

fn start(refusal: u16, policy: Policy) -> (Registry, Rig) {
    let registry = Registry::start();
    registry.script(On::head("/manifests/"), Fault::Status(refusal));
    let rig = Rig::new(mirror_of(vec![patient("docker.io", &registry.url(), policy)]));
    (registry, rig)
}

/// Of each GET of a manifest since the last time: what it compared with, and the bytes that came.
fn gets(registry: &Registry) -> Vec<(Option<String>, u64)> {
    assert!(registry.wait_until_idle(Duration::from_secs(60)), "each answer has gone out");
    let seen = registry.seen();
    registry.forget();
    let gets = seen.iter().filter(|seen| seen.method == "GET" && seen.target.contains("/manifests/"));
    gets.map(|seen| (seen.header("if-none-match").map(str::to_owned), seen.sent_bytes())).collect()
}

#[tokio::test]
async fn a_tag_that_did_not_move_costs_no_body() {
    for refusal in REFUSALS {
        let (registry, rig) = start(refusal, always_look());
        let image = registry.push_image(REPOSITORY, "1", &[100]);
        assert_eq!(rig.pull("app", "1").await, (image.index, Came::Fill));
        let whole = registry.bytes(&image.index).unwrap().len() as u64;
        assert_eq!(gets(&registry), [(None, whole)], "{refusal}");
        for _ in 0..3 {
            assert_eq!(rig.pull("app", "1").await, (image.index, Came::Hit));
            assert_eq!(gets(&registry), [(Some(format!("\"{}\"", image.index)), 0)], "{refusal}");
        }
    }
}

#[tokio::test]
async fn a_tag_that_moved_costs_one_pull_and_what_it_brought_is_kept() {
    for refusal in REFUSALS {
        let (registry, rig) = start(refusal, always_look());
        let old = registry.push_image(REPOSITORY, "1", &[100]);
        rig.pull("app", "1").await;
        gets(&registry);
        let new = registry.push_image(REPOSITORY, "1", &[200]);
        assert_eq!(rig.pull("app", "1").await, (new.index, Came::Fill));
        let whole = registry.bytes(&new.index).unwrap().len() as u64;
        assert_eq!(gets(&registry), [(Some(format!("\"{}\"", old.index)), whole)], "{refusal}");
        assert_eq!(rig.pull("app", &new.index.to_string()).await, (new.index, Came::Hit));
        assert_eq!(rig.pull("app", "1").await, (new.index, Came::Hit));
        assert_eq!(gets(&registry), [(Some(format!("\"{}\"", new.index)), 0)], "{refusal}");
    }
}

#[tokio::test]
async fn a_head_of_what_is_not_here_and_its_get_are_one_pull() {
    for refusal in REFUSALS {
        let (registry, rig) = start(refusal, Policy::default());
        let image = registry.push_image(REPOSITORY, "1", &[100]);
        let child = image.manifests[0];
        for (reference, digest) in [("1".to_owned(), image.index), (child.to_string(), child)] {
            let Some(Description::Whole(described)) = rig.describe("app", &reference).await.unwrap() else {
                panic!("the GET brought it")
            };
            assert_eq!((described.digest, described.came), (digest, Came::Fill));
            assert_eq!(rig.pull("app", &reference).await, (digest, Came::Hit));
            let Some(Description::Whole(again)) = rig.describe("app", &reference).await.unwrap() else {
                panic!("it is here")
            };
            assert_eq!(again.came, Came::Hit);
            let whole = registry.bytes(&digest).unwrap().len() as u64;
            assert_eq!(gets(&registry), [(None, whole)], "{refusal}, {reference}");
        }
    }
}

#[tokio::test]
async fn what_is_not_there_is_found_out_and_remembered() {
    for refusal in REFUSALS {
        let (registry, rig) = start(refusal, always_look());
        registry.push_image(REPOSITORY, "1", &[100]);
        assert!(rig.describe("app", "none").await.unwrap().is_none());
        assert!(rig.manifest("app", "none").await.unwrap().is_none());
        assert_eq!(gets(&registry).len(), 1, "one no is enough");
        rig.pull("app", "1").await;
        registry.delete_tag(REPOSITORY, "1");
        assert!(rig.manifest("app", "1").await.unwrap().is_none(), "{refusal}");
        // Who is let in nowhere is refused the GET as well.
        registry.script(On::get("/manifests/"), Fault::Status(403));
        assert_eq!(status(rig.describe("app", "other").await), 404, "{refusal}");
    }
}
