//! What arrives becomes writes that end with a chunk, and records of the chunks that are there.

use std::{collections::VecDeque, future::Future, io, pin::Pin, sync::atomic::Ordering};

use bytes::Bytes;
use oci::{Hasher, Problem};
use tokio::sync::mpsc::{self, error::TryRecvError};

use super::{
    Fill, FillFiles, Runner, State,
    busy::Busy,
    memory::Chunk,
    room::{self, Waiting},
    run::End,
};
use crate::limits::{FILL_CHUNK_BYTES, FILL_ROOM_BYTES, WRITE_BACK_BYTES};

/// Where the next byte goes, and what the bytes of its chunk come to.
pub(super) struct Tail {
    pub(super) offset: u64,
    pub(super) crc: crc32fast::Hasher,
    /// Up to here write-back was started.
    written_back: u64,
}

impl Tail {
    pub(super) fn at(offset: u64) -> Tail {
        Tail { offset, crc: crc32fast::Hasher::new(), written_back: offset }
    }

    /// The chunk of the next byte.
    pub(super) fn chunk(&self) -> u64 {
        self.offset / FILL_CHUNK_BYTES
    }

    pub(super) fn is_at_chunk(&self) -> bool {
        self.offset.is_multiple_of(FILL_CHUNK_BYTES)
    }
}

/// Who writes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Party {
    /// The run: what it has written moves the frontier.
    Run,
    /// An extent: what it has written is there ahead of it.
    Extent,
}

/// Gathers what arrives. At most one write is in flight.
pub(super) struct Writer<'a> {
    pub(super) runner: &'a Runner,
    pub(super) fill: &'a Fill,
    pub(super) files: FillFiles,
    party: Party,
    in_flight: Option<InFlight>,
    gathered: Option<Chunk>,
    mark: Option<Mark>,
    unwritten: Option<Unwritten>,
}

/// Where a run was before what is gathered.
struct Mark {
    hasher: Hasher,
    crc: crc32fast::Hasher,
}

/// What could not be written, since there is no room, or nobody to write it.
pub(super) struct Unwritten {
    /// Behind all that is written.
    pub(super) tail: Tail,
    /// Of all bytes before.
    pub(super) hasher: Hasher,
    pub(super) bytes: VecDeque<Bytes>,
}

// Boxed, because the type of the future has no name; once for up to a chunk.
type Write = Pin<Box<dyn Future<Output = io::Result<()>>>>;

struct InFlight {
    write: Write,
    bytes: Bytes,
    mark: Option<Mark>,
    end: u64,
    /// The number and checksum of the chunk that is there with it.
    chunk: Option<(u64, u32)>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(runner: &'a Runner, fill: &'a Fill, files: FillFiles, party: Party) -> Writer<'a> {
        Writer { runner, fill, files, party, in_flight: None, gathered: None, mark: None, unwritten: None }
    }

    /// What arrives next. `None`: nothing does any more. If it has to be waited for, all that came before it is in the
    /// file by then.
    pub(super) async fn next(
        &mut self,
        tail: &mut Tail,
        bytes: &mut mpsc::Receiver<Result<Bytes, Problem>>,
    ) -> Result<Option<Bytes>, End> {
        let next = match bytes.try_recv() {
            Err(TryRecvError::Empty) => {
                self.settle(tail).await?;
                bytes.recv().await
            }
            Ok(next) => Some(next),
            Err(TryRecvError::Disconnected) => None,
        };
        match next.transpose() {
            Ok(next) => Ok(next),
            Err(problem) => {
                self.settle(tail).await?;
                Err(End::Failed(problem))
            }
        }
    }

    /// To be told before each [`Writer::push`] of a run: the hash of all bytes before.
    pub(super) fn mark(&mut self, tail: &Tail, hasher: &Hasher) {
        if self.is_empty() {
            self.mark = Some(Mark { hasher: hasher.clone(), crc: tail.crc.clone() });
        }
    }

    /// What could not be written, after [`End::Full`] or [`End::Failed`]. `None`: all was.
    pub(super) fn into_unwritten(self) -> Option<Unwritten> {
        let mut unwritten = self.unwritten?;
        unwritten.bytes.extend(self.gathered.map(Chunk::freeze));
        Some(unwritten)
    }

    /// Has a chunk to gather in: to be called before each [`Writer::push`]. If there is no room for two, what is in flight
    /// is written first.
    pub(super) async fn begin(&mut self, tail: &mut Tail) -> Result<(), End> {
        if self.gathered.is_none() {
            let chunk = match self.fill.memory.second_chunk() {
                Some(held) => Chunk::held(self.runner, held).await,
                None => {
                    self.written(tail).await?;
                    Chunk::wait(self.runner, self.fill).await
                }
            };
            self.gathered = Some(chunk);
        }
        Ok(())
    }

    fn is_empty(&self) -> bool {
        self.gathered.as_ref().is_none_or(|chunk| chunk.as_ref().is_empty())
    }

    /// Takes bytes that follow each other and lie in one chunk. What is not a whole one may stay here until
    /// [`Writer::settle`].
    pub(super) async fn push(&mut self, tail: &mut Tail, bytes: Bytes) -> Result<(), End> {
        self.begin(tail).await?;
        let Some(Chunk { buf, .. }) = &mut self.gathered else { return Err(End::Lost(Problem::Internal)) };
        buf.spare()[..bytes.len()].copy_from_slice(&bytes);
        buf.fill(bytes.len());
        tail.crc.update(&bytes);
        tail.offset += bytes.len() as u64;
        let is_full = buf.spare().is_empty() || tail.is_at_chunk();
        drop(bytes);
        if self.is_awaited(tail) {
            self.settle(tail).await
        } else if is_full {
            self.write(tail).await
        } else {
            Ok(())
        }
    }

    /// Whether a reader who has nothing yet gets more by each piece that is written: in the first chunk of a blob that is
    /// longer, of which so much is sent before it is verified.
    fn is_awaited(&self, tail: &Tail) -> bool {
        let is_longer = self.fill.size_bytes.get().is_none_or(|size_bytes| *size_bytes > FILL_CHUNK_BYTES);
        self.party == Party::Run && tail.offset <= FILL_CHUNK_BYTES && is_longer
    }

    /// Everything that arrived is in the file, and the readers know.
    pub(super) async fn settle(&mut self, tail: &mut Tail) -> Result<(), End> {
        self.write(tail).await?;
        self.written(tail).await
    }

    /// Starts the write of what was gathered, after the one before has ended.
    async fn write(&mut self, tail: &mut Tail) -> Result<(), End> {
        self.written(tail).await?;
        let Some(gathered) = self.gathered.take() else { return Ok(()) };
        if gathered.as_ref().is_empty() {
            return Ok(());
        }
        let at = tail.offset - gathered.as_ref().len() as u64;
        let is_last = self.fill.size_bytes.get() == Some(&tail.offset);
        let chunk = (is_last || tail.is_at_chunk()).then(|| {
            let crc = std::mem::replace(&mut tail.crc, crc32fast::Hasher::new()).finalize();
            (at / FILL_CHUNK_BYTES, crc)
        });
        let bytes = gathered.freeze();
        self.fill.givers.add(self.runner.origin.upstream);
        let write = Box::pin(self.runner.io.write(&self.files.data, at, bytes.clone()));
        let mark = self.mark.take();
        self.in_flight = Some(InFlight { write, bytes, mark, end: tail.offset, chunk });
        Ok(())
    }

    /// Waits for a write. Where no room can be held ahead, it is what finds that there is none: others go for it then.
    async fn finish(&self, mut write: Write, at: u64, bytes: &Bytes) -> Result<(), End> {
        let (mut waiting, mut busy) = (Waiting::default(), Busy::default());
        loop {
            match busy.outlast(self.runner, write.await).await {
                Some(Err(error)) if room::is_none(&error) => {
                    let Runner { fills, io, store, .. } = self.runner;
                    waiting.for_room(fills, io, store, FILL_ROOM_BYTES).await?;
                }
                Some(result) => return Ok(result?),
                None => {}
            }
            write = Box::pin(self.runner.io.write(&self.files.data, at, bytes.clone()));
        }
    }

    /// Waits for the write in flight, and tells the readers.
    async fn written(&mut self, tail: &mut Tail) -> Result<(), End> {
        let Some(InFlight { write, bytes, mark, end, chunk }) = self.in_flight.take() else { return Ok(()) };
        let at = end - bytes.len() as u64;
        if let Err(end) = self.finish(write, at, &bytes).await {
            self.unwritten = mark.map(|Mark { hasher, crc }| Unwritten {
                tail: Tail { crc, ..Tail::at(at) },
                hasher,
                bytes: VecDeque::from([bytes]),
            });
            return Err(end);
        }
        if let Some((chunk, crc)) = chunk {
            let files = self.files.clone();
            let record = self.fill.records.fetch_add(1, Ordering::Relaxed);
            // One that is not written is a chunk that is fetched again after a restart.
            let giver = self.runner.fills.mark_of(&self.runner.origin).map_or(0, |mark| mark.number());
            drop(self.runner.io.fs(move |fs| files.record(fs, record, chunk, crc, giver)));
        }
        match (self.party, chunk) {
            (Party::Run, _) => self.fill.publish(State::Running, end),
            (Party::Extent, Some((chunk, crc))) => {
                self.fill.ahead().landed(chunk, crc);
                self.fill.wake();
            }
            (Party::Extent, None) => {}
        }
        if end - tail.written_back >= WRITE_BACK_BYTES {
            let (data, at) = (self.files.data.clone(), tail.written_back);
            tail.written_back = end;
            // A hint.
            drop(self.runner.io.fs(move |fs| fs.write_back(&data, at, end - at)));
        }
        Ok(())
    }
}
