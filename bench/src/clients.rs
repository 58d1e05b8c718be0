//! Many blocking clients at the same time, a thread each, and what that cost the server.
//!
//! Owns: when each client arrives (`Arrivals`), what all of them count (`Tally`), and the round that comes of it.

use std::{
    str::FromStr,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
    thread,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};

use crate::{
    args::Settings,
    client::Got,
    content::Dice,
    cost, load, machine,
    report::progress::Progress,
    result::{Latency, Round},
    subject::Subject,
};

/// A client's thread calls nothing deep.
const STACK_BYTES: usize = 256 * 1024;
/// How often the server's memory is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// When clients arrive.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Arrivals {
    /// All at once.
    Together,
    /// One by one, with gaps that nobody can foretell.
    Poisson {
        /// Clients a second on average.
        per_second: f64,
    },
}

impl FromStr for Arrivals {
    type Err = String;

    fn from_str(text: &str) -> Result<Arrivals, String> {
        let wrong = || format!("{text}: clients arrive `together`, or as `poisson:RATE` clients a second");
        match text.strip_prefix("poisson:") {
            None if text == "together" => Ok(Arrivals::Together),
            None => Err(wrong()),
            Some(rate) => match rate.parse() {
                Ok(per_second) if per_second > 0.0 && f64::is_finite(per_second) => {
                    Ok(Arrivals::Poisson { per_second })
                }
                _ => Err(wrong()),
            },
        }
    }
}

impl Arrivals {
    /// When each of `count` clients arrives, from the start of the round, in order.
    pub fn times(self, count: usize, seed: u64) -> Vec<Duration> {
        match self {
            Arrivals::Together => vec![Duration::ZERO; count],
            Arrivals::Poisson { per_second } => {
                let mut dice = Dice::new(seed);
                let mut at = 0.0;
                let next = |_| {
                    at -= dice.share().ln() / per_second;
                    Duration::from_secs_f64(at)
                };
                (0..count).map(next).collect()
            }
        }
    }
}

/// What the clients of a round count together.
#[derive(Default)]
pub struct Tally(Mutex<Counted>);

#[derive(Default)]
struct Counted {
    requests: u64,
    bytes: u64,
    verified: u64,
    errors: u64,
    first_error: Option<String>,
    /// By kind of operation.
    latency: Vec<Histogram<u64>>,
}

impl Tally {
    /// An answer that was right.
    pub fn right(&self, got: &Got) {
        let mut counted = self.lock();
        counted.requests += 1;
        counted.bytes += got.bytes;
        counted.verified += u64::from(got.verified);
    }

    /// Bytes that were pushed.
    pub fn pushed(&self, bytes: u64) {
        self.lock().bytes += bytes;
    }

    /// An operation of a kind has ended and was right.
    pub fn took(&self, kind: usize, time: Duration) {
        let mut counted = self.lock();
        while counted.latency.len() <= kind {
            counted.latency.push(load::histogram());
        }
        counted.latency[kind].saturating_record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX).max(1));
    }

    /// An operation was wrong.
    pub fn wrong(&self, why: String) {
        let mut counted = self.lock();
        counted.errors += 1;
        counted.first_error.get_or_insert(why);
    }

    fn lock(&self) -> MutexGuard<'_, Counted> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a round came to.
pub struct Visits<T> {
    /// Everything but the scenario's own figures.
    pub round: Round,
    /// Latency of each kind of operation.
    pub kinds: Vec<Latency>,
    /// What each client says.
    pub clients: Vec<T>,
    /// The most resident memory that the server was seen with; 0 for a server that is not ours.
    pub rss_max_bytes: u64,
}

/// Runs a client for each of `arrivals`, in turn on the client's processors, and waits for all. `client` is given its
/// index, when it was to arrive, and where it counts.
///
/// Errors: a sentence, if a thread could not be made or the server ended.
pub fn run<T: Send>(
    subject: &Subject,
    settings: &Settings,
    label: &str,
    arrivals: &[Duration],
    client: impl Fn(usize, Instant, &Tally) -> T + Sync,
) -> Result<Visits<T>, String> {
    let cpus = &settings.client_cpus;
    let (tally, client) = (Tally::default(), &client);
    // Nobody starts before everybody is there; `None`: somebody could not come.
    let start: OnceLock<Option<Instant>> = OnceLock::new();
    let cost_before = subject.cost()?;
    let progress = Progress::new(format!("{} · {label}", subject.name), Duration::ZERO);
    thread::scope(|scope| {
        let (tally, start) = (&tally, &start);
        let mut threads = Vec::with_capacity(arrivals.len());
        for (index, arrival) in arrivals.iter().enumerate() {
            let cpu = cpus.get(index % cpus.len().max(1)).copied();
            let body = move || {
                if let Some(cpu) = cpu {
                    load::pin(cpu);
                }
                let due = (*start.wait())? + *arrival;
                thread::sleep(due.saturating_duration_since(Instant::now()));
                Some(client(index, due, tally))
            };
            match thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, body) {
                Ok(thread) => threads.push(thread),
                Err(error) => {
                    start.get_or_init(|| None);
                    return Err(format!(
                        "client {index} has no thread: {error}; run fewer, or raise ulimit -u"
                    ));
                }
            }
        }
        let cpu_before = cpu_time();
        let began = Instant::now();
        start.get_or_init(|| Some(began));
        let mut rss_max_bytes = 0;
        while threads.iter().any(|thread| !thread.is_finished()) {
            thread::sleep(LOOK_EVERY.min(began.elapsed() / 4 + Duration::from_micros(200)));
            // A server that ended is found below, once its clients have noticed.
            rss_max_bytes = rss_max_bytes.max(subject.cost().map_or(0, |cost| cost.rss_bytes));
            tally.show(&progress);
        }
        let seconds = began.elapsed().as_secs_f64();
        let client_cpu = (cpu_time() - cpu_before).as_secs_f64();
        let cost = cost::between(&cost_before, &subject.cost()?);
        let joined = threads.into_iter().map(|thread| thread.join().ok().flatten());
        let clients: Option<Vec<T>> = joined.collect();
        let clients = clients.ok_or("a client's thread panicked")?;
        progress.done();
        let processors = if cpus.is_empty() { machine::cpus().len() } else { cpus.len() };
        let (mut round, kinds) = tally.finish();
        round.seconds = seconds;
        round.cost = cost;
        round.client_busy = client_cpu / (seconds * processors.max(1) as f64).max(1e-9);
        let server_busy = cost.cpu_us / 1e6 / (seconds * settings.server_cpus.len().max(1) as f64).max(1e-9);
        // Whoever has no time left is the limit.
        round.client_bound = round.client_busy > 0.95 && (subject.peer.is_none() || server_busy < 0.9);
        rss_max_bytes = rss_max_bytes.max(cost.rss_bytes);
        Ok(Visits { round, kinds, clients, rss_max_bytes })
    })
}

impl Tally {
    fn show(&self, progress: &Progress) {
        let counted = self.lock();
        let p99 = counted.latency.first().map_or(0.0, |first| first.value_at_quantile(0.99) as f64 / 1e3);
        progress.tick(counted.requests, counted.errors, p99);
    }

    fn finish(&self) -> (Round, Vec<Latency>) {
        let counted = std::mem::take(&mut *self.lock());
        let mut all = load::histogram();
        for kind in &counted.latency {
            // All have the same bounds.
            let _ = all.add(kind);
        }
        let round = Round {
            requests: counted.requests,
            bytes: counted.bytes,
            errors: counted.errors,
            first_error: counted.first_error,
            verified: counted.verified,
            latency: load::latency(&all),
            ..Round::default()
        };
        (round, counted.latency.iter().map(load::latency).collect())
    }
}

/// Processor time of this process so far.
fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.cast_unsigned(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// The first, median and last of some times in seconds; nothing without any.
pub fn first_median_last(mut times: Vec<f64>) -> Option<(f64, f64, f64)> {
    times.sort_by(f64::total_cmp);
    Some((*times.first()?, times[times.len() / 2], *times.last()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_parsed() {
        assert_eq!("together".parse(), Ok(Arrivals::Together));
        assert_eq!("poisson:2.5".parse(), Ok(Arrivals::Poisson { per_second: 2.5 }));
        for wrong in
            ["", "poisson", "poisson:", "poisson:0", "poisson:-1", "poisson:inf", "poisson:nan", "x:1"]
        {
            assert!(wrong.parse::<Arrivals>().is_err_and(|why| why.starts_with(wrong)), "{wrong}");
        }
    }

    #[test]
    fn a_poisson_process_has_its_rate_and_no_rhythm() {
        let times = Arrivals::Poisson { per_second: 100.0 }.times(10_000, 7);
        assert!(times.is_sorted());
        let seconds = times[9_999].as_secs_f64();
        // 10,000 gaps of 10 ms: 100 s with a deviation of 1 s.
        assert!((96.0..104.0).contains(&seconds), "{seconds}");
        // Of exponential gaps 36.8 % are longer than the mean.
        let long = times.windows(2).filter(|pair| pair[1] - pair[0] > Duration::from_millis(10)).count();
        assert!((3_480..3_880).contains(&long), "{long}");
        assert_eq!(Arrivals::Together.times(3, 7), [Duration::ZERO; 3]);
    }

    #[test]
    fn first_median_and_last() {
        assert_eq!(first_median_last(vec![3.0, 1.0, 2.0]), Some((1.0, 2.0, 3.0)));
        assert_eq!(first_median_last(vec![]), None);
    }
}
