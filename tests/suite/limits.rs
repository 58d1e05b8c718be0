//! A test for each bound of the server that can be reached from outside (design.md §8), at the bound and beyond.
//!
//! Elsewhere: times in `http/slow.rs` and `durable/stop.rs`; manifest size, depth, descriptors and tags in
//! `wire/manifest_rules.rs` and `wire/manifests.rs`; ranges in `wire/ranges.rs`; pages in `wire/tags.rs`; blob
//! length in `wire/uploads.rs`; the reserve in `durable/disk_full.rs`; session age in `durable/sessions.rs`.

use std::time::Duration;

use crate::harness::{Launch, Server, legs, media, noise, setting, wait_for};

/// A head of exactly so many bytes, from the method to the empty line.
fn head_of(bytes: usize) -> Vec<u8> {
    let start = "GET /v2/ HTTP/1.1\r\nHost: r\r\n";
    let mut head = start.to_owned();
    let mut field = 0;
    while head.len() + 2 < bytes {
        let room = (bytes - head.len() - 2).min(4000);
        let room = if bytes - head.len() - 2 - room < 20 { bytes - head.len() - 2 } else { room };
        let name = format!("X{field}: ");
        head += &format!("{name}{}\r\n", "y".repeat(room - name.len() - 2));
        field += 1;
    }
    head += "\r\n";
    assert_eq!(head.len(), bytes);
    head.into_bytes()
}

legs! {
    fn head_bytes(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        client.send_bytes(&head_of(32 * 1024));
        client.read("GET").expect(200);
        let mut client = server.client();
        client.send_bytes(&head_of(32 * 1024 + 1));
        client.read("GET").expect(431);
        assert!(client.ends());
    }

    fn target_bytes(leg) {
        let server = Server::start(leg);
        let target = |bytes: usize| format!("/v2/_catalog?x={}", "y".repeat(bytes - "/v2/_catalog?x=".len()));
        server.client().get(target(8 * 1024)).expect(200);
        let mut client = server.client();
        let request = client.request("GET", target(8 * 1024 + 1)).to_bytes();
        client.send_bytes(&request);
        client.read("GET").expect(414);
        assert!(client.ends());
    }

    fn header_fields(leg) {
        let server = Server::start(leg);
        for (fields, status) in [(100, 200), (101, 431)] {
            let mut client = server.client();
            let mut request = client.request("GET", "/v2/");
            for number in 1..fields {
                request = request.header(&format!("X-{number}"), "y");
            }
            let request = request.to_bytes();
            client.send_bytes(&request);
            client.read("GET").expect(status);
        }
    }

    fn requests_of_a_connection(leg) {
        let server = Launch::on(leg).set(setting::REQUESTS_PER_CONNECTION, 5).start();
        let mut client = server.client();
        for number in 1..=5 {
            let request = client.request("GET", "/v2/").to_bytes();
            client.send_bytes(&request);
            assert_eq!(client.read("GET").expect(200).closes(), number == 5, "request {number}");
        }
        assert!(client.ends());
    }

    fn connections_of_the_process(leg) {
        let server = Launch::on(leg).set(setting::CONNECTIONS, 20).expects_log("connection").start();
        let mut held: Vec<_> = (0..20).map(|_| server.client()).collect();
        let mut refused = 0;
        for client in &mut held {
            match client.connect().and_then(|()| client.request("GET", "/v2/").try_send()) {
                Ok(answer) if answer.status == 200 => {}
                Ok(answer) => {
                    assert_eq!(answer.status, 503, "{}", answer.text());
                    refused += 1;
                }
                Err(_) => refused += 1,
            }
        }
        assert!(refused <= 1, "20 connections fit; the one that asked /readyz may still count: {refused}");
        let mut over = server.client().timeout(Duration::from_secs(5));
        let answer = over.connect().and_then(|()| over.request("GET", "/v2/").try_send());
        match answer {
            Ok(answer) => assert!(answer.status == 503 && answer.closes(), "{}", answer.text()),
            Err(error) => assert!(error.kind() != std::io::ErrorKind::WouldBlock, "it was left waiting: {error}"),
        }
        held.clear();
        wait_for("there is room again", Duration::from_secs(5), || {
            let mut client = server.client();
            client.connect().and_then(|()| client.request("GET", "/v2/").try_send()).is_ok_and(|answer| answer.status == 200)
        });
    }

    /// Memory does not follow the size of what is pushed or pulled, nor the number of sessions.
    fn memory(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        client.push_blob("limits/memory", &noise(1400, 1 << 20));
        let before = server.resident_bytes();
        let bytes = noise(1401, 96 << 20);
        let location = client.open_upload("limits/memory");
        client.request("PATCH", &location).chunks(bytes.chunks(1 << 20)).send().expect(202);
        let digest = crate::harness::sha256(&bytes);
        client.close_upload(&location, digest).expect(201);
        client.assert_blob("limits/memory", digest, &bytes);
        let grown = server.resident_bytes().saturating_sub(before);
        assert!(grown < 48 << 20, "96 MiB were pushed and pulled: {} MiB more memory", grown >> 20);
    }

    /// Bodies that are collected come out of a budget: beyond it 503 with Retry-After, and never more memory.
    fn collected_bodies(leg) {
        let server = Launch::on(leg).cores(1).start();
        let before = server.resident_bytes();
        let mut clients: Vec<_> = (0..40).map(|_| server.client()).collect();
        let body = vec![b' '; (4 << 20) - 1];
        let mut refused = 0;
        for (number, client) in clients.iter_mut().enumerate() {
            let head = format!(
                "PUT /v2/limits/bodies/manifests/t{number} HTTP/1.1\r\nHost: r\r\nContent-Type: {}\r\nContent-Length: {}\r\n\r\n",
                media::IMAGE, 4 << 20,
            );
            client.send_bytes(head.as_bytes());
            client.stream().set_write_timeout(Some(Duration::from_secs(2))).unwrap();
            client.send_bytes(&body);
        }
        let grown = server.resident_bytes().saturating_sub(before);
        assert!(grown < 112 << 20, "160 MiB of bodies wait: {} MiB more memory", grown >> 20);
        for client in &mut clients {
            client.send_bytes(b" ");
            match client.try_read("PUT") {
                Ok(Some(answer)) if answer.status == 503 => {
                    answer.header("retry-after");
                    refused += 1;
                }
                Ok(Some(answer)) => assert_eq!(answer.status, 400, "{}", answer.text()),
                Ok(None) | Err(_) => refused += 1,
            }
        }
        assert!(refused > 0, "160 MiB do not fit a budget of 64");
        server.client().push_image("limits/bodies", "after", 1402);
    }
}
