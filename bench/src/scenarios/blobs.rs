//! `blobs`: GETs of one size.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use oci::Digest;

use super::{Once, Scenario, get, size};
use crate::{
    args::Settings,
    load::{Answer, Exchange, Reading, Script},
    result::{Case, Round},
    subject::Subject,
};

/// From this size on a round is not so many seconds but a body for each connection: in a second few of them end, and
/// what was paid for those that don't would be counted to nobody.
const LARGE_BYTES: u64 = 64 << 20;

/// The scenario.
pub struct Blobs {
    settings: Settings,
}

/// A connection that asks for one blob over and over.
struct Pull {
    request: Arc<[u8]>,
    length: u64,
    digest: Digest,
    /// Every so many bodies one is hashed, whichever connection it comes by.
    verify_every: u64,
    asked: Arc<AtomicU64>,
}

impl Blobs {
    /// With what the user has set.
    pub fn new(settings: Settings) -> Blobs {
        Blobs { settings }
    }
}

impl Scenario for Blobs {
    fn cases(&self) -> Vec<Case> {
        let loads: Vec<_> = self.settings.sizes.iter().map(|bytes| (size(*bytes), *bytes)).collect();
        self.settings.cases("blobs", loads.iter().map(|(name, bytes)| (name.as_str(), *bytes)))
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
        let (connections, every) = (case.connections.unwrap_or(1), self.settings.verify_every);
        if blob.length < LARGE_BYTES || case.rate.is_some() {
            let scripts = pulls(connections, &request, blob.length, blob.digest, every);
            let plan = self.settings.plan(case, subject);
            return Ok(subject.load(&case.name, &plan, &self.settings.pins(), scripts)?.round);
        }
        let body = |reading| Once::boxed(Exchange::new(request.clone(), &[200], reading));
        // The round would wait for one that is hashed, so that goes before.
        let verify = Reading::Verify { length: blob.length, digest: blob.digest };
        let verified = self.settings.once(case, subject, vec![body(verify)])?;
        let drop = |_| body(Reading::Drop { length: Some(blob.length) });
        let mut round = self.settings.once(case, subject, (0..connections).map(drop).collect())?;
        round.verified += verified.verified;
        Ok(round)
    }
}

/// `connections` that ask for one body over and over. Of all bodies one in `verify_every` is hashed, the first included.
pub fn pulls(
    connections: u64,
    request: &Arc<[u8]>,
    length: u64,
    digest: Digest,
    verify_every: u64,
) -> Vec<Box<dyn Script>> {
    let asked = Arc::new(AtomicU64::new(0));
    let pull = || Pull {
        request: request.clone(),
        length,
        digest,
        verify_every: verify_every.max(1),
        asked: asked.clone(),
    };
    (0..connections).map(|_| Box::new(pull()) as Box<dyn Script>).collect()
}

impl Script for Pull {
    fn next(&mut self) -> Option<Exchange> {
        let reading = if self.asked.fetch_add(1, Ordering::Relaxed).is_multiple_of(self.verify_every) {
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
