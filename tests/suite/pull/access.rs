//! What an upstream lets be read in one repository is not readable in another: neither of that upstream, nor of another,
//! nor of this registry, whether the bytes are here or not.

use ::faults::{Digest, Image, Registry};

use crate::harness::{Client, Launch, Leg, Response, legs, noise};

use super::rig::{HUB, mirror, root, upstream};

/// Repository `team/a` has an image, `team/b` another one; the second upstream has neither.
struct There {
    registry: Registry,
    second: Registry,
    secret: Digest,
    bytes: Vec<u8>,
    _others: [Image; 2],
}

impl There {
    fn new() -> There {
        let (registry, second) = (Registry::start(), Registry::start());
        let bytes = noise(99, 400_000);
        registry.push_image("team/a", "1", &[1000]);
        let secret = registry.push_blob("team/a", bytes.clone());
        let _others =
            [registry.push_image("team/b", "1", &[2000]), second.push_image("team/a", "1", &[3000])];
        There { registry, second, secret, bytes, _others }
    }

    fn launch(&self, leg: Leg) -> Launch {
        let second = upstream("second.test", &self.second, "");
        mirror(leg, &(root(&self.registry, "") + &second))
    }

    fn target(&self, repository: &str) -> String {
        format!("/v2/{repository}/blobs/{}", self.secret)
    }
}

/// Status, headers without those that differ each time, and the body.
type Seen = (u16, Vec<(String, String)>, Vec<u8>);

fn seen(answer: Response) -> Seen {
    let headers = answer.headers.into_iter().filter(|(name, _)| name != "Date");
    (answer.status, headers.collect(), answer.body)
}

/// All that somebody else can find out about the blob.
fn look_around(there: &There, client: &mut Client, mount: bool) -> Vec<Seen> {
    let mut all = Vec::new();
    let repositories = [
        format!("{HUB}/team/b"),
        "team/b".to_owned(),
        "second.test/team/a".to_owned(),
        "mine/app".to_owned(),
    ];
    for repository in repositories {
        for method in ["GET", "HEAD"] {
            all.push(seen(client.request(method, there.target(&repository)).send()));
            let ranged = client.request(method, there.target(&repository)).header("Range", "bytes=0-9");
            all.push(seen(ranged.send()));
        }
    }
    if mount {
        for from in ["", "&from=docker.io/team/a", "&from=team/a"] {
            let target = format!("/v2/mine/app/blobs/uploads/?mount={}{from}", there.secret);
            let answer = client.request("POST", target).send();
            assert_eq!(answer.status, 202, "no mount of what is not home: {}", answer.text());
        }
    }
    all
}

legs! {
    /// Before the bytes are here, while they are, and after a restart, nobody else sees a difference.
    fn what_is_here_is_readable_only_where_it_may_be(leg) {
        let there = There::new();
        let server = there.launch(leg).start();
        let mut client = server.client();
        client.push_image("mine/app", "1", 5);
        for repository in ["docker.io/team/b", "team/b", "second.test/team/a"] {
            client.get(format!("/v2/{repository}/manifests/1")).expect(200);
        }
        let before = look_around(&there, &mut client, false);
        assert!(before.iter().all(|(status, ..)| *status == 404), "{before:?}");
        // The upstream's own 200 to a HEAD is the permission.
        let got = client.get(there.target("docker.io/team/a")).expect(200);
        assert!(got.body == there.bytes);
        assert_eq!(look_around(&there, &mut client, true), before);
        let server = server.restart();
        let mut client = server.client();
        assert_eq!(look_around(&there, &mut client, true), before);
        // Asked of the upstreams, in whose repositories it is not; and no body was fetched to find that out.
        let part = there.secret.to_string();
        assert_eq!(there.registry.count("GET", &part), 1);
        assert_eq!(there.second.count("GET", &part), 0);
        assert!(there.second.count("HEAD", &part) > 0);
    }

    /// An upstream that says no later is believed: without a manifest that names it the permission does not last.
    fn a_permission_is_the_upstreams(leg) {
        let there = There::new();
        let server = there.launch(leg).start();
        let mut client = server.client();
        client.get(there.target("docker.io/team/a")).expect(200);
        let server = server.restart();
        let mut client = server.client();
        there.registry.script(::faults::On::any(&there.secret.to_string()), ::faults::Fault::Status(403));
        client.get(there.target("docker.io/team/a")).refused(404, "NAME_UNKNOWN");
        client.head(there.target("docker.io/team/a")).expect(404);
    }
}
