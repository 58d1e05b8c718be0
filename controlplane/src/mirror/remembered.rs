//! What is remembered of an upstream for a while.
//!
//! Invariants: bounded in bytes, and so in number, since each entry counts as large as it may be; may be lost at any moment,
//! and not believed any more when its time is over, by the same clock as everything that grows old here.

use std::hash::Hash;
use std::time::Duration;

use moka::sync::Cache;
use tokio::time::Instant;

use crate::limits;

/// Entries that live for a time, each since it was put in.
pub(super) struct Remembered<K, V> {
    entries: Cache<K, (V, Instant)>,
    time: Duration,
}

impl<K, V> Remembered<K, V>
where
    K: Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    /// What one entry counts as: itself, and what may lie elsewhere for it.
    pub(super) const ENTRY_BYTES: u32 =
        (size_of::<(K, V, Instant)>() + limits::REMEMBERED_BESIDE_BYTES) as u32;

    /// At most so many bytes of them, each for `time`.
    pub(super) fn new(bytes_max: u64, time: Duration) -> Remembered<K, V> {
        let time = time.min(limits::REMEMBERED_AT_MOST);
        let entries = Cache::builder()
            .weigher(|_, _| Self::ENTRY_BYTES)
            .max_capacity(bytes_max)
            // What is not believed any more makes room.
            .time_to_live(time)
            .build();
        Remembered { entries, time }
    }

    pub(super) fn get(&self, key: &K) -> Option<V> {
        let (value, since) = self.entries.get(key)?;
        (since.elapsed() < self.time).then_some(value)
    }

    pub(super) fn insert(&self, key: K, value: V) {
        self.entries.insert(key, (value, Instant::now()));
    }

    pub(super) fn forget(&self, key: &K) {
        self.entries.invalidate(key);
    }

    /// Forgets all of a kind. As long as there are entries.
    pub(super) fn forget_all(&self, is_meant: impl Fn(&K) -> bool) {
        for (key, _) in self.entries.iter().filter(|(key, _)| is_meant(key)) {
            self.entries.invalidate(&*key);
        }
    }

    /// How many bytes of them there are, once what is too much has gone.
    #[cfg(test)]
    pub(super) fn settled_bytes(&self) -> u64 {
        self.entries.run_pending_tasks();
        assert_eq!(self.entries.weighted_size(), self.entries.entry_count() * u64::from(Self::ENTRY_BYTES));
        self.entries.weighted_size()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Enough for all of a test.
    const ROOM_BYTES: u64 = 1 << 20;

    #[tokio::test(start_paused = true)]
    async fn an_entry_lives_for_its_time_and_each_since_it_was_put_in() {
        let time = Duration::from_secs(60);
        let remembered = Remembered::new(ROOM_BYTES, time);
        remembered.insert(1, "one");
        tokio::time::advance(time / 2).await;
        remembered.insert(2, "two");
        tokio::time::advance(time / 2 - Duration::from_millis(1)).await;
        assert_eq!((remembered.get(&1), remembered.get(&2)), (Some("one"), Some("two")));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!((remembered.get(&1), remembered.get(&2)), (None, Some("two")));
        remembered.forget(&2);
        assert_eq!(remembered.get(&2), None);
        (1..=4).for_each(|number| remembered.insert(number, "again"));
        remembered.forget_all(|number| number % 2 == 0);
        assert_eq!([1, 2, 3, 4].map(|number| remembered.get(&number).is_some()), [true, false, true, false]);
        let nothing = Remembered::new(ROOM_BYTES, Duration::ZERO);
        nothing.insert(1, ());
        assert_eq!(nothing.get(&1), None);
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_is_believed_for_longer_than_anything_is() {
        let remembered = Remembered::new(ROOM_BYTES, limits::REMEMBERED_AT_MOST * 2);
        remembered.insert(1, ());
        tokio::time::advance(limits::REMEMBERED_AT_MOST - Duration::from_millis(1)).await;
        assert_eq!(remembered.get(&1), Some(()));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(remembered.get(&1), None);
    }
}
