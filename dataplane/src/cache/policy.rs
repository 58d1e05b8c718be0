//! Which cached blob goes first: S3-FIFO over whole files of different sizes.
//!
//! What comes is in the small queue, a tenth of the bytes. At its end, what was of use meanwhile goes on to the main
//! queue, and the rest goes, leaving a fingerprint in the ghost queue; what comes back while it is there comes into the
//! main queue. There, whoever was of use gets another round for each time. Running fills count as part of the small
//! queue, so that they make room at its end first, and then at the main queue's. What is larger than the small queue, was
//! of no use again and is read by nobody goes before all others.
//!
//! Invariants: what is kept or still filling is never chosen. What somebody reads is chosen only when nothing
//! else was found. A choice looks at a bounded number of entries.
//!
//! After Yang, Zhang, Qiu, Yue and Rashmi, "FIFO queues are all you need for cache eviction" (SOSP '23).

use oci::Digest;

use super::{
    entries::{Entries, Id, Place},
    ghost::Ghost,
};
use crate::limits::{
    CACHE_ENTRIES_MAX, CACHE_GHOST_MIN, CACHE_LARGE_MAX, CACHE_PAGE_LOOKS_MAX, CACHE_PROMOTION_USES,
    CACHE_SMALL_PERCENT, CACHE_USES_MAX, CACHE_VICTIM_LOOKS_MAX,
};
use crate::mark::Mark;

/// What of cached blobs stays, and what goes.
#[derive(Debug)]
pub struct Policy {
    entries: Entries,
    ghost: Ghost,
    /// Those of the small queue that are larger than it may be, in its order, and some that were. One that only a smaller
    /// budget has made large counts from when it moves.
    large: Vec<Id>,
    max_bytes: u64,
    total_bytes: u64,
}

/// An entry, as it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// Of what.
    pub digest: Digest,
    /// Length in bytes; of a fill, what it is expected to be.
    pub size_bytes: u64,
    /// When it was whole, seconds since 1970; 0: not yet.
    pub came_unix: u32,
    /// Where it came from. `None`: it came not yet, or an index was lost since.
    pub upstream: Option<Mark>,
    /// Its list.
    pub place: Place,
    /// Uses since the policy last asked, up to [`CACHE_USES_MAX`].
    pub uses: u8,
}

/// What is to go next. It is in [`Place::Evicting`] until [`Policy::remove`] or [`Policy::spare`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Victim {
    /// Of what.
    pub digest: Digest,
    /// Length in bytes.
    pub size_bytes: u64,
}

/// Why an entry was not made; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// There is one of that digest.
    Known,
    /// There are [`CACHE_ENTRIES_MAX`]: one has to go first.
    Full,
}

impl Policy {
    /// An empty cache of `max_bytes`.
    pub fn new(max_bytes: u64) -> Policy {
        Policy::with_room(max_bytes, 0)
    }

    /// Likewise; it will have so many entries at once.
    pub(super) fn with_room(max_bytes: u64, entries: usize) -> Policy {
        Policy {
            entries: Entries::with_room(entries.min(CACHE_ENTRIES_MAX)),
            ghost: Ghost::default(),
            large: Vec::new(),
            max_bytes,
            total_bytes: 0,
        }
    }

    /// What the small queue's share is a share of. Nothing goes by that; the budget says when something has to.
    pub fn set_max_bytes(&mut self, max_bytes: u64) {
        // Before the first of them nobody knows what is large; later ones are much like the one before.
        let is_first = self.max_bytes == 0;
        self.max_bytes = max_bytes;
        if is_first {
            let small =
                std::iter::successors(self.entries.oldest(Place::Small), |id| self.entries.newer(*id));
            self.large = small.filter(|id| self.is_large(*id)).take(CACHE_LARGE_MAX).collect();
        }
    }

    /// Entries, running fills and what is being evicted among them.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of blobs that are here whole, those that are being evicted among them.
    pub fn cached_bytes(&self) -> u64 {
        self.total_bytes - self.entries.list(Place::Filling).bytes
    }

    /// What is known of a digest. `None`: nothing, so it is to be kept.
    pub fn get(&self, digest: &Digest) -> Option<Item> {
        self.entries.find(digest).map(|id| self.item(id))
    }

    /// A fill begins, or its length is now known to be another: it is charged to the small queue.
    ///
    /// Errors: [`Refused::Known`], for one that is here or is being evicted; [`Refused::Full`].
    pub fn fill(&mut self, digest: &Digest, size_bytes: u64) -> Result<(), Refused> {
        match self.entries.find(digest) {
            None => self.put(digest, size_bytes, 0, Place::Filling, 0)?,
            Some(id) if self.entries.get(id).place == Place::Filling => self.resize(id, size_bytes)?,
            Some(_) => return Err(Refused::Known),
        };
        Ok(())
    }

    /// A blob is here, whole: a fill has ended well, or a file was found that nobody knew. Tells where it was put.
    ///
    /// Errors: as [`Policy::fill`].
    pub fn insert(
        &mut self,
        digest: &Digest,
        size_bytes: u64,
        came_unix: u32,
        upstream: Option<Mark>,
    ) -> Result<Place, Refused> {
        let id = match self.entries.find(digest) {
            None => self.put(digest, size_bytes, came_unix, Place::Small, 0)?,
            Some(id) if self.entries.get(id).place == Place::Filling => self.resize(id, size_bytes)?,
            Some(_) => return Err(Refused::Known),
        };
        let came_back = self.ghost.take(self.entries.tag(digest));
        let place = if came_back { Place::Main } else { Place::Small };
        let entry = self.entries.get_mut(id);
        (entry.came_unix, entry.upstream) = (came_unix, upstream);
        self.move_newest(id, place);
        Ok(place)
    }

    /// Puts in what a snapshot or journal tells, as the newest of its list; an entry of that digest moves there.
    ///
    /// Errors: [`Refused::Full`].
    pub(super) fn restore(&mut self, item: &Item) -> Result<(), Refused> {
        let Some(id) = self.entries.find(&item.digest) else {
            let id = self.put(&item.digest, item.size_bytes, item.came_unix, item.place, item.uses)?;
            self.entries.get_mut(id).upstream = item.upstream;
            self.note_large(id);
            return Ok(());
        };
        self.resize(id, item.size_bytes)?;
        let entry = self.entries.get_mut(id);
        (entry.came_unix, entry.upstream, entry.uses) = (item.came_unix, item.upstream, item.uses);
        self.move_newest(id, item.place);
        Ok(())
    }

    /// It was of use. `false`: it is not here.
    ///
    /// Once for each client that wants the blob, however many ranges it asks for.
    pub fn touch(&mut self, digest: &Digest) -> bool {
        let Some(id) = self.entries.find(digest) else { return false };
        let entry = self.entries.get_mut(id);
        entry.uses = entry.uses.saturating_add(1).min(CACHE_USES_MAX);
        true
    }

    /// Forgets a digest: its file is gone, its fill was given up, or it is home now.
    pub fn remove(&mut self, digest: &Digest) -> Option<Item> {
        let id = self.entries.find(digest)?;
        let item = self.item(id);
        self.entries.remove(id);
        self.total_bytes -= item.size_bytes;
        Some(item)
    }

    /// Chooses what goes next. `None`: nothing may go that was looked at; another call looks at others.
    ///
    /// `is_busy` says whether somebody reads a digest. It is asked of few, and must not take long.
    pub fn victim(&mut self, is_busy: &mut dyn FnMut(&Digest) -> bool) -> Option<Victim> {
        if let Some(id) = self.large_to_go(is_busy) {
            return Some(self.evict(id));
        }
        let rounds = usize::from(CACHE_USES_MAX) + 1;
        let (mut small, mut main) = (self.list_len(Place::Small), self.list_len(Place::Main));
        main = (small + main) * rounds;
        let mut busy = None;
        for look in 0..CACHE_VICTIM_LOOKS_MAX {
            // Late in the search, uses no longer count: all are of use then, and somebody waits.
            let patient = look < CACHE_VICTIM_LOOKS_MAX / 2;
            let Some((id, place)) = self.next_to_go(small > 0, main > 0) else { break };
            match place {
                Place::Small => small -= 1,
                _ => main -= 1,
            }
            let entry = self.entries.get_mut(id);
            if patient && place == Place::Small && entry.uses >= CACHE_PROMOTION_USES {
                entry.uses = 0;
                self.entries.move_newest(id, Place::Main);
                continue;
            }
            if patient && place == Place::Main && entry.uses > 0 {
                entry.uses -= 1;
                self.entries.move_newest(id, place);
                continue;
            }
            if is_busy(&self.entries.digest(id)) {
                busy.get_or_insert(id);
                self.move_newest(id, place);
                continue;
            }
            return Some(self.evict(id));
        }
        busy.map(|id| self.evict(id))
    }

    /// A victim stays after all: its name could not be taken away, or it turned out to be home.
    pub fn spare(&mut self, digest: &Digest) {
        if let Some(id) = self.evicting(digest) {
            self.move_newest(id, Place::Small);
        }
    }

    /// Keeps a blob whatever happens, or no longer. `false`: it is not here whole, or about to go.
    pub fn keep(&mut self, digest: &Digest, keep: bool) -> bool {
        let Some(id) = self.entries.find(digest) else { return false };
        match (self.entries.get(id).place, keep) {
            (Place::Small | Place::Main, true) => self.entries.move_newest(id, Place::Kept),
            (Place::Kept, false) => self.entries.move_newest(id, Place::Main),
            (Place::Filling | Place::Evicting, _) => return false,
            (Place::Small | Place::Main, false) | (Place::Kept, true) => {}
        }
        true
    }

    /// The entries of one list, from the oldest.
    pub fn items(&self, place: Place) -> impl Iterator<Item = Item> {
        let ids = std::iter::successors(self.entries.oldest(place), |id| self.entries.newer(*id));
        ids.map(|id| self.item(id))
    }

    /// Some entries by their numbers, which they keep as long as they are here: from number `after` on, at most `most`, of
    /// at most [`CACHE_PAGE_LOOKS_MAX`] numbers. Also where to go on; `None`: that was all.
    pub fn page(&self, after: u64, most: usize) -> (Vec<Item>, Option<u64>) {
        let numbers = self.entries.numbers();
        let mut items = Vec::new();
        let mut at = after;
        while at < numbers && items.len() < most && at - after < CACHE_PAGE_LOOKS_MAX {
            let id = at as Id;
            if self.entries.is_given(id) {
                items.push(self.item(id));
            }
            at += 1;
        }
        (items, (at < numbers).then_some(at))
    }

    /// Number and bytes of what is in one list.
    pub fn sum(&self, place: Place) -> (u64, u64) {
        let list = self.entries.list(place);
        (list.len as u64, list.bytes)
    }

    /// Brings the main queue into the order in which its blobs came.
    pub(super) fn sort_main(&mut self) {
        self.entries.sort(Place::Main);
    }

    /// Bytes that the small queue may have without being the first to give some up.
    pub fn small_bytes_max(&self) -> u64 {
        self.max_bytes / 100 * CACHE_SMALL_PERCENT + self.max_bytes % 100 * CACHE_SMALL_PERCENT / 100
    }

    fn move_newest(&mut self, id: Id, place: Place) {
        self.entries.move_newest(id, place);
        self.note_large(id);
    }

    fn is_large(&self, id: Id) -> bool {
        let entry = self.entries.get(id);
        self.max_bytes > 0 && entry.place == Place::Small && entry.size_bytes > self.small_bytes_max()
    }

    /// Of such as these there are few: ten of them take the whole budget. Of more, some wait for their turn like all others.
    fn note_large(&mut self, id: Id) {
        if self.is_large(id) {
            self.large.retain(|other| *other != id);
            if self.large.len() == CACHE_LARGE_MAX {
                self.forget_not_large();
            }
            if self.large.len() < CACHE_LARGE_MAX {
                self.large.push(id);
            }
        }
    }

    /// Numbers may be another's by now, or nobody's.
    fn forget_not_large(&mut self) {
        let mut large = std::mem::take(&mut self.large);
        large.retain(|id| self.entries.is_given(*id) && self.is_large(*id));
        self.large = large;
    }

    fn large_to_go(&mut self, is_busy: &mut dyn FnMut(&Digest) -> bool) -> Option<Id> {
        self.forget_not_large();
        let mut of_no_use =
            self.large.iter().copied().filter(|id| self.entries.get(*id).uses < CACHE_PROMOTION_USES);
        of_no_use.find(|id| !is_busy(&self.entries.digest(*id)))
    }

    /// The oldest entry of the queue whose turn it is, of those that are still to be looked at.
    fn next_to_go(&self, small: bool, main: bool) -> Option<(Id, Place)> {
        let oldest = |place, left: bool| self.entries.oldest(place).filter(|_| left).map(|id| (id, place));
        let (small, main) = (oldest(Place::Small, small), oldest(Place::Main, main));
        let bytes = self.entries.list(Place::Small).bytes + self.entries.list(Place::Filling).bytes;
        if bytes > self.small_bytes_max() { small.or(main) } else { main.or(small) }
    }

    fn evict(&mut self, id: Id) -> Victim {
        let Item { digest, size_bytes, place, .. } = self.item(id);
        if place == Place::Small {
            let most = self.list_len(Place::Main).max(CACHE_GHOST_MIN);
            self.ghost.insert(self.entries.tag(&digest), most);
        }
        self.entries.get_mut(id).uses = 0;
        self.entries.move_newest(id, Place::Evicting);
        Victim { digest, size_bytes }
    }

    fn evicting(&self, digest: &Digest) -> Option<Id> {
        self.entries.find(digest).filter(|id| self.entries.get(*id).place == Place::Evicting)
    }

    fn put(
        &mut self,
        digest: &Digest,
        size_bytes: u64,
        came_unix: u32,
        place: Place,
        uses: u8,
    ) -> Result<Id, Refused> {
        let total_bytes = self.total_bytes.checked_add(size_bytes).ok_or(Refused::Full)?;
        if self.entries.len() >= CACHE_ENTRIES_MAX {
            return Err(Refused::Full);
        }
        self.total_bytes = total_bytes;
        let id = self.entries.insert(digest, size_bytes, came_unix, place);
        let entry = self.entries.get_mut(id);
        entry.uses = uses.min(CACHE_USES_MAX);
        Ok(id)
    }

    fn resize(&mut self, id: Id, size_bytes: u64) -> Result<Id, Refused> {
        let others = self.total_bytes - self.entries.get(id).size_bytes;
        self.total_bytes = others.checked_add(size_bytes).ok_or(Refused::Full)?;
        self.entries.resize(id, size_bytes);
        Ok(id)
    }

    fn item(&self, id: Id) -> Item {
        let entry = self.entries.get(id);
        Item {
            digest: self.entries.digest(id),
            size_bytes: entry.size_bytes,
            came_unix: entry.came_unix,
            upstream: entry.upstream,
            place: entry.place,
            uses: entry.uses,
        }
    }

    pub(super) fn list_len(&self, place: Place) -> usize {
        self.entries.list(place).len
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod tests;
