//! A proxy on loopback that takes CONNECT, and says what it was asked.

use std::{
    collections::HashMap,
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rustls::{ServerConnection, StreamOwned};

use crate::{Certificate, auth::basic, lock};

/// The longest head of a question.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// A proxy. It stops listening, and cuts what goes through it, when it is dropped.
pub struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    certificate: Option<Certificate>,
    /// The `Proxy-Authorization` that it wants.
    wanted: Option<String>,
    heads: Mutex<Vec<String>>,
    open: Mutex<HashMap<u64, TcpStream>>,
    next: AtomicU64,
    carried: AtomicU64,
    is_over: AtomicBool,
}

impl Proxy {
    /// Listens, and lets everybody through who shows this name and password; `None`: everybody.
    pub fn start(login: Option<(&str, &str)>) -> Proxy {
        Proxy::listen(login, None)
    }

    /// The same by TLS: see [`Proxy::ca_pem`].
    pub fn start_tls(login: Option<(&str, &str)>) -> Proxy {
        Proxy::listen(login, Some(Certificate::new()))
    }

    fn listen(login: Option<(&str, &str)>, certificate: Option<Certificate>) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("loopback has a port left");
        let addr = listener.local_addr().expect("it is bound");
        let login = login.map(|(username, password)| (username.to_owned(), password.to_owned()));
        let shared = Arc::new(Shared {
            certificate,
            wanted: login.as_ref().map(basic),
            heads: Mutex::default(),
            open: Mutex::default(),
            next: AtomicU64::new(0),
            carried: AtomicU64::new(0),
            is_over: AtomicBool::new(false),
        });
        let listening = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                if listening.is_over.load(Ordering::Acquire) {
                    return;
                }
                let shared = Arc::clone(&listening);
                thread::spawn(move || shared.serve(client));
            }
        });
        Proxy { addr, shared, thread: Some(thread) }
    }

    /// Where it is: `http://127.0.0.1:1234`.
    pub fn url(&self) -> String {
        let scheme = if self.shared.certificate.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.addr)
    }

    /// Who signed its certificate, in PEM. Only with TLS.
    pub fn ca_pem(&self) -> Vec<u8> {
        self.shared.certificate.as_ref().expect("it was started with TLS").ca_pem()
    }

    /// The head of every question so far, whole.
    pub fn heads(&self) -> Vec<String> {
        lock(&self.shared.heads).clone()
    }

    /// Bytes that went through it, in both directions.
    pub fn carried_bytes(&self) -> u64 {
        self.shared.carried.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Release);
        // The thread is woken by a connection and finds the mark.
        let _woken = TcpStream::connect(self.addr);
        if let Some(thread) = self.thread.take() {
            // A proxy that panicked has said so.
            let _ended = thread.join();
        }
        for stream in lock(&self.shared.open).values() {
            let _gone = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Shared {
    /// One client; `None`: it went away, or was sent away.
    fn serve(&self, socket: TcpStream) -> Option<()> {
        let number = self.next.fetch_add(2, Ordering::Relaxed);
        lock(&self.open).insert(number, socket.try_clone().ok()?);
        let mut client: Box<dyn Stream> = match &self.certificate {
            None => Box::new(socket.try_clone().ok()?),
            Some(certificate) => {
                let tls = ServerConnection::new(certificate.config()).expect("the configuration is good");
                Box::new(StreamOwned::new(tls, socket.try_clone().ok()?))
            }
        };
        let head = head(&mut *client)?;
        lock(&self.heads).push(head.clone());
        let mut lines = head.split("\r\n");
        let mut words = lines.next()?.split(' ');
        let (method, target) = (words.next()?, words.next()?);
        let sent = lines.find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("proxy-authorization").then(|| value.trim())
        });
        let answer = if method != "CONNECT" {
            "405 Method Not Allowed"
        } else if self.wanted.as_deref().is_some_and(|wanted| sent != Some(wanted)) {
            "407 Proxy Authentication Required"
        } else if let Ok(server) = TcpStream::connect(target) {
            lock(&self.open).insert(number + 1, server.try_clone().ok()?);
            client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").ok()?;
            client.flush().ok()?;
            socket.set_nonblocking(true).and(server.set_nonblocking(true)).ok()?;
            let mut server = server;
            // Until one of both ends.
            let _ended = self.carry(&mut *client, &mut server);
            let _gone = (socket.shutdown(Shutdown::Both), server.shutdown(Shutdown::Both));
            ""
        } else {
            "502 Bad Gateway"
        };
        if !answer.is_empty() {
            client.write_all(format!("HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n").as_bytes()).ok()?;
            client.flush().ok()?;
        }
        let mut open = lock(&self.open);
        open.remove(&number);
        open.remove(&(number + 1));
        Some(())
    }

    /// In both directions on one thread, since TLS has one state for both.
    fn carry(&self, client: &mut dyn Stream, server: &mut dyn Stream) -> io::Result<()> {
        let (mut there, mut back) = (Way::default(), Way::default());
        while !self.is_over.load(Ordering::Acquire) {
            let moved = there.step(client, server)? + back.step(server, client)?;
            self.carried.fetch_add(moved as u64, Ordering::Relaxed);
            if moved == 0 {
                thread::sleep(Duration::from_millis(1));
            }
        }
        Ok(())
    }
}

trait Stream: Read + Write {}

impl<S: Read + Write> Stream for S {}

/// What was read and not yet written.
#[derive(Default)]
struct Way {
    piece: Vec<u8>,
    at: usize,
}

impl Way {
    /// Gives how many bytes were written; none: nothing could be done.
    fn step(&mut self, from: &mut dyn Stream, to: &mut dyn Stream) -> io::Result<usize> {
        if self.at == self.piece.len() {
            self.piece.resize(16 * 1024, 0);
            self.at = 0;
            let read = patient(from.read(&mut self.piece));
            self.piece.truncate(read.as_ref().map_or(0, |read| read.unwrap_or(0)));
            if read? == Some(0) {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
        let written =
            if self.at < self.piece.len() { patient(to.write(&self.piece[self.at..]))? } else { None };
        self.at += written.unwrap_or(0);
        patient(to.flush())?;
        Ok(written.unwrap_or(0))
    }
}

/// `None`: not now.
fn patient<T>(done: io::Result<T>) -> io::Result<Option<T>> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Byte by byte: what follows is not the proxy's.
fn head(client: &mut dyn Stream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        client.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
        if head.len() > HEAD_BYTES_MAX {
            return None;
        }
    }
    String::from_utf8(head).ok()
}
