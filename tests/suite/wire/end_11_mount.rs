//! end-11: a mount links what the caller may read elsewhere, and falls back to an upload session.

use oci::{Algorithm, Digest};

use crate::harness::{Client, Response, Server, legs, noise, sha256};

fn mount(client: &mut Client, into: &str, digest: Digest, from: Option<&str>) -> Response {
    let from = from.map(|from| format!("&from={from}")).unwrap_or_default();
    client.request("POST", format!("/v2/{into}/blobs/uploads/?mount={digest}{from}")).send()
}

/// A refused mount is an open session that works.
fn assert_falls_back(client: &mut Client, into: &str, answer: Response, bytes: &[u8]) {
    let answer = answer.expect(202);
    let digest = sha256(bytes);
    client.get(format!("/v2/{into}/blobs/{digest}")).expect(404);
    let put = client.request("PUT", format!("{}?digest={digest}", answer.header("location")));
    put.body(bytes).send().expect(201);
    client.assert_blob(into, digest, bytes);
}

legs! {
    fn with_from(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        for algorithm in Algorithm::ALL {
            let bytes = noise(130 + algorithm as u64, 9000);
            let digest = client.push_blob_as("mount/source", &bytes, algorithm);
            let stored = mount(&mut client, "mount/target", digest, Some("mount/source")).expect(201);
            assert_eq!(stored.header("docker-content-digest"), digest.to_string());
            assert_eq!(stored.header("location"), format!("/v2/mount/target/blobs/{digest}"));
            client.assert_blob("mount/target", digest, &bytes);
        }
        let bytes = noise(134, 100);
        let digest = client.push_blob("mount/source", &bytes);
        let written = format!("/v2/mount/enc/blobs/uploads/?from=mount%2Fsource&mount={}", digest.to_string().replace(':', "%3A"));
        client.request("POST", written).send().expect(201);
        client.assert_blob("mount/enc", digest, &bytes);
    }

    fn without_from(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let bytes = noise(135, 9000);
        let digest = client.push_blob("mount/somewhere", &bytes);
        let stored = mount(&mut client, "mount/anonymous", digest, None).expect(201);
        assert_eq!(stored.header("docker-content-digest"), digest.to_string());
        client.assert_blob("mount/anonymous", digest, &bytes);
    }

    fn of_what_is_nowhere(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let bytes = noise(136, 9000);
        for (number, from) in [None, Some("mount/nowhere"), Some("mount/t1")].into_iter().enumerate() {
            let into = format!("mount/t{number}");
            let bytes = [bytes.as_slice(), &[number as u8]].concat();
            let answer = mount(&mut client, &into, sha256(&bytes), from);
            assert_falls_back(&mut client, &into, answer, &bytes);
        }
    }

    /// The bytes lie on the disk; that is no permission.
    fn from_a_repository_without_a_link(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let bytes = noise(137, 9000);
        let digest = client.push_blob("mount/owner", &bytes);
        client.push_blob("mount/bystander", b"unrelated");
        let answer = mount(&mut client, "mount/thief", digest, Some("mount/bystander"));
        assert_falls_back(&mut client, "mount/thief", answer, &bytes);
    }

    fn after_the_source_was_deleted(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let bytes = noise(138, 9000);
        let digest = client.push_blob("mount/owner", &bytes);
        mount(&mut client, "mount/heir", digest, Some("mount/owner")).expect(201);
        client.delete(format!("/v2/mount/owner/blobs/{digest}")).expect(202);
        client.assert_blob("mount/heir", digest, &bytes);
        let answer = mount(&mut client, "mount/late", digest, Some("mount/owner"));
        assert_falls_back(&mut client, "mount/late", answer, &bytes);
        client.delete(format!("/v2/mount/heir/blobs/{digest}")).expect(202);
        client.delete(format!("/v2/mount/late/blobs/{digest}")).expect(202);
        let answer = mount(&mut client, "mount/last", digest, None);
        assert_falls_back(&mut client, "mount/last", answer, &bytes);
    }

    fn of_what_is_here_already(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let bytes = noise(139, 900);
        let digest = client.push_blob("mount/self", &bytes);
        mount(&mut client, "mount/self", digest, Some("mount/self")).expect(201);
        mount(&mut client, "mount/other", digest, Some("mount/self")).expect(201);
        mount(&mut client, "mount/other", digest, Some("mount/self")).expect(201);
        client.assert_blob("mount/other", digest, &bytes);
    }

    fn survives_kill_9(leg) {
        let server = Server::start(leg);
        let bytes = noise(140, 9000);
        let digest = server.client().push_blob("mount/source", &bytes);
        mount(&mut server.client(), "mount/durable", digest, Some("mount/source")).expect(201);
        let server = server.kill_and_restart();
        server.client().assert_blob("mount/durable", digest, &bytes);
    }
}
