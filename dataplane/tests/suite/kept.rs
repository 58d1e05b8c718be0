//! What a filled blob's name means: its bytes were synced before it was linked, by a sync of their own, and nobody who
//! pushes or reads pays for that. Storage rules: "Fills", "Committing".

use std::{collections::HashMap, sync::Arc, time::Instant};

use control::{Ask, Fetched, Link};
use dataplane::{
    limits::{Limits, SYNCFS_MEMBERS_MIN, WRITE_BACK_BYTES},
    testing::{Call, Driver},
};
use oci::Digest;

use crate::{
    fills::{MIB, content, honest, origin, play, sample, target},
    plane::Plane,
    rig::{Place, legs, sha256, until},
};

const EIO: i32 = 5;

type Seen = Vec<(Call, String)>;

/// Where the names of a blob and of the file that it was filled into are.
struct Names {
    blob: String,
    data: String,
}

impl Names {
    fn of(digest: &Digest, data: &str) -> Names {
        let blob = format!("blobs/{}/{}", digest.algorithm(), digest.hex(&mut [0; 128]));
        Names { blob, data: data.to_owned() }
    }
}

fn find(seen: &Seen, call: Call, name: &str) -> Vec<usize> {
    let is_that = |(_, (other, on)): &(usize, &(Call, String))| *other == call && on == name;
    seen.iter().enumerate().filter(is_that).map(|(at, _)| at).collect()
}

#[track_caller]
fn once(seen: &Seen, call: Call, name: &str) -> usize {
    let found = find(seen, call, name);
    assert_eq!(found.len(), 1, "{call:?} of {name}: {seen:#?}");
    found[0]
}

/// The files of fills that were made.
fn made(seen: &Seen) -> Vec<&str> {
    let data = |(call, name): &(Call, String)| {
        *call == Call::Create && name.starts_with("fills/") && name.ends_with("/data")
    };
    seen.iter().filter(|made| data(made)).map(|(_, name)| name.as_str()).collect()
}

/// Write, sync, link, sync of the directory, and only then the fill's own name goes.
#[track_caller]
fn assert_order(seen: &Seen, Names { blob, data }: &Names) {
    let (synced, linked) = (once(seen, Call::SyncData, data), once(seen, Call::Link, blob));
    let written = *find(seen, Call::Write, data).last().expect("it was written");
    assert!(written < synced && synced < linked, "{written} {synced} {linked} of {data}: {seen:#?}");
    let directory = blob.rsplit_once('/').expect("it lies in one").0;
    let lasts = find(seen, Call::SyncDirectory, directory).into_iter().find(|at| *at > linked);
    let gone = once(seen, Call::Unlink, data);
    assert!(lasts.is_some_and(|lasts| lasts < gone), "{lasts:?} {gone} of {data}: {seen:#?}");
}

/// All calls until so many blobs have names, and their fills have none; `seen` are those before.
fn until_kept(plane: &Plane, mut seen: Seen, count: usize) -> Seen {
    until("they have their names, and the fills none", || {
        seen.extend(plane.faults.take());
        let gone = |(call, name): &&(Call, String)| {
            *call == Call::Unlink && name.starts_with("fills/") && name.ends_with("/data")
        };
        seen.iter().filter(gone).count() == count
    });
    seen
}

#[test]
fn a_blob_is_synced_by_itself_before_its_name_which_comes_without_a_push() {
    for leg in legs() {
        let mut plane = Plane::over(Arc::new(Place::new()), leg, false, Limits::default());
        let blob = content(20 * MIB);
        let digest = sha256(&blob);
        let whole = blob.clone();
        play(&mut plane, Some(blob.len()), move |_, from, to| honest(&whole, from, to));
        plane.faults.take();
        let asked = Instant::now();
        assert!(plane.client().get(&target(&digest)).body == blob);
        let seen = until_kept(&plane, Seen::new(), 1);
        assert!(
            asked.elapsed() >= Limits::default().filled_wait,
            "it has waited for others to share a sync with"
        );
        let data = made(&seen)[0].to_owned();
        assert_order(&seen, &Names::of(&digest, &data));
        // It may be one less: where it is started depends on where the pieces end.
        let begun = find(&seen, Call::WriteBack, &data).len();
        let most = blob.len() / WRITE_BACK_BYTES as usize;
        assert!(begun >= 2 && begun <= most, "{begun} times for 20 MiB");
        assert!(find(&seen, Call::SyncVolume, ".").is_empty());
        plane.end();
    }
}

/// A repository to push to beside an upstream with these blobs.
fn with_pushes(leg: Driver, blobs: &[Vec<u8>]) -> Plane {
    let mut plane = Plane::over(Arc::new(Place::new()), leg, false, Limits::default());
    let blobs: HashMap<Digest, Vec<u8>> = blobs.iter().map(|blob| (sha256(blob), blob.clone())).collect();
    let faults = plane.faults.clone();
    plane.answer(move |ask| match ask {
        Ask::Link { digest, answer, .. } => {
            let size_bytes = Some(blobs[&digest].len() as u64);
            drop(answer.send(Ok(Some(Link::Upstream { origin: origin(), size_bytes }))));
        }
        Ask::Fetch { digest, from, answer, .. } => {
            let (blob, (sender, bytes)) = (&blobs[&digest], tokio::sync::mpsc::channel(1));
            let rest = bytes::Bytes::copy_from_slice(&blob[from as usize..]);
            sender.try_send(Ok(rest)).expect("there is room for one");
            let size_bytes = Some(blob.len() as u64);
            drop(answer.send(Ok(Some(Fetched { start: from, is_whole: false, size_bytes, bytes }))));
        }
        Ask::OpenUpload { answer, .. } => drop(answer.send(Ok(()))),
        Ask::Home { digests, answer } => drop(answer.send(Ok(vec![None; digests.len()]))),
        Ask::Commit { batch, answer } => {
            faults.note(Call::Commit, || "batch".to_owned());
            drop(answer.send(Ok(vec![Ok(()); batch.len()])));
        }
        _ => panic!("not asked here"),
    });
    plane
}

fn push(plane: &Plane, content: &[u8]) -> u16 {
    let digest = sha256(content);
    plane.client().ask("POST", &format!("/v2/mine/blobs/uploads/?digest={digest}"), content).status
}

/// More of them than pushes that are synced as a whole volume.
#[test]
fn many_at_once_are_each_synced_by_themselves_also_when_pushes_name_them() {
    const BLOBS: usize = SYNCFS_MEMBERS_MIN + 2;
    for leg in legs() {
        let blobs: Vec<Vec<u8>> = (0..BLOBS).map(|number| content(MIB + number)).collect();
        let plane = with_pushes(leg, &blobs);
        plane.faults.take();
        let mut client = plane.client();
        for blob in &blobs {
            assert!(client.get(&target(&sha256(blob))).body == *blob);
        }
        assert_eq!(push(&plane, b"among them"), 201);
        let seen = until_kept(&plane, Seen::new(), BLOBS);
        // They came one after the other.
        for (blob, data) in blobs.iter().zip(made(&seen)) {
            assert_order(&seen, &Names::of(&sha256(blob), data));
        }
        assert_eq!(made(&seen).len(), BLOBS);
        assert!(find(&seen, Call::SyncVolume, ".").is_empty(), "it would flush what others write");
        plane.end();
    }
}

/// On a machine that does other things it may not wait yet when the push comes, or no more: then another one is tried.
#[test]
fn what_waits_for_its_name_gets_it_with_a_push() {
    const TRIES: usize = 16;
    for leg in legs() {
        let blobs: Vec<Vec<u8>> = (0..TRIES).map(|number| content(1000 + number)).collect();
        let plane = with_pushes(leg, &blobs);
        let mut client = plane.client();
        let is_named_with_a_push = |blob: &Vec<u8>| {
            let mut seen = Seen::new();
            assert!(client.get(&target(&sha256(blob))).body == *blob);
            until("it is synced", || {
                seen.extend(plane.faults.take());
                seen.iter().any(|(call, name)| *call == Call::SyncData && name.starts_with("fills/"))
            });
            let pushed = [blob, &b"pushed"[..]].concat();
            assert_eq!(push(&plane, &pushed), 201);
            let seen = until_kept(&plane, seen, 1);
            let linked = once(&seen, Call::Link, &Names::of(&sha256(blob), "").blob);
            linked < once(&seen, Call::Reply, &sha256(&pushed).to_string())
        };
        assert!(blobs.iter().any(is_named_with_a_push), "each waited for longer than a push");
        plane.end();
    }
}

#[test]
fn a_sync_that_fails_leaves_no_name_and_readers_have_the_right_bytes() {
    for leg in legs() {
        let blob = content(3 * MIB);
        let digest = sha256(&blob);
        let plane = with_pushes(leg, std::slice::from_ref(&blob));
        plane.faults.take();
        plane.faults.fail(Call::SyncData, 0, EIO);
        let mut client = plane.client();
        assert!(client.get(&target(&digest)).body == blob);
        let seen = until_kept(&plane, Seen::new(), 1);
        let names = Names::of(&digest, made(&seen)[0]);
        once(&seen, Call::SyncData, &names.data);
        plane.faults.heal();
        // It is not tried again, since the second one would say yes: nobody may write until a new process has looked.
        assert_eq!(push(&plane, b"another"), 503);
        let again = client.get(&target(&digest));
        assert!(again.status == 200 && again.body == blob, "{}", again.head);
        assert_eq!(
            sample(&plane, "fetched_bytes_total"),
            2 * blob.len() as u64,
            "what was there is not used again"
        );
        let (place, faults) = (plane.place.clone(), plane.faults.clone());
        // What waits for its name gets it now.
        plane.end();
        let seen = [seen, faults.take()].concat();
        assert!(find(&seen, Call::Link, &names.blob).is_empty(), "{seen:#?}");
        assert!(!place.blob(&digest).exists());
    }
}
