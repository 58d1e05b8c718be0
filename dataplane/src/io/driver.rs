//! One core's `Io`: its epoll set, and the task that turns events into wakes.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::Future,
    io,
    os::fd::OwnedFd,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use rustix::event::epoll;

use super::{
    Buf, Fs, Instant, Pool, Socket,
    buf::Home,
    pipes::Pipes,
    resident::Resident,
    socket::{SocketTable, WAKE},
    timers::Timers,
};
use crate::limits::CORE_END_TIME;

/// How a core reaches the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// By monoio's ring.
    Uring,
    /// By the pool; no io_uring anywhere.
    Epoll,
}

impl Driver {
    /// The name that users see.
    pub fn name(self) -> &'static str {
        match self {
            Driver::Uring => "uring",
            Driver::Epoll => "epoll",
        }
    }
}

/// Everything a core can ask of the world. Cheap to clone; never leaves its thread.
#[derive(Clone)]
pub struct Io(Rc<Inner>);

pub(super) struct Inner {
    driver: Driver,
    set: OwnedFd,
    /// Makes the set ready, so that the driver task runs again after everybody else.
    wake: OwnedFd,
    pub(super) sockets: RefCell<SocketTable>,
    pub(super) timers: Timers,
    paused: RefCell<Vec<Waker>>,
    /// Of these one goes on for each pass through the set.
    queued: RefCell<VecDeque<Waker>>,
    pool: Pool,
    home: Home,
    pub(super) pipes: Pipes,
    pub(super) resident: Resident,
    random: Cell<u64>,
    /// Disk operations that the ring has not completed.
    in_flight: Cell<usize>,
    ending: Cell<bool>,
}

/// A disk operation on its way: the ring may write into its buffer for as long as this lives.
pub(super) struct InFlight(Io);

impl Io {
    /// Makes the core's set and starts its two tasks. Must run inside the core's runtime.
    pub(super) fn start(driver: Driver, pool: Pool) -> io::Result<Io> {
        let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
        let wake = rustix::event::eventfd(0, flags)?;
        let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
        epoll::add(&set, &wake, epoll::EventData::new_u64(WAKE), edge)?;
        let mut seed = [0; 8];
        rustix::rand::getrandom(&mut seed, rustix::rand::GetRandomFlags::empty())?;
        let watched = set.try_clone()?;
        let io = Io(Rc::new(Inner {
            driver,
            set,
            wake,
            sockets: RefCell::default(),
            timers: Timers::default(),
            paused: RefCell::default(),
            queued: RefCell::default(),
            pool,
            home: Home::default(),
            pipes: Pipes::default(),
            resident: Resident::default(),
            random: Cell::new(u64::from_le_bytes(seed) | 1),
            in_flight: Cell::new(0),
            ending: Cell::new(false),
        }));
        // The set is no socket, but the runtime asks no more of one than that it can be polled.
        let watched = monoio::net::UnixStream::from_std(std::os::unix::net::UnixStream::from(watched))?;
        monoio::spawn(io.clone().watch(watched));
        monoio::spawn(io.clone().run_timers());
        Ok(io)
    }

    /// The leg.
    pub fn driver(&self) -> Driver {
        self.0.driver
    }

    pub(super) fn inner(&self) -> &Inner {
        &self.0
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.0.pool
    }

    /// Takes over a connected TCP socket: non-blocking, no delay, in this core's set from now on.
    pub fn adopt(&self, fd: OwnedFd) -> io::Result<Socket> {
        rustix::net::sockopt::set_tcp_nodelay(&fd, true)?;
        let key = self.0.sockets.borrow_mut().insert();
        let flags =
            epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::RDHUP | epoll::EventFlags::ET;
        match epoll::add(&self.0.set, &fd, epoll::EventData::new_u64(key), flags) {
            Ok(()) => Ok(Socket::new(fd, key, self.clone())),
            Err(error) => {
                self.0.sockets.borrow_mut().remove(key);
                Err(error.into())
            }
        }
    }

    /// A pooled buffer, as soon as there is one.
    pub async fn buf(&self) -> Buf {
        self.0.home.wait().await
    }

    /// A pooled buffer for a read that nobody waits for yet, if there are many left.
    pub fn spare_buf(&self) -> Option<Buf> {
        self.0.home.spare()
    }

    /// Runs `task` on this core until it ends. Once the core ends, it is dropped.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        if !self.is_ending() {
            drop(monoio::spawn(task));
        }
    }

    /// Whether the core ends: waits for sockets fail, and nothing is started any more.
    pub(super) fn is_ending(&self) -> bool {
        self.0.ending.get()
    }

    /// Ends every wait for a socket, gives the tasks a while to put away what they hold, and waits for what
    /// the ring still has: its buffers must outlive it.
    pub(super) async fn end(&self) {
        self.0.ending.set(true);
        self.rouse();
        let until = self.now() + CORE_END_TIME;
        while self.0.in_flight.get() > 0 || (self.0.sockets.borrow().is_used() && self.now() < until) {
            self.sleep_until(self.now() + Duration::from_millis(1)).await;
        }
    }

    /// Counts an operation that the ring is given. An error: the core ends.
    pub(super) fn in_flight(&self) -> io::Result<InFlight> {
        if self.is_ending() {
            return Err(io::Error::other("the core ends"));
        }
        self.0.in_flight.set(self.0.in_flight.get() + 1);
        Ok(InFlight(self.clone()))
    }

    /// Runs what blocks on the pool. It starts when called; dropping the future lets it run all the same.
    /// A full pool is `ErrorKind::WouldBlock`.
    pub fn fs<T, J>(&self, job: J) -> impl Future<Output = io::Result<T>> + 'static + use<T, J>
    where
        T: Send + 'static,
        J: FnOnce(&Fs) -> io::Result<T> + Send + 'static,
    {
        self.0.pool.run(job)
    }

    /// The monotonic clock.
    pub fn now(&self) -> Instant {
        Instant::now()
    }

    /// Waits until `at`, at most a few milliseconds longer.
    pub async fn sleep_until(&self, at: Instant) {
        monoio::time::sleep(at.since(self.now())).await;
    }

    /// Lets every other task of the core and every event have its turn.
    pub async fn pause(&self) {
        // A task that wakes itself would be run before the runtime looks at its events again, and a timer
        // is rounded up to a millisecond: so pass through the set.
        self.pass(|waker| self.0.paused.borrow_mut().push(waker)).await;
    }

    /// The same, and those who wait here go on one by one, with a look at all sockets between them: for turns that
    /// are long, of which several may be due at once.
    pub async fn queue(&self) {
        self.pass(|waker| self.0.queued.borrow_mut().push_back(waker)).await;
    }

    async fn pass(&self, file: impl Fn(Waker)) {
        let mut first = true;
        std::future::poll_fn(|context| {
            if !first {
                return Poll::Ready(());
            }
            first = false;
            let is_armed = !self.0.paused.borrow().is_empty() || !self.0.queued.borrow().is_empty();
            file(context.waker().clone());
            if !is_armed {
                self.arm();
            }
            Poll::Pending
        })
        .await;
    }

    /// Has the set be ready, and those who paused go on with that.
    fn arm(&self) {
        // Only a counter about to overflow refuses this, and then the set is ready already.
        let _ = rustix::io::write(&self.0.wake, &1_u64.to_ne_bytes());
    }

    /// 64 bits that nobody can tell in advance to any purpose; not for secrets.
    pub fn random(&self) -> u64 {
        // splitmix64 over a random start.
        let state = self.0.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.random.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// 128 bits from the kernel, fit to be unguessable.
    pub fn unguessable(&self) -> io::Result<[u8; 16]> {
        let mut bytes = [0; 16];
        let count = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        if count == bytes.len() { Ok(bytes) } else { Err(io::ErrorKind::Interrupted.into()) }
    }

    async fn watch(self, watched: monoio::net::UnixStream) {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(256);
        loop {
            if watched.readable(false).await.is_err() {
                // The runtime is being torn down.
                return;
            }
            loop {
                events.clear();
                let zero = rustix::time::Timespec { tv_sec: 0, tv_nsec: 0 };
                let spare = rustix::buffer::spare_capacity(&mut events);
                if epoll::wait(&self.0.set, spare, Some(&zero)).is_err() {
                    break;
                }
                for event in &events {
                    let data = event.data.u64();
                    if data == WAKE {
                        self.resume_paused();
                    } else {
                        self.0.sockets.borrow_mut().ready(data, event.flags);
                    }
                }
                if events.len() < events.capacity() {
                    break;
                }
            }
        }
    }

    fn resume_paused(&self) {
        let mut counter = [0; 8];
        // Edge-triggered: what matters is only that it was written after the last look.
        let _ = rustix::io::read(&self.0.wake, &mut counter[..]);
        for waker in self.0.paused.borrow_mut().drain(..) {
            waker.wake();
        }
        let mut queued = self.0.queued.borrow_mut();
        if let Some(waker) = queued.pop_front() {
            waker.wake();
        }
        if !queued.is_empty() {
            self.arm();
        }
    }

    async fn run_timers(self) {
        loop {
            let next = self.0.timers.next();
            let mut sleep = next.map(|at| Box::pin(monoio::time::sleep(at.since(self.now()))));
            std::future::poll_fn(|context| {
                if self.0.timers.take_earlier(context.waker()) {
                    return Poll::Ready(());
                }
                match &mut sleep {
                    Some(sleep) => poll_sleep(sleep.as_mut(), context),
                    None => Poll::Pending,
                }
            })
            .await;
            let now = self.now();
            let due = self.0.timers.due(now);
            let mut sockets = self.0.sockets.borrow_mut();
            for key in &due {
                if let Some(later) = sockets.expire(*key, now) {
                    self.0.timers.insert(*key, later);
                }
            }
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.0.in_flight.set(self.0.0.in_flight.get() - 1);
    }
}

fn poll_sleep(sleep: Pin<&mut impl Future<Output = ()>>, context: &mut Context<'_>) -> Poll<()> {
    sleep.poll(context)
}
