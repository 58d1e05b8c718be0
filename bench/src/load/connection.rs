//! A connection: a request on its way out, or an answer on its way in.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    os::fd::{AsFd, BorrowedFd},
};

use oci::Hasher;
use rustix::{
    io::Errno,
    net::{RecvFlags, SendFlags},
};

use super::script::{Answer, Exchange, Reading};
use crate::wire::{AnswerHead, Chunks, Framing, parse_head};

/// What one `recv` may take; a body that is dropped is taken in steps of this.
pub const SCRATCH_BYTES: usize = 1024 * 1024;
/// What a `recv` takes while a head is expected: little, so that what follows can be dropped uncopied.
const HEAD_RECV_BYTES: usize = 8 * 1024;
/// The largest body that is handed to a script.
const KEPT_BYTES_MAX: usize = 16 * 1024 * 1024;

/// A connection to the server, made when it is first needed.
#[derive(Default)]
pub struct Connection {
    stream: Option<TcpStream>,
    state: State,
}

#[derive(Default)]
#[expect(clippy::large_enum_variant, reason = "a connection is hardly ever idle")]
enum State {
    #[default]
    Idle,
    Sending {
        exchange: Exchange,
        sent: usize,
    },
    Head {
        exchange: Exchange,
        bytes: Vec<u8>,
    },
    Body {
        exchange: Exchange,
        head: AnswerHead,
        body: Incoming,
    },
}

struct Incoming {
    received: u64,
    chunks: Option<Chunks>,
    hasher: Option<Hasher>,
    kept: Option<Vec<u8>>,
}

/// How an exchange ended.
pub struct Finished {
    /// What was asked.
    pub exchange: Exchange,
    /// What came.
    pub answer: Answer,
    /// Bytes of the answer's body.
    pub received: u64,
}

impl Connection {
    /// Whether it waits for something to do.
    pub fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle)
    }

    /// The socket, if there is one.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.stream.as_ref().map(AsFd::as_fd)
    }

    /// Connects if need be. `true`: there is a new socket.
    pub fn connect(&mut self, addr: SocketAddr) -> io::Result<bool> {
        if self.stream.is_some() {
            return Ok(false);
        }
        let stream = TcpStream::connect(addr)?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        self.stream = Some(stream);
        Ok(true)
    }

    /// Forgets the socket and what was going on.
    pub fn close(&mut self) {
        *self = Connection::default();
    }

    /// Has `exchange` done from now on.
    pub fn begin(&mut self, exchange: Exchange) {
        self.state = State::Sending { exchange, sent: 0 };
    }

    /// Goes on as far as it can without waiting. `None`: it waits for the server.
    ///
    /// Errors: a sentence; the connection is of no use any more.
    pub fn advance(&mut self, scratch: &mut [u8]) -> Result<Option<Finished>, String> {
        let Some(stream) = &self.stream else { return Err("there is no connection".to_owned()) };
        loop {
            match std::mem::take(&mut self.state) {
                State::Idle => return Ok(None),
                State::Sending { exchange, sent } => match send(stream, &exchange, sent) {
                    Ok(sent) if sent == total(&exchange) => {
                        self.state = State::Head { exchange, bytes: Vec::new() };
                    }
                    Ok(sent) => self.state = State::Sending { exchange, sent },
                    Err(Errno::AGAIN) => {
                        self.state = State::Sending { exchange, sent };
                        return Ok(None);
                    }
                    Err(error) => return Err(format!("a request could not be sent: {error}")),
                },
                State::Head { exchange, mut bytes } => {
                    let got = match recv(stream, &mut scratch[..HEAD_RECV_BYTES], RecvFlags::empty())? {
                        Some(0) => return Err("the connection was closed without an answer".to_owned()),
                        Some(got) => got,
                        None => {
                            self.state = State::Head { exchange, bytes };
                            return Ok(None);
                        }
                    };
                    // Most heads come whole with the first call, and then nothing is copied.
                    let all = if bytes.is_empty() {
                        &scratch[..got]
                    } else {
                        bytes.extend_from_slice(&scratch[..got]);
                        &bytes[..]
                    };
                    match parse_head(all, exchange.to_head)? {
                        None => {
                            let bytes = if bytes.is_empty() { all.to_vec() } else { bytes };
                            self.state = State::Head { exchange, bytes };
                        }
                        Some((length, head)) => {
                            check_head(&exchange, &head)?;
                            let mut body = Incoming::new(&exchange, &head);
                            body.take(&head, &all[length..])?;
                            self.state = State::Body { exchange, head, body };
                        }
                    }
                }
                State::Body { exchange, head, mut body } => {
                    if let Reading::Leave { after } = exchange.reading
                        && body.received >= after
                    {
                        let received = body.received;
                        let answer = Answer { head, body: Vec::new() };
                        self.stream = None;
                        return Ok(Some(Finished { exchange, answer, received }));
                    }
                    if body.is_done(&head) {
                        if !head.keeps_alive {
                            self.stream = None;
                        }
                        return body.finish(exchange, head).map(Some);
                    }
                    let got = match body.recv(stream, &head, &exchange.reading, scratch)? {
                        Some(got) => got,
                        None => {
                            self.state = State::Body { exchange, head, body };
                            return Ok(None);
                        }
                    };
                    if got == 0 {
                        if head.framing != Framing::UntilClose {
                            return Err(format!("a body ended after {} bytes", body.received));
                        }
                        self.stream = None;
                        return body.finish(exchange, head).map(Some);
                    }
                    self.state = State::Body { exchange, head, body };
                }
            }
        }
    }
}

impl Incoming {
    fn new(exchange: &Exchange, head: &AnswerHead) -> Incoming {
        let hasher = match &exchange.reading {
            Reading::Verify { digest, .. } => Some(Hasher::new(digest.algorithm())),
            Reading::Drop { .. } | Reading::Keep | Reading::Leave { .. } => None,
        };
        Incoming {
            received: 0,
            chunks: (head.framing == Framing::Chunked).then(Chunks::default),
            hasher,
            kept: matches!(exchange.reading, Reading::Keep).then(Vec::new),
        }
    }

    fn is_done(&self, head: &AnswerHead) -> bool {
        match (head.framing, &self.chunks) {
            (Framing::Length(length), _) => self.received >= length,
            (Framing::Chunked, Some(chunks)) => chunks.is_done(),
            (Framing::Chunked | Framing::UntilClose, _) => false,
        }
    }

    /// Receives more of the body; what nobody looks at never leaves the kernel.
    fn recv(
        &mut self,
        stream: &TcpStream,
        head: &AnswerHead,
        reading: &Reading,
        scratch: &mut [u8],
    ) -> Result<Option<usize>, String> {
        let limit = match (head.framing, reading) {
            (Framing::Length(length), Reading::Leave { after }) => length.min(*after) - self.received,
            (Framing::Length(length), _) => length - self.received,
            (Framing::Chunked | Framing::UntilClose, _) => SCRATCH_BYTES as u64,
        };
        let limit = usize::try_from(limit).unwrap_or(SCRATCH_BYTES).min(scratch.len());
        let unseen = self.hasher.is_none() && self.kept.is_none() && self.chunks.is_none();
        let flags = if unseen { RecvFlags::TRUNC } else { RecvFlags::empty() };
        let got = recv(stream, &mut scratch[..limit], flags)?;
        match got {
            Some(got) if unseen => self.received += got as u64,
            Some(got) => self.take(head, &scratch[..got])?,
            None => {}
        }
        Ok(got)
    }

    fn take(&mut self, head: &AnswerHead, bytes: &[u8]) -> Result<(), String> {
        let Incoming { received, chunks, hasher, kept } = self;
        let mut payload = |bytes: &[u8]| {
            *received += bytes.len() as u64;
            if let Some(hasher) = hasher {
                hasher.update(bytes);
            }
            if let Some(kept) = kept
                && kept.len() + bytes.len() <= KEPT_BYTES_MAX
            {
                kept.extend_from_slice(bytes);
            }
        };
        let behind = match chunks {
            Some(chunks) => bytes.len() - chunks.take(bytes, &mut payload)?,
            None => {
                payload(bytes);
                0
            }
        };
        let too_long = matches!(head.framing, Framing::Length(length) if *received > length);
        if behind > 0 || too_long {
            return Err("more came than the answer's head says".to_owned());
        }
        Ok(())
    }

    fn finish(self, exchange: Exchange, head: AnswerHead) -> Result<Finished, String> {
        let expected = match &exchange.reading {
            Reading::Drop { length } => *length,
            Reading::Verify { length, .. } => Some(*length),
            Reading::Keep | Reading::Leave { .. } => None,
        };
        if let Some(expected) = expected
            && expected != self.received
            && !exchange.to_head
        {
            return Err(format!("a body of {} bytes, expected {expected}", self.received));
        }
        if let (Reading::Verify { digest, .. }, Some(hasher)) = (&exchange.reading, self.hasher) {
            let computed = hasher.finish();
            if computed != *digest {
                return Err(format!("a body has the digest {computed}, expected {digest}"));
            }
        }
        let answer = Answer { head, body: self.kept.unwrap_or_default() };
        Ok(Finished { exchange, answer, received: self.received })
    }
}

fn check_head(exchange: &Exchange, head: &AnswerHead) -> Result<(), String> {
    if exchange.statuses.contains(&head.status) {
        return Ok(());
    }
    let line = exchange.request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    Err(format!("status {} for {}", head.status, String::from_utf8_lossy(line)))
}

fn total(exchange: &Exchange) -> usize {
    exchange.request.len() + exchange.body.as_ref().map_or(0, |body| body.len())
}

/// Sends on from `sent`; gives how far it is now.
fn send(stream: &TcpStream, exchange: &Exchange, sent: usize) -> Result<usize, Errno> {
    let body = exchange.body.as_deref().unwrap_or_default();
    let head_len = exchange.request.len();
    let (bytes, flags) = if sent < head_len {
        let more = if body.is_empty() { SendFlags::empty() } else { SendFlags::MORE };
        (&exchange.request[sent..], more)
    } else {
        (&body[sent - head_len..], SendFlags::empty())
    };
    let count = rustix::io::retry_on_intr(|| rustix::net::send(stream, bytes, flags | SendFlags::NOSIGNAL))?;
    Ok(sent + count)
}

fn recv(stream: &TcpStream, into: &mut [u8], flags: RecvFlags) -> Result<Option<usize>, String> {
    match rustix::io::retry_on_intr(|| rustix::net::recv(stream, &mut *into, flags)) {
        // With TRUNC the first number is what lies in the buffer, the second what was taken.
        Ok((_, taken)) => Ok(Some(taken)),
        Err(Errno::AGAIN) => Ok(None),
        Err(error) => Err(format!("an answer was cut off: {error}")),
    }
}
