//! The registry that a cache fetches from, played by the bench: blobs in memory, sent at a limited rate, and counted.
//!
//! Owns: a listener with a thread, and a thread for each of its connections.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{content::Blob, image::Document, load};

/// How much is sent at once; the rate is kept between two of these.
const PIECE_BYTES: usize = 64 * 1024;
/// The longest head of a request.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// How long a connection may stand still.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A registry with a blob and its manifest that may be read. It stops listening when it is dropped.
pub struct Upstream {
    addr: SocketAddr,
    shared: Arc<Shared>,
}

/// What was asked of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// GETs of blobs.
    pub gets: u64,
    /// HEADs of blobs.
    pub heads: u64,
    /// Bytes of blobs that were sent.
    pub bytes: u64,
}

struct Shared {
    /// By the end of their path, `blobs/DIGEST` and `manifests/DIGEST`, whatever the repository is called.
    stored: Mutex<BTreeMap<String, Stored>>,
    gets: AtomicU64,
    heads: AtomicU64,
    bytes: AtomicU64,
    /// Answers that are being sent.
    sending: AtomicU64,
    bytes_per_s: u64,
    /// When the line is free for the next piece: all connections share it.
    free_at: Mutex<Instant>,
    ended: AtomicBool,
}

#[derive(Clone)]
struct Stored {
    media_type: &'static str,
    bytes: Arc<[u8]>,
}

/// What a request asks for.
struct Question<'a> {
    method: &'a str,
    path: &'a str,
    /// First and last byte, of `Range: bytes=N-M`; the last may be missing.
    range: Option<(usize, Option<usize>)>,
    closes: bool,
}

impl Upstream {
    /// Listens on an address and sends at most `bytes_per_s` over all connections. Its threads are pinned to `cpu`.
    ///
    /// Errors: a sentence.
    pub fn start(addr: SocketAddr, bytes_per_s: u64, cpu: Option<usize>) -> Result<Upstream, String> {
        let failed = |error: io::Error| format!("the upstream cannot listen on {addr}: {error}");
        let listener = TcpListener::bind(addr).map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        let shared = Arc::new(Shared {
            stored: Mutex::default(),
            gets: AtomicU64::new(0),
            heads: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            sending: AtomicU64::new(0),
            bytes_per_s: bytes_per_s.max(1),
            free_at: Mutex::new(Instant::now()),
            ended: AtomicBool::new(false),
        });
        let of_thread = shared.clone();
        let listen = move || {
            // Threads are born where their parent is pinned to.
            if let Some(cpu) = cpu {
                load::pin(cpu);
            }
            of_thread.listen(&listener);
        };
        thread::Builder::new().spawn(listen).map_err(failed)?;
        Ok(Upstream { addr, shared })
    }

    /// Where it is.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Has only this blob from now on, and a manifest that names it, whose digest is given.
    pub fn offer(&self, blob: &Blob) -> oci::Digest {
        let layers = std::slice::from_ref(blob);
        let manifest = Document::manifest(&Document::config(layers), layers, 0);
        let of_blob = Stored { media_type: "application/octet-stream", bytes: blob.noise().bytes().into() };
        let of_manifest =
            Stored { media_type: oci::MediaType::OCI_MANIFEST.as_str(), bytes: manifest.bytes.into() };
        *lock(&self.shared.stored) = BTreeMap::from([
            (format!("blobs/{}", blob.digest), of_blob),
            (format!("manifests/{}", manifest.digest), of_manifest),
        ]);
        manifest.digest
    }

    /// What was asked of it so far.
    pub fn asked(&self) -> Asked {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Asked {
            gets: read(&self.shared.gets),
            heads: read(&self.shared.heads),
            bytes: read(&self.shared.bytes),
        }
    }

    /// Waits until nothing is being sent, at most so long. Gives whether that came.
    pub fn wait_until_idle(&self, time_max: Duration) -> bool {
        let end = Instant::now() + time_max;
        loop {
            if self.shared.sending.load(Ordering::Acquire) == 0 {
                return true;
            }
            if Instant::now() > end {
                return false;
            }
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        // The listener's thread is woken by a connection and finds the mark.
        let _ = TcpStream::connect(self.addr);
    }
}

impl Asked {
    /// What came since.
    pub fn since(self, before: Asked) -> Asked {
        Asked {
            gets: self.gets - before.gets,
            heads: self.heads - before.heads,
            bytes: self.bytes - before.bytes,
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    fn listen(self: Arc<Shared>, listener: &TcpListener) {
        for stream in listener.incoming() {
            if self.ended.load(Ordering::Acquire) {
                return;
            }
            let Ok(stream) = stream else { continue };
            let shared = self.clone();
            // A cache that leaves in the middle is its own affair; it will be seen in the counters.
            let serve = move || drop(shared.serve(stream));
            // Without a thread the connection is closed, which its client counts as an error.
            drop(thread::Builder::new().spawn(serve));
        }
    }

    fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        stream.set_write_timeout(Some(TIMEOUT))?;
        let mut ahead = Vec::new();
        while let Some(head) = read_head(&mut stream, &mut ahead)? {
            let Some(question) = Question::parse(&head) else {
                return stream.write_all(
                    b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                );
            };
            self.answer(&mut stream, &question)?;
            if question.closes || self.ended.load(Ordering::Acquire) {
                break;
            }
        }
        Ok(())
    }

    fn answer(&self, stream: &mut TcpStream, question: &Question<'_>) -> io::Result<()> {
        let api = "Docker-Distribution-Api-Version: registry/2.0\r\n";
        if question.path == "/v2/" {
            return stream
                .write_all(format!("HTTP/1.1 200 OK\r\n{api}Content-Length: 2\r\n\r\n{{}}").as_bytes());
        }
        let mut from_end = question.path.rmatch_indices('/').map(|(at, _)| &question.path[at + 1..]);
        let digest = from_end.next().unwrap_or("");
        let found = from_end.next().and_then(|end| lock(&self.stored).get(end).cloned());
        let is_blob = question.path.contains("/blobs/");
        let (Some(Stored { media_type, bytes }), "GET" | "HEAD") = (found, question.method) else {
            let body = r#"{"errors":[{"code":"BLOB_UNKNOWN"}]}"#;
            let body = if question.method == "HEAD" { "" } else { body };
            let length = body.len();
            let answer = format!("HTTP/1.1 404 Not Found\r\n{api}Content-Length: {length}\r\n\r\n{body}");
            return stream.write_all(answer.as_bytes());
        };
        let end =
            question.range.and_then(|(_, last)| last).map_or(bytes.len(), |last| bytes.len().min(last + 1));
        let start = question.range.map_or(0, |(first, _)| first);
        if start >= end && !bytes.is_empty() {
            let length = bytes.len();
            let answer = format!(
                "HTTP/1.1 416 Range Not Satisfiable\r\n{api}Content-Range: bytes */{length}\r\n\
                 Content-Length: 0\r\n\r\n"
            );
            return stream.write_all(answer.as_bytes());
        }
        let status = match question.range {
            None => "200 OK\r\n".to_owned(),
            Some(_) => {
                format!("206 Partial Content\r\nContent-Range: bytes {start}-{}/{}\r\n", end - 1, bytes.len())
            }
        };
        let head = format!(
            "HTTP/1.1 {status}{api}Content-Type: {media_type}\r\nDocker-Content-Digest: {digest}\r\n\
             ETag: \"{digest}\"\r\nAccept-Ranges: bytes\r\nContent-Length: {}\r\n\r\n",
            end - start
        );
        if !is_blob {
            stream.write_all(head.as_bytes())?;
            return if question.method == "HEAD" { Ok(()) } else { stream.write_all(&bytes[start..end]) };
        }
        if question.method == "HEAD" {
            self.heads.fetch_add(1, Ordering::Relaxed);
            return stream.write_all(head.as_bytes());
        }
        self.gets.fetch_add(1, Ordering::Relaxed);
        self.sending.fetch_add(1, Ordering::AcqRel);
        let sent = stream.write_all(head.as_bytes()).and_then(|()| self.send(stream, &bytes[start..end]));
        self.sending.fetch_sub(1, Ordering::AcqRel);
        sent
    }

    fn send(&self, stream: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(PIECE_BYTES) {
            let due = {
                let mut free_at = lock(&self.free_at);
                let due = (*free_at).max(Instant::now());
                *free_at = due + Duration::from_secs_f64(piece.len() as f64 / self.bytes_per_s as f64);
                due
            };
            thread::sleep(due.saturating_duration_since(Instant::now()));
            stream.write_all(piece)?;
            self.bytes.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// The next request's head; `None`: the client has closed.
fn read_head(stream: &mut TcpStream, ahead: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    use std::io::Read;
    let mut piece = [0; 4096];
    loop {
        if let Some(at) = ahead.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = ahead.split_off(at + 4);
            return Ok(Some(std::mem::replace(ahead, rest)));
        }
        if ahead.len() > HEAD_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        match stream.read(&mut piece)? {
            0 => return Ok(None),
            got => ahead.extend_from_slice(&piece[..got]),
        }
    }
}

impl Question<'_> {
    /// A request without a body; anything else is nothing that a cache asks.
    fn parse(head: &[u8]) -> Option<Question<'_>> {
        let mut fields = [httparse::EMPTY_HEADER; 64];
        let mut request = httparse::Request::new(&mut fields);
        request.parse(head).ok()?;
        let (method, target) = (request.method?, request.path?);
        let field = |name: &str| {
            let found = request.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
            found.and_then(|field| std::str::from_utf8(field.value).ok())
        };
        if field("content-length").is_some_and(|length| length != "0") || field("transfer-encoding").is_some()
        {
            return None;
        }
        let range = field("range").and_then(|value| value.strip_prefix("bytes=")?.split_once('-'));
        let range = range.and_then(|(first, last)| Some((first.parse().ok()?, last.parse().ok())));
        Some(Question {
            method,
            path: target.split('?').next().unwrap_or(target),
            range,
            closes: field("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::registry::Registry;

    #[test]
    fn it_serves_counts_and_keeps_its_rate() {
        let upstream = Upstream::start((Ipv4Addr::LOCALHOST, 0).into(), 10 << 20, None).unwrap();
        let blob = Blob::new(1, 2 << 20);
        let bytes = blob.noise().bytes();
        let manifest = upstream.offer(&blob);
        let mut registry = Registry::at(upstream.addr());
        assert_eq!(registry.send("GET", "/v2/", "", b"").unwrap().head.status, 200);
        assert!(registry.has_blob("any/where", &blob.digest).unwrap());
        assert!(!registry.has_blob("any/where", &Blob::new(2, 10).digest).unwrap());
        let target = format!("/v2/any/where/blobs/{}", blob.digest);
        let began = Instant::now();
        let whole = registry.send("GET", &target, "", b"").unwrap();
        assert!(whole.head.status == 200 && whole.body == bytes);
        // The line is free again only after its last piece, which nobody has to wait for.
        assert!(began.elapsed() > Duration::from_millis(180), "{:?}", began.elapsed());
        let part = registry.send("GET", &target, "Range: bytes=5-7\r\n", b"").unwrap();
        assert_eq!((part.head.status, &part.body[..]), (206, &bytes[5..8]));
        let tail = registry.send("GET", &target, "Range: bytes=2097150-\r\n", b"").unwrap();
        assert_eq!((tail.head.status, &tail.body[..]), (206, &bytes[(2 << 20) - 2..]));
        assert_eq!(registry.send("GET", &target, "Range: bytes=9000000-\r\n", b"").unwrap().head.status, 416);
        let named = registry.send("GET", &format!("/v2/any/where/manifests/{manifest}"), "", b"").unwrap();
        assert_eq!(oci::Digest::of(oci::Algorithm::Sha256, &named.body), manifest);
        assert!(String::from_utf8(named.body).unwrap().contains(&blob.digest.to_string()));
        assert!(upstream.wait_until_idle(Duration::from_secs(1)));
        assert_eq!(upstream.asked(), Asked { gets: 3, heads: 1, bytes: (2 << 20) + 3 + 2 });
    }
}
