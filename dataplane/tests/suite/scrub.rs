//! The scrub: files without a row and rows without their whole file are found and counted, slowly, a page at a
//! time; nothing is removed, nobody waits for it, and it ends with its core. Storage rules, "Start".

use std::{
    collections::{BTreeMap, HashSet},
    fs,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use control::{Ask, Link};
use dataplane::{
    limits::{Limits, SCRUB_PAGE},
    testing::{Call, Driver, Faults, Fs},
};
use oci::{Digest, Problem};

use crate::{
    plane::{Client, Plane},
    rig::{Place, legs, sha256},
};

const LOST: &str = "gantry_store_lost_blobs";
const ORPHANS: &str = "gantry_store_orphan_files";
const SCRUBBED: &str = "gantry_store_scrubbed_timestamp_seconds";
const EIO: i32 = 5;

/// One comparison after the other, as fast as it goes.
fn quick() -> Limits {
    Limits { scrub_interval: Duration::from_millis(5), scrub_rate: 1_000_000, ..Plane::limits() }
}

/// A metadata of rows only, which counts how often the scrub has begun with them.
#[derive(Clone, Default)]
struct Metadata {
    rows: Arc<Mutex<BTreeMap<String, (Digest, u64)>>>,
    begun: Arc<AtomicU64>,
}

impl Metadata {
    fn insert(&self, digest: Digest, size_bytes: u64) {
        self.rows.lock().unwrap().insert(digest.to_string(), (digest, size_bytes));
    }

    fn size(&self, digest: &Digest) -> Option<u64> {
        self.rows.lock().unwrap().get(&digest.to_string()).map(|(_, size_bytes)| *size_bytes)
    }

    fn answer(&self, ask: Ask) {
        match ask {
            Ask::HomeAfter { after, most, answer } => {
                assert_eq!(most, SCRUB_PAGE);
                let begun = after.is_none();
                let after = after.map(|digest| digest.to_string()).unwrap_or_default();
                let rows = self.rows.lock().unwrap();
                let page = rows.range(after.clone()..).filter(|(key, _)| **key != after);
                let page = page.map(|(_, row)| *row).take(most as usize).collect();
                self.begun.fetch_add(u64::from(begun), Ordering::SeqCst);
                drop(answer.send(Ok(page)));
            }
            Ask::Home { digests, answer } => {
                assert!(digests.len() <= SCRUB_PAGE as usize);
                drop(answer.send(Ok(digests.iter().map(|digest| self.size(digest)).collect())));
            }
            Ask::Commit { batch, answer } => {
                batch.iter().for_each(|blob| self.insert(blob.digest, blob.size_bytes));
                drop(answer.send(Ok(vec![Ok(()); batch.len()])));
            }
            Ask::Link { digest, answer, .. } => {
                let link = self.size(&digest).map(|size_bytes| Link::Here { size_bytes });
                drop(answer.send(Ok(link)));
            }
            Ask::OpenUpload { answer, .. } => drop(answer.send(Ok(()))),
            _ => panic!("not asked here"),
        }
    }

    /// Waits for the end of a comparison that begins after this call.
    #[track_caller]
    fn wait_for_a_pass(&self) {
        let begun = self.begun.load(Ordering::SeqCst);
        wait_until("the scrub begins twice", || self.begun.load(Ordering::SeqCst) >= begun + 2);
    }
}

#[track_caller]
fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < Duration::from_secs(60), "never: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// A plane over this metadata.
fn start(leg: Driver, limits: Limits, metadata: &Metadata) -> Plane {
    let mut plane = Plane::with(leg, false, limits);
    let metadata = metadata.clone();
    plane.answer(move |ask| metadata.answer(ask));
    plane
}

/// A file under the name of these bytes that nobody pushed.
fn stray(plane: &Plane, content: &[u8]) -> PathBuf {
    let file = plane.place.blob(&sha256(content));
    fs::write(&file, content).unwrap();
    file
}

fn target(content: &[u8]) -> String {
    format!("/v2/a/blobs/{}", sha256(content))
}

#[track_caller]
fn push(client: &mut Client, content: &[u8]) {
    let target = format!("/v2/a/blobs/uploads/?digest={}", sha256(content));
    assert_eq!(client.ask("POST", &target, content).status, 201);
}

fn head(client: &mut Client, content: &[u8]) -> u16 {
    client.send("HEAD", &target(content), b"");
    client.read_head().unwrap().status
}

/// No name under `blobs/` was taken away.
#[track_caller]
fn assert_nothing_removed(plane: &Plane) {
    let removed = plane
        .faults
        .take()
        .into_iter()
        .find(|(call, name)| *call == Call::Unlink && name.starts_with("blobs"));
    assert_eq!(removed, None);
}

#[test]
fn a_file_without_a_row_is_an_orphan_and_stays() {
    for leg in legs() {
        let metadata = Metadata::default();
        let plane = start(leg, quick(), &metadata);
        push(&mut plane.client(), b"recorded");
        let (first, second) = (stray(&plane, b"first"), stray(&plane, b"second"));
        let later = SystemTime::now() + Duration::from_secs(3600);
        fs::File::open(&second).unwrap().set_modified(later).unwrap();
        let foreign = plane.place.path("blobs/sha512/notes.txt");
        fs::write(&foreign, "what somebody left here").unwrap();
        wait_until("they are found, however young", || plane.metric(ORPHANS) == 3);
        assert!([&first, &second, &foreign].iter().all(|file| file.exists()));
        assert_nothing_removed(&plane);
        push(&mut plane.client(), b"first");
        wait_until("it has a row", || plane.metric(ORPHANS) == 2);
        assert_eq!(plane.metric(LOST), 0);
        assert!(plane.metric(SCRUBBED) > 0);
        plane.end();
    }
}

/// A commit gives a file its name first and its row later, however much later.
#[test]
fn a_name_whose_commit_is_half_way_is_no_orphan() {
    for leg in legs() {
        let metadata = Metadata::default();
        let (rows, held) = (metadata.clone(), Arc::new(Mutex::new(None)));
        let (commit, asked) = (held.clone(), Arc::new(AtomicU64::new(0)));
        let counted = asked.clone();
        let mut plane = Plane::with(leg, false, quick());
        plane.answer(move |ask| match ask {
            Ask::Commit { .. } => *commit.lock().unwrap() = Some(ask),
            Ask::Home { .. } => {
                counted.fetch_add(1, Ordering::SeqCst);
                rows.answer(ask);
            }
            ask => rows.answer(ask),
        });
        let mut client = plane.client();
        let target = format!("/v2/a/blobs/uploads/?digest={}", sha256(b"half way"));
        client.send("POST", &target, b"half way");
        wait_until("it has its name", || held.lock().unwrap().is_some());
        assert!(plane.place.blob(&sha256(b"half way")).exists());
        // The keeper asks nothing about a name that is not there yet.
        wait_until("the scrub has met it", || asked.load(Ordering::SeqCst) == 1);
        thread::sleep(Duration::from_millis(300));
        assert_eq!(asked.load(Ordering::SeqCst), 1, "it waits for the keeper");
        assert_eq!(plane.metric(ORPHANS), 0);
        metadata.answer(held.lock().unwrap().take().unwrap());
        assert_eq!(client.read_head().unwrap().status, 201);
        metadata.wait_for_a_pass();
        assert_eq!((plane.metric(ORPHANS), plane.metric(LOST)), (0, 0));
        drop(client);
        plane.end();
    }
}

#[test]
fn a_lost_and_a_truncated_blob_are_found_and_a_push_repairs_them() {
    const BLOBS: [&[u8]; 3] = [b"its file will be gone", b"its file will be cut", b"nothing happens to it"];
    for leg in legs() {
        let metadata = Metadata::default();
        let plane = start(leg, quick(), &metadata);
        let mut client = plane.client();
        for content in BLOBS {
            push(&mut client, content);
            assert_eq!(client.get(&target(content)).body, content, "and the core has it open");
        }
        metadata.wait_for_a_pass();
        assert_eq!((plane.metric(LOST), plane.metric(ORPHANS)), (0, 0));
        let [gone, cut, whole] = BLOBS.map(|content| plane.place.blob(&sha256(content)));
        fs::remove_file(&gone).unwrap();
        fs::OpenOptions::new().write(true).open(&cut).unwrap().set_len(3).unwrap();
        wait_until("both are found", || plane.metric(LOST) == 2);
        assert_eq!(head(&mut client, BLOBS[1]), 500, "on a 200 a client would not push it again");
        assert_eq!(client.get(&target(BLOBS[0])).body, BLOBS[0], "it is whole where it is open");
        assert_eq!(head(&mut client, BLOBS[2]), 200);
        assert!(cut.exists() && whole.exists());
        assert_nothing_removed(&plane);
        push(&mut client, BLOBS[0]);
        push(&mut client, BLOBS[1]);
        metadata.wait_for_a_pass();
        assert_eq!(plane.metric(LOST), 0);
        for content in BLOBS {
            assert_eq!(client.get(&target(content)).body, content);
        }
        drop(client);
        plane.end();
    }
}

#[test]
fn commits_go_on_meanwhile_and_none_is_taken_for_an_orphan() {
    for leg in legs() {
        let metadata = Metadata::default();
        let plane = start(leg, Limits { scrub_interval: Duration::from_millis(1), ..quick() }, &metadata);
        let mut client = plane.client();
        let before = metadata.begun.load(Ordering::SeqCst);
        for number in 0..200_u32 {
            push(&mut client, &number.to_le_bytes());
            assert_eq!((plane.metric(LOST), plane.metric(ORPHANS)), (0, 0));
        }
        assert!(metadata.begun.load(Ordering::SeqCst) > before, "there was a scrub meanwhile");
        metadata.wait_for_a_pass();
        assert_eq!((plane.metric(LOST), plane.metric(ORPHANS)), (0, 0));
        drop(client);
        plane.end();
    }
}

/// What it holds does not grow with what there is: `SCRUB_PAGE` names or rows at a time, which the control plane
/// of these tests looks at as well.
#[test]
fn many_names_and_many_rows_are_looked_at_a_page_at_a_time() {
    const MANY: u32 = 10_000;
    for leg in legs() {
        let metadata = Metadata::default();
        let plane = start(leg, quick(), &metadata);
        for number in 0..MANY {
            stray(&plane, &number.to_le_bytes());
        }
        for number in 0..MANY {
            metadata.insert(sha256(&(MANY + number).to_le_bytes()), 4);
        }
        let all = u64::from(MANY);
        wait_until("all are found", || (plane.metric(LOST), plane.metric(ORPHANS)) == (all, all));
        plane.faults.take();
        metadata.wait_for_a_pass();
        let pages = plane.faults.take().into_iter().filter(|(call, _)| *call == Call::List).count();
        assert!(pages as u64 >= all / u64::from(SCRUB_PAGE), "{pages} pages");
        plane.end();
    }
}

/// The place in a directory stays while names come and go around it.
#[test]
fn each_name_that_stays_is_in_one_page() {
    let place = Place::new();
    let disk = Fs::open(&place.path(""), Faults::none()).unwrap();
    let name = |number: u32| format!("{number:08x}");
    (0..10_000).for_each(|number| fs::write(place.path(name(number)), "").unwrap());
    let listing = disk.listing(".").unwrap();
    let (mut seen, mut next) = (HashSet::new(), 10_000);
    loop {
        let page = listing.page(100).unwrap();
        assert!(page.len() <= 100);
        if page.is_empty() {
            break;
        }
        for found in page {
            assert!(seen.insert(found.clone()), "{found} twice");
        }
        fs::write(place.path(name(next)), "").unwrap();
        fs::remove_file(place.path(name(next))).unwrap();
        next += 1;
    }
    assert!((0..10_000).all(|number| seen.contains(&name(number))));
    assert!(listing.page(100).unwrap().is_empty(), "the end stays the end");
}

/// A full lane costs time; what can't be read ends this comparison, and leaves the numbers of the last.
#[test]
fn who_has_no_time_is_asked_again_and_a_failure_says_nothing() {
    for leg in legs() {
        let metadata = Metadata::default();
        let (known, broken, failed) =
            (metadata.clone(), Arc::new(Mutex::new(None)), Arc::new(AtomicU64::new(0)));
        let (problem, told) = (broken.clone(), failed.clone());
        let mut plane = Plane::with(leg, false, quick());
        let mut questions = 0;
        plane.answer(move |ask| {
            questions += 1;
            let busy = (questions % 2 == 0).then_some(Problem::Overloaded { retry_after_s: 1 });
            let problem = busy.or_else(|| {
                let problem = problem.lock().unwrap().clone()?;
                told.fetch_add(1, Ordering::SeqCst);
                Some(problem)
            });
            match (ask, problem) {
                (Ask::Home { answer, .. }, Some(problem)) => drop(answer.send(Err(problem))),
                (Ask::HomeAfter { answer, .. }, Some(problem)) => drop(answer.send(Err(problem))),
                (ask, _) => known.answer(ask),
            }
        });
        metadata.insert(sha256(b"lost"), 4);
        stray(&plane, b"stray");
        wait_until("both are found", || (plane.metric(LOST), plane.metric(ORPHANS)) == (1, 1));

        *broken.lock().unwrap() = Some(Problem::Internal);
        // The first ends what was under way.
        wait_until("it was told once", || failed.load(Ordering::SeqCst) >= 1);
        metadata.insert(sha256(b"lost too"), 8);
        wait_until("it begins again", || failed.load(Ordering::SeqCst) >= 4);
        assert_eq!((plane.metric(LOST), plane.metric(ORPHANS)), (1, 1));
        *broken.lock().unwrap() = None;
        wait_until("it goes on", || plane.metric(LOST) == 2);

        plane.faults.fail(Call::List, 0, EIO);
        metadata.wait_for_a_pass();
        let scrubbed = plane.metric(SCRUBBED);
        thread::sleep(Duration::from_millis(1500));
        assert_eq!((plane.metric(ORPHANS), plane.metric(SCRUBBED)), (1, scrubbed));
        plane.faults.heal();
        wait_until("it goes on", || plane.metric(SCRUBBED) > scrubbed);
        plane.end();
    }
}

/// Wherever the scrub is, a stop does not wait for it.
#[test]
fn a_stop_during_a_pass_is_at_once() {
    let ends = |plane: Plane| {
        let began = Instant::now();
        plane.end();
        assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    };
    for leg in legs() {
        // It rests: a page and a minute of it.
        let metadata = Metadata::default();
        (0..SCRUB_PAGE).for_each(|number| metadata.insert(sha256(&number.to_le_bytes()), 4));
        let plane = start(leg, Limits { scrub_rate: 1, ..quick() }, &metadata);
        wait_until("it has a page", || metadata.begun.load(Ordering::SeqCst) == 1);
        ends(plane);

        // A thread of the pool hangs in the disk for it.
        let metadata = Metadata::default();
        let plane = start(leg, quick(), &metadata);
        let faults = plane.faults.clone();
        faults.hold(Call::List);
        wait_until("it lists", || faults.take().iter().any(|(call, _)| *call == Call::List));
        ends(plane);
        faults.heal();

        // It waits for an answer.
        let asked = Arc::new(AtomicU64::new(0));
        let (seen, mut held) = (asked.clone(), Vec::new());
        let mut plane = Plane::with(leg, false, quick());
        plane.answer(move |ask| {
            held.push(ask);
            seen.fetch_add(1, Ordering::SeqCst);
        });
        wait_until("it has asked", || asked.load(Ordering::SeqCst) == 1);
        ends(plane);
    }
}
