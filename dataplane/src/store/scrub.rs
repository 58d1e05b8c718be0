//! A slow look at whether the files under `blobs/` and the rows of the metadata agree; and a quick one at the files, where the
//! cache's index has to be made again of them.
//!
//! Owns: how many rows have no whole file, and how many files no row, as of the last time that all were compared.
//!
//! Invariants: it looks and changes no name. Whether a file is nobody's is decided by the keeper, between two batches: there no
//! commit and no fill is half way, which gives a file its name first and its row or entry later. It holds a page of names and a few findings, however many blobs
//! there are, and has at most one job in the pool and one question in the lane; where one is full, it waits.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use control::Control;
use oci::{Algorithm, Digest, Problem};
use tokio::sync::oneshot;

use super::{Shared, Store, blob_directory, blob_path, problem_of};
use crate::{
    io::{Fs, Io, Stat, is_damage, unix_time},
    limits::{Limits, SCRUB_NAMED_MAX, SCRUB_PAGE, SCRUB_START_AFTER},
};

impl Store {
    /// Compares files and rows, rests, and begins again, for as long as it is polled. To be run by one core. If the cache's
    /// index was damaged, it is made again first.
    pub async fn scrub(&self, io: &Io, control: &Control, limits: &Limits) {
        let scrub = Scrub { io, control, limits, shared: &self.shared, is_in_a_hurry: false };
        let mut rest = SCRUB_START_AFTER.min(limits.scrub_interval);
        loop {
            if self.shared.cached.is_lossy() {
                match (Scrub { is_in_a_hurry: true, ..scrub }).rebuild().await {
                    Ok(()) => {}
                    Err(problem) => {
                        tracing::warn!(
                            ?problem,
                            "the cache's index was not made again; it is tried after a rest"
                        );
                        rest = SCRUB_START_AFTER.min(limits.scrub_interval);
                    }
                }
            }
            io.sleep_until(io.now() + rest).await;
            rest = limits.scrub_interval;
            if let Err(problem) = scrub.compare().await {
                tracing::warn!(?problem, ?rest, "the scrub was given up; it begins again after a rest");
            }
        }
    }
}

/// Files that no row and no entry of the cache's index knew when they were looked at, and who wants to know which of them are
/// nobody's.
pub(super) struct Strays {
    pub(super) digests: Vec<Digest>,
    pub(super) answer: oneshot::Sender<Result<Vec<Digest>, Problem>>,
}

struct Scrub<'a> {
    io: &'a Io,
    control: &'a Control,
    limits: &'a Limits,
    shared: &'a Arc<Shared>,
    /// Pulls are passed through until it is done.
    is_in_a_hurry: bool,
}

/// What one comparison found.
#[derive(Default)]
struct Findings {
    /// What was looked at.
    seen: u64,
    /// What was wrong.
    count: u64,
    /// The first of that, in text.
    first: Vec<String>,
}

impl Findings {
    fn add(&mut self, wrong: Vec<String>) {
        self.count += wrong.len() as u64;
        let room = SCRUB_NAMED_MAX - self.first.len();
        self.first.extend(wrong.into_iter().take(room));
    }
}

impl Scrub<'_> {
    /// Errors: as [`Scrub::compare`]. The index is as damaged as before.
    async fn rebuild(&self) -> Result<(), Problem> {
        let _orphans_are_told_later = self.compare_files().await?;
        let rebuilt = |shared: &Shared, fs: &Fs, (): &()| {
            shared.cached.rebuilt(fs);
            Ok(())
        };
        self.on_disk((), rebuilt).await
    }

    /// Errors: the disk or the metadata could not be read, which was logged. What was not compared to the end
    /// says nothing: its number stays the one of the last time.
    async fn compare(&self) -> Result<(), Problem> {
        let counters = &self.shared.counters;
        let rows = self.compare_rows().await?;
        if rows.count > 0 {
            tracing::error!(
                lost = rows.count,
                first = ?rows.first,
                "blobs are recorded and their files are gone or not whole; push them again"
            );
        }
        counters.lost_blobs.store(rows.count, Ordering::Relaxed);
        let files = self.compare_files().await?;
        if files.count > 0 {
            tracing::warn!(
                orphans = files.count,
                first = ?files.first,
                "files are no blob that was recorded; they serve nobody, and stay: push such a blob to have it \
                 recorded, or remove its file while no server runs"
            );
        }
        counters.orphan_files.store(files.count, Ordering::Relaxed);
        counters.scrubbed_unix.store(unix_time(), Ordering::Relaxed);
        tracing::info!(rows = rows.seen, files = files.seen, "the scrub has compared all blobs");
        Ok(())
    }

    /// Rows without their whole file.
    async fn compare_rows(&self) -> Result<Findings, Problem> {
        let mut findings = Findings::default();
        let mut after = None;
        loop {
            let rows = self.patiently(async || self.control.home_after(after, SCRUB_PAGE).await).await?;
            let Some((last, _)) = rows.last() else { return Ok(findings) };
            after = Some(*last);
            findings.seen += rows.len() as u64;
            self.rest_after(rows.len()).await;
            let lost = self.on_disk(rows, |shared, fs, rows| shared.lost(fs, rows)).await?;
            findings.add(lost);
        }
    }

    /// Files without a row.
    async fn compare_files(&self) -> Result<Findings, Problem> {
        let mut findings = Findings::default();
        for algorithm in Algorithm::ALL {
            let listing = self.on_disk((), move |_, fs, ()| fs.listing(blob_directory(algorithm))).await?;
            loop {
                let names =
                    self.on_disk(listing.clone(), |_, _, place| place.page(SCRUB_PAGE as usize)).await?;
                if names.is_empty() {
                    break;
                }
                findings.seen += names.len() as u64;
                self.rest_after(names.len()).await;
                let unrecorded = self.orphans(algorithm, names).await?;
                findings.add(unrecorded);
            }
        }
        Ok(findings)
    }

    /// Those of the names that are neither a row's nor the cache's; what is not even the name of a blob is one of them.
    async fn orphans(&self, algorithm: Algorithm, names: Vec<String>) -> Result<Vec<String>, Problem> {
        let path = |name: &String| format!("{}/{name}", blob_directory(algorithm));
        let mut orphans = Vec::new();
        let mut digests = Vec::with_capacity(names.len());
        for name in &names {
            match Digest::parse(&format!("{algorithm}:{name}")) {
                Ok(digest) => digests.push(digest),
                Err(_) => orphans.push(path(name)),
            }
        }
        let rows = self.patiently(async || self.control.home(digests.clone()).await).await?;
        if rows.len() != digests.len() {
            return Err(Problem::Internal);
        }
        let strays: Vec<Digest> = digests
            .into_iter()
            .zip(rows)
            .filter(|(digest, row)| row.is_none() && !self.shared.cached.knows(digest))
            .map(|(digest, _)| digest)
            .collect();
        if !strays.is_empty() {
            let nobodys = self.patiently(async || self.ask_keeper(strays.clone()).await).await?;
            orphans.extend(nobodys.iter().map(blob_path));
        }
        Ok(orphans)
    }

    /// See [`Shared::take_in`].
    async fn ask_keeper(&self, digests: Vec<Digest>) -> Result<Vec<Digest>, Problem> {
        let (answer, reply) = oneshot::channel();
        self.shared.queue.push_strays(Strays { digests, answer })?;
        // A keeper that is gone answers nobody, and the core is about to end.
        reply.await.map_err(|_gone| Problem::Internal)?
    }

    /// Runs `look` on the pool, with what it looks at.
    async fn on_disk<W, T>(
        &self,
        what: W,
        look: impl Fn(&Shared, &Fs, &W) -> io::Result<T> + Copy + Send + 'static,
    ) -> Result<T, Problem>
    where
        W: Clone + Send + 'static,
        T: Send + 'static,
    {
        self.patiently(async || {
            let (shared, what) = (self.shared.clone(), what.clone());
            let looked = self.io.fs(move |fs| look(&shared, fs, &what)).await;
            looked.map_err(|error| problem_of(&error))
        })
        .await
    }

    /// Tries again whatever found a queue full: the others there are in more of a hurry.
    async fn patiently<T>(&self, step: impl AsyncFn() -> Result<T, Problem>) -> Result<T, Problem> {
        loop {
            match step().await {
                Err(Problem::Overloaded { .. }) => self.rest(SCRUB_PAGE as usize).await,
                done => return done,
            }
        }
    }

    /// Keeps to the pace.
    async fn rest_after(&self, looked_at: usize) {
        if self.is_in_a_hurry { self.io.pause().await } else { self.rest(looked_at).await }
    }

    async fn rest(&self, looked_at: usize) {
        let seconds = looked_at as f64 / f64::from(self.limits.scrub_rate.max(1));
        self.io.sleep_until(self.io.now() + Duration::from_secs_f64(seconds)).await;
    }
}

impl Shared {
    /// Takes into the cache those files that are no row's and that its index has lost. Gives those that are nobody's: nothing is
    /// cached here, or they can't be read. By the keeper alone, so that what the metadata says stays so meanwhile.
    ///
    /// Errors: the disk or the metadata could not be read; writes are refused, after which a file may be of a commit of which
    /// nobody knows whether it came to be.
    pub(super) fn take_in(&self, control: &Control, digests: &[Digest]) -> Result<Vec<Digest>, Problem> {
        self.allowed()?;
        let rows = control.home_blocking(digests.to_vec())?;
        if rows.len() != digests.len() {
            return Err(Problem::Internal);
        }
        let mut orphans = Vec::new();
        for (digest, _) in digests.iter().zip(rows).filter(|(_, row)| row.is_none()) {
            let is_taken_in = match self.fs.stat(&blob_path(digest)) {
                Ok(Some(stat)) => self.cached.adopt(*digest, stat.len, stat.changed_unix),
                // Its name is gone again.
                Ok(None) => continue,
                // Nobody can tell how long it is.
                Err(error) if is_damage(&error) => false,
                Err(error) => return Err(problem_of(&error)),
            };
            if !is_taken_in {
                orphans.push(*digest);
            }
        }
        Ok(orphans)
    }

    /// Which of the rows have no file, or one of another length. Of the latter nobody is told any more that it is
    /// here, even by a core that has it open, until a push has replaced it; a file that only lost its name is
    /// whole where it is open.
    fn lost(&self, fs: &Fs, rows: &[(Digest, u64)]) -> io::Result<Vec<String>> {
        let mut lost = Vec::new();
        for (digest, size_bytes) in rows {
            // While it is odd, a whole file is taking the place of a damaged one.
            let Some(epoch) = self.names.read(self.names.of_digest(digest)) else { continue };
            match fs.stat(&blob_path(digest)) {
                Ok(Some(Stat { len, .. })) if len == *size_bytes => continue,
                Ok(Some(_)) => self.suspect(digest, epoch),
                Ok(None) => {}
                Err(error) if is_damage(&error) => {}
                Err(error) => return Err(error),
            }
            lost.push(digest.to_string());
        }
        Ok(lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_findings_are_counted_and_a_few_are_named() {
        let mut findings = Findings::default();
        let names = |from: usize, to: usize| (from..to).map(|number| number.to_string()).collect::<Vec<_>>();
        findings.add(names(0, 3));
        findings.add(names(3, SCRUB_NAMED_MAX + 5));
        findings.add(names(50, 60));
        assert_eq!(findings.first, names(0, SCRUB_NAMED_MAX));
        assert_eq!(findings.count, SCRUB_NAMED_MAX as u64 + 15);
    }
}
