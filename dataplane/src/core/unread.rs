//! Bytes that came from a socket and were not looked at yet.

use std::ops::Deref;

/// What is left of them. Taking some moves a cursor: pipelined requests are not copied once for each.
#[derive(Default)]
pub struct Unread {
    bytes: Vec<u8>,
    taken: usize,
}

impl Unread {
    /// Drops the first `count` bytes; with the last of them the memory goes too.
    pub(super) fn take(&mut self, count: usize) {
        self.taken += count;
        debug_assert!(self.taken <= self.bytes.len());
        if self.taken == self.bytes.len() {
            *self = Unread::default();
        }
    }

    /// The bytes, to be decoded in place.
    pub(super) fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.taken..]
    }

    /// Adds what came after them.
    pub(super) fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Puts back what came before them.
    pub(super) fn put_back(&mut self, bytes: &[u8]) {
        *self = [bytes, self].concat().into();
    }
}

impl Deref for Unread {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }
}

impl From<Vec<u8>> for Unread {
    fn from(bytes: Vec<u8>) -> Unread {
        Unread { bytes, taken: 0 }
    }
}
