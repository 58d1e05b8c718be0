//! What operators write, and what they get: precedence, mistakes with their place, printing.

use std::{ffi::OsString, fs, path::Path};

use clap::Parser;

use super::{
    reading::{argument, variable},
    *,
};
use crate::args::{Cli, Command, ConfigCommand};

/// Settings of `gantry config print ARGV` with these variables and, if not empty, this file.
fn read(file: &str, variables: &[(&str, &str)], argv: &[&str]) -> Result<Config, Vec<String>> {
    let cli = Cli::try_parse_from(["gantry", "config", "print"].iter().chain(argv)).unwrap();
    let Command::Config(ConfigCommand::Print(options)) = cli.command else { unreachable!() };
    let variables = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let mut raw = options.gather(variables).map_err(|mistake| vec![mistake.to_string()])?;
    if !file.is_empty() {
        raw.read_text(Path::new("gantry.toml"), file).map_err(|mistake| vec![mistake.to_string()])?;
    }
    Config::try_from(raw).map_err(|mistakes| mistakes.iter().map(Mistake::to_string).collect())
}

fn literal<'a>(config: &'a Config, key: &str) -> &'a str {
    &config.effective.iter().find(|setting| setting.key == key).unwrap().literal
}

/// A value of each setting that is not its default, and how it prints.
const OTHER: &[(&str, &str, &str)] = &[
    ("listen", "[::1]:6000", "\"[::1]:6000\""),
    ("data", "/srv/g", "\"/srv/g\""),
    ("cores", "7", "7"),
    ("io", "epoll", "\"epoll\""),
    ("log_format", "json", "\"json\""),
    ("log", "debug", "\"debug\""),
    ("access_log", "off", "false"),
    ("allow_anonymous", "on", "true"),
    ("local_only", "acme/*, corp/*", "[\"acme/*\", \"corp/*\"]"),
    ("names", "registry.corp:5000", "[\"registry.corp:5000\"]"),
    ("limits.header_timeout", "100ms", "\"100ms\""),
    ("limits.body_stall_timeout", "300ms", "\"300ms\""),
    ("limits.body_rate_min_bytes", "2KiB", "\"2KiB\""),
    ("limits.body_rate_grace", "90s", "\"90s\""),
    ("limits.send_stall_timeout", "2m", "\"2m\""),
    ("limits.idle_timeout", "3h", "\"3h\""),
    ("limits.requests_per_connection", "5", "5"),
    ("limits.connections", "77", "77"),
    ("limits.blob_bytes", "1TiB", "\"1TiB\""),
    ("limits.upload_expiry", "7d", "\"7d\""),
    ("limits.fill_expiry", "2d", "\"2d\""),
    ("limits.drain_timeout", "1s", "\"1s\""),
    ("limits.scrub_interval", "6h", "\"6h\""),
    ("limits.scrub_rate", "50", "50"),
    ("limits.reserve_bytes", "1000", "1000"),
    ("registry.missing_references", "any", "\"any\""),
    ("cache.max_bytes", "50GiB", "\"50GiB\""),
    ("cache.max_percent", "50", "50"),
    ("cache.manifests_max_bytes", "2GiB", "\"2GiB\""),
    ("cache.pin", "docker.io/library/*", "[\"docker.io/library/*\"]"),
];

#[test]
fn defaults() {
    let config = read("", &[], &[]).unwrap();
    assert_eq!(config.listen, "127.0.0.1:5000".parse().unwrap());
    assert_eq!(config.data, Path::new("gantry-data"));
    assert!(config.cores >= 1);
    assert_eq!(config.io, IoChoice::Auto);
    assert_eq!((config.log_format, config.log), (LogFormat::Text, LevelFilter::INFO));
    assert_eq!((config.access_log, config.allow_anonymous), (true, false));
    assert_eq!(config.limits, Limits::default());
    assert_eq!(config.reserve_bytes, limits::RESERVE_BYTES_MIN);
    assert_eq!(config.missing_references, MissingReferences::Reject);
    assert!(config.upstreams.is_empty() && config.local_only.is_empty());
    assert_eq!(
        config.cache,
        CacheSettings { max_bytes: None, max_percent: 80, manifests_max_bytes: 1 << 30, pin: Vec::new() }
    );
    assert!(config.warnings.is_empty());
}

#[test]
fn every_setting_in_every_place() {
    let default = read("", &[], &[]).unwrap();
    let keys: Vec<_> = default.effective.iter().map(|setting| setting.key).collect();
    assert_eq!(keys, OTHER.iter().map(|(key, ..)| *key).collect::<Vec<_>>());
    for (key, value, printed) in OTHER {
        assert_ne!(literal(&default, key), *printed, "{key}");

        let config = read(&format!("{key} = \"{value}\""), &[], &[]).unwrap();
        assert_eq!(literal(&config, key), *printed, "{key} in the file");

        let config = read("", &[(&variable(key), value)], &[]).unwrap();
        assert_eq!(literal(&config, key), *printed, "{key} as a variable");

        if !key.contains('.') {
            let argument = format!("{}={value}", argument(key));
            let config = read("", &[], &[&argument]).unwrap();
            assert_eq!(literal(&config, key), *printed, "{key} as an argument");
        }
    }
}

#[test]
fn an_argument_goes_before_a_variable_before_the_file_before_the_default() {
    let file = "[limits]\nidle_timeout = '3s'\n";
    assert_eq!(literal(&read(file, &[], &[]).unwrap(), "limits.idle_timeout"), "\"3s\"");
    let config = read(file, &[("GANTRY_LIMITS_IDLE_TIMEOUT", "4s")], &[]).unwrap();
    assert_eq!(config.limits.idle_timeout.as_secs(), 4);

    let file = "cores = 3";
    for (variables, argv, cores) in [
        (&[][..], &[][..], 3),
        (&[("GANTRY_CORES", "4")][..], &[][..], 4),
        (&[("GANTRY_CORES", "")][..], &[][..], 3),
        (&[][..], &["--cores", "5"][..], 5),
        (&[("GANTRY_CORES", "4")][..], &["--cores", "5"][..], 5),
    ] {
        assert_eq!(read(file, variables, argv).unwrap().cores, cores, "{variables:?} {argv:?}");
    }
    let config = read("allow_anonymous = true", &[], &["--allow-anonymous=off"]).unwrap();
    assert!(!config.allow_anonymous);
    assert!(read("", &[], &["--allow-anonymous"]).unwrap().allow_anonymous);
}

#[test]
fn the_file_is_named_by_an_argument_or_a_variable() {
    let folder = std::env::temp_dir().join(format!("gantry-config-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let [one, two] = ["one.toml", "two.toml"].map(|name| folder.join(name).display().to_string());
    fs::write(&one, "cores = 1001\n").unwrap();
    fs::write(&two, "cores = 1002\n").unwrap();
    assert_eq!(read("", &[("GANTRY_CONFIG", &one)], &[]).unwrap().cores, 1001);
    let config = read("", &[("GANTRY_CONFIG", &one)], &["--config", &two]).unwrap();
    assert_eq!(config.cores, 1002);
    assert!(config.print().contains(&format!("cores = 1002  # {two}:1\n")), "{}", config.print());

    let missing = folder.join("missing.toml").display().to_string();
    let mistakes = read("", &[], &["--config", &missing]).unwrap_err();
    assert!(mistakes[0].starts_with(&format!("{missing}: cannot be read: ")), "{mistakes:?}");
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn mistakes_say_where_what_and_what_instead() {
    for (file, expected) in [
        ("lisen = '127.0.0.1:1'", "gantry.toml:1: unknown key `lisen`; did you mean `listen`?"),
        (
            "# a comment\n\nlog-format = 'json'",
            "gantry.toml:3: unknown key `log-format`; did you mean `log_format`?",
        ),
        (
            "header_timeout = '5s'",
            "gantry.toml:1: unknown key `header_timeout`; did you mean `limits.header_timeout`?",
        ),
        (
            "[limits]\nheader_time_out = '5s'",
            "gantry.toml:2: unknown key `limits.header_time_out`; did you mean `limits.header_timeout`?",
        ),
        ("[limits]\nlisten = 'x'", "gantry.toml:2: unknown key `limits.listen`; did you mean `listen`?"),
        (
            "[registry]\ncolour = 1",
            "gantry.toml:2: unknown key `registry.colour`; known here: missing_references",
        ),
        ("\n[limit]\nheader_timeout = '5s'", "gantry.toml:2: unknown table `limit`; did you mean `limits`?"),
        (
            "[storage.s3]\nx = 1",
            "gantry.toml:1: unknown table `storage`; known here: [limits], [registry], [cache], \
             [[upstream]]",
        ),
        ("limits = 5", "gantry.toml:1: `limits`: found 5, expected a table"),
        ("[[limits]]", "gantry.toml:1: `limits`: found [[limits]], expected a table"),
        ("[listen]\nip = 1", "gantry.toml:1: `listen`: found a table, expected one value"),
        (
            "[limits]\n\nheader_timeout = \"soon\"",
            "gantry.toml:3: `limits.header_timeout`: found \"soon\", expected a duration from 1ms to 365d, such \
             as \"250ms\", \"10s\", \"5m\" or \"24h\"",
        ),
        ("cores = 0", "gantry.toml:1: `cores`: found 0, expected a whole number from 1 to 1024"),
        ("cores = -1", "gantry.toml:1: `cores`: found -1, expected a whole number from 1 to 1024"),
        ("cores = 1.5", "gantry.toml:1: `cores`: found 1.5, expected a whole number from 1 to 1024"),
        ("cores = [1]", "gantry.toml:1: `cores`: found a list, expected a whole number from 1 to 1024"),
        (
            "listen = 5000",
            "gantry.toml:1: `listen`: found 5000, expected an IP address and a port, such as \
             \"127.0.0.1:5000\" or \"[::1]:5000\"",
        ),
        ("io = true", "gantry.toml:1: `io`: found true, expected \"auto\", \"uring\" or \"epoll\""),
        ("data = ''", "gantry.toml:1: `data`: found \"\", expected a path"),
    ] {
        assert_eq!(read(file, &[], &[]).unwrap_err(), [expected], "{file}");
    }
    for broken in ["listen = ", "listen = 1\nlisten = 2", "[limits\n", "= 1", "a = 'x\n"] {
        let mistakes = read(broken, &[], &[]).unwrap_err();
        assert_eq!(mistakes.len(), 1, "{mistakes:?}");
        assert!(mistakes[0].starts_with("gantry.toml:"), "{mistakes:?}");
        assert!(mistakes[0].contains(": not valid TOML: ") && !mistakes[0].contains('\n'), "{mistakes:?}");
    }
}

#[test]
fn all_mistakes_are_told_at_once_in_the_order_of_the_lines() {
    let file = "zzz = 1\nio = 'ring'\n[limits]\nidle = '1s'\nblob_bytes = 'big'\n";
    let mistakes = read(file, &[("GANTRY_CORES", "many")], &["--log=loud"]).unwrap_err();
    let starts: Vec<_> = mistakes.iter().map(|mistake| mistake.split(": ").next().unwrap()).collect();
    assert_eq!(
        starts,
        ["gantry.toml:1", "gantry.toml:2", "gantry.toml:4", "gantry.toml:5", "GANTRY_CORES", "--log"]
    );
    assert_eq!(
        mistakes[5],
        "--log: found \"loud\", expected \"error\", \"warn\", \"info\", \"debug\" or \"trace\""
    );
}

#[test]
fn a_wrong_value_is_wrong_even_where_it_is_overridden() {
    let mistakes = read("cores = 0", &[], &["--cores=2"]).unwrap_err();
    assert_eq!(mistakes.len(), 1, "{mistakes:?}");
}

#[test]
fn variables_that_look_like_ours_are_warned_about() {
    for (name, expected) in [
        ("GANTRY_LISEN", Some("GANTRY_LISEN is not a setting; did you mean GANTRY_LISTEN?")),
        ("GANTRY_CONFG", Some("GANTRY_CONFG is not a setting; did you mean GANTRY_CONFIG?")),
        (
            "GANTRY_LIMITS_HEADER_TIMEOT",
            Some("GANTRY_LIMITS_HEADER_TIMEOT is not a setting; did you mean GANTRY_LIMITS_HEADER_TIMEOUT?"),
        ),
        ("GANTRY_LIMITS_TEA", Some("GANTRY_LIMITS_TEA is not a setting")),
        ("GANTRY_PORT", None),
        ("GANTRY_PORT_5000_TCP_ADDR", None),
        ("GANTRY_SERVICE_HOST", None),
        ("GANTRY_REQUIRE", None),
        ("OTHER_LISEN", None),
    ] {
        let config = read("", &[(name, "1")], &[]).unwrap();
        assert_eq!(config.warnings.first().map(String::as_str), expected);
        assert!(config.warnings.len() <= 1, "{:?}", config.warnings);
    }
}

#[test]
fn a_variable_that_is_not_utf8_is_refused() {
    use std::os::unix::ffi::OsStringExt;
    let mut raw = RawConfig::default();
    let value = OsString::from_vec(vec![b'/', 0xff]);
    let mistake = raw.read_environment([("GANTRY_DATA".into(), value)]).unwrap_err();
    assert!(mistake.to_string().starts_with("GANTRY_DATA: found "), "{mistake}");
}

#[test]
fn what_is_printed_checks_and_prints_the_same_values() {
    let variables: Vec<(String, &str)> =
        OTHER.iter().map(|(key, value, _)| (variable(key), *value)).collect();
    let variables: Vec<(&str, &str)> =
        variables.iter().map(|(name, value)| (name.as_str(), *value)).collect();
    for config in [read("", &[], &[]).unwrap(), read("", &variables, &["--cores=9"]).unwrap()] {
        let printed = config.print();
        let again = read(&printed, &[], &[]).unwrap();
        assert_eq!(again.limits, config.limits);
        for (before, after) in config.effective.iter().zip(&again.effective) {
            assert_eq!((before.key, &before.literal), (after.key, &after.literal));
        }
    }
    let printed =
        read("io = 'epoll'\n", &[("GANTRY_LIMITS_IDLE_TIMEOUT", "1s")], &["--cores=9"]).unwrap().print();
    for line in [
        "listen = \"127.0.0.1:5000\"  # default\n",
        "cores = 9  # --cores\n",
        "io = \"epoll\"  # gantry.toml:1\n",
        "\n[limits]\nheader_timeout = \"10s\"  # default\n",
        "idle_timeout = \"1s\"  # GANTRY_LIMITS_IDLE_TIMEOUT\n",
        "\n[registry]\nmissing_references = \"reject\"  # default\n",
    ] {
        assert!(printed.contains(line), "{line} in {printed}");
    }
}

#[test]
fn help_and_readme_name_every_setting() {
    let serve = Cli::try_parse_from(["gantry", "serve", "--help"]).unwrap_err().to_string();
    let readme = include_str!("../../README.md");
    for Effective { key, literal, .. } in read("", &[], &[]).unwrap().effective {
        if !key.contains('.') {
            assert!(serve.contains(&format!("[env: {}]", variable(key))), "{key} in {serve}");
            assert!(serve.contains(&argument(key)), "{key} in {serve}");
        }
        // The default of `cores` depends on the machine.
        let default = if key == "cores" { "all" } else { literal.trim_matches('"') };
        let row = format!("| `{key}` | `{}` | {default} |", variable(key));
        assert!(readme.contains(&row), "README.md lacks the row: {row}");
    }
    assert!(serve.contains("[env: GANTRY_CONFIG]") && readme.contains("`GANTRY_CONFIG`"));
}

#[test]
fn commands_are_as_documented() {
    for argv in [
        &["gantry", "serve"][..],
        &["gantry", "config", "check", "gantry.toml"],
        &["gantry", "config", "print", "--io", "epoll"],
        &["gantry", "doctor"],
        &["gantry", "doctor", "--data", "d"],
        &["gantry", "doctor", "--clear-disk-error", "--data", "d"],
        &["gantry", "mirror-config", "containerd"],
        &["gantry", "mirror-config", "podman", "--url", "http://gantry:5000", "--config", "f"],
    ] {
        assert!(Cli::try_parse_from(argv).is_ok(), "{argv:?}");
    }
    for argv in [
        &["gantry"][..],
        &["gantry", "serv"],
        &["gantry", "serve", "--lissen", "x"],
        &["gantry", "config"],
        &["gantry", "config", "check"],
        &["gantry", "mirror-config"],
        &["gantry", "mirror-config", "crane"],
        &["gantry", "doctor", "--repair"],
    ] {
        assert!(Cli::try_parse_from(argv).is_err(), "{argv:?}");
    }
    let version = Cli::try_parse_from(["gantry", "--version"]).unwrap_err().to_string();
    assert_eq!(version, format!("gantry {}\n", env!("CARGO_PKG_VERSION")));
}
