//! The task that fills: fetch, hash and write, publish, verify, hand over to the keeper.
//!
//! Invariants: at most one write is in flight; the frontier moves when it has ended. The hash covers exactly what lies
//! before the frontier. Bytes that were not verified get no name.

use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use oci::{Algorithm, Hasher, Problem};

use super::{
    Fill, FillCounters, FillFiles, Following, Full, Runner, State, Stream,
    busy::patiently,
    files::end_of,
    memory::{Begun, Chunk},
    room,
    source::{Answer, Leftover, Source},
    stream,
    writer::{Party, Tail, Unwritten, Writer},
};
use crate::{
    io::hash,
    limits::{FILL_CHUNK_BYTES, FILL_RESUME_PAUSE, FILL_RESUMES_MAX},
    store::Filled,
};

/// What is hashed and written so far. Whoever has it runs the fill.
pub(super) struct Ingest {
    pub(super) hasher: Hasher,
    /// Behind the bytes that are hashed; they are written, or their write is in flight.
    pub(super) tail: Tail,
    /// Whether bytes of more than one answer are in it.
    is_mixed: bool,
    resumes: u32,
    /// What somebody else was given of the origin, from the blob's start, and had no use for.
    pub(super) answer: Option<Begun>,
    /// What has come and has no room.
    left: Leftover,
}

/// Why a run ended before the blob was whole.
pub(super) enum End {
    /// Nobody waits for it any more, and not much is there.
    Unwanted,
    /// What is there is no good, in part or as a whole.
    Spoilt,
    /// It can't be had, or not now; what is there is good, and written.
    Failed(Problem),
    /// It can't be had, and what is there is not what was hashed.
    Lost(Problem),
    /// The blob has its name already.
    Here,
    /// There is no room for more; what is there is good, and what came is kept in memory.
    Full,
    /// The core ends. What has its record is good, and the next process finds it.
    CoreEnds,
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> End {
        // Where the file system can hold no room ahead, a write finds out.
        if room::is_none(&error) {
            return End::Full;
        }
        match error.kind() {
            io::ErrorKind::ConnectionAborted => End::CoreEnds,
            // All that was written is known, and so is what was not.
            io::ErrorKind::WouldBlock => End::Failed(Problem::Overloaded { retry_after_s: 1 }),
            _ => {
                tracing::error!(%error, "a fill can't be written");
                End::Lost(Problem::Internal)
            }
        }
    }
}

impl Ingest {
    pub(super) fn new(algorithm: Algorithm) -> Ingest {
        Ingest {
            hasher: Hasher::new(algorithm),
            tail: Tail::at(0),
            is_mixed: false,
            resumes: 0,
            answer: None,
            left: Leftover::default(),
        }
    }
}

/// Says that the fill has failed if its task is dropped, as it is when its core ends.
struct Running<'a> {
    fill: &'a Arc<Fill>,
    counters: Option<&'a FillCounters>,
    has_ended: bool,
}

impl<'a> Running<'a> {
    fn begin(fill: &'a Arc<Fill>, counters: Option<&'a FillCounters>) -> Running<'a> {
        if let Some(counters) = counters {
            counters.running.fetch_add(1, Ordering::Relaxed);
        }
        Running { fill, counters, has_ended: false }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if let Some(counters) = self.counters {
            counters.running.fetch_sub(1, Ordering::Relaxed);
        }
        if !self.has_ended {
            self.fill.publish(State::Lost, 0);
        }
    }
}

/// Runs a fill until it is whole, nobody wants it, or it can't be had.
pub(super) async fn run(runner: Runner, fill: Arc<Fill>, ingest: Box<Ingest>) {
    let fills = runner.fills.clone();
    let counters = fills.of(&runner.origin);
    let mut running = Running::begin(&fill, counters);
    let mut ingest = Some(ingest);
    while let Some(mut taken) = ingest.take() {
        let end = fill_up(&runner, &fill, counters, &mut taken).await;
        match end {
            Ok(()) => verify(&runner, &fill, counters, *taken).await,
            Err(End::Unwanted) => {
                ingest = fill.stop(taken);
                count(counters, |counters| &counters.stops);
            }
            Err(End::Spoilt) => spoil(&runner, &fill, counters, taken.is_mixed).await,
            Err(End::Failed(problem)) if taken.tail.offset > 0 => {
                taken.resumes = 0;
                fill.fail(&runner, problem, taken);
            }
            Err(End::Failed(problem) | End::Lost(problem)) => lose(&runner, &fill, problem),
            Err(End::Full) => pass_through(&runner, &fill, *taken),
            // As if it had been dropped with its core.
            Err(End::CoreEnds) => return,
            Err(End::Here) => {
                runner.fills.remove(&fill);
                drop(fill.forget(&runner.io, &runner.store));
                fill.publish(State::Here, 0);
            }
        }
    }
    running.has_ended = true;
}

/// Until all bytes are hashed and written.
async fn fill_up(
    runner: &Runner,
    fill: &Fill,
    counters: Option<&FillCounters>,
    ingest: &mut Ingest,
) -> Result<(), End> {
    // A fill of before may have ended since the look that found no name.
    if !runner.store.is_absent_still(&fill.digest, runner.absence)
        && patiently(runner, || runner.store.has_name(&runner.io, &fill.digest)).await?
    {
        return Err(End::Here);
    }
    if ingest.answer.is_some() {
        // It is all that is needed, once nobody else brings a part of it.
        until_nothing_flies(fill).await;
    }
    loop {
        reuse(runner, fill, ingest).await?;
        let offset = ingest.tail.offset;
        if fill.size_bytes.get() == Some(&offset) {
            return Ok(());
        }
        ingest.is_mixed |= offset > 0;
        let to = fill.ahead().next_after(ingest.tail.chunk()).map(|chunk| chunk * FILL_CHUNK_BYTES);
        let fetched = match ingest.answer.take() {
            Some(answer) => Ok(Some(answer)),
            None => fill.ask(runner, (offset, to)).await,
        };
        let problem = match fetched {
            Ok(Some(fetched)) => {
                learn_size(runner, fill, &fetched, offset)?;
                // Of an origin without ranges one answer is enough, whatever is there already.
                let past_that = fetched.is_whole && (offset > 0 || to.is_some());
                if past_that {
                    fill.ahead().forgo_ranges();
                    until_nothing_flies(fill).await;
                }
                match pump(runner, fill, counters, ingest, fetched, to.filter(|_| !past_that)).await {
                    Ok(()) => continue,
                    Err(End::Failed(problem)) => problem,
                    Err(end) => return Err(end),
                }
            }
            Ok(None) => return Err(End::Failed(Problem::BlobUnknown(fill.digest))),
            Err(problem) => problem,
        };
        // The first answer decides at once what a client is told; only what has begun is gone on with.
        if ingest.tail.offset == 0 || ingest.resumes == FILL_RESUMES_MAX {
            return Err(End::Failed(problem));
        }
        ingest.resumes += 1;
        count(counters, |counters| &counters.resumes);
        let at = ingest.tail.offset;
        tracing::info!(digest = %fill.digest, at, why = problem.message(), "a fill is resumed");
        runner.io.sleep_until(runner.io.now() + FILL_RESUME_PAUSE * ingest.resumes).await;
    }
}

async fn until_nothing_flies(fill: &Fill) {
    let mut progress = fill.progress.subscribe();
    while fill.ahead().is_flying() {
        // The sender is in the fill.
        let _ = progress.changed().await;
    }
}

/// Takes over the chunks at the frontier that are there already, and waits for those that others fetch.
async fn reuse(runner: &Runner, fill: &Fill, ingest: &mut Ingest) -> Result<(), End> {
    let mut progress = fill.progress.subscribe();
    while ingest.tail.is_at_chunk() {
        let chunk = ingest.tail.chunk();
        progress.mark_unchanged();
        let (flies, crc) = {
            let mut ahead = fill.ahead();
            (ahead.flies(chunk), ahead.take(chunk))
        };
        let Some(crc) = crc else {
            if !flies {
                return Ok(());
            }
            // The sender is in the fill.
            let _ = progress.changed().await;
            continue;
        };
        let (Some(files), Some(size_bytes)) = (fill.files.get(), fill.size_bytes.get()) else {
            return Ok(());
        };
        let len = end_of(chunk, *size_bytes).checked_sub(ingest.tail.offset).ok_or(End::Spoilt)? as usize;
        let read = Chunk::read(runner, fill, files, ingest.tail.offset, len).await?;
        let Some(read) = read.filter(|read| crc32fast::hash(read.as_ref()) == crc) else {
            tracing::info!(digest = %fill.digest, chunk, "a chunk did not outlive the last stop");
            fill.ahead().lost(chunk);
            return Ok(());
        };
        hash(&mut ingest.hasher, read.as_ref());
        drop(read);
        ingest.tail = Tail::at(ingest.tail.offset + len as u64);
        ingest.is_mixed = true;
        fill.publish(State::Running, ingest.tail.offset);
        runner.io.pause().await;
    }
    Ok(())
}

/// The length is what the origin tells, each time the same; where it tells none, what a manifest does. `at`: so many
/// bytes of it were had already, or asked for.
pub(super) fn learn_size(runner: &Runner, fill: &Fill, fetched: &Begun, at: u64) -> Result<(), End> {
    let size_bytes = match (fill.size_bytes.get().copied(), fetched.size_bytes) {
        (Some(known), Some(told)) if known != told => {
            tracing::warn!(digest = %fill.digest, known, told, "the upstream tells another length than before");
            return Err(End::Spoilt);
        }
        (known, told) => known.or(told).or(runner.size_bytes),
    };
    if let Some(size_bytes) = size_bytes {
        if size_bytes > runner.blob_bytes_max {
            return Err(End::Lost(misbehaved(TOO_LARGE)));
        }
        let had_bytes = fill.progress.borrow().frontier.max(at);
        if size_bytes < had_bytes {
            tracing::warn!(digest = %fill.digest, size_bytes, had_bytes, "the upstream tells a length below what came");
            return Err(End::Spoilt);
        }
        // The same as before, if there was one.
        if fill.size_bytes.set(size_bytes).is_ok() {
            runner.store.filling(&fill.digest, Some(size_bytes));
        }
    }
    Ok(())
}

/// Hashes and writes one answer of the origin, up to what is there or on its way already; of an origin without ranges,
/// past what is there.
async fn pump(
    runner: &Runner,
    fill: &Fill,
    counters: Option<&FillCounters>,
    ingest: &mut Ingest,
    fetched: Begun,
    to: Option<u64>,
) -> Result<(), End> {
    // An origin without ranges begins at 0 again.
    let Some(skip) = ingest.tail.offset.checked_sub(fetched.start) else {
        return Err(End::Failed(misbehaved("the upstream answered with another range")));
    };
    let fetched = fetched.open();
    let files = match fill.open_files(runner).await {
        Err(End::Full) => {
            ingest.left.answer = Some(Answer { bytes: fetched.bytes, skip, until: to });
            return Err(End::Full);
        }
        files => files?,
    };
    fill.publish(State::Running, ingest.tail.offset);
    let mut writer = Writer::new(runner, fill, files, Party::Run);
    let mut arriving = Arriving { fetched, skip, to, in_hand: Bytes::new() };
    let pumped = loop {
        let pumped = pump_into(&mut writer, counters, ingest, &mut arriving).await;
        let (at, size_bytes) = (ingest.tail.offset, fill.size_bytes.get().copied().unwrap_or(0));
        if pumped.is_err() || at >= size_bytes || to.is_some() || !fill.ahead().is_settled() {
            break pumped;
        }
        if let Err(end) = reuse(runner, fill, ingest).await {
            break Err(end);
        }
        arriving.skip += ingest.tail.offset - at;
        if ingest.tail.offset == size_bytes {
            break Ok(());
        }
    };
    // Whoever goes on does so from what is written.
    let mut came = VecDeque::new();
    if let Some(Unwritten { tail, hasher, bytes }) = writer.into_unwritten() {
        (ingest.tail, ingest.hasher, came) = (tail, hasher, bytes);
    }
    if matches!(pumped, Err(End::Full)) {
        let Arriving { fetched, skip, to, in_hand } = arriving;
        came.push_back(in_hand);
        ingest.left = Leftover { came, answer: Some(Answer { bytes: fetched.bytes, skip, until: to }) };
    }
    pumped
}

/// One answer of the origin.
struct Arriving {
    fetched: control::Fetched,
    /// Bytes of it that were there before.
    skip: u64,
    /// Where it was asked to end.
    to: Option<u64>,
    /// What came of it and was not gathered.
    in_hand: Bytes,
}

async fn pump_into(
    writer: &mut Writer<'_>,
    counters: Option<&FillCounters>,
    ingest: &mut Ingest,
    arriving: &mut Arriving,
) -> Result<(), End> {
    let (runner, fill) = (writer.runner, writer.fill);
    let Ingest { hasher, tail, .. } = ingest;
    let Arriving { fetched, skip, to, in_hand: bytes } = arriving;
    let to = *to;
    let until = to.or(fill.size_bytes.get().copied());
    loop {
        // There is some in hand behind what was there.
        if bytes.is_empty() {
            let Some(next) = writer.next(tail, &mut fetched.bytes).await? else { break };
            *bytes = next;
            add(counters, |counters| &counters.fetched_bytes, bytes.len() as u64);
        }
        let dropped = (*skip).min(bytes.len() as u64);
        *skip -= dropped;
        let _ = bytes.split_to(dropped as usize);
        if let Some(until) = until {
            let room = until.checked_sub(tail.offset).ok_or(End::Spoilt)?;
            let room = usize::try_from(room).unwrap_or(usize::MAX);
            if bytes.len() > room && to.is_none() {
                return Err(End::Spoilt);
            }
            bytes.truncate(room);
        }
        while !bytes.is_empty() {
            // Somebody may have fetched it ahead, or do so now.
            if tail.is_at_chunk() && !fill.ahead().run_takes(tail.chunk()) {
                writer.settle(tail).await?;
                return Ok(());
            }
            if let Err(end) = fill.hold_room(runner, &writer.files, tail.offset).await {
                writer.settle(tail).await?;
                return Err(end);
            }
            writer.begin(tail).await?;
            let to_chunk_end = FILL_CHUNK_BYTES - tail.offset % FILL_CHUNK_BYTES;
            let part = bytes.split_to(bytes.len().min(to_chunk_end as usize));
            writer.mark(tail, hasher);
            hash(hasher, &part);
            writer.push(tail, part).await?;
        }
        if to == Some(tail.offset) {
            break;
        }
        if tail.offset > runner.blob_bytes_max {
            return Err(End::Lost(misbehaved(TOO_LARGE)));
        }
        if is_unwanted(runner, fill, tail.offset) {
            writer.settle(tail).await?;
            return Err(End::Unwanted);
        }
    }
    writer.settle(tail).await?;
    match until {
        Some(until) if tail.offset < until => {
            Err(End::Failed(misbehaved("the upstream's answer ended early")))
        }
        Some(_) => Ok(()),
        None => {
            // Nobody had told it: it is what came.
            let _ = fill.size_bytes.set(tail.offset);
            Ok(())
        }
    }
}

/// Whether it stops: its last reader has gone, a third is not there yet, and nobody has said that it be completed.
fn is_unwanted(runner: &Runner, fill: &Fill, frontier: u64) -> bool {
    let there = frontier + fill.ahead().bytes();
    let third = fill.size_bytes.get().map_or(u64::MAX, |size_bytes| size_bytes / 3);
    fill.readers() == 0 && there <= third && !fill.is_to_be_completed(runner, there)
}

/// All bytes are there: are they those of the digest? If so, readers get the rest, and the keeper the file.
async fn verify(runner: &Runner, fill: &Arc<Fill>, counters: Option<&FillCounters>, ingest: Ingest) {
    if ingest.hasher.clone().finish() != fill.digest {
        tracing::error!(digest = %fill.digest, repository = %runner.origin.repository, "an upstream gave other bytes");
        count(counters, |counters| &counters.mismatches);
        return spoil(runner, fill, counters, ingest.is_mixed).await;
    }
    // One of no bytes has none yet.
    let files = match fill.open_files(runner).await {
        Ok(files) => files,
        Err(End::Full) => return pass_through(runner, fill, ingest),
        Err(_) => return lose(runner, fill, Problem::Internal),
    };
    let Some(lease) = fill.lease.get().cloned() else { return lose(runner, fill, Problem::Internal) };
    let tail = ingest.tail;
    fill.publish(State::Verified, tail.offset);
    if fill.size_bytes.get().is_none_or(|size_bytes| *size_bytes > 0) {
        trim(runner, &files, tail.offset).await;
    }
    lease.shrink(tail.offset);
    let is_pinned = runner.fills.is_pinned(&runner.origin);
    let upstream = runner.fills.mark_of(&runner.origin);
    let filled = Filled { digest: fill.digest, size_bytes: tail.offset, upstream, files, lease, is_pinned };
    if let Err(problem) = runner.store.keep(&runner.io, filled).await {
        tracing::warn!(digest = %fill.digest, why = problem.message(), "a filled blob was not kept");
    }
    // With its name it is found without the fill; without it, it is a miss.
    runner.fills.remove(fill);
    drop(fill.forget(&runner.io, &runner.store));
}

/// There is no room for more of it: what is still to come goes by way of memory, and nothing is kept.
fn pass_through(runner: &Runner, fill: &Arc<Fill>, ingest: Ingest) {
    tracing::warn!(digest = %fill.digest, "no room for a blob of an upstream: it is passed through");
    let Ingest { hasher, tail, left, .. } = ingest;
    let (start, digest) = (tail.offset, fill.digest);
    let stream = Stream::new(runner, digest, start, hasher.clone()).map(Arc::new);
    let following = stream.as_ref().map(Following::of);
    match &stream {
        Some(stream) => runner.fills.turn_into(fill, stream),
        None => runner.fills.remove(fill),
    }
    drop(fill.forget(&runner.io, &runner.store));
    fill.is_full(Full { start, hasher, stream: following });
    if let Some(stream) = stream {
        let size_bytes = fill.size_bytes.get().copied().or(runner.size_bytes);
        let source = Source::after_run(runner.clone(), digest, size_bytes, start, left);
        runner.io.spawn(stream::run(runner.clone(), stream, source));
    }
}

/// Gives back what was held behind the end of a blob whose length nobody had told.
async fn trim(runner: &Runner, files: &FillFiles, size_bytes: u64) {
    let data = files.data.clone();
    if let Err(error) = runner.io.fs(move |fs| fs.trim(&data, size_bytes)).await {
        tracing::warn!(%error, "what was held behind a fill is held until its blob goes");
    }
}

/// Nothing of it is used again. What was put together from several answers is fetched once more, in one.
async fn spoil(runner: &Runner, fill: &Arc<Fill>, counters: Option<&FillCounters>, is_mixed: bool) {
    runner.fills.remove(fill);
    fill.disown(runner).await;
    drop(fill.forget(&runner.io, &runner.store));
    if is_mixed {
        count(counters, |counters| &counters.resumes);
        fill.publish(State::Again, 0);
    } else {
        fill.give_up(runner, misbehaved("the upstream's blob is not what its digest says"));
    }
}

/// It can't be had, and nothing of it is any good.
fn lose(runner: &Runner, fill: &Arc<Fill>, problem: Problem) {
    runner.fills.remove(fill);
    drop(fill.forget(&runner.io, &runner.store));
    fill.give_up(runner, problem);
}

pub(super) const TOO_LARGE: &str = "the upstream's blob is larger than blobs may be here";

fn count(counters: Option<&FillCounters>, counter: impl Fn(&FillCounters) -> &AtomicU64) {
    add(counters, counter, 1);
}

pub(super) fn add(counters: Option<&FillCounters>, counter: impl Fn(&FillCounters) -> &AtomicU64, more: u64) {
    if let Some(counters) = counters {
        counter(counters).fetch_add(more, Ordering::Relaxed);
    }
}

pub(super) fn misbehaved(why: &'static str) -> Problem {
    Problem::UpstreamMisbehaved { why }
}
