//! A blob whose bytes the disk does not give, at its full length: never a whole 2xx, never "it is here", and the
//! next push of it puts a new file in its place. Storage rules: "The name exists already".

use std::{fs, os::unix::fs::MetadataExt as _, path::PathBuf};

use control::{Ask, Link};
use dataplane::testing::Call;
use oci::Digest;

use crate::{
    plane::{Client, Plane},
    rig::{legs, sha256},
};

const EIO: i32 = 5;
/// The control plane of a repository that has one blob.
fn one_blob(plane: &mut Plane, len: usize) {
    let len = len as u64;
    plane.answer(move |ask| match ask {
        Ask::Link { answer, .. } => drop(answer.send(Ok(Some(Link::Here { size_bytes: len })))),
        Ask::Mountable { answer, .. } => drop(answer.send(Ok(Some(Link::Here { size_bytes: len })))),
        Ask::Mount { answer, .. } => drop(answer.send(Ok(true))),
        Ask::OpenUpload { answer, .. } => drop(answer.send(Ok(()))),
        Ask::Home { digests, answer } => drop(answer.send(Ok(vec![Some(len); digests.len()]))),
        Ask::Commit { batch, answer } => drop(answer.send(Ok(vec![Ok(()); batch.len()]))),
        _ => panic!("not asked here"),
    });
}

/// A file of zeros for them; a hole is in nobody's memory until it is read.
pub fn hole(plane: &Plane, len: usize) -> (Digest, PathBuf) {
    let digest = sha256(&vec![0; len]);
    let file = plane.place.blob(&digest);
    fs::OpenOptions::new().write(true).create_new(true).open(&file).unwrap().set_len(len as u64).unwrap();
    (digest, file)
}

fn target(digest: &Digest) -> String {
    format!("/v2/a/blobs/{digest}")
}

/// Pushes the blob and gives what happened to its name. Other names may change meanwhile: after a push the cache's
/// index is written, which no answer waits for.
fn push(plane: &Plane, client: &mut Client, content: &[u8]) -> Vec<Call> {
    plane.faults.take();
    let digest = sha256(content);
    let pushed = client.ask("POST", &format!("/v2/a/blobs/uploads/?digest={digest}"), content);
    assert_eq!(pushed.status, 201);
    let is_name = |(call, name): &(Call, String)| {
        matches!(call, Call::Link | Call::Rename) && name.ends_with(digest.hex(&mut [0; 128]))
    };
    plane.faults.take().into_iter().filter(is_name).map(|(call, _)| call).collect()
}

#[test]
fn a_blob_that_can_not_be_read_is_replaced_by_the_next_push() {
    const LEN: usize = 1 << 20;
    for leg in legs() {
        let mut plane = Plane::start(leg);
        one_blob(&mut plane, LEN);
        let content = vec![0; LEN];
        let (digest, file) = hole(&plane, LEN);
        let inode = fs::metadata(&file).unwrap().ino();
        let mut slow = plane.client();

        plane.faults.fail(Call::Read, 0, EIO);
        slow.send("GET", &target(&digest), b"");
        assert!(slow.read().is_err(), "an answer that can't be finished is cut");
        plane.faults.heal();
        let mut client = plane.client();
        assert_eq!(client.get(&target(&digest)).status, 500);
        client.send("HEAD", &target(&digest), b"");
        assert_eq!(client.read_head().unwrap().status, 500, "on a 200 a client would not push it again");
        let mount = format!("/v2/b/blobs/uploads/?mount={digest}&from=a");
        assert_eq!(client.ask("POST", &mount, b"").status, 202, "nor is it mounted");

        assert_eq!(push(&plane, &mut client, &content), [Call::Rename]);
        assert_ne!(fs::metadata(&file).unwrap().ino(), inode);
        let answer = client.get(&target(&digest));
        assert_eq!((answer.status, answer.body == content), (200, true));
        assert_eq!(client.ask("POST", &mount, b"").status, 201);
        assert!(push(&plane, &mut client, &content).is_empty(), "and then it is a blob as any other");
        drop((slow, client));
        plane.end();
    }
}

/// Who still reads the file that was replaced says nothing about the one that took its place.
#[test]
fn a_reader_of_the_old_file_does_not_blame_the_new_one() {
    const LEN: usize = 16 << 20;
    for leg in legs() {
        let mut plane = Plane::start(leg);
        one_blob(&mut plane, LEN);
        let content = vec![0; LEN];
        let (digest, file) = hole(&plane, LEN);
        let (mut old, mut client) = (plane.client(), plane.client());
        old.send("GET", &target(&digest), b"");
        assert_eq!(old.read_head().unwrap().status, 200);
        // More than the sockets hold is still to come when the file is replaced.
        fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(LEN as u64 - 1).unwrap();
        assert_eq!(push(&plane, &mut client, &content), [Call::Rename]);
        plane.faults.fail(Call::Read, 0, EIO);
        assert!(old.read_rest(LEN).is_err(), "the old file gives no more");
        plane.faults.heal();
        assert_eq!(client.get(&target(&digest)).status, 200);
        drop((old, client));
        plane.end();
    }
}
