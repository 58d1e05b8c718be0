//! A small upstream in this process: it serves what it is given, says what it was asked, and misbehaves when told to.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use oci::Digest;
use serde_json::Value;

use crate::harness::{self, INDEX};

/// A registry that listens; it ends with its value.
pub struct Registry {
    pub url: String,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// By path; what has a `?` is looked for with its query first.
    answers: HashMap<String, Answer>,
    seen: Vec<String>,
    faults: Vec<(String, Fault)>,
    closed: bool,
}

#[derive(Clone)]
struct Answer {
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

/// What happens to a request whose line (`GET /v2/…`) contains a text.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This status, without a body.
    Status(u16),
    /// The connection ends without an answer.
    Cut,
    /// No answer until the fault is gone.
    Stall,
    /// Without `Docker-Content-Digest`.
    NoDigest,
    /// This body in place of the right one.
    Body(Vec<u8>),
    /// This header beside the others, or in place of one of the same name.
    Header(&'static str, String),
}

/// An image that a registry has.
#[derive(Clone, Copy, Debug)]
pub struct Image {
    pub manifest: Digest,
    pub config: Digest,
    pub layer: Digest,
}

impl Registry {
    pub fn start() -> Registry {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new() });
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                if serving.lock().closed {
                    return;
                }
                let serving = Arc::clone(&serving);
                std::thread::spawn(move || serving.serve(socket));
            }
        });
        Registry { url, shared }
    }

    /// An image with one layer under a tag; `text` makes it another image.
    pub fn push_image(&self, repository: &str, tag: &str, text: &str) -> Image {
        let config = self.push_blob(repository, &format!("config of {text}"));
        let layer = self.push_blob(repository, &format!("layer of {text}"));
        let mut body = harness::image(config, &[layer]);
        body["config"]["size"] = format!("config of {text}").len().into();
        body["layers"][0]["size"] = format!("layer of {text}").len().into();
        Image { manifest: self.push_manifest(repository, Some(tag), &body), config, layer }
    }

    pub fn push_manifest(&self, repository: &str, tag: Option<&str>, body: &Value) -> Digest {
        let digest = harness::digest_of(body);
        let media_type = body["mediaType"].as_str().unwrap_or(INDEX);
        for reference in [Some(digest.to_string()), tag.map(str::to_owned)].into_iter().flatten() {
            let headers =
                [("Docker-Content-Digest", digest.to_string()), ("Content-Type", media_type.to_owned())];
            self.put(
                &format!("/v2/{repository}/manifests/{reference}"),
                &headers,
                body.to_string().as_bytes(),
            );
        }
        digest
    }

    pub fn push_blob(&self, repository: &str, bytes: &str) -> Digest {
        let digest = harness::sha256(bytes);
        let headers = [
            ("Docker-Content-Digest", digest.to_string()),
            ("Content-Type", "application/octet-stream".to_owned()),
        ];
        self.put(&format!("/v2/{repository}/blobs/{digest}"), &headers, bytes.as_bytes());
        digest
    }

    /// Has this path answered with 200.
    pub fn put(&self, path: &str, headers: &[(&str, String)], body: &[u8]) {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        self.shared.lock().answers.insert(path.to_owned(), Answer { headers, body: body.to_vec() });
    }

    /// Has this path answered with JSON.
    pub fn put_json(&self, path: &str, media_type: &str, body: &Value) {
        self.put(path, &[("Content-Type", media_type.to_owned())], body.to_string().as_bytes());
    }

    pub fn remove(&self, path: &str) {
        self.shared.lock().answers.remove(path).unwrap();
    }

    /// Has every request whose line contains `text` fail. The last one that fits counts.
    pub fn fail(&self, text: &str, fault: Fault) {
        self.shared.lock().faults.push((text.to_owned(), fault));
    }

    /// No more faults.
    pub fn heal(&self) {
        self.shared.lock().faults.clear();
        self.shared.changed.notify_all();
    }

    /// Every request line since the last time, in order, without what is not of the registry's API.
    pub fn seen(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.lock().seen)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
        // The listener looks once more.
        drop(TcpStream::connect(self.url.trim_start_matches("http://")));
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, socket: TcpStream) {
        let mut reader = BufReader::new(socket.try_clone().unwrap());
        while self.one(&mut reader, &socket).is_some() {}
        drop(socket.shutdown(Shutdown::Both));
    }

    /// One request; `None`: the connection is at its end.
    fn one(&self, reader: &mut BufReader<TcpStream>, mut socket: &TcpStream) -> Option<()> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if reader.by_ref().take(64 << 10).read_line(&mut head).ok()? == 0 {
                return None;
            }
        }
        let (method, rest) = head.split_once(' ')?;
        let (target, _) = rest.split_once(' ')?;
        let line = format!("{method} {target}");
        let answer = self.answer(&line, target, &head);
        let (status, headers, body) = answer?;
        let mut out = format!("HTTP/1.1 {status} Said\r\nContent-Length: {}\r\n", body.len());
        headers.iter().for_each(|(name, value)| out.push_str(&format!("{name}: {value}\r\n")));
        out.push_str("\r\n");
        socket.write_all(out.as_bytes()).ok()?;
        if method != "HEAD" && status != 304 {
            socket.write_all(&body).ok()?;
        }
        Some(())
    }

    #[allow(clippy::type_complexity)]
    fn answer(&self, line: &str, target: &str, head: &str) -> Option<(u16, Vec<(String, String)>, Vec<u8>)> {
        let mut state = self.lock();
        if target != "/v2/" {
            state.seen.push(line.to_owned());
            self.changed.notify_all();
        }
        let fault_of = |state: &State| {
            state
                .faults
                .iter()
                .rev()
                .find(|(text, _)| line.contains(text.as_str()))
                .map(|(_, fault)| fault.clone())
        };
        while matches!(fault_of(&state), Some(Fault::Stall)) {
            if state.closed {
                return None;
            }
            state = self.changed.wait_timeout(state, Duration::from_millis(100)).unwrap().0;
        }
        let fault = fault_of(&state);
        let path = target.split('?').next().unwrap();
        let found = state.answers.get(target).or_else(|| state.answers.get(path)).cloned();
        drop(state);
        match fault {
            Some(Fault::Status(status)) => return Some((status, Vec::new(), Vec::new())),
            Some(Fault::Cut) => return None,
            _ => {}
        }
        if target == "/v2/" {
            return Some((200, Vec::new(), Vec::new()));
        }
        let Some(Answer { mut headers, mut body }) = found else {
            return Some((404, Vec::new(), Vec::new()));
        };
        let lower = head.to_ascii_lowercase();
        let field = |name: &str| {
            let line = lower.lines().find(|line| line.starts_with(&format!("{name}:")))?;
            Some(line[name.len() + 1..].trim().to_owned())
        };
        let digest =
            headers.iter().find(|(name, _)| name == "Docker-Content-Digest").map(|(_, value)| value.clone());
        if let (Some(wanted), Some(digest)) = (field("if-none-match"), digest)
            && wanted.contains(&digest)
        {
            return Some((304, headers, Vec::new()));
        }
        match fault {
            Some(Fault::NoDigest) => headers.retain(|(name, _)| name != "Docker-Content-Digest"),
            Some(Fault::Body(other)) => body = other,
            Some(Fault::Header(name, value)) => {
                headers.retain(|(other, _)| other != name);
                headers.push((name.to_owned(), value));
            }
            _ => {}
        }
        if let Some(range) = field("range").filter(|_| path.contains("/blobs/")) {
            let (from, to) = range.strip_prefix("bytes=")?.split_once('-')?;
            let from: usize = from.parse().ok()?;
            let to = to.parse::<usize>().map_or(body.len(), |last| (last + 1).min(body.len()));
            headers.push(("Content-Range".to_owned(), format!("bytes {from}-{}/{}", to - 1, body.len())));
            return Some((206, headers, body[from..to].to_vec()));
        }
        Some((200, headers, body))
    }
}
