//! The body of a request, as it arrives.

use oci::Problem;

use super::{Connection, Core, unread::Unread};
use crate::{
    http::{BodyLength, Chunked},
    io::{Buf, Instant},
    limits::{BUF_BYTES, DISCARD_BYTES_MAX, MANIFEST_BYTES_MAX},
};

/// What is still to come of a request's body.
pub struct Incoming {
    rest: Rest,
    expects_continue: bool,
    began: Instant,
    received_bytes: u64,
    discarded: usize,
}

enum Rest {
    Done,
    Known(u64),
    Chunked(Chunked),
    /// Bytes that belong to no request.
    UntilClose,
}

/// Why a body is not whole.
#[derive(Debug)]
pub enum BodyEnd {
    /// The client has left, or is too slow.
    Gone,
    /// It can't be understood, or is too much.
    Refused(Problem),
}

impl Incoming {
    /// No body.
    pub(super) fn none() -> Incoming {
        Incoming {
            rest: Rest::Done,
            expects_continue: false,
            began: Instant::now(),
            received_bytes: 0,
            discarded: 0,
        }
    }

    /// A body of which nothing was taken yet.
    pub(super) fn new(length: BodyLength, expects_continue: bool, now: Instant) -> Incoming {
        let rest = match length {
            BodyLength::None | BodyLength::Known(0) => Rest::Done,
            BodyLength::Known(length) => Rest::Known(length),
            BodyLength::Chunked => Rest::Chunked(Chunked::default()),
        };
        Incoming { rest, expects_continue, began: now, received_bytes: 0, discarded: 0 }
    }

    /// Bytes that nobody will look at.
    pub(super) fn until_close() -> Incoming {
        Incoming { rest: Rest::UntilClose, ..Incoming::none() }
    }

    /// Whether all of it was taken.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.rest, Rest::Done)
    }

    /// Bytes of it that were taken.
    pub(super) fn received_bytes(&self) -> u64 {
        self.received_bytes
    }

    /// Drops what is here of a body that nobody wanted.
    pub(super) fn discard(&mut self, unread: &mut Unread) {
        let here = unread.len();
        match &mut self.rest {
            Rest::Done | Rest::UntilClose => return,
            Rest::Known(left) => {
                let count = usize::try_from(*left).unwrap_or(usize::MAX).min(here);
                unread.take(count);
                *left -= count as u64;
                if *left == 0 {
                    self.rest = Rest::Done;
                }
            }
            Rest::Chunked(decoder) => match decoder.decode(unread.as_mut()) {
                Ok(decoded) => {
                    unread.take(decoded.consumed);
                    if decoder.is_done() {
                        self.rest = Rest::Done;
                    }
                }
                Err(_) => self.rest = Rest::UntilClose,
            },
        }
        self.discarded += here - unread.len();
    }

    /// Whether the rest of a body that nobody wanted is worth reading, for what may come after it.
    pub(super) fn is_worth_discarding(&self) -> bool {
        match self.rest {
            Rest::Done => true,
            // A client that was not told to go on may leave its body out or send it: nobody can tell.
            _ if self.expects_continue => false,
            Rest::Known(left) => left <= DISCARD_BYTES_MAX as u64,
            Rest::Chunked(_) => self.discarded <= DISCARD_BYTES_MAX,
            Rest::UntilClose => false,
        }
    }
}

impl Connection {
    /// Bytes of the body that are still to come, where the client has said so.
    pub fn declared(&self) -> Option<u64> {
        match self.incoming.rest {
            Rest::Done => Some(0),
            Rest::Known(left) => Some(left),
            Rest::Chunked(_) | Rest::UntilClose => None,
        }
    }

    /// Waits for more of the body. `false`: that was all. Sends the 100 that the client waits for.
    pub async fn body_ready(&mut self, core: &Core) -> Result<bool, BodyEnd> {
        if self.incoming.is_done() {
            return Ok(false);
        }
        if !self.unread.is_empty() {
            return Ok(true);
        }
        if std::mem::take(&mut self.incoming.expects_continue) {
            self.send_continue(core).await?;
        }
        let now = core.io.now();
        let took = now.since(self.incoming.began);
        if took > core.limits.body_rate_grace
            && self.incoming.received_bytes < took.as_secs() * core.limits.body_rate_min_bytes
        {
            return Err(BodyEnd::Gone);
        }
        let until = now + core.limits.body_stall_timeout;
        core.io.readable(&self.socket, until).await.map_err(|_stalled_or_cut| BodyEnd::Gone)?;
        Ok(true)
    }

    /// Takes what has arrived of the body, as much as fits into `buf`; maybe nothing.
    pub fn take_body(&mut self, core: &Core, buf: &mut Buf) -> Result<(), BodyEnd> {
        // Coding counts as well: a body of long extensions and no payload must not keep the core.
        let mut wire_bytes = 0;
        while wire_bytes < BUF_BYTES && !buf.spare().is_empty() && !self.incoming.is_done() {
            let limit = match &self.incoming.rest {
                Rest::Known(left) => usize::try_from(*left).unwrap_or(usize::MAX),
                Rest::Done | Rest::Chunked(_) | Rest::UntilClose => usize::MAX,
            }
            .min(buf.spare().len());
            let count = if self.unread.is_empty() {
                match core.io.recv(&self.socket, &mut buf.spare()[..limit]) {
                    Ok(Some(count)) if count > 0 => {
                        core.counters.received(count as u64);
                        count
                    }
                    Ok(None) => return Ok(()),
                    // What came before it counts; the next call says it again.
                    Ok(Some(_)) | Err(_) if !buf.filled().is_empty() => return Ok(()),
                    Ok(Some(_)) | Err(_) => return Err(BodyEnd::Gone),
                }
            } else {
                let count = limit.min(self.unread.len());
                buf.spare()[..count].copy_from_slice(&self.unread[..count]);
                self.unread.take(count);
                count
            };
            self.take(buf, count)?;
            wire_bytes += count;
        }
        Ok(())
    }

    /// Makes room for a body that is collected whole; gives what is to be released after it, in bytes.
    pub fn reserve_body(&self, core: &Core, too_much: Problem) -> Result<usize, Problem> {
        let bytes = match self.declared() {
            Some(declared) if declared > MANIFEST_BYTES_MAX as u64 => return Err(too_much),
            Some(declared) => declared as usize,
            None => MANIFEST_BYTES_MAX,
        };
        core.reserve(bytes)?;
        Ok(bytes)
    }

    /// Collects a whole body of at most `max_bytes`; `too_much` is the answer to more.
    pub async fn collect(
        &mut self,
        core: &Core,
        max_bytes: usize,
        too_much: Problem,
    ) -> Result<Vec<u8>, BodyEnd> {
        let mut whole = Vec::new();
        while self.body_ready(core).await? {
            let mut buf = core.io.buf().await;
            self.take_body(core, &mut buf)?;
            if whole.len() + buf.filled().len() > max_bytes {
                return Err(BodyEnd::Refused(too_much));
            }
            whole.extend_from_slice(buf.filled());
            if buf.filled().is_empty() {
                core.io.pause().await;
            }
        }
        Ok(whole)
    }

    /// `count` bytes at the start of the spare part of `buf` are of the body, coding and all.
    fn take(&mut self, buf: &mut Buf, count: usize) -> Result<(), BodyEnd> {
        match &mut self.incoming.rest {
            Rest::Known(left) => {
                *left -= count as u64;
                self.incoming.received_bytes += count as u64;
                buf.fill(count);
                if *left == 0 {
                    self.incoming.rest = Rest::Done;
                }
            }
            Rest::Chunked(decoder) => {
                let bytes = &mut buf.spare()[..count];
                let decoded = match decoder.decode(bytes) {
                    Ok(decoded) => decoded,
                    Err(problem) => {
                        // Where this body ends, and whether anything follows it, is unknown from here on.
                        self.incoming.rest = Rest::UntilClose;
                        return Err(BodyEnd::Refused(problem));
                    }
                };
                if decoded.consumed < count {
                    self.unread.put_back(&bytes[decoded.consumed..]);
                }
                if decoder.is_done() {
                    self.incoming.rest = Rest::Done;
                }
                self.incoming.received_bytes += decoded.payload as u64;
                buf.fill(decoded.payload);
            }
            Rest::Done | Rest::UntilClose => {}
        }
        Ok(())
    }

    async fn send_continue(&self, core: &Core) -> Result<(), BodyEnd> {
        let mut left: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
        while !left.is_empty() {
            match core.io.send(&self.socket, [left, &[]], false) {
                Ok(Some(count)) => left = &left[count..],
                Ok(None) => {
                    let until = core.io.now() + core.limits.send_stall_timeout;
                    core.io.writable(&self.socket, until).await.map_err(|_| BodyEnd::Gone)?;
                }
                Err(_) => return Err(BodyEnd::Gone),
            }
        }
        Ok(())
    }
}
