//! Blobs of upstreams keep to their budget, whoever reads them; what was pushed never goes for them.
//! Storage rules: "The cache's budget", "Facts about a blob".

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use control::{Ask, Fetched, Link, Origin};
use oci::Digest;

use dataplane::testing::{Call, Driver};

use crate::{
    fills::{MIB, Piece, content, honest, play, play_each, ranged, sample, target},
    plane::{Plane, open_files},
    rig::{Place, legs, sha256, until, wait_for},
};

type Blobs = Arc<HashMap<Digest, Vec<u8>>>;
/// What was pushed.
type Home = Arc<Mutex<HashMap<Digest, u64>>>;

fn blobs(count: usize, len: usize) -> (Vec<Digest>, Blobs) {
    let blobs: Vec<Vec<u8>> = (0..count).map(|number| content(len + number)).collect();
    let digests = blobs.iter().map(|blob| sha256(blob)).collect();
    (digests, Arc::new(blobs.into_iter().map(|blob| (sha256(&blob), blob)).collect()))
}

/// An upstream with all of these, and a registry that takes pushes.
fn serve(plane: &mut Plane, blobs: &Blobs) -> Home {
    let home = Home::default();
    let (blobs, rows) = (blobs.clone(), home.clone());
    plane.answer(move |ask| match ask {
        Ask::Link { repository, digest, answer, .. } => {
            let pushed = rows.lock().unwrap().get(&digest).copied();
            drop(answer.send(Ok(match (repository.as_str().starts_with("hub/"), pushed) {
                (true, _) => {
                    let there = repository.as_str().strip_prefix("hub/").unwrap();
                    let repository = oci::RepositoryName::parse(there).unwrap();
                    Some(Link::Upstream { origin: Origin { upstream: 0, repository }, size_bytes: None })
                }
                (false, pushed) => pushed.map(|size_bytes| Link::Here { size_bytes }),
            })));
        }
        Ask::Fetch { digest, from, to, answer, .. } => {
            let blob = &blobs[&digest];
            let end = to.map_or(blob.len(), |to| to as usize);
            let part = bytes::Bytes::copy_from_slice(&blob[from as usize..end]);
            let (sender, bytes) = tokio::sync::mpsc::channel(4);
            let size_bytes = Some(blob.len() as u64);
            drop(answer.send(Ok(Some(Fetched { start: from, is_whole: false, size_bytes, bytes }))));
            thread::spawn(move || {
                let mut part = part;
                while !part.is_empty() {
                    let piece = part.split_to(part.len().min(60_000));
                    if sender.blocking_send(Ok(piece)).is_err() {
                        return;
                    }
                }
            });
        }
        Ask::HomeAfter { answer, .. } => drop(answer.send(Ok(Vec::new()))),
        Ask::OpenUpload { answer, .. } => drop(answer.send(Ok(()))),
        Ask::Home { digests, answer } => {
            let rows = rows.lock().unwrap();
            drop(answer.send(Ok(digests.iter().map(|digest| rows.get(digest).copied()).collect())));
        }
        Ask::Commit { batch, answer } => {
            rows.lock().unwrap().extend(batch.iter().map(|blob| (blob.digest, blob.size_bytes)));
            drop(answer.send(Ok(vec![Ok(()); batch.len()])));
        }
        _ => panic!("not asked here"),
    });
    home
}

/// Adds the files below `folder`, each once whatever names it has, with the bytes of its blocks.
fn add_blocks(folder: &Path, files: &mut HashMap<u64, u64>) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(found) if found.is_dir() => add_blocks(&entry.path(), files),
            Ok(found) => drop(files.insert(found.ino(), found.blocks() * 512)),
            // It went meanwhile.
            Err(_) => {}
        }
    }
}

fn used(plane: &Plane) -> u64 {
    plane.metric("gantry_store_budget_used_bytes")
}

#[test]
fn constant_misses_and_slow_readers_never_exceed_the_budget_and_every_body_is_right() {
    const READERS: usize = 16;
    for leg in legs() {
        let (digests, blobs) = blobs(12, 2 * MIB);
        let budget = 3 * 3 * MIB as u64;
        let mut plane = Plane::caching(Arc::new(Place::new()), leg, budget);
        serve(&mut plane, &blobs);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let (plane, blobs, digests, done) = (&plane, &blobs, &digests, &done);
            let watching = scope.spawn(move || {
                let mut most = 0;
                while !done.load(Ordering::Relaxed) {
                    let counted = used(plane);
                    assert!(counted <= budget, "{counted} of {budget}");
                    most = most.max(counted);
                }
                most
            });
            let readers: Vec<_> = (0..READERS)
                .map(|reader| {
                    scope.spawn(move || {
                        for round in 0..6 {
                            let digest = digests[(reader * 5 + round * 7) % digests.len()];
                            let mut client = plane.client();
                            client.send("GET", &target(&digest), b"");
                            let head = client.read_head().unwrap();
                            assert_eq!(head.status, 200, "{}", head.head);
                            let blob = &blobs[&digest];
                            let mut body = client.read_rest(blob.len() / 2).unwrap();
                            thread::sleep(std::time::Duration::from_millis(20));
                            body.extend(client.read_rest(blob.len() - blob.len() / 2).unwrap());
                            assert!(body == *blob);
                        }
                    })
                })
                .collect();
            readers.into_iter().for_each(|reader| reader.join().unwrap());
            done.store(true, Ordering::Relaxed);
            assert!(watching.join().unwrap() > budget / 2, "the budget was of use");
        });
        assert!(plane.sample("gantry_store_evictions_total{upstream=\"docker.io\"}") > 0);
        let open = || open_files(&plane.place, "blobs") + open_files(&plane.place, "fills");
        // Each core may keep open what is still here.
        until("nothing that has gone is left open", || open() <= 4);
        // Now that nothing moves the disk can be counted.
        until("what is on the disk is what is counted", || {
            let mut files = HashMap::new();
            add_blocks(&plane.place.path("blobs"), &mut files);
            add_blocks(&plane.place.path("fills"), &mut files);
            // Journals of fills, and the last block of each file, are nobody's bytes.
            files.values().sum::<u64>().abs_diff(used(&plane)) <= 16 * 8192
        });
        plane.end();
    }
}

#[test]
fn a_blob_that_goes_while_it_is_sent_counts_until_its_reader_is_done() {
    for leg in legs() {
        let (digests, blobs) = blobs(2, 6 * MIB);
        // Room for one of them and no more.
        let mut plane = Plane::caching(Arc::new(Place::new()), leg, 8 * MIB as u64);
        serve(&mut plane, &blobs);
        let warm = plane.client().get(&target(&digests[0]));
        assert!(warm.body == blobs[&digests[0]]);
        until("it has its name", || plane.place.blob(&digests[0]).exists());
        let mut slow = plane.client();
        slow.send("GET", &target(&digests[0]), b"");
        let head = slow.read_head().unwrap();
        assert_eq!(head.field("gantry-cache"), Some("hit"));
        let other = plane.client().get(&target(&digests[1]));
        assert!(other.body == blobs[&digests[1]]);
        assert_eq!(sample(&plane, "passes_total"), 1, "the room of the first was not there yet");
        assert!(!plane.place.blob(&digests[0]).exists(), "it has gone all the same");
        assert!(used(&plane) >= 6 * MIB as u64);
        let len = blobs[&digests[0]].len();
        assert!(slow.read_rest(len).unwrap() == blobs[&digests[0]]);
        drop(slow);
        until("its bytes are given back", || used(&plane) == 0);
        plane.end();
    }
}

#[test]
fn what_is_larger_than_the_budget_is_passed_through_and_nothing_goes_for_it() {
    for leg in legs() {
        let (small, blobs_small) = blobs(1, MIB);
        let (large, blobs_large) = blobs(1, 9 * MIB);
        let all: HashMap<_, _> =
            blobs_small.iter().chain(blobs_large.iter()).map(|(d, b)| (*d, b.clone())).collect();
        let mut plane = Plane::caching(Arc::new(Place::new()), leg, 8 * MIB as u64);
        serve(&mut plane, &Arc::new(all));
        assert_eq!(plane.client().get(&target(&small[0])).status, 200);
        until("it has its name", || plane.place.blob(&small[0]).exists());
        let answer = plane.client().get(&target(&large[0]));
        assert!(answer.status == 200 && answer.body == blobs_large[&large[0]]);
        assert_eq!(sample(&plane, "passes_total"), 1);
        assert!(plane.place.blob(&small[0]).exists());
        plane.end();
    }
}

#[test]
fn what_was_pushed_is_never_evicted_also_if_it_was_cached_before() {
    for leg in legs() {
        let (digests, blobs) = blobs(6, 2 * MIB);
        let mut plane = Plane::caching(Arc::new(Place::new()), leg, 8 * MIB as u64);
        serve(&mut plane, &blobs);
        let cached = digests[0];
        assert_eq!(plane.client().get(&target(&cached)).status, 200);
        until("it has its name", || plane.place.blob(&cached).exists());
        let before = used(&plane);
        assert!(before >= 2 * MIB as u64);
        let pushed =
            plane.client().ask("POST", &format!("/v2/mine/blobs/uploads/?digest={cached}"), &blobs[&cached]);
        assert_eq!(pushed.status, 201);
        assert_eq!(used(&plane), 0, "its bytes are not the cache's any more");
        for digest in &digests[1..] {
            assert_eq!(plane.client().get(&target(digest)).status, 200);
        }
        assert!(plane.place.blob(&cached).exists());
        let home = plane.client().get(&format!("/v2/mine/blobs/{cached}"));
        assert!(home.status == 200 && home.body == blobs[&cached]);
        plane.end();
    }
}

#[test]
fn what_is_pinned_stays_and_the_others_go() {
    for leg in legs() {
        let (digests, blobs) = blobs(6, 2 * MIB);
        let mut plane = Plane::caching(Arc::new(Place::new()), leg, 8 * MIB as u64);
        serve(&mut plane, &blobs);
        let pinned = digests[0];
        let first = plane.client().get(&format!("/v2/hub/library/pinned/blobs/{pinned}"));
        assert!(first.body == blobs[&pinned]);
        until("it has its name", || plane.place.blob(&pinned).exists());
        for digest in &digests[1..] {
            assert!(plane.client().get(&target(digest)).body == blobs[digest]);
        }
        assert!(plane.sample("gantry_store_evictions_total{upstream=\"docker.io\"}") > 0);
        assert!(plane.place.blob(&pinned).exists());
        plane.end();
    }
}

/// A process with room for all of these, which has given them their names.
fn caches(place: &Arc<Place>, leg: Driver, digests: &[Digest], blobs: &Blobs) -> Plane {
    let mut plane = Plane::caching(place.clone(), leg, 16 * MIB as u64);
    serve(&mut plane, blobs);
    for digest in digests {
        assert_eq!(plane.client().get(&target(digest)).status, 200);
    }
    until("they have their names", || digests.iter().all(|digest| place.blob(digest).exists()));
    plane
}

#[test]
fn the_books_outlive_a_restart() {
    for leg in legs() {
        let (digests, blobs) = blobs(2, 2 * MIB);
        let place = Arc::new(Place::new());
        let plane = caches(&place, leg, &digests, &blobs);
        let before = used(&plane);
        plane.end();
        let mut plane = Plane::caching(place, leg, 16 * MIB as u64);
        serve(&mut plane, &blobs);
        assert_eq!((used(&plane), plane.metric("gantry_store_cached_blobs")), (before, 2));
        let hit = plane.client().get(&target(&digests[1]));
        assert_eq!(hit.field("gantry-cache"), Some("hit"));
        plane.end();
    }
}

/// Nobody has to ask for anything.
#[test]
fn a_budget_that_is_smaller_after_a_restart_is_kept_to() {
    for leg in legs() {
        let (digests, blobs) = blobs(4, 2 * MIB);
        let place = Arc::new(Place::new());
        let plane = caches(&place, leg, &digests, &blobs);
        plane.end();
        let mut plane = Plane::caching(place.clone(), leg, 5 * MIB as u64);
        serve(&mut plane, &blobs);
        until("it is kept to", || used(&plane) <= 5 * MIB as u64);
        assert_eq!(
            digests.iter().filter(|digest| place.blob(digest).exists()).count(),
            2,
            "and no more goes"
        );
        assert_eq!(plane.metric("gantry_store_cached_blobs"), 2);
        plane.end();
    }
}

#[test]
fn a_cached_blob_that_the_index_has_lost_is_found_by_the_scrub() {
    use dataplane::limits::Limits;
    for leg in legs() {
        let (digests, blobs) = blobs(1, 2 * MIB);
        let place = Arc::new(Place::new());
        fs::create_dir_all(place.blob(&digests[0]).parent().unwrap()).unwrap();
        fs::write(place.blob(&digests[0]), &blobs[&digests[0]]).unwrap();
        let scrub_interval = std::time::Duration::from_millis(100);
        let limits = Limits { scrub_interval, scrub_rate: 1_000_000, ..Plane::limits() };
        let mut plane = Plane::over(place, leg, false, limits);
        serve(&mut plane, &blobs);
        until("it is in the books", || plane.metric("gantry_store_cached_blobs") == 1);
        assert_eq!(used(&plane), blobs[&digests[0]].len() as u64);
        until("the scrub is done", || plane.metric("gantry_store_scrubbed_timestamp_seconds") > 0);
        assert_eq!(plane.metric("gantry_store_orphan_files"), 0);
        plane.end();
    }
}

/// Questions about homes wait while there is a list of them.
type Held = Arc<Mutex<Option<Vec<Ask>>>>;

#[test]
fn a_damaged_index_is_made_again_and_nothing_new_is_kept_until_then() {
    for leg in legs() {
        for is_cut in [false, true] {
            let (digests, blobs) = blobs(4, 2 * MIB);
            let (new, known) = digests.split_first().unwrap();
            let place = Arc::new(Place::new());
            caches(&place, leg, known, &blobs).end();
            let (snapshot, journal) = (place.path("cache/snapshot"), place.path("cache/journal"));
            let mut bytes = fs::read(&snapshot).unwrap();
            if is_cut {
                fs::write(journal, b"no journal of this index").unwrap();
            } else {
                *bytes.last_mut().unwrap() ^= 1;
                fs::write(&snapshot, &bytes).unwrap();
            }

            let mut plane = Plane::caching(place.clone(), leg, 16 * MIB as u64);
            let held: Held = Arc::new(Mutex::new(Some(Vec::new())));
            let (all, asks) = (blobs.clone(), held.clone());
            let serve = move |ask| match ask {
                Ask::Home { .. } if asks.lock().unwrap().is_some() => {
                    asks.lock().unwrap().as_mut().unwrap().push(ask);
                }
                Ask::Home { digests, answer } => drop(answer.send(Ok(vec![None; digests.len()]))),
                Ask::HomeAfter { answer, .. } => drop(answer.send(Ok(Vec::new()))),
                Ask::Link { answer, .. } => {
                    let link = Link::Upstream { origin: crate::fills::origin(), size_bytes: None };
                    drop(answer.send(Ok(Some(link))));
                }
                Ask::Fetch { digest, from, to, answer, .. } => {
                    let part = &all[&digest][from as usize..to.map_or(all[&digest].len(), |to| to as usize)];
                    let (sender, bytes) = tokio::sync::mpsc::channel(1);
                    sender.try_send(Ok(bytes::Bytes::copy_from_slice(part))).unwrap();
                    let size_bytes = Some(all[&digest].len() as u64);
                    drop(answer.send(Ok(Some(Fetched { start: from, is_whole: false, size_bytes, bytes }))));
                }
                _ => panic!("not asked here"),
            };
            plane.answer(serve);
            until("it is under way", || held.lock().unwrap().as_ref().is_some_and(|held| !held.is_empty()));
            let counted = if is_cut { known.len() as u64 } else { 0 };
            assert_eq!(plane.metric("gantry_store_cached_blobs"), counted);
            let hit = plane.client().get(&target(&known[0]));
            assert!(hit.field("gantry-cache") == Some("hit") && hit.body == blobs[&known[0]]);
            let passed = plane.client().get(&target(new));
            assert!(
                passed.field("gantry-cache") == Some("pass") && passed.body == blobs[new],
                "{}",
                passed.head
            );
            for ask in held.lock().unwrap().take().unwrap() {
                let Ask::Home { digests, answer } = ask else { panic!("no other is held") };
                drop(answer.send(Ok(vec![None; digests.len()])));
            }
            until("it is made again", || plane.metric("gantry_store_cached_blobs") == 3);
            until("what comes is kept again", || {
                plane.client().get(&target(new)).field("gantry-cache") == Some("fill")
            });
            let known_bytes = known.iter().map(|digest| blobs[digest].len() as u64).sum::<u64>();
            assert!(used(&plane) >= known_bytes);
            plane.end();

            let mut plane = Plane::caching(place.clone(), leg, 16 * MIB as u64);
            self::serve(&mut plane, &blobs);
            assert!(plane.metric("gantry_store_cached_blobs") >= 3, "it is whole again");
            plane.end();
        }
    }
}

#[test]
fn what_was_hit_outlives_many_that_nobody_wants_twice() {
    for leg in legs() {
        // Less than a unit of room each.
        let (digests, blobs) = blobs(25, MIB - 100);
        let place = Arc::new(Place::new());
        let mut plane = Plane::caching(place.clone(), leg, 12 * MIB as u64);
        serve(&mut plane, &blobs);
        let cache = |digests: &[Digest]| {
            for digest in digests {
                assert_eq!(plane.client().get(&target(digest)).status, 200);
            }
            // All of them in one batch of the keeper.
            until("their fills are gone", || fs::read_dir(place.path("fills")).unwrap().next().is_none());
        };
        let (hit, others) = digests.split_first().unwrap();
        cache(&digests[..1]);
        assert_eq!(plane.client().get(&target(hit)).field("gantry-cache"), Some("hit"));
        others.chunks(8).for_each(cache);
        assert!(place.blob(hit).exists(), "it was of use again");
        assert!(
            others[..8].iter().all(|digest| !place.blob(digest).exists()),
            "they were younger, and of none"
        );
        plane.end();
    }
}

/// Hits of a file that is open are told some at a time, and before anything may go.
#[test]
fn of_what_was_of_use_the_cache_knows_before_others_come() {
    for leg in legs() {
        let (digests, blobs) = blobs(2, 2 * MIB);
        let place = Arc::new(Place::new());
        let plane = caches(&place, leg, &digests[..1], &blobs);
        let entry = || {
            let page = wait_for(plane.cache.list(0, u32::MAX)).unwrap();
            page.entries.into_iter().find(|entry| entry.digest == digests[0]).unwrap()
        };
        let uses = || entry().uses;
        until("the cache knows its name", || !entry().is_filling);
        until("it is opened by its name", || {
            assert!(plane.client().get(&target(&digests[0])).body == blobs[&digests[0]]);
            uses() == 1
        });
        assert_eq!(plane.client().get(&target(&digests[0])).field("gantry-cache"), Some("hit"));
        assert_eq!(uses(), 1, "the core keeps that to itself for a while");
        assert_eq!(plane.client().get(&target(&digests[1])).field("gantry-cache"), Some("fill"));
        assert_eq!(uses(), 2);
        plane.end();
    }
}

#[test]
fn what_a_core_only_keeps_open_goes_before_what_is_read() {
    for leg in legs() {
        let (digests, blobs) = blobs(3, 6 * MIB);
        let [read, open, new] = digests[..] else { panic!("there are three") };
        let place = Arc::new(Place::new());
        let mut plane = Plane::caching(place.clone(), leg, 14 * MIB as u64);
        serve(&mut plane, &blobs);
        for digest in [read, open] {
            assert_eq!(plane.client().get(&target(&digest)).status, 200);
        }
        until("they have their names", || place.blob(&read).exists() && place.blob(&open).exists());
        for digest in [read, open] {
            until("it is a hit", || {
                plane.client().get(&target(&digest)).field("gantry-cache") == Some("hit")
            });
        }
        let mut slow = plane.client();
        slow.send("GET", &target(&read), b"");
        assert_eq!(slow.read_head().unwrap().field("gantry-cache"), Some("hit"));
        let answer = plane.client().get(&target(&new));
        assert!(
            answer.field("gantry-cache") == Some("fill") && answer.body == blobs[&new],
            "{}",
            answer.head
        );
        assert!(place.blob(&read).exists() && !place.blob(&open).exists());
        assert_eq!(sample(&plane, "passes_total"), 0, "its bytes came back while it was waited for them");
        assert!(slow.read_rest(blobs[&read].len()).unwrap() == blobs[&read]);
        plane.end();
    }
}

#[test]
fn units_that_two_hold_at_the_same_time_are_both_counted() {
    for leg in legs() {
        let mut plane = Plane::caching(Arc::new(Place::new()), leg, 16 * MIB as u64);
        let blob = content(2 * MIB);
        let digest = sha256(&blob);
        let whole = blob.clone();
        play(&mut plane, Some(blob.len()), move |_, from, to| honest(&whole, from, to));
        plane.faults.hold(Call::Allocate);
        let mut calls = 0;
        let mut allocate = |wanted| {
            until("so many hold room", || {
                calls += plane.faults.take().iter().filter(|(call, _)| *call == Call::Allocate).count();
                calls == wanted
            });
        };
        let mut probe = plane.client();
        ranged(&mut probe, &digest, "1572864-1573863");
        allocate(1);
        let mut client = plane.client();
        client.send("GET", &target(&digest), b"");
        allocate(2);
        assert_eq!(used(&plane), 2 * MIB as u64);
        plane.faults.heal();
        assert!(client.read().unwrap().body == blob);
        until("it has its name", || plane.place.blob(&digest).exists());
        until("it is cached", || plane.metric("gantry_store_cached_blobs") == 1);
        until("so much is counted", || used(&plane) == blob.len() as u64);
        plane.end();
    }
}

#[test]
fn who_began_a_fill_counts_as_long_as_anybody() {
    for leg in legs() {
        let mut plane = Plane::caching(Arc::new(Place::new()), leg, 40 * MIB as u64);
        let blobs: Vec<Vec<u8>> = (0..2).map(|number| content(32 * MIB + number)).collect();
        let all: HashMap<_, _> = blobs.iter().map(|blob| (sha256(blob), blob.clone())).collect();
        let (open, gate) = mpsc::channel::<()>();
        let mut gate = Some(gate);
        play_each(&mut plane, None, move |digest, _, from, to| {
            let mut played = honest(&all[digest], from, to)?.unwrap();
            if let Some(gate) = gate.take() {
                played.pieces.insert(0, Piece::Gate(gate));
            }
            Ok(Some(played))
        });
        let (first, second) = (sha256(&blobs[0]), sha256(&blobs[1]));
        // Its answer begins before anything of the blob has come.
        let mut slow = plane.client();
        slow.send("GET", &target(&first), b"");
        assert_eq!(slow.read_head().unwrap().status, 200);
        drop(open);
        until("it has its name", || plane.place.blob(&first).exists());
        until("its fill is gone", || fs::read_dir(plane.place.path("fills")).unwrap().next().is_none());
        assert!(plane.client().get(&target(&second)).body == blobs[1]);
        assert!(!plane.place.blob(&first).exists(), "it has gone");
        assert_eq!(sample(&plane, "passes_total"), 1, "the first is open still");
        assert!(used(&plane) >= 32 * MIB as u64);
        assert!(slow.read_rest(blobs[0].len()).unwrap() == blobs[0]);
        drop(slow);
        until("its bytes are given back", || used(&plane) == 0);
        plane.end();
    }
}

/// Cached, with nobody who has it open but the core.
fn cached(plane: &Plane, blob: &[u8]) -> Digest {
    let digest = sha256(blob);
    assert!(plane.client().get(&target(&digest)).body == blob);
    until("it has its name", || plane.place.blob(&digest).exists());
    until("its fill is gone", || fs::read_dir(plane.place.path("fills")).unwrap().next().is_none());
    digest
}

#[test]
fn a_cached_blob_that_is_cut_is_fetched_again_and_counted_once() {
    for leg in legs() {
        for is_open in [true, false] {
            let place = Arc::new(Place::new());
            let blob = content(2 * MIB);
            let start = || {
                let mut plane = Plane::caching(place.clone(), leg, 16 * MIB as u64);
                let whole = blob.clone();
                let fetches = play(&mut plane, None, move |_, from, to| honest(&whole, from, to));
                (plane, fetches)
            };
            let (mut plane, mut fetches) = start();
            let digest = cached(&plane, &blob);
            if is_open {
                assert!(plane.client().get(&target(&digest)).body == blob);
            } else {
                plane.end();
                (plane, fetches) = start();
            }
            let file = fs::OpenOptions::new().write(true).open(place.blob(&digest)).unwrap();
            file.set_len(MIB as u64).unwrap();
            if is_open {
                // Only its end tells who has it open.
                let mut client = plane.client();
                client.send("GET", &target(&digest), b"");
                assert!(client.read().is_err(), "cut");
            }
            fetches.lock().unwrap().clear();
            let answer = plane.client().get(&target(&digest));
            assert_eq!((answer.status, answer.field("gantry-cache")), (200, Some("fill")));
            assert!(answer.body == blob);
            until("it is whole again", || {
                fs::metadata(place.blob(&digest)).unwrap().len() == blob.len() as u64
            });
            until("its fill is gone", || fs::read_dir(place.path("fills")).unwrap().next().is_none());
            let hit = plane.client().get(&target(&digest));
            assert!(hit.field("gantry-cache") == Some("hit") && hit.body == blob);
            assert_eq!(fetches.lock().unwrap().len(), 1);
            until("what was there before is closed", || used(&plane) == blob.len() as u64);
            assert_eq!(plane.metric("gantry_store_cached_blobs"), 1);
            plane.end();
        }
    }
}

#[test]
fn what_is_still_fetched_ahead_does_not_go_for_others() {
    for leg in legs() {
        let len = 8 * MIB;
        let mut plane = Plane::caching(Arc::new(Place::new()), leg, len as u64);
        let (part, mut other) = (content(len), content(len));
        other[0] ^= 1;
        let [ahead, digest] = [sha256(&part), sha256(&other)];
        let (blob, asked) = (part.clone(), Arc::new(AtomicUsize::new(0)));
        let (whole, asks) = (other.clone(), asked.clone());
        let (open, gate) = mpsc::channel::<()>();
        let mut gate = Some(gate);
        play_each(&mut plane, Some(len), move |digest, _, from, to| {
            if *digest != ahead {
                return honest(&whole, from, to);
            }
            asks.fetch_add(1, Ordering::SeqCst);
            let mut played = honest(&blob, from, to)?.unwrap();
            if let Some(gate) = gate.take() {
                let (from, to) = (from as usize, to.unwrap() as usize);
                let (front, back) = blob[from..to].split_at(1000);
                played.pieces =
                    vec![Piece::Bytes(front.to_vec()), Piece::Gate(gate), Piece::Bytes(back.to_vec())];
            }
            Ok(Some(played))
        });
        let mut client = plane.client();
        ranged(&mut client, &ahead, "4194304-4195303");
        until("it has room", || used(&plane) == MIB as u64);
        drop(client);
        // All of the budget but that.
        assert!(plane.client().get(&target(&digest)).body == other);
        assert_eq!(sample(&plane, "passes_total"), 1);
        drop(open);
        let mut client = plane.client();
        ranged(&mut client, &ahead, "4194304-4195303");
        let answer = client.read().unwrap();
        assert!(answer.status == 206 && answer.body == part[4 * MIB..4 * MIB + 1000]);
        assert_eq!(asked.load(Ordering::SeqCst), 1, "what was under way came to a fill that was there");
        plane.end();
    }
}
