//! Manifests of upstreams: verified, kept for good by digest, and an outage is never *not there*.

use control::{Came, Description};
use controlplane::upstream::Policy;
use controlplane::{MirrorSettings, limits};
use oci::Problem;
use serde_json::json;

use super::registry::{Fault, Registry};
use super::rig::{Rig, eventually, mirror_of, status, upstream};
use crate::harness::{index, name};

#[tokio::test]
async fn by_digest_it_is_asked_for_once_and_for_good() {
    let registry = Registry::start();
    let image = registry.push_image("library/app", "1", "x");
    let rig = Rig::hub(&registry, Policy::default());
    let digest = image.manifest.to_string();
    // A core asks again after so long, though it never changes: its use is noted, and it does not make room for others.
    let noted = Some(limits::USE_NOTED_EVERY);
    let first = rig.manifest("docker.io/library/app", &digest).await.unwrap().unwrap();
    assert_eq!((first.came, first.fresh, first.digest), (Came::Fill, noted, image.manifest));
    registry.fail("", Fault::Cut);
    let again = rig.manifest("docker.io/library/app", &digest).await.unwrap().unwrap();
    assert_eq!((again.came, again.fresh, &again.bytes), (Came::Hit, noted, &first.bytes));
    assert_eq!(again.media_type, first.media_type);
    assert_eq!(registry.seen(), [format!("GET /v2/library/app/manifests/{digest}")]);
    let elsewhere = rig.manifest("docker.io/library/other", &digest).await;
    assert_eq!(status(elsewhere), 503, "what one repository has is not another's");
}

#[tokio::test]
async fn a_second_pull_works_without_the_upstream_also_after_a_restart() {
    let registry = Registry::start();
    let child = registry.push_image("library/app", "amd64", "x");
    let list = registry.push_manifest("library/app", Some("1"), &index(&[child.manifest]));
    let rig = Rig::hub(&registry, Policy::default());
    assert_eq!(rig.pull("app", "1").await, (list, Came::Fill));
    assert_eq!(rig.pull("app", &child.manifest.to_string()).await, (child.manifest, Came::Fill));
    registry.fail("", Fault::Cut);
    registry.seen();
    for rig in [rig.restart().await] {
        assert_eq!(rig.pull("app", "1").await, (list, Came::Hit));
        assert_eq!(rig.pull("app", &child.manifest.to_string()).await, (child.manifest, Came::Hit));
        assert_eq!(rig.size("app", child.layer).await, Some("layer of x".len() as u64));
        assert_eq!(rig.size("app", child.config).await, Some("config of x".len() as u64));
    }
    assert!(registry.seen().is_empty());
}

#[tokio::test]
async fn many_who_want_the_same_cost_one_question() {
    let registry = Registry::start();
    let image = registry.push_image("library/app", "1", "x");
    let rig = Rig::hub(&registry, Policy::default());
    for reference in ["1".to_owned(), image.config.to_string(), image.manifest.to_string()] {
        registry.seen();
        registry.fail("", Fault::Stall);
        let control = rig.plane.control.clone();
        let askers: Vec<_> = (0..16)
            .map(|_| {
                let (control, reference) = (control.clone(), crate::harness::refer(&reference));
                tokio::spawn(async move {
                    control.manifest(name("docker.io/library/app"), reference, crate::harness::NOBODY).await
                })
            })
            .collect();
        eventually("all wait", async || askers.iter().all(|asker| !asker.is_finished())).await;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        registry.heal();
        for asker in askers {
            let found = asker.await.unwrap().unwrap().map(|document| document.digest);
            assert_eq!(found, (reference != image.config.to_string()).then_some(image.manifest));
        }
        // By digest it is here since it was asked for by its tag.
        let expect = usize::from(reference != image.manifest.to_string());
        let seen = registry.seen();
        assert_eq!(seen.len(), expect, "{seen:?}");
    }
}

#[tokio::test]
async fn what_is_wrong_is_the_upstreams_fault_and_not_kept() {
    let registry = Registry::start();
    let image = registry.push_image("library/app", "1", "x");
    let rig = Rig::hub(&registry, Policy::default());
    let large = vec![b' '; limits::DOCUMENT_BYTES + 1];
    let other = index(&[]).to_string().into_bytes();
    let schema1 = json!({ "schemaVersion": 1, "name": "a", "tag": "b", "fsLayers": [] }).to_string();
    for (what, fault) in [
        ("of another digest", Fault::Body(other)),
        ("too large", Fault::Body(large)),
        ("no JSON", Fault::Body(b"<html>".to_vec())),
        ("of schema 1", Fault::Body(schema1.into_bytes())),
        (
            "of no media type of a manifest",
            Fault::Header("Content-Type", "application/octet-stream".to_owned()),
        ),
        ("encoded", Fault::Header("Content-Encoding", "gzip".to_owned())),
    ] {
        registry.fail("GET /v2/library/app/manifests", fault);
        for reference in ["1".to_owned(), image.manifest.to_string()] {
            assert_eq!(status(rig.manifest("app", &reference).await), 502, "{what}, by {reference}");
        }
        registry.heal();
        assert_eq!(rig.link("app", image.layer).await, Ok(None), "{what}: nothing was kept");
    }
    assert_eq!(rig.pull("app", "1").await, (image.manifest, Came::Fill), "healthy again right after");
}

#[tokio::test]
async fn an_outage_is_never_told_as_unknown() {
    let registry = Registry::start();
    registry.push_image("library/app", "1", "x");
    let rig = Rig::hub(&registry, Policy::default());
    for (fault, expect) in [
        (Fault::Cut, 503),
        (Fault::Stall, 504),
        (Fault::Status(500), 502),
        (Fault::Status(503), 502),
        (Fault::Status(429), 503),
    ] {
        registry.fail("manifests", fault.clone());
        assert_eq!(status(rig.manifest("app", "1").await), expect, "{fault:?}");
        registry.heal();
        if matches!(fault, Fault::Status(429)) {
            // Its budget is spent for a while.
            eventually("it is asked again", async || rig.manifest("app", "2").await.is_ok()).await;
        }
    }
    assert_eq!(rig.pull("app", "1").await.1, Came::Fill);
}

#[tokio::test]
async fn what_is_not_there_is_remembered_for_a_while() {
    let registry = Registry::start();
    let rig = Rig::hub(&registry, Policy::default());
    for _ in 0..3 {
        assert!(rig.manifest("app", "1").await.unwrap().is_none());
    }
    assert_eq!(registry.seen(), ["GET /v2/library/app/manifests/1"]);
    let brief = Policy { negative_ttl: std::time::Duration::from_millis(20), ..Policy::default() };
    let rig = Rig::hub(&registry, brief);
    assert!(rig.manifest("app", "1").await.unwrap().is_none());
    registry.push_image("library/app", "1", "x");
    eventually("it is asked for again", async || rig.manifest("app", "1").await.unwrap().is_some()).await;
}

#[tokio::test]
async fn who_lets_nobody_in_says_that_the_name_is_unknown() {
    let registry = Registry::start();
    registry.push_image("library/app", "1", "x");
    let rig = Rig::hub(&registry, Policy::default());
    registry.fail("manifests", Fault::Status(403));
    for _ in 0..2 {
        let problem = rig.manifest("app", "1").await.unwrap_err();
        assert_eq!(problem, Problem::NameUnknown(name("docker.io/library/app")));
        assert_eq!((problem.wire().status, problem.wire().code), (404, "NAME_UNKNOWN"));
    }
    registry.heal();
    assert!(rig.manifest("app", "1").await.is_err(), "it is remembered as any other no");
}

#[tokio::test]
async fn kept_manifests_have_a_bound() {
    let registry = Registry::start();
    let settings = mirror_of(vec![upstream("docker.io", &registry, Policy::default())]);
    assert_eq!(settings.manifests_bytes_max, None, "that is limits::MIRRORED_BYTES");
    assert_eq!(limits::MIRRORED_BYTES, 1 << 30);
    let rig = Rig::new(MirrorSettings { manifests_bytes_max: Some(8 << 10), ..settings });
    for number in 0..20 {
        let image = registry.push_image("library/app", &number.to_string(), &number.to_string());
        assert_eq!(rig.pull("app", &number.to_string()).await, (image.manifest, Came::Fill));
    }
    let total: u64 =
        rig.directory.tables().query_row("SELECT bytes FROM mirrored_total", [], |row| row.get(0)).unwrap();
    assert!(total <= 8 << 10, "{total}");
    assert_eq!(rig.pull("app", "19").await.1, Came::Hit);
    assert_eq!(rig.pull("app", "0").await.1, Came::Fill, "it had to go");
}

#[tokio::test]
async fn a_type_that_says_nothing_is_not_kept() {
    let registry = Registry::start();
    let config = registry.push_blob("library/app", "config");
    let mut body = crate::harness::image(config, &[]);
    body.as_object_mut().unwrap().remove("mediaType");
    let digest = registry.push_manifest("library/app", Some("1"), &body).to_string();
    registry.fail("manifests", Fault::Header("Content-Type", "application/json".to_owned()));
    let rig = Rig::hub(&registry, Policy::default());
    let oci = "application/vnd.oci.image.manifest.v1+json";
    let Some(Description::Whole(described)) = rig.describe("app", &digest).await.unwrap() else {
        panic!("the head of that HEAD is not the manifest's")
    };
    assert_eq!(described.media_type.as_str(), oci);
    for reference in ["1", &digest] {
        assert_eq!(rig.manifest("app", reference).await.unwrap().unwrap().media_type.as_str(), oci);
    }
}
