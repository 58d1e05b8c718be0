//! Where an upstream redirects to.

use controlplane::upstream::testing::location as read;

const BASES: [&str; 3] =
    ["https://a.example/v2/x/blobs/y?z=1", "http://127.0.0.1:5000/", "https://[::1]:8443/a?b"];

/// The input is the value of a `Location`.
pub fn location(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for base in BASES {
        let Some(url) = read(base, &text) else { continue };
        assert_plain_url(&url);
        // What it means does not depend on where it is read again.
        for base in BASES {
            assert_eq!(read(base, &url).as_ref(), Some(&url), "{text}");
        }
        let is_relative = text.starts_with('/') && !text.starts_with("//");
        let (authority, _) = split(base);
        assert!(!is_relative || url.starts_with(authority), "{text} leads elsewhere: {url}");
    }
}

/// Scheme, host and port, without a name or a password; and the rest without a fragment.
pub(super) fn assert_plain_url(url: &str) {
    let (authority, path) = split(url);
    let host = authority.strip_prefix("https://").or_else(|| authority.strip_prefix("http://"));
    let host = host.unwrap_or_else(|| panic!("another scheme: {url}"));
    assert!(!host.is_empty() && !host.contains(['@', ' ', '\\', '#', '?']), "{url}");
    assert_eq!(host, host.to_ascii_lowercase());
    assert!(path.starts_with('/') && !path.contains(['#', ' ', '\r', '\n']), "{url}");
}

fn split(url: &str) -> (&str, &str) {
    let from = url.find("://").map_or(0, |at| at + 3);
    let end = url[from..].find(['/', '?']).map_or(url.len(), |at| from + at);
    url.split_at(end)
}
