//! Without room for it a blob of an upstream is passed through: whole, verified, and never a failed pull.
//! Storage rules: "Pass-through".

use std::{
    fs,
    sync::{Arc, Mutex, mpsc},
    thread,
};

use dataplane::{
    limits::{FILL_ROOM_BYTES, HELD_BACK_BYTES, PASSES_MAX},
    testing::{Call, Driver},
};
use oci::Problem;

use crate::{
    fills::{MIB, Piece, content, fetched, honest, is_cut, play, ranged, sample, target},
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
                if !fits {
                    let there = units as u64 * FILL_ROOM_BYTES;
                    let then = if is_told { there } else { 0 };
                    assert_eq!(fetched(&fetches), [(0, None), (then, None)]);
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
                // The first is the fill's, which finds no room; the second breaks.
                if number == 1 && !wrong {
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

#[test]
fn answers_that_pass_through_are_bounded() {
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
        let (front, back) = whole.split_at(whole.len() / 2);
        played.pieces = vec![Piece::Bytes(front.to_vec()), Piece::Gate(opened), Piece::Bytes(back.to_vec())];
        Ok(Some(played))
    });
    plane.faults.fail(Call::Allocate, 0, ENOSPC);
    let mut clients: Vec<Client> = (0..PASSES_MAX)
        .map(|_| {
            let mut client = plane.client();
            client.send("GET", &target(&digest), b"");
            assert_eq!(client.read_head().unwrap().status, 200);
            client
        })
        .collect();
    // They all have their place by their first bytes.
    for client in &mut clients {
        client.read_rest(1).unwrap();
    }
    // One more is told so; or is cut, if its answer had begun while its blob was taken to have room.
    let one_more = |plane: &Plane| {
        let mut client = plane.client();
        client.send("GET", &target(&digest), b"");
        client.read().map(|answer| answer.status)
    };
    assert!(matches!(one_more(&plane), Ok(503) | Err(_)));
    drop(open);
    for client in &mut clients {
        assert!(client.read_rest(MIB - 1).unwrap() == blob[1..]);
    }
    until("their places are free", || matches!(one_more(&plane), Ok(200)));
    plane.end();
}
