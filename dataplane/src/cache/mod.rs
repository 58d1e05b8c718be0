//! What is kept because it was of use: what a core remembers, and the books of the pull-through cache.
//!
//! Owns: the byte budget of cached blobs, which of them go first, and the record on disk of which there are. It opens,
//! links and unlinks no blob: the keeper does, and says so here.
//!
//! Invariants: a byte is reserved before it is written, and counts until its file has neither a name nor an open
//! descriptor. An entry is a hint and never says that a blob is *not* home: before a file loses its name for want of
//! room, the metadata is asked. What the books do not know is kept.

mod budget;
mod entries;
mod frames;
mod generations;
mod ghost;
mod index;
mod leases;
mod log;
mod policy;
mod table;

pub use budget::{Budget, Lease, NoRoom};
pub use entries::Place;
pub use frames::{Header, Kind, Read, Record, read_frames};
pub use generations::Generations;
pub use index::{Found, Index, Loaded};
pub use leases::Leases;
pub use log::{Log, Opened, Unwritten};
pub use policy::{Item, Policy, Refused, Victim};
