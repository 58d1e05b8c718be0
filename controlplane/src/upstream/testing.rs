//! What tests see of the inside of the client: the parsers of what an upstream says. No part of the API.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::{
    body::{self, Span},
    budget,
    challenge::Challenge,
    tokens,
    url::Url,
};

/// What a `WWW-Authenticate` asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Name and password.
    Password,
    /// A token.
    Token {
        /// Where from.
        realm: String,
        /// Of which service.
        service: Option<String>,
        /// For what.
        scope: Option<String>,
    },
}

/// The values of one header; those that no header can have are left out.
fn headers(name: HeaderName, values: &[&[u8]]) -> HeaderMap {
    let legal = values.iter().filter_map(|value| HeaderValue::from_bytes(value).ok());
    let mut headers = HeaderMap::new();
    legal.for_each(|value| {
        headers.append(name.clone(), value);
    });
    headers
}

fn text(url: &Url) -> String {
    let scheme = if url.authority.https { "https" } else { "http" };
    format!("{scheme}://{}{}", url.authority, url.path_and_query)
}

/// `WWW-Authenticate`.
pub fn challenge(values: &[&[u8]]) -> Option<Wanted> {
    Some(match Challenge::of(&headers(header::WWW_AUTHENTICATE, values))? {
        Challenge::Basic => Wanted::Password,
        Challenge::Bearer(bearer) => {
            Wanted::Token { realm: text(&bearer.realm), service: bearer.service, scope: bearer.scope }
        }
    })
}

/// What a realm answers: the value of the `Authorization`, and for how long it is used.
pub fn token(document: &[u8]) -> Option<(Vec<u8>, Duration)> {
    let (authorization, time) = tokens::read_token(document).ok()?;
    Some((authorization.value().as_bytes().to_vec(), time))
}

/// `Content-Range` of a 206: first, last, length of the whole.
pub fn content_range(value: &[u8]) -> Option<(u64, u64, Option<u64>)> {
    let span = Span::of(&headers(header::CONTENT_RANGE, &[value]))?;
    Some((span.first, span.last, span.size_bytes))
}

/// `Content-Range` of a 416.
pub fn size_of_unsatisfied(value: &[u8]) -> Option<u64> {
    body::size_of_unsatisfied(&headers(header::CONTENT_RANGE, &[value]))
}

/// `ratelimit-limit`, `ratelimit-remaining`: a number, and its window in seconds.
pub fn rate_limit(value: &[u8]) -> (Option<u64>, Option<u64>) {
    const NAME: &str = "ratelimit-limit";
    budget::number(&headers(HeaderName::from_static(NAME), &[value]), NAME)
}

/// `Retry-After` beside a `Date`.
pub fn retry_after(value: &[u8], date: &[u8]) -> Option<Duration> {
    let mut both = headers(header::RETRY_AFTER, &[value]);
    both.extend(headers(header::DATE, &[date]));
    budget::retry_after(&both)
}

/// `Link`.
pub fn next_query(values: &[&[u8]]) -> Option<String> {
    super::next_query(&headers(header::LINK, values))
}

/// `Location`, found at `base`.
pub fn location(base: &str, value: &str) -> Option<String> {
    Url::parse(base)?.join(value).as_ref().map(text)
}
