//! A connection: requests in, answers out, as scripted.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use rustls::{ServerConnection, StreamOwned};
use serde_json::json;

use crate::{
    Sent, Shared,
    answer::{Answer, End, Framing},
    lock,
    request::Request,
    seen::{Place, Seen},
};

/// How much is sent at once; rates are kept between two of these.
const PIECE_BYTES: usize = 16 * 1024;

/// How long a connection may stand still before its thread gives up.
const TIMEOUT: Duration = Duration::from_secs(120);

trait Stream: Read + Write {
    fn showed_certificate(&self) -> bool;
}

impl Stream for TcpStream {
    fn showed_certificate(&self) -> bool {
        false
    }
}

impl Stream for StreamOwned<ServerConnection, TcpStream> {
    fn showed_certificate(&self) -> bool {
        self.conn.peer_certificates().is_some()
    }
}

pub(crate) fn connection(shared: &Shared, socket: TcpStream, place: Place) -> Sent {
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.set_write_timeout(Some(TIMEOUT))?;
    let below = socket.try_clone()?;
    let mut stream: Box<dyn Stream> = match &shared.certificate {
        None => Box::new(socket),
        Some(certificate) => {
            let tls = ServerConnection::new(certificate.config.clone()).expect("the configuration is good");
            Box::new(StreamOwned::new(tls, socket))
        }
    };
    let mut ahead = Vec::new();
    while let Some(request) = Request::read(&mut stream, &mut ahead)? {
        let sent = Arc::new(AtomicU64::new(0));
        lock(&shared.seen).push(Seen {
            place,
            method: request.method.clone(),
            target: request.target.clone(),
            headers: request.headers.clone(),
            body: request.body.clone(),
            showed_certificate: stream.showed_certificate(),
            sent: sent.clone(),
        });
        shared.answering.fetch_add(1, Ordering::AcqRel);
        let goes_on = one(shared, &mut stream, &below, &request, place, &sent);
        shared.answering.fetch_sub(1, Ordering::AcqRel);
        if !goes_on? || request.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
        {
            break;
        }
    }
    Ok(())
}

/// Gives whether the connection goes on.
fn one(
    shared: &Shared,
    stream: &mut Box<dyn Stream>,
    below: &TcpStream,
    request: &Request,
    place: Place,
    sent: &AtomicU64,
) -> std::io::Result<bool> {
    // Given up before the last byte is sent: whoever has that may come again before this thread goes on.
    let mut unfinished = Some(shared.begin());
    let faults = lock(&shared.script).of(request, place);
    let mut answer = within_budget(shared, request, right(shared, request, place));
    if request.path().contains("/blobs/") && answer.status == 200 {
        answer = answer.ranged(request, &faults);
    }
    for fault in &faults {
        answer = answer.spoilt(fault, shared, request, place);
    }
    let stalled = || shared.sleep_until(Instant::now() + TIMEOUT);
    match answer.end {
        End::ResetBeforeHead => return reset(below),
        End::StallBeforeHead => {
            stalled();
            return Ok(false);
        }
        End::Whole | End::Reset(_) | End::Stall(_) | End::Close(_) => {}
    }
    let mut head =
        format!("HTTP/1.1 {} Because\r\nDocker-Distribution-Api-Version: registry/2.0\r\n", answer.status);
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str(&match answer.framing {
        Framing::Length(_) if answer.status == 304 => "\r\n".to_owned(),
        Framing::Length(length) => format!("Content-Length: {length}\r\n\r\n"),
        Framing::Chunked => "Transfer-Encoding: chunked\r\n\r\n".to_owned(),
        Framing::Close => "Connection: close\r\n\r\n".to_owned(),
    });
    let has_body = request.method != "HEAD" && answer.status != 304 && answer.span.0 < answer.span.1;
    if !has_body && answer.end == End::Whole {
        unfinished = None;
    }
    stream.write_all(head.as_bytes())?;
    stream.flush()?;
    if request.method == "HEAD" || answer.status == 304 {
        return Ok(answer.framing != Framing::Close);
    }
    let (start, end) = answer.span;
    let stop = match answer.end {
        End::Reset(at) | End::Stall(at) | End::Close(at) => end.min(start + at),
        End::Whole | End::ResetBeforeHead | End::StallBeforeHead => end,
    };
    let begun = Instant::now();
    let mut count = 0;
    // A slow answer is slow from its first byte on.
    let piece_bytes =
        answer.bytes_per_s.map_or(PIECE_BYTES, |rate| (rate as usize / 20).clamp(1, PIECE_BYTES));
    for piece in answer.body[start as usize..stop as usize].chunks(piece_bytes) {
        shared.wait_for_line(piece.len());
        if let Some(rate) = answer.bytes_per_s {
            shared.sleep_until(begun + Duration::from_secs_f64(count as f64 / rate as f64));
        }
        if count + piece.len() == (stop - start) as usize && answer.end == End::Whole {
            unfinished = None;
        }
        if answer.framing == Framing::Chunked {
            stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes())?;
        }
        stream.write_all(piece)?;
        if answer.framing == Framing::Chunked {
            stream.write_all(b"\r\n")?;
        }
        stream.flush()?;
        count += piece.len();
        sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
    }
    drop(unfinished);
    match answer.end {
        End::Reset(_) => {
            // What was sent is to be read before the reset comes, which takes with it what was not.
            std::thread::sleep(Duration::from_millis(50));
            reset(below)
        }
        End::Stall(_) => {
            stalled();
            Ok(false)
        }
        End::Close(_) => Ok(false),
        End::Whole | End::ResetBeforeHead | End::StallBeforeHead => {
            if answer.framing == Framing::Chunked {
                stream.write_all(b"0\r\n\r\n")?;
                stream.flush()?;
            }
            Ok(answer.framing != Framing::Close)
        }
    }
}

/// The connection ends with a reset as soon as its last handle is closed.
fn reset(socket: &TcpStream) -> std::io::Result<bool> {
    rustix::net::sockopt::set_socket_linger(socket, Some(Duration::ZERO))?;
    Ok(false)
}

/// What is left of its pulls, if somebody counts them.
fn within_budget(shared: &Shared, request: &Request, answer: Answer) -> Answer {
    let mut pulls = lock(&shared.pulls);
    let Some(pulls) = pulls.as_mut() else { return answer };
    if !request.path().contains("/manifests/") || ![200, 304].contains(&answer.status) {
        return answer;
    }
    let answer = match (request.method.as_str(), pulls.left) {
        ("GET", 0) => Answer::error(429, "TOOMANYREQUESTS"),
        ("GET", _) => {
            pulls.left -= 1;
            answer
        }
        _ => answer,
    };
    answer
        .with("ratelimit-limit", format!("{};w=21600", pulls.most))
        .with("ratelimit-remaining", format!("{};w=21600", pulls.left))
}

/// What an honest registry answers.
fn right(shared: &Shared, request: &Request, place: Place) -> Answer {
    let path = request.path();
    if path == "/token" {
        return lock(&shared.realm).token(request);
    }
    let Some(rest) = path.strip_prefix("/v2/") else { return Answer::error(404, "NOT_FOUND") };
    let parts = ["/manifests/", "/blobs/", "/referrers/", "/tags/list"];
    let found = parts.iter().find_map(|part| Some((*part, rest.rsplit_once(part)?)));
    let repository = found.map_or("", |(_, (repository, _))| repository);
    // The second address takes whoever comes, as presigned URLs do.
    if place == Place::Own
        && let Some(refusal) = lock(&shared.realm).refuses(shared, request, repository)
    {
        return refusal;
    }
    let content = lock(&shared.content);
    match found {
        None if rest.is_empty() => Answer::document("application/json", "{}"),
        None => Answer::error(404, "NOT_FOUND"),
        Some(("/manifests/", (_, reference))) => {
            let Some((digest, manifest)) = content.manifest(repository, reference) else {
                return Answer::error(404, "MANIFEST_UNKNOWN");
            };
            let etag = format!("\"{digest}\"");
            let unchanged = request.header("if-none-match") == Some(etag.as_str());
            let (status, body) = if unchanged { (304, Arc::from([])) } else { (200, manifest.bytes) };
            Answer::new(status, Vec::new(), body)
                .with("Content-Type", manifest.media_type)
                .with("Docker-Content-Digest", digest.to_string())
                .with("ETag", etag)
        }
        Some(("/blobs/", (_, digest))) => match content.blob(repository, digest) {
            None => Answer::error(404, "BLOB_UNKNOWN"),
            Some(bytes) => Answer::new(200, Vec::new(), bytes)
                .with("Content-Type", "application/octet-stream")
                .with("Docker-Content-Digest", digest)
                .with("Accept-Ranges", "bytes"),
        },
        Some(("/referrers/", (_, subject))) => Answer::document(
            "application/vnd.oci.image.index.v1+json",
            content.referrers(repository, subject),
        ),
        Some(_) => match content.tags(repository) {
            None => Answer::error(404, "NAME_UNKNOWN"),
            Some(tags) => tag_list(request, repository, tags),
        },
    }
}

fn tag_list(request: &Request, repository: &str, tags: Vec<String>) -> Answer {
    let last = request.parameter("last").unwrap_or_default();
    let most = request.parameter("n").and_then(|n| n.parse().ok()).unwrap_or(usize::MAX);
    let after: Vec<&String> = tags.iter().filter(|tag| **tag > last).collect();
    let page = &after[..after.len().min(most)];
    let answer =
        Answer::document("application/json", json!({ "name": repository, "tags": page }).to_string());
    match page.last() {
        Some(last) if page.len() < after.len() => {
            answer.with("Link", format!("</v2/{repository}/tags/list?last={last}&n={most}>; rel=\"next\""))
        }
        _ => answer,
    }
}
