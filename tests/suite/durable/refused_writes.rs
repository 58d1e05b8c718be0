//! After an error of a sync or a COMMIT nobody knows what is on the disk: the mark keeps writes out, reads go
//! on, and only `gantry doctor --clear-disk-error` lets writes in again.

use std::{fs, os::unix::fs::FileExt, path::Path, process::Command};

use crate::harness::{Launch, Server, legs, media, noise, sha256};

const REPOSITORY: &str = "durable/mark";

fn doctor(data: &Path) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gantry"));
    command.args(["doctor", "--clear-disk-error", "--data"]).arg(data).output().expect("the binary runs")
}

legs! {
    fn the_mark_refuses_writes_and_nothing_else(leg) {
        let server = Server::start(leg);
        let bytes = noise(1000, 50_000);
        let mut client = server.client();
        let digest = client.push_blob(REPOSITORY, &bytes);
        let image = client.push_image(REPOSITORY, "v1", 1001);
        let session = client.open_upload(REPOSITORY);
        client.patch_at(&session, 0, b"not to be trusted").expect(202);
        let launch = Launch::on(leg).expects_log("disk error");
        let server = server.kill_meddle_restart(launch, |data| fs::write(data.join("disk-error"), "").unwrap());
        let mut client = server.client();
        client.assert_blob(REPOSITORY, digest, &bytes);
        assert_eq!(client.get(format!("/v2/{REPOSITORY}/manifests/v1")).expect(200).body, image.bytes);
        client.request("POST", format!("/v2/{REPOSITORY}/blobs/uploads/")).send().refused(503, "UNAVAILABLE");
        let single = format!("/v2/{REPOSITORY}/blobs/uploads/?digest={}", sha256(b"x"));
        client.request("POST", single).body(b"x").send().refused(503, "UNAVAILABLE");
        let mount = format!("/v2/other/place/blobs/uploads/?mount={digest}&from={REPOSITORY}");
        client.request("POST", mount).send().refused(503, "UNAVAILABLE");
        client.put_manifest(REPOSITORY, "v2", media::IMAGE, &image.bytes).refused(503, "UNAVAILABLE");
        client.delete(format!("/v2/{REPOSITORY}/manifests/v1")).refused(503, "UNAVAILABLE");
        client.get(&session).refused(404, "BLOB_UPLOAD_UNKNOWN");
        let health = server.health();
        assert_eq!(health["writes"]["allowed"], false);
        assert!(health["writes"]["why"].as_str().unwrap().contains("doctor"), "it says what to do: {health}");
        client.get("/livez").expect(200);
    }

    fn the_doctor_clears_it(leg) {
        let server = Server::start(leg);
        let bytes = noise(1002, 50_000);
        let digest = server.client().push_blob(REPOSITORY, &bytes);
        let refused = doctor(server.data_dir());
        assert!(!refused.status.success(), "not while a process runs on it");
        let launch = server.launch.clone();
        let server = server.kill_meddle_restart(launch, |data| {
            fs::write(data.join("disk-error"), "").unwrap();
            let cleared = doctor(data);
            assert!(cleared.status.success(), "{}", String::from_utf8_lossy(&cleared.stderr));
            assert!(!data.join("disk-error").exists());
        });
        server.client().assert_blob(REPOSITORY, digest, &bytes);
        server.client().push_blob(REPOSITORY, b"writes are back");
        assert_eq!(server.health()["writes"]["allowed"], true);
    }

    /// Bytes that the disk lost are never served afterwards, and pushing them again brings them back.
    fn the_doctor_finds_what_the_disk_lost(leg) {
        let bytes = noise(1003, 300_000);
        let lost = sha256(&bytes);
        let server = Launch::on(leg).expects_log(&lost.to_string()).start();
        let kept = server.client().push_blob(REPOSITORY, b"this one is right");
        server.client().push_blob(REPOSITORY, &bytes);
        let (launch, file) = (server.launch.clone(), server.blob_file(lost));
        let server = server.kill_meddle_restart(launch, |data| {
            let blob = fs::File::options().write(true).open(&file).unwrap();
            blob.write_all_at(&[0; 4096], 200_000).unwrap();
            blob.sync_all().unwrap();
            fs::write(data.join("disk-error"), "").unwrap();
            let cleared = doctor(data);
            assert!(cleared.status.success(), "{}", String::from_utf8_lossy(&cleared.stderr));
            let said = String::from_utf8(cleared.stdout).unwrap();
            assert!(said.contains("2 blobs hashed") && said.contains(&lost.to_string()), "{said}");
            assert!(!said.contains(&kept.to_string()) && !file.exists(), "{said}");
        });
        let mut client = server.client();
        client.assert_blob(REPOSITORY, kept, b"this one is right");
        client.get(format!("/v2/{REPOSITORY}/blobs/{lost}")).expect(500);
        client.push_blob(REPOSITORY, &bytes);
        client.assert_blob(REPOSITORY, lost, &bytes);
    }
}
