//! Every fuzz target holds for its seeds, and for what some thousand small accidents make of them.
//!
//! The targets are those of `tests/fuzz`, where cargo-fuzz runs them too. `GANTRY_FUZZ_ROUNDS` sets how many
//! mutations each gets here; the same number always makes the same inputs.

mod mutate;
#[path = "../../fuzz/src/lib.rs"]
mod targets;

use std::{
    collections::BTreeSet,
    fs,
    panic::catch_unwind,
    path::{Path, PathBuf},
};

use crate::harness::beside;

use mutate::Mutator;

const ROUNDS: u64 = 20_000;
const SEEDS_MIN: usize = 8;

fn rounds() -> u64 {
    match std::env::var("GANTRY_FUZZ_ROUNDS") {
        Ok(rounds) => rounds.parse().expect("GANTRY_FUZZ_ROUNDS is a number"),
        Err(_) => ROUNDS,
    }
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz").join(name)
}

/// What a folder of `tests/fuzz` has an entry for, without `.rs`.
fn entries(name: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(folder(name)).expect("a folder of tests/fuzz");
    let names = entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("ASCII"));
    names.map(|name| name.strip_suffix(".rs").unwrap_or(&name).to_owned()).collect()
}

fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    let seeds = format!("seeds/{target}");
    let read = |name: String| {
        let bytes = fs::read(folder(&seeds).join(&name)).expect("a seed is a file");
        (name, bytes)
    };
    entries(&seeds).into_iter().map(read).collect()
}

fn replay(name: &str, target: fn(&[u8])) {
    let check = |origin: &str, input: &[u8]| {
        if catch_unwind(|| target(input)).is_err() {
            panic!("{name} does not hold for {origin}: b\"{}\"", input.escape_ascii());
        }
    };
    let _machine = beside();
    let seeds = seeds(name);
    for (seed, bytes) in &seeds {
        check(&format!("the seed {seed}"), bytes);
    }
    let inputs: Vec<&[u8]> = seeds.iter().map(|(_, bytes)| bytes.as_slice()).collect();
    let mut mutator = Mutator::new(name, &inputs);
    for round in 0..rounds() {
        check(&format!("round {round}"), mutator.next());
    }
}

/// A test for each target, and the list of their names.
macro_rules! replay {
    ($($name:ident)*) => {
        const REPLAYED: &[&str] = &[$(stringify!($name)),*];
        $(#[test] fn $name() { replay(stringify!($name), targets::$name); })*
    };
}

replay! {
    cache_index
    challenge
    chunk_range
    chunked
    conditional
    content_range
    digest
    endpoint
    fill_journal
    head
    link
    location
    manifest
    media_type
    name
    page
    range
    rate_limit
    record
    token
}

#[test]
fn no_target_is_forgotten() {
    let replayed: BTreeSet<String> = REPLAYED.iter().map(|name| name.to_string()).collect();
    let mut sources = entries("src");
    assert!(sources.remove("lib"), "the list of targets");
    assert_eq!(sources, replayed, "a file each in src/");
    assert_eq!(entries("fuzz_targets"), replayed, "a file each in fuzz_targets/");
    assert_eq!(entries("seeds"), replayed, "a folder each in seeds/");

    let manifest = fs::read_to_string(folder("Cargo.toml")).expect("tests/fuzz/Cargo.toml");
    let manifest: toml::Table = toml::from_str(&manifest).expect("a manifest is TOML");
    let programs = manifest["bin"].as_array().expect("a list of [[bin]]");
    let named = |program: &toml::Value| {
        let name = program["name"].as_str().expect("a program has a name").to_owned();
        assert_eq!(program["path"].as_str(), Some(format!("fuzz_targets/{name}.rs").as_str()));
        name
    };
    assert_eq!(programs.iter().map(named).collect::<BTreeSet<String>>(), replayed, "a [[bin]] each");

    for name in REPLAYED {
        let program = fs::read_to_string(folder("fuzz_targets").join(format!("{name}.rs")));
        let call = format!("gantry_fuzz::{name}(bytes)");
        assert!(program.expect("it is there").contains(&call), "fuzz_targets/{name}.rs calls {call}");
        assert!(seeds(name).len() >= SEEDS_MIN, "{name} has fewer than {SEEDS_MIN} seeds");
    }
}
