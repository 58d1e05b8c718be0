//! Gantry itself: which binary, built if need be, and how it is asked to serve.

use std::{
    collections::BTreeMap,
    env,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use super::{Kind, recipe::Recipe, words::Words};

/// `gantry`, `gantry:uring`, `gantry:epoll`, each with `log`, `nolog`, `cores=N` and `proxy=http://HOST:PORT`.
pub fn recipe(words: &Words) -> Result<Recipe, String> {
    let binary = binary()?.to_string_lossy().into_owned();
    let on = |switch| if switch { "on" } else { "off" }.to_owned();
    let level = if words.access_log { "info" } else { "warn" };
    let mut command: Vec<String> =
        [&binary, "serve", "--listen", "127.0.0.1:{port}", "--data", "{data}", "--cores", "{threads}"]
            .map(str::to_owned)
            .to_vec();
    command.extend(["--log".to_owned(), level.to_owned(), "--access-log".to_owned(), on(words.access_log)]);
    if let Some(driver) = &words.driver {
        command.extend(["--io".to_owned(), driver.clone()]);
    }
    let mut files = BTreeMap::new();
    let (mut blob, mut kind) = ("/v2/{repository}/blobs/{digest}", Kind::Registry);
    if let Some(upstream) = &words.proxy {
        let config = format!(
            "[[upstream]]\nns = \"upstream.example\"\nprefix = \"upstream\"\nurl = \"{upstream}\"\n\
             allow_private_addresses = true\n"
        );
        files.insert("gantry.toml".to_owned(), config);
        command.extend(["--config".to_owned(), "{dir}/gantry.toml".to_owned()]);
        (blob, kind) = ("/v2/upstream/{repository}/blobs/{digest}", Kind::Proxy);
    }
    // As nginx is configured here: a loaded connection is not closed to be fair to others.
    let env = [("GANTRY_LIMITS_REQUESTS_PER_CONNECTION".to_owned(), "1000000000".to_owned())];
    Ok(Recipe {
        name: words.name_without_proxy(),
        command,
        env: env.into(),
        ready: "/readyz".to_owned(),
        blob: blob.to_owned(),
        kind,
        place: String::new(),
        version: vec![binary, "--version".to_owned()],
        files,
    })
}

/// `GANTRY_BIN`; else the one that cargo makes of the tree we run in; else the one beside this program.
fn binary() -> Result<&'static Path, String> {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    FOUND.get_or_init(find).as_deref().map_err(Clone::clone)
}

const BUILD: &str = "cargo build --release -p gantry";

fn find() -> Result<PathBuf, String> {
    if let Some(named) = env::var_os("GANTRY_BIN") {
        let named = PathBuf::from(named);
        let missing = || format!("GANTRY_BIN is {}, which is no file: unset it, or {BUILD}", named.display());
        return if named.is_file() { Ok(named) } else { Err(missing()) };
    }
    let here = env::current_exe().map_err(|error| format!("this program cannot find itself: {error}"))?;
    // Cargo runs us: what it built last may be of another commit, so it looks again.
    if let (Some(cargo), Some(manifest)) = (env::var_os("CARGO"), env::var_os("CARGO_MANIFEST_DIR")) {
        let target = target(&here).ok_or_else(|| format!("{} is not where cargo builds", here.display()))?;
        eprintln!("{BUILD}");
        let mut build = Command::new(cargo);
        build.args(["build", "--release", "-p", "gantry", "--target-dir"]).arg(target).current_dir(manifest);
        let done = build.stdin(Stdio::null()).status().map_err(|error| format!("{BUILD}: {error}"))?;
        if !done.success() {
            return Err(format!("{BUILD} failed: set GANTRY_BIN to a binary, or repair the build"));
        }
        return Ok(target.join("release/gantry"));
    }
    // A debug build must never be measured by mistake.
    let beside = match target(&here) {
        Some(target) => target.join("release/gantry"),
        None => here.with_file_name("gantry"),
    };
    let missing = || format!("{} is not there: {BUILD}, or set GANTRY_BIN to a binary", beside.display());
    if beside.is_file() { Ok(beside) } else { Err(missing()) }
}

/// Cargo's target directory, if the program is in it: `TARGET/release/x`, `TARGET/debug/deps/x`.
fn target(program: &Path) -> Option<&Path> {
    let profile =
        program.ancestors().skip(1).take(2).find(|dir| dir.ends_with("release") || dir.ends_with("debug"));
    profile?.parent()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_release_build_is_found_from_any_profile() {
        for (program, expect) in [
            ("/t/release/gantry-bench", Some("/t")),
            ("/t/debug/gantry-bench", Some("/t")),
            ("/t/debug/deps/gantry_bench-12", Some("/t")),
            ("/usr/bin/gantry-bench", None),
        ] {
            assert_eq!(target(Path::new(program)), expect.map(Path::new), "{program}");
        }
    }
}
