//! `blobs`: GETs of one size.

use std::sync::Arc;

use oci::Digest;

use super::{Scenario, get, size};
use crate::{
    args::Settings,
    load::{Answer, Exchange, Reading, Script},
    result::{Case, Round},
    subject::Subject,
};

/// The scenario.
pub struct Blobs {
    settings: Settings,
}

/// A connection that asks for one blob over and over.
pub struct Pull {
    request: Arc<[u8]>,
    length: u64,
    digest: Digest,
    /// Every so many bodies one is hashed.
    verify_every: u64,
    asked: u64,
}

impl Blobs {
    /// With what the user has set.
    pub fn new(settings: Settings) -> Blobs {
        Blobs { settings }
    }
}

impl Scenario for Blobs {
    fn cases(&self) -> Vec<Case> {
        let mut cases = Vec::new();
        for size_bytes in &self.settings.sizes {
            for connections in &self.settings.connections {
                let rate = self.settings.rate.map_or(String::new(), |rate| format!(", {rate} requests/s"));
                let name = format!("{}, {connections} connections{rate}", size(*size_bytes));
                let mut case = self.settings.case("blobs", name);
                case.size_bytes = Some(*size_bytes);
                case.connections = Some(*connections);
                cases.push(case);
            }
        }
        cases
    }

    fn takes_file_servers(&self) -> bool {
        true
    }

    fn prepare(&mut self, case: &Case, subject: &mut Subject) -> Result<(), String> {
        subject.give(self.settings.seed, case.size_bytes.unwrap_or(0)).map(drop)
    }

    fn round(&mut self, case: &Case, subject: &mut Subject) -> Result<Round, String> {
        let blob = subject.give(self.settings.seed, case.size_bytes.unwrap_or(0))?;
        let request = get(subject, &subject.blob_target(&blob), "");
        let scripts = (0..case.connections.unwrap_or(1)).map(|index| {
            let pull =
                Pull::new(request.clone(), blob.length, blob.digest, self.settings.verify_every, index);
            Box::new(pull) as Box<dyn Script>
        });
        let plan = self.settings.plan(case, subject);
        Ok(subject.load(&case.name, &plan, &self.settings.pins(), scripts.collect())?.round)
    }
}

impl Pull {
    /// `start` sets the connections apart, so that they don't hash at the same time.
    pub fn new(request: Arc<[u8]>, length: u64, digest: Digest, verify_every: u64, start: u64) -> Pull {
        Pull { request, length, digest, verify_every: verify_every.max(1), asked: start }
    }
}

impl Script for Pull {
    fn next(&mut self) -> Option<Exchange> {
        self.asked += 1;
        let reading = if self.asked % self.verify_every == 0 {
            Reading::Verify { length: self.length, digest: self.digest }
        } else {
            Reading::Drop { length: Some(self.length) }
        };
        Some(Exchange::new(self.request.clone(), &[200], reading))
    }

    fn answered(&mut self, _answer: &Answer) -> Result<(), String> {
        Ok(())
    }
}
