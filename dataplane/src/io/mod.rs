//! The seam: the only place with a system call, a runtime, a clock or `unsafe`.
//!
//! Owns: one [`Io`] per core, with its epoll set, its disk driver, its timers, buffers and pipes.
//! Everything above this module is written against `Io`, so a simulator can take its place.
//!
//! Two legs, one face. Sockets are the same on both: direct non-blocking calls, and one edge-triggered
//! epoll set per core for when those would wait. Disks: monoio's ring on the uring leg, a small pool of
//! threads on the epoll leg (no io_uring at all, for sandboxes that forbid it).
//!
//! Invariants: *now* calls never wait and never allocate. *Later* calls own their buffer until the kernel
//! is done with it: a dropped future frees nothing early. Nothing is locked but the pool's queue and the
//! list of idle buffers, both off the hot path.

mod arena;
mod buf;
mod clock;
mod disk;
mod driver;
mod faults;
mod fs;
mod hash;
mod listener;
mod pipes;
mod pool;
mod resident;
mod send_file;
mod socket;
mod thread;
mod timers;

pub use buf::Buf;
pub use clock::{Instant, unix_time, wall_micros};
pub use disk::{File, PAGE_BYTES};
pub use driver::{Driver, Io};
pub use faults::{Call, Faults};
pub use fs::{Fs, Stat, is_damage, out_of_descriptors};
pub use hash::hash;
pub use listener::{Listener, ListenerStop};
pub use pool::Pool;
pub use send_file::Sent;
pub use socket::Socket;
pub use thread::{CoreThread, memory_bytes, probe, raise_descriptor_limit, rest, spawn_core, spawn_named};
