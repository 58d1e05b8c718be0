//! The data plane: every byte of every client passes here, on one pinned thread per core.

mod io;
pub mod limits;

use std::{net::SocketAddr, path::PathBuf};

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
    /// Bounds.
    pub limits: limits::Limits,
}
