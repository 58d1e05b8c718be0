//! What each request costs the device, one at a time: an answer that promises something has been flushed, a
//! POST and a PATCH promise nothing that a power cut could take.

use std::{fs::File, time::Duration};

use crate::harness::{Client, Launch, Volume, has_root, legs, media, noise};

const REPOSITORY: &str = "durable/commits";

/// Each is seen so often that what the kernel flushes by itself, every five seconds, can't stand in for it.
const TIMES: u64 = 5;

/// Fails unless each call of `promise` costs the device at least so many flushes.
#[track_caller]
fn costs(volume: &Volume, what: &str, least: u64, mut promise: impl FnMut(u64)) {
    for time in 0..TIMES {
        let before = volume.flushes();
        promise(time);
        let flushes = volume.flushes() - before;
        assert!(flushes >= least, "{what} was answered after {flushes} flushes in place of {least}");
    }
}

fn tag(client: &mut Client, tag: &str, manifest: &[u8]) {
    client.put_manifest(REPOSITORY, tag, media::IMAGE, manifest).expect(201);
}

legs! {
    fn what_is_promised_is_flushed(leg) {
        if !has_root() {
            return;
        }
        let volume = Volume::ext4(512);
        let server = Launch::on(leg).start_on(&volume.data());
        let mut client = server.client();
        let image = client.push_image(REPOSITORY, "first", 850);
        // One for the data, one for the name, one for the row.
        costs(&volume, "a blob PUT", 3, |time| {
            client.push_blob(REPOSITORY, &noise(860 + time, 10_000));
        });
        costs(&volume, "a push of what is there", 1, |time| {
            client.push_blob(&format!("{REPOSITORY}/{time}"), &noise(860, 10_000));
        });
        costs(&volume, "a mount", 1, |time| {
            let mount = format!("/v2/{REPOSITORY}/m{time}/blobs/uploads/?mount={}&from={REPOSITORY}", image.layer);
            client.request("POST", mount).send().expect(201);
        });
        costs(&volume, "a manifest PUT", 1, |time| tag(&mut client, &format!("v{time}"), &image.bytes));
        costs(&volume, "a tag DELETE", 1, |time| {
            client.delete(format!("/v2/{REPOSITORY}/manifests/v{time}")).expect(202);
        });
        costs(&volume, "a manifest PUT and its DELETE", 2, |_| {
            tag(&mut client, "again", &image.bytes);
            client.delete(format!("/v2/{REPOSITORY}/manifests/{}", image.digest)).expect(202);
        });
        costs(&volume, "a blob DELETE", 1, |time| {
            let digest = crate::harness::sha256(&noise(860 + time, 10_000));
            client.delete(format!("/v2/{REPOSITORY}/blobs/{digest}")).expect(202);
        });
    }

    /// The journal commits by itself five seconds after something was changed: a time in which it did proves
    /// nothing and is taken again, on a volume that has come to rest.
    fn an_open_upload_is_not_flushed(leg) {
        if !has_root() {
            return;
        }
        let volume = Volume::ext4(512);
        let server = Launch::on(leg).start_on(&volume.data());
        let mut client = server.client();
        client.push_blob(REPOSITORY, b"everything that is made once is there");
        let chunk = noise(870, 10_000);
        let mut seen = Vec::new();
        for _ in 0..5 {
            rustix::fs::syncfs(File::open(volume.path()).unwrap()).unwrap();
            std::thread::sleep(Duration::from_secs(1));
            let before = volume.flushes();
            let location = client.open_upload(REPOSITORY);
            for number in 0..20 {
                client.patch_at(&location, number * chunk.len(), &chunk).expect(202);
            }
            let flushes = volume.flushes() - before;
            if flushes == 0 {
                return;
            }
            seen.push(flushes);
        }
        panic!("a POST and 20 PATCHes: {seen:?} flushes");
    }
}
