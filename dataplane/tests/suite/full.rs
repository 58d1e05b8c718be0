//! What has no room left says so, with when to come back; what waits is served when there is room again; and
//! one flood starves nobody else. Each bound is met exactly.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use control::{Ask, Control, Forward, Link, Principal, Reply};
use dataplane::{
    limits::{
        BATCH_MEMBERS_MAX, COMMITS_WAITING_MAX, FORWARDS_MAX, Limits, MAILBOX_SOCKETS_MAX, POOL_JOBS_MAX,
        POOL_THREADS, QUESTIONS_MAX, SYNCFS_MEMBERS_MIN, UPLOAD_FILES_KEPT_MAX,
    },
    testing::{Call, Driver, Faults, Io, Store},
};
use oci::{Algorithm, Digest, Endpoint, Method, Page, Problem, UploadId};

use crate::{
    plane::{Client, Plane},
    rig::{Rig, all_at_once, begin, finish, has_volume_sync, legs, repository, sha256, until, wait_for},
    suspects::hole,
};

const OVERLOADED: Problem = Problem::Overloaded { retry_after_s: 1 };

type Waiting<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Asks until a lane takes no more; gives what waits in it.
fn fill<T>(mut ask: impl FnMut() -> Waiting<Result<T, Problem>>) -> Vec<Waiting<Result<T, Problem>>> {
    let mut waiting = Vec::new();
    loop {
        let mut asked = ask();
        match asked.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending => waiting.push(asked),
            Poll::Ready(Err(problem)) => {
                assert_eq!(problem, OVERLOADED);
                return waiting;
            }
            Poll::Ready(Ok(_)) => panic!("nobody answers"),
        }
    }
}

fn fill_questions(control: &Control) -> Vec<Waiting<Result<Option<control::Link>, Problem>>> {
    fill(|| {
        let control = control.clone();
        Box::pin(async move { control.link(repository(), sha256(b""), Principal::Anonymous).await })
    })
}

fn fill_forwards(control: &Control) -> Vec<Waiting<Result<Reply, Problem>>> {
    fill(|| {
        let control = control.clone();
        let forward = |answer| Forward {
            endpoint: Endpoint::Catalog(Page::default()),
            method: Method::Get,
            target: "/v2/_catalog".to_owned(),
            body: Bytes::new(),
            principal: Principal::Anonymous,
            caller: None,
            answer,
        };
        Box::pin(async move { control.forward(forward).await })
    })
}

fn nothing_is_here(ask: Ask) {
    match ask {
        Ask::Link { answer, .. } => drop(answer.send(Ok(None))),
        Ask::Manifest { answer, .. } => drop(answer.send(Ok(None))),
        Ask::OpenUpload { answer, .. } => drop(answer.send(Ok(()))),
        Ask::Home { digests, answer } => drop(answer.send(Ok(vec![None; digests.len()]))),
        Ask::Commit { batch, answer } => drop(answer.send(Ok(vec![Ok(()); batch.len()]))),
        _ => panic!("not asked here"),
    }
}

fn empty_list(forward: Forward) {
    drop(forward.answer.send(Ok(Reply::whole(200, "application/json", "{}"))));
}

fn blob_target() -> String {
    format!("/v2/{}/blobs/{}", repository(), sha256(b"not here"))
}

#[test]
fn a_full_lane_of_questions_starves_no_list() {
    for leg in legs() {
        let mut plane = Plane::start(leg);
        plane.reply(empty_list);
        let waiting = fill_questions(&plane.control);
        assert_eq!(waiting.len(), QUESTIONS_MAX);
        let mut client = plane.client();
        client.get(&blob_target()).is_overload();
        client.ask("POST", &format!("/v2/{}/blobs/uploads/", repository()), b"").is_overload();
        assert_eq!(client.get("/v2/_catalog").status, 200);
        plane.answer(nothing_is_here);
        for one in waiting {
            assert_eq!(wait_for(one), Ok(None));
        }
        assert_eq!(client.get(&blob_target()).status, 404, "on the same connection");
        drop(client);
        plane.end();
    }
}

#[test]
fn a_full_lane_of_forwards_starves_no_pull() {
    for leg in legs() {
        let mut plane = Plane::start(leg);
        plane.answer(nothing_is_here);
        let waiting = fill_forwards(&plane.control);
        assert_eq!(waiting.len(), FORWARDS_MAX);
        let mut client = plane.client();
        client.get("/v2/_catalog").is_overload();
        client.get("/metrics").is_overload();
        assert_eq!(client.get(&blob_target()).status, 404);
        plane.reply(empty_list);
        for one in waiting {
            assert_eq!(wait_for(one).unwrap().status, 200);
        }
        assert_eq!(client.get("/v2/_catalog").status, 200);
        drop(client);
        plane.end();
    }
}

/// Bytes that are durable already are not given up for want of a place in a queue.
#[test]
fn a_commit_waits_for_its_place_in_a_full_lane() {
    for leg in legs() {
        let mut plane = Plane::start(leg);
        let (go, gate) = mpsc::channel::<()>();
        let (met, at_gate) = mpsc::channel();
        plane.answer(move |ask| {
            if matches!(ask, Ask::Manifest { .. }) {
                met.send(()).unwrap();
                gate.recv().unwrap();
            }
            nothing_is_here(ask);
        });
        let mut client = plane.client();
        let opened = client.ask("POST", &format!("/v2/{}/blobs/uploads/", repository()), b"");
        let location = opened.field("location").unwrap().to_owned();
        let mut gated = plane.client();
        gated.send("GET", &format!("/v2/{}/manifests/any", repository()), b"");
        at_gate.recv_timeout(Duration::from_secs(30)).unwrap();
        let waiting = fill_questions(&plane.control);
        client.send("PUT", &format!("{location}?digest={}", sha256(b"patient")), b"patient");
        until_met(&plane.faults, Call::SyncDirectory);
        plane.client().get(&blob_target()).is_overload();
        go.send(()).unwrap();
        assert_eq!(client.read().unwrap().status, 201);
        assert_eq!(gated.read().unwrap().status, 404);
        waiting.into_iter().for_each(|one| assert_eq!(wait_for(one), Ok(None)));
        drop((client, gated));
        plane.end();
    }
}

/// Waits until a call of this kind was recorded.
fn until_met(faults: &Faults, call: Call) {
    let mut patience = 0..30_000;
    while !faults.take().iter().any(|(met, _)| *met == call) {
        patience.next().expect("it comes to this call");
        std::thread::park_timeout(Duration::from_millis(1));
    }
}

#[test]
fn sockets_wait_for_a_core_that_is_busy_up_to_a_bound() {
    for leg in legs() {
        let mut plane = Plane::start(leg);
        plane.answer(nothing_is_here);
        let mut busy = plane.client();
        let opened = busy.ask("POST", &format!("/v2/{}/blobs/uploads/", repository()), b"");
        let location = opened.field("location").unwrap().to_owned();
        plane.faults.take();
        // A write is begun on the core's own thread.
        plane.faults.hold(Call::Write);
        busy.send("PATCH", &location, b"held");
        until_met(&plane.faults, Call::Write);
        let mut waiting: Vec<_> = (0..MAILBOX_SOCKETS_MAX).map(|_| plane.client()).collect();
        waiting.iter_mut().for_each(|client| client.send("GET", "/v2/", b""));
        let mut over = plane.client();
        let answer = over.read().unwrap();
        answer.is_overload();
        assert_eq!(answer.field("connection"), Some("close"));
        assert!(over.read().is_err(), "it is closed");
        plane.faults.heal();
        for client in &mut waiting {
            assert_eq!(client.read().unwrap().status, 200);
        }
        assert_eq!(busy.read().unwrap().status, 202);
        assert_eq!(plane.client().get("/v2/").status, 200);
        drop((waiting, busy));
        plane.end();
    }
}

#[test]
fn jobs_wait_for_the_pool_up_to_a_bound() {
    for leg in legs() {
        let rig = Rig::new();
        let session = rig.on_core(leg, |io, store, _faults| async move {
            begin(&io, &store, Algorithm::Sha256, b"kept").await.unwrap()
        });
        let (gates, met): (Vec<_>, Vec<_>) = (0..POOL_THREADS)
            .map(|_| {
                let (go, gate) = mpsc::channel::<()>();
                let (met, at_gate) = mpsc::channel();
                drop(rig.pool.run(move |_fs| {
                    met.send(()).unwrap();
                    gate.recv().unwrap();
                    Ok(())
                }));
                (go, at_gate)
            })
            .unzip();
        met.iter().for_each(|at_gate| at_gate.recv_timeout(Duration::from_secs(30)).unwrap());
        let done = Arc::new(AtomicUsize::new(0));
        let job = || {
            let done = done.clone();
            rig.pool.run(move |_fs| Ok(done.fetch_add(1, Ordering::Relaxed)))
        };
        let waiting: Vec<_> = (0..POOL_JOBS_MAX).map(|_| job()).collect();
        assert_eq!(wait_for(job()).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        rig.on_core(leg, move |io, store, _faults| async move {
            let opened = store.open_upload(&io, repository(), Principal::Anonymous, Algorithm::Sha256).await;
            assert_eq!(opened, Err(OVERLOADED));
            assert_eq!(store.cancel(&io, &repository(), &session).await, Err(OVERLOADED));
            assert_eq!(store.offset(&repository(), &session), Ok(4), "who was told to come back can");
            let found = store.open_blob(&io, &sha256(b"any")).await;
            assert_eq!(found.map(drop).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
        });
        assert_eq!(rig.store.counters().sessions_open.load(Ordering::Relaxed), 1);
        gates.into_iter().for_each(|go| go.send(()).unwrap());
        waiting.into_iter().for_each(|one| assert!(wait_for(one).is_ok()));
        assert_eq!(done.load(Ordering::Relaxed), POOL_JOBS_MAX);
        rig.on_core(leg, move |io, store, _faults| async move {
            store.cancel(&io, &repository(), &session).await.unwrap();
            begin(&io, &store, Algorithm::Sha256, b"abc").await.unwrap();
        });
        rig.end();
    }
}

/// A read that finds the pool full is tried again; bytes that a client was promised are not given up for that.
#[test]
fn a_cold_read_waits_for_the_pool_up_to_a_bound() {
    const EAGAIN: i32 = 11;
    const LEN: usize = 1 << 20;
    let stall = Duration::from_millis(500);
    for leg in legs() {
        for heals in [true, false] {
            let limits = Limits { send_stall_timeout: stall, ..Plane::limits() };
            let mut plane = Plane::with(leg, false, limits);
            plane.answer(|ask| match ask {
                Ask::Link { answer, .. } => {
                    drop(answer.send(Ok(Some(Link::Here { size_bytes: LEN as u64 }))));
                }
                _ => panic!("not asked here"),
            });
            let (digest, _file) = hole(&plane, LEN);
            plane.faults.fail(Call::Read, 0, EAGAIN);
            let began = Instant::now();
            let mut client = plane.client();
            client.send("GET", &format!("/v2/a/blobs/{digest}"), b"");
            (0..3).for_each(|_| until_met(&plane.faults, Call::Read));
            if heals {
                plane.faults.heal();
                let answer = client.read().unwrap();
                assert_eq!((answer.status, answer.body == vec![0; LEN]), (200, true));
            } else {
                assert!(client.read().is_err(), "nobody waits for ever");
                assert!(began.elapsed() >= stall, "{:?}", began.elapsed());
                plane.faults.heal();
            }
            // It was nothing about the blob.
            assert_eq!(plane.client().get(&format!("/v2/a/blobs/{digest}")).status, 200);
            drop(client);
            plane.end();
        }
    }
}

/// What the kernel queues for a client may take it longer than a client may stall. A client that was itself kept from
/// reading for so long shows nothing: then another one tries.
#[test]
fn a_client_that_takes_a_little_all_the_time_is_not_cut() {
    const LEN: usize = 24 << 20;
    const STALL: Duration = Duration::from_millis(1000);
    for leg in legs() {
        let limits = Limits { send_stall_timeout: STALL, ..Plane::limits() };
        let mut plane = Plane::with(leg, false, limits);
        plane.answer(|ask| match ask {
            Ask::Link { answer, .. } => drop(answer.send(Ok(Some(Link::Here { size_bytes: LEN as u64 })))),
            _ => panic!("not asked here"),
        });
        let (digest, _file) = hole(&plane, LEN);
        let target = format!("/v2/a/blobs/{digest}");
        let takes_all = |client: &mut Client| {
            client.send("GET", &target, b"");
            assert_eq!(client.read_head().unwrap().status, 200);
            // So fast at first that the kernel takes to long queues.
            client.read_rest(LEN / 2).unwrap();
            let (mut rest, mut last, mut paused) = (LEN / 2, Instant::now(), Duration::ZERO);
            while rest > 0 {
                std::thread::sleep(Duration::from_millis(50));
                let some = rest.min(48 * 1024);
                let taken = client.read_rest(some);
                paused = paused.max(last.elapsed());
                last = Instant::now();
                match taken {
                    Ok(_) => rest -= some,
                    Err(_) if paused >= STALL => return false,
                    Err(error) => panic!("{error} after pauses of at most {paused:?}"),
                }
            }
            true
        };
        let mut tries = (0..10).map(|_| plane.client());
        let mut client =
            tries.find_map(|mut client| takes_all(&mut client).then_some(client)).expect("one is in time");
        drop(tries);
        // Who takes nothing is.
        client.send("GET", &target, b"");
        client.read_head().unwrap();
        until("it is cut", || plane.sample("gantry_http_open_connections{core=\"0\"}") == 0);
        plane.end();
    }
}

/// Sessions with different content.
async fn sessions(io: &Io, store: &Store, count: usize) -> Vec<(UploadId, Digest)> {
    let mut begun = Vec::new();
    for number in 0..count {
        let content = format!("blob number {number}").into_bytes();
        let id = begin(io, store, Algorithm::Sha256, &content).await.unwrap();
        begun.push((id, sha256(&content)));
    }
    begun
}

/// Commits the first, has the keeper wait in the middle of that, and commits the others behind it. The keeper
/// goes on when all of them wait, or when one was refused.
async fn behind_one(
    io: &Io,
    store: &Store,
    faults: &Faults,
    sessions: &[(UploadId, Digest)],
) -> Vec<Result<(), Problem>> {
    faults.take();
    faults.hold(Call::SyncDirectory);
    let mut commits: Vec<Pin<Box<dyn Future<Output = _> + '_>>> = Vec::new();
    for (id, digest) in sessions {
        commits.push(Box::pin(async move {
            let told = finish(io, store, faults, id, *digest).await;
            told.inspect_err(|_| faults.heal())
        }));
    }
    // Up to here their files are open, so that the first poll of each brings it to the queue.
    let all_wait_at_once = sessions.len() <= UPLOAD_FILES_KEPT_MAX;
    let mut first = commits.remove(0);
    std::future::poll_fn(|context| {
        assert!(first.as_mut().poll(context).is_pending());
        Poll::Ready(())
    })
    .await;
    until_met(faults, Call::SyncDirectory);
    let others = all_at_once(commits, || {
        if all_wait_at_once {
            faults.heal();
        }
    })
    .await;
    [vec![first.await], others].concat()
}

#[test]
fn commits_wait_for_the_keeper_up_to_a_bound_and_go_in_batches() {
    for leg in legs() {
        let rig = Rig::new();
        rig.on_core(leg, |io, store, faults| async move {
            let sessions = sessions(&io, &store, COMMITS_WAITING_MAX + 2).await;
            let told = behind_one(&io, &store, &faults, &sessions).await;
            let refused: Vec<usize> = (0..told.len()).filter(|at| told[*at].is_err()).collect();
            assert_eq!((refused.len(), &told[refused[0]]), (1, &Err(OVERLOADED)));
            let batches = store.counters().batches.load(Ordering::Relaxed);
            assert_eq!(batches, 1 + COMMITS_WAITING_MAX.div_ceil(BATCH_MEMBERS_MAX) as u64);
            // The session of the one that found no place goes on.
            let (id, digest) = sessions[refused[0]];
            finish(&io, &store, &faults, &id, digest).await.unwrap();
        });
        assert_eq!(rig.metadata.0.lock().unwrap().rows.len(), COMMITS_WAITING_MAX + 2);
        assert_eq!(rig.metadata.0.lock().unwrap().largest_batch, BATCH_MEMBERS_MAX);
        rig.end();
    }
}

#[test]
fn few_members_are_synced_one_by_one_and_many_with_the_volume() {
    for (members, with_volume) in [(SYNCFS_MEMBERS_MIN - 1, 0), (SYNCFS_MEMBERS_MIN, 1)] {
        let rig = Rig::new();
        let with_volume = if has_volume_sync(&rig) { with_volume } else { 0 };
        rig.on_core(Driver::Epoll, move |io, store, faults| async move {
            let sessions = sessions(&io, &store, members + 1).await;
            let told = behind_one(&io, &store, &faults, &sessions).await;
            assert!(told.iter().all(Result::is_ok), "{told:?}");
        });
        let counters = rig.store.counters();
        assert_eq!(counters.volume_syncs.load(Ordering::Relaxed), with_volume);
        let alone = if with_volume == 1 { 1 } else { members as u64 + 1 };
        assert_eq!(counters.data_syncs.load(Ordering::Relaxed), alone);
        rig.end();
    }
}
