//! What people get to see: a line while it runs, a table when it is done, and files that can be handed on.
//!
//! Owns: which files there are, and what is said about the machine. A case is laid out once (`grid`) and rendered for
//! a terminal, as Markdown and as HTML; numbers are written in one way (`units`).

mod goals;
mod grid;
mod html;
mod markdown;
mod plot;
pub mod progress;
mod table;
pub mod units;

use std::{fs, path::Path};

use crate::result::{About, Outcome};

/// Writes `results.json`, `report.md` and `report.html` into the folder `to`, made if missing.
pub fn write(outcome: &Outcome, to: &Path) -> Result<(), String> {
    let json =
        serde_json::to_string_pretty(outcome).map_err(|error| format!("the results as JSON: {error}"))?;
    fs::create_dir_all(to).map_err(|error| format!("{}: {error}", to.display()))?;
    for (name, text) in [
        ("results.json", json + "\n"),
        ("report.md", markdown::render(outcome)),
        ("report.html", html::render(outcome)?),
    ] {
        let path = to.join(name);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
    }
    Ok(())
}

/// Prints a table for each case.
pub fn print(outcome: &Outcome) {
    if let Some(goals) = goals::grid(&outcome.goals) {
        println!("{}", table::render(&goals));
    }
    for case in &outcome.cases {
        println!("{}", table::render(&grid::of(case)));
    }
}

/// Where it was measured, as pairs of a name and a value.
fn about(about: &About) -> Vec<(String, String)> {
    let mut pairs = vec![
        ("command", about.command.clone()),
        ("begun", date(about.started_unix)),
        ("commit", about.commit.clone().unwrap_or_else(|| "not run in its source tree".to_owned())),
        ("kernel", about.kernel.clone()),
        ("congestion control", about.congestion_control.clone()),
        ("processor", format!("{} ({} usable)", about.cpu, about.cpus)),
        ("memory", units::size(about.memory_bytes)),
    ];
    pairs.extend(about.versions.iter().map(|(peer, version)| (peer.as_str(), version.clone())));
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// `2026-01-31 23:59 UTC`, of seconds since 1970.
fn date(unix: u64) -> String {
    // Days are counted from 1 March of the year 0, so that a leap day is the last of its year; 400 years repeat.
    let days = unix / 86_400 + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let minutes = unix / 60 % 1_440;
    format!("{year}-{month:02}-{day:02} {:02}:{:02} UTC", minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::{Case, Cost, Latency, PeerRounds, Round};

    /// Two peers in three rounds of three cases. The second takes twice the time and twice the processor; its name and
    /// its error hold what HTML and Markdown must escape.
    pub fn outcome() -> Outcome {
        let case = |size: u64, name: &str, connections: u64| Case {
            scenario: "blobs".to_owned(),
            name: format!("{name}, {connections} connections"),
            size_bytes: Some(size),
            connections: Some(connections),
            rate: None,
            peers: vec![rounds("gantry", size, 1.0), rounds("nginx<&>", size, 2.0)],
        };
        let about = About {
            command: "gantry-bench compare blobs --peers 'a<b>'".to_owned(),
            started_unix: 1_769_903_940,
            kernel: "Linux 6.1".to_owned(),
            congestion_control: "cubic".to_owned(),
            cpu: "A & B".to_owned(),
            cpus: 2,
            memory_bytes: 4 << 30,
            commit: Some("0123456789ab+".to_owned()),
            versions: [("gantry".to_owned(), "gantry 0.1.0".to_owned())].into(),
        };
        let cases = vec![case(4096, "4 KiB", 16), case(4096, "4 KiB", 64), case(1 << 20, "1 MiB", 16)];
        Outcome { about, cases, goals: Vec::new() }
    }

    fn rounds(peer: &str, size: u64, slower: f64) -> PeerRounds {
        let second = slower > 1.0;
        let round = |noise: f64| {
            let points: Vec<(f64, f64)> = [0.0, 0.5, 0.9, 0.99, 0.999, 1.0]
                .map(|share| (share, (100.0 * slower * noise / (1.01 - share)).round()))
                .into();
            let (p50_us, p99_us) = (200.0 * slower, 900.0 * slower * noise);
            let latency = Latency { p50_us, p99_us, p999_us: 2.0 * p99_us, ..Default::default() };
            Round {
                seconds: slower * noise,
                requests: 1000,
                bytes: 1000 * size,
                errors: u64::from(second),
                first_error: second.then(|| "cut <short> | or so".to_owned()),
                verified: 10,
                latency: Latency { points, ..latency },
                cost: Cost { cpu_us: 10_000.0 * slower * noise, rss_bytes: 8 << 20, ..Default::default() },
                client_bound: !second && noise > 1.0,
                figures: if second {
                    Default::default()
                } else {
                    [("flushes_per_ack".to_owned(), 0.25)].into()
                },
                ..Default::default()
            }
        };
        PeerRounds { peer: peer.to_owned(), rounds: [1.0, 0.8, 1.5].map(round).into() }
    }

    #[test]
    fn all_files_are_written_and_the_json_is_read_back() {
        let dir = std::env::temp_dir().join(format!("gantry-bench-report-{}", std::process::id()));
        write(&outcome(), &dir).unwrap();
        let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
        let json = read("results.json");
        let back: Outcome = serde_json::from_str(&json).unwrap();
        assert_eq!(serde_json::to_string_pretty(&back).unwrap() + "\n", json);
        assert_eq!(back.cases[0].peers[1].median(Round::cpu_us_per_request), Some(20.0));
        assert!(read("report.md").contains("0123456789ab+") && read("report.html").contains("0123456789ab+"));
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_date_is_that_of_the_calendar() {
        for (unix, expect) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_399, "2000-02-28 23:59 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_769_903_940, "2026-01-31 23:59 UTC"),
            (4_107_542_400, "2100-03-01 00:00 UTC"),
        ] {
            assert_eq!(date(unix), expect);
        }
    }
}
