//! A full disk, once for real: a tmpfs of 64 MiB. 507 within a second, reads go on, it recovers alone.

use std::{
    fs,
    time::{Duration, Instant},
};

use crate::harness::{Launch, Leg, Server, Volume, has_root, legs, media, noise, setting, sha256, wait_for};

const REPOSITORY: &str = "durable/full";
const MIB: usize = 1 << 20;

/// From there being room again to pushes that are taken.
const RECOVERY_TIME: Duration = Duration::from_secs(5);

/// With a reserve that fits the volume. Warnings about room, and about this file system, are expected.
fn start(leg: Leg, volume: &Volume) -> Server {
    let launch = Launch::on(leg).set(setting::RESERVE_BYTES, 4 * MIB);
    launch
        .expects_log("tmpfs")
        .expects_log("file system")
        .expects_log("full")
        .expects_log("room")
        .expects_log("space")
        .start_on(&volume.data())
}

fn push(server: &Server, bytes: &[u8]) -> u16 {
    let target = format!("/v2/{REPOSITORY}/blobs/uploads/?digest={}", sha256(bytes));
    server.client().request("POST", target).body(bytes).send().status
}

legs! {
    alone:

    fn reads_go_on_and_it_recovers_alone(leg) {
        if !has_root() {
            return;
        }
        let volume = Volume::tmpfs(64);
        let server = start(leg, &volume);
        let kept = noise(940, 3 * MIB);
        let digest = server.client().push_blob(REPOSITORY, &kept);
        let image = server.client().push_image(REPOSITORY, "kept", 941);
        assert_eq!(server.health()["writes"]["allowed"], true);
        let filler = volume.fill(2 * MIB);
        for _ in 0..3 {
            let begun = Instant::now();
            assert_eq!(push(&server, &noise(942, MIB)), 507);
            assert!(begun.elapsed() < Duration::from_secs(1), "507 took {:?}", begun.elapsed());
        }
        wait_for("healthz says it", || server.health()["writes"]["allowed"] == false);
        assert!(server.health()["writes"]["why"].as_str().is_some_and(|why| !why.is_empty()), "and why");
        server.client().assert_blob(REPOSITORY, digest, &kept);
        assert_eq!(server.client().get(format!("/v2/{REPOSITORY}/manifests/kept")).expect(200).body, image.bytes);
        server.client().get("/livez").expect(200);
        let mount = format!("/v2/durable/heir/blobs/uploads/?mount={digest}&from={REPOSITORY}");
        server.client().request("POST", mount).send().expect(201);
        server.client().delete(format!("/v2/{REPOSITORY}/blobs/{digest}")).expect(202);
        fs::remove_file(filler).unwrap();
        let begun = Instant::now();
        wait_for("pushes are taken again", || push(&server, &noise(943, MIB)) == 201);
        wait_for("healthz says it", || server.health()["writes"]["allowed"] == true);
        let recovered = begun.elapsed();
        crate::harness::say(&format!("disk full on {}: recovered after {recovered:?}", leg.name()));
        assert!(recovered < RECOVERY_TIME, "{recovered:?} after there was room again");
        server.client().assert_blob(REPOSITORY, sha256(&noise(943, MIB)), &noise(943, MIB));
        server.stop();
    }

    /// Too little room for the declared length: told before the body.
    fn a_declared_length_that_does_not_fit(leg) {
        if !has_root() {
            return;
        }
        let volume = Volume::tmpfs(64);
        let server = start(leg, &volume);
        let mut client = server.client();
        let target = format!("/v2/{REPOSITORY}/blobs/uploads/?digest={}", sha256(b"never sent"));
        let head = format!("POST {target} HTTP/1.1\r\nHost: r\r\nContent-Length: {}\r\n\r\n", 200 * MIB);
        let begun = Instant::now();
        client.send_bytes(head.as_bytes());
        client.read("POST").expect(507);
        assert!(begun.elapsed() < Duration::from_secs(1));
        assert_eq!(push(&server, &noise(944, MIB)), 201, "and others may go on");
        server.stop();
    }

    /// What several uploads declare together must fit, not each alone.
    fn declared_lengths_are_added_up(leg) {
        if !has_root() {
            return;
        }
        let volume = Volume::tmpfs(64);
        let server = start(leg, &volume);
        let mut clients: Vec<_> = (0..4).map(|_| server.client()).collect();
        for (number, client) in clients.iter_mut().enumerate() {
            let location = client.open_upload(REPOSITORY);
            let head = format!("PATCH {location} HTTP/1.1\r\nHost: r\r\nContent-Length: {}\r\n\r\nx", 25 * MIB);
            client.send_bytes(head.as_bytes());
            std::thread::sleep(Duration::from_millis(200));
            if number == 3 {
                client.read("PATCH").expect(507);
            }
        }
    }

    /// Space that is held for a body is taken from the volume; it does not count once more as promised.
    fn what_is_allocated_is_counted_once(leg) {
        if !has_root() {
            return;
        }
        let volume = Volume::tmpfs(64);
        let server = start(leg, &volume);
        let (mut slow, mut client) = (server.client(), server.client());
        let before = volume.free_bytes();
        let location = slow.open_upload(REPOSITORY);
        let head = format!("PATCH {location} HTTP/1.1\r\nHost: r\r\nContent-Length: {}\r\n\r\nx", 24 * MIB);
        slow.send_bytes(head.as_bytes());
        wait_for("the space is held", || volume.free_bytes() <= before - 24 * MIB);
        let bytes = noise(948, 16 * MIB);
        let location = client.open_upload(REPOSITORY);
        client.patch_at(&location, 0, &bytes).expect(202);
        client.close_upload(&location, sha256(&bytes)).expect(201);
        drop((slow, client));
        server.stop();
    }

    /// The room ends in the middle of a body of unknown length; with room again the session goes on.
    fn in_the_middle_of_a_body(leg) {
        if !has_root() {
            return;
        }
        let volume = Volume::tmpfs(64);
        let server = start(leg, &volume);
        let bytes = noise(945, 24 * MIB);
        let location = server.client().open_upload(REPOSITORY);
        let filler = volume.fill(14 * MIB);
        let begun = Instant::now();
        let answer = server.client().request("PATCH", &location).chunks(bytes.chunks(MIB)).send();
        assert_eq!(answer.status, 507, "{}", answer.text());
        assert!(begun.elapsed() < Duration::from_secs(3), "507 took {:?}", begun.elapsed());
        assert!(volume.free_bytes() >= 2 * MIB, "the reserve was kept for metadata and deletes");
        fs::remove_file(filler).unwrap();
        let mut client = server.client();
        let kept = client.upload_offset(&location);
        assert!(kept < bytes.len());
        wait_for("the rest is taken", || {
            client.patch_at(&location, kept, &bytes[kept..]).status == 202
        });
        client.close_upload(&location, sha256(&bytes)).expect(201);
        client.assert_blob(REPOSITORY, sha256(&bytes), &bytes);
        server.stop();
    }

    /// A log that finds no room in its file stays as it is: nothing is doubtful, so nobody has to restart.
    fn the_metadata_log_waits_for_room(leg) {
        if !has_root() {
            return;
        }
        let volume = Volume::tmpfs(64);
        let server = start(leg, &volume);
        let mut client = server.client();
        let image = client.push_image(REPOSITORY, "kept", 946);
        let mut large: serde_json::Value = serde_json::from_slice(&image.bytes).unwrap();
        large["annotations"] = serde_json::json!({ "much": "x".repeat(3 * MIB) });
        client.put_json(REPOSITORY, "large", &large);
        let filler = volume.fill(MIB);
        let tagged = client.put_manifest(REPOSITORY, "more", media::IMAGE, &image.bytes);
        tagged.refused(507, "UNAVAILABLE");
        wait_for("an idle checkpoint is tried", || {
            server.log().iter().any(|line| line.contains("too full for a checkpoint"))
        });
        assert!(!volume.data().join("disk-error").exists());
        assert_eq!(client.get(format!("/v2/{REPOSITORY}/manifests/large")).expect(200).body, large.to_string().into_bytes());
        drop(client);
        let server = server.restart();
        assert!(!volume.data().join("disk-error").exists());
        fs::remove_file(filler).unwrap();
        let mut client = server.client();
        client.put_manifest(REPOSITORY, "more", media::IMAGE, &image.bytes).expect(201);
        assert_eq!(push(&server, &noise(947, MIB)), 201);
        client.get(format!("/v2/{REPOSITORY}/manifests/large")).expect(200);
        server.stop();
    }

    fn nothing_is_lost_when_it_is_killed_full(leg) {
        if !has_root() {
            return;
        }
        let volume = Volume::tmpfs(64);
        let server = start(leg, &volume);
        let mut kept = Vec::new();
        for seed in 950..1000 {
            let bytes = noise(seed, 3 * MIB);
            match push(&server, &bytes) {
                201 => kept.push(seed),
                507 => break,
                other => panic!("{other}"),
            }
        }
        assert!(kept.len() > 10 && kept.len() < 21, "{} blobs of 3 MiB in 64 MiB", kept.len());
        let server = server.kill_and_restart();
        for seed in kept {
            let bytes = noise(seed, 3 * MIB);
            server.client().assert_blob(REPOSITORY, sha256(&bytes), &bytes);
        }
        assert!(server.upload_dirs().is_empty(), "what got a 507 is not left over");
    }
}
