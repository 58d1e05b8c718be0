//! What an upstream gives no more of: clients are told when to come again, a HEAD takes the place of a GET wherever one
//! will do, and the next credentials take over from rejected ones.

use std::time::Duration;

use ::faults::{Auth, Fault, Image, On, Registry};

use crate::harness::{Response, legs};

use super::rig::{HUB, NO_ANSWER, Way, mirror, root, upstream};

const REPOSITORY: &str = "library/thing";

fn start() -> (Registry, Image) {
    let registry = Registry::start();
    let image = registry.push_image(REPOSITORY, "latest", &[1000]);
    (registry, image)
}

fn manifest(reference: impl std::fmt::Display) -> String {
    Way::Prefix.target(REPOSITORY, &format!("manifests/{reference}"))
}

/// When a client is to come again that was told that there is no more.
#[track_caller]
fn told_s(answer: Response) -> u64 {
    let answer = answer.refused(503, "TOOMANYREQUESTS");
    answer.header("retry-after").parse().expect("whole seconds")
}

/// A list of tags that are compared each time.
const COMPARED: &str = "tag_ttl = \"0s\"\nstale_while = \"0s\"\n";

legs! {
    /// As at Docker Hub: each GET of a manifest counts, a HEAD and a blob don't.
    fn a_spent_budget_is_told_and_a_head_costs_nothing_of_it(leg) {
        let (registry, image) = start();
        registry.allow_pulls(2);
        let server = mirror(leg, &root(&registry, COMPARED)).expects_log(NO_ANSWER).start();
        let mut client = server.client();
        let left = || server.metrics().sum("gantry_upstream_budget_left", &[("upstream", HUB)]);
        client.get(manifest("latest")).expect(200);
        assert_eq!(left(), 1.0);
        client.get(manifest(image.manifests[0])).expect(200);
        assert_eq!(left(), 0.0);
        // Whatever is here goes on, and is compared: that is a HEAD each.
        for _ in 0..3 {
            assert_eq!(client.get(manifest("latest")).expect(200).header("gantry-cache"), "hit");
            client.head(manifest("latest")).expect(200);
        }
        let layer = Way::Prefix.target(REPOSITORY, &format!("blobs/{}", image.layers[0][0]));
        client.get(layer).expect(200);
        // It does not say when there is more, and a spent budget does not come back in seconds: nobody waits for that.
        let told = told_s(client.get(manifest(image.manifests[1])));
        assert!((30..=60).contains(&told), "{told}");
        // As long as it lasts the upstream is left alone, and a HEAD is answered all the same.
        assert!(told_s(client.get(manifest(image.manifests[1]))) <= told);
        client.head(manifest(image.manifests[1])).expect(200);
        let counts = ["GET", "HEAD"].map(|method| registry.count(method, "/manifests/"));
        assert_eq!(counts, [3, 7], "{:?}", registry.seen());
        let refusals = server.metrics().sum("gantry_upstream_refusals_total", &[("upstream", HUB)]);
        assert_eq!(refusals, 1.0);
        // What is here is given, though it is too old to be given without a look, and a tag that has moved can't be had.
        registry.push_image(REPOSITORY, "latest", &[2000]);
        let old = client.get(manifest("latest")).expect(200);
        assert_eq!(old.header("gantry-cache"), "stale");
        assert!(old.header("warning").starts_with("299 - \"gantry: "), "{}", old.text());
    }

    /// Where no HEAD is answered, a pull is what has a body: a look at a tag that did not move has none, and what one
    /// brings is used for all who want it, by tag and by digest.
    fn an_upstream_without_heads_costs_a_pull_for_each_new_manifest(leg) {
        for refusal in [405, 403] {
            let (registry, old) = start();
            registry.script(On::head("/manifests/"), Fault::Status(refusal));
            let server = mirror(leg, &root(&registry, COMPARED)).start();
            let mut client = server.client();
            let pulls = || {
                assert!(registry.wait_until_idle(Duration::from_secs(60)));
                let seen = registry.seen();
                let of = |seen: &&::faults::Seen| seen.method == "GET" && seen.target.contains("/manifests/");
                seen.iter().filter(of).filter(|seen| seen.sent_bytes() > 0).count()
            };
            // As docker does: it looks, and comes for what it has seen.
            client.head(manifest("latest")).expect(200);
            client.get(manifest(old.index)).expect(200);
            assert_eq!(client.get(manifest("latest")).expect(200).header("gantry-cache"), "hit");
            assert_eq!(pulls(), 1, "{refusal}: {:?}", registry.seen());
            let new = registry.push_image(REPOSITORY, "latest", &[2000]);
            let head = client.head(manifest("latest")).expect(200);
            assert_eq!(head.header("docker-content-digest"), new.index.to_string());
            client.get(manifest(new.index)).expect(200);
            client.get(manifest("latest")).expect(200);
            assert_eq!(pulls(), 2, "{refusal}: {:?}", registry.seen());
        }
    }

    /// What the upstream says is what the client is told, within bounds.
    fn the_time_to_come_again_is_the_upstream_s(leg) {
        type Headers = &'static [(&'static str, &'static str)];
        let cases: [(Headers, std::ops::RangeInclusive<u64>); 8] = [
            (&[("Retry-After", "600")], 500..=600),
            (&[("Retry-After", "Mon, 01 Jan 2001 01:00:00 GMT"), ("Date", "Mon, 01 Jan 2001 00:00:00 GMT")],
                3500..=3600),
            // A date that has gone by, none that anybody knows, and none to compare it with.
            (&[("Retry-After", "Mon, 01 Jan 2001 00:00:00 GMT"), ("Date", "Mon, 01 Jan 2001 01:00:00 GMT")], 1..=1),
            (&[("Retry-After", "tomorrow")], 1..=1),
            (&[("Retry-After", "Mon, 01 Jan 2001 01:00:00 GMT")], 1..=1),
            // More than anybody has to wait, more than a number holds, and less than nothing.
            (&[("Retry-After", "999999999")], 21_500..=21_600),
            (&[("Retry-After", "99999999999999999999999")], 1..=1),
            (&[("Retry-After", "-5")], 1..=1),
        ];
        let upstreams: Vec<(String, Registry)> =
            (0..cases.len()).map(|number| (format!("upstream{number}.test"), start().0)).collect();
        // Nobody waits here, so that the first answer is what is told.
        let config: String = upstreams
            .iter()
            .map(|(ns, registry)| upstream(ns, registry, "budget_wait = \"0s\"\n"))
            .collect();
        let server = mirror(leg, &config).expects_log(NO_ANSWER).start();
        for ((headers, expect), (ns, registry)) in cases.into_iter().zip(&upstreams) {
            registry.script(On::any("/v2/"), Fault::Status(429));
            for (name, value) in headers {
                registry.script(On::any("/v2/"), Fault::Header(name, (*value).to_owned()));
            }
            let target = format!("/v2/{ns}/{REPOSITORY}/manifests/latest");
            let told = told_s(server.client().get(target.as_str()));
            assert!(expect.contains(&told), "{headers:?}: {told}");
            let head = server.client().head(target).expect(503);
            let told = head.header("retry-after").parse::<u64>().expect("whole seconds");
            assert!(told >= 1 && told <= *expect.end(), "{headers:?}, HEAD: {told}");
            assert!(registry.seen().len() <= 2, "{headers:?}: it is not asked again and again");
        }
    }

    /// What passes soon is waited for, and the client never hears of it.
    fn a_short_refusal_is_waited_out(leg) {
        let (registry, _) = start();
        registry.script(On::any("/manifests/").times(1), Fault::Status(429));
        registry.script(On::any("/manifests/").times(1), Fault::Header("Retry-After", "1".to_owned()));
        let server = mirror(leg, &root(&registry, "")).start();
        server.client().get(manifest("latest")).expect(200);
        assert_eq!(registry.count("GET", "/manifests/"), 2);
    }

    /// The realm knows the second ones alone: the first are shown to it once, and to nobody else.
    fn the_next_credentials_take_over(leg) {
        let (registry, image) = start();
        registry.require(Auth::bearer_for("second", "right"));
        let config = "credentials = [{ username = \"first\", password = \"old\" }, \
                      { username = \"second\", password = \"right\" }]\n";
        let server = mirror(leg, &root(&registry, config)).expects_log("credentials were rejected").start();
        let mut client = server.client();
        client.get(manifest("latest")).expect(200);
        client.get(manifest(image.manifests[0])).expect(200);
        client.get(Way::Prefix.target(REPOSITORY, &format!("blobs/{}", image.layers[0][0]))).expect(200);
        let asked_as = |name: &str| {
            registry.seen().iter().filter(|seen| seen.target.contains(&format!("account={name}"))).count()
        };
        // The first for this repository, and for nothing in particular.
        assert_eq!([asked_as("first"), asked_as("second")], [2, 1]);
        let rejected = server.metrics().sum("gantry_upstream_credentials_rejected_total", &[("upstream", HUB)]);
        assert_eq!(rejected, 1.0);
    }

    /// An upstream that is down is left alone after some failures, and clients are told for how long.
    fn an_upstream_that_fails_is_left_alone(leg) {
        let (registry, _) = start();
        let config = "breaker_failures = 3\ntimeouts = { breaker = \"1h\" }\n";
        let server = mirror(leg, &root(&registry, config)).expects_log(NO_ANSWER).start();
        registry.script(On::any("/v2/"), Fault::Status(500));
        for _ in 0..3 {
            server.client().get(manifest("latest")).refused(502, "UNAVAILABLE");
        }
        registry.heal();
        for _ in 0..3 {
            let answer = server.client().get(manifest("latest")).refused(503, "UNAVAILABLE");
            let told: u64 = answer.header("retry-after").parse().expect("whole seconds");
            assert!((3000..=3600).contains(&told), "{told}");
        }
        assert_eq!(registry.seen().len(), 3);
        assert_eq!(server.metrics().sum("gantry_upstream_breaker_openings_total", &[("upstream", HUB)]), 1.0);
    }
}
