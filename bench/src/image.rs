//! Images that the bench makes and pushes: an index, a manifest for linux/amd64, a configuration, layers of noise.

use oci::{Algorithm, Digest, MediaType};
use serde_json::json;

use crate::{content::Blob, registry::Registry, subject::REPOSITORY};

/// What an image's layers are said to be.
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A document of an image.
#[derive(Clone, Debug)]
pub struct Document {
    /// Its media type.
    pub media_type: MediaType,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// Their digest.
    pub digest: Digest,
}

/// An image for linux/amd64.
#[derive(Clone, Debug)]
pub struct Image {
    /// What a tag points to.
    pub index: Document,
    /// What the index points to.
    pub manifest: Document,
    /// The manifest's configuration.
    pub config: Document,
    /// The manifest's layers.
    pub layers: Vec<Blob>,
}

impl Document {
    fn new(media_type: MediaType, content: &serde_json::Value) -> Document {
        let bytes = content.to_string().into_bytes();
        Document { media_type, digest: Digest::of(Algorithm::Sha256, &bytes), bytes }
    }

    /// A configuration for these layers. They are said not to be compressed.
    pub fn config(layers: &[Blob]) -> Document {
        let layers: Vec<String> = layers.iter().map(|layer| layer.digest.to_string()).collect();
        let content = json!({
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": { "type": "layers", "diff_ids": layers },
        });
        Document::new(MediaType::OCI_CONFIG, &content)
    }

    /// A manifest, made longer by an annotation until it has `length` bytes, if it is shorter than that.
    pub fn manifest(config: &Document, layers: &[Blob], length: u64) -> Document {
        let describe = |layer: &Blob| {
            let digest = layer.digest.to_string();
            json!({ "mediaType": LAYER, "digest": digest, "size": layer.length })
        };
        let layers: Vec<_> = layers.iter().map(describe).collect();
        let mut content = json!({
            "schemaVersion": 2,
            "mediaType": MediaType::OCI_MANIFEST.as_str(),
            "config": config.descriptor(),
            "layers": layers,
        });
        let plain = Document::new(MediaType::OCI_MANIFEST, &content);
        if plain.bytes.len() as u64 >= length {
            return plain;
        }
        content["annotations"] = json!({ "org.example.filler": "" });
        let shortest = content.to_string().len();
        let missing = usize::try_from(length).unwrap_or(usize::MAX).saturating_sub(shortest);
        content["annotations"] = json!({ "org.example.filler": "x".repeat(missing) });
        Document::new(MediaType::OCI_MANIFEST, &content)
    }

    fn index(manifest: &Document) -> Document {
        let mut entry = manifest.descriptor();
        entry["platform"] = json!({ "architecture": "amd64", "os": "linux" });
        let content = json!({
            "schemaVersion": 2,
            "mediaType": MediaType::OCI_INDEX.as_str(),
            "manifests": [entry],
        });
        Document::new(MediaType::OCI_INDEX, &content)
    }

    fn descriptor(&self) -> serde_json::Value {
        let (kind, digest) = (self.media_type.as_str(), self.digest.to_string());
        json!({ "mediaType": kind, "digest": digest, "size": self.bytes.len() })
    }

    /// Pushes it as a blob, unless it is there.
    ///
    /// Errors: a sentence.
    pub fn push_blob(&self, registry: &mut Registry) -> Result<(), String> {
        if registry.has_blob(REPOSITORY, &self.digest)? {
            return Ok(());
        }
        registry.push_blob(REPOSITORY, &self.digest, self.bytes.len() as u64, &self.bytes[..])
    }

    /// Pushes it as a manifest under a tag or its digest.
    ///
    /// Errors: a sentence.
    pub fn push_manifest(&self, registry: &mut Registry, reference: &str) -> Result<(), String> {
        registry.push_manifest(REPOSITORY, reference, self.media_type.as_str(), &self.bytes)
    }
}

impl Image {
    /// The image of these layers.
    pub fn of(layers: Vec<Blob>) -> Image {
        let config = Document::config(&layers);
        let manifest = Document::manifest(&config, &layers, 0);
        Image { index: Document::index(&manifest), manifest, config, layers }
    }

    /// Pushes its documents; the layers are there.
    ///
    /// Errors: a sentence.
    pub fn push(&self, registry: &mut Registry, tag: &str) -> Result<(), String> {
        self.config.push_blob(registry)?;
        self.manifest.push_manifest(registry, &self.manifest.digest.to_string())?;
        self.index.push_manifest(registry, tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_as_long_as_it_should_be() {
        let layers = [Blob::new(1, 10), Blob::new(2, 20)];
        let config = Document::config(&layers);
        let plain = Document::manifest(&config, &layers, 0);
        for length in [plain.bytes.len() + 200, 4096, 100_000] {
            let manifest = Document::manifest(&config, &layers, length as u64);
            assert_eq!(manifest.bytes.len(), length);
            assert_eq!(manifest.digest, Digest::of(Algorithm::Sha256, &manifest.bytes));
            oci::Manifest::parse(&manifest.bytes, Some(manifest.media_type.as_str())).unwrap();
        }
        let index = Document::index(&plain);
        oci::Manifest::parse(&index.bytes, Some(index.media_type.as_str())).unwrap();
    }
}
