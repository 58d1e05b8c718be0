//! HTTP/1.1 as it should be: versions, keep-alive, `Date`, HEAD, and bodies that nobody asked for.

use std::time::Duration;

use crate::harness::{Framing, Launch, Server, legs, noise, setting, sha256};

legs! {
    fn http_1_0_gets_a_length_and_the_end(leg) {
        let server = Server::start(leg);
        let bytes = noise(1100, 300_000);
        let digest = server.client().push_blob("http/old", &bytes);
        let mut client = server.client();
        client.send_bytes(format!("GET /v2/http/old/blobs/{digest} HTTP/1.0\r\n\r\n").as_bytes());
        let answer = client.read("GET").expect(200);
        assert_eq!(answer.framing, Framing::Length);
        assert!(answer.body == bytes && answer.closes());
        let mut client = server.client();
        client.send_bytes(b"GET /v2/ HTTP/1.0\r\nHost: r\r\n\r\n");
        client.read("GET").expect(200);
        assert!(client.ends());
    }

    fn connection_close_is_kept_and_told(leg) {
        let server = Server::start(leg);
        for value in ["close", "Close", "keep-alive, close"] {
            let mut client = server.client();
            let request = client.request("GET", "/v2/").header("Connection", value).to_bytes();
            client.send_bytes(&request);
            assert!(client.read("GET").expect(200).closes(), "{value}");
        }
    }

    /// A close with bytes unread resets the connection, and a reset takes away what the client has not read.
    fn the_last_answer_survives_what_is_sent_after_it(leg) {
        let server = Launch::on(leg).set(setting::REQUESTS_PER_CONNECTION, 3).start();
        let bytes = noise(1101, 100_000);
        let digest = server.client().push_blob("http/last", &bytes);
        let mut client = server.client();
        let get = client.request("GET", format!("/v2/http/last/blobs/{digest}")).to_bytes();
        // More than the server takes from the socket in one go, so that most of it stays in the kernel.
        client.send_bytes(&get.repeat(5_000));
        std::thread::sleep(Duration::from_millis(200));
        for number in 1..=3 {
            let answer = client.read("GET").expect(200);
            assert!(answer.body == bytes);
            assert_eq!(answer.closes(), number == 3);
        }
    }

    /// Many requests in one segment are answered in order, whatever else the core has to do between them.
    fn pipelined_requests_are_answered_in_order(leg) {
        let server = Server::start(leg);
        let digests: Vec<_> =
            (0..3).map(|seed| server.client().push_blob("http/order", &noise(1110 + seed, 500))).collect();
        let mut client = server.client();
        let gets: Vec<_> = digests
            .iter()
            .map(|digest| client.request("GET", format!("/v2/http/order/blobs/{digest}")).to_bytes())
            .collect();
        client.send_bytes(&gets.concat().repeat(300));
        for _ in 0..300 {
            for (seed, digest) in digests.iter().enumerate() {
                let answer = client.read("GET").expect(200);
                assert_eq!(answer.header("docker-content-digest"), digest.to_string());
                assert!(answer.body == noise(1110 + seed as u64, 500));
            }
        }
    }

    fn an_upgrade_is_ignored_and_its_value_not_shown(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let get = client.request("GET", "/v2/").header("Connection", "Upgrade").header("Upgrade", "gantry-secret/9");
        let answer = get.send().expect(200);
        assert_eq!(answer.get("upgrade"), None);
        assert!(!answer.text().contains("gantry-secret"));
    }

    fn trace_does_not_echo(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let trace = client.request("TRACE", "/v2/").header("X-Secret", "gantry-secret").send().expect(405);
        assert!(!trace.text().contains("gantry-secret"));
    }

    /// docker and containerd try HTTPS first, and fall back only on an HTTP answer.
    fn a_tls_hello_is_answered_in_plain_http_at_once(leg) {
        let server = Server::start(leg);
        let hello = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[7; 100]].concat();
        let begun = std::time::Instant::now();
        let answer = server.client().timeout(Duration::from_secs(5)).raw(&hello);
        assert!(answer.starts_with(b"HTTP/1.1 400 ") || answer.starts_with(b"HTTP/1.0 400 "), "{:?}", String::from_utf8_lossy(&answer));
        assert!(begun.elapsed() < Duration::from_secs(2), "and the end at once");
    }

    /// A body that the answer did not wait for is not taken for the next request.
    fn an_unread_body_never_becomes_a_request(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let body = b"GET /v2/_catalog HTTP/1.1\r\nHost: r\r\n\r\n".repeat(200);
        for (method, target) in [("POST", "/v2/"), ("PUT", "/v2/http/x/tags/list"), ("DELETE", "/v2/http/x/tags/list"), ("PATCH", "/nowhere")] {
            let request = client.request(method, target).body(body.clone()).to_bytes();
            client.send_bytes(&request);
            let answer = client.read(method);
            assert!(answer.status >= 400, "{}", answer.text());
            if !answer.closes() {
                client.get("/v2/").expect(200);
            } else {
                assert!(client.ends());
            }
            client.hang_up();
        }
    }

    /// The client shuts its sending side after a whole request, as `nc` does.
    fn a_half_closed_client_gets_its_answer(leg) {
        let server = Server::start(leg);
        let bytes = noise(1101, 2 << 20);
        let digest = server.client().push_blob("http/half", &bytes);
        let mut client = server.client();
        let request = client.request("GET", format!("/v2/http/half/blobs/{digest}")).to_bytes();
        client.send_bytes(&request);
        client.half_close();
        assert!(client.read("GET").expect(200).body == bytes);
    }

    fn a_request_in_single_bytes(leg) {
        let server = Server::start(leg);
        let bytes = noise(1102, 600);
        let mut client = server.client();
        let target = format!("/v2/http/bytes/blobs/uploads/?digest={}", sha256(&bytes));
        let request = client.request("POST", target).chunks(bytes.chunks(50)).to_bytes();
        for byte in request {
            client.send_bytes(&[byte]);
        }
        client.read("POST").expect(201);
        client.assert_blob("http/bytes", sha256(&bytes), &bytes);
    }

    fn a_hundred_pipelined_uploads(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let blobs: Vec<Vec<u8>> = (0..100).map(|seed| noise(1200 + seed, 900)).collect();
        let mut wire = Vec::new();
        for bytes in &blobs {
            let target = format!("/v2/http/many/blobs/uploads/?digest={}", sha256(bytes));
            wire.extend(client.request("POST", target).body(bytes.clone()).to_bytes());
        }
        client.send_bytes(&wire);
        for bytes in &blobs {
            let answer = client.read("POST").expect(201);
            assert_eq!(answer.header("docker-content-digest"), sha256(bytes).to_string());
        }
    }

    /// Who pipelines and does not read costs no unbounded memory.
    fn a_pipeline_that_is_not_read_is_held_back(leg) {
        let server = Server::start(leg);
        let bytes = noise(1103, 1 << 20);
        let digest = server.client().push_blob("http/greedy", &bytes);
        let before = server.resident_bytes();
        let mut clients: Vec<_> = (0..8).map(|_| server.client()).collect();
        for client in &mut clients {
            let request = client.request("GET", format!("/v2/http/greedy/blobs/{digest}")).to_bytes();
            client.send_bytes(&request.repeat(300));
        }
        std::thread::sleep(Duration::from_millis(500));
        let grown = server.resident_bytes().saturating_sub(before);
        assert!(grown < 64 << 20, "2.4 GB were asked for and not read: {grown} bytes more memory");
        server.client().assert_blob("http/greedy", digest, &bytes);
    }
}
