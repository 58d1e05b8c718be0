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

/// Pages of an upstream's referrers that are put together to one of ours.
pub const REFERRERS_PAGES: usize = 32;

/// Entries in an upstream's index of referrers. A page of ours has room for no more that are whole descriptors.
pub const REFERRERS_ENTRIES: usize = 32 << 10;

/// A document of an upstream: a manifest, or a page of tags or referrers.
pub const DOCUMENT_BYTES: usize = 4 << 20;

/// Media types that an upstream is asked for beside our own.
pub const ACCEPT_EXTRA: usize = 16;

/// Questions that wait for one upstream. One more is refused: those that need no upstream, or another, go on.
pub const WAITS_PER_UPSTREAM: usize = 512;

/// Manifests of one upstream that are on their way or not kept yet, each up to [`DOCUMENT_BYTES`]. One more is not asked
/// for before there is room.
pub const MANIFESTS_IN_HAND: usize = 32;

/// Things that an upstream was found not to have, remembered for its `negative_ttl`: some 11,000.
pub const ABSENCES_BYTES: u64 = 8 << 20;

/// Blobs that an upstream's HEAD gave permission for.
pub const GRANTS_BYTES: u64 = 8 << 20;

/// Heads of manifests that are not here.
pub const OUTLINES_BYTES: u64 = 4 << 20;

/// Repositories of an upstream that are known to have been opened by a manifest.
pub const OPENED_BYTES: u64 = 4 << 20;

/// What lies elsewhere for one of these: its place in the tables, and a media type of 255 bytes.
pub const REMEMBERED_BESIDE_BYTES: usize = 384;

/// Pages of an upstream's lists, in bytes.
pub const LISTS_BYTES: u64 = 8 << 20;

/// What is done behind answers at the same time, for each upstream. What finds no place is tried again when it is asked
/// for again.
pub const BEHIND_AT_ONCE: usize = 32;

/// Kept manifests of all upstreams, with what hangs on them, unless an operator says otherwise.
pub const MIRRORED_BYTES: u64 = 1 << 30;

/// Patterns that are pinned while it runs, beside those of the configuration.
pub const PINS: usize = 256;

/// Images that are being warmed, or were not long ago, whose progress can be asked for.
pub const WARMS_KEPT: usize = 64;

/// Platforms that are named for one image.
pub const WARM_PLATFORMS: usize = 32;

/// Manifests of one image, its platforms' and what they name in turn.
pub const WARM_MANIFESTS: usize = 256;

/// Things that were not to be had, told of one image; others are counted.
pub const WARM_PROBLEMS: usize = 8;

/// Indexes whose platforms are fetched ahead, running and waiting; another one is left for its next client.
pub const PREFETCHES: usize = 64;

/// Indexes that were fetched ahead not long ago, and are not looked at again.
pub const PREFETCHED_BYTES: u64 = 4 << 20;

/// Bytes of a request to `/api/v1`.
pub const API_BODY_BYTES: usize = 64 << 10;

/// How long an upstream's permission for a blob holds.
pub const GRANT_AGE_MAX: Duration = Duration::from_secs(10 * 60);

/// A URL that is asked, as long as presigned ones are, and longer.
pub const URL_BYTES: usize = 16 << 10;

/// Redirects followed for one request.
pub const REDIRECTS: usize = 5;

/// What a realm answers.
pub const TOKEN_BYTES: usize = 64 << 10;

/// Tokens kept for one upstream; one more takes the place of the longest unused.
pub const TOKENS: usize = 1_024;

/// What a command prints that gives credentials.
pub const COMMAND_BYTES: usize = 64 << 10;

/// Questions that wait for an upstream's budget at the same time.
pub const BUDGET_WAITERS: usize = 64;

/// The longest time for which an upstream may ask not to be asked.
pub const RETRY_AFTER: Duration = Duration::from_secs(6 * 3600);

/// How often a pause doubles that an upstream did not name.
pub const BUDGET_DOUBLINGS: u32 = 6;

/// How many first pauses an upstream is left alone whose budget is spent, if it does not say when it comes back.
pub const BUDGET_SPENT_PAUSES: u32 = 60;

/// How often the breaker's pause doubles.
pub const BREAKER_DOUBLINGS: u32 = 3;

/// The head of a proxy's answer.
pub const PROXY_HEAD_BYTES: usize = 8 << 10;

/// Headers in an upstream's answer.
pub const HEADERS: usize = 100;

/// A head of an upstream's answer, and what is read of a body at once.
pub const READ_BYTES: usize = 64 << 10;

/// Pieces of a blob that wait to be taken; each at most [`READ_BYTES`].
pub const PIECES: usize = 4;

/// Of what an upstream sends that nobody wants, what is read so that the connection can be used again.
pub const DISCARD_BYTES: usize = 16 << 10;

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

/// Manifests of a repository that are forgotten in one transaction.
pub const FORGOTTEN_AT_ONCE: usize = 16;

/// What they name, after which no further one is taken into it.
pub const FORGOTTEN_TARGETS: usize = 4_096;

/// Images that are warmed at the same time; others wait.
pub const WARMS_AT_ONCE: usize = 2;

/// Blobs of one image that are fetched at the same time.
pub const WARM_BLOBS_AT_ONCE: usize = 4;

/// Indexes that are fetched ahead at the same time.
pub const PREFETCHES_AT_ONCE: usize = 2;

/// Blobs of one such image that are fetched at the same time.
pub const PREFETCH_BLOBS_AT_ONCE: usize = 2;

/// How long an index that was fetched ahead is not looked at again.
pub const PREFETCHED_FOR: Duration = Duration::from_secs(3600);

/// How long one index may be fetched ahead, waiting for clients included.
pub const PREFETCH_TIME: Duration = Duration::from_secs(6 * 3600);

/// A warming that nobody asks after for so long is given up.
pub const WARM_UNWATCHED: Duration = Duration::from_secs(30);

/// How long the end of a warming can be asked for.
pub const WARM_KEPT_FOR: Duration = Duration::from_secs(10 * 60);

/// Digests that the cache is asked about at a time.
pub const CACHE_DIGESTS: usize = 64;

/// Entries in a page of the cache's list.
pub const CACHE_PAGE: u32 = 1_000;

/// Repositories that are asked whether they are pinned, of those that name a blob.
pub const PINNING_REPOSITORIES: u32 = 1_024;

/// Repositories that are named for one entry of it.
pub const CACHE_REPOSITORIES: u32 = 4;

/// How long a page of an upstream's list is given again without asking.
pub const LIST_FRESH: Duration = Duration::from_secs(10);

/// How long a page is kept for when its upstream is away.
pub const LIST_KEPT: Duration = Duration::from_secs(24 * 3600);

/// The longest that anything is remembered without being written down; a setting that is longer is cut to it.
pub const REMEMBERED_AT_MOST: Duration = Duration::from_secs(30 * 24 * 3600);

/// How often at most it is written down that a kept manifest was asked for.
pub const USE_NOTED_EVERY: Duration = Duration::from_secs(3600);

/// When a client is told to come again that wants what is not here, of an upstream that is not asked.
pub const OFFLINE_RETRY_AFTER_S: u32 = 60;

/// Addresses of a host that are tried.
pub const ADDRESSES: usize = 8;

/// How long an address is tried before the next is tried beside it.
pub const HEAD_START: Duration = Duration::from_millis(250);

/// How long a connection to an upstream is kept without a request.
pub const UPSTREAM_IDLE: Duration = Duration::from_secs(60);

/// Connections to one host that are kept without a request.
pub const UPSTREAM_IDLE_CONNECTIONS: usize = 16;

/// HTTP/2: what a stream may bring before it is taken, which at 50 ms of distance is 40 MB/s.
pub const STREAM_WINDOW_BYTES: u32 = 2 << 20;

/// HTTP/2: the largest window that a connection can have (RFC 9113 §6.9.1).
pub const CONNECTION_WINDOW_BYTES_MAX: u32 = (1 << 31) - 1;

/// HTTP/2: the largest frame.
pub const FRAME_BYTES: u32 = 64 << 10;

/// HTTP/2: the largest head.
pub const HEADER_LIST_BYTES: u32 = 64 << 10;

/// HTTP/2: how often a silent connection is asked whether it lives, and how long it may take to say so.
pub const PING: Duration = Duration::from_secs(15);

/// How long a body is read that nobody wants.
pub const DISCARD_TIME: Duration = Duration::from_millis(100);

/// How long a command's credentials are used before it is asked again.
pub const COMMAND_AGE: Duration = Duration::from_secs(5 * 60);

/// A token that says that it lives shorter lives so long; what it is really worth is seen in a 401.
pub const TOKEN_SECONDS_MIN: f64 = 60.0;

/// A token that says that it lives longer is used no longer.
pub const TOKEN_SECONDS_MAX: f64 = 24.0 * 3600.0;

const _: () = assert!(READERS >= 1 && READERS <= 4);
const _: () = assert!(FORWARDS_AT_ONCE < QUESTIONS_AT_ONCE);
const _: () =
    assert!(WAITS_PER_UPSTREAM > QUESTIONS_AT_ONCE, "its test fills more than all places of the others");
const _: () = assert!(CHANGES_WAITING >= QUESTIONS_AT_ONCE, "a question never finds the writer's queue full");
const _: () = assert!(TOUCHES_A_BATCH <= TOUCHES_WAKE && TOUCHES_WAKE < TOUCHES);
const _: () = assert!(WAL_KEEP_BYTES < WAL_CHECKPOINT_BYTES && WAL_RESERVED_BYTES < WAL_ALARM_BYTES);

/// Fills that are wanted for no client, at the same time.
pub const FILLS_BEHIND: usize =
    WARMS_AT_ONCE * WARM_BLOBS_AT_ONCE + PREFETCHES_AT_ONCE * PREFETCH_BLOBS_AT_ONCE;
