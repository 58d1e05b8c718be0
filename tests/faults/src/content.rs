//! What the registry has.

use std::{collections::BTreeMap, sync::Arc};

use oci::{Algorithm, Digest};
use serde_json::{Value, json};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// An image for linux/amd64 and linux/arm64.
#[derive(Clone, Debug)]
pub struct Image {
    /// What the tag names.
    pub index: Digest,
    /// One for each platform.
    pub manifests: Vec<Digest>,
    /// One for each manifest.
    pub configs: Vec<Digest>,
    /// Of each manifest.
    pub layers: Vec<Vec<Digest>>,
}

/// Bytes that look random and are the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

#[derive(Default)]
pub(crate) struct Content {
    /// By repository and digest.
    blobs: BTreeMap<(String, Digest), Arc<[u8]>>,
    manifests: BTreeMap<(String, Digest), Manifest>,
    tags: BTreeMap<(String, String), Digest>,
    images: u64,
}

#[derive(Clone)]
pub(crate) struct Manifest {
    pub(crate) media_type: String,
    pub(crate) bytes: Arc<[u8]>,
}

impl Content {
    pub(crate) fn push_blob(&mut self, repository: &str, bytes: Vec<u8>) -> Digest {
        let digest = Digest::of(Algorithm::Sha256, &bytes);
        self.blobs.insert((repository.to_owned(), digest), bytes.into());
        digest
    }

    pub(crate) fn push_manifest(
        &mut self,
        repository: &str,
        tag: Option<&str>,
        media_type: &str,
        bytes: Vec<u8>,
    ) -> Digest {
        let digest = Digest::of(Algorithm::Sha256, &bytes);
        let manifest = Manifest { media_type: media_type.to_owned(), bytes: bytes.into() };
        self.manifests.insert((repository.to_owned(), digest), manifest);
        if let Some(tag) = tag {
            self.tags.insert((repository.to_owned(), tag.to_owned()), digest);
        }
        digest
    }

    pub(crate) fn delete_tag(&mut self, repository: &str, tag: &str) {
        self.tags.remove(&(repository.to_owned(), tag.to_owned()));
    }

    pub(crate) fn push_image(&mut self, repository: &str, tag: &str, lengths: &[usize]) -> Image {
        let mut image =
            Image { index: Digest::Sha256([0; 32]), manifests: vec![], configs: vec![], layers: vec![] };
        let mut entries = Vec::new();
        for architecture in ["amd64", "arm64"] {
            let mut layers = Vec::new();
            for length in lengths {
                self.images += 1;
                let bytes = noise(self.images, *length);
                layers.push((self.push_blob(repository, bytes), *length));
            }
            let digests: Vec<String> = layers.iter().map(|(digest, _)| digest.to_string()).collect();
            let config = json!({
                "architecture": architecture, "os": "linux", "config": {},
                "rootfs": { "type": "layers", "diff_ids": digests },
            });
            let config = config.to_string().into_bytes();
            let config_length = config.len();
            let config = self.push_blob(repository, config);
            let describe = |(digest, length): &(Digest, usize)| descriptor(LAYER, digest, *length);
            let manifest = json!({
                "schemaVersion": 2, "mediaType": MANIFEST,
                "config": descriptor(CONFIG, &config, config_length),
                "layers": layers.iter().map(describe).collect::<Vec<_>>(),
            });
            let manifest = manifest.to_string().into_bytes();
            let length = manifest.len();
            let digest = self.push_manifest(repository, None, MANIFEST, manifest);
            let mut entry = descriptor(MANIFEST, &digest, length);
            entry["platform"] = json!({ "architecture": architecture, "os": "linux" });
            entries.push(entry);
            image.manifests.push(digest);
            image.configs.push(config);
            image.layers.push(layers.into_iter().map(|(digest, _)| digest).collect());
        }
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries });
        image.index = self.push_manifest(repository, Some(tag), INDEX, index.to_string().into_bytes());
        image
    }

    pub(crate) fn bytes(&self, digest: &Digest) -> Option<Arc<[u8]>> {
        let blob = self.blobs.iter().find(|((_, other), _)| other == digest).map(|(_, bytes)| bytes.clone());
        let manifest = || self.manifests.iter().find(|((_, other), _)| other == digest);
        blob.or_else(|| manifest().map(|(_, manifest)| manifest.bytes.clone()))
    }

    pub(crate) fn blob(&self, repository: &str, digest: &str) -> Option<Arc<[u8]>> {
        self.blobs.get(&(repository.to_owned(), Digest::parse(digest).ok()?)).cloned()
    }

    pub(crate) fn manifest(&self, repository: &str, reference: &str) -> Option<(Digest, Manifest)> {
        let digest = match Digest::parse(reference) {
            Ok(digest) => digest,
            Err(_tag) => *self.tags.get(&(repository.to_owned(), reference.to_owned()))?,
        };
        Some((digest, self.manifests.get(&(repository.to_owned(), digest))?.clone()))
    }

    /// `None`: no such repository.
    pub(crate) fn tags(&self, repository: &str) -> Option<Vec<String>> {
        let known = self.manifests.keys().any(|(name, _)| name == repository);
        let of = self.tags.keys().filter(|(name, _)| name == repository).map(|(_, tag)| tag.clone());
        known.then(|| of.collect())
    }

    /// The index of what names `subject` in `repository`.
    pub(crate) fn referrers(&self, repository: &str, subject: &str) -> String {
        let mut entries = Vec::new();
        for ((_, digest), manifest) in self.manifests.iter().filter(|((name, _), _)| name == repository) {
            let document: Value = serde_json::from_slice(&manifest.bytes).unwrap_or_default();
            if document["subject"]["digest"].as_str() == Some(subject) {
                let mut entry = descriptor(&manifest.media_type, digest, manifest.bytes.len());
                entry["artifactType"] = document["artifactType"].clone();
                entries.push(entry);
            }
        }
        json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries }).to_string()
    }
}

fn descriptor(media_type: &str, digest: &Digest, length: usize) -> Value {
    json!({ "mediaType": media_type, "digest": digest.to_string(), "size": length })
}
