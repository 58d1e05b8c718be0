//! Every scenario for a moment, as people run it: the content that came was right, nothing failed, and the report is
//! there. Of the figures only those are asserted that a busy machine can't spoil: memory, and flushes for each push.
//!
//! One at a time: each of them takes all processors that it can get.

use std::{
    env,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{self, Command, Output, Stdio},
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

const BENCH: &str = env!("CARGO_BIN_EXE_gantry-bench");

/// As long as a smoke test may measure.
const SHORT: [&str; 4] = ["--warm-up=0.1", "--verify-every=3", "--cold=64MiB", "--json"];

/// Scenarios, with arguments that keep them short, and the kinds of peers that can take part beside Gantry.
const SCENARIOS: [(&str, &[&str], &[&str]); 8] = [
    ("blobs", &["--sizes=4KiB,1MiB", "--connections=4"], &["gantry:epoll", "nginx"]),
    ("ranges", &["--sizes=4KiB", "--connections=4"], &["nginx"]),
    ("push", &["--sizes=64KiB", "--connections=8"], &["docker-registry"]),
    ("fleet", &["--clients=4", "--layers=1MiB,64KiB,4KiB"], &["docker-registry"]),
    ("herd", &["--clients=8", "--blob-size=1MiB", "--slow=1:256KiB"], &["gantry:proxy", "nginx:proxy"]),
    ("mixed", &["--sizes=4KiB", "--connections=4"], &["docker-registry"]),
    ("neighbours", &["--sizes=64KiB", "--connections=4", "--bystanders=50"], &[]),
    ("idle", &["--sizes=4KiB", "--bystanders=500"], &["nginx"]),
];

/// A folder for one test's results.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = env::temp_dir().join(format!("gantry-bench-suite-{}-{name}", process::id()));
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // It lies in the folder for temporary files.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn alone() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The server: what `GANTRY_BIN` says, or what was built with this test.
fn gantry() -> PathBuf {
    let beside = Path::new(BENCH).with_file_name("gantry");
    let gantry = env::var_os("GANTRY_BIN").map_or(beside, PathBuf::from);
    assert!(gantry.is_file(), "{} is not there: cargo build -p gantry", gantry.display());
    gantry
}

fn bench(arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Output {
    Command::new(BENCH).args(arguments).env("GANTRY_BIN", gantry()).output().unwrap()
}

/// Whether the peer's program is on this machine.
fn has(peer: &str) -> bool {
    let program = peer.split(':').next().unwrap();
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let found = program == "gantry" || folders.into_iter().any(|folder| folder.join(program).is_file());
    if !found {
        println!("lacks {program}: its part of the comparison is left out");
    }
    found
}

/// Compares the peers that there are in a scenario and gives the results, which are right. `None`: there are no peers.
#[track_caller]
fn compare(scenario: &str, more: &[&str], peers: &[&str], name: &str) -> Option<Value> {
    let _turn = alone();
    // There it takes part as a cache, with a word of its own.
    let first = if scenario == "herd" { vec![] } else { vec!["gantry"] };
    let peers: Vec<&str> = first.into_iter().chain(peers.iter().copied().filter(|peer| has(peer))).collect();
    if peers.is_empty() {
        return None;
    }
    let folder = Folder::new(name);
    let out = format!("--out={}", folder.0.display());
    let list = format!("--peers={}", peers.join(","));
    let output = bench([&["compare", scenario, &list, &out], &SHORT[..], more].concat());
    let said = String::from_utf8_lossy(&output.stderr);
    let results: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{scenario}, {}: {error}; it said {said}", output.status));
    assert!(output.status.success(), "{scenario}, {}: {said}\n{results:#}", output.status);
    for case in results["cases"].as_array().unwrap() {
        let measured: Vec<&str> =
            case["peers"].as_array().unwrap().iter().map(|peer| peer["peer"].as_str().unwrap()).collect();
        assert_eq!(measured.len(), peers.len(), "{case:#}");
    }
    for (case, round) in rounds(&results) {
        assert_eq!(round["errors"], 0, "{case}: {round:#}");
        assert!(round["requests"].as_u64() > Some(0), "{case}: {round:#}");
    }
    let written: Value = serde_json::from_slice(&fs::read(folder.0.join("results.json")).unwrap()).unwrap();
    assert_eq!(written, results);
    let page = fs::read_to_string(folder.0.join("report.html")).unwrap();
    assert!(
        page.contains("<svg") && page.trim_end().ends_with("</html>") && page.contains(scenario),
        "{page}"
    );
    assert!(fs::read_to_string(folder.0.join("report.md")).unwrap().contains(scenario));
    Some(results)
}

/// Each round with the name of its case.
fn rounds(results: &Value) -> Vec<(&str, &Value)> {
    let cases = results["cases"].as_array().unwrap().iter();
    let peers = cases.flat_map(|case| case["peers"].as_array().unwrap().iter().map(move |peer| (case, peer)));
    let rounds = peers.flat_map(|(case, peer)| {
        let name = case["name"].as_str().unwrap();
        peer["rounds"].as_array().unwrap().iter().map(move |round| (name, round))
    });
    rounds.collect()
}

#[track_caller]
fn smoke(scenario: &str) -> Option<Value> {
    let (_, more, peers) = SCENARIOS.into_iter().find(|(name, ..)| *name == scenario).unwrap();
    compare(scenario, &[more, &["--time=0.4", "--rounds=1"]].concat(), peers, scenario)
}

/// Bodies of GETs were hashed, in some of the cases at least.
#[track_caller]
fn assert_verified(results: Option<Value>) {
    let Some(results) = results else { return };
    let verified: u64 = rounds(&results).iter().map(|(_, round)| round["verified"].as_u64().unwrap()).sum();
    assert!(verified > 0, "{results:#}");
}

#[test]
fn blobs() {
    assert_verified(smoke("blobs"));
}

#[test]
fn ranges() {
    smoke("ranges");
}

#[test]
fn push() {
    smoke("push");
}

#[test]
fn fleet() {
    assert_verified(smoke("fleet"));
}

#[test]
fn herd() {
    let results = smoke("herd");
    let ours = |peer: &&Value| peer["peer"] == "gantry:proxy";
    let cases = results.iter().flat_map(|results| results["cases"].as_array().unwrap());
    let rounds = cases.flat_map(|case| case["peers"].as_array().unwrap().iter().filter(ours));
    let rounds: Vec<&Value> = rounds.flat_map(|peer| peer["rounds"].as_array().unwrap()).collect();
    assert!(!rounds.is_empty());
    for round in rounds {
        assert_eq!(round["figures"]["upstream_gets"], 1.0, "{round:#}");
        assert_eq!(round["figures"]["upstream_bytes_per_blob_byte"], 1.0, "{round:#}");
    }
    assert_verified(results);
}

#[test]
fn mixed() {
    smoke("mixed");
}

#[test]
fn neighbours() {
    assert_verified(smoke("neighbours"));
}

/// A connection that idles costs Gantry less than 2 KiB, whatever the machine is busy with.
#[test]
fn idle() {
    let results = smoke("idle").unwrap();
    for case in results["cases"].as_array().unwrap() {
        let round = &case["peers"][0]["rounds"][0];
        assert_eq!(round["figures"]["closed_by_server"], 0.0, "{case:#}");
        let name = case["name"].as_str().unwrap();
        if !name.contains("half") {
            let bytes = round["figures"]["pss_per_connection_bytes"].as_f64().unwrap();
            assert!(bytes <= 2048.0, "{name}: {bytes} bytes");
        }
    }
}

/// Pushes at the same time share their flushes, and 64 busy connections need little memory.
#[test]
fn many_pushers_share_flushes_and_memory() {
    let more = ["--sizes=64KiB", "--connections=64", "--time=0.7", "--rounds=3"];
    let results = compare("push", &more, &[], "pushers").unwrap();
    let rounds: Vec<&Value> = rounds(&results)
        .into_iter()
        .filter(|(name, _)| name.starts_with("one PUT"))
        .map(|(_, round)| round)
        .collect();
    for round in &rounds {
        let rss = round["cost"]["rss_bytes"].as_u64().unwrap();
        assert!(rss <= 96 << 20, "{rss} bytes");
    }
    let flushes: Vec<f64> =
        rounds.iter().filter_map(|round| round["figures"]["flushes_per_ack"].as_f64()).collect();
    if flushes.is_empty() {
        println!("lacks a block device that counts flushes below {}", env::temp_dir().display());
        return;
    }
    // The device counts those of everybody: what others do can only add to ours.
    let least = flushes.iter().copied().fold(f64::INFINITY, f64::min);
    assert!(least < 0.6, "{flushes:?}");
}

/// The list above leaves nothing out.
#[test]
fn every_scenario_is_tried() {
    let help = bench(["compare", "--help"]);
    let help = String::from_utf8(help.stdout).unwrap();
    let (_, rest) = help.split_once("[possible values: ").unwrap();
    let mut there: Vec<&str> = rest.split(']').next().unwrap().split(',').map(str::trim).collect();
    let mut tried: Vec<&str> = SCENARIOS.iter().map(|(name, ..)| *name).collect();
    there.sort_unstable();
    tried.sort_unstable();
    assert_eq!(there, tried);
}

#[test]
fn a_goal_is_measured_and_written() {
    let _turn = alone();
    let folder = Folder::new("goals");
    let out = format!("--out={}", folder.0.display());
    let output = bench(["goals", "--quick", "--only=S12,S13,S14", &out]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", output.status);
    let results: Value = serde_json::from_slice(&fs::read(folder.0.join("results.json")).unwrap()).unwrap();
    let [untouched, asked, _half, busy, upload, allocations] = &results["goals"].as_array().unwrap()[..]
    else {
        panic!("{results:#}")
    };
    assert_eq!((&untouched["id"], &allocations["id"]), (&"S12".into(), &"S14".into()));
    for row in [untouched, asked] {
        assert!(row["measured"].as_f64().is_some_and(|bytes| bytes <= 2048.0), "{row:#}");
    }
    for row in [busy, upload] {
        assert_eq!(row["id"], "S13");
        assert!(row["measured"].as_f64().is_some_and(|bytes| bytes <= 96.0 * 1048576.0), "{row:#}");
    }
    assert!(allocations["measured"].is_null(), "{allocations:#}");
    for name in ["report.md", "report.html"] {
        assert!(
            fs::read_to_string(folder.0.join(name)).unwrap().contains("PSS of a connection after a request"),
            "{name}"
        );
    }
}

/// Who presses Ctrl-C finds neither servers nor data of them afterwards.
#[test]
fn a_signal_leaves_nothing_behind() {
    let _turn = alone();
    for signal in [Signal::INT, Signal::TERM] {
        let folder = Folder::new("signal");
        let arguments = ["compare", "blobs", "--peers=gantry", "--time=600", "--rounds=1", "--json"];
        let mut command = Command::new(BENCH);
        command.args(arguments).env("GANTRY_BIN", gantry()).env("TMPDIR", &folder.0);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        let server = loop {
            let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).unwrap();
            let data = fs::read_dir(&folder.0).unwrap().next();
            if let (Some(server), Some(_)) = (children.split_whitespace().next(), data) {
                break PathBuf::from(format!("/proc/{server}"));
            }
            assert!(Instant::now() < until && child.try_wait().unwrap().is_none(), "no server was started");
            thread::sleep(Duration::from_millis(5));
        };
        kill_process(Pid::from_child(&child), signal).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(128 + signal.as_raw()));
        let left: Vec<_> = fs::read_dir(&folder.0).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(left.is_empty(), "{left:?}");
        // It has ended; the system may take a moment to bury it.
        while server.exists() {
            assert!(Instant::now() < until, "{} is still there", server.display());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// Exit status and sentence, not a panic.
#[test]
fn what_cannot_be_done_is_said() {
    let cases: [(&[&str], &str); 4] = [
        (&["compare", "push", "--peers=nothing"], "no peer is called"),
        (&["compare", "push", "--peers=gantry", "--sizes=4KB"], "units are"),
        (&["run", "blobs", "--target=https://127.0.0.1:1"], "only http://"),
        (&["goals", "--only=S17"], "S17"),
    ];
    for (arguments, expect) in cases {
        let output = bench(arguments);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(expect) && !said.contains("panicked"), "{arguments:?}: {said}");
    }
}
