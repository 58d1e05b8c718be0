//! end-5 under stress: two at once on one session, bodies cut in the middle, any order of operations.

use std::{cell::RefCell, time::Duration};

use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

use crate::harness::{Client, Server, legs, noise, sha256, wait_for};

const REPOSITORY: &str = "team/races";

/// What the model-based test does to a session. Lengths are above 1: a session of one byte looks empty.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// The next bytes, at the right offset.
    Next(usize),
    /// The next bytes, streamed without an offset.
    Streamed(usize),
    /// The next bytes, claimed to lie that far beyond the offset.
    Gap(usize),
    /// Bytes that are here already, if there are any.
    Overlap(usize),
    /// A body that ends in the middle.
    Cut(usize),
    /// A closing PUT at a wrong offset.
    PutWithGap,
    Status,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (2..60_000usize).prop_map(Step::Next),
        2 => (2..60_000usize).prop_map(Step::Streamed),
        1 => (1..5000usize).prop_map(Step::Gap),
        1 => (1..5000usize).prop_map(Step::Overlap),
        1 => (2..40_000usize).prop_map(Step::Cut),
        1 => Just(Step::PutWithGap),
        1 => Just(Step::Status),
    ]
}

/// Runs the steps on one session and on a model, which is a number: the offset.
fn follow(client: &mut Client, bytes: &[u8], steps: &[Step]) {
    let location = client.open_upload(REPOSITORY);
    let mut offset = 0;
    for step in steps {
        let next = |len: usize| &bytes[offset..(offset + len).min(bytes.len())];
        match *step {
            Step::Next(len) | Step::Streamed(len) | Step::Cut(len) if next(len).is_empty() => {}
            Step::Next(len) => {
                client.patch_at(&location, offset, next(len)).expect(202);
                offset += next(len).len();
            }
            Step::Streamed(len) => {
                client.request("PATCH", &location).chunks(next(len).chunks(7001)).send().expect(202);
                offset += next(len).len();
            }
            Step::Gap(by) => {
                client.patch_at(&location, offset + by, b"gap").expect(416);
            }
            Step::Overlap(by) if offset > 0 => {
                client.patch_at(&location, offset.saturating_sub(by), b"overlap").expect(416);
            }
            Step::Overlap(_) => {}
            Step::Cut(len) => {
                let part = next(len);
                let mut cut = client.another();
                let head = format!(
                    "PATCH {location} HTTP/1.1\r\nHost: r\r\nContent-Length: {}\r\n\r\n",
                    part.len() + 9
                );
                cut.send_bytes(&[head.as_bytes(), part].concat());
                cut.half_close();
                let _no_answer_is_promised = cut.try_read("PATCH");
                cut.hang_up();
                let before = offset;
                offset = idle_offset(client, &location);
                assert!(
                    (before..=before + part.len()).contains(&offset),
                    "kept {offset} of {}",
                    before + part.len()
                );
            }
            Step::PutWithGap => {
                let put = client.request("PUT", format!("{location}?digest={}", sha256(bytes)));
                let range = format!("{}-{}", offset + 1, offset + 3);
                put.header("Content-Range", range).body(b"gap").send().expect(416);
            }
            Step::Status => {}
        }
        assert_eq!(client.upload_offset(&location), offset, "{step:?} of {steps:?}");
    }
    let digest = sha256(bytes);
    let put = client.request("PUT", format!("{location}?digest={digest}"));
    put.body(&bytes[offset..]).send().expect(201);
    client.assert_blob(REPOSITORY, digest, bytes);
}

/// The offset, as soon as the session is not busy with a connection that is gone.
fn idle_offset(client: &mut Client, location: &str) -> usize {
    const NOWHERE: usize = 1 << 40;
    let mut last = None;
    wait_for("the cut PATCH is over", || {
        std::thread::sleep(Duration::from_millis(20));
        // Out of place, it changes nothing; a session that somebody still writes to says 409.
        let answer = client.patch_at(location, NOWHERE, b"x");
        let now = (answer.status == 416).then(|| crate::harness::offset_of(answer.header("range")));
        let settled = now.is_some() && now == last;
        last = now;
        settled
    });
    last.expect("it settled")
}

legs! {
    /// While one PATCH is under way, a second one is told so; the bytes stay those of the first.
    fn two_patches_at_once(leg) {
        let server = Server::start(leg);
        let (mut one, mut two) = (server.client(), server.client());
        let bytes = noise(120, 400_000);
        let location = one.open_upload(REPOSITORY);
        let request = one.request("PATCH", &location).header("Content-Range", "0-299999").body(&bytes[..300_000]);
        let request = request.to_bytes();
        one.send_bytes(&request[..150_000]);
        std::thread::sleep(Duration::from_millis(200));
        let rival = noise(121, 300_000);
        let answer = two.patch_at(&location, 0, &rival);
        assert!([409, 416].contains(&answer.status), "{}", answer.text());
        let answer = two.close_upload(&location, sha256(&bytes));
        assert!([409, 416].contains(&answer.status), "nor may it be closed meanwhile: {}", answer.text());
        one.send_bytes(&request[150_000..]);
        let answer = one.read("PATCH").expect(202);
        assert_eq!(answer.header("range"), "0-299999");
        two.patch_at(&location, 300_000, &bytes[300_000..]).expect(202);
        one.close_upload(&location, sha256(&bytes)).expect(201);
        one.assert_blob(REPOSITORY, sha256(&bytes), &bytes);
    }

    /// Many at once, each with the whole blob: whoever wins, the bytes are whole.
    fn many_patches_at_once(leg) {
        let server = Server::start(leg);
        let bytes = noise(122, 200_000);
        for _round in 0..5 {
            let location = server.client().open_upload(REPOSITORY);
            let won: usize = std::thread::scope(|scope| {
                let racers: Vec<_> = (0..6).map(|_| scope.spawn(|| {
                    let answer = server.client().patch_at(&location, 0, &bytes);
                    assert!([202, 409, 416].contains(&answer.status), "{}", answer.text());
                    usize::from(answer.status == 202)
                })).collect();
                racers.into_iter().map(|racer| racer.join().unwrap()).sum()
            });
            assert_eq!(won, 1, "one wins, the others 409 or 416");
            server.client().close_upload(&location, sha256(&bytes)).expect(201);
            server.client().assert_blob(REPOSITORY, sha256(&bytes), &bytes);
        }
    }

    fn a_cut_patch_keeps_what_was_written(leg) {
        let server = Server::start(leg);
        let mut client = server.client();
        let bytes = noise(123, 3 << 20);
        let location = client.open_upload(REPOSITORY);
        client.patch_at(&location, 0, &bytes[..1000]).expect(202);
        let mut cut = server.client();
        let head = format!("PATCH {location} HTTP/1.1\r\nHost: r\r\nContent-Length: {}\r\n\r\n", bytes.len() - 1000);
        cut.send_bytes(head.as_bytes());
        cut.send_bytes(&bytes[1000..2 << 20]);
        std::thread::sleep(Duration::from_millis(300));
        cut.hang_up();
        wait_for("what came is kept", || client.upload_offset(&location) > 1000);
        let kept = idle_offset(&mut client, &location);
        assert!(kept > 1000 && kept <= 2 << 20, "kept {kept}");
        client.patch_at(&location, kept, &bytes[kept..]).expect(202);
        client.close_upload(&location, sha256(&bytes)).expect(201);
        client.assert_blob(REPOSITORY, sha256(&bytes), &bytes);
    }

    /// A model-based test: any order of good and bad operations leaves a session that can be finished.
    fn any_order_of_operations(leg) {
        let server = Server::start(leg);
        let client = RefCell::new(server.client());
        let bytes = noise(124, 250_000);
        let config = Config { cases: 24, failure_persistence: None, max_shrink_iters: 50, ..Config::default() };
        let run = |steps: Vec<Step>| {
            follow(&mut client.borrow_mut(), &bytes, &steps);
            Ok(())
        };
        let outcome = TestRunner::new(config).run(&prop::collection::vec(step(), 1..10), run);
        outcome.unwrap_or_else(|failure| panic!("{failure}"));
    }
}
