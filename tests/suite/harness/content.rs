//! What tests push: blobs, manifests, images, made from a seed so that a failure repeats.

use std::time::{Duration, Instant};

use oci::{Algorithm, Digest};
use serde_json::{Value, json};

use super::{client::Client, media, response::Response};

/// `len` bytes that look random and are the same for the same seed.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.truncate(len);
    out
}

/// The sha256 digest.
pub fn sha256(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

/// How long a test waits for what has to come: much longer than it takes, however busy the machine is.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks every few milliseconds until the answer is yes; fails when [`PATIENCE`] is at an end.
#[track_caller]
pub fn wait_for(what: &str, mut ready: impl FnMut() -> bool) {
    let start = Instant::now();
    while !ready() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// An image of one config and one layer that stands in a repository.
#[derive(Clone, Debug)]
pub struct Image {
    /// The manifest's exact bytes.
    pub bytes: Vec<u8>,
    /// Its sha256 digest.
    pub digest: Digest,
    pub config: Digest,
    pub layer: Digest,
}

impl Image {
    /// The manifest of an image whose config and layer are these bytes.
    pub fn of(config: &[u8], layer: &[u8]) -> Image {
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": media::IMAGE,
            "config": descriptor(media::CONFIG, config),
            "layers": [descriptor(media::LAYER, layer)],
        });
        let bytes = manifest.to_string().into_bytes();
        Image { digest: sha256(&bytes), bytes, config: sha256(config), layer: sha256(layer) }
    }

    /// A descriptor of the manifest, to be named by an index or as a subject.
    pub fn descriptor(&self) -> Value {
        json!({ "mediaType": media::IMAGE, "digest": self.digest.to_string(), "size": self.bytes.len() })
    }
}

/// A descriptor of these bytes, by sha256.
pub fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": sha256(bytes).to_string(), "size": bytes.len() })
}

impl Client {
    /// Pushes a blob by POST and PUT; it has to work. (end-4a, end-6)
    #[track_caller]
    pub fn push_blob(&mut self, repository: &str, bytes: &[u8]) -> Digest {
        self.push_blob_as(repository, bytes, Algorithm::Sha256)
    }

    /// Likewise under the digest of another algorithm.
    #[track_caller]
    pub fn push_blob_as(&mut self, repository: &str, bytes: &[u8], algorithm: Algorithm) -> Digest {
        let digest = Digest::of(algorithm, bytes);
        let query = match algorithm {
            Algorithm::Sha256 => String::new(),
            other => format!("?digest-algorithm={}", other.name()),
        };
        let opened =
            self.request("POST", format!("/v2/{repository}/blobs/uploads/{query}")).send().expect(202);
        let location = opened.header("location");
        let target = format!("{location}?digest={digest}");
        let stored = self.request("PUT", target).body(bytes).send().expect(201);
        assert_eq!(stored.header("docker-content-digest"), digest.to_string());
        digest
    }

    /// Opens an upload session and returns its `Location`. (end-4a)
    #[track_caller]
    pub fn open_upload(&mut self, repository: &str) -> String {
        let opened = self.request("POST", format!("/v2/{repository}/blobs/uploads/")).send().expect(202);
        opened.header("location").to_owned()
    }

    /// A chunk at an offset, by `Content-Range`. (end-5)
    #[track_caller]
    pub fn patch_at(&mut self, location: &str, offset: usize, bytes: &[u8]) -> Response {
        let range = format!("{offset}-{}", offset + bytes.len() - 1);
        self.request("PATCH", location).header("Content-Range", range).body(bytes).send()
    }

    /// The closing PUT, without a body. (end-6)
    #[track_caller]
    pub fn close_upload(&mut self, location: &str, digest: Digest) -> Response {
        self.request("PUT", format!("{location}?digest={digest}")).send()
    }

    /// How many bytes the session says it has. (end-13)
    #[track_caller]
    pub fn upload_offset(&mut self, location: &str) -> usize {
        let status = self.get(location).expect(204);
        offset_of(status.header("range"))
    }

    /// PUT of a manifest under its media type. (end-7)
    #[track_caller]
    pub fn put_manifest(
        &mut self,
        repository: &str,
        reference: &str,
        media_type: &str,
        body: &[u8],
    ) -> Response {
        let target = format!("/v2/{repository}/manifests/{reference}");
        self.request("PUT", target).header("Content-Type", media_type).body(body).send()
    }

    /// Likewise for JSON that names its own media type; it has to work. Returns the sha256 digest.
    #[track_caller]
    pub fn put_json(&mut self, repository: &str, reference: &str, manifest: &Value) -> Digest {
        let media_type = manifest["mediaType"].as_str().expect("a manifest with a media type");
        let body = manifest.to_string().into_bytes();
        self.put_manifest(repository, reference, media_type, &body).expect(201);
        sha256(&body)
    }

    /// Pushes an image of a few bytes made from `seed`; it has to work.
    #[track_caller]
    pub fn push_image(&mut self, repository: &str, tag: &str, seed: u64) -> Image {
        let config = format!("{{\"architecture\":\"amd64\",\"os\":\"linux\",\"seed\":{seed}}}").into_bytes();
        let layer = noise(seed, 2000);
        let image = Image::of(&config, &layer);
        self.push_blob(repository, &config);
        self.push_blob(repository, &layer);
        self.put_manifest(repository, tag, media::IMAGE, &image.bytes).expect(201);
        image
    }

    /// Reads a blob whole and compares it with `bytes`. (end-2)
    #[track_caller]
    pub fn assert_blob(&mut self, repository: &str, digest: Digest, bytes: &[u8]) {
        let got = self.get(format!("/v2/{repository}/blobs/{digest}")).expect(200);
        assert_eq!(got.header("content-length"), bytes.len().to_string());
        assert!(got.body == bytes, "{digest} came back as other bytes");
    }
}

/// The offset that a session's `Range` tells: the bytes it has. `0-0` is Docker's way to say none.
#[track_caller]
pub fn offset_of(range: &str) -> usize {
    let last = range.strip_prefix("0-").and_then(|last| last.parse::<usize>().ok());
    match last.unwrap_or_else(|| panic!("Range {range:?} of an upload")) {
        0 => 0,
        last => last + 1,
    }
}
