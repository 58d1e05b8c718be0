//! What is measured, a file each. A scenario has cases; a comparison runs each case on every peer in turn.

mod blobs;
mod bystanders;
mod cold;
mod fleet;
mod herd;
mod idle;
mod mixed;
mod neighbours;
mod push;
mod ranges;

pub use self::{
    blobs::pulls,
    cold::{Cold, Once},
    push::Push,
};

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

pub use herd::{SlowReaders, any_port};
pub use mixed::Weights;

use crate::{
    args::Settings,
    load::{Pace, Plan},
    result::{Case, Round},
    subject::{Pins, Subject},
};

/// A scenario with what the user has set.
pub trait Scenario {
    /// What will be measured, without peers and rounds.
    fn cases(&self) -> Vec<Case>;

    /// Whether a server that only serves files can take part.
    fn takes_file_servers(&self) -> bool {
        false
    }

    /// How a peer is started for this scenario, from its name on the command line.
    ///
    /// Errors: a sentence, if it can't take part.
    fn peer(&mut self, spec: &str) -> Result<String, String> {
        Ok(spec.to_owned())
    }

    /// Gives a server what the case needs. Nothing is measured.
    ///
    /// Errors: a sentence.
    fn prepare(&mut self, case: &Case, subject: &mut Subject) -> Result<(), String>;

    /// Measures the case once.
    ///
    /// Errors: a sentence, if it could not be measured; wrong answers are counted in the round instead.
    fn round(&mut self, case: &Case, subject: &mut Subject) -> Result<Round, String>;
}

/// The scenario of that name.
///
/// Errors: there is none; the sentence lists those that there are.
pub fn named(name: &str, settings: &Settings) -> Result<Box<dyn Scenario>, String> {
    let settings = settings.clone();
    Ok(match name {
        "blobs" => Box::new(blobs::Blobs::new(settings)),
        "ranges" => Box::new(ranges::Ranges::new(settings)),
        "push" => Box::new(push::Push::new(settings)),
        "neighbours" => Box::new(neighbours::Neighbours::new(settings)),
        "idle" => Box::new(idle::Idle::new(settings)),
        "fleet" => Box::new(fleet::Fleet::new(settings)),
        "herd" => Box::new(herd::Herd::new(settings)),
        "mixed" => Box::new(mixed::Mixed::new(settings)?),
        _ => return Err(format!("there is no scenario {name}; there are {}", NAMES.join(", "))),
    })
}

/// Every scenario's name.
pub const NAMES: &[&str] = &["blobs", "ranges", "push", "neighbours", "idle", "fleet", "herd", "mixed"];

impl Settings {
    /// The processors of the server.
    pub fn pins(&self) -> Pins {
        Pins { server: self.server_cpus.clone() }
    }

    /// A load on `subject` as the user wants it, for a case.
    pub fn plan(&self, case: &Case, subject: &Subject) -> Plan {
        Plan {
            addr: subject.addr(),
            pace: case.rate.map_or(Pace::Closed, |per_second| Pace::Open { per_second }),
            warm_up: Duration::from_secs_f64(self.warm_up),
            time: Duration::from_secs_f64(self.time),
            cpus: self.client_cpus.clone(),
            shares_at_nice: None,
        }
    }

    /// A case for each of these loads (a name and the size of a body) with each number of connections.
    pub fn cases<'a>(&self, scenario: &str, loads: impl Iterator<Item = (&'a str, u64)>) -> Vec<Case> {
        let rate = self.rate.map_or(String::new(), |rate| format!(", {rate} requests/s"));
        let mut cases = Vec::new();
        for (name, size_bytes) in loads {
            for connections in &self.connections {
                let mut case = self.case(scenario, format!("{name}, {connections} connections{rate}"));
                case.size_bytes = Some(size_bytes);
                case.connections = Some(*connections);
                cases.push(case);
            }
        }
        cases
    }

    /// A case without peers yet.
    pub fn case(&self, scenario: &str, name: String) -> Case {
        Case {
            scenario: scenario.to_owned(),
            name,
            size_bytes: None,
            connections: None,
            rate: self.rate,
            peers: Vec::new(),
        }
    }
}

/// A number that no run before has begun with, so that a registry that runs for long is given new blobs.
fn now_as_seed() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_nanos()).unwrap_or(0))
}

/// A GET as bytes that many connections send.
pub fn get(subject: &Subject, target: &str, fields: &str) -> Arc<[u8]> {
    subject.registry.origin.request("GET", target, fields, b"").into()
}

/// A size as people write it: `64 KiB`.
pub fn size(bytes: u64) -> String {
    match bytes {
        0..1024 => format!("{bytes} B"),
        _ if bytes.is_multiple_of(1 << 30) => format!("{} GiB", bytes >> 30),
        _ if bytes.is_multiple_of(1 << 20) => format!("{} MiB", bytes >> 20),
        _ => format!("{} KiB", bytes >> 10),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::{
        args::{Arguments, Command},
        peers::{self, Options},
    };

    /// What the command line makes of these arguments, on any processor.
    pub fn settings(scenario: &str, arguments: &[&str]) -> Settings {
        let start = ["gantry-bench", "compare", scenario, "--peers", "none", "--unpinned"];
        match Arguments::parse_from([&start[..], arguments].concat()).command {
            Command::Compare { settings, .. } => settings,
            other => panic!("{other:?}"),
        }
    }

    /// A registry that runs: the Gantry of `GANTRY_BIN`, or Debian's; `None`, with a line that says so, if neither is
    /// here.
    pub fn registry() -> Option<Subject> {
        let spec = if std::env::var_os("GANTRY_BIN").is_some() { "gantry" } else { "docker-registry" };
        match peers::start(spec, &Options::default()) {
            Ok(peer) => Some(Subject::of_peer(peer)),
            Err(why) if why.contains("not on PATH") => {
                println!("lacks a registry: {why}");
                None
            }
            Err(why) => panic!("{why}"),
        }
    }

    #[test]
    fn every_name_is_a_scenario() {
        for name in NAMES {
            assert!(!named(name, &settings(name, &[])).unwrap().cases().is_empty(), "{name}");
        }
    }
}
