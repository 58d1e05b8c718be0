//! Manifests as clients write them, and bodies that must not be taken.

use proptest::prelude::*;
use serde_json::json;

use super::*;

const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER: &str = "application/vnd.docker.distribution.manifest.v2+json";
const LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

fn digest(seed: u8) -> Digest {
    Digest::Sha256([seed; 32])
}

fn descriptor(media_type: &str, seed: u8) -> Value {
    json!({ "mediaType": media_type, "digest": digest(seed).to_string(), "size": u64::from(seed) })
}

fn image() -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": IMAGE,
        "config": descriptor("application/vnd.oci.image.config.v1+json", 1),
        "layers": [descriptor(LAYER, 2), descriptor(LAYER, 3)],
    })
}

fn index() -> Value {
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(IMAGE, 1), descriptor(IMAGE, 2)] })
}

/// The same with some keys set, or taken away by null.
fn with(mut body: Value, changes: Value) -> Value {
    let Value::Object(changes) = changes else { panic!("changes are an object") };
    let object = body.as_object_mut().unwrap();
    for (key, value) in changes {
        match value {
            Value::Null => drop(object.remove(&key)),
            value => drop(object.insert(key, value)),
        }
    }
    body
}

fn parse(body: &Value, content_type: Option<&str>) -> Result<Manifest, Problem> {
    Manifest::parse(body.to_string().as_bytes(), content_type)
}

fn good(body: &Value, content_type: Option<&str>) -> Manifest {
    parse(body, content_type).unwrap_or_else(|problem| panic!("{problem:?}: {body}"))
}

/// The refusal, which must be 400 and say `expect`.
fn refused(body: &[u8], content_type: Option<&str>, expect: &str) {
    match Manifest::parse(body, content_type) {
        Err(problem @ Problem::ManifestInvalid { .. }) => {
            assert!(problem.message().contains(expect), "{expect:?} is not in {:?}", problem.message());
            assert_eq!(problem.wire().status, 400);
        }
        other => panic!("{other:?} for {}", String::from_utf8_lossy(body)),
    }
}

fn bad(body: &Value, content_type: Option<&str>, expect: &str) {
    refused(body.to_string().as_bytes(), content_type, expect);
}

fn references(manifest: &Manifest) -> Vec<ManifestReference> {
    manifest.references().collect()
}

use ManifestReference::{Blob, Child};

#[test]
fn the_kinds_by_their_type() {
    fn check(body: &Value, expect: Kind, media_type: &str, needs: &[ManifestReference]) {
        let manifest = good(body, Some(media_type));
        assert_eq!(manifest.kind, expect);
        assert_eq!(manifest.media_type.as_str(), media_type);
        assert_eq!(references(&manifest), needs);
        assert_eq!(good(body, None), manifest, "Content-Type may be absent");
    }
    let image_needs = [Blob(digest(1)), Blob(digest(2)), Blob(digest(3))];
    let index_needs = [Child(digest(1)), Child(digest(2))];
    check(&image(), Kind::Image, IMAGE, &image_needs);
    check(&with(image(), json!({ "mediaType": DOCKER })), Kind::Image, DOCKER, &image_needs);
    check(&index(), Kind::Index, INDEX, &index_needs);
    check(&with(index(), json!({ "mediaType": LIST })), Kind::Index, LIST, &index_needs);
    let artifact = json!({
        "mediaType": ARTIFACT,
        "artifactType": "application/x",
        "blobs": [descriptor("a/b", 4)],
        "subject": descriptor(IMAGE, 5),
    });
    check(&artifact, Kind::Artifact, ARTIFACT, &[Blob(digest(4))]);
    let custom = json!({ "mediaType": "application/vnd.acme.thing+json", "thing": [1, 2, { "layers": 3 }] });
    check(&custom, Kind::Other, "application/vnd.acme.thing+json", &[]);
}

#[test]
fn media_type_and_content_type_must_agree() {
    assert_eq!(good(&image(), Some(&format!("{IMAGE}; charset=utf-8"))).media_type, MediaType::OCI_MANIFEST);
    bad(&image(), Some(DOCKER), "is not the Content-Type");
    bad(&image(), Some("application/json"), "is not the Content-Type");
    bad(&with(image(), json!({ "mediaType": IMAGE.to_uppercase() })), Some(IMAGE), "is not the Content-Type");
    bad(&with(image(), json!({ "mediaType": 7 })), Some(IMAGE), "mediaType is not a string");
    bad(&with(image(), json!({ "mediaType": "nonsense" })), None, "is no media type");
    bad(&with(image(), json!({ "mediaType": format!("{IMAGE};v=1") })), None, "is no media type");
    bad(&image(), Some("nonsense"), "is no media type");
}

#[test]
fn without_media_type_the_content_type_decides_and_then_the_shape() {
    let untyped = with(image(), json!({ "mediaType": null }));
    assert_eq!(good(&untyped, Some(IMAGE)).kind, Kind::Image);
    assert_eq!(good(&untyped, Some(DOCKER)).media_type, MediaType::DOCKER_MANIFEST);
    assert_eq!(good(&untyped, None).media_type, MediaType::OCI_MANIFEST);
    assert_eq!(good(&untyped, Some("")).media_type, MediaType::OCI_MANIFEST);
    assert_eq!(good(&with(untyped.clone(), json!({ "mediaType": "" })), None).kind, Kind::Image);
    let untyped = with(index(), json!({ "mediaType": null }));
    assert_eq!(good(&untyped, None).media_type, MediaType::OCI_INDEX);
    assert_eq!(good(&untyped, Some(LIST)).kind, Kind::Index);
    bad(&json!({}), None, "neither Content-Type nor mediaType");
    bad(&json!({ "layers": [] }), None, "neither Content-Type nor mediaType");
}

#[test]
fn what_is_not_json_by_its_type_is_refused() {
    bad(&with(image(), json!({ "mediaType": null })), Some("application/octet-stream"), "ends in +json");
    bad(
        &with(image(), json!({ "mediaType": null })),
        Some("application/x-www-form-urlencoded"),
        "ends in +json",
    );
    bad(&with(image(), json!({ "mediaType": "text/plain" })), None, "ends in +json");
}

#[test]
fn any_json_is_an_artifact() {
    let plain = good(&json!({ "hello": "world" }), Some("application/json"));
    assert_eq!((plain.kind, plain.media_type.as_str()), (Kind::Other, "application/json"));
    // Keys that look like ours but are not.
    let strange = json!({
        "layers": "many", "config": [1], "subject": 3, "annotations": { "a": 1 }, "artifactType": {},
        "schemaVersion": "v9",
    });
    let other = good(&strange, Some("application/vnd.acme+json"));
    assert_eq!(references(&other), []);
    assert_eq!((other.subject, other.annotations, other.artifact_type), (None, None, None));
    // And those that are.
    let like_an_image = with(image(), json!({ "mediaType": null, "subject": descriptor(IMAGE, 9) }));
    let other = good(&like_an_image, Some("application/vnd.acme.image+json"));
    assert_eq!(references(&other), [Blob(digest(1)), Blob(digest(2)), Blob(digest(3))]);
    assert_eq!(other.subject.unwrap().digest, digest(9));
    assert_eq!(good(&json!({ "schemaVersion": 1 }), Some("application/vnd.acme+json")).kind, Kind::Other);
}

#[test]
fn schema_1_is_refused_and_says_so() {
    let schema1 = json!({ "schemaVersion": 1, "name": "a", "tag": "b", "fsLayers": [], "history": [] });
    for content_type in [
        None,
        Some("application/json"),
        Some("application/vnd.docker.distribution.manifest.v1+json"),
        Some("application/vnd.docker.distribution.manifest.v1+prettyjws"),
        Some(IMAGE),
        Some("application/vnd.acme+json"),
    ] {
        bad(&schema1, content_type, "schema 1 is not supported");
    }
    let typed = "application/vnd.docker.distribution.manifest.v1+prettyjws";
    bad(&json!({ "mediaType": typed }), None, "schema 1 is not supported");
    bad(&json!({ "schemaVersion": 1 }), Some("application/json"), "schema 1 is not supported");
    bad(&with(image(), json!({ "schemaVersion": 1 })), Some(IMAGE), "schema 1 is not supported");
}

#[test]
fn one_body_with_two_meanings_is_refused() {
    for (key, value) in [
        ("layers", json!([descriptor(LAYER, 1)])),
        ("layers", json!([])),
        ("config", descriptor(EMPTY, 1)),
        ("config", json!({})),
        ("fsLayers", json!([])),
    ] {
        for content_type in [INDEX, IMAGE, "application/vnd.acme+json", "application/json"] {
            let body = with(index(), json!({ "mediaType": null, key: value }));
            bad(&body, Some(content_type), &format!("manifests together with {key}"));
        }
    }
    assert_eq!(
        Manifest::parse(
            format!(r#"{{"mediaType":"{INDEX}","manifests":[],"layers":null,"config":null}}"#).as_bytes(),
            None
        )
        .unwrap()
        .kind,
        Kind::Index,
        "null is absent"
    );
}

#[test]
fn a_key_twice_or_in_another_spelling_is_refused() {
    let config = descriptor(EMPTY, 1);
    for key in ["mediaType", "schemaVersion", "manifests", "layers", "config", "fsLayers", "subject"] {
        let twice = format!(r#"{{"{key}":null,"x":1,"{key}":null}}"#);
        refused(twice.as_bytes(), Some("application/json"), &format!("{key} is there twice"));
        for other in [key.to_uppercase(), key.to_lowercase(), key.replace('s', "\u{17f}")] {
            if other != key {
                let spelt = format!(r#"{{"{other}":null}}"#);
                refused(spelt.as_bytes(), Some("application/json"), &format!("{key} is there twice"));
            }
        }
    }
    let escaped = format!(r#"{{"mediaType":"{IMAGE}","config":{config},"layers":[],"l\u0061yers":[]}}"#);
    refused(escaped.as_bytes(), None, "layers is there twice");
    let twice =
        format!(r#"{{"mediaType":"{IMAGE}","config":{config},"artifactType":"a","artifactType":"b"}}"#);
    refused(twice.as_bytes(), None, "artifactType is there twice");
    // Deeper down the same name is another thing.
    good(&with(image(), json!({ "org.example": { "Layers": 1, "MANIFESTS": 2 } })), Some(IMAGE));
    let deep = format!(
        r#"{{"mediaType":"{IMAGE}","config":{{"digest":"{0}","digest":"{0}","size":1}}}}"#,
        digest(1)
    );
    refused(deep.as_bytes(), None, "expected form");
}

#[test]
fn depth_is_bounded_before_recursion() {
    let nested = |depth: usize| {
        // The body itself is one level.
        let inner = format!("{}{}", "[".repeat(depth - 1), "]".repeat(depth - 1));
        format!(r#"{{"brackets":"[[[[\"[[[[","deep":{inner}}}"#)
    };
    let json = Some("application/json");
    Manifest::parse(nested(Manifest::DEPTH_MAX).as_bytes(), json).unwrap();
    refused(nested(Manifest::DEPTH_MAX + 1).as_bytes(), json, "deeper than 32");
    refused("[".repeat(1 << 20).as_bytes(), json, "deeper than 32");
    refused(r#"{"a":"#.repeat(100_000).as_bytes(), json, "deeper than 32");
    let brackets_in_text = format!(r#"{{"a":"{}"}}"#, r#"[{\"\\"#.repeat(1000));
    Manifest::parse(brackets_in_text.as_bytes(), json).unwrap();
}

#[test]
fn what_is_not_json_is_refused() {
    for body in [
        &b""[..],
        b" ",
        b"{",
        b"[]",
        b"null",
        b"1",
        b"\"a\"",
        b"{}{}",
        b"{} x",
        b"{\"a\":1,}",
        b"{'a':1}",
        b"\xef\xbb\xbf{}",
        b"{\"a\":\"\xff\"}",
        b"{\"\xff\":1}",
        b"{\"a\":01}",
        b"{\"a\":\"\n\"}",
    ] {
        refused(body, Some("application/json"), if body.is_ascii() { "at line" } else { "" });
    }
}

#[test]
fn what_the_kinds_cannot_be_without() {
    bad(&with(image(), json!({ "config": null })), Some(IMAGE), "needs a config");
    bad(&with(index(), json!({ "manifests": null })), Some(INDEX), "needs manifests");
    bad(&with(image(), json!({ "mediaType": INDEX })), Some(INDEX), "needs manifests");
    bad(&with(index(), json!({ "mediaType": IMAGE })), Some(IMAGE), "needs a config");
    for version in [json!(0), json!(3), json!("2"), json!(2.0), json!(-2), json!([2])] {
        bad(&with(image(), json!({ "schemaVersion": version })), Some(IMAGE), "schemaVersion must be 2");
    }
    good(&with(image(), json!({ "schemaVersion": null })), Some(IMAGE));
}

#[test]
fn descriptors_are_checked() {
    fn check(layer: Value) {
        bad(&with(image(), json!({ "layers": [layer] })), Some(IMAGE), "expected form");
    }
    let good_one = descriptor(LAYER, 1);
    check(with(good_one.clone(), json!({ "digest": "sha256:bad" })));
    check(with(good_one.clone(), json!({ "digest": "md5:d41d8cd98f00b204e9800998ecf8427e" })));
    check(with(good_one.clone(), json!({ "digest": digest(0xab).to_string().to_uppercase() })));
    check(with(good_one.clone(), json!({ "digest": null })));
    check(with(good_one.clone(), json!({ "size": null })));
    check(with(good_one.clone(), json!({ "size": -1 })));
    check(with(good_one.clone(), json!({ "size": 1.5 })));
    check(with(good_one.clone(), json!({ "size": "1" })));
    check(with(good_one.clone(), json!({ "size": u64::MAX })));
    check(with(good_one.clone(), json!({ "mediaType": 1 })));
    check(with(good_one.clone(), json!({ "annotations": { "a": [] } })));
    check(json!("sha256"));
    check(Value::Null);
    good(
        &with(image(), json!({ "layers": [with(good_one.clone(), json!({ "mediaType": null }))] })),
        Some(IMAGE),
    );
    good(
        &with(
            image(),
            json!({ "layers": [with(good_one, json!({ "size": i64::MAX, "data": "e30=", "urls": ["x"] }))] }),
        ),
        Some(IMAGE),
    );
    bad(&with(image(), json!({ "layers": {} })), Some(IMAGE), "expected form");
    bad(&with(image(), json!({ "config": [] })), Some(IMAGE), "expected form");
    bad(&with(image(), json!({ "subject": {} })), Some(IMAGE), "expected form");
    bad(&with(image(), json!({ "annotations": { "a": 1 } })), Some(IMAGE), "expected form");
    bad(&with(index(), json!({ "manifests": [{}] })), Some(INDEX), "expected form");
}

#[test]
fn go_writes_null_for_an_empty_list() {
    let config = descriptor(EMPTY, 1);
    let image = format!(
        r#"{{"schemaVersion":2,"mediaType":"{IMAGE}","config":{config},"layers":null,"subject":null,"annotations":null}}"#
    );
    assert_eq!(references(&Manifest::parse(image.as_bytes(), Some(IMAGE)).unwrap()), [Blob(digest(1))]);
    let index = format!(r#"{{"schemaVersion":2,"mediaType":"{INDEX}","manifests":null}}"#);
    assert_eq!(references(&Manifest::parse(index.as_bytes(), Some(INDEX)).unwrap()), []);
}

#[test]
fn what_may_be_missing_is_not_a_reference() {
    let foreign = [
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
    ];
    let mut layers: Vec<Value> = foreign.into_iter().map(|media_type| descriptor(media_type, 7)).collect();
    layers.push(descriptor(LAYER, 2));
    let manifest =
        good(&with(image(), json!({ "layers": layers, "subject": descriptor(IMAGE, 9) })), Some(IMAGE));
    assert_eq!(manifest.layers.len(), 5);
    assert_eq!(references(&manifest), [Blob(digest(1)), Blob(digest(2))]);
}

/// Bodies in the form in which these tools write them.
#[test]
fn what_clients_push_is_taken() {
    // BuildKit, registry cache with image-manifest=false: layers and a config in an index.
    let cache = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [
        with(descriptor(LAYER, 1), json!({ "annotations": { "buildkit/createdat": "2024-01-01T00:00:00Z" } })),
        descriptor("application/vnd.buildkit.cacheconfig.v0", 2),
    ] });
    assert_eq!(references(&good(&cache, Some(INDEX))), [Child(digest(1)), Child(digest(2))]);
    // ORAS: empty config, no real layer.
    let oras = json!({ "schemaVersion": 2, "mediaType": IMAGE, "artifactType": "application/vnd.acme.sbom",
        "config": with(descriptor(EMPTY, 1), json!({ "data": "e30=" })),
        "layers": [with(descriptor(EMPTY, 1), json!({ "data": "e30=" }))],
        "annotations": { "org.opencontainers.image.created": "2024-01-01T00:00:00Z" } });
    assert_eq!(good(&oras, Some(IMAGE)).referrer_artifact_type(), Some("application/vnd.acme.sbom"));
    // Helm: its own config type, no mediaType in the body.
    let helm = json!({ "schemaVersion": 2, "config": descriptor("application/vnd.cncf.helm.config.v1+json", 1),
        "layers": [descriptor("application/vnd.cncf.helm.chart.content.v1.tar+gzip", 2)] });
    assert_eq!(
        good(&helm, Some(IMAGE)).referrer_artifact_type(),
        Some("application/vnd.cncf.helm.config.v1+json")
    );
    // cosign: a signature in a Docker-less image with annotated layers.
    let cosign = json!({ "schemaVersion": 2, "mediaType": IMAGE,
        "config": descriptor("application/vnd.oci.image.config.v1+json", 1),
        "layers": [with(descriptor("application/vnd.dev.cosign.simplesigning.v1+json", 2),
            json!({ "annotations": { "dev.cosignproject.cosign/signature": "MEUC" } }))] });
    assert_eq!(good(&cosign, Some(IMAGE)).layers[0].annotations.as_ref().unwrap().len(), 1);
    // Wasm.
    let wasm = json!({ "schemaVersion": 2, "mediaType": IMAGE,
        "config": descriptor("application/vnd.wasm.config.v0+json", 1), "layers": [descriptor("application/wasm", 2)] });
    good(&wasm, Some(IMAGE));
    // The official suite: unknown fields, no layers, an index with an artifactType.
    good(&with(image(), json!({ "layers": [], "org.EXAMPLE": "x" })), Some(IMAGE));
    let artifact_index =
        with(index(), json!({ "artifactType": "application/x", "subject": descriptor(INDEX, 9) }));
    assert_eq!(good(&artifact_index, Some(INDEX)).referrer_artifact_type(), Some("application/x"));
    // Attestations and platforms.
    let attested =
        with(descriptor(IMAGE, 1), json!({ "platform": { "os": "unknown", "architecture": "unknown" } }));
    good(&with(index(), json!({ "manifests": [attested] })), Some(INDEX));
}

#[test]
fn the_entry_of_a_referrer() {
    fn check(body: &Value, expect: Value) {
        let manifest = good(body, None);
        let mut entry = manifest.referrer_entry(digest(8), 123);
        assert_eq!(entry["digest"].take(), digest(8).to_string());
        assert_eq!(entry["size"].take(), 123);
        entry.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        assert_eq!(entry, expect);
    }
    let config = "application/vnd.oci.image.config.v1+json";
    check(&image(), json!({ "mediaType": IMAGE, "artifactType": config }));
    check(
        &with(image(), json!({ "artifactType": "" })),
        json!({ "mediaType": IMAGE, "artifactType": config }),
    );
    check(
        &with(image(), json!({ "artifactType": "a/b", "annotations": { "k": "v" } })),
        json!({ "mediaType": IMAGE, "artifactType": "a/b", "annotations": { "k": "v" } }),
    );
    check(&index(), json!({ "mediaType": INDEX }));
    check(
        &with(index(), json!({ "artifactType": "a/b" })),
        json!({ "mediaType": INDEX, "artifactType": "a/b" }),
    );
    check(
        &json!({ "mediaType": ARTIFACT, "artifactType": "a/b", "blobs": [] }),
        json!({ "mediaType": ARTIFACT, "artifactType": "a/b" }),
    );
}

#[test]
fn descriptors_are_counted() {
    let layers = |count: usize| {
        let one = descriptor("", 1).to_string();
        let body = format!(
            r#"{{"mediaType":"{IMAGE}","config":{one},"layers":[{}]}}"#,
            vec![one.as_str(); count].join(",")
        );
        Manifest::parse(body.as_bytes(), None)
    };
    // The config is one of them.
    let most = Manifest::DESCRIPTORS_MAX - 1;
    assert_eq!(layers(most).unwrap().layers.len(), most);
    assert_eq!(layers(most + 1), Err(Problem::TooManyDescriptors));
    assert_eq!(Problem::TooManyDescriptors.wire().status, 413);
}

#[test]
fn a_refusal_quotes_little_of_the_client() {
    let long = "x".repeat(100_000);
    let Err(problem) =
        parse(&with(image(), json!({ "mediaType": long })), Some(&format!("a/{}", &long[..100])))
    else {
        panic!("taken");
    };
    assert!(problem.message().chars().count() <= Problem::MESSAGE_CHARS_MAX);
    assert!(problem.body().len() < 1000);
    bad(
        &with(image(), json!({ "mediaType": "a\r\n\u{1b}[31m" })),
        None,
        "mediaType a\\r\\n\\u{1b}[31m is no",
    );
}

#[test]
fn the_platforms_of_an_index_are_read_where_they_are_some() {
    let of = |platform: Value| {
        let mut entry = descriptor(IMAGE, 1);
        entry["platform"] = platform;
        let manifest = good(&with(index(), json!({ "manifests": [entry] })), Some(INDEX));
        manifest.manifests[0].platform.as_ref().map(ToString::to_string)
    };
    let some = |text: &str| Some(text.to_owned());
    assert_eq!(of(json!({ "os": "linux", "architecture": "amd64" })), some("linux/amd64"));
    let arm = json!({ "os": "linux", "architecture": "arm", "variant": "v7", "os.features": ["x"] });
    assert_eq!(of(arm), some("linux/arm/v7"));
    assert_eq!(of(json!({ "os": "linux", "architecture": "arm64", "variant": "" })), some("linux/arm64"));
    for none in [
        json!(null),
        json!("linux/amd64"),
        json!({ "os": "unknown", "architecture": "unknown" }),
        json!({ "os": "linux" }),
        json!({ "os": 7, "architecture": ["amd64"] }),
    ] {
        assert_eq!(of(none.clone()), None, "{none}");
    }
}

proptest! {
    #[test]
    fn no_bytes_panic(body in proptest::collection::vec(any::<u8>(), 0..200), typed in any::<bool>()) {
        let _parsed = Manifest::parse(&body, typed.then_some(IMAGE));
    }

    #[test]
    fn no_json_panics(text in r#"[\[\]{}:,"a-z\\ 0-9]{0,60}"#) {
        let _parsed = Manifest::parse(text.as_bytes(), Some("application/json"));
    }

    #[test]
    fn a_cut_or_changed_manifest_never_panics(cut in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let mut body = image().to_string().into_bytes();
        let whole = body.len();
        let at = at.index(whole);
        body[at] = byte;
        let _changed = Manifest::parse(&body, Some(IMAGE));
        let whole_body = image().to_string();
        let cut = cut.index(whole);
        prop_assert!(Manifest::parse(&whole_body.as_bytes()[..cut], Some(IMAGE)).is_err());
    }

    #[test]
    fn references_are_what_was_written(seeds in proptest::collection::vec(any::<u8>(), 0..20), as_index in any::<bool>()) {
        let listed: Vec<Value> = seeds.iter().map(|seed| descriptor(LAYER, *seed)).collect();
        if as_index {
            let manifest = good(&with(index(), json!({ "manifests": listed })), Some(INDEX));
            let expect: Vec<_> = seeds.iter().map(|seed| Child(digest(*seed))).collect();
            prop_assert_eq!(references(&manifest), expect);
        } else {
            let manifest = good(&with(image(), json!({ "layers": listed })), Some(IMAGE));
            let expect: Vec<_> = [1].iter().chain(&seeds).map(|seed| Blob(digest(*seed))).collect();
            prop_assert_eq!(references(&manifest), expect);
        }
    }
}
