//! What of a fill is there, or on its way, ahead of its frontier: in chunks, by who claimed them.
//!
//! Invariants: a chunk is written by one party: who claimed it. What the sequential run has come to, nobody else claims,
//! so bytes that were hashed are never written over. No chunk is claimed that nobody wants.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use crate::limits::{FILL_CHUNK_BYTES, FILL_EXTENT_CHUNKS_MAX, FILL_EXTENTS_MAX, FILL_NEAR_CHUNKS};

/// A place among those who are queued, or an extent.
pub(super) type Ticket = u64;

/// Chunks of one fill, by number.
#[derive(Default)]
pub(super) struct Ahead {
    /// In the file, with the checksum that their bytes must have.
    present: BTreeMap<u64, Present>,
    /// Were there when the run came to them: who reads them ahead goes on to.
    passed: BTreeSet<u64>,
    /// Extents that are being fetched.
    flying: Vec<Flying>,
    /// What those want who wait for others' extents to be over: whoever is the next to fetch, does so for them too.
    queued: BTreeMap<Ticket, Box<[Range<u64>]>>,
    tickets: u64,
    /// What the sequential run has come to, or soon will, up to this chunk, exclusive: nobody else claims it.
    of_run: u64,
    /// The origin answers no ranges: nothing is had ahead of the run.
    has_no_ranges: bool,
    /// There is no room for more, but maybe for what the run writes.
    has_no_room: bool,
}

/// An extent that is not over.
struct Flying {
    claim: Ticket,
    /// The next chunk that it writes, and the one after the last.
    next: u64,
    end: u64,
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
    /// Wait: it is on its way.
    Wait,
    /// Wait among those who are queued: as much is on its way as may be.
    Queue,
    /// Fetch from this chunk to this one, exclusive; they are claimed now, by the last number.
    Fetch(u64, u64, Ticket),
    /// Wait for the run, and see that there is one: nothing is had in any other way.
    InOrder,
    /// The same: the run has come to this chunk, or soon will.
    OfRun,
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
            self.of_run = chunk + FILL_NEAR_CHUNKS;
        }
        is_free
    }

    /// Nobody runs it from now on. It has come to `offset`, and keeps the chunk that it is in the middle of.
    pub(super) fn run_stops(&mut self, offset: u64) {
        self.of_run = offset.div_ceil(FILL_CHUNK_BYTES);
    }

    /// The checksum of a chunk that is there; from now on it is the run's.
    pub(super) fn take(&mut self, chunk: u64) -> Option<u32> {
        let Present { crc, is_proven } = self.present.remove(&chunk)?;
        self.of_run = chunk + FILL_NEAR_CHUNKS;
        if is_proven {
            self.passed.insert(chunk);
        }
        Some(crc)
    }

    /// A chunk that the run took is not what it was: the run fetches it again.
    pub(super) fn lost(&mut self, chunk: u64) {
        self.passed.remove(&chunk);
    }

    /// Whether somebody fetches it ahead.
    pub(super) fn flies(&self, chunk: u64) -> bool {
        self.flying.iter().any(|flying| (flying.next..flying.end).contains(&chunk))
    }

    /// The next chunk after `chunk` that the run need not fetch.
    pub(super) fn next_after(&self, chunk: u64) -> Option<u64> {
        let flying = self.flying.iter().map(|flying| flying.next).filter(|next| *next > chunk).min();
        let present = self.present.range(chunk + 1..).next().map(|(chunk, _)| *chunk);
        flying.into_iter().chain(present).min()
    }

    /// What a reader has to do who wants `wanted`, from the first chunk of the first of them on.
    pub(super) fn want(&mut self, wanted: &[Range<u64>]) -> Want {
        let Some(chunk) = wanted.first().map(|first| first.start) else { return Want::Wait };
        if let Some(end) = self.there(chunk) {
            return Want::There(end);
        }
        if let Some(found) = self.present.get(&chunk) {
            return Want::Prove(found.crc);
        }
        if self.flies(chunk) {
            return Want::Wait;
        }
        if self.has_no_ranges {
            return Want::InOrder;
        }
        if chunk < self.of_run {
            return Want::OfRun;
        }
        if self.has_no_room {
            return Want::Pass;
        }
        if self.flying.len() == FILL_EXTENTS_MAX {
            return Want::Queue;
        }
        let (first, end) = self.merged(chunk, wanted);
        self.tickets += 1;
        self.flying.push(Flying { claim: self.tickets, next: first, end });
        Want::Fetch(first, end, self.tickets)
    }

    /// What is fetched for who wants a chunk: this one, and what is wanted next to it, by that one or by who is queued.
    fn merged(&self, chunk: u64, wanted: &[Range<u64>]) -> (u64, u64) {
        let is_wanted = |chunk: u64| {
            let mut all = wanted.iter().chain(self.queued.values().flatten());
            self.is_missing(chunk) && all.any(|range| range.contains(&chunk))
        };
        let (mut first, mut end) = (chunk, chunk + 1);
        while end - first < FILL_EXTENT_CHUNKS_MAX && is_wanted(end) {
            end += 1;
        }
        // It comes in order: not much goes before what was wanted first.
        while end - first < FILL_EXTENT_CHUNKS_MAX
            && first > chunk.saturating_sub(FILL_NEAR_CHUNKS)
            && is_wanted(first - 1)
        {
            first -= 1;
        }
        (first, end)
    }

    /// Somebody waits who wants this.
    pub(super) fn queue(&mut self, wanted: &[Range<u64>]) -> Ticket {
        self.tickets += 1;
        self.queued.insert(self.tickets, wanted.into());
        self.tickets
    }

    /// The same one waits no longer.
    pub(super) fn leave_queue(&mut self, ticket: Ticket) {
        self.queued.remove(&ticket);
    }

    /// Up to which chunk, exclusive, all from this one on was brought ahead and is in the file, as far as an extent goes.
    /// `None`: this one was not, or is not.
    pub(super) fn there(&self, chunk: u64) -> Option<u64> {
        let is_there = |chunk: &u64| {
            self.passed.contains(chunk) || self.present.get(chunk).is_some_and(|found| found.is_proven)
        };
        let row = (chunk..chunk + FILL_EXTENT_CHUNKS_MAX).take_while(is_there);
        row.last().map(|last| last + 1)
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
        let mut flying = self.flying.iter_mut();
        if let Some(flying) = flying.find(|flying| flying.next == chunk && flying.end > chunk) {
            flying.next += 1;
            self.present.insert(chunk, Present { crc, is_proven: true });
        }
    }

    /// An extent is over; what of it has not landed is a hole.
    pub(super) fn ended(&mut self, claim: Ticket) {
        self.flying.retain(|flying| flying.claim != claim);
    }

    /// The origin begins at 0 whatever it is asked.
    pub(super) fn forgo_ranges(&mut self) {
        self.has_no_ranges = true;
    }

    /// Whether nothing comes ahead of the run any more.
    pub(super) fn is_settled(&self) -> bool {
        self.has_no_ranges && self.flying.is_empty()
    }

    /// Nothing more is kept ahead of the run.
    pub(super) fn forgo_room(&mut self) {
        self.has_no_room = true;
    }

    /// Whether some are on their way.
    pub(super) fn is_flying(&self) -> bool {
        !self.flying.is_empty()
    }

    /// Whether a chunk that was wanted was not to be had.
    pub(super) fn was_not_had(&self, chunk: u64) -> bool {
        !self.has_no_room && self.is_missing(chunk)
    }

    /// Whether a chunk is neither there nor on its way, nor the run's.
    fn is_missing(&self, chunk: u64) -> bool {
        let in_order = self.has_no_ranges || chunk < self.of_run;
        !in_order && !self.flies(chunk) && !self.present.contains_key(&chunk)
    }

    /// Bytes that are there, nearly: each chunk counts whole.
    pub(super) fn bytes(&self) -> u64 {
        self.present.len() as u64 * FILL_CHUNK_BYTES
    }
}

#[cfg(test)]
mod tests {
    use std::ops::{Deref, DerefMut};

    use super::*;

    /// What is wanted, whatever number a claim has, and the claims by their ends.
    #[derive(Default)]
    struct Claimed {
        ahead: Ahead,
        by_end: BTreeMap<u64, Ticket>,
    }

    impl Claimed {
        fn want(&mut self, wanted: &[Range<u64>]) -> Want {
            match self.ahead.want(wanted) {
                Want::Fetch(first, end, claim) => {
                    self.by_end.insert(end, claim);
                    Want::Fetch(first, end, 0)
                }
                want => want,
            }
        }

        fn ended(&mut self, end: u64) {
            self.ahead.ended(self.by_end[&end]);
        }
    }

    impl Deref for Claimed {
        type Target = Ahead;

        fn deref(&self) -> &Ahead {
            &self.ahead
        }
    }

    impl DerefMut for Claimed {
        fn deref_mut(&mut self) -> &mut Ahead {
            &mut self.ahead
        }
    }

    fn fetch(first: u64, end: u64) -> Want {
        Want::Fetch(first, end, 0)
    }

    fn one(range: Range<u64>) -> [Range<u64>; 1] {
        [range]
    }

    #[test]
    fn an_extent_is_claimed_once_up_to_what_is_there_or_on_its_way() {
        let mut ahead = Claimed::default();
        assert_eq!(ahead.want(&one(10..13)), fetch(10, 13));
        assert_eq!(ahead.want(&one(11..13)), Want::Wait, "on its way");
        assert_eq!(ahead.want(&one(8..20)), fetch(8, 10), "up to its neighbour");
        ahead.landed(10, 1);
        ahead.landed(12, 1);
        assert_eq!(ahead.want(&one(10..13)), Want::There(11));
        assert_eq!(ahead.want(&one(12..13)), Want::Wait, "in order, or not at all");
        ahead.landed(11, 1);
        ahead.ended(13);
        assert_eq!(ahead.want(&one(10..13)), Want::There(12));
        assert_eq!(ahead.want(&one(12..13)), fetch(12, 13), "a hole is fetched again");
        let far = FILL_EXTENT_CHUNKS_MAX + 1000;
        assert_eq!(ahead.want(&one(100..far)), fetch(100, 100 + FILL_EXTENT_CHUNKS_MAX));
    }

    #[test]
    fn an_extent_that_is_over_takes_no_other_along() {
        let mut ahead = Ahead::default();
        let Want::Fetch(10, 13, first) = ahead.want(&one(10..13)) else { panic!("it is free") };
        for chunk in 10..13 {
            ahead.landed(chunk, 1);
        }
        // It is not told yet, and its last chunk turns out to be no good.
        assert_eq!(ahead.take(12), Some(1));
        ahead.lost(12);
        ahead.run_stops(12 * FILL_CHUNK_BYTES);
        let Want::Fetch(12, 13, second) = ahead.want(&one(12..13)) else { panic!("it is a hole") };
        ahead.ended(first);
        assert_eq!(ahead.want(&one(12..13)), Want::Wait, "the other is on its way");
        ahead.ended(second);
        assert!(!ahead.is_flying());
    }

    #[test]
    fn extents_are_bounded() {
        let mut ahead = Claimed::default();
        for extent in 0..FILL_EXTENTS_MAX as u64 {
            assert_eq!(ahead.want(&one(10 * extent..10 * extent + 1)), fetch(10 * extent, 10 * extent + 1));
        }
        assert_eq!(ahead.want(&one(1000..1001)), Want::Queue);
        ahead.ended(1);
        assert_eq!(ahead.want(&one(1000..1001)), fetch(1000, 1001));
    }

    #[test]
    fn who_fetches_next_does_so_for_the_neighbours_that_are_queued() {
        let mut ahead = Claimed::default();
        let flying: Vec<u64> = (0..FILL_EXTENTS_MAX as u64).map(|extent| 1000 * (extent + 1)).collect();
        for at in &flying {
            assert_eq!(ahead.want(&one(*at..*at + 1)), fetch(*at, *at + 1));
        }
        let (before, next, after, far) = (one(100..101), one(101..102), one(102..104), one(110..120));
        let all = [&before, &next, &after, &far];
        let [of_before, of_next, of_after, of_far] = all.map(|queued| {
            assert_eq!(ahead.want(queued), Want::Queue);
            ahead.queue(queued)
        });
        ahead.ended(flying[0] + 1);
        ahead.leave_queue(of_next);
        assert_eq!(ahead.want(&next), fetch(100, 104), "nothing between is fetched for nobody");
        for queued in [&before, &after] {
            assert_eq!(ahead.want(queued), Want::Wait);
        }
        ahead.leave_queue(of_far);
        ahead.ended(flying[1] + 1);
        assert_eq!(ahead.want(&one(109..110)), fetch(109, 110), "who was queued there has left");
        ahead.leave_queue(of_before);
        ahead.leave_queue(of_after);
        assert!(ahead.queued.is_empty());
    }

    #[test]
    fn what_is_merged_is_bounded_and_begins_near_what_was_wanted_first() {
        let mut ahead = Claimed::default();
        let ticket = ahead.queue(&one(0..1000));
        let first = 500 - FILL_NEAR_CHUNKS;
        assert_eq!(ahead.want(&one(500..501)), fetch(500, 500 + FILL_EXTENT_CHUNKS_MAX));
        ahead.ended(500 + FILL_EXTENT_CHUNKS_MAX);
        ahead.leave_queue(ticket);
        ahead.queue(&one(0..501));
        assert_eq!(ahead.want(&one(500..501)), fetch(first, 501));
        assert_eq!(ahead.want(&one(first - 1..first)), fetch(first - 1 - FILL_NEAR_CHUNKS, first));
    }

    #[test]
    fn the_parts_of_one_answer_are_neighbours_too() {
        let mut ahead = Claimed::default();
        assert_eq!(ahead.want(&[7..8, 20..21, 8..9, 6..7]), fetch(6, 9));
        assert_eq!(ahead.want(&[20..21, 8..9]), fetch(20, 21));
    }

    #[test]
    fn the_run_and_the_extents_never_have_the_same_chunk() {
        let mut ahead = Claimed::default();
        assert!(ahead.run_takes(5));
        for chunk in 5..5 + FILL_NEAR_CHUNKS {
            assert_eq!(ahead.want(&one(chunk..chunk + 1)), Want::OfRun);
        }
        let at = 5 + FILL_NEAR_CHUNKS;
        assert_eq!(ahead.want(&one(at..at + 2)), fetch(at, at + 2));
        assert_eq!(ahead.next_after(5), Some(at));
        assert!(!ahead.run_takes(at), "it flies");
        ahead.landed(at, 7);
        assert!(!ahead.run_takes(at), "it is there");
        assert_eq!(ahead.take(at), Some(7));
        assert!(ahead.run_takes(at), "it is the run's again");
        assert_eq!(ahead.want(&one(at..at + 1)), Want::There(at + 1), "and still there");
        ahead.lost(at);
        assert_eq!(ahead.want(&one(at..at + 1)), Want::OfRun);
    }

    #[test]
    fn a_run_that_stops_keeps_what_it_has_come_to_and_no_more() {
        let mut ahead = Claimed::default();
        assert!(ahead.run_takes(5));
        ahead.run_stops(6 * FILL_CHUNK_BYTES + 1);
        assert_eq!((ahead.want(&one(5..8)), ahead.want(&one(6..8))), (Want::OfRun, Want::OfRun));
        assert_eq!(ahead.want(&one(7..8)), fetch(7, 8));
        ahead.ended(8);
        ahead.run_stops(6 * FILL_CHUNK_BYTES);
        assert_eq!((ahead.want(&one(5..8)), ahead.want(&one(6..8))), (Want::OfRun, fetch(6, 8)));
    }

    #[test]
    fn what_an_earlier_process_left_is_proven_before_it_is_there() {
        let left = Ahead::left(BTreeMap::from([(3, 30), (4, 40)]));
        let mut ahead = Claimed { ahead: left, ..Claimed::default() };
        assert_eq!(ahead.want(&one(3..5)), Want::Prove(30));
        ahead.prove(3, 30);
        assert_eq!(ahead.want(&one(3..5)), Want::There(4));
        ahead.prove(4, 41);
        assert_eq!(ahead.want(&one(4..5)), fetch(4, 5), "a chunk that is not what it was is a hole");
        assert_eq!(ahead.bytes(), FILL_CHUNK_BYTES);
    }

    #[test]
    fn without_room_only_what_is_there_or_the_runs_is_waited_for() {
        let mut ahead = Claimed::default();
        assert!(ahead.run_takes(0));
        assert_eq!(ahead.want(&one(20..22)), fetch(20, 22));
        ahead.landed(20, 1);
        ahead.ended(22);
        ahead.forgo_room();
        assert_eq!(ahead.want(&one(20..22)), Want::There(21));
        assert_eq!(ahead.want(&one(21..22)), Want::Pass);
        assert!(!ahead.was_not_had(21), "it was not tried");
        assert_eq!(ahead.want(&one(1..22)), Want::OfRun);
    }

    #[test]
    fn without_ranges_all_is_had_in_order() {
        let mut ahead = Claimed::default();
        ahead.forgo_ranges();
        assert!(!ahead.was_not_had(50));
        assert_eq!(ahead.want(&one(50..51)), Want::InOrder);
    }
}
