//! A hot GET allocates nothing: no request, answer, cache hit, access record or send touches the heap.
//!
//! A binary of its own, because all of its process is counted: the core, the log's thread, and a client that has
//! made its buffers before.

#[expect(dead_code, reason = "of what the suite has, this needs a part")]
#[path = "../suite/plane.rs"]
mod plane;
#[expect(dead_code, reason = "of what the suite has, this needs a part")]
#[path = "../suite/rig.rs"]
mod rig;

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
};

use control::{Ask, Came, Document, Link};
use dataplane::limits::Limits;
use oci::MediaType;
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

use plane::Plane;
use rig::{legs, sha256};

#[global_allocator]
static HEAP: &StatsAlloc<std::alloc::System> = &INSTRUMENTED_SYSTEM;

const SIZES: [usize; 5] = [0, 4 << 10, 64 << 10, 200 << 10, 1 << 20];

/// Sends the request and reads as many bytes as its answer has; gives how many those are.
fn exchange(stream: &mut TcpStream, request: &[u8], answer: &mut [u8], length: usize) {
    stream.write_all(request).unwrap();
    stream.read_exact(&mut answer[..length]).unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 20"), "{}", String::from_utf8_lossy(&answer[..200]));
}

/// Reads the answer to a HEAD; gives how long it is.
fn head_len(stream: &mut TcpStream) -> usize {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    head.len()
}

/// So many hot GETs by 200 are counted.
const REGIONS: usize = 3;

#[test]
fn a_hot_get_allocates_nothing() {
    for leg in legs() {
        let mut plane = Plane::with(leg, true, Limits::default());
        let blob = |size: usize| vec![size as u8 ^ 0x5a; size];
        for size in SIZES {
            fs::write(plane.place.blob(&sha256(&blob(size))), blob(size)).unwrap();
        }
        let manifest = Document {
            digest: sha256(&[b'm'; 1500]),
            media_type: MediaType::parse("application/vnd.oci.image.manifest.v1+json").unwrap(),
            bytes: vec![b'm'; 1500].into(),
            came: Came::Pushed,
            fresh: None,
        };
        plane.answer(move |ask| match ask {
            Ask::Link { digest, answer, .. } => {
                let size = SIZES.into_iter().find(|size| sha256(&blob(*size)) == digest).unwrap();
                drop(answer.send(Ok(Some(Link::Here { size_bytes: size as u64 }))));
            }
            Ask::Manifest { answer, .. } => drop(answer.send(Ok(Some(manifest.clone())))),
            _ => panic!("not asked here"),
        });
        let blobs = SIZES.map(|size| (format!("blobs/{}", sha256(&blob(size))), ""));
        let part = (format!("blobs/{}", sha256(&blob(1 << 20))), "Range: bytes=100000-165535\r\n");
        let tag = ("manifests/latest".to_owned(), "");
        for (what, range) in blobs.into_iter().chain([part, tag]) {
            for method in ["GET", "HEAD"] {
                let request = format!(
                    "{method} /v2/library/thing/{what} HTTP/1.1\r\nHost: r\r\nUser-Agent: t\r\n{range}\r\n"
                );
                let mut client = plane.client();
                let mut answer = vec![0; 2 << 20];
                // The first asks and opens; its length is that of all others.
                client.stream.write_all(request.as_bytes()).unwrap();
                let length = match method {
                    "HEAD" => head_len(&mut client.stream),
                    _ => client.read().map(|answer| answer.head.len() + answer.body.len()).unwrap(),
                };
                for _ in 0..20 {
                    exchange(&mut client.stream, request.as_bytes(), &mut answer, length);
                }
                // Other threads may allocate once; what a GET allocates is in every region.
                let counted: Vec<_> = (0..REGIONS)
                    .map(|_| {
                        let region = Region::new(HEAP);
                        for _ in 0..200 {
                            exchange(&mut client.stream, request.as_bytes(), &mut answer, length);
                        }
                        region.change()
                    })
                    .collect();
                assert!(
                    counted.iter().any(|counted| counted.allocations + counted.reallocations == 0),
                    "{method} {what} {range:?} on {leg:?}: {counted:?}"
                );
            }
        }
        plane.end();
    }
}
