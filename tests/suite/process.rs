//! The process as an operator meets it: what it prints, refuses, logs and counts.

use std::{fs, time::Duration};

use serde_json::Value;

use crate::harness::{Launch, Server, TempDir, gantry, legs, noise, sha256, wait_for};

/// The log's events about requests, once there are `count`.
fn access_events(server: &Server, path: &str, count: usize) -> Vec<Value> {
    let read = || -> Vec<Value> {
        let lines = server.log().into_iter().filter(|line| line.contains(path));
        lines.map(|line| serde_json::from_str(&line).expect("the log is JSON")).collect()
    };
    wait_for("the requests are logged", || read().len() >= count);
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

    /// A connection goes to the core that has the fewest, whatever came and went before.
    fn connections_go_to_the_least_loaded_core(leg) {
        let server = Launch::on(leg).cores(2).start();
        let mut asker = server.client();
        let mut spread = || -> Vec<u64> {
            let health = asker.get("/healthz").expect(200).json();
            let cores = health["cores"].as_array().unwrap();
            cores.iter().map(|core| core["connections"].as_u64().unwrap()).collect()
        };
        let connect = || {
            let mut client = server.client();
            client.get("/v2/").expect(200);
            client
        };
        wait_for("the start's own are gone", || spread().iter().sum::<u64>() == 1);
        let mut by_core = [vec![], vec![]];
        for _ in 0..7 {
            let before = spread();
            let client = connect();
            by_core[usize::from(spread()[1] > before[1])].push(client);
        }
        assert_eq!(spread(), [4, 4]);
        let gone = by_core[0].len() as u64;
        by_core[0].clear();
        wait_for("one core has few", || spread() == [4 - gone, 4]);
        let again: Vec<_> = (0..gone).map(|_| connect()).collect();
        assert_eq!(spread(), [4, 4]);
        drop(again);
    }

    /// Each core's thread has one CPU of those that the process may use, in turn.
    fn cores_are_pinned(leg) {
        let cores = 3;
        let server = Launch::on(leg).cores(cores).start();
        let task = |id: &str, file: &str| fs::read_to_string(format!("/proc/{}/task/{id}/{file}", server.pid())).unwrap();
        let cpus = |id: &str| -> Vec<usize> {
            let status = task(id, "status");
            let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap();
            list.trim().split(',').flat_map(|part| {
                let (first, last) = part.split_once('-').unwrap_or((part, part));
                first.parse::<usize>().unwrap()..=last.parse().unwrap()
            }).collect()
        };
        let all = cpus(&server.pid().to_string());
        let mut pinned = vec![Vec::new(); cores];
        for entry in fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap() {
            let id = entry.unwrap().file_name().into_string().unwrap();
            let name = task(&id, "comm");
            if let Some(core) = name.trim().strip_prefix("core-") {
                pinned[core.parse::<usize>().unwrap()] = cpus(&id);
            }
        }
        let expected: Vec<_> = (0..cores).map(|core| vec![all[core % all.len()]]).collect();
        assert_eq!(pinned, expected);
    }

    /// The families that an operator watches, by name and type, and what moves each.
    fn metrics(leg) {
        let server = Launch::on(leg).cores(1).start();
        let mut client = server.client();
        client.push_blob("process/metrics", &noise(1500, 1000));
        let before = server.metrics();
        for (family, kind) in [
            ("gantry_http_requests", "counter"),
            ("gantry_http_sent_bytes", "counter"),
            ("gantry_http_received_bytes", "counter"),
            ("gantry_http_request_duration_seconds", "histogram"),
            ("gantry_http_open_connections", "gauge"),
            ("gantry_core_cold_reads", "counter"),
            ("gantry_core_stalls", "counter"),
            ("gantry_store_upload_sessions", "gauge"),
            ("gantry_store_lost_blobs", "gauge"),
            ("gantry_store_orphan_files", "gauge"),
            ("gantry_store_scrubbed_timestamp_seconds", "gauge"),
            ("gantry_store_commits", "counter"),
            ("gantry_store_data_fsyncs", "counter"),
            ("gantry_store_volume_fsyncs", "counter"),
            ("gantry_store_directory_fsyncs", "counter"),
            ("gantry_metadata_commits", "counter"),
        ] {
            assert_eq!(before.kind(family), Some(kind), "{family}");
        }
        for family in before.names() {
            assert!(family.starts_with("gantry_"), "{family}");
        }

        let bytes = noise(1501, 100_000);
        let digest = client.push_blob("process/metrics", &bytes);
        client.assert_blob("process/metrics", digest, &bytes);
        client.get("/v2/process/metrics/manifests/none").expect(404);
        let after = server.metrics();
        let grown = |sample: &str, labels: &[(&str, &str)]| {
            after.sum(sample, labels) - before.counted(sample, labels).unwrap_or(0.0)
        };
        let ended = |endpoint: &str, status: &str| {
            grown("gantry_http_requests_total", &[("endpoint", endpoint), ("status", status)])
        };
        for (endpoint, status) in [
            ("open_upload", "2xx"), ("close_upload", "2xx"), ("get_blob", "2xx"), ("get_manifest", "4xx"), ("fixed", "2xx"),
        ] {
            assert_eq!(ended(endpoint, status), 1.0, "{endpoint}, {status}");
        }
        assert_eq!(grown("gantry_http_requests_total", &[]), 5.0, "and nothing else");
        assert_eq!(grown("gantry_http_request_duration_seconds_count", &[]), 5.0);
        assert!(grown("gantry_http_request_duration_seconds_sum", &[]) > 0.0);
        let sent = grown("gantry_http_sent_bytes_total", &[]);
        assert!((100_000.0..110_000.0).contains(&sent), "{sent} bytes sent");
        let received = grown("gantry_http_received_bytes_total", &[]);
        assert!((100_000.0..101_000.0).contains(&received), "{received} bytes received");
        assert_eq!(grown("gantry_store_commits_total", &[]), 1.0, "one blob");
        assert_eq!(grown("gantry_store_data_fsyncs_total", &[]) + grown("gantry_store_volume_fsyncs_total", &[]), 1.0);
        assert_eq!(grown("gantry_store_directory_fsyncs_total", &[]), 1.0);
        assert_eq!(grown("gantry_metadata_commits_total", &[]), 1.0);
    }

    fn what_is_open_is_counted(leg) {
        let server = Server::start(leg);
        let sessions = || server.metric("gantry_store_upload_sessions");
        let connections = || server.metric("gantry_http_open_connections");
        let mut client = server.client();
        let opened: Vec<_> = (0..3).map(|_| client.open_upload("process/open")).collect();
        assert_eq!(sessions(), 3.0);
        client.delete(&opened[0]).expect(204);
        client.close_upload(&opened[1], sha256(b"")).expect(201);
        wait_for("two have ended", || sessions() == 1.0);
        // This client, and the one that asks.
        wait_for("only these are open", || connections() == 2.0);
        let held: Vec<_> = (0..5).map(|_| {
            let mut client = server.client();
            client.get("/v2/").expect(200);
            client
        }).collect();
        wait_for("five more", || connections() == 7.0);
        drop(held);
        wait_for("they are gone", || connections() == 2.0);
    }

    /// A core that is held up in the middle of a turn says so: here the whole process is stopped for a while,
    /// until that has met a turn.
    fn a_stalled_core_is_counted(leg) {
        let server = Launch::on(leg).cores(1).start();
        let before = server.metric("gantry_core_stalls_total");
        let pipelined = server.client().request("GET", "/v2/").to_bytes().repeat(50);
        wait_for("a stall is counted", || {
            let mut client = server.client();
            client.send_bytes(&pipelined);
            server.pause(Duration::from_millis(5));
            for _ in 0..50 {
                client.read("GET").expect(200);
            }
            server.metric("gantry_core_stalls_total") > before
        });
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
            let metrics = server.metrics();
            let counters = ["store_data_fsyncs", "store_volume_fsyncs", "store_directory_fsyncs", "metadata_commits"];
            counters.map(|name| metrics.sum(&format!("gantry_{name}_total"), &[]))
        };
        server.client().push_blob("process/flushes", b"what a commit costs is counted");
        let location = server.client().open_upload("process/flushes");
        let before = syncs(&server);
        for number in 0..20 {
            server.client().patch_at(&location, number * 1000, &noise(number as u64, 1000)).expect(202);
        }
        server.client().open_upload("process/flushes");
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
