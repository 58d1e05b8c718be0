//! The index of what is cached: which digests, how long, when they came, which go first; and what of it is not written
//! yet.
//!
//! It has one owner, and no locks. What changes goes into a buffer; the keeper takes that out while it holds the owner's
//! lock ([`Index::unwritten`]) and writes it afterwards ([`Log::write`]), so that nobody waits for the disk.
//!
//! Invariants: it may have lost entries, and may have some whose file is gone, or whose blob was pushed since: it never
//! says what is home. A file that it does not know is kept.

use oci::Digest;

use super::{
    Header, Item, Kind, Log, Place, Policy, Record, Refused, Unwritten, Victim,
    frames::{push_frames, push_header},
    read_frames,
};
use crate::limits::CACHE_JOURNAL_BUFFER_BYTES_MAX;
use crate::mark::Mark;

/// What is cached.
#[derive(Debug)]
pub struct Index {
    policy: Policy,
    /// Of the snapshot that was last begun; frames of the journal carry it.
    generation: u64,
    /// Frames for the journal.
    buffer: Vec<u8>,
    /// Buffer and files have not all that happened.
    wants_snapshot: bool,
}

/// How far an index could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loaded {
    /// There was none yet.
    Fresh,
    /// All that is in the files. A power cut may have taken an end of the journal that nobody misses. Files of the version
    /// before are as good, and the next write takes their place.
    Whole,
    /// The snapshot, and the journal up to some damage: blobs may be cached that are not in the index.
    Cut {
        /// What could not be used.
        lost_bytes: u64,
    },
    /// Nothing.
    Rebuild,
}

/// A file under `blobs/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its name.
    pub digest: Digest,
    /// Its length.
    pub size_bytes: u64,
    /// When it was last changed, seconds since 1970.
    pub came_unix: u32,
}

impl Index {
    /// An index of nothing, of a cache of `max_bytes`.
    pub fn new(max_bytes: u64) -> Index {
        Index::of(Policy::new(max_bytes), 0)
    }

    /// Reads a snapshot and a journal. What is damaged is told, and the next write takes their place.
    pub fn read(snapshot: Option<&[u8]>, journal: Option<&[u8]>, max_bytes: u64) -> (Index, Loaded) {
        let generation_of = |bytes: Option<&[u8]>, kind| {
            let header = bytes.and_then(|bytes| read_frames(bytes, kind, &mut |_| false).header);
            header.map(|header| (header.generation, header.records))
        };
        let of_snapshot = generation_of(snapshot, Kind::Snapshot);
        let of_journal = generation_of(journal, Kind::Journal);
        // A new generation is none that a file has, so that an old journal is never read to a new snapshot.
        let newest = of_snapshot.max(of_journal).map_or(0, |(generation, _)| generation);
        let nothing = |loaded| (Index::of(Policy::new(max_bytes), newest), loaded);
        let Some(bytes) = snapshot else {
            return nothing(if journal.is_none() { Loaded::Fresh } else { Loaded::Rebuild });
        };
        let Some((generation, records)) = of_snapshot else { return nothing(Loaded::Rebuild) };
        // No more than can be in so many bytes, whatever the header says.
        let room = records.min(bytes.len() as u64 / 32) as usize;
        let mut policy = Policy::with_room(max_bytes, room);
        let read = read_frames(bytes, Kind::Snapshot, &mut |record| match record {
            Record::Put(item) => policy.get(&item.digest).is_none() && policy.restore(&item).is_ok(),
            Record::Gone(_) => false,
        });
        if read.is_damaged || newest > generation {
            return nothing(Loaded::Rebuild);
        }
        let mut index = Index::of(policy, generation);
        let loaded = match (journal, of_journal) {
            (Some(bytes), Some((own, _))) if own == generation => index.replay(bytes),
            // It was to be cut when this snapshot had taken its place: the snapshot has it all.
            (Some(_), Some(_)) => Loaded::Whole,
            (Some(bytes), None) => Loaded::Cut { lost_bytes: bytes.len() as u64 },
            (None, _) => Loaded::Cut { lost_bytes: 0 },
        };
        (index, loaded)
    }

    fn of(policy: Policy, generation: u64) -> Index {
        Index { policy, generation, buffer: Vec::new(), wants_snapshot: true }
    }

    /// Does again what a journal of this generation tells.
    fn replay(&mut self, bytes: &[u8]) -> Loaded {
        let mut refused = false;
        let read = read_frames(bytes, Kind::Journal, &mut |record| {
            match record {
                Record::Put(item) => refused |= self.policy.restore(&item).is_err(),
                Record::Gone(digest) => _ = self.policy.remove(&digest),
            }
            true
        });
        let is_cut = read.is_damaged || refused;
        self.wants_snapshot = is_cut || read.is_old;
        if is_cut {
            Loaded::Cut { lost_bytes: (bytes.len() - read.whole_bytes) as u64 }
        } else {
            Loaded::Whole
        }
    }

    /// All that lies under `blobs/` was looked at and taken in if nobody knew it, after [`Loaded::Rebuild`] or [`Loaded::Cut`].
    pub fn rebuilt(&mut self) {
        self.policy.sort_main();
        self.wants_snapshot = true;
    }

    /// Takes in a file that nobody knows: it is not home, and no commit is about to make it so. It comes into the main
    /// queue, because nothing says that it was of no use.
    ///
    /// Errors: [`Refused::Known`], [`Refused::Full`].
    pub fn adopt(&mut self, found: &Found) -> Result<(), Refused> {
        let Found { digest, size_bytes, came_unix } = *found;
        if self.get(&digest).is_some() {
            return Err(Refused::Known);
        }
        let place = Place::Main;
        self.policy.restore(&Item { digest, size_bytes, came_unix, upstream: None, place, uses: 0 })?;
        self.tell_of(&digest);
        Ok(())
    }

    /// What is known of a digest. `None`: nothing, so a file of it is to be kept.
    pub fn get(&self, digest: &Digest) -> Option<Item> {
        self.policy.get(digest)
    }

    /// Its queues, to be looked at.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// See [`Policy::set_max_bytes`].
    pub fn set_max_bytes(&mut self, max_bytes: u64) {
        self.policy.set_max_bytes(max_bytes);
    }

    /// See [`Policy::fill`]. It is written when it has become a blob.
    pub fn fill(&mut self, digest: &Digest, size_bytes: u64) -> Result<(), Refused> {
        self.policy.fill(digest, size_bytes)
    }

    /// See [`Policy::insert`]. To be called when the blob has its name.
    pub fn insert(
        &mut self,
        digest: &Digest,
        size_bytes: u64,
        came_unix: u32,
        upstream: Option<Mark>,
    ) -> Result<Place, Refused> {
        let place = self.policy.insert(digest, size_bytes, came_unix, upstream)?;
        self.tell_of(digest);
        Ok(place)
    }

    /// See [`Policy::remove`]. To be called when the file is gone, or its blob is home.
    pub fn remove(&mut self, digest: &Digest) -> Option<Item> {
        let item = self.policy.remove(digest)?;
        if item.place != Place::Filling {
            self.tell(Record::Gone(*digest));
        }
        Some(item)
    }

    /// See [`Policy::touch`]. It is written with the next snapshot.
    pub fn touch(&mut self, digest: &Digest) -> bool {
        self.policy.touch(digest)
    }

    /// See [`Policy::victim`]. Before its name is taken away the metadata has to say that it is not home.
    pub fn victim(&mut self, is_busy: &mut dyn FnMut(&Digest) -> bool) -> Option<Victim> {
        self.policy.victim(is_busy)
    }

    /// See [`Policy::spare`].
    pub fn spare(&mut self, digest: &Digest) {
        self.policy.spare(digest);
    }

    /// See [`Policy::keep`].
    pub fn keep(&mut self, digest: &Digest, keep: bool) -> bool {
        let done = self.policy.keep(digest, keep);
        if done {
            self.tell_of(digest);
        }
        done
    }

    /// Whether the files lack something that only a snapshot brings.
    pub fn wants_snapshot(&self) -> bool {
        self.wants_snapshot
    }

    /// Has the next write be a snapshot, which also has the uses and the order: before the process ends, say.
    pub fn want_snapshot(&mut self) {
        self.wants_snapshot = true;
    }

    /// Takes out what `log` does not have. Give it to [`Log::write`], without the lock of this index.
    ///
    /// A snapshot is made in memory, about 50 bytes an entry.
    pub fn unwritten(&mut self, log: &Log) -> Unwritten {
        if !(self.wants_snapshot || log.wants_snapshot()) {
            let bytes = std::mem::take(&mut self.buffer);
            return if bytes.is_empty() { Unwritten::Nothing } else { Unwritten::Append(bytes) };
        }
        self.snapshot()
    }

    /// All there is, whether a log wants it or not: for [`Log::write`].
    pub fn snapshot(&mut self) -> Unwritten {
        // Who is about to go is the oldest of the small queue again, if it is still there then.
        const LISTS: [Place; 4] = [Place::Evicting, Place::Small, Place::Main, Place::Kept];
        self.generation += 1;
        self.wants_snapshot = false;
        self.buffer.clear();
        let records: usize = LISTS.iter().map(|place| self.policy.list_len(*place)).sum();
        let mut bytes = Vec::with_capacity(50 * records + 64);
        let header = Header { kind: Kind::Snapshot, generation: self.generation, records: records as u64 };
        push_header(&mut bytes, &header);
        let items = LISTS.iter().flat_map(|place| self.policy.items(*place));
        push_frames(&mut bytes, self.generation, items.map(Record::Put));
        Unwritten::Snapshot { generation: self.generation, bytes }
    }

    fn tell_of(&mut self, digest: &Digest) {
        if let Some(item) = self.get(digest) {
            self.tell(Record::Put(item));
        }
    }

    fn tell(&mut self, record: Record) {
        if self.wants_snapshot {
            return;
        }
        let before = self.buffer.len();
        push_frames(&mut self.buffer, self.generation, std::iter::once(record));
        if self.buffer.len() > CACHE_JOURNAL_BUFFER_BYTES_MAX {
            self.buffer.truncate(before);
            self.wants_snapshot = true;
        }
    }
}

#[cfg(test)]
#[path = "index_tests.rs"]
mod tests;
