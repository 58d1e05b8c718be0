//! One question to an upstream for all who want to know the same.
//!
//! Invariants: of those that ask for one key at the same time one asks the upstream, and all get its answer. If that
//! one is given up, another takes over. Nothing is kept once everybody has an answer, so there are at most as many
//! entries as questions that are being answered.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::OnceCell;

/// The questions that are on their way.
#[derive(Debug)]
pub(super) struct Flights<K, T> {
    // A mutex, because questions come from any thread; it is held for one look-up.
    flying: Mutex<HashMap<K, Arc<OnceCell<T>>>>,
}

impl<K, T> Default for Flights<K, T> {
    fn default() -> Flights<K, T> {
        Flights { flying: Mutex::new(HashMap::new()) }
    }
}

impl<K: Eq + Hash + Clone, T: Clone> Flights<K, T> {
    /// The answer of `ask`, or of whoever is asking for `key` already.
    pub(super) async fn join(&self, key: K, ask: impl Future<Output = T>) -> T {
        let flight =
            Flight { flights: self, cell: Arc::clone(self.lock().entry(key.clone()).or_default()), key };
        flight.cell.get_or_init(|| ask).await.clone()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Arc<OnceCell<T>>>> {
        // Whole after any panic: an entry is put or taken in one step.
        self.flying.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who waits for an answer. Whoever leaves last, or first with an answer, ends the flight.
struct Flight<'f, K: Eq + Hash, T> {
    flights: &'f Flights<K, T>,
    key: K,
    cell: Arc<OnceCell<T>>,
}

impl<K: Eq + Hash, T> Drop for Flight<'_, K, T> {
    fn drop(&mut self) {
        let mut flying = self.flights.flying.lock().unwrap_or_else(PoisonError::into_inner);
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
