//! Bytes that may be in memory at a time: a sum within a sum, shared by all threads.
//!
//! Invariants: no more than the most is held of any of them. A look that finds room is atomic and takes no lock; only who
//! finds none is queued. Who waits gets its turn: nothing is given past those who wait, however little is wanted.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use tokio::sync::{Mutex, Notify};

/// A sum of bytes, and maybe a larger one that it counts in as well.
#[derive(Clone)]
pub struct Memory(Arc<Sum>);

struct Sum {
    max_bytes: u64,
    held_bytes: AtomicU64,
    /// Nothing is held of it before.
    is_open: AtomicBool,
    waiting: AtomicUsize,
    /// Whose it is to look for room: one after the other, as they came.
    turn: Mutex<()>,
    freed: Notify,
    within: Option<Memory>,
}

/// Bytes that are held; they are given back when this is dropped.
pub struct Held {
    memory: Memory,
    bytes: u64,
    /// So many sums have them, from the innermost on.
    sums: usize,
}

/// What lets others in. Dropped without it, nobody ever is.
pub struct Gate(Memory);

impl Memory {
    /// One of at most so many bytes.
    pub fn new(max_bytes: u64) -> Memory {
        Memory::of(max_bytes, true, None)
    }

    /// One that only counts.
    pub fn counted() -> Memory {
        Memory::new(u64::MAX)
    }

    /// One within this, of at most so many bytes.
    pub fn part(&self, max_bytes: u64) -> Memory {
        Memory::of(max_bytes, true, Some(self.clone()))
    }

    /// The same sum for one who may not hold anything of it before the gate is opened: all wait until then.
    pub fn gated(&self) -> (Memory, Gate) {
        let memory = Memory::of(u64::MAX, false, Some(self.clone()));
        (memory.clone(), Gate(memory))
    }

    fn of(max_bytes: u64, is_open: bool, within: Option<Memory>) -> Memory {
        Memory(Arc::new(Sum {
            max_bytes,
            held_bytes: AtomicU64::new(0),
            is_open: AtomicBool::new(is_open),
            waiting: AtomicUsize::new(0),
            turn: Mutex::default(),
            freed: Notify::new(),
            within,
        }))
    }

    /// What is held of it now.
    pub fn held_bytes(&self) -> u64 {
        self.0.held_bytes.load(Ordering::Relaxed)
    }

    /// Holds so many bytes, or as many as there can ever be, as soon as there are.
    pub async fn hold(&self, bytes: u64) -> Held {
        let bytes = bytes.min(self.most());
        let mut held = Held { memory: self.clone(), bytes, sums: 0 };
        // From the smallest on: who waits at a larger one holds back nobody but its own.
        let mut next = Some(self);
        while let Some(memory) = next {
            memory.0.enter(bytes).await;
            held.sums += 1;
            next = memory.0.within.as_ref();
        }
        held
    }

    /// The same, if there are as many now, and nobody waits for them.
    pub fn try_hold(&self, bytes: u64) -> Option<Held> {
        let bytes = bytes.min(self.most());
        let mut held = Held { memory: self.clone(), bytes, sums: 0 };
        let mut next = Some(self);
        while let Some(memory) = next {
            if memory.0.waiting.load(Ordering::SeqCst) > 0 || !memory.0.takes(bytes) {
                return None;
            }
            held.sums += 1;
            next = memory.0.within.as_ref();
        }
        Some(held)
    }

    fn most(&self) -> u64 {
        let within = self.0.within.as_ref().map_or(u64::MAX, Memory::most);
        self.0.max_bytes.min(within)
    }
}

impl Sum {
    fn takes(&self, bytes: u64) -> bool {
        let more = |held: u64| held.checked_add(bytes).filter(|sum| *sum <= self.max_bytes);
        self.is_open.load(Ordering::SeqCst)
            && self.held_bytes.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
    }

    async fn enter(&self, bytes: u64) {
        if self.waiting.load(Ordering::SeqCst) == 0 && self.takes(bytes) {
            return;
        }
        let _waits = Waits::begin(self);
        let _turn = self.turn.lock().await;
        loop {
            let mut freed = pin!(self.freed.notified());
            // Before the look: what is given back after it wakes this one.
            freed.as_mut().enable();
            if self.takes(bytes) {
                return;
            }
            freed.await;
        }
    }

    fn give_back(&self, bytes: u64) {
        self.held_bytes.fetch_sub(bytes, Ordering::SeqCst);
        self.freed.notify_one();
    }
}

/// One who waits.
struct Waits<'a>(&'a Sum);

impl<'a> Waits<'a> {
    fn begin(sum: &'a Sum) -> Waits<'a> {
        sum.waiting.fetch_add(1, Ordering::SeqCst);
        Waits(sum)
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Gate {
    /// From now on it is as if there were none.
    pub fn open(self) {
        self.0.0.is_open.store(true, Ordering::SeqCst);
        self.0.0.freed.notify_one();
    }
}

impl Held {
    /// These bytes, for which it is held until the last of them is dropped.
    pub fn with(self, bytes: Bytes) -> Bytes {
        Bytes::from_owner(Kept { bytes, _held: self })
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut next = Some(&self.memory);
        for _ in 0..self.sums {
            let Some(memory) = next else { return };
            memory.0.give_back(self.bytes);
            next = memory.0.within.as_ref();
        }
    }
}

struct Kept {
    bytes: Bytes,
    _held: Held,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::Future,
        pin::Pin,
        task::{Context, Poll, Wake, Waker},
        thread,
    };

    use super::*;

    type Waiting<'a> = Pin<Box<dyn Future<Output = Held> + 'a>>;

    fn poll(waiting: &mut Waiting<'_>) -> Option<Held> {
        match waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(held) => Some(held),
            Poll::Pending => None,
        }
    }

    fn begin(memory: &Memory, bytes: u64) -> Waiting<'_> {
        Box::pin(memory.hold(bytes))
    }

    #[test]
    fn what_is_held_is_bounded_in_each_sum_and_given_back_in_all() {
        let all = Memory::new(100);
        let (one, other) = (all.part(60), all.part(60));
        let first = one.try_hold(60).unwrap();
        assert!(one.try_hold(1).is_none() && other.try_hold(41).is_none());
        assert_eq!((one.held_bytes(), other.held_bytes(), all.held_bytes()), (60, 0, 60));
        let second = other.try_hold(40).unwrap();
        assert_eq!(all.held_bytes(), 100);
        drop(first);
        assert_eq!((one.held_bytes(), all.held_bytes()), (0, 40));
        drop(second);
        assert_eq!(poll(&mut begin(&one, 1000)).unwrap().bytes, 60, "more than there can be");
        assert_eq!(all.held_bytes(), 0);
    }

    #[test]
    fn who_waits_goes_before_who_only_tries_and_one_return_may_be_for_several() {
        let all = Memory::new(100);
        let held = all.try_hold(90).unwrap();
        let mut waiting: Vec<_> = (0..3).map(|_| begin(&all, 40)).collect();
        assert!(waiting.iter_mut().all(|one| poll(one).is_none()));
        assert!(all.try_hold(1).is_none(), "others wait");
        drop(held);
        let (first, second) = (poll(&mut waiting[0]).unwrap(), poll(&mut waiting[1]).unwrap());
        assert!(poll(&mut waiting[2]).is_none());
        waiting.truncate(2);
        drop((first, second));
        assert!(all.try_hold(100).is_some(), "who has left waits no more");
    }

    #[test]
    fn who_wants_much_is_not_passed_by_who_wants_little() {
        let all = Memory::new(64);
        let mut small: Vec<_> = (0..4).map(|_| all.try_hold(16).unwrap()).collect();
        let mut large = begin(&all, 64);
        assert!(poll(&mut large).is_none());
        let mut behind: Vec<_> = (0..4).map(|_| begin(&all, 16)).collect();
        while small.pop().is_some() {
            assert!(behind.iter_mut().all(|one| poll(one).is_none()), "it was there first");
            let held = poll(&mut large);
            assert_eq!(held.is_some(), small.is_empty());
        }
        assert!(behind.iter_mut().all(|one| poll(one).is_some()));
    }

    #[test]
    fn what_was_entered_of_a_smaller_sum_is_given_back_by_who_leaves() {
        let all = Memory::new(10);
        let one = all.part(10);
        let held = all.try_hold(10).unwrap();
        let mut waiting = begin(&one, 10);
        assert!(poll(&mut waiting).is_none());
        assert_eq!(one.held_bytes(), 10, "its turn in the smaller one");
        drop(waiting);
        assert_eq!(one.held_bytes(), 0);
        drop(held);
        assert!(one.try_hold(10).is_some());
    }

    #[test]
    fn nothing_is_held_before_its_gate_is_opened() {
        let all = Memory::new(10);
        let (memory, gate) = all.gated();
        let mut waiting = begin(&memory, 10);
        assert!(poll(&mut waiting).is_none() && memory.try_hold(1).is_none());
        assert_eq!(all.held_bytes(), 0);
        gate.open();
        let held = poll(&mut waiting).unwrap();
        let mut bytes = held.with(Bytes::from_static(b"abc"));
        let front = bytes.split_to(1);
        assert_eq!((&front[..], &bytes[..]), (&b"a"[..], &b"bc"[..]));
        drop(bytes);
        assert_eq!(all.held_bytes(), 10, "as long as there is any of it");
        drop(front);
        assert_eq!(all.held_bytes(), 0);
    }

    /// A thread that waits for one thing at a time.
    struct Unpark(thread::Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Unpark>) {
            self.0.unpark();
        }
    }

    fn wait_for(mut waiting: Waiting<'_>) -> Held {
        let waker = Waker::from(Arc::new(Unpark(thread::current())));
        loop {
            match waiting.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(held) => return held,
                Poll::Pending => thread::park(),
            }
        }
    }

    #[test]
    fn threads_that_hold_and_give_back_never_lose_a_turn() {
        let all = Memory::new(7);
        thread::scope(|scope| {
            for number in 0..6 {
                let part = all.part(5);
                scope.spawn(move || {
                    for round in 0..20_000_u64 {
                        let held = wait_for(begin(&part, 1 + (round + number) % 4));
                        assert!(part.held_bytes() <= 5);
                        drop(held);
                    }
                });
            }
        });
        assert_eq!(all.held_bytes(), 0);
    }
}
