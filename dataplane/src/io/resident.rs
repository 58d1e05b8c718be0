//! Which windows of files a core lately found in memory, so that not every small answer has to ask.
//!
//! To ask costs 4 µs, a fifth of what a random part of 64 KiB of a large blob costs in all. A window that is met for the
//! second time within a while is asked about as a whole, and the answer stands for as long again: a working set that
//! fits is asked about once a second, and one that is too large for the table costs no more than it did.

use std::cell::Cell;

use super::Instant;
use crate::limits::{RESIDENT_TIME, RESIDENT_WINDOWS};

/// What is known of a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing.
    #[default]
    Nothing,
    /// That it was met before.
    Met,
    /// That memory had not all of it.
    InPart,
    /// That memory had all of it.
    Whole,
}

#[derive(Clone, Copy, Default)]
struct Slot {
    file: u64,
    window: u64,
    at_ms: u64,
    known: Known,
}

/// A table that forgets by being overwritten.
pub(super) struct Resident(Box<[Cell<Slot>]>);

impl Default for Resident {
    fn default() -> Resident {
        Resident(vec![Cell::default(); RESIDENT_WINDOWS].into())
    }
}

impl Resident {
    /// What is known of a window of a file at `now`. Files have a number each, which is never used again.
    pub(super) fn look(&self, file: u64, window: u64, now: Instant) -> Known {
        let slot = self.slot(file, window).get();
        let is_it = (slot.file, slot.window) == (file, window);
        let age_ms = u128::from(millis(now).saturating_sub(slot.at_ms));
        if is_it && age_ms <= RESIDENT_TIME.as_millis() { slot.known } else { Known::Nothing }
    }

    /// Remembers it, in the place of what has the same slot.
    pub(super) fn note(&self, file: u64, window: u64, known: Known, now: Instant) {
        self.slot(file, window).set(Slot { file, window, at_ms: millis(now), known });
    }

    fn slot(&self, file: u64, window: u64) -> &Cell<Slot> {
        // Neighbours have slots of their own, and files begin anywhere.
        let start = file.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        &self.0[start.wrapping_add(window) as usize % RESIDENT_WINDOWS]
    }
}

fn millis(now: Instant) -> u64 {
    now.nanos() / 1_000_000
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_is_known_ages_and_is_of_one_file() {
        let resident = Resident::default();
        let now = Instant::now();
        assert_eq!(resident.look(1, 7, now), Known::Nothing);
        resident.note(1, 7, Known::Whole, now);
        assert_eq!(resident.look(1, 7, now + RESIDENT_TIME), Known::Whole);
        assert_eq!(resident.look(1, 8, now), Known::Nothing);
        assert_eq!(resident.look(2, 7, now), Known::Nothing);
        assert_eq!(resident.look(1, 7, now + RESIDENT_TIME + Duration::from_millis(2)), Known::Nothing);
    }

    #[test]
    fn a_window_is_forgotten_for_another_and_never_mistaken_for_it() {
        let resident = Resident::default();
        let now = Instant::now();
        let other = RESIDENT_WINDOWS as u64;
        resident.note(1, 0, Known::Whole, now);
        assert_eq!(resident.look(1, other, now), Known::Nothing);
        resident.note(1, other, Known::InPart, now);
        assert_eq!(resident.look(1, 0, now), Known::Nothing);
        assert_eq!(resident.look(1, other, now), Known::InPart);
    }
}
