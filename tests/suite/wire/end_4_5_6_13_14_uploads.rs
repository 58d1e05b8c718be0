//! end-4, end-5, end-6, end-13, end-14: every way to push a blob, and every way to get it wrong.

use oci::{Algorithm, Digest};

use crate::harness::{Launch, Server, legs, noise, offset_of, setting, sha256};

const REPOSITORY: &str = "team/uploads";

legs! {
    fn an_opened_session_tells_where_it_is(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        for target in [format!("/v2/{REPOSITORY}/blobs/uploads/"), format!("/v2/{REPOSITORY}/blobs/uploads")] {
            let opened = client.request("POST", target).send().expect(202);
            let location = opened.header("location").to_owned();
            assert!(location.starts_with(&format!("/v2/{REPOSITORY}/blobs/uploads/")), "{location}");
            assert_eq!(opened.header("range"), "0-0");
            assert_eq!(opened.header("content-length"), "0");
            let status = client.get(&location).expect(204);
            assert_eq!(status.header("location"), location);
            assert_eq!(status.header("range"), "0-0");
            assert_eq!(status.header("docker-upload-uuid"), opened.header("docker-upload-uuid"));
        }
    }

    fn what_is_not_asked_of_a_session_is_refused_by_its_name(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let location = client.open_upload(REPOSITORY);
        let id = location.rsplit('/').next().unwrap().to_owned();
        for method in ["POST", "OPTIONS", "TRACE"] {
            let answer = client.request(method, format!("{location}?x=y")).send().refused(405, "UNSUPPORTED");
            assert_eq!(answer.header("docker-upload-uuid"), id, "{method}");
            assert_eq!(answer.header("allow"), "GET, HEAD, PATCH, PUT, DELETE");
        }
        let answer = client.request("PUT", location.as_str()).send().refused(400, "DIGEST_INVALID");
        assert_eq!(answer.header("docker-upload-uuid"), id);
        client.get(location).expect(204);
        // A path that only ends like one.
        let other = client.request("POST", format!("/v2/{REPOSITORY}/blobs/{}", sha256(b"x"))).send();
        assert_eq!(other.expect(405).get("docker-upload-uuid"), None);
    }

    fn location_is_never_built_from_host(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let post = client.request("POST", format!("/v2/{REPOSITORY}/blobs/uploads/"));
        let opened = post.header("Host", "attacker.example").header("X-Forwarded-Host", "other.example").send();
        assert!(!opened.expect(202).text().contains("example"));
    }

    fn post_then_put_with_the_body(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        for len in [0, 1, 1000, 300_000, 3 << 20] {
            let bytes = noise(len as u64, len);
            let location = client.open_upload(REPOSITORY);
            let digest = sha256(&bytes);
            let target = format!("{location}?digest={digest}");
            let stored = client.request("PUT", target).body(bytes.clone()).send().expect(201);
            assert_eq!(stored.header("docker-content-digest"), digest.to_string());
            assert_eq!(stored.header("location"), format!("/v2/{REPOSITORY}/blobs/{digest}"));
            client.assert_blob(REPOSITORY, digest, &bytes);
            client.get(&location).refused(404, "BLOB_UPLOAD_UNKNOWN");
        }
    }

    fn a_single_post_is_enough(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        for algorithm in Algorithm::ALL {
            let bytes = noise(50 + algorithm as u64, 80_000);
            let digest = Digest::of(algorithm, &bytes);
            for written in [digest.to_string(), digest.to_string().replace(':', "%3A")] {
                let post = client.request("POST", format!("/v2/{REPOSITORY}/blobs/uploads/?digest={written}"));
                let stored = post.header("Content-Type", "application/octet-stream").body(bytes.clone()).send();
                let stored = stored.expect(201);
                assert_eq!(stored.header("docker-content-digest"), digest.to_string());
                assert_eq!(stored.header("location"), format!("/v2/{REPOSITORY}/blobs/{digest}"));
            }
            client.assert_blob(REPOSITORY, digest, &bytes);
        }
        // The keeper takes an upload's names away after it has answered.
        server.upload_dirs_left(0);
    }

    fn a_single_post_in_chunks(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let bytes = noise(54, 500_000);
        let digest = sha256(&bytes);
        let post = client.request("POST", format!("/v2/{REPOSITORY}/blobs/uploads/?digest={digest}"));
        post.chunks(bytes.chunks(33_333)).send().expect(201);
        client.assert_blob(REPOSITORY, digest, &bytes);
    }

    fn a_wrong_digest_is_400_and_stores_nothing(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        for algorithm in Algorithm::ALL {
            let bytes = noise(60 + algorithm as u64, 5000);
            let (right, wrong) = (Digest::of(algorithm, &bytes), Digest::of(algorithm, b"something else"));
            let post = client.request("POST", format!("/v2/{REPOSITORY}/blobs/uploads/?digest={wrong}"));
            post.body(bytes.clone()).send().refused(400, "DIGEST_INVALID");
            let location = client.open_upload(REPOSITORY);
            let put = client.request("PUT", format!("{location}?digest={wrong}"));
            put.body(bytes.clone()).send().refused(400, "DIGEST_INVALID");
            for digest in [right, wrong] {
                client.get(format!("/v2/{REPOSITORY}/blobs/{digest}")).expect(404);
                assert!(!server.blob_file(digest).exists(), "no name for bytes that nobody acknowledged");
            }
        }
    }

    fn a_put_needs_a_digest(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let location = client.open_upload(REPOSITORY);
        client.request("PUT", &location).body(b"abc").send().refused(400, "DIGEST_INVALID");
        for bad in ["", "sha256:abc", "md5:900150983cd24fb0d6963f7d28e17f72", "nonsense"] {
            let location = client.open_upload(REPOSITORY);
            let put = client.request("PUT", format!("{location}?digest={bad}"));
            put.body(b"abc").send().refused(400, "DIGEST_INVALID");
        }
        client.request("POST", format!("/v2/{REPOSITORY}/blobs/uploads/?digest=sha256:abc")).send().refused(400, "DIGEST_INVALID");
    }

    fn one_patch_then_an_empty_put(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let bytes = noise(70, 1 << 20);
        let location = client.open_upload(REPOSITORY);
        let patched = client.request("PATCH", &location).body(bytes.clone()).send().expect(202);
        assert_eq!(patched.header("range"), format!("0-{}", bytes.len() - 1));
        assert_eq!(patched.header("location"), location);
        client.close_upload(&location, sha256(&bytes)).expect(201);
        client.assert_blob(REPOSITORY, sha256(&bytes), &bytes);
    }

    fn a_streamed_patch_without_length(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        for chunk in [1, 1000, 65_536, 400_000] {
            let bytes = noise(71 + chunk as u64, (chunk * 40).min(3 << 20));
            let location = client.open_upload(REPOSITORY);
            let patched = client.request("PATCH", &location).chunks(bytes.chunks(chunk)).send().expect(202);
            assert_eq!(offset_of(patched.header("range")), bytes.len());
            client.close_upload(&location, sha256(&bytes)).expect(201);
            client.assert_blob(REPOSITORY, sha256(&bytes), &bytes);
        }
    }

    fn many_chunks_and_the_last_one_with_the_put(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let bytes = noise(80, 500_000);
        let location = client.open_upload(REPOSITORY);
        let (body, tail) = bytes.split_at(420_000);
        let mut offset = 0;
        for chunk in body.chunks(60_000) {
            let patched = client.patch_at(&location, offset, chunk).expect(202);
            offset += chunk.len();
            assert_eq!(patched.header("range"), format!("0-{}", offset - 1));
            assert_eq!(client.upload_offset(&location), offset);
        }
        let put = client.request("PUT", format!("{location}?digest={}", sha256(&bytes)));
        let range = format!("{offset}-{}", bytes.len() - 1);
        put.header("Content-Range", range).body(tail).send().expect(201);
        client.assert_blob(REPOSITORY, sha256(&bytes), &bytes);
    }

    fn chunks_from_every_core(leg) {
        let server = Launch::on(leg).cores(4).start();
        let bytes = noise(81, 400_000);
        let mut clients: Vec<_> = (0..8).map(|_| server.client()).collect();
        let location = clients[0].open_upload(REPOSITORY);
        for (number, chunk) in bytes.chunks(17_000).enumerate() {
            clients[number % 8].patch_at(&location, number * 17_000, chunk).expect(202);
        }
        clients[3].close_upload(&location, sha256(&bytes)).expect(201);
        clients[5].assert_blob(REPOSITORY, sha256(&bytes), &bytes);
    }

    fn out_of_order_is_416_and_the_session_is_unchanged(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let bytes = noise(82, 10_000);
        let location = client.open_upload(REPOSITORY);
        let first = client.patch_at(&location, 5, &bytes[5..10]).expect(416);
        assert_eq!(first.header("range"), "0-0", "an empty session takes offset 0 only");
        client.patch_at(&location, 0, &bytes[..4000]).expect(202);
        for (offset, end) in [(4001, 10_000), (3999, 10_000), (0, 4000), (9000, 10_000)] {
            let refused = client.patch_at(&location, offset, &bytes[offset..end]).expect(416);
            assert_eq!(refused.header("location"), location);
            assert_eq!(refused.header("range"), "0-3999");
            assert_eq!(client.upload_offset(&location), 4000);
        }
        let put = client.request("PUT", format!("{location}?digest={}", sha256(&bytes)));
        let put = put.header("Content-Range", "5000-9999").body(&bytes[5000..]).send().expect(416);
        assert_eq!((put.header("location"), put.header("range")), (location.as_str(), "0-3999"));
        assert_eq!(client.upload_offset(&location), 4000);
        let put = client.request("PUT", format!("{location}?digest={}", sha256(&bytes)));
        put.header("Content-Range", "4000-9999").body(&bytes[4000..]).send().expect(201);
        client.assert_blob(REPOSITORY, sha256(&bytes), &bytes);
    }

    fn a_content_range_that_does_not_fit_its_body_is_refused(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let location = client.open_upload(REPOSITORY);
        client.patch_at(&location, 0, b"0123456789").expect(202);
        for range in ["10-18", "10-20", "10-9", "ten-20", "10", "-20", "10-99999999999999999999999", "bytes 10-19/*x"] {
            let patch = client.request("PATCH", &location).header("Content-Range", range);
            let answer = patch.body(b"abcdefghij").send();
            assert!([400, 416].contains(&answer.status), "{range}: {}", answer.text());
            assert_eq!(client.upload_offset(&location), 10, "{range}: the session is unchanged");
        }
        client.close_upload(&location, sha256(b"0123456789")).expect(201);
    }

    /// How long a chunked body is, only its end tells. Nothing behind the range is taken.
    fn a_content_range_that_does_not_fit_its_chunked_body_is_refused(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let whole = b"0123456789abcdef";
        for (range, kept) in [("10-15", 16), ("10-12", 10), ("10-19", 16)] {
            let location = client.open_upload(REPOSITORY);
            client.patch_at(&location, 0, &whole[..10]).expect(202);
            let patch = client.request("PATCH", &location).header("Content-Range", range);
            let answer = patch.chunks([&whole[10..]]).send();
            assert_eq!(answer.status, if range == "10-15" { 202 } else { 400 }, "{range}: {}", answer.text());
            assert_eq!(client.upload_offset(&location), kept, "{range}: as of a body that was cut");
            let put = client.request("PUT", format!("{location}?digest={}", sha256(whole)));
            put.body(&whole[kept..]).send().expect(201);
        }
        let location = client.open_upload(REPOSITORY);
        let put = client.request("PUT", format!("{location}?digest={}", sha256(whole)));
        put.header("Content-Range", "0-19").chunks([&whole[..]]).send().refused(400, "SIZE_INVALID");
        client.close_upload(&location, sha256(whole)).expect(201);
    }

    fn cancel_removes_the_session(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let location = client.open_upload(REPOSITORY);
        client.patch_at(&location, 0, b"some bytes").expect(202);
        assert_eq!(server.upload_dirs().len(), 1);
        client.delete(&location).expect(204);
        client.get(&location).refused(404, "BLOB_UPLOAD_UNKNOWN");
        client.patch_at(&location, 10, b"more").refused(404, "BLOB_UPLOAD_UNKNOWN");
        client.close_upload(&location, sha256(b"some bytes")).refused(404, "BLOB_UPLOAD_UNKNOWN");
        client.delete(&location).refused(404, "BLOB_UPLOAD_UNKNOWN");
        assert!(server.upload_dirs().is_empty(), "nothing is left under uploads/");
    }

    fn a_session_belongs_to_its_repository(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let location = client.open_upload(REPOSITORY);
        client.patch_at(&location, 0, b"mine").expect(202);
        let stolen = location.replace(REPOSITORY, "other/team");
        client.get(&stolen).refused(404, "BLOB_UPLOAD_UNKNOWN");
        client.patch_at(&stolen, 4, b"yours").refused(404, "BLOB_UPLOAD_UNKNOWN");
        client.close_upload(&stolen, sha256(b"mine")).refused(404, "BLOB_UPLOAD_UNKNOWN");
        client.delete(&stolen).refused(404, "BLOB_UPLOAD_UNKNOWN");
        client.close_upload(&location, sha256(b"mine")).expect(201);
    }

    fn an_unknown_session_is_404(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        client.push_blob(REPOSITORY, b"so that the repository exists");
        for id in ["00000000000000000000000000000000", "nonsense", "..", "%2e%2e%2f%2e%2e"] {
            let location = format!("/v2/{REPOSITORY}/blobs/uploads/{id}");
            let status = client.get(&location);
            assert!([400, 404].contains(&status.status), "{id}: {}", status.text());
            let patch = client.request("PATCH", &location).body(b"x").send();
            assert!([400, 404].contains(&patch.status), "{id}: {}", patch.text());
        }
    }

    fn the_algorithm_of_a_session_is_a_question_of_the_query(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        for algorithm in Algorithm::ALL {
            let bytes = noise(90 + algorithm as u64, 300_000);
            let post = format!("/v2/{REPOSITORY}/blobs/uploads/?digest-algorithm={}", algorithm.name());
            let location = client.request("POST", post).send().expect(202).header("location").to_owned();
            for (number, chunk) in bytes.chunks(100_000).enumerate() {
                client.patch_at(&location, number * 100_000, chunk).expect(202);
            }
            let digest = Digest::of(algorithm, &bytes);
            let stored = client.close_upload(&location, digest).expect(201);
            assert_eq!(stored.header("docker-content-digest"), digest.to_string());
            client.assert_blob(REPOSITORY, digest, &bytes);
        }
        let unknown = client.request("POST", format!("/v2/{REPOSITORY}/blobs/uploads/?digest-algorithm=md5"));
        unknown.send().refused(400, "DIGEST_INVALID");
    }

    /// The official suite does this with sha512: the file is read once more.
    fn a_put_may_name_another_algorithm_than_the_session(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        for opened in Algorithm::ALL {
            for closed in Algorithm::ALL {
                let bytes = noise(100 + opened as u64 * 3 + closed as u64, 120_000);
                let post = format!("/v2/{REPOSITORY}/blobs/uploads/?digest-algorithm={}", opened.name());
                let location = client.request("POST", post).send().expect(202).header("location").to_owned();
                client.patch_at(&location, 0, &bytes[..100_000]).expect(202);
                let digest = Digest::of(closed, &bytes);
                let put = client.request("PUT", format!("{location}?digest={digest}"));
                put.header("Content-Range", "100000-119999").body(&bytes[100_000..]).send().expect(201);
                client.assert_blob(REPOSITORY, digest, &bytes);
            }
        }
    }

    fn a_blob_over_the_limit_is_413(leg) {
        let server = Launch::on(leg).set(setting::BLOB_BYTES, 10_000).start();
        let mut client = server.client();
        let exact = noise(110, 10_000);
        let over = noise(111, 10_001);
        let target = |bytes: &[u8]| format!("/v2/{REPOSITORY}/blobs/uploads/?digest={}", sha256(bytes));
        client.request("POST", target(&exact)).body(exact.clone()).send().expect(201);
        client.request("POST", target(&over)).body(over.clone()).send().expect(413);
        client.request("POST", target(&over)).chunks(over.chunks(3000)).send().expect(413);
        let location = client.open_upload(REPOSITORY);
        client.request("PATCH", &location).body(over.clone()).send().expect(413);
        let location = client.open_upload(REPOSITORY);
        client.patch_at(&location, 0, &exact[..6000]).expect(202);
        client.patch_at(&location, 6000, &over[6000..]).expect(413);
        let location = client.open_upload(REPOSITORY);
        let put = client.request("PUT", format!("{location}?digest={}", sha256(&over)));
        put.body(over.clone()).send().expect(413);
        client.get(format!("/v2/{REPOSITORY}/blobs/{}", sha256(&over))).expect(404);
    }

    fn expect_100_continue(leg) {
        let server = Launch::on(leg).set(setting::BLOB_BYTES, 10_000).start();
        let mut client = server.client();
        let bytes = noise(112, 5000);
        let target = format!("/v2/{REPOSITORY}/blobs/uploads/?digest={}", sha256(&bytes));
        let request = client.request("POST", target).header("Expect", "100-continue").body(bytes.clone()).to_bytes();
        let (head, body) = request.split_at(request.len() - bytes.len());
        client.send_bytes(head);
        assert_eq!(client.read("POST").status, 100);
        client.send_bytes(body);
        client.read("POST").expect(201);
        let target = format!("/v2/{REPOSITORY}/blobs/uploads/?digest={}", sha256(b"x"));
        let head = format!(
            "POST {target} HTTP/1.1\r\nHost: r\r\nExpect: 100-continue\r\nContent-Length: 10001\r\n\r\n"
        );
        client.send_bytes(head.as_bytes());
        client.read("POST").expect(413);
        let mut client = server.client();
        client.send_bytes(b"GET /v2/ HTTP/1.1\r\nHost: r\r\nExpect: 200-maybe\r\n\r\n");
        client.read("GET").expect(417);
    }

    fn what_is_there_may_be_pushed_again(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let bytes = noise(113, 40_000);
        for repository in [REPOSITORY, "other/uploads", REPOSITORY] {
            let digest = client.push_blob(repository, &bytes);
            client.assert_blob(repository, digest, &bytes);
        }
    }

    /// As many digests of one content as there are algorithms are as many blobs.
    fn pushes_at_once_are_all_kept(leg) {
        let server = Server::start(leg);
        std::thread::scope(|scope| {
            for pusher in 0..12u64 {
                let mut client = server.client();
                scope.spawn(move || {
                    for round in 0..6 {
                        let bytes = noise(1000 + pusher * 10 + round, 1000 + (pusher as usize * 7919));
                        let algorithm = Algorithm::ALL[(pusher + round) as usize % 3];
                        let digest = client.push_blob_as(REPOSITORY, &bytes, algorithm);
                        client.assert_blob(REPOSITORY, digest, &bytes);
                    }
                });
            }
        });
        // The keeper takes an upload's names away after it has answered.
        server.upload_dirs_left(0);
    }
}
