//! A connection: one task, one request after the other.
//!
//! `step` does all that can be done without waiting; what can't is straight-line code in `api`, which gives
//! a [`Response`] and never touches the socket but to read a body.

use std::{io, net::SocketAddr, rc::Rc};

use control::Caller;
use oci::{Asked, Endpoint, MediaType, Method, Problem, RangeHeader};

use super::{Body, Core, Response, body::Incoming, response::Gathered, unread::Unread};
use crate::{
    access::AccessRecord,
    api,
    http::{BodyLength, Head, Parsed, parse},
    io::{Instant, Sent, Socket, wall_micros},
    limits::{DISCARD_TIME, LINGER_BYTES_MAX, LINGER_TIME, REQUEST_TURN_BYTES, STALL, TURN_BYTES},
    metrics::NO_ENDPOINT,
};

/// A client's connection and what it is at.
pub struct Connection {
    pub(super) socket: Socket,
    peer: SocketAddr,
    /// Bytes that came and were not looked at yet.
    pub(super) unread: Unread,
    pub(super) incoming: Incoming,
    response: Option<Response>,
    exchange: Option<Box<Exchange>>,
    head_began: Option<Instant>,
    served: u32,
    keep_alive: bool,
    is_head: bool,
    /// Until when the rest of a body that nobody wanted is waited for.
    discard_until: Option<Instant>,
    /// Whether the client may have sent more than was read when this ends.
    lingers: bool,
}

/// A request that can't be answered at once, on its own feet.
pub struct Request {
    /// What is asked.
    pub endpoint: Endpoint,
    /// The `ns` by which it is asked, if that is an upstream's.
    pub ns: Option<Box<str>>,
    /// With which method.
    pub method: Method,
    /// By which target.
    pub target: String,
    /// `Accept`, of a manifest that an upstream may have to be asked for.
    pub accept: Vec<MediaType>,
    /// `Range`.
    pub range: RangeHeader,
    /// `If-Range`.
    pub if_range: Option<Vec<u8>>,
    /// `If-Match`.
    pub if_match: Option<Vec<u8>>,
    /// `If-None-Match`.
    pub if_none_match: Option<Vec<u8>>,
    /// `Content-Type`.
    pub content_type: Option<Vec<u8>>,
    /// `Content-Range`.
    pub content_range: Option<Vec<u8>>,
    /// How its body is delimited.
    pub body: BodyLength,
    /// Who asks, where that is looked at.
    pub caller: Option<Caller>,
}

/// What is kept of a request until its answer is sent, for the counters and the access log. Boxed, so that an idle
/// connection is small; the core keeps the boxes.
pub(super) struct Exchange {
    began: Instant,
    label: &'static str,
    /// `None`: there is no log.
    record: Option<AccessRecord>,
    sent_bytes: u64,
    /// Whose blob the answer is of, and how long its head is.
    served: Option<(u16, usize)>,
}

enum Step {
    Read(Instant),
    Write,
    Pause,
    Answer(Box<Request>),
    More,
    Close,
}

enum Progress {
    Done,
    Full,
    Cold,
    Turn,
}

enum Next {
    Respond(Response),
    Answer(Box<Request>),
    Wait(Instant),
    Close,
}

/// Serves a connection until either side ends it.
pub async fn connection(core: Rc<Core>, mut conn: Connection) {
    loop {
        match conn.step(&core) {
            Step::Read(until) => match core.io.readable(&conn.socket, until).await {
                Ok(()) => {}
                Err(_) if conn.head_began.is_some() => conn.refuse(&core, &Problem::RequestTimeout),
                Err(_) if conn.incoming.is_done() => return,
                // The rest of a body that nobody wanted does not come.
                Err(_) => return Box::pin(conn.linger(&core)).await,
            },
            Step::Write => {
                let stall = core.limits.send_stall_timeout;
                if core.io.writable_unless_stalled(&conn.socket, stall).await.is_err() {
                    conn.finish(&core, 0);
                    return;
                }
            }
            Step::Pause => core.io.pause().await,
            Step::Answer(request) => match Box::pin(api::answer(&core, &mut conn, *request)).await {
                Some(response) => conn.respond(&core, response),
                // The client left in the middle of its body.
                None => {
                    conn.finish(&core, 499);
                    return;
                }
            },
            Step::More => {
                let Connection { socket, response, .. } = &mut conn;
                if let Some(response) = response
                    && let Err(cut) = Box::pin(response.more(&core, socket)).await
                {
                    cut.log(response.file_name());
                    conn.finish(&core, 0);
                    return;
                }
                core.io.queue().await;
            }
            Step::Close => return Box::pin(conn.linger(&core)).await,
        }
    }
}

impl Connection {
    /// A fresh connection from `peer`.
    pub fn new(socket: Socket, peer: SocketAddr) -> Connection {
        Connection {
            socket,
            peer,
            unread: Unread::default(),
            incoming: Incoming::none(),
            response: None,
            exchange: None,
            head_began: None,
            served: 0,
            keep_alive: true,
            is_head: false,
            discard_until: None,
            lingers: false,
        }
    }

    /// Waits for something else, for a client that is there. `None`: it has left, or looks like it.
    pub async fn unless_left<T>(&self, core: &Core, wait: impl Future<Output = T>) -> Option<T> {
        core.io.unless_hung_up(&self.socket, wait).await
    }

    fn step(&mut self, core: &Rc<Core>) -> Step {
        let began = core.io.now();
        core.turn_began.set(began);
        let step = self.advance(core, began);
        // After an answer that was sent whole, nothing but a look at the socket has happened.
        let finished = core.last_finish.get();
        let ended = match step {
            Step::Read(_) if finished > began => finished,
            _ => core.io.now(),
        };
        if ended.since(began) > STALL {
            core.counters.stall();
        }
        step
    }

    fn advance(&mut self, core: &Rc<Core>, now: Instant) -> Step {
        let mut turn = 0;
        loop {
            if let Some(mut response) = self.response.take() {
                response.resume();
                match self.send(core, &mut response, &mut turn) {
                    Ok(Progress::Done) => {
                        turn += REQUEST_TURN_BYTES;
                        self.finish(core, response.status);
                        core.keep_head(response.head);
                        if !self.keep_alive {
                            return Step::Close;
                        }
                        continue;
                    }
                    Ok(wait) => {
                        if matches!(wait, Progress::Full) {
                            response.pause(core);
                        }
                        self.response = Some(response);
                        return match wait {
                            Progress::Full => Step::Write,
                            Progress::Cold => Step::More,
                            Progress::Turn | Progress::Done => Step::Pause,
                        };
                    }
                    // The client is gone, which is its right; or its blob is, which was told already.
                    Err(error) => {
                        if error.kind() == io::ErrorKind::UnexpectedEof {
                            response.suspect(core);
                            let blob = response.file_name();
                            tracing::error!(blob, "a blob's file ends early; its connection is cut");
                        }
                        self.finish(core, response.status);
                        self.incoming = Incoming::none();
                        let _ = self.end(false);
                        return Step::Close;
                    }
                }
            }
            if turn >= TURN_BYTES {
                return Step::Pause;
            }
            match self.next(core, now) {
                Next::Respond(response) => self.respond(core, response),
                Next::Answer(request) => return Step::Answer(request),
                Next::Wait(until) => return Step::Read(until),
                Next::Close => return Step::Close,
            }
        }
    }

    /// The next request, from what is unread or from the socket.
    fn next(&mut self, core: &Rc<Core>, now: Instant) -> Next {
        while !self.incoming.is_done() {
            if self.unread.is_empty() {
                let until = *self.discard_until.get_or_insert(now + DISCARD_TIME);
                let mut recv = core.recv.borrow_mut();
                match core.io.recv(&self.socket, &mut recv) {
                    Ok(Some(count)) if count > 0 => {
                        core.counters.received(count as u64);
                        self.unread.extend(&recv[..count]);
                    }
                    Ok(None) if now < until => return Next::Wait(until),
                    Ok(None) => return self.end(true),
                    Ok(Some(_)) | Err(_) => return self.end(false),
                }
            }
            self.incoming.discard(&mut self.unread);
            if !self.incoming.is_worth_discarding() {
                return self.end(true);
            }
        }
        if !self.unread.is_empty() && self.head_began.is_none() {
            let mut unread = std::mem::take(&mut self.unread);
            let (taken, next) = self.take_head(core, &unread, now);
            unread.take(taken);
            self.unread = unread;
            if let Some(next) = next {
                return next;
            }
        }
        loop {
            let mut recv = core.recv.borrow_mut();
            let count = match core.io.recv(&self.socket, &mut recv) {
                Ok(Some(count)) if count > 0 => count,
                Ok(None) => return self.wait_for_head(core, now),
                Ok(Some(_)) | Err(_) => return self.end(false),
            };
            core.counters.received(count as u64);
            let next = if self.unread.is_empty() {
                let (taken, next) = self.take_head(core, &recv[..count], now);
                if taken < count {
                    self.unread.extend(&recv[taken..count]);
                }
                next
            } else {
                let mut unread = std::mem::take(&mut self.unread);
                unread.extend(&recv[..count]);
                let (taken, next) = self.take_head(core, &unread, now);
                unread.take(taken);
                self.unread = unread;
                next
            };
            if let Some(next) = next {
                return next;
            }
        }
    }

    /// No further request is read. `lingers`: the client may be sending, so a plain close would reset it.
    fn end(&mut self, lingers: bool) -> Next {
        self.keep_alive = false;
        self.lingers = lingers;
        Next::Close
    }

    fn wait_for_head(&mut self, core: &Core, now: Instant) -> Next {
        match self.head_began {
            Some(began) => Next::Wait(began + core.limits.header_timeout),
            None if core.is_draining() => self.end(false),
            None => Next::Wait(now + core.limits.idle_timeout),
        }
    }

    /// Parses the head at the start of `bytes`. Gives how many bytes are done with, and what comes of it;
    /// `None`: the head is not whole.
    fn take_head(&mut self, core: &Rc<Core>, bytes: &[u8], now: Instant) -> (usize, Option<Next>) {
        match parse(bytes) {
            Parsed::Incomplete => {
                self.head_began.get_or_insert(now);
                (0, None)
            }
            Parsed::Head(head) => {
                self.head_began = None;
                (head.len, Some(self.dispatch(core, &head, now)))
            }
            Parsed::Bad(problem) => {
                self.refuse(core, &problem);
                (bytes.len(), self.response.take().map(Next::Respond))
            }
        }
    }

    fn dispatch(&mut self, core: &Rc<Core>, head: &Head<'_>, now: Instant) -> Next {
        self.served += 1;
        self.keep_alive = head.keep_alive && self.served < core.limits.requests_per_connection;
        self.is_head = head.method == Method::Head;
        self.discard_until = None;
        // Who has asked for the end sends nothing after it.
        self.lingers = head.keep_alive;
        self.incoming = Incoming::new(head.body, head.expects_continue, now);
        let asked = if head.target.starts_with(b"/") {
            core.namespaces.parse(head.method, head.target)
        } else {
            Err(Problem::MethodNotAllowed { allow: "GET, HEAD, POST, PUT, PATCH, DELETE" })
        };
        let label = asked.as_ref().map_or(NO_ENDPOINT, |asked| asked.endpoint.label());
        let user_agent = head.user_agent.unwrap_or_default();
        self.begin(core, now, label, head.method, head.target, user_agent);
        let Asked { endpoint, namespace } = match asked {
            Ok(asked) => asked,
            Err(problem) => return Next::Respond(api::not_understood(core, &problem, head.target)),
        };
        if let Some(mut response) = api::at_once(core, &endpoint, head) {
            if let Some(namespace) = namespace {
                response.add_field("OCI-Namespace", &namespace.ns);
            }
            return Next::Respond(response);
        }
        let may_be_elsewhere = core.namespaces.iter().next().is_some();
        let accept = match endpoint {
            Endpoint::GetManifest { .. } if may_be_elsewhere => head.accept(),
            _ => Vec::new(),
        };
        Next::Answer(Box::new(Request {
            endpoint,
            accept,
            ns: namespace.map(|namespace| namespace.ns.clone()),
            method: head.method,
            target: String::from_utf8_lossy(head.target).into_owned(),
            range: head.range.map_or(RangeHeader::Whole, RangeHeader::parse),
            if_range: head.if_range.map(<[u8]>::to_vec),
            if_match: head.if_match.as_deref().map(<[u8]>::to_vec),
            if_none_match: head.if_none_match.as_deref().map(<[u8]>::to_vec),
            content_type: head.content_type.map(<[u8]>::to_vec),
            content_range: head.content_range.map(<[u8]>::to_vec),
            body: head.body,
            caller: head
                .target
                .starts_with(api::OPERATORS)
                .then(|| Caller { peer: self.peer, fields: head.fields() }),
        }))
    }

    fn begin(
        &mut self,
        core: &Core,
        began: Instant,
        label: &'static str,
        method: Method,
        target: &[u8],
        user_agent: &[u8],
    ) {
        let record = || AccessRecord::new(wall_micros(), core.index, self.peer, method, target, user_agent);
        let record = core.access.borrow().is_on().then(record);
        let exchange = Exchange { began, label, record, sent_bytes: 0, served: None };
        self.exchange = Some(core.keep_exchange(exchange));
    }

    /// Answers what is no request, or comes too slowly, and ends the connection.
    fn refuse(&mut self, core: &Core, problem: &Problem) {
        core.counters.malformed();
        self.head_began = None;
        self.begin(core, core.io.now(), NO_ENDPOINT, Method::Other, b"", b"");
        self.keep_alive = false;
        self.is_head = false;
        self.lingers = true;
        // Whatever else comes belongs to nothing: it is read away while the answer travels.
        self.incoming = Incoming::until_close();
        self.respond(core, api::problem(core, problem));
    }

    /// Makes `response` the one that is sent.
    fn respond(&mut self, core: &Core, mut response: Response) {
        self.incoming.discard(&mut self.unread);
        self.keep_alive &= self.incoming.is_worth_discarding() && !core.is_draining();
        if !self.keep_alive {
            response.add_field("Connection", "close");
        }
        if self.is_head {
            response.drop_body();
        }
        if let (Some(upstream), Some(exchange)) = (response.upstream, &mut self.exchange) {
            exchange.served = Some((upstream, response.head.len()));
        }
        self.response = Some(response);
    }

    fn send(&mut self, core: &Core, response: &mut Response, turn: &mut usize) -> io::Result<Progress> {
        loop {
            if *turn >= TURN_BYTES {
                return Ok(Progress::Turn);
            }
            let sendable = response.sendable();
            let waits = sendable == 0 && response.waits();
            let more_parts = response.has_more_parts();
            let head = &response.head[response.head_sent..];
            let sent = match &mut response.body {
                Body::Empty if head.is_empty() => return Ok(Progress::Done),
                Body::Empty => core.io.send(&self.socket, [head, &[]], false)?,
                Body::Bytes(bytes) if head.is_empty() && bytes.is_empty() => return Ok(Progress::Done),
                Body::Bytes(bytes) if head.is_empty() => core.io.send(&self.socket, [bytes, &[]], false)?,
                Body::Bytes(bytes) => core.io.send(&self.socket, [head, bytes], false)?,
                Body::Pass(pass, _) if head.is_empty() && pass.is_over() => {
                    if response.next_part() {
                        continue;
                    }
                    return Ok(Progress::Done);
                }
                Body::Pass(pass, _) => match pass.sendable() {
                    Some(bytes) => core.io.send(&self.socket, [head, &bytes], false)?,
                    None if head.is_empty() => return Ok(Progress::Cold),
                    None => core.io.send(&self.socket, [head, &[]], false)?,
                },
                Body::File(part) if head.is_empty() && part.span.is_empty() => {
                    if response.next_part() {
                        continue;
                    }
                    return Ok(Progress::Done);
                }
                // The rest of it is not there yet, or is held back.
                Body::File(_) if waits && head.is_empty() => return Ok(Progress::Cold),
                Body::File(_) if waits => core.io.send(&self.socket, [head, &[]], false)?,
                Body::File(part) => {
                    let whole = usize::try_from(sendable).unwrap_or(usize::MAX);
                    let more_parts = more_parts && sendable == part.span.len();
                    if let Some(window) = part.in_window() {
                        let more = more_parts || window.len() < whole;
                        if head.is_empty() {
                            core.io.send(&self.socket, [window, &[]], more)?
                        } else {
                            core.io.send(&self.socket, [head, window], more)?
                        }
                    } else {
                        let mut buffer = core.gathered.borrow_mut();
                        let gathered = if self.socket.is_stranded() {
                            Gathered::Nothing
                        } else {
                            part.gather(&core.io, head, sendable, &mut buffer)?
                        };
                        match gathered {
                            Gathered::Bytes { len, more } => {
                                core.io.send(&self.socket, [&buffer[..len], &[]], more)?
                            }
                            Gathered::Nothing => {
                                core.io.expect(&self.socket, part.span.len())?;
                                let len = whole.min(TURN_BYTES);
                                let more = more_parts || len < whole;
                                match core.io.send_file(
                                    &self.socket,
                                    &part.blob.file,
                                    part.blob.size_bytes,
                                    part.span.start,
                                    len,
                                    more,
                                )? {
                                    Sent::Bytes(count) => Some(count),
                                    Sent::SocketFull => None,
                                    Sent::Cold => return Ok(Progress::Cold),
                                }
                            }
                            Gathered::Cold => return Ok(Progress::Cold),
                        }
                    }
                }
            };
            let Some(count) = sent else { return Ok(Progress::Full) };
            *turn += count;
            if let Some(exchange) = &mut self.exchange {
                exchange.sent_bytes += count as u64;
            }
            response.advance(count);
        }
    }

    /// Counts a request whose answer is sent, or can't be any more (status 0 or 499).
    fn finish(&mut self, core: &Core, status: u16) {
        let Some(mut exchange) = self.exchange.take() else { return };
        let now = core.io.now();
        core.last_finish.set(now);
        let took = now.since(exchange.began);
        core.counters.request(exchange.label, status, took, exchange.sent_bytes);
        if let Some((upstream, head_bytes)) = exchange.served {
            core.fills.served(upstream, exchange.sent_bytes.saturating_sub(head_bytes as u64));
        }
        if let Some(mut record) = exchange.record.take() {
            record.end(status, exchange.sent_bytes, self.incoming.received_bytes(), took);
            if !core.access.borrow_mut().record(record) {
                core.counters.access_dropped();
            }
        }
        core.spare_exchange(exchange);
    }

    /// Ends the connection so that the client can read what it was told: a close with bytes unread would
    /// reset it, and with that what it has not read yet is lost (RFC 9112 §9.6).
    async fn linger(&mut self, core: &Core) {
        let may_send = self.lingers || !self.incoming.is_done();
        if !may_send || core.io.finish_sending(&self.socket).is_err() {
            return;
        }
        let until = core.io.now() + LINGER_TIME;
        let mut turn = 0;
        let mut left = LINGER_BYTES_MAX;
        loop {
            let received = core.io.recv(&self.socket, &mut core.recv.borrow_mut());
            match received {
                Ok(None) => {
                    if core.io.readable(&self.socket, until).await.is_err() {
                        return;
                    }
                }
                Ok(Some(count)) if count > 0 && count <= left && core.io.now() < until => {
                    left -= count;
                    turn += count;
                    if turn >= TURN_BYTES {
                        turn = 0;
                        core.io.pause().await;
                    }
                }
                Ok(Some(_)) | Err(_) => return,
            }
        }
    }
}
