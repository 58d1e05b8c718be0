//! The table of upload sessions. Taking one out of it is the lock.
//!
//! Owns: [`Sessions`], and [`Open`], a session that nobody writes to at the moment or somebody owns.
//!
//! Invariants: an `Open` exists once: in the table, in an `Upload`, with the keeper, or in a job on the pool.
//! Its hash covers exactly the first `offset` bytes of its file, and nobody writes below `offset`.

use std::{
    collections::HashMap,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use control::Principal;
use oci::{Algorithm, Digest, Hasher, Problem, RepositoryName, UploadId};

use super::{
    record::{Record, SlotBytes, Step},
    upload_data, upload_directory, upload_state,
};
use crate::{
    io::{File, Fs, Instant},
    limits::{STATE_RECORD_BYTES_MAX, UPLOAD_FILES_KEPT_MAX, UPLOAD_SESSIONS_MAX},
};

/// A session.
pub(super) struct Open {
    pub(super) id: UploadId,
    pub(super) repository: RepositoryName,
    pub(super) principal: Principal,
    pub(super) created_unix: u64,
    pub(super) algorithm: Algorithm,
    /// The hash of the first `offset` bytes. `None`: it was lost with an earlier process, so the file is
    /// read once more when its digest is wanted.
    pub(super) running: Option<Hasher>,
    /// Bytes that are written.
    pub(super) offset: u64,
    /// Up to where space was allocated ahead; what lies beyond `offset` is given back before the link.
    pub(super) allocated: u64,
    /// Up to where write-back was started.
    pub(super) written_back: u64,
    /// Slots of the state file that are used up, whether their write succeeded or not.
    pub(super) records: u64,
    /// When the last bytes were settled.
    pub(super) progress: Instant,
    pub(super) files: Option<Files>,
    /// Whether `files` was opened after something had been written to the data.
    pub(super) reopened: bool,
}

/// The two files of a session, open for writing.
#[derive(Clone)]
pub(super) struct Files {
    pub(super) data: File,
    pub(super) state: File,
}

impl Open {
    /// The next record of this session and where in the state file it goes. The slot counts as used: an
    /// older write that is still on its way can't fall onto a newer one.
    pub(super) fn next_record(&mut self, boot: &[u8; 16], closing: Option<Digest>) -> (u64, SlotBytes) {
        let step = match (closing, &self.running) {
            (Some(digest), _) => Step::Closing(digest),
            (None, running) => {
                let saved = running.as_ref().and_then(Hasher::save);
                Step::Progress(saved.map_or_else(Vec::new, |saved| saved.as_bytes().to_vec()))
            }
        };
        let record = Record {
            boot: *boot,
            repository: self.repository,
            principal: self.principal,
            created_unix: self.created_unix,
            algorithm: self.algorithm,
            offset: self.offset,
            step,
        };
        let at = self.records * STATE_RECORD_BYTES_MAX as u64;
        self.records += 1;
        (at, record.encode())
    }
}

/// Opens the files of a session that has none open.
pub(super) fn open_files(fs: &Fs, id: &UploadId) -> io::Result<Files> {
    let gone = || io::Error::from(io::ErrorKind::NotFound);
    Ok(Files {
        data: fs.open_writable(&upload_data(id))?.ok_or_else(gone)?,
        state: fs.open_writable(&upload_state(id))?.ok_or_else(gone)?,
    })
}

/// Removes a session's names; a blob that its data was linked to stays.
pub(super) fn remove_upload(fs: &Fs, id: &UploadId) -> io::Result<()> {
    fs.unlink(&upload_data(id))?;
    fs.unlink(&upload_state(id))?;
    fs.remove_directory(&upload_directory(id))
}

/// All sessions, by id. A mutex, because any core may be sent any chunk; it is held for a few
/// instructions, three times a chunk.
#[derive(Default)]
pub(super) struct Sessions {
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    slots: HashMap<UploadId, Slot>,
    /// Idle sessions with open files.
    files_kept: usize,
}

enum Slot {
    Idle(Box<Open>),
    Busy { repository: Box<RepositoryName>, offset: u64 },
}

impl Slot {
    fn repository(&self) -> &RepositoryName {
        match self {
            Slot::Idle(open) => &open.repository,
            Slot::Busy { repository, .. } => repository,
        }
    }
}

impl Sessions {
    /// Takes a place for a session that is being made: busy until it is put in or forgotten. `false`: none is
    /// left.
    pub(super) fn claim(&self, id: UploadId, repository: &RepositoryName) -> bool {
        let mut table = self.table();
        let has_room = table.slots.len() < UPLOAD_SESSIONS_MAX;
        if has_room {
            table.slots.insert(id, Slot::Busy { repository: Box::new(*repository), offset: 0 });
        }
        has_room
    }

    /// How many there are, busy ones included.
    pub(super) fn count(&self) -> usize {
        self.table().slots.len()
    }

    /// Puts a session in, or back.
    pub(super) fn insert(&self, mut open: Box<Open>) {
        let mut table = self.table();
        let mut surplus = None;
        if open.files.is_some() {
            if table.files_kept < UPLOAD_FILES_KEPT_MAX {
                table.files_kept += 1;
            } else {
                surplus = open.files.take();
            }
        }
        table.slots.insert(open.id, Slot::Idle(open));
        drop(table);
        // Closing a file may take a while.
        drop(surplus);
    }

    /// Takes a session out; its slot is busy until it is put back or forgotten.
    pub(super) fn take(&self, repository: &RepositoryName, id: &UploadId) -> Result<Box<Open>, Problem> {
        let mut table = self.table();
        let slot = table.slots.get_mut(id).filter(|slot| slot.repository() == repository);
        let slot = slot.ok_or(Problem::BlobUploadUnknown)?;
        let offset = match slot {
            Slot::Idle(open) => open.offset,
            Slot::Busy { .. } => return Err(Problem::UploadBusy),
        };
        let taken = std::mem::replace(slot, Slot::Busy { repository: Box::new(*repository), offset });
        Ok(table.taken(taken))
    }

    /// See `Store::offset`.
    pub(super) fn offset(&self, repository: &RepositoryName, id: &UploadId) -> Result<u64, Problem> {
        match self.table().slots.get(id) {
            Some(Slot::Idle(open)) if open.repository == *repository => Ok(open.offset),
            Some(Slot::Busy { repository: theirs, offset }) if **theirs == *repository => Ok(*offset),
            Some(Slot::Idle(_) | Slot::Busy { .. }) | None => Err(Problem::BlobUploadUnknown),
        }
    }

    /// Takes out those without progress for `expiry`.
    pub(super) fn take_expired(&self, expiry: Duration) -> Vec<Box<Open>> {
        let now = Instant::now();
        let mut table = self.table();
        let mut expired = Vec::new();
        for slot in table.slots.values_mut() {
            if let Slot::Idle(open) = slot
                && now.since(open.progress) >= expiry
            {
                let busy = Slot::Busy { repository: Box::new(open.repository), offset: open.offset };
                expired.push(std::mem::replace(slot, busy));
            }
        }
        expired.into_iter().map(|slot| table.taken(slot)).collect()
    }

    /// Removes the slot of a session that was taken out: from now on it is unknown.
    pub(super) fn forget(&self, id: &UploadId) {
        self.table().slots.remove(id);
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    fn taken(&mut self, slot: Slot) -> Box<Open> {
        match slot {
            Slot::Idle(open) => {
                self.files_kept -= usize::from(open.files.is_some());
                open
            }
            Slot::Busy { .. } => unreachable!("only idle sessions are taken"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> RepositoryName {
        RepositoryName::parse(text).unwrap()
    }

    fn session(number: u8) -> Box<Open> {
        Box::new(Open {
            id: UploadId::from_bytes([number; 16]),
            repository: name("a/b"),
            principal: Principal::Anonymous,
            created_unix: 0,
            algorithm: Algorithm::Sha256,
            running: Some(Hasher::new(Algorithm::Sha256)),
            offset: number.into(),
            allocated: 0,
            written_back: 0,
            records: 0,
            progress: Instant::now(),
            files: None,
            reopened: false,
        })
    }

    #[test]
    fn a_session_is_in_one_place() {
        let sessions = Sessions::default();
        let id = session(7).id;
        assert_eq!(sessions.take(&name("a/b"), &id).map(drop), Err(Problem::BlobUploadUnknown));
        sessions.insert(session(7));
        assert_eq!(sessions.take(&name("a/c"), &id).map(drop), Err(Problem::BlobUploadUnknown));
        let mut open = sessions.take(&name("a/b"), &id).unwrap();
        assert_eq!(sessions.take(&name("a/b"), &id).map(drop), Err(Problem::UploadBusy));
        open.offset += 100;
        assert_eq!(sessions.offset(&name("a/b"), &id), Ok(7), "what a busy one is told of is settled");
        sessions.insert(open);
        assert_eq!(sessions.offset(&name("a/b"), &id), Ok(107));
        assert_eq!(sessions.count(), 1);
        sessions.forget(&id);
        assert_eq!(sessions.offset(&name("a/b"), &id), Err(Problem::BlobUploadUnknown));
    }

    #[test]
    fn the_table_is_bounded_and_busy_sessions_count() {
        let sessions = Sessions::default();
        let id = |number: usize| UploadId::from_bytes((number as u128).to_le_bytes());
        for number in 0..UPLOAD_SESSIONS_MAX {
            assert!(sessions.claim(id(number), &name("a/b")), "{number}");
            sessions.insert(Box::new(Open { id: id(number), ..*session(0) }));
        }
        let one_more = id(UPLOAD_SESSIONS_MAX);
        assert!(!sessions.claim(one_more, &name("a/b")));
        let taken = sessions.take(&name("a/b"), &id(7)).unwrap();
        assert!(!sessions.claim(one_more, &name("a/b")), "a session that somebody writes to is open");
        sessions.insert(taken);
        assert_eq!(sessions.count(), UPLOAD_SESSIONS_MAX);
        sessions.forget(&id(7));
        assert!(sessions.claim(one_more, &name("a/b")));
        assert_eq!(sessions.take(&name("a/b"), &one_more).map(drop), Err(Problem::UploadBusy));
        assert_eq!(sessions.count(), UPLOAD_SESSIONS_MAX);
    }

    #[test]
    fn only_idle_sessions_expire() {
        let sessions = Sessions::default();
        (1..=3).for_each(|number| sessions.insert(session(number)));
        let busy = sessions.take(&name("a/b"), &session(2).id).unwrap();
        assert!(sessions.take_expired(Duration::from_secs(3600)).is_empty());
        let mut expired: Vec<u64> =
            sessions.take_expired(Duration::ZERO).iter().map(|open| open.offset).collect();
        expired.sort_unstable();
        assert_eq!(expired, [1, 3]);
        assert!(sessions.take_expired(Duration::ZERO).is_empty(), "they are busy until they are forgotten");
        assert_eq!(busy.offset, 2);
    }

    #[test]
    fn a_slot_of_the_state_file_is_used_once() {
        let mut open = session(0);
        let (first, _) = open.next_record(&[1; 16], None);
        let (second, bytes) = open.next_record(&[1; 16], None);
        assert_eq!((first, second), (0, STATE_RECORD_BYTES_MAX as u64));
        let record = Record::decode(&bytes).unwrap();
        assert_eq!((record.boot, record.repository, record.offset), ([1; 16], name("a/b"), 0));
    }
}
