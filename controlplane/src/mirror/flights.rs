//! One question to an upstream for all who want to know the same.
//!
//! Invariants: of those that ask for one key at the same time one asks the upstream, and all get its answer. If that
//! one is given up, another takes over. Nothing is kept once everybody has an answer, so there are at most as many
//! entries as questions that are being answered.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OnceCell;

/// The questions that are on their way.
#[derive(Debug)]
pub(super) struct Flights<K, T> {
    flying: Flying<K, T>,
}

// A mutex, because questions come from any thread; it is held for one look-up.
type Flying<K, T> = Arc<Mutex<HashMap<K, Arc<OnceCell<T>>>>>;

impl<K, T> Default for Flights<K, T> {
    fn default() -> Flights<K, T> {
        Flights { flying: Arc::default() }
    }
}

impl<K: Eq + Hash + Clone, T: Clone> Flights<K, T> {
    /// The answer of `ask`, or of whoever is asking for `key` already.
    pub(super) async fn join(&self, key: K, ask: impl Future<Output = T>) -> T {
        let cell = Arc::clone(self.lock().entry(key.clone()).or_default());
        Flight { flying: Arc::clone(&self.flying), key, cell }.fly(ask).await
    }

    /// The flight for `key`, if there is none yet. Whoever asks for it from now on joins it.
    pub(super) fn begin(&self, key: K) -> Option<Flight<K, T>> {
        let cell = match self.lock().entry(key.clone()) {
            Entry::Vacant(free) => Arc::clone(free.insert(Arc::default())),
            Entry::Occupied(_) => return None,
        };
        Some(Flight { flying: Arc::clone(&self.flying), key, cell })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Arc<OnceCell<T>>>> {
        // Whole after any panic: an entry is put or taken in one step.
        self.flying.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who waits for an answer. Whoever leaves last, or first with an answer, ends the flight.
pub(super) struct Flight<K: Eq + Hash, T> {
    flying: Flying<K, T>,
    key: K,
    cell: Arc<OnceCell<T>>,
}

impl<K: Eq + Hash, T: Clone> Flight<K, T> {
    /// The answer of `ask`, or of whoever was quicker.
    pub(super) async fn fly(self, ask: impl Future<Output = T>) -> T {
        self.cell.get_or_init(|| ask).await.clone()
    }
}

impl<K: Eq + Hash, T> Drop for Flight<K, T> {
    fn drop(&mut self) {
        let mut flying = self.flying.lock().unwrap_or_else(PoisonError::into_inner);
        let is_ours = flying.get(&self.key).is_some_and(|cell| Arc::ptr_eq(cell, &self.cell));
        // The table and this one hold it.
        let is_last = Arc::strong_count(&self.cell) == 2;
        if is_ours && (is_last || self.cell.initialized()) {
            flying.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn many_ask_and_one_question_goes_out() {
        let flights: Arc<Flights<&str, u32>> = Arc::default();
        let (asked, go) = (Arc::new(AtomicU32::new(0)), Arc::new(Notify::new()));
        let askers: Vec<_> = (0..8)
            .map(|_| {
                let (flights, asked, go) = (Arc::clone(&flights), Arc::clone(&asked), Arc::clone(&go));
                tokio::spawn(async move {
                    let ask = async {
                        let number = asked.fetch_add(1, Ordering::SeqCst);
                        go.notified().await;
                        number
                    };
                    flights.join("key", ask).await
                })
            })
            .collect();
        while asked.load(Ordering::SeqCst) == 0 {
            tokio::task::yield_now().await;
        }
        // Everybody is at the cell before the answer comes.
        while Arc::strong_count(&flights.lock()["key"]) < 9 {
            tokio::task::yield_now().await;
        }
        go.notify_one();
        for asker in askers {
            assert_eq!(asker.await.unwrap(), 0);
        }
        assert_eq!(asked.load(Ordering::SeqCst), 1);
        assert!(flights.lock().is_empty(), "nothing is kept");
        assert_eq!(flights.join("key", async { 7 }).await, 7, "the next one asks anew");
    }

    #[tokio::test]
    async fn one_is_begun_where_there_is_none_and_ends_also_if_it_never_flies() {
        let flights: Flights<u8, u32> = Flights::default();
        let begun = flights.begin(1).unwrap();
        assert!(flights.begin(1).is_none(), "it is under way");
        assert!(flights.begin(2).is_some());
        drop(begun);
        assert!(flights.lock().is_empty());
        let again = flights.begin(1).unwrap();
        assert_eq!(flights.join(1, async { 3 }).await, 3, "who comes does not wait for it to begin");
        assert_eq!(again.fly(async { 4 }).await, 3);
        assert!(flights.lock().is_empty());
    }

    #[tokio::test]
    async fn one_that_is_given_up_is_taken_over() {
        let flights: Arc<Flights<u8, u32>> = Arc::default();
        let endless = {
            let flights = Arc::clone(&flights);
            tokio::spawn(async move { flights.join(1, std::future::pending()).await })
        };
        while flights.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        let second = {
            let flights = Arc::clone(&flights);
            tokio::spawn(async move { flights.join(1, async { 2 }).await })
        };
        tokio::task::yield_now().await;
        endless.abort();
        assert_eq!(second.await.unwrap(), 2);
        assert!(flights.lock().is_empty());
    }
}
