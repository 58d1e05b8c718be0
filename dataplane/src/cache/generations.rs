//! What a core remembers: bounded, and dropped in the order in which it was last of use.
//!
//! Two generations stand in for an exact order: what was used since the last turn is young, what was used in the turn
//! before is old, and at each turn what is old and was not used goes. A hit is one look-up.

use std::{borrow::Borrow, collections::HashMap, hash::Hash};

use foldhash::fast::RandomState;

/// A bounded map. Weights are in whatever unit its bound is.
pub struct Generations<K, V> {
    // Not SipHash: a key is kept only after the control plane has said yes to it, and the seed is our own.
    map: HashMap<K, Weighed<V>, RandomState>,
    turn: u64,
    young_weight: usize,
    weight_max: usize,
}

struct Weighed<V> {
    value: V,
    weight: usize,
    /// The turn in which it was last of use.
    used: u64,
}

impl<K: Hash + Eq, V> Generations<K, V> {
    /// A map of at most `weight_max`, of which each generation may have half.
    pub fn new(weight_max: usize) -> Generations<K, V> {
        Generations { map: HashMap::default(), turn: 1, young_weight: 0, weight_max }
    }

    /// What `look` makes of that which is remembered of `key`.
    pub fn get<Q, T>(&mut self, key: &Q, look: impl FnOnce(&V) -> T) -> Option<T>
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let found = self.map.get_mut(key)?;
        let seen = look(&found.value);
        if found.used != self.turn {
            let weight = found.weight;
            let turns = self.young_weight + weight > self.weight_max / 2;
            found.used = self.turn + u64::from(turns);
            if turns {
                self.next_turn();
            }
            self.young_weight += weight;
        }
        Some(seen)
    }

    /// Remembers a value; one that is heavier than a generation is not kept.
    pub fn insert(&mut self, key: K, value: V, weight: usize) {
        self.remove(&key);
        let half = self.weight_max / 2;
        if weight > half {
            return;
        }
        if self.young_weight + weight > half {
            self.next_turn();
        }
        self.young_weight += weight;
        self.map.insert(key, Weighed { value, weight, used: self.turn });
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.map.clear();
        self.young_weight = 0;
    }

    /// Forgets `key`.
    pub fn remove<Q>(&mut self, key: &Q)
    where
        K: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        if let Some(gone) = self.map.remove(key)
            && gone.used == self.turn
        {
            self.young_weight -= gone.weight;
        }
    }

    /// What is young becomes old, and what was old goes. All entries are looked at, once for as many uses.
    fn next_turn(&mut self) {
        let turn = self.turn;
        self.map.retain(|_, kept| kept.used >= turn);
        self.turn += 1;
        self.young_weight = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_stays_and_the_bound_holds() {
        let mut map = Generations::new(8);
        for key in 0..100 {
            map.insert(key, key, 1);
            assert_eq!(map.get(&0, |value| *value), Some(0), "{key}");
            assert!(map.map.len() <= 8);
        }
        assert_eq!(map.get(&1, |value| *value), None);
        map.remove(&0);
        assert_eq!(map.get(&0, |value| *value), None);
        map.insert(7, 7, 5);
        assert_eq!(map.get(&7, |value| *value), None, "heavier than a generation");
    }

    #[test]
    fn weights_add_up_whatever_is_done() {
        let mut map = Generations::new(64);
        let mut dice = 1_u64;
        for _ in 0..100_000 {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let key = dice >> 40 & 63;
            match dice >> 60 {
                0..6 => map.insert(key, key, (dice >> 50 & 15) as usize),
                6..14 => assert!(map.get(&key, |value| *value == key) != Some(false)),
                _ => map.remove(&key),
            }
            let of = |turn| {
                map.map.values().filter(|kept| kept.used == turn).map(|kept| kept.weight).sum::<usize>()
            };
            assert_eq!(of(map.turn), map.young_weight);
            assert!(map.young_weight <= 32 && of(map.turn - 1) <= 32);
            assert_eq!(
                of(map.turn) + of(map.turn - 1),
                map.map.values().map(|kept| kept.weight).sum::<usize>()
            );
        }
    }
}
