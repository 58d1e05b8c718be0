//! A slow look at whether the files under `blobs/` and the rows of the metadata agree; and a quick one at the files, where the
//! cache's index has to be made again of them.
//!
//! Owns: how many rows have no whole file, and how many files no row, as of the last time that all were compared.
//!
//! Invariants: it looks and changes no name. It holds a page of names and a few findings, however many blobs
//! there are, and has at most one job in the pool and one question in the lane; where one is full, it waits.

use std::{
    io,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use control::Control;
use oci::{Algorithm, Digest, Problem};

use super::{Shared, Store, blob_directory, blob_path, problem_of};
use crate::{
    io::{Fs, Io, Stat, is_damage, unix_time},
    limits::{Limits, SCRUB_NAMED_MAX, SCRUB_PAGE, SCRUB_START_AFTER},
};

impl Store {
    /// Compares files and rows, rests, and begins again, for as long as it is polled. To be run by one core. If the cache's
    /// index was damaged, it is made again first.
    pub async fn scrub(&self, io: &Io, control: &Control, limits: &Limits) {
        let began_unix = unix_time();
        let scrub = Scrub { io, control, limits, shared: &self.shared, began_unix, is_in_a_hurry: false };
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

struct Scrub<'a> {
    io: &'a Io,
    control: &'a Control,
    limits: &'a Limits,
    shared: &'a Arc<Shared>,
    /// What was last changed before is older than any commit of this process.
    began_unix: u64,
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
                let unrecorded = self.without_row(algorithm, names).await?;
                if !unrecorded.is_empty() {
                    let ages = (self.began_unix, self.limits.orphan_age);
                    let orphans = self
                        .on_disk(unrecorded, move |shared, fs, paths| orphans(shared, fs, paths, ages))
                        .await?;
                    findings.add(orphans);
                }
            }
        }
        Ok(findings)
    }

    /// The paths of those names that no row knows; what is not even the name of a blob is one of them.
    async fn without_row(&self, algorithm: Algorithm, names: Vec<String>) -> Result<Vec<String>, Problem> {
        let digest = |name: &String| Digest::parse(&format!("{algorithm}:{name}")).ok();
        let (blobs, mut unrecorded): (Vec<_>, Vec<_>) =
            names.into_iter().partition(|name| digest(name).is_some());
        let digests: Vec<Digest> = blobs.iter().filter_map(digest).collect();
        let rows = self.patiently(async || self.control.home(digests.clone()).await).await?;
        if rows.len() != blobs.len() {
            return Err(Problem::Internal);
        }
        let nobodys = |(name, row): (String, Option<u64>)| {
            let is_cached = digest(&name).is_some_and(|digest| self.shared.cached.knows(&digest));
            (row.is_none() && !is_cached).then_some(name)
        };
        unrecorded.extend(blobs.into_iter().zip(rows).filter_map(nobodys));
        Ok(unrecorded.into_iter().map(|name| format!("{}/{name}", blob_directory(algorithm))).collect())
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

/// Those of the files that are there, are of no commit that is under way, and are no cached blob either: what may be one is
/// adopted. `ages`: when this process began, and how long a commit takes at most.
fn orphans(shared: &Shared, fs: &Fs, paths: &[String], ages: (u64, Duration)) -> io::Result<Vec<String>> {
    let (began_unix, age) = ages;
    let now_unix = unix_time();
    let mut old = Vec::new();
    for path in paths {
        // A commit gives a file its name first and its row later.
        let stat = match fs.stat(path) {
            Ok(Some(stat)) => stat,
            Ok(None) => continue,
            // It serves nobody, and nobody can tell how long it is.
            Err(error) if is_damage(&error) => {
                old.push(path.clone());
                continue;
            }
            Err(error) => return Err(error),
        };
        let adopted =
            || digest_of(path).is_some_and(|digest| shared.cached.adopt(digest, stat.len, stat.changed_unix));
        let is_of_no_commit = stat.changed_unix < began_unix || is_old(stat.changed_unix, now_unix, age);
        if is_of_no_commit && !adopted() {
            old.push(path.clone());
        }
    }
    Ok(old)
}

/// The blob whose name a path under `blobs/` is.
fn digest_of(path: &str) -> Option<Digest> {
    let (algorithm, hex) = path.strip_prefix("blobs/")?.split_once('/')?;
    Digest::parse(&format!("{algorithm}:{hex}")).ok()
}

/// A time in the future is that of a clock that was set back.
fn is_old(changed_unix: u64, now_unix: u64, age: Duration) -> bool {
    now_unix.checked_sub(changed_unix).is_some_and(|seconds| Duration::from_secs(seconds) > age)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_may_be_a_commit_for_as_long_as_it_is_young() {
        let hour = Duration::from_secs(3600);
        for (changed_unix, old) in
            [(10_000, false), (6_400, false), (6_399, true), (0, true), (10_001, false)]
        {
            assert_eq!(is_old(changed_unix, 10_000, hour), old, "{changed_unix}");
        }
    }

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
