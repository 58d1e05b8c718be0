//! `uploads/<id>/state` after a crash: the last valid record wins, and what cannot be trusted ends the session.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::harness::{Client, Server, legs, noise, sha256, wait_for};

const REPOSITORY: &str = "durable/state";

/// A session with a record at 0, at 40,000 and at 100,000 bytes; where it is, and its directory.
fn three_records(server: &Server, bytes: &[u8]) -> (String, PathBuf) {
    let mut client = server.client();
    let location = client.open_upload(REPOSITORY);
    client.patch_at(&location, 0, &bytes[..40_000]).expect(202);
    client.patch_at(&location, 40_000, &bytes[40_000..100_000]).expect(202);
    let dir = server.data_dir().join("uploads").join(location.rsplit('/').next().unwrap());
    (location, dir)
}

fn finish(client: &mut Client, location: &str, offset: usize, bytes: &[u8]) {
    client.patch_at(location, offset, &bytes[offset..]).expect(202);
    client.close_upload(location, sha256(bytes)).expect(201);
    client.assert_blob(REPOSITORY, sha256(bytes), bytes);
}

/// Kills the server, does `meddle` to the session's directory, starts again: the session has `offset`, or is gone.
#[track_caller]
fn check(leg: crate::harness::Leg, meddle: impl FnOnce(&Path), offset: Option<usize>) {
    let server = Server::start(leg);
    let bytes = noise(830, 200_000);
    let (location, dir) = three_records(&server, &bytes);
    let launch = server.launch.clone();
    let server = server.kill_meddle_restart(launch, |_| meddle(&dir));
    let mut client = server.client();
    match offset {
        Some(offset) => {
            assert_eq!(client.upload_offset(&location), offset);
            assert_eq!(
                fs::metadata(dir.join("data")).unwrap().len(),
                offset as u64,
                "data is cut to the record"
            );
            finish(&mut client, &location, offset, &bytes);
        }
        None => {
            client.get(&location).refused(404, "BLOB_UPLOAD_UNKNOWN");
            client.patch_at(&location, 100_000, b"more").refused(404, "BLOB_UPLOAD_UNKNOWN");
        }
    }
    // The keeper takes an upload's names away after it has answered.
    wait_for("nothing is left under uploads/", Duration::from_secs(10), || server.upload_dirs().is_empty());
}

fn alter(file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(file).unwrap();
    change(&mut bytes);
    fs::write(file, bytes).unwrap();
}

legs! {
    fn untouched(leg) {
        check(leg, |_| {}, Some(100_000));
    }

    fn a_record_is_small(leg) {
        let server = Server::start(leg);
        let (_, dir) = three_records(&server, &noise(830, 200_000));
        let len = fs::metadata(dir.join("state")).unwrap().len();
        assert!(len > 0 && len <= 3 * 512, "{len} bytes for three records");
    }

    fn data_beyond_the_record_is_cut_off(leg) {
        check(leg, |dir| alter(&dir.join("data"), |data| data.extend(vec![7; 12_345])), Some(100_000));
    }

    fn garbage_after_the_last_record_is_ignored(leg) {
        check(leg, |dir| alter(&dir.join("state"), |state| state.extend([0xa5; 40])), Some(100_000));
    }

    fn zeros_after_the_last_record_are_ignored(leg) {
        check(leg, |dir| alter(&dir.join("state"), |state| state.extend([0; 512])), Some(100_000));
    }

    fn a_torn_last_record_falls_back_to_the_one_before(leg) {
        check(leg, |dir| alter(&dir.join("state"), |state| state.truncate(state.len() - 3)), Some(40_000));
    }

    fn a_flipped_bit_in_the_last_record_falls_back(leg) {
        let flip = |state: &mut Vec<u8>| {
            let at = state.len() - 10;
            state[at] ^= 0x10;
        };
        check(leg, |dir| alter(&dir.join("state"), flip), Some(40_000));
    }

    fn garbage_throughout_ends_the_session(leg) {
        let spoil = |state: &mut Vec<u8>| state.iter_mut().for_each(|byte| *byte ^= 0x5a);
        check(leg, |dir| alter(&dir.join("state"), spoil), None);
    }

    fn an_empty_state_ends_the_session(leg) {
        check(leg, |dir| alter(&dir.join("state"), Vec::clear), None);
    }

    fn no_state_ends_the_session(leg) {
        check(leg, |dir| fs::remove_file(dir.join("state")).unwrap(), None);
    }

    fn no_data_ends_the_session(leg) {
        check(leg, |dir| fs::remove_file(dir.join("data")).unwrap(), None);
    }

    /// The file is shorter than every record but the first says: nothing of it is trusted beyond that.
    fn data_shorter_than_its_record(leg) {
        let server = Server::start(leg);
        let bytes = noise(830, 200_000);
        let (location, dir) = three_records(&server, &bytes);
        let launch = server.launch.clone();
        let server = server.kill_meddle_restart(launch, |_| {
            alter(&dir.join("data"), |data| data.truncate(70_000));
        });
        let mut client = server.client();
        client.get(&location).refused(404, "BLOB_UPLOAD_UNKNOWN");
        assert!(server.upload_dirs().is_empty());
    }

    /// One session's damage is not another's.
    fn neighbours_are_left_alone(leg) {
        let server = Server::start(leg);
        let bytes = noise(830, 200_000);
        let (bad, dir) = three_records(&server, &bytes);
        let (good, _) = three_records(&server, &bytes);
        let launch = server.launch.clone();
        let server = server.kill_meddle_restart(launch, |_| alter(&dir.join("state"), Vec::clear));
        let mut client = server.client();
        client.get(&bad).refused(404, "BLOB_UPLOAD_UNKNOWN");
        assert_eq!(client.upload_offset(&good), 100_000);
        finish(&mut client, &good, 100_000, &bytes);
    }

    fn an_id_is_never_a_path(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        client.push_blob(REPOSITORY, b"x");
        let outside = server.data_dir().join("outside");
        fs::create_dir_all(&outside).unwrap();
        fs::write(outside.join("data"), b"secret").unwrap();
        for id in ["..%2Foutside", "%2e%2e%2foutside", "../outside", ".", "%00"] {
            let location = format!("/v2/{REPOSITORY}/blobs/uploads/{id}");
            for method in ["GET", "DELETE", "PATCH"] {
                let answer = client.request(method, &location).send();
                assert!([400, 404, 405].contains(&answer.status), "{method} {id}: {}", answer.text());
            }
        }
        assert_eq!(fs::read(outside.join("data")).unwrap(), b"secret");
    }
}
