//! The rules of one upstream that need nobody to answer.

use super::*;

fn settings(url: &str) -> UpstreamSettings {
    UpstreamSettings::new("a", url)
}

fn refused(change: impl FnOnce(&mut UpstreamSettings)) -> &'static str {
    let mut settings = settings("https://a");
    change(&mut settings);
    Upstream::new(settings).err().map_or("nothing", |error| error.field)
}

#[test]
fn what_is_wrong_is_said_by_its_field() {
    assert_eq!(refused(|_| {}), "nothing");
    assert_eq!(refused(|all| all.url = "https://a:5000/artifactory/docker/".into()), "nothing");
    for url in [
        "",
        "a",
        "docker.io",
        "ftp://a",
        "https://u:p@a",
        "https://a?b",
        "http://a",
        "https://a/v2",
        "https://a/b/v2/",
    ] {
        assert_eq!(refused(|all| all.url = url.into()), "url", "{url}");
    }
    let http = |all: &mut UpstreamSettings| {
        all.url = "http://a".into();
        all.allow_private_addresses = AllowPrivate::Networks(vec![Network::parse("10.0.0.0/8").unwrap()]);
    };
    assert_eq!(refused(http), "nothing");
    assert_eq!(refused(|all| all.connections_max = 1), "connections_max");
    assert_eq!(refused(|all| all.breaker_failures = 0), "breaker_failures");
    assert_eq!(refused(|all| all.timeouts.refused = Duration::ZERO), "timeouts");
    assert_eq!(refused(|all| all.bytes_per_second_max = Some(0)), "bytes_per_second_max");
    assert_eq!(refused(|all| all.realms = vec!["https://a".into()]), "realms");
    assert_eq!(refused(|all| all.proxy_hosts = vec!["".into()]), "proxy_hosts");
    assert_eq!(refused(|all| all.ca_pem = Some(b"no".to_vec())), "ca_pem");
    let command = |all: &mut UpstreamSettings| all.credentials = vec![Credentials::Command { argv: vec![] }];
    assert_eq!(refused(command), "credentials");
    let proxy = |all: &mut UpstreamSettings| all.proxy = Some(Proxy { url: "a:1".into(), credentials: None });
    assert_eq!(refused(proxy), "proxy");
    let certificate = |all: &mut UpstreamSettings| {
        let (chain_pem, key_pem) = (b"no".to_vec(), Secret::from("no"));
        all.client_certificate = Some(ClientCertificate { chain_pem, key_pem });
    };
    assert_eq!(refused(certificate), "client_certificate");
}

#[test]
fn a_secret_is_in_no_debug_text() {
    let mut settings = settings("https://a");
    settings.credentials = vec![
        Credentials::User { username: "u".into(), password: Secret::from("hunter2") },
        Credentials::IdentityToken(Secret::from("hunter2")),
    ];
    settings.proxy =
        Some(Proxy { url: "http://a:1".into(), credentials: Some(("u".into(), "hunter2".into())) });
    assert!(!format!("{settings:?}").contains("hunter2"));
}

#[test]
fn a_206_has_to_be_what_was_asked() {
    let span = |first, last, size_bytes| Span { first, last, size_bytes };
    for (span, from, to, expect) in [
        (span(5, 9, Some(10)), 5, None, true),
        (span(5, 8, Some(10)), 5, None, false),
        (span(5, 8, None), 5, None, true),
        (span(5, 8, Some(10)), 5, Some(9), true),
        (span(5, 9, Some(10)), 5, Some(20), true),
        (span(5, 9, Some(10)), 5, Some(9), false),
        (span(5, 7, Some(10)), 5, Some(9), false),
        (span(5, 7, None), 5, Some(9), false),
        (span(4, 8, Some(10)), 5, Some(9), false),
        (span(0, 9, Some(10)), 5, None, false),
    ] {
        assert_eq!(is_asked(span, from, to), expect, "{span:?} {from} {to:?}");
    }
}

#[test]
fn seconds_are_rounded_up() {
    for (ms, seconds) in [(0, 1), (1, 1), (1000, 1), (1001, 2), (u64::MAX, u32::MAX)] {
        assert_eq!(whole_seconds(Duration::from_millis(ms)), seconds);
    }
}
