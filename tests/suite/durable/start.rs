//! A start reads `uploads/` and `fills/`, never `blobs/`: it is quick however much is stored.

use std::{fs, time::Duration};

use dataplane::testing::{Record, Step, read_records};
use serde_json::json;

use crate::harness::{Launch, Server, TempDir, Volume, has_root, legs, noise, say, setting};

/// Names in `blobs/sha256`: many enough that a start which lists them is seen.
const STORED: usize = 200_000;

/// Restarts in turn what has to be compared, so that both meet the same machine; the middle of each.
fn medians<const N: usize>(mut servers: [Server; N]) -> [Duration; N] {
    const ROUNDS: usize = 9;
    let mut ready = [(); N].map(|()| Vec::with_capacity(ROUNDS));
    for _ in 0..ROUNDS {
        servers = servers.map(Server::kill_and_restart);
        for (ready, server) in ready.iter_mut().zip(&servers) {
            ready.push(server.ready_after);
        }
    }
    ready.map(|mut ready| {
        ready.sort();
        ready[ROUNDS / 2]
    })
}

legs! {
    alone:

    fn ready_whatever_is_stored(leg) {
        let (empty, full) = (Server::start(leg), Server::start(leg));
        let digest = full.client().push_blob("start/stored", &noise(800, 1000));
        let blob = full.blob_file(digest);
        let folder = blob.parent().unwrap();
        let mut file = folder.to_owned();
        for number in 0..STORED {
            // Links cost less than files; ext4 allows 65,000 to each.
            let name = folder.join(format!("{number:064x}"));
            if number % 50_000 == 0 {
                fs::write(&name, b"").unwrap();
                file = name;
            } else {
                fs::hard_link(&file, name).unwrap();
            }
        }
        let [empty, stored] = medians([empty, full]);
        say(&format!("start on {} with {STORED} blobs: ready after {stored:?}, with none {empty:?} (medians)", leg.name()));
        assert!(stored < empty * 3 + Duration::from_millis(20), "{stored:?} beside {empty:?}");
    }

    fn everything_is_there_after_a_stop(leg) {
        let mut server = Server::start(leg);
        let image = server.client().push_image("start/kept", "v1", 801);
        for _ in 0..3 {
            server = server.restart();
            let mut client = server.client();
            assert_eq!(client.get("/v2/start/kept/manifests/v1").expect(200).body, image.bytes);
            client.assert_blob("start/kept", image.layer, &noise(801, 2000));
            assert_eq!(client.get("/v2/start/kept/tags/list").expect(200).json()["tags"][0], "v1");
        }
    }

    /// A crash between two files of a session, or between its directory and its files.
    fn half_made_sessions_are_cleared_away(leg) {
        let server = Server::start(leg);
        server.client().push_blob("start/half", b"so that uploads/ exists");
        let launch = server.launch.clone();
        let server = server.kill_meddle_restart(launch, |data| {
            for (number, files) in [&[][..], &["data"], &["state"], &["data", "state"]].into_iter().enumerate() {
                let dir = data.join("uploads").join(format!("{number:032x}"));
                fs::create_dir_all(&dir).unwrap();
                for file in files {
                    fs::write(dir.join(file), b"half").unwrap();
                }
            }
        });
        assert!(server.upload_dirs().is_empty(), "left: {:?}", server.upload_dirs());
    }

    /// Died between link and COMMIT: the upload has two names and the metadata has no row. What the keeper was
    /// about to link is undone; a name that no record tells is left, and still nobody's until it is pushed.
    fn a_link_without_a_row_is_undone(leg) {
        for recorded in [true, false] {
            let server = Server::start(leg);
            let mut client = server.client();
            let bytes = noise(802, 5000);
            let digest = crate::harness::sha256(&bytes);
            let location = client.open_upload("start/link");
            client.patch_at(&location, 0, &bytes).expect(202);
            let session = server.upload_dirs_left(1).remove(0);
            let blob = server.blob_file(digest);
            let launch = server.launch.clone();
            let server = server.kill_meddle_restart(launch, |_| {
                let mut state = fs::read(session.join("state")).unwrap();
                if recorded {
                    let progress = read_records(&state).progress.unwrap();
                    state.extend(Record { step: Step::Closing(digest), ..progress }.encode());
                }
                fs::write(session.join("state"), state).unwrap();
                fs::hard_link(session.join("data"), &blob).unwrap();
            });
            assert_eq!(blob.exists(), !recorded);
            assert!(server.upload_dirs().is_empty(), "the upload's name is gone in either case");
            let mut client = server.client();
            client.get(format!("/v2/start/link/blobs/{digest}")).refused(404, "BLOB_UNKNOWN");
            client.push_blob("start/link", &bytes);
            client.assert_blob("start/link", digest, &bytes);
        }
    }

    /// Died between COMMIT and the removal of the upload's own name: the row stands, so does the blob.
    fn a_link_with_a_row_is_finished(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let bytes = noise(803, 5000);
        let digest = client.push_blob("start/row", &bytes);
        let location = client.open_upload("start/row");
        client.patch_at(&location, 0, &bytes).expect(202);
        let session = server.upload_dirs_left(1).remove(0);
        let blob = server.blob_file(digest);
        let launch = server.launch.clone();
        let server = server.kill_meddle_restart(launch, |_| {
            fs::remove_file(session.join("data")).unwrap();
            fs::hard_link(&blob, session.join("data")).unwrap();
        });
        assert!(server.upload_dirs().is_empty(), "the upload's name is gone");
        server.client().assert_blob("start/row", digest, &bytes);
    }

    /// A link can't cross from one volume to another, and a commit is a link.
    fn one_volume_for_blobs_and_uploads(leg) {
        if !has_root() {
            return;
        }
        let dir = TempDir::new("two-volumes");
        let server = Launch::on(leg).start_on(dir.path());
        let digest = server.client().push_blob("start/volumes", &noise(804, 1000));
        server.stop();
        for other in ["uploads", "blobs/sha512"] {
            let volume = Volume::tmpfs_over(&dir.path().join(other));
            let (status, said) = Launch::on(leg).expects_log("volume").refuses_on(dir.path());
            assert_eq!(status.code(), Some(1));
            assert!(said.contains("have to be on one volume"), "{other}: {said}");
            drop(volume);
        }
        let server = Launch::on(leg).start_on(dir.path());
        server.client().assert_blob("start/volumes", digest, &noise(804, 1000));
    }

    /// Where we know no rule for a sync of the whole volume, an operator is told, and pushes work all the same.
    fn an_unknown_file_system_is_told(leg) {
        if !has_root() {
            return;
        }
        let volume = Volume::tmpfs(64);
        let launch = Launch::on(leg).set(setting::RESERVE_BYTES, 0).expects_log("volume-wide sync");
        let server = launch.start_on(&volume.data());
        let health = server.health();
        assert_eq!(health["disk"]["filesystem"], "tmpfs", "{health}");
        let warning = "the data directory is on tmpfs: no rule is known for its volume-wide sync";
        let told = health["warnings"].as_array().unwrap();
        assert!(told.len() == 1 && told[0].as_str().unwrap().starts_with(warning), "{health}");
        let logged = server.log().iter().filter(|line| line.contains("WARN") && line.contains(warning)).count();
        assert_eq!(logged, 1, "{:?}", server.log());
        let digest = server.client().push_blob("start/unknown", &noise(805, 1000));
        server.client().assert_blob("start/unknown", digest, &noise(805, 1000));
        assert_eq!(server.metric("gantry_store_volume_fsyncs_total"), 0.0);

        let known = Volume::ext4(64);
        let server = Launch::on(leg).set(setting::RESERVE_BYTES, 0).start_on(&known.data());
        let health = server.health();
        assert_eq!((&health["disk"]["filesystem"], &health["warnings"]), (&json!("ext4"), &json!([])));
    }

    fn a_metadata_file_of_the_future_is_refused(leg) {
        let dir = TempDir::new("future");
        fs::create_dir_all(dir.path()).unwrap();
        // A SQLite header whose user_version (offset 60, big-endian) no binary of today knows.
        let server = Launch::on(leg).start_on(dir.path());
        server.client().push_blob("start/future", b"x");
        server.stop();
        let file = dir.path().join("control.db");
        let mut bytes = fs::read(&file).unwrap();
        bytes[60..64].copy_from_slice(&1_000_000u32.to_be_bytes());
        fs::write(&file, &bytes).unwrap();
        let (status, said) = Launch::on(leg).refuses_on(dir.path());
        assert!(!status.success());
        assert!(said.contains("1000000") || said.contains("newer"), "it says why: {said}");
        assert_eq!(fs::read(&file).unwrap()[60..64], 1_000_000u32.to_be_bytes(), "and leaves it alone");
    }
}
