//! By which names an upstream's repositories are asked for here: `?ns=`, a path prefix, or both.
//!
//! Invariants: `ns` is a key into a closed table, never an address. Every way of asking for a repository of an upstream
//! gives the same [`RepositoryName`], `<prefix>/<name>`, so below the edge there is one name for it. A local
//! repository never has such a name.
//!
//! Spec: containerd's `ns` parameter, distribution-spec "Registry Proxying".

use crate::endpoint::{Endpoint, Query, Target};
use crate::method::Method;
use crate::name::RepositoryName;
use crate::problem::Problem;

/// The upstreams that this registry is a mirror of, by name.
#[derive(Clone, Debug, Default)]
pub struct Namespaces {
    known: Vec<Namespace>,
    own: Vec<Box<str>>,
}

/// One upstream, by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// What clients send as `ns`: a host, and a port if it is not the default one; in lower case.
    pub ns: Box<str>,
    /// The first component of its repositories here: a legal path component.
    pub prefix: Box<str>,
    /// Whether a repository of one component is meant to be in `library/`, as on Docker Hub.
    pub adds_library: bool,
}

/// Why a table of namespaces was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamespaceError {
    /// The prefix is not one legal path component.
    Prefix,
    /// Another one has the same `ns`.
    NsTaken,
    /// Another one has the same prefix.
    PrefixTaken,
}

/// What was asked, and by which `ns`, if by one that is known.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked<'n> {
    /// In it, repositories have their one name.
    pub endpoint: Endpoint,
    /// To be named in the answer's `OCI-Namespace`.
    pub namespace: Option<&'n Namespace>,
}

/// Where the names of a request belong.
#[derive(Clone, Copy)]
pub(crate) struct Within<'n> {
    namespaces: &'n Namespaces,
    /// What `ns` or the front of the path says.
    said: Said<'n>,
}

#[derive(Clone, Copy)]
enum Said<'n> {
    Nothing,
    Upstream(&'n Namespace),
    /// An `ns` that nobody has.
    Unknown,
}

impl Namespaces {
    /// One more upstream.
    ///
    /// Errors: see [`NamespaceError`]; nothing was added.
    pub fn add(&mut self, namespace: Namespace) -> Result<(), NamespaceError> {
        let one_component =
            !namespace.prefix.contains('/') && RepositoryName::parse(&namespace.prefix).is_ok();
        // `v2` would hide the front of every path.
        if !one_component || &*namespace.prefix == "v2" {
            return Err(NamespaceError::Prefix);
        }
        if self.of_ns(&namespace.ns).is_some() {
            return Err(NamespaceError::NsTaken);
        }
        if self.of_prefix(&namespace.prefix).is_some() {
            return Err(NamespaceError::PrefixTaken);
        }
        self.known.push(namespace);
        Ok(())
    }

    /// A name by which clients know this registry itself: with it as `ns`, repositories are local.
    pub fn add_own(&mut self, ns: &str) {
        self.own.push(ns.into());
    }

    /// Whether clients know this registry itself by that name.
    pub fn is_own(&self, ns: &str) -> bool {
        self.own.iter().any(|own| plain(own).eq_ignore_ascii_case(plain(ns)))
    }

    /// The upstreams, in the order in which they were added.
    pub fn iter(&self) -> impl Iterator<Item = &Namespace> {
        self.known.iter()
    }

    /// The upstream whose prefix this is.
    pub fn of_prefix(&self, component: &str) -> Option<&Namespace> {
        self.known.iter().find(|namespace| &*namespace.prefix == component)
    }

    /// The upstream that `repository` belongs to, and its name there. `None`: it belongs to none by its name.
    pub fn of_repository<'a>(&self, repository: &'a RepositoryName) -> Option<(&Namespace, &'a str)> {
        let (first, rest) = repository.as_str().split_once('/')?;
        Some((self.of_prefix(first)?, rest))
    }

    /// The upstream that an `ns` means: in any case, with or without the default port of HTTPS.
    pub fn of_ns(&self, ns: &str) -> Option<&Namespace> {
        let asked = plain(ns);
        self.known.iter().find(|namespace| plain(&namespace.ns).eq_ignore_ascii_case(asked))
    }

    /// Parses the raw request target, in origin-form.
    ///
    /// Errors: as [`Endpoint::parse`]; also [`Problem::NameUnknown`] (404) for a read by an `ns` that nobody has, and
    /// [`Problem::RequestMalformed`] if `ns` and path name two upstreams.
    pub fn parse(&self, method: Method, target: &[u8]) -> Result<Asked<'_>, Problem> {
        let target = Target::split(target)?;
        let (path, front) = match self.front(&target.path) {
            Some((namespace, path)) => (path, Some(namespace)),
            None => (&*target.path, None),
        };
        let by_ns = match method {
            Method::Get | Method::Head => self.by_ns(target.query)?,
            // A write goes where its path says.
            _ => Said::Nothing,
        };
        let said = match (front, by_ns) {
            (Some(front), Said::Upstream(other)) if front != other => return Err(TWO_UPSTREAMS),
            (Some(front), Said::Nothing | Said::Upstream(_)) => Said::Upstream(front),
            (_, by_ns) => by_ns,
        };
        let endpoint = Endpoint::route(method, path, target.query, Within { namespaces: self, said })?;
        let namespace = match by_ns {
            Said::Upstream(namespace) => Some(namespace),
            Said::Nothing | Said::Unknown => None,
        };
        Ok(Asked { endpoint, namespace })
    }

    /// A path of the form `/<prefix>/v2/…`, as Docker asks a mirror whose URL has a path.
    fn front<'p>(&self, path: &'p [u8]) -> Option<(&Namespace, &'p [u8])> {
        if self.known.is_empty() || path.starts_with(b"/v2") {
            return None;
        }
        let rest = path.strip_prefix(b"/")?;
        let end = rest.iter().position(|byte| *byte == b'/')?;
        let inner = &rest[end..];
        let is_base = inner == b"/v2" || inner.starts_with(b"/v2/");
        let prefix = std::str::from_utf8(&rest[..end]).ok().filter(|_| is_base)?;
        Some((self.of_prefix(prefix)?, inner))
    }

    fn by_ns(&self, query: Query<'_>) -> Result<Said<'_>, Problem> {
        let Some(ns) = query.value("ns")?.filter(|ns| !ns.is_empty()) else { return Ok(Said::Nothing) };
        Ok(match self.of_ns(&ns) {
            Some(namespace) => Said::Upstream(namespace),
            None if self.own.iter().any(|own| plain(own).eq_ignore_ascii_case(plain(&ns))) => Said::Nothing,
            None => Said::Unknown,
        })
    }
}

impl Within<'_> {
    /// Names are taken as they stand.
    pub(crate) fn nobody() -> Within<'static> {
        const NONE: &Namespaces = &Namespaces { known: Vec::new(), own: Vec::new() };
        Within { namespaces: NONE, said: Said::Nothing }
    }

    /// The one name of the repository that a path calls `name`.
    pub(crate) fn repository(self, name: &str) -> Result<RepositoryName, Problem> {
        let component = name.split_once('/').map_or(name, |(first, _)| first);
        let in_path = self.namespaces.of_prefix(component).filter(|_| component.len() < name.len());
        let (namespace, rest) = match (self.said, in_path) {
            (Said::Unknown, _) => return Err(Problem::NameUnknown(RepositoryName::parse(name)?)),
            (Said::Nothing, None) => return Ok(RepositoryName::parse(name)?),
            (Said::Upstream(said), Some(other)) if said != other => return Err(TWO_UPSTREAMS),
            (_, Some(namespace)) => (namespace, &name[component.len() + 1..]),
            (Said::Upstream(said), None) => (said, name),
        };
        let library = if namespace.adds_library && !rest.contains('/') { "library/" } else { "" };
        Ok(RepositoryName::concat([&*namespace.prefix, "/", library, rest])?)
    }
}

const TWO_UPSTREAMS: Problem = Problem::RequestMalformed { why: "ns and the path name two upstreams" };

/// Without the default port; Docker Hub by its one name.
fn plain(ns: &str) -> &str {
    const DOCKER_HUB: &str = "docker.io";
    let host = ns.strip_suffix(":443").unwrap_or(ns);
    let is_hub = ["index.docker.io", "registry-1.docker.io"].iter().any(|hub| host.eq_ignore_ascii_case(hub));
    if is_hub { DOCKER_HUB } else { host }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::{Algorithm, Digest};
    use crate::name::Reference;
    use Method::{Get, Post};

    fn namespaces() -> Namespaces {
        let mut namespaces = Namespaces::default();
        let of = |ns: &str, prefix: &str, adds_library| Namespace {
            ns: ns.into(),
            prefix: prefix.into(),
            adds_library,
        };
        namespaces.add(of("docker.io", "docker.io", true)).unwrap();
        namespaces.add(of("ghcr.io", "ghcr", false)).unwrap();
        namespaces.add(of("localhost:5001", "dev", false)).unwrap();
        namespaces.add_own("mirror.example:5000");
        namespaces
    }

    fn repository(target: &str) -> Result<String, u16> {
        match namespaces().parse(Get, target.as_bytes()) {
            Ok(asked) => Ok(asked.endpoint.repository().unwrap().to_string()),
            Err(problem) => Err(problem.wire().status),
        }
    }

    #[test]
    fn every_way_of_asking_gives_the_same_name() {
        for target in [
            "/v2/library/busybox/manifests/1?ns=docker.io",
            "/v2/busybox/manifests/1?ns=docker.io",
            "/v2/busybox/manifests/1?ns=DOCKER.io%3A443",
            "/v2/busybox/manifests/1?ns=registry-1.docker.io",
            "/v2/busybox/manifests/1?ns=index.docker.io:443",
            "/v2/docker.io/library/busybox/manifests/1",
            "/v2/docker.io/busybox/manifests/1",
            "/docker.io/v2/library/busybox/manifests/1",
            "/docker.io/v2/docker.io/library/busybox/manifests/1",
            "/docker.io/v2/busybox/manifests/1?ns=docker.io",
            "/v2/docker.io/busybox/manifests/1?ns=docker.io",
        ] {
            assert_eq!(repository(target).as_deref(), Ok("docker.io/library/busybox"), "{target}");
        }
        for (target, name) in [
            ("/v2/acme/app/manifests/1", Ok("acme/app")),
            ("/v2/acme/app/manifests/1?ns=mirror.example:5000", Ok("acme/app")),
            ("/v2/acme/app/manifests/1?ns=", Ok("acme/app")),
            ("/v2/acme/app/manifests/1?ns=ghcr.io", Ok("ghcr/acme/app")),
            ("/v2/app/manifests/1?ns=localhost:5001", Ok("dev/app")),
            ("/v2/app/manifests/1?ns=localhost", Err(404)),
            ("/v2/app/manifests/1?ns=quay.io", Err(404)),
            ("/v2/ghcr/app/manifests/1?ns=docker.io", Err(400)),
            ("/ghcr/v2/app/manifests/1?ns=docker.io", Err(400)),
            ("/ghcr/v2/docker.io/app/manifests/1", Err(400)),
            ("/v2/app/manifests/1?ns=ghcr.io&ns=docker.io", Err(400)),
            // A name of one component that is only called like a prefix.
            ("/v2/ghcr/manifests/1", Ok("ghcr")),
        ] {
            assert_eq!(repository(target), name.map(str::to_owned), "{target}");
        }
    }

    #[test]
    fn a_write_goes_where_its_path_says() {
        let namespaces = namespaces();
        let of =
            |target: &str| namespaces.parse(Post, target.as_bytes()).unwrap().endpoint.repository().copied();
        let named = |name| RepositoryName::parse(name).ok();
        assert_eq!(of("/v2/acme/app/blobs/uploads/?ns=docker.io"), named("acme/app"));
        assert_eq!(of("/v2/docker.io/app/blobs/uploads/"), named("docker.io/library/app"));
    }

    #[test]
    fn the_answer_names_the_namespace_that_was_asked_by() {
        let namespaces = namespaces();
        let ns =
            |target: &str| namespaces.parse(Get, target.as_bytes()).unwrap().namespace.map(|one| &*one.ns);
        assert_eq!(ns("/v2/app/tags/list?ns=GHCR.io"), Some("ghcr.io"));
        assert_eq!(ns("/v2/ghcr/app/tags/list"), None);
        assert_eq!(ns("/v2/"), None);
    }

    #[test]
    fn without_upstreams_it_is_the_plain_parser_but_for_ns() {
        let none = Namespaces::default();
        let digest = Digest::of(Algorithm::Sha256, b"");
        for target in
            [format!("/v2/a/b/blobs/{digest}"), "/metrics".to_owned(), "/v2".to_owned(), "/x/v2/".to_owned()]
        {
            let asked = none.parse(Get, target.as_bytes()).unwrap();
            assert_eq!(Ok(asked.endpoint), Endpoint::parse(Get, target.as_bytes()), "{target}");
        }
        let asked = none.parse(Get, b"/v2/a/manifests/1?ns=docker.io");
        assert_eq!(asked, Err(Problem::NameUnknown(RepositoryName::parse("a").unwrap())));
    }

    #[test]
    fn two_upstreams_have_two_names_and_a_legal_prefix() {
        let mut namespaces = namespaces();
        let mut add = |ns: &str, prefix: &str| {
            namespaces.add(Namespace { ns: ns.into(), prefix: prefix.into(), adds_library: false })
        };
        assert_eq!(add("Index.Docker.io", "hub"), Err(NamespaceError::NsTaken));
        assert_eq!(add("quay.io", "ghcr"), Err(NamespaceError::PrefixTaken));
        for prefix in ["", "a/b", "A", "a:5000", "v2"] {
            assert_eq!(add("quay.io", prefix), Err(NamespaceError::Prefix), "{prefix}");
        }
        assert_eq!(add("quay.io", "quay.io"), Ok(()));
    }

    #[test]
    fn a_name_that_gets_too_long_is_none() {
        let long = "a".repeat(250);
        assert_eq!(repository(&format!("/v2/{long}/manifests/1")).map(|name| name.len()), Ok(250));
        assert_eq!(repository(&format!("/v2/{long}/manifests/1?ns=ghcr.io")), Ok(format!("ghcr/{long}")));
        assert_eq!(repository(&format!("/v2/{long}/manifests/1?ns=docker.io")), Err(400));
    }

    #[test]
    fn a_reference_is_not_touched() {
        let namespaces = namespaces();
        let asked = namespaces.parse(Get, b"/v2/docker.io/app/manifests/docker.io").unwrap();
        let Endpoint::GetManifest { reference, .. } = asked.endpoint else { panic!("{asked:?}") };
        assert_eq!(reference, Reference::parse("docker.io").unwrap());
    }
}
