//! What fills have in memory: pieces that came from an upstream, and chunks that are gathered, written or read.
//!
//! ```text
//! upstream ─piece─► in a channel ─► in hand ─► copied into a chunk ─► written
//!           holds its length, until copied     holds a chunk, until it is written
//! ```
//!
//! A fill's pieces and its chunks are two sums, each within one of all fills: no more than [`FILL_MEMORY_BYTES_MAX`] of a
//! fill, and no more than [`FILLS_MEMORY_BYTES_MAX`] of all. Five parties can fill, the run and four extents: each has one
//! chunk for certain, and one of them a second while its first is written; a party that is alone has two chunks and up to
//! five pieces.
//!
//! Who finds no room waits, and that ends: who waits for a piece's room holds nothing that another waits for; who holds a
//! piece waits for a chunk at most, and who holds a chunk for neither, only for one of the core's buffers and for the disk.
//! A second chunk is had only where nobody has to wait for it. And who holds a piece always goes on to take it: before it
//! does, nothing of an answer is let in ([`Begun`]), and who has to wait for others' extents has let nothing in. A chunk is
//! held by nobody who waits for an upstream: what is gathered is written first. So a slow one takes nothing from others.

use std::{io, ops::Deref};

use bytes::Bytes;
use control::{Fetched, Gate, Held, Memory};
use oci::Problem;

use super::{Fill, FillFiles, Runner, busy::Busy};
use crate::{
    io::Buf,
    limits::{BUF_BYTES, FILL_MEMORY_BYTES_MAX, FILL_PIECES_SHARE, FILLS_MEMORY_BYTES_MAX},
};

/// What is held, and how much it may be.
pub(super) struct Sums {
    pieces: Memory,
    chunks: Memory,
}

impl Sums {
    /// Of all fills.
    pub(super) fn of_all() -> Sums {
        let pieces = FILLS_MEMORY_BYTES_MAX / FILL_PIECES_SHARE;
        Sums { pieces: Memory::new(pieces), chunks: Memory::new(FILLS_MEMORY_BYTES_MAX - pieces) }
    }

    /// Of one of them.
    pub(super) fn of_one(&self) -> Sums {
        let pieces = FILL_MEMORY_BYTES_MAX / FILL_PIECES_SHARE;
        Sums { pieces: self.pieces.part(pieces), chunks: self.chunks.part(FILL_MEMORY_BYTES_MAX - pieces) }
    }

    pub(super) fn held_bytes(&self) -> u64 {
        self.pieces.held_bytes() + self.chunks.held_bytes()
    }

    /// Room for a chunk, as soon as there is some.
    async fn chunk(&self) -> Held {
        self.chunks.hold(BUF_BYTES as u64).await
    }

    /// The same, where nobody waits for it.
    pub(super) fn second_chunk(&self) -> Option<Held> {
        self.chunks.try_hold(BUF_BYTES as u64)
    }
}

/// A buffer with a chunk, or a part of one.
pub(super) struct Chunk {
    pub(super) buf: Buf,
    _held: Held,
}

impl Chunk {
    /// An empty one, for which there is room.
    pub(super) async fn held(runner: &Runner, held: Held) -> Chunk {
        Chunk { buf: runner.io.buf().await, _held: held }
    }

    /// An empty one.
    pub(super) async fn wait(runner: &Runner, fill: &Fill) -> Chunk {
        Chunk::held(runner, fill.memory.chunk().await).await
    }

    /// `len` bytes of a file. `None`: it ends before.
    pub(super) async fn read(
        runner: &Runner,
        fill: &Fill,
        files: &FillFiles,
        at: u64,
        len: usize,
    ) -> io::Result<Option<Chunk>> {
        let Chunk { mut buf, _held } = Chunk::wait(runner, fill).await;
        let mut busy = Busy::default();
        while buf.filled().len() < len {
            let done = buf.filled().len();
            let (read, back) = runner.io.read(&files.data, at + done as u64, len - done, buf).await;
            buf = back;
            match busy.outlast(runner, read).await {
                Some(Ok(0)) => return Ok(None),
                Some(read) => drop(read?),
                None => {}
            }
        }
        Ok(Some(Chunk { buf, _held }))
    }

    /// What is in it, shareable; it is held until the last handle is dropped.
    pub(super) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Chunk {
    fn as_ref(&self) -> &[u8] {
        self.buf.filled()
    }
}

/// An answer of the origin of which nothing was taken yet.
pub(super) struct Begun {
    fetched: Fetched,
    gate: Gate,
}

impl Begun {
    /// Now it is taken.
    pub(super) fn open(self) -> Fetched {
        self.gate.open();
        self.fetched
    }
}

impl Deref for Begun {
    type Target = Fetched;

    fn deref(&self) -> &Fetched {
        &self.fetched
    }
}

impl Fill {
    /// Asks the origin for its bytes from `span.0` on, to `span.1` (exclusive) or to the end. `None`: it does not have them.
    pub(super) async fn ask(
        &self,
        runner: &Runner,
        span: (u64, Option<u64>),
    ) -> Result<Option<Begun>, Problem> {
        let (memory, gate) = self.memory.pieces.gated();
        let fetched = runner.control.fetch(runner.origin, self.digest, span, memory).await?;
        Ok(fetched.map(|fetched| Begun { fetched, gate }))
    }
}
