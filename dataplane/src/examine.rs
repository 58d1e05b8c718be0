//! What a start would find on this machine, looked at without starting anything.

use std::{io, path::Path};

use crate::{
    io::{Faults, Fs, probe, raise_descriptor_limit},
    limits::OPEN_FILES_PER_CORE,
    running::connections_max,
    store,
};

/// The volume of a data directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Its file system, `"unknown"` if it is none of those that we know.
    pub filesystem: &'static str,
    /// Whether a batch of commits costs one sync of the volume, and not one for each file.
    pub is_synced_whole: bool,
    /// What may still be taken, in bytes.
    pub free_bytes: u64,
    /// What of that is kept for metadata and deletes, in bytes.
    pub reserve_bytes: u64,
    /// All of it, in bytes.
    pub total_bytes: u64,
}

/// What a process here may have open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors {
    /// How many, at most.
    pub most: u64,
    /// How many of them the open files of the cores may take.
    pub files: u64,
    /// How many connections are taken at most.
    pub connections: u64,
}

/// The volume that `dir`, which exists, is on. `reserve_bytes` as in [`crate::Settings`].
pub fn volume(dir: &Path, reserve_bytes: u64) -> io::Result<Volume> {
    let fs = Fs::open(dir, Faults::none())?;
    let (space, filesystem) = (fs.space()?, fs.filesystem()?);
    Ok(Volume {
        filesystem,
        is_synced_whole: store::syncs_whole(filesystem),
        free_bytes: space.free_bytes,
        reserve_bytes: store::reserve_bytes(reserve_bytes, space.total_bytes),
        total_bytes: space.total_bytes,
    })
}

/// Whether this kernel and sandbox give us the ring.
///
/// Errors: why not.
pub fn ring() -> io::Result<()> {
    probe()
}

/// What this process may have open, and how it would be shared out; `connections` as in [`crate::limits::Limits`].
pub fn descriptors(cores: usize, connections: usize) -> Descriptors {
    let most = raise_descriptor_limit();
    Descriptors {
        most,
        files: (OPEN_FILES_PER_CORE * cores) as u64,
        connections: connections_max(connections, cores, most),
    }
}
