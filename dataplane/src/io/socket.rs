//! Sockets: direct non-blocking calls, and waiting for when they would block.
//!
//! Owns: for every socket of the core, what epoll last said of it, who waits for it and until when. One
//! task owns a socket, so there is at most one waiter.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use rustix::{
    event::epoll::EventFlags,
    io::Errno,
    net::{RecvFlags, SendFlags, Shutdown},
};

use super::{Instant, Io, pipes::Stranded};
use crate::limits::{BULK_BYTES, UNSENT_BYTES};

/// A connected socket in its core's set.
pub struct Socket {
    fd: OwnedFd,
    key: u64,
    io: Io,
    /// Bytes of a file that left for this socket and wait in a pipe; see `send_file`.
    pub(super) stranded: RefCell<Option<Stranded>>,
    /// Whether as much may wait unsent as the system allows.
    is_bulk: Cell<bool>,
}

/// The event data of the wake descriptor; no socket has it.
pub(super) const WAKE: u64 = u64::MAX;

#[derive(Default)]
pub(super) struct SocketTable {
    entries: Vec<Entry>,
    free: Vec<u32>,
}

#[derive(Default)]
struct Entry {
    /// Distinguishes the sockets that had this place one after the other.
    generation: u32,
    readable: bool,
    writable: bool,
    hung_up: bool,
    waiter: Option<(Waker, Interest)>,
    deadline: Option<Instant>,
    /// The deadline under which the timers know it.
    filed: Option<Instant>,
    expired: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Interest {
    Read,
    Write,
    HangUp,
}

impl SocketTable {
    pub(super) fn insert(&mut self) -> u64 {
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry::default());
            self.entries.len() as u32 - 1
        });
        let entry = &mut self.entries[index as usize];
        // New sockets are tried before they are waited for.
        *entry = Entry { generation: entry.generation, readable: true, writable: true, ..Entry::default() };
        u64::from(entry.generation) << 32 | u64::from(index)
    }

    pub(super) fn remove(&mut self, key: u64) {
        if let Some(entry) = self.get(key) {
            // The last generation is never reached by the wake descriptor's data.
            entry.generation = (entry.generation + 1) % (u32::MAX - 1);
            entry.waiter = None;
            entry.filed = None;
            self.free.push(key as u32);
        }
    }

    /// Whether there is a socket in it.
    pub(super) fn is_used(&self) -> bool {
        self.entries.len() > self.free.len()
    }

    /// Has every waiting task look again, whether there is something or not.
    pub(super) fn rouse(&mut self) {
        for entry in &mut self.entries {
            if let Some((waker, _)) = entry.waiter.take() {
                entry.readable = true;
                entry.writable = true;
                waker.wake();
            }
        }
    }

    pub(super) fn ready(&mut self, key: u64, flags: EventFlags) {
        // An event may be on its way while its socket is closed.
        let Some(entry) = self.get(key) else { return };
        let broken = EventFlags::ERR | EventFlags::HUP;
        if flags.intersects(EventFlags::IN | broken | EventFlags::RDHUP) {
            entry.readable = true;
        }
        if flags.intersects(EventFlags::OUT | broken) {
            entry.writable = true;
        }
        // A hang-up comes once, maybe together with data, so it must outlast a short read.
        entry.hung_up |= flags.intersects(EventFlags::RDHUP | broken);
        if let Some((waker, interest)) = entry.waiter.take() {
            if entry.is_ready(interest) {
                waker.wake();
            } else {
                entry.waiter = Some((waker, interest));
            }
        }
    }

    /// The timers' tick for this socket came. Gives when to file it again, if at all.
    pub(super) fn expire(&mut self, key: u64, now: Instant) -> Option<Instant> {
        let entry = self.get(key)?;
        if entry.filed.is_some_and(|filed| filed > now) {
            // It was filed again for a shorter wait and then for this one: only the last filing counts.
            return None;
        }
        entry.filed = None;
        let deadline = entry.deadline?;
        if deadline > now {
            entry.filed = Some(deadline);
            return Some(deadline);
        }
        entry.expired = true;
        entry.deadline = None;
        if let Some((waker, _)) = entry.waiter.take() {
            waker.wake();
        }
        None
    }

    fn get(&mut self, key: u64) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(key as u32 as usize)?;
        (entry.generation == (key >> 32) as u32).then_some(entry)
    }
}

impl Entry {
    fn is_ready(&self, interest: Interest) -> bool {
        match interest {
            Interest::Read => self.readable || self.hung_up,
            Interest::Write => self.writable,
            Interest::HangUp => self.hung_up,
        }
    }
}

impl Socket {
    pub(super) fn new(fd: OwnedFd, key: u64, io: Io) -> Socket {
        Socket { fd, key, io, stranded: RefCell::default(), is_bulk: Cell::default() }
    }

    /// Whether bytes of a file are in a pipe between it and this socket; only a file send moves them.
    pub fn is_stranded(&self) -> bool {
        self.stranded.borrow().is_some()
    }

    /// What waits there is not sent.
    pub fn forget_stranded(&self) {
        drop(self.stranded.borrow_mut().take());
    }

    /// Whether anything may have come since a receive found the socket drained.
    fn may_receive(&self) -> bool {
        let mut sockets = self.io.inner().sockets.borrow_mut();
        sockets.get(self.key).is_none_or(|entry| entry.is_ready(Interest::Read))
    }

    pub(super) fn fd(&self) -> impl AsFd + '_ {
        &self.fd
    }

    pub(super) fn clear(&self, read: bool) {
        if let Some(entry) = self.io.inner().sockets.borrow_mut().get(self.key) {
            if read {
                entry.readable = false;
            } else {
                entry.writable = false;
            }
        }
    }
}

/// Has a socket, or those that a listener accepts, take no more while so much waits for its first transmission. 0: what the
/// system has set.
pub(super) fn bound_unsent(socket: &impl AsRawFd, bytes: i32) -> io::Result<()> {
    let value: libc::c_int = bytes;
    // SAFETY: the option is an int, and `value` is one that lives as long as the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_NOTSENT_LOWAT,
            (&raw const value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Bytes that the other side has not taken yet.
fn unacknowledged(socket: &impl AsRawFd) -> io::Result<i32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: the request writes an int, to one that lives as long as the call.
    match unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) } {
        0 => Ok(bytes),
        _ => Err(io::Error::last_os_error()),
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.io.inner().sockets.borrow_mut().remove(self.key);
    }
}

impl Io {
    /// Waits until the socket takes more, for as long as the other side takes anything.
    ///
    /// Errors: `ErrorKind::TimedOut`: it took nothing for `stall`, give or take a quarter.
    pub async fn writable_unless_stalled(&self, socket: &Socket, stall: Duration) -> io::Result<()> {
        let mut seen: Option<(i32, Instant)> = None;
        loop {
            match self.writable(socket, self.now() + stall / 4).await {
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                    let (left, now) = (unacknowledged(&socket.fd)?, self.now());
                    match seen {
                        Some((before, since)) if left >= before => {
                            if now.since(since) >= stall {
                                return Err(error);
                            }
                        }
                        Some(_) | None => seen = Some((left, now)),
                    }
                }
                other => return other,
            }
        }
    }

    /// So many bytes of an answer are still to be sent: while they are many, the kernel gets a long queue.
    pub fn expect(&self, socket: &Socket, left_bytes: u64) -> io::Result<()> {
        let is_bulk = left_bytes >= BULK_BYTES;
        match socket.is_bulk.replace(is_bulk) == is_bulk {
            true => Ok(()),
            false => bound_unsent(&socket.fd, if is_bulk { 0 } else { UNSENT_BYTES }),
        }
    }

    /// Takes what has arrived. `Ok(None)`: nothing yet. `Ok(Some(0))`: the peer has finished.
    pub fn recv(&self, socket: &Socket, into: &mut [u8]) -> io::Result<Option<usize>> {
        let wanted = into.len();
        if !socket.may_receive() {
            return Ok(None);
        }
        match rustix::io::retry_on_intr(|| rustix::net::recv(&socket.fd, &mut *into, RecvFlags::empty())) {
            Ok((_, count)) => {
                if count < wanted {
                    // A short read has drained the socket; the next event says when there is more.
                    socket.clear(true);
                }
                Ok(Some(count))
            }
            Err(Errno::AGAIN) => {
                socket.clear(true);
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Sends the parts one after the other, as much as the socket takes. `None`: it takes nothing now.
    /// `more`: what follows comes at once, so let the kernel wait for it.
    pub fn send(&self, socket: &Socket, parts: [&[u8]; 2], more: bool) -> io::Result<Option<usize>> {
        let mut flags = SendFlags::NOSIGNAL;
        if more {
            flags |= SendFlags::MORE;
        }
        let result = rustix::io::retry_on_intr(|| {
            if parts[1].is_empty() {
                return rustix::net::send(&socket.fd, parts[0], flags);
            }
            let parts = [io::IoSlice::new(parts[0]), io::IoSlice::new(parts[1])];
            rustix::net::sendmsg(&socket.fd, &parts, &mut rustix::net::SendAncillaryBuffer::default(), flags)
        });
        match result {
            Ok(count) => Ok(Some(count)),
            Err(Errno::AGAIN) => {
                socket.clear(false);
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Says that nothing more will be sent; the peer's bytes can still be read.
    pub fn finish_sending(&self, socket: &Socket) -> io::Result<()> {
        Ok(rustix::net::shutdown(&socket.fd, Shutdown::Write)?)
    }

    /// Has every task that waits for a socket of this core look again, as if there were something.
    pub fn rouse(&self) {
        self.inner().sockets.borrow_mut().rouse();
    }

    /// Waits until there may be something to receive. `ErrorKind::TimedOut` after `until`,
    /// `ErrorKind::ConnectionAborted` once the core ends.
    pub async fn readable(&self, socket: &Socket, until: Instant) -> io::Result<()> {
        Ready { io: self, key: socket.key, interest: Interest::Read, until: Some(until) }.await
    }

    /// Waits until there may be room to send. Errors as [`Io::readable`].
    pub async fn writable(&self, socket: &Socket, until: Instant) -> io::Result<()> {
        Ready { io: self, key: socket.key, interest: Interest::Write, until: Some(until) }.await
    }

    /// Waits for something else, for a peer that is there. `None`: it sends no more, so it has left, or only waits for what
    /// it is sent, which nobody can tell apart; or the core ends.
    pub async fn unless_hung_up<T>(&self, socket: &Socket, wait: impl Future<Output = T>) -> Option<T> {
        let hung_up = Ready { io: self, key: socket.key, interest: Interest::HangUp, until: None };
        let (mut wait, mut hung_up) = (pin!(wait), pin!(hung_up));
        poll_fn(|context| match wait.as_mut().poll(context) {
            Poll::Ready(done) => Poll::Ready(Some(done)),
            // Its errors are that there is no peer any more.
            Poll::Pending => hung_up.as_mut().poll(context).map(|_| None),
        })
        .await
    }
}

struct Ready<'a> {
    io: &'a Io,
    key: u64,
    interest: Interest,
    until: Option<Instant>,
}

impl Future for Ready<'_> {
    type Output = io::Result<()>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.io.is_ending() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let mut file = None;
        let mut sockets = self.io.inner().sockets.borrow_mut();
        let Some(entry) = sockets.get(self.key) else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        // Whatever this wait ends with, the next one starts afresh.
        let expired = std::mem::take(&mut entry.expired);
        if entry.is_ready(self.interest) {
            entry.deadline = None;
            entry.waiter = None;
            return Poll::Ready(Ok(()));
        }
        if expired && self.until.is_some() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        entry.waiter = Some((context.waker().clone(), self.interest));
        entry.deadline = self.until;
        if let Some(until) = self.until
            && entry.filed.is_none_or(|filed| until < filed)
        {
            entry.filed = Some(until);
            file = Some(until);
        }
        drop(sockets);
        if let Some(at) = file {
            self.io.inner().timers.insert(self.key, at);
        }
        Poll::Pending
    }
}
