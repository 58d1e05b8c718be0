//! end-2: a blob comes whole, exact and with its digest, by GET and HEAD, at every size and pace.

use oci::{Algorithm, Digest};

use crate::harness::{Server, legs, noise, sha256};

const REPOSITORY: &str = "library/blobs";

legs! {
    /// Around every size at which a server may change its way to send a file.
    fn every_size_comes_back_exactly(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let kib = 1024;
        let mib = 1024 * kib;
        let sizes = [
            1, 2, 4095, 4096, 16 * kib - 1, 16 * kib, 16 * kib + 1, 64 * kib, 256 * kib - 1, 256 * kib,
            256 * kib + 1, mib - 1, mib, mib + 1, 3 * mib + 17, 24 * mib + 5,
        ];
        for size in sizes {
            let bytes = noise(size as u64, size);
            let digest = client.push_blob(REPOSITORY, &bytes);
            client.assert_blob(REPOSITORY, digest, &bytes);
            client.assert_blob(REPOSITORY, digest, &bytes);
        }
    }

    fn get_and_head_say_the_same(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let bytes = noise(1, 70_000);
        let digest = client.push_blob(REPOSITORY, &bytes);
        let target = format!("/v2/{REPOSITORY}/blobs/{digest}");
        let get = client.get(&target).expect(200);
        let head = client.head(&target).expect(200);
        assert_eq!(head.header("content-length"), "70000");
        assert!(head.body.is_empty());
        for answer in [&get, &head] {
            assert_eq!(answer.header("docker-content-digest"), digest.to_string());
            assert_eq!(answer.header("etag"), format!("\"{digest}\""));
            assert_eq!(answer.header("accept-ranges"), "bytes");
            assert_eq!(answer.header("content-type"), "application/octet-stream");
        }
    }

    fn an_empty_blob_is_a_blob(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        for algorithm in Algorithm::ALL {
            let digest = client.push_blob_as(REPOSITORY, b"", algorithm);
            let target = format!("/v2/{REPOSITORY}/blobs/{digest}");
            assert_eq!(client.get(&target).expect(200).header("content-length"), "0");
            assert_eq!(client.head(&target).expect(200).header("content-length"), "0");
        }
    }

    fn every_algorithm_is_served_under_its_own_digest(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        for algorithm in Algorithm::ALL {
            let bytes = noise(algorithm as u64 + 40, 100_000);
            let digest = client.push_blob_as(REPOSITORY, &bytes, algorithm);
            client.assert_blob(REPOSITORY, digest, &bytes);
            let head = client.head(format!("/v2/{REPOSITORY}/blobs/{digest}")).expect(200);
            assert_eq!(head.header("docker-content-digest"), digest.to_string());
            for other in Algorithm::ALL.into_iter().filter(|other| *other != algorithm) {
                let other = Digest::of(other, &bytes);
                client.get(format!("/v2/{REPOSITORY}/blobs/{other}")).refused(404, "BLOB_UNKNOWN");
            }
        }
    }

    fn a_digest_in_percent_code_is_the_same_digest(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let bytes = noise(3, 300);
        let digest = client.push_blob(REPOSITORY, &bytes).to_string();
        let (algorithm, hex) = digest.split_once(':').unwrap();
        for written in [format!("{algorithm}%3A{hex}"), format!("{algorithm}%3a{hex}")] {
            let target = format!("/v2/{REPOSITORY}/blobs/{written}");
            assert_eq!(client.get(target).expect(200).body, bytes);
        }
        let whole = format!("/v2/library%2Fblobs/blobs/{digest}");
        assert_eq!(client.get(whole).expect(200).body, bytes);
        let query = format!("/v2/{REPOSITORY}/blobs/{digest}?ns=&unknown=key&x");
        assert_eq!(client.get(query).expect(200).body, bytes);
    }

    fn what_is_not_there_is_404(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        client.push_blob(REPOSITORY, b"something");
        let absent = sha256(b"never pushed");
        client.get(format!("/v2/{REPOSITORY}/blobs/{absent}")).refused(404, "BLOB_UNKNOWN");
        client.head(format!("/v2/{REPOSITORY}/blobs/{absent}")).expect(404);
        let nowhere = client.get(format!("/v2/never/seen/blobs/{absent}")).expect(404);
        assert!(["BLOB_UNKNOWN", "NAME_UNKNOWN"].contains(&nowhere.code().as_str()), "{}", nowhere.text());
    }

    fn a_malformed_digest_is_400(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let good = client.push_blob(REPOSITORY, b"something").to_string();
        let hex = good.strip_prefix("sha256:").unwrap().to_owned();
        let malformed = [
            format!("sha256:{}", &hex[..63]),
            format!("sha256:{hex}0"),
            format!("sha256:{}", hex.to_uppercase()),
            format!("SHA256:{hex}"),
            format!("sha512:{hex}"),
            format!("md5:{}", &hex[..32]),
            "sha256:".to_owned(),
            format!("sha256:{}g", &hex[..63]),
            format!(":{hex}"),
            hex.clone(),
        ];
        for digest in malformed {
            client.get(format!("/v2/{REPOSITORY}/blobs/{digest}")).refused(400, "DIGEST_INVALID");
            client.head(format!("/v2/{REPOSITORY}/blobs/{digest}")).expect(400);
        }
    }

    /// containerd asks for `bytes=N-` and hangs up; that is normal, so nothing is logged above INFO.
    fn a_client_that_closes_early_is_normal(leg) {
        let server = Server::start(leg);
        let bytes = noise(5, 24 << 20);
        let digest = server.client().push_blob(REPOSITORY, &bytes);
        let target = format!("/v2/{REPOSITORY}/blobs/{digest}");
        for round in 0..20 {
            let mut client = server.client();
            let range = format!("bytes={}-", round * 1000);
            let request = client.request("GET", &target).header("Range", range).to_bytes();
            client.send_bytes(&request);
            assert!(client.read_some(1 + round * 5000) > round * 5000);
            client.hang_up();
        }
        server.client().assert_blob(REPOSITORY, digest, &bytes);
        let driver = server.health()["cores"][0]["driver"].clone();
        assert_eq!(driver, leg.name(), "and it ran on the leg that was asked for");
    }

    fn a_slow_reader_gets_everything_and_delays_nobody(leg) {
        let server = Server::start(leg);
        let bytes = noise(6, 8 << 20);
        let digest = server.client().push_blob(REPOSITORY, &bytes);
        let target = format!("/v2/{REPOSITORY}/blobs/{digest}");
        let mut slow: Vec<_> = (0..6).map(|_| server.client()).collect();
        for client in &mut slow {
            let request = client.request("GET", &target).to_bytes();
            client.send_bytes(&request);
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
        let start = std::time::Instant::now();
        server.client().assert_blob(REPOSITORY, digest, &bytes);
        assert!(start.elapsed().as_secs() < 5, "a reader beside stuck ones took {:?}", start.elapsed());
        for client in &mut slow {
            let answer = client.read("GET").expect(200);
            assert!(answer.body == bytes);
        }
    }

    fn pipelined_gets_are_answered_in_order(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let blobs: Vec<Vec<u8>> = [10, 70_000, 0, 300_000, 1].iter().map(|len| noise(9, *len)).collect();
        let mut wire = Vec::new();
        for bytes in &blobs {
            let digest = client.push_blob(REPOSITORY, bytes);
            wire.extend(client.request("GET", format!("/v2/{REPOSITORY}/blobs/{digest}")).to_bytes());
            wire.extend(client.request("HEAD", format!("/v2/{REPOSITORY}/blobs/{digest}")).to_bytes());
        }
        client.send_bytes(&wire);
        for bytes in &blobs {
            assert!(client.read("GET").expect(200).body == *bytes);
            assert_eq!(client.read("HEAD").expect(200).header("content-length"), bytes.len().to_string());
        }
    }

    /// Many readers of one blob on all cores at once: invariant 2, no 2xx body differs from its digest.
    fn many_readers_at_once_all_get_the_same(leg) {
        let server = Server::start(leg);
        let bytes = noise(7, 1_500_000);
        let digest = server.client().push_blob(REPOSITORY, &bytes);
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    let mut client = server.client();
                    for _ in 0..8 {
                        client.assert_blob(REPOSITORY, digest, &bytes);
                    }
                });
            }
        });
    }
}
