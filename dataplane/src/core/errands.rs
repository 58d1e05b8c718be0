//! What the control plane asks of the cache, done by the first core: its numbers, what stays and goes, and blobs that are
//! wanted here although no client waits for them.
//!
//! Invariants: nothing here holds up a client. A fill that is wanted for itself is one like any other, joined by a reader
//! without a socket; when nobody wants the answer any more, that reader leaves. One that gives way leaves while a client
//! waits for the same upstream.

use std::{
    cell::Cell,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use control::{Answer, CacheAsk, CacheStat, FillEnd, Lane, Purged, UpstreamStat, Wanted};
use oci::{Digest, Problem, Selected, Span};

use super::Core;
use crate::{
    fill::{Advance, Reader, Ready},
    limits::{CACHE_FILLS_MAX, FILL_JOINS_MAX, GIVE_WAY_PAUSE, SETTLE_TIME},
};

const OVERLOADED: Problem = Problem::Overloaded { retry_after_s: 1 };

/// Does what is asked, until nobody can ask any more.
pub async fn errands(core: Rc<Core>, mut lane: Lane<CacheAsk>) {
    let fills = Rc::new(Cell::new(0));
    while let Some(ask) = lane.recv().await {
        let io = &core.io;
        let core = core.clone();
        // Who asked may be gone, which is no error.
        match ask {
            CacheAsk::Stat { answer } => {
                let with = |(stat, evictions)| UpstreamStat { evictions, ..stat };
                let upstreams = core.fills.stat().into_iter().zip(core.store.evictions()).map(with).collect();
                let stat = CacheStat { upstreams, ..core.store.cache_stat() };
                let _ = answer.send(Ok(stat));
            }
            CacheAsk::List { after, most, answer } => {
                let _ = answer.send(Ok(core.store.cache_page(after, most)));
            }
            CacheAsk::Keep { digests, keep, answer } => io.spawn(async move {
                until_known(&core, &answer).await;
                let _ = answer.send(core.store.keep_cached(&digests, keep));
            }),
            CacheAsk::Purge { digests, answer } => io.spawn(async move {
                until_known(&core, &answer).await;
                let _ = answer.send(purge(&core, digests).await);
            }),
            CacheAsk::Settle { digests, answer } => io.spawn(async move {
                until_known(&core, &answer).await;
                settle(&core, &digests).await;
                let _ = answer.send(Ok(()));
            }),
            CacheAsk::Fill { wanted, done_bytes, answer } => match Place::take(&fills) {
                Some(place) => io.spawn(async move {
                    let _place = place;
                    fill(&core, *wanted, &done_bytes, answer).await;
                }),
                None => drop(answer.send(Err(OVERLOADED))),
            },
        }
    }
}

/// One of the places for fills that no client waits for.
struct Place(Rc<Cell<usize>>);

impl Place {
    fn take(taken: &Rc<Cell<usize>>) -> Option<Place> {
        if taken.get() >= CACHE_FILLS_MAX {
            return None;
        }
        taken.set(taken.get() + 1);
        Some(Place(taken.clone()))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Waits until what is here is known, as it soon is where the index was damaged, or until nobody wants the answer.
async fn until_known<T>(core: &Core, answer: &Answer<T>) {
    while core.store.is_rebuilding() && !answer.is_closed() {
        core.io.sleep_until(core.io.now() + GIVE_WAY_PAUSE).await;
    }
}

async fn purge(core: &Core, digests: Vec<Digest>) -> Result<Purged, Problem> {
    settle(core, &digests).await;
    // What is here in part goes here; what has a name, by the keeper.
    let forgotten = digests.iter().filter(|digest| core.forget_fill(digest)).count() as u64;
    let purged = core.store.purge(digests).await?;
    Ok(Purged { blobs: purged.blobs + forgotten, ..purged })
}

/// Waits until all of these that are here whole have their names, or won't get them.
async fn settle(core: &Core, digests: &[Digest]) {
    let is_unsettled = || digests.iter().any(|digest| core.fills.is_unnamed(digest));
    if !is_unsettled() {
        return;
    }
    let _hurry = core.store.hurry();
    let until = core.io.now() + SETTLE_TIME;
    while is_unsettled() && core.io.now() < until {
        core.io.sleep_until(core.io.now() + GIVE_WAY_PAUSE / 10).await;
    }
}

async fn fill(core: &Core, wanted: Wanted, done_bytes: &Arc<AtomicU64>, mut answer: Answer<FillEnd>) {
    until_known(core, &answer).await;
    let end = tokio::select! {
        end = bring(core, &wanted, done_bytes) => end,
        () = answer.closed() => return,
    };
    let _ = answer.send(end);
}

/// Has all of a blob come here. A fill that is over without it is joined anew, a few times.
async fn bring(core: &Core, wanted: &Wanted, done_bytes: &AtomicU64) -> Result<FillEnd, Problem> {
    let Wanted { origin, digest, size_bytes, .. } = wanted;
    let mut end = FillEnd::Here;
    let mut joins = 0;
    loop {
        while wanted.gives_way && core.fills.has_clients(origin) {
            core.io.sleep_until(core.io.now() + GIVE_WAY_PAUSE).await;
        }
        let absence = core.store.before_looking(digest);
        let is_here = core.store.has_name(&core.io, digest).await;
        if is_here.map_err(|_logged_by_the_next_read| OVERLOADED)? && !core.store.is_suspect(digest) {
            return Ok(end);
        }
        let mut reader = core.join_fill_behind(digest, *origin, *size_bytes, absence)?;
        if reader.is_verified() {
            return Ok(end);
        }
        end = FillEnd::Fetched;
        match follow(core, &mut reader, wanted, done_bytes).await? {
            Followed::Whole => return Ok(end),
            Followed::NoRoom => return Ok(FillEnd::NoRoom),
            Followed::GaveWay => {}
            Followed::Over if joins < FILL_JOINS_MAX => joins += 1,
            Followed::Over => {
                let why = "the upstream gives a blob that is not what its digest says";
                return Err(Problem::UpstreamMisbehaved { why });
            }
        }
    }
}

enum Followed {
    /// All of it is here, and verified.
    Whole,
    NoRoom,
    /// A client came.
    GaveWay,
    /// This fill is none any more.
    Over,
}

/// Follows a fill to its end.
async fn follow(
    core: &Core,
    reader: &mut Reader,
    wanted: &Wanted,
    done_bytes: &AtomicU64,
) -> Result<Followed, Problem> {
    let ready = tokio::select! {
        ready = reader.ready(None) => ready?,
        () = client_comes(core, wanted) => return Ok(Followed::GaveWay),
    };
    match ready {
        Ready::Begun => {}
        Ready::Here | Ready::Again | Ready::Denied => return Ok(Followed::Over),
        Ready::Full => return Ok(Followed::NoRoom),
    }
    let (_, size_bytes) = reader.file().ok_or(Problem::Internal)?;
    let mut left = Span { start: 0, end: size_bytes };
    let _whole = reader.answers(Selected::Whole, size_bytes);
    loop {
        match reader.end(left) {
            None => {
                done_bytes.store(size_bytes, Ordering::Relaxed);
                return Ok(Followed::Whole);
            }
            Some(there) => {
                // As if it had been sent.
                left.start = left.start.max(there);
                done_bytes.store(there, Ordering::Relaxed);
            }
        }
        let advance = tokio::select! {
            advance = reader.advance(left) => advance?,
            () = client_comes(core, wanted) => return Ok(Followed::GaveWay),
        };
        match advance {
            Advance::Look => {}
            // There is no room any more: nobody needs what would go through.
            Advance::Pass(_) => return Ok(Followed::NoRoom),
        }
    }
}

/// Until a client waits for the same upstream, if that matters.
async fn client_comes(core: &Core, wanted: &Wanted) {
    if !wanted.gives_way {
        return std::future::pending().await;
    }
    while !core.fills.has_clients(&wanted.origin) {
        core.io.sleep_until(core.io.now() + GIVE_WAY_PAUSE).await;
    }
}
