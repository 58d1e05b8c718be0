//! Group commit, as the device sees it: how often it has to flush for the calls that the keeper counts.
//!
//! How many blobs share a batch depends on how quick the processors are beside the device, of which an
//! unoptimised binary beside a hundred others says nothing: that figure is printed. What a call costs is held.

use std::sync::Barrier;

use crate::harness::{Launch, Server, Volume, has_root, legs, noise, say, sha256};

const BLOB_BYTES: usize = 64 * 1024;

/// What was counted while blobs were pushed, from the first POST to the last answer of a PUT.
struct Counted {
    /// SQLite's included.
    flushes: f64,
    batches: f64,
    volume_syncs: f64,
    data_syncs: f64,
    blobs: f64,
}

/// The keeper's counters of batches, syncfs and fdatasync.
fn keeper(server: &Server) -> [f64; 3] {
    let text = String::from_utf8(server.client().get("/metrics").expect(200).body).expect("text");
    ["batches", "volume_fsyncs", "data_fsyncs"].map(|name| {
        let name = format!("gantry_store_{name}_total ");
        let line = text.lines().find_map(|line| line.strip_prefix(&name));
        line.and_then(|count| count.parse().ok()).expect("a counter")
    })
}

/// `pushers` × `each` unique blobs at once.
fn push(server: &Server, volume: &Volume, pushers: u64, each: u64) -> Counted {
    let counted = keeper(server);
    let go = Barrier::new(pushers as usize + 1);
    let before = std::thread::scope(|scope| {
        for pusher in 0..pushers {
            let go = &go;
            scope.spawn(move || {
                let seed = |number| (pushers << 32) | (pusher << 16) | number;
                let blobs: Vec<_> = (0..each).map(|number| noise(seed(number), BLOB_BYTES)).collect();
                let digests: Vec<_> = blobs.iter().map(|blob| sha256(blob)).collect();
                let mut client = server.client();
                client.get("/v2/").expect(200);
                go.wait();
                for (blob, digest) in blobs.into_iter().zip(digests) {
                    let location = client.open_upload("durable/flushes");
                    let put = client.request("PUT", format!("{location}?digest={digest}"));
                    put.body(blob).send().expect(201);
                }
            });
        }
        let before = volume.flushes();
        go.wait();
        before
    });
    let flushes = (volume.flushes() - before) as f64;
    let [batches, volume_syncs, data_syncs] = keeper(server);
    Counted {
        flushes,
        batches: batches - counted[0],
        volume_syncs: volume_syncs - counted[1],
        data_syncs: data_syncs - counted[2],
        blobs: (pushers * each) as f64,
    }
}

legs! {
    /// On a journalled ext4 without FUA a commit of the journal is two flushes. So a batch needs two for its
    /// data, whatever their number, two for the directory, and one for the metadata, whose log is overwritten.
    fn a_batch_commits_the_journal_twice(leg) {
        if !has_root() {
            return;
        }
        let volume = Volume::ext4(512);
        let server = Launch::on(leg).start_on(&volume.data());
        for pushers in [1, 16, 64] {
            let Counted { flushes, batches, volume_syncs, data_syncs, blobs } =
                push(&server, &volume, pushers, 20);
            say(&format!(
                "{pushers} pushers ({}): {:.2} device flushes a blob, {:.1} blobs a batch",
                leg.name(), flushes / blobs, blobs / batches,
            ));
            // A syncfs commits twice when the next batch's data comes in meanwhile; some more for checkpoints,
            // and for what the kernel writes by itself.
            let owed = batches * 3.0 + volume_syncs * 4.0 + data_syncs * 2.0;
            assert!(flushes <= owed * 1.1 + 4.0, "{flushes} flushes, {owed} owed for {batches} batches");
            assert!(pushers > 1 || flushes / blobs <= 5.5, "a lone push: {:.2}", flushes / blobs);
        }
    }
}
