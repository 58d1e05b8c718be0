//! The times that an operator has who sets none, each to the millisecond: nothing is given up before, and all is then.

use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
    time::Duration,
};

use bytes::Bytes;
use control::{Fetched, Memory};
use controlplane::{
    limits,
    upstream::{AllowPrivate, Credentials, Failure, Proxy, Upstream, UpstreamSettings},
};
use faults::{Auth, Fault, On, Registry};
use oci::{Algorithm, Digest, Problem};
use tokio::task::JoinHandle;

use super::rig::*;
use crate::held_clock::{HeldClock, TICK};

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A server whose every byte the test writes.
struct ByHand {
    listener: TcpListener,
}

impl ByHand {
    fn start() -> ByHand {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        ByHand { listener }
    }

    fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.listener.local_addr().unwrap())
    }

    fn upstream(&self, scheme: &str) -> Upstream {
        self.upstream_with(scheme, |_| {})
    }

    /// With other times than the defaults.
    fn upstream_with(&self, scheme: &str, change: fn(&mut controlplane::upstream::Timeouts)) -> Upstream {
        let mut settings = UpstreamSettings::new("a", self.url(scheme));
        change(&mut settings.timeouts);
        Upstream::new(UpstreamSettings { allow_private_addresses: AllowPrivate::All, ..settings }).unwrap()
    }

    /// A connection, once a question has come up to its `end`.
    async fn asked(&self, clock: &HeldClock, end: &[u8]) -> TcpStream {
        let mut accepted = None;
        clock
            .wait_for("a connection", || {
                accepted = self.listener.accept().ok().map(|(stream, _)| stream);
                accepted.is_some()
            })
            .await;
        let mut stream = accepted.unwrap();
        stream.set_nonblocking(true).unwrap();
        let mut head = Vec::new();
        clock
            .wait_for("a question", || {
                let mut piece = [0; 4096];
                match stream.read(&mut piece) {
                    Ok(length) => head.extend_from_slice(&piece[..length]),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
                }
                !head.is_empty() && head.ends_with(end)
            })
            .await;
        stream
    }

    /// A blob of five bytes, of which none has been sent.
    async fn blob(&self, clock: &HeldClock, upstream: Upstream) -> (TcpStream, Fetched) {
        let asked = tokio::spawn(async move {
            upstream
                .blob(&repository(), &Digest::of(Algorithm::Sha256, b""), 0, None, Memory::counted())
                .await
        });
        let mut stream = self.asked(clock, HEAD_END).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n").unwrap();
        (stream, clock.answer(asked).await.unwrap().unwrap())
    }
}

/// What comes next of a blob, without any time going by.
async fn next_piece(clock: &HeldClock, mut fetched: Fetched) -> (Fetched, Option<Result<Bytes, Problem>>) {
    let piece = tokio::spawn(async move {
        let piece = fetched.bytes.recv().await;
        (fetched, piece)
    });
    clock.answer(piece).await
}

const HEAD_END: &[u8] = b"\r\n\r\n";

fn begin_pull(upstream: &Upstream) -> JoinHandle<Result<Option<bytes::Bytes>, Failure>> {
    let upstream = upstream.clone();
    tokio::spawn(async move { pull(&upstream, "latest").await })
}

fn begin_blob(upstream: &Upstream, digest: Digest) -> JoinHandle<Failure> {
    let upstream = upstream.clone();
    tokio::spawn(async move { refused(&upstream, &digest, 0, None).await })
}

fn with_image() -> Registry {
    let registry = Registry::start();
    registry.push_image(NAME, "latest", &[100]);
    registry
}

#[tokio::test]
async fn a_connection_has_5_s_with_tls() {
    let server = ByHand::start();
    let clock = HeldClock::new();
    let asked = begin_pull(&server.upstream("https"));
    let _hello = server.asked(&clock, b"").await;
    assert_eq!(clock.ends_after(seconds(5), asked).await, Err(Failure::TimedOut));
}

#[tokio::test]
async fn a_proxy_has_the_same_5_s() {
    let (proxy, server) = (ByHand::start(), ByHand::start());
    let clock = HeldClock::new();
    let mut settings = UpstreamSettings::new("a", server.url("http"));
    settings.allow_private_addresses = AllowPrivate::All;
    settings.proxy = Some(Proxy { url: proxy.url("http"), credentials: None });
    let asked = begin_pull(&Upstream::new(settings).unwrap());
    let _connect = proxy.asked(&clock, HEAD_END).await;
    assert_eq!(clock.ends_after(seconds(5), asked).await, Err(Failure::TimedOut));
}

#[tokio::test]
async fn an_answer_begins_within_30_s() {
    let registry = with_image();
    let (digest, _) = blob(&registry, 1000);
    registry.script(On::any("/v2/"), Fault::StallBeforeHead);
    let clock = HeldClock::new();
    let upstream = client(&registry);
    let (pulled, refused) = (begin_pull(&upstream), begin_blob(&upstream, digest));
    let described = {
        let upstream = upstream.clone();
        tokio::spawn(async move { upstream.describe_blob(&repository(), &digest).await })
    };
    clock.wait_for("three questions", || registry.seen().len() == 3).await;
    clock.pass(seconds(30) - 2 * TICK).await;
    assert!(!refused.is_finished() && !described.is_finished(), "not before");
    assert_eq!(clock.ends_after(2 * TICK, pulled).await, Err(Failure::TimedOut));
    assert_eq!(clock.answer(refused).await, Failure::TimedOut);
    assert_eq!(clock.answer(described).await, Err(Failure::TimedOut));
}

#[tokio::test]
async fn a_blob_s_bytes_are_30_s_apart_and_no_more() {
    let server = ByHand::start();
    let clock = HeldClock::new();
    // That they are too few is another matter.
    let upstream = server.upstream_with("http", |timeouts| timeouts.body_rate_min_bytes = 0);
    let (mut stream, mut fetched) = server.blob(&clock, upstream).await;
    // However many of them: each has its own time.
    for byte in [b"a", b"b", b"c"] {
        clock.pass(seconds(30) - TICK).await;
        stream.write_all(byte).unwrap();
        let (back, piece) = next_piece(&clock, fetched).await;
        fetched = back;
        assert_eq!(piece, Some(Ok(byte[..].into())));
    }
    let end = tokio::spawn(async move { fetched.bytes.recv().await });
    assert_eq!(clock.ends_after(seconds(30), end).await, Some(Err(Problem::UpstreamTimeout)));
}

#[tokio::test]
async fn less_than_10_kib_a_second_is_dropped_after_a_minute_of_waiting() {
    let server = ByHand::start();
    let clock = HeldClock::new();
    let upstream = server.upstream("http");
    let (mut stream, mut fetched) = server.blob(&clock, upstream).await;
    for byte in [b"a", b"b", b"c"] {
        clock.pass(seconds(20) - TICK).await;
        stream.write_all(byte).unwrap();
        let (back, piece) = next_piece(&clock, fetched).await;
        fetched = back;
        assert_eq!(piece, Some(Ok(byte[..].into())), "not yet a minute");
    }
    clock.pass(seconds(1)).await;
    stream.write_all(b"d").unwrap();
    let end = tokio::spawn(async move { (fetched.bytes.recv().await, fetched.bytes.recv().await) });
    let (piece, end) = clock.answer(end).await;
    assert_eq!((piece, end), (Some(Ok(b"d"[..].into())), Some(Err(Problem::UpstreamTimeout))));
}

#[tokio::test]
async fn nobody_s_patience_ends_while_nobody_wants_the_bytes() {
    let registry = Registry::start();
    let length = 4 << 20;
    let (digest, bytes) = blob(&registry, length);
    let clock = HeldClock::new();
    let upstream = client(&registry);
    let fetched = upstream.blob(&repository(), &digest, 0, None, Memory::counted()).await.unwrap().unwrap();
    clock.wait_for("all that fits is there", || fetched.bytes.len() == limits::PIECES).await;
    clock.pass(seconds(3600)).await;
    let whole = body(fetched).await;
    assert!(whole.broken.is_none() && whole.bytes == bytes);
}

#[tokio::test]
async fn a_document_has_60_s_and_its_pieces_are_30_s_apart() {
    let server = ByHand::start();
    let clock = HeldClock::new();
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n";
    let stalled = begin_pull(&server.upstream("http"));
    let mut stream = server.asked(&clock, HEAD_END).await;
    stream.write_all(head).unwrap();
    assert_eq!(clock.ends_after(seconds(30), stalled).await, Err(Failure::TimedOut));

    let slow = begin_pull(&server.upstream("http"));
    let mut stream = server.asked(&clock, HEAD_END).await;
    stream.write_all(head).unwrap();
    for _ in 0..5 {
        clock.pass(seconds(10)).await;
        stream.write_all(b"x").unwrap();
    }
    assert_eq!(clock.ends_after(seconds(10), slow).await, Err(Failure::TimedOut));
}

#[tokio::test]
async fn a_token_has_10_s() {
    let registry = with_image();
    registry.require(Auth::bearer());
    registry.script(On::any("/token"), Fault::StallBeforeHead);
    let clock = HeldClock::new();
    let asked = begin_pull(&client(&registry));
    clock.wait_for("the realm was asked", || registry.count("GET", "/token") == 1).await;
    assert_eq!(clock.ends_after(seconds(10), asked).await, Err(Failure::TimedOut));
}

#[tokio::test]
async fn a_command_has_10_s_for_its_credentials_and_they_are_good_for_5_minutes() {
    let registry = with_image();
    let login = ("u".to_owned(), "p".to_owned());
    registry.require(Auth::Basic { login });
    let clock = HeldClock::new();
    let count = std::env::temp_dir().join(format!("gantry-command-{}", std::process::id()));
    let of = |script: String| {
        let argv = ["sh", "-c", &script].map(str::to_owned).to_vec();
        client_with(&registry, |all| all.credentials = vec![Credentials::Command { argv }])
    };
    let asked = begin_pull(&of("exec sleep 600".to_owned()));
    clock.wait_for("a challenge", || registry.count("GET", "/manifests/") == 1).await;
    assert_eq!(clock.ends_after(seconds(10), asked).await, Err(Failure::CredentialRejected));

    let upstream = of(format!("echo >> {}; echo u:p", count.display()));
    let runs = || std::fs::read(&count).map_or(0, |bytes| bytes.len());
    for (later, expect) in [(Duration::ZERO, 1), (limits::COMMAND_AGE - TICK, 1), (2 * TICK, 2)] {
        clock.pass(later).await;
        assert!(clock.answer(begin_pull(&upstream)).await.unwrap().is_some());
        assert_eq!(runs(), expect, "{later:?} later");
    }
    std::fs::remove_file(count).unwrap();
}

#[tokio::test]
async fn a_token_is_used_for_five_sixths_of_its_life() {
    let clock = HeldClock::new();
    for (expires_in, used) in [(Some(300), 250), (None, 50), (Some(1), 50), (Some(1 << 40), 72_000)] {
        let registry = with_image();
        let auth = match Auth::bearer() {
            Auth::Bearer { realm, login, identity, oauth2_name, .. } => {
                Auth::Bearer { realm, login, identity, oauth2_name, lives: seconds(3600), expires_in }
            }
            _ => unreachable!("it is a bearer"),
        };
        registry.require(auth);
        let upstream = client(&registry);
        for (later, tokens) in [(Duration::ZERO, 1), (seconds(used) - TICK, 1), (2 * TICK, 2)] {
            clock.pass(later).await;
            assert!(clock.answer(begin_pull(&upstream)).await.unwrap().is_some());
            assert_eq!(registry.count("GET", "/token"), tokens, "{expires_in:?}, {later:?} later");
        }
        assert_eq!(registry.count("GET", "/manifests/"), 4, "one refusal, and never another");
    }
}

#[tokio::test]
async fn a_place_among_the_connections_is_waited_for_15_s() {
    let registry = with_image();
    registry.script(On::any("/v2/"), Fault::StallBeforeHead);
    let clock = HeldClock::new();
    let upstream = client(&registry);
    // A quarter of them is for documents.
    let held = UpstreamSettings::new("a", "https://a").connections_max / 4;
    let holders: Vec<_> = (0..held).map(|_| begin_pull(&upstream)).collect();
    clock.wait_for("all places are taken", || registry.seen().len() == held).await;
    let next = begin_pull(&upstream);
    let spent = Failure::BudgetSpent { retry_after_s: 1 };
    assert_eq!(clock.ends_after(seconds(15), next).await, Err(spent));
    assert_eq!(registry.seen().len(), held);
    assert!(holders.iter().all(|holder| !holder.is_finished()));
}

#[tokio::test]
async fn pulls_that_wait_for_the_budget_hold_no_places() {
    let registry = with_image();
    let on = On::get("/manifests/").times(1);
    registry.script(on.clone(), Fault::Status(429));
    registry.script(on, Fault::Header("Retry-After", "10".to_owned()));
    let clock = HeldClock::new();
    let upstream = client(&registry);
    let first = begin_pull(&upstream);
    clock.wait_for("a refusal", || upstream.budget().paused_s == 10).await;
    // More than there are places for documents.
    let pulls: Vec<_> = (0..20).map(|_| begin_pull(&upstream)).collect();
    clock.pass(TICK).await;
    let described = {
        let upstream = upstream.clone();
        tokio::spawn(async move { describe(&upstream, "latest").await })
    };
    assert!(
        clock.answer(described).await.unwrap().is_some(),
        "what costs no pull, without any time going by"
    );
    assert!(pulls.iter().all(|pull| !pull.is_finished()));
    clock.pass(seconds(10)).await;
    for pull in pulls.into_iter().chain([first]) {
        assert!(clock.answer(pull).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn a_refusal_is_waited_out_for_15_s_and_no_longer_one_is_waited_for() {
    let registry = with_image();
    let clock = HeldClock::new();
    let upstream = client(&registry);
    let refuse = |retry_after: &str| {
        let on = On::get("/manifests/").times(1);
        registry.script(on.clone(), Fault::Status(429));
        registry.script(on, Fault::Header("Retry-After", retry_after.to_owned()));
    };
    refuse("15");
    let asked = begin_pull(&upstream);
    clock.wait_for("a refusal", || upstream.budget().paused_s == 15).await;
    assert!(clock.ends_after(seconds(15), asked).await.unwrap().is_some());
    assert_eq!(registry.count("GET", "/manifests/"), 2);
    refuse("16");
    let spent = Failure::BudgetSpent { retry_after_s: 16 };
    assert_eq!(clock.answer(begin_pull(&upstream)).await, Err(spent), "at once");
    // Until then nobody asks; from then on everybody may.
    clock.pass(seconds(16) - TICK).await;
    assert_eq!(registry.count("GET", "/manifests/"), 3);
    let last = begin_pull(&upstream);
    clock.pass(2 * TICK).await;
    assert!(clock.answer(last).await.unwrap().is_some());
}

#[tokio::test]
async fn a_refusal_without_a_word_is_tried_again_after_1_2_and_4_s() {
    let registry = with_image();
    registry.script(On::get("/manifests/"), Fault::Status(429));
    let clock = HeldClock::new();
    let upstream = client(&registry);
    let asked = begin_pull(&upstream);
    for (tries, pause_s) in [(1, 1), (2, 2), (3, 4)] {
        clock.wait_for("a refusal", || upstream.metrics().read().refusals == tries).await;
        clock.pass(seconds(pause_s) - TICK).await;
        assert_eq!(registry.count("GET", "/manifests/") as u64, tries, "not within {pause_s} s");
        clock.pass(2 * TICK).await;
    }
    // Another 8 s are more than is left of 15.
    assert_eq!(clock.answer(asked).await, Err(Failure::BudgetSpent { retry_after_s: 8 }));
    assert_eq!(registry.count("GET", "/manifests/"), 4);
}

#[tokio::test]
async fn an_upstream_that_failed_5_times_is_left_alone_for_10_s_and_then_for_twice_as_long() {
    let registry = with_image();
    registry.script(On::any("/v2/"), Fault::Status(503));
    let clock = HeldClock::new();
    let upstream = client(&registry);
    for _ in 0..5 {
        let answer = clock.answer(begin_pull(&upstream)).await;
        assert_eq!(answer, Err(Failure::Server { status: 503 }));
    }
    let mut asked = 5;
    for pause_s in [10, 20, 40, 80, 80] {
        let open = Failure::Breaker { retry_after_s: u32::try_from(pause_s).unwrap() };
        assert_eq!(clock.answer(begin_pull(&upstream)).await, Err(open));
        clock.pass(seconds(pause_s) - TICK).await;
        let open = Failure::Breaker { retry_after_s: 1 };
        assert_eq!(clock.answer(begin_pull(&upstream)).await, Err(open), "not within {pause_s} s");
        assert_eq!(registry.seen().len(), asked);
        clock.pass(2 * TICK).await;
        assert_eq!(clock.answer(begin_pull(&upstream)).await, Err(Failure::Server { status: 503 }));
        asked += 1;
        assert_eq!(registry.seen().len(), asked, "one probe");
    }
    assert_eq!(upstream.metrics().read().breaker_openings, 6);
    registry.heal();
    clock.pass(seconds(80) + TICK).await;
    for _ in 0..3 {
        assert!(clock.answer(begin_pull(&upstream)).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn one_question_probes_while_the_others_are_told_to_come_again() {
    let registry = with_image();
    registry.script(On::any("/v2/").times(5), Fault::Status(500));
    let clock = HeldClock::new();
    let upstream = client(&registry);
    for _ in 0..5 {
        clock.answer(begin_pull(&upstream)).await.unwrap_err();
    }
    registry.script(On::any("/v2/"), Fault::StallBeforeHead);
    clock.pass(seconds(10) + TICK).await;
    let probe = begin_pull(&upstream);
    clock.wait_for("the probe is out", || registry.seen().len() == 6).await;
    for _ in 0..3 {
        let open = Failure::Breaker { retry_after_s: 1 };
        assert_eq!(clock.answer(begin_pull(&upstream)).await, Err(open));
    }
    assert_eq!(clock.ends_after(seconds(30), probe).await, Err(Failure::TimedOut));
    let open = Failure::Breaker { retry_after_s: 20 };
    assert_eq!(clock.answer(begin_pull(&upstream)).await, Err(open), "the probe failed");
    assert_eq!(registry.seen().len(), 6);
}

#[tokio::test]
async fn rejected_credentials_are_left_alone_for_60_s() {
    let registry = with_image();
    registry.require(Auth::bearer_for("u", "p"));
    let clock = HeldClock::new();
    let upstream = client_with(&registry, |all| all.credentials = vec![user("u", "wrong")]);
    let rejected = Err(Failure::CredentialRejected);
    for (later, tokens) in [(Duration::ZERO, 2), (seconds(60) - TICK, 2), (2 * TICK, 4)] {
        clock.pass(later).await;
        assert_eq!(clock.answer(begin_pull(&upstream)).await, rejected);
        assert_eq!(registry.count("GET", "/token"), tokens, "{later:?} later");
    }
}
