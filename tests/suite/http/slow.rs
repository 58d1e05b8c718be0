//! Slow and stalling peers: every wait has an end (design.md §8), tried with all times divided by about 20.

use std::time::{Duration, Instant};

use crate::harness::{Client, Launch, Leg, Server, legs, noise, setting, wait_for};

const SHORT: Duration = Duration::from_millis(500);

fn hurried(leg: Leg) -> Server {
    let launch = Launch::on(leg)
        .set(setting::HEADER_TIMEOUT, "500ms")
        .set(setting::BODY_STALL_TIMEOUT, "1500ms")
        .set(setting::BODY_RATE_GRACE, "500ms")
        .set(setting::SEND_STALL_TIMEOUT, "1s")
        .set(setting::IDLE_TIMEOUT, "1s");
    launch.start()
}

/// Waits for the end of the connection; returns how long that took, and the status if there was one.
#[track_caller]
fn until_the_end(client: &mut Client, since: Instant) -> (Duration, Option<u16>) {
    let status = client.try_read("GET").ok().flatten().map(|answer| answer.status);
    assert!(client.ends(), "the connection is still open {:?} later", since.elapsed());
    (since.elapsed(), status)
}

#[track_caller]
fn assert_between(took: Duration, least: Duration, most: Duration) {
    assert!(took >= least && took <= most, "after {took:?}, not between {least:?} and {most:?}");
}

legs! {
    alone:

    fn a_head_that_does_not_come(leg) {
        let server = hurried(leg);
        let mut client = server.client();
        client.send_bytes(b"GET /v2/ HT");
        let (took, status) = until_the_end(&mut client, Instant::now());
        assert!(matches!(status, Some(408) | None), "{status:?}");
        assert_between(took, SHORT - Duration::from_millis(50), SHORT * 4);
    }

    /// The deadline is for the whole head: a byte now and then does not move it.
    fn a_head_that_comes_in_drops(leg) {
        let server = hurried(leg);
        let mut client = server.client();
        let since = Instant::now();
        for byte in b"GET /v2/ HTTP/1.1\r\nHost: r\r\nX-Slow: " {
            client.send_bytes(&[*byte]);
            std::thread::sleep(Duration::from_millis(40));
        }
        let (_, status) = until_the_end(&mut client, since);
        assert!(matches!(status, Some(408) | None), "{status:?}");
    }

    fn the_second_head_has_a_deadline_too(leg) {
        let server = hurried(leg);
        let mut client = server.client();
        client.get("/v2/").expect(200);
        client.send_bytes(b"GET /v2/ HT");
        let (took, _) = until_the_end(&mut client, Instant::now());
        assert!(took < SHORT * 4, "{took:?}");
    }

    fn many_slow_heads_delay_nobody(leg) {
        let server = hurried(leg);
        let mut slow: Vec<_> = (0..200).map(|_| server.client()).collect();
        for client in &mut slow {
            client.send_bytes(b"GET /v2/ HTTP/1.1\r\nX:");
        }
        let since = Instant::now();
        for _ in 0..20 {
            server.client().get("/v2/").expect(200);
        }
        assert!(since.elapsed() < Duration::from_secs(2), "{:?} for 20 requests", since.elapsed());
        for client in &mut slow {
            until_the_end(client, since);
        }
    }

    fn an_idle_connection_is_closed(leg) {
        let server = hurried(leg);
        let mut fresh = server.client();
        fresh.connect().unwrap();
        let mut used = server.client();
        used.get("/v2/").expect(200);
        for client in [&mut fresh, &mut used] {
            let since = Instant::now();
            assert!(client.ends(), "without an answer to a question that nobody asked");
            assert!(since.elapsed() < Duration::from_secs(4), "{:?}", since.elapsed());
        }
    }

    fn a_connection_in_use_is_not_closed(leg) {
        let server = hurried(leg);
        let mut client = server.client();
        client.get("/v2/").expect(200);
        let local = client.stream().local_addr().unwrap();
        for _ in 0..6 {
            std::thread::sleep(SHORT);
            client.get("/v2/").expect(200);
        }
        assert_eq!(client.stream().local_addr().unwrap(), local);
    }

    /// Closed, and what came is kept.
    fn a_body_that_stalls(leg) {
        let server = hurried(leg);
        let bytes = noise(1300, 50_000);
        let location = server.client().open_upload("slow/stall");
        let mut client = server.client();
        let head = format!("PATCH {location} HTTP/1.1\r\nHost: r\r\nContent-Length: 50000\r\n\r\n");
        client.send_bytes(&[head.as_bytes(), &bytes[..30_000]].concat());
        let (took, status) = until_the_end(&mut client, Instant::now());
        assert!(matches!(status, Some(408) | None), "{status:?}");
        assert_between(took, Duration::from_millis(1400), Duration::from_secs(6));
        let mut client = server.client();
        assert_eq!(client.upload_offset(&location), 30_000);
        client.patch_at(&location, 30_000, &bytes[30_000..]).expect(202);
        client.close_upload(&location, crate::harness::sha256(&bytes)).expect(201);
    }

    /// Never a stall, but below the least rate for longer than the grace.
    fn a_body_that_drips(leg) {
        let server = hurried(leg);
        let location = server.client().open_upload("slow/drip");
        let mut client = server.client();
        let head = format!("PATCH {location} HTTP/1.1\r\nHost: r\r\nContent-Length: 50000\r\n\r\n");
        client.send_bytes(head.as_bytes());
        let since = Instant::now();
        for _ in 0..40 {
            client.send_bytes(b"drop");
            std::thread::sleep(Duration::from_millis(100));
        }
        until_the_end(&mut client, since);
        let kept = server.client().upload_offset(&location);
        assert!(kept > 0 && kept < 160, "kept {kept}: what came before it was closed");
    }

    fn a_slow_body_above_the_least_rate_is_taken(leg) {
        let server = hurried(leg);
        let bytes = noise(1301, 20_000);
        let mut client = server.client();
        let location = client.open_upload("slow/enough");
        let head = format!("PATCH {location} HTTP/1.1\r\nHost: r\r\nContent-Length: 20000\r\n\r\n");
        client.send_bytes(head.as_bytes());
        for part in bytes.chunks(1000) {
            client.send_bytes(part);
            std::thread::sleep(Duration::from_millis(100));
        }
        client.read("PATCH").expect(202);
    }

    fn a_manifest_body_that_stalls(leg) {
        let server = hurried(leg);
        let mut client = server.client();
        client.send_bytes(b"PUT /v2/slow/m/manifests/v1 HTTP/1.1\r\nHost: r\r\nContent-Length: 100\r\n\r\n{");
        let (took, status) = until_the_end(&mut client, Instant::now());
        assert!(matches!(status, Some(408) | None), "{status:?}");
        assert!(took < Duration::from_secs(6), "{took:?}");
    }

    /// The reader takes nothing: the connection is closed, its place is free again.
    fn a_reader_that_takes_nothing(leg) {
        let server = hurried(leg);
        let bytes = noise(1302, 32 << 20);
        let digest = server.client().push_blob("slow/reader", &bytes);
        let mut stuck: Vec<_> = (0..10).map(|_| server.client()).collect();
        for client in &mut stuck {
            let request = client.request("GET", format!("/v2/slow/reader/blobs/{digest}")).to_bytes();
            client.send_bytes(&request);
        }
        for client in &mut stuck {
            assert!(client.read_some(1) > 0, "its body has begun");
        }
        wait_for("all but the one that asks are closed", || {
            let health = server.health();
            let cores = health["cores"].as_array().unwrap();
            let open: u64 = cores.iter().map(|core| core["connections"].as_u64().unwrap()).sum();
            open <= 2
        });
        for client in &mut stuck {
            assert!(client.read_some(33 << 20) < 32 << 20, "the body was cut off");
        }
    }
}
