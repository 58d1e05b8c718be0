//! Pages of an upstream's lists: remembered for a moment, and longer for when it is away.
//!
//! Invariants: a page is asked for once, however many want it. Where it goes on is the upstream's to say; a client gets
//! that as the `last` of a link to us. After the upstream's own *no* to the first page none of that list is given again;
//! its *no* to another one is about that page alone, since a client may have made it up.

use std::sync::Arc;

use control::Reply;
use oci::{Page, Problem};

use super::counts::Answered;
use super::site::{Listing, Site};
use super::{Mirror, Place};
use crate::limits;
use crate::metadata::Metadata;
use crate::turn::Turn;
use crate::upstream::{self, Failure, Offline};

/// What is known of a page.
pub(super) enum Seen {
    /// It is this.
    Page(Listing),
    /// It was this when the upstream could be asked.
    Old(Listing),
    /// The upstream has no such list.
    Absent,
    /// It lets nobody in there.
    Denied,
    /// Nothing, and the upstream can't be asked.
    Away(Problem),
}

/// What is said beside an answer that is not of now.
const WARNING: &str = "299 - \"gantry: the upstream could not be asked\"";

/// A `last` that names no page of the upstream's.
pub(super) const NO_PAGE: Problem =
    Problem::RequestMalformed { why: "last is nothing that a link of this registry says" };

/// Begins a `last` that is an upstream's own query; no tag and no digest has it.
const OPAQUE: char = '?';

impl<M: Metadata> Mirror<M> {
    /// What the upstream has for `page` of `list`. Errors: `Overloaded`, an answer that can't be right, or a page that
    /// can't be asked for.
    pub(super) async fn listing(
        self: &Arc<Self>,
        place: &Place,
        list: upstream::Listing,
        page: &Page,
        turn: &mut Turn,
    ) -> Result<Seen, Problem> {
        let site = self.site(place)?;
        let asked = Asked { query: query_there(page)?, list, is_first: page.last.is_none() };
        let key = asked.key();
        match self.known_page(site, place, &key) {
            Some(known) if self.clock.since(known.at) < limits::LIST_FRESH => {
                site.counts.list(Answered::Kept);
                return Ok(Seen::Page(known));
            }
            Some(known) if site.rules.offline == Offline::Always => return Ok(old(site, known)),
            _ => {}
        }
        if let Err(problem) = site.may_be_asked() {
            return Ok(Seen::Away(problem));
        }
        turn.wait_among(&site.waits)?;
        let flight = self
            .lists
            .join((place.repository, key.clone()), Box::pin(self.ask_page(site, place, &asked, &key)));
        match flight.await {
            Ok(Some(page)) => {
                site.counts.list(Answered::Upstream);
                Ok(Seen::Page(page))
            }
            Ok(None) => Ok(Seen::Absent),
            Err(Failure::Denied) => Ok(Seen::Denied),
            Err(failure) => match self.known_page(site, place, &key) {
                Some(known) if failure.is_outage() => Ok(old(site, known)),
                _ if failure.is_outage() => Ok(Seen::Away(site.failed(place, &failure))),
                _ => Err(site.failed(place, &failure)),
            },
        }
    }

    /// A page that was had, and is not too old for anything.
    fn known_page(&self, site: &Site, place: &Place, key: &str) -> Option<Listing> {
        site.list(place, key).filter(|known| self.clock.since(known.at) < limits::LIST_KEPT)
    }

    async fn ask_page(
        &self,
        site: &Site,
        place: &Place,
        asked: &Asked,
        key: &str,
    ) -> Result<Option<Listing>, Failure> {
        let query = Some(asked.query.as_str()).filter(|query| !query.is_empty());
        let page = match site.upstream.list(&place.there, &asked.list, query).await {
            Ok(Some(page)) => page,
            no @ (Ok(None) | Err(Failure::Denied)) => {
                site.forget_lists(place, |known| known == key || asked.is_first && asked.has(known));
                return no.map(|_none| None);
            }
            Err(failure) => return Err(failure),
        };
        let listing =
            Listing { body: page.bytes, media_type: page.media_type, next: page.next, at: self.clock.now() };
        site.note_list(place, key, listing.clone());
        Ok(Some(listing))
    }
}

/// One page of one list.
struct Asked {
    list: upstream::Listing,
    query: String,
    is_first: bool,
}

impl Asked {
    fn name(&self) -> String {
        match self.list {
            upstream::Listing::Tags => "tags".to_owned(),
            upstream::Listing::Referrers(subject) => subject.to_string(),
        }
    }

    /// What the page is remembered by.
    fn key(&self) -> String {
        format!("{}?{}", self.name(), self.query)
    }

    /// Whether this is the key of a page of the same list.
    fn has(&self, key: &str) -> bool {
        key.split_once('?').is_some_and(|(name, _)| name == self.name())
    }
}

fn old(site: &Site, known: Listing) -> Seen {
    site.counts.list(Answered::Stale);
    Seen::Old(known)
}

/// Says that the answer is not of now.
pub(super) fn warn(reply: &mut Reply) {
    reply.headers.push(("warning", WARNING.to_owned()));
}

/// The upstream's query for the page that a client asks us for.
///
/// Errors: `RequestMalformed` (400) for a `last` that pretends to be an upstream's query.
fn query_there(page: &Page) -> Result<String, Problem> {
    match page.last.as_deref().and_then(|last| last.strip_prefix(OPAQUE)) {
        None => Ok(page.query()),
        Some(query) if query.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#') => {
            Ok(query.to_owned())
        }
        Some(_) => Err(NO_PAGE),
    }
}

/// Whether this `last` is an upstream's own query.
pub(super) fn is_opaque(last: &str) -> bool {
    last.starts_with(OPAQUE)
}

/// The `last` by which a client asks us for the page that the upstream's `next` is a query for.
pub(super) fn last_here(next: &str) -> String {
    match Page::of_query(next).and_then(|page| page.last) {
        Some(last) if !last.starts_with(OPAQUE) => last,
        _ => format!("{OPAQUE}{next}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_an_upstream_goes_on_comes_back_as_it_was() {
        for (next, last, there) in [
            ("n=2&last=v1", "v1", "n=1000&last=v1"),
            ("last=v1&n=2", "v1", "n=1000&last=v1"),
            ("n=2&next_page=gAA%3D", "?n=2&next_page=gAA%3D", "n=2&next_page=gAA%3D"),
            ("last=%3Fx", "?last=%3Fx", "last=%3Fx"),
        ] {
            assert_eq!(last_here(next), last);
            let page = Page { n: Some(1000), last: Some(last.to_owned()) };
            assert_eq!(query_there(&page).as_deref(), Ok(there));
        }
        for bad in ["?a b", "?a#b", "?\r\nx", "?é"] {
            assert!(query_there(&Page { n: None, last: Some(bad.to_owned()) }).is_err(), "{bad:?}");
        }
    }
}
