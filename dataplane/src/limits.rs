//! Every bound of the data plane, in one place, and how they depend on each other.
//!
//! Sizes are constants: buffers and proofs are built on them. Times and what an operator sizes his
//! machine by are [`Limits`], so that a test can run with all times divided by a hundred.

use std::time::Duration;

// Bounds: what is more is refused, waits, is dropped and counted, or is never made. Each is hit by a test that
// names it; the tidy tests look for that.

/// Request head (request line and header fields) in bytes; more is 431, a longer target 414.
pub const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Header fields in a request; more is 431.
pub const HEADER_FIELDS_MAX: usize = 100;
/// Media types of one request's `Accept` that are passed on to an upstream; more are passed over.
pub const ACCEPT_TYPES_MAX: usize = 32;
/// Request target in bytes; more is 414.
pub const TARGET_BYTES_MAX: usize = 8 * 1024;
/// Hexadecimal digits in the size of a chunk; more is 400.
pub const CHUNK_SIZE_DIGITS_MAX: u8 = 15;
/// Extension of one chunk in bytes; more is 400.
pub const CHUNK_EXTENSION_BYTES_MAX: u32 = 4096;
/// Trailers of a chunked body in bytes; more is 400.
pub const TRAILER_BYTES_MAX: u32 = 8192;
/// What is read and dropped of a body that nobody wanted, so that its connection can go on.
pub const DISCARD_BYTES_MAX: usize = 64 * 1024;
/// How long more of such a body is waited for.
pub const DISCARD_TIME: Duration = Duration::from_secs(1);
/// What is read and dropped of a client that sends on after its last answer, so that it can read that.
pub const LINGER_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long such a client is listened to.
pub const LINGER_TIME: Duration = Duration::from_secs(5);
/// A manifest, and any other body that is collected before it is looked at; more is 413.
pub const MANIFEST_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of such bodies that one core holds at the same time; more is 503.
pub const BODIES_BYTES_PER_CORE: usize = 64 * 1024 * 1024;
/// Pooled buffers of one core that are out at the same time; more wait.
pub const BUFS_PER_CORE: usize = 64;
/// Readers of one core whose sockets are full and who hold what was read past memory, two buffers at most; who is one too
/// many has it read again.
pub const HELD_WINDOWS_PER_CORE: usize = 16;
/// Pooled buffers of one core that stay allocated while idle.
pub const BUFS_KEPT_PER_CORE: usize = 16;
/// Pipes for splice that one core has; the kernel lets an unprivileged user have 64 of 1 MiB.
pub const PIPES_PER_CORE: usize = 64;
/// Pipes that it keeps while no socket needs them.
pub const PIPES_KEPT_PER_CORE: usize = 8;
/// Open files that one core keeps for blobs.
pub const OPEN_FILES_PER_CORE: usize = 1024;
/// Links (repository, digest) that one core remembers.
pub const LINKS_PER_CORE: usize = 16 * 1024;
/// Bytes of manifests that one core remembers.
pub const MANIFEST_CACHE_BYTES_PER_CORE: usize = 8 * 1024 * 1024;
/// A remembered link is asked for again after this long, so that the control plane sees it is in use.
pub const LINK_AGE_MAX: Duration = Duration::from_secs(300);
/// Upload sessions that are open at the same time; more is 503.
pub const UPLOAD_SESSIONS_MAX: usize = 100_000;
/// Idle sessions that keep their two files open; the others open them again when they go on.
pub const UPLOAD_FILES_KEPT_MAX: usize = 512;
/// A record of an upload session's state on disk.
pub const STATE_RECORD_BYTES_MAX: usize = 512;
/// Records of a session that a start looks at, from the end of its state file.
pub const STATE_RECORDS_READ_MAX: u64 = 64;
/// Members of one batch of the keeper.
pub const BATCH_MEMBERS_MAX: usize = 256;
/// Commits that wait for the keeper; more is 503.
pub const COMMITS_WAITING_MAX: usize = 1024;
/// Blobs that are remembered as unreadable until they are pushed again; more are found out by each read anew.
pub const SUSPECTS_MAX: usize = 4096;
/// Names or rows that the scrub holds; also what one job on the pool looks at, so that others get their turn.
pub const SCRUB_PAGE: u32 = 64;
/// Findings that the scrub names in the log; it counts all.
pub const SCRUB_NAMED_MAX: usize = 8;
/// Wishes for room that wait for the keeper; who wishes beside them is told that there is none.
pub const EVICTIONS_WAITING_MAX: usize = 1024;
/// Fills, running or not; beyond it one that nobody wants is forgotten, and if there is none it is 503.
pub const FILLS_MAX: usize = 1024;
/// What is held back of an answer until all bytes of its blob were verified; a blob up to this is verified before
/// anything of it is sent. In bytes.
pub const HELD_BACK_BYTES: u64 = 256 * 1024;
/// How often a fill that has begun is gone on with after its origin failed.
pub const FILL_RESUMES_MAX: u32 = 3;
/// Extents of one fill that are fetched at the same time; who wants another waits.
pub const FILL_EXTENTS_MAX: usize = 4;
/// What all fills have in memory of what came and is not written, of all upstreams and on all cores; more waits. In bytes.
pub const FILLS_MEMORY_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// What one of them has of that, its extents included.
pub const FILL_MEMORY_BYTES_MAX: u64 = 2 * 1024 * 1024;
/// Requests to an upstream that are each for one answer alone, which is not kept; more is 503. An upstream's client has by
/// default places for half as many more, so that who reads slowly leaves some for fills.
pub const PASSES_MAX: usize = 64;
/// Blobs that pass through memory for several answers at a time; of another each answer has a request of its own.
pub const PASS_WINDOWS_MAX: usize = 8;
/// What such a blob has in memory; an answer that is further behind the fastest has a request of its own.
pub const PASS_WINDOW_BYTES: u64 = 4 * 1024 * 1024;
/// Journal of a fill that a start reads, in bytes; one that is longer is dropped with its fill. That of half a
/// terabyte is as long.
pub const FILL_JOURNAL_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// How often a fill that finds the pool full asks again, each time a little later; then it has failed for now.
pub const FILL_BUSY_TRIES_MAX: u32 = 24;
/// How often one request joins a fill of the same blob, the one before having been spoilt; then it is 502.
pub const FILL_JOINS_MAX: usize = 3;
/// Jobs that wait for the pool's threads; more is 503.
pub const POOL_JOBS_MAX: usize = 4096;
/// Sockets that wait for a core to take them up; more are answered 503 and closed.
pub const MAILBOX_SOCKETS_MAX: usize = 1024;
/// Access-log records of one core that wait for the log thread; more are dropped and counted.
pub const ACCESS_RECORDS_MAX: usize = 8192;
/// Bytes of a request target that such a record keeps.
pub const ACCESS_TARGET_BYTES_MAX: usize = 256;
/// Bytes of a user agent that it keeps.
pub const ACCESS_USER_AGENT_BYTES_MAX: usize = 64;
/// Questions to the control plane that wait; more is 503.
pub const QUESTIONS_MAX: usize = 4096;
/// Forwarded requests that wait; more is 503.
pub const FORWARDS_MAX: usize = 256;
/// The larger of this and a hundredth of the volume is kept free for metadata and deletes.
pub const RESERVE_BYTES_MIN: u64 = 256 * 1024 * 1024;
/// So far back may the wall clock have been set when the doctor looks for what was linked last.
pub const CLOCK_SET_BACK_MAX: Duration = Duration::from_secs(3600);
/// Bodies up to this allocate nothing ahead.
pub const ALLOCATE_ABOVE_BYTES: u64 = 8 * 1024 * 1024;
/// Step in which space is allocated ahead of an upload.
pub const ALLOCATE_BYTES: u64 = 64 * 1024 * 1024;
/// Dirty bytes of an upload after which their write-back is started.
pub const WRITE_BACK_BYTES: u64 = 8 * 1024 * 1024;
/// Fewer members than this are synced one by one, at the same time; more by one syncfs.
pub const SYNCFS_MEMBERS_MIN: usize = 8;
/// Blobs that the cache's index knows, running fills among them; another one is only passed through. At most 128 bytes
/// of memory each; 36 more for a digest of 64 bytes.
pub const CACHE_ENTRIES_MAX: usize = 2 * 1024 * 1024;
/// Blobs that are known to be larger than the cache's small queue, and so go first.
pub const CACHE_LARGE_MAX: usize = 64;
/// Numbers of entries that are looked at for one page of the cache's list, so that nobody waits for it.
pub const CACHE_PAGE_LOOKS_MAX: u64 = 4096;
/// Entries in one page of the cache's list.
pub const CACHE_PAGE_ENTRIES_MAX: usize = 1000;
/// What the control plane asks of the cache that waits; more is 503.
pub const CACHE_ASKS_MAX: usize = 256;
/// Fills that are wanted for no client, at the same time; more is 503.
pub const CACHE_FILLS_MAX: usize = 16;
/// Digests that one question about the cache names; more is 400.
pub const CACHE_DIGESTS_MAX: usize = 64;
/// Purges that wait for the keeper; more is 503.
pub const PURGES_WAITING_MAX: usize = 64;
/// Entries that are looked at to choose what is evicted; uses count in the first half of them.
pub const CACHE_VICTIM_LOOKS_MAX: usize = 4096;
/// What the cache's index keeps in memory for its journal; more is dropped, and the next write is a snapshot.
pub const CACHE_JOURNAL_BUFFER_BYTES_MAX: usize = 256 * 1024;
/// The journal of the cache's index; when it is as long as that, a snapshot takes its place.
pub const CACHE_JOURNAL_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Payload of a frame in the snapshot or journal; one that says it is longer is damaged.
pub const CACHE_FRAME_BYTES_MAX: usize = 64 * 1024;
/// Bytes of the cache's budget are reserved in these units.
pub const LEASE_UNIT_BYTES: u64 = 1024 * 1024;
/// A syncfs that takes longer than this on average, and than four syncs of a directory, is not used for a while.
pub const SYNCFS_AVERAGE_MAX: Duration = Duration::from_millis(20);

// Tuning: sizes and times that refuse nothing. Another value is as right, and faster or slower on some machine.

/// Connections that wait to be accepted, where the kernel's `somaxconn` allows as many.
pub const LISTEN_BACKLOG: i32 = 4096;
/// A socket takes no more while so many bytes of it wait for their first transmission: a whole segment, and the start
/// of another without which the client's kernel would be slow to acknowledge.
pub const UNSENT_BYTES: i32 = 64 * 1024;
/// A body of which so much is left is not bound by that: the client's kernel gets its acknowledgements out in any case, and
/// each wake for a segment costs more than the segment.
pub const BULK_BYTES: u64 = 8 * 1024 * 1024;
/// What one `recv` may take from a socket into the core's own buffer.
pub const RECV_BYTES: usize = 64 * 1024;
/// A pooled buffer: one write of an upload, one read of a cold file.
pub const BUF_BYTES: usize = 256 * 1024;
/// Capacity of a pipe for splice in bytes.
pub const PIPE_BYTES: usize = 1024 * 1024;
/// A file send up to this is one read and one send.
pub const READ_SEND_BYTES_MAX: usize = 16 * 1024;
/// What one plain send gathers of an answer: heads, and parts that are read and sent.
pub const GATHER_BYTES: usize = 128 * 1024;
/// A file send up to this goes by sendfile, above by splice.
pub const SENDFILE_BYTES_MAX: usize = 256 * 1024;
/// Pages that were found in memory count for this long. They can go sooner; then the stall metric tells.
pub const RESIDENT_TIME: Duration = Duration::from_secs(1);
/// What of a file is asked about at once, when it is remembered: at least as much as goes by sendfile.
pub const RESIDENT_WINDOW_BYTES: u64 = 1024 * 1024;
/// Windows that one core remembers: together 4 GiB.
pub const RESIDENT_WINDOWS: usize = 4096;
/// Windows of `BUF_BYTES` that were read past the page cache and are remembered, in 8 bytes each: as many as memory could
/// hold, and at most these, together 256 GiB.
pub const GHOSTS_MAX: usize = 1 << 20;
/// What one connection may send before others get their turn.
pub const TURN_BYTES: usize = 1024 * 1024;
/// What a request counts for in that, beside the bytes of its answer.
pub const REQUEST_TURN_BYTES: usize = 16 * 1024;
/// Buffers for heads of answers that one core keeps while idle.
pub const HEADS_KEPT_PER_CORE: usize = 64;
/// Such a buffer that has grown larger is not kept; in bytes.
pub const HEAD_KEPT_BYTES_MAX: usize = 4096;
/// Socket deadlines are kept to this: late by at most so much, never early.
pub const TIMER_TICK: Duration = Duration::from_millis(8);
/// What one job on the pool reads of a file that is hashed once more: others get their turn between.
pub const REHASH_STEP_BYTES: u64 = 8 * 1024 * 1024;
/// Expired sessions that one job on the pool removes.
pub const EXPIRED_A_JOB: usize = 64;
/// fdatasync of this many files at the same time: they share the journal's commit.
pub const SYNCS_AT_ONCE: usize = SYNCFS_MEMBERS_MIN;
/// How long syncfs is left alone when it was slow: somebody else has much to write.
pub const SYNCFS_REST: Duration = Duration::from_secs(10);
/// After a start the scrub lets everybody else get going for so long, or for its interval if that is shorter.
pub const SCRUB_START_AFTER: Duration = Duration::from_secs(300);
/// What of a fill is there or not: a record of its journal stands for so many bytes.
pub const FILL_CHUNK_BYTES: u64 = BUF_BYTES as u64;
/// One part in so many of what fills have in memory is for pieces that came; the others are for chunks.
pub const FILL_PIECES_SHARE: u64 = 4;
/// Room that a fill holds at a time, before it writes there; whole chunks.
pub const FILL_ROOM_BYTES: u64 = 1 << 20;
/// Hits of cached blobs that a core tells the cache at a time.
pub const TOUCHES_A_BATCH: usize = 64;
/// Room that is made at a time for a push whose length nobody has told.
pub const PUSH_ROOM_BYTES: u64 = 8 * 1024 * 1024;
/// How often what wants room waits for what has gone for it to be closed.
pub const ROOM_TRIES_MAX: u32 = 16;
/// How long it waits then, and so much longer each time.
pub const ROOM_PAUSE: Duration = Duration::from_millis(5);
/// Chunks that the run of a fill is soon going to bring: nobody fetches them ahead of it.
pub const FILL_NEAR_CHUNKS: u64 = 8;
/// A blob that passes through is read so far ahead of the fastest who follows it.
pub const PASS_AHEAD_BYTES: u64 = 1 << 20;
/// What is taken at a time of a blob that passes through.
pub const PASS_PIECE_BYTES: usize = 64 * 1024;
/// The most chunks that one extent asks for.
pub const FILL_EXTENT_CHUNKS_MAX: u64 = 64;
/// Who asks for less than this in bytes probes, and never starts a whole fill.
pub const PROBE_BYTES: u64 = 4096;
/// A fill that is resumed waits this long before, twice as long the second time.
pub const FILL_RESUME_PAUSE: Duration = Duration::from_millis(100);
/// Who waits for the names of blobs waits no longer: by then they have them, or won't.
pub const SETTLE_TIME: Duration = Duration::from_secs(30);
/// How long a fill that gives way to clients waits before it looks for them again.
pub const GIVE_WAY_PAUSE: Duration = Duration::from_millis(100);
/// Threads for what blocks: names, space, and the disk of the epoll leg.
pub const POOL_THREADS: usize = 4;
/// How long an answer that is under way waits before it asks a full pool again.
pub const POOL_RETRY: Duration = Duration::from_millis(2);
/// How long tasks get, when their core ends, to put away what they hold.
pub const CORE_END_TIME: Duration = Duration::from_secs(1);
/// How often the access log is written.
pub const ACCESS_LOG_EVERY: Duration = Duration::from_millis(50);
/// Slots of the epoch tables.
pub const EPOCH_SLOTS: u32 = 4096;
/// Share of the cache's bytes that what came last may have before it is the first to go.
pub const CACHE_SMALL_PERCENT: u64 = 10;
/// Uses of a cached blob that are counted; each is another round in the main queue.
pub const CACHE_USES_MAX: u8 = 3;
/// Uses after which a blob goes from the small queue to the main one. Two, as in the paper, gave up to 0.02 less of the
/// bytes on the synthetic trace with many scans, and the same with few.
pub const CACHE_PROMOTION_USES: u8 = 1;
/// Fingerprints that the ghost queue has even if the main queue has fewer entries.
pub const CACHE_GHOST_MIN: usize = 1;
/// A turn of a core that takes longer is counted as a stall.
pub const STALL: Duration = Duration::from_millis(1);

const _: () = {
    assert!(TARGET_BYTES_MAX < HEAD_BYTES_MAX);
    // Any size of a chunk fits 64 bits.
    assert!(CHUNK_SIZE_DIGITS_MAX < 16);
    // A body that is dropped costs no more than the largest that is looked at.
    assert!(DISCARD_BYTES_MAX <= MANIFEST_BYTES_MAX);
    // A whole head arrives with one recv, or is put together from several.
    assert!(HEAD_BYTES_MAX <= RECV_BYTES);
    assert!(READ_SEND_BYTES_MAX < SENDFILE_BYTES_MAX && SENDFILE_BYTES_MAX <= PIPE_BYTES);
    // What is kept of a head, and one part behind it, fit.
    assert!(HEAD_KEPT_BYTES_MAX + READ_SEND_BYTES_MAX <= GATHER_BYTES && GATHER_BYTES <= TURN_BYTES);
    assert!(PIPE_BYTES <= TURN_BYTES && REQUEST_TURN_BYTES < TURN_BYTES);
    assert!(DISCARD_BYTES_MAX <= LINGER_BYTES_MAX);
    // Half of the buffers are for those who go on.
    assert!(2 * HELD_WINDOWS_PER_CORE <= BUFS_PER_CORE / 2);
    assert!(BUFS_KEPT_PER_CORE <= BUFS_PER_CORE && PIPES_KEPT_PER_CORE <= PIPES_PER_CORE);
    // Every buffer of a core may have its write in the pool's queue, and leave room for names.
    assert!(BUFS_PER_CORE < POOL_JOBS_MAX && POOL_THREADS < POOL_JOBS_MAX);
    assert!(MANIFEST_BYTES_MAX <= BODIES_BYTES_PER_CORE);
    assert!(BUF_BYTES as u64 <= WRITE_BACK_BYTES && WRITE_BACK_BYTES <= ALLOCATE_BYTES);
    assert!(BUF_BYTES as u64 <= REHASH_STEP_BYTES);
    assert!(ALLOCATE_ABOVE_BYTES <= ALLOCATE_BYTES);
    assert!(UPLOAD_FILES_KEPT_MAX <= UPLOAD_SESSIONS_MAX && EXPIRED_A_JOB <= UPLOAD_SESSIONS_MAX);
    assert!(SYNCFS_MEMBERS_MIN <= BATCH_MEMBERS_MAX && BATCH_MEMBERS_MAX <= COMMITS_WAITING_MAX);
    assert!(CACHE_PAGE_ENTRIES_MAX as u64 <= CACHE_PAGE_LOOKS_MAX && CACHE_FILLS_MAX < FILLS_MAX);
    // The keeper is not held for long by one of them.
    assert!(CACHE_DIGESTS_MAX <= BATCH_MEMBERS_MAX);
    assert!(CACHE_PROMOTION_USES <= CACHE_USES_MAX && CACHE_GHOST_MIN >= 1 && CACHE_SMALL_PERCENT < 100);
    assert!(CACHE_FRAME_BYTES_MAX <= CACHE_JOURNAL_BUFFER_BYTES_MAX);
    assert!(CACHE_JOURNAL_BUFFER_BYTES_MAX as u64 <= CACHE_JOURNAL_BYTES_MAX);
    assert!(COMMITS_WAITING_MAX <= UPLOAD_SESSIONS_MAX);
    assert!(SYNCFS_AVERAGE_MAX.as_nanos() < SYNCFS_REST.as_nanos());
    assert!(SCRUB_NAMED_MAX <= SCRUB_PAGE as usize);
    assert!(FORWARDS_MAX < QUESTIONS_MAX);
    assert!(FILL_ROOM_BYTES.is_multiple_of(FILL_CHUNK_BYTES));
    // A chunk is gathered in one buffer, and what is held back is at least one.
    assert!(FILL_CHUNK_BYTES <= BUF_BYTES as u64 && FILL_CHUNK_BYTES <= HELD_BACK_BYTES);
    // The run and each extent has a chunk, and one of them another.
    assert!(
        (FILL_EXTENTS_MAX as u64 + 2) * FILL_CHUNK_BYTES
            <= FILL_MEMORY_BYTES_MAX / FILL_PIECES_SHARE * (FILL_PIECES_SHARE - 1)
    );
    // What streams have of the runs that they came from, whoever reads them slowly, leaves half of the pieces to fills.
    assert!(2 * PASS_WINDOWS_MAX as u64 * FILL_MEMORY_BYTES_MAX <= FILLS_MEMORY_BYTES_MAX);
    // Who waits for the end that is held back finds it in the window, and the piece before is still there.
    assert!(HELD_BACK_BYTES + (PASS_PIECE_BYTES as u64) < PASS_AHEAD_BYTES);
    assert!(PASS_AHEAD_BYTES + 2 * (PASS_PIECE_BYTES as u64) < PASS_WINDOW_BYTES);
    assert!(ACCESS_TARGET_BYTES_MAX <= TARGET_BYTES_MAX);
};

/// What an operator may set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The whole head of a request must be here this long after its first byte; else 408.
    pub header_timeout: Duration,
    /// A body may pause this long; else the connection is closed and what came is kept.
    pub body_stall_timeout: Duration,
    /// A body slower than this many bytes a second, after `body_rate_grace`, is closed likewise.
    pub body_rate_min_bytes: u64,
    /// How long a body may be slow at its start.
    pub body_rate_grace: Duration,
    /// A client that takes no byte of an answer for this long is closed, up to a quarter later.
    pub send_stall_timeout: Duration,
    /// A connection without a request is closed after this long.
    pub idle_timeout: Duration,
    /// Requests on one connection; the last is answered with `Connection: close`.
    pub requests_per_connection: u32,
    /// Connections of the process; 0 means 80 % of RLIMIT_NOFILE. More are answered 503 and closed.
    pub connections: usize,
    /// Length of a blob in bytes; more is 413.
    pub blob_bytes: u64,
    /// An upload session without progress is removed after this long.
    pub upload_expiry: Duration,
    /// A part of an upstream's blob that nobody has read or filled for so long is removed.
    pub fill_expiry: Duration,
    /// A verified fill gets its name with the next push, or after this long. Storage rules, "Fills"; no setting of the operator.
    pub filled_wait: Duration,
    /// In-flight requests get this long to finish when the process is asked to stop.
    pub drain_timeout: Duration,
    /// The scrub rests this long after it has compared all files and rows.
    pub scrub_interval: Duration,
    /// Names and rows that it looks at in a second, at most; ≥ 1. A damaged index of the cache is made again without a pace.
    pub scrub_rate: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            header_timeout: Duration::from_secs(10),
            body_stall_timeout: Duration::from_secs(30),
            body_rate_min_bytes: 1024,
            body_rate_grace: Duration::from_secs(10),
            send_stall_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(60),
            requests_per_connection: 10_000,
            connections: 0,
            blob_bytes: 100 * 1024 * 1024 * 1024,
            upload_expiry: Duration::from_secs(24 * 3600),
            fill_expiry: Duration::from_secs(24 * 3600),
            filled_wait: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(30),
            scrub_interval: Duration::from_secs(24 * 3600),
            scrub_rate: 1000,
        }
    }
}
