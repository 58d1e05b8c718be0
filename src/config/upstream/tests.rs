//! What operators write about upstreams, and what they get.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};

use controlplane::upstream::{Credentials, Offline};

use super::*;
use crate::config::{Config, RawConfig};

fn read(file: &str) -> Result<Config, Vec<String>> {
    let mut raw = RawConfig::default();
    raw.read_text(Path::new("gantry.toml"), file).map_err(|mistake| vec![mistake.to_string()])?;
    Config::try_from(raw).map_err(|mistakes| mistakes.iter().map(Mistake::to_string).collect())
}

/// The settings of the only upstream, of which `more` is written beside `ns` and `url`.
#[track_caller]
fn hub(more: &str) -> UpstreamSettings {
    let file = format!("[[upstream]]\nns = 'docker.io'\nurl = 'https://registry-1.docker.io'\n{more}\n");
    let mut config = read(&file).unwrap_or_else(|mistakes| panic!("{mistakes:?}"));
    assert_eq!(config.upstreams.len(), 1);
    config.upstreams.remove(0)
}

/// What is wrong with it.
#[track_caller]
fn wrong(more: &str) -> Vec<String> {
    read(&format!("[[upstream]]\nns = 'docker.io'\nurl = 'https://registry-1.docker.io'\n{more}\n"))
        .unwrap_err()
}

#[test]
fn two_keys_are_enough() {
    let settings = hub("");
    let default = UpstreamSettings::new("docker.io", "https://registry-1.docker.io");
    assert_eq!(format!("{settings:?}"), format!("{default:?}"));
    assert!(read("").unwrap().upstreams.is_empty());
}

#[test]
fn every_key_says_what_it_says() {
    let settings = hub(
        "prefix = 'hub'\nmirror = 'root'\nspend_all_budgets = true\nrealms = ['Auth.example.com:8443']\n\
         allow_private_addresses = ['10.0.0.0/8', 'fd00::/8']\nproxy_hosts = ['*.example.com']\n\
         proxy = 'http://proxy:3128'\nbudget_wait = '2s'\nbreaker_failures = 3\nconnections = 8\n\
         bandwidth = '10MB/s'\nallow = ['library/*']\ndeny = ['library/secret']\ntag_ttl = '1m'\n\
         immutable_tags = ['v*']\nstale_while = '0s'\nstale_max = '1d'\nnegative_ttl = '5s'\noffline = 'auto'\n\
         complete_percent = 50\nplatforms = ['linux/amd64']\n\
         timeouts = { connect = '1s', first_byte = '2s', stall = '3s', body_rate_min_bytes = '1KiB', \
         body_rate_grace = '9s', document = '4s', token = '5s', \
         breaker = '6s', rejected = '7s', refused = '8s' }",
    );
    let seconds = Duration::from_secs;
    let networks = ["10.0.0.0/8", "fd00::/8"].map(|network| Network::parse(network).unwrap());
    let expected = UpstreamSettings {
        prefix: "hub".to_owned(),
        is_root: true,
        spend_all_budgets: true,
        realms: vec!["auth.example.com:8443".to_owned()],
        allow_private_addresses: AllowPrivate::Networks(networks.to_vec()),
        proxy_hosts: vec!["*.example.com".to_owned()],
        proxy: Some(controlplane::upstream::Proxy { url: "http://proxy:3128".to_owned(), credentials: None }),
        breaker_failures: 3,
        connections_max: 8,
        bytes_per_second_max: Some(10_000_000),
        policy: Policy {
            allow: vec!["library/*".to_owned()],
            deny: vec!["library/secret".to_owned()],
            tag_ttl: seconds(60),
            immutable_tags: vec!["v*".to_owned()],
            stale_while: Duration::ZERO,
            stale_max: seconds(86_400),
            negative_ttl: seconds(5),
            offline: Offline::Auto,
            complete: Complete::IfTouchedOver(50),
            platforms: vec![oci::Platform::parse("linux/amd64").unwrap()],
        },
        timeouts: Timeouts {
            connect: seconds(1),
            first_byte: seconds(2),
            stall: seconds(3),
            body_rate_min_bytes: 1024,
            body_rate_grace: seconds(9),
            document: seconds(4),
            token: seconds(5),
            breaker: seconds(6),
            rejected: seconds(7),
            refused: seconds(8),
            budget_wait: seconds(2),
        },
        ..UpstreamSettings::new("docker.io", "https://registry-1.docker.io")
    };
    assert_eq!(format!("{settings:?}"), format!("{expected:?}"));

    for (more, complete) in
        [("complete = 'always'", Complete::Always), ("complete = 'never'", Complete::Never)]
    {
        assert_eq!(hub(more).policy.complete, complete);
    }
    for (more, offline) in [("offline = true", Offline::Always), ("offline = false", Offline::Never)] {
        assert_eq!(hub(more).policy.offline, offline);
    }
    assert_eq!(hub("allow_private_addresses = true").allow_private_addresses, AllowPrivate::All);
    assert_eq!(hub("allow_private_addresses = false").allow_private_addresses, AllowPrivate::No);
    assert_eq!(hub("[upstream.timeouts]\nstall = '9s'").timeouts.stall, seconds(9));
    assert_eq!(hub("timeouts.stall = '9s'").timeouts.stall, seconds(9));
}

#[test]
fn docker_hub_adds_library_and_every_upstream_has_its_names() {
    let config = read(
        "names = ['Registry.corp:5000']\n\
         [[upstream]]\nns = 'Index.docker.io'\nprefix = 'hub'\nurl = 'https://registry-1.docker.io/'\n\
         [[upstream]]\nns = 'GHCR.io'\nurl = 'https://ghcr.io'\n\
         [[upstream]]\nns = 'localhost:5001'\nprefix = 'dev'\nurl = 'http://localhost:5001/a/'\n\
         allow_private_addresses = true\n",
    )
    .unwrap();
    let names: Vec<_> =
        config.namespaces.iter().map(|one| (&*one.ns, &*one.prefix, one.adds_library)).collect();
    assert_eq!(
        names,
        [("index.docker.io", "hub", true), ("ghcr.io", "ghcr.io", false), ("localhost:5001", "dev", false)]
    );
    let urls: Vec<_> = config.upstreams.iter().map(|upstream| &*upstream.url).collect();
    assert_eq!(urls, ["https://registry-1.docker.io", "https://ghcr.io", "http://localhost:5001/a"]);
    let asked = config.namespaces.parse(oci::Method::Get, b"/v2/a/tags/list?ns=registry.corp:5000").unwrap();
    assert_eq!(asked.endpoint.repository().unwrap().as_str(), "a");
}

#[test]
fn credentials_have_three_forms_and_the_next_is_for_when_one_is_rejected() {
    let user = |name: &str, password: &str| Credentials::User {
        username: name.to_owned(),
        password: password.into(),
    };
    let argv =
        |argv: &[&str]| Credentials::Command { argv: argv.iter().map(|&text| text.to_owned()).collect() };
    let folder = std::env::temp_dir().join(format!("gantry-credentials-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let file = folder.join("password").display().to_string();
    fs::write(&file, "from a file\n").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    for (more, expected) in [
        ("credentials = { username = 'u', password = 'p' }".to_owned(), vec![user("u", "p")]),
        (
            format!("[upstream.credentials]\nusername = 'u'\npassword_file = '{file}'"),
            vec![user("u", "from a file")],
        ),
        ("credentials = { token = 't' }".to_owned(), vec![Credentials::IdentityToken("t".into())]),
        (
            format!(
                "[[upstream.credentials]]\ntoken_file = '{file}'\n[[upstream.credentials]]\ncommand = 'get it'"
            ),
            vec![Credentials::IdentityToken("from a file".into()), argv(&["get", "it"])],
        ),
        (
            "credentials = [{ username = 'a', password = 'b' }, { command = ['a b', 'c'] }]".to_owned(),
            vec![user("a", "b"), argv(&["a b", "c"])],
        ),
    ] {
        assert_eq!(hub(&more).credentials, expected, "{more}");
    }
    let proxy = hub(&format!("proxy = {{ url = 'http://p:1', username = 'u', password_file = '{file}' }}"))
        .proxy
        .unwrap();
    assert_eq!((&*proxy.url, proxy.credentials.unwrap().1.reveal()), ("http://p:1", "from a file"));

    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let text =
        format!("[[upstream]]\nns = 'a'\nurl = 'https://a'\ncredentials = {{ token_file = '{file}' }}");
    let warnings = read(&text).unwrap().warnings;
    assert!(warnings.len() == 1 && warnings[0].starts_with(&format!("{file}: everybody")), "{warnings:?}");
    fs::remove_dir_all(folder).unwrap();
}

/// Whatever is wrong about it, or right.
#[test]
fn nothing_secret_is_printed() {
    for more in [
        "credentials = 'u:hunter2'",
        "credentials = ['hunter2']",
        "credentials = { username = 'u:hunter2', password = 'hunter2' }",
        "credentials = { username = 'u', pasword = 'hunter2' }",
        "credentials = { username = 'u', password = ['hunter2'] }",
        "credentials = { username = 'u', password = 'hunter2', token = 'hunter2' }",
        "credentials = { username = 'u', password = 'hunter2', password_file = '/f' }",
        "proxy = 'http://u:hunter2@proxy:1'",
        "proxy = { url = 'http://u:hunter2@proxy:1' }",
        "proxy = { url = 'http://proxy:1', password = 'hunter2' }",
        "proxy = 'u:hunter2@proxy'",
        "proxy = [{ url = 'http://proxy:1', password = 'hunter2' }]",
        "username = { password = 'hunter2' }",
        "credentials = { username = { password = 'hunter2' } }",
        "credentials = { username = ['u', 'hunter2'], password = 'p' }",
        "realms = ['https://u:hunter2@realm']",
        "realms = { password = 'hunter2' }",
        "proxy_hosts = ['u:hunter2@cdn']",
        "bandwidth = ['hunter2']",
        "timeouts = ['hunter2']",
        "timeouts = { stall = { password = 'hunter2' } }",
    ] {
        let said = format!("{:?}", wrong(more));
        assert!(!said.contains("hunter2") && said.contains("gantry.toml:4"), "{more}: {said}");
    }
    for file in [
        "[[upstream]]\nns = 'a'\nurl = 'https://u:hunter2@a'",
        "[[upstream]]\nns = 'a'\nurl = ['https://u:hunter2@a']",
        "[[upstream]]\nns = 'https://u:hunter2@a'\nurl = 'https://a'",
        "upstream = [{ ns = 'a', credentials = { password = 'hunter2' } }, 'x']",
        "upstream = { ns = 'a', credentials = { password = 'hunter2' } }",
        "names = ['https://u:hunter2@a']",
    ] {
        let said = format!("{:?}", read(file).unwrap_err());
        assert!(!said.contains("hunter2") && said.contains("gantry.toml:"), "{file}: {said}");
    }

    let config = read(
        "[[upstream]]\nns = 'a'\nurl = 'https://a'\n\
         credentials = [{ username = 'u', password = 'hunter2' }, { token = 'hunter2' }]\n\
         proxy = { url = 'http://p', username = 'u', password = 'hunter2' }\n",
    )
    .unwrap();
    assert!(!format!("{} {config:?}", config.print()).contains("hunter2"));
    assert!(
        config
            .print()
            .contains("credentials = [{ username = \"u\", password = \"***\" }, { token = \"***\" }]")
    );
}

#[test]
fn what_is_printed_reads_back_but_for_what_is_hidden() {
    let file = "names = ['here:1']\n[[upstream]]\nns = 'docker.io'\nurl = 'https://registry-1.docker.io'\n\
                mirror = 'root'\ncredentials = [{ command = ['a', 'b c'] }]\nbandwidth = '5MiB/s'\n\
                allow_private_addresses = ['10.0.0.0/8']\nproxy = { url = 'http://p:1' }\noffline = 'auto'\n\
                timeouts.stall = '5s'\nplatforms = ['linux/amd64', 'linux/arm64']\nstale_max = '0s'\n\
                [[upstream]]\nns = 'b:1'\nprefix = 'b'\nurl = 'https://b:1'\ncomplete = 'never'\n";
    let config = read(file).unwrap();
    let printed = config.print();
    let again = read(&printed).unwrap_or_else(|mistakes| panic!("{mistakes:?} in {printed}"));
    assert_eq!(format!("{:?}", again.upstreams), format!("{:?}", config.upstreams));
    assert_eq!(format!("{:?}", again.namespaces), format!("{:?}", config.namespaces));
    for line in [
        "\n[[upstream]]\nns = \"docker.io\"  # gantry.toml:3\n",
        "prefix = \"docker.io\"  # default\n",
        "timeouts.stall = \"5s\"  # gantry.toml:11\n",
        "timeouts.connect = \"5s\"  # default\n",
    ] {
        assert!(printed.contains(line), "{line} in {printed}");
    }
    let hidden = wrong("credentials = { username = 'u', password = '***' }");
    assert_eq!(
        hidden,
        [
            "gantry.toml:4: `upstream.credentials.password`: found \"***\", expected a text that is not empty; *** is \
          only how one is printed"
        ]
    );
}

#[test]
fn mistakes_say_where_what_and_what_instead() {
    for (more, expected) in [
        ("tagttl = '1m'", "gantry.toml:4: unknown key `upstream.tagttl`; did you mean `upstream.tag_ttl`?"),
        (
            "stall = '1m'",
            "gantry.toml:4: unknown key `upstream.stall`; did you mean `upstream.timeouts.stall`?",
        ),
        ("listen = '[::1]:1'", "gantry.toml:4: unknown key `upstream.listen`; did you mean `listen`?"),
        (
            "[upstream.timeouts]\nconect = '1s'",
            "gantry.toml:5: unknown key `upstream.timeouts.conect`; did you mean `upstream.timeouts.connect`?",
        ),
        (
            "credentials = { username = 'u', passwort = 'p' }",
            "gantry.toml:4: unknown key `upstream.credentials.passwort`; did you mean `upstream.credentials.password`?",
        ),
        (
            "tag_ttl = 10",
            "gantry.toml:4: `upstream.tag_ttl`: found 10, expected a duration up to 365d, such as \"10m\" or \"24h\", or \"0s\"",
        ),
        (
            "mirror = 'yes'",
            "gantry.toml:4: `upstream.mirror`: found \"yes\", expected \"root\", or no such key",
        ),
        (
            "allow = [\n  'library/*',\n  'a b',\n]",
            "gantry.toml:6: `upstream.allow`: found \"a b\", expected a pattern of names such as \"acme/*\", without a host, of at most \
             255 letters, digits, `.`, `_`, `-`, `/` and `*`",
        ),
        (
            "allow = 5",
            "gantry.toml:4: `upstream.allow`: found 5, expected a list of patterns such as [\"acme/*\"]",
        ),
        (
            "bandwidth = '100MB'",
            "gantry.toml:4: `upstream.bandwidth`: found \"100MB\", expected bytes a second, such as \"100MB/s\" or \"10MiB/s\"",
        ),
        (
            "connections = 1",
            "gantry.toml:4: `upstream.connections`: found 1, expected a whole number from 2 to 1000",
        ),
        (
            "allow_private_addresses = 'yes'",
            "gantry.toml:4: `upstream.allow_private_addresses`: found \"yes\", expected true, false, or a list of networks \
             such as [\"10.0.0.0/8\"]",
        ),
        (
            "allow_private_addresses = ['10.0.0.0/33']",
            "gantry.toml:4: `upstream.allow_private_addresses`: found \"10.0.0.0/33\", expected a network such as \
             \"10.0.0.0/8\" or \"fd00::/8\"",
        ),
        (
            "complete = 'never'\ncomplete_percent = 5",
            "gantry.toml:5: `upstream.complete_percent`: it says something only with complete = \"if_touched_over\"",
        ),
        (
            "timeouts = '5s'",
            "gantry.toml:4: `upstream.timeouts`: found \"5s\", expected a table, such as { connect = \"5s\", stall = \"30s\" }",
        ),
        (
            "client_key = '/k'",
            "gantry.toml:4: `upstream.client_key`: there is no `client_certificate` beside it",
        ),
        (
            "proxy = { url = 'http://p', username = 'u' }",
            "gantry.toml:4: `upstream.proxy`: found `url`, `username`, expected `url`, and `username` with `password` or \
             `password_file`, or neither",
        ),
        (
            "proxy = {}",
            "gantry.toml:4: `upstream.proxy.url`: found nothing, expected \"http://host:port\" or \"https://host:port\"; a proxy that wants a name and a password is { url = …, username = …, password_file = … }",
        ),
        (
            "credentials = {}",
            "gantry.toml:4: `upstream.credentials`: found nothing, expected one of: `username` with `password` or `password_file`; `token` or `token_file`; `command`",
        ),
        (
            "credentials = { username = 'u', token = 't' }",
            "gantry.toml:4: `upstream.credentials`: found `username`, `token`, expected one of: `username` with \
             `password` or `password_file`; `token` or `token_file`; `command`",
        ),
        (
            "credentials = { token = 'a', token_file = '/b' }",
            "gantry.toml:4: `upstream.credentials.token_file`: found a file beside the secret itself, expected only one of the two",
        ),
    ] {
        let said = wrong(more);
        assert_eq!(said, [expected], "{more}");
    }
    for (file, expected) in [
        (
            "[[upstream]]\nurl = 'https://a'",
            "gantry.toml:1: `upstream.ns`: found nothing, expected a registry's host, and its port if it is not 443, such as \"docker.io\" or \"registry.corp:5000\"",
        ),
        (
            "[[upstream]]\nns = 'a'",
            "gantry.toml:1: `upstream.url`: found nothing, expected an address such as \"https://registry-1.docker.io\", without a name, a password or a query",
        ),
        (
            "[upstream]\nns = 'a'",
            "gantry.toml:1: `upstream`: found [upstream], expected [[upstream]], with two brackets, before each of them",
        ),
        (
            "upstream = 5",
            "gantry.toml:1: `upstream`: found 5, expected [[upstream]], with two brackets, before each of them",
        ),
        ("[[upstrem]]\nns = 'a'", "gantry.toml:1: unknown table `upstrem`; did you mean `upstream`?"),
        (
            "[[storage]]\nx = 1",
            "gantry.toml:1: unknown table `storage`; known here: [limits], [registry], [cache], [[upstream]]",
        ),
        (
            "[[upstream]]\nns = 'a:1'\nurl = 'https://a:1'",
            "gantry.toml:1: `upstream.prefix`: found nothing, and the ns \"a:1\" can't be one, expected one component of a \
             repository's name (lower-case letters and digits, with `.`, `_` or `-` between them), but not \"v2\"",
        ),
        (
            "[[upstream]]\nns = 'a'\nurl = 'http://a'",
            "gantry.toml:3: `upstream.url`: http:// sends everything, credentials too, as it is; write https://, or \
             allow_private_addresses for an upstream inside your own network",
        ),
        (
            "cache.max_percent = 101",
            "gantry.toml:1: `cache.max_percent`: found 101, expected a whole number of percent, 1 to 100",
        ),
        (
            "cache.max_bytes = 'all'",
            "gantry.toml:1: `cache.max_bytes`: found \"all\", expected a size such as \"100GiB\", or \"auto\"",
        ),
        (
            "names = ['a', 'b/c']",
            "gantry.toml:1: `names`: found \"b/c\", expected a registry's host, and its port if it is not 443, such as \"docker.io\" or \"registry.corp:5000\"",
        ),
    ] {
        assert_eq!(read(file).unwrap_err(), [expected], "{file}");
    }
    for (more, starts) in [
        (
            "credentials = { token_file = '/none/t' }",
            "gantry.toml:4: `upstream.credentials.token_file`: /none/t: it can't be read: ",
        ),
        ("ca_file = '/none/ca'", "gantry.toml:4: `upstream.ca_file`: /none/ca: it can't be read: "),
    ] {
        let said = wrong(more);
        assert!(said.len() == 1 && said[0].starts_with(starts), "{said:?}");
    }
}

#[test]
fn what_would_mean_nothing_is_told() {
    for (more, expected) in [
        ("deny = ['nginx']", "`upstream.deny`: \"nginx\" matches no repository there"),
        ("allow = ['library/*', '*']", "`upstream.allow`: \"*\" matches no repository there"),
        ("proxy_hosts = ['cdn']", "`upstream.proxy_hosts`: it says something only with `proxy`"),
        (
            "allow_private_addresses = ['10.0.0.0/8', '169.254.0.0/16']",
            "`upstream.allow_private_addresses`: it names a network that is never connected to",
        ),
        ("stale_max = '5m'\nstale_while = '6m'", "`upstream.stale_while`: it is longer than stale_max"),
    ] {
        let said =
            read(&format!("[[upstream]]\nns = 'docker.io'\nurl = 'https://registry-1.docker.io'\n{more}\n"))
                .unwrap_err();
        assert!(said.len() == 1 && said[0].contains(expected), "{more}: {said:?}");
    }
    for right in [
        "deny = ['library/nginx', '**']",
        "stale_max = '5m'",
        "proxy = 'http://p:1'\nproxy_hosts = ['cdn']",
        "allow_private_addresses = ['0.0.0.0/0', '10.1.0.0/16']",
    ] {
        hub(right);
    }
    let quay = "[[upstream]]\nns = 'quay.io'\nurl = 'https://quay.io'\n";
    read(&format!("{quay}allow = ['nginx']\n")).unwrap();
    for (file, expected) in [
        (
            format!("{quay}[[upstream]]\nns = 'a'\nprefix = 'quay.io'\nurl = 'https://a'\n")
                .replace("url = 'https://quay.io'", "url = 'https://quay.io'\nprefix = 'q'"),
            "`upstream.prefix`: \"quay.io\" is the ns of another [[upstream]]",
        ),
        ("[[upstream]]\nns = 'a'\nurl = 'https://a/v2/'\n".to_owned(), "`upstream.url`: it ends before /v2"),
    ] {
        let said = read(&file).unwrap_err();
        assert!(said.len() == 1 && said[0].contains(expected), "{file}: {said:?}");
    }
}

#[test]
fn a_pattern_that_keeps_nothing_in_is_told() {
    let hub = "[[upstream]]\nns = 'docker.io'\nprefix = 'hub'\nurl = 'https://registry-1.docker.io'\n";
    let quay = "[[upstream]]\nns = 'quay.io'\nurl = 'https://quay.io'\n";
    let with = |patterns: &str, more: &str| {
        read(&format!("names = ['gantry.corp']\nlocal_only = [{patterns}]\n{more}{hub}{quay}"))
    };
    let quays = "what is below \"quay.io\" is always that [[upstream]]'s, and never local; write \"acme/*\" for names \
                 without a prefix, or deny = [\"acme/*\"] in that [[upstream]] for what is not to be asked for there";
    let host = |host: &str| {
        format!("\"{host}\" is a registry's host, and no name here begins with one; write \"acme/*\"")
    };
    for (pattern, why) in [
        ("quay.io/acme/*", quays.to_owned()),
        ("hub/acme/*", quays.replace("quay.io", "hub")),
        // By another of its names, and by ours.
        ("docker.io/acme/*", host("docker.io")),
        ("index.docker.io/acme/*", host("index.docker.io")),
        ("gantry.corp/acme/*", host("gantry.corp")),
        ("acme/", "\"acme/\" matches no name: a name has small letters".to_owned()),
        ("Acme/*", "\"Acme/*\" matches no name: a name has small letters".to_owned()),
        ("/acme/*", "\"/acme/*\" matches no name: a name has small letters".to_owned()),
    ] {
        let said = with(&format!("'team/*', '{pattern}'"), "").unwrap_err();
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].starts_with(&format!("gantry.toml:2: `local_only`: {why}")), "{said:?}");
    }
    let said = with("'gantry.corp:5000/acme/*'", "").unwrap_err();
    assert!(
        said.len() == 1 && said[0].contains("gantry.toml:2") && said[0].contains("without a host"),
        "{said:?}"
    );
    // Of another registry's name nobody knows that it is one: copies of its images may be called so here.
    with("'acme/*', '*/internal', 'ghcr.io/*', 'qu*/acme', 'quay.io', 'a*-b_c.d/**'", "").unwrap();
    for key in ["allow", "deny"] {
        let said = with("", &format!("[[upstream]]\nns = 'a'\nurl = 'https://a'\n{key} = ['acme/']\n"));
        let said = said.unwrap_err();
        assert!(said.len() == 1 && said[0].contains("\"acme/\" matches no repository: "), "{said:?}");
    }
}

#[test]
fn names_that_are_taken_name_both_lines() {
    let hub = "[[upstream]]\nns = 'docker.io'\nurl = 'https://registry-1.docker.io'\nmirror = 'root'\n";
    for (more, expected) in [
        (
            "[[upstream]]\nns = 'Registry-1.docker.io:443'\nprefix = 'other'\nurl = 'https://a'",
            "gantry.toml:6: `upstream.ns`: found \"registry-1.docker.io:443\", which is taken by gantry.toml:2, expected \
             another one",
        ),
        (
            "[[upstream]]\nns = 'a'\nprefix = 'docker.io'\nurl = 'https://a'",
            "gantry.toml:7: `upstream.prefix`: found \"docker.io\", which is taken by gantry.toml:2, expected another one",
        ),
        (
            "[[upstream]]\nns = 'a'\nurl = 'https://a'\nmirror = 'root'",
            "gantry.toml:8: `upstream.mirror`: found \"root\", which is taken by gantry.toml:4, expected another one",
        ),
    ] {
        assert_eq!(read(&format!("{hub}{more}\n")).unwrap_err(), [expected], "{more}");
    }
    assert_eq!(
        read(&format!("names = ['docker.io']\n{hub}")).unwrap_err(),
        [
            "gantry.toml:1: `names`: \"docker.io\" is the ns of an [[upstream]]: it can't be this registry's own name"
        ]
    );
}

#[test]
fn there_are_only_so_many() {
    let some = |count: usize| -> String {
        (0..count).map(|n| format!("[[upstream]]\nns = 'r{n}'\nurl = 'https://r{n}'\n")).collect()
    };
    assert_eq!(read(&some(UPSTREAMS)).unwrap().upstreams.len(), UPSTREAMS);
    let line = 3 * UPSTREAMS + 1;
    assert_eq!(
        read(&some(UPSTREAMS + 1)).unwrap_err(),
        [format!("gantry.toml:{line}: `upstream`: found one more than can be, expected at most 256 of them")]
    );
    assert_eq!(UPSTREAMS, 256);
}

/// A date is a value of no key: whoever knows the key says so.
#[test]
fn every_known_key_is_read() {
    for key in KEYS {
        let said = read(&format!("[[upstream]]\n{key} = 1979-05-27\n")).unwrap_err().join("\n");
        assert!(said.contains(&format!("`upstream.{key}`: found ")), "{key}: {said}");
        assert!(!said.contains("unknown key"), "{key}: {said}");
    }
}

#[test]
fn the_readme_names_every_key_and_its_default() {
    let readme = include_str!("../../../README.md");
    let config = read("[[upstream]]\nns = 'a'\nurl = 'https://a'").unwrap();
    for key in KEYS {
        let word =
            key.rsplit_once('.').filter(|(table, _)| *table != "timeouts").map_or(key, |(_, word)| word);
        let default =
            config.effective_upstreams[0].iter().find(|one| one.key == key && one.origin == Origin::Default);
        let named = match default {
            Some(_) if key == "prefix" => format!("| `{key}` | the `ns` |"),
            Some(default) => format!("| `{key}` | {} |", default.literal.trim_matches('"')),
            None => word.to_owned(),
        };
        assert!(readme.contains(&named), "README.md lacks: {named}");
    }
}
