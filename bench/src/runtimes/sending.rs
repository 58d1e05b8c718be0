//! An epoll loop of our own, and each way to bring a file to a socket.

use std::{
    collections::BTreeMap,
    io::{self, IoSliceMut},
    net::{TcpListener, TcpStream},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    event::epoll,
    io::{Errno, ReadWriteFlags},
    net::{RecvFlags, SendFlags},
    pipe::{PipeFlags, SpliceFlags},
    time::Timespec,
};

use super::Answer;

/// The listener's event data.
const LISTENER: u64 = u64::MAX;
/// What is read of a file at once, and what a pipe holds.
const PIECE_BYTES: usize = 256 * 1024;
const PIPE_BYTES: usize = 1024 * 1024;

/// A way to bring a file to a socket.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// The body lies in memory.
    Memory,
    /// A read that does not wait for the disk, and a send.
    Read,
    /// sendfile.
    Sendfile,
    /// splice into a pipe and out of it.
    Splice,
}

/// In the order in which they are shown.
pub(super) const ALL: [(&str, Way); 4] = [
    ("memory", Way::Memory),
    ("read and send", Way::Read),
    ("sendfile", Way::Sendfile),
    ("splice", Way::Splice),
];

/// The loop. Readiness comes from one epoll set, whoever waits for that.
pub(super) struct Sending<'a> {
    set: OwnedFd,
    listener: &'a TcpListener,
    way: Way,
    answer: &'a Answer,
    connections: BTreeMap<u64, Connection>,
    next: u64,
    scratch: Vec<u8>,
    events: Vec<epoll::Event>,
}

struct Connection {
    stream: TcpStream,
    /// How much of head and body is sent; `None`: a request is awaited.
    sent: Option<usize>,
    pipe: Option<(OwnedFd, OwnedFd)>,
    /// What the pipe holds.
    piped: usize,
}

/// Serves for as long as the process runs.
pub(super) fn run(listener: &TcpListener, way: Way, answer: &Answer) -> io::Result<()> {
    let mut sending = Sending::new(listener, way, answer)?;
    loop {
        sending.turn(None)?;
    }
}

impl<'a> Sending<'a> {
    pub(super) fn new(listener: &'a TcpListener, way: Way, answer: &'a Answer) -> io::Result<Sending<'a>> {
        listener.set_nonblocking(true)?;
        let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&set, listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
        Ok(Sending {
            set,
            listener,
            way,
            answer,
            connections: BTreeMap::new(),
            next: 0,
            scratch: vec![0; PIECE_BYTES],
            events: Vec::with_capacity(256),
        })
    }

    /// The epoll set, which is ready when a turn has something to do.
    pub(super) fn set(&self) -> BorrowedFd<'_> {
        self.set.as_fd()
    }

    /// Does all that is ready, after it has waited for something (`None`: for as long as it takes). Gives how much.
    pub(super) fn turn(&mut self, wait: Option<Timespec>) -> io::Result<usize> {
        self.events.clear();
        match epoll::wait(&self.set, rustix::buffer::spare_capacity(&mut self.events), wait.as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for index in 0..self.events.len() {
            match self.events[index].data.u64() {
                LISTENER => self.accept()?,
                key => {
                    let Some(connection) = self.connections.get_mut(&key) else { continue };
                    match connection.advance(self.way, self.answer, &mut self.scratch) {
                        Ok(()) | Err(Errno::AGAIN) => {}
                        Err(_) => drop(self.connections.remove(&key)),
                    }
                }
            }
        }
        Ok(self.events.len())
    }

    fn accept(&mut self) -> io::Result<()> {
        loop {
            let stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            let pipe = if self.way == Way::Splice {
                let (out, into) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
                // A smaller one is slower, which the figures then say.
                let _ = rustix::pipe::fcntl_setpipe_size(&into, PIPE_BYTES);
                Some((out, into))
            } else {
                None
            };
            let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
            epoll::add(&self.set, &stream, epoll::EventData::new_u64(self.next), flags)?;
            self.connections.insert(self.next, Connection { stream, sent: None, pipe, piped: 0 });
            self.next += 1;
        }
    }
}

impl Connection {
    /// Goes on until the socket has nothing or takes nothing (`AGAIN`). Any other error ends the connection.
    fn advance(&mut self, way: Way, answer: &Answer, scratch: &mut [u8]) -> Result<(), Errno> {
        let total = answer.head.len() + answer.body.len();
        loop {
            match self.sent {
                None => {
                    let (_, got) = rustix::net::recv(&self.stream, &mut *scratch, RecvFlags::empty())?;
                    // The client's requests are small, and one is sent at a time.
                    if !scratch[..got].ends_with(b"\r\n\r\n") {
                        return Err(Errno::PIPE);
                    }
                    self.sent = Some(0);
                }
                Some(sent) if sent == total => self.sent = None,
                Some(sent) => {
                    let count = self.send(way, answer, scratch, sent)?;
                    self.sent = Some(sent + count);
                }
            }
        }
    }

    fn send(&mut self, way: Way, answer: &Answer, scratch: &mut [u8], sent: usize) -> Result<usize, Errno> {
        let Answer { head, body, file } = answer;
        let head_left = head.get(sent..).unwrap_or_default();
        let mut at = sent.saturating_sub(head.len()) as u64;
        let left = body.len() - at as usize;
        match way {
            Way::Read => {
                scratch[..head_left.len()].copy_from_slice(head_left);
                let until = scratch.len().min(head_left.len() + left);
                let mut into = [IoSliceMut::new(&mut scratch[head_left.len()..until])];
                let got = match rustix::io::preadv2(file, &mut into, at, ReadWriteFlags::NOWAIT) {
                    // It was in memory and is no more: then the disk is waited for, once.
                    Err(Errno::AGAIN) => rustix::io::preadv2(file, &mut into, at, ReadWriteFlags::empty())?,
                    read => read?,
                };
                rustix::net::send(&self.stream, &scratch[..head_left.len() + got], SendFlags::NOSIGNAL)
            }
            _ if !head_left.is_empty() => {
                rustix::net::send(&self.stream, head_left, SendFlags::NOSIGNAL | SendFlags::MORE)
            }
            Way::Memory => rustix::net::send(&self.stream, &body[at as usize..], SendFlags::NOSIGNAL),
            Way::Sendfile => rustix::fs::sendfile(&self.stream, file, Some(&mut at), left),
            Way::Splice => {
                let Some((out, into)) = &self.pipe else { return Err(Errno::BADF) };
                if self.piped == 0 {
                    self.piped = rustix::pipe::splice(
                        file,
                        Some(&mut at),
                        into,
                        None,
                        left.min(PIPE_BYTES),
                        SpliceFlags::NONBLOCK | SpliceFlags::MOVE,
                    )?;
                }
                let more = if self.piped < left { SpliceFlags::MORE } else { SpliceFlags::empty() };
                let flags = SpliceFlags::NONBLOCK | more;
                let count = rustix::pipe::splice(out, None, &self.stream, None, self.piped, flags)?;
                self.piped -= count;
                Ok(count)
            }
        }
    }
}
