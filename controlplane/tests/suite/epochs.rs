//! What takes a *yes* away moves the epoch of its repository before it is answered; nothing else does.

use control::Epoch;

use crate::harness::{Directory, Plane, name};

fn epoch(plane: &Plane, repository: &str) -> Epoch {
    plane.epochs.read(plane.epochs.of_repository(&name(repository))).unwrap()
}

#[tokio::test]
async fn what_only_adds_moves_none() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let before = epoch(&plane, "a/one");
    let blob = plane.push("a/one", "hello").await;
    let body = plane.image_of("a/one", "x").await;
    plane.put("a/one", "v1", &body).await.unwrap();
    plane.put("a/one", "v1", &body).await.unwrap();
    plane.put("a/one", "v2", &body).await.unwrap();
    plane.push("a/one", "hello").await;
    assert!(plane.mount("a/one", blob, None).await);
    assert_eq!(epoch(&plane, "a/one"), before);
}

#[tokio::test]
async fn what_takes_away_or_moves_does() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let blob = plane.push("a/one", "hello").await;
    let old = plane.push_image("a/one", "v1", "old").await;
    let new = plane.image_of("a/one", "new").await;
    let elsewhere = epoch(&plane, "b/other");
    let mut last = epoch(&plane, "a/one");
    let mut moved = |what: &str| {
        let now = epoch(&plane, "a/one");
        assert_ne!(std::mem::replace(&mut last, now), now, "{what} moved no epoch");
    };
    plane.put("a/one", "v1", &new).await.unwrap();
    moved("a tag that went to another digest");
    plane.delete("a/one", "v1").await.unwrap();
    moved("a deleted tag");
    plane.delete("a/one", &old.to_string()).await.unwrap();
    moved("a deleted manifest");
    plane.delete_blob("a/one", blob).await.unwrap();
    moved("a deleted link");
    assert_eq!(epoch(&plane, "b/other"), elsewhere);
}

#[tokio::test]
async fn what_was_refused_moves_none() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let image = plane.push_image("a/one", "v1", "x").await;
    let before = epoch(&plane, "a/one");
    assert!(plane.delete_blob("a/one", crate::harness::sha256("layer of x")).await.is_err());
    assert!(plane.delete("a/one", "v9").await.is_err());
    let unmet = crate::harness::if_match("\"sha256:other\"");
    assert!(plane.delete_if("a/one", &image.to_string(), unmet).await.is_err());
    assert_eq!(epoch(&plane, "a/one"), before);
}
