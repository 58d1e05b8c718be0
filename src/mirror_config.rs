//! What a client has to be told so that it pulls through this registry, in the client's own format.
//!
//! Spec: containerd's hosts.toml, dockerd's daemon.json, containers-registries.conf(5), buildkitd.toml.

use std::fmt::{self, Write as _};

use controlplane::upstream::UpstreamSettings;
use oci::Namespace;

use crate::{
    args::Client,
    config::{Config, DOCKER_HUB, Url, Value, Written},
};

/// Why a client can't be told.
#[derive(Debug, PartialEq, Eq)]
pub enum NoMirror {
    /// No `[[upstream]]` is configured.
    NoUpstream,
    /// Nobody knows the port before the registry listens.
    NoPort,
    /// What `--url` says is no address of a registry.
    Url(String),
    /// A registry's address has no path.
    Path(String),
    /// dockerd asks its mirrors only for Docker Hub, which is not among the upstreams.
    NoDockerHub {
        /// Which upstream is the root, if one is.
        root: Option<String>,
    },
}

impl fmt::Display for NoMirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoMirror::NoUpstream => f.write_str(
                "there is no [[upstream]] in the configuration, so this registry is no mirror; name the file with --config",
            ),
            NoMirror::NoPort => {
                f.write_str("the port to listen on is 0, so nobody knows it yet; say with --url how clients reach it")
            }
            NoMirror::Url(found) => {
                write!(f, "--url: found {found}, expected an address such as \"http://gantry.corp:5000\"")
            }
            NoMirror::Path(found) => write!(
                f,
                "--url: found {found}, expected an address without a path: clients ask for /v2/ right behind the host"
            ),
            NoMirror::NoDockerHub { root } => {
                write!(
                    f,
                    "dockerd asks its mirrors for images of {DOCKER_HUB} only, and no [[upstream]] has ns = \"{DOCKER_HUB}\""
                )?;
                if let Some(root) = root {
                    write!(f, "; images of {DOCKER_HUB} would be looked for in {root}, which has mirror = \"root\"")?;
                }
                f.write_str("; images of other registries are had by their names here, as HOST:PORT/PREFIX/NAME")
            }
        }
    }
}

impl std::error::Error for NoMirror {}

/// How clients reach this registry.
struct Here {
    url: String,
    /// Host and port.
    host: String,
    is_plain: bool,
    /// Whether only clients on this machine reach it so.
    is_near: bool,
}

/// The configuration of `client`. Without `url` clients are told the address to listen on.
pub fn print(client: Client, config: &Config, url: Option<&str>) -> Result<String, NoMirror> {
    if config.upstreams.is_empty() {
        return Err(NoMirror::NoUpstream);
    }
    let here = Here::of(config, url)?;
    let upstreams: Vec<(&UpstreamSettings, &Namespace)> =
        config.upstreams.iter().zip(config.namespaces.iter()).collect();
    match client {
        Client::Containerd => Ok(containerd(&here, &upstreams)),
        Client::Docker => docker(&here, &upstreams),
        Client::Podman => Ok(podman(&here, &upstreams)),
        Client::Buildkit => Ok(buildkit(&here, &upstreams)),
    }
}

/// What to say beside it, where its format has no comments.
pub fn remark(client: Client, config: &Config) -> Option<&'static str> {
    let hub =
        config.upstreams.iter().zip(config.namespaces.iter()).find(|(_, namespace)| namespace.adds_library);
    let by_path = client == Client::Docker && hub.is_some_and(|(upstream, _)| !upstream.is_root);
    by_path.then_some("an older dockerd refuses a mirror with a path; with mirror = \"root\" there is none")
}

impl Here {
    fn of(config: &Config, url: Option<&str>) -> Result<Here, NoMirror> {
        let Some(text) = url else {
            let mut address = config.listen;
            if address.port() == 0 {
                return Err(NoMirror::NoPort);
            }
            let is_near = address.ip().to_canonical().is_loopback() || address.ip().is_unspecified();
            if address.ip().is_unspecified() {
                let loopback: std::net::IpAddr = match address {
                    std::net::SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                    std::net::SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
                };
                address.set_ip(loopback);
            }
            let host = address.to_string();
            return Ok(Here { url: format!("http://{host}"), host, is_plain: true, is_near });
        };
        let written = Written::Text(text.to_owned());
        let url = Url::read(&written).ok_or_else(|| NoMirror::Url(Url::found(&written)))?;
        let is_plain = url.is_plain();
        let host = url.0.split_once("://").map_or_else(String::new, |(_, host)| host.to_owned());
        if host.contains('/') {
            return Err(NoMirror::Path(written.found()));
        }
        Ok(Here { url: url.0, host, is_plain, is_near: false })
    }

    /// A comment where clients elsewhere would not reach it.
    fn note(&self) -> &'static str {
        if self.is_near {
            "# For clients on this machine; for others say with --url how they reach it.\n"
        } else {
            ""
        }
    }
}

fn containerd(here: &Here, upstreams: &[(&UpstreamSettings, &Namespace)]) -> String {
    let mut out = format!(
        "# Each part is a file of its own, by the name in its first line. config.toml of containerd has to say\n\
         # config_path = \"/etc/containerd/certs.d\" in [plugins.\"io.containerd.cri.v1.images\".registry]\n\
         # (1.x: [plugins.\"io.containerd.grpc.v1.cri\".registry]); ctr takes --hosts-dir.\n{}",
        here.note()
    );
    for (upstream, _) in upstreams {
        let _ = write!(
            out,
            "\n# /etc/containerd/certs.d/{ns}/hosts.toml\n\
             server = {server}  # asked where the mirror gives no answer\n\n\
             [host.{url}]\n  capabilities = [\"pull\", \"resolve\"]\n",
            ns = upstream.ns,
            server = quoted(&upstream.url),
            url = quoted(&here.url),
        );
    }
    out
}

/// JSON has no comments, so this has no note.
fn docker(here: &Here, upstreams: &[(&UpstreamSettings, &Namespace)]) -> Result<String, NoMirror> {
    let Some((hub, namespace)) = upstreams.iter().find(|(_, namespace)| namespace.adds_library) else {
        let root = upstreams.iter().find(|(upstream, _)| upstream.is_root);
        return Err(NoMirror::NoDockerHub { root: root.map(|(upstream, _)| upstream.ns.clone()) });
    };
    // Only the root is found without its prefix.
    let path = if hub.is_root { String::new() } else { format!("/{}", namespace.prefix) };
    let mirror = quoted(&format!("{}{path}", here.url));
    let insecure = if here.is_plain {
        format!(",\n  \"insecure-registries\": [{}]", quoted(&here.host))
    } else {
        String::new()
    };
    Ok(format!("{{\n  \"registry-mirrors\": [{mirror}]{insecure}\n}}\n"))
}

fn podman(here: &Here, upstreams: &[(&UpstreamSettings, &Namespace)]) -> String {
    let mut out = format!("# /etc/containers/registries.conf.d/50-gantry.conf\n{}", here.note());
    for (upstream, namespace) in upstreams {
        let ns = quoted(&upstream.ns);
        let location = quoted(&format!("{}/{}", here.host, namespace.prefix));
        let insecure = if here.is_plain { "insecure = true\n" } else { "" };
        let _ = write!(
            out,
            "\n[[registry]]\nprefix = {ns}\nlocation = {ns}\n\n[[registry.mirror]]\nlocation = {location}\n{insecure}"
        );
    }
    out
}

fn buildkit(here: &Here, upstreams: &[(&UpstreamSettings, &Namespace)]) -> String {
    let host = quoted(&here.host);
    let mut out = format!("# /etc/buildkit/buildkitd.toml\n{}", here.note());
    for (upstream, _) in upstreams {
        let _ = write!(out, "\n[registry.{}]\n  mirrors = [{host}]\n", quoted(&upstream.ns));
    }
    if here.is_plain {
        let _ = write!(out, "\n[registry.{host}]\n  http = true\n");
    }
    out
}

/// For TOML and for JSON: none of the texts here has a character that would be escaped.
fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::RawConfig;

    const TWO: &str = "listen = '10.1.2.3:5000'\nallow_anonymous = true\n\
        [[upstream]]\nns = 'docker.io'\nurl = 'https://registry-1.docker.io'\nmirror = 'root'\n\
        [[upstream]]\nns = 'registry.corp:8443'\nprefix = 'corp'\nurl = 'https://registry.corp:8443/base'\n";

    fn config(file: &str) -> Config {
        let mut raw = RawConfig::default();
        raw.read_text(Path::new("gantry.toml"), file).unwrap();
        Config::try_from(raw).unwrap()
    }

    fn printed(client: Client, file: &str, url: Option<&str>) -> String {
        print(client, &config(file), url).unwrap()
    }

    #[test]
    fn containerd_has_a_file_for_each_upstream() {
        let expected = "\
# Each part is a file of its own, by the name in its first line. config.toml of containerd has to say
# config_path = \"/etc/containerd/certs.d\" in [plugins.\"io.containerd.cri.v1.images\".registry]
# (1.x: [plugins.\"io.containerd.grpc.v1.cri\".registry]); ctr takes --hosts-dir.

# /etc/containerd/certs.d/docker.io/hosts.toml
server = \"https://registry-1.docker.io\"  # asked where the mirror gives no answer

[host.\"http://10.1.2.3:5000\"]
  capabilities = [\"pull\", \"resolve\"]

# /etc/containerd/certs.d/registry.corp:8443/hosts.toml
server = \"https://registry.corp:8443/base\"  # asked where the mirror gives no answer

[host.\"http://10.1.2.3:5000\"]
  capabilities = [\"pull\", \"resolve\"]
";
        assert_eq!(printed(Client::Containerd, TWO, None), expected);
    }

    #[test]
    fn dockerd_asks_for_docker_hub() {
        let expected = "{\n  \"registry-mirrors\": [\"http://10.1.2.3:5000\"],\n  \
                        \"insecure-registries\": [\"10.1.2.3:5000\"]\n}\n";
        assert_eq!(printed(Client::Docker, TWO, None), expected);
        let expected = "{\n  \"registry-mirrors\": [\"https://gantry.corp\"]\n}\n";
        assert_eq!(printed(Client::Docker, TWO, Some("https://gantry.corp/")), expected);
        // Without the root, by the prefix.
        let no_root = TWO.replace("mirror = 'root'", "prefix = 'hub'");
        assert!(printed(Client::Docker, &no_root, None).contains("[\"http://10.1.2.3:5000/hub\"]"));

        assert!(remark(Client::Docker, &config(&no_root)).is_some());
        assert_eq!(remark(Client::Docker, &config(TWO)), None);
        assert_eq!(remark(Client::Podman, &config(&no_root)), None);

        let other = "[[upstream]]\nns = 'quay.io'\nurl = 'https://quay.io'\n";
        let why = print(Client::Docker, &config(other), None).unwrap_err();
        assert_eq!(why, NoMirror::NoDockerHub { root: None });
        assert!(why.to_string().contains("no [[upstream]] has ns = \"docker.io\""), "{why}");
        let why = print(Client::Docker, &config(&format!("{other}mirror = 'root'")), None).unwrap_err();
        assert!(why.to_string().contains("would be looked for in quay.io"), "{why}");
    }

    #[test]
    fn podman_is_told_the_prefix() {
        let expected = "\
# /etc/containers/registries.conf.d/50-gantry.conf

[[registry]]
prefix = \"docker.io\"
location = \"docker.io\"

[[registry.mirror]]
location = \"gantry:5000/docker.io\"
insecure = true

[[registry]]
prefix = \"registry.corp:8443\"
location = \"registry.corp:8443\"

[[registry.mirror]]
location = \"gantry:5000/corp\"
insecure = true
";
        assert_eq!(printed(Client::Podman, TWO, Some("http://gantry:5000")), expected);
        assert!(!printed(Client::Podman, TWO, Some("https://gantry")).contains("insecure"));
    }

    #[test]
    fn buildkit_asks_by_host() {
        let expected = "\
# /etc/buildkit/buildkitd.toml

[registry.\"docker.io\"]
  mirrors = [\"gantry:5000\"]

[registry.\"registry.corp:8443\"]
  mirrors = [\"gantry:5000\"]

[registry.\"gantry:5000\"]
  http = true
";
        assert_eq!(printed(Client::Buildkit, TWO, Some("http://gantry:5000")), expected);
        assert!(!printed(Client::Buildkit, TWO, Some("https://gantry")).contains("http ="));
    }

    #[test]
    fn what_is_printed_is_what_the_client_parses() {
        for url in [None, Some("https://gantry.corp:1"), Some("http://[fd00::1]:5000")] {
            for client in [Client::Podman, Client::Buildkit] {
                toml::from_str::<toml::Table>(&printed(client, TWO, url)).unwrap();
            }
            serde_json::from_str::<serde_json::Value>(&printed(Client::Docker, TWO, url)).unwrap();
            let files = printed(Client::Containerd, TWO, url);
            let files: Vec<&str> = files.split("\n# /etc/").skip(1).collect();
            assert_eq!(files.len(), 2);
            for file in files {
                let (name, text) = file.split_once('\n').unwrap();
                assert!(name.starts_with("containerd/certs.d/") && name.ends_with("/hosts.toml"), "{name}");
                toml::from_str::<toml::Table>(text).unwrap();
            }
        }
    }

    #[test]
    fn how_clients_reach_it_is_said_or_known() {
        let with = |listen: &str, url| {
            let file = TWO.replace("10.1.2.3:5000", listen);
            Here::of(&config(&file), url).map(|here| (here.url, here.host, here.is_near))
        };
        let near = |host: &str| Ok((format!("http://{host}"), host.to_owned(), true));
        assert_eq!(with("127.0.0.1:5000", None), near("127.0.0.1:5000"));
        assert_eq!(with("0.0.0.0:5000", None), near("127.0.0.1:5000"));
        assert_eq!(with("[::]:5000", None), near("[::1]:5000"));
        assert_eq!(with("127.0.0.1:0", None), Err(NoMirror::NoPort));
        assert!(with("127.0.0.1:0", Some("http://gantry")).is_ok());
        assert!(matches!(with("[::1]:1", Some("gantry:5000")), Err(NoMirror::Url(_))));
        assert!(matches!(with("[::1]:1", Some("http://gantry/v2")), Err(NoMirror::Path(_))));
        let Err(why) = with("[::1]:1", Some("http://u:hunter2@gantry")) else { panic!("it has a password") };
        assert!(!why.to_string().contains("hunter2"), "{why}");
        let note = "# For clients on this machine";
        assert!(printed(Client::Podman, &TWO.replace("10.1.2.3", "127.0.0.1"), None).contains(note));
        assert!(!printed(Client::Podman, TWO, None).contains(note));
        assert_eq!(print(Client::Podman, &config(""), None), Err(NoMirror::NoUpstream));
    }
}
