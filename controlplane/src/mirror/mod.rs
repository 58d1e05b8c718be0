//! The mirror: which names are an upstream's, and what is answered about them.
//!
//! Owns: what is remembered of upstreams' answers, and the policy by which it may be used again. What is kept for long
//! is in the metadata ([`crate::metadata::Mirrored`]).
//!
//! Invariants: a name has one source. `Ok(None)` is an upstream's own *no*, or ours without asking; an upstream that
//! can't be asked is an error, never a *no*. Many who want to know the same cost one question. No body of a blob is
//! fetched to decide anything.

mod behind;
mod clock;
mod counts;
mod flights;
mod gather;
mod glob;
mod images;
mod index;
mod inventory;
mod links;
mod listings;
mod manifests;
mod names;
mod pins;
mod prefetch;
mod purge;
mod referrers;
mod remembered;
mod site;
mod tags;
mod tally;
mod verify;
mod warms;

use std::fmt;
use std::sync::Arc;

use control::{Cache, Description, Document, Link};
use oci::{Digest, Namespaces, Problem, Reference, RepositoryName};
use tokio::sync::{Mutex, Semaphore, watch};

use crate::limits;
use crate::metadata::{Metadata, Source};
use crate::upstream::{Failure, SettingsError, Upstream, UpstreamSettings};
use behind::Behind;
use clock::Clock;
pub(crate) use counts::MirrorMetrics;
use flights::Flights;
pub use glob::{Glob, GlobError};
pub(crate) use names::{Names, Place};
pub(crate) use pins::Pin;
pub use pins::Pins;
use prefetch::Prefetches;
pub(crate) use purge::Gone;
use site::Site;
use warms::Warms;
pub(crate) use warms::{Stage, Warm};

/// Of which registries this one is a mirror. The default is of none.
#[derive(Clone, Debug, Default)]
pub struct MirrorSettings {
    /// The upstreams; their order is that of [`control::Origin::upstream`].
    pub upstreams: Vec<UpstreamSettings>,
    /// The same upstreams by name; also whether one adds `library/`.
    pub namespaces: Arc<Namespaces>,
    /// Names that are never asked of the root mirror.
    pub local_only: Vec<Glob>,
    /// Repositories whose blobs stay, by their names here.
    pub pinned: Vec<Glob>,
    /// The most bytes of kept manifests, edges and tags included; `None`: [`limits::MIRRORED_BYTES`].
    pub manifests_bytes_max: Option<u64>,
}

/// Why there can't be such a mirror.
#[derive(Debug)]
pub enum MirrorError {
    /// One upstream's settings are wrong.
    Upstream {
        /// Its `ns`.
        ns: String,
        /// What is wrong.
        error: SettingsError,
    },
    /// Two want to be asked for names without a prefix.
    TwoRoots {
        /// The `ns` of both.
        ns: [String; 2],
    },
    /// [`MirrorSettings::namespaces`] does not know one.
    NoNamespace {
        /// Its `ns`.
        ns: String,
    },
    /// More than there are numbers for.
    TooMany,
}

impl fmt::Display for MirrorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MirrorError::Upstream { ns, error } => write!(f, "upstream `{ns}`: {error}"),
            MirrorError::TwoRoots { ns: [one, other] } => {
                write!(f, "`{one}` and `{other}` both have `mirror = \"root\"`: only one can")
            }
            MirrorError::NoNamespace { ns } => write!(f, "upstream `{ns}` is not among the namespaces"),
            MirrorError::TooMany => write!(f, "there are more than {} upstreams", u16::MAX),
        }
    }
}

impl std::error::Error for MirrorError {}

/// All upstreams, and nothing yet to answer from.
pub(crate) struct Sites {
    names: Arc<Names>,
    sites: Vec<Site>,
    pinned: Vec<Glob>,
    manifests_bytes_max: u64,
}

impl Sites {
    pub(crate) fn new(settings: MirrorSettings) -> Result<Sites, MirrorError> {
        let MirrorSettings { upstreams, namespaces, local_only, pinned, manifests_bytes_max } = settings;
        if upstreams.len() > usize::from(u16::MAX) {
            return Err(MirrorError::TooMany);
        }
        if let Some(one) = upstreams.iter().find(|one| namespaces.of_prefix(&one.prefix).is_none()) {
            return Err(MirrorError::NoNamespace { ns: one.ns.clone() });
        }
        let mut roots = upstreams.iter().enumerate().filter(|(_, upstream)| upstream.is_root);
        let root = roots.next();
        if let (Some((_, one)), Some((_, other))) = (root, roots.next()) {
            return Err(MirrorError::TwoRoots { ns: [one.ns.clone(), other.ns.clone()] });
        }
        let root = root.map(|(number, _)| number);
        let prefixes = upstreams.iter().map(|upstream| upstream.prefix.as_str().into()).collect();
        let names = Arc::new(Names::new(namespaces, prefixes, root, local_only));
        let sites = upstreams.into_iter().map(|settings| {
            let ns = settings.ns.clone();
            let site = Upstream::new(settings).and_then(Site::new);
            site.map_err(|error| MirrorError::Upstream { ns, error })
        });
        let sites = sites.collect::<Result<Vec<Site>, MirrorError>>()?;
        let manifests_bytes_max = manifests_bytes_max.unwrap_or(limits::MIRRORED_BYTES);
        Ok(Sites { names, sites, pinned, manifests_bytes_max })
    }

    /// The pins: those of the configuration, and these, which were added.
    pub(crate) fn pins(&mut self, added: &[String]) -> Arc<Pins> {
        let prefixes = self.names.prefixes().map(Into::into).collect();
        Arc::new(Pins::new(std::mem::take(&mut self.pinned), added, prefixes))
    }

    pub(crate) fn names(&self) -> Arc<Names> {
        Arc::clone(&self.names)
    }

    /// What each prefix means.
    pub(crate) fn sources(&self) -> Vec<Source> {
        let of = |site: &Site| {
            let UpstreamSettings { prefix, ns, url, .. } = site.upstream.settings();
            Source { prefix: prefix.clone(), ns: ns.clone(), url: url.trim_end_matches('/').to_owned() }
        };
        self.sites.iter().map(of).collect()
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.sites.is_empty()
    }

    /// What each of them counts.
    pub(crate) fn metrics(&self) -> MirrorMetrics {
        let one = |site: &Site| (site.upstream.clone(), Arc::clone(&site.counts));
        MirrorMetrics::new(self.sites.iter().map(one).collect())
    }
}

/// Answers what belongs to upstreams.
pub(crate) struct Mirror<M> {
    metadata: Arc<M>,
    names: Arc<Names>,
    sites: Vec<Site>,
    manifests_bytes_max: u64,
    clock: Clock,
    parses: Arc<Semaphore>,
    manifests: Flights<(RepositoryName, Reference), Result<Option<Document>, Problem>>,
    descriptions: Flights<(RepositoryName, Reference), Result<Option<Description>, Problem>>,
    links: Flights<(RepositoryName, Digest), Result<Option<Link>, Problem>>,
    lists: Flights<(RepositoryName, String), Result<Option<site::Listing>, Failure>>,
    behind: Behind,
    cache: Cache,
    pins: Arc<Pins>,
    /// Pins change one after the other, with the blobs that follow them.
    pinning: Mutex<()>,
    warms: Warms,
    prefetches: Prefetches,
    closed: watch::Sender<bool>,
}

impl<M: Metadata> Mirror<M> {
    /// `opened_at` is where the clock goes on from, in milliseconds.
    pub(crate) fn new(
        sites: Sites,
        metadata: Arc<M>,
        parses: Arc<Semaphore>,
        opened_at: i64,
        (cache, pins): (Cache, Arc<Pins>),
    ) -> Mirror<M> {
        let Sites { names, sites, pinned: _, manifests_bytes_max } = sites;
        Mirror {
            metadata,
            names,
            sites,
            manifests_bytes_max,
            clock: Clock::starting_at(opened_at),
            parses,
            manifests: Flights::default(),
            descriptions: Flights::default(),
            links: Flights::default(),
            lists: Flights::default(),
            behind: Behind::default(),
            cache,
            pins,
            pinning: Mutex::default(),
            warms: Warms::default(),
            prefetches: Prefetches::default(),
            closed: watch::Sender::new(false),
        }
    }

    /// Where the name's content is pulled from. `None`: it was pushed here, or is to be. What was never written here and
    /// has no prefix is the root mirror's, if there is one.
    ///
    /// Errors: `NameUnknown` (404) for an upstream's repository that an operator does not want.
    pub(crate) async fn source(&self, name: &RepositoryName) -> Result<Option<Place>, Problem> {
        match self.place(name) {
            Some(place) if !place.is_bare || !self.metadata.is_local(*name).await? => {
                self.allowed(&place, name)?;
                Ok(Some(place))
            }
            Some(_) | None => Ok(None),
        }
    }

    /// What the name means unless it is local, which only one without a prefix can be. `None`: it is local.
    pub(crate) fn place(&self, name: &RepositoryName) -> Option<Place> {
        self.names.by_prefix(name).or_else(|| self.names.by_root(name))
    }

    fn allowed(&self, place: &Place, name: &RepositoryName) -> Result<(), Problem> {
        if self.site(place)?.rules.allows(&place.there) { Ok(()) } else { Err(Problem::NameUnknown(*name)) }
    }

    /// Whether the name is an upstream's by its prefix.
    pub(crate) fn is_upstreams(&self, name: &RepositoryName) -> bool {
        self.names.is_upstreams(name)
    }

    /// An upload is opened for a name: it is local from now on, and durably so if it might have been the root
    /// mirror's.
    ///
    /// Errors: `PullOnly` (405) for an upstream's name.
    pub(crate) async fn claim(&self, name: &RepositoryName) -> Result<(), Problem> {
        if self.names.is_upstreams(name) {
            return Err(Problem::PullOnly);
        }
        if self.names.by_root(name).is_none() || self.metadata.is_local(*name).await? {
            return Ok(());
        }
        self.metadata.claim(*name).await
    }

    /// Whether a blob may be asked for: of a name without a prefix only after a manifest was had, so that the look
    /// before a push tells nobody its name.
    async fn is_open(&self, site: &Site, place: &Place) -> Result<bool, Problem> {
        Ok(!place.is_bare || site.is_open(place) || self.metadata.is_mirrored(place.repository).await?)
    }

    fn site(&self, place: &Place) -> Result<&Site, Problem> {
        self.sites.get(usize::from(place.upstream)).ok_or(Problem::Internal)
    }

    /// Reads a document of up to 4 MiB, where nobody waits behind it, and few at once.
    async fn parse<T: Send + 'static>(
        &self,
        read: impl FnOnce() -> Result<T, Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let permit = Arc::clone(&self.parses).acquire_owned().await.map_err(|_closed| Problem::Internal)?;
        let read = tokio::task::spawn_blocking(move || {
            let read = read();
            drop(permit);
            read
        });
        read.await.unwrap_or(Err(Problem::Internal))
    }

    /// The answer of `ask`, unless the control plane ends before it is there.
    pub(crate) async fn within<T>(
        &self,
        ask: impl Future<Output = Result<T, Problem>>,
    ) -> Result<T, Problem> {
        let mut closed = self.closed.subscribe();
        tokio::select! {
            answer = ask => answer,
            // An error would say that the mirror is gone, which is borrowed here.
            _closed = closed.wait_for(|closed| *closed) => Err(Problem::Overloaded { retry_after_s: 1 }),
        }
    }

    /// Ends what nobody waits for, and answers who waits for an upstream.
    pub(crate) async fn close(&self) {
        self.closed.send_replace(true);
        self.warms.close().await;
        self.prefetches.close().await;
        for site in &self.sites {
            site.behind.close().await;
        }
        self.behind.close().await;
    }
}
