//! end-3, end-7, end-9: manifests by tag and by digest, byte for byte, put, read, moved and deleted.

use oci::{Algorithm, Digest};
use serde_json::json;

use crate::harness::{Image, Server, legs, media};

const REPOSITORY: &str = "team/manifests";

fn target(reference: impl std::fmt::Display) -> String {
    format!("/v2/{REPOSITORY}/manifests/{reference}")
}

legs! {
    fn put_by_tag_then_get_and_head_by_tag_and_digest(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let (config, layer) = (b"{}".to_vec(), b"layer".to_vec());
        client.push_blob(REPOSITORY, &config);
        client.push_blob(REPOSITORY, &layer);
        let image = Image::of(&config, &layer);
        let stored = client.put_manifest(REPOSITORY, "v1", media::IMAGE, &image.bytes).expect(201);
        assert_eq!(stored.header("docker-content-digest"), image.digest.to_string());
        assert_eq!(client.get(stored.header("location")).expect(200).body, image.bytes);
        for reference in ["v1".to_owned(), image.digest.to_string()] {
            let get = client.get(target(&reference)).expect(200);
            assert_eq!(get.body, image.bytes);
            let head = client.head(target(&reference)).expect(200);
            for answer in [&get, &head] {
                assert_eq!(answer.header("content-type"), media::IMAGE);
                assert_eq!(answer.header("content-length"), image.bytes.len().to_string());
                assert_eq!(answer.header("docker-content-digest"), image.digest.to_string());
                assert_eq!(answer.header("etag"), format!("\"{}\"", image.digest));
                assert_eq!(answer.header("x-content-type-options"), "nosniff");
            }
        }
    }

    /// Spaces, key order, a final newline: the digest is that of the bytes, not of the meaning.
    fn the_exact_bytes_are_kept(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let image = client.push_image(REPOSITORY, "compact", 1);
        let value: serde_json::Value = serde_json::from_slice(&image.bytes).unwrap();
        let pretty = format!("{}\n\n \t", serde_json::to_string_pretty(&value).unwrap()).into_bytes();
        let stored = client.put_manifest(REPOSITORY, "pretty", media::IMAGE, &pretty).expect(201);
        let digest = stored.header("docker-content-digest").to_owned();
        assert_eq!(digest, crate::harness::sha256(&pretty).to_string());
        assert_eq!(client.get(target("pretty")).expect(200).body, pretty);
        assert_eq!(client.get(target("compact")).expect(200).body, image.bytes);
    }

    fn every_algorithm_by_digest(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let image = client.push_image(REPOSITORY, "seed", 2);
        for algorithm in Algorithm::ALL {
            let digest = Digest::of(algorithm, &image.bytes).to_string();
            let stored = client.put_manifest(REPOSITORY, &digest, media::IMAGE, &image.bytes).expect(201);
            assert_eq!(stored.header("docker-content-digest"), digest);
            let got = client.get(target(&digest)).expect(200);
            assert_eq!(got.header("docker-content-digest"), digest);
            assert_eq!(got.body, image.bytes);
            let wrong = Digest::of(algorithm, b"other bytes").to_string();
            client.put_manifest(REPOSITORY, &wrong, media::IMAGE, &image.bytes).refused(400, "DIGEST_INVALID");
            client.get(target(&wrong)).refused(404, "MANIFEST_UNKNOWN");
        }
    }

    /// A tag set by a PUT under sha512 answers with the sha512 digest.
    fn tags_in_the_query_of_a_put_by_digest(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let image = client.push_image(REPOSITORY, "seed", 3);
        for algorithm in Algorithm::ALL {
            let digest = Digest::of(algorithm, &image.bytes).to_string();
            let tags = [format!("{}-a", algorithm.name()), format!("{}-b", algorithm.name())];
            let query = format!("{digest}?tag={}&tag={}", tags[0], tags[1]);
            let stored = client.put_manifest(REPOSITORY, &query, media::IMAGE, &image.bytes).expect(201);
            let named: Vec<String> =
                stored.all("oci-tag").iter().flat_map(|line| line.split(", ")).map(str::to_owned).collect();
            assert_eq!(named, tags);
            for tag in tags {
                let got = client.get(target(&tag)).expect(200);
                assert_eq!(got.header("docker-content-digest"), digest);
                assert_eq!(got.header("etag"), format!("\"{digest}\""));
                assert_eq!(got.body, image.bytes);
            }
        }
    }

    fn thirty_two_tags_at_once_and_no_more(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let image = client.push_image(REPOSITORY, "seed", 4);
        let query = |prefix: &str, count: usize| {
            let tags: Vec<String> = (0..count).map(|number| format!("tag={prefix}{number}")).collect();
            format!("{}?{}", image.digest, tags.join("&"))
        };
        client.put_manifest(REPOSITORY, &query("ok", 32), media::IMAGE, &image.bytes).expect(201);
        client.get(target("ok31")).expect(200);
        client.put_manifest(REPOSITORY, &query("much", 33), media::IMAGE, &image.bytes).expect(414);
        client.get(target("much0")).refused(404, "MANIFEST_UNKNOWN");
    }

    fn one_bad_tag_and_nothing_is_stored(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let image = client.push_image(REPOSITORY, "seed", 5);
        let other = Image::of(b"{}", b"nothing of this is here");
        client.push_blob(REPOSITORY, b"{}");
        client.push_blob(REPOSITORY, b"nothing of this is here");
        for bad in [".dot", "-dash", "sp%20ace", "sl%2Fash", "", &"x".repeat(129), "%C3%BC"] {
            let query = format!("{}?tag=good&tag={bad}", other.digest);
            client.put_manifest(REPOSITORY, &query, media::IMAGE, &other.bytes).expect(400);
            client.get(target("good")).refused(404, "MANIFEST_UNKNOWN");
            client.get(target(other.digest)).refused(404, "MANIFEST_UNKNOWN");
        }
        assert_eq!(client.get(target("seed")).expect(200).body, image.bytes);
    }

    fn a_body_in_chunks_needs_no_length(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let image = client.push_image(REPOSITORY, "seed", 6);
        let put = client.request("PUT", target("chunked")).header("Content-Type", media::IMAGE);
        let stored = put.chunks(image.bytes.chunks(7)).send().expect(201);
        assert_eq!(stored.header("docker-content-digest"), image.digest.to_string());
        assert_eq!(client.get(target("chunked")).expect(200).body, image.bytes);
    }

    fn accept_never_refuses_and_never_converts(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let image = client.push_image(REPOSITORY, "v1", 7);
        let index = json!({ "schemaVersion": 2, "mediaType": media::INDEX, "manifests": [image.descriptor()] });
        client.put_json(REPOSITORY, "list", &index);
        for accept in [media::IMAGE, media::INDEX, media::DOCKER_IMAGE, media::SCHEMA1, "text/plain", "*/*;q=0", "@@"] {
            for (tag, media_type) in [("v1", media::IMAGE), ("list", media::INDEX)] {
                let get = client.request("GET", target(tag)).header("Accept", accept).header("Accept", "a/b");
                assert_eq!(get.send().expect(200).header("content-type"), media_type, "Accept: {accept}");
            }
        }
    }

    fn a_tag_moves_and_every_reader_sees_it_at_once(leg) {
        let server = Server::start(leg);
        let mut writer = server.client();
        let images = [writer.push_image(REPOSITORY, "a", 8), writer.push_image(REPOSITORY, "b", 9)];
        let mut readers: Vec<_> = (0..8).map(|_| server.client()).collect();
        for round in 0..40 {
            let image = &images[round % 2];
            writer.put_manifest(REPOSITORY, "moving", media::IMAGE, &image.bytes).expect(201);
            for reader in &mut readers {
                let got = reader.get(target("moving")).expect(200);
                assert_eq!(got.header("docker-content-digest"), image.digest.to_string(), "round {round}");
                assert_eq!(got.body, image.bytes);
            }
        }
    }

    fn deleting_a_tag_leaves_the_manifest(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let image = client.push_image(REPOSITORY, "one", 10);
        client.put_manifest(REPOSITORY, "two", media::IMAGE, &image.bytes).expect(201);
        let mut other_core = server.client();
        other_core.get(target("one")).expect(200);
        client.delete(target("one")).expect(202);
        other_core.get(target("one")).refused(404, "MANIFEST_UNKNOWN");
        assert_eq!(client.get(target("two")).expect(200).body, image.bytes);
        assert_eq!(client.get(target(image.digest)).expect(200).body, image.bytes);
        client.delete(target("one")).refused(404, "MANIFEST_UNKNOWN");
    }

    fn deleting_by_digest_takes_the_tags_along(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let image = client.push_image(REPOSITORY, "one", 11);
        client.put_manifest(REPOSITORY, "two", media::IMAGE, &image.bytes).expect(201);
        let kept = client.push_image(REPOSITORY, "kept", 12);
        let mut readers: Vec<_> = (0..4).map(|_| server.client()).collect();
        for reader in &mut readers {
            reader.get(target("one")).expect(200);
            reader.get(target(image.digest)).expect(200);
        }
        client.delete(target(image.digest)).expect(202);
        for reader in &mut readers {
            for gone in ["one".to_owned(), "two".to_owned(), image.digest.to_string()] {
                reader.get(target(&gone)).refused(404, "MANIFEST_UNKNOWN");
                reader.head(target(&gone)).expect(404);
            }
        }
        assert_eq!(client.get(target("kept")).expect(200).body, kept.bytes);
        client.delete(target(image.digest)).refused(404, "MANIFEST_UNKNOWN");
        client.put_manifest(REPOSITORY, "back", media::IMAGE, &image.bytes).expect(201);
        assert_eq!(client.get(target("back")).expect(200).body, image.bytes);
    }

    fn a_child_of_a_live_index_cannot_be_deleted(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let child = client.push_image(REPOSITORY, "child", 13);
        let index = json!({ "schemaVersion": 2, "mediaType": media::INDEX, "manifests": [child.descriptor()] });
        let parent = client.put_json(REPOSITORY, "parent", &index);
        let refused = client.delete(target(child.digest)).refused(405, "DENIED");
        assert!(refused.text().contains(&parent.to_string()), "it names the referrer: {}", refused.text());
        client.get(target(child.digest)).expect(200);
        client.get(target("child")).expect(200);
        client.delete(target(parent)).expect(202);
        client.delete(target(child.digest)).expect(202);
    }

    fn a_subject_holds_nothing(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let image = client.push_image(REPOSITORY, "signed", 14);
        client.push_blob(REPOSITORY, b"{}");
        let signature = json!({
            "schemaVersion": 2, "mediaType": media::IMAGE, "artifactType": "application/vnd.test.signature",
            "config": { "mediaType": media::EMPTY, "digest": crate::harness::sha256(b"{}").to_string(), "size": 2 },
            "layers": [], "subject": image.descriptor(),
        });
        client.put_json(REPOSITORY, "signature", &signature);
        client.delete(target(image.digest)).expect(202);
        client.get(target("signature")).expect(200);
    }

    fn oci_subject_is_named_in_the_answer(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let image = client.push_image(REPOSITORY, "v1", 15);
        client.push_blob(REPOSITORY, b"{}");
        let body = json!({
            "schemaVersion": 2, "mediaType": media::IMAGE,
            "config": { "mediaType": media::EMPTY, "digest": crate::harness::sha256(b"{}").to_string(), "size": 2 },
            "layers": [], "subject": image.descriptor(),
        });
        let bytes = body.to_string().into_bytes();
        let stored = client.put_manifest(REPOSITORY, "ref", media::IMAGE, &bytes).expect(201);
        assert_eq!(stored.header("oci-subject"), image.digest.to_string());
        let plain = client.put_manifest(REPOSITORY, "v2", media::IMAGE, &image.bytes).expect(201);
        assert_eq!(plain.get("oci-subject"), None);
    }

    fn conditional_writes(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let (one, two) = (client.push_image(REPOSITORY, "tag", 16), client.push_image(REPOSITORY, "two", 17));
        let current = format!("\"{}\"", one.digest);
        let stale = format!("\"{}\"", two.digest);
        let mut put = |tag: &str, field: &str, value: &str, image: &Image| {
            let request = client.request("PUT", target(tag)).header("Content-Type", media::IMAGE);
            request.header(field, value).body(image.bytes.clone()).send().status
        };
        assert_eq!(put("tag", "If-None-Match", "*", &two), 412);
        assert_eq!(put("tag", "If-Match", &stale, &two), 412);
        assert_eq!(put("fresh", "If-Match", "*", &two), 412);
        assert_eq!(put("fresh", "If-None-Match", "*", &two), 201);
        assert_eq!(put("tag", "If-Match", &current, &two), 201);
        assert_eq!(put("tag", "If-Match", &current, &one), 412);
        assert_eq!(client.get(target("tag")).expect(200).body, two.bytes);
        let delete = |client: &mut crate::harness::Client, tag: &str| {
            client.request("DELETE", target(tag)).header("If-Match", &current).send().status
        };
        assert_eq!(delete(&mut client, "tag"), 412);
        client.get(target("tag")).expect(200);
        client.put_manifest(REPOSITORY, "tag", media::IMAGE, &one.bytes).expect(201);
        assert_eq!(delete(&mut client, "tag"), 202);
        client.get(target("tag")).refused(404, "MANIFEST_UNKNOWN");
    }

    /// Of many who race to create one tag, `If-None-Match: *` lets exactly one win.
    fn only_one_of_many_creates_a_tag(leg) {
        let server = Server::start(leg);
        let images: Vec<Image> = (0..8).map(|n| server.client().push_image(REPOSITORY, "seed", 20 + n)).collect();
        let wins: Vec<usize> = std::thread::scope(|scope| {
            let racers: Vec<_> = images.iter().enumerate().map(|(number, image)| {
                let mut client = server.client();
                scope.spawn(move || {
                    let put = client.request("PUT", target("race")).header("Content-Type", media::IMAGE);
                    let answer = put.header("If-None-Match", "*").body(image.bytes.clone()).send();
                    assert!([201, 412].contains(&answer.status), "{}", answer.text());
                    (answer.status == 201).then_some(number)
                })
            }).collect();
            racers.into_iter().filter_map(|racer| racer.join().unwrap()).collect()
        });
        assert_eq!(wins.len(), 1);
        assert_eq!(server.client().get(target("race")).expect(200).body, images[wins[0]].bytes);
    }

    fn what_is_unknown_is_404(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let image = client.push_image(REPOSITORY, "v1", 18);
        client.get(target("v2")).refused(404, "MANIFEST_UNKNOWN");
        client.head(target("v2")).expect(404);
        client.get(target(crate::harness::sha256(b"no"))).refused(404, "MANIFEST_UNKNOWN");
        let nowhere = client.get(format!("/v2/no/such/manifests/{}", image.digest)).expect(404);
        assert!(["MANIFEST_UNKNOWN", "NAME_UNKNOWN"].contains(&nowhere.code().as_str()), "{}", nowhere.text());
        client.get(target(image.layer)).refused(404, "MANIFEST_UNKNOWN");
    }
}
