//! The tags of an upstream's repository (end-8): from the source alone, with its paging rewritten to us.
//!
//! Invariants: an upstream that is away is answered with what is known, and says so; where nothing is known it is an
//! outage, never an empty list.

use std::sync::Arc;

use control::Reply;
use oci::{Page, Problem, RepositoryName, Tag};
use serde::Deserialize;
use serde_json::{json, value::RawValue};

use super::listings::{Seen, is_opaque, last_here, warn};
use super::site::{Absent, Listing, Wanted};
use super::{Mirror, Place};
use crate::lists;
use crate::metadata::{self, Metadata};
use crate::turn::Turn;
use crate::upstream;

/// Part of a list, and what a client says to get the next one.
struct Names {
    names: Vec<String>,
    next: Option<String>,
}

impl<M: Metadata> Mirror<M> {
    /// end-8. `repository` is the name that was asked for, `target` the request's.
    ///
    /// Errors: `NameUnknown` (404), an outage (502, 503, 504).
    pub(crate) async fn tags(
        self: &Arc<Self>,
        place: &Place,
        repository: RepositoryName,
        page: &Page,
        target: &str,
        turn: &mut Turn,
    ) -> Result<Reply, Problem> {
        let site = self.site(place)?;
        let unknown = Problem::NameUnknown(repository);
        if !self.is_open(site, place).await? || site.absence(place, Wanted::Tags).is_some() {
            return Err(unknown);
        }
        // The page that a client gets is the one that is asked for there; of none we ask for one.
        let there = Page { n: Some(page.limit().max(1)), last: page.last.clone() };
        let seen = self.listing(place, upstream::Listing::Tags, &there, turn).await?;
        let (listed, is_old) = match seen {
            Seen::Page(listing) => (self.read_tags(listing, page).await?, false),
            Seen::Old(listing) => (self.read_tags(listing, page).await?, true),
            Seen::Absent | Seen::Denied => {
                // What is no for another page says nothing of the list: a client may have made it up.
                if page.last.is_none() {
                    site.note_absence(place, Wanted::Tags, Absent::Unknown);
                }
                return Err(unknown);
            }
            Seen::Away(problem) => (self.known_tags(place, page).await?.ok_or(problem)?, true),
        };
        let body = json!({ "name": repository.as_str(), "tags": listed.names });
        let next = listed.next.filter(|_| page.limit() > 0);
        let mut reply = lists::list(body, page, next.as_ref(), target);
        if is_old {
            warn(&mut reply);
        }
        Ok(reply)
    }

    async fn read_tags(&self, listing: Listing, page: &Page) -> Result<Names, Problem> {
        let page = page.clone();
        self.parse(move || read(&listing, &page)).await
    }

    /// Those that were asked for by somebody. `None`: nobody asked for any.
    async fn known_tags(&self, place: &Place, page: &Page) -> Result<Option<Names>, Problem> {
        let asked = metadata::Page { after: page.last.clone().unwrap_or_default(), limit: page.limit() };
        let known = self.metadata.mirrored_tags(place.repository, asked).await?;
        Ok(known.filter(|known| !known.names.is_empty()).map(|known| Names {
            next: known.names.last().filter(|_| known.more).cloned(),
            names: known.names,
        }))
    }
}

/// The legal tags of a page. One that is longer than it should be is of an upstream that does not count as we do: then it
/// is sorted, and cut here, and goes on where it ends. One that the upstream's own words ask for is given as it is, since
/// no name stands for them.
fn read(listing: &Listing, page: &Page) -> Result<Names, Problem> {
    const NO_LIST: Problem = Problem::UpstreamMisbehaved { why: "the upstream's list of tags is none" };
    #[derive(Deserialize)]
    struct Body<'a> {
        #[serde(borrow)]
        tags: &'a RawValue,
    }
    let body: Body = serde_json::from_slice(&listing.body).map_err(|_not_json| NO_LIST)?;
    // Some say `null` of a repository without tags.
    let tags: Option<Vec<&RawValue>> =
        serde_json::from_str(body.tags.get()).map_err(|_not_a_list| NO_LIST)?;
    let tags = tags.unwrap_or_default();
    // A legal tag is never escaped.
    let texts = tags.iter().filter_map(|tag| tag.get().strip_prefix('"')?.strip_suffix('"'));
    let mut names: Vec<&str> = texts.filter(|tag| Tag::parse(tag).is_ok()).collect();
    let limit = page.limit() as usize;
    // Whoever is told to go on where it is would never come to an end.
    let goes_on = listing.next.as_deref().map(last_here).filter(|next| page.last.as_ref() != Some(next));
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    if tags.len() <= limit.max(1) || page.last.as_deref().is_some_and(is_opaque) {
        let names = if limit > 0 { owned(&names) } else { Vec::new() };
        return Ok(Names { names, next: goes_on });
    }
    let after = page.last.as_deref().unwrap_or_default();
    names.retain(|name| *name > after);
    names.sort_unstable();
    names.dedup();
    let cut = limit.min(names.len());
    let last = names.get(cut.saturating_sub(1)).map(|name| (*name).to_owned());
    let next = if names.len() > limit { last } else { goes_on };
    Ok(Names { names: owned(&names[..cut]), next })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(body: &str, next: Option<&str>) -> Listing {
        Listing { body: body.to_owned().into(), media_type: None, next: next.map(str::to_owned), at: 0 }
    }

    #[test]
    fn a_page_is_passed_on_and_a_whole_list_is_cut() {
        fn check(
            body: &str,
            next: Option<&str>,
            n: Option<u32>,
            last: Option<&str>,
            names: &[&str],
            goes_on: Option<&str>,
        ) {
            let page = Page { n, last: last.map(str::to_owned) };
            let read = read(&listing(body, next), &page).unwrap();
            assert_eq!(
                (read.names.iter().map(String::as_str).collect::<Vec<_>>(), read.next.as_deref()),
                (names.to_vec(), goes_on)
            );
        }
        check(r#"{"tags":["b","a"]}"#, None, None, None, &["b", "a"], None);
        check(r#"{"tags":["b","a"]}"#, Some("n=2&last=a"), Some(2), None, &["b", "a"], Some("a"));
        check(r#"{"tags":null}"#, None, None, None, &[], None);
        check(r#"{"tags":[]}"#, None, Some(0), None, &[], None);
        check(r#"{"tags":["a"]}"#, Some("last=a"), Some(0), None, &[], Some("a"));
        check(r#"{"tags":["c","a","b","a"]}"#, None, Some(2), None, &["a", "b"], Some("b"));
        check(r#"{"tags":["c","a","b"]}"#, None, Some(2), Some("b"), &["c"], None);
        check(r#"{"tags":["c","a","b"]}"#, Some("last=c"), Some(2), None, &["a", "b"], Some("b"));
        check(r#"{"tags":["c","a","b"]}"#, Some("last=c"), Some(2), Some("b"), &["c"], Some("c"));
        check(
            r#"{"tags":["c","a","b"]}"#,
            Some("p=3"),
            Some(2),
            Some("?p=2"),
            &["c", "a", "b"],
            Some("?p=3"),
        );
        check(r#"{"tags":["c","a","b"]}"#, Some("p=3"), Some(0), Some("?p=2"), &[], Some("?p=3"));
        check(r#"{"tags":["ok","not ok",7,"../x"]}"#, None, None, None, &["ok"], None);
    }

    #[test]
    fn what_is_no_list_is_the_upstreams_fault() {
        for body in ["", "[]", "{}", r#"{"tags":7}"#, "<html>"] {
            let problem = read(&listing(body, None), &Page::default()).err().unwrap();
            assert_eq!(problem.wire().status, 502, "{body}");
        }
    }
}
