//! What we build on: licences that go with Apache-2.0, nothing that was ruled out, one version of what matters.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
};

use serde_json::Value;

/// SPDX ids that may stand alone.
const ALLOWED: [&str; 14] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Unlicense",
    "Zlib",
];

/// Crates that may not come in, not even through another one.
const BANNED: [(&str, &str); 13] = [
    ("actix-web", "the data plane has its own HTTP, the control plane has hyper"),
    ("async-std", "one runtime a plane"),
    ("glommio", "one runtime a plane"),
    ("native-tls", "rustls is the one TLS"),
    ("openssl", "rustls is the one TLS"),
    ("openssl-sys", "rustls is the one TLS"),
    ("refinery", "it pins rusqlite"),
    ("reqwest", "nothing asks an upstream yet"),
    ("ring", "aws-lc-rs is the one provider"),
    ("smol", "one runtime a plane"),
    ("sqlx", "it holds rusqlite back"),
    ("tokio-uring", "for comparison only, and nobody maintains it"),
    ("warp", "the data plane has its own HTTP, the control plane has hyper"),
];

/// Crates that others may bring along, and that we do not use ourselves.
const NOT_OURS: [(&str, &str); 2] =
    [("flume", "it loses wakes on a cancelled receive"), ("figment", "it keeps no positions of keys")];

/// Of these there is one version, or two halves of the program would not understand each other.
const ONE_VERSION: [&str; 16] = [
    "blake3",
    "bytes",
    "http",
    "httparse",
    "hyper",
    "io-uring",
    "libsqlite3-sys",
    "monoio",
    "rusqlite",
    "rustix",
    "rustls",
    "serde",
    "serde_json",
    "sha2",
    "tokio",
    "tracing",
];

struct Package {
    name: String,
    version: String,
    licence: String,
    /// Empty for our own.
    source: String,
    /// What its manifest names.
    dependencies: Vec<String>,
}

fn cargo(args: &[&str]) -> Vec<u8> {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(env!("CARGO_MANIFEST_DIR")).args(args).args(["--locked", "--offline"]);
    let output = command.output().expect("cargo runs the tests, so it is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// What cargo knows of this workspace.
fn metadata(args: &[&str]) -> Value {
    let args = [&["metadata", "--format-version", "1"], args].concat();
    serde_json::from_slice(&cargo(&args)).expect("cargo prints JSON")
}

/// What is built, as `name v1.2.3`. The metadata also names what a feature would reach that nobody asks for.
fn built() -> BTreeSet<String> {
    let edges = ["--edges", "normal,build,dev", "--target", "x86_64-unknown-linux-gnu"];
    let lines =
        cargo(&[&["tree", "--workspace", "--prefix", "none", "--format", "{p}"][..], &edges].concat());
    let lines = String::from_utf8(lines).expect("cargo prints text");
    lines.lines().map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" ")).collect()
}

fn packages() -> Vec<Package> {
    let metadata = metadata(&["--filter-platform", "x86_64-unknown-linux-gnu"]);
    let nodes = metadata["resolve"]["nodes"].as_array().expect("a resolved graph");
    let used: BTreeSet<&str> = nodes.iter().filter_map(|node| node["id"].as_str()).collect();
    let all = metadata["packages"].as_array().expect("packages");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let package = |value: &Value| Package {
        name: text(&value["name"]),
        version: text(&value["version"]),
        licence: text(&value["license"]),
        source: text(&value["source"]),
        dependencies: value["dependencies"]
            .as_array()
            .into_iter()
            .flatten()
            .map(|one| text(&one["name"]))
            .collect(),
    };
    let built = built();
    let all =
        all.iter().filter(|value| value["id"].as_str().is_some_and(|id| used.contains(id))).map(package);
    all.filter(|package| built.contains(&format!("{} v{}", package.name, package.version))).collect()
}

/// Whether one of the ways to read an SPDX expression is all allowed. `a/b` is the old way to say `a OR b`.
fn is_allowed(expression: &str) -> bool {
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut at = 0;
    let allowed = any_of(&words, &mut at);
    allowed && at == words.len()
}

fn any_of(words: &[&str], at: &mut usize) -> bool {
    let mut allowed = all_of(words, at);
    while words.get(*at) == Some(&"OR") {
        *at += 1;
        allowed |= all_of(words, at);
    }
    allowed
}

fn all_of(words: &[&str], at: &mut usize) -> bool {
    let mut allowed = one(words, at);
    while words.get(*at) == Some(&"AND") {
        *at += 1;
        allowed &= one(words, at);
    }
    allowed
}

fn one(words: &[&str], at: &mut usize) -> bool {
    let Some(word) = words.get(*at) else { return false };
    *at += 1;
    if *word == "(" {
        let allowed = any_of(words, at);
        let closed = words.get(*at) == Some(&")");
        *at += 1;
        return allowed && closed;
    }
    if words.get(*at) == Some(&"WITH") {
        let exception = words.get(*at + 1).copied().unwrap_or_default();
        *at += 2;
        return ALLOWED.contains(&format!("{word} WITH {exception}").as_str());
    }
    ALLOWED.contains(word)
}

#[test]
fn every_licence_is_allowed() {
    let all = packages();
    assert!(all.len() > 30, "the graph was read");
    let refused = all.iter().filter(|package| !is_allowed(&package.licence));
    let refused: Vec<String> = refused
        .map(|package| format!("{} {}: {:?}", package.name, package.version, package.licence))
        .collect();
    assert!(refused.is_empty(), "not on the list:\n{}", refused.join("\n"));
    let ours = all.iter().filter(|package| package.source.is_empty());
    assert!(ours.clone().count() >= 5, "our own crates are in the graph");
    assert!(ours.clone().all(|package| package.licence == "Apache-2.0"), "ours is Apache-2.0");
}

#[test]
fn no_crate_that_was_ruled_out() {
    for package in packages() {
        for (name, why) in BANNED {
            assert_ne!(package.name, name, "{name} is in the graph: {why}");
        }
        for (name, why) in NOT_OURS {
            let named = package.source.is_empty() && package.dependencies.iter().any(|other| other == name);
            assert!(!named, "{} depends on {name}: {why}", package.name);
        }
        if package.name == "tokio" {
            assert!(
                !["1.51.", "1.52.0", "1.52.1"].iter().any(|bad| package.version.starts_with(bad)),
                "a broken tokio"
            );
        }
    }
}

#[test]
fn one_version_of_what_matters() {
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in packages() {
        versions.entry(package.name).or_default().insert(package.version);
    }
    for name in ONE_VERSION {
        let found = versions.get(name).cloned().unwrap_or_default();
        assert!(found.len() <= 1, "{name} comes in {found:?}");
    }
}

/// From the registry or from this repository: nothing that a fresh machine could not get again.
#[test]
fn everything_comes_from_the_registry() {
    for package in packages() {
        let known = package.source.is_empty() || package.source.starts_with("registry+");
        assert!(known, "{} comes from {}", package.name, package.source);
    }
}

/// The README's first command. Cargo asks which program is meant as soon as two packages of the workspace have one.
#[test]
fn cargo_run_is_the_registry() {
    let metadata = metadata(&["--no-deps"]);
    let packages = metadata["packages"].as_array().expect("packages");
    let default_runs = packages.iter().filter_map(|package| package["default_run"].as_str());
    assert_eq!(default_runs.collect::<Vec<_>>(), ["gantry"]);
}

#[test]
fn expressions_are_read_right() {
    for (expression, allowed) in [
        ("MIT", true),
        ("MIT OR GPL-3.0", true),
        ("MIT AND GPL-3.0", false),
        ("(MIT OR Apache-2.0) AND Unicode-3.0", true),
        ("Apache-2.0 WITH LLVM-exception OR GPL-2.0", true),
        ("GPL-2.0 WITH Classpath-exception-2.0", false),
        ("MIT/Apache-2.0", true),
        ("GPL-3.0 OR (MIT AND LGPL-2.1)", false),
        ("", false),
        ("MIT OR", true),
        ("(MIT", false),
    ] {
        assert_eq!(is_allowed(expression), allowed, "{expression}");
    }
}
