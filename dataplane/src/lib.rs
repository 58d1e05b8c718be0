//! The data plane: every byte of every client passes here, on one pinned thread per core.

mod access;
mod api;
mod cache;
mod core;
pub mod examine;
mod fill;
mod http;
mod io;
pub mod limits;
mod mark;
mod metrics;
mod running;
mod store;
#[doc(hidden)]
pub mod testing;

pub use io::{Call, Faults};
pub use running::{Failed, Joints, Pinned, Running, Shared, StartError, start};
pub use store::{CacheSize, Cleared};

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// Which I/O driver the cores use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoChoice {
    /// The ring where the kernel offers one, else epoll.
    Auto,
    /// The ring, or a start error.
    Uring,
    /// No io_uring at all.
    Epoll,
}

/// What the data plane is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Address to listen on; port 0 picks one.
    pub listen: SocketAddr,
    /// The data directory; made if missing.
    pub data: PathBuf,
    /// Number of cores to use, ≥ 1.
    pub cores: usize,
    /// The driver.
    pub io: IoChoice,
    /// Whether every request leaves a line in the log.
    pub access_log: bool,
    /// The larger of this and a hundredth of the volume is kept free for metadata and deletes.
    pub reserve_bytes: u64,
    /// Bounds.
    pub limits: limits::Limits,
    /// The upstreams by name.
    pub namespaces: std::sync::Arc<oci::Namespaces>,
    /// For each upstream, how many percent of a blob have to be here for it to be completed without a reader; `None`:
    /// it never is.
    pub complete_percent: Vec<Option<u8>>,
    /// What the blobs of upstreams may take.
    pub cache: CacheSize,
}

/// Whether an earlier process left the mark of a disk error in this data directory.
pub fn disk_error_marked(data: &Path) -> std::io::Result<bool> {
    store::disk_error_marked(&io::Fs::open(data, Faults::none())?)
}

/// Leaves the mark of a disk error, as well as one can: the disk may take nothing any more. What was linked
/// since `last_good_unix`, in seconds since 1970, will be doubted.
pub fn mark_disk_error(data: &Path, last_good_unix: u64) {
    match io::Fs::open(data, Faults::none()) {
        Ok(fs) => store::mark_disk_error(&fs, last_good_unix),
        Err(error) => tracing::error!(%error, "the mark of a disk error can't be left"),
    }
}

/// Hashes again what was linked since the last good batch, takes damaged names away, removes the mark.
/// The caller holds the directory's lock.
pub fn clear_disk_error(data: &Path) -> std::io::Result<Cleared> {
    store::clear_disk_error(&io::Fs::open(data, Faults::none())?)
}
