//! An answer on its way out: a head, a body, and how far both are sent.
//!
//! Multi-range answers are the same thing several times over: when a head and its span are sent, the next
//! part's head takes the place of the first. So there is one sender for every body.

use std::{
    io::{self, ErrorKind},
    ops::Deref,
    pin::Pin,
    rc::Rc,
    sync::Arc,
};

use bytes::Bytes;
use control::{Epoch, Link};
use oci::{Digest, Problem, Span};

use super::{Core, held::Held};
use crate::{
    cache::Lease,
    fill::{Advance, Pass, Reader},
    http::Lines,
    io::{Buf, File, Io, PAGE_BYTES, Socket, is_damage},
    limits::{BUF_BYTES, POOL_RETRY, READ_SEND_BYTES_MAX},
};

/// A blob that this core has open.
pub struct OpenBlob {
    /// Whose bytes these should be.
    pub digest: Digest,
    /// Its file.
    pub file: File,
    /// Its length.
    pub size_bytes: u64,
    /// The lines of a head that every answer with bytes of it has.
    pub lines: Box<[u8]>,
    /// While the store's names are at this, the file has the blob's name. `None`: the name was changing.
    pub epoch: Option<Epoch>,
    /// Of a cached blob.
    lease: Option<Arc<Lease>>,
}

/// A blob that an answer is sent out of: eviction prefers those that are not.
pub struct Sent(Rc<OpenBlob>);

/// What is sent after the head.
pub enum Body {
    /// Nothing.
    Empty,
    /// These bytes.
    Bytes(Bytes),
    /// A part of a file.
    File(FilePart),
    /// What goes through without being kept, and the parts behind it, if it is one of several.
    Pass(Box<Pass>, Option<Box<FilePart>>),
}

/// Why an answer that has begun ends early.
pub enum Cut {
    /// The disk.
    Unreadable(io::Error),
    /// What is missing of an upstream's blob does not come.
    Unfilled(Problem),
    /// The client, so that what is missing was not fetched for it.
    Left,
}

impl Cut {
    /// Of the answer that has this file. To leave is a client's right.
    pub fn log(&self, blob: &str) {
        match self {
            Cut::Unreadable(error) => {
                tracing::error!(%error, blob, "a blob can't be read; its connection is cut");
            }
            Cut::Unfilled(problem) => {
                let why = problem.message();
                tracing::warn!(
                    why,
                    blob,
                    "the rest of an upstream's blob does not come; its connection is cut"
                );
            }
            Cut::Left => {}
        }
    }
}

/// What is left to send of a part of a file, and what comes after it.
pub struct FilePart {
    /// The file.
    pub blob: Sent,
    /// What is left of this part.
    pub span: Span,
    /// Bytes of it that had to be read, because memory did not have them.
    window: Option<Window>,
    /// The read after that, which is under way while the window is sent.
    ahead: Option<Ahead>,
    /// Both, while the socket is full.
    held: Option<Held<Windows>>,
    /// It had to give them up: memory has to hold what the client does not take.
    is_slow: bool,
    /// The parts after this one.
    rest: Option<Box<Multipart>>,
    /// The fill that the file belongs to, as long as not all of it may be sent.
    filling: Option<Box<Reader>>,
}

/// What one call can send of an answer that has a file in it.
pub(super) enum Gathered {
    /// So many bytes of the buffer. `more`: something follows them at once.
    Bytes { len: usize, more: bool },
    /// Nothing: what comes next is sent from its file.
    Nothing,
    /// Nothing: what comes next is not in memory.
    Cold,
}

struct Window {
    at: u64,
    buf: Buf,
    is_direct: bool,
}

struct Ahead {
    at: u64,
    read: Read,
    is_direct: bool,
}

/// What one client's reads have of the core's buffers.
pub struct Windows {
    window: Option<Window>,
    ahead: Option<Ahead>,
}

/// A read under way.
type Read = Pin<Box<dyn Future<Output = (io::Result<usize>, Buf)>>>;

/// The parts of a `multipart/byteranges` body, RFC 9110 §14.6.
struct Multipart {
    spans: Box<[Span]>,
    next: usize,
    size_bytes: u64,
    boundary: [u8; Multipart::BOUNDARY_LEN],
}

/// An answer. What is in `head` was rendered already, a body's length and all.
pub struct Response {
    /// Its status.
    pub status: u16,
    /// Bytes that go before what is left of the body.
    pub head: Vec<u8>,
    /// How many of those are sent.
    pub head_sent: usize,
    /// What follows them.
    pub body: Body,
    /// Whose bytes these are, if an upstream's.
    pub upstream: Option<u16>,
}

impl Response {
    /// An answer without a body; `lines` has all fields but its length.
    pub fn empty(status: u16, mut lines: Lines) -> Response {
        // RFC 9110 §8.6 forbids a length where there can't be a body.
        if status != 204 && status != 304 {
            lines.number_field("Content-Length", 0);
        }
        Response::new(status, lines, Body::Empty)
    }

    /// An answer with these bytes.
    pub fn bytes(status: u16, mut lines: Lines, body: Bytes) -> Response {
        lines.number_field("Content-Length", body.len() as u64);
        Response::new(status, lines, Body::Bytes(body))
    }

    /// An answer whose head says all about its body.
    pub fn new(status: u16, lines: Lines, body: Body) -> Response {
        Response { status, head: lines.finish(), head_sent: 0, body, upstream: None }
    }

    /// The same, with bytes of an upstream's blob.
    pub fn of_upstream(self, upstream: u16) -> Response {
        Response { upstream: Some(upstream), ..self }
    }

    /// One more field in a head of which nothing was sent yet.
    pub fn add_field(&mut self, name: &str, value: &str) {
        self.head.truncate(self.head.len() - 2);
        self.head.extend_from_slice(format!("{name}: {value}\r\n\r\n").as_bytes());
    }

    /// Takes the body away: what a HEAD is answered. The head still tells its length.
    pub fn drop_body(&mut self) {
        self.body = Body::Empty;
    }

    /// Whether something follows what is left of this head and span.
    pub fn has_more_parts(&self) -> bool {
        matches!(&self.body, Body::File(part) if part.rest.is_some())
    }

    /// How much of the span may be sent now.
    pub fn sendable(&mut self) -> u64 {
        match &mut self.body {
            Body::File(part) => part.sendable(),
            Body::Empty | Body::Bytes(_) | Body::Pass(..) => 0,
        }
    }

    /// Whether the rest of its span is not there yet, or is held back.
    pub fn waits(&mut self) -> bool {
        match &mut self.body {
            Body::File(part) => !part.span.is_empty() && part.sendable() == 0,
            Body::Empty | Body::Bytes(_) | Body::Pass(..) => false,
        }
    }

    /// Moves on to the next part, if there is one.
    pub fn next_part(&mut self) -> bool {
        let part = match &mut self.body {
            Body::File(part) => part,
            Body::Pass(_, Some(part)) => &mut **part,
            Body::Empty | Body::Bytes(_) | Body::Pass(_, None) => return false,
        };
        let Some(rest) = &mut part.rest else { return false };
        self.head.clear();
        self.head_sent = 0;
        // A vector takes all that is written.
        match rest.write_head(rest.next, &mut self.head) {
            Ok(Some(span)) => {
                rest.next += 1;
                part.span = span;
                part.filling.iter_mut().for_each(|reader| reader.turns_to(span));
            }
            Ok(None) | Err(_) => part.rest = None,
        }
        part.window = None;
        if let Body::Pass(pass, next) = &mut self.body
            && let Some(mut part) = next.take()
        {
            if part.rest.is_some() && pass.turns_to(part.span) {
                part.comes_from_elsewhere();
                *next = Some(part);
            } else {
                self.body = Body::File(*part);
            }
        }
        true
    }

    /// The next `count` bytes of the answer are sent.
    pub fn advance(&mut self, mut count: usize) {
        loop {
            let of_head = count.min(self.head.len() - self.head_sent);
            self.head_sent += of_head;
            count -= of_head;
            match &mut self.body {
                Body::Empty => return,
                Body::Bytes(bytes) => return drop(bytes.split_to(count)),
                Body::Pass(pass, _) => return pass.advance(count),
                Body::File(part) => {
                    let of_span = usize::try_from(part.span.len()).unwrap_or(usize::MAX).min(count);
                    part.advance(of_span);
                    count -= of_span;
                }
            }
            if count == 0 || !self.next_part() {
                return;
            }
        }
    }

    /// The file that is being sent did not give its bytes.
    pub fn suspect(&self, core: &Core) {
        if let Body::File(part) = &self.body {
            core.suspect(&part.blob);
        }
    }

    /// The file that is being sent, for an alarm about it.
    pub fn file_name(&self) -> &str {
        match &self.body {
            Body::File(part) => part.blob.file.name(),
            Body::Empty | Body::Bytes(_) | Body::Pass(..) => "none",
        }
    }

    /// Gives back what was read and not sent, or holds it for now where memory has nothing of it: readers who take nothing
    /// must not have all buffers.
    pub fn pause(&mut self, core: &Core) {
        let Body::File(part) = &mut self.body else { return };
        let (window, ahead) = (part.window.take(), part.ahead.take());
        if window.as_ref().is_some_and(|window| window.is_direct)
            || ahead.as_ref().is_some_and(|ahead| ahead.is_direct)
        {
            part.held = Some(core.holders.hold(Windows { window, ahead }));
        }
    }

    /// Takes back what it held.
    pub fn resume(&mut self) {
        let Body::File(part) = &mut self.body else { return };
        let Some(held) = part.held.take() else { return };
        match held.take() {
            Some(Windows { window, ahead }) => (part.window, part.ahead) = (window, ahead),
            None => part.is_slow = true,
        }
    }

    /// Reads what the sender found missing in memory, so that it can go on. A pool that is full is asked again for
    /// as long as a client may stall.
    pub async fn more(&mut self, core: &Core, socket: &Socket) -> Result<(), Cut> {
        let part = match &mut self.body {
            Body::Empty | Body::Bytes(_) => return Ok(()),
            // Who only sends no more can't be told apart, and is let go as well: what is fetched may be very much.
            Body::Pass(pass, _) if pass.is_in_gap() => {
                let more = core.io.unless_hung_up(socket, pass.more()).await;
                return more.ok_or(Cut::Left)?.map_err(Cut::Unfilled);
            }
            Body::Pass(pass, _) => return pass.more().await.map_err(Cut::Unfilled),
            Body::File(part) => part,
        };
        if part.sendable() == 0
            && let Some(reader) = &mut part.filling
        {
            let advance = match core.io.unless_hung_up(socket, reader.advance(part.span)).await {
                Some(advance) => advance,
                None => {
                    reader.leave();
                    reader.advance(part.span).await
                }
            };
            let cut = |problem| if reader.has_left() { Cut::Left } else { Cut::Unfilled(problem) };
            match advance.map_err(cut)? {
                Advance::Look => {}
                Advance::Pass(pass) => {
                    let Body::File(mut part) = std::mem::replace(&mut self.body, Body::Empty) else {
                        return Ok(());
                    };
                    part.comes_from_elsewhere();
                    // It was not counted yet, and comes from elsewhere now.
                    socket.forget_stranded();
                    let part = part.rest.is_some().then(|| Box::new(part));
                    self.body = Body::Pass(pass, part);
                }
            }
            return Ok(());
        }
        core.counters.cold_read();
        // The old window's buffer goes home before another is asked for.
        part.window = None;
        let end = part.span.start + part.sendable();
        // From the start of a page: what is before has to be read anyway.
        let at = part.span.start - part.span.start % PAGE_BYTES;
        let until = core.io.now() + core.limits.send_stall_timeout;
        let mut ahead = part.ahead.take().filter(|ahead| ahead.at == at);
        loop {
            let Ahead { read, is_direct, .. } = match ahead.take() {
                Some(ahead) => ahead,
                None => read_window(core, part, at, end, core.io.buf().await),
            };
            // The disk goes on while this is sent.
            let next = at + BUF_BYTES as u64;
            let spare = core.io.spare_buf().filter(|_| next < end);
            part.ahead = spare.map(|buf| read_window(core, part, next, end, buf));
            let (result, buf) = read.await;
            let error = match result {
                Ok(count) if at + count as u64 <= part.span.start => ErrorKind::UnexpectedEof.into(),
                Ok(_) => {
                    part.window = Some(Window { at, buf, is_direct });
                    return Ok(());
                }
                Err(error) => error,
            };
            if error.kind() != ErrorKind::WouldBlock || core.io.now() >= until {
                if is_damage(&error) {
                    core.suspect(&part.blob);
                }
                return Err(Cut::Unreadable(error));
            }
            // Others may have the buffer meanwhile.
            drop(buf);
            core.io.sleep_until(core.io.now() + POOL_RETRY).await;
        }
    }
}

/// Starts to read a window at `at`, where a page begins, of a span that ends at `end`. A whole one takes memory only when
/// it is wanted again: most of what memory does not have is for one client.
fn read_window(core: &Core, part: &FilePart, at: u64, end: u64, buf: Buf) -> Ahead {
    let blob = &part.blob;
    let len = usize::try_from(end - at).unwrap_or(BUF_BYTES).min(BUF_BYTES);
    let is_direct =
        len == BUF_BYTES && !part.is_slow && !core.store.ghosts().is_wanted_again(&blob.digest, at);
    let read: Read = if is_direct {
        Box::pin(core.io.read_direct(&blob.file, at, buf))
    } else {
        Box::pin(core.io.read(&blob.file, at, len, buf))
    };
    Ahead { at, read, is_direct }
}

impl OpenBlob {
    /// Whether its length is what the link tells, if that tells any.
    pub fn has_the_size_of(&self, link: &Link) -> bool {
        match link {
            Link::Here { size_bytes } | Link::Upstream { size_bytes: Some(size_bytes), .. } => {
                *size_bytes == self.size_bytes
            }
            Link::Upstream { size_bytes: None, .. } => true,
        }
    }

    /// The file of a blob of that digest and length; `epoch` as in the field.
    pub fn new(file: File, digest: &Digest, size_bytes: u64, epoch: Option<Epoch>) -> OpenBlob {
        let lease = file.kept();
        OpenBlob { digest: *digest, file, size_bytes, lines: OpenBlob::lines_of(digest), epoch, lease }
    }

    /// The lines of a head that every answer about this blob has.
    pub fn lines_of(digest: &Digest) -> Box<[u8]> {
        let mut lines = Lines::default();
        lines.digest_field("Docker-Content-Digest", digest, false).digest_field("ETag", digest, true);
        lines.fixed("Accept-Ranges: bytes\r\nX-Content-Type-Options: nosniff\r\n");
        lines.into_bytes().into_boxed_slice()
    }
}

impl Sent {
    fn of(blob: Rc<OpenBlob>) -> Sent {
        blob.lease.iter().for_each(|lease| lease.begin_read());
        Sent(blob)
    }
}

impl Drop for Sent {
    fn drop(&mut self) {
        self.0.lease.iter().for_each(|lease| lease.end_read());
    }
}

impl Deref for Sent {
    type Target = OpenBlob;

    fn deref(&self) -> &OpenBlob {
        &self.0
    }
}

impl FilePart {
    /// All that `span` says.
    pub fn new(blob: Rc<OpenBlob>, span: Span) -> FilePart {
        FilePart {
            blob: Sent::of(blob),
            span,
            window: None,
            ahead: None,
            held: None,
            is_slow: false,
            rest: None,
            filling: None,
        }
    }

    /// The same of a file that is being filled.
    pub fn of_fill(self, reader: Option<Reader>) -> FilePart {
        FilePart { filling: reader.map(Box::new), ..self }
    }

    /// What is left of its span is no longer this one's to send.
    fn comes_from_elsewhere(&mut self) {
        self.span.start = self.span.end;
    }

    /// How many bytes from the start of the span may be sent now. 0 of a span that is not empty: wait for more.
    pub fn sendable(&mut self) -> u64 {
        let Some(reader) = &mut self.filling else { return self.span.len() };
        match reader.end(self.span) {
            Some(end) => end.clamp(self.span.start, self.span.end) - self.span.start,
            None => {
                self.filling = None;
                self.span.len()
            }
        }
    }

    /// Several spans. Also gives the length of the whole body and its boundary.
    pub fn several(blob: Rc<OpenBlob>, spans: Box<[Span]>, random: [u64; 2]) -> (FilePart, u64, String) {
        let mut boundary = [0; Multipart::BOUNDARY_LEN];
        boundary.copy_from_slice(format!("{:016x}{:016x}", random[0], random[1]).as_bytes());
        let parts = Multipart { spans, next: 0, size_bytes: blob.size_bytes, boundary };
        let length = parts.length();
        let name = String::from_utf8_lossy(&parts.boundary).into_owned();
        let nothing = Span { start: 0, end: 0 };
        (FilePart { rest: Some(Box::new(parts)), ..FilePart::new(blob, nothing) }, length, name)
    }

    /// What was read of the span's start, if anything.
    pub fn in_window(&self) -> Option<&[u8]> {
        let window = self.window.as_ref()?;
        let skip = usize::try_from(self.span.start.checked_sub(window.at)?).ok()?;
        let bytes = window.buf.filled().get(skip..).filter(|bytes| !bytes.is_empty())?;
        let left = usize::try_from(self.span.len()).unwrap_or(usize::MAX);
        Some(&bytes[..bytes.len().min(left)])
    }

    /// `count` bytes of the span are sent.
    fn advance(&mut self, count: usize) {
        self.span.start += count as u64;
        if self.in_window().is_none() {
            self.window = None;
        }
    }

    /// Puts what comes next into `buffer`: what is left of the head, parts that are read and sent, and the heads
    /// between them. It ends before what is sent from its file, what is not in memory, and what does not fit; and
    /// behind `sendable` bytes of the span, if no more of it may be sent now.
    pub(super) fn gather(
        &self,
        io: &Io,
        head: &[u8],
        sendable: u64,
        buffer: &mut [u8],
    ) -> io::Result<Gathered> {
        let mut len = head.len().min(buffer.len());
        buffer[..len].copy_from_slice(&head[..len]);
        let mut span = Span { start: self.span.start, end: self.span.start + sendable };
        let is_all = span.end == self.span.end;
        let mut next = self.rest.as_ref().map_or(0, |rest| rest.next);
        let mut is_first = true;
        while len >= head.len() {
            if !span.is_empty() {
                let wanted = usize::try_from(span.len()).unwrap_or(usize::MAX);
                if wanted > READ_SEND_BYTES_MAX {
                    break;
                }
                let Some(into) = buffer.get_mut(len..len + wanted) else { break };
                let count = match io.read_now(&self.blob.file, span.start, into)? {
                    None if is_first => return Ok(Gathered::Cold),
                    None => break,
                    Some(0) => return Err(ErrorKind::UnexpectedEof.into()),
                    Some(count) => count,
                };
                len += count;
                if (count as u64) < span.len() {
                    break;
                }
            }
            // What comes after it may have to wait as well.
            if !is_all || self.filling.is_some() {
                return Ok(Gathered::Bytes { len, more: false });
            }
            let Some(rest) = &self.rest else { return Ok(Gathered::Bytes { len, more: false }) };
            let mut room = &mut buffer[len..];
            let Ok(head_span) = rest.write_head(next, &mut room) else { break };
            let left = room.len();
            len = buffer.len() - left;
            let Some(head_span) = head_span else { return Ok(Gathered::Bytes { len, more: false }) };
            (span, next, is_first) = (head_span, next + 1, false);
        }
        Ok(if len == 0 { Gathered::Nothing } else { Gathered::Bytes { len, more: true } })
    }
}

impl Multipart {
    const BOUNDARY_LEN: usize = 32;

    /// Writes the head of the part with this index and gives its span; after the last the body's end, and `None`.
    fn write_head(&self, index: usize, out: &mut impl io::Write) -> io::Result<Option<Span>> {
        let span = self.spans.get(index).copied();
        out.write_all(if index > 0 { b"\r\n--" } else { b"--" })?;
        out.write_all(&self.boundary)?;
        match span {
            Some(Span { start, end }) => write!(
                out,
                "\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes {start}-{}/{}\r\n\r\n",
                end - 1,
                self.size_bytes
            )?,
            None => out.write_all(b"--\r\n")?,
        }
        Ok(span)
    }

    fn length(&self) -> u64 {
        let mut heads = Vec::new();
        for index in 0..=self.spans.len() {
            // A vector takes all that is written.
            let _ = self.write_head(index, &mut heads);
        }
        heads.len() as u64 + self.spans.iter().map(|span| span.len()).sum::<u64>()
    }
}

impl Core {
    /// The lines that every answer starts with.
    pub fn lines(&self, status: u16) -> Lines {
        let mut lines = Lines::new(self.spare_head(), status);
        lines.fixed("Date: ").rendered(self.date().as_bytes()).fixed("\r\n");
        lines.fixed("Docker-Distribution-Api-Version: registry/2.0\r\n");
        lines
    }

    /// The lines of an answer about stored bytes with this digest.
    pub fn digest_lines(&self, status: u16, digest: &Digest) -> Lines {
        let mut lines = self.lines(status);
        lines.digest_field("Docker-Content-Digest", digest, false);
        lines
    }
}
