//! end-8: the tag list, in ASCII order, by pages.

use serde_json::json;

use crate::harness::{Client, Server, legs, media};

const REPOSITORY: &str = "team/tags";

/// Tags a fresh image with all of these, 32 at a time.
fn tag_all(client: &mut Client, tags: &[String]) {
    let image = client.push_image(REPOSITORY, &tags[0], 200);
    for some in tags.chunks(32) {
        let query: Vec<String> = some.iter().map(|tag| format!("tag={tag}")).collect();
        let reference = format!("{}?{}", image.digest, query.join("&"));
        client.put_manifest(REPOSITORY, &reference, media::IMAGE, &image.bytes).expect(201);
    }
}

fn names(body: &serde_json::Value) -> Vec<String> {
    let list = body["tags"].as_array().expect("an array, never null");
    list.iter().map(|tag| tag.as_str().expect("a string").to_owned()).collect()
}

/// Follows `Link` from `target` to the end; returns every page.
fn walk(client: &mut Client, target: &str) -> Vec<Vec<String>> {
    let mut next = Some(target.to_owned());
    let mut pages = Vec::new();
    while let Some(target) = next {
        let answer = client.get(target).expect(200);
        pages.push(names(&answer.json()));
        next = answer.get("link").map(|link| link[1..link.find('>').unwrap()].to_owned());
        assert!(pages.len() < 2000, "the pages do not end");
    }
    pages
}

legs! {
    fn in_ascii_order(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let tags = ["b", "a", "Z", "_x", "1.0", "10", "2", "latest", "a-b", "a.b", "A"].map(str::to_owned);
        tag_all(&mut client, &tags);
        let answer = client.get(format!("/v2/{REPOSITORY}/tags/list")).expect(200);
        assert_eq!(answer.header("content-type").split(';').next(), Some("application/json"));
        let mut sorted = tags.to_vec();
        sorted.sort();
        assert_eq!(answer.json(), json!({ "name": REPOSITORY, "tags": sorted }));
        assert_eq!(answer.get("link"), None);
        let head = client.head(format!("/v2/{REPOSITORY}/tags/list")).expect(200);
        assert_eq!(head.header("content-length"), answer.body.len().to_string());
    }

    fn by_pages(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let tags: Vec<String> = (0..23).map(|number| format!("t{number:03}")).collect();
        tag_all(&mut client, &tags);
        for n in [1, 2, 7, 22, 23, 24, 1000] {
            let pages = walk(&mut client, &format!("/v2/{REPOSITORY}/tags/list?n={n}"));
            assert_eq!(pages.concat(), tags, "n={n}");
            assert!(pages.iter().all(|page| page.len() <= n), "n={n}");
            assert_eq!(pages.len(), 23usize.div_ceil(n), "n={n}: no empty page at the end");
        }
        let list = |client: &mut Client, query: &str| {
            names(&client.get(format!("/v2/{REPOSITORY}/tags/list?{query}")).expect(200).json())
        };
        assert_eq!(list(&mut client, "last=t019"), tags[20..]);
        assert_eq!(list(&mut client, "n=2&last=t004"), tags[5..7]);
        assert_eq!(list(&mut client, "last=t0045"), tags[5..], "last need not exist");
        assert_eq!(list(&mut client, "last=zzz").len(), 0);
        assert_eq!(list(&mut client, "last=%2F%20nothing"), tags, "last need not be a tag");
    }

    fn n_is_a_number(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        client.push_image(REPOSITORY, "v1", 201);
        let zero = client.get(format!("/v2/{REPOSITORY}/tags/list?n=0")).expect(200);
        assert_eq!((names(&zero.json()).len(), zero.get("link")), (0, None));
        for bad in ["-1", "x", "1x", "1.5", "", "0x10"] {
            let answer = client.get(format!("/v2/{REPOSITORY}/tags/list?n={bad}"));
            answer.expect(400);
        }
    }

    /// Without `n` the first 1,000; no `n` gets more.
    fn a_page_is_at_most_a_thousand(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let tags: Vec<String> = (0..1005).map(|number| format!("t{number:05}")).collect();
        tag_all(&mut client, &tags);
        for query in ["", "?n=1000", "?n=1001", "?n=100000"] {
            let pages = walk(&mut client, &format!("/v2/{REPOSITORY}/tags/list{query}"));
            assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [1000, 5], "{query}");
            assert_eq!(pages.concat(), tags);
        }
    }

    fn an_unknown_repository_is_404(leg) {
        let server = Server::start(leg);
        server.client().get("/v2/no/such/tags/list").refused(404, "NAME_UNKNOWN");
    }

    fn a_repository_without_tags_has_an_empty_list(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let image = client.push_image(REPOSITORY, "only", 202);
        client.delete(format!("/v2/{REPOSITORY}/manifests/only")).expect(202);
        let answer = client.get(format!("/v2/{REPOSITORY}/tags/list")).expect(200);
        assert_eq!(answer.json(), json!({ "name": REPOSITORY, "tags": [] }));
        client.get(format!("/v2/{REPOSITORY}/manifests/{}", image.digest)).expect(200);
    }
}
