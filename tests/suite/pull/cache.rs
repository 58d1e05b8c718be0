//! `gantry cache` from outside: what is warmed is here when the upstream is not, what is pinned stays, what is purged is
//! asked for again, what is listed is all, and nobody but an operator on this machine can do any of it.

use std::net::UdpSocket;

use ::faults::{Digest, Fault, Image, On, Registry};

use crate::harness::{Client, Leg, TempDir, gantry, legs, noise, say, setting, wait_for};

use super::operator::{Running, api, cache, done, lines, listed, push_image_of};
use super::rig::{assert_store_is_right, mirror, root, upstream};

/// Every blob of an image, by platform.
fn blobs(image: &Image, platform: usize) -> Vec<Digest> {
    image.layers[platform].iter().copied().chain([image.configs[platform]]).collect()
}

/// Pulls an image as a client would: by tag, then each platform's manifest, then its blobs.
fn pull(client: &mut Client, repository: &str, tag: &str, image: &Image) {
    client.get(format!("/v2/{repository}/manifests/{tag}")).expect(200);
    for (number, manifest) in image.manifests.iter().enumerate() {
        client.get(format!("/v2/{repository}/manifests/{manifest}")).expect(200);
        for blob in blobs(image, number) {
            let body = client.get(format!("/v2/{repository}/blobs/{blob}")).expect(200).body;
            assert_eq!(Digest::of(blob.algorithm(), &body), blob);
        }
    }
}

fn digests(leg_server: &crate::harness::Server) -> Vec<Digest> {
    listed(leg_server).into_iter().map(|(digest, _)| digest).collect()
}

legs! {
    /// However it is named, it is fetched once; then it is here, also after a restart, whatever the upstream does.
    fn what_is_warmed_is_here_without_its_upstream(leg) {
        let registry = Registry::start();
        let image = registry.push_image("library/app", "1", &[300_000, 5_000, 700_000]);
        let server = mirror(leg, &root(&registry, "")).start();
        let said = done(&server, &["warm", "docker.io/library/app:1"]);
        assert!(said.contains("docker.io/library/app:1: done, 8 of 8 blobs here, 8 of them fetched"), "{said}");
        let local = format!("{}/docker.io/app:1", server.addr());
        let said = done(&server, &["warm", "app:1", "index.docker.io/library/app:1", &local]);
        assert_eq!(said.matches("0 of them fetched").count(), 3, "{said}");
        assert_eq!(registry.count("GET", "/blobs/"), 8, "each once");
        registry.refuse();
        pull(&mut server.client(), "docker.io/library/app", "1", &image);
        pull(&mut server.client(), "app", "1", &image);
        let server = server.restart();
        pull(&mut server.client(), "docker.io/library/app", "1", &image);
        assert_eq!(assert_store_is_right(&server), 8);
    }

    /// Only what was chosen is fetched; what an image does not have, or an upstream not give, is told by the exit status.
    fn a_warming_is_of_chosen_platforms_and_says_what_could_not_be_had(leg) {
        let registry = Registry::start();
        let image = registry.push_image("library/app", "1", &[200_000]);
        let server = mirror(leg, &root(&registry, "")).start();
        let warm = lines(&server, &["warm", "app:1", "--platform", "linux/arm64"]);
        assert_eq!((&warm[0]["state"], &warm[0]["blobs"]["total"]), (&"done".into(), &2.into()), "{warm:?}");
        for (platform, asked) in [(0, 0), (1, 1)] {
            for blob in blobs(&image, platform) {
                assert_eq!(registry.count("GET", &blob.to_string()), asked, "platform {platform}");
            }
        }
        let (status, said) = cache(&server, &["warm", "app:1", "--platform", "linux/s390x"]);
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains("linux/s390x: the image has nothing for this platform"), "{said}");
        let (status, said) = cache(&server, &["warm", "none:1", "quay.io/org/app", "app:1"]);
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains("none latest") || said.contains("none 1: manifest unknown"), "{said}");
        assert!(said.contains("gantry: quay.io/org/app: repository name not known"), "{said}");
        assert!(said.contains("app:1: done, 4 of 4"), "the others are had all the same: {said}");
        let (status, said) = cache(&server, &["warm", "app:1", "--platform", "amd64"]);
        assert!(status == Some(1) && said.contains("linux/arm/v7"), "{said}");

        let other = registry.push_image("library/other", "1", &[100_000, 90_000]);
        let lost = other.layers[0][0];
        registry.script(On::any(&lost.to_string()), Fault::Status(404));
        let (status, said) = cache(&server, &["warm", "other:1"]);
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains("failed, 5 of 6 blobs here") && said.contains(&lost.to_string()), "{said}");
    }

    /// What goes with a repository is asked for again, what others name stays, and what was pushed is nobody's to purge.
    fn what_is_purged_is_asked_for_again(leg) {
        let registry = Registry::start();
        let image = registry.push_image("library/app", "1", &[100_000, 20_000]);
        let shared = noise(7, 50_000);
        push_image_of(&registry, "team/a", "1", &[&shared, b"of a alone"]);
        push_image_of(&registry, "team/b", "1", &[&shared, b"of b alone"]);
        let server = mirror(leg, &root(&registry, "")).start();
        let mut client = server.client();
        let mine = client.push_image("mine/app", "1", 5);
        done(&server, &["warm", "app:1", "team/a:1", "team/b:1"]);
        assert_eq!(digests(&server).len(), 6 + 5);
        pull(&mut client, "docker.io/library/app", "1", &image);
        registry.forget();

        let layer = image.layers[0][0];
        let said = done(&server, &["purge", &layer.to_string()]);
        assert!(said.starts_with("purged 1 blobs, 97.7 KiB"), "{said}");
        assert!(!digests(&server).contains(&layer) && !server.blob_file(layer).exists());
        let again = client.get(format!("/v2/docker.io/library/app/blobs/{layer}")).expect(200);
        assert_eq!((again.header("gantry-cache"), registry.count("GET", &layer.to_string())), ("fill", 1));

        let said = done(&server, &["purge", "docker.io/library/*"]);
        assert!(said.starts_with("forgot 1 repositories, purged 6 blobs"), "{said}");
        assert_eq!(digests(&server).len(), 5);
        registry.forget();
        pull(&mut client, "docker.io/library/app", "1", &image);
        assert_eq!((registry.count("GET", "app/manifests/"), registry.count("GET", "app/blobs/")), (3, 6));

        let said = done(&server, &["purge", "docker.io/team/a"]);
        assert!(said.starts_with("forgot 1 repositories, purged 2 blobs"), "{said}");
        assert!(digests(&server).contains(&Digest::of(layer.algorithm(), &shared)), "the other names it");
        let said = done(&server, &["purge", &mine.layer.to_string()]);
        assert!(said.starts_with("nothing is cached"), "{said}");
        assert!(done(&server, &["purge", "mine/*"]).starts_with("nothing is cached"));
        client.get(format!("/v2/mine/app/blobs/{}", mine.layer)).expect(200);
        assert_store_is_right(&server);
    }

    /// A pin that was set while it ran outlives constant misses and a restart; taken back, nothing is pinned.
    fn what_is_pinned_stays(leg) {
        let registry = Registry::start();
        let kept = registry.push_image("library/kept", "1", &[200_000]);
        let config = root(&registry, "") + "[cache]\npin = [\"docker.io/always/*\"]\n";
        // What waits for its name can't be evicted yet, so one or other miss may pass through.
        let launch = mirror(leg, &config).set(setting::CACHE_MAX_BYTES, "4MiB");
        let server = launch.expects_log("no room for a blob").start();
        done(&server, &["warm", "kept:1"]);
        let said = done(&server, &["pin", "docker.io/library/kept"]);
        assert!(said.contains("is pinned: 4 blobs"), "{said}");
        assert!(done(&server, &["pin", "docker.io/library/kept"]).contains("already"));
        let number = std::cell::Cell::new(0);
        let misses = |server: &crate::harness::Server, count: usize| {
            let mut client = server.client();
            for _ in 0..count {
                number.set(number.get() + 1);
                let blob = registry.push_blob("team/noise", noise(1000 + number.get(), 600_000));
                client.get(format!("/v2/docker.io/team/noise/blobs/{blob}")).expect(200);
            }
        };
        let is_here = |server: &crate::harness::Server| {
            let all = digests(server);
            [0, 1].iter().flat_map(|platform| blobs(&kept, *platform)).all(|blob| all.contains(&blob))
        };
        misses(&server, 15);
        assert!(server.metric("gantry_store_evictions_total") > 0.0 && is_here(&server));
        let server = server.restart();
        let pins = done(&server, &["pin"]);
        assert_eq!(pins, "docker.io/always/*  (cache.pin)\ndocker.io/library/kept\n");
        misses(&server, 15);
        assert!(server.metric("gantry_store_evictions_total") > 0.0 && is_here(&server));
        registry.forget();
        pull(&mut server.client(), "docker.io/library/kept", "1", &kept);
        assert_eq!(registry.count("GET", "library/kept/blobs/"), 0);

        let (status, said) = cache(&server, &["unpin", "docker.io/always/*"]);
        assert!(status == Some(1) && said.contains("cache.pin"), "{said}");
        done(&server, &["unpin", "docker.io/library/kept"]);
        assert!(done(&server, &["unpin", "docker.io/library/kept"]).contains("was not pinned"));
        assert!(listed(&server).iter().all(|(_, row)| row["pinned"] == false));
    }

    /// Pages are bounded and together all of it; what is shown is sorted, and what is told of a blob is right.
    fn the_list_is_all_of_it(leg) {
        let registry = Registry::start();
        let layers: Vec<usize> = (1..=15).map(|number| number * 1000).collect();
        let image = registry.push_image("library/app", "1", &layers);
        let server = mirror(leg, &root(&registry, "")).start();
        done(&server, &["warm", "app:1"]);
        let mut all: Vec<Digest> = [0, 1].iter().flat_map(|platform| blobs(&image, *platform)).collect();
        all.sort_unstable();
        let mut told = digests(&server);
        told.sort_unstable();
        assert_eq!(told, all);

        let (mut paged, mut after, mut pages) = (Vec::new(), 0, 0);
        loop {
            let page = api(&server, "GET", &format!("/blobs?n=7&after={after}"));
            let rows = page["blobs"].as_array().expect("a list");
            assert!(rows.len() <= 7);
            pages += 1;
            paged.extend(rows.iter().map(|row| Digest::parse(row["digest"].as_str().unwrap()).unwrap()));
            match page["next"].as_u64() {
                Some(next) => after = next,
                None => break,
            }
        }
        paged.sort_unstable();
        assert!(pages >= 5 && paged == all);

        let shown = done(&server, &["ls", "--limit", "3"]);
        let rows: Vec<&str> = shown.lines().collect();
        assert_eq!(rows.len(), 5, "{shown}");
        assert!(rows[0].starts_with("DIGEST ") && rows[4].starts_with("3 of 32 blobs"), "{shown}");
        assert!(rows[1].contains(" 14.6 KiB  cached  -  ") && rows[1].ends_with(" docker.io/library/app"), "{shown}");
        let sorted = lines(&server, &["ls", "--sort", "digest"]);
        assert!(sorted.is_sorted_by_key(|row| row["digest"].as_str().map(str::to_owned)));
        let largest = &listed(&server).into_iter().find(|(digest, _)| *digest == image.layers[0][14]).unwrap().1;
        assert_eq!((&largest["size_bytes"], &largest["state"]), (&15_000.into(), &"cached".into()), "{largest}");

        let stat = &lines(&server, &["stat"])[0];
        let bytes = 2 * layers.iter().sum::<usize>() as u64;
        assert_eq!(stat["blobs"], 32);
        assert!(stat["blobs_bytes"].as_u64().unwrap() > bytes && stat["budget_bytes"] == 1 << 30, "{stat}");
        assert_eq!((&stat["upstreams"][0]["ns"], &stat["upstreams"][0]["misses"]), (&"docker.io".into(), &0.into()));
        assert!(done(&server, &["stat"]).contains("budget    1.0 GiB"));
    }

    /// Ctrl-C ends the job on the server too; a command that just dies leaves one that ends by itself, when nobody asks.
    fn a_warming_that_is_interrupted_leaves_nothing_running(leg) {
        let registry = Registry::start();
        let image = registry.push_image("library/app", "1", &[3_000_000]);
        registry.limit(100_000);
        let server = mirror(leg, &root(&registry, "complete = \"never\"")).start();
        let running = Running::start(&server, &["warm", "app:1"]);
        let fills = || server.metrics().sum("gantry_fill_running", &[]);
        wait_for("its layers are on their way", || fills() >= 2.0);
        let (status, said) = running.interrupt();
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains("given up"), "{said}");
        assert_eq!(api(&server, "GET", "/warm")["warming"][0]["state"], "given up");
        wait_for("nothing is on its way", || fills() == 0.0);
        registry.heal();
        // What came is not lost.
        done(&server, &["warm", "app:1"]);
        let sent = registry.sent_bytes(&image.layers[0][0].to_string());
        assert!(sent < 2 * 3_000_000, "{sent}");
        Running::start(&server, &["warm", "app:1"]).kill();
    }

    /// The socket decides, and the marks of browsers and proxies: whatever else a request says of itself.
    fn nobody_else_may(leg) {
        let registry = Registry::start();
        let launch = mirror(leg, &root(&registry, "")).listen("0.0.0.0:0").arg("--allow-anonymous");
        let server = launch.expects_log("everybody who reaches this address").start();
        let port = server.addr().port();
        let mut client = Client::new(([127, 0, 0, 1], port).into(), "no secret");
        let targets = [("GET", "/api/v1/cache"), ("POST", "/api/v1/cache/purge?repository=*"), ("GET", "/api/")];
        for (method, target) in targets {
            client.request(method, target).send().refused(403, "DENIED");
            for (name, value) in [
                ("Origin", "http://evil.test"),
                ("X-Forwarded-For", "127.0.0.1"),
                ("Forwarded", "for=127.0.0.1"),
                ("Via", "1.1 proxy"),
                ("Sec-Fetch-Site", "same-origin"),
            ] {
                let request = client.request(method, target).header("Gantry-Api", "1").header(name, value);
                request.send().refused(403, "DENIED");
            }
            let rebound = client.request(method, target).header("Gantry-Api", "1").header("Host", "evil.test");
            rebound.send().refused(403, "DENIED");
        }
        // A page of another site asks first, and gets no permission.
        let asked = client.request("OPTIONS", "/api/v1/cache").header("Origin", "http://evil.test").send();
        assert!(asked.status >= 400 && asked.get("access-control-allow-origin").is_none());
        client.request("GET", "/api/v1/cache").header("Gantry-Api", "1").send().expect(200);
        client.request("GET", "/api/v1/nothing").header("Gantry-Api", "1").send().expect(404);
        client.request("DELETE", "/api/v1/cache").header("Gantry-Api", "1").send().expect(405);

        let other = UdpSocket::bind("0.0.0.0:0").and_then(|socket| {
            // Nothing is sent: it is only asked by which address that would be.
            socket.connect("192.0.2.1:9").and_then(|()| socket.local_addr())
        });
        match other.map(|address| address.ip()) {
            Ok(address) if !address.is_loopback() => {
                let mut client = Client::new((address, port).into(), "no secret");
                let request = client.request("GET", "/api/v1/cache").header("Gantry-Api", "1");
                request.header("Host", format!("127.0.0.1:{port}")).send().refused(403, "DENIED");
                client.get("/v2/").expect(200);
            }
            _ => say("this machine has no other address: no other peer was tried"),
        }
    }

    /// Known traffic, and what is told of it: each number of an upstream.
    fn metrics_are_those_of_what_happened(leg) {
        let registry = Registry::start();
        let image = registry.push_image("library/app", "1", &[400_000]);
        let second = Registry::start();
        let config = root(&registry, "tag_ttl = \"0s\"\nstale_while = \"0s\"") + &upstream("second.test", &second, "");
        let launch = mirror(leg, &config).expects_log("no answer").expects_log("an upstream gave other bytes");
        let server = launch.expects_log("does not come").set(setting::CACHE_MAX_BYTES, "8MiB").start();
        let mut client = server.client();
        let layer = image.layers[0][0];
        let target = format!("/v2/docker.io/library/app/blobs/{layer}");
        registry.script(On::any("manifests/1"), Fault::Header("ratelimit-remaining", "76;w=21600".to_owned()));
        client.get("/v2/docker.io/library/app/manifests/1").expect(200);
        client.get(&target).expect(200);
        client.get(&target).expect(200);
        client.request("GET", &target).header("Range", "bytes=0-99").send().expect(206);
        let wrong = image.layers[1][0];
        registry.script(On::get(&wrong.to_string()), Fault::WrongBytes);
        let _cut = client.another().request("GET", format!("/v2/docker.io/library/app/blobs/{wrong}")).try_send();
        registry.heal();
        let resumed = registry.push_blob("library/app", noise(5, 700_000));
        registry.script(On::get(&resumed.to_string()).times(1), Fault::Truncated { at: 300_000 });
        client.get(format!("/v2/docker.io/library/app/blobs/{resumed}")).expect(200);
        for number in 0..8 {
            let other = registry.push_blob("library/app", noise(50 + number, 1_200_000));
            client.get(format!("/v2/docker.io/library/app/blobs/{other}")).expect(200);
            // One that waits for its name can't go for the next; it gets it with any push.
            wait_for("it has its name", || {
                client.push_blob("mine/nudge", &noise(number, 100));
                server.blob_file(other).exists()
            });
        }
        registry.refuse();
        let stale = client.get("/v2/docker.io/library/app/manifests/1").expect(200);
        assert_eq!(stale.header("gantry-cache"), "stale");
        wait_for("what was asked for has its name", || {
            server.metrics().sum("gantry_store_cached_blobs", &[]) >= 1.0
                && server.metrics().sum("gantry_fill_running", &[]) == 0.0
        });

        let metrics = server.metrics();
        let of = |name: &str| metrics.sum(name, &[("upstream", "docker.io")]);
        assert_eq!(of("gantry_fill_hits_total"), 2.0);
        assert_eq!(of("gantry_fill_misses_total"), 11.0);
        assert_eq!(of("gantry_fill_coalesced_total"), 0.0);
        assert_eq!(of("gantry_fill_clients"), 0.0);
        assert_eq!(of("gantry_fill_lag_bytes"), 0.0);
        assert_eq!(of("gantry_fill_resumes_total"), 1.0);
        assert_eq!(of("gantry_fill_mismatches_total"), 1.0);
        let whole = 400_000.0 * 2.0 + 100.0 + 700_000.0 + 8.0 * 1_200_000.0;
        let served = of("gantry_fill_served_bytes_total");
        // Of the wrong one a client got no more than what is not held back.
        assert!(served >= whole && served <= whole + 400_000.0, "{served} of {whole}");
        let fetched = of("gantry_fill_fetched_bytes_total");
        assert_eq!(fetched, 400_000.0 * 2.0 + 700_000.0 + 8.0 * 1_200_000.0, "each byte once, and the wrong ones");
        assert_eq!(metrics.sum("gantry_mirror_manifests_total", &[("from", "stale")]), 1.0);
        assert_eq!(of("gantry_upstream_budget_left"), 76.0);
        assert!(of("gantry_upstream_requests_total") >= 8.0 && of("gantry_upstream_broken_bodies_total") >= 1.0);
        let evicted = of("gantry_store_evictions_total");
        assert!(evicted >= 1.0);
        assert_eq!(of("gantry_store_evicted_age_seconds_count"), evicted);
        assert_eq!(metrics.sum("gantry_store_evictions_total", &[]), evicted, "of nobody else");
        for name in ["hits_total", "misses_total", "fetched_bytes_total", "served_bytes_total"] {
            let other = metrics.sum(&format!("gantry_fill_{name}"), &[("upstream", "second.test")]);
            assert_eq!(other, 0.0, "{name}");
        }
        for twice in ["gantry_upstream_fetched_bytes", "gantry_mirror_budget_remaining"] {
            assert_eq!(metrics.kind(twice), None, "it is told elsewhere");
        }
    }
}

#[test]
fn who_is_not_there_or_has_no_cache_is_told_from_who_refuses() {
    let dir = TempDir::new("operator");
    let server = crate::harness::Server::start(Leg::Epoll);
    let (status, said) = cache(&server, &["stat"]);
    assert_eq!(status, Some(1));
    assert!(said.contains("is no mirror: its configuration has no [[upstream]]"), "{said}");
    let (status, said) = cache(&server, &["warm", "app:1"]);
    assert!(status == Some(1) && said.contains("is no mirror"), "{said}");
    let addr = server.addr().to_string();
    drop(server);
    let (status, said) = gantry(&["cache", "ls", "--server", &addr], dir.path());
    assert_eq!(status, Some(1));
    assert!(
        said.contains(&format!("no registry answers at {addr}")) && said.contains("gantry serve"),
        "{said}"
    );
    let (status, said) = gantry(&["cache", "ls", "--server", "nowhere"], dir.path());
    assert!(status == Some(1) && said.contains("127.0.0.1:5000"), "{said}");
    // The address is the configuration's where nobody says another.
    std::fs::write(dir.path().join("gantry.toml"), format!("listen = \"{addr}\"\n")).expect("a file");
    let (status, said) = gantry(&["cache", "ls", "--config", "gantry.toml"], dir.path());
    assert!(status == Some(1) && said.contains(&addr), "{said}");
    assert_eq!(gantry(&["cache"], dir.path()).0, Some(2));
    assert_eq!(gantry(&["cache", "warm"], dir.path()).0, Some(2));
}
