//! end-7, what a manifest has to be (wire.md §4): media types, confusion, references, sizes and depth.

use oci::{Algorithm, Digest};
use serde_json::{Value, json};

use crate::harness::{Client, Image, Launch, Leg, Response, Server, legs, media, noise, setting, sha256};

const REPOSITORY: &str = "team/rules";

fn put(client: &mut Client, content_type: Option<&str>, body: &[u8]) -> Response {
    let request = client.request("PUT", format!("/v2/{REPOSITORY}/manifests/probe"));
    match content_type {
        Some(content_type) => request.header("Content-Type", content_type).body(body).send(),
        None => request.body(body).send(),
    }
}

fn content_type_of_probe(client: &mut Client) -> String {
    client.get(format!("/v2/{REPOSITORY}/manifests/probe")).expect(200).header("content-type").to_owned()
}

fn started(leg: Leg) -> (Server, Client, Image) {
    let server = Server::start(leg);
    let mut client = server.client();
    let image = client.push_image(REPOSITORY, "seed", 30);
    (server, client, image)
}

fn without_media_type(image: &Image) -> Value {
    let mut value: Value = serde_json::from_slice(&image.bytes).unwrap();
    value.as_object_mut().unwrap().remove("mediaType");
    value
}

fn absent(name: &str, media_type: &str) -> Value {
    json!({ "mediaType": media_type, "digest": sha256(name.as_bytes()).to_string(), "size": name.len() })
}

/// Every digest that a `MANIFEST_BLOB_UNKNOWN` names.
fn assert_names(answer: &Response, names: &[&str]) {
    assert_eq!((answer.status, answer.code().as_str()), (404, "MANIFEST_BLOB_UNKNOWN"), "{}", answer.text());
    let body = String::from_utf8_lossy(&answer.body);
    for name in names {
        let digest = sha256(name.as_bytes()).to_string();
        assert!(body.contains(&digest), "{digest} is not named in {body}");
    }
}

legs! {
    fn media_type_and_content_type_agree(leg) {
        let (_server, mut client, image) = started(leg);
        put(&mut client, Some(media::IMAGE), &image.bytes).expect(201);
        put(&mut client, Some(&format!("{}; charset=utf-8", media::IMAGE)), &image.bytes).expect(201);
        assert_eq!(content_type_of_probe(&mut client), media::IMAGE);
        for other in [media::INDEX, media::DOCKER_IMAGE, "application/json", "application/vnd.other+json"] {
            put(&mut client, Some(other), &image.bytes).refused(400, "MANIFEST_INVALID");
        }
    }

    fn without_media_type_the_content_type_decides(leg) {
        let (_server, mut client, image) = started(leg);
        let body = without_media_type(&image).to_string().into_bytes();
        for media_type in [media::IMAGE, media::DOCKER_IMAGE] {
            put(&mut client, Some(media_type), &body).expect(201);
            assert_eq!(content_type_of_probe(&mut client), media_type);
        }
    }

    fn without_content_type_the_body_decides(leg) {
        let (_server, mut client, image) = started(leg);
        put(&mut client, None, &image.bytes).expect(201);
        assert_eq!(content_type_of_probe(&mut client), media::IMAGE);
        put(&mut client, None, without_media_type(&image).to_string().as_bytes()).expect(201);
        assert_eq!(content_type_of_probe(&mut client), media::IMAGE);
        let index = json!({ "schemaVersion": 2, "manifests": [image.descriptor()] });
        put(&mut client, None, index.to_string().as_bytes()).expect(201);
        assert_eq!(content_type_of_probe(&mut client), media::INDEX);
    }

    fn content_type_is_json(leg) {
        let (_server, mut client, image) = started(leg);
        let body = without_media_type(&image).to_string().into_bytes();
        for wrong in ["text/plain", "text/html", "application/octet-stream", "multipart/form-data", "json"] {
            put(&mut client, Some(wrong), &body).refused(400, "MANIFEST_INVALID");
        }
        put(&mut client, Some("application/vnd.any.artifact.v7+json"), &body).expect(201);
        assert_eq!(content_type_of_probe(&mut client), "application/vnd.any.artifact.v7+json");
    }

    fn docker_types_are_taken(leg) {
        let (_server, mut client, image) = started(leg);
        let mut docker = without_media_type(&image);
        docker["mediaType"] = json!(media::DOCKER_IMAGE);
        docker["config"]["mediaType"] = json!(media::DOCKER_CONFIG);
        let bytes = docker.to_string().into_bytes();
        put(&mut client, Some(media::DOCKER_IMAGE), &bytes).expect(201);
        let list = json!({
            "schemaVersion": 2, "mediaType": media::DOCKER_LIST,
            "manifests": [{ "mediaType": media::DOCKER_IMAGE, "digest": sha256(&bytes).to_string(), "size": bytes.len(),
                "platform": { "architecture": "amd64", "os": "linux" } }],
        });
        put(&mut client, Some(media::DOCKER_LIST), list.to_string().as_bytes()).expect(201);
        assert_eq!(content_type_of_probe(&mut client), media::DOCKER_LIST);
    }

    fn schema_1_is_refused_clearly(leg) {
        let (_server, mut client, _image) = started(leg);
        let body = json!({
            "schemaVersion": 1, "name": REPOSITORY, "tag": "probe", "architecture": "amd64",
            "fsLayers": [{ "blobSum": sha256(b"x").to_string() }], "history": [{ "v1Compatibility": "{}" }],
        });
        let body = body.to_string().into_bytes();
        for media_type in [Some(media::SCHEMA1), Some(media::SCHEMA1_SIGNED), Some("application/json"), None] {
            let answer = put(&mut client, media_type, &body).refused(400, "MANIFEST_INVALID");
            assert!(answer.text().to_lowercase().contains("schema"), "it says why: {}", answer.text());
        }
    }

    /// One document may not be an image to one reader and an index to another.
    fn media_type_confusion_is_refused(leg) {
        let (_server, mut client, image) = started(leg);
        let base = without_media_type(&image);
        for (extra, value) in [("manifests", json!([])), ("manifests", json!([image.descriptor()]))] {
            let mut both = base.clone();
            both[extra] = value;
            for media_type in [media::IMAGE, media::INDEX] {
                put(&mut client, Some(media_type), both.to_string().as_bytes()).refused(400, "MANIFEST_INVALID");
            }
        }
        let index = json!({ "schemaVersion": 2, "manifests": [image.descriptor()] });
        for (extra, value) in [("layers", base["layers"].clone()), ("config", base["config"].clone()), ("fsLayers", json!([]))] {
            let mut both = index.clone();
            both[extra] = value;
            put(&mut client, Some(media::INDEX), both.to_string().as_bytes()).refused(400, "MANIFEST_INVALID");
        }
        put(&mut client, Some(media::IMAGE), index.to_string().as_bytes()).refused(400, "MANIFEST_INVALID");
        put(&mut client, Some(media::INDEX), base.to_string().as_bytes()).refused(400, "MANIFEST_INVALID");
        client.get(format!("/v2/{REPOSITORY}/manifests/probe")).refused(404, "MANIFEST_UNKNOWN");
    }

    fn what_is_no_manifest_is_400(leg) {
        let (_server, mut client, image) = started(leg);
        let text = String::from_utf8(image.bytes.clone()).unwrap();
        for body in [
            "".to_owned(), "{".to_owned(), "null".to_owned(), "[]".to_owned(), "\"text\"".to_owned(),
            format!("{text}{text}"), text.replace("sha256:", "sha256:zz"), text.replace("\"size\":", "\"size\":-"),
            text.replace("\"layers\":[", "\"layers\":{\"a\":["), "\u{0}".to_owned(),
            text.replace("\"digest\":", "\"no\":"),
        ] {
            let answer = put(&mut client, Some(media::IMAGE), body.as_bytes()).expect(400);
            assert!(["MANIFEST_INVALID", "DIGEST_INVALID"].contains(&answer.code().as_str()), "{}", answer.text());
        }
        put(&mut client, Some(media::IMAGE), b"{\"a\":\"\xff\xfe\"}").refused(400, "MANIFEST_INVALID");
        client.get(format!("/v2/{REPOSITORY}/manifests/probe")).refused(404, "MANIFEST_UNKNOWN");
    }

    fn every_missing_reference_is_named(leg) {
        let (_server, mut client, _image) = started(leg);
        let image = json!({
            "schemaVersion": 2, "mediaType": media::IMAGE, "config": absent("config", media::CONFIG),
            "layers": [absent("layer one", media::LAYER), absent("layer two", media::LAYER)],
        });
        let answer = put(&mut client, Some(media::IMAGE), image.to_string().as_bytes());
        assert_names(&answer, &["config", "layer one", "layer two"]);
        let index = json!({
            "schemaVersion": 2, "mediaType": media::INDEX,
            "manifests": [absent("child one", media::IMAGE), absent("child two", media::INDEX)],
        });
        let answer = put(&mut client, Some(media::INDEX), index.to_string().as_bytes());
        assert_names(&answer, &["child one", "child two"]);
        client.get(format!("/v2/{REPOSITORY}/manifests/probe")).refused(404, "MANIFEST_UNKNOWN");
    }

    /// Presence elsewhere is not presence here.
    fn a_reference_of_another_repository_is_missing(leg) {
        let (_server, mut client, _image) = started(leg);
        let elsewhere = client.push_image("other/place", "v1", 31);
        let answer = put(&mut client, Some(media::IMAGE), &elsewhere.bytes);
        assert_eq!((answer.status, answer.code().as_str()), (404, "MANIFEST_BLOB_UNKNOWN"));
        for digest in [elsewhere.config, elsewhere.layer] {
            assert!(answer.text().contains(&digest.to_string()));
        }
    }

    fn subject_and_foreign_layers_are_never_required(leg) {
        let (_server, mut client, image) = started(leg);
        let mut value: Value = serde_json::from_slice(&image.bytes).unwrap();
        value["subject"] = absent("no such subject", media::IMAGE);
        value["layers"].as_array_mut().unwrap().push(absent("nd", media::NONDISTRIBUTABLE));
        put(&mut client, Some(media::IMAGE), value.to_string().as_bytes()).expect(201);
        let mut docker = without_media_type(&image);
        docker["layers"].as_array_mut().unwrap().push(absent("foreign", media::DOCKER_FOREIGN));
        put(&mut client, Some(media::DOCKER_IMAGE), docker.to_string().as_bytes()).expect(201);
    }

    /// BuildKit's cache index lists layers in `manifests[]`.
    fn a_child_may_be_a_blob(leg) {
        let (_server, mut client, _image) = started(leg);
        let layer = noise(33, 900);
        let digest = client.push_blob(REPOSITORY, &layer);
        let index = json!({
            "schemaVersion": 2, "mediaType": media::INDEX,
            "manifests": [{ "mediaType": media::LAYER, "digest": digest.to_string(), "size": 900 }],
        });
        put(&mut client, Some(media::INDEX), index.to_string().as_bytes()).expect(201);
        client.delete(format!("/v2/{REPOSITORY}/blobs/{digest}")).refused(405, "DENIED");
    }

    fn references_may_use_every_algorithm(leg) {
        let (_server, mut client, _image) = started(leg);
        let config = client.push_blob_as(REPOSITORY, b"{}", Algorithm::Blake3);
        let layer = client.push_blob_as(REPOSITORY, b"layer", Algorithm::Sha512);
        let body = json!({
            "schemaVersion": 2, "mediaType": media::IMAGE,
            "config": { "mediaType": media::CONFIG, "digest": config.to_string(), "size": 2 },
            "layers": [{ "mediaType": media::LAYER, "digest": layer.to_string(), "size": 5 }],
        });
        put(&mut client, Some(media::IMAGE), body.to_string().as_bytes()).expect(201);
        let mut missing = body;
        let blake = Digest::of(Algorithm::Blake3, b"absent").to_string();
        missing["layers"][0]["digest"] = json!(blake);
        let answer = put(&mut client, Some(media::IMAGE), missing.to_string().as_bytes());
        assert_eq!(answer.code(), "MANIFEST_BLOB_UNKNOWN");
        assert!(answer.text().contains(&blake));
    }

    fn missing_references_any(leg) {
        let server = Launch::on(leg).set(setting::MISSING_REFERENCES, "any").start();
        let mut client = server.client();
        let sparse = json!({
            "schemaVersion": 2, "mediaType": media::IMAGE, "config": absent("c", media::CONFIG),
            "layers": [absent("l", media::LAYER)],
        });
        put(&mut client, Some(media::IMAGE), sparse.to_string().as_bytes()).expect(201);
        let index = json!({ "schemaVersion": 2, "mediaType": media::INDEX, "manifests": [absent("m", media::IMAGE)] });
        put(&mut client, Some(media::INDEX), index.to_string().as_bytes()).expect(201);
        client.get(format!("/v2/{REPOSITORY}/blobs/{}", sha256(b"l"))).refused(404, "BLOB_UNKNOWN");
    }

    fn missing_references_children(leg) {
        let server = Launch::on(leg).set(setting::MISSING_REFERENCES, "children").start();
        let mut client = server.client();
        let index = json!({ "schemaVersion": 2, "mediaType": media::INDEX, "manifests": [absent("m", media::IMAGE)] });
        put(&mut client, Some(media::INDEX), index.to_string().as_bytes()).expect(201);
        let sparse = json!({
            "schemaVersion": 2, "mediaType": media::IMAGE, "config": absent("c", media::CONFIG), "layers": [],
        });
        assert_names(&put(&mut client, Some(media::IMAGE), sparse.to_string().as_bytes()), &["c"]);
    }

    fn four_mebibytes_and_no_more(leg) {
        let (_server, mut client, image) = started(leg);
        let limit = 4 << 20;
        let padded = |len: usize| {
            let mut bytes = image.bytes.clone();
            bytes.resize(len, b' ');
            bytes
        };
        let stored = put(&mut client, Some(media::IMAGE), &padded(limit)).expect(201);
        assert_eq!(stored.header("docker-content-digest"), sha256(&padded(limit)).to_string());
        assert!(client.get(format!("/v2/{REPOSITORY}/manifests/probe")).expect(200).body == padded(limit));
        put(&mut client, Some(media::IMAGE), &padded(limit + 1)).expect(413);
        let over = padded(limit + 1);
        let request = client.request("PUT", format!("/v2/{REPOSITORY}/manifests/over"));
        request.header("Content-Type", media::IMAGE).chunks(over.chunks(100_000)).send().expect(413);
        client.get(format!("/v2/{REPOSITORY}/manifests/over")).refused(404, "MANIFEST_UNKNOWN");
    }

    fn depth_is_bounded(leg) {
        let (_server, mut client, image) = started(leg);
        let nested = |depth: usize| {
            let inner = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            String::from_utf8(image.bytes.clone()).unwrap().replacen('{', &format!("{{\"deep\":{inner},"), 1)
        };
        put(&mut client, Some(media::IMAGE), nested(20).as_bytes()).expect(201);
        for depth in [40, 1000, 1_000_000] {
            put(&mut client, Some(media::IMAGE), nested(depth).as_bytes()).refused(400, "MANIFEST_INVALID");
        }
    }

    fn descriptors_are_bounded(leg) {
        let (_server, mut client, _image) = started(leg);
        let one = json!({ "mediaType": "a/b", "digest": sha256(b"x").to_string(), "size": 1 }).to_string();
        let index = |count: usize| {
            let all = vec![one.as_str(); count].join(",");
            format!("{{\"schemaVersion\":2,\"mediaType\":\"{}\",\"manifests\":[{all}]}}", media::INDEX)
        };
        let over = index(32_769);
        assert!(over.len() < 4 << 20, "the size must not be what refuses it");
        put(&mut client, Some(media::INDEX), over.as_bytes()).expect(413);
        put(&mut client, Some(media::INDEX), index(32_768).as_bytes()).refused(404, "MANIFEST_BLOB_UNKNOWN");
    }

    fn a_bad_reference_is_400(leg) {
        let (_server, mut client, image) = started(leg);
        for reference in [".tag", "-tag", "t%20g", &"t".repeat(129), "sha256:abc", "%C3%A4"] {
            client.put_manifest(REPOSITORY, reference, media::IMAGE, &image.bytes).expect(400);
        }
        client.put_manifest(REPOSITORY, &"t".repeat(128), media::IMAGE, &image.bytes).expect(201);
        client.put_manifest(REPOSITORY, "_T.a-g", media::IMAGE, &image.bytes).expect(201);
    }
}
