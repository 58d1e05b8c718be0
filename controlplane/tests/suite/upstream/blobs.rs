//! Blobs: whole, from a place on, a part; and what a range may be answered with.

use control::Memory;
use faults::{Fault, On, Registry};
use oci::{Algorithm, Digest};

use super::rig::*;

const LENGTH: usize = 1_000_003;

#[tokio::test]
async fn a_blob_comes_whole_or_in_part() {
    let registry = Registry::start();
    let (digest, bytes) = blob(&registry, LENGTH);
    let upstream = client(&registry);
    let size = LENGTH as u64;
    for (from, to) in [
        (0, None),
        (1, None),
        (size - 1, None),
        (0, Some(size)),
        (0, Some(1)),
        (77_777, Some(500_000)),
        (size - 5, Some(size + 500)),
    ] {
        let body = fetch(&upstream, &digest, from, to).await;
        let end = to.map_or(LENGTH, |to| LENGTH.min(to as usize));
        assert_eq!((body.start, body.size_bytes, body.broken), (from, Some(size), None), "{from} {to:?}");
        assert!(body.bytes == bytes[from as usize..end], "{from} {to:?}");
    }
    let ranges: Vec<_> = registry.seen().iter().map(|seen| seen.header("range").map(str::to_owned)).collect();
    assert_eq!(ranges[..2], [None, Some("bytes=1-".to_owned())]);
    assert_eq!(ranges[4].as_deref(), Some("bytes=0-0"));
}

#[tokio::test]
async fn what_is_not_there_is_not_a_failure() {
    let registry = Registry::start();
    let upstream = client(&registry);
    let digest = Digest::of(Algorithm::Sha256, b"nowhere");
    assert!(upstream.blob(&repository(), &digest, 0, None, Memory::counted()).await.unwrap().is_none());
    assert_eq!(upstream.describe_blob(&repository(), &digest).await, Ok(None));
}

#[tokio::test]
async fn a_range_that_is_ignored_gives_the_whole() {
    let registry = Registry::start();
    let (digest, bytes) = blob(&registry, LENGTH);
    let upstream = client(&registry);
    registry.script(On::get("/blobs/"), Fault::RangeIgnored);
    let body = fetch(&upstream, &digest, 5000, Some(6000)).await;
    assert_eq!((body.start, body.size_bytes, body.broken), (0, Some(LENGTH as u64), None));
    assert!(body.bytes == bytes);
}

#[tokio::test]
async fn another_range_than_was_asked_is_refused() {
    let registry = Registry::start();
    let (digest, _) = blob(&registry, LENGTH);
    let upstream = client(&registry);
    for fault in [
        Fault::RangeShifted { by: 1 },
        Fault::RangeShortened { by: 1 },
        Fault::Status(416),
        Fault::WithoutHeader("content-range"),
        Fault::Header("Content-Range", "bytes 9-5/10".into()),
        Fault::Header("Content-Range", "bytes 5000-5999/1000003".into()),
    ] {
        registry.script(On::get("/blobs/"), fault.clone());
        for to in [None, Some(7000)] {
            assert!(misbehaved(&refused(&upstream, &digest, 5000, to).await), "{fault:?} {to:?}");
        }
        registry.heal();
    }
    // Without a range there is no 206, and the length has to be that of the range.
    registry.script(On::get("/blobs/"), Fault::Status(206));
    assert!(misbehaved(&refused(&upstream, &digest, 0, None).await));
    registry.heal();
    registry.script(On::get("/blobs/"), Fault::ExtraBytes { bytes: 3 });
    assert!(misbehaved(&refused(&upstream, &digest, 5000, Some(6000)).await));
}

#[tokio::test]
async fn the_total_is_told_as_it_was_said() {
    let registry = Registry::start();
    let (digest, bytes) = blob(&registry, LENGTH);
    let upstream = client(&registry);
    registry.script(On::get("/blobs/").times(1), Fault::TotalUnknown);
    let body = fetch(&upstream, &digest, 5000, None).await;
    assert_eq!((body.size_bytes, body.broken), (None, None));
    assert!(body.bytes == bytes[5000..]);
    // A part of a blob that has grown: it is not ours to say which total was right.
    registry.script(On::get("/blobs/").times(1), Fault::AnotherTotal { by: 7 });
    assert_eq!(fetch(&upstream, &digest, 5000, Some(6000)).await.size_bytes, Some(LENGTH as u64 + 7));
    // To its end, the range and the total contradict each other.
    registry.script(On::get("/blobs/").times(1), Fault::AnotherTotal { by: 7 });
    assert!(misbehaved(&refused(&upstream, &digest, 5000, None).await));
}

#[tokio::test]
async fn without_a_length_a_blob_ends_where_it_ends() {
    let registry = Registry::start();
    let (digest, bytes) = blob(&registry, LENGTH);
    let upstream = client(&registry);
    for fault in [Fault::Chunked, Fault::CloseDelimited] {
        registry.script(On::get("/blobs/").times(2), fault.clone());
        let body = fetch(&upstream, &digest, 0, None).await;
        assert_eq!((body.size_bytes, body.broken), (None, None), "{fault:?}");
        assert!(body.bytes == bytes);
        let body = fetch(&upstream, &digest, 10, Some(20)).await;
        assert!(body.broken.is_none() && body.bytes == bytes[10..20], "{fault:?}");
    }
}

#[tokio::test]
async fn a_blob_is_described_without_fetching_it() {
    let registry = Registry::start();
    let (digest, _) = blob(&registry, LENGTH);
    let upstream = client(&registry);
    let size = LENGTH as u64;
    assert_eq!(upstream.describe_blob(&repository(), &digest).await, Ok(Some(Some(size))));
    assert_eq!(registry.count("GET", ""), 0);
    for status in [403, 405] {
        registry.script(On::head("/blobs/"), Fault::Status(status));
        assert_eq!(upstream.describe_blob(&repository(), &digest).await, Ok(Some(Some(size))), "{status}");
        registry.script(On::get("/blobs/"), Fault::RangeIgnored);
        assert_eq!(upstream.describe_blob(&repository(), &digest).await, Ok(Some(Some(size))), "{status}");
        registry.heal();
    }
    let ranges = registry.seen().into_iter().filter(|seen| seen.method == "GET");
    assert!(ranges.into_iter().all(|seen| seen.header("range") == Some("bytes=0-0")));
    registry.script(On::head("/blobs/"), Fault::Status(405));
    let empty = registry.push_blob(NAME, []);
    assert_eq!(upstream.describe_blob(&repository(), &empty).await, Ok(Some(Some(0))));
    registry.heal();
    registry.script(On::head("/blobs/"), Fault::Chunked);
    assert_eq!(
        upstream.describe_blob(&repository(), &digest).await,
        Ok(Some(Some(size))),
        "its range told it"
    );
    registry.script(On::get("/blobs/"), Fault::Status(500));
    assert_eq!(upstream.describe_blob(&repository(), &digest).await, Ok(Some(None)), "nobody told it");
}

#[tokio::test]
async fn an_encoded_blob_is_refused() {
    let registry = Registry::start();
    let (digest, _) = blob(&registry, LENGTH);
    let upstream = client(&registry);
    registry.script(On::get("/blobs/"), Fault::Gzip);
    assert!(misbehaved(&refused(&upstream, &digest, 0, None).await));
}

#[tokio::test]
async fn all_answers_come_over_a_connection_that_is_used_again() {
    let registry = Registry::start();
    let (digest, bytes) = blob(&registry, LENGTH);
    let upstream = client(&registry);
    for _ in 0..3 {
        assert!(fetch(&upstream, &digest, 0, None).await.bytes == bytes);
    }
    // The registry closes what is idle; who comes next does not notice.
    registry.refuse();
    registry.heal();
    assert!(fetch(&upstream, &digest, 0, None).await.bytes == bytes);
    assert_eq!(upstream.metrics().read().failures, 0);
}
