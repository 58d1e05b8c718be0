//! A client thread: an epoll loop over its share of the connections.

use std::{
    collections::VecDeque,
    io,
    net::SocketAddr,
    os::fd::OwnedFd,
    time::{Duration, Instant},
};

use rustix::{
    event::epoll,
    time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec},
};

use super::{
    Pace, Phase, Shared, Tally,
    connection::{Connection, SCRATCH_BYTES},
    script::Script,
};

/// The timer's event data; no connection has it.
const TIMER: u64 = u64::MAX;
/// How often what was counted is shown to others.
const SHOW_EVERY: Duration = Duration::from_millis(200);
/// What a connection that could not be made is left alone for.
const CONNECT_REST: Duration = Duration::from_millis(20);

/// What a thread is given.
pub(super) struct Worker<'a> {
    pub shared: &'a Shared,
    pub addr: SocketAddr,
    pub scripts: Vec<Box<dyn Script>>,
    pub pace: Pace,
    /// Never sleeps. A client that does is woken by the server, which on a virtual machine costs the server more
    /// than the answer did, and which no client on another machine makes it do.
    pub spins: bool,
}

struct Slot {
    connection: Connection,
    script: Box<dyn Script>,
    /// When the operation that is going on was to be sent, and its bytes so far.
    operation: Option<(Instant, u64)>,
    ended: bool,
}

/// When operations are due in an open loop.
struct Arrivals {
    gap: Duration,
    next: Instant,
    /// Due, and no connection was free.
    overdue: VecDeque<Instant>,
}

struct Loop<'a> {
    shared: &'a Shared,
    addr: SocketAddr,
    set: OwnedFd,
    timer: OwnedFd,
    slots: Vec<Slot>,
    free: Vec<usize>,
    arrivals: Option<Arrivals>,
    scratch: Vec<u8>,
    tally: Tally,
    spins: bool,
}

impl Worker<'_> {
    /// Runs until the phase says so, or until every script has ended.
    ///
    /// Errors: the thread's epoll set or timer could not be made.
    pub(super) fn run(self) -> io::Result<Tally> {
        let set = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer = rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?;
        epoll::add(&set, &timer, epoll::EventData::new_u64(TIMER), epoll::EventFlags::IN)?;
        let arrivals = match self.pace {
            Pace::Closed => None,
            Pace::Open { per_second } => Some(Arrivals {
                gap: Duration::from_secs_f64(1.0 / per_second.max(1e-6)),
                next: Instant::now(),
                overdue: VecDeque::new(),
            }),
        };
        let slot = |script| Slot { connection: Connection::default(), script, operation: None, ended: false };
        let slots: Vec<Slot> = self.scripts.into_iter().map(slot).collect();
        let mut this = Loop {
            shared: self.shared,
            addr: self.addr,
            set,
            timer,
            free: (0..slots.len()).rev().collect(),
            slots,
            arrivals,
            scratch: vec![0; SCRATCH_BYTES],
            tally: Tally::default(),
            spins: self.spins,
        };
        this.run()?;
        Ok(this.tally)
    }
}

impl Loop<'_> {
    fn run(&mut self) -> io::Result<()> {
        let mut shown = Instant::now();
        if self.arrivals.is_none() {
            for index in std::mem::take(&mut self.free) {
                self.start(index, Instant::now());
            }
        }
        let mut events = Vec::with_capacity(512);
        // A bound, so that a change of phase is seen.
        let wait = Timespec { tv_sec: 0, tv_nsec: if self.spins { 0 } else { 50_000_000 } };
        let mut woken = Instant::now();
        loop {
            let phase = self.shared.phase();
            if phase == Phase::Stop {
                break;
            }
            if self.slots.iter().all(|slot| slot.ended) {
                break;
            }
            self.send_due()?;
            if phase == Phase::Measure && !events.is_empty() {
                self.tally.busy += woken.elapsed();
            }
            events.clear();
            match epoll::wait(&self.set, rustix::buffer::spare_capacity(&mut events), Some(&wait)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            woken = Instant::now();
            for event in &events {
                match event.data.u64() {
                    TIMER => {
                        let mut count = [0; 8];
                        // Nobody reads it but us, and it was ready.
                        let _ = rustix::io::read(&self.timer, &mut count[..]);
                    }
                    index => self.drive(index as usize),
                }
            }
            if woken - shown > SHOW_EVERY {
                shown = woken;
                self.shared.show(&mut self.tally);
            }
        }
        self.give_up();
        Ok(())
    }

    /// Open loop: sends what is due, and sets the timer for what is next.
    fn send_due(&mut self) -> io::Result<()> {
        let Some(arrivals) = &mut self.arrivals else { return Ok(()) };
        let now = Instant::now();
        let mut due = Vec::new();
        while arrivals.next <= now {
            due.push(arrivals.next);
            arrivals.next += arrivals.gap;
        }
        let wait = arrivals.next - now;
        for intended in due {
            match self.free.pop() {
                Some(index) => self.start(index, intended),
                None => {
                    if let Some(arrivals) = &mut self.arrivals {
                        arrivals.overdue.push_back(intended);
                    }
                }
            }
        }
        let wait = wait.max(Duration::from_nanos(1));
        let at = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: at };
        rustix::time::timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once)?;
        Ok(())
    }

    /// Begins an operation that was to be sent at `intended`.
    fn start(&mut self, index: usize, intended: Instant) {
        self.slots[index].operation = Some((intended, 0));
        if self.begin_next(index) {
            self.drive(index);
        }
    }

    /// Hands the script's next request to the connection. `false`: there is none.
    fn begin_next(&mut self, index: usize) -> bool {
        let slot = &mut self.slots[index];
        let Some(exchange) = slot.script.next() else {
            slot.ended = true;
            slot.connection.close();
            return false;
        };
        slot.connection.begin(exchange);
        true
    }

    /// Lets a connection go on until it waits for the server.
    fn drive(&mut self, index: usize) {
        loop {
            let slot = &mut self.slots[index];
            if slot.ended || slot.connection.is_idle() {
                return;
            }
            let connected = slot.connection.connect(self.addr).and_then(|fresh| {
                if fresh && let Some(fd) = slot.connection.fd() {
                    let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
                    epoll::add(&self.set, fd, epoll::EventData::new_u64(index as u64), flags)?;
                }
                Ok(())
            });
            let advanced = match connected {
                Ok(()) => slot.connection.advance(&mut self.scratch),
                Err(error) => {
                    std::thread::sleep(CONNECT_REST);
                    Err(format!("{}: {error}", self.addr))
                }
            };
            let finished = match advanced {
                Ok(None) => return,
                Ok(Some(finished)) => slot.script.answered(&finished.answer).map(|()| finished),
                Err(why) => Err(why),
            };
            match finished {
                Ok(finished) => {
                    let pushed = finished.exchange.body.as_ref().map_or(0, |body| body.len() as u64);
                    let Some((intended, bytes)) = &mut slot.operation else { return };
                    *bytes += finished.received + pushed;
                    if !finished.exchange.ends_operation {
                        if !self.begin_next(index) {
                            return;
                        }
                        continue;
                    }
                    self.tally.count(self.shared.phase(), &finished, *intended, *bytes);
                }
                Err(why) => {
                    slot.connection.close();
                    slot.script.failed();
                    self.tally.error(self.shared.phase(), why);
                }
            }
            if self.shared.phase() == Phase::Stop || !self.next_operation(index) {
                return;
            }
        }
    }

    /// Begins the connection's next operation, if one is due. `false`: it is not.
    fn next_operation(&mut self, index: usize) -> bool {
        let intended = match &mut self.arrivals {
            None => Instant::now(),
            Some(arrivals) => match arrivals.overdue.pop_front() {
                Some(intended) => intended,
                None => {
                    self.slots[index].operation = None;
                    self.free.push(index);
                    return false;
                }
            },
        };
        self.slots[index].operation = Some((intended, 0));
        self.begin_next(index)
    }

    /// What an open loop has not seen answered has waited at least until now.
    fn give_up(&mut self) {
        let Some(arrivals) = &self.arrivals else { return };
        let now = Instant::now();
        let in_flight = self.slots.iter().filter_map(|slot| slot.operation.map(|(intended, _)| intended));
        for intended in in_flight.chain(arrivals.overdue.iter().copied()) {
            self.tally.unanswered(now - intended);
        }
    }
}
