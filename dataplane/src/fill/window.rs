//! The last bytes of a blob that is passed through, for all who are about as far as the fastest of them.
//!
//! Invariants: at most [`PASS_WINDOW_BYTES`]. The bytes lie in a row, up to the last that came, and before each piece
//! stands what all bytes before it hash to.

use std::{collections::VecDeque, sync::Arc};

use bytes::Bytes;
use control::{Held, Memory};
use oci::Hasher;

use crate::io::hash;
use crate::limits::{PASS_AHEAD_BYTES, PASS_PIECE_BYTES, PASS_WINDOW_BYTES};

/// Bytes that came one after the other; at most [`PASS_PIECE_BYTES`].
pub(super) struct Piece {
    pub(super) start: u64,
    pub(super) bytes: Bytes,
    /// Of all bytes before.
    before: Hasher,
    /// `None`: more than can be counted, which there never is.
    _held: Option<Held>,
}

impl Piece {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    /// The bytes from `at` on, which lies in it or at its end.
    pub(super) fn from(&self, at: u64) -> Bytes {
        self.bytes.slice((at - self.start) as usize..)
    }

    /// Of all bytes before `at`, which lies in it or at its end.
    pub(super) fn hash_at(&self, at: u64) -> Hasher {
        let mut hasher = self.before.clone();
        hash(&mut hasher, &self.bytes[..(at - self.start) as usize]);
        hasher
    }
}

pub(super) struct Window {
    memory: Memory,
    pieces: VecDeque<Arc<Piece>>,
    /// Behind the last byte that came.
    end: u64,
    /// Where the fastest of all is, or was.
    fastest: u64,
}

/// What is to be had at some place.
pub(super) enum Look {
    Piece(Arc<Piece>),
    /// It has not come yet.
    NotYet,
    /// It had to go for what came after it.
    Gone,
}

impl Window {
    /// One whose bytes count in `memory`.
    pub(super) fn at(start: u64, memory: Memory) -> Window {
        Window { memory, pieces: VecDeque::new(), end: start, fastest: start }
    }

    /// Whether more is to be read: the fastest never waits, and nobody is needlessly left behind.
    pub(super) fn wants_more(&self) -> bool {
        self.end < self.fastest + PASS_AHEAD_BYTES
    }

    /// Takes what came next, at most [`PASS_PIECE_BYTES`]; `before` is the hash of all bytes before. The oldest go for it.
    pub(super) fn push(&mut self, bytes: &[u8], before: Hasher) {
        let (mut start, mut before) = (self.end, before);
        // Each piece has its price, however short it is.
        let together = match self.pieces.pop_back() {
            Some(last) if last.bytes.len() + bytes.len() <= PASS_PIECE_BYTES => {
                (start, before) = (last.start, last.before.clone());
                [&last.bytes[..], bytes].concat().into()
            }
            last => {
                self.pieces.extend(last);
                Bytes::copy_from_slice(bytes)
            }
        };
        let _held = self.memory.try_hold(together.len() as u64);
        self.end += bytes.len() as u64;
        self.pieces.push_back(Arc::new(Piece { start, bytes: together, before, _held }));
        while self.bytes() > PASS_WINDOW_BYTES {
            self.pieces.pop_front();
        }
    }

    /// What is at `at`, for one who has taken all before it.
    pub(super) fn look(&mut self, at: u64) -> Look {
        self.fastest = self.fastest.max(at);
        if at < self.start() {
            return Look::Gone;
        }
        let index = self.pieces.partition_point(|piece| piece.end() <= at);
        self.pieces.get(index).map_or(Look::NotYet, |piece| Look::Piece(piece.clone()))
    }

    fn start(&self) -> u64 {
        self.pieces.front().map_or(self.end, |first| first.start)
    }

    fn bytes(&self) -> u64 {
        self.end - self.start()
    }
}

#[cfg(test)]
mod tests {
    use oci::{Algorithm, Digest};

    use super::*;

    fn push(window: &mut Window, hasher: &mut Hasher, bytes: &[u8]) {
        window.push(bytes, hasher.clone());
        hasher.update(bytes);
    }

    #[test]
    fn it_holds_no_more_than_its_bytes_and_always_the_last_of_them() {
        let (mut window, mut hasher) = (Window::at(7, Memory::counted()), Hasher::new(Algorithm::Sha256));
        let mut all = vec![0; 7];
        hasher.update(&all);
        for number in 0..400_usize {
            let bytes = vec![number as u8; 1 + number * 7919 % PASS_PIECE_BYTES];
            push(&mut window, &mut hasher, &bytes);
            all.extend_from_slice(&bytes);
            assert!(window.bytes() <= PASS_WINDOW_BYTES);
            assert_eq!(window.end, all.len() as u64);
        }
        assert!(window.bytes() > PASS_WINDOW_BYTES - PASS_PIECE_BYTES as u64, "as much as fits");
        let start = window.start();
        assert!(matches!(window.look(start - 1), Look::Gone));
        assert!(matches!(window.look(window.end), Look::NotYet));
        let mut at = start;
        while let Look::Piece(piece) = window.look(at) {
            let bytes = piece.from(at);
            assert!(bytes == all[at as usize..][..bytes.len()]);
            let middle = at + bytes.len() as u64 / 2;
            let digest = Digest::of(Algorithm::Sha256, &all[..middle as usize]);
            assert_eq!(piece.hash_at(middle).finish(), digest);
            at += bytes.len() as u64;
        }
        assert_eq!(at, window.end);
    }

    #[test]
    fn however_short_the_pieces_are_there_are_few_of_them() {
        let (mut window, mut hasher) = (Window::at(0, Memory::counted()), Hasher::new(Algorithm::Sha256));
        for _ in 0..3 * PASS_PIECE_BYTES {
            push(&mut window, &mut hasher, b"x");
        }
        assert_eq!(window.pieces.len(), 3);
    }

    #[test]
    fn it_reads_ahead_of_the_fastest_only() {
        let (mut window, mut hasher) = (Window::at(0, Memory::counted()), Hasher::new(Algorithm::Sha256));
        while window.wants_more() {
            push(&mut window, &mut hasher, &[0; PASS_PIECE_BYTES]);
        }
        assert_eq!(window.end, PASS_AHEAD_BYTES);
        window.look(5);
        window.look(3);
        assert!(window.wants_more());
        push(&mut window, &mut hasher, &[0; 5]);
        assert!(!window.wants_more(), "who is slower counts for nothing");
    }
}
