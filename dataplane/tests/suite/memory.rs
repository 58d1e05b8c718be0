//! What fills have in memory is one sum for each and one for all, and who finds no room waits for the disk, never for long.
//! Storage rules: "Fills".

use std::{collections::HashMap, sync::mpsc, thread, time::Duration};

use dataplane::{
    limits::{
        FILL_EXTENTS_MAX, FILL_MEMORY_BYTES_MAX, FILLS_MEMORY_BYTES_MAX, PASS_PIECE_BYTES, PASS_WINDOW_BYTES,
        POOL_THREADS,
    },
    testing::{Call, Driver},
};
use oci::Digest;

use crate::{
    extents::CHUNK,
    fills::{
        MIB, Piece, Played, content, fetched, honest, play, play_each, play_told, ranged, sample, target,
    },
    plane::{Client, Plane},
    rig::{legs, sha256, until},
};

/// What an origin of these tests sends at once: more than a chunk, and in one unit of room with what came before.
const PIECE_BYTES: usize = 400_000;
/// Of each answer, before its gate: enough for its files and its room.
const BEFORE: usize = 100;
/// The same of a run, which writes its first chunk piece by piece.
const BEFORE_RUN: usize = CHUNK as usize + BEFORE;

fn held(plane: &Plane) -> u64 {
    plane.metric("gantry_fill_memory_bytes")
}

/// So many bytes have come and are written: who waits for an upstream holds nothing.
#[track_caller]
fn is_written(plane: &Plane, came_bytes: usize) {
    let mut looks = 0;
    until("what came is written", || {
        let is_so = sample(plane, "fetched_bytes_total") == came_bytes as u64 && held(plane) == 0;
        // A piece is counted a moment before it is held.
        looks = if is_so { looks + 1 } else { 0 };
        looks > 20
    });
}

/// What is held when no more comes to be, which is as much as may be.
#[track_caller]
fn is_full(plane: &Plane, most_bytes: u64) {
    let mut looks = 0;
    let mut before = 0;
    until("it holds what it may", || {
        let now = held(plane);
        assert!(now <= most_bytes, "{now}");
        looks = if now == before { looks + 1 } else { 0 };
        before = now;
        looks > 20 && now > most_bytes - PIECE_BYTES as u64
    });
}

/// An honest answer that waits behind its first bytes, and behind the piece that follows them; and who lets it go on.
fn gated(blob: &[u8], from: u64, to: Option<u64>) -> (Played, [mpsc::Sender<()>; 2]) {
    let end = to.map_or(blob.len(), |to| to as usize);
    let before = if from == 0 { BEFORE_RUN } else { BEFORE };
    let (front, back) = blob[from as usize..end].split_at(before);
    let (piece, back) = back.split_at(PIECE_BYTES.min(back.len()));
    let (open_piece, piece_gate) = mpsc::channel();
    let (open, gate) = mpsc::channel();
    let pieces = vec![
        Piece::Bytes(front.to_vec()),
        Piece::Gate(piece_gate),
        Piece::AtOnce(piece.to_vec()),
        Piece::Gate(gate),
        Piece::Bytes(back.to_vec()),
    ];
    (Played { start: from, size_bytes: Some(blob.len() as u64), pieces }, [open_piece, open])
}

/// Small blobs, each of which keeps a thread of the pool busy that waits for room on the disk.
fn plugs() -> Vec<(Digest, Vec<u8>)> {
    (0..POOL_THREADS).map(|number| vec![number as u8; 10]).map(|blob| (sha256(&blob), blob)).collect()
}

/// Lets the pieces come while nothing is written. Gives who waits for the plugs, and what still keeps the rest.
fn come_unwritten(plane: &Plane, gates: Vec<[mpsc::Sender<()>; 2]>) -> (Vec<Client>, Vec<mpsc::Sender<()>>) {
    plane.faults.take();
    plane.faults.hold(Call::Allocate);
    let ask = |(digest, _): (Digest, Vec<u8>)| {
        let mut client = plane.client();
        client.send("GET", &target(&digest), b"");
        client
    };
    let clients = plugs().into_iter().map(ask).collect();
    let mut plugged = 0;
    until("the pool is busy", || {
        plugged += plane.faults.take().iter().filter(|(call, _)| *call == Call::Allocate).count();
        plugged == POOL_THREADS
    });
    (clients, gates.into_iter().map(|[_piece, rest]| rest).collect())
}

// Not on the ring: its writes wait for no thread.
#[test]
fn what_one_fill_holds_is_bounded_whoever_fills() {
    let mut plane = Plane::start(Driver::Epoll);
    let blob = content(24 * MIB);
    let digest = sha256(&blob);
    let (gates, opens) = mpsc::channel();
    let mut blobs: HashMap<Digest, Vec<u8>> = plugs().into_iter().collect();
    blobs.insert(digest, blob.clone());
    let sizes = blobs.clone();
    let told = move |digest: &Digest| Some(sizes[digest].len());
    let fetches = play_told(&mut plane, told, move |digest, _, from, to| {
        let blob = &blobs[digest];
        if blob.len() < MIB {
            return honest(blob, from, to);
        }
        let (played, open) = gated(blob, from, to);
        // Later ones need no gate.
        drop(gates.send(open));
        Ok(Some(played))
    });
    let mut clients: Vec<Client> = (0..=FILL_EXTENTS_MAX).map(|_| plane.client()).collect();
    let parts: Vec<(usize, usize)> =
        (0..=FILL_EXTENTS_MAX).map(|part| (part * 4 * MIB + MIB, (part + 1) * 4 * MIB)).collect();
    clients[0].send("GET", &target(&digest), b"");
    let first = opens.recv().unwrap();
    for (client, (start, end)) in clients.iter_mut().zip(&parts).skip(1) {
        ranged(client, &digest, &format!("{start}-{}", end - 1));
    }
    let mut gates: Vec<_> = (0..FILL_EXTENTS_MAX).map(|_| opens.recv().unwrap()).collect();
    gates.push(first);
    is_written(&plane, BEFORE_RUN + FILL_EXTENTS_MAX * BEFORE);
    let (_plugs, rest) = come_unwritten(&plane, gates);
    is_full(&plane, FILL_MEMORY_BYTES_MAX);
    plane.faults.heal();
    drop((rest, opens));
    for (client, (start, end)) in clients.iter_mut().zip(&parts).skip(1) {
        let part = client.read().unwrap();
        assert!(part.status == 206 && part.body == blob[*start..*end], "{start}");
    }
    assert!(clients[0].read().unwrap().body == blob);
    until("nothing is held", || held(&plane) == 0);
    assert!(fetched(&fetches).len() > FILL_EXTENTS_MAX);
    plane.end();
}

#[test]
fn what_all_fills_hold_is_bounded_on_all_cores_together() {
    const FILLS: usize = 70;
    let mut plane = Plane::of_cores(Driver::Epoll, 2);
    let blobs: HashMap<Digest, Vec<u8>> = (0..FILLS)
        .map(|number| {
            let mut blob = content(MIB + MIB / 2);
            blob[..8].copy_from_slice(&number.to_le_bytes());
            (sha256(&blob), blob)
        })
        .collect();
    let (gates, opens) = mpsc::channel();
    let mut all = blobs.clone();
    all.extend(plugs());
    let fetches = play_each(&mut plane, None, move |digest, _, from, to| {
        let blob = &all[digest];
        if blob.len() < MIB {
            return honest(blob, from, to);
        }
        let (played, open) = gated(blob, from, to);
        drop(gates.send(open));
        Ok(Some(played))
    });
    let mut clients: Vec<(Client, &Vec<u8>)> = blobs
        .iter()
        .map(|(digest, blob)| {
            let mut client = plane.client();
            client.send("GET", &target(digest), b"");
            (client, blob)
        })
        .collect();
    let gates: Vec<_> = (0..FILLS).map(|_| opens.recv().unwrap()).collect();
    is_written(&plane, FILLS * BEFORE_RUN);
    let (_plugs, rest) = come_unwritten(&plane, gates);
    is_full(&plane, FILLS_MEMORY_BYTES_MAX);
    plane.faults.heal();
    drop(rest);
    for (client, blob) in &mut clients {
        assert!(client.read().unwrap().body == **blob);
    }
    until("nothing is held", || held(&plane) == 0);
    assert_eq!(fetched(&fetches).len(), FILLS + POOL_THREADS);
    plane.end();
}

#[test]
fn an_answer_that_waits_for_others_extents_holds_nothing() {
    for leg in legs() {
        let mut plane = Plane::start(leg);
        let blob = content(8 * MIB);
        let digest = sha256(&blob);
        let (gates, opens) = mpsc::channel();
        let whole = blob.clone();
        let fetches = play(&mut plane, Some(blob.len()), move |number, from, to| {
            if number > 0 {
                // It has lost its ranges.
                return Ok(Some(Played { start: 0, ..honest(&whole, 0, None)?.unwrap() }));
            }
            let (played, open) = gated(&whole, from, to);
            gates.send(open).unwrap();
            Ok(Some(played))
        });
        let mut first = plane.client();
        ranged(&mut first, &digest, "3145728-3245727");
        let open = opens.recv().unwrap();
        let mut second = plane.client();
        ranged(&mut second, &digest, "6291456-6391455");
        until("both are asked for", || fetched(&fetches).len() == 2);
        for _ in 0..20 {
            thread::sleep(Duration::from_millis(5));
            assert!(held(&plane) <= CHUNK + BEFORE as u64, "at most of the extent's first piece");
        }
        until("what came of the extent is written", || held(&plane) == 0);
        drop(open);
        assert!(first.read().unwrap().body == blob[3 * MIB..3 * MIB + 100_000]);
        assert!(second.read().unwrap().body == blob[6 * MIB..6 * MIB + 100_000]);
        until("all of it is here", || plane.place.blob(&digest).exists());
        until("nothing is held", || held(&plane) == 0);
        plane.end();
    }
}

#[test]
fn what_passes_through_is_counted_by_itself() {
    for leg in legs() {
        let mut plane = Plane::start(leg);
        plane.faults.fail(Call::Allocate, 0, 28);
        let blob = content(24 * MIB);
        let digest = sha256(&blob);
        let whole = blob.clone();
        play(&mut plane, Some(blob.len()), move |_, from, to| honest(&whole, from, to));
        let passing = |plane: &Plane| plane.metric("gantry_fill_pass_memory_bytes");
        let mut slow = plane.client();
        slow.send("GET", &target(&digest), b"");
        assert_eq!(slow.read_head().unwrap().status, 200);
        let mut body = slow.read_rest(6 * MIB).unwrap();
        // The window keeps what was sent, until more comes.
        until("a window", || passing(&plane) > PASS_WINDOW_BYTES / 2);
        // A piece is there a moment before the oldest goes for it.
        let most = PASS_WINDOW_BYTES + PASS_PIECE_BYTES as u64;
        assert!(passing(&plane) <= most && held(&plane) <= FILL_MEMORY_BYTES_MAX);
        body.extend(slow.read_rest(18 * MIB).unwrap());
        assert!(body == blob);
        until("nothing is held", || passing(&plane) == 0 && held(&plane) == 0);
        plane.end();
    }
}
