//! A cache of three blobs, 64 slow readers and nothing but misses: every body is right, the budget is never exceeded, and
//! afterwards nothing is left open. What is used is read from the volume itself and from the server's own count.

use std::{
    collections::BTreeMap,
    fs,
    io::Read,
    os::unix::fs::MetadataExt as _,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use ::faults::{Digest, Registry};

use crate::harness::{Server, Volume, has_root, legs, noise, say, setting, wait_for};

use super::operator::done;
use super::rig::{Way, assert_store_is_right, mirror, root};

const REPOSITORY: &str = "library/evicted";

/// Logged for each blob that finds no room.
const PASSED_THROUGH: &str = "it is passed through";

const BLOB_BYTES: usize = (3 << 20) + 17;
/// Room for three: it is held in units of 1 MiB.
const BUDGET_BYTES: u64 = 3 * (4 << 20);

const READERS: usize = 64;
/// How many blobs are read one after the other, and how many times each: by all readers, so that those who are slower
/// read on when it is gone; then by fewer, so that more are wanted at a time than have room.
const ROUNDS: [(usize, usize); 2] = [(12, READERS), (24, READERS / 4)];

/// A reader takes so much, and rests; each third of them longer than the one before.
const PIECE_BYTES: usize = 128 * 1024;
const REST: Duration = Duration::from_millis(15);

/// What comes to the volume beside bytes of blobs: directories, records of fills, the journal of the cache.
const BESIDE_BYTES: u64 = 1 << 20;

/// A worker of the ring may hold a file that is closed until it is run again, and the kernel gives the blocks of one without
/// a name back only then: for so long there may be more on the volume than is counted.
const WORKER_TIME: Duration = Duration::from_secs(5);

struct There {
    registry: Registry,
    blobs: Vec<(Digest, Vec<u8>)>,
}

impl There {
    fn new() -> There {
        let registry = Registry::start();
        let count: usize = ROUNDS.iter().map(|(blobs, _)| blobs).sum();
        let blobs = (0..count).map(|number| {
            let bytes = noise(number as u64, BLOB_BYTES);
            (registry.push_blob(REPOSITORY, bytes.clone()), bytes)
        });
        There { blobs: blobs.collect(), registry }
    }

    /// A GET of a blob, a piece at a time.
    fn read_slowly(&self, server: &Server, blob: usize, rest: Duration) {
        let (digest, bytes) = &self.blobs[blob];
        let mut client = server.client();
        let target = Way::Prefix.target(REPOSITORY, &format!("blobs/{digest}"));
        let request = client.request("GET", target).to_bytes();
        client.send_bytes(&request);
        let stream = client.stream();
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout above zero");
        let (mut got, mut head_bytes) = (Vec::new(), None);
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let length = stream.read(&mut piece).unwrap_or_else(|error| panic!("{digest}: {error}"));
            assert!(length > 0, "{digest} was cut at {} of {BLOB_BYTES} bytes", got.len());
            got.extend_from_slice(&piece[..length]);
            if head_bytes.is_none()
                && let Some(end) = got.windows(4).position(|four| four == b"\r\n\r\n")
            {
                let head = String::from_utf8_lossy(&got[..end]);
                assert!(head.starts_with("HTTP/1.1 200 "), "{digest}: {head}");
                assert!(head.contains(&format!("Content-Length: {BLOB_BYTES}")), "{digest}: {head}");
                head_bytes = Some(end + 4);
            }
            if head_bytes.is_some_and(|head_bytes| got.len() >= head_bytes + BLOB_BYTES) {
                break;
            }
            thread::sleep(rest);
        }
        let head_bytes = head_bytes.expect("it was read");
        assert!(got[head_bytes..] == bytes[..], "{digest}: other bytes");
    }
}

/// Which blob is read, each time.
fn reads() -> Vec<usize> {
    let (mut reads, mut first) = (Vec::new(), 0);
    for (blobs, times) in ROUNDS {
        reads.extend((0..blobs * times).map(|read| first + read / times));
        first += blobs;
    }
    reads
}

/// What was seen of one number of bytes.
#[derive(Default)]
struct Watched {
    most_bytes: u64,
    looks: usize,
    /// For how long it was more than it may be.
    longest: Duration,
}

/// Looks again and again until `ended`; fails as soon as it is more than `most_bytes` for longer than `may_last`.
fn watch(
    what: &str,
    ended: &AtomicBool,
    (most_bytes, may_last): (u64, Duration),
    look: impl Fn() -> u64,
) -> Watched {
    let (mut seen, mut last_good) = (Watched::default(), Instant::now());
    while !ended.load(Ordering::Acquire) {
        let bytes = look();
        seen.most_bytes = seen.most_bytes.max(bytes);
        seen.looks += 1;
        if bytes <= most_bytes {
            last_good = Instant::now();
        } else {
            seen.longest = seen.longest.max(last_good.elapsed());
            assert!(last_good.elapsed() <= may_last, "{bytes} bytes are {what}, of {most_bytes}");
        }
        thread::sleep(Duration::from_micros(200));
    }
    seen
}

/// The length of all that has a name.
fn linked_bytes(server: &Server) -> u64 {
    let blobs = fs::read_dir(server.data_dir().join("blobs/sha256")).expect("it is there").flatten();
    // Evicted between the list and the look.
    blobs.filter_map(|blob| blob.metadata().ok()).map(|found| found.len()).sum()
}

/// What files of the server take in bytes, by whether they still have a name.
struct Taken {
    named: u64,
    open_only: u64,
}

impl Taken {
    /// By the blocks of each file under `blobs/` and of each that the server has open.
    fn by(server: &Server) -> Taken {
        let named = fs::read_dir(server.data_dir().join("blobs/sha256")).expect("it is there").flatten();
        let named = named.map(|entry| entry.metadata().expect("nothing else goes now"));
        let named = named.map(|file| (file.ino(), file.blocks() * 512)).collect::<BTreeMap<_, _>>();
        let open_only = server.deleted_files_open_at();
        // A file that was filled has lost the name that it was opened by, and has another.
        let open_only = open_only.filter(|file| !named.contains_key(&file.ino()));
        let open_only: BTreeMap<_, _> = open_only.map(|file| (file.ino(), file.blocks() * 512)).collect();
        Taken { named: named.values().sum(), open_only: open_only.values().sum() }
    }
}

legs! {
    /// Blobs with a name, and one without that somebody reads.
    fn what_is_counted_is_what_files_take(leg) {
        const LARGE_BYTES: usize = (24 << 20) + 17;
        // The last one of its bytes, and maybe one that says where they are.
        const BESIDE_EACH: u64 = 2 * 4096;
        if !has_root() {
            return;
        }
        let registry = Registry::start();
        let bytes = |number| noise(number, LARGE_BYTES);
        let blobs: Vec<_> = (0..3).map(|number| registry.push_blob(REPOSITORY, bytes(number))).collect();
        let volume = Volume::ext4(512);
        let launch = mirror(leg, &root(&registry, "")).set(setting::CACHE_MAX_BYTES, 128_u64 << 20);
        let server = launch.set(setting::RESERVE_BYTES, 1 << 20).start_on(&volume.data());
        let empty_bytes = volume.used_bytes();
        let counted = || server.metric("gantry_store_budget_used_bytes") as u64;
        let target = |blob: &Digest| Way::Prefix.target(REPOSITORY, &format!("blobs/{blob}"));
        for blob in &blobs {
            server.client().get(target(blob)).expect(200);
            wait_for("it has its name", || server.blob_file(*blob).exists());
        }
        let agrees = |Taken { named, open_only }: Taken| {
            let (taken, volume) = (named + open_only, volume.used_bytes().saturating_sub(empty_bytes));
            let counted = counted();
            (counted..=counted + 3 * BESIDE_EACH).contains(&taken)
                && (counted..=counted + BESIDE_BYTES).contains(&volume)
        };
        wait_for("all that is counted has a name", || {
            let taken = Taken::by(&server);
            taken.open_only == 0 && agrees(taken)
        });

        let mut reader = server.client();
        let request = reader.request("GET", target(&blobs[0])).to_bytes();
        reader.send_bytes(&request);
        let stream = reader.stream();
        stream.set_read_timeout(Some(Duration::from_secs(60))).expect("a timeout above zero");
        let mut got = vec![0; PIECE_BYTES];
        stream.read_exact(&mut got).expect("it has begun");
        assert!(done(&server, &["purge", &blobs[0].to_string()]).starts_with("purged 1 blobs"));
        assert!(!server.blob_file(blobs[0]).exists());
        wait_for("what is read is counted, though it has no name", || {
            let taken = Taken::by(&server);
            taken.open_only >= LARGE_BYTES as u64 && agrees(taken)
        });
        let head_bytes = 4 + got.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
        let had = got.len();
        got.resize(head_bytes + LARGE_BYTES, 0);
        stream.read_exact(&mut got[had..]).expect("the rest");
        assert!(got[head_bytes..] == bytes(0)[..], "other bytes");
        drop(reader);
        wait_for("its bytes are back", || {
            let taken = Taken::by(&server);
            taken.open_only == 0 && taken.named < 3 * LARGE_BYTES as u64 && agrees(taken)
        });
        assert_eq!(counted(), 2 * LARGE_BYTES as u64);
    }

    fn slow_readers_and_constant_misses_keep_to_the_budget(leg) {
        if !has_root() {
            return;
        }
        let there = There::new();
        let volume = Volume::ext4(512);
        let launch = mirror(leg, &root(&there.registry, "connections = 256"))
            .set(setting::CACHE_MAX_BYTES, BUDGET_BYTES)
            .set(setting::RESERVE_BYTES, 1 << 20)
            .expects_log(PASSED_THROUGH);
        let server = launch.start_on(&volume.data());
        // With the metadata and its log, which has its full length from the start.
        let empty_bytes = volume.used_bytes();
        let (ended, next, reads) = (AtomicBool::new(false), AtomicUsize::new(0), reads());
        let on_volume = || volume.used_bytes().saturating_sub(empty_bytes);
        let counted = || server.metric("gantry_store_budget_used_bytes") as u64;
        let (counted_most, volume_most) = thread::scope(|scope| {
            let (ended, next, reads) = (&ended, &next, &reads);
            let watching = scope.spawn(move || watch("counted", ended, (BUDGET_BYTES, Duration::ZERO), counted));
            let most = (BUDGET_BYTES + BESIDE_BYTES, WORKER_TIME);
            let watching_volume = scope.spawn(move || watch("on the volume", ended, most, on_volume));
            let readers: Vec<_> = (0..READERS)
                .map(|reader| {
                    let (there, server) = (&there, &server);
                    scope.spawn(move || {
                        let rest = REST * (1 + reader as u32 % 3);
                        while let Some(blob) = reads.get(next.fetch_add(1, Ordering::AcqRel)) {
                            there.read_slowly(server, *blob, rest);
                        }
                    })
                })
                .collect();
            let wrong = readers.into_iter().filter_map(|reader| reader.join().err()).count();
            ended.store(true, Ordering::Release);
            let most = (watching.join(), watching_volume.join());
            assert_eq!(wrong, 0, "readers that did not get what they asked for");
            (most.0.expect("the budget was kept"), most.1.expect("the budget was kept on the volume"))
        });
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        say(&format!(
            "eviction: on {}, of {} MiB: {:.1} counted ({} looks), {:.1} on the volume ({} looks, for {:?} too much); \
             {} hits, {} evictions, {} passed through",
            leg.name(),
            BUDGET_BYTES >> 20,
            mib(counted_most.most_bytes),
            counted_most.looks,
            mib(volume_most.most_bytes),
            volume_most.looks,
            volume_most.longest,
            server.metric("gantry_fill_hits_total"),
            server.metric("gantry_store_evictions_total"),
            server.metric("gantry_fill_passes_total"),
        ));
        assert!(counted_most.most_bytes > BUDGET_BYTES / 2, "the budget was of use");
        assert!(server.metric("gantry_store_evictions_total") > 0.0);

        wait_for("nothing is left open", || {
            server.metric("gantry_fill_running") == 0.0 && server.deleted_files_open().is_empty()
        });
        wait_for("what is counted is there", || {
            counted() == linked_bytes(&server)
        });
        // As if nothing had been.
        there.registry.forget();
        for came in ["fill", "hit"] {
            let target = Way::Prefix.target(REPOSITORY, &format!("blobs/{}", there.blobs[0].0));
            let got = server.client().get(target).expect(200);
            assert_eq!(got.header("gantry-cache"), came);
            assert!(got.body == there.blobs[0].1);
            wait_for("it has its name", || server.blob_file(there.blobs[0].0).exists());
        }
        assert_store_is_right(&server);
    }
}
