//! The registry as `gantry cache` speaks to it: one request, one answer, over a plain socket.
//!
//! Invariants: only `/api/v1` is asked for. Whoever answers otherwise than a registry of ours is told so.

use std::{
    fmt,
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    time::Duration,
};

use serde_json::Value;

use crate::limits;

/// Where the registry is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// `host:port`
    authority: String,
}

/// Why there is no answer that helps.
#[derive(Debug)]
pub enum ClientError {
    /// What was given is no address.
    Address(String),
    /// Nobody listens there, or stopped in the middle.
    Unreachable { server: String, error: io::Error },
    /// It has no cache.
    NoMirror { server: String },
    /// It does not want to.
    Refused { status: u16, why: String },
    /// It is no registry of ours, or another version.
    Strange { server: String },
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::Address(text) => {
                write!(f, "\"{text}\" is no address of a registry; write one such as 127.0.0.1:5000")
            }
            ClientError::Unreachable { server, error } => write!(
                f,
                "no registry answers at {server} ({error}); start it with `gantry serve`, or say with --server or \
                 --config where it is"
            ),
            ClientError::NoMirror { server } => write!(
                f,
                "the registry at {server} is no mirror: its configuration has no [[upstream]], so nothing is cached"
            ),
            ClientError::Refused { status, why } => write!(f, "the registry refuses: {why} ({status})"),
            ClientError::Strange { server } => {
                write!(f, "what answers at {server} is no gantry, or another version of it")
            }
        }
    }
}

impl std::error::Error for ClientError {}

impl Server {
    /// From what was typed: `host:port`, with `http://` or without.
    pub fn parse(text: &str) -> Result<Server, ClientError> {
        let rest = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        let port = rest.rsplit_once(':').and_then(|(host, port)| (!host.is_empty()).then_some(port));
        let is_one = port.is_some_and(|port| port.parse::<u16>().is_ok_and(|port| port > 0))
            && rest.bytes().all(|byte| byte.is_ascii_graphic() && !b"/?#@".contains(&byte));
        if is_one {
            Ok(Server { authority: rest.to_owned() })
        } else {
            Err(ClientError::Address(text.to_owned()))
        }
    }

    /// Asks, and gives the JSON of a good answer.
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Result<Value, ClientError> {
        let unreachable = |error| ClientError::Unreachable { server: self.authority.clone(), error };
        let answer = self.exchange(method, path, body).map_err(unreachable)?;
        let strange = || ClientError::Strange { server: self.authority.clone() };
        let (status, body) = read(&answer).ok_or_else(strange)?;
        let json: Option<Value> = serde_json::from_slice(body).ok();
        match (status, json) {
            (200..=299, Some(json)) => Ok(json),
            (200..=299, None) => Err(strange()),
            (404, Some(json)) if json["errors"][0]["message"] == "no such path" && path == ROOT => {
                Err(ClientError::NoMirror { server: self.authority.clone() })
            }
            (status, Some(json)) => match json["errors"][0]["message"].as_str() {
                Some(why) => Err(ClientError::Refused { status, why: why.to_owned() }),
                None => Err(strange()),
            },
            (_, None) => Err(strange()),
        }
    }

    fn exchange(&self, method: &str, path: &str, body: Option<&Value>) -> io::Result<Vec<u8>> {
        let mut last = io::ErrorKind::NotFound.into();
        for address in self.authority.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, CONNECT_TIME) {
                Ok(stream) => return self.speak(stream, method, path, body),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn speak(
        &self,
        mut stream: TcpStream,
        method: &str,
        path: &str,
        body: Option<&Value>,
    ) -> io::Result<Vec<u8>> {
        let body = body.map(ToString::to_string).unwrap_or_default();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nGantry-Api: 1\r\nUser-Agent: gantry/{}\r\n\
             Connection: close\r\nContent-Length: {}\r\n\r\n",
            self.authority,
            env!("CARGO_PKG_VERSION"),
            body.len()
        );
        stream.set_read_timeout(Some(ANSWER_TIME))?;
        stream.set_write_timeout(Some(CONNECT_TIME))?;
        stream.write_all(&[head.as_bytes(), body.as_bytes()].concat())?;
        let mut answer = Vec::new();
        stream.take(limits::ANSWER_BYTES).read_to_end(&mut answer)?;
        Ok(answer)
    }
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.authority)
    }
}

/// Where all of it lies.
pub const ROOT: &str = "/api/v1/cache";

const CONNECT_TIME: Duration = Duration::from_secs(10);
/// A purge of many repositories takes its time.
const ANSWER_TIME: Duration = Duration::from_secs(600);

/// Status and body of an answer that is all there.
fn read(answer: &[u8]) -> Option<(u16, &[u8])> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    let length = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    })?;
    let body = &answer[end + 4..];
    (body.len() == length).then_some((status, body))
}

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, thread};

    use super::*;

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for (text, authority) in [
            ("127.0.0.1:5000", "127.0.0.1:5000"),
            ("http://localhost:5000/", "localhost:5000"),
            ("[::1]:5000", "[::1]:5000"),
        ] {
            assert_eq!(Server::parse(text).unwrap().to_string(), authority);
        }
        for text in [
            "",
            "localhost",
            ":5000",
            "localhost:0",
            "https://localhost:5000",
            "a:5000/v2",
            "a b:1",
            "a:99999",
        ] {
            assert!(matches!(Server::parse(text), Err(ClientError::Address(_))), "{text}");
        }
    }

    #[test]
    fn an_answer_has_to_be_all_there() {
        let of = |text: &str| read(text.as_bytes()).map(|(status, body)| (status, body.to_vec()));
        let whole = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(of(whole), Some((200, b"{}".to_vec())));
        (0..whole.len()).for_each(|end| assert_eq!(of(&whole[..end]), None, "{end}"));
        assert_eq!(of(&format!("{whole}x")), None);
        assert_eq!(of("220 ready\r\n\r\n"), None);
    }

    /// What a server says that answers once.
    fn told(answer: &[u8]) -> ClientError {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = Server::parse(&listener.local_addr().unwrap().to_string()).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                let (mut stream, _) = listener.accept().unwrap();
                // The client may hang up when it has had enough.
                let _ = stream.read(&mut [0; 4096]).and_then(|_| stream.write_all(answer));
            });
            server.ask("GET", ROOT, None).unwrap_err()
        })
    }

    #[test]
    fn whoever_answers_otherwise_is_told_from_a_registry_and_an_endless_answer_ends() {
        let of = |status: &str, body: &str| {
            format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
        };
        let error = |message: &str| format!("{{\"errors\":[{{\"message\":\"{message}\"}}]}}");
        assert!(matches!(told(b"SSH-2.0-x\r\n"), ClientError::Strange { .. }));
        assert!(matches!(told(&of("200 OK", "<html>")), ClientError::Strange { .. }));
        assert!(matches!(told(&of("404 Not Found", &error("no such path"))), ClientError::NoMirror { .. }));
        let refused = told(&of("403 Forbidden", &error("not you")));
        assert_eq!(refused.to_string(), "the registry refuses: not you (403)");
        let long = [of("200 OK", ""), vec![b'x'; limits::ANSWER_BYTES as usize + 1]].concat();
        assert!(matches!(told(&long), ClientError::Strange { .. }));
        let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let nobody = Server::parse(&closed.to_string()).unwrap().ask("GET", ROOT, None).unwrap_err();
        assert!(nobody.to_string().contains("gantry serve"), "{nobody}");
    }
}
