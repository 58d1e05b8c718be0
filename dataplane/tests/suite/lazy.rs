//! What loads lazily asks for a little here and there, several parts at a time: that works on a miss as on a hit, costs
//! few requests, fetches nothing twice, and begins no whole fill.
//! Wire rules: "Held back until verified", "Resume and extents".

use std::{
    collections::{HashMap, HashSet},
    io,
    sync::mpsc,
    time::Duration,
};

use dataplane::limits::{FILL_EXTENTS_MAX, FILL_RESUMES_MAX};
use oci::Digest;

use crate::{
    extents::{CHUNK, get, one_blob},
    fills::{
        Fetches, MIB, Piece, breaking, content, fetched, honest, play, play_told, ranged, sample, target,
    },
    plane::{Answer, Client, Plane},
    rig::{legs, sha256, until},
};

/// First byte and, exclusive, last byte of parts as a header has them.
fn header(parts: &[(usize, usize)]) -> String {
    let each: Vec<String> = parts.iter().map(|(start, end)| format!("{start}-{}", end - 1)).collect();
    each.join(",")
}

/// One answer with these parts of the blob, in this order.
#[track_caller]
fn is_of(answer: &Answer, blob: &[u8], parts: &[(usize, usize)]) {
    assert_eq!(answer.status, 206, "{}", answer.head);
    let content_type = answer.field("content-type").unwrap();
    let Some((_, boundary)) = content_type.split_once("boundary=") else {
        let [(start, end)] = parts else { panic!("one part in place of {}", parts.len()) };
        return assert!(answer.body == blob[*start..*end], "{start}");
    };
    let mut rest = &answer.body[..];
    for (start, end) in parts {
        let head_len = rest.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
        let head = std::str::from_utf8(&rest[..head_len]).unwrap();
        assert!(head.contains(boundary), "{head}");
        assert!(head.contains(&format!("bytes {start}-{}/{}\r\n", end - 1, blob.len())), "{head}");
        let body = &rest[head_len..head_len + end - start];
        assert!(*body == blob[*start..*end], "{start}");
        rest = &rest[head_len + end - start..];
    }
    assert!(rest.ends_with(b"--\r\n") && rest.len() < boundary.len() + 10);
}

fn get_parts(client: &mut Client, digest: &Digest, parts: &[(usize, usize)]) -> Answer {
    get(client, digest, &header(parts))
}

/// What is asked for never becomes a whole answer of success.
#[track_caller]
fn is_never_given(client: &mut Client) {
    if let Ok(answer) = client.read() {
        assert_eq!(answer.status, 502, "{}", answer.head);
    }
}

/// No byte comes now. Whether one would come later is for what follows to show.
#[track_caller]
fn waits(client: &mut Client) {
    client.stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let error = client.read_rest(1).map(drop).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock, "a byte too much");
    client.stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
}

/// The bytes of all chunks that these parts touch.
fn rounded_bytes(parts: &[(usize, usize)]) -> u64 {
    let chunk = CHUNK as usize;
    let chunks: HashSet<usize> =
        parts.iter().flat_map(|(start, end)| start / chunk..end.div_ceil(chunk)).collect();
    chunks.len() as u64 * CHUNK
}

#[test]
fn a_probe_in_several_parts_fetches_their_chunks_and_never_the_whole() {
    for leg in legs() {
        let blob = content(8 * MIB + 100);
        let (plane, digest, fetches) = one_blob(leg, &blob);
        let mut client = plane.client();
        let parts = [(0, 100), (blob.len() - 1000, blob.len())];
        for _ in 0..2 {
            let answer = get_parts(&mut client, &digest, &parts);
            is_of(&answer, &blob, &parts);
            assert_eq!(answer.field("gantry-cache"), Some("partial"));
        }
        let end = blob.len() as u64;
        assert_eq!(fetched(&fetches), [(0, Some(CHUNK)), ((end - 1000) / CHUNK * CHUNK, Some(end))]);
        assert_eq!(sample(&plane, "running"), 0);
        assert!(!plane.place.blob(&digest).exists());
        plane.end();
    }
}

#[test]
fn parts_go_out_at_once_in_their_order_and_neighbours_are_one_request() {
    for leg in legs() {
        let blob = content(8 * MIB);
        let (plane, digest, fetches) = one_blob(leg, &blob);
        // The last three lie in two chunks that follow each other.
        let at = 5 * MIB;
        let parts = [
            (7 * MIB, 7 * MIB + 50_000),
            (100, 60_000),
            (at + 10, at + 5000),
            (at + 300_000, at + 310_000),
            (at + 8000, at + 9000),
        ];
        is_of(&get_parts(&mut plane.client(), &digest, &parts), &blob, &parts);
        let at = at as u64;
        let far = 7 * MIB as u64;
        assert_eq!(
            fetched(&fetches),
            [(far, Some(far + CHUNK)), (0, Some(CHUNK)), (at, Some(at + 2 * CHUNK))]
        );
        assert_eq!(sample(&plane, "running"), 0);
        plane.end();
    }
}

#[test]
fn what_an_extent_brought_goes_out_at_once_wherever_the_run_is_and_what_the_run_brings_is_held_back() {
    for leg in legs() {
        let mut plane = Plane::start(leg);
        let blob = content(12 * MIB);
        let digest = sha256(&blob);
        let whole = blob.clone();
        let (open, gate) = mpsc::channel();
        let mut gate = Some(gate);
        let fetches = play(&mut plane, Some(blob.len()), move |_, from, to| {
            let mut played = honest(&whole, from, to)?.unwrap();
            if let Some(gate) = gate.take_if(|_| to.is_none()) {
                let (front, back) = whole[from as usize..].split_at(6 * MIB - from as usize);
                let gate = Piece::Gate(gate);
                played.pieces = vec![Piece::Bytes(front.to_vec()), gate, Piece::Bytes(back.to_vec())];
            }
            Ok(Some(played))
        });
        let of_extent = [(3 * MIB, 3 * MIB + 100)];
        is_of(&get_parts(&mut plane.client(), &digest, &of_extent), &blob, &of_extent);
        let mut slow = plane.client();
        slow.send("GET", &target(&digest), b"");
        slow.read_head().unwrap();
        assert!(slow.read_rest(6 * MIB).unwrap() == blob[..6 * MIB]);
        is_of(&get_parts(&mut plane.client(), &digest, &of_extent), &blob, &of_extent);
        let far = [(9 * MIB + 500_000, 10 * MIB - 1), (3 * MIB + 5, 3 * MIB + 10)];
        is_of(&get_parts(&mut plane.client(), &digest, &far), &blob, &far);
        let mut of_run = plane.client();
        ranged(&mut of_run, &digest, &header(&[(4 * MIB, 4 * MIB + 100)]));
        assert_eq!(of_run.read_head().unwrap().status, 206);
        waits(&mut of_run);
        let mut soon = plane.client();
        ranged(&mut soon, &digest, &header(&[(6 * MIB + 10, 6 * MIB + 20)]));
        assert_eq!(soon.read_head().unwrap().status, 206);
        waits(&mut soon);
        drop(open);
        assert!(of_run.read_rest(100).unwrap() == blob[4 * MIB..4 * MIB + 100]);
        assert!(soon.read_rest(10).unwrap() == blob[6 * MIB + 10..6 * MIB + 20]);
        assert!(slow.read_rest(6 * MIB).unwrap() == blob[6 * MIB..]);
        let fetches = fetched(&fetches);
        assert_eq!(
            fetches.len(),
            5,
            "an extent, the run around it, another, and the run around that: {fetches:?}"
        );
        plane.end();
    }
}

#[test]
fn what_is_asked_for_ahead_and_comes_in_order_is_held_back_like_any_other() {
    for leg in legs() {
        for parts in [
            &[(6 * MIB, 8 * MIB)][..],
            &[(6 * MIB, 7 * MIB), (8 * MIB - 100_000, 8 * MIB)],
            &[(8 * MIB - 1000, 8 * MIB)],
        ] {
            let mut plane = Plane::start(leg);
            let blob = content(8 * MIB);
            let digest = sha256(&blob);
            let mut wrong = blob.clone();
            *wrong.last_mut().unwrap() ^= 1;
            breaking(&mut plane, &wrong, vec![], false);
            // Its digest is that of what it should be.
            let mut client = plane.client();
            ranged(&mut client, &digest, &header(parts));
            is_never_given(&mut client);
            assert!(!plane.place.blob(&digest).exists());
            plane.end();
        }
    }
}

#[test]
fn several_parts_of_which_a_run_that_stands_brought_one_are_held_back_too() {
    for leg in legs() {
        for is_right in [true, false] {
            let mut plane = Plane::start(leg);
            let blob = content(8 * MIB);
            let digest = sha256(&blob);
            let mut sent = blob.clone();
            *sent.last_mut().unwrap() ^= u8::from(!is_right);
            let mut is_first = true;
            let fetches = play(&mut plane, Some(blob.len()), move |_, from, to| {
                let mut played = honest(&sent, from, to)?.unwrap();
                if std::mem::take(&mut is_first) {
                    let (front, back) = sent.split_at(2 * MIB);
                    played.pieces = vec![Piece::Bytes(front.to_vec()), Piece::Drip(back.to_vec())];
                }
                Ok(Some(played))
            });
            let mut gone = plane.client();
            gone.send("GET", &target(&digest), b"");
            assert!(gone.read_head().unwrap().status == 200 && gone.read_rest(MIB).unwrap() == blob[..MIB]);
            drop(gone);
            until("the run stands", || sample(&plane, "running") == 0 && sample(&plane, "stops_total") == 1);
            // Little enough to begin no run goes out at once, also when it lies in what the run brought.
            let probe = [(MIB, MIB + 100)];
            is_of(&get_parts(&mut plane.client(), &digest, &probe), &blob, &probe);
            assert_eq!(fetched(&fetches).len(), 1);
            let parts = [(MIB, MIB + 100_000), (6 * MIB, 6 * MIB + 100_000)];
            let mut client = plane.client();
            ranged(&mut client, &digest, &header(&parts));
            if is_right {
                is_of(&client.read().unwrap(), &blob, &parts);
            } else {
                is_never_given(&mut client);
                assert!(!plane.place.blob(&digest).exists());
            }
            plane.end();
        }
    }
}

#[test]
fn the_answer_of_an_origin_without_ranges_is_used_from_its_start() {
    for leg in legs() {
        let footer = [(8 * MIB - 100, 8 * MIB)];
        let both = [(5 * MIB, 5 * MIB + 100), (8 * MIB - 100, 8 * MIB)];
        for parts in [&[(6 * MIB, 6 * MIB + 100_000)][..], &footer, &both] {
            let mut plane = Plane::start(leg);
            let blob = content(8 * MIB);
            let digest = sha256(&blob);
            let fetches = breaking(&mut plane, &blob, vec![], false);
            let answer = get_parts(&mut plane.client(), &digest, parts);
            is_of(&answer, &blob, parts);
            assert_eq!(answer.field("gantry-cache"), Some("fill"));
            assert_eq!(fetched(&fetches).len(), 1, "{:?}", fetched(&fetches));
            assert_eq!(sample(&plane, "fetched_bytes_total"), blob.len() as u64);
            until("it has its name", || plane.place.blob(&digest).exists());
            plane.end();
        }
    }
}

#[test]
fn several_who_ask_an_origin_without_ranges_share_one_run() {
    for leg in legs() {
        for begins_in_order in [false, true] {
            let mut plane = Plane::start(leg);
            let blob = content(8 * MIB);
            let digest = sha256(&blob);
            let whole = blob.clone();
            let (open, gate) = mpsc::channel::<()>();
            let mut gate = Some(gate).filter(|_| begins_in_order);
            let fetches = play(&mut plane, Some(blob.len()), move |_, _, _| {
                let mut played = honest(&whole, 0, None)?.unwrap();
                if let Some(gate) = gate.take() {
                    let (front, back) = whole.split_at(MIB);
                    played.pieces =
                        vec![Piece::Bytes(front.to_vec()), Piece::Gate(gate), Piece::Bytes(back.to_vec())];
                }
                Ok(Some(played))
            });
            let mut first = plane.client();
            if begins_in_order {
                first.send("GET", &target(&digest), b"");
                first.read_head().unwrap();
                assert!(first.read_rest(MIB).unwrap() == blob[..MIB]);
            }
            let parts: Vec<(usize, usize)> = (4..8).map(|at| (at * MIB, at * MIB + 1000)).collect();
            let mut clients: Vec<Client> = parts.iter().map(|_| plane.client()).collect();
            for (client, part) in clients.iter_mut().zip(&parts) {
                ranged(client, &digest, &header(&[*part]));
            }
            if begins_in_order {
                until("somebody has asked for a part", || fetched(&fetches).len() > 1);
                // What is asked after that is answered after it, and then all know that there are no ranges. Who asked
                // meanwhile, and did not know, is answered before the second.
                for another in [&b"another"[..], b"one more"] {
                    let mut last = plane.client();
                    last.send("HEAD", &target(&sha256(another)), b"");
                    assert_eq!(last.read_head().unwrap().status, 200);
                }
            }
            drop(open);
            for (client, part) in clients.iter_mut().zip(&parts) {
                is_of(&client.read().unwrap(), &blob, &[*part]);
            }
            if begins_in_order {
                assert!(first.read_rest(7 * MIB).unwrap() == blob[MIB..]);
            }
            let most = FILL_EXTENTS_MAX + usize::from(begins_in_order);
            assert!(fetched(&fetches).len() <= most, "{:?}", fetched(&fetches));
            assert_eq!(sample(&plane, "fetched_bytes_total"), blob.len() as u64);
            plane.end();
        }
    }
}

/// As many extents as may be are on their way, and each waits for its gate.
fn all_extents_wait(plane: &mut Plane, blob: &[u8]) -> (Vec<mpsc::Sender<()>>, Vec<Client>, Fetches) {
    let digest = sha256(blob);
    let whole = blob.to_vec();
    let (gates, mut held): (Vec<_>, Vec<_>) = (0..FILL_EXTENTS_MAX).map(|_| mpsc::channel()).unzip();
    held.reverse();
    let fetches = play(plane, Some(blob.len()), move |_, from, to| {
        let mut played = honest(&whole, from, to)?.unwrap();
        played.pieces.splice(0..0, held.pop().map(Piece::Gate));
        Ok(Some(played))
    });
    let far = |at: usize| [(3 + at) * MIB, (3 + at) * MIB + 10];
    let clients = (0..FILL_EXTENTS_MAX).map(|at| {
        let [start, end] = far(at);
        let mut client = plane.client();
        ranged(&mut client, &digest, &header(&[(start, end)]));
        until("it is asked for", || fetched(&fetches).len() == at + 1);
        client
    });
    (gates, clients.collect(), fetches.clone())
}

#[test]
fn extents_are_bounded_and_those_that_wait_are_merged_with_their_neighbours() {
    for leg in legs() {
        let mut plane = Plane::start(leg);
        let blob = content(16 * MIB);
        let digest = sha256(&blob);
        let (mut gates, mut first, fetches) = all_extents_wait(&mut plane, &blob);
        // Two in each of eight chunks that follow each other, and one by itself; in no order.
        let start = 10 * MIB;
        let near = (0..16).map(|number| start + number * 7 % 16 * (CHUNK as usize / 2) + 10);
        let mut parts: Vec<(usize, usize)> = near.map(|at| (at, at + 60_000)).collect();
        parts.push((14 * MIB, 14 * MIB + 5000));
        let mut clients: Vec<Client> = parts.iter().map(|_| plane.client()).collect();
        for (client, part) in clients.iter_mut().zip(&parts) {
            ranged(client, &digest, &header(&[*part]));
        }
        until("all of them wait", || {
            sample(&plane, "coalesced_total") == (FILL_EXTENTS_MAX + parts.len()) as u64 - 1
        });
        assert_eq!(fetched(&fetches).len(), FILL_EXTENTS_MAX);
        drop(gates.remove(0));
        for (client, part) in clients.iter_mut().zip(&parts) {
            is_of(&client.read().unwrap(), &blob, &[*part]);
        }
        drop(gates);
        for client in &mut first {
            assert_eq!(client.read().unwrap().status, 206);
        }
        let mut merged = fetched(&fetches)[FILL_EXTENTS_MAX..].to_vec();
        merged.sort_unstable();
        let (start, alone) = (start as u64, 14 * MIB as u64);
        assert_eq!(merged, [(start, Some(start + 8 * CHUNK)), (alone, Some(alone + CHUNK))]);
        plane.end();
    }
}

#[test]
fn nothing_is_fetched_for_who_waited_and_has_left() {
    for leg in legs() {
        let mut plane = Plane::start(leg);
        let blob = content(16 * MIB);
        let digest = sha256(&blob);
        let (mut gates, _first, fetches) = all_extents_wait(&mut plane, &blob);
        let (stays, leaves) = ((10 * MIB, 10 * MIB + 10), (10 * MIB + CHUNK as usize, 12 * MIB));
        let mut clients = [plane.client(), plane.client()];
        for (client, part) in clients.iter_mut().zip([stays, leaves]) {
            ranged(client, &digest, &header(&[part]));
        }
        until("both wait", || sample(&plane, "coalesced_total") == FILL_EXTENTS_MAX as u64 + 1);
        let [mut stayed, left] = clients;
        drop(left);
        // The core has looked at its sockets since.
        (0..3).for_each(|_| assert_eq!(plane.client().get("/v2/").status, 200));
        drop(gates.remove(0));
        is_of(&stayed.read().unwrap(), &blob, &[stays]);
        let start = stays.0 as u64;
        assert_eq!(fetched(&fetches)[FILL_EXTENTS_MAX..], [(start, Some(start + CHUNK))]);
        drop(gates);
        plane.end();
    }
}

#[test]
fn two_parts_in_one_chunk_are_one_request() {
    for leg in legs() {
        let mut plane = Plane::start(leg);
        let blob = content(8 * MIB);
        let digest = sha256(&blob);
        let whole = blob.clone();
        let (open, gate) = mpsc::channel();
        let mut gate = Some(gate);
        let fetches = play(&mut plane, Some(blob.len()), move |_, from, to| {
            let mut played = honest(&whole, from, to)?.unwrap();
            played.pieces.splice(0..0, gate.take().map(Piece::Gate));
            Ok(Some(played))
        });
        let parts = [(5 * MIB, 5 * MIB + 5000), (5 * MIB + 50_000, 5 * MIB + 60_000)];
        let mut clients = [plane.client(), plane.client()];
        for (client, part) in clients.iter_mut().zip(parts) {
            ranged(client, &digest, &header(&[part]));
        }
        until("both wait", || sample(&plane, "coalesced_total") == 1);
        drop(open);
        for (client, part) in clients.iter_mut().zip(parts) {
            is_of(&client.read().unwrap(), &blob, &[part]);
        }
        assert_eq!(fetched(&fetches).len(), 1);
        plane.end();
    }
}

/// The run ended within a chunk, which is its own: a probe there has a request of its own.
#[test]
fn a_probe_begins_no_run_even_where_one_broke_off() {
    let broke = MIB + 1000;
    for leg in legs() {
        for second in [None, Some((6 * MIB, 6 * MIB + 10))] {
            let mut plane = Plane::start(leg);
            let blob = content(8 * MIB);
            let digest = sha256(&blob);
            let mut breaks = vec![broke];
            breaks.extend([0; FILL_RESUMES_MAX as usize]);
            let fetches = breaking(&mut plane, &blob, breaks, true);
            let mut client = plane.client();
            client.send("GET", &target(&digest), b"");
            crate::fills::is_cut(&mut client, blob.len());
            let before = fetched(&fetches).len();
            let first = (broke + 10, broke + 20);
            let parts: Vec<(usize, usize)> = std::iter::once(first).chain(second).collect();
            is_of(&get_parts(&mut plane.client(), &digest, &parts), &blob, &parts);
            let asked = fetched(&fetches)[before..].to_vec();
            assert_eq!(asked.first(), Some(&(first.0 as u64, Some(first.1 as u64))));
            assert_eq!(asked.len(), parts.len());
            assert_eq!((sample(&plane, "running"), sample(&plane, "passes_total")), (0, 1));
            plane.end();
        }
    }
}

/// As stargz-snapshotter does: is it there, and does it know ranges; the footer; the table of contents before it; then
/// for each file that is opened its chunks, of 50,000 bytes, those of one read in one request.
#[test]
fn a_layer_in_stargz_form_is_read_on_a_miss() {
    const PIECE: usize = 50_000;
    for leg in legs() {
        let blob = content(24 * MIB + 12_345);
        let (plane, digest, fetches) = one_blob(leg, &blob);
        let mut client = plane.client();
        let len = blob.len();
        let pieces = |first: usize, count: usize| (first * PIECE, (first + count) * PIECE);
        let toc = len - 51 - 400_000;
        let requests = [
            vec![(0, 2)],
            vec![(len - 51, len)],
            vec![(toc / PIECE * PIECE, len - 51)],
            vec![pieces(100, 1), pieces(140, 2), pieces(143, 1)],
            vec![pieces(141, 3), pieces(0, 1), pieces(300, 1)],
            vec![pieces(4, 1), pieces(301, 2), pieces(10, 1), pieces(350, 12)],
        ];
        for parts in &requests {
            let answer = get_parts(&mut client, &digest, parts);
            let mut coalesced = parts.clone();
            coalesced.dedup_by(|next, before| {
                before.1 == next.0 && {
                    before.1 = next.1;
                    true
                }
            });
            is_of(&answer, &blob, &coalesced);
            assert_eq!(answer.field("gantry-cache"), Some("partial"));
        }
        let all: Vec<(usize, usize)> = requests.concat();
        let most = rounded_bytes(&all);
        let bytes = sample(&plane, "fetched_bytes_total");
        assert!(bytes <= most && bytes > most - CHUNK, "{bytes} of {most}");
        let fetches = fetched(&fetches);
        assert!(fetches.iter().all(|(_, to)| to.is_some()), "nobody wants the whole: {fetches:?}");
        assert!(!plane.place.blob(&digest).exists());
        plane.end();
    }
}

/// As the SOCI snapshotter does: the small index of a layer whole, then spans of 4 MiB of the layer, several at a time, as
/// files in them are opened; in the end, maybe, all that is left.
#[test]
fn a_layer_is_read_by_spans_on_a_miss() {
    const SPAN: usize = 4 * MIB;
    for leg in legs() {
        let (ztoc, layer) = (content(70_000), content(24 * MIB + 777));
        let mut plane = Plane::start(leg);
        let (small, digest) = (sha256(&ztoc), sha256(&layer));
        let blobs = HashMap::from([(small, ztoc.clone()), (digest, layer.clone())]);
        let lens: HashMap<Digest, usize> = blobs.iter().map(|(digest, blob)| (*digest, blob.len())).collect();
        let told = move |digest: &Digest| lens.get(digest).copied();
        let fetches =
            play_told(&mut plane, told, move |digest, _, from, to| honest(&blobs[digest], from, to));
        assert!(plane.client().get(&target(&small)).body == ztoc);
        let small_bytes = ztoc.len() as u64;
        let span = |number: usize| (number * SPAN, ((number + 1) * SPAN).min(layer.len()));
        let probe = [(0, 2)];
        is_of(&get_parts(&mut plane.client(), &digest, &probe), &layer, &probe);
        let wanted = [5, 2, 3, 2, 6];
        let mut clients: Vec<Client> = wanted.iter().map(|_| plane.client()).collect();
        for (client, number) in clients.iter_mut().zip(wanted) {
            ranged(client, &digest, &header(&[span(number)]));
        }
        for (client, number) in clients.iter_mut().zip(wanted) {
            is_of(&client.read().unwrap(), &layer, &[span(number)]);
        }
        let parts: Vec<(usize, usize)> = wanted.iter().map(|number| span(*number)).chain(probe).collect();
        let most = rounded_bytes(&parts);
        let bytes = sample(&plane, "fetched_bytes_total") - small_bytes;
        assert!(bytes <= most && bytes > most - CHUNK, "{bytes} of {most}");
        assert!(fetched(&fetches)[1..].iter().all(|(_, to)| to.is_some()), "nobody wants the whole");
        // What is left is all that is fetched then.
        assert!(plane.client().get(&target(&digest)).body == layer);
        assert_eq!(sample(&plane, "fetched_bytes_total") - small_bytes, layer.len() as u64);
        plane.end();
    }
}
