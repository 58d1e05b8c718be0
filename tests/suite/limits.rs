//! Bounds of the server as its clients meet them (design.md §8), at the bound and beyond, by the names in
//! `dataplane::limits`. `tidy` fails if a bound there has no test that names it.
//!
//! Elsewhere: queues, caches and what is kept, with a control plane that stalls, in `dataplane/tests/suite/`
//! (`full.rs`, `bounded.rs`); times in `http/slow.rs` and `durable/stop.rs`; manifests in `wire/end_7_manifest_rules.rs`;
//! ranges and pages in `wire/`; the reserve in `durable/disk_full.rs`.

use std::time::Duration;

use dataplane::limits::{
    BODIES_BYTES_PER_CORE, HEAD_BYTES_MAX, HEADER_FIELDS_MAX, MAILBOX_SOCKETS_MAX, MANIFEST_BYTES_MAX,
    OPEN_FILES_PER_CORE, PIPES_KEPT_PER_CORE, PIPES_PER_CORE, RESERVE_BYTES_MIN, TARGET_BYTES_MAX,
};

use crate::harness::{Client, Launch, Server, legs, media, noise, setting, wait_for};

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
        client.send_bytes(&head_of(HEAD_BYTES_MAX));
        client.read("GET").expect(200);
        let mut client = server.client();
        client.send_bytes(&head_of(HEAD_BYTES_MAX + 1));
        client.read("GET").expect(431);
        assert!(client.ends());
    }

    fn target_bytes(leg) {
        let server = Server::start(leg);
        let target = |bytes: usize| format!("/v2/_catalog?x={}", "y".repeat(bytes - "/v2/_catalog?x=".len()));
        server.client().get(target(TARGET_BYTES_MAX)).expect(200);
        let mut client = server.client();
        let request = client.request("GET", target(TARGET_BYTES_MAX + 1)).to_bytes();
        client.send_bytes(&request);
        client.read("GET").expect(414);
        assert!(client.ends());
    }

    fn header_fields(leg) {
        let server = Server::start(leg);
        for (fields, status) in [(HEADER_FIELDS_MAX, 200), (HEADER_FIELDS_MAX + 1, 431)] {
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
        wait_for("there is room again", || {
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
        let fit = BODIES_BYTES_PER_CORE / MANIFEST_BYTES_MAX;
        let mut clients: Vec<_> = (0..fit + 24).map(|_| server.client()).collect();
        let body = vec![b' '; MANIFEST_BYTES_MAX - 1];
        let mut refused = 0;
        for (number, client) in clients.iter_mut().enumerate() {
            let head = format!(
                "PUT /v2/limits/bodies/manifests/t{number} HTTP/1.1\r\nHost: r\r\nContent-Type: {}\r\nContent-Length: {}\r\n\r\n",
                media::IMAGE, MANIFEST_BYTES_MAX,
            );
            client.send_bytes(head.as_bytes());
            client.stream().set_write_timeout(Some(Duration::from_secs(2))).unwrap();
            client.send_bytes(&body);
        }
        let grown = server.resident_bytes().saturating_sub(before);
        let most = BODIES_BYTES_PER_CORE as u64 + (48 << 20);
        assert!(grown < most, "bodies wait: {} MiB more memory", grown >> 20);
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
        assert!(refused > 0, "they do not all fit");
        server.client().push_image("limits/bodies", "after", 1402);
    }

    /// Nothing is set: four fifths of the descriptors, or what the open files of the cores leave, or a quarter.
    fn connections_by_descriptors(leg) {
        for (descriptors, most) in [(400, 100), (OPEN_FILES_PER_CORE + 600, 600), (5600, 4480)] {
            let server = Launch::on(leg).cores(1).descriptors(descriptors as u64).start();
            wait_for("only who asks is connected", || {
                server.health()["cores"][0]["connections"] == 1
            });
            let mut held: Vec<Client> = (0..most - 1).map(|_| server.client()).collect();
            // Not more at once than wait for the core to take them up.
            for some in held.chunks_mut(MAILBOX_SOCKETS_MAX / 2) {
                for client in &mut *some {
                    let request = client.request("GET", "/v2/").to_bytes();
                    client.send_bytes(&request);
                }
                for client in some {
                    client.read("GET").expect(200);
                }
            }
            // One place is left, or who asked has it still.
            let answers: Vec<u16> = (0..3)
                .filter_map(|_| {
                    let mut over = server.client();
                    over.stream();
                    let request = over.request("GET", "/v2/").to_bytes();
                    over.send_bytes(&request);
                    let answer = over.try_read("GET").ok().flatten()?;
                    held.push(over);
                    Some(answer.status)
                })
                .collect();
            let taken = answers.iter().filter(|status| **status == 200).count();
            assert!(taken <= 1 && answers.len() > taken, "{descriptors}: {answers:?}");
        }
    }

    /// Readers that take nothing hold a pipe each, up to a bound; the others are sent to another way. All get
    /// the right bytes in the end, and the pipes go.
    fn pipes(leg) {
        let server = Launch::on(leg).cores(1).start();
        let bytes = noise(1403, 6 << 20);
        let digest = server.client().push_blob("limits/pipes", &bytes);
        let pipes = server.descriptors("pipe:");
        let mut readers: Vec<_> = (0..PIPES_PER_CORE + 8).map(|_| server.client()).collect();
        for client in &mut readers {
            let request = client.request("GET", format!("/v2/limits/pipes/blobs/{digest}")).to_bytes();
            client.send_bytes(&request);
        }
        let of_core = || (server.descriptors("pipe:") - pipes) / 2;
        // The kernel may give an unprivileged user fewer.
        let root = rustix::process::geteuid().is_root();
        let least = if root { PIPES_PER_CORE } else { 1 };
        wait_for("the readers are stuck", || of_core() >= least);
        std::thread::scope(|scope| {
            for client in &mut readers {
                assert!(of_core() <= PIPES_PER_CORE);
                scope.spawn(|| assert!(client.read("GET").expect(200).body == bytes));
            }
        });
        wait_for("the pipes go", || of_core() <= PIPES_KEPT_PER_CORE);
        server.client().assert_blob("limits/pipes", digest, &bytes);
    }

    fn reserve(leg) {
        let server = Server::start(leg);
        let told = server.health()["disk"]["reserve_bytes"].as_u64().unwrap();
        let volume = rustix::fs::statvfs(server.data_dir()).unwrap();
        assert_eq!(told, RESERVE_BYTES_MIN.max(volume.f_blocks * volume.f_frsize / 100));
    }
}
