//! The store with a core's `Io` under it, where no answer shows what happens.

use std::{
    env, fs,
    future::Future,
    sync::{atomic::AtomicUsize, mpsc},
    task::Poll,
};

use super::*;
use crate::{
    io::{Driver, Faults, PAGE_BYTES, Pool, probe, spawn_core},
    limits::{BUF_BYTES, UPLOAD_SESSIONS_MAX},
};

fn repository() -> RepositoryName {
    RepositoryName::parse("library/thing").unwrap()
}

/// Runs `main` on a core, over a store of its own with so many sessions that have no files.
fn on_core<F>(driver: Driver, sessions: usize, main: impl FnOnce(Io, Arc<Store>) -> F + Send + 'static)
where
    F: Future<Output = ()>,
{
    static PLACES: AtomicUsize = AtomicUsize::new(0);
    let place = PLACES.fetch_add(1, Ordering::Relaxed);
    let place = env::temp_dir().join(format!("gantry-store-{}-{place}", std::process::id()));
    fs::create_dir(&place).unwrap();
    let disk = Fs::open(&place, Faults::none()).unwrap();
    let expiry = Duration::from_secs(3600);
    let settings = StoreSettings {
        reserve_bytes_min: 1,
        upload_expiry: expiry,
        blob_bytes_max: 1 << 20,
        filled_wait: Duration::from_secs(5),
        cache: crate::CacheSize::NONE,
        namespaces: Arc::default(),
    };
    let writes = Arc::new(Writes::allowed(Box::new(|_, _| {})));
    let store = open(disk.clone(), settings, writes, &mut |_| Ok(Vec::new())).unwrap();
    for number in 0..sessions {
        store.shared.sessions.insert(Box::new(Open {
            id: UploadId::from_bytes((number as u128).to_be_bytes()),
            repository: repository(),
            principal: Principal::Anonymous,
            created_unix: 0,
            algorithm: Algorithm::Sha256,
            running: None,
            offset: 0,
            allocated: 0,
            written_back: 0,
            records: 0,
            progress: Instant::now(),
            files: None,
            reopened: false,
        }));
    }
    let (store, pool) = (Arc::new(store), Pool::start(&disk).unwrap());
    let (done, end) = mpsc::channel();
    let core = spawn_core(0, driver, pool.clone(), move |io| async move {
        main(io, store).await;
        done.send(()).unwrap();
    });
    core.unwrap().join().unwrap().unwrap();
    end.recv().unwrap();
    pool.close();
    fs::remove_dir_all(place).unwrap();
}

#[test]
fn the_last_place_is_given_once_and_given_again_when_it_is_free() {
    let legs = [Driver::Epoll, Driver::Uring];
    for driver in legs.into_iter().filter(|driver| *driver == Driver::Epoll || probe().is_ok()) {
        on_core(driver, UPLOAD_SESSIONS_MAX - 1, |io, store| async move {
            let one = || store.open_upload(&io, repository(), Principal::Anonymous, Algorithm::Sha256);
            // All at once, on all threads of the pool.
            let mut opening: Vec<_> = (0..32).map(|_| Box::pin(one())).collect();
            let mut opened = Vec::new();
            std::future::poll_fn(|context| {
                opening.retain_mut(|one| match one.as_mut().poll(context) {
                    Poll::Ready(Ok(id)) => {
                        opened.push(id);
                        false
                    }
                    Poll::Ready(Err(problem)) => {
                        assert_eq!(problem, OVERLOADED);
                        false
                    }
                    Poll::Pending => true,
                });
                if opening.is_empty() { Poll::Ready(()) } else { Poll::Pending }
            })
            .await;
            assert_eq!(opened.len(), 1);
            assert_eq!(store.shared.sessions.count(), UPLOAD_SESSIONS_MAX);
            assert_eq!(store.shared.fs.list(UPLOADS).unwrap().len(), 1, "who found no place made nothing");
            store.cancel(&io, &repository(), &opened[0]).await.unwrap();
            one().await.unwrap();
        });
    }
}

#[test]
fn a_name_that_was_given_is_looked_for_again() {
    on_core(Driver::Epoll, 0, |_, store| async move {
        let [one, other] = [&b"one"[..], b"other"].map(|bytes| Digest::of(Algorithm::Sha256, bytes));
        let [absence, others] = [&one, &other].map(|digest| store.before_looking(digest));
        assert!(store.is_absent_still(&one, absence));
        let given = store.shared.giving(&one, || {
            assert!(!store.is_absent_still(&one, absence), "it may be there by now");
            assert!(!store.is_absent_still(&one, store.before_looking(&one)), "or not yet");
            Ok(true)
        });
        assert!(given.unwrap() && !store.is_absent_still(&one, absence));
        let absence = store.before_looking(&one);
        store.shared.replacing(&one, || Ok(())).unwrap();
        assert!(!store.is_absent_still(&one, absence), "another file has it, which can be read");
        assert!(store.is_absent_still(&other, others));
    });
}

/// From a page on and from where no direct read may begin; whole, and up to the end of the file.
#[test]
fn a_direct_read_gives_the_bytes_that_any_read_gives() {
    let legs = [Driver::Epoll, Driver::Uring];
    for driver in legs.into_iter().filter(|driver| *driver == Driver::Epoll || probe().is_ok()) {
        on_core(driver, 0, |io, store| async move {
            let bytes: Vec<u8> = (0..2 * BUF_BYTES + 12_345).map(|at| (at % 251) as u8).collect();
            let file = store.shared.fs.create("bytes").unwrap();
            io.write(&file, 0, bytes.clone().into()).await.unwrap();
            let file = store.shared.fs.open_file("bytes").unwrap().unwrap();
            for at in
                [0, PAGE_BYTES as usize, 2 * BUF_BYTES, 2 * BUF_BYTES + 3 * PAGE_BYTES as usize, 1, 4097]
            {
                let (read, buf) = io.read_direct(&file, at as u64, io.buf().await).await;
                let wanted = &bytes[at..bytes.len().min(at + BUF_BYTES)];
                assert_eq!(read.unwrap(), wanted.len(), "at {at}");
                assert!(buf.filled() == wanted, "at {at}");
            }
            let (read, _) = io.read_direct(&file, 3 * BUF_BYTES as u64, io.buf().await).await;
            assert_eq!(read.unwrap(), 0);
        });
    }
}
