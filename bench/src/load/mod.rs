//! The engine: client threads with their connections, in a closed loop (a request when the last is answered) or an
//! open one (a request when it is due, whatever became of those before it).
//!
//! Latency counts from when an operation was to be sent, so a server that stalls is charged with everything that
//! had to wait for it.

mod connection;
mod script;
mod worker;

use std::{
    net::SocketAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;

pub use connection::Finished;
pub use script::{Answer, Exchange, Reading, Script};

use crate::result::{Latency, Round};
use worker::Worker;

/// When requests are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Pace {
    /// As soon as the one before is answered.
    Closed,
    /// At a fixed rate over all connections; what finds none free waits, and its latency counts that.
    Open {
        /// Operations a second.
        per_second: f64,
    },
}

/// How a load is put on.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Whom.
    pub addr: SocketAddr,
    /// When requests are sent.
    pub pace: Pace,
    /// What goes before and is not counted.
    pub warm_up: Duration,
    /// What is counted.
    pub time: Duration,
    /// Processors that the client's threads are pinned to, a thread each, which never sleeps; empty: two threads,
    /// anywhere.
    pub cpus: Vec<usize>,
    /// Another load runs on the same processors: sleeps like anybody, and takes its turns by this niceness.
    pub shares_at_nice: Option<i32>,
}

/// What a load came to.
#[derive(Debug)]
pub struct Load {
    /// Everything but the server's cost.
    pub round: Round,
    /// Latency of each kind of operation.
    pub kinds: Vec<Latency>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    WarmUp,
    Measure,
    Stop,
}

/// What the threads of a load share.
struct Shared {
    phase: AtomicU8,
    requests: AtomicU64,
    errors: AtomicU64,
    recent: Mutex<Histogram<u64>>,
}

/// What one thread has counted.
struct Tally {
    latency: Vec<Histogram<u64>>,
    recent: Histogram<u64>,
    requests: u64,
    bytes: u64,
    errors: u64,
    verified: u64,
    unanswered: u64,
    first_error: Option<String>,
    shown: (u64, u64),
    /// What of the time that counted was spent on answers and requests.
    busy: Duration,
}

/// Puts the load on: a script for each connection. `measure` runs on the calling thread while it is counted, from the
/// first instant to the last, and `tick` now and then with requests, errors and the recent p99 in microseconds.
///
/// Errors: a sentence, if it could not even be tried.
pub fn run<T>(
    plan: &Plan,
    scripts: Vec<Box<dyn Script>>,
    mut tick: impl FnMut(u64, u64, f64),
    measure: impl FnOnce(&mut dyn FnMut()) -> T,
) -> Result<(Load, T), String> {
    let shared = Shared {
        phase: AtomicU8::new(0),
        requests: AtomicU64::new(0),
        errors: AtomicU64::new(0),
        recent: Mutex::new(histogram()),
    };
    let threads = if plan.cpus.is_empty() { 2 } else { plan.cpus.len() }.min(scripts.len().max(1));
    let mut shares: Vec<Vec<Box<dyn Script>>> = (0..threads).map(|_| Vec::new()).collect();
    for (index, script) in scripts.into_iter().enumerate() {
        shares[index % threads].push(script);
    }
    let pace = match plan.pace {
        Pace::Closed => Pace::Closed,
        Pace::Open { per_second } => Pace::Open { per_second: per_second / threads as f64 },
    };
    thread::scope(|scope| {
        let shared = &shared;
        let start = |(index, scripts): (usize, Vec<Box<dyn Script>>)| {
            let cpu = plan.cpus.get(index).copied();
            scope.spawn(move || {
                if let Some(cpu) = cpu {
                    pin(cpu);
                }
                if let Some(nice) = plan.shares_at_nice {
                    // Without the right to be preferred it waits for the other, and says so by its latency.
                    let _ = rustix::process::setpriority_process(Some(rustix::thread::gettid()), nice);
                }
                let spins = cpu.is_some() && plan.shares_at_nice.is_none();
                Worker { shared, addr: plan.addr, scripts, pace, spins }.run()
            })
        };
        let workers: Vec<_> = shares.into_iter().enumerate().map(start).collect();
        let mut show = || {
            let mut recent = shared.recent.lock().unwrap_or_else(PoisonError::into_inner);
            let p99_us = recent.value_at_quantile(0.99) as f64 / 1e3;
            recent.reset();
            drop(recent);
            tick(shared.requests.load(Ordering::Relaxed), shared.errors.load(Ordering::Relaxed), p99_us);
        };
        sleep_showing(plan.warm_up, &mut show, || false);
        shared.phase.store(1, Ordering::Release);
        let began = Instant::now();
        let measured = measure(&mut || {
            sleep_showing(plan.time, &mut show, || workers.iter().all(|worker| worker.is_finished()));
        });
        let seconds = began.elapsed().as_secs_f64();
        shared.phase.store(2, Ordering::Release);
        let mut whole = Tally::default();
        for worker in workers {
            let tally = worker.join().map_err(|_| "a client thread panicked".to_owned())?;
            whole.add(tally.map_err(|error| format!("a client thread could not run: {error}"))?);
        }
        Ok((whole.finish(seconds, threads), measured))
    })
}

/// Pins the calling thread to a processor; one that may not be used is left out.
pub fn pin(cpu: usize) {
    let mut only = rustix::thread::CpuSet::new();
    only.set(cpu);
    // Not being pinned costs precision only.
    let _ = rustix::thread::sched_setaffinity(None, &only);
}

fn sleep_showing(time: Duration, show: &mut impl FnMut(), ended: impl Fn() -> bool) {
    let until = Instant::now() + time;
    while Instant::now() < until && !ended() {
        thread::sleep((until - Instant::now()).min(Duration::from_millis(250)));
        show();
    }
}

/// An empty histogram of nanoseconds.
pub fn histogram() -> Histogram<u64> {
    // Nanoseconds up to an hour, three digits.
    Histogram::new_with_bounds(1, 3_600_000_000_000, 3)
        .unwrap_or_else(|error| unreachable!("these bounds are allowed: {error}"))
}

impl Shared {
    fn phase(&self) -> Phase {
        match self.phase.load(Ordering::Acquire) {
            0 => Phase::WarmUp,
            1 => Phase::Measure,
            _ => Phase::Stop,
        }
    }

    /// Shows what `tally` counted since the last time.
    fn show(&self, tally: &mut Tally) {
        self.requests.fetch_add(tally.requests - tally.shown.0, Ordering::Relaxed);
        self.errors.fetch_add(tally.errors - tally.shown.1, Ordering::Relaxed);
        tally.shown = (tally.requests, tally.errors);
        let mut recent = self.recent.lock().unwrap_or_else(PoisonError::into_inner);
        // All have the same bounds.
        let _ = recent.add(&tally.recent);
        tally.recent.reset();
    }
}

impl Default for Tally {
    fn default() -> Tally {
        Tally {
            latency: vec![histogram()],
            recent: histogram(),
            requests: 0,
            bytes: 0,
            errors: 0,
            verified: 0,
            unanswered: 0,
            first_error: None,
            shown: (0, 0),
            busy: Duration::ZERO,
        }
    }
}

impl Tally {
    fn count(&mut self, phase: Phase, finished: &Finished, intended: Instant, bytes: u64) {
        if phase != Phase::Measure {
            return;
        }
        let kind = finished.exchange.kind;
        while self.latency.len() <= kind {
            self.latency.push(histogram());
        }
        let nanos = u64::try_from(intended.elapsed().as_nanos()).unwrap_or(u64::MAX).max(1);
        self.latency[kind].saturating_record(nanos);
        self.recent.saturating_record(nanos);
        self.requests += 1;
        self.bytes += bytes;
        self.verified += u64::from(matches!(finished.exchange.reading, Reading::Verify { .. }));
    }

    fn error(&mut self, phase: Phase, why: String) {
        if phase != Phase::Stop {
            self.errors += 1;
            self.first_error.get_or_insert(why);
        }
    }

    fn unanswered(&mut self, waited: Duration) {
        self.unanswered += 1;
        self.latency[0].saturating_record(u64::try_from(waited.as_nanos()).unwrap_or(u64::MAX).max(1));
    }

    fn add(&mut self, other: Tally) {
        while self.latency.len() < other.latency.len() {
            self.latency.push(histogram());
        }
        for (all, one) in self.latency.iter_mut().zip(&other.latency) {
            // All have the same bounds.
            let _ = all.add(one);
        }
        self.requests += other.requests;
        self.bytes += other.bytes;
        self.errors += other.errors;
        self.verified += other.verified;
        self.unanswered += other.unanswered;
        self.first_error = self.first_error.take().or(other.first_error);
        self.busy += other.busy;
    }

    fn finish(self, seconds: f64, threads: usize) -> Load {
        let mut all = histogram();
        for kind in &self.latency {
            let _ = all.add(kind);
        }
        let client_busy = self.busy.as_secs_f64() / (seconds * threads as f64).max(1e-9);
        let mut round = Round {
            seconds,
            requests: self.requests,
            bytes: self.bytes,
            errors: self.errors,
            first_error: self.first_error,
            verified: self.verified,
            latency: latency(&all),
            client_busy,
            ..Round::default()
        };
        if self.unanswered > 0 {
            round.figures.insert("unanswered".to_owned(), self.unanswered as f64);
        }
        Load { round, kinds: self.latency.iter().map(latency).collect() }
    }
}

/// A histogram of nanoseconds as what is reported.
pub fn latency(nanos: &Histogram<u64>) -> Latency {
    if nanos.is_empty() {
        return Latency::default();
    }
    let at = |quantile| nanos.value_at_quantile(quantile) as f64 / 1e3;
    let points = nanos.iter_quantiles(4).map(|step| (step.quantile(), step.value_iterated_to() as f64 / 1e3));
    Latency {
        mean_us: nanos.mean() / 1e3,
        p50_us: at(0.5),
        p90_us: at(0.9),
        p99_us: at(0.99),
        p999_us: at(0.999),
        max_us: nanos.max() as f64 / 1e3,
        points: points.collect(),
    }
}
