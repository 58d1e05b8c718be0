//! Pooled buffers: what one write of an upload or one read of a cold file goes through.
//!
//! Owns: the core's idle buffers. A [`Buf`] goes home when it is dropped, on whatever thread: a frozen one
//! may be dropped by another core, so the list of idle buffers is behind a mutex (entered twice per
//! 256 KiB, never for a hot read).

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
};

use bytes::Bytes;

use super::arena::{Arena, Place};
use crate::limits::{BUF_BYTES, BUFS_PER_CORE};

/// The home of one core's buffers.
#[derive(Clone, Default)]
pub(super) struct Home(Arc<Mutex<Shelf>>);

#[derive(Default)]
struct Shelf {
    arena: Arena,
    waiting: VecDeque<Waker>,
}

/// A buffer of `BUF_BYTES`, of which the first `len` bytes are filled. It begins with a page.
pub struct Buf {
    place: Place,
    len: usize,
    home: Home,
}

impl Home {
    /// A buffer as soon as fewer than [`BUFS_PER_CORE`] are out, first come first served.
    pub(super) async fn wait(&self) -> Buf {
        std::future::poll_fn(|context| {
            let mut shelf = self.shelf();
            match shelf.arena.take() {
                Some(place) => Poll::Ready(self.buf(place)),
                // Under the same lock as the look: a waker that nobody needs would take another's wake.
                None => {
                    shelf.waiting.push_back(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }

    /// A buffer for what nobody waits for: there is none while half of all are out.
    pub(super) fn spare(&self) -> Option<Buf> {
        let mut shelf = self.shelf();
        let is_spare = shelf.arena.out() < BUFS_PER_CORE / 2;
        if is_spare { shelf.arena.take().map(|place| self.buf(place)) } else { None }
    }

    fn buf(&self, place: Place) -> Buf {
        Buf { place, len: 0, home: self.clone() }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buf {
    /// The filled part.
    pub fn filled(&self) -> &[u8] {
        &self.place.bytes[..self.len]
    }

    /// The part that may still be filled.
    pub fn spare(&mut self) -> &mut [u8] {
        &mut self.place.bytes[self.len..]
    }

    /// Says that the first `count` bytes of [`Buf::spare`] are filled now. `count <= spare().len()`.
    pub fn fill(&mut self, count: usize) {
        assert!(count <= BUF_BYTES - self.len);
        self.len += count;
    }

    /// The filled part, shareable; the memory goes home when the last handle is dropped.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buf {
    fn as_ref(&self) -> &[u8] {
        self.filled()
    }
}

impl Drop for Buf {
    fn drop(&mut self) {
        let mut shelf = self.home.shelf();
        shelf.arena.give(std::mem::take(&mut self.place));
        let waker = shelf.waiting.pop_front();
        drop(shelf);
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

// SAFETY: the memory is on the heap, so its address stays when the `Buf` moves, and all of it is initialised.
unsafe impl monoio::buf::IoBufMut for Buf {
    fn write_ptr(&mut self) -> *mut u8 {
        self.spare().as_mut_ptr()
    }

    fn bytes_total(&mut self) -> usize {
        self.spare().len()
    }

    unsafe fn set_init(&mut self, count: usize) {
        self.fill(count);
    }
}

#[cfg(test)]
mod tests {
    use std::{pin::pin, task::Context};

    use super::*;

    /// A buffer, if there is one now.
    fn take(home: &Home) -> Option<Buf> {
        match pin!(home.wait()).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(buf) => Some(buf),
            Poll::Pending => None,
        }
    }

    #[test]
    fn the_number_of_buffers_that_are_out_is_bounded_and_they_come_home() {
        let home = Home::default();
        let mut out: Vec<Buf> = std::iter::from_fn(|| take(&home)).collect();
        assert_eq!(out.len(), BUFS_PER_CORE);
        let mut last = out.pop().unwrap();
        last.spare()[..3].copy_from_slice(b"abc");
        last.fill(3);
        let frozen = last.freeze();
        assert_eq!(&frozen[..], b"abc");
        assert!(take(&home).is_none() && home.spare().is_none());
        drop(frozen);
        let mut again = take(&home).unwrap();
        assert_eq!(again.filled(), b"");
        assert_eq!(again.spare().len(), BUF_BYTES);
        drop(again);
        drop(out);
        assert_eq!(home.shelf().arena.out(), 0);
        let spare: Vec<Buf> = std::iter::from_fn(|| home.spare()).collect();
        assert_eq!(spare.len(), BUFS_PER_CORE / 2);
    }
}
