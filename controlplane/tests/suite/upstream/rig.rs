//! A client for a registry on loopback, and what it is asked again and again.

use bytes::Bytes;
use control::{Fetched, Memory};
use controlplane::upstream::{
    Accept, AllowPrivate, Credentials, Described, Failure, GotManifest, Secret, SeenManifest, Upstream,
    UpstreamSettings,
};
use faults::Registry;
use oci::{Digest, Problem, Reference, RepositoryName};

pub const NAME: &str = "library/busybox";

pub fn repository() -> RepositoryName {
    RepositoryName::parse(NAME).unwrap()
}

pub fn tag(text: &str) -> Reference {
    Reference::parse(text).unwrap()
}

/// With the timeouts that an operator has; loopback is allowed.
pub fn settings(registry: &Registry) -> UpstreamSettings {
    let mut settings = UpstreamSettings::new("docker.io", registry.url());
    settings.allow_private_addresses = AllowPrivate::All;
    settings
}

pub fn client(registry: &Registry) -> Upstream {
    Upstream::new(settings(registry)).unwrap()
}

pub fn client_with(registry: &Registry, change: impl FnOnce(&mut UpstreamSettings)) -> Upstream {
    let mut settings = settings(registry);
    change(&mut settings);
    Upstream::new(settings).unwrap()
}

pub fn user(username: &str, password: &str) -> Credentials {
    Credentials::User { username: username.to_owned(), password: Secret::from(password) }
}

/// The manifest of a tag, as its bytes.
pub async fn pull(upstream: &Upstream, reference: &str) -> Result<Option<Bytes>, Failure> {
    match upstream.manifest(&repository(), &tag(reference), &Accept::default(), None).await? {
        GotManifest::Absent => Ok(None),
        GotManifest::Manifest { bytes, .. } => Ok(Some(bytes)),
        GotManifest::Unchanged => panic!("nothing was compared"),
    }
}

/// What a HEAD tells of a tag, of an upstream that answers one.
pub async fn describe(upstream: &Upstream, reference: &str) -> Result<Option<Described>, Failure> {
    describe_in(upstream, &repository(), reference).await
}

pub async fn describe_in(
    upstream: &Upstream,
    repository: &RepositoryName,
    reference: &str,
) -> Result<Option<Described>, Failure> {
    match upstream.describe_manifest(repository, &tag(reference), &Accept::default()).await? {
        SeenManifest::Absent => Ok(None),
        SeenManifest::Described(described) => Ok(Some(described)),
        SeenManifest::HeadRefused => panic!("it answers HEADs"),
    }
}

/// A blob from `from` on, to its end or to where it breaks.
pub async fn fetch(upstream: &Upstream, digest: &Digest, from: u64, to: Option<u64>) -> Body {
    let fetched = upstream.blob(&repository(), digest, from, to, Memory::counted()).await;
    body(fetched.expect("an answer").expect("the blob is there")).await
}

/// What came, and how it ended.
pub struct Body {
    pub start: u64,
    pub size_bytes: Option<u64>,
    pub bytes: Vec<u8>,
    pub broken: Option<Problem>,
}

pub async fn body(mut fetched: Fetched) -> Body {
    let mut body =
        Body { start: fetched.start, size_bytes: fetched.size_bytes, bytes: Vec::new(), broken: None };
    while let Some(piece) = fetched.bytes.recv().await {
        match piece {
            Ok(piece) => body.bytes.extend_from_slice(&piece),
            Err(problem) => body.broken = Some(problem),
        }
    }
    body
}

/// Why a blob can't be had.
pub async fn refused(upstream: &Upstream, digest: &Digest, from: u64, to: Option<u64>) -> Failure {
    match upstream.blob(&repository(), digest, from, to, Memory::counted()).await {
        Err(failure) => failure,
        Ok(fetched) => panic!("an answer: {fetched:?}"),
    }
}

pub fn is_unreachable(failure: &Failure) -> bool {
    matches!(failure, Failure::Unreachable { .. })
}

pub fn misbehaved(failure: &Failure) -> bool {
    matches!(failure, Failure::Misbehaved { .. })
}

/// Of `length`, at a place that no block begins at.
pub fn blob(registry: &Registry, length: usize) -> (Digest, Vec<u8>) {
    let bytes = faults::noise(length as u64, length);
    (registry.push_blob(NAME, bytes.clone()), bytes)
}
