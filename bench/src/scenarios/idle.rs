//! `idle`: what connections cost that nobody uses: memory for each, and what a client that works notices of them.
//!
//! Memory is compared with that of the server before it had any, not with that before the round: what an
//! allocator keeps of earlier ones would make later ones look free.

use std::{collections::BTreeMap, thread, time::Duration};

use super::{
    Scenario,
    blobs::pulls,
    bystanders::{Bystanders, raise_descriptors},
    get,
};
use crate::{
    args::Settings,
    result::{Case, Round},
    subject::Subject,
};

/// A server gets this long to take up what came.
const SETTLE: Duration = Duration::from_millis(300);

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Untouched,
    Asked,
    HalfHead,
}

const STATES: [(&str, State); 3] = [
    ("that did nothing", State::Untouched),
    ("after one request", State::Asked),
    ("with half a head", State::HalfHead),
];

/// The scenario.
pub struct Idle {
    settings: Settings,
    /// The shared-out memory of each server before it had any, by its name.
    pss_before: BTreeMap<String, u64>,
}

impl Idle {
    /// With what the user has set: the first of the sizes is what the good client asks for.
    pub fn new(settings: Settings) -> Idle {
        raise_descriptors();
        Idle { settings, pss_before: BTreeMap::new() }
    }

    fn good_client(&self, case: &Case, subject: &mut Subject) -> Result<Round, String> {
        let blob = subject.give(self.settings.seed, case.size_bytes.unwrap_or(0))?;
        let request = get(subject, &subject.blob_target(&blob), "");
        let every = self.settings.verify_every;
        let script = pulls(1, &request, blob.length, blob.digest, every);
        let plan = self.settings.plan(case, subject);
        Ok(subject.load(&case.name, &plan, &self.settings.pins(), script)?.round)
    }
}

impl Scenario for Idle {
    fn cases(&self) -> Vec<Case> {
        let case = |(name, _): (&str, State)| {
            let mut case =
                self.settings.case("idle", format!("{} connections {name}", self.settings.bystanders));
            case.size_bytes = Some(self.settings.sizes[0]);
            case.connections = Some(self.settings.bystanders);
            case
        };
        STATES.map(case).to_vec()
    }

    fn takes_file_servers(&self) -> bool {
        true
    }

    fn prepare(&mut self, case: &Case, subject: &mut Subject) -> Result<(), String> {
        subject.give(self.settings.seed, case.size_bytes.unwrap_or(0)).map(drop)
    }

    fn round(&mut self, case: &Case, subject: &mut Subject) -> Result<Round, String> {
        let alone = self.good_client(case, subject)?;
        let blob = subject.give(self.settings.seed, case.size_bytes.unwrap_or(0))?;
        let request = get(subject, &subject.blob_target(&blob), "");
        let before = match self.pss_before.get(&subject.name) {
            Some(before) => *before,
            None => {
                let before = subject.cost()?.pss_bytes;
                self.pss_before.insert(subject.name.clone(), before);
                before
            }
        };
        let count = self.settings.bystanders;
        let bystanders = Bystanders::gather(subject.addr(), count)?;
        match state(case) {
            State::Untouched => {}
            State::Asked => {
                bystanders.say(&request)?;
                bystanders.hear()?;
            }
            State::HalfHead => bystanders.say(&request[..request.len() / 2])?,
        }
        thread::sleep(SETTLE);
        let pss_bytes = subject.cost()?.pss_bytes;
        let mut round = self.good_client(case, subject)?;
        let closed = bystanders.closed();
        if subject.peer.is_some() {
            let grown = pss_bytes.saturating_sub(before) as f64;
            round.figures.insert("pss_per_connection_bytes".to_owned(), grown / count.max(1) as f64);
        }
        let ratio = round.latency.p99_us / alone.latency.p99_us.max(1e-3);
        round.figures.insert("p99_to_alone_ratio".to_owned(), ratio);
        round.figures.insert("closed_by_server".to_owned(), closed as f64);
        round.errors += alone.errors;
        round.first_error = round.first_error.or(alone.first_error);
        round.verified += alone.verified;
        Ok(round)
    }
}

fn state(case: &Case) -> State {
    let found = STATES.iter().find(|(name, _)| case.name.ends_with(name));
    found.map_or(State::Untouched, |(_, state)| *state)
}
