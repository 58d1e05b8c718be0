//! Upload sessions over the end of the process: a 202 is a promise against kill -9 and restart.

use std::{fs, time::Duration};

use oci::{Algorithm, Digest};

use crate::harness::{Launch, Server, TempDir, has_root, legs, noise, setting, sha256, wait_for};

const REPOSITORY: &str = "durable/sessions";

legs! {
    /// Status, go on, PUT; in every algorithm, whether its hash state can be saved or not.
    fn go_on_after_kill_9(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let open: Vec<_> = Algorithm::ALL.into_iter().map(|algorithm| {
            let bytes = noise(810 + algorithm as u64, 900_000);
            let post = format!("/v2/{REPOSITORY}/blobs/uploads/?digest-algorithm={}", algorithm.name());
            let location = client.request("POST", post).send().expect(202).header("location").to_owned();
            client.patch_at(&location, 0, &bytes[..300_000]).expect(202);
            client.patch_at(&location, 300_000, &bytes[300_000..500_001]).expect(202);
            (algorithm, bytes, location)
        }).collect();
        let server = server.kill_and_restart();
        let mut client = server.client();
        for (algorithm, bytes, location) in open {
            assert_eq!(client.upload_offset(&location), 500_001);
            client.patch_at(&location, 400_000, &bytes[400_000..]).expect(416);
            client.patch_at(&location, 500_001, &bytes[500_001..]).expect(202);
            let digest = Digest::of(algorithm, &bytes);
            client.close_upload(&location, digest).expect(201);
            client.assert_blob(REPOSITORY, digest, &bytes);
        }
        server.upload_dirs_left(0);
    }

    fn go_on_after_a_stop_and_again(leg) {
        let mut server = Server::start(leg);
        let bytes = noise(820, 400_000);
        let location = server.client().open_upload(REPOSITORY);
        for (number, chunk) in bytes.chunks(100_000).enumerate() {
            assert_eq!(server.client().upload_offset(&location), number * 100_000);
            server.client().patch_at(&location, number * 100_000, chunk).expect(202);
            server = if number % 2 == 0 { server.restart() } else { server.kill_and_restart() };
        }
        server.client().close_upload(&location, sha256(&bytes)).expect(201);
        server.client().assert_blob(REPOSITORY, sha256(&bytes), &bytes);
    }

    fn an_empty_session_survives_too(leg) {
        let server = Server::start(leg);
        let location = server.client().open_upload(REPOSITORY);
        let server = server.kill_and_restart();
        let mut client = server.client();
        assert_eq!(client.upload_offset(&location), 0);
        client.patch_at(&location, 0, b"late bytes").expect(202);
        client.close_upload(&location, sha256(b"late bytes")).expect(201);
    }

    /// Killed in the middle of a body: at least what a 202 was given for is there, and it can go on.
    fn killed_in_the_middle_of_a_patch(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let bytes = noise(821, 4 << 20);
        let location = client.open_upload(REPOSITORY);
        client.patch_at(&location, 0, &bytes[..100_000]).expect(202);
        let head = format!("PATCH {location} HTTP/1.1\r\nHost: r\r\nContent-Length: {}\r\n\r\n", bytes.len() - 100_000);
        client.send_bytes(head.as_bytes());
        client.send_bytes(&bytes[100_000..3 << 20]);
        let server = server.kill_and_restart();
        let mut client = server.client();
        let kept = client.upload_offset(&location);
        assert!((100_000..=3 << 20).contains(&kept), "kept {kept}");
        client.patch_at(&location, kept, &bytes[kept..]).expect(202);
        client.close_upload(&location, sha256(&bytes)).expect(201);
        client.assert_blob(REPOSITORY, sha256(&bytes), &bytes);
    }

    fn cancelled_and_finished_sessions_do_not_come_back(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let cancelled = client.open_upload(REPOSITORY);
        client.patch_at(&cancelled, 0, b"never mind").expect(202);
        client.delete(&cancelled).expect(204);
        let finished = client.open_upload(REPOSITORY);
        client.patch_at(&finished, 0, b"done").expect(202);
        client.close_upload(&finished, sha256(b"done")).expect(201);
        let server = server.kill_and_restart();
        for location in [cancelled, finished] {
            server.client().get(&location).refused(404, "BLOB_UPLOAD_UNKNOWN");
        }
        assert!(server.upload_dirs().is_empty());
    }

    fn expire(leg) {
        let server = Launch::on(leg).set(setting::UPLOAD_EXPIRY, "1s").start();
        let mut client = server.client();
        let location = client.open_upload(REPOSITORY);
        client.patch_at(&location, 0, b"some bytes").expect(202);
        wait_for("the session expires", || {
            std::thread::sleep(Duration::from_millis(1500));
            client.get(&location).status == 404
        });
        wait_for("its directory goes", || server.upload_dirs().is_empty());
    }

    fn expire_while_nobody_runs(leg) {
        let server = Launch::on(leg).set(setting::UPLOAD_EXPIRY, "1s").start();
        let mut client = server.client();
        let location = client.open_upload(REPOSITORY);
        client.patch_at(&location, 0, b"some bytes").expect(202);
        let launch = server.launch.clone();
        let server = server.kill_meddle_restart(launch, |_| std::thread::sleep(Duration::from_millis(2500)));
        server.client().get(&location).refused(404, "BLOB_UPLOAD_UNKNOWN");
        wait_for("its directory goes", || server.upload_dirs().is_empty());
    }

    /// After a power cut a file may have its length and no bytes: a record of another boot is not trusted.
    fn another_boot_ends_them(leg) {
        if !has_root() {
            return;
        }
        let server = Server::start(leg);
        let mut client = server.client();
        let bytes = noise(822, 50_000);
        let digest = client.push_blob(REPOSITORY, &bytes);
        let location = client.open_upload(REPOSITORY);
        client.patch_at(&location, 0, b"before the cut").expect(202);
        let dir = TempDir::new("boot");
        let fake = dir.path().join("boot_id");
        fs::write(&fake, "01234567-89ab-4cde-8f01-23456789abcd\n").unwrap();
        let launch = server.launch.clone().boot_id(&fake);
        let server = server.kill_meddle_restart(launch, |_| {});
        let mut client = server.client();
        client.get(&location).refused(404, "BLOB_UPLOAD_UNKNOWN");
        client.patch_at(&location, 14, b"more").refused(404, "BLOB_UPLOAD_UNKNOWN");
        assert!(server.upload_dirs().is_empty(), "and nothing of it is left");
        client.assert_blob(REPOSITORY, digest, &bytes);
        let location = client.open_upload(REPOSITORY);
        client.patch_at(&location, 0, b"of this boot").expect(202);
        let server = server.kill_and_restart();
        assert_eq!(server.client().upload_offset(&location), 12, "the same boot id again: trusted");
    }
}
