//! Pipes for splice: a file's pages pass through one on their way to a socket.
//!
//! Owns: the core's idle pipes. A pipe that holds bytes a socket did not take belongs to that socket until
//! they are gone; a socket that is closed takes its pipe with it.

use std::{
    cell::{Cell, RefCell},
    io,
    os::fd::OwnedFd,
};

use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

use crate::limits::{PIPE_BYTES, PIPES_PER_CORE};

pub(super) struct Pipe {
    pub(super) read: OwnedFd,
    pub(super) write: OwnedFd,
}

/// Bytes `[at, at + len)` of a file, in a pipe.
pub(super) struct Stranded {
    pub(super) pipe: Pipe,
    pub(super) at: u64,
    pub(super) len: usize,
}

#[derive(Default)]
pub(super) struct Pipes {
    idle: RefCell<Vec<Pipe>>,
    /// The kernel refused a large pipe once: its user has no more.
    exhausted: Cell<bool>,
}

impl Pipes {
    /// An empty pipe of `PIPE_BYTES`. `None`: send another way.
    pub(super) fn take(&self) -> io::Result<Option<Pipe>> {
        if let Some(pipe) = self.idle.borrow_mut().pop() {
            return Ok(Some(pipe));
        }
        if self.exhausted.get() {
            return Ok(None);
        }
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        if fcntl_setpipe_size(&write, PIPE_BYTES).is_err() {
            self.exhausted.set(true);
            return Ok(None);
        }
        Ok(Some(Pipe { read, write }))
    }

    /// Takes an empty pipe back.
    pub(super) fn give(&self, pipe: Pipe) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < PIPES_PER_CORE {
            idle.push(pipe);
        }
        self.exhausted.set(false);
    }
}
