//! Where a request goes: the part of RFC 3986 that a registry client needs.
//!
//! Invariants: an [`Authority`] names its port and is in lower case, so that two that are equal are one place. A URL
//! carries no user, no password and no fragment.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

use http::Uri;

use crate::limits;

/// Scheme, host and port: whom credentials are for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Authority {
    pub(super) https: bool,
    /// In lower case; an IPv6 address without brackets.
    pub(super) host: Box<str>,
    pub(super) port: u16,
}

/// An absolute `http` or `https` URL.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Url {
    pub(super) authority: Authority,
    /// Begins with `/`.
    pub(super) path_and_query: String,
}

impl Authority {
    /// `None`: no host, or a port that is none.
    pub(super) fn of(uri: &Uri) -> Option<Authority> {
        let https = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority = uri.authority()?;
        // What follows the host can only be a port, and a port that is none is no default one.
        let has_more = authority.as_str().len() > authority.host().len();
        if authority.as_str().contains('@') || has_more && authority.port_u16().is_none() {
            return None;
        }
        let host = authority.host().to_ascii_lowercase();
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(address) => address.parse::<Ipv6Addr>().ok().map(|_address| address.to_owned())?,
            None => Some(host).filter(|host| !host.contains(['[', ']']))?,
        };
        let port = authority.port_u16().unwrap_or(if https { 443 } else { 80 });
        (!host.is_empty() && port > 0).then(|| Authority { https, host: host.into(), port })
    }

    fn has_default_port(&self) -> bool {
        self.port == if self.https { 443 } else { 80 }
    }

    /// The host, if it is an address.
    pub(super) fn ip(&self) -> Option<IpAddr> {
        self.host.parse().ok()
    }
}

/// `host[:port]`, as in a `Host` header.
impl fmt::Display for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]", self.host)?;
        } else {
            f.write_str(&self.host)?;
        }
        if self.has_default_port() { Ok(()) } else { write!(f, ":{}", self.port) }
    }
}

impl Url {
    /// `None`: not an absolute URL of one of the two schemes, or too long.
    pub(super) fn parse(text: &str) -> Option<Url> {
        if text.len() > limits::URL_BYTES {
            return None;
        }
        let text = text.split('#').next().unwrap_or_default();
        let uri: Uri = text.parse().ok()?;
        let authority = Authority::of(&uri)?;
        let path_and_query = uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string);
        Some(Url { authority, path_and_query })
    }

    /// The same place, another path.
    pub(super) fn with(&self, path_and_query: impl Into<String>) -> Url {
        Url { authority: self.authority.clone(), path_and_query: path_and_query.into() }
    }

    /// What a `Location` means that was found here. `None`: nothing that may be asked.
    pub(super) fn join(&self, location: &str) -> Option<Url> {
        let scheme = if self.authority.https { "https" } else { "http" };
        let base = format!("{scheme}://{}", self.authority);
        let path = self.path();
        if location.starts_with("//") {
            Url::parse(&format!("{scheme}:{location}"))
        } else if location.starts_with('/') {
            Url::parse(&format!("{base}{location}"))
        } else if location.starts_with('?') {
            Url::parse(&format!("{base}{path}{location}"))
        } else if has_scheme(location) {
            Url::parse(location)
        } else {
            let folder = path.rfind('/').map_or("/", |slash| &path[..=slash]);
            Url::parse(&format!("{base}{folder}{location}"))
        }
    }

    fn path(&self) -> &str {
        self.path_and_query.split('?').next().unwrap_or_default()
    }

    /// For a request. `None`: the path has what none may have.
    pub(super) fn uri(&self) -> Option<Uri> {
        let scheme = if self.authority.https { "https" } else { "http" };
        Uri::builder()
            .scheme(scheme)
            .authority(self.authority.to_string())
            .path_and_query(self.path_and_query.as_str())
            .build()
            .ok()
    }
}

fn has_scheme(text: &str) -> bool {
    let end = text.find([':', '/', '?']).unwrap_or(text.len());
    text[end..].starts_with(':')
}

/// `text` as a value in a query.
pub(super) fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(url: &Url) -> String {
        format!(
            "{}://{}{}",
            if url.authority.https { "https" } else { "http" },
            url.authority,
            url.path_and_query
        )
    }

    #[test]
    fn urls_are_brought_to_one_form() {
        for (given, expect) in [
            ("https://Registry-1.Docker.io", Some("https://registry-1.docker.io/")),
            ("https://a:443/x?y=z#part", Some("https://a/x?y=z")),
            ("http://a:80/", Some("http://a/")),
            ("http://a:443/", Some("http://a:443/")),
            ("https://[::1]:5000/v2/", Some("https://[::1]:5000/v2/")),
            ("https://a?b=c", Some("https://a/?b=c")),
            ("http://a[::1]:5000/", None),
            ("http://[::1]]:5000/", None),
            ("http://[a]:5000/", None),
            ("https://user:word@a/", None),
            ("https://user@a/", None),
            ("ftp://a/", None),
            ("file:///etc/passwd", None),
            ("a/b", None),
            ("/a", None),
            ("https://", None),
            ("https://a:/", None),
            ("https://a:0/", None),
            ("https://a:70000/", None),
            ("https://a b/", None),
            ("", None),
        ] {
            assert_eq!(Url::parse(given).as_ref().map(text).as_deref(), expect, "{given}");
        }
        let too_long = format!("https://a/{}", "b".repeat(limits::URL_BYTES));
        assert_eq!(Url::parse(&too_long), None);
        assert!(Url::parse(&too_long[..limits::URL_BYTES]).is_some());
    }

    #[test]
    fn a_location_is_read_where_it_was_found() {
        let here = Url::parse("https://a:5000/v2/x/blobs/y?z=1").unwrap();
        for (location, expect) in [
            ("https://b/c?d=e", Some("https://b/c?d=e")),
            ("HTTP://b/c", Some("http://b/c")),
            ("//b/c", Some("https://b/c")),
            ("/c", Some("https://a:5000/c")),
            ("?q", Some("https://a:5000/v2/x/blobs/y?q")),
            ("c:d/e", None),
            ("c/d", Some("https://a:5000/v2/x/blobs/c/d")),
            ("javascript:alert(1)", None),
            ("https://user:word@b/", None),
            ("", Some("https://a:5000/v2/x/blobs/")),
        ] {
            assert_eq!(here.join(location).as_ref().map(text).as_deref(), expect, "{location}");
        }
        assert_eq!(here.with("/v2/").uri().unwrap().to_string(), "https://a:5000/v2/");
    }

    #[test]
    fn a_query_is_escaped() {
        assert_eq!(percent_encoded("repository:a/b:pull&x"), "repository%3Aa%2Fb%3Apull%26x");
    }
}
