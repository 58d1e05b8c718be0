//! The values that only an `[[upstream]]` has, and the names that go with them.

use std::time::Duration;

use controlplane::{
    Glob,
    upstream::{Network, Offline},
};
use oci::{Platform, RepositoryName};

use crate::config::value::{Bytes, Item, Value, Written, number, quoted, words};

/// A text that has been looked at, by its own name.
macro_rules! text {
    ($(#[$doc:meta])* $name:ident, $expected:literal, $read:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct $name(pub String);

        impl Value for $name {
            const EXPECTED: &'static str = $expected;

            fn read(written: &Written) -> Option<Self> {
                let read: fn(&str) -> Option<String> = $read;
                match written {
                    Written::Text(text) => read(text).map($name),
                    _ => None,
                }
            }

            fn literal(&self) -> String {
                quoted(&self.0)
            }
        }
    };
    ($(#[$doc:meta])* $name:ident, $expected:literal, list $list:literal, $read:expr) => {
        text!($(#[$doc])* $name, $expected, $read);

        impl Item for $name {
            const EXPECTED_LIST: &'static str = $list;
        }
    };
}

text!(
    /// A name of a registry, as it stands before the first slash of an image's name. In lower case.
    Ns,
    "a registry's host, and its port if it is not 443, such as \"docker.io\" or \"registry.corp:5000\"",
    list "a list of hosts such as [\"registry.corp:5000\"]",
    |text| is_host_and_port(text).then(|| text.to_ascii_lowercase())
);

text!(
    /// A host, and a port if it is not the usual one.
    Host,
    "a host such as \"auth.example.com\" or \"auth.example.com:8443\"",
    list "a list of hosts such as [\"auth.example.com\"]",
    |text| is_host_and_port(text).then(|| text.to_ascii_lowercase())
);

text!(
    /// A host, or all hosts of a domain.
    HostPattern,
    "a host such as \"cdn.example.com\", or \"*.example.com\"",
    list "a list of hosts such as [\"cdn.example.com\", \"*.example.com\"]",
    |text| is_host_and_port(text.strip_prefix("*.").unwrap_or(text)).then(|| text.to_ascii_lowercase())
);

text!(
    /// First component of an upstream's repositories here.
    Prefix,
    "one component of a repository's name (lower-case letters and digits, with `.`, `_` or `-` between \
     them), but not \"v2\"",
    |text| is_prefix(text).then(|| text.to_owned())
);

text!(
    /// A platform of an image; [`Platform::parse`] takes it.
    PlatformName,
    "a platform such as \"linux/amd64\" or \"linux/arm/v7\"",
    list "a list of platforms such as [\"linux/amd64\", \"linux/arm64\"]",
    |text| Platform::parse(text).map(|_platform| text.to_owned())
);

text!(
    /// A network; [`Network::parse`] takes it.
    Cidr,
    "a network such as \"10.0.0.0/8\" or \"fd00::/8\"",
    list "true, false, or a list of networks such as [\"10.0.0.0/8\"]",
    |text| Network::parse(text).map(|_network| text.to_owned())
);

impl Value for Glob {
    const EXPECTED: &'static str = "a pattern of names such as \"acme/*\", without a host, of at most 255 letters, digits, `.`, `_`, `-`, `/` and `*`";

    fn read(written: &Written) -> Option<Self> {
        match written {
            Written::Text(text) => Glob::parse(text).ok(),
            _ => None,
        }
    }

    fn literal(&self) -> String {
        quoted(self.as_str())
    }
}

impl Item for Glob {
    const EXPECTED_LIST: &'static str = "a list of patterns such as [\"acme/*\"]";
}

/// Whether this is a `prefix`.
pub fn is_prefix(text: &str) -> bool {
    !text.contains('/') && text != "v2" && RepositoryName::parse(text).is_ok()
}

/// `host`, `host:port` or an IPv6 address in brackets.
fn is_host_and_port(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let port_is_one = port.is_none_or(|port| {
        port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    let label = |label: &str| {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        !label.is_empty() && label.bytes().all(legal)
    };
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let host_is_one = match address {
        Some(address) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.len() <= 253 && host.split('.').all(label),
    };
    port_is_one && host_is_one
}

/// Where an upstream is: scheme, host, port, and a path that comes before `/v2/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Url(pub String);

impl Url {
    /// Whether it is asked without TLS.
    pub fn is_plain(&self) -> bool {
        self.0.starts_with("http://")
    }
}

impl Value for Url {
    const EXPECTED: &'static str =
        "an address such as \"https://registry-1.docker.io\", without a name, a password or a query";

    fn read(written: &Written) -> Option<Self> {
        let Written::Text(text) = written else { return None };
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"))?;
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let legal = |byte: u8| byte.is_ascii_graphic() && !b"?#@\\\"<>{}|^`".contains(&byte);
        let one = is_host_and_port(host) && path.bytes().all(legal);
        one.then(|| Url(text.trim_end_matches('/').to_owned()))
    }

    fn literal(&self) -> String {
        quoted(&self.0)
    }
}

/// A proxy that takes CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyUrl(pub String);

impl Value for ProxyUrl {
    const EXPECTED: &'static str = "\"http://host:port\" or \"https://host:port\"; a proxy that wants a name and a \
                                    password is { url = …, username = …, password_file = … }";

    fn read(written: &Written) -> Option<Self> {
        let url = Url::read(written)?;
        let (_, rest) = url.0.split_once("://")?;
        (!rest.contains('/')).then_some(ProxyUrl(url.0))
    }

    fn literal(&self) -> String {
        quoted(&self.0)
    }
}

/// A time that may be none at all, up to 365 days.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrZero(pub Duration);

impl Value for OrZero {
    const EXPECTED: &'static str = "a duration up to 365d, such as \"10m\" or \"24h\", or \"0s\"";

    fn read(written: &Written) -> Option<Self> {
        match written {
            Written::Text(text) if text == "0s" => Some(OrZero(Duration::ZERO)),
            _ => Duration::read(written).map(OrZero),
        }
    }

    fn literal(&self) -> String {
        if self.0.is_zero() { quoted("0s") } else { self.0.literal() }
    }
}

/// Bytes a second, ≥ 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(pub u64);

impl Value for Rate {
    const EXPECTED: &'static str = "bytes a second, such as \"100MB/s\" or \"10MiB/s\"";

    fn read(written: &Written) -> Option<Self> {
        let Written::Text(text) = written else { return None };
        let bytes = Bytes::read(&Written::Text(text.strip_suffix("/s")?.to_owned()))?;
        (bytes.0 > 0).then_some(Rate(bytes.0))
    }

    fn literal(&self) -> String {
        const MB: u64 = 1_000_000;
        if self.0.is_multiple_of(MB) {
            return quoted(&format!("{}MB/s", self.0 / MB));
        }
        quoted(&format!("{}/s", Bytes(self.0).literal().trim_matches('"')))
    }
}

/// Requests at the same time, 2 to 1000.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connections(pub usize);

impl Value for Connections {
    const EXPECTED: &'static str = "a whole number from 2 to 1000";

    fn read(written: &Written) -> Option<Self> {
        let connections = usize::try_from(number(written)?).ok()?;
        (2..=1000).contains(&connections).then_some(Connections(connections))
    }

    fn literal(&self) -> String {
        self.0.to_string()
    }
}

/// Whether private addresses may be connected to, all or none of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Private(pub bool);

impl Value for Private {
    const EXPECTED: &'static str = Cidr::EXPECTED_LIST;

    fn read(written: &Written) -> Option<Self> {
        match written {
            Written::Switch(on) => Some(Private(*on)),
            _ => None,
        }
    }

    fn literal(&self) -> String {
        self.0.to_string()
    }
}

impl Value for Offline {
    const EXPECTED: &'static str = "true, false or \"auto\"";

    fn read(written: &Written) -> Option<Self> {
        match written {
            Written::Switch(true) => Some(Offline::Always),
            Written::Switch(false) => Some(Offline::Never),
            Written::Text(text) if text == "auto" => Some(Offline::Auto),
            _ => None,
        }
    }

    fn literal(&self) -> String {
        match self {
            Offline::Always => true.to_string(),
            Offline::Never => false.to_string(),
            Offline::Auto => quoted("auto"),
        }
    }
}

/// What an upstream is a mirror of beside what has its prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Names without a prefix and without `ns`.
    Root,
}

words!(Role, "\"root\", or no such key", "root" => Role::Root);

/// When what was begun is fetched to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    /// Always.
    Always,
    /// If enough of it is here.
    IfTouchedOver,
    /// Never.
    Never,
}

words!(Completion, "\"always\", \"if_touched_over\" or \"never\"",
    "always" => Completion::Always,
    "if_touched_over" => Completion::IfTouchedOver,
    "never" => Completion::Never);

/// A password or a token, where it stands in the file itself.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretText(pub String);

/// How a secret is printed. It is never one.
pub const HIDDEN: &str = "***";

impl Value for SecretText {
    const EXPECTED: &'static str = "a text that is not empty; *** is only how one is printed";

    fn read(written: &Written) -> Option<Self> {
        match written {
            Written::Text(text) if !text.is_empty() && text != HIDDEN => Some(SecretText(text.clone())),
            _ => None,
        }
    }

    fn literal(&self) -> String {
        quoted(HIDDEN)
    }

    fn found(written: &Written) -> String {
        match written {
            Written::Text(text) if text.is_empty() || text == HIDDEN => written.found(),
            _ => "what is not shown".to_owned(),
        }
    }
}

/// A name that goes with a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Username(pub String);

impl Value for Username {
    const EXPECTED: &'static str = "a name without a colon";

    fn read(written: &Written) -> Option<Self> {
        match written {
            Written::Text(text) if !text.is_empty() && !text.contains([':', '\n', '\r', '\0']) => {
                Some(Username(text.clone()))
            }
            _ => None,
        }
    }

    fn literal(&self) -> String {
        quoted(&self.0)
    }

    /// Somebody may have written the password behind it.
    fn found(written: &Written) -> String {
        match written {
            Written::Text(text) if text.contains(':') => "a name and more".to_owned(),
            _ => written.found(),
        }
    }
}

/// A program and its arguments, at least the program. As one text it is cut at its spaces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argv(pub Vec<String>);

impl Value for Argv {
    const EXPECTED: &'static str = "a program and its arguments, as [\"/usr/bin/program\", \"argument\"]";

    fn read(written: &Written) -> Option<Self> {
        let argv: Vec<String> = match written {
            Written::Text(text) => text.split_whitespace().map(str::to_owned).collect(),
            Written::List { items, .. } => {
                let argument = |(_, item): &(_, Written)| match item {
                    Written::Text(text) if !text.contains('\0') => Some(text.clone()),
                    _ => None,
                };
                items.iter().map(argument).collect::<Option<_>>()?
            }
            _ => return None,
        };
        argv.first().is_some_and(|program| !program.is_empty()).then_some(Argv(argv))
    }

    fn literal(&self) -> String {
        let argv: Vec<String> = self.0.iter().map(|argument| quoted(argument)).collect();
        format!("[{}]", argv.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reads<T: Value>(text: &str) -> bool {
        T::read(&Written::Text(text.to_owned())).is_some()
    }

    #[test]
    fn hosts_and_addresses() {
        for host in ["docker.io", "registry.corp:5000", "localhost", "10.0.0.1:80", "[::1]:5000", "[fd00::1]"]
        {
            assert!(reads::<Ns>(host) && reads::<Host>(host), "{host}");
            assert!(reads::<Url>(&format!("https://{host}/a/b")), "{host}");
            assert!(reads::<ProxyUrl>(&format!("http://{host}/")), "{host}");
        }
        for wrong in [
            "",
            "https://docker.io",
            "a b",
            "a:",
            "a:0",
            "a:65536",
            "a:+1",
            "a..b",
            ":5",
            "[::1",
            "u@h",
            "h/p",
        ] {
            assert!(!reads::<Ns>(wrong), "{wrong}");
        }
        for wrong in [
            "docker.io",
            "ftp://a",
            "https://",
            "https://u:p@h",
            "https://h?q",
            "https://h/p#f",
            "https://h/ ",
        ] {
            assert!(!reads::<Url>(wrong), "{wrong}");
        }
        assert!(!reads::<ProxyUrl>("http://h/path") && !reads::<ProxyUrl>("socks5://h:1"));
        assert!(reads::<HostPattern>("*.example.com:8443") && !reads::<HostPattern>("*"));
        assert_eq!(Ns::read(&Written::Text("GHCR.io".to_owned())), Some(Ns("ghcr.io".to_owned())));
    }

    #[test]
    fn names_and_patterns() {
        for (pattern, is_one) in [
            ("acme/*", true),
            ("**", true),
            ("v1.2-*", true),
            ("", false),
            ("a b", false),
            ("a,b", false),
            ("[ab]", false),
        ] {
            assert_eq!(reads::<Glob>(pattern), is_one, "{pattern}");
        }
        assert!(reads::<Glob>(&"a".repeat(255)) && !reads::<Glob>(&"a".repeat(256)));
        for (prefix, is_one) in
            [("docker.io", true), ("hub", true), ("v2", false), ("a/b", false), ("A", false), ("a:1", false)]
        {
            assert_eq!(reads::<Prefix>(prefix), is_one, "{prefix}");
        }
        for (platform, is_one) in [
            ("linux/amd64", true),
            ("linux/arm/v7", true),
            ("linux", false),
            ("linux/", false),
            ("Linux/amd64", false),
            ("a/b/c/d", false),
        ] {
            assert_eq!(reads::<PlatformName>(platform), is_one, "{platform}");
        }
    }

    #[test]
    fn every_literal_reads_back() {
        fn round<T: Value + PartialEq + std::fmt::Debug>(value: T) {
            let document = format!("x = {}", value.literal());
            let parsed = toml::de::DeTable::parse(&document).unwrap();
            let place = crate::config::raw::Place { path: std::path::Path::new("x.toml"), text: &document };
            let written = place.written(parsed.get_ref().get("x").unwrap());
            assert_eq!(T::read(&written).as_ref(), Some(&value), "{document}");
        }
        for rate in [1, 1000, 1024, 100_000_000, 10 << 20] {
            round(Rate(rate));
        }
        for time in [0, 1, 60_000] {
            round(OrZero(Duration::from_millis(time)));
        }
        for offline in [Offline::Always, Offline::Never, Offline::Auto] {
            round(offline);
        }
        round(Argv(vec!["/bin/p".to_owned(), "two words".to_owned(), "\"".to_owned()]));
        round(Private(true));
        round(Role::Root);
        round(Completion::IfTouchedOver);
        round(Connections(2));
        round(Username("ü".to_owned()));
        assert!(SecretText::read(&Written::Text(SecretText("x".to_owned()).literal())).is_some());
        assert!(SecretText::read(&Written::Text(HIDDEN.to_owned())).is_none());
    }

    #[test]
    fn what_may_be_a_secret_is_not_shown() {
        let text = |text: &str| Written::Text(text.to_owned());
        assert_eq!(Url::found(&text("https://u:hunter2@h/p")), "\"https://***@h/p\"");
        assert_eq!(ProxyUrl::found(&text("u:hunter2@h")), "\"***@h\"");
        assert_eq!(SecretText::found(&Written::Number(1234)), "what is not shown");
        assert_eq!(SecretText::found(&text("")), "\"\"");
        assert_eq!(Username::found(&text("u:hunter2")), "a name and more");
    }
}
