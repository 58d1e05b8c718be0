//! A control plane that is a mirror of registries in this process.

use std::sync::Arc;
use std::time::Duration;

use control::{Came, Description, Document, Fetched, Link, Memory, Origin};
use controlplane::upstream::{AllowPrivate, Policy, UpstreamSettings};
use controlplane::{Glob, MirrorSettings, OpenError};
use oci::{Asked, Digest, Endpoint, Method, Namespace, Namespaces, Problem};

use super::registry::Registry;
use crate::harness::{Answered, Directory, NOBODY, Plane, name, refer};

/// Answers are never fresh: each is compared.
pub fn always_look() -> Policy {
    let none = Duration::ZERO;
    Policy { tag_ttl: none, stale_while: none, stale_max: Duration::from_secs(3600), ..Policy::default() }
}

/// Settings of an upstream with short timeouts and no breaker.
pub fn upstream(ns: &str, registry: &Registry, policy: Policy) -> UpstreamSettings {
    let patient = patient(ns, &registry.url, policy);
    UpstreamSettings { timeouts: patient.timeouts.divided_by(50), ..patient }
}

/// The same of any registry, with the timeouts that an operator has: for what does not wait for their end.
pub fn patient(ns: &str, url: &str, policy: Policy) -> UpstreamSettings {
    UpstreamSettings {
        allow_private_addresses: AllowPrivate::All,
        breaker_failures: u32::MAX,
        policy,
        ..UpstreamSettings::new(ns, url)
    }
}

/// A mirror of these; the first is the root mirror, and Docker Hub adds `library/`.
pub fn mirror_of(upstreams: Vec<UpstreamSettings>) -> MirrorSettings {
    let mut namespaces = Namespaces::default();
    let mut upstreams = upstreams;
    for (number, upstream) in upstreams.iter_mut().enumerate() {
        upstream.is_root = number == 0;
        namespaces
            .add(Namespace {
                ns: upstream.ns.as_str().into(),
                prefix: upstream.prefix.as_str().into(),
                adds_library: upstream.ns == "docker.io",
            })
            .unwrap();
    }
    MirrorSettings { upstreams, namespaces: Arc::new(namespaces), ..MirrorSettings::default() }
}

/// A control plane with its directory.
pub struct Rig {
    pub directory: Directory,
    pub plane: Plane,
    pub settings: MirrorSettings,
}

impl Rig {
    pub fn try_new(directory: Directory, settings: MirrorSettings) -> Result<Rig, OpenError> {
        let plane = Plane::open_mirror(&directory, settings.clone())?;
        Ok(Rig { directory, plane, settings })
    }

    pub fn new(settings: MirrorSettings) -> Rig {
        Rig::try_new(Directory::new(), settings).unwrap()
    }

    /// Docker Hub, as root mirror, from this registry.
    pub fn hub(registry: &Registry, policy: Policy) -> Rig {
        Rig::new(mirror_of(vec![upstream("docker.io", registry, policy)]))
    }

    pub fn local_only(registry: &Registry, glob: &str) -> Rig {
        let settings = mirror_of(vec![upstream("docker.io", registry, Policy::default())]);
        Rig::new(MirrorSettings { local_only: vec![Glob::parse(glob).unwrap()], ..settings })
    }

    /// The same directory, opened by a new control plane with other settings.
    pub async fn restart_with(self, settings: MirrorSettings) -> Rig {
        let Rig { directory, plane, .. } = self;
        plane.close().await;
        Rig::try_new(directory, settings).unwrap()
    }

    pub async fn restart(self) -> Rig {
        let settings = self.settings.clone();
        self.restart_with(settings).await
    }

    pub async fn manifest(&self, repository: &str, reference: &str) -> Result<Option<Document>, Problem> {
        self.plane.control.manifest(name(repository), refer(reference), NOBODY).await
    }

    /// A manifest that has to be there: its digest, and where it came from.
    pub async fn pull(&self, repository: &str, reference: &str) -> (Digest, Came) {
        let document = self.manifest(repository, reference).await.unwrap().unwrap();
        assert_eq!(Digest::of(document.digest.algorithm(), &document.bytes), document.digest);
        (document.digest, document.came)
    }

    pub async fn describe(&self, repository: &str, reference: &str) -> Result<Option<Description>, Problem> {
        self.plane.control.describe(name(repository), refer(reference), NOBODY).await
    }

    pub async fn link(&self, repository: &str, digest: Digest) -> Result<Option<Link>, Problem> {
        self.plane.control.link(name(repository), digest, NOBODY).await
    }

    /// The size that the link to a blob of an upstream tells.
    pub async fn size(&self, repository: &str, digest: Digest) -> Option<u64> {
        match self.link(repository, digest).await.unwrap() {
            Some(Link::Upstream { size_bytes, .. }) => size_bytes,
            other => panic!("{digest} in {repository} is {other:?}"),
        }
    }

    pub async fn measure(&self, there: &str, digest: Digest) -> Result<Option<Link>, Problem> {
        let origin = Origin { upstream: 0, repository: name(there) };
        self.plane.control.measure(origin, digest).await
    }

    pub async fn fetch(
        &self,
        there: &str,
        digest: Digest,
        span: (u64, Option<u64>),
    ) -> Result<Option<Fetched>, Problem> {
        let origin = Origin { upstream: 0, repository: name(there) };
        self.plane.control.fetch(origin, digest, span, Memory::counted()).await
    }

    /// A list, asked for as a core does: the names as they were parsed, the target as it came.
    pub async fn list(&self, target: &str) -> Result<Answered, Problem> {
        let Asked { endpoint, .. } = self.settings.namespaces.parse(Method::Get, target.as_bytes())?;
        assert!(matches!(endpoint, Endpoint::Tags { .. } | Endpoint::Referrers(_) | Endpoint::Catalog(_)));
        self.plane.forward_as(endpoint, Method::Get, target).await
    }
}

/// The status that a client would see.
pub fn status<T: std::fmt::Debug>(answer: Result<T, Problem>) -> u16 {
    answer.unwrap_err().wire().status
}

/// A test that waits for something polls it.
pub async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    for _ in 0..3_000 {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}
