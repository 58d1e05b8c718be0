//! One large upload at a time, as a client sends it that reads its layer from memory; and what its digest costs alone.

use std::{
    fs::File,
    io, process,
    process::{Command, Stdio},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::{
    args::Settings,
    content::{Blob, Noise},
    cost::{self, Meter},
    leftovers::Dir,
    load,
    result::{Case, Round},
    scenarios::{Scenario, size},
    subject::{REPOSITORY, Subject},
};

/// How often the server's memory is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// The scenario.
pub(super) struct Upload {
    settings: Settings,
    /// The next blob's: a registry is given each one once.
    seed: u64,
}

impl Upload {
    /// Of blobs as large as the first of the sizes.
    pub fn new(settings: Settings) -> Upload {
        let since = SystemTime::now().duration_since(UNIX_EPOCH);
        Upload { seed: since.map_or(settings.seed, |since| since.as_nanos() as u64), settings }
    }
}

impl Scenario for Upload {
    fn cases(&self) -> Vec<Case> {
        let length = self.settings.sizes[0];
        let mut case = self.settings.case("upload", format!("one of {}", size(length)));
        (case.size_bytes, case.connections) = (Some(length), Some(1));
        vec![case]
    }

    fn prepare(&mut self, _case: &Case, subject: &mut Subject) -> Result<(), String> {
        subject.registry.send("GET", "/v2/", "", b"").map(drop)
    }

    fn round(&mut self, case: &Case, subject: &mut Subject) -> Result<Round, String> {
        self.seed += 1;
        let blob = Blob::new(self.seed, case.size_bytes.unwrap_or(0));
        let before = subject.cost()?;
        let (ended, rss_max) = (AtomicBool::new(false), Mutex::new(0));
        let meter = subject.peer.as_ref().map(|peer| Meter::of(peer.pid()));
        let cpu = self.settings.client_cpus.first().copied();
        let registry = &mut subject.registry;
        let (sent, seconds) = thread::scope(|scope| {
            scope.spawn(|| {
                while let (Some(meter), false) = (meter, ended.load(Ordering::Relaxed)) {
                    // A reading that fails is one less; the cost is read with its error below.
                    let rss_bytes = meter.read().map_or(0, |cost| cost.rss_bytes);
                    let mut max = rss_max.lock().unwrap_or_else(PoisonError::into_inner);
                    *max = rss_bytes.max(*max);
                    drop(max);
                    thread::sleep(LOOK_EVERY);
                }
            });
            let client = scope.spawn(|| {
                if let Some(cpu) = cpu {
                    load::pin(cpu);
                }
                let began = Instant::now();
                let sent = registry.push_blob(REPOSITORY, &blob.digest, blob.length, blob.noise());
                (sent, began.elapsed().as_secs_f64())
            });
            let done = client.join().unwrap_or_else(|_| (Err("the client panicked".to_owned()), 0.0));
            ended.store(true, Ordering::Relaxed);
            done
        });
        sent?;
        let mut round = Round { seconds, requests: 1, bytes: blob.length, ..Round::default() };
        round.cost = cost::between(&before, &subject.cost()?);
        let rss_max = rss_max.into_inner().unwrap_or_else(PoisonError::into_inner);
        round.figures.insert("rss_max_bytes".to_owned(), rss_max as f64);
        Ok(round)
    }
}

/// Processor time that `openssl dgst -sha256` needs for so many bytes of a file in memory, the median of `rounds`.
///
/// Errors: a sentence: it is not there.
pub(super) fn openssl_cpu_us(length: u64, rounds: usize) -> Result<f64, String> {
    let dir = Dir::make("digest", None)?;
    let path = dir.0.join("content");
    let written = File::create(&path).and_then(|mut file| io::copy(&mut Noise::new(1, length), &mut file));
    written.map_err(|error| format!("{}: {error}", path.display()))?;
    let own = Meter::of(process::id());
    let once = |_| {
        let before = own.read().map_err(|error| error.to_string())?;
        let mut command = Command::new("openssl");
        command.args(["dgst", "-sha256"]).arg(&path).stdout(Stdio::null());
        let status =
            command.status().map_err(|error| format!("openssl is needed for the digest: {error}"))?;
        let after = own.read().map_err(|error| error.to_string())?;
        match status.success() {
            // We wait meanwhile: what is added is the child's.
            true => Ok(cost::between(&before, &after).cpu_us),
            false => Err(format!("openssl dgst: {status}")),
        }
    };
    let mut all = (0..rounds.max(1)).map(once).collect::<Result<Vec<f64>, String>>()?;
    all.sort_by(f64::total_cmp);
    Ok(all[all.len() / 2])
}
