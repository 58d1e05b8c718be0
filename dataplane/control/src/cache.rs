//! What the control plane asks of the cache, which is the data plane's: the way back, in a lane of its own.
//!
//! Invariants: a full lane is an answer, [`Problem::Overloaded`]. Whoever drops the receiver of an answer wants it no
//! longer: a fill that was wanted for that alone is given up.

use std::sync::{Arc, atomic::AtomicU64};

use oci::{Digest, Problem};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot, watch};

use crate::{Answer, Lane, Origin};

/// One question, or one thing to do.
pub enum CacheAsk {
    /// How it is.
    Stat {
        /// Its numbers.
        answer: Answer<CacheStat>,
    },
    /// Some of its entries.
    List {
        /// Where to go on: 0, or what the page before said.
        after: u64,
        /// The most entries, ≥ 1.
        most: u32,
        /// In no order that means anything.
        answer: Answer<CachePage>,
    },
    /// These stay whatever room is lacking, or no longer.
    Keep {
        /// Those that are not here are passed over.
        digests: Vec<Digest>,
        /// Whether they stay.
        keep: bool,
        /// How many of them are here.
        answer: Answer<u64>,
    },
    /// These go, whoever uses them: who reads one reads on.
    Purge {
        /// Those that are not cached are passed over.
        digests: Vec<Digest>,
        /// What went.
        answer: Answer<Purged>,
    },
    /// This is wanted here, and nowhere else.
    Fill {
        /// What; boxed, because it is much larger than the others.
        wanted: Box<Wanted>,
        /// How much of it is here, in bytes; told while it comes.
        done_bytes: Arc<AtomicU64>,
        /// All of it is here, and verified.
        answer: Answer<FillEnd>,
    },
    /// Waits until these have their names, or will not get them.
    Settle {
        /// The blobs, verified.
        digests: Vec<Digest>,
        /// They outlive a restart now, as far as they do.
        answer: Answer<()>,
    },
}

/// A blob that is to be here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Where from.
    pub origin: Origin,
    /// Which.
    pub digest: Digest,
    /// Length in bytes, if it was told.
    pub size_bytes: Option<u64>,
    /// It gives way to every client who waits for the same upstream.
    pub gives_way: bool,
}

/// How a wanted blob came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FillEnd {
    /// It was here.
    Here,
    /// It was fetched, in part at least.
    Fetched,
    /// It would have to go through: there is no room for it.
    NoRoom,
}

/// The cache in numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CacheStat {
    /// What it may take, in bytes.
    pub budget_bytes: u64,
    /// What it takes, in bytes: running fills and open files included.
    pub used_bytes: u64,
    /// Blobs that are here.
    pub blobs: u64,
    /// Their bytes.
    pub blobs_bytes: u64,
    /// Those of them that are pinned.
    pub pinned: u64,
    /// Their bytes.
    pub pinned_bytes: u64,
    /// Fills that are here in part, running or not.
    pub filling: u64,
    /// What went for want of room since the start.
    pub evictions: u64,
    /// What was purged since the start.
    pub purges: u64,
    /// In the order of the configuration.
    pub upstreams: Vec<UpstreamStat>,
}

/// What was pulled from one upstream since the start.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct UpstreamStat {
    /// Its name.
    pub ns: String,
    /// Blobs that were asked for and were here.
    pub hits: u64,
    /// Blobs that were asked for and were not.
    pub misses: u64,
    /// Misses that found a fill under way.
    pub coalesced: u64,
    /// Fills that run.
    pub running: u64,
    /// Bytes of blobs that came from it.
    pub fetched_bytes: u64,
    /// Bytes of its blobs that clients got.
    pub served_bytes: u64,
    /// Blobs of it that went for want of room.
    pub evictions: u64,
}

/// Some entries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CachePage {
    /// In no order.
    pub entries: Vec<CacheEntry>,
    /// Where to go on. `None`: that was all.
    pub next: Option<u64>,
}

/// One blob of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheEntry {
    /// Which.
    pub digest: Digest,
    /// Length in bytes; of a fill, what it is expected to be.
    pub size_bytes: u64,
    /// Whether its bytes are still on their way.
    pub is_filling: bool,
    /// Whether it stays whatever room is lacking.
    pub is_pinned: bool,
    /// Uses since it was last considered for eviction, up to a few.
    pub uses: u8,
    /// When it was whole, seconds since 1970; 0: not yet.
    pub came_unix: u32,
}

/// What a purge did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// Blobs that have lost their names.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Fills that are under way: clients wait for them, and they go on.
    pub filling: u64,
}

/// The control plane's end. Cloning it is cheap.
#[derive(Clone)]
pub struct Cache {
    asks: mpsc::Sender<CacheAsk>,
    /// The lane is open as long as this is here.
    _open: Arc<watch::Sender<bool>>,
}

impl Cache {
    /// A lane of at most `waiting` entries; it ends with the last clone of the sender.
    pub fn lane(waiting: usize) -> (Cache, Lane<CacheAsk>) {
        let (asks, receiver) = mpsc::channel(waiting);
        let (open, closed) = watch::channel(false);
        (Cache { asks, _open: Arc::new(open) }, Lane::of(receiver, closed))
    }

    /// See [`CacheAsk::Stat`].
    pub async fn stat(&self) -> Result<CacheStat, Problem> {
        self.ask(|answer| CacheAsk::Stat { answer }).await
    }

    /// See [`CacheAsk::List`].
    pub async fn list(&self, after: u64, most: u32) -> Result<CachePage, Problem> {
        self.ask(|answer| CacheAsk::List { after, most, answer }).await
    }

    /// See [`CacheAsk::Keep`].
    pub async fn keep(&self, digests: Vec<Digest>, keep: bool) -> Result<u64, Problem> {
        self.ask(|answer| CacheAsk::Keep { digests, keep, answer }).await
    }

    /// See [`CacheAsk::Purge`].
    pub async fn purge(&self, digests: Vec<Digest>) -> Result<Purged, Problem> {
        self.ask(|answer| CacheAsk::Purge { digests, answer }).await
    }

    /// See [`CacheAsk::Fill`].
    pub async fn fill(&self, wanted: Wanted, done_bytes: Arc<AtomicU64>) -> Result<FillEnd, Problem> {
        let wanted = Box::new(wanted);
        self.ask(|answer| CacheAsk::Fill { wanted, done_bytes, answer }).await
    }

    /// See [`CacheAsk::Settle`].
    pub async fn settle(&self, digests: Vec<Digest>) -> Result<(), Problem> {
        self.ask(|answer| CacheAsk::Settle { digests, answer }).await
    }

    async fn ask<T>(&self, question: impl FnOnce(Answer<T>) -> CacheAsk) -> Result<T, Problem> {
        let (answer, reply) = oneshot::channel();
        let overloaded = |_full_or_closed| Problem::Overloaded { retry_after_s: 1 };
        self.asks.try_send(question(answer)).map_err(overloaded)?;
        reply.await.unwrap_or(Err(Problem::Internal))
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[test]
    fn a_full_lane_says_so() {
        let (cache, mut lane) = Cache::lane(1);
        let mut context = Context::from_waker(Waker::noop());
        let mut first = pin!(cache.stat());
        assert!(first.as_mut().poll(&mut context).is_pending());
        let second = pin!(cache.list(0, 1)).poll(&mut context);
        assert_eq!(second, Poll::Ready(Err(Problem::Overloaded { retry_after_s: 1 })));
        let Poll::Ready(Some(CacheAsk::Stat { answer })) = pin!(lane.recv()).poll(&mut context) else {
            panic!("it was asked")
        };
        drop(answer.send(Ok(CacheStat { blobs: 7, ..CacheStat::default() })));
        let Poll::Ready(Ok(stat)) = first.as_mut().poll(&mut context) else { panic!("it was answered") };
        assert_eq!(stat.blobs, 7);
    }

    #[test]
    fn the_lane_ends_with_the_last_sender() {
        let (cache, mut lane) = Cache::lane(1);
        drop(cache);
        let mut context = Context::from_waker(Waker::noop());
        assert!(matches!(pin!(lane.recv()).poll(&mut context), Poll::Ready(None)));
    }
}
