//! kill -9 in a loop under 8 pushers: every 201 is readable and right afterwards, every 202 can be continued,
//! nothing is left over, and the next process is ready at once. `GANTRY_KILLS` is the number over both legs.

use std::{
    collections::HashMap,
    fs,
    sync::Mutex,
    time::{Duration, Instant},
};

use oci::{Algorithm, Digest};

use crate::harness::{Client, Image, Launch, Leg, Server, legs, media, noise, say, sha256, wait_for};

const PUSHERS: u64 = 8;

/// So soon the next process is ready, half of the times at least.
const READY: Duration = Duration::from_millis(100);
/// And so soon always, although other tests want the processors and the disk at that moment.
const READY_AT_LAST: Duration = Duration::from_secs(1);

/// What the pushers know of what they were promised.
#[derive(Default)]
struct Promises {
    /// 201 for a blob: where it is, and its bytes' seed and length.
    blobs: Vec<(String, Digest, u64, usize)>,
    /// 201 for a manifest: where, under which tag, and its bytes.
    manifests: Vec<(String, String, Vec<u8>)>,
    /// Every blob whose push was begun, and where.
    attempted: HashMap<Digest, String>,
    /// The session that each pusher was in when the server died.
    sessions: Vec<Session>,
}

/// An upload in the middle.
struct Session {
    location: String,
    repository: String,
    seed: u64,
    len: usize,
    /// As far as a 202 went.
    promised: usize,
}

/// Pushes until the server is gone.
fn push_until_killed(mut client: Client, pusher: u64, round: u64, promises: &Mutex<Promises>) {
    let repository = format!("kill/pusher{pusher}");
    for step in 0.. {
        let seed = (round << 32) | (pusher << 24) | step;
        let done = match step % 4 {
            0 | 1 => push_whole(&mut client, &repository, seed, promises),
            2 => push_in_chunks(&mut client, &repository, seed, promises),
            _ => push_image(&mut client, &repository, seed, promises),
        };
        if done.is_none() {
            return;
        }
    }
}

/// One POST. `None`: the server is gone.
fn push_whole(client: &mut Client, repository: &str, seed: u64, promises: &Mutex<Promises>) -> Option<()> {
    let len = (seed.wrapping_mul(7919) % 150_000) as usize;
    let bytes = noise(seed, len);
    let digest = Digest::of(Algorithm::ALL[(seed % 3) as usize], &bytes);
    promises.lock().unwrap().attempted.insert(digest, repository.to_owned());
    let post = client.request("POST", format!("/v2/{repository}/blobs/uploads/?digest={digest}"));
    post.body(bytes).try_send().ok()?.expect(201);
    promises.lock().unwrap().blobs.push((repository.to_owned(), digest, seed, len));
    Some(())
}

/// POST, several PATCHes, PUT. `None`: the server is gone, and `sessions` says how far this went.
fn push_in_chunks(
    client: &mut Client,
    repository: &str,
    seed: u64,
    promises: &Mutex<Promises>,
) -> Option<()> {
    let len = 300_000;
    let bytes = noise(seed, len);
    let digest = sha256(&bytes);
    let opened =
        client.request("POST", format!("/v2/{repository}/blobs/uploads/")).try_send().ok()?.expect(202);
    let location = opened.header("location").to_owned();
    let mut session = Session { location, repository: repository.to_owned(), seed, len, promised: 0 };
    for chunk in bytes.chunks(70_000) {
        let range = format!("{}-{}", session.promised, session.promised + chunk.len() - 1);
        let patch = client.request("PATCH", &session.location).header("Content-Range", range);
        match patch.body(chunk).try_send() {
            Ok(answer) => {
                session.promised += {
                    answer.expect(202);
                    chunk.len()
                }
            }
            Err(_) => {
                promises.lock().unwrap().sessions.push(session);
                return None;
            }
        }
    }
    promises.lock().unwrap().attempted.insert(digest, repository.to_owned());
    let put = client.request("PUT", format!("{}?digest={digest}", session.location));
    put.try_send().ok()?.expect(201);
    promises.lock().unwrap().blobs.push((repository.to_owned(), digest, seed, len));
    Some(())
}

/// An image under a tag of its own. `None`: the server is gone.
fn push_image(client: &mut Client, repository: &str, seed: u64, promises: &Mutex<Promises>) -> Option<()> {
    let config = format!("{{\"seed\":{seed}}}").into_bytes();
    let layer = noise(seed, 3000);
    for bytes in [&config, &layer] {
        let digest = sha256(bytes);
        promises.lock().unwrap().attempted.insert(digest, repository.to_owned());
        let post = client.request("POST", format!("/v2/{repository}/blobs/uploads/?digest={digest}"));
        post.body(bytes.clone()).try_send().ok()?.expect(201);
    }
    let image = Image::of(&config, &layer);
    let tag = format!("t{seed}");
    let put = client.request("PUT", format!("/v2/{repository}/manifests/{tag}"));
    put.header("Content-Type", media::IMAGE).body(image.bytes.clone()).try_send().ok()?.expect(201);
    promises.lock().unwrap().manifests.push((repository.to_owned(), tag, image.bytes));
    Some(())
}

/// All that was promised, from the first round on. Returns how many were checked.
fn check_promises(server: &Server, promises: &Promises) -> usize {
    let mut client = server.client();
    for (repository, digest, seed, len) in &promises.blobs {
        client.assert_blob(repository, *digest, &noise(*seed, *len));
    }
    for (repository, tag, bytes) in &promises.manifests {
        let got = client.get(format!("/v2/{repository}/manifests/{tag}")).expect(200);
        assert!(got.body == *bytes, "{repository}:{tag}");
        let manifest: serde_json::Value = serde_json::from_slice(bytes).unwrap();
        let layer = manifest["layers"][0]["digest"].as_str().unwrap();
        client.get(format!("/v2/{repository}/blobs/{layer}")).expect(200);
    }
    promises.blobs.len() + promises.manifests.len()
}

/// Every session that a 202 was given for goes on from there; afterwards nothing is under `uploads/`.
/// Returns how many were resumed.
fn check_sessions(server: &Server, promises: &mut Promises) -> usize {
    let mut client = server.client();
    let mut resumed = 0;
    let mut finished = Vec::new();
    for session in promises.sessions.drain(..) {
        let bytes = noise(session.seed, session.len);
        let offset = client.upload_offset(&session.location);
        assert!(offset >= session.promised, "promised {}, kept {offset}", session.promised);
        let digest = sha256(&bytes);
        promises.attempted.insert(digest, session.repository.clone());
        let put = client.request("PUT", format!("{}?digest={digest}", session.location));
        put.body(&bytes[offset..]).send().expect(201);
        promises.blobs.push((session.repository, digest, session.seed, session.len));
        finished.push(session.location);
        resumed += 1;
    }
    for dir in server.upload_dirs() {
        let id = dir.file_name().unwrap().to_string_lossy().into_owned();
        if finished.iter().any(|location| location.ends_with(&id)) {
            // Its 201 comes before its own names are taken away: that is the order of a commit.
            continue;
        }
        let owner = (0..PUSHERS).find(|pusher| {
            let location = format!("/v2/kill/pusher{pusher}/blobs/uploads/{id}");
            client.get(&location).status == 204 && client.delete(&location).status == 204
        });
        assert!(owner.is_some(), "uploads/{id} is nobody's session: an orphan");
    }
    wait_for("every session was finished or cancelled", || server.upload_dirs().is_empty());
    resumed
}

/// Every name under `blobs/` is right, and belongs to somebody.
fn check_names(server: &Server, promises: &Promises) {
    let mut client = server.client();
    for algorithm in Algorithm::ALL {
        let Ok(entries) = fs::read_dir(server.data_dir().join("blobs").join(algorithm.name())) else {
            continue;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            let digest = Digest::of(algorithm, &bytes);
            assert_eq!(path, server.blob_file(digest), "a wrong name");
            let repository = promises.attempted.get(&digest).expect("nobody pushed this");
            let got = client.get(format!("/v2/{repository}/blobs/{digest}"));
            assert_eq!(got.status, 200, "{digest} has a file and no row: an orphan");
        }
    }
}

fn kills(leg: Leg) -> u64 {
    let both: u64 =
        std::env::var("GANTRY_KILLS").map_or(8, |text| text.parse().expect("GANTRY_KILLS is a number"));
    match leg {
        Leg::Uring => both.div_ceil(2),
        Leg::Epoll => (both / 2).max(1),
    }
}

legs! {
    alone:

    fn every_promise_is_kept(leg) {
        let mut server = Launch::on(leg).start();
        let mut promises = Mutex::new(Promises::default());
        let mut ready = Vec::new();
        let mut resumed = 0;
        for round in 0..kills(leg) {
            let begun = Instant::now();
            std::thread::scope(|scope| {
                for pusher in 0..PUSHERS {
                    let (client, promises) = (server.client(), &promises);
                    scope.spawn(move || push_until_killed(client, pusher, round, promises));
                }
                let lifetime = Duration::from_millis(150 + (round * 137) % 400);
                std::thread::sleep(lifetime.saturating_sub(begun.elapsed()));
                server.kill();
            });
            server = server.kill_and_restart();
            ready.push(server.ready_after);
            let promises = promises.get_mut().unwrap();
            resumed += check_sessions(&server, promises);
            check_promises(&server, promises);
        }
        let promises = promises.into_inner().unwrap();
        let checked = check_promises(&server, &promises);
        check_names(&server, &promises);
        assert!(checked > 0, "the pushers got something acknowledged");
        ready.sort();
        let (median, last) = (ready[ready.len() / 2], ready[ready.len() - 1]);
        say(&format!(
            "kill -9 on {}: {} kills, {checked} acknowledgements, 0 lost, {resumed} sessions resumed, 0 orphans, \
             ready after {median:?} (median; at most {last:?})",
            leg.name(), kills(leg),
        ));
        assert!(median < READY && last < READY_AT_LAST, "ready after {ready:?}");
    }
}
