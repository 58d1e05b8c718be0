//! What is in the cache, with the names by which the mirror knows it.

use control::{CacheEntry, CacheStat};
use oci::Problem;

use super::Mirror;
use crate::limits;
use crate::metadata::Metadata;

/// A page of the cache's list.
pub(crate) struct Inventory {
    /// With some of the repositories that name each.
    pub entries: Vec<(CacheEntry, Vec<String>)>,
    /// Where to go on. `None`: that was all.
    pub next: Option<u64>,
}

impl<M: Metadata> Mirror<M> {
    /// The cache in numbers.
    pub(crate) async fn stat(&self) -> Result<CacheStat, Problem> {
        self.cache.stat().await
    }

    /// Some entries from `after` on, at most `most`.
    pub(crate) async fn inventory(&self, after: u64, most: u32) -> Result<Inventory, Problem> {
        let page = self.cache.list(after, most.clamp(1, limits::CACHE_PAGE)).await?;
        let digests = page.entries.iter().map(|entry| entry.digest).collect();
        let named = self.metadata.named_by(digests, limits::CACHE_REPOSITORIES).await?;
        Ok(Inventory { entries: page.entries.into_iter().zip(named).collect(), next: page.next })
    }
}
