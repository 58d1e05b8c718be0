//! What a client is told when it is wrong: the spec's JSON, the spec's codes, `Allow`, and nothing of the inside.

use crate::harness::{Server, legs, sha256};

const GOOD: &str = "team/errors";

legs! {
    fn a_table_of_errors(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        client.push_image(GOOD, "v1", 700);
        let absent = sha256(b"absent");
        let long_name = format!("{}/{}", "a".repeat(128), "b".repeat(128));
        for (method, target, status, code) in [
            ("GET", format!("/v2/{GOOD}/blobs/{absent}"), 404, "BLOB_UNKNOWN"),
            ("GET", format!("/v2/{GOOD}/manifests/nope"), 404, "MANIFEST_UNKNOWN"),
            ("GET", "/v2/no/where/tags/list".to_owned(), 404, "NAME_UNKNOWN"),
            ("GET", format!("/v2/{GOOD}/blobs/sha256:1"), 400, "DIGEST_INVALID"),
            ("GET", format!("/v2/{GOOD}/tags/list?n=-5"), 400, "UNSUPPORTED"),
            ("GET", format!("/v2/Upper/case/blobs/{absent}"), 400, "NAME_INVALID"),
            ("GET", format!("/v2/a//b/blobs/{absent}"), 400, "NAME_INVALID"),
            ("GET", format!("/v2/a/../b/blobs/{absent}"), 400, "NAME_INVALID"),
            ("GET", format!("/v2/a%2F..%2Fb/blobs/{absent}"), 400, "NAME_INVALID"),
            ("GET", format!("/v2/-a/blobs/{absent}"), 400, "NAME_INVALID"),
            ("GET", format!("/v2/a-/blobs/{absent}"), 400, "NAME_INVALID"),
            ("GET", format!("/v2/a...b/blobs/{absent}"), 400, "NAME_INVALID"),
            ("GET", format!("/v2/a%00b/blobs/{absent}"), 400, "NAME_INVALID"),
            ("GET", format!("/v2/{long_name}/blobs/{absent}"), 400, "NAME_INVALID"),
            ("POST", "/v2/Upper/blobs/uploads/".to_owned(), 400, "NAME_INVALID"),
            ("GET", "/v2/Upper/tags/list".to_owned(), 400, "NAME_INVALID"),
            ("PUT", "/v2/Upper/manifests/v1".to_owned(), 400, "NAME_INVALID"),
            ("GET", format!("/v2/{GOOD}/blobs/uploads/{}", "0".repeat(32)), 404, "BLOB_UPLOAD_UNKNOWN"),
        ] {
            let answer = client.request(method, &target).send();
            assert_eq!((answer.status, answer.code().as_str()), (status, code), "{method} {target}: {}", answer.text());
            assert_eq!(answer.header("content-type").split(';').next(), Some("application/json"), "{target}");
        }
    }

    fn names_by_the_grammar(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let longest = format!("{}/{}", "a".repeat(127), "b".repeat(127));
        for name in ["a", "0", "a/b/c/d/e/f", "a-b", "a--b", "a_b", "a__b", "a.b", "a-b.c_d/x", &longest] {
            let location = client.open_upload(name);
            assert!(location.starts_with(&format!("/v2/{name}/blobs/uploads/")), "{location}");
        }
        for name in ["a___b", "a..b", "a_-b", "_a", "a_", ".a", "a.", "a/", "/a", "a b", "a+b", "a@b", "ä"] {
            let encoded: String = name.bytes().map(|byte| format!("%{byte:02X}")).collect();
            let answer = client.request("POST", format!("/v2/{encoded}/blobs/uploads/")).send();
            assert!([400, 404].contains(&answer.status), "{name}: {}", answer.text());
        }
    }

    /// Words of the path are also words of names.
    fn names_that_look_like_paths(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        for (seed, name) in ["blobs", "manifests", "tags/list", "a/blobs/uploads", "uploads", "referrers", "v2", "tags"].iter().enumerate() {
            let image = client.push_image(name, "list", 710 + seed as u64);
            assert_eq!(client.get(format!("/v2/{name}/manifests/list")).expect(200).body, image.bytes, "{name}");
            assert_eq!(client.get(format!("/v2/{name}/tags/list")).expect(200).json()["name"], **name);
            assert_eq!(client.get(format!("/v2/{name}/blobs/{}", image.layer)).expect(200).body.len(), 2000);
        }
    }

    fn a_wrong_method_is_405_and_told_which_are_right(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let location = client.open_upload(GOOD);
        let absent = sha256(b"absent");
        let all = ["GET", "HEAD", "PUT", "POST", "PATCH", "DELETE", "OPTIONS", "PROPFIND"];
        for (target, allowed) in [
            ("/v2/".to_owned(), vec!["GET", "HEAD"]),
            ("/v2/_catalog".to_owned(), vec!["GET", "HEAD"]),
            (format!("/v2/{GOOD}/blobs/{absent}"), vec!["GET", "HEAD", "DELETE"]),
            (format!("/v2/{GOOD}/manifests/v1"), vec!["GET", "HEAD", "PUT", "DELETE"]),
            (format!("/v2/{GOOD}/tags/list"), vec!["GET", "HEAD"]),
            (format!("/v2/{GOOD}/referrers/{absent}"), vec!["GET", "HEAD"]),
            (format!("/v2/{GOOD}/blobs/uploads/"), vec!["POST"]),
            (location, vec!["GET", "HEAD", "PATCH", "PUT", "DELETE"]),
        ] {
            for method in all.iter().filter(|method| !allowed.contains(method)) {
                // The answer to a HEAD has no body to look for the code in.
                let code = if *method == "HEAD" { "" } else { "UNSUPPORTED" };
                let answer = client.request(method, &target).send().refused(405, code);
                let mut told: Vec<&str> = answer.header("allow").split(',').map(str::trim).collect();
                let mut allowed = allowed.clone();
                told.retain(|method| *method != "HEAD");
                allowed.retain(|method| *method != "HEAD");
                told.sort();
                allowed.sort();
                assert_eq!(told, allowed, "{method} {target}");
            }
        }
    }

    fn unknown_paths_are_404(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        for target in ["/v2/x", "/v2/a/b/c", "/v2/a/tags", "/v2/a/tags/list/more", "/v2/a/manifests/", "/v1/", "/nothing", "/v3/"] {
            client.get(target).expect(404);
        }
    }

    /// What the client sent comes back escaped and cut, and no header can be made of it.
    fn client_text_is_bounded_and_escaped(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let long = "y".repeat(4000);
        for target in [
            format!("/v2/{GOOD}/manifests/a%0d%0aX-Injected:%201"),
            format!("/v2/{GOOD}/manifests/%22%7D%5D%7D"),
            format!("/v2/{GOOD}/manifests/%1b%5b31m"),
            format!("/v2/{GOOD}/manifests/%ff%fe"),
            format!("/v2/{GOOD}/manifests/{long}"),
            format!("/v2/{GOOD}/blobs/sha256:{long}"),
            format!("/v2/X{long}/tags/list"),
            format!("/v2/{GOOD}/tags/list?n={long}"),
            format!("/v2/{GOOD}/tags/list?last=%0d%0aX-Injected:1&n=0"),
        ] {
            let answer = client.get(&target);
            assert_eq!(answer.get("x-injected"), None);
            assert!(answer.body.len() < 1500, "{} bytes of error for {target}", answer.body.len());
            if answer.status >= 400 {
                answer.json();
            }
        }
    }

    fn malformed_percent_codes_are_400(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        for target in ["/v2/a%/tags/list", "/v2/a%2/tags/list", "/v2/a%zz/tags/list", "/v2/%%/tags/list"] {
            client.get(target).expect(400);
        }
    }
}
