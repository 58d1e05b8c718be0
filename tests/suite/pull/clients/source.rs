//! What the clients pull, and the two upstreams that have it: Debian's docker-registry, and one that counts.
//!
//! Owns: two images for two platforms, as OCI layouts and in a docker-registry's folder, made once for all tests that run
//! at one time.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
};

use ::faults::Registry;
use oci::Digest;
use serde_json::{Value, json};

use crate::{
    clients::{
        desk::{Daemon, Desk},
        layout::{self, Image, Index},
    },
    harness::{TempDir, media, noise, sha256},
};

/// The repository, by its name at the upstream. Docker Hub has none of that name: a client that goes past the mirror
/// finds nothing there.
pub const REPOSITORY: &str = "library/gantry-pulled";

const BASE_BYTES: usize = (1 << 20) + 17;
const OWN_BYTES: usize = 300_000;
/// The large layer's file.
pub const LARGE_BYTES: usize = 300 << 20;

/// One of the two images.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Size {
    /// Two layers, of which the platforms share one.
    Small,
    /// Three, and the one of several hundred MB is shared.
    Large,
}

impl Size {
    /// The tag that names it.
    pub fn tag(self) -> &'static str {
        match self {
            Size::Small => "small",
            Size::Large => "large",
        }
    }
}

/// Both images.
pub struct Content {
    pub small: Index,
    pub large: Index,
    /// The one file that each layer holds: its name and its digest.
    files: HashMap<Digest, (&'static str, Digest)>,
    folder: TempDir,
}

/// An upstream that has both images, until it is stopped.
pub enum Upstream {
    DockerRegistry { address: String, daemon: Option<Daemon>, _desk: Desk },
    Counting(Registry),
}

impl Content {
    /// That of this run, made when the first test asks.
    pub fn get() -> Arc<Content> {
        // Weak, since a static is never dropped: the last test takes the files along.
        static MADE: Mutex<Weak<Content>> = Mutex::new(Weak::new());
        let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(content) = made.upgrade() {
            return content;
        }
        let content = Arc::new(Content::make());
        *made = Arc::downgrade(&content);
        content
    }

    fn make() -> Content {
        let folder = TempDir::new("pulled");
        let mut files = HashMap::new();
        let mut layer = |size: Size, name: &'static str, seed: u64, len: usize| {
            let bytes = noise(seed, len);
            let descriptor = layout::add(&folder.path().join(size.tag()), media::LAYER, &tar(name, &bytes));
            let digest = Digest::parse(descriptor["digest"].as_str().expect("a digest")).expect("ours");
            files.insert(digest, (name, sha256(&bytes)));
            descriptor
        };
        let base = layer(Size::Small, "base", 1, BASE_BYTES);
        let [amd64, arm64] = [2, 3].map(|seed| layer(Size::Small, "own", seed, OWN_BYTES));
        let small = [("amd64", vec![base.clone(), amd64]), ("arm64", vec![base, arm64])];
        // Another base: what one image has brought would be here for the other.
        let base = layer(Size::Large, "base", 4, BASE_BYTES);
        let large = layer(Size::Large, "large", 5, LARGE_BYTES);
        let [amd64, arm64] = [6, 7].map(|seed| layer(Size::Large, "own", seed, OWN_BYTES));
        let all = |own: Value| vec![base.clone(), own, large.clone()];
        let large = [("amd64", all(amd64)), ("arm64", all(arm64))];
        let small = layout::write_index(&folder.path().join(Size::Small.tag()), small);
        let large = layout::write_index(&folder.path().join(Size::Large.tag()), large);
        let content = Content { small, large, files, folder };
        content.push_to_docker_registry();
        content
    }

    pub fn index(&self, size: Size) -> &Index {
        match size {
            Size::Small => &self.small,
            Size::Large => &self.large,
        }
    }

    /// The one of several hundred MB.
    pub fn large_layer(&self) -> &Digest {
        self.large.own().layers.last().expect("it has layers")
    }

    /// Fails unless `root` holds the files of all layers, each right.
    #[track_caller]
    pub fn assert_tree(&self, root: &Path, image: &Image) {
        for layer in &image.layers {
            let (name, digest) = &self.files[layer];
            let bytes = fs::read(root.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(sha256(&bytes), *digest, "{name} of {layer}");
        }
    }

    fn layout(&self, size: Size) -> PathBuf {
        self.folder.path().join(size.tag())
    }

    fn push_to_docker_registry(&self) {
        let (desk, upstream) = (Desk::new(), self.docker_registry());
        for size in [Size::Small, Size::Large] {
            let (from, to) = (self.layout(size), format!("{}/{REPOSITORY}:{}", upstream.host(), size.tag()));
            desk.run("crane", &["push", "--insecure", &from.display().to_string(), &to]);
        }
    }

    /// Debian's, with all that was ever pushed to it.
    pub fn docker_registry(&self) -> Upstream {
        let desk = Desk::new();
        let config = json!({
            "version": 0.1, "log": { "level": "info" },
            "storage": { "filesystem": { "rootdirectory": self.folder.path().join("docker-registry") } },
            "http": { "addr": "127.0.0.1:0", "secret": "none" },
        });
        // JSON is YAML.
        let config = desk.write("config.yml", &config.to_string());
        let args = ["serve", &config.display().to_string()];
        let (daemon, address) = Daemon::start_until(&desk, "docker-registry", &args, |log| {
            let (_, after) = log.split_once("listening on ")?;
            let (address, _) = after.split_once('"')?;
            Some(address.to_owned())
        });
        Upstream::DockerRegistry { address, daemon: Some(daemon), _desk: desk }
    }

    /// One that can tell what it was asked for.
    pub fn counting(&self) -> Upstream {
        let registry = Registry::start();
        for size in [Size::Small, Size::Large] {
            let (index, blobs) = (self.index(size), self.layout(size).join("blobs/sha256"));
            let read =
                |digest: &Digest| fs::read(blobs.join(layout::hex(digest))).expect("it is in the layout");
            for digest in index.blobs() {
                registry.push_blob(REPOSITORY, read(&digest));
            }
            for image in &index.images {
                registry.push_manifest(REPOSITORY, None, media::IMAGE, read(&image.manifest));
            }
            registry.push_manifest(REPOSITORY, Some(size.tag()), media::INDEX, read(&index.digest));
        }
        Upstream::Counting(registry)
    }
}

impl Upstream {
    pub fn url(&self) -> String {
        format!("http://{}", self.host())
    }

    /// Host and port.
    fn host(&self) -> String {
        match self {
            Upstream::DockerRegistry { address, .. } => address.clone(),
            Upstream::Counting(registry) => registry.addr().to_string(),
        }
    }

    /// From now on, who connects is refused.
    pub fn stop(&mut self) {
        match self {
            Upstream::DockerRegistry { daemon, .. } => drop(daemon.take()),
            Upstream::Counting(registry) => registry.refuse(),
        }
    }
}

/// One file of root's as an archive (POSIX ustar).
fn tar(name: &str, bytes: &[u8]) -> Vec<u8> {
    const BLOCK: usize = 512;
    let mut out = vec![0; BLOCK];
    let mut field = |at: usize, text: &str| out[at..at + text.len()].copy_from_slice(text.as_bytes());
    field(0, name);
    field(100, "0000644");
    field(108, "0000000");
    field(116, "0000000");
    field(124, &format!("{:011o}", bytes.len()));
    field(136, "00000000000");
    // The sum counts its own field as spaces.
    field(148, "        ");
    field(156, "0");
    field(257, "ustar");
    field(263, "00");
    let sum: u32 = out.iter().map(|byte| u32::from(*byte)).sum();
    out[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    out.extend_from_slice(bytes);
    // Whole blocks, and two empty ones at the end.
    out.resize(out.len().next_multiple_of(BLOCK) + 2 * BLOCK, 0);
    out
}
