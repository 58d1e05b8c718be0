//! Blobs that memory does not have: the right bytes, no page more than the client's socket takes, and nobody
//! else held up.
//!
//! A test forgets the pages of a blob's file and sees by the server's counter that the disk was asked, and by
//! the kernel's account of the process how many bytes came from it. A tmpfs can't forget.

use std::{
    fs,
    io::Read,
    os::{fd::OwnedFd, unix::fs::MetadataExt},
    path::Path,
    process::Command,
    time::Duration,
};

use dataplane::limits::{BUF_BYTES, BUFS_PER_CORE};
use oci::Digest;
use rustix::fs::{Advice, Mode, OFlags, fadvise};

use crate::harness::{
    Client, Launch, Leg, Response, Server, lacks, legs, noise, parts, read_response, sha256, wait_for,
};

const REPOSITORY: &str = "cold/blobs";

/// What the two ends of a socket on the loopback hold at most for a client that takes nothing.
const SOCKET_BYTES_MAX: u64 = 8 << 20;

/// A server of one core that has these blobs, freshly started: nobody has their files open.
fn stored(leg: Leg, blobs: &[&[u8]]) -> Option<(Server, Vec<Digest>)> {
    let server = Launch::on(leg).cores(1).start();
    let kind = rustix::fs::statfs(server.data_dir()).expect("it is there").f_type;
    const TMPFS: i64 = 0x0102_1994;
    if kind as i64 == TMPFS {
        lacks("disk", "the tests' directory is on a tmpfs, which can't forget a page");
        return None;
    }
    if let Err(error) = Command::new("fincore").arg("--version").output() {
        lacks("disk", &format!("nobody tells what memory holds: fincore of util-linux: {error}"));
        return None;
    }
    let mut client = server.client();
    let digests = blobs.iter().map(|bytes| client.push_blob(REPOSITORY, bytes)).collect();
    Some((server.restart(), digests))
}

/// Opens it to be read past the page cache.
fn open_direct(path: &Path) -> rustix::io::Result<OwnedFd> {
    rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty())
}

/// Lets memory forget the file. Pages that a socket or a pipe still hold stay.
fn forget(path: &Path) {
    let file = fs::File::open(path).expect("the blob's file");
    file.sync_all().expect("what is dirty can't be forgotten");
    fadvise(&file, 0, None, Advice::DontNeed).expect("Linux knows this");
}

/// The same for a file that nobody sends from, all of it: a page that is on its way in or out stays for a moment.
fn forget_all(path: &Path) {
    wait_for("memory has forgotten the file", || {
        forget(path);
        resident_bytes(path) == 0
    });
}

/// What memory has of the file. A read that does not wait would tell as well, and start to fetch what it misses.
fn resident_bytes(path: &Path) -> u64 {
    let mut fincore = Command::new("fincore");
    let said = fincore.args(["--bytes", "--noheadings", "--output", "RES"]).arg(path).output();
    let text = String::from_utf8(said.expect("util-linux is there").stdout).expect("it prints text");
    text.trim().parse().expect("a number")
}

fn target(digest: Digest) -> String {
    format!("/v2/{REPOSITORY}/blobs/{digest}")
}

fn cold_reads(server: &Server) -> f64 {
    server.metric("gantry_core_cold_reads_total")
}

/// Bytes that the disk gave to this process.
fn disk_bytes(server: &Server) -> u64 {
    let io = fs::read_to_string(format!("/proc/{}/io", server.pid())).expect("our child");
    let line = io.lines().find_map(|line| line.strip_prefix("read_bytes: "));
    line.and_then(|count| count.parse().ok()).expect("the kernel accounts for it")
}

/// What may come from the disk for a client that takes nothing: its socket's fill, the window that the kernel
/// reads ahead of that by itself, and the next such window, which it begins when it meets the first.
fn bytes_for_nobody(server: &Server) -> u64 {
    let device = fs::metadata(server.data_dir()).expect("it is there").dev();
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let told = fs::read_to_string(format!("/sys/class/bdi/{major}:{minor}/read_ahead_kb"));
    let ahead_kib: u64 = told.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(8 << 10);
    SOCKET_BYTES_MAX + 2 * (ahead_kib << 10)
}

/// Asks and reads nothing.
fn ask(client: &mut Client, digest: Digest) {
    let request = client.request("GET", target(digest)).to_bytes();
    client.send_bytes(&request);
}

/// Reads the answer in steps of at most 64 KiB; `between` is called before each.
fn read_slowly(client: &mut Client, mut between: impl FnMut()) -> Response {
    let stream = client.stream();
    let mut chunk = vec![0; 64 * 1024];
    let read = read_response(&mut Vec::new(), false, |pending| {
        between();
        let got = stream.read(&mut chunk)?;
        pending.extend_from_slice(&chunk[..got]);
        Ok(got)
    });
    read.expect("a whole reply").expect("a reply")
}

legs! {
    fn whole_and_in_parts(leg) {
        let blobs = [noise(1600, 10 << 10), noise(1601, 100 << 10), noise(1602, 3 << 20)];
        let Some((server, digests)) = stored(leg, &blobs.each_ref().map(Vec::as_slice)) else { return };
        let mut client = server.client();
        for (bytes, digest) in blobs.iter().zip(digests) {
            let len = bytes.len();
            // Again where a busy machine shows nothing: pages that are there before they are looked for are no cold read,
            // and the kernel may take away pages of the server's own. A core also believes for a while what it has found.
            let from_the_disk = |ranges: &str, client: &mut Client| {
                let mut answer = None;
                wait_for(&format!("{ranges:?} of {len} bytes is read from the disk, and once"), || {
                    forget_all(&server.blob_file(digest));
                    let (before, disk) = (cold_reads(&server), disk_bytes(&server));
                    let get = client.request("GET", target(digest));
                    answer = Some(if ranges.is_empty() { get } else { get.header("Range", ranges) }.send());
                    let read = disk_bytes(&server) - disk;
                    cold_reads(&server) > before && read > 0 && read <= (len + 8192) as u64
                });
                answer.expect("it was asked")
            };
            assert!(from_the_disk("", &mut client).expect(200).body == *bytes);
            for (first, last) in [(0, 0), (len - 1, len - 1), (5000, len - 2), (len / 2, len / 2 + 4500)] {
                let answer = from_the_disk(&format!("bytes={first}-{last}"), &mut client).expect(206);
                assert!(answer.body == bytes[first..=last], "{first}-{last} of {len}");
            }
            let several = format!("bytes=0-99,{}-{},{}-", len / 3, len / 3 + 500, len - 3000);
            let answer = from_the_disk(&several, &mut client).expect(206);
            let wanted = [0..100, len / 3..len / 3 + 501, len - 3000..len];
            let got = parts(&answer);
            assert_eq!(got.len(), wanted.len());
            for (part, span) in got.iter().zip(wanted) {
                assert!(part.first == span.start && part.bytes == bytes[span.clone()], "{span:?} of {len}");
            }
            // What was read is in memory, unless the kernel takes it away meanwhile.
            wait_for("what was read is sent without the disk", || {
                let before = cold_reads(&server);
                client.assert_blob(REPOSITORY, digest, bytes);
                cold_reads(&server) == before
            });
        }
    }

    /// One client leaves no page of it; for the second it is read into memory, and the third gets it from there.
    fn what_one_client_wants_takes_no_memory(leg) {
        let bytes = noise(1611, 8 << 20);
        let Some((server, digests)) = stored(leg, &[&bytes]) else { return };
        let file = server.blob_file(digests[0]);
        if let Err(error) = open_direct(&file) {
            lacks("disk", &format!("the tests' directory can't be read past the page cache: {error}"));
            return;
        }
        let mut client = server.client();
        // A socket that was full for once, or a page that the kernel took meanwhile: again.
        let mut turn = || {
            forget_all(&file);
            let mut gets = (0..2).map(|_| {
                client.assert_blob(REPOSITORY, digests[0], &bytes);
                resident_bytes(&file)
            });
            let (once, twice) = (gets.next().expect("the first"), gets.next().expect("the second"));
            let before = cold_reads(&server);
            client.assert_blob(REPOSITORY, digests[0], &bytes);
            (once, twice, cold_reads(&server) - before)
        };
        wait_for("the first client's bytes are not in memory, the second's are", || {
            let (once, twice, cold_reads) = turn();
            once < bytes.len() as u64 / 8 && twice == bytes.len() as u64 && cold_reads == 0.0
        });
    }

    /// Its socket is full most of the time, and nothing is read twice for that.
    fn what_one_slow_client_wants_is_read_once(leg) {
        let bytes = noise(1612, 8 << 20);
        let Some((server, digests)) = stored(leg, &[&bytes]) else { return };
        let file = server.blob_file(digests[0]);
        let mut client = server.client();
        wait_for("it is read once, and past the page cache", || {
            forget_all(&file);
            let disk = disk_bytes(&server);
            ask(&mut client, digests[0]);
            let answer = read_slowly(&mut client, || std::thread::sleep(Duration::from_millis(3)));
            assert!(answer.expect(200).body == bytes);
            let (read, resident) = (disk_bytes(&server) - disk, resident_bytes(&file));
            resident < bytes.len() as u64 / 8 && read <= (bytes.len() + 2 * BUF_BYTES) as u64
        });
    }

    /// A HEAD and a 304 tell of a blob without a look at its bytes.
    fn what_has_no_body_reads_nothing(leg) {
        let bytes = noise(1603, 100 << 10);
        let Some((server, digests)) = stored(leg, &[&bytes]) else { return };
        forget_all(&server.blob_file(digests[0]));
        let (before, disk) = (cold_reads(&server), disk_bytes(&server));
        let mut client = server.client();
        client.head(target(digests[0])).expect(200);
        let conditional = client.request("GET", target(digests[0]));
        conditional.header("If-None-Match", format!("\"{}\"", digests[0])).send().expect(304);
        assert_eq!(cold_reads(&server), before);
        assert!(disk_bytes(&server) - disk < 100 << 10);
    }

    fn a_slow_reader(leg) {
        let bytes = noise(1604, 24 << 20);
        let Some((server, digests)) = stored(leg, &[&bytes]) else { return };
        forget(&server.blob_file(digests[0]));
        let before = cold_reads(&server);
        let mut client = server.client();
        ask(&mut client, digests[0]);
        let mut reads = 0;
        let answer = read_slowly(&mut client, || {
            reads += 1;
            // Now and then long enough for the socket to fill up, and for the rest to be forgotten.
            if reads % 64 == 1 {
                std::thread::sleep(Duration::from_millis(30));
                forget(&server.blob_file(digests[0]));
            }
        });
        assert!(answer.expect(200).body == bytes);
        assert!(cold_reads(&server) > before);
    }

    fn no_read_ahead_beyond_what_the_socket_takes(leg) {
        let bytes = noise(1605, 64 << 20);
        let Some((server, digests)) = stored(leg, &[&bytes]) else { return };
        forget_all(&server.blob_file(digests[0]));
        let (before, disk) = (cold_reads(&server), disk_bytes(&server));
        let mut client = server.client();
        ask(&mut client, digests[0]);
        wait_for("it is begun", || cold_reads(&server) > before);
        std::thread::sleep(Duration::from_millis(500));
        let read = disk_bytes(&server) - disk;
        let reads = cold_reads(&server) - before;
        let most = bytes_for_nobody(&server);
        assert!(most < bytes.len() as u64 / 2, "{most} bytes of read-ahead prove nothing");
        assert!(read > 0 && read <= most, "{read} bytes were read for a client that takes none");
        assert!(reads <= (SOCKET_BYTES_MAX / BUF_BYTES as u64) as f64, "{reads} cold reads");
        // And it is not given up: the client takes all of it in the end.
        assert!(client.read("GET").expect(200).body == bytes);
    }

    /// containerd asks for `bytes=N-`, reads a little and leaves. That is no error, and ends the reading.
    fn a_reader_that_hangs_up(leg) {
        let bytes = noise(1606, 64 << 20);
        let Some((server, digests)) = stored(leg, &[&bytes]) else { return };
        for from in [0, 1 << 20, 9_999_999] {
            forget(&server.blob_file(digests[0]));
            let disk = disk_bytes(&server);
            let mut client = server.client();
            let request = client.request("GET", target(digests[0])).header("Range", format!("bytes={from}-"));
            let request = request.to_bytes();
            client.send_bytes(&request);
            assert!(client.read_some(64 << 10) >= 64 << 10);
            client.hang_up();
            // The one that asks is there.
            wait_for("it is gone", || {
                server.health()["cores"][0]["connections"] == 1
            });
            let read = disk_bytes(&server) - disk;
            assert!(read > 0 && read <= bytes_for_nobody(&server), "{read} bytes were read for 64 KiB");
        }
    }

    /// On one core: while a client pulls cold bytes piece by piece, each question of another is answered.
    fn others_go_on(leg) {
        let (hot, cold) = (noise(1607, 8 << 10), noise(1608, 24 << 20));
        let Some((server, digests)) = stored(leg, &[&hot, &cold]) else { return };
        forget(&server.blob_file(digests[1]));
        let before = cold_reads(&server);
        let (mut reader, mut other) = (server.client(), server.client().timeout(Duration::from_secs(5)));
        ask(&mut reader, digests[1]);
        let answer = read_slowly(&mut reader, || other.assert_blob(REPOSITORY, digests[0], &hot));
        assert!(answer.expect(200).body == cold);
        assert!(cold_reads(&server) > before);
    }

    /// More readers of cold bytes than the core has buffers, none of which takes anything: a push gets one.
    fn slow_readers_leave_buffers_to_others(leg) {
        // Far apart, so that the kernel reads nothing ahead and each is read into a buffer.
        let bytes = noise(1609, 12 << 20);
        let spans: Vec<_> = (0..bytes.len()).step_by(2 * BUF_BYTES).map(|at| at..at + BUF_BYTES).collect();
        let ranges: Vec<_> = spans.iter().map(|span| format!("{}-{}", span.start, span.end - 1)).collect();
        let ranges = format!("bytes={}", ranges.join(","));
        let Some((server, digests)) = stored(leg, &[&bytes]) else { return };
        // Stuck, or on a machine that does other things not on its turn: then it reads on while the next one is asked for,
        // which may find the blob in memory and says nothing.
        let is_stuck_in_a_read = |reader: &mut Client| {
            forget(&server.blob_file(digests[0]));
            let before = cold_reads(&server);
            let request = reader.request("GET", target(digests[0])).header("Range", &ranges).to_bytes();
            reader.send_bytes(&request);
            let (mut seen, mut looks) = (before, 0);
            // A second to begin; then it is stuck, or goes on.
            let mut patience = 0..100;
            while looks < 3 {
                std::thread::sleep(Duration::from_millis(10));
                let last = std::mem::replace(&mut seen, cold_reads(&server));
                let begins = seen == before && patience.next().is_some();
                looks = if last == seen && !begins { looks + 1 } else { 0 };
            }
            seen > before
        };
        let mut readers: Vec<Client> = Vec::new();
        let mut tries = 0..4 * BUFS_PER_CORE;
        while readers.len() < BUFS_PER_CORE + 4 {
            tries.next().expect("most of them read from the disk");
            let mut reader = server.client();
            if is_stuck_in_a_read(&mut reader) {
                readers.push(reader);
            }
        }
        let pushed = noise(1610, 1 << 20);
        let mut client = server.client().timeout(Duration::from_secs(10));
        let location = client.open_upload(REPOSITORY);
        client.patch_at(&location, 0, &pushed).expect(202);
        client.close_upload(&location, sha256(&pushed)).expect(201);
        // The first had to give up what was read for them, the last did not.
        let last = readers.len() - 3;
        for reader in [0, 1, 2, last, last + 1, last + 2] {
            let reader = &mut readers[reader];
            let got = parts(&reader.read("GET"));
            assert_eq!(got.len(), spans.len());
            for (part, span) in got.iter().zip(&spans) {
                assert!(part.first == span.start && part.bytes == bytes[span.clone()], "{span:?}");
            }
        }
    }
}
