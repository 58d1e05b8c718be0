//! An OCI layout (image-spec, "OCI Image Layout Specification"): an index of one image for each of some architectures.

use std::{collections::BTreeSet, fs, path::Path};

use oci::Digest;
use serde_json::{Value, json};

use crate::harness::{descriptor, media, sha256};

/// What stands in a layout.
#[derive(Clone, Debug)]
pub struct Index {
    pub digest: Digest,
    /// In the order of the index.
    pub images: Vec<Image>,
}

/// The image of one architecture.
#[derive(Clone, Debug)]
pub struct Image {
    /// Under Go's name.
    pub architecture: String,
    pub manifest: Digest,
    pub config: Digest,
    pub layers: Vec<Digest>,
}

/// Adds a blob, and gives its descriptor.
pub fn add(layout: &Path, media_type: &str, bytes: &[u8]) -> Value {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let descriptor = descriptor(media_type, bytes);
    fs::write(blobs.join(hex(&digest_of(&descriptor))), bytes).unwrap();
    descriptor
}

/// Ends a layout: configurations, manifests and an index, tagged `image`, of images for linux whose layers are the blobs
/// that these descriptors tell of. The layers are not compressed.
pub fn write_index<const N: usize>(layout: &Path, images: [(&str, Vec<Value>); N]) -> Index {
    let mut descriptors = Vec::new();
    let images = images.map(|(architecture, layers)| {
        let diff_ids: Vec<&Value> = layers.iter().map(|layer| &layer["digest"]).collect();
        let config = json!({
            "architecture": architecture, "os": "linux", "config": {},
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        let config = add(layout, media::CONFIG, config.to_string().as_bytes());
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": media::IMAGE, "config": config, "layers": layers });
        let mut descriptor = add(layout, media::IMAGE, manifest.to_string().as_bytes());
        let image = Image {
            architecture: architecture.to_owned(),
            manifest: digest_of(&descriptor),
            config: digest_of(&config),
            layers: layers.iter().map(digest_of).collect(),
        };
        descriptor["platform"] = json!({ "architecture": architecture, "os": "linux" });
        descriptors.push(descriptor);
        image
    });
    let index = json!({ "schemaVersion": 2, "mediaType": media::INDEX, "manifests": descriptors });
    let mut top = add(layout, media::INDEX, index.to_string().as_bytes());
    let digest = digest_of(&top);
    top["annotations"] = json!({ "org.opencontainers.image.ref.name": "image" });
    let top = json!({ "schemaVersion": 2, "mediaType": media::INDEX, "manifests": [top] });
    fs::write(layout.join("index.json"), top.to_string()).unwrap();
    fs::write(layout.join("oci-layout"), "{\"imageLayoutVersion\":\"1.0.0\"}").unwrap();
    Index { digest, images: images.into() }
}

/// Fails unless the folder has these blobs, each as `sha256/HEX`, whole and right.
#[track_caller]
pub fn assert_blobs<'d>(blobs: &Path, digests: impl IntoIterator<Item = &'d Digest>) {
    for digest in digests {
        let path = blobs.join("sha256").join(hex(digest));
        let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(sha256(&bytes), *digest, "{}", path.display());
    }
}

impl Index {
    /// Everything, each once: the index itself, manifests, configurations, layers.
    pub fn digests(&self) -> BTreeSet<&Digest> {
        std::iter::once(&self.digest).chain(self.images.iter().flat_map(Image::digests)).collect()
    }

    /// Configurations and layers, each once.
    pub fn blobs(&self) -> BTreeSet<Digest> {
        self.images.iter().flat_map(Image::blobs).copied().collect()
    }

    /// The image that a client on this machine takes, unless told another platform.
    pub fn own(&self) -> &Image {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let own = self.images.iter().find(|image| image.architecture == architecture);
        own.unwrap_or_else(|| panic!("no image for {architecture}"))
    }
}

impl Image {
    /// Manifest, configuration and layers.
    pub fn digests(&self) -> impl Iterator<Item = &Digest> {
        std::iter::once(&self.manifest).chain(self.blobs())
    }

    /// Configuration and layers.
    pub fn blobs(&self) -> impl Iterator<Item = &Digest> {
        std::iter::once(&self.config).chain(&self.layers)
    }
}

/// The digits of a digest.
pub fn hex(digest: &Digest) -> String {
    digest.to_string().trim_start_matches("sha256:").to_owned()
}

fn digest_of(descriptor: &Value) -> Digest {
    Digest::parse(descriptor["digest"].as_str().expect("a descriptor has a digest")).expect("ours")
}
