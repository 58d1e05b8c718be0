//! What the cache's index takes of memory, up to as many entries as it has at most, and that it is read again whole.
//!
//! A binary of its own, because all of its heap is counted. `cargo test --release -p dataplane --test cache_bytes --
//! --nocapture` prints how long it takes.

use std::{env, fs, time::Instant};

use dataplane::{
    limits::CACHE_ENTRIES_MAX,
    testing::{Faults, Found, Fs, Index, Loaded, Log, Opened, Place, Refused},
};
use oci::{Algorithm, Digest};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static HEAP: &StatsAlloc<std::alloc::System> = &INSTRUMENTED_SYSTEM;

const BYTES_AN_ENTRY_MAX: usize = 128;
const MILLION: usize = 1_000_000;

fn digest(algorithm: Algorithm, number: usize) -> Digest {
    let mut bytes = [0; 64];
    bytes[..8].copy_from_slice(&(number as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    bytes[24..32].copy_from_slice(&number.to_be_bytes());
    Digest::from_bytes(algorithm, &bytes[..algorithm.digest_len()]).unwrap()
}

fn heap(region: &Region<'_, std::alloc::System>) -> usize {
    let change = region.change();
    change.bytes_allocated - change.bytes_deallocated
}

fn adopt(index: &mut Index, algorithm: Algorithm, number: usize) -> Result<(), Refused> {
    index.adopt(&Found { digest: digest(algorithm, number), size_bytes: 1 << 20, came_unix: number as u32 })
}

/// As many fingerprints as main has entries: each of something that came, was of no use and went.
fn fill_ghost(index: &mut Index, algorithm: Algorithm, from: usize, many: usize) {
    for number in from..from + many {
        let digest = digest(algorithm, number);
        if index.insert(&digest, 1 << 20, 0, None).unwrap() == Place::Small {
            assert_eq!(index.victim(&mut |_| false).unwrap().digest, digest);
        }
        // One in some thousands has the fingerprint of another.
        index.remove(&digest).unwrap();
    }
}

// One test: the heap is everybody's.
#[test]
fn an_entry_takes_at_most_128_bytes_with_table_and_ghost_and_all_are_read_again() {
    let place = env::temp_dir().join(format!("gantry-cache-bytes-{}", std::process::id()));
    fs::create_dir(&place).unwrap();
    let disk = Fs::open(&place, Faults::none()).unwrap();
    let region = Region::new(HEAP);
    let mut index = Index::new(1);
    let mut number = 0;
    // Right after a table has grown is the worst: three quarters of a power of two, and one.
    for many in [MILLION / 10, 3 * (1 << 16) + 1, 3 * (1 << 18) + 1, MILLION, 3 * (1 << 19) + 1] {
        while number < many {
            adopt(&mut index, Algorithm::Sha256, number).unwrap();
            number += 1;
        }
        fill_ghost(&mut index, Algorithm::Sha256, many << 32, many);
        let each = heap(&region) as f64 / many as f64;
        println!("sha256: {each:.1} bytes for each of {many} entries, table and ghost included");
        assert!(each <= BYTES_AN_ENTRY_MAX as f64);
    }
    drop(index);

    let region = Region::new(HEAP);
    let Opened { mut log, mut index, loaded } = Log::open(&disk, 1 << 40).unwrap();
    assert_eq!(loaded, Loaded::Fresh);
    for number in 0..MILLION {
        adopt(&mut index, Algorithm::Sha256, number).unwrap();
    }
    let began = Instant::now();
    let unwritten = index.unwritten(&log);
    let made = began.elapsed();
    log.write(unwritten).unwrap();
    println!(
        "a snapshot of {MILLION} entries was made in {made:?} and written in {:?}",
        began.elapsed() - made
    );
    // And a journal with them.
    for number in 0..100_000 {
        index.remove(&digest(Algorithm::Sha256, number)).unwrap();
        if number % 1000 == 0 {
            log.write(index.unwritten(&log)).unwrap();
        }
    }
    log.write(index.unwritten(&log)).unwrap();
    drop((index, log));
    let began = Instant::now();
    let opened = Log::open(&disk, 1 << 40).unwrap();
    println!("{MILLION} entries and 100000 changes were read in {:?}", began.elapsed());
    assert_eq!(opened.loaded, Loaded::Whole);
    assert_eq!(opened.index.policy().len(), MILLION - 100_000);
    assert_eq!(opened.index.policy().items(Place::Main).count(), MILLION - 100_000);
    assert!(heap(&region) <= MILLION * BYTES_AN_ENTRY_MAX, "what was read for it is given back");
    drop(opened);
    fs::remove_dir_all(place).unwrap();

    let region = Region::new(HEAP);
    let mut index = Index::new(1);
    for number in 0..CACHE_ENTRIES_MAX {
        // A longer digest has a part in a side table.
        adopt(&mut index, Algorithm::Sha512, number).unwrap();
        if number + 1 == MILLION {
            fill_ghost(&mut index, Algorithm::Sha512, 1 << 40, MILLION);
            println!("sha512: {:.1} bytes for each of a million", heap(&region) as f64 / MILLION as f64);
        }
    }
    assert_eq!(adopt(&mut index, Algorithm::Sha512, CACHE_ENTRIES_MAX), Err(Refused::Full));
    index.remove(&digest(Algorithm::Sha512, 77)).unwrap();
    adopt(&mut index, Algorithm::Sha512, CACHE_ENTRIES_MAX).unwrap();
}
