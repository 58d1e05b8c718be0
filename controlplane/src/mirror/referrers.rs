//! The referrers of an upstream's manifests (end-12).
//!
//! Invariants: an upstream without the API is asked for the fallback tag, and the answer is 200 in any case. One that
//! is away is an outage: an empty list would say that something is not signed.
//!
//! Spec: distribution-spec "Listing Referrers", "Referrers Tag Schema".

use std::sync::Arc;

use bytes::Bytes;
use control::{Came, Reply};
use oci::{Digest, MediaType, Page, Problem, Reference, Referrers, Tag};
use serde_json::{Value, json};

use super::listings::{Seen, last_here, query_there, warn};
use super::site::{Absent, Listing, Wanted};
use super::{Mirror, Place};
use crate::metadata::Metadata;
use crate::turn::Turn;
use crate::upstream::{self, Accept};
use crate::{limits, lists};

/// What was found.
#[derive(Default)]
struct Found {
    entries: Vec<Value>,
    /// What a client says to get the next page.
    next: Option<String>,
    is_old: bool,
}

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
            Some(found) => found,
            None => self.by_tag(place, &asked.subject, turn).await?,
        };
        let wanted = asked.artifact_type.as_deref();
        let is_wanted = |entry: &&Value| wanted.is_none_or(|wanted| entry["artifactType"] == wanted);
        let entries: Vec<&Value> = found.entries.iter().filter(is_wanted).collect();
        let body = json!({
            "schemaVersion": 2,
            "mediaType": MediaType::OCI_INDEX.as_str(),
            "manifests": entries,
        });
        let mut reply = lists::referrers_reply(body.to_string(), asked, found.next.as_deref(), target);
        if found.is_old {
            warn(&mut reply);
        }
        Ok(Some(reply))
    }

    /// As many pages as fit in one of ours: many clients read the first and no other. `None`: the upstream has no such
    /// list, or what it gives is none.
    async fn by_api(
        self: &Arc<Self>,
        place: &Place,
        asked: &Referrers,
        turn: &mut Turn,
    ) -> Result<Option<Found>, Problem> {
        let site = self.site(place)?;
        if site.absence(place, Wanted::Referrers(asked.subject)).is_some() {
            return Ok(None);
        }
        let mut found = Found::default();
        let (mut page, mut bytes) = (asked.page.clone(), 0);
        for number in 0..limits::REFERRERS_PAGES {
            let Some((listing, entries, is_old)) = self.referrers_page(place, asked, &page, turn).await?
            else {
                if number > 0 {
                    // It said itself that there is more.
                    return Err(Problem::UpstreamMisbehaved {
                        why: "the upstream's list of referrers breaks off",
                    });
                }
                site.note_absence(place, Wanted::Referrers(asked.subject), Absent::Unknown);
                return Ok(None);
            };
            bytes += listing.body.len();
            if number > 0 && bytes > limits::REFERRERS_BYTES {
                break;
            }
            found.entries.extend(entries);
            found.is_old |= is_old;
            found.next = listing.next.as_deref().map(last_here);
            if found.next.is_none() {
                break;
            }
            page.last.clone_from(&found.next);
        }
        if found.is_old && found.entries.is_empty() {
            // What was not signed then may be signed now.
            return Err(Problem::UpstreamUnreachable { retry_after_s: limits::UPSTREAM_RETRY_AFTER_S });
        }
        Ok(Some(found))
    }

    /// One page of the upstream's, its descriptors, and whether it is of another time. `None`: it is no such list.
    async fn referrers_page(
        self: &Arc<Self>,
        place: &Place,
        asked: &Referrers,
        page: &Page,
        turn: &mut Turn,
    ) -> Result<Option<(Listing, Vec<Value>, bool)>, Problem> {
        // Types are looked at here: not every upstream filters, and so one page serves all who ask.
        let query = query_there(page)?;
        let seen = self.listing(place, upstream::Listing::Referrers(asked.subject), &query, turn).await?;
        let (listing, is_old) = match seen {
            Seen::Page(listing) => (listing, false),
            Seen::Old(listing) => (listing, true),
            Seen::Absent | Seen::Denied => return Ok(None),
            Seen::Away(problem) => return Err(problem),
        };
        let is_index = listing.media_type.as_ref().is_none_or(|one| *one == MediaType::OCI_INDEX);
        let entries = entries_of(&listing.body).filter(|_| is_index);
        Ok(entries.map(|entries| (listing, entries, is_old)))
    }

    /// From the index that clients keep under a tag where there is no API.
    async fn by_tag(
        self: &Arc<Self>,
        place: &Place,
        subject: &Digest,
        turn: &mut Turn,
    ) -> Result<Found, Problem> {
        let Ok(tag) = fallback_tag(subject) else { return Ok(Found::default()) };
        let Some(document) = self.manifest(place, Reference::Tag(tag), &Accept::default(), turn).await?
        else {
            return Ok(Found::default());
        };
        let entries = Some(&document.bytes).filter(|_| document.media_type == MediaType::OCI_INDEX);
        let entries = entries.and_then(entries_of).unwrap_or_default();
        Ok(Found { entries, next: None, is_old: document.came == Came::Stale })
    }
}

/// The descriptors of an index. `None`: it is none.
fn entries_of(index: &Bytes) -> Option<Vec<Value>> {
    let mut index: Value = serde_json::from_slice(index).ok()?;
    match index.get_mut("manifests")?.take() {
        Value::Array(entries) => Some(entries),
        _ => None,
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

    #[test]
    fn an_index_has_a_list_of_manifests() {
        let entries = |text: &str| entries_of(&Bytes::from(text.to_owned())).map(|entries| entries.len());
        assert_eq!(entries(r#"{"manifests":[{},{}]}"#), Some(2));
        assert_eq!(entries(r#"{"manifests":[]}"#), Some(0));
        for none in ["", "{}", "[]", r#"{"manifests":null}"#, "<html>"] {
            assert_eq!(entries(none), None, "{none}");
        }
    }
}
