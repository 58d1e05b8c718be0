//! Tags are linearizable, also through caches that keep a *yes* by its epoch (design invariant 7).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use control::{Epoch, Slot};
use oci::Digest;

use crate::harness::{Directory, Plane, name};

/// What a core keeps of one tag: the answer, and the epoch that was read before it was asked for.
struct Cached {
    digest: Digest,
    epoch: Epoch,
}

async fn get(plane: &Plane, slot: Slot, cache: &mut Option<Cached>) -> (Digest, bool) {
    if let Some(cached) = cache
        && plane.epochs.holds(slot, cached.epoch)
    {
        return (cached.digest, true);
    }
    let epoch = plane.epochs.read(slot);
    let digest = plane.get("a/one", "latest").await.unwrap().digest;
    *cache = epoch.map(|epoch| Cached { digest, epoch });
    (digest, false)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_never_sees_a_tag_go_back() {
    const PUSHES: u64 = 60;
    let directory = Directory::new();
    let plane = Arc::new(Plane::open(&directory));
    let mut bodies = Vec::new();
    for number in 0..PUSHES {
        bodies.push(plane.image_of("a/one", &number.to_string()).await);
    }
    let digests: Arc<Vec<Digest>> = Arc::new(bodies.iter().map(crate::harness::digest_of).collect());
    plane.put("a/one", "latest", &bodies[0]).await.unwrap();

    let started = Arc::new(AtomicU64::new(0));
    let acknowledged = Arc::new(AtomicU64::new(0));
    let seen = Arc::new(AtomicU64::new(0));
    let mut readers = Vec::new();
    for _ in 0..3 {
        let (plane, digests) = (Arc::clone(&plane), Arc::clone(&digests));
        let (started, acknowledged, seen) =
            (Arc::clone(&started), Arc::clone(&acknowledged), Arc::clone(&seen));
        readers.push(tokio::spawn(async move {
            let slot = plane.epochs.of_repository(&name("a/one"));
            let mut cache = None;
            let (mut hits, mut reads) = (0_u64, 0_u64);
            while acknowledged.load(Ordering::SeqCst) < PUSHES - 1 {
                let at_least = acknowledged.load(Ordering::SeqCst).max(seen.load(Ordering::SeqCst));
                let (digest, hit) = get(&plane, slot, &mut cache).await;
                let at_most = started.load(Ordering::SeqCst);
                let version = digests.iter().position(|known| *known == digest).unwrap() as u64;
                assert!(at_least <= version, "read {version} after {at_least}, from the cache: {hit}");
                assert!(version <= at_most, "read {version} before it was pushed");
                seen.fetch_max(version, Ordering::SeqCst);
                hits += u64::from(hit);
                reads += 1;
                tokio::task::yield_now().await;
            }
            (hits, reads)
        }));
    }
    let noise = {
        let (plane, acknowledged) = (Arc::clone(&plane), Arc::clone(&acknowledged));
        tokio::spawn(async move {
            let mut number = 0;
            while acknowledged.load(Ordering::SeqCst) < PUSHES - 1 {
                plane.push("b/other", &format!("noise {number}")).await;
                number += 1;
            }
        })
    };
    for (number, body) in (0..).zip(&bodies).skip(1) {
        started.store(number, Ordering::SeqCst);
        plane.put("a/one", "latest", body).await.unwrap();
        acknowledged.store(number, Ordering::SeqCst);
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    let (mut hits, mut reads) = (0, 0);
    for reader in readers {
        let counted = reader.await.unwrap();
        hits += counted.0;
        reads += counted.1;
    }
    noise.await.unwrap();
    assert!(hits > 0 && hits < reads, "the model cached {hits} of {reads}: nothing was tested");
}

#[tokio::test]
async fn a_moved_tag_leaves_the_old_manifest() {
    let directory = Directory::new();
    let plane = Plane::open(&directory);
    let old = plane.push_image("a/one", "latest", "old").await;
    let new = plane.push_image("a/one", "latest", "new").await;
    assert_eq!(plane.get("a/one", "latest").await.unwrap().digest, new);
    assert_eq!(plane.get("a/one", &old.to_string()).await.unwrap().digest, old);
}
