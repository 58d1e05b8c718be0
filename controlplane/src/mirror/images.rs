//! Images as people name them: `busybox`, `docker.io/library/busybox:1`, `ghcr.io/org/app@sha256:…`.
//!
//! Invariants: a name means here what it means in a client's request, since it is read as one.

use oci::{Endpoint, Method, Namespaces, Problem, Reference, RepositoryName};

const MALFORMED: Problem =
    Problem::RequestMalformed { why: "an image is named as in `docker.io/library/busybox:1.36`" };

/// The repository, by its name here, and what of it is meant: `latest` unless it is said.
///
/// Errors: `RequestMalformed` (400); `NameUnknown` (404): it begins with a host that no upstream has.
pub(super) fn read(text: &str, namespaces: &Namespaces) -> Result<(RepositoryName, Reference), Problem> {
    let (name, reference) = split(text);
    let name = without_own(name, namespaces);
    let (ns, path) = match name.split_once('/') {
        Some((host, path)) if is_host(host) && namespaces.of_prefix(host).is_none() => (Some(host), path),
        _ => (None, name),
    };
    // Only what belongs to a name and a reference, so that it stands for itself in a target.
    let is_plain =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-/:@".contains(&byte));
    if !(is_plain(path) && is_plain(reference) && ns.is_none_or(is_plain)) {
        return Err(MALFORMED);
    }
    let ns = ns.map(|ns| format!("?ns={ns}")).unwrap_or_default();
    let target = format!("/v2/{path}/manifests/{reference}{ns}");
    match namespaces.parse(Method::Get, target.as_bytes())?.endpoint {
        Endpoint::GetManifest { repository, reference } => Ok((repository, reference)),
        _ => Err(MALFORMED),
    }
}

fn split(text: &str) -> (&str, &str) {
    if let Some((name, digest)) = text.split_once('@') {
        // A tag beside a digest says nothing.
        return (tagged(name).map_or(name, |(name, _)| name), digest);
    }
    tagged(text).unwrap_or((text, "latest"))
}

fn tagged(text: &str) -> Option<(&str, &str)> {
    text.rsplit_once(':').filter(|(_, tag)| !tag.contains('/'))
}

/// A client that names this registry itself means what follows.
fn without_own<'t>(name: &'t str, namespaces: &Namespaces) -> &'t str {
    let is_loopback = |host: &str| {
        let host = host.rsplit_once(':').map_or(host, |(host, _port)| host);
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
    };
    match name.split_once('/') {
        Some((host, rest))
            if namespaces.of_ns(host).is_none() && (namespaces.is_own(host) || is_loopback(host)) =>
        {
            rest
        }
        _ => name,
    }
}

/// As Docker tells a host from the first part of a name.
fn is_host(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost"
}

#[cfg(test)]
mod tests {
    use oci::Namespace;

    use super::*;

    #[test]
    fn a_name_means_what_a_client_means_by_it() {
        let mut namespaces = Namespaces::default();
        for (ns, prefix, adds_library) in [("docker.io", "docker.io", true), ("ghcr.io", "ghcr", false)] {
            namespaces.add(Namespace { ns: ns.into(), prefix: prefix.into(), adds_library }).unwrap();
        }
        namespaces.add_own("registry.corp:5000");
        let digest = format!("sha256:{}", "0".repeat(64));
        let of = |text: &str| match read(text, &namespaces) {
            Ok((repository, reference)) => Ok(format!("{repository} {reference}")),
            Err(problem) => Err(problem.wire().status),
        };
        let ok = |text: &str| Ok(text.to_owned());
        for (text, expect) in [
            ("docker.io/library/busybox:1.36", ok("docker.io/library/busybox 1.36")),
            ("docker.io/busybox", ok("docker.io/library/busybox latest")),
            ("index.docker.io/busybox", ok("docker.io/library/busybox latest")),
            ("busybox", ok("busybox latest")),
            ("org/app:v1", ok("org/app v1")),
            ("ghcr.io/org/app", ok("ghcr/org/app latest")),
            ("ghcr/org/app:2", ok("ghcr/org/app 2")),
            ("registry.corp:5000/ghcr/org/app:2", ok("ghcr/org/app 2")),
            ("127.0.0.1:5000/docker.io/busybox:2", ok("docker.io/library/busybox 2")),
            ("localhost:5000/busybox:2", ok("busybox 2")),
            ("quay.io/org/app", Err(404)),
            ("quay.io:443/org/app:1", Err(404)),
            ("", Err(400)),
            (":1", Err(400)),
            ("Org/App", Err(400)),
            ("a b", Err(400)),
            ("busybox?ns=ghcr.io", Err(400)),
            ("busybox%2f", Err(400)),
        ] {
            assert_eq!(of(text), expect, "{text}");
        }
        assert_eq!(of(&format!("busybox:1@{digest}")), Ok(format!("busybox {digest}")));
        assert_eq!(of(&format!("ghcr.io/a/b@{digest}")), Ok(format!("ghcr/a/b {digest}")));
    }
}
