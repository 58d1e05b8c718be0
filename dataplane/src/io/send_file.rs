//! A part of a file into a socket, inside the kernel where that is cheaper, and only from memory.
//!
//! Which call is cheapest depends on the size; the bounds are in `limits`, the figures behind them in
//! ARCHITECTURE.md. None of the calls may meet a page that is not there: sendfile and splice would
//! then wait for the disk and stall the core, so residency is asked first and [`Sent::Cold`] is the answer.

use std::{io, os::fd::AsRawFd};

use rustix::{io::Errno, pipe::SpliceFlags};

use super::{
    File, Io, Socket,
    disk::PAGE_BYTES,
    pipes::{Pipe, Stranded},
    resident::Known,
};
use crate::limits::{BUF_BYTES, PIPE_BYTES, RESIDENT_WINDOW_BYTES, SENDFILE_BYTES_MAX};

/// Pages that fit into a segment beside a head: the kernel's `MAX_SKB_FRAGS` without one.
const SEGMENT_PAGES: u64 = 16;

/// What became of a file send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// So many bytes are with the socket.
    Bytes(usize),
    /// The socket takes nothing now.
    SocketFull,
    /// The first of the bytes are not in memory: read them, then send the buffer.
    Cold,
}

enum Spliced {
    Bytes(usize),
    SocketFull,
}

impl Io {
    /// Sends at most `len` (≥ 1) bytes from `at`. `file_bytes`: the file's length, or what it will be. `more`: something
    /// follows these bytes at once. A file that ends before `at + len` is `ErrorKind::UnexpectedEof`.
    pub fn send_file(
        &self,
        socket: &Socket,
        file: &File,
        file_bytes: u64,
        at: u64,
        len: usize,
        more: bool,
    ) -> io::Result<Sent> {
        let stranded = socket.stranded.borrow_mut().take();
        if let Some(stranded) = stranded {
            if stranded.at != at {
                debug_assert!(false, "what waits in a pipe is of another answer");
                return Err(io::ErrorKind::InvalidData.into());
            }
            return self.unstrand(socket, stranded, more);
        }
        let len = len.min(PIPE_BYTES);
        if !self.is_resident(file, file_bytes, at, len)? {
            return Ok(Sent::Cold);
        }
        if len > SENDFILE_BYTES_MAX
            && let Some(pipe) = self.inner().pipes.take()
        {
            return self.splice_file(socket, file, pipe, at, len, more);
        }
        let first = bytes_of_first_call(at, len);
        match self.sendfile(socket, file, at, first)? {
            // What is known of its pages still holds for the others.
            Sent::Bytes(count) if count == first && first < len => {
                match self.sendfile(socket, file, at + count as u64, len - count)? {
                    Sent::Bytes(more) => Ok(Sent::Bytes(count + more)),
                    Sent::SocketFull | Sent::Cold => Ok(Sent::Bytes(count)),
                }
            }
            sent => Ok(sent),
        }
    }

    fn sendfile(&self, socket: &Socket, file: &File, mut at: u64, len: usize) -> io::Result<Sent> {
        match rustix::io::retry_on_intr(|| rustix::fs::sendfile(socket.fd(), file, Some(&mut at), len)) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => Ok(Sent::Bytes(count)),
            Err(Errno::AGAIN) => {
                socket.clear(false);
                Ok(Sent::SocketFull)
            }
            Err(error) => Err(error.into()),
        }
    }

    fn splice_file(
        &self,
        socket: &Socket,
        file: &File,
        pipe: Pipe,
        at: u64,
        len: usize,
        more: bool,
    ) -> io::Result<Sent> {
        let mut offset = at;
        let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        let in_pipe = rustix::io::retry_on_intr(|| {
            rustix::pipe::splice(file, Some(&mut offset), &pipe.write, None, len, flags)
        })?;
        if in_pipe == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.unstrand(socket, Stranded { pipe, at, len: in_pipe }, more)
    }

    /// Sends what is in the pipe; what the socket does not take stays with the socket.
    fn unstrand(&self, socket: &Socket, mut stranded: Stranded, more: bool) -> io::Result<Sent> {
        match self.splice_out(socket, &stranded, more)? {
            Spliced::Bytes(count) => {
                stranded.at += count as u64;
                stranded.len -= count;
                if stranded.len == 0 {
                    self.inner().pipes.give(stranded.pipe);
                } else {
                    *socket.stranded.borrow_mut() = Some(stranded);
                }
                Ok(Sent::Bytes(count))
            }
            Spliced::SocketFull => {
                socket.clear(false);
                *socket.stranded.borrow_mut() = Some(stranded);
                Ok(Sent::SocketFull)
            }
        }
    }

    fn splice_out(&self, socket: &Socket, stranded: &Stranded, more: bool) -> io::Result<Spliced> {
        let mut flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
        if more {
            flags |= SpliceFlags::MORE;
        }
        match rustix::io::retry_on_intr(|| {
            rustix::pipe::splice(&stranded.pipe.read, None, socket.fd(), None, stranded.len, flags)
        }) {
            Ok(count) => Ok(Spliced::Bytes(count)),
            Err(Errno::AGAIN) => Ok(Spliced::SocketFull),
            Err(error) => Err(error.into()),
        }
    }

    fn is_resident(&self, file: &File, file_bytes: u64, at: u64, len: usize) -> io::Result<bool> {
        if len <= SENDFILE_BYTES_MAX {
            let last = at + len as u64 - 1;
            let mut known = true;
            for window in at / RESIDENT_WINDOW_BYTES..=last / RESIDENT_WINDOW_BYTES {
                known &= self.has_window(file, file_bytes, window)?;
            }
            if known {
                return Ok(true);
            }
        }
        self.has_span(file, at, len, len as u64)
    }

    /// Whether memory is known to have all of a window. `false` may only mean that it is not known.
    fn has_window(&self, file: &File, file_bytes: u64, window: u64) -> io::Result<bool> {
        let now = self.now();
        let resident = &self.inner().resident;
        let found = match resident.look(file.number(), window, now) {
            Known::Whole => return Ok(true),
            Known::InPart => return Ok(false),
            Known::Nothing => Known::Met,
            Known::Met => {
                let start = window * RESIDENT_WINDOW_BYTES;
                let len = RESIDENT_WINDOW_BYTES.min(file_bytes.saturating_sub(start)) as usize;
                let whole = len > 0 && self.has_span(file, start, len, BUF_BYTES as u64)?;
                if whole { Known::Whole } else { Known::InPart }
            }
        };
        resident.note(file.number(), window, found, now);
        Ok(found == Known::Whole)
    }

    /// Asks the kernel. What it counts may also be pages whose read is in flight, so a byte is read at each `step` and at
    /// the end: that is where a read of ours begins or ends.
    fn has_span(&self, file: &File, at: u64, len: usize, step: u64) -> io::Result<bool> {
        let step = match pages_in_memory(file, at, len)? {
            Some(true) => step,
            Some(false) => return Ok(false),
            // Kernels before 6.5 can't tell.
            None => 64 * 1024,
        };
        let last = at + len as u64 - 1;
        for byte in (at..last).step_by(step as usize).chain([last]) {
            if !self.has_byte(file, byte)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn has_byte(&self, file: &File, at: u64) -> io::Result<bool> {
        Ok(self.read_now(file, at, &mut [0])?.is_some())
    }
}

/// What goes by a call of its own when a span begins in the middle of a page. A segment has 17 fragments: one for the
/// head and 16 for pages. With a page more it is closed before it is full, and so sent by the call's end together with
/// the next one, which then waits for the pacing timer; a full one leaves at once, and so does one that a call ends.
fn bytes_of_first_call(at: u64, len: usize) -> usize {
    let into_page = at % PAGE_BYTES;
    let pages = (SEGMENT_PAGES * PAGE_BYTES - into_page) as usize;
    if into_page == 0 { len } else { len.min(pages) }
}

/// Whether the page cache has every page of a span. `None`: this kernel or file system can't tell.
fn pages_in_memory(file: &File, at: u64, len: usize) -> io::Result<Option<bool>> {
    const CACHESTAT: libc::c_long = 451;
    #[repr(C)]
    struct Range {
        at: u64,
        len: u64,
    }
    #[repr(C)]
    #[derive(Default)]
    struct Pages {
        cached: u64,
        dirty: u64,
        writeback: u64,
        evicted: u64,
        recently_evicted: u64,
    }
    let range = Range { at, len: len as u64 };
    let mut pages = Pages::default();
    // SAFETY: both pointers are to live values of the layout that cachestat(2) says; flags are 0.
    let result =
        unsafe { libc::syscall(CACHESTAT, file.as_raw_fd(), &raw const range, &raw mut pages, 0_u32) };
    if result == 0 {
        let wanted = (at + len as u64).div_ceil(PAGE_BYTES) - at / PAGE_BYTES;
        return Ok(Some(pages.cached >= wanted));
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::ENOSYS | libc::EOPNOTSUPP | libc::EPERM) => Ok(None),
        _ => Err(error),
    }
}
