//! Bodies that break: never complete by mistake, never more than announced; and readers that are slow or go away.

use std::time::Duration;

use control::Memory;
use controlplane::{limits, upstream::Failure};
use faults::{Fault, On, Registry};
use oci::Problem;

use super::rig::*;

const LENGTH: usize = 1_000_003;

#[tokio::test]
async fn a_cut_body_ends_with_an_error() {
    let registry = Registry::start();
    let (digest, bytes) = blob(&registry, LENGTH);
    let upstream = client(&registry);
    for at in [0, 1, LENGTH / 2, LENGTH * 99 / 100, LENGTH - 1] {
        for fault in [Fault::Reset { at: at as u64 }, Fault::Truncated { at: at as u64 }] {
            registry.script(On::get("/blobs/"), fault.clone());
            let body = fetch(&upstream, &digest, 0, None).await;
            assert!(
                matches!(body.broken, Some(Problem::UpstreamUnreachable { .. })),
                "{fault:?}: {:?}",
                body.broken
            );
            assert!(bytes.starts_with(&body.bytes) && body.bytes.len() <= at, "{fault:?}");
            registry.heal();
            let rest = fetch(&upstream, &digest, body.bytes.len() as u64, None).await;
            assert!(rest.broken.is_none() && rest.bytes == bytes[body.bytes.len()..], "{fault:?}");
        }
    }
    assert_eq!(upstream.metrics().read().broken_bodies, 10);
}

#[tokio::test]
async fn a_chunked_body_that_is_cut_is_not_complete() {
    let registry = Registry::start();
    let (digest, _) = blob(&registry, LENGTH);
    let upstream = client(&registry);
    registry.script(On::get("/blobs/"), Fault::Chunked);
    registry.script(On::get("/blobs/"), Fault::Truncated { at: 500_000 });
    let body = fetch(&upstream, &digest, 0, None).await;
    assert!(matches!(body.broken, Some(Problem::UpstreamUnreachable { .. })), "{:?}", body.broken);
}

#[tokio::test]
async fn a_stalled_body_ends_with_a_timeout() {
    let registry = Registry::start();
    let (digest, _) = blob(&registry, LENGTH);
    let upstream = client_with(&registry, |all| all.timeouts.stall = Duration::from_millis(300));
    registry.script(On::get("/blobs/"), Fault::Stall { at: 500_000 });
    let body = fetch(&upstream, &digest, 0, None).await;
    assert_eq!((body.broken, body.bytes.len()), (Some(Problem::UpstreamTimeout), 500_000));
}

#[tokio::test]
async fn a_slow_body_is_not_a_stalled_one() {
    let registry = Registry::start();
    let (digest, bytes) = blob(&registry, 3000);
    let upstream = client_with(&registry, |all| all.timeouts.stall = Duration::from_secs(2));
    registry.script(On::get("/blobs/"), Fault::Slow { bytes_per_s: 1000 });
    let body = fetch(&upstream, &digest, 0, None).await;
    assert!(body.broken.is_none() && body.bytes == bytes);
}

#[tokio::test]
async fn a_body_that_crawls_for_longer_than_its_grace_ends_with_a_timeout() {
    let registry = Registry::start();
    let (digest, _) = blob(&registry, LENGTH);
    let upstream = client_with(&registry, |all| {
        all.timeouts.body_rate_min_bytes = 10_000;
        all.timeouts.body_rate_grace = Duration::from_millis(300);
    });
    registry.script(On::get("/blobs/").times(1), Fault::Slow { bytes_per_s: 1000 });
    let body = fetch(&upstream, &digest, 0, None).await;
    assert_eq!(body.broken, Some(Problem::UpstreamTimeout));
    assert!(!body.bytes.is_empty() && body.bytes.len() < LENGTH);
}

#[tokio::test]
async fn what_our_own_limit_takes_is_not_slow() {
    let registry = Registry::start();
    let (digest, bytes) = blob(&registry, 200_000);
    let upstream = client_with(&registry, |all| {
        // Each gets a quarter of the least, for more than its grace.
        all.bytes_per_second_max = Some(100_000);
        all.timeouts.body_rate_min_bytes = 200_000;
        all.timeouts.body_rate_grace = Duration::from_millis(1500);
    });
    let whole = || fetch(&upstream, &digest, 0, None);
    let (one, other) = tokio::join!(whole(), whole());
    for body in [one, other] {
        assert!(body.broken.is_none() && body.bytes == bytes);
    }
}

#[tokio::test]
async fn a_length_that_lies_is_what_is_handed_on() {
    let registry = Registry::start();
    let (digest, bytes) = blob(&registry, LENGTH);
    let upstream = client(&registry);
    registry.script(On::get("/blobs/").times(1), Fault::TruncatedAsAnnounced { at: 5 });
    let body = fetch(&upstream, &digest, 0, None).await;
    assert_eq!((body.size_bytes, body.broken), (Some(5), None));
    assert!(body.bytes == bytes[..5]);
    registry.script(On::get("/blobs/").times(1), Fault::ExtraBytes { bytes: 7 });
    let body = fetch(&upstream, &digest, 0, None).await;
    assert_eq!((body.size_bytes, body.bytes.len()), (Some(LENGTH as u64 + 7), LENGTH + 7));
    registry.script(On::get("/blobs/").times(1), Fault::WrongBytes);
    let body = fetch(&upstream, &digest, 0, None).await;
    assert!(body.broken.is_none() && body.bytes != bytes && body.bytes.len() == LENGTH);
    // Of a part no more is taken than was announced.
    registry.script(On::get("/blobs/").times(1), Fault::Chunked);
    registry.script(On::get("/blobs/").times(1), Fault::ExtraBytes { bytes: 7 });
    let body = fetch(&upstream, &digest, 10, Some(20)).await;
    assert!(matches!(body.broken, Some(Problem::UpstreamMisbehaved { .. })), "{:?}", body.broken);
    assert!(body.bytes == bytes[10..20]);
}

/// PIECES, READ_BYTES: what nobody takes stays in the socket.
#[tokio::test]
async fn a_body_that_nobody_takes_is_not_read() {
    const BIG: usize = 64 << 20;
    let registry = Registry::start();
    let (digest, bytes) = blob(&registry, BIG);
    let upstream = client(&registry);
    let fetched = upstream.blob(&repository(), &digest, 0, None, Memory::counted()).await.unwrap().unwrap();
    // Until the sockets are full: it stands still between two looks.
    let mut before = u64::MAX;
    while registry.sent_bytes("/blobs/") != before {
        before = registry.sent_bytes("/blobs/");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(before < BIG as u64 / 2, "{before}");
    let read = upstream.metrics().read().bytes;
    assert!(read <= (limits::PIECES * limits::READ_BYTES) as u64, "{read}");
    let body = body(fetched).await;
    assert!(body.broken.is_none() && body.bytes == bytes);
}

/// What came counts until it is dropped, and what there is no room for waits; before its gate is opened, all of it does.
#[tokio::test]
async fn a_body_waits_for_its_room_in_memory() {
    const ROOM_BYTES: u64 = 2 * limits::READ_BYTES as u64;
    let registry = Registry::start();
    let (digest, bytes) = blob(&registry, 4 << 20);
    let upstream = client(&registry);
    let all = Memory::new(ROOM_BYTES);
    let (memory, gate) = all.gated();
    let repository = repository();
    let fetch = |memory| upstream.blob(&repository, &digest, 0, None, memory);
    let mut first = fetch(memory).await.unwrap().unwrap();
    let mut second = fetch(all.clone()).await.unwrap().unwrap();
    let mut lens = [0, 0];
    let mut held = vec![second.bytes.recv().await.unwrap().unwrap()];
    lens[1] += held[0].len();
    assert!(first.bytes.is_empty(), "its gate is shut");
    gate.open();
    // Which of the two has the rest of the room is not said, so whichever has something gives it: to wait for one of them
    // would be to wait for what the other one holds.
    while all.held_bytes() < ROOM_BYTES / 2 {
        let (which, piece) = tokio::select! {
            piece = first.bytes.recv() => (0, piece),
            piece = second.bytes.recv() => (1, piece),
        };
        held.push(piece.unwrap().unwrap());
        lens[which] += held[held.len() - 1].len();
    }
    assert!(all.held_bytes() <= ROOM_BYTES);
    drop(held);
    let (first, second) = tokio::join!(body(first), body(second));
    for (body, len) in [(first, lens[0]), (second, lens[1])] {
        assert!(body.broken.is_none() && body.bytes == bytes[len..]);
    }
    assert_eq!(all.held_bytes(), 0);
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_the_transfer() {
    let registry = Registry::start();
    let (digest, bytes) = blob(&registry, 64 << 20);
    let upstream = client_with(&registry, |all| all.connections_max = 2);
    for fault in [None, Some(Fault::Stall { at: 100_000 })] {
        if let Some(fault) = fault {
            registry.script(On::get("/blobs/").times(1), fault);
        }
        let mut fetched =
            upstream.blob(&repository(), &digest, 0, None, Memory::counted()).await.unwrap().unwrap();
        fetched.bytes.recv().await.unwrap().unwrap();
        drop(fetched);
    }
    // Its place is free again: there is only one.
    let body = fetch(&upstream, &digest, 0, Some(1000)).await;
    assert!(body.bytes == bytes[..1000]);
    assert!(registry.sent_bytes("/blobs/") < 64 << 20);
}

#[tokio::test]
async fn only_so_many_ask_at_the_same_time() {
    let registry = Registry::start();
    let (digest, _) = blob(&registry, 4 << 20);
    registry.push_image(NAME, "latest", &[100]);
    let upstream = client_with(&registry, |all| {
        all.connections_max = 2;
        all.timeouts.budget_wait = Duration::from_millis(50);
    });
    let held = upstream.blob(&repository(), &digest, 0, None, Memory::counted()).await.unwrap().unwrap();
    assert_eq!(refused(&upstream, &digest, 0, None).await, Failure::BudgetSpent { retry_after_s: 1 });
    // Documents have a place of their own.
    assert!(pull(&upstream, "latest").await.unwrap().is_some());
    drop(held);
    // The place is given back behind our back.
    let begun = std::time::Instant::now();
    while upstream.blob(&repository(), &digest, 0, Some(1), Memory::counted()).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
}
