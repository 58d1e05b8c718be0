//! Whatever is in a file, it is read, or told in sentences: no accident makes the reader panic, and what it prints of what
//! it took is taken again and means the same.

use std::path::Path;

use super::{Config, Mistake, RawConfig};

#[path = "../../tests/suite/fuzz/mutate.rs"]
mod mutate;

use mutate::Mutator;

const ROUNDS: u64 = 4_000;
const SECRET: &str = "xq-never-shown-4417";

/// What operators write, right and wrong; `SECRET` stands for one.
const SEEDS: [&str; 12] = [
    "",
    "listen = '0.0.0.0:5000'\nallow_anonymous = true\ndata = '/srv/gantry'\ncores = 4\nio = 'epoll'\n",
    "[limits]\nidle_timeout = '3s'\nconnections = 77\nblob_bytes = '1TiB'\nbody_rate_min_bytes = 2048\n",
    "[cache]\nmax_bytes = 'auto'\nmax_percent = 50\nmanifests_max_bytes = '1GiB'\npin = ['docker.io/library/*']\n\
     [registry]\nmissing_references = 'any'\n",
    "names = ['registry.corp:5000']\nlocal_only = ['acme/*', 'team/**']\nlog = 'debug'\nlog_format = 'json'\n",
    "[[upstream]]\nns = 'docker.io'\nurl = 'https://registry-1.docker.io'\nmirror = 'root'\ntag_ttl = '10m'\n\
     allow = ['library/*']\nimmutable_tags = ['v*']\noffline = 'auto'\ncomplete = 'always'\nbandwidth = '100MB/s'\n",
    "[[upstream]]\nns = 'ghcr.io'\nurl = 'https://ghcr.io'\nprefix = 'ghcr'\nproxy = 'http://proxy:3128'\n\
     timeouts = { connect = '1s', stall = '2s', refused = '3s' }\nbudget_wait = '0s'\nconnections = 8\n\
     [[upstream]]\nns = 'inside:5000'\nprefix = 'inside'\nurl = 'http://inside:5000/path'\n\
     allow_private_addresses = ['10.0.0.0/8', 'fd00::/8']\nrealms = ['auth.inside']\n",
    "[[upstream]]\nns = 'a.test'\nurl = 'https://a.test'\ncredentials = [{ username = 'u', password = 'SECRET' }, \
     { token = 'SECRET' }, { command = ['helper', 'get'] }]\n\
     proxy = { url = 'http://p:1', username = 'u', password = 'SECRET' }\n",
    "[[upstream]]\nns = 'a.test'\nurl = 'https://a.test'\ncredentials = { usrname = 'u', password = 'SECRET' }\n",
    "[[upstream]]\nns = 'a.test'\nurl = 'https://u:SECRET@a.test'\ncredentials = { password_file = 'nowhere/at/all' }\n",
    "lisen = 1\n[limits]\nidle_timeout = 'soon'\n[limits.deeper]\nx = 1979-05-27\n[[cache]]\nmax_percent = 101\n",
    "cores = 0x10\n\"quoted\\u0020key\" = \"\"\"\nlines\n\"\"\"\nx = [1, {y = 2}, inf, nan]\ndata = \"\\u00fc\"\n[upstream]\n",
];

fn read(text: &str) -> Result<Config, Vec<String>> {
    let mut raw = RawConfig::default();
    raw.read_text(Path::new("gantry.toml"), text).map_err(|mistake| vec![mistake.to_string()])?;
    Config::try_from(raw).map_err(|mistakes| mistakes.iter().map(Mistake::to_string).collect())
}

/// Each setting as it is printed, without who set it.
fn settings(config: &Config) -> Vec<(&'static str, String)> {
    let all = config.effective.iter().chain(config.effective_upstreams.iter().flatten());
    all.map(|setting| (setting.key, setting.literal.clone())).collect()
}

/// What is told of it, or printed.
fn check(text: &str) -> String {
    let config = match read(text) {
        Err(mistakes) => {
            assert!(
                !mistakes.is_empty() && mistakes.iter().all(|mistake| mistake.len() > 10),
                "{mistakes:?}"
            );
            return mistakes.join("\n");
        }
        Ok(config) => config,
    };
    let printed = config.print();
    // A password is not printed, and what is printed for it is none.
    if !printed.contains("***") {
        let again = read(&printed).unwrap_or_else(|mistakes| panic!("{mistakes:?} in\n{printed}"));
        assert_eq!(settings(&again), settings(&config), "{text}");
    }
    printed
}

#[test]
fn no_accident_makes_the_reader_panic() {
    let seeds: Vec<String> = SEEDS.iter().map(|seed| seed.replace("SECRET", SECRET)).collect();
    for seed in &seeds {
        let shown = check(seed);
        assert!(!shown.contains(SECRET), "{shown}");
    }
    let rounds = std::env::var("GANTRY_FUZZ_ROUNDS").map_or(ROUNDS, |rounds| rounds.parse().unwrap());
    let inputs: Vec<&[u8]> = seeds.iter().map(String::as_bytes).collect();
    let mut mutator = Mutator::new("config", &inputs);
    for _ in 0..rounds {
        let text = String::from_utf8_lossy(mutator.next()).into_owned();
        if std::panic::catch_unwind(|| check(&text)).is_err() {
            panic!("the reader does not hold for {text:?}");
        }
    }
}
