//! A miss is filled once for everybody, verified before anything whole leaves, and gone on with whatever breaks.
//! Storage rules: "Fills"; wire rules: "Pull-through".

use std::{
    collections::HashMap,
    fs, io,
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

use bytes::Bytes;
use control::{Ask, Fetched, Link, Memory, Origin};
use dataplane::{
    limits::{FILL_JOINS_MAX, FILL_RESUMES_MAX, FILLS_MAX, HELD_BACK_BYTES},
    testing::{Call, Driver},
};
use oci::{Digest, Problem, RepositoryName};
use tokio::sync::mpsc::Sender;

use crate::{
    plane::{Client, Plane},
    rig::{legs, sha256, until, wait_for},
};

pub const MIB: usize = 1 << 20;

/// What an origin sends.
pub enum Piece {
    Bytes(Vec<u8>),
    /// As one piece.
    AtOnce(Vec<u8>),
    /// Little by little.
    Drip(Vec<u8>),
    /// Goes on once the other end sends or is dropped.
    Gate(mpsc::Receiver<()>),
    Fail(Problem),
}

impl Piece {
    fn len(&self) -> usize {
        match self {
            Piece::Bytes(bytes) | Piece::AtOnce(bytes) | Piece::Drip(bytes) => bytes.len(),
            Piece::Gate(_) | Piece::Fail(_) => 0,
        }
    }
}

/// An origin's answer to a fetch.
pub struct Played {
    pub start: u64,
    pub size_bytes: Option<u64>,
    pub pieces: Vec<Piece>,
}

pub type Fetches = Arc<Mutex<Vec<(u64, Option<u64>)>>>;

pub fn origin() -> Origin {
    Origin { upstream: 0, repository: RepositoryName::parse("library/thing").unwrap() }
}

/// The control plane of one upstream repository; `play` gets the number of the fetch, where it starts and ends.
pub fn play(
    plane: &mut Plane,
    told_bytes: Option<usize>,
    mut play: impl FnMut(usize, u64, Option<u64>) -> Result<Option<Played>, Problem> + Send + 'static,
) -> Fetches {
    play_each(plane, told_bytes, move |_, number, from, to| play(number, from, to))
}

/// The same with several blobs.
pub fn play_each(
    plane: &mut Plane,
    told_bytes: Option<usize>,
    play: impl FnMut(&Digest, usize, u64, Option<u64>) -> Result<Option<Played>, Problem> + Send + 'static,
) -> Fetches {
    play_told(plane, move |_| told_bytes, play)
}

/// The same, where each blob has its own length.
pub fn play_told(
    plane: &mut Plane,
    told_bytes: impl Fn(&Digest) -> Option<usize> + Send + 'static,
    mut play: impl FnMut(&Digest, usize, u64, Option<u64>) -> Result<Option<Played>, Problem> + Send + 'static,
) -> Fetches {
    let fetches = Fetches::default();
    let seen = fetches.clone();
    plane.answer(move |ask| match ask {
        Ask::Link { digest, answer, .. } => {
            let size_bytes = told_bytes(&digest).map(|size| size as u64);
            drop(answer.send(Ok(Some(Link::Upstream { origin: origin(), size_bytes }))));
        }
        Ask::Fetch { origin: from_where, digest, from, to, memory, answer } => {
            assert_eq!(from_where, origin());
            let number = {
                let mut seen = seen.lock().unwrap();
                seen.push((from, to));
                seen.len() - 1
            };
            let played = play(&digest, number, from, to);
            let Ok(Some(Played { start, size_bytes, pieces })) = played else {
                drop(answer.send(played.map(|_| None)));
                return;
            };
            let sent_bytes: usize = pieces.iter().map(Piece::len).sum();
            let is_whole = start < from || to.map_or(from == 0, |to| start + sent_bytes as u64 > to);
            let (sender, bytes) = tokio::sync::mpsc::channel(4);
            let let_in = move |part: Result<&[u8], Problem>| let_in(&sender, &memory, part);
            drop(answer.send(Ok(Some(Fetched { start, is_whole, size_bytes, bytes }))));
            thread::spawn(move || {
                for piece in pieces {
                    let sent = match piece {
                        Piece::Bytes(bytes) => bytes.chunks(50_000).all(|part| let_in(Ok(part))),
                        Piece::AtOnce(bytes) => let_in(Ok(&bytes)),
                        Piece::Drip(bytes) => bytes.chunks(10_000).all(|part| {
                            thread::sleep(Duration::from_millis(2));
                            let_in(Ok(part))
                        }),
                        Piece::Gate(gate) => {
                            let _opened_or_dropped = gate.recv();
                            true
                        }
                        Piece::Fail(problem) => let_in(Err(problem)),
                    };
                    if !sent {
                        return;
                    }
                }
            });
        }
        Ask::Home { digests, answer } => drop(answer.send(Ok(vec![None; digests.len()]))),
        _ => panic!("not asked here"),
    });
    fetches
}

/// Sends a piece as soon as there is room for it. Whether anybody takes it.
fn let_in(sender: &Sender<Result<Bytes, Problem>>, memory: &Memory, part: Result<&[u8], Problem>) -> bool {
    wait_for(async {
        let part = match part {
            Ok(part) => tokio::select! {
                () = sender.closed() => return false,
                held = memory.hold(part.len() as u64) => Ok(held.with(Bytes::copy_from_slice(part))),
            },
            Err(problem) => Err(problem),
        };
        sender.send(part).await.is_ok()
    })
}

/// All that was asked for of `content`.
pub fn honest(content: &[u8], from: u64, to: Option<u64>) -> Result<Option<Played>, Problem> {
    let end = to.map_or(content.len(), |to| to as usize);
    let pieces = vec![Piece::Bytes(content[from as usize..end].to_vec())];
    Ok(Some(Played { start: from, size_bytes: Some(content.len() as u64), pieces }))
}

pub fn content(len: usize) -> Vec<u8> {
    let mut state = 7_u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..len).map(|_| next()).collect()
}

pub fn target(digest: &Digest) -> String {
    format!("/v2/hub/library/thing/blobs/{digest}")
}

pub fn ranged(client: &mut Client, digest: &Digest, range: &str) {
    use std::io::Write as _;
    let head = format!("GET {} HTTP/1.1\r\nHost: r\r\nRange: bytes={range}\r\n\r\n", target(digest));
    client.stream.write_all(head.as_bytes()).unwrap();
}

pub fn sample(plane: &Plane, name: &str) -> u64 {
    plane.sample(&format!("gantry_fill_{name}{{upstream=\"docker.io\"}}"))
}

pub fn fetched(fetches: &Fetches) -> Vec<(u64, Option<u64>)> {
    fetches.lock().unwrap().clone()
}

/// Reads an answer that never becomes whole, or the failure itself: on a busy machine that is known before the answer
/// could begin.
#[track_caller]
pub fn is_cut(client: &mut Client, len: usize) {
    let head = client.read_head().unwrap();
    if head.status == 502 || head.status == 504 {
        return;
    }
    assert_eq!((head.status, head.field("content-length")), (200, Some(len.to_string().as_str())));
    ends_early(client, len);
}

/// The body of an answer that has begun.
#[track_caller]
fn ends_early(client: &mut Client, len: usize) {
    let error = client.read_rest(len).map(drop).unwrap_err();
    assert!(matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset), "{error}");
}

#[test]
fn a_miss_is_fetched_once_and_a_hit_ever_after() {
    for leg in legs() {
        let sizes = [0, 1, 5000, HELD_BACK_BYTES as usize, HELD_BACK_BYTES as usize + 1, 3 * MIB + 17];
        let blobs: HashMap<Digest, Vec<u8>> =
            sizes.into_iter().map(content).map(|blob| (sha256(&blob), blob)).collect();
        let mut plane = Plane::start(leg);
        let all = blobs.clone();
        let fetches = play_each(&mut plane, None, move |digest, _, from, to| honest(&all[digest], from, to));
        let mut client = plane.client();
        for (digest, blob) in &blobs {
            let miss = client.get(&target(digest));
            assert_eq!((miss.status, miss.field("gantry-cache")), (200, Some("fill")));
            assert_eq!(miss.field("docker-content-digest"), Some(digest.to_string().as_str()));
            assert!(miss.body == *blob);
        }
        until("the fills have no names", || {
            fs::read_dir(plane.place.path("fills")).unwrap().next().is_none()
        });
        for (digest, blob) in &blobs {
            assert!(fs::read(plane.place.blob(digest)).unwrap() == *blob);
            let hit = client.get(&target(digest));
            assert_eq!((hit.status, hit.field("gantry-cache")), (200, Some("hit")));
            assert!(hit.body == *blob);
        }
        assert_eq!(fetched(&fetches), vec![(0, None); sizes.len()]);
        assert_eq!(sample(&plane, "fetched_bytes_total"), sizes.into_iter().sum::<usize>() as u64);
        let count = sizes.len() as u64;
        assert_eq!((sample(&plane, "hits_total"), sample(&plane, "misses_total")), (count, count));
        plane.end();
    }
}

#[test]
fn everybody_who_wants_a_blob_shares_one_fill_and_gets_the_bytes_that_are_there() {
    const READERS: usize = 16;
    for leg in legs() {
        let mut plane = Plane::start(leg);
        let blob = content(4 * MIB);
        let digest = sha256(&blob);
        let whole = blob.clone();
        let (open, gate) = mpsc::channel();
        let mut gate = Some(gate);
        let fetches = play(&mut plane, Some(blob.len()), move |_, _, _| {
            let (front, back) = whole.split_at(2 * MIB);
            let gate = Piece::Gate(gate.take().unwrap());
            let pieces = vec![Piece::Bytes(front.to_vec()), gate, Piece::Bytes(back.to_vec())];
            Ok(Some(Played { start: 0, size_bytes: Some(whole.len() as u64), pieces }))
        });
        let mut clients: Vec<Client> = (0..READERS).map(|_| plane.client()).collect();
        for client in &mut clients {
            client.send("GET", &target(&digest), b"");
        }
        for client in &mut clients {
            let head = client.read_head().unwrap();
            assert_eq!((head.status, head.field("content-length")), (200, Some("4194304")));
            // What the origin has sent is here before it sends the rest.
            assert!(client.read_rest(2 * MIB).unwrap() == blob[..2 * MIB]);
        }
        drop(open);
        for client in &mut clients {
            assert!(client.read_rest(2 * MIB).unwrap() == blob[2 * MIB..]);
        }
        assert_eq!(fetched(&fetches), [(0, None)]);
        assert_eq!(sample(&plane, "coalesced_total"), READERS as u64 - 1);
        plane.end();
    }
}

#[test]
fn wrong_bytes_are_never_a_whole_answer_and_never_kept() {
    for leg in legs() {
        for len in [1000, HELD_BACK_BYTES as usize, 2 * MIB] {
            let mut plane = Plane::start(leg);
            let blob = content(len);
            let digest = sha256(&blob);
            let whole = blob.clone();
            let fetches = play(&mut plane, Some(len), move |number, from, to| {
                let mut sent = whole.clone();
                // The last byte: everything before it looks right.
                *sent.last_mut().unwrap() ^= u8::from(number == 0);
                honest(&sent, from, to)
            });
            let mut client = plane.client();
            client.send("GET", &target(&digest), b"");
            if len as u64 <= HELD_BACK_BYTES {
                assert_eq!(client.read().unwrap().status, 502);
            } else {
                is_cut(&mut client, len);
            }
            assert_eq!(sample(&plane, "mismatches_total"), 1);
            assert!(!plane.place.blob(&digest).exists());
            let again = plane.client().get(&target(&digest));
            assert_eq!(again.status, 200);
            assert!(again.body == blob);
            assert_eq!(fetched(&fetches), [(0, None), (0, None)]);
            plane.end();
        }
    }
}

#[test]
fn the_end_of_every_answer_is_held_back_until_all_was_verified() {
    let held = HELD_BACK_BYTES as usize;
    for leg in legs() {
        let mut plane = Plane::start(leg);
        let blob = content(3 * MIB);
        let digest = sha256(&blob);
        let whole = blob.clone();
        let (open, gate) = mpsc::channel();
        let mut gate = Some(gate);
        play(&mut plane, Some(blob.len()), move |_, _, _| {
            let (front, last) = whole.split_at(whole.len() - 1);
            let gate = Piece::Gate(gate.take().unwrap());
            let pieces = vec![Piece::Bytes(front.to_vec()), gate, Piece::Bytes(last.to_vec())];
            Ok(Some(Played { start: 0, size_bytes: Some(whole.len() as u64), pieces }))
        });
        let mut readers: Vec<(Client, usize, usize)> = Vec::new();
        for (range, start, end) in [("0-", 0, 3 * MIB), ("0-1048575", 0, MIB), ("2097152-", 2 * MIB, 3 * MIB)]
        {
            let mut client = plane.client();
            ranged(&mut client, &digest, range);
            let head = client.read_head().unwrap();
            assert_eq!(
                (head.status, head.field("content-length")),
                (206, Some((end - start).to_string().as_str()))
            );
            assert!(client.read_rest(end - start - held).unwrap() == blob[start..end - held]);
            readers.push((client, start, end));
        }
        for (client, ..) in &mut readers {
            client.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            let error = client.read_rest(1).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "a byte too much");
            client.stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        }
        drop(open);
        for (client, _, end) in &mut readers {
            assert!(client.read_rest(held).unwrap() == blob[*end - held..*end]);
        }
        plane.end();
    }
}

/// Breaks after as many bytes as it says for each fetch, then sends all.
pub fn breaking(plane: &mut Plane, blob: &[u8], breaks: Vec<usize>, has_ranges: bool) -> Fetches {
    let whole = blob.to_vec();
    play(plane, Some(blob.len()), move |number, from, to| {
        let start = if has_ranges { from } else { 0 };
        let mut played = honest(&whole, start, to.filter(|_| has_ranges))?.unwrap();
        if let Some(count) = breaks.get(number) {
            let Some(Piece::Bytes(bytes)) = played.pieces.first_mut() else { panic!() };
            bytes.truncate(*count);
            played.pieces.push(Piece::Fail(Problem::UpstreamTimeout));
        }
        Ok(Some(played))
    })
}

#[test]
fn an_interrupted_fill_is_resumed_where_it_was_and_nobody_notices() {
    for leg in legs() {
        for has_ranges in [true, false] {
            let mut plane = Plane::start(leg);
            let blob = content(2 * MIB);
            let digest = sha256(&blob);
            let fetches = breaking(
                &mut plane,
                &blob,
                vec![MIB + 5, 100 + if has_ranges { 0 } else { 2 * MIB - 200 }],
                has_ranges,
            );
            let answer = plane.client().get(&target(&digest));
            assert!(answer.status == 200 && answer.body == blob);
            let at = MIB as u64 + 5;
            let then = if has_ranges { at + 100 } else { 2 * MIB as u64 - 100 };
            assert_eq!(fetched(&fetches), [(0, None), (at, None), (then, None)], "{has_ranges}");
            assert_eq!(sample(&plane, "resumes_total"), 2);
            plane.end();
        }
    }
}

/// Kept or passed through: its status can't be taken back.
#[test]
fn an_answer_that_has_begun_is_cut() {
    for leg in legs() {
        for has_room in [true, false] {
            let mut plane = Plane::start(leg);
            if !has_room {
                plane.faults.fail(Call::Allocate, 0, 28);
            }
            let blob = content(2 * MIB);
            let digest = sha256(&blob);
            let (open, gate) = mpsc::channel::<()>();
            let mut gate = Some(gate);
            let mut wrong = blob.clone();
            *wrong.last_mut().unwrap() ^= 1;
            play(&mut plane, Some(blob.len()), move |_, from, to| {
                let mut played = honest(&wrong, from, to)?.unwrap();
                if let Some(gate) = gate.take() {
                    let (front, back) = wrong.split_at(MIB);
                    played.pieces =
                        vec![Piece::Bytes(front.to_vec()), Piece::Gate(gate), Piece::Bytes(back.to_vec())];
                }
                Ok(Some(played))
            });
            let mut client = plane.client();
            client.send("GET", &target(&digest), b"");
            let head = client.read_head().unwrap();
            assert_eq!((head.status, head.field("content-length")), (200, Some("2097152")));
            drop(open);
            ends_early(&mut client, blob.len());
            plane.end();
        }
    }
}

#[test]
fn after_three_resumes_it_is_over_and_the_next_request_goes_on_from_there() {
    for leg in legs() {
        let mut plane = Plane::start(leg);
        let blob = content(2 * MIB);
        let digest = sha256(&blob);
        let part = 300_000;
        let fetches = breaking(&mut plane, &blob, vec![part; 1 + FILL_RESUMES_MAX as usize], true);
        let mut client = plane.client();
        client.send("GET", &target(&digest), b"");
        is_cut(&mut client, blob.len());
        let again = plane.client().get(&target(&digest));
        assert!(again.status == 200 && again.body == blob);
        let expected: Vec<_> = (0..=4).map(|number| (number * part as u64, None)).collect();
        assert_eq!(fetched(&fetches), expected);
        plane.end();
    }
}

#[test]
fn an_origin_that_fails_before_its_first_byte_is_told_at_once() {
    let cases = [
        (Ok(None), 404, "BLOB_UNKNOWN"),
        (Err(Problem::UpstreamTimeout), 504, "UNAVAILABLE"),
        (Err(Problem::UpstreamUnreachable { retry_after_s: 1 }), 503, "UNAVAILABLE"),
        (Err(Problem::UpstreamBusy { retry_after_s: 60 }), 503, "TOOMANYREQUESTS"),
        (Err(Problem::UpstreamMisbehaved { why: "no" }), 502, "UNAVAILABLE"),
    ];
    for leg in legs() {
        for (outcome, status, code) in cases.clone() {
            let mut plane = Plane::start(leg);
            let blob = content(MIB);
            let digest = sha256(&blob);
            let whole = blob.clone();
            let fetches = play(&mut plane, Some(MIB), move |number, from, to| match number {
                0 => outcome.clone().map(|_: Option<()>| None),
                _ => honest(&whole, from, to),
            });
            let mut client = plane.client();
            let answer = client.get(&target(&digest));
            assert_eq!(answer.status, status, "{}", answer.head);
            assert!(String::from_utf8_lossy(&answer.body).contains(code));
            // Nothing is poisoned.
            assert!(client.get(&target(&digest)).body == blob);
            assert_eq!(fetched(&fetches).len(), 2);
            plane.end();
        }
    }
}

#[test]
fn a_length_that_changed_starts_over() {
    for leg in legs() {
        let mut plane = Plane::start(leg);
        let blob = content(2 * MIB);
        let digest = sha256(&blob);
        let whole = blob.clone();
        let fetches = play(&mut plane, None, move |number, from, to| {
            let mut played = honest(&whole, from, to)?.unwrap();
            if number == 0 {
                played.pieces =
                    vec![Piece::Bytes(whole[..MIB].to_vec()), Piece::Fail(Problem::UpstreamTimeout)];
            } else if number == 1 {
                played.size_bytes = Some(5_000_000);
            }
            Ok(Some(played))
        });
        let mut client = plane.client();
        client.send("GET", &target(&digest), b"");
        is_cut(&mut client, blob.len());
        assert!(plane.client().get(&target(&digest)).body == blob);
        assert_eq!(fetched(&fetches), [(0, None), (MIB as u64, None), (0, None)]);
        plane.end();
    }
}

#[test]
fn a_length_below_what_came_starts_over() {
    for leg in legs() {
        for told in [500_000, 500_001] {
            let mut plane = Plane::start(leg);
            let blob = content(MIB);
            let digest = sha256(&blob);
            let whole = blob.clone();
            let fetches = play(&mut plane, None, move |number, _, _| {
                let mut pieces = vec![Piece::Bytes(whole.clone()), Piece::Fail(Problem::UpstreamTimeout)];
                let mut size_bytes = None;
                if number > 0 {
                    (pieces, size_bytes) = (vec![Piece::Bytes(whole[..told].to_vec())], Some(told as u64));
                }
                Ok(Some(Played { start: 0, size_bytes, pieces }))
            });
            let mut client = plane.client();
            client.send("GET", &target(&digest), b"");
            // Whoever sees the last one only when it is over is told so.
            let head = client.read_head().unwrap();
            if head.status == 200 {
                client.read_rest(told).unwrap_err();
            } else {
                assert_eq!(head.status, 502);
            }
            // The one that broke, the one that told another length, and one from the start.
            assert_eq!(fetched(&fetches), [(0, None), (MIB as u64, None), (0, None)]);
            plane.end();
        }
    }
}

#[test]
fn a_length_that_the_manifest_denies_is_502_for_who_came_by_it() {
    for leg in legs() {
        let mut plane = Plane::start(leg);
        let blob = content(2 * MIB);
        let digest = sha256(&blob);
        let whole = blob.clone();
        play(&mut plane, Some(blob.len() - 1), move |_, from, to| honest(&whole, from, to));
        assert_eq!(plane.client().get(&target(&digest)).status, 502);
        fs::write(plane.place.blob(&digest), &blob).unwrap();
        assert_eq!(plane.client().get(&target(&digest)).status, 502, "also when it is here");
        plane.end();
    }
}

#[test]
fn a_blob_whose_length_nobody_tells_is_answered_when_it_is_whole() {
    for leg in legs() {
        let mut plane = Plane::start(leg);
        let blob = content(MIB);
        let digest = sha256(&blob);
        let whole = blob.clone();
        play(&mut plane, None, move |_, from, to| {
            Ok(honest(&whole, from, to)?.map(|played| Played { size_bytes: None, ..played }))
        });
        let answer = plane.client().get(&target(&digest));
        assert_eq!(answer.field("content-length"), Some("1048576"));
        assert!(answer.body == blob);
        plane.end();
    }
}

#[test]
fn a_head_starts_no_fill() {
    for leg in legs() {
        let mut plane = Plane::start(leg);
        let blob = content(1000);
        let digest = sha256(&blob);
        let whole = blob.clone();
        let fetches = play(&mut plane, Some(1000), move |_, from, to| honest(&whole, from, to));
        let mut client = plane.client();
        client.send("HEAD", &target(&digest), b"");
        let head = client.read_head().unwrap();
        assert_eq!((head.status, head.field("content-length")), (200, Some("1000")));
        assert_eq!(head.field("docker-content-digest"), Some(digest.to_string().as_str()));
        assert_eq!(head.field("gantry-cache"), Some("pass"));
        assert!(fetched(&fetches).is_empty());
        plane.end();
    }
}

#[test]
fn a_head_of_a_blob_whose_length_no_manifest_tells_asks_for_it_and_starts_no_fill() {
    let upstream = |size_bytes| Link::Upstream { origin: origin(), size_bytes };
    let busy = Problem::UpstreamBusy { retry_after_s: 60 };
    let cases = [
        (Ok(Some(upstream(Some(1000)))), 200, Some("1000")),
        (Ok(Some(upstream(None))), 200, None),
        (Ok(None), 404, Some("")),
        (Err(busy), 503, Some("")),
    ];
    for leg in legs() {
        for (measured, status, length) in &cases {
            let mut plane = Plane::start(leg);
            let digest = sha256(&content(1000));
            let measured = measured.clone();
            plane.answer(move |ask| match ask {
                Ask::Link { answer, .. } => drop(answer.send(Ok(Some(upstream(None))))),
                Ask::Measure { origin: at, digest: of, answer } => {
                    assert_eq!((at, of), (origin(), digest));
                    drop(answer.send(measured.clone()));
                }
                _ => panic!("not asked here"),
            });
            let mut client = plane.client();
            client.send("HEAD", &target(&digest), b"");
            let head = client.read_head().unwrap();
            assert_eq!(head.status, *status);
            if head.status == 200 {
                assert_eq!(head.field("content-length"), *length);
                assert_eq!(head.field("gantry-cache"), Some("pass"));
            }
            assert_eq!(sample(&plane, "misses_total"), 0);
            plane.end();
        }
    }
}

#[test]
fn a_fill_that_nobody_wants_stops_and_keeps_what_it_has_but_not_if_much_is_there() {
    for leg in legs() {
        for (before, stops) in [(MIB, true), (5 * MIB, false)] {
            let mut plane = Plane::start(leg);
            let blob = content(8 * MIB);
            let digest = sha256(&blob);
            let whole = blob.clone();
            let (open, gate) = mpsc::channel();
            let mut gate = Some(gate);
            let fetches = play(&mut plane, Some(blob.len()), move |number, from, to| {
                let mut played = honest(&whole, from, to)?.unwrap();
                if number == 0 {
                    let (front, back) = whole.split_at(before);
                    let gate = Piece::Gate(gate.take().unwrap());
                    played.pieces = vec![Piece::Bytes(front.to_vec()), gate, Piece::Drip(back.to_vec())];
                }
                Ok(Some(played))
            });
            let mut first = plane.client();
            first.send("GET", &target(&digest), b"");
            first.read_head().unwrap();
            first.read_rest(before).unwrap();
            drop(first);
            drop(open);
            // It learns that its reader has gone when it has something for it.
            let done = || plane.place.blob(&digest).exists() || sample(&plane, "stops_total") == 1;
            until("it stopped or went on", done);
            assert_eq!(sample(&plane, "stops_total"), u64::from(stops), "{before}");
            let again = plane.client().get(&target(&digest));
            assert!(again.status == 200 && again.body == blob);
            let fetches = fetched(&fetches);
            assert_eq!(fetches.len(), if stops { 2 } else { 1 });
            assert!(fetches.iter().skip(1).all(|(from, _)| *from >= before as u64), "{fetches:?}");
            plane.end();
        }
    }
}

#[test]
fn a_fill_is_gone_on_with_after_a_restart_and_what_did_not_outlive_it_is_fetched_again() {
    for leg in legs() {
        let mut plane = Plane::start(leg);
        let blob = content(4 * MIB);
        let digest = sha256(&blob);
        let three_quarters = breaking(&mut plane, &blob, vec![3 * MIB, 0, 0, 0], true);
        let mut client = plane.client();
        client.send("GET", &target(&digest), b"");
        is_cut(&mut client, blob.len());
        assert_eq!(fetched(&three_quarters).len(), 4);
        let place = plane.place.clone();
        plane.end();
        let fill = fs::read_dir(place.path("fills")).unwrap().next().unwrap().unwrap().path();
        // As a power cut would leave it: the journal knows of bytes that are zeros.
        let file = fs::OpenOptions::new().write(true).open(fill.join("data")).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[0; 1000], MIB as u64 + 7).unwrap();

        let mut plane = Plane::over(place, leg, false, Plane::limits());
        let whole = blob.clone();
        let fetches = play(&mut plane, Some(blob.len()), move |_, from, to| honest(&whole, from, to));
        let answer = plane.client().get(&target(&digest));
        assert!(answer.status == 200 && answer.body == blob);
        let (hole, chunk) = (MIB as u64, 256 * 1024);
        assert_eq!(fetched(&fetches), [(hole, Some(hole + chunk)), (3 * MIB as u64, None)]);
        plane.end();
    }
}

#[test]
fn what_is_put_together_of_wrong_bytes_is_fetched_once_more_in_one_piece() {
    for leg in legs() {
        // As often as one request joins a fill, and once less.
        for wrong in [FILL_JOINS_MAX - 1, FILL_JOINS_MAX] {
            let mut plane = Plane::start(leg);
            let blob = content(HELD_BACK_BYTES as usize);
            let digest = sha256(&blob);
            let whole = blob.clone();
            // Each fill is broken once, and then gone on with by other bytes.
            let fetches = play(&mut plane, Some(blob.len()), move |number, from, to| {
                let mut sent = whole.clone();
                if number < 2 * wrong {
                    *sent.last_mut().unwrap() ^= 1;
                }
                let mut played = honest(&sent, from, to)?.unwrap();
                if number % 2 == 0 && number < 2 * wrong {
                    played.pieces =
                        vec![Piece::Bytes(sent[..1000].to_vec()), Piece::Fail(Problem::UpstreamTimeout)];
                }
                Ok(Some(played))
            });
            let answer = plane.client().get(&target(&digest));
            if wrong < FILL_JOINS_MAX {
                assert!(answer.status == 200 && answer.body == blob, "{}", answer.head);
                assert_eq!(fetched(&fetches).last(), Some(&(0, None)));
            } else {
                assert_eq!(answer.status, 502);
            }
            assert_eq!(sample(&plane, "mismatches_total"), wrong as u64);
            plane.end();
        }
    }
}

#[test]
fn fills_are_bounded_and_those_that_nobody_wants_make_room() {
    let mut plane = Plane::start(Driver::Epoll);
    let (open, gate) = mpsc::channel::<()>();
    let gate = Arc::new(Mutex::new(gate));
    let len = HELD_BACK_BYTES as usize + 1;
    play(&mut plane, Some(len), move |_, _, _| {
        let (forward, held) = mpsc::channel::<()>();
        let gate = gate.clone();
        thread::spawn(move || {
            let _until_the_end = gate.lock().unwrap().recv();
            drop(forward);
        });
        Ok(Some(Played { start: 0, size_bytes: Some(len as u64), pieces: vec![Piece::Gate(held)] }))
    });
    let digest = |number: usize| sha256(&number.to_le_bytes());
    let mut clients: Vec<Client> = (0..FILLS_MAX)
        .map(|number| {
            let mut client = plane.client();
            client.send("GET", &target(&digest(number)), b"");
            client.read_head().unwrap();
            client
        })
        .collect();
    plane.client().get(&target(&digest(FILLS_MAX))).is_overload();
    drop(clients.split_off(0));
    drop(open);
    let mut last = plane.client();
    until("there is room again", || {
        last.send("GET", &target(&digest(FILLS_MAX)), b"");
        let answer = last.read_head().unwrap();
        let status = answer.status;
        if status != 200 {
            let length = answer.field("content-length").unwrap().parse().unwrap();
            last.read_rest(length).unwrap();
        }
        // What becomes of it, now that its origin ends early, is another matter.
        status != 503
    });
    plane.end();
}
