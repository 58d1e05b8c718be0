//! An upstream's repositories are only pulled from, and nothing of theirs is mounted elsewhere.

use control::{Preconditions, PushedBlob};
use controlplane::upstream::Policy;
use oci::Problem;

use super::registry::Registry;
use super::rig::{Rig, mirror_of, upstream};
use crate::harness::{Directory, NOBODY, Plane, index, manifest, name, refer};

const APP: &str = "docker.io/library/app";

#[tokio::test]
async fn nothing_is_written_to_an_upstreams_name() {
    let registry = Registry::start();
    let image = registry.push_image("library/app", "1", "x");
    let rig = Rig::hub(&registry, Policy::default());
    rig.pull(APP, "1").await;
    registry.seen();
    let (control, plane) = (&rig.plane.control, &rig.plane);
    let mine = plane.push("acme/app", "mine").await;
    assert_eq!(control.open_upload(name(APP), NOBODY).await, Err(Problem::PullOnly));
    let put = control.put_manifest(Box::new(manifest(APP, "2", &index(&[]))), NOBODY).await;
    assert_eq!(put.unwrap_err(), Problem::PullOnly);
    let deleted = control.delete_manifest(name(APP), refer("1"), Preconditions::default(), NOBODY).await;
    assert_eq!(deleted, Err(Problem::PullOnly));
    assert_eq!(control.delete_blob(name(APP), image.layer, NOBODY).await, Err(Problem::PullOnly));
    let from = Some(name("acme/app"));
    assert_eq!(control.mountable(name(APP), mine, from, NOBODY).await, Err(Problem::PullOnly));
    assert_eq!(control.mount(name(APP), mine, from, NOBODY).await, Err(Problem::PullOnly));
    let wire = Problem::PullOnly.wire();
    assert_eq!((wire.status, wire.headers), (405, vec![("allow", "GET, HEAD".to_owned())]));
    assert!(registry.seen().is_empty());
}

#[tokio::test]
async fn what_is_an_upstreams_is_not_mounted_elsewhere() {
    let registry = Registry::start();
    let image = registry.push_image("library/app", "1", "x");
    let rig = Rig::hub(&registry, Policy::default());
    rig.pull("app", "1").await;
    for from in [Some(APP), Some("library/app"), Some("app"), None] {
        let from = from.map(name);
        assert_eq!(rig.plane.control.mountable(name("acme/app"), image.layer, from, NOBODY).await, Ok(None));
        assert_eq!(rig.plane.control.mount(name("acme/app"), image.layer, from, NOBODY).await, Ok(false));
    }
}

#[tokio::test]
async fn a_session_that_is_older_than_its_names_upstream_ends_alone() {
    let registry = Registry::start();
    let directory = Directory::new();
    let settings = mirror_of(vec![upstream("docker.io", &registry, Policy::default())]);
    let plane = Plane::open_mirror(&directory, settings).unwrap();
    let of = |repository: &str| PushedBlob {
        repository: name(repository),
        digest: crate::harness::sha256(repository),
        size_bytes: 1,
    };
    let results = plane.commit(vec![of("a/one"), of("docker.io/a/two"), of("a/three")]).await.unwrap();
    assert_eq!(results, [Ok(()), Err(Problem::PullOnly), Ok(())]);
    let nobody = plane.commit(vec![of("docker.io/a/two")]).await.unwrap();
    assert_eq!(nobody, [Err(Problem::PullOnly)]);
    assert_eq!(plane.link("a/three", crate::harness::sha256("a/three")).await, Some(1));
}

#[tokio::test]
async fn a_first_write_of_a_bare_name_takes_along_what_cores_knew_of_it() {
    let registry = Registry::start();
    let image = registry.push_image("library/app", "1", "x");
    let rig = Rig::hub(&registry, Policy::default());
    let slot = |text: &str| rig.plane.epochs.of_repository(&name(text));
    assert_eq!(rig.pull("library/app", "1").await.0, image.manifest);
    let before = rig.plane.epochs.read(slot("library/app"));
    let blob = rig.plane.push("library/app", "mine").await;
    assert_ne!(rig.plane.epochs.read(slot("library/app")), before);
    assert!(rig.manifest("library/app", "1").await.unwrap().is_none(), "it is local now");
    let before = rig.plane.epochs.read(slot("library/app"));
    rig.plane.push("library/app", "more").await;
    assert_eq!(rig.plane.epochs.read(slot("library/app")), before, "once is enough");
    // A manifest or a mount may be the first thing that is written as well.
    for number in 0..2 {
        let text = format!("acme/first{number}");
        let before = rig.plane.epochs.read(slot(&text));
        match number {
            0 => drop(rig.plane.put(&text, "1", &index(&[])).await.unwrap()),
            _ => assert!(rig.plane.mount(&text, blob, None).await),
        }
        assert_ne!(rig.plane.epochs.read(slot(&text)), before, "{text}");
    }
}
