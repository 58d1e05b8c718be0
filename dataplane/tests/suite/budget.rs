//! Blobs of upstreams keep to their budget, whoever reads them; what was pushed never goes for them.
//! Storage rules: "The cache's budget", "Facts about a blob".

use std::{
    collections::HashMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use control::{Ask, Fetched, Link, Origin};
use oci::Digest;

use crate::{
    fills::{MIB, content, sample, target},
    plane::Plane,
    rig::{Place, legs, sha256, until},
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
            drop(answer.send(Ok(Some(Fetched { start: from, size_bytes, bytes }))));
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
        assert!(plane.metric("gantry_store_evictions_total") > 0);
        let open = || {
            crate::plane::open_files(&plane.place, "blobs") + crate::plane::open_files(&plane.place, "fills")
        };
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
        assert!(plane.metric("gantry_store_evictions_total") > 0);
        assert!(plane.place.blob(&pinned).exists());
        plane.end();
    }
}

#[test]
fn the_books_outlive_a_restart() {
    for leg in legs() {
        let (digests, blobs) = blobs(2, 2 * MIB);
        let place = Arc::new(Place::new());
        let mut plane = Plane::caching(place.clone(), leg, 16 * MIB as u64);
        serve(&mut plane, &blobs);
        for digest in &digests {
            assert_eq!(plane.client().get(&target(digest)).status, 200);
        }
        until("they have their names", || digests.iter().all(|digest| place.blob(digest).exists()));
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

#[test]
fn a_cached_blob_that_the_index_has_lost_is_found_by_the_scrub() {
    use dataplane::limits::Limits;
    for leg in legs() {
        let (digests, blobs) = blobs(1, 2 * MIB);
        let place = Arc::new(Place::new());
        fs::create_dir_all(place.blob(&digests[0]).parent().unwrap()).unwrap();
        fs::write(place.blob(&digests[0]), &blobs[&digests[0]]).unwrap();
        let none = std::time::Duration::from_secs(0);
        let scrub_interval = std::time::Duration::from_millis(100);
        let limits = Limits { scrub_interval, scrub_rate: 1_000_000, orphan_age: none, ..Limits::default() };
        let old = std::time::SystemTime::now() - std::time::Duration::from_secs(10);
        fs::File::open(place.blob(&digests[0])).unwrap().set_modified(old).unwrap();
        let mut plane = Plane::over(place, leg, false, limits);
        serve(&mut plane, &blobs);
        until("it is in the books", || plane.metric("gantry_store_cached_blobs") == 1);
        assert_eq!(used(&plane), blobs[&digests[0]].len() as u64);
        until("the scrub is done", || plane.metric("gantry_store_scrubbed_timestamp_seconds") > 0);
        assert_eq!(plane.metric("gantry_store_orphan_files"), 0);
        plane.end();
    }
}
