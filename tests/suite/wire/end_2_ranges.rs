//! end-2, Range (RFC 9110 §14; wire.md §2): every form, compared with a model that slices the same bytes.

use std::collections::BTreeSet;

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

use crate::harness::{Client, Response, Server, legs, noise, parts};

const REPOSITORY: &str = "library/ranges";
const SIZE: usize = 5000;

/// What a test asks for, so that the model need not parse text.
#[derive(Clone, Copy, Debug)]
enum Spec {
    FromTo(usize, usize),
    From(usize),
    Last(usize),
}

impl Spec {
    fn text(self) -> String {
        match self {
            Spec::FromTo(first, last) => format!("{first}-{last}"),
            Spec::From(first) => format!("{first}-"),
            Spec::Last(count) => format!("-{count}"),
        }
    }

    fn positions(self, size: usize) -> std::ops::Range<usize> {
        let (start, end) = match self {
            Spec::FromTo(first, last) => (first, size.min(last + 1)),
            Spec::From(first) => (first, size),
            Spec::Last(count) => (size.saturating_sub(count), size),
        };
        start.min(end)..end
    }
}

fn header(specs: &[Spec]) -> String {
    let texts: Vec<String> = specs.iter().map(|spec| spec.text()).collect();
    format!("bytes={}", texts.join(","))
}

fn ask(client: &mut Client, target: &str, range: &str) -> Response {
    client.request("GET", target).header("Range", range).send()
}

/// The reply holds exactly the union of `specs`, no byte twice, each byte right; or 416 if that is nothing.
#[track_caller]
fn assert_union(answer: &Response, specs: &[Spec], blob: &[u8]) {
    let wanted: BTreeSet<usize> = specs.iter().flat_map(|spec| spec.positions(blob.len())).collect();
    if wanted.is_empty() {
        assert_eq!(answer.status, 416, "{specs:?}: {}", answer.text());
        assert_eq!(answer.header("content-range"), format!("bytes */{}", blob.len()));
        return;
    }
    let mut got = BTreeSet::new();
    for part in parts(answer) {
        assert_eq!(part.size_bytes, blob.len());
        assert!(part.bytes == blob[part.first..=part.last], "{specs:?}: wrong bytes at {}", part.first);
        for position in part.first..=part.last {
            assert!(got.insert(position), "{specs:?}: byte {position} came twice, overlaps are coalesced");
        }
    }
    assert_eq!(got, wanted, "{specs:?}");
}

legs! {
    fn single_ranges(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let blob = noise(11, SIZE);
        let digest = client.push_blob(REPOSITORY, &blob);
        let target = format!("/v2/{REPOSITORY}/blobs/{digest}");
        for (range, first, last) in [
            ("bytes=0-0", 0, 0),
            ("bytes=0-99", 0, 99),
            ("bytes=4990-4999", 4990, 4999),
            ("bytes=4999-", 4999, 4999),
            ("bytes=0-", 0, 4999),
            ("bytes=100-", 100, 4999),
            ("bytes=-1", 4999, 4999),
            ("bytes=-500", 4500, 4999),
            ("bytes=-5000", 0, 4999),
            ("bytes=-999999", 0, 4999),
            ("bytes=10-999999", 10, 4999),
            ("bytes=00010-00019", 10, 19),
            ("Bytes=10-19", 10, 19),
        ] {
            let answer = ask(&mut client, &target, range).expect(206);
            assert_eq!(answer.header("content-range"), format!("bytes {first}-{last}/{SIZE}"), "{range}");
            assert_eq!(answer.header("content-length"), (last + 1 - first).to_string(), "{range}");
            assert!(answer.body == blob[first..=last], "{range}");
            assert_eq!(answer.header("docker-content-digest"), digest.to_string());
            assert_eq!(answer.header("etag"), format!("\"{digest}\""));
        }
    }

    fn unsatisfiable_ranges_are_416_with_the_size(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let digest = client.push_blob(REPOSITORY, &noise(12, SIZE));
        let target = format!("/v2/{REPOSITORY}/blobs/{digest}");
        for range in ["bytes=500-0", "bytes=5000-", "bytes=5000-5001", "bytes=99999-", "bytes=-0", "bytes=5000-,6000-"] {
            let answer = ask(&mut client, &target, range).expect(416);
            assert_eq!(answer.header("content-range"), format!("bytes */{SIZE}"), "{range}");
        }
        client.get(&target).expect(200);
    }

    fn what_is_no_byte_range_gets_the_whole(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let blob = noise(13, SIZE);
        let digest = client.push_blob(REPOSITORY, &blob);
        let target = format!("/v2/{REPOSITORY}/blobs/{digest}");
        for range in [
            "items=0-1", "bytes", "bytes=", "bytes=abc", "bytes=1", "bytes=-", "bytes=--1", "bytes=0-1-2",
            "bytes 0-1", "bytes=0x1-2", "bytes=+1-2", "=0-1", "0-1", "bytes=a-b,0-1",
        ] {
            let answer = ask(&mut client, &target, range).expect(200);
            assert!(answer.body == blob, "{range}");
            assert_eq!(answer.get("content-range"), None, "{range}");
        }
    }

    fn a_range_of_an_empty_blob_is_200(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let digest = client.push_blob(REPOSITORY, b"");
        let target = format!("/v2/{REPOSITORY}/blobs/{digest}");
        for range in ["bytes=0-", "bytes=0-0", "bytes=-5", "bytes=0-1,5-6"] {
            let answer = ask(&mut client, &target, range).expect(200);
            assert_eq!(answer.header("content-length"), "0", "{range}");
        }
    }

    fn head_tells_the_whole_length_whatever_the_range(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let digest = client.push_blob(REPOSITORY, &noise(14, SIZE));
        let target = format!("/v2/{REPOSITORY}/blobs/{digest}");
        let answer = client.request("HEAD", target).header("Range", "bytes=0-9").send().expect(200);
        assert_eq!(answer.header("content-length"), SIZE.to_string());
    }

    fn several_ranges_come_as_multipart(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let blob = noise(15, SIZE);
        let digest = client.push_blob(REPOSITORY, &blob);
        let target = format!("/v2/{REPOSITORY}/blobs/{digest}");
        let answer = ask(&mut client, &target, "bytes=0-9, 100-199 ,-50").expect(206);
        assert!(answer.header("content-type").starts_with("multipart/byteranges"));
        assert_eq!(answer.header("docker-content-digest"), digest.to_string());
        assert_eq!(answer.header("etag"), format!("\"{digest}\""));
        let spans: Vec<_> = parts(&answer).iter().map(|part| (part.first, part.last)).collect();
        assert_eq!(spans, [(0, 9), (100, 199), (4950, 4999)]);
        assert_union(&answer, &[Spec::FromTo(0, 9), Spec::FromTo(100, 199), Spec::Last(50)], &blob);
    }

    fn overlaps_are_coalesced(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let blob = noise(16, SIZE);
        let digest = client.push_blob(REPOSITORY, &blob);
        let target = format!("/v2/{REPOSITORY}/blobs/{digest}");
        for specs in [
            vec![Spec::FromTo(0, 99), Spec::FromTo(50, 149)],
            vec![Spec::From(0), Spec::From(0), Spec::From(0)],
            vec![Spec::FromTo(10, 20), Spec::FromTo(10, 20), Spec::FromTo(3000, 3000)],
            vec![Spec::FromTo(4000, 4500), Spec::FromTo(0, 5), Spec::Last(1000)],
            vec![Spec::FromTo(0, 9), Spec::From(9000)],
        ] {
            let answer = ask(&mut client, &target, &header(&specs));
            assert_union(&answer, &specs, &blob);
        }
    }

    /// Parts that lie in cold and hot pages, and each larger than any one send.
    fn large_parts_are_exact(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let blob = noise(17, 9 << 20);
        let digest = client.push_blob(REPOSITORY, &blob);
        let target = format!("/v2/{REPOSITORY}/blobs/{digest}");
        for (first, last) in [(1, 5_000_000), (1 << 20, (1 << 20) + 300_000), (9_000_000, 9_400_000)] {
            let answer = ask(&mut client, &target, &format!("bytes={first}-{last}")).expect(206);
            assert!(answer.body == blob[first..=last]);
        }
        let specs = "bytes=5-2500000,3000000-3000001,4000000-9000000";
        for part in parts(&ask(&mut client, &target, specs)) {
            assert!(part.bytes == blob[part.first..=part.last]);
        }
    }

    /// Parts that are read and sent together, more of them than go into one send, between parts that are sent from the
    /// file.
    fn small_and_large_parts_take_turns(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let blob = noise(20, 12 << 20);
        let digest = client.push_blob(REPOSITORY, &blob);
        let target = format!("/v2/{REPOSITORY}/blobs/{digest}");
        let lengths = [1, 16_384, 16_385, 12_000, 65_536, 300_000];
        let specs: Vec<Spec> = (0..36)
            .map(|index| (index * 330_001 + 7, lengths[index * index % lengths.len()]))
            .map(|(first, length)| Spec::FromTo(first, first + length - 1))
            .collect();
        let small: Vec<Spec> = (0..36).map(|index| Spec::FromTo(index * 330_001, index * 330_001 + 16_383)).collect();
        for specs in [specs, small] {
            let answer = ask(&mut client, &target, &header(&specs));
            assert_eq!(parts(&answer).len(), specs.len());
            for part in parts(&answer) {
                assert!(part.bytes == blob[part.first..=part.last], "{} to {}", part.first, part.last);
            }
        }
    }

    /// stargz falls back to single ranges only on 400.
    fn a_thousand_and_twenty_four_ranges_are_served_and_one_more_is_400(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let blob = noise(18, SIZE);
        let digest = client.push_blob(REPOSITORY, &blob);
        let target = format!("/v2/{REPOSITORY}/blobs/{digest}");
        let specs: Vec<Spec> = (0..1024).map(|at| Spec::FromTo(at * 4, at * 4 + 1)).collect();
        let answer = ask(&mut client, &target, &header(&specs));
        assert_union(&answer, &specs, &blob);
        assert_eq!(parts(&answer).len(), 1024);
        let more: Vec<Spec> = (0..1025).map(|at| Spec::FromTo(at * 4, at * 4 + 1)).collect();
        ask(&mut client, &target, &header(&more)).expect(400);
        let same = vec![Spec::FromTo(0, 0); 1025];
        ask(&mut client, &target, &header(&same)).expect(400);
        client.get(&target).expect(200);
    }

    fn any_list_of_ranges_equals_the_model(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let blob = noise(19, SIZE);
        let digest = client.push_blob(REPOSITORY, &blob);
        let target = format!("/v2/{REPOSITORY}/blobs/{digest}");
        let spec = prop_oneof![
            (0..SIZE + 500, 0..900usize).prop_map(|(first, more)| Spec::FromTo(first, first + more)),
            (0..SIZE + 100).prop_map(Spec::From),
            (1..SIZE + 100).prop_map(Spec::Last),
        ];
        let client = std::cell::RefCell::new(&mut client);
        let config = Config { cases: 200, failure_persistence: None, max_shrink_iters: 50, ..Config::default() };
        TestRunner::new(config)
            .run(&prop::collection::vec(spec, 1..12), |specs| {
                let answer = ask(&mut client.borrow_mut(), &target, &header(&specs));
                assert_union(&answer, &specs, &blob);
                Ok(())
            })
            .unwrap_or_else(|failure| panic!("{failure}"));
    }
}
