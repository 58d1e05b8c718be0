//! Blobs that are read from the disk every time: their pages are dropped before each GET.
//!
//! Owns: how a server's files are found and dropped from memory. Those of a server elsewhere can't be, so they have to
//! be more than its memory holds.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rustix::fs::{Advice, fadvise};

use super::get;
use crate::{
    args::Settings,
    content::Blob,
    load::{Answer, Exchange, Pace, Plan, Reading, Script},
    result::{Case, Round},
    subject::Subject,
};

/// The longest that connections may take which do one thing each.
const ONCE_TIME: Duration = Duration::from_secs(300);

/// The blobs of one server.
pub struct Cold {
    blobs: Vec<Item>,
    next: AtomicUsize,
    verify_every: u64,
}

struct Item {
    blob: Blob,
    request: Arc<[u8]>,
    /// Where it lies, if the server is ours.
    file: Option<(PathBuf, File)>,
}

/// A connection that does one thing and ends.
pub struct Once(Option<Exchange>);

/// A connection that reads them in turn with all others.
struct Reader(Arc<Cold>);

impl Cold {
    /// Gives the server `count` blobs of `length` bytes, synced, and finds them on its disk.
    ///
    /// Errors: a sentence.
    pub fn give(
        subject: &mut Subject,
        seed: u64,
        count: u64,
        length: u64,
        verify_every: u64,
    ) -> Result<Cold, String> {
        let mut blobs = Vec::new();
        for index in 0..count {
            let blob = subject.give(seed.wrapping_add(1 + index), length)?;
            let file = match &subject.peer {
                Some(peer) => Some(open(peer.data_dir(), &blob)?),
                None => None,
            };
            let request = get(subject, &subject.blob_target(&blob), "");
            blobs.push(Item { blob, request, file });
        }
        Ok(Cold { blobs, next: AtomicUsize::new(0), verify_every: verify_every.max(1) })
    }

    /// Drops all of them from memory.
    ///
    /// Errors: a sentence.
    pub fn drop_pages(&self) -> Result<(), String> {
        self.blobs.iter().try_for_each(Item::drop_pages)
    }

    /// The GET of the one with this index.
    pub fn exchange(&self, index: usize) -> Exchange {
        let item = &self.blobs[index % self.blobs.len()];
        Exchange::new(item.request.clone(), &[200], Reading::Drop { length: Some(item.blob.length) })
    }

    /// Where they lie; empty for a server elsewhere.
    pub fn paths(&self) -> Vec<&Path> {
        self.blobs.iter().filter_map(|item| item.file.as_ref().map(|(path, _)| path.as_path())).collect()
    }

    /// Connections that read them.
    pub fn readers(self: &Arc<Cold>, count: u64) -> Vec<Box<dyn Script>> {
        (0..count).map(|_| Box::new(Reader(self.clone())) as Box<dyn Script>).collect()
    }
}

impl Item {
    fn drop_pages(&self) -> Result<(), String> {
        let Some((path, file)) = &self.file else { return Ok(()) };
        fadvise(file, 0, None, Advice::DontNeed).map_err(|error| format!("{}: {error}", path.display()))
    }
}

impl Once {
    /// With that one thing.
    pub fn boxed(exchange: Exchange) -> Box<dyn Script> {
        Box::new(Once(Some(exchange)))
    }
}

impl Settings {
    /// Every connection does its one thing, all at once. The round is as long as the last of them took.
    ///
    /// Errors: a sentence, also if one of them failed: the others would be measured beside an idle connection.
    pub fn once(
        &self,
        case: &Case,
        subject: &Subject,
        scripts: Vec<Box<dyn Script>>,
    ) -> Result<Round, String> {
        let plan =
            Plan { pace: Pace::Closed, warm_up: Duration::ZERO, time: ONCE_TIME, ..self.plan(case, subject) };
        let count = scripts.len() as u64;
        let mut round = subject.load(&case.name, &plan, &self.pins(), scripts)?.round;
        if round.requests != count {
            let late = || format!("it took longer than {} s", ONCE_TIME.as_secs());
            let why = round.first_error.unwrap_or_else(late);
            return Err(format!("{} of {count} bodies came: {why}", round.requests));
        }
        // All began together.
        round.seconds = round.latency.max_us / 1e6;
        Ok(round)
    }
}

impl Script for Once {
    fn next(&mut self) -> Option<Exchange> {
        self.0.take()
    }

    fn answered(&mut self, _answer: &Answer) -> Result<(), String> {
        Ok(())
    }
}

impl Script for Reader {
    fn next(&mut self) -> Option<Exchange> {
        let cold = &self.0;
        let number = cold.next.fetch_add(1, Ordering::Relaxed);
        let item = &cold.blobs[number % cold.blobs.len()];
        // What could not be dropped is read quicker, which `Cold::drop_pages` would have told before.
        let _ = item.drop_pages();
        let (length, digest) = (item.blob.length, item.blob.digest);
        let reading = match (number as u64 + 1) % cold.verify_every {
            0 => Reading::Verify { length, digest },
            _ => Reading::Drop { length: Some(length) },
        };
        Some(Exchange::new(item.request.clone(), &[200], reading))
    }

    fn answered(&mut self, _answer: &Answer) -> Result<(), String> {
        Ok(())
    }
}

/// The file of a blob, whatever the layout: its path has the digest, and it has the blob's length.
fn open(dir: &Path, blob: &Blob) -> Result<(PathBuf, File), String> {
    let hex = blob.digest.to_string();
    let hex = hex.rsplit(':').next().unwrap_or_default();
    let path = find(dir, hex, blob.length).ok_or_else(|| {
        format!("{} has no file of {} bytes for {hex}, so it can't be made cold", dir.display(), blob.length)
    })?;
    let file = File::open(&path).and_then(|file| file.sync_all().map(|()| file));
    file.map(|file| (path.clone(), file)).map_err(|error| format!("{}: {error}", path.display()))
}

fn find(dir: &Path, hex: &str, length: u64) -> Option<PathBuf> {
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).ok()?.flatten() {
            let (path, Ok(meta)) = (entry.path(), entry.metadata()) else { continue };
            if meta.is_dir() {
                folders.push(path);
            } else if meta.len() == length && path.to_string_lossy().contains(hex) {
                return Some(path);
            }
        }
    }
    None
}
