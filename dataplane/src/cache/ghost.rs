//! The ghost queue: fingerprints of blobs that left the small queue, so that one that comes back is known.

use std::collections::VecDeque;

use super::table::Table;

/// First in, first out; forgets all at a restart.
#[derive(Debug, Default)]
pub(super) struct Ghost {
    /// Oldest first. One that was taken stays here until its turn, and counts.
    order: VecDeque<u32>,
    /// Fingerprint → its turn, of those that were not taken.
    turns: Table,
    /// The turn of the first in `order`.
    first_turn: u32,
}

/// Turns wrap here; far more than there are entries, and no number that a table can't hold.
const TURNS: u32 = 1 << 30;

impl Ghost {
    /// Remembers one more, and of all not more than `most` (≥ 1).
    pub(super) fn insert(&mut self, fingerprint: u32, most: usize) {
        self.take(fingerprint);
        let turn = (self.first_turn + self.order.len() as u32) % TURNS;
        self.order.push_back(fingerprint);
        self.turns.insert(fingerprint, turn);
        while self.order.len() > most
            && let Some(oldest) = self.order.pop_front()
        {
            self.turns.remove(oldest, self.first_turn);
            self.first_turn = (self.first_turn + 1) % TURNS;
        }
    }

    /// Whether it is remembered; it no longer is.
    pub(super) fn take(&mut self, fingerprint: u32) -> bool {
        let turn = self.turns.find(fingerprint, |_| true);
        turn.is_some_and(|turn| self.turns.remove(fingerprint, turn))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.order.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_is_forgotten_and_what_is_taken_is_gone() {
        let mut ghost = Ghost { first_turn: TURNS - 2, ..Ghost::default() };
        (1..=5).for_each(|fingerprint| ghost.insert(fingerprint, 4));
        assert!(!ghost.take(1) && ghost.take(2) && !ghost.take(2));
        ghost.insert(2, 4);
        ghost.insert(6, 4);
        assert_eq!((ghost.len(), ghost.turns.len()), (4, 4));
        assert!(!ghost.take(3) && ghost.take(4) && ghost.take(2), "its newer place counts");
        ghost.insert(7, 1);
        assert_eq!((ghost.len(), ghost.turns.len()), (1, 1));
        assert!(!ghost.take(6) && ghost.take(7));
    }
}
