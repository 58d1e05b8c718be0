//! Pipes for splice: a file's pages pass through one on their way to a socket.
//!
//! Owns: the core's idle pipes. A pipe that holds bytes a socket did not take belongs to that socket until
//! they are gone; a socket that is closed takes its pipe with it.

use std::{
    cell::{Cell, RefCell},
    os::fd::OwnedFd,
    rc::Rc,
};

use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

use crate::limits::{PIPE_BYTES, PIPES_KEPT_PER_CORE, PIPES_PER_CORE};

pub(super) struct Pipe {
    pub(super) read: OwnedFd,
    pub(super) write: OwnedFd,
    _counted: Counted,
}

/// One of the pipes that exist; dropping it makes room for another.
struct Counted(Rc<Cell<usize>>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
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
    existing: Rc<Cell<usize>>,
}

impl Pipes {
    /// An empty pipe of `PIPE_BYTES`. `None`: there are enough, or the kernel gives no more; send another way.
    pub(super) fn take(&self) -> Option<Pipe> {
        if let Some(pipe) = self.idle.borrow_mut().pop() {
            return Some(pipe);
        }
        if self.existing.get() == PIPES_PER_CORE {
            return None;
        }
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).ok()?;
        fcntl_setpipe_size(&write, PIPE_BYTES).ok()?;
        self.existing.set(self.existing.get() + 1);
        Some(Pipe { read, write, _counted: Counted(self.existing.clone()) })
    }

    /// Takes an empty pipe back.
    pub(super) fn give(&self, pipe: Pipe) {
        let mut idle = self.idle.borrow_mut();
        if idle.len() < PIPES_KEPT_PER_CORE {
            idle.push(pipe);
        }
    }
}
