//! Many clients want one blob that is not here: it is fetched once, whoever is slow, leaves, asks for a part or comes
//! back after a kill. The times are told, not judged: on a busy machine they are the machine's, so the benchmark has
//! them, and that nobody waits for anybody else is shown step by step, without a clock, with the data plane alone.

use std::{
    io::{Read, Write},
    net::TcpStream,
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use ::faults::{Digest, Registry};
use rustix::net::sockopt;

use crate::harness::{Client, Leg, Server, legs, noise, say, wait_for};

use super::rig::{Way, assert_store_is_right, mirror, root};

const CLIENTS: usize = 64;
const REPOSITORY: &str = "library/large";

/// Large enough for what a killed process leaves in the sockets' buffers to be little.
const BLOB_BYTES: usize = 256 << 20;
const UPSTREAM_BYTES_PER_S: u64 = 100_000_000;

/// What the whole process may have in memory during a herd.
const RESIDENT_BYTES_MAX: u64 = 96 << 20;

struct Herd {
    registry: Registry,
    digest: Digest,
    bytes: Vec<u8>,
    /// Answers that say that they are of a part, and the rest is not here.
    partial: AtomicU64,
}

impl Herd {
    fn new(seed: u64) -> Herd {
        let registry = Registry::start();
        let bytes = noise(seed, BLOB_BYTES);
        let digest = registry.push_blob(REPOSITORY, bytes.clone());
        registry.limit(UPSTREAM_BYTES_PER_S);
        Herd { registry, digest, bytes, partial: AtomicU64::new(0) }
    }

    fn start(&self, leg: Leg) -> Server {
        mirror(leg, &root(&self.registry, "")).start()
    }

    fn target(&self) -> String {
        Way::Prefix.target(REPOSITORY, &format!("blobs/{}", self.digest))
    }

    /// GETs of the blob at the upstream, and the body bytes that it sent for them.
    fn fetched(&self) -> (usize, u64) {
        let part = self.digest.to_string();
        (self.registry.count("GET", &part), self.registry.sent_bytes(&part))
    }

    /// A GET whose body is compared as it comes: 64 of them held whole would be much. `range`: first and last byte.
    /// `None`: the connection ended early.
    fn get(&self, client: &mut Client, range: Option<(usize, usize)>) -> Option<()> {
        let (first, last) = range.unwrap_or((0, BLOB_BYTES - 1));
        let mut request = client.request("GET", self.target());
        if range.is_some() {
            request = request.header("Range", format!("bytes={first}-{last}"));
        }
        let bytes = request.to_bytes();
        client.connect().ok()?;
        let stream = client.stream();
        stream.set_read_timeout(Some(Duration::from_secs(120))).expect("a timeout above zero");
        stream.write_all(&bytes).ok()?;
        let (status, head, mut body) = head_of(stream)?;
        let is_partial = head.to_ascii_lowercase().contains("\r\ngantry-cache: partial\r\n");
        self.partial.fetch_add(u64::from(is_partial), Ordering::AcqRel);
        assert_eq!(status, if range.is_some() { 206 } else { 200 });
        let (mut at, mut piece) = (first, vec![0; 256 * 1024]);
        loop {
            assert!(self.bytes[at..].starts_with(&body), "{} other bytes at {at}", self.digest);
            at += body.len();
            if at > last {
                assert_eq!(at, last + 1);
                client.hang_up();
                return Some(());
            }
            let got = stream.read(&mut piece).ok().filter(|got| *got > 0)?;
            body = piece[..got].to_vec();
        }
    }

    /// The herd itself. Gives the time of the last one, and the most memory that the server had.
    fn run(&self, server: &Server, each: impl Fn(usize, &mut Client) + Sync) -> (Duration, u64) {
        let (ended, most) = (AtomicBool::new(false), AtomicU64::new(0));
        let start = Barrier::new(CLIENTS + 1);
        let mut took = Duration::ZERO;
        thread::scope(|scope| {
            scope.spawn(|| {
                while !ended.load(Ordering::Acquire) {
                    most.fetch_max(server.resident_bytes(), Ordering::AcqRel);
                    thread::sleep(Duration::from_millis(10));
                }
            });
            let clients: Vec<_> = (0..CLIENTS)
                .map(|number| {
                    let (start, each) = (&start, &each);
                    scope.spawn(move || {
                        let mut client = server.client();
                        start.wait();
                        each(number, &mut client);
                    })
                })
                .collect();
            start.wait();
            let begun = Instant::now();
            let panicked =
                clients.into_iter().map(thread::ScopedJoinHandle::join).filter(Result::is_err).count();
            took = begun.elapsed();
            ended.store(true, Ordering::Release);
            assert_eq!(panicked, 0, "clients that did not get what they asked for");
        });
        (took, most.load(Ordering::Acquire))
    }

    /// Says how it went, and holds the server to its memory.
    fn tell(&self, what: &str, leg: Leg, (took, resident_bytes): (Duration, u64)) {
        let (gets, bytes) = self.fetched();
        let limit_s = BLOB_BYTES as f64 / UPSTREAM_BYTES_PER_S as f64;
        say(&format!(
            "herd: {what} on {}: {gets} GET, {:.2} × bytes, last client {:.2} s (the upstream's limit allows {limit_s:.2}), \
             RSS {} MiB",
            leg.name(),
            bytes as f64 / BLOB_BYTES as f64,
            took.as_secs_f64(),
            resident_bytes >> 20,
        ));
        assert!(resident_bytes <= RESIDENT_BYTES_MAX, "{resident_bytes} bytes in memory");
    }

    fn assert_fetched_once(&self) {
        assert_eq!(self.fetched(), (1, BLOB_BYTES as u64));
    }
}

/// Status, the head, and what of the body came with it.
fn head_of(stream: &mut TcpStream) -> Option<(u16, String, Vec<u8>)> {
    let (mut all, mut piece) = (Vec::new(), [0; 4096]);
    loop {
        let got = stream.read(&mut piece).ok().filter(|got| *got > 0)?;
        all.extend_from_slice(&piece[..got]);
        if let Some(end) = all.windows(4).position(|four| four == b"\r\n\r\n") {
            let status = std::str::from_utf8(&all[9..12]).ok()?.parse().ok()?;
            let body = all.split_off(end + 4);
            return Some((status, String::from_utf8(all).ok()?, body));
        }
    }
}

legs! {
    alone:

    /// One GET for all.
    fn sixty_four_clients_cost_one_get(leg) {
        let herd = Herd::new(1);
        let server = herd.start(leg);
        let went = herd.run(&server, |_, client| herd.get(client, None).expect("the whole blob"));
        herd.tell("64 clients", leg, went);
        herd.assert_fetched_once();
        assert_store_is_right(&server);
    }

    /// Eight who read 10 KB/s hold nobody up, and are not cut for it: the others are done when those have next to nothing.
    fn slow_readers_hold_nobody_up(leg) {
        const SLOW: usize = 8;
        let herd = Herd::new(2);
        let server = herd.start(leg);
        let done = AtomicU64::new(0);
        let went = herd.run(&server, |number, client| {
            if number >= SLOW {
                herd.get(client, None).expect("the whole blob");
                done.fetch_add(1, Ordering::AcqRel);
                return;
            }
            let request = client.request("GET", herd.target()).to_bytes();
            client.connect().expect("the server takes connections");
            sockopt::set_socket_recv_buffer_size(client.stream(), 8 << 10).expect("less than there is");
            client.send_bytes(&request);
            let mut read = 0;
            while done.load(Ordering::Acquire) < (CLIENTS - SLOW) as u64 {
                read += client.read_some(1000);
                thread::sleep(Duration::from_millis(100));
            }
            assert!(read > 0 && read < BLOB_BYTES / 10, "{read} bytes");
            assert!(client.read_some(1) > 0, "it was cut");
        });
        herd.tell("8 of them at 10 KB/s", leg, went);
        herd.assert_fetched_once();
        // What was sent is counted when an answer has ended.
        let ended = || server.metrics().counted("gantry_http_requests_total", &[("endpoint", "get_blob")]);
        wait_for("all answers have ended", || ended() == Some(CLIENTS as f64));
        let served = server.metric("gantry_fill_served_bytes_total");
        let fast = ((CLIENTS - SLOW) * BLOB_BYTES) as f64;
        let to_the_slow = served - fast;
        assert!(to_the_slow < (SLOW * BLOB_BYTES) as f64 / 10.0, "{to_the_slow} bytes");
    }

    /// The fill is not the first one's.
    fn the_first_one_leaves_at_one_percent(leg) {
        let herd = Herd::new(3);
        let server = herd.start(leg);
        let mut first = server.client();
        let request = first.request("GET", herd.target()).to_bytes();
        first.send_bytes(&request);
        assert!(first.read_some(BLOB_BYTES / 100) >= BLOB_BYTES / 100);
        // A fill that nobody wants any more stops: there is always somebody.
        let mut second = server.client();
        second.send_bytes(&request);
        assert!(second.read_some(1) > 0);
        let first = std::sync::Mutex::new(first);
        let went = herd.run(&server, |number, client| {
            if number == CLIENTS / 2 {
                first.lock().expect("nobody panicked").hang_up();
            }
            herd.get(client, None).expect("the whole blob");
        });
        herd.tell("the first cut at 1 %", leg, went);
        herd.assert_fetched_once();
    }

    /// Parts from anywhere: each byte is fetched once, in however many requests.
    fn random_ranges_fetch_each_byte_once(leg) {
        let herd = Herd::new(4);
        let server = herd.start(leg);
        let went = herd.run(&server, |number, client| {
            let mut state = number as u64 + 1;
            for _ in 0..4 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let first = (state >> 20) as usize % BLOB_BYTES;
                let last = (first + (state >> 50) as usize * 64).min(BLOB_BYTES - 1);
                herd.get(client, Some((first, last))).expect("the part");
            }
            herd.get(client, None).expect("the whole blob");
        });
        herd.tell("random ranges", leg, went);
        assert!(herd.partial.load(Ordering::Acquire) > 0, "all of them waited for the bytes before");
        let (_, bytes) = herd.fetched();
        // A request for a part is answered with what was asked for, and what is cut may have been sent.
        assert!(bytes as f64 <= BLOB_BYTES as f64 * 1.05, "{bytes} bytes of {BLOB_BYTES}");
    }

    /// kill -9 in the middle: what was there is used.
    fn a_kill_in_the_middle_costs_little(leg) {
        let herd = Herd::new(5);
        let mut server = herd.start(leg);
        let launch = server.launch.clone();
        thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|_| {
                    let (herd, mut client) = (&herd, server.client());
                    scope.spawn(move || herd.get(&mut client, None))
                })
                .collect();
            wait_for("half of it", || herd.fetched().1 >= BLOB_BYTES as u64 / 2);
            server.kill();
            let whole = clients.into_iter().filter_map(|client| client.join().expect("no wrong byte")).count();
            assert_eq!(whole, 0, "nobody had all of it");
        });
        let before = herd.fetched().1;
        let server = server.kill_meddle_restart(launch, |_data| {});
        let went = herd.run(&server, |_, client| herd.get(client, None).expect("the whole blob"));
        herd.tell(&format!("killed at {} %", before * 100 / BLOB_BYTES as u64), leg, went);
        let (_, bytes) = herd.fetched();
        assert!(bytes as f64 <= BLOB_BYTES as f64 * 1.05, "{bytes} bytes of {BLOB_BYTES}");
        assert_store_is_right(&server);
    }
}
