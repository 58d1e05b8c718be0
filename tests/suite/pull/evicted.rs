//! What goes for want of room is told of the upstream that it came from, also after restarts with other upstreams, and all
//! of it is told once.

use ::faults::{Digest, Registry};

use crate::harness::{Server, TempDir, legs, noise, setting, wait_for};

use super::operator::lines;
use super::rig::{mirror, upstream};

const REPOSITORY: &str = "library/thing";
const BLOB_BYTES: usize = 100_000;
/// Less than one blob.
const TINY: &str = "10000";

/// An upstream with so many blobs.
fn upstream_of(seed: u64, blobs: u64) -> (Registry, Vec<Digest>) {
    let registry = Registry::start();
    let blob = |number| registry.push_blob(REPOSITORY, noise(seed + number, BLOB_BYTES));
    let blobs = (0..blobs).map(blob).collect();
    (registry, blobs)
}

fn pull(server: &Server, ns: &str, blobs: &[Digest]) {
    for blob in blobs {
        server.client().get(format!("/v2/{ns}/{REPOSITORY}/blobs/{blob}")).expect(200);
    }
}

/// Fails unless so many went in all, these of them of each upstream, and their ages are told as often.
#[track_caller]
fn assert_evicted(server: &Server, expect: &[(&str, f64)]) {
    let metrics = server.metrics();
    for name in ["gantry_store_evictions_total", "gantry_store_evicted_age_seconds_count"] {
        for (ns, evicted) in expect {
            assert_eq!(metrics.sum(name, &[("upstream", ns)]), *evicted, "{name} of {ns}");
        }
        assert_eq!(metrics.sum(name, &[]), expect.iter().map(|(_, evicted)| evicted).sum::<f64>(), "{name}");
    }
    let all = metrics.sum("gantry_store_evicted_age_seconds_bucket", &[("le", "+Inf")]);
    assert_eq!(all, metrics.sum("gantry_store_evictions_total", &[]));
}

legs! {
    fn of_each_upstream_whatever_their_order_is_and_of_none_when_it_is_gone(leg) {
        let [(a, of_a), (b, of_b), (c, of_c)] = [(100, 2), (200, 3), (300, 4)].map(|(seed, blobs)| upstream_of(seed, blobs));
        let [a, b, c] = [("a.test", &a), ("b.test", &b), ("c.test", &c)].map(|(ns, registry)| upstream(ns, registry, ""));
        let data = TempDir::new("data");
        let server = mirror(leg, &format!("{a}{b}{c}")).start_on(data.path());
        pull(&server, "a.test", &of_a);
        pull(&server, "b.test", &of_b);
        pull(&server, "c.test", &of_c);
        wait_for("all have their names", || of_a.iter().chain(&of_b).chain(&of_c).all(|blob| server.blob_file(*blob).exists()));
        assert_evicted(&server, &[("a.test", 0.0), ("b.test", 0.0), ("c.test", 0.0), ("unknown", 0.0)]);
        server.stop();

        // Nothing has room in this one.
        let launch = mirror(leg, &format!("{c}{a}")).set(setting::CACHE_MAX_BYTES, TINY);
        let server = launch.start_on(data.path());
        wait_for("nothing is left", || server.metric("gantry_store_cached_blobs") == 0.0);
        wait_for("all are counted", || server.metric("gantry_store_evictions_total") == 9.0);
        assert_evicted(&server, &[("c.test", 4.0), ("a.test", 2.0), ("unknown", 3.0)]);
        let stat = &lines(&server, &["stat"])[0];
        assert_eq!(stat["evictions"], 9, "{stat}");
        let of = |number: usize| (&stat["upstreams"][number]["ns"], &stat["upstreams"][number]["evictions"]);
        assert_eq!([of(0), of(1)], [(&"c.test".into(), &4.into()), (&"a.test".into(), &2.into())], "{stat}");
        server.stop();
    }

    /// Who asks for it later changes nothing, nor does a kill.
    fn of_the_one_that_gave_it(leg) {
        let [(a, of_a), (b, _)] = [(100, 3), (200, 0)].map(|(seed, blobs)| upstream_of(seed, blobs));
        for number in 0..3 {
            b.push_blob(REPOSITORY, noise(100 + number, BLOB_BYTES));
        }
        let config = format!("{}{}", upstream("a.test", &a, ""), upstream("b.test", &b, ""));
        let server = mirror(leg, &config).start();
        pull(&server, "a.test", &of_a[..1]);
        wait_for("it has its name", || server.blob_file(of_a[0]).exists());
        pull(&server, "b.test", &of_a);
        assert_eq!(b.count("GET", &of_a[0].to_string()), 0, "it was here");
        wait_for("all have their names", || of_a.iter().all(|blob| server.blob_file(*blob).exists()));
        // What has its name is written down before anything else is done.
        server.client().push_blob("mine/one", &noise(1, 1000));
        server.client().push_blob("mine/two", &noise(2, 1000));
        let launch = server.launch.clone().set(setting::CACHE_MAX_BYTES, TINY);
        let server = server.kill_meddle_restart(launch, |_| {});
        wait_for("all are counted", || server.metric("gantry_store_evictions_total") == 3.0);
        assert_evicted(&server, &[("a.test", 1.0), ("b.test", 2.0), ("unknown", 0.0)]);
    }
}
