//! The registries that everybody knows: which other hosts hand out their tokens and their bytes.
//!
//! Invariants: a host is on a list because its registry sends clients there, and gets our credentials for that alone.
//! A realm is one host: a pattern would let whoever rents a name below it ask for the credentials of another. Where
//! registries hand out their tokens themselves there is nothing to list. All of them speak HTTPS on its default port.

use super::url::Authority;

/// One registry, or a family of them. `*.` stands for one or more labels.
struct Known {
    hosts: &'static [&'static str],
    /// Beside its own host.
    realms: &'static [&'static str],
    content: &'static [&'static str],
}

const KNOWN: [Known; 14] = [
    // Docker Hub.
    Known {
        hosts: &["registry-1.docker.io", "index.docker.io", "docker.io"],
        realms: &["auth.docker.io"],
        content: &[
            "production.cloudflare.docker.com",
            "production.cloudfront.docker.com",
            "*.r2.cloudflarestorage.com",
        ],
    },
    Known { hosts: &["ghcr.io"], realms: &[], content: &["pkg-containers.githubusercontent.com"] },
    Known {
        hosts: &["quay.io"],
        realms: &[],
        content: &["*.quay.io", "quayio-production-s3.s3.amazonaws.com"],
    },
    // Google, and the registry of Kubernetes, which lives there and on S3.
    Known { hosts: &["gcr.io", "*.gcr.io"], realms: &[], content: &["storage.googleapis.com", "*.pkg.dev"] },
    Known { hosts: &["*.pkg.dev"], realms: &[], content: &["storage.googleapis.com", "*.pkg.dev"] },
    Known {
        hosts: &["registry.k8s.io"],
        realms: &[],
        content: &["*.pkg.dev", "storage.googleapis.com", "*.amazonaws.com"],
    },
    // Microsoft: the public registry, and those of its customers.
    Known { hosts: &["mcr.microsoft.com"], realms: &[], content: &["*.data.mcr.microsoft.com"] },
    Known { hosts: &["*.azurecr.io"], realms: &[], content: &["*.azurecr.io", "*.blob.core.windows.net"] },
    Known { hosts: &["public.ecr.aws"], realms: &[], content: &["*.cloudfront.net"] },
    Known { hosts: &["*.amazonaws.com"], realms: &[], content: &["*.amazonaws.com"] },
    Known {
        hosts: &["registry.gitlab.com"],
        realms: &["gitlab.com"],
        content: &["cdn.registry.gitlab-static.net", "storage.googleapis.com"],
    },
    // Red Hat.
    Known {
        hosts: &["registry.redhat.io", "registry.access.redhat.com", "registry.connect.redhat.com"],
        realms: &["registry.redhat.io", "sso.redhat.com"],
        content: &["*.redhat.io", "*.redhat.com", "*.quay.io", "*.cloudfront.net"],
    },
    // NVIDIA.
    Known { hosts: &["nvcr.io"], realms: &["authn.nvidia.com"], content: &["*.nvidia.com", "*.nvcr.io"] },
    // Chainguard.
    Known { hosts: &["cgr.dev"], realms: &[], content: &["*.cgr.dev", "*.r2.cloudflarestorage.com"] },
];

/// A host that an operator names: `host`, `host:port`, or `*.domain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct HostPattern {
    host: Box<str>,
    /// `None`: the default one of the scheme.
    port: Option<u16>,
}

impl HostPattern {
    /// `None`: not one.
    pub(super) fn parse(text: &str) -> Option<HostPattern> {
        // A colon more is an IPv6 address, which stands in brackets where it has a port.
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                (host, Some(port.parse().ok()?))
            }
            _ => (text, None),
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let bare = host.strip_prefix("*.").unwrap_or(&host);
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
        (!bare.is_empty() && bare.bytes().all(legal)).then(|| HostPattern { host: host.clone().into(), port })
    }

    pub(super) fn matches(&self, authority: &Authority) -> bool {
        let port = self.port.unwrap_or(if authority.https { 443 } else { 80 });
        port == authority.port && is_like(&authority.host, &self.host)
    }
}

/// Whether `realm` may be given the credentials for `own`.
pub(super) fn may_hand_out_tokens(own: &Authority, realm: &Authority, named: &[HostPattern]) -> bool {
    if realm == own {
        return true;
    }
    if own.https && !realm.https {
        return false;
    }
    named.iter().any(|pattern| pattern.matches(realm)) || is_known(own, realm, |known| known.realms)
}

/// Whether a proxy may be asked for `host` on behalf of `own`.
pub(super) fn may_be_proxied(
    own: &Authority,
    host: &Authority,
    realms: &[HostPattern],
    named: &[HostPattern],
) -> bool {
    may_hand_out_tokens(own, host, realms)
        || named.iter().any(|pattern| pattern.matches(host))
        || is_known(own, host, |known| known.content)
}

/// Docker Hub answers what is left of the budget to a HEAD of this image.
pub(super) fn budget_image(own: &Authority) -> Option<(&'static str, &'static str)> {
    (&*own.host == "registry-1.docker.io").then_some(("ratelimitpreview/test", "latest"))
}

fn is_known(own: &Authority, other: &Authority, list: fn(&Known) -> &'static [&'static str]) -> bool {
    let default = |authority: &Authority| authority.https && authority.port == 443;
    default(own)
        && default(other)
        && KNOWN
            .iter()
            .filter(|known| known.hosts.iter().any(|host| is_like(&own.host, host)))
            .any(|known| list(known).iter().any(|host| is_like(&other.host, host)))
}

fn is_like(host: &str, pattern: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(domain) => host.len() > domain.len() && host.ends_with(domain),
        None => host == pattern,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::url::Url;

    fn authority(url: &str) -> Authority {
        Url::parse(url).unwrap().authority
    }

    #[test]
    fn credentials_go_where_they_are_known_to_belong() {
        let named =
            [HostPattern::parse("auth.example:5001").unwrap(), HostPattern::parse("sso.example").unwrap()];
        for (own, realm, may) in [
            ("https://registry-1.docker.io", "https://auth.docker.io/token", true),
            ("https://registry-1.docker.io", "http://auth.docker.io/token", false),
            ("https://registry-1.docker.io", "https://auth.docker.io:444/token", false),
            ("https://registry-1.docker.io", "https://auth.docker.io.evil/token", false),
            ("https://registry-1.docker.io", "https://evilauth.docker.io/token", false),
            ("https://registry-1.docker.io", "https://registry-1.docker.io/token", true),
            ("https://europe-docker.pkg.dev", "https://europe-docker.pkg.dev/v2/token", true),
            ("https://registry.gitlab.com", "https://gitlab.com/jwt/auth", true),
            ("https://mine.example", "https://auth.docker.io/token", false),
            ("https://mine.example", "https://mine.example/token", true),
            ("https://mine.example", "https://mine.example:5001/token", false),
            ("https://mine.example", "http://mine.example/token", false),
            ("https://mine.example", "https://auth.example:5001/token", true),
            ("https://mine.example", "https://auth.example/token", false),
            ("https://mine.example", "http://auth.example:5001/token", false),
            ("http://mine.example", "http://auth.example:5001/token", true),
            ("https://mine.example", "https://sso.example/token", true),
            ("https://a.azurecr.io", "https://a.azurecr.io/oauth2/token", true),
            ("https://a.azurecr.io", "https://evilazurecr.io/token", false),
            // Whoever rents a registry there may have rented this one.
            ("https://a.azurecr.io", "https://b.azurecr.io/oauth2/token", false),
            ("https://eu.gcr.io", "https://eu.gcr.io/v2/token", true),
            ("https://eu.gcr.io", "https://another.gcr.io/v2/token", false),
            ("https://europe-docker.pkg.dev", "https://us-docker.pkg.dev/v2/token", false),
            ("https://registry.k8s.io", "https://us-docker.pkg.dev/v2/token", false),
            (
                "https://1.dkr.ecr.eu-west-1.amazonaws.com",
                "https://2.dkr.ecr.eu-west-1.amazonaws.com/",
                false,
            ),
            ("https://public.ecr.aws", "https://public.ecr.aws/token/", true),
            ("https://registry.connect.redhat.com", "https://sso.redhat.com/auth/realms/rhc4tp", true),
            ("https://registry.access.redhat.com", "https://evil.redhat.com/auth", false),
            ("https://nvcr.io", "https://nvcr.io/proxy_auth", true),
            ("https://nvcr.io", "https://authn.nvidia.com/token", true),
        ] {
            assert_eq!(may_hand_out_tokens(&authority(own), &authority(realm), &named), may, "{own} {realm}");
        }
    }

    #[test]
    fn a_realm_that_is_built_in_is_one_host() {
        for realm in KNOWN.iter().flat_map(|known| known.realms) {
            assert!(!realm.contains('*'), "{realm}");
        }
    }

    #[test]
    fn a_proxy_is_asked_for_what_belongs_to_the_upstream() {
        let own = authority("https://ghcr.io");
        let named = [HostPattern::parse("*.cdn.example").unwrap()];
        for (host, may) in [
            ("https://ghcr.io", true),
            ("https://pkg-containers.githubusercontent.com", true),
            ("https://a.b.cdn.example", true),
            ("https://cdn.example", false),
            ("https://169.254.169.254", false),
            ("http://ghcr.io", false),
        ] {
            assert_eq!(may_be_proxied(&own, &authority(host), &[], &named), may, "{host}");
        }
    }

    #[test]
    fn hosts_are_written_so() {
        for wrong in ["", "*.", "a b", "https://a", "a:port", "a/b"] {
            assert_eq!(HostPattern::parse(wrong), None, "{wrong}");
        }
        let ipv6 = HostPattern::parse("[::1]:5000").unwrap();
        assert!(ipv6.matches(&authority("https://[::1]:5000")));
        assert!(HostPattern::parse("::1").unwrap().matches(&authority("https://[::1]")));
    }
}
