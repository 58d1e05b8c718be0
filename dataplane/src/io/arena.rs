//! The memory of a core's buffers: reserved at once, and in huge pages where the kernel has them. A request to a device
//! is then one piece of memory in place of 64, which may be several times as fast (ARCHITECTURE.md has figures).
//!
//! Owns: what no buffer holds of it. The lowest place is given first, so that few buffers touch few huge pages.

use bytes::BytesMut;
use rustix::mm::Advice;

use crate::limits::{BUF_BYTES, BUFS_KEPT_PER_CORE, BUFS_PER_CORE};

/// A huge page where pages are 4 KiB. Elsewhere the advice is good for nothing and does no harm.
const HUGE_BYTES: usize = 2 << 20;
const PLACES_PER_HUGE: usize = HUGE_BYTES / BUF_BYTES;

const _: () = {
    assert!(HUGE_BYTES.is_multiple_of(BUF_BYTES) && BUFS_PER_CORE.is_multiple_of(PLACES_PER_HUGE));
    assert!(BUFS_KEPT_PER_CORE.is_multiple_of(PLACES_PER_HUGE) && BUFS_PER_CORE <= u64::BITS as usize);
};

/// `BUF_BYTES`, zero or of an earlier use.
#[derive(Default)]
pub(super) struct Place {
    index: usize,
    pub(super) bytes: BytesMut,
}

/// [`BUFS_PER_CORE`] places, reserved with the first that is taken.
#[derive(Default)]
pub(super) struct Arena {
    places: Vec<BytesMut>,
    /// A bit for each that is out.
    taken: u64,
    /// Places above this one were not touched since their memory was given back.
    touched: usize,
}

impl Arena {
    /// How many are out.
    pub(super) fn out(&self) -> usize {
        self.taken.count_ones() as usize
    }

    /// One more. `None`: all are out.
    pub(super) fn take(&mut self) -> Option<Place> {
        let index = self.taken.trailing_ones() as usize;
        if self.places.is_empty() {
            self.places = reserve();
        }
        let bytes = std::mem::take(self.places.get_mut(index)?);
        self.taken |= 1 << index;
        self.touched = self.touched.max(index + 1);
        Some(Place { index, bytes })
    }

    /// Takes it back. When few are out, the memory of all but [`BUFS_KEPT_PER_CORE`] is given back.
    pub(super) fn give(&mut self, place: Place) {
        self.taken &= !(1 << place.index);
        self.places[place.index] = place.bytes;
        if self.touched > BUFS_KEPT_PER_CORE && self.out() <= BUFS_KEPT_PER_CORE / 2 {
            let touched = self.touched.next_multiple_of(PLACES_PER_HUGE);
            self.touched = BUFS_KEPT_PER_CORE;
            for first in (BUFS_KEPT_PER_CORE..touched).step_by(PLACES_PER_HUGE) {
                if self.taken >> first & ((1 << PLACES_PER_HUGE) - 1) == 0 {
                    advise(&mut self.places[first], HUGE_BYTES, Advice::LinuxDontNeed);
                } else {
                    self.touched = first + PLACES_PER_HUGE;
                }
            }
        }
    }
}

/// Address space alone: memory comes with the first touch.
fn reserve() -> Vec<BytesMut> {
    let mut all = BytesMut::zeroed(BUFS_PER_CORE * BUF_BYTES + HUGE_BYTES);
    let start = all.as_ptr().align_offset(HUGE_BYTES);
    let _before = all.split_to(start);
    advise(&mut all, BUFS_PER_CORE * BUF_BYTES, Advice::LinuxHugepage);
    (0..BUFS_PER_CORE).map(|_| all.split_to(BUF_BYTES)).collect()
}

/// Only advice: it may fail.
fn advise(first: &mut BytesMut, len: usize, advice: Advice) {
    // SAFETY: it begins a huge page of the reservation, `len` bytes from there on belong to the arena and nobody borrows
    // them. With one advice they stay what they are, with the other they become zeros, which are as good.
    let _ = unsafe { rustix::mm::madvise(first.as_mut_ptr().cast(), len, advice) };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(arena: &mut Arena, count: usize) -> Vec<Place> {
        (0..count).map(|_| arena.take().unwrap()).collect()
    }

    #[test]
    fn places_are_whole_apart_and_begin_pages() {
        let mut arena = Arena::default();
        let mut places = take(&mut arena, BUFS_PER_CORE);
        assert!(arena.take().is_none() && arena.out() == BUFS_PER_CORE);
        for (number, place) in places.iter_mut().enumerate() {
            assert_eq!(place.bytes.len(), BUF_BYTES);
            assert_eq!(place.bytes.as_ptr().align_offset(BUF_BYTES), 0);
            place.bytes.fill(number as u8);
        }
        assert!(
            places
                .iter()
                .enumerate()
                .all(|(number, place)| place.bytes.iter().all(|byte| *byte == number as u8))
        );
        arena.give(places.swap_remove(7));
        assert_eq!(arena.take().unwrap().index, 7);
    }

    #[test]
    fn memory_is_given_back_where_none_is_out() {
        let mut arena = Arena::default();
        let mut places = take(&mut arena, BUFS_PER_CORE);
        places.iter_mut().for_each(|place| place.bytes.fill(1));
        let late = places.remove(BUFS_KEPT_PER_CORE + PLACES_PER_HUGE + 3);
        places.drain(..).for_each(|place| arena.give(place));
        assert_eq!((arena.out(), arena.touched), (1, BUFS_KEPT_PER_CORE + 2 * PLACES_PER_HUGE));
        assert!(late.bytes.iter().all(|byte| *byte == 1), "it was not given back");
        arena.give(late);
        assert_eq!(arena.touched, BUFS_KEPT_PER_CORE);
        for (number, place) in take(&mut arena, BUFS_PER_CORE).iter().enumerate() {
            let kept = u8::from(number < BUFS_KEPT_PER_CORE);
            assert!(place.bytes.iter().all(|byte| *byte == kept), "{number}");
        }
    }
}
