//! A blocking client for what goes before and after a load: tokens, blobs, manifests.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    time::Duration,
};

use oci::Digest;

use crate::wire::{AnswerHead, Chunks, Framing, Origin, parse_head, target_of, with_query};

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(120);

/// A server and how it is spoken to. Each client has a connection of its own.
pub struct Registry {
    /// Where it is.
    pub addr: SocketAddr,
    /// What every request says.
    pub origin: Origin,
    /// `NAME:PASSWORD` that it was last asked for a token with.
    pub user: Option<String>,
    connection: Option<TcpStream>,
}

/// An answer, whole.
pub struct Reply {
    /// Its head.
    pub head: AnswerHead,
    /// Its body.
    pub body: Vec<u8>,
}

impl Registry {
    /// The registry at an address.
    pub fn at(addr: SocketAddr) -> Registry {
        let origin = Origin { host: addr.to_string(), authorization: None };
        Registry { addr, origin, user: None, connection: None }
    }

    /// The registry at `http://host:port`.
    ///
    /// Errors: a sentence.
    pub fn from_url(url: &str) -> Result<Registry, String> {
        let rest = url.strip_prefix("http://").ok_or_else(|| {
            format!("{url}: only http:// is measured; put the load behind whatever ends TLS in front of it")
        })?;
        let host = rest.trim_end_matches('/');
        let with_port = if host.contains(':') { host.to_owned() } else { format!("{host}:80") };
        let found = with_port.to_socket_addrs().map_err(|error| format!("{url}: {error}"))?.next();
        let addr = found.ok_or_else(|| format!("{url}: the name has no address"))?;
        let origin = Origin { host: host.to_owned(), authorization: None };
        Ok(Registry { addr, origin, user: None, connection: None })
    }

    /// Another client of the same registry.
    pub fn another(&self) -> Registry {
        Registry { addr: self.addr, origin: self.origin.clone(), user: self.user.clone(), connection: None }
    }

    /// Sends a request and reads the whole answer. A connection that died while idle is made anew once.
    ///
    /// Errors: a sentence.
    pub fn send(&mut self, method: &str, target: &str, fields: &str, body: &[u8]) -> Result<Reply, String> {
        let was_open = self.connection.is_some();
        match self.exchange(method, target, fields, body) {
            Err(_) if was_open => self.exchange(method, target, fields, body),
            other => other,
        }
        .map_err(|why| format!("{method} {target}: {why}"))
    }

    /// Asks for a token for `scope` with `user` (`name:password`), if the registry wants one, and uses it.
    ///
    /// Errors: a sentence.
    pub fn authorize(&mut self, user: Option<&str>, scope: &str) -> Result<(), String> {
        self.user = user.map(str::to_owned);
        let reply = self.send("GET", "/v2/", "", b"")?;
        let Some(challenge) = reply.head.authenticate.filter(|_| reply.head.status == 401) else {
            return Ok(());
        };
        let basic = user.map(|user| format!("Basic {}", base64(user.as_bytes())));
        if challenge.to_ascii_lowercase().starts_with("basic") {
            self.origin.authorization =
                Some(basic.ok_or("the registry wants a password: --user NAME:PASSWORD")?);
            return Ok(());
        }
        let parameter = |name: &str| {
            let (_, rest) = challenge.split_once(&format!("{name}=\""))?;
            rest.split('"').next()
        };
        let realm = parameter("realm").ok_or_else(|| format!("no realm in {challenge:?}"))?;
        let service = parameter("service").unwrap_or_default();
        let mut issuer = Registry::from_url(realm.split_inclusive('/').take(3).collect::<String>().as_str())?;
        issuer.origin.authorization = basic;
        let target = with_query(target_of(realm), &format!("service={service}&scope={scope}"));
        let token = issuer.send("GET", &target, "", b"")?.expect(&[200], "a token")?;
        let token: serde_json::Value =
            serde_json::from_slice(&token.body).map_err(|error| format!("{realm}: {error}"))?;
        let token = token["token"].as_str().or_else(|| token["access_token"].as_str());
        let token = token.ok_or_else(|| format!("{realm}: no token in its answer"))?;
        self.origin.authorization = Some(format!("Bearer {token}"));
        Ok(())
    }

    /// Whether the repository has the blob.
    ///
    /// Errors: a sentence.
    pub fn has_blob(&mut self, repository: &str, digest: &Digest) -> Result<bool, String> {
        let reply = self.send("HEAD", &format!("/v2/{repository}/blobs/{digest}"), "", b"")?;
        Ok(reply.head.status == 200)
    }

    /// Pushes a blob of `length` bytes in steps, from POST to PUT.
    ///
    /// Errors: a sentence.
    pub fn push_blob(
        &mut self,
        repository: &str,
        digest: &Digest,
        length: u64,
        mut bytes: impl Read,
    ) -> Result<(), String> {
        let opened = self.send("POST", &format!("/v2/{repository}/blobs/uploads/"), "", b"")?;
        let opened = opened.expect(&[202], "an upload session")?;
        let location = opened.head.location.ok_or("an upload session without a Location")?;
        let target = with_query(target_of(&location), &format!("digest={digest}"));
        let head = self.origin.head("PUT", &target, "Content-Type: application/octet-stream\r\n", length);
        let stream = self.stream()?;
        let sent = (|| {
            stream.write_all(head.as_bytes())?;
            let mut left = length;
            let mut piece = vec![0; 1 << 20];
            while left > 0 {
                let count = usize::try_from(left).unwrap_or(usize::MAX).min(piece.len());
                bytes.read_exact(&mut piece[..count])?;
                stream.write_all(&piece[..count])?;
                left -= count as u64;
            }
            Ok(())
        })();
        sent.map_err(|error: std::io::Error| format!("the push of {digest}: {error}"))?;
        self.read(false)?.expect(&[201], "the end of a push")?;
        Ok(())
    }

    /// Pushes a manifest under a tag or digest.
    ///
    /// Errors: a sentence.
    pub fn push_manifest(
        &mut self,
        repository: &str,
        reference: &str,
        media_type: &str,
        bytes: &[u8],
    ) -> Result<(), String> {
        let target = format!("/v2/{repository}/manifests/{reference}");
        let reply = self.send("PUT", &target, &format!("Content-Type: {media_type}\r\n"), bytes)?;
        reply.expect(&[201], "a manifest").map(drop)
    }

    fn exchange(&mut self, method: &str, target: &str, fields: &str, body: &[u8]) -> Result<Reply, String> {
        let request = self.origin.request(method, target, fields, body);
        let sent = self.stream()?.write_all(&request);
        if let Err(error) = sent {
            self.connection = None;
            return Err(error.to_string());
        }
        self.read(method == "HEAD")
    }

    fn stream(&mut self) -> Result<&mut TcpStream, String> {
        match &mut self.connection {
            Some(stream) => Ok(stream),
            none => {
                let dialled = TcpStream::connect(self.addr).and_then(|stream| {
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(TIMEOUT))?;
                    Ok(stream)
                });
                Ok(none.insert(dialled.map_err(|error| format!("{}: {error}", self.addr))?))
            }
        }
    }

    fn read(&mut self, to_head: bool) -> Result<Reply, String> {
        let reply = self
            .connection
            .as_mut()
            .ok_or("no connection".to_owned())
            .and_then(|stream| read(stream, to_head));
        if !reply.as_ref().is_ok_and(|reply| reply.head.keeps_alive) {
            self.connection = None;
        }
        reply
    }
}

impl Reply {
    /// The reply, if it has one of these statuses.
    ///
    /// Errors: a sentence with the start of its body.
    pub fn expect(self, statuses: &[u16], what: &str) -> Result<Reply, String> {
        if statuses.contains(&self.head.status) {
            return Ok(self);
        }
        let said = String::from_utf8_lossy(&self.body[..self.body.len().min(300)]).into_owned();
        Err(format!("{what}: status {} and {said:?}", self.head.status))
    }
}

fn read(stream: &mut TcpStream, to_head: bool) -> Result<Reply, String> {
    let mut bytes = Vec::new();
    let mut piece = vec![0; 64 * 1024];
    let mut more = |bytes: &mut Vec<u8>| -> Result<usize, String> {
        let got = stream.read(&mut piece).map_err(|error| format!("its answer: {error}"))?;
        bytes.extend_from_slice(&piece[..got]);
        Ok(got)
    };
    let (length, head) = loop {
        if let Some(parsed) = parse_head(&bytes, to_head)? {
            break parsed;
        }
        if more(&mut bytes)? == 0 {
            return Err("the connection ended without an answer".to_owned());
        }
    };
    bytes.drain(..length);
    let body = match head.framing {
        Framing::Length(length) => {
            while (bytes.len() as u64) < length {
                if more(&mut bytes)? == 0 {
                    return Err(format!("its body ended after {} bytes", bytes.len()));
                }
            }
            bytes
        }
        Framing::UntilClose => {
            while more(&mut bytes)? > 0 {}
            bytes
        }
        Framing::Chunked => {
            let mut chunks = Chunks::default();
            let mut body = Vec::new();
            loop {
                let taken = chunks.take(&bytes, |payload| body.extend_from_slice(payload))?;
                bytes.drain(..taken);
                if chunks.is_done() {
                    break body;
                }
                if more(&mut bytes)? == 0 {
                    return Err("its body ended early".to_owned());
                }
            }
        }
    };
    Ok(Reply { head, body })
}

/// RFC 4648 §4.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let number =
            group.iter().enumerate().fold(0, |sum, (at, byte)| sum | u32::from(*byte) << (16 - 8 * at));
        for digit in 0..4 {
            let index = (number >> (18 - 6 * digit) & 63) as usize;
            text.push(if digit <= group.len() { char::from(ALPHABET[index]) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_rfc_4648() {
        for (plain, coded) in
            [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")]
        {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }
}
