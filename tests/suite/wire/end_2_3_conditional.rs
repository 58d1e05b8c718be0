//! end-2, end-3: conditional reads (RFC 9110 §13). The digest is a strong validator.

use crate::harness::{Server, legs, noise};

const REPOSITORY: &str = "library/conditional";
const OTHER: &str = "\"sha256:0000000000000000000000000000000000000000000000000000000000000000\"";

legs! {
    fn if_none_match_of_a_blob(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let bytes = noise(21, 4000);
        let digest = client.push_blob(REPOSITORY, &bytes);
        let target = format!("/v2/{REPOSITORY}/blobs/{digest}");
        let same = format!("\"{digest}\"");
        for known in [same.clone(), "*".to_owned(), format!("W/{same}"), format!("{OTHER}, {same}")] {
            for method in ["GET", "HEAD"] {
                let answer = client.request(method, &target).header("If-None-Match", &known).send().expect(304);
                assert_eq!(answer.header("etag"), same, "{known}");
                assert_eq!(answer.header("docker-content-digest"), digest.to_string());
                assert!(answer.body.is_empty());
            }
        }
        let answer = client.request("GET", &target).header("If-None-Match", OTHER).send().expect(200);
        assert!(answer.body == bytes);
    }

    fn if_none_match_comes_before_range(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let digest = client.push_blob(REPOSITORY, &noise(22, 4000));
        let target = format!("/v2/{REPOSITORY}/blobs/{digest}");
        let same = format!("\"{digest}\"");
        let ask = client.request("GET", &target).header("If-None-Match", &same).header("Range", "bytes=0-1");
        ask.send().expect(304);
        let ask = client.request("GET", &target).header("If-None-Match", OTHER).header("Range", "bytes=0-1");
        assert_eq!(ask.send().expect(206).body.len(), 2);
    }

    fn if_match_of_a_blob(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let digest = client.push_blob(REPOSITORY, &noise(23, 4000));
        let target = format!("/v2/{REPOSITORY}/blobs/{digest}");
        for known in [format!("\"{digest}\""), "*".to_owned(), format!("{OTHER}, \"{digest}\"")] {
            client.request("GET", &target).header("If-Match", known).send().expect(200);
        }
        for unknown in [OTHER.to_owned(), format!("W/\"{digest}\"")] {
            client.request("GET", &target).header("If-Match", unknown).send().expect(412);
        }
    }

    /// Only a strong match of the one validator keeps the range; a date never can, we send none.
    fn if_range(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let bytes = noise(24, 4000);
        let digest = client.push_blob(REPOSITORY, &bytes);
        let target = format!("/v2/{REPOSITORY}/blobs/{digest}");
        let mut ask = |validator: &str| {
            let request = client.request("GET", &target).header("Range", "bytes=5-9");
            request.header("If-Range", validator).send()
        };
        assert_eq!(ask(&format!("\"{digest}\"")).expect(206).body, bytes[5..=9]);
        for stale in [OTHER, &format!("W/\"{digest}\""), "Sat, 29 Oct 1994 19:43:31 GMT", "garbage"] {
            assert!(ask(stale).expect(200).body == bytes, "{stale}");
        }
    }

    fn manifests_answer_304_by_tag_and_by_digest(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let image = client.push_image(REPOSITORY, "v1", 25);
        for reference in ["v1".to_owned(), image.digest.to_string()] {
            let target = format!("/v2/{REPOSITORY}/manifests/{reference}");
            let etag = client.get(&target).expect(200).header("etag").to_owned();
            assert_eq!(etag, format!("\"{}\"", image.digest));
            for method in ["GET", "HEAD"] {
                let answer = client.request(method, &target).header("If-None-Match", &etag).send().expect(304);
                assert_eq!(answer.header("docker-content-digest"), image.digest.to_string());
            }
            client.request("GET", &target).header("If-None-Match", OTHER).send().expect(200);
        }
        let newer = client.push_image(REPOSITORY, "v1", 26);
        let stale = format!("\"{}\"", image.digest);
        let tag = client.request("GET", format!("/v2/{REPOSITORY}/manifests/v1"));
        assert_eq!(tag.header("If-None-Match", stale).send().expect(200).body, newer.bytes);
    }
}
