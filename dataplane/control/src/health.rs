//! What the process knows of itself, and whether it may write.

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};

use serde::Serialize;

/// Whether writes are allowed, and if not, why. Reads go on in every case.
///
/// Refusing is final for the process: after an error of a sync or a COMMIT nobody knows what is on disk,
/// and only a new process, which reads it, may say so.
pub struct Writes {
    state: AtomicU8,
    last_good_unix: AtomicU64,
    on_refuse: OnRefuse,
}

/// Told why, and when the last push was known to be durable: see [`Writes::known_good`].
pub type OnRefuse = Box<dyn Fn(Refusal, u64) + Send + Sync>;

/// Why writes are refused until the process was restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// fsync, fdatasync or syncfs returned an error in this process.
    SyncFailed,
    /// COMMIT returned an error in this process.
    CommitFailed,
    /// An earlier process left the mark of one of these, and nobody has cleared it.
    MarkFound,
}

impl Refusal {
    /// A sentence for an operator.
    pub fn why(self) -> &'static str {
        match self {
            Refusal::SyncFailed => {
                "a sync to disk failed; restart, then run `gantry doctor --clear-disk-error`"
            }
            Refusal::CommitFailed => {
                "a metadata commit failed; restart, then run `gantry doctor --clear-disk-error`"
            }
            Refusal::MarkFound => {
                "an earlier process met a disk error; run `gantry doctor --clear-disk-error`"
            }
        }
    }
}

impl Writes {
    /// Writes allowed. `on_refuse` runs once, on the thread that refuses first: it leaves the mark on disk.
    pub fn allowed(on_refuse: OnRefuse) -> Writes {
        Writes { state: AtomicU8::new(0), last_good_unix: AtomicU64::new(0), on_refuse }
    }

    /// Whatever was pushed before this time, in seconds since 1970, is durable. Said by the keeper after each
    /// batch; 0 as long as it has said nothing.
    pub fn known_good(&self, unix: u64) {
        self.last_good_unix.store(unix, Ordering::Release);
    }

    /// Refuses all further writes of this process. The first reason stays.
    pub fn refuse(&self, why: Refusal) {
        let code = match why {
            Refusal::SyncFailed => 1,
            Refusal::CommitFailed => 2,
            Refusal::MarkFound => 3,
        };
        if self.state.compare_exchange(0, code, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            (self.on_refuse)(why, self.last_good_unix.load(Ordering::Acquire));
        }
    }

    /// `None`: writes are allowed.
    pub fn refused(&self) -> Option<Refusal> {
        match self.state.load(Ordering::Acquire) {
            0 => None,
            1 => Some(Refusal::SyncFailed),
            2 => Some(Refusal::CommitFailed),
            _ => Some(Refusal::MarkFound),
        }
    }
}

/// The JSON of `/healthz`.
#[derive(Clone, Debug, Serialize)]
pub struct Health {
    /// Every core, in order.
    pub cores: Vec<CoreHealth>,
    /// The volume of the data directory.
    pub disk: DiskHealth,
    /// Whether pushes are taken.
    pub writes: WritesHealth,
    /// What an operator should know; empty when all is well.
    pub warnings: Vec<String>,
}

/// One core.
#[derive(Clone, Debug, Serialize)]
pub struct CoreHealth {
    /// `"uring"` or `"epoll"`.
    pub driver: &'static str,
    /// Connections it owns now.
    pub connections: u64,
}

/// The volume of the data directory.
#[derive(Clone, Debug, Serialize)]
pub struct DiskHealth {
    /// Its file system, `"unknown"` if we have no rule for it.
    pub filesystem: &'static str,
    /// Bytes that a push may still take, the reserve included.
    pub free_bytes: u64,
    /// Bytes kept back for metadata and deletes.
    pub reserve_bytes: u64,
}

/// Whether pushes are taken.
#[derive(Clone, Debug, Serialize)]
pub struct WritesHealth {
    /// `false`: pushes are answered 503 or 507.
    pub allowed: bool,
    /// Why not.
    pub why: Option<&'static str>,
}
