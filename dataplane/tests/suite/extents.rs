//! Who wants a part far ahead of what a fill has gets it by a request of its own, and what that brings stays.
//! Storage rules: "Fills"; wire rules: "Held back until verified", "Resume and extents".

use std::{fs, sync::mpsc};

use control::{Ask, Fetched, Link};
use dataplane::{
    limits::{FILL_RESUMES_MAX, HELD_BACK_BYTES, Limits},
    testing::Driver,
};
use oci::{Digest, Problem};

use crate::{
    fills::{
        MIB, Piece, Played, breaking, content, fetched, honest, is_cut, play, play_each, ranged, sample,
        target,
    },
    plane::{Answer, Client, Plane},
    rig::{legs, sha256, until},
};

pub const CHUNK: u64 = 256 * 1024;

pub fn get(client: &mut Client, digest: &Digest, range: &str) -> Answer {
    ranged(client, digest, range);
    client.read().unwrap()
}

/// A plane with one blob at an honest origin.
pub fn one_blob(leg: Driver, blob: &[u8]) -> (Plane, Digest, crate::fills::Fetches) {
    let mut plane = Plane::start(leg);
    let whole = blob.to_vec();
    let fetches = play(&mut plane, Some(blob.len()), move |_, from, to| honest(&whole, from, to));
    (plane, sha256(blob), fetches)
}

#[test]
fn a_probe_fetches_its_chunk_and_never_the_whole() {
    for leg in legs() {
        let blob = content(8 * MIB + 100);
        let (plane, digest, fetches) = one_blob(leg, &blob);
        let mut client = plane.client();
        for _ in 0..2 {
            let footer = get(&mut client, &digest, "-1000");
            assert_eq!((footer.status, footer.field("gantry-cache")), (206, Some("partial")));
            assert!(footer.body == blob[blob.len() - 1000..]);
            let header = get(&mut client, &digest, "0-99");
            assert!(header.status == 206 && header.body == blob[..100]);
        }
        let end = blob.len() as u64;
        let last = (end - 1000) / CHUNK * CHUNK;
        assert_eq!(fetched(&fetches), [(last, Some(end)), (0, Some(CHUNK))]);
        assert!(!plane.place.blob(&digest).exists());
        // The rest is fetched when somebody wants it, and only the rest.
        let whole = client.get(&target(&digest));
        assert!(whole.status == 200 && whole.body == blob);
        assert_eq!(fetched(&fetches)[2..], [(CHUNK, Some(last))]);
        assert_eq!(sample(&plane, "fetched_bytes_total"), end);
        plane.end();
    }
}

#[test]
fn parts_in_parallel_on_a_miss_are_right_and_every_byte_is_fetched_once() {
    for leg in legs() {
        let blob = content(16 * MIB);
        let (plane, digest, fetches) = one_blob(leg, &blob);
        // The first part is far from the run's start, so that all of them are there before it begins.
        let parts: Vec<(usize, usize)> = (1..4).map(|part| (part * 4 * MIB, (part + 1) * 4 * MIB)).collect();
        let mut clients: Vec<Client> = parts.iter().map(|_| plane.client()).collect();
        for (client, (start, end)) in clients.iter_mut().zip(&parts) {
            ranged(client, &digest, &format!("{start}-{}", end - 1));
        }
        for (client, (start, end)) in clients.iter_mut().zip(&parts) {
            let answer = client.read().unwrap();
            assert!(answer.status == 206 && answer.body == blob[*start..*end], "{start}");
        }
        let whole = plane.client().get(&target(&digest));
        assert!(whole.body == blob);
        assert_eq!(sample(&plane, "fetched_bytes_total"), blob.len() as u64);
        assert_eq!(fetched(&fetches).len(), parts.len() + 1);
        plane.end();
    }
}

#[test]
fn a_part_goes_out_at_once_while_the_whole_is_held_back() {
    for leg in legs() {
        let mut plane = Plane::start(leg);
        let blob = content(8 * MIB);
        let digest = sha256(&blob);
        let whole = blob.clone();
        let (open, gate) = mpsc::channel();
        let mut gate = Some(gate);
        let fetches = play(&mut plane, Some(blob.len()), move |_, from, to| {
            if from > 0 {
                return honest(&whole, from, to);
            }
            let (front, back) = whole.split_at(MIB);
            let gate = Piece::Gate(gate.take().unwrap());
            let pieces = vec![Piece::Bytes(front.to_vec()), gate, Piece::Bytes(back.to_vec())];
            Ok(Some(Played { start: 0, size_bytes: Some(whole.len() as u64), pieces }))
        });
        let mut slow = plane.client();
        slow.send("GET", &target(&digest), b"");
        slow.read_head().unwrap();
        let mut body = slow.read_rest(MIB).unwrap();
        let part = get(&mut plane.client(), &digest, "6291456-6391455");
        assert!(part.status == 206 && part.body == blob[6 * MIB..6 * MIB + 100_000]);
        drop(open);
        body.extend(slow.read_rest(7 * MIB).unwrap());
        assert!(body == blob, "the run goes around what is there");
        let at = 6 * MIB as u64;
        let fetches = fetched(&fetches);
        assert_eq!(fetches[..2], [(0, None), (at, Some(at + CHUNK))]);
        assert_eq!(fetches[2..], [(at + CHUNK, None)]);
        plane.end();
    }
}

#[test]
fn an_origin_without_ranges_is_read_in_order() {
    for leg in legs() {
        let mut plane = Plane::start(leg);
        let blob = content(8 * MIB);
        let digest = sha256(&blob);
        breaking(&mut plane, &blob, vec![], false);
        let part = get(&mut plane.client(), &digest, "6291456-6391455");
        assert!(part.status == 206 && part.body == blob[6 * MIB..6 * MIB + 100_000]);
        until("all of it is here", || plane.place.blob(&digest).exists());
        plane.end();
    }
}

#[test]
fn an_origin_that_has_lost_its_ranges_is_read_once_past_what_is_there() {
    for leg in legs() {
        let blob = content(8 * MIB);
        for islands in [&[2][..], &[2, 4, 6], &[3, 5, 7]] {
            let mut plane = Plane::start(leg);
            let digest = sha256(&blob);
            let whole = blob.clone();
            let honest_ones = islands.len();
            let fetches = play(&mut plane, Some(blob.len()), move |number, from, to| {
                let (from, to) = if number < honest_ones { (from, to) } else { (0, None) };
                honest(&whole, from, to)
            });
            for mib in islands {
                let (start, end) = (mib * MIB + 1, (mib + 1) * MIB);
                let part = get(&mut plane.client(), &digest, &format!("{start}-{}", end - 1));
                assert!(part.status == 206 && part.body == blob[start..end]);
            }
            let answer = plane.client().get(&target(&digest));
            assert!(answer.status == 200 && answer.body == blob, "{islands:?}");
            until("all of it is here", || plane.place.blob(&digest).exists());
            assert_eq!(fetched(&fetches)[islands.len()..], [(0, Some((islands[0] * MIB) as u64))]);
            plane.end();
        }
    }
}

#[test]
fn a_probe_of_the_first_chunk_keeps_the_answer_of_an_origin_without_ranges() {
    for leg in legs() {
        let mut plane = Plane::start(leg);
        let blob = content(4 * MIB);
        let digest = sha256(&blob);
        let whole = blob.clone();
        let fetches = play(&mut plane, Some(blob.len()), move |_, _, _| honest(&whole, 0, None));
        let probe = get(&mut plane.client(), &digest, "0-99");
        assert!(probe.status == 206 && probe.body == blob[..100]);
        let answer = plane.client().get(&target(&digest));
        assert!(answer.status == 200 && answer.body == blob);
        assert_eq!(fetched(&fetches), [(0, Some(CHUNK))]);
        plane.end();
    }
}

#[test]
fn what_was_pushed_while_the_origin_thought_is_not_fetched() {
    for leg in legs() {
        let mut plane = Plane::start(leg);
        let blob = content(4 * MIB);
        let digest = sha256(&blob);
        let (held, fetch) = mpsc::channel();
        plane.answer(move |ask| match ask {
            Ask::Link { answer, .. } => {
                let size_bytes = Some(4 * MIB as u64);
                let link = Link::Upstream { origin: crate::fills::origin(), size_bytes };
                drop(answer.send(Ok(Some(link))));
            }
            Ask::Fetch { .. } => held.send(ask).unwrap(),
            Ask::OpenUpload { answer, .. } => drop(answer.send(Ok(()))),
            Ask::Home { digests, answer } => drop(answer.send(Ok(vec![None; digests.len()]))),
            Ask::Commit { batch, answer } => drop(answer.send(Ok(vec![Ok(()); batch.len()]))),
            _ => panic!("not asked here"),
        });
        let mut waiting = plane.client();
        ranged(&mut waiting, &digest, "2097152-2197151");
        let Ask::Fetch { answer, .. } = fetch.recv().unwrap() else { panic!("no other is held") };
        let push = format!("/v2/mine/blobs/uploads/?digest={digest}");
        assert_eq!(plane.client().ask("POST", &push, &blob).status, 201);
        // The whole: from now on it is the run's, which looks for the name once more.
        let (sender, bytes) = tokio::sync::mpsc::channel(1);
        sender.try_send(Ok(bytes::Bytes::copy_from_slice(&blob[..100]))).unwrap();
        let size_bytes = Some(blob.len() as u64);
        drop(answer.send(Ok(Some(Fetched { start: 0, is_whole: true, size_bytes, bytes }))));
        let part = waiting.read().unwrap();
        assert_eq!((part.status, part.field("gantry-cache")), (206, Some("hit")));
        assert!(part.body == blob[2 * MIB..2 * MIB + 100_000]);
        assert_eq!(sample(&plane, "fetched_bytes_total"), 0);
        plane.end();
    }
}

#[test]
fn an_extent_that_fails_is_told_if_it_is_the_first_and_begun_again_in_the_middle() {
    for leg in legs() {
        let mut plane = Plane::start(leg);
        let blob = content(8 * MIB);
        let digest = sha256(&blob);
        let whole = blob.clone();
        let fetches = play(&mut plane, Some(blob.len()), move |number, from, to| {
            let mut played = honest(&whole, from, to)?.unwrap();
            match number {
                0 => return Err(Problem::UpstreamTimeout),
                1 => {
                    let Some(Piece::Bytes(bytes)) = played.pieces.first_mut() else { panic!() };
                    bytes.truncate(MIB + 1000);
                    played.pieces.push(Piece::Fail(Problem::UpstreamTimeout));
                }
                _ => {}
            }
            Ok(Some(played))
        });
        let mut client = plane.client();
        let range = "4194304-8388606";
        assert_eq!(get(&mut client, &digest, range).status, 504);
        let part = get(&mut client, &digest, range);
        assert!(part.status == 206 && part.body == blob[4 * MIB..8 * MIB - 1]);
        let (start, end) = (4 * MIB as u64, Some(8 * MIB as u64));
        assert_eq!(fetched(&fetches), [(start, end), (start, end), (5 * MIB as u64, end)]);
        plane.end();
    }
}

#[test]
fn wrong_bytes_of_an_extent_never_make_a_whole_blob() {
    for leg in legs() {
        let mut plane = Plane::start(leg);
        let blob = content(4 * MIB);
        let digest = sha256(&blob);
        let whole = blob.clone();
        let fetches = play(&mut plane, Some(blob.len()), move |number, from, to| {
            let mut sent = whole.clone();
            sent[3 * MIB] ^= u8::from(number == 0);
            honest(&sent, from, to)
        });
        let wrong = get(&mut plane.client(), &digest, "3145728-3146727");
        assert!(
            wrong.status == 206 && wrong.body[1..] == blob[3 * MIB + 1..3 * MIB + 1000],
            "who asks for a part verifies it"
        );
        let mut client = plane.client();
        client.send("GET", &target(&digest), b"");
        is_cut(&mut client, blob.len());
        assert!(!plane.place.blob(&digest).exists());
        let again = plane.client().get(&target(&digest));
        assert!(again.status == 200 && again.body == blob);
        assert_eq!(fetched(&fetches).last(), Some(&(0, None)));
        plane.end();
    }
}

#[test]
fn extents_outlive_a_restart_and_are_looked_at_before_they_are_sent() {
    for leg in legs() {
        let blob = content(8 * MIB);
        let (plane, digest, _) = one_blob(leg, &blob);
        let part = get(&mut plane.client(), &digest, "4194304-5242879");
        assert!(part.body == blob[4 * MIB..5 * MIB]);
        let place = plane.place.clone();
        plane.end();
        let fill = fs::read_dir(place.path("fills")).unwrap().next().unwrap().unwrap().path();
        let file = fs::OpenOptions::new().write(true).open(fill.join("data")).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[0; 10], 4 * MIB as u64 + CHUNK).unwrap();

        let mut plane = Plane::over(place, leg, false, Plane::limits());
        let whole = blob.clone();
        let fetches = play(&mut plane, Some(blob.len()), move |_, from, to| honest(&whole, from, to));
        let part = get(&mut plane.client(), &digest, "4194304-5242879");
        assert!(part.status == 206 && part.body == blob[4 * MIB..5 * MIB]);
        let hole = 4 * MIB as u64 + CHUNK;
        assert_eq!(fetched(&fetches), [(hole, Some(hole + CHUNK))]);
        plane.end();
    }
}

/// Whoever cut the file: what was there is fetched once more, and the answer is whole.
#[test]
fn an_extent_that_the_disk_has_lost_is_a_hole() {
    for leg in legs() {
        for without_ranges in [false, true] {
            let mut plane = Plane::start(leg);
            let blob = content(4 * MIB);
            let digest = sha256(&blob);
            let whole = blob.clone();
            let fetches = play(&mut plane, Some(blob.len()), move |number, from, to| match number {
                1.. if without_ranges => honest(&whole, 0, None),
                _ => honest(&whole, from, to),
            });
            let mut client = plane.client();
            assert_eq!(get(&mut client, &digest, "2097152-2097161").status, 206);
            let fill = fs::read_dir(plane.place.path("fills")).unwrap().next().unwrap().unwrap().path();
            fs::OpenOptions::new().write(true).open(fill.join("data")).unwrap().set_len(0).unwrap();
            let answer = client.get(&target(&digest));
            assert!(answer.status == 200 && answer.body == blob);
            assert_eq!(
                fetched(&fetches).len(),
                if without_ranges { 2 } else { 3 },
                "{:?}",
                fetched(&fetches)
            );
            plane.end();
        }
    }
}

#[test]
fn what_was_begun_is_completed_where_that_is_wanted() {
    for leg in legs() {
        let mut plane = Plane::completing(leg, Some(10));
        let blob = content(8 * MIB);
        let digest = sha256(&blob);
        let whole = blob.clone();
        play(&mut plane, Some(blob.len()), move |_, from, to| honest(&whole, from, to));
        let mut client = plane.client();
        assert_eq!(get(&mut client, &digest, "-100").status, 206);
        assert_eq!(sample(&plane, "running"), 0, "that is a thirty-second part of it");
        assert_eq!(get(&mut client, &digest, "4194304-5242879").status, 206);
        until("all of it is here", || plane.place.blob(&digest).exists());
        assert!(fs::read(plane.place.blob(&digest)).unwrap() == blob);
        assert_eq!(sample(&plane, "fetched_bytes_total"), blob.len() as u64);
        plane.end();
    }
}

#[test]
fn a_wrong_length_that_an_extent_is_told_is_not_believed_for_ever() {
    let wrong = 5 * MIB as u64;
    for leg in legs() {
        // Told by the manifest, and by nobody but the upstream.
        for told in [true, false] {
            let mut plane = Plane::start(leg);
            let blob = content(8 * MIB);
            let digest = sha256(&blob);
            let whole = blob.clone();
            let fetches = play(&mut plane, told.then_some(blob.len()), move |number, from, to| {
                let mut played = honest(&whole, from, to)?.unwrap();
                if number == 0 {
                    played.size_bytes = Some(wrong);
                    if !told {
                        let Some(Piece::Bytes(bytes)) = played.pieces.first_mut() else { panic!() };
                        bytes.truncate(MIB);
                        played.pieces.push(Piece::Fail(Problem::UpstreamTimeout));
                    }
                } else if !told && number <= FILL_RESUMES_MAX as usize {
                    return Err(Problem::UpstreamTimeout);
                }
                Ok(Some(played))
            });
            let mut client = plane.client();
            if told {
                assert_eq!(get(&mut client, &digest, "4194304-4195303").status, 502);
            } else {
                client.send("GET", &target(&digest), b"");
                is_cut(&mut client, wrong as usize);
                client = plane.client();
            }
            let part = get(&mut client, &digest, "4194304-4195303");
            assert_eq!(part.status, 206, "{:?}", fetched(&fetches));
            assert!(part.body == blob[4 * MIB..4 * MIB + 1000]);
            let range = part.field("content-range").unwrap();
            assert!(range.ends_with("/8388608"), "{range}");
            plane.end();
        }
    }
}

#[test]
fn a_probe_of_a_fill_that_stopped_starts_no_run() {
    for leg in legs() {
        let mut plane = Plane::start(leg);
        let blob = content(16 * MIB);
        let digest = sha256(&blob);
        let whole = blob.clone();
        let (open, gate) = mpsc::channel::<()>();
        let mut gate = Some(gate);
        let fetches = play(&mut plane, Some(blob.len()), move |_, from, to| {
            let Some(gate) = gate.take() else { return honest(&whole, from, to) };
            let (front, back) = whole.split_at(MIB);
            let pieces = vec![Piece::Bytes(front.to_vec()), Piece::Gate(gate), Piece::Drip(back.to_vec())];
            Ok(Some(Played { start: 0, size_bytes: Some(whole.len() as u64), pieces }))
        });
        let mut client = plane.client();
        client.send("GET", &target(&digest), b"");
        assert_eq!(client.read_head().unwrap().status, 200);
        client.read_rest(MIB / 2).unwrap();
        drop(client);
        drop(open);
        until("it stopped", || sample(&plane, "running") == 0);
        let have = sample(&plane, "fetched_bytes_total");
        assert!(have < 5 * MIB as u64, "{have} of it came");
        // Near the frontier, and not in the chunk that it is in.
        let at = (have.div_ceil(CHUNK) + 1) * CHUNK;
        let part = get(&mut plane.client(), &digest, &format!("{at}-{}", at + 9));
        assert!(part.status == 206 && part.body == blob[at as usize..at as usize + 10]);
        assert_eq!(fetched(&fetches), [(0, None), (at, Some(at + CHUNK))]);
        plane.end();
    }
}

/// The whole in as many parts as one answer may have is the whole: its end waits.
#[test]
fn all_of_it_in_parts_is_held_back_like_the_whole() {
    for leg in legs() {
        let mut plane = Plane::start(leg);
        let blob = content(4 * MIB);
        let digest = sha256(&blob);
        let whole = blob.clone();
        play(&mut plane, Some(blob.len()), move |_, from, to| {
            let mut sent = whole.clone();
            *sent.last_mut().unwrap() ^= 1;
            honest(&sent, from, to)
        });
        let mut client = plane.client();
        ranged(&mut client, &digest, "0-2097151,2097153-4194303");
        let head = client.read_head().unwrap();
        assert_eq!(head.status, 206);
        let length: usize = head.field("content-length").unwrap().parse().unwrap();
        let mut got = 0;
        while let Ok(byte) = client.read_rest(1) {
            got += byte.len();
        }
        assert!(got < length - HELD_BACK_BYTES as usize + 1000, "{got} of {length}");
        plane.end();
    }
}

#[test]
fn a_part_that_nobody_comes_back_for_is_removed_and_one_that_is_read_stays() {
    for leg in legs() {
        let limits = Limits { fill_expiry: std::time::Duration::from_secs(2), ..Plane::limits() };
        let mut plane = Plane::over(std::sync::Arc::new(crate::rig::Place::new()), leg, false, limits);
        let (left, read) = (content(4 * MIB), content(4 * MIB + 1));
        let (open, gate) = mpsc::channel();
        let (mut gate, whole, other) = (Some(gate), left.clone(), read.clone());
        play_each(&mut plane, None, move |digest, _, from, to| {
            if *digest == sha256(&whole) {
                return honest(&whole, from, to);
            }
            let (front, back) = other.split_at(2 * MIB);
            let gate = Piece::Gate(gate.take().unwrap());
            let pieces = vec![Piece::Bytes(front.to_vec()), gate, Piece::Bytes(back.to_vec())];
            Ok(Some(Played { start: 0, size_bytes: Some(other.len() as u64), pieces }))
        });
        let count = |plane: &Plane| fs::read_dir(plane.place.path("fills")).unwrap().count();
        let mut reader = plane.client();
        reader.send("GET", &target(&sha256(&read)), b"");
        assert_eq!(reader.read_head().unwrap().status, 200);
        assert!(reader.read_rest(MIB).unwrap() == read[..MIB]);
        let probe = get(&mut plane.client(), &sha256(&left), "1000000-1000999");
        assert!(probe.status == 206 && probe.body == left[1_000_000..1_001_000]);
        assert_eq!(count(&plane), 2);
        until("the probed one is removed", || count(&plane) == 1);
        // The other one is older.
        drop(open);
        assert!(reader.read_rest(3 * MIB + 1).unwrap() == read[MIB..]);
        until("it has its name", || plane.place.blob(&sha256(&read)).exists());
        plane.end();
    }
}
