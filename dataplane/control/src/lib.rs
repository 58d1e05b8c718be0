//! Where the two planes meet: what a core may ask, what it is told, and what keeps its caches true.
//!
//! Owns: [`Control`], the cores' end of two bounded lanes; [`Ask`] and [`Forward`], what travels on them; [`Cache`] and
//! [`CacheAsk`], the way back, by which an operator's wishes reach the cache;
//! [`Epochs`], by which a cached *yes* is dropped in the same call that revokes it; [`Writes`], whether
//! anything may be written at all; [`Health`], what the process knows of itself; [`Memory`], how much of a blob may be
//! on its way.
//!
//! Invariants: both planes import this crate and neither imports the other. Nothing here waits, except a
//! caller for its own reply, and who wants memory for its turn. A receiver of [`Lanes`] is all that a control plane needs to be: a test is one.

mod ask;
mod cache;
mod epochs;
mod health;
mod lanes;
mod memory;

pub use ask::{
    Answer, Ask, Caller, Came, CommitFailed, Description, Document, Fetched, Forward, Link, Manifest, Origin,
    Outline, Preconditions, Principal, PushedBlob, Reply, StoredManifest,
};
pub use cache::{Cache, CacheAsk, CacheEntry, CachePage, CacheStat, FillEnd, Purged, UpstreamStat, Wanted};
pub use epochs::{Epoch, Epochs, Slot};
pub use health::{CoreHealth, DiskHealth, Health, OnRefuse, Refusal, Writes, WritesHealth};
pub use lanes::{Control, Lane, Lanes};
pub use memory::{Gate, Held, Memory};
