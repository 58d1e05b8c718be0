//! How a peer is started: what a peer's TOML file says, and what the built-in peers say in the same words.
//!
//! | key | meaning | if missing |
//! |---|---|---|
//! | `name` | what tables call it | it must be there |
//! | `command` | program and arguments; it stays in the foreground | it must be there |
//! | `env` | variables added to its environment | none |
//! | `ready` | path that is answered, with less than 500, once it serves | `/v2/` |
//! | `blob` | path of a blob, of `{repository}` and `{digest}` | `/v2/{repository}/blobs/{digest}` |
//! | `kind` | `registry`, or `files`: blobs are placed on its disk | `registry` |
//! | `place` | for `files`: where, of `{digest}` | `{data}/blobs/{digest}` |
//! | `version` | command whose first line of output is its version | unknown |
//! | `files` | name below `{dir}` and content of files to write before the start | none |
//!
//! Placeholders: `{port}` on 127.0.0.1, `{dir}` of the peer's own, `{data}` below it, `{threads}` that should serve.

use std::{collections::BTreeMap, path::Path};

use serde::Deserialize;

use super::Kind;

/// One way to start one server.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    pub name: String,
    pub command: Vec<String>,
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    #[serde(default = "ready")]
    pub ready: String,
    #[serde(default = "blob")]
    pub blob: String,
    #[serde(default)]
    pub kind: Kind,
    #[serde(default = "place")]
    pub place: String,
    #[serde(default)]
    pub version: Vec<String>,
    #[serde(default)]
    pub files: BTreeMap<String, String>,
}

fn ready() -> String {
    "/v2/".to_owned()
}

fn blob() -> String {
    "/v2/{repository}/blobs/{digest}".to_owned()
}

fn place() -> String {
    "{data}/blobs/{digest}".to_owned()
}

impl Recipe {
    /// The file's text, or a sentence that names what is wrong in it; `from` is what the sentence calls the file.
    pub fn parse(text: &str, from: &str) -> Result<Recipe, String> {
        let recipe: Recipe = toml::from_str(text).map_err(|error| format!("the peer in {from}: {error}"))?;
        let wrong = |what: &str| Err(format!("the peer in {from}: {what}"));
        if recipe.name.is_empty() || recipe.command.first().is_none_or(String::is_empty) {
            return wrong("`name` and the first word of `command` must not be empty");
        }
        if recipe.files.keys().any(|name| name.is_empty() || name.contains('/') || name == "data") {
            return wrong("a name in `files` is one of a file below {dir}, without a slash, and not `data`");
        }
        if !recipe.ready.starts_with('/') || !recipe.blob.starts_with('/') {
            return wrong("`ready` and `blob` are paths that start with a slash");
        }
        if !recipe.blob.contains("{digest}") || !recipe.place.contains("{digest}") {
            return wrong("`blob` and `place` need {digest}: each blob has its own");
        }
        let start = recipe.command.iter().chain(recipe.env.values()).chain([&recipe.ready]);
        let all = start.map(|text| (text, &START[..])).chain([
            (&recipe.blob, &["repository", "digest"][..]),
            (&recipe.place, &["data", "dir", "digest"][..]),
        ]);
        for (text, known) in all {
            if let Some(name) = unknown(text, known) {
                return wrong(&format!("{{{name}}} in {text:?} is none of {}", braced(known)));
            }
        }
        Ok(recipe)
    }
}

const START: [&str; 4] = ["port", "dir", "data", "threads"];

fn braced(names: &[&str]) -> String {
    names.iter().map(|name| format!("{{{name}}}")).collect::<Vec<_>>().join(", ")
}

/// A word in braces that means nothing here: most likely one that was mistyped.
fn unknown<'a>(text: &'a str, known: &[&str]) -> Option<&'a str> {
    let words = text.split('{').skip(1).filter_map(|rest| rest.split_once('}')).map(|(word, _)| word);
    words.into_iter().find(|word| !known.contains(word))
}

/// What the placeholders of a start stand for.
#[derive(Clone, Debug)]
pub struct Place<'a> {
    pub port: u16,
    pub dir: &'a Path,
    pub data: &'a Path,
    pub threads: usize,
}

impl Place<'_> {
    /// The text with them replaced; other braces are left, as a configuration file may be full of them.
    pub fn fill(&self, text: &str) -> String {
        text.replace("{port}", &self.port.to_string())
            .replace("{dir}", &self.dir.to_string_lossy())
            .replace("{data}", &self.data.to_string_lossy())
            .replace("{threads}", &self.threads.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = "name = 'x'\ncommand = ['x', '--port', '{port}']\n";

    #[test]
    fn a_small_file_is_enough() {
        let recipe = Recipe::parse(SMALL, "x.toml").unwrap();
        assert_eq!((recipe.ready.as_str(), recipe.kind), ("/v2/", Kind::Registry));
        assert_eq!(recipe.blob, "/v2/{repository}/blobs/{digest}");
        let place = Place { port: 81, dir: Path::new("/d"), data: Path::new("/d/data"), threads: 2 };
        assert_eq!(place.fill("{ {port} {dir} {data} {threads} }"), "{ 81 /d /d/data 2 }");
    }

    #[test]
    fn a_mistake_is_named() {
        let refused = |more: &str| Recipe::parse(&format!("{SMALL}{more}"), "x.toml").unwrap_err();
        for (more, expect) in [
            ("reedy = '/'", "reedy"),
            ("kind = 'folder'", "folder"),
            ("ready = 'v2'", "slash"),
            ("ready = '/{prot}'", "{prot}"),
            ("blob = '/blob'", "{digest}"),
            ("blob = '/{repo}/{digest}'", "{repo}"),
            ("env = { A = '{x}' }", "{x}"),
            ("files = { '../a' = '' }", "slash"),
        ] {
            let why = refused(more);
            assert!(why.contains(expect) && why.contains("x.toml"), "{more}: {why}");
        }
        assert!(Recipe::parse("command = ['x']", "x.toml").unwrap_err().contains("name"));
        assert!(Recipe::parse("name = 'x'\ncommand = []", "x.toml").unwrap_err().contains("command"));
    }

    #[test]
    fn the_files_that_come_with_it_are_right() {
        for text in [include_str!("../../peers/zot.toml"), include_str!("../../peers/distribution.toml")] {
            let recipe = Recipe::parse(text, "bench/peers").unwrap();
            let config = recipe.files.values().next().unwrap();
            assert!(config.contains("{port}") && config.contains("{data}"), "{config}");
        }
    }
}
