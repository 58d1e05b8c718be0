//! Start and stop of the data plane: its threads, who starts whom, who waits for whom.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use control::{CacheAsk, Control, CoreHealth, Epochs, Health, Lane, Origin, Writes, WritesHealth};
use oci::{Digest, Problem};
use tokio::sync::mpsc;

use crate::{
    IoChoice, Settings,
    access::{self, AccessLog, AccessThread},
    core::{Connection, Core, Parts, connection, errands},
    fill::Fills,
    http::{HttpDate, Lines},
    io::{
        CoreThread, Driver, Faults, Fs, Instant, Io, Listener, ListenerStop, Pool, probe,
        raise_descriptor_limit, rest, spawn_core, spawn_named, unix_time,
    },
    limits::{MAILBOX_SOCKETS_MAX, OPEN_FILES_PER_CORE},
    metrics::{CoreCounters, Metrics},
    store::{self, CacheSize, Store, StoreCounters, StoreSettings},
};

/// Why the data plane did not start.
#[derive(Debug)]
pub enum StartError {
    /// The address can't be listened on.
    Listen(SocketAddr, io::Error),
    /// The ring was asked for and can't be had.
    NoRing(io::Error),
    /// The data directory can't be used.
    Data(io::Error),
    /// A thread or its driver did not start.
    Thread(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Listen(address, error) => write!(f, "can't listen on {address}: {error}"),
            StartError::NoRing(error) => write!(
                f,
                "io_uring can't be had here ({error}); use --io epoll, or --io auto to let Gantry choose"
            ),
            StartError::Data(error) => write!(f, "the data directory can't be used: {error}"),
            StartError::Thread(error) => write!(f, "a thread can't be started: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

/// A running data plane.
pub struct Running {
    address: SocketAddr,
    driver: Driver,
    shared: Arc<Shared>,
    control: Control,
    stop: ListenerStop,
    mailboxes: Vec<mpsc::Sender<Message>>,
    threads: Vec<CoreThread>,
    acceptor: JoinHandle<()>,
    keeper: JoinHandle<()>,
    access: Option<AccessThread>,
    pool: Pool,
}

/// What outlives a call: for `/healthz` and `/metrics`.
pub struct Shared {
    store: Arc<Store>,
    fills: Arc<Fills>,
    writes: Arc<Writes>,
    metrics: Metrics,
    driver: Driver,
    warnings: Vec<String>,
}

/// Who is told that a thread panicked.
pub type Failed = Arc<dyn Fn(String) + Send + Sync>;

/// Says it of an origin.
pub type Pinned = Arc<dyn Fn(&Origin) -> bool + Send + Sync>;

/// Held by a thread that the process can't do without; tells when it is dropped by a panic.
struct Alarm {
    thread: &'static str,
    failed: Failed,
}

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            (self.failed)(format!("the {} ended by a panic", self.thread));
        }
    }
}

/// The ends that the data plane is joined by.
pub struct Joints {
    /// Where questions go.
    pub control: Control,
    /// What keeps answers true.
    pub epochs: Arc<Epochs>,
    /// Whether anything may be written.
    pub writes: Arc<Writes>,
    /// Told, in a sentence, when a thread ended that the process can't do without.
    pub failed: Failed,
    /// What is asked of the cache.
    pub cache: Lane<CacheAsk>,
    /// Whether blobs that come from there are kept whatever room is lacking.
    pub pinned: Pinned,
    /// A record of disk calls, and failures on demand; `Faults::none()` in a server.
    pub faults: Faults,
}

enum Message {
    Socket(std::os::fd::OwnedFd, SocketAddr),
    /// The file of this digest has lost its name.
    Forget(Digest),
    Drain,
    End,
}

/// Starts everything, and binds the address last. `home` asks the metadata which blobs it has.
pub fn start(
    settings: Settings,
    joints: Joints,
    home: &mut dyn FnMut(Vec<Digest>) -> Result<Vec<Option<u64>>, Problem>,
) -> Result<Running, StartError> {
    let (driver, mut warnings) = choose(settings.io, probe)?;
    let descriptors = raise_descriptor_limit();
    let fs = Fs::open(&settings.data, joints.faults).map_err(StartError::Data)?;
    let filesystem = fs.filesystem().map_err(StartError::Data)?;
    if !matches!(filesystem, "ext4" | "xfs" | "btrfs") {
        let warning = format!(
            "the data directory is on {filesystem}: no rule is known for its volume-wide sync, so each file \
             is synced alone; use ext4, xfs or btrfs"
        );
        tracing::warn!(filesystem, "{warning}");
        warnings.push(warning);
    }
    let store_settings = StoreSettings {
        reserve_bytes_min: settings.reserve_bytes,
        upload_expiry: settings.limits.upload_expiry,
        blob_bytes_max: settings.limits.blob_bytes,
        filled_wait: settings.limits.filled_wait,
        cache: if settings.namespaces.iter().next().is_some() { settings.cache } else { CacheSize::NONE },
        namespaces: settings.namespaces.clone(),
    };
    let store =
        store::open(fs.clone(), store_settings, joints.writes.clone(), home).map_err(StartError::Data)?;
    let store = Arc::new(store);
    let fills = Arc::new(
        Fills::open(&fs, &store, &settings.namespaces, settings.complete_percent.clone(), joints.pinned)
            .map_err(StartError::Data)?,
    );
    let pool = Pool::start(&fs).map_err(StartError::Thread)?;
    let alarm = Alarm { thread: "keeper", failed: joints.failed.clone() };
    let keeper = store.start_keeper(joints.control.clone(), alarm).map_err(StartError::Thread)?;
    let (logs, access) = start_access_log(&settings).map_err(StartError::Thread)?;
    let metrics = Metrics::new(settings.cores);
    let counters = metrics.cores().to_vec();
    let mut mailboxes = Vec::new();
    let mut threads = Vec::new();
    let mut asks = Some(joints.cache);
    for ((index, access), counters) in logs.into_iter().enumerate().zip(&counters) {
        let (mailbox, inbox) = mpsc::channel(MAILBOX_SOCKETS_MAX);
        let parts = Parts {
            control: joints.control.clone(),
            store: store.clone(),
            limits: settings.limits.clone(),
            counters: counters.clone(),
            index,
            epochs: joints.epochs.clone(),
            namespaces: settings.namespaces.clone(),
            fills: fills.clone(),
            access,
        };
        let alarm = Alarm { thread: "core", failed: joints.failed.clone() };
        let asks = asks.take();
        let thread = spawn_core(index, driver, pool.clone(), move |io| async move {
            let _alarm = alarm;
            let core = Core::new(io.clone(), parts);
            // One core is enough for what no client waits for.
            asks.into_iter().for_each(|asks| io.spawn(errands(core.clone(), asks)));
            serve(core, io, inbox).await;
        });
        threads.push(thread.map_err(StartError::Thread)?);
        mailboxes.push(mailbox);
    }
    let forgetting = mailboxes.clone();
    store.on_forget(move |digest| {
        for mailbox in &forgetting {
            // A core that has no time for it closes the file when it has opened some others.
            let _ = mailbox.try_send(Message::Forget(*digest));
        }
    });
    let listen_error = |error| StartError::Listen(settings.listen, error);
    let listener = Listener::bind(settings.listen).map_err(listen_error)?;
    let address = listener.address().map_err(listen_error)?;
    let stop = listener.stopper();
    let most = connections_max(settings.limits.connections, settings.cores, descriptors);
    let acceptor = Acceptor { listener, mailboxes: mailboxes.clone(), counters, most };
    let alarm = Alarm { thread: "acceptor", failed: joints.failed.clone() };
    let acceptor = spawn_named("acceptor".to_owned(), move || {
        let _alarm = alarm;
        acceptor.run();
    });
    let acceptor = acceptor.map_err(StartError::Thread)?;
    let shared = Arc::new(Shared { store, fills, writes: joints.writes, metrics, driver, warnings });
    let control = joints.control;
    Ok(Running { address, driver, shared, control, stop, mailboxes, threads, acceptor, keeper, access, pool })
}

impl Running {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `"uring"` or `"epoll"`, for every core.
    pub fn drivers(&self) -> Vec<&'static str> {
        vec![self.driver.name(); self.threads.len()]
    }

    /// What `/healthz` and `/metrics` tell of the data plane.
    pub fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    /// Accepts no more, lets what is in flight end for at most `drain`, then ends every thread.
    pub fn stop(self, drain: Duration) {
        self.stop.stop();
        self.tell_cores(&Message::Drain);
        let until = Instant::now() + drain;
        let open = || self.shared.metrics.cores().iter().map(|core| core.connections_open()).sum::<u64>();
        while open() > 0 && Instant::now() < until {
            rest(Duration::from_millis(5));
        }
        self.tell_cores(&Message::End);
        let _ = self.acceptor.join();
        for thread in self.threads {
            if let Ok(Err(error)) = thread.join() {
                tracing::error!(%error, "a core's driver failed");
            }
        }
        self.shared.store.close();
        let _ = self.keeper.join();
        self.control.close();
        self.pool.close();
        if let Some(access) = self.access {
            access.stop();
        }
    }

    fn tell_cores(&self, message: &Message) {
        for mailbox in &self.mailboxes {
            let message = match message {
                Message::Drain => Message::Drain,
                Message::End | Message::Socket(..) | Message::Forget(_) => Message::End,
            };
            // A core that has ended needs no telling.
            let _ = mailbox.blocking_send(message);
        }
    }
}

impl Shared {
    /// What the process knows of itself.
    pub fn health(&self) -> Health {
        let core = |counters: &Arc<CoreCounters>| CoreHealth {
            driver: self.driver.name(),
            connections: counters.connections_open(),
        };
        let full = || self.store.room_for(0).is_err().then_some("the disk is full; reads go on");
        let why = self.writes.refused().map(control::Refusal::why).or_else(full);
        Health {
            cores: self.metrics.cores().iter().map(core).collect(),
            disk: self.store.disk(),
            writes: WritesHealth { allowed: why.is_none(), why },
            warnings: self.warnings.iter().cloned().chain(self.loss()).collect(),
        }
    }

    /// What the last scrub missed. Reads and pushes go on: it is an alarm for an operator and no reason to take the
    /// whole registry away.
    fn loss(&self) -> Option<String> {
        let lost = self.store.counters().lost_blobs.load(Ordering::Relaxed);
        (lost > 0).then(|| {
            format!(
                "blobs whose whole file the last scrub missed: {lost}; the log names the first of them; push them \
                 again"
            )
        })
    }

    /// The data plane's families in the OpenMetrics text format, without the end mark.
    pub fn render_metrics(&self, out: &mut String) {
        self.metrics.render(out);
        render_store(self.store.counters(), out);
        self.fills.render_metrics(out);
    }
}

struct Acceptor {
    listener: Listener,
    mailboxes: Vec<mpsc::Sender<Message>>,
    counters: Vec<Arc<CoreCounters>>,
    most: u64,
}

impl Acceptor {
    fn run(self) {
        loop {
            let (fd, peer) = match self.listener.accept() {
                Ok(Some(accepted)) => accepted,
                Ok(None) => return,
                Err(error) => {
                    // Out of descriptors, or a client that left while it waited: neither is for ever.
                    tracing::warn!(%error, "a connection can't be accepted");
                    rest(Duration::from_millis(10));
                    continue;
                }
            };
            let open: u64 = self.counters.iter().map(|core| core.connections_open()).sum();
            let least = (0..self.mailboxes.len()).min_by_key(|core| self.counters[*core].connections_open());
            let Some(core) = least.filter(|_| open < self.most) else {
                Listener::turn_away(fd, &busy());
                continue;
            };
            self.counters[core].connection_opened();
            if let Err(refused) = self.mailboxes[core].try_send(Message::Socket(fd, peer)) {
                self.counters[core].connection_closed();
                if let Message::Socket(fd, _) = refused.into_inner() {
                    Listener::turn_away(fd, &busy());
                }
            }
        }
    }
}

/// What a client is told that can't even be listened to.
fn busy() -> Vec<u8> {
    let body = Problem::Overloaded { retry_after_s: 1 }.body();
    let mut lines = Lines::new(Vec::new(), 503);
    lines.field("Date", HttpDate::at(unix_time()).as_bytes());
    lines.field("Docker-Distribution-Api-Version", b"registry/2.0");
    lines.field("Retry-After", b"1").field("Connection", b"close");
    lines.field("Content-Type", b"application/json").number_field("Content-Length", body.len() as u64);
    let mut answer = lines.finish();
    answer.extend_from_slice(body.as_bytes());
    answer
}

/// A core's only future: takes up sockets until it is told to end.
async fn serve(core: std::rc::Rc<Core>, io: Io, mut inbox: mpsc::Receiver<Message>) {
    let ended = std::rc::Rc::new(AtomicBool::new(false));
    if core.is_first() {
        let core = core.clone();
        let ended = ended.clone();
        io.spawn(async move {
            while !ended.load(Ordering::Relaxed) {
                core.io.sleep_until(core.io.now() + core.sweep_interval()).await;
                core.store.expire(&core.io).await;
                core.fills.expire(&core.io, &core.store, core.limits.fill_expiry).await;
            }
        });
    }
    if core.is_first() {
        let core = core.clone();
        io.spawn(async move { core.store.scrub(&core.io, &core.control, &core.limits).await });
    }
    while let Some(message) = inbox.recv().await {
        match message {
            Message::Socket(fd, peer) => match io.adopt(fd) {
                Ok(socket) => {
                    let core = core.clone();
                    core.io.clone().spawn(async move {
                        connection(core.clone(), Connection::new(socket, peer)).await;
                        core.counters.connection_closed();
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection can't be taken up");
                    core.counters.connection_closed();
                }
            },
            Message::Forget(digest) => core.forget(&digest),
            Message::Drain => core.drain(),
            Message::End => break,
        }
    }
    ended.store(true, Ordering::Relaxed);
}

/// The driver, and what `/healthz` warns of. Where none of io_uring is wanted it is not even probed for: a sandbox
/// may kill the process for the attempt.
fn choose(
    choice: IoChoice,
    probe: impl FnOnce() -> io::Result<()>,
) -> Result<(Driver, Vec<String>), StartError> {
    if choice == IoChoice::Epoll {
        return Ok((Driver::Epoll, Vec::new()));
    }
    match probe() {
        Ok(()) => Ok((Driver::Uring, Vec::new())),
        Err(error) if choice == IoChoice::Uring => Err(StartError::NoRing(error)),
        Err(error) => {
            let warning =
                format!("io_uring can't be had here ({error}): disks are read by a pool of threads");
            tracing::warn!("{warning}");
            Ok((Driver::Epoll, vec![warning]))
        }
    }
}

/// What was `set`; for 0 four fifths of the descriptors, or less where the open files of the cores need more
/// than the rest.
pub(crate) fn connections_max(set: usize, cores: usize, descriptors: u64) -> u64 {
    let files = (OPEN_FILES_PER_CORE * cores) as u64;
    match set {
        0 => (descriptors / 10 * 8).min(descriptors.saturating_sub(files)).max(descriptors / 4),
        set => set as u64,
    }
}

fn start_access_log(settings: &Settings) -> io::Result<(Vec<AccessLog>, Option<AccessThread>)> {
    if settings.access_log {
        let (logs, thread) = access::start(settings.cores)?;
        Ok((logs, Some(thread)))
    } else {
        Ok(((0..settings.cores).map(|_| AccessLog::off()).collect(), None))
    }
}

fn render_store(counters: &StoreCounters, out: &mut String) {
    let families = [
        ("batches", "counter", "Batches that the keeper acknowledged.", &counters.batches),
        ("commits", "counter", "Blobs that were acknowledged.", &counters.members),
        ("data_fsyncs", "counter", "fdatasync calls on a blob.", &counters.data_syncs),
        ("volume_fsyncs", "counter", "syncfs calls on the volume.", &counters.volume_syncs),
        ("directory_fsyncs", "counter", "fsync calls on a directory.", &counters.directory_syncs),
        ("purges", "counter", "Blobs of upstreams that an operator had go.", &counters.purges),
        ("cached_blobs", "gauge", "Blobs of upstreams that are here.", &counters.cached_blobs),
        ("cached_bytes", "gauge", "Bytes of blobs of upstreams.", &counters.cached_bytes),
        (
            "budget_used_bytes",
            "gauge",
            "What they take, fills and open files included.",
            &counters.budget_used_bytes,
        ),
        ("budget_bytes", "gauge", "What they may take.", &counters.budget_bytes),
        ("rehashes", "counter", "Uploads that were read once more to hash them.", &counters.rehashes),
        ("lost_blobs", "gauge", "Blobs whose file the last scrub missed, whole.", &counters.lost_blobs),
        ("orphan_files", "gauge", "Files of no blob that the last scrub saw.", &counters.orphan_files),
        (
            "scrubbed_timestamp_seconds",
            "gauge",
            "When the last scrub ended, since 1970; 0 before the first.",
            &counters.scrubbed_unix,
        ),
        ("upload_sessions", "gauge", "Upload sessions that are open.", &counters.sessions_open),
    ];
    for (name, kind, help, value) in families {
        let total = if kind == "counter" { "_total" } else { "" };
        let value = value.load(Ordering::Relaxed);
        out.push_str(&format!(
            "# TYPE gantry_store_{name} {kind}\n# HELP gantry_store_{name} {help}\n\
             gantry_store_{name}{total} {value}\n"
        ));
    }
    counters.evictions.render(out);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_uring_is_probed_for_only_where_it_may_be_used() {
        let never = || panic!("probed");
        assert!(
            matches!(choose(IoChoice::Epoll, never), Ok((Driver::Epoll, warnings)) if warnings.is_empty())
        );
        assert!(
            matches!(choose(IoChoice::Auto, || Ok(())), Ok((Driver::Uring, warnings)) if warnings.is_empty())
        );
        let denied = || Err(io::ErrorKind::PermissionDenied.into());
        assert!(
            matches!(choose(IoChoice::Auto, denied), Ok((Driver::Epoll, warnings)) if warnings.len() == 1)
        );
        assert!(matches!(choose(IoChoice::Uring, denied), Err(StartError::NoRing(_))));
    }

    #[test]
    fn connections_leave_descriptors_for_the_open_files() {
        let files = OPEN_FILES_PER_CORE as u64;
        let most = |cores, descriptors| connections_max(0, cores, descriptors);
        assert_eq!(most(4, 100 * files), 80 * files, "four fifths");
        assert_eq!(most(4, 20 * files), 16 * files, "the rest is just enough");
        assert_eq!(most(4, 20 * files - 10), 16 * files - 10);
        assert_eq!(most(4, 8 * files), 4 * files);
        assert_eq!(most(4, 4 * files), files, "never less than a quarter");
        assert_eq!(connections_max(7, 4, 10), 7, "an operator knows");
    }
}
