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
};
use crate::limits::{PIPE_BYTES, RESIDENT_TIME, SENDFILE_BYTES_MAX};

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
    /// Sends at most `len` (≥ 1) bytes from `at`. `more`: something follows these bytes at once.
    /// A file that ends before `at + len` is `ErrorKind::UnexpectedEof`.
    pub fn send_file(
        &self,
        socket: &Socket,
        file: &File,
        at: u64,
        len: usize,
        more: bool,
    ) -> io::Result<Sent> {
        let stranded = socket.stranded.borrow_mut().take();
        if let Some(stranded) = stranded {
            debug_assert_eq!(stranded.at, at);
            return self.unstrand(socket, stranded, more);
        }
        let len = len.min(PIPE_BYTES);
        if !self.is_resident(file, at, len)? {
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

    fn is_resident(&self, file: &File, at: u64, len: usize) -> io::Result<bool> {
        let now = self.now();
        let small = len <= SENDFILE_BYTES_MAX;
        let end = at + len as u64;
        if small && file.was_resident(end, now, RESIDENT_TIME) {
            return Ok(true);
        }
        let resident = match pages_in_memory(file, at, len)? {
            // It also counts pages whose read is in flight, and those are where it matters: at the ends.
            Some(all) => all && self.has_byte(file, at)? && self.has_byte(file, at + len as u64 - 1)?,
            None => self.has_every_byte_looked_at(file, at, len)?,
        };
        if resident && small && at == 0 {
            file.found_resident(end, now);
        }
        Ok(resident)
    }

    fn has_byte(&self, file: &File, at: u64) -> io::Result<bool> {
        Ok(self.read_now(file, at, &mut [0])?.is_some())
    }

    /// For kernels before 6.5: one look per 64 KiB, and at the end.
    fn has_every_byte_looked_at(&self, file: &File, at: u64, len: usize) -> io::Result<bool> {
        for offset in (0..len).step_by(64 * 1024).chain([len - 1]) {
            if !self.has_byte(file, at + offset as u64)? {
                return Ok(false);
            }
        }
        Ok(true)
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
