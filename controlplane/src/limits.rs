//! Every bound of the control plane: queues, batches, pools, pages.

use std::time::Duration;

// Bounds: what is more waits, is dropped, or comes with the next batch or page. Each is hit by a test that names it;
// the tidy tests look for that.

/// Changes in one transaction; a keeper's whole batch counts as one.
pub const CHANGES_A_BATCH: usize = 128;

/// Touches of links kept in memory until they are written.
pub const TOUCHES: usize = 16_384;

/// Touches written with one batch, so that they don't hold up its replies.
pub const TOUCHES_A_BATCH: usize = 1_024;

/// Touches at which the writer is woken for them alone.
pub const TOUCHES_WAKE: usize = TOUCHES / 2;

/// WAL size above which the writer checkpoints between two batches.
pub const WAL_CHECKPOINT_BYTES: u64 = 8 << 20;

/// A read of the metadata that takes longer is ended, and answered 503: a log that is being read can't start over.
pub const READ_TIME: Duration = Duration::from_secs(1);

/// Body of a page of referrers (end-12), as large as a manifest may be.
pub const REFERRERS_BYTES: usize = 4 << 20;

/// A document of an upstream: a manifest, or a page of tags or referrers.
pub const DOCUMENT_BYTES: usize = 4 << 20;

/// Media types that an upstream is asked for beside our own.
pub const ACCEPT_EXTRA: usize = 16;

// Tuning: how much is done at once or in one step, and when. They refuse nothing: what is more waits in its lane or
// queue, which is bounded. Another value is as right, and faster or slower on some machine.

/// Questions answered at the same time. One more waits in its lane, which is bounded too.
pub const QUESTIONS_AT_ONCE: usize = 256;

/// Forwarded requests answered at the same time; few, so that questions wait behind few lists.
pub const FORWARDS_AT_ONCE: usize = 16;

/// Manifests parsed at the same time: 4 MiB of JSON take many times that while they are being read.
pub const PARSES_AT_ONCE: usize = 4;

/// Connections that read the metadata.
pub const READERS: usize = 4;

/// Pages that each connection keeps in memory, in KiB.
pub const CACHE_KIB: i64 = 8 << 10;

/// Changes that wait for the metadata writer.
pub const CHANGES_WAITING: usize = QUESTIONS_AT_ONCE + 8;

/// Manifest bytes in one transaction, after which it takes no further member.
pub const BATCH_BYTES: usize = 16 << 20;

/// Length that the WAL's file is kept at, so that a COMMIT overwrites and does not append: what it reaches before
/// a checkpoint, and a batch more.
pub const WAL_RESERVED_BYTES: u64 = WAL_CHECKPOINT_BYTES + (1 << 20);

/// WAL size above which it says so in the log.
pub const WAL_ALARM_BYTES: u64 = 256 << 20;

/// Silence after which the writer writes touches, and gives the WAL's room back.
pub const IDLE: Duration = Duration::from_secs(10);

/// WAL size that is not worth the flushes of a checkpoint while idle.
pub const WAL_KEEP_BYTES: u64 = 1 << 20;

/// Steps of SQLite's machine after which a read looks at the time: some ten microseconds.
pub const READ_STEPS: i32 = 1_000;

/// How long SQLite waits for a lock: nobody but this process may hold one.
pub const LOCK_WAIT: Duration = Duration::from_secs(1);

/// When a client is told to come again whose upstream can't be reached.
pub const UPSTREAM_RETRY_AFTER_S: u32 = 5;

const _: () = assert!(READERS >= 1 && READERS <= 4);
const _: () = assert!(FORWARDS_AT_ONCE < QUESTIONS_AT_ONCE);
const _: () = assert!(CHANGES_WAITING >= QUESTIONS_AT_ONCE, "a question never finds the writer's queue full");
const _: () = assert!(TOUCHES_A_BATCH <= TOUCHES_WAKE && TOUCHES_WAKE < TOUCHES);
const _: () = assert!(WAL_KEEP_BYTES < WAL_CHECKPOINT_BYTES && WAL_RESERVED_BYTES < WAL_ALARM_BYTES);
