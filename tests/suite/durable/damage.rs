//! A blob file that is damaged or lost: never a wrong or short 2xx, never a 404, and pushing again repairs it.

use std::fs;

use crate::harness::{Client, Launch, Leg, Server, legs, noise, sha256};

const REPOSITORY: &str = "durable/damage";

/// A server that may log an alarm about the blob of these bytes.
fn alarmed(leg: Leg, bytes: &[u8]) -> Server {
    let hex = sha256(bytes).to_string().replace("sha256:", "");
    Launch::on(leg).expects_log(&hex).start()
}

/// No 2xx that a client could take for the blob; an error says 500 or 503, never 404.
fn assert_lost(client: &mut Client, bytes: &[u8]) {
    let target = format!("/v2/{REPOSITORY}/blobs/{}", sha256(bytes));
    match client.request("GET", &target).try_send() {
        Ok(answer) => assert!([500, 503].contains(&answer.status), "{}", answer.text()),
        Err(_cut_off) => client.hang_up(),
    }
}

/// Asks on several connections, so that every core has been asked.
fn assert_right_everywhere(server: &Server, bytes: &[u8]) {
    for _ in 0..8 {
        server.client().assert_blob(REPOSITORY, sha256(bytes), bytes);
    }
}

legs! {
    fn a_truncated_file_is_repaired_by_pushing_again(leg) {
        let bytes = noise(860, 400_000);
        let server = alarmed(leg, &bytes);
        let digest = server.client().push_blob(REPOSITORY, &bytes);
        for keep in [399_999, 100_000, 0] {
            fs::File::options().write(true).open(server.blob_file(digest)).unwrap().set_len(keep).unwrap();
            assert_lost(&mut server.client(), &bytes);
            server.client().push_blob(REPOSITORY, &bytes);
            assert_eq!(fs::read(server.blob_file(digest)).unwrap(), bytes, "a new file took its place");
            assert_right_everywhere(&server, &bytes);
        }
    }

    /// The cores have the old file open: after the repair they serve the new one.
    fn open_files_follow_the_repair(leg) {
        let bytes = noise(861, 300_000);
        let server = alarmed(leg, &bytes);
        let digest = server.client().push_blob(REPOSITORY, &bytes);
        assert_right_everywhere(&server, &bytes);
        fs::File::options().write(true).open(server.blob_file(digest)).unwrap().set_len(5).unwrap();
        server.client().push_blob("durable/elsewhere", &bytes);
        assert_right_everywhere(&server, &bytes);
    }

    fn truncated_while_nobody_ran(leg) {
        let bytes = noise(862, 400_000);
        let server = alarmed(leg, &bytes);
        let digest = server.client().push_blob(REPOSITORY, &bytes);
        let (launch, blob) = (server.launch.clone(), server.blob_file(digest));
        let server = server.kill_meddle_restart(launch, |_| {
            fs::File::options().write(true).open(&blob).unwrap().set_len(1000).unwrap();
        });
        for _ in 0..4 {
            assert_lost(&mut server.client(), &bytes);
        }
        let target = format!("/v2/{REPOSITORY}/blobs/{digest}");
        let ranged = server.client().request("GET", &target).header("Range", "bytes=0-10").send();
        assert!([500, 503].contains(&ranged.status), "nor a part of it: {}", ranged.text());
        server.client().push_blob(REPOSITORY, &bytes);
        assert_right_everywhere(&server, &bytes);
    }

    fn a_lost_file_is_never_404(leg) {
        let bytes = noise(863, 400_000);
        let server = alarmed(leg, &bytes);
        let digest = server.client().push_blob(REPOSITORY, &bytes);
        let (launch, blob) = (server.launch.clone(), server.blob_file(digest));
        let server = server.kill_meddle_restart(launch, |_| fs::remove_file(&blob).unwrap());
        for _ in 0..4 {
            let mut client = server.client();
            let answer = client.get(format!("/v2/{REPOSITORY}/blobs/{digest}"));
            assert!([500, 503].contains(&answer.status), "{}", answer.text());
            let head = client.head(format!("/v2/{REPOSITORY}/blobs/{digest}"));
            assert!([500, 503].contains(&head.status), "docker would skip the upload on 200: {}", head.status);
        }
        server.client().push_blob(REPOSITORY, &bytes);
        assert_right_everywhere(&server, &bytes);
    }

    /// A mount would give a second repository what the first has lost.
    fn what_is_not_wholly_here_is_not_mounted(leg) {
        let bytes = noise(865, 50_000);
        let server = alarmed(leg, &bytes);
        let digest = server.client().push_blob(REPOSITORY, &bytes);
        let mount = format!("/v2/durable/heir/blobs/uploads/?mount={digest}&from={REPOSITORY}");
        let lose: [&dyn Fn(); 2] = [
            &|| fs::File::options().write(true).open(server.blob_file(digest)).unwrap().set_len(1000).unwrap(),
            &|| fs::remove_file(server.blob_file(digest)).unwrap(),
        ];
        for lose in lose {
            lose();
            let mut client = server.client();
            client.request("POST", &mount).send().expect(202);
            client.get(format!("/v2/durable/heir/blobs/{digest}")).refused(404, "BLOB_UNKNOWN");
            client.push_blob(REPOSITORY, &bytes);
        }
        server.client().request("POST", &mount).send().expect(201);
        server.client().assert_blob("durable/heir", digest, &bytes);
    }

    /// A longer file has the wrong size too.
    fn a_grown_file_is_repaired(leg) {
        let bytes = noise(864, 50_000);
        let server = alarmed(leg, &bytes);
        let digest = server.client().push_blob(REPOSITORY, &bytes);
        fs::File::options().write(true).open(server.blob_file(digest)).unwrap().set_len(60_000).unwrap();
        server.client().push_blob(REPOSITORY, &bytes);
        assert_right_everywhere(&server, &bytes);
        assert_eq!(fs::metadata(server.blob_file(digest)).unwrap().len(), 50_000);
    }
}
