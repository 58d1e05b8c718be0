//! What an upstream is asked for at most: so many questions at the same time, so many bytes a second.

use std::{
    thread,
    time::{Duration, Instant},
};

use ::faults::{Fault, On, Registry};

use crate::harness::{legs, noise};

use super::rig::{Way, mirror, root};

const REPOSITORY: &str = "library/thing";

legs! {
    /// Not one more, whatever clients want: blobs, manifests and heads.
    fn no_more_questions_than_allowed_at_the_same_time(leg) {
        const CONNECTIONS: u64 = 4;
        let registry = Registry::start();
        registry.push_image(REPOSITORY, "latest", &[1000]);
        let blobs: Vec<_> =
            (0..16).map(|seed| registry.push_blob(REPOSITORY, noise(seed + 10, 200_000))).collect();
        // Slow enough for all of them to be wanted at the same time.
        registry.script(On::get("/blobs/"), Fault::Slow { bytes_per_s: 400_000 });
        registry.script(On::any("/manifests/"), Fault::Slow { bytes_per_s: 2_000 });
        let settings = format!("connections = {CONNECTIONS}\nbudget_wait = \"2m\"\n");
        let server = mirror(leg, &root(&registry, &settings)).start();
        thread::scope(|scope| {
            for (number, digest) in blobs.iter().enumerate() {
                let (server, registry) = (&server, &registry);
                scope.spawn(move || {
                    let mut client = server.client().timeout(Duration::from_secs(120));
                    if number % 4 == 0 {
                        client.get(Way::Prefix.target(REPOSITORY, "manifests/latest")).expect(200);
                    }
                    let target = Way::Prefix.target(REPOSITORY, &format!("blobs/{digest}"));
                    client.head(target.as_str()).expect(200);
                    let got = client.get(target).expect(200);
                    assert!(got.body == *registry.bytes(digest).expect("it was pushed"));
                });
            }
        });
        let most = registry.most_at_once();
        assert!(most <= CONNECTIONS, "{most} at the same time");
        // Of which one is for documents.
        assert!(most >= CONNECTIONS - 1, "{most}: nobody was in anybody's way");
    }

    /// All blobs of an upstream together come no faster than allowed. They may come slower.
    fn no_more_bytes_a_second_than_allowed(leg) {
        const BYTES_PER_S: usize = 2_000_000;
        const LENGTH: usize = 1_500_000;
        let registry = Registry::start();
        let blobs = [20, 21].map(|seed| registry.push_blob(REPOSITORY, noise(seed, LENGTH)));
        let server = mirror(leg, &root(&registry, "bandwidth = \"2MB/s\"\n")).start();
        let begun = Instant::now();
        thread::scope(|scope| {
            for digest in &blobs {
                let (server, registry) = (&server, &registry);
                scope.spawn(move || {
                    let target = Way::Prefix.target(REPOSITORY, &format!("blobs/{digest}"));
                    let got = server.client().timeout(Duration::from_secs(120)).get(target).expect(200);
                    assert!(got.body == *registry.bytes(digest).expect("it was pushed"));
                });
            }
        });
        let took = begun.elapsed();
        // What is under way in buffers when the clock starts and ends is much less than the tenth that is let go.
        let least = Duration::from_secs_f64(0.9 * (2 * LENGTH) as f64 / BYTES_PER_S as f64);
        assert!(took >= least, "{} bytes in {took:?}", 2 * LENGTH);
        // From here they come as fast as from here.
        let target = Way::Prefix.target(REPOSITORY, &format!("blobs/{}", blobs[0]));
        server.client().get(target).expect(200);
        assert_eq!(registry.count("GET", "/blobs/"), 2);
    }
}
