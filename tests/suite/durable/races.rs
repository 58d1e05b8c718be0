//! The same digest from several sides at once: right in every order.

use crate::harness::{Server, legs, noise, sha256, wait_for};

legs! {
    fn the_same_digest_pushed_at_once(leg) {
        let server = Server::start(leg);
        for round in 0..8 {
            let bytes = noise(870 + round, 120_000);
            std::thread::scope(|scope| {
                for pusher in 0..8 {
                    let (server, bytes) = (&server, &bytes);
                    scope.spawn(move || {
                        let repository = format!("race/r{}", pusher % 3);
                        let mut client = server.client();
                        let digest = client.push_blob(&repository, bytes);
                        client.assert_blob(&repository, digest, bytes);
                    });
                }
            });
            assert_eq!(std::fs::read(server.blob_file(sha256(&bytes))).unwrap(), bytes);
        }
        wait_for("the keeper tidies up after its answer", || {
            server.upload_dirs().is_empty()
        });
    }

    /// Who was told 201 last before his own delete has it; nobody reads what he has no link to.
    fn pushed_and_deleted_at_once(leg) {
        let server = Server::start(leg);
        let bytes = noise(880, 60_000);
        std::thread::scope(|scope| {
            for worker in 0..6 {
                let (server, bytes) = (&server, &bytes);
                scope.spawn(move || {
                    let repository = format!("race/own{worker}");
                    let mut client = server.client();
                    for _ in 0..12 {
                        let digest = client.push_blob(&repository, bytes);
                        client.assert_blob(&repository, digest, bytes);
                        client.delete(format!("/v2/{repository}/blobs/{digest}")).expect(202);
                        client.get(format!("/v2/{repository}/blobs/{digest}")).expect(404);
                    }
                });
            }
        });
    }

    /// Invariant 3: what a readable manifest names is readable, whoever deletes what meanwhile.
    fn a_manifest_beats_a_delete_or_loses_to_it(leg) {
        let server = Server::start(leg);
        for round in 0..20u64 {
            let image = server.client().push_image("race/manifest", "seed", 900 + round);
            server.client().delete(format!("/v2/race/manifest/manifests/{}", image.digest)).expect(202);
            std::thread::scope(|scope| {
                let put = scope.spawn(|| {
                    let media_type = crate::harness::media::IMAGE;
                    server.client().put_manifest("race/manifest", "v1", media_type, &image.bytes).status
                });
                let delete = scope.spawn(|| {
                    server.client().delete(format!("/v2/race/manifest/blobs/{}", image.layer)).status
                });
                let outcome = (put.join().unwrap(), delete.join().unwrap());
                assert!([(201, 405), (404, 202)].contains(&outcome), "round {round}: {outcome:?}");
            });
        }
    }

    fn every_tag_of_many_writers_is_kept(leg) {
        let server = Server::start(leg);
        let image = server.client().push_image("race/tags", "seed", 930);
        std::thread::scope(|scope| {
            for writer in 0..8 {
                let (server, image) = (&server, &image);
                scope.spawn(move || {
                    let mut client = server.client();
                    for number in 0..10 {
                        let media_type = crate::harness::media::IMAGE;
                        client.put_manifest("race/tags", &format!("w{writer}-{number}"), media_type, &image.bytes).expect(201);
                    }
                });
            }
        });
        let list = server.client().get("/v2/race/tags/tags/list").expect(200).json();
        assert_eq!(list["tags"].as_array().unwrap().len(), 81);
    }
}
