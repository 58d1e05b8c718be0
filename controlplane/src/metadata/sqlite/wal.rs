//! Room for the write-ahead log.
//!
//! A COMMIT that makes the log longer costs a commit of the file system's journal, two flushes of a device
//! without FUA; one that overwrites costs a single flush. So the log is made as long as it gets before a
//! checkpoint, with zeros that are really written: space that is only allocated is journalled when it is filled.
//!
//! SQLite takes a frame only with the salt and checksum of its log (its file format, §4), which zeros behind
//! the last frame, or in place of a header, don't have.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::Path;

use crate::limits::WAL_RESERVED_BYTES;

/// Makes the log at `path` at least [`WAL_RESERVED_BYTES`] long, and gives it to be synced. Only the thread that
/// writes the log may call it, and nothing that is in the log changes.
///
/// After an error, a full volume included, the log is as good as before, and may be longer. After an error of
/// the sync it is not: that is one of frames which COMMITs rely on.
pub(super) fn extend(path: &Path) -> io::Result<File> {
    // Closing it drops no lock: SQLite's are on the file of the metadata and its index, never on the log.
    let mut file = OpenOptions::new().append(true).open(path)?;
    let mut len = file.seek(SeekFrom::End(0))?;
    let zeros = vec![0; 256 << 10];
    while len < WAL_RESERVED_BYTES {
        let step = (WAL_RESERVED_BYTES - len).min(zeros.len() as u64);
        file.write_all(&zeros[..step as usize])?;
        len += step;
    }
    Ok(file)
}
