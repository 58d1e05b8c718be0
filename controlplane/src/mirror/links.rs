//! Blobs of upstreams: whether one may be served, and its bytes.
//!
//! Invariants: bytes that lie here are no permission. It takes a kept manifest of that repository which names the blob,
//! or that upstream's 200 to a HEAD for that repository; neither says anything about another repository.

use control::{Fetched, Link, Memory, Origin};
use oci::{Digest, Problem, RepositoryName};

use super::counts::Permitted;
use super::site::{Absent, Site, Wanted};
use super::{Mirror, Place};
use crate::metadata::{Metadata, Standing};
use crate::turn::Turn;
use crate::upstream::Failure;

impl<M: Metadata> Mirror<M> {
    /// The permission to serve a blob through `place`, which is what its name means unless it is local. `None`: there is
    /// none. What was pushed by that name is looked for first, in the same read.
    ///
    /// Errors: `NameUnknown` (404) where the upstream lets nobody in, or an operator does not want it; an outage (502, 503,
    /// 504).
    pub(crate) async fn link(
        &self,
        name: RepositoryName,
        place: &Place,
        digest: Digest,
        turn: &mut Turn,
    ) -> Result<Option<Link>, Problem> {
        let site = self.site(place)?;
        let bare = place.is_bare.then_some(name);
        let standing = self.metadata.standing(bare, place.repository, digest).await?;
        match standing {
            Standing::Pushed(link) => return Ok(Some(link)),
            Standing::Local => return Ok(None),
            Standing::Unopened | Standing::Unnamed | Standing::Named(_) => self.allowed(place, &name)?,
        }
        if let Standing::Named(size_bytes) = standing {
            site.counts.link(Permitted::ByManifest);
            return Ok(Some(link(place, size_bytes)));
        }
        if standing == Standing::Unopened && place.is_bare && !site.is_open(place) {
            site.counts.link(Permitted::No);
            return Ok(None);
        }
        if let Some(size_bytes) = site.granted(place, &digest) {
            site.counts.link(Permitted::Remembered);
            return Ok(Some(link(place, size_bytes)));
        }
        if let Some(absent) = site.absence(place, Wanted::Blob(digest)) {
            site.counts.link(Permitted::No);
            return absent.answer(place);
        }
        turn.wait_among(&site.waits)?;
        let asked = self.links.join((place.repository, digest), Box::pin(self.ask_link(site, place, digest)));
        self.within(Box::pin(asked)).await
    }

    async fn ask_link(&self, site: &Site, place: &Place, digest: Digest) -> Result<Option<Link>, Problem> {
        if let Some(size_bytes) = site.granted(place, &digest) {
            return Ok(Some(link(place, size_bytes)));
        }
        site.may_be_asked()?;
        match site.upstream.describe_blob(&place.there, &digest).await {
            Ok(Some(size_bytes)) => {
                site.counts.link(Permitted::Asked);
                site.grant(place, digest, size_bytes);
                Ok(Some(link(place, size_bytes)))
            }
            Ok(None) => self.no_blob(site, place, digest, Absent::Unknown),
            Err(Failure::Denied) => self.no_blob(site, place, digest, Absent::Denied),
            Err(failure) => Err(site.failed(place, &failure)),
        }
    }

    /// The same permission with the length that the upstream tells, if it tells any, where the kept manifests tell none. It is
    /// asked once for all who want to know, and no body is fetched.
    ///
    /// Errors: as [`Mirror::link`].
    pub(crate) async fn measure(
        &self,
        origin: &Origin,
        digest: Digest,
        turn: &mut Turn,
    ) -> Result<Option<Link>, Problem> {
        let place = &self.place_of(origin)?;
        let site = self.site(place)?;
        if let Some(absent) = site.absence(place, Wanted::Blob(digest)) {
            return absent.answer(place);
        }
        turn.wait_among(&site.waits)?;
        self.links.join((place.repository, digest), Box::pin(self.ask_link(site, place, digest))).await
    }

    /// Where the upstream's repository is found here.
    fn place_of(&self, origin: &Origin) -> Result<Place, Problem> {
        let there = origin.repository;
        let repository = self.names.here(origin.upstream, &there).ok_or(Problem::Internal)?;
        Ok(Place { upstream: origin.upstream, repository, there, is_bare: false })
    }

    /// Bytes of a blob, from `span.0` to `span.1` (exclusive), which count in `memory`. `None`: the upstream does not have it.
    ///
    /// Errors: as [`Mirror::link`].
    pub(crate) async fn fetch(
        &self,
        origin: &Origin,
        digest: Digest,
        span: (u64, Option<u64>),
        memory: Memory,
        turn: &mut Turn,
    ) -> Result<Option<Fetched>, Problem> {
        let place = &self.place_of(origin)?;
        let site = self.site(place)?;
        if let Some(absent) = site.absence(place, Wanted::Blob(digest)) {
            return absent.answer(place);
        }
        site.may_be_asked()?;
        turn.wait_among(&site.waits)?;
        match site.upstream.blob(&place.there, &digest, span.0, span.1, memory).await {
            Ok(Some(fetched)) => Ok(Some(fetched)),
            Ok(None) => self.no_blob(site, place, digest, Absent::Unknown),
            Err(Failure::Denied) => self.no_blob(site, place, digest, Absent::Denied),
            Err(failure) => Err(site.failed(place, &failure)),
        }
    }

    fn no_blob<T>(
        &self,
        site: &Site,
        place: &Place,
        digest: Digest,
        absent: Absent,
    ) -> Result<Option<T>, Problem> {
        site.counts.link(Permitted::No);
        site.revoke(place, &digest);
        site.note_absence(place, Wanted::Blob(digest), absent);
        absent.answer(place)
    }
}

fn link(place: &Place, size_bytes: Option<u64>) -> Link {
    Link::Upstream { origin: Origin { upstream: place.upstream, repository: place.there }, size_bytes }
}
