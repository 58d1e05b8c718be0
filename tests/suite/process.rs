//! The process as an operator meets it: what it prints, refuses, logs and counts.

use std::{fs, path::Path, process::Command, time::Duration};

use serde_json::Value;

use crate::harness::{Launch, Server, TempDir, legs, noise, wait_for};

/// Exit status, and stdout and stderr in one.
fn gantry(args: &[&str], data: &Path) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gantry"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("GANTRY_")) {
        command.env_remove(name);
    }
    let output = command.args(args).current_dir(data).output().expect("the binary runs");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(said).expect("it prints text"))
}

/// The log's events about requests, once there are `count`.
fn access_events(server: &Server, path: &str, count: usize) -> Vec<Value> {
    let read = || -> Vec<Value> {
        let lines = server.log().into_iter().filter(|line| line.contains(path));
        lines.map(|line| serde_json::from_str(&line).expect("the log is JSON")).collect()
    };
    wait_for("the requests are logged", Duration::from_secs(5), || read().len() >= count);
    read()
}

legs! {
    fn health(leg) {
        let server = Launch::on(leg).cores(3).start();
        let mut client = server.client();
        for path in ["/livez", "/readyz", "/healthz"] {
            client.get(path).expect(200);
            client.head(path).expect(200);
            client.request("POST", path).send().expect(405);
        }
        let health = server.health();
        let drivers: Vec<_> = health["cores"].as_array().unwrap().iter().map(|core| core["driver"].clone()).collect();
        assert_eq!(drivers, [leg.name(); 3]);
        assert_eq!((&health["writes"]["allowed"], &health["writes"]["why"]), (&Value::Bool(true), &Value::Null));
        assert!(health["disk"]["free_bytes"].as_u64().is_some_and(|free| free > 0), "{health}");
    }

    /// OpenMetrics text, of which the families that the issue names go up with what they count.
    fn metrics(leg) {
        let server = Server::start(leg);
        let text = |server: &Server| String::from_utf8(server.client().get("/metrics").expect(200).body).unwrap();
        let answer = server.client().get("/metrics").expect(200);
        assert!(answer.header("content-type").starts_with("application/openmetrics-text"), "{}", answer.text());
        let before = text(&server);
        assert!(before.ends_with("# EOF\n"), "it ends so");
        let digest = server.client().push_blob("process/metrics", &noise(1500, 100_000));
        server.client().assert_blob("process/metrics", digest, &noise(1500, 100_000));
        let after = text(&server);
        let families: Vec<&str> = after.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
        for (what, words) in [
            ("requests", &["request"][..]), ("bytes", &["bytes"]), ("latency", &["seconds"]),
            ("open connections", &["connection"]), ("cold reads", &["cold"]), ("stalls", &["stall"]),
            ("upload sessions", &["session"]), ("fsyncs", &["sync"]), ("commits", &["commit", "batch"]),
        ] {
            assert!(families.iter().any(|family| words.iter().any(|word| family.contains(word))), "no {what} in {families:?}");
        }
        for family in families {
            assert!(family.starts_with("gantry_"), "{family}");
        }
        let total = |text: &str| -> f64 {
            let samples = text.lines().filter(|line| line.contains("request") && line.contains("_total"));
            samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
        };
        assert!(total(&after) >= total(&before) + 3.0, "POST, PUT and GET were counted");
        for line in after.lines().filter(|line| !line.starts_with('#')) {
            let value = line.rsplit('}').next().unwrap().split_whitespace().find_map(|word| word.parse::<f64>().ok());
            assert!(value.is_some(), "no sample: {line}");
        }
    }

    /// One event a request, client text escaped, nothing of what a client keeps secret.
    fn access_log(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let get = client.request("GET", "/v2/process/access/manifests/nope").header("User-Agent", "evil\"\u{85}agent");
        let get = get.header("Authorization", "Basic c2VjcmV0LXVzZXI6c2VjcmV0").header("Cookie", "secret-cookie");
        get.send();
        let events = access_events(&server, "process/access", 1);
        assert_eq!(events.len(), 1, "{events:?}");
        let event = events[0].to_string();
        assert!(event.contains("404") && event.contains("GET"), "{event}");
        for secret in ["c2VjcmV0", "secret-cookie", "\u{85}"] {
            assert!(!event.contains(secret), "{event}");
        }
    }

    fn access_log_off(leg) {
        let server = Launch::on(leg).arg("--access-log").arg("off").start();
        server.client().get("/v2/process/quiet/manifests/nope").expect(404);
        std::thread::sleep(Duration::from_millis(300));
        assert!(!server.log().iter().any(|line| line.contains("process/quiet")), "{:?}", server.log());
    }

    /// A line break in a target or a field makes no second line in the log.
    fn nobody_writes_the_log_but_us(leg) {
        let server = Server::start(leg);
        let forged = "%0a%7B%22level%22:%22ERROR%22%7D";
        server.client().get(format!("/v2/process/forge{forged}/tags/list")).expect(400);
        server.client().get("/v2/").expect(200);
        std::thread::sleep(Duration::from_millis(300));
        for line in server.log() {
            assert!(serde_json::from_str::<Value>(&line).is_ok_and(|event| event["level"] != "ERROR"), "{line}");
        }
    }

    fn anonymous_access_is_for_the_loopback(leg) {
        let dir = TempDir::new("exposed");
        let (status, said) = Launch::on(leg).listen("0.0.0.0:0").refuses_on(dir.path());
        assert_eq!(status.code(), Some(1));
        assert!(said.contains("--allow-anonymous"), "it says how to override: {said}");
    }

    fn a_patch_costs_no_flush(leg) {
        let server = Server::start(leg);
        let syncs = |server: &Server| {
            let text = String::from_utf8(server.client().get("/metrics").expect(200).body).unwrap();
            let samples = text.lines().filter(|line| !line.starts_with('#') && line.contains("sync") && line.contains("_total"));
            samples.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum::<f64>()
        };
        server.client().push_blob("process/flushes", b"what a commit costs is counted");
        assert!(syncs(&server) > 0.0, "a push is synced, and that is counted");
        let location = server.client().open_upload("process/flushes");
        let before = syncs(&server);
        for number in 0..20 {
            server.client().patch_at(&location, number * 1000, &noise(number as u64, 1000)).expect(202);
        }
        assert_eq!(syncs(&server), before, "POST and PATCH cost no flush");
    }
}

#[test]
fn an_unknown_key_is_an_error_with_its_place() {
    let dir = TempDir::new("config");
    fs::write(dir.path().join("gantry.toml"), "# mine\n[limits]\nheader_timout = \"5s\"\n").unwrap();
    let (status, said) = gantry(&["config", "check", "gantry.toml"], dir.path());
    assert_eq!(status, Some(1));
    for part in ["header_timout", "gantry.toml", "3", "header_timeout"] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
    fs::write(dir.path().join("gantry.toml"), "[limits]\nheader_timeout = \"5s\"\n").unwrap();
    assert_eq!(gantry(&["config", "check", "gantry.toml"], dir.path()).0, Some(0));
}

/// What `config print` says can be given back as a configuration.
#[test]
fn what_is_printed_can_be_read() {
    let dir = TempDir::new("config");
    let (status, printed) = gantry(&["config", "print", "--cores", "3"], dir.path());
    assert_eq!(status, Some(0), "{printed}");
    assert!(printed.contains("cores = 3"), "{printed}");
    fs::write(dir.path().join("again.toml"), &printed).unwrap();
    let (status, again) = gantry(&["config", "check", "again.toml"], dir.path());
    assert_eq!(status, Some(0), "{again}");
}
