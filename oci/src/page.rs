//! One page of a list, and the `Link` to the next.
//!
//! Invariants: a link is path-absolute, never built from `Host`, keeps the request's path form and every query key
//! that is not about paging (`ns`, `artifactType`), and holds nothing that could leave its `<…>`.
//!
//! Spec: distribution-spec, end-8 and end-12; RFC 8288 §3.

use std::fmt::Write as _;

use crate::endpoint::Endpoint;
use crate::method::Method;
use crate::percent;
use crate::problem::Problem;

/// What `n` and `last` asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Page {
    /// At most this many entries, `0 <= n <= Page::LIMIT_MAX`. `None`: not asked.
    pub n: Option<u32>,
    /// Only entries after this one, in ASCII order; need not name anything.
    pub last: Option<String>,
}

impl Page {
    /// The most entries in one page, and how many there are when `n` is absent.
    pub const LIMIT_MAX: u32 = 1000;

    /// How many entries the page holds at most.
    pub fn limit(&self) -> u32 {
        self.n.unwrap_or(Page::LIMIT_MAX)
    }

    /// Errors: `PaginationNumberInvalid` (400) for anything but digits. Larger numbers are cut to the limit.
    pub(crate) fn parse_n(text: &str) -> Result<u32, Problem> {
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(Problem::PaginationNumberInvalid);
        }
        // Digits that do not fit are a large number.
        Ok(text.parse().unwrap_or(u32::MAX).min(Page::LIMIT_MAX))
    }

    /// The query that asks for this page, without its question mark.
    pub fn query(&self) -> String {
        let mut query = String::new();
        if let Some(n) = self.n {
            write!(query, "n={n}").expect("a String takes all");
        }
        if let Some(last) = &self.last {
            query.push_str(if query.is_empty() { "last=" } else { "&last=" });
            percent::encode_into(&mut query, last);
        }
        query
    }

    /// The page that another registry's query asks for. `None`: it can't be read, or has keys that are its own.
    pub fn of_query(query: &str) -> Option<Page> {
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        if !pairs.map(str::as_bytes).all(is_paging) {
            return None;
        }
        match Endpoint::parse(Method::Get, format!("/v2/_catalog?{query}").as_bytes()) {
            Ok(Endpoint::Catalog(page)) => Some(page),
            _ => None,
        }
    }

    /// The value of the `Link` header to the page after `last`. `target` is the raw target of this request.
    pub fn next_link(&self, target: &[u8], last: &str) -> String {
        let question = target.iter().position(|byte| *byte == b'?');
        let (path, query) = match question {
            Some(at) => (&target[..at], &target[at + 1..]),
            None => (target, &[][..]),
        };
        // Two slashes in front would be read as the name of a host.
        let leading = path.iter().take_while(|byte| **byte == b'/').count();
        let mut link = String::with_capacity(target.len() + last.len() + 32);
        link.push_str("</");
        percent::copy_into(&mut link, &path[leading..]);
        link.push('?');
        for pair in query.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty() && !is_paging(pair)) {
            percent::copy_into(&mut link, pair);
            link.push('&');
        }
        if let Some(n) = self.n {
            write!(link, "n={n}&").expect("a String takes all");
        }
        link.push_str("last=");
        percent::encode_into(&mut link, last);
        link.push_str(">; rel=\"next\"");
        link
    }
}

fn is_paging(pair: &[u8]) -> bool {
    let key = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
    percent::decode(key).is_ok_and(|key| matches!(key.as_ref(), b"n" | b"last"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn links_keep_what_is_not_about_paging() {
        fn check(n: Option<u32>, target: &str, last: &str, expect: &str) {
            let page = Page { n, last: None };
            assert_eq!(page.next_link(target.as_bytes(), last), format!("<{expect}>; rel=\"next\""));
        }
        check(None, "/v2/a/tags/list", "v1", "/v2/a/tags/list?last=v1");
        check(Some(5), "/v2/a/tags/list?n=5", "v1", "/v2/a/tags/list?n=5&last=v1");
        check(Some(5), "/v2/a/tags/list?last=v0&n=5", "v1", "/v2/a/tags/list?n=5&last=v1");
        check(Some(1000), "/v2/_catalog?n=99999", "a/b", "/v2/_catalog?n=1000&last=a%2Fb");
        check(None, "/v2/a/tags/list?ns=docker.io", "v1", "/v2/a/tags/list?ns=docker.io&last=v1");
        check(None, "/hub/v2/a/tags/list?", "v1", "/hub/v2/a/tags/list?last=v1");
        check(None, "/v2/a%2Fb/tags/list?%6e=3&l%61st=x", "v1", "/v2/a%2Fb/tags/list?last=v1");
        check(
            None,
            "/v2/a/referrers/sha256:00?artifactType=application/x%2Bjson&last=1",
            "2",
            "/v2/a/referrers/sha256:00?artifactType=application/x%2Bjson&last=2",
        );
    }

    #[test]
    fn a_link_never_leaves_this_host_or_its_brackets() {
        let page = Page::default();
        let link = page.next_link(b"//evil.example/v2/a/tags/list", "v1");
        assert_eq!(link, "</evil.example/v2/a/tags/list?last=v1>; rel=\"next\"");
        let link = page.next_link(b"/v2/a/tags/list?x=>;rel=\"evil\",<y>\r\n", "\"><\r\n");
        assert_eq!(
            link,
            "</v2/a/tags/list?x=%3E%3Brel=%22evil%22%2C%3Cy%3E%0D%0A&last=%22%3E%3C%0D%0A>; rel=\"next\""
        );
    }

    #[test]
    fn n_is_digits_and_cut_to_the_limit() {
        assert_eq!(Page::parse_n("0"), Ok(0));
        assert_eq!(Page::parse_n("007"), Ok(7));
        for more in [0, 1, u32::MAX - Page::LIMIT_MAX] {
            assert_eq!(Page::parse_n(&(Page::LIMIT_MAX + more).to_string()), Ok(Page::LIMIT_MAX));
        }
        assert_eq!(Page::parse_n("99999999999999999999999"), Ok(Page::LIMIT_MAX));
        for bad in ["", "-1", "+1", "abc", "1.0", "1 ", "0x1", "٣"] {
            assert_eq!(Page::parse_n(bad), Err(Problem::PaginationNumberInvalid), "{bad:?}");
        }
    }

    #[test]
    fn a_query_of_another_registry_is_read_if_it_is_about_paging_alone() {
        let page = |n, last: Option<&str>| Page { n, last: last.map(str::to_owned) };
        for (query, expect) in [
            ("n=2&last=v1", Some(page(Some(2), Some("v1")))),
            ("last=a%2Fb%26c", Some(page(None, Some("a/b&c")))),
            ("", Some(page(None, None))),
            ("n=2&last=v1&orderby=", None),
            ("next_page=gAAAA", None),
            ("last=v1&last=v2", None),
            ("n=x", None),
            ("last=%zz", None),
        ] {
            assert_eq!(Page::of_query(query), expect, "{query}");
        }
        assert_eq!(page(Some(2), Some("a b")).query(), "n=2&last=a%20b");
        assert_eq!(page(None, Some("v1")).query(), "last=v1");
        assert_eq!(page(None, None).query(), "");
    }

    proptest! {
        #[test]
        fn following_a_link_asks_for_the_next_page(
            n in proptest::option::of(0u32..2000),
            before in proptest::option::of("[a-z]{1,8}"),
            last in ".{0,40}",
            ns in proptest::option::of("[a-z.]{1,12}"),
        ) {
            prop_assume!(!last.is_empty());
            let mut target = "/v2/some/name/tags/list?".to_owned();
            if let Some(n) = n { write!(target, "n={n}&").unwrap(); }
            if let Some(before) = &before { write!(target, "last={before}&").unwrap(); }
            if let Some(ns) = &ns { write!(target, "ns={ns}").unwrap(); }
            let Ok(Endpoint::Tags { repository, page }) = Endpoint::parse(Method::Get, target.as_bytes()) else {
                panic!("{target}");
            };
            let link = page.next_link(target.as_bytes(), &last);
            let next = link.strip_prefix('<').unwrap().strip_suffix(">; rel=\"next\"").unwrap();
            prop_assert!(next.starts_with("/v2/some/name/tags/list?"));
            prop_assert_eq!(ns.is_some(), next.contains("ns="));
            let expect = Endpoint::Tags { repository, page: Page { n: page.n, last: Some(last) } };
            prop_assert_eq!(Endpoint::parse(Method::Get, next.as_bytes()), Ok(expect));
        }
    }
}
