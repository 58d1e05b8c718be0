//! What the metadata writer counts: one thread writes, anybody reads. What upstreams count goes along.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::mirror::MirrorMetrics;

/// Counters since start; each only grows, except `wal_bytes`.
#[derive(Debug, Default)]
pub struct Metrics {
    batches: AtomicU64,
    commits: AtomicU64,
    commit_failures: AtomicU64,
    members: AtomicU64,
    members_refused: AtomicU64,
    touches: AtomicU64,
    checkpoints: AtomicU64,
    wal_bytes: AtomicU64,
    mirror: MirrorMetrics,
}

/// The counters at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Batches begun.
    pub batches: u64,
    /// COMMITs that wrote something and returned no error. A batch that changes nothing has none.
    pub commits: u64,
    /// COMMITs that returned an error: 0 or 1, since there is none after it.
    pub commit_failures: u64,
    /// Changes asked for; every blob of a keeper's batch is one.
    pub members: u64,
    /// Members that were rolled back alone: a precondition, a missing or held reference.
    pub members_refused: u64,
    /// Touches of links written.
    pub touches: u64,
    /// Checkpoints run, of both kinds.
    pub checkpoints: u64,
    /// Length of the write-ahead log file, in bytes, after the last batch.
    pub wal_bytes: u64,
}

impl Metrics {
    /// All at zero; those of upstreams are theirs.
    pub(crate) fn with(mirror: MirrorMetrics) -> Metrics {
        Metrics { mirror, ..Metrics::default() }
    }

    /// Each counter is read by itself: together they are only nearly of one moment.
    pub fn read(&self) -> Counts {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            batches: get(&self.batches),
            commits: get(&self.commits),
            commit_failures: get(&self.commit_failures),
            members: get(&self.members),
            members_refused: get(&self.members_refused),
            touches: get(&self.touches),
            checkpoints: get(&self.checkpoints),
            wal_bytes: get(&self.wal_bytes),
        }
    }

    /// The families of the metadata and of the mirror in the OpenMetrics text format, without the end mark.
    pub fn render(&self, out: &mut String) {
        let counts = self.read();
        for (name, help, value) in [
            ("batches", "Batches of metadata changes begun.", counts.batches),
            ("commits", "Metadata transactions committed; each costs one fsync of the log.", counts.commits),
            (
                "commit_failures",
                "COMMITs that returned an error; writes are refused after one.",
                counts.commit_failures,
            ),
            ("changes", "Changes of metadata asked for.", counts.members),
            ("changes_refused", "Changes that were rolled back alone.", counts.members_refused),
            ("touches", "Touches of links written.", counts.touches),
            ("checkpoints", "Checkpoints of the write-ahead log.", counts.checkpoints),
        ] {
            let family = format!("gantry_metadata_{name}");
            out.push_str(&format!(
                "# TYPE {family} counter\n# HELP {family} {help}\n{family}_total {value}\n"
            ));
        }
        out.push_str(&format!(
            "# TYPE gantry_metadata_log_bytes gauge\n# UNIT gantry_metadata_log_bytes bytes\n\
             # HELP gantry_metadata_log_bytes Length of the write-ahead log.\n\
             gantry_metadata_log_bytes {}\n",
            counts.wal_bytes
        ));
        self.mirror.render(out);
    }

    pub(crate) fn batch(&self) {
        self.batches.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn commit(&self) {
        self.commits.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn commit_failure(&self) {
        self.commit_failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn member(&self, taken: bool) {
        self.members.fetch_add(1, Ordering::Relaxed);
        self.members_refused.fetch_add(u64::from(!taken), Ordering::Relaxed);
    }

    pub(crate) fn touched(&self, links: u64) {
        self.touches.fetch_add(links, Ordering::Relaxed);
    }

    pub(crate) fn checkpoint(&self) {
        self.checkpoints.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn wal(&self, bytes: u64) {
        self.wal_bytes.store(bytes, Ordering::Relaxed);
    }
}
