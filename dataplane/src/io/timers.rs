//! Deadlines of a core's sockets, kept lazily: a socket is filed once per timeout, not once per wait.
//!
//! A wait only writes its deadline into its socket. The socket is filed under a tick that is not later;
//! when the tick comes and the deadline has moved, it is filed again. So a connection that answers a
//! thousand requests a second touches this a few times a minute.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    task::Waker,
};

use super::Instant;
use crate::limits::TIMER_TICK;

#[derive(Default)]
pub(super) struct Timers {
    filed: RefCell<BTreeMap<u64, Vec<u64>>>,
    /// Set when something was filed before everything else: the sleeper must look again.
    earlier: Cell<bool>,
    sleeper: RefCell<Option<Waker>>,
}

impl Timers {
    /// Files a socket for `at`.
    pub(super) fn insert(&self, key: u64, at: Instant) {
        let tick = at.nanos() / Self::tick_nanos() + 1;
        let mut filed = self.filed.borrow_mut();
        let first = filed.first_key_value().map(|(first, _)| *first);
        filed.entry(tick).or_default().push(key);
        if first.is_none_or(|first| tick < first) {
            self.earlier.set(true);
            if let Some(waker) = self.sleeper.borrow_mut().take() {
                waker.wake();
            }
        }
    }

    /// When the next socket is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.earlier.set(false);
        let filed = self.filed.borrow();
        let (tick, _) = filed.first_key_value()?;
        Some(Instant::from_nanos(tick * Self::tick_nanos()))
    }

    /// Whether something earlier was filed; leaves `waker` to be told when it is.
    pub(super) fn take_earlier(&self, waker: &Waker) -> bool {
        *self.sleeper.borrow_mut() = Some(waker.clone());
        self.earlier.replace(false)
    }

    /// Takes out all that is due.
    pub(super) fn due(&self, now: Instant) -> Vec<u64> {
        let mut filed = self.filed.borrow_mut();
        let later = filed.split_off(&(now.nanos() / Self::tick_nanos() + 1));
        std::mem::replace(&mut *filed, later).into_values().flatten().collect()
    }

    fn tick_nanos() -> u64 {
        TIMER_TICK.as_nanos() as u64
    }
}
