//! A control plane in a directory of its own, asked as the cores and the keeper ask it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use control::{
    Cache, CacheAsk, CommitFailed, Control, CoreHealth, DiskHealth, Document, Epochs, Forward, Health, Lane,
    Link, Manifest, Preconditions, Principal, PushedBlob, Refusal, Reply, StoredManifest, Writes,
    WritesHealth,
};
use controlplane::{Counts, Faults, Fixed, Metrics, MirrorSettings, MissingReferences, OpenError, Options};
use oci::{Algorithm, Digest, Endpoint, Method, Problem, Reference, RepositoryName, Tag};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

pub const NOBODY: Principal = Principal::Anonymous;
pub const IMAGE: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// A directory that goes with its value.
pub struct Directory(PathBuf);

impl Directory {
    pub fn new() -> Directory {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name =
            format!("gantry-controlplane-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Directory(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The tables, beside the control plane.
    pub fn tables(&self) -> rusqlite::Connection {
        rusqlite::Connection::open(self.0.join("control.db")).unwrap()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // A test that panicked says more than a directory that stayed.
        let _removed = std::fs::remove_dir_all(&self.0);
    }
}

/// A running control plane.
pub struct Plane {
    pub control: Control,
    pub epochs: Arc<Epochs>,
    pub writes: Arc<Writes>,
    pub faults: Faults,
    pub refusals: Arc<Mutex<Vec<Refusal>>>,
    /// What it asks of the cache. Nobody answers unless a test does.
    pub cache_asks: Option<Lane<CacheAsk>>,
    metrics: Arc<Metrics>,
    running: JoinHandle<()>,
}

pub fn health(writes: &Writes) -> Health {
    let why = writes.refused().map(Refusal::why);
    Health {
        cores: vec![CoreHealth { driver: "epoll", connections: 3 }],
        disk: DiskHealth { filesystem: "ext4", free_bytes: 1, reserve_bytes: 2 },
        writes: WritesHealth { allowed: why.is_none(), why },
        warnings: Vec::new(),
    }
}

impl Plane {
    pub fn open(directory: &Directory) -> Plane {
        Plane::open_with(directory, MissingReferences::Reject)
    }

    pub fn open_with(directory: &Directory, missing_references: MissingReferences) -> Plane {
        Plane::try_open(directory, missing_references).unwrap()
    }

    pub fn try_open(
        directory: &Directory,
        missing_references: MissingReferences,
    ) -> Result<Plane, OpenError> {
        Plane::open_with_faults(directory, missing_references, Faults::default())
    }

    /// One whose disk may fail from the start.
    pub fn open_with_faults(
        directory: &Directory,
        missing_references: MissingReferences,
        faults: Faults,
    ) -> Result<Plane, OpenError> {
        Plane::open_whole(directory, missing_references, MirrorSettings::default(), faults)
    }

    /// One that is a mirror.
    pub fn open_mirror(directory: &Directory, mirror: MirrorSettings) -> Result<Plane, OpenError> {
        Plane::open_whole(directory, MissingReferences::Reject, mirror, Faults::default())
    }

    fn open_whole(
        directory: &Directory,
        missing_references: MissingReferences,
        mirror: MirrorSettings,
        faults: Faults,
    ) -> Result<Plane, OpenError> {
        let refusals = Arc::new(Mutex::new(Vec::new()));
        let told = Arc::clone(&refusals);
        let writes = Arc::new(Writes::allowed(Box::new(move |why, _since| told.lock().unwrap().push(why))));
        let epochs = Arc::new(Epochs::new(1 << 16));
        let (cache, cache_asks) = Cache::lane(64);
        let options = Options {
            missing_references,
            writes: Arc::clone(&writes),
            epochs: Arc::clone(&epochs),
            mirror,
            cache,
        };
        let plane = controlplane::open_with_faults(directory.path(), options, faults.clone())?;
        let metrics = plane.metrics();
        let (control, lanes) = Control::lanes(1024, 64);
        let state = Arc::clone(&writes);
        let fixed = Fixed {
            health: Arc::new(move || health(&state)),
            metrics: Arc::new(|| "# HELP gantry_test_total x\n# EOF\n".to_owned()),
        };
        let running = tokio::spawn(plane.run(lanes, fixed));
        let cache_asks = Some(cache_asks);
        Ok(Plane { control, epochs, writes, faults, refusals, cache_asks, metrics, running })
    }

    /// Closes the lanes and waits for the end.
    pub async fn close(self) {
        drop(self.control);
        self.running.await.unwrap();
    }

    pub fn metrics(&self) -> String {
        let mut text = String::new();
        self.metrics.render(&mut text);
        text
    }

    pub fn counts(&self) -> Counts {
        self.metrics.read()
    }

    pub async fn commit(&self, batch: Vec<PushedBlob>) -> Result<Vec<Result<(), Problem>>, CommitFailed> {
        let control = self.control.clone();
        tokio::task::spawn_blocking(move || control.commit_blocking(batch)).await.unwrap()
    }

    pub async fn home(&self, digests: Vec<Digest>) -> Result<Vec<Option<u64>>, Problem> {
        let control = self.control.clone();
        tokio::task::spawn_blocking(move || control.home_blocking(digests)).await.unwrap()
    }

    /// Pushes a blob of these bytes.
    pub async fn push(&self, repository: &str, bytes: &str) -> Digest {
        let digest = sha256(bytes);
        self.push_as(repository, digest, bytes.len() as u64).await;
        digest
    }

    pub async fn push_as(&self, repository: &str, digest: Digest, size_bytes: u64) {
        let pushed = PushedBlob { repository: name(repository), digest, size_bytes };
        let results = self.commit(vec![pushed]).await.unwrap();
        assert!(matches!(results[..], [Ok(())]), "the push of {digest} was refused");
    }

    pub async fn link(&self, repository: &str, digest: Digest) -> Option<u64> {
        let link = self.control.link(name(repository), digest, NOBODY).await.unwrap();
        link.map(|link| match link {
            Link::Here { size_bytes } => size_bytes,
            Link::Upstream { .. } => panic!("{link:?}"),
        })
    }

    pub async fn mount(&self, repository: &str, digest: Digest, from: Option<&str>) -> bool {
        self.control.mount(name(repository), digest, from.map(name), NOBODY).await.unwrap()
    }

    pub async fn get(&self, repository: &str, reference: &str) -> Option<Document> {
        self.control.manifest(name(repository), refer(reference), NOBODY).await.unwrap()
    }

    pub async fn put(
        &self,
        repository: &str,
        reference: &str,
        body: &Value,
    ) -> Result<StoredManifest, Problem> {
        self.put_if(repository, reference, body, Preconditions::default()).await
    }

    pub async fn put_if(
        &self,
        repository: &str,
        reference: &str,
        body: &Value,
        preconditions: Preconditions,
    ) -> Result<StoredManifest, Problem> {
        self.put_whole(Manifest { preconditions, ..manifest(repository, reference, body) }).await
    }

    pub async fn put_whole(&self, manifest: Manifest) -> Result<StoredManifest, Problem> {
        self.control.put_manifest(Box::new(manifest), NOBODY).await
    }

    pub async fn delete(&self, repository: &str, reference: &str) -> Result<(), Problem> {
        self.delete_if(repository, reference, Preconditions::default()).await
    }

    pub async fn delete_if(
        &self,
        repository: &str,
        reference: &str,
        preconditions: Preconditions,
    ) -> Result<(), Problem> {
        self.control.delete_manifest(name(repository), refer(reference), preconditions, NOBODY).await
    }

    pub async fn delete_blob(&self, repository: &str, digest: Digest) -> Result<(), Problem> {
        self.control.delete_blob(name(repository), digest, NOBODY).await
    }

    /// Sends a request as a core forwards it.
    pub async fn forward(&self, method: &str, target: &str) -> Result<Answered, Problem> {
        let method = Method::parse(method);
        let endpoint = Endpoint::parse(method, target.as_bytes())?;
        self.forward_as(endpoint, method, target).await
    }

    /// Sends a request with what it was parsed to.
    pub async fn forward_as(
        &self,
        endpoint: Endpoint,
        method: Method,
        target: &str,
    ) -> Result<Answered, Problem> {
        let reply = self.control.forward(|answer| Forward {
            endpoint,
            method,
            target: target.to_owned(),
            body: Bytes::new(),
            principal: NOBODY,
            caller: None,
            answer,
        });
        Ok(Answered::from(reply.await?))
    }

    pub async fn list(&self, target: &str) -> Answered {
        self.forward("GET", target).await.unwrap()
    }

    /// An image with one layer, both blobs pushed, under a tag; `text` makes it another image.
    pub async fn push_image(&self, repository: &str, tag: &str, text: &str) -> Digest {
        let body = self.image_of(repository, text).await;
        self.put(repository, tag, &body).await.unwrap().digest
    }

    /// The image of [`Plane::push_image`], with its blobs pushed and itself not yet.
    pub async fn image_of(&self, repository: &str, text: &str) -> Value {
        let config = self.push(repository, &format!("config of {text}")).await;
        let layer = self.push(repository, &format!("layer of {text}")).await;
        image(config, &[layer])
    }
}

/// A reply with its body read.
#[derive(Debug)]
pub struct Answered {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
}

impl From<Reply> for Answered {
    fn from(reply: Reply) -> Answered {
        let body = reply.body;
        Answered { status: reply.status, headers: reply.headers, body }
    }
}

impl Answered {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The strings of an array in the body.
    pub fn names(&self, key: &str) -> Vec<String> {
        let body = self.json();
        body[key].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
    }

    /// Where `Link` says that the list goes on.
    pub fn next(&self) -> Option<String> {
        let target = self.header("link")?.strip_prefix('<')?.strip_suffix(">; rel=\"next\"")?;
        Some(target.to_owned())
    }
}

pub fn name(text: &str) -> RepositoryName {
    RepositoryName::parse(text).unwrap()
}

pub fn tag(text: &str) -> Tag {
    Tag::parse(text).unwrap()
}

pub fn refer(text: &str) -> Reference {
    Reference::parse(text).unwrap()
}

pub fn sha256(bytes: &str) -> Digest {
    Digest::of(Algorithm::Sha256, bytes.as_bytes())
}

pub fn digest_of(body: &Value) -> Digest {
    sha256(&body.to_string())
}

pub fn manifest(repository: &str, reference: &str, body: &Value) -> Manifest {
    Manifest {
        repository: name(repository),
        reference: refer(reference),
        tags: Vec::new(),
        content_type: body["mediaType"].as_str().map(str::to_owned),
        preconditions: Preconditions::default(),
        body: Bytes::from(body.to_string()),
    }
}

pub fn descriptor(media_type: &str, digest: Digest) -> Value {
    json!({ "mediaType": media_type, "digest": digest.to_string(), "size": 7 })
}

pub fn image(config: Digest, layers: &[Digest]) -> Value {
    let layers: Vec<Value> = layers.iter().map(|layer| descriptor(LAYER, *layer)).collect();
    json!({ "schemaVersion": 2, "mediaType": IMAGE, "config": descriptor(CONFIG, config), "layers": layers })
}

pub fn index(children: &[Digest]) -> Value {
    let children: Vec<Value> = children.iter().map(|child| descriptor(IMAGE, *child)).collect();
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": children })
}

/// `body` as a referrer of `subject`.
pub fn with_subject(mut body: Value, subject: Digest) -> Value {
    body["subject"] = descriptor(IMAGE, subject);
    body
}

pub fn if_match(value: &str) -> Preconditions {
    Preconditions { if_match: Some(value.to_owned()), if_none_match: None }
}

pub fn if_none_match(value: &str) -> Preconditions {
    Preconditions { if_match: None, if_none_match: Some(value.to_owned()) }
}
