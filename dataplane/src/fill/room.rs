//! Room for what a fill writes: held before it is written, a unit at a time.
//!
//! Invariants: no byte is written outside of a unit that is held.

use std::{collections::BTreeSet, io};

use super::{Fill, FillFiles, Runner, run::End};
use crate::limits::FILL_ROOM_BYTES;

/// The units that a fill holds, by number.
pub(super) type Units = BTreeSet<u64>;

/// Whether a call failed since the volume has no room.
pub(super) fn is_none(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl Fill {
    /// Sees to it that the volume has room for a write at `at` that crosses no unit.
    ///
    /// Errors: [`End::Full`]: there is none, and nothing could be made.
    pub(super) async fn hold_room(&self, runner: &Runner, files: &FillFiles, at: u64) -> Result<(), End> {
        let unit = at / FILL_ROOM_BYTES;
        if self.units().contains(&unit) {
            return Ok(());
        }
        let start = unit * FILL_ROOM_BYTES;
        let size_bytes = self.size_bytes.get().copied().unwrap_or(u64::MAX);
        let len = size_bytes.min(start + FILL_ROOM_BYTES) - start;
        if runner.store.room_for(len).is_err() {
            return Err(End::Full);
        }
        let data = files.data.clone();
        match runner.io.fs(move |fs| fs.allocate(&data, start, len)).await {
            Ok(_or_the_file_system_can_not) => {
                self.units().insert(unit);
                Ok(())
            }
            Err(error) if is_none(&error) => Err(End::Full),
            Err(error) => Err(error.into()),
        }
    }
}
