//! No bytes without permission: a link of this repository, and nothing else, makes a blob readable.

use crate::harness::{Client, Server, legs, noise, sha256};

use oci::Digest;

/// Every way to ask, none of which may show that the bytes lie on the disk.
fn assert_hidden(client: &mut Client, repository: &str, digest: Digest, bytes: &[u8]) {
    let target = format!("/v2/{repository}/blobs/{digest}");
    let absent = format!("/v2/{repository}/blobs/{}", sha256(b"lies on no disk"));
    let unknown = client.get(&absent);
    let shape = |answer: &crate::harness::Response| {
        let names: Vec<String> = answer.headers.iter().map(|(name, _)| name.clone()).collect();
        (answer.status, answer.code(), names)
    };
    for range in [None, Some("bytes=0-0"), Some("bytes=-1"), Some("bytes=0-0,2-2"), Some("bytes=99999999-")] {
        let ask = |client: &mut Client, target: &str| match range {
            Some(range) => client.request("GET", target).header("Range", range).send(),
            None => client.get(target),
        };
        let answer = ask(client, &target);
        assert_eq!(shape(&answer), shape(&unknown), "{range:?}");
        assert!(!answer.body.windows(32).any(|window| window == &bytes[..32]), "bytes without a link");
    }
    assert_eq!(shape(&client.head(&target)), shape(&client.head(&absent)));
    let known = client.request("GET", &target).header("If-None-Match", format!("\"{digest}\"")).send();
    assert_eq!(known.status, 404, "a conditional request tells nothing either");
    client.delete(&target).expect(404);
}

legs! {
    fn what_lies_on_the_disk_is_not_served_elsewhere(leg) {
        let server = Server::start(leg);
        let bytes = noise(600, 50_000);
        let digest = server.client().push_blob("owner/private", &bytes);
        assert!(server.blob_file(digest).exists(), "it is on the disk");
        for mut client in (0..6).map(|_| server.client()) {
            client.push_blob("other/place", b"so that it exists");
            client.assert_blob("owner/private", digest, &bytes);
            assert_hidden(&mut client, "other/place", digest, &bytes);
            client.get(format!("/v2/never/was/blobs/{digest}")).expect(404);
        }
    }

    fn nor_after_a_delete(leg) {
        let server = Server::start(leg);
        let bytes = noise(601, 50_000);
        let mut clients: Vec<_> = (0..6).map(|_| server.client()).collect();
        let digest = clients[0].push_blob("owner/private", &bytes);
        clients[0].push_blob("owner/second", &bytes);
        for client in &mut clients {
            client.assert_blob("owner/private", digest, &bytes);
        }
        clients[3].delete(format!("/v2/owner/private/blobs/{digest}")).expect(202);
        for client in &mut clients {
            assert_hidden(client, "owner/private", digest, &bytes);
            client.assert_blob("owner/second", digest, &bytes);
        }
    }

    /// Bytes of a session are nobody's blob until the PUT said so.
    fn nor_before_the_put(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let bytes = noise(602, 50_000);
        let location = client.open_upload("owner/early");
        client.patch_at(&location, 0, &bytes).expect(202);
        assert_hidden(&mut client, "owner/early", sha256(&bytes), &bytes);
        client.close_upload(&location, sha256(&bytes)).expect(201);
        client.assert_blob("owner/early", sha256(&bytes), &bytes);
    }

    fn a_file_without_a_row_is_no_blob(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        client.push_blob("owner/rows", b"so that blobs/sha256 exists");
        let bytes = noise(603, 5000);
        std::fs::write(server.blob_file(sha256(&bytes)), &bytes).unwrap();
        assert_hidden(&mut client, "owner/rows", sha256(&bytes), &bytes);
        client.push_blob("owner/rows", &bytes);
        client.assert_blob("owner/rows", sha256(&bytes), &bytes);
    }

    fn manifests_stay_in_their_repository(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let image = client.push_image("owner/private", "v1", 604);
        client.push_image("other/place", "v2", 605);
        client.get(format!("/v2/other/place/manifests/{}", image.digest)).refused(404, "MANIFEST_UNKNOWN");
        client.get("/v2/other/place/manifests/v1").refused(404, "MANIFEST_UNKNOWN");
        client.delete(format!("/v2/other/place/manifests/{}", image.digest)).refused(404, "MANIFEST_UNKNOWN");
        client.get("/v2/owner/private/manifests/v1").expect(200);
    }
}
