//! Platforms that an operator wants here as soon as anybody asks for an image: fetched behind the answer.
//!
//! Invariants: never at the cost of a pull. So many indexes wait and run, and one more is left; each gives way to clients
//! who wait for the same upstream, and asks it for nothing while less than half of its budget is left.

use std::sync::Arc;

use control::Document;
use oci::{Digest, MediaType, Reference, RepositoryName};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::behind::Behind;
use super::counts::Prefetched;
use super::gather::{Order, has_budget};
use super::remembered::Remembered;
use super::tally::Tally;
use super::{Mirror, Place};
use crate::limits;
use crate::metadata::Metadata;

/// Indexes that are fetched ahead, or were not long ago.
pub(super) struct Prefetches {
    tasks: Behind,
    running: Arc<Semaphore>,
    recent: Remembered<(RepositoryName, Digest), ()>,
}

impl Default for Prefetches {
    fn default() -> Prefetches {
        Prefetches {
            tasks: Behind::of(limits::PREFETCHES),
            running: Arc::new(Semaphore::new(limits::PREFETCHES_AT_ONCE)),
            recent: Remembered::new(limits::PREFETCHED_BYTES, limits::PREFETCHED_FOR),
        }
    }
}

impl Prefetches {
    pub(super) async fn close(&self) {
        self.tasks.close().await;
    }

    pub(super) fn forget(&self, is_meant: &dyn Fn(&str) -> bool) {
        self.recent.forget_all(|(name, _)| is_meant(name.as_str()));
    }
}

impl<M: Metadata> Mirror<M> {
    /// A client was given this by a tag. If it is an index, the platforms that an operator wants are fetched.
    pub(crate) fn prefetch(self: &Arc<Self>, place: &Place, document: &Document) {
        let Ok(site) = self.site(place) else { return };
        let is_index = [MediaType::OCI_INDEX, MediaType::DOCKER_LIST].contains(&document.media_type);
        let key = (place.repository, document.digest);
        if site.rules.platforms.is_empty() || !is_index || self.prefetches.recent.get(&key).is_some() {
            return;
        }
        if !has_budget(site) {
            site.counts.prefetch(Prefetched::Dropped);
            return;
        }
        let order = Order {
            platforms: site.rules.platforms.clone(),
            blobs_at_once: limits::PREFETCH_BLOBS_AT_ONCE,
            gives_way: true,
        };
        let (mirror, place, digest) = (Arc::clone(self), *place, document.digest);
        let (counts, running) = (Arc::clone(&site.counts), Arc::clone(&self.prefetches.running));
        let has_begun = self.prefetches.tasks.start(async move {
            let Ok(_turn) = running.acquire().await else { return };
            let tally = Arc::<Tally>::default();
            let gathering = mirror.gather(&place, Reference::Digest(digest), &order, &tally);
            let gathered = timeout(limits::PREFETCH_TIME, gathering).await;
            let problems = tally.read().problems;
            match gathered {
                // What the image has nothing for is no fault of anybody's.
                Ok(Ok(())) => counts.prefetch(Prefetched::Done),
                Ok(Err(_)) | Err(_) => counts.prefetch(Prefetched::Failed),
            }
            for (what, why) in problems {
                tracing::debug!(repository = %place.repository, what, why, "not fetched ahead");
            }
        });
        if has_begun {
            self.prefetches.recent.insert(key, ());
        } else {
            site.counts.prefetch(Prefetched::Dropped);
        }
    }
}

#[cfg(test)]
mod tests {
    use oci::Algorithm;

    use super::*;

    #[test]
    fn what_was_fetched_ahead_is_remembered_within_a_bound() {
        let prefetches = Prefetches::default();
        let key = |number: u64| {
            let name = RepositoryName::parse(&format!("docker.io/a{number}")).unwrap();
            (name, Digest::of(Algorithm::Sha256, &number.to_le_bytes()))
        };
        for number in 0..limits::PREFETCHED_BYTES / limits::REMEMBERED_BESIDE_BYTES as u64 {
            prefetches.recent.insert(key(number), ());
        }
        let have = prefetches.recent.settled_bytes();
        assert!(have > limits::PREFETCHED_BYTES / 2 && have <= limits::PREFETCHED_BYTES, "{have}");
        prefetches.forget(&|name| name.starts_with("docker.io/"));
        assert_eq!(prefetches.recent.settled_bytes(), 0);
    }

    #[tokio::test]
    async fn so_many_wait_and_one_more_is_left() {
        let prefetches = Prefetches::default();
        assert!((0..limits::PREFETCHES).all(|_| prefetches.tasks.start(std::future::pending())));
        assert!(!prefetches.tasks.start(async {}));
        prefetches.close().await;
    }
}
