//! A blob that was read in part is fetched to its end as its upstream's `complete` says, by default above a third of it.

use std::{fs, io::Read, net::Shutdown};

use ::faults::{Digest, Registry};

use crate::harness::{Server, legs, noise, wait_for};

use super::rig::{assert_store_is_right, mirror, upstream};

const MIB: usize = 1 << 20;

const BLOB_BYTES: usize = 8 * MIB;

/// An upstream, and a blob of it that somebody has read a part of.
struct Probed {
    ns: &'static str,
    registry: Registry,
    bytes: Vec<u8>,
    digest: Digest,
}

impl Probed {
    fn new(ns: &'static str, seed: u64) -> Probed {
        let registry = Registry::start();
        let bytes = noise(seed, BLOB_BYTES);
        let digest = registry.push_blob("thing", bytes.clone());
        Probed { ns, registry, bytes, digest }
    }

    /// Reads so much of the second half.
    fn probe(&self, server: &Server, length: usize) {
        let (from, to) = (BLOB_BYTES / 2, BLOB_BYTES / 2 + length);
        let target = format!("/v2/{}/thing/blobs/{}", self.ns, self.digest);
        let range = format!("bytes={from}-{}", to - 1);
        let answer = server.client().request("GET", target).header("Range", range).send().expect(206);
        assert!(answer.body == self.bytes[from..to], "{}", self.ns);
    }

    fn fetched_bytes(&self, server: &Server) -> usize {
        server.metrics().sum("gantry_fill_fetched_bytes_total", &[("upstream", self.ns)]) as usize
    }

    #[track_caller]
    fn is_completed(&self, server: &Server) {
        let file = server.blob_file(self.digest);
        wait_for(&format!("all of {} is here", self.ns), || file.exists());
        assert!(fs::read(file).unwrap() == self.bytes, "{}", self.ns);
        assert_eq!(self.fetched_bytes(server), BLOB_BYTES, "{}: each byte once", self.ns);
    }

    /// Once all that was asked for has come.
    #[track_caller]
    fn is_left(&self, server: &Server, length: usize) {
        let running = || server.metrics().sum("gantry_fill_running", &[("upstream", self.ns)]);
        wait_for(&format!("nothing of {} is under way", self.ns), || running() == 0.0);
        assert!(!server.blob_file(self.digest).exists(), "{}", self.ns);
        assert_eq!(self.fetched_bytes(server), length, "{}", self.ns);
        assert_eq!(self.registry.count("GET", "/blobs/"), 1, "{}: {:?}", self.ns, self.registry.seen());
    }
}

/// Parts that are on disk, and wait for whoever comes.
fn parts(server: &Server) -> usize {
    fs::read_dir(server.data_dir().join("fills")).expect("it is there").count()
}

legs! {
    fn what_was_begun_is_completed_as_its_upstream_wants(leg) {
        // The least that there is, and the most that is not enough for the others.
        let always = Probed::new("always.test", 1400);
        let little = Probed::new("little.test", 1401);
        let third = Probed::new("third.test", 1402);
        let never = Probed::new("never.test", 1403);
        let config: String = [
            (&always, "complete = \"always\"\n"),
            (&little, ""),
            (&third, ""),
            (&never, "complete = \"never\"\n"),
        ]
        .into_iter()
        .map(|(probed, more)| upstream(probed.ns, &probed.registry, more))
        .collect();
        let server = mirror(leg, &config).start();
        never.probe(&server, 4 * MIB);
        little.probe(&server, 2 * MIB);
        always.probe(&server, MIB);
        third.probe(&server, 3 * MIB);
        // Those that go on have come to their end before it is looked at those that don't.
        always.is_completed(&server);
        third.is_completed(&server);
        little.is_left(&server, 2 * MIB);
        never.is_left(&server, 4 * MIB);
        assert_eq!(assert_store_is_right(&server), 2);
        wait_for("only those that were not completed are left", || parts(&server) == 2);
        // They are of use to who comes next, also after a restart.
        let server = server.restart();
        for probed in [&little, &never] {
            let target = format!("/v2/{}/thing/blobs/{}", probed.ns, probed.digest);
            assert!(server.client().get(target).expect(200).body == probed.bytes, "{}", probed.ns);
        }
        assert_eq!([&little, &never].map(|probed| probed.fetched_bytes(&server)), [6 * MIB, 4 * MIB]);
    }

    /// Then its fill stops, which is told to nobody as a failure: the server looks at its log when it ends.
    fn who_leaves_before_a_third_is_there_is_no_alarm(leg) {
        let wanted = Probed::new("left.test", 1404);
        // A third of it takes many seconds.
        wanted.registry.limit(MIB as u64 / 8);
        let server = mirror(leg, &upstream(wanted.ns, &wanted.registry, "")).start();
        let mut client = server.client();
        let target = format!("/v2/{}/thing/blobs/{}", wanted.ns, wanted.digest);
        let request = client.request("GET", target).to_bytes();
        client.send_bytes(&request);
        assert!(client.read_some(100_000) > 0);
        // It takes what still comes, so that no send of the server's fails.
        client.stream().shutdown(Shutdown::Write).expect("it is connected");
        let mut rest = Vec::new();
        client.stream().read_to_end(&mut rest).expect("its end");
        assert!(rest.len() < BLOB_BYTES / 2);
        wait_for("it stops", || {
            let running = server.metrics().sum("gantry_fill_running", &[("upstream", wanted.ns)]);
            running == 0.0 && parts(&server) == 1
        });
        assert!(!server.blob_file(wanted.digest).exists());
        assert!(wanted.fetched_bytes(&server) < BLOB_BYTES);
    }
}
