//! The official suite of the distribution-spec (its `conformance/` folder, built beforehand): 0 failures and
//! 0 skips with every switch on, for both versions, and as many tests on one leg as on the other.
//!
//! `GANTRY_OCI_SUITE` names the program. It exits 0 on set-up errors too, so its junit.xml is what counts.

use std::{collections::BTreeMap, fs, path::Path, process::Command};

use crate::harness::{Launch, Leg, TempDir, lacks, say, setting};

/// Every switch of the suite that turns a part of it on; some are off by default and count as skipped.
const SWITCHES: [&str; 31] = [
    "OCI_API_PING",
    "OCI_API_PULL",
    "OCI_API_PUSH",
    "OCI_API_BLOBS_ATOMIC",
    "OCI_API_BLOBS_DELETE",
    "OCI_API_BLOBS_DIGEST_HEADER",
    "OCI_API_BLOBS_MOUNT_ANONYMOUS",
    "OCI_API_BLOBS_UPLOAD_CANCEL",
    "OCI_API_MANIFESTS_ATOMIC",
    "OCI_API_MANIFESTS_DELETE",
    "OCI_API_MANIFESTS_DIGEST_HEADER",
    "OCI_API_MANIFESTS_TAG_PARAM",
    "OCI_API_TAGS_ATOMIC",
    "OCI_API_TAGS_DELETE",
    "OCI_API_TAGS_LIST",
    "OCI_API_REFERRER",
    "OCI_DATA_IMAGE",
    "OCI_DATA_INDEX",
    "OCI_DATA_INDEX_LIST",
    "OCI_DATA_SPARSE",
    "OCI_DATA_ARTIFACT",
    "OCI_DATA_SUBJECT",
    "OCI_DATA_SUBJECT_MISSING",
    "OCI_DATA_ARTIFACT_LIST",
    "OCI_DATA_SUBJECT_LIST",
    "OCI_DATA_DATA_FIELD",
    "OCI_DATA_NONDISTRIBUTABLE",
    "OCI_DATA_CUSTOM_FIELDS",
    "OCI_DATA_NO_LAYERS",
    "OCI_DATA_EMPTY_BLOB",
    "OCI_DATA_SHA512",
];

/// Test cases by their status, and the names of those that did not pass.
#[derive(Debug, Default, PartialEq, Eq)]
struct Report {
    by_status: BTreeMap<String, usize>,
    not_passed: Vec<String>,
    /// `tests`, `failures`, `errors`, `skipped` as the suite itself counted, its groups included.
    totals: [usize; 4],
}

impl Report {
    fn parse(junit: &str) -> Report {
        let head =
            junit.split_once("<testsuite ").map_or("", |(_, rest)| rest.split('>').next().unwrap_or(""));
        let total = |name: &str| {
            let value = head.split_once(&format!(" {name}=\"")).and_then(|(_, rest)| rest.split('"').next());
            value.map_or(0, |value| value.parse().expect("a number"))
        };
        let totals = ["tests", "failures", "errors", "skipped"].map(total);
        let mut report = Report { totals, ..Report::default() };
        for case in junit.split("<testcase ").skip(1) {
            let tag = &case[..case.find('>').expect("a tag ends")];
            let attribute = |name: &str| {
                let (_, rest) = tag.split_once(&format!("{name}=\""))?;
                rest.split('"').next()
            };
            let status = attribute("status").unwrap_or("none").to_owned();
            if status != "passed" {
                let message = case.split("message=\"").nth(1).and_then(|rest| rest.split('"').next());
                let name = (attribute("classname").unwrap_or(""), attribute("name").unwrap_or("?"));
                report.not_passed.push(format!("{status}: {} {}: {}", name.0, name.1, message.unwrap_or("")));
            }
            *report.by_status.entry(status).or_default() += 1;
        }
        report
    }

    fn passed(&self) -> usize {
        self.by_status.get("passed").copied().unwrap_or(0)
    }
}

fn run(program: &Path, leg: Leg, version: &str) -> Report {
    // Some of what it pushes is sparse on purpose.
    let server = Launch::on(leg).set(setting::MISSING_REFERENCES, "any").start();
    let results = TempDir::new("official");
    let mut command = Command::new(program);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("OCI_")) {
        command.env_remove(name);
    }
    command.envs(SWITCHES.map(|switch| (switch, "true")));
    command.env("OCI_REGISTRY", server.addr().to_string()).env("OCI_TLS", "disabled");
    command.env("OCI_VERSION", version).env("OCI_RESULTS_DIR", results.path()).current_dir(results.path());
    let output = command.output().expect("GANTRY_OCI_SUITE is a program");
    let junit = fs::read_to_string(results.path().join("junit.xml")).unwrap_or_else(|error| {
        panic!("no junit.xml: {error}\n{}", String::from_utf8_lossy(&output.stderr));
    });
    let report = Report::parse(&junit);
    let [tests, failures, errors, skipped] = report.totals;
    say(&format!(
        "official suite {version} on {}: {tests} tests, {failures} failures, {errors} errors, {skipped} skipped; \
         cases {:?}",
        leg.name(),
        report.by_status
    ));
    server.stop();
    report
}

fn both_legs(version: &str) {
    let Some(program) = std::env::var_os("GANTRY_OCI_SUITE") else {
        lacks("suite", "GANTRY_OCI_SUITE names no program");
        return;
    };
    let program = Path::new(&program);
    let reports = [Leg::Uring, Leg::Epoll].map(|leg| run(program, leg, version));
    for report in &reports {
        assert!(report.not_passed.is_empty(), "{:?}\n{}", report.by_status, report.not_passed.join("\n"));
        assert_eq!(report.totals[1..], [0, 0, 0], "failures, errors, skipped");
        assert!(report.passed() >= 800, "only {} cases ran: a part of the suite did not", report.passed());
        assert!(report.totals[0] >= 1000, "only {} tests ran", report.totals[0]);
    }
    assert_eq!(reports[0], reports[1], "as many tests on both legs");
}

#[test]
fn version_1_1() {
    both_legs("1.1");
}

#[test]
fn version_dev() {
    both_legs("dev");
}

#[test]
fn a_report_is_read_by_status() {
    let junit = r#"<testsuites tests="5"><testsuite name="x" tests="4" failures="1" errors="0" skipped="2" time="1">
        <testcase name="a" classname="c/a" time="0.1" status="passed"><system-out></system-out></testcase>
        <testcase name="b" classname="c/b" status="skipped"><skipped message="not enabled"></skipped></testcase>
        <testcase name="c" classname="c/c" status="failure"><failure message="404"></failure></testcase>
        </testsuite></testsuites>"#;
    let report = Report::parse(junit);
    assert_eq!(
        report.by_status,
        ["passed", "skipped", "failure"].map(|status| (status.to_owned(), 1)).into()
    );
    assert_eq!(report.totals, [4, 1, 0, 2]);
    assert_eq!(report.not_passed, ["skipped: c/b b: not enabled", "failure: c/c c: 404"]);
}
