//! A mirror and its upstreams: what the configuration file says, and by which paths clients ask.

use std::{fs, path::Path};

use ::faults::Registry;
use oci::Digest;

use crate::harness::{Launch, Leg, Response, Server, setting};

/// The `ns` of the root mirror of these tests.
pub const HUB: &str = "docker.io";

/// Logged for each question that an upstream leaves without an answer.
pub const NO_ANSWER: &str = "no answer";

/// An `[[upstream]]` with these lines beside the ones that every upstream on loopback needs.
pub fn upstream(ns: &str, registry: &Registry, more: &str) -> String {
    upstream_at(ns, &registry.url(), more)
}

/// Likewise for any registry.
pub fn upstream_at(ns: &str, url: &str, more: &str) -> String {
    format!("[[upstream]]\nns = \"{ns}\"\nurl = \"{url}\"\nallow_private_addresses = true\n{more}\n")
}

/// Docker Hub, as far as names go, and the root mirror.
pub fn root(registry: &Registry, more: &str) -> String {
    upstream(HUB, registry, &format!("mirror = \"root\"\n{more}"))
}

/// A mirror with this configuration file. What it keeps does not depend on how full the machine of the test is.
pub fn mirror(leg: Leg, config: &str) -> Launch {
    Launch::on(leg).config(config).set(setting::CACHE_MAX_BYTES, "1GiB")
}

/// How a client names a repository of the root mirror.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// containerd and BuildKit: `?ns=`.
    Ns,
    /// dockerd: the bare path.
    Bare,
    /// Anybody: `/v2/<prefix>/<name>`.
    Prefix,
    /// A mirror whose URL has a path: `/<prefix>/v2/<name>`.
    Front,
}

impl Way {
    /// The target for `rest` (`manifests/latest`) of `repository`, by its name there.
    pub fn target(self, repository: &str, rest: &str) -> String {
        match self {
            Way::Ns => format!("/v2/{repository}/{rest}?ns={HUB}"),
            Way::Bare => format!("/v2/{repository}/{rest}"),
            Way::Prefix => format!("/v2/{HUB}/{repository}/{rest}"),
            Way::Front => format!("/{HUB}/v2/{repository}/{rest}"),
        }
    }
}

/// Fails unless the answer says that it came so from the cache, and of which upstream it is if it was asked by `ns`.
#[track_caller]
pub fn assert_came(answer: &Response, way: Way, came: &[&str]) {
    let told = answer.header("gantry-cache");
    assert!(came.contains(&told), "Gantry-Cache: {told}, not one of {came:?}: {}", answer.text());
    let ns = (way == Way::Ns).then_some(HUB);
    assert_eq!(answer.get("oci-namespace"), ns, "{way:?}: {}", answer.text());
}

/// Fails if a file under `blobs/` is not what its name says. Returns how many there are.
#[track_caller]
pub fn assert_store_is_right(server: &Server) -> usize {
    let mut count = 0;
    for algorithm in entries(&server.data_dir().join("blobs")) {
        for file in entries(&algorithm) {
            let name = file.file_name().expect("it has a name").to_string_lossy().into_owned();
            let kind = algorithm.file_name().expect("it has a name").to_string_lossy().into_owned();
            let digest = Digest::parse(&format!("{kind}:{name}")).expect("only digests are there");
            // Evicted between the list and the look.
            let Ok(bytes) = fs::read(&file) else { continue };
            let is_right = Digest::of(digest.algorithm(), &bytes) == digest;
            assert!(is_right, "{digest} holds other bytes, {} of them", bytes.len());
            count += 1;
        }
    }
    count
}

fn entries(dir: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    entries.map(|entry| entry.expect("an entry").path()).collect()
}
