//! The files of the cache's index: `cache/snapshot` and `cache/journal`.
//!
//! A snapshot has all entries as of one moment, and takes its place whole or not at all. The journal has what happened
//! since, and is appended without a sync: a power cut may take any of it. Every call here blocks.

use std::io;

use super::{Header, Index, Kind, Loaded, frames::push_header};
use crate::{
    io::{File, Fs},
    limits::{CACHE_ENTRIES_MAX, CACHE_JOURNAL_BUFFER_BYTES_MAX, CACHE_JOURNAL_BYTES_MAX},
};

const DIRECTORY: &str = "cache";
const SNAPSHOT: &str = "cache/snapshot";
const SNAPSHOT_NEW: &str = "cache/snapshot.new";
const JOURNAL: &str = "cache/journal";

/// No snapshot is longer: 96 bytes an entry is more than a record and its part of a frame have.
const SNAPSHOT_BYTES_MAX: u64 = 96 * (CACHE_ENTRIES_MAX as u64 + 1);

/// Writes what an [`Index`] gives it. One thread owns it.
pub struct Log {
    fs: Fs,
    /// `None`: a write failed, or there was none to go on with.
    journal: Option<File>,
    journal_bytes: u64,
}

/// What was found.
pub struct Opened {
    /// To write on.
    pub log: Log,
    /// As far as it could be read.
    pub index: Index,
    /// How far that was.
    pub loaded: Loaded,
}

/// What the log is behind by.
#[must_use = "it was taken out of the index"]
#[derive(Debug)]
pub enum Unwritten {
    /// Nothing.
    Nothing,
    /// Frames for the journal.
    Append(Vec<u8>),
    /// All there is; the journal begins anew.
    Snapshot {
        /// That of both files from now on.
        generation: u64,
        /// The whole file.
        bytes: Vec<u8>,
    },
}

impl Log {
    /// Reads the index of a cache of `max_bytes`. What is damaged is no error.
    pub fn open(fs: &Fs, max_bytes: u64) -> io::Result<Opened> {
        if fs.make_directory(DIRECTORY)? {
            fs.sync_directory(".")?;
        }
        fs.unlink(SNAPSHOT_NEW)?;
        let snapshot = read_whole(fs, SNAPSHOT, SNAPSHOT_BYTES_MAX)?;
        let journal_bytes_max = CACHE_JOURNAL_BYTES_MAX + CACHE_JOURNAL_BUFFER_BYTES_MAX as u64;
        let journal = read_whole(fs, JOURNAL, journal_bytes_max)?;
        let (index, loaded) = Index::read(snapshot.as_deref(), journal.as_deref(), max_bytes);
        let mut log = Log { fs: fs.clone(), journal: None, journal_bytes: 0 };
        if let Some(bytes) = journal
            && !index.wants_snapshot()
        {
            log.journal = fs.open_writable(JOURNAL)?;
            log.journal_bytes = bytes.len() as u64;
        }
        Ok(Opened { log, index, loaded })
    }

    /// Whether the next write has to be a snapshot.
    pub fn wants_snapshot(&self) -> bool {
        self.journal.is_none() || self.journal_bytes >= CACHE_JOURNAL_BYTES_MAX
    }

    /// Writes what [`Index::unwritten`] gave. After an error it wants a snapshot, so that nothing is missing; an error
    /// of a sync is also one of the volume.
    pub fn write(&mut self, unwritten: Unwritten) -> io::Result<()> {
        // Back in its place only when all went well.
        let journal = self.journal.take();
        self.journal = match unwritten {
            Unwritten::Nothing => journal,
            Unwritten::Append(bytes) => {
                let journal = journal.ok_or(io::ErrorKind::InvalidInput)?;
                self.fs.write_all_at(&journal, self.journal_bytes, &bytes)?;
                self.journal_bytes += bytes.len() as u64;
                Some(journal)
            }
            Unwritten::Snapshot { generation, bytes } => {
                self.replace_snapshot(&bytes)?;
                Some(self.begin_journal(generation)?)
            }
        };
        Ok(())
    }

    fn replace_snapshot(&self, bytes: &[u8]) -> io::Result<()> {
        self.fs.unlink(SNAPSHOT_NEW)?;
        let file = self.fs.create(SNAPSHOT_NEW)?;
        self.fs.write_all_at(&file, 0, bytes)?;
        self.fs.sync_data(&file)?;
        self.fs.rename(SNAPSHOT_NEW, SNAPSHOT)?;
        self.fs.sync_directory(DIRECTORY)
    }

    /// What the old journal has is in the snapshot; until it is cut, its generation says so.
    fn begin_journal(&mut self, generation: u64) -> io::Result<File> {
        let journal = match self.fs.open_writable(JOURNAL)? {
            Some(journal) => journal,
            None => self.fs.create(JOURNAL)?,
        };
        self.fs.truncate(&journal, 0)?;
        let mut header = Vec::new();
        push_header(&mut header, &Header { kind: Kind::Journal, generation, records: 0 });
        self.fs.write_all_at(&journal, 0, &header)?;
        self.journal_bytes = header.len() as u64;
        Ok(journal)
    }
}

/// A file's bytes, as far as `bytes_max` and one more, by which it is seen to be damaged. `None`: there is no file.
fn read_whole(fs: &Fs, path: &str, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
    let Some(file) = fs.open_writable(path)? else { return Ok(None) };
    let len = file.stat()?.len.min(bytes_max + 1);
    let mut bytes = vec![0; usize::try_from(len).map_err(|_| io::ErrorKind::OutOfMemory)?];
    let count = fs.read_at(&file, 0, &mut bytes)?;
    bytes.truncate(count);
    Ok(Some(bytes))
}

#[cfg(test)]
#[path = "log_tests.rs"]
mod tests;
