//! A blocking HTTP/1.1 client over a plain socket, which can also send halves, lies and garbage.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, SocketAddr, TcpStream},
    time::Duration,
};

use super::{replies, response, response::Response};

/// One connection at a time to one server; it connects again when the server closed after a reply.
pub struct Client {
    addr: SocketAddr,
    /// Text that no reply may ever show: the server's data directory.
    secret: String,
    timeout: Duration,
    stream: Option<TcpStream>,
    pending: Vec<u8>,
}

/// A request that is being put together; [`Request::send`] sends it.
pub struct Request<'c> {
    client: &'c mut Client,
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Body,
}

enum Body {
    None,
    Whole(Vec<u8>),
    Chunks(Vec<Vec<u8>>),
}

impl Client {
    /// A client of `addr`; connects when it is first used. `secret` may not appear in any reply.
    pub fn new(addr: SocketAddr, secret: &str) -> Client {
        let timeout = Duration::from_secs(30);
        Client { addr, secret: secret.to_owned(), timeout, stream: None, pending: Vec::new() }
    }

    /// Another client of the same server, with its own connection.
    pub fn another(&self) -> Client {
        Client::new(self.addr, &self.secret)
    }

    /// How long a read may wait; 30 s unless told.
    pub fn timeout(mut self, timeout: Duration) -> Client {
        self.timeout = timeout;
        self
    }

    /// Starts a request.
    pub fn request(&mut self, method: &str, target: impl Into<String>) -> Request<'_> {
        let (method, target) = (method.to_owned(), target.into());
        Request { client: self, method, target, headers: Vec::new(), body: Body::None }
    }

    /// GET without further fields.
    #[track_caller]
    pub fn get(&mut self, target: impl Into<String>) -> Response {
        self.request("GET", target).send()
    }

    /// HEAD without further fields.
    #[track_caller]
    pub fn head(&mut self, target: impl Into<String>) -> Response {
        self.request("HEAD", target).send()
    }

    /// DELETE without further fields.
    #[track_caller]
    pub fn delete(&mut self, target: impl Into<String>) -> Response {
        self.request("DELETE", target).send()
    }

    /// The connection, made if there is none.
    pub fn stream(&mut self) -> &mut TcpStream {
        if self.stream.is_none() {
            self.stream = Some(self.dial().expect("the server takes connections"));
            self.pending.clear();
        }
        self.stream.as_mut().expect("just made")
    }

    /// Connects at once, so that a refusal can be seen.
    pub fn connect(&mut self) -> io::Result<()> {
        self.stream = Some(self.dial()?);
        self.pending.clear();
        Ok(())
    }

    /// Sends these bytes as they are. A server that has already answered and closed is no error here.
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        let _answered_early = self.stream().write_all(bytes);
    }

    /// Reads the next reply, interim ones included, and holds it to the rules that every reply has to keep;
    /// `Ok(None)` if the connection ended instead.
    #[track_caller]
    pub fn try_read(&mut self, method: &str) -> io::Result<Option<Response>> {
        let timeout = self.timeout;
        let Client { stream: Some(stream), pending, .. } = self else {
            return Err(io::ErrorKind::NotConnected.into());
        };
        stream.set_read_timeout(Some(timeout))?;
        let mut chunk = vec![0; 128 * 1024];
        let read = response::read(pending, method == "HEAD", |pending| {
            let got = match receive(stream, &mut chunk) {
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset && pending.is_empty() => 0,
                other => other?,
            };
            pending.extend_from_slice(&chunk[..got]);
            Ok(got)
        });
        if !matches!(&read, Ok(Some(response)) if !response.closes()) {
            self.stream = None;
        }
        if let Ok(Some(response)) = &read {
            replies::check(response, method, &self.secret);
        }
        read
    }

    /// Reads the next reply, which has to come.
    #[track_caller]
    pub fn read(&mut self, method: &str) -> Response {
        match self.try_read(method) {
            Ok(Some(response)) => response,
            Ok(None) => panic!("the connection ended without a reply"),
            Err(error) => panic!("no whole reply: {error}"),
        }
    }

    /// Reads at least `count` bytes of whatever comes, as long as the connection gives them.
    pub fn read_some(&mut self, count: usize) -> usize {
        let timeout = self.timeout;
        let stream = self.stream();
        stream.set_read_timeout(Some(timeout)).expect("a timeout above zero");
        let mut chunk = vec![0; 4096];
        let mut total = 0;
        while total < count {
            match receive(stream, &mut chunk) {
                Ok(0) | Err(_) => break,
                Ok(got) => total += got,
            }
        }
        total
    }

    /// Whether the server ends the connection within the timeout, without sending anything more.
    pub fn ends(&mut self) -> bool {
        let timeout = self.timeout;
        if !self.pending.is_empty() {
            return false;
        }
        let Some(stream) = self.stream.as_mut() else { return true };
        stream.set_read_timeout(Some(timeout)).expect("a timeout above zero");
        match receive(stream, &mut [0; 64]) {
            Ok(0) => true,
            Ok(_) => false,
            Err(error) => matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::NotConnected
            ),
        }
    }

    /// A new connection that sends `bytes` and returns all that comes until the end or the timeout.
    pub fn raw(&self, bytes: &[u8]) -> Vec<u8> {
        let mut stream = self.dial().expect("the server takes connections");
        let _answered_early = stream.write_all(bytes);
        stream.set_read_timeout(Some(self.timeout)).expect("a timeout above zero");
        let mut all = Vec::new();
        let mut chunk = [0; 16 * 1024];
        while let Ok(got) = receive(&mut stream, &mut chunk) {
            if got == 0 {
                break;
            }
            all.extend_from_slice(&chunk[..got]);
        }
        all
    }

    /// Tells the server that no more comes, and keeps reading.
    pub fn half_close(&mut self) {
        let _gone = self.stream().shutdown(Shutdown::Write);
    }

    /// Drops the connection.
    pub fn hang_up(&mut self) {
        self.stream = None;
        self.pending.clear();
    }

    fn dial(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect_timeout(&self.addr, Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(Duration::from_secs(30)))?;
        Ok(stream)
    }
}

impl Request<'_> {
    /// Adds a field line; the same name may come several times.
    pub fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    /// A body with its `Content-Length`.
    pub fn body(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.body = Body::Whole(bytes.into());
        self
    }

    /// A body in `Transfer-Encoding: chunked`, cut as given.
    pub fn chunks<'b>(mut self, chunks: impl IntoIterator<Item = &'b [u8]>) -> Self {
        self.body = Body::Chunks(chunks.into_iter().map(<[u8]>::to_vec).collect());
        self
    }

    /// The bytes of this request, for pipelining and for sending in parts.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = format!("{} {} HTTP/1.1\r\n", self.method, self.target);
        let has = |name: &str| self.headers.iter().any(|(have, _)| have.eq_ignore_ascii_case(name));
        if !has("host") {
            out += &format!("Host: {}\r\n", self.client.addr);
        }
        for (name, value) in &self.headers {
            out += &format!("{name}: {value}\r\n");
        }
        match &self.body {
            Body::None if ["POST", "PUT", "PATCH"].contains(&self.method.as_str()) => {
                out += "Content-Length: 0\r\n\r\n";
            }
            Body::None => out += "\r\n",
            Body::Whole(bytes) => out += &format!("Content-Length: {}\r\n\r\n", bytes.len()),
            Body::Chunks(_) => out += "Transfer-Encoding: chunked\r\n\r\n",
        }
        let mut out = out.into_bytes();
        match &self.body {
            Body::None => {}
            Body::Whole(bytes) => out.extend_from_slice(bytes),
            Body::Chunks(chunks) => {
                for chunk in chunks {
                    out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
                    out.extend_from_slice(chunk);
                    out.extend_from_slice(b"\r\n");
                }
                out.extend_from_slice(b"0\r\n\r\n");
            }
        }
        out
    }

    /// Sends it, reads the whole reply, and holds it to what a reply to this has to say, too.
    #[track_caller]
    pub fn send(self) -> Response {
        match self.try_send() {
            Ok(response) => response,
            Err(error) => panic!("no whole reply: {error}"),
        }
    }

    /// Like [`Request::send`], for a server that may be killed meanwhile.
    #[track_caller]
    pub fn try_send(self) -> io::Result<Response> {
        let bytes = self.to_bytes();
        let Request { client, method, target, .. } = self;
        assert!(client.pending.is_empty(), "an unread reply is waiting: {:?}", client.pending);
        if client.stream.is_none() {
            client.connect()?;
        }
        client.send_bytes(&bytes);
        let response = client.try_read(&method)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        assert!(client.pending.is_empty(), "bytes after the reply to {method} {target}");
        replies::check_target(&response, &method, &target);
        Ok(response)
    }
}

/// A read that does not end because this process was stopped and goes on: Linux says EINTR to one with a timeout.
fn receive(stream: &mut TcpStream, into: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(into) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
