//! What the cache's policy keeps of a trace, beside plain LRU: S3-FIFO is not below it in bytes where scans come in
//! between. Storage rules, "The cache's budget".
//!
//! `GANTRY_TRACE=FILE cargo test -p dataplane --test suite -- policies --nocapture` replays a trace of a registry as IBM
//! published them, at several sizes of the cache.

use std::collections::{BTreeMap, HashMap};

use dataplane::testing::{Index, Place};
use oci::Digest;
use serde_json::Value;

/// A blob is asked for.
#[derive(Clone, Copy)]
struct Get {
    blob: u32,
    size: u64,
}

/// What was found in the cache, of all that was asked for.
#[derive(Default)]
struct Score {
    gets: u64,
    hits: u64,
    bytes: u64,
    hit_bytes: u64,
}

impl Score {
    fn count(&mut self, get: &Get, hit: bool) {
        self.gets += 1;
        self.bytes += get.size;
        if hit {
            self.hits += 1;
            self.hit_bytes += get.size;
        }
    }

    fn ratio(&self) -> f64 {
        self.hits as f64 / self.gets as f64
    }

    fn byte_ratio(&self) -> f64 {
        self.hit_bytes as f64 / self.bytes as f64
    }
}

fn digest(blob: u32) -> Digest {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&blob.to_le_bytes());
    Digest::Sha256(bytes)
}

fn s3_fifo(trace: &[Get], max_bytes: u64) -> Score {
    let mut index = Index::new(max_bytes);
    let (mut score, mut used) = (Score::default(), 0);
    for get in trace {
        let digest = digest(get.blob);
        let hit = index.touch(&digest);
        score.count(get, hit);
        if hit || get.size > max_bytes {
            continue;
        }
        index.fill(&digest, get.size).unwrap();
        while used + get.size > max_bytes {
            let victim = index.victim(&mut |_| false).expect("there is something else");
            index.remove(&victim.digest).unwrap();
            used -= victim.size_bytes;
        }
        used += get.size;
        index.insert(&digest, get.size, 0, None).unwrap();
        assert_eq!(index.policy().cached_bytes(), used);
    }
    assert!(index.policy().items(Place::Main).count() > 0);
    score
}

fn lru(trace: &[Get], max_bytes: u64) -> Score {
    let mut by_turn = BTreeMap::new();
    let mut turns: HashMap<u32, usize> = HashMap::new();
    let (mut score, mut used) = (Score::default(), 0);
    for (turn, get) in trace.iter().enumerate() {
        let before = turns.get(&get.blob).copied();
        score.count(get, before.is_some());
        if before.is_none() && get.size > max_bytes {
            continue;
        }
        match before {
            Some(before) => drop(by_turn.remove(&before)),
            None => used += get.size,
        }
        while used > max_bytes {
            let (_, Get { blob, size }) = by_turn.pop_first().unwrap();
            turns.remove(&blob);
            used -= size;
        }
        turns.insert(get.blob, turn);
        by_turn.insert(turn, *get);
    }
    score
}

/// Bytes of all blobs that a trace names.
fn distinct_bytes(trace: &[Get]) -> u64 {
    let blobs: HashMap<u32, u64> = trace.iter().map(|get| (get.blob, get.size)).collect();
    blobs.values().sum()
}

struct Dice(u64);

impl Dice {
    /// `0 <= result < bound`.
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    fn unit(&mut self) -> f64 {
        self.below(1 << 52) as f64 / (1_u64 << 52) as f64
    }

    /// Many are small and few are large: between 1 KiB and 256 MiB, each power of two as likely as another.
    fn size(&mut self) -> u64 {
        let power = 10 + self.below(18);
        (1 << power) + self.below(1 << power)
    }
}

/// Pulls of images by Zipf's law, whose lower layers are shared; `scans` of a hundred are of images that nobody wants twice.
fn synthetic(seed: u64, scans: u64) -> Vec<Get> {
    const IMAGES: usize = 1000;
    const BASES: u64 = 40;
    const PULLS: usize = 40_000;
    let mut dice = Dice(seed);
    let mut sizes: Vec<u64> = (0..BASES).map(|_| (16 << 20) + dice.below(64 << 20)).collect();
    let mut image = |dice: &mut Dice| {
        // Few bases have most of the images.
        let base = dice.below(BASES).min(dice.below(BASES)) as u32;
        let mut layers = vec![base];
        for _ in 0..2 + dice.below(5) {
            layers.push(sizes.len() as u32);
            sizes.push(dice.size());
        }
        layers.into_iter().map(|blob| Get { blob, size: sizes[blob as usize] }).collect::<Vec<Get>>()
    };
    let images: Vec<Vec<Get>> = (0..IMAGES).map(|_| image(&mut dice)).collect();
    let mut sum = 0.0;
    let cumulated: Vec<f64> = (1..=IMAGES)
        .map(|rank| {
            sum += (rank as f64).powf(-0.9);
            sum
        })
        .collect();
    let mut trace = Vec::new();
    let mut scanning = 0;
    for _ in 0..PULLS {
        // A scan goes through many images in a row.
        if scanning == 0 && dice.below(100 * 100) < scans {
            scanning = 100;
        }
        if scanning > 0 {
            scanning -= 1;
            let once = image(&mut dice);
            trace.extend(once);
        } else {
            let wanted = dice.unit() * sum;
            trace.extend(&images[cumulated.partition_point(|upto| *upto < wanted).min(IMAGES - 1)]);
        }
    }
    trace
}

fn compare(name: &str, trace: &[Get], percents: &[u64]) -> Vec<(f64, f64)> {
    let distinct = distinct_bytes(trace);
    let replay = |percent: &u64| {
        let max_bytes = distinct / 100 * percent;
        let (ours, theirs) = (s3_fifo(trace, max_bytes), lru(trace, max_bytes));
        println!(
            "{name}, cache {percent:>2} % of {} MiB: hits {:.4} (LRU {:.4}), bytes {:.4} (LRU {:.4})",
            distinct >> 20,
            ours.ratio(),
            theirs.ratio(),
            ours.byte_ratio(),
            theirs.byte_ratio(),
        );
        (ours.byte_ratio(), theirs.byte_ratio())
    };
    percents.iter().map(replay).collect()
}

#[test]
fn scans_do_not_push_out_what_is_wanted_again() {
    for seed in [1, 1_234_567] {
        // Of each pull one in two is a scan's.
        for (ours, theirs) in compare("many scans", &synthetic(seed, 100), &[1, 2, 5, 10, 20]) {
            assert!(ours >= theirs, "{ours} {theirs}");
        }
        compare("few scans", &synthetic(seed, 5), &[1, 2, 5, 10, 20]);
    }
}

/// The pulls of blobs in a trace: a JSON object a line, or all in one array.
fn pulls(text: &str) -> Vec<Get> {
    let records: Vec<Value> = match text.trim_start().starts_with('[') {
        true => serde_json::from_str(text).unwrap(),
        false => {
            let lines = text.lines().filter(|line| !line.trim().is_empty());
            lines.map(|line| serde_json::from_str(line).unwrap()).collect()
        }
    };
    let mut gets = Vec::new();
    let mut numbers = HashMap::new();
    let mut sizes: HashMap<u32, u64> = HashMap::new();
    for record in &records {
        let field = |name: &str| record[name].as_str().unwrap_or_default();
        let uri: Vec<&str> = field("http.request.uri").trim_matches('/').rsplitn(3, '/').collect();
        let [id, "blobs", _] = uri[..] else { continue };
        let good = record["http.response.status"].as_u64().is_none_or(|status| (200..300).contains(&status));
        if field("http.request.method") != "GET" || !good {
            continue;
        }
        let next = numbers.len() as u32;
        let blob = *numbers.entry(id).or_insert(next);
        // A client that left early was sent less than there is.
        let written = record["http.response.written"].as_f64().unwrap_or_default().max(0.0) as u64;
        sizes.entry(blob).and_modify(|size| *size = written.max(*size)).or_insert(written);
        gets.push((field("timestamp"), blob));
    }
    // Of several machines' logs; times of one form sort as text.
    gets.sort_by_key(|(time, _)| *time);
    gets.into_iter().map(|(_, blob)| Get { blob, size: sizes[&blob] }).collect()
}

#[test]
fn a_trace_is_read_by_time_and_its_blobs_have_their_longest_answer() {
    let line = |method: &str, uri: &str, status: u16, written: u64, second: u8| {
        format!(
            r#"{{"http.request.method":"{method}","http.request.uri":"{uri}","http.response.status":{status},"http.response.written":{written},"timestamp":"2017-08-01T00:00:{second:02}.000Z"}}"#
        )
    };
    let lines = [
        line("GET", "v2/u/r/blobs/b", 200, 5, 2),
        line("GET", "v2/u/r/blobs/a", 206, 700, 1),
        line("GET", "v2/u/r/blobs/b", 200, 900, 3),
        line("GET", "v2/u/r/blobs/c", 404, 5, 4),
        line("HEAD", "v2/u/r/blobs/a", 200, 0, 5),
        line("GET", "v2/u/r/manifests/m", 200, 5, 6),
    ];
    for text in [lines.join("\n"), format!("[{}]", lines.join(","))] {
        let gets: Vec<(u32, u64)> = pulls(&text).iter().map(|get| (get.blob, get.size)).collect();
        assert_eq!(gets, [(1, 700), (0, 900), (0, 900)]);
    }
    let Ok(file) = std::env::var("GANTRY_TRACE") else { return };
    let trace = pulls(&std::fs::read_to_string(&file).expect("the trace can be read"));
    assert!(!trace.is_empty(), "{file} has pulls of blobs");
    compare(&file, &trace, &[1, 2, 5, 10, 20, 50]);
}
