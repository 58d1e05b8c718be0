//! Platforms that an operator wants here are fetched behind the answer to whoever asks for the image first, within the
//! upstream's budget and never before a client.

use ::faults::{Digest, Fault, Image, On, Registry};

use crate::harness::{legs, wait_for};

use super::operator::listed;
use super::rig::{mirror, root};

fn blobs(image: &Image, platform: usize) -> Vec<Digest> {
    image.layers[platform].iter().copied().chain([image.configs[platform]]).collect()
}

legs! {
    /// One GET of an index by its tag has the chosen platform here, and no other; by digest, or by HEAD, nothing comes.
    fn the_platforms_of_an_index_come_behind_its_answer(leg) {
        let registry = Registry::start();
        let image = registry.push_image("library/app", "1", &[300_000, 10_000]);
        let server = mirror(leg, &root(&registry, "platforms = [\"linux/arm64\"]")).start();
        let mut client = server.client();
        client.head("/v2/docker.io/library/app/manifests/1").expect(200);
        client.get(format!("/v2/docker.io/library/app/manifests/{}", image.index)).expect(200);
        // What comes after this question was asked comes after those.
        server.metrics();
        assert_eq!(registry.count("GET", "/blobs/"), 0);
        client.get("/v2/docker.io/library/app/manifests/1").expect(200);
        wait_for("the platform is here", || {
            let here: Vec<Digest> = listed(&server)
                .into_iter()
                .filter(|(_, row)| row["state"] == "cached")
                .map(|(digest, _)| digest)
                .collect();
            blobs(&image, 1).iter().all(|blob| here.contains(blob))
        });
        for blob in blobs(&image, 0) {
            assert_eq!(registry.count("GET", &blob.to_string()), 0);
        }
        wait_for("it has ended", || {
            server.metrics().sum("gantry_mirror_prefetches_total", &[("end", "done")]) == 1.0
        });
        // The next who asks for it is answered from here, and starts nothing.
        client.get("/v2/library/app/manifests/1").expect(200);
        registry.refuse();
        client.get(format!("/v2/library/app/manifests/{}", image.manifests[1])).expect(200);
        for blob in blobs(&image, 1) {
            client.get(format!("/v2/library/app/blobs/{blob}")).expect(200);
        }
        assert_eq!(server.metrics().sum("gantry_mirror_prefetches_total", &[]), 1.0);
    }

    /// Of what an upstream gives, at least half is left for clients.
    fn half_of_a_budget_is_for_clients(leg) {
        let registry = Registry::start();
        registry.push_image("library/app", "1", &[10_000]);
        let header = |name, value: &str| registry.script(On::any("/manifests/"), Fault::Header(name, value.to_owned()));
        header("ratelimit-limit", "100;w=21600");
        header("ratelimit-remaining", "50;w=21600");
        let server = mirror(leg, &root(&registry, "platforms = [\"linux/amd64\"]")).start();
        server.client().get("/v2/docker.io/library/app/manifests/1").expect(200);
        wait_for("it was left", || {
            server.metrics().sum("gantry_mirror_prefetches_total", &[("end", "dropped")]) == 1.0
        });
        assert_eq!(registry.count("GET", "/manifests/"), 1);
        assert_eq!(registry.count("GET", "/blobs/"), 0);
    }

    /// While a client waits for the same upstream, nothing else is fetched from it.
    fn a_client_comes_first(leg) {
        let registry = Registry::start();
        let image = registry.push_image("library/app", "1", &[500_000]);
        let other = registry.push_blob("team/big", ::faults::noise(9, 2_000_000));
        registry.script(On::get(&other.to_string()), Fault::Stall { at: 1_000_000 });
        let server = mirror(leg, &root(&registry, "platforms = [\"linux/amd64\"]")).start();
        let mut waiting = server.client();
        let head = format!("GET /v2/docker.io/team/big/blobs/{other} HTTP/1.1\r\nHost: r\r\n\r\n");
        waiting.send_bytes(head.as_bytes());
        assert!(waiting.read_some(1000) > 0);
        server.client().get("/v2/docker.io/library/app/manifests/1").expect(200);
        let platform = format!("/manifests/{}", image.manifests[0]);
        wait_for("it has begun", || registry.count("GET", &platform) == 1);
        // The core that would fetch has looked for clients by now: it answers this after that.
        listed(&server);
        assert_eq!(registry.count("GET", "library/app/blobs/"), 0);
        waiting.hang_up();
        registry.heal();
        wait_for("it goes on", || registry.count("GET", "library/app/blobs/") == 2);
    }
}
