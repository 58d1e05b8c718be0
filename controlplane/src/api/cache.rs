//! `/api/v1/cache`: what an operator sees of the cache of upstreams' blobs, and what is done about it.
//!
//! | path | method | what |
//! |---|---|---|
//! | `/api/v1/cache` | GET | numbers |
//! | `…/blobs?after=&n=` | GET | a page of what is here; `next` is where it goes on |
//! | `…/pins` | GET | all pins |
//! | `…/pins?pattern=` | PUT, DELETE | pin, unpin |
//! | `…/purge?digest=`, `…/purge?repository=` | POST | a blob goes, or all of the repositories that match |
//! | `…/warm` | POST, GET | fetch an image: `{"image": …, "platforms": […]}`; all jobs |
//! | `…/warm/{id}` | GET, DELETE | how far it is, which keeps it wanted; give it up |
//!
//! Invariants: every answer is JSON and bounded; an error is one of the registry's, with a sentence.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use axum::routing::{get, post};
use bytes::Bytes;
use http::StatusCode;
use oci::{Digest, Platform, Problem};
use serde_json::{Value, json};

use super::{JSON, problem, typed};
use crate::limits;
use crate::metadata::Metadata;
use crate::mirror::{Glob, Gone, Mirror, Stage, Warm};

/// What one or other of the paths takes.
const METHODS: &str = "GET, HEAD, POST, PUT, DELETE";

type Shared<M> = State<Arc<Mirror<M>>>;

/// The paths, below `/api/v1/cache`.
pub(super) fn routes<M: Metadata>(mirror: Arc<Mirror<M>>) -> Router {
    Router::new()
        .route("/", get(stat::<M>))
        .route("/blobs", get(blobs::<M>))
        .route("/pins", get(pins::<M>).put(pin::<M>).delete(unpin::<M>))
        .route("/purge", post(purge::<M>))
        .route("/warm", get(warmings::<M>).post(warm::<M>))
        .route("/warm/{id}", get(warming::<M>).delete(cancel::<M>))
        .method_not_allowed_fallback(async || problem(&Problem::MethodNotAllowed { allow: METHODS }))
        .with_state(mirror)
}

async fn stat<M: Metadata>(State(mirror): Shared<M>) -> Response {
    answer(mirror.stat().await, |stat| json!(stat))
}

async fn blobs<M: Metadata>(State(mirror): Shared<M>, RawQuery(query): RawQuery) -> Response {
    let number = |key: &str, default: u64| match value(query.as_deref(), key) {
        None => Ok(default),
        Some(text) => {
            text.parse().map_err(|_| Problem::RequestMalformed { why: "`after` and `n` are numbers" })
        }
    };
    let page = match (number("after", 0), number("n", u64::from(limits::CACHE_PAGE))) {
        (Ok(after), Ok(n)) => mirror.inventory(after, u32::try_from(n).unwrap_or(u32::MAX)).await,
        (Err(problem), _) | (_, Err(problem)) => Err(problem),
    };
    answer(page, |page| {
        let blob = |(entry, repositories): &(control::CacheEntry, Vec<String>)| {
            json!({
                "digest": entry.digest.to_string(),
                "size_bytes": entry.size_bytes,
                "state": if entry.is_filling { "filling" } else { "cached" },
                "pinned": entry.is_pinned,
                "uses": entry.uses,
                "came_unix": entry.came_unix,
                "repositories": repositories,
            })
        };
        json!({ "blobs": page.entries.iter().map(blob).collect::<Vec<_>>(), "next": page.next })
    })
}

async fn pins<M: Metadata>(State(mirror): Shared<M>) -> Response {
    let pin = |pin: &crate::mirror::Pin| json!({ "pattern": pin.pattern, "from": if pin.is_configured { "configuration" } else { "here" } });
    let pins: Vec<Value> = mirror.pin_list().iter().map(pin).collect();
    answer(Ok(pins), |pins| json!({ "pins": pins }))
}

async fn pin<M: Metadata>(State(mirror): Shared<M>, RawQuery(query): RawQuery) -> Response {
    let done = match pattern(query.as_deref(), "pattern") {
        Ok(pattern) => mirror.pin(pattern).await,
        Err(problem) => Err(problem),
    };
    answer(done, |found| json!({ "changed": found.is_some(), "blobs": found.unwrap_or(0) }))
}

async fn unpin<M: Metadata>(State(mirror): Shared<M>, RawQuery(query): RawQuery) -> Response {
    let done = match pattern(query.as_deref(), "pattern") {
        Ok(pattern) => mirror.unpin(&pattern).await,
        Err(problem) => Err(problem),
    };
    answer(done, |found| json!({ "changed": found.is_some(), "blobs": found.unwrap_or(0) }))
}

async fn purge<M: Metadata>(State(mirror): Shared<M>, RawQuery(query): RawQuery) -> Response {
    let query = query.as_deref();
    let gone = match (value(query, "digest"), value(query, "repository")) {
        (Some(digest), None) => match Digest::parse(digest) {
            Ok(digest) => mirror.purge_blob(digest).await,
            Err(error) => Err(Problem::DigestInvalid { why: error.why() }),
        },
        (None, Some(_)) => match pattern(query, "repository") {
            // It takes as long as there is to purge, and ends with the control plane.
            Ok(pattern) => mirror.within(mirror.purge_repositories(&pattern)).await,
            Err(problem) => Err(problem),
        },
        _ => Err(Problem::RequestMalformed { why: "either `digest` or `repository` says what goes" }),
    };
    answer(gone, |Gone { repositories, blobs }| {
        json!({
            "repositories": repositories, "blobs": blobs.blobs, "bytes": blobs.bytes, "filling": blobs.filling,
        })
    })
}

async fn warm<M: Metadata>(State(mirror): Shared<M>, body: Bytes) -> Response {
    let begun = match order(&body) {
        Ok((image, platforms)) => mirror.warm(&image, platforms).await,
        Err(problem) => Err(problem),
    };
    match begun {
        Ok(id) => typed(StatusCode::ACCEPTED, JSON, json!({ "id": id }).to_string()),
        Err(why) => problem(&why),
    }
}

/// The image and its platforms.
fn order(body: &Bytes) -> Result<(String, Vec<Platform>), Problem> {
    let malformed = |why| Problem::RequestMalformed { why };
    if body.len() > limits::API_BODY_BYTES {
        return Err(malformed("the request is too long"));
    }
    let said: Value = serde_json::from_slice(body).map_err(|_error| malformed("the body is not JSON"))?;
    let image = said["image"].as_str().ok_or(malformed("`image` says what is to be fetched"))?;
    let platforms = match &said["platforms"] {
        Value::Null => Vec::new(),
        Value::Array(platforms) => {
            let one = |text: &Value| text.as_str().and_then(Platform::parse);
            let all: Option<Vec<Platform>> = platforms.iter().map(one).collect();
            all.ok_or(malformed("a platform is written as in `linux/amd64` or `linux/arm/v7`"))?
        }
        _ => return Err(malformed("`platforms` is a list")),
    };
    Ok((image.to_owned(), platforms))
}

async fn warmings<M: Metadata>(State(mirror): Shared<M>) -> Response {
    answer(Ok(mirror.warmings()), |warms| json!({ "warming": warms.iter().map(told).collect::<Vec<_>>() }))
}

async fn warming<M: Metadata>(State(mirror): Shared<M>, Path(id): Path<String>) -> Response {
    let warm = id.parse().ok().and_then(|id| mirror.warming(id));
    answer(warm.ok_or(Problem::NotFound), |warm| told(&warm))
}

async fn cancel<M: Metadata>(State(mirror): Shared<M>, Path(id): Path<String>) -> Response {
    let is_known = id.parse().is_ok_and(|id| mirror.cancel_warming(id));
    let done = if is_known { Ok(()) } else { Err(Problem::NotFound) };
    answer(done, |()| json!({}))
}

fn told(warm: &Warm) -> Value {
    let progress = &warm.progress;
    let problem = |(what, why): &(String, String)| json!({ "what": what, "why": why });
    json!({
        "id": warm.id,
        "image": warm.image,
        "state": match warm.stage {
            Stage::Waiting => "waiting",
            Stage::Running => "running",
            Stage::Done(_) if progress.problems.is_empty() => "done",
            Stage::Done(_) => "failed",
            Stage::GivenUp(_) => "given up",
        },
        "manifests": progress.manifests,
        "blobs": { "done": progress.blobs_done, "fetched": progress.blobs_fetched, "total": progress.blobs },
        "bytes": { "done": progress.bytes_done, "total": progress.bytes },
        "problems": progress.problems.iter().map(problem).collect::<Vec<_>>(),
        "problems_more": progress.problems_more,
    })
}

/// The value of a key that is there once. What may stand there needs no escapes.
fn value<'q>(query: Option<&'q str>, key: &str) -> Option<&'q str> {
    let mut values =
        query?.split('&').filter_map(|pair| pair.split_once('=')).filter(|(other, _)| *other == key);
    let (_, value) = values.next()?;
    values.next().is_none().then_some(value)
}

fn pattern(query: Option<&str>, key: &str) -> Result<Glob, Problem> {
    let text = value(query, key).unwrap_or_default();
    Glob::parse(text).map_err(|_error| Problem::RequestMalformed {
        why: "a pattern is letters, digits, `.`, `_`, `-`, `/` and `*`, as in `docker.io/library/*`",
    })
}

fn answer<T>(done: Result<T, Problem>, json: impl FnOnce(T) -> Value) -> Response {
    match done {
        Ok(done) => typed(StatusCode::OK, JSON, json(done).to_string()),
        Err(why) => problem(&why),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_names_an_image_and_its_platforms_within_a_bound() {
        let of = |text: &str| order(&Bytes::from(text.to_owned())).map(|(image, all)| (image, all.len()));
        assert_eq!(of(r#"{"image":"a"}"#), Ok(("a".to_owned(), 0)));
        assert_eq!(
            of(r#"{"image":"a","platforms":["linux/amd64","linux/arm/v7"]}"#),
            Ok(("a".to_owned(), 2))
        );
        for wrong in ["", "[]", "{}", r#"{"image":1}"#, r#"{"image":"a","platforms":["linux"]}"#] {
            assert!(matches!(of(wrong), Err(Problem::RequestMalformed { .. })), "{wrong}");
        }
        let most = limits::API_BODY_BYTES - r#"{"image":""}"#.len();
        let sized = |length: usize| format!(r#"{{"image":"{}"}}"#, "a".repeat(length));
        assert!(of(&sized(most)).is_ok());
        assert!(of(&sized(most + 1)).is_err());
    }

    #[test]
    fn a_key_counts_if_it_is_there_once() {
        assert_eq!(value(Some("a=1&b=2"), "b"), Some("2"));
        assert_eq!(value(Some("b=1&b=2"), "b"), None);
        assert_eq!(value(Some("bb=1"), "b"), None);
        assert_eq!(value(None, "b"), None);
    }
}
