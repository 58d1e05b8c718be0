//! The task that fills: fetch, hash and write, publish, verify, hand over to the keeper.
//!
//! Invariants: at most one write is in flight; the frontier moves when it has ended. The hash covers exactly what lies
//! before the frontier. Bytes that were not verified get no name.

use std::{
    collections::BTreeMap,
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use control::Fetched;
use oci::{Algorithm, Hasher, Problem};
use tokio::sync::mpsc::error::TryRecvError;

use super::{Fill, FillCounters, FillFiles, FillId, Runner, State, files::end_of};
use crate::{
    io::{Buf, File},
    limits::{FILL_CHUNK_BYTES, FILL_RESUME_PAUSE, FILL_RESUMES_MAX, WRITE_BACK_BYTES},
    store::Filled,
};

/// What is hashed and written so far. Whoever has it runs the fill.
pub(super) struct Ingest {
    hasher: Hasher,
    /// Bytes that are hashed; those before it are written, or their write is in flight.
    offset: u64,
    /// Of the bytes of the chunk at `offset`.
    crc: crc32fast::Hasher,
    /// Chunks that an earlier process left, by number, with the checksum that their bytes must have.
    left: BTreeMap<u64, u32>,
    /// Records in the journal.
    records: u64,
    /// Whether bytes of more than one answer are in it.
    is_mixed: bool,
    /// Up to here write-back was started.
    written_back: u64,
    resumes: u32,
}

/// Why a run ended before the blob was whole.
enum End {
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
}

impl From<io::Error> for End {
    fn from(error: io::Error) -> End {
        End::Lost(match error.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Problem::DiskFull,
            io::ErrorKind::WouldBlock => Problem::Overloaded { retry_after_s: 1 },
            _ => {
                tracing::error!(%error, "a fill can't be written");
                Problem::Internal
            }
        })
    }
}

impl Ingest {
    pub(super) fn new(algorithm: Algorithm) -> Ingest {
        Ingest {
            hasher: Hasher::new(algorithm),
            offset: 0,
            crc: crc32fast::Hasher::new(),
            left: BTreeMap::new(),
            records: 0,
            is_mixed: false,
            written_back: 0,
            resumes: 0,
        }
    }

    pub(super) fn restored(algorithm: Algorithm, left: BTreeMap<u64, u32>, records: u64) -> Ingest {
        Ingest { left, records, is_mixed: true, ..Ingest::new(algorithm) }
    }

    fn chunk(&self) -> u64 {
        self.offset / FILL_CHUNK_BYTES
    }

    fn take(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.crc.update(bytes);
        self.offset += bytes.len() as u64;
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
            self.fill.publish(State::Failed, 0);
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
                count(counters, |counters| &counters.stops);
                fill.publish(State::Waiting, taken.offset);
                fill.put_back(taken);
                // Who came after the look at the readers found nobody to wake.
                ingest = if fill.readers() > 0 { fill.take() } else { None };
            }
            Err(End::Spoilt) => spoil(&runner, &fill, counters, taken.is_mixed),
            Err(End::Failed(problem)) => fail(&runner, &fill, problem, Some(taken)),
            Err(End::Lost(problem)) => fail(&runner, &fill, problem, None),
            Err(End::Here) => {
                runner.fills.remove(&fill);
                fill.forget(&runner.io);
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
    if runner.store.has_name(&runner.io, &fill.digest).await? {
        return Err(End::Here);
    }
    loop {
        reuse(runner, fill, ingest).await?;
        let size_bytes = fill.size_bytes.get().copied();
        if size_bytes == Some(ingest.offset) {
            return Ok(());
        }
        ingest.is_mixed |= ingest.offset > 0;
        let to = ingest.left.keys().next().map(|chunk| chunk * FILL_CHUNK_BYTES);
        let fetched = runner.control.fetch(runner.origin, fill.digest, (ingest.offset, to)).await;
        let problem = match fetched {
            Ok(Some(fetched)) => {
                learn_size(runner, fill, ingest, &fetched)?;
                match pump(runner, fill, counters, ingest, fetched, to).await {
                    Ok(()) => continue,
                    Err(End::Failed(problem)) => problem,
                    Err(end) => return Err(end),
                }
            }
            Ok(None) => return Err(End::Failed(Problem::BlobUnknown(fill.digest))),
            Err(problem) => problem,
        };
        // The first answer decides at once what a client is told; only what has begun is gone on with.
        if ingest.offset == 0 || ingest.resumes == FILL_RESUMES_MAX {
            return Err(End::Failed(problem));
        }
        ingest.resumes += 1;
        count(counters, |counters| &counters.resumes);
        tracing::info!(digest = %fill.digest, at = ingest.offset, why = problem.message(), "a fill is resumed");
        runner.io.sleep_until(runner.io.now() + FILL_RESUME_PAUSE * ingest.resumes).await;
    }
}

/// Takes over chunks that an earlier process left, as long as they follow each other and are what it wrote.
async fn reuse(runner: &Runner, fill: &Fill, ingest: &mut Ingest) -> Result<(), End> {
    let (Some(files), Some(size_bytes)) = (fill.files.get(), fill.size_bytes.get()) else { return Ok(()) };
    while ingest.offset.is_multiple_of(FILL_CHUNK_BYTES)
        && let Some(crc) = ingest.left.remove(&ingest.chunk())
    {
        let len = (end_of(ingest.chunk(), *size_bytes) - ingest.offset) as usize;
        let buf = runner.io.buf().await;
        let Some(buf) = read_whole(runner, &files.data, ingest.offset, len, buf).await? else {
            return Ok(());
        };
        if crc32fast::hash(&buf.filled()[..len]) != crc {
            tracing::info!(digest = %fill.digest, chunk = ingest.chunk(), "a chunk did not outlive the last stop");
            return Ok(());
        }
        ingest.take(&buf.filled()[..len]);
        ingest.crc = crc32fast::Hasher::new();
        fill.publish(State::Running, ingest.offset);
        runner.io.pause().await;
    }
    Ok(())
}

/// `None`: the file ends before.
async fn read_whole(runner: &Runner, data: &File, at: u64, len: usize, buf: Buf) -> io::Result<Option<Buf>> {
    let mut buf = buf;
    while buf.filled().len() < len {
        let done = buf.filled().len();
        let (read, back) = runner.io.read(data, at + done as u64, len - done, buf).await;
        buf = back;
        if read? == 0 {
            return Ok(None);
        }
    }
    Ok(Some(buf))
}

/// The length is what the origin tells, each time the same; where it tells none, what a manifest does.
fn learn_size(runner: &Runner, fill: &Fill, ingest: &mut Ingest, fetched: &Fetched) -> Result<(), End> {
    let size_bytes = match (fill.size_bytes.get().copied(), fetched.size_bytes) {
        (Some(known), Some(told)) if known != told => {
            tracing::warn!(digest = %fill.digest, known, told, "the upstream tells another length than before");
            ingest.is_mixed = true;
            return Err(End::Spoilt);
        }
        (known, told) => known.or(told).or(runner.size_bytes),
    };
    if let Some(size_bytes) = size_bytes {
        if size_bytes > runner.blob_bytes_max {
            return Err(End::Lost(misbehaved(TOO_LARGE)));
        }
        // The same as before, if there was one.
        let _ = fill.size_bytes.set(size_bytes);
    }
    Ok(())
}

/// Hashes and writes one answer of the origin.
async fn pump(
    runner: &Runner,
    fill: &Fill,
    counters: Option<&FillCounters>,
    ingest: &mut Ingest,
    mut fetched: Fetched,
    to: Option<u64>,
) -> Result<(), End> {
    let files = open_files(runner, fill).await?;
    fill.publish(State::Running, ingest.offset);
    let mut writer = Writer { runner, fill, files, in_flight: None, buf: None };
    // An origin without ranges begins at 0 again.
    let Some(mut skip) = ingest.offset.checked_sub(fetched.start) else {
        return Err(End::Failed(misbehaved("the upstream answered with another range")));
    };
    let until = to.or(fill.size_bytes.get().copied());
    loop {
        let next = match fetched.bytes.try_recv() {
            Err(TryRecvError::Empty) => {
                // Nothing more is here: what is goes out to those who wait for it.
                writer.settle(ingest).await?;
                fetched.bytes.recv().await
            }
            Ok(next) => Some(next),
            Err(TryRecvError::Disconnected) => None,
        };
        let mut bytes = match next {
            Some(Ok(bytes)) => bytes,
            Some(Err(problem)) => {
                writer.settle(ingest).await?;
                return Err(End::Failed(problem));
            }
            None => break,
        };
        if let Some(counters) = counters {
            counters.fetched_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        let dropped = skip.min(bytes.len() as u64);
        skip -= dropped;
        let _ = bytes.split_to(dropped as usize);
        if let Some(until) = until {
            let room = usize::try_from(until - ingest.offset).unwrap_or(usize::MAX);
            if bytes.len() > room && to.is_none() {
                return Err(End::Spoilt);
            }
            bytes.truncate(room);
        }
        writer.push(ingest, bytes).await?;
        if until == Some(ingest.offset) && to.is_some() {
            break;
        }
        if ingest.offset > runner.blob_bytes_max {
            return Err(End::Lost(misbehaved(TOO_LARGE)));
        }
        if is_unwanted(fill, ingest) {
            writer.settle(ingest).await?;
            return Err(End::Unwanted);
        }
    }
    writer.settle(ingest).await?;
    match until {
        Some(until) if ingest.offset < until => {
            Err(End::Failed(misbehaved("the upstream's answer ended early")))
        }
        Some(_) => Ok(()),
        None => {
            // Nobody had told it: it is what came.
            let _ = fill.size_bytes.set(ingest.offset);
            Ok(())
        }
    }
}

/// Whether it stops: its last reader has gone, and a third is not there yet.
fn is_unwanted(fill: &Fill, ingest: &Ingest) -> bool {
    let third = fill.size_bytes.get().map_or(u64::MAX, |size_bytes| size_bytes / 3);
    fill.readers() == 0 && ingest.offset <= third
}

async fn open_files(runner: &Runner, fill: &Fill) -> Result<FillFiles, End> {
    if let Some(files) = fill.files.get() {
        return Ok(files.clone());
    }
    let id = FillId::from_bytes(runner.io.unguessable()?);
    let (digest, size_bytes) = (fill.digest, fill.size_bytes.get().copied());
    let files = runner.io.fs(move |fs| FillFiles::create(fs, id, &digest, size_bytes)).await?;
    // Only who has the ingest does this.
    let _ = fill.files.set(files.clone());
    Ok(files)
}

/// Gathers what arrives into writes that end with a chunk, or with what there is.
struct Writer<'a> {
    runner: &'a Runner,
    fill: &'a Fill,
    files: FillFiles,
    // Boxed, because the type of the future has no name; once for up to a chunk.
    in_flight: Option<InFlight>,
    buf: Option<Buf>,
}

struct InFlight {
    write: Pin<Box<dyn Future<Output = io::Result<()>>>>,
    end: u64,
    /// The number and checksum of the chunk that is there with it.
    chunk: Option<(u64, u32)>,
}

impl Writer<'_> {
    async fn push(&mut self, ingest: &mut Ingest, mut bytes: Bytes) -> Result<(), End> {
        while !bytes.is_empty() {
            let mut buf = match self.buf.take() {
                Some(buf) => buf,
                None => self.runner.io.buf().await,
            };
            let to_chunk_end = FILL_CHUNK_BYTES - ingest.offset % FILL_CHUNK_BYTES;
            let count = bytes.len().min(to_chunk_end as usize).min(buf.spare().len());
            let part = bytes.split_to(count);
            buf.spare()[..count].copy_from_slice(&part);
            buf.fill(count);
            ingest.take(&part);
            let is_full = buf.spare().is_empty() || ingest.offset.is_multiple_of(FILL_CHUNK_BYTES);
            self.buf = Some(buf);
            if is_full {
                self.write(ingest).await?;
            }
        }
        Ok(())
    }

    /// Starts the write of what was gathered, after the one before has ended.
    async fn write(&mut self, ingest: &mut Ingest) -> Result<(), End> {
        self.written(ingest).await?;
        let Some(buf) = self.buf.take() else { return Ok(()) };
        let at = ingest.offset - buf.filled().len() as u64;
        let is_last = self.fill.size_bytes.get() == Some(&ingest.offset);
        let chunk = (is_last || ingest.offset.is_multiple_of(FILL_CHUNK_BYTES)).then(|| {
            let crc = std::mem::replace(&mut ingest.crc, crc32fast::Hasher::new()).finalize();
            (at / FILL_CHUNK_BYTES, crc)
        });
        let write = Box::pin(self.runner.io.write(&self.files.data, at, buf.freeze()));
        self.in_flight = Some(InFlight { write, end: ingest.offset, chunk });
        Ok(())
    }

    /// Waits for the write in flight, and tells the readers.
    async fn written(&mut self, ingest: &mut Ingest) -> Result<(), End> {
        let Some(InFlight { write, end, chunk }) = self.in_flight.take() else { return Ok(()) };
        write.await?;
        self.fill.publish(State::Running, end);
        if let Some((chunk, crc)) = chunk {
            let (files, records) = (self.files.clone(), ingest.records);
            ingest.records += 1;
            // One that is not written is a chunk that is fetched again after a restart.
            drop(self.runner.io.fs(move |fs| files.record(fs, records, chunk, crc)));
        }
        if end - ingest.written_back >= WRITE_BACK_BYTES {
            let (data, at) = (self.files.data.clone(), ingest.written_back);
            ingest.written_back = end;
            // A hint.
            drop(self.runner.io.fs(move |fs| fs.write_back(&data, at, end - at)));
        }
        Ok(())
    }

    /// Everything that arrived is in the file, and the readers know.
    async fn settle(&mut self, ingest: &mut Ingest) -> Result<(), End> {
        self.write(ingest).await?;
        self.written(ingest).await
    }
}

/// All bytes are there: are they those of the digest? If so, readers get the rest, and the keeper the file.
async fn verify(runner: &Runner, fill: &Arc<Fill>, counters: Option<&FillCounters>, ingest: Ingest) {
    let Ingest { hasher, offset, is_mixed, .. } = ingest;
    if hasher.finish() != fill.digest {
        tracing::error!(digest = %fill.digest, repository = %runner.origin.repository, "an upstream gave other bytes");
        count(counters, |counters| &counters.mismatches);
        return spoil(runner, fill, counters, is_mixed);
    }
    let files = match open_files(runner, fill).await {
        Ok(files) => files,
        Err(_) => return fail(runner, fill, Problem::Internal, None),
    };
    fill.publish(State::Verified, offset);
    let kept = runner.store.keep(&runner.io, Filled { digest: fill.digest, size_bytes: offset, files }).await;
    if let Err(problem) = kept {
        tracing::warn!(digest = %fill.digest, why = problem.message(), "a filled blob was not kept");
    }
    // With its name it is found without the fill; without it, it is a miss.
    runner.fills.remove(fill);
    fill.forget(&runner.io);
}

/// Nothing of it is used again. What was put together from several answers is fetched once more, in one.
fn spoil(runner: &Runner, fill: &Arc<Fill>, counters: Option<&FillCounters>, is_mixed: bool) {
    runner.fills.remove(fill);
    fill.forget(&runner.io);
    if is_mixed {
        count(counters, |counters| &counters.resumes);
        fill.publish(State::Again, 0);
    } else {
        // Nobody else sets it.
        let _ = fill.failure.set(misbehaved("the upstream's blob is not what its digest says"));
        fill.publish(State::Failed, 0);
    }
}

/// Everybody who waits is told why. What is there is kept for the next who asks.
fn fail(runner: &Runner, fill: &Arc<Fill>, problem: Problem, ingest: Option<Box<Ingest>>) {
    let kept = ingest.filter(|ingest| ingest.offset >= FILL_CHUNK_BYTES).and_then(|ingest| {
        let (files, size_bytes) = (fill.files.get()?, fill.size_bytes.get()?);
        let offset = ingest.offset;
        let next = Fill::idle(fill.digest, Ingest { resumes: 0, ..*ingest });
        next.publish(State::Waiting, offset);
        // Both are empty until here.
        let _ = (next.files.set(files.clone()), next.size_bytes.set(*size_bytes));
        Some(Arc::new(next))
    });
    if !runner.fills.replace(fill, kept) {
        fill.forget(&runner.io);
    }
    // Nobody else sets it.
    let _ = fill.failure.set(problem);
    fill.publish(State::Failed, 0);
}

const TOO_LARGE: &str = "the upstream's blob is larger than blobs may be here";

fn count(counters: Option<&FillCounters>, counter: impl Fn(&FillCounters) -> &std::sync::atomic::AtomicU64) {
    if let Some(counters) = counters {
        counter(counters).fetch_add(1, Ordering::Relaxed);
    }
}

fn misbehaved(why: &'static str) -> Problem {
    Problem::UpstreamMisbehaved { why }
}
