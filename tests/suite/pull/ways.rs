//! The three ways to an upstream's repository lead to the same bytes, once from the upstream and ever after from here;
//! and what is not an upstream's is never asked of one.

use ::faults::{Digest, Image, Registry};
use serde_json::json;

use crate::harness::{Client, Launch, Leg, Server, legs, media, noise, sha256, wait_for};

use super::rig::{HUB, NO_ANSWER, Way, assert_came, assert_store_is_right, mirror, root, upstream};

const REPOSITORY: &str = "library/busybox";

/// What stands at the upstream.
struct There {
    registry: Registry,
    image: Image,
    /// Refers to the image's index.
    signature: String,
}

impl There {
    fn new() -> There {
        let registry = Registry::start();
        let image = registry.push_image(REPOSITORY, "latest", &[1 << 20, 70_000]);
        let index = registry.bytes(&image.index).expect("it was pushed");
        let signature = json!({
            "schemaVersion": 2, "mediaType": media::IMAGE, "artifactType": "application/vnd.example.signature",
            "config": { "mediaType": media::EMPTY, "digest": sha256(b"{}").to_string(), "size": 2 },
            "layers": [],
            "subject": { "mediaType": media::INDEX, "digest": image.index.to_string(), "size": index.len() },
        });
        registry.push_blob(REPOSITORY, "{}");
        let signature = registry.push_manifest(REPOSITORY, None, media::IMAGE, signature.to_string());
        There { registry, image, signature: signature.to_string() }
    }

    fn launch(&self, leg: Leg) -> Launch {
        mirror(leg, &root(&self.registry, ""))
    }

    /// Pulls everything that there is of the image. `came` is what the answers have to say of where it was found.
    fn pull(&self, client: &mut Client, way: Way, came: &[&str]) {
        let at = |rest: &str| way.target(REPOSITORY, rest);
        let index = self.registry.bytes(&self.image.index).expect("it was pushed");
        for reference in ["latest".to_owned(), self.image.index.to_string()] {
            let head = client.head(at(&format!("manifests/{reference}"))).expect(200);
            assert_came(&head, way, &[came, &["hit"]].concat());
            assert_eq!(head.header("content-length"), index.len().to_string());
            let got = client.get(at(&format!("manifests/{reference}"))).expect(200);
            assert_came(&got, way, &[came, &["hit"]].concat());
            assert_eq!(got.header("content-type"), media::INDEX);
            assert_eq!(got.header("docker-content-digest"), self.image.index.to_string());
            assert!(got.body == *index, "{way:?}: another index");
        }
        for digest in &self.image.manifests {
            let got = client.get(at(&format!("manifests/{digest}"))).expect(200);
            assert_came(&got, way, came);
            assert_eq!(got.header("content-type"), media::IMAGE);
            assert!(got.body == *self.registry.bytes(digest).expect("it was pushed"));
        }
        for digest in self.image.layers.iter().flatten().chain(&self.image.configs) {
            let bytes = self.registry.bytes(digest).expect("it was pushed");
            let head = client.head(at(&format!("blobs/{digest}"))).expect(200);
            assert_eq!(head.header("content-length"), bytes.len().to_string());
            assert_eq!(head.header("docker-content-digest"), digest.to_string());
            let got = client.get(at(&format!("blobs/{digest}"))).expect(200);
            assert_came(&got, way, came);
            assert_eq!(got.header("docker-content-digest"), digest.to_string());
            assert!(got.body == *bytes, "{way:?}: other bytes");
        }
    }

    /// Until each blob has its name under `blobs/`.
    fn wait_until_named(&self, server: &Server) {
        let blobs: Vec<&Digest> = self.image.layers.iter().flatten().chain(&self.image.configs).collect();
        wait_for("the blobs have names", || blobs.iter().all(|digest| server.blob_file(**digest).exists()));
    }

    fn lists(&self, client: &mut Client, way: Way) {
        let tags = client.get(way.target(REPOSITORY, "tags/list")).expect(200);
        assert_eq!(tags.json()["tags"], json!(["latest"]));
        let target = way.target(REPOSITORY, &format!("referrers/{}", self.image.index));
        let referrers = client.get(target).expect(200);
        assert_eq!(referrers.header("content-type"), media::INDEX);
        assert_eq!(
            referrers.json()["manifests"][0]["digest"],
            self.signature.as_str(),
            "{}",
            referrers.text()
        );
    }
}

/// Everything by one way: from the upstream, then without it, then after a restart without it.
fn by(leg: Leg, way: Way) {
    let there = There::new();
    // The lists are asked for again where they may have changed.
    let server = there.launch(leg).expects_log(NO_ANSWER).start();
    there.pull(&mut server.client(), way, &["fill"]);
    there.lists(&mut server.client(), way);
    for layer in there.image.layers.iter().flatten() {
        assert_eq!(there.registry.count("GET", &layer.to_string()), 1, "{layer} was fetched once");
    }
    there.registry.refuse();
    there.registry.forget();
    // What has just come has no name yet, and is there all the same.
    there.pull(&mut server.client(), way, &["fill", "hit"]);
    there.lists(&mut server.client(), way);
    there.wait_until_named(&server);
    there.pull(&mut server.client(), way, &["hit"]);

    let server = server.restart();
    there.pull(&mut server.client(), way, &["hit"]);
    let tags = server.client().get(way.target(REPOSITORY, "tags/list")).expect(200);
    assert_eq!(tags.json()["tags"], json!(["latest"]), "what was asked for by somebody");
    assert!(tags.header("warning").starts_with("299 - \"gantry: "), "{}", tags.text());
    // What is signed is not told from memory of what was not.
    let referrers = way.target(REPOSITORY, &format!("referrers/{}", there.image.index));
    server.client().get(referrers).refused(503, "UNAVAILABLE");
    assert_eq!(there.registry.seen().len(), 0);
    assert_store_is_right(&server);
}

legs! {
    /// containerd, BuildKit.
    fn ns(leg) { by(leg, Way::Ns) }

    /// dockerd with the root mirror.
    fn bare(leg) { by(leg, Way::Bare) }

    /// Any client.
    fn prefix(leg) { by(leg, Way::Prefix) }

    /// A mirror's URL with a path.
    fn front(leg) { by(leg, Way::Front) }

    /// Stopped right after a pull, and the upstream as well: all that was pulled is here.
    fn nothing_is_lost_by_a_stop(leg) {
        let there = There::new();
        let server = there.launch(leg).start();
        there.pull(&mut server.client(), Way::Prefix, &["fill"]);
        there.registry.refuse();
        let server = server.restart();
        there.pull(&mut server.client(), Way::Prefix, &["fill", "hit", "partial"]);
        assert_store_is_right(&server);
    }

    /// A blob that came by one way is there by the others, since it is one repository; and Docker Hub's short names mean
    /// `library/`.
    fn the_ways_meet(leg) {
        let there = There::new();
        let server = there.launch(leg).start();
        let mut client = server.client();
        there.pull(&mut client, Way::Ns, &["fill"]);
        let asked = there.registry.seen().len();
        for way in [Way::Bare, Way::Prefix, Way::Front] {
            there.pull(&mut client, way, &["fill", "hit"]);
        }
        for short in ["/v2/busybox/manifests/latest?ns=docker.io", "/v2/docker.io/busybox/manifests/latest"] {
            assert_eq!(client.get(short).expect(200).header("gantry-cache"), "hit", "{short}");
        }
        assert_eq!(there.registry.seen().len(), asked);
    }

    /// HEADs of what is not here cost one HEAD each, and no pull.
    fn a_head_fetches_no_body(leg) {
        let there = There::new();
        let server = there.launch(leg).start();
        let mut client = server.client();
        let digest = there.image.layers[0][0];
        for _ in 0..2 {
            client.head(Way::Ns.target(REPOSITORY, "manifests/latest")).expect(200);
            let head = client.head(Way::Ns.target(REPOSITORY, &format!("blobs/{digest}"))).expect(200);
            assert_eq!(head.header("content-length"), (1 << 20).to_string());
        }
        assert_eq!(there.registry.count("GET", "/v2/library"), 0, "{:?}", there.registry.seen());
        assert_eq!(there.registry.count("HEAD", "/v2/library"), 2);
    }

    /// A prefix is the upstream's: whatever would write there is 405, and nobody is asked.
    fn a_push_to_a_prefix_is_refused(leg) {
        let there = There::new();
        let server = there.launch(leg).start();
        let mut client = server.client();
        let repository = format!("{HUB}/{REPOSITORY}");
        let bytes = noise(1, 100);
        let digest = sha256(&bytes);
        let image = there.registry.bytes(&there.image.manifests[0]).expect("it was pushed");
        for (method, rest) in [
            ("POST", "blobs/uploads/".to_owned()),
            ("POST", format!("blobs/uploads/?digest={digest}")),
            ("POST", format!("blobs/uploads/?mount={digest}&from=some/where")),
            ("PUT", "manifests/mine".to_owned()),
            ("DELETE", "manifests/latest".to_owned()),
            ("DELETE", format!("blobs/{digest}")),
        ] {
            for target in [format!("/v2/{repository}/{rest}"), format!("/{HUB}/v2/{REPOSITORY}/{rest}")] {
                let request = client.request(method, target.as_str()).header("Content-Type", media::IMAGE);
                let answer = request.body(&image[..]).send().refused(405, "UNSUPPORTED");
                assert_eq!(answer.header("allow"), "GET, HEAD", "{method} {target}");
            }
        }
        assert_eq!(there.registry.seen().len(), 0);
        let catalog = client.get("/v2/_catalog").expect(200);
        assert_eq!(catalog.json()["repositories"], json!([]));
    }

    /// What was pushed here, or is being pushed, is not looked for elsewhere; nor what an operator keeps in.
    fn a_name_that_is_local_is_never_asked_for(leg) {
        let there = There::new();
        there.registry.push_image("acme/secret", "latest", &[1000]);
        there.registry.push_image("team/begun", "latest", &[1000]);
        let config = format!("local_only = [\"acme/*\"]\n{}", root(&there.registry, ""));
        let server = mirror(leg, &config).start();
        let mut client = server.client();
        let ours = client.push_image(REPOSITORY, "latest", 7);
        client.open_upload("team/begun");
        for server in [server.restart()] {
            let mut client = server.client();
            let got = client.get(Way::Bare.target(REPOSITORY, "manifests/latest")).expect(200);
            assert!(got.body == ours.bytes && got.get("gantry-cache").is_none());
            let other = there.image.layers[0][0];
            for (repository, rest, code) in [
                (REPOSITORY, "manifests/other".to_owned(), "MANIFEST_UNKNOWN"),
                (REPOSITORY, format!("manifests/{}", there.image.index), "MANIFEST_UNKNOWN"),
                (REPOSITORY, format!("blobs/{other}"), "BLOB_UNKNOWN"),
                ("team/begun", "manifests/latest".to_owned(), "MANIFEST_UNKNOWN"),
                ("acme/secret", "manifests/latest".to_owned(), "MANIFEST_UNKNOWN"),
                ("acme/secret", format!("blobs/{other}"), "BLOB_UNKNOWN"),
            ] {
                client.get(Way::Bare.target(repository, &rest)).refused(404, code);
                client.head(Way::Bare.target(repository, &rest)).expect(404);
            }
            client.get("/v2/acme/secret/tags/list").refused(404, "NAME_UNKNOWN");
            assert_eq!(there.registry.seen().len(), 0, "{:?}", there.registry.seen());
            // Under its prefix the upstream's is there all the same.
            client.get(Way::Prefix.target(REPOSITORY, "manifests/latest")).expect(200);
        }
    }

    /// A blob of a bare name is not asked for before a manifest was: docker looks so before it pushes.
    fn a_blob_opens_no_bare_name(leg) {
        let there = There::new();
        let server = there.launch(leg).start();
        let mut client = server.client();
        let blob = Way::Bare.target(REPOSITORY, &format!("blobs/{}", there.image.configs[0]));
        client.head(blob.as_str()).expect(404);
        client.get(blob.as_str()).refused(404, "BLOB_UNKNOWN");
        assert_eq!(there.registry.seen().len(), 0);
        client.head(Way::Bare.target(REPOSITORY, "manifests/latest")).expect(200);
        client.get(blob.as_str()).expect(200);
    }

    /// `ns` is a key: written as one likes, of nobody else, and never a way to what is local.
    fn an_ns_is_a_key(leg) {
        let there = There::new();
        let second = Registry::start();
        let image = second.push_image("tool", "1", &[5000]);
        let config = [
            "names = [\"gantry.corp:5000\"]\n".to_owned(),
            root(&there.registry, ""),
            upstream("second.test:5000", &second, "prefix = \"second\""),
        ];
        let server = mirror(leg, &config.concat()).start();
        let mut client = server.client();
        let ours = client.push_image("mine/tool", "1", 3);
        for ns in ["Docker.IO", "docker.io:443", "index.docker.io", "registry-1.docker.io", "docker%2Eio"] {
            let got = client.get(format!("/v2/{REPOSITORY}/manifests/latest?ns={ns}")).expect(200);
            assert_eq!(got.header("oci-namespace"), HUB);
        }
        let got = client.get("/v2/tool/manifests/1?ns=second.test:5000").expect(200);
        assert_eq!(got.header("oci-namespace"), "second.test:5000");
        assert_eq!(got.header("docker-content-digest"), image.index.to_string());
        client.get("/v2/second/tool/manifests/1").expect(200);
        client.get("/v2/mine/tool/manifests/1?ns=gantry.corp:5000").expect(200);
        let (first_asked, second_asked) = (there.registry.seen().len(), second.seen().len());
        for ns in ["quay.io", "second.test", "docker.io.evil.test", "127.0.0.1"] {
            for rest in ["manifests/1".to_owned(), format!("blobs/{}", ours.layer), "tags/list".to_owned()] {
                client.get(format!("/v2/mine/tool/{rest}?ns={ns}")).refused(404, "NAME_UNKNOWN");
            }
        }
        // Two upstreams in one question.
        client.get(format!("/v2/{HUB}/tool/manifests/1?ns=second.test:5000")).refused(400, "UNSUPPORTED");
        client.get("/second/v2/tool/manifests/1?ns=docker.io").refused(400, "UNSUPPORTED");
        // The same one twice is one.
        client.get(format!("/v2/{HUB}/{REPOSITORY}/manifests/latest?ns={HUB}")).expect(200);
        assert_eq!((there.registry.seen().len(), second.seen().len()), (first_asked, second_asked));
        // A write goes where its path says.
        let target = "/v2/mine/tool/manifests/2?ns=quay.io";
        let put = client.request("PUT", target).header("Content-Type", media::IMAGE);
        put.body(ours.bytes.clone()).send().expect(201);
    }
}
