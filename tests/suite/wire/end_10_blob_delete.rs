//! end-10: a blob goes away from this repository only, and not while a live manifest of it names it.

use crate::harness::{Server, legs, noise};

legs! {
    fn from_this_repository_only(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let bytes = noise(400, 5000);
        let digest = client.push_blob("del/one", &bytes);
        client.push_blob("del/two", &bytes);
        client.delete(format!("/v2/del/one/blobs/{digest}")).expect(202);
        client.get(format!("/v2/del/one/blobs/{digest}")).refused(404, "BLOB_UNKNOWN");
        client.head(format!("/v2/del/one/blobs/{digest}")).expect(404);
        client.assert_blob("del/two", digest, &bytes);
        client.delete(format!("/v2/del/one/blobs/{digest}")).refused(404, "BLOB_UNKNOWN");
    }

    fn refused_while_a_live_manifest_names_it(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let image = client.push_image("del/live", "v1", 401);
        for digest in [image.layer, image.config] {
            let refused = client.delete(format!("/v2/del/live/blobs/{digest}")).refused(405, "DENIED");
            assert!(refused.text().contains(&image.digest.to_string()), "it names the referrer: {}", refused.text());
            client.get(format!("/v2/del/live/blobs/{digest}")).expect(200);
        }
        client.delete("/v2/del/live/manifests/v1").expect(202);
        client.delete(format!("/v2/del/live/blobs/{}", image.layer)).refused(405, "DENIED");
        client.delete(format!("/v2/del/live/manifests/{}", image.digest)).expect(202);
        client.delete(format!("/v2/del/live/blobs/{}", image.layer)).expect(202);
        client.get(format!("/v2/del/live/blobs/{}", image.layer)).refused(404, "BLOB_UNKNOWN");
    }

    fn a_manifest_elsewhere_holds_nothing_here(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let image = client.push_image("del/holder", "v1", 402);
        client.push_blob("del/free", &noise(402, 2000));
        client.delete(format!("/v2/del/free/blobs/{}", image.layer)).expect(202);
        client.get(format!("/v2/del/holder/blobs/{}", image.layer)).expect(200);
    }

    /// Every core may have remembered the link; not one may still serve it.
    fn no_core_serves_it_after_the_202(leg) {
        let server = crate::harness::Launch::on(leg).cores(4).start();
        let bytes = noise(403, 90_000);
        let mut readers: Vec<_> = (0..12).map(|_| server.client()).collect();
        for round in 0..15 {
            let digest = server.client().push_blob("del/cached", &bytes);
            for reader in &mut readers {
                reader.assert_blob("del/cached", digest, &bytes);
            }
            server.client().delete(format!("/v2/del/cached/blobs/{digest}")).expect(202);
            for reader in &mut readers {
                assert_eq!(reader.get(format!("/v2/del/cached/blobs/{digest}")).status, 404, "round {round}");
            }
        }
    }

    fn what_was_deleted_may_be_pushed_again(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let bytes = noise(404, 5000);
        for _ in 0..3 {
            let digest = client.push_blob("del/again", &bytes);
            client.assert_blob("del/again", digest, &bytes);
            client.delete(format!("/v2/del/again/blobs/{digest}")).expect(202);
            client.get(format!("/v2/del/again/blobs/{digest}")).expect(404);
        }
    }

    fn malformed_and_unknown(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        client.push_blob("del/known", b"x");
        client.delete("/v2/del/known/blobs/sha256:abc").refused(400, "DIGEST_INVALID");
        let absent = crate::harness::sha256(b"never");
        client.delete(format!("/v2/del/known/blobs/{absent}")).refused(404, "BLOB_UNKNOWN");
        client.delete(format!("/v2/del/nowhere/blobs/{absent}")).expect(404);
    }

    fn the_deletion_survives_kill_9(leg) {
        let server = Server::start(leg);
        let digest = server.client().push_blob("del/durable", &noise(405, 5000));
        server.client().delete(format!("/v2/del/durable/blobs/{digest}")).expect(202);
        let server = server.kill_and_restart();
        server.client().get(format!("/v2/del/durable/blobs/{digest}")).refused(404, "BLOB_UNKNOWN");
    }
}
