//! The referrers of an upstream's manifests (end-12).
//!
//! Invariants: an upstream without the API is asked for the fallback tag, and the answer is 200 in any case. One that
//! is away is an outage, and one that lets nobody see its list is unknown: an empty list would say that something is not
//! signed. What a client makes up as `last` says nothing of the list.
//!
//! Spec: distribution-spec "Listing Referrers", "Referrers Tag Schema".

use std::sync::Arc;

use bytes::Bytes;
use control::{Came, Reply};
use oci::{Digest, MediaType, Page, Problem, Reference, Referrers, Tag};

use super::index::{self, Entries};
use super::listings::{NO_PAGE, Seen, last_here, warn};
use super::site::{Absent, Listing, Wanted};
use super::{Mirror, Place};
use crate::metadata::Metadata;
use crate::turn::Turn;
use crate::upstream::{self, Accept};
use crate::{limits, lists};

/// What was found.
#[derive(Default)]
struct Found {
    entries: Entries,
    /// What a client says to get the next page.
    next: Option<String>,
    is_old: bool,
}

/// What an upstream that can be asked has of a list, or of a page.
enum Has<T> {
    It(T),
    /// Nothing, or what is no such list.
    Nothing(Absent),
}

/// What was not signed then may be signed now.
const OLD_AND_EMPTY: Problem = Problem::UpstreamUnreachable { retry_after_s: limits::UPSTREAM_RETRY_AFTER_S };

impl<M: Metadata> Mirror<M> {
    /// end-12, also when nothing of that name is there. `None`: it may not be asked for there, as for a blob.
    ///
    /// Errors: an outage (502, 503, 504); `NameUnknown` (404) where the upstream lets nobody in.
    pub(crate) async fn referrers(
        self: &Arc<Self>,
        place: &Place,
        asked: &Referrers,
        target: &str,
        turn: &mut Turn,
    ) -> Result<Option<Reply>, Problem> {
        if !self.is_open(self.site(place)?, place).await? {
            return Ok(None);
        }
        let found = match self.by_api(place, asked, turn).await? {
            Has::It(found) => found,
            Has::Nothing(absent) => match (self.by_tag(place, asked, turn).await?, absent) {
                (Some(found), _) => found,
                (None, Absent::Unknown) => Found::default(),
                (None, Absent::Denied) => return Err(Problem::NameUnknown(place.repository)),
            },
        };
        let body = lists::referrers_body(&found.entries.text);
        let mut reply = lists::referrers_reply(body, asked, found.next.as_deref(), target);
        if found.is_old {
            warn(&mut reply);
        }
        Ok(Some(reply))
    }

    /// As many pages as fit in one of ours: many clients read the first and no other.
    async fn by_api(
        self: &Arc<Self>,
        place: &Place,
        asked: &Referrers,
        turn: &mut Turn,
    ) -> Result<Has<Found>, Problem> {
        let site = self.site(place)?;
        let is_first = asked.page.last.is_none();
        let wanted = Wanted::Referrers(asked.subject);
        if let Some(absent) = site.absence(place, wanted).filter(|_| is_first) {
            return Ok(Has::Nothing(absent));
        }
        let mut found = Found::default();
        let (mut page, mut bytes) = (asked.page.clone(), 0);
        for number in 0..limits::REFERRERS_PAGES {
            let (listing, entries, is_old) = match self.referrers_page(place, asked, &page, turn).await? {
                Has::It(page) => page,
                // It said itself that there is more.
                Has::Nothing(_) if number > 0 => {
                    return Err(Problem::UpstreamMisbehaved {
                        why: "the upstream's list of referrers breaks off",
                    });
                }
                Has::Nothing(absent) if is_first => {
                    site.note_absence(place, wanted, absent);
                    return Ok(Has::Nothing(absent));
                }
                Has::Nothing(_) => return Err(NO_PAGE),
            };
            bytes += listing.body.len();
            if number > 0 && bytes > limits::REFERRERS_BYTES {
                break;
            }
            found.entries.extend(&entries);
            found.is_old |= is_old;
            found.next = listing.next.as_deref().map(last_here);
            if found.next.is_none() {
                break;
            }
            page.last.clone_from(&found.next);
        }
        if found.is_old && found.entries.number == 0 {
            return Err(OLD_AND_EMPTY);
        }
        Ok(Has::It(found))
    }

    /// One page of the upstream's, its descriptors, and whether it is of another time.
    async fn referrers_page(
        self: &Arc<Self>,
        place: &Place,
        asked: &Referrers,
        page: &Page,
        turn: &mut Turn,
    ) -> Result<Has<(Listing, Entries, bool)>, Problem> {
        // Types are looked at here: not every upstream filters, and so one page serves all who ask.
        let seen = self.listing(place, upstream::Listing::Referrers(asked.subject), page, turn).await?;
        let (listing, is_old) = match seen {
            Seen::Page(listing) => (listing, false),
            Seen::Old(listing) => (listing, true),
            Seen::Absent => return Ok(Has::Nothing(Absent::Unknown)),
            Seen::Denied => return Ok(Has::Nothing(Absent::Denied)),
            Seen::Away(problem) => return Err(problem),
        };
        let is_index = listing.media_type.as_ref().is_none_or(|one| *one == MediaType::OCI_INDEX);
        let entries = match is_index {
            true => self.entries_of(&listing.body, asked).await?,
            false => None,
        };
        Ok(match entries {
            Some(entries) => Has::It((listing, entries, is_old)),
            None => Has::Nothing(Absent::Unknown),
        })
    }

    /// From the index that clients keep under a tag where there is no API. `None`: there is no such tag.
    async fn by_tag(
        self: &Arc<Self>,
        place: &Place,
        asked: &Referrers,
        turn: &mut Turn,
    ) -> Result<Option<Found>, Problem> {
        let Ok(tag) = fallback_tag(&asked.subject) else { return Ok(None) };
        let Some(document) = self.manifest(place, Reference::Tag(tag), &Accept::default(), turn).await?
        else {
            return Ok(None);
        };
        let entries = match document.media_type == MediaType::OCI_INDEX {
            true => self.entries_of(&document.bytes, asked).await?.unwrap_or_default(),
            false => Entries::default(),
        };
        let is_old = document.came == Came::Stale;
        if is_old && entries.number == 0 {
            return Err(OLD_AND_EMPTY);
        }
        Ok(Some(Found { entries, next: None, is_old }))
    }

    /// The descriptors of an index that are of the type that is asked for. `None`: it is no index.
    async fn entries_of(&self, index: &Bytes, asked: &Referrers) -> Result<Option<Entries>, Problem> {
        let (index, wanted) = (index.clone(), asked.artifact_type.clone());
        self.parse(move || index::read(&index, wanted.as_deref())).await
    }
}

/// `<algorithm>-<hex>`, both cut as the spec wants it.
fn fallback_tag(subject: &Digest) -> Result<Tag, oci::TagError> {
    let (mut hex, name) = ([0; 128], subject.algorithm().name());
    let hex = subject.hex(&mut hex);
    Tag::parse(&format!("{}-{}", &name[..name.len().min(32)], &hex[..hex.len().min(64)]))
}

#[cfg(test)]
mod tests {
    use oci::Algorithm;

    use super::*;

    #[test]
    fn the_fallback_tag_is_the_digest_cut_to_what_a_tag_may_be() {
        let sha256 = Digest::of(Algorithm::Sha256, b"");
        assert_eq!(fallback_tag(&sha256).unwrap().as_str(), sha256.to_string().replace(':', "-"));
        let sha512 = Digest::of(Algorithm::Sha512, b"");
        assert_eq!(fallback_tag(&sha512).unwrap().as_str().len(), "sha512-".len() + 64);
    }
}
