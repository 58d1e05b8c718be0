//! SIGTERM: no new connections, what is in flight is finished, exit 0; a second signal ends it at once.

use std::time::{Duration, Instant};

use crate::harness::{Launch, Server, legs, noise, setting, sha256, wait_for};

const REPOSITORY: &str = "durable/stop";

legs! {
    alone:

    fn idle_it_ends_at_once(leg) {
        let mut server = Server::start(leg);
        let mut idle: Vec<_> = (0..4).map(|_| server.client()).collect();
        for client in &mut idle {
            client.get("/v2/").expect(200);
        }
        let start = Instant::now();
        server.terminate();
        server.ends_well(Duration::from_secs(5));
        assert!(start.elapsed() < Duration::from_secs(3), "{:?} with only idle connections", start.elapsed());
        for client in &mut idle {
            assert!(client.ends(), "idle connections were closed");
        }
    }

    fn an_upload_in_flight_is_finished(leg) {
        let mut server = Server::start(leg);
        let bytes = noise(840, 2 << 20);
        let mut client = server.client();
        let target = format!("/v2/{REPOSITORY}/blobs/uploads/?digest={}", sha256(&bytes));
        let request = client.request("POST", target).body(bytes.clone()).to_bytes();
        let (head, tail) = request.split_at(1 << 20);
        client.send_bytes(head);
        std::thread::sleep(Duration::from_millis(100));
        server.terminate();
        let mut late = server.client();
        wait_for("new connections are refused", || late.connect().is_err());
        client.send_bytes(tail);
        let answer = client.read("POST").expect(201);
        assert!(answer.closes(), "the last answer says that it is the last");
        server.ends_well(Duration::from_secs(10));
        let server = server.kill_and_restart();
        server.client().assert_blob(REPOSITORY, sha256(&bytes), &bytes);
    }

    fn a_download_in_flight_is_finished(leg) {
        let mut server = Server::start(leg);
        let bytes = noise(841, 32 << 20);
        let digest = server.client().push_blob(REPOSITORY, &bytes);
        let mut client = server.client();
        let request = client.request("GET", format!("/v2/{REPOSITORY}/blobs/{digest}")).to_bytes();
        client.send_bytes(&request);
        std::thread::sleep(Duration::from_millis(100));
        server.terminate();
        std::thread::sleep(Duration::from_millis(300));
        assert!(client.read("GET").expect(200).body == bytes);
        server.ends_well(Duration::from_secs(10));
    }

    fn a_session_is_there_afterwards(leg) {
        let server = Server::start(leg);
        let bytes = noise(842, 300_000);
        let location = server.client().open_upload(REPOSITORY);
        server.client().patch_at(&location, 0, &bytes[..200_000]).expect(202);
        let server = server.restart();
        assert_eq!(server.client().upload_offset(&location), 200_000);
    }

    /// Who does not finish in time is cut off, the exit is still clean, and what came of an upload is kept.
    fn the_drain_has_an_end(leg) {
        let mut server = Launch::on(leg).set(setting::DRAIN_TIMEOUT, "500ms").start();
        let mut client = server.client();
        let location = client.open_upload(REPOSITORY);
        let head = format!("PATCH {location} HTTP/1.1\r\nHost: r\r\nContent-Length: 1000\r\n\r\nhalf");
        client.send_bytes(head.as_bytes());
        std::thread::sleep(Duration::from_millis(100));
        let start = Instant::now();
        server.terminate();
        server.ends_well(Duration::from_secs(5));
        assert!(start.elapsed() >= Duration::from_millis(400), "it waited for the request in flight");
        let server = server.kill_and_restart();
        assert_eq!(server.client().upload_offset(&location), 4, "`half` was there before the end");
    }

    fn a_second_signal_ends_it_at_once(leg) {
        let mut server = Server::start(leg);
        let mut client = server.client();
        let location = client.open_upload(REPOSITORY);
        let head = format!("PATCH {location} HTTP/1.1\r\nHost: r\r\nContent-Length: 1000\r\n\r\nhalf");
        client.send_bytes(head.as_bytes());
        std::thread::sleep(Duration::from_millis(100));
        server.terminate();
        std::thread::sleep(Duration::from_millis(200));
        let start = Instant::now();
        server.terminate();
        server.wait(Duration::from_secs(2));
        assert!(start.elapsed() < Duration::from_secs(1));
    }
}
