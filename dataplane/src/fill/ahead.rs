//! What of a fill is there, or on its way, ahead of its frontier: in chunks, by who claimed them.
//!
//! Invariants: a chunk is written by one party: who claimed it. What the sequential run has come to, nobody else claims,
//! so bytes that were hashed are never written over.

use std::collections::BTreeMap;

use crate::limits::{FILL_CHUNK_BYTES, FILL_EXTENT_CHUNKS_MAX, FILL_EXTENTS_MAX, FILL_NEAR_CHUNKS};

/// Chunks of one fill, by number.
#[derive(Default)]
pub(super) struct Ahead {
    /// In the file, with the checksum that their bytes must have.
    present: BTreeMap<u64, Present>,
    /// Extents that are being fetched: first chunk, and the one after the last.
    flying: Vec<(u64, u64)>,
    /// The chunk that the sequential run is at; nothing before it, and little after it, is claimed.
    run_at: Option<u64>,
    /// The origin answers no ranges: nothing is had ahead of the run.
    has_no_ranges: bool,
    /// There is no room for more, but maybe for what the run writes.
    has_no_room: bool,
}

#[derive(Clone, Copy)]
struct Present {
    crc: u32,
    /// `false`: an earlier process left it, and nobody has looked.
    is_proven: bool,
}

/// What a reader who wants a chunk has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Want {
    /// Send: it is in the file, and so is everything up to that chunk, exclusive.
    There(u64),
    /// Read it and compare: an earlier process left it.
    Prove(u32),
    /// Wait: it is on its way, or has to wait for others that are.
    Wait,
    /// Fetch from this chunk to this one, exclusive; they are claimed now.
    Fetch(u64, u64),
    /// Wait for the run, and see that there is one.
    InOrder,
    /// Ask for it without keeping it: there is no room.
    Pass,
}

impl Ahead {
    pub(super) fn left(chunks: BTreeMap<u64, u32>) -> Ahead {
        let present = chunks.into_iter().map(|(chunk, crc)| (chunk, Present { crc, is_proven: false }));
        Ahead { present: present.collect(), ..Ahead::default() }
    }

    /// The run is at `chunk`. `false`: an extent has it, or will.
    pub(super) fn run_takes(&mut self, chunk: u64) -> bool {
        let is_free = !self.present.contains_key(&chunk) && !self.flies(chunk);
        if is_free {
            self.run_at = Some(chunk);
        }
        is_free
    }

    /// The checksum of a chunk that is there; from now on it is the run's.
    pub(super) fn take(&mut self, chunk: u64) -> Option<u32> {
        let crc = self.present.remove(&chunk)?.crc;
        self.run_at = Some(chunk);
        Some(crc)
    }

    /// Whether somebody fetches it ahead.
    pub(super) fn flies(&self, chunk: u64) -> bool {
        self.flying.iter().any(|(first, end)| (*first..*end).contains(&chunk))
    }

    /// The next chunk after `chunk` that the run need not fetch.
    pub(super) fn next_after(&self, chunk: u64) -> Option<u64> {
        let flying = self.flying.iter().map(|(first, _)| *first).filter(|first| *first > chunk).min();
        let present = self.present.range(chunk + 1..).next().map(|(chunk, _)| *chunk);
        flying.into_iter().chain(present).min()
    }

    /// What a reader has to do who wants `chunk` and on up to `end`, exclusive; the blob has `chunks` of them.
    pub(super) fn want(&mut self, chunk: u64, end: u64) -> Want {
        if let Some(end) = self.there(chunk) {
            return Want::There(end);
        }
        if let Some(found) = self.present.get(&chunk) {
            return Want::Prove(found.crc);
        }
        if self.flies(chunk) {
            return Want::Wait;
        }
        if !self.is_missing(chunk) {
            return Want::InOrder;
        }
        if self.has_no_room {
            return Want::Pass;
        }
        if self.flying.len() == FILL_EXTENTS_MAX {
            return Want::Wait;
        }
        let end = end.min(chunk + FILL_EXTENT_CHUNKS_MAX).min(self.next_after(chunk).unwrap_or(u64::MAX));
        self.flying.push((chunk, end));
        Want::Fetch(chunk, end)
    }

    /// Up to which chunk, exclusive, all is in the file from this one on. `None`: this one is not.
    pub(super) fn there(&self, chunk: u64) -> Option<u64> {
        let row = self.present.range(chunk..).zip(chunk..);
        let row = row.take_while(|((at, found), expected)| **at == *expected && found.is_proven);
        row.last().map(|((at, _), _)| at + 1)
    }

    /// A chunk was read and is, or is not, what its checksum says.
    pub(super) fn prove(&mut self, chunk: u64, crc: u32) {
        match self.present.get_mut(&chunk) {
            Some(found) if found.crc == crc => found.is_proven = true,
            Some(_) => drop(self.present.remove(&chunk)),
            None => {}
        }
    }

    /// An extent has written its chunk.
    pub(super) fn landed(&mut self, chunk: u64, crc: u32) {
        if let Some((first, _)) = self.flying.iter_mut().find(|(first, end)| *first == chunk && *end > chunk)
        {
            *first += 1;
            self.present.insert(chunk, Present { crc, is_proven: true });
        }
    }

    /// An extent is over; what of it has not landed is a hole. `end` is as it was claimed.
    pub(super) fn ended(&mut self, end: u64) {
        self.flying.retain(|(_, other)| *other != end);
    }

    /// The origin begins at 0 whatever it is asked.
    pub(super) fn forgo_ranges(&mut self) {
        self.has_no_ranges = true;
    }

    /// Nothing more is kept ahead of the run.
    pub(super) fn forgo_room(&mut self) {
        self.has_no_room = true;
    }

    /// Whether a chunk that was wanted is neither there nor on its way, nor the run's: it was not to be had.
    pub(super) fn is_missing(&self, chunk: u64) -> bool {
        let in_order = self.has_no_ranges || self.run_at.is_some_and(|at| chunk < at + FILL_NEAR_CHUNKS);
        !in_order && !self.flies(chunk) && !self.present.contains_key(&chunk)
    }

    /// Bytes that are there, nearly: each chunk counts whole.
    pub(super) fn bytes(&self) -> u64 {
        self.present.len() as u64 * FILL_CHUNK_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extent_is_claimed_once_up_to_what_is_there_or_on_its_way() {
        let mut ahead = Ahead::default();
        assert_eq!(ahead.want(10, 13), Want::Fetch(10, 13));
        assert_eq!(ahead.want(11, 13), Want::Wait, "on its way");
        assert_eq!(ahead.want(8, 20), Want::Fetch(8, 10), "up to its neighbour");
        ahead.landed(10, 1);
        ahead.landed(12, 1);
        assert_eq!(ahead.want(10, 13), Want::There(11));
        assert_eq!(ahead.want(12, 13), Want::Wait, "in order, or not at all");
        ahead.landed(11, 1);
        ahead.ended(13);
        assert_eq!(ahead.want(10, 13), Want::There(12));
        assert_eq!(ahead.want(12, 13), Want::Fetch(12, 13), "a hole is fetched again");
        let far = FILL_EXTENT_CHUNKS_MAX + 1000;
        assert_eq!(ahead.want(100, far), Want::Fetch(100, 100 + FILL_EXTENT_CHUNKS_MAX));
    }

    #[test]
    fn extents_are_bounded() {
        let mut ahead = Ahead::default();
        for extent in 0..FILL_EXTENTS_MAX as u64 {
            assert_eq!(ahead.want(10 * extent, 10 * extent + 1), Want::Fetch(10 * extent, 10 * extent + 1));
        }
        assert_eq!(ahead.want(1000, 1001), Want::Wait);
        ahead.ended(1);
        assert_eq!(ahead.want(1000, 1001), Want::Fetch(1000, 1001));
    }

    #[test]
    fn the_run_and_the_extents_never_have_the_same_chunk() {
        let mut ahead = Ahead::default();
        assert!(ahead.run_takes(5));
        for chunk in 5..5 + FILL_NEAR_CHUNKS {
            assert_eq!(ahead.want(chunk, chunk + 1), Want::InOrder);
        }
        let at = 5 + FILL_NEAR_CHUNKS;
        assert_eq!(ahead.want(at, at + 2), Want::Fetch(at, at + 2));
        assert_eq!(ahead.next_after(5), Some(at));
        assert!(!ahead.run_takes(at), "it flies");
        ahead.landed(at, 7);
        assert!(!ahead.run_takes(at), "it is there");
        assert_eq!(ahead.take(at), Some(7));
        assert!(ahead.run_takes(at), "it is the run's again");
    }

    #[test]
    fn what_an_earlier_process_left_is_proven_before_it_is_there() {
        let mut ahead = Ahead::left(BTreeMap::from([(3, 30), (4, 40)]));
        assert_eq!(ahead.want(3, 5), Want::Prove(30));
        ahead.prove(3, 30);
        assert_eq!(ahead.want(3, 5), Want::There(4));
        ahead.prove(4, 41);
        assert_eq!(ahead.want(4, 5), Want::Fetch(4, 5), "a chunk that is not what it was is a hole");
        assert_eq!(ahead.bytes(), FILL_CHUNK_BYTES);
    }

    #[test]
    fn without_room_only_what_is_there_or_the_runs_is_waited_for() {
        let mut ahead = Ahead::default();
        assert!(ahead.run_takes(0));
        assert_eq!(ahead.want(20, 22), Want::Fetch(20, 22));
        ahead.landed(20, 1);
        ahead.ended(22);
        ahead.forgo_room();
        assert_eq!(ahead.want(20, 22), Want::There(21));
        assert_eq!(ahead.want(21, 22), Want::Pass);
        assert_eq!(ahead.want(1, 22), Want::InOrder);
    }

    #[test]
    fn without_ranges_all_is_had_in_order() {
        let mut ahead = Ahead::default();
        ahead.forgo_ranges();
        assert!(!ahead.is_missing(50));
        assert_eq!(ahead.want(50, 51), Want::InOrder);
    }
}
