//! Manifests: what was accepted means the same to a reader that knows nothing of ours.

use oci::{Algorithm, Descriptor, Digest, Kind, Manifest};
use serde_json::Value;

use super::first_line;

/// The input is a `Content-Type` (or nothing), LF, and the body.
pub fn manifest(bytes: &[u8]) {
    let (content_type, body) = first_line(bytes);
    let Ok(content_type) = std::str::from_utf8(content_type) else { return };
    let content_type = Some(content_type).filter(|value| !value.is_empty());
    let Ok(manifest) = Manifest::parse(body, content_type) else { return };

    assert!(manifest.media_type.is_json() && !manifest.media_type.is_schema1());
    assert_eq!(Manifest::parse(body, Some(manifest.media_type.as_str())), Ok(manifest.clone()));
    let body = std::str::from_utf8(body).expect("JSON is UTF-8");
    refuses_a_second_meaning(body, content_type);
    check_references(&manifest);

    // serde looks at neither numbers nor surrogates in what it skips, so that a reader of everything may fail.
    match serde_json::from_str(body) {
        Ok(value) => read_as_a_tree(&manifest, &value),
        Err(error) => {
            let told = error.to_string();
            let skipped =
                told.contains("number out of range") || told.contains("surrogate") || told.contains("escape");
            assert!(skipped, "{error}");
        }
    }
}

/// A key that decides something is there once and in its own letters, or the body is refused.
fn refuses_a_second_meaning(body: &str, content_type: Option<&str>) {
    let open = body.find('{').expect("an accepted body is an object") + 1;
    let comma = if body[open..].trim_start().starts_with('}') { "" } else { "," };
    let with = |keys: &str| {
        let more = format!("{}{keys}{comma}{}", &body[..open], &body[open..]);
        Manifest::parse(more.as_bytes(), content_type).is_ok()
    };
    for spelling in ["MEDIATYPE", "mediatype", "Layers", "\u{17f}ubject", "CON\\u0046IG"] {
        assert!(!with(&format!("\"{spelling}\":null")), "with {spelling}");
    }
    assert!(!with(r#""config":null,"config":null"#), "twice");
    assert!(with(r#""x-config":{"mediaType":[]}"#), "a key that decides nothing");
}

fn check_references(manifest: &Manifest) {
    let descriptors =
        usize::from(manifest.config.is_some()) + manifest.layers.len() + manifest.manifests.len();
    assert!(descriptors <= Manifest::DESCRIPTORS_MAX);
    assert!(manifest.references().count() <= descriptors);
    assert!(manifest.artifact_type.as_deref() != Some("") && manifest.referrer_artifact_type() != Some(""));

    let digest = Digest::of(Algorithm::Sha256, b"");
    let entry = manifest.referrer_entry(digest, 7);
    assert_eq!(entry["mediaType"], manifest.media_type.as_str());
    assert_eq!(entry["artifactType"].as_str(), manifest.referrer_artifact_type());
    assert_eq!(entry["digest"], digest.to_string());
    let annotations = entry.get("annotations").and_then(Value::as_object);
    assert_eq!(annotations, manifest.annotations.as_ref());
    assert!(annotations.is_none_or(|annotations| annotations.values().all(Value::is_string)));
}

fn read_as_a_tree(manifest: &Manifest, value: &Value) {
    assert!(depth(value) <= Manifest::DEPTH_MAX);
    if let Some(said) = value["mediaType"].as_str().filter(|said| !said.is_empty()) {
        assert_eq!(manifest.media_type.as_str(), said);
    }
    let lists = |key: &str| value[key].as_array().map_or(&[][..], Vec::as_slice);
    match manifest.kind {
        Kind::Image | Kind::Index => {
            same(manifest.config.as_slice(), &[value["config"].clone()]);
            same(&manifest.layers, lists("layers"));
            same(&manifest.manifests, lists("manifests"));
        }
        Kind::Artifact => same(&manifest.layers, lists("blobs")),
        // What does not read like a descriptor is none, so that there may be fewer than in the tree.
        Kind::Other => {
            assert!(manifest.layers.len() <= lists("layers").len() + lists("blobs").len());
            assert!(manifest.manifests.len() <= lists("manifests").len());
            return;
        }
    }
    same(manifest.subject.as_slice(), &[value["subject"].clone()]);
    let again = Manifest::parse(value.to_string().as_bytes(), Some(manifest.media_type.as_str()));
    assert_eq!(again.as_ref(), Ok(manifest), "written anew");
}

fn same(descriptors: &[Descriptor], values: &[Value]) {
    let values: Vec<&Value> = values.iter().filter(|value| !value.is_null()).collect();
    assert_eq!(descriptors.len(), values.len());
    for (descriptor, value) in descriptors.iter().zip(values) {
        assert_eq!(value["digest"], descriptor.digest.to_string());
        assert_eq!(value["size"], descriptor.size_bytes);
        assert_eq!(value["mediaType"].as_str().unwrap_or_default(), descriptor.media_type);
        assert_eq!(value["artifactType"].as_str(), descriptor.artifact_type.as_deref());
        assert_eq!(value["annotations"].as_object(), descriptor.annotations.as_ref());
    }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(list) => 1 + list.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => 0,
    }
}
