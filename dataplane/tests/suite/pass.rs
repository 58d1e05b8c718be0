//! Without room for it a blob of an upstream is passed through: whole, verified, and never a failed pull.
//! Storage rules: "Pass-through".

use std::{
    fs,
    sync::{Arc, Mutex, mpsc},
    thread,
};

use dataplane::{
    limits::{FILL_ROOM_BYTES, HELD_BACK_BYTES, PASS_WINDOW_BYTES, PASS_WINDOWS_MAX, PASSES_MAX},
    testing::{Call, Driver},
};
use oci::{Digest, Problem};

use crate::{
    fills::{MIB, Piece, Played, content, fetched, honest, is_cut, play, play_each, ranged, sample, target},
    plane::{Client, Plane},
    rig::{legs, sha256, until},
};

const ENOSPC: i32 = 28;

#[test]
fn a_blob_without_room_is_passed_through_from_its_start_or_from_where_the_room_ended() {
    for leg in legs() {
        for len in [5000, HELD_BACK_BYTES as usize + 1, 3 * MIB + 17] {
            for units in [0, 1, 2] {
                let mut plane = Plane::start(leg);
                let blob = content(len);
                let digest = sha256(&blob);
                let whole = blob.clone();
                let fetches = play(&mut plane, Some(len), move |_, from, to| honest(&whole, from, to));
                plane.faults.fail(Call::Allocate, units, ENOSPC);
                let mut client = plane.client();
                let answer = client.get(&target(&digest));
                assert!(answer.status == 200 && answer.body == blob, "{len}: {}", answer.head);
                let fits = len as u64 <= units as u64 * FILL_ROOM_BYTES;
                let is_told = len as u64 > HELD_BACK_BYTES && answer.field("gantry-cache") == Some("fill");
                let came = if fits || is_told { "fill" } else { "pass" };
                assert_eq!(answer.field("gantry-cache"), Some(came), "{len} in {units}");
                assert_eq!(sample(&plane, "passes_total"), u64::from(!fits));
                assert_eq!(fetched(&fetches), [(0, None)], "the one request goes on");
                if !fits {
                    let gone = || fs::read_dir(plane.place.path("fills")).unwrap().next().is_none();
                    until("nothing is left of it", gone);
                    assert!(!plane.place.blob(&digest).exists());
                }
                plane.faults.heal();
                assert!(client.get(&target(&digest)).body == blob);
                if units == 1 {
                    until("with room again it is kept", || plane.place.blob(&digest).exists());
                }
                plane.end();
            }
        }
    }
}

#[test]
fn a_part_without_room_is_passed_through() {
    for leg in legs() {
        let mut plane = Plane::start(leg);
        let blob = content(8 * MIB);
        let digest = sha256(&blob);
        let whole = blob.clone();
        play(&mut plane, Some(blob.len()), move |_, from, to| honest(&whole, from, to));
        plane.faults.fail(Call::Allocate, 0, ENOSPC);
        let mut client = plane.client();
        let end = 8 * MIB;
        for (range, start, end) in
            [("-1000", end - 1000, end), ("0-9", 0, 10), ("5000000-6999999", 5_000_000, 7_000_000)]
        {
            ranged(&mut client, &digest, range);
            let answer = client.read().unwrap();
            assert_eq!((answer.status, answer.field("gantry-cache")), (206, Some("pass")));
            assert!(answer.body == blob[start..end], "{range}");
        }
        plane.end();
    }
}

#[test]
fn what_is_passed_through_is_verified_and_gone_on_with_like_what_is_kept() {
    for leg in legs() {
        for (wrong, len) in [(true, 1000), (true, 2 * MIB), (false, 2 * MIB)] {
            let mut plane = Plane::start(leg);
            let blob = content(len);
            let digest = sha256(&blob);
            let whole = blob.clone();
            play(&mut plane, Some(len), move |number, from, to| {
                let mut sent = whole.clone();
                *sent.last_mut().unwrap() ^= u8::from(wrong);
                let mut played = honest(&sent, from, to)?.unwrap();
                if number == 0 && !wrong {
                    let Some(Piece::Bytes(bytes)) = played.pieces.first_mut() else { panic!() };
                    bytes.truncate(MIB);
                    played.pieces.push(Piece::Fail(Problem::UpstreamTimeout));
                }
                Ok(Some(played))
            });
            plane.faults.fail(Call::Allocate, 0, ENOSPC);
            let mut client = plane.client();
            client.send("GET", &target(&digest), b"");
            match (wrong, len as u64 > HELD_BACK_BYTES) {
                (false, _) => assert!(client.read().unwrap().body == blob),
                (true, true) => is_cut(&mut client, len),
                (true, false) => assert_eq!(client.read().unwrap().status, 502),
            }
            plane.end();
        }
    }
}

/// Sends the bytes of `blob` piece by piece, each when it is told to.
fn by_piece(blob: &[u8], from: u64, pieces: usize) -> (Played, Vec<mpsc::Sender<()>>) {
    let (mut gates, mut played) = (Vec::new(), Vec::new());
    for part in blob[from as usize..].chunks(blob.len().div_ceil(pieces)) {
        let (open, gate) = mpsc::channel();
        gates.push(open);
        played.push(Piece::Gate(gate));
        played.push(Piece::Bytes(part.to_vec()));
    }
    (Played { start: from, size_bytes: Some(blob.len() as u64), pieces: played }, gates)
}

type Gates = Arc<Mutex<Vec<mpsc::Sender<()>>>>;

/// An upstream without room for its blob, whose first answer waits for the test before each MiB, and gives the others at
/// once, `changed` by their number.
fn without_room(
    plane: &mut Plane,
    blob: &[u8],
    changed: impl Fn(usize, &mut Vec<u8>) + Send + 'static,
) -> (Gates, crate::fills::Fetches) {
    let (gates, whole) = (Gates::default(), blob.to_vec());
    let to_fill = gates.clone();
    let fetches = play(plane, Some(blob.len()), move |number, from, to| {
        let mut sent = whole.clone();
        changed(number, &mut sent);
        if number > 0 {
            return honest(&sent, from, to);
        }
        let (played, gates) = by_piece(&sent, from, sent.len() / MIB);
        *to_fill.lock().unwrap() = gates;
        Ok(Some(played))
    });
    plane.faults.fail(Call::Allocate, 0, ENOSPC);
    (gates, fetches)
}

/// A client whose answer has begun.
fn begun(plane: &Plane, digest: &Digest, came: &str) -> Client {
    let mut client = plane.client();
    client.send("GET", &target(digest), b"");
    let head = client.read_head().unwrap();
    assert_eq!((head.status, head.field("gantry-cache")), (200, Some(came)));
    client
}

#[test]
fn all_who_are_in_step_share_one_request_and_who_comes_late_has_its_own() {
    const READERS: usize = 12;
    for leg in legs() {
        let mut plane = Plane::start(leg);
        let blob = content(8 * MIB);
        let digest = sha256(&blob);
        let (gates, fetches) = without_room(&mut plane, &blob, |_, _| {});
        let mut clients: Vec<Client> = (0..READERS).map(|_| begun(&plane, &digest, "fill")).collect();
        let gates = std::mem::take(&mut *gates.lock().unwrap());
        assert_eq!(gates.len(), 8);
        let mut late = None;
        for (number, gate) in gates.iter().enumerate() {
            gate.send(()).unwrap();
            let start = number * MIB;
            // The last of them is held back until all was verified.
            let end = if number < 7 { start + MIB } else { 8 * MIB };
            for client in &mut clients {
                assert!(client.read_rest(end - start).unwrap() == blob[start..end]);
            }
            match number {
                0 => {
                    let mut client = begun(&plane, &digest, "pass");
                    assert!(client.read_rest(MIB).unwrap() == blob[..MIB]);
                    clients.push(client);
                }
                6 => {
                    assert_eq!(fetched(&fetches), [(0, None)]);
                    assert_eq!(sample(&plane, "pass_requests_total"), 0);
                    late = Some(begun(&plane, &digest, "pass"));
                }
                _ => {}
            }
        }
        assert!(late.unwrap().read_rest(8 * MIB).unwrap() == blob);
        assert_eq!(fetched(&fetches), [(0, None), (0, None)]);
        assert_eq!(sample(&plane, "pass_requests_total"), 1);
        assert_eq!(sample(&plane, "passes_total"), READERS as u64 + 2);
        plane.end();
    }
}

#[test]
fn who_is_too_slow_falls_out_and_each_answer_is_verified_by_itself() {
    for leg in legs() {
        // More than sockets hold.
        let blob = content(24 * MIB);
        let digest = sha256(&blob);
        for wrong in [None, Some(0), Some(1)] {
            let mut plane = Plane::start(leg);
            let (gates, fetches) = without_room(&mut plane, &blob, move |number, sent| {
                *sent.last_mut().unwrap() ^= u8::from(wrong == Some(number));
            });
            let mut fast = begun(&plane, &digest, "fill");
            let mut slow = begun(&plane, &digest, "fill");
            gates.lock().unwrap().iter().for_each(|gate| gate.send(()).unwrap());
            let front = blob.len() - HELD_BACK_BYTES as usize;
            assert!(fast.read_rest(front).unwrap() == blob[..front], "nobody holds it up");
            let held = fast.read_rest(blob.len() - front);
            assert_eq!(held.is_ok(), wrong != Some(0));
            assert!(held.is_err() || held.unwrap() == blob[front..]);
            assert!(slow.read_rest(front).unwrap() == blob[..front]);
            let held = slow.read_rest(blob.len() - front);
            assert_eq!(held.is_ok(), wrong != Some(1));
            assert!(held.is_err() || held.unwrap() == blob[front..]);
            let asked = fetched(&fetches);
            assert!(asked.len() == 2 && asked[1].0 > 0, "from where it was: {asked:?}");
            assert_eq!(sample(&plane, "pass_requests_total"), 1);
            plane.end();
        }
    }
}

#[test]
fn wrong_bytes_cut_all_who_share_them() {
    for leg in legs() {
        let mut plane = Plane::start(leg);
        let blob = content(3 * MIB);
        let digest = sha256(&blob);
        let (gates, fetches) = without_room(&mut plane, &blob, |number, sent| {
            sent[2 * MIB] ^= u8::from(number == 0);
        });
        let mut clients: Vec<Client> = (0..5).map(|_| begun(&plane, &digest, "fill")).collect();
        gates.lock().unwrap().iter().for_each(|gate| gate.send(()).unwrap());
        for client in &mut clients {
            assert!(client.read_rest(blob.len()).is_err());
        }
        assert_eq!(fetched(&fetches), [(0, None)]);
        assert_eq!(sample(&plane, "mismatches_total"), 1);
        // Whoever asks next asks anew.
        assert!(plane.client().get(&target(&digest)).body == blob);
        plane.end();
    }
}

#[test]
fn one_of_unknown_length_is_answered_when_all_of_it_came() {
    for leg in legs() {
        for (len, pushed, requests) in
            [(0, 0, 0), (1000, 0, 0), (PASS_WINDOW_BYTES as usize, 0, 0), (6 * MIB, 0, 1), (6 * MIB, 1, 1)]
        {
            for wrong in [false, true] {
                let mut plane = Plane::start(leg);
                let blob = content(len);
                let digest = sha256(&blob);
                let mut sent = blob.clone();
                match sent.last_mut() {
                    Some(last) => *last ^= u8::from(wrong),
                    None if wrong => sent.push(0),
                    None => {}
                }
                let fetches = play(&mut plane, None, move |_, from, to| {
                    let played = honest(&sent, from, to)?.unwrap();
                    Ok(Some(Played { size_bytes: None, ..played }))
                });
                let fails = if len == 0 { Call::Create } else { Call::Allocate };
                plane.faults.fail(fails, pushed, ENOSPC);
                let answer = plane.client().get(&target(&digest));
                if wrong {
                    assert_eq!(answer.status, 502);
                } else {
                    assert_eq!((answer.status, answer.field("gantry-cache")), (200, Some("pass")), "{len}");
                    assert!(answer.body == blob);
                    assert_eq!(fetched(&fetches), vec![(0, None); 1 + requests as usize]);
                    assert_eq!(sample(&plane, "pass_requests_total"), requests);
                }
                plane.end();
            }
        }
    }
}

#[test]
fn a_write_that_finds_no_room_is_no_failed_pull() {
    for leg in legs() {
        for len in [1000, MIB, 3 * MIB + 17] {
            // Writes of the journal are among them, and may fail without anybody's harm.
            for fine in 0..8 {
                let mut plane = Plane::start(leg);
                let blob = content(len);
                let digest = sha256(&blob);
                let whole = blob.clone();
                let fetches = play(&mut plane, Some(len), move |_, from, to| honest(&whole, from, to));
                plane.faults.fail(Call::Write, fine, ENOSPC);
                let answer = plane.client().get(&target(&digest));
                assert!(answer.status == 200 && answer.body == blob, "{len} {fine}: {}", answer.head);
                assert_eq!(fetched(&fetches), [(0, None)]);
                plane.end();
            }
        }
    }
}

#[test]
fn parts_of_one_answer_pass_through_one_after_the_other() {
    for leg in legs() {
        let mut plane = Plane::start(leg);
        let blob = content(6 * MIB);
        let digest = sha256(&blob);
        let whole = blob.clone();
        play(&mut plane, Some(blob.len()), move |_, from, to| honest(&whole, from, to));
        // Room for some of it.
        plane.faults.fail(Call::Allocate, 2, ENOSPC);
        let mut client = plane.client();
        ranged(&mut client, &digest, "0-99,3000000-4000000,5000000-5999999");
        let answer = client.read().unwrap();
        assert_eq!(answer.status, 206, "{}", answer.head);
        let body = answer.body;
        let has = |part: &[u8]| body.windows(part.len()).any(|window| window == part);
        assert!(has(&blob[..100]) && has(&blob[5_999_000..6_000_000]));
        assert!(body.windows(64).any(|window| window == &blob[3_000_000..3_000_064]));
        plane.end();
    }
}

/// Bytes of parts as a body has them, each behind its head.
fn has_parts(body: &[u8], blob: &[u8], parts: &[(usize, usize)]) -> bool {
    let mut rest = body;
    parts.iter().all(|(start, end)| {
        let head_len = rest.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        let head = String::from_utf8_lossy(&rest[..head_len]).into_owned();
        let (part, behind) = rest[head_len..].split_at(end - start);
        rest = behind;
        head.contains(&format!("bytes {start}-{}/{}", end - 1, blob.len())) && part == &blob[*start..*end]
    }) && rest.ends_with(b"--\r\n")
}

/// Wherever that is: before, in, between and behind its parts. They come in the blob's order.
#[test]
fn parts_with_both_ends_are_verified_as_a_whole_where_the_room_ends() {
    for leg in legs() {
        for units in [1, 2, 3, 4, 5] {
            for is_right in [true, false] {
                let mut plane = Plane::start(leg);
                let blob = content(6 * MIB);
                let digest = sha256(&blob);
                let mut sent = blob.clone();
                // In none of the parts.
                sent[5 * MIB + 300_000] ^= u8::from(!is_right);
                let all = sent.clone();
                play(&mut plane, Some(blob.len()), move |_, from, to| honest(&all, from, to));
                plane.faults.fail(Call::Allocate, units, ENOSPC);
                let last = blob.len() - 1;
                let mut client = plane.client();
                let asked = format!("2000000-2999999,{}-{last},0-999999,5000000-5000099", last - 70_000);
                ranged(&mut client, &digest, &asked);
                let head = client.read_head().unwrap();
                assert_eq!(head.status, 206, "{}", head.head);
                let length = head.field("content-length").unwrap().parse().unwrap();
                let body = client.read_rest(length);
                assert_eq!(body.is_ok(), is_right, "{units}");
                let parts = [
                    (0, 1_000_000),
                    (2_000_000, 3_000_000),
                    (5_000_000, 5_000_100),
                    (last - 70_000, last + 1),
                ];
                assert!(body.is_err() || has_parts(&body.unwrap(), &blob, &parts), "{units}");
                plane.end();
            }
        }
    }
}

/// Nothing is sent meanwhile, so nothing tells but the hang-up.
#[test]
fn who_leaves_between_two_parts_of_what_is_verified_as_a_whole_is_let_go() {
    for leg in legs() {
        let mut plane = Plane::start(leg);
        let blob = content(24 * MIB);
        let digest = sha256(&blob);
        let all = blob.clone();
        play(&mut plane, Some(blob.len()), move |_, from, _| {
            let pieces = vec![Piece::Drip(all[from as usize..].to_vec())];
            Ok(Some(Played { start: from, size_bytes: Some(all.len() as u64), pieces }))
        });
        plane.faults.fail(Call::Allocate, 1, ENOSPC);
        let mut client = plane.client();
        ranged(&mut client, &digest, "0-65535,-65536");
        assert_eq!(client.read_head().unwrap().status, 206);
        let first = client.read_rest(65_700).unwrap();
        assert!(first.windows(64).any(|window| window == &blob[65_472..65_536]));
        drop(client);
        let open_connections = || plane.sample("gantry_http_open_connections{core=\"0\"}");
        until("it is let go", || open_connections() == 0);
        assert!(sample(&plane, "fetched_bytes_total") < blob.len() as u64);
        plane.end();
    }
}

#[test]
fn requests_of_their_own_are_bounded() {
    let mut plane = Plane::start(Driver::Epoll);
    let blob = content(MIB);
    let digest = sha256(&blob);
    let (open, gate) = mpsc::channel::<()>();
    let gate = Arc::new(Mutex::new(gate));
    let whole = blob.clone();
    play(&mut plane, Some(blob.len()), move |_, from, to| {
        let gate = gate.clone();
        let (held, opened) = mpsc::channel::<()>();
        thread::spawn(move || {
            let _until_the_end = gate.lock().unwrap().recv();
            drop(held);
        });
        let mut played = honest(&whole, from, to)?.unwrap();
        let (front, back) = whole[from as usize..].split_at(MIB / 2);
        played.pieces = vec![Piece::Bytes(front.to_vec()), Piece::Gate(opened), Piece::Bytes(back.to_vec())];
        Ok(Some(played))
    });
    plane.faults.fail(Call::Allocate, 0, ENOSPC);
    // A part is never shared.
    let wants = |plane: &Plane| {
        let mut client = plane.client();
        ranged(&mut client, &digest, "1-");
        client
    };
    let mut clients: Vec<Client> = (0..PASSES_MAX).map(|_| wants(&plane)).collect();
    // They all have their place by their first bytes.
    for client in &mut clients {
        assert_eq!(client.read_head().unwrap().status, 206);
        client.read_rest(1).unwrap();
    }
    // One more is told so; or is cut, if its answer had begun while its blob was taken to have room.
    let one_more = |plane: &Plane| wants(plane).read().map(|answer| answer.status);
    assert!(matches!(one_more(&plane), Ok(503) | Err(_)));
    drop(open);
    for client in &mut clients {
        assert!(client.read_rest(MIB - 2).unwrap() == blob[2..]);
    }
    until("their places are free", || matches!(one_more(&plane), Ok(206)));
    plane.end();
}

#[test]
fn blobs_that_pass_through_memory_are_bounded() {
    let mut plane = Plane::start(Driver::Epoll);
    let blobs: Vec<Vec<u8>> = (0..=PASS_WINDOWS_MAX).map(|number| content(2 * MIB + number)).collect();
    let digests: Vec<Digest> = blobs.iter().map(|blob| sha256(blob)).collect();
    let (open, all) = (Gates::default(), blobs.clone());
    let gates = open.clone();
    let fetches = play_each(&mut plane, None, move |digest, _, from, _| {
        let blob = all.iter().find(|blob| sha256(blob) == *digest).unwrap();
        let (played, mut opened) = by_piece(blob, from, 2);
        opened.remove(0).send(()).unwrap();
        gates.lock().unwrap().extend(opened);
        Ok(Some(played))
    });
    plane.faults.fail(Call::Allocate, 0, ENOSPC);
    let mut clients = Vec::new();
    for (digest, blob) in digests.iter().zip(&blobs) {
        for _ in 0..2 {
            let mut client = plane.client();
            client.send("GET", &target(digest), b"");
            assert_eq!(client.read_head().unwrap().status, 200);
            assert!(client.read_rest(MIB / 2).unwrap() == blob[..MIB / 2]);
            clients.push((client, blob));
        }
    }
    // The last blob found all windows taken: the request that saw that there is no room, and one for each.
    assert!(sample(&plane, "pass_requests_total") == 2, "{:?}", fetched(&fetches));
    // A gate that is dropped is open.
    open.lock().unwrap().clear();
    for (client, blob) in &mut clients {
        assert!(client.read_rest(blob.len() - MIB / 2).unwrap() == blob[MIB / 2..]);
    }
    plane.end();
}

/// Whatever it is called: the whole, a part that is all of it, or parts that are.
#[test]
fn without_room_no_answer_with_all_of_a_blob_becomes_whole_unverified_if_its_length_is_told_late() {
    for leg in legs() {
        for (range, status) in [(None, 200), (Some("0-"), 206), (Some("1048576-,0-1048575"), 206)] {
            for told in [false, true] {
                let mut plane = Plane::start(leg);
                let blob = content(3 * MIB);
                let digest = sha256(&blob);
                let mut sent = blob.clone();
                *sent.last_mut().unwrap() ^= 1;
                play(&mut plane, told.then_some(blob.len()), move |_, from, to| honest(&sent, from, to));
                // The room ends when the answer has begun.
                plane.faults.fail(Call::Allocate, 1, ENOSPC);
                let mut client = plane.client();
                match range {
                    Some(range) => ranged(&mut client, &digest, range),
                    None => client.send("GET", &target(&digest), b""),
                }
                let head = client.read_head().unwrap();
                assert_eq!(head.status, status, "{}", head.head);
                let length = head.field("content-length").unwrap().parse().unwrap();
                assert!(client.read_rest(length).is_err(), "all of {range:?} came, and it is wrong");
                plane.end();
            }
        }
    }
}

#[test]
fn a_part_ahead_of_a_run_is_passed_through_if_only_the_run_has_room() {
    for leg in legs() {
        let mut plane = Plane::start(leg);
        let blob = content(8 * MIB);
        let digest = sha256(&blob);
        let whole = blob.clone();
        let (open, gate) = mpsc::channel::<()>();
        let mut gate = Some(gate);
        play(&mut plane, Some(blob.len()), move |_, from, to| {
            let Some(gate) = gate.take() else { return honest(&whole, from, to) };
            let (front, back) = whole.split_at(MIB / 2);
            let pieces = vec![Piece::Bytes(front.to_vec()), Piece::Gate(gate), Piece::Bytes(back.to_vec())];
            Ok(Some(Played { start: 0, size_bytes: Some(whole.len() as u64), pieces }))
        });
        let mut client = begun(&plane, &digest, "fill");
        let mut body = client.read_rest(MIB / 2).unwrap();
        plane.faults.fail(Call::Allocate, 0, ENOSPC);
        let mut part = plane.client();
        ranged(&mut part, &digest, "6291456-6292455");
        let answer = part.read().unwrap();
        assert_eq!((answer.status, answer.field("gantry-cache")), (206, Some("pass")));
        assert!(answer.body == blob[6 * MIB..6 * MIB + 1000]);
        plane.faults.heal();
        drop(open);
        body.extend(client.read_rest(blob.len() - MIB / 2).unwrap());
        assert!(body == blob);
        plane.end();
    }
}
