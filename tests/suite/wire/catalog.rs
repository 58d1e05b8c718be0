//! `GET /v2/_catalog`: the repositories, in ASCII order, by pages.

use serde_json::json;

use crate::harness::{Client, Server, legs};

fn walk(client: &mut Client, target: &str) -> Vec<Vec<String>> {
    let mut next = Some(target.to_owned());
    let mut pages = Vec::new();
    while let Some(target) = next {
        let answer = client.get(target).expect(200);
        let body = answer.json();
        let list = body["repositories"].as_array().expect("an array, never null");
        pages.push(list.iter().map(|name| name.as_str().expect("a string").to_owned()).collect());
        next = answer.get("link").map(|link| link[1..link.find('>').unwrap()].to_owned());
        assert!(pages.len() < 100, "the pages do not end");
    }
    pages
}

legs! {
    fn a_fresh_registry_has_none(leg) {
        let server = Server::start(leg);
        let answer = server.client().get("/v2/_catalog").expect(200);
        assert_eq!(answer.json(), json!({ "repositories": [] }));
    }

    fn in_order_and_by_pages(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let mut names = ["b/two", "a", "b", "b/one", "zz/deep/er/name", "a-b", "a.b", "a_b"].map(str::to_owned).to_vec();
        for (seed, name) in names.iter().enumerate() {
            client.push_image(name, "v1", 300 + seed as u64);
        }
        names.sort();
        for (query, pages) in [("", 1), ("?n=3", 3), ("?n=1", 8), ("?n=8", 1), ("?n=1000", 1)] {
            let walked = walk(&mut client, &format!("/v2/_catalog{query}"));
            assert_eq!(walked.concat(), names, "{query}");
            assert_eq!(walked.len(), pages, "{query}");
        }
        assert_eq!(walk(&mut client, "/v2/_catalog?last=b%2Fone").concat(), names[names.len() - 2..]);
        assert_eq!(walk(&mut client, "/v2/_catalog?last=b/one").concat(), names[names.len() - 2..]);
        let head = client.head("/v2/_catalog").expect(200);
        let get = client.get("/v2/_catalog").expect(200);
        assert_eq!(head.header("content-length"), get.body.len().to_string());
    }

    fn n_is_a_number(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        client.push_image("some/name", "v1", 310);
        let zero = client.get("/v2/_catalog?n=0").expect(200);
        assert_eq!((zero.json(), zero.get("link")), (json!({ "repositories": [] }), None));
        for bad in ["-1", "x", "1x", ""] {
            client.get(format!("/v2/_catalog?n={bad}")).expect(400);
        }
    }

    /// Without `n` the first 1,000; no `n` gets more.
    fn a_page_is_at_most_a_thousand(leg) {
        const PUSHERS: usize = 15;
        const EACH: usize = 67;
        let server = Server::start(leg);
        let image = server.client().push_image("r00000", "v1", 311);
        std::thread::scope(|scope| {
            for pusher in 0..PUSHERS {
                let (mut client, layer) = (server.client(), image.layer);
                scope.spawn(move || for number in 1..=EACH {
                    let name = format!("r{:05}", pusher * EACH + number);
                    let mount = format!("/v2/{name}/blobs/uploads/?mount={layer}&from=r00000");
                    client.request("POST", mount).send().expect(201);
                });
            }
        });
        let names: Vec<_> = (0..=PUSHERS * EACH).map(|number| format!("r{number:05}")).collect();
        let mut client = server.client();
        for query in ["", "?n=1000", "?n=1001", "?n=100000"] {
            let pages = walk(&mut client, &format!("/v2/_catalog{query}"));
            assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [1000, 6], "{query}");
            assert_eq!(pages.concat(), names, "{query}");
        }
        // What ends with the last name has no next page.
        assert_eq!(client.get("/v2/_catalog?last=r00005").expect(200).get("link"), None);
    }
}
