//! Who leaves: a client whose fill goes on for nobody, and a process that leaves its fills to the next.
//! Storage rules: "Fills".

use std::{fs, sync::mpsc, thread, time::Duration};

use dataplane::testing::Call;
use oci::Problem;

use crate::{
    fills::{MIB, Piece, Played, content, fetched, honest, is_cut, play, ranged, sample, target},
    plane::Plane,
    rig::{legs, sha256, until},
};

const EIO: i32 = 5;
const EAGAIN: i32 = 11;

#[test]
fn a_client_that_left_while_its_answer_waits_wants_nothing_any_more() {
    for leg in legs() {
        let mut plane = Plane::start(leg);
        let blob = content(8 * MIB);
        let digest = sha256(&blob);
        let whole = blob.clone();
        play(&mut plane, Some(blob.len()), move |_, from, _| {
            let pieces = vec![Piece::Drip(whole[from as usize..].to_vec())];
            Ok(Some(Played { start: from, size_bytes: Some(whole.len() as u64), pieces }))
        });
        let mut client = plane.client();
        // All of it is held back: nothing is sent, so nothing tells but the hang-up.
        ranged(&mut client, &digest, "0-8191");
        assert_eq!(client.read_head().unwrap().status, 206);
        drop(client);
        until("it has ended", || sample(&plane, "running") == 0);
        let fetched_bytes = sample(&plane, "fetched_bytes_total");
        assert_eq!(sample(&plane, "stops_total"), 1, "{fetched_bytes} bytes were fetched");
        let answer = plane.client().get(&target(&digest));
        assert!(answer.status == 200 && answer.body == blob);
        plane.end();
    }
}

/// The answer has not begun, and with so few bytes it does not before all are there.
#[test]
fn who_leaves_before_a_short_answer_begins_is_let_go() {
    for leg in legs() {
        for tells_length in [true, false] {
            let mut plane = Plane::start(leg);
            let blob = content(200_000);
            let digest = sha256(&blob);
            let whole = blob.clone();
            let (open, gate) = mpsc::channel::<()>();
            let mut gate = Some(gate);
            play(&mut plane, tells_length.then_some(blob.len()), move |_, from, _| {
                let mut pieces = vec![Piece::Bytes(whole[from as usize..].to_vec())];
                if let Some(gate) = gate.take() {
                    let (front, back) = whole.split_at(60_000);
                    pieces =
                        vec![Piece::Bytes(front.to_vec()), Piece::Gate(gate), Piece::Drip(back.to_vec())];
                }
                Ok(Some(Played {
                    start: from,
                    size_bytes: tells_length.then_some(whole.len() as u64),
                    pieces,
                }))
            });
            let mut gone = plane.client();
            gone.send("GET", &target(&digest), b"");
            until("its first bytes are there", || sample(&plane, "fetched_bytes_total") > 0);
            let open_connections = || plane.sample("gantry_http_open_connections{core=\"0\"}");
            assert_eq!(open_connections(), 1);
            drop(gone);
            drop(open);
            until("it is let go", || open_connections() == 0);
            let answer = plane.client().get(&target(&digest));
            assert!(answer.status == 200 && answer.body == blob);
            plane.end();
        }
    }
}

#[test]
fn who_only_sends_no_more_gets_what_others_have_fetched() {
    for leg in legs() {
        let mut plane = Plane::start(leg);
        let blob = content(4 * MIB);
        let digest = sha256(&blob);
        let whole = blob.clone();
        play(&mut plane, Some(blob.len()), move |_, from, _| {
            let pieces = vec![Piece::Drip(whole[from as usize..].to_vec())];
            Ok(Some(Played { start: from, size_bytes: Some(whole.len() as u64), pieces }))
        });
        let mut stays = plane.client();
        stays.send("GET", &target(&digest), b"");
        assert_eq!(stays.read_head().unwrap().status, 200);
        let mut half = plane.client();
        half.send("GET", &target(&digest), b"");
        half.stream.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(half.read().unwrap().body == blob);
        assert!(stays.read_rest(blob.len()).unwrap() == blob);
        plane.end();
    }
}

#[test]
fn a_stop_in_good_order_keeps_what_is_there() {
    for leg in legs() {
        let mut plane = Plane::start(leg);
        let blob = content(24 * MIB);
        let digest = sha256(&blob);
        let whole = blob.clone();
        play(&mut plane, Some(blob.len()), move |_, _, _| {
            let (front, back) = whole.split_at(4 * MIB);
            let pieces = vec![Piece::Bytes(front.to_vec()), Piece::Drip(back.to_vec())];
            Ok(Some(Played { start: 0, size_bytes: Some(whole.len() as u64), pieces }))
        });
        let mut client = plane.client();
        client.send("GET", &target(&digest), b"");
        assert_eq!(client.read_head().unwrap().status, 200);
        client.read_rest(4 * MIB).unwrap();
        let place = plane.place.clone();
        let reading = thread::spawn(move || client.read_rest(20 * MIB).is_err());
        plane.end_within(Duration::from_millis(100));
        assert!(reading.join().unwrap(), "it was cut");
        assert_eq!(fs::read_dir(place.path("fills")).unwrap().count(), 1);
        let mut plane = Plane::caching(place, leg, 64 * MIB as u64);
        let whole = blob.clone();
        let fetches = play(&mut plane, Some(blob.len()), move |_, from, to| honest(&whole, from, to));
        assert!(plane.client().get(&target(&digest)).body == blob);
        let fetches = fetched(&fetches);
        assert!(fetches.iter().all(|(from, _)| *from >= 4 * MIB as u64 - 256 * 1024), "{fetches:?}");
        plane.end();
    }
}

#[test]
fn a_full_pool_is_waited_for_and_at_the_worst_the_fill_is_gone_on_with_later() {
    use dataplane::limits::FILL_BUSY_TRIES_MAX;
    for leg in legs() {
        for heals in [true, false] {
            let mut plane = Plane::start(leg);
            let blob = content(3 * MIB);
            let digest = sha256(&blob);
            let whole = blob.clone();
            let fetches = play(&mut plane, Some(blob.len()), move |_, from, to| honest(&whole, from, to));
            // After the header of its journal and some chunks.
            plane.faults.fail(Call::Write, 6, EAGAIN);
            let mut client = plane.client();
            client.send("GET", &target(&digest), b"");
            let mut tries = 0;
            let mut tried = |wanted| {
                until("it is tried", || {
                    let seen = plane.faults.take();
                    let writes =
                        |(call, name): &(Call, String)| *call == Call::Write && name.ends_with("data");
                    tries += seen.iter().filter(|seen| writes(seen)).count();
                    tries >= wanted
                });
            };
            if heals {
                tried(3 + 3);
                plane.faults.heal();
                assert!(client.read().unwrap().body == blob);
                assert_eq!(fetched(&fetches), [(0, None)], "what has come is not given up");
            } else {
                is_cut(&mut client, blob.len());
                tried(FILL_BUSY_TRIES_MAX as usize);
                plane.faults.heal();
                assert!(plane.client().get(&target(&digest)).body == blob);
                let fetches = fetched(&fetches);
                assert!(fetches[1..].iter().all(|(from, _)| *from > 0), "{fetches:?}");
            }
            plane.end();
        }
    }
}

#[test]
fn who_has_it_starts_no_fill() {
    use std::io::Write as _;
    for leg in legs() {
        let mut plane = Plane::start(leg);
        let digest = sha256(b"x");
        let fetches = play(&mut plane, None, |_, _, _| Err(Problem::UpstreamTimeout));
        let mut client = plane.client();
        let head =
            format!("GET {} HTTP/1.1\r\nHost: r\r\nIf-None-Match: \"{digest}\"\r\n\r\n", target(&digest));
        client.stream.write_all(head.as_bytes()).unwrap();
        assert_eq!(client.read_head().unwrap().status, 304);
        assert!(fetched(&fetches).is_empty());
        plane.end();
    }
}

#[test]
fn a_journal_that_is_too_long_is_not_read() {
    use dataplane::limits::FILL_JOURNAL_BYTES_MAX;
    for leg in legs() {
        for more in [0, 1] {
            let mut plane = Plane::start(leg);
            let blob = content(3 * MIB);
            let digest = sha256(&blob);
            let whole = blob.clone();
            play(&mut plane, Some(blob.len()), move |_, from, to| honest(&whole, from, to));
            let mut client = plane.client();
            ranged(&mut client, &digest, "-1000");
            assert_eq!(client.read().unwrap().status, 206);
            let place = plane.place.clone();
            plane.end();
            let fill = fs::read_dir(place.path("fills")).unwrap().next().unwrap().unwrap().path();
            let journal = fs::OpenOptions::new().write(true).open(fill.join("present")).unwrap();
            journal.set_len(FILL_JOURNAL_BYTES_MAX + more).unwrap();
            let plane = Plane::caching(place.clone(), leg, 64 * MIB as u64);
            assert_eq!(fs::read_dir(place.path("fills")).unwrap().count(), 1 - more as usize);
            plane.end();
        }
    }
}

#[test]
fn wrong_bytes_are_not_found_again_also_if_their_names_stay() {
    for leg in legs() {
        let mut plane = Plane::start(leg);
        let blob = content(3 * MIB);
        let digest = sha256(&blob);
        let mut wrong = blob.clone();
        *wrong.last_mut().unwrap() ^= 1;
        let (open, gate) = mpsc::channel::<()>();
        let mut gate = Some(gate);
        play(&mut plane, Some(blob.len()), move |_, from, to| {
            let mut played = honest(&wrong, from, to)?.unwrap();
            played.pieces.insert(0, Piece::Gate(gate.take().unwrap()));
            Ok(Some(played))
        });
        plane.faults.fail(Call::Unlink, 0, EIO);
        let mut client = plane.client();
        client.send("GET", &target(&digest), b"");
        assert_eq!(client.read_head().unwrap().status, 200);
        drop(open);
        assert!(client.read_rest(blob.len()).is_err());
        until("it has ended", || sample(&plane, "running") == 0);
        let place = plane.place.clone();
        plane.end();
        assert_eq!(fs::read_dir(place.path("fills")).unwrap().count(), 1);
        let plane = Plane::caching(place.clone(), leg, 64 * MIB as u64);
        assert_eq!(fs::read_dir(place.path("fills")).unwrap().count(), 0);
        plane.end();
    }
}
