//! A blocking client for scenarios of which each client is a thread: it may read slowly, or leave in the middle.
//!
//! Owns: one connection, kept for the next request. What becomes of a body is said in the engine's words.

use std::{
    io::Write,
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use oci::{Algorithm, Hasher};
use rustix::{
    io::{Errno, retry_on_intr},
    net::{RecvFlags, sockopt},
};

use crate::{
    load::Reading,
    registry::Registry,
    wire::{AnswerHead, Chunks, Framing, Origin, parse_head},
};

/// How long a connection may stand still.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The most that one receive takes.
const PIECE_BYTES: usize = 256 * 1024;
/// A slow reader's receive buffer: with more the kernel would read quickly in its place.
const SLOW_BUFFER_BYTES: usize = 16 * 1024;
/// How often a slow reader reads.
const SLOW_PERIOD: Duration = Duration::from_millis(20);

/// A client with a connection of its own.
pub struct Client {
    /// What every request says.
    pub origin: Origin,
    addr: SocketAddr,
    stream: Option<TcpStream>,
    slow: Option<Slow>,
    /// What was received and belongs to nothing yet.
    ahead: Vec<u8>,
    piece: Vec<u8>,
}

/// How a slow reader reads.
#[derive(Clone, Debug)]
pub struct Slow {
    /// At most so many bytes of a body in a second.
    pub bytes_per_s: u64,
    /// It leaves as soon as this is set.
    pub enough: Arc<AtomicBool>,
}

/// A request.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request<'a> {
    /// GET.
    pub method: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// Further header lines, each with its CR LF.
    pub fields: &'a str,
    /// Sent with its length.
    pub body: &'a [u8],
}

/// An answer that was as it had to be.
#[derive(Debug)]
pub struct Got {
    /// Its head.
    pub head: AnswerHead,
    /// Its body, if it was to be kept.
    pub body: Vec<u8>,
    /// Bytes of the body that were taken.
    pub bytes: u64,
    /// When the first byte of the answer came.
    pub first_byte: Instant,
    /// Whether the digest was computed and compared.
    pub verified: bool,
}

/// A body on its way to where it goes.
struct Sink {
    received: u64,
    hasher: Option<Hasher>,
    kept: Option<Vec<u8>>,
}

/// Why there is no answer.
enum Failure {
    /// The connection was closed. If it was kept and nothing of an answer came, the server may have been tired of it.
    Closed(String),
    Wrong(String),
}

impl Client {
    /// A client of that registry, with its token.
    pub fn of(registry: &Registry) -> Client {
        Client {
            origin: registry.origin.clone(),
            addr: registry.addr,
            stream: None,
            slow: None,
            ahead: Vec::new(),
            piece: vec![0; PIECE_BYTES],
        }
    }

    /// One that reads bodies slowly.
    pub fn slow(mut self, slow: Slow) -> Client {
        self.slow = Some(slow);
        self
    }

    /// Sends a request and takes its answer, whose status has to be one of `statuses`. An answer of another status
    /// is read as well, and an error. A kept connection that the server has closed is made anew once.
    ///
    /// Errors: a sentence. The connection is closed then.
    pub fn send(
        &mut self,
        request: &Request<'_>,
        statuses: &[u16],
        reading: &Reading,
    ) -> Result<Got, String> {
        let kept = self.stream.is_some();
        let mut result = self.exchange(request, statuses, reading);
        if kept && let Err(Failure::Closed(_)) = result {
            self.stream = None;
            result = self.exchange(request, statuses, reading);
        }
        result.map_err(|why| {
            self.stream = None;
            format!("{} {}: {}", request.method, request.target, String::from(why))
        })
    }

    fn exchange(
        &mut self,
        request: &Request<'_>,
        statuses: &[u16],
        reading: &Reading,
    ) -> Result<Got, Failure> {
        self.ahead.clear();
        let head =
            self.origin.head(request.method, request.target, request.fields, request.body.len() as u64);
        let stream = self.stream().map_err(Failure::Wrong)?;
        let sent = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(request.body));
        sent.map_err(|error| Failure::Closed(format!("it could not be sent: {error}")))?;
        if self.more()? == 0 {
            return Err(Failure::Closed("the connection was closed without an answer".to_owned()));
        }
        let first_byte = Instant::now();
        self.answer(request.method == "HEAD", statuses, reading, first_byte).map_err(Failure::Wrong)
    }

    fn answer(
        &mut self,
        to_head: bool,
        statuses: &[u16],
        reading: &Reading,
        first_byte: Instant,
    ) -> Result<Got, String> {
        let head = loop {
            if let Some((length, head)) = parse_head(&self.ahead, to_head)? {
                self.ahead.drain(..length);
                break head;
            }
            if self.more()? == 0 {
                return Err("an answer ended in its head".to_owned());
            }
        };
        let expected = statuses.contains(&head.status);
        let reading = if expected { reading } else { &Reading::Keep };
        let length = match (reading, head.framing) {
            (Reading::Drop { length: Some(length) } | Reading::Verify { length, .. }, framing) => {
                if let Framing::Length(said) = framing
                    && said != *length
                {
                    return Err(format!("its length is {said} and should be {length}"));
                }
                Some(*length)
            }
            (Reading::Drop { length: None } | Reading::Keep | Reading::Leave { .. }, _) => None,
        };
        let mut sink = Sink {
            received: 0,
            hasher: matches!(reading, Reading::Verify { .. }).then(|| Hasher::new(Algorithm::Sha256)),
            kept: matches!(reading, Reading::Keep).then(Vec::new),
        };
        let leave_after = if let Reading::Leave { after } = reading { *after } else { u64::MAX };
        let whole = self.body(head.framing, &mut sink, leave_after)?;
        if !whole || !head.keeps_alive {
            self.stream = None;
        }
        if whole
            && let Some(length) = length
            && sink.received != length
        {
            return Err(format!("its body has {} bytes and should have {length}", sink.received));
        }
        let mut verified = false;
        if whole && let (Reading::Verify { digest, .. }, Some(hasher)) = (reading, sink.hasher) {
            let found = hasher.finish();
            if found != *digest {
                return Err(format!("its body has the digest {found} and should have {digest}"));
            }
            verified = true;
        }
        let body = sink.kept.unwrap_or_default();
        if !expected {
            let said = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
            return Err(format!("status {} and {said:?}", head.status));
        }
        Ok(Got { head, body, bytes: sink.received, first_byte, verified })
    }

    /// Takes a body. `false`: it was left before its end, at `leave_after` or because a slow reader had enough.
    fn body(&mut self, framing: Framing, sink: &mut Sink, leave_after: u64) -> Result<bool, String> {
        let began = Instant::now();
        let mut chunks = Chunks::default();
        loop {
            let ahead = std::mem::take(&mut self.ahead);
            match framing {
                Framing::Length(length) => {
                    let left = length.saturating_sub(sink.received);
                    let count = usize::try_from(left).unwrap_or(usize::MAX).min(ahead.len());
                    sink.take(&ahead[..count]);
                    if sink.received == length {
                        return Ok(true);
                    }
                }
                Framing::UntilClose => sink.take(&ahead),
                Framing::Chunked => {
                    chunks.take(&ahead, |payload| sink.take(payload))?;
                    if chunks.is_done() {
                        return Ok(true);
                    }
                }
            }
            if sink.received >= leave_after || !self.wait_to_read(began, sink.received) {
                return Ok(false);
            }
            let got = match framing {
                Framing::Length(length) if sink.is_blind() => {
                    let left = (length - sink.received).min(leave_after - sink.received);
                    let got = self.receive(RecvFlags::TRUNC, left)?;
                    sink.received += got as u64;
                    got
                }
                Framing::Length(_) | Framing::UntilClose | Framing::Chunked => self.more()?,
            };
            match framing {
                Framing::UntilClose if got == 0 => return Ok(true),
                Framing::Length(_) | Framing::Chunked if got == 0 => {
                    return Err(format!("its body was cut off after {} bytes", sink.received));
                }
                Framing::Length(_) | Framing::UntilClose | Framing::Chunked => {}
            }
        }
    }

    /// A slow reader waits here until its next piece is due. `false`: it had enough.
    fn wait_to_read(&self, began: Instant, received: u64) -> bool {
        let Some(slow) = &self.slow else { return true };
        let due = began + Duration::from_secs_f64(received as f64 / slow.bytes_per_s.max(1) as f64);
        loop {
            if slow.enough.load(Ordering::Acquire) {
                return false;
            }
            let wait = due.saturating_duration_since(Instant::now());
            if wait.is_zero() {
                return true;
            }
            thread::sleep(wait.min(SLOW_PERIOD));
        }
    }

    fn stream(&mut self) -> Result<&mut TcpStream, String> {
        match &mut self.stream {
            Some(stream) => Ok(stream),
            none => {
                let dialled = TcpStream::connect(self.addr).and_then(|stream| {
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(TIMEOUT))?;
                    stream.set_write_timeout(Some(TIMEOUT))?;
                    if self.slow.is_some() {
                        sockopt::set_socket_recv_buffer_size(&stream, SLOW_BUFFER_BYTES)?;
                    }
                    Ok(stream)
                });
                Ok(none.insert(dialled.map_err(|error| format!("{}: {error}", self.addr))?))
            }
        }
    }

    /// Receives behind what is there already.
    fn more(&mut self) -> Result<usize, Failure> {
        let got = self.receive(RecvFlags::empty(), PIECE_BYTES as u64)?;
        self.ahead.extend_from_slice(&self.piece[..got]);
        Ok(got)
    }

    /// Receives at most `limit` bytes; with TRUNC the kernel drops them.
    fn receive(&mut self, flags: RecvFlags, limit: u64) -> Result<usize, Failure> {
        let limit = match &self.slow {
            Some(slow) => limit.min((slow.bytes_per_s as f64 * SLOW_PERIOD.as_secs_f64()) as u64 + 1),
            None => limit,
        };
        let limit = usize::try_from(limit).unwrap_or(PIECE_BYTES).min(PIECE_BYTES);
        let stream =
            self.stream.as_ref().ok_or_else(|| Failure::Wrong("there is no connection".to_owned()))?;
        match retry_on_intr(|| rustix::net::recv(stream, &mut self.piece[..limit], flags)) {
            Ok((_, got)) => Ok(got),
            Err(Errno::AGAIN) => Err(Failure::Wrong(format!("nothing came for {} s", TIMEOUT.as_secs()))),
            Err(error) => Err(Failure::Closed(format!("its answer was cut off: {error}"))),
        }
    }
}

impl From<Failure> for String {
    fn from(failure: Failure) -> String {
        let (Failure::Closed(why) | Failure::Wrong(why)) = failure;
        why
    }
}

impl Sink {
    fn take(&mut self, bytes: &[u8]) {
        self.received += bytes.len() as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        if let Some(kept) = &mut self.kept {
            kept.extend_from_slice(bytes);
        }
    }

    /// Nobody wants to see the bytes.
    fn is_blind(&self) -> bool {
        self.hasher.is_none() && self.kept.is_none()
    }
}

impl<'a> Request<'a> {
    /// A GET without further fields.
    pub fn get(target: &'a str) -> Request<'a> {
        Request { method: "GET", target, ..Request::default() }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read,
        net::{Ipv4Addr, TcpListener},
    };

    use oci::Digest;

    use super::*;

    /// A client of a server that gives each of its connections one of these answers, whatever is asked, and closes.
    fn client(answers: &'static [&'static str]) -> Client {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let registry = Registry::at(listener.local_addr().unwrap());
        thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        Client::of(&registry)
    }

    fn get(client: &mut Client, reading: &Reading) -> Result<Got, String> {
        client.send(&Request::get("/x"), &[200], reading)
    }

    #[test]
    fn what_is_wrong_is_said() {
        let digest = Digest::of(Algorithm::Sha256, b"abc");
        let verify = Reading::Verify { length: 3, digest };
        let drop = Reading::Drop { length: Some(3) };
        for (answer, reading, expect) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", &verify, Ok(true)),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", &drop, Ok(false)),
            ("HTTP/1.1 200 OK\r\n\r\nabc", &verify, Ok(true)),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n",
                &verify,
                Ok(true),
            ),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabd", &verify, Err("digest")),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", &drop, Err("cut off after 2 bytes")),
            ("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabcd", &drop, Err("length is 4 and should be 3")),
            ("HTTP/1.1 200 OK\r\n\r\nab", &drop, Err("has 2 bytes and should have 3")),
            ("HTTP/1.1 404 No\r\nContent-Length: 3\r\n\r\nabc", &drop, Err("status 404 and \"abc\"")),
            ("HTTP/1.1 200 OK\r\nConte", &drop, Err("ended in its head")),
            ("", &drop, Err("without an answer")),
        ] {
            let got = get(&mut client(Box::leak(Box::new([answer]))), reading);
            match (got, expect) {
                (Ok(got), Ok(verified)) => assert_eq!((got.verified, got.bytes), (verified, 3), "{answer:?}"),
                (Err(why), Err(expect)) => assert!(why.contains(expect), "{answer:?}: {why}"),
                (got, _) => panic!("{answer:?}: {got:?}"),
            }
        }
    }

    #[test]
    fn a_kept_connection_that_was_closed_is_made_anew_once() {
        const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
        let mut client = client(&[OK, OK, ""]);
        let drop = Reading::Drop { length: Some(3) };
        assert_eq!(get(&mut client, &drop).unwrap().bytes, 3);
        assert_eq!(get(&mut client, &drop).unwrap().bytes, 3);
        let why = get(&mut client, &drop).unwrap_err();
        assert!(why.contains("GET /x") && why.contains("without an answer"), "{why}");
    }

    #[test]
    fn a_slow_reader_is_slow_and_leaves_when_it_may() {
        const BODY: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2000\r\n\r\n";
        let whole: &'static str = Box::leak(format!("{BODY}{}", "x".repeat(2000)).into_boxed_str());
        let drop = Reading::Drop { length: Some(2000) };
        let enough = Arc::new(AtomicBool::new(false));
        let slow = Slow { bytes_per_s: 10_000, enough: enough.clone() };
        let began = Instant::now();
        // What comes with the head is taken at once: at most a period's worth.
        let got = get(&mut client(Box::leak(Box::new([whole]))).slow(slow.clone()), &drop).unwrap();
        assert_eq!(got.bytes, 2000);
        assert!(began.elapsed() > Duration::from_millis(150), "{:?}", began.elapsed());
        enough.store(true, Ordering::Release);
        let got = get(&mut client(Box::leak(Box::new([whole]))).slow(slow), &drop).unwrap();
        assert!(got.bytes < 2000, "{}", got.bytes);
    }
}
