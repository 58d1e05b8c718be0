//! Manifests of upstreams (end-3): by digest for good, by tag as long as an operator wants.
//!
//! Invariants: what is answered was verified. A tag is compared by one HEAD, which costs no pull; it is never answered
//! from here after the upstream's own *no*.

use std::sync::Arc;
use std::time::Duration;

use control::{Came, Description, Document, Outline};
use oci::{Digest, MediaType, Problem, Reference, Tag};

use super::counts::{Answered, Looked};
use super::site::{Absent, Hand, Site, Use, Wanted};
use super::verify::{Received, verify};
use super::{Mirror, Place};
use crate::limits;
use crate::metadata::{Keep, Kept, KeptTag, Metadata, NewMirrored};
use crate::turn::Turn;
use crate::upstream::{Accept, Described, Failure, GotManifest, Offline, SeenManifest};

/// What a look at a tag found.
enum Compared {
    Same,
    /// It names this now, which is not here.
    Other(Digest),
    /// It came along.
    Whole(Received, Hand),
    Gone,
}

impl<M: Metadata> Mirror<M> {
    /// The manifest that `reference` names. `None`: the upstream has none. Of those who want it at the same time one asks,
    /// for what that one takes: what is kept does not depend on it, since what we take ourselves comes first.
    ///
    /// Errors: `NameUnknown` (404) where it lets nobody in; an outage (502, 503, 504).
    pub(crate) async fn manifest(
        self: &Arc<Self>,
        place: &Place,
        reference: Reference,
        accept: &Accept,
        turn: &mut Turn,
    ) -> Result<Option<Document>, Problem> {
        if let Some(document) = self.at_hand(place, reference, accept).await? {
            return Ok(Some(document));
        }
        let site = self.site(place)?;
        if let Some(absent) = site.absence(place, Wanted::Manifest(reference)) {
            return absent.answer(place);
        }
        turn.wait_among(&site.waits)?;
        self.manifests
            .join((place.repository, reference), Box::pin(self.ask(site, place, reference, accept)))
            .await
    }

    /// As [`Mirror::manifest`], for who wants the head alone: of what is not here one HEAD is asked.
    pub(crate) async fn describe(
        self: &Arc<Self>,
        place: &Place,
        reference: Reference,
        accept: &Accept,
        turn: &mut Turn,
    ) -> Result<Option<Description>, Problem> {
        if let Some(document) = self.at_hand(place, reference, accept).await? {
            return Ok(Some(Description::Whole(document)));
        }
        let site = self.site(place)?;
        if let Some(absent) = site.absence(place, Wanted::Manifest(reference)) {
            return absent.answer(place);
        }
        if let Some(outline) = site.outline(place, &reference) {
            return Ok(Some(Description::Outline(outline)));
        }
        turn.wait_among(&site.waits)?;
        let key = (place.repository, reference);
        self.descriptions.join(key, Box::pin(self.ask_outline(site, place, reference, accept))).await
    }

    /// What can be answered without waiting for anybody.
    async fn at_hand(
        self: &Arc<Self>,
        place: &Place,
        reference: Reference,
        accept: &Accept,
    ) -> Result<Option<Document>, Problem> {
        let site = self.site(place)?;
        match reference {
            Reference::Digest(digest) => self.kept(site, place, digest).await,
            Reference::Tag(tag) => {
                let Some(known) = self.metadata.mirrored_tag(place.repository, tag).await? else {
                    return Ok(None);
                };
                let document = match site.rules.usable(&tag, self.clock.since(known.checked_at)) {
                    Use::Fresh(fresh) => self.given(site, place, known.manifest, Came::Hit, fresh),
                    _ if site.rules.offline == Offline::Always => {
                        self.given(site, place, known.manifest, Came::Stale, Some(Duration::ZERO))
                    }
                    Use::WhileAsking if site.absence(place, Wanted::Manifest(reference)).is_none() => {
                        self.ask_behind(site, *place, tag, accept.clone());
                        self.given(site, place, known.manifest, Came::Hit, Some(Duration::ZERO))
                    }
                    Use::WhileAsking | Use::IfDown | Use::No => return Ok(None),
                };
                Ok(Some(document))
            }
        }
    }

    async fn kept(
        self: &Arc<Self>,
        site: &Site,
        place: &Place,
        digest: Digest,
    ) -> Result<Option<Document>, Problem> {
        let kept = self.metadata.mirrored_manifest(place.repository, digest).await?;
        Ok(kept.map(|kept| self.given(site, place, kept, Came::Hit, None)))
    }

    /// A document that was here.
    fn given(
        self: &Arc<Self>,
        site: &Site,
        place: &Place,
        kept: Kept,
        came: Came,
        fresh: Option<Duration>,
    ) -> Document {
        site.counts.manifest(if came == Came::Stale { Answered::Stale } else { Answered::Kept });
        if self.clock.since(kept.used_at) > limits::USE_NOTED_EVERY {
            let (mirror, at) = (Arc::clone(self), self.clock.now());
            let used = Keep::Used { repository: place.repository, digest: kept.document.digest, at };
            self.behind.start(async move {
                // It would only have been dropped earlier.
                let _noted = mirror.metadata.keep(Box::new(used)).await;
            });
        }
        Document { came, fresh: Some(until_asked_again(fresh)), ..kept.document }
    }

    /// Compares a tag while its old answer is given, unless somebody does already.
    fn ask_behind(self: &Arc<Self>, site: &Site, place: Place, tag: Tag, accept: Accept) {
        let reference = Reference::Tag(tag);
        let Some(flight) = self.manifests.begin((place.repository, reference)) else { return };
        let mirror = Arc::clone(self);
        site.behind.start(async move {
            let Ok(site) = mirror.site(&place) else { return };
            // Whoever is told of a failure is the next to wait for an answer.
            let _compared = flight.fly(Box::pin(mirror.ask(site, &place, reference, &accept))).await;
        });
    }

    /// One flight: looks again at what is here, since the one before may have brought it, and asks.
    async fn ask(
        self: &Arc<Self>,
        site: &Site,
        place: &Place,
        reference: Reference,
        accept: &Accept,
    ) -> Result<Option<Document>, Problem> {
        let known = match reference {
            Reference::Digest(digest) => {
                if let Some(document) = self.kept(site, place, digest).await? {
                    return Ok(Some(document));
                }
                None
            }
            Reference::Tag(tag) => {
                self.metadata.mirrored_tag(place.repository, tag).await?.map(|known| (tag, known))
            }
        };
        if let Some(absent) = site.absence(place, Wanted::Manifest(reference)) {
            return absent.answer(place);
        }
        site.may_be_asked()?;
        match known {
            None => match self.get(site, place, reference, accept).await {
                Ok(Some((received, hand))) => {
                    self.take(site, place, reference, None, received, hand).await.map(Some)
                }
                Ok(None) => self.gone(site, place, reference, Absent::Unknown).await,
                Err(Failure::Denied) => self.gone(site, place, reference, Absent::Denied).await,
                Err(failure) => Err(site.failed(place, &failure)),
            },
            Some((tag, known)) => {
                let age = self.clock.since(known.checked_at);
                if let Use::Fresh(fresh) = site.rules.usable(&tag, age) {
                    return Ok(Some(self.given(site, place, known.manifest, Came::Hit, fresh)));
                }
                self.look_again(site, place, (tag, known), age, accept).await
            }
        }
    }

    /// Compares a known tag with what the upstream has.
    async fn look_again(
        self: &Arc<Self>,
        site: &Site,
        place: &Place,
        (tag, known): (Tag, KeptTag),
        age: Duration,
        accept: &Accept,
    ) -> Result<Option<Document>, Problem> {
        let reference = Reference::Tag(tag);
        let digest = known.manifest.document.digest;
        let outcome = match self.compare(site, place, tag, &digest, accept).await {
            Ok(Compared::Other(other)) => self.moved(site, place, tag, other, accept).await,
            Ok(Compared::Same) => {
                site.counts.looked(Looked::Same);
                let (repository, at) = (place.repository, self.clock.now());
                let same = Keep::Tag { repository, tag, digest, at };
                // Who can't write it down asks again the next time.
                let _noted = self.metadata.keep(Box::new(same)).await;
                let fresh = Some(site.rules.tag_ttl);
                return Ok(Some(self.given(site, place, known.manifest, Came::Hit, fresh)));
            }
            Ok(Compared::Whole(received, hand)) => {
                let taken = self.take(site, place, reference, Some(tag), received, hand).await;
                site.counts.looked(match &taken {
                    // It was asked whether it has changed, and sent what it had before.
                    Ok(document) if document.digest == digest => Looked::Same,
                    Ok(_) => Looked::Moved,
                    Err(_) => Looked::Failed,
                });
                return taken.map(Some);
            }
            Ok(Compared::Gone) => {
                site.counts.looked(Looked::Gone);
                return self.gone(site, place, reference, Absent::Unknown).await;
            }
            Err(failure) => Err(failure),
        };
        match outcome {
            Ok(answer) => answer.map(Some),
            Err(Failure::Denied) => {
                site.counts.looked(Looked::Gone);
                self.gone(site, place, reference, Absent::Denied).await
            }
            Err(failure) => {
                site.counts.looked(Looked::Failed);
                let may_be_old = match site.rules.usable(&tag, age) {
                    Use::Fresh(_) | Use::WhileAsking | Use::IfDown => true,
                    Use::No => false,
                };
                if !(may_be_old && failure.is_outage()) {
                    return Err(site.failed(place, &failure));
                }
                tracing::debug!(repository = %place.repository, %tag, %failure, "answered with the old manifest");
                Ok(Some(self.given(site, place, known.manifest, Came::Stale, Some(Duration::ZERO))))
            }
        }
    }

    /// One HEAD; where it is refused or does not tell the digest, a GET that has a body only if the tag has moved.
    async fn compare(
        &self,
        site: &Site,
        place: &Place,
        tag: Tag,
        digest: &Digest,
        accept: &Accept,
    ) -> Result<Compared, Failure> {
        let reference = Reference::Tag(tag);
        match site.upstream.describe_manifest(&place.there, &reference, accept).await? {
            SeenManifest::Absent => Ok(Compared::Gone),
            SeenManifest::Described(Described { digest: Some(found), .. }) if found == *digest => {
                Ok(Compared::Same)
            }
            SeenManifest::Described(Described { digest: Some(other), .. }) => Ok(Compared::Other(other)),
            SeenManifest::Described(Described { digest: None, .. }) | SeenManifest::HeadRefused => {
                let hand = site.hand().await?;
                let got = site.upstream.manifest(&place.there, &reference, accept, Some(digest)).await?;
                Ok(match got {
                    GotManifest::Absent => Compared::Gone,
                    GotManifest::Unchanged => Compared::Same,
                    GotManifest::Manifest { bytes, media_type, digest_header } => {
                        Compared::Whole(Received { bytes, media_type, digest_header }, hand)
                    }
                })
            }
        }
    }

    /// A tag names another manifest now. The outer error is one of asking, after which the old one may be given.
    async fn moved(
        self: &Arc<Self>,
        site: &Site,
        place: &Place,
        tag: Tag,
        digest: Digest,
        accept: &Accept,
    ) -> Result<Result<Document, Problem>, Failure> {
        site.counts.looked(Looked::Moved);
        let (repository, at) = (place.repository, self.clock.now());
        if let Ok(true) = self.metadata.keep(Box::new(Keep::Tag { repository, tag, digest, at })).await
            && let Ok(Some(document)) = self.kept(site, place, digest).await
        {
            let fresh = Some(until_asked_again(Some(site.rules.tag_ttl)));
            return Ok(Ok(Document { fresh, ..document }));
        }
        let reference = Reference::Digest(digest);
        match self.get(site, place, reference, accept).await? {
            Some((received, hand)) => Ok(self.take(site, place, reference, Some(tag), received, hand).await),
            None => {
                Err(Failure::Misbehaved { why: "the upstream's tag names a manifest that it does not have" })
            }
        }
    }

    /// `None`: 404.
    async fn get(
        &self,
        site: &Site,
        place: &Place,
        reference: Reference,
        accept: &Accept,
    ) -> Result<Option<(Received, Hand)>, Failure> {
        let hand = site.hand().await?;
        match site.upstream.manifest(&place.there, &reference, accept, None).await? {
            GotManifest::Absent => Ok(None),
            GotManifest::Unchanged => {
                Err(Failure::Misbehaved { why: "the upstream compared with what nobody named" })
            }
            GotManifest::Manifest { bytes, media_type, digest_header } => {
                Ok(Some((Received { bytes, media_type, digest_header }, hand)))
            }
        }
    }

    /// Verifies and keeps what came. What can't be kept is answered all the same, once.
    async fn take(
        self: &Arc<Self>,
        site: &Site,
        place: &Place,
        asked: Reference,
        tag: Option<Tag>,
        received: Received,
        _until_it_is_kept: Hand,
    ) -> Result<Document, Problem> {
        let verified = self.parse(move || verify(&asked, received)).await.inspect_err(|problem| {
            tracing::warn!(repository = %place.repository, reference = %asked, message = problem.message(), "refused");
        })?;
        let tag = match asked {
            Reference::Tag(tag) => Some(tag),
            Reference::Digest(_) => tag,
        };
        let (digest, media_type) = (verified.digest, verified.media_type);
        let named: Vec<Digest> = verified.edges.iter().map(|edge| edge.target).collect();
        let pinned = match self.pins.match_name(place.repository.as_str()) {
            true => verified.edges.iter().map(|edge| edge.target).collect(),
            false => Vec::new(),
        };
        let keep = Keep::Manifest(NewMirrored {
            repository: place.repository,
            digest,
            media_type: media_type.as_str().to_owned(),
            bytes: verified.bytes.clone(),
            tag,
            edges: verified.edges,
            at: self.clock.now(),
            bytes_max: self.manifests_bytes_max,
        });
        let kept = self.metadata.keep(Box::new(keep)).await;
        if let Err(problem) = &kept {
            let message = problem.message();
            tracing::warn!(repository = %place.repository, %digest, message, "a manifest could not be kept");
        }
        self.follow_pins_of(place, pinned);
        site.open(place);
        site.forget_outline(place, asked);
        for reference in [Some(Reference::Digest(digest)), tag.map(Reference::Tag)].into_iter().flatten() {
            site.forget_absence(place, Wanted::Manifest(reference));
        }
        // They have been pushed there, before the manifest that names them.
        for target in named {
            site.forget_absence(place, Wanted::Blob(target));
            site.forget_absence(place, Wanted::Manifest(Reference::Digest(target)));
        }
        site.counts.manifest(Answered::Upstream);
        let fresh = tag.map(|_| if kept.is_ok() { site.rules.tag_ttl } else { Duration::ZERO });
        let fresh = Some(until_asked_again(fresh));
        Ok(Document { digest, media_type, bytes: verified.bytes, came: Came::Fill, fresh })
    }

    /// The upstream's own *no*.
    async fn gone<T>(
        &self,
        site: &Site,
        place: &Place,
        reference: Reference,
        absent: Absent,
    ) -> Result<Option<T>, Problem> {
        site.note_absence(place, Wanted::Manifest(reference), absent);
        site.forget_outline(place, reference);
        if let Reference::Tag(tag) = reference {
            let no_tag = Keep::NoTag { repository: place.repository, tag };
            // If it stays, it is only looked at again after a while, as what is old.
            let _gone = self.metadata.keep(Box::new(no_tag)).await;
        }
        absent.answer(place)
    }

    /// One flight of [`Mirror::describe`]. What the HEAD does not tell is found out by a GET, and what that brings is kept:
    /// who asks for the head comes for the rest.
    async fn ask_outline(
        self: &Arc<Self>,
        site: &Site,
        place: &Place,
        reference: Reference,
        accept: &Accept,
    ) -> Result<Option<Description>, Problem> {
        let is_known = match reference {
            Reference::Tag(tag) => self.metadata.mirrored_tag(place.repository, tag).await?.is_some(),
            Reference::Digest(_) => false,
        };
        if !is_known {
            site.may_be_asked()?;
            match site.upstream.describe_manifest(&place.there, &reference, accept).await {
                Ok(SeenManifest::Described(described)) => {
                    if let Some(outline) = outline(reference, described) {
                        site.open(place);
                        site.note_outline(place, reference, outline.clone());
                        return Ok(Some(Description::Outline(outline)));
                    }
                }
                Ok(SeenManifest::HeadRefused) => {}
                Ok(SeenManifest::Absent) => return self.gone(site, place, reference, Absent::Unknown).await,
                Err(Failure::Denied) => return self.gone(site, place, reference, Absent::Denied).await,
                Err(failure) => return Err(site.failed(place, &failure)),
            }
        }
        let key = (place.repository, reference);
        let whole = self.manifests.join(key, Box::pin(self.ask(site, place, reference, accept))).await?;
        Ok(whole.map(Description::Whole))
    }
}

/// What a core knows it does not ask for, so even what never changes is asked for again: otherwise nobody would note that
/// it is of use, and it would make room for what is not.
fn until_asked_again(fresh: Option<Duration>) -> Duration {
    fresh.map_or(limits::USE_NOTED_EVERY, |fresh| fresh.min(limits::USE_NOTED_EVERY))
}

/// `None`: something is missing, or can't be.
fn outline(reference: Reference, described: Described) -> Option<Outline> {
    let digest = match reference {
        Reference::Digest(digest) if described.digest.is_some_and(|told| told != digest) => return None,
        Reference::Digest(digest) => digest,
        Reference::Tag(_) => described.digest?,
    };
    let size_bytes = described.size_bytes.filter(|size| *size <= limits::DOCUMENT_BYTES as u64)?;
    let is_clear = |one: &MediaType| one.is_json() && !one.is_schema1() && *one != MediaType::JSON;
    let media_type = described.media_type.filter(is_clear)?;
    Some(Outline { digest, media_type, size_bytes, came: Came::Fill })
}
