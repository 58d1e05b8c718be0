//! The order of a measurement: every case, round by round, each round on every server in turn. The machine's mood
//! changes in minutes; a ratio is made of rounds that lie seconds apart.

use crate::{
    args::Settings,
    machine,
    peers::{self, Options},
    registry::Registry,
    report,
    result::{Outcome, PeerRounds},
    scenarios::{self, Scenario},
    subject::{REPOSITORY, Subject},
};

/// Measures a registry that runs somewhere. Gives whether every answer was right.
///
/// Errors: a sentence.
pub fn target(scenario: &str, url: &str, user: Option<&str>, settings: Settings) -> Result<bool, String> {
    let settings = settings.placed(false);
    let mut registry = Registry::from_url(url)?;
    registry.authorize(user, &format!("repository:{REPOSITORY}:pull,push"))?;
    let scenario = scenarios::named(scenario, &settings)?;
    finish(&settings, measure(scenario, &settings, vec![Subject::at(registry)])?)
}

/// Starts the servers and measures them. Gives whether every answer was right.
///
/// Errors: a sentence.
pub fn peers(scenario: &str, specs: &[String], settings: Settings) -> Result<bool, String> {
    let settings = settings.placed(true);
    let mut scenario = scenarios::named(scenario, &settings)?;
    let cpus = (!settings.server_cpus.is_empty()).then(|| settings.server_cpus.clone());
    let options = Options { cpus, ..Options::default() };
    let mut subjects = Vec::new();
    for spec in specs {
        let subject = Subject::of_peer(peers::start(&scenario.peer(spec)?, &options)?);
        if !subject.is_registry() && !scenario.takes_file_servers() {
            return Err(format!("{spec} only serves files and can't take part in this scenario"));
        }
        subjects.push(subject);
    }
    finish(&settings, measure(scenario, &settings, subjects)?)
}

/// Measures every case of a scenario on these servers, which end with that.
///
/// Errors: a sentence.
pub fn measure(
    mut scenario: Box<dyn Scenario>,
    settings: &Settings,
    mut subjects: Vec<Subject>,
) -> Result<Outcome, String> {
    let mut about = machine::about();
    for subject in &subjects {
        let version = subject.peer.as_ref().map(|peer| peer.version().to_owned());
        about.versions.insert(subject.name.clone(), version.unwrap_or_default());
    }
    let mut cases = scenario.cases();
    for case in &mut cases {
        let rounds = |subject: &Subject| PeerRounds { peer: subject.name.clone(), rounds: Vec::new() };
        case.peers = subjects.iter().map(rounds).collect();
        for subject in &mut subjects {
            scenario.prepare(case, subject).map_err(|why| format!("{}: {why}", subject.name))?;
        }
        for _ in 0..settings.rounds.max(1) {
            for (index, subject) in subjects.iter_mut().enumerate() {
                let round =
                    scenario.round(case, subject).map_err(|why| format!("{}: {why}", subject.name))?;
                case.peers[index].rounds.push(round);
            }
        }
    }
    Ok(Outcome { about, cases, goals: Vec::new() })
}

/// Shows and writes what was found. Gives whether every answer was right.
///
/// Errors: a sentence.
pub fn finish(settings: &Settings, outcome: Outcome) -> Result<bool, String> {
    if settings.json {
        let json = serde_json::to_string_pretty(&outcome).map_err(|error| error.to_string())?;
        println!("{json}");
    } else {
        report::print(&outcome);
    }
    if let Some(to) = &settings.out {
        report::write(&outcome, to)?;
    }
    let rounds = outcome.cases.iter().flat_map(|case| &case.peers);
    Ok(rounds.map(PeerRounds::errors).sum::<u64>() == 0)
}

impl Settings {
    /// With processors for both sides, if the user has named none and wants some: the first for the servers that
    /// are ours, the second for the client.
    pub fn placed(mut self, ours: bool) -> Settings {
        let cpus = machine::cpus();
        if self.unpinned || cpus.len() < 2 || !ours {
            return self;
        }
        if self.server_cpus.is_empty() {
            self.server_cpus = vec![cpus[0]];
        }
        if self.client_cpus.is_empty() {
            self.client_cpus = vec![cpus[1]];
        }
        self
    }
}
