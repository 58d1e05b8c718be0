//! What an operator wants of an upstream: which repositories, which tags never move, and whether it is asked at all.

use ::faults::{Fault, Image, On, Registry};

use crate::harness::{Launch, Leg, Server, legs};

use super::rig::{HUB, NO_ANSWER, Way, mirror, root};

const REPOSITORY: &str = "library/thing";

/// Tags are compared each time.
const COMPARED: &str = "tag_ttl = \"0s\"\nstale_while = \"0s\"\n";

fn start() -> (Registry, Image) {
    let registry = Registry::start();
    let image = registry.push_image(REPOSITORY, "latest", &[100_000]);
    (registry, image)
}

fn launch(leg: Leg, registry: &Registry, more: &str) -> Launch {
    mirror(leg, &root(registry, more)).expects_log(NO_ANSWER)
}

/// The same data with other settings.
fn again(mut server: Server, launch: Launch) -> Server {
    server.terminate();
    server.ends_well(std::time::Duration::from_secs(35));
    server.kill_meddle_restart(launch, |_data| {})
}

fn target(rest: &str) -> String {
    Way::Prefix.target(REPOSITORY, rest)
}

/// Everything of the image's first platform.
fn pull(server: &Server, image: &Image) {
    let mut client = server.client();
    client.get(target("manifests/latest")).expect(200);
    client.get(target(&format!("manifests/{}", image.manifests[0]))).expect(200);
    for digest in image.layers[0].iter().chain(&image.configs[..1]) {
        client.get(target(&format!("blobs/{digest}"))).expect(200);
    }
}

legs! {
    /// What is here is given however old it is; what is not is told to come again. The upstream, which is well, hears
    /// nothing of it.
    fn an_upstream_that_is_left_alone_is_never_asked(leg) {
        let (registry, image) = start();
        let server = launch(leg, &registry, COMPARED).start();
        pull(&server, &image);
        let server = again(server, launch(leg, &registry, &format!("{COMPARED}stale_max = \"0s\"\noffline = true\n")));
        registry.forget();
        pull(&server, &image);
        let mut client = server.client();
        let old = client.get(target("manifests/latest")).expect(200);
        assert_eq!(old.header("gantry-cache"), "stale");
        assert!(old.header("warning").starts_with("299 - \"gantry: "));
        let tags = client.get(target("tags/list")).expect(200);
        assert_eq!(tags.json()["tags"], serde_json::json!(["latest"]));
        for rest in [
            "manifests/other".to_owned(),
            format!("manifests/{}", image.manifests[1]),
            format!("blobs/{}", image.layers[1][0]),
            format!("referrers/{}", image.index),
        ] {
            let answer = client.get(target(&rest)).refused(503, "UNAVAILABLE");
            assert_eq!(answer.header("retry-after"), "60", "{rest}");
        }
        assert_eq!(registry.seen().len(), 0, "{:?}", registry.seen());
    }

    /// It is asked; where it can't be, what is here is all there is, however old. Its own *no* is one all the same.
    fn an_upstream_that_may_be_away_is_stood_in_for_without_end(leg) {
        let (registry, image) = start();
        let settings = format!("{COMPARED}stale_max = \"0s\"\n");
        let server = launch(leg, &registry, &settings).start();
        pull(&server, &image);
        registry.refuse();
        server.client().get(target("manifests/latest")).refused(503, "UNAVAILABLE");
        let server = again(server, launch(leg, &registry, &format!("{settings}offline = \"auto\"\n")));
        for _ in 0..2 {
            assert_eq!(server.client().get(target("manifests/latest")).expect(200).header("gantry-cache"), "stale");
        }
        registry.heal();
        let came = |came: &str| server.client().get(target("manifests/latest")).expect(200).header("gantry-cache") == came;
        crate::harness::wait_for("it is asked again", || came("hit"));
        registry.delete_tag(REPOSITORY, "latest");
        server.client().get(target("manifests/latest")).refused(404, "MANIFEST_UNKNOWN");
    }

    /// A repository has to be on the one list and may not be on the other; nobody is asked for the rest, by any way.
    fn a_repository_that_is_not_wanted_is_an_unknown_name(leg) {
        let registry = Registry::start();
        for repository in ["library/thing", "library/secret", "team/thing"] {
            registry.push_image(repository, "latest", &[1000]);
        }
        let lists = "allow = [\"library/*\"]\ndeny = [\"library/secret\"]\n";
        let server = launch(leg, &registry, lists).start();
        let mut client = server.client();
        for way in [Way::Ns, Way::Bare, Way::Prefix, Way::Front] {
            client.get(way.target("library/thing", "manifests/latest")).expect(200);
            registry.forget();
            for repository in ["library/secret", "team/thing"] {
                for rest in ["manifests/latest", "tags/list"] {
                    client.get(way.target(repository, rest)).refused(404, "NAME_UNKNOWN");
                }
                let digest = ::oci::Digest::of(::oci::Algorithm::Sha256, b"");
                client.get(way.target(repository, &format!("blobs/{digest}"))).expect(404);
            }
            assert_eq!(registry.seen().len(), 0, "{way:?}: {:?}", registry.seen());
        }
    }

    /// A tag that never moves is never compared, also after a restart, and one beside it is each time.
    fn an_immutable_tag_is_asked_for_once(leg) {
        let (registry, image) = start();
        let first = registry.push_image(REPOSITORY, "v1.2.3", &[2000]);
        let server = launch(leg, &registry, &format!("{COMPARED}immutable_tags = [\"v*.*.*\"]\n")).start();
        server.client().get(target("manifests/v1.2.3")).expect(200);
        server.client().get(target("manifests/latest")).expect(200);
        registry.push_image(REPOSITORY, "v1.2.3", &[3000]);
        registry.script(On::any("/manifests/v1.2.3"), Fault::Status(500));
        registry.forget();
        let server = server.restart();
        for _ in 0..3 {
            let got = server.client().get(target("manifests/v1.2.3")).expect(200);
            assert_eq!(got.header("docker-content-digest"), first.index.to_string());
            assert_eq!(got.header("gantry-cache"), "hit");
            let got = server.client().get(target("manifests/latest")).expect(200);
            assert_eq!(got.header("docker-content-digest"), image.index.to_string());
        }
        assert_eq!(registry.count("HEAD", "/manifests/latest"), 3);
        assert!(registry.seen().iter().all(|seen| !seen.target.contains("v1.2.3")), "{:?}", registry.seen());
        assert_eq!(server.metrics().sum("gantry_mirror_revalidations_total", &[("upstream", HUB), ("found", "same")]), 3.0);
    }
}
