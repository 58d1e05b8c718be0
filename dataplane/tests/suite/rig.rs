//! A store in a directory of its own, a keeper, a control plane of a few lines, and one core.

use std::{
    collections::{HashMap, HashSet},
    fs,
    future::Future,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    task::{Context, Poll, Wake, Waker},
    thread::{self, JoinHandle, Thread},
    time::Duration,
};

use bytes::Bytes;
use control::{Ask, CommitFailed, Control, Lanes, Principal, Refusal, Writes};
use dataplane::testing::{
    Call, Driver, Faults, Fs, Io, Pool, Store, StoreSettings, mark_disk_error, open, spawn_core,
};
use oci::{Algorithm, Digest, Problem, RepositoryName, UploadId};

/// The legs that this machine has. The suite of the whole server says which ones it must have.
pub fn legs() -> Vec<Driver> {
    let mut legs = vec![Driver::Epoll];
    match dataplane::testing::probe() {
        Ok(()) => legs.push(Driver::Uring),
        Err(error) => assert!(
            !std::env::var("GANTRY_REQUIRE").unwrap_or_default().contains("uring"),
            "no ring here: {error}"
        ),
    }
    legs
}

pub fn repository() -> RepositoryName {
    RepositoryName::parse("library/thing").unwrap()
}

pub fn sha256(content: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, content)
}

/// A data directory that goes with the test.
pub struct Place(PathBuf);

impl Place {
    pub fn new() -> Place {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        // Beside the build, not in a temporary directory that may be no disk at all.
        let root = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let path = root.join(format!("store-{}-{number}", std::process::id()));
        fs::create_dir(&path).unwrap();
        Place(path)
    }

    pub fn path(&self, relative: impl AsRef<Path>) -> PathBuf {
        self.0.join(relative)
    }

    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.path(format!("blobs/{}/{}", digest.algorithm(), digest.hex(&mut [0; 128])))
    }

    pub fn upload(&self, id: &UploadId) -> PathBuf {
        self.path(format!("uploads/{id}"))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

/// The control plane's memory, and what it is told to do.
#[derive(Default)]
pub struct Metadata {
    pub rows: HashMap<Digest, u64>,
    /// Members that fail alone.
    pub denied: HashSet<Digest>,
    /// Members of the largest batch so far.
    pub largest_batch: usize,
    /// COMMIT waits while this is set.
    held: bool,
}

pub type Shared = Arc<(Mutex<Metadata>, Condvar)>;

pub struct Rig {
    pub place: Arc<Place>,
    pub faults: Faults,
    /// What the start asked of the disk.
    pub at_start: Vec<(Call, String)>,
    pub fs: Fs,
    pub writes: Arc<Writes>,
    pub store: Arc<Store>,
    pub metadata: Shared,
    pub pool: Pool,
    keeper: JoinHandle<()>,
    plane: JoinHandle<()>,
}

impl Rig {
    pub fn new() -> Rig {
        Rig::over(Arc::new(Place::new()), Shared::default(), Duration::from_secs(3600))
    }

    /// A process that finds what an earlier one left in `place`.
    pub fn over(place: Arc<Place>, metadata: Shared, upload_expiry: Duration) -> Rig {
        let blob_bytes_max = 64 * 1024 * 1024;
        Rig::set(
            place,
            metadata,
            StoreSettings {
                reserve_bytes_min: 1 << 20,
                upload_expiry,
                blob_bytes_max,
                filled_wait: Duration::from_secs(5),
                cache: dataplane::CacheSize::NONE,
                namespaces: Arc::default(),
            },
        )
    }

    pub fn set(place: Arc<Place>, metadata: Shared, settings: StoreSettings) -> Rig {
        let faults = Faults::recording();
        let fs = Fs::open(&place.path(""), faults.clone()).unwrap();
        let marking = fs.clone();
        let writes = Arc::new(Writes::allowed(Box::new(move |why, since| {
            if why != Refusal::MarkFound {
                mark_disk_error(&marking, since);
            }
        })));
        let rows = metadata.clone();
        let mut home = |digests: Vec<Digest>| Ok(sizes(&rows, &digests));
        let store = Arc::new(open(fs.clone(), settings, writes.clone(), &mut home).unwrap());
        let at_start = faults.take();
        let (control, lanes) = Control::lanes(64, 1);
        let keeper = store.start_keeper(control, ()).unwrap();
        let (rows, commits) = (metadata.clone(), faults.clone());
        let plane = thread::spawn(move || answer(lanes, &rows, &commits));
        let pool = Pool::start(&fs).unwrap();
        Rig { place, faults, at_start, fs, writes, store, metadata, pool, keeper, plane }
    }

    /// Runs `main` on a core and gives its result.
    pub fn on_core<T, M, F>(&self, leg: Driver, main: M) -> T
    where
        T: Send + 'static,
        M: FnOnce(Io, Arc<Store>, Faults) -> F + Send + 'static,
        F: Future<Output = T>,
    {
        let (sender, receiver) = mpsc::channel();
        let (store, faults) = (self.store.clone(), self.faults.clone());
        let core = spawn_core(0, leg, self.pool.clone(), move |io| async move {
            sender.send(main(io, store, faults).await).unwrap();
        });
        core.unwrap().join().unwrap().unwrap();
        receiver.recv().unwrap()
    }

    /// COMMITs wait until `release`.
    pub fn hold(&self) {
        self.metadata.0.lock().unwrap().held = true;
    }

    pub fn row(&self, digest: &Digest) -> Option<u64> {
        self.metadata.0.lock().unwrap().rows.get(digest).copied()
    }

    /// Ends the process in good order; what it left stays for the next.
    pub fn end(self) -> (Arc<Place>, Shared) {
        self.store.close();
        self.keeper.join().unwrap();
        self.plane.join().unwrap();
        self.pool.close();
        (self.place, self.metadata)
    }
}

/// Whether the keeper knows how to sync this volume as a whole.
pub fn has_volume_sync(rig: &Rig) -> bool {
    ["ext4", "xfs", "btrfs"].contains(&rig.store.disk().filesystem)
}

pub fn release(metadata: &Shared) {
    metadata.0.lock().unwrap().held = false;
    metadata.1.notify_all();
}

fn sizes(metadata: &Shared, digests: &[Digest]) -> Vec<Option<u64>> {
    let metadata = metadata.0.lock().unwrap();
    digests.iter().map(|digest| metadata.rows.get(digest).copied()).collect()
}

fn answer(mut lanes: Lanes, metadata: &Shared, faults: &Faults) {
    while let Some(ask) = wait_for(lanes.questions.recv()) {
        match ask {
            Ask::Home { digests, answer } => answer.send(Ok(sizes(metadata, &digests))).unwrap(),
            Ask::Commit { batch, answer } => {
                let mut known =
                    metadata.1.wait_while(metadata.0.lock().unwrap(), |known| known.held).unwrap();
                known.largest_batch = known.largest_batch.max(batch.len());
                let met =
                    batch.iter().try_for_each(|blob| faults.meet(Call::Commit, &blob.digest.to_string()));
                let mut one = |blob: &control::PushedBlob| {
                    if known.denied.contains(&blob.digest) {
                        return Err(Problem::Denied);
                    }
                    known.rows.insert(blob.digest, blob.size_bytes);
                    Ok(())
                };
                let done = batch.iter().map(&mut one).collect();
                answer.send(met.map(|()| done).map_err(|_error| CommitFailed)).unwrap();
            }
            _ => panic!("the store asks nothing else"),
        }
    }
}

/// Runs a future on a thread that has nothing else to do.
pub fn wait_for<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Unpark>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = std::pin::pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(ready) => return ready,
            Poll::Pending => thread::park(),
        }
    }
}

/// A session with `content` in it, settled.
pub async fn begin(
    io: &Io,
    store: &Store,
    algorithm: Algorithm,
    content: &[u8],
) -> Result<UploadId, Problem> {
    let id = store.open_upload(io, repository(), Principal::Anonymous, algorithm).await?;
    let mut upload = store.take(&repository(), &id)?;
    assert_eq!(upload.algorithm(), algorithm);
    upload.push(io, Bytes::copy_from_slice(content)).await?;
    upload.settle(io).await?;
    upload.put_back();
    Ok(id)
}

/// The PUT that ends a session. After a success nothing fails any more.
pub async fn finish(
    io: &Io,
    store: &Store,
    faults: &Faults,
    id: &UploadId,
    digest: Digest,
) -> Result<(), Problem> {
    store.take(&repository(), id)?.commit(io, digest).await?;
    faults.heal();
    Ok(())
}

/// A whole push under sha256.
pub async fn push(io: &Io, store: &Store, faults: &Faults, content: &[u8]) -> Result<UploadId, Problem> {
    let id = begin(io, store, Algorithm::Sha256, content).await?;
    finish(io, store, faults, &id, sha256(content)).await?;
    Ok(id)
}

/// Polls all of them once, in order, then calls `between`, then waits for all.
pub async fn all_at_once<T>(
    mut futures: Vec<Pin<Box<dyn Future<Output = T> + '_>>>,
    between: impl FnOnce(),
) -> Vec<T> {
    let mut results: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    let mut between = Some(between);
    std::future::poll_fn(|context| {
        for (future, result) in futures.iter_mut().zip(&mut results) {
            if result.is_none()
                && let Poll::Ready(ready) = future.as_mut().poll(context)
            {
                *result = Some(ready);
            }
        }
        if let Some(between) = between.take() {
            between();
        }
        if results.iter().all(Option::is_some) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
    results.into_iter().flatten().collect()
}

/// Looks until it is so.
#[track_caller]
pub fn until(what: &str, mut ready: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    while !ready() {
        assert!(began.elapsed() < Duration::from_secs(60), "it never came to be: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
