//! One upstream, with what an operator wants of it and what is remembered of its answers.
//!
//! Invariants: what is remembered here is bounded in bytes and in time, and may be lost at any moment. A *no* is
//! remembered under the repository's one name, so a name that becomes local by a push is never asked for it.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use control::{Came, Outline};
use moka::sync::Cache;
use oci::{Digest, MediaType, Platform, Problem, Reference, RepositoryName, Tag};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::behind::Behind;
use super::counts::Counts;
use super::remembered::Remembered;
use super::{Glob, Place};
use crate::limits;
use crate::upstream::{Failure, Offline, Policy, SettingsError, Upstream};

/// An upstream and its answers.
pub(super) struct Site {
    pub upstream: Upstream,
    pub rules: Rules,
    pub counts: Arc<Counts>,
    /// One for each question that may wait for it.
    pub waits: Arc<Semaphore>,
    /// What is done for it behind answers.
    pub behind: Behind,
    hands: Arc<Semaphore>,
    absent: Remembered<(RepositoryName, Wanted), Absent>,
    granted: Remembered<(RepositoryName, Digest), Option<u64>>,
    outlines: Remembered<(RepositoryName, Reference), Outline>,
    opened: Remembered<RepositoryName, ()>,
    lists: Cache<(RepositoryName, String), Listing>,
}

/// The right to hold one manifest that is not kept yet.
pub(super) type Hand = OwnedSemaphorePermit;

/// What may be absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Wanted {
    Manifest(Reference),
    Blob(Digest),
    /// The list of tags.
    Tags,
    /// The list of what refers to this; not the fallback tag.
    Referrers(Digest),
}

/// What an upstream said when something was not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Absent {
    /// 404.
    Unknown,
    /// It does not let us in, as for what does not exist.
    Denied,
}

/// A page of a list, as the upstream gave it.
#[derive(Clone, Debug)]
pub(super) struct Listing {
    /// JSON; what it means is for who put it here.
    pub body: Bytes,
    pub media_type: Option<MediaType>,
    /// The query of the page after it, as the upstream wrote it.
    pub next: Option<String>,
    /// On the mirror's clock.
    pub at: i64,
}

/// What an operator wrote about an upstream.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    allow: Vec<Glob>,
    deny: Vec<Glob>,
    immutable_tags: Vec<Glob>,
    pub tag_ttl: Duration,
    stale_while: Duration,
    stale_max: Duration,
    pub offline: Offline,
    /// What of an index is fetched ahead.
    pub platforms: Vec<Platform>,
}

/// How an answer about a tag may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Use {
    /// Without asking, for this long; `None`: for good.
    Fresh(Option<Duration>),
    /// At once, while it is being compared.
    WhileAsking,
    /// If the upstream can't be asked.
    IfDown,
    /// No more.
    No,
}

impl Rules {
    fn of(policy: &Policy) -> Result<Rules, SettingsError> {
        let globs = |field: &'static str, texts: &[String]| {
            let each = texts.iter().map(|text| {
                Glob::parse(text).map_err(|error| SettingsError { field, why: format!("`{text}`: {error}") })
            });
            each.collect::<Result<Vec<Glob>, SettingsError>>()
        };
        Ok(Rules {
            allow: globs("allow", &policy.allow)?,
            deny: globs("deny", &policy.deny)?,
            immutable_tags: globs("immutable_tags", &policy.immutable_tags)?,
            tag_ttl: policy.tag_ttl,
            stale_while: policy.stale_while,
            stale_max: policy.stale_max,
            offline: policy.offline,
            platforms: policy.platforms.clone(),
        })
    }

    /// Whether the repository, by its name there, may be asked for: without an allow list all but the denied ones.
    pub(super) fn allows(&self, there: &RepositoryName) -> bool {
        let among = |globs: &[Glob]| globs.iter().any(|glob| glob.matches(there.as_str()));
        (self.allow.is_empty() || among(&self.allow)) && !among(&self.deny)
    }

    /// What may be done with an answer of this age.
    pub(super) fn usable(&self, tag: &Tag, age: Duration) -> Use {
        if self.immutable_tags.iter().any(|glob| glob.matches(tag.as_str())) {
            return Use::Fresh(None);
        }
        match self.tag_ttl.checked_sub(age) {
            Some(left) if !left.is_zero() => Use::Fresh(Some(left)),
            _ if age < self.tag_ttl.saturating_add(self.stale_while) => Use::WhileAsking,
            _ if self.offline == Offline::Auto => Use::IfDown,
            _ if age < self.tag_ttl.saturating_add(self.stale_max) => Use::IfDown,
            _ => Use::No,
        }
    }
}

impl Site {
    /// Errors: a pattern that is none.
    pub(super) fn new(upstream: Upstream) -> Result<Site, SettingsError> {
        let policy = upstream.settings().policy.clone();
        let rules = Rules::of(&policy)?;
        Ok(Site {
            upstream,
            rules,
            counts: Arc::default(),
            waits: Arc::new(Semaphore::new(limits::WAITS_PER_UPSTREAM)),
            behind: Behind::default(),
            hands: Arc::new(Semaphore::new(limits::MANIFESTS_IN_HAND)),
            absent: Remembered::new(limits::ABSENCES_BYTES, policy.negative_ttl),
            granted: Remembered::new(limits::GRANTS_BYTES, limits::GRANT_AGE_MAX),
            outlines: Remembered::new(limits::OUTLINES_BYTES, policy.tag_ttl),
            opened: Remembered::new(limits::OPENED_BYTES, limits::GRANT_AGE_MAX),
            lists: Cache::builder()
                .weigher(|(_, query): &(RepositoryName, String), listing: &Listing| {
                    let next = listing.next.as_ref().map_or(0, String::len);
                    u32::try_from(size_of::<Listing>() + 256 + query.len() + listing.body.len() + next)
                        .unwrap_or(u32::MAX)
                })
                .max_capacity(limits::LISTS_BYTES)
                .time_to_live(limits::LIST_KEPT)
                .build(),
        })
    }

    /// What a client is told of a failure, which is logged here.
    pub(super) fn failed(&self, place: &Place, failure: &Failure) -> Problem {
        tracing::warn!(upstream = self.upstream.settings().ns, repository = %place.there, %failure, "no answer");
        failure.problem(place.repository)
    }

    /// Errors: `UpstreamUnreachable` (503) if an operator wants it left alone.
    pub(super) fn may_be_asked(&self) -> Result<(), Problem> {
        match self.rules.offline {
            Offline::Always => {
                Err(Problem::UpstreamUnreachable { retry_after_s: limits::OFFLINE_RETRY_AFTER_S })
            }
            Offline::Never | Offline::Auto => Ok(()),
        }
    }

    /// To be had before a manifest is asked for, and held until it is kept.
    ///
    /// Errors: `BudgetSpent` if there is none for as long as a question may wait for its turn.
    pub(super) async fn hand(&self) -> Result<Hand, Failure> {
        let wait = self.upstream.settings().timeouts.budget_wait;
        let hand = timeout(wait, Arc::clone(&self.hands).acquire_owned()).await;
        hand.ok().and_then(Result::ok).ok_or(Failure::BudgetSpent { retry_after_s: 1 })
    }

    /// What the upstream said not long ago, if that was no.
    pub(super) fn absence(&self, place: &Place, wanted: Wanted) -> Option<Absent> {
        let absent = self.absent.get(&(place.repository, wanted))?;
        self.counts.absence();
        Some(absent)
    }

    pub(super) fn note_absence(&self, place: &Place, wanted: Wanted, absent: Absent) {
        self.absent.insert((place.repository, wanted), absent);
    }

    /// A yes after a no: it has been pushed there meanwhile.
    pub(super) fn forget_absence(&self, place: &Place, wanted: Wanted) {
        self.absent.forget(&(place.repository, wanted));
    }

    /// The size, if it is known, of a blob that the upstream has for this repository.
    pub(super) fn granted(&self, place: &Place, digest: &Digest) -> Option<Option<u64>> {
        self.granted.get(&(place.repository, *digest))
    }

    pub(super) fn grant(&self, place: &Place, digest: Digest, size_bytes: Option<u64>) {
        self.granted.insert((place.repository, digest), size_bytes);
    }

    pub(super) fn revoke(&self, place: &Place, digest: &Digest) {
        self.granted.forget(&(place.repository, *digest));
    }

    /// The head of a manifest that is not here, as the upstream told it not long ago.
    pub(super) fn outline(&self, place: &Place, reference: &Reference) -> Option<Outline> {
        let outline = self.outlines.get(&(place.repository, *reference))?;
        Some(Outline { came: Came::Hit, ..outline })
    }

    pub(super) fn note_outline(&self, place: &Place, reference: Reference, outline: Outline) {
        self.outlines.insert((place.repository, reference), outline);
    }

    pub(super) fn forget_outline(&self, place: &Place, reference: Reference) {
        self.outlines.forget(&(place.repository, reference));
    }

    /// Whether a manifest of the repository was had not long ago; if not, the metadata may know of one.
    pub(super) fn is_open(&self, place: &Place) -> bool {
        self.opened.get(&place.repository).is_some()
    }

    pub(super) fn open(&self, place: &Place) {
        self.opened.insert(place.repository, ());
    }

    /// Nothing is remembered of these repositories, by their names here.
    pub(super) fn forget(&self, is_meant: &dyn Fn(&str) -> bool) {
        self.absent.forget_all(|(name, _)| is_meant(name.as_str()));
        self.granted.forget_all(|(name, _)| is_meant(name.as_str()));
        self.outlines.forget_all(|(name, _)| is_meant(name.as_str()));
        self.opened.forget_all(|name| is_meant(name.as_str()));
        for (key, _) in self.lists.iter().filter(|(key, _)| is_meant(key.0.as_str())) {
            self.lists.invalidate(&*key);
        }
    }

    pub(super) fn list(&self, place: &Place, query: &str) -> Option<Listing> {
        self.lists.get(&(place.repository, query.to_owned()))
    }

    /// The pages of which `is_meant` says so, by what they are remembered by.
    pub(super) fn forget_lists(&self, place: &Place, is_meant: impl Fn(&str) -> bool) {
        let of_place = self.lists.iter().filter(|(key, _)| key.0 == place.repository && is_meant(&key.1));
        for (key, _) in of_place {
            self.lists.invalidate(&*key);
        }
    }

    pub(super) fn note_list(&self, place: &Place, query: &str, listing: Listing) {
        self.lists.insert((place.repository, query.to_owned()), listing);
    }
}

impl Absent {
    /// What the client is told: that it is not there, or that the name is not known.
    pub(super) fn answer<T>(self, place: &Place) -> Result<Option<T>, Problem> {
        match self {
            Absent::Unknown => Ok(None),
            Absent::Denied => Err(Problem::NameUnknown(place.repository)),
        }
    }
}

#[cfg(test)]
mod tests {
    use oci::Algorithm;

    use super::*;
    use crate::upstream::UpstreamSettings;

    fn site(policy: Policy) -> Result<Site, SettingsError> {
        let settings =
            UpstreamSettings { policy, ..UpstreamSettings::new("docker.io", "https://registry.example") };
        Site::new(Upstream::new(settings).unwrap())
    }

    fn rules(policy: Policy) -> Rules {
        Rules::of(&policy).unwrap()
    }

    fn name(text: &str) -> RepositoryName {
        RepositoryName::parse(text).unwrap()
    }

    fn place(number: u64) -> Place {
        let repository = name(&format!("docker.io/a{number}"));
        Place { upstream: 0, repository, there: name(&format!("a{number}")), is_bare: false }
    }

    const MINUTE: Duration = Duration::from_secs(60);

    #[test]
    fn an_answer_about_a_tag_grows_old_in_steps() {
        let policy = Policy {
            tag_ttl: 10 * MINUTE,
            stale_while: 20 * MINUTE,
            stale_max: 60 * MINUTE,
            ..Policy::default()
        };
        let by = |policy: &Policy, tag: &str, minutes| {
            rules(policy.clone()).usable(&Tag::parse(tag).unwrap(), minutes * MINUTE)
        };
        for (minutes, expect) in [
            (0, Use::Fresh(Some(10 * MINUTE))),
            (9, Use::Fresh(Some(MINUTE))),
            (10, Use::WhileAsking),
            (29, Use::WhileAsking),
            (30, Use::IfDown),
            (69, Use::IfDown),
            (70, Use::No),
        ] {
            assert_eq!(by(&policy, "latest", minutes), expect, "after {minutes} minutes");
        }
        let auto = Policy { offline: Offline::Auto, ..policy.clone() };
        assert_eq!(by(&auto, "latest", 100_000), Use::IfDown, "what is here is all there is");
        let immutable = Policy { immutable_tags: vec!["v*.*.*".to_owned()], ..policy.clone() };
        assert_eq!(by(&immutable, "v1.2.3", 100_000), Use::Fresh(None));
        assert_eq!(by(&immutable, "v1", 100_000), Use::No);
        let never = Policy { tag_ttl: Duration::ZERO, stale_while: Duration::ZERO, ..policy };
        assert_eq!(by(&never, "latest", 0), Use::IfDown, "not even in the same millisecond");
    }

    #[test]
    fn a_repository_has_to_be_allowed_and_not_denied() {
        let allows = |allow: &[&str], deny: &[&str], there: &str| {
            let texts = |globs: &[&str]| globs.iter().map(|glob| (*glob).to_owned()).collect();
            rules(Policy { allow: texts(allow), deny: texts(deny), ..Policy::default() }).allows(&name(there))
        };
        assert!(allows(&[], &[], "any/thing"));
        assert!(allows(&["library/*"], &[], "library/busybox"));
        assert!(!allows(&["library/*"], &[], "evil/busybox"));
        assert!(!allows(&["library/*"], &["library/busybox"], "library/busybox"));
        assert!(!allows(&[], &["evil/*"], "evil/a/b"));
        let wrong = Policy { deny: vec!["a b".to_owned()], ..Policy::default() };
        let error = site(wrong).err().unwrap();
        assert_eq!(error.field, "deny");
        assert!(error.why.contains("`a b`"), "{error}");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let site = site(Policy::default()).unwrap();
        let digest = Digest::of(Algorithm::Sha256, b"");
        let outline =
            Outline { digest, media_type: MediaType::OCI_MANIFEST, size_bytes: 1, came: Came::Fill };
        let page = Listing { body: vec![b'x'; 1 << 20].into(), media_type: None, next: None, at: 0 };
        // The smallest entry is larger than what lies beside it.
        let all =
            [limits::ABSENCES_BYTES, limits::GRANTS_BYTES, limits::OUTLINES_BYTES, limits::OPENED_BYTES];
        let most = all.into_iter().max().unwrap() / limits::REMEMBERED_BESIDE_BYTES as u64;
        for number in 0..most {
            let place = place(number);
            site.note_absence(&place, Wanted::Blob(digest), Absent::Unknown);
            site.grant(&place, digest, None);
            site.note_outline(&place, Reference::Digest(digest), outline.clone());
            site.open(&place);
        }
        for number in 0..2 * (limits::LISTS_BYTES >> 20) {
            let heavy = match number % 2 {
                0 => page.clone(),
                // Where a page goes on is the upstream's to say, at any length.
                _ => Listing { body: Bytes::new(), next: Some("x".repeat(1 << 20)), ..page.clone() },
            };
            site.note_list(&place(number), "tags", heavy);
        }
        site.lists.run_pending_tasks();
        for (have, most) in [
            (site.absent.settled_bytes(), limits::ABSENCES_BYTES),
            (site.granted.settled_bytes(), limits::GRANTS_BYTES),
            (site.outlines.settled_bytes(), limits::OUTLINES_BYTES),
            (site.opened.settled_bytes(), limits::OPENED_BYTES),
            (site.lists.weighted_size(), limits::LISTS_BYTES),
            (site.lists.entry_count() << 20, limits::LISTS_BYTES),
        ] {
            assert!(have > most / 2 && have <= most, "{have} of {most}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_so_many_manifests_are_in_hand() {
        let site = site(Policy::default()).unwrap();
        let mut hands = Vec::new();
        for _ in 0..limits::MANIFESTS_IN_HAND {
            hands.push(site.hand().await.unwrap());
        }
        let begun = tokio::time::Instant::now();
        assert_eq!(site.hand().await.err(), Some(Failure::BudgetSpent { retry_after_s: 1 }));
        assert!(begun.elapsed() >= site.upstream.settings().timeouts.budget_wait);
        hands.pop();
        assert!(site.hand().await.is_ok());
    }

    #[test]
    fn a_no_is_remembered_for_its_repository_alone_and_can_be_taken_back() {
        let site = site(Policy::default()).unwrap();
        let wanted = Wanted::Manifest(Reference::parse("v1").unwrap());
        site.note_absence(&place(1), wanted, Absent::Denied);
        assert_eq!(site.absence(&place(1), wanted), Some(Absent::Denied));
        assert_eq!(site.absence(&place(2), wanted), None);
        site.forget_absence(&place(1), wanted);
        assert_eq!(site.absence(&place(1), wanted), None);
    }
}
