//! `gantry-bench goals`: what Gantry has to reach, measured in one run.
//!
//! `table` says what has to hold, `measures` how each figure is taken; the other files are loads that only they need.
//! What can't be measured here (a peer is missing) is a row that says so, and no failure.

mod disk;
mod measures;
mod restart;
mod table;
mod tagged;
mod upload;

use std::path::PathBuf;

use crate::{
    args::Settings,
    compare, machine,
    peers::{self, Options},
    report,
    result::{About, Case, Goal, Outcome, PeerRounds},
    scenarios::Scenario,
    subject::Subject,
};

pub use table::IDS;

/// Where the results lie that are kept.
const RESULTS: &str = "bench/results";

/// What is known so far.
struct Bench {
    settings: Settings,
    /// A few seconds for each, and less data.
    quick: bool,
    about: About,
    cases: Vec<Case>,
}

/// A figure for a row of the table.
struct Found {
    value: Option<f64>,
    note: String,
}

impl From<f64> for Found {
    fn from(value: f64) -> Found {
        Found { value: Some(value), note: String::new() }
    }
}

impl Found {
    /// With what a reader has to know beside it.
    fn but(mut self, note: impl Into<String>) -> Found {
        self.note = note.into();
        self
    }
}

/// Measures the goals with these names, all if there are none. Gives whether every answer was right; a goal that
/// was missed is a finding, not a failure.
///
/// Errors: a sentence.
pub fn run(only: &[String], quick: bool, mut settings: Settings) -> Result<bool, String> {
    if quick {
        settings.time = 0.4;
        settings.warm_up = 0.1;
        settings.rounds = 1;
    }
    let to = settings.out.get_or_insert_with(|| PathBuf::from(RESULTS)).clone();
    let settings = settings.placed(true);
    let mut bench = Bench { settings, quick, about: machine::about(), cases: Vec::new() };
    let mut goals = Vec::new();
    for group in table::groups() {
        let wanted = |id: &str| only.is_empty() || only.iter().any(|only| only == id);
        if !group.goals.iter().any(|spec| wanted(spec.id)) {
            continue;
        }
        let found = (group.measure)(&mut bench);
        let row = |(index, spec): (usize, &table::Spec)| {
            let (measured, note) = match &found {
                Ok(found) => {
                    found.get(index).map_or((None, String::new()), |one| (one.value, one.note.clone()))
                }
                Err(why) => (None, why.clone()),
            };
            Goal { measured, note, ..spec.goal() }
        };
        let rows: Vec<Goal> =
            group.goals.iter().enumerate().map(row).filter(|goal| wanted(&goal.id)).collect();
        goals.extend(rows);
        goals.sort_by_key(|goal: &Goal| goal.id[1..].parse::<u32>().unwrap_or(0));
        // Who ends it early keeps what was measured.
        report::write(&bench.outcome(&goals), &to)?;
    }
    compare::finish(&bench.settings, bench.outcome(&goals))
}

impl Bench {
    /// What is known so far.
    fn outcome(&self, goals: &[Goal]) -> Outcome {
        Outcome { about: self.about.clone(), cases: self.cases.clone(), goals: goals.to_vec() }
    }

    /// Starts servers for one measure.
    fn start(&mut self, specs: &[&str], settings: &Settings) -> Result<Vec<Subject>, String> {
        let cpus = (!settings.server_cpus.is_empty()).then(|| settings.server_cpus.clone());
        let options = Options { cpus, ..Options::default() };
        let mut subjects = Vec::new();
        for spec in specs {
            let peer = peers::start(spec, &options)?;
            self.about.versions.insert(peer.name().to_owned(), peer.version().to_owned());
            subjects.push(Subject::of_peer(peer));
        }
        Ok(subjects)
    }

    /// Measures a scenario on servers that are started for it.
    fn measure(
        &mut self,
        scenario: Box<dyn Scenario>,
        settings: &Settings,
        specs: &[&str],
    ) -> Result<Vec<Case>, String> {
        let subjects = self.start(specs, settings)?;
        let cases = compare::measure(scenario, settings, subjects)?.cases;
        self.cases.extend(cases.iter().cloned());
        Ok(cases)
    }
}

/// The first peer's median divided by the second's.
fn ratio(case: &Case, of: impl Fn(&crate::result::Round) -> f64 + Copy) -> Result<f64, String> {
    let median = |index: usize| case.peers.get(index).and_then(|peer: &PeerRounds| peer.median(of));
    match (median(0), median(1)) {
        (Some(first), Some(second)) if second > 0.0 => Ok(first / second),
        _ => Err(format!("{}: {} gave nothing to divide by", case.scenario, case.name)),
    }
}

/// The first peer's median.
fn first(case: &Case, of: impl Fn(&crate::result::Round) -> f64) -> Result<f64, String> {
    let median = case.peers.first().and_then(|peer| peer.median(of));
    median.ok_or_else(|| format!("{}: {} gave nothing", case.scenario, case.name))
}

/// The median of a figure that only its scenario counts, of the first peer.
fn figure(case: &Case, name: &str) -> Result<f64, String> {
    let median = case.peers.first().and_then(|peer| peer.median_figure(name));
    median.ok_or_else(|| format!("{}: {} has no {name} on this machine", case.scenario, case.name))
}

/// What a reader has to know of a throughput that the client may have bounded.
fn bound_by_client(cases: &[&Case]) -> String {
    let rounds = cases.iter().flat_map(|case| case.peers.first()).flat_map(|peer| &peer.rounds);
    let (bound, all) =
        rounds.fold((0, 0), |(bound, all), round| (bound + usize::from(round.client_bound), all + 1));
    if bound == 0 { String::new() } else { format!("the client was the limit in {bound} of {all} rounds") }
}
