//! What a client takes is told to the upstream behind what this registry takes, and changes nothing of what is kept.

use ::faults::{Registry, Seen};

use crate::harness::{legs, media};

use super::rig::{Way, mirror, root};

const REPOSITORY: &str = "library/thing";
const OURS: [&str; 4] = [media::INDEX, media::DOCKER_LIST, media::IMAGE, media::DOCKER_IMAGE];

/// What was asked for, type by type.
fn accepted(seen: &Seen) -> Vec<String> {
    let accept = seen.header("accept").expect("a manifest is asked for by its types");
    accept.split(", ").map(str::to_owned).collect()
}

legs! {
    fn a_client_s_types_come_behind_ours_and_the_next_client_gets_the_same(leg) {
        let registry = Registry::start();
        let image = registry.push_image(REPOSITORY, "latest", &[1000]);
        let server = mirror(leg, &root(&registry, "tag_ttl = \"0s\"\nstale_while = \"0s\"\n")).start();
        let mut client = server.client();
        let latest = Way::Prefix.target(REPOSITORY, "manifests/latest");
        let by_digest = Way::Prefix.target(REPOSITORY, &format!("manifests/{}", image.manifests[0]));
        let several = ["application/vnd.example.b+json;q=0.5, */*", "application/vnd.example.a+json, "];
        let extra = ["application/vnd.example.b+json", "application/vnd.example.a+json"];
        for (method, target) in [("HEAD", &latest), ("GET", &latest), ("GET", &latest), ("GET", &by_digest)] {
            registry.forget();
            let request = client.request(method, target.as_str()).header("Accept", media::IMAGE);
            let answer = several.iter().fold(request, |request, line| request.header("Accept", line)).send();
            answer.expect(200);
            let seen = registry.seen();
            assert_eq!(seen.len(), 1, "{method} {target}");
            assert_eq!(accepted(&seen[0]), [&OURS[..], &extra].concat(), "{method} {target}");
        }
        // Whoever takes nothing of it gets what is here, and nothing is converted.
        registry.forget();
        let got = client.request("GET", by_digest.as_str()).header("Accept", "text/html").send().expect(200);
        assert_eq!((got.header("gantry-cache"), got.header("content-type")), ("hit", media::IMAGE));
        assert_eq!(registry.seen().len(), 0);
        // Without a word of the client's it is our list alone.
        client.get(latest).expect(200);
        assert_eq!(accepted(&registry.seen()[0]), OURS);
    }
}
