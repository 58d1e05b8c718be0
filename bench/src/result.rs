//! What a run found: plain data, written as JSON and read by every renderer.
//!
//! Durations are microseconds, sizes bytes, times seconds since 1970. A ratio is never stored: it is made from the
//! medians of two peers' rounds when it is shown.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Everything that one command found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// Where and how it was measured.
    pub about: About,
    /// The cases, in the order in which they ran.
    pub cases: Vec<Case>,
    /// What was to be reached, if the command was about that.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub goals: Vec<Goal>,
}

/// Something that is to be reached, and how far that is so.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Goal {
    /// Its name: `S1`.
    pub id: String,
    /// What is measured.
    pub measure: String,
    /// The unit, as at the end of a figure's name: `ratio`, `bytes`, `ms`; empty: a plain number.
    pub unit: String,
    /// What has to hold; `None`: it is only reported.
    pub must: Option<Bound>,
    /// What is aimed at.
    pub aim: Option<Bound>,
    /// What was found; `None`: it could not be measured, and the note says why.
    pub measured: Option<f64>,
    /// What a reader has to know beside it.
    pub note: String,
}

/// What a figure has to be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bound {
    /// This or less.
    AtMost(f64),
    /// Less than this.
    Below(f64),
    /// This or more.
    AtLeast(f64),
}

/// Where and how something was measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct About {
    /// The command line.
    pub command: String,
    /// When it began.
    pub started_unix: u64,
    /// The kernel's name and release.
    pub kernel: String,
    /// How TCP is paced: `cubic`, `bbr`.
    #[serde(default)]
    pub congestion_control: String,
    /// The processor's model.
    pub cpu: String,
    /// Processors that may be used.
    pub cpus: usize,
    /// Memory of the machine.
    pub memory_bytes: u64,
    /// The commit of the source tree, if it ran in one; with a `+` if that was changed.
    pub commit: Option<String>,
    /// Each peer and what it says its version is.
    pub versions: BTreeMap<String, String>,
}

/// One measurement, made of every peer in turn.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Case {
    /// The scenario, `blobs`.
    pub scenario: String,
    /// What was varied, for people: `64 KiB, 16 connections`.
    pub name: String,
    /// Size of a body, where the case is about one.
    pub size_bytes: Option<u64>,
    /// Connections at the same time.
    pub connections: Option<u64>,
    /// Intended requests a second; `None`: as fast as answers come.
    pub rate: Option<f64>,
    /// The first is what the others are compared with.
    pub peers: Vec<PeerRounds>,
}

/// A peer's rounds of a case.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PeerRounds {
    /// Its name on the command line: `gantry:epoll`.
    pub peer: String,
    /// In the order in which they ran, interleaved with the other peers'.
    pub rounds: Vec<Round>,
}

/// One peer, one case, once.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Round {
    /// How long it took.
    pub seconds: f64,
    /// Answers that were right.
    pub requests: u64,
    /// Bytes of their bodies, or of what was pushed.
    pub bytes: u64,
    /// Wrong answers, cut connections, timeouts.
    pub errors: u64,
    /// What the first error was.
    pub first_error: Option<String>,
    /// Bodies whose digest was computed and compared.
    pub verified: u64,
    /// From the intended send time to the last byte of the answer.
    pub latency: Latency,
    /// What the server needed.
    pub cost: Cost,
    /// Share of the client's processors that was busy, 0 to 1.
    pub client_busy: f64,
    /// The client was the limit: the server's throughput is at least this.
    pub client_bound: bool,
    /// What only this scenario counts, by name with its unit: `flushes_per_ack`, `upstream_bytes`.
    pub figures: BTreeMap<String, f64>,
}

/// A distribution of latencies.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Latency {
    /// The mean.
    pub mean_us: f64,
    /// Half are quicker.
    pub p50_us: f64,
    /// Nine of ten are quicker.
    pub p90_us: f64,
    /// 99 of 100 are quicker.
    pub p99_us: f64,
    /// 999 of 1,000 are quicker.
    pub p999_us: f64,
    /// The slowest.
    pub max_us: f64,
    /// Points of the distribution: share of requests (0 to 1) and the latency that they stay below.
    pub points: Vec<(f64, f64)>,
}

/// What a server needed for a round: all its processes and threads.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Cost {
    /// Processor time, user and system.
    pub cpu_us: f64,
    /// What the server's processors were busy, for whomever and with interrupts: what a server leaves to the kernel is
    /// nobody's time, and work all the same. 0 if it has no processors of its own.
    #[serde(default)]
    pub busy_us: f64,
    /// Resident memory at the end.
    pub rss_bytes: u64,
    /// The same with shared pages divided among their users.
    pub pss_bytes: u64,
    /// Switches because a thread waited.
    pub voluntary_switches: u64,
    /// Switches because another thread was due.
    pub involuntary_switches: u64,
}

impl Bound {
    /// Whether `value` is within it.
    pub fn holds(self, value: f64) -> bool {
        match self {
            Bound::AtMost(bound) => value <= bound,
            Bound::Below(bound) => value < bound,
            Bound::AtLeast(bound) => value >= bound,
        }
    }
}

impl Goal {
    /// `aim` or `must` if that was reached, `missed` if neither, `–` where nothing has to hold or nothing is known.
    pub fn verdict(&self) -> &'static str {
        let reached =
            |bound: Option<Bound>| bound.zip(self.measured).map(|(bound, value)| bound.holds(value));
        match (reached(self.aim), reached(self.must)) {
            (Some(true), Some(true)) => "aim",
            (_, Some(true)) => "must",
            (_, Some(false)) => "missed",
            (_, None) => "–",
        }
    }
}

impl Round {
    /// Processor time of the server for one request.
    pub fn cpu_us_per_request(&self) -> f64 {
        self.cost.cpu_us / self.requests.max(1) as f64
    }

    /// Processor time of the server for a GB (10⁹ bytes) of bodies.
    pub fn cpu_us_per_gb(&self) -> f64 {
        self.cost.cpu_us / (self.bytes.max(1) as f64 / 1e9)
    }

    /// What the server's processors were busy for one request.
    pub fn busy_us_per_request(&self) -> f64 {
        self.cost.busy_us / self.requests.max(1) as f64
    }

    /// Right answers a second.
    pub fn requests_per_s(&self) -> f64 {
        self.requests as f64 / self.seconds.max(1e-9)
    }

    /// Bytes of bodies a second.
    pub fn bytes_per_s(&self) -> f64 {
        self.bytes as f64 / self.seconds.max(1e-9)
    }
}

impl PeerRounds {
    /// The median of a figure over the rounds; `None` without rounds.
    pub fn median(&self, of: impl Fn(&Round) -> f64) -> Option<f64> {
        let mut all: Vec<f64> = self.rounds.iter().map(of).filter(|value| value.is_finite()).collect();
        all.sort_by(f64::total_cmp);
        let upper = *all.get(all.len() / 2)?;
        let lower = all[(all.len() - 1) / 2];
        Some(f64::midpoint(lower, upper))
    }

    /// The median of one of the scenario's own figures.
    pub fn median_figure(&self, name: &str) -> Option<f64> {
        self.median(|round| round.figures.get(name).copied().unwrap_or(f64::NAN))
    }

    /// Errors of all rounds.
    pub fn errors(&self) -> u64 {
        self.rounds.iter().map(|round| round.errors).sum()
    }
}

impl Case {
    /// The other peer's median divided by the first one's; for each peer, the first (1.0) included.
    pub fn ratios(&self, of: impl Fn(&Round) -> f64 + Copy) -> Vec<Option<f64>> {
        let first = self.peers.first().and_then(|peer| peer.median(of));
        let ratio = |peer: &PeerRounds| Some(peer.median(of)? / first.filter(|first| *first > 0.0)?);
        self.peers.iter().map(ratio).collect()
    }
}
