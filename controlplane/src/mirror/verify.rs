//! Whether what an upstream sent is the manifest that was asked for.
//!
//! Invariants: nothing is kept or answered that did not come through here. What is wrong is the upstream's fault, 502,
//! and never *not there*.

use std::collections::BTreeMap;

use bytes::Bytes;
use oci::{Algorithm, Digest, MediaType, Problem, Reference};

use crate::metadata::{EdgeKind, MirroredEdge};

/// As it came.
#[derive(Clone, Debug)]
pub(super) struct Received {
    pub bytes: Bytes,
    pub media_type: Option<MediaType>,
    /// What the upstream says that its digest is.
    pub digest_header: Option<Digest>,
}

/// What is what it should be.
#[derive(Clone, Debug)]
pub(super) struct Verified {
    pub digest: Digest,
    pub media_type: MediaType,
    pub bytes: Bytes,
    pub edges: Vec<MirroredEdge>,
}

const WRONG_DIGEST: Problem = Problem::UpstreamMisbehaved {
    why: "the upstream's manifest does not have the digest that it should have",
};
const NO_MANIFEST: Problem =
    Problem::UpstreamMisbehaved { why: "the upstream's answer is not a manifest that is taken here" };

/// Hashes and parses up to 4 MiB: not on a thread that others wait for.
pub(super) fn verify(asked: &Reference, received: Received) -> Result<Verified, Problem> {
    let Received { bytes, media_type, digest_header } = received;
    let expected = match asked {
        Reference::Digest(digest) => Some(*digest),
        Reference::Tag(_) => digest_header,
    };
    let algorithm = expected.map_or(Algorithm::Sha256, |digest| digest.algorithm());
    let digest = Digest::of(algorithm, &bytes);
    if expected.is_some_and(|expected| expected != digest) {
        return Err(WRONG_DIGEST);
    }
    let told = media_type.as_ref().map(MediaType::as_str);
    // That it is JSON is no type: what it says itself is one, or its shape.
    let clear = told.filter(|_| media_type != Some(MediaType::JSON));
    let parsed = oci::Manifest::parse(&bytes, clear).or_else(|_why| oci::Manifest::parse(&bytes, told));
    let parsed = parsed.map_err(|_why| NO_MANIFEST)?;
    Ok(Verified { digest, edges: edges(&parsed), media_type: parsed.media_type, bytes })
}

/// What is named, each once a kind. A blob among them is permission to serve it, so it takes the upstream's own word:
/// anybody may push a manifest there that names the digest of somebody's blob as a layer that lies elsewhere. The
/// upstream may have such a layer all the same, and is asked for it.
fn edges(manifest: &oci::Manifest) -> Vec<MirroredEdge> {
    let blobs = manifest.vouched().map(|named| (named, EdgeKind::Blob));
    let children = manifest.manifests.iter().map(|named| (named, EdgeKind::Child));
    let sizes: BTreeMap<(Digest, EdgeKind), u64> =
        blobs.chain(children).map(|(named, kind)| ((named.digest, kind), named.size_bytes)).collect();
    sizes.into_iter().map(|((target, kind), size_bytes)| MirroredEdge { target, kind, size_bytes }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const IMAGE: &str = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
        "config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"DIGEST","size":7},
        "layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"DIGEST","size":7}]}"#;

    fn image() -> (Bytes, Digest) {
        let text = IMAGE.replace("DIGEST", &Digest::of(Algorithm::Sha256, b"layer").to_string());
        let digest = Digest::of(Algorithm::Sha256, text.as_bytes());
        (Bytes::from(text), digest)
    }

    fn received(bytes: Bytes) -> Received {
        Received { bytes, media_type: Some(MediaType::OCI_MANIFEST), digest_header: None }
    }

    #[test]
    fn the_digest_that_was_asked_for_decides_and_else_the_one_that_was_told() {
        let (bytes, digest) = image();
        let tag = Reference::parse("latest").unwrap();
        let verified = verify(&Reference::Digest(digest), received(bytes.clone())).unwrap();
        assert_eq!((verified.digest, verified.edges.len()), (digest, 1), "what is named twice counts once");
        assert_eq!(verify(&tag, received(bytes.clone())).unwrap().digest, digest);
        let told = |digest_header| Received { digest_header: Some(digest_header), ..received(bytes.clone()) };
        let sha512 = Digest::of(Algorithm::Sha512, &bytes);
        assert_eq!(verify(&tag, told(sha512)).unwrap().digest, sha512);
        let other = Digest::of(Algorithm::Sha256, b"other");
        assert_eq!(verify(&tag, told(other)).unwrap_err(), WRONG_DIGEST);
        assert_eq!(verify(&Reference::Digest(other), received(bytes.clone())).unwrap_err(), WRONG_DIGEST);
        // Whoever asks by digest knows what it wants, whatever the header says.
        assert_eq!(verify(&Reference::Digest(digest), told(other)).unwrap().digest, digest);
    }

    #[test]
    fn a_type_that_says_nothing_gives_way_to_what_the_manifest_says_or_is() {
        let digest = Digest::of(Algorithm::Sha256, b"config");
        let shape = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"a/b","digest":"{digest}","size":6}},"layers":[]}}"#
        );
        let (said, _) = image();
        let tag = Reference::parse("latest").unwrap();
        let other = r#"{"anything":1}"#;
        for (body, expect) in [
            (shape.as_str(), MediaType::OCI_MANIFEST),
            (std::str::from_utf8(&said).unwrap(), MediaType::OCI_MANIFEST),
            (r#"{"schemaVersion":2,"manifests":[]}"#, MediaType::OCI_INDEX),
            (other, MediaType::JSON),
        ] {
            let bytes = Bytes::from(body.to_owned());
            let sent = Received { media_type: Some(MediaType::JSON), ..received(bytes) };
            assert_eq!(verify(&tag, sent).unwrap().media_type, expect, "{body}");
        }
    }

    #[test]
    fn what_is_no_manifest_is_the_upstreams_fault() {
        let tag = Reference::parse("latest").unwrap();
        let (bytes, _) = image();
        for (text, media_type) in [
            ("<html>", Some(MediaType::OCI_MANIFEST)),
            (r#"{"schemaVersion":1,"name":"a","tag":"b","fsLayers":[]}"#, Some(MediaType::DOCKER_SCHEMA1)),
            (r#"{"schemaVersion":1,"name":"a","tag":"b","fsLayers":[]}"#, None),
            (std::str::from_utf8(&bytes).unwrap(), Some(MediaType::OCI_INDEX)),
            (std::str::from_utf8(&bytes).unwrap(), Some(MediaType::OCTET_STREAM)),
        ] {
            let sent = Received { bytes: Bytes::from(text.to_owned()), media_type, digest_header: None };
            assert_eq!(verify(&tag, sent).unwrap_err(), NO_MANIFEST, "{text}");
        }
    }
}
