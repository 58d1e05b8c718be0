//! The shape of the source tree, asserted: sizes, headers, where the dangerous things may live, who imports whom.

mod source;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use source::{Source, has_word};

/// A file longer than this has a part that wants a name.
const LINES_MAX: usize = 800;

/// Our crates: folder, and which of our own crates each may import.
const CRATES: [(&str, &str, &[&str]); 6] = [
    ("oci", "oci", &[]),
    ("dataplane/control", "control", &["oci"]),
    ("dataplane", "dataplane", &["oci", "control"]),
    ("controlplane", "controlplane", &["oci", "control"]),
    ("bench", "bench", &["oci"]),
    ("", "gantry", &["oci", "control", "dataplane", "controlplane"]),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every file below `dir` that is ours; paths relative to the root.
fn files(dir: &str, extensions: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![root().join(dir)];
    while let Some(dir) = open.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries {
            let path = entry.expect("a readable folder").path();
            let name = path.file_name().expect("it has one").to_string_lossy().into_owned();
            if path.is_dir() {
                // What tools make: builds, fetched clients, fuzzing corpora, and version control.
                if !["target", ".git", "corpus", "artifacts", "gantry-data", "bin"].contains(&name.as_str()) {
                    open.push(path);
                }
            } else if extensions.iter().any(|extension| name.ends_with(extension)) {
                found.push(path.strip_prefix(root()).expect("below the root").to_owned());
            }
        }
    }
    found.sort();
    found
}

fn sources() -> Vec<Source> {
    let all: Vec<Source> = files("", &[".rs"]).into_iter().map(|path| Source::read(root(), path)).collect();
    assert!(all.len() > 20, "the tree was found");
    source::without_tests(all)
}

/// The crate that a source file belongs to.
fn crate_of(path: &Path) -> &'static str {
    let owner = CRATES.iter().find(|(folder, ..)| !folder.is_empty() && path.starts_with(folder));
    owner.map_or("gantry", |(_, name, _)| name)
}

#[track_caller]
fn assert_none(what: &str, offences: Vec<String>) {
    assert!(offences.is_empty(), "{what}:\n  {}", offences.join("\n  "));
}

#[test]
fn files_are_short() {
    let long = sources().into_iter().filter(|source| source.text.lines().count() > LINES_MAX);
    assert_none("over 800 lines", long.map(|source| source.path.display().to_string()).collect());
}

#[test]
fn every_file_says_what_it_is_for() {
    let mute = sources().into_iter().filter(|source| {
        let first = source.text.lines().next().unwrap_or_default();
        first.strip_prefix("//! ").is_none_or(|sentence| sentence.len() < 20)
    });
    assert_none(
        "no //! with a sentence in line 1",
        mute.map(|source| source.path.display().to_string()).collect(),
    );
}

/// The seam: system calls, runtimes' raw parts and `unsafe` live in `dataplane/src/io/` and nowhere else.
#[test]
fn the_seam_holds() {
    let mut offences = Vec::new();
    for source in sources() {
        let seam =
            source.path.starts_with("dataplane/src/io") || source.path == Path::new("dataplane/src/io.rs");
        // Tests and the bench stand outside the server: they speak to the system, safely.
        let outside = source.path.starts_with("tests") || source.path.starts_with("bench");
        if seam {
            continue;
        }
        for (number, line) in source.code.lines().enumerate() {
            let forbidden = [
                ("unsafe", has_word(line, "unsafe")),
                ("libc", has_word(line, "libc") && !outside),
                ("rustix", has_word(line, "rustix") && !outside && !line.contains("io::rustix")),
            ];
            for (what, found) in forbidden {
                if found {
                    offences.push(format!("{}:{}: {what}", source.path.display(), number + 1));
                }
            }
        }
    }
    assert_none("outside dataplane/src/io/", offences);
}

/// What of the standard library asks the system, waits for it, or tells the time.
const SYSTEM: [&str; 11] = [
    "fs",
    "thread",
    "process",
    "env",
    "Condvar",
    "Barrier",
    "SystemTime",
    "Instant",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
];

/// Who may use which of these outside the seam, and what for. Who comes anew has to say why it can't be there.
const BESIDE_THE_SEAM: [(&str, &str, &str); 11] = [
    ("dataplane/src/running.rs", "thread", "joins the threads that it started, and tells that one panicked"),
    ("dataplane/src/access.rs", "thread", "the log's thread parks between its rounds"),
    ("dataplane/src/store/mod.rs", "thread", "hands out what the keeper is joined by"),
    ("dataplane/src/store/keeper.rs", "thread", "syncs the files of a batch at the same time"),
    (
        "dataplane/src/store/keeper.rs",
        "Condvar",
        "the keeper is a thread that blocks, and so it waits for work",
    ),
    ("controlplane/src/upstream/accounts.rs", "process", "an operator's command gives credentials"),
    ("controlplane/src/metadata/sqlite/mod.rs", "thread", "the writer is a thread that blocks"),
    ("controlplane/src/metadata/sqlite/mod.rs", "fs", "syncs the directory of a database that was just made"),
    (
        "controlplane/src/metadata/sqlite/wal.rs",
        "fs",
        "keeps the log's file at its length, which SQLite does not",
    ),
    ("controlplane/src/metadata/sqlite/readers.rs", "Instant", "a read that takes too long is interrupted"),
    ("controlplane/src/metadata/sqlite/writer.rs", "SystemTime", "rows carry the time of day"),
];

/// A simulator can take the place of disks, sockets and clocks because nothing else reaches for them.
#[test]
fn nothing_reaches_past_the_seam() {
    let mut offences = Vec::new();
    let mut used = BTreeSet::new();
    for source in sources().into_iter().filter(|source| !source.is_test) {
        let path = source.path.display().to_string();
        let data_plane = path.starts_with("dataplane/");
        if !(data_plane || path.starts_with("controlplane/")) || path.starts_with("dataplane/src/io") {
            continue;
        }
        for (line, word) in source.names_from("std") {
            match BESIDE_THE_SEAM.iter().position(|(file, may, _)| *file == path && *may == word) {
                Some(exception) => drop(used.insert(exception)),
                None if SYSTEM.contains(&word.as_str()) => {
                    offences.push(format!("{path}:{line}: std's {word}"))
                }
                None => {}
            }
        }
        // Of tokio the data plane has channels, which no runtime has to drive.
        for (line, word) in source.names_from("tokio").into_iter().filter(|_| data_plane) {
            if ["fs", "io", "net", "process", "runtime", "signal", "spawn", "task", "time"]
                .contains(&word.as_str())
            {
                offences.push(format!("{path}:{line}: tokio's {word}"));
            }
        }
        for foreign in ["monoio", "io_uring"] {
            let found =
                source.names_from(foreign).into_iter().map(|(line, _)| format!("{path}:{line}: {foreign}"));
            offences.extend(found);
        }
    }
    assert_none("past the seam", offences);
    let stale = (0..BESIDE_THE_SEAM.len()).filter(|exception| !used.contains(exception));
    assert_none(
        "exceptions that nobody needs",
        stale.map(|at| format!("{:?}", BESIDE_THE_SEAM[at])).collect(),
    );
}

#[test]
fn crates_import_in_one_direction() {
    let mut offences = Vec::new();
    for (folder, name, allowed) in CRATES {
        let manifest = root().join(folder).join("Cargo.toml");
        let Ok(text) = fs::read_to_string(&manifest) else {
            assert_eq!(name, "bench", "{} is there", manifest.display());
            continue;
        };
        let manifest: toml::Table = toml::from_str(&text).expect("a manifest is TOML");
        for table in ["dependencies", "build-dependencies"] {
            let Some(dependencies) = manifest.get(table).and_then(|table| table.as_table()) else { continue };
            for (_, other, _) in CRATES.iter().filter(|(_, other, _)| dependencies.contains_key(*other)) {
                if !allowed.contains(other) {
                    offences.push(format!("{name} depends on {other}"));
                }
            }
        }
        for source in sources()
            .into_iter()
            .filter(|source| crate_of(&source.path) == name && !source.path.starts_with("tests"))
        {
            for (_, other, _) in
                CRATES.iter().filter(|(_, other, _)| *other != name && !allowed.contains(other))
            {
                let path = format!("{other}::");
                let uses = source.code.lines().any(|line| {
                    line.match_indices(&path).any(|(at, _)| {
                        let before = line[..at].chars().next_back();
                        !before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':')
                    })
                });
                if uses {
                    offences.push(format!("{} uses {other}", source.path.display()));
                }
            }
        }
    }
    assert_none("imports against the direction", offences);
}

#[test]
fn nothing_is_unwrapped_outside_tests() {
    let mut offences = Vec::new();
    for source in sources().into_iter().filter(|source| !source.is_test) {
        for (number, line) in source.code.lines().enumerate() {
            if line.contains(".unwrap()") || line.contains(".unwrap_err()") {
                offences.push(format!("{}:{}", source.path.display(), number + 1));
            }
        }
    }
    assert_none("`.unwrap()` outside tests", offences);
}

#[test]
fn every_file_is_reached_by_a_mod() {
    let all: BTreeSet<PathBuf> = files("", &[".rs"]).into_iter().collect();
    let roots = all.iter().filter(|path| {
        let name = path.file_name().expect("it has one").to_string_lossy().into_owned();
        let folder = path.parent().expect("it has one");
        let crate_root = ["lib.rs", "main.rs"].contains(&name.as_str())
            && (folder.ends_with("src") || folder.parent().is_some_and(|up| up.ends_with("tests")));
        let target = ["tests", "benches", "examples", "src/bin", "fuzz_targets"]
            .iter()
            .any(|end| folder.ends_with(end));
        crate_root || target || name == "build.rs"
    });
    let mut reached: BTreeSet<PathBuf> = roots.cloned().collect();
    let mut open: Vec<PathBuf> = reached.iter().cloned().collect();
    while let Some(path) = open.pop() {
        for module in Source::read(root(), path).modules() {
            if all.contains(&module) && reached.insert(module.clone()) {
                open.push(module);
            }
        }
    }
    let dead: Vec<String> = all.difference(&reached).map(|path| path.display().to_string()).collect();
    assert_none("no `mod` leads to", dead);
}

/// Unfinished business, and this machine's paths. The words are put together here so that this file has none.
#[test]
fn no_banned_words() {
    let words = [["TO", "DO"], ["FIX", "ME"], ["XX", "X"], ["HA", "CK"]].map(|halves| halves.concat());
    let macros = ["todo", "unimplemented", "dbg"].map(|name| format!("{name}!("));
    let paths =
        [["/wo", "rk/"], ["../sha", "red"], ["/home", "/"], ["/Use", "rs/"]].map(|halves| halves.concat());
    let mut offences = Vec::new();
    for path in files("", &[".rs", ".toml", ".md", ".sh", ".yml", ".yaml", "run", "install"]) {
        let text = fs::read_to_string(root().join(&path)).unwrap_or_default();
        for (number, line) in text.lines().enumerate() {
            let word = words.iter().find(|word| has_word(line, word));
            let macro_call = macros.iter().find(|call| line.contains(call.as_str()));
            let place = paths.iter().find(|place| line.contains(place.as_str()));
            if let Some(found) = word.or(macro_call).or(place) {
                offences.push(format!("{}:{}: {found}", path.display(), number + 1));
            }
        }
    }
    assert_none("banned", offences);
}

/// Every end-point of the spec has its tests, found by its id, which stands in the file's name and in its header.
#[test]
fn every_end_point_has_its_tests() {
    const END_POINTS: u32 = 14;
    let mut seen = BTreeSet::new();
    for path in files("tests/suite/wire", &[".rs"]) {
        let name = path.file_stem().expect("it has one").to_string_lossy().into_owned();
        let Some(ids) = name.strip_prefix("end_") else { continue };
        let text = fs::read_to_string(root().join(&path)).expect("a source file is UTF-8");
        let header: String = text.lines().take_while(|line| line.starts_with("//!")).collect();
        for id in ids.split('_').map_while(|id| id.parse::<u32>().ok()) {
            assert!(has_word(&header, &format!("end-{id}")), "{} does not tell of end-{id}", path.display());
            assert!(text.contains("legs! {"), "{} has tests on both legs", path.display());
            seen.insert(id);
        }
    }
    let bare = (1..=END_POINTS).filter(|id| !seen.contains(id));
    assert_none("end-points without tests", bare.map(|id| format!("end-{id}")).collect());
}

/// One exhaustive table from a problem to the wire: a new variant must choose.
#[test]
fn the_table_of_problems_has_no_catch_all() {
    let Some(table) = sources().into_iter().find(|source| source.path == Path::new("oci/src/problem.rs"))
    else {
        panic!("oci/src/problem.rs is where the table is");
    };
    let start = table.code.find("fn wire(").expect("Problem::wire is the table");
    let body = source::block(&table.code[start..]);
    let catch_all = body.lines().any(|line| line.trim_start().starts_with("_ =>"));
    assert!(!catch_all, "Problem::wire has a `_` arm");
}

/// A bound that nobody uses bounds nothing.
#[test]
fn every_limit_is_used() {
    let all = sources();
    let mut uses: BTreeMap<String, usize> = BTreeMap::new();
    for limits in all.iter().filter(|source| source.path.ends_with("src/limits.rs")) {
        for line in limits.code.lines() {
            let Some(rest) = line.trim_start().strip_prefix("pub const ") else { continue };
            let name = rest.split(':').next().expect("split yields one").trim().to_owned();
            let elsewhere = all.iter().filter(|source| source.path != limits.path && !source.is_test);
            let count =
                elsewhere.filter(|source| source.code.lines().any(|line| has_word(line, &name))).count();
            uses.insert(name, count);
        }
    }
    assert!(!uses.is_empty(), "there is a file of limits");
    let unused: Vec<String> =
        uses.into_iter().filter(|(_, count)| *count == 0).map(|(name, _)| name).collect();
    assert_none("limits that nothing reads", unused);
}

/// Whoever adds a bound shows that it holds. What stands below `// Tuning:` refuses nothing.
#[test]
fn every_bound_has_a_test() {
    let bare = sources();
    // What is there and is not there without tests is in a test.
    let mut tests = String::new();
    for source in &bare {
        let whole = Source::read(root(), source.path.clone()).code;
        for (line, code) in whole.lines().zip(source.code.lines()) {
            if source.is_test || line != code {
                tests.push_str(line);
                tests.push('\n');
            }
        }
    }
    let mut bounds = 0;
    let mut offences = Vec::new();
    for source in bare.iter().filter(|source| !source.is_test) {
        let of_limits = source.path.ends_with("src/limits.rs");
        if !of_limits && !source.path.starts_with("oci") {
            continue;
        }
        let tuning = source.text.lines().position(|line| line.starts_with("// Tuning:"));
        assert!(tuning.is_some() || !of_limits, "{} tells bounds from tuning", source.path.display());
        for line in source.code.lines().take(tuning.unwrap_or(usize::MAX)) {
            let Some(rest) = line.trim_start().strip_prefix("pub const ") else { continue };
            let name = rest.split(':').next().expect("split yields one").trim();
            if (of_limits || name.ends_with("_MAX")) && !has_word(&tests, name) {
                offences.push(format!("{}: {name}", source.path.display()));
            }
            bounds += 1;
        }
    }
    assert!(bounds > 40, "the bounds were found");
    assert_none("bounds that no test names", offences);
}
