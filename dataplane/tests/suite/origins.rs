//! Several repositories share the fills of their blobs, and nothing of what each of them is told; those of several
//! upstreams share no byte before it is verified.
//! Storage rules: "Fills"; wire rules: "Pull-through".

use std::{
    collections::HashMap,
    io::Write as _,
    sync::{Arc, Mutex, mpsc},
    thread,
    time::Duration,
};

use bytes::Bytes;
use control::{Ask, Fetched, Link, Origin};
use dataplane::testing::Call;
use oci::{Digest, Problem, RepositoryName};

use crate::{
    fills::{MIB, content, sample},
    plane::{Client, Plane},
    rig::{legs, sha256, until},
};

const ENOSPC: i32 = 28;

/// A repository sends so many bytes, and fails when its gate is dropped; from then on it denies what is asked.
struct Failing {
    gate: mpsc::Receiver<()>,
    sends_bytes: usize,
}

type Asked = Arc<Mutex<Vec<(String, u64)>>>;

/// An upstream each of whose repositories has the blob, if it is none of those that fail.
fn serve(plane: &mut Plane, blob: &[u8], tells_length: bool, failing: Vec<(&str, Failing)>) -> Asked {
    let asked = Asked::default();
    let seen = asked.clone();
    let whole = blob.to_vec();
    let mut failing: HashMap<String, Failing> =
        failing.into_iter().map(|(name, failing)| (name.to_owned(), failing)).collect();
    let denies: Vec<String> = failing.keys().cloned().collect();
    plane.answer(move |ask| match ask {
        Ask::Link { repository, answer, .. } => {
            let there = repository.as_str().strip_prefix("hub/").unwrap();
            let origin = Origin { upstream: 0, repository: RepositoryName::parse(there).unwrap() };
            drop(answer.send(Ok(Some(Link::Upstream { origin, size_bytes: None }))));
        }
        Ask::Fetch { origin, from, to, answer, .. } => {
            seen.lock().unwrap().push((origin.repository.as_str().to_owned(), from));
            let failing = failing.remove(origin.repository.as_str());
            if failing.is_none() && denies.iter().any(|name| name == origin.repository.as_str()) {
                drop(answer.send(Err(Problem::NameUnknown(origin.repository))));
                return;
            }
            let end = to.map_or(whole.len(), |to| to as usize);
            let part = whole[from as usize..end].to_vec();
            let size_bytes = tells_length.then_some(whole.len() as u64);
            thread::spawn(move || {
                let problem = Problem::NameUnknown(origin.repository);
                let sends_bytes = failing.as_ref().map_or(part.len(), |failing| failing.sends_bytes);
                if let Some(Failing { gate, sends_bytes: 0 }) = &failing {
                    let _dropped = gate.recv();
                    drop(answer.send(Err(problem)));
                    return;
                }
                let (sender, bytes) = tokio::sync::mpsc::channel(4);
                drop(answer.send(Ok(Some(Fetched { start: from, is_whole: false, size_bytes, bytes }))));
                for piece in part[..sends_bytes].chunks(60_000) {
                    if sender.blocking_send(Ok(Bytes::copy_from_slice(piece))).is_err() {
                        return;
                    }
                }
                if let Some(failing) = failing {
                    let _dropped = failing.gate.recv();
                    let _gone = sender.blocking_send(Err(problem));
                }
            });
        }
        Ask::Home { digests, answer } => drop(answer.send(Ok(vec![None; digests.len()]))),
        _ => panic!("not asked here"),
    });
    asked
}

fn ask(plane: &Plane, repository: &str, digest: &Digest) -> Client {
    let mut client = plane.client();
    client.send("GET", &format!("/v2/hub/{repository}/blobs/{digest}"), b"");
    client
}

#[test]
fn what_one_repository_denies_another_gives_and_nobody_hears_its_name() {
    for leg in legs() {
        let mut plane = Plane::start(leg);
        let blob = content(2 * MIB);
        let digest = sha256(&blob);
        let (open, gate) = mpsc::channel::<()>();
        let failing = Failing { gate, sends_bytes: 0 };
        let asked = serve(&mut plane, &blob, true, vec![("secret/project", failing)]);
        let mut first = ask(&plane, "secret/project", &digest);
        until("it is asked", || !asked.lock().unwrap().is_empty());
        let mut second = ask(&plane, "public/thing", &digest);
        let mut third = ask(&plane, "public/thing", &digest);
        until("they have joined", || sample(&plane, "coalesced_total") == 2);
        drop(open);
        let denied = first.read().unwrap();
        assert_eq!(denied.status, 404);
        assert!(String::from_utf8_lossy(&denied.body).contains("secret/project"));
        for client in [&mut second, &mut third] {
            let answer = client.read().unwrap();
            assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
            assert!(answer.body == blob);
        }
        let asked = asked.lock().unwrap().clone();
        assert_eq!(asked, [("secret/project".to_owned(), 0), ("public/thing".to_owned(), 0)]);
        plane.end();
    }
}

#[test]
fn where_one_repository_fails_another_goes_on() {
    for leg in legs() {
        let mut plane = Plane::start(leg);
        let blob = content(4 * MIB);
        let digest = sha256(&blob);
        let (open, gate) = mpsc::channel::<()>();
        let failing = Failing { gate, sends_bytes: MIB };
        let asked = serve(&mut plane, &blob, true, vec![("first/one", failing)]);
        let mut first = ask(&plane, "first/one", &digest);
        assert_eq!(first.read_head().unwrap().status, 200);
        assert!(first.read_rest(MIB).unwrap() == blob[..MIB]);
        let mut second = ask(&plane, "second/one", &digest);
        assert_eq!(second.read_head().unwrap().status, 200);
        drop(open);
        assert!(second.read_rest(blob.len()).unwrap() == blob);
        assert!(first.read_rest(blob.len() - MIB).is_err(), "who has no other is cut");
        let last = asked.lock().unwrap().last().cloned();
        assert_eq!(last, Some(("second/one".to_owned(), MIB as u64)));
        plane.end();
    }
}

#[test]
fn without_room_each_has_its_own_repository_to_fall_back_on() {
    for leg in legs() {
        let mut plane = Plane::start(leg);
        let blob = content(4 * MIB);
        let digest = sha256(&blob);
        let (open, gate) = mpsc::channel::<()>();
        let failing = Failing { gate, sends_bytes: MIB };
        let asked = serve(&mut plane, &blob, true, vec![("first/one", failing)]);
        plane.faults.fail(Call::Allocate, 0, ENOSPC);
        let mut first = ask(&plane, "first/one", &digest);
        assert_eq!(first.read_head().unwrap().status, 200);
        let mut second = ask(&plane, "second/one", &digest);
        assert_eq!(second.read_head().unwrap().status, 200);
        until("both pass", || sample(&plane, "passes_total") == 2);
        drop(open);
        assert!(second.read_rest(blob.len()).unwrap() == blob);
        assert!(first.read_rest(blob.len()).is_err(), "who has no other is cut");
        assert_eq!(asked.lock().unwrap().last().unwrap().0, "second/one");
        plane.end();
    }
}

/// Where an answer waits.
struct Gate {
    upstream: u16,
    from: u64,
    after_bytes: usize,
    opens: mpsc::Receiver<()>,
}

/// Two upstreams have a blob, and the second gives other bytes. It sends the first mebibyte of the whole, and the rest when its
/// gate opens; parts at once.
fn serve_lies(plane: &mut Plane, blob: &[u8], gates: Vec<Gate>) -> Asked {
    let asked = Asked::default();
    let seen = asked.clone();
    let truth = blob.to_vec();
    let lie = lie(blob);
    let mut gates = gates;
    plane.answer(move |ask| match ask {
        Ask::Link { repository, answer, .. } => {
            let (prefix, there) = repository.as_str().split_once('/').unwrap();
            let upstream = u16::from(prefix == "other");
            let origin = Origin { upstream, repository: RepositoryName::parse(there).unwrap() };
            drop(answer.send(Ok(Some(Link::Upstream { origin, size_bytes: Some(truth.len() as u64) }))));
        }
        Ask::Fetch { origin, from, to, answer, .. } => {
            seen.lock().unwrap().push((origin.upstream.to_string(), from));
            let whole = if origin.upstream == 0 { &truth } else { &lie };
            let part = whole[from as usize..to.map_or(whole.len(), |to| to as usize)].to_vec();
            let its = gates.iter().position(|gate| (gate.upstream, gate.from) == (origin.upstream, from));
            let gate = its.map(|its| gates.swap_remove(its));
            let size_bytes = Some(whole.len() as u64);
            thread::spawn(move || {
                let (sender, bytes) = tokio::sync::mpsc::channel(4);
                drop(answer.send(Ok(Some(Fetched { start: from, is_whole: false, size_bytes, bytes }))));
                let mut sent_bytes = 0;
                for piece in part.chunks(MIB / 16) {
                    if let Some(gate) = gate.as_ref().filter(|gate| sent_bytes == gate.after_bytes) {
                        let _dropped = gate.opens.recv();
                    }
                    if sender.blocking_send(Ok(Bytes::copy_from_slice(piece))).is_err() {
                        return;
                    }
                    sent_bytes += piece.len();
                }
            });
        }
        Ask::Home { digests, answer } => drop(answer.send(Ok(vec![None; digests.len()]))),
        _ => panic!("not asked here"),
    });
    asked
}

fn lie(blob: &[u8]) -> Vec<u8> {
    blob.iter().map(|byte| !byte).collect()
}

fn part(plane: &Plane, repository: &str, digest: &Digest, range: &str) -> Client {
    let mut client = plane.client();
    let head =
        format!("GET /v2/{repository}/blobs/{digest} HTTP/1.1\r\nHost: r\r\nRange: bytes={range}\r\n\r\n");
    client.stream.write_all(head.as_bytes()).unwrap();
    client
}

/// Asks through both for what the second has given, in several ways: who asks the first gets none of it.
fn parts_of_both_are_their_own(plane: &Plane, blob: &[u8], digest: &Digest) {
    let lie = lie(blob);
    let (start, end) = (512 * 1024, 512 * 1024 + 100);
    let near = part(plane, "hub/thing", digest, &format!("{start}-{}", end - 1)).read().unwrap();
    assert_eq!((near.status, near.field("gantry-cache")), (206, Some("pass")));
    assert!(near.body == blob[start..end], "what the run brought");
    let (start, end) = (6 * MIB, 6 * MIB + 65_536);
    for (repository, whole, came) in [("other/thing", &lie[..], "partial"), ("hub/thing", blob, "pass")] {
        let far = part(plane, repository, digest, &format!("{start}-{}", end - 1)).read().unwrap();
        assert_eq!((far.status, far.field("gantry-cache")), (206, Some(came)), "{repository}");
        assert!(far.body == whole[start..end], "{repository}: what an extent brought");
    }
    let several = part(plane, "hub/thing", digest, &format!("0-99,{start}-{}", end - 1)).read().unwrap();
    assert_eq!(several.status, 200, "no parts of what passes");
    assert!(several.body == *blob);
}

#[test]
fn a_part_has_no_bytes_that_another_upstream_gave() {
    for leg in legs() {
        let mut plane = Plane::start(leg);
        let blob = content(8 * MIB);
        let digest = sha256(&blob);
        let (open, gate) = mpsc::channel::<()>();
        let asked =
            serve_lies(&mut plane, &blob, vec![Gate { upstream: 1, from: 0, after_bytes: MIB, opens: gate }]);
        let mut liar = part(&plane, "other/thing", &digest, "0-");
        assert_eq!(liar.read_head().unwrap().status, 206);
        assert!(liar.read_rest(MIB).unwrap() == lie(&blob)[..MIB]);
        let far = part(&plane, "other/thing", &digest, "6291456-6356991").read().unwrap();
        assert!(far.body == lie(&blob)[6 * MIB..6 * MIB + 65_536]);
        parts_of_both_are_their_own(&plane, &blob, &digest);
        // Who wants the whole waits until it is verified, whoever gives it.
        let mut whole = ask(&plane, "thing", &digest);
        drop(open);
        assert!(liar.read_rest(blob.len() - MIB).is_err(), "no lie is complete");
        let fresh = whole.read().ok().filter(|answer| answer.status == 200);
        let fresh = fresh.unwrap_or_else(|| ask(&plane, "thing", &digest).read().unwrap());
        assert!(fresh.status == 200 && fresh.body == blob);
        assert!(asked.lock().unwrap().iter().any(|(upstream, _)| upstream == "0"));
        plane.end();
    }
}

/// What of its answer waits for a slow client is not sent in another one.
#[test]
fn who_has_to_ask_its_own_upstream_in_the_middle_gets_that_and_then_what_it_asks_next() {
    for leg in legs() {
        for lacks_room in [false, true] {
            let mut plane = Plane::start(leg);
            let blob = content(24 * MIB);
            let digest = sha256(&blob);
            let (open, gate) = mpsc::channel::<()>();
            let (open_far, far_gate) = mpsc::channel::<()>();
            let far_at = 14 * MIB;
            let gates = vec![
                Gate { upstream: 0, from: 0, after_bytes: 12 * MIB, opens: gate },
                Gate { upstream: 1, from: far_at as u64, after_bytes: 0, opens: far_gate },
            ];
            let asked = serve_lies(&mut plane, &blob, gates);
            // It asks while nobody has given anything, and gets it when another has.
            let far = format!("{far_at}-{}", far_at + 65_535);
            let mut far = part(&plane, "other/thing", &digest, &far);
            until("it is asked for", || !asked.lock().unwrap().is_empty());
            let end = blob.len() - 2;
            let mut slow = part(&plane, "hub/thing", &digest, &format!("0-{}", end - 1));
            assert_eq!(slow.read_head().unwrap().status, 206);
            assert!(slow.read_rest(65_536).unwrap() == blob[..65_536]);
            // More than any socket takes, so some of it waits.
            until("the run has come to its gate", || {
                sample(&plane, "fetched_bytes_total") >= 12 * MIB as u64
            });
            drop(open_far);
            assert!(far.read().unwrap().body == lie(&blob)[far_at..far_at + 65_536]);
            if lacks_room {
                // Behind the other's bytes.
                plane.faults.fail(Call::Allocate, 2, ENOSPC);
                drop(open);
                until("the run is past them", || sample(&plane, "fetched_bytes_total") > 14 * MIB as u64);
                thread::sleep(Duration::from_millis(200));
            }
            assert!(
                slow.read_rest(end - 65_536).unwrap() == blob[65_536..end],
                "all of it is its own upstream's"
            );
            plane.faults.heal();
            let head = format!(
                "GET /v2/hub/thing/blobs/{digest} HTTP/1.1\r\nHost: r\r\nRange: bytes=100-2000099\r\n\r\n"
            );
            slow.stream.write_all(head.as_bytes()).unwrap();
            let next = slow.read().unwrap();
            assert!(next.status == 206 && next.body == blob[100..2_000_100], "and so is what comes next");
            plane.end();
        }
    }
}

#[test]
fn whose_bytes_those_are_is_known_after_a_restart() {
    for leg in legs() {
        let mut plane = Plane::start(leg);
        let blob = content(8 * MIB);
        let digest = sha256(&blob);
        let (_open, gate) = mpsc::channel::<()>();
        serve_lies(&mut plane, &blob, vec![Gate { upstream: 1, from: 0, after_bytes: MIB, opens: gate }]);
        let mut liar = part(&plane, "other/thing", &digest, "0-");
        liar.read_head().unwrap();
        liar.read_rest(MIB).unwrap();
        part(&plane, "other/thing", &digest, "6291456-6356991").read().unwrap();
        let place = plane.place.clone();
        plane.end_within(Duration::ZERO);
        let mut again = Plane::over(place, leg, false, Plane::limits());
        let asked = serve_lies(&mut again, &blob, Vec::new());
        parts_of_both_are_their_own(&again, &blob, &digest);
        let of_the_liar: Vec<u64> = asked
            .lock()
            .unwrap()
            .iter()
            .filter(|(upstream, _)| upstream == "1")
            .map(|(_, from)| *from)
            .collect();
        assert!(of_the_liar.is_empty(), "what it gave is still there for its own readers");
        again.end();
    }
}
