//! Room for what a fill writes: held before it is written, a unit at a time, of the cache's budget and of the volume.
//!
//! Invariants: no byte is written outside of a unit that is held.

use std::{collections::BTreeSet, io, sync::Arc};

use super::{Fill, FillFiles, Fills, Runner, busy::patiently, run::End};
use crate::{
    cache::Lease,
    io::Io,
    limits::{FILL_ROOM_BYTES, ROOM_PAUSE, ROOM_TRIES_MAX},
    store::Store,
};

/// The units that a fill holds, by number, and those that somebody is about to hold: they count as well.
#[derive(Default)]
pub(super) struct Units {
    held: BTreeSet<u64>,
    /// One for each who tries; several may try the same.
    wanted: Vec<u64>,
}

impl Units {
    /// What a fill that was left holds.
    pub(super) fn of(held: BTreeSet<u64>) -> Units {
        Units { held, wanted: Vec::new() }
    }

    /// What they take of the budget.
    pub(super) fn bytes(&self) -> u64 {
        let wanted: BTreeSet<u64> = self.wanted.iter().copied().collect();
        (self.held.len() + wanted.difference(&self.held).count()) as u64 * FILL_ROOM_BYTES
    }
}

/// A unit that is about to be held.
struct Wanted<'a> {
    fill: &'a Fill,
    unit: u64,
}

impl<'a> Wanted<'a> {
    /// `None`: it is held already.
    fn begin(fill: &'a Fill, unit: u64) -> Option<Wanted<'a>> {
        let mut units = fill.units();
        if units.held.contains(&unit) {
            return None;
        }
        units.wanted.push(unit);
        Some(Wanted { fill, unit })
    }

    fn hold(self) {
        self.fill.units().held.insert(self.unit);
    }
}

impl Drop for Wanted<'_> {
    fn drop(&mut self) {
        let mut units = self.fill.units();
        if let Some(at) = units.wanted.iter().position(|unit| *unit == self.unit) {
            units.wanted.swap_remove(at);
        }
    }
}

/// Whether a call failed since the volume has no room.
pub(super) fn is_none(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// How long others are waited for who have to go.
#[derive(Default)]
pub(super) struct Waiting {
    tries: u32,
    /// Bytes that have gone and that somebody has open: they come back when they are closed.
    busy_bytes: u64,
}

impl Waiting {
    /// Has something go, or waits for what has gone to be closed.
    ///
    /// Errors: [`End::Full`]: there is nothing to wait for, or it was waited for long enough.
    pub(super) async fn for_room(
        &mut self,
        fills: &Fills,
        io: &Io,
        store: &Store,
        wanted_bytes: u64,
    ) -> Result<(), End> {
        if self.tries == ROOM_TRIES_MAX {
            return Err(End::Full);
        }
        if fills.forget_unwanted(io, store).await {
            return Ok(());
        }
        self.tries += 1;
        // No more goes than what is on its way out leaves to be wanted.
        let lacking_bytes = wanted_bytes.saturating_sub(self.busy_bytes);
        if lacking_bytes > 0 {
            let evicted = store.evict(lacking_bytes).await;
            if evicted.freed_bytes >= wanted_bytes {
                return Ok(());
            }
            self.busy_bytes += evicted.busy_bytes;
            if evicted.freed_bytes == 0 && self.busy_bytes == 0 {
                return Err(End::Full);
            }
        }
        io.sleep_until(io.now() + ROOM_PAUSE * self.tries).await;
        Ok(())
    }
}

impl Fill {
    /// Sees to it that there is room for a write at `at` that crosses no unit: in the budget and on the volume. Others
    /// go for it.
    ///
    /// Errors: [`End::Full`]: there is none, and nothing could be made.
    pub(super) async fn hold_room(&self, runner: &Runner, files: &FillFiles, at: u64) -> Result<(), End> {
        let unit = at / FILL_ROOM_BYTES;
        let Some(wanted) = Wanted::begin(self, unit) else { return Ok(()) };
        let start = unit * FILL_ROOM_BYTES;
        let size_bytes = self.size_bytes.get().copied().unwrap_or(u64::MAX);
        let len = size_bytes.min(start + FILL_ROOM_BYTES) - start;
        self.reserve(runner).await?;
        let mut waiting = Waiting::default();
        loop {
            let room = runner.store.room_for(len);
            if room.is_ok() {
                let allocate = || {
                    let data = files.data.clone();
                    runner.io.fs(move |fs| fs.allocate(&data, start, len))
                };
                match patiently(runner, allocate).await {
                    Ok(_or_the_file_system_can_not) => {
                        wanted.hold();
                        return Ok(());
                    }
                    Err(error) if is_none(&error) => {}
                    Err(error) => return Err(error.into()),
                }
            }
            waiting.for_room(&runner.fills, &runner.io, &runner.store, len).await?;
        }
    }

    /// Of the budget what it holds and is about to.
    async fn reserve(&self, runner: &Runner) -> Result<(), End> {
        let is_too_large = |size_bytes: &u64| *size_bytes > runner.store.cache_bytes_max();
        if runner.store.is_rebuilding() || self.size_bytes.get().is_some_and(is_too_large) {
            return Err(End::Full);
        }
        let lease = self.lease(runner)?;
        let mut waiting = Waiting::default();
        loop {
            let bytes = self.units().bytes();
            let Err(no_room) = lease.grow(bytes) else { return Ok(()) };
            let lacking = no_room.lacking_bytes;
            waiting.for_room(&runner.fills, &runner.io, &runner.store, lacking).await?;
        }
    }

    /// What its bytes are counted by.
    pub(super) fn lease(&self, runner: &Runner) -> Result<Arc<Lease>, End> {
        if let Some(lease) = self.lease.get() {
            return Ok(lease.clone());
        }
        let lease = runner.store.new_lease().ok_or(End::Full)?;
        Ok(self.lease.get_or_init(|| lease).clone())
    }
}
