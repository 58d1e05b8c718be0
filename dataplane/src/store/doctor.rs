//! The mark that a disk error leaves, and what has to happen before it may go.
//!
//! After an error of a sync nobody knows which bytes are on the disk: what memory still holds may be right
//! while the disk is wrong. So blobs that were linked since the last good batch are read from the disk.

use std::io;

use oci::{Algorithm, Digest, Hasher};

use super::{blob_directory, blob_path, upload::hash_part};
use crate::{
    io::{Fs, unix_time},
    limits::CLOCK_SET_BACK_MAX,
};

const MARK: &str = "disk-error";
const KEY: &str = "{\"last_good_batch_unix\":";

/// What clearing the mark has found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cleared {
    /// Blobs that were read from the disk and hashed.
    pub hashed: u64,
    /// Those whose bytes were wrong; their names are gone, and a push brings them back.
    pub damaged: Vec<Digest>,
}

/// Leaves the mark, as well as one can: on a broken disk it may not last. Does nothing if it is there. What was
/// linked since the last batch whose syncs and COMMIT all succeeded will have to be read; since 0, everything.
pub fn mark_disk_error(fs: &Fs, last_good_batch_unix: u64) {
    let marked = || {
        if disk_error_marked(fs)? {
            return Ok(());
        }
        let file = fs.create(MARK)?;
        fs.write_all_at(&file, 0, format!("{KEY}{last_good_batch_unix}}}\n").as_bytes())?;
        fs.sync_data(&file)?;
        fs.sync_directory(".")
    };
    if let Err(error) = marked() {
        let error: io::Error = error;
        tracing::error!(%error, "the mark disk-error could not be written durably");
    }
}

/// Whether an earlier process has left the mark.
pub fn disk_error_marked(fs: &Fs) -> io::Result<bool> {
    Ok(fs.stat(MARK)?.is_some())
}

/// Reads and hashes what was linked since the last good batch, takes the names of wrong blobs away, then
/// removes the mark. No server may be running. On an error, also of a blob that can't be read, the mark stays.
pub fn clear_disk_error(fs: &Fs) -> io::Result<Cleared> {
    let mut cleared = Cleared::default();
    // A blob more is only time.
    let since_unix = marked_since(fs)?.saturating_sub(CLOCK_SET_BACK_MAX.as_secs());
    for algorithm in Algorithm::ALL {
        let directory = blob_directory(algorithm);
        if fs.stat(directory)?.is_none() {
            continue;
        }
        for name in fs.list(directory)? {
            let Ok(digest) = Digest::parse(&format!("{algorithm}:{name}")) else {
                tracing::warn!(directory, name, "not the name of a blob; left alone");
                continue;
            };
            match is_right(fs, &digest, since_unix)? {
                None => {}
                Some(right) => {
                    cleared.hashed += 1;
                    if !right {
                        fs.unlink(&blob_path(&digest))?;
                        cleared.damaged.push(digest);
                    }
                }
            }
        }
        fs.sync_directory(directory)?;
    }
    fs.unlink(MARK)?;
    fs.sync_directory(".")?;
    Ok(cleared)
}

/// Whether the disk has the bytes of this blob. `None`: it was not touched since.
fn is_right(fs: &Fs, digest: &Digest, since_unix: u64) -> io::Result<Option<bool>> {
    let Some(file) = fs.open_file(&blob_path(digest))? else { return Ok(None) };
    let stat = file.stat()?;
    if stat.changed_unix < since_unix {
        return Ok(None);
    }
    // Dirty pages can't be forgotten; those of a failed write-back are clean, and wrong.
    fs.forget_pages(&file)?;
    let hasher = Hasher::new(digest.algorithm());
    let hasher = hash_part(fs, &file, hasher, 0, stat.len)
        .inspect_err(|error| tracing::error!(%digest, %error, "a blob can't be read"))?;
    Ok(Some(hasher.finish() == *digest))
}

/// The time in the mark; 0 if it was written incompletely. Without a mark there is nothing to look for.
fn marked_since(fs: &Fs) -> io::Result<u64> {
    let Some(file) = fs.open_file(MARK)? else { return Ok(unix_time() + CLOCK_SET_BACK_MAX.as_secs()) };
    let mut text = [0; 128];
    let count = fs.read_at(&file, 0, &mut text)?;
    let text = String::from_utf8_lossy(&text[..count]);
    let number = text.trim_end().strip_prefix(KEY).and_then(|rest| rest.strip_suffix('}'));
    Ok(number.and_then(|number| number.parse().ok()).unwrap_or(0))
}
