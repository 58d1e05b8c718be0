//! What an operator asks of the cache: what is in it, what stays, what goes.
//!
//! Invariants: nobody holds the books for longer than a page takes, nor the keeper for longer than a few names. Only what
//! the books know and the metadata does not call home loses its name here.

use std::sync::{Arc, atomic::Ordering};

use control::{CacheEntry, CachePage, CacheStat, Control, Purged};
use oci::{Digest, Problem};
use tokio::sync::oneshot;

use super::{Shared, Store};
use crate::{
    cache::{Item, Place},
    limits::{CACHE_DIGESTS_MAX, CACHE_PAGE_ENTRIES_MAX},
};

/// What is to go, and who waits for it.
pub(super) struct Purge {
    pub(super) digests: Vec<Digest>,
    pub(super) answer: oneshot::Sender<Purged>,
}

/// As long as it lives, blobs that were filled get their names at once.
pub struct Hurry(Arc<Shared>);

impl Drop for Hurry {
    fn drop(&mut self) {
        self.0.queue.hurry(false);
    }
}

impl Store {
    /// The numbers of the cache; those of upstreams are not the store's.
    pub fn cache_stat(&self) -> CacheStat {
        let (cached, counters) = (&self.shared.cached, &self.shared.counters);
        let [(blobs, blobs_bytes), (pinned, pinned_bytes), (filling, _)] = cached.sums();
        CacheStat {
            budget_bytes: cached.budget().max_bytes(),
            used_bytes: cached.budget().used_bytes(),
            blobs,
            blobs_bytes,
            pinned,
            pinned_bytes,
            filling,
            evictions: counters.evictions.count(),
            purges: counters.purges.load(Ordering::Relaxed),
            upstreams: Vec::new(),
        }
    }

    /// How many blobs of each upstream went for want of room, in the order of the configuration, and of none.
    pub fn evictions(&self) -> impl Iterator<Item = u64> {
        self.shared.counters.evictions.counts()
    }

    /// Some entries of the cache: see [`control::CacheAsk::List`].
    pub fn cache_page(&self, after: u64, most: u32) -> CachePage {
        let most = usize::try_from(most).unwrap_or(usize::MAX).clamp(1, CACHE_PAGE_ENTRIES_MAX);
        let (items, next) = self.shared.cached.page(after, most);
        CachePage { entries: items.iter().map(entry).collect(), next }
    }

    /// Has these stay, or no longer. Gives how many of them are here whole.
    ///
    /// Errors: [`Problem::RequestMalformed`]: too many.
    pub fn keep_cached(&self, digests: &[Digest], keep: bool) -> Result<u64, Problem> {
        bounded(digests)?;
        Ok(self.shared.cached.keep(digests, keep))
    }

    /// Takes the names of these away, where they are cached. Their bytes come back when the last who reads them is done.
    ///
    /// Errors: [`Problem::RequestMalformed`]: too many; [`Problem::Overloaded`]; [`Problem::WritesRefused`].
    pub async fn purge(&self, digests: Vec<Digest>) -> Result<Purged, Problem> {
        bounded(&digests)?;
        self.shared.allowed()?;
        let (answer, reply) = oneshot::channel();
        self.shared.queue.push_purge(Purge { digests, answer })?;
        reply.await.map_err(|_gone| Problem::Overloaded { retry_after_s: 1 })
    }

    /// Has what was filled get its name without waiting for a push to share a sync with.
    pub fn hurry(&self) -> Hurry {
        self.shared.queue.hurry(true);
        Hurry(self.shared.clone())
    }
}

impl Shared {
    /// By the keeper alone.
    pub(super) fn purge(&self, control: &Control, digests: &[Digest]) -> Purged {
        let mut purged = Purged::default();
        for digest in digests {
            match self.cached.item(digest) {
                Some(item) if item.place == Place::Filling => purged.filling += 1,
                Some(item) => match self.purge_one(control, digest) {
                    Ok(true) => {
                        purged.blobs += 1;
                        purged.bytes += item.size_bytes;
                        self.counters.purges.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(false) => {}
                    Err(problem) => {
                        tracing::warn!(%digest, why = problem.message(), "a blob was not purged");
                    }
                },
                None => {}
            }
        }
        purged
    }
}

fn bounded(digests: &[Digest]) -> Result<(), Problem> {
    if digests.len() > CACHE_DIGESTS_MAX {
        return Err(Problem::RequestMalformed { why: "too many digests at a time" });
    }
    Ok(())
}

fn entry(item: &Item) -> CacheEntry {
    CacheEntry {
        digest: item.digest,
        size_bytes: item.size_bytes,
        is_filling: item.place == Place::Filling,
        is_pinned: item.place == Place::Kept,
        uses: item.uses,
        came_unix: item.came_unix,
    }
}
