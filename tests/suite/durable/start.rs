//! A start reads `uploads/` and `fills/`, never `blobs/`: it is quick however much is stored.

use std::{fs, time::Duration};

use dataplane::testing::{Record, Step, read_records};

use crate::harness::{Launch, Server, TempDir, legs, noise, say};

/// Within this a process is ready; the tests' own build is slower than the one that is shipped.
pub const READY: Duration = Duration::from_millis(if cfg!(debug_assertions) { 400 } else { 100 });

legs! {
    fn ready_whatever_is_stored(leg) {
        let server = Server::start(leg);
        let digest = server.client().push_blob("start/stored", &noise(800, 1000));
        let folder = server.blob_file(digest).parent().unwrap().to_owned();
        for number in 0..20_000 {
            fs::write(folder.join(format!("{number:064x}")), b"").unwrap();
        }
        let mut server = server;
        let mut ready = Vec::new();
        for _ in 0..5 {
            server = server.kill_and_restart();
            ready.push(server.ready_after);
        }
        ready.sort();
        say(&format!("start on {} with 20,000 blobs: ready after {:?} (median of 5)", leg.name(), ready[2]));
        assert!(ready[2] < READY, "ready after {ready:?}");
        server.client().assert_blob("start/stored", digest, &noise(800, 1000));
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
            let session = server.upload_dirs().pop().unwrap();
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
        let session = server.upload_dirs().pop().unwrap();
        let blob = server.blob_file(digest);
        let launch = server.launch.clone();
        let server = server.kill_meddle_restart(launch, |_| {
            fs::remove_file(session.join("data")).unwrap();
            fs::hard_link(&blob, session.join("data")).unwrap();
        });
        assert!(server.upload_dirs().is_empty(), "the upload's name is gone");
        server.client().assert_blob("start/row", digest, &bytes);
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
