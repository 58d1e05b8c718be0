//! `neighbours`: how late a hot blob's answers get beside cold reads, beside slow readers, beside uploads.
//!
//! The hot blob is asked for at a fixed rate that leaves the server time: what is measured is waiting for others, not
//! for each other. Each round measures it alone first, so that both lie seconds apart.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use super::{
    Scenario,
    blobs::pulls,
    bystanders::{Bystanders, raise_descriptors},
    cold::Cold,
    get,
    push::Push,
    size,
};
use crate::{
    args::Settings,
    load::{self, Pace, Plan, Script},
    result::{Case, Round},
    subject::Subject,
};

/// GETs of the hot blob a second, unless `--rate` says otherwise.
const HOT_PER_S: f64 = 1_000.0;
/// Cold blobs, and connections that read them.
const COLD_BLOBS: u64 = 16;
const COLD_READERS: u64 = 8;
/// What slow readers ask for: more than they will read.
const SLOW_BLOB_BYTES: u64 = 64 << 20;
/// What each takes at once, and how often.
const SIP_BYTES: usize = 4096;
const SIP_EVERY: Duration = Duration::from_millis(500);
/// Connections that push, and what.
const PUSHERS: u64 = 4;
const PUSHED_BYTES: u64 = 1 << 20;
/// A counter of Gantry's: turns of a core that took longer than 1 ms.
const STALLS: &str = "gantry_core_stalls_total";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Beside {
    ColdReads,
    SlowReaders,
    Uploads,
}

const NEIGHBOURS: [(&str, Beside); 3] =
    [("cold reads", Beside::ColdReads), ("slow readers", Beside::SlowReaders), ("uploads", Beside::Uploads)];

/// The scenario.
pub struct Neighbours {
    settings: Settings,
    push: Push,
    /// By the server's name.
    cold: BTreeMap<String, Arc<Cold>>,
}

impl Neighbours {
    /// With what the user has set: the first of the sizes is the hot blob's.
    pub fn new(settings: Settings) -> Neighbours {
        raise_descriptors();
        Neighbours { push: Push::new(settings.clone()), settings, cold: BTreeMap::new() }
    }

    fn hot(&self, case: &Case, subject: &mut Subject) -> Result<Round, String> {
        let blob = subject.give(self.settings.seed, case.size_bytes.unwrap_or(0))?;
        let request = get(subject, &subject.blob_target(&blob), "");
        let every = self.settings.verify_every;
        let scripts = pulls(case.connections.unwrap_or(1), &request, blob.length, blob.digest, every);
        // Alone as well, so that only the neighbours make the difference.
        let plan = Plan { shares_at_nice: Some(-15), ..self.settings.plan(case, subject) };
        Ok(subject.load(&case.name, &plan, &self.settings.pins(), scripts)?.round)
    }

    /// The hot blob beside scripts that go as fast as they can.
    fn hot_beside(
        &self,
        case: &Case,
        subject: &mut Subject,
        neighbours: Vec<Box<dyn Script>>,
    ) -> Result<Round, String> {
        let shares_at_nice = Some(19);
        let plan = Plan { pace: Pace::Closed, shares_at_nice, ..self.settings.plan(case, subject) };
        let (others, hot) =
            load::run(&plan, neighbours, |_, _, _| (), |_| self.hot_with_stalls(case, subject))?;
        let (mut hot, stalls) = hot?;
        let others = others.round;
        let others_per_s = others.bytes_per_s();
        hot.errors += others.errors;
        hot.first_error = hot.first_error.or(others.first_error);
        hot.verified += others.verified;
        // All that was sent and received while stalls were counted, the hot blob's warm-up left out.
        let gb = (others.bytes + hot.bytes) as f64 / 1e9;
        hot.figures.insert("beside_bytes_per_s".to_owned(), others_per_s);
        hot.figures.extend(stalls.map(|stalls| ("stalls_per_gb".to_owned(), stalls / gb.max(1e-9))));
        Ok(hot)
    }

    fn hot_beside_slow_readers(&self, case: &Case, subject: &mut Subject) -> Result<Round, String> {
        let blob = subject.give(self.settings.seed, SLOW_BLOB_BYTES)?;
        let bystanders = Bystanders::gather(subject.addr(), self.settings.bystanders)?;
        bystanders.slow_down()?;
        bystanders.say(&get(subject, &subject.blob_target(&blob), ""))?;
        let (ended, sipped) = (AtomicBool::new(false), AtomicU64::new(0));
        let (mut hot, stalls) = thread::scope(|scope| {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    sipped.fetch_add(bystanders.sip(SIP_BYTES), Ordering::Relaxed);
                    thread::sleep(SIP_EVERY);
                }
            });
            let hot = self.hot_with_stalls(case, subject);
            ended.store(true, Ordering::Relaxed);
            hot
        })?;
        hot.figures.extend(stalls.map(|stalls| ("stalls".to_owned(), stalls)));
        let sipped = sipped.into_inner();
        hot.figures.insert("beside_bytes_per_s".to_owned(), sipped as f64 / hot.seconds);
        let closed = bystanders.closed();
        if closed > 0 || sipped == 0 {
            hot.errors += closed.max(1);
            let why = format!(
                "{closed} of {} slow readers were closed, {sipped} bytes read",
                self.settings.bystanders
            );
            hot.first_error.get_or_insert(why);
        }
        Ok(hot)
    }

    /// The hot blob, and how often a core stalled meanwhile if the server counts that.
    fn hot_with_stalls(&self, case: &Case, subject: &mut Subject) -> Result<(Round, Option<f64>), String> {
        let before = stalls(subject)?;
        let hot = self.hot(case, subject)?;
        Ok((hot, stalls(subject)?.zip(before).map(|(after, before)| after - before)))
    }
}

impl Scenario for Neighbours {
    fn cases(&self) -> Vec<Case> {
        let (length, connections) = (self.settings.sizes[0], self.settings.connections[0]);
        let case = |(name, beside): (&str, Beside)| {
            let count = if beside == Beside::SlowReaders {
                format!("{} ", self.settings.bystanders)
            } else {
                String::new()
            };
            let name = format!("{} beside {count}{name}", size(length));
            let mut case = self.settings.case("neighbours", name);
            case.size_bytes = Some(length);
            case.connections = Some(connections);
            case.rate = Some(self.settings.rate.unwrap_or(HOT_PER_S));
            case
        };
        NEIGHBOURS.map(case).to_vec()
    }

    fn prepare(&mut self, case: &Case, subject: &mut Subject) -> Result<(), String> {
        subject.give(self.settings.seed, case.size_bytes.unwrap_or(0))?;
        match beside(case) {
            Beside::ColdReads => {
                let length = self.settings.cold_bytes / COLD_BLOBS;
                let Settings { seed, verify_every, .. } = self.settings;
                let cold = Cold::give(subject, seed, COLD_BLOBS, length, verify_every)?;
                self.cold.insert(subject.name.clone(), Arc::new(cold));
                Ok(())
            }
            Beside::SlowReaders => subject.give(self.settings.seed, SLOW_BLOB_BYTES).map(drop),
            Beside::Uploads => Ok(()),
        }
    }

    fn round(&mut self, case: &Case, subject: &mut Subject) -> Result<Round, String> {
        let alone = self.hot(case, subject)?;
        let mut round = match beside(case) {
            Beside::ColdReads => {
                let cold = self.cold.get(&subject.name).ok_or("the cold blobs were not prepared")?;
                cold.drop_pages()?;
                self.hot_beside(case, subject, cold.readers(COLD_READERS))?
            }
            Beside::SlowReaders => self.hot_beside_slow_readers(case, subject)?,
            Beside::Uploads => {
                let pushers = self.push.whole(subject, PUSHED_BYTES, PUSHERS);
                self.hot_beside(case, subject, pushers)?
            }
        };
        round.errors += alone.errors;
        round.first_error = round.first_error.or(alone.first_error);
        round.verified += alone.verified;
        let (p99_us, alone_us) = (round.latency.p99_us, alone.latency.p99_us);
        round.figures.insert("alone_p99_us".to_owned(), alone_us);
        round.figures.insert("p99_to_alone_ratio".to_owned(), p99_us / alone_us.max(1e-3));
        Ok(round)
    }
}

fn beside(case: &Case) -> Beside {
    let found = NEIGHBOURS.iter().find(|(name, _)| case.name.ends_with(name));
    found.map_or(Beside::ColdReads, |(_, beside)| *beside)
}

/// How often a core of the server stalled since its start; `None`: it does not count that.
fn stalls(subject: &mut Subject) -> Result<Option<f64>, String> {
    let page = subject.registry.send("GET", "/metrics", "", b"")?;
    let text = String::from_utf8_lossy(&page.body);
    let lines = text.lines().filter(|line| line.starts_with(STALLS));
    let counts: Vec<f64> = lines.filter_map(|line| line.rsplit(' ').next()?.parse().ok()).collect();
    Ok((page.head.status == 200 && !counts.is_empty()).then(|| counts.iter().sum()))
}
