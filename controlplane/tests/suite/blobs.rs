//! Links are permission: a repository serves what was pushed or mounted into it, and nothing else
//! (end-2, end-4, end-10, end-11).

use oci::{Algorithm, Digest, Problem};

use crate::harness::{Directory, Plane, name, sha256};

#[tokio::test]
async fn a_pushed_blob_is_linked_in_its_repository_only() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let digest = plane.push("a/one", "hello").await;
    assert_eq!(plane.link("a/one", digest).await, Some(5));
    assert_eq!(plane.link("a/two", digest).await, None);
    assert_eq!(plane.link("a/one", sha256("other")).await, None);
    assert_eq!(plane.home(vec![sha256("other"), digest]).await.unwrap(), [None, Some(5)]);
}

#[tokio::test]
async fn every_algorithm_is_linked_mounted_and_deleted_alike() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    for algorithm in Algorithm::ALL {
        let digest = Digest::of(algorithm, b"hello");
        plane.push_as("a/one", digest, 5).await;
        assert_eq!(plane.link("a/one", digest).await, Some(5), "{digest}");
        assert!(plane.mount("a/two", digest, Some("a/one")).await, "{digest}");
        plane.delete_blob("a/one", digest).await.unwrap();
        assert_eq!(plane.link("a/one", digest).await, None, "{digest}");
        assert_eq!(plane.link("a/two", digest).await, Some(5), "{digest}");
    }
}

#[tokio::test]
async fn all_blobs_that_are_home_are_given_a_page_at_a_time() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    assert_eq!(plane.control.home_after(None, 3).await.unwrap(), []);
    let mut pushed = Vec::new();
    for (number, algorithm) in Algorithm::ALL.into_iter().cycle().take(7).enumerate() {
        let digest = Digest::of(algorithm, &[u8::try_from(number).unwrap()]);
        plane.push_as("a/one", digest, number as u64).await;
        pushed.push((digest, number as u64));
    }
    let (mut found, mut after) = (Vec::new(), None);
    for len in [3, 3, 1, 0] {
        let page = plane.control.home_after(after, 3).await.unwrap();
        assert_eq!(page.len(), len);
        after = page.last().map(|(digest, _)| *digest).or(after);
        found.extend(page);
    }
    let by_digest = |(digest, _): &(Digest, u64)| digest.to_string();
    found.sort_by_key(by_digest);
    pushed.sort_by_key(by_digest);
    assert_eq!(found, pushed);
}

#[tokio::test]
async fn a_mount_needs_a_repository_that_has_the_link() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let digest = plane.push("a/one", "hello").await;
    assert!(!plane.mount("b/new", digest, Some("a/other")).await);
    assert!(!plane.mount("b/new", sha256("nowhere"), None).await);
    assert_eq!(plane.link("b/new", digest).await, None);
    assert!(plane.mount("b/new", digest, Some("a/one")).await);
    assert_eq!(plane.link("b/new", digest).await, Some(5));
    assert!(plane.mount("b/any", digest, None).await);
    assert_eq!(plane.link("b/any", digest).await, Some(5));
}

#[tokio::test]
async fn a_refused_mount_makes_no_repository() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    assert!(!plane.mount("b/new", sha256("nowhere"), None).await);
    assert_eq!(plane.list("/v2/_catalog").await.names("repositories"), Vec::<String>::new());
}

#[tokio::test]
async fn deleting_takes_this_repositorys_link_alone() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let digest = plane.push("a/one", "hello").await;
    assert!(plane.mount("a/two", digest, Some("a/one")).await);
    plane.delete_blob("a/one", digest).await.unwrap();
    assert_eq!(plane.link("a/one", digest).await, None);
    assert_eq!(plane.link("a/two", digest).await, Some(5));
    assert!(!plane.mount("a/three", digest, Some("a/one")).await);
    for repository in ["a/one", "never/heard-of"] {
        let again = plane.delete_blob(repository, digest).await;
        assert!(matches!(again, Err(Problem::BlobUnknown(unknown)) if unknown == digest));
    }
}

#[tokio::test]
async fn a_blob_that_a_live_manifest_names_is_held() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let image = plane.push_image("a/one", "v1", "x").await;
    let layer = sha256("layer of x");
    for held in [layer, sha256("config of x")] {
        let refused = plane.delete_blob("a/one", held).await;
        let Err(Problem::BlobReferenced { digest, by }) = refused else { panic!("{held} was let go") };
        assert_eq!((digest, by), (held, image));
    }
    // Another repository's manifest holds nothing here.
    assert!(plane.mount("a/two", layer, Some("a/one")).await);
    plane.delete_blob("a/two", layer).await.unwrap();
    plane.delete("a/one", &image.to_string()).await.unwrap();
    plane.delete_blob("a/one", layer).await.unwrap();
    assert_eq!(plane.link("a/one", layer).await, None);
}

#[tokio::test]
async fn the_last_link_leaves_a_tombstone_that_a_push_clears() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let digest = plane.push("a/one", "hello").await;
    assert!(plane.mount("a/two", digest, Some("a/one")).await);
    let tables = directory.tables();
    let blob = || {
        let sql = "SELECT tombstone_at IS NOT NULL, generation FROM blob";
        tables.query_row(sql, [], |row| Ok((row.get::<_, bool>(0)?, row.get::<_, i64>(1)?))).unwrap()
    };
    plane.delete_blob("a/one", digest).await.unwrap();
    assert_eq!(blob(), (false, 1));
    plane.delete_blob("a/two", digest).await.unwrap();
    assert_eq!(blob(), (true, 1));
    // The bytes are still home: the keeper may keep its file, and say so by a commit.
    assert_eq!(plane.home(vec![digest]).await.unwrap(), [Some(5)]);
    assert!(!plane.mount("a/one", digest, None).await);
    plane.push("a/one", "hello").await;
    assert_eq!(blob(), (false, 2));
    assert_eq!(plane.link("a/one", digest).await, Some(5));
}

#[tokio::test]
async fn opening_an_upload_makes_no_repository() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    plane.control.open_upload(name("a/one"), crate::harness::NOBODY).await.unwrap();
    assert_eq!(plane.list("/v2/_catalog").await.names("repositories"), Vec::<String>::new());
    assert_eq!(plane.counts().batches, 0);
}

/// A blob that is here already was not looked at because somebody pushed it once more.
#[tokio::test]
async fn a_second_push_says_nothing_of_the_bytes_that_are_kept() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let verified = || {
        let sql = "SELECT verified_at FROM blob";
        directory.tables().query_row(sql, [], |row| row.get::<_, i64>(0)).unwrap()
    };
    plane.push("a/one", "hello").await;
    let first = verified();
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    plane.push("a/two", "hello").await;
    assert_eq!(verified(), first);
}
