//! A volume that is full of what came from upstreams: pushes have it go, and no pull fails for lack of room
//! (storage.md, "The cache's budget" and "Pass-through").

use std::{fs, io::Write as _, os::unix::fs::MetadataExt as _, path::Path};

use ::faults::{Fault, On, Registry};
use oci::Digest;

use crate::harness::{Client, Launch, Leg, Server, Volume, has_root, legs, noise, setting, sha256, wait_for};

use super::rig::{Way, mirror, root};

const MIB: usize = 1 << 20;
const LOCAL: &str = "mine/thing";

/// The volume is the bound, not the budget.
fn start(leg: Leg, registry: &Registry, volume: &Volume) -> Server {
    let launch = mirror(leg, &root(registry, "complete = \"never\"")).set(setting::RESERVE_BYTES, 4 * MIB);
    [
        "file system",
        "tmpfs",
        "no room for a blob of an upstream",
        "the cache's index was not written",
        "the rest of an upstream's blob does not come",
    ]
    .into_iter()
    .fold(launch, |launch, text| launch.expects_log(text))
    .start_on(&volume.data())
}

fn target(digest: &Digest) -> String {
    Way::Prefix.target("library/thing", &format!("blobs/{digest}"))
}

fn pull(server: &Server, digest: &Digest, bytes: &[u8]) {
    let answer = server.client().get(target(digest));
    assert!(answer.status == 200 && answer.body == bytes, "{}", answer.text());
}

/// Pushes in chunks whose sum nobody tells before the end.
fn push_in_chunks(client: &mut Client, bytes: &[u8]) {
    let location = client.open_upload(LOCAL);
    let answer = client.request("PATCH", &location).chunks(bytes.chunks(MIB)).send();
    let location = answer.expect(202).header("location").to_owned();
    client.close_upload(&location, sha256(bytes)).expect(201);
}

/// Bytes of the blocks of all files below.
fn blocks(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => blocks(&entry.path()),
            Ok(found) => found.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

legs! {
    alone:

    fn a_push_of_whatever_length_has_what_is_cached_go(leg) {
        if !has_root() {
            return;
        }
        let (volume, registry) = (Volume::tmpfs(64), Registry::start());
        let server = start(leg, &registry, &volume);
        let cached: Vec<_> = (0..3).map(|seed| noise(1300 + seed, 14 * MIB)).collect();
        let digests: Vec<_> =
            cached.iter().map(|bytes| registry.push_blob("library/thing", bytes.clone())).collect();
        for (digest, bytes) in digests.iter().zip(&cached) {
            pull(&server, digest, bytes);
        }
        wait_for("they are kept", || server.metric("gantry_store_cached_blobs") == 3.0);
        wait_for("their fills are over", || blocks(&server.data_dir().join("fills")) == 0);
        // So that not even a session has room.
        let filler = volume.fill(3 * MIB);
        let small = noise(1310, 1000);
        let digest = server.client().push_blob(LOCAL, &small);
        server.client().assert_blob(LOCAL, digest, &small);
        assert_eq!(server.metric("gantry_store_evictions_total"), 1.0);
        fs::remove_file(filler).unwrap();
        // More than is free beside what is cached.
        let large = noise(1311, 44 * MIB);
        push_in_chunks(&mut server.client(), &large);
        server.client().assert_blob(LOCAL, sha256(&large), &large);
        assert!(server.metric("gantry_store_evictions_total") >= 2.0);
        // Pulls go on, with whatever room there is.
        for (digest, bytes) in digests.iter().zip(&cached) {
            pull(&server, digest, bytes);
        }
        server.client().assert_blob(LOCAL, sha256(&large), &large);
        server.stop();
    }

    fn a_push_has_parts_of_blobs_go_that_nobody_reads(leg) {
        if !has_root() {
            return;
        }
        let (volume, registry) = (Volume::tmpfs(64), Registry::start());
        let server = start(leg, &registry, &volume);
        let bytes = noise(1320, 32 * MIB);
        let digest = registry.push_blob("library/thing", bytes.clone());
        registry.script(On::get("/blobs/"), Fault::Truncated { at: 6 * MIB as u64 });
        assert!(server.client().request("GET", target(&digest)).try_send().is_err(), "four times 6 MiB");
        let left = || blocks(&server.data_dir().join("fills"));
        assert!(left() >= 24 * MIB as u64, "{}", left());
        let large = noise(1321, 44 * MIB);
        push_in_chunks(&mut server.client(), &large);
        assert_eq!(left(), 0);
        server.client().assert_blob(LOCAL, sha256(&large), &large);
        server.stop();
    }

    /// Nobody set a budget: four fifths of the volume, less what is pushed.
    fn what_is_pushed_is_taken_off_the_default_budget(leg) {
        if !has_root() {
            return;
        }
        let (volume, registry) = (Volume::tmpfs(100), Registry::start());
        let server = Launch::on(leg)
            .config(&root(&registry, ""))
            .set(setting::RESERVE_BYTES, 4 * MIB)
            .expects_log("file system")
            .expects_log("tmpfs")
            .start_on(&volume.data());
        let used = || server.metric("gantry_store_budget_used_bytes") as usize;
        let push = |seed| {
            let bytes = noise(seed, 20 * MIB);
            server.client().push_blob(LOCAL, &bytes);
            bytes
        };
        push(1340);
        let blobs: Vec<_> = (0..6).map(|seed| noise(1341 + seed, 14 * MIB)).collect();
        let digests: Vec<_> =
            blobs.iter().map(|bytes| registry.push_blob("library/thing", bytes.clone())).collect();
        for (digest, bytes) in digests.iter().zip(&blobs) {
            pull(&server, digest, bytes);
            assert!(used() <= 60 * MIB, "{}", used());
        }
        wait_for("as much is kept as may be", || used() > 40 * MIB);
        let pushed = push(1350);
        wait_for("it makes way", || used() <= 40 * MIB);
        assert!(used() > 20 * MIB, "no more than it has to: {}", used());
        server.client().assert_blob(LOCAL, sha256(&pushed), &pushed);
        server.stop();
    }

    /// With and without a file system that can hold room ahead of a write.
    fn a_disk_that_fills_up_in_the_middle_of_a_pull(leg) {
        if !has_root() {
            return;
        }
        for volume in [Volume::tmpfs(64), Volume::without_extents(64)] {
            let registry = Registry::start();
            let server = start(leg, &registry, &volume);
            let bytes = noise(1330, 20 * MIB);
            let digest = registry.push_blob("library/thing", bytes.clone());
            let stall = Fault::Stall { at: 10 * MIB as u64 + 300_000 };
            registry.script(On::get("/blobs/").times(1), stall);
            let mut client = server.client();
            let request = client.request("GET", target(&digest)).header("Connection", "close").to_bytes();
            client.send_bytes(&request);
            let mut got = client.read_some(10 * MIB);
            while got < 10 * MIB {
                got += client.read_some(10 * MIB - got);
            }
            take_all_room(&volume);
            registry.heal();
            let received = {
                let mut rest = got;
                loop {
                    let more = client.read_some(bytes.len() + MIB);
                    if more == 0 {
                        break rest;
                    }
                    rest += more;
                }
            };
            // Its head, and every byte: what it ends with was verified.
            assert!(received > bytes.len(), "{received} of {}", bytes.len());
            let passes = server.metrics().sum("gantry_fill_passes_total", &[]);
            assert_eq!(passes, 1.0);
            // Who comes now finds no room from the start.
            pull(&server, &digest, &bytes);
            server.stop();
        }
    }
}

/// To the last block.
fn take_all_room(volume: &Volume) {
    let mut filler = fs::File::create(volume.path().join("all")).unwrap();
    for step in [MIB, 4096, 1] {
        while filler.write_all(&vec![1; step]).is_ok() {}
    }
}
