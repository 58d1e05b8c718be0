//! What the control plane asks of the cache: blobs come without a client, stay, go, and are told of; within bounds, and
//! never at a client's cost.

use std::{
    pin::{Pin, pin},
    sync::{Arc, Mutex, atomic::AtomicU64, mpsc},
    task::{Context, Poll, Waker},
};

use control::{Cache, CacheEntry, FillEnd, Purged, Wanted};
use dataplane::limits::{
    CACHE_ASKS_MAX, CACHE_DIGESTS_MAX, CACHE_FILLS_MAX, CACHE_PAGE_ENTRIES_MAX, CACHE_PAGE_LOOKS_MAX,
};
use dataplane::testing::Call;
use oci::{Digest, Problem};

use crate::{
    fills::{MIB, Piece, Played, content, fetched, honest, origin, play, sample, target},
    plane::Plane,
    rig::{Place, legs, sha256, until, wait_for},
};

const ENOSPC: i32 = 28;

fn wanted(digest: Digest) -> Wanted {
    Wanted { origin: origin(), digest, size_bytes: None, gives_way: false }
}

fn fill(plane: &Plane, wanted: Wanted) -> Result<FillEnd, Problem> {
    wait_for(plane.cache.fill(wanted, Arc::default()))
}

fn all(plane: &Plane) -> Vec<CacheEntry> {
    let (mut entries, mut after) = (Vec::new(), Some(0));
    while let Some(at) = after {
        let page = wait_for(plane.cache.list(at, 2)).unwrap();
        assert!(page.entries.len() <= 2);
        entries.extend(page.entries);
        after = page.next;
    }
    entries
}

#[test]
fn what_is_wanted_comes_without_a_client_and_is_told_of_kept_and_purged() {
    for leg in legs() {
        let blob = content(2 * MIB + 5);
        let digest = sha256(&blob);
        let mut plane = Plane::caching(Arc::new(Place::new()), leg, 64 * MIB as u64);
        let sent = blob.clone();
        let fetches = play(&mut plane, None, move |_, from, to| honest(&sent, from, to));
        let done = Arc::<AtomicU64>::default();
        let end = wait_for(plane.cache.fill(wanted(digest), done.clone()));
        assert_eq!(end, Ok(FillEnd::Fetched));
        assert_eq!(done.load(std::sync::atomic::Ordering::Relaxed), blob.len() as u64);
        // Without that the name would take some seconds.
        wait_for(plane.cache.settle(vec![digest])).unwrap();
        assert!(plane.place.blob(&digest).exists());
        assert_eq!(fill(&plane, wanted(digest)), Ok(FillEnd::Here));
        assert_eq!(
            (fetched(&fetches).len(), sample(&plane, "misses_total")),
            (1, 0),
            "it was no client's miss"
        );

        let entry = all(&plane)[0];
        assert_eq!((entry.digest, entry.size_bytes), (digest, blob.len() as u64));
        assert!(!entry.is_filling && !entry.is_pinned && entry.came_unix > 0);
        assert_eq!(wait_for(plane.cache.keep(vec![digest, sha256(b"other")], true)), Ok(1));
        assert!(all(&plane)[0].is_pinned);
        let stat = wait_for(plane.cache.stat()).unwrap();
        assert_eq!((stat.blobs, stat.pinned, stat.pinned_bytes), (1, 1, blob.len() as u64));
        assert_eq!(
            (stat.upstreams[0].fetched_bytes, stat.budget_bytes),
            (blob.len() as u64, 64 * MIB as u64)
        );
        assert_eq!(wait_for(plane.cache.keep(vec![digest], false)), Ok(1));
        assert!(!all(&plane)[0].is_pinned);

        // Somebody reads it: he has it to its end, and then it is gone.
        let mut reader = plane.client();
        reader.send("GET", &target(&digest), b"");
        assert_eq!(reader.read_head().unwrap().field("gantry-cache"), Some("hit"));
        let gone = wait_for(plane.cache.purge(vec![digest, sha256(b"other")]));
        assert_eq!(gone, Ok(Purged { blobs: 1, bytes: blob.len() as u64, filling: 0 }));
        assert!(all(&plane).is_empty() && !plane.place.blob(&digest).exists());
        assert!(reader.read_rest(blob.len()).unwrap() == blob);
        until("its bytes have come back", || plane.metric("gantry_store_budget_used_bytes") == 0);
        let again = plane.client().get(&target(&digest));
        assert_eq!((again.status, again.field("gantry-cache")), (200, Some("fill")));
        assert_eq!(fetched(&fetches).len(), 2, "the origin is asked again");
        assert_eq!(sample(&plane, "served_bytes_total"), 2 * blob.len() as u64);
        assert_eq!(plane.metric("gantry_store_purges_total"), 1);
        plane.end();
    }
}

#[test]
fn pages_have_a_bound_and_together_they_are_all() {
    let leg = legs()[0];
    let mut plane = Plane::caching(Arc::new(Place::new()), leg, 64 * MIB as u64);
    let blobs: Vec<Vec<u8>> = (1..8).map(content).collect();
    let sent: Vec<(Digest, Vec<u8>)> = blobs.iter().map(|blob| (sha256(blob), blob.clone())).collect();
    let next = Arc::new(Mutex::new(0));
    let now = next.clone();
    play(&mut plane, None, move |_, from, to| honest(&sent[*now.lock().unwrap()].1, from, to));
    for (number, blob) in blobs.iter().enumerate() {
        *next.lock().unwrap() = number;
        assert_eq!(fill(&plane, wanted(sha256(blob))), Ok(FillEnd::Fetched));
    }
    let mut digests: Vec<Digest> = all(&plane).iter().map(|entry| entry.digest).collect();
    digests.sort_unstable();
    let mut expect: Vec<Digest> = blobs.iter().map(|blob| sha256(blob)).collect();
    expect.sort_unstable();
    assert_eq!(digests, expect);
    let most = wait_for(plane.cache.list(0, u32::MAX)).unwrap();
    assert!(most.entries.len() <= CACHE_PAGE_ENTRIES_MAX && most.next.is_none());
    assert_eq!(wait_for(plane.cache.list(CACHE_PAGE_LOOKS_MAX, 1)).unwrap().entries, []);
    let many = vec![expect[0]; CACHE_DIGESTS_MAX + 1];
    assert!(matches!(wait_for(plane.cache.purge(many.clone())), Err(Problem::RequestMalformed { .. })));
    assert!(matches!(wait_for(plane.cache.keep(many, true)), Err(Problem::RequestMalformed { .. })));
    plane.end();
}

type Asked<'a> = Pin<Box<dyn Future<Output = Result<FillEnd, Problem>> + 'a>>;

#[test]
fn so_many_are_wanted_at_a_time_and_one_that_nobody_wants_any_more_makes_room() {
    for leg in legs() {
        let mut plane = Plane::caching(Arc::new(Place::new()), leg, 64 * MIB as u64);
        let gates = Arc::new(Mutex::new(Vec::new()));
        let kept = gates.clone();
        let fetches = play(&mut plane, None, move |_, from, _| {
            let (gate, opened) = mpsc::channel();
            kept.lock().unwrap().push(gate);
            let pieces = vec![Piece::Bytes(vec![7; 100]), Piece::Gate(opened)];
            Ok(Some(Played { start: from, size_bytes: Some(9 * MIB as u64), pieces }))
        });
        let mut context = Context::from_waker(Waker::noop());
        let ask = |number: usize| wanted(sha256(&number.to_le_bytes()));
        let mut asked: Vec<Asked<'_>> = (0..CACHE_FILLS_MAX)
            .map(|number| -> Asked<'_> { Box::pin(plane.cache.fill(ask(number), Arc::default())) })
            .collect();
        assert!(asked.iter_mut().all(|one| one.as_mut().poll(&mut context).is_pending()));
        until("all are asked for", || fetched(&fetches).len() == CACHE_FILLS_MAX);
        assert_eq!(fill(&plane, ask(999)), Err(Problem::Overloaded { retry_after_s: 1 }));
        drop(asked.pop());
        let mut next: Asked<'_> = Box::pin(plane.cache.fill(ask(999), Arc::default()));
        until("there is room", || match next.as_mut().poll(&mut context) {
            Poll::Pending => fetched(&fetches).len() == CACHE_FILLS_MAX + 1,
            Poll::Ready(_overloaded) => {
                next = Box::pin(plane.cache.fill(ask(999), Arc::default()));
                false
            }
        });
        drop((next, asked));
        // What they held up ends, since nobody waits for it.
        until("the origin is left alone", || {
            // One that is open already is.
            gates.lock().unwrap().iter().for_each(|gate| _ = gate.send(()));
            sample(&plane, "running") == 0
        });
        plane.end();
    }
}

#[test]
fn the_lane_has_a_bound() {
    let (cache, _lane) = Cache::lane(CACHE_ASKS_MAX);
    let mut context = Context::from_waker(Waker::noop());
    let mut waiting: Vec<_> = (0..CACHE_ASKS_MAX).map(|_| Box::pin(cache.stat())).collect();
    assert!(waiting.iter_mut().all(|one| one.as_mut().poll(&mut context).is_pending()));
    let more = pin!(cache.stat()).poll(&mut context);
    assert_eq!(more, Poll::Ready(Err(Problem::Overloaded { retry_after_s: 1 })));
}

#[test]
fn one_that_gives_way_fetches_nothing_while_a_client_waits() {
    for leg in legs() {
        let (first, second) = (content(MIB), content(2 * MIB));
        let (one, two) = (sha256(&first), sha256(&second));
        let mut plane = Plane::caching(Arc::new(Place::new()), leg, 64 * MIB as u64);
        let (gate, opened) = mpsc::channel();
        let (mut opened, blobs) = (Some(opened), [first.clone(), second.clone()]);
        let fetches = play(&mut plane, None, move |number, from, to| {
            let Some(opened) = opened.take() else { return honest(&blobs[1], from, to) };
            assert_eq!(number, 0);
            let half = blobs[0].len() / 2;
            let pieces = vec![
                Piece::Bytes(blobs[0][..half].to_vec()),
                Piece::Gate(opened),
                Piece::Bytes(blobs[0][half..].to_vec()),
            ];
            Ok(Some(Played { start: from, size_bytes: Some(blobs[0].len() as u64), pieces }))
        });
        let mut client = plane.client();
        client.send("GET", &target(&one), b"");
        assert_eq!(client.read_head().unwrap().status, 200);
        assert_eq!(sample(&plane, "clients"), 1);
        let mut behind: Asked<'_> =
            Box::pin(plane.cache.fill(Wanted { gives_way: true, ..wanted(two) }, Arc::default()));
        let mut context = Context::from_waker(Waker::noop());
        assert!(behind.as_mut().poll(&mut context).is_pending());
        // Whoever asks does not: the core has looked at the one before by the time that it answers this.
        wait_for(plane.cache.stat()).unwrap();
        assert_eq!(fetched(&fetches).len(), 1, "the client's alone");
        gate.send(()).unwrap();
        assert!(client.read_rest(first.len()).unwrap() == first);
        assert_eq!(wait_for(behind), Ok(FillEnd::Fetched));
        assert_eq!(fetched(&fetches).len(), 2);
        plane.end();
    }
}

#[test]
fn what_has_no_room_or_no_origin_is_told() {
    for leg in legs() {
        let blob = content(2 * MIB);
        let sent = blob.clone();
        let mut plane = Plane::caching(Arc::new(Place::new()), leg, MIB as u64);
        play(&mut plane, None, move |_, from, to| honest(&sent, from, to));
        assert_eq!(fill(&plane, wanted(sha256(&blob))), Ok(FillEnd::NoRoom));
        plane.end();
        // The room ends in the middle; the core goes on with what else there is.
        let mut plane = Plane::start(leg);
        let blob = content(6 * MIB);
        let sent = blob.clone();
        play(&mut plane, None, move |_, from, to| honest(&sent, from, to));
        plane.faults.fail(Call::Allocate, 3, ENOSPC);
        assert_eq!(fill(&plane, wanted(sha256(&blob))), Ok(FillEnd::NoRoom));
        plane.faults.heal();
        assert!(plane.client().get(&target(&sha256(&blob))).body == blob);
        plane.end();
        let mut plane = Plane::caching(Arc::new(Place::new()), leg, MIB as u64);
        play(&mut plane, None, move |_, _, _| Ok(None));
        let digest = sha256(b"x");
        assert_eq!(fill(&plane, wanted(digest)), Err(Problem::BlobUnknown(digest)));
        plane.end();
    }
}
