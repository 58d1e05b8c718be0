//! end-12: who names this manifest as its subject.

use std::collections::BTreeSet;

use oci::{Algorithm, Digest};
use serde_json::{Value, json};

use crate::harness::{Client, Launch, Response, Server, descriptor, legs, media, setting, sha256};

const REPOSITORY: &str = "team/referrers";

/// An artifact manifest with this subject; its empty config is in the repository.
fn artifact(client: &mut Client, subject: &Value, artifact_type: &str, note: &str) -> Value {
    client.push_blob(REPOSITORY, b"{}");
    json!({
        "schemaVersion": 2, "mediaType": media::IMAGE, "artifactType": artifact_type,
        "config": descriptor(media::EMPTY, b"{}"), "layers": [descriptor(media::EMPTY, b"{}")],
        "subject": subject, "annotations": { "org.test.note": note },
    })
}

fn list(client: &mut Client, subject: impl std::fmt::Display, query: &str) -> Response {
    let answer = client.get(format!("/v2/{REPOSITORY}/referrers/{subject}{query}")).expect(200);
    assert_eq!(answer.header("content-type"), media::INDEX);
    let body = answer.json();
    assert_eq!((&body["schemaVersion"], &body["mediaType"]), (&json!(2), &json!(media::INDEX)));
    assert!(body["manifests"].is_array(), "never null: {}", answer.text());
    answer
}

fn digests(answer: &Response) -> Vec<String> {
    let body = answer.json();
    let entries = body["manifests"].as_array().expect("checked by list");
    entries.iter().map(|entry| entry["digest"].as_str().expect("a digest").to_owned()).collect()
}

fn put_under(client: &mut Client, reference: &str, manifest: &Value) -> Digest {
    client.put_json(REPOSITORY, reference, manifest)
}

legs! {
    fn an_entry_is_a_whole_descriptor(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let image = client.push_image(REPOSITORY, "v1", 500);
        let signature = artifact(&mut client, &image.descriptor(), "application/vnd.test.signature", "one");
        let digest = put_under(&mut client, "sig", &signature);
        let answer = list(&mut client, image.digest, "");
        assert_eq!(answer.json()["manifests"], json!([{
            "mediaType": media::IMAGE, "digest": digest.to_string(), "size": signature.to_string().len(),
            "artifactType": "application/vnd.test.signature", "annotations": { "org.test.note": "one" },
        }]));
        assert_eq!((answer.get("oci-filters-applied"), answer.get("link")), (None, None));
        let head = client.head(format!("/v2/{REPOSITORY}/referrers/{}", image.digest)).expect(200);
        assert_eq!(head.header("content-length"), answer.body.len().to_string());
    }

    /// Without `artifactType` an image is what its config is; an index has none.
    fn the_type_falls_back_to_the_config(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let image = client.push_image(REPOSITORY, "v1", 501);
        let mut plain = artifact(&mut client, &image.descriptor(), "x/y", "image");
        plain.as_object_mut().unwrap().remove("artifactType");
        plain["config"]["mediaType"] = json!("application/vnd.test.config.v1+json");
        let plain = put_under(&mut client, "plain", &plain);
        let index = json!({
            "schemaVersion": 2, "mediaType": media::INDEX, "artifactType": "application/vnd.test.set",
            "manifests": [image.descriptor()], "subject": image.descriptor(),
        });
        let index = put_under(&mut client, "index", &index);
        let body = list(&mut client, image.digest, "").json();
        let type_of = |digest: Digest| {
            let entries = body["manifests"].as_array().unwrap();
            let entry = entries.iter().find(|entry| entry["digest"] == json!(digest.to_string())).unwrap();
            (entry["mediaType"].clone(), entry["artifactType"].clone())
        };
        assert_eq!(type_of(plain), (json!(media::IMAGE), json!("application/vnd.test.config.v1+json")));
        assert_eq!(type_of(index), (json!(media::INDEX), json!("application/vnd.test.set")));
    }

    fn filtered_by_type(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let image = client.push_image(REPOSITORY, "v1", 502);
        let mut by_type = |artifact_type: &str| {
            let body = artifact(&mut client, &image.descriptor(), artifact_type, artifact_type);
            put_under(&mut client, &sha256(artifact_type.as_bytes()).to_string()[7..40], &body).to_string()
        };
        let json_type = by_type("application/vnd.test+json");
        let other = by_type("application/vnd.other");
        for query in ["application/vnd.test%2Bjson", "application/vnd.test+json", "application%2Fvnd.test%2bjson", "application/vnd.test%20json"] {
            let answer = list(&mut client, image.digest, &format!("?artifactType={query}"));
            assert_eq!(digests(&answer), std::slice::from_ref(&json_type), "{query}");
            assert_eq!(answer.header("oci-filters-applied"), "artifactType");
        }
        let answer = list(&mut client, image.digest, "?artifactType=application/vnd.other");
        assert_eq!(digests(&answer), [other]);
        let none = list(&mut client, image.digest, "?artifactType=a/b");
        assert_eq!((digests(&none).len(), none.header("oci-filters-applied")), (0, "artifactType"));
        assert_eq!(digests(&list(&mut client, image.digest, "")).len(), 2);
    }

    fn unknown_is_an_empty_index_and_malformed_is_400(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        client.push_image(REPOSITORY, "v1", 503);
        assert!(digests(&list(&mut client, sha256(b"nobody"), "")).is_empty());
        let nowhere = client.get(format!("/v2/no/such/repository/referrers/{}", sha256(b"x"))).expect(200);
        assert_eq!(nowhere.json()["manifests"], json!([]));
        assert_eq!(nowhere.header("content-type"), media::INDEX);
        for bad in ["sha256:abc", "latest", "md5:900150983cd24fb0d6963f7d28e17f72"] {
            client.get(format!("/v2/{REPOSITORY}/referrers/{bad}")).refused(400, "DIGEST_INVALID");
        }
    }

    fn a_missing_subject_is_listed_before_it_comes(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let later = json!({ "mediaType": media::IMAGE, "digest": sha256(b"later").to_string(), "size": 5 });
        let early = artifact(&mut client, &later, "a/b", "early");
        let digest = put_under(&mut client, "early", &early).to_string();
        assert_eq!(digests(&list(&mut client, sha256(b"later"), "")), [digest]);
    }

    fn every_algorithm_of_a_subject(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let image = client.push_image(REPOSITORY, "v1", 504);
        for algorithm in Algorithm::ALL {
            let subject = Digest::of(algorithm, &image.bytes);
            client.put_manifest(REPOSITORY, &subject.to_string(), media::IMAGE, &image.bytes).expect(201);
            let named = json!({ "mediaType": media::IMAGE, "digest": subject.to_string(), "size": image.bytes.len() });
            let body = artifact(&mut client, &named, "a/b", algorithm.name()).to_string().into_bytes();
            let digest = Digest::of(algorithm, &body).to_string();
            client.put_manifest(REPOSITORY, &digest, media::IMAGE, &body).expect(201);
            assert_eq!(digests(&list(&mut client, subject, "")), [digest]);
        }
    }

    fn a_deleted_referrer_is_gone(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let image = client.push_image(REPOSITORY, "v1", 505);
        let one = artifact(&mut client, &image.descriptor(), "a/b", "one");
        let two = artifact(&mut client, &image.descriptor(), "a/b", "two");
        let one = put_under(&mut client, "one", &one);
        let two = put_under(&mut client, "two", &two);
        assert_eq!(digests(&list(&mut client, image.digest, "")).len(), 2);
        client.delete(format!("/v2/{REPOSITORY}/manifests/{one}")).expect(202);
        assert_eq!(digests(&list(&mut client, image.digest, "")), [two.to_string()]);
        client.delete(format!("/v2/{REPOSITORY}/manifests/{}", image.digest)).expect(202);
        assert_eq!(digests(&list(&mut client, image.digest, "")), [two.to_string()], "the subject is gone, not they");
    }

    fn of_this_repository_only(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let image = client.push_image(REPOSITORY, "v1", 506);
        let body = artifact(&mut client, &image.descriptor(), "a/b", "here");
        put_under(&mut client, "here", &body);
        let elsewhere = client.get(format!("/v2/other/repo/referrers/{}", image.digest)).expect(200);
        assert_eq!(elsewhere.json()["manifests"], json!([]));
    }

    /// crane and cosign read one page only: small lists are one page whatever their number.
    fn hundreds_fit_one_page(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let image = client.push_image(REPOSITORY, "v1", 507);
        let mut pushed = BTreeSet::new();
        for number in 0..300 {
            let body = artifact_without_push(&image.descriptor(), &format!("{number}"));
            if number == 0 {
                client.push_blob(REPOSITORY, b"{}");
            }
            let bytes = body.to_string().into_bytes();
            let digest = sha256(&bytes).to_string();
            client.put_manifest(REPOSITORY, &digest, media::IMAGE, &bytes).expect(201);
            pushed.insert(digest);
        }
        let answer = list(&mut client, image.digest, "");
        assert_eq!(answer.get("link"), None);
        assert_eq!(BTreeSet::from_iter(digests(&answer)), pushed);
    }

    fn split_by_bytes(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let image = client.push_image(REPOSITORY, "v1", 508);
        client.push_blob(REPOSITORY, b"{}");
        let mut pushed = BTreeSet::new();
        for number in 0..7 {
            let note = format!("{number}{}", "x".repeat(1 << 20));
            let bytes = artifact_without_push(&image.descriptor(), &note).to_string().into_bytes();
            let digest = sha256(&bytes).to_string();
            client.put_manifest(REPOSITORY, &digest, media::IMAGE, &bytes).expect(201);
            pushed.insert(digest);
        }
        for query in ["", "?artifactType=a/b"] {
            let mut seen = Vec::new();
            let mut pages = 0;
            let mut next = Some(format!("/v2/{REPOSITORY}/referrers/{}{query}", image.digest));
            while let Some(target) = next {
                let answer = client.get(target).expect(200);
                assert!(answer.body.len() <= 4 << 20, "a page of {} bytes", answer.body.len());
                assert_eq!(answer.header("content-type"), media::INDEX);
                assert_eq!(answer.get("oci-filters-applied").is_some(), !query.is_empty());
                seen.extend(digests(&answer));
                next = answer.get("link").map(|link| link[1..link.find('>').unwrap()].to_owned());
                pages += 1;
                assert!(pages < 10, "the pages do not end");
            }
            assert_eq!(seen.len(), 7, "each once");
            assert_eq!(BTreeSet::from_iter(seen), pushed);
            assert_eq!(pages, 3, "7 MiB in pages of at most 4 MiB, filled");
        }
    }

    /// An index that an older client pushed under `<alg>-<hex>`: only what is here and names this subject.
    fn the_fallback_tag_is_read_with_care(leg) {
        let server = Launch::on(leg).set(setting::MISSING_REFERENCES, "any").start();
        let mut client = server.client();
        let image = client.push_image(REPOSITORY, "v1", 509);
        let other = client.push_image(REPOSITORY, "v2", 510);
        let native = artifact(&mut client, &image.descriptor(), "a/b", "native");
        let native = (put_under(&mut client, "native", &native), native.to_string().len());
        let stranger = artifact(&mut client, &other.descriptor(), "a/b", "stranger");
        let stranger = (put_under(&mut client, "stranger", &stranger), stranger.to_string().len());
        let entry = |digest: Digest, size: usize| {
            json!({ "mediaType": media::IMAGE, "digest": digest.to_string(), "size": size, "artifactType": "a/b" })
        };
        let fallback = json!({ "schemaVersion": 2, "mediaType": media::INDEX, "manifests": [
            entry(native.0, native.1), entry(native.0, native.1), entry(stranger.0, stranger.1),
            entry(sha256(b"not here"), 8), entry(other.digest, other.bytes.len()),
        ]});
        put_under(&mut client, &image.digest.to_string().replace(':', "-"), &fallback);
        assert_eq!(digests(&list(&mut client, image.digest, "")), [native.0.to_string()]);
        assert_eq!(digests(&list(&mut client, other.digest, "")), [stranger.0.to_string()]);
    }
}

/// Like [`artifact`], without the look at the blob.
fn artifact_without_push(subject: &Value, note: &str) -> Value {
    json!({
        "schemaVersion": 2, "mediaType": media::IMAGE, "artifactType": "a/b",
        "config": descriptor(media::EMPTY, b"{}"), "layers": [],
        "subject": subject, "annotations": { "n": note },
    })
}
