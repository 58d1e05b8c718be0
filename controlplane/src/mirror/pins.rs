//! Pins: patterns of repositories whose blobs stay, whatever room is lacking.
//!
//! Some are the configuration's, others were set while it ran and are kept in the metadata. A pattern is looked at when a
//! blob comes, when a manifest that names it is kept, and when pins change; blobs that are here follow.
//!
//! Invariants: a blob stays as long as any repository that is known to name it is pinned.

use std::sync::{Arc, PoisonError, RwLock};

use control::Origin;
use oci::{Digest, Problem};

use super::{Glob, Mirror, Place};
use crate::limits;
use crate::metadata::{Keep, Metadata, Page};

/// All of them. Any thread reads them, when a blob comes.
#[derive(Debug, Default)]
pub struct Pins {
    configured: Vec<Glob>,
    added: RwLock<Vec<Glob>>,
    /// By number of the upstream.
    prefixes: Vec<Box<str>>,
}

/// One pattern, and who set it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pin {
    pub pattern: String,
    /// It is the configuration's, so that only that can take it back.
    pub is_configured: bool,
}

impl Pins {
    /// `added` are those of the metadata; what is no pattern any more is left out.
    pub(crate) fn new(configured: Vec<Glob>, added: &[String], prefixes: Vec<Box<str>>) -> Pins {
        let added = added.iter().filter_map(|text| Glob::parse(text).ok()).collect();
        Pins { configured, added: RwLock::new(added), prefixes }
    }

    /// Whether blobs that come from there stay.
    pub fn has(&self, origin: &Origin) -> bool {
        if self.is_empty() {
            return false;
        }
        let Some(prefix) = self.prefixes.get(usize::from(origin.upstream)) else { return false };
        self.match_name(&format!("{prefix}/{}", origin.repository))
    }

    /// Whether a repository, by its name here, is pinned.
    pub(crate) fn match_name(&self, name: &str) -> bool {
        let matches = |glob: &Glob| glob.matches(name);
        self.configured.iter().any(matches) || self.added().iter().any(matches)
    }

    fn is_empty(&self) -> bool {
        self.configured.is_empty() && self.added().is_empty()
    }

    fn list(&self) -> Vec<Pin> {
        let pin = |is_configured| move |glob: &Glob| Pin { pattern: glob.as_str().to_owned(), is_configured };
        let configured = self.configured.iter().map(pin(true));
        configured.chain(self.added().iter().map(pin(false))).collect()
    }

    fn added(&self) -> std::sync::RwLockReadGuard<'_, Vec<Glob>> {
        self.added.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut Vec<Glob>)) {
        change(&mut self.added.write().unwrap_or_else(PoisonError::into_inner));
    }
}

impl<M: Metadata> Mirror<M> {
    /// All pins: the configuration's first.
    pub(crate) fn pin_list(&self) -> Vec<Pin> {
        self.pins.list()
    }

    /// Pins a pattern. Gives how many blobs that are here it found; `None`: it was pinned already.
    ///
    /// Errors: `RequestMalformed` (400): there are too many, or the configuration has it.
    pub(crate) async fn pin(&self, pattern: Glob) -> Result<Option<u64>, Problem> {
        let _turn = self.pinning.lock().await;
        let list = self.pins.list();
        if list.iter().any(|pin| pin.pattern == pattern.as_str()) {
            return Ok(None);
        }
        if list.iter().filter(|pin| !pin.is_configured).count() >= limits::PINS {
            return Err(Problem::RequestMalformed {
                why: "there are too many pins: unpin some, or use wider patterns",
            });
        }
        let keep = Keep::Pin { pattern: pattern.as_str().to_owned() };
        self.metadata.keep(Box::new(keep)).await?;
        self.pins.change(|added| added.push(pattern.clone()));
        self.apply(&|name| pattern.matches(name)).await.map(Some)
    }

    /// Takes a pin back. Gives how many blobs were looked at; `None`: it was not pinned.
    ///
    /// Errors: `RequestMalformed` (400): the configuration has it.
    pub(crate) async fn unpin(&self, pattern: &Glob) -> Result<Option<u64>, Problem> {
        let _turn = self.pinning.lock().await;
        match self.pins.list().iter().find(|pin| pin.pattern == pattern.as_str()) {
            None => return Ok(None),
            Some(pin) if pin.is_configured => {
                let why = "the configuration has this pin, in cache.pin: it is taken back there";
                return Err(Problem::RequestMalformed { why });
            }
            Some(_) => {}
        }
        let keep = Keep::Unpin { pattern: pattern.as_str().to_owned() };
        self.metadata.keep(Box::new(keep)).await?;
        self.pins.change(|added| added.retain(|other| other != pattern));
        self.apply(&|name| pattern.matches(name)).await.map(Some)
    }

    /// Has the blobs of these repositories stay, or not, as all pins together say. Gives how many are here.
    pub(super) async fn apply(&self, is_meant: &(dyn Fn(&str) -> bool + Sync)) -> Result<u64, Problem> {
        let mut found = 0;
        let mut page = Page { after: String::new(), limit: limits::CACHE_PAGE };
        loop {
            let listed = self.metadata.mirrored_repositories(page.clone()).await?;
            for name in listed.names.iter().filter(|name| is_meant(name)) {
                found += self.apply_to(name).await?;
            }
            match listed.names.last().filter(|_| listed.more) {
                Some(last) => page.after.clone_from(last),
                None => return Ok(found),
            }
        }
    }

    async fn apply_to(&self, name: &str) -> Result<u64, Problem> {
        let Ok(repository) = oci::RepositoryName::parse(name) else { return Ok(0) };
        let (mut after, mut found) = (None, 0);
        loop {
            let most = limits::CACHE_DIGESTS as u32;
            let targets = self.metadata.mirrored_targets(repository, after, most).await?;
            let Some(last) = targets.last().copied() else { return Ok(found) };
            found += self.follow_pins(targets).await?;
            after = Some(last);
        }
    }

    /// Has these blobs stay, or not, as pins say of the repositories that name them. Gives how many are here.
    pub(super) async fn follow_pins(&self, digests: Vec<Digest>) -> Result<u64, Problem> {
        let named = self.metadata.named_by(digests.clone(), limits::PINNING_REPOSITORIES).await?;
        let is_pinned = |names: &Vec<String>| names.iter().any(|name| self.pins.match_name(name));
        let (kept, free): (Vec<_>, Vec<_>) =
            digests.into_iter().zip(named).partition(|(_, names)| is_pinned(names));
        let only =
            |some: Vec<(Digest, Vec<String>)>| some.into_iter().map(|(digest, _)| digest).collect::<Vec<_>>();
        let (kept, free) = (only(kept), only(free));
        let mut found = 0;
        for (digests, keep) in [(kept, true), (free, false)] {
            if !digests.is_empty() {
                found += self.cache.keep(digests, keep).await?;
            }
        }
        Ok(found)
    }

    /// A manifest of a pinned repository is kept: what it names stays, also what came by another.
    pub(super) fn follow_pins_of(self: &Arc<Self>, place: &Place, targets: Vec<Digest>) {
        if targets.is_empty() {
            return;
        }
        let (mirror, repository) = (Arc::clone(self), place.repository);
        self.behind.start(async move {
            for some in targets.chunks(limits::CACHE_DIGESTS) {
                if let Err(problem) = mirror.cache.keep(some.to_vec(), true).await {
                    tracing::debug!(%repository, why = problem.message(), "blobs that are here were not pinned");
                }
            }
        });
    }

    /// What the index of the cache has lost of pins, or the configuration has changed since: once, after a start.
    pub(crate) fn follow_pins_behind(self: &Arc<Self>) {
        let mirror = Arc::clone(self);
        self.behind.start(async move {
            let _turn = mirror.pinning.lock().await;
            let applied = match mirror.pins.is_empty() {
                true => mirror.release_all().await,
                false => mirror.apply(&|_any| true).await.map(drop),
            };
            if let Err(problem) = applied {
                tracing::info!(why = problem.message(), "pins of blobs that are here were not looked at");
            }
        });
    }

    /// There are no pins any more.
    async fn release_all(&self) -> Result<(), Problem> {
        if self.cache.stat().await?.pinned == 0 {
            return Ok(());
        }
        let mut after = 0;
        loop {
            let page = self.cache.list(after, limits::CACHE_PAGE).await?;
            let pinned: Vec<Digest> =
                page.entries.iter().filter(|entry| entry.is_pinned).map(|entry| entry.digest).collect();
            for some in pinned.chunks(limits::CACHE_DIGESTS) {
                self.cache.keep(some.to_vec(), false).await?;
            }
            match page.next {
                Some(next) => after = next,
                None => return Ok(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use oci::RepositoryName;

    use super::*;

    #[test]
    fn patterns_of_both_kinds_count_and_what_is_none_does_not() {
        let configured = vec![Glob::parse("docker.io/library/*").unwrap()];
        let pins = Pins::new(
            configured,
            &["ghcr/org/*".into(), "no pattern".into()],
            vec!["docker.io".into(), "ghcr".into()],
        );
        let has = |upstream, name: &str| {
            pins.has(&Origin { upstream, repository: RepositoryName::parse(name).unwrap() })
        };
        assert!(has(0, "library/busybox") && has(1, "org/app"));
        assert!(!has(0, "org/app") && !has(1, "library/busybox") && !has(2, "library/busybox"));
        let pin = |pattern: &str, is_configured| Pin { pattern: pattern.into(), is_configured };
        assert_eq!(pins.list(), [pin("docker.io/library/*", true), pin("ghcr/org/*", false)]);
    }
}
