//! A proxy on loopback that takes CONNECT, and says what it was asked.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
};

use crate::{auth::basic, lock};

/// The longest head of a question.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// A proxy. It stops listening, and cuts what goes through it, when it is dropped.
pub struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
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
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("loopback has a port left");
        let addr = listener.local_addr().expect("it is bound");
        let login = login.map(|(username, password)| (username.to_owned(), password.to_owned()));
        let shared = Arc::new(Shared {
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
        format!("http://{}", self.addr)
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
    fn serve(&self, mut client: TcpStream) -> Option<()> {
        let number = self.next.fetch_add(2, Ordering::Relaxed);
        lock(&self.open).insert(number, client.try_clone().ok()?);
        let head = head(&mut client)?;
        lock(&self.heads).push(head.clone());
        let mut lines = head.split("\r\n");
        let mut words = lines.next()?.split(' ');
        let (method, target) = (words.next()?, words.next()?);
        let sent = lines.find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("proxy-authorization").then(|| value.trim())
        });
        if method != "CONNECT" {
            client.write_all(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n").ok()?;
        } else if self.wanted.as_deref().is_some_and(|wanted| sent != Some(wanted)) {
            let refusal = "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n";
            client.write_all(refusal.as_bytes()).ok()?;
        } else if let Ok(server) = TcpStream::connect(target) {
            lock(&self.open).insert(number + 1, server.try_clone().ok()?);
            client.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").ok()?;
            let (there, back) = (client.try_clone().ok()?, server.try_clone().ok()?);
            thread::scope(|scope| {
                scope.spawn(|| self.carry(there, server));
                self.carry(back, client);
            });
        } else {
            client.write_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n").ok()?;
        }
        let mut open = lock(&self.open);
        open.remove(&number);
        open.remove(&(number + 1));
        Some(())
    }

    /// Until one of both ends.
    fn carry(&self, mut from: TcpStream, mut to: TcpStream) {
        let mut piece = [0; 16 * 1024];
        while let Ok(length) = from.read(&mut piece) {
            if length == 0 || to.write_all(&piece[..length]).is_err() {
                break;
            }
            self.carried.fetch_add(length as u64, Ordering::Relaxed);
        }
        let _gone = (from.shutdown(Shutdown::Both), to.shutdown(Shutdown::Both));
    }
}

/// Byte by byte: what follows is not the proxy's.
fn head(client: &mut TcpStream) -> Option<String> {
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
