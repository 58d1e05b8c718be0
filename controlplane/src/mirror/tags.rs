//! The tags of an upstream's repository (end-8): from the source alone, with its paging rewritten to us.
//!
//! Invariants: an upstream that is away is answered with what is known, and says so; where nothing is known it is an
//! outage, never an empty list.

use std::sync::Arc;

use control::Reply;
use oci::{Page, Problem, RepositoryName, Tag};
use serde_json::{Value, json};

use super::listings::{Seen, last_here, query_there, warn};
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
        let seen = self.listing(place, upstream::Listing::Tags, &query_there(&there)?, turn).await?;
        let (listed, is_old) = match seen {
            Seen::Page(listing) => (read(&listing, page)?, false),
            Seen::Old(listing) => (read(&listing, page)?, true),
            Seen::Absent | Seen::Denied => {
                site.note_absence(place, Wanted::Tags, Absent::Unknown);
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

/// The legal tags of a page. A list that is longer than it should be is of an upstream that knows no pages: then it is
/// sorted, and cut here.
fn read(listing: &Listing, page: &Page) -> Result<Names, Problem> {
    const NO_LIST: Problem = Problem::UpstreamMisbehaved { why: "the upstream's list of tags is none" };
    let body: Value = serde_json::from_slice(&listing.body).map_err(|_not_json| NO_LIST)?;
    let tags = match body.get("tags") {
        Some(Value::Array(tags)) => tags.as_slice(),
        // Some say so of a repository without tags.
        Some(Value::Null) => &[],
        Some(_) | None => return Err(NO_LIST),
    };
    let legal = tags.iter().filter_map(Value::as_str).filter(|tag| Tag::parse(tag).is_ok());
    let mut names: Vec<String> = legal.map(str::to_owned).collect();
    let limit = page.limit() as usize;
    if tags.len() <= limit.max(1) {
        names.truncate(limit);
        return Ok(Names { names, next: listing.next.as_deref().map(last_here) });
    }
    let after = page.last.as_deref().unwrap_or_default();
    names.retain(|name| name.as_str() > after);
    names.sort_unstable();
    names.dedup();
    let next = names.get(limit.saturating_sub(1)).filter(|_| names.len() > limit).cloned();
    names.truncate(limit);
    Ok(Names { names, next })
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
