//! One repository, one source: which names are asked of an upstream, and which never leave the house.

use control::Came;
use controlplane::upstream::Policy;
use controlplane::{MirrorError, MirrorSettings, OpenError};
use oci::Problem;

use super::registry::{Fault, Registry};
use super::rig::{Rig, mirror_of, status, upstream};
use crate::harness::{Directory, NOBODY, Plane, index, name};

#[tokio::test]
async fn every_name_of_a_repository_is_one_repository() {
    let registry = Registry::start();
    let image = registry.push_image("library/busybox", "1", "busybox");
    let rig = Rig::hub(&registry, Policy::default());
    assert_eq!(rig.pull("busybox", "1").await, (image.manifest, Came::Fill));
    for repository in ["library/busybox", "docker.io/library/busybox", "busybox"] {
        assert_eq!(rig.pull(repository, "1").await, (image.manifest, Came::Hit), "{repository}");
        assert_eq!(rig.size(repository, image.layer).await, Some("layer of busybox".len() as u64));
    }
    assert_eq!(registry.seen(), ["GET /v2/library/busybox/manifests/1"]);
}

#[tokio::test]
async fn a_blob_of_a_bare_name_is_not_asked_for_before_a_manifest() {
    let registry = Registry::start();
    let image = registry.push_image("org/secret", "1", "x");
    let rig = Rig::hub(&registry, Policy::default());
    assert_eq!(rig.link("org/secret", image.layer).await, Ok(None));
    assert_eq!(rig.link("secret", image.layer).await, Ok(None));
    let Err(Problem::NameUnknown(_)) = rig.list("/v2/org/secret/tags/list").await else { panic!("listed") };
    let referrers = rig.list(&format!("/v2/org/secret/referrers/{}", image.manifest)).await.unwrap();
    assert_eq!((referrers.status, referrers.json()["manifests"].as_array().unwrap().len()), (200, 0));
    assert!(registry.seen().is_empty(), "nobody was told the name");
    // A manifest that was had by another way of asking opens it.
    rig.pull("docker.io/org/secret", "1").await;
    assert_eq!(rig.size("org/secret", image.layer).await, Some("layer of x".len() as u64));
    let rig = rig.restart().await;
    assert_eq!(rig.size("org/secret", image.layer).await, Some("layer of x".len() as u64));
}

#[tokio::test]
async fn the_head_of_a_manifest_opens_a_bare_name() {
    let registry = Registry::start();
    let image = registry.push_image("org/app", "1", "x");
    let rig = Rig::hub(&registry, Policy::default());
    rig.describe("org/app", "1").await.unwrap().unwrap();
    registry.seen();
    assert_eq!(rig.size("org/app", image.layer).await, Some("layer of x".len() as u64));
    assert_eq!(registry.seen(), [format!("HEAD /v2/org/app/blobs/{}", image.layer)]);
}

#[tokio::test]
async fn what_was_written_here_is_never_asked_upstream() {
    let registry = Registry::start();
    let theirs = registry.push_image("acme/app", "1", "theirs");
    let rig = Rig::hub(&registry, Policy::default());
    rig.plane.put("acme/app", "mine", &index(&[])).await.unwrap();
    assert!(rig.plane.get("acme/app", "mine").await.is_some());
    assert_eq!(rig.manifest("acme/app", "1").await.map(|found| found.is_some()), Ok(false));
    assert_eq!(rig.link("acme/app", theirs.layer).await, Ok(None));
    assert_eq!(rig.list("/v2/acme/app/tags/list").await.unwrap().names("tags"), ["mine"]);
    assert!(registry.seen().is_empty());
    // By its prefix it is the upstream's, always.
    assert_eq!(rig.pull("docker.io/acme/app", "1").await.0, theirs.manifest);
}

#[tokio::test]
async fn an_upload_makes_a_name_local_for_good() {
    let registry = Registry::start();
    registry.push_image("acme/app", "1", "theirs");
    let rig = Rig::hub(&registry, Policy::default());
    assert!(rig.plane.get("acme/app", "1").await.is_some());
    let slot = rig.plane.epochs.of_repository(&name("acme/app"));
    let before = rig.plane.epochs.read(slot);
    let commits = rig.plane.counts().commits;
    rig.plane.control.open_upload(name("acme/app"), NOBODY).await.unwrap();
    assert_ne!(rig.plane.epochs.read(slot), before, "cores forget what they knew of it");
    assert_eq!(rig.plane.counts().commits, commits + 1);
    registry.seen();
    assert!(rig.plane.get("acme/app", "1").await.is_none());
    rig.plane.control.open_upload(name("acme/app"), NOBODY).await.unwrap();
    assert_eq!(rig.plane.counts().commits, commits + 1, "one commit for a new name");
    let rig = rig.restart().await;
    assert!(rig.plane.get("acme/app", "1").await.is_none());
    // Nothing was pushed, so there is nothing to list.
    let Err(Problem::NameUnknown(_)) = rig.list("/v2/acme/app/tags/list").await else { panic!("listed") };
    assert_eq!(rig.list("/v2/_catalog").await.unwrap().names("repositories"), Vec::<String>::new());
    assert!(registry.seen().is_empty());
}

#[tokio::test]
async fn without_a_root_mirror_an_upload_costs_no_commit() {
    let registry = Registry::start();
    let mut settings = mirror_of(vec![upstream("ghcr.io", &registry, Policy::default())]);
    settings.upstreams[0].is_root = false;
    let rig = Rig::new(settings);
    let commits = rig.plane.counts().commits;
    rig.plane.control.open_upload(name("acme/app"), NOBODY).await.unwrap();
    assert_eq!(rig.plane.counts().commits, commits);
    assert!(rig.plane.get("acme/app", "1").await.is_none());
    assert!(registry.seen().is_empty());
}

#[tokio::test]
async fn names_that_are_kept_in_are_never_asked_for() {
    let registry = Registry::start();
    registry.push_image("acme/app", "1", "theirs");
    let rig = Rig::local_only(&registry, "acme/*");
    assert!(rig.plane.get("acme/app", "1").await.is_none());
    assert!(rig.plane.get("acme/team/app", "1").await.is_none());
    rig.plane.control.open_upload(name("acme/app"), NOBODY).await.unwrap();
    assert!(registry.seen().is_empty());
}

#[tokio::test]
async fn what_an_operator_does_not_want_is_unknown_without_asking() {
    let registry = Registry::start();
    let image = registry.push_image("evil/app", "1", "x");
    registry.push_image("library/app", "1", "y");
    let policy = Policy { deny: vec!["evil/*".to_owned()], ..Policy::default() };
    let rig = Rig::hub(&registry, policy);
    for repository in ["evil/app", "docker.io/evil/app"] {
        assert_eq!(rig.manifest(repository, "1").await.unwrap_err(), Problem::NameUnknown(name(repository)));
        assert_eq!(rig.link(repository, image.layer).await, Err(Problem::NameUnknown(name(repository))));
    }
    let Err(Problem::NameUnknown(_)) = rig.list("/v2/docker.io/evil/app/tags/list").await else {
        panic!("listed")
    };
    assert!(registry.seen().is_empty());
    rig.pull("app", "1").await;
    let allowed = Policy { allow: vec!["library/*".to_owned()], ..Policy::default() };
    let rig = Rig::hub(&registry, allowed);
    rig.pull("app", "1").await;
    assert!(rig.manifest("evil/app", "1").await.is_err());
}

#[tokio::test]
async fn a_prefix_that_is_taken_is_a_start_up_error() {
    let registry = Registry::start();
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    plane.push("docker.io/acme/app", "blob").await;
    plane.push("docker.io-not/app", "blob").await;
    plane.close().await;
    let settings = mirror_of(vec![upstream("docker.io", &registry, Policy::default())]);
    let error = Plane::open_mirror(&directory, settings).err().unwrap();
    let OpenError::PrefixTaken { prefix, repository } = &error else { panic!("{error}") };
    assert_eq!((prefix.as_str(), repository.as_str()), ("docker.io", "docker.io/acme/app"));
    assert!(error.to_string().contains("another `prefix`"), "{error}");
    let mut elsewhere = upstream("docker.io", &registry, Policy::default());
    elsewhere.prefix = "hub".to_owned();
    Plane::open_mirror(&directory, mirror_of(vec![elsewhere])).unwrap().close().await;
}

#[tokio::test]
async fn settings_that_can_not_be_are_refused() {
    let registry = Registry::start();
    let refused = |settings: MirrorSettings| match Plane::open_mirror(&Directory::new(), settings).err() {
        Some(OpenError::Mirror(error)) => error,
        other => panic!("{other:?}"),
    };
    let two = || ["docker.io", "ghcr.io"].map(|ns| upstream(ns, &registry, Policy::default()));
    let mut settings = mirror_of(two().into());
    settings.upstreams[1].is_root = true;
    assert!(matches!(refused(settings), MirrorError::TwoRoots { .. }));
    let settings = MirrorSettings { namespaces: Default::default(), ..mirror_of(two().into()) };
    assert!(matches!(refused(settings), MirrorError::NoNamespace { .. }));
    let policy = Policy { deny: vec!["A B".to_owned()], ..Policy::default() };
    let error = refused(mirror_of(vec![upstream("docker.io", &registry, policy)]));
    assert!(error.to_string().contains("upstream `docker.io`: deny: `A B`"), "{error}");
}

#[tokio::test]
async fn a_prefix_that_means_another_registry_has_nothing_of_the_old_one() {
    let (old, new) = (Registry::start(), Registry::start());
    let image = old.push_image("library/app", "1", "x");
    let of = |registry: &Registry, ns: &str| {
        let mut settings = upstream(ns, registry, Policy::default());
        settings.prefix = "hub".to_owned();
        mirror_of(vec![settings])
    };
    let rig = Rig::new(of(&old, "docker.io"));
    rig.pull("hub/library/app", "1").await;
    let rig = rig.restart_with(of(&old, "docker.io")).await;
    old.seen();
    rig.pull("hub/library/app", "1").await;
    assert!(rig.link("hub/library/app", image.layer).await.unwrap().is_some());
    assert!(old.seen().is_empty(), "the same one needs not be asked again");
    let rig = rig.restart_with(of(&new, "docker.io")).await;
    assert!(rig.manifest("hub/library/app", "1").await.unwrap().is_none());
    assert!(rig.manifest("hub/library/app", &image.manifest.to_string()).await.unwrap().is_none());
    assert_eq!(rig.link("hub/library/app", image.layer).await, Ok(None));
    new.push_image("library/app", "1", "x");
    let rig = rig.restart_with(of(&new, "docker.io")).await;
    rig.pull("hub/library/app", "1").await;
    let rig = rig.restart_with(of(&new, "quay.io")).await;
    new.fail("", Fault::Cut);
    assert_eq!(status(rig.manifest("hub/library/app", "1").await), 503, "another name, another registry");
}
