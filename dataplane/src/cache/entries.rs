//! The entries of the cache: 64 bytes each, in lists that need no memory of their own, found by digest.
//!
//! Owns: where an entry lies, and the sums of each list. What the lists mean is the policy's.

use std::hash::BuildHasher;

use foldhash::fast::RandomState;
use oci::{Algorithm, Digest};

use super::table::Table;
use crate::mark::Mark;

/// Entries that are allocated at once, so that growing moves none of them.
const CHUNK: usize = 4096;
const NONE: u32 = u32::MAX;
/// In `older` of an entry that was removed.
const REMOVED: u32 = u32::MAX - 1;
/// What of a longer digest lies in the entry itself.
const INLINE_BYTES: usize = 28;

/// An entry by its number, which is another one's when this one was removed.
pub(super) type Id = u32;

/// Which list an entry is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Came, or is still coming, and has not shown yet that it is worth more: a tenth of the bytes.
    Small,
    /// Was of use again.
    Main,
    /// Stays until the operator says otherwise.
    Kept,
    /// Its bytes are on their way; it is no file yet, and can't be evicted.
    Filling,
    /// Chosen to go; its name may be there or not.
    Evicting,
}

pub(super) const PLACES: usize = 5;

#[derive(Clone, Copy, Debug)]
pub(super) struct Entry {
    /// The digest, or 28 bytes of it and the number of the rest.
    key: [u8; 32],
    pub(super) size_bytes: u64,
    /// Seconds since 1970.
    pub(super) came_unix: u32,
    pub(super) upstream: Option<Mark>,
    older: Id,
    newer: Id,
    algorithm: Algorithm,
    pub(super) place: Place,
    /// Uses since the policy last asked, up to a few.
    pub(super) uses: u8,
}

/// From the oldest to the newest.
#[derive(Clone, Copy, Debug)]
pub(super) struct List {
    oldest: Id,
    newest: Id,
    pub(super) len: usize,
    pub(super) bytes: u64,
}

#[derive(Debug)]
pub(super) struct Entries {
    chunks: Vec<Vec<Entry>>,
    /// Numbers that were removed: a stack through `newer`.
    free: Id,
    /// What of longer digests lies in no entry.
    rests: Vec<[u8; 36]>,
    free_rests: Vec<u32>,
    by_tag: Table,
    hasher: RandomState,
    lists: [List; PLACES],
}

impl Entries {
    pub(super) fn with_room(entries: usize) -> Entries {
        let empty = List { oldest: NONE, newest: NONE, len: 0, bytes: 0 };
        Entries {
            chunks: Vec::new(),
            free: NONE,
            rests: Vec::new(),
            free_rests: Vec::new(),
            by_tag: Table::with_room(entries),
            hasher: RandomState::default(),
            lists: [empty; PLACES],
        }
    }

    pub(super) fn len(&self) -> usize {
        self.by_tag.len()
    }

    /// 32 bits of a hash with a seed of this process.
    pub(super) fn tag(&self, digest: &Digest) -> u32 {
        (self.hasher.hash_one(digest) >> 32) as u32
    }

    pub(super) fn find(&self, digest: &Digest) -> Option<Id> {
        self.by_tag.find(self.tag(digest), |id| self.is(id, digest))
    }

    pub(super) fn get(&self, id: Id) -> &Entry {
        &self.chunks[id as usize / CHUNK][id as usize % CHUNK]
    }

    pub(super) fn get_mut(&mut self, id: Id) -> &mut Entry {
        &mut self.chunks[id as usize / CHUNK][id as usize % CHUNK]
    }

    pub(super) fn list(&self, place: Place) -> &List {
        &self.lists[place as usize]
    }

    pub(super) fn oldest(&self, place: Place) -> Option<Id> {
        some(self.list(place).oldest)
    }

    /// The one that came into its list next after this.
    pub(super) fn newer(&self, id: Id) -> Option<Id> {
        some(self.get(id).newer)
    }

    /// Puts in a digest that is not there yet, as the newest of its list.
    pub(super) fn insert(&mut self, digest: &Digest, size_bytes: u64, came_unix: u32, place: Place) -> Id {
        let entry = Entry {
            key: self.key(digest),
            size_bytes,
            came_unix,
            upstream: None,
            older: NONE,
            newer: NONE,
            algorithm: digest.algorithm(),
            place,
            uses: 0,
        };
        let id = self.place_for(entry);
        self.by_tag.insert(self.tag(digest), id);
        self.link_newest(id);
        id
    }

    pub(super) fn remove(&mut self, id: Id) {
        let digest = self.digest(id);
        self.unlink(id);
        self.by_tag.remove(self.tag(&digest), id);
        if let Digest::Sha512(_) = digest {
            let rest = self.get(id).rest();
            self.free_rests.push(rest);
        }
        let free = self.free;
        let entry = self.get_mut(id);
        (entry.older, entry.newer) = (REMOVED, free);
        self.free = id;
    }

    /// Numbers up to this, exclusive, were given to entries.
    pub(super) fn numbers(&self) -> u64 {
        let full = self.chunks.len().saturating_sub(1) * CHUNK;
        (full + self.chunks.last().map_or(0, Vec::len)) as u64
    }

    /// Whether an entry has this number, which is below [`Entries::numbers`].
    pub(super) fn is_given(&self, id: Id) -> bool {
        self.get(id).older != REMOVED
    }

    /// Makes it the newest of a list.
    pub(super) fn move_newest(&mut self, id: Id, place: Place) {
        self.unlink(id);
        self.get_mut(id).place = place;
        self.link_newest(id);
    }

    pub(super) fn resize(&mut self, id: Id, size_bytes: u64) {
        let entry = self.get_mut(id);
        let before = std::mem::replace(&mut entry.size_bytes, size_bytes);
        let place = entry.place as usize;
        self.lists[place].bytes = self.lists[place].bytes - before + size_bytes;
    }

    /// Brings a list into the order in which its blobs came.
    pub(super) fn sort(&mut self, place: Place) {
        let mut ids: Vec<Id> = std::iter::successors(self.oldest(place), |id| self.newer(*id)).collect();
        ids.sort_by_key(|id| self.get(*id).came_unix);
        ids.into_iter().for_each(|id| self.move_newest(id, place));
    }

    pub(super) fn digest(&self, id: Id) -> Digest {
        let entry = self.get(id);
        match entry.algorithm {
            Algorithm::Sha256 => Digest::Sha256(entry.key),
            Algorithm::Blake3 => Digest::Blake3(entry.key),
            Algorithm::Sha512 => {
                let mut whole = [0; 64];
                whole[..INLINE_BYTES].copy_from_slice(&entry.key[..INLINE_BYTES]);
                whole[INLINE_BYTES..].copy_from_slice(&self.rests[entry.rest() as usize]);
                Digest::Sha512(whole)
            }
        }
    }

    fn is(&self, id: Id, digest: &Digest) -> bool {
        let entry = self.get(id);
        match digest {
            Digest::Sha256(bytes) => entry.algorithm == Algorithm::Sha256 && entry.key == *bytes,
            Digest::Blake3(bytes) => entry.algorithm == Algorithm::Blake3 && entry.key == *bytes,
            Digest::Sha512(bytes) => {
                entry.algorithm == Algorithm::Sha512
                    && entry.key[..INLINE_BYTES] == bytes[..INLINE_BYTES]
                    && self.rests[entry.rest() as usize] == bytes[INLINE_BYTES..]
            }
        }
    }

    fn key(&mut self, digest: &Digest) -> [u8; 32] {
        match digest {
            Digest::Sha256(bytes) | Digest::Blake3(bytes) => *bytes,
            Digest::Sha512(bytes) => {
                let mut rest = [0; 36];
                rest.copy_from_slice(&bytes[INLINE_BYTES..]);
                let number = match self.free_rests.pop() {
                    Some(number) => {
                        self.rests[number as usize] = rest;
                        number
                    }
                    None => {
                        self.rests.push(rest);
                        self.rests.len() as u32 - 1
                    }
                };
                let mut key = [0; 32];
                key[..INLINE_BYTES].copy_from_slice(&bytes[..INLINE_BYTES]);
                key[INLINE_BYTES..].copy_from_slice(&number.to_le_bytes());
                key
            }
        }
    }

    fn place_for(&mut self, entry: Entry) -> Id {
        if self.free != NONE {
            let id = self.free;
            self.free = self.get(id).newer;
            *self.get_mut(id) = entry;
            return id;
        }
        if self.chunks.last().is_none_or(|chunk| chunk.len() == CHUNK) {
            self.chunks.push(Vec::with_capacity(CHUNK));
        }
        let full = (self.chunks.len() - 1) * CHUNK;
        let last = self.chunks.last_mut().expect("one was just made sure of");
        last.push(entry);
        (full + last.len() - 1) as Id
    }

    fn link_newest(&mut self, id: Id) {
        let (size_bytes, place) = (self.get(id).size_bytes, self.get(id).place as usize);
        let list = &mut self.lists[place];
        let before = std::mem::replace(&mut list.newest, id);
        list.len += 1;
        list.bytes += size_bytes;
        if before == NONE {
            list.oldest = id;
        } else {
            self.get_mut(before).newer = id;
        }
        let entry = self.get_mut(id);
        (entry.older, entry.newer) = (before, NONE);
    }

    fn unlink(&mut self, id: Id) {
        let Entry { older, newer, place, size_bytes, .. } = *self.get(id);
        let list = &mut self.lists[place as usize];
        list.len -= 1;
        list.bytes -= size_bytes;
        if older == NONE {
            list.oldest = newer;
        }
        if newer == NONE {
            list.newest = older;
        }
        if older != NONE {
            self.get_mut(older).newer = newer;
        }
        if newer != NONE {
            self.get_mut(newer).older = older;
        }
    }
}

impl Entry {
    /// Where the rest of a longer digest lies.
    fn rest(&self) -> u32 {
        let [.., a, b, c, d] = self.key;
        u32::from_le_bytes([a, b, c, d])
    }
}

fn some(id: Id) -> Option<Id> {
    (id != NONE).then_some(id)
}

const _: () = assert!(size_of::<Entry>() == 64);

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    const ALL: [Place; PLACES] = [Place::Small, Place::Main, Place::Kept, Place::Filling, Place::Evicting];

    fn digest(number: u8) -> Digest {
        Digest::of(Algorithm::ALL[usize::from(number % 3)], &[number])
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u8, u16, usize),
        Remove(u8),
        Newest(u8, usize),
        Resize(u8, u16),
        Sort(usize),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        let (number, place) = (0_u8..24, 0..PLACES);
        prop_oneof![
            4 => (number.clone(), any::<u16>(), place.clone()).prop_map(|(n, size, at)| Step::Insert(n, size, at)),
            2 => number.clone().prop_map(Step::Remove),
            2 => (number.clone(), place.clone()).prop_map(|(n, at)| Step::Newest(n, at)),
            1 => (number, any::<u16>()).prop_map(|(n, size)| Step::Resize(n, size)),
            1 => place.prop_map(Step::Sort),
        ]
    }

    proptest! {
        #[test]
        fn lists_are_lists_and_digests_are_found(steps in proptest::collection::vec(any_step(), 1..200)) {
            let mut entries = Entries::with_room(0);
            let mut lists: [Vec<u8>; PLACES] = Default::default();
            let mut sizes: HashMap<u8, u64> = HashMap::new();
            for (turn, step) in steps.into_iter().enumerate() {
                let out = |lists: &mut [Vec<u8>; PLACES], number: u8| {
                    lists.iter_mut().for_each(|list| list.retain(|other| *other != number));
                };
                match step {
                    Step::Insert(number, size, at) if !sizes.contains_key(&number) => {
                        // Not in the order of time.
                        let came = (turn as u32).wrapping_mul(0x9e37_79b9) >> 8;
                        entries.insert(&digest(number), size.into(), came, ALL[at]);
                        lists[at].push(number);
                        sizes.insert(number, size.into());
                    }
                    Step::Remove(number) if sizes.remove(&number).is_some() => {
                        entries.remove(entries.find(&digest(number)).unwrap());
                        out(&mut lists, number);
                    }
                    Step::Newest(number, at) if sizes.contains_key(&number) => {
                        entries.move_newest(entries.find(&digest(number)).unwrap(), ALL[at]);
                        out(&mut lists, number);
                        lists[at].push(number);
                    }
                    Step::Resize(number, size) if sizes.contains_key(&number) => {
                        entries.resize(entries.find(&digest(number)).unwrap(), size.into());
                        sizes.insert(number, size.into());
                    }
                    Step::Sort(at) => {
                        entries.sort(ALL[at]);
                        let came = |number: &u8| entries.get(entries.find(&digest(*number)).unwrap()).came_unix;
                        lists[at].sort_by_key(came);
                    }
                    _ => {}
                }
                prop_assert_eq!(entries.len(), sizes.len());
                for number in 0..24 {
                    let found = entries.find(&digest(number));
                    prop_assert_eq!(found.map(|id| entries.get(id).size_bytes), sizes.get(&number).copied());
                    prop_assert!(found.is_none_or(|id| entries.digest(id) == digest(number)));
                }
                for (place, list) in ALL.into_iter().zip(&lists) {
                    let ids: Vec<Id> =
                        std::iter::successors(entries.oldest(place), |id| entries.newer(*id)).collect();
                    let digests: Vec<Digest> = ids.iter().map(|id| entries.digest(*id)).collect();
                    let expect: Vec<Digest> = list.iter().map(|number| digest(*number)).collect();
                    prop_assert_eq!(digests, expect);
                    prop_assert_eq!(entries.list(place).len, list.len());
                    prop_assert_eq!(entries.list(place).bytes, list.iter().map(|number| sizes[number]).sum::<u64>());
                    let backwards: Vec<Id> = std::iter::successors(some(entries.list(place).newest), |id| {
                        some(entries.get(*id).older)
                    })
                    .collect();
                    prop_assert!(backwards.iter().rev().eq(&ids));
                }
            }
        }
    }
}
